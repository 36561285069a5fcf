/*
 * live_dune_guest.c - guest placement of Dune: a thread lives in ring 0, with everything it had, and its exceptions and
 * ring 3 reach its handlers without an exit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "dune_guest.h"
#include "dune_ring3.h"

enum {
	PAGE = 4096,
	STACK = 4 * PAGE,
	ROUNDS = 200
};

#define AT ((uint8_t *)0x10000000000) /* nothing of the process is there */

/* ---- entering and leaving -------------------------------------------------------------------------- */

static void a_thread_enters_and_leaves(void)
{
	CU_ASSERT(!dune_in_guest());
	CU_ASSERT(dune_enter() == -1 && errno == EINVAL);
	CU_ASSERT(dune_leave() == -1 && errno == EINVAL);
	GUEST_INIT();
	CU_ASSERT_EQUAL(guest_ring(), 3);
	CU_ASSERT(dune_leave() == -1 && errno == EINVAL);
	for (unsigned i = 0; i < 50; i++) {
		double sum = i * 0.5; /* the floating-point environment goes along */
		CU_ASSERT_EQUAL_FATAL(dune_enter(), 0);
		CU_ASSERT_EQUAL(guest_ring(), 0);
		CU_ASSERT(dune_in_guest());
		CU_ASSERT(dune_enter() == -1 && errno == EALREADY);
		sum += 1.25;
		CU_ASSERT_EQUAL(dune_leave(), 0);
		CU_ASSERT_EQUAL(guest_ring(), 3);
		CU_ASSERT(!dune_in_guest());
		CU_ASSERT_EQUAL(sum, i * 0.5 + 1.25);
	}
	struct dune_counters counters;
	CU_ASSERT(dune_get_counters(&counters) == -1 && errno == EINVAL);
}

static void the_control_words_go_along(void)
{
	GUEST_INIT();
	unsigned towards_zero = _mm_getcsr() | 0x6000;
	_mm_setcsr(towards_zero);
	CU_ASSERT_EQUAL_FATAL(dune_enter(), 0);
	CU_ASSERT_EQUAL(_mm_getcsr() & 0x6000, 0x6000);
	_mm_setcsr((towards_zero & ~0x6000u) | 0x2000);
	CU_ASSERT_EQUAL(dune_leave(), 0);
	CU_ASSERT_EQUAL(_mm_getcsr() & 0x6000, 0x2000);
}

static _Thread_local uint64_t of_thread = 0x1122334455667788;

static void memory_and_libc_are_the_same(void)
{
	char text[64], path[] = "/tmp/dune-guest-XXXXXX";
	static uint8_t data = 7;
	CU_ASSERT_EQUAL(setenv("DUNE_TEST", "outside", 1), 0);
	uint64_t *of_me = &of_thread;
	GUEST_BEGIN();
	CU_ASSERT_PTR_EQUAL(of_me, &of_thread);
	CU_ASSERT_EQUAL(of_thread, 0x1122334455667788);
	CU_ASSERT_STRING_EQUAL(getenv("DUNE_TEST"), "outside");
	CU_ASSERT_EQUAL(data, 7);
	data = of_thread = 8;
	uint8_t *blocks[300];
	for (unsigned i = 0; i < 300; i++) {
		size_t size = (i * 7919) % 200000 + 1;
		CU_ASSERT_FATAL((blocks[i] = malloc(size)) != NULL);
		memset(blocks[i], (int)i, size);
	}
	for (unsigned i = 0; i < 300; i++) {
		CU_ASSERT_EQUAL(blocks[i][(i * 7919) % 200000], (uint8_t)i);
		free(blocks[i]);
	}
	CU_ASSERT_EQUAL(snprintf(text, sizeof text, "%d %.3f %s", -5, 2.5, "x"), 10);
	CU_ASSERT_STRING_EQUAL(text, "-5 2.500 x");
	int fd = mkstemp(path);
	CU_ASSERT_FATAL(fd >= 0);
	FILE *stream = fdopen(fd, "w+");
	for (unsigned i = 0; i < 1000; i++)
		CU_ASSERT_EQUAL(fprintf(stream, "%04u\n", i), 5);
	rewind(stream);
	unsigned last = 0;
	while (fscanf(stream, "%u", &last) == 1)
		;
	CU_ASSERT_EQUAL(last, 999);
	fclose(stream);
	CU_ASSERT_EQUAL(unlink(path), 0);
	CU_ASSERT(open(path, O_RDONLY) == -1 && errno == ENOENT);
	int ends[2];
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	CU_ASSERT_EQUAL(write(ends[0], "hello", 5), 5);
	CU_ASSERT_EQUAL(read(ends[1], text, sizeof text), 5);
	CU_ASSERT(memcmp(text, "hello", 5) == 0);
	CU_ASSERT(syscall(SYS_write, ends[0], 8ul, 4ul) == -1 && errno == EFAULT);
	CU_ASSERT_EQUAL(dune_leave(), 0);
	CU_ASSERT(data == 8 && of_thread == 8);
}

