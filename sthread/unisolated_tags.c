/* unisolated_tags.c - see unisolated.h: allocations in tags are allocations of malloc(), each in its place. */
#define _GNU_SOURCE
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "tag.h"
#include "unisolated.h"

enum {
	ALIGNMENT = 16
};

struct block {
	void *memory; /* first: what a block is found by */
	size_t size;
	tag_t tag;
	struct block *next, *before;
};

static void *tree;
static struct block *blocks;

static int compare(const void *one, const void *other)
{
	const struct block *a = one, *b = other;
	return ((uintptr_t)a->memory > (uintptr_t)b->memory) - ((uintptr_t)a->memory < (uintptr_t)b->memory);
}

static struct block *find(void *pointer)
{
	struct block key = { .memory = pointer };
	struct block **found = tfind(&key, &tree, compare);
	return found ? *found : NULL;
}

static void discard(struct block *block)
{
	tdelete(block, &tree, compare);
	*(block->before ? &block->before->next : &blocks) = block->next;
	if (block->next)
		block->next->before = block->before;
	free(block->memory);
	free(block);
}

static void *allocate(tag_t tag, size_t alignment, size_t size)
{
	struct block *block = calloc(1, sizeof *block);
	if (!block || posix_memalign(&block->memory, alignment < ALIGNMENT ? ALIGNMENT : alignment, size) != 0) {
		free(block);
		return NULL;
	}
	memset(block->memory, 0, size);
	block->size = size;
	block->tag = tag;
	if (!tsearch(block, &tree, compare)) {
		free(block->memory);
		free(block);
		return NULL;
	}
	block->next = blocks;
	if (blocks)
		blocks->before = block;
	blocks = block;
	return block->memory;
}

void unisolated_tag_count(tag_t tag, size_t *bytes, size_t *allocations)
{
	*bytes = *allocations = 0;
	for (const struct block *block = blocks; block; block = block->next)
		if (block->tag == tag) {
			*bytes += (block->size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
			++*allocations;
		}
}

void unisolated_tag_free(tag_t tag)
{
	for (struct block *block = blocks, *next; block; block = next) {
		next = block->next;
		if (block->tag == tag)
			discard(block);
	}
}

void unisolated_tags_forget(void)
{
	for (struct block *block = blocks, *next; block; block = next) {
		next = block->next;
		if (!tag_get(block->tag))
			discard(block);
	}
}

/* Whether the tag may hold so many bytes more. */
static bool within_quota(const struct tag *tag, size_t more)
{
	size_t bytes, allocations;
	if (tag->quota == UINT64_MAX)
		return true;
	unisolated_tag_count(tag->handle, &bytes, &allocations);
	return bytes <= tag->quota && more <= tag->quota - bytes;
}

size_t unisolated_size_of(const void *pointer)
{
	const struct block *block = find((void *)(uintptr_t)pointer);
	return block ? block->size : 0;
}

void *unisolated_smemalign(tag_t handle, size_t alignment, size_t size)
{
	int error = 0;
	void *pointer = NULL;
	supervisor_lock();
	const struct tag *tag = tag_get(handle);
	if (!tag)
		error = unisolated_inside() ? EPERM : EBADF;
	else if (!unisolated_may_write(handle))
		error = EPERM;
	else if (!size || !alignment || alignment & (alignment - 1) || alignment > SMEMALIGN_MAX)
		error = EINVAL;
	else if (!within_quota(tag, size) || !(pointer = allocate(handle, alignment, size)))
		error = ENOMEM;
	supervisor_unlock();
	if (error)
		dune_fail(error, "no memory from the tag: %s", strerror(error));
	return pointer;
}

/* Always to another place: pointers to the old one are noticed. */
void *unisolated_srealloc(void *pointer, size_t size)
{
	int error = 0;
	void *moved = NULL;
	supervisor_lock();
	struct block *block = pointer ? find(pointer) : NULL;
	const struct tag *tag = block ? tag_get(block->tag) : NULL;
	if (!tag || !size || !unisolated_may_write(block->tag))
		error = EINVAL;
	else if ((size > block->size && !within_quota(tag, size - block->size)) ||
		 !(moved = allocate(block->tag, ALIGNMENT, size)))
		error = ENOMEM;
	if (!error) {
		memcpy(moved, pointer, size < block->size ? size : block->size);
		discard(block);
	}
	supervisor_unlock();
	if (error)
		dune_fail(error, "the allocation cannot be changed: %s", strerror(error));
	return moved;
}

void unisolated_sfree(void *pointer)
{
	supervisor_lock();
	struct block *block = find(pointer);
	bool good = block && unisolated_may_write(block->tag);
	if (good)
		discard(block);
	supervisor_unlock();
	if (!good)
		dune_fail(EINVAL, "the pointer is not a live allocation of a tag");
}
