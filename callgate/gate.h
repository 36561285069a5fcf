/*
 * gate.h - callgates inside the supervisor: a gate, its instances, and the calls that wait for one.
 *
 * An instance is a compartment that serves one call at a time.  Whether it is busy is known to pool.c alone:
 * gate_claim() and gate_release() are the only way in and out.  Caller holds the supervisor lock.
 */
#ifndef CALLGATE_GATE_H
#define CALLGATE_GATE_H

#include "compartment.h"

struct gate_instance {
	struct gate *gate;
	struct compartment compartment;
	bool alive;                      /* its compartment has begun a life */
	bool claimed;                    /* a call is under way; else it is in the gate's idle list */
	bool failed;                     /* its last life ended otherwise than by returning */
	struct gate_instance *next_idle; /* the one used before it */
	struct sthread *sthreads;        /* that it created: nested.h */
	unsigned sthread_count;
	/* The call under way: where its caller wants what. */
	bool is_message;
	uint64_t result_at, answer_at, answer_size_at, answer_room;
};

/* A call that waits for an instance; on the stack of the thread that makes it. */
struct gate_waiter {
	pthread_cond_t wake;
	struct gate_instance *instance; /* what it was given; NULL: still waiting */
	struct gate_waiter *next;
};

struct gate {
	cgate_t handle;
	cgate_fn entry;
	void *trusted;
	const struct policy *policy; /* POLICY_KEPT */
	bool fresh;                  /* pristine for each call */
	unsigned wait_milliseconds;
	unsigned instances, claimed, waiting;
	struct gate_instance *instance;   /* array */
	struct gate_instance *idle;       /* last used first: its memory is warm */
	struct gate_waiter *first, *last; /* in order of arrival */
	struct cgate_info info;           /* what is counted as it happens; the rest is filled in when asked for */
};

/* Makes `instances` idle instances that have not begun a life.  Errors: ENOMEM. */
int gate_make_instances(struct gate *gate, unsigned instances);
void gate_free_instances(struct gate *gate);
/* Whether a call is under way or waits. */
bool gate_in_use(const struct gate *gate);

/* Gives the sthread an instance of the gate for one call, waiting its turn if there is none idle; releases the lock
 * while it waits, no longer than the gate's bound and the caller's budget.  Returns 0, or an errno: EBADF; ELOOP; EBUSY;
 * ECANCELED the sthread was killed. */
int gate_claim(struct sthread *sthread, cgate_t handle, struct gate_instance **instance);
/* The call is over: the instance goes to the call that has waited longest, or becomes idle. */
void gate_release(struct gate_instance *instance);
/* Ends the wait of an sthread that was killed, or of what its gate waits for; does nothing if it does not wait. */
void gate_stop_waiting(const struct sthread *sthread);

/* Ends the life of an instance: the next call finds it pristine. */
void gate_end_life(struct gate_instance *instance);

#endif
