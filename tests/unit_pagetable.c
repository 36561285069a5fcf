/*
 * unit_pagetable.c - page tables as data: what is entered is what a walk like the processor's finds, and nothing else.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "vm/pagetable.h"

#define PAGE DUNE_PAGE_SIZE
#define GIB ((uint64_t)1 << 30)
#define PHYSICAL ((uint64_t)0x123456000)
#define TABLE_BITS (DUNE_PTE_PRESENT | DUNE_PTE_WRITE | DUNE_PTE_USER)

static uint64_t random_state;

static uint64_t random_next(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return random_state >> 33;
}

/* Addresses that are near each other and near the borders of tables, so that tables are shared and crossed. */
static uint64_t random_address(void)
{
	static const uint64_t regions[] = { 0x10000,           0x400000,       0x40000000,
					    0x555555554000,    0x7ffff7fbf000, DUNE_USER_END - 64 * DUNE_PAGE_SIZE,
					    (uint64_t)1 << 39, 0x3fffffe0000 };
	uint64_t region = regions[random_next() % (sizeof(regions) / sizeof(regions[0]))];
	unsigned spread = random_next() % 3 ? 6 : 12;

	region += random_next() % ((uint64_t)1 << spread) * PAGE;
	return region < DUNE_USER_END ? region : DUNE_USER_END - PAGE;
}

static struct dune_tables tables_new(size_t pages)
{
	struct dune_tables tables = {
		.host = aligned_alloc(PAGE, pages * PAGE),
		.physical = PHYSICAL,
		.size = pages * PAGE,
	};

	CU_ASSERT_PTR_NOT_NULL_FATAL(tables.host);
	memset(tables.host, 0, tables.size);
	return tables;
}

/* Walks as the processor does: the leaf entry, 0 if something on the way is not present.  Checks what tables hold. */
static uint64_t walk(const struct dune_tables *tables, uint64_t root, uint64_t address)
{
	uint64_t table = root, entry = 0;

	for (int shift = 39; shift >= 12; shift -= 9) {
		CU_ASSERT_FATAL(table >= PHYSICAL && table < PHYSICAL + tables->used && table % PAGE == 0);
		entry = ((uint64_t *)(tables->host + (table - PHYSICAL)))[address >> shift & 511];
		if (shift == 12)
			break;
		if (!(entry & DUNE_PTE_PRESENT)) {
			CU_ASSERT_EQUAL(entry, 0);
			return 0;
		}
		CU_ASSERT_EQUAL(entry & ~DUNE_PTE_FRAME & ~DUNE_PTE_SHARED, TABLE_BITS);
		table = entry & DUNE_PTE_FRAME;
	}
	return entry;
}

static void table_pages_are_fresh_until_none_is_left(void)
{
	struct dune_tables tables = tables_new(5);

	for (uint64_t i = 0; i < 5; i++) {
		uint64_t page = dune_tables_new(&tables);

		CU_ASSERT_EQUAL(page, PHYSICAL + i * PAGE);
		CU_ASSERT_PTR_EQUAL(dune_tables_at(&tables, page), tables.host + i * PAGE);
		CU_ASSERT_EQUAL(tables.used, (i + 1) * PAGE);
	}
	errno = 0;
	CU_ASSERT_EQUAL(dune_tables_new(&tables), 0);
	CU_ASSERT_EQUAL(errno, ENOMEM);
	CU_ASSERT_EQUAL(tables.used, tables.size);
	free(tables.host);
}

static void a_lookup_makes_nothing(void)
{
	struct dune_tables tables = tables_new(64);
	uint64_t root = dune_tables_new(&tables);

	random_state = 1;
	for (unsigned i = 0; i < 1000; i++)
		CU_ASSERT_PTR_NULL(dune_tables_entry(&tables, root, random_address(), false));
	CU_ASSERT_EQUAL(tables.used, PAGE);
	for (size_t i = 0; i < PAGE / 8; i++)
		CU_ASSERT_EQUAL(dune_tables_at(&tables, root)[i], 0);
	free(tables.host);
}

