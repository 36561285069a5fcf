/* address_space.c - see address_space.h */
#define _GNU_SOURCE
#include "address_space.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tag.h"

enum {
	WORKING_SET_PAGES = 512,    /* remembered for each shape */
	SPACES_BEFORE_SHARING = 64, /* address spaces made before one shape takes over an idle one of another */
	KEPT_PAGES = 1024,          /* private pages an idle address space keeps; more are given back */
	FILL_AROUND = 16,           /* entries of a sparse region filled in at one fault */
	WORKING_SETS = 256,         /* shapes whose working set is remembered */
	CANARY_OFFSET =
		0x28, /* of the stack canary from the thread pointer (x86-64 TLS ABI as GCC and glibc have it) */
};
enum {
	FAULT_PRESENT = 1,
	FAULT_WRITE = 2,
	FAULT_EXECUTE = 16
};

#define USER_DATA (DUNE_PTE_PRESENT | DUNE_PTE_USER | DUNE_PTE_NO_EXECUTE)

static struct address_space *all_spaces, *idle_spaces;
static uint64_t space_count;

static uint64_t *entry_of(const struct address_space *space, uint64_t address)
{
	return dune_tables_entry(&supervisor.machine->tables, space->context.root, address, false);
}

/* The same; missing page tables are made. */
static uint64_t *entry_make(struct address_space *space, uint64_t address)
{
	struct dune_tables *tables = &supervisor.machine->tables;
	size_t before = tables->used;
	uint64_t *entry = dune_tables_entry(tables, space->context.root, address, true);
	space->table_pages += (tables->used - before) / DUNE_PAGE_SIZE;
	return entry;
}

/* Fills in an entry that is not present. */
static int fill(struct address_space *space, uint64_t address, uint64_t value)
{
	uint64_t *entry = entry_make(space, address);
	if (!entry)
		return -1;
	__atomic_store_n(entry, value, __ATOMIC_RELEASE);
	return 0;
}

/* ---- private pages --------------------------------------------------------------------------------- */

static struct private_page *remember(struct address_space *space, uint64_t address, uint64_t frame, uint64_t origin)
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
	*page = (struct private_page){ .address = address, .frame = frame, .origin = origin };
	return page;
}

/* What an entry that leads to a private page says. */
static uint64_t private_value(uint64_t frame)
{
	return frame | USER_DATA | DUNE_PTE_WRITE | DUNE_PTE_PRIVATE;
}

/*
 * Gives the space a private page at address with the contents of origin (0: zeros).  answering: a write fault of the
 * compartment is being answered, or the entry is not present: the entry may be stored from here.  Otherwise the
 * compartment may have the old translation cached for reading, and the monitor makes the edit.
 */
static int make_private(struct address_space *space, uint64_t address, uint64_t *entry, uint64_t origin, bool answering)
{
	struct dune_machine *machine = supervisor.machine;
	uint64_t frame = dune_frame_new(machine);
	if (!frame || !remember(space, address, frame, origin)) {
		if (frame)
			dune_frame_free(machine, frame);
		errno = ENOMEM;
		return -1;
	}
	if (origin)
		memcpy(dune_physical_at(machine, frame), dune_physical_at(machine, origin), DUNE_PAGE_SIZE);
	supervisor.statistics.pages_copied++;
	bool present = *entry & DUNE_PTE_PRESENT;
	struct dune_vcpu *vcpu = present ? dune_vcpu_get(machine) : NULL;
	if (answering || !present) {
		__atomic_store_n(entry, private_value(frame), __ATOMIC_RELEASE);
		/* The fault dropped this virtual CPU's translation; others may have the old frame for reading. */
		if (vcpu)
			dune_vcpu_accept(vcpu, &space->context);
		return 0;
	}
	struct dune_edit edit = { .entry = machine->edit_tables + ((uint8_t *)entry - machine->tables.host),
				  .value = private_value(frame) };
	if (!vcpu || dune_vcpu_edit(vcpu, &space->context, &edit, 1) != 0)
		return -1;
	supervisor.statistics.monitor_edits++;
	return 0;
}

uint64_t address_space_restore(struct address_space *space)
{
	const struct dune_machine *machine = supervisor.machine;
	for (size_t i = 0; i < space->page_count; i++) {
		const struct private_page *page = &space->pages[i];
		void *memory = dune_physical_at(machine, page->frame);
		if (page->origin)
			memcpy(memory, dune_physical_at(machine, page->origin), DUNE_PAGE_SIZE);
		else
			memset(memory, 0, DUNE_PAGE_SIZE);
	}
	supervisor.statistics.pages_restored += space->page_count;
	return space->page_count;
}

