/*
 * local.h - what a host thread keeps for itself, so that the life of a kind that it has run before takes no lock that
 * another thread takes as well.
 *
 * A **stretch** is code of a thread between local_enter() and local_leave().  Whoever takes the supervisor lock waits
 * until no thread is in a stretch, and none begins one before the lock is given back.  So:
 *   in a stretch, what the lock guards may be read; what the thread keeps may be written, and nothing else that is
 *   shared, but by atomic operations;
 *   with the lock, everything may be read and written, what threads keep included.
 * Stretches are short: nothing in them waits, allocates, or takes a lock.
 */
#ifndef STHREAD_LOCAL_H
#define STHREAD_LOCAL_H

#include <stdatomic.h>

#include "compartment.h"

enum {
	LOCAL_KINDS = 4,    /* kinds of lives that a thread has an address space ready for */
	LOCAL_ENDED = 8,    /* sthreads that have ended and are not joined yet */
	LOCAL_SPARES = 16,  /* unused objects */
	LOCAL_HANDLES = 64, /* handles taken, and given back, at a time */
	LOCAL_INSTANCES = 1024,
};

/* A policy and a body, with an idle address space in which a life of them has ended. */
struct local_kind {
	const struct policy *policy; /* held; NULL: none */
	uint64_t function;
	struct address_space *space;
	struct sthread *sthread;               /* that uses it; NULL: idle */
	struct sthread_policy_statistics sums; /* of its lives, not yet in its account */
	uint64_t used;                         /* when, by local->lives */
};

struct local {
	_Atomic uint32_t inside; /* in a stretch: a futex */
	struct local_kind kinds[LOCAL_KINDS];
	struct sthread *ended[LOCAL_ENDED];
	struct sthread *spares[LOCAL_SPARES];
	unsigned spare_count;
	uint32_t free_places[LOCAL_HANDLES], ended_places[LOCAL_HANDLES]; /* of the table of handles */
	unsigned free_count, ended_count;
	uint64_t instance, instances_end; /* the last one used, and the last one that may be */
	uint64_t lives;
	struct random_stock random;
	struct sthread_statistics statistics; /* not yet in the supervisor's */
	struct local *next;
};

/* Begins a stretch of the calling thread.  Returns what it keeps; NULL: it keeps nothing, or somebody has the lock. */
struct local *local_enter(void);
void local_leave(struct local *local);

/* ---- with the lock --------------------------------------------------------------------------------- */

/* Around the supervisor lock: waits until no thread is in a stretch, and lets them begin again. */
void locals_stop(void);
void locals_go_on(void);

/* What the calling thread keeps, made if it has a virtual CPU and keeps nothing yet.  NULL: no memory, which is no
 * failure: everything works without. */
struct local *local_get(void);

/* Ends a life that has returned, and keeps its policy and address space for the next one of this thread.  Returns false if it
 * is not of the kind that is kept; nothing has happened then. */
bool local_keep(struct sthread *sthread);

/* Has all threads give up what they keep of the kinds for which this is true: idle spaces go where all idle ones are, and
 * lives under way are like any others.  Whatever a policy names must not go, and what its lives start from must not change,
 * before that.  at_most: kinds, 0: all.  Returns how many. */
unsigned locals_give_up(bool (*concerned)(const struct local_kind *kind, const void *argument), const void *argument,
			unsigned at_most);
/* The same for one kind of the calling thread, if no life of it is under way. */
void local_give_up(struct local_kind *kind);
/* The life under way is from now on like any other. */
void local_release_life(struct sthread *sthread);

/* Takes handles, instance numbers and an object for the lives to come. */
void local_replenish(struct local *local);

/* Adds what threads have counted and the supervisor's statistics do not have yet. */
void locals_add_statistics(struct sthread_statistics *sums);
/* Brings what they have counted to the accounts of policies with a name. */
void locals_settle_accounts(void);

/* In the child of a fork. */
void locals_forget(void);

/* ---- with the lock, or in a stretch ---------------------------------------------------------------- */

/* Where the calling thread counts, where it gets its random bytes (NULL: it keeps none), and the last of the numbers from
 * which it takes the next. */
struct sthread_statistics *local_statistics(void);
struct random_stock *local_random(void);
uint64_t *local_instances(void);
/* Whether there is a number more, and one for that if it cannot be used. */
static inline bool local_has_instances(const struct local *local)
{
	return local->instance + 1 < local->instances_end;
}
/* An object for an sthread, all zeros; NULL: out of memory.  In a stretch: none is left. */
struct sthread *local_sthread_new(void);
void local_sthread_free(struct sthread *sthread);

/* ---- without the lock ------------------------------------------------------------------------------ */

/* sthread_create() and sthread_join() of a life that is of a kind the thread keeps; quick.c.  Return false if it is to be
 * done the usual way; nothing has happened then.  policy: with sc NULL, the handle of a frozen one. */
bool quick_create(sthread_t *st, const sc_t *sc, sc_frozen_t frozen, stcb_t body, void *argument);
bool quick_join(sthread_t st, void **ret, struct sthread_info *info);

#endif
