/* pagetable.c - see pagetable.h */
#include "vm/pagetable.h"

#include <errno.h>

enum {
	LEVELS = 4, /* level 4: root (PML4), 3: PDPT, 2: page directory, 1: page table */
	INDEX_BITS = 9,
	PAGE_SHIFT = 12,
};

/* Entries above the leaves allow everything: the leaves decide. */
#define TABLE_BITS (DUNE_PTE_PRESENT | DUNE_PTE_WRITE | DUNE_PTE_USER)

static unsigned index_at(uint64_t address, unsigned level)
{
	return address >> (PAGE_SHIFT + INDEX_BITS * (level - 1)) & ((1u << INDEX_BITS) - 1);
}

uint64_t dune_tables_new(struct dune_tables *tables)
{
	if (tables->used + DUNE_PAGE_SIZE > tables->size) {
		errno = ENOMEM;
		return 0;
	}
	uint64_t physical = tables->physical + tables->used;
	tables->used += DUNE_PAGE_SIZE;
	return physical;
}

uint64_t *dune_tables_at(const struct dune_tables *tables, uint64_t physical)
{
	return (uint64_t *)(tables->host + (physical - tables->physical));
}

/* Returns the entry for address at `level`, making the tables above it if create. */
static uint64_t *entry_at(struct dune_tables *tables, uint64_t root, uint64_t address, unsigned level, bool create)
{
	uint64_t table = root;
	for (unsigned at = LEVELS; at > level; at--) {
		uint64_t *entry = dune_tables_at(tables, table) + index_at(address, at);
		if (!(*entry & DUNE_PTE_PRESENT)) {
			uint64_t made;
			if (!create || !(made = dune_tables_new(tables)))
				return NULL;
			__atomic_store_n(entry, made | TABLE_BITS, __ATOMIC_RELEASE);
		}
		table = *entry & DUNE_PTE_FRAME;
	}
	return dune_tables_at(tables, table) + index_at(address, level);
}

uint64_t *dune_tables_entry(struct dune_tables *tables, uint64_t root, uint64_t address, bool create)
{
	return entry_at(tables, root, address, 1, create);
}

size_t dune_tables_missing(const struct dune_tables *tables, uint64_t root, uint64_t address, uint64_t bytes)
{
	size_t missing = 0;
	for (unsigned level = 1; level < LEVELS; level++) {
		uint64_t span = (uint64_t)1 << (PAGE_SHIFT + INDEX_BITS * level);
		for (uint64_t at = address & ~(span - 1); at < address + bytes; at += span) {
			const uint64_t *entry = entry_at((struct dune_tables *)tables, root, at, level + 1, false);
			missing += !entry || !(*entry & DUNE_PTE_PRESENT);
		}
	}
	return missing;
}

int dune_tables_share(struct dune_tables *tables, uint64_t root, uint64_t address, uint64_t directory)
{
	uint64_t *entry = entry_at(tables, root, address, 3, true);
	if (!entry)
		return -1;
	if (*entry & DUNE_PTE_PRESENT) {
		errno = EEXIST;
		return -1;
	}
	__atomic_store_n(entry, directory | TABLE_BITS, __ATOMIC_RELEASE);
	return 0;
}

uint64_t dune_tables_directory(struct dune_tables *tables, uint64_t root, uint64_t address)
{
	uint64_t *entry = entry_at(tables, root, address, 3, true);
	if (!entry)
		return 0;
	if (!(*entry & DUNE_PTE_PRESENT)) {
		uint64_t made = dune_tables_new(tables);
		if (!made)
			return 0;
		__atomic_store_n(entry, made | TABLE_BITS, __ATOMIC_RELEASE);
	}
	return *entry & DUNE_PTE_FRAME;
}
