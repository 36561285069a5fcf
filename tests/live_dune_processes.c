/*
 * live_dune_processes.c - guest placement of Dune: threads and processes begin in host mode, and everything that begins
 * or ends one works from ring 0.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "dune_guest.h"

enum {
	THREADS = 4,
	PAGE = 4096
};

extern char **environ;

/* ---- threads --------------------------------------------------------------------------------------- */

static _Thread_local unsigned of_thread = 3;

static void *enter_and_compute(void *argument)
{
	unsigned long rounds = (unsigned long)argument;
	if (guest_ring() != 3 || dune_in_guest() || dune_enter() != 0 || guest_ring() != 0 || of_thread != 3)
		return (void *)1;
	of_thread = 4;
	for (unsigned long i = 0; i < rounds; i++) {
		char *block = malloc(20000 + i);
		memset(block, 1, 20000 + i);
		if (syscall(SYS_gettid) <= 0)
			return (void *)2;
		free(block);
	}
	return of_thread == 4 ? NULL : (void *)3;
}

static void *enter_and_leave(void *argument)
{
	if (enter_and_compute(argument) != NULL || dune_leave() != 0 || guest_ring() != 3)
		return (void *)1;
	return NULL;
}

static void *exit_deep(void *argument)
{
	if (dune_enter() != 0)
		return (void *)1;
	pthread_exit(argument);
}

static void *result_of(void *(*body)(void *), void *argument)
{
	pthread_t thread;
	void *result = (void *)-1;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, body, argument), 0);
	CU_ASSERT_EQUAL(pthread_join(thread, &result), 0);
	return result;
}

static void threads_begin_in_host_mode_and_enter(void)
{
	GUEST_BEGIN();
	CU_ASSERT_PTR_NULL(result_of(enter_and_compute, (void *)10));
	CU_ASSERT_PTR_NULL(result_of(enter_and_leave, (void *)10));
	CU_ASSERT_PTR_EQUAL(result_of(exit_deep, (void *)77), (void *)77);
	CU_ASSERT_EQUAL(guest_ring(), 0);
	CU_ASSERT_EQUAL(of_thread, 3);
}

static void many_threads_are_in_the_guest(void)
{
	pthread_t threads[THREADS];
	GUEST_BEGIN();
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < THREADS; i++)
			CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL,
							     i % 2 ? enter_and_leave : enter_and_compute, (void *)30),
					      0);
		for (unsigned i = 0; i < THREADS; i++) {
			void *result = (void *)-1;
			CU_ASSERT_EQUAL(pthread_join(threads[i], &result), 0);
			CU_ASSERT_PTR_NULL(result);
		}
	}
}

static unsigned open_files(void)
{
	unsigned count = 0;
	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) != -1;
	return count;
}