static void a_system_call_is_one_exit(void)
{
	pid_t outside = getpid();
	GUEST_BEGIN();
	syscall(SYS_getpid); /* what it needs is mirrored now */
	guest_counters();
	struct dune_counters before = guest_counters();
	for (unsigned i = 0; i < ROUNDS; i++)
		CU_ASSERT_EQUAL(syscall(SYS_getpid), outside);
	struct dune_counters after = guest_counters();
	CU_ASSERT_EQUAL(after.system_calls - before.system_calls, ROUNDS);
	/* Signals of the harness and of the host's scheduler may add a few. */
	CU_ASSERT(after.exits - before.exits >= ROUNDS && after.exits - before.exits <= ROUNDS + ROUNDS / 4);
	harness_note("%u system calls: %llu exits", ROUNDS, (unsigned long long)(after.exits - before.exits));
}

static int64_t now(clockid_t clock)
{
	struct timespec time;
	CU_ASSERT_EQUAL(clock_gettime(clock, &time), 0);
	return time.tv_sec * 1000000000 + time.tv_nsec;
}

static int64_t now_of_kernel(clockid_t clock)
{
	struct timespec time;
	CU_ASSERT_EQUAL(syscall(SYS_clock_gettime, clock, &time), 0);
	return time.tv_sec * 1000000000 + time.tv_nsec;
}

static void clocks_agree_with_the_kernels(void)
{
	static const clockid_t clocks[] = { CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME };
	GUEST_INIT();
	for (unsigned i = 0; i < sizeof clocks / sizeof *clocks; i++) {
		int64_t outside = now(clocks[i]);
		CU_ASSERT_EQUAL_FATAL(dune_enter(), 0);
		for (unsigned j = 0; j < 20; j++) {
			/* The kernel's answers enclose the vDSO's. */
			int64_t before = now_of_kernel(clocks[i]), inside = now(clocks[i]),
				after = now_of_kernel(clocks[i]);
			CU_ASSERT(outside <= inside);
			if (before > inside || inside > after) {
				harness_note("clock %d: %lld, %lld, %lld", (int)clocks[i], (long long)before,
					     (long long)inside, (long long)after);
				CU_FAIL("a clock of the guest is not the kernel's");
				break;
			}
		}
		CU_ASSERT_EQUAL(dune_leave(), 0);
	}
}

/* ---- exceptions ------------------------------------------------------------------------------------ */

static struct dune_tf seen;
static volatile unsigned traps;
static uintptr_t seen_address;
static uint64_t seen_error;

static void skip_two(struct dune_tf *tf)
{
	traps++;
	seen = *tf;
	tf->rip += 2;
}

static void on_breakpoint(struct dune_tf *tf)
{
	traps++;
	seen = *tf;
}

static void undefined(void)
{
	__asm__ volatile("ud2" ::: "memory");
}

