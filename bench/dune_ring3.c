/* dune_ring3.c - ring-3 code of dune-bench and the handlers that it reaches, in both placements. */
#include "dune_bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Ring-3 code, copied into a page of its own.  It uses no stack; each piece ends with call NUMBER_END.
 *
 *   calls      RSI: number of the system call, RDI: how many
 *   traps      RDI: how many INT3
 *   touches    RDI: addresses to write to, RSI: how many
 *   loads      RDI: array, RSI: how many loads, RAX: offset of the first; RAX: of the next
 *   switches   RDI: first page, RSI: pages, RDX: how often, R8: number of the call that switches
 */
#define NUMBER_END 1000
#define NUMBER_SWITCH 1001
#define TEXT(number) #number
#define IMMEDIATE(number) "$" TEXT(number)
__asm__(".pushsection .rodata\n"
	"bench_ring3_begin:\n"
	"bench_ring3_calls:\n"
	"	mov %rsi, %rax\n"
	"	syscall\n"
	"	dec %rdi\n"
	"	jnz bench_ring3_calls\n"
	"	jmp 9f\n"
	"bench_ring3_traps:\n"
	"	int3\n"
	"	dec %rdi\n"
	"	jnz bench_ring3_traps\n"
	"	jmp 9f\n"
	"bench_ring3_touches:\n"
	"	mov (%rdi), %rax\n"
	"	add $8, %rdi\n"
	"	movb $1, (%rax)\n"
	"	dec %rsi\n"
	"	jnz bench_ring3_touches\n"
	"	jmp 9f\n"
	"bench_ring3_loads:\n"
	"	mov (%rdi, %rax), %rax\n"
	"	dec %rsi\n"
	"	jnz bench_ring3_loads\n"
	"	mov %rax, %rdi\n"
	"	jmp 9f\n"
	"bench_ring3_switches:\n"
	"	mov %rdi, %rbx\n"
	"	mov %rsi, %rbp\n"
	"1:	incb (%rbx)\n"
	"	add $4096, %rbx\n"
	"	dec %rbp\n"
	"	jnz 1b\n"
	"	mov %r8, %rax\n"
	"	syscall\n"
	"	dec %rdx\n"
	"	jnz bench_ring3_switches\n"
	"9:	mov " IMMEDIATE(NUMBER_END) ", %eax\n"
					    "	syscall\n"
					    "	ud2\n"
					    "bench_ring3_end:\n"
					    ".popsection\n");
extern const uint8_t bench_ring3_begin[], bench_ring3_calls[], bench_ring3_traps[], bench_ring3_touches[],
	bench_ring3_loads[], bench_ring3_switches[], bench_ring3_end[];

enum {
	ANSWER = 4711,
	SWITCH_PAGES = 300,
	REGION = 64 << 20,
	/* Offsets in the region. */
	LIST = 1 << 12, /* addresses to write to; before it the code */
	FAULTS = 1 << 20,
	APPEL = 2 << 20,
	PAGES = 4 << 20
};

/* What the page-fault handler does. */
enum faulting {
	FAULTS_UNEXPECTED,
	FAULTS_MAP,
	FAULTS_APPEL1,
	FAULTS_APPEL2
};

static struct {
	uint8_t *region; /* addresses that the process does not use otherwise */
	ptent_t *root, *other;
	bool on_other;
	bool pass_on;
	enum faulting faulting;
	uint8_t *open;
	unsigned faults, traps, calls;
	uint64_t rdi; /* at the end of the ring-3 code */
	uint64_t *list;
} ring3;

static void load_root(bool other)
{
	ring3.on_other = other;
	load_cr3((unsigned long)(other ? ring3.other : ring3.root) | (other ? 2UL : 1UL) | CR3_NOFLUSH);
}

static void handle_call(struct dune_tf *tf)
{
	switch (tf->rax) {
	case NUMBER_END:
		ring3.rdi = tf->rdi;
		dune_ret_from_user(0);
	case NUMBER_SWITCH:
		load_root(!ring3.on_other);
		break;
	default:
		ring3.calls++;
		if (ring3.pass_on)
			dune_passthrough_syscall(tf);
		else
			tf->rax = ANSWER;
	}
}

static void handle_trap(struct dune_tf *tf)
{
	(void)tf;
	ring3.traps++;
}

