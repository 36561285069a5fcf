/*
 * boundary.h - tagged globals: variables that BOUNDARY_VAR() puts in a section of whole pages, which becomes a tag.
 * Caller holds the supervisor lock.
 */
#ifndef STHREAD_BOUNDARY_H
#define STHREAD_BOUNDARY_H

#include "supervisor.h"

/* Makes a tag of each section: its pages are replaced by memory of the same contents that is no file's, is not dumped,
 * and has a memory slot.  Called before the snapshot is taken, which leaves out what is not dumped.  What a failed
 * call has done is not done again by the next.
 * Errors: ENOTSUP a section is not whole pages, or its library could be unloaded; ENOSPC; ENOMEM. */
int boundaries_open(void);
/* Fails with ENOTSUP if any of it is in the snapshot. */
int boundaries_check(void);

/* The tag that owns the global at this address, and where it is in the guest; -1 if none does. */
tag_t boundary_at(uint64_t address, uint64_t *physical);

#endif
