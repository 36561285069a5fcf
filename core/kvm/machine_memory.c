/*
 * machine_memory.c - guest-physical memory: slots, arenas, ranges, frames.  See machine.h.
 * Source: Linux Documentation/virt/kvm/api.rst.
 */
#define _GNU_SOURCE
#include "kvm/machine_parts.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define MIB ((uint64_t)1 << 20)

/* Guest-physical layout: small enough for 38 bits, equal to the host's addresses modulo 2 MiB. */
enum {
	TABLES_AT = 4,
	IMAGE_AT = 8,
	FRAMES_AT = 16,
	TAGS_AT = 80,
	RANGES_AT = 144,
	PHYSICAL_END = 160 /* GiB */
};

/* ---- reserved address space ------------------------------------------------------------------------ */

static int reserve(struct dune_arena *arena, uint64_t physical, uint64_t size, uint64_t chunk, uint32_t flags)
{
	uint8_t *at = mmap(NULL, size + 2 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return dune_fail(ENOMEM, "cannot reserve %llu MiB of address space: raise the limit (ulimit -v)",
				 (unsigned long long)(size / MIB));
	uint64_t skip = -(uintptr_t)at & (2 * MIB - 1);
	if (skip)
		munmap(at, skip);
	munmap(at + skip + size, 2 * MIB - skip);
	*arena = (struct dune_arena){
		.host = at + skip, .physical = physical, .size = size, .chunk = chunk, .flags = flags
	};
	madvise(arena->host, size, MADV_DONTFORK);
	madvise(arena->host, size, MADV_DONTDUMP);
	return 0;
}

int dune_machine_reserve(struct dune_machine *machine)
{
	machine->window_size = 64 * GIB;
	uint8_t *at =
		mmap(NULL, machine->window_size + GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return dune_fail(ENOMEM, "cannot reserve 65 GiB of address space: raise the limit (ulimit -v)");
	uint64_t skip = -(uintptr_t)at & (GIB - 1);
	if (skip)
		munmap(at, skip);
	munmap(at + skip + machine->window_size, GIB - skip);
	machine->window = (uintptr_t)at + skip;
	madvise((void *)machine->window, machine->window_size, MADV_DONTDUMP);
	if (reserve(&machine->table_arena, TABLES_AT * GIB, 2 * GIB, 256 * MIB, 0) != 0 ||
	    reserve(&machine->image, IMAGE_AT * GIB, 4 * GIB, 64 * MIB, KVM_MEM_READONLY) != 0 ||
	    reserve(&machine->frames, FRAMES_AT * GIB, 64 * GIB, 256 * MIB, 0) != 0 ||
	    reserve(&machine->tags, TAGS_AT * GIB, 64 * GIB, 256 * MIB, 0) != 0)
		return -1;
	return 0;
}

/* ---- slots ----------------------------------------------------------------------------------------- */

static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER; /* of the list of slots, and who follows it */

/* Room for one more entry in the list of slots. */
static int grow_regions(struct dune_machine *machine)
{
	if (machine->next_slot < machine->region_room)
		return 0;
	unsigned room = machine->region_room ? 2 * machine->region_room : 64;
	struct kvm_userspace_memory_region *grown = realloc(machine->regions, room * sizeof *grown);
	if (!grown)
		return dune_fail(ENOMEM, "out of memory");
	machine->regions = grown;
	machine->region_room = room;
	return 0;
}

static int set_slot_locked(struct dune_machine *machine, const uint8_t *host, uint64_t physical, size_t size,
			   uint32_t flags)
{
	if (machine->next_slot == machine->slots_max)
		return dune_fail(ENOSPC, "KVM has no memory slot left (%u)", machine->slots_max);
	if (grow_regions(machine) != 0)
		return -1;
	struct kvm_userspace_memory_region region = {
		.slot = machine->next_slot,
		.flags = flags,
		.guest_phys_addr = physical,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};
	if (ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region) != 0)
		return dune_fail(ENOMEM, "KVM refused a memory slot: %s", strerror(errno));
	if (machine->slot_added && machine->slot_added(&region) != 0) {
		int error = errno;
		region.memory_size = 0;
		ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region);
		errno = error;
		return -1;
	}
	machine->regions[machine->next_slot++] = region;
	return 0;
}

static int set_slot(struct dune_machine *machine, const uint8_t *host, uint64_t physical, size_t size, uint32_t flags)
{
	pthread_mutex_lock(&slots_lock);
	int result = set_slot_locked(machine, host, physical, size, flags);
	pthread_mutex_unlock(&slots_lock);
	return result;
}

int dune_machine_follow_slots(struct dune_machine *machine,
			      int (*added)(const struct kvm_userspace_memory_region *region))
{
	int result = 0;
	pthread_mutex_lock(&slots_lock);
	for (unsigned i = 0; i < machine->next_slot && result == 0; i++)
		result = added(&machine->regions[i]);
	if (result == 0)
		machine->slot_added = added;
	pthread_mutex_unlock(&slots_lock);
	return result;
}

