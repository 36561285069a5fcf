/*
 * parallel.h - two sthreads that compute, and twice a thousand that do nothing, one after the other and on two host threads
 * at once.
 */
#ifndef BENCH_PARALLEL_H
#define BENCH_PARALLEL_H

#include "measure.h"

/* Starts the second host thread and the policies.  Preconditions: sthread_init() was successful. */
void parallel_prepare(void);
/* Operations. */
void run_serially(void *unused);
void run_in_parallel(void *unused);
void live_serially(void *unused);
void live_in_parallel(void *unused);

#endif
