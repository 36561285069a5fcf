/* space_walk.c - looking up entries, and visiting all of them.  See dune.h. */
#include "vm/space_parts.h"

#include <errno.h>

#include "kvm/machine.h"

static int check_address(const ptent_t *root, const void *va)
{
	if (space_check_root(root) != 0)
		return -1;
	if ((uintptr_t)va >= DUNE_USER_END)
		return dune_fail(EINVAL, "%p is not a user address", va);
	return 0;
}

ptent_t *space_find(ptent_t *root, uintptr_t va, unsigned lowest, bool create, unsigned *level, int *error)
{
	ptent_t *table = root;
	for (*level = ROOT_LEVEL;; --*level) {
		ptent_t *entry = &table[PDX(*level, va)], value = space_load(entry);
		if (*level == lowest)
			return entry;
		if (space_is_shared(value, *level)) {
			*error = EINVAL;
			return NULL;
		}
		if (space_is_page(value, *level) || space_is_held(value))
			return entry;
		if (space_is_table(value, *level)) {
			table = space_table_at(value);
			continue;
		}
		*error = create ? ENOMEM : ENOENT;
		if (!create || !(table = space_table_below(value, *level, va)))
			return NULL;
		space_store(entry, (uintptr_t)table | SPACE_LINK);
	}
}

int dune_vm_lookup(ptent_t *root, void *va, int create, ptent_t **entry)
{
	if (check_address(root, va) != 0)
		return -1;
	if (create < CREATE_NONE || create > CREATE_BIG_1GB)
		return dune_fail(EINVAL, "%d is no CREATE_*", create);
	unsigned level, lowest = create > CREATE_NORMAL ? (unsigned)create - CREATE_NORMAL : 0;
	int error = 0;
	dune_space_lock();
	ptent_t *found = space_find(root, (uintptr_t)va, lowest, create != CREATE_NONE, &level, &error);
	if (found && space_is_table(space_load(found), level)) {
		error = space_is_shared(space_load(found), level) ? EINVAL : EEXIST;
		found = NULL;
	}
	dune_space_unlock();
	*entry = found;
	if (found)
		return 0;
	switch (error) {
	case ENOENT:
		return dune_fail(ENOENT, "no table leads to %p: ask for CREATE_NORMAL, CREATE_BIG or CREATE_BIG_1GB",
				 va);
	case ENOMEM:
		return dune_fail(ENOMEM, "the page pool is used up (%d pages)", num_pages);
	case EEXIST:
		return dune_fail(EEXIST, "the large page at %p consists of smaller ones: dune_vm_unmap() it first", va);
	default:
		return dune_fail(EINVAL, "%p is one of libdune's own addresses", va);
	}
}

struct page *dune_vm_lookup_page(ptent_t *root, void *va)
{
	if (check_address(root, va) != 0)
		return NULL;
	unsigned level;
	int error;
	struct page *page = NULL;
	dune_space_lock();
	const ptent_t *entry = space_find(root, (uintptr_t)va, 0, false, &level, &error);
	ptent_t value = entry ? space_load(entry) : 0;
	if (value & PTE_P || space_is_held(value)) {
		uint64_t physical = space_address(value, level) + ((uintptr_t)va & (space_span(level) - 1));
		if (dune_page_isfrompool(physical))
			page = dune_pa2page(physical);
	}
	dune_space_unlock();
	if (!page)
		dune_fail(ENOENT, "no page of the pool is at %p", va);
	return page;
}

/* ---- visiting ------------------------------------------------------------------------------------------------------- */

enum {
	VISITS = 64
};

/* Entries to be visited when the lock is free. */
struct visits {
	size_t count;
	struct {
		ptent_t *entry;
		void *va;
	} of[VISITS];
};

/* Collects present entries in [at, end).  Returns where to go on. */
static uintptr_t collect(struct visits *visits, ptent_t *table, unsigned level, uintptr_t at, uintptr_t end)
{
	while (at < end && visits->count < VISITS) {
		uintptr_t next = (at | (space_span(level) - 1)) + 1;
		ptent_t *entry = &table[PDX(level, at)], value = space_load(entry);
		if (space_is_page(value, level)) {
			visits->of[visits->count].entry = entry;
			visits->of[visits->count++].va = (void *)(at & ~(space_span(level) - 1));
		} else if (space_is_table(value, level) && !space_is_shared(value, level)) {
			next = collect(visits, space_table_at(value), level - 1, at, next < end ? next : end);
		}
		at = next;
	}
	return at;
}

int dune_vm_page_walk(ptent_t *root, void *start_va, void *end_va, page_walk_cb callback, const void *argument)
{
	if (check_address(root, start_va) != 0)
		return -1;
	if (end_va == VA_END)
		end_va = (void *)(DUNE_USER_END - 1);
	if (check_address(root, end_va) != 0)
		return -1;
	uintptr_t at = (uintptr_t)start_va, end = (uintptr_t)end_va + 1;
	while (at < end) {
		struct visits visits;
		visits.count = 0;
		dune_space_lock();
		at = collect(&visits, root, ROOT_LEVEL, at, end);
		dune_space_unlock();
		for (size_t i = 0; i < visits.count; i++) {
			if (!(space_load(visits.of[i].entry) & PTE_P))
				continue;
			int result = callback(argument, visits.of[i].entry, visits.of[i].va);
			if (result != 0)
				return result;
		}
	}
	return 0;
}