static void virtual_processors_are_used_again(void)
{
	GUEST_BEGIN();
	CU_ASSERT_PTR_NULL(result_of(enter_and_compute, (void *)1));
	unsigned before = open_files();
	for (unsigned i = 0; i < 40; i++)
		CU_ASSERT_PTR_NULL(result_of(i % 2 ? enter_and_compute : enter_and_leave, (void *)1));
	CU_ASSERT_EQUAL(open_files(), before);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned turn, turns[2];

static void *take_turns(void *argument)
{
	unsigned me = (unsigned)(uintptr_t)argument;
	if (dune_enter() != 0)
		return (void *)1;
	for (unsigned i = 0; i < 50; i++) {
		pthread_mutex_lock(&mutex);
		while (turn != me)
			pthread_cond_wait(&changed, &mutex);
		turns[me]++;
		turn = !me;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}

static void condition_variables_work(void)
{
	pthread_t threads[2];
	GUEST_BEGIN();
	for (unsigned i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, take_turns, (void *)(uintptr_t)i), 0);
	for (unsigned i = 0; i < 2; i++) {
		void *result = (void *)-1;
		CU_ASSERT_EQUAL(pthread_join(threads[i], &result), 0);
		CU_ASSERT_PTR_NULL(result);
	}
	CU_ASSERT(turns[0] == 50 && turns[1] == 50);
}

static unsigned destroyed;

static void destroy(void *value)
{
	destroyed += (unsigned)(uintptr_t)value + (guest_ring() == 0 ? 100 : 0);
}

static pthread_key_t key;

static void *set_key(void *argument)
{
	pthread_setspecific(key, argument);
	return dune_enter() == 0 ? NULL : (void *)1;
}

static void thread_specific_data_is_destroyed_in_the_guest(void)
{
	GUEST_BEGIN();
	CU_ASSERT_EQUAL(pthread_key_create(&key, destroy), 0);
	CU_ASSERT_PTR_NULL(result_of(set_key, (void *)5));
	CU_ASSERT_EQUAL(destroyed, 105);
}

static void *control_words(void *unused)
{
	(void)unused;
	return (void *)(uintptr_t)(_mm_getcsr() & 0x6000);
}

static void a_thread_inherits_the_control_words(void)
{
	struct dune_host host;
	GUEST_BEGIN();
	if (dune_probe(&host) != 0 || !host.xsave)
		HARNESS_SKIP("without XSAVE KVM does not tell MXCSR");
	_mm_setcsr(_mm_getcsr() | 0x6000);
	CU_ASSERT_PTR_EQUAL(result_of(control_words, NULL), (void *)0x6000);
}

/* Others wait for a thread that blocks all signals, as threads without handlers do, to drop translations. */
static _Atomic int stop, spinning;

static void *spin_with_signals_blocked(void *unused)
{
	sigset_t all;
	(void)unused;
	if (dune_enter() != 0)
		return (void *)1;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	atomic_store(&spinning, 1);
	while (!atomic_load(&stop))
		__builtin_ia32_pause();
	return NULL;
}

static void a_thread_that_blocks_signals_is_not_waited_for(void)
{
	pthread_t thread;
	void *result = (void *)-1;
	GUEST_BEGIN();
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, spin_with_signals_blocked, NULL), 0);
	while (!atomic_load(&spinning))
		sched_yield();
	for (unsigned i = 0; i < 20; i++) {
		volatile char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		page[0] = 1;
		CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, (void *)page, PAGE, PERM_R), 0);
		CU_ASSERT_EQUAL(munmap((void *)page, PAGE), 0);
	}
	atomic_store(&stop, 1);
	CU_ASSERT_EQUAL(pthread_join(thread, &result), 0);
	CU_ASSERT_PTR_NULL(result);
}

/* ---- processes ------------------------------------------------------------------------------------- */

static uint8_t shared_value = 1;

static void check_child(void *argument)
{
	(void)argument;
	if (guest_ring() != 3 || dune_in_guest() || shared_value != 1)
		_exit(10);
	shared_value = 2;
	if (dune_enter() != 0) {
		dune_printf("# the child cannot enter: %s\n", dune_error());
		_exit(11);
	}
	if (guest_ring() != 0 || shared_value != 2)
		_exit(12);
	char *block = malloc(100000);
	memset(block, 3, 100000);
	free(block);
	if (dune_leave() != 0)
		_exit(13);
	exit(0);
}

static void a_child_begins_in_host_mode_and_enters(void)
{
	GUEST_BEGIN();
	for (unsigned i = 0; i < 2; i++) {
		CU_ASSERT(guest_exited(guest_child(check_child, NULL), 0));
		CU_ASSERT_EQUAL(guest_ring(), 0);
		CU_ASSERT_EQUAL(shared_value, 1);
	}
	CU_ASSERT_EQUAL(dune_leave(), 0);
	CU_ASSERT(guest_exited(guest_child(check_child, NULL), 0));
}

static void a_child_of_a_process_that_never_entered_enters(void)
{
	GUEST_INIT();
	CU_ASSERT(guest_exited(guest_child(check_child, NULL), 0));
	CU_ASSERT(guest_exited(guest_child(check_child, NULL), 0));
	CU_ASSERT_EQUAL(dune_enter(), 0);
}

static void fork_again(void *argument)
{
	if (dune_enter() != 0)
		_exit(20);
	if (!guest_exited(guest_child(check_child, argument), 0))
		_exit(21);
	if (guest_ring() != 0)
		_exit(22);
}

