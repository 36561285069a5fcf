/* drive.c - the loop that runs a compartment, answers its exits, and ends it.  See compartment.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include "budget.h"
#include "kvm/clock.h"
#include "local.h"
#include "nested.h"
#include "report.h"
#include "slice.h"
#include "unisolated.h"
#include "tag.h"

enum {
	VECTOR_PAGE_FAULT = 14
};

void drive_enter(const struct sthread *sthread, const struct compartment *compartment, struct run *run)
{
	struct address_space *space = compartment->space;
	/* Gates may be entered without the supervisor, and have no clocks of their own. */
	dune_clock_publish(run->vcpu, space->life, !space->life->is_gate);
	space->running_on = run->vcpu;
	space->context.direct_calls = gate_direct_allowed(sthread, compartment);
	run->exits = run->vcpu->exits;
}

/* With the lock again. */
static void leave(struct sthread *sthread, struct compartment *compartment, const struct run *run)
{
	struct address_space *space = compartment->space;
	space->running_on = NULL;
	if (space->revoking)
		pthread_cond_broadcast(&supervisor.changed);
	budget_charge(compartment, run->ended - run->entered);
	gate_direct_exit(sthread, compartment, &run->exit);
	innermost_compartment(sthread)->info.exits += run->vcpu->exits - run->exits;
}

/* Runs a compartment to its next exit, without the lock. */
static void run_compartment(struct sthread *sthread, struct compartment *compartment, struct run *run)
{
	struct address_space *space = compartment->space;
	while (space->revoking)
		supervisor_wait(&supervisor.changed, NULL);
	if (space->poisoned) { /* meanwhile */
		run->exit = (struct dune_exit){ .kind = DUNE_EXIT_BROKEN };
		run->ended = slice_clock();
		return;
	}
	drive_enter(sthread, compartment, run);
	supervisor_unlock();
	run->entered = slice_clock();
	dune_vcpu_run(run->vcpu, &space->context, &run->exit);
	run->ended = slice_clock();
	supervisor_lock();
	leave(sthread, compartment, run);
}

struct compartment *innermost_compartment(struct sthread *sthread)
{
	return sthread->depth ? &sthread->gates[sthread->depth - 1]->compartment : &sthread->own;
}

/* Answers a library call: it goes on in the trampoline, which returns to the caller. */
static void answer_service(struct compartment *compartment, long answer, bool others_ran)
{
	struct kvm_regs *regs = &compartment->space->context.regs;
	regs->rax = (uint64_t)answer;
	regs->rip = others_ran ? supervisor.machine->trampoline_resume_clean : supervisor.machine->trampoline_resume;
}

/* The innermost compartment is over.  Returns true if the sthread is. */
static bool finish(struct sthread *sthread, bool returned)
{
	struct compartment *over = innermost_compartment(sthread);
	if (!returned)
		report_life_end(sthread, over);
	if (!sthread->depth) {
		if (returned)
			over->info.end = STHREAD_RETURNED;
		sthread->result = returned ? over->space->context.regs.rdi : 0;
		if (returned && sthread->freeze)
			*sthread->freeze = pristine_capture(over->space, &over->memory);
		if (!returned || sthread->freeze || !local_keep(sthread))
			compartment_end(over);
		sthread->state = STHREAD_ENDED;
		return true;
	}
	struct compartment *caller = sthread->depth > 1 ? &sthread->gates[sthread->depth - 2]->compartment :
				     sthread->own.space ? &sthread->own :
							  NULL;
	int error = gate_finish(sthread, caller, returned);
	sthread->retry = false; /* the call to be served again was the gate's */
	if (caller) {
		answer_service(caller, -error, true);
		return false;
	}
	sthread->own.info.exit_status = error;
	sthread->state = STHREAD_ENDED;
	return true;
}

/* What an exit came to. */
enum outcome {
	GO_ON,
	STOP,
	RETURNED,
	ENDED
};

