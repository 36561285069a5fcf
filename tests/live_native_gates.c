/*
 * live_native_gates.c - gate calls without an exit, where ring 0 is native: what they cost, and that neither side nor
 * anybody who makes the same system calls himself gains anything by them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "gate.h"
#include "live.h"
#include "supervisor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
	WARM = 8,     /* calls after which all that caller and gate touch is there */
	BUDGET = 120, /* instructions of ring 0 that one call and its return may take */
};

/* In a tag that callers may write to. */
struct shared {
	cgate_t gate, other;
	unsigned calls;
	int error;
	uint64_t argument, result, sum;
	_Atomic unsigned stage;
	uint8_t *secret;
};

#define NEEDS_NATIVE()                                                                     \
	do {                                                                               \
		live_init();                                                               \
		if (!live_ring0_native())                                                  \
			HARNESS_SKIP("ring 0 is interpreted here: every gate call exits"); \
	} while (0)

/* ---- counting instructions of ring 0 ----------------------------------------------------------------------------- */

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);

/* What KVM_RUN came to, and, while `stepping`, what ring 0 did.  Single steps do not survive SYSCALL and SYSRET: each
 * visit of ring 0 begins at a HLT put over the system-call entry, and its last step is the SYSRET. */
static struct {
	bool stepping;
	unsigned instructions[8]; /* of each visit */
	uint64_t number[8];       /* RAX as it came */
	unsigned visits;
	unsigned loads, keeping; /* of CR3, and those that keep what is cached (bit 63) */
	unsigned kicks, services, others;
} seen;

/* The monitor's code, as the supervisor sees it. */
static uint8_t *code_at(uint64_t address)
{
	const uint64_t *entry = dune_tables_entry(&supervisor.machine->tables, supervisor.machine->edit_root,
						  address & ~DUNE_PAGE_MASK, false);
	uint8_t *page = dune_physical_at(supervisor.machine, *entry & DUNE_PTE_FRAME);

	return page + (address & DUNE_PAGE_MASK);
}

static void debug(int fd, uint32_t control)
{
	ASSERT_EQUAL(__real_ioctl(fd, KVM_SET_GUEST_DEBUG, &(struct kvm_guest_debug){ .control = control }), 0);
}

static int run_stepping(int fd)
{
	static const uint8_t sysret[] = { 0x48, 0x0f, 0x07 };
	static const uint8_t load[] = { 0x0f, 0x22, 0xd8 }; /* movq %rax, %cr3 */
	struct kvm_run *run = dune_vcpu_get(supervisor.machine)->run;
	const uint64_t entry = live_window() + WINDOW_MONITOR + (dune_monitor_syscall - dune_monitor_begin);
	const uint8_t first = *code_at(entry), hlt = 0xf4;
	struct kvm_regs *regs = &run->s.regs.regs;
	int result;

	*code_at(entry) = hlt;
	for (;;) {
		result = __real_ioctl(fd, KVM_RUN, 0);
		run->kvm_dirty_regs = 0;
		if (result != 0 && errno == EINTR && run->s.regs.sregs.ss.dpl == 0) {
			run->immediate_exit = 0; /* a kick between two steps */
			continue;
		}
		if (result != 0 || (run->exit_reason != KVM_EXIT_DEBUG && run->exit_reason != KVM_EXIT_HLT))
			break;
		if (run->exit_reason == KVM_EXIT_HLT) {
			*code_at(entry) = first;
			regs->rip = entry;
			ASSERT_EQUAL(__real_ioctl(fd, KVM_SET_REGS, regs), 0);
			if (seen.visits < 8)
				seen.number[seen.visits++] = regs->rax;
		}
		seen.instructions[seen.visits - 1]++; /* the one at RIP, which is next */

		bool loads = memcmp(code_at(regs->rip), load, sizeof(load)) == 0;

		seen.loads += loads;
		seen.keeping += loads && regs->rax >> 63;

		bool leaves = memcmp(code_at(regs->rip), sysret, sizeof(sysret)) == 0;

		if (leaves)
			*code_at(entry) = hlt;
		debug(fd, leaves ? 0 : KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
	}
	*code_at(entry) = first;
	debug(fd, 0);
	return result;
}

int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
	if (request != KVM_RUN)
		return __real_ioctl(fd, request, argument);

	int result = seen.stepping ? run_stepping(fd) : __real_ioctl(fd, request, argument);
	const struct dune_vcpu *vcpu = supervisor.machine ? dune_vcpu_get(supervisor.machine) : NULL;

	if (result != 0 || (vcpu && vcpu->run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN))
		seen.kicks++;
	else if (vcpu && vcpu->run->exit_reason == KVM_EXIT_IO)
		seen.services++;
	else
		seen.others++;
	return result;
}

