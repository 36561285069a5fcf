/*
 * scrub.c - overwrites what free() has left behind.
 *
 * Only the public interface of malloc is used.  A request is satisfied from a free block that is large enough, if
 * there is one, and only else from the end of the heap (the "top").  So: ask for large blocks until the old end of
 * the heap is passed, which takes every large free block and all of the old top; then for smaller and smaller ones,
 * each until it comes from beyond the old end again, which shows that no free block of that size is left.  The
 * smallest classes are asked for one by one, because the per-thread cache serves exact sizes only.
 */
#include <errno.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scrub.h"

#define PAGE 4096
#define LARGEST 65536       /* far below the size from which malloc() maps a block on its own */
#define CACHED_LARGEST 1032 /* the per-thread cache has blocks of 24, 40, ... 1032 usable bytes */
#define SMALLEST 24
#define STEP 16
#define SLACK (4u << 20) /* beyond the heap's size: what is taken from the new end, and the per-thread cache */

/* A block that is held, and the one that was taken after it. */
struct held {
	struct held *next;
};

struct scrub {
	struct held *held, **tail;
	uintptr_t old_end; /* of the heap */
	size_t budget;     /* bytes that may still be taken */
	bool failed;
};

/* Overwrites a block, whole pages by giving them back: the kernel fills them with zeros when they are next used. */
static void erase(void *block, size_t bytes)
{
	uintptr_t start = (uintptr_t)block, end = start + bytes;
	uintptr_t first = (start + PAGE - 1) & ~(uintptr_t)(PAGE - 1), last = end & ~(uintptr_t)(PAGE - 1);

	if (first >= last || madvise((void *)first, last - first, MADV_DONTNEED)) {
		explicit_bzero(block, bytes);
		return;
	}
	explicit_bzero(block, first - start);
	explicit_bzero((void *)last, end - last);
}

/* Takes blocks of this size until one lies beyond the old end of the heap. */
static void take_all(struct scrub *scrub, size_t size)
{
	while (!scrub->failed) {
		struct held *block = malloc(size);
		size_t usable = block ? malloc_usable_size(block) : 0;

		if (!block || usable > scrub->budget) {
			free(block);
			scrub->failed = true;
			break;
		}
		scrub->budget -= usable;
		erase(block, usable);
		if (size > CACHED_LARGEST && (uintptr_t)block >= scrub->old_end) {
			/* It joins the new end of the heap again, which so grows less. */
			free(block);
			break;
		}
		block->next = NULL;
		*scrub->tail = block;
		scrub->tail = &block->next;
		if ((uintptr_t)block + usable > scrub->old_end)
			break;
	}
}

int heap_scrub(void)
{
	int error = errno;

	/* Puts the small blocks that are kept apart together, and gives whole pages back. */
	malloc_trim(0);

	struct scrub scrub = {
		.old_end = (uintptr_t)sbrk(0),
		.budget = mallinfo2().arena + SLACK,
	};

	scrub.tail = &scrub.held;
	for (size_t size = LARGEST; size > CACHED_LARGEST; size /= 2)
		take_all(&scrub, size);
	for (size_t size = CACHED_LARGEST; size >= SMALLEST; size -= STEP)
		take_all(&scrub, size);

	/* Those taken first go into the per-thread cache, so that the last ones, beyond the old end, can join it. */
	for (struct held *block = scrub.held, *next; block; block = next) {
		next = block->next;
		explicit_bzero(block, sizeof(*block));
		free(block);
	}
	malloc_trim(0);
	errno = scrub.failed ? ENOMEM : error;
	return scrub.failed ? -1 : 0;
}
