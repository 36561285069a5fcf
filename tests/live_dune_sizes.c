/*
 * live_dune_sizes.c - what Dune's primitives cost where ring 0 is native, in what does not depend on the machine's speed:
 * exits, which are asserted, and instructions of ring 0, which are printed.
 */
#define _GNU_SOURCE
#include <dune.h>

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/steps.h"
#include "live.h"

enum {
	TIMES = 8, /* operations that are counted together */
	PAGES = 16
};

#define NEEDS_NATIVE()                                                                            \
	do {                                                                                      \
		struct dune_host host;                                                            \
		ASSERT_EQUAL(dune_probe(&host), 0);                                               \
		if (!host.ring0_native)                                                           \
			HARNESS_SKIP("ring 0 is interpreted here: there is only host placement"); \
		ASSERT_EQUAL(dune_set_placement(DUNE_PLACEMENT_GUEST), 0);                        \
		ASSERT_EQUAL(dune_init_and_enter(), 0);                                           \
	} while (0)

static struct dune_counters counters(void)
{
	struct dune_counters now = { 0 };

	ASSERT_EQUAL(dune_get_counters(&now), 0);
	return now;
}

/* Runs it three times before, so that all it touches is mirrored.  Returns what it counts then. */
static struct dune_counters counted(void (*run)(void *argument), void *argument)
{
	for (int i = 0; i < 3; i++) {
		run(argument);
		counters();
	}

	struct dune_counters before = counters();

	run(argument);

	struct dune_counters after = counters();

	return (struct dune_counters){ .exits = after.exits - before.exits,
				       .system_calls = after.system_calls - before.system_calls,
				       .mirror_faults = after.mirror_faults - before.mirror_faults };
}

static double instructions(void (*run)(void *argument), void *argument, unsigned operations)
{
	uint64_t all = 0;

	ASSERT_EQUAL(dune_steps_count(run, argument, &all), 0);
	return (double)all / operations;
}

/* Asserts exits of all the operations of a run together, prints instructions of one. */
static void check_size(const char *name, void (*run)(void *argument), void *argument, unsigned operations,
		       unsigned exits)
{
	struct dune_counters sum = counted(run, argument);

	ASSERT_EQUAL(sum.exits, exits);
	ASSERT_EQUAL(sum.mirror_faults, 0);

	double each = instructions(run, argument, operations);

	harness_note("%s: %.1f instructions of ring 0, %.2f exits", name, each, (double)sum.exits / operations);
	live_check(each > 0, __FILE__, __LINE__, "%s: instructions were counted", name);
}

/* ---- the controls ------------------------------------------------------------------------------------------------ */

static void loop(void *argument)
{
	uint64_t times = *(uint64_t *)argument;

	__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(times) : : "cc");
}

static void instructions_are_counted(void)
{
	uint64_t few = 100, many = 1100, of_few = 0, of_many = 0;

	NEEDS_NATIVE();
	ASSERT_EQUAL(dune_steps_count(loop, &few, &of_few), 0);
	ASSERT_EQUAL(dune_steps_count(loop, &many, &of_many), 0);
	ASSERT_EQUAL(of_many - of_few, 2000);
	live_check(of_few >= 200 && of_few < 220, __FILE__, __LINE__, "%lu instructions for a loop of 200",
		   (unsigned long)of_few);
}

static void call(void *argument)
{
	(void)argument;
	for (int i = 0; i < TIMES; i++)
		syscall(SYS_getppid);
}

