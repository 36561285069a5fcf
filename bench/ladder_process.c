/* ladder_process.c - the process as it is: calls, processes, threads.  See ladder.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ladder.h"
#include "two_processes.h"

enum {
	CALLS = 1000
};

static __attribute__((noinline)) void do_nothing(void)
{
	__asm__ volatile("");
}

static void (*volatile nothing)(void) = do_nothing;

static void run_function(void *argument)
{
	(void)argument;
	for (int i = 0; i < CALLS; i++)
		nothing();
}

static void run_getppid(void *argument)
{
	(void)argument;
	for (int i = 0; i < CALLS; i++)
		syscall(SYS_getppid);
}

static void run_fork(void *argument)
{
	(void)argument;
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	if (child < 0 || waitpid(child, NULL, 0) != child)
		measure_fail("fork: %s", strerror(errno));
}

/* bench/nothing, which stands beside bench/bench. */
static char program[PATH_MAX];

static void find_program(void)
{
	static const char name[] = "nothing";
	ssize_t length = readlink("/proc/self/exe", program, sizeof program - sizeof name);
	if (length < 0)
		measure_fail("%s", strerror(errno));
	program[length] = '\0';
	memcpy(strrchr(program, '/') + 1, name, sizeof name);
}

static void run_spawn(void *argument)
{
	char *const words[] = { program, NULL };
	int status = 0;
	pid_t child;
	(void)argument;
	int error = posix_spawn(&child, program, NULL, NULL, words, words + 1);
	if (error)
		measure_fail("%.100s: %s", program, strerror(error));
	if (waitpid(child, &status, 0) != child || status)
		measure_fail("%.100s did not end with status 0", program);
}

static void *thread_body(void *argument)
{
	return argument;
}

static void run_thread(void *argument)
{
	pthread_t thread;
	(void)argument;
	if (pthread_create(&thread, NULL, thread_body, NULL) != 0 || pthread_join(thread, NULL) != 0)
		measure_fail("no thread");
}

void group_process(struct measurement *measurement, void *argument)
{
	struct two_processes two;
	const struct operation operations[] = {
		{ &rungs[FUNCTION], run_function, .inner = CALLS, .warm = 2 },
		{ &rungs[GETPPID], run_getppid, .inner = CALLS, .samples = 20, .warm = 1 },
		{ &rungs[THREAD], run_thread, .warm = 2 },
	};
	const struct operation ping_pong = { &rungs[PING_PONG], two_processes_run, &two, .inner = ROUND_TRIPS,
					     .warm = 2 };
	(void)argument;
	measure_operations(measurement, operations, sizeof operations / sizeof *operations, ladder_blocks());
	stay_on_this_processor();
	two_processes_start(&two, 0);
	measure_operations(measurement, &ping_pong, 1, ladder_blocks());
}

void group_fork(struct measurement *measurement, void *rung)
{
	static const size_t sizes[] = { 10 * MIB, 128 * MIB, GIB };
	size_t size = (size_t)((const struct rung *)rung - &rungs[FORK_10M]);
	unsigned samples = ladder.quick ? 2 : size == 2 ? 7 : 20;
	const struct operation operations[] = {
		{ &rungs[FORK_10M + size], run_fork, .samples = samples, .warm = 1 },
		{ &rungs[SPAWN_10M + size], run_spawn, .samples = samples, .warm = 1 },
	};
	find_program();
	measure_make_resident(sizes[size]);
	measure_operations(measurement, operations, 2, ladder.quick ? 1 : 5);
}
