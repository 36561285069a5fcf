/*
 * pagetable.h - x86-64 page tables as plain data.
 *
 * Knows nothing of KVM: a "table memory" is one linear piece of memory that has an address here (host) and one
 * in the guest (physical).  Four levels, 4 KiB leaves (AMD64 APM vol. 2, 5.3; Intel SDM vol. 3A, 4.5).
 *
 * Which edits may be made from here while a guest may use the tables is the caller's affair; on hosts that
 * shadow page tables only entries that were not present may be filled in (see docs/architecture.md).
 * Not thread-safe: callers serialise.
 */
#ifndef DUNE_PAGETABLE_H
#define DUNE_PAGETABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DUNE_PAGE_SIZE ((uint64_t)4096)
#define DUNE_PAGE_MASK (DUNE_PAGE_SIZE - 1)
#define DUNE_LARGE_PAGE_SIZE ((uint64_t)2 << 20)

/* Bits of an entry. */
#define DUNE_PTE_PRESENT ((uint64_t)1 << 0)
#define DUNE_PTE_WRITE ((uint64_t)1 << 1)
#define DUNE_PTE_USER ((uint64_t)1 << 2)
#define DUNE_PTE_ACCESSED ((uint64_t)1 << 5)
#define DUNE_PTE_DIRTY ((uint64_t)1 << 6)
#define DUNE_PTE_LARGE ((uint64_t)1 << 7)         /* in a page directory: 2 MiB, not a table */
#define DUNE_PTE_COPY_ON_WRITE ((uint64_t)1 << 9) /* ignored by hardware: a write may be answered with a private copy */
#define DUNE_PTE_PRIVATE ((uint64_t)1 << 10)      /* ignored by hardware: the frame belongs to this address space */
#define DUNE_PTE_SHARED ((uint64_t)1 << 11) /* ignored by hardware: all tables below this link serve several roots */
#define DUNE_PTE_NO_EXECUTE ((uint64_t)1 << 63)
#define DUNE_PTE_FRAME ((uint64_t)0x000ffffffffff000)

/* The end of the addresses that ring 3 may use: the lower canonical half. */
#define DUNE_USER_END ((uint64_t)1 << 47)

/* Where table pages live.  Pages are handed out once and never returned: a page that was a table for one address
 * space must not become one for another without care (stale shadows), so whole address spaces are reused instead. */
struct dune_tables {
	uint8_t *host;     /* address here */
	uint64_t physical; /* address in the guest */
	size_t size;       /* bytes */
	size_t used;       /* bytes handed out so far */
};

/* Returns the guest-physical address of a new, zeroed table page; 0 and ENOMEM when none is left.
 * Preconditions: the memory at host + used is zero. */
uint64_t dune_tables_new(struct dune_tables *tables);

/* Returns where the table page with this guest-physical address is here. */
uint64_t *dune_tables_at(const struct dune_tables *tables, uint64_t physical);

/* Finds the leaf entry for address below root.  Returns NULL if a table on the way is missing (create: missing
 * tables are made; NULL and ENOMEM only when no page is left). */
uint64_t *dune_tables_entry(struct dune_tables *tables, uint64_t root, uint64_t address, bool create);

/* Maps a large page with these bits besides PRESENT.  The functions of this file that look for leaf entries must not meet
 * it.  Preconditions: both addresses are multiples of DUNE_LARGE_PAGE_SIZE, nothing is mapped there.  Errors: ENOMEM. */
int dune_tables_map_large(struct dune_tables *tables, uint64_t root, uint64_t address, uint64_t physical,
			  uint64_t bits);

/* Lets the whole GiB at address (1 GiB aligned) below root be described by the page directory `directory`, which
 * may be shared by many roots.  Errors: EEXIST the GiB has a directory already; ENOMEM. */
int dune_tables_share(struct dune_tables *tables, uint64_t root, uint64_t address, uint64_t directory);

/* Returns the page directory of the GiB at address below root, made if missing; 0 and ENOMEM if that fails. */
uint64_t dune_tables_directory(struct dune_tables *tables, uint64_t root, uint64_t address);

/*
 * Roots that have most of their tables in common.  A derived root begins as a copy of another one's links, marked
 * DUNE_PTE_SHARED; it gets tables of its own only on the way to entries that differ.
 */

/* Returns a new root below which everything is shared with `base`; 0 and ENOMEM when no page is left. */
uint64_t dune_tables_derive(struct dune_tables *tables, uint64_t base);

/* A present link between tables that is to be replaced. */
struct dune_table_link {
	uint64_t *entry; /* NULL: nothing is to be replaced */
	uint64_t value;
};

/*
 * Finds the leaf entry for address in a table that belongs to root alone.  Shared tables on the way are copied; the
 * copies count once link->entry is set to link->value, which is left to the caller: at once if root has never been
 * used, else as any edit of a present entry.  Missing tables are made.  Returns NULL and ENOMEM when no page is left;
 * nothing has changed then.
 */
uint64_t *dune_tables_own(struct dune_tables *tables, uint64_t root, uint64_t address, struct dune_table_link *link);

/* Finds the leaf entry for address in whichever table serves root, for filling in what is the same in all roots that are
 * derived from `base`.  Tables that are missing are made in `base` and shared.  NULL and ENOMEM when no page is left. */
uint64_t *dune_tables_fill(struct dune_tables *tables, uint64_t root, uint64_t base, uint64_t address);

#endif
