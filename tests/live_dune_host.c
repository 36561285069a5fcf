/*
 * live_dune_host.c - host placement of Dune: ring-3 code traps into handlers that run in host mode.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "dune.h"
#include "harness.h"
#include "kvm/mirror.h"
#include "kvm/vcpu.h"
#include "dune_ring3.h"

enum {
	PAGE = 4096,
	STACK = 4 * PAGE,
	ROUNDS = 200
};

#define AT ((uint8_t *)0x10000000000) /* nothing of the process is there */

static uint8_t stacks[3][STACK] __attribute__((aligned(4096)));

/* What the last handlers saw. */
static struct dune_tf seen;
static uintptr_t seen_address;
static uint64_t seen_error;
static unsigned calls, faults, traps;
static uint64_t answer;

static void on_call(struct dune_tf *tf)
{
	if (tf->rax == RING3_END)
		dune_ret_from_user((int)tf->rdi);
	calls++;
	seen = *tf;
	tf->rax = answer;
}

static void on_fault(uintptr_t address, uint64_t error_code, struct dune_tf *tf)
{
	faults++;
	seen = *tf;
	seen_address = address;
	seen_error = error_code;
	dune_ret_from_user(-77);
}

static void on_trap(struct dune_tf *tf)
{
	traps++;
	seen = *tf;
	dune_ret_from_user(-88);
}

static void map(ptent_t *root, void *at, const void *memory, size_t size, int perm)
{
	uintptr_t physical = dune_va_to_pa((void *)memory);
	CU_ASSERT_FATAL(physical != 0);
	CU_ASSERT_EQUAL_FATAL(dune_vm_map_phys(root, at, size, (void *)physical, perm), 0);
}

static void begin_without_handlers(void)
{
	CU_ASSERT_EQUAL_FATAL(dune_set_placement(DUNE_PLACEMENT_HOST), 0);
	CU_ASSERT_EQUAL_FATAL(dune_init_and_enter(), 0);
	map(pgroot, ring3_begin, ring3_begin, ring3_end - ring3_begin, PERM_UCODE);
	map(pgroot, stacks, stacks, sizeof stacks, PERM_USTACK);
}

static void begin(void)
{
	begin_without_handlers();
	dune_register_syscall_handler(on_call);
	dune_register_pgflt_handler(on_fault);
	for (int vector = 0; vector < 32; vector++)
		if (vector != T_NMI && vector != T_DBLFLT && vector != T_MCHK && vector != T_PGFLT)
			CU_ASSERT_EQUAL_FATAL(dune_register_intr_handler(vector, on_trap), 0);
}

static int jump_on(unsigned stack, const void *routine, uint64_t first, uint64_t second)
{
	struct dune_tf tf = { .rip = (uintptr_t)routine,
			      .rsp = (uintptr_t)stacks[stack] + STACK,
			      .rdi = first,
			      .rsi = second,
			      .rflags = FL_IF };
	return dune_jump_to_user(&tf);
}

static int jump(const void *routine, uint64_t first, uint64_t second)
{
	return jump_on(0, routine, first, second);
}

/* ---- traps ----------------------------------------------------------------------------------------- */

static void a_call_reaches_its_handler(void)
{
	begin();
	answer = 0x55;
	CU_ASSERT_EQUAL(jump(ring3_call, 0, 0), 0x55);
	CU_ASSERT_EQUAL(calls, 1);
	CU_ASSERT_EQUAL(seen.rax, 0x1234);
	CU_ASSERT(ARG0(&seen) == 1 && ARG1(&seen) == 2 && ARG2(&seen) == 3);
	CU_ASSERT(seen.r10 == 4 && ARG4(&seen) == 5 && ARG5(&seen) == 6);
	CU_ASSERT_EQUAL(seen.rbx, (uint64_t)-7);
	CU_ASSERT_EQUAL(seen.rip, (uintptr_t)ring3_after_call);
	CU_ASSERT_EQUAL(seen.rcx, (uintptr_t)ring3_after_call);
	CU_ASSERT_EQUAL(seen.rsp, (uintptr_t)stacks[0] + STACK);
	CU_ASSERT_EQUAL(seen.cs & 3, 3);
	CU_ASSERT_EQUAL(seen.ss & 3, 3);
	CU_ASSERT_EQUAL(seen.err, 0);
	CU_ASSERT_EQUAL(seen.rflags & FL_IF, FL_IF);
}

static void without_a_handler_calls_fail(void)
{
	begin();
	dune_register_syscall_handler(NULL);
	/* The end of the routine is a call as well; INT3 behind it would be reached, so count on the breakpoint. */
	CU_ASSERT_EQUAL(jump(ring3_call, 0, 0), -88); /* UD2 behind the last call */
	CU_ASSERT_EQUAL((int64_t)seen.rax, -ENOSYS);
	CU_ASSERT_EQUAL((int64_t)seen.rdi, -ENOSYS);
	CU_ASSERT_EQUAL(calls, 0);
}

static void pass(uintptr_t address, uint64_t error_code, struct dune_tf *tf)
{
	(void)error_code;
	(void)tf;
	static const uint8_t pattern[64] = { 1, 2, 3 };
	uint8_t copy[64];
	faults++;
	memcpy(copy, pattern, sizeof copy); /* with vector registers */
	__asm__ volatile("pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm15, %%xmm15" ::"m"(copy) : "xmm0", "xmm15");
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, (void *)address, 1, PERM_UTEXT), 0);
}

static void on_breakpoint(struct dune_tf *tf)
{
	CU_ASSERT_EQUAL(*(uint8_t *)(tf->rip - 1), 0xcc);
	__asm__ volatile("pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm15, %%xmm15" ::: "xmm0", "xmm15");
	traps++;
}

static void traps_leave_registers_alone(void)
{
	begin();
	dune_register_pgflt_handler(pass);
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_BRKPT, on_breakpoint), 0);
	CU_ASSERT_EQUAL(jump(ring3_registers, 0, 0), 0);
	CU_ASSERT_EQUAL(jump(ring3_registers, 1, (uintptr_t)AT), 0);
	CU_ASSERT_EQUAL(jump(ring3_registers, 2, 0), 0);
	CU_ASSERT(calls == 1 && faults == 1 && traps == 1);
}

