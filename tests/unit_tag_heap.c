/* unit_tag_heap.c - the allocator of a tag: it keeps its promises whatever is written to the memory it manages. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "sthread/tag_heap.h"

#define PAGE 4096
/* Nothing is mapped there: an allocator that touched the memory would crash every test here. */
#define NOWHERE ((char *)0x100000000000)

static uint64_t random_state;

static uint64_t random_next(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return random_state >> 33;
}

/* Mostly small, sometimes large: 1 byte to 128 KiB. */
static size_t random_size(void)
{
	return 1 + random_next() % ((size_t)1 << (random_next() % 18));
}

static void an_empty_heap_has_no_memory(void)
{
	struct tag_heap *heap = tag_heap_new();

	CU_ASSERT_PTR_NOT_NULL_FATAL(heap);
	errno = 0;
	CU_ASSERT_PTR_NULL(tag_heap_allocate(heap, 1));
	CU_ASSERT_EQUAL(errno, ENOMEM);
	CU_ASSERT_EQUAL(tag_heap_size(heap, NOWHERE), 0);
	errno = 0;
	CU_ASSERT_EQUAL(tag_heap_release(heap, NOWHERE), -1);
	CU_ASSERT_EQUAL(errno, EINVAL);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
	tag_heap_delete(NULL);
}

static void impossible_sizes_are_refused(void)
{
	struct tag_heap *heap = tag_heap_new();

	CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE, 16 * PAGE), 0);
	errno = 0;
	CU_ASSERT_PTR_NULL(tag_heap_allocate(heap, 0));
	CU_ASSERT_EQUAL(errno, EINVAL);

	const size_t sizes[] = { 16 * PAGE + 1, SIZE_MAX, SIZE_MAX - 14, SIZE_MAX - 15, SIZE_MAX / 2, PTRDIFF_MAX };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		errno = 0;
		CU_ASSERT_PTR_NULL(tag_heap_allocate(heap, sizes[i]));
		CU_ASSERT_EQUAL(errno, ENOMEM);
	}
	CU_ASSERT_EQUAL(tag_heap_bytes_allocated(heap), 0);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

static void bad_extents_are_refused(void)
{
	struct tag_heap *heap = tag_heap_new();
	const struct {
		char *start;
		size_t bytes;
	} bad[] = {
		{ NULL, PAGE },
		{ NOWHERE + 64 * PAGE, 0 },
		{ NOWHERE + 64 * PAGE + 16, PAGE },
		{ NOWHERE + 64 * PAGE, PAGE + 16 },
		{ NOWHERE + 64 * PAGE, SIZE_MAX - PAGE + 1 },
		{ (char *)(uintptr_t)0x1000000000000, PAGE },
		{ NOWHERE, 4 * PAGE },
		{ NOWHERE - PAGE, 2 * PAGE },
		{ NOWHERE + 3 * PAGE, PAGE },
		{ NOWHERE + 3 * PAGE, 2 * PAGE },
		{ NOWHERE - PAGE, 8 * PAGE },
		{ NOWHERE + PAGE, PAGE },
	};

	CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE, 4 * PAGE), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		errno = 0;
		CU_ASSERT_EQUAL(tag_heap_add_extent(heap, bad[i].start, bad[i].bytes), -1);
		CU_ASSERT_EQUAL(errno, EINVAL);
	}
	CU_ASSERT_EQUAL(tag_heap_bytes_total(heap), 4 * PAGE);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

