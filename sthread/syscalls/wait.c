/*
 * wait.c - calls that wait.
 *
 * A call that would block parks: `wait` says for what, and the call is served again when that has come.  A timeout is
 * made a deadline when the call is served first, and kept in the compartment until it is answered.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <time.h>

#include "slice.h"
#include "syscalls/call.h"

#define NANOSECONDS_PER_SECOND ((uint64_t)1000000000)

bool wait_poll(const struct wait *wait, uint64_t nanoseconds)
{
	struct pollfd ready = { .fd = wait->fd, .events = wait->events };
	uint64_t time = slice_clock();
	bool limited = wait->deadline && wait->deadline < time + nanoseconds;
	if (limited)
		nanoseconds = wait->deadline > time ? wait->deadline - time : 0;
	struct timespec timeout = { .tv_sec = (time_t)(nanoseconds / NANOSECONDS_PER_SECOND),
				    .tv_nsec = (long)(nanoseconds % NANOSECONDS_PER_SECOND) };
	ppoll(&ready, 1, &timeout, NULL);
	return ready.revents || (limited && slice_clock() >= wait->deadline);
}

void pending_call_end(struct compartment *compartment)
{
	struct open_file *set = compartment->pending.set;
	compartment->pending = (struct pending_call){ 0 };
	if (set)
		open_file_put(set);
}

void call_limit(struct call *call, uint64_t nanoseconds)
{
	struct pending_call *pending = &call->compartment->pending;
	if (pending->begun)
		return;
	uint64_t deadline;
	pending->begun = true;
	pending->deadline = __builtin_add_overflow(slice_clock(), nanoseconds, &deadline) ? 0 : deadline;
}

bool call_time_is_up(const struct call *call)
{
	const struct pending_call *pending = &call->compartment->pending;
	return pending->deadline && slice_clock() >= pending->deadline;
}

long call_park(struct call *call, int fd, short events)
{
	*call->wait = (struct wait){ .fd = fd, .events = events, .deadline = call->compartment->pending.deadline };
	call->park = true;
	return -EAGAIN;
}

bool timespec_valid(const struct timespec *time)
{
	return time->tv_sec >= 0 && time->tv_nsec >= 0 && time->tv_nsec < (long)NANOSECONDS_PER_SECOND;
}

uint64_t timespec_nanoseconds(const struct timespec *time)
{
	uint64_t nanoseconds;
	if (__builtin_mul_overflow((uint64_t)time->tv_sec, NANOSECONDS_PER_SECOND, &nanoseconds) ||
	    __builtin_add_overflow(nanoseconds, (uint64_t)time->tv_nsec, &nanoseconds))
		return UINT64_MAX;
	return nanoseconds;
}

/* There are no signals inside: a sleep is never cut short, and nothing is left of it. */
static long sleep_for(struct call *call, uint64_t nanoseconds)
{
	call_limit(call, nanoseconds);
	return call_time_is_up(call) ? 0 : call_park(call, -1, 0);
}

long serve_nanosleep(struct call *call)
{
	struct timespec time;
	if (call_get(call, call->argument[0], &time, sizeof time) != 0)
		return -EFAULT;
	return timespec_valid(&time) ? sleep_for(call, timespec_nanoseconds(&time)) : -EINVAL;
}

long serve_clock_nanosleep(struct call *call)
{
	struct timespec time, now;
	clockid_t clock = (clockid_t)call->argument[0];
	if (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME)
		return -EINVAL;
	if (call_get(call, call->argument[2], &time, sizeof time) != 0)
		return -EFAULT;
	if (!timespec_valid(&time))
		return -EINVAL;
	if (!(call->argument[1] & TIMER_ABSTIME))
		return sleep_for(call, timespec_nanoseconds(&time));
	if (clock_gettime(clock, &now) != 0)
		return -errno;
	uint64_t until = timespec_nanoseconds(&time), from = timespec_nanoseconds(&now);
	return sleep_for(call, until > from ? until - from : 0);
}
