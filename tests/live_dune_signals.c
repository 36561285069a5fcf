/*
 * live_dune_signals.c - Linux signals that reach a thread in ring 0 of the guest: handlers, what they are told, what they may
 * change, masks, flags, and that leaving and entering change nothing.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "dune_both.h"

static volatile sig_atomic_t count, order[64], handled_in_guest;
static siginfo_t last;
static sigset_t during;

static void set(int number, void (*handler)(int, siginfo_t *, void *), int flags, int also)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	sigemptyset(&action.sa_mask);
	if (also)
		sigaddset(&action.sa_mask, also);
	ASSERT_EQUAL(sigaction(number, &action, NULL), 0);
}

static void block(int how, int number)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, number);
	ASSERT_EQUAL(pthread_sigmask(how, &signals, NULL), 0);
}

static bool is_blocked(int number)
{
	sigset_t now;

	pthread_sigmask(SIG_BLOCK, NULL, &now);
	return sigismember(&now, number);
}

static void note(int number, siginfo_t *info, void *context)
{
	(void)context;
	order[count++ % 64] = number;
	handled_in_guest = dune_in_guest();
	last = *info;
	pthread_sigmask(SIG_BLOCK, NULL, &during);
	errno = ENOTTY;
}

static void begin(void)
{
	count = 0;
	memset((void *)order, 0, sizeof order);
}

/* ---- what handlers are told ------------------------------------------------------------------------ */

static void siginfo_body(void)
{
	union sigval value = { .sival_int = 4711 };

	begin();
	set(SIGUSR1, note, 0, 0);
	set(SIGRTMIN + 3, note, 0, 0);
	errno = EDOM;
	ASSERT_EQUAL(kill(getpid(), SIGUSR1), 0);
	ASSERT_EQUAL(errno, ENOTTY);
	ASSERT_EQUAL(count, 1);
	ASSERT_EQUAL(handled_in_guest, dune_in_guest());
	ASSERT_EQUAL(last.si_signo, SIGUSR1);
	ASSERT_EQUAL(last.si_code, SI_USER);
	ASSERT_EQUAL(last.si_pid, getpid());
	ASSERT_EQUAL(last.si_uid, getuid());
	ASSERT_EQUAL(raise(SIGUSR1), 0);
	ASSERT_EQUAL(last.si_code, SI_TKILL);
	ASSERT_EQUAL(sigqueue(getpid(), SIGRTMIN + 3, value), 0);
	ASSERT_EQUAL(last.si_code, SI_QUEUE);
	ASSERT_EQUAL(last.si_value.sival_int, 4711);
	ASSERT_EQUAL(count, 3);
}

static void siginfo_is_right(void)
{
	BOTH(siginfo_body);
}

static void queue_body(void)
{
	begin();
	for (int i = 0; i < 3; i++) {
		set(SIGRTMIN + i, note, 0, 0);
		block(SIG_BLOCK, SIGRTMIN + i);
	}
	for (int i = 0; i < 12; i++)
		ASSERT_EQUAL(sigqueue(getpid(), SIGRTMIN + i % 3, (union sigval){ .sival_int = i }), 0);
	ASSERT_EQUAL(count, 0);
	for (int i = 0; i < 3; i++) {
		block(SIG_UNBLOCK, SIGRTMIN + i);
		ASSERT_EQUAL(count, 4 * (i + 1));
		ASSERT_EQUAL(order[4 * i + 3], SIGRTMIN + i);
		ASSERT_EQUAL(last.si_value.sival_int, 9 + i); /* in the order in which they were sent */
	}
	/* Several at once: the kernel lets the last one begin first. */
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (int i = 0; i < 3; i++)
		raise(SIGRTMIN + i);
	sigprocmask(SIG_UNBLOCK, &all, NULL);
	ASSERT_EQUAL(count, 15);
	for (int i = 0; i < 3; i++)
		ASSERT_EQUAL(order[12 + i], SIGRTMIN + 2 - i);
}

static void queued_signals_come_in_order(void)
{
	BOTH(queue_body);
}

/* ---- what handlers change --------------------------------------------------------------------------- */