static void change_all(struct dune_tf *tf)
{
	tf->rdi = 40;
	tf->rsi = (uintptr_t)AT;
	tf->rsp = (uintptr_t)stacks[1] + STACK;
	tf->rip = (uintptr_t)ring3_nothing;
	traps++;
}

static void handlers_change_registers(void)
{
	begin();
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_ILLOP, change_all), 0);
	CU_ASSERT_EQUAL(jump(ring3_undefined, 0, 0), 40);
	CU_ASSERT_EQUAL(traps, 1);
}

struct expected {
	const void *routine;
	unsigned vector;
	uint32_t error;
	intptr_t rip; /* where, from the routine's start */
};

static unsigned seen_vector;
#define TRAP(vector)                                  \
	static void trap_##vector(struct dune_tf *tf) \
	{                                             \
		seen_vector = vector;                 \
		on_trap(tf);                          \
	}
TRAP(0)
TRAP(3)
TRAP(6)
TRAP(13)
TRAP(19)

static void exceptions_reach_their_handlers(void)
{
	const struct expected cases[] = {
		{ ring3_breakpoint, T_BRKPT, 0, ring3_after_breakpoint - ring3_breakpoint },
		{ ring3_undefined, T_ILLOP, 0, 0 },
		{ ring3_divide, T_DIVIDE, 0, ring3_divide_here - ring3_divide },
		{ ring3_halt, T_GPFLT, 0, 0 },
		{ ring3_interrupts_off, T_GPFLT, 0, 0 },
		{ ring3_read_cr3, T_GPFLT, 0, 0 },
		{ ring3_int80, T_GPFLT, 0x80 * 8 + 2, 0 },
		{ ring3_out_service, T_GPFLT, 0, 0 },
		{ ring3_out_other, T_GPFLT, 0, 0 },
	};
	begin();
	dune_intr_cb handlers[] = {
		[T_DIVIDE] = trap_0, [T_BRKPT] = trap_3, [T_ILLOP] = trap_6, [T_GPFLT] = trap_13, [T_SIMDERR] = trap_19
	};
	for (int vector = 0; vector < 20; vector++)
		if (handlers[vector])
			CU_ASSERT_EQUAL(dune_register_intr_handler(vector, handlers[vector]), 0);
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		seen_vector = UINT32_MAX;
		CU_ASSERT_EQUAL(jump(cases[i].routine, 0, 0), -88);
		/* Where ring 0 is interpreted, a software interrupt without a handler is an undefined instruction. */
		if (cases[i].routine != ring3_int80 || seen_vector != T_ILLOP)
			CU_ASSERT_EQUAL(seen_vector, cases[i].vector);
		CU_ASSERT_EQUAL(seen.rip, (uintptr_t)cases[i].routine + cases[i].rip);
		/* QEMU's processor gives another one for a refused software interrupt. */
		if (cases[i].error == 0)
			CU_ASSERT_EQUAL(seen.err, cases[i].error);
	}
	seen_vector = UINT32_MAX;
	if (jump(ring3_simd, 0, 0) == 5 && getenv("TEST_LANE")) {
		printf("# this emulated processor has no SIMD exceptions\n");
		return;
	}
	CU_ASSERT_EQUAL(seen_vector, T_SIMDERR);
}

static int depth_reached;

static void nest(struct dune_tf *tf)
{
	if (tf->rax == RING3_END)
		dune_ret_from_user((int)tf->rdi);
	depth_reached++;
	if (depth_reached < 3) {
		_mm_setcsr(_MM_MASK_MASK | _MM_ROUND_UP); /* handlers do what they want with theirs */
		tf->rax = (uint64_t)jump_on((unsigned)depth_reached, ring3_registers, 0, 0);
		_mm_setcsr(_MM_MASK_MASK);
	} else {
		tf->rax = 0;
	}
}

static void jumps_can_be_nested(void)
{
	begin();
	dune_register_syscall_handler(nest);
	CU_ASSERT_EQUAL(jump(ring3_registers, 0, 0), 0);
	CU_ASSERT_EQUAL(depth_reached, 3);
	CU_ASSERT_EQUAL(dune_leave(), 0);
}

static jmp_buf back;

static void leave_by_longjmp(struct dune_tf *tf)
{
	(void)tf;
	longjmp(back, 1);
}

static void handlers_may_be_left_by_longjmp(void)
{
	volatile unsigned times = 0;
	begin();
	dune_register_syscall_handler(leave_by_longjmp);
	if (setjmp(back) != 0)
		times++;
	if (times < ROUNDS)
		jump(ring3_call, 0, 0);
	CU_ASSERT_EQUAL(times, ROUNDS);
	dune_register_syscall_handler(on_call);
	CU_ASSERT_EQUAL(jump(ring3_nothing, 9, 0), 9);
	CU_ASSERT_EQUAL(dune_leave(), 0);
}

static int error_of_leave;

static void try_to_leave(struct dune_tf *tf)
{
	errno = 0;
	error_of_leave = dune_leave() == -1 ? errno : 0;
	dune_ret_from_user((int)tf->rdi);
}

static void enter_once(void)
{
	CU_ASSERT_EQUAL_FATAL(dune_enter(), 0);
	errno = 0;
	CU_ASSERT_EQUAL(dune_enter(), -1);
	CU_ASSERT_EQUAL(errno, EALREADY);
	CU_ASSERT_FALSE(dune_in_guest());
	map(pgroot, ring3_begin, ring3_begin, ring3_end - ring3_begin, PERM_UCODE);
	map(pgroot, stacks, stacks, sizeof stacks, PERM_USTACK);
	CU_ASSERT_EQUAL(jump(ring3_nothing, 3, 0), 3);
	CU_ASSERT_EQUAL(error_of_leave, EINVAL);
	CU_ASSERT_EQUAL(dune_leave(), 0);
}

