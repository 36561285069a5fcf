/*
 * tag.h - tagged memory.  The books of a tag's allocator are outside the tag (tag_heap.h).
 * Caller holds the supervisor lock.
 */
#ifndef STHREAD_TAG_H
#define STHREAD_TAG_H

#include "supervisor.h"

struct tag_extent {
	uint64_t offset; /* in the tag arena */
	uint64_t size;
};

struct tag {
	tag_t handle;
	struct tag_heap *heap;
	struct tag_extent *extents;
	unsigned extent_count;
	uint64_t size; /* of all extents */
	bool dying;    /* being deleted: can no longer be granted or used */
};

struct tag *tag_get(tag_t handle);
/* The same, also while it is being deleted: for taking mappings away. */
const struct tag *tag_mapped(tag_t handle);
/* The tag that owns the byte at this address of the process; -1 if none does. */
tag_t tag_at(uint64_t address);
/* smalloc() and sfree() for both sides; errors as errno. */
int tag_allocate(tag_t handle, size_t size, void **pointer);
int tag_release(tag_t handle, void *pointer);

#endif