static struct shared *share(sc_t *sc)
{
	tag_t tag = tag_new();
	struct shared *shared = smalloc(tag, sizeof(*shared));

	CU_ASSERT_PTR_NOT_NULL_FATAL(shared);
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, BOTH), 0);
	return shared;
}

/* A gate whose only right is none, granted in *sc. */
static cgate_t plain_gate(sc_t *sc, cgate_fn entry, void *trusted)
{
	sc_t none;

	sc_init(&none);

	cgate_t gate = cgate_create(entry, &none, trusted);

	CU_ASSERT_FATAL(gate >= 0);
	ASSERT_EQUAL(sc_cgate_add(sc, gate), 0);
	return gate;
}

static void *mix(void *argument, void *trusted)
{
	static uintptr_t count;

	count++;
	return (void *)((uintptr_t)argument * 3 + (uintptr_t)trusted + count);
}

/* Parks after some calls, so that what came before can be told from what comes after. */
static void *call_warm(void *argument)
{
	struct shared *shared = argument;
	void *result;

	for (int i = 0; i < WARM; i++)
		if (cgate_call(shared->gate, (void *)1, &result) != 0)
			return (void *)(intptr_t)-errno;
	shared->sum = 0;
	sthread_park();
	for (unsigned i = 0; i < shared->calls; i++) {
		if (cgate_call(shared->gate, (void *)(uintptr_t)i, &result) != 0)
			return (void *)(intptr_t)-errno;
		shared->sum += (uintptr_t)result;
	}
	sthread_park();
	return (void *)1;
}

/* Starts the caller, makes it do its warmed calls, and leaves it parked.  Returns the exits they took. */
static uint64_t warmed_calls(const sc_t *sc, struct shared *shared, unsigned calls, sthread_t *st)
{
	struct sthread_info before, after;

	shared->calls = calls;
	ASSERT_EQUAL(live_create(st, sc, call_warm, shared), 0);
	ASSERT_EQUAL(sthread_get_info(*st, &before), 0);

	uint64_t total = dune_totals().exits;

	memset(&seen, 0, sizeof(seen));
	ASSERT_EQUAL(live_step(*st), 0);
	total = dune_totals().exits - total;
	ASSERT_EQUAL(sthread_get_info(*st, &after), 0);
	ASSERT_EQUAL(after.gate_calls - before.gate_calls, calls);
	return total;
}

static void finish(sthread_t st)
{
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_RETURNED(live_join(st), 1);
}

enum {
	CALLS = 1000
};

/* The caller's park is the one service that is asked for.  On a slow machine slices end meanwhile: a kick that comes
 * inside the gate makes the gate's return an exit. */
static void check_exits(unsigned expected)
{
	harness_note("%u services, %u kicks for %d calls", seen.services, seen.kicks, CALLS);
	live_check(seen.services >= expected && seen.services <= expected + seen.kicks, __FILE__, __LINE__,
		   "%u services are asked for (%u, and %u kicks)", expected, seen.services, seen.kicks);
	ASSERT_EQUAL(seen.others, 0);
}

