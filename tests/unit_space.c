/*
 * unit_space.c - what dune_vm_*() promise, level by level: ranges, rights, large pages, marks, clones, refusals.
 */
#include <errno.h>
#include <string.h>

#include "space_pool.h"

#define BEGIN (3 * GIB)
#define TIB (1024 * GIB)

#define ASSERT_FAILS(call, error, words)                                             \
	do {                                                                         \
		errno = 0;                                                           \
		CU_ASSERT_EQUAL((call), -1);                                         \
		CU_ASSERT_EQUAL(errno, (error));                                     \
		if (!strstr(dune_error(), (words)))                                  \
			harness_note("%s:%d: %s", __FILE__, __LINE__, dune_error()); \
		CU_ASSERT_PTR_NOT_NULL(strstr(dune_error(), (words)));               \
	} while (0)

static void *at(uintptr_t va)
{
	return (void *)va;
}

static ptent_t entry(const ptent_t *root, uintptr_t va)
{
	unsigned level;
	return pool_entry(root, va, &level);
}

static unsigned level_at(const ptent_t *root, uintptr_t va)
{
	unsigned level;
	pool_entry(root, va, &level);
	return level;
}

static void rights_become_bits(void)
{
	static const struct {
		int perm;
		ptent_t bits;
	} rights[] = {
		{ PERM_R, PTE_P | PTE_NX },
		{ PERM_R | PERM_W, PTE_P | PTE_W | PTE_NX },
		{ PERM_SCODE, PTE_P },
		{ PERM_STEXT, PTE_P | PTE_W | PTE_NX },
		{ PERM_UCODE, PTE_P | PTE_U },
		{ PERM_UTEXT, PTE_P | PTE_W | PTE_U | PTE_NX },
		{ PERM_R | PERM_UC, PTE_P | PTE_PCD | PTE_NX },
		{ PERM_R | PERM_COW, PTE_P | PTE_COW | PTE_NX },
		{ PERM_R | PERM_W | PERM_COW, PTE_P | PTE_COW | PTE_NX },
		{ PERM_R | PERM_USR1, PTE_P | PTE_USR1 | PTE_NX },
		{ PERM_R | PERM_USR2, PTE_P | PTE_USR2 | PTE_NX },
		{ PERM_R | PERM_USR3, PTE_P | PTE_USR3 | PTE_NX },
	};
	pool_begin(200, false, POOL_GOOD);
	for (size_t i = 0; i < sizeof rights / sizeof *rights; i++) {
		CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(BEGIN), PGSIZE, at(0x9000), rights[i].perm), 0);
		CU_ASSERT_EQUAL(entry(pgroot, BEGIN), 0x9000 | rights[i].bits);
		CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(BEGIN), PGSIZE, PERM_R | PERM_W | PERM_X), 0);
		CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(BEGIN), PGSIZE, rights[i].perm), 0);
		CU_ASSERT_EQUAL(entry(pgroot, BEGIN), 0x9000 | rights[i].bits);
	}
	ASSERT_FAILS(dune_vm_map_phys(pgroot, at(BEGIN), PGSIZE, at(0x9000), PERM_W), EINVAL, "add PERM_R");
	ASSERT_FAILS(dune_vm_map_pages(pgroot, at(BEGIN), PGSIZE, PERM_X | PERM_U), EINVAL, "add PERM_R");
	ASSERT_FAILS(dune_vm_mprotect(pgroot, at(BEGIN), PGSIZE, PERM_COW), EINVAL, "add PERM_R");
	ASSERT_FAILS(dune_vm_mprotect(pgroot, at(BEGIN), PGSIZE, PERM_R | 0x80), EINVAL, "PERM_*");
	pool_end();
}

static void a_range_covers_the_pages_that_it_touches(void)
{
	static const struct {
		uintptr_t va;
		size_t len, pages;
	} ranges[] = { { BEGIN, 0, 0 },         { BEGIN + 5, 0, 0 },        { BEGIN, 1, 1 },
		       { BEGIN, 4096, 1 },      { BEGIN, 4097, 2 },         { BEGIN + 4095, 1, 1 },
		       { BEGIN + 4095, 2, 2 },  { BEGIN + 1, 8192, 3 },     { GIB - 4096, 8192, 2 },
		       { 512 * GIB - 1, 2, 2 }, { DUNE_USER_END - 1, 1, 1 } };
	pool_begin(200, false, POOL_GOOD);
	for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
		uintptr_t va = ranges[i].va, first = PGADDR(va);
		size_t pages_there = ranges[i].pages;
		CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(va), ranges[i].len, at(0x100000), PERM_R), 0);
		CU_ASSERT_EQUAL(entry(pgroot, first - PGSIZE) & PTE_P, 0);
		for (size_t j = 0; j < pages_there; j++)
			CU_ASSERT_EQUAL(PTE_ADDR(entry(pgroot, first + j * PGSIZE)), 0x100000 + j * PGSIZE);
		if (first + pages_there * PGSIZE < DUNE_USER_END)
			CU_ASSERT_EQUAL(entry(pgroot, first + pages_there * PGSIZE) & PTE_P, 0);
		CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(va), ranges[i].len), 0);
		for (size_t j = 0; j < pages_there; j++)
			CU_ASSERT_EQUAL(entry(pgroot, first + j * PGSIZE), DUNE_SPACE_REMOVED);
	}
	pool_end();
}

