/*
 * live_dune_published.c - programs written for the published interface of Dune, libdune/dune.h: handlers and address spaces.
 *
 * They do what such programs do, in their way: page tables edited by stores, fixed addresses, roots loaded with tags,
 * functions of their own in ring 3, a system-call handler that passes on.  Those that need ring 3, handlers and address
 * spaces only run in both placements, unchanged.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "dune_programs.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- ring 3 ---- */
static long ask_for_things(long first, long second)
{
	long pid = user_call(SYS_getpid, 0, 0, 0);

	(void)second;
	if (pid != first || user_call(SYS_open, (long)"/etc/passwd", 0, 0) != -EACCES)
		return 1;
	return user_call(SYS_write, -1, 0, 0) == -EBADF ? 42 : 2;
}

static void a_function_runs_in_ring_3(void)
{
	begin();
	CHECK(run_user(add, 40, 2) == 42);
	CHECK(calls == 1);
	CHECK(run_user(ask_for_things, getpid(), 0) == 42);
	CHECK(calls == 5 && passed == 2 && refused == 1);
}

static long arguments_seen[7];

static void see_arguments(struct dune_tf *tf)
{
	if (tf->rax == SYS_exit)
		dune_ret_from_user((int)ARG0(tf));
	arguments_seen[0] = (long)tf->rax;
	arguments_seen[1] = (long)ARG0(tf);
	arguments_seen[2] = (long)ARG1(tf);
	arguments_seen[3] = (long)ARG2(tf);
	arguments_seen[4] = (long)tf->r10;
	arguments_seen[5] = (long)ARG4(tf);
	arguments_seen[6] = (long)ARG5(tf);
	tf->rax = 99;
}

static long call_with_six(long first, long second)
{
	register long fourth __asm__("r10") = 4;
	register long fifth __asm__("r8") = 5;
	register long sixth __asm__("r9") = 6;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(1000l), "D"(first), "S"(second), "d"(3l), "r"(fourth), "r"(fifth), "r"(sixth)
			 : "rcx", "r11", "memory");
	return result;
}

static void a_handler_sees_arguments(void)
{
	begin();
	dune_register_syscall_handler(see_arguments);
	CHECK(run_user(call_with_six, 1, 2) == 99);
	CHECK(arguments_seen[0] == 1000);
	for (int i = 1; i < 7; i++)
		CHECK(arguments_seen[i] == i);
}

static void skip_ud2(struct dune_tf *tf)
{
	faults++;
	CHECK((tf->cs & 3) == 3);
	tf->rip += 2;
	tf->rax = 17;
}

static long undefined(long first, long second)
{
	long result = 0;

	(void)first;
	(void)second;
	__asm__ volatile("ud2" : "+a"(result));
	return result;
}

static void an_exception_of_ring_3_is_mended(void)
{
	begin();
	CHECK(dune_register_intr_handler(T_ILLOP, skip_ud2) == 0);
	CHECK(run_user(undefined, 0, 0) == 17);
	CHECK(faults == 1);
}

/* ---- page tables edited by stores ---- */

/* Maps the page with all rights, by a store; a page of the pool if there is none. */
static void fill(uintptr_t addr)
{
	ptent_t *pte = NULL;

	if (dune_vm_lookup(pgroot, (void *)addr, CREATE_NORMAL, &pte))
		dune_die();
	if (!PTE_ADDR(*pte)) {
		struct page *page = dune_page_alloc();

		if (!page)
			dune_die();
		memset((void *)dune_page2pa(page), 0, PGSIZE);
		*pte = dune_page2pa(page);
	}
	*pte |= PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
	dune_flush_tlb_one(addr);
}

static void fill_handler(uintptr_t addr, uint64_t fec, struct dune_tf *tf)
{
	(void)tf;
	faults++;
	fault_code = fec;
	fill(addr);
}

/* Takes all rights away, by a store: the address stays. */
static void protect(char *addr)
{
	ptent_t *pte = NULL;

	REQUIRE(dune_vm_lookup(pgroot, addr, 0, &pte) == 0);
	*pte = PTE_ADDR(*pte);
	dune_flush_tlb_one((unsigned long)addr);
}

static void a_handler_fills_entries(void)
{
	begin();
	dune_register_pgflt_handler(fill_handler);
	CHECK(run_user(store_to_pages, (long)FAR, PAGES) == 0);
	CHECK(faults == PAGES);
	CHECK((fault_code & (FEC_P | FEC_U)) == FEC_U);
	CHECK(run_user(sum_of_pages, (long)FAR, PAGES) == PAGES * (PAGES + 1) / 2);
	CHECK(faults == PAGES);
}

