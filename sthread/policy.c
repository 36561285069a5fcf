/* policy.c - see policy.h and sthread.h */
#define _GNU_SOURCE
#include "policy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervisor.h"
#include "syscalls/families.h"

static struct policy_words *words(sc_t *sc)
{
	return (struct policy_words *)(void *)sc->opaque;
}

static bool is_policy(const struct policy *head)
{
	return head->magic == POLICY_MAGIC && head->tags <= POLICY_TAGS && head->files <= POLICY_FILES &&
	       head->paths <= POLICY_PATHS && head->gates <= POLICY_GATES && head->conditions <= POLICY_CONDITIONS;
}

/* Remembers the first failure of a policy. */
static int refuse(struct policy *policy, int error, const char *sentence)
{
	if (!policy->error)
		policy->error = error;
	return dune_fail(error, "%s", sentence);
}

/* Entry check of every sc_*_add. */
static struct policy *editable(sc_t *sc)
{
	if (supervisor_inside() && !supervisor_inside_gate()) {
		errno = EPERM;
		return NULL;
	}
	if (!sc || !is_policy(&words(sc)->head)) {
		dune_fail(EINVAL, "not a policy: call sc_init() first");
		return NULL;
	}
	return &words(sc)->head;
}

void sc_init(sc_t *sc)
{
	if (!sc)
		return;
	memset(sc, 0, sizeof *sc);
	words(sc)->head.magic = POLICY_MAGIC;
}

/* ---- open files ------------------------------------------------------------------------------------ */

static struct handles files;

struct open_file *open_file_new(int fd)
{
	struct stat status;
	struct open_file *file = calloc(1, sizeof *file);
	if (!file || fstat(fd, &status) != 0 || (file->handle = handle_new(&files, file)) < 0) {
		free(file);
		return NULL;
	}
	file->fd = fd;
	file->mode = status.st_mode;
	file->references = 1;
	return file;
}

void open_file_get(struct open_file *file)
{
	__atomic_fetch_add(&file->references, 1, __ATOMIC_RELAXED);
}

void open_file_put(struct open_file *file)
{
	if (__atomic_sub_fetch(&file->references, 1, __ATOMIC_ACQ_REL))
		return;
	handle_end(&files, file->handle);
	supervisor.files_open -= file->opened_inside;
	close(file->fd);
	free(file->path);
	free(file);
}

/* Duplicates fd into a new open file. */
static struct open_file *duplicate(int fd)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (own < 0)
		return NULL;
	struct open_file *file = open_file_new(own);
	if (!file)
		close(own);
	return file;
}

struct open_file *policy_open_file(int handle)
{
	return handle_get(&files, handle);
}

static void visit(const struct policy_file *list, unsigned count, void (*action)(struct open_file *))
{
	for (unsigned i = 0; i < count; i++) {
		struct open_file *file = policy_open_file(list[i].file);
		if (file)
			action(file);
	}
}

static void visit_files(sc_t *sc, void (*action)(struct open_file *))
{
	const struct policy_words *policy = words(sc);
	visit(policy->file, policy->head.files, action);
	visit(policy->path, policy->head.paths, action);
}

void sc_destroy(sc_t *sc)
{
	if (!editable(sc))
		return;
	if (!supervisor_inside()) {
		supervisor_lock();
		visit_files(sc, open_file_put);
		supervisor_unlock();
	}
	sc_init(sc);
}

int sc_copy(sc_t *to, const sc_t *from)
{
	if (!editable((sc_t *)from))
		return -1;
	if (!to || to == from)
		return dune_fail(EINVAL, "sc_copy() wants two policies");
	memcpy(to, from, sizeof *to);
	if (!supervisor_inside()) {
		supervisor_lock();
		visit_files(to, open_file_get);
		supervisor_unlock();
	}
	return 0;
}

/* A gate cannot see what there is: it notes numbers and rights, which the supervisor resolves when the policy is used
 * (callgate/nested_policy.c). */
static bool exists(bool (*known)(int), int handle)
{
	if (supervisor_inside())
		return true;
	supervisor_lock();
	bool exists = known(handle);
	supervisor_unlock();
	return exists;
}

/* ---- grants ---------------------------------------------------------------------------------------- */

static bool rights_valid(int prot)
{
	return prot && !(prot & ~(PROT_READ | PROT_WRITE));
}

int sc_mem_add(sc_t *sc, tag_t tag, int prot)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	if (prot != PROT_READ && prot != (PROT_READ | PROT_WRITE) && prot != (PROT_READ | SC_COPY_ON_WRITE))
		return refuse(policy, EINVAL,
			      "a tag is granted with PROT_READ, PROT_READ|PROT_WRITE or PROT_READ|SC_COPY_ON_WRITE");
	if (!exists(supervisor_tag_exists, tag))
		return refuse(policy, EBADF, "no such tag");
	struct policy_tag *list = words(sc)->tag;
	for (unsigned i = 0; i < policy->tags; i++)
		if (list[i].tag == tag) {
			list[i].prot = policy_join_rights(list[i].prot, prot);
			return 0;
		}
	if (policy->tags == POLICY_TAGS)
		return refuse(policy, ENOSPC, "the policy holds no more tags");
	list[policy->tags++] = (struct policy_tag){ .tag = tag, .prot = prot };
	return 0;
}

