/* policy_freeze.c - policies that the library keeps: made once from any number of sc_t, for many lives.  See sthread.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "local.h"

static struct handles frozen; /* of policies made by policy_new_from() */

const struct policy *policy_frozen(sc_frozen_t handle)
{
	const struct policy *policy = handle_get(&frozen, handle);
	if (!policy)
		dune_fail(EBADF, "no such frozen policy");
	return policy;
}

/* ---- the union of several -------------------------------------------------------------------------- */

static int by_tag(const void *one, const void *other)
{
	const struct policy_tag *a = one, *b = other;
	return (a->tag > b->tag) - (a->tag < b->tag);
}

static int by_gate(const void *one, const void *other)
{
	const cgate_t *a = one, *b = other;
	return (*a > *b) - (*a < *b);
}

/* Sorts, and makes several grants of a tag one with the rights of all. */
static uint32_t join_tags(struct policy_tag *list, uint32_t count)
{
	uint32_t kept = 0;
	qsort(list, count, sizeof *list, by_tag);
	for (uint32_t i = 0; i < count; i++)
		if (kept && list[kept - 1].tag == list[i].tag)
			list[kept - 1].prot = policy_join_rights(list[kept - 1].prot, list[i].prot);
		else
			list[kept++] = list[i];
	return kept;
}

static uint32_t join_gates(cgate_t *list, uint32_t count)
{
	uint32_t kept = 0;
	qsort(list, count, sizeof *list, by_gate);
	for (uint32_t i = 0; i < count; i++)
		if (!kept || list[kept - 1] != list[i])
			list[kept++] = list[i];
	return kept;
}

/* A number stands for one file. */
static int join_files(struct policy_file *list, uint32_t *count)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < *count; i++) {
		uint32_t at = 0;
		while (at < kept && list[at].number != list[i].number)
			at++;
		if (at == kept && kept == COMPARTMENT_FILES)
			return dune_fail(ENOSPC, "an sthread has at most %d descriptors", COMPARTMENT_FILES);
		if (at == kept)
			list[kept++] = list[i];
		else if (policy_same_file(&list[at], &list[i]))
			list[at].prot |= list[i].prot;
		else
			return dune_fail(EINVAL, "two parts grant different files as descriptor %d", list[i].number);
	}
	*count = kept;
	return 0;
}

static int add_lists(struct policy *to, const struct policy *part)
{
	memcpy(to->tag + to->tags, part->tag, part->tags * sizeof *part->tag);
	memcpy(to->file + to->files, part->file, part->files * sizeof *part->file);
	memcpy(to->path + to->paths, part->path, part->paths * sizeof *part->path);
	memcpy(to->gate + to->gates, part->gate, part->gates * sizeof *part->gate);
	to->tags += part->tags;
	to->files += part->files;
	to->paths += part->paths;
	to->gates += part->gates;
	for (uint32_t i = 0; i < part->conditions; i++)
		if (!policy_filter_add(to->condition, &to->conditions, POLICY_CONDITIONS_MAX, &part->condition[i]))
			return dune_fail(ENOSPC, "a policy has at most %d conditions on arguments",
					 POLICY_CONDITIONS_MAX);
	for (unsigned i = 0; i < POLICY_SYSTEM_CALLS / 64; i++)
		to->system_calls[i] |= part->system_calls[i];
	to->flags |= part->flags;
	policy_limits_lower(to, part);
	return 0;
}

/* Makes *whole, whose lists have room for those of all parts, the union.  Caller holds the lock. */
static int join(const sc_t *parts, size_t count, struct policy *whole)
{
	struct policy part;
	for (size_t i = 0; i < count; i++) {
		if (policy_view(&parts[i], &part) != 0)
			return -1;
		if (part.template && whole->template && part.template != whole->template)
			return dune_fail(EINVAL, "two parts start from different templates");
		whole->template = part.template ? part.template : whole->template;
		whole->account = whole->account ? whole->account : part.account;
		if (add_lists(whole, &part) != 0)
			return -1;
	}
	whole->tags = join_tags(whole->tag, whole->tags);
	whole->gates = join_gates(whole->gate, whole->gates);
	if (join_files(whole->file, &whole->files) != 0)
		return -1;
	if (whole->tags > POLICY_TAGS_MAX || whole->gates > POLICY_GATES_MAX || whole->paths > POLICY_PATHS_MAX)
		return dune_fail(ENOSPC, "a policy has at most %d tags, %d gates and %d directories", POLICY_TAGS_MAX,
				 POLICY_GATES_MAX, POLICY_PATHS_MAX);
	policy_limits_default(whole);
	return 0;
}

/* ---- the public interface -------------------------------------------------------------------------- */

sc_frozen_t sc_freeze(const sc_t *parts, size_t count)
{
	if (supervisor_enter() != 0)
		return -1;
	if (!parts || !count || count > POLICY_PARTS_MAX)
		return dune_fail(EINVAL, "sc_freeze() wants 1 to %d policies", POLICY_PARTS_MAX);
	struct policy whole = {
		.magic = POLICY_MAGIC,
		.tag = malloc(count * POLICY_TAGS * sizeof *whole.tag),
		.file = malloc(count * POLICY_FILES * sizeof *whole.file),
		.path = malloc(count * POLICY_PATHS * sizeof *whole.path),
		.gate = malloc(count * POLICY_GATES * sizeof *whole.gate),
		.condition = malloc(POLICY_CONDITIONS_MAX * sizeof *whole.condition),
	};
	const struct policy *policy = NULL;
	sc_frozen_t handle = -1;
	supervisor_lock();
	if (!whole.tag || !whole.file || !whole.path || !whole.gate || !whole.condition)
		dune_fail(ENOMEM, "out of memory");
	else if (join(parts, count, &whole) == 0)
		policy = policy_new_from(&whole, POLICY_KEPT);
	if (policy && (handle = handle_new(&frozen, (void *)policy)) < 0) {
		dune_fail(errno, "no room for another frozen policy: %s", strerror(errno));
		policy_put(policy);
	}
	supervisor_unlock();
	int error = errno;
	free(whole.tag);
	free(whole.file);
	free(whole.path);
	free(whole.gate);
	free(whole.condition);
	errno = error;
	return handle;
}

static bool is_of_policy(const struct local_kind *kind, const void *policy)
{
	return kind->policy == policy;
}

int sc_frozen_destroy(sc_frozen_t handle)
{
	if (supervisor_enter() != 0)
		return -1;
	supervisor_lock();
	const struct policy *policy = policy_frozen(handle);
	if (policy) {
		handle_end(&frozen, handle);
		policy_retire(policy);
		locals_give_up(is_of_policy, policy, 0);
		policy_put(policy);
	}
	supervisor_unlock();
	return policy ? 0 : -1;
}

int sc_frozen_is_subset(sc_frozen_t narrow, sc_frozen_t wide)
{
	if (supervisor_enter() != 0)
		return -1;
	supervisor_lock();
	const struct policy *child = policy_frozen(narrow);
	const struct policy *parent = child ? policy_frozen(wide) : NULL;
	int result = parent ? policy_check_subset(child, parent) : -1;
	supervisor_unlock();
	return result;
}
