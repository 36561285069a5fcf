/* unit_tag_heap_resize.c - the allocator of a tag: resizing in place, and alignment. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
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

static struct tag_heap *heap_of(size_t pages)
{
	struct tag_heap *heap = tag_heap_new();

	CU_ASSERT_PTR_NOT_NULL_FATAL(heap);
	CU_ASSERT_EQUAL_FATAL(tag_heap_add_extent(heap, NOWHERE, pages * PAGE), 0);
	return heap;
}

static void growing_takes_the_room_behind(void)
{
	struct tag_heap *heap = heap_of(4);
	char *a = tag_heap_allocate(heap, 100), *b = tag_heap_allocate(heap, 100), *c;

	errno = 0;
	CU_ASSERT_EQUAL(tag_heap_resize(heap, a, 113), -1); /* b is in the way */
	CU_ASSERT_EQUAL(errno, ENOMEM);
	CU_ASSERT_EQUAL(tag_heap_asked(heap, a), 100);
	CU_ASSERT_EQUAL(tag_heap_resize(heap, a, 112), 0); /* its own last granule is not */
	CU_ASSERT_EQUAL(tag_heap_asked(heap, a), 112);
	CU_ASSERT_EQUAL(tag_heap_resize(heap, b, 1000), 0);
	CU_ASSERT_EQUAL(tag_heap_size(heap, b), 1008);
	CU_ASSERT_EQUAL(tag_heap_bytes_allocated(heap), 112 + 1008);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	CU_ASSERT_EQUAL(tag_heap_release(heap, b), 0);
	CU_ASSERT_EQUAL(tag_heap_resize(heap, a, 4 * PAGE), 0); /* everything */
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	CU_ASSERT_EQUAL(tag_heap_resize(heap, a, 4 * PAGE + 1), -1);
	CU_ASSERT_EQUAL(tag_heap_resize(heap, a, SIZE_MAX), -1);
	CU_ASSERT_EQUAL(tag_heap_resize(heap, a, SIZE_MAX - 15), -1);
	CU_ASSERT_PTR_NULL(tag_heap_allocate(heap, 1));
	CU_ASSERT_EQUAL(tag_heap_resize(heap, a, 1), 0);
	c = tag_heap_allocate(heap, 4 * PAGE - 16);
	CU_ASSERT_PTR_EQUAL(c, a + 16);
	CU_ASSERT_EQUAL(tag_heap_allocations(heap), 2);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

static void only_live_blocks_are_resized(void)
{
	struct tag_heap *heap = heap_of(4);
	char *a = tag_heap_allocate(heap, 100), *b = tag_heap_allocate(heap, 100);
	void *const wrong[] = { NULL, a + 16, b - 16, heap, (void *)UINTPTR_MAX, NOWHERE - 16 };

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		errno = 0;
		CU_ASSERT_EQUAL(tag_heap_resize(heap, wrong[i], 50), -1);
		CU_ASSERT_EQUAL(errno, EINVAL);
		CU_ASSERT_EQUAL(tag_heap_asked(heap, wrong[i]), 0);
	}
	errno = 0;
	CU_ASSERT_EQUAL(tag_heap_resize(heap, a, 0), -1);
	CU_ASSERT_EQUAL(errno, EINVAL);
	CU_ASSERT_EQUAL(tag_heap_release(heap, a), 0);
	CU_ASSERT_EQUAL(tag_heap_resize(heap, a, 50), -1);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

static void alignments_are_kept(void)
{
	struct tag_heap *heap = heap_of(4096);

	for (size_t alignment = 1; alignment <= TAG_HEAP_ALIGNMENT_MAX; alignment *= 2)
		for (size_t size = 1; size < 100000; size = size * 5 + 3) {
			char *spoil = tag_heap_allocate(heap, 16),
			     *p = tag_heap_allocate_aligned(heap, alignment, size);

			CU_ASSERT_PTR_NOT_NULL(p);
			CU_ASSERT_EQUAL((uintptr_t)p % alignment, 0);
			CU_ASSERT_EQUAL((uintptr_t)p % 16, 0);
			CU_ASSERT_EQUAL(tag_heap_asked(heap, p), size);
			CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
			CU_ASSERT_EQUAL(tag_heap_release(heap, p), 0);
			CU_ASSERT_EQUAL(tag_heap_release(heap, spoil), 0);
		}
	CU_ASSERT_PTR_EQUAL(tag_heap_allocate(heap, 4096 * PAGE), NOWHERE);
	tag_heap_delete(heap);
}

