/*
 * address_space_restore.c - what happens to a space between two lives: pages that were written to are put back, and what
 * lives of its kind write to is learned, and forgotten again.
 *
 * A private page is as it should be if nobody has written to it since it was last restored.  Where dirty bits can be
 * trusted (dune_host.recycling_copies) they tell: the processor sets them for what ring 3 writes, space_mark_written() for
 * what the supervisor writes.  A bit that is cleared here is set by the next write only once no virtual CPU has the
 * translation cached, so the root's generation grows.  Elsewhere all private pages are copied.
 *
 * Either way a page that lives have stopped writing to costs something each time, and one hostile life could make all
 * later ones pay.  So spaces are looked at now and then, and such pages given back.
 */
#define _GNU_SOURCE
#include "address_space_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/tags.h"
#include "tag.h"

enum {
	WORKING_SET_PAGES = 512, /* remembered for each shape, */
	WORKING_SET_TABLES = 32, /* and page tables that lead to them */
	LEARN_PAGES = 1024,      /* looked at after a life */
	WORKING_SETS = 256,      /* shapes whose working set is remembered */
	REBINDS_FOR_ONE = 4,     /* lives of a shape that had to have tags taken away, for one address space more */
	KEPT_PAGES = 1024,       /* private pages an idle address space keeps; more are given back */
};

/* ---- what lives of one shape write to --------------------------------------------------------------- */

/* New address spaces get private copies of these pages at once, instead of one fault each. */
struct working_set {
	struct working_set *next;
	uint64_t shape;
	size_t count, tables;
	unsigned rebinds; /* since an address space was made for that */
	uint64_t addresses[WORKING_SET_PAGES];
};
static struct working_set *working_sets;
static unsigned working_set_count;

static struct working_set *working_set_of(uint64_t shape)
{
	struct working_set *set = working_sets;
	while (set && set->shape != shape)
		set = set->next;
	return set;
}

/* A life may have been hostile, and later ones shall not pay for it: pages that lie far from all others need a page table
 * each. */
static void add_to_set(struct working_set *set, uint64_t address)
{
	bool near = false;
	for (size_t i = 0; i < set->count; i++) {
		if (set->addresses[i] == address)
			return;
		near = near || set->addresses[i] / DUNE_LARGE_PAGE_SIZE == address / DUNE_LARGE_PAGE_SIZE;
	}
	if (!near && set->tables == WORKING_SET_TABLES)
		return;
	set->tables += !near;
	set->addresses[set->count++] = address;
}

static void take_from_set(struct working_set *set, uint64_t address)
{
	size_t kept = 0;
	bool near = false, found = false;
	for (size_t i = 0; i < set->count; i++) {
		if (set->addresses[i] == address) {
			found = true;
			continue;
		}
		near = near || set->addresses[i] / DUNE_LARGE_PAGE_SIZE == address / DUNE_LARGE_PAGE_SIZE;
		set->addresses[kept++] = set->addresses[i];
	}
	set->count = kept;
	set->tables -= found && !near;
}

/* Pages are added in the order they were made in. */
void space_learn(const struct address_space *space)
{
	struct working_set *set = working_set_of(space->shape);
	if (!set) {
		if (working_set_count == WORKING_SETS || !(set = calloc(1, sizeof *set)))
			return;
		working_set_count++;
		*set = (struct working_set){ .next = working_sets, .shape = space->shape };
		working_sets = set;
	}
	size_t end =
		space->learned + LEARN_PAGES < space->page_count ? space->learned + LEARN_PAGES : space->page_count;
	for (size_t i = space->learned; i < end && set->count < WORKING_SET_PAGES; i++)
		if (tag_at(space->pages[i].address) < 0) /* the next life may have another tag */
			add_to_set(set, space->pages[i].address);
}

