/*
 * dune.h - the process's own ring 0 through KVM: what the host offers.
 *
 * This release has host placement only: the process stays in host mode and runs ring-3 compartments in a virtual
 * machine.  libsthread is built on it; programs use <sthread.h>.
 */
#ifndef DUNE_H
#define DUNE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How a compartment reaches the supervisor. */
enum dune_exit_path {
	DUNE_EXIT_IO_BITMAP, /* OUT in ring 3, allowed by the TSS I/O bitmap */
	DUNE_EXIT_GATE,      /* a software interrupt, then OUT in ring 0 */
};

/* What a host's KVM offers, probed by running code in it. */
struct dune_host {
	char vendor[13];            /* of the processor, as CPUID says */
	bool ring0_native;          /* SYSCALL reaches ring 0; false: ring 0 is interpreted, SYSCALL stays in ring 3 */
	bool shadow_paging;         /* edits of present entries made from outside are not seen */
	bool dirty_bits;            /* the accessed and dirty bits follow what ring 3 does */
	bool pcid, invpcid;         /* tagged TLB */
	bool smep, smap, umip;      /* in use */
	bool xsave;                 /* else FXSAVE */
	uint64_t vector_components; /* XCR0 */
	enum dune_exit_path exit_path;
	unsigned physical_bits;  /* of guest-physical addresses */
	unsigned processors_max; /* virtual CPUs */
	double exit_nanoseconds; /* median of a bare exit from ring 3 and back */
	double trap_nanoseconds; /* median of a page fault in ring 3, reported by an exit, and back */
	double call_nanoseconds; /* median of a system call in ring 3, reported by an exit, and back */
	bool ring3_clocks;       /* compartments read clocks from the time-stamp counter, without a call */
};

/* Opens KVM, makes the process's virtual machine if there is none yet, and says what the host offers.
 * Returns 0, or -1 with errno: ENOENT, EACCES, ENOTSUP, ENOMEM; dune_error() has the sentence.
 * Called from: host mode, any thread. */
int dune_probe(struct dune_host *host) __attribute__((warn_unused_result));

/* The sentence behind the calling thread's last failure in libdune: cause and cure.  Never NULL. */
const char *dune_error(void);

#ifdef __cplusplus
}
#endif
#endif