static void addresses_that_are_not_the_users_are_refused(void)
{
	pool_begin(200, false, POOL_GOOD);
	ptent_t *found;
	size_t in_use = pool_in_use();
	ASSERT_FAILS(dune_vm_map_phys(pgroot, at(DUNE_USER_END), 1, at(0), PERM_R), EINVAL, "user addresses");
	ASSERT_FAILS(dune_vm_map_phys(pgroot, at(DUNE_USER_END - PGSIZE), PGSIZE + 1, at(0), PERM_R), EINVAL,
		     "user addresses");
	ASSERT_FAILS(dune_vm_map_pages(pgroot, at(PGSIZE), SIZE_MAX, PERM_R), EINVAL, "user addresses");
	ASSERT_FAILS(dune_vm_unmap(pgroot, at(0xffff800000000000), PGSIZE), EINVAL, "user addresses");
	ASSERT_FAILS(dune_vm_follow(pgroot, VA_END, 1), EINVAL, "user addresses");
	ASSERT_FAILS(dune_vm_mprotect(pgroot, at(0), SIZE_MAX, PERM_R), EINVAL, "user addresses");
	ASSERT_FAILS(dune_vm_lookup(pgroot, at(DUNE_USER_END), CREATE_NORMAL, &found), EINVAL, "user address");
	CU_ASSERT_PTR_NULL(dune_vm_lookup_page(pgroot, VA_END));
	ASSERT_FAILS(dune_vm_map_phys(pgroot, at(BEGIN), 2 * PGSIZE, at(0xfffffffffe000), PERM_R), EINVAL, "physical");
	ASSERT_FAILS(dune_vm_map_phys(NULL, at(BEGIN), PGSIZE, at(0), PERM_R), EINVAL, "pgroot");
	ASSERT_FAILS(dune_vm_unmap(pgroot + 1, at(BEGIN), PGSIZE), EINVAL, "pgroot");
	ASSERT_FAILS(dune_vm_lookup(pgroot, at(BEGIN), 4, &found), EINVAL, "CREATE_");
	CU_ASSERT_EQUAL(pool_in_use(), in_use);
	pool_end();
	ASSERT_FAILS(dune_vm_unmap(pgroot, at(BEGIN), PGSIZE), EINVAL, "dune_init");
}

static int count_entries(const void *argument, ptent_t *found, void *va)
{
	CU_ASSERT(*found & PTE_P);
	CU_ASSERT_EQUAL((uintptr_t)va % PGSIZE, 0);
	++*(size_t *)(uintptr_t)argument;
	return 0;
}

static void what_is_the_librarys_own_is_refused_and_shared(void)
{
	pool_begin(300, false, POOL_GOOD);
	static uint64_t directory[NPTENTRIES] __attribute__((aligned(PGSIZE)));
	uintptr_t window = 7 * GIB;
	directory[3] = 0xabc000 | PTE_P | PTE_PS;
	CU_ASSERT_EQUAL(dune_space_share(pgroot, window, (uintptr_t)directory), 0);
	ptent_t *found, *clone = dune_vm_clone(pgroot);
	ptent_t *roots[] = { pgroot, clone };
	for (unsigned i = 0; i < 2; i++) {
		ASSERT_FAILS(dune_vm_unmap(roots[i], at(0), 512 * GIB), EINVAL, "libdune's own");
		ASSERT_FAILS(dune_vm_unmap(roots[i], at(window + GIB - 1), 1), EINVAL, "libdune's own");
		ASSERT_FAILS(dune_vm_follow(roots[i], at(window - PGSIZE), 2 * PGSIZE), EINVAL, "libdune's own");
		ASSERT_FAILS(dune_vm_mprotect(roots[i], at(window), PGSIZE, PERM_UTEXT), EINVAL, "libdune's own");
		ASSERT_FAILS(dune_vm_map_pages(roots[i], at(window), PGSIZE, PERM_R), EINVAL, "libdune's own");
		ASSERT_FAILS(dune_vm_map_phys(roots[i], at(window), GIB, at(0), PERM_R | PERM_BIG_1GB), EINVAL,
			     "libdune's own");
		ASSERT_FAILS(dune_vm_lookup(roots[i], at(window), CREATE_NORMAL, &found), EINVAL, "libdune's own");
		ASSERT_FAILS(dune_vm_lookup(roots[i], at(window), CREATE_BIG, &found), EINVAL, "libdune's own");
		ASSERT_FAILS(dune_vm_lookup(roots[i], at(window), CREATE_BIG_1GB, &found), EINVAL, "libdune's own");
		CU_ASSERT_PTR_NULL(dune_vm_lookup_page(roots[i], at(window)));
		CU_ASSERT_FALSE(dune_space_follows(roots[i], window));
		size_t visits = 0;
		CU_ASSERT_EQUAL(dune_vm_page_walk(roots[i], at(window), at(window + GIB - 1), count_entries, &visits),
				0);
		CU_ASSERT_EQUAL(visits, 0);
		CU_ASSERT_EQUAL(dune_vm_unmap(roots[i], at(window - PGSIZE), PGSIZE), 0);
		CU_ASSERT_EQUAL(dune_vm_unmap(roots[i], at(window + GIB), PGSIZE), 0);
	}
	/* One table serves both. */
	CU_ASSERT_EQUAL(entry(clone, window + 6 * MIB), 0xabc000 | PTE_P | PTE_PS);
	dune_vm_free(clone);
	CU_ASSERT_EQUAL(directory[3], 0xabc000 | PTE_P | PTE_PS);
	/* The pool's own addresses. */
	ASSERT_FAILS(dune_vm_unmap(pgroot, at(PAGEBASE + 10 * PGSIZE), 1), EINVAL, "page pool's own");
	ASSERT_FAILS(dune_vm_mprotect(pgroot, at(PAGEBASE - 1), 2, PERM_R), EINVAL, "page pool's own");
	ASSERT_FAILS(dune_vm_map_pages(pgroot, at(PAGEBASE + 300 * PGSIZE - 1), 1, PERM_R), EINVAL, "page pool's own");
	CU_ASSERT_EQUAL(PTE_ADDR(entry(pgroot, PAGEBASE + 10 * PGSIZE)), PAGEBASE + 10 * PGSIZE);
	CU_ASSERT_EQUAL(entry(pgroot, PAGEBASE) & (PTE_P | PTE_W | PTE_U), PTE_P | PTE_W);
	pool_end();
}

/* ---- large pages --------------------------------------------------------------------------------------------------------- */

static const struct {
	int perm;
	unsigned level;
	uint64_t size;
} large[] = { { PERM_BIG, 1, BIG_PGSIZE }, { PERM_BIG_1GB, 2, HUGE_PGSIZE } };

