/* tag_memory.c - see tag_memory.h */
#define _GNU_SOURCE
#include "tag_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "boundary.h"
#include "supervisor.h"

#define PAGES(bytes) ((bytes) / DUNE_PAGE_SIZE)

/* Offsets in the arena. */
struct free_extent {
	struct free_extent *next; /* in ascending order; no two touch, and none touches the end of what is used */
	uint64_t offset, size;
};

static tag_t *owners; /* of each page: handle + 1; 0: nobody */
static uint64_t arena_used;
static struct free_extent *free_extents;

static const struct dune_arena *arena(void)
{
	return &supervisor.machine->tags;
}

static int make_owners(void)
{
	if (owners)
		return 0;
	void *made = mmap(NULL, PAGES(arena()->size) * sizeof *owners, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (made == MAP_FAILED)
		return dune_fail(ENOMEM, "out of memory");
	owners = made;
	return 0;
}

static void set_owner(uint64_t offset, uint64_t size, tag_t owner)
{
	for (uint64_t page = 0; page < PAGES(size); page++)
		owners[PAGES(offset) + page] = owner + 1;
}

/* First fit; else from the end of what is used. */
static int find_room(uint64_t size, uint64_t *offset)
{
	for (struct free_extent **link = &free_extents; *link; link = &(*link)->next) {
		struct free_extent *found = *link;
		if (found->size < size)
			continue;
		*offset = found->offset;
		found->offset += size;
		found->size -= size;
		if (!found->size) {
			*link = found->next;
			free(found);
		}
		return 0;
	}
	if (size > arena()->size - arena_used)
		return dune_fail(ENOMEM, "tagged memory is used up (%zu MiB)", arena()->size >> 20);
	if (dune_arena_back(supervisor.machine, &supervisor.machine->tags, arena_used + size) != 0)
		return -1;
	*offset = arena_used;
	arena_used += size;
	return 0;
}

int tag_memory_take(tag_t owner, uint64_t size, struct tag_extent *extent)
{
	uint64_t offset = 0;
	if (make_owners() != 0 || find_room(size, &offset) != 0)
		return -1;
	set_owner(offset, size, owner);
	*extent = (struct tag_extent){ .address = (uintptr_t)arena()->host + offset,
				       .physical = arena()->physical + offset,
				       .size = size };
	return 0;
}

/* Joins a free extent with those that it touches.  Without memory for the list the addresses are lost, which is safe. */
static void make_free(uint64_t offset, uint64_t size)
{
	struct free_extent **link = &free_extents, *before = NULL;
	while (*link && (*link)->offset < offset) {
		before = *link;
		link = &before->next;
	}
	struct free_extent *after = *link;
	if (before && before->offset + before->size == offset) {
		before->size += size;
	} else {
		struct free_extent *made = malloc(sizeof *made);
		if (!made)
			return;
		*made = (struct free_extent){ .next = after, .offset = offset, .size = size };
		*link = before = made;
	}
	if (after && before->offset + before->size == after->offset) {
		before->size += after->size;
		before->next = after->next;
		free(after);
	}
	if (before->offset + before->size == arena_used) {
		arena_used = before->offset;
		for (link = &free_extents; *link != before; link = &(*link)->next)
			;
		*link = before->next;
		free(before);
	}
}

void tag_memory_give_back(const struct tag_extent *extent)
{
	uint64_t offset = extent->address - (uintptr_t)arena()->host;
	set_owner(offset, extent->size, -1);
	if (madvise((void *)extent->address, extent->size, MADV_DONTNEED) != 0)
		return; /* it still has its contents: never used again */
	make_free(offset, extent->size);
}

tag_t tag_at(uint64_t address)
{
	uint64_t offset = address - (uintptr_t)arena()->host, physical;
	if (offset >= arena()->size)
		return boundary_at(address, &physical);
	return owners && offset < arena_used ? owners[PAGES(offset)] - 1 : -1;
}

uint64_t tag_physical_at(uint64_t address)
{
	uint64_t offset = address - (uintptr_t)arena()->host, physical = 0;
	if (offset < arena()->size)
		return arena()->physical + offset;
	boundary_at(address, &physical);
	return physical;
}

void tag_memory_forget(void)
{
	for (struct free_extent *extent = free_extents, *next; extent; extent = next) {
		next = extent->next;
		free(extent);
	}
	free_extents = NULL;
	if (owners)
		munmap(owners, PAGES(arena()->size) * sizeof *owners);
	owners = NULL;
	arena_used = 0;
}
