/*
 * live_dune_signal_calls.c - system calls and signals in guest placement: EINTR and SA_RESTART as the kernel has them, calls with
 * a mask of their own, no wake-up that is lost, cancellation, signals between threads.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dune_both.h"

static volatile int count;
static int pipes[2], listener, epoll;
static sem_t semaphore;
static pid_t child;

/* Each call waits for something that happens only when on_alarm() has been called three times. */
static void on_alarm(int number)
{
	(void)number;
	if (++count == 3) {
		struct sockaddr_un address = { .sun_family = AF_UNIX };
		socklen_t size = sizeof address;
		int saved = errno, fd = socket(AF_UNIX, SOCK_STREAM, 0);

		if (write(pipes[1], "x", 1) != 1)
			_exit(99);
		sem_post(&semaphore);
		getsockname(listener, (struct sockaddr *)&address, &size);
		if (fd >= 0 && connect(fd, (struct sockaddr *)&address, size) != 0)
			_exit(98);
		kill(child, SIGKILL);
		errno = saved;
	}
}

static long call_read(void)
{
	char byte;
	return read(pipes[0], &byte, 1);
}

static long call_poll(void)
{
	return poll(&(struct pollfd){ pipes[0], POLLIN, 0 }, 1, -1);
}

static long call_nanosleep(void)
{
	struct timespec left = { 0 };
	long result = nanosleep(&(struct timespec){ 1000, 0 }, &left);

	ASSERT_EQUAL(left.tv_sec > 0, 1);
	return result;
}

static long call_sem_wait(void)
{
	return sem_wait(&semaphore);
}

static long call_accept(void)
{
	return accept(listener, NULL, NULL) >= 0 ? 0 : -1;
}

static long call_waitpid(void)
{
	return waitpid(child, NULL, 0);
}

static long call_epoll(void)
{
	struct epoll_event event;
	return epoll_wait(epoll, &event, 1, -1);
}

static long call_pause(void)
{
	return pause();
}

static long call_sigsuspend(void)
{
	sigset_t none;
	sigemptyset(&none);
	return sigsuspend(&none);
}

static const struct {
	const char *name;
	long (*make)(void);
	bool restarts; /* with SA_RESTART (signal(7)) */
} calls[] = {
	{ "read", call_read, true },         { "poll", call_poll, false },    { "nanosleep", call_nanosleep, false },
	{ "sem_wait", call_sem_wait, true }, { "accept", call_accept, true }, { "waitpid", call_waitpid, true },
	{ "epoll_wait", call_epoll, false }, { "pause", call_pause, false },  { "sigsuspend", call_sigsuspend, false },
};

static void open_all(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	ASSERT_EQUAL(pipe(pipes), 0);
	ASSERT_EQUAL(sem_init(&semaphore, 0, 0), 0);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	ASSERT_EQUAL(bind(listener, (struct sockaddr *)&address, sizeof address.sun_family), 0);
	ASSERT_EQUAL(listen(listener, 1), 0);
	epoll = epoll_create1(0);
	ASSERT_EQUAL(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &(struct epoll_event){ .events = EPOLLIN }), 0);
	child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
}

static void close_all(void)
{
	kill(child, SIGKILL);
	while (waitpid(child, NULL, 0) == -1 && errno == EINTR)
		;
	close(pipes[0]), close(pipes[1]), close(listener), close(epoll);
}

static void interrupt_body(void)
{
	const struct itimerval every = { { 0, 20000 }, { 0, 20000 } };

	for (unsigned i = 0; i < 2 * sizeof calls / sizeof *calls; i++) {
		const bool restart = i & 1;
		struct sigaction action = { .sa_handler = on_alarm, .sa_flags = restart ? SA_RESTART : 0 };

		open_all();
		count = 0;
		sigaction(SIGALRM, &action, NULL);
		setitimer(ITIMER_REAL, &every, NULL);
		errno = 0;

		long result = calls[i / 2].make();
		int error = errno;

		setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
		if (restart && calls[i / 2].restarts)
			live_check(result >= 0 && count >= 3, __FILE__, __LINE__,
				   "%s goes on: %ld, errno %d, %d signals", calls[i / 2].name, result, error, count);
		else
			live_check(result == -1 && error == EINTR && count >= 1, __FILE__, __LINE__,
				   "%s is interrupted: %ld, errno %d, %d signals", calls[i / 2].name, result, error,
				   count);
		close_all();
	}
}

static void calls_are_interrupted_or_go_on(void)
{
	BOTH(interrupt_body);
}

/* ---- calls with a mask of their own ------------------------------------------------------------------- */

static volatile int came[3];
static sigset_t during;

static void on_came(int number)
{
	came[number == SIGUSR1 ? 0 : number == SIGUSR2 ? 1 : 2]++;
	sigprocmask(SIG_BLOCK, NULL, &during);
}