static void entering_and_leaving(void)
{
	struct dune_tf tf = { .rip = (uintptr_t)ring3_nothing };
	errno = 0;
	CU_ASSERT_EQUAL(dune_enter(), -1);
	CU_ASSERT_EQUAL(errno, EINVAL);
	CU_ASSERT_EQUAL_FATAL(dune_set_placement(DUNE_PLACEMENT_HOST), 0);
	CU_ASSERT_EQUAL_FATAL(dune_init(true), 0);
	CU_ASSERT_EQUAL(dune_init(true), 0);
	CU_ASSERT_EQUAL(dune_get_placement(), DUNE_PLACEMENT_HOST);
	errno = 0;
	CU_ASSERT_EQUAL(dune_set_placement(DUNE_PLACEMENT_GUEST), -1);
	CU_ASSERT_EQUAL(errno, EBUSY);
	errno = 0;
	CU_ASSERT_EQUAL(dune_jump_to_user(&tf), -1);
	CU_ASSERT_EQUAL(errno, EPERM);
	errno = 0;
	CU_ASSERT_EQUAL(dune_leave(), -1);
	CU_ASSERT_EQUAL(errno, EINVAL);
	dune_register_syscall_handler(try_to_leave);
	for (unsigned i = 0; i < 2; i++)
		enter_once();
}

/* ---- memory ---------------------------------------------------------------------------------------- */

static void a_fault_handler_maps_and_the_code_goes_on(void)
{
	begin();
	dune_register_pgflt_handler(pass);
	CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)AT + 5, 0x66), 1);
	CU_ASSERT_EQUAL(faults, 1);
	struct page *page = dune_vm_lookup_page(pgroot, AT);
	CU_ASSERT_PTR_NOT_NULL_FATAL(page);
	CU_ASSERT_EQUAL(((uint8_t *)dune_page2pa(page))[5], 0x66);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT + 5, 0), 0x66);
	CU_ASSERT_EQUAL(faults, 1);
}

static void check_access(const void *routine, const void *at, uint64_t second, int64_t error)
{
	unsigned before = faults;
	int result = jump(routine, (uintptr_t)at, second);
	if (error < 0) {
		CU_ASSERT_EQUAL(faults, before);
		return;
	}
	CU_ASSERT_EQUAL(result, -77);
	CU_ASSERT_EQUAL(faults, before + 1);
	CU_ASSERT_EQUAL(seen_address, (uintptr_t)at);
	CU_ASSERT_EQUAL((int64_t)seen_error, error);
	CU_ASSERT_EQUAL(seen.err, seen_error);
	if (seen_error != (uint64_t)error)
		printf("# address %p: error %#lx, should be %#lx\n", at, (long)seen_error, (long)error);
}

static void rights_hold_for_ring_3(void)
{
	enum {
		ALLOWED = -1,
		DENIED = FEC_P | FEC_U
	};
	static const struct {
		int perm;
		int read, write, execute;
	} cases[] = {
		{ PERM_R | PERM_U, ALLOWED, DENIED | FEC_W, DENIED | FEC_I },
		{ PERM_R | PERM_W | PERM_U, ALLOWED, ALLOWED, DENIED | FEC_I },
		{ PERM_R | PERM_X | PERM_U, ALLOWED, DENIED | FEC_W, ALLOWED },
		{ PERM_R | PERM_W | PERM_X | PERM_U, ALLOWED, ALLOWED, ALLOWED },
		{ PERM_R | PERM_W | PERM_X, DENIED, DENIED | FEC_W, DENIED | FEC_I },
	};
	begin();
	struct page *page = dune_page_alloc();
	CU_ASSERT_PTR_NOT_NULL_FATAL(page);
	memset((void *)dune_page2pa(page), 0xc3, PAGE); /* RET */
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		uint8_t *at = AT + i * PAGE;
		CU_ASSERT_EQUAL_FATAL(dune_vm_insert_page(pgroot, at, page, cases[i].perm), 0);
		check_access(ring3_read, at, 0, cases[i].read);
		check_access(ring3_write, at + 8, 0xc3, cases[i].write);
		check_access(ring3_execute, at, 0, cases[i].execute);
		/* and after a change of entries in use, where a right goes */
		CU_ASSERT_EQUAL_FATAL(dune_vm_mprotect(pgroot, at, PAGE, PERM_R | PERM_U), 0);
		check_access(ring3_read, at, 0, ALLOWED);
		check_access(ring3_write, at + 8, 0xc3, DENIED | FEC_W);
		check_access(ring3_execute, at, 0, DENIED | FEC_I);
		CU_ASSERT_EQUAL_FATAL(dune_vm_mprotect(pgroot, at, PAGE, PERM_R | PERM_W | PERM_U), 0);
		check_access(ring3_write, at + 8, 0xc3, ALLOWED);
		dune_vm_unmap(pgroot, at, PAGE);
		check_access(ring3_read, at, 0, FEC_U);
		check_access(ring3_write, at, 0, FEC_U | FEC_W);
	}
}

static char secret[PAGE] __attribute__((aligned(4096))) = "secret";

static void what_is_not_mapped_cannot_be_reached(void)
{
	begin();
	struct dune_machine *machine = dune_mirror->machine;
	char *heap = strdup("secret");
	char local[] = "secret";
	const void *const places[] = { secret,
				       heap,
				       local,
				       (void *)begin,
				       (void *)dune_init,
				       machine->table_arena.host,
				       machine->frames.host,
				       pgroot,
				       pages,
				       dune_mirror->pool + dune_mirror->pool_size,
				       dune_vcpu_get_mirror(machine)->run,
				       NULL,
				       (void *)0x1000 };
	for (unsigned i = 0; i < sizeof places / sizeof *places; i++)
		CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)places[i], 0), -77);
	CU_ASSERT_EQUAL(faults, sizeof places / sizeof *places);
	/* the monitor's pages are mapped, but not for ring 3, and the trampoline not for writing */
	const uint64_t supervisor[] = { WINDOW_MONITOR, WINDOW_DESCRIPTORS, WINDOW_DESCRIPTORS + PAGE,
					dune_vcpu_get_mirror(machine)->area_address - machine->window };
	for (unsigned i = 0; i < sizeof supervisor / sizeof *supervisor; i++)
		check_access(ring3_read, (void *)(machine->window + supervisor[i]), 0, FEC_P | FEC_U);
	check_access(ring3_write, (void *)(machine->window + WINDOW_TRAMPOLINE), 0, FEC_P | FEC_U | FEC_W);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)machine->window + WINDOW_USER, 0), -77);
	/* control: it can be reached where it is mapped */
	map(pgroot, secret, secret, PAGE, PERM_R | PERM_U);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)secret, 0), 's');
	free(heap);
}