static void a_handler_restores_entries(void)
{
	begin();
	dune_register_pgflt_handler(fill_handler);
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PAGES * PGSIZE, PERM_UTEXT) == 0);
	for (unsigned round = 1; round <= 3; round++) {
		CHECK(run_user(store_to_pages, (long)FAR, PAGES) == 0);
		CHECK(faults == (round - 1) * PAGES);
		for (int i = 0; i < PAGES; i++)
			protect(FAR + i * PGSIZE);
		CHECK(run_user(sum_of_pages, (long)FAR, PAGES) == (long)round * PAGES * (PAGES + 1) / 2);
		CHECK(faults == round * PAGES);
	}
}

static void unprotect_handler(uintptr_t addr, uint64_t fec, struct dune_tf *tf)
{
	(void)tf;
	faults++;
	fault_code = fec;
	CHECK(dune_vm_mprotect(pgroot, (void *)PGADDR(addr), PGSIZE, PERM_UTEXT) == 0);
}

static void protect_trap_unprotect(void)
{
	begin();
	dune_register_pgflt_handler(unprotect_handler);
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PAGES * PGSIZE, PERM_UTEXT) == 0);
	for (unsigned round = 1; round <= 3; round++) {
		CHECK(dune_vm_mprotect(pgroot, FAR, PAGES * PGSIZE, PERM_R | PERM_U) == 0);
		CHECK(run_user(store_to_pages, (long)FAR, PAGES) == 0);
		CHECK(faults == round * PAGES);
		CHECK(fault_code == (FEC_P | FEC_W | FEC_U));
	}
	CHECK(run_user(sum_of_pages, (long)FAR, PAGES) == 3 * PAGES * (PAGES + 1) / 2);
	dune_vm_unmap(pgroot, FAR, PAGES * PGSIZE);
	dune_register_pgflt_handler(fill_handler);
	faults = 0;
	CHECK(run_user(sum_of_pages, (long)FAR, PAGES) == 0);
	CHECK(faults == PAGES);
}

static void memory_at_a_fixed_address(void)
{
	char *at = (char *)0x300000000000;

	begin();
	REQUIRE(mmap(at, PAGES * PGSIZE, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == at);
	REQUIRE(dune_vm_map_phys(pgroot, at, PAGES * PGSIZE, (void *)dune_va_to_pa(at), PERM_UTEXT) == 0);
	*(long *)at = 100;
	CHECK(run_user(store_to_pages, (long)at, PAGES) == 0);
	CHECK(*(long *)at == 101);
	CHECK(*(long *)(at + (PAGES - 1) * PGSIZE) == PAGES);
	/* The same memory elsewhere. */
	REQUIRE(dune_vm_map_phys(pgroot, FAR, PAGES * PGSIZE, (void *)dune_va_to_pa(at), PERM_UTEXT) == 0);
	CHECK(run_user(sum_of_pages, (long)FAR, PAGES) == 100 + PAGES * (PAGES + 1) / 2);
}

static void huge_pages(void)
{
	char *at = (char *)0x300000000000;
	size_t size = 2 * BIG_PGSIZE;
	ptent_t *pte = NULL;

	if (getenv("TEST_LANE")) { /* the machine is the test's own */
		FILE *reserved = fopen("/proc/sys/vm/nr_hugepages", "w");

		if (reserved) {
			fprintf(reserved, "4\n");
			fclose(reserved);
		}
	}
	begin();
	if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE,
		 -1, 0) != at)
		skip("no huge pages are reserved (vm.nr_hugepages)");
	REQUIRE(dune_vm_map_phys(pgroot, at, size, (void *)dune_va_to_pa(at), PERM_UTEXT | PERM_BIG) == 0);
	CHECK(run_user(store_to_pages, (long)at, (long)(size / PGSIZE)) == 0);
	CHECK(*(long *)(at + size - PGSIZE) == (long)(size / PGSIZE));
	CHECK(dune_vm_lookup(pgroot, at, CREATE_BIG, &pte) == 0);
	CHECK((*pte & (PTE_P | PTE_PS)) == (PTE_P | PTE_PS));
}

/* ---- roots ---- */

static void two_roots(void)
{
	begin();
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PGSIZE, PERM_UTEXT) == 0);
	ptent_t *root = dune_vm_clone(pgroot);
	REQUIRE(root != NULL);
	struct page *page = dune_page_alloc();
	REQUIRE(page != NULL);
	memset((void *)dune_page2pa(page), 0, PGSIZE);
	REQUIRE(dune_vm_insert_page(root, FAR, page, PERM_UTEXT) == 0);
	dune_page_put(page);
	CHECK(page->ref == 1);
	CHECK(dune_vm_lookup_page(root, FAR) == page);
	CHECK(dune_vm_lookup_page(pgroot, FAR) != page);

	for (long i = 1; i <= 20; i++) {
		load_cr3((unsigned long)root | CR3_NOFLUSH | 1);
		for (int j = 0; j < 2; j++)
			CHECK(run_user(store_to_pages, (long)FAR, 1) == 0);
		CHECK(run_user(sum_of_pages, (long)FAR, 1) == 2 * i);
		if (dune_in_guest())
			CHECK(*(volatile long *)FAR == 2 * i);
		load_cr3((unsigned long)pgroot | CR3_NOFLUSH);
		CHECK(run_user(store_to_pages, (long)FAR, 1) == 0);
		CHECK(run_user(sum_of_pages, (long)FAR, 1) == i);
	}
	dune_vm_free(root);
	CHECK(run_user(sum_of_pages, (long)FAR, 1) == 20);
}

