/* sthread.c - sthreads: creating, stepping, killing, joining.  See sthread.h, compartment.h and drive.c. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "budget.h"
#include "local.h"
#include "nested.h"
#include "report.h"
#include "slice.h"
#include "unisolated.h"

/* The process's own: those of gates belong to them alone. */
static struct sthread *find(sthread_t handle)
{
	struct sthread *sthread = handle_get(&supervisor.sthreads, handle);
	return sthread && !sthread->owner ? sthread : NULL;
}

/* Finds an sthread that no other thread drives.  On success the lock is held. */
static struct sthread *enter(sthread_t handle)
{
	if (supervisor_enter() != 0)
		return NULL;
	supervisor_lock();
	struct sthread *sthread = find(handle);
	if (sthread && !sthread->busy)
		return sthread;
	supervisor_unlock();
	dune_fail(sthread ? EBUSY : EBADF, sthread ? "another thread drives this sthread" : "no such sthread");
	return NULL;
}

static void occupy(struct sthread *sthread)
{
	sthread->busy = true;
	sthread->driver = pthread_self();
}

static void drive(struct sthread *sthread)
{
	occupy(sthread);
	sthread_drive(sthread);
	sthread->busy = false;
}

/* Creates an sthread with a policy that the caller holds.  Caller holds the lock. */
static int create(sthread_t *st, const struct policy *policy, stcb_t cb, void *arg, struct pristine **freeze)
{
	struct sthread *sthread = local_sthread_new();
	if (!sthread)
		return dune_fail(ENOMEM, "out of memory");
	sthread->state = STHREAD_RUNNABLE;
	occupy(sthread); /* beginning may release the lock */
	if (!policy_gates_exist(policy)) {
		dune_fail(EBADF, "the policy names a gate that is gone");
	} else if (!supervisor.unisolated && !dune_vcpu_get(supervisor.machine)) {
		dune_fail(EAGAIN, "no virtual CPU for this thread");
	} else if ((sthread->handle = handle_new(&supervisor.sthreads, sthread)) < 0) {
		dune_fail(errno == ENFILE ? EAGAIN : ENOMEM, errno == ENFILE ? "too many sthreads" : "out of memory");
	} else if ((sthread->freeze = freeze, supervisor.unisolated) ?
			   unisolated_begin(sthread, policy, cb, arg) != 0 :
			   compartment_begin(&sthread->own, policy, (uint64_t)cb) != 0) {
		int error = errno;
		handle_end(&supervisor.sthreads, sthread->handle);
		errno = error;
	} else {
		if (!supervisor.unisolated)
			compartment_call(&sthread->own, (uint64_t)cb, (uint64_t)arg, 0, policy_writes_files(policy));
		*st = sthread->handle;
		drive(sthread);
		return 0;
	}
	local_sthread_free(sthread);
	return -1;
}

static int check_create(const sthread_t *st, stcb_t cb)
{
	if (supervisor_enter() != 0)
		return -1;
	if (!st || !cb)
		return dune_fail(EINVAL, "sthread_create() wants a place for the handle and a body");
	if (!supervisor_has_text((uint64_t)cb))
		return dune_fail(EINVAL, "the body was not loaded when sthread_init() was called");
	return 0;
}

int sthread_create_to_freeze(sthread_t *st, const sc_t *sc, stcb_t cb, void *arg, struct pristine **freeze)
{
	if (supervisor_inside())
		return inside_sthread_create(st, sc, cb, arg);
	if (check_create(st, cb) != 0)
		return -1;
	if (!freeze && sc && quick_create(st, sc, -1, cb, arg))
		return 0;
	supervisor_lock();
	const struct policy *policy = policy_new(sc, POLICY_FOR_ONE_LIFE);
	int result = policy ? create(st, policy, cb, arg, freeze) : -1;
	if (policy)
		policy_put(policy);
	supervisor_unlock();
	return result;
}

int sthread_create_frozen(sthread_t *st, sc_frozen_t frozen, stcb_t cb, void *arg)
{
	if (check_create(st, cb) != 0)
		return -1;
	if (quick_create(st, NULL, frozen, cb, arg))
		return 0;
	supervisor_lock();
	const struct policy *policy = policy_frozen(frozen);
	int result = policy ? create(st, policy, cb, arg, NULL) : -1;
	supervisor_unlock();
	return result;
}

int sthread_create(sthread_t *st, const sc_t *sc, stcb_t cb, void *arg)
{
	return sthread_create_to_freeze(st, sc, cb, arg, NULL);
}

int sthread_step(sthread_t st)
{
	if (supervisor_inside())
		return inside_sthread_step(st);
	struct sthread *sthread = enter(st);
	if (!sthread)
		return -1;
	if (sthread->state != STHREAD_ENDED)
		drive(sthread);
	supervisor_unlock();
	return 0;
}

int sthread_state(sthread_t st, enum sthread_state *state)
{
	if (supervisor_inside())
		return inside_sthread_state(st, state);
	struct sthread *sthread = enter(st);
	if (!sthread)
		return -1;
	if (state)
		*state = sthread->state;
	supervisor_unlock();
	return state ? 0 : dune_fail(EINVAL, "no place for the state");
}

int sthread_wait_fd(sthread_t st, int *fd, short *events)
{
	struct sthread *sthread = enter(st);
	if (!sthread)
		return -1;
	bool parked = sthread->state == STHREAD_PARKED;
	if (parked && fd)
		*fd = sthread->wait.fd;
	if (parked && events)
		*events = sthread->wait.events;
	supervisor_unlock();
	return parked ? 0 : dune_fail(EAGAIN, "the sthread is not parked");
}