static void change(int number, siginfo_t *info, void *context)
{
	ucontext_t *c = context;

	(void)info;
	count++;
	if (number == SIGILL) { /* UD2 with RBX = 1, R12 = 2 */
		c->uc_mcontext.gregs[REG_RIP] += 2;
		order[0] = (int)c->uc_mcontext.gregs[REG_RBX];
		order[1] = (int)c->uc_mcontext.gregs[REG_R12];
		c->uc_mcontext.gregs[REG_RBX] = 0x1111222233334444;
		c->uc_mcontext.gregs[REG_R15] = 77;
		c->uc_mcontext.gregs[REG_EFL] |= 0x400 | 1; /* DF, CF */
		memset(c->uc_mcontext.fpregs->_xmm[3].element, 0x5a, 16);
	} else {
		sigaddset(&c->uc_sigmask, SIGUSR2);
	}
}

static void context_body(void)
{
	static uint64_t rbx, r15, flags, xmm[2]; /* not on the stack, which the code moves */

	begin();
	rbx = 1;
	set(SIGILL, change, 0, 0);
	set(SIGUSR1, change, 0, 0);
	__asm__ volatile(
		"lea -128(%%rsp), %%rsp; mov $2, %%r12; mov %[rbx], %%rbx; xor %%r15, %%r15; pxor %%xmm3, %%xmm3; "
		"cld; ud2; mov %%rbx, %[rbx]; mov %%r15, %[r15]; movdqu %%xmm3, %[xmm]; pushf; cld; "
		"pop %[flags]; lea 128(%%rsp), %%rsp"
		: [rbx] "+m"(rbx), [r15] "=m"(r15), [flags] "=m"(flags), [xmm] "=m"(xmm)
		:
		: "rbx", "r12", "r15", "xmm3", "cc", "memory");
	ASSERT_EQUAL(count, 1);
	ASSERT_EQUAL(order[0], 1);
	ASSERT_EQUAL(order[1], 2);
	ASSERT_EQUAL(rbx, 0x1111222233334444);
	ASSERT_EQUAL(r15, 77);
	ASSERT_EQUAL(flags & 0x401, 0x401);
	ASSERT_EQUAL(xmm[0], 0x5a5a5a5a5a5a5a5a);
	ASSERT_EQUAL(xmm[1], 0x5a5a5a5a5a5a5a5a);
	raise(SIGUSR1);
	ASSERT_EQUAL(is_blocked(SIGUSR2), 1);
	ASSERT_EQUAL(is_blocked(SIGUSR1), 0);
}

static void context_counts(void)
{
	BOTH(context_body);
}

/* ---- masks and flags --------------------------------------------------------------------------------- */

static volatile int depth, deepest;

static void nest(int number, siginfo_t *info, void *context)
{
	(void)info, (void)context;
	if (++depth > deepest)
		deepest = depth;
	if (count++ < 3)
		raise(number);
	depth--;
}

static void mask_body(void)
{
	begin();
	set(SIGUSR1, note, 0, SIGHUP);
	block(SIG_BLOCK, SIGTERM);
	raise(SIGUSR1);
	ASSERT_EQUAL(sigismember(&during, SIGUSR1), 1);
	ASSERT_EQUAL(sigismember(&during, SIGHUP), 1);
	ASSERT_EQUAL(sigismember(&during, SIGTERM), 1);
	ASSERT_EQUAL(sigismember(&during, SIGUSR2), 0);
	CU_ASSERT(!is_blocked(SIGUSR1) && !is_blocked(SIGHUP));
	ASSERT_EQUAL(is_blocked(SIGTERM), 1);
	set(SIGUSR1, note, SA_NODEFER, 0);
	raise(SIGUSR1);
	ASSERT_EQUAL(sigismember(&during, SIGUSR1), 0);
	/* One after the other, or within each other. */
	for (int i = 0; i < 2; i++) {
		int flags = i ? SA_NODEFER : 0;

		count = depth = deepest = 0;
		set(SIGUSR2, nest, flags, 0);
		raise(SIGUSR2);
		ASSERT_EQUAL(count, 4);
		ASSERT_EQUAL(deepest, flags ? 4 : 1);
	}
}

static void masks_are_right(void)
{
	BOTH(mask_body);
}

