/*
 * unit_space_model.c - random operations on address spaces, against a model that is an array of pages.
 *
 * Whatever the order of operations, the entry that decides about an address says what the model says; a processor that is
 * told only of replaced entries sees no stale translation; references and tables are exactly accounted for.  The controls
 * break the telling, and must be noticed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "space_pool.h"

enum {
	ROOTS = 4,
	/* Around the end of a root entry, and around two GiBs. */
	LOW_PAGES = 2048,
	HIGH_PAGES = 512 * 512 + 2048,
	PAGES = LOW_PAGES + HIGH_PAGES,
};

#define LOW_BEGIN ((uint64_t)512 * GIB - 4 * MIB)
#define HIGH_BEGIN (5 * GIB - 4 * MIB)
/* Memory for dune_vm_map_phys(): at a GiB of guest-physical addresses. */
#define DEVICE (900 * GIB)

enum state {
	FOLLOWS,
	FILLED, /* follows, with an entry */
	REMOVED,
	CLOSED,
	MAPPED,
	HELD,
};

struct model_page {
	uint64_t physical; /* FILLED, MAPPED, HELD */
	uint32_t rights;   /* of an entry: model_rights() */
	uint8_t state;
	bool dirty;
};

static struct space {
	ptent_t *root;
	struct model_page *pages;
} spaces[ROOTS];

static struct model_page before[PAGES]; /* of the operation under way */
static size_t mismatches;

static uintptr_t address_of(size_t i)
{
	return i < LOW_PAGES ? LOW_BEGIN + i * PGSIZE : HIGH_BEGIN + (i - LOW_PAGES) * PGSIZE;
}

/* W, U, PCD, COW, NX, USR1 to USR3 in one word. */
static uint32_t model_rights(ptent_t entry)
{
	return (uint32_t)(entry & (PTE_W | PTE_U | PTE_PCD | PTE_COW)) | (uint32_t)(entry >> 60 << 16);
}

static uint32_t rights_of(int perm)
{
	uint32_t rights = (perm & PERM_W && !(perm & PERM_COW) ? PTE_W : 0) | (perm & PERM_U ? PTE_U : 0) |
			  (perm & PERM_UC ? PTE_PCD : 0) | (perm & PERM_COW ? PTE_COW : 0);
	return rights | (perm & PERM_X ? 0 : 8u << 16) | (perm & PERM_USR1 ? 4u << 16 : 0) |
	       (perm & PERM_USR2 ? 2u << 16 : 0) | (perm & PERM_USR3 ? 1u << 16 : 0);
}

static void mismatch(const struct space *space, size_t i, const char *what, ptent_t entry)
{
	const struct model_page *page = &space->pages[i];
	if (mismatches++ < 5 && pool.fault == POOL_GOOD)
		harness_note("%s at %#lx of root %ld: state %d, physical %#lx, rights %#x, dirty %d; entry %#lx", what,
			     address_of(i), (long)(space - spaces), page->state, page->physical, page->rights,
			     page->dirty, entry);
}

/* What memory says about a page, as the model would have it. */
static struct model_page read_page(const struct space *space, size_t i, ptent_t *entry)
{
	unsigned level;
	*entry = pool_entry(space->root, address_of(i), &level);
	struct model_page page = { 0 };
	bool held = space_is_held(*entry);
	if (*entry == 0)
		page.state = FOLLOWS;
	else if (*entry == DUNE_SPACE_REMOVED)
		page.state = REMOVED;
	else if (*entry == SPACE_CLOSED)
		page.state = CLOSED;
	else if (*entry & PTE_P)
		page.state = *entry & PTE_MIRROR ? FILLED : MAPPED;
	else if (held)
		page.state = HELD;
	else
		page.state = UINT8_MAX;
	if (*entry & PTE_P || held) {
		page.physical = space_address(*entry, level) + (address_of(i) & (space_span(level) - 1));
		page.dirty = *entry & PTE_D;
		page.rights = held ? 0 : model_rights(*entry);
	}
	return page;
}

static bool same(const struct model_page *a, const struct model_page *b)
{
	return a->state == b->state && a->physical == b->physical && a->rights == b->rights && a->dirty == b->dirty;
}

