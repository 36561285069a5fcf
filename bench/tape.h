/*
 * tape.h - what the supervisor does between exits, apart from the exits.
 *
 * The program is linked with -Wl,--wrap for dune_vcpu_run() and for the host calls below.  An operation is recorded once: how
 * each of its runs of a compartment ended, with which registers.  Then it can be played: the same calls of the library, in
 * which no compartment runs because the run loop answers at once with what is on the tape.  What a played operation takes is
 * the supervisor's own time.
 */
#ifndef BENCH_TAPE_H
#define BENCH_TAPE_H

#include "kvm/vcpu.h"

enum {
	TAPE_EXITS = 320
};

/* Calls of the host that are counted. */
enum host_call {
	HOST_CLOCK, /* clock_gettime(), which is no system call where the vDSO has it */
	HOST_TIMER, /* timer_settime() */
	HOST_READ,  /* preadv() */
	HOST_IOCTL, /* of KVM, but for KVM_RUN */
	HOST_CALLS
};

struct tape {
	void (*run)(void *argument); /* the operation */
	void *argument;
	unsigned count;
	struct tape_exit {
		struct dune_exit exit;
		struct kvm_regs regs;
		uint64_t fs_base, gs_base;
	} exits[TAPE_EXITS];
	unsigned kinds[DUNE_EXIT_BROKEN + 1]; /* of the exits */
	unsigned tenants;                     /* changes of tenant */
	unsigned host_calls[HOST_CALLS];
};

/* Runs the operation and keeps what it does; again, if a kick came between.  Ends the calling child (measure_fail()) if it
 * does not fit. */
void tape_record(struct tape *tape);

/* Operations: the tape's, as it is; played. */
void tape_run(void *tape);
void tape_play(void *tape);

/* Nanoseconds spent in the run loop so far. */
uint64_t tape_in_run_loop(void);

#endif