static void children_have_children(void)
{
	GUEST_BEGIN();
	CU_ASSERT(guest_exited(guest_child(fork_again, NULL), 0));
}

static void *fork_here(void *enter)
{
	if (enter && dune_enter() != 0)
		return (void *)1;
	int status = guest_child(check_child, NULL);
	return guest_exited(status, 0) && guest_ring() == (enter ? 0u : 3u) ? NULL : (void *)2;
}

static void a_second_thread_forks(void)
{
	GUEST_BEGIN();
	CU_ASSERT_PTR_NULL(result_of(fork_here, (void *)1));
	CU_ASSERT_PTR_NULL(result_of(fork_here, NULL));
}

/* In the child of a fork none of the parent's threads is waited for. */
static void change_pages(void *unused)
{
	(void)unused;
	void *const elsewhere = (void *)0x10000000000;
	volatile char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page[0] = 1;
	if (dune_vm_map_pages(pgroot, elsewhere, PAGE, PERM_R) != 0 || dune_vm_unmap(pgroot, elsewhere, PAGE) != 0)
		_exit(30);
	dune_flush_tlb_all();
	if (dune_enter() != 0)
		_exit(31);
	if (dune_vm_mprotect(pgroot, (void *)page, PAGE, PERM_R) != 0 ||
	    dune_vm_mprotect(pgroot, (void *)page, PAGE, PERM_R | PERM_W) != 0)
		_exit(32);
	page[0] = 2;
}

static void a_child_changes_pages_while_threads_of_the_parent_run(void)
{
	pthread_t thread;
	void *result;
	GUEST_INIT();
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, spin_with_signals_blocked, NULL), 0);
	while (!atomic_load(&spinning))
		sched_yield();
	CU_ASSERT(guest_exited(guest_child(change_pages, NULL), 0));
	CU_ASSERT_EQUAL_FATAL(dune_enter(), 0);
	CU_ASSERT(guest_exited(guest_child(change_pages, NULL), 0));
	atomic_store(&stop, 1);
	CU_ASSERT_EQUAL(pthread_join(thread, &result), 0);
}

static _Atomic unsigned signals;

static void count_signal(int number)
{
	(void)number;
	atomic_fetch_add(&signals, 1);
}

static void check_mask(void *argument)
{
	sigset_t mask;
	if (pthread_sigmask(SIG_SETMASK, NULL, &mask) != 0)
		_exit(40);
	for (int number = 1; number < 32; number++)
		if (sigismember(&mask, number) != (number == *(int *)argument))
			_exit(40 + number);
}

/* Signals come all the time while children are made: neither loses its mask. */
static void children_are_made_while_signals_come(void)
{
	GUEST_BEGIN();
	int blocked = SIGUSR2;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, blocked);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	struct sigaction action = { .sa_handler = count_signal, .sa_flags = SA_RESTART };
	sigaction(SIGALRM, &action, NULL);
	struct itimerval often = { { 0, 3000 }, { 0, 3000 } }, never = { 0 };
	setitimer(ITIMER_REAL, &often, NULL);
	for (unsigned i = 0; i < 8; i++)
		CU_ASSERT(guest_exited(guest_child(check_mask, &blocked), 0));
	setitimer(ITIMER_REAL, &never, NULL);
	check_mask(&blocked);
	CU_ASSERT(atomic_load(&signals) > 0);
	harness_note("%u signals", atomic_load(&signals));
}

static void registers_go_along_with_fork(void)
{
	GUEST_BEGIN();
	uint64_t mark = 0x5566778899aabbcc, kept = 0;
	pid_t child;
	fflush(stdout);
	__asm__ volatile("movq %2, %%xmm9\n\t"
			 "movl %3, %%eax\n\t"
			 "syscall\n\t"
			 "movq %%xmm9, %1"
			 : "=&a"(child), "=&r"(kept)
			 : "r"(mark), "i"(SYS_fork)
			 : "rcx", "r11", "memory", "xmm9");
	if (child == 0)
		_exit(kept == mark ? 7 : 8);
	int status = -1;
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT(guest_exited(status, 7));
	CU_ASSERT_EQUAL(kept, mark);
}