static void check_page(const struct space *space, size_t i)
{
	const struct model_page *page = &space->pages[i];
	ptent_t entry;
	struct model_page is = read_page(space, i, &entry);
	if (!same(&is, page))
		mismatch(space, i, "memory", entry);
}

/* The same through the processor; a write makes the pages of the entry dirty. */
static void access_page(struct space *space, size_t i, bool write)
{
	struct model_page *page = &space->pages[i];
	uintptr_t va = address_of(i);
	bool mapped = page->state == MAPPED || page->state == FILLED;
	ptent_t value = pool_access(space->root, va, write);
	if (page->state == FILLED && (!value || model_rights(value) != page->rights)) {
		pool_spurious_fault(space->root, va);
		value = pool_access(space->root, va, write);
	}
	if (!mapped) {
		if (value)
			mismatch(space, i, "stale translation", value);
		return;
	}
	if (!value || PTE_ADDR(value) != page->physical || model_rights(value) != page->rights)
		mismatch(space, i, "translation", value);
	unsigned level;
	if (!write || !(pool_entry(space->root, va, &level) & PTE_P))
		return;
	size_t first = i - PPN(va & (space_span(level) - 1));
	for (size_t j = first; j < first + PPN(space_span(level)); j++)
		if (j < PAGES)
			space->pages[j].dirty = true;
}

static size_t references[65536];

static void check_books(void)
{
	size_t data = 0, books = PPN((size_t)num_pages * sizeof(struct page) + PGMASK);
	memset(references, 0, sizeof references);
	for (unsigned r = 0; r < ROOTS; r++)
		for (size_t i = 0; spaces[r].root && i < PAGES; i++) {
			const struct model_page *page = &spaces[r].pages[i];
			if ((page->state == MAPPED || page->state == HELD) && dune_page_isfrompool(page->physical))
				if (references[dune_pa2page(page->physical) - pages]++ == 0)
					data++;
		}
	for (int i = 0; i < num_pages; i++)
		if (references[i] && references[i] != pages[i].ref && mismatches++ < 5)
			harness_note("page %d has %zu references, not %zu", i, (size_t)pages[i].ref, references[i]);
	if (pool_in_use() != books + data + pool_tables()) {
		if (mismatches++ < 5)
			harness_note("%zu pages in use: books %zu, data %zu, tables %zu", pool_in_use(), books, data,
				     pool_tables());
	}
}

static void check_all(void)
{
	for (unsigned r = 0; r < ROOTS; r++)
		for (size_t i = 0; spaces[r].root && i < PAGES; i++)
			check_page(&spaces[r], i);
	check_books();
}

/* ---- operations ------------------------------------------------------------------------------------------------------- */

struct range {
	size_t first, count;
};

static struct range random_range(void)
{
	struct range range;
	size_t begin = 0, end = LOW_PAGES;
	if (pool_random() % 2) {
		begin = LOW_PAGES;
		end = PAGES;
	}
	unsigned size = pool_random() % 100;
	if (size == 0 && begin)
		return (struct range){ LOW_PAGES + 1024, 512 * 512 }; /* the GiB */
	range.count = size < 60 ? 1 + pool_random() % 8 :
		      size < 97 ? 1 + pool_random() % 1600 :
				  1 + pool_random() % 20000;
	/* Near borders more often. */
	range.first = begin + (pool_random() % 3 ? pool_random() % 2048 : pool_random() % (end - begin));
	if (pool_random() % 4 == 0) {
		range.first &= ~(size_t)511;
		range.count = (range.count + 511) & ~(size_t)511;
	}
	if (range.first + range.count > end)
		range.count = end - range.first;
	return range;
}

static int random_perm(void)
{
	static const int perms[] = { PERM_R,
				     PERM_R | PERM_W,
				     PERM_UTEXT,
				     PERM_UCODE,
				     PERM_R | PERM_W | PERM_X | PERM_U,
				     PERM_R | PERM_W | PERM_COW | PERM_U,
				     PERM_R | PERM_UC | PERM_USR1,
				     PERM_R | PERM_USR2 | PERM_USR3,
				     PERM_NONE };
	return perms[pool_random() % (sizeof perms / sizeof *perms)];
}

