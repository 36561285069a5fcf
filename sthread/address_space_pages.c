/* address_space_pages.c - the entries and private pages of an address space, and edits by the monitor. */
#define _GNU_SOURCE
#include "address_space_parts.h"

#include "tag.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	LEVELS_BELOW_ROOT = 3
};

uint64_t *space_entry(const struct address_space *space, uint64_t address)
{
	return dune_tables_entry(&supervisor.machine->tables, space->context.root, address, false);
}

uint64_t *space_entry_common(const struct address_space *space, uint64_t address)
{
	if (dune_tables_reserve(supervisor.machine, LEVELS_BELOW_ROOT) != 0)
		return NULL;
	return dune_tables_fill(&supervisor.machine->tables, space->context.root, space->base, address);
}

static struct dune_edit edit_of(const uint64_t *entry, uint64_t value)
{
	const struct dune_machine *machine = supervisor.machine;
	return (struct dune_edit){ .entry = machine->edit_tables + ((const uint8_t *)entry - machine->tables.host),
				   .value = value };
}

/* One edit of a present entry. */
static int edit_now(struct address_space *space, const uint64_t *entry, uint64_t value)
{
	struct dune_vcpu *vcpu = dune_vcpu_get(supervisor.machine);
	struct dune_edit edit = edit_of(entry, value);
	if (!vcpu || dune_vcpu_edit(vcpu, &space->context, &edit, 1) != 0) {
		space->poisoned = true; /* what it shows is not known */
		errno = EIO;
		return -1;
	}
	supervisor.statistics.monitor_edits++;
	return 0;
}

/* dune_tables_own(), with the tables it makes counted. */
static uint64_t *own(struct address_space *space, uint64_t address, struct dune_table_link *link)
{
	struct dune_tables *tables = &supervisor.machine->tables;
	if (dune_tables_reserve(supervisor.machine, LEVELS_BELOW_ROOT) != 0)
		return NULL;
	size_t before = tables->used;
	uint64_t *entry = dune_tables_own(tables, space->context.root, address, link);
	space->table_pages += (tables->used - before) / DUNE_PAGE_SIZE;
	return entry;
}

/* Makes copied tables count.  While the space has never run, no virtual CPU can know the old ones. */
static int commit_link(struct address_space *space, const struct dune_table_link *link)
{
	if (!link->entry)
		return 0;
	if (space->lives)
		return edit_now(space, link->entry, link->value);
	__atomic_store_n(link->entry, link->value, __ATOMIC_RELEASE);
	return 0;
}

uint64_t *space_entry_own(struct address_space *space, uint64_t address)
{
	struct dune_table_link link;
	uint64_t *entry = own(space, address, &link);
	return entry && commit_link(space, &link) == 0 ? entry : NULL;
}

int space_fill(struct address_space *space, uint64_t address, uint64_t value)
{
	uint64_t *entry = space_entry_own(space, address);
	if (!entry)
		return -1;
	__atomic_store_n(entry, value, __ATOMIC_RELEASE);
	return 0;
}

/* ---- private pages --------------------------------------------------------------------------------- */

static struct private_page *remember(struct address_space *space, uint64_t address, uint64_t *entry, uint64_t frame,
				     uint64_t origin)
{
	if (space->page_count == space->page_room) {
		size_t room = space->page_room ? 2 * space->page_room : 64;
		struct private_page *grown = realloc(space->pages, room * sizeof *grown);
		if (!grown)
			return NULL;
		space->pages = grown;
		space->page_room = room;
	}
	struct private_page *page = &space->pages[space->page_count++];
	*page = (struct private_page){
		.address = address, .frame = frame, .origin = origin, .entry = entry, .always = tag_at(address) >= 0
	};
	return page;
}

/* What an entry that leads to a private page says. */
static uint64_t private_value(uint64_t frame)
{
	return frame | USER_DATA | DUNE_PTE_WRITE | DUNE_PTE_PRIVATE;
}

