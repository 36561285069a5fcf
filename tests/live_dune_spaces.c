/*
 * live_dune_spaces.c - address spaces in ring 0 of the guest: what dune_vm_*() write is what the processor does, at once, on
 * every virtual CPU.
 */
#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "dune.h"
#include "harness.h"

enum {
	ROUNDS = 300
};

#define AT 0x10000000000 /* nothing of the process is there */

/* Enters Dune mode in guest placement; false: the test is skipped. */
static bool begin(void)
{
	CU_ASSERT_EQUAL_FATAL(dune_set_placement(DUNE_PLACEMENT_GUEST), 0);
	if (dune_init_and_enter() == 0)
		return true;
	CU_ASSERT_EQUAL_FATAL(errno, ENOTSUP);
	harness_skip("%s", dune_error());
	return false;
}

static volatile uint8_t *byte_at(uintptr_t va)
{
	return (volatile uint8_t *)va;
}

static ptent_t entry_at(ptent_t *root, uintptr_t va)
{
	ptent_t *entry;
	return dune_vm_lookup(root, (void *)va, CREATE_NONE, &entry) == 0 ? __atomic_load_n(entry, __ATOMIC_ACQUIRE) :
									    0;
}

/* Memory of the process, of whole aligned pages of this size, each 4 KiB beginning with its number. */
static uint8_t *memory_of(size_t size, size_t numbered)
{
	uint8_t *at = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CU_ASSERT_FATAL(at != MAP_FAILED);
	at = (uint8_t *)(((uintptr_t)at + size - 1) & ~(size - 1));
	for (size_t i = 0; i < numbered; i += PGSIZE)
		*(uint32_t *)(at + i) = (uint32_t)(i / PGSIZE + 1);
	return at;
}

static void map(ptent_t *root, uintptr_t va, const void *memory, size_t size, int perm)
{
	uintptr_t physical = dune_va_to_pa((void *)(uintptr_t)memory);
	CU_ASSERT_FATAL(physical != 0);
	CU_ASSERT_EQUAL_FATAL(dune_vm_map_phys(root, (void *)va, size, (void *)physical, perm), 0);
}

/* A fault is counted, and cured by giving rights to its page. */
static _Atomic unsigned faults;
static uintptr_t fault_address;
static uint64_t fault_code;
static uint8_t *cure; /* memory for what is not there */

static void on_fault(uintptr_t address, uint64_t code, struct dune_tf *tf)
{
	(void)tf;
	faults++;
	fault_address = address;
	fault_code = code;
	ptent_t *root = (ptent_t *)PTE_ADDR(read_cr3());
	if (faults > 1000 || address - AT > 4096 * (uint64_t)HUGE_PGSIZE)
		dune_die();
	if (code & FEC_P) {
		if (dune_vm_mprotect(root, (void *)address, 1, PERM_R | PERM_W | PERM_X) != 0)
			dune_die();
	} else {
		map(root, PGADDR(address), cure, PGSIZE, PERM_R | PERM_W);
	}
}

#define ASSERT_FAULT(access, address, code)                           \
	do {                                                          \
		faults = 0;                                           \
		access;                                               \
		CU_ASSERT_EQUAL(faults, 1);                           \
		CU_ASSERT_EQUAL(fault_address, (uintptr_t)(address)); \
		CU_ASSERT_EQUAL(fault_code, (code));                  \
	} while (0)
#define ASSERT_NO_FAULT(access)             \
	do {                                \
		faults = 0;                 \
		access;                     \
		CU_ASSERT_EQUAL(faults, 0); \
	} while (0)