static int masked(unsigned which, const sigset_t *mask)
{
	struct epoll_event event;
	fd_set set;
	int result = -2;

	FD_ZERO(&set);
	FD_SET(pipes[0], &set);
	errno = 0;
	switch (which) {
	case 0:
		result = sigsuspend(mask);
		break;
	case 1:
		result = ppoll(&(struct pollfd){ pipes[0], POLLIN, 0 }, 1, NULL, mask);
		break;
	case 2:
		result = epoll_pwait(epoll, &event, 1, -1, mask);
		break;
	case 3:
		result = pselect(pipes[0] + 1, &set, NULL, NULL, NULL, mask);
		break;
	}
	return result == -1 ? errno : result;
}

static void mask_body(void)
{
	sigset_t both, but_third, now;

	open_all();
	sigemptyset(&both);
	sigaddset(&both, SIGUSR1);
	sigaddset(&both, SIGUSR2);
	sigaddset(&both, SIGHUP);
	sigemptyset(&but_third);
	sigaddset(&but_third, SIGHUP);
	for (int i = 0; i < 3; i++)
		signal((int[]){ SIGUSR1, SIGUSR2, SIGHUP }[i], on_came);
	sigprocmask(SIG_SETMASK, &both, NULL);
	for (unsigned which = 0; which < 4; which++) {
		memset((void *)came, 0, sizeof came);
		raise(SIGUSR1);
		raise(SIGUSR2);
		raise(SIGHUP);
		ASSERT_EQUAL(masked(which, &but_third), EINTR); /* all that the mask lets in come */
		ASSERT_EQUAL(came[0], 1);
		ASSERT_EQUAL(came[1], 1);
		ASSERT_EQUAL(came[2], 0);
		sigprocmask(SIG_BLOCK, NULL, &now);
		ASSERT_EQUAL(sigismember(&now, SIGUSR1) & sigismember(&now, SIGUSR2) & sigismember(&now, SIGHUP), 1);
		ASSERT_EQUAL(sigismember(&now, SIGTERM), 0);
		sigset_t hup = but_third;
		int number;
		sigwait(&hup, &number);
	}
	close_all();
}

static void calls_with_a_mask_let_signals_in(void)
{
	BOTH(mask_body);
}

/* ---- no wake-up is lost --------------------------------------------------------------------------------- */

static volatile int rounds, answered;
static pthread_t waiter;

static void on_round(int number)
{
	(void)number;
	__atomic_fetch_add(&rounds, 1, __ATOMIC_SEQ_CST);
}

static int many(void)
{
	return getenv("TEST_LANE") && strcmp(getenv("TEST_LANE"), "vmx") == 0 ? 50 : 500;
}

static void *ask(void *unused)
{
	for (int i = 0; i < many(); i++) {
		pthread_kill(waiter, SIGUSR1);
		while (__atomic_load_n(&answered, __ATOMIC_SEQ_CST) == i)
			sched_yield();
	}
	return unused;
}

static void suspend_body(void)
{
	pthread_t asker;
	sigset_t usr1, none;

	rounds = answered = 0;
	waiter = pthread_self();
	sigemptyset(&none);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	signal(SIGUSR1, on_round);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	ASSERT_EQUAL(pthread_create(&asker, NULL, ask, NULL), 0);
	while (answered < many()) {
		while (rounds == answered)
			sigsuspend(&none);
		__atomic_fetch_add(&answered, 1, __ATOMIC_SEQ_CST);
	}
	pthread_join(asker, NULL);
	ASSERT_EQUAL(rounds, many());
}

static void sigsuspend_misses_nothing(void)
{
	BOTH(suspend_body);
}

static sigjmp_buf out;

static void on_jump(int number)
{
	(void)number;
	rounds++;
	siglongjmp(out, 1);
}

/* A handler that jumps must keep a call from being made, also if the signal came just before it. */
static void jump_body(void)
{
	pthread_t asker;
	char byte;

	ASSERT_EQUAL(pipe(pipes), 0);
	rounds = answered = 0;
	waiter = pthread_self();
	signal(SIGUSR1, on_jump);
	if (sigsetjmp(out, 1) == 0)
		ASSERT_EQUAL(pthread_create(&asker, NULL, ask, NULL), 0);
	answered = rounds;
	while (rounds < many())
		ASSERT_EQUAL(read(pipes[0], &byte, 1), 1); /* nobody writes */
	pthread_join(asker, NULL);
	ASSERT_EQUAL(rounds, many());
	close(pipes[0]), close(pipes[1]);
}

static void calls_do_not_begin_after_a_signal(void)
{
	BOTH(jump_body);
}

/* Signals of several kinds as fast as they can be sent, while the mask changes all the time. */
static void *storm(void *unused)
{
	for (int i = 0; i < many(); i++)
		for (int k = 0; k < 4; k++)
			pthread_kill(waiter, SIGRTMIN + k);
	__atomic_store_n(&answered, 1, __ATOMIC_SEQ_CST);
	return unused;
}