static void an_entry_has_one_place(void)
{
	struct dune_tables tables = tables_new(64);
	uint64_t root = dune_tables_new(&tables);
	uint64_t *entry = dune_tables_entry(&tables, root, 0x555555554000, true);

	CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
	CU_ASSERT_EQUAL(*entry, 0);
	CU_ASSERT_EQUAL(tables.used, 4 * PAGE);
	CU_ASSERT_PTR_EQUAL(dune_tables_entry(&tables, root, 0x555555554000, false), entry);
	CU_ASSERT_PTR_EQUAL(dune_tables_entry(&tables, root, 0x555555554fff, true), entry);
	CU_ASSERT_PTR_EQUAL(dune_tables_entry(&tables, root, 0x555555555000, false), entry + 1);
	CU_ASSERT_EQUAL(tables.used, 4 * PAGE);
	/* The last page below and the first page of the next table. */
	CU_ASSERT_PTR_NULL(dune_tables_entry(&tables, root, 0x555555600000, false));
	CU_ASSERT_PTR_NOT_NULL(dune_tables_entry(&tables, root, 0x555555600000, true));
	CU_ASSERT_EQUAL(tables.used, 5 * PAGE);
	free(tables.host);
}

#define MODEL_PAGES 4000
#define MODEL_ROOTS 3

static void random_edits_agree_with_a_model(void)
{
	static struct {
		uint64_t address, entry;
	} model[MODEL_ROOTS][MODEL_PAGES];
	struct dune_tables tables = tables_new(600);
	uint64_t roots[MODEL_ROOTS];
	size_t counts[MODEL_ROOTS] = { 0 };

	random_state = 2;
	for (unsigned i = 0; i < MODEL_ROOTS; i++)
		roots[i] = dune_tables_new(&tables);
	for (unsigned step = 0; step < 20000; step++) {
		unsigned r = random_next() % MODEL_ROOTS;
		uint64_t address = random_address();
		size_t i = 0;

		while (i < counts[r] && model[r][i].address != address)
			i++;
		CU_ASSERT_FATAL(i < MODEL_PAGES);

		uint64_t expected = i < counts[r] ? model[r][i].entry : 0;
		uint64_t *entry = dune_tables_entry(&tables, roots[r], address, false);

		CU_ASSERT_EQUAL(entry ? *entry : 0, expected);
		CU_ASSERT_EQUAL(walk(&tables, roots[r], address), expected);
		if (i == counts[r]) {
			model[r][i].address = address;
			counts[r]++;
		}
		entry = dune_tables_entry(&tables, roots[r], address, true);
		CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
		switch (random_next() % 4) {
		case 0: /* unmap */
			*entry = 0;
			break;
		case 1: /* protect */
			if (*entry)
				*entry = (*entry & ~DUNE_PTE_WRITE) | DUNE_PTE_NO_EXECUTE;
			break;
		default: /* map */
			*entry = random_next() % 1000000 * PAGE | DUNE_PTE_PRESENT | DUNE_PTE_USER |
				 (random_next() % 2 ? DUNE_PTE_WRITE : DUNE_PTE_COPY_ON_WRITE);
			break;
		}
		model[r][i].entry = *entry;
	}
	/* No edit has changed another entry, in this root or another. */
	for (unsigned r = 0; r < MODEL_ROOTS; r++)
		for (size_t i = 0; i < counts[r]; i++)
			CU_ASSERT_EQUAL(walk(&tables, roots[r], model[r][i].address), model[r][i].entry);

	/* And no more is mapped than the model says. */
	for (unsigned r = 0; r < MODEL_ROOTS; r++) {
		size_t present = 0, expected = 0;
		const uint64_t *level4 = dune_tables_at(&tables, roots[r]);

		for (unsigned a = 0; a < 512; a++) {
			if (!level4[a])
				continue;

			const uint64_t *level3 = dune_tables_at(&tables, level4[a] & DUNE_PTE_FRAME);

			for (unsigned b = 0; b < 512; b++) {
				if (!level3[b])
					continue;

				const uint64_t *level2 = dune_tables_at(&tables, level3[b] & DUNE_PTE_FRAME);

				for (unsigned c = 0; c < 512; c++) {
					if (!level2[c])
						continue;

					const uint64_t *level1 = dune_tables_at(&tables, level2[c] & DUNE_PTE_FRAME);

					for (unsigned d = 0; d < 512; d++)
						present += level1[d] != 0;
				}
			}
		}
		for (size_t i = 0; i < counts[r]; i++)
			expected += model[r][i].entry != 0;
		CU_ASSERT_EQUAL(present, expected);
	}
	free(tables.host);
}

