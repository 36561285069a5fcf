/* pages.c - the page pool: pages with references, for tables and for programs.  See dune.h and space.h. */
#include "vm/space_parts.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "kvm/machine.h"

struct page *pages;
int num_pages;

/* A page is free if it has no reference.  Those from `fresh` on were never used and are zero. */
static struct {
	uintptr_t base;
	size_t books; /* pages that hold `pages` itself: the lowest */
	size_t fresh, in_use;
	SLIST_HEAD(, page) free;
} pool;

int space_pool_begin(void *base, size_t size)
{
	size_t count = size / PGSIZE;
	size_t books = (count * sizeof(struct page) + PGSIZE - 1) / PGSIZE;
	if (count > INT_MAX || books >= count)
		return dune_fail(ENOMEM, "a page pool of %zu bytes cannot be made", size);
	pages = base;
	num_pages = (int)count;
	pool.base = (uintptr_t)base;
	pool.books = pool.fresh = pool.in_use = books;
	SLIST_INIT(&pool.free);
	for (size_t i = 0; i < books; i++)
		pages[i].ref = 1;
	return 0;
}

uintptr_t dune_page_base(void)
{
	return pool.base;
}

bool dune_page_isfrompool(physaddr_t address)
{
	return address - pool.base < (uint64_t)num_pages * PGSIZE;
}

bool space_in_pool(uintptr_t begin, uintptr_t end)
{
	return begin < pool.base + (uint64_t)num_pages * PGSIZE && end > pool.base;
}

struct page *dune_pa2page(physaddr_t address)
{
	return &pages[PPN(address - pool.base)];
}

physaddr_t dune_page2pa(struct page *page)
{
	return pool.base + (uint64_t)(page - pages) * PGSIZE;
}

/* No memset(): see space_parts.h. */
static void clear(struct page *page)
{
	physaddr_t to = dune_page2pa(page);
	uint64_t count = PGSIZE / 8;
	__asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(0) : "memory");
}

static struct page *take(bool zeroed)
{
	struct page *page = SLIST_FIRST(&pool.free);
	if (page) {
		SLIST_REMOVE_HEAD(&pool.free, link);
		if (zeroed)
			clear(page);
	} else if (pool.fresh < (size_t)num_pages) {
		page = &pages[pool.fresh++];
	} else {
		return NULL;
	}
	page->ref = 1;
	pool.in_use++;
	return page;
}

struct page *space_page_new(void)
{
	return take(false);
}

struct page *space_page_new_zeroed(void)
{
	return take(true);
}

bool space_pages_left(uint64_t count)
{
	return count <= (size_t)num_pages - pool.in_use;
}

bool space_page_hold(struct page *page)
{
	if (page->ref)
		page->ref++;
	return page->ref != 0;
}

static void release(struct page *page)
{
	page->ref = 0;
	SLIST_INSERT_HEAD(&pool.free, page, link);
	pool.in_use--;
}

void space_page_drop(struct page *page)
{
	if (page->ref > 1)
		page->ref--;
	else if (page->ref == 1)
		release(page);
}

struct page *space_entry_page(ptent_t entry, unsigned level, uintptr_t va)
{
	uint64_t address = PTE_ADDR(entry);
	if (level > 0 || !(entry & PTE_P ? !(entry & PTE_MIRROR) : space_is_held(entry)))
		return NULL;
	return address != va && dune_page_isfrompool(address) ? dune_pa2page(address) : NULL;
}

/* ---- public --------------------------------------------------------------------------------------------------------- */

/* Whether it describes a page that dune_page_alloc() could have returned. */
static bool belongs(const struct page *page)
{
	uintptr_t offset = (uintptr_t)page - (uintptr_t)pages;
	return offset % sizeof *page == 0 && offset / sizeof *page >= pool.books &&
	       offset / sizeof *page < (size_t)num_pages;
}

struct page *dune_page_alloc(void)
{
	dune_space_lock();
	struct page *page = space_page_new();
	dune_space_unlock();
	if (!page)
		dune_fail(ENOMEM, "the page pool is used up (%d pages)", num_pages);
	return page;
}

void dune_page_free(struct page *page)
{
	dune_space_lock();
	if (belongs(page) && page->ref)
		release(page);
	dune_space_unlock();
}

struct page *dune_page_get(struct page *page)
{
	dune_space_lock();
	bool used = belongs(page) && page->ref;
	if (used)
		page->ref++;
	dune_space_unlock();
	if (!used) {
		dune_fail(EINVAL, "this is no page of the pool that is in use");
		return NULL;
	}
	return page;
}

void dune_page_put(struct page *page)
{
	dune_space_lock();
	if (belongs(page))
		space_page_drop(page);
	dune_space_unlock();
}

void dune_page_stats(void)
{
	dune_space_lock();
	size_t in_use = pool.in_use, fresh = pool.fresh;
	dune_space_unlock();
	dprintf(2, "page pool: %zu of %d pages in use, %zu used so far\n", in_use, num_pages, fresh);
}