void address_space_clear(struct address_space *space, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < space->page_count; i++)
		if (space->pages[i].address >= start && space->pages[i].address < end && !space->pages[i].origin)
			memset(dune_physical_at(supervisor.machine, space->pages[i].frame), 0, DUNE_PAGE_SIZE);
}

/* ---- edits by the monitor -------------------------------------------------------------------------- */

struct edit_list {
	struct dune_edit *edits;
	size_t count, room;
};

static int edit_add(struct edit_list *list, uint64_t *entry, uint64_t value)
{
	const struct dune_machine *machine = supervisor.machine;
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		struct dune_edit *grown = realloc(list->edits, room * sizeof *grown);
		if (!grown)
			return -1;
		list->edits = grown;
		list->room = room;
	}
	list->edits[list->count++] =
		(struct dune_edit){ .entry = machine->edit_tables + ((uint8_t *)entry - machine->tables.host),
				    .value = value };
	return 0;
}

/* Makes the edits and empties the list.  Preconditions: the space is not running. */
static int edit_commit(struct address_space *space, struct edit_list *list)
{
	int result = 0;
	if (list->count) {
		struct dune_vcpu *vcpu = dune_vcpu_get(supervisor.machine);
		result = vcpu ? dune_vcpu_edit(vcpu, &space->context, list->edits, list->count) : -1;
		supervisor.statistics.monitor_edits += list->count;
	}
	free(list->edits);
	*list = (struct edit_list){ 0 };
	return result;
}

/* Takes what was grown beyond KEPT_PAGES away from an idle space and gives the frames back. */
static int give_back_growth(struct address_space *space)
{
	struct dune_machine *machine = supervisor.machine;
	struct edit_list list = { 0 };
	if (space->page_count <= KEPT_PAGES)
		return 0;
	for (size_t i = KEPT_PAGES; i < space->page_count; i++) {
		const struct private_page *page = &space->pages[i];
		const struct snapshot_region *region = snapshot_find(&supervisor.snapshot, page->address);
		uint64_t origin = page->origin ? page->origin : supervisor.snapshot.zero_frame;
		uint64_t *entry = entry_of(space, page->address);
		if (!entry || edit_add(&list, entry, region ? origin | USER_DATA | DUNE_PTE_COPY_ON_WRITE : 0) != 0)
			return -1;
	}
	if (edit_commit(space, &list) != 0)
		return -1;
	for (size_t i = KEPT_PAGES; i < space->page_count; i++)
		dune_frame_free(machine, space->pages[i].frame);
	space->page_count = KEPT_PAGES;
	return 0;
}

/* ---- tags ------------------------------------------------------------------------------------------ */

static uint64_t tag_page_value(uint64_t offset, int prot)
{
	return (supervisor.machine->tags.physical + offset) | USER_DATA |
	       (prot & 2 /* PROT_WRITE */ ? DUNE_PTE_WRITE : 0);
}

static int map_tag(struct address_space *space, const struct policy_tag *grant)
{
	const struct tag *tag = tag_get(grant->tag);
	if (!tag)
		return dune_fail(EBADF, "the policy names a tag that is gone");
	space->tag[space->tags++] = *grant; /* first: a tag mapped in part is unmapped like any other */
	for (unsigned i = 0; i < tag->extent_count; i++)
		for (uint64_t at = 0; at < tag->extents[i].size; at += DUNE_PAGE_SIZE) {
			uint64_t offset = tag->extents[i].offset + at;
			uint64_t *entry = entry_make(space, (uintptr_t)supervisor.machine->tags.host + offset);
			if (!entry)
				return dune_fail(ENOMEM, "no page-table page left");
			if (!(*entry & DUNE_PTE_PRESENT))
				__atomic_store_n(entry, tag_page_value(offset, grant->prot), __ATOMIC_RELEASE);
		}
	return 0;
}

/* Adds the edits that unmap a tag. */
static int unmap_tag(const struct address_space *space, const struct tag *tag, struct edit_list *list)
{
	for (unsigned i = 0; i < tag->extent_count; i++)
		for (uint64_t at = 0; at < tag->extents[i].size; at += DUNE_PAGE_SIZE) {
			uint64_t offset = tag->extents[i].offset + at;
			uint64_t *entry = entry_of(space, (uintptr_t)supervisor.machine->tags.host + offset);
			if (entry && *entry & DUNE_PTE_PRESENT && edit_add(list, entry, 0) != 0)
				return -1;
		}
	return 0;
}

