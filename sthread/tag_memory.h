/*
 * tag_memory.h - the memory that tags are made of: the tag arena, and ranges of the process registered as tags.
 * It knows whose each page is.  Caller holds the supervisor lock.
 */
#ifndef STHREAD_TAG_MEMORY_H
#define STHREAD_TAG_MEMORY_H

#include <stdint.h>

#include "sthread.h"

struct tag_extent {
	uint64_t address;  /* in the process and in every compartment */
	uint64_t physical; /* in the guest */
	uint64_t size;     /* whole pages */
};

/* Takes whole pages full of zeros from the arena for a tag.  Errors: ENOMEM; ENOSPC no memory slot is left. */
int tag_memory_take(tag_t owner, uint64_t size, struct tag_extent *extent);

/* Gives an extent, or what is left of it, back: it is emptied and may be taken again.
 * Preconditions: no compartment maps it any more. */
void tag_memory_give_back(const struct tag_extent *extent);

/* The tag that owns the byte at this address of the process; -1 if none does. */
tag_t tag_at(uint64_t address);
/* Where the byte at this address is in the guest.  Preconditions: tag_at() knows an owner. */
uint64_t tag_physical_at(uint64_t address);

/* In the child of a fork: nothing of the arena is there. */
void tag_memory_forget(void);

#endif