static enum outcome serve_library(struct sthread *sthread, struct compartment *compartment)
{
	const struct kvm_regs *regs = &compartment->space->context.regs;
	int error;
	switch (regs->rax) {
	case SERVICE_RETURN:
		return RETURNED;
	case SERVICE_PARK:
		if (sthread->depth) {
			answer_service(compartment, -EPERM, false); /* a gate finishes its call */
			return GO_ON;
		}
		answer_service(compartment, 0, true);
		sthread->waits_for_step = true;
		sthread->wait = (struct wait){ .fd = -1 };
		return STOP;
	case SERVICE_GATE:
	case SERVICE_GATE_BUFFER:
		error = gate_service(sthread, compartment, regs->rax == SERVICE_GATE_BUFFER);
		if (error)
			answer_service(compartment, -error, true);
		else
			compartment->info.gate_calls++;
		return GO_ON;
	case SERVICE_ALLOCATE:
	case SERVICE_REALLOCATE:
	case SERVICE_FREE:
	case SERVICE_SIZE:
		answer_service(compartment, tag_service(compartment), false);
		break;
	case SERVICE_STHREAD_CREATE ... SERVICE_STHREAD_INFO:
		if (!sthread->depth) {
			answer_service(compartment, -EPERM, true);
			compartment->info.calls_denied++;
			supervisor.statistics.calls_denied++;
			return GO_ON;
		}
		answer_service(compartment, nested_service(sthread), true);
		break;
	default:
		answer_service(compartment, -ENOSYS, false);
		compartment->info.calls_denied++;
		supervisor.statistics.calls_denied++;
		return GO_ON;
	}
	compartment->info.calls_served++;
	supervisor.statistics.calls_served++;
	return GO_ON;
}

/* The trampoline's getrandom() was given a buffer that cannot be written: says so, if that is what faulted. */
static bool random_store_failed(struct compartment *compartment)
{
	const struct dune_machine *machine = supervisor.machine;
	struct kvm_regs *regs = &compartment->space->context.regs;
	uint64_t resume = __atomic_load_n(&compartment->space->random->resume, __ATOMIC_RELAXED);
	if (machine->host.ring0_native || resume >= DUNE_USER_END || regs->rip < machine->trampoline_random_copy ||
	    regs->rip >= machine->trampoline_random_end)
		return false;
	regs->rip = resume;
	regs->rax = (uint64_t)-EFAULT;
	return true;
}

static enum outcome serve_exception(struct compartment *compartment, const struct dune_exit *exit)
{
	struct memory_bounds bounds = compartment_bounds(compartment);
	compartment->info.traps++;
	supervisor.statistics.traps++;
	if (exit->vector == VECTOR_PAGE_FAULT && !exit->from_monitor &&
	    address_space_fault(compartment->space, &bounds, exit->address, exit->error_code) == 0)
		return GO_ON;
	if (!exit->from_monitor && (gate_direct_store_failed(compartment) || random_store_failed(compartment)))
		return GO_ON;
	compartment->info.end = compartment->out_of_memory ? STHREAD_OUT_OF_MEMORY : STHREAD_FAULTED;
	compartment->info.vector = exit->vector;
	compartment->info.error_code = exit->error_code;
	compartment->info.address = exit->address;
	compartment->info.instruction = compartment->space->context.regs.rip;
	return ENDED;
}

/* A gate never parks: its caller waits with it, no longer than the gate's budgets, and in steps: it may be killed. */
static enum outcome wait_in_gate(struct compartment *compartment, const struct wait *wait)
{
	uint64_t patience = budget_left(compartment, slice_clock(), KILL_NOTICED_NANOSECONDS);
	supervisor_unlock();
	wait_poll(wait, patience);
	supervisor_lock();
	return GO_ON;
}

static enum outcome serve_call(struct sthread *sthread, struct compartment *compartment, struct dune_vcpu *vcpu)
{
	struct wait wait = { .fd = -1 };
	struct kvm_regs *regs = &compartment->space->context.regs;
	uint64_t resume = regs->rip;
	if (resume >= DUNE_USER_END) { /* only a compartment that jumped to the entry itself gets here */
		compartment->info.end = STHREAD_FAULTED;
		compartment->info.vector = 13;
		compartment->info.instruction = resume;
		return ENDED;
	}
	enum served served = system_call_serve(compartment, &wait);
	switch (served) {
	case SERVED:
		return GO_ON;
	case SERVED_END:
		return ENDED;
	case SERVED_PARK:
	default:
		break;
	}
	if (sthread->depth) {
		enum outcome outcome = wait_in_gate(compartment, &wait);
		sthread->retry = true;
		return outcome;
	}
	/* The registers are those of the call: it is served anew when the sthread is stepped. */
	sthread->retry = true;
	sthread->waits_for_step = false;
	sthread->wait = wait;
	if (dune_vcpu_save(vcpu, &compartment->space->context) != 0) {
		compartment->info.end = STHREAD_HOST_FAILURE;
		return ENDED;
	}
	return STOP;
}

