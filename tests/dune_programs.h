/*
 * dune_programs.h - what the programs for the published interface of Dune share (live_dune_published*.c): a harness of a few
 * lines, and what such programs begin with.
 *
 * They know nothing but the installed header, are compiled against it by make installcheck, and are valid C++.
 */
#ifndef DUNE_PROGRAMS_H
#define DUNE_PROGRAMS_H

#include <dune.h>

#include <errno.h>
#include <stdlib.h>

enum {
	THREADS = 4,
	PAGES = 16
};
#define FAR ((char *)0x400000000000) /* nothing of the process is there */

/* ---- the harness ---- */

void check_line(bool good, int line, const char *what);
#define CHECK(what) check_line((what), __LINE__, #what)
#define REQUIRE(what)                            \
	do {                                     \
		bool is = (what);                \
		check_line(is, __LINE__, #what); \
		if (!is)                         \
			exit(1);                 \
	} while (0)

/* Ends the test. */
void skip(const char *why) __attribute__((noreturn));

struct test {
	const char *name;
	void (*run)(void);
	bool ring0; /* guest placement only */
};

/* Runs each test in a process of its own, in both placements.  Returns the exit status of the program. */
int run_tests(const struct test *tests, size_t count);

/* ---- Dune ---- */

/* dune_init_and_enter() in the test's placement, or the test is skipped. */
void enter(void);
/* The same, with syscall_handler() and the program mapped for ring 3. */
void begin(void);

/* Maps memory for ring 3 where it is. */
int map_here(const void *memory, size_t length, int perm);

/* Counts, refuses open(), openat() and socket(), passes on the rest.  exit() ends ring 3. */
void syscall_handler(struct dune_tf *tf);
extern volatile unsigned calls, passed, refused, faults;
extern volatile uint64_t fault_code;

/* A frame that begins a function on stack 0 to THREADS; it returns to ring3_returned, which makes exit(result). */
void frame_of(struct dune_tf *tf, long stack, const void *function, long first, long second);
/* Runs it on stack 0.  Returns its result. */
int run_user(long (*function)(long, long), long first, long second);

/* ---- functions for ring 3 ---- */

static inline long user_call(long number, long first, long second, long third)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(first), "S"(second), "d"(third)
			 : "rcx", "r11", "memory");
	return result;
}
long add(long first, long second);
/* Adds 1, 2 ... to the first words of pages. */
long store_to_pages(long address, long count);
long sum_of_pages(long address, long count);

#endif
