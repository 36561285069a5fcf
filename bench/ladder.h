/*
 * ladder.h - what the parts of bench share: its rungs, its options, and its groups.
 *
 * ladder.c           the rungs: names, what one operation includes, peers, ratios that are aimed at
 * ladder_process.c   the process as it is: calls, processes, threads
 * ladder_sthreads.c  exits, lives, steps, served calls, gates
 * ladder_pages.c     lives that write to pages, beside forks and memcpy()
 * ladder_switch.c    gate calls whose sides touch pages, beside two processes that wake each other
 * ladder_live.c      steps among many parked sthreads
 * ladder_https.c     requests to sthread-httpd
 * bench.c            the run: options, rounds, rows that are computed from others
 *
 * A group runs in a child of its own (measure_in_child()).
 */
#ifndef BENCH_LADDER_H
#define BENCH_LADDER_H

#include "measure.h"

#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

enum {
	DIRTY_SIZES = 6,  /* 0, 8, 32, 128, 256, 512 pages */
	SWITCH_SIZES = 4, /* 1, 30, 100, 300 pages */
	LIVE_SIZES = 5,   /* 1, 10, 100, 1000, 10000 sthreads */
};
extern const unsigned dirty_sizes[DIRTY_SIZES], switch_sizes[SWITCH_SIZES], live_sizes[LIVE_SIZES];

/* Rungs of one kind in different sizes stand in the order of the sizes. */
enum {
	FUNCTION,
	GETPPID,
	THREAD,
	PING_PONG,
	FORK_10M,
	FORK_128M,
	FORK_1G,
	SPAWN_10M,
	SPAWN_128M,
	SPAWN_1G,
	BARE_EXIT,
	LIFE,
	LIFE_FRESH,
	LIFE_BESIDE,
	LIFE_1G_BEFORE,
	LIFE_1G_AFTER,
	LIFE_DIRTY,
	STEP,
	SERVED_CALL,
	SERVED_READ,
	GATE,
	GATE_BUFFER,
	LIFE_DIRTIES,
	FORK_DIRTIES = LIFE_DIRTIES + DIRTY_SIZES,
	MEMCPY = FORK_DIRTIES + DIRTY_SIZES,
	STORES = MEMCPY + DIRTY_SIZES,
	PAGE_RESTORED = STORES + DIRTY_SIZES,
	PAGE_COPIED,
	PAGE_STORED,
	GATE_TOUCHES,
	FUTEX_TOUCHES = GATE_TOUCHES + SWITCH_SIZES,
	LIVE = FUTEX_TOUCHES + SWITCH_SIZES,
	SERIAL = LIVE + LIVE_SIZES,
	PARALLEL,
	LIVES_SERIAL,
	LIVES_PARALLEL,
	HTTPS_NEW_NONE,
	HTTPS_NEW,
	HTTPS_KEEP_NONE,
	HTTPS_KEEP,
	RUNGS
};
extern const struct rung rungs[RUNGS];

extern struct ladder_options {
	bool quick;
	bool count; /* the clock is not wall time: nothing but counters */
	unsigned rounds;
	const char *httpd;
} ladder;

/* Turns that the operations of a group get. */
unsigned ladder_blocks(void);

/* Groups.  The argument is said where it is not NULL. */
void group_process(struct measurement *measurement, void *argument);
void group_fork(struct measurement *measurement, void *rung); /* FORK_*: this size, and SPAWN_* of the same */
void group_sthreads(struct measurement *measurement, void *snapshot_fact);
void group_resident(struct measurement *measurement, void *rung); /* LIFE_BESIDE or LIFE_1G_* */
void group_parallel(struct measurement *measurement, void *argument);
void group_dirty_peers(struct measurement *measurement, void *size); /* an index, as a pointer */
void group_dirty_lives(struct measurement *measurement, void *size);
void group_futex_touches(struct measurement *measurement, void *argument);
void group_gate_touches(struct measurement *measurement, void *argument);
void group_live(struct measurement *measurement, void *size);
void group_https(struct measurement *measurement, void *argument);

#endif
