/*
 * unit_space_mirror.c - entries that follow the process's mappings: which do, how they are filled, widened and dropped.
 */
#include <errno.h>
#include <string.h>

#include "space_pool.h"

#define BEGIN (3 * GIB)

static int fill(ptent_t *root, uintptr_t begin, uintptr_t end, uint64_t bits)
{
	dune_space_lock();
	int result = dune_space_fill(root, begin, end, begin + PROCESS, bits);
	dune_space_unlock();
	return result;
}

static int forget(uintptr_t begin, uintptr_t end, bool all)
{
	dune_space_lock();
	int result = dune_space_forget(begin, end, all);
	dune_space_unlock();
	return result;
}

static ptent_t entry(const ptent_t *root, uintptr_t va)
{
	unsigned level;
	return pool_entry(root, va, &level);
}

static void what_the_program_has_not_touched_follows(void)
{
	pool_begin(200, false, POOL_GOOD);
	CU_ASSERT(dune_space_follows(pgroot, BEGIN));
	CU_ASSERT(dune_space_follows(pgroot, DUNE_USER_END - 1));
	CU_ASSERT_FALSE(dune_space_follows(pgroot, DUNE_USER_END));
	CU_ASSERT_FALSE(dune_space_follows(pgroot, PAGEBASE));
	CU_ASSERT_EQUAL(fill(pgroot, BEGIN, BEGIN + PGSIZE, PTE_W), 0);
	CU_ASSERT(dune_space_follows(pgroot, BEGIN));
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, (void *)(BEGIN + 4096), 1), 0);
	CU_ASSERT_FALSE(dune_space_follows(pgroot, BEGIN + PGSIZE));
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, (void *)BEGIN, 1, PERM_R), 0);
	CU_ASSERT_FALSE(dune_space_follows(pgroot, BEGIN));
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, (void *)BEGIN, 1, PERM_NONE), 0);
	CU_ASSERT_FALSE(dune_space_follows(pgroot, BEGIN));
	CU_ASSERT_EQUAL(dune_vm_follow(pgroot, (void *)BEGIN, 2 * PGSIZE), 0);
	CU_ASSERT(dune_space_follows(pgroot, BEGIN));
	CU_ASSERT(dune_space_follows(pgroot, BEGIN + PGSIZE));
	pool_end();
}

static void a_fill_leaves_the_programs_entries_alone(void)
{
	pool_begin(200, false, POOL_GOOD);
	ptent_t *swapped;
	CU_ASSERT_EQUAL(dune_vm_lookup(pgroot, (void *)(BEGIN + 3 * PGSIZE), CREATE_NORMAL, &swapped), 0);
	*swapped = 0x1234500000; /* the program's own, not present */
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, (void *)(BEGIN + PGSIZE), PGSIZE), 0);
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, (void *)(BEGIN + 2 * PGSIZE), PGSIZE, (void *)0x7000, PERM_R), 0);
	CU_ASSERT_EQUAL(fill(pgroot, BEGIN, BEGIN + BIG_PGSIZE, PTE_W), 0);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN), (BEGIN + PROCESS) | PTE_W | PTE_P | PTE_MIRROR);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + PGSIZE), DUNE_SPACE_REMOVED);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + 2 * PGSIZE), 0x7000 | PTE_P | PTE_NX);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + 3 * PGSIZE), 0x1234500000);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + BIG_PGSIZE - PGSIZE),
			(BEGIN + BIG_PGSIZE - PGSIZE + PROCESS) | PTE_W | PTE_P | PTE_MIRROR);
	/* Where a larger entry is the program's, at any level. */
	for (unsigned level = 1; level <= 3; level++) {
		uintptr_t va = level * 1024 * GIB;
		CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, (void *)va, space_span(level)), 0);
		CU_ASSERT_EQUAL(fill(pgroot, va, va + BIG_PGSIZE, PTE_W), 0);
		CU_ASSERT_EQUAL(entry(pgroot, va), DUNE_SPACE_REMOVED);
	}
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, (void *)(16 * GIB), GIB, (void *)(16 * GIB), PERM_R | PERM_BIG_1GB),
			0);
	CU_ASSERT_EQUAL(fill(pgroot, 16 * GIB, 16 * GIB + BIG_PGSIZE, PTE_W), 0);
	CU_ASSERT_EQUAL(entry(pgroot, 16 * GIB), 16 * GIB | PTE_P | PTE_PS | PTE_NX);
	CU_ASSERT_EQUAL(pool.replaced, 0);
	pool_end();
}

