/* callgate.c - see callgate.h, and compartment.h for how sthreads drive gates. */
#define _GNU_SOURCE
#include "callgate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gate.h"
#include "kvm/direct.h"
#include "local.h"
#include "unisolated.h"

bool supervisor_gate_exists(cgate_t gate)
{
	return handle_get(&supervisor.gates, gate) != NULL;
}

/* ---- life of a gate -------------------------------------------------------------------------------- */

/* Makes a gate from a policy whose reference it takes over.  Caller holds the lock. */
static cgate_t create(cgate_fn entry, const struct policy *policy, void *trusted, unsigned instances, unsigned flags)
{
	struct gate *gate = calloc(1, sizeof *gate);
	if (!gate) {
		policy_put(policy);
		return dune_fail(ENOMEM, "out of memory");
	}
	gate->entry = entry;
	gate->trusted = trusted;
	gate->policy = policy;
	gate->fresh = flags & CGATE_FRESH;
	gate->wait_milliseconds = CGATE_WAIT_MILLISECONDS;
	if (gate_make_instances(gate, instances) == 0) {
		gate->handle = handle_new(&supervisor.gates, gate);
		if (gate->handle >= 0) {
			gate_direct_begin(gate);
			return gate->handle;
		}
		dune_fail(errno, "no room for another gate: %s", strerror(errno));
	}
	int error = errno;
	gate_free_instances(gate);
	policy_put(policy);
	free(gate);
	errno = error;
	return -1;
}

static int check_create(cgate_fn entry, unsigned instances, unsigned flags)
{
	if (supervisor_enter() != 0)
		return -1;
	if (!supervisor_has_text((uint64_t)entry))
		return dune_fail(EINVAL, "the entry was not loaded when sthread_init() was called");
	if (!instances || instances > CGATE_INSTANCES_MAX || flags & ~(unsigned)CGATE_FRESH)
		return dune_fail(EINVAL, "a gate has 1 to %d instances, and no flag but CGATE_FRESH",
				 CGATE_INSTANCES_MAX);
	return 0;
}

cgate_t cgate_create_pool(cgate_fn entry, const sc_t *sc, void *trusted, unsigned instances, unsigned flags)
{
	if (check_create(entry, instances, flags) != 0)
		return -1;
	supervisor_lock();
	const struct policy *policy = policy_new(sc, POLICY_KEPT);
	cgate_t handle = policy ? create(entry, policy, trusted, instances, flags) : -1;
	supervisor_unlock();
	return handle;
}

cgate_t cgate_create_frozen(cgate_fn entry, sc_frozen_t frozen, void *trusted, unsigned instances, unsigned flags)
{
	if (check_create(entry, instances, flags) != 0)
		return -1;
	supervisor_lock();
	const struct policy *policy = policy_frozen(frozen);
	cgate_t handle = policy ? create(entry, policy_get(policy), trusted, instances, flags) : -1;
	supervisor_unlock();
	return handle;
}

cgate_t cgate_create(cgate_fn entry, const sc_t *sc, void *trusted)
{
	return cgate_create_pool(entry, sc, trusted, 1, 0);
}

cgate_t cgate_create_fresh(cgate_fn entry, const sc_t *sc, void *trusted)
{
	return cgate_create_pool(entry, sc, trusted, 1, CGATE_FRESH);
}

int cgate_wait_limit(cgate_t handle, unsigned milliseconds)
{
	if (supervisor_enter() != 0)
		return -1;
	supervisor_lock();
	struct gate *gate = handle_get(&supervisor.gates, handle);
	if (gate)
		gate->wait_milliseconds = milliseconds;
	supervisor_unlock();
	return gate ? 0 : dune_fail(EBADF, "no such gate");
}

int cgate_get_info(cgate_t handle, struct cgate_info *info)
{
	if (supervisor_enter() != 0)
		return -1;
	if (!info)
		return dune_fail(EINVAL, "no place for what is known of the gate");
	supervisor_lock();
	const struct gate *gate = handle_get(&supervisor.gates, handle);
	if (gate) {
		*info = gate->info;
		info->instances = gate->instances;
		info->calls += gate_direct_calls(gate);
		info->busy = gate->claimed + (gate->direct && dune_direct_user(gate->direct));
		info->waiting = gate->waiting;
	}
	supervisor_unlock();
	return gate ? 0 : dune_fail(EBADF, "no such gate");
}

static bool names_gate(const struct local_kind *kind, const void *gate)
{
	return policy_allows_gate(kind->policy, *(const cgate_t *)gate);
}

int cgate_destroy(cgate_t handle)
{
	if (supervisor_enter() != 0)
		return -1;
	supervisor_lock();
	struct gate *gate = handle_get(&supervisor.gates, handle);
	if (!gate || gate_in_use(gate)) {
		supervisor_unlock();
		return dune_fail(gate ? EBUSY : EBADF, gate ? "a call of the gate is under way" : "no such gate");
	}
	locals_give_up(names_gate, &handle, 0);
	handle_end(&supervisor.gates, handle);
	gate_free_instances(gate);
	gate_direct_end(gate);
	policy_put(gate->policy);
	supervisor_unlock();
	free(gate);
	return 0;
}

