/*
 * unit_pages.c - the page pool: references, exhaustion, misuse, threads; and the lock that guards it.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "space_pool.h"

static void a_page_lives_as_long_as_its_references(void)
{
	pool_begin(64, false, POOL_GOOD);
	size_t in_use = pool_in_use();
	struct page *page = dune_page_alloc();
	CU_ASSERT_PTR_NOT_NULL_FATAL(page);
	CU_ASSERT_EQUAL(page->ref, 1);
	CU_ASSERT_PTR_EQUAL(dune_page_get(page), page);
	dune_page_put(page);
	CU_ASSERT_EQUAL(pool_in_use(), in_use + 1);
	dune_page_put(page);
	CU_ASSERT_EQUAL(pool_in_use(), in_use);
	page = dune_page_alloc();
	CU_ASSERT_PTR_EQUAL(dune_page_get(dune_page_get(page)), page);
	dune_page_free(page);
	CU_ASSERT_EQUAL(pool_in_use(), in_use);
	pool_end();
}

static void pages_and_addresses_are_each_others_inverse(void)
{
	pool_begin(64, false, POOL_GOOD);
	CU_ASSERT_EQUAL(num_pages, 64);
	CU_ASSERT_EQUAL(PAGEBASE, (uintptr_t)pages);
	for (int i = 0; i < num_pages; i++) {
		physaddr_t address = dune_page2pa(&pages[i]);
		CU_ASSERT_EQUAL(address, PAGEBASE + (uint64_t)i * PGSIZE);
		CU_ASSERT_PTR_EQUAL(dune_pa2page(address + 4095), &pages[i]);
		CU_ASSERT(dune_page_isfrompool(address + 4095));
	}
	CU_ASSERT_FALSE(dune_page_isfrompool(PAGEBASE - 1));
	CU_ASSERT_FALSE(dune_page_isfrompool(PAGEBASE + 64 * PGSIZE));
	CU_ASSERT_FALSE(dune_page_isfrompool(0));
	pool_end();
}

static void every_page_is_handed_out_once(void)
{
	pool_begin(64, false, POOL_GOOD);
	size_t in_use = pool_in_use();
	struct page *all[64];
	size_t count = 0;
	while ((all[count] = dune_page_alloc())) {
		memset((void *)dune_page2pa(all[count]), 0xee, PGSIZE);
		count++;
	}
	CU_ASSERT_EQUAL(errno, ENOMEM);
	CU_ASSERT(strstr(dune_error(), "page pool is used up") != NULL);
	CU_ASSERT_EQUAL(count + in_use, 64);
	for (size_t i = 0; i < count; i++)
		for (size_t j = 0; j < i; j++)
			CU_ASSERT_PTR_NOT_EQUAL(all[i], all[j]);
	for (size_t i = 0; i < count; i++)
		dune_page_put(all[i]);
	CU_ASSERT_EQUAL(pool_in_use(), in_use);
	/* What programs write there does not come back in new pages of an address space. */
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, (void *)0x400000, 8 * PGSIZE, PERM_R), 0);
	for (uintptr_t va = 0x400000; va < 0x400000 + 8 * PGSIZE; va += PGSIZE) {
		const uint8_t *bytes = (uint8_t *)dune_page2pa(dune_vm_lookup_page(pgroot, (void *)va));
		for (size_t i = 0; i < PGSIZE; i++)
			CU_ASSERT_FATAL(bytes[i] == 0);
	}
	pool_end();
}

static void misuse_does_not_harm_the_pool(void)
{
	pool_begin(64, false, POOL_GOOD);
	size_t in_use = pool_in_use();
	struct page *page = dune_page_alloc(), stranger = { .ref = 1 };
	dune_page_free(page);
	dune_page_free(page);
	dune_page_put(page);
	CU_ASSERT_PTR_NULL(dune_page_get(page));
	CU_ASSERT_EQUAL(errno, EINVAL);
	CU_ASSERT_EQUAL(page->ref, 0);
	dune_page_put(&stranger);
	dune_page_free(&stranger);
	dune_page_put(NULL);
	dune_page_free((struct page *)((uintptr_t)page + 1));
	dune_page_free(&pages[0]); /* holds `pages` */
	dune_page_put(&pages[0]);
	CU_ASSERT_EQUAL(pages[0].ref, 1);
	CU_ASSERT_EQUAL(pool_in_use(), in_use);
	struct page *one = dune_page_alloc(), *two = dune_page_alloc();
	CU_ASSERT_PTR_NOT_EQUAL(one, two);
	pool_end();
}