static void pages_are_counted(void)
{
	struct page_head list;
	struct page *page;
	int count = 0;

	begin();
	SLIST_INIT(&list);
	for (int i = 0; i < 8; i++) {
		REQUIRE((page = dune_page_alloc()) != NULL);
		CHECK(page->ref == 1);
		CHECK(page >= pages && page < pages + num_pages);
		CHECK(dune_pa2page(dune_page2pa(page)) == page);
		CHECK(dune_page_isfrompool(dune_page2pa(page)));
		CHECK(dune_page2pa(page) == PAGEBASE + ((physaddr_t)(page - pages) << PGSHIFT));
		SLIST_INSERT_HEAD(&list, page, link);
	}
	SLIST_FOREACH(page, &list, link)
	{
		memset((void *)dune_page2pa(page), ++count, PGSIZE);
		REQUIRE(dune_vm_insert_page(pgroot, FAR + count * PGSIZE, page, PERM_UTEXT) == 0);
		CHECK(page->ref == 2);
		CHECK(dune_page_get(page) == page && page->ref == 3);
		dune_page_put(page);
	}
	CHECK(count == 8);
	dune_vm_unmap(pgroot, FAR, 9 * PGSIZE);
	SLIST_FOREACH(page, &list, link)
	CHECK(page->ref == 1);
	while (!SLIST_EMPTY(&list)) {
		page = SLIST_FIRST(&list);
		SLIST_REMOVE_HEAD(&list, link);
		dune_page_put(page);
	}
	CHECK(!dune_page_isfrompool(dune_va_to_pa((void *)&calls)));
}

/* A checkpoint: which pages were written to since the last one, and a copy of each. */
struct checkpoint {
	unsigned pages;
	uint64_t which;
	char copy[PAGES][64];
};

static int copy_dirty(const void *arg, ptent_t *ptep, void *va)
{
	struct checkpoint *checkpoint = *(struct checkpoint *const *)arg;
	long number = ((char *)va - FAR) / PGSIZE;

	if (*ptep & PTE_D) {
		memcpy(checkpoint->copy[number], (void *)PTE_ADDR(*ptep), sizeof checkpoint->copy[number]);
		checkpoint->which |= 1ul << number;
		checkpoint->pages++;
	}
	*ptep &= ~(PTE_A | PTE_D);
	return 0;
}

static struct checkpoint take_checkpoint(void)
{
	struct checkpoint checkpoint, *at = &checkpoint;

	memset(&checkpoint, 0, sizeof checkpoint);
	CHECK(dune_vm_page_walk(pgroot, FAR, FAR + PAGES * PGSIZE - 1, copy_dirty, &at) == 0);
	dune_flush_tlb();
	return checkpoint;
}

static void dirty_pages_are_found(void)
{
	struct dune_host host;

	begin();
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PAGES * PGSIZE, PERM_UTEXT) == 0);
	if (!dune_in_guest() && (dune_probe(&host) || !host.dirty_bits))
		skip("no accessed and dirty bits here");
	take_checkpoint();
	CHECK(take_checkpoint().pages == 0);
	for (int i = 0; i < PAGES; i += 3) {
		CHECK(run_user(store_to_pages, (long)FAR + i * PGSIZE, i + 1 < PAGES ? 2 : 1) == 0);
		struct checkpoint checkpoint = take_checkpoint();
		CHECK(checkpoint.pages == (i + 1 < PAGES ? 2 : 1));
		CHECK(checkpoint.which == (3ul << i & ((1ul << PAGES) - 1)));
		CHECK(*(long *)checkpoint.copy[i] == 1);
		CHECK(run_user(sum_of_pages, (long)FAR, PAGES) > 0);
		CHECK(take_checkpoint().pages == 0);
	}
}

static void a_handler_serves_the_default(uintptr_t addr, uint64_t fec, struct dune_tf *tf)
{
	(void)tf;
	faults++;
	dune_vm_default_pgflt_handler(addr, fec);
}