static void want_mapped(struct model_page *page, uint64_t physical, int perm)
{
	*page = (struct model_page){ .physical = physical, .state = perm & PERM_R ? MAPPED : HELD };
	page->rights = perm & PERM_R ? rights_of(perm) : 0;
}

static int map_phys(struct space *space, struct range range)
{
	int perm = random_perm();
	uintptr_t va = address_of(range.first);
	unsigned kind = pool_random() % 4;
	uint64_t physical = DEVICE + (range.first - (range.first < LOW_PAGES ? 0 : LOW_PAGES)) * PGSIZE;
	if (kind == 1)
		physical = va + PROCESS; /* the process's own memory */
	if (kind == 2 && va % BIG_PGSIZE == 0 && range.count % 512 == 0)
		perm |= PERM_BIG;
	if (kind == 3 && va % HUGE_PGSIZE == 0 && range.count == 512 * 512)
		perm |= PERM_BIG_1GB;
	if (perm & (PERM_BIG | PERM_BIG_1GB))
		physical = va + (pool_random() % 2 ? PROCESS : DEVICE);
	for (size_t i = 0; i < range.count; i++)
		want_mapped(&space->pages[range.first + i], physical + i * PGSIZE, perm);
	return dune_vm_map_phys(space->root, (void *)va, range.count * PGSIZE, (void *)physical, perm);
}

/* Which pages it takes is known afterwards. */
static int map_pages(struct space *space, struct range range)
{
	int perm = random_perm();
	if (range.count > 700)
		range.count = 700;
	int result = dune_vm_map_pages(space->root, (void *)address_of(range.first), range.count * PGSIZE - 5, perm);
	for (size_t i = range.first; i < range.first + range.count; i++) {
		ptent_t entry;
		struct model_page is = read_page(space, i, &entry);
		if (result == 0 || (is.state == (perm ? MAPPED : HELD) && dune_page_isfrompool(is.physical) &&
				    !same(&is, &before[i]))) {
			want_mapped(&space->pages[i], is.physical, perm);
			if (!dune_page_isfrompool(is.physical))
				mismatch(space, i, "new page", entry);
		}
	}
	return result;
}

static int insert_page(struct space *space, struct range range)
{
	int perm = random_perm();
	struct page *page = dune_page_alloc();
	if (!page)
		return -1;
	int result = 0;
	if (range.count > 6)
		range.count = 6;
	for (size_t i = 0; i < range.count && result == 0; i++) {
		want_mapped(&space->pages[range.first + i], dune_page2pa(page), perm);
		result = dune_vm_insert_page(space->root, (void *)address_of(range.first + i), page, perm);
	}
	dune_page_put(page);
	return result;
}

static int protect(struct space *space, struct range range)
{
	int perm = random_perm();
	for (size_t i = range.first; i < range.first + range.count; i++) {
		struct model_page *page = &space->pages[i];
		bool dirty = page->dirty;
		if (page->state == REMOVED)
			continue;
		if (page->state == FOLLOWS || page->state == CLOSED || page->state == FILLED) {
			if (perm & PERM_R)
				want_mapped(page, address_of(i) + PROCESS, perm);
			else
				*page = (struct model_page){ .state = CLOSED };
			page->dirty = dirty && perm & PERM_R;
		} else {
			want_mapped(page, page->physical, perm);
			page->dirty = dirty;
		}
	}
	return dune_vm_mprotect(space->root, (void *)address_of(range.first), range.count * PGSIZE, perm);
}

static int clear(struct space *space, struct range range, enum state state)
{
	for (size_t i = range.first; i < range.first + range.count; i++)
		space->pages[i] = (struct model_page){ .state = state };
	void *va = (void *)(address_of(range.first) + 7);
	size_t len = range.count * PGSIZE - 7;
	return state == REMOVED ? dune_vm_unmap(space->root, va, len) : dune_vm_follow(space->root, va, len);
}

