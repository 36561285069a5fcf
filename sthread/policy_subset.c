/* policy_subset.c - the rule that rights only shrink: whether one policy grants no more than another.  See policy.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "call_names.h"
#include "supervisor.h"

#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY 1027 /* Linux 6.10 */
#endif

enum {
	COMPARE_FILES = 0 /* KCMP_FILE */
};

/* Whatever else a grant says, a copy on write say, is done with what may be read. */
static int authority(int prot)
{
	return prot & (PROT_READ | PROT_WRITE);
}

static int lacks(const char *sentence, int number)
{
	char text[128];
	snprintf(text, sizeof text, sentence, number);
	return dune_fail(EPERM, "the wider policy %s", text);
}

/* ---- objects --------------------------------------------------------------------------------------- */

/* One open file, that is one position and one set of flags, behind two descriptors.  Where the kernel does not tell,
 * they count as different. */
static bool same_open_file(const struct open_file *one, const struct open_file *other)
{
	if (one == other)
		return true;
	int same = fcntl(one->fd, F_DUPFD_QUERY, other->fd);
	if (same >= 0)
		return same == 1;
	pid_t self = getpid();
	return syscall(SYS_kcmp, self, self, COMPARE_FILES, (unsigned long)one->fd, (unsigned long)other->fd) == 0;
}

/* One directory, reached through one mount: another mount of it may allow more. */
static bool same_directory(const struct open_file *one, const struct open_file *other)
{
	struct statx a, b;
	const unsigned wanted = STATX_INO | STATX_MNT_ID;
	if (one == other)
		return true;
	if (statx(one->fd, "", AT_EMPTY_PATH, wanted, &a) != 0 || statx(other->fd, "", AT_EMPTY_PATH, wanted, &b) != 0)
		return false;
	if ((a.stx_mask & b.stx_mask & wanted) != wanted)
		return same_open_file(one, other);
	return a.stx_ino == b.stx_ino && a.stx_dev_major == b.stx_dev_major && a.stx_dev_minor == b.stx_dev_minor &&
	       a.stx_mnt_id == b.stx_mnt_id;
}

bool policy_same_file(const struct policy_file *one, const struct policy_file *other)
{
	const struct open_file *a = policy_open_file(one->file), *b = policy_open_file(other->file);
	return a && b && same_open_file(a, b);
}

/* The rights that a list grants on an object, in however many grants; number >= 0: under that number only. */
static int rights_on(const struct policy_file *list, unsigned count, const struct open_file *object, int number,
		     bool (*same)(const struct open_file *, const struct open_file *))
{
	int rights = 0;
	for (unsigned i = 0; i < count; i++) {
		const struct open_file *file = policy_open_file(list[i].file);
		if (file && (number < 0 || list[i].number == number) && same(file, object))
			rights |= authority(list[i].prot);
	}
	return rights;
}

/* ---- the rule, right by right ---------------------------------------------------------------------- */

static int check_tags(const struct policy *child, const struct policy *parent)
{
	for (unsigned i = 0; i < child->tags; i++) {
		int rights = authority(policy_tag_rights(parent, child->tag[i].tag));
		if (!(rights & PROT_READ))
			return lacks("does not grant tag %d", child->tag[i].tag);
		if (authority(child->tag[i].prot) & ~rights)
			return lacks("does not grant writing to tag %d", child->tag[i].tag);
	}
	return 0;
}

static int check_files(const struct policy *child, const struct policy *parent)
{
	bool by_number = policy_filter_names_descriptors(child, parent);
	for (unsigned i = 0; i < child->files; i++) {
		const struct policy_file *grant = &child->file[i];
		const struct open_file *file = policy_open_file(grant->file);
		if (!file)
			return dune_fail(EPERM, "the narrower policy names a file that has been released");
		if (authority(grant->prot) &
		    ~rights_on(parent->file, parent->files, file, by_number ? grant->number : -1, same_open_file))
			return lacks("does not grant the open file of descriptor %d with these rights", grant->number);
	}
	for (unsigned i = 0; i < child->paths; i++) {
		const struct policy_file *grant = &child->path[i];
		const struct open_file *directory = policy_open_file(grant->file);
		if (!directory)
			return dune_fail(EPERM, "the narrower policy names a directory that has been released");
		if (authority(grant->prot) & ~rights_on(parent->path, parent->paths, directory, -1, same_directory))
			return lacks("does not grant the directory of descriptor %d with these rights", grant->number);
	}
	return 0;
}

static int check_calls(const struct policy *child, const struct policy *parent)
{
	for (int i = 0; i < POLICY_SYSTEM_CALLS; i++)
		if (policy_allows_call(child, i) && !policy_allows_call(parent, i))
			return lacks("does not grant system call %d", i);
	return 0;
}

static int check_filters(const struct policy *child, const struct policy *parent)
{
	const struct policy_condition *condition = policy_filter_lacks(child, parent);
	return condition ? dune_fail(EPERM,
				     "the wider policy has a condition on argument %d of %s that the narrower has not",
				     condition->argument, call_name(condition->call)) :
			   0;
}

static int check_gates(const struct policy *child, const struct policy *parent)
{
	for (unsigned i = 0; i < child->gates; i++)
		if (!policy_allows_gate(parent, child->gate[i]))
			return lacks("does not grant gate %d", child->gate[i]);
	return 0;
}

static int check_limits(const struct policy *child, const struct policy *parent)
{
	if (parent->flags & ~child->flags)
		return dune_fail(EPERM, "the wider policy has SC_KILL, the narrower one has not");
	if (child->template && child->template != parent->template)
		return dune_fail(EPERM, "the narrower policy starts from a template that the wider one does not");
	for (unsigned i = 0; i < policy_limit_count; i++) {
		const struct policy_limit *limit = &policy_limits[i];
		uint64_t wanted = policy_limit_value(child, limit), most = policy_limit_value(parent, limit);
		if (wanted > most)
			return dune_fail(EPERM,
					 "the wider policy has a %s of %" PRIu64 " %s, the narrower one %" PRIu64,
					 limit->name, most, limit->unit, wanted);
	}
	return 0;
}

int policy_check_subset(const struct policy *child, const struct policy *parent)
{
	static int (*const rules[])(const struct policy *, const struct policy *) = {
		check_tags, check_files, check_calls, check_filters, check_gates, check_limits,
	};
	for (unsigned i = 0; i < sizeof rules / sizeof *rules; i++)
		if (rules[i](child, parent) != 0)
			return -1;
	return 0;
}

/* ---- the public interface -------------------------------------------------------------------------- */

int sc_is_subset(const sc_t *narrow, const sc_t *wide)
{
	struct policy child, parent;
	if (supervisor_inside()) {
		errno = EPERM;
		return -1;
	}
	if (policy_read(narrow, &child) != 0 || policy_read(wide, &parent) != 0)
		return -1;
	supervisor_lock();
	int result = policy_check_subset(&child, &parent);
	supervisor_unlock();
	return result;
}

int sc_equal(const sc_t *one, const sc_t *other)
{
	return sc_is_subset(one, other) == 0 ? sc_is_subset(other, one) : -1;
}
