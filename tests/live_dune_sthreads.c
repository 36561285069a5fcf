/*
 * live_dune_sthreads.c - sthreads created in guest placement: ring 0 runs them itself, without an exit, and they reach no
 * more than elsewhere.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <dune.h>

#include "guest/guest.h"
#include "live.h"
#include "supervisor.h"

enum {
	WARM = 4, /* lives after which all that is touched is there */
	LIVES = 200
};

#define NEEDS_GUEST()                                                                            \
	do {                                                                                     \
		live_init();                                                                     \
		if (!live_ring0_native())                                                        \
			HARNESS_SKIP("ring 0 is interpreted here: there is no guest placement"); \
	} while (0)

#define NEEDS_NO_EXIT()                                                                           \
	do {                                                                                      \
		NEEDS_GUEST();                                                                    \
		if (supervisor.machine->host.shadow_paging)                                       \
			HARNESS_SKIP("page tables are shadowed here: compartments run by exits"); \
	} while (0)

static void enter(void)
{
	if (!dune_in_guest())
		ASSERT_EQUAL(dune_init_and_enter(), 0);
	CU_ASSERT_FATAL(dune_in_guest());
}

/* Exits that the thread has asked for: on a slow machine its timer of slices makes others. */
static uint64_t exits(void)
{
	struct dune_counters counters;
	ASSERT_EQUAL(dune_get_counters(&counters), 0);
	return counters.exits - counters.interrupted;
}

/* ---- no exit --------------------------------------------------------------------------------------- */

static void test_life(void)
{
	NEEDS_NO_EXIT();
	enter();
	sc_t sc;
	sc_init(&sc);
	for (unsigned i = 0; i < WARM; i++)
		ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)7), 7);
	unsigned without = 0;
	for (unsigned i = 0; i < LIVES; i++) {
		uint64_t before = exits();
		sthread_t st;
		void *result = NULL;
		if (sthread_create(&st, &sc, body_nothing, (void *)7) != 0 || sthread_join(st, &result) != 0 ||
		    result != (void *)7)
			CU_FAIL("a life failed");
		without += exits() == before;
	}
	printf("# %u of %u lives make no exit\n", without, LIVES);
	CU_ASSERT(without > LIVES / 2); /* the others set the timer of slices, once in some milliseconds */
}

/* The control of test_life: the counter counts. */
static void test_exit_is_counted(void)
{
	NEEDS_GUEST();
	enter();
	uint64_t before = exits();
	for (unsigned i = 0; i < 10; i++)
		syscall(SYS_getppid);
	ASSERT_EQUAL(exits() - before, 10);
}

static void *gate_sum(void *argument, void *trusted)
{
	return (void *)((uint64_t)argument + (uint64_t)trusted);
}

static void *body_call(void *gate)
{
	void *result = NULL;
	return cgate_call((cgate_t)(uint64_t)gate, (void *)30, &result) == 0 ? result : NULL;
}

static void test_gate(void)
{
	NEEDS_NO_EXIT();
	sc_t none, sc;
	sc_init(&none);
	cgate_t gate = cgate_create(gate_sum, &none, (void *)12);
	CU_ASSERT_FATAL(gate >= 0);
	enter();
	sc_init(&sc);
	sc_cgate_add(&sc, gate);
	for (unsigned i = 0; i < WARM; i++)
		ASSERT_RETURNED(live_run(&sc, body_call, (void *)(uint64_t)gate), 42);
	unsigned without = 0;
	for (unsigned i = 0; i < LIVES; i++) {
		uint64_t before = exits();
		ASSERT_RETURNED(live_run(&sc, body_call, (void *)(uint64_t)gate), 42);
		without += exits() == before;
	}
	printf("# %u of %u lives with a gate call make no exit\n", without, LIVES);
	CU_ASSERT(without > LIVES / 2);
}

static void *body_process_id(void *unused)
{
	(void)unused;
	return (void *)(uint64_t)(getpid() == getpid() && getpid() > 0);
}

