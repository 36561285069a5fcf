/*
 * pristine.h - the state that a life starts from: the snapshot, or the snapshot changed by a template.
 *
 * A pristine state is immutable and counted; address spaces hold it while they show it.  The snapshot as it is has no
 * pages of its own here.  Caller holds the supervisor lock.
 */
#ifndef STHREAD_PRISTINE_H
#define STHREAD_PRISTINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A range of the private arena that munmap() gave back. */
struct free_range {
	uint64_t start, size;
};

enum {
	FREE_RANGES = 32
};

/* What a compartment knows of its private memory. */
struct memory_shape {
	uint64_t heap_end, arena_end;
	struct free_range free_ranges[FREE_RANGES];
	unsigned free_range_count;
};

struct pristine_page {
	uint64_t address;
	uint64_t frame;
};

struct pristine {
	unsigned references;
	bool retired;                /* no life will start from it any more */
	struct pristine_page *pages; /* where it differs from the snapshot, by address */
	size_t page_count;
	struct memory_shape memory;
};

/* The snapshot as it is.  Not counted: always there. */
struct pristine *pristine_snapshot(void);

/* Freezes what a life has made of its memory: copies each private page that differs from the snapshot, except stack,
 * messages and tags.  The caller gets the first reference.  Errors (NULL): ENOMEM. */
struct address_space;
struct pristine *pristine_capture(const struct address_space *space, const struct memory_shape *memory);
void pristine_get(struct pristine *pristine);
/* Drops a reference; the last one gives the frames back.  Preconditions then: no page table names them. */
void pristine_put(struct pristine *pristine);

/* The frame that shows a page, 0 if it is as the snapshot has it. */
uint64_t pristine_frame(const struct pristine *pristine, uint64_t address);

#endif