static void check_large(size_t size, int perm)
{
	uint8_t *memory = memory_of(size, BIG_PGSIZE);
	map(pgroot, AT, memory, size, PERM_R | PERM_W | perm);
	CU_ASSERT(entry_at(pgroot, AT + size - 1) & PTE_PS);
	for (size_t i = 0; i < BIG_PGSIZE; i += 37 * PGSIZE)
		CU_ASSERT_EQUAL(*(volatile uint32_t *)(AT + i), i / PGSIZE + 1);
	*byte_at(AT + size - 1) = 0x5a;
	CU_ASSERT_EQUAL(memory[size - 1], 0x5a);
	/* A part loses a right: the rest goes on. */
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, (void *)(AT + 5 * PGSIZE), PGSIZE, PERM_R), 0);
	ASSERT_NO_FAULT((void)*byte_at(AT + 5 * PGSIZE));
	ASSERT_FAULT(*byte_at(AT + 5 * PGSIZE + 8) = 1, AT + 5 * PGSIZE + 8, FEC_P | FEC_W);
	CU_ASSERT_EQUAL(memory[5 * PGSIZE + 8], 1);
	ASSERT_NO_FAULT(*byte_at(AT + 4 * PGSIZE + 8) = 2);
	ASSERT_NO_FAULT(*byte_at(AT + size - 2) = 3);
	CU_ASSERT_EQUAL(memory[4 * PGSIZE + 8] + memory[size - 2], 5);
	/* And is removed. */
	cure = memory;
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, (void *)(AT + 7 * PGSIZE), PGSIZE), 0);
	ASSERT_FAULT((void)*byte_at(AT + 7 * PGSIZE), AT + 7 * PGSIZE, 0);
	CU_ASSERT_EQUAL(*(volatile uint32_t *)(AT + 7 * PGSIZE), 1);
	CU_ASSERT_EQUAL(*(volatile uint32_t *)(AT + 8 * PGSIZE), 9);
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, (void *)AT, size), 0);
}

static void large_pages_translate(void)
{
	if (!begin())
		return;
	dune_register_pgflt_handler(on_fault);
	check_large(BIG_PGSIZE, PERM_BIG);
	unsigned a, b, c, d = 0;
	if (__get_cpuid(0x80000001, &a, &b, &c, &d) && d & 1u << 26)
		check_large(HUGE_PGSIZE, PERM_BIG_1GB);
	else
		harness_note("the processor has no pages of 1 GiB");
}

static void the_processor_sets_accessed_and_dirty_bits(void)
{
	if (!begin())
		return;
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, (void *)AT, 2 * PGSIZE, PERM_R | PERM_W), 0);
	CU_ASSERT_EQUAL(entry_at(pgroot, AT) & (PTE_A | PTE_D), 0);
	CU_ASSERT_EQUAL(*byte_at(AT), 0);
	CU_ASSERT_EQUAL(entry_at(pgroot, AT) & (PTE_A | PTE_D), PTE_A);
	*byte_at(AT) = 1;
	CU_ASSERT_EQUAL(entry_at(pgroot, AT) & (PTE_A | PTE_D), PTE_A | PTE_D);
	CU_ASSERT_EQUAL(entry_at(pgroot, AT + PGSIZE) & (PTE_A | PTE_D), 0);
	/* Rights change, the bits stay. */
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, (void *)AT, PGSIZE, PERM_R), 0);
	CU_ASSERT_EQUAL(entry_at(pgroot, AT) & (PTE_A | PTE_D | PTE_W), PTE_A | PTE_D);
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, (void *)AT, PGSIZE, PERM_R | PERM_W), 0);
	/* A collector clears them, and finds what is written afterwards. */
	ptent_t *entry;
	CU_ASSERT_EQUAL(dune_vm_lookup(pgroot, (void *)AT, CREATE_NONE, &entry), 0);
	__atomic_fetch_and(entry, ~(PTE_A | PTE_D), __ATOMIC_SEQ_CST);
	dune_flush_tlb_one(AT);
	CU_ASSERT_EQUAL(*byte_at(AT), 1);
	CU_ASSERT_EQUAL(entry_at(pgroot, AT) & (PTE_A | PTE_D), PTE_A);
	*byte_at(AT) = 2;
	CU_ASSERT_EQUAL(entry_at(pgroot, AT) & (PTE_A | PTE_D), PTE_A | PTE_D);
}