static void large_pages_are_one_entry(void)
{
	pool_begin(200, false, POOL_GOOD);
	for (unsigned i = 0; i < 2; i++) {
		uintptr_t va = BEGIN + i * 8 * GIB;
		int perm = PERM_UTEXT | large[i].perm;
		CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(va), large[i].size + 1, at(40 * GIB), perm), 0);
		CU_ASSERT_EQUAL(level_at(pgroot, va + large[i].size - 1), large[i].level);
		CU_ASSERT_EQUAL(entry(pgroot, va + large[i].size),
				(40 * GIB + large[i].size) | PTE_P | PTE_W | PTE_U | PTE_NX | PTE_PS);
		CU_ASSERT_EQUAL(PTE_ADDR(pool_access(pgroot, va + 0x5123, false)), 40 * GIB + 0x5000);
		ASSERT_FAILS(dune_vm_map_phys(pgroot, at(va + PGSIZE), large[i].size, at(0), perm), EINVAL,
			     "does not begin");
		ASSERT_FAILS(dune_vm_map_phys(pgroot, at(va), large[i].size, at(BIG_PGSIZE / 2), perm), EINVAL,
			     "physical");
		ASSERT_FAILS(dune_vm_map_phys(pgroot, at(va), large[i].size, at(PAGEBASE & ~(large[i].size - 1)), perm),
			     EINVAL, "one by one");
		ASSERT_FAILS(dune_vm_map_pages(pgroot, at(va), large[i].size, perm), EINVAL, "4 KiB");
		ASSERT_FAILS(dune_vm_insert_page(pgroot, at(va), &pages[num_pages - 1], perm), EINVAL, "4 KiB");
		/* One rights change of the whole stays one entry. */
		CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(va), large[i].size, PERM_R), 0);
		CU_ASSERT_EQUAL(level_at(pgroot, va), large[i].level);
		CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(va), large[i].size, PERM_NONE), 0);
		CU_ASSERT_EQUAL(pool_access(pgroot, va, false), 0);
		CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(va), large[i].size, PERM_SCODE), 0);
		CU_ASSERT_EQUAL(entry(pgroot, va) & ~PTE_A, 40 * GIB | PTE_P | PTE_PS);
		/* Tables in its place are given up when it comes back. */
		size_t tables = pool_tables();
		CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(va + 7 * PGSIZE), PGSIZE), 0);
		CU_ASSERT_EQUAL(pool_tables(), tables + large[i].level);
		CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(va), large[i].size, at(40 * GIB), perm), 0);
		CU_ASSERT_EQUAL(pool_tables(), tables);
	}
	pool_end();
}

/* Every operation that can split, at the first, a middle and the last page. */
static void a_split_keeps_what_is_around(void)
{
	for (unsigned i = 0; i < 2; i++)
		for (unsigned operation = 0; operation < 5; operation++)
			for (unsigned where = 0; where < 3; where++) {
				pool_begin(200, false, POOL_GOOD);
				uint64_t size = large[i].size, physical = 40 * GIB;
				uintptr_t hit = BEGIN + (where == 0 ? 0 :
							 where == 1 ? size / 2 + PGSIZE :
								      size - PGSIZE);
				CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(BEGIN), size, at(physical),
								 PERM_UTEXT | PERM_USR1 | large[i].perm),
						0);
				pool_access(pgroot, BEGIN, true);
				for (uintptr_t va = BEGIN; va < BEGIN + size; va += size / 64)
					pool_access(pgroot, va, false);
				ptent_t wanted = 0;
				int result = -1;
				switch (operation) {
				case 0:
					result = dune_vm_unmap(pgroot, at(hit), 1);
					break;
				case 1:
					result = dune_vm_follow(pgroot, at(hit), 1);
					break;
				case 2:
					result = dune_vm_mprotect(pgroot, at(hit), 1, PERM_UCODE);
					wanted = (physical + hit - BEGIN) | PTE_P | PTE_U | PTE_A | PTE_D;
					break;
				case 3:
					result = dune_vm_map_phys(pgroot, at(hit), 1, at(0x9000), PERM_R);
					wanted = 0x9000 | PTE_P | PTE_NX;
					break;
				case 4:
					result = dune_vm_map_pages(pgroot, at(hit), 1, PERM_SCODE);
					wanted = dune_page2pa(dune_vm_lookup_page(pgroot, at(hit))) | PTE_P;
					break;
				}
				CU_ASSERT_EQUAL(result, 0);
				CU_ASSERT_EQUAL(entry(pgroot, hit), operation ? wanted : DUNE_SPACE_REMOVED);
				CU_ASSERT_EQUAL(level_at(pgroot, hit), 0);
				CU_ASSERT_EQUAL(pool_access(pgroot, hit, false) != 0, operation > 1);
				for (uintptr_t va = BEGIN; va < BEGIN + size; va += PGSIZE) {
					if (va == hit)
						continue;
					unsigned level;
					ptent_t is = pool_entry(pgroot, va, &level);
					CU_ASSERT_FATAL(space_address(is, level) + (va & (space_span(level) - 1)) ==
							physical + va - BEGIN);
					CU_ASSERT_FATAL((PTE_FLAGS(is) & ~PTE_PS) ==
							(PTE_P | PTE_W | PTE_U | PTE_A | PTE_D | PTE_USR1 | PTE_NX));
					CU_ASSERT_FATAL((level > 0) == !!(is & PTE_PS));
				}
				pool_end();
			}
}

