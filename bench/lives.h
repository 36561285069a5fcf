/*
 * lives.h - what sthreads do in measurements, as operations.  All of them end the calling child (measure_fail()) when
 * something is not as it should be.  Preconditions: sthread_init() was successful.
 */
#ifndef BENCH_LIVES_H
#define BENCH_LIVES_H

#include "callgate.h"
#include "sthread.h"

enum {
	CALLS_EACH = 64 /* gate calls or served calls of one life or step */
};

/* An sthread to be made again and again. */
struct life {
	sc_t policy;
	stcb_t body;
	void *argument;
};

/* Operation: create and join; the body has to return NULL. */
void life_run(void *life);

/* A life whose body does nothing, or writes to DIRTY_PAGES pages (dirty_prepare() must have been called before
 * sthread_init()), with a policy that grants nothing. */
struct life life_empty(void);
struct life life_dirty(void);

/* Lives with CALLS_EACH calls of a gate of their own, without and with a message of 256 bytes each way. */
struct life life_calling(void);
struct life life_sending(void);

/* sthreads that never end, at their first park.  Each step: nothing; CALLS_EACH getuid(); CALLS_EACH reads of 4 KiB of a
 * file. */
sthread_t parked_idle(void);
sthread_t parked_asking(void);
sthread_t parked_reading(void);
/* Each step CALLS_EACH calls of a gate; caller and gate each write to so many pages of their own for each call.  Called
 * before sthread_init(), lives_touch_prepare() makes room for that many. */
void lives_touch_prepare(unsigned most);
sthread_t parked_touching(unsigned pages);

/* Operation: one step of a struct sthread_t. */
void step_run(void *sthread);

#endif
