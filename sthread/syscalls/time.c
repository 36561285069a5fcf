/* time.c - clocks.  See call.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/time.h>
#include <time.h>

#include "syscalls/call.h"

long serve_clock_gettime(struct call *call)
{
	struct timespec now;
	clockid_t clock = (clockid_t)call->argument[0];
	if (clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID) { /* its own, not the process's */
		uint64_t spent = call->compartment->info.run_nanoseconds;
		now = (struct timespec){ .tv_sec = (time_t)(spent / 1000000000),
					 .tv_nsec = (long)(spent % 1000000000) };
		return call_put(call, call->argument[1], &now, sizeof now);
	}
	if (clock < 0 || clock > CLOCK_TAI) /* negative ones name other processes and open files */
		return -EINVAL;
	return clock_gettime(clock, &now) == 0 ? call_put(call, call->argument[1], &now, sizeof now) : -errno;
}

long serve_clock_getres(struct call *call)
{
	struct timespec resolution;
	clockid_t clock = (clockid_t)call->argument[0];
	if (clock < 0 || clock > CLOCK_TAI)
		return -EINVAL;
	if (clock_getres(clock, &resolution) != 0)
		return -errno;
	return call->argument[1] ? call_put(call, call->argument[1], &resolution, sizeof resolution) : 0;
}

long serve_gettimeofday(struct call *call)
{
	struct timeval now;
	gettimeofday(&now, NULL);
	return call->argument[0] ? call_put(call, call->argument[0], &now, sizeof now) : 0;
}

long serve_time(struct call *call)
{
	time_t now = time(NULL);
	long bad = call->argument[0] ? call_put(call, call->argument[0], &now, sizeof now) : 0;
	return bad ? bad : now;
}
