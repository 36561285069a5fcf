/*
 * dune_bench.h - what the parts of dune-bench share: its rungs, and how a group of operations is run.
 *
 * dune.c         the rungs, the groups, the table
 * dune_linux.c   the peers: what Linux offers a process for the same purpose
 * dune_ring0.c   code of the process in ring 0 (guest placement)
 * dune_ring3.c   ring-3 code and handlers (both placements)
 */
#ifndef BENCH_DUNE_BENCH_H
#define BENCH_DUNE_BENCH_H

#include "dune.h"
#include "measure.h"

enum {
	GETPID,
	GETPID_RING0,
	GETPID_RING3,
	FAULT,
	FAULT_MIRRORED,
	FAULT_FAR,
	FAULT_FAR_MIRRORED,
	FAULT_RING0,
	FAULT_RING3,
	WALK_SMALL,
	WALK_SMALL_RING0,
	WALK_SMALL_RING3,
	WALK_LARGE,
	WALK_LARGE_RING0,
	WALK_LARGE_RING3,
	CALL_PTRACE,
	CALL_SYSEMU,
	CALL_NOTIFY,
	CALL_DISPATCH,
	CALL_RING3,
	TRAP_SIGNAL,
	TRAP_RING0,
	TRAP_RING3,
	APPEL1_SIGNAL,
	APPEL1_RING0,
	APPEL1_RING3,
	APPEL2_SIGNAL,
	APPEL2_RING0,
	APPEL2_RING3,
	SWITCH_PIPE_1,
	SWITCH_PIPE_30,
	SWITCH_PIPE_300,
	SWITCH_FUTEX_1,
	SWITCH_FUTEX_30,
	SWITCH_FUTEX_300,
	SWITCH_FLUSH_1,
	SWITCH_FLUSH_30,
	SWITCH_FLUSH_300,
	SWITCH_TAGS_1,
	SWITCH_TAGS_30,
	SWITCH_TAGS_300,
	SWITCH_RING3_1,
	SWITCH_RING3_30,
	SWITCH_RING3_300,
	DUNE_RUNGS
};
extern const struct rung dune_rungs[DUNE_RUNGS];

/* Counters of an operation, in the order of measure.h's. */
enum {
	COUNT_FORWARDED = COUNT_EXITS + 1, /* system calls */
	COUNT_MIRRORED,                    /* page faults by which memory was mirrored */
	COUNT_INSTRUCTIONS                 /* of ring 0 */
};

enum {
	PAGE_BYTES = 4096,
	HUGE_BYTES = 2 << 20,
	FAULT_PAGES = 32,  /* pages touched in one sample */
	APPEL_PAGES = 100, /* pages of appel1 and appel2 */
	WALK_STEPS = 20000 /* loads of one sample */
};

extern struct dune_bench_options {
	bool quick;
	bool count; /* the clock is not wall time: count instructions and exits instead */
	unsigned rounds;
	unsigned calls;    /* operations of one sample, where they can be repeated at once */
	unsigned switches; /* round trips of one sample */
	size_t walked;     /* bytes of the array */
} dune_bench;

/* Runs a group's operations: times them, or counts. */
void dune_bench_run(struct measurement *measurement, const struct operation *operations, size_t count);

/* ---- operations of more than one group --------------------------------------------------------------------------- */

/* dune_bench.calls times getpid(). */
void dune_bench_getpid(void *argument);

/* Memory that was never touched: FAULT_PAGES pages, `stride` bytes apart. */
struct untouched {
	size_t stride;
	uint8_t *memory;
};
void dune_bench_untouched_new(void *untouched); /* gives back what there is and maps it anew */
void dune_bench_untouched_run(void *untouched); /* writes to each page */

/* An array of the process with one word in each page (and another cache line in each), which form a random cycle. */
struct walk {
	uint8_t *memory; /* aligned to `bytes` */
	size_t bytes;
	uint64_t at; /* offset of the next load */
};
/* huge: in pages of 2 MiB.  Ends the group if the kernel has none. */
void dune_bench_walk_new(struct walk *walk, bool huge);
void dune_bench_walk_run(void *walk);

/* The order in which appel1 and appel2 touch their pages. */
unsigned dune_bench_appel_page(unsigned i);

/* ---- groups: run in a child of their own ------------------------------------------------------------------------- */

void group_linux_process(struct measurement *measurement, void *argument);
void group_linux_walks(struct measurement *measurement, void *argument);
void group_linux_calls(struct measurement *measurement, void *argument);
void group_linux_switches(struct measurement *measurement, void *argument);
void group_ring0(struct measurement *measurement, void *argument);
void group_ring0_walks(struct measurement *measurement, void *argument);
void group_ring3(struct measurement *measurement, void *argument);
void group_ring3_walks(struct measurement *measurement, void *argument);

/* Enters Dune mode and makes its counters, and a clock that works in ring 0, the source of measurements.  Ends the group
 * if that fails. */
void dune_bench_enter(enum dune_placement placement);
/* The placement for ring-3 code: any, unless the environment says otherwise. */
enum dune_placement dune_bench_placement(void);

#endif