static void test_process_id(void)
{
	NEEDS_NO_EXIT();
	enter();
	for (unsigned i = 0; i < WARM; i++)
		ASSERT_RETURNED(live_run_bare(body_process_id, NULL), 1);
	uint64_t before = exits();
	ASSERT_RETURNED(live_run_bare(body_process_id, NULL), 1);
	ASSERT_EQUAL(exits() - before, 0);
}

/* ---- default deny ---------------------------------------------------------------------------------- */

static int global = 1;

static void test_nothing_of_the_process(void)
{
	NEEDS_GUEST();
	char *heap = malloc(100);
	enter();
	const struct dune_guest_thread *self = dune_guest_self;
	const uint64_t windows[] = {
		self->processor_address, /* of ring 0: stacks, registers */
		live_window() + WINDOW_GUEST_CODE,
		live_window() + WINDOW_GUEST_IDT,
		live_window() + WINDOW_MIRROR_PROCESSORS,
	};
	for (unsigned i = 0; i < sizeof windows / sizeof *windows; i++) {
		ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)windows[i]), READ_ABSENT, windows[i]);
		ASSERT_PAGE_FAULT(live_run_bare(body_write, (void *)windows[i]), WRITE_ABSENT, windows[i]);
	}
	ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)dune_page_base()), READ_ABSENT, dune_page_base());
	ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)self), READ_ABSENT, self);
	char *later = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*later = 1; /* the process's, mirrored; after the snapshot */
	ASSERT_PAGE_FAULT(live_run_bare(body_read, later), READ_ABSENT, later);
	/* What all compartments have for ring 0 stays ring 0's. */
	ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)(live_window() + WINDOW_LOCAL_CODE)), READ_DENIED,
			  live_window() + WINDOW_LOCAL_CODE);
	ASSERT_PAGE_FAULT(live_run_bare(body_write, (void *)(live_window() + WINDOW_LOCAL_IDT)), WRITE_DENIED,
			  live_window() + WINDOW_LOCAL_IDT);
	ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)self->prepared->area_address), READ_DENIED,
			  self->prepared->area_address);
	/* The control: its own snapshot it has. */
	ASSERT_RETURNED(live_run_bare(body_read, &global), 1);
	free(heap);
}

static void *body_interrupt_event(void *unused)
{
	__asm__ volatile("int $240");
	return unused;
}

static void *body_interrupt_128(void *unused)
{
	__asm__ volatile("int $0x80");
	return unused;
}

static void *body_halt(void *unused)
{
	__asm__ volatile("hlt");
	return unused;
}

static void *body_out(void *port)
{
	__asm__ volatile("outb %%al, %%dx" ::"a"(GUEST_CALL_LEAVE), "d"(port));
	return NULL;
}

static void *body_sysenter(void *unused)
{
	__asm__ volatile("sysenter");
	return unused;
}

static void *body_load_cr3(void *unused)
{
	__asm__ volatile("movq %0, %%cr3" ::"r"((uint64_t)0));
	return unused;
}

static void test_privileged(void)
{
	NEEDS_GUEST();
	enter();
	stcb_t bodies[] = { body_interrupt_event, body_interrupt_128, body_halt, body_load_cr3 };
	for (unsigned i = 0; i < sizeof bodies / sizeof *bodies; i++) {
		struct life life = live_run_bare(bodies[i], NULL);
		ASSERT_END(life, STHREAD_FAULTED);
		ASSERT_EQUAL(life.info.vector, GENERAL_PROTECTION);
	}
	ASSERT_END(live_run_bare(body_sysenter, NULL), STHREAD_FAULTED);
	for (unsigned port = PORT_SYSTEM_CALL; port <= PORT_GUEST; port++)
		ASSERT_EXCEPTION(live_run_bare(body_out, (void *)(uint64_t)port), GENERAL_PROTECTION, 0);
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

/* The system calls by which ring 0 of libdune makes and ends direct calls. */
static void *body_forged(void *number)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(1), "S"(2), "d"(3) : "rcx", "r11", "memory");
	return (void *)result;
}

