/*
 * space_edit.c - one change to a range of one address space.
 *
 * Entries that are not present are filled by plain stores.  Present ones are collected and replaced together; what they led
 * to - tables, references to pages - is given up only when that has returned.  A new table is made up completely before
 * anything leads to it.
 */
#include "vm/space_parts.h"

#include <errno.h>

enum {
	BATCH = 64
};

/* Edits to be made, and what is needed to clean up after them. */
struct batch {
	struct space_change *change;
	size_t count;
	struct dune_space_edit edits[BATCH];
	ptent_t seen[BATCH], old[BATCH]; /* what the entries held when read, and when replaced */
	uint8_t levels[BATCH];
};

#define PROCESSOR_BITS (PTE_A | PTE_D)

static int replace(ptent_t *root, const struct dune_space_edit *edits, size_t count)
{
	if (count == 0)
		return 0;
	if (space_operations->replace)
		return space_operations->replace(root, edits, count);
	for (size_t i = 0; i < count; i++)
		dune_space_store(&edits[i]);
	return 0;
}

static void drop(ptent_t entry, unsigned level, uintptr_t va)
{
	struct page *page = space_entry_page(entry, level, va);
	if (page)
		space_page_drop(page);
}

/* False: the page is free, so that no entry may show it. */
static bool hold(ptent_t entry, unsigned level, uintptr_t va)
{
	struct page *page = space_entry_page(entry, level, va);
	return !page || space_page_hold(page);
}

/* ---- freeing tables ------------------------------------------------------------------------------------------------- */

/* Tables that nobody reaches any more, and their entries still to be emptied. */
struct dead {
	ptent_t *root;
	bool used;
	int result;
	size_t count;
	struct dune_space_edit edits[BATCH];
	ptent_t old[BATCH];
	SLIST_HEAD(, page) tables;
};

static void empty(struct dead *dead)
{
	if (replace(dead->root, dead->edits, dead->count) != 0)
		dead->result = -1;
	dead->count = 0;
}

static void empty_later(struct dead *dead, ptent_t *entry, ptent_t old, unsigned level, uintptr_t va)
{
	if (dead->count == BATCH)
		empty(dead);
	size_t i = dead->count++;
	dead->old[i] = old;
	dead->edits[i] = (struct dune_space_edit){
		.entry = entry, .address = va, .length = space_span(level), .old = &dead->old[i]
	};
}

static void collect(struct dead *dead, ptent_t *table, unsigned level, uintptr_t va)
{
	for (unsigned i = 0; i < NPTENTRIES; i++, va += space_span(level)) {
		ptent_t entry = space_load(&table[i]);
		if (space_is_shared(entry, level))
			;
		else if (space_is_table(entry, level))
			collect(dead, space_table_at(entry), level - 1, va);
		else
			drop(entry, level, va);
		if (entry & PTE_P && dead->used)
			empty_later(dead, &table[i], entry, level, va);
	}
	SLIST_INSERT_HEAD(&dead->tables, dune_pa2page((uintptr_t)table), link);
}

int space_table_free(ptent_t *root, ptent_t *table, unsigned level, uintptr_t va, bool used)
{
	struct dead dead;
	dead.root = root;
	dead.used = used && space_operations->shadowed;
	dead.result = 0;
	dead.count = 0;
	SLIST_INIT(&dead.tables);
	collect(&dead, table, level, va & ~(space_span(level + 1) - 1));
	empty(&dead);
	while (dead.result == 0 && !SLIST_EMPTY(&dead.tables)) {
		struct page *page = SLIST_FIRST(&dead.tables);
		SLIST_REMOVE_HEAD(&dead.tables, link);
		space_page_drop(page);
	}
	return dead.result;
}

/* ---- replacing present entries ---------------------------------------------------------------------------------------- */

/* Gives bits that the processor set in an entry, while it was being replaced, to the entries that took its place. */
static void add_bits(ptent_t *entry, unsigned level, uint64_t address, ptent_t bits)
{
	ptent_t value = space_load(entry);
	if (space_is_table(value, level)) {
		ptent_t *table = space_table_at(value);
		for (unsigned i = 0; i < NPTENTRIES; i++)
			add_bits(&table[i], level - 1, address + i * space_span(level - 1), bits);
	} else if ((value & PTE_P || space_is_held(value)) && space_address(value, level) == address) {
		__atomic_fetch_or(entry, bits, __ATOMIC_RELAXED);
	}
}

