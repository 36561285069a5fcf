/* policy_describe.c - a policy as text, one grant a line, in an order that does not depend on how it was made. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "call_names.h"
#include "supervisor.h"

/* Text as snprintf() makes it: what has no room is counted. */
struct text {
	char *buffer;
	size_t size, length;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
	va_list arguments;
	size_t used = text->length < text->size ? text->length : text->size;
	va_start(arguments, format);
	int more = vsnprintf(text->size ? text->buffer + used : NULL, text->size - used, format, arguments);
	va_end(arguments);
	text->length += more > 0 ? (size_t)more : 0;
}

/* A path on one line: control characters and backslashes as octal numbers. */
static void add_path(struct text *text, const char *path)
{
	for (; *path; path++)
		if ((unsigned char)*path < ' ' || *path == 127 || *path == '\\')
			add(text, "\\%03o", (unsigned char)*path);
		else
			add(text, "%c", *path);
}

static const char *rights(int prot)
{
	if (prot & SC_COPY_ON_WRITE)
		return "read, copy on write";
	return prot == PROT_READ ? "read" : prot == PROT_WRITE ? "write" : "read, write";
}

static void add_call(struct text *text, unsigned number)
{
	const char *name = call_name(number);
	if (name)
		add(text, "%s", name);
	else
		add(text, "number %u", number);
}

/* ---- lists ----------------------------------------------------------------------------------------- */

/* Lists of an sc_t are short and in the order of the calls: the lowest key above the last one is looked for each time.
 * Longer ones were sorted when they were made. */
static const struct policy_tag *next_tag(const struct policy *policy, uint32_t turn, int64_t last)
{
	const struct policy_tag *found = NULL;
	if (policy->tags > POLICY_TAGS)
		return &policy->tag[turn];
	for (uint32_t i = 0; i < policy->tags; i++)
		if (policy->tag[i].tag > last && (!found || policy->tag[i].tag < found->tag))
			found = &policy->tag[i];
	return found;
}

static cgate_t next_gate(const struct policy *policy, uint32_t turn, int64_t last)
{
	cgate_t found = INT_MAX;
	if (policy->gates > POLICY_GATES)
		return policy->gate[turn];
	for (uint32_t i = 0; i < policy->gates; i++)
		if (policy->gate[i] > last && policy->gate[i] < found)
			found = policy->gate[i];
	return found;
}

static const struct policy_file *next_file(const struct policy *policy, int64_t last)
{
	const struct policy_file *found = NULL;
	for (uint32_t i = 0; i < policy->files; i++)
		if (policy->file[i].number > last && (!found || policy->file[i].number < found->number))
			found = &policy->file[i];
	return found;
}

static int compare_conditions(const struct policy_condition *a, const struct policy_condition *b)
{
	const uint64_t keys[][2] = { { a->call, b->call },
				     { a->argument, b->argument },
				     { a->compare, b->compare },
				     { a->value, b->value },
				     { a->mask, b->mask } };
	for (unsigned i = 0; i < sizeof keys / sizeof *keys; i++)
		if (keys[i][0] != keys[i][1])
			return keys[i][0] < keys[i][1] ? -1 : 1;
	return 0;
}

static const struct policy_condition *next_condition(const struct policy *policy, const struct policy_condition *last)
{
	const struct policy_condition *found = NULL;
	for (uint32_t i = 0; i < policy->conditions; i++) {
		const struct policy_condition *condition = &policy->condition[i];
		if ((!last || compare_conditions(condition, last) > 0) &&
		    (!found || compare_conditions(condition, found) < 0))
			found = condition;
	}
	return found;
}

/* ---- parts ----------------------------------------------------------------------------------------- */

static void add_file(struct text *text, const char *kind, const struct policy_file *grant)
{
	char name[64], target[PATH_MAX];
	const struct open_file *file = policy_open_file(grant->file);
	add(text, "%s %d: %s: ", kind, grant->number, rights(grant->prot));
	snprintf(name, sizeof name, "/proc/self/fd/%d", file ? file->fd : -1);
	ssize_t length = file ? readlink(name, target, sizeof target - 1) : -1;
	if (file && file->path)
		add_path(text, file->path);
	else if (length > 0) {
		target[length] = 0;
		add_path(text, target);
	} else
		add(text, "%s", file ? "?" : "released");
	add(text, "\n");
}

