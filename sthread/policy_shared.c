/*
 * policy_shared.c - policies as compartments hold them: counted, never changed.  See policy.h.
 *
 * A policy for one life is a copy of an sc_t; the memory for it is kept for the next one, so that a life costs no
 * allocation.  Its lists are short and searched from the front.  A kept policy serves many lives and may be large: tags
 * and gates are found by an index made once.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "supervisor.h"

enum {
	SPARE_MAX = 64, /* objects for one life that are kept for the next */
	SPARE_BYTES = sizeof(struct policy_words)
};

/* Open addressing, at most half full; a slot holds the place in the list, plus 1. */
struct table {
	uint32_t mask;
	uint16_t *slots;
};
struct policy_index {
	struct table tags, gates;
	uint64_t filtered[POLICY_SYSTEM_CALLS / 64]; /* calls with conditions */
};

struct shared {
	struct policy policy;
	enum policy_use use;
	unsigned references;
	bool writes_files, retired;
	uint64_t shape;
	uint64_t gates_ended; /* when its gates were last looked up, this many had been ended in all */
	struct shared *next_spare;
	uint64_t lists[];
};

static struct shared *spare;
static unsigned spares;

static struct shared *shared_of(const struct policy *policy)
{
	return (struct shared *)policy;
}

/* ---- the index ------------------------------------------------------------------------------------- */

static uint32_t first_slot(const struct table *table, int handle)
{
	return ((uint32_t)handle * 0x9e3779b1u >> 8) & table->mask;
}

static int table_make(struct table *table, uint32_t count)
{
	uint32_t size = 16;
	while (size < 2 * count)
		size *= 2;
	table->mask = size - 1;
	table->slots = calloc(size, sizeof *table->slots);
	return table->slots ? 0 : -1;
}

static void table_add(struct table *table, int handle, uint32_t place)
{
	uint32_t at = first_slot(table, handle);
	while (table->slots[at])
		at = (at + 1) & table->mask;
	table->slots[at] = (uint16_t)(place + 1);
}

static void index_free(struct policy_index *index)
{
	if (!index)
		return;
	free(index->tags.slots);
	free(index->gates.slots);
	free(index);
}

static void set_bit(uint64_t *bits, unsigned number)
{
	bits[number / 64] |= (uint64_t)1 << number % 64;
}

static struct policy_index *index_make(const struct policy *policy)
{
	struct policy_index *index = calloc(1, sizeof *index);
	if (!index || table_make(&index->tags, policy->tags) != 0 || table_make(&index->gates, policy->gates) != 0) {
		index_free(index);
		return NULL;
	}
	for (uint32_t i = 0; i < policy->tags; i++)
		table_add(&index->tags, policy->tag[i].tag, i);
	for (uint32_t i = 0; i < policy->gates; i++)
		table_add(&index->gates, policy->gate[i], i);
	for (uint32_t i = 0; i < policy->conditions; i++)
		set_bit(index->filtered, policy->condition[i].call);
	return index;
}

/* ---- what a policy says ---------------------------------------------------------------------------- */

int policy_find_tag(const struct policy *policy, tag_t tag)
{
	if (!policy->index) {
		for (uint32_t i = 0; i < policy->tags; i++)
			if (policy->tag[i].tag == tag)
				return (int)i;
		return -1;
	}
	const struct table *table = &policy->index->tags;
	for (uint32_t at = first_slot(table, tag); table->slots[at]; at = (at + 1) & table->mask)
		if (policy->tag[table->slots[at] - 1].tag == tag)
			return table->slots[at] - 1;
	return -1;
}

int policy_tag_rights(const struct policy *policy, tag_t tag)
{
	int at = policy_find_tag(policy, tag);
	return at < 0 ? 0 : policy->tag[at].prot;
}

bool policy_allows_gate(const struct policy *policy, cgate_t gate)
{
	if (!policy->index) {
		for (uint32_t i = 0; i < policy->gates; i++)
			if (policy->gate[i] == gate)
				return true;
		return false;
	}
	const struct table *table = &policy->index->gates;
	for (uint32_t at = first_slot(table, gate); table->slots[at]; at = (at + 1) & table->mask)
		if (policy->gate[table->slots[at] - 1] == gate)
			return true;
	return false;
}

bool policy_allows_call(const struct policy *policy, long number)
{
	return number >= 0 && number < POLICY_SYSTEM_CALLS && policy->system_calls[number / 64] >> number % 64 & 1;
}

