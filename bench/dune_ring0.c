/* dune_ring0.c - the process's own code in ring 0, as guest placement has it: what it does without an exit. */
#include "dune_bench.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	SWITCH_PAGES = 300
};

/* What the page-fault handler does. */
enum faulting {
	FAULTS_UNEXPECTED,
	FAULTS_MAP,
	FAULTS_APPEL1,
	FAULTS_APPEL2
};

static struct {
	volatile enum faulting faulting;
	volatile unsigned faults, traps; /* handlers count */
	uint8_t *memory;                 /* of the page-fault handler's operations */
	uint8_t *volatile open;
	uint8_t *pages; /* that a switch writes to; other ones in each root */
	ptent_t *roots[2];
} ring0;

static void handle_trap(struct dune_tf *tf)
{
	(void)tf;
	ring0.traps++;
}

static void handle_fault(uintptr_t address, uint64_t error_code, struct dune_tf *tf)
{
	uint8_t *page = (uint8_t *)PGADDR(address);
	int result = -1;
	ring0.faults++;
	switch (ring0.faulting) {
	case FAULTS_UNEXPECTED:
		break;
	case FAULTS_MAP:
		result = dune_vm_map_pages(pgroot, page, PGSIZE, PERM_R | PERM_W);
		break;
	case FAULTS_APPEL1:
		if (dune_vm_mprotect(pgroot, ring0.open, PGSIZE, PERM_R) != 0)
			break;
		ring0.open = page;
		/* fall through */
	case FAULTS_APPEL2:
		result = dune_vm_mprotect(pgroot, page, PGSIZE, PERM_R | PERM_W);
		break;
	}
	if (result != 0)
		measure_fail("page fault in ring 0 at %#lx, address %#lx, error code %#lx: %s", (unsigned long)tf->rip,
			     (unsigned long)address, (unsigned long)error_code, dune_error());
}

static void expect(unsigned have, unsigned wanted, const char *what)
{
	if (have != wanted)
		measure_fail("%u %s instead of %u", have, what, wanted);
}

static void run_traps(void *argument)
{
	(void)argument;
	ring0.traps = 0;
	for (unsigned i = 0; i < dune_bench.calls; i++)
		__asm__ volatile("int3");
	expect(ring0.traps, dune_bench.calls, "traps");
}

static void run_faults(void *argument)
{
	(void)argument;
	ring0.faulting = FAULTS_MAP;
	ring0.faults = 0;
	for (size_t i = 0; i < FAULT_PAGES; i++)
		*(volatile uint8_t *)(ring0.memory + i * PGSIZE) = 1;
	expect(ring0.faults, FAULT_PAGES, "page faults");
}

static void unmap_faults(void *argument)
{
	(void)argument;
	dune_vm_unmap(pgroot, ring0.memory, (size_t)FAULT_PAGES * PGSIZE);
}

static uint8_t *appel_page(unsigned i)
{
	return ring0.memory + (size_t)dune_bench_appel_page(i) * PGSIZE;
}

static void protect_appel_pages(void)
{
	if (dune_vm_mprotect(pgroot, ring0.memory, (size_t)APPEL_PAGES * PGSIZE, PERM_R) != 0)
		measure_fail("%s", dune_error());
}

static void run_appel(void *argument)
{
	ring0.faulting = argument ? FAULTS_APPEL1 : FAULTS_APPEL2;
	if (ring0.faulting == FAULTS_APPEL2)
		protect_appel_pages();
	ring0.faults = 0;
	for (unsigned i = 0; i < APPEL_PAGES; i++)
		*(volatile uint8_t *)appel_page(i) = 1;
	expect(ring0.faults, APPEL_PAGES, "page faults");
}

struct switching {
	unsigned pages;
	bool tags;
};

static void run_switches(void *argument)
{
	const struct switching *switching = argument;
	unsigned long roots[2] = { (unsigned long)ring0.roots[0], (unsigned long)ring0.roots[1] };
	if (switching->tags) {
		roots[0] |= 1 | CR3_NOFLUSH;
		roots[1] |= 2 | CR3_NOFLUSH;
	}
	for (unsigned i = 0; i < 2 * dune_bench.switches; i++) {
		load_cr3(roots[i % 2]);
		for (unsigned page = 0; page < switching->pages; page++)
			++*(volatile uint8_t *)(ring0.pages + (size_t)page * PGSIZE);
	}
}

/* Memory of the process, in use. */
static uint8_t *memory_new(size_t size)
{
	uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		measure_fail("no memory");
	madvise(memory, size, MADV_NOHUGEPAGE);
	memset(memory, 1, size);
	return memory;
}