static void bad_alignments_are_refused(void)
{
	struct tag_heap *heap = heap_of(4096);
	const size_t bad[] = { 0, 3, 24, 4097, (size_t)TAG_HEAP_ALIGNMENT_MAX * 2, SIZE_MAX, SIZE_MAX / 2 + 1 };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		errno = 0;
		CU_ASSERT_PTR_NULL(tag_heap_allocate_aligned(heap, bad[i], 16));
		CU_ASSERT_EQUAL(errno, EINVAL);
	}
	errno = 0;
	CU_ASSERT_PTR_NULL(tag_heap_allocate_aligned(heap, PAGE, SIZE_MAX - 15));
	CU_ASSERT_EQUAL(errno, ENOMEM);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

static void a_block_that_begins_well_is_enough(void)
{
	struct tag_heap *heap = heap_of(4);

	CU_ASSERT_PTR_EQUAL(tag_heap_allocate_aligned(heap, PAGE, 4 * PAGE), NOWHERE);
	CU_ASSERT_PTR_NULL(tag_heap_allocate_aligned(heap, PAGE, 1));
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

static void a_cleared_heap_is_as_new(void)
{
	struct tag_heap *heap = heap_of(4);
	char *a = tag_heap_allocate(heap, 100);

	tag_heap_clear(heap);
	CU_ASSERT_EQUAL(tag_heap_asked(heap, a), 0);
	CU_ASSERT_EQUAL(tag_heap_release(heap, a), -1);
	CU_ASSERT_EQUAL(tag_heap_bytes_total(heap) + tag_heap_bytes_allocated(heap) + tag_heap_allocations(heap), 0);
	CU_ASSERT_PTR_NULL(tag_heap_allocate(heap, 1));
	CU_ASSERT_EQUAL(tag_heap_add_extent(heap, NOWHERE, PAGE), 0);
	CU_ASSERT_PTR_EQUAL(tag_heap_allocate(heap, PAGE), NOWHERE);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

enum {
	BLOCKS = 500,
	GRANULES = 1024 * PAGE / 16
};

/* What is said to be allocated, granule by granule. */
static bool taken[GRANULES];

static void mark(const char *p, size_t size, bool now)
{
	size_t first = (size_t)(p - NOWHERE) / 16, count = (size + 15) / 16;

	CU_ASSERT_FATAL(first + count <= GRANULES);
	for (size_t i = first; i < first + count; i++) {
		CU_ASSERT_NOT_EQUAL(taken[i], now);
		taken[i] = now;
	}
}

static void random_operations_agree_with_a_model(void)
{
	struct tag_heap *heap = heap_of(1024);
	static struct {
		char *p;
		size_t size;
	} live[BLOCKS];

	random_state = 11;
	for (unsigned step = 0; step < 50000; step++) {
		unsigned i = random_next() % BLOCKS;
		size_t size = 1 + random_next() % ((size_t)1 << (random_next() % 16));

		if (!live[i].p) {
			size_t alignment = (size_t)1 << random_next() % 14;

			live[i].p = tag_heap_allocate_aligned(heap, alignment, size);
			if (!live[i].p)
				continue;
			CU_ASSERT_EQUAL((uintptr_t)live[i].p % alignment, 0);
			live[i].size = size;
			mark(live[i].p, size, true);
		} else if (random_next() % 2) {
			mark(live[i].p, live[i].size, false);
			if (tag_heap_resize(heap, live[i].p, size) == 0)
				live[i].size = size;
			CU_ASSERT_EQUAL(tag_heap_asked(heap, live[i].p), live[i].size);
			mark(live[i].p, live[i].size, true);
		} else {
			mark(live[i].p, live[i].size, false);
			CU_ASSERT_EQUAL(tag_heap_release(heap, live[i].p), 0);
			live[i].p = NULL;
		}
		if (step % 500 == 0)
			CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	}
	for (unsigned i = 0; i < BLOCKS; i++)
		if (live[i].p)
			CU_ASSERT_EQUAL(tag_heap_release(heap, live[i].p), 0);
	CU_ASSERT_EQUAL(tag_heap_allocations(heap), 0);
	CU_ASSERT_PTR_EQUAL(tag_heap_allocate(heap, 1024 * PAGE), NOWHERE);
	CU_ASSERT_EQUAL(tag_heap_check(heap), 0);
	tag_heap_delete(heap);
}

static const struct harness_test tests[] = {
	{ "a block grows into the room behind it and gives it back", growing_takes_the_room_behind },
	{ "what is no live block is not resized", only_live_blocks_are_resized },
	{ "every alignment up to the largest is kept, and nothing is lost", alignments_are_kept },
	{ "alignments that are no power of two or too large are refused", bad_alignments_are_refused },
	{ "an aligned request is satisfied by a free block that begins well", a_block_that_begins_well_is_enough },
	{ "a cleared heap knows nothing", a_cleared_heap_is_as_new },
	{ "random resizing and alignment agree with a model", random_operations_agree_with_a_model },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