static void disposition_body(void)
{
	struct sigaction was;

	begin();
	set(SIGUSR1, note, SA_RESTART | SA_ONSTACK, SIGHUP);
	ASSERT_EQUAL(sigaction(SIGUSR1, NULL, &was), 0);
	ASSERT_EQUAL(was.sa_sigaction == note, 1);
	ASSERT_EQUAL(was.sa_flags & ~0x04000000, SA_SIGINFO | SA_RESTART | SA_ONSTACK);
	ASSERT_EQUAL(sigismember(&was.sa_mask, SIGHUP), 1);
	ASSERT_EQUAL(sigismember(&was.sa_mask, SIGUSR2), 0);
	ASSERT_EQUAL(sigaction(SIGSEGV, NULL, &was), 0);
	ASSERT_EQUAL(was.sa_handler == SIG_DFL, 1);
	/* Once; then the default, which for this one is nothing. */
	set(SIGCHLD, note, SA_RESETHAND, 0);
	raise(SIGCHLD);
	raise(SIGCHLD);
	ASSERT_EQUAL(count, 1);
	ASSERT_EQUAL(sigaction(SIGCHLD, NULL, &was), 0);
	ASSERT_EQUAL(was.sa_handler == SIG_DFL, 1);
	signal(SIGUSR2, SIG_IGN);
	raise(SIGUSR2);
	raise(SIGWINCH);
	ASSERT_EQUAL(sigaction(SIGUSR2, NULL, &was), 0);
	ASSERT_EQUAL(was.sa_handler == SIG_IGN, 1);
	/* A signal that is pending while it becomes ignored is gone. */
	begin();
	block(SIG_BLOCK, SIGUSR1);
	raise(SIGUSR1);
	signal(SIGUSR1, SIG_IGN);
	set(SIGUSR1, note, 0, 0);
	block(SIG_UNBLOCK, SIGUSR1);
	ASSERT_EQUAL(count, 0);
	errno = 0;
	ASSERT_EQUAL(syscall(SYS_rt_sigaction, SIGUSR1, 8, NULL, 8), -1);
	ASSERT_EQUAL(errno, EFAULT);
	ASSERT_EQUAL(syscall(SYS_rt_sigaction, SIGUSR1, NULL, 8, 8), -1);
	ASSERT_EQUAL(errno, EFAULT);
	ASSERT_EQUAL(syscall(SYS_rt_sigaction, SIGKILL, &was, NULL, 8), -1);
	ASSERT_EQUAL(errno, EINVAL);
	ASSERT_EQUAL(syscall(SYS_rt_sigprocmask, SIG_SETMASK, 8, NULL, 8), -1);
	ASSERT_EQUAL(errno, EFAULT);
}

static void dispositions_are_what_was_set(void)
{
	BOTH(disposition_body);
}

static sigjmp_buf back;

static void jump(int number, siginfo_t *info, void *context)
{
	(void)info, (void)context;
	count++;
	siglongjmp(back, number);
}

static void jump_body(void)
{
	begin();
	set(SIGUSR1, jump, 0, SIGUSR2);
	for (volatile int i = 0; i < 100; i++) {
		int number = sigsetjmp(back, 1);

		if (number == 0) {
			raise(SIGUSR1);
			ASSERT_EQUAL(1, 0);
		}
		ASSERT_EQUAL(number, SIGUSR1);
		CU_ASSERT(!is_blocked(SIGUSR1) && !is_blocked(SIGUSR2));
	}
	ASSERT_EQUAL(count, 100);
}

static void handlers_may_be_left_by_siglongjmp(void)
{
	BOTH(jump_body);
}

/* ---- the alternate stack ------------------------------------------------------------------------------ */

static uint8_t alternate[64 << 10], small[6144];
static stack_t seen;

static bool within(const volatile void *address, const void *memory, size_t size)
{
	return (uintptr_t)address - (uintptr_t)memory < size;
}

static void look(int number, siginfo_t *info, void *context)
{
	volatile char here;

	(void)info, (void)context;
	order[count++ % 64] = within(&here, alternate, sizeof alternate) ? 1 :
			      within(&here, small, sizeof small)         ? 2 :
									   3;
	if (number == SIGUSR1) {
		sigaltstack(NULL, &seen);
		errno = 0;
		order[60] = sigaltstack(&(stack_t){ .ss_sp = small, .ss_size = sizeof small }, NULL);
		order[61] = errno;
		raise(SIGUSR2);
	}
}