static void exits_are_counted(void)
{
	NEEDS_NATIVE();

	struct dune_counters before = counters();

	call(NULL);

	struct dune_counters after = counters();

	live_check(after.exits - before.exits >= TIMES, __FILE__, __LINE__, "calls that exit are seen to");
	ASSERT_EQUAL(after.system_calls - before.system_calls, TIMES);
	/* And memory that was never touched is mirrored by an exit. */
	volatile uint8_t *memory = mmap(NULL, 4 << 21, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	before = counters();
	for (int i = 0; i < 4; i++)
		memory[(size_t)i << 21] = 1;
	after = counters();
	live_check(after.mirror_faults - before.mirror_faults >= 3, __FILE__, __LINE__, "%lu mirror faults",
		   (unsigned long)(after.mirror_faults - before.mirror_faults));
	live_check(after.exits - before.exits >= after.mirror_faults - before.mirror_faults, __FILE__, __LINE__,
		   "each of them is an exit");
}

/* ---- the process's own code in ring 0 ---------------------------------------------------------------------------- */

static void forwarded_call(void)
{
	NEEDS_NATIVE();
	ASSERT_EQUAL(counted(call, NULL).system_calls, TIMES);
	check_size("a forwarded system call", call, NULL, TIMES, TIMES);
}

static struct {
	volatile unsigned traps, faults; /* handlers count */
	uint8_t *memory;
	uint8_t *volatile open; /* appel1: the page that may be written to */
	bool failed;
	ptent_t *root;
} state;

static void count_trap(struct dune_tf *tf)
{
	(void)tf;
	state.traps++;
}

static void trap(void *argument)
{
	(void)argument;
	for (int i = 0; i < TIMES; i++)
		__asm__ volatile("int3");
}

static void exception(void)
{
	NEEDS_NATIVE();
	ASSERT_EQUAL(dune_register_intr_handler(T_BRKPT, count_trap), 0);
	check_size("an exception to a handler and back", trap, NULL, TIMES, 0);
	live_check(state.traps >= 5 * TIMES, __FILE__, __LINE__, "the handler was called (%u)", state.traps);
}

/* Opens the page that was written to; appel1 protects the last one. */
static void open_page(uintptr_t address, uint64_t error_code, struct dune_tf *tf)
{
	uint8_t *page = (uint8_t *)PGADDR(address);

	(void)error_code, (void)tf;
	state.faults++;
	if (state.open && dune_vm_mprotect(pgroot, state.open, PGSIZE, PERM_R) != 0)
		_exit(3);
	if (state.open)
		state.open = page;
	if (page < state.memory || page >= state.memory + PAGES * PGSIZE ||
	    dune_vm_mprotect(pgroot, page, PGSIZE, PERM_R | PERM_W) != 0)
		_exit(3);
}

static void touch_pages(void *argument)
{
	unsigned before = state.faults;

	(void)argument;
	if (!state.open && dune_vm_mprotect(pgroot, state.memory, (size_t)PAGES * PGSIZE, PERM_R) != 0)
		state.failed = true;
	for (size_t i = 0; i < PAGES; i++)
		*(volatile uint8_t *)(state.memory + i * PGSIZE) = 1;
	state.failed |= state.faults - before != PAGES;
}

static void prepare_pages(void)
{
	state.memory = mmap(NULL, (size_t)PAGES * PGSIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(state.memory, 1, (size_t)PAGES * PGSIZE);
	dune_register_pgflt_handler(open_page);
	ASSERT_EQUAL(dune_vm_mprotect(pgroot, state.memory, (size_t)PAGES * PGSIZE, PERM_R), 0);
}

static void appel1(void)
{
	NEEDS_NATIVE();
	prepare_pages();
	state.open = state.memory + (size_t)(PAGES - 1) * PGSIZE;
	ASSERT_EQUAL(dune_vm_mprotect(pgroot, state.open, PGSIZE, PERM_R | PERM_W), 0);
	check_size("prot1, trap, unprot", touch_pages, NULL, PAGES, 0);
	live_check(!state.failed, __FILE__, __LINE__, "each page faulted once in each round");
}

static void appel2(void)
{
	NEEDS_NATIVE();
	prepare_pages();
	check_size("protN, trap, unprot", touch_pages, NULL, PAGES, 0);
	live_check(!state.failed, __FILE__, __LINE__, "each page faulted once in each round");
}

static void change_roots(void *argument)
{
	const unsigned long *roots = argument;

	for (int i = 0; i < TIMES; i++) {
		load_cr3(roots[i % 2]);
		for (size_t page = 0; page < PAGES; page++)
			++*(volatile uint8_t *)(state.memory + page * PGSIZE);
	}
}

static void switches(void)
{
	NEEDS_NATIVE();
	state.memory = mmap(NULL, (size_t)PAGES * PGSIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(state.memory, 1, (size_t)PAGES * PGSIZE);

	unsigned long roots[2], tagged[2];

	for (int i = 0; i < 2; i++) {
		ptent_t *root = dune_vm_clone(pgroot);

		CU_ASSERT_PTR_NOT_NULL_FATAL(root);
		ASSERT_EQUAL(dune_vm_map_pages(root, state.memory, (size_t)PAGES * PGSIZE, PERM_R | PERM_W), 0);
		roots[i] = (unsigned long)root;
		tagged[i] = roots[i] | (unsigned)(i + 1) | CR3_NOFLUSH;
	}
	check_size("a switch of address spaces, 16 pages written", change_roots, roots, TIMES, 0);
	check_size("the same with tags", change_roots, tagged, TIMES, 0);
	load_cr3((unsigned long)pgroot);
	/* They were different ones: the process's own page is as it was. */
	ASSERT_EQUAL(state.memory[0], 1);
	load_cr3(roots[0]);

	uint8_t seen = state.memory[0];

	load_cr3((unsigned long)pgroot);
	live_check(seen > TIMES, __FILE__, __LINE__, "the page of a root was written to (%u)", seen);
}

/* ---- ring 3 ------------------------------------------------------------------------------------------------------ */

enum {
	NUMBER_END = 1000,
	NUMBER_ANSWERED = 1001
};

/* RDI times system call RSI, then the call that ends.  Position-independent. */
__asm__(".pushsection .rodata\n"
	"sizes_begin:\n"
	"1:	mov %rsi, %rax\n"
	"	syscall\n"
	"	dec %rdi\n"
	"	jnz 1b\n"
	"	mov $1000, %eax\n"
	"	syscall\n"
	"	ud2\n"
	"sizes_end:\n"
	".popsection\n");
extern const uint8_t sizes_begin[], sizes_end[];

static void answer(struct dune_tf *tf)
{
	if (tf->rax == NUMBER_END)
		dune_ret_from_user(7);
	state.traps++;
	if (tf->rax == NUMBER_ANSWERED)
		tf->rax = 42;
	else
		dune_passthrough_syscall(tf);
}

static void run_ring3(void *argument)
{
	struct dune_tf tf = { .rip = (uintptr_t)state.memory,
			      .rsp = (uintptr_t)state.memory + PGSIZE,
			      .rflags = FL_IF | 2,
			      .rdi = TIMES,
			      .rsi = *(uint64_t *)argument };

	state.failed |= dune_jump_to_user(&tf) != 7;
}

static void prepare_ring3(void)
{
	state.memory = mmap(NULL, PGSIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_EQUAL(dune_vm_map_pages(pgroot, state.memory, PGSIZE, PERM_UCODE), 0);

	struct page *page = dune_vm_lookup_page(pgroot, state.memory);

	CU_ASSERT_PTR_NOT_NULL_FATAL(page);
	memcpy((void *)dune_page2pa(page), sizes_begin, (size_t)(sizes_end - sizes_begin));
	dune_register_syscall_handler(answer);
}

static void ring3_calls(void)
{
	uint64_t answered = NUMBER_ANSWERED, passed_on = SYS_getppid;

	NEEDS_NATIVE();
	prepare_ring3();
	check_size("a system call of ring 3 that a handler answers", run_ring3, &answered, TIMES, 0);
	live_check(state.traps >= 5 * TIMES, __FILE__, __LINE__, "the handler was called (%u)", state.traps);
	check_size("a system call of ring 3 that a handler passes on", run_ring3, &passed_on, TIMES, TIMES);
	live_check(!state.failed, __FILE__, __LINE__, "ring 3 ended each time");
}

static const struct harness_test tests[] = {
	{ "instructions of ring 0 are counted", instructions_are_counted, HARNESS_FORK },
	{ "what is known to exit is counted as an exit", exits_are_counted, HARNESS_FORK },
	{ "a forwarded system call is one exit", forwarded_call, HARNESS_FORK },
	{ "an exception in ring 0 reaches its handler and goes on without an exit", exception, HARNESS_FORK },
	{ "protecting a page, its fault and opening it make no exit", appel1, HARNESS_FORK },
	{ "protecting many pages, their faults and opening them make no exit", appel2, HARNESS_FORK },
	{ "switching address spaces makes no exit", switches, HARNESS_FORK },
	{ "a system call of ring 3 reaches its handler without an exit", ring3_calls, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
