/*
 * record.h - what an end of a TLS connection does with one record, without a network: reads a request, makes an answer and
 * encrypts it.  Measured again and again, and right after an exit from a compartment.
 */
#ifndef BENCH_RECORD_H
#define BENCH_RECORD_H

#include "measure.h"

/*
 * Measures it as `again`; and an exit with the same after it as `after_exit`.  The difference, without the exit, is what code
 * costs more because KVM_RUN leaves branch predictors, caches and translations of others behind.  Called from a child, which
 * ends if that cannot be done, or if the demo was not built.  Preconditions: the child has not called sthread_init().
 */
void record_measure(struct measurement *measurement, const struct rung *again, const struct rung *after_exit,
		    unsigned blocks);

#endif
