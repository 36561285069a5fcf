/* callgate.c - see callgate.h, and compartment.h for how sthreads drive gates. */
#define _GNU_SOURCE
#include "callgate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "compartment.h"

enum {
	WAIT_SECONDS = 2
}; /* for a gate that another thread is in */

bool supervisor_gate_exists(cgate_t gate)
{
	return handle_get(&supervisor.gates, gate) != NULL;
}

/* ---- life of a gate -------------------------------------------------------------------------------- */

static cgate_t create(cgate_fn entry, const sc_t *sc, void *trusted, bool fresh)
{
	struct policy policy;
	if (supervisor_enter() != 0)
		return -1;
	const struct snapshot_region *text = snapshot_find(&supervisor.snapshot, (uint64_t)entry);
	if (!text || !text->execute)
		return dune_fail(EINVAL, "the entry was not loaded when sthread_init() was called");
	if (policy_read(sc, &policy) != 0)
		return -1;
	struct gate *gate = calloc(1, sizeof *gate);
	if (!gate || sc_copy(&gate->words, sc) != 0) {
		free(gate);
		return dune_fail(ENOMEM, "out of memory");
	}
	gate->entry = entry;
	gate->trusted = trusted;
	gate->policy = policy;
	gate->fresh = fresh;
	supervisor_lock();
	cgate_t handle = gate->handle = handle_new(&supervisor.gates, gate);
	supervisor_unlock();
	if (handle < 0) {
		sc_destroy(&gate->words);
		free(gate);
		return dune_fail(ENFILE, "too many gates");
	}
	return handle;
}

cgate_t cgate_create(cgate_fn entry, const sc_t *sc, void *trusted)
{
	return create(entry, sc, trusted, false);
}

cgate_t cgate_create_fresh(cgate_fn entry, const sc_t *sc, void *trusted)
{
	return create(entry, sc, trusted, true);
}

int cgate_destroy(cgate_t handle)
{
	if (supervisor_enter() != 0)
		return -1;
	supervisor_lock();
	struct gate *gate = handle_get(&supervisor.gates, handle);
	if (!gate || gate->busy) {
		supervisor_unlock();
		return dune_fail(gate ? EBUSY : EBADF, gate ? "a call of the gate is under way" : "no such gate");
	}
	handle_end(&supervisor.gates, handle);
	if (gate->alive)
		compartment_end(&gate->compartment);
	supervisor_unlock();
	sc_destroy(&gate->words);
	free(gate);
	return 0;
}

/* ---- calls ----------------------------------------------------------------------------------------- */

/* Waits, with a bound, until no other thread is in the gate.  Returns 0 or an errno. */
static int acquire(const struct sthread *sthread, cgate_t handle, struct gate **found)
{
	struct timespec until;
	if (sthread->depth == CGATE_DEPTH_MAX)
		return ELOOP;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_SECONDS;
	for (;;) {
		struct gate *gate = handle_get(&supervisor.gates, handle);
		if (!gate)
			return EBADF;
		for (unsigned i = 0; i < sthread->depth; i++)
			if (sthread->gates[i] == gate)
				return ELOOP;
		if (!gate->busy) {
			*found = gate;
			return 0;
		}
		if (pthread_cond_timedwait(&supervisor.changed, &supervisor.lock, &until) == ETIMEDOUT)
			return EBUSY;
	}
}

static void end_life(struct gate *gate)
{
	compartment_end(&gate->compartment);
	gate->alive = false;
}

/* Makes the gate ready for a call.  Preconditions: it is not busy.  Returns 0 or an errno. */
static int begin_call(struct gate *gate, uint64_t argument)
{
	if (!gate->alive && compartment_begin(&gate->compartment, &gate->policy, (uint64_t)gate->entry) != 0)
		return errno;
	gate->alive = true;
	gate->compartment.run_nanoseconds = 0;
	bool writes = false;
	for (unsigned i = 0; i < gate->policy.files; i++)
		writes = writes || gate->policy.file[i].prot & PROT_WRITE;
	compartment_call(&gate->compartment, (uint64_t)gate->entry, argument, (uint64_t)gate->trusted, writes);
	return 0;
}