int address_space_prepare(struct address_space *space)
{
	const struct working_set *set = working_set_of(space->shape);
	for (size_t i = 0; set && i < set->count; i++) {
		const uint64_t *entry = space_entry(space, set->addresses[i]);
		if (entry && *entry & DUNE_PTE_PRIVATE)
			continue;
		uint64_t origin = space_pristine_value(space, set->addresses[i]) & DUNE_PTE_FRAME;
		if (space_make_private(space, set->addresses[i], origin, false) != 0)
			return -1;
	}
	return 0;
}

bool space_rebinds_often(uint64_t shape)
{
	struct working_set *set = working_set_of(shape);
	if (!set || ++set->rebinds < REBINDS_FOR_ONE)
		return false;
	set->rebinds = 0;
	return true;
}

/* ---- restoring ------------------------------------------------------------------------------------- */

bool private_page_differs(const struct private_page *page)
{
	static const uint8_t zeros[DUNE_PAGE_SIZE];
	const struct dune_machine *machine = supervisor.machine;
	const void *origin = page->origin ? dune_physical_at(machine, page->origin) : zeros;
	return memcmp(dune_physical_at(machine, page->frame), origin, DUNE_PAGE_SIZE) != 0;
}

static void copy(const struct private_page *page)
{
	const struct dune_machine *machine = supervisor.machine;
	if (page->origin)
		memcpy(dune_physical_at(machine, page->frame), dune_physical_at(machine, page->origin), DUNE_PAGE_SIZE);
	else
		memset(dune_physical_at(machine, page->frame), 0, DUNE_PAGE_SIZE);
}

/* Takes the dirty bit away, if it is there. */
static bool take_dirty(uint64_t *entry)
{
	if (!(__atomic_load_n(entry, __ATOMIC_RELAXED) & DUNE_PTE_DIRTY))
		return false;
	__atomic_fetch_and(entry, ~DUNE_PTE_DIRTY, __ATOMIC_RELAXED);
	return true;
}

/* Returns how many pages were copied. */
static size_t restore_dirty(struct address_space *space, bool look)
{
	size_t copied = 0;
	bool any_dirty = false;
	for (size_t i = 0; i < space->page_count; i++) {
		struct private_page *page = &space->pages[i];
		bool dirty = take_dirty(page->entry);
		if (dirty || page->always) {
			copy(page);
			copied++;
		}
		any_dirty = any_dirty || dirty;
		page->clean = dirty ? 0 : page->clean + look;
	}
	if (any_dirty)
		space->context.generation = dune_generation_new();
	return copied;
}

static size_t restore_all(struct address_space *space, bool look)
{
	size_t copied = 0;
	for (size_t i = 0; i < space->page_count; i++) {
		struct private_page *page = &space->pages[i];
		if (!look || private_page_differs(page)) {
			copy(page);
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

/* ---- giving back ----------------------------------------------------------------------------------- */

/* Where faults are most expensive, one and the edit before it cost as much as some hundred copies of the page: a page that is
 * written in one life of twenty had better stay, and mostly does. */
static bool is_unwritten(const struct address_space *space, size_t page)
{
	return space->pages[page].clean >= ADDRESS_SPACE_LOOKS_CLEAN && !space->pages[page].stays;
}

int space_forget_unwritten(struct address_space *space)
{
	struct working_set *set = working_set_of(space->shape);
	size_t before = space->page_count;
	if (!address_space_forgets(space))
		return 0;
	for (size_t i = 0; set && i < space->page_count; i++)
		if (is_unwritten(space, i))
			take_from_set(set, space->pages[i].address);
	if (space_give_back(space, is_unwritten) != 0)
		return space->poisoned ? -1 : 0; /* another time */
	supervisor.statistics.pages_released += before - space->page_count;
	return 0;
}

static bool is_growth(const struct address_space *space, size_t page)
{
	(void)space;
	return page >= KEPT_PAGES;
}

int space_give_back_growth(struct address_space *space)
{
	return space->page_count > KEPT_PAGES ? space_give_back(space, is_growth) : 0;
}
