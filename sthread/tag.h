/*
 * tag.h - tagged memory.  The books of a tag's allocator are outside the tag (tag_heap.h).
 * Caller holds the supervisor lock.
 */
#ifndef STHREAD_TAG_H
#define STHREAD_TAG_H

#include "supervisor.h"
#include "tag_memory.h"

struct tag {
	tag_t handle;
	struct tag_heap *heap;
	struct tag_extent *extents;
	unsigned extent_count;
	uint64_t size;  /* of all extents */
	uint64_t quota; /* which size may not exceed by growing */
	bool dying;     /* being deleted: can no longer be granted or used */
	bool permanent; /* its first extent is globals of the program */
};

struct tag *tag_get(tag_t handle);
/* The same, also while it is being deleted: for taking mappings away. */
const struct tag *tag_mapped(tag_t handle);

/* Makes a tag of memory that has a memory slot, whose contents nobody allocates.  Errors (-1): ENFILE; ENOMEM. */
tag_t tag_new_of(const struct tag_extent *extent);

/* smalloc(), srealloc() and sfree() for both sides; errors as errno.  may_grow: bytes that the tag may grow by on the
 * caller's account, beside its quota. */
int tag_allocate(tag_t handle, size_t alignment, size_t size, uint64_t may_grow, void **pointer);
int tag_reallocate(tag_t handle, void **pointer, size_t size, uint64_t may_grow);
int tag_release(tag_t handle, void *pointer);
/* The bytes that were asked for at pointer; 0 if that is no live allocation of the tag. */
size_t tag_size_of(tag_t handle, const void *pointer);

/* Serves SERVICE_ALLOCATE, SERVICE_REALLOCATE, SERVICE_FREE or SERVICE_SIZE, which is in the registers of a compartment: the answer. */
struct compartment;
long tag_service(struct compartment *compartment);

#endif