static int note_file(struct policy *policy, struct policy_file *list, unsigned *count, unsigned room, int fd, int prot)
{
	if (fd < 0)
		return refuse(policy, EBADF, "no such descriptor");
	if (*count == room)
		return refuse(policy, ENOSPC, "the policy holds no more files");
	list[(*count)++] = (struct policy_file){ .number = fd, .file = -1, .prot = prot };
	return 0;
}

static int add_file(struct policy *policy, struct policy_file *list, unsigned *count, unsigned room, int fd, int prot,
		    bool path)
{
	struct stat status;
	if (!rights_valid(prot))
		return refuse(policy, EINVAL, "a file is granted with PROT_READ, PROT_WRITE or both");
	if (supervisor_inside())
		return note_file(policy, list, count, room, fd, prot);
	if (fd < 0 || fstat(fd, &status) != 0)
		return refuse(policy, EBADF, "no such descriptor");
	if (path && !S_ISDIR(status.st_mode))
		return refuse(policy, ENOTDIR, "sc_path_add() wants a directory");
	if (*count == room)
		return refuse(policy, ENOSPC, "the policy holds no more files");
	supervisor_lock();
	struct open_file *file = duplicate(fd);
	if (file && path) {
		char name[64], target[4096];
		snprintf(name, sizeof name, "/proc/self/fd/%d", file->fd);
		ssize_t length = readlink(name, target, sizeof target - 1);
		if (length > 0 && target[0] == '/') {
			target[length] = 0;
			file->path = strdup(target);
		}
	}
	supervisor_unlock();
	if (!file)
		return refuse(policy, errno, "cannot duplicate the descriptor");
	list[(*count)++] = (struct policy_file){ .number = fd, .file = file->handle, .prot = prot };
	return 0;
}

int sc_fd_add(sc_t *sc, int fd, int prot)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	for (unsigned i = 0; i < policy->files; i++)
		if (words(sc)->file[i].number == fd)
			return refuse(policy, EINVAL, "the policy grants this descriptor already");
	return add_file(policy, words(sc)->file, &policy->files, POLICY_FILES, fd, prot, false);
}

int sc_path_add(sc_t *sc, int dirfd, int prot)
{
	struct policy *policy = editable(sc);
	return policy ? add_file(policy, words(sc)->path, &policy->paths, POLICY_PATHS, dirfd, prot, true) : -1;
}

static void allow(struct policy *policy, int number)
{
	policy->system_calls[number / 64] |= (uint64_t)1 << number % 64;
}

int sc_sys_add(sc_t *sc, int sysno)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	if (sysno < 0 || sysno >= POLICY_SYSTEM_CALLS)
		return refuse(policy, EINVAL, "not a system call number");
	allow(policy, sysno);
	for (const int *other = system_call_family(sysno); other && *other >= 0; other++)
		allow(policy, *other);
	return 0;
}

static int add_condition(sc_t *sc, int sysno, unsigned argument, int compare, uint64_t value, uint64_t mask)
{
	struct policy *policy = editable(sc);
	struct policy_condition condition;
	if (!policy)
		return -1;
	if (policy_condition_make(&condition, sysno, argument, compare, value, mask) != 0) {
		if (!policy->error)
			policy->error = EINVAL;
		return -1;
	}
	return policy_filter_add(words(sc)->condition, &policy->conditions, POLICY_CONDITIONS, &condition) ?
		       0 :
		       refuse(policy, ENOSPC, "the policy holds no more conditions on arguments");
}

int sc_sys_filter(sc_t *sc, int sysno, unsigned argument, enum sc_compare compare, uint64_t value)
{
	int known = (int)compare <= (int)SC_GREATER_OR_EQUAL ? (int)compare : -1;
	return add_condition(sc, sysno, argument, known, value, 0);
}

int sc_sys_filter_masked(sc_t *sc, int sysno, unsigned argument, uint64_t mask, uint64_t value)
{
	return add_condition(sc, sysno, argument, POLICY_MASKED_EQUAL, value, mask);
}

int sc_cgate_add(sc_t *sc, cgate_t gate)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	if (!exists(supervisor_gate_exists, gate))
		return refuse(policy, EBADF, "no such gate");
	cgate_t *list = words(sc)->gate;
	for (unsigned i = 0; i < policy->gates; i++)
		if (list[i] == gate)
			return 0;
	if (policy->gates == POLICY_GATES)
		return refuse(policy, ENOSPC, "the policy holds no more gates");
	list[policy->gates++] = gate;
	return 0;
}

