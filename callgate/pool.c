/* pool.c - the instances of a gate: which are busy, and who waits for one.  See gate.h. */
#define _GNU_SOURCE
#include "nested.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

int gate_make_instances(struct gate *gate, unsigned instances)
{
	gate->instance = calloc(instances, sizeof *gate->instance);
	if (!gate->instance)
		return dune_fail(ENOMEM, "out of memory");
	gate->instances = instances;
	for (unsigned i = instances; i > 0; i--) {
		struct gate_instance *instance = &gate->instance[i - 1];
		instance->gate = gate;
		instance->next_idle = gate->idle;
		gate->idle = instance;
	}
	return 0;
}

void gate_free_instances(struct gate *gate)
{
	for (unsigned i = 0; i < gate->instances; i++)
		if (gate->instance[i].alive)
			gate_end_life(&gate->instance[i]);
	free(gate->instance);
	gate->instance = NULL;
	gate->idle = NULL;
	gate->instances = 0;
}

bool gate_in_use(const struct gate *gate)
{
	return gate->claimed || gate->waiting || (gate->lent && !gate_direct_withdraw(gate->lent));
}

void gate_end_life(struct gate_instance *instance)
{
	nested_release(instance);
	gate_direct_forget(instance);
	compartment_end(&instance->compartment);
	instance->alive = false;
}

/* ---- waiting --------------------------------------------------------------------------------------- */

static struct timespec deadline(const struct gate *gate, struct sthread *sthread)
{
	const struct compartment *caller = innermost_compartment(sthread);
	uint64_t wait = (uint64_t)gate->wait_milliseconds * 1000 * 1000;
	if (caller->space && compartment_time_left(caller) < wait) /* a host caller has no budget */
		wait = compartment_time_left(caller);
	if (nested_time_left(sthread) < wait)
		wait = nested_time_left(sthread);
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(wait / 1000000000);
	until.tv_nsec += (long)(wait % 1000000000);
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	return until;
}

static void enqueue(struct gate *gate, struct gate_waiter *waiter)
{
	if (gate->last)
		gate->last->next = waiter;
	else
		gate->first = waiter;
	gate->last = waiter;
	gate->waiting++;
}

static void dequeue(struct gate *gate, struct gate_waiter *waiter)
{
	struct gate_waiter *before = NULL;
	for (struct gate_waiter *at = gate->first; at != waiter; at = at->next)
		before = at;
	if (before)
		before->next = waiter->next;
	else
		gate->first = waiter->next;
	if (gate->last == waiter)
		gate->last = before;
	gate->waiting--;
}

/* Removes an instance from the idle list. */
static void unlink_idle(struct gate_instance *instance)
{
	struct gate *gate = instance->gate;
	struct gate_instance **link = &gate->idle;
	while (*link != instance)
		link = &(*link)->next_idle;
	*link = instance->next_idle;
	instance->claimed = true;
	gate->claimed++;
}

/* The idle instance that was used last, NULL if there is none that ring 0 is not in. */
static struct gate_instance *take_idle(const struct gate *gate)
{
	struct gate_instance *instance = gate->idle;
	while (instance && !gate_direct_withdraw(instance))
		instance = instance->next_idle;
	if (instance)
		unlink_idle(instance);
	return instance;
}

void gate_take(struct gate_instance *instance)
{
	unlink_idle(instance);
}

/* When to look again: nobody tells that ring 0 has left an instance. */
static struct timespec next_look(const struct gate *gate, const struct timespec *until)
{
	struct timespec soon;
	if (!gate->idle)
		return *until;
	gate_direct_kick(gate);
	clock_gettime(CLOCK_MONOTONIC, &soon);
	soon.tv_nsec += 1000000;
	if (soon.tv_nsec >= 1000000000) {
		soon.tv_sec++;
		soon.tv_nsec -= 1000000000;
	}
	bool first = soon.tv_sec < until->tv_sec || (soon.tv_sec == until->tv_sec && soon.tv_nsec < until->tv_nsec);
	return first ? soon : *until;
}

/* The gate stays while somebody waits: cgate_destroy() fails with EBUSY. */
static int wait_turn(struct sthread *sthread, struct gate *gate, struct gate_instance **instance)
{
	struct gate_waiter waiter = { .wake = PTHREAD_COND_INITIALIZER };
	struct timespec until = deadline(gate, sthread);
	int late = gate->wait_milliseconds ? 0 : ETIMEDOUT;
	enqueue(gate, &waiter);
	sthread->waiter = &waiter;
	while (!waiter.instance && !nested_stopped(sthread) && late != ETIMEDOUT) {
		struct timespec look = next_look(gate, &until);
		bool looks = gate->idle;
		late = supervisor_wait(&waiter.wake, &look);
		if (!looks || waiter.instance)
			continue;
		if (gate->first == &waiter && (waiter.instance = take_idle(gate)))
			dequeue(gate, &waiter);
		else if (look.tv_sec != until.tv_sec || look.tv_nsec != until.tv_nsec)
			late = 0;
	}
	sthread->waiter = NULL;
	pthread_cond_destroy(&waiter.wake);
	if (!waiter.instance)
		dequeue(gate, &waiter);
	if (nested_stopped(sthread)) { /* it makes no call: the instance goes to the next one */
		if (waiter.instance)
			gate_release(waiter.instance);
		return ECANCELED;
	}
	*instance = waiter.instance;
	gate->info.refused += !waiter.instance;
	return waiter.instance ? 0 : EBUSY;
}

void gate_stop_waiting(const struct sthread *sthread)
{
	while (sthread->below)
		sthread = sthread->below;
	if (sthread->waiter)
		pthread_cond_signal(&sthread->waiter->wake);
}

/* ---- busy or idle ---------------------------------------------------------------------------------- */

/* Whether the gate is not open already, nor too many are, below the sthread and those above it. */
static bool may_enter(const struct sthread *sthread, const struct gate *gate)
{
	unsigned depth = 0;
	for (; sthread; sthread = sthread->above) {
		depth += sthread->depth;
		for (unsigned i = 0; i < sthread->depth; i++)
			if (sthread->gates[i]->gate == gate)
				return false;
	}
	return depth < CGATE_DEPTH_MAX;
}

int gate_claim(struct sthread *sthread, cgate_t handle, struct gate_instance **instance)
{
	struct gate *gate = handle_get(&supervisor.gates, handle);
	if (!gate)
		return EBADF;
	if (!may_enter(sthread, gate))
		return ELOOP;
	*instance = gate->first ? NULL : take_idle(gate);
	return *instance ? 0 : wait_turn(sthread, gate, instance);
}

void gate_release(struct gate_instance *instance)
{
	struct gate *gate = instance->gate;
	struct gate_waiter *next = gate->first;
	if (next) {
		dequeue(gate, next);
		next->instance = instance;
		pthread_cond_signal(&next->wake);
		return;
	}
	instance->claimed = false;
	gate->claimed--;
	instance->next_idle = gate->idle;
	gate->idle = instance;
	gate_direct_lend(instance);
}