static void vfork_and_execve_work(void)
{
	GUEST_BEGIN();
	char *const arguments[] = { "sh", "-c", "exit 9", NULL };
	volatile pid_t child = vfork();
	if (child == 0) {
		execv("/bin/sh", arguments);
		_exit(1);
	}
	int status = -1;
	CU_ASSERT_FATAL(child > 0);
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT(guest_exited(status, 9));
	CU_ASSERT_EQUAL(guest_ring(), 0);
}

static void other_ways_to_start_programs_work(void)
{
	GUEST_BEGIN();
	char *const arguments[] = { "sh", "-c", "exit 4", NULL };
	pid_t child;
	int status = -1;
	CU_ASSERT_EQUAL_FATAL(posix_spawn(&child, "/bin/sh", NULL, NULL, arguments, environ), 0);
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT(guest_exited(status, 4));
	CU_ASSERT(posix_spawn(&child, "/no/such/program", NULL, NULL, arguments, environ) == ENOENT);
	CU_ASSERT(guest_exited(system("exit 6"), 6));
	FILE *stream = popen("echo hello", "r");
	char text[32] = "";
	CU_ASSERT_PTR_NOT_NULL_FATAL(stream);
	CU_ASSERT_PTR_NOT_NULL(fgets(text, sizeof text, stream));
	CU_ASSERT_STRING_EQUAL(text, "hello\n");
	CU_ASSERT_EQUAL(pclose(stream), 0);
}

static void run_program(void *argument)
{
	if (dune_enter() != 0)
		_exit(50);
	char *const arguments[] = { "sh", "-c", argument, NULL };
	execv("/no/such/program", arguments);
	if (guest_ring() != 0)
		_exit(51);
	sigset_t set;
	sigemptyset(&set);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	execv("/bin/sh", arguments);
	_exit(52);
}

static void execve_replaces_the_process(void)
{
	GUEST_BEGIN();
	CU_ASSERT(guest_exited(guest_child(run_program, "exit 33"), 33));
	/* Nothing of the library is left over: no file, and signals end it as usual. */
	CU_ASSERT(guest_exited(guest_child(run_program, "test -z \"$(ls -l /proc/$$/fd | grep kvm)\""), 0));
	CU_ASSERT(guest_killed(guest_child(run_program, "kill -SEGV $$"), SIGSEGV));
}

static int mark_end = -1;

static void at_end(void)
{
	char ring = (char)('0' + guest_ring());
	if (write(mark_end, &ring, 1) != 1)
		_exit(60);
}

static void end_by_exit(void *argument)
{
	if (argument && dune_enter() != 0)
		_exit(61);
	atexit(at_end);
	exit(5);
}

static void end_by_return_of_exit_group(void *argument)
{
	(void)argument;
	if (dune_enter() != 0)
		_exit(61);
	atexit(at_end);
	syscall(SYS_exit_group, 6);
}

static void end_by_abort(void *argument)
{
	(void)argument;
	struct rlimit none = { 0, 0 };
	setrlimit(RLIMIT_CORE, &none);
	if (dune_enter() != 0)
		_exit(61);
	atexit(at_end);
	abort();
}

static void *wait_for_ever(void *unused)
{
	(void)unused;
	if (dune_enter() != 0)
		_exit(62);
	atomic_store(&spinning, 1);
	for (;;)
		__builtin_ia32_pause();
}

static void end_with_threads(void *argument)
{
	pthread_t thread;
	atomic_store(&spinning, 0);
	pthread_create(&thread, NULL, wait_for_ever, NULL);
	while (!atomic_load(&spinning))
		sched_yield();
	end_by_exit(argument);
}