bool policy_filters_call(const struct policy *policy, long number)
{
	if (!policy->conditions || !policy->index)
		return policy->conditions;
	if (number == SYS_open)
		number = SYS_openat;
	return policy->index->filtered[number / 64] >> number % 64 & 1;
}

bool policy_gates_exist(const struct policy *policy)
{
	struct shared *shared = shared_of(policy);
	if (shared->gates_ended == supervisor.gates.ended)
		return true;
	for (uint32_t i = 0; i < policy->gates; i++)
		if (!supervisor_gate_exists(policy->gate[i]))
			return false;
	shared->gates_ended = supervisor.gates.ended;
	return true;
}

bool policy_writes_files(const struct policy *policy)
{
	return shared_of(policy)->writes_files;
}

bool policy_same_words(const struct policy *one, const struct policy *other)
{
	return memcmp(one, other, offsetof(struct policy, tag)) == 0 &&
	       (!one->tags || memcmp(one->tag, other->tag, one->tags * sizeof *one->tag) == 0) &&
	       (!one->files || memcmp(one->file, other->file, one->files * sizeof *one->file) == 0) &&
	       (!one->paths || memcmp(one->path, other->path, one->paths * sizeof *one->path) == 0) &&
	       (!one->gates || memcmp(one->gate, other->gate, one->gates * sizeof *one->gate) == 0) &&
	       (!one->conditions ||
		memcmp(one->condition, other->condition, one->conditions * sizeof *one->condition) == 0);
}

bool policy_is_kept(const struct policy *policy)
{
	return shared_of(policy)->use == POLICY_KEPT;
}

void policy_retire(const struct policy *policy)
{
	shared_of(policy)->retired = true;
}

bool policy_is_retired(const struct policy *policy)
{
	return shared_of(policy)->retired;
}

/* ---- shape ----------------------------------------------------------------------------------------- */

/* FNV-1a over the words that a shape consists of. */
static uint64_t shape_of(const struct policy *policy)
{
	uint64_t hash = 0xcbf29ce484222325;
	uint64_t prots = 0;
	for (uint32_t i = 0; i < policy->tags; i++)
		prots = (prots << 2 ^ prots >> 31) | (unsigned)policy->tag[i].prot;
	for (uint32_t i = 0; i < policy->files; i++)
		prots = (prots << 2 ^ prots >> 31) | (unsigned)policy->file[i].prot;
	const uint64_t parts[] = { policy->tags, policy->files, policy->paths, policy->gates, policy->flags, prots };
	for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++)
		hash = (hash ^ parts[i]) * 0x100000001b3;
	for (unsigned i = 0; i < POLICY_SYSTEM_CALLS / 64; i++)
		hash = (hash ^ policy->system_calls[i]) * 0x100000001b3;
	return hash;
}

uint64_t policy_shape(const struct policy *policy)
{
	return shared_of(policy)->shape;
}

/* ---- making and releasing -------------------------------------------------------------------------- */

static size_t list_bytes(const struct policy *policy)
{
	return policy->tags * sizeof *policy->tag + policy->files * sizeof *policy->file +
	       policy->paths * sizeof *policy->path + policy->gates * sizeof *policy->gate +
	       policy->conditions * sizeof *policy->condition;
}

/* Whether the lists take what a spare object has room for.  Those of an sthread that a gate made may be longer than an
 * sc_t's: it has the gate's conditions as well. */
static bool is_small(const struct policy *policy, enum policy_use use)
{
	return use == POLICY_FOR_ONE_LIFE && list_bytes(policy) <= SPARE_BYTES;
}

static struct shared *object_new(const struct policy *from, enum policy_use use)
{
	struct shared *shared = spare;
	if (!is_small(from, use))
		return malloc(sizeof *shared + list_bytes(from));
	if (!shared)
		return malloc(sizeof *shared + SPARE_BYTES);
	spare = shared->next_spare;
	spares--;
	return shared;
}

static void object_free(struct shared *shared)
{
	if (!is_small(&shared->policy, shared->use) || spares == SPARE_MAX) {
		index_free((struct policy_index *)shared->policy.index);
		free(shared);
		return;
	}
	shared->next_spare = spare;
	spare = shared;
	spares++;
}