static void a_split_keeps_the_memory_type(void)
{
	pool_begin(200, false, POOL_GOOD);
	ptent_t *found;
	CU_ASSERT_EQUAL(dune_vm_lookup(pgroot, at(BEGIN), CREATE_BIG_1GB, &found), 0);
	*found = 40 * GIB | PTE_P | PTE_PS | PTE_PWT | (ptent_t)1 << 12; /* PAT of a large page */
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(BEGIN), PGSIZE), 0);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + PGSIZE), (40 * GIB + PGSIZE) | PTE_P | PTE_PWT | PTE_PAT);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + BIG_PGSIZE),
			(40 * GIB + BIG_PGSIZE) | PTE_P | PTE_PS | PTE_PWT | (ptent_t)1 << 12);
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(BEGIN + BIG_PGSIZE), BIG_PGSIZE, PERM_R), 0);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + BIG_PGSIZE),
			(40 * GIB + BIG_PGSIZE) | PTE_P | PTE_PS | PTE_NX | (ptent_t)1 << 12);
	pool_end();
}

/* Processors set these bits while the entry is being replaced. */
static ptent_t late_bits_after(enum pool_fault fault, int size, bool split)
{
	pool_begin(200, false, fault);
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(BEGIN), 1, at(40 * GIB), PERM_R | PERM_W | size), 0);
	pool.late_bits = PTE_A | PTE_D;
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(BEGIN), split ? PGSIZE : large[size == PERM_BIG_1GB].size, PERM_R),
			0);
	ptent_t first = entry(pgroot, BEGIN), other = entry(pgroot, BEGIN + BIG_PGSIZE - PGSIZE);
	pool_end();
	return size ? first & other & (PTE_A | PTE_D) : first & (PTE_A | PTE_D);
}

static void bits_set_during_the_change_are_kept(void)
{
	CU_ASSERT_EQUAL(late_bits_after(POOL_GOOD, 0, true), PTE_A | PTE_D);
	CU_ASSERT_EQUAL(late_bits_after(POOL_GOOD, PERM_BIG, false), PTE_A | PTE_D);
	CU_ASSERT_EQUAL(late_bits_after(POOL_GOOD, PERM_BIG, true), PTE_A | PTE_D);
	CU_ASSERT_EQUAL(late_bits_after(POOL_GOOD, PERM_BIG_1GB, true), PTE_A | PTE_D);
	/* Control. */
	CU_ASSERT_EQUAL(late_bits_after(POOL_OLD_FORGOTTEN, 0, true), 0);
	CU_ASSERT_EQUAL(late_bits_after(POOL_OLD_FORGOTTEN, PERM_BIG, true), 0);
}

static void mapping_again_begins_clean(void)
{
	pool_begin(200, false, POOL_GOOD);
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(BEGIN), 1, at(0x9000), PERM_R | PERM_W), 0);
	pool_access(pgroot, BEGIN, true);
	CU_ASSERT(entry(pgroot, BEGIN) & PTE_D);
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(BEGIN), 1, at(0x9000), PERM_R | PERM_W), 0);
	CU_ASSERT_FALSE(entry(pgroot, BEGIN) & (PTE_A | PTE_D));
	pool_end();
}

/* ---- marks ------------------------------------------------------------------------------------------------------------------ */

static void a_removed_region_costs_no_tables(void)
{
	pool_begin(200, false, POOL_GOOD);
	size_t tables = pool_tables();
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(TIB), TIB), 0);
	CU_ASSERT_EQUAL(pool_tables(), tables);
	CU_ASSERT_EQUAL(level_at(pgroot, TIB), ROOT_LEVEL);
	/* Not aligned: a path of tables at each end. */
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(4 * TIB - PGSIZE), TIB + 2 * PGSIZE), 0);
	CU_ASSERT_EQUAL(pool_tables(), tables + 6);
	CU_ASSERT_EQUAL(entry(pgroot, 4 * TIB - PGSIZE), DUNE_SPACE_REMOVED);
	CU_ASSERT_EQUAL(entry(pgroot, 5 * TIB), DUNE_SPACE_REMOVED);
	CU_ASSERT_EQUAL(entry(pgroot, 4 * TIB - 2 * PGSIZE), 0);
	CU_ASSERT_EQUAL(entry(pgroot, 5 * TIB + PGSIZE), 0);
	CU_ASSERT_EQUAL(dune_vm_follow(pgroot, at(0), 512 * GIB), 0);
	CU_ASSERT_EQUAL(dune_vm_follow(pgroot, at(TIB), 5 * TIB), 0);
	CU_ASSERT_EQUAL(pool_tables(), tables);
	pool_end();
}

static void a_closed_region_costs_no_tables_and_opens_again(void)
{
	pool_begin(200, false, POOL_GOOD);
	size_t tables = pool_tables();
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(TIB), TIB, PERM_NONE), 0);
	CU_ASSERT_EQUAL(pool_tables(), tables);
	CU_ASSERT_EQUAL(pool.asked, 0);
	CU_ASSERT_FALSE(dune_space_follows(pgroot, TIB + 5 * GIB));
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(TIB + 5 * GIB), PGSIZE, PERM_UTEXT), 0);
	CU_ASSERT_EQUAL(entry(pgroot, TIB + 5 * GIB), (TIB + 5 * GIB + PROCESS) | PTE_P | PTE_W | PTE_U | PTE_NX);
	CU_ASSERT_EQUAL(entry(pgroot, TIB + 5 * GIB + PGSIZE), SPACE_CLOSED);
	CU_ASSERT_FALSE(dune_space_follows(pgroot, TIB + 5 * GIB + PGSIZE));
	pool_end();
}

