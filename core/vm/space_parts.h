/*
 * space_parts.h - what the files behind space.h share.  Everything here needs the lock.
 *
 *   space_lock.c    the lock
 *   pages.c         the page pool
 *   space_edit.c    one change to a range of one root
 *   space.c         roots, and the public functions that change ranges
 *   space_walk.c    looking entries up
 *   space_clone.c   copying and freeing whole address spaces
 *   space_mirror.c  entries that follow the process's mappings
 *
 * The code runs in ring 0 as well, with interrupts off and with pages of the process that may not be mirrored yet: no call of
 * the C library while the lock is held.
 */
#ifndef DUNE_SPACE_PARTS_H
#define DUNE_SPACE_PARTS_H

#include "vm/space.h"
#include "vm/pagetable.h"

enum {
	ROOT_LEVEL = NPTLVLS, /* as PDX() counts: 0 the page table, 1 the page directory */
};

extern const struct dune_space_operations *space_operations;

/* ---- entries ------------------------------------------------------------------------------------------------------ */

/*
 * Marks of libdune: not present, with PTE_MIRROR.
 *   DUNE_SPACE_REMOVED  nothing is there
 *   SPACE_CLOSED        follows the process's mappings, but every right is taken away
 *   a held page         a mapped page without any right: its address, PTE_A, PTE_D and PTE_PS are kept
 */
#define SPACE_CLOSED (PTE_MIRROR | PTE_W)
#define SPACE_HELD (PTE_MIRROR | PTE_U)

/* Links allow everything: the entries of pages decide. */
#define SPACE_LINK (PTE_P | PTE_W | PTE_U)

static inline uint64_t space_span(unsigned level)
{
	return (uint64_t)1 << PDSHIFT(level);
}

/* Processors set bits in entries at any time. */
static inline ptent_t space_load(const ptent_t *entry)
{
	return __atomic_load_n(entry, __ATOMIC_ACQUIRE);
}

static inline void space_store(ptent_t *entry, ptent_t value)
{
	__atomic_store_n(entry, value, __ATOMIC_RELEASE);
}

static inline bool space_is_table(ptent_t entry, unsigned level)
{
	return level > 0 && (entry & (PTE_P | PTE_PS)) == PTE_P;
}

static inline bool space_is_shared(ptent_t entry, unsigned level)
{
	return space_is_table(entry, level) && entry & DUNE_PTE_SHARED;
}

static inline bool space_is_page(ptent_t entry, unsigned level)
{
	return entry & PTE_P && !space_is_table(entry, level);
}

static inline bool space_is_held(ptent_t entry)
{
	return (entry & (PTE_P | SPACE_HELD)) == SPACE_HELD;
}

static inline ptent_t *space_table_at(ptent_t entry)
{
	return (ptent_t *)PTE_ADDR(entry);
}

/* The guest-physical address of a page, or of a held one. */
static inline uint64_t space_address(ptent_t entry, unsigned level)
{
	return PTE_ADDR(entry) & ~(space_span(level) - 1);
}

/* ---- the pool ------------------------------------------------------------------------------------------------------ */

int space_pool_begin(void *base, size_t size); /* ENOMEM */

struct page *space_page_new(void);                  /* NULL: none left */
struct page *space_page_new_zeroed(void);           /* the same */
bool space_page_hold(struct page *page);            /* a reference more; false if the page is free */
void space_page_drop(struct page *page);            /* a reference less */
bool space_pages_left(uint64_t count);              /* whether so many are free */
bool space_in_pool(uintptr_t begin, uintptr_t end); /* whether the ranges overlap */

static inline ptent_t *space_page_table(struct page *page)
{
	return (ptent_t *)dune_page2pa(page);
}

/* The page of the pool to which an entry for va holds a reference, or NULL.  Entries of level 0 do, present or held; not
 * those that follow, nor those that show a page at its own address, as every address space does. */
struct page *space_entry_page(ptent_t entry, unsigned level, uintptr_t va);

/* ---- changes ------------------------------------------------------------------------------------------------------- */

/* What a change wants to happen. */
enum space_change_kind {
	SPACE_MAP,     /* pages of `level`: at va + distance, with `bits` */
	SPACE_MAP_NEW, /* new pages of the pool, with `bits` */
	SPACE_CLEAR,   /* `bits` everywhere: DUNE_SPACE_REMOVED, or 0 */
	SPACE_PROTECT, /* `bits`, 0: none; what follows gets entries of its own at va + distance */
	SPACE_FORGET,  /* 0 where entries follow; with `all` where they show the process's memory at its address */
};

struct space_change {
	enum space_change_kind kind;
	ptent_t *root;
	unsigned level;
	ptent_t bits;
	uint64_t distance;
	bool distance_known; /* SPACE_PROTECT */
	bool all;            /* SPACE_FORGET */
	int error; /* what stopped it: ENOMEM, EIO, EINVAL (a free page), EAGAIN: SPACE_PROTECT needs the distance at */
	uintptr_t stopped; /* this address */
};

/* Does it in [begin, end), both multiples of the size of a page.  Returns 0, or -1 with change->error; what was done before
 * stays. */
int space_change(struct space_change *change, uintptr_t begin, uintptr_t end);

/* Gives a table of `level` for va back with all below it.  used: processors may have walked it.  Returns -1 if tables could
 * not be emptied: they are never used again. */
int space_table_free(ptent_t *root, ptent_t *table, unsigned level, uintptr_t va, bool used);

/* A new table below an entry, with 512 entries that say what it says; NULL: none left. */
ptent_t *space_table_below(ptent_t entry, unsigned level, uintptr_t va);

/* The entry for va, of level `lowest` or of a larger page; *level says which.  create: tables on the way are made.  NULL and
 * *error: ENOENT, ENOMEM, or EINVAL: shared tables are on the way. */
ptent_t *space_find(ptent_t *root, uintptr_t va, unsigned lowest, bool create, unsigned *level, int *error);

/* ---- roots and arguments ------------------------------------------------------------------------------------------- */

void space_root_add(ptent_t *root);
bool space_root_remove(ptent_t *root); /* whether it was one */

/* Whether root can be one; -1 and EINVAL with the sentence.  Without the lock. */
int space_check_root(const ptent_t *root);
/* Bits of an entry for rights; -1 and EINVAL.  0: none.  Without the lock. */
int space_bits(int perm, ptent_t *bits);

#endif