static int clean_up(struct batch *batch, size_t i)
{
	const struct dune_space_edit *edit = &batch->edits[i];
	ptent_t old = batch->old[i];
	unsigned level = batch->levels[i];
	if (space_is_table(old, level))
		return space_table_free(batch->change->root, space_table_at(old), level - 1, edit->address, true);
	ptent_t missed = old & ~batch->seen[i] & PROCESSOR_BITS;
	if (missed && (space_is_table(edit->value, level) || batch->change->kind == SPACE_PROTECT))
		add_bits(edit->entry, level, space_address(old, level), missed);
	drop(old, level, edit->address);
	return 0;
}

static int flush(struct batch *batch)
{
	int result = replace(batch->change->root, batch->edits, batch->count);
	for (size_t i = 0; i < batch->count && result == 0; i++)
		result = clean_up(batch, i);
	batch->count = 0;
	if (result != 0)
		batch->change->error = EIO;
	return result;
}

/* Puts a value into an entry.  live: processors may walk the table. */
static int put(struct batch *batch, ptent_t *entry, ptent_t old, ptent_t value, unsigned level, uintptr_t va, bool live)
{
	va &= ~(space_span(level) - 1);
	if (!live || !(old & PTE_P)) {
		space_store(entry, value);
		if (!space_is_table(old, level))
			drop(old, level, va);
		return 0;
	}
	if (batch->count == BATCH && flush(batch) != 0)
		return -1;
	size_t i = batch->count++;
	batch->seen[i] = batch->old[i] = old;
	batch->levels[i] = (uint8_t)level;
	batch->edits[i] = (struct dune_space_edit){
		.entry = entry, .value = value, .address = va, .length = space_span(level), .old = &batch->old[i]
	};
	return 0;
}

/* ---- tables in the place of larger entries ------------------------------------------------------------------------------ */

/* What the parts of an entry say; the first part is at the entry's own address. */
static ptent_t part(ptent_t entry, unsigned level)
{
	enum {
		LARGE_PAT = 1 << 12
	};
	if (!(entry & PTE_P) && !space_is_held(entry))
		return entry; /* a mark, or a value of the program's */
	if (level > 1)
		return entry;
	ptent_t flags = (PTE_FLAGS(entry) & ~PTE_PS) | (entry & LARGE_PAT ? PTE_PAT : 0);
	return space_address(entry, level) | flags;
}

ptent_t *space_table_below(ptent_t entry, unsigned level, uintptr_t va)
{
	struct page *page = space_page_new_zeroed();
	if (!page)
		return NULL;
	ptent_t *table = space_page_table(page), value = part(entry, level);
	bool mapped = entry & PTE_P || space_is_held(entry);
	va &= ~(space_span(level) - 1);
	for (unsigned i = 0; i < NPTENTRIES && entry; i++) {
		uint64_t offset = i * space_span(level - 1);
		table[i] = mapped ? value + offset : value;
		if (!hold(table[i], level - 1, va + offset))
			table[i] = DUNE_SPACE_REMOVED;
	}
	return table;
}

/* ---- the change --------------------------------------------------------------------------------------------------------- */

enum verdict {
	KEEP,
	REPLACE,
	DESCEND, /* into the table, made if need be */
	FAIL
};

static enum verdict fail(struct space_change *change, int error, uintptr_t at)
{
	change->error = error;
	change->stopped = at;
	return FAIL;
}

static enum verdict map(struct space_change *change, unsigned level, uintptr_t at, ptent_t *value)
{
	if (level > change->level)
		return DESCEND;
	if (change->kind == SPACE_MAP_NEW) {
		struct page *page = space_page_new_zeroed();
		if (!page)
			return fail(change, ENOMEM, at);
		*value = dune_page2pa(page) | change->bits;
		return REPLACE;
	}
	*value = (at + change->distance) | change->bits;
	return hold(*value, level, at) ? REPLACE : fail(change, EINVAL, at);
}

/* Rights for what is mapped: an entry that is present, or held. */
static ptent_t with_rights(ptent_t old, ptent_t bits, unsigned level)
{
	enum {
		LARGE_PAT = 1 << 12
	};
	ptent_t kept = PTE_ADDR(old) | (old & (PROCESSOR_BITS | PTE_PS));
	if (level > 0)
		kept = space_address(old, level) | (old & (PROCESSOR_BITS | PTE_PS | LARGE_PAT));
	return kept | (bits ? bits : SPACE_HELD);
}

