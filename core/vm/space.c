/* space.c - roots, and the public functions that change ranges of an address space.  See dune.h and space.h. */
#include "vm/space_parts.h"

#include <errno.h>

#include "kvm/machine.h"

ptent_t *pgroot;
const struct dune_space_operations *space_operations;

/* Roots of dune_vm_clone(), by the links of their pages. */
static SLIST_HEAD(, page) clones;

int dune_space_begin(void *base, size_t size, const struct dune_space_operations *operations)
{
	space_operations = operations;
	SLIST_INIT(&clones);
	if (space_pool_begin(base, size) != 0)
		return -1;
	struct page *page = space_page_new_zeroed();
	if (!page)
		return dune_fail(ENOMEM, "a page pool of %zu bytes has no room for an address space", size);
	pgroot = space_page_table(page);
	struct space_change change = { .kind = SPACE_MAP, .root = pgroot, .bits = PTE_P | PTE_W | PTE_NX };
	if ((((uintptr_t)base | size) & BIG_PGMASK) == 0) {
		change.level = 1;
		change.bits |= PTE_PS;
	}
	if (space_change(&change, (uintptr_t)base, (uintptr_t)base + num_pages * (uint64_t)PGSIZE) != 0)
		return dune_fail(ENOMEM, "a page pool of %zu bytes has no room for an address space", size);
	return 0;
}

int dune_space_share(ptent_t *root, uintptr_t address, uint64_t directory)
{
	unsigned level;
	int error;
	dune_space_lock();
	ptent_t *entry = space_find(root, address, 2, true, &level, &error);
	if (entry)
		space_store(entry, directory ? directory | SPACE_LINK | DUNE_PTE_SHARED : 0);
	dune_space_unlock();
	return entry ? 0 : dune_fail(ENOMEM, "the page pool is used up (%d pages)", num_pages);
}

void space_root_add(ptent_t *root)
{
	SLIST_INSERT_HEAD(&clones, dune_pa2page((uintptr_t)root), link);
}

bool space_root_remove(ptent_t *root)
{
	struct page *page = dune_pa2page((uintptr_t)root), *other = SLIST_FIRST(&clones);
	while (other && other != page)
		other = SLIST_NEXT(other, link);
	if (other)
		SLIST_REMOVE(&clones, page, page, link);
	return other != NULL;
}

void dune_space_roots(void (*function)(ptent_t *root, void *argument), void *argument)
{
	if (pgroot)
		function(pgroot, argument);
	for (struct page *page = SLIST_FIRST(&clones); page; page = SLIST_NEXT(page, link))
		function(space_page_table(page), argument);
}

/* ---- arguments --------------------------------------------------------------------------------------------------------- */

int space_check_root(const ptent_t *root)
{
	if (!pgroot)
		return dune_fail(EINVAL, "there is no address space yet: dune_init() comes first");
	if (!dune_page_isfrompool((uintptr_t)root) || PGOFF(root))
		return dune_fail(
			EINVAL, "%p is not the root of an address space: pass pgroot, or what dune_vm_clone() returned",
			(const void *)root);
	return 0;
}

int space_bits(int perm, ptent_t *bits)
{
	static const struct {
		int perm;
		ptent_t bits;
	} table[] = {
		{ PERM_W, PTE_W },       { PERM_U, PTE_U },       { PERM_UC, PTE_PCD },    { PERM_COW, PTE_COW },
		{ PERM_USR1, PTE_USR1 }, { PERM_USR2, PTE_USR2 }, { PERM_USR3, PTE_USR3 },
	};
	const int known = PERM_R | PERM_W | PERM_X | PERM_U | PERM_UC | PERM_COW | PERM_BIG | PERM_BIG_1GB | PERM_USR1 |
			  PERM_USR2 | PERM_USR3;
	if (perm & ~known)
		return dune_fail(EINVAL, "rights %#x have bits that are no PERM_*", (unsigned)perm);
	if (!(perm & PERM_R) && perm & (PERM_W | PERM_X | PERM_COW))
		return dune_fail(EINVAL, "a page that can be written or executed can be read: add PERM_R");
	*bits = 0;
	if (!(perm & PERM_R))
		return 0;
	*bits = PTE_P | (perm & PERM_X ? 0 : PTE_NX);
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (perm & table[i].perm)
			*bits |= table[i].bits;
	if (perm & PERM_COW)
		*bits &= ~PTE_W;
	return 0;
}