static void running_out_of_tables_harms_nothing(void)
{
	for (size_t pages = 5; pages < 12; pages++) {
		struct dune_tables tables = tables_new(pages);
		uint64_t root = dune_tables_new(&tables);
		uint64_t *first = dune_tables_entry(&tables, root, 0x400000, true);

		CU_ASSERT_PTR_NOT_NULL_FATAL(first);
		*first = 0x7000 | DUNE_PTE_PRESENT;
		for (uint64_t i = 1;; i++) {
			uint64_t address = 0x400000 + i * 0x8000000000;

			errno = 0;
			if (dune_tables_entry(&tables, root, address, true))
				continue;
			CU_ASSERT_EQUAL(errno, ENOMEM);
			CU_ASSERT_EQUAL(tables.used, tables.size);
			CU_ASSERT_EQUAL(walk(&tables, root, address), 0);
			CU_ASSERT_PTR_NULL(dune_tables_entry(&tables, root, address, false));
			break;
		}
		CU_ASSERT_EQUAL(walk(&tables, root, 0x400000), 0x7000 | DUNE_PTE_PRESENT);
		CU_ASSERT_PTR_EQUAL(dune_tables_entry(&tables, root, 0x400000, true), first);
		errno = 0;
		CU_ASSERT_EQUAL(dune_tables_directory(&tables, root, 0x7f0000000000), 0);
		CU_ASSERT_EQUAL(errno, ENOMEM);
		free(tables.host);
	}
}

static void a_directory_is_shared_by_many_roots(void)
{
	enum {
		ROOTS = 4
	};
	struct dune_tables tables = tables_new(64);
	uint64_t roots[ROOTS], directory, place = 5 * GIB, address = place + 123 * PAGE, *entry;

	for (unsigned i = 0; i < ROOTS; i++)
		roots[i] = dune_tables_new(&tables);
	directory = dune_tables_directory(&tables, roots[0], place);
	CU_ASSERT_NOT_EQUAL_FATAL(directory, 0);
	CU_ASSERT_EQUAL(dune_tables_directory(&tables, roots[0], place + GIB - 1), directory);
	CU_ASSERT_NOT_EQUAL(dune_tables_directory(&tables, roots[0], place + GIB), directory);
	for (unsigned i = 1; i < ROOTS; i++)
		CU_ASSERT_EQUAL(dune_tables_share(&tables, roots[i], place, directory), 0);
	for (unsigned i = 0; i < ROOTS; i++) {
		errno = 0;
		CU_ASSERT_EQUAL(dune_tables_share(&tables, roots[i], place, directory), -1);
		CU_ASSERT_EQUAL(errno, EEXIST);
		CU_ASSERT_EQUAL(dune_tables_directory(&tables, roots[i], place), directory);
	}

	/* What one enters all see, and no more than that. */
	entry = dune_tables_entry(&tables, roots[2], address, true);
	CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
	*entry = 0x9000 | DUNE_PTE_PRESENT | DUNE_PTE_USER;
	for (unsigned i = 0; i < ROOTS; i++) {
		CU_ASSERT_EQUAL(walk(&tables, roots[i], address), *entry);
		CU_ASSERT_PTR_EQUAL(dune_tables_entry(&tables, roots[i], address, false), entry);
		CU_ASSERT_EQUAL(walk(&tables, roots[i], address + GIB), 0);
		CU_ASSERT_EQUAL(walk(&tables, roots[i], address - GIB), 0);
		CU_ASSERT_EQUAL(walk(&tables, roots[i], address + PAGE), 0);
	}

	/* The GiB beside it is each root's own. */
	entry = dune_tables_entry(&tables, roots[1], address + GIB, true);
	CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
	*entry = 0xa000 | DUNE_PTE_PRESENT;
	for (unsigned i = 0; i < ROOTS; i++)
		CU_ASSERT_EQUAL(walk(&tables, roots[i], address + GIB), i == 1 ? *entry : 0);
	free(tables.host);
}

