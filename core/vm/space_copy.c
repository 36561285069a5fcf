/* space_copy.c - copying a page when it is written to; see space.h. */
#include "vm/space_parts.h"

#include <string.h>

/* Bits that processors set at any time. */
#define SPACE_SET_BY_PROCESSORS (PTE_A | PTE_D)

/* What is at va: the entry's value and level, and whether it is to be copied when written to.  With the lock. */
static bool find_shared_page(ptent_t *root, uintptr_t va, ptent_t *value, unsigned *level)
{
	int error;
	const ptent_t *entry = space_find(root, va, 0, false, level, &error);
	*value = entry ? space_load(entry) & ~SPACE_SET_BY_PROCESSORS : 0;
	return space_is_page(*value, *level) && *value & PTE_COW && !(*value & PTE_W);
}

/* The process's own memory is read without the lock: in ring 0 it may have to be mirrored first. */
bool dune_space_copy_on_write(ptent_t *root, uintptr_t address, void *(*at)(uint64_t physical))
{
	uintptr_t va = PGADDR(address);
	ptent_t value, now;
	unsigned level, level_now;
	struct page *source = NULL;
	if (va >= DUNE_USER_END)
		return false;
	dune_space_lock();
	bool shared = find_shared_page(root, va, &value, &level);
	bool writable = space_is_page(value, level) && value & PTE_W; /* another thread was faster */
	uint64_t physical = space_address(value, level) + (va & (space_span(level) - 1));
	if (shared && dune_page_isfrompool(physical)) {
		source = dune_pa2page(physical);
		shared = space_page_hold(source);
	}
	dune_space_unlock();
	const void *from = shared ? at(physical) : NULL;
	struct page *copy = from ? dune_page_alloc() : NULL;
	bool done = writable;
	if (copy) {
		uint64_t to = dune_page2pa(copy);
		memcpy((void *)to, from, PGSIZE);
		struct space_change change = {
			.kind = SPACE_MAP,
			.root = root,
			.bits = (PTE_FLAGS(value) & ~(PTE_COW | PTE_MIRROR | (level ? PTE_PS : 0))) | PTE_W,
			.distance = to - va
		};
		dune_space_lock();
		/* If it has changed meanwhile, the instruction finds out. */
		done = !find_shared_page(root, va, &now, &level_now) || now != value ||
		       space_change(&change, va, va + PGSIZE) == 0;
		dune_space_unlock();
		dune_page_put(copy);
	}
	if (source && shared)
		dune_page_put(source);
	return done;
}