static void double_free_and_foreign_pointers_are_refused(void)
{
	struct tag_heap *heap = tag_heap_new(), *other = tag_heap_new();

	CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE, 16 * PAGE), 0);
	CU_ASSERT_EQUAL(tag_heap_add_extent(other, NOWHERE + 32 * PAGE, 16 * PAGE), 0);

	char *a = tag_heap_allocate(heap, 100), *b = tag_heap_allocate(heap, 100), *c = tag_heap_allocate(heap, 100);
	void *foreign = tag_heap_allocate(other, 100);
	int on_stack;
	void *const wrong[] = { NULL, b + 1, b + 16, b - 16, c + 112, foreign, &on_stack, heap, (void *)UINTPTR_MAX };

	CU_ASSERT(a && b && c && foreign);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		errno = 0;
		CU_ASSERT_EQUAL(tag_heap_release(heap, wrong[i]), -1);
		CU_ASSERT_EQUAL(errno, EINVAL);
		CU_ASSERT_EQUAL(tag_heap_size(heap, wrong[i]), 0);
	}
	CU_ASSERT_EQUAL(tag_heap_release(heap, b), 0);
	CU_ASSERT_EQUAL(tag_heap_release(heap, b), -1);
	CU_ASSERT_EQUAL(tag_heap_release(heap, a), 0);
	/* a and b are one free block now: both ends of it are still refused. */
	CU_ASSERT_EQUAL(tag_heap_release(heap, a), -1);
	CU_ASSERT_EQUAL(tag_heap_release(heap, b), -1);
	CU_ASSERT_EQUAL(tag_heap_bytes_allocated(heap), 112);
	CU_ASSERT_EQUAL(tag_heap_release(heap, c), 0);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
	tag_heap_delete(other);
}

static void sizes_are_rounded_up_to_sixteen(void)
{
	struct tag_heap *heap = tag_heap_new();

	CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE, 256 * PAGE), 0);
	for (size_t size = 1; size <= 1200; size++) {
		void *p = tag_heap_allocate(heap, size);

		CU_ASSERT_PTR_NOT_NULL(p);
		CU_ASSERT_EQUAL((uintptr_t)p % 16, 0);
		CU_ASSERT_EQUAL(tag_heap_size(heap, p), (size + 15) / 16 * 16);
	}
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

static void every_byte_of_an_extent_can_be_used(void)
{
	const size_t sizes[] = { 16, 48, 528, 1040, PAGE, 3 * PAGE };
	const size_t bytes = 145 * PAGE;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct tag_heap *heap = tag_heap_new();
		size_t count = 0;

		CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE, bytes), 0);
		while (tag_heap_allocate(heap, sizes[i]))
			count++;
		CU_ASSERT_EQUAL(count, bytes / sizes[i]);
		if (bytes % sizes[i])
			CU_ASSERT_PTR_NOT_NULL(tag_heap_allocate(heap, bytes % sizes[i]));
		CU_ASSERT_EQUAL(tag_heap_bytes_allocated(heap), bytes);
		CU_ASSERT_PTR_NULL(tag_heap_allocate(heap, 1));
		CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
		tag_heap_delete(heap);
	}
}

static void a_block_of_just_the_right_size_is_found(void)
{
	/* Sizes inside one class: the smaller ones are at the head of its list and must not hide the larger one. */
	for (size_t size = 512; size < 70000; size += 16 * (1 + size / 700)) {
		struct tag_heap *heap = tag_heap_new();
		char *at = NOWHERE;
		size_t pages = (size + PAGE - 1) / PAGE;
		void *large, *small;

		CU_ASSERT_EQUAL(tag_heap_add_extent(heap, at, pages * PAGE), 0);
		large = tag_heap_allocate(heap, size);
		if (pages * PAGE - size >= 16)
			CU_ASSERT_PTR_NOT_NULL(tag_heap_allocate(heap, pages * PAGE - size));
		CU_ASSERT_EQUAL(tag_heap_add_extent(heap, at + 2 * pages * PAGE, pages * PAGE), 0);
		small = tag_heap_allocate(heap, size - 16);
		CU_ASSERT_PTR_NOT_NULL(tag_heap_allocate(heap, pages * PAGE - (size - 16)));
		CU_ASSERT_EQUAL(tag_heap_release(heap, large), 0);
		CU_ASSERT_EQUAL(tag_heap_release(heap, small), 0);
		CU_ASSERT_PTR_EQUAL(tag_heap_allocate(heap, size), large);
		CU_ASSERT_PTR_NULL(tag_heap_allocate(heap, size));
		CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
		tag_heap_delete(heap);
	}
}

static void adjacent_extents_become_one(void)
{
	static const unsigned orders[][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
					    { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };

	for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
		struct tag_heap *heap = tag_heap_new();

		/* One that is not adjacent, added in between. */
		for (unsigned j = 0; j < 3; j++) {
			CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE + orders[i][j] * 2 * PAGE, 2 * PAGE), 0);
			if (j == i % 3)
				CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE + 7 * PAGE, PAGE), 0);
			CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
		}
		CU_ASSERT_EQUAL(tag_heap_bytes_total(heap), 7 * PAGE);
		CU_ASSERT_PTR_NULL(tag_heap_allocate(heap, 6 * PAGE + 1));
		CU_ASSERT_PTR_EQUAL(tag_heap_allocate(heap, 6 * PAGE), NOWHERE);
		CU_ASSERT_PTR_EQUAL(tag_heap_allocate(heap, PAGE), NOWHERE + 7 * PAGE);
		CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
		tag_heap_delete(heap);
	}
}

