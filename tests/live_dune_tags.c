/*
 * live_dune_tags.c - tagged translations (PCID) in guest placement: a tag keeps what the TLB holds when that is asked for,
 * and nothing stale outlives a change made through the library or an invalidation.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <dune.h>

#include "live.h"

enum {
	TAG_ONE = 1,
	TAG_TWO = 2,
	ADDRESS_ONLY = 0, /* INVPCID's modes (Intel SDM volume 2A) */
	ONE_TAG = 1,
	ALL_TAGS = 2
};

/* Where both roots have a page of their own. */
static char *const place = (char *)0x600000000000;

static struct page *first, *second;
static ptent_t *one, *two, *entry;
static bool has_tags;

static uint64_t exits(void)
{
	struct dune_counters counters;
	ASSERT_EQUAL(dune_get_counters(&counters), 0);
	return counters.exits - counters.interrupted;
}

static void load(const ptent_t *root, uint64_t bits)
{
	load_cr3((unsigned long)root | bits);
}

static char look(void)
{
	return *(volatile char *)place;
}

static void point_to(const struct page *page)
{
	__atomic_store_n(entry, dune_page2pa((struct page *)page) | PTE_P | PTE_W | PTE_NX | PTE_A | PTE_D,
			 __ATOMIC_RELEASE);
}

/* Enters, and makes two address spaces that differ in one page: '1' in `one`, '2' in `two`. */
static bool prepare(void)
{
	struct dune_host host;
	if (dune_probe(&host) != 0 || !host.ring0_native)
		return false;
	has_tags = host.pcid;
	ASSERT_EQUAL(dune_init_and_enter(), 0);
	first = dune_page_alloc();
	second = dune_page_alloc();
	CU_ASSERT_FATAL(first && second);
	memset((void *)dune_page2pa(first), '1', PGSIZE);
	memset((void *)dune_page2pa(second), '2', PGSIZE);
	/* What is mirrored while a clone is in use is mirrored there only: look at everything first. */
	CU_ASSERT_FATAL((one = dune_vm_clone(pgroot)) && (two = dune_vm_clone(pgroot)));
	ASSERT_EQUAL(dune_vm_insert_page(one, place, first, PERM_R | PERM_W), 0);
	ASSERT_EQUAL(dune_vm_insert_page(two, place, second, PERM_R | PERM_W), 0);
	ASSERT_EQUAL(dune_vm_lookup(one, place, CREATE_NONE, &entry), 0);
	return true;
}

#define PREPARE()                                                                                \
	do {                                                                                     \
		if (!prepare())                                                                  \
			HARNESS_SKIP("ring 0 is interpreted here: there is no guest placement"); \
	} while (0)
#define NEEDS_TAGS()                                                          \
	do {                                                                  \
		PREPARE();                                                    \
		if (!has_tags)                                                \
			HARNESS_SKIP("this processor's guests have no PCID"); \
	} while (0)

static void test_switches(void)
{
	PREPARE();
	unsigned wrong = 0;
	for (unsigned i = 0; i < 4; i++) { /* what the loop needs is mirrored in both */
		load(one, TAG_ONE);
		wrong += look() != '1';
		load(two, TAG_TWO);
		wrong += look() != '2';
	}
	load(pgroot, 0);
	uint64_t before = exits();
	for (unsigned i = 0; i < 1000; i++) {
		load(one, TAG_ONE | CR3_NOFLUSH);
		wrong += look() != '1';
		load(two, TAG_TWO | CR3_NOFLUSH);
		wrong += look() != '2';
	}
	load(pgroot, 0);
	ASSERT_EQUAL(exits() - before, 0);
	ASSERT_EQUAL(wrong, 0);
}

/* Whether the processor keeps a translation over two loads of CR3 that ask for it.  It may, and need not: Bochs does not. */
static bool keeps(void)
{
	load(one, TAG_ONE);
	look();
	point_to(second);
	load(pgroot, CR3_NOFLUSH);
	load(one, TAG_ONE | CR3_NOFLUSH);
	char kept = look();
	load(one, TAG_ONE);
	point_to(first);
	load(pgroot, 0);
	return kept == '1';
}

static void test_dropped(void)
{
	NEEDS_TAGS();
	load(one, TAG_ONE);
	char before = look();
	point_to(second);
	load(pgroot, CR3_NOFLUSH);
	load(one, TAG_ONE); /* without CR3_NOFLUSH */
	char after = look();
	load(pgroot, 0);
	ASSERT_EQUAL(before, '1');
	ASSERT_EQUAL(after, '2');
}

/* The control of the tests below: without an invalidation the old translation is still in use. */
static void test_kept(void)
{
	NEEDS_TAGS();
	if (!keeps())
		HARNESS_SKIP("this processor drops translations at every load of CR3");
}

