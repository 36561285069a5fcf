/*
 * unit_harness.c - the harness notices what it must: it runs itself with tests that misbehave.
 */
#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *self;

/* ---- tests that misbehave -------------------------------------------------------------------------- */

static void passes(void)
{
	CU_ASSERT(1 + 1 == 2);
}

static void asserts_wrongly(void)
{
	CU_ASSERT_EQUAL(1 + 1, 3);
}

static void asserts_wrongly_and_jumps(void)
{
	CU_ASSERT_FATAL(1 + 1 == 3);
	abort();
}

static void asserts_wrongly_then_skips(void)
{
	CU_ASSERT(1 + 1 == 3);
	HARNESS_SKIP("cannot go on");
}

static void crashes(void)
{
	signal(SIGABRT, SIG_DFL);
	abort();
}

static void exits(void)
{
	_exit(0);
}

static void hangs(void)
{
	for (;;)
		pause();
}

static void skips(void)
{
	HARNESS_SKIP("no %s here", "unicorn");
}

static void leaves_a_process(void)
{
	if (fork() == 0)
		hangs();
}

static const struct {
	const char *name;
	struct harness_test tests[3];
} misbehaviours[] = {
	{ "assertion", { { "first", passes }, { "second", asserts_wrongly }, { "third", passes } } },
	{ "forked-assertion",
	  { { "first", passes, HARNESS_FORK }, { "second", asserts_wrongly, HARNESS_FORK }, { "third", passes } } },
	{ "fatal", { { "first", passes }, { "second", asserts_wrongly_and_jumps }, { "third", passes } } },
	{ "forked-fatal",
	  { { "first", passes },
	    { "second", asserts_wrongly_and_jumps, HARNESS_FORK },
	    { "third", passes, HARNESS_FORK } } },
	{ "crash", { { "first", passes }, { "second", crashes, HARNESS_FORK }, { "third", passes } } },
	{ "crash-here", { { "first", passes }, { "second", crashes }, { "third", passes } } },
	{ "exit", { { "first", passes }, { "second", exits, HARNESS_FORK }, { "third", passes } } },
	{ "hang", { { "first", passes }, { "second", hangs, HARNESS_FORK, 1 }, { "third", passes } } },
	{ "hang-here", { { "first", passes }, { "second", hangs, 0, 1 }, { "third", passes } } },
	{ "skip", { { "first", passes }, { "second", skips }, { "third", skips, HARNESS_FORK } } },
	{ "fail-and-skip", { { "first", passes }, { "second", asserts_wrongly_then_skips }, { "third", passes } } },
	{ "orphan", { { "first", passes }, { "second", leaves_a_process, HARNESS_FORK }, { "third", passes } } },
	{ "fine", { { "first", passes }, { "second", passes, HARNESS_FORK }, { "third", passes } } },
};

static int misbehave(int argc, char **argv, const char *how)
{
	size_t i;

	unsetenv("TEST_FILTER");
	setenv("TEST_TIME_SCALE", "1", 1);
	for (i = 0; i < sizeof(misbehaviours) / sizeof(misbehaviours[0]); i++)
		if (!strcmp(misbehaviours[i].name, how))
			return harness_main(argc, argv, misbehaviours[i].tests, 3, 0);
	return 99;
}

/* ---- the tests of the harness ---------------------------------------------------------------------- */

static char output[16384];

/* Runs this program as a misbehaving one; its output goes to output[]. Returns its wait status. */
static int run_as(const char *environment, const char *how)
{
	char command[4096];
	FILE *stream;
	size_t length;

	snprintf(command, sizeof(command), "%s exec '%s' %s 2>&1", environment, self, how);
	fflush(NULL);
	stream = popen(command, "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(stream);
	length = fread(output, 1, sizeof(output) - 1, stream);
	output[length] = '\0';
	return pclose(stream);
}

static int printed(const char *text)
{
	return strstr(output, text) != NULL;
}

/* Runs it and expects three results of which the second failed for a reason that contains reason. */
static void expect_second_fails(const char *how, const char *reason)
{
	int status = run_as("", how);

	CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	CU_ASSERT(printed("1..3\n"));
	CU_ASSERT(printed("\nok 1 - first\n"));
	CU_ASSERT(printed("\nnot ok 2 - second\n"));
	CU_ASSERT(printed("\nok 3 - third\n"));
	CU_ASSERT(printed(reason));
}

static void assertion(void)
{
	expect_second_fails("assertion", "unit_harness.c:");
	CU_ASSERT(printed("CU_ASSERT_EQUAL(1 + 1,3): failed\n"));
}

static void forked_assertion(void)
{
	expect_second_fails("forked-assertion", "CU_ASSERT_EQUAL(1 + 1,3): failed\n");
}

static void fatal(void)
{
	expect_second_fails("fatal", "1 + 1 == 3: failed");
	expect_second_fails("forked-fatal", "1 + 1 == 3: failed");
}

static void crash(void)
{
	expect_second_fails("crash", "died by signal 6");
}

static void crash_here(void)
{
	int status = run_as("", "crash-here");

	CU_ASSERT(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
	CU_ASSERT(printed("1..3\n") && !printed("ok 2") && !printed("ok 3"));
}

static void exit_0(void)
{
	expect_second_fails("exit", "exited with status 0");
}

static void hang(void)
{
	expect_second_fails("hang", "ends within 1 seconds");
}

static void hang_here(void)
{
	int status = run_as("", "hang-here");

	CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	CU_ASSERT(printed("\nnot ok 2 - second\n") && printed("ends within 1 seconds") && !printed("ok 3"));
}

static void skip(void)
{
	CU_ASSERT_EQUAL(run_as("", "skip"), 0);
	CU_ASSERT(printed("\nok 2 - second # SKIP no unicorn here\n"));
	CU_ASSERT(printed("\nok 3 - third # SKIP no unicorn here\n"));
}

static void fail_and_skip(void)
{
	expect_second_fails("fail-and-skip", "1 + 1 == 3: failed");
}

static void orphan(void)
{
	CU_ASSERT_EQUAL(run_as("", "orphan"), 0); /* popen() ends only when nothing holds the pipe any more */
	CU_ASSERT(printed("\nok 2 - second\n"));
}

static void fine(void)
{
	CU_ASSERT_EQUAL(run_as("", "fine"), 0);
	CU_ASSERT_STRING_EQUAL(output, "1..3\nok 1 - first\nok 2 - second\nok 3 - third\n");
}

static const struct harness_test tests[] = {
	{ "tests that pass are ok and the status is 0", fine },
	{ "a failed assertion is not ok, and says where", assertion },
	{ "a failed assertion in a forked test is not ok, and says where", forked_assertion },
	{ "a fatal assertion ends its test only, forked or not", fatal },
	{ "a crash of a forked test is not ok", crash },
	{ "a crash of a test in the program's own process gives a status other than 0", crash_here },
	{ "a forked test that exits before it returns is not ok, whatever its status", exit_0 },
	{ "a forked test that hangs is not ok after its limit", hang, .seconds = 20 },
	{ "a test that hangs in the program's own process ends it after its limit", hang_here, .seconds = 20 },
	{ "a skipped test is ok and gives the reason", skip },
	{ "a failed assertion is not forgotten by skipping", fail_and_skip },
	{ "what a forked test leaves running is ended", orphan, .seconds = 20 },
};

int main(int argc, char **argv)
{
	static char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (argc == 2)
		return misbehave(argc, argv, argv[1]);
	if (length < 0)
		return 1;
	self = path;
	return HARNESS_MAIN(argc, argv, tests, 0);
}