static int find_tag(const struct address_space *space, tag_t tag)
{
	for (unsigned i = 0; i < space->tags; i++)
		if (space->tag[i].tag == tag)
			return (int)i;
	return -1;
}

static bool maps_exactly(const struct address_space *space, const struct policy *policy)
{
	if (space->tags != policy->tags)
		return false;
	for (unsigned i = 0; i < policy->tags; i++) {
		int at = find_tag(space, policy->tag[i].tag);
		if (at < 0 || space->tag[at].prot != policy->tag[i].prot)
			return false;
	}
	return true;
}

/* Makes the mapped tags those of the policy: stale ones are revoked first, in one batch. */
static int bind_tags(struct address_space *space, const struct policy *policy)
{
	struct edit_list list = { 0 };
	struct policy_tag keeping[POLICY_TAGS];
	unsigned kept = 0;
	for (unsigned i = 0; i < space->tags; i++) {
		bool keep = false;
		for (unsigned j = 0; j < policy->tags; j++)
			keep = keep ||
			       (policy->tag[j].tag == space->tag[i].tag && policy->tag[j].prot == space->tag[i].prot);
		if (keep) {
			keeping[kept++] = space->tag[i];
			continue;
		}
		const struct tag *tag = tag_mapped(space->tag[i].tag);
		if (tag && unmap_tag(space, tag, &list) != 0) {
			free(list.edits);
			return -1;
		}
	}
	if (edit_commit(space, &list) != 0)
		return -1;
	/* Only what has really been unmapped is forgotten. */
	memcpy(space->tag, keeping, kept * sizeof *keeping);
	space->tags = kept;
	for (unsigned i = 0; i < policy->tags; i++)
		if (find_tag(space, policy->tag[i].tag) < 0 && map_tag(space, &policy->tag[i]) != 0)
			return -1;
	return 0;
}

/* Waits until no virtual CPU runs the space.  Releases the lock meanwhile; kicks, again and again because a kick that
 * comes just before KVM_RUN is lost. */
static void wait_until_stopped(struct address_space *space)
{
	while (space->running_on) {
		struct timespec until;
		dune_vcpu_kick(space->running_on);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 1000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		pthread_cond_timedwait(&supervisor.changed, &supervisor.lock, &until);
	}
}

static int revoke_from(struct address_space *space, const struct tag *tag)
{
	struct edit_list list = { 0 };
	int at = find_tag(space, tag->handle);
	if (at < 0)
		return 0;
	int result = unmap_tag(space, tag, &list);
	if (edit_commit(space, &list) != 0 || result != 0) {
		space->poisoned = true; /* it still has the tag: it must never run again */
		return -1;
	}
	space->tag[at] = space->tag[--space->tags];
	return 0;
}

int address_spaces_revoke(const struct tag *tag)
{
	int result = 0;
	/* First all that can be done without letting go of the lock, so that no idle space starts with the tag. */
	for (struct address_space *space = all_spaces; space; space = space->next)
		if (!space->running_on && revoke_from(space, tag) != 0)
			result = -1;
	for (struct address_space *space = all_spaces; space; space = space->next)
		if (find_tag(space, tag->handle) >= 0) {
			space->revoking++; /* it does not start again before this is done */
			wait_until_stopped(space);
			if (revoke_from(space, tag) != 0)
				result = -1;
			space->revoking--;
			pthread_cond_broadcast(&supervisor.changed);
		}
	return result;
}

/* ---- making and taking ----------------------------------------------------------------------------- */

static uint64_t snapshot_value(const struct snapshot_region *region, uint64_t address)
{
	uint64_t frame = region->frames[(address - region->start) / DUNE_PAGE_SIZE];
	return frame | DUNE_PTE_PRESENT | DUNE_PTE_USER | (region->execute ? 0 : DUNE_PTE_NO_EXECUTE) |
	       (region->write ? DUNE_PTE_COPY_ON_WRITE : 0);
}

static int map_snapshot(struct address_space *space)
{
	const struct snapshot *snapshot = &supervisor.snapshot;
	for (size_t i = 0; i < snapshot->count; i++) {
		const struct snapshot_region *region = &snapshot->regions[i];
		for (uint64_t at = region->start; !region->sparse && at < region->end; at += DUNE_PAGE_SIZE)
			if (fill(space, at, snapshot_value(region, at)) != 0)
				return dune_fail(ENOMEM, "no page-table page left");
	}
	return 0;
}

