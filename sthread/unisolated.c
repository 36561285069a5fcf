/* unisolated.c - see unisolated.h: the mode, sthreads, gate calls. */
#define _GNU_SOURCE
#include "unisolated.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gate.h"
#include "pristine.h"

#define SLICE_NANOSECONDS (10 * 1000 * 1000)

/* What the calling thread is in: an sthread, or a gate called from host mode. */
static _Thread_local struct sthread *current;

static bool required;

/* ---- the mode -------------------------------------------------------------------------------------- */

int unisolated_wanted(void)
{
	const char *value = secure_getenv("STHREAD_ISOLATION");
	if (!value || !*value || strcmp(value, "on") == 0)
		return 0;
	if (strcmp(value, "off") != 0)
		return dune_fail(EINVAL, "STHREAD_ISOLATION is neither \"on\" nor \"off\"");
	if (required)
		return dune_fail(EPERM, "this program does not run with STHREAD_ISOLATION=off");
	return 1;
}

/* The library's one line of its own. */
void unisolated_start(void)
{
	fprintf(stderr, "libsthread: STHREAD_ISOLATION=off: the sthreads of process %d are NOT ISOLATED\n",
		(int)supervisor.process);
}

enum sthread_isolation sthread_isolation(void)
{
	if (supervisor_inside() || supervisor.ready || supervisor.forked)
		return STHREAD_ISOLATION_KVM;
	return supervisor.unisolated ? STHREAD_ISOLATION_OFF : STHREAD_ISOLATION_NOT_STARTED;
}

int sthread_require_isolation(void)
{
	if (supervisor_inside() || unisolated_inside()) {
		errno = EPERM;
		return -1;
	}
	if (supervisor.unisolated)
		return dune_fail(EPERM, "sthreads run without isolation already");
	required = true;
	return 0;
}

bool unisolated_inside(void)
{
	return current != NULL;
}

int unisolated_enter(void)
{
	if (!current || current->depth) /* gates may create sthreads */
		return 0;
	errno = EPERM;
	return -1;
}

/* ---- sthreads -------------------------------------------------------------------------------------- */

/* The sthread is over, by returning or by pthread_exit(). */
static void end(void *argument)
{
	struct sthread *sthread = argument;
	supervisor_lock();
	while (sthread->depth)
		gate_release(sthread->gates[--sthread->depth]);
	if (sthread->own.info.end == STHREAD_RETURNED && sthread->freeze) {
		const struct address_space nothing = { 0 };
		*sthread->freeze = pristine_capture(&nothing, &(struct memory_shape){ 0 });
	}
	policy_put(sthread->own.policy);
	sthread->own.policy = NULL;
	sthread->state = STHREAD_ENDED;
	pthread_cond_broadcast(&supervisor.changed);
	supervisor_unlock();
}

static void *run(void *argument)
{
	struct sthread *sthread = argument;
	current = sthread;
	pthread_cleanup_push(end, sthread);
	void *result = sthread->body(sthread->argument);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	sthread->result = (uint64_t)result;
	sthread->own.info.end = STHREAD_RETURNED;
	pthread_cleanup_pop(1);
	return NULL;
}

int unisolated_begin(struct sthread *sthread, const struct policy *policy, stcb_t body, void *argument)
{
	if (policy->template && !template_state(policy))
		return -1;
	sthread->own.policy = policy_get(policy);
	sthread->own.instance = supervisor_new_instance();
	sthread->own.info.instance = sthread->own.instance;
	sthread->own.info.system_call = -1;
	sthread->own.info.end = STHREAD_KILLED; /* unless it returns */
	sthread->body = body;
	sthread->argument = argument;
	sthread->state = STHREAD_RUNNABLE;
	int error = pthread_create(&sthread->thread, NULL, run, sthread);
	if (error) {
		policy_put(policy);
		return dune_fail(EAGAIN, "cannot make a thread: %s", strerror(error));
	}
	supervisor.statistics.lives++;
	return 0;
}

void unisolated_drive(struct sthread *sthread)
{
	struct timespec until;
	if (sthread->state == STHREAD_PARKED) {
		sthread->state = STHREAD_RUNNABLE;
		pthread_cond_broadcast(&supervisor.changed);
	}
	if (sthread->killed)
		unisolated_kill(sthread);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += SLICE_NANOSECONDS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	int late = 0;
	while (sthread->state == STHREAD_RUNNABLE && late != ETIMEDOUT)
		late = supervisor_wait(&supervisor.changed, &until);
}

