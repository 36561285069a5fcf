/*
 * placement.h - what the two placements of Dune (see dune.h) have in common, and what each provides.
 *
 *   placement/  the public entry points: choose, register handlers, pass on
 *   guest/      guest placement: the calling thread lives in ring 0
 *   host/       host placement: only ring 3 is in the virtual machine
 *   kvm/mirror  the virtual machine of both
 *   vm/space    address spaces as data: what dune_vm_*() does
 */
#ifndef DUNE_PLACEMENT_H
#define DUNE_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "dune.h"

/*
 * An entry of a page table that is to be replaced, and the addresses that it translates.  More than a page: it was a large
 * page, or a table with all that is below it; dropping the translation of one address does not drop those.
 *
 * The store is an exchange (dune_space_store(), vm/space.h), and what the entry held goes to *old: processors may have set
 * its accessed and dirty bits after the edit was made up.  *old holds what was read then.
 */
struct dune_space_edit {
	ptent_t *entry;
	ptent_t value;
	uintptr_t address;
	uint64_t length;
	ptent_t *old;
};

struct dune_placement_operations {
	enum dune_placement placement;
	int (*enter)(void); /* EALREADY is the caller's affair */
	int (*leave)(void);
	bool (*entered)(void); /* whether the calling thread is in Dune mode */
	int (*jump_to_user)(struct dune_tf *tf);
	void (*ret_from_user)(int result) __attribute__((noreturn));
	unsigned long (*get_user_fs)(void);
	void (*set_user_fs)(unsigned long fs_base);
	/* CR3 as the processor takes it: guest-physical root, tag, CR3_NOFLUSH. */
	void (*load_cr3)(unsigned long cr3);
	unsigned long (*read_cr3)(void);
	void (*flush_one)(unsigned long address);
	void (*flush)(void);
	void (*flush_all)(void);
	void (*invpcid)(int mode, unsigned pcid, unsigned long address);
	/* Replaces present entries of an address space; when it returns, no virtual CPU uses what they held. The caller
	 * holds the lock of address spaces. Errors: EIO. */
	int (*replace)(ptent_t *root, const struct dune_space_edit *edits, size_t count);
	int (*counters)(struct dune_counters *counters);
};

extern const struct dune_placement_operations dune_guest_operations, dune_host_operations;

/* The placement in effect; NULL before dune_init(). */
extern const struct dune_placement_operations *dune_placement;

/* The process's handlers; read by the placements, each at once. */
struct dune_handlers {
	dune_intr_cb interrupt[IDT_ENTRIES]; /* T_PGFLT as well: called where page_fault is NULL */
	dune_pgflt_cb page_fault;
	dune_syscall_cb system_call;
};
extern struct dune_handlers dune_handlers;

/* Vector by which the host side of guest placement says that something is waiting. */
#define DUNE_EVENT_VECTOR 240

#endif