static void prepare_roots(void)
{
	ring0.pages = memory_new((size_t)SWITCH_PAGES * PGSIZE);
	for (unsigned i = 0; i < 2; i++) {
		ring0.roots[i] = dune_vm_clone(pgroot);
		if (!ring0.roots[i] ||
		    dune_vm_map_pages(ring0.roots[i], ring0.pages, (size_t)SWITCH_PAGES * PGSIZE, PERM_R | PERM_W) != 0)
			measure_fail("%s", dune_error());
	}
}

void group_ring0(struct measurement *measurement, void *argument)
{
	static struct switching switching[] = { { 1, false }, { 30, false }, { 300, false },
						{ 1, true },  { 30, true },  { 300, true } };
	static struct untouched near = { .stride = PAGE_BYTES }, far = { .stride = HUGE_BYTES };
	const struct operation process[] = {
		{ &dune_rungs[GETPID_RING0], dune_bench_getpid, .inner = dune_bench.calls, .warm = 1 },
		{ &dune_rungs[TRAP_RING0], run_traps, .inner = dune_bench.calls, .warm = 1 },
		{ &dune_rungs[FAULT_MIRRORED], dune_bench_untouched_run, &near, .inner = FAULT_PAGES, .warm = 1,
		  .between = dune_bench_untouched_new },
		{ &dune_rungs[FAULT_FAR_MIRRORED], dune_bench_untouched_run, &far, .inner = FAULT_PAGES, .warm = 1,
		  .between = dune_bench_untouched_new },
	};
	const struct operation faults = { &dune_rungs[FAULT_RING0], run_faults, .inner = FAULT_PAGES, .warm = 1,
					  .between = unmap_faults };
	const struct operation one = { &dune_rungs[APPEL1_RING0], run_appel, &ring0, .inner = APPEL_PAGES, .warm = 1 };
	const struct operation two = { &dune_rungs[APPEL2_RING0], run_appel, .inner = APPEL_PAGES, .warm = 1 };
	struct operation switches[6];
	(void)argument;
	dune_bench_enter(DUNE_PLACEMENT_GUEST);
	dune_register_pgflt_handler(handle_fault);
	if (dune_register_intr_handler(T_BRKPT, handle_trap) != 0)
		measure_fail("%s", dune_error());
	dune_bench_untouched_new(&near);
	dune_bench_untouched_new(&far);
	dune_bench_run(measurement, process, sizeof process / sizeof *process);
	ring0.memory = memory_new((size_t)APPEL_PAGES * PGSIZE);
	protect_appel_pages();
	ring0.open = appel_page(APPEL_PAGES - 1);
	dune_vm_mprotect(pgroot, ring0.open, PGSIZE, PERM_R | PERM_W);
	dune_bench_run(measurement, &one, 1);
	dune_bench_run(measurement, &two, 1);
	ring0.memory = memory_new((size_t)FAULT_PAGES * PGSIZE);
	unmap_faults(NULL);
	dune_bench_run(measurement, &faults, 1);
	prepare_roots();
	for (unsigned i = 0; i < 6; i++)
		switches[i] = (struct operation){ &dune_rungs[SWITCH_FLUSH_1 + i], run_switches, &switching[i],
						  .inner = 2 * dune_bench.switches, .warm = 1 };
	ring0.faulting = FAULTS_UNEXPECTED;
	dune_bench_run(measurement, switches, 6);
	load_cr3((unsigned long)pgroot);
}

void group_ring0_walks(struct measurement *measurement, void *argument)
{
	struct walk small, large;
	const struct operation operations[] = {
		{ &dune_rungs[WALK_SMALL_RING0], dune_bench_walk_run, &small, .inner = WALK_STEPS, .warm = 1 },
		{ &dune_rungs[WALK_LARGE_RING0], dune_bench_walk_run, &large, .inner = WALK_STEPS, .warm = 1 },
	};
	(void)argument;
	dune_bench_walk_new(&small, false);
	dune_bench_walk_new(&large, true);
	dune_bench_enter(DUNE_PLACEMENT_GUEST);
	if (dune_vm_map_phys(pgroot, large.memory, large.bytes, (void *)dune_va_to_pa(large.memory),
			     PERM_R | PERM_W | PERM_BIG) != 0)
		measure_fail("%s", dune_error());
	/* Every page is mirrored before the first sample. */
	for (size_t at = 0; at < small.bytes; at += PGSIZE)
		(void)*(volatile uint8_t *)(small.memory + at);
	dune_bench_run(measurement, operations, sizeof operations / sizeof *operations);
}