/* again: a call that would have blocked is made again. */
static enum outcome handle(struct sthread *sthread, struct compartment *compartment, struct dune_vcpu *vcpu,
			   const struct dune_exit *exit, bool again)
{
	switch (exit->kind) {
	case DUNE_EXIT_SYSTEM_CALL:
		return again || budget_count_call(compartment) ? serve_call(sthread, compartment, vcpu) : ENDED;
	case DUNE_EXIT_SERVICE:
		if (compartment->space->context.regs.rax != SERVICE_RETURN && !budget_count_call(compartment))
			return ENDED;
		return serve_library(sthread, compartment);
	case DUNE_EXIT_EXCEPTION:
		return serve_exception(compartment, exit);
	case DUNE_EXIT_KICKED:
		return GO_ON; /* sthread_drive() looks at the clock */
	case DUNE_EXIT_BROKEN:
	default:
		compartment->info.end = STHREAD_HOST_FAILURE;
		compartment->info.system_call = (int)exit->reason;
		return ENDED;
	}
}

/* Answers an exit, or makes a call again.  time: since when it is the compartment's own. */
static enum outcome answer(struct sthread *sthread, struct dune_vcpu *vcpu, const struct dune_exit *exit, bool again,
			   uint64_t time)
{
	struct compartment *compartment =
		innermost_compartment(sthread); /* the exit may have come from inside a gate */
	uint64_t denied = compartment->info.calls_denied;
	enum outcome outcome = handle(sthread, compartment, vcpu, exit, again);
	if (compartment->info.calls_denied != denied && outcome != ENDED && report_refusals_wanted())
		report_refusal(sthread, compartment, exit->kind == DUNE_EXIT_SYSTEM_CALL);
	/* The time that its calls take, waiting included, is its own as well. */
	budget_charge(compartment, slice_clock() - time);
	return outcome;
}

/* Returns true if the thread is done with the sthread for now. */
static bool settle(struct sthread *sthread, enum outcome outcome)
{
	struct compartment *compartment = innermost_compartment(sthread);
	if (outcome == STOP && budget_spent(compartment, slice_clock()))
		outcome = ENDED;
	if (outcome == STOP) {
		sthread->state = STHREAD_PARKED;
		compartment->info.parks++;
		return true;
	}
	return outcome != GO_ON && finish(sthread, outcome == RETURNED);
}

/* One turn of a slice that began at run->began.  Returns false if the slice is over. */
static bool turn(struct sthread *sthread, struct run *run, enum outcome *outcome)
{
	struct compartment *compartment = innermost_compartment(sthread);
	struct dune_vcpu *vcpu = run->vcpu;
	uint64_t time = slice_clock();
	*outcome = ENDED;
	if (nested_stopped(sthread)) {
		compartment->info.end = STHREAD_KILLED;
	} else if (compartment->space->poisoned) {
		/* A right could not be taken from it: it must not run. */
		compartment->info.end = STHREAD_HOST_FAILURE;
	} else if (budget_spent(compartment, time)) {
		/* info.end says which */
	} else if (!vcpu ||
		   (!sthread->retry && slice_arm(time, budget_left(compartment, time, SLICE_NANOSECONDS)) != 0)) {
		compartment->info.end = STHREAD_HOST_FAILURE;
	} else if (!sthread->depth && time - run->began >= SLICE_NANOSECONDS) {
		/* Whether it was stopped by a kick or keeps making calls. */
		if (dune_vcpu_save(vcpu, &compartment->space->context) == 0)
			return false;
		compartment->info.end = STHREAD_HOST_FAILURE;
	} else {
		bool again = sthread->retry;
		sthread->retry = false;
		run->exit = (struct dune_exit){ .kind = DUNE_EXIT_SYSTEM_CALL };
		if (!again) {
			run_compartment(sthread, compartment, run);
			time = run->ended;
		}
		*outcome = answer(sthread, vcpu, &run->exit, again, time);
	}
	return true;
}

static void drive(struct sthread *sthread, struct run *run)
{
	enum outcome outcome;
	while (turn(sthread, run, &outcome))
		if (settle(sthread, outcome))
			return;
}

static void tell(const struct sthread *sthread)
{
	if (!sthread->owner) /* else the drive that this one is a part of tells of it */
		report_deliver();
}

void sthread_drive(struct sthread *sthread)
{
	if (supervisor.unisolated) {
		unisolated_drive(sthread);
	} else {
		struct run run = { .vcpu = dune_vcpu_get(supervisor.machine), .began = slice_clock() };
		sthread->state = STHREAD_RUNNABLE;
		drive(sthread, &run);
	}
	tell(sthread);
}

void sthread_drive_on(struct sthread *sthread, struct run *run)
{
	leave(sthread, &sthread->own, run);
	if (!settle(sthread, answer(sthread, run->vcpu, &run->exit, false, run->ended)))
		drive(sthread, run);
	tell(sthread);
}
