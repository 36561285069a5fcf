/* unit_scrub.c - after heap_scrub() nothing that was freed is left in the heap. */
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "harness.h"
#include "sthread/process_map.h"
#include "sthread/scrub.h"

#define MARK 0xa7
#define LIVE 0x3c
#define RUN 4 /* so many MARKs in a row are a find */
#define BLOCKS 20000

static uint64_t random_state;

static uint64_t random_next(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return random_state >> 33;
}

/* How often the marker is found in the heap of brk. */
static size_t count_marks(void)
{
	struct process_map map;
	size_t found = 0, row = 0;

	CU_ASSERT_EQUAL_FATAL(process_map_read(&map), 0);
	for (size_t i = 0; i < map.count; i++) {
		if (map.mappings[i].kind != PROCESS_MAPPING_HEAP)
			continue;

		const uint8_t *end = (const uint8_t *)map.mappings[i].end;

		for (const uint8_t *at = (const uint8_t *)map.mappings[i].start; at < end; at++) {
			row = *at == MARK ? row + 1 : 0;
			found += row == RUN;
		}
	}
	process_map_free(&map);
	return found;
}

static struct block {
	uint8_t *p;
	size_t size;
} blocks[BLOCKS];

static void fill(struct block *block, size_t size, int with)
{
	block->p = malloc(size);
	CU_ASSERT_PTR_NOT_NULL_FATAL(block->p);
	block->size = malloc_usable_size(block->p);
	memset(block->p, with, block->size);
}

static void shuffle(size_t count)
{
	for (size_t i = count - 1; i > 0; i--) {
		size_t j = random_next() % (i + 1);
		struct block block = blocks[i];

		blocks[i] = blocks[j];
		blocks[j] = block;
	}
}

static bool is_our_malloc(void)
{
	void *p = malloc(100);
	bool in_heap = (uintptr_t)p < (uintptr_t)sbrk(0) && mallinfo2().arena;

	free(p);
	return in_heap;
}

#define NEED_MALLOC()                                                                         \
	do {                                                                                  \
		if (!is_our_malloc())                                                         \
			HARNESS_SKIP("malloc is not the one of glibc (a sanitizer's, maybe)"); \
	} while (0)

/* Leaves marks in freed blocks of 1 byte to 2^bits bytes; of every `keep` blocks one stays alive. */
static void litter(size_t count, unsigned bits, unsigned keep)
{
	size_t left = 0;

	for (size_t i = 0; i < count; i++)
		fill(&blocks[i], 1 + random_next() % ((size_t)1 << random_next() % (bits + 1)), MARK);
	shuffle(count);
	for (size_t i = 0; i < count; i++) {
		if (keep && i % keep == 0) {
			memset(blocks[i].p, LIVE, blocks[i].size);
			blocks[left++] = blocks[i];
		} else {
			free(blocks[i].p);
		}
	}
	/* What is alive is as it was, whatever is done to the rest. */
	blocks[left].p = NULL;
}

static void check_live(void)
{
	for (struct block *block = blocks; block->p; block++) {
		size_t right = 0;

		for (size_t i = 0; i < block->size; i++)
			right += block->p[i] == LIVE;
		CU_ASSERT_EQUAL(right, block->size);
		free(block->p);
	}
}

/* malloc still works. */
static void use_heap(void)
{
	static struct block again[2000];

	for (unsigned round = 0; round < 3; round++) {
		for (size_t i = 0; i < 2000; i++)
			fill(&again[i], 1 + random_next() % 20000, LIVE);
		for (size_t i = 0; i < 2000; i++) {
			CU_ASSERT(again[i].p[0] == LIVE && again[i].p[again[i].size - 1] == LIVE);
			free(again[i].p);
		}
	}
}

static void freed_blocks_are_found_without_the_scrub(void)
{
	NEED_MALLOC();
	random_state = 1;
	litter(5000, 16, 7);
	CU_ASSERT(count_marks() > 0);
	malloc_trim(0);
	CU_ASSERT(count_marks() > 0);
}

