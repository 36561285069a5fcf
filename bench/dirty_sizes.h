/*
 * dirty_sizes.h - sthreads that write to so many pages of the heap, and forked processes that do the same.
 */
#ifndef BENCH_DIRTY_SIZES_H
#define BENCH_DIRTY_SIZES_H

#include "measure.h"

/* Measures both in the calling child (measure_in_child), which has called neither sthread_init() nor this before. */
void dirty_sizes_measure(struct measurement *measurement, unsigned pages, const struct rung *fork_rung,
			 const struct rung *life_rung, unsigned blocks);

#endif