static void alternate_body(void)
{
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate }, now;

	begin();
	set(SIGUSR1, look, SA_ONSTACK, 0);
	set(SIGUSR2, look, SA_ONSTACK, 0);
	set(SIGHUP, look, 0, 0);
	ASSERT_EQUAL(sigaltstack(&stack, NULL), 0);
	raise(SIGUSR1);
	raise(SIGHUP);
	ASSERT_EQUAL(count, 3);
	ASSERT_EQUAL(order[0], 1);
	ASSERT_EQUAL(order[1], 1);
	ASSERT_EQUAL(order[2], 3);
	ASSERT_EQUAL(seen.ss_flags, SS_ONSTACK);
	ASSERT_EQUAL(order[60], -1);
	ASSERT_EQUAL(order[61], EPERM);
	ASSERT_EQUAL(sigaltstack(NULL, &now), 0);
	ASSERT_EQUAL(now.ss_sp == alternate, 1);
	ASSERT_EQUAL(now.ss_flags, 0);
	/* A small one. */
	begin();
	stack = (stack_t){ .ss_sp = small, .ss_size = sizeof small };
	ASSERT_EQUAL(sigaltstack(&stack, &now), 0);
	raise(SIGUSR2);
	ASSERT_EQUAL(order[0], 2);
	errno = 0;
	ASSERT_EQUAL(sigaltstack(&(stack_t){ .ss_sp = small, .ss_size = 100 }, NULL), -1);
	ASSERT_EQUAL(errno, ENOMEM);
	ASSERT_EQUAL(sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, NULL), 0);
	raise(SIGUSR2);
	ASSERT_EQUAL(order[1], 3);
}

static void alternate_stack_is_used(void)
{
	BOTH(alternate_body);
}

static void disarmed(int number, siginfo_t *info, void *context)
{
	(void)number, (void)info, (void)context;
	count++;
	sigaltstack(NULL, &seen);
	sigaltstack(&(stack_t){ .ss_sp = small, .ss_size = sizeof small }, NULL);
}

static void autodisarm_body(void)
{
	const unsigned autodisarm = 1u << 31; /* SS_AUTODISARM */
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate, .ss_flags = (int)autodisarm }, now;

	begin();
	set(SIGUSR1, disarmed, SA_ONSTACK, 0);
	ASSERT_EQUAL(sigaltstack(&stack, NULL), 0);
	raise(SIGUSR1);
	ASSERT_EQUAL(count, 1);
	ASSERT_EQUAL(seen.ss_flags, SS_DISABLE);
	ASSERT_EQUAL(sigaltstack(NULL, &now), 0);
	ASSERT_EQUAL(now.ss_sp == alternate, 1);
	ASSERT_EQUAL((unsigned)now.ss_flags, autodisarm);
}

static void alternate_stack_disarms_itself(void)
{
	BOTH(autodisarm_body);
}

/* ---- other ways to take a signal ------------------------------------------------------------------------ */

static void wait_body(void)
{
	sigset_t set_of_two;
	siginfo_t info;
	struct signalfd_siginfo read_info;
	int fd, number = 0;

	sigemptyset(&set_of_two);
	sigaddset(&set_of_two, SIGUSR1);
	sigaddset(&set_of_two, SIGRTMIN);
	begin();
	set(SIGUSR1, note, 0, 0);
	ASSERT_EQUAL(sigprocmask(SIG_BLOCK, &set_of_two, NULL), 0);
	raise(SIGUSR1);
	ASSERT_EQUAL(sigwait(&set_of_two, &number), 0);
	ASSERT_EQUAL(number, SIGUSR1);
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 5 });
	ASSERT_EQUAL(sigwaitinfo(&set_of_two, &info), SIGRTMIN);
	ASSERT_EQUAL(info.si_value.sival_int, 5);
	fd = signalfd(-1, &set_of_two, SFD_CLOEXEC);
	raise(SIGUSR1);
	ASSERT_EQUAL(read(fd, &read_info, sizeof read_info), sizeof read_info);
	ASSERT_EQUAL(read_info.ssi_signo, SIGUSR1);
	close(fd);
	errno = 0;
	ASSERT_EQUAL(sigtimedwait(&set_of_two, NULL, &(struct timespec){ 0, 1000 }), -1);
	ASSERT_EQUAL(errno, EAGAIN);
	ASSERT_EQUAL(count, 0);
	sigprocmask(SIG_UNBLOCK, &set_of_two, NULL);
}

static void signals_can_be_waited_for(void)
{
	BOTH(wait_body);
}

