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

	uint64_t total = dune_exits_total();

	memset(&seen, 0, sizeof(seen));
	ASSERT_EQUAL(live_step(*st), 0);
	total = dune_exits_total() - total;
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
	ASSERT_EQUAL(exits, seen.services + seen.kicks);
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
	finish(st);
}

static const struct harness_test tests[] = {
	{ "warmed calls make no exit", no_exit, HARNESS_FORK },
	{ "calls that are not made by ring 0 are seen to exit twice", exits_are_seen, HARNESS_FORK },
	{ "a call and its return are few instructions of ring 0", few_instructions, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
