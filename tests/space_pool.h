/*
 * space_pool.h - a page pool in plain memory, and a processor that uses the tables in it, for tests of address spaces.
 *
 * The processor has a TLB, and like a host that shadows page tables it remembers the present entries that it has walked.  Only
 * the replace operation tells it that one has changed: what was replaced otherwise shows as a stale translation.
 */
#ifndef SPACE_POOL_H
#define SPACE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness.h"
#include "vm/pagetable.h"
#include "vm/space_parts.h"

#define GIB ((uint64_t)1 << 30)
#define MIB ((uint64_t)1 << 20)
/* Where the process's memory is in the guest: as far from its own address as this. */
#define PROCESS ((uint64_t)1 << 42)

/* How the processor is told, for controls. */
enum pool_fault {
	POOL_GOOD,
	POOL_PLAIN_STORES,  /* it is not told at all */
	POOL_FIRST_PAGE,    /* only about the first page of what an edit covers */
	POOL_STALE_TABLES,  /* the host shadows tables, and nobody has said so */
	POOL_OLD_FORGOTTEN, /* what the entry held at last is not given back */
};

struct pool {
	size_t replaced, calls; /* edits, and calls of the replace operation */
	size_t asked;           /* calls of the physical operation */
	int fail;               /* replace() fails from now on */
	enum pool_fault fault;
	/* Bits that processors set in an entry at the last moment before it is replaced. */
	ptent_t late_bits;
	int no_physical; /* the process's memory has no guest-physical addresses, for this reason */
};
extern struct pool pool;

/* A new pool of so many pages, and a processor that remembers nothing.  shadowed: it remembers table entries, too. */
void pool_begin(size_t count, bool shadowed, enum pool_fault fault);
void pool_end(void);

/* Pages that have references, and those that tables of all roots consist of. */
size_t pool_in_use(void);
size_t pool_tables(void);

/* What memory says: the entry that decides about va, and its level. */
ptent_t pool_entry(const ptent_t *root, uintptr_t va, unsigned *level);
/* What the processor does: an access, which sets PTE_A, and PTE_D for a write.  Returns the entry for the page of 4 KiB
 * (present, address, rights), 0 if it faults. */
ptent_t pool_access(ptent_t *root, uintptr_t va, bool write);
/* The fault that makes it look at memory again. */
void pool_spurious_fault(ptent_t *root, uintptr_t va);

uint64_t pool_random(void);

#endif