static void an_exception_costs_no_exit(void)
{
	GUEST_BEGIN();
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_ILLOP, skip_two), 0);
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_BRKPT, on_breakpoint), 0);
	undefined();
	__asm__ volatile("int3");
	struct dune_counters before = guest_counters();
	for (unsigned i = 0; i < ROUNDS; i++) {
		undefined();
		__asm__ volatile("int3");
	}
	struct dune_counters after = guest_counters();
	CU_ASSERT_EQUAL(traps, 2 * ROUNDS + 2);
	CU_ASSERT_EQUAL(after.system_calls, before.system_calls);
	CU_ASSERT(after.exits - before.exits < ROUNDS / 4);
	CU_ASSERT_EQUAL(seen.cs & 3, 0);
	harness_note("%u exceptions: %llu exits", 2 * ROUNDS, (unsigned long long)(after.exits - before.exits));
}

static void give_page(uintptr_t address, uint64_t error_code, struct dune_tf *tf)
{
	(void)tf;
	traps++;
	seen_address = address;
	seen_error = error_code;
	CU_ASSERT_EQUAL(dune_vm_map_pages(pgroot, (void *)address, 1, PERM_R | PERM_W), 0);
}

/* Where the process could have memory the host side is asked first; what was unmapped here is the program's. */
static void a_page_fault_is_served_without_an_exit(void)
{
	GUEST_BEGIN();
	dune_register_pgflt_handler(give_page);
	CU_ASSERT_EQUAL(dune_vm_unmap(pgroot, AT, (ROUNDS + 1) * PAGE), 0);
	AT[0] = 1;
	CU_ASSERT(seen_address == (uintptr_t)AT && seen_error == FEC_W);
	struct dune_counters before = guest_counters();
	for (unsigned i = 1; i <= ROUNDS; i++)
		AT[i * PAGE + 5] = (uint8_t)i;
	struct dune_counters after = guest_counters();
	CU_ASSERT_EQUAL(traps, ROUNDS + 1);
	CU_ASSERT_EQUAL(seen_address, (uintptr_t)AT + ROUNDS * PAGE + 5);
	for (unsigned i = 0; i < ROUNDS; i++)
		CU_ASSERT_EQUAL(AT[i * PAGE + 5], (uint8_t)i);
	CU_ASSERT(after.exits - before.exits < ROUNDS / 4);
	harness_note("%u page faults: %llu exits", ROUNDS, (unsigned long long)(after.exits - before.exits));
}

/* The red zone below RSP is 128 bytes. */
static unsigned keep_red_zone(void)
{
	unsigned wrong;
	__asm__ volatile("lea -256(%%rsp), %%rsp\n\t"
			 "movq $-128, %%rcx\n"
			 "1: movq %%rcx, (%%rsp, %%rcx)\n\t"
			 "addq $8, %%rcx\n\t"
			 "jnz 1b\n\t"
			 "ud2\n\t"
			 "xorl %0, %0\n\t"
			 "movq $-128, %%rcx\n"
			 "2: movslq %%ecx, %%rdx\n\t"
			 "cmpl %%ecx, (%%rsp, %%rcx)\n\t"
			 "je 3f\n\t"
			 "incl %0\n"
			 "3: addq $8, %%rcx\n\t"
			 "jnz 2b\n\t"
			 "lea 256(%%rsp), %%rsp\n\t"
			 : "=&a"(wrong)
			 :
			 : "rcx", "rdx", "memory", "cc");
	return wrong;
}

static void the_red_zone_survives(void)
{
	GUEST_BEGIN();
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_ILLOP, skip_two), 0);
	traps = 0;
	CU_ASSERT_EQUAL(keep_red_zone(), 0);
	CU_ASSERT_EQUAL(traps, 1);
}

static void change_registers(struct dune_tf *tf)
{
	tf->rip += 2;
	tf->rax = 0x11;
	tf->rbx = 0x22;
	tf->r8 = 0x33;
	tf->r15 = 0x44;
	tf->rflags |= FL_CF;
}

