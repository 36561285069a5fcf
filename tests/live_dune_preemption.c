/*
 * live_dune_preemption.c - signals interrupt ring 0 and ring 3 of guest placement at random moments, and no register is
 * different afterwards: general registers, flags (DF, IF and IOPL too), x87, SSE, AVX, MXCSR, red zone, FS base.
 *
 * The code that is interrupted spins, makes system calls, or traps, so that signals also come while an entry of ring 0 runs with
 * interrupts off, on the way out to the host side, and on the way back.  DUNE_PREEMPTION_ROUNDS: signals, all tests together.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "dune_both.h"
#include "dune_preempt.h"

enum {
	PAGE = 4096,
	STACK = 8 * PAGE, /* the frames of signals lie there too */
	TESTS = 6
};

static struct {
	union {
		struct preempt area;
		uint8_t page[PAGE];
	};
	uint8_t stack[STACK], scratch[STACK];
	uint64_t thread_area[PAGE / 8];
} memory __attribute__((aligned(4096)));

static timer_t timer;
static uint64_t wanted, seed = 1;
static volatile uint64_t signals;
static enum change {
	NOTHING,
	R13,
	CARRY,
	DIRECTION,
	XMM,
	X87,
	MXCSR,
	CHANGES
} change;

static uint64_t rounds(void)
{
	const char *told = getenv("DUNE_PREEMPTION_ROUNDS"), *lane = getenv("TEST_LANE");

	if (told && atoi(told) > 0)
		return (uint64_t)atoi(told);
	return lane && strncmp(lane, "svm", 3) == 0 ? 10000 : lane ? 300 : 2000;
}

static uint64_t next_random(void)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return seed >> 33;
}

static void arm(void)
{
	const struct itimerspec once = { .it_value.tv_nsec = (long)(2000 + next_random() % 100000) };

	timer_settime(timer, 0, &once, NULL);
}

static void apply(ucontext_t *context)
{
	greg_t *registers = context->uc_mcontext.gregs;

	switch (change) {
	case R13:
		registers[REG_R13] ^= 1;
		break;
	case CARRY:
		registers[REG_EFL] ^= FL_CF;
		break;
	case DIRECTION:
		registers[REG_EFL] ^= FL_DF;
		break;
	case XMM:
		context->uc_mcontext.fpregs->_xmm[9].element[3] ^= 1;
		break;
	case X87:
		context->uc_mcontext.fpregs->_st[4].significand[0] ^= 1;
		break;
	case MXCSR:
		context->uc_mcontext.fpregs->mxcsr ^= 0x2000;
		break;
	default:
		return;
	}
}

/* Elsewhere a change would not be noticed, or not only that. */
static bool is_waiting(const ucontext_t *context)
{
	return (uint64_t)context->uc_mcontext.gregs[REG_RIP] - (uint64_t)preempt_wait <
	       (uint64_t)(preempt_wait_end - preempt_wait);
}

static void on_timer(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	(void)number, (void)info;
	preempt_overwrite(memory.area.avx);
	signals++;
	if (change && is_waiting(context))
		apply(context);
	if (signals >= wanted || memory.area.errors)
		memory.area.stop = 1;
	else
		arm();
	errno = saved;
}

static void on_trap(int number)
{
	(void)number;
	preempt_overwrite(memory.area.avx);
}

static void on_breakpoint(struct dune_tf *tf)
{
	(void)tf;
	preempt_overwrite(memory.area.avx);
}

static void on_call(struct dune_tf *tf)
{
	if (tf->rax == PREEMPT_END)
		dune_ret_from_user(17);
	preempt_overwrite(memory.area.avx);
	if (tf->rax == SYS_getppid)
		dune_passthrough_syscall(tf);
}

static void fill(struct preempt_set *set, uint64_t flags, bool second)
{
	memset(set, 0, sizeof *set);
	for (unsigned i = 0; i < 14; i++)
		set->general[i] = next_random() << 32 | next_random();
	set->flags = flags;
	set->mxcsr = second ? 0x1fa0 : 0x5f80;
	set->control = second ? 0x37f : 0x27f;
	for (unsigned i = 0; i < 8; i++) {
		long double value = (long double)(next_random() + 1) / 3;

		memcpy(&set->x87[i], &value, 10);
	}
	for (unsigned i = 0; i < 16; i++)
		for (unsigned k = 0; k < (memory.area.avx ? 4 : 2); k++)
			set->vectors[i][k] = next_random() << 32 | next_random();
	for (unsigned i = 0; i < 16; i++)
		set->red_zone[i] = next_random() << 32 | next_random();
	set->rsp = memory.area.stack;
}

