/*
 * switch.h - what libsthread and libsthread-malloc know of each other.  Not installed: they are of one version.
 */
#ifndef STHREAD_MALLOC_SWITCH_H
#define STHREAD_MALLOC_SWITCH_H

#include <stdbool.h>

#include "sthread.h"

/* What libsthread-malloc offers. */
struct malloc_switch {
	/* Allocations of the calling thread come from this tag from now on; -1: from the heap again. */
	void (*set)(tag_t tag);
	/* +1: they come from the heap whatever is set; -1: no longer.  Pairs nest. */
	void (*pause)(int change);
};

/* What libsthread offers. */
struct malloc_support {
	uintptr_t
		tags; /* where tags allocate: a pointer in these bytes is one of theirs; nowhere before sthread_init() */
	size_t tags_size;
	/* Not NULL where tags are not isolated and allocate anywhere: whether this is a live allocation in one. */
	bool (*owns)(const void *pointer);
	size_t (*size)(const void *pointer); /* the bytes of a live allocation in a tag; 0 if it is none */
};

/* Called by the constructor of libsthread-malloc.  What is returned changes once, in sthread_init(). */
const struct malloc_support *sthread_malloc_attach(const struct malloc_switch *offered);

#endif
