/*
 * space.h - address spaces in a program's hands, as data: the page pool and the tables made of it.
 *
 * Table pages come from the pool, whose guest-physical addresses are its virtual ones, so a table is found at the
 * address that an entry holds.  Knows nothing of KVM: entries that are not present are filled in here, present ones are
 * replaced by what dune_space_begin() was given (see placement.h), which also sees to the TLBs.
 *
 * An entry that is 0, at any level, follows the process's own mappings (kvm/mirror.h); one that is not present and not 0
 * belongs to the program, as do present ones without PTE_MIRROR.  Those that are not present and have PTE_MIRROR are
 * libdune's marks: DUNE_SPACE_REMOVED is what dune_vm_unmap() leaves, the others what dune_vm_mprotect() leaves where it
 * takes every right away (vm/space_parts.h).
 *
 * A link with DUNE_PTE_SHARED (vm/pagetable.h) leads to tables that are not of the pool and the same in all roots: the
 * machine's window.  They are never walked, copied, freed or changed.
 */
#ifndef DUNE_SPACE_H
#define DUNE_SPACE_H

#include "placement/placement.h"

#define DUNE_SPACE_REMOVED PTE_MIRROR

struct dune_space_operations {
	/* See placement.h.  NULL: nobody uses the tables, plain stores do. */
	int (*replace)(ptent_t *root, const struct dune_space_edit *edits, size_t count);
	/* The guest-physical address of memory of the process; 0 with *error, ENOSPC or ENOMEM.  Within a GiB (aligned) they
	 * are consecutive.  Called without the lock, but by dune_space_forget(). */
	uint64_t (*physical)(uintptr_t address, int *error);
	/* The host keeps what tables held (struct dune_host, shadow_paging): before a page that was a table may be something
	 * else, replace() stores 0 in its present entries, which nobody reaches any more. */
	bool shadowed;
};

/* Does one edit: for replace(). */
static inline void dune_space_store(const struct dune_space_edit *edit)
{
	*edit->old = __atomic_exchange_n(edit->entry, edit->value, __ATOMIC_ACQ_REL);
}

/*
 * Makes the pool of `size` bytes at `base` (reserved by the caller, zero, readable and writable), and an address space in
 * pgroot in which it alone is mapped, at its own addresses, for ring 0.  Its lowest pages hold `pages`.  Errors: ENOMEM.
 */
int dune_space_begin(void *base, size_t size, const struct dune_space_operations *operations);

/* Links tables that are not the pool's, and the same in all roots, as the GiB at address (aligned); 0: unlinks them.
 * Preconditions: nobody uses the root yet.  Errors: ENOMEM. */
int dune_space_share(ptent_t *root, uintptr_t address, uint64_t directory);

/* The child of a fork: the pool and all address spaces are kept, nobody uses them yet; the lock is free again. */
void dune_space_after_fork(void);

/* The calling thread's record if it is in the guest (guest/guest.h).  Here because the lock sees to it that it can be read while
 * the lock is held. */
extern _Thread_local struct dune_guest_thread *dune_guest_self __attribute__((tls_model("initial-exec")));

/*
 * The lock of all address spaces and of the pool.  A spin lock; in ring 0 of the guest interrupts are off while it is held,
 * so that no handler of a signal can wait for it.  Taken by every dune_vm_*() and dune_page_*() function.
 *
 * A thread that holds it in ring 0 must not need dune_space_fill(), which takes it too: the library's own text and data,
 * and the pool, are in pgroot before a thread enters.  12 KiB of the thread's stack and dune_guest_self are
 * seen to here.
 */
void dune_space_lock(void);
void dune_space_unlock(void);
/* Whether the calling thread holds it, in ring 0 or in host mode: its host side must not wait for it then. */
bool dune_space_lock_is_mine(void);

/* Calls the function for every root: pgroot and those of dune_vm_clone().  Preconditions: the lock is held. */
void dune_space_roots(void (*function)(ptent_t *root, void *argument), void *argument);

/*
 * Answers a write to a page that is PTE_COW: a copy of its own comes in its place, writable.  at: finds guest-physical
 * memory, NULL if there is none.  Returns whether the instruction can be tried again; false: it is no such page, or there
 * is no memory for the copy.  Without the lock.
 */
bool dune_space_copy_on_write(ptent_t *root, uintptr_t address, void *(*at)(uint64_t physical));

/*
 * For the mirror.  The lock is held.
 *
 * Whether the address follows the process's mappings in this root: no entry on the way belongs to the program.
 */
bool dune_space_follows(ptent_t *root, uintptr_t address);
/* Fills [begin, end), at most 2 MiB within one page table, with entries that follow: physical is that of begin, bits are
 * those of the entries besides PTE_P and PTE_MIRROR.  Entries of the program are left alone; entries that follow already
 * gain rights if they lack some.  Never takes a right away.  Returns 0, or -1: the pool
 * is used up.  Makes no system call, leaves errno alone. */
int dune_space_fill(ptent_t *root, uintptr_t begin, uintptr_t end, uint64_t physical, uint64_t bits);
/* Drops the entries of [begin, end) that follow, in every root; with `all` those of the program as well that map the process's memory
 * at this very address (it is gone): all follow from then on.  Returns 0, or -1: replace() failed.  Leaves errno alone. */
int dune_space_forget(uintptr_t begin, uintptr_t end, bool all);

#endif
