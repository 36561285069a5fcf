/*
 * address_space.h - the memory of a compartment: its page table, its private pages, the tags mapped into it.
 *
 * Address spaces are made once and then recycled for ever, so no page that was a table ever becomes another one.  They
 * share the page tables of all that lives only read; a space has tables of its own on the way to pages that differ.
 * Law 2 is kept here: from outside, entries are only filled in where they were not present, or replaced in answer to
 * a write fault; everything else is an edit made by the monitor (dune_vcpu_edit).
 * Caller holds the supervisor lock.
 */
#ifndef STHREAD_ADDRESS_SPACE_H
#define STHREAD_ADDRESS_SPACE_H

#include <sys/uio.h>

#include "pristine.h"
#include "supervisor.h"

enum {
	/* Lives of a space after which it is looked which private pages the last one has written to, and after which those are
	 * given back that were found unwritten so often in a row (and more often, if they came back before). */
	ADDRESS_SPACE_LOOK = 8,
	ADDRESS_SPACE_FORGET = 32,
	ADDRESS_SPACE_LOOKS_CLEAN = 24
};

struct private_page {
	uint64_t address;
	uint64_t frame;
	uint64_t origin; /* the frame that it is a copy of: of the snapshot, a template or a tag; 0: zeros */
	uint64_t *entry; /* that leads to it, in a table of the space's own */
	bool always; /* copied for each life: its origin, or what the supervisor stores in it, changes between lives */
	bool stays;  /* never given back */
	bool habit;  /* copied for each life: each of the last ones has written to it */
	bool unwritten; /* it is about to be given back */
	uint8_t written; /* how many lives running have written to it, up to a bound; of a habit those after looks count */
	uint16_t clean; /* how often it was looked at and found as it should be, up to now and without a break */
};

struct address_space {
	struct dune_context context;
	uint64_t base;             /* root of the tables that it shares with others */
	struct pristine *pristine; /* what it shows where a life has written nothing; held */
	uint64_t id;
	uint64_t lives;
	uint64_t shape; /* of the last policy that used it */
	struct private_page *pages;
	size_t page_count, page_room;
	size_t habits;                     /* pages that are a habit */
	size_t learned;                    /* pages there were when this life began */
	size_t table_pages, tables_before; /* page tables made, and made when this life began */
	struct policy_tag *tag;            /* mapped */
	unsigned tags, tag_room;
	struct dune_life *life;
	struct dune_random *random;
	bool wants_random;            /* a life of it has asked for random bytes: the next ones begin with some */
	uint8_t *canary;              /* where the stack canary of this space is, here */
	struct dune_vcpu *running_on; /* set while a virtual CPU runs it without the lock */
	bool served;                  /* set while it is served or restored without the lock: compartment_unlock() */
	struct dune_direct *direct;   /* lets ring 0 enter it without the supervisor: callgate/direct_call.c */
	bool direct_grants;           /* the life page names such gates */
	unsigned revoking;            /* threads that wait for it to stop, to take rights away */
	bool poisoned;                /* rights could not be taken away: never to run again */
	struct address_space *next;   /* all of them */
	struct address_space *next_idle;
};

/* What the memory of a life may be, beyond the snapshot; kept by the compartment. */
struct memory_bounds {
	uint64_t heap_end;      /* program break: [snapshot.heap_end, heap_end) is private growth */
	uint64_t arena_end;     /* [window + SPACE_ARENA, arena_end) is private */
	uint64_t quota;         /* bytes */
	uint64_t *pages_copied; /* counter */
	bool *out_of_memory;    /* set when it would have the page, but for the quota or for want of memory */
};

/*
 * Takes an idle address space that shows this pristine state and has served this policy's shape and function before, or
 * makes one with private copies of the pages that such lives have written to; maps the policy's tags and no others.
 * Returns NULL with ENOMEM, EBADF (a tag is gone) or EIO.
 * What earlier lives have written to is still there: address_space_restore() and address_space_restored() come next.
 */