static void handle_fault(uintptr_t address, uint64_t error_code, struct dune_tf *tf)
{
	uint8_t *page = (uint8_t *)PGADDR(address);
	int result = -1;
	ring3.faults++;
	switch (ring3.faulting) {
	case FAULTS_UNEXPECTED:
		break;
	case FAULTS_MAP:
		result = dune_vm_map_pages(ring3.root, page, PGSIZE, PERM_U | PERM_R | PERM_W);
		break;
	case FAULTS_APPEL1:
		if (dune_vm_mprotect(ring3.root, ring3.open, PGSIZE, PERM_U | PERM_R) != 0)
			break;
		ring3.open = page;
		/* fall through */
	case FAULTS_APPEL2:
		result = dune_vm_mprotect(ring3.root, page, PGSIZE, PERM_U | PERM_R | PERM_W);
		break;
	}
	if (result != 0)
		measure_fail("ring 3 cannot go on at %#lx: page fault at %#lx, error code %#lx, %s",
			     (unsigned long)tf->rip, (unsigned long)address, (unsigned long)error_code, dune_error());
}

static void run(const uint8_t *code, uint64_t rdi, uint64_t rsi, uint64_t rdx, uint64_t rax)
{
	struct dune_tf tf = { .rip = (uintptr_t)(ring3.region + (code - bench_ring3_begin)),
			      .rsp = (uintptr_t)(ring3.region + LIST + PGSIZE),
			      .rflags = 2 | FL_IF,
			      .rdi = rdi,
			      .rsi = rsi,
			      .rdx = rdx,
			      .rax = rax,
			      .r8 = NUMBER_SWITCH };
	ring3.faults = ring3.traps = ring3.calls = 0;
	if (dune_jump_to_user(&tf) != 0)
		measure_fail("ring 3 was not entered: %s", dune_error());
}

static void expect(unsigned have, unsigned wanted, const char *what)
{
	if (have != wanted)
		measure_fail("%u %s instead of %u", have, what, wanted);
}

static void run_calls(void *argument)
{
	ring3.pass_on = argument != NULL;
	run(bench_ring3_calls, dune_bench.calls, SYS_getpid, 0, 0);
	expect(ring3.calls, dune_bench.calls, "calls");
}

static void run_traps(void *argument)
{
	(void)argument;
	run(bench_ring3_traps, dune_bench.calls, 0, 0, 0);
	expect(ring3.traps, dune_bench.calls, "traps");
}

static void run_faults(void *argument)
{
	(void)argument;
	ring3.faulting = FAULTS_MAP;
	for (size_t i = 0; i < FAULT_PAGES; i++)
		ring3.list[i] = (uintptr_t)(ring3.region + FAULTS + i * PGSIZE);
	run(bench_ring3_touches, (uintptr_t)(ring3.region + LIST), FAULT_PAGES, 0, 0);
	expect(ring3.faults, FAULT_PAGES, "page faults");
}

static void unmap_faults(void *argument)
{
	(void)argument;
	dune_vm_unmap(ring3.root, ring3.region + FAULTS, (size_t)FAULT_PAGES * PGSIZE);
}

static uint8_t *appel_page(unsigned i)
{
	return ring3.region + APPEL + (size_t)dune_bench_appel_page(i) * PGSIZE;
}

static void protect_appel_pages(void)
{
	if (dune_vm_mprotect(ring3.root, ring3.region + APPEL, (size_t)APPEL_PAGES * PGSIZE, PERM_U | PERM_R) != 0)
		measure_fail("%s", dune_error());
}

static void run_appel(void *argument)
{
	ring3.faulting = argument ? FAULTS_APPEL1 : FAULTS_APPEL2;
	if (ring3.faulting == FAULTS_APPEL2 || !ring3.open) {
		protect_appel_pages();
		ring3.open = appel_page(APPEL_PAGES - 1);
	}
	for (unsigned i = 0; i < APPEL_PAGES; i++)
		ring3.list[i] = (uintptr_t)appel_page(i);
	run(bench_ring3_touches, (uintptr_t)(ring3.region + LIST), APPEL_PAGES, 0, 0);
	expect(ring3.faults, APPEL_PAGES, "page faults");
	if (ring3.faulting == FAULTS_APPEL2)
		ring3.open = NULL;
}

static void run_switches(void *argument)
{
	ring3.faulting = FAULTS_UNEXPECTED;
	run(bench_ring3_switches, (uintptr_t)(ring3.region + PAGES), *(unsigned *)argument,
	    (uint64_t)2 * dune_bench.switches, 0);
}

static void run_loads(void *argument)
{
	struct walk *walk = argument;
	run(bench_ring3_loads, (uintptr_t)walk->memory, WALK_STEPS, 0, walk->at);
	walk->at = ring3.rdi;
}

/* ---- preparing -------------------------------------------------------------------------------------- */

static void map(ptent_t *root, size_t offset, size_t size, int perm)
{
	if (dune_vm_map_pages(root, ring3.region + offset, size, perm) != 0)
		measure_fail("%s", dune_error());
}

static void *at_page(ptent_t *root, size_t offset)
{
	struct page *page = dune_vm_lookup_page(root, ring3.region + offset);
	if (!page)
		measure_fail("%s", dune_error());
	return (void *)dune_page2pa(page);
}

