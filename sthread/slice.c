/* slice.c - see slice.h */
#define _GNU_SOURCE
#include "slice.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "supervisor.h"

/* How late a kick may be. */
#define LATE_NANOSECONDS ((uint64_t)100 * 1000)

uint64_t slice_clock(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

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

static bool is_usable(void)
{
	return slice.made && slice.process == supervisor.process;
}

/* Makes the timer if there is none.  A thread that blocks the kick could not be stopped. */
static int prepare(void)
{
	if (!is_usable()) {
		struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = dune_kick_signal() };
		event._sigev_un._tid = gettid();
		if (timer_create(CLOCK_MONOTONIC, &event, &slice.timer) != 0)
			return dune_fail(errno, "cannot make a timer: %s", strerror(errno));
		pthread_once(&once, make_key);
		pthread_setspecific(thread_end, &slice);
		slice.made = true;
		slice.process = supervisor.process;
	}
	sigset_t kick;
	sigemptyset(&kick);
	sigaddset(&kick, dune_kick_signal());
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	return 0;
}

int slice_arm(uint64_t time, uint64_t within)
{
	/* Late enough that it is worth its signal, and in time. */
	if (is_usable() && slice.due > time + within / 2 && slice.due <= time + within + LATE_NANOSECONDS)
		return 0;
	if (prepare() != 0)
		return -1;
	/* What is left of a budget ends just before the kick, not just after. */
	struct itimerspec due = { .it_value = { .tv_nsec = (long)(within + LATE_NANOSECONDS / 2) } };
	timer_settime(slice.timer, 0, &due, NULL);
	slice.due = time + within + LATE_NANOSECONDS / 2;
	/* The last slice may have ended when nothing ran: that says nothing about this one.  Revocation kicks until the
	 * compartment has stopped; a kill is seen by sthread_drive(), which holds the lock since it looked. */
	struct dune_vcpu *vcpu = dune_vcpu_get(supervisor.machine);
	if (vcpu)
		dune_vcpu_forget_kick(vcpu);
	return 0;
}

void slice_kick_often(void)
{
	const struct timespec each = { .tv_nsec = (long)SLICE_NANOSECONDS };
	if (prepare() == 0)
		timer_settime(slice.timer, 0, &(struct itimerspec){ .it_interval = each, .it_value = each }, NULL);
}

void slice_kick_no_more(void)
{
	if (is_usable())
		timer_settime(slice.timer, 0, &(struct itimerspec){ 0 }, NULL);
	slice.due = 0;
}
