/*
 * address_space_restore.c - what happens to a space between two lives: pages that were written to are put back.
 *
 * A private page is as it should be if nobody has written to it since it was last restored.  Where dirty bits can be
 * trusted (dune_host.recycling_copies) they tell: the processor sets them for what ring 3 writes, space_mark_written() for
 * what the supervisor writes.  A bit that is cleared here is set by the next write only once no virtual CPU has the
 * translation cached, so the root's generation grows, and all that is cached of the space is lost.  Pages that are copied
 * in any case keep their bits: those that change between lives, and a few that each of the last lives has written to (a
 * habit).  Elsewhere all private pages are copied.
 *
 * Now and then it is looked what the last life has written to, for address_space_learn.c.
 */
#define _GNU_SOURCE
#include "address_space_parts.h"

#include <string.h>

#include "kvm/tags.h"

enum {
	HABIT_LIVES = 8, /* lives running that must have written to a page, */
	HABITS = 16      /* of so many pages of a space: more copies cost more than what is cached is worth */
};

/* ---- restoring ------------------------------------------------------------------------------------- */

bool private_page_differs(const struct private_page *page)
{
	static const uint8_t zeros[DUNE_PAGE_SIZE];
	const struct dune_machine *machine = supervisor.machine;
	const void *origin = page->origin ? dune_physical_at(machine, page->origin) : zeros;
	return memcmp(dune_physical_at(machine, page->frame), origin, DUNE_PAGE_SIZE) != 0;
}

void private_page_restore(const struct private_page *page)
{
	const struct dune_machine *machine = supervisor.machine;
	if (page->origin)
		memcpy(dune_physical_at(machine, page->frame), dune_physical_at(machine, page->origin), DUNE_PAGE_SIZE);
	else
		memset(dune_physical_at(machine, page->frame), 0, DUNE_PAGE_SIZE);
}

static bool is_dirty(const uint64_t *entry)
{
	return __atomic_load_n(entry, __ATOMIC_RELAXED) & DUNE_PTE_DIRTY;
}

/* Takes the dirty bit away, if it is there. */
static bool take_dirty(uint64_t *entry)
{
	if (!is_dirty(entry))
		return false;
	__atomic_fetch_and(entry, ~DUNE_PTE_DIRTY, __ATOMIC_RELAXED);
	return true;
}

static void note_habit(struct address_space *space, struct private_page *page, bool written)
{
	page->written = !written ? 0 : page->written < HABIT_LIVES ? page->written + 1 : HABIT_LIVES;
	bool habit = page->written == HABIT_LIVES && !page->always && !supervisor.no_habits &&
		     (page->habit || space->habits < HABITS);
	space->habits += habit && !page->habit;
	page->habit = habit;
}

/* Returns how many pages were copied. */
static size_t restore_dirty(struct address_space *space, bool look)
{
	/* A bit that is left tells of the lives since the last look, and right after that of one. */
	const bool looked = space->lives % ADDRESS_SPACE_LOOK == 1;
	size_t copied = 0, habits = 0;
	bool taken = false;
	for (size_t i = 0; i < space->page_count; i++) {
		struct private_page *page = &space->pages[i];
		const bool in_any_case = page->always || page->habit, stays = in_any_case && !look;
		const bool dirty = stays ? is_dirty(page->entry) : take_dirty(page->entry);
		if (dirty || in_any_case) {
			private_page_restore(page);
			copied++;
		}
		taken = taken || (dirty && !stays);
		page->clean = dirty ? 0 : page->clean + look;
		if (!in_any_case || looked)
			note_habit(space, page, dirty);
		habits += page->habit;
	}
	space->habits = habits;
	if (taken)
		space->context.generation = dune_generation_new();
	return copied;
}

static size_t restore_all(struct address_space *space, bool look)
{
	size_t copied = 0;
	for (size_t i = 0; i < space->page_count; i++) {
		struct private_page *page = &space->pages[i];
		if (!look || private_page_differs(page)) {
			private_page_restore(page);
			copied++;
			page->clean = look ? 0 : page->clean;
		} else {
			page->clean++;
		}
	}
	return copied;
}

bool address_space_forgets(const struct address_space *space)
{
	return space->lives % ADDRESS_SPACE_FORGET == 0;
}

size_t address_space_restore(struct address_space *space)
{
	bool all = supervisor.machine->host.recycling_copies || supervisor.no_dirty_bits;
	bool look = space->lives % ADDRESS_SPACE_LOOK == 0;
	if (!space->lives)
		return 0; /* new, and pristine */
	return all ? restore_all(space, look) : restore_dirty(space, look);
}
