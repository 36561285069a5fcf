/*
 * tag_heap.h - the allocator behind the memory of a tag.
 *
 * It only keeps the books: which bytes of the tag's extents are allocated and which are free.  The books are
 * ordinary heap memory of the process; no byte of an extent is ever read or written here, so whoever may write
 * to the tag can neither mislead the allocator nor learn from it (law 11).
 *
 * Allocate and release take constant time, except that an allocation which only a free block of just about its
 * own size could still satisfy looks through the free blocks of that size class, and an aligned one through a few more.
 *
 * Called from: host mode.  One heap is driven by one thread at a time.
 */
#ifndef STHREAD_TAG_HEAP_H
#define STHREAD_TAG_HEAP_H

#include <stdbool.h>
#include <stddef.h>

struct tag_heap;

enum {
	TAG_HEAP_ALIGNMENT_MAX = 2 << 20
};

/* Makes a heap without memory.  Pairs with tag_heap_delete().  Errors (NULL): ENOMEM. */
struct tag_heap *tag_heap_new(void) __attribute__((warn_unused_result));

/* Forgets everything about a heap; NULL is ignored.  The extents belong to the caller as before. */
void tag_heap_delete(struct tag_heap *heap);

/* Makes it a heap without memory again. */
void tag_heap_clear(struct tag_heap *heap);

/*
 * Gives the heap memory to hand out.  An extent that begins or ends where another one ends or begins becomes
 * one with it.  start and bytes are multiples of 4096, bytes is not 0, and no byte is in the heap already.
 * Errors: EINVAL those conditions do not hold; ENOMEM.  After a failure the heap is as before.
 */
int tag_heap_add_extent(struct tag_heap *heap, void *start, size_t bytes) __attribute__((warn_unused_result));

/*
 * Hands out size bytes, aligned to 16.  What is in them is what was left there.
 * Errors (NULL): EINVAL size is 0; ENOMEM no free block is large enough, or no memory for the books.
 */
void *tag_heap_allocate(struct tag_heap *heap, size_t size) __attribute__((warn_unused_result));

/*
 * The same, aligned to a power of two.  A free block of size + alignment - 16 bytes always suffices.
 * Errors (NULL): EINVAL also if alignment is not a power of two or exceeds TAG_HEAP_ALIGNMENT_MAX.
 */
void *tag_heap_allocate_aligned(struct tag_heap *heap, size_t alignment, size_t size)
	__attribute__((warn_unused_result));

/*
 * Makes the live allocation at pointer smaller or larger where it is.
 * Errors: EINVAL pointer is not a live allocation of this heap, or size is 0; ENOMEM no room behind it, or no memory for
 * the books.  After a failure nothing has changed.
 */
int tag_heap_resize(struct tag_heap *heap, void *pointer, size_t size) __attribute__((warn_unused_result));

/* The bytes that were asked for in the live allocation at pointer; 0 if there is none. */
size_t tag_heap_asked(const struct tag_heap *heap, const void *pointer);

/* The bytes that belong to the live allocation at pointer: what was asked for, rounded up to 16.  0 if
 * pointer is not what tag_heap_allocate() returned, or was released. */
size_t tag_heap_size(const struct tag_heap *heap, const void *pointer);

/* Finds the live allocation that holds the byte at pointer.  Looks at a bounded number of blocks; false if none was
 * found. */
bool tag_heap_around(const struct tag_heap *heap, const void *pointer, const void **start, size_t *size);

/* Takes an allocation back.  Errors: EINVAL pointer is not a live allocation of this heap; nothing changed. */
int tag_heap_release(struct tag_heap *heap, void *pointer);

/* The bytes that are allocated, and the bytes of all extents. */
size_t tag_heap_bytes_allocated(const struct tag_heap *heap);
size_t tag_heap_bytes_total(const struct tag_heap *heap);
/* The number of live allocations. */
size_t tag_heap_allocations(const struct tag_heap *heap);

/* Checks the books against themselves: 0, or -1 if they contradict each other.  Slow; for tests. */
int tag_heap_check(const struct tag_heap *heap);

#endif