static void prepare(enum preempt_what what, bool ring3, uint64_t many)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN };
	struct sigaction action = { .sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART };
	const uint64_t fixed = dune_in_guest() && !ring3 ? FL_IOPL_3 | FL_IF | 2 : FL_IF | 2;
	struct preempt *area = &memory.area;

	memset(&memory, 0, sizeof memory);
	memory.thread_area[0] = 0xfeedfacecafebeef;
	area->avx = __builtin_cpu_supports("avx") != 0;
	area->what = what;
	area->spin = 300;
	area->ring3 = ring3;
	area->stack = (uint64_t)memory.stack + STACK - 64;
	area->scratch = (uint64_t)memory.scratch + STACK - 64;
	fill(&area->first.set, fixed | FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_DF | FL_OF, false);
	fill(&area->second.set, fixed, true);

	uint64_t word;
	__asm__("movq %%fs:0, %0" : "=r"(word));
	area->first.set.fs = area->second.set.fs = ring3 ? memory.thread_area[0] : word;
	signals = 0;
	wanted = many;
	sigemptyset(&action.sa_mask);
	sigaction(SIGRTMIN, &action, NULL);
	signal(SIGTRAP, on_trap);
	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	ASSERT_EQUAL(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
}

static void check(uint64_t errors_min)
{
	const struct preempt *area = &memory.area;

	ASSERT_EQUAL(timer_delete(timer), 0);
	if (errors_min == 0)
		live_check(area->errors == 0, __FILE__, __LINE__,
			   "word %llu of the registers was %#llx, not %#llx, after %llu signals, %llu passes",
			   (unsigned long long)area->bad, (unsigned long long)area->seen.words[area->bad],
			   (unsigned long long)(area->current ? ((const uint64_t *)area->current)[area->bad] : 0),
			   (unsigned long long)signals, (unsigned long long)area->passes);
	else
		live_check(area->errors >= errors_min, __FILE__, __LINE__, "change %d is noticed after %llu signals",
			   change, (unsigned long long)signals);
	if (errors_min == 0)
		ASSERT_EQUAL(signals, wanted);
}

/* ---- ring 0, and host mode ---------------------------------------------------------------------------- */

static void run_here(enum preempt_what what, uint64_t many)
{
	prepare(what, false, many);
	arm();
	preempt_run(&memory.area);
	check(change ? 1 : 0);
}

static void spin_body(void)
{
	run_here(PREEMPT_NOTHING, dune_in_guest() ? rounds() / TESTS : 100);
}

static void ring0_that_spins(void)
{
	BOTH(spin_body);
}

static void call_body(void)
{
	run_here(PREEMPT_CALL, dune_in_guest() ? rounds() / TESTS : 100);
}

static void ring0_that_calls(void)
{
	BOTH(call_body);
}

static void trap_body(void)
{
	run_here(PREEMPT_TRAP, dune_in_guest() ? rounds() / TESTS : 100);
}

static void ring0_that_traps(void)
{
	BOTH(trap_body);
}

static void control_body(void)
{
	for (change = R13; change < CHANGES; change++)
		run_here(PREEMPT_NOTHING, 1000000); /* ends with the first that is noticed */
	change = NOTHING;
}

static void changes_are_noticed(void)
{
	BOTH(control_body);
}

/* ---- ring 3 ------------------------------------------------------------------------------------------- */

static bool ready;

static void map_for_ring3(void)
{
	dune_set_user_fs((unsigned long)memory.thread_area);
	if (ready)
		return;
	ready = true;
	ASSERT_EQUAL(dune_vm_map_phys(pgroot, preempt_begin, preempt_end - preempt_begin,
				      (void *)dune_va_to_pa(preempt_begin), PERM_UCODE),
		     0);
	ASSERT_EQUAL(dune_vm_map_phys(pgroot, &memory, sizeof memory, (void *)dune_va_to_pa(&memory), PERM_UTEXT), 0);
	dune_register_syscall_handler(on_call);
	ASSERT_EQUAL(dune_register_intr_handler(T_BRKPT, on_breakpoint), 0);
}

static void run_in_ring3(enum preempt_what what, uint64_t many)
{
	struct dune_tf tf = { 0 };

	prepare(what, true, many);
	map_for_ring3();
	tf.rip = (uint64_t)preempt_run;
	tf.rdi = (uint64_t)&memory.area;
	tf.rsp = memory.area.scratch;
	tf.rflags = FL_IF | 2;
	arm();
	ASSERT_EQUAL(dune_jump_to_user(&tf), 17);
	check(change ? 1 : 0);
	ASSERT_EQUAL(dune_get_user_fs(), (unsigned long)memory.thread_area);
}