static void a_handler_changes_registers(void)
{
	uint64_t rax = 1, rbx = 2;
	uint8_t carry = 0;
	register uint64_t r8 __asm__("r8") = 3;
	register uint64_t r15 __asm__("r15") = 4;
	GUEST_BEGIN();
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_ILLOP, change_registers), 0);
	__asm__ volatile("clc; ud2; setc %4" : "+a"(rax), "+b"(rbx), "+r"(r8), "+r"(r15), "=m"(carry)::"memory", "cc");
	uint64_t got8 = r8, got15 = r15;
	CU_ASSERT(rax == 0x11 && rbx == 0x22 && got8 == 0x33 && got15 == 0x44 && carry == 1);
}

static void clobber_vectors(struct dune_tf *tf)
{
	tf->rip += 2;
	CU_ASSERT_EQUAL(_mm_getcsr(), 0x1f80);
	char text[100];
	snprintf(text, sizeof text, "%f", 3.5); /* with vector registers */
	__asm__ volatile("pxor %%xmm0, %%xmm0; pxor %%xmm7, %%xmm7; pxor %%xmm15, %%xmm15" ::: "xmm0", "xmm7", "xmm15");
}

static void vector_registers_survive_a_handler(void)
{
	uint64_t first = 0, last = 0, middle = 0, mark = 0x123456789abcdef;
	GUEST_BEGIN();
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_ILLOP, clobber_vectors), 0);
	unsigned control = _mm_getcsr();
	_mm_setcsr(control | 0x6000);
	__asm__ volatile("movq %3, %%xmm0; movq %3, %%xmm7; movq %3, %%xmm15; ud2;"
			 "movq %%xmm0, %0; movq %%xmm7, %1; movq %%xmm15, %2"
			 : "=&r"(first), "=&r"(middle), "=&r"(last)
			 : "r"(mark)
			 : "xmm0", "xmm7", "xmm15", "memory");
	unsigned kept = _mm_getcsr();
	_mm_setcsr(control);
	CU_ASSERT(first == mark && middle == mark && last == mark);
	CU_ASSERT_EQUAL(kept & 0x6000, 0x6000);
}

static unsigned depth, deepest;

static void nest(struct dune_tf *tf)
{
	tf->rip += 2;
	if (++depth > deepest)
		deepest = depth;
	if (depth < 8)
		undefined();
	if (depth == 4)
		CU_ASSERT(syscall(SYS_getppid) > 0);
	depth--;
}

static void exceptions_nest(void)
{
	GUEST_BEGIN();
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_ILLOP, nest), 0);
	undefined();
	CU_ASSERT(depth == 0 && deepest == 8);
}

static jmp_buf out;

static void jump_out(struct dune_tf *tf)
{
	(void)tf;
	traps++;
	longjmp(out, 1);
}

static void a_handler_is_left_by_longjmp(void)
{
	GUEST_BEGIN();
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_ILLOP, jump_out), 0);
	for (volatile unsigned i = 0; i < 100; i++)
		if (setjmp(out) == 0)
			undefined();
	CU_ASSERT_EQUAL(traps, 100);
	CU_ASSERT_EQUAL(dune_leave(), 0);
}

static void write_there(void *address)
{
	*(volatile uint8_t *)address = 1;
}

static void without_a_handler_exceptions_are_signals(void)
{
	GUEST_BEGIN();
	CU_ASSERT_EQUAL(guest_signal_of(write_there, (void *)(8 * PAGE)), SIGSEGV);
	CU_ASSERT_PTR_EQUAL(guest_signal_address, (void *)(8 * PAGE));
	CU_ASSERT_EQUAL(guest_signal_of(write_there, (void *)without_a_handler_exceptions_are_signals), SIGSEGV);
}

/* ---- ring 3 ---------------------------------------------------------------------------------------- */

static uint8_t stacks[3][STACK] __attribute__((aligned(4096)));
static unsigned calls, faults;
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

static void map_for_ring3(void *at, size_t size, int perm)
{
	uintptr_t physical = dune_va_to_pa(at);
	CU_ASSERT_FATAL(physical != 0);
	CU_ASSERT_EQUAL_FATAL(dune_vm_map_phys(pgroot, at, size, (void *)physical, perm), 0);
}