static void test_forged_calls(void)
{
	NEEDS_GUEST();
	enter();
	const uint64_t numbers[] = { NUMBER_DIRECT_CALL, NUMBER_DIRECT_RETURN, NUMBER_DIRECT_RETURN + 1, 1u << 31,
				     ~0u };
	for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++)
		live_run_bare(body_forged, (void *)numbers[i]); /* whatever becomes of them */
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
	CU_ASSERT(dune_in_guest());
}

/* ---- registers ------------------------------------------------------------------------------------- */

/* Loads a pattern, parks in a system call that would block, and looks whether it is still there. */
static void *body_keep(void *pattern)
{
	uint64_t in[2] = { (uint64_t)pattern, ~(uint64_t)pattern }, out[2] = { 0 };
	char byte;
	long result = SYS_read;
	__asm__ volatile("movups %2, %%xmm7\n\tsyscall\n\tmovups %%xmm7, %1"
			 : "+a"(result), "=m"(out)
			 : "m"(in), "D"(0L), "S"(&byte), "d"(1L)
			 : "memory", "cc", "rcx", "r11", "xmm7");
	return (void *)(uint64_t)(result == 1 && memcmp(in, out, sizeof in) == 0);
}

/* What xmm7 holds at the start. */
static void *body_look(void *unused)
{
	uint64_t out[2];
	__asm__ volatile("movups %%xmm7, %0" : "=m"(out));
	(void)unused;
	return (void *)(out[0] | out[1]);
}

static void test_moves(void)
{
	NEEDS_GUEST();
	enum {
		SOME = 4
	};
	int ends[2];
	ASSERT_EQUAL(pipe(ends), 0);
	ASSERT_EQUAL(dup2(ends[0], 0), 0);
	sthread_t parked[SOME], outside;
	sc_t sc;
	sc_init(&sc);
	sc_fd_add(&sc, 0, PROT_READ);
	enter();
	for (uint64_t i = 0; i < SOME; i++) {
		ASSERT_EQUAL(live_create(&parked[i], &sc, body_keep, (void *)(0x1111111111111111 * (i + 1))), 0);
		ASSERT_RETURNED(live_run_bare(body_look, NULL), 0);
	}
	ASSERT_EQUAL(dune_leave(), 0);
	for (unsigned i = 0; i < SOME / 2; i++) { /* begun in ring 0, ended by KVM_RUN */
		ASSERT_EQUAL(write(ends[1], "x", 1), 1);
		ASSERT_RETURNED(live_join(parked[i]), 1);
		ASSERT_RETURNED(live_run_bare(body_look, NULL), 0);
	}
	ASSERT_EQUAL(live_create(&outside, &sc, body_keep, (void *)0x7777777777777777), 0);
	enter();
	ASSERT_RETURNED(live_run_bare(body_look, NULL), 0);
	ASSERT_EQUAL(write(ends[1], "x", 1), 1);
	ASSERT_RETURNED(live_join(outside), 1);
	for (unsigned i = SOME / 2; i < SOME; i++) {
		ASSERT_EQUAL(write(ends[1], "x", 1), 1);
		ASSERT_RETURNED(live_join(parked[i]), 1);
	}
}

/* The caller's own control words and bases survive a compartment that changes them. */
static void *body_disturb(void *unused)
{
	uint32_t mxcsr = 0x7f80;
	uint16_t control = 0x0f7f;
	__asm__ volatile("ldmxcsr %0; fldcw %1; fld1; fld1; std" ::"m"(mxcsr), "m"(control));
	syscall(SYS_getppid); /* leaves by a trap with all that */
	__asm__ volatile("cld");
	return unused;
}

static void test_own_state(void)
{
	NEEDS_GUEST();
	enter();
	uint32_t mxcsr = 0x3f80, after = 0; /* rounds down */
	uint16_t control = 0x077f, control_after = 0;
	uint64_t flags;
	__asm__ volatile("ldmxcsr %0; fldcw %1" ::"m"(mxcsr), "m"(control));
	sthread_t st;
	sc_t sc;
	sc_init(&sc);
	int result = sthread_create(&st, &sc, body_disturb, NULL);
	__asm__ volatile("stmxcsr %0; fnstcw %1; pushfq; popq %2" : "=m"(after), "=m"(control_after), "=r"(flags));
	__asm__ volatile("ldmxcsr %0; fldcw %1" ::"m"((uint32_t){ 0x1f80 }), "m"((uint16_t){ 0x037f }));
	ASSERT_EQUAL(result, 0);
	ASSERT_EQUAL(after & 0xffc0, mxcsr);
	ASSERT_EQUAL(control_after, control);
	ASSERT_EQUAL(flags & (FL_DF | FL_IOPL_MASK | FL_IF), FL_IOPL_3 | FL_IF);
	live_join(st);
}