static void a_fill_adds_rights_and_never_takes_them(void)
{
	pool_begin(200, false, POOL_GOOD);
	CU_ASSERT_EQUAL(fill(pgroot, BEGIN, BEGIN + PGSIZE, PTE_NX), 0);
	pool_access(pgroot, BEGIN, false);
	CU_ASSERT_EQUAL(fill(pgroot, BEGIN, BEGIN + PGSIZE, PTE_NX | PTE_W), 0);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN), (BEGIN + PROCESS) | PTE_P | PTE_MIRROR | PTE_A | PTE_W | PTE_NX);
	CU_ASSERT_EQUAL(fill(pgroot, BEGIN, BEGIN + PGSIZE, 0), 0);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN), (BEGIN + PROCESS) | PTE_P | PTE_MIRROR | PTE_A | PTE_W);
	CU_ASSERT_EQUAL(fill(pgroot, BEGIN, BEGIN + PGSIZE, PTE_NX), 0);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN), (BEGIN + PROCESS) | PTE_P | PTE_MIRROR | PTE_A | PTE_W);
	pool_end();
}

static void what_the_process_loses_is_dropped_in_every_root(void)
{
	pool_begin(400, false, POOL_GOOD);
	CU_ASSERT_EQUAL(fill(pgroot, BEGIN, BEGIN + 4 * PGSIZE, PTE_W), 0);
	ptent_t *roots[3] = { pgroot, dune_vm_clone(pgroot), dune_vm_clone(pgroot) };
	CU_ASSERT_EQUAL(dune_vm_mprotect(roots[1], (void *)BEGIN, 4 * PGSIZE, PERM_R | PERM_U), 0);
	CU_ASSERT_EQUAL(dune_vm_map_phys(roots[1], (void *)BEGIN, PGSIZE, (void *)0x5000, PERM_R), 0);
	for (unsigned i = 0; i < 3; i++)
		for (uintptr_t va = BEGIN; va < BEGIN + 4 * PGSIZE; va += PGSIZE)
			CU_ASSERT_NOT_EQUAL(pool_access(roots[i], va, false), 0);
	CU_ASSERT_EQUAL(forget(BEGIN, BEGIN + 2 * PGSIZE, false), 0);
	CU_ASSERT_EQUAL(pool_access(roots[0], BEGIN, false), 0);
	CU_ASSERT_EQUAL(pool_access(roots[2], BEGIN + PGSIZE, false), 0);
	CU_ASSERT_NOT_EQUAL(pool_access(roots[2], BEGIN + 2 * PGSIZE, false), 0);
	CU_ASSERT_NOT_EQUAL(pool_access(roots[1], BEGIN + PGSIZE, false), 0); /* the program's own entry */
	CU_ASSERT_EQUAL(pool.asked, 0);
	CU_ASSERT_EQUAL(forget(BEGIN, BEGIN + 4 * PGSIZE, true), 0);
	for (unsigned i = 0; i < 3; i++)
		for (uintptr_t va = BEGIN; va < BEGIN + 4 * PGSIZE; va += PGSIZE)
			CU_ASSERT_EQUAL(pool_access(roots[i], va, false) != 0,
					i == 1 && va == BEGIN); /* other memory */
	CU_ASSERT(dune_space_follows(roots[1], BEGIN + PGSIZE));
	pool.fail = true;
	CU_ASSERT_EQUAL(fill(pgroot, BEGIN, BEGIN + 4 * PGSIZE, PTE_W), 0);
	CU_ASSERT_EQUAL(forget(BEGIN, BEGIN + 4 * PGSIZE, false), -1);
	pool_end();
}