struct range {
	uintptr_t begin, end;
};

/* The pages of `size` that [va, va + len) touches. */
static int check_range(const ptent_t *root, const void *va, size_t len, uint64_t size, struct range *range)
{
	uintptr_t begin = (uintptr_t)va;
	if (space_check_root(root) != 0)
		return -1;
	if (begin > DUNE_USER_END || len > DUNE_USER_END - begin)
		return dune_fail(EINVAL, "%p and %zu bytes from there are not all user addresses", va, len);
	if (size > PGSIZE && begin & (size - 1))
		return dune_fail(EINVAL, "%p does not begin a page of %llu MiB", va, (unsigned long long)(size >> 20));
	range->begin = begin & ~(size - 1);
	range->end = len ? (begin + len + size - 1) & ~(size - 1) : range->begin;
	return 0;
}

/* Whether tables that all roots share are in the range.  With the lock. */
static bool has_shared(const ptent_t *table, unsigned level, uintptr_t begin, uintptr_t end)
{
	uintptr_t next;
	for (uintptr_t at = begin; at < end; at = next) {
		next = (at | (space_span(level) - 1)) + 1;
		ptent_t entry = space_load(&table[PDX(level, at)]);
		if (space_is_shared(entry, level) ||
		    (level > 1 && space_is_table(entry, level) &&
		     has_shared(space_table_at(entry), level - 1, at, next < end ? next : end)))
			return true;
	}
	return false;
}

/* What a failed change says; without the lock. */
static int report(const struct space_change *change)
{
	void *at = (void *)change->stopped;
	switch (change->error) {
	case ENOMEM:
		return dune_fail(ENOMEM, "the page pool is used up (%d pages): what is beyond %p is not done",
				 num_pages, at);
	case EINVAL:
		return dune_fail(EINVAL, "the page of the pool that was to be mapped at %p is free", at);
	case ENOSPC:
		return dune_fail(ENOSPC, "the process's memory at %p has no guest-physical address: they are used up",
				 at);
	case EIO:
		return dune_fail(EIO, "entries in use could not be replaced: virtual CPUs may use what they held");
	default:
		return dune_fail(change->error, "the process's memory at %p has no guest-physical address", at);
	}
}

/* Does a change in pieces, so that nobody waits long for the lock.  piece: a power of two; 0: all at once. */
static int apply(struct space_change *change, const struct range *range, uint64_t piece, bool pool_too)
{
	bool refused = !pool_too && space_in_pool(range->begin, range->end) && range->end > range->begin;
	if (refused)
		return dune_fail(
			EINVAL,
			"the page pool's own addresses (%p, %d pages) are the same everywhere and cannot be changed",
			(void *)dune_page_base(), num_pages);
	dune_space_lock();
	refused = has_shared(change->root, ROOT_LEVEL, range->begin, range->end);
	if (!refused && change->kind == SPACE_MAP_NEW && !space_pages_left((range->end - range->begin) / PGSIZE)) {
		dune_space_unlock();
		return dune_fail(ENOMEM, "the page pool has fewer than %llu pages left",
				 (unsigned long long)(range->end - range->begin) / PGSIZE);
	}
	int result = 0;
	uintptr_t next;
	for (uintptr_t at = range->begin; at < range->end && !refused && result == 0; at = next) {
		next = piece ? (at | (piece - 1)) + 1 : range->end;
		if (next > range->end)
			next = range->end;
		change->distance_known = false;
		result = space_change(change, at, next);
		if (result != 0 && change->error == EAGAIN) {
			/* See dune_space_operations: it may need memory that is not mirrored. */
			dune_space_unlock();
			int error = ENOMEM;
			uint64_t physical = space_operations->physical(change->stopped, &error);
			dune_space_lock();
			change->distance = physical - change->stopped;
			change->distance_known = physical != 0;
			result = physical ? space_change(change, at, next) : -1;
			if (!physical)
				change->error = error;
		}
		if (next < range->end) {
			dune_space_unlock();
			dune_space_lock();
		}
	}
	dune_space_unlock();
	if (refused)
		return dune_fail(EINVAL, "addresses from %p to %p touch libdune's own", (void *)range->begin,
				 (void *)range->end);
	return result == 0 ? 0 : report(change);
}