static void pages_are_copied_on_write(void)
{
	begin();
	dune_register_pgflt_handler(a_handler_serves_the_default);
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PGSIZE, PERM_UTEXT) == 0);
	struct page *page = dune_vm_lookup_page(pgroot, FAR);
	REQUIRE(page != NULL);
	CHECK(run_user(store_to_pages, (long)FAR, 1) == 0);
	REQUIRE(dune_vm_map_phys(pgroot, FAR + PGSIZE, PGSIZE, (void *)dune_page2pa(page),
				 PERM_R | PERM_U | PERM_COW) == 0);
	CHECK(run_user(sum_of_pages, (long)FAR, 2) == 2);
	CHECK(run_user(store_to_pages, (long)FAR + PGSIZE, 1) == 0);
	CHECK(faults == 1);
	CHECK(run_user(sum_of_pages, (long)FAR, 2) == 3);
	CHECK(dune_vm_lookup_page(pgroot, FAR + PGSIZE) != page);
}

/* ---- ring 0: guest placement only ---- */

static void mend_division(struct dune_tf *tf)
{
	faults++;
	CHECK((tf->cs & 3) == 0);
	tf->rcx = 1;
}

static void a_division_by_zero_is_mended(void)
{
	unsigned quotient = 10, rest = 0;
	uint64_t divisor = 0;

	enter();
	CHECK(dune_register_intr_handler(T_DIVIDE, mend_division) == 0);
	__asm__ volatile("divl %%ecx" : "+a"(quotient), "+d"(rest), "+c"(divisor));
	CHECK(quotient == 10 && rest == 0 && faults == 1);
}

static void the_programs_own_stores_fault(void)
{
	enter();
	dune_register_pgflt_handler(fill_handler);
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PAGES * PGSIZE, PERM_R | PERM_W) == 0);
	for (unsigned round = 1; round <= 10; round++) {
		for (int i = 0; i < PAGES; i++)
			protect(FAR + i * PGSIZE);
		store_to_pages((long)FAR, PAGES);
		CHECK(faults == round * PAGES);
		CHECK(!(fault_code & (FEC_P | FEC_U)));
		CHECK(dune_vm_mprotect(pgroot, FAR, PAGES * PGSIZE, PERM_R) == 0);
		store_to_pages((long)FAR, PAGES);
		faults -= PAGES;
		CHECK(fault_code == (FEC_P | FEC_W));
	}
	CHECK(sum_of_pages((long)FAR, PAGES) == 20 * PAGES * (PAGES + 1) / 2);
}

/* Memory of the process that a handler watches: what a write barrier does. */
static void the_process_watches_its_heap(void)
{
	char *at = (char *)0x300000000000;
	ptent_t *pte = NULL;

	enter();
	dune_register_pgflt_handler(unprotect_handler);
	REQUIRE(mmap(at, PAGES * PGSIZE, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == at);
	store_to_pages((long)at, PAGES);
	CHECK(faults == 0);
	/* Touched memory has an entry. */
	CHECK(dune_vm_lookup(pgroot, at, 0, &pte) == 0 && PTE_ADDR(*pte) == dune_va_to_pa(at));
	for (unsigned round = 1; round <= 3; round++) {
		CHECK(dune_vm_mprotect(pgroot, at, PAGES * PGSIZE, PERM_R) == 0);
		store_to_pages((long)at, PAGES);
		CHECK(faults == round * PAGES);
	}
	CHECK(sum_of_pages((long)at, PAGES) == 4 * PAGES * (PAGES + 1) / 2);
}

static const struct test tests[] = {
	{ "a function of the program runs in ring 3, its system calls are checked, counted, passed on",
	  a_function_runs_in_ring_3, false },
	{ "a handler sees the six arguments of a system call", a_handler_sees_arguments, false },
	{ "an exception of ring 3 is mended", an_exception_of_ring_3_is_mended, false },
	{ "a page-fault handler fills entries by stores", a_handler_fills_entries, false },
	{ "entries lose their rights by stores, and a handler gives them back", a_handler_restores_entries, false },
	{ "protect, trap, unprotect", protect_trap_unprotect, false },
	{ "memory of the process at a fixed address", memory_at_a_fixed_address, false },
	{ "memory in huge pages", huge_pages, false },
	{ "two roots, loaded with tags and without flushes", two_roots, false },
	{ "pages of the pool are counted, and linked in lists", pages_are_counted, false },
	{ "a walk copies dirty pages and clears accessed and dirty bits", dirty_pages_are_found, false },
	{ "pages are copied on write by the default handler", pages_are_copied_on_write, false },
	{ "a division by zero of the program itself is mended", a_division_by_zero_is_mended, true },
	{ "the program's own stores fault", the_programs_own_stores_fault, true },
	{ "the program watches its own memory", the_process_watches_its_heap, true },
};

int main(void)
{
	return run_tests(tests, sizeof tests / sizeof *tests);
}