/* The life page, for ring 3 and for the monitor, and the page with the canary. */
static int map_special(struct address_space *space)
{
	struct dune_machine *machine = supervisor.machine;
	uint64_t thread_page = supervisor.snapshot.thread_pointer & ~DUNE_PAGE_MASK;
	uint64_t *thread_entry = entry_make(space, thread_page);
	uint64_t life = dune_frame_new(machine);
	if (!life || !thread_entry || fill(space, machine->window + WINDOW_LIFE, life | USER_DATA) != 0 ||
	    fill(space, machine->window + WINDOW_LIFE_MONITOR, life | DUNE_PTE_PRESENT | DUNE_PTE_NO_EXECUTE) != 0)
		return dune_fail(ENOMEM, "out of guest memory");
	space->life = dune_physical_at(machine, life);
	const struct snapshot_region *region = snapshot_find(&supervisor.snapshot, thread_page);
	if (!region)
		return dune_fail(ENOTSUP, "thread-local storage is not in the snapshot");
	uint64_t origin = region->frames[(thread_page - region->start) / DUNE_PAGE_SIZE];
	/* Tables never used before: the entry can be replaced from here. */
	if (make_private(space, thread_page, thread_entry, origin, true) != 0)
		return -1;
	space->canary = (uint8_t *)dune_physical_at(machine, space->pages[space->page_count - 1].frame) +
			(supervisor.snapshot.thread_pointer & DUNE_PAGE_MASK) + CANARY_OFFSET;
	return 0;
}

static struct address_space *make(void)
{
	struct address_space *space = calloc(1, sizeof *space);
	uint64_t root = space ? dune_root_new(supervisor.machine) : 0;
	if (!root) {
		free(space);
		dune_fail(ENOMEM, "no page-table page left");
		return NULL;
	}
	space->context.root = root;
	space->id = ++space_count;
	supervisor.statistics.address_spaces = space_count;
	if (map_snapshot(space) != 0 || map_special(space) != 0) {
		/* Its tables are lost; they are never reused, which is safe. */
		free(space->pages);
		free(space);
		return NULL;
	}
	space->next = all_spaces;
	all_spaces = space;
	return space;
}

/* ---- what lives of one shape write to --------------------------------------------------------------- */