static void timer_body(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1 };
	struct itimerspec every = { { 0, 2000000 }, { 0, 2000000 } };
	struct itimerval interval = { { 0, 2000 }, { 0, 2000 } };
	volatile unsigned spins = 0;
	timer_t timer;

	begin();
	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	event.sigev_value.sival_int = 99;
	set(SIGRTMIN + 1, note, SA_RESTART, 0);
	ASSERT_EQUAL(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	ASSERT_EQUAL(timer_settime(timer, 0, &every, NULL), 0);
	while (count < 20) /* makes no system call */
		spins++;
	ASSERT_EQUAL(timer_delete(timer), 0);
	ASSERT_EQUAL(last.si_code, SI_TIMER);
	ASSERT_EQUAL(last.si_value.sival_int, 99);
	begin();
	set(SIGALRM, note, SA_RESTART, 0);
	setitimer(ITIMER_REAL, &interval, NULL);
	while (count < 20)
		spins++;
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	ASSERT_EQUAL(last.si_signo, SIGALRM);
}

static void timers_interrupt_what_runs(void)
{
	BOTH(timer_body);
}

static void child_body(void)
{
	int status = 0;

	begin();
	set(SIGCHLD, note, SA_RESTART, 0);

	pid_t child = fork();

	if (child == 0)
		_exit(3);
	ASSERT_EQUAL(waitpid(child, &status, 0), child);
	while (count == 0)
		;
	ASSERT_EQUAL(WEXITSTATUS(status), 3);
	ASSERT_EQUAL(last.si_pid, child);
	ASSERT_EQUAL(last.si_code, CLD_EXITED);
	ASSERT_EQUAL(last.si_status, 3);
	/* The child of a fork handles signals, with the mask of its parent and its dispositions. */
	block(SIG_BLOCK, SIGHUP);
	set(SIGUSR1, note, 0, 0);
	begin();
	child = fork();
	if (child == 0) {
		struct sigaction was;

		raise(SIGUSR1);
		_exit(count == 1 && is_blocked(SIGHUP) && !is_blocked(SIGTERM) && !sigaction(SIGUSR1, NULL, &was) &&
				      was.sa_sigaction == note && was.sa_flags & SA_SIGINFO &&
				      !sigaction(SIGSEGV, NULL, &was) && was.sa_handler == SIG_DFL ?
			      0 :
			      1);
	}
	ASSERT_EQUAL(waitpid(child, &status, 0), child);
	ASSERT_EQUAL(status, 0);
}

static void children_are_noticed(void)
{
	BOTH(child_body);
}

/* ---- entering and leaving ------------------------------------------------------------------------------- */

static void entering_changes_nothing(void)
{
	struct sigaction was;

	if (!both_native())
		BOTH_SKIP();
	begin();
	set(SIGUSR1, note, SA_RESTART, SIGHUP);
	set(SIGUSR2, note, 0, 0);
	block(SIG_BLOCK, SIGUSR2);
	block(SIG_BLOCK, SIGTERM);
	raise(SIGUSR2);
	for (int i = 1; i <= 5; i++) {
		ASSERT_EQUAL(dune_enter(), 0);
		raise(SIGUSR1);
		ASSERT_EQUAL(handled_in_guest, 1);
		CU_ASSERT(is_blocked(SIGTERM) && is_blocked(SIGUSR2));
		if (i == 3) { /* it has been waiting since before */
			block(SIG_UNBLOCK, SIGUSR2);
			ASSERT_EQUAL(last.si_signo, SIGUSR2);
			ASSERT_EQUAL(handled_in_guest, 1);
			block(SIG_BLOCK, SIGUSR2);
		}
		ASSERT_EQUAL(dune_leave(), 0);
		raise(SIGUSR1);
		ASSERT_EQUAL(handled_in_guest, 0);
		ASSERT_EQUAL(count, 2 * i + (i >= 3));
		CU_ASSERT(is_blocked(SIGTERM) && is_blocked(SIGUSR2));
		ASSERT_EQUAL(sigaction(SIGUSR1, NULL, &was), 0);
		ASSERT_EQUAL(was.sa_sigaction == note, 1);
		ASSERT_EQUAL(was.sa_flags & SA_RESTART, SA_RESTART);
		ASSERT_EQUAL(sigismember(&was.sa_mask, SIGHUP), 1);
		ASSERT_EQUAL(sigismember(&was.sa_mask, SIGINT), 0);
		ASSERT_EQUAL(sigaction(SIGABRT, NULL, &was), 0);
		ASSERT_EQUAL(was.sa_handler == SIG_DFL, 1);
	}
}

static int times(void)
{
	const char *lane = getenv("TEST_LANE");

	return lane && strcmp(lane, "vmx") == 0 ? 30 : 300;
}

