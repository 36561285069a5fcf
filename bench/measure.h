/*
 * measure.h - the ladder of measurements: rungs, samples, the table and the JSON file.
 *
 * A group of rungs that wants a process of its own (a certain resident size, its own sthread_init()) runs in a forked
 * child; results are in memory shared with it.  Rungs of a group take turns in short blocks, so that a host whose speed
 * drifts is as slow for one as for the other.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "sthread.h"

enum {
	MEASURE_PEERS = 3,
	MEASURE_CHILDREN = 3,
	MEASURE_SAMPLES = 16384
};

struct rung {
	const char *name;
	const char *includes; /* what one iteration includes */
	struct {
		const struct rung *rung; /* the peer; NULL: none */
		double reach;            /* the ratio to it that is aimed at, or less; 0: none */
	} peers[MEASURE_PEERS];
	const char *section; /* it is the first of these; or NULL */
};

/* The counters that are kept per operation, unless measure_set_source() says otherwise. */
enum counter {
	COUNT_EXITS,
	COUNT_TRAPS,
	COUNT_CALLS,
	COUNT_GATE_CALLS,
	COUNT_COPIED,
	COUNT_RESTORED,
	COUNT_EDITS,
	COUNT_FLUSHES,
	COUNT_KEPT,
	COUNTERS
};

/* What ring 0 did, counted by single steps. */
struct ring0 {
	double instructions, visits;
};

struct result {
	size_t count;                    /* of samples */
	double samples[MEASURE_SAMPLES]; /* nanoseconds per operation */
	uint64_t operations;             /* that the counters cover; 0: no counters */
	double counters[COUNTERS];
	uint64_t stepped; /* operations that were run in single steps */
	struct ring0 ring0;
	double bytes;      /* resident memory of each; 0: not measured */
	char problem[200]; /* why there are no samples */
	bool hidden;       /* it has no row */
};

struct measurement {
	const struct rung *rungs;
	size_t count;
	struct result *results; /* one per rung, shared with children */
};

/* How a rung is measured. */
struct operation {
	const struct rung *rung;
	void (*run)(void *argument);
	void *argument;
	unsigned inner;                  /* operations that one call of run does; 0 stands for 1 */
	unsigned samples;                /* in each block; 0 stands for 50 */
	unsigned warm;                   /* calls before the samples of each block, not counted */
	void (*between)(void *argument); /* after each sample: neither timed nor counted; or NULL */
};

/* Preconditions: called once, before any child.  Ends the program if there is no memory. */
void measure_start(struct measurement *measurement, const struct rung *rungs, size_t count);

/* Where counters and time come from, in the process that sets it and its children. */
struct measure_source {
	bool (*counters)(double counters[COUNTERS]); /* the counters so far, COUNT_EXITS first; false: there are none */
	const char *const *names;                    /* COUNTERS of them; NULL for those that are not used */
	uint64_t (*now)(void);                       /* nanoseconds; NULL: the system's monotonic clock */
};
void measure_set_source(const struct measure_source *source);

/* Runs run(argument) in single steps of the virtual CPU and adds what ring 0 did; false if that cannot be counted here.
 * Then every operation is run so once more in the first round of the calling child. */
typedef bool measure_stepper(void (*run)(void *argument), void *argument, struct ring0 *ring0);
void measure_set_stepper(measure_stepper *stepper);

/* From now on operations are not timed: each is run once, for its counters. */
void measure_count_only(void);

/* A group, and those of the rungs that it measures (ended by NULL). */
struct measure_group {
	void (*run)(struct measurement *, void *argument);
	void *argument;
	const struct rung *const *wanted;
};

/* Runs up to MEASURE_CHILDREN groups, each in a child, and waits for them.  Each has made ready what it needs before the first one
 * measures, and then they take turns, a block of measure_operations() each: they must have the same number of them. */
void measure_in_turns(struct measurement *measurement, const struct measure_group *groups, size_t count);

/* Runs group(argument) in a child and waits for it.  What the child says with measure_fail(), or how it crashed, becomes
 * the problem of those of the rungs `wanted` (ended by NULL) that have no samples. */
void measure_in_child(struct measurement *measurement, void (*group)(struct measurement *, void *), void *argument,
		      const struct rung *const wanted[]);
/* Ends the calling child. */
_Noreturn void measure_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Gives the operations `blocks` turns each. */
void measure_operations(struct measurement *measurement, const struct operation *operations, size_t count,
			unsigned blocks);

/* Adds one sample, or counters from elsewhere. */
void measure_add(struct measurement *measurement, const struct rung *rung, double nanoseconds);
void measure_add_counters(struct measurement *measurement, const struct rung *rung, uint64_t operations,
			  const double counters[COUNTERS]);

struct result *measure_result(const struct measurement *measurement, const struct rung *rung);

/* Median and 95th percentile of a rung's samples, in nanoseconds; NAN if there are none. */
struct summary {
	double median, p95;
};
struct summary measure_summary(const struct measurement *measurement, const struct rung *rung);

/* The name of a counter; NULL: it is not used. */
const char *measure_counter_name(unsigned counter);

/* Nanoseconds of a monotonic clock, or of the source's. */
uint64_t measure_now(void);

/* Resident memory of the process in bytes, and its open descriptors; -1 if /proc does not tell. */
long measure_resident(void);
long measure_descriptors(void);
/* Touches memory, in 4 KiB pages that are never zero, until `bytes` are resident.  It is never given back. */
void measure_make_resident(size_t bytes);

#endif