static void no_exit(void)
{
	struct sthread_statistics before, after;
	sthread_t st;
	sc_t sc;

	NEEDS_NATIVE();

	struct shared *shared = share(&sc);

	shared->gate = plain_gate(&sc, mix, (void *)7);
	ASSERT_EQUAL(sthread_statistics(&before), 0);

	uint64_t exits = warmed_calls(&sc, shared, CALLS, &st);

	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.gate_calls - before.gate_calls, WARM + CALLS);
	live_check(exits <= seen.services + seen.kicks, __FILE__, __LINE__, "every exit is seen (%lu)",
		   (unsigned long)exits);
	check_exits(1);
	finish(st);
}

/* The control: with the path switched off the same calls are seen to exit, two for each. */
static void exits_are_seen(void)
{
	sthread_t st;
	sc_t sc;

	NEEDS_NATIVE();

	struct shared *shared = share(&sc);

	shared->gate = plain_gate(&sc, mix, (void *)7);
	supervisor.no_direct_calls = true;
	warmed_calls(&sc, shared, CALLS, &st);
	check_exits(1 + 2 * CALLS);
	supervisor.no_direct_calls = false;
	finish(st);
}

static void few_instructions(void)
{
	sthread_t st;
	sc_t sc;

	NEEDS_NATIVE();

	struct shared *shared = share(&sc);

	shared->gate = plain_gate(&sc, mix, (void *)7);
	shared->calls = 1;
	ASSERT_EQUAL(live_create(&st, &sc, call_warm, shared), 0);
	seen.stepping = true;
	ASSERT_EQUAL(live_step(st), 0);
	seen.stepping = false;
	for (unsigned i = 0; i < seen.visits; i++)
		harness_note("system call %#lx: %u instructions in ring 0", (unsigned long)seen.number[i],
			     seen.instructions[i]);
	ASSERT_EQUAL(seen.visits, 2);
	ASSERT_EQUAL(seen.number[0], NUMBER_DIRECT_CALL);
	ASSERT_EQUAL(seen.number[1], NUMBER_DIRECT_RETURN);
	live_check(seen.instructions[0] > 10 && seen.instructions[1] > 10 &&
			   seen.instructions[0] + seen.instructions[1] <= BUDGET,
		   __FILE__, __LINE__, "%u + %u instructions are at most %d", seen.instructions[0],
		   seen.instructions[1], BUDGET);
	ASSERT_EQUAL(seen.loads, 2);
	ASSERT_EQUAL(seen.keeping, supervisor.machine->tags_used ? 2 : 0);
	finish(st);
}

/* ---- what calls do ----------------------------------------------------------------------------------------------- */

static uint64_t direct_calls(cgate_t handle)
{
	supervisor_lock();

	uint64_t calls = gate_direct_calls(handle_get(&supervisor.gates, handle));

	supervisor_unlock();
	return calls;
}

static void right_results(void)
{
	enum {
		MANY = 10000
	};
	struct cgate_info info;
	sthread_t st;
	sc_t sc;
	uint64_t sum = 0;

	NEEDS_NATIVE();

	struct shared *shared = share(&sc);

	shared->gate = plain_gate(&sc, mix, (void *)7);
	warmed_calls(&sc, shared, MANY, &st);
	for (uint64_t i = 0; i < MANY; i++)
		sum += i * 3 + 7 + WARM + i + 1;
	ASSERT_EQUAL(shared->sum, sum);
	finish(st);
	ASSERT_EQUAL(cgate_get_info(shared->gate, &info), 0);
	ASSERT_EQUAL(info.calls, WARM + MANY);
	ASSERT_EQUAL(info.failures, 0);
	live_check(direct_calls(shared->gate) > MANY / 2, __FILE__, __LINE__, "most calls are made by ring 0");
	ASSERT_EQUAL(cgate_destroy(shared->gate), 0);
}

