/*
 * snapshot.h - the pristine picture of the process that every compartment starts from.
 *
 * A sorted list of regions; for each page the guest-physical frame that shows it: a frame of the pool (data, copied),
 * a page of the image arena (text and constants, mapped from the files a second time), or the zero frame.
 * Written once by snapshot_take(), read-only afterwards.
 */
#ifndef STHREAD_SNAPSHOT_H
#define STHREAD_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvm/machine.h"

struct snapshot_region {
	uint64_t start, end;
	bool write, execute;
	bool sparse;      /* large: entries are filled in when they are touched */
	uint64_t *frames; /* one per page */
};

/* Why memory that the process had is not in the snapshot. */
enum snapshot_left_out {
	SNAPSHOT_UNKNOWN,  /* there was none */
	SNAPSHOT_WITHHELD, /* shared, unreadable, or not to be dumped */
	SNAPSHOT_STACK,    /* the first thread's stack */
};

/* Memory left out, kept for reports only. */
struct snapshot_gap {
	uint64_t start, end;
	enum snapshot_left_out why;
};

struct snapshot {
	struct snapshot_region *regions;
	size_t count;
	uint64_t zero_frame;
	uint64_t pages;          /* copied into the pool */
	uint64_t image_used;     /* bytes of the image arena */
	uint64_t heap_end;       /* the program break; */
	uint64_t heap_limit;     /* where the next mapping above it begins */
	uint64_t thread_pointer; /* FS base */
	struct snapshot_gap gaps[64];
	unsigned gap_count;
};

/* Copies the process.  Preconditions: one thread, no snapshot yet.  Errors: ENOMEM, and those of reading /proc. */
int snapshot_take(struct snapshot *snapshot, struct dune_machine *machine);
void snapshot_discard(struct snapshot *snapshot);

/* Whether memory at this address was left out, and why. */
enum snapshot_left_out snapshot_left_out(const struct snapshot *snapshot, uint64_t address);
const struct snapshot_region *snapshot_find(const struct snapshot *snapshot, uint64_t address);
/* Where the copy of a byte of the process is here, writable; NULL if the snapshot has no copied page there.  For
 * corrections while the snapshot is being taken. */
void *snapshot_copy_at(const struct snapshot *snapshot, const struct dune_machine *machine, uint64_t address);

#endif
