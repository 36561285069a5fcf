/* pristine.c - see pristine.h */
#define _GNU_SOURCE
#include "pristine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "address_space.h"
#include "tag.h"

struct pristine *pristine_snapshot(void)
{
	static struct pristine snapshot = { .references = 1 };
	snapshot.memory.heap_end = supervisor.snapshot.heap_end;
	snapshot.memory.arena_end = supervisor.machine->window + SPACE_ARENA;
	return &snapshot;
}

/* Whether a page can be part of a later life's beginning: not what belongs to one call or to somebody else. */
static bool is_kept(uint64_t address)
{
	uint64_t offset = address - supervisor.machine->window;
	return !(offset >= SPACE_STACK_LOW && offset < SPACE_STACK_TOP) &&
	       !(offset >= SPACE_MESSAGE_IN && offset < SPACE_MESSAGE_END) && tag_at(address) < 0;
}

static int by_address(const void *a, const void *b)
{
	const struct pristine_page *first = a, *second = b;
	return (first->address > second->address) - (first->address < second->address);
}

struct pristine *pristine_capture(const struct address_space *space, const struct memory_shape *memory)
{
	struct dune_machine *machine = supervisor.machine;
	struct pristine *pristine = calloc(1, sizeof *pristine);
	if (!pristine || !(pristine->pages = calloc(space->page_count + 1, sizeof *pristine->pages))) {
		free(pristine);
		return dune_fail(ENOMEM, "out of memory"), NULL;
	}
	pristine->references = 1;
	pristine->memory = *memory;
	for (size_t i = 0; i < space->page_count; i++) {
		const struct private_page *page = &space->pages[i];
		if (!is_kept(page->address) || !private_page_differs(page))
			continue;
		uint64_t frame = dune_frame_new(machine);
		if (!frame) {
			pristine_put(pristine);
			return dune_fail(ENOMEM, "out of guest memory"), NULL;
		}
		memcpy(dune_physical_at(machine, frame), dune_physical_at(machine, page->frame), DUNE_PAGE_SIZE);
		pristine->pages[pristine->page_count++] =
			(struct pristine_page){ .address = page->address, .frame = frame };
	}
	qsort(pristine->pages, pristine->page_count, sizeof *pristine->pages, by_address);
	return pristine;
}

void pristine_get(struct pristine *pristine)
{
	pristine->references++;
}

void pristine_put(struct pristine *pristine)
{
	if (--pristine->references)
		return;
	for (size_t i = 0; i < pristine->page_count; i++)
		dune_frame_free(supervisor.machine, pristine->pages[i].frame);
	free(pristine->pages);
	free(pristine);
}

uint64_t pristine_frame(const struct pristine *pristine, uint64_t address)
{
	size_t low = 0, high = pristine->page_count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (pristine->pages[middle].address == address)
			return pristine->pages[middle].frame;
		if (pristine->pages[middle].address < address)
			low = middle + 1;
		else
			high = middle;
	}
	return 0;
}