static void what_is_made_below_a_mark_leaves_the_rest_of_it(void)
{
	for (unsigned level = 1; level <= ROOT_LEVEL; level++)
		for (unsigned how = 0; how < 4; how++) {
			pool_begin(200, false, POOL_GOOD);
			uintptr_t hit = TIB + space_span(level) - 5 * PGSIZE;
			ptent_t *found = NULL;
			CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(TIB), space_span(level)), 0);
			CU_ASSERT_EQUAL(level_at(pgroot, hit), level);
			if (how == 0)
				CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(hit), 1, at(0x9000), PERM_R), 0);
			if (how == 1)
				CU_ASSERT_EQUAL(dune_vm_follow(pgroot, at(hit), 1), 0);
			if (how == 2)
				CU_ASSERT_EQUAL(dune_vm_lookup(pgroot, at(hit), CREATE_NORMAL, &found), 0);
			if (how == 3)
				CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, at(hit), 1, PERM_R), 0);
			CU_ASSERT_EQUAL(entry(pgroot, hit) & PTE_P, how == 0 || how == 3);
			CU_ASSERT_EQUAL(dune_space_follows(pgroot, hit), how == 1);
			if (found)
				CU_ASSERT_EQUAL(*found, DUNE_SPACE_REMOVED);
			CU_ASSERT_EQUAL(entry(pgroot, hit - PGSIZE), DUNE_SPACE_REMOVED);
			CU_ASSERT_EQUAL(entry(pgroot, hit + PGSIZE), DUNE_SPACE_REMOVED);
			CU_ASSERT_EQUAL(entry(pgroot, TIB), DUNE_SPACE_REMOVED);
			CU_ASSERT_EQUAL(entry(pgroot, TIB + space_span(level) - 1), DUNE_SPACE_REMOVED);
			pool_end();
		}
}

static void rights_do_not_bring_back_what_is_removed(void)
{
	pool_begin(200, false, POOL_GOOD);
	ptent_t *found;
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(BEGIN), PGSIZE), 0);
	CU_ASSERT_EQUAL(dune_vm_lookup(pgroot, at(BEGIN + PGSIZE), CREATE_NORMAL, &found), 0);
	*found = 0x77770000; /* the program's own */
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(BEGIN), 2 * PGSIZE, PERM_UTEXT), 0);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN), DUNE_SPACE_REMOVED);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + PGSIZE), 0x77770000);
	pool_end();
}

/* ---- rights of what follows --------------------------------------------------------------------------------------------------- */

static void rights_give_what_follows_entries_of_its_own(void)
{
	pool_begin(3000, false, POOL_GOOD);
	dune_space_lock();
	CU_ASSERT_EQUAL(dune_space_fill(pgroot, BEGIN, BEGIN + 2 * PGSIZE, BEGIN + PROCESS, PTE_W), 0);
	dune_space_unlock();
	pool_access(pgroot, BEGIN, true);
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(BEGIN), 4 * PGSIZE, PERM_R), 0);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN), (BEGIN + PROCESS) | PTE_P | PTE_NX | PTE_A | PTE_D);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + PGSIZE), (BEGIN + PGSIZE + PROCESS) | PTE_P | PTE_NX);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + 3 * PGSIZE), (BEGIN + 3 * PGSIZE + PROCESS) | PTE_P | PTE_NX);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + 4 * PGSIZE), 0);
	CU_ASSERT_EQUAL(pool.asked, 1);
	/* Once for each GiB. */
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(6 * GIB - PGSIZE), GIB + 2 * PGSIZE, PERM_R), 0);
	CU_ASSERT_EQUAL(pool.asked, 4);
	CU_ASSERT_EQUAL(entry(pgroot, 7 * GIB), (7 * GIB + PROCESS) | PTE_P | PTE_NX);
	pool.no_physical = ENOSPC;
	ASSERT_FAILS(dune_vm_mprotect(pgroot, at(20 * GIB), PGSIZE, PERM_R), ENOSPC, "guest-physical");
	CU_ASSERT_EQUAL(entry(pgroot, 20 * GIB), 0);
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(20 * GIB), PGSIZE, PERM_NONE), 0);
	CU_ASSERT_FALSE(dune_space_follows(pgroot, 20 * GIB));
	pool_end();
}

static void taking_every_right_keeps_the_page(void)
{
	pool_begin(200, false, POOL_GOOD);
	size_t in_use = pool_in_use();
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, at(BEGIN), PGSIZE, PERM_UTEXT), 0);
	struct page *page = dune_vm_lookup_page(pgroot, at(BEGIN));
	pool_access(pgroot, BEGIN, true);
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(BEGIN), PGSIZE, PERM_NONE), 0);
	CU_ASSERT_EQUAL(pool_access(pgroot, BEGIN, false), 0);
	CU_ASSERT_EQUAL(page->ref, 1);
	CU_ASSERT_PTR_EQUAL(dune_vm_lookup_page(pgroot, at(BEGIN)), page);
	ptent_t *clone = dune_vm_clone(pgroot);
	CU_ASSERT_EQUAL(page->ref, 2);
	CU_ASSERT_EQUAL(dune_vm_mprotect(clone, at(BEGIN), PGSIZE, PERM_R), 0);
	CU_ASSERT_EQUAL(entry(clone, BEGIN), dune_page2pa(page) | PTE_P | PTE_NX | PTE_A | PTE_D);
	CU_ASSERT_EQUAL(pool_access(pgroot, BEGIN, false), 0);
	dune_vm_free(clone);
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(BEGIN), PGSIZE), 0);
	CU_ASSERT_EQUAL(page->ref, 0);
	CU_ASSERT_EQUAL(dune_vm_follow(pgroot, at(0), 512 * GIB), 0);
	CU_ASSERT_EQUAL(pool_in_use(), in_use);
	pool_end();
}

/* ---- looking up, visiting ------------------------------------------------------------------------------------------------------- */