static void switch_roots(struct dune_tf *tf)
{
	if (tf->rax == RING3_END)
		dune_ret_from_user((int)tf->rdi);
	load_cr3(answer);
	tf->rip = (uintptr_t)ring3_read;
	tf->rdi = (uintptr_t)AT;
}

static void address_spaces_are_apart(void)
{
	begin();
	ptent_t *other = dune_vm_clone(pgroot);
	CU_ASSERT_PTR_NOT_NULL_FATAL(other);
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, AT, PAGE, PERM_UTEXT), 0);
	CU_ASSERT_EQUAL(dune_vm_map_pages(other, AT, PAGE, PERM_UTEXT), 0);
	CU_ASSERT_EQUAL(dune_vm_map_pages(other, AT + PAGE, PAGE, PERM_UTEXT), 0);
	for (unsigned i = 0; i < 3; i++) {
		load_cr3((unsigned long)pgroot);
		CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)AT, 10 + i), 1);
		CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT + PAGE, 0), -77);
		load_cr3((unsigned long)other | CR3_NOFLUSH);
		CU_ASSERT_EQUAL(read_cr3(), (unsigned long)other);
		CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)AT, 20 + i), 1);
		CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)AT + PAGE, 1), 1);
		CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), 20 + (int)i);
		load_cr3((unsigned long)pgroot);
		CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), 10 + (int)i);
	}
	/* a handler changes the root, and ring 3 goes on in the other one */
	dune_register_syscall_handler(switch_roots);
	answer = (uint64_t)other;
	CU_ASSERT_EQUAL(jump(ring3_call, 0, 0), 22);
	load_cr3((unsigned long)pgroot);
	dune_vm_free(other);
	/* its pages serve another address space now */
	dune_register_syscall_handler(on_call);
	ptent_t *third = dune_vm_clone(pgroot);
	CU_ASSERT_PTR_NOT_NULL_FATAL(third);
	load_cr3((unsigned long)third);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), 12);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT + PAGE, 0), -77);
}

static ptent_t *entry_of(void *at)
{
	ptent_t *entry = NULL;
	CU_ASSERT_EQUAL_FATAL(dune_vm_lookup(pgroot, at, CREATE_NONE, &entry), 0);
	return entry;
}

static void accessed_and_dirty_are_seen(void)
{
	begin();
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, AT, 2 * PAGE, PERM_UTEXT), 0);
	ptent_t *entry = entry_of(AT), *other = entry_of(AT + PAGE);
	CU_ASSERT_EQUAL(*entry & (PTE_A | PTE_D), 0);
	jump(ring3_read, (uintptr_t)AT, 0);
	CU_ASSERT_EQUAL(*entry & (PTE_A | PTE_D), PTE_A);
	jump(ring3_write, (uintptr_t)AT, 1);
	CU_ASSERT_EQUAL(*entry & (PTE_A | PTE_D), PTE_A | PTE_D);
	CU_ASSERT_EQUAL(*other & (PTE_A | PTE_D), 0);
	for (unsigned i = 0; i < 3; i++) {
		*entry &= ~(PTE_A | PTE_D);
		dune_flush_tlb_one((unsigned long)AT);
		CU_ASSERT_EQUAL(*entry & (PTE_A | PTE_D), 0);
		jump(ring3_read, (uintptr_t)AT, 0);
		CU_ASSERT_EQUAL(*entry & (PTE_A | PTE_D), PTE_A);
		jump(ring3_write, (uintptr_t)AT, 1);
		CU_ASSERT_EQUAL(*entry & (PTE_A | PTE_D), PTE_A | PTE_D);
		*entry &= ~PTE_D;
		if (i == 0)
			dune_flush_tlb();
		else if (i == 1)
			dune_flush_tlb_all();
		else
			load_cr3(read_cr3());
		jump(ring3_write, (uintptr_t)AT, 1);
		CU_ASSERT_EQUAL(*entry & PTE_D, PTE_D);
	}
}

static void stores_into_tables_hold_after_a_flush(void)
{
	begin();
	struct page *one = dune_page_alloc(), *two = dune_page_alloc();
	CU_ASSERT_FATAL(one && two);
	*(uint8_t *)dune_page2pa(one) = 1;
	*(uint8_t *)dune_page2pa(two) = 2;
	CU_ASSERT_EQUAL_FATAL(dune_vm_insert_page(pgroot, AT, one, PERM_UTEXT), 0);
	ptent_t *entry = entry_of(AT), bits = PTE_P | PTE_W | PTE_U | PTE_NX;
	void (*const flushes[])(void) = { NULL, dune_flush_tlb, dune_flush_tlb_all };
	for (unsigned i = 0; i < 2 * 3; i++) {
		CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), i % 2 ? 2 : 1);
		*entry = dune_page2pa(i % 2 ? one : two) | bits;
		if (flushes[i / 2])
			flushes[i / 2]();
		else
			dune_flush_tlb_one((unsigned long)AT);
		CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), i % 2 ? 1 : 2);
	}
	*entry &= ~PTE_P;
	dune_flush_tlb_one((unsigned long)AT);
	check_access(ring3_read, AT, 0, FEC_U);
	*entry |= PTE_P;
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), 1);
	*entry &= ~PTE_W;
	dune_invpcid(0, 0, (unsigned long)AT);
	check_access(ring3_write, AT, 0, FEC_P | FEC_U | FEC_W);
}

static char original[PAGE] __attribute__((aligned(4096))) = "original";

