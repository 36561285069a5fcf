/* memory.c - private memory: the program break and the arena of mmap().  See call.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "syscalls/call.h"

enum {
	FILE_COPY_MAX = 16 << 20, /* bytes */
	ARENA_PER_QUOTA = 16
};

static uint64_t round_up(uint64_t bytes)
{
	return (bytes + DUNE_PAGE_MASK) & ~DUNE_PAGE_MASK;
}

long serve_brk(struct call *call)
{
	struct compartment *compartment = call->compartment;
	uint64_t wanted = call->argument[0], base = supervisor.snapshot.heap_end;
	uint64_t end = round_up(wanted);
	/* What lies above the heap in the snapshot stays where it is. */
	if (wanted >= base && end - base <= compartment->policy->memory && end <= supervisor.snapshot.heap_limit) {
		if (end < compartment->memory.heap_end &&
		    address_space_clear(compartment->space, end, compartment->memory.heap_end) != 0)
			return (long)compartment->memory.heap_end;
		compartment->memory.heap_end = end;
		return (long)wanted;
	}
	return (long)compartment->memory.heap_end;
}

static bool take_free_range(struct compartment *compartment, uint64_t size, uint64_t *start)
{
	for (unsigned i = 0; i < compartment->memory.free_range_count; i++) {
		struct free_range *range = &compartment->memory.free_ranges[i];
		if (range->size < size)
			continue;
		*start = range->start;
		range->start += size;
		range->size -= size;
		if (!range->size)
			*range = compartment->memory.free_ranges[--compartment->memory.free_range_count];
		return true;
	}
	return false;
}

/* Gives private memory; a private mapping of a granted file is a copy of it.  Hints and protection are ignored: the
 * memory is the compartment's own, readable, writable, never executable. */
long serve_mmap(struct call *call)
{
	struct compartment *compartment = call->compartment;
	uint64_t size = round_up(call->argument[1]), flags = call->argument[3], start;
	struct open_file *file = NULL;
	if (!call->argument[1] || size < call->argument[1])
		return -EINVAL;
	if (!(flags & MAP_PRIVATE) || flags & MAP_FIXED || call->argument[2] & PROT_EXEC)
		return -EPERM;
	if (!(flags & MAP_ANONYMOUS) && !(file = descriptor_get(compartment, (int)call->argument[4], PROT_READ)))
		return -EBADF;
	if (size > compartment->policy->memory || (file && size > FILE_COPY_MAX))
		return -ENOMEM;
	if (!take_free_range(compartment, size, &start)) {
		start = compartment->memory.arena_end;
		/* Addresses are limited as well: page tables for them are never given back. */
		uint64_t used = start - supervisor.machine->window - SPACE_ARENA;
		if (start + size > supervisor.machine->window + SPACE_ARENA_END ||
		    (used + size) / ARENA_PER_QUOTA > compartment->policy->memory)
			return -ENOMEM;
		compartment->memory.arena_end += size;
		call->bounds = compartment_bounds(compartment);
	}
	for (uint64_t done = 0; file && done < call->argument[1];) {
		struct iovec list[PIECES];
		int count;
		ssize_t some = call_pieces(call, start + done, call->argument[1] - done, true, list, PIECES, &count);
		if (some < 0)
			return -ENOMEM;
		compartment_unlock(compartment);
		ssize_t got = preadv(file->fd, list, count, (off_t)(call->argument[5] + done));
		compartment_relock(compartment);
		if (got <= 0)
			return got < 0 ? -ENOMEM : (long)start; /* beyond the end of the file: zeros */
		done += (uint64_t)got;
	}
	return (long)start;
}

long serve_munmap(struct call *call)
{
	struct compartment *compartment = call->compartment;
	uint64_t start = call->argument[0], size = round_up(call->argument[1]),
		 base = supervisor.machine->window + SPACE_ARENA;
	if (start & DUNE_PAGE_MASK || !size)
		return -EINVAL;
	if (start < base || start + size > compartment->memory.arena_end || start + size < start)
		return -EPERM;
	if (address_space_clear(compartment->space, start, start + size) != 0)
		return -ENOMEM;
	if (start + size == compartment->memory.arena_end)
		compartment->memory.arena_end = start;
	else if (compartment->memory.free_range_count < sizeof compartment->memory.free_ranges / sizeof *compartment->memory.free_ranges)
		compartment->memory.free_ranges[compartment->memory.free_range_count++] = (struct free_range){ start, size };
	return 0;
}

/* Private memory is readable and writable, nothing else: asking for that, or for less, changes nothing. */
long serve_mprotect(struct call *call)
{
	return call->argument[2] & PROT_EXEC ? -EPERM : 0;
}