/* Calls the gate until it was warm, then once with an argument; the error, or 0, and the result are left in *shared. */
static void *call_with_argument(void *argument)
{
	struct shared *shared = argument;
	void *result = NULL;

	for (int i = 0; i < WARM; i++)
		if (cgate_call(shared->gate, NULL, &result) != 0)
			return (void *)(intptr_t)-errno;
	sthread_park();
	errno = 0;
	shared->error = cgate_call(shared->gate, (void *)shared->argument, &result) == 0 ? 0 : errno;
	shared->result = (uint64_t)result;
	return (void *)1;
}

static void *tell_time(void *argument, void *trusted)
{
	(void)argument, (void)trusted;
	return (void *)(uintptr_t)time(NULL);
}

static void *tell_identity(void *argument, void *trusted)
{
	(void)argument, (void)trusted;
	return (void *)(uintptr_t)getpid();
}

static void own_identity(void)
{
	sthread_t st;
	sc_t sc;
	void *from_host;

	NEEDS_NATIVE();

	struct shared *shared = share(&sc);

	shared->gate = plain_gate(&sc, tell_identity, NULL);
	ASSERT_EQUAL(cgate_call(shared->gate, NULL, &from_host), 0);
	for (int i = 0; i < 2; i++) {
		ASSERT_EQUAL(live_create(&st, &sc, call_with_argument, shared), 0);
		finish(st);
		ASSERT_EQUAL(shared->result, from_host);
	}
	/* And the time is the caller's, not that of the gate's last exit. */
	shared->gate = plain_gate(&sc, tell_time, NULL);
	ASSERT_EQUAL(live_create(&st, &sc, call_with_argument, shared), 0);
	sleep(2);

	time_t before = time(NULL);
	uint64_t calls = direct_calls(shared->gate);

	finish(st);
	ASSERT_EQUAL(direct_calls(shared->gate), calls + 1);
	live_check((time_t)shared->result >= before && (time_t)shared->result <= time(NULL), __FILE__, __LINE__,
		   "the gate's time is now (%ld)", (long)((time_t)shared->result - before));
}

static void *call_with_bad_result(void *argument)
{
	static void *const read_only = NULL;
	struct shared *shared = argument;
	void *const bad[] = { (void *)8, (void *)0x800000000000, (void *)-8, (void *)(uintptr_t)&read_only,
			      shared->secret };

	for (int i = 0; i < WARM; i++)
		if (cgate_call(shared->gate, NULL, NULL) != 0)
			return (void *)(intptr_t)-errno;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		if (cgate_call(shared->gate, NULL, bad[i]) != -1 || errno != EFAULT)
			return (void *)(uintptr_t)(100 + i);
	return (void *)1;
}

static void bad_results(void)
{
	sc_t sc;

	NEEDS_NATIVE();

	struct shared *shared = share(&sc);

	shared->secret = smalloc(tag_new(), 8);
	shared->gate = plain_gate(&sc, mix, NULL);
	ASSERT_RETURNED(live_run(&sc, call_with_bad_result, shared), 1);
	live_check(direct_calls(shared->gate) >= WARM / 2, __FILE__, __LINE__, "ring 0 makes calls");
}

static void *call_seven_times(void *argument)
{
	struct shared *shared = argument;

	for (int i = 0; i < 7; i++, shared->calls++)
		if (cgate_call(shared->gate, NULL, NULL) != 0)
			return NULL;
	return (void *)1;
}

static void counted_calls(void)
{
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	shared->gate = plain_gate(&sc, mix, NULL);
	sc_call_budget(&sc, 7);
	ASSERT_RETURNED(live_run(&sc, call_seven_times, shared), 1);
	shared->calls = 0;
	sc_call_budget(&sc, 5);
	ASSERT_END(live_run(&sc, call_seven_times, shared), STHREAD_OUT_OF_CALLS);
	ASSERT_EQUAL(shared->calls, 5);
}

/* ---- calls that end otherwise ------------------------------------------------------------------------------------ */

