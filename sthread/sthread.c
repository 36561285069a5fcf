/* sthread.c - sthreads: creating, driving, stepping, joining.  See sthread.h and compartment.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "compartment.h"
#include "tag.h"

#define SLICE_NANOSECONDS ((uint64_t)10 * 1000 * 1000)
#define NANOSECONDS_PER_MILLISECOND ((uint64_t)1000 * 1000)

enum {
	VECTOR_PAGE_FAULT = 14,
	KILL_NOTICED_MILLISECONDS = 50
};

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* ---- the slice ------------------------------------------------------------------------------------- */

/* Each thread that runs compartments has a timer that kicks it.  It is armed when little of it is left and never
 * disarmed: a kick that comes when nothing runs does nothing. */
static _Thread_local struct {
	timer_t timer;
	bool made;
	uint64_t due;
	pid_t process; /* timers are not inherited */
} slice;

static pthread_key_t thread_end;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void delete_timer(void *unused)
{
	(void)unused;
	if (slice.made && slice.process == supervisor.process)
		timer_delete(slice.timer);
	slice.made = false;
}

static void make_key(void)
{
	pthread_key_create(&thread_end, delete_timer);
}

static int arm_slice(uint64_t time)
{
	if (slice.made && slice.process == supervisor.process && slice.due > time + SLICE_NANOSECONDS / 2)
		return 0;
	if (!slice.made || slice.process != supervisor.process) {
		struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = dune_kick_signal() };
		event._sigev_un._tid = gettid();
		if (timer_create(CLOCK_MONOTONIC, &event, &slice.timer) != 0)
			return dune_fail(errno, "cannot make a timer: %s", strerror(errno));
		pthread_once(&once, make_key);
		pthread_setspecific(thread_end, &slice);
		slice.made = true;
		slice.process = supervisor.process;
	}
	/* A thread that blocks the kick could not be stopped. */
	sigset_t kick;
	sigemptyset(&kick);
	sigaddset(&kick, dune_kick_signal());
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	struct itimerspec due = { .it_value = { .tv_nsec = SLICE_NANOSECONDS } };
	timer_settime(slice.timer, 0, &due, NULL);
	slice.due = time + SLICE_NANOSECONDS;
	return 0;
}

/* ---- driving --------------------------------------------------------------------------------------- */

/* Runs a compartment to its next exit, without the lock.  Returns the time of the exit. */
static uint64_t run(struct compartment *compartment, struct dune_vcpu *vcpu, struct dune_exit *exit)
{
	struct address_space *space = compartment->space;
	uint64_t exits = vcpu->exits;
	while (space->revoking)
		pthread_cond_wait(&supervisor.changed, &supervisor.lock);
	struct timespec time;
	clock_gettime(CLOCK_REALTIME_COARSE, &time);
	space->life->seconds = time.tv_sec;
	space->running_on = vcpu;
	supervisor_unlock();
	uint64_t began = now();
	dune_vcpu_run(vcpu, &space->context, exit);
	uint64_t ended = now(), spent = ended - began;
	supervisor_lock();
	space->running_on = NULL;
	pthread_cond_broadcast(&supervisor.changed);
	compartment->run_nanoseconds += spent;
	compartment->info.run_nanoseconds += spent;
	compartment->info.exits += vcpu->exits - exits;
	return ended;
}