static void pages_are_copied_when_written_to(void)
{
	begin();
	dune_register_pgflt_handler(NULL);
	dune_register_intr_handler(T_PGFLT, NULL);
	struct page *page = dune_page_alloc();
	CU_ASSERT_PTR_NOT_NULL_FATAL(page);
	memset((void *)dune_page2pa(page), 3, PAGE);
	CU_ASSERT_EQUAL(dune_vm_insert_page(pgroot, AT, page, PERM_R | PERM_U | PERM_COW), 0);
	map(pgroot, AT + PAGE, original, PAGE, PERM_R | PERM_U | PERM_COW);
	ptent_t *other = dune_vm_clone(pgroot);
	CU_ASSERT_PTR_NOT_NULL_FATAL(other);
	CU_ASSERT_EQUAL(page->ref, 3);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), 3);
	CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)AT, 4), 1);
	CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)AT + PAGE + 1, 'R'), 1);
	CU_ASSERT_EQUAL(page->ref, 2);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), 4);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT + 1, 0), 3);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT + PAGE, 0), 'o');
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT + PAGE + 1, 0), 'R');
	CU_ASSERT_EQUAL(*(uint8_t *)dune_page2pa(page), 3);
	CU_ASSERT_STRING_EQUAL(original, "original");
	load_cr3((unsigned long)other);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), 3);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT + PAGE + 1, 0), 'r');
}

static void memory_that_goes_away_is_an_error(void)
{
	begin();
	uint8_t *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*at = 7;
	map(pgroot, AT, at, PAGE, PERM_UTEXT);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), 7);
	munmap(at, PAGE);
	errno = 0;
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), -1);
	CU_ASSERT_EQUAL(errno, EFAULT);
	CU_ASSERT_EQUAL(jump(ring3_nothing, 4, 0), 4); /* the thread goes on */
}

static void memory_that_is_nowhere_is_an_error(void)
{
	begin();
	CU_ASSERT_EQUAL_FATAL(dune_vm_map_phys(pgroot, AT, PAGE, (void *)((uintptr_t)155 << 30), PERM_UTEXT), 0);
	errno = 0;
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), -1);
	CU_ASSERT_EQUAL(errno, EIO);
	CU_ASSERT_EQUAL(jump(ring3_nothing, 4, 0), 4);
}

static void limits_are_errors(void)
{
	begin();
	dune_mirror_slots_limit = dune_mirror->next_slot;
	errno = 0;
	CU_ASSERT_EQUAL(dune_va_to_pa((void *)0x7000000000), 0);
	CU_ASSERT_EQUAL(errno, ENOSPC);
	dune_mirror_slots_limit = 0;
	dune_mirror_gigabytes_limit = 161;
	errno = 0;
	CU_ASSERT_EQUAL(dune_va_to_pa((void *)0x7000000000), 0);
	CU_ASSERT_EQUAL(errno, ENOSPC);
	CU_ASSERT(strlen(dune_error()) > 20);
	dune_mirror_gigabytes_limit = 0;
	CU_ASSERT(dune_va_to_pa((void *)0x7000000000) != 0);
}

/* ---- state ----------------------------------------------------------------------------------------- */

static uint64_t thread_area[2] __attribute__((aligned(4096))) = { 0x1234567, 0 };

static void ring_3_has_its_own_fs(void)
{
	begin();
	CU_ASSERT_EQUAL(dune_get_user_fs(), 0);
	map(pgroot, thread_area, thread_area, PAGE, PERM_R | PERM_U);
	dune_set_user_fs((unsigned long)thread_area);
	CU_ASSERT_EQUAL(jump(ring3_fs, 0, 0), 0x1234567);
	CU_ASSERT_EQUAL(dune_get_user_fs(), (unsigned long)thread_area);
	errno = 5; /* the thread's own is untouched */
	CU_ASSERT_EQUAL(errno, 5);
}

static void ring_3_begins_with_the_callers_vector_state(void)
{
	begin();
	unsigned before = _mm_getcsr();
	_mm_setcsr(_MM_MASK_MASK | _MM_ROUND_DOWN);
	int down = jump(ring3_mxcsr, 0, 0);
	_mm_setcsr(_MM_MASK_MASK | _MM_ROUND_TOWARD_ZERO);
	int zero = jump(ring3_mxcsr, 0, 0);
	_mm_setcsr(before);
	CU_ASSERT_EQUAL(down, _MM_MASK_MASK | _MM_ROUND_DOWN);
	CU_ASSERT_EQUAL(zero, _MM_MASK_MASK | _MM_ROUND_TOWARD_ZERO);
}

static void flags_that_ring_3_may_not_have_are_dropped(void)
{
	begin();
	struct dune_tf tf = { .rip = (uintptr_t)ring3_interrupts_off,
			      .rsp = (uintptr_t)stacks[0] + STACK,
			      .rflags = FL_IOPL_3 | FL_NT | FL_TF | FL_RF };
	tf.cs = GD_KT;
	CU_ASSERT_EQUAL(dune_jump_to_user(&tf), -88);
	CU_ASSERT_EQUAL(seen.rip, (uintptr_t)ring3_interrupts_off);
	CU_ASSERT_EQUAL(seen.cs & 3, 3);
}

static void an_address_that_is_none_is_a_fault(void)
{
	begin();
	struct dune_tf tf = { .rip = (uint64_t)1 << 63, .rsp = (uintptr_t)stacks[0] + STACK };
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_GPFLT, trap_13), 0);
	CU_ASSERT_EQUAL(dune_jump_to_user(&tf), -88);
	CU_ASSERT_EQUAL(seen_vector, T_GPFLT);
	CU_ASSERT_EQUAL(seen.rip, (uint64_t)1 << 63);
}

static void pass_on(struct dune_tf *tf)
{
	if (tf->rax == RING3_END)
		dune_ret_from_user((int)tf->rdi);
	dune_passthrough_syscall(tf);
}

static void calls_can_be_passed_on(void)
{
	begin();
	dune_register_syscall_handler(pass_on);
	CU_ASSERT_EQUAL(jump(ring3_pass, SYS_getpid, 0), getpid());
	CU_ASSERT_EQUAL(jump(ring3_pass, SYS_close, 12345), -EBADF);
}

/* ---- signals --------------------------------------------------------------------------------------- */

static volatile siginfo_t received;
static volatile sig_atomic_t received_count;

static void on_linux_signal(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	received = *info;
	received_count++;
	dune_register_pgflt_handler(on_fault); /* the instruction is tried again */
	dune_register_intr_handler(T_ILLOP, on_trap);
	dune_register_intr_handler(T_DIVIDE, on_trap);
	dune_register_intr_handler(T_GPFLT, on_trap);
	dune_register_intr_handler(T_BRKPT, on_trap);
	dune_register_intr_handler(T_SIMDERR, on_trap);
}