static void an_extent_joins_free_blocks_only(void)
{
	struct tag_heap *heap = tag_heap_new();

	CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE + PAGE, PAGE), 0);

	void *live = tag_heap_allocate(heap, PAGE);

	CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE, PAGE), 0);
	CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE + 2 * PAGE, PAGE), 0);
	CU_ASSERT_PTR_NULL(tag_heap_allocate(heap, PAGE + 1));
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	CU_ASSERT_EQUAL(tag_heap_release(heap, live), 0);
	CU_ASSERT_PTR_EQUAL(tag_heap_allocate(heap, 3 * PAGE), NOWHERE);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

#define MODEL_EXTENTS 4
#define MODEL_EXTENT_PAGES 64
#define MODEL_GRANULES (2 * MODEL_EXTENTS * MODEL_EXTENT_PAGES * PAGE / 16)
#define MODEL_BLOCKS 3000

static void random_operations_agree_with_a_model(void)
{
	static bool taken[MODEL_GRANULES];
	static struct {
		char *p;
		size_t size;
	} live[MODEL_BLOCKS];

	for (unsigned round = 0; round < 4; round++) {
		struct tag_heap *heap = tag_heap_new();
		size_t count = 0, bytes = 0, extents = 0;
		/* Every second round the extents touch each other. */
		size_t stride = (1 + round % 2) * MODEL_EXTENT_PAGES * (size_t)PAGE;

		random_state = 1 + round;
		memset(taken, 0, sizeof(taken));
		for (unsigned step = 0; step < 60000; step++) {
			bool growing = step / 6000 % 2 == 0;

			if (extents < MODEL_EXTENTS && step == extents * 5000) {
				CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE + extents * stride,
								    MODEL_EXTENT_PAGES * PAGE), 0);
				extents++;
			}
			if (count < MODEL_BLOCKS && random_next() % 100 < (growing ? 70 : 30)) {
				size_t size = random_size(), rounded = (size + 15) / 16 * 16;
				char *p = tag_heap_allocate(heap, size);
				size_t first = (size_t)(p - NOWHERE) / 16;

				if (!p)
					continue;
				CU_ASSERT_EQUAL((uintptr_t)p % 16, 0);
				CU_ASSERT_FATAL(p >= NOWHERE && first + rounded / 16 <= MODEL_GRANULES);
				CU_ASSERT(p + rounded <= NOWHERE + (extents - 1) * stride + MODEL_EXTENT_PAGES * PAGE);
				if (round % 2)
					CU_ASSERT((size_t)(p - NOWHERE) % stride + rounded <= stride / 2);
				CU_ASSERT_PTR_NULL(memchr(taken + first, true, rounded / 16));
				memset(taken + first, true, rounded / 16);
				live[count].p = p;
				live[count++].size = rounded;
				bytes += rounded;
			} else if (count) {
				size_t i = random_next() % count;

				CU_ASSERT_EQUAL(tag_heap_size(heap, live[i].p), live[i].size);
				CU_ASSERT_EQUAL(tag_heap_release(heap, live[i].p), 0);
				CU_ASSERT_EQUAL(tag_heap_release(heap, live[i].p), -1);
				memset(taken + (live[i].p - NOWHERE) / 16, false, live[i].size / 16);
				bytes -= live[i].size;
				live[i] = live[--count];
			}
			CU_ASSERT_EQUAL(tag_heap_bytes_allocated(heap), bytes);
			if (step % 500 == 0)
				CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
		}
		while (count)
			CU_ASSERT_EQUAL(tag_heap_release(heap, live[--count].p), 0);
		CU_ASSERT_EQUAL(tag_heap_check(heap), 0);

		/* Everything has come together again. */
		size_t whole = MODEL_EXTENT_PAGES * (size_t)PAGE;

		if (round % 2 == 0) {
			CU_ASSERT_PTR_EQUAL(tag_heap_allocate(heap, MODEL_EXTENTS * whole), NOWHERE);
		} else {
			CU_ASSERT_PTR_NULL(tag_heap_allocate(heap, whole + 1));
			for (unsigned i = 0; i < MODEL_EXTENTS; i++)
				CU_ASSERT_PTR_NOT_NULL(tag_heap_allocate(heap, whole));
		}
		CU_ASSERT_EQUAL(tag_heap_bytes_allocated(heap), tag_heap_bytes_total(heap));
		tag_heap_delete(heap);
	}
}