/* New address spaces get private copies of these pages at once, instead of one fault each. */
struct working_set {
	struct working_set *next;
	uint64_t shape;
	size_t count;
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

/* Learns from a life that made private pages of its own.  Pages are added in the order they were made in. */
static void learn(const struct address_space *space)
{
	struct working_set *set = working_set_of(space->shape);
	if (!set) {
		if (working_set_count == WORKING_SETS || !(set = calloc(1, sizeof *set)))
			return;
		working_set_count++;
		*set = (struct working_set){ .next = working_sets, .shape = space->shape };
		working_sets = set;
	}
	for (size_t i = space->learned; i < space->page_count && set->count < WORKING_SET_PAGES; i++) {
		size_t at = 0;
		while (at < set->count && set->addresses[at] != space->pages[i].address)
			at++;
		if (at == set->count)
			set->addresses[set->count++] = space->pages[i].address;
	}
}

/* Preconditions: the space has never run. */
static int prepare(struct address_space *space, uint64_t shape)
{
	const struct working_set *set = working_set_of(shape);
	for (size_t i = 0; set && i < set->count; i++) {
		uint64_t *entry = entry_make(space, set->addresses[i]);
		if (!entry)
			return -1;
		if (*entry & DUNE_PTE_PRIVATE)
			continue;
		/* The entry says nothing yet in a sparse region. */
		const struct snapshot_region *region = snapshot_find(&supervisor.snapshot, set->addresses[i]);
		uint64_t origin = region ? snapshot_value(region, set->addresses[i]) & DUNE_PTE_FRAME : 0;
		if (make_private(space, set->addresses[i], entry, origin, true) != 0)
			return -1;
	}
	return 0;
}

/* Finds the idle space that fits best: one that ran this shape, if possible with the same tags mapped. */
static struct address_space *take_idle(const struct policy *policy, uint64_t shape)
{
	struct address_space **best = NULL;
	int best_score = space_count < SPACES_BEFORE_SHARING ? 0 : -1;
	enum {
		LOOK_AT = 64,
		PERFECT = 3
	};
	unsigned seen = 0;
	for (struct address_space **link = &idle_spaces; *link && seen < LOOK_AT && best_score < PERFECT;
	     link = &(*link)->next_idle, seen++) {
		int score = (*link)->poisoned ? -1 : (*link)->shape != shape ? 0 : 2 + maps_exactly(*link, policy);
		if (score > best_score) {
			best_score = score;
			best = link;
		}
	}
	if (!best)
		return NULL;
	struct address_space *space = *best;
	*best = space->next_idle;
	return space;
}

struct address_space *address_space_take(const struct policy *policy, uint64_t function, uint64_t *restored)
{
	uint64_t shape = policy_shape(policy) ^ function * 0x9e3779b97f4a7c15;
	struct address_space *space = take_idle(policy, shape);
	*restored = 0;
	if (space)
		*restored = address_space_restore(space);
	else if (!(space = make()) || prepare(space, shape) != 0)
		return NULL; /* a space that was made half is lost, which is safe */
	space->shape = shape;
	space->learned = space->page_count;
	space->tables_before = space->table_pages;
	if (bind_tags(space, policy) != 0) {
		space->poisoned = true;
		address_space_release(space);
		return NULL;
	}
	return space;
}

void address_space_release(struct address_space *space)
{
	if (space->page_count > space->learned)
		learn(space);
	if (space->poisoned || give_back_growth(space) != 0)
		return; /* never used again; its pages are lost, which is safe */
	space->next_idle = idle_spaces;
	idle_spaces = space;
}

int address_space_begin(struct address_space *space, uint64_t instance)
{
	uint64_t canary;
	if (supervisor_random(&canary, sizeof canary) != 0)
		return -1;
	canary &= ~(uint64_t)0xff; /* a zero byte ends string overflows, as glibc does it */
	memcpy(space->canary, &canary, sizeof canary);
	explicit_bzero(&canary, sizeof canary);
	space->life->instance = instance;
	space->life->process_id = supervisor_process_id(instance);
	dune_context_start(&space->context, instance, space->context.root);
	space->context.fs_base = supervisor.snapshot.thread_pointer;
	space->lives++;
	return 0;
}

/* ---- faults and access ----------------------------------------------------------------------------- */

static bool within_quota(const struct address_space *space, const struct memory_bounds *bounds)
{
	/* Its own: not what the address space had when the life began. */
	size_t pages = space->page_count - space->learned + space->table_pages - space->tables_before;
	return (pages + 1) * DUNE_PAGE_SIZE <= bounds->quota;
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
	if (is_growth(bounds, page)) {
		uint64_t *entry = entry_make(space, page);
		if (!entry || !within_quota(space, bounds) || make_private(space, page, entry, 0, true) != 0)
			return -1;
		++*bounds->pages_copied;
		return 0;
	}
	const struct snapshot_region *region = snapshot_find(&supervisor.snapshot, page);
	if (region) {
		uint64_t end = page + FILL_AROUND * DUNE_PAGE_SIZE < region->end ? page + FILL_AROUND * DUNE_PAGE_SIZE :
										   region->end;
		for (uint64_t at = page; at < end; at += DUNE_PAGE_SIZE) {
			uint64_t *entry = entry_make(space, at);
			if (!entry)
				return -1;
			if (!(*entry & DUNE_PTE_PRESENT))
				__atomic_store_n(entry, snapshot_value(region, at), __ATOMIC_RELEASE);
		}
		return 0;
	}
	/* A tag that grew after this life began. */
	tag_t tag = tag_at(page);
	int at = tag >= 0 ? find_tag(space, tag) : -1;
	if (at < 0 || !tag_get(tag))
		return -1;
	return fill(space, page, tag_page_value(page - (uintptr_t)supervisor.machine->tags.host, space->tag[at].prot));
}

/* Makes the page usable as asked, if the compartment has the right.  answering: as for make_private(). */
static uint64_t *reach(struct address_space *space, const struct memory_bounds *bounds, uint64_t page, bool write,
		       bool answering)
{
	if (page < 0x10000 || page >= DUNE_USER_END)
		return NULL;
	uint64_t *entry = entry_of(space, page);
	if (!entry || !(*entry & DUNE_PTE_PRESENT)) {
		if (bring_in(space, bounds, page) != 0)
			return NULL;
		entry = entry_of(space, page);
		answering = true; /* nothing can be cached of an entry that was not present */
	}
	if (!entry || !(*entry & DUNE_PTE_USER))
		return NULL;
	if (write && !(*entry & DUNE_PTE_WRITE)) {
		if (!(*entry & DUNE_PTE_COPY_ON_WRITE) || !within_quota(space, bounds) ||
		    make_private(space, page, entry, *entry & DUNE_PTE_FRAME, answering) != 0)
			return NULL;
		++*bounds->pages_copied;
	}
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