static void push(struct sthread *sthread, struct gate *gate)
{
	gate->busy = true;
	supervisor.statistics.gate_calls++;
	sthread->gates[sthread->depth++] = gate;
}

static uint64_t message_address(uint64_t offset)
{
	return supervisor.machine->window + offset;
}

/* Puts a message, already copied, into the gate's memory and begins the call.  Returns 0 or an errno. */
static int begin_message(struct gate *gate, const uint8_t *in, size_t size, size_t room)
{
	struct cgate_buffer buffer = { .in = (void *)message_address(SPACE_MESSAGE_IN),
				       .inlen = size,
				       .out = (void *)message_address(SPACE_MESSAGE_OUT),
				       .outlen = room };
	int error = begin_call(gate, message_address(SPACE_MESSAGE));
	if (error)
		return error;
	struct memory_bounds bounds = compartment_bounds(&gate->compartment);
	if (address_space_write(gate->compartment.space, &bounds, message_address(SPACE_MESSAGE), &buffer,
				sizeof buffer) != 0 ||
	    address_space_write(gate->compartment.space, &bounds, message_address(SPACE_MESSAGE_IN), in, size) != 0) {
		end_life(gate); /* part of a message that was never delivered is in it */
		return ENOMEM;
	}
	gate->is_message = true;
	gate->answer_room = room;
	return 0;
}

/* Takes the answer of a gate that returned: its length is read once and checked. */
static int take_answer(struct gate *gate, uint64_t result, uint8_t *answer, size_t *size)
{
	struct cgate_buffer buffer;
	struct memory_bounds bounds = compartment_bounds(&gate->compartment);
	if (result)
		return result < 4096 ? (int)result : EPROTO;
	if (address_space_read(gate->compartment.space, &bounds, message_address(SPACE_MESSAGE), &buffer,
			       sizeof buffer) != 0 ||
	    buffer.outlen > gate->answer_room ||
	    address_space_read(gate->compartment.space, &bounds, message_address(SPACE_MESSAGE_OUT), answer,
			       buffer.outlen) != 0)
		return EPROTO;
	*size = buffer.outlen;
	return 0;
}

/* A message call of a compartment: copies in once, checks, then uses. */
static int service_message(struct sthread *sthread, struct compartment *caller, struct gate *gate)
{
	const struct kvm_regs *regs = &caller->space->context.regs;
	struct memory_bounds bounds = compartment_bounds(caller);
	uint8_t in[CGATE_BUFFER_MAX];
	uint64_t in_at = regs->rsi, in_size = regs->rdx, answer_at = regs->r10, size_at = regs->r8, room = 0;
	if (size_at && address_space_read(caller->space, &bounds, size_at, &room, sizeof room) != 0)
		return EFAULT;
	if (in_size > CGATE_BUFFER_MAX || room > CGATE_BUFFER_MAX)
		return EMSGSIZE;
	if (address_space_read(caller->space, &bounds, in_at, in, in_size) != 0)
		return EFAULT;
	int error = begin_message(gate, in, in_size, room);
	if (error)
		return error;
	gate->answer_at = answer_at;
	gate->answer_size_at = size_at;
	push(sthread, gate);
	return 0;
}

int gate_service(struct sthread *sthread, struct compartment *caller, bool message)
{
	const struct kvm_regs *regs = &caller->space->context.regs;
	cgate_t handle = (cgate_t)regs->rdi;
	struct gate *gate;
	if (!policy_allows_gate(&caller->policy, handle)) {
		caller->info.calls_denied++;
		supervisor.statistics.calls_denied++;
		return EPERM;
	}
	int error = acquire(sthread, handle, &gate);
	if (error)
		return error;
	if (message)
		return service_message(sthread, caller, gate);
	if ((error = begin_call(gate, regs->rsi)))
		return error;
	gate->is_message = false;
	gate->result_at = regs->rdx;
	push(sthread, gate);
	return 0;
}

