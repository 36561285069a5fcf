/*
 * harness.h - a thin layer over CUnit for the test programs of this tree.
 *
 * CUnit keeps the assertions, their failures and the verdict; the harness adds what it lacks: TAP on stdout, tests
 * that run in a process of their own with a time limit, skipping, and an exit status that can be believed.
 *
 *	static void a_page_is_mapped(void) { CU_ASSERT_EQUAL(...); }
 *
 *	static const struct harness_test tests[] = {
 *		{ "a mapped page is found by the walk", a_page_is_mapped },
 *		{ "a store to a read-only page ends the sthread", store_is_refused, HARNESS_FORK },
 *		{ "a spinning sthread ends", spinning_ends, HARNESS_FORK, .seconds = 20 },
 *	};
 *	int main(int argc, char **argv) { return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM); }
 *
 * A name states the property that holds.  Environment: TEST_FILTER runs only the tests whose name contains it;
 * TEST_TIME_SCALE multiplies every time limit (the lanes set it: emulated machines are slow); TEST_LANE is the lane's
 * name, unset on the host.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stddef.h>

#include <CUnit/CUnit.h>

enum { /* of a test */
	/* In a forked child: it may crash, enter rings, call sthread_init().  Assertions work there as everywhere, but
	 * not inside a compartment, which has a copy of CUnit's memory: let the body return a value and assert on it. */
	HARNESS_FORK = 1,
};

enum {                         /* of a program */
	HARNESS_NEEDS_KVM = 1, /* all tests are skipped, with the reason, where /dev/kvm cannot be opened */
};

enum {
	HARNESS_SECONDS = 30
}; /* the time limit of a test that names none */

struct harness_test {
	const char *name;
	void (*run)(void);
	unsigned flags;
	unsigned seconds;
};

/* Runs the tests and prints TAP.  Returns the exit status of the program: 0 all passed or skipped, 1 otherwise. */
int harness_main(int argc, char **argv, const struct harness_test *tests, size_t count, unsigned flags);
#define HARNESS_MAIN(argc, argv, tests, flags) \
	harness_main(argc, argv, tests, sizeof(tests) / sizeof((tests)[0]), flags)

/* Declares the running test skipped; return from it afterwards.  Failed assertions still make it fail. */
void harness_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define HARNESS_SKIP(...)                  \
	do {                               \
		harness_skip(__VA_ARGS__); \
		return;                    \
	} while (0)

/* Prints a diagnostic line.  From a forked test too. */
void harness_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The time limit factor (1 on the host), for waits inside tests. */
unsigned harness_time_scale(void);

#endif