static void scrub_after(size_t count, unsigned bits, unsigned keep, uint64_t seed)
{
	random_state = seed;
	litter(count, bits, keep);
	CU_ASSERT_EQUAL(heap_scrub(), 0);
	CU_ASSERT_EQUAL(count_marks(), 0);
	check_live();
	use_heap();
}

static void no_freed_block_is_found_after_the_scrub(void)
{
	NEED_MALLOC();
	for (uint64_t seed = 1; seed <= 8; seed++) {
		static const unsigned keeps[] = { 7, 2, 3, 100 };

		scrub_after(5000, 16, keeps[seed % 4], seed);
	}
}

static void small_blocks_are_scrubbed(void)
{
	NEED_MALLOC();
	for (uint64_t seed = 1; seed <= 4; seed++)
		scrub_after(BLOCKS - 1, 11, 2 + (unsigned)seed, seed);
}

static void large_blocks_are_scrubbed(void)
{
	NEED_MALLOC();
	mallopt(M_MMAP_THRESHOLD, 4 << 20);
	for (uint64_t seed = 1; seed <= 3; seed++)
		scrub_after(500, 20, 5, seed);
}

static void every_size_class_is_scrubbed(void)
{
	NEED_MALLOC();
	for (size_t size = 1; size < 3000; size++) {
		struct block block, guard;

		fill(&block, size, MARK);
		fill(&guard, 24, LIVE);
		free(block.p);
	}
	CU_ASSERT(count_marks() > 0);
	CU_ASSERT_EQUAL(heap_scrub(), 0);
	CU_ASSERT_EQUAL(count_marks(), 0);
}

static void the_end_of_the_heap_is_scrubbed(void)
{
	NEED_MALLOC();
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	mallopt(M_MMAP_THRESHOLD, 4 << 20);
	for (size_t size = 1000; size < 1 << 20; size = size * 3 / 2 + 16) {
		struct block block;

		fill(&block, size, MARK);
		free(block.p);
		CU_ASSERT_EQUAL(heap_scrub(), 0);
		CU_ASSERT_EQUAL(count_marks(), 0);
	}
}

static void a_fresh_heap_can_be_scrubbed_again_and_again(void)
{
	size_t before, after;

	NEED_MALLOC();
	CU_ASSERT_EQUAL(heap_scrub(), 0);
	before = (size_t)sbrk(0);
	for (unsigned i = 0; i < 50; i++)
		CU_ASSERT_EQUAL(heap_scrub(), 0);
	after = (size_t)sbrk(0);
	CU_ASSERT(after <= before + (1 << 20));
	use_heap();
}

static void a_memory_limit_is_reported(void)
{
	struct rlimit limit = { 0 };

	NEED_MALLOC();
	random_state = 9;
	litter(1000, 12, 3);
	limit.rlim_max = limit.rlim_cur = 1; /* no page more than there are */
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_AS, &limit), 0);

	int result = heap_scrub();

	CU_ASSERT_EQUAL(result, -1);
	check_live();
}

static const struct harness_test tests[] = {
	{ "control: freed blocks are found without the scrub", freed_blocks_are_found_without_the_scrub, HARNESS_FORK },
	{ "no freed block is found after the scrub", no_freed_block_is_found_after_the_scrub, HARNESS_FORK },
	{ "many small freed blocks are scrubbed", small_blocks_are_scrubbed, HARNESS_FORK },
	{ "freed blocks up to 1 MiB are scrubbed", large_blocks_are_scrubbed, HARNESS_FORK },
	{ "a freed block of every size class is scrubbed", every_size_class_is_scrubbed, HARNESS_FORK },
	{ "the unused end of the heap is scrubbed", the_end_of_the_heap_is_scrubbed, HARNESS_FORK },
	{ "repeated scrubs do not make the heap grow", a_fresh_heap_can_be_scrubbed_again_and_again, HARNESS_FORK },
	{ "a scrub that a memory limit has stopped says so", a_memory_limit_is_reported, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