void unisolated_kill(const struct sthread *sthread)
{
	if (sthread->state != STHREAD_ENDED)
		pthread_cancel(sthread->thread);
	pthread_cond_broadcast(&supervisor.changed);
}

void unisolated_join(const struct sthread *sthread)
{
	pthread_join(sthread->thread, NULL);
}

int unisolated_park(void)
{
	struct sthread *self = current;
	if (!self || self->depth) {
		errno = EPERM;
		return -1;
	}
	int before;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	supervisor_lock();
	self->state = STHREAD_PARKED;
	self->waits_for_step = true;
	self->wait = (struct wait){ .fd = -1 };
	self->own.info.parks++;
	pthread_cond_broadcast(&supervisor.changed);
	while (self->state == STHREAD_PARKED && !self->killed)
		supervisor_wait(&supervisor.changed, NULL);
	bool killed = self->killed;
	supervisor_unlock();
	pthread_setcancelstate(before, NULL);
	if (killed)
		pthread_exit(NULL);
	return 0;
}

/* ---- gates ----------------------------------------------------------------------------------------- */

static const struct policy *policy_of(const struct sthread *self)
{
	return self->depth ? self->gates[self->depth - 1]->gate->policy : self->own.policy;
}

static int enter_gate(struct sthread *self, cgate_t handle)
{
	struct gate_instance *instance;
	const struct policy *policy = policy_of(self); /* host mode has none */
	if (policy && !policy_allows_gate(policy, handle)) {
		supervisor.statistics.calls_denied++;
		return EPERM;
	}
	int error = gate_claim(self, handle, &instance);
	if (error)
		return error;
	self->gates[self->depth++] = instance;
	self->own.info.gate_calls++;
	supervisor.statistics.gate_calls++;
	instance->gate->info.calls++;
	return 0;
}

/* Calls the entry.  Returns 0 or an errno. */
static int call(cgate_t handle, void *argument, uint64_t *result)
{
	struct sthread host = { .handle = -1 }, *self = current ? current : &host;
	int before;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	supervisor_lock();
	int error = enter_gate(self, handle);
	supervisor_unlock();
	if (!error) {
		const struct gate *gate = self->gates[self->depth - 1]->gate;
		if (self == &host)
			current = &host;
		pthread_setcancelstate(before, NULL);
		*result = (uint64_t)gate->entry(argument, gate->trusted);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		if (self == &host)
			current = NULL;
		supervisor_lock();
		gate_release(self->gates[--self->depth]);
		supervisor_unlock();
	}
	pthread_setcancelstate(before, NULL);
	return error ? dune_fail(error, "the gate call failed: %s", strerror(error)), error : 0;
}

int unisolated_cgate_call(cgate_t gate, void *arg, void **ret)
{
	uint64_t result;
	int error = call(gate, arg, &result);
	if (!error && ret)
		*ret = (void *)result;
	errno = error ? error : errno;
	return error ? -1 : 0;
}

/* The buffers are of exactly the sizes that the entry is told, so that a sanitizer sees what goes beyond. */
int unisolated_cgate_call_buf(cgate_t gate, const void *in, size_t inlen, void *out, size_t *outlen)
{
	size_t room = outlen ? *outlen : 0;
	uint64_t result = 0;
	if (inlen > CGATE_BUFFER_MAX || room > CGATE_BUFFER_MAX)
		return dune_fail(EMSGSIZE, "a gate's message has at most %d bytes", CGATE_BUFFER_MAX);
	if ((!in && inlen) || (!out && room))
		return dune_fail(EFAULT, "no buffer given");
	void *message = malloc(inlen), *answer = calloc(1, room);
	struct cgate_buffer buffer = { .in = message, .inlen = inlen, .out = answer, .outlen = room };
	int error = (!message && inlen) || (!answer && room) ? ENOMEM : 0;
	if (!error && inlen)
		memcpy(message, in, inlen);
	if (!error)
		error = call(gate, &buffer, &result);
	if (!error && result)
		error = result < 4096 ? (int)result : EPROTO;
	if (!error && buffer.outlen > room)
		error = EPROTO;
	if (!error && outlen) {
		if (buffer.outlen)
			memcpy(out, answer, buffer.outlen);
		*outlen = buffer.outlen;
	}
	free(message);
	free(answer);
	return error ? dune_fail(error, "the gate call failed: %s", strerror(error)) : 0;
}

/* ---- who may allocate ------------------------------------------------------------------------------ */

bool unisolated_may_write(tag_t tag)
{
	const struct policy *policy = current ? policy_of(current) : NULL;
	return !policy || policy_tag_rights(policy, tag) & PROT_WRITE;
}