/* ---- calls ----------------------------------------------------------------------------------------- */

/* Makes a claimed instance ready for a call.  Returns 0 or an errno. */
static int begin_call(struct gate_instance *instance, uint64_t argument)
{
	struct gate *gate = instance->gate;
	struct compartment *compartment = &instance->compartment;
	if (!instance->alive && compartment_begin(compartment, gate->policy, (uint64_t)gate->entry) != 0)
		return errno;
	gate->info.lives += !instance->alive;
	gate->info.restarts += !instance->alive && instance->failed;
	instance->alive = true;
	instance->failed = false;
	instance->is_message = false;
	compartment->space->life->is_gate = 1;
	compartment_call(compartment, (uint64_t)gate->entry, argument, (uint64_t)gate->trusted,
			 policy_writes_files(gate->policy));
	return 0;
}

/* The call is on: the sthread is in the gate. */
static void push(struct sthread *sthread, struct gate_instance *instance)
{
	supervisor.statistics.gate_calls++;
	instance->gate->info.calls++;
	sthread->gates[sthread->depth++] = instance;
}

static uint64_t message_address(uint64_t offset)
{
	return supervisor.machine->window + offset;
}

/* Puts a message, already copied, into the gate's memory and begins the call.  Returns 0 or an errno. */
static int begin_message(struct gate_instance *instance, const uint8_t *in, size_t size, size_t room)
{
	struct cgate_buffer buffer = { .in = (void *)message_address(SPACE_MESSAGE_IN),
				       .inlen = size,
				       .out = (void *)message_address(SPACE_MESSAGE_OUT),
				       .outlen = room };
	int error = begin_call(instance, message_address(SPACE_MESSAGE));
	if (error)
		return error;
	/* What an earlier caller was answered is not there for an entry that claims more than it wrote. */
	struct memory_bounds bounds = compartment_bounds(&instance->compartment);
	address_space_clear(instance->compartment.space, &bounds, message_address(SPACE_MESSAGE_OUT),
			    message_address(SPACE_MESSAGE_OUT) + CGATE_BUFFER_MAX);
	if (address_space_write(instance->compartment.space, &bounds, message_address(SPACE_MESSAGE), &buffer,
				sizeof buffer) != 0 ||
	    address_space_write(instance->compartment.space, &bounds, message_address(SPACE_MESSAGE_IN), in, size) !=
		    0) {
		gate_end_life(instance); /* part of a message that was never delivered is in it */
		return ENOMEM;
	}
	instance->is_message = true;
	instance->answer_room = room;
	return 0;
}

/* Takes the answer of a gate that returned: its length is read once and checked. */
static int take_answer(struct gate_instance *instance, uint64_t result, uint8_t *answer, size_t *size)
{
	struct cgate_buffer buffer;
	struct memory_bounds bounds = compartment_bounds(&instance->compartment);
	if (result)
		return result < 4096 ? (int)result : EPROTO;
	if (address_space_read(instance->compartment.space, &bounds, message_address(SPACE_MESSAGE), &buffer,
			       sizeof buffer) != 0 ||
	    buffer.outlen > instance->answer_room ||
	    address_space_read(instance->compartment.space, &bounds, message_address(SPACE_MESSAGE_OUT), answer,
			       buffer.outlen) != 0)
		return EPROTO;
	*size = buffer.outlen;
	return 0;
}

/* A message call of a compartment: copies in once, checks, then uses. */
static int service_message(struct sthread *sthread, struct compartment *caller, cgate_t handle)
{
	const struct kvm_regs *regs = &caller->space->context.regs;
	struct memory_bounds bounds = compartment_bounds(caller);
	struct gate_instance *instance;
	uint8_t in[CGATE_BUFFER_MAX];
	uint64_t in_at = regs->rsi, in_size = regs->rdx, answer_at = regs->r10, size_at = regs->r8, room = 0;
	if (size_at && address_space_read(caller->space, &bounds, size_at, &room, sizeof room) != 0)
		return EFAULT;
	if (in_size > CGATE_BUFFER_MAX || room > CGATE_BUFFER_MAX)
		return EMSGSIZE;
	if (address_space_read(caller->space, &bounds, in_at, in, in_size) != 0)
		return EFAULT;
	int error = gate_claim(sthread, handle, &instance);
	if (error)
		return error;
	if ((error = begin_message(instance, in, in_size, room))) {
		gate_release(instance);
		return error;
	}
	instance->answer_at = answer_at;
	instance->answer_size_at = size_at;
	push(sthread, instance);
	return 0;
}

