/*
 * environment.h - what compartments may see of the arguments and the environment.
 *
 * At the top of the first thread's stack the kernel has laid out argc, the argument pointers, the environment
 * pointers, the auxiliary vector, and above them the strings.  Compartments see a picture of those pages: the
 * string of argv[0], the variables LANG, LC_* and TZ, the pointers to these, at their own addresses, and zeros
 * everywhere else.
 *
 * Called from: host mode; the process must not change its environment meanwhile.
 */
#ifndef STHREAD_ENVIRONMENT_H
#define STHREAD_ENVIRONMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether the variable of this string ("NAME=value") may be seen by compartments. */
bool environment_is_allowed(const char *string);

/* Says where in the first thread's stack the arguments and the environment begin, rounded down to a page: the
 * picture is made from there to the end of the [stack] mapping.  (prctl(PR_SET_MM) can make the kernel tell
 * anything: the caller checks that *start lies in that mapping.)
 * Errors: ENOTSUP /proc/self/stat does not tell; those of open(2) and read(2). */
int environment_extent(uintptr_t *start) __attribute__((warn_unused_result));

/*
 * Draws the picture of [start, end).  Written are only: the string of argv[0], if it is still as it was (not
 * written over by a longer title, nor argv[1] moved away); argc as 1, with argv[0] and its NULL; the strings of
 * allowed variables that lie in the range; and, if the array environ lies in the range, pointers at its place to
 * allowed strings that lie in the range or in the program's data and brk heap.
 *
 * Preconditions: environment_extent(&start); end is the end of the [stack] mapping; picture is end - start bytes
 * of zeros.
 * Errors: as environment_extent(); EINVAL the range is not page aligned, or does not hold the arguments.
 */
int environment_make_picture(uintptr_t start, uintptr_t end, void *picture) __attribute__((warn_unused_result));

/* Called with an area of process memory: the bytes of a string and its NUL. */
typedef void environment_string_fn(uintptr_t start, size_t length, void *argument);

/*
 * Reports every string of the environment that is not allowed, and every argument but argv[0], that does not lie
 * in the picture's range (the program has put it on the heap, say): it must be blanked in copies of that memory.
 * A string that setenv(3) has replaced and libc still keeps is not reachable from environ and not reported.
 * Errors: as environment_extent().
 */
int environment_forbidden_strings(environment_string_fn *report, void *argument) __attribute__((warn_unused_result));

#endif