/* Runs a fixed sequence of operations over the memory and notes what came out; spoils the memory if asked to. */
static void note_sequence(char *memory, bool spoil, uint64_t *notes, size_t steps)
{
	struct tag_heap *heap = tag_heap_new();
	void *live[64] = { NULL };

	random_state = 42;
	CU_ASSERT_EQUAL(tag_heap_add_extent(heap, memory, 256 * PAGE), 0);
	for (size_t step = 0; step < steps; step++) {
		size_t i = random_next() % 64, size = random_size();

		if (spoil)
			memset(memory, (int)step, 256 * PAGE);
		if (live[i]) {
			notes[step] = (uint64_t)tag_heap_release(heap, live[i]);
			live[i] = NULL;
		} else {
			live[i] = tag_heap_allocate(heap, size);
			notes[step] = live[i] ? (uint64_t)((char *)live[i] - memory) : UINT64_MAX;
		}
	}
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

static void what_is_written_to_the_memory_changes_nothing(void)
{
	enum { STEPS = 2000 };
	static uint64_t untouched[STEPS], spoiled[STEPS];
	char *memory = aligned_alloc(PAGE, 256 * PAGE);

	CU_ASSERT_PTR_NOT_NULL_FATAL(memory);
	note_sequence(memory, false, untouched, STEPS);
	note_sequence(memory, true, spoiled, STEPS);
	CU_ASSERT_EQUAL(memcmp(untouched, spoiled, sizeof(untouched)), 0);
	free(memory);
}

static void many_small_blocks_are_fast(void)
{
	enum { BLOCKS = 200000 };
	struct tag_heap *heap = tag_heap_new();
	static void *blocks[BLOCKS];

	/* A list walk anywhere would make this take minutes: the time limit is the assertion. */
	CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE, 4096 * PAGE), 0);
	for (unsigned i = 0; i < BLOCKS; i++)
		blocks[i] = tag_heap_allocate(heap, 16 + i % 64);
	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = round % 2; i < BLOCKS; i += 2) {
			CU_ASSERT_EQUAL(tag_heap_release(heap, blocks[i]), 0);
			blocks[i] = NULL;
		}
		for (unsigned i = round % 2; i < BLOCKS; i += 2)
			blocks[i] = tag_heap_allocate(heap, 16 + i % 64);
	}
	for (unsigned i = 0; i < BLOCKS; i++)
		CU_ASSERT_EQUAL(tag_heap_release(heap, blocks[i]), 0);
	CU_ASSERT_PTR_EQUAL(tag_heap_allocate(heap, 4096 * PAGE), NOWHERE);
	tag_heap_delete(heap);
}

static const struct harness_test tests[] = {
	{ "an empty heap has no memory and knows no pointer", an_empty_heap_has_no_memory },
	{ "sizes that cannot be satisfied are refused, 0 and overflowing ones too", impossible_sizes_are_refused },
	{ "extents that are unaligned, empty or overlap are refused", bad_extents_are_refused },
	{ "double free and foreign pointers are refused", double_free_and_foreign_pointers_are_refused },
	{ "blocks are aligned to 16 and know their size", sizes_are_rounded_up_to_sixteen },
	{ "every byte of an extent can be handed out", every_byte_of_an_extent_can_be_used },
	{ "a free block of just the right size is found", a_block_of_just_the_right_size_is_found },
	{ "adjacent extents become one in any order", adjacent_extents_become_one },
	{ "an extent beside live blocks joins free ones only", an_extent_joins_free_blocks_only },
	{ "random operations agree with a model, and all memory comes back", random_operations_agree_with_a_model },
	{ "what is written to the memory changes nothing", what_is_written_to_the_memory_changes_nothing },
	{ "many small blocks take constant time", many_small_blocks_are_fast, .seconds = 20 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