static void storm_body(void)
{
	pthread_t sender;
	sigset_t real_time;

	rounds = answered = 0;
	waiter = pthread_self();
	sigemptyset(&real_time);
	for (int k = 0; k < 4; k++) {
		signal(SIGRTMIN + k, on_round);
		sigaddset(&real_time, SIGRTMIN + k);
	}
	ASSERT_EQUAL(pthread_create(&sender, NULL, storm, NULL), 0);
	do {
		sigprocmask(SIG_BLOCK, &real_time, NULL);
		int before = rounds;
		getppid();
		ASSERT_EQUAL(rounds, before); /* blocked is blocked */
		sigprocmask(SIG_UNBLOCK, &real_time, NULL);
		errno = EDOM;
		for (volatile int i = 0; i < 100; i++)
			;
		ASSERT_EQUAL(errno, EDOM);
	} while (!answered);
	pthread_join(sender, NULL);
	sigprocmask(SIG_UNBLOCK, &real_time, NULL);
	ASSERT_EQUAL(rounds, 4 * many());
}

static void storms_are_counted(void)
{
	BOTH(storm_body);
}

/* ---- threads --------------------------------------------------------------------------------------------- */

static volatile int cleaned;
static bool in_guest;

static void clean(void *argument)
{
	cleaned += *(int *)argument;
}

static void *cancelled(void *argument)
{
	static int one = 1, ten = 10;
	char byte;

	if (in_guest && dune_enter() != 0)
		return NULL;
	pthread_cleanup_push(clean, &ten);
	pthread_cleanup_push(clean, &one);
	if (argument) {
		pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
		__atomic_store_n(&answered, 1, __ATOMIC_SEQ_CST);
		for (volatile int i = 0;; i++)
			;
	}
	__atomic_store_n(&answered, 1, __ATOMIC_SEQ_CST);
	while (read(pipes[0], &byte, 1) >= 0)
		;
	pthread_cleanup_pop(1);
	pthread_cleanup_pop(1);
	return NULL;
}

static void cancel_body(void)
{
	in_guest = dune_in_guest();
	ASSERT_EQUAL(pipe(pipes), 0);
	for (long how = 0; how < 2; how++) {
		pthread_t thread;
		void *result = NULL;

		answered = cleaned = 0;
		ASSERT_EQUAL(pthread_create(&thread, NULL, cancelled, (void *)how), 0);
		while (!__atomic_load_n(&answered, __ATOMIC_SEQ_CST))
			sched_yield();
		ASSERT_EQUAL(pthread_cancel(thread), 0);
		ASSERT_EQUAL(pthread_join(thread, &result), 0);
		ASSERT_EQUAL(result == PTHREAD_CANCELED, 1);
		ASSERT_EQUAL(cleaned, 11);
	}
	close(pipes[0]), close(pipes[1]);
}

static void threads_are_cancelled(void)
{
	if (!dlopen("libgcc_s.so.1", RTLD_NOW))
		HARNESS_SKIP("pthread_cancel() needs libgcc_s.so.1, which is not here");
	BOTH(cancel_body);
}

static void *play(void *argument)
{
	sigset_t none;

	sigemptyset(&none);
	if (in_guest && dune_enter() != 0)
		return NULL;
	for (int i = 0; i < 100; i++) {
		while (rounds != 2 * i + 1)
			sigsuspend(&none);
		rounds++;
		pthread_kill(*(pthread_t *)argument, SIGUSR1);
	}
	return argument;
}

static void on_nothing(int number)
{
	(void)number;
}

static void thread_body(void)
{
	pthread_t self = pthread_self(), partner;
	void *result;
	sigset_t usr1, none;

	in_guest = dune_in_guest();
	rounds = 0;
	sigemptyset(&none);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	signal(SIGUSR1, on_nothing);
	ASSERT_EQUAL(pthread_create(&partner, NULL, play, &self), 0);
	for (int i = 0; i < 100; i++) {
		rounds++;
		pthread_kill(partner, SIGUSR1);
		while (rounds != 2 * i + 2)
			sigsuspend(&none);
	}
	pthread_join(partner, &result);
	ASSERT_EQUAL(result == &self, 1);
}

static void threads_signal_each_other(void)
{
	BOTH(thread_body);
}

int main(int argc, char **argv)
{
	static const struct harness_test tests[] = {
		{ "calls fail with EINTR, or go on with SA_RESTART, as Linux has it", calls_are_interrupted_or_go_on,
		  HARNESS_FORK },
		{ "sigsuspend(), ppoll(), epoll_pwait(), pselect(): all signals that the mask lets in come",
		  calls_with_a_mask_let_signals_in, HARNESS_FORK },
		{ "sigsuspend() misses no signal", sigsuspend_misses_nothing, HARNESS_FORK },
		{ "a call that a signal has come before is not made until the handler returns",
		  calls_do_not_begin_after_a_signal, HARNESS_FORK },
		{ "in a storm every signal is handled once, none while it is blocked, errno stays", storms_are_counted,
		  HARNESS_FORK },
		{ "threads are cancelled, at once and in calls, and their cleanup handlers run", threads_are_cancelled,
		  HARNESS_FORK },
		{ "threads in the guest signal each other", threads_signal_each_other, HARNESS_FORK },
	};
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