static struct compartment *innermost(struct sthread *sthread)
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
	struct compartment *over = innermost(sthread);
	if (!sthread->depth) {
		if (returned)
			over->info.end = STHREAD_RETURNED;
		sthread->result = returned ? over->space->context.regs.rdi : 0;
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

static bool holds_for_writing(const struct compartment *compartment, tag_t tag)
{
	for (unsigned i = 0; i < compartment->policy.tags; i++)
		if (compartment->policy.tag[i].tag == tag && compartment->policy.tag[i].prot & PROT_WRITE)
			return true;
	return false;
}

static long allocate_for(struct compartment *compartment, uint64_t handle, uint64_t size)
{
	void *pointer = NULL;
	if (!holds_for_writing(compartment, (tag_t)handle))
		return -EPERM;
	const struct tag *tag = tag_get((tag_t)handle);
	uint64_t before = tag ? tag->size : 0, quota = compartment->policy.memory;
	if (compartment->tag_growth > quota || size > quota - compartment->tag_growth)
		return -ENOMEM;
	int error = tag_allocate((tag_t)handle, size, &pointer);
	if (tag)
		compartment->tag_growth += tag->size - before;
	return error ? -error : (long)pointer;
}

static long free_for(const struct compartment *compartment, uint64_t pointer)
{
	tag_t owner = tag_at(pointer);
	return holds_for_writing(compartment, owner) ? -tag_release(owner, (void *)pointer) : -EINVAL;
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
	uint64_t began;
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
		began = now();
		answer_service(compartment, allocate_for(compartment, regs->rdi, regs->rsi), false);
		compartment->run_nanoseconds += now() - began;
		break;
	case SERVICE_FREE:
		answer_service(compartment, free_for(compartment, regs->rdi), false);
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

static enum outcome serve_exception(struct compartment *compartment, const struct dune_exit *exit)
{
	struct memory_bounds bounds = compartment_bounds(compartment);
	compartment->info.traps++;
	supervisor.statistics.traps++;
	if (exit->vector == VECTOR_PAGE_FAULT && !exit->from_monitor &&
	    address_space_fault(compartment->space, &bounds, exit->address, exit->error_code) == 0)
		return GO_ON;
	compartment->info.end = STHREAD_FAULTED;
	compartment->info.vector = exit->vector;
	compartment->info.error_code = exit->error_code;
	compartment->info.address = exit->address;
	compartment->info.instruction = compartment->space->context.regs.rip;
	return ENDED;
}

/* A gate never parks: its caller waits with it, no longer than the gate's budget. */
static enum outcome wait_in_gate(struct compartment *compartment, const struct wait *wait)
{
	uint64_t budget = compartment->policy.cpu_milliseconds * NANOSECONDS_PER_MILLISECOND;
	uint64_t left = budget > compartment->run_nanoseconds ? budget - compartment->run_nanoseconds : 0;
	struct pollfd ready = { .fd = wait->fd, .events = wait->events };
	supervisor_unlock();
	uint64_t began = now();
	poll(&ready, 1, (int)(left / NANOSECONDS_PER_MILLISECOND % INT_MAX));
	uint64_t spent = now() - began;
	supervisor_lock();
	compartment->run_nanoseconds += spent;
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
	uint64_t began = now();
	enum served served = system_call_serve(compartment, &wait);
	compartment->run_nanoseconds += now() - began; /* long work done for it is its own */
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

static enum outcome handle(struct sthread *sthread, struct compartment *compartment, struct dune_vcpu *vcpu,
			   const struct dune_exit *exit)
{
	switch (exit->kind) {
	case DUNE_EXIT_SYSTEM_CALL:
		return serve_call(sthread, compartment, vcpu);
	case DUNE_EXIT_SERVICE:
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

static bool out_of_budget(struct compartment *compartment)
{
	if (compartment->run_nanoseconds <= compartment->policy.cpu_milliseconds * NANOSECONDS_PER_MILLISECOND)
		return false;
	compartment->info.end = STHREAD_OUT_OF_CPU;
	return true;
}

void sthread_drive(struct sthread *sthread)
{
	struct dune_vcpu *vcpu = dune_vcpu_get(supervisor.machine);
	uint64_t began = now();
	sthread->state = STHREAD_RUNNABLE;
	for (;;) {
		struct compartment *compartment = innermost(sthread);
		struct dune_exit exit = { .kind = DUNE_EXIT_SYSTEM_CALL };
		enum outcome outcome;
		uint64_t time = now();
		if (sthread->killed) {
			compartment->info.end = STHREAD_KILLED;
			outcome = ENDED;
		} else if (!vcpu || arm_slice(time) != 0) {
			compartment->info.end = STHREAD_HOST_FAILURE;
			outcome = ENDED;
		} else if (!sthread->depth && time - began >= SLICE_NANOSECONDS) {
			/* Whether it was stopped by a kick or keeps making calls. */
			if (dune_vcpu_save(vcpu, &compartment->space->context) == 0)
				return;
			compartment->info.end = STHREAD_HOST_FAILURE;
			outcome = ENDED;
		} else {
			if (sthread->retry)
				sthread->retry = false;
			else
				time = run(compartment, vcpu, &exit);
			uint64_t served = time;
			uint64_t charged = compartment->run_nanoseconds;
			outcome = handle(sthread, compartment, vcpu, &exit);
			/* The time its calls take is its own as well; what handle() charged is not charged twice. */
			uint64_t spent = now() - served, already = compartment->run_nanoseconds - charged;
			compartment->run_nanoseconds += spent > already ? spent - already : 0;
		}
		if (outcome != RETURNED && outcome != ENDED && out_of_budget(compartment))
			outcome = ENDED;
		if (outcome == STOP) {
			sthread->state = STHREAD_PARKED;
			compartment->info.parks++;
			return;
		}
		if (outcome != GO_ON && finish(sthread, outcome == RETURNED))
			return;
	}
}

/* ---- the public interface -------------------------------------------------------------------------- */

/* Finds an sthread that no other thread drives.  On success the lock is held. */
static struct sthread *enter(sthread_t handle)
{
	if (supervisor_enter() != 0)
		return NULL;
	supervisor_lock();
	struct sthread *sthread = handle_get(&supervisor.sthreads, handle);
	if (sthread && !sthread->busy)
		return sthread;
	supervisor_unlock();
	dune_fail(sthread ? EBUSY : EBADF, sthread ? "another thread drives this sthread" : "no such sthread");
	return NULL;
}

static bool can_write_files(const struct policy *policy)
{
	for (unsigned i = 0; i < policy->files; i++)
		if (policy->file[i].prot & PROT_WRITE)
			return true;
	return false;
}

static void drive(struct sthread *sthread)
{
	sthread->busy = true;
	sthread_drive(sthread);
	sthread->busy = false;
}

int sthread_create(sthread_t *st, const sc_t *sc, stcb_t cb, void *arg)
{
	struct policy policy;
	if (supervisor_enter() != 0)
		return -1;
	if (!st || !cb)
		return dune_fail(EINVAL, "sthread_create() wants a place for the handle and a body");
	if (policy_read(sc, &policy) != 0)
		return -1;
	const struct snapshot_region *text = snapshot_find(&supervisor.snapshot, (uint64_t)cb);
	if (!text || !text->execute)
		return dune_fail(EINVAL, "the body was not loaded when sthread_init() was called");
	struct sthread *sthread = calloc(1, sizeof *sthread);
	if (!sthread)
		return dune_fail(ENOMEM, "out of memory");
	supervisor_lock();
	int result = -1;
	if (!policy_gates_exist(&policy)) {
		dune_fail(EBADF, "the policy names a gate that is gone");
	} else if (!dune_vcpu_get(supervisor.machine)) {
		dune_fail(EAGAIN, "no virtual CPU for this thread");
	} else if ((sthread->handle = handle_new(&supervisor.sthreads, sthread)) < 0) {
		dune_fail(errno == ENFILE ? EAGAIN : ENOMEM, errno == ENFILE ? "too many sthreads" : "out of memory");
	} else if (compartment_begin(&sthread->own, &policy, (uint64_t)cb) != 0) {
		int error = errno;
		handle_end(&supervisor.sthreads, sthread->handle);
		errno = error;
	} else {
		compartment_call(&sthread->own, (uint64_t)cb, (uint64_t)arg, 0, can_write_files(&policy));
		*st = sthread->handle;
		drive(sthread);
		result = 0;
	}
	supervisor_unlock();
	if (result != 0)
		free(sthread);
	return result;
}

int sthread_step(sthread_t st)
{
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

int sthread_kill(sthread_t st)
{
	if (supervisor_enter() != 0)
		return -1;
	supervisor_lock();
	struct sthread *sthread = handle_get(&supervisor.sthreads, st);
	if (sthread && sthread->state != STHREAD_ENDED) {
		sthread->killed = true;
		if (!sthread->busy)
			drive(sthread);
		else if (innermost(sthread)->space->running_on) /* the thread that drives it ends it */
			dune_vcpu_kick(innermost(sthread)->space->running_on);
	}
	supervisor_unlock();
	return sthread ? 0 : dune_fail(EBADF, "no such sthread");
}

int sthread_get_info(sthread_t st, struct sthread_info *info)
{
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
	struct sthread *sthread = enter(st);
	if (!sthread)
		return -1;
	sthread->busy = true;
	while (sthread->state != STHREAD_ENDED) {
		if (sthread->state == STHREAD_PARKED && sthread->waits_for_step) {
			sthread->busy = false;
			supervisor_unlock();
			return dune_fail(EDEADLK, "the sthread waits for sthread_step()");
		}
		if (sthread->state == STHREAD_PARKED) {
			struct pollfd ready = { .fd = sthread->wait.fd, .events = sthread->wait.events };
			supervisor_unlock();
			poll(&ready, 1, KILL_NOTICED_MILLISECONDS);
			supervisor_lock();
			if (!ready.revents && !sthread->killed)
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
	supervisor_unlock();
	free(sthread);
	return returned ? 0 : dune_fail(ECANCELED, "the sthread did not return");
}

int sthread_join(sthread_t st, void **ret)
{
	return sthread_join_info(st, ret, NULL);
}

int sthread_park(void)
{
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
	statistics->exits = dune_exits_total() - supervisor.exits_before;
	statistics->frames_used = supervisor.machine->frames_used / DUNE_PAGE_SIZE - supervisor.machine->free_count;
	statistics->snapshot_pages = supervisor.snapshot.pages;
	supervisor_unlock();
	return 0;
}