static enum verdict protect(struct space_change *change, ptent_t old, unsigned level, uintptr_t at, bool whole,
			    ptent_t *value)
{
	bool follows = old == 0 || old == SPACE_CLOSED, mapped = old & PTE_P || space_is_held(old);
	if (!follows && !mapped)
		return KEEP;
	if (!change->bits && (follows || (old & PTE_P && old & PTE_MIRROR)))
		*value = SPACE_CLOSED;
	else if (mapped)
		*value = with_rights(old, change->bits, level);
	else if (!change->distance_known)
		return fail(change, EAGAIN, at);
	else if (level > 0)
		return DESCEND;
	else
		*value = (at + change->distance) | change->bits;
	if (*value == old)
		return KEEP;
	if (!whole)
		return DESCEND;
	hold(*value, level, at); /* for what drops the old entry's reference */
	return REPLACE;
}

/* Whether an entry of the program's shows the process's memory at its own address. */
static bool shows_process(ptent_t entry, unsigned level, uintptr_t va)
{
	if (!(entry & PTE_P) && !space_is_held(entry))
		return entry == SPACE_CLOSED;
	uint64_t address = space_address(entry, level);
	if (dune_page_isfrompool(address) || !space_operations->physical)
		return false;
	int error;
	return space_operations->physical(va & ~(space_span(level) - 1), &error) == address;
}

static enum verdict forget(struct space_change *change, ptent_t old, unsigned level, uintptr_t at, bool whole,
			   ptent_t *value)
{
	*value = 0;
	if (old & PTE_P && old & PTE_MIRROR)
		return REPLACE; /* more than asked for: it follows again when it is touched */
	if (!old || !change->all || !shows_process(old, level, at))
		return KEEP;
	return whole ? REPLACE : DESCEND;
}

static enum verdict decide(struct space_change *change, ptent_t old, unsigned level, uintptr_t at, bool whole,
			   ptent_t *value)
{
	if (space_is_shared(old, level))
		return KEEP;
	if (change->kind == SPACE_CLEAR) {
		*value = change->bits;
		return old == change->bits ? KEEP : whole ? REPLACE : DESCEND;
	}
	if (change->kind == SPACE_MAP || change->kind == SPACE_MAP_NEW)
		return map(change, level, at, value);
	if (space_is_table(old, level))
		return DESCEND;
	if (change->kind == SPACE_PROTECT)
		return protect(change, old, level, at, whole, value);
	return forget(change, old, level, at, whole, value);
}

static int change_table(struct batch *batch, ptent_t *table, unsigned level, uintptr_t begin, uintptr_t end, bool live);

static int descend(struct batch *batch, ptent_t *entry, ptent_t old, unsigned level, uintptr_t at, uintptr_t next,
		   bool live)
{
	if (space_is_table(old, level))
		return change_table(batch, space_table_at(old), level - 1, at, next, live);
	struct space_change *change = batch->change;
	ptent_t *made = space_table_below(old, level, at);
	if (!made) {
		/* What the process has no more must not stay: access to the rest of the large page is lost with it. */
		if (change->kind == SPACE_FORGET)
			return old & PTE_P ? put(batch, entry, old, DUNE_SPACE_REMOVED, level, at, live) : 0;
		fail(change, ENOMEM, at);
		return -1;
	}
	int result = change_table(batch, made, level - 1, at, next, false);
	if (put(batch, entry, old, (uintptr_t)made | SPACE_LINK, level, at, live) != 0)
		return -1;
	return result;
}

static int change_table(struct batch *batch, ptent_t *table, unsigned level, uintptr_t begin, uintptr_t end, bool live)
{
	uintptr_t next;
	for (uintptr_t at = begin; at < end; at = next) {
		next = (at | (space_span(level) - 1)) + 1;
		if (next > end)
			next = end;
		ptent_t *entry = &table[PDX(level, at)], old = space_load(entry), value = 0;
		int result = 0;
		switch (decide(batch->change, old, level, at, next - at == space_span(level), &value)) {
		case KEEP:
			break;
		case REPLACE:
			result = put(batch, entry, old, value, level, at, live);
			break;
		case DESCEND:
			result = descend(batch, entry, old, level, at, next, live);
			break;
		case FAIL:
			result = -1;
		}
		if (result != 0)
			return result;
	}
	return 0;
}

int space_change(struct space_change *change, uintptr_t begin, uintptr_t end)
{
	struct batch batch;
	batch.change = change;
	batch.count = 0;
	change->error = 0;
	int result = change_table(&batch, change->root, ROOT_LEVEL, begin, end, true);
	int error = change->error;
	if (flush(&batch) != 0)
		return -1;
	change->error = error;
	return result;
}
