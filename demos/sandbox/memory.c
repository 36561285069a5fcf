/* memory.c - see memory.h. */
#include "memory.h"

#include <dune.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	MEMORY_MAPPED = 0x80
};

struct memory_area memory_image, memory_arena;
static ptent_t *root;

/* ---- areas --------------------------------------------------------------------------------------------- */

int memory_begin(void)
{
	root = dune_vm_clone(pgroot);
	return root ? 0 : -1;
}

void memory_enter(void)
{
	load_cr3((unsigned long)root);
}

int memory_reserve(struct memory_area *area, uintptr_t start, size_t size)
{
	size_t pages = (size + PAGE - 1) / PAGE;
	int fixed = start ? MAP_FIXED_NOREPLACE : 0;
	uint8_t *rights = calloc(pages, 1);
	if (!rights)
		return -1;
	void *at = mmap((void *)start, pages * PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
	if (at == MAP_FAILED || (start && at != (void *)start)) {
		int error = at == MAP_FAILED ? errno : EEXIST;
		if (at != MAP_FAILED)
			munmap(at, pages * PAGE);
		free(rights);
		errno = error;
		return -1;
	}
	*area = (struct memory_area){ .start = (uintptr_t)at, .pages = pages, .rights = rights };
	return 0;
}

/* The area that has all of this range; NULL if there is none. */
static struct memory_area *find_area(uintptr_t start, size_t size)
{
	struct memory_area *areas[] = { &memory_image, &memory_arena };
	for (unsigned i = 0; i < 2; i++) {
		uintptr_t offset = start - areas[i]->start;
		if (offset < areas[i]->pages * PAGE && size <= areas[i]->pages * PAGE - offset)
			return areas[i];
	}
	return NULL;
}

/* The rights of the pages that a range touches, and how many pages. */
static uint8_t *find_rights(uintptr_t start, size_t size, size_t *pages)
{
	struct memory_area *area = find_area(start, size);
	if (!area)
		return NULL;
	size_t first = (start - area->start) / PAGE;
	*pages = (start - area->start + size + PAGE - 1) / PAGE - first;
	return area->rights + first;
}

int memory_allow(uintptr_t start, size_t size, int protection)
{
	size_t pages;
	uint8_t *rights = find_rights(start, size, &pages);
	int result;
	if (!rights || start % PAGE || !size)
		return -EINVAL;
	if (protection & PROT_WRITE && protection & PROT_EXEC)
		return -EACCES;
	if (protection != PROT_NONE)
		protection |= PROT_READ; /* as the processor has it */
	if (protection == PROT_NONE) {
		dune_vm_unmap(root, (void *)start, pages * PAGE);
		result = 0;
	} else {
		int permissions = PERM_U | PERM_R | (protection & PROT_WRITE ? PERM_W : 0) |
				  (protection & PROT_EXEC ? PERM_X : 0);
		/* A GiB at a time: where it is in the guest is known for one address. */
		size_t done = 0;
		for (result = 0; done < pages * PAGE && !result;) {
			uintptr_t at = start + done, stop = (at | HUGE_PGMASK) + 1;
			size_t part = stop - at < pages * PAGE - done ? stop - at : pages * PAGE - done;
			uintptr_t physical = dune_va_to_pa((void *)at);
			if (!physical || dune_vm_map_phys(root, (void *)at, part, (void *)physical, permissions))
				result = -ENOMEM;
			done += part;
		}
		if (result) {
			dune_vm_unmap(root, (void *)start, pages * PAGE);
			memset(rights, 0, pages);
			return result;
		}
	}
	memset(rights, MEMORY_MAPPED | protection, pages);
	return 0;
}

int memory_remove(uintptr_t start, size_t size)
{
	size_t pages;
	uint8_t *rights = find_rights(start, size, &pages);
	if (!rights || start % PAGE || !size)
		return -EINVAL;
	dune_vm_unmap(root, (void *)start, pages * PAGE);
	memset(rights, 0, pages);
	return madvise((void *)start, pages * PAGE, MADV_DONTNEED) ? -errno : 0;
}

int memory_take(size_t size, int protection, uintptr_t *start)
{
	size_t wanted = size / PAGE + !!(size % PAGE), free = 0;
	if (!wanted || wanted > memory_arena.pages)
		return wanted ? -ENOMEM : -EINVAL;
	for (size_t i = 0; i < memory_arena.pages; i++) {
		free = memory_arena.rights[i] ? 0 : free + 1;
		if (free == wanted) {
			*start = memory_arena.start + (i + 1 - wanted) * PAGE;
			return memory_allow(*start, wanted * PAGE, protection);
		}
	}
	return -ENOMEM;
}

/* ---- pointers ------------------------------------------------------------------------------------------ */

bool memory_may(uintptr_t start, size_t size, int protection)
{
	size_t pages;
	if (!size)
		return true;
	uint8_t *rights = find_rights(start, size, &pages);
	for (size_t i = 0; rights && i < pages; i++)
		if ((rights[i] & protection) != protection)
			return false;
	return rights;
}

bool memory_is_mapped(uintptr_t start, size_t size)
{
	return size && memory_may(start, size, MEMORY_MAPPED);
}

bool memory_copy_in(void *to, uintptr_t from, size_t size)
{
	if (!memory_may(from, size, PROT_READ))
		return false;
	memcpy(to, (const void *)from, size);
	return true;
}

bool memory_copy_out(uintptr_t to, const void *from, size_t size)
{
	if (!memory_may(to, size, PROT_WRITE))
		return false;
	memcpy((void *)to, from, size);
	return true;
}

bool memory_copy_in_text(char *to, size_t room, uintptr_t from)
{
	for (size_t i = 0; i < room; i++) {
		if (!memory_copy_in(&to[i], from + i, 1))
			return false;
		if (!to[i])
			return true;
	}
	return false;
}