struct address_space *address_space_take(const struct policy *policy, struct pristine *pristine, uint64_t function);
/* The same for prewarming: one that has served no other shape, or a new one. */
struct address_space *address_space_take_own(const struct policy *policy, struct pristine *pristine, uint64_t function);
/* Gives a space that does not run private copies of all pages that lives of its kind are known to write to.  Errors: ENOMEM,
 * EIO. */
int address_space_prepare(struct address_space *space);
/* Puts it back to pristine.  Returns how many pages were copied.  The lock need not be held, if `served` is set. */
size_t address_space_restore(struct address_space *space);
/* Counts them, and takes pages away that lives have stopped writing to.  Errors: EIO, and the space is poisoned. */
int address_space_restored(struct address_space *space, size_t copied);
/* Both for a space in which the last life was of the same policy and function, in a stretch (local.h) too; no pages are taken
 * away.  Returns how many were copied.  Preconditions: address_space_settle() after that life; nothing is to be forgotten. */
size_t address_space_renew(struct address_space *space);
/* Whether the next address_space_restored() may take pages away. */
bool address_space_forgets(const struct address_space *space);
/* Whether the policy's tags are there, and those that the space maps. */
bool address_space_is_current(const struct address_space *space, const struct policy *policy);
/* Remembers the pages that a life has written to and its kind is not known for. */
void address_space_learn(struct address_space *space);
/* After a life: learns from it, and takes away what it grew by too much.  Returns false if the space must not run again. */
bool address_space_settle(struct address_space *space);
/* Gives it back after a life. */
void address_space_release(struct address_space *space);
/* Makes a private page what its origin is. */
void private_page_restore(const struct private_page *page);
/* Whether a private page is another than its origin. */
bool private_page_differs(const struct private_page *page);
/* Begins a life: new instance, fresh randomness and canary.  quiet_random: getrandom() may be answered without the supervisor
 * being told.  Errors: those of getrandom(2). */
int address_space_begin(struct address_space *space, uint64_t instance, bool quiet_random);

/* Answers a page fault.  Returns 0 if the compartment can go on, -1 if it had no right to the access. */
int address_space_fault(struct address_space *space, const struct memory_bounds *bounds, uint64_t address,
			uint64_t error_code);

/* Describes [address, address + length) of a compartment's memory as pieces of ours, by the compartment's own rights,
 * making private copies where it writes.  Returns the number of bytes described (it stops at a hole or when `room`
 * pieces are used), -1 with EFAULT if not even the first is. */
ssize_t address_space_pieces(struct address_space *space, const struct memory_bounds *bounds, uint64_t address,
			     size_t length, bool write, struct iovec *pieces, int room, int *count);
/* Copy between a compartment's memory and ours.  Return 0, or -1 with EFAULT and part of it copied. */
int address_space_read(struct address_space *space, const struct memory_bounds *bounds, uint64_t address, void *to,
		       size_t length);
int address_space_write(struct address_space *space, const struct memory_bounds *bounds, uint64_t address,
			const void *from, size_t length);
/* Copies a string of at most room - 1 bytes.  Errors: EFAULT; ENAMETOOLONG. */
int address_space_string(struct address_space *space, const struct memory_bounds *bounds, uint64_t address, char *to,
			 size_t room);
/* Zeroes [start, end), memory of the heap or the arena that the compartment gave back.  What a template put there is
 * covered with private pages of its own, within its quota.  Errors: ENOMEM, EIO, and some of it is not zeroed. */
int address_space_clear(struct address_space *space, const struct memory_bounds *bounds, uint64_t start, uint64_t end);

/* Takes the mappings of a tag that is being deleted out of every address space, running ones included; when it returns
 * 0 none has it.  Releases the lock while it waits.  Errors: EIO. */
struct tag;
int address_spaces_revoke(const struct tag *tag);

#endif
