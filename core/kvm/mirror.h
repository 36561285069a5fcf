/*
 * mirror.h - the virtual machine of Dune: a second one beside the machine of the compartments, whose guest-physical memory
 * is the process's own, by the GiB.
 *
 * A memory slot covers a whole GiB of the process's addresses, mapped or not: KVM follows what the process maps there, and
 * what it does not have the guest cannot reach either.  Slots are added when memory in their GiB is first needed.  The
 * arenas of the machine (machine.h) are at the same guest-physical addresses here, so its window, monitor and roots work.
 *
 * Guest-physical layout (at least 38 bits):
 *   0 to 3 GiB     the process's own first GiBs, so low addresses are the same in both
 *   4 to 159 GiB   the machine's arenas
 *   from 160 GiB   the page pool, at its own virtual addresses, and GiBs of the process in the order of their use
 */
#ifndef DUNE_MIRROR_H
#define DUNE_MIRROR_H

#include "kvm/machine.h"
#include "placement/placement.h"

enum {
	DUNE_MIRROR_POOL_MIB = 4096 /* size of the page pool */
};

struct dune_mirror {
	struct dune_machine *machine;
	int vm;
	unsigned next_slot, slots_max;
	unsigned gigabytes; /* of guest-physical addresses */
	uintptr_t *process; /* for each: which GiB of the process it shows (its first address), or 0 */
	bool *taken;        /* for each: whether it is in use */
	uint8_t *pool;
	size_t pool_size;
};

/* The process's mirror; NULL before dune_mirror_open(). */
extern struct dune_mirror *dune_mirror;

/*
 * Makes the machine if there is none, the second virtual machine, the pool and pgroot, which shares the machine's window.
 * Errors: those of dune_machine_get(); ENOMEM: no free addresses for the pool; ENOSPC.
 * In the child of a fork whose parent had one: makes a virtual machine of the child's own around the same pool.
 */
int dune_mirror_open(void);

/* Where memory of the process is in the guest, its slot added if need be; 0 with ENOSPC or ENOMEM.  Async-signal-safe:
 * no libc, no lock but the mirror's own spin lock. */
uint64_t dune_mirror_physical(const void *address);
/* The reverse; NULL if nothing is there. */
void *dune_mirror_at(uint64_t physical);

/*
 * Host side of a page fault in ring 0 of the guest: if the process has a mapping at address that allows the access, fills
 * the entries around it (the mapping's part of its 2 MiB) into root.  error_code: FEC_W, FEC_I matter.
 * Returns 1 filled, 0 the process has no such mapping or the address belongs to the program, -1 with *error ENOMEM or ENOSPC.
 * Async-signal-safe: reads /proc/self/maps with raw system calls, allocates nothing, leaves errno alone.  Grows the stack as the
 * kernel would.  Takes the lock of address spaces.
 */
int dune_mirror_fill(ptent_t *root, uintptr_t address, unsigned error_code, int *error);

#endif