static bool begin_ring3(void)
{
	if (!guest_begin())
		return false;
	map_for_ring3(ring3_begin, ring3_end - ring3_begin, PERM_UCODE);
	map_for_ring3(stacks, sizeof stacks, PERM_USTACK);
	dune_register_syscall_handler(on_call);
	dune_register_pgflt_handler(on_fault);
	for (int vector = 0; vector < 32; vector++)
		if (vector != T_NMI && vector != T_DBLFLT && vector != T_MCHK && vector != T_PGFLT)
			CU_ASSERT_EQUAL_FATAL(dune_register_intr_handler(vector, on_trap), 0);
	return true;
}
#define BEGIN_RING3()               \
	do {                        \
		if (!begin_ring3()) \
			return;     \
	} while (0)

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

static void calls_of_ring3_reach_their_handler(void)
{
	BEGIN_RING3();
	answer = 0x55;
	CU_ASSERT_EQUAL(jump(ring3_call, 0, 0), 0x55);
	CU_ASSERT_EQUAL(calls, 1);
	CU_ASSERT_EQUAL(seen.rax, 0x1234);
	CU_ASSERT(ARG0(&seen) == 1 && ARG1(&seen) == 2 && ARG2(&seen) == 3);
	CU_ASSERT(seen.r10 == 4 && ARG4(&seen) == 5 && ARG5(&seen) == 6);
	CU_ASSERT_EQUAL(seen.rbx, (uint64_t)-7);
	CU_ASSERT_EQUAL(seen.rip, (uintptr_t)ring3_after_call);
	CU_ASSERT_EQUAL(seen.rsp, (uintptr_t)stacks[0] + STACK);
	CU_ASSERT(seen.cs % 4 == 3 && seen.ss % 4 == 3);
	CU_ASSERT_EQUAL(seen.rflags & FL_IOPL_MASK, 0);
	struct dune_counters before = guest_counters();
	for (unsigned i = 0; i < ROUNDS; i++)
		jump(ring3_call, 0, 0);
	struct dune_counters after = guest_counters();
	CU_ASSERT(after.exits - before.exits < ROUNDS / 4);
	harness_note("%u calls of ring 3: %llu exits", 2 * ROUNDS, (unsigned long long)(after.exits - before.exits));
}

static void without_a_handler_calls_of_ring3_fail(void)
{
	BEGIN_RING3();
	dune_register_syscall_handler(NULL);
	CU_ASSERT_EQUAL(jump(ring3_call, 0, 0), -88); /* UD2 behind the last call */
	CU_ASSERT_EQUAL((int64_t)seen.rax, -ENOSYS);
	CU_ASSERT_EQUAL((int64_t)seen.rdi, -ENOSYS);
}

static void ring3_does_not_see_the_process(void)
{
	static uint8_t secret __attribute__((aligned(4096))) = 42;
	BEGIN_RING3();
	uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*page = 42;
	void *const hidden[] = { &secret, page, (void *)jump, &page, (void *)dune_page_base(), pgroot };
	for (unsigned i = 0; i < sizeof hidden / sizeof *hidden; i++) {
		CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)hidden[i], 0), -77);
		CU_ASSERT_EQUAL(seen_address, (uintptr_t)hidden[i]);
		CU_ASSERT(seen_error & FEC_U);
		CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)hidden[i], 1), -77);
	}
	CU_ASSERT(secret == 42 && *page == 42);
	/* The control: what is given is seen. */
	map_for_ring3(page, PAGE, PERM_R | PERM_U);
	CU_ASSERT_EQUAL(jump(ring3_read, (uintptr_t)page, 0), 42);
	CU_ASSERT_EQUAL(jump(ring3_write, (uintptr_t)page, 1), -77);
	CU_ASSERT_EQUAL(seen_error, FEC_U | FEC_W | FEC_P);
	CU_ASSERT_EQUAL(jump(ring3_execute, (uintptr_t)page, 0), -77);
	CU_ASSERT_EQUAL(seen_error, FEC_U | FEC_I | FEC_P);
}