/* Brings what a gate returned to the compartment that called it. */
static int deliver(struct gate *gate, struct compartment *caller, uint64_t result)
{
	struct memory_bounds bounds = compartment_bounds(caller);
	if (!gate->is_message) {
		if (!gate->result_at)
			return 0;
		return address_space_write(caller->space, &bounds, gate->result_at, &result, sizeof result) == 0 ?
			       0 :
			       EFAULT;
	}
	uint8_t answer[CGATE_BUFFER_MAX];
	size_t size = 0;
	int error = take_answer(gate, result, answer, &size);
	if (!error && gate->answer_size_at &&
	    (address_space_write(caller->space, &bounds, gate->answer_at, answer, size) != 0 ||
	     address_space_write(caller->space, &bounds, gate->answer_size_at, &size, sizeof size) != 0))
		error = EFAULT;
	return error;
}

int gate_finish(struct sthread *sthread, struct compartment *caller, bool returned)
{
	struct gate *gate = sthread->gates[--sthread->depth];
	struct compartment *compartment = &gate->compartment;
	int error = ECANCELED;
	if (returned) {
		sthread->result = compartment->space->context.regs.rdi;
		error = caller ? deliver(gate, caller, sthread->result) : 0;
	}
	/* From host mode the answer is still to be taken: cgate_call_buf() then calls gate_release(). */
	if (caller || !returned) {
		if (!returned || gate->fresh)
			end_life(gate);
		gate->busy = false;
		pthread_cond_broadcast(&supervisor.changed);
	}
	return error;
}

/* ---- the public interface -------------------------------------------------------------------------- */

/* A call from host mode.  in NULL: a plain call with *result; else a message. */
static int call_from_host(cgate_t handle, uint64_t argument, uint64_t *result, const uint8_t *in, size_t size,
			  uint8_t *answer, size_t *answer_size)
{
	struct sthread sthread = { .handle = -1 };
	struct gate *gate;
	supervisor_lock();
	int error = acquire(&sthread, handle, &gate);
	if (!error)
		error = in ? begin_message(gate, in, size, *answer_size) : begin_call(gate, argument);
	if (!error) {
		gate->is_message = in != NULL;
		push(&sthread, gate);
		sthread_drive(&sthread);
		error = sthread.own.info.exit_status;
		if (!error) {
			*result = sthread.result;
			if (in)
				error = take_answer(gate, sthread.result, answer, answer_size);
			if (gate->fresh)
				end_life(gate);
			gate->busy = false;
			pthread_cond_broadcast(&supervisor.changed);
		}
	}
	supervisor_unlock();
	return error;
}

int cgate_call(cgate_t gate, void *arg, void **ret)
{
	if (supervisor_inside())
		return supervisor_answer(
			supervisor_service_yielding(SERVICE_GATE, (uint64_t)gate, (uint64_t)arg, (uint64_t)ret, 0, 0));
	if (supervisor_enter() != 0)
		return -1;
	uint64_t result = 0;
	int error = call_from_host(gate, (uint64_t)arg, &result, NULL, 0, NULL, NULL);
	if (error)
		return dune_fail(error, "the gate call failed: %s", strerror(error));
	if (ret)
		*ret = (void *)result;
	return 0;
}

int cgate_call_buf(cgate_t gate, const void *in, size_t inlen, void *out, size_t *outlen)
{
	if (supervisor_inside())
		return supervisor_answer(supervisor_service_yielding(SERVICE_GATE_BUFFER, (uint64_t)gate, (uint64_t)in,
								     inlen, (uint64_t)out, (uint64_t)outlen));
	if (supervisor_enter() != 0)
		return -1;
	size_t size = outlen ? *outlen : 0;
	uint64_t result;
	uint8_t answer[CGATE_BUFFER_MAX];
	if (inlen > CGATE_BUFFER_MAX || size > CGATE_BUFFER_MAX)
		return dune_fail(EMSGSIZE, "a gate's message has at most %d bytes", CGATE_BUFFER_MAX);
	if ((!in && inlen) || (!out && size))
		return dune_fail(EFAULT, "no buffer given");
	int error = call_from_host(gate, 0, &result, in ? in : "", inlen, answer, &size);
	if (error)
		return dune_fail(error, "the gate call failed: %s", strerror(error));
	if (outlen) {
		memcpy(out, answer, size);
		*outlen = size;
	}
	return 0;
}
