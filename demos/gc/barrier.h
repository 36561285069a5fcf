/*
 * barrier.h - how the collector learns which pages were written to.
 *
 *   none    it does not: a control, with which it loses cells
 *   signal  mprotect() and a SIGSEGV handler, as any process can
 *   trap    dune_vm_mprotect() and a page-fault handler
 *   dirty   the dirty bits of the page tables: nothing is protected, nothing faults
 *
 * With the last two the mutator runs in ring 0 where that is native, else in ring 3.
 */
#ifndef GC_BARRIER_H
#define GC_BARRIER_H

#include "heap.h"

struct barrier {
	const char *name;
	/* Once; returns 0, or -1 after saying why on standard error. */
	int (*begin)(struct heap *heap);
	void (*run)(struct heap *heap);     /* runs the mutator */
	void (*collect)(struct heap *heap); /* sets heap->dirty */
	void (*arm)(struct heap *heap);     /* after a collection: forgets what was written to until now */
};

/* NULL: there is none of that name. */
const struct barrier *barrier_named(const char *name);

extern unsigned long barrier_faults;

/* Exits that Dune's virtual CPU made so far; 0 without Dune. */
unsigned long barrier_exits(void);
/* Where the mutator runs. */
const char *barrier_place(void);

#endif