static int pipe_ends[2];

enum {
	IT_FAULTS = 1,
	IT_EXITS,
	IT_PARKS,
	IT_SPINS,
	IT_BLOCKS
};

static void *misbehave(void *argument, void *trusted)
{
	struct shared *shared = trusted;
	static uintptr_t calls;
	char byte = 0;

	calls++;
	switch ((uintptr_t)argument) {
	case IT_FAULTS:
		body_write(shared->secret); /* address 8 */
		break;
	case IT_EXITS:
		_exit(3);
	case IT_PARKS:
		return (void *)(uintptr_t)(sthread_park() == -1 && errno == EPERM ? 77 : 0);
	case IT_SPINS:
		shared->stage++;
		body_spin(NULL);
		break;
	case IT_BLOCKS:
		shared->stage++;
		if (read(3, &byte, 1) != 1)
			return NULL;
		return (void *)(uintptr_t)byte;
	}
	return (void *)calls;
}

static cgate_t misbehaving_gate(sc_t *sc, struct shared **shared)
{
	sc_t gate_sc;

	*shared = share(&gate_sc);
	*sc = gate_sc;
	ASSERT_EQUAL(pipe(pipe_ends), 0);
	ASSERT_EQUAL(dup2(pipe_ends[0], 3) == 3 || pipe_ends[0] == 3, 1);
	ASSERT_EQUAL(sc_fd_add(&gate_sc, 3, PROT_READ), 0);
	sc_cpu_budget(&gate_sc, 50);

	cgate_t gate = cgate_create(misbehave, &gate_sc, *shared);

	CU_ASSERT_FATAL(gate >= 0);
	ASSERT_EQUAL(sc_cgate_add(sc, gate), 0);
	(*shared)->gate = gate;
	(*shared)->secret = (uint8_t *)8;
	return gate;
}

/* One warmed call with this argument, which ring 0 must have begun. */
static void misbehave_once(const sc_t *sc, struct shared *shared, uint64_t argument)
{
	sthread_t st;

	shared->argument = argument;
	ASSERT_EQUAL(live_create(&st, sc, call_with_argument, shared), 0);

	uint64_t calls = direct_calls(shared->gate);

	finish(st);
	ASSERT_EQUAL(direct_calls(shared->gate), calls + 1);
}

static void ends_of_calls(void)
{
	struct shared *shared;
	struct cgate_info info;
	sc_t sc;
	void *result;

	NEEDS_NATIVE();

	cgate_t gate = misbehaving_gate(&sc, &shared);

	for (int round = 0; round < 2; round++) {
		misbehave_once(&sc, shared, IT_FAULTS);
		ASSERT_EQUAL(shared->error, ECANCELED);
		ASSERT_EQUAL(cgate_get_info(gate, &info), 0);
		ASSERT_EQUAL(info.last_failure.vector, PAGE_FAULT);
		ASSERT_EQUAL(info.last_failure.address, 8);
		ASSERT_EQUAL(cgate_call(gate, NULL, &result), 0);
		ASSERT_EQUAL(result, 1); /* pristine */
		misbehave_once(&sc, shared, IT_EXITS);
		ASSERT_EQUAL(shared->error, ECANCELED);
		misbehave_once(&sc, shared, IT_PARKS);
		ASSERT_EQUAL(shared->error, 0);
		ASSERT_EQUAL(shared->result, 77);
		misbehave_once(&sc, shared, IT_SPINS);
		ASSERT_EQUAL(shared->error, ETIMEDOUT);
		ASSERT_EQUAL(write(pipe_ends[1], "x", 1), 1);
		misbehave_once(&sc, shared, IT_BLOCKS);
		ASSERT_EQUAL(shared->error, 0);
		ASSERT_EQUAL(shared->result, 'x');
	}
	ASSERT_EQUAL(cgate_get_info(gate, &info), 0);
	ASSERT_EQUAL(info.failures, 6);
	ASSERT_EQUAL(info.busy, 0);
	ASSERT_EQUAL(cgate_destroy(gate), 0);
}

