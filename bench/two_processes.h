/*
 * two_processes.h - two processes on one processor that wake each other through a futex: what a pool of processes costs.
 */
#ifndef BENCH_TWO_PROCESSES_H
#define BENCH_TWO_PROCESSES_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
	ROUND_TRIPS = 20 /* of one operation's call */
};

struct two_processes {
	unsigned pages;         /* that each writes to in its turn */
	_Atomic uint32_t *turn; /* 0: the parent's */
	uint8_t *memory;
};

/* Keeps the calling process on the processor that it is on. */
void stay_on_this_processor(void);
/* Starts the other process, which ends with this one.  Ends the calling child (measure_fail()) if that fails. */
void two_processes_start(struct two_processes *two, unsigned pages);
/* Operation: ROUND_TRIPS round trips. */
void two_processes_run(void *two);

/* Writes to one word of each page. */
static inline void touch_pages(volatile uint8_t *memory, unsigned pages)
{
	for (unsigned i = 0; i < pages; i++)
		++memory[(size_t)i * 4096];
}

#endif
