/* dune_linux.c - the peers of dune-bench: system calls, faults, traps, interception and switches as Linux offers them. */
#include "dune_bench.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	ANSWER = 4711 /* of an intercepted getpid() */
};

static void *shared_page(void)
{
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		measure_fail("no memory");
	return page;
}

/* Both processes on one processor: a switch is one of address spaces, and no other processor is woken. */
static void stay_on_this_processor(void)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof one, &one);
}

/* ---- traps and faults ------------------------------------------------------------------------------ */

static void handle_trap(int number)
{
	(void)number;
}

static void run_traps(void *argument)
{
	(void)argument;
	for (unsigned i = 0; i < dune_bench.calls; i++)
		__asm__ volatile("int3");
}

static struct {
	uint8_t *memory;
	uint8_t *volatile open; /* appel1: the page that is not protected; NULL: appel2 */
	volatile unsigned faults;
} appel;

static void handle_fault(int number, siginfo_t *info, void *context)
{
	uint8_t *page = (uint8_t *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE_BYTES - 1));
	(void)context;
	if (page < appel.memory || page >= appel.memory + (size_t)APPEL_PAGES * PAGE_BYTES) {
		signal(number, SIG_DFL);
		return;
	}
	appel.faults++;
	if (appel.open) {
		mprotect(appel.open, PAGE_BYTES, PROT_READ);
		appel.open = page;
	}
	mprotect(page, PAGE_BYTES, PROT_READ | PROT_WRITE);
}

static void touch_appel_pages(void)
{
	appel.faults = 0;
	for (unsigned i = 0; i < APPEL_PAGES; i++)
		*(volatile uint8_t *)(appel.memory + (size_t)dune_bench_appel_page(i) * PAGE_BYTES) = 1;
	if (appel.faults != APPEL_PAGES)
		measure_fail("%u faults instead of %d", appel.faults, APPEL_PAGES);
}

static void run_appel1(void *argument)
{
	(void)argument;
	touch_appel_pages();
}

static void run_appel2(void *argument)
{
	(void)argument;
	mprotect(appel.memory, (size_t)APPEL_PAGES * PAGE_BYTES, PROT_READ);
	touch_appel_pages();
}

static void prepare_appel(void *argument)
{
	appel.memory = mmap(NULL, (size_t)APPEL_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
	if (appel.memory == MAP_FAILED)
		measure_fail("no memory");
	memset(appel.memory, 1, (size_t)APPEL_PAGES * PAGE_BYTES);
	mprotect(appel.memory, (size_t)APPEL_PAGES * PAGE_BYTES, PROT_READ);
	appel.open = NULL;
	if (argument) {
		appel.open = appel.memory + (size_t)dune_bench_appel_page(APPEL_PAGES - 1) * PAGE_BYTES;
		mprotect(appel.open, PAGE_BYTES, PROT_READ | PROT_WRITE);
	}
}

void group_linux_process(struct measurement *measurement, void *argument)
{
	struct untouched near = { .stride = PAGE_BYTES }, far = { .stride = HUGE_BYTES };
	const struct operation operations[] = {
		{ &dune_rungs[GETPID], dune_bench_getpid, .inner = dune_bench.calls, .warm = 1 },
		{ &dune_rungs[FAULT], dune_bench_untouched_run, &near, .inner = FAULT_PAGES, .warm = 1,
		  .between = dune_bench_untouched_new },
		{ &dune_rungs[FAULT_FAR], dune_bench_untouched_run, &far, .inner = FAULT_PAGES, .warm = 1,
		  .between = dune_bench_untouched_new },
		{ &dune_rungs[TRAP_SIGNAL], run_traps, .inner = dune_bench.calls, .warm = 1 },
	};
	const struct operation one = { &dune_rungs[APPEL1_SIGNAL], run_appel1, .inner = APPEL_PAGES, .warm = 1 };
	const struct operation two = { &dune_rungs[APPEL2_SIGNAL], run_appel2, .inner = APPEL_PAGES, .warm = 1 };
	const struct sigaction fault = { .sa_sigaction = handle_fault, .sa_flags = SA_SIGINFO };
	(void)argument;
	signal(SIGTRAP, handle_trap);
	sigaction(SIGSEGV, &fault, NULL);
	dune_bench_untouched_new(&near);
	dune_bench_untouched_new(&far);
	dune_bench_run(measurement, operations, sizeof operations / sizeof *operations);
	prepare_appel(&appel);
	dune_bench_run(measurement, &one, 1);
	prepare_appel(NULL);
	dune_bench_run(measurement, &two, 1);
}

void group_linux_walks(struct measurement *measurement, void *argument)
{
	struct walk small, large;
	const struct operation operations[] = {
		{ &dune_rungs[WALK_SMALL], dune_bench_walk_run, &small, .inner = WALK_STEPS, .warm = 1 },
		{ &dune_rungs[WALK_LARGE], dune_bench_walk_run, &large, .inner = WALK_STEPS, .warm = 1 },
	};
	(void)argument;
	dune_bench_walk_new(&small, false);
	dune_bench_walk_new(&large, true);
	dune_bench_run(measurement, operations, sizeof operations / sizeof *operations);
}

/* ---- intercepted system calls ---------------------------------------------------------------------- */

static _Noreturn void call_for_ever(void)
{
	for (;;)
		if (syscall(SYS_getpid) != ANSWER)
			_exit(2);
}

static pid_t start_traced(void)
{
	int status;
	pid_t child = fork();
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		call_for_ever();
	}
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status) ||
	    ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) != 0)
		measure_fail("no traced child: %s", strerror(errno));
	return child;
}