static void *step_and_join(void *st)
{
	static struct life life;

	ASSERT_EQUAL(sthread_step(*(sthread_t *)st), 0);
	life = live_join(*(sthread_t *)st);
	return &life;
}

/* Bounded by the test's own time limit. */
#define AWAIT(condition)      \
	do                    \
		usleep(1000); \
	while (!(condition))

static void killed(void)
{
	struct shared *shared;
	pthread_t thread;
	sthread_t st;
	void *life;
	sc_t sc;

	NEEDS_NATIVE();

	cgate_t gate = misbehaving_gate(&sc, &shared);

	for (uint64_t how = IT_SPINS; how <= IT_BLOCKS; how++) {
		shared->argument = how;
		shared->stage = 0;
		ASSERT_EQUAL(live_create(&st, &sc, call_with_argument, shared), 0);
		ASSERT_EQUAL(pthread_create(&thread, NULL, step_and_join, &st), 0);
		AWAIT(shared->stage);
		ASSERT_ERROR(cgate_destroy(gate) == -1, EBUSY);
		ASSERT_EQUAL(sthread_kill(st), 0);
		pthread_join(thread, &life);
		ASSERT_END(*(struct life *)life, STHREAD_KILLED);
	}
	ASSERT_EQUAL(cgate_call(gate, NULL, &life), 0);
	ASSERT_EQUAL(life, 1);
}

static void *call_for_ever(void *argument)
{
	struct shared *shared = argument;

	for (;;)
		if (cgate_call(shared->gate, NULL, NULL) != 0)
			return NULL;
}

static void *ask_for_ever(void *unused)
{
	for (;;)
		__asm__ volatile("syscall" ::"a"(SYS_getpid) : "rcx", "r11", "memory");
	return unused;
}

/* Every kick comes while ring 0 or the gate is at work, or might. */
static void stopped(void)
{
	enum sthread_state state;
	sthread_t st;
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	shared->gate = plain_gate(&sc, mix, NULL);
	ASSERT_EQUAL(sthread_create(&st, &sc, call_for_ever, shared), 0);
	for (int i = 0; i < 20; i++) {
		ASSERT_EQUAL(sthread_state(st, &state), 0);
		ASSERT_EQUAL(state, STHREAD_RUNNABLE);
		ASSERT_EQUAL(sthread_step(st), 0);
	}
	ASSERT_EQUAL(sthread_kill(st), 0);
	ASSERT_END(live_join(st), STHREAD_KILLED);
	sc_cpu_budget(&sc, 60);
	for (int i = 0; i < 5; i++) {
		ASSERT_END(live_run(&sc, call_for_ever, shared), STHREAD_OUT_OF_CPU);
		ASSERT_END(live_run(&sc, ask_for_ever, NULL), STHREAD_OUT_OF_CPU);
	}
	ASSERT_EQUAL(cgate_call(shared->gate, NULL, NULL), 0);
}

/* ---- other threads ----------------------------------------------------------------------------------------------- */

static void *watch_tag(void *argument, void *trusted)
{
	struct shared *shared = trusted;

	if (argument)
		for (shared->stage = 1;; shared->sum++)
			(void)*(volatile uint8_t *)argument;
	return NULL;
}

