/* live_working_sets.c - what one life can make of the address spaces that later lives of its kind get. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "live.h"

enum {
	PAGE = 4096,
	PARKED = 20,
	BLOCKS = 8,
	TABLES_EACH = 48, /* page tables that an address space may cost: some are needed anyhow */
};
#define BLOCK ((size_t)128 << 20)
#define STEP ((size_t)2 << 20) /* what one page table describes */

/* Hostile: touches pages that lie far apart.  Else: parks. */
static void *spread_or_park(void *hostile)
{
	uint64_t touched = 0;
	if (!hostile) {
		sthread_park();
		return NULL;
	}
	for (unsigned i = 0; i < BLOCKS; i++) {
		uint8_t *block = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (size_t at = 0; block != MAP_FAILED && at < BLOCK; at += STEP, touched++)
			block[at] = 1;
	}
	return (void *)touched;
}

static void one_life_does_not_make_later_ones_costly(void)
{
	live_init();
	sc_t sc;
	sthread_t st[PARKED + 1];
	struct sthread_statistics before, after;
	sc_init(&sc);
	for (unsigned i = 0; i < 3; i++)
		ASSERT_RETURNED(live_run(&sc, spread_or_park, (void *)1), BLOCKS * (BLOCK / STEP));
	ASSERT_EQUAL(live_create(&st[PARKED], &sc, spread_or_park, NULL), 0); /* in the space that there is */
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	for (unsigned i = 0; i < PARKED; i++)
		ASSERT_EQUAL(live_create(&st[i], &sc, spread_or_park, NULL), 0);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.address_spaces - before.address_spaces, PARKED);
	live_check(after.table_pages - before.table_pages <= PARKED * TABLES_EACH, __FILE__, __LINE__,
		   "%llu page tables for %d address spaces",
		   (unsigned long long)(after.table_pages - before.table_pages), PARKED);
	for (unsigned i = 0; i <= PARKED; i++) {
		ASSERT_EQUAL(live_step(st[i]), 0);
		ASSERT_RETURNED(live_join(st[i]), 0);
	}
}

static const struct harness_test tests[] = {
	{ "a life that touches memory far apart does not make later address spaces costly",
	  one_life_does_not_make_later_ones_costly, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