static void exceptions_of_ring3_reach_their_handlers(void)
{
	static const struct {
		uint8_t *routine;
		bool at_fault; /* else behind */
	} cases[] = { { ring3_breakpoint, false },    { ring3_undefined, true },  { ring3_halt, true },
		      { ring3_interrupts_off, true }, { ring3_read_cr3, true },   { ring3_int80, false },
		      { ring3_out_other, true },      { ring3_out_service, true } };
	BEGIN_RING3();
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		traps = 0;
		if (cases[i].routine == ring3_int80)
			CU_ASSERT_EQUAL(dune_register_intr_handler(0x80, on_trap), 0);
		CU_ASSERT_EQUAL(jump(cases[i].routine, 0, 0), -88);
		CU_ASSERT_EQUAL(traps, 1);
		CU_ASSERT_EQUAL(seen.cs & 3, 3);
		if (cases[i].at_fault)
			CU_ASSERT_EQUAL(seen.rip, (uintptr_t)cases[i].routine);
	}
	CU_ASSERT_EQUAL(jump(ring3_divide, 0, 0), -88);
	CU_ASSERT_EQUAL(seen.rip, (uintptr_t)ring3_divide_here);
	int result = jump(ring3_simd, 0, 0);
	if (result == 5) /* QEMU's emulated processor has no such exceptions */
		harness_note("the processor raises no SIMD floating-point exception");
	else
		CU_ASSERT_EQUAL(result, -88);
}

static void no_address_is_a_fault_of_ring3(void)
{
	const uint64_t wild[] = { 0x0000800000000000, 0x1234567812345678, 0x8000000000000000, 0xffff800000000000 };
	BEGIN_RING3();
	for (unsigned i = 0; i < sizeof wild / sizeof *wild; i++) {
		int result = jump((void *)wild[i], 0, 0);
		CU_ASSERT(result == -77 || result == -88);
		CU_ASSERT_EQUAL(seen.cs & 3, 3);
	}
	CU_ASSERT_EQUAL(jump(ring3_nothing, 3, 0), 3);
}

static void registers_of_ring3_survive_traps(void)
{
	BEGIN_RING3();
	CU_ASSERT_EQUAL(dune_register_intr_handler(T_BRKPT, on_breakpoint), 0);
	dune_register_pgflt_handler(give_page);
	CU_ASSERT_EQUAL(jump(ring3_registers, 0, 0), 0);
	CU_ASSERT_EQUAL(jump(ring3_registers, 2, 0), 0);
}

static void (*in_handler)(void);
static int nested_result;

static void call_with_work(struct dune_tf *tf)
{
	if (tf->rax == RING3_END)
		dune_ret_from_user((int)tf->rdi);
	tf->rax = answer;
	if (in_handler) {
		void (*work)(void) = in_handler;
		in_handler = NULL;
		work();
	}
}

static void run_another(void)
{
	nested_result = jump_on(1, ring3_nothing, 7, 0);
}

static void try_to_leave(void)
{
	nested_result = dune_leave() == -1 ? errno : 0;
}

static void jumps_to_ring3_nest(void)
{
	BEGIN_RING3();
	dune_register_syscall_handler(call_with_work);
	answer = 9;
	for (unsigned i = 0; i < 20; i++) {
		in_handler = run_another;
		CU_ASSERT_EQUAL(jump(ring3_call, 0, 0), 9);
		CU_ASSERT_EQUAL(nested_result, 7);
	}
	in_handler = try_to_leave;
	CU_ASSERT_EQUAL(jump(ring3_call, 0, 0), 9);
	CU_ASSERT_EQUAL(nested_result, EINVAL);
	CU_ASSERT_EQUAL(dune_leave(), 0);
	CU_ASSERT_EQUAL_FATAL(dune_enter(), 0);
	CU_ASSERT_EQUAL(jump(ring3_nothing, 3, 0), 3);
}