static void prepare(void)
{
	dune_bench_enter(dune_bench_placement());
	uint8_t *region = mmap(NULL, (size_t)2 * REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (region == MAP_FAILED)
		measure_fail("no addresses");
	ring3.region = (uint8_t *)(((uintptr_t)region + REGION - 1) & ~(uintptr_t)(REGION - 1));
	dune_register_syscall_handler(handle_call);
	dune_register_pgflt_handler(handle_fault);
	if (dune_register_intr_handler(T_BRKPT, handle_trap) != 0)
		measure_fail("%s", dune_error());
	map(pgroot, 0, PGSIZE, PERM_UCODE);
	map(pgroot, LIST, PGSIZE, PERM_U | PERM_R | PERM_W);
	map(pgroot, APPEL, (size_t)APPEL_PAGES * PGSIZE, PERM_U | PERM_R | PERM_W);
	memcpy(at_page(pgroot, 0), bench_ring3_begin, (size_t)(bench_ring3_end - bench_ring3_begin));
	ring3.list = at_page(pgroot, LIST);
	/* Two address spaces with the same code and pages of their own at the same addresses. */
	dune_vm_unmap(pgroot, ring3.region + FAULTS, (size_t)FAULT_PAGES * PGSIZE);
	ring3.root = dune_vm_clone(pgroot);
	ring3.other = dune_vm_clone(pgroot);
	if (!ring3.root || !ring3.other)
		measure_fail("%s", dune_error());
	map(ring3.root, PAGES, (size_t)SWITCH_PAGES * PGSIZE, PERM_U | PERM_R | PERM_W);
	map(ring3.other, PAGES, (size_t)SWITCH_PAGES * PGSIZE, PERM_U | PERM_R | PERM_W);
	load_root(false);
}

void group_ring3(struct measurement *measurement, void *argument)
{
	static unsigned pages[] = { 1, 30, 300 };
	(void)argument;
	prepare();
	const struct operation operations[] = {
		{ &dune_rungs[CALL_RING3], run_calls, NULL, .inner = dune_bench.calls, .warm = 1 },
		{ &dune_rungs[GETPID_RING3], run_calls, &ring3, .inner = dune_bench.calls, .warm = 1 },
		{ &dune_rungs[TRAP_RING3], run_traps, .inner = dune_bench.calls, .warm = 1 },
		{ &dune_rungs[APPEL1_RING3], run_appel, &ring3, .inner = APPEL_PAGES, .warm = 1 },
	};
	const struct operation two = { &dune_rungs[APPEL2_RING3], run_appel, .inner = APPEL_PAGES, .warm = 1 };
	const struct operation faults = { &dune_rungs[FAULT_RING3], run_faults, .inner = FAULT_PAGES, .warm = 1,
					  .between = unmap_faults };
	const struct operation switches[] = {
		{ &dune_rungs[SWITCH_RING3_1], run_switches, &pages[0], .inner = 2 * dune_bench.switches, .warm = 1 },
		{ &dune_rungs[SWITCH_RING3_30], run_switches, &pages[1], .inner = 2 * dune_bench.switches, .warm = 1 },
		{ &dune_rungs[SWITCH_RING3_300], run_switches, &pages[2], .inner = 2 * dune_bench.switches, .warm = 1 },
	};
	dune_bench_run(measurement, operations, sizeof operations / sizeof *operations);
	dune_bench_run(measurement, &two, 1);
	dune_bench_run(measurement, &faults, 1);
	dune_bench_run(measurement, switches, sizeof switches / sizeof *switches);
	load_cr3((unsigned long)pgroot);
}

void group_ring3_walks(struct measurement *measurement, void *argument)
{
	struct walk small, large;
	const struct operation operations[] = {
		{ &dune_rungs[WALK_SMALL_RING3], run_loads, &small, .inner = WALK_STEPS, .warm = 1 },
		{ &dune_rungs[WALK_LARGE_RING3], run_loads, &large, .inner = WALK_STEPS, .warm = 1 },
	};
	(void)argument;
	dune_bench_walk_new(&small, false);
	dune_bench_walk_new(&large, true);
	prepare();
	if (dune_vm_map_phys(ring3.root, small.memory, small.bytes, (void *)dune_va_to_pa(small.memory),
			     PERM_U | PERM_R | PERM_W) != 0 ||
	    dune_vm_map_phys(ring3.root, large.memory, large.bytes, (void *)dune_va_to_pa(large.memory),
			     PERM_U | PERM_R | PERM_W | PERM_BIG) != 0)
		measure_fail("%s", dune_error());
	dune_bench_run(measurement, operations, sizeof operations / sizeof *operations);
	load_cr3((unsigned long)pgroot);
}