static void a_pool_too_small_is_refused(void)
{
	static uint8_t memory[4 * PGSIZE] __attribute__((aligned(PGSIZE)));
	static const struct dune_space_operations operations;
	for (size_t count = 0; count <= 4; count++) {
		memset(memory, 0, sizeof memory);
		errno = 0;
		CU_ASSERT_EQUAL(dune_space_begin(memory, count * PGSIZE, &operations), -1);
		CU_ASSERT_EQUAL(errno, ENOMEM);
	}
	pgroot = NULL;
}

static void statistics_are_printed(void)
{
	pool_begin(64, false, POOL_GOOD);
	dune_page_stats();
	pool_end();
}

/* ---- threads ------------------------------------------------------------------------------------------------------------ */

enum {
	THREADS = 8,
	ROUNDS = 4000
};

static uint64_t counter; /* guarded by the lock */

static void *count_up(void *unused)
{
	for (unsigned i = 0; i < ROUNDS * 10; i++) {
		dune_space_lock();
		uint64_t read = counter;
		__asm__ volatile("pause");
		counter = read + 1;
		dune_space_unlock();
	}
	return unused;
}

static void the_lock_lets_one_in_at_a_time(void)
{
	pthread_t threads[THREADS];
	counter = 0;
	for (unsigned i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, count_up, NULL);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_EQUAL(counter, (uint64_t)THREADS * ROUNDS * 10);
}

/* Each thread has 1 GiB of pgroot, and clones everything now and then. */
static void *change_spaces(void *argument)
{
	uintptr_t begin = (1 + (uintptr_t)argument) * GIB;
	size_t wrong = 0;
	struct page *mine = dune_page_alloc();
	for (unsigned i = 0; i < ROUNDS / 10 && mine; i++) {
		void *va = (void *)(begin + i % 700 * PGSIZE);
		wrong += dune_vm_map_pages(pgroot, va, 3 * PGSIZE, PERM_R | PERM_W) != 0;
		wrong += dune_vm_insert_page(pgroot, va, mine, PERM_R) != 0;
		ptent_t *clone = dune_vm_clone(pgroot);
		wrong += !clone || dune_vm_lookup_page(clone, va) != mine;
		wrong += dune_vm_mprotect(pgroot, va, 4 * PGSIZE, PERM_R) != 0;
		wrong += dune_vm_unmap(pgroot, (void *)begin, GIB) != 0;
		wrong += dune_vm_lookup_page(clone, va) != mine;
		dune_vm_free(clone);
		dune_page_put(dune_page_get(mine));
	}
	dune_page_put(mine); /* others' clones may still show it */
	return (void *)(wrong + !mine);
}

static void threads_do_not_disturb_each_other(void)
{
	pthread_t threads[THREADS];
	pool_begin(20000, false, POOL_GOOD);
	size_t in_use = pool_in_use();
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, change_spaces, (void *)i);
	for (unsigned i = 0; i < THREADS; i++) {
		void *wrong;
		pthread_join(threads[i], &wrong);
		CU_ASSERT_PTR_NULL(wrong);
	}
	CU_ASSERT_EQUAL(dune_vm_follow(pgroot, (void *)0, 512 * GIB), 0);
	CU_ASSERT_EQUAL(pool_in_use(), in_use);
	pool_end();
}

static const struct harness_test tests[] = {
	{ "a page lives as long as its references", a_page_lives_as_long_as_its_references },
	{ "pages and addresses are each other's inverse", pages_and_addresses_are_each_others_inverse },
	{ "every page is handed out once, and new ones of an address space are zero", every_page_is_handed_out_once },
	{ "giving back what is free, or not the pool's, changes nothing", misuse_does_not_harm_the_pool },
	{ "a pool without room for an address space is refused", a_pool_too_small_is_refused },
	{ "statistics are printed", statistics_are_printed },
	{ "the lock lets one thread in at a time", the_lock_lets_one_in_at_a_time },
	{ "threads that change address spaces do not disturb each other", threads_do_not_disturb_each_other,
	  .seconds = 90 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