enum {
	DERIVED = 6,
	PLACES = 300
};

/* What each root maps: `common` for all that have nothing of their own there. */
struct shared_model {
	uint64_t address[PLACES];
	uint64_t common[PLACES];
	uint64_t own[DERIVED][PLACES]; /* 0: as common */
	unsigned places;
};

static unsigned place_of(struct shared_model *model, uint64_t address)
{
	for (unsigned i = 0; i < model->places; i++)
		if (model->address[i] == address)
			return i;
	CU_ASSERT_FATAL(model->places < PLACES);
	model->address[model->places] = address;
	return model->places++;
}

static void derived_roots_differ_only_where_they_own(void)
{
	static struct shared_model model;
	struct dune_tables tables = tables_new(4096);
	uint64_t base = dune_tables_new(&tables), roots[DERIVED];

	random_state = 7;
	for (unsigned i = 0; i < 100; i++) {
		uint64_t address = random_address() & ~(PAGE - 1);
		unsigned place = place_of(&model, address);

		model.common[place] = (random_next() << 12 & DUNE_PTE_FRAME) | DUNE_PTE_PRESENT;
		*dune_tables_entry(&tables, base, address, true) = model.common[place];
	}
	for (unsigned i = 0; i < DERIVED; i++)
		roots[i] = dune_tables_derive(&tables, base);
	for (unsigned round = 0; round < 3000; round++) {
		unsigned root = random_next() % DERIVED;
		bool new = random_next() % 8 == 0 && model.places < PLACES;
		uint64_t address = new ? random_address() & ~(PAGE - 1) : model.address[random_next() % model.places];
		unsigned place = place_of(&model, address);

		if (random_next() % 2) {
			struct dune_table_link link;
			uint64_t *entry = dune_tables_own(&tables, roots[root], address, &link);
			uint64_t before = walk(&tables, roots[root], address);

			CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
			CU_ASSERT_EQUAL(*entry, before); /* the copy says what the shared table says */
			*entry = (random_next() << 12 & DUNE_PTE_FRAME) | DUNE_PTE_PRESENT;
			if (link.entry) { /* until the link is replaced nothing has changed */
				CU_ASSERT_EQUAL(walk(&tables, roots[root], address), before);
				CU_ASSERT(*link.entry & DUNE_PTE_PRESENT && *link.entry & DUNE_PTE_SHARED);
				*link.entry = link.value;
			}
			model.own[root][place] = *entry;
		} else if (!model.common[place] && !model.own[root][place]) {
			uint64_t *entry = dune_tables_fill(&tables, roots[root], base, address);

			CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
			CU_ASSERT_EQUAL(*entry, 0);
			*entry = (random_next() << 12 & DUNE_PTE_FRAME) | DUNE_PTE_PRESENT;
			/* Whoever has a table of its own there fills it in itself. */
			for (unsigned i = 0; i < DERIVED; i++)
				if (!model.own[i][place] && walk(&tables, roots[i], address) != *entry) {
					uint64_t *theirs = dune_tables_fill(&tables, roots[i], base, address);
					CU_ASSERT(!*theirs || theirs == entry);
					*theirs = *entry;
				}
			model.common[place] = *entry;
		}
	}
	unsigned owned = 0;
	for (unsigned i = 0; i < DERIVED; i++)
		for (unsigned place = 0; place < model.places; place++) {
			uint64_t expected = model.own[i][place] ? model.own[i][place] : model.common[place];

			owned += model.own[i][place] != 0;
			CU_ASSERT_EQUAL(walk(&tables, roots[i], model.address[place]), expected);
		}
	CU_ASSERT(owned > 100);
	free(tables.host);
}

