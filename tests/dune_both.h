/*
 * dune_both.h - a test of Dune runs its body twice: as Linux runs it, which shows that the test expects what Linux does, and
 * then in ring 0 of the guest, where nothing may be different.
 */
#ifndef DUNE_BOTH_H
#define DUNE_BOTH_H

#include <dune.h>

#include <signal.h>
#include <time.h>

#include "live.h"

/* Signals and timers as a program begins with them. */
static inline void both_reset(void)
{
	sigset_t none;

	for (int number = 1; number <= SIGRTMAX; number++)
		if (number != SIGKILL && number != SIGSTOP && (number < 32 || number >= SIGRTMIN)) {
			signal(number, SIG_IGN); /* which drops what is pending */
			signal(number, SIG_DFL);
		}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, NULL);
}

/* Whether guest placement is possible here; if so, it has been chosen and dune_init() done. */
static inline bool both_native(void)
{
	struct dune_host host;

	ASSERT_EQUAL(dune_probe(&host), 0);
	if (!host.ring0_native)
		return false;
	ASSERT_EQUAL(dune_set_placement(DUNE_PLACEMENT_GUEST), 0);
	ASSERT_EQUAL(dune_init(true), 0);
	return true;
}

#define BOTH_SKIP() HARNESS_SKIP("ring 0 is interpreted here: only Linux itself was tried")

#define BOTH(body)                                \
	do {                                      \
		body();                           \
		both_reset();                     \
		if (!both_native())               \
			BOTH_SKIP();              \
		ASSERT_EQUAL(dune_enter(), 0);    \
		body();                           \
		ASSERT_EQUAL(dune_in_guest(), 1); \
		ASSERT_EQUAL(dune_leave(), 0);    \
	} while (0)

#endif