static int service_plain(struct sthread *sthread, const struct compartment *caller, cgate_t handle)
{
	const struct kvm_regs *regs = &caller->space->context.regs;
	uint64_t argument = regs->rsi, result_at = regs->rdx;
	struct gate_instance *instance;
	int error = gate_claim(sthread, handle, &instance);
	if (error)
		return error;
	if ((error = begin_call(instance, argument))) {
		gate_release(instance);
		return error;
	}
	instance->result_at = result_at;
	push(sthread, instance);
	return 0;
}

int gate_service(struct sthread *sthread, struct compartment *caller, bool message)
{
	cgate_t handle = (cgate_t)caller->space->context.regs.rdi;
	if (!policy_allows_gate(caller->policy, handle)) {
		caller->info.calls_denied++;
		supervisor.statistics.calls_denied++;
		return EPERM;
	}
	return message ? service_message(sthread, caller, handle) : service_plain(sthread, caller, handle);
}

/* Brings what a gate returned to the compartment that called it. */
static int deliver(struct gate_instance *instance, struct compartment *caller, uint64_t result)
{
	struct memory_bounds bounds = compartment_bounds(caller);
	if (!instance->is_message) {
		if (!instance->result_at)
			return 0;
		return address_space_write(caller->space, &bounds, instance->result_at, &result, sizeof result) == 0 ?
			       0 :
			       EFAULT;
	}
	uint8_t answer[CGATE_BUFFER_MAX];
	size_t size = 0;
	int error = take_answer(instance, result, answer, &size);
	if (!error && instance->answer_size_at &&
	    (address_space_write(caller->space, &bounds, instance->answer_at, answer, size) != 0 ||
	     address_space_write(caller->space, &bounds, instance->answer_size_at, &size, sizeof size) != 0))
		error = EFAULT;
	return error;
}

/* The call is over and its answer taken. */
static void close_call(struct gate_instance *instance, bool returned)
{
	struct gate *gate = instance->gate;
	gate->info.run_nanoseconds += instance->compartment.run_nanoseconds;
	if (!returned) {
		gate->info.failures++;
		gate->info.last_failure = instance->compartment.info;
		instance->failed = true;
	}
	if (!returned || gate->fresh)
		gate_end_life(instance);
	gate_release(instance);
}

int gate_finish(struct sthread *sthread, struct compartment *caller, bool returned)
{
	struct gate_instance *instance = sthread->gates[--sthread->depth];
	const struct compartment *compartment = &instance->compartment;
	/* Why is for the owner of the gate; its caller learns whether to try again makes sense. */
	enum sthread_end end = compartment->info.end;
	int error = end == STHREAD_OUT_OF_CPU || end == STHREAD_OUT_OF_TIME ? ETIMEDOUT : ECANCELED;
	if (returned) {
		sthread->result = compartment->space->context.regs.rdi;
		error = caller ? deliver(instance, caller, sthread->result) : 0;
	}
	/* From host mode the answer is still to be taken: call_from_host() closes the call. */
	if (caller || !returned)
		close_call(instance, returned);
	return error;
}

/* ---- the public interface -------------------------------------------------------------------------- */

/* A call from host mode.  in NULL: a plain call with *result; else a message. */
static int call_from_host(cgate_t handle, uint64_t argument, uint64_t *result, const uint8_t *in, size_t size,
			  uint8_t *answer, size_t *answer_size)
{
	struct sthread sthread = { .handle = -1 };
	struct gate_instance *instance;
	supervisor_lock();
	int error = gate_claim(&sthread, handle, &instance);
	if (!error &&
	    (error = in ? begin_message(instance, in, size, *answer_size) : begin_call(instance, argument)) != 0) {
		gate_release(instance);
	} else if (!error) {
		push(&sthread, instance);
		sthread_drive(&sthread);
		error = sthread.own.info.exit_status;
		if (!error) {
			*result = sthread.result;
			if (in)
				error = take_answer(instance, sthread.result, answer, answer_size);
			close_call(instance, true);
		}
	}
	supervisor_unlock();
	return error;
}

int cgate_call(cgate_t gate, void *arg, void **ret)
{
	if (supervisor.unisolated)
		return unisolated_cgate_call(gate, arg, ret);
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
	if (supervisor.unisolated)
		return unisolated_cgate_call_buf(gate, in, inlen, out, outlen);
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

static bool forget(void *object)
{
	struct gate *gate = object;
	gate->direct = NULL;
	gate->lent = NULL;
	for (unsigned i = 0; i < gate->instances; i++) {
		gate->instance[i].compartment.space = NULL; /* not there any more */
		gate->instance[i].sthreads = NULL;          /* forgotten with all others */
		/* One whose life was about to begin holds what one holds that lives. */
		gate->instance[i].alive = gate->instance[i].compartment.policy != NULL;
	}
	gate_free_instances(gate);
	policy_put(gate->policy);
	free(gate);
	return true;
}

void gates_forget(void)
{
	handles_end_all(&supervisor.gates, forget);
}
