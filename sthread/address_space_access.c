/* address_space_access.c - page faults, and reading and writing a compartment's memory by its own rights. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "address_space_parts.h"
#include "tag.h"

_Static_assert(SPACE_ARENA_END <= WINDOW_MIRROR_PROCESSORS, "what the mirror has in the window is no compartment's");

enum {
	FILL_AROUND = 16, /* entries of a sparse region filled in at one fault */
};
enum {
	FAULT_PRESENT = 1,
	FAULT_WRITE = 2,
	FAULT_EXECUTE = 16
};

bool space_within_quota(const struct address_space *space, const struct memory_bounds *bounds, size_t more)
{
	/* Its own: not what the address space had when the life began. */
	size_t pages = space->page_count - space->learned + space->table_pages - space->tables_before;
	return (pages + more) * DUNE_PAGE_SIZE <= bounds->quota;
}

/* A private page that the compartment may have; counts it. */
static int give_page(struct address_space *space, const struct memory_bounds *bounds, uint64_t page, uint64_t origin,
		     bool answering)
{
	if (!space_within_quota(space, bounds, 1)) {
		*bounds->out_of_memory = true;
		return -1;
	}
	if (space_make_private(space, page, origin, answering) != 0) {
		*bounds->out_of_memory = errno == ENOMEM;
		return -1;
	}
	++*bounds->pages_copied;
	return 0;
}

/* True for addresses whose pages are private and start as zeros. */
static bool is_growth(const struct memory_bounds *bounds, uint64_t address)
{
	uint64_t offset = address - supervisor.machine->window;
	return (offset >= SPACE_STACK_LOW && offset < SPACE_STACK_TOP) ||
	       (offset >= SPACE_MESSAGE_IN && offset < SPACE_MESSAGE_END) ||
	       (offset >= SPACE_ARENA && offset < SPACE_ARENA_END && address < bounds->arena_end) ||
	       (address >= supervisor.snapshot.heap_end && address < bounds->heap_end);
}

/* Fills in a not-present entry, if there is to be a page.  Returns -1 if not. */
static int bring_in(struct address_space *space, const struct memory_bounds *bounds, uint64_t page)
{
	if (is_growth(bounds, page))
		return give_page(space, bounds, page, 0, false);
	const struct snapshot_region *region = snapshot_find(&supervisor.snapshot, page);
	if (region) {
		uint64_t end = page + FILL_AROUND * DUNE_PAGE_SIZE < region->end ? page + FILL_AROUND * DUNE_PAGE_SIZE :
										   region->end;
		for (uint64_t at = page; at < end; at += DUNE_PAGE_SIZE) {
			uint64_t *entry = space_entry_common(space, at);
			if (!entry)
				return -1;
			if (!(*entry & DUNE_PTE_PRESENT))
				__atomic_store_n(entry, space_snapshot_value(region, at), __ATOMIC_RELEASE);
		}
		return 0;
	}
	/* A tag that grew after this life began. */
	tag_t tag = tag_at(page);
	int at = tag >= 0 ? space_find_tag(space, tag) : -1;
	if (at < 0 || !tag_get(tag))
		return -1;
	return space_fill(space, page, space_tag_value(tag_physical_at(page), space->tag[at].prot));
}

/* Makes the page usable as asked, if the compartment has the right.  answering: as for space_make_private(). */
static uint64_t *reach(struct address_space *space, const struct memory_bounds *bounds, uint64_t page, bool write,
		       bool answering)
{
	if (page < 0x10000 || page >= DUNE_USER_END)
		return NULL;
	uint64_t *entry = space_entry(space, page);
	if (!entry || !(*entry & DUNE_PTE_PRESENT)) {
		if (bring_in(space, bounds, page) != 0)
			return NULL;
		entry = space_entry(space, page);
		answering = true; /* nothing can be cached of an entry that was not present */
	}
	if (!entry || !(*entry & DUNE_PTE_USER))
		return NULL;
	if (write && !(*entry & DUNE_PTE_WRITE)) {
		if (!(*entry & DUNE_PTE_COPY_ON_WRITE) ||
		    give_page(space, bounds, page, *entry & DUNE_PTE_FRAME, answering) != 0)
			return NULL;
		entry = space_entry(space, page);
	}
	if (write)
		space_mark_written(entry);
	return entry;
}

int address_space_fault(struct address_space *space, const struct memory_bounds *bounds, uint64_t address,
			uint64_t error_code)
{
	const uint64_t *entry = reach(space, bounds, address & ~DUNE_PAGE_MASK, error_code & FAULT_WRITE, true);
	return entry && !(error_code & FAULT_EXECUTE && *entry & DUNE_PTE_NO_EXECUTE) ? 0 : -1;
}

ssize_t address_space_pieces(struct address_space *space, const struct memory_bounds *bounds, uint64_t address,
			     size_t length, bool write, struct iovec *pieces, int room, int *count)
{
	size_t done = 0;
	*count = 0;
	while (done < length) {
		uint64_t at = address + done;
		size_t some = DUNE_PAGE_SIZE - (at & DUNE_PAGE_MASK);
		if (some > length - done)
			some = length - done;
		const uint64_t *entry = reach(space, bounds, at & ~DUNE_PAGE_MASK, write, false);
		uint8_t *memory = entry ? dune_physical_at(supervisor.machine, *entry & DUNE_PTE_FRAME) : NULL;
		if (!memory)
			break;
		memory += at & DUNE_PAGE_MASK;
		if (*count && (uint8_t *)pieces[*count - 1].iov_base + pieces[*count - 1].iov_len == memory) {
			pieces[*count - 1].iov_len += some;
		} else {
			if (*count == room)
				break;
			pieces[(*count)++] = (struct iovec){ .iov_base = memory, .iov_len = some };
		}
		done += some;
	}
	if (length && !done) {
		errno = EFAULT;
		return -1;
	}
	return (ssize_t)done;
}

static int copy(struct address_space *space, const struct memory_bounds *bounds, uint64_t address, uint8_t *ours,
		size_t length, bool write)
{
	while (length) {
		struct iovec piece;
		int count;
		ssize_t some = address_space_pieces(space, bounds, address, length, write, &piece, 1, &count);
		if (some < 0)
			return -1;
		if (write)
			memcpy(piece.iov_base, ours, some);
		else
			memcpy(ours, piece.iov_base, some);
		address += some;
		ours += some;
		length -= some;
	}
	return 0;
}

int address_space_read(struct address_space *space, const struct memory_bounds *bounds, uint64_t address, void *to,
		       size_t length)
{
	return copy(space, bounds, address, to, length, false);
}

int address_space_write(struct address_space *space, const struct memory_bounds *bounds, uint64_t address,
			const void *from, size_t length)
{
	return copy(space, bounds, address, (uint8_t *)(uintptr_t)from, length, true);
}

int address_space_string(struct address_space *space, const struct memory_bounds *bounds, uint64_t address, char *to,
			 size_t room)
{
	size_t have = 0;
	while (have < room) {
		size_t some = DUNE_PAGE_SIZE - ((address + have) & DUNE_PAGE_MASK);
		if (some > room - have)
			some = room - have;
		if (address_space_read(space, bounds, address + have, to + have, some) != 0)
			return -1;
		if (memchr(to + have, 0, some))
			return 0;
		have += some;
	}
	errno = ENAMETOOLONG;
	return -1;
}