void dune_slots_lock(void)
{
	pthread_mutex_lock(&slots_lock);
}

void dune_slots_unlock(void)
{
	pthread_mutex_unlock(&slots_lock);
}

/* ---- arenas and ranges ----------------------------------------------------------------------------- */

int dune_arena_back(struct dune_machine *machine, struct dune_arena *arena, size_t bytes)
{
	while (arena->backed < bytes) {
		if (arena->backed + arena->chunk > arena->size)
			return dune_fail(ENOMEM, "the pool of guest memory is used up (%zu MiB)", arena->size >> 20);
		if (!(arena->flags & KVM_MEM_READONLY) &&
		    mprotect(arena->host + arena->backed, arena->chunk, PROT_READ | PROT_WRITE) != 0)
			return dune_fail(ENOMEM, "cannot make memory usable: %s", strerror(errno));
		if (set_slot(machine, arena->host + arena->backed, arena->physical + arena->backed, arena->chunk,
			     arena->flags) != 0)
			return -1;
		arena->backed += arena->chunk;
	}
	return 0;
}

int dune_tables_reserve(struct dune_machine *machine, size_t pages)
{
	size_t wanted = machine->tables.used + pages * DUNE_PAGE_SIZE;
	if (wanted <= machine->tables.size)
		return 0;
	if (dune_arena_back(machine, &machine->table_arena, wanted) != 0)
		return -1;
	machine->tables.size = machine->table_arena.backed;
	return 0;
}

uint64_t dune_range_add(struct dune_machine *machine, void *host, size_t size)
{
	const struct dune_arena *last = machine->range_count ? &machine->ranges[machine->range_count - 1] : NULL;
	uint64_t from = last ? last->physical + last->size : RANGES_AT * GIB;
	uint64_t physical = from + (((uintptr_t)host - from) & (2 * MIB - 1)); /* equal to host modulo 2 MiB */
	if (physical + size > PHYSICAL_END * GIB) {
		dune_fail(ENOMEM, "no guest-physical addresses left");
		return 0;
	}
	struct dune_arena *grown = realloc(machine->ranges, (machine->range_count + 1) * sizeof *grown);
	if (!grown) {
		dune_fail(ENOMEM, "out of memory");
		return 0;
	}
	machine->ranges = grown;
	if (set_slot(machine, host, physical, size, 0) != 0)
		return 0;
	machine->ranges[machine->range_count++] =
		(struct dune_arena){ .host = host, .physical = physical, .size = size, .backed = size };
	return physical;
}

int dune_ranges_add_again(struct dune_machine *machine)
{
	for (unsigned i = 0; i < machine->range_count; i++)
		if (set_slot(machine, machine->ranges[i].host, machine->ranges[i].physical, machine->ranges[i].size,
			     0) != 0)
			return -1;
	return 0;
}

void *dune_physical_at(const struct dune_machine *machine, uint64_t physical)
{
	const struct dune_arena *arenas[] = { &machine->frames, &machine->tags, &machine->image,
					      &machine->table_arena };
	for (unsigned i = 0; i < sizeof arenas / sizeof *arenas; i++)
		if (physical - arenas[i]->physical < arenas[i]->backed)
			return arenas[i]->host + (physical - arenas[i]->physical);
	for (unsigned i = 0; i < machine->range_count; i++)
		if (physical - machine->ranges[i].physical < machine->ranges[i].size)
			return machine->ranges[i].host + (physical - machine->ranges[i].physical);
	return NULL;
}

/* ---- frames ---------------------------------------------------------------------------------------- */

uint64_t dune_frames_fresh(struct dune_machine *machine, size_t count)
{
	size_t bytes = count * DUNE_PAGE_SIZE;
	if (dune_arena_back(machine, &machine->frames, machine->frames_used + bytes) != 0)
		return 0;
	uint64_t frame = machine->frames.physical + machine->frames_used;
	machine->frames_used += bytes;
	return frame;
}

uint64_t dune_frame_new(struct dune_machine *machine)
{
	if (!machine->free_count)
		return dune_frames_fresh(machine, 1);
	uint64_t frame = machine->free_frames[--machine->free_count];
	memset(dune_physical_at(machine, frame), 0, DUNE_PAGE_SIZE);
	return frame;
}

void dune_frame_free(struct dune_machine *machine, uint64_t frame)
{
	if (machine->free_count == machine->free_room) {
		size_t room = machine->free_room ? 2 * machine->free_room : 1024;
		uint64_t *grown = realloc(machine->free_frames, room * sizeof *grown);
		if (!grown)
			return; /* the frame is lost, which is safe */
		machine->free_frames = grown;
		machine->free_room = room;
	}
	machine->free_frames[machine->free_count++] = frame;
}
