/* live_template_limits.c - what a life that starts from a large template can make the process do and give. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "live.h"

enum {
	PAGE = 4096,
	PAGES = 4096,
	BLOCK = PAGES * PAGE,
	QUOTA = 64 * PAGE,
};

static uint8_t *block;

static void *fill_block(void *unused)
{
	(void)unused;
	block = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (block == MAP_FAILED)
		return NULL;
	memset(block, 0x5a, BLOCK);
	return block;
}

/* Gives the block back and gets memory at the same place.  Returns how many of its bytes are not zero. */
static void *exchange_block(void *unused)
{
	(void)unused;
	uint64_t left = 0;
	if (munmap(block, BLOCK) != 0)
		return (void *)(uint64_t)errno;
	uint8_t *again = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (again != block)
		return (void *)-1;
	for (uint64_t i = 0; i < BLOCK; i++)
		left += again[i] != 0;
	return (void *)left;
}

static void *try_to_give_back(void *unused)
{
	(void)unused;
	uint64_t error = munmap(block, BLOCK) == 0 ? 0 : errno;
	return (void *)(block[0] == 0x5a && block[BLOCK - 1] == 0x5a ? error : 0);
}

static void *discard_some(void *unused)
{
	(void)unused;
	uint64_t error = madvise(block, QUOTA / 2, MADV_DONTNEED) == 0 ? 0 : errno;
	return (void *)(uint64_t)(error || block[0] || block[QUOTA / 2 - 1] || block[QUOTA / 2] != 0x5a);
}

static void giving_back_costs_few_exits(void)
{
	live_init();
	sc_t sc;
	struct sthread_statistics before, after;
	sc_init(&sc);
	sc_template_t template = sc_template(&sc, fill_block, NULL);
	ASSERT_EQUAL(sc_start_from(&sc, template), 0);
	for (unsigned i = 0; i < 3; i++) {
		ASSERT_EQUAL(sthread_statistics(&before), 0);
		ASSERT_RETURNED(live_run(&sc, exchange_block, NULL), 0);
		ASSERT_EQUAL(sthread_statistics(&after), 0);
		live_check(after.exits - before.exits < PAGES / 8, __FILE__, __LINE__, "%llu exits",
			   (unsigned long long)(after.exits - before.exits));
	}
}

static void giving_back_is_within_the_quota(void)
{
	live_init();
	sc_t none, sc;
	struct sthread_statistics before, after;
	sc_init(&none);
	sc_init(&sc);
	sc_template_t template = sc_template(&none, fill_block, NULL);
	ASSERT_EQUAL(sc_start_from(&sc, template), 0);
	ASSERT_EQUAL(sc_memory_quota(&sc, QUOTA), 0);
	ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)1), 1);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	ASSERT_RETURNED(live_run(&sc, try_to_give_back, NULL), ENOMEM);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	live_check(after.pages_copied - before.pages_copied <= QUOTA / PAGE, __FILE__, __LINE__, "%llu pages",
		   (unsigned long long)(after.pages_copied - before.pages_copied));
	/* Control: what the quota has room for is given back. */
	ASSERT_RETURNED(live_run(&sc, discard_some, NULL), 0);
	/* And nothing of it has reached the template. */
	ASSERT_EQUAL(sc_memory_quota(&sc, 0), 0);
	ASSERT_RETURNED(live_run(&sc, exchange_block, NULL), 0);
	ASSERT_RETURNED(live_run(&sc, exchange_block, NULL), 0);
}

static const struct harness_test tests[] = {
	{ "a life that gives a template's memory back costs few exits, and gets zeros for it",
	  giving_back_costs_few_exits, HARNESS_FORK },
	{ "giving a template's memory back takes no more than the quota", giving_back_is_within_the_quota,
	  HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
