/* pagetable.c - see pagetable.h */
#include "vm/pagetable.h"

#include <errno.h>
#include <string.h>

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

int dune_tables_map_large(struct dune_tables *tables, uint64_t root, uint64_t address, uint64_t physical, uint64_t bits)
{
	uint64_t *entry = entry_at(tables, root, address, 2, true);
	if (!entry)
		return -1;
	__atomic_store_n(entry, physical | bits | DUNE_PTE_PRESENT | DUNE_PTE_LARGE, __ATOMIC_RELEASE);
	return 0;
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

enum {
	ENTRIES = 1 << INDEX_BITS
};

/* A copy of a table at `level`; what is below it is shared from now on.  Returns its physical address, 0 and ENOMEM. */
static uint64_t copy_table(struct dune_tables *tables, uint64_t table, unsigned level)
{
	uint64_t made = dune_tables_new(tables);
	if (!made)
		return 0;
	const uint64_t *from = dune_tables_at(tables, table);
	uint64_t *to = dune_tables_at(tables, made);
	for (unsigned i = 0; i < ENTRIES; i++) {
		uint64_t entry = __atomic_load_n(&from[i], __ATOMIC_RELAXED); /* processors set accessed bits */
		to[i] = entry & DUNE_PTE_PRESENT && level > 1 ? entry | DUNE_PTE_SHARED : entry;
	}
	return made;
}

uint64_t dune_tables_derive(struct dune_tables *tables, uint64_t base)
{
	return copy_table(tables, base, LEVELS);
}

uint64_t *dune_tables_own(struct dune_tables *tables, uint64_t root, uint64_t address, struct dune_table_link *link)
{
	uint64_t table = root;
	*link = (struct dune_table_link){ 0 };
	for (unsigned level = LEVELS; level > 1; level--) {
		uint64_t *entry = dune_tables_at(tables, table) + index_at(address, level);
		uint64_t value = *entry;
		if (!(value & DUNE_PTE_PRESENT) || value & DUNE_PTE_SHARED) {
			uint64_t made = value & DUNE_PTE_PRESENT ?
						copy_table(tables, value & DUNE_PTE_FRAME, level - 1) :
						dune_tables_new(tables);
			if (!made)
				return NULL;
			/* Below a link that is to be replaced nothing is in use yet. */
			if (value & DUNE_PTE_PRESENT && !link->entry)
				*link = (struct dune_table_link){ .entry = entry, .value = made | TABLE_BITS };
			else
				__atomic_store_n(entry, made | TABLE_BITS, __ATOMIC_RELEASE);
			value = made;
		}
		table = value & DUNE_PTE_FRAME;
	}
	return dune_tables_at(tables, table) + index_at(address, 1);
}

uint64_t *dune_tables_fill(struct dune_tables *tables, uint64_t root, uint64_t base, uint64_t address)
{
	uint64_t table = root;
	bool shared = false;
	for (unsigned level = LEVELS; level > 1; level--) {
		uint64_t *entry = dune_tables_at(tables, table) + index_at(address, level);
		if (!(*entry & DUNE_PTE_PRESENT)) {
			uint64_t *leaf = dune_tables_entry(tables, base, address, true);
			if (!leaf || shared)
				return leaf;
			uint64_t below = *entry_at(tables, base, address, level, false) & DUNE_PTE_FRAME;
			__atomic_store_n(entry, below | TABLE_BITS | DUNE_PTE_SHARED, __ATOMIC_RELEASE);
		}
		shared = shared || *entry & DUNE_PTE_SHARED;
		table = *entry & DUNE_PTE_FRAME;
	}
	return dune_tables_at(tables, table) + index_at(address, 1);
}