static void *place(char **at, const void *from, size_t size)
{
	void *here = *at;
	if (size) /* an empty list may be NULL */
		memcpy(here, from, size);
	*at += size;
	return here;
}

/* Takes references to the files of a list; on failure none is held. */
static int get_files(const struct policy_file *list, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct open_file *file = policy_open_file(list[i].file);
		if (!file) {
			while (i--)
				open_file_put(policy_open_file(list[i].file));
			return dune_fail(EBADF, "the policy names a file that sc_destroy() has released");
		}
		open_file_get(file);
	}
	return 0;
}

static void put_files(const struct policy_file *list, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		open_file_put(policy_open_file(list[i].file));
}

/* What a policy names by number keeps its number, even when it is gone: a grant binds the object. */
static int hold_names(const struct policy *policy)
{
	uint32_t tags = 0, gates = 0;
	while (tags < policy->tags && handle_hold(&supervisor.tags, policy->tag[tags].tag))
		tags++;
	while (gates < policy->gates && handle_hold(&supervisor.gates, policy->gate[gates]))
		gates++;
	if (tags == policy->tags && gates == policy->gates &&
	    (!policy->template || handle_hold(&supervisor.templates, policy->template - 1)))
		return 0;
	while (tags--)
		handle_drop(&supervisor.tags, policy->tag[tags].tag);
	while (gates--)
		handle_drop(&supervisor.gates, policy->gate[gates]);
	return dune_fail(EBADF, "the policy names a tag, a gate or a template that never was");
}

static void drop_names(const struct policy *policy)
{
	for (uint32_t i = 0; i < policy->tags; i++)
		handle_drop(&supervisor.tags, policy->tag[i].tag);
	for (uint32_t i = 0; i < policy->gates; i++)
		handle_drop(&supervisor.gates, policy->gate[i]);
	if (policy->template)
		handle_drop(&supervisor.templates, policy->template - 1);
}

/* A life opens the files of a policy made for it, and closes them when it wants. */
static uint32_t files_kept(const struct shared *shared)
{
	return shared->use == POLICY_KEPT ? shared->policy.files : 0;
}

const struct policy *policy_new_from(const struct policy *from, enum policy_use use)
{
	struct shared *shared = object_new(from, use);
	if (!shared) {
		dune_fail(ENOMEM, "out of memory");
		return NULL;
	}
	*shared = (struct shared){ .policy = *from, .use = use, .references = 1 };
	struct policy *policy = &shared->policy;
	char *at = (char *)shared->lists;
	policy->condition = place(&at, from->condition, from->conditions * sizeof *from->condition);
	policy->tag = place(&at, from->tag, from->tags * sizeof *from->tag);
	policy->file = place(&at, from->file, from->files * sizeof *from->file);
	policy->path = place(&at, from->path, from->paths * sizeof *from->path);
	policy->gate = place(&at, from->gate, from->gates * sizeof *from->gate);
	policy->index = NULL;
	if (use == POLICY_KEPT && !(policy->index = index_make(policy))) {
		object_free(shared);
		dune_fail(ENOMEM, "out of memory");
		return NULL;
	}
	if (get_files(policy->path, policy->paths) != 0) {
		object_free(shared);
		return NULL;
	}
	if (get_files(policy->file, files_kept(shared)) != 0) {
		put_files(policy->path, policy->paths);
		object_free(shared);
		return NULL;
	}
	if (hold_names(policy) != 0) {
		put_files(policy->path, policy->paths);
		put_files(policy->file, files_kept(shared));
		object_free(shared);
		return NULL;
	}
	for (uint32_t i = 0; i < policy->files; i++)
		shared->writes_files = shared->writes_files || policy->file[i].prot & PROT_WRITE;
	shared->shape = shape_of(policy);
	shared->gates_ended = UINT64_MAX; /* not looked up yet */
	return policy;
}

const struct policy *policy_new(const sc_t *sc, enum policy_use use)
{
	struct policy view;
	return policy_read(sc, &view) == 0 ? policy_new_from(&view, use) : NULL;
}

const struct policy *policy_get(const struct policy *policy)
{
	shared_of(policy)->references++;
	return policy;
}

void policy_put(const struct policy *policy)
{
	struct shared *shared = shared_of(policy);
	if (--shared->references)
		return;
	put_files(policy->path, policy->paths);
	put_files(policy->file, files_kept(shared));
	drop_names(policy);
	object_free(shared);
}
