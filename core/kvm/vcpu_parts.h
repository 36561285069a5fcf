/*
 * vcpu_parts.h - what the files of vcpu.h share.
 *
 *   vcpu.c        loading, running, leaving
 *   vcpu_state.c  segments, and the one state of all that a compartment cannot change
 *   vcpu_pool.c   making virtual CPUs, whose they are, kicks, totals
 */
#ifndef DUNE_VCPU_PARTS_H
#define DUNE_VCPU_PARTS_H

#include "kvm/vcpu.h"

/* RFLAGS (Intel SDM vol. 1, 3.4.3): what is always set (bit 1 and IF). */
#define FLAGS_ALWAYS ((uint64_t)0x202)

/* Where in the guest a symbol of the monitor is. */
static inline uint64_t dune_in_monitor(const struct dune_vcpu *vcpu, const uint8_t *symbol)
{
	return vcpu->machine->window + WINDOW_MONITOR + (symbol - dune_monitor_begin);
}

/* ---- segments (vcpu_state.c) ----------------------------------------------------------------------- */

/* Segments of ring 3, with these bases. */
void dune_set_user_segments(struct kvm_sregs *sregs, uint64_t fs_base, uint64_t gs_base);
/* Segments of ring 0: the monitor's. */
void dune_set_monitor_segments(struct kvm_sregs *sregs);

#endif