static void a_clone_has_its_own_rights(void)
{
	if (!begin())
		return;
	dune_register_pgflt_handler(on_fault);
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, (void *)AT, 3 * PGSIZE, PERM_R | PERM_W), 0);
	*byte_at(AT) = 1;
	cure = memory_of(BIG_PGSIZE, PGSIZE);
	ptent_t *clone = dune_vm_clone(pgroot);
	CU_ASSERT_PTR_NOT_NULL_FATAL(clone);
	CU_ASSERT_EQUAL(dune_vm_mprotect(clone, (void *)AT, PGSIZE, PERM_R), 0);
	CU_ASSERT_EQUAL(dune_vm_unmap(clone, (void *)(AT + PGSIZE), PGSIZE), 0);
	ASSERT_NO_FAULT(*byte_at(AT) = 2);
	ASSERT_NO_FAULT(*byte_at(AT + PGSIZE) = 3);
	load_cr3((unsigned long)clone);
	CU_ASSERT_EQUAL(PTE_ADDR(read_cr3()), (uintptr_t)clone);
	ASSERT_NO_FAULT(CU_ASSERT_EQUAL(*byte_at(AT), 2));
	ASSERT_FAULT(*byte_at(AT) = 4, AT, FEC_P | FEC_W);
	ASSERT_FAULT(CU_ASSERT_EQUAL(*byte_at(AT + PGSIZE), 1), AT + PGSIZE, 0);
	/* Taken away while it is loaded. */
	ASSERT_NO_FAULT(*byte_at(AT + 2 * PGSIZE) = 5);
	CU_ASSERT_EQUAL(dune_vm_mprotect(clone, (void *)(AT + 2 * PGSIZE), PGSIZE, PERM_NONE), 0);
	ASSERT_FAULT((void)*byte_at(AT + 2 * PGSIZE + 1), AT + 2 * PGSIZE + 1, 0);
	load_cr3((unsigned long)pgroot);
	CU_ASSERT_EQUAL(*byte_at(AT), 4);          /* one page serves both */
	CU_ASSERT_EQUAL(*byte_at(AT + PGSIZE), 3); /* here it is the old one */
	ASSERT_NO_FAULT(*byte_at(AT + 2 * PGSIZE) = 6);
	dune_vm_free(clone);
	CU_ASSERT_EQUAL(dune_vm_lookup_page(pgroot, (void *)AT)->ref, 1);
}

static void changes_take_effect_at_once(void)
{
	if (!begin())
		return;
	dune_register_pgflt_handler(on_fault);
	uint8_t *memory = memory_of(BIG_PGSIZE, BIG_PGSIZE);
	cure = memory;
	for (unsigned i = 0; i < ROUNDS; i++) {
		uintptr_t va = AT + i % 7 * PGSIZE;
		map(pgroot, va, memory + i % 512 * PGSIZE, PGSIZE, PERM_R | PERM_W);
		CU_ASSERT_EQUAL(*(volatile uint32_t *)va, i % 512 + 1);
		CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, (void *)va, PGSIZE, PERM_R), 0);
		ASSERT_FAULT(*byte_at(va + 9) = 1, va + 9, FEC_P | FEC_W);
		CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, (void *)va, PGSIZE), 0);
		ASSERT_FAULT((void)*byte_at(va), va, 0);
	}
	/* Also of what the process has itself; following brings it back. */
	faults = 0;
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, memory, PGSIZE, PERM_R), 0);
	CU_ASSERT_EQUAL(*(volatile uint32_t *)memory, 1);
	CU_ASSERT_EQUAL(dune_vm_follow(pgroot, memory, PGSIZE), 0);
	*(volatile uint8_t *)memory = 9;
	CU_ASSERT_EQUAL(faults, 0);
}

/* ---- two threads ---------------------------------------------------------------------------------------------------- */

static _Atomic unsigned generation, ready, stop, looked, wrong, exits;