static void next_stop(int request, pid_t child)
{
	int status;
	if (ptrace(request, child, 0, 0) != 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status) ||
	    WSTOPSIG(status) != (SIGTRAP | 0x80))
		measure_fail("a traced child ended");
}

/* Reads the registers, to see which call it is, and sets the result. */
static void answer_traced(pid_t child)
{
	struct user_regs_struct regs;
	ptrace(PTRACE_GETREGS, child, 0, &regs);
	if (regs.orig_rax != SYS_getpid)
		measure_fail("a traced child made call %lld", (long long)regs.orig_rax);
	regs.rax = ANSWER;
	ptrace(PTRACE_SETREGS, child, 0, &regs);
}

static void run_ptrace(void *argument)
{
	const pid_t *child = argument;
	for (unsigned i = 0; i < dune_bench.calls; i++) {
		next_stop(PTRACE_SYSCALL, *child);
		next_stop(PTRACE_SYSCALL, *child);
		answer_traced(*child);
	}
}

static void run_sysemu(void *argument)
{
	const pid_t *child = argument;
	for (unsigned i = 0; i < dune_bench.calls; i++) {
		next_stop(PTRACE_SYSEMU, *child);
		answer_traced(*child);
	}
}

/* A child whose getpid() asks this process, which has the descriptor because both have one table of descriptors. */
static int start_notifying(void)
{
	static const struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	_Atomic int *listener = shared_page();
	*listener = -1;
	if (syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0) == 0) {
		const struct sock_fprog program = { sizeof filter / sizeof *filter, (struct sock_filter *)filter };
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		long got = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
		*listener = got < 0 ? -2 : (int)got;
		if (got < 0)
			_exit(2);
		call_for_ever();
	}
	while (*listener == -1)
		sched_yield();
	if (*listener < 0)
		measure_fail("the kernel has no seccomp notification");
#ifdef SECCOMP_IOCTL_NOTIF_SET_FLAGS
	/* Does without waking another processor; kernels before 6.6 do not know it. */
	ioctl(*listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
#endif
	return *listener;
}

static void run_notify(void *argument)
{
	const int *listener = argument;
	for (unsigned i = 0; i < dune_bench.calls; i++) {
		struct seccomp_notif request = { 0 };
		if (ioctl(*listener, SECCOMP_IOCTL_NOTIF_RECV, &request) != 0 || request.data.nr != SYS_getpid)
			measure_fail("no notification: %s", strerror(errno));
		struct seccomp_notif_resp response = { .id = request.id, .val = ANSWER };
		if (ioctl(*listener, SECCOMP_IOCTL_NOTIF_SEND, &response) != 0)
			measure_fail("no answer to a notification: %s", strerror(errno));
	}
}

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON 1
#endif
static volatile char dispatch_selector;

static void handle_dispatched(int number, siginfo_t *info, void *context)
{
	ucontext_t *interrupted = context;
	(void)number, (void)info;
	dispatch_selector = 0;
	interrupted->uc_mcontext.gregs[REG_RAX] = ANSWER;
}

static void run_dispatch(void *argument)
{
	(void)argument;
	for (unsigned i = 0; i < dune_bench.calls; i++) {
		dispatch_selector = 1;
		if (syscall(SYS_getpid) != ANSWER)
			measure_fail("a call was not dispatched");
	}
}

