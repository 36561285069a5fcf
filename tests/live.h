/*
 * live.h - what the live tests share.
 *
 * A body runs in a compartment, where CUnit's memory is a copy: it returns a value, and the test asserts on that.
 * Globals that a test changes after sthread_init() are not seen by bodies either: they get their argument, or a tag.
 */
#ifndef LIVE_H
#define LIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <callgate.h>
#include <sthread.h>

#include "harness.h"

/* Exceptions, and the error codes of page faults as ring 3 sees them. */
enum {
	DIVIDE_ERROR = 0,
	DEBUG_TRAP = 1,
	BREAKPOINT = 3,
	INVALID_OPCODE = 6,
	GENERAL_PROTECTION = 13,
	PAGE_FAULT = 14,
	ALIGNMENT_CHECK = 17,

	READ_ABSENT = 4,
	READ_DENIED = 5,
	WRITE_ABSENT = 6,
	WRITE_DENIED = 7,
	EXECUTE_ABSENT = 0x14,
	EXECUTE_DENIED = 0x15,
};

/* sthread_init(), which must succeed: else the test ends. */
void live_init(void);

/* One life from create to join. */
struct life {
	int error;   /* 0, or errno of the call that failed: ECANCELED if it ended otherwise than by returning */
	void *value; /* what the body returned */
	struct sthread_info info;
};
struct life live_run(const sc_t *sc, stcb_t body, void *argument);
/* The same with a policy that grants nothing. */
struct life live_run_bare(stcb_t body, void *argument);
/* sthread_create() and sthread_step(), and more steps until it has ended or is parked: on a slow machine a slice may be
 * over before. */
int live_create(sthread_t *st, const sc_t *sc, stcb_t body, void *argument);
int live_step(sthread_t st);
/* Joins and tells. */
struct life live_join(sthread_t st);

/* Failures name the line of the test and what came instead. */
void live_check(bool good, const char *file, unsigned line, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void live_check_returned(const struct life *life, uint64_t value, const char *file, unsigned line);
void live_check_fault(const struct life *life, unsigned vector, uint64_t error_code, uint64_t address, const char *file,
		      unsigned line);
void live_check_end(const struct life *life, enum sthread_end end, const char *file, unsigned line);

#define ASSERT_RETURNED(outcome, value)                                               \
	do {                                                                          \
		struct life checked = (outcome);                                      \
		live_check_returned(&checked, (uint64_t)(value), __FILE__, __LINE__); \
	} while (0)
/* A page fault with this error code at this address. */
#define ASSERT_PAGE_FAULT(outcome, code, at)                                                        \
	do {                                                                                        \
		struct life checked = (outcome);                                                    \
		live_check_fault(&checked, PAGE_FAULT, (code), (uint64_t)(at), __FILE__, __LINE__); \
	} while (0)
/* Another exception. */
#define ASSERT_EXCEPTION(outcome, vector, code)                                      \
	do {                                                                         \
		struct life checked = (outcome);                                     \
		live_check_fault(&checked, (vector), (code), 0, __FILE__, __LINE__); \
	} while (0)
#define ASSERT_END(outcome, how)                                     \
	do {                                                         \
		struct life checked = (outcome);                     \
		live_check_end(&checked, (how), __FILE__, __LINE__); \
	} while (0)
#define ASSERT_EQUAL(actual, expected)                                                                            \
	do {                                                                                                      \
		long long is = (long long)(actual), should = (long long)(expected);                               \
		live_check(is == should, __FILE__, __LINE__, "%s is %lld (%#llx), not %s, %lld", #actual, is, is, \
			   #expected, should);                                                                    \
	} while (0)
/* A call that fails with this errno.  `failed` is an expression such as f() == -1. */
#define ASSERT_ERROR(failed, wanted)                                                                                 \
	do {                                                                                                         \
		errno = 0;                                                                                           \
		bool refused = (failed);                                                                             \
		int got = errno;                                                                                     \
		live_check(refused &&got == (wanted), __FILE__, __LINE__, "%s, errno %d, should be %s: %s", #failed, \
			   got, #wanted, refused ? "another errno" : "it succeeded");                                \
	} while (0)

/* Bodies. */
void *body_nothing(void *argument); /* returns its argument */
void *body_read(void *address);     /* returns the byte there */
void *body_write(void *address);    /* stores one; returns 1 */
void *body_jump(void *address);     /* calls it; returns 1 */
void *body_park_then_read(void *address);
void *body_spin(void *unused);

/* ---- a look into the machine (internal headers) ------------------------------------------------------------------ */

uint64_t live_window(void);
bool live_ring0_native(void);
/* Whether this thread lives in ring 0 (lane svm-guest), which runs compartments itself: what is an exit elsewhere is none. */
bool live_from_ring0(void);
/* Whether the processor is QEMU's emulated AMD one (lane svm), which deviates from the real ones: far and interrupt
 * returns in ring 3 fault under SMAP, there are no alignment checks, INT1 is undefined, and the error code of a refused
 * software interrupt is wrong. */
bool live_emulated_amd(void);
/* Whether ring 3 may OUT to the exit ports. */
bool live_io_exit(void);
bool live_umip(void);

/* Calls visit for each present leaf of an sthread that has not ended: its address, and the entry. */
void live_walk(sthread_t st, void (*visit)(uint64_t address, uint64_t entry, void *argument), void *argument);
/* How often needle lies in memory that the sthread can read: mapped now, or brought in when it touches it. */
unsigned live_find(sthread_t st, const void *needle, size_t size);
/* Text stored so that it does not lie in the program as such: each byte with bit 7 flipped. */
void live_reveal(char *text, const char *hidden);

int live_open_fds(void);
double live_seconds(void);

#endif
