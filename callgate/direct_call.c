/*
 * direct_call.c - gate calls that ring 0 makes without an exit, where it is native (core/kvm/direct.h).
 *
 * A gate has one target.  When a call has returned normally the instance that served it is idle and warm: it is lent to
 * ring 0, which may enter it for a plain call from any compartment that was granted the gate.  The supervisor withdraws
 * it, which closes the target, before it uses the instance itself; an exit inside it claims it for the call under way,
 * which from then on is like any other.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "budget.h"
#include "gate.h"
#include "kvm/direct.h"

void gate_direct_begin(struct gate *gate)
{
	if (!gate->fresh && !supervisor.unisolated)
		gate->direct = dune_direct_new(supervisor.machine); /* NULL: every call exits */
}

void gate_direct_end(struct gate *gate)
{
	if (gate->direct)
		dune_direct_free(supervisor.machine, gate->direct);
	gate->direct = NULL;
}

void gate_direct_lend(struct gate_instance *instance)
{
	struct gate *gate = instance->gate;
	struct compartment *compartment = &instance->compartment;
	if (!gate->direct || !instance->alive || compartment->space->revoking || compartment->space->poisoned)
		return;
	if (gate->lent && !gate_direct_withdraw(gate->lent))
		return; /* another one is lent and in use */
	if (gate->lent)
		gate_direct_forget(gate->lent);
	struct dune_direct target = {
		.handle = (uint32_t)gate->handle,
		.entry = (uint64_t)gate->entry,
		.trusted = (uint64_t)gate->trusted,
		.stack = supervisor.machine->window + SPACE_STACK_TOP,
		.after = compartment_after(compartment),
		.fs_base = supervisor.snapshot.thread_pointer,
	};
	gate->lent = instance;
	compartment->space->direct = gate->direct;
	dune_direct_open(supervisor.machine, gate->direct, &target, &compartment->space->context);
}

bool gate_direct_withdraw(struct gate_instance *instance)
{
	struct gate *gate = instance->gate;
	return gate->lent != instance || dune_direct_close(gate->direct);
}

void gate_direct_forget(struct gate_instance *instance)
{
	struct gate *gate = instance->gate;
	if (gate->lent != instance)
		return;
	gate->lent = NULL;
	if (instance->compartment.space) /* not in the child of a fork */
		instance->compartment.space->direct = NULL;
}

uint64_t gate_direct_calls(const struct gate *gate)
{
	return gate->direct ? __atomic_load_n(&gate->direct->calls, __ATOMIC_RELAXED) : 0;
}

bool gate_direct_allowed(const struct sthread *sthread, const struct compartment *compartment)
{
	return !sthread->depth && !sthread->above && compartment->policy->calls == POLICY_NO_LIMIT_WIDE &&
	       !supervisor.no_direct_calls;
}

void gate_direct_kick(const struct gate *gate)
{
	struct dune_vcpu *user = gate->direct ? dune_direct_user(gate->direct) : NULL;
	if (user)
		dune_vcpu_kick(user);
}

void gate_direct_grant(struct compartment *compartment)
{
	const struct policy *policy = compartment->policy;
	struct address_space *space = compartment->space;
	if (!supervisor.machine->host.ring0_native)
		return;
	if (space->direct_grants)
		memset(space->life->direct, 0, sizeof space->life->direct);
	space->direct_grants = policy->gates != 0;
	for (unsigned i = 0; i < policy->gates && i < LIFE_DIRECT_COUNT; i++) {
		const struct gate *gate = handle_get(&supervisor.gates, policy->gate[i]);
		struct dune_direct_grant *grant = &space->life->direct[(uint32_t)policy->gate[i] % LIFE_DIRECT_COUNT];
		if (gate && gate->direct && !grant->handle)
			*grant = dune_direct_grant(supervisor.machine, gate->direct, gate->handle);
	}
}

void gate_direct_exit(struct sthread *sthread, struct compartment *compartment, const struct dune_exit *exit)
{
	compartment->info.gate_calls += exit->direct_calls;
	supervisor.statistics.gate_calls += exit->direct_calls;
	if (!exit->direct)
		return;
	/* The gate and its instance are there: neither ends while a virtual CPU is in the target. */
	struct gate *gate = handle_get(&supervisor.gates, (cgate_t)exit->direct->handle);
	struct gate_instance *instance = gate->lent;
	dune_direct_seize(exit->direct);
	gate_take(instance);
	instance->is_message = false;
	instance->result_at = exit->direct_result;
	budget_begin(&instance->compartment); /* what it has used until now is its caller's */
	sthread->gates[sthread->depth++] = instance;
}

bool gate_direct_store_failed(struct compartment *compartment)
{
	const struct dune_machine *machine = supervisor.machine;
	struct kvm_regs *regs = &compartment->space->context.regs;
	if (!machine->host.ring0_native || regs->rip != machine->trampoline_direct_store)
		return false;
	regs->rip = machine->trampoline_resume;
	regs->rax = (uint64_t)-EFAULT;
	return true;
}