/* Sees no memory older than what was mapped when it began to look. */
static void *watch(void *unused)
{
	if (dune_enter() != 0) {
		wrong = 1000000;
		ready = 1;
		return NULL;
	}
	struct dune_counters begun, ended;
	dune_get_counters(&begun);
	ready = 1;
	while (!stop) {
		unsigned before = generation;
		if (*(volatile uint32_t *)AT < before)
			wrong++;
		looked++;
	}
	dune_get_counters(&ended);
	exits = ended.exits - begun.exits;
	dune_leave();
	return unused;
}

static void a_second_thread_sees_every_change(void)
{
	if (!begin())
		return;
	pthread_t thread;
	uint32_t *memory = (uint32_t *)memory_of(BIG_PGSIZE, 0);
	map(pgroot, AT, memory, PGSIZE, PERM_R);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, watch, NULL), 0);
	while (!ready)
		__builtin_ia32_pause();
	for (unsigned i = 1; i <= ROUNDS; i++) {
		uint32_t *next = memory + i % 2 * (PGSIZE / 4);
		__atomic_store_n(next, i, __ATOMIC_SEQ_CST);
		map(pgroot, AT, next, PGSIZE, PERM_R);
		generation = i;
		for (unsigned seen = looked; i % 16 == 0 && looked < seen + 2;)
			__builtin_ia32_pause();
	}
	stop = 1;
	pthread_join(thread, NULL);
	CU_ASSERT_EQUAL(wrong, 0);
	/* An emulated processor hardly ever keeps a stale translation long enough to be seen: that the thread was taken out
	 * of the guest for the changes shows anywhere. */
	CU_ASSERT(exits >= ROUNDS / 2);
	harness_note("%u looks at %u mappings, %u exits", looked, ROUNDS, exits);
}

static _Atomic unsigned open_to_writes;

static void wait_for_rights(uintptr_t address, uint64_t code, struct dune_tf *tf)
{
	(void)address, (void)tf;
	if (code != (FEC_P | FEC_W))
		dune_die();
	faults++;
	while (!open_to_writes)
		__builtin_ia32_pause();
}

static void *count_there(void *unused)
{
	if (dune_enter() != 0) {
		wrong = 1000000;
		ready = 1;
		return NULL;
	}
	ready = 1;
	while (!stop)
		++*(volatile uint32_t *)AT;
	dune_leave();
	return unused;
}

static void a_second_thread_loses_rights_at_once(void)
{
	if (!begin())
		return;
	pthread_t thread;
	uint32_t *memory = (uint32_t *)memory_of(BIG_PGSIZE, 0);
	dune_register_pgflt_handler(wait_for_rights);
	open_to_writes = 1;
	map(pgroot, AT, memory, PGSIZE, PERM_R | PERM_W);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, count_there, NULL), 0);
	while (!ready)
		__builtin_ia32_pause();
	for (unsigned i = 0; i < ROUNDS / 10 && !wrong; i++) {
		volatile uint32_t *counter = memory;
		for (uint32_t before = *counter; *counter == before;)
			__builtin_ia32_pause();
		unsigned faults_before = faults;
		open_to_writes = 0;
		CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, (void *)AT, PGSIZE, PERM_R), 0);
		uint32_t now = *counter;
		while (faults == faults_before)
			__builtin_ia32_pause();
		CU_ASSERT_EQUAL(*counter, now);
		CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, (void *)AT, PGSIZE, PERM_R | PERM_W), 0);
		open_to_writes = 1;
	}
	stop = 1;
	pthread_join(thread, NULL);
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT(faults >= ROUNDS / 10);
}

static const struct harness_test tests[] = {
	{ "large pages translate, and their parts lose rights alone", large_pages_translate, HARNESS_FORK },
	{ "the processor sets accessed and dirty bits", the_processor_sets_accessed_and_dirty_bits, HARNESS_FORK },
	{ "a clone has its own rights", a_clone_has_its_own_rights, HARNESS_FORK },
	{ "changes take effect at once", changes_take_effect_at_once, HARNESS_FORK },
	{ "a second thread sees every change", a_second_thread_sees_every_change, HARNESS_FORK },
	{ "a second thread loses rights at once", a_second_thread_loses_rights_at_once, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
