/* space_mirror.c - entries that follow the process's mappings: filled when they are touched, dropped when the process changes
 * its mappings.  See space.h. */
#include "vm/space_parts.h"

bool dune_space_follows(ptent_t *root, uintptr_t address)
{
	const ptent_t *table = root;
	if (address >= DUNE_USER_END)
		return false;
	for (unsigned level = ROOT_LEVEL;; level--) {
		ptent_t entry = space_load(&table[PDX(level, address)]);
		if (entry == 0)
			return true;
		if (space_is_shared(entry, level))
			return false;
		if (!space_is_table(entry, level))
			return (entry & (PTE_P | PTE_MIRROR)) == (PTE_P | PTE_MIRROR);
		table = space_table_at(entry);
	}
}

/* More rights for an entry that follows; processors may set bits in it meanwhile.  A translation that lacks them is dropped by
 * the fault that it causes. */
static void widen(ptent_t *entry, ptent_t value, ptent_t bits)
{
	ptent_t wider;
	do {
		wider = (value | (bits & (PTE_W | PTE_U))) & ~(bits & PTE_NX ? 0 : PTE_NX);
	} while (wider != value &&
		 !__atomic_compare_exchange_n(entry, &value, wider, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

int dune_space_fill(ptent_t *root, uintptr_t begin, uintptr_t end, uint64_t physical, uint64_t bits)
{
	ptent_t *table = root;
	for (unsigned level = ROOT_LEVEL; level > 0; level--) {
		ptent_t *entry = &table[PDX(level, begin)], value = space_load(entry);
		if (value == 0) {
			struct page *page = space_page_new_zeroed();
			if (!page)
				return -1;
			value = dune_page2pa(page) | SPACE_LINK;
			space_store(entry, value);
		}
		if (!space_is_table(value, level) || space_is_shared(value, level))
			return 0;
		table = space_table_at(value);
	}
	for (uintptr_t at = begin; at < end; at += PGSIZE, physical += PGSIZE) {
		ptent_t *entry = &table[PDX(0, at)], value = space_load(entry);
		if (value == 0)
			space_store(entry, physical | bits | PTE_P | PTE_MIRROR);
		else if ((value & (PTE_P | PTE_MIRROR)) == (PTE_P | PTE_MIRROR))
			widen(entry, value, bits);
	}
	return 0;
}

struct forget {
	uintptr_t begin, end;
	bool all;
	bool failed;
};

static void forget(ptent_t *root, void *argument)
{
	struct forget *forget = argument;
	struct space_change change = { .kind = SPACE_FORGET, .root = root, .all = forget->all };
	if (space_change(&change, forget->begin, forget->end) != 0)
		forget->failed = true;
}

int dune_space_forget(uintptr_t begin, uintptr_t end, bool all)
{
	struct forget argument = { .begin = PGADDR(begin), .end = PGADDR(end + PGMASK), .all = all };
	if (end > DUNE_USER_END)
		argument.end = DUNE_USER_END;
	dune_space_roots(forget, &argument);
	return argument.failed ? -1 : 0;
}
