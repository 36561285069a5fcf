/* nested.c - sthreads that gates create: the supervisor's side.  See nested.h. */
#define _GNU_SOURCE
#include "nested.h"

#include <errno.h>
#include <stdlib.h>

#include "budget.h"
#include "local.h"
#include "slice.h"

/* ---- what bounds them ------------------------------------------------------------------------------ */

/* Until the gate that waits for the sthread has spent its budget; while it waits that is not charged yet. */
static uint64_t gate_time_left(const struct sthread *sthread)
{
	const struct sthread *above = sthread->above;
	const struct compartment *gate = &above->gates[above->depth - 1]->compartment;
	uint64_t left = budget_left(gate, sthread->above_since, UINT64_MAX);
	uint64_t spent = slice_clock() - sthread->above_since;
	return left > spent ? left - spent : 0;
}

bool nested_stopped(const struct sthread *sthread)
{
	for (; sthread->above; sthread = sthread->above)
		if (sthread->killed || !gate_time_left(sthread))
			return true;
	return sthread->killed;
}

uint64_t nested_time_left(const struct sthread *sthread)
{
	uint64_t left = UINT64_MAX;
	for (; sthread->above; sthread = sthread->above)
		if (gate_time_left(sthread) < left)
			left = gate_time_left(sthread);
	return left;
}

/* ---- running --------------------------------------------------------------------------------------- */

static void attach(struct sthread *above, struct sthread *child)
{
	child->above = above;
	child->above_since = slice_clock();
	child->busy = true;
	above->below = child;
}

static void detach(struct sthread *child)
{
	child->above->below = NULL;
	child->above = NULL;
	child->busy = false;
}

static void drive(struct sthread *above, struct sthread *child)
{
	if (child->state == STHREAD_ENDED)
		return;
	attach(above, child);
	sthread_drive(child);
	detach(child);
}

static void release(struct sthread *child)
{
	struct gate_instance *owner = child->owner;
	struct sthread **link = &owner->sthreads;
	while (*link != child)
		link = &(*link)->next_owned;
	*link = child->next_owned;
	owner->sthread_count--;
	handle_end(&supervisor.sthreads, child->handle);
	local_sthread_free(child);
}

void nested_release(struct gate_instance *instance)
{
	while (instance->sthreads) {
		struct sthread *child = instance->sthreads;
		child->killed = true;
		if (child->state != STHREAD_ENDED)
			sthread_drive(child); /* enters no virtual CPU: it ends at once */
		release(child);
	}
}

/* ---- the services ---------------------------------------------------------------------------------- */

static struct sthread *make(struct gate_instance *owner, const struct policy *policy, uint64_t body, uint64_t argument)
{
	struct sthread *child = local_sthread_new();
	if (child) { /* beginning may release the lock: it is nobody else's */
		child->state = STHREAD_RUNNABLE;
		child->owner = owner;
		child->busy = true;
		child->driver = pthread_self();
	}
	if (!child) {
		dune_fail(ENOMEM, "out of memory");
	} else if (!policy_gates_exist(policy)) {
		dune_fail(EBADF, "the policy names a gate that is gone");
	} else if ((child->handle = handle_new(&supervisor.sthreads, child)) < 0) {
		dune_fail(errno == ENFILE ? EAGAIN : ENOMEM, "no room for another sthread");
	} else if (compartment_begin(&child->own, policy, body) != 0) {
		int error = errno;
		handle_end(&supervisor.sthreads, child->handle);
		errno = error;
	} else {
		compartment_call(&child->own, body, argument, 0, policy_writes_files(policy));
		child->busy = false;
		child->next_owned = owner->sthreads;
		owner->sthreads = child;
		owner->sthread_count++;
		return child;
	}
	local_sthread_free(child);
	return NULL;
}

