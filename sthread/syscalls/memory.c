/* memory.c - private memory: the program break and the arena of mmap().  See call.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
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
	struct memory_shape *memory = &call->compartment->memory;
	uint64_t wanted = call->argument[0], base = supervisor.snapshot.heap_end;
	uint64_t end = round_up(wanted);
	/* What lies above the heap in the snapshot stays where it is. */
	if (wanted < base || end < wanted || end - base > call->compartment->policy->memory ||
	    end > supervisor.snapshot.heap_limit)
		return (long)memory->heap_end;
	if (end < memory->heap_end &&
	    address_space_clear(call->compartment->space, &call->bounds, end, memory->heap_end) != 0)
		return (long)memory->heap_end;
	memory->heap_end = end;
	return (long)wanted;
}

static bool take_free_range(struct memory_shape *memory, uint64_t size, uint64_t *start)
{
	for (unsigned i = 0; i < memory->free_range_count; i++) {
		struct free_range *range = &memory->free_ranges[i];
		if (range->size < size)
			continue;
		*start = range->start;
		range->start += size;
		range->size -= size;
		if (!range->size)
			*range = memory->free_ranges[--memory->free_range_count];
		return true;
	}
	return false;
}

static uint64_t arena_start(void)
{
	return supervisor.machine->window + SPACE_ARENA;
}

/* Takes addresses at the end of the arena.  They are limited as well: page tables for them are never given back. */
static long extend_arena(struct call *call, uint64_t size)
{
	struct compartment *compartment = call->compartment;
	uint64_t used = compartment->memory.arena_end - arena_start();
	if (size > SPACE_ARENA_END - SPACE_ARENA - used ||
	    (used + size) / ARENA_PER_QUOTA > compartment->policy->memory)
		return -ENOMEM;
	compartment->memory.arena_end += size;
	call->bounds = compartment_bounds(compartment);
	return 0;
}

static long take_range(struct call *call, uint64_t size, uint64_t *start)
{
	struct compartment *compartment = call->compartment;
	if (size > compartment->policy->memory)
		return -ENOMEM;
	if (take_free_range(&compartment->memory, size, start))
		return 0;
	*start = compartment->memory.arena_end;
	return extend_arena(call, size);
}

static long give_back_range(struct compartment *compartment, uint64_t start, uint64_t size)
{
	struct memory_shape *memory = &compartment->memory;
	struct memory_bounds bounds = compartment_bounds(compartment);
	if (address_space_clear(compartment->space, &bounds, start, start + size) != 0)
		return -ENOMEM;
	if (start + size == memory->arena_end)
		memory->arena_end = start;
	else if (memory->free_range_count < sizeof memory->free_ranges / sizeof *memory->free_ranges)
		memory->free_ranges[memory->free_range_count++] = (struct free_range){ start, size };
	return 0;
}

/* Whether [start, start + size) is a part of the arena that has been given. */
static bool lies_in_arena(const struct compartment *compartment, uint64_t start, uint64_t size)
{
	return start >= arena_start() && start <= compartment->memory.arena_end &&
	       size <= compartment->memory.arena_end - start;
}

/* Reads a file into a range; beyond its end there are zeros. */
static long copy_file(struct call *call, const struct open_file *file, uint64_t start, uint64_t length, uint64_t offset)
{
	for (uint64_t done = 0; done < length;) {
		struct iovec list[PIECES];
		int count;
		ssize_t some = call_pieces(call, start + done, length - done, true, list, PIECES, &count);
		if (some < 0)
			return -ENOMEM;
		compartment_unlock(call->compartment);
		ssize_t got = preadv(file->fd, list, count, (off_t)(offset + done));
		compartment_relock(call->compartment);
		if (got <= 0)
			return got < 0 ? -ENOMEM : 0;
		done += (uint64_t)got;
	}
	return 0;
}

/* Gives private memory; a private mapping of a granted file is a copy of it.  Hints and protection are ignored: the
 * memory is the compartment's own, readable, writable, never executable. */
long serve_mmap(struct call *call)
{
	uint64_t length = call->argument[1], size = round_up(length), flags = call->argument[3], start;
	const struct open_file *file = NULL;
	if (!length || size < length)
		return -EINVAL;
	if (!(flags & MAP_PRIVATE) || flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) || call->argument[2] & PROT_EXEC)
		return -EPERM;
	if (!(flags & MAP_ANONYMOUS)) {
		file = descriptor_get(call->compartment, (int)call->argument[4], PROT_READ);
		if (!file)
			return -EBADF;
		if (!S_ISREG(file->mode))
			return -ENODEV;
		if (call->argument[5] & DUNE_PAGE_MASK)
			return -EINVAL;
		if (size > FILE_COPY_MAX)
			return -ENOMEM;
	}
	long bad = take_range(call, size, &start);
	if (!bad && file && (bad = copy_file(call, file, start, length, call->argument[5])) != 0)
		give_back_range(call->compartment, start, size);
	return bad ? bad : (long)start;
}

long serve_munmap(struct call *call)
{
	uint64_t start = call->argument[0], size = round_up(call->argument[1]);
	if (start & DUNE_PAGE_MASK || !size)
		return -EINVAL;
	if (!lies_in_arena(call->compartment, start, size))
		return -EPERM;
	return give_back_range(call->compartment, start, size);
}

static long move_range(struct call *call, uint64_t from, uint64_t size, uint64_t new_size)
{
	char page[DUNE_PAGE_SIZE];
	uint64_t to;
	long bad = take_range(call, new_size, &to);
	if (bad)
		return bad;
	for (uint64_t at = 0; at < size && !bad; at += sizeof page)
		if (call_get(call, from + at, page, sizeof page) != 0 ||
		    call_put(call, to + at, page, sizeof page) != 0)
			bad = -ENOMEM;
	give_back_range(call->compartment, bad ? to : from, bad ? new_size : size);
	return bad ? bad : (long)to;
}

long serve_mremap(struct call *call)
{
	struct compartment *compartment = call->compartment;
	uint64_t start = call->argument[0], size = round_up(call->argument[1]), new_size = round_up(call->argument[2]);
	if (start & DUNE_PAGE_MASK || !size || !new_size || call->argument[3] & ~(uint64_t)MREMAP_MAYMOVE)
		return -EINVAL;
	if (!lies_in_arena(compartment, start, size))
		return -EFAULT;
	if (new_size <= size) {
		long bad = new_size < size ? give_back_range(compartment, start + new_size, size - new_size) : 0;
		return bad ? bad : (long)start;
	}
	if (new_size > compartment->policy->memory)
		return -ENOMEM;
	if (start + size == compartment->memory.arena_end && extend_arena(call, new_size - size) == 0)
		return (long)start;
	return call->argument[3] & MREMAP_MAYMOVE ? move_range(call, start, size, new_size) : -ENOMEM;
}

/* Private memory is readable and writable, nothing else: asking for that, or for less, changes nothing. */
long serve_mprotect(struct call *call)
{
	return call->argument[2] & PROT_EXEC ? -EPERM : 0;
}

/* Only what a program can see: memory that it says it does not need reads as zeros afterwards. */
long serve_madvise(struct call *call)
{
	uint64_t start = call->argument[0], size = round_up(call->argument[1]);
	if (start & DUNE_PAGE_MASK)
		return -EINVAL;
	if (call->argument[2] != MADV_DONTNEED || !lies_in_arena(call->compartment, start, size))
		return 0;
	return address_space_clear(call->compartment->space, &call->bounds, start, start + size) == 0 ? 0 : -ENOMEM;
}