int sc_start_from(sc_t *sc, sc_template_t handle)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	if (supervisor_inside()) { /* sthreads of gates start from the snapshot */
		errno = EPERM;
		return -1;
	}
	supervisor_lock();
	bool exists = handle_get(&supervisor.templates, handle) != NULL;
	supervisor_unlock();
	if (!exists)
		return refuse(policy, EBADF, "no such template");
	if (policy->template && policy->template != handle + 1)
		return refuse(policy, EINVAL, "the policy starts from another template already");
	policy->template = handle + 1;
	return 0;
}

int sc_flags_add(sc_t *sc, unsigned flags)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	if (flags & ~(unsigned)SC_KILL)
		return refuse(policy, EINVAL, "unknown flag of a policy");
	policy->flags |= flags;
	return 0;
}

int sc_cpu_budget(sc_t *sc, unsigned milliseconds)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	policy->cpu_milliseconds = milliseconds;
	return 0;
}

int sc_wall_budget(sc_t *sc, unsigned milliseconds)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	policy->wall_milliseconds = milliseconds;
	return 0;
}

int sc_call_budget(sc_t *sc, uint64_t calls)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	policy->calls = calls;
	return 0;
}

int sc_descriptor_limit(sc_t *sc, unsigned count)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	policy->descriptors = count;
	return 0;
}

int sc_memory_quota(sc_t *sc, size_t bytes)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	policy->memory = bytes;
	return 0;
}

/* ---- limits ---------------------------------------------------------------------------------------- */

#define LIMIT(field) offsetof(struct policy, field), sizeof((struct policy *)0)->field
const struct policy_limit policy_limits[] = {
	{ "processor time", "ms", LIMIT(cpu_milliseconds), POLICY_CPU_MILLISECONDS },
	{ "wall time", "ms", LIMIT(wall_milliseconds), POLICY_NO_LIMIT },
	{ "call budget", "calls", LIMIT(calls), POLICY_NO_LIMIT_WIDE },
	{ "descriptor limit", "descriptors", LIMIT(descriptors), POLICY_DESCRIPTORS },
	{ "memory quota", "bytes", LIMIT(memory), POLICY_MEMORY },
};
const unsigned policy_limit_count = sizeof policy_limits / sizeof *policy_limits;

/* 0: not set. */
static uint64_t limit_as_set(const struct policy *policy, const struct policy_limit *limit)
{
	uint32_t narrow = 0;
	uint64_t wide = 0;
	const char *field = (const char *)policy + limit->offset;
	if (limit->size == sizeof narrow)
		memcpy(&narrow, field, sizeof narrow);
	else
		memcpy(&wide, field, sizeof wide);
	return narrow ? narrow : wide;
}

uint64_t policy_limit_value(const struct policy *policy, const struct policy_limit *limit)
{
	uint64_t value = limit_as_set(policy, limit);
	return value ? value : limit->fallback;
}

static void set_limit(struct policy *policy, const struct policy_limit *limit, uint64_t value)
{
	uint32_t narrow = (uint32_t)value;
	char *field = (char *)policy + limit->offset;
	if (limit->size == sizeof narrow)
		memcpy(field, &narrow, sizeof narrow);
	else
		memcpy(field, &value, sizeof value);
}

void policy_limits_default(struct policy *policy)
{
	for (unsigned i = 0; i < policy_limit_count; i++)
		set_limit(policy, &policy_limits[i], policy_limit_value(policy, &policy_limits[i]));
}

void policy_limits_lower(struct policy *policy, const struct policy *by)
{
	for (unsigned i = 0; i < policy_limit_count; i++) {
		uint64_t have = limit_as_set(policy, &policy_limits[i]), other = limit_as_set(by, &policy_limits[i]);
		if (other && (!have || other < have))
			set_limit(policy, &policy_limits[i], other);
	}
}

/* ---- reading --------------------------------------------------------------------------------------- */

int policy_peek(const sc_t *sc, struct policy *policy)
{
	if (!sc)
		return dune_fail(EINVAL, "no policy given");
	struct policy_words *from = words((sc_t *)sc);
	if (!is_policy(&from->head))
		return dune_fail(EINVAL, "not a policy: call sc_init() first");
	*policy = from->head;
	policy->tag = from->tag;
	policy->file = from->file;
	policy->path = from->path;
	policy->gate = from->gate;
	policy->condition = from->condition;
	policy->index = NULL;
	return 0;
}

int policy_view(const sc_t *sc, struct policy *policy)
{
	if (policy_peek(sc, policy) != 0)
		return -1;
	return policy->error ? dune_fail(policy->error, "a grant of this policy failed: %s", strerror(policy->error)) :
			       0;
}

int policy_read(const sc_t *sc, struct policy *policy)
{
	if (policy_view(sc, policy) != 0)
		return -1;
	policy_limits_default(policy);
	return 0;
}