#define IN_RING3(what)                                  \
	do {                                            \
		if (!both_native())                     \
			BOTH_SKIP();                    \
		ASSERT_EQUAL(dune_enter(), 0);          \
		run_in_ring3((what), rounds() / TESTS); \
		ASSERT_EQUAL(dune_leave(), 0);          \
	} while (0)

static void ring3_that_spins(void)
{
	IN_RING3(PREEMPT_NOTHING);
}

static void ring3_that_calls(void)
{
	IN_RING3(PREEMPT_CALL);
}

static void ring3_that_traps(void)
{
	IN_RING3(PREEMPT_TRAP);
}

static void changes_in_ring3_are_noticed(void)
{
	if (!both_native())
		BOTH_SKIP();
	ASSERT_EQUAL(dune_enter(), 0);
	for (change = R13; change < CHANGES; change++)
		run_in_ring3(PREEMPT_NOTHING, 1000000);
	ASSERT_EQUAL(dune_leave(), 0);
}

/* Ring 3 is entered and left all the time. */
static void ring3_that_comes_and_goes(void)
{
	uint64_t stays = 0;

	if (!both_native())
		BOTH_SKIP();
	ASSERT_EQUAL(dune_enter(), 0);
	prepare(PREEMPT_NOTHING, true, rounds() / TESTS);
	map_for_ring3();
	memory.area.stop = 1; /* it ends at once */
	arm();
	while (signals < wanted) {
		struct dune_tf tf = { .rip = (uint64_t)preempt_run,
				      .rdi = (uint64_t)&memory.area,
				      .rsp = memory.area.scratch,
				      .rflags = FL_IF | 2 };

		if (dune_jump_to_user(&tf) != 17)
			break;
		stays++;
	}
	check(0);
	harness_note("%llu stays in ring 3", (unsigned long long)stays);
	ASSERT_EQUAL(dune_leave(), 0);
}

/* A handler of Dune's may end what it has interrupted; the signal comes again. */
static volatile uint64_t interrupts;

static void on_interrupt(struct dune_tf *tf)
{
	interrupts++;
	arm();
	if (tf->cs & 3)
		dune_ret_from_user(23);
}

static void interrupts_end_ring3(void)
{
	uint64_t ended = 0;

	if (!both_native())
		BOTH_SKIP();
	ASSERT_EQUAL(dune_enter(), 0);
	prepare(PREEMPT_NOTHING, true, 0);
	map_for_ring3();
	ASSERT_EQUAL(dune_register_signal_handler(SIGRTMIN, on_interrupt), 0);
	arm();
	for (unsigned i = 0; i < 200; i++) {
		struct dune_tf tf = { .rip = (uint64_t)preempt_run,
				      .rdi = (uint64_t)&memory.area,
				      .rsp = memory.area.scratch,
				      .rflags = FL_IF | 2 };

		ended += dune_jump_to_user(&tf) == 23;
	}
	ASSERT_EQUAL(ended, 200);
	ASSERT_EQUAL(memory.area.errors, 0);
	ASSERT_EQUAL(timer_delete(timer), 0);
	ASSERT_EQUAL(dune_leave(), 0);
}

int main(int argc, char **argv)
{
	static const struct harness_test tests[] = {
		{ "control: a changed register, flag or vector is noticed", changes_are_noticed, HARNESS_FORK,
		  .seconds = 60 },
		{ "ring 0 that spins keeps all registers", ring0_that_spins, HARNESS_FORK, .seconds = 60 },
		{ "ring 0 that makes system calls keeps all registers", ring0_that_calls, HARNESS_FORK, .seconds = 60 },
		{ "ring 0 that traps keeps all registers", ring0_that_traps, HARNESS_FORK, .seconds = 60 },
		{ "control: a changed register of ring 3 is noticed", changes_in_ring3_are_noticed, HARNESS_FORK,
		  .seconds = 60 },
		{ "ring 3 that spins keeps all registers", ring3_that_spins, HARNESS_FORK, .seconds = 60 },
		{ "ring 3 that makes system calls keeps all registers", ring3_that_calls, HARNESS_FORK, .seconds = 60 },
		{ "ring 3 that traps keeps all registers", ring3_that_traps, HARNESS_FORK, .seconds = 60 },
		{ "signals while ring 3 is entered and left", ring3_that_comes_and_goes, HARNESS_FORK, .seconds = 60 },
		{ "a handler of Dune's may end ring 3, and the signal comes again", interrupts_end_ring3, HARNESS_FORK,
		  .seconds = 60 },
	};
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
