/*
 * steps.h - counting the instructions that a thread in guest placement executes in ring 0, for tests and measurements.
 *
 * One thread at a time counts, and no other thread is in Dune mode meanwhile.
 */
#ifndef DUNE_STEPS_H
#define DUNE_STEPS_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Runs function(argument) in single steps and stores how many instructions ring 0 began for it: those of the entry code and
 * of handlers count, those of ring 3 and of the host side do not.  One that faults and is begun again counts twice, a
 * repeated string instruction once.  Some thousand times slower than without.
 * Errors: EINVAL: the calling thread is not in ring 0.
 */
int dune_steps_count(void (*function)(void *argument), void *argument, uint64_t *instructions);

/* Host side: whether a thread counts, or has not been told to stop. */
extern bool dune_steps_wanted, dune_steps_installed;

/* Host side: KVM_RUN, in single steps if that is wanted.  Returns the kernel's answer; the exits that it makes for its own
 * purposes are not seen.  Async-signal-safe.  Preconditions: the virtual CPU's general and system registers are synchronised
 * with `run` at each exit. */
long dune_steps_run(int vcpu, struct kvm_run *run);

#endif