static void what_nobody_handles_is_a_signal(void)
{
	static const struct {
		const void *routine;
		uint64_t first;
		int number, code;
		const void *address;
		bool again; /* it is tried again afterwards, and handled */
	} cases[] = {
		{ ring3_read, (uintptr_t)AT, SIGSEGV, SEGV_MAPERR, AT, true },
		{ ring3_write, (uintptr_t)ring3_begin, SIGSEGV, SEGV_ACCERR, ring3_begin, true },
		{ ring3_undefined, 0, SIGILL, ILL_ILLOPN, ring3_undefined, true },
		{ ring3_divide, 0, SIGFPE, FPE_INTDIV, ring3_divide_here, true },
		{ ring3_simd, 0, SIGFPE, FPE_FLTDIV, ring3_simd_here, true },
		{ ring3_halt, 0, SIGSEGV, SI_KERNEL, NULL, true },
		{ ring3_breakpoint, 0, SIGTRAP, SI_KERNEL, NULL, false },
	};
	struct sigaction action = { .sa_sigaction = on_linux_signal, .sa_flags = SA_SIGINFO };
	const int numbers[] = { SIGSEGV, SIGILL, SIGFPE, SIGTRAP };
	begin_without_handlers();
	dune_register_syscall_handler(on_call);
	for (unsigned i = 0; i < 4; i++)
		sigaction(numbers[i], &action, NULL);
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		for (int vector = 0; vector < 32; vector++)
			if (vector != T_NMI && vector != T_DBLFLT && vector != T_MCHK)
				dune_register_intr_handler(vector, NULL);
		dune_register_pgflt_handler(NULL);
		received_count = 0;
		int result = jump(cases[i].routine, cases[i].first, 0);
		if (cases[i].routine == (const void *)ring3_simd && result == 5 && getenv("TEST_LANE")) {
			printf("# this emulated processor has no SIMD exceptions\n");
			continue;
		}
		CU_ASSERT_EQUAL(received_count, 1);
		CU_ASSERT_EQUAL(received.si_signo, cases[i].number);
		CU_ASSERT_EQUAL(received.si_code, cases[i].code);
		CU_ASSERT_PTR_EQUAL(received.si_addr, cases[i].address);
		CU_ASSERT(cases[i].again ? result == -77 || result == -88 : result == 5);
	}
}

static int child_status(void (*function)(void))
{
	pid_t child = fork();
	if (child == 0) {
		function();
		_exit(99);
	}
	int status = 0;
	waitpid(child, &status, 0);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 1000 + WEXITSTATUS(status);
}

static void fault_in_child(void)
{
	if (dune_enter() != 0)
		_exit(98);
	jump(ring3_read, (uintptr_t)AT, 0);
}

static void fault_ignored(void)
{
	signal(SIGSEGV, SIG_IGN);
	fault_in_child();
}

static void fault_blocked(void)
{
	sigset_t set;
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fault_in_child();
}

static void an_unhandled_fault_ends_the_process(void)
{
	begin_without_handlers();
	CU_ASSERT_EQUAL(child_status(fault_in_child), SIGSEGV);
	CU_ASSERT_EQUAL(child_status(fault_ignored), SIGSEGV);
	CU_ASSERT_EQUAL(child_status(fault_blocked), SIGSEGV);
}

static volatile uint32_t *flag;

static void on_alarm(int number)
{
	(void)number;
	if (++received_count == 3)
		*flag = 17;
}

static void signals_are_handled_while_ring_3_runs(void)
{
	begin();
	flag = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map(pgroot, AT, (void *)flag, PAGE, PERM_R | PERM_U);
	struct itimerval timer = { .it_value.tv_usec = 20000, .it_interval.tv_usec = 20000 };
	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &timer, NULL);
	CU_ASSERT_EQUAL(jump(ring3_wait, (uintptr_t)AT, 0), 17);
	memset(&timer, 0, sizeof timer);
	setitimer(ITIMER_REAL, &timer, NULL);
	CU_ASSERT(received_count >= 3);
}

static volatile unsigned in_ring3, in_host; /* raise() is said not to come back here */

static void on_alarm_as_interrupt(struct dune_tf *tf)
{
	if ((tf->cs & 3) == 0) {
		in_host++;
		return;
	}
	CU_ASSERT(tf->rip >= (uintptr_t)ring3_begin && tf->rip < (uintptr_t)ring3_end);
	CU_ASSERT_EQUAL(tf->rdi, (uintptr_t)AT);
	usleep(1000); /* it is a handler like others */
	if (++in_ring3 == 3) {
		tf->rip = (uintptr_t)ring3_nothing;
		tf->rdi = 19;
	}
}

static void end_by_signal(struct dune_tf *tf)
{
	(void)tf;
	dune_ret_from_user(23);
}

static void start_timer(long microseconds)
{
	struct itimerval timer = { .it_value.tv_usec = microseconds, .it_interval.tv_usec = microseconds };
	setitimer(ITIMER_REAL, &timer, NULL);
}

static void signals_interrupt_ring_3(void)
{
	begin();
	flag = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map(pgroot, AT, (void *)flag, PAGE, PERM_R | PERM_U);
	signal(SIGALRM, on_alarm);
	CU_ASSERT_EQUAL_FATAL(dune_register_signal_handler(SIGALRM, on_alarm_as_interrupt), 0);
	start_timer(20000);
	CU_ASSERT_EQUAL(jump(ring3_wait, (uintptr_t)AT, 0), 19);
	start_timer(0);
	CU_ASSERT_EQUAL(in_ring3, 3);
	CU_ASSERT_EQUAL(received_count, 0);
	/* the thread's own code is what ring 0 is elsewhere */
	unsigned before = in_host;
	raise(SIGALRM);
	CU_ASSERT_EQUAL(in_host, before + 1);
	/* a handler need not return */
	CU_ASSERT_EQUAL_FATAL(dune_register_signal_handler(SIGALRM, end_by_signal), 0);
	start_timer(20000);
	CU_ASSERT_EQUAL(jump(ring3_wait, (uintptr_t)AT, 0), 23);
	start_timer(0);
	/* a thread that is not in Dune mode has the process's own handler, and so has everybody without one of ours */
	CU_ASSERT_EQUAL(dune_register_signal_handler(SIGALRM, on_alarm_as_interrupt), 0);
	CU_ASSERT_EQUAL(dune_leave(), 0);
	raise(SIGALRM);
	CU_ASSERT_EQUAL(received_count, 1);
	CU_ASSERT_EQUAL_FATAL(dune_enter(), 0);
	CU_ASSERT_EQUAL(dune_register_signal_handler(SIGALRM, NULL), 0);
	raise(SIGALRM);
	CU_ASSERT_EQUAL(received_count, 2);
	CU_ASSERT_EQUAL(in_host, before + 1);
}