static void a_lookup_finds_the_entry_that_decides(void)
{
	pool_begin(200, false, POOL_GOOD);
	ptent_t *found, *again;
	size_t tables = pool_tables();
	ASSERT_FAILS(dune_vm_lookup(pgroot, at(BEGIN), CREATE_NONE, &found), ENOENT, "CREATE_NORMAL");
	CU_ASSERT_PTR_NULL(found);
	CU_ASSERT_EQUAL(pool_tables(), tables);
	for (int create = CREATE_NORMAL; create <= CREATE_BIG_1GB; create++) {
		uintptr_t va = BEGIN + (unsigned)create * TIB;
		CU_ASSERT_EQUAL(dune_vm_lookup(pgroot, at(va), create, &found), 0);
		CU_ASSERT_EQUAL(pool_tables(), tables += 4 - (unsigned)create);
		CU_ASSERT_EQUAL(*found, 0);
		*found = va | PTE_P | (create > CREATE_NORMAL ? PTE_PS : 0);
		CU_ASSERT_EQUAL(dune_vm_lookup(pgroot, at(va), CREATE_NONE, &again), 0);
		CU_ASSERT_PTR_EQUAL(again, found);
		CU_ASSERT_EQUAL(dune_vm_lookup(pgroot, at(va + 0xfff), CREATE_NORMAL, &again), 0);
		CU_ASSERT_PTR_EQUAL(again, found);
		CU_ASSERT_EQUAL(level_at(pgroot, va), (unsigned)create - 1);
	}
	ASSERT_FAILS(dune_vm_lookup(pgroot, at(BEGIN + TIB), CREATE_BIG, &found), EEXIST, "dune_vm_unmap");
	ASSERT_FAILS(dune_vm_lookup(pgroot, at(BEGIN + 2 * TIB), CREATE_BIG_1GB, &found), EEXIST, "dune_vm_unmap");
	/* Below a mark nothing is found, and made with the mark in it. */
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(20 * TIB), TIB), 0);
	ASSERT_FAILS(dune_vm_lookup(pgroot, at(20 * TIB), CREATE_NONE, &found), ENOENT, "CREATE_NORMAL");
	CU_ASSERT_EQUAL(dune_vm_lookup(pgroot, at(20 * TIB), CREATE_BIG, &found), 0);
	CU_ASSERT_EQUAL(*found, DUNE_SPACE_REMOVED);
	while (dune_page_alloc())
		;
	ASSERT_FAILS(dune_vm_lookup(pgroot, at(30 * TIB), CREATE_NORMAL, &found), ENOMEM, "used up");
	pool_end();
}

static void the_page_at_an_address_is_found(void)
{
	pool_begin(200, false, POOL_GOOD);
	struct page *page = dune_page_alloc();
	CU_ASSERT_EQUAL(dune_vm_insert_page(pgroot, at(BEGIN + 123), page, PERM_R), 0);
	CU_ASSERT_EQUAL(page->ref, 2);
	CU_ASSERT_PTR_EQUAL(dune_vm_lookup_page(pgroot, at(BEGIN + 4095)), page);
	CU_ASSERT_EQUAL(page->ref, 2);
	CU_ASSERT_EQUAL(dune_vm_insert_page(pgroot, at(BEGIN), page, PERM_R | PERM_W), 0);
	CU_ASSERT_EQUAL(page->ref, 2);
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(BEGIN + PGSIZE), 1, at(dune_page2pa(page)), PERM_R), 0);
	CU_ASSERT_EQUAL(page->ref, 3);
	errno = 0;
	CU_ASSERT_PTR_NULL(dune_vm_lookup_page(pgroot, at(BEGIN + 2 * PGSIZE)));
	CU_ASSERT_EQUAL(errno, ENOENT);
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(BEGIN), 1, at(0x9000), PERM_R), 0);
	CU_ASSERT_EQUAL(page->ref, 2);
	CU_ASSERT_PTR_NULL(dune_vm_lookup_page(pgroot, at(BEGIN)));
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(BEGIN), 8 * PGSIZE), 0);
	CU_ASSERT_EQUAL(page->ref, 1);
	dune_page_put(page);
	ASSERT_FAILS(dune_vm_insert_page(pgroot, at(BEGIN), page, PERM_R), EINVAL, "is free");
	ASSERT_FAILS(dune_vm_map_phys(pgroot, at(BEGIN), 1, at(dune_page2pa(page)), PERM_R), EINVAL, "is free");
	struct page stranger = { .ref = 1 };
	ASSERT_FAILS(dune_vm_insert_page(pgroot, at(BEGIN), &stranger, PERM_R), EINVAL, "no page of the pool");
	ASSERT_FAILS(dune_vm_insert_page(pgroot, at(BEGIN), NULL, PERM_R), EINVAL, "no page of the pool");
	CU_ASSERT_EQUAL(page->ref, 0);
	pool_end();
}

struct visits {
	size_t count;
	uintptr_t va[200];
	int stop_at;
};

static int visit(const void *argument, ptent_t *found, void *va)
{
	struct visits *visits = (struct visits *)(uintptr_t)argument;
	CU_ASSERT(*found & PTE_P);
	visits->va[visits->count++] = (uintptr_t)va;
	return visits->stop_at && (int)visits->count == visits->stop_at ? 42 : 0;
}

static void a_walk_visits_present_entries_in_order(void)
{
	static const uintptr_t there[] = { 0x10000,        BEGIN,
					   BEGIN + PGSIZE, BEGIN + BIG_PGSIZE,
					   2 * TIB,        DUNE_USER_END - PGSIZE };
	pool_begin(200, false, POOL_GOOD);
	for (unsigned i = 0; i < 6; i++)
		CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(there[i]), 1, at(0),
						 PERM_R | (i == 3 ? PERM_BIG :
							   i == 4 ? PERM_BIG_1GB :
								    0)),
				0);
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(BEGIN + 8 * PGSIZE), 1, at(0), PERM_NONE), 0);
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(8 * TIB), TIB), 0);
	struct visits visits = { 0 };
	CU_ASSERT_EQUAL(dune_vm_page_walk(pgroot, at(0), at(PAGEBASE - 1), visit, &visits), 0);
	CU_ASSERT_EQUAL(visits.count, 5);
	for (unsigned i = 0; i < 5; i++)
		CU_ASSERT_EQUAL(visits.va[i], there[i]);
	/* Both ends belong to the range; a large page is visited whose part does. */
	visits.count = 0;
	CU_ASSERT_EQUAL(dune_vm_page_walk(pgroot, at(BEGIN + PGSIZE), at(BEGIN + BIG_PGSIZE), visit, &visits), 0);
	CU_ASSERT_EQUAL(visits.count, 2);
	visits.count = 0;
	CU_ASSERT_EQUAL(dune_vm_page_walk(pgroot, at(BEGIN + 1), at(BEGIN + PGSIZE - 1), visit, &visits), 0);
	CU_ASSERT_EQUAL(visits.count, 1);
	visits.count = 0;
	CU_ASSERT_EQUAL(dune_vm_page_walk(pgroot, at(2 * TIB + 5 * MIB), at(2 * TIB + 6 * MIB), visit, &visits), 0);
	CU_ASSERT_EQUAL(visits.count, 1);
	CU_ASSERT_EQUAL(visits.va[0], 2 * TIB);
	visits.count = 0;
	CU_ASSERT_EQUAL(dune_vm_page_walk(pgroot, at(PAGEBASE + 200 * PGSIZE), VA_END, visit, &visits), 0);
	CU_ASSERT_EQUAL(visits.count, 1);
	CU_ASSERT_EQUAL(visits.va[0], there[5]);
	/* What the callback returns ends it. */
	visits = (struct visits){ .stop_at = 3 };
	CU_ASSERT_EQUAL(dune_vm_page_walk(pgroot, VA_START, VA_END, visit, &visits), 42);
	CU_ASSERT_EQUAL(visits.count, 3);
	CU_ASSERT_EQUAL(dune_vm_page_walk(pgroot, at(BEGIN), at(BEGIN - 1), visit, &visits), 0);
	ASSERT_FAILS(dune_vm_page_walk(pgroot, VA_START, at(DUNE_USER_END), visit, &visits), EINVAL, "user address");
	ASSERT_FAILS(dune_vm_page_walk(pgroot, at(DUNE_USER_END), VA_END, visit, &visits), EINVAL, "user address");
	CU_ASSERT_EQUAL(visits.count, 3);
	pool_end();
}

