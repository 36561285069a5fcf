/*
 * machine_parts.h - what the files of machine.h share.
 *
 *   machine.c          opening KVM, the one machine, forks
 *   machine_memory.c   guest-physical memory: slots, arenas, ranges, frames
 *   machine_monitor.c  the monitor's pages
 */
#ifndef DUNE_MACHINE_PARTS_H
#define DUNE_MACHINE_PARTS_H

#include "kvm/machine.h"

#define GIB ((uint64_t)1 << 30)

/* ---- memory (machine_memory.c) --------------------------------------------------------------------- */

/* Reserves the window and the arenas; none of it is known to KVM yet.  Errors: ENOMEM. */
int dune_machine_reserve(struct dune_machine *machine);
/* In a machine that a child of a fork has opened again: gives each range its memory slot.  Errors: as dune_range_add(). */
int dune_ranges_add_again(struct dune_machine *machine);
/* Around a fork: keeps the list of slots, and who follows it, as they are. */
void dune_slots_lock(void);
void dune_slots_unlock(void);

/* ---- the monitor's pages (machine_monitor.c) ------------------------------------------------------- */

/* Makes the edit root and the shared GiB of the window, with the monitor, descriptors and trampoline in it, and sets the
 * addresses in there that the machine knows.  Preconditions: machine->tables has its first memory.  Errors: ENOMEM, ENOSPC;
 * ENOTSUP the processor's vector state is too large. */
int dune_machine_lay_out_monitor(struct dune_machine *machine);

#endif