static void revoked(void)
{
	struct shared *shared;
	pthread_t thread;
	sthread_t st;
	void *life;
	sc_t sc, gate_sc;

	NEEDS_NATIVE();
	shared = share(&gate_sc);
	sc = gate_sc;

	tag_t tag = tag_new();
	uint8_t *watched = smalloc(tag, 8);

	ASSERT_EQUAL(sc_mem_add(&gate_sc, tag, PROT_READ), 0);
	sc_cpu_budget(&gate_sc, 20000 * harness_time_scale());

	cgate_t gate = shared->gate = cgate_create(watch_tag, &gate_sc, shared);

	ASSERT_EQUAL(sc_cgate_add(&sc, gate), 0);
	shared->argument = (uint64_t)watched;
	ASSERT_EQUAL(live_create(&st, &sc, call_with_argument, shared), 0);

	uint64_t calls = direct_calls(gate);

	ASSERT_EQUAL(pthread_create(&thread, NULL, step_and_join, &st), 0);
	AWAIT(shared->stage);
	ASSERT_EQUAL(direct_calls(gate), calls + 1);
	ASSERT_EQUAL(tag_delete(tag), 0);

	uint64_t sum = *(volatile uint64_t *)&shared->sum;

	pthread_join(thread, &life);
	ASSERT_EQUAL(shared->sum, sum);
	ASSERT_RETURNED(*(struct life *)life, 1);
	ASSERT_EQUAL(shared->error, ECANCELED);
}

static sc_t contender;

static void *call_often(void *argument)
{
	struct shared *shared = argument;
	uintptr_t last = 0;

	for (unsigned i = 0; i < shared->calls; i++) {
		void *result;

		if (cgate_call(shared->gate, NULL, &result) != 0 || (uintptr_t)result <= last)
			return (void *)(intptr_t)-errno;
		last = (uintptr_t)result;
	}
	return (void *)1;
}

static void *contend(void *shared)
{
	return live_run(&contender, call_often, shared).value;
}

static void contention(void)
{
	enum {
		THREADS = 3
	};
	pthread_t threads[THREADS];
	sc_t none;
	void *result;

	NEEDS_NATIVE();

	struct shared *shared = share(&contender);

	shared->gate = plain_gate(&contender, mix, NULL);
	shared->calls = 1000;
	for (int i = 0; i < THREADS; i++)
		ASSERT_EQUAL(pthread_create(&threads[i], NULL, contend, shared), 0);
	/* Deleting other gates, creating them and calling this one from here disturbs nobody. */
	sc_init(&none);
	for (int i = 0; i < 50; i++) {
		cgate_t other = cgate_create(mix, &none, NULL);

		ASSERT_EQUAL(cgate_call(other, NULL, NULL), 0);
		ASSERT_EQUAL(cgate_call(shared->gate, NULL, NULL), 0);
		ASSERT_EQUAL(cgate_destroy(other), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &result);
		ASSERT_EQUAL(result, 1);
	}
	ASSERT_EQUAL(cgate_call(shared->gate, NULL, &result), 0);
	ASSERT_EQUAL(result, THREADS * 1000 + 50 + 1);
	harness_note("%lu of %d calls are made by ring 0", (unsigned long)direct_calls(shared->gate), THREADS * 1000);
}

static const struct harness_test tests[] = {
	{ "warmed calls make no exit", no_exit, HARNESS_FORK },
	{ "calls that are not made by ring 0 are seen to exit twice", exits_are_seen, HARNESS_FORK },
	{ "a call and its return are few instructions of ring 0, and keep what is cached where there are tags",
	  few_instructions, HARNESS_FORK },
	{ "ten thousand calls give the right results, and are counted", right_results, HARNESS_FORK },
	{ "a gate keeps its own identity, and knows the time", own_identity, HARNESS_FORK },
	{ "a result that cannot be stored is EFAULT", bad_results, HARNESS_FORK },
	{ "a budget of calls counts gate calls on every host", counted_calls, HARNESS_FORK },
	{ "a gate that faults, exits, parks, spins or blocks does so as in any call", ends_of_calls, HARNESS_FORK },
	{ "an sthread is killed inside a gate", killed, HARNESS_FORK },
	{ "an sthread that only makes calls of ring 0 is sliced and held to its budget", stopped, HARNESS_FORK },
	{ "a deleted tag is gone for a gate that is running", revoked, HARNESS_FORK },
	{ "callers on several host threads take turns", contention, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