void group_linux_calls(struct measurement *measurement, void *argument)
{
	const struct sigaction dispatched = { .sa_sigaction = handle_dispatched, .sa_flags = SA_SIGINFO };
	(void)argument;
	stay_on_this_processor();
	pid_t child = start_traced(), emulated = start_traced();
	int listener = start_notifying();
	const struct operation operations[] = {
		{ &dune_rungs[CALL_PTRACE], run_ptrace, &child, .inner = dune_bench.calls, .warm = 1 },
		{ &dune_rungs[CALL_SYSEMU], run_sysemu, &emulated, .inner = dune_bench.calls, .warm = 1 },
		{ &dune_rungs[CALL_NOTIFY], run_notify, &listener, .inner = dune_bench.calls, .warm = 1 },
	};
	dune_bench_run(measurement, operations, sizeof operations / sizeof *operations);
	kill(child, SIGKILL);
	kill(emulated, SIGKILL);
	close(listener);
	const struct operation dispatch = { &dune_rungs[CALL_DISPATCH], run_dispatch, .inner = dune_bench.calls,
					    .warm = 1 };
	sigaction(SIGSYS, &dispatched, NULL);
	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &dispatch_selector) != 0)
		measure_fail("the kernel has no dispatch of system calls to the process");
	dune_bench_run(measurement, &dispatch, 1);
}

/* ---- switches of address spaces -------------------------------------------------------------------- */

struct switching {
	unsigned pages;
	uint8_t *memory;
	int to_child[2], to_parent[2];
	_Atomic uint32_t *turn; /* NULL: by pipes */
};

static void touch(const struct switching *switching)
{
	for (unsigned i = 0; i < switching->pages; i++)
		++*(volatile uint8_t *)(switching->memory + (size_t)i * PAGE_BYTES);
}

static void futex_to(_Atomic uint32_t *turn, uint32_t whose)
{
	*turn = whose;
	syscall(SYS_futex, turn, FUTEX_WAKE, 1, NULL, NULL, 0);
	while (*turn == whose)
		syscall(SYS_futex, turn, FUTEX_WAIT, whose, NULL, NULL, 0);
}

static void pipe_to(int to, int from)
{
	char byte = 0;
	if (write(to, &byte, 1) != 1 || read(from, &byte, 1) != 1)
		_exit(2);
}

static _Noreturn void be_the_other(const struct switching *switching)
{
	char byte;
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (switching->turn) {
		while (*switching->turn == 0)
			syscall(SYS_futex, switching->turn, FUTEX_WAIT, 0, NULL, NULL, 0);
		for (;;) {
			touch(switching);
			futex_to(switching->turn, 0);
		}
	}
	if (read(switching->to_child[0], &byte, 1) != 1)
		_exit(2);
	for (;;) {
		touch(switching);
		pipe_to(switching->to_parent[1], switching->to_child[0]);
	}
}

static void start_switching(struct switching *switching, bool futex)
{
	size_t size = (size_t)switching->pages * PAGE_BYTES;
	switching->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (switching->memory == MAP_FAILED || pipe(switching->to_child) != 0 || pipe(switching->to_parent) != 0)
		measure_fail("%s", strerror(errno));
	madvise(switching->memory, size, MADV_NOHUGEPAGE);
	switching->turn = futex ? shared_page() : NULL;
	pid_t child = fork();
	if (child < 0)
		measure_fail("no child: %s", strerror(errno));
	if (child == 0)
		be_the_other(switching);
}

static void run_switches(void *argument)
{
	const struct switching *switching = argument;
	for (unsigned i = 0; i < dune_bench.switches; i++) {
		touch(switching);
		if (switching->turn)
			futex_to(switching->turn, 1);
		else
			pipe_to(switching->to_child[1], switching->to_parent[0]);
	}
}

void group_linux_switches(struct measurement *measurement, void *argument)
{
	static const unsigned pages[] = { 1, 30, 300 };
	struct switching switching[6];
	struct operation operations[6];
	(void)argument;
	stay_on_this_processor();
	for (unsigned i = 0; i < 6; i++) {
		switching[i].pages = pages[i % 3];
		start_switching(&switching[i], i >= 3);
		operations[i] = (struct operation){ &dune_rungs[SWITCH_PIPE_1 + i], run_switches, &switching[i],
						    .inner = 2 * dune_bench.switches, .warm = 1 };
	}
	dune_bench_run(measurement, operations, 6);
}