/* ---- public ------------------------------------------------------------------------------------------------------------- */

enum {
	PIECE_OF_NEW_PAGES = BIG_PGSIZE, /* they are zeroed under the lock */
	PIECE_OF_RIGHTS = HUGE_PGSIZE,   /* guest-physical addresses are consecutive that far */
};

int dune_vm_map_phys(ptent_t *root, void *va, size_t len, void *pa, int perm)
{
	struct space_change change = { .kind = SPACE_MAP, .root = root };
	if (perm & PERM_BIG_1GB)
		change.level = 2;
	else if (perm & PERM_BIG)
		change.level = 1;
	uint64_t size = space_span(change.level), physical = (uintptr_t)pa & ~(uint64_t)PGMASK;
	struct range range;
	if (check_range(root, va, len, size, &range) != 0 || space_bits(perm, &change.bits) != 0)
		return -1;
	if (physical & (size - 1) || physical + (range.end - range.begin) > PTE_ADDR(-1))
		return dune_fail(EINVAL, "%p is not a guest-physical address of a page of %llu KiB", pa,
				 (unsigned long long)size >> 10);
	change.distance = physical - range.begin;
	bool pool_too = change.distance == 0;
	if (change.level > 0 && !pool_too && space_in_pool(physical, physical + (range.end - range.begin)))
		return dune_fail(EINVAL,
				 "pages of the pool are mapped one by one: leave out PERM_BIG and PERM_BIG_1GB");
	if (!change.bits)
		change.bits = SPACE_HELD;
	if (change.level > 0)
		change.bits |= PTE_PS;
	return apply(&change, &range, 0, pool_too);
}

int dune_vm_map_pages(ptent_t *root, void *va, size_t len, int perm)
{
	struct space_change change = { .kind = SPACE_MAP_NEW, .root = root };
	struct range range;
	if (check_range(root, va, len, PGSIZE, &range) != 0 || space_bits(perm, &change.bits) != 0)
		return -1;
	if (perm & (PERM_BIG | PERM_BIG_1GB))
		return dune_fail(EINVAL, "pages of the pool are 4 KiB: leave out PERM_BIG and PERM_BIG_1GB");
	if (!change.bits)
		change.bits = SPACE_HELD;
	return apply(&change, &range, PIECE_OF_NEW_PAGES, false);
}

int dune_vm_insert_page(ptent_t *root, void *va, struct page *page, int perm)
{
	uintptr_t offset = (uintptr_t)page - (uintptr_t)pages;
	if (space_check_root(root) != 0)
		return -1;
	if (offset % sizeof *page || offset / sizeof *page >= (size_t)num_pages)
		return dune_fail(EINVAL, "%p describes no page of the pool", (void *)page);
	if (perm & (PERM_BIG | PERM_BIG_1GB))
		return dune_fail(EINVAL, "pages of the pool are 4 KiB: leave out PERM_BIG and PERM_BIG_1GB");
	return dune_vm_map_phys(root, va, PGSIZE - PGOFF(va), (void *)dune_page2pa(page), perm);
}

static int clear(ptent_t *root, void *va, size_t len, ptent_t value)
{
	struct space_change change = { .kind = SPACE_CLEAR, .root = root, .bits = value };
	struct range range;
	if (check_range(root, va, len, PGSIZE, &range) != 0)
		return -1;
	return apply(&change, &range, 0, false);
}

int dune_vm_unmap(ptent_t *root, void *va, size_t len)
{
	return clear(root, va, len, DUNE_SPACE_REMOVED);
}

int dune_vm_follow(ptent_t *root, void *va, size_t len)
{
	return clear(root, va, len, 0);
}

int dune_vm_mprotect(ptent_t *root, void *va, size_t len, int perm)
{
	struct space_change change = { .kind = SPACE_PROTECT, .root = root };
	struct range range;
	if (check_range(root, va, len, PGSIZE, &range) != 0 || space_bits(perm, &change.bits) != 0)
		return -1;
	return apply(&change, &range, change.bits ? PIECE_OF_RIGHTS : 0, false);
}