int sthread_wait_deadline(sthread_t st, uint64_t *nanoseconds)
{
	struct sthread *sthread = enter(st);
	if (!sthread)
		return -1;
	bool parked = sthread->state == STHREAD_PARKED;
	if (parked && nanoseconds)
		*nanoseconds = sthread->wait.deadline;
	supervisor_unlock();
	if (!parked)
		return dune_fail(EAGAIN, "the sthread is not parked");
	return nanoseconds ? 0 : dune_fail(EINVAL, "no place for the deadline");
}

int sthread_wall_deadline(sthread_t st, uint64_t *nanoseconds)
{
	struct sthread *sthread = enter(st);
	if (!sthread)
		return -1;
	if (nanoseconds)
		*nanoseconds = sthread->own.deadline;
	supervisor_unlock();
	return nanoseconds ? 0 : dune_fail(EINVAL, "no place for the deadline");
}

int sthread_kill(sthread_t st)
{
	if (supervisor_inside())
		return inside_sthread_kill(st);
	if (supervisor_enter() != 0)
		return -1;
	supervisor_lock();
	struct sthread *sthread = find(st);
	if (sthread && sthread->state != STHREAD_ENDED) {
		sthread->killed = true;
		if (sthread->busy && supervisor.unisolated) {
			unisolated_kill(sthread);
		} else if (sthread->busy) {
			/* The thread that drives it ends it: it runs, it waits in poll(), or it waits for a gate. */
			pthread_kill(sthread->driver, dune_kick_signal());
			gate_stop_waiting(sthread);
		} else {
			drive(sthread);
		}
	}
	supervisor_unlock();
	return sthread ? 0 : dune_fail(EBADF, "no such sthread");
}

int sthread_get_info(sthread_t st, struct sthread_info *info)
{
	if (supervisor_inside())
		return inside_sthread_get_info(st, info);
	struct sthread *sthread = enter(st);
	if (!sthread)
		return -1;
	if (info)
		*info = sthread->own.info;
	supervisor_unlock();
	return info ? 0 : dune_fail(EINVAL, "no place for the counters");
}

int sthread_join_info(sthread_t st, void **ret, struct sthread_info *info)
{
	if (supervisor_inside())
		return inside_sthread_join(st, ret, info);
	if (quick_join(st, ret, info))
		return 0;
	struct sthread *sthread = enter(st);
	if (!sthread)
		return -1;
	occupy(sthread);
	while (sthread->state != STHREAD_ENDED) {
		bool over = sthread->killed || budget_spent(&sthread->own, slice_clock());
		if (!over && sthread->state == STHREAD_PARKED && sthread->waits_for_step) {
			sthread->busy = false;
			supervisor_unlock();
			return dune_fail(EDEADLK, "the sthread waits for sthread_step()");
		}
		if (!over && sthread->state == STHREAD_PARKED) {
			uint64_t patience = budget_left(&sthread->own, slice_clock(), KILL_NOTICED_NANOSECONDS);
			supervisor_unlock();
			bool came = wait_poll(&sthread->wait, patience);
			supervisor_lock();
			if (!came)
				continue;
		}
		sthread_drive(sthread);
	}
	bool returned = sthread->own.info.end == STHREAD_RETURNED;
	if (info)
		*info = sthread->own.info;
	if (ret && returned)
		*ret = (void *)sthread->result;
	handle_end(&supervisor.sthreads, st);
	report_drop(sthread->report);
	if (!supervisor.unisolated)
		local_sthread_free(sthread);
	supervisor_unlock();
	if (supervisor.unisolated) {
		unisolated_join(sthread);
		free(sthread);
	}
	return returned ? 0 : dune_fail(ECANCELED, "the sthread did not return");
}

int sthread_join(sthread_t st, void **ret)
{
	return sthread_join_info(st, ret, NULL);
}

int sthread_park(void)
{
	if (supervisor.unisolated)
		return unisolated_park();
	if (!supervisor_inside())
		return dune_fail(EPERM, "sthread_park() is for sthreads");
	return supervisor_answer(supervisor_service_yielding(SERVICE_PARK, 0, 0, 0, 0, 0));
}

int sthread_statistics(struct sthread_statistics *statistics)
{
	if (supervisor_enter() != 0)
		return -1;
	if (!statistics)
		return dune_fail(EINVAL, "no place for the statistics");
	supervisor_lock();
	*statistics = supervisor.statistics;
	locals_add_statistics(statistics);
	const struct dune_totals now = dune_totals(), *before = &supervisor.before;
	statistics->exits = now.exits - before->exits;
	statistics->exits_interrupted = now.interrupted - before->interrupted;
	statistics->tlb_flushes = now.tag_flushes - before->tag_flushes;
	statistics->tlb_kept = now.tag_kept - before->tag_kept;
	if (supervisor.machine) {
		statistics->frames_used =
			supervisor.machine->frames_used / DUNE_PAGE_SIZE - supervisor.machine->free_count;
		statistics->table_pages = supervisor.machine->tables.used / DUNE_PAGE_SIZE;
	}
	statistics->snapshot_pages = supervisor.snapshot.pages;
	supervisor_unlock();
	return 0;
}

static bool forget(void *object)
{
	struct sthread *sthread = object;
	if (sthread->state != STHREAD_ENDED)
		compartment_forget(&sthread->own);
	report_drop(sthread->report);
	local_sthread_free(sthread);
	return true;
}

void sthreads_forget(void)
{
	handles_end_all(&supervisor.sthreads, forget);
}
