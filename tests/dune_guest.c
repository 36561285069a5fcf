/* dune_guest.c - see dune_guest.h. */
#define _GNU_SOURCE
#include "dune_guest.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

bool guest_init(void)
{
	CU_ASSERT_EQUAL_FATAL(dune_set_placement(DUNE_PLACEMENT_GUEST), 0);
	if (dune_init(true) == 0)
		return true;
	if (errno == ENOTSUP)
		harness_skip("no guest placement: %s", dune_error());
	else
		harness_note("dune_init(): %s", dune_error());
	CU_ASSERT_EQUAL(errno, ENOTSUP);
	return false;
}

bool guest_begin(void)
{
	if (!guest_init())
		return false;
	if (dune_enter() != 0) {
		harness_note("dune_enter(): %s", dune_error());
		CU_FAIL_FATAL("dune_enter() fails");
	}
	return true;
}

unsigned guest_ring(void)
{
	uint64_t selector;
	__asm__ volatile("mov %%cs, %0" : "=r"(selector));
	return selector & 3;
}

struct dune_counters guest_counters(void)
{
	struct dune_counters counters = { 0 };
	CU_ASSERT_EQUAL(dune_get_counters(&counters), 0);
	return counters;
}

int guest_child(void (*body)(void *argument), void *argument)
{
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		body(argument);
		_exit(0);
	}
	CU_ASSERT_FATAL(child > 0);
	int status = -1;
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	return status;
}

int guest_child_text(void (*body)(void *argument), void *argument, char *text, size_t room)
{
	int ends[2], status = -1;
	CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		dup2(ends[1], 2);
		close(ends[0]);
		close(ends[1]);
		body(argument);
		_exit(0);
	}
	CU_ASSERT_FATAL(child > 0);
	close(ends[1]);
	size_t have = 0;
	for (;;) {
		char rest[512];
		bool full = have + 1 >= room;
		ssize_t got = read(ends[0], full ? rest : text + have, full ? sizeof rest : room - 1 - have);
		if (got <= 0)
			break;
		have += full ? 0 : (size_t)got;
	}
	text[have] = 0;
	close(ends[0]);
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	return status;
}

bool guest_exited(int status, int code)
{
	bool good = WIFEXITED(status) && WEXITSTATUS(status) == code;
	if (!good)
		harness_note("status %#x, not exit(%d)", status, code);
	return good;
}

bool guest_killed(int status, int number)
{
	bool good = WIFSIGNALED(status) && WTERMSIG(status) == number;
	if (!good)
		harness_note("status %#x, not signal %d", status, number);
	return good;
}

static sigjmp_buf back;
void *guest_signal_address;

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)context;
	guest_signal_address = info->si_addr;
	siglongjmp(back, number);
}

int guest_signal_of(void (*body)(void *argument), void *argument)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO }, segv, bus;
	sigaction(SIGSEGV, &action, &segv);
	sigaction(SIGBUS, &action, &bus);
	int number = sigsetjmp(back, 1);
	if (number == 0)
		body(argument);
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return number;
}