int space_make_private(struct address_space *space, uint64_t address, uint64_t origin, bool answering)
{
	struct dune_machine *machine = supervisor.machine;
	struct dune_table_link link;
	uint64_t *entry = own(space, address, &link);
	uint64_t frame = entry ? dune_frame_new(machine) : 0;
	if (!frame || !remember(space, address, entry, frame, origin)) {
		if (frame)
			dune_frame_free(machine, frame);
		errno = ENOMEM;
		return -1;
	}
	if (origin)
		memcpy(dune_physical_at(machine, frame), dune_physical_at(machine, origin), DUNE_PAGE_SIZE);
	supervisor.statistics.pages_copied++;
	if (link.entry) {
		/* In a table that nobody uses yet. */
		*entry = private_value(frame);
		return commit_link(space, &link);
	}
	bool present = *entry & DUNE_PTE_PRESENT;
	if (present && space->lives && !answering)
		return edit_now(space, entry, private_value(frame));
	__atomic_store_n(entry, private_value(frame), __ATOMIC_RELEASE);
	/* The fault dropped this virtual CPU's translation; others may have the old frame for reading. */
	struct dune_vcpu *vcpu = present && space->lives ? dune_vcpu_get(machine) : NULL;
	if (vcpu)
		dune_vcpu_accept(vcpu, &space->context);
	return 0;
}

void space_forget_private(struct address_space *space, uint64_t start, uint64_t end)
{
	size_t kept = 0, before_life = space->learned;
	for (size_t i = 0; i < space->page_count; i++) {
		const struct private_page *page = &space->pages[i];
		if (page->address < start || page->address >= end) {
			space->pages[kept++] = *page;
			continue;
		}
		dune_frame_free(supervisor.machine, page->frame);
		before_life -= i < space->learned;
	}
	space->page_count = kept;
	space->learned = before_life;
}

void space_mark_written(uint64_t *entry)
{
	if (!supervisor.machine->host.recycling_copies && *entry & DUNE_PTE_PRIVATE)
		__atomic_fetch_or(entry, DUNE_PTE_DIRTY, __ATOMIC_RELAXED);
}

int space_give_back(struct address_space *space, bool (*wanted)(const struct address_space *space, size_t page))
{
	struct edit_list list = { 0 };
	size_t kept = 0, before_life = space->learned;
	for (size_t i = 0; i < space->page_count; i++)
		if (wanted(space, i) && edit_list_add(&list, space->pages[i].entry,
						      space_pristine_value(space, space->pages[i].address)) != 0) {
			free(list.edits);
			errno = ENOMEM;
			return -1;
		}
	if (!list.count)
		return 0;
	if (edit_list_commit(space, &list) != 0)
		return -1;
	for (size_t i = 0; i < space->page_count; i++) {
		struct private_page page = space->pages[i];
		if (wanted(space, i)) {
			dune_frame_free(supervisor.machine, page.frame);
			before_life -= i < space->learned;
		} else {
			space->pages[kept++] = page;
		}
	}
	space->page_count = kept;
	space->learned = before_life;
	return 0;
}

/* ---- edits by the monitor -------------------------------------------------------------------------- */

int edit_list_add(struct edit_list *list, uint64_t *entry, uint64_t value)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		struct dune_edit *grown = realloc(list->edits, room * sizeof *grown);
		if (!grown)
			return -1;
		list->edits = grown;
		list->room = room;
	}
	list->edits[list->count++] = edit_of(entry, value);
	return 0;
}

int edit_list_commit(struct address_space *space, struct edit_list *list)
{
	int result = 0;
	if (list->count) {
		struct dune_vcpu *vcpu = dune_vcpu_get(supervisor.machine);
		result = vcpu ? dune_vcpu_edit(vcpu, &space->context, list->edits, list->count) : -1;
		supervisor.statistics.monitor_edits += list->count;
		space->poisoned = space->poisoned || result != 0; /* what it shows is not known */
	}
	free(list->edits);
	*list = (struct edit_list){ 0 };
	return result;
}

/* ---- clearing -------------------------------------------------------------------------------------- */

/* The entry of a page in [start, end) that a template made and the life has not written to; else NULL. */
static uint64_t *shows_template(const struct address_space *space, uint64_t address, uint64_t start, uint64_t end)
{
	uint64_t *entry = address >= start && address < end ? space_entry(space, address) : NULL;
	return entry && !(*entry & DUNE_PTE_PRIVATE) ? entry : NULL;
}

