/*
 * address_space_learn.c - what lives of one shape write to: learned from each, given to new address spaces at once, and
 * forgotten again.
 *
 * One hostile life could make all later ones pay, so pages that are found unwritten again and again are given back.  Where
 * dirty bits cannot be trusted, a page that lives write to and leave as it was is found unwritten as well, and comes back with
 * a fault.  So it is remembered which pages came back, and those stay longer.
 */
#define _GNU_SOURCE
#include "address_space_parts.h"

#include <stdlib.h>

#include "tag.h"

enum {
	WORKING_SET_PAGES = 512, /* remembered for each shape, */
	WORKING_SET_TABLES = 32, /* and page tables that lead to them */
	LEARN_PAGES = 1024,      /* looked at after a life */
	WORKING_SETS = 256,      /* shapes whose working set is remembered */
	REBINDS_FOR_ONE = 4,     /* lives of a shape that had to have tags taken away, for one address space more */
	KEPT_PAGES = 1024,       /* private pages an idle address space keeps; more are given back */
	GIVEN_BACK = 128,        /* pages of which it is remembered how often they have come back, */
	RETURNS_MAX = 2,         /* up to so often; each makes them stay */
	LONGER = 4,              /* so much longer */
};

struct given_back {
	uint64_t address;
	unsigned returns;
};

/* New address spaces get private copies of these pages at once, instead of one fault each. */
struct working_set {
	struct working_set *next;
	uint64_t shape;
	size_t count, tables;
	unsigned rebinds; /* since an address space was made for that */
	uint64_t addresses[WORKING_SET_PAGES];
	size_t given_back_count, given_back_next;
	struct given_back given_back[GIVEN_BACK];
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

static bool is_known(const struct working_set *set, uint64_t address)
{
	for (size_t i = 0; i < set->count; i++)
		if (set->addresses[i] == address)
			return true;
	return false;
}

/* A life may have been hostile, and later ones shall not pay for it: pages that lie far from all others need a page table
 * each. */
static void add_to_set(struct working_set *set, uint64_t address)
{
	bool near = false;
	for (size_t i = 0; i < set->count; i++)
		near = near || set->addresses[i] / DUNE_LARGE_PAGE_SIZE == address / DUNE_LARGE_PAGE_SIZE;
	if (set->count == WORKING_SET_PAGES || (!near && set->tables == WORKING_SET_TABLES))
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

static struct given_back *find_given_back(struct working_set *set, uint64_t address)
{
	for (size_t i = 0; i < set->given_back_count; i++)
		if (set->given_back[i].address == address)
			return &set->given_back[i];
	return NULL;
}

/* One of those that have come back least, each in its turn. */
static struct given_back *least_given_back(struct working_set *set)
{
	struct given_back *least = NULL;
	for (size_t i = 0; i < GIVEN_BACK; i++) {
		struct given_back *entry = &set->given_back[(set->given_back_next + i) % GIVEN_BACK];
		if (!least || entry->returns < least->returns)
			least = entry;
	}
	set->given_back_next = (size_t)(least - set->given_back) + 1;
	return least;
}

static void note_given_back(struct working_set *set, uint64_t address)
{
	if (find_given_back(set, address))
		return;
	struct given_back *entry =
		set->given_back_count < GIVEN_BACK ? &set->given_back[set->given_back_count++] : least_given_back(set);
	*entry = (struct given_back){ .address = address };
}

static void note_return(struct working_set *set, uint64_t address)
{
	struct given_back *entry = find_given_back(set, address);
	if (entry && entry->returns < RETURNS_MAX)
		entry->returns++;
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
	for (size_t i = space->learned; i < end; i++) {
		uint64_t address = space->pages[i].address;
		if (tag_at(address) >= 0 || is_known(set, address)) /* the next life may have another tag */
			continue;
		note_return(set, address);
		add_to_set(set, address);
	}
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

/* ---- giving back ----------------------------------------------------------------------------------- */

/* Where faults are most expensive, one and the edit before it cost as much as some hundred copies of the page: one that is
 * written to now and then had better stay. */
static bool has_been_unwritten(struct working_set *set, const struct private_page *page)
{
	unsigned looks = ADDRESS_SPACE_LOOKS_CLEAN;
	if (page->clean < looks || page->stays)
		return false;
	const struct given_back *before = set ? find_given_back(set, page->address) : NULL;
	for (unsigned i = 0; before && i < before->returns; i++)
		looks *= LONGER;
	return page->clean >= looks;
}

static bool is_unwritten(const struct address_space *space, size_t page)
{
	return space->pages[page].unwritten;
}

int space_forget_unwritten(struct address_space *space)
{
	struct working_set *set = working_set_of(space->shape);
	size_t count = 0;
	if (!address_space_forgets(space))
		return 0;
	for (size_t i = 0; i < space->page_count; i++)
		count += space->pages[i].unwritten = has_been_unwritten(set, &space->pages[i]);
	uint64_t *addresses = count ? malloc(count * sizeof *addresses) : NULL;
	if (!addresses)
		return 0; /* another time */
	count = 0;
	for (size_t i = 0; i < space->page_count; i++)
		if (space->pages[i].unwritten)
			addresses[count++] = space->pages[i].address;
	bool given_back = space_give_back(space, is_unwritten) == 0;
	for (size_t i = 0; i < count && given_back && set; i++)
		if (tag_at(addresses[i]) < 0) {
			take_from_set(set, addresses[i]);
			note_given_back(set, addresses[i]);
		}
	free(addresses);
	if (!given_back)
		return space->poisoned ? -1 : 0;
	supervisor.statistics.pages_released += count;
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
