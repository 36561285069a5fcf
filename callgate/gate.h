/*
 * gate.h - callgates inside the supervisor: a gate, its instances, and the calls that wait for one.
 *
 * An instance is a compartment that serves one call at a time.  Whether it is busy is known to pool.c alone:
 * gate_claim() and gate_release() are the only way in and out, but for calls that ring 0 makes (direct_call.c).
 * Caller holds the supervisor lock.
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
	struct dune_direct *direct;       /* its target for calls without an exit; NULL: it has none */
	struct gate_instance *lent;       /* what the target is, or was last */
	struct cgate_info info;           /* what is counted as it happens; the rest is filled in when asked for */
};

/* Makes `instances` idle instances that have not begun a life.  Errors: ENOMEM. */
int gate_make_instances(struct gate *gate, unsigned instances);
void gate_free_instances(struct gate *gate);
/* Whether a call is under way or waits.  If not, none begins before the supervisor begins it. */
bool gate_in_use(const struct gate *gate);

/* Gives the sthread an instance of the gate for one call, waiting its turn if there is none idle; releases the lock
 * while it waits, no longer than the gate's bound and the caller's budget.  Returns 0, or an errno: EBADF; ELOOP; EBUSY;
 * ECANCELED the sthread was killed. */
int gate_claim(struct sthread *sthread, cgate_t handle, struct gate_instance **instance);
/* The call is over: the instance goes to the call that has waited longest, or becomes idle. */
void gate_release(struct gate_instance *instance);
/* Ends the wait of an sthread that was killed, or of what its gate waits for; does nothing if it does not wait. */
void gate_stop_waiting(const struct sthread *sthread);

/* The call that ring 0 has made is the supervisor's now: takes its instance out of the idle list. */
void gate_take(struct gate_instance *instance);

/* Ends the life of an instance: the next call finds it pristine. */
void gate_end_life(struct gate_instance *instance);

/* ---- calls without an exit (direct_call.c) --------------------------------------------------------- */

/* A gate begins and ends; it ends when it is not in use. */
void gate_direct_begin(struct gate *gate);
void gate_direct_end(struct gate *gate);
/* Lets ring 0 make calls of an idle instance, if it is warm and the gate has a target. */
void gate_direct_lend(struct gate_instance *instance);
/* Makes sure that ring 0 makes no call of the instance.  Returns false if one is under way: there is none when it is
 * over, or has made an exit, which gate_direct_kick() brings about. */
bool gate_direct_withdraw(struct gate_instance *instance);
void gate_direct_kick(const struct gate *gate);
/* The life of a withdrawn instance ends. */
void gate_direct_forget(struct gate_instance *instance);
/* How many calls ring 0 has made, those included that had an exit later. */
uint64_t gate_direct_calls(const struct gate *gate);
/* Whether ring 0 may make calls for the compartment: not if it has a budget of calls, for they are not counted one by
 * one; and not below a gate, so that none is entered from within itself. */
bool gate_direct_allowed(const struct sthread *sthread, const struct compartment *compartment);
/* After an exit: counts the calls that ring 0 has made for the compartment, and if the exit came from inside a gate
 * makes that the innermost one. */
void gate_direct_exit(struct sthread *sthread, struct compartment *compartment, const struct dune_exit *exit);
/* If a fault was that of storing a call's result where its caller wanted it, that call fails with EFAULT and goes on. */
bool gate_direct_store_failed(struct compartment *compartment);

#endif