static int fill(struct space *space, struct range range)
{
	size_t in_table = 512 - PPN(address_of(range.first)) % 512;
	uint64_t bits = (pool_random() % 2 ? PTE_W : 0) | (pool_random() % 2 ? PTE_NX : 0);
	if (range.count > in_table)
		range.count = in_table;
	uintptr_t va = address_of(range.first);
	for (size_t i = range.first; i < range.first + range.count; i++) {
		struct model_page *page = &space->pages[i];
		if (dune_space_follows(space->root, address_of(i)) != (page->state == FOLLOWS || page->state == FILLED))
			mismatch(space, i, "follows", 0);
		if (page->state == FOLLOWS)
			*page = (struct model_page){ .state = FILLED,
						     .physical = address_of(i) + PROCESS,
						     .rights = model_rights(bits) };
		else if (page->state == FILLED)
			page->rights = (page->rights | (bits & PTE_W)) & ~(bits & PTE_NX ? 0 : 8u << 16);
	}
	dune_space_lock();
	int result = dune_space_fill(space->root, va, va + range.count * PGSIZE, va + PROCESS, bits);
	dune_space_unlock();
	if (result != 0)
		errno = ENOMEM;
	return result;
}

/* In every root; never fails for want of pages, but may take more away then. */
static void forget(struct range range)
{
	bool all = pool_random() % 2;
	uintptr_t va = address_of(range.first);
	dune_space_lock();
	CU_ASSERT_EQUAL(dune_space_forget(va, va + range.count * PGSIZE, all), 0);
	dune_space_unlock();
	for (unsigned r = 0; r < ROOTS; r++)
		for (size_t i = range.first; spaces[r].root && i < range.first + range.count; i++) {
			struct model_page *page = &spaces[r].pages[i];
			bool its_own = (page->state == MAPPED || page->state == HELD) &&
				       page->physical == address_of(i) + PROCESS;
			if (page->state == FILLED || (all && (page->state == CLOSED || its_own)))
				*page = (struct model_page){ .state = FOLLOWS };
		}
	/* A large page that could not be split is removed altogether, a closed table stays closed. */
	for (unsigned r = 0; all && !space_pages_left(16) && r < ROOTS; r++)
		for (size_t i = 0; spaces[r].root && i < PAGES; i++) {
			ptent_t entry;
			struct model_page is = read_page(&spaces[r], i, &entry), *page = &spaces[r].pages[i];
			if (!same(&is, page) && (is.state == REMOVED || is.state == CLOSED || is.state == HELD))
				*page = is;
		}
}

static void clone_or_free(void)
{
	unsigned r = 1 + pool_random() % (ROOTS - 1), from = pool_random() % ROOTS;
	if (spaces[r].root) {
		dune_vm_free(spaces[r].root);
		spaces[r].root = NULL;
	} else if (spaces[from].root) {
		spaces[r].root = dune_vm_clone(spaces[from].root);
		if (spaces[r].root)
			memcpy(spaces[r].pages, spaces[from].pages, PAGES * sizeof *spaces[r].pages);
	}
}

/* After ENOMEM each page is as before or as wanted. */
static void settle(struct space *space, struct range range)
{
	for (size_t i = range.first; i < range.first + range.count; i++) {
		ptent_t entry;
		struct model_page is = read_page(space, i, &entry);
		if (same(&is, &before[i]))
			space->pages[i] = before[i];
	}
}

static size_t failed;

static void step(void)
{
	struct space *space = &spaces[pool_random() % ROOTS];
	struct range range = random_range();
	unsigned operation = pool_random() % 100;
	if (!space->root)
		space = &spaces[0];
	memcpy(&before[range.first], &space->pages[range.first], range.count * sizeof *before);
	int result = 0;
	if (operation < 20)
		result = map_phys(space, range);
	else if (operation < 28)
		result = map_pages(space, range);
	else if (operation < 34)
		result = insert_page(space, range);
	else if (operation < 54)
		result = protect(space, range);
	else if (operation < 68)
		result = clear(space, range, REMOVED);
	else if (operation < 80)
		result = clear(space, range, FOLLOWS);
	else if (operation < 90)
		result = fill(space, range);
	else if (operation < 98)
		forget(range);
	else
		clone_or_free();
	if (result != 0) {
		CU_ASSERT_EQUAL(errno, ENOMEM);
		failed++;
		settle(space, range);
	}
	for (unsigned i = 0; i < 8 && space->root; i++) {
		size_t at = i < 4 ? range.first + pool_random() % range.count : pool_random() % PAGES;
		if (i == 0)
			at = range.first ? range.first - 1 : 0;
		if (i == 1)
			at = range.first + range.count < PAGES ? range.first + range.count : PAGES - 1;
		access_page(space, at, pool_random() % 3 == 0);
		check_page(space, at);
	}
}

