/*
 * machine.h - the process's virtual machine: KVM handles, guest-physical memory, the monitor's pages.
 *
 * There is one machine per process.  Guest-physical memory consists of four arenas (what has no slot cannot
 * leak):
 *   tables   page tables, writable for the monitor only
 *   image    second mappings of program and library files, read-only for the guest
 *   frames   private pages, snapshot, monitor
 *   tags     tagged memory
 * and ranges of the process that were given to it one by one (dune_range_add()).
 * All functions but dune_machine_get() need the caller to serialise (libsthread's supervisor lock).
 */
#ifndef DUNE_MACHINE_H
#define DUNE_MACHINE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dune.h"
#include "monitor/monitor.h"
#include "vm/pagetable.h"

/* One linear piece of guest-physical memory, reserved in full, given to KVM chunk by chunk as it is used. */
struct dune_arena {
	uint8_t *host;
	uint64_t physical;
	size_t size;    /* reserved */
	size_t backed;  /* known to KVM */
	size_t chunk;   /* step of backing */
	uint32_t flags; /* of the memory slots */
};

struct dune_machine {
	int kvm, vm;
	size_t run_size; /* bytes of a virtual CPU's kvm_run */
	bool os_xsave;   /* CPUID for the guest has XSAVE: CR4.OSXSAVE and XCR0 can be set */
	bool has_xsave2_size;
	size_t vector_size; /* bytes for KVM_GET_XSAVE2 / KVM_GET_XSAVE; 0: KVM_GET_FPU */
	unsigned next_slot, slots_max;
	struct kvm_userspace_memory_region *regions; /* one for each slot */
	unsigned region_room;
	int (*slot_added)(const struct kvm_userspace_memory_region *region); /* NULL: nobody asks */
	struct dune_mirror *mirror;                                          /* mirror.h; NULL: there is none */
	struct dune_host host;
	struct kvm_cpuid2 *cpuid;
	bool roots_by_ring0; /* it loads roots, not KVM: it is native, and page tables are walked by hardware */
	unsigned tags_used;  /* by roots of compartments, a power of two; 0: there are no tags (tags.h) */

	struct dune_arena table_arena, image, frames, tags;
	struct dune_arena *ranges; /* memory of the process that is in no arena */
	unsigned range_count;
	struct dune_tables tables;
	size_t frames_used;          /* bytes of frames handed out by bumping */
	size_t kept_start, kept_end; /* of the frames: what children inherit */
	bool unusable;               /* in a child: the addresses needed were not free */
	uint64_t *free_frames;       /* stack of freed frames, guest-physical */
	size_t free_count, free_room;

	uintptr_t window; /* start of the reserved range, 1 GiB aligned */
	size_t window_size;
	uint64_t shared_directory; /* page directory of the window's first GiB */
	uint64_t edit_root;        /* maps the tables for the monitor, and the shared GiB */
	uintptr_t edit_tables;     /* where the edit root has them */
	uint64_t trampoline_syscall, trampoline_service, trampoline_resume, trampoline_enter;
	uint64_t trampoline_resume_clean, trampoline_time;
	uint64_t trampoline_enter_direct, trampoline_direct_call, trampoline_direct_done, trampoline_direct_store;
	uint64_t trampoline_direct_back;
	uint64_t trampoline_clock, trampoline_day;
	uint64_t trampoline_random_copy, trampoline_random_end; /* where a store into a caller's buffer may fault */
	uint64_t trampoline_touch, trampoline_call, trampoline_counter; /* for probing */
	uint64_t clock_multiplier;                                      /* of the clocks in ring 3; 0: there are none */
	bool clock_has_offset;                                          /* virtual CPUs' counters are not the host's */
	uint64_t *idt;
	uint64_t processor_count; /* virtual CPUs made */

	struct dune_direct *direct; /* targets of direct calls; NULL: none yet (direct.c) */
	struct dune_direct_record *direct_records;
	unsigned direct_free; /* 0: none */
};

/* Returns the process's machine, made at the first call; NULL with errno and dune_error().  Any thread. */
struct dune_machine *dune_machine_get(void);

/*
 * Names the frames [start, end) (bytes from the arena's begin) that the children of a fork inherit, copied on write, and
 * with them the image arena (ranges they have anyway).  Nothing that belongs to one compartment may be in there.  In a child the machine's memory
 * slots, tables, other frames and tags are gone and its descriptors are closed; the next dune_machine_get() makes a
 * machine of the child's own around what was kept: the same struct, window, guest-physical and host addresses.
 * Errors: those of madvise(2).
 */
int dune_machine_keep(struct dune_machine *machine, size_t start, size_t end);

/* Makes the arena's first `bytes` bytes known to KVM.  Errors: ENOMEM, ENOSPC no slot left. */
int dune_arena_back(struct dune_machine *machine, struct dune_arena *arena, size_t bytes);

/* Makes sure that `pages` more page tables can be made.  Errors: as dune_arena_back(). */
int dune_tables_reserve(struct dune_machine *machine, size_t pages);

/* Gives whole pages of the process a memory slot of their own; returns where they are in the guest, 0 with ENOMEM or
 * ENOSPC.  They must stay mapped, private and anonymous, as long as the machine lasts. */
uint64_t dune_range_add(struct dune_machine *machine, void *host, size_t size);

/* Returns `count` adjacent, zeroed, never used frames; 0 and ENOMEM. */
uint64_t dune_frames_fresh(struct dune_machine *machine, size_t count);
/* Returns a new zeroed frame (guest-physical); 0 and ENOMEM. */
uint64_t dune_frame_new(struct dune_machine *machine);
/* Gives a frame back.  Preconditions: no page table names it, and that was made sure of under law 2. */
void dune_frame_free(struct dune_machine *machine, uint64_t frame);
/* Where guest-physical memory is here; NULL if no arena holds it. */
void *dune_physical_at(const struct dune_machine *machine, uint64_t physical);

/* Returns a new root that maps the shared GiB of the window, 0 and ENOMEM. */
uint64_t dune_root_new(struct dune_machine *machine);

/* Makes another virtual machine with the settings of this one.  Returns its descriptor, -1 with KVM's error. */
int dune_machine_new_vm(const struct dune_machine *machine);

/* Calls `added` for each memory slot that the machine has, and from now on for each that it gets, which it does not get
 * if `added` returns -1 with errno.  Takes its own lock, which is held during the call.  Errors: those of `added`. */
int dune_machine_follow_slots(struct dune_machine *machine,
			      int (*added)(const struct kvm_userspace_memory_region *region));

/* Keeps a failure's sentence for dune_error() and returns -1 with errno set to `error`. */
int dune_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Probes what only running code can tell; fills machine->host.  Part of making the machine. */
int dune_machine_probe(struct dune_machine *machine);

/* Lets ring 3 reach the supervisor by a software interrupt, where the I/O bitmap does not work.  For the probe. */
void dune_machine_use_gate(struct dune_machine *machine);
/* Lets lives begin with FXRSTOR, where ring 3 has no XRSTOR.  For the probe. */
void dune_machine_use_fxsave(struct dune_machine *machine);

#endif
