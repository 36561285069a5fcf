/* tag.c - see tag.h and sthread.h */
#define _GNU_SOURCE
#include "tag.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "address_space.h"
#include "tag_heap.h"

enum {
	EXTENT_MIN = 64 << 10
}; /* bytes */
#define PAGE_COUNT (supervisor.machine->tags.size / DUNE_PAGE_SIZE)

/* The tag arena: who owns each page, and freed extents by size. */
static tag_t *owners; /* handle + 1; 0: nobody */
static uint64_t arena_used;
static struct free_extent {
	struct free_extent *next;
	struct tag_extent extent;
} * free_extents;

struct tag *tag_get(tag_t handle)
{
	struct tag *tag = handle_get(&supervisor.tags, handle);
	return tag && !tag->dying ? tag : NULL;
}

const struct tag *tag_mapped(tag_t handle)
{
	return handle_get(&supervisor.tags, handle);
}

bool supervisor_tag_exists(tag_t tag)
{
	return tag_get(tag) != NULL;
}

tag_t tag_at(uint64_t address)
{
	uint64_t offset = address - (uintptr_t)supervisor.machine->tags.host;
	return owners && offset < arena_used ? owners[offset / DUNE_PAGE_SIZE] - 1 : -1;
}

/* First fit: freed extents are few and mostly of one size. */
static int extent_new(uint64_t size, struct tag_extent *extent)
{
	for (struct free_extent **link = &free_extents; *link; link = &(*link)->next) {
		struct free_extent *found = *link;
		if (found->extent.size < size)
			continue;
		*extent = (struct tag_extent){ .offset = found->extent.offset, .size = size };
		found->extent.offset += size;
		found->extent.size -= size;
		if (!found->extent.size) {
			*link = found->next;
			free(found);
		}
		return 0;
	}
	if (dune_arena_back(supervisor.machine, &supervisor.machine->tags, arena_used + size) != 0)
		return -1;
	*extent = (struct tag_extent){ .offset = arena_used, .size = size };
	arena_used += size;
	return 0;
}

static void set_owner(const struct tag_extent *extent, tag_t owner)
{
	for (uint64_t page = 0; page < extent->size / DUNE_PAGE_SIZE; page++)
		owners[extent->offset / DUNE_PAGE_SIZE + page] = owner;
}

/* Gives an extent back, emptied.  Preconditions: no compartment maps it any more. */
static void extent_free(const struct tag_extent *extent)
{
	struct free_extent *entry = malloc(sizeof *entry);
	set_owner(extent, 0);
	madvise(supervisor.machine->tags.host + extent->offset, extent->size, MADV_DONTNEED);
	if (!entry)
		return; /* the addresses are lost, which is safe */
	*entry = (struct free_extent){ .next = free_extents, .extent = *extent };
	free_extents = entry;
}

static int tag_grow(struct tag *tag, size_t size)
{
	/* Large enough for the block, and growing with the tag so that there are few extents. */
	uint64_t wanted = tag->extent_count ? tag->extents[tag->extent_count - 1].size : EXTENT_MIN;
	while (wanted < size + DUNE_PAGE_SIZE)
		wanted *= 2;
	struct tag_extent *grown = realloc(tag->extents, (tag->extent_count + 1) * sizeof *grown);
	if (!grown)
		return -1;
	tag->extents = grown;
	struct tag_extent *extent = &grown[tag->extent_count];
	if (extent_new(wanted, extent) != 0)
		return -1;
	if (tag_heap_add_extent(tag->heap, supervisor.machine->tags.host + extent->offset, extent->size) != 0) {
		extent_free(extent);
		return -1;
	}
	set_owner(extent, tag->handle + 1);
	tag->extent_count++;
	tag->size += wanted;
	return 0;
}

tag_t tag_new(void)
{
	if (supervisor_enter() != 0)
		return -1;
	struct tag *tag = calloc(1, sizeof *tag);
	supervisor_lock();
	if (!owners) {
		owners = mmap(NULL, PAGE_COUNT * sizeof *owners, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (owners == MAP_FAILED)
			owners = NULL;
	}
	tag_t handle = -1;
	if (!tag || !owners || !(tag->heap = tag_heap_new()))
		dune_fail(ENOMEM, "out of memory");
	else
		handle = tag->handle = handle_new(&supervisor.tags, tag);
	if (tag && tag->heap && handle < 0)
		dune_fail(errno, errno == ENFILE ? "too many tags" : "out of memory");
	if (handle < 0 && tag) {
		tag_heap_delete(tag->heap);
		free(tag);
	}
	supervisor_unlock();
	return handle;
}

int tag_delete(tag_t handle)
{
	if (supervisor_enter() != 0)
		return -1;
	supervisor_lock();
	struct tag *tag = tag_get(handle);
	int result = -1;
	if (!tag) {
		dune_fail(EBADF, "no such tag");
	} else {
		tag->dying = true;
		result = address_spaces_revoke(tag);
		for (unsigned i = 0; result == 0 && i < tag->extent_count; i++)
			extent_free(&tag->extents[i]); /* after a failure the memory is never used again */
		handle_end(&supervisor.tags, handle);
		tag_heap_delete(tag->heap);
		free(tag->extents);
		free(tag);
	}
	supervisor_unlock();
	return result;
}

int tag_allocate(tag_t handle, size_t size, void **pointer)
{
	struct tag *tag = tag_get(handle);
	if (!tag)
		return EBADF;
	if (!size || size > supervisor.machine->tags.size / 4)
		return size ? ENOMEM : EINVAL;
	*pointer = tag_heap_allocate(tag->heap, size);
	if (!*pointer && tag_grow(tag, size) == 0)
		*pointer = tag_heap_allocate(tag->heap, size);
	if (!*pointer)
		return ENOMEM;
	memset(*pointer, 0, size);
	return 0;
}

int tag_release(tag_t handle, void *pointer)
{
	struct tag *tag = tag_get(handle);
	return tag && tag_heap_release(tag->heap, pointer) == 0 ? 0 : EINVAL;
}

void *smalloc(tag_t tag, size_t size)
{
	if (supervisor_inside()) {
		long answer = supervisor_service(SERVICE_ALLOCATE, (uint64_t)tag, size, 0, 0, 0);
		if (answer < 0 && answer > -4096) {
			errno = (int)-answer;
			return NULL;
		}
		return (void *)answer;
	}
	if (supervisor_enter() != 0)
		return NULL;
	void *pointer = NULL;
	supervisor_lock();
	int error = tag_allocate(tag, size, &pointer);
	supervisor_unlock();
	if (error)
		errno = error;
	return error ? NULL : pointer;
}

void sfree(void *pointer)
{
	if (!pointer)
		return;
	if (supervisor_inside()) {
		supervisor_answer(supervisor_service(SERVICE_FREE, (uint64_t)pointer, 0, 0, 0, 0));
		return;
	}
	if (supervisor_enter() != 0)
		return;
	supervisor_lock();
	int error = tag_release(tag_at((uint64_t)pointer), pointer);
	supervisor_unlock();
	if (error)
		errno = error;
}