static void part_of_a_large_page_that_is_lost_leaves_the_rest(void)
{
	pool_begin(200, false, POOL_GOOD);
	void *physical = (void *)(BEGIN + PROCESS);
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, (void *)BEGIN, GIB, physical, PERM_UTEXT | PERM_BIG_1GB), 0);
	CU_ASSERT_EQUAL(forget(BEGIN + 5 * PGSIZE, BEGIN + 6 * PGSIZE, false), 0);
	CU_ASSERT_NOT_EQUAL(pool_access(pgroot, BEGIN + 5 * PGSIZE, false), 0);
	CU_ASSERT_EQUAL(forget(BEGIN + 5 * PGSIZE, BEGIN + 6 * PGSIZE, true), 0);
	CU_ASSERT_EQUAL(pool_access(pgroot, BEGIN + 5 * PGSIZE, false), 0);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN + 5 * PGSIZE), 0);
	CU_ASSERT_NOT_EQUAL(pool_access(pgroot, BEGIN + 4 * PGSIZE, false), 0);
	CU_ASSERT_NOT_EQUAL(pool_access(pgroot, BEGIN + GIB - 1, false), 0);
	pool_end();
}

static void memory_that_is_gone_is_out_of_reach_even_without_pages_for_tables(void)
{
	pool_begin(200, false, POOL_GOOD);
	void *physical = (void *)(BEGIN + PROCESS);
	CU_ASSERT_EQUAL(dune_vm_map_phys(pgroot, (void *)BEGIN, BIG_PGSIZE, physical, PERM_UTEXT | PERM_BIG), 0);
	CU_ASSERT_NOT_EQUAL(pool_access(pgroot, BEGIN, false), 0);
	while (dune_page_alloc())
		;
	CU_ASSERT_EQUAL(forget(BEGIN + 5 * PGSIZE, BEGIN + 6 * PGSIZE, true), 0);
	CU_ASSERT_EQUAL(pool_access(pgroot, BEGIN, false), 0);
	CU_ASSERT_EQUAL(entry(pgroot, BEGIN), DUNE_SPACE_REMOVED);
	CU_ASSERT_EQUAL(fill(pgroot, 40 * GIB, 40 * GIB + PGSIZE, PTE_W), -1);
	pool_end();
}

static void collect_root(ptent_t *root, void *argument)
{
	ptent_t ***next = argument;
	*(*next)++ = root;
}

static void every_root_is_listed_once(void)
{
	pool_begin(200, false, POOL_GOOD);
	ptent_t *one = dune_vm_clone(pgroot), *two = dune_vm_clone(one), *three = dune_vm_clone(pgroot);
	dune_vm_free(two);
	ptent_t *roots[8] = { 0 }, **next = roots;
	dune_space_lock();
	dune_space_roots(collect_root, &next);
	dune_space_unlock();
	CU_ASSERT_EQUAL(next - roots, 3);
	CU_ASSERT_PTR_EQUAL(roots[0], pgroot);
	CU_ASSERT((roots[1] == one && roots[2] == three) || (roots[1] == three && roots[2] == one));
	pool_end();
}

static const struct harness_test tests[] = {
	{ "what the program has not touched follows the process", what_the_program_has_not_touched_follows },
	{ "a fill leaves the program's entries alone, at every level", a_fill_leaves_the_programs_entries_alone },
	{ "a fill adds rights and never takes them", a_fill_adds_rights_and_never_takes_them },
	{ "what the process loses is dropped in every root", what_the_process_loses_is_dropped_in_every_root },
	{ "part of a large page that is lost leaves the rest", part_of_a_large_page_that_is_lost_leaves_the_rest },
	{ "memory that is gone is out of reach even without pages for tables",
	  memory_that_is_gone_is_out_of_reach_even_without_pages_for_tables },
	{ "every root is listed once", every_root_is_listed_once },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