static char after_invalidation(int mode, unsigned tag, const char *address)
{
	load(one, TAG_ONE);
	point_to(first);
	dune_invpcid(ALL_TAGS, 0, 0);
	look();
	point_to(second);
	load(pgroot, CR3_NOFLUSH);
	dune_invpcid(mode, tag, (unsigned long)address);
	load(one, TAG_ONE | CR3_NOFLUSH);
	char seen = look();
	load(pgroot, 0);
	return seen;
}

static void test_invalidation(void)
{
	NEEDS_TAGS();
	ASSERT_EQUAL(after_invalidation(ADDRESS_ONLY, TAG_ONE, place), '2');
	ASSERT_EQUAL(after_invalidation(ONE_TAG, TAG_ONE, 0), '2');
	ASSERT_EQUAL(after_invalidation(ALL_TAGS, 0, 0), '2');
	if (!keeps())
		HARNESS_SKIP("this processor drops translations at every load of CR3: no control");
	/* Controls: another address, another tag. */
	ASSERT_EQUAL(after_invalidation(ADDRESS_ONLY, TAG_ONE, place + PGSIZE), '1');
	ASSERT_EQUAL(after_invalidation(ONE_TAG, TAG_TWO, 0), '1');
}

static void test_flush_one(void)
{
	PREPARE();
	load(one, TAG_ONE);
	look();
	point_to(second);
	dune_flush_tlb_one((unsigned long)place);
	char after = look();
	point_to(first);
	dune_flush_tlb();
	char again = look();
	load(pgroot, 0);
	ASSERT_EQUAL(after, '2');
	ASSERT_EQUAL(again, '1');
}

/* A change through the library, of an address space that is not in use, reaches what other tags hold. */
static void test_changes(void)
{
	PREPARE();
	load(one, TAG_ONE);
	look();
	load(pgroot, CR3_NOFLUSH);
	ASSERT_EQUAL(dune_vm_insert_page(one, place, second, PERM_R | PERM_W), 0);
	load(one, TAG_ONE | CR3_NOFLUSH);
	char inserted = look();
	load(pgroot, CR3_NOFLUSH);
	ASSERT_EQUAL(inserted, '2');

	/* A right that is taken away is gone under every tag. */
	load(one, TAG_ONE | CR3_NOFLUSH);
	*(volatile char *)place = '2';
	load(one, TAG_TWO);
	*(volatile char *)place = '2';
	load(pgroot, CR3_NOFLUSH);
	ASSERT_EQUAL(dune_vm_mprotect(one, place, PGSIZE, PERM_R), 0);
	ASSERT_EQUAL(dune_vm_lookup(one, place, CREATE_NONE, &entry), 0);
	ASSERT_EQUAL(*entry & PTE_W, 0);
}

static ptent_t *volatile faulting;
static volatile unsigned faults;

static void allow(uintptr_t address, uint64_t error_code, struct dune_tf *tf)
{
	ptent_t *found;
	(void)error_code, (void)tf;
	faults++;
	if (dune_vm_lookup(faulting, (void *)address, CREATE_NONE, &found) == 0)
		*found |= PTE_W;
	dune_flush_tlb_one(address);
}

static void test_rights(void)
{
	PREPARE();
	faulting = one;
	dune_register_pgflt_handler(allow);
	for (uint64_t tag = TAG_ONE; tag <= TAG_TWO; tag++) {
		load(one, tag);
		*(volatile char *)place = 'w'; /* translated, with the right to write, under both tags */
	}
	load(pgroot, CR3_NOFLUSH);
	ASSERT_EQUAL(faults, 0);
	for (uint64_t tag = TAG_ONE; tag <= TAG_TWO; tag++) {
		ASSERT_EQUAL(dune_vm_mprotect(one, place, PGSIZE, PERM_R), 0);
		unsigned before = faults;
		load(one, tag | CR3_NOFLUSH);
		*(volatile char *)place = 'w';
		load(pgroot, CR3_NOFLUSH);
		ASSERT_EQUAL(faults - before, 1);
	}
}

static const struct harness_test tests[] = {
	{ "switches between tagged address spaces make no exit and mix nothing up", test_switches, HARNESS_FORK },
	{ "a load of CR3 drops what its tag holds", test_dropped, HARNESS_FORK },
	{ "a tag keeps its translations when that is asked for", test_kept, HARNESS_FORK },
	{ "INVPCID drops one address, one tag, all tags, and no more", test_invalidation, HARNESS_FORK },
	{ "flushes drop what the tag in use holds", test_flush_one, HARNESS_FORK },
	{ "a change of an address space that is not in use reaches all tags", test_changes, HARNESS_FORK },
	{ "a right that is taken away is gone under every tag", test_rights, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