static void add_condition(struct text *text, const struct policy_condition *condition)
{
	static const char *const signs[] = {
		[SC_EQUAL] = "==",         [SC_NOT_EQUAL] = "!=", [SC_LESS] = "<",
		[SC_LESS_OR_EQUAL] = "<=", [SC_GREATER] = ">",    [SC_GREATER_OR_EQUAL] = ">=",
	};
	add(text, "condition ");
	add_call(text, condition->call);
	if (condition->compare == POLICY_MASKED_EQUAL)
		add(text, ": argument %u & %#" PRIx64 " == %#" PRIx64 "\n", condition->argument, condition->mask,
		    condition->value);
	else
		add(text, ": argument %u %s %" PRIu64 "\n", condition->argument, signs[condition->compare],
		    condition->value);
}

static void add_limit(struct text *text, const struct policy *policy, const struct policy_limit *limit)
{
	uint64_t value = policy_limit_value(policy, limit);
	uint64_t none = limit->size == sizeof(uint32_t) ? POLICY_NO_LIMIT : POLICY_NO_LIMIT_WIDE;
	add(text, "%s: ", limit->name);
	if (value == none)
		add(text, "no limit\n");
	else
		add(text, "%" PRIu64 " %s%s\n", value, limit->unit, value == limit->fallback ? ", the default" : "");
}

/* The whole text.  Caller holds the lock. */
static void describe(struct text *text, const struct policy *policy)
{
	int64_t last = -1;
	for (uint32_t i = 0; i < policy->tags; i++) {
		const struct policy_tag *grant = next_tag(policy, i, last);
		last = grant->tag;
		add(text, "tag %d: %s\n", grant->tag, rights(grant->prot));
	}
	last = -1;
	for (uint32_t i = 0; i < policy->files; i++) {
		const struct policy_file *grant = next_file(policy, last);
		last = grant->number;
		add_file(text, "descriptor", grant);
	}
	for (uint32_t i = 0; i < policy->paths; i++) /* in the order in which they are searched */
		add_file(text, "directory", &policy->path[i]);
	for (unsigned i = 0; i < POLICY_SYSTEM_CALLS; i++)
		if (policy_allows_call(policy, i)) {
			add(text, "system call ");
			add_call(text, i);
			add(text, "\n");
		}
	const struct policy_condition *condition = NULL;
	for (uint32_t i = 0; i < policy->conditions; i++) {
		condition = next_condition(policy, condition);
		add_condition(text, condition);
	}
	last = -1;
	for (uint32_t i = 0; i < policy->gates; i++) {
		last = next_gate(policy, i, last);
		add(text, "gate %d\n", (int)last);
	}
	if (policy->flags & SC_KILL)
		add(text, "SC_KILL\n");
	if (policy->template)
		add(text, "template %d\n", policy->template - 1);
	for (unsigned i = 0; i < policy_limit_count; i++)
		add_limit(text, policy, &policy_limits[i]);
	if (policy->error)
		add(text, "failed: %s, %s\n", strerrorname_np(policy->error), strerrordesc_np(policy->error));
}

/* ---- the public interface -------------------------------------------------------------------------- */

static int finish(const struct text *text)
{
	return text->length <= INT_MAX ? (int)text->length : dune_fail(EOVERFLOW, "the text is too long");
}

int sc_describe(const sc_t *sc, char *buffer, size_t size)
{
	struct text text = { buffer, size, 0 };
	struct policy policy;
	if (supervisor_inside()) {
		errno = EPERM;
		return -1;
	}
	if (!buffer && size)
		return dune_fail(EINVAL, "no buffer for the text");
	if (policy_peek(sc, &policy) != 0)
		return -1;
	supervisor_lock();
	describe(&text, &policy);
	supervisor_unlock();
	return finish(&text);
}

int sc_frozen_describe(sc_frozen_t frozen, char *buffer, size_t size)
{
	struct text text = { buffer, size, 0 };
	if (supervisor_enter() != 0)
		return -1;
	if (!buffer && size)
		return dune_fail(EINVAL, "no buffer for the text");
	supervisor_lock();
	const struct policy *policy = policy_frozen(frozen);
	if (policy)
		describe(&text, policy);
	supervisor_unlock();
	return policy ? finish(&text) : -1;
}