static void ring3_has_an_fs_base_of_its_own(void)
{
	static uint64_t block[512] __attribute__((aligned(4096))) = { 77 };
	BEGIN_RING3();
	map_for_ring3(block, sizeof block, PERM_R | PERM_U);
	dune_set_user_fs((unsigned long)block);
	CU_ASSERT_EQUAL(dune_get_user_fs(), (unsigned long)block);
	of_thread = 5;
	CU_ASSERT_EQUAL(jump(ring3_fs, 0, 0), 77);
	CU_ASSERT_EQUAL(of_thread, 5);
	CU_ASSERT_EQUAL(dune_get_user_fs(), (unsigned long)block);
	CU_ASSERT_EQUAL(jump(ring3_fs, 0, 0), 77);
}

static void ring3_needs_dune_mode(void)
{
	struct dune_tf tf = { .rip = (uintptr_t)ring3_nothing };
	CU_ASSERT(dune_jump_to_user(&tf) == -1 && errno == EPERM);
	GUEST_INIT();
	CU_ASSERT(dune_jump_to_user(&tf) == -1 && errno == EPERM);
}

static void a_call_is_passed_on(void)
{
	BEGIN_RING3();
	dune_register_syscall_handler(call_with_work);
	struct dune_tf tf = { .rax = SYS_getpid };
	dune_passthrough_syscall(&tf);
	CU_ASSERT_EQUAL((pid_t)tf.rax, getpid());
}

static const struct harness_test tests[] = {
	{ "a thread enters, leaves and enters again", a_thread_enters_and_leaves, HARNESS_FORK },
	{ "the control words of the floating-point units go along", the_control_words_go_along, HARNESS_FORK },
	{ "memory, libc, files and sockets are the same in ring 0", memory_and_libc_are_the_same, HARNESS_FORK },
	{ "a system call is one exit", a_system_call_is_one_exit, HARNESS_FORK },
	{ "clocks agree with the kernel's", clocks_agree_with_the_kernels, HARNESS_FORK },
	{ "an exception reaches its handler without an exit", an_exception_costs_no_exit, HARNESS_FORK },
	{ "a page fault is served without an exit", a_page_fault_is_served_without_an_exit, HARNESS_FORK },
	{ "the red zone survives an exception", the_red_zone_survives, HARNESS_FORK },
	{ "a handler changes registers", a_handler_changes_registers, HARNESS_FORK },
	{ "vector registers survive a handler", vector_registers_survive_a_handler, HARNESS_FORK },
	{ "exceptions nest", exceptions_nest, HARNESS_FORK },
	{ "a handler is left by longjmp()", a_handler_is_left_by_longjmp, HARNESS_FORK },
	{ "without a handler an exception is a signal", without_a_handler_exceptions_are_signals, HARNESS_FORK },
	{ "system calls of ring 3 reach their handler without an exit", calls_of_ring3_reach_their_handler,
	  HARNESS_FORK },
	{ "without a handler system calls of ring 3 fail", without_a_handler_calls_of_ring3_fail, HARNESS_FORK },
	{ "ring 3 reaches nothing of the process that it was not given", ring3_does_not_see_the_process, HARNESS_FORK },
	{ "exceptions of ring 3 reach their handlers", exceptions_of_ring3_reach_their_handlers, HARNESS_FORK },
	{ "a jump to what is no address is a fault of ring 3", no_address_is_a_fault_of_ring3, HARNESS_FORK },
	{ "registers of ring 3 survive traps", registers_of_ring3_survive_traps, HARNESS_FORK },
	{ "jumps to ring 3 nest, and a handler of ring 3 cannot leave", jumps_to_ring3_nest, HARNESS_FORK },
	{ "ring 3 has an FS base of its own", ring3_has_an_fs_base_of_its_own, HARNESS_FORK },
	{ "ring 3 needs Dune mode", ring3_needs_dune_mode, HARNESS_FORK },
	{ "a system call is passed on to the process", a_call_is_passed_on, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
