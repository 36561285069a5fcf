/* space_clone.c - copying and freeing whole address spaces.  See dune.h. */
#include "vm/space_parts.h"

#include <errno.h>

#include "kvm/machine.h"

/* A copy of a table and of all that is below it; NULL: no page is left.  What is shared stays shared. */
static ptent_t *copy(const ptent_t *from, unsigned level, uintptr_t va)
{
	struct page *made = space_page_new_zeroed();
	if (!made)
		return NULL;
	ptent_t *to = space_page_table(made);
	for (unsigned i = 0; i < NPTENTRIES; i++) {
		uintptr_t at = va + i * space_span(level);
		ptent_t entry = space_load(&from[i]);
		if (space_is_table(entry, level) && !space_is_shared(entry, level)) {
			const ptent_t *below = copy(space_table_at(entry), level - 1, at);
			if (!below) {
				space_table_free(to, to, level, va, false);
				return NULL;
			}
			entry = (uintptr_t)below | SPACE_LINK;
		}
		struct page *page = space_entry_page(entry, level, at);
		if (page && !space_page_hold(page))
			entry = DUNE_SPACE_REMOVED; /* given back with dune_page_free() while it was mapped */
		to[i] = entry;
	}
	return to;
}

ptent_t *dune_vm_clone(ptent_t *root)
{
	if (space_check_root(root) != 0)
		return NULL;
	dune_space_lock();
	ptent_t *made = copy(root, ROOT_LEVEL, 0);
	if (made)
		space_root_add(made);
	dune_space_unlock();
	if (!made)
		dune_fail(ENOMEM, "the page pool has no room for the tables of another address space (%d pages)",
			  num_pages);
	return made;
}

void dune_vm_free(ptent_t *root)
{
	if (!root || space_check_root(root) != 0)
		return;
	dune_space_lock();
	bool known = space_root_remove(root);
	if (known)
		space_table_free(root, root, ROOT_LEVEL, 0, true);
	dune_space_unlock();
	if (!known)
		dune_fail(EINVAL, "%p is not what dune_vm_clone() returned", (void *)root);
}