/* ---- budgets, signals, threads --------------------------------------------------------------------- */

static void test_spin(void)
{
	NEEDS_GUEST();
	enter();
	sc_t sc;
	sc_init(&sc);
	sc_cpu_budget(&sc, 50);
	struct life life = live_run(&sc, body_spin, NULL);
	ASSERT_EQUAL(life.error, ECANCELED);
	ASSERT_END(life, STHREAD_OUT_OF_CPU);
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

static volatile sig_atomic_t alarms, in_ring0;

static void on_alarm(int number)
{
	(void)number;
	alarms++;
	uint16_t selector;
	__asm__ volatile("mov %%cs, %0" : "=r"(selector));
	in_ring0 = (selector & 3) == 0;
}

static void test_signal(void)
{
	NEEDS_GUEST();
	enter();
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	sigaction(SIGALRM, &action, NULL);
	struct itimerval timer = { .it_value = { .tv_usec = 20000 } };
	sc_t sc;
	sc_init(&sc);
	sc_cpu_budget(&sc, 400);
	setitimer(ITIMER_REAL, &timer, NULL);
	ASSERT_END(live_run(&sc, body_spin, NULL), STHREAD_OUT_OF_CPU);
	ASSERT_EQUAL(alarms, 1);
	ASSERT_EQUAL(in_ring0, 1);
}

static void *many_lives(void *in_guest)
{
	sc_t sc;
	uint64_t wrong = 0;
	if (in_guest && dune_enter() != 0)
		return (void *)1;
	sc_init(&sc);
	for (uint64_t i = 1; i <= LIVES; i++) {
		sthread_t st;
		void *result = NULL;
		if (sthread_create(&st, &sc, body_nothing, (void *)i) != 0 || sthread_join(st, &result) != 0 ||
		    result != (void *)i)
			wrong++;
	}
	return (void *)(wrong << 1);
}

static void test_threads(void)
{
	NEEDS_GUEST();
	enter();
	pthread_t threads[4];
	for (uint64_t i = 0; i < 4; i++)
		ASSERT_EQUAL(pthread_create(&threads[i], NULL, many_lives, (void *)(i & 1)), 0);
	ASSERT_EQUAL(many_lives(NULL), 0);
	for (unsigned i = 0; i < 4; i++) {
		void *result = NULL;
		ASSERT_EQUAL(pthread_join(threads[i], &result), 0);
		ASSERT_EQUAL(result, 0);
	}
}

static const struct harness_test tests[] = {
	{ "a recycled life that ring 0 creates makes no exit", test_life, HARNESS_FORK },
	{ "exits are counted", test_exit_is_counted, HARNESS_FORK },
	{ "a gate call of such a life makes none either", test_gate, HARNESS_FORK },
	{ "getpid() makes none", test_process_id, HARNESS_FORK },
	{ "nothing of the process and of its ring 0 is there", test_nothing_of_the_process, HARNESS_FORK },
	{ "privileged instructions and interrupts end the compartment only", test_privileged, HARNESS_FORK },
	{ "system calls meant for libdune gain nothing", test_forged_calls, HARNESS_FORK },
	{ "vector registers are kept between ring 0 and KVM_RUN, and seen by nobody else", test_moves, HARNESS_FORK },
	{ "the caller's control words and flags survive", test_own_state, HARNESS_FORK },
	{ "a budget ends one that spins", test_spin, HARNESS_FORK },
	{ "a signal of the process is handled while a compartment runs", test_signal, HARNESS_FORK },
	{ "threads in both modes run them side by side", test_threads, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