static void an_unchanged_root_costs_one_table(void)
{
	struct dune_tables tables = tables_new(256);
	uint64_t base = dune_tables_new(&tables), address = 0x7ffff7fbf000;
	struct dune_table_link link;

	for (unsigned i = 0; i < 20; i++)
		*dune_tables_entry(&tables, base, address - i * 64 * PAGE, true) = DUNE_PTE_PRESENT;
	size_t before = tables.used;
	uint64_t root = dune_tables_derive(&tables, base);
	CU_ASSERT_EQUAL(tables.used, before + PAGE);
	CU_ASSERT_PTR_NOT_NULL(dune_tables_own(&tables, root, address, &link));
	CU_ASSERT_EQUAL(tables.used, before + 4 * PAGE); /* the path, and nothing beside it */
	CU_ASSERT_PTR_NOT_NULL_FATAL(link.entry);
	*link.entry = link.value;
	CU_ASSERT_PTR_NOT_NULL(dune_tables_own(&tables, root, address + PAGE, &link));
	CU_ASSERT_PTR_NULL(link.entry);
	CU_ASSERT_EQUAL(tables.used, before + 4 * PAGE);
	free(tables.host);
}

static void running_out_while_owning_changes_nothing(void)
{
	for (size_t pages = 5; pages < 9; pages++) {
		struct dune_tables tables = tables_new(pages);
		uint64_t base = dune_tables_new(&tables), address = 0x555555554000;
		struct dune_table_link link;

		*dune_tables_entry(&tables, base, address, true) = 0xb000 | DUNE_PTE_PRESENT;
		uint64_t root = dune_tables_derive(&tables, base);
		errno = 0;
		uint64_t *entry = dune_tables_own(&tables, root, address, &link);
		CU_ASSERT_EQUAL(entry != NULL, pages == 8);
		CU_ASSERT_EQUAL(errno, entry ? 0 : ENOMEM);
		CU_ASSERT_EQUAL(walk(&tables, root, address), 0xb000 | DUNE_PTE_PRESENT);
		CU_ASSERT_EQUAL(walk(&tables, base, address), 0xb000 | DUNE_PTE_PRESENT);
		free(tables.host);
	}
}

static const struct harness_test tests[] = {
	{ "table pages are fresh until none is left", table_pages_are_fresh_until_none_is_left },
	{ "a lookup makes no table", a_lookup_makes_nothing },
	{ "an entry has one place, found again by every address of its page", an_entry_has_one_place },
	{ "random maps, unmaps and protects agree with a model in every root", random_edits_agree_with_a_model },
	{ "running out of tables is reported and harms no entry", running_out_of_tables_harms_nothing },
	{ "roots derived from one differ only where they own their tables", derived_roots_differ_only_where_they_own },
	{ "a root that changes nothing costs one table, a page of its own the path to it",
	  an_unchanged_root_costs_one_table },
	{ "running out of tables while copying them changes nothing", running_out_while_owning_changes_nothing },
	{ "a directory can be shared by many roots", a_directory_is_shared_by_many_roots },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