/* ---- threads and children -------------------------------------------------------------------------- */

static void *other_thread(void *argument)
{
	ptent_t *root = argument;
	CU_ASSERT_EQUAL_FATAL(dune_enter(), 0);
	load_cr3((unsigned long)root);
	intptr_t sum = 0;
	for (int i = 0; i < ROUNDS; i++) {
		sum += jump_on(1, ring3_nothing, (uint64_t)i, 0);
		sum += jump_on(1, ring3_read, (uintptr_t)AT, 0);
	}
	return (void *)sum; /* without leaving */
}

static void threads_run_in_parallel(void)
{
	begin();
	ptent_t *root = dune_vm_clone(pgroot);
	CU_ASSERT_PTR_NOT_NULL_FATAL(root);
	CU_ASSERT_EQUAL(dune_vm_map_pages(root, AT, PAGE, PERM_UTEXT), 0);
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, AT, PAGE, PERM_UTEXT), 0);
	load_cr3((unsigned long)root);
	CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)AT, 1), 1);
	load_cr3((unsigned long)pgroot);
	CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)AT, 2), 1);
	pthread_t thread;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, other_thread, root), 0);
	intptr_t sum = 0;
	for (int i = 0; i < ROUNDS; i++) {
		sum += jump(ring3_nothing, (uint64_t)i, 0);
		sum += jump(ring3_read, (uintptr_t)AT, 0);
	}
	void *theirs;
	pthread_join(thread, &theirs);
	CU_ASSERT_EQUAL(sum, ROUNDS * (ROUNDS - 1) / 2 + 2 * ROUNDS);
	CU_ASSERT_EQUAL((intptr_t)theirs, ROUNDS * (ROUNDS - 1) / 2 + ROUNDS);
}

static volatile int spinning_result;

static void *spin(void *routine)
{
	CU_ASSERT_EQUAL_FATAL(dune_enter(), 0);
	spinning_result = jump_on(1, routine, (uintptr_t)AT, 0);
	return NULL;
}

static void wait_until_it_runs(const uint64_t *counter)
{
	uint64_t before = __atomic_load_n(counter, __ATOMIC_RELAXED);
	while (__atomic_load_n(counter, __ATOMIC_RELAXED) == before)
		usleep(1000);
}

static void what_is_taken_away_is_gone_for_all_threads(void)
{
	begin();
	struct page *one = dune_page_alloc(), *two = dune_page_alloc();
	CU_ASSERT_FATAL(one && two);
	uint64_t *first = (uint64_t *)dune_page2pa(one), *second = (uint64_t *)dune_page2pa(two);
	*first = *second = 0;
	CU_ASSERT_EQUAL_FATAL(dune_vm_insert_page(pgroot, AT, one, PERM_UTEXT), 0);
	pthread_t thread;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, spin, ring3_count), 0);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t *left = i % 2 ? second : first, *now = i % 2 ? first : second;
		wait_until_it_runs(left);
		/* Another page comes instead; on return nothing is stored in the last one any more. */
		CU_ASSERT_EQUAL_FATAL(dune_vm_insert_page(pgroot, AT, i % 2 ? one : two, PERM_UTEXT), 0);
		uint64_t value = __atomic_load_n(left, __ATOMIC_RELAXED);
		wait_until_it_runs(now);
		CU_ASSERT_EQUAL(__atomic_load_n(left, __ATOMIC_RELAXED), value);
	}
	dune_vm_unmap(pgroot, AT, PAGE);
	pthread_join(thread, NULL);
	CU_ASSERT_EQUAL(spinning_result, -77);
	CU_ASSERT_EQUAL(seen_address, (uintptr_t)AT);
}

static void *spin_deaf(void *routine)
{
	sigset_t all;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	return spin(routine);
}

static void threads_that_block_signals_let_go_too(void)
{
	begin();
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, AT, PAGE, PERM_UTEXT), 0);
	pthread_t thread;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, spin_deaf, ring3_count), 0);
	wait_until_it_runs((uint64_t *)dune_page2pa(dune_vm_lookup_page(pgroot, AT)));
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, AT, PAGE), 0);
	pthread_join(thread, NULL);
	CU_ASSERT_EQUAL(spinning_result, -77);
}

static volatile bool stop;

static void *map_and_unmap(void *unused)
{
	while (!stop)
		if (dune_vm_map_pages(pgroot, AT + 16 * PAGE, 8 * PAGE, PERM_UTEXT) != 0 ||
		    dune_vm_unmap(pgroot, AT + 16 * PAGE, 8 * PAGE) != 0)
			return (void *)1;
	return unused;
}

static void map_in_child(void)
{
	if (dune_enter() != 0 || dune_vm_map_pages(pgroot, AT + 64 * PAGE, 16 * PAGE, PERM_UTEXT) != 0)
		_exit(1);
	for (unsigned i = 64; i < 80; i++)
		if (jump(ring3_write, (uintptr_t)AT + i * PAGE, i) != 1 ||
		    jump(ring3_read, (uintptr_t)AT + i * PAGE, 0) != (int)i)
			_exit(2);
	_exit(42);
}

static void a_fork_finds_address_spaces_whole(void)
{
	begin();
	pthread_t thread;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, map_and_unmap, NULL), 0);
	for (unsigned i = 0; i < 5; i++)
		CU_ASSERT_EQUAL(child_status(map_in_child), 1042);
	stop = true;
	void *failed;
	pthread_join(thread, &failed);
	CU_ASSERT_PTR_NULL(failed);
}

