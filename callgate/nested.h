/*
 * nested.h - sthreads that gates create.
 *
 * They run on the thread that drives the gate, while the gate waits in the call that runs them; its policy bounds
 * theirs, and they end with its life.  Caller holds the supervisor lock, but for the functions inside.
 */
#ifndef CALLGATE_NESTED_H
#define CALLGATE_NESTED_H

#include "gate.h"

/* What the supervisor writes into the gate's memory for SERVICE_STHREAD_JOIN. */
struct nested_end {
	uint64_t result;
	struct sthread_info info;
};

/* Serves SERVICE_STHREAD_* of the gate that the sthread is in.  Returns what the gate gets: 0 or more, or minus an
 * errno.  Releases the lock while an sthread of the gate runs or is waited for. */
long nested_service(struct sthread *sthread);
/* Ends and releases the sthreads of an instance, whose life is over. */
void nested_release(struct gate_instance *instance);

/* Whether an sthread cannot go on: it was killed, or a gate above it must end. */
bool nested_stopped(const struct sthread *sthread);
/* Nanoseconds until a gate above it must end; UINT64_MAX: there is none. */
uint64_t nested_time_left(const struct sthread *sthread);

/* Inside a compartment: the public functions of the same name. */
int inside_sthread_create(sthread_t *st, const sc_t *sc, stcb_t cb, void *arg);
int inside_sthread_join(sthread_t st, void **ret, struct sthread_info *info);
int inside_sthread_step(sthread_t st);
int inside_sthread_state(sthread_t st, enum sthread_state *state);
int inside_sthread_kill(sthread_t st);
int inside_sthread_get_info(sthread_t st, struct sthread_info *info);

/* nested_policy.c: makes a policy of the words that a gate passed, which are not trusted, every grant resolved by what
 * the gate itself holds.  Returns it with one reference; NULL with EINVAL, EBADF, EPERM, ENOMEM, or the failure that the
 * words remember. */
const struct policy *nested_policy_new(const sc_t *words, struct compartment *gate);

#endif