static void the_process_ends_as_usual(void)
{
	int ends[2];
	char got[8] = "";
	GUEST_INIT();
	CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
	mark_end = ends[1];
	CU_ASSERT(guest_exited(guest_child(end_by_exit, "in the guest"), 5));
	CU_ASSERT(guest_exited(guest_child(end_by_exit, NULL), 5));
	CU_ASSERT(guest_exited(guest_child(end_by_return_of_exit_group, NULL), 6));
	CU_ASSERT(guest_killed(guest_child(end_by_abort, NULL), SIGABRT));
	CU_ASSERT(guest_exited(guest_child(end_with_threads, "in the guest"), 5));
	close(ends[1]);
	CU_ASSERT_EQUAL(read(ends[0], got, sizeof got - 1), 3);
	CU_ASSERT_STRING_EQUAL(got, "030");
}

/* ---- the rest -------------------------------------------------------------------------------------- */

static void limits_hold_in_ring0(void)
{
	GUEST_BEGIN();
	struct rlimit limit;
	CU_ASSERT_EQUAL(getrlimit(RLIMIT_NOFILE, &limit), 0);
	struct rlimit few = { 3, limit.rlim_max };
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &few), 0);
	CU_ASSERT(open("/", O_RDONLY) == -1 && errno == EMFILE);
	/* Without a file descriptor left memory is still mirrored. */
	volatile char *block = mmap(NULL, 8u << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t at = 0; at < 8u << 20; at += 1u << 20)
		block[at] = 1;
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void libraries_are_loaded_in_ring0(void)
{
	GUEST_BEGIN();
	void *library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
	if (!library)
		HARNESS_SKIP("no libm.so.6: %s", dlerror());
	double (*cosine)(double) = (double (*)(double))dlsym(library, "cos");
	CU_ASSERT_PTR_NOT_NULL_FATAL(cosine);
	CU_ASSERT_EQUAL(cosine(0.0), 1.0);
	CU_ASSERT_EQUAL(dlclose(library), 0);
	CU_ASSERT_EQUAL(dune_leave(), 0);
	CU_ASSERT_EQUAL(dune_enter(), 0);
}

static const struct harness_test tests[] = {
	{ "threads begin in host mode, and enter", threads_begin_in_host_mode_and_enter, HARNESS_FORK },
	{ "many threads are in the guest", many_threads_are_in_the_guest, HARNESS_FORK },
	{ "virtual processors are used again", virtual_processors_are_used_again, HARNESS_FORK },
	{ "condition variables work in the guest", condition_variables_work, HARNESS_FORK },
	{ "thread-specific data is destroyed in the guest", thread_specific_data_is_destroyed_in_the_guest,
	  HARNESS_FORK },
	{ "a thread inherits the control words of ring 0", a_thread_inherits_the_control_words, HARNESS_FORK },
	{ "a thread that blocks all signals drops translations", a_thread_that_blocks_signals_is_not_waited_for,
	  HARNESS_FORK },
	{ "a child begins in host mode, and enters", a_child_begins_in_host_mode_and_enters, HARNESS_FORK },
	{ "a child enters although its parent never did", a_child_of_a_process_that_never_entered_enters,
	  HARNESS_FORK },
	{ "children have children", children_have_children, HARNESS_FORK },
	{ "a second thread forks", a_second_thread_forks, HARNESS_FORK },
	{ "a child changes pages while threads of its parent are in the guest",
	  a_child_changes_pages_while_threads_of_the_parent_run, HARNESS_FORK },
	{ "neither parent nor child loses its signal mask by a signal", children_are_made_while_signals_come,
	  HARNESS_FORK },
	{ "vector registers go along with fork()", registers_go_along_with_fork, HARNESS_FORK },
	{ "vfork() and execve() work", vfork_and_execve_work, HARNESS_FORK },
	{ "posix_spawn(), system() and popen() work", other_ways_to_start_programs_work, HARNESS_FORK },
	{ "execve() replaces the process, and leaves nothing behind", execve_replaces_the_process, HARNESS_FORK },
	{ "exit(), exit_group() and abort() end the process as usual", the_process_ends_as_usual, HARNESS_FORK },
	{ "memory is mirrored without a free file descriptor", limits_hold_in_ring0, HARNESS_FORK },
	{ "libraries are loaded in ring 0", libraries_are_loaded_in_ring0, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
