/*
 * slice.h - the timer that takes a thread out of the compartment it runs.
 */
#ifndef STHREAD_SLICE_H
#define STHREAD_SLICE_H

#include <stdint.h>

#define SLICE_NANOSECONDS ((uint64_t)10 * 1000 * 1000)
#define NANOSECONDS_PER_MILLISECOND ((uint64_t)1000 * 1000)

/* The monotonic clock, in nanoseconds. */
uint64_t slice_clock(void);

/* Sees to it that the calling thread is kicked when `within` nanoseconds have passed since `time`, which is now, or
 * somewhat earlier: whoever is kicked looks at the clock.  within: 1 to SLICE_NANOSECONDS.  Mostly no system call.
 * Errors: those of timer_create(2). */
int slice_arm(uint64_t time, uint64_t within);

/* From the first to the second the calling thread is kicked each SLICE_NANOSECONDS: a system call that has moved a part of
 * what it waits to move returns.  Afterwards slice_arm() arms the timer again. */
void slice_kick_often(void);
void slice_kick_no_more(void);

#endif