static void run_in_child(void)
{
	if (dune_in_guest() || dune_jump_to_user(&(struct dune_tf){ 0 }) != -1 || errno != EPERM)
		_exit(1);
	if (dune_enter() != 0)
		_exit(2);
	if (jump(ring3_nothing, 12, 0) != 12)
		_exit(3);
	if (jump(ring3_read, (uintptr_t)AT, 0) != 8)
		_exit(4);
	if (jump(ring3_write, (uintptr_t)AT, 9) != 1)
		_exit(5);
	dune_vm_unmap(pgroot, AT, PAGE);
	if (jump(ring3_read, (uintptr_t)AT, 0) != -77)
		_exit(6);
	_exit(42);
}

static void a_child_enters_again(void)
{
	begin();
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, AT, PAGE, PERM_UTEXT), 0);
	CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)AT, 8), 1);
	CU_ASSERT_EQUAL(child_status(run_in_child), 1042);
	CU_ASSERT_EQUAL(child_status(run_in_child), 1042);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)AT, 0), 8);
}

static pid_t forked;

static void fork_in_handler(struct dune_tf *tf)
{
	if (tf->rax == RING3_END)
		dune_ret_from_user((int)tf->rdi);
	forked = fork();
	if (forked == 0 && answer)
		dune_ret_from_user(33);
	tf->rax = 21;
}

static void a_handler_may_fork(void)
{
	begin();
	dune_register_syscall_handler(fork_in_handler);
	for (answer = 0; answer < 2; answer++) {
		errno = 0;
		int result = jump(ring3_call, 0, 0), status = 0;
		if (forked == 0) {
			if (answer ? result != 33 : result != -1 || errno != EPERM)
				_exit(1);
			_exit(dune_enter() == 0 && jump(ring3_nothing, 6, 0) == 6 ? 42 : 2);
		}
		CU_ASSERT_EQUAL(result, 21);
		waitpid(forked, &status, 0);
		CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 42);
	}
}

static void what_happens_is_counted(void)
{
	struct dune_counters before, after;
	begin();
	CU_ASSERT_EQUAL(dune_get_counters(&before), 0);
	jump(ring3_call, 0, 0);
	CU_ASSERT_EQUAL(dune_get_counters(&after), 0);
	CU_ASSERT(after.exits >= before.exits + 2);
	CU_ASSERT_EQUAL(after.system_calls, before.system_calls + 2);
	CU_ASSERT_EQUAL(after.mirror_faults, 0);
}

static const struct harness_test tests[] = {
	{ "a system call reaches its handler", a_call_reaches_its_handler, HARNESS_FORK },
	{ "without a handler system calls fail", without_a_handler_calls_fail, HARNESS_FORK },
	{ "traps leave registers alone, vector registers too", traps_leave_registers_alone, HARNESS_FORK },
	{ "handlers change registers", handlers_change_registers, HARNESS_FORK },
	{ "exceptions reach their handlers", exceptions_reach_their_handlers, HARNESS_FORK },
	{ "jumps to ring 3 can be nested", jumps_can_be_nested, HARNESS_FORK },
	{ "handlers may be left by longjmp()", handlers_may_be_left_by_longjmp, HARNESS_FORK },
	{ "a thread enters and leaves, in order", entering_and_leaving, HARNESS_FORK },
	{ "a fault handler maps a page and the code goes on", a_fault_handler_maps_and_the_code_goes_on, HARNESS_FORK },
	{ "rights of pages hold for ring 3", rights_hold_for_ring_3, HARNESS_FORK },
	{ "what is not mapped cannot be reached", what_is_not_mapped_cannot_be_reached, HARNESS_FORK },
	{ "address spaces are apart", address_spaces_are_apart, HARNESS_FORK },
	{ "accessed and dirty bits are those of ring 3", accessed_and_dirty_are_seen, HARNESS_FORK },
	{ "stores into tables hold after a flush", stores_into_tables_hold_after_a_flush, HARNESS_FORK },
	{ "pages are copied when they are written to", pages_are_copied_when_written_to, HARNESS_FORK },
	{ "memory that the process no longer has is an error", memory_that_goes_away_is_an_error, HARNESS_FORK },
	{ "memory that is nowhere is an error", memory_that_is_nowhere_is_an_error, HARNESS_FORK },
	{ "limits of the virtual machine are errors", limits_are_errors, HARNESS_FORK },
	{ "ring 3 has its own FS base", ring_3_has_its_own_fs, HARNESS_FORK },
	{ "ring 3 begins with the caller's vector state", ring_3_begins_with_the_callers_vector_state, HARNESS_FORK },
	{ "flags that ring 3 may not have are dropped", flags_that_ring_3_may_not_have_are_dropped, HARNESS_FORK },
	{ "an address that is none is a general-protection fault", an_address_that_is_none_is_a_fault, HARNESS_FORK },
	{ "system calls can be passed on", calls_can_be_passed_on, HARNESS_FORK },
	{ "what nobody handles is the signal that Linux sends", what_nobody_handles_is_a_signal, HARNESS_FORK },
	{ "a fault that nobody handles ends the process", an_unhandled_fault_ends_the_process, HARNESS_FORK },
	{ "signals are handled while ring 3 runs", signals_are_handled_while_ring_3_runs, HARNESS_FORK },
	{ "signals with a handler of Dune interrupt ring 3", signals_interrupt_ring_3, HARNESS_FORK },
	{ "threads run in parallel", threads_run_in_parallel, HARNESS_FORK },
	{ "what is taken away is gone for all threads", what_is_taken_away_is_gone_for_all_threads, HARNESS_FORK },
	{ "what is taken away is gone for threads that block signals", threads_that_block_signals_let_go_too,
	  HARNESS_FORK },
	{ "a fork finds address spaces whole", a_fork_finds_address_spaces_whole, HARNESS_FORK },
	{ "the child of a fork enters again", a_child_enters_again, HARNESS_FORK },
	{ "a handler may fork", a_handler_may_fork, HARNESS_FORK },
	{ "what happens is counted", what_happens_is_counted, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
