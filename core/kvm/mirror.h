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
 *   4 to 159 GiB   the machine's arenas, and a page at 7 GiB that nobody uses
 *   from 160 GiB   the page pool, at its own virtual addresses, and GiBs of the process in the order of their use
 */
#ifndef DUNE_MIRROR_H
#define DUNE_MIRROR_H

#include "kvm/machine.h"
#include "placement/placement.h"

enum {
	DUNE_MIRROR_POOL_MIB = 4096, /* size of the page pool, and of what the mirror keeps for itself behind it: */
	DUNE_MIRROR_OWN_MIB = 128    /* its edit root's tables, and the areas of its virtual CPUs */
};

struct dune_mirror {
	struct dune_machine *machine;
	int vm;
	unsigned next_slot, slots_max;
	unsigned gigabytes;      /* of guest-physical addresses */
	uintptr_t *process;      /* for each: which GiB of the process it shows (its first address, plus 1), or 0 */
	bool *taken;             /* for each: whether it is in use */
	uint16_t *gigabyte_of;   /* for each GiB of the process: where it is, plus 1, or 0 */
	uint8_t *pool;           /* also its guest-physical address */
	size_t pool_size;        /* what is the program's */
	uint8_t *areas;          /* struct dune_processor_area, one for each virtual CPU */
	uint64_t processors_max; /* how many there is room for */
	uint64_t processor_count;
	struct dune_tables tables; /* of the edit root */
	uint64_t edit_root; /* maps the whole pool at its own addresses for the monitor, its GiB and the mirror's own */
	uint64_t directory; /* of the GiB at WINDOW_MIRROR_PROCESSORS, which all roots share */
	uintptr_t linked;   /* the window that the roots have links to; 0: none */
	unsigned dummy_slot; /* plus 1; 0: none yet; see dune_mirror_drop_shadows() */
	bool begun;          /* the pool is in use: dune_space_begin() was called */
};

/* The process's mirror; NULL before dune_mirror_open(). */
extern struct dune_mirror *dune_mirror;

/* For tests: lower limits than the host's; 0: none. */
extern unsigned dune_mirror_slots_limit, dune_mirror_gigabytes_limit;

/*
 * Makes the machine if there is none, the second virtual machine, the pool and pgroot, which shares the machine's window.
 * Does nothing if the process has its mirror.  Called from: host mode.
 * Errors: those of dune_machine_get(); ENOMEM: no free addresses for the pool; ENOSPC.
 * In the child of a fork whose parent had one: makes a virtual machine of the child's own around the same pool and address
 * spaces, with memory of the process where the parent had it.  Until then dune_mirror is NULL there.
 */
int dune_mirror_open(void);

/* Where memory of the process is in the guest, its slot added if need be; 0 with ENOSPC or ENOMEM, EINVAL: not an address
 * of user space, or there is no mirror.  Takes no lock: two threads that need the same GiB may give it two slots. */
uint64_t dune_mirror_physical(const void *address);
/* The same with the error in *error (0: none), and nothing of libc: for the host side of a thread. */
uint64_t dune_mirror_physical_raw(uintptr_t address, int *error);
/* The reverse; NULL if nothing is there. */
void *dune_mirror_at(uint64_t physical);

/*
 * Has KVM forget all translations that it has made of the mirror's page tables, where it shadows them: what the tables say
 * now is what holds when it returns, on every virtual CPU.  Expensive: each page that is touched afterwards costs an exit of
 * KVM's own.  Errors: ENOSPC, KVM's.  Called from: host mode.
 */
int dune_mirror_drop_shadows(void);

/*
 * Host side of a page fault in ring 0 of the guest: if the process has a mapping at address that allows the access, fills
 * the entries around it (the mapping's part of its 2 MiB) into root.  error_code: FEC_W, FEC_I matter.
 * Returns 1 filled, 0 the process has no such mapping or the address belongs to the program, -1 with *error: ENOMEM,
 * ENOSPC, or why /proc/self/maps could not be read.  Async-signal-safe: raw system calls, a buffer on the stack (4 KiB),
 * leaves errno alone.  Grows the stack as the kernel would.
 * Holds the lock of address spaces from reading the map to filling, so a mapping that is taken away and then forgotten
 * (dune_space_forget()) does not come back.  Preconditions: the calling thread does not hold it.
 */
int dune_mirror_fill(ptent_t *root, uintptr_t address, unsigned error_code, int *error);

/*
 * Does edits by the monitor, in ring 0 of the caller's own virtual CPU of the mirror, whose registers are lost; translations
 * are the caller's affair.  Errors: EIO.
 */
struct dune_vcpu;
int dune_mirror_exchange(struct dune_vcpu *vcpu, const struct dune_space_edit *edits, size_t count);

#endif