/* Adds the edit that shows a zeroed private page instead of a template's. */
static int add_cover(struct address_space *space, const struct pristine_page *page, uint64_t *entry,
		     struct edit_list *list)
{
	struct dune_machine *machine = supervisor.machine;
	uint64_t frame = dune_frame_new(machine);
	bool remembered = frame && remember(space, page->address, entry, frame, page->frame);
	if (remembered && edit_list_add(list, entry, private_value(frame) | DUNE_PTE_DIRTY) == 0) {
		supervisor.statistics.pages_copied++;
		return 0;
	}
	space->page_count -= remembered;
	if (frame)
		dune_frame_free(machine, frame);
	errno = ENOMEM;
	return -1;
}

/* All at once: an edit by itself is an exit, and a template may have thousands of pages. */
static int cover_template(struct address_space *space, const struct memory_bounds *bounds, uint64_t start, uint64_t end)
{
	const struct pristine *pristine = space->pristine;
	struct edit_list list = { 0 };
	size_t before = space->page_count, pages = 0;
	int result = 0;
	for (size_t i = 0; i < pristine->page_count; i++)
		pages += shows_template(space, pristine->pages[i].address, start, end) != NULL;
	if (pages && !space_within_quota(space, bounds, pages)) {
		errno = ENOMEM;
		return -1;
	}
	for (size_t i = 0; i < pristine->page_count && pages && result == 0; i++) {
		uint64_t *entry = shows_template(space, pristine->pages[i].address, start, end);
		if (entry)
			result = add_cover(space, &pristine->pages[i], entry, &list);
	}
	*bounds->pages_copied += space->page_count - before;
	return edit_list_commit(space, &list) == 0 ? result : -1;
}

int address_space_clear(struct address_space *space, const struct memory_bounds *bounds, uint64_t start, uint64_t end)
{
	if (cover_template(space, bounds, start, end) != 0)
		return -1;
	for (size_t i = 0; i < space->page_count; i++)
		if (space->pages[i].address >= start && space->pages[i].address < end) {
			memset(dune_physical_at(supervisor.machine, space->pages[i].frame), 0, DUNE_PAGE_SIZE);
			space_mark_written(space->pages[i].entry);
		}
	return 0;
}

/* ---- beginnings ------------------------------------------------------------------------------------ */

uint64_t space_pristine_value(const struct address_space *space, uint64_t address)
{
	uint64_t frame = pristine_frame(space->pristine, address);
	if (frame)
		return frame | USER_DATA | DUNE_PTE_COPY_ON_WRITE;
	const struct snapshot_region *region = snapshot_find(&supervisor.snapshot, address);
	if (region)
		return space_snapshot_value(region, address);
	tag_t tag = tag_at(address);
	int at = tag >= 0 ? space_find_tag(space, tag) : -1;
	return at >= 0 ? space_tag_value(tag_physical_at(address), space->tag[at].prot) : 0;
}

static struct private_page *find_private(const struct address_space *space, uint64_t address)
{
	for (size_t i = 0; i < space->page_count; i++)
		if (space->pages[i].address == address)
			return &space->pages[i];
	return NULL;
}

/* One page of the old or the new state. */
static int rebase_page(struct address_space *space, uint64_t address, struct edit_list *list)
{
	uint64_t value = space_pristine_value(space, address);
	uint64_t *entry = space_entry_own(space, address);
	if (!entry)
		return -1;
	if (*entry & DUNE_PTE_PRIVATE) {
		struct private_page *page = find_private(space, address);
		page->origin = value & DUNE_PTE_FRAME;
		space_mark_written(entry); /* it is no copy of that */
		if (!space->lives)         /* else it is restored before the next one */
			private_page_restore(page);
		return 0;
	}
	if (space->lives && *entry & DUNE_PTE_PRESENT)
		return edit_list_add(list, entry, value);
	__atomic_store_n(entry, value, __ATOMIC_RELEASE);
	return 0;
}

int space_rebase(struct address_space *space, struct pristine *pristine)
{
	struct pristine *old = space->pristine;
	struct edit_list list = { 0 };
	int result = 0;
	space->pristine = pristine;
	pristine_get(pristine);
	for (size_t i = 0; i < pristine->page_count && result == 0; i++)
		result = rebase_page(space, pristine->pages[i].address, &list);
	for (size_t i = 0; i < old->page_count && result == 0; i++)
		if (!pristine_frame(pristine, old->pages[i].address))
			result = rebase_page(space, old->pages[i].address, &list);
	if (edit_list_commit(space, &list) != 0 || result != 0) {
		errno = EIO;
		return -1; /* frames of the old state may still be shown: it keeps its reference */
	}
	pristine_put(old);
	return 0;
}