/* Returns how much was wrong. */
static size_t run(size_t steps, size_t pool_pages, bool shadowed, enum pool_fault fault)
{
	mismatches = failed = 0;
	pool_begin(pool_pages, shadowed, fault);
	size_t in_use = pool_in_use();
	for (unsigned r = 0; r < ROOTS; r++) {
		spaces[r].pages = calloc(PAGES, sizeof *spaces[r].pages);
		CU_ASSERT_PTR_NOT_NULL_FATAL(spaces[r].pages);
		spaces[r].root = r ? NULL : pgroot;
	}
	for (size_t i = 0; i < steps && mismatches < 100; i++) {
		step();
		if (i % 500 == 499 && fault == POOL_GOOD)
			check_all();
	}
	if (fault == POOL_GOOD) {
		size_t tables = pool_tables();
		check_all();
		for (unsigned r = 1; r < ROOTS; r++)
			if (spaces[r].root)
				dune_vm_free(spaces[r].root);
		CU_ASSERT_EQUAL(dune_vm_follow(pgroot, (void *)LOW_BEGIN, 8 * MIB), 0);
		CU_ASSERT_EQUAL(dune_vm_follow(pgroot, (void *)HIGH_BEGIN, 2 * GIB), 0);
		harness_note("%zu steps, %zu edits in %zu calls, %zu failures for want of pages, %zu tables at the end",
			     steps, pool.replaced, pool.calls, failed, tables);
		if (pool_in_use() > in_use + 16)
			mismatches++;
	}
	for (unsigned r = 0; r < ROOTS; r++)
		free(spaces[r].pages);
	pool_end();
	return mismatches;
}

static void random_operations_agree_with_the_model(void)
{
	CU_ASSERT_EQUAL(run(60000, 20000, false, POOL_GOOD), 0);
	CU_ASSERT_EQUAL(failed, 0);
}

static void they_do_on_hosts_that_shadow_tables(void)
{
	CU_ASSERT_EQUAL(run(30000, 20000, true, POOL_GOOD), 0);
}

static void running_out_of_pages_leaves_a_consistent_space(void)
{
	CU_ASSERT_EQUAL(run(20000, 300, false, POOL_GOOD), 0);
	CU_ASSERT(failed > 100);
	CU_ASSERT_EQUAL(run(20000, 700, true, POOL_GOOD), 0);
	CU_ASSERT(failed > 100);
}

static void a_processor_that_is_not_told_is_noticed(void)
{
	CU_ASSERT(run(5000, 20000, false, POOL_PLAIN_STORES) > 0);
}

static void a_flush_of_one_page_for_a_whole_table_is_noticed(void)
{
	CU_ASSERT(run(20000, 20000, false, POOL_FIRST_PAGE) > 0);
}

static void reuse_of_tables_that_the_host_remembers_is_noticed(void)
{
	CU_ASSERT(run(20000, 20000, true, POOL_STALE_TABLES) > 0);
}

static const struct harness_test tests[] = {
	{ "random operations agree with the model", random_operations_agree_with_the_model, .seconds = 120 },
	{ "they do on hosts that shadow tables", they_do_on_hosts_that_shadow_tables, .seconds = 120 },
	{ "running out of pages leaves a consistent space", running_out_of_pages_leaves_a_consistent_space,
	  .seconds = 120 },
	{ "control: a processor that is not told is noticed", a_processor_that_is_not_told_is_noticed, .seconds = 60 },
	{ "control: a flush of one page for a whole table is noticed", a_flush_of_one_page_for_a_whole_table_is_noticed,
	  .seconds = 60 },
	{ "control: reuse of tables that the host remembers is noticed",
	  reuse_of_tables_that_the_host_remembers_is_noticed, .seconds = 60 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
