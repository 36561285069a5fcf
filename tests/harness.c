/*
 * harness.c - see harness.h.
 *
 * A forked test returns into CUnit in the child as well; there the completion handler sends what failed through a
 * pipe and ends the child, so that a fatal assertion (a jump back into CUnit) is reported like any other.
 */
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <CUnit/TestRun.h>

enum {
	FINISHED = 'd', /* messages of a child, one line each: FINISHED; FAILED line file expression; SKIPPED reason */
	FAILED = 'f',
	SKIPPED = 's',
};

static struct {
	const struct harness_test *test; /* the running one */
	unsigned number;                 /* its TAP number */
	bool skipped;
	char reason[256];
	int report; /* in a child: where to report; -1 otherwise */
} now = { .report = -1 };

static const struct harness_test **selected;
static unsigned scale = 1;

unsigned harness_time_scale(void)
{
	return scale;
}

void harness_skip(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(now.reason, sizeof(now.reason), format, arguments);
	va_end(arguments);
	now.reason[strcspn(now.reason, "\n")] = '\0';
	now.skipped = true;
}

void harness_note(const char *format, ...)
{
	char line[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	line[strcspn(line, "\n")] = '\0';
	printf("# %s\n", line);
	fflush(stdout);
}

/* Fails the running test as CU_ASSERT would, at the place that a child named. */
static void fail_at(const char *file, unsigned line, const char *expression)
{
	CU_assertImplementation(CU_FALSE, line, expression, file, "", CU_FALSE);
}

static unsigned limit_of(const struct harness_test *test)
{
	return (test->seconds ? test->seconds : (unsigned)HARNESS_SECONDS) * scale;
}

/* ---- tests in a child ------------------------------------------------------------------------------ */

/* Child: sends the outcome and ends. */
static void report_and_exit(const CU_pFailureRecord failures)
{
	FILE *stream = fdopen(now.report, "w");
	CU_pFailureRecord failure;

	if (!stream)
		_exit(1);
	for (failure = failures; failure; failure = failure->pNext)
		fprintf(stream, "%c%u %s %s\n", FAILED, failure->uiLineNumber, failure->strFileName,
			failure->strCondition);
	if (now.skipped)
		fprintf(stream, "%c%s\n", SKIPPED, now.reason);
	fprintf(stream, "%c\n", FINISHED);
	fflush(NULL);
	_exit(0);
}

/* Parent: acts on one line; returns whether the child said that it finished. */
static bool take_message(char *line)
{
	char *file, *expression;
	unsigned number;

	switch (line[0]) {
	case FINISHED:
		return true;
	case SKIPPED:
		harness_skip("%s", line + 1);
		return false;
	case FAILED:
		number = (unsigned)strtoul(line + 1, &file, 10);
		file += *file == ' ';
		expression = strchr(file, ' ');
		if (expression) {
			*expression++ = '\0';
			fail_at(file, number, expression);
			return false;
		}
	}
	fail_at(__FILE__, __LINE__, "the child reports in the harness's format");
	return false;
}

static long milliseconds(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Parent: reads messages until the child has ended or the limit has passed.  Returns whether it ended by itself. */
static bool follow_child(int report, int child, unsigned seconds, bool *finished)
{
	static char buffer[65536];
	size_t filled = 0;
	long end = milliseconds() + seconds * 1000L;
	struct pollfd wait[] = { { report, POLLIN, 0 }, { child, POLLIN, 0 } };

	for (;;) {
		long left = end - milliseconds();
		ssize_t got;
		char *line, *next;
		bool ended;

		if (left <= 0)
			return false;
		if (poll(wait, 2, (int)left) < 0 && errno != EINTR)
			return false;
		ended = wait[1].revents;
		while ((got = read(report, buffer + filled, sizeof(buffer) - 1 - filled)) > 0) {
			filled += (size_t)got;
			buffer[filled] = '\0';
			for (line = buffer; (next = strchr(line, '\n')); line = next + 1) {
				*next = '\0';
				*finished |= take_message(line);
			}
			filled = (size_t)(buffer + filled - line);
			memmove(buffer, line, filled);
			if (filled == sizeof(buffer) - 1)
				filled = 0;
		}
		if (ended)
			return true;
		if (got == 0)
			wait[0].fd = -1; /* the child closed it: only its end is left to wait for */
	}
}

static void run_in_child(const struct harness_test *test)
{
	char what[256];
	int report[2], child, status;
	bool finished = false, ended;
	pid_t pid;

	if (pipe2(report, O_CLOEXEC | O_NONBLOCK) < 0) {
		fail_at(__FILE__, __LINE__, "pipe2() succeeds");
		return;
	}
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		close(report[0]);
		fcntl(report[1], F_SETFL, 0);
		now.report = report[1];
		test->run();
		return; /* into CUnit, and so to the completion handler */
	}
	close(report[1]);
	if (pid < 0) {
		close(report[0]);
		fail_at(__FILE__, __LINE__, "fork() succeeds");
		return;
	}
	setpgid(pid, pid);
	child = pidfd_open(pid, 0);
	ended = child >= 0 && follow_child(report[0], child, limit_of(test), &finished);
	kill(-pid, SIGKILL); /* it, if it still runs, and what it left behind */
	waitpid(pid, &status, 0);
	close(child);
	close(report[0]);
	if (!ended)
		snprintf(what, sizeof(what), "the test ends within %u seconds", limit_of(test));
	else if (WIFSIGNALED(status))
		snprintf(what, sizeof(what), "the test returns (it died by signal %d, %s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else if (!finished)
		snprintf(what, sizeof(what), "the test returns (its process exited with status %d)",
			 WEXITSTATUS(status));
	else
		return;
	fail_at(test->name, 0, what);
}

/* ---- tests in this process ------------------------------------------------------------------------- */

static char out_of_time[512];

/* Async-signal-safe. */
static void on_alarm(int signal)
{
	(void)signal;
	if (write(STDOUT_FILENO, out_of_time, strlen(out_of_time)) < 0)
		_exit(2);
	_exit(1);
}

static void run_here(const struct harness_test *test)
{
	struct sigaction action = { .sa_handler = on_alarm };

	fflush(stdout);
	snprintf(out_of_time, sizeof(out_of_time), "not ok %u - %s\n# the test ends within %u seconds: failed\n",
		 now.number, test->name, limit_of(test));
	sigaction(SIGALRM, &action, NULL);
	alarm(limit_of(test));
	test->run();
}

/* ---- CUnit's side ---------------------------------------------------------------------------------- */

/* The function of every test that CUnit knows. */
static void run_selected(void)
{
	if (now.test->flags & HARNESS_FORK)
		run_in_child(now.test);
	else
		run_here(now.test);
}

static void on_start(const CU_pTest test, const CU_pSuite suite)
{
	(void)test, (void)suite;
	now.test = selected[now.number++];
	now.skipped = false;
}

static void on_complete(const CU_pTest test, const CU_pSuite suite, const CU_pFailureRecord failures)
{
	CU_pFailureRecord failure;

	(void)test, (void)suite;
	if (now.report >= 0)
		report_and_exit(failures);
	alarm(0);
	printf("%s %u - %s%s%s\n", failures ? "not ok" : "ok", now.number, now.test->name,
	       now.skipped && !failures ? " # SKIP " : "", now.skipped && !failures ? now.reason : "");
	for (failure = failures; failure; failure = failure->pNext)
		printf("# %s:%u: %s: failed\n", failure->strFileName, failure->uiLineNumber, failure->strCondition);
	fflush(stdout);
}

static int skip_all(const char *format, const char *argument)
{
	printf("1..0 # SKIP ");
	printf(format, argument);
	printf("\n");
	return 0;
}

int harness_main(int argc, char **argv, const struct harness_test *tests, size_t count, unsigned flags)
{
	const char *filter = getenv("TEST_FILTER"), *factor = getenv("TEST_TIME_SCALE");
	const char *program = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
	CU_pSuite suite;
	unsigned chosen = 0, failed;
	size_t i;
	int kvm;

	(void)argc;
	if (factor && atoi(factor) > 0)
		scale = (unsigned)atoi(factor);
	if (flags & HARNESS_NEEDS_KVM) {
		kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
		if (kvm < 0)
			return skip_all("cannot open /dev/kvm: %s", strerror(errno));
		close(kvm);
	}
	selected = calloc(count, sizeof(*selected));
	if (!selected || CU_initialize_registry() != CUE_SUCCESS || !(suite = CU_add_suite(program, NULL, NULL)))
		goto broken;
	for (i = 0; i < count; i++) {
		if (filter && !strstr(tests[i].name, filter))
			continue;
		selected[chosen++] = &tests[i];
		if (!CU_add_test(suite, tests[i].name, run_selected))
			goto broken;
	}
	if (!chosen) {
		CU_cleanup_registry();
		free(selected);
		return skip_all("no test's name contains '%s'", filter ? filter : "");
	}
	printf("1..%u\n", chosen);
	CU_set_test_start_handler(on_start);
	CU_set_test_complete_handler(on_complete);
	CU_set_error_action(CUEA_IGNORE);
	if (CU_run_all_tests() != CUE_SUCCESS)
		goto broken;
	failed = CU_get_number_of_failure_records();
	if (CU_get_number_of_tests_run() != chosen)
		failed++;
	CU_cleanup_registry();
	free(selected);
	return failed ? 1 : 0;

broken:
	printf("Bail out! CUnit: %s\n", CU_get_error_msg());
	CU_cleanup_registry();
	free(selected);
	return 1;
}
