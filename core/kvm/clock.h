/*
 * clock.h - clocks that ring 3 reads by itself, from the time-stamp counter and what the supervisor has published.
 *
 * At each entry the supervisor stores the time and the counter, as the virtual CPU sees it, in the life page; from
 * there the trampoline counts on, a little slower than any host's clock runs (1 part in 1024).  So what ring 3 reads is
 * never ahead of the host's clock, is corrected at each entry, and never goes back, whether a life asks here or makes
 * the call.  A reading is at most 1/1024 of the time since the entry behind: 10 us in a slice.
 *
 * It is done only where the host's own clock is the counter, and where code run in the guest has shown that the counter
 * there is the host's, or is the host's plus the offset that KVM tells.  Else the calls are served.
 */
#ifndef DUNE_CLOCK_H
#define DUNE_CLOCK_H

#include "kvm/vcpu.h"

/* A reading of the host's clocks. */
struct dune_clock_sample {
	uint64_t monotonic, realtime; /* nanoseconds */
	uint64_t counter;             /* read after these */
};
struct dune_clock_sample dune_clock_now(void);

/* Finds out how fast the counter is.  Returns 0 where ring 3 cannot be given it: KVM does not tell, or not what two
 * readings of the clocks say. */
uint64_t dune_clock_multiplier(const struct dune_vcpu *vcpu, const struct dune_clock_sample *from);
/* The offset of the counter on a virtual CPU as KVM tells it.  Returns false if it does not. */
bool dune_clock_offset(const struct dune_vcpu *vcpu, uint64_t *offset);

/* Before a life runs on vcpu: tells it the time.  in_ring3: its clocks too, if that is possible here. */
void dune_clock_publish(const struct dune_vcpu *vcpu, struct dune_life *life, bool in_ring3);

#endif