/* Signals come while the thread enters and leaves all the time: each is handled once, on either side. */
static void *send(void *argument)
{
	for (int i = 0; i < times(); i++) {
		int before = count;

		pthread_kill(*(pthread_t *)argument, SIGUSR1);
		while (count == before)
			sched_yield();
	}
	return NULL;
}

static void none_is_lost_between(void)
{
	pthread_t self = pthread_self(), sender;
	unsigned long stays = 0;

	if (!both_native())
		BOTH_SKIP();
	begin();
	set(SIGUSR1, note, 0, 0);
	ASSERT_EQUAL(pthread_create(&sender, NULL, send, &self), 0);
	while (count < times()) {
		ASSERT_EQUAL(dune_enter(), 0);
		ASSERT_EQUAL(dune_leave(), 0);
		stays++;
	}
	pthread_join(sender, NULL);
	ASSERT_EQUAL(count, times());
	harness_note("%lu stays in the guest", stays);
}

/* ---- handlers of Dune's -------------------------------------------------------------------------------------- */

static volatile int called;
static uint64_t seen_rip;

static void on_interrupt(struct dune_tf *tf)
{
	called++;
	seen_rip = tf->rip;
}

static void handlers_of_dune_come_first(void)
{
	struct sigaction was;

	if (!both_native())
		BOTH_SKIP();
	begin();
	set(SIGUSR1, note, 0, 0);
	ASSERT_EQUAL(dune_register_signal_handler(SIGUSR1, on_interrupt), 0);
	raise(SIGUSR1); /* not in Dune mode: the process's own */
	ASSERT_EQUAL(count, 1);
	ASSERT_EQUAL(called, 0);
	ASSERT_EQUAL(dune_enter(), 0);
	ASSERT_EQUAL(dune_register_signal_handler(SIGURG, on_interrupt), 0);
	raise(SIGUSR1);
	raise(SIGURG);
	ASSERT_EQUAL(called, 2);
	ASSERT_EQUAL(seen_rip != 0, 1);
	ASSERT_EQUAL(sigaction(SIGUSR1, NULL, &was), 0);
	ASSERT_EQUAL(was.sa_sigaction == note, 1);
	ASSERT_EQUAL(is_blocked(SIGUSR1), 0);
	ASSERT_EQUAL(dune_register_signal_handler(SIGUSR1, NULL), 0);
	ASSERT_EQUAL(dune_register_signal_handler(SIGURG, NULL), 0);
	raise(SIGUSR1);
	raise(SIGURG);
	ASSERT_EQUAL(called, 2);
	ASSERT_EQUAL(count, 2);
	errno = 0;
	ASSERT_EQUAL(dune_register_signal_handler(SIGKILL, on_interrupt), -1);
	ASSERT_EQUAL(errno, EINVAL);
	ASSERT_EQUAL(dune_leave(), 0);
}

int main(int argc, char **argv)
{
	static const struct harness_test tests[] = {
		{ "handlers run in ring 0 and are told who sent what", siginfo_is_right, HARNESS_FORK },
		{ "queued signals come in order", queued_signals_come_in_order, HARNESS_FORK },
		{ "changes of registers, vector state and mask in the context take effect", context_counts,
		  HARNESS_FORK },
		{ "masks hold during and after handlers, SA_NODEFER", masks_are_right, HARNESS_FORK },
		{ "sigaction() tells what was set, SIG_IGN, SA_RESETHAND", dispositions_are_what_was_set,
		  HARNESS_FORK },
		{ "handlers may be left by siglongjmp()", handlers_may_be_left_by_siglongjmp, HARNESS_FORK },
		{ "SA_ONSTACK: handlers run on the alternate stack, nested too", alternate_stack_is_used,
		  HARNESS_FORK },
		{ "SS_AUTODISARM: it is not in use while a handler runs", alternate_stack_disarms_itself,
		  HARNESS_FORK },
		{ "sigwait(), signalfd()", signals_can_be_waited_for, HARNESS_FORK },
		{ "timers interrupt code that makes no system call", timers_interrupt_what_runs, HARNESS_FORK },
		{ "SIGCHLD comes; children of fork() have handlers and mask", children_are_noticed, HARNESS_FORK },
		{ "handlers, masks and queries are the same before, in and after the guest", entering_changes_nothing,
		  HARNESS_FORK },
		{ "no signal is lost or doubled while a thread enters and leaves", none_is_lost_between, HARNESS_FORK },
		{ "dune_register_signal_handler(): in the guest its handlers come first", handlers_of_dune_come_first,
		  HARNESS_FORK },
	};
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