static long create(struct sthread *sthread, struct gate_instance *gate, uint64_t policy_at, uint64_t body,
		   uint64_t argument)
{
	struct memory_bounds bounds = compartment_bounds(&gate->compartment);
	sc_t words;
	if (address_space_read(gate->compartment.space, &bounds, policy_at, &words, sizeof words) != 0)
		return -EFAULT;
	const struct snapshot_region *text = snapshot_find(&supervisor.snapshot, body);
	if (!text || !text->execute)
		return -EINVAL;
	if (gate->sthread_count == CGATE_STHREADS_MAX)
		return -EAGAIN;
	const struct policy *policy = nested_policy_new(&words, &gate->compartment);
	struct sthread *child = policy ? make(gate, policy, body, argument) : NULL;
	int error = errno;
	if (policy)
		policy_put(policy);
	if (!child) /* an error that the words remember can be any number */
		return error > 0 && error < 4096 ? -error : -EINVAL;
	sthread_t handle = child->handle;
	drive(sthread, child);
	return handle;
}

/* Runs the sthread to its end.  Returns 0; -EDEADLK; -EINTR the gate itself must end. */
static long run_to_end(struct sthread *sthread, struct sthread *child)
{
	long answer = 0;
	attach(sthread, child);
	while (child->state != STHREAD_ENDED) {
		bool parked = child->state == STHREAD_PARKED;
		if (nested_stopped(child)) {
			answer = -EINTR;
			break;
		}
		if (parked && child->waits_for_step) {
			answer = -EDEADLK;
			break;
		}
		if (parked) {
			uint64_t left = nested_time_left(child);
			supervisor_unlock();
			bool came = wait_poll(&child->wait,
					      left < KILL_NOTICED_NANOSECONDS ? left : KILL_NOTICED_NANOSECONDS);
			supervisor_lock();
			if (!came)
				continue;
		}
		sthread_drive(child);
	}
	detach(child);
	return answer;
}

static long join(struct sthread *sthread, struct gate_instance *gate, struct sthread *child, uint64_t to)
{
	long answer = run_to_end(sthread, child);
	if (answer)
		return answer;
	struct memory_bounds bounds = compartment_bounds(&gate->compartment);
	const struct nested_end end = { .result = child->result, .info = child->own.info };
	if (address_space_write(gate->compartment.space, &bounds, to, &end, sizeof end) != 0)
		return -EFAULT;
	release(child);
	return end.info.end == STHREAD_RETURNED ? 0 : -ECANCELED;
}

static long tell(struct gate_instance *gate, const struct sthread *child, uint64_t to)
{
	struct memory_bounds bounds = compartment_bounds(&gate->compartment);
	return address_space_write(gate->compartment.space, &bounds, to, &child->own.info, sizeof child->own.info) ==
			       0 ?
		       0 :
		       -EFAULT;
}

static struct sthread *find(const struct gate_instance *gate, sthread_t handle)
{
	struct sthread *sthread = handle_get(&supervisor.sthreads, handle);
	return sthread && sthread->owner == gate ? sthread : NULL;
}

long nested_service(struct sthread *sthread)
{
	struct gate_instance *gate = sthread->gates[sthread->depth - 1];
	const struct kvm_regs asked = gate->compartment.space->context.regs;
	if (asked.rax == SERVICE_STHREAD_CREATE)
		return create(sthread, gate, asked.rdi, asked.rsi, asked.rdx);
	struct sthread *child = find(gate, (sthread_t)asked.rdi);
	if (!child)
		return -EBADF;
	switch (asked.rax) {
	case SERVICE_STHREAD_JOIN:
		return join(sthread, gate, child, asked.rsi);
	case SERVICE_STHREAD_STEP:
		drive(sthread, child);
		return 0;
	case SERVICE_STHREAD_STATE:
		return child->state;
	case SERVICE_STHREAD_KILL:
		child->killed = true;
		drive(sthread, child);
		return 0;
	case SERVICE_STHREAD_INFO:
	default:
		return tell(gate, child, asked.rsi);
	}
}