static void a_walk_goes_on_over_many_tables(void)
{
	pool_begin(4000, false, POOL_GOOD);
	size_t visits = 0;
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(6 * GIB - 3000 * PGSIZE), 6000 * PGSIZE, at(0), PERM_R), 0);
	CU_ASSERT_EQUAL(dune_vm_page_walk(pgroot, at(6 * GIB - 2999 * PGSIZE), at(7 * GIB), count_entries, &visits), 0);
	CU_ASSERT_EQUAL(visits, 5999);
	pool_end();
}

/* ---- clones ------------------------------------------------------------------------------------------------------------------------ */

static void a_clone_is_equal_and_apart(void)
{
	pool_begin(400, false, POOL_GOOD);
	size_t in_use = pool_in_use();
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, at(BEGIN), 3 * PGSIZE, PERM_UTEXT), 0);
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(8 * GIB), 1, at(8 * GIB), PERM_R | PERM_BIG_1GB), 0);
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(TIB), TIB), 0);
	dune_space_lock();
	CU_ASSERT_EQUAL(dune_space_fill(pgroot, 4 * GIB, 4 * GIB + PGSIZE, 4 * GIB + PROCESS, PTE_W), 0);
	dune_space_unlock();
	pool_access(pgroot, BEGIN, true);
	size_t used = pool_in_use();
	ptent_t *clone = dune_vm_clone(pgroot);
	CU_ASSERT_PTR_NOT_NULL_FATAL(clone);
	CU_ASSERT_EQUAL(pool_in_use() - used, pool_tables() / 2);
	struct page *page = dune_vm_lookup_page(pgroot, at(BEGIN));
	CU_ASSERT_EQUAL(page->ref, 2);
	static const uintptr_t places[] = { BEGIN, BEGIN + 2 * PGSIZE, 8 * GIB, TIB, 4 * GIB, 40 * GIB };
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		CU_ASSERT_EQUAL(entry(clone, places[i]), entry(pgroot, places[i]));
		CU_ASSERT_EQUAL(level_at(clone, places[i]), level_at(pgroot, places[i]));
	}
	CU_ASSERT_EQUAL(dune_vm_mprotect(clone, at(BEGIN), PGSIZE, PERM_R), 0);
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(BEGIN + PGSIZE), PGSIZE), 0);
	CU_ASSERT_NOT_EQUAL(entry(clone, BEGIN), entry(pgroot, BEGIN));
	CU_ASSERT_PTR_NOT_NULL(dune_vm_lookup_page(clone, at(BEGIN + PGSIZE)));
	dune_vm_free(clone);
	CU_ASSERT_EQUAL(page->ref, 1);
	CU_ASSERT_EQUAL(pool_in_use(), used - 1);
	CU_ASSERT_EQUAL(dune_vm_follow(pgroot, at(0), 2 * TIB), 0);
	CU_ASSERT_EQUAL(pool_in_use(), in_use);
	pool_end();
}

static void a_page_given_back_while_it_is_mapped_is_not_cloned(void)
{
	pool_begin(200, false, POOL_GOOD);
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, at(BEGIN), 40 * PGSIZE, PERM_UTEXT), 0);
	for (unsigned i = 0; i < 40; i++) /* the clone's tables are made of those freed last */
		dune_page_free(dune_vm_lookup_page(pgroot, at(BEGIN + i * PGSIZE)));
	ptent_t *clone = dune_vm_clone(pgroot);
	CU_ASSERT_EQUAL(entry(clone, BEGIN), DUNE_SPACE_REMOVED);
	pool_end();
}

static void freeing_what_is_no_clone_does_nothing(void)
{
	pool_begin(200, false, POOL_GOOD);
	ptent_t *clone = dune_vm_clone(pgroot);
	dune_vm_free(clone);
	size_t in_use = pool_in_use();
	dune_vm_free(clone);
	CU_ASSERT_EQUAL(errno, EINVAL);
	dune_vm_free(pgroot);
	CU_ASSERT_EQUAL(errno, EINVAL);
	dune_vm_free(NULL);
	dune_vm_free((ptent_t *)&in_use);
	CU_ASSERT_EQUAL(pool_in_use(), in_use);
	CU_ASSERT_NOT_EQUAL(entry(pgroot, PAGEBASE), 0);
	pool_end();
}

/* ---- failures ------------------------------------------------------------------------------------------------------------------------ */

