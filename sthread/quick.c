/*
 * quick.c - the life of a kind that the thread has run before, from create to join, without a lock.  See local.h.
 *
 * The policy has been looked through, its tags are mapped and its descriptors known from the last life: whoever changes any of
 * that has made the threads give the kind up before.  What else a life needs (handle, instance number, random bytes, the
 * object) the thread has in stock.  A life that does anything but return becomes one like any other at its first exit.
 */
#define _GNU_SOURCE
#include "account.h"
#include "budget.h"
#include "local.h"
#include "slice.h"

static struct local_kind *find_kind(struct local *local, const sc_t *sc, sc_frozen_t frozen, uint64_t function)
{
	struct policy view;
	const struct policy *policy = &view;
	if (sc ? policy_read(sc, &view) != 0 : !(policy = policy_frozen(frozen)))
		return NULL;
	for (unsigned i = 0; i < LOCAL_KINDS; i++) {
		struct local_kind *kind = &local->kinds[i];
		if (kind->policy && !kind->sthread && kind->function == function &&
		    (sc ? policy_same_words(kind->policy, policy) : kind->policy == policy))
			return kind;
	}
	return NULL;
}

static bool is_stocked(const struct local *local)
{
	return local->free_count && local->spare_count && local_has_instances(local);
}

/* Enters a stretch with what a life of this kind needs.  NULL: there is no such kind. */
static struct local *enter(const sc_t *sc, sc_frozen_t frozen, uint64_t function, struct local_kind **kind)
{
	for (unsigned tries = 0; tries < 2; tries++) {
		struct local *local = local_enter();
		if (!local)
			return NULL;
		*kind = find_kind(local, sc, frozen, function);
		bool forgets = *kind && address_space_forgets((*kind)->space);
		if (*kind && !forgets && is_stocked(local))
			return local;
		local_leave(local);
		if (!*kind)
			return NULL;
		supervisor_lock();
		if (forgets)
			local_give_up(
				*kind); /* the space is the first that the usual way finds, and kept again afterwards */
		else
			local_replenish(local);
		supervisor_unlock();
	}
	return NULL;
}

static struct sthread *begin(struct local *local, struct local_kind *kind, uint64_t argument)
{
	struct sthread *sthread = local_sthread_new();
	struct compartment *compartment = &sthread->own;
	if (kind->space->revoking || kind->space->poisoned ||
	    compartment_begin_again(compartment, kind->policy, kind->function, kind->space) != 0) {
		local_sthread_free(sthread);
		return NULL;
	}
	compartment_call(compartment, kind->function, argument, 0, policy_writes_files(kind->policy));
	if (kind->policy->account)
		account_count_begin(&kind->sums, &compartment->info);
	sthread->handle = handle_begin(&supervisor.sthreads, local->free_places[--local->free_count], sthread);
	sthread->kind = kind;
	sthread->busy = true;
	sthread->driver = pthread_self();
	sthread->state = STHREAD_RUNNABLE;
	kind->sthread = sthread;
	kind->used = ++local->lives;
	return sthread;
}

/* Whether all that is left to do is done by end(). */
static bool is_simple(const struct sthread *sthread, const struct run *run)
{
	const struct address_space *space = sthread->own.space;
	return sthread->kind && run->exit.kind == DUNE_EXIT_SERVICE && space->context.regs.rax == SERVICE_RETURN &&
	       !run->exit.direct && !space->revoking && !space->poisoned && space->page_count == space->learned;
}

static void end(struct local *local, struct sthread *sthread, const struct run *run)
{
	struct compartment *compartment = &sthread->own;
	struct local_kind *kind = sthread->kind;
	kind->space->running_on = NULL;
	budget_charge(compartment, run->ended - run->entered);
	compartment->info.exits += run->vcpu->exits - run->exits;
	compartment->info.gate_calls += run->exit.direct_calls;
	local->statistics.gate_calls += run->exit.direct_calls;
	compartment->info.end = STHREAD_RETURNED;
	sthread->result = kind->space->context.regs.rdi;
	if (kind->policy->account)
		account_count_end(&kind->sums, &compartment->info);
	descriptor_close_all(compartment);
	compartment->space = NULL;
	compartment->policy = NULL;
	kind->sthread = NULL;
	sthread->kind = NULL;
	sthread->state = STHREAD_ENDED;
	sthread->busy = false;
	for (unsigned i = 0; i < LOCAL_ENDED && !sthread->keeper; i++)
		if (!local->ended[i]) {
			local->ended[i] = sthread;
			sthread->keeper = local;
		}
}

bool quick_create(sthread_t *st, const sc_t *sc, sc_frozen_t frozen, stcb_t body, void *argument)
{
	struct local_kind *kind;
	/* Before the stretch: a thread may have given its own back already, and a new one takes a lock. */
	struct run run = { .vcpu = supervisor.machine ? dune_vcpu_get(supervisor.machine) : NULL };
	struct local *local = run.vcpu ? enter(sc, frozen, (uint64_t)body, &kind) : NULL;
	if (!local)
		return false;
	run.began = slice_clock();
	struct sthread *sthread = begin(local, kind, (uint64_t)argument);
	if (!sthread) {
		local_leave(local);
		return false;
	}
	struct address_space *space = kind->space; /* the kind may be given up meanwhile */
	*st = sthread->handle;
	/* A kill waits for the end of the stretch, and finds the sthread being driven. */
	bool armed = slice_arm(run.began, budget_left(&sthread->own, run.began, SLICE_NANOSECONDS)) == 0;
	if (armed)
		drive_enter(sthread, &sthread->own, &run);
	local_leave(local);
	if (armed) {
		run.entered = slice_clock();
		dune_vcpu_run(run.vcpu, &space->context, &run.exit);
		run.ended = slice_clock();
		if ((local = local_enter())) {
			bool simple = is_simple(sthread, &run);
			if (simple)
				end(local, sthread, &run);
			local_leave(local);
			if (simple)
				return true;
		}
	}
	supervisor_lock();
	local_release_life(sthread);
	if (armed)
		sthread_drive_on(sthread, &run);
	else
		sthread_drive(sthread);
	sthread->busy = false;
	supervisor_unlock();
	return true;
}

bool quick_join(sthread_t st, void **ret, struct sthread_info *info)
{
	struct local *local = local_enter();
	struct sthread *sthread = NULL;
	if (!local)
		return false;
	for (unsigned i = 0; i < LOCAL_ENDED && !sthread; i++)
		if (local->ended[i] && local->ended[i]->handle == st)
			sthread = local->ended[i];
	/* As long as another thread joins it, it is busy. */
	if (sthread && !sthread->busy && local->ended_count < LOCAL_HANDLES && local->spare_count < LOCAL_SPARES) {
		if (info)
			*info = sthread->own.info;
		if (ret)
			*ret = (void *)sthread->result;
		local->ended_places[local->ended_count] = handle_place(st);
		handle_finish(&supervisor.sthreads, local->ended_places[local->ended_count++]);
		local_sthread_free(sthread);
	} else {
		sthread = NULL;
	}
	local_leave(local);
	return sthread != NULL;
}
