/*
 * dune_guest.h - what the live tests of guest placement share.
 *
 * Guest placement needs a KVM whose ring 0 is native.  Elsewhere every test is skipped.
 */
#ifndef DUNE_GUEST_TESTS_H
#define DUNE_GUEST_TESTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "dune.h"
#include "harness.h"

/* dune_init() for guest placement.  Returns false if this host cannot: then the test is skipped already. */
bool guest_init(void);
/* The same and dune_enter(). */
bool guest_begin(void);
#define GUEST_INIT()               \
	do {                       \
		if (!guest_init()) \
			return;    \
	} while (0)
#define GUEST_BEGIN()               \
	do {                        \
		if (!guest_begin()) \
			return;     \
	} while (0)

/* Privilege level of the caller, as the processor has it. */
unsigned guest_ring(void);
struct dune_counters guest_counters(void);

/* Runs body(argument) in a child made by fork() and waits for it, from where the caller is.  Returns its wait status. */
int guest_child(void (*body)(void *argument), void *argument);
/* The same; what the child writes on standard error goes to text (NUL-terminated). */
int guest_child_text(void (*body)(void *argument), void *argument, char *text, size_t room);
/* Whether a wait status says: exit(code), or death by the signal. */
bool guest_exited(int status, int code);
bool guest_killed(int status, int number);

/* Runs body; returns the number of SIGSEGV or SIGBUS that it ran into (then it did not end), 0 if none. */
int guest_signal_of(void (*body)(void *argument), void *argument);
/* Where the last one was, as si_addr says. */
extern void *guest_signal_address;

#endif