static void running_out_of_pages_is_reported_and_harms_nothing(void)
{
	enum {
		POOL = 200
	};
	for (size_t left = 0; left < 4; left++) {
		pool_begin(POOL, false, POOL_GOOD);
		CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, at(8 * GIB), 1, at(8 * GIB), PERM_R | PERM_BIG_1GB), 0);
		size_t before = pool_in_use(), count = 0;
		struct page *taken[POOL];
		while (POOL - pool_in_use() > left)
			taken[count++] = dune_page_alloc();
		bool enough = left >= 2; /* for the two tables of a split */
		errno = 0;
		CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(8 * GIB + PGSIZE), PGSIZE), enough ? 0 : -1);
		CU_ASSERT_EQUAL(errno, enough ? 0 : ENOMEM);
		CU_ASSERT_EQUAL(entry(pgroot, 8 * GIB + PGSIZE) & PTE_P, enough ? 0 : PTE_P);
		CU_ASSERT(entry(pgroot, 8 * GIB) & PTE_P);
		CU_ASSERT(entry(pgroot, 9 * GIB - 1) & PTE_P);
		size_t in_use = pool_in_use();
		CU_ASSERT_PTR_NULL(dune_vm_clone(pgroot));
		CU_ASSERT_EQUAL(errno, ENOMEM);
		ASSERT_FAILS(dune_vm_map_pages(pgroot, at(BEGIN), 20 * PGSIZE, PERM_R), ENOMEM, "page pool");
		CU_ASSERT_EQUAL(entry(pgroot, BEGIN), 0);
		CU_ASSERT_EQUAL(pool_in_use(), in_use);
		while (count)
			dune_page_put(taken[--count]);
		CU_ASSERT_EQUAL(dune_vm_follow(pgroot, at(8 * GIB), GIB), 0);
		CU_ASSERT_EQUAL(pool_in_use(), before);
		pool_end();
	}
}

static void nothing_is_given_back_that_could_not_be_replaced(void)
{
	pool_begin(300, false, POOL_GOOD);
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, at(BEGIN), 100 * PGSIZE, PERM_UTEXT), 0);
	CU_ASSERT_EQUAL(dune_vm_lookup_page(pgroot, at(BEGIN))->ref, 1);
	struct page *page = dune_vm_lookup_page(pgroot, at(BEGIN));
	size_t in_use = pool_in_use();
	pool.fail = true;
	ASSERT_FAILS(dune_vm_unmap(pgroot, at(BEGIN), 100 * PGSIZE), EIO, "could not be replaced");
	ASSERT_FAILS(dune_vm_follow(pgroot, at(0), 512 * GIB), EIO, "could not be replaced");
	CU_ASSERT_EQUAL(page->ref, 1);
	CU_ASSERT_EQUAL(pool_in_use(), in_use);
	pool_end();
}

static void edits_come_in_batches_and_only_for_present_entries(void)
{
	pool_begin(300, false, POOL_GOOD);
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, at(BEGIN), 130 * PGSIZE, PERM_UTEXT), 0);
	CU_ASSERT_EQUAL(pool.calls, 0);
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(BEGIN), 130 * PGSIZE, PERM_R), 0);
	CU_ASSERT_EQUAL(pool.replaced, 130);
	CU_ASSERT_EQUAL(pool.calls, 3);
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at(BEGIN), 130 * PGSIZE, PERM_R), 0); /* no change */
	CU_ASSERT_EQUAL(pool.replaced, 130);
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, at(BEGIN), GIB), 0); /* one link */
	CU_ASSERT_EQUAL(pool.replaced, 131);
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, at(BEGIN), 130 * PGSIZE, PERM_UTEXT), 0);
	CU_ASSERT_EQUAL(pool.replaced, 131);
	pool_end();
}

static const struct harness_test tests[] = {
	{ "rights become the bits of entries, and senseless ones are refused", rights_become_bits },
	{ "a range covers the pages that it touches", a_range_covers_the_pages_that_it_touches },
	{ "addresses that are not the user's are refused", addresses_that_are_not_the_users_are_refused },
	{ "what is the library's own is refused, and shared by clones",
	  what_is_the_librarys_own_is_refused_and_shared },
	{ "a large page is one entry, and comes back as one", large_pages_are_one_entry },
	{ "a split keeps what is around", a_split_keeps_what_is_around, .seconds = 90 },
	{ "a split keeps the memory type", a_split_keeps_the_memory_type },
	{ "bits that processors set during a change are kept", bits_set_during_the_change_are_kept },
	{ "what is mapped again begins neither accessed nor dirty", mapping_again_begins_clean },
	{ "a removed region costs no tables", a_removed_region_costs_no_tables },
	{ "a closed region costs no tables and opens again", a_closed_region_costs_no_tables_and_opens_again },
	{ "what is made below a mark leaves the rest of it", what_is_made_below_a_mark_leaves_the_rest_of_it },
	{ "rights do not bring back what is removed", rights_do_not_bring_back_what_is_removed },
	{ "rights give what follows entries of its own", rights_give_what_follows_entries_of_its_own },
	{ "taking every right keeps the page", taking_every_right_keeps_the_page },
	{ "a lookup finds the entry that decides", a_lookup_finds_the_entry_that_decides },
	{ "the page of the pool at an address is found, and counted", the_page_at_an_address_is_found },
	{ "a walk visits present entries in order, both ends included", a_walk_visits_present_entries_in_order },
	{ "a walk goes on over many tables", a_walk_goes_on_over_many_tables },
	{ "a clone is equal and apart", a_clone_is_equal_and_apart },
	{ "a page given back while it is mapped is not cloned", a_page_given_back_while_it_is_mapped_is_not_cloned },
	{ "freeing what is no clone does nothing", freeing_what_is_no_clone_does_nothing },
	{ "running out of pages is reported and harms nothing", running_out_of_pages_is_reported_and_harms_nothing },
	{ "nothing is given back that could not be replaced", nothing_is_given_back_that_could_not_be_replaced },
	{ "edits come in batches, and only for present entries", edits_come_in_batches_and_only_for_present_entries },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
