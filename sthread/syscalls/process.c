/*
 * process.c - what a process asks about itself: identity, limits, usage, signals; randomness; the end of a life.
 * See call.h.
 *
 * The answers are about the compartment.  There is one thread in it, there are no signals, and the limits are those of
 * its policy.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "slice.h"
#include "syscalls/call.h"

enum {
	RANDOM_MAX = 4096,    /* bytes; more is a short answer */
	SIGNAL_SET_BYTES = 8, /* as the kernel has it */
	SIGNAL_ACTION_BYTES = 32,
	TICKS_PER_SECOND = 100
};

/* There is one thread: nobody waits to be woken (libc wakes after every pthread_once()), and nobody would wake. */
long serve_futex(struct call *call)
{
	int operation = (int)call->argument[1] & FUTEX_CMD_MASK;
	return operation == FUTEX_WAKE || operation == FUTEX_WAKE_BITSET ? 0 : -ENOSYS;
}

long serve_nothing(struct call *call)
{
	(void)call;
	return 0;
}

long serve_getrandom(struct call *call)
{
	uint8_t random[RANDOM_MAX];
	call->compartment->space->wants_random = true; /* its next lives find some where they are */
	size_t size = call->argument[1] < sizeof random ? call->argument[1] : sizeof random;
	if (supervisor_random(random, size) != 0)
		return -EAGAIN;
	long bad = call_put(call, call->argument[0], random, size);
	explicit_bzero(random, size);
	return bad ? bad : (long)size;
}

/* ---- identity -------------------------------------------------------------------------------------- */

long serve_getpid(struct call *call)
{
	return supervisor_process_id(call->compartment->instance);
}

/* The owner of the files that it sees is the process's user, so that is who it is. */
long serve_getuid(struct call *call)
{
	(void)call;
	return (long)getuid();
}

long serve_geteuid(struct call *call)
{
	(void)call;
	return (long)geteuid();
}

long serve_getgid(struct call *call)
{
	(void)call;
	return (long)getgid();
}

long serve_getegid(struct call *call)
{
	(void)call;
	return (long)getegid();
}

long serve_uname(struct call *call)
{
	static const struct utsname names = { .sysname = "Linux",
					      .nodename = "localhost",
					      .release = "5.6.0",
					      .version = "sthread",
					      .machine = "x86_64" };
	return call_put(call, call->argument[0], &names, sizeof names);
}

long serve_getcpu(struct call *call)
{
	unsigned zero = 0;
	long bad = call->argument[0] ? call_put(call, call->argument[0], &zero, sizeof zero) : 0;
	return !bad && call->argument[1] ? call_put(call, call->argument[1], &zero, sizeof zero) : bad;
}

/* ---- limits and usage ------------------------------------------------------------------------------ */

/* One processor, the first. */
long serve_sched_getaffinity(struct call *call)
{
	uint64_t processors = 1;
	if (call->argument[1] < sizeof processors || call->argument[1] % sizeof processors)
		return -EINVAL;
	long bad = call_put(call, call->argument[2], &processors, sizeof processors);
	return bad ? bad : (long)sizeof processors;
}

static struct rlimit limit_of(const struct policy *policy, uint64_t resource)
{
	rlim_t limit = RLIM_INFINITY;
	switch (resource) {
	case RLIMIT_NOFILE:
		limit = policy->descriptors;
		break;
	case RLIMIT_AS:
	case RLIMIT_DATA:
		limit = policy->memory;
		break;
	case RLIMIT_STACK:
		limit = SPACE_STACK_TOP - SPACE_STACK_LOW;
		break;
	case RLIMIT_CORE:
	case RLIMIT_NPROC:
	case RLIMIT_MEMLOCK:
		limit = 0;
		break;
	default:
		break;
	}
	return (struct rlimit){ .rlim_cur = limit, .rlim_max = limit };
}

static long get_limit(struct call *call, uint64_t resource, uint64_t to)
{
	if (resource >= RLIM_NLIMITS)
		return -EINVAL;
	struct rlimit limit = limit_of(call->compartment->policy, resource);
	return call_put(call, to, &limit, sizeof limit);
}

long serve_getrlimit(struct call *call)
{
	return get_limit(call, call->argument[0], call->argument[1]);
}

long serve_prlimit64(struct call *call)
{
	if (call->argument[0] && call->argument[0] != supervisor_process_id(call->compartment->instance))
		return -ESRCH;
	if (call->argument[2]) /* limits are set by the policy */
		return call_refused(call);
	return call->argument[3] ? get_limit(call, call->argument[1], call->argument[3]) : 0;
}

long serve_getrusage(struct call *call)
{
	uint64_t spent = call->compartment->info.run_nanoseconds;
	int who = (int)call->argument[0];
	struct rusage usage = { 0 };
	if (who != RUSAGE_SELF && who != RUSAGE_THREAD && who != RUSAGE_CHILDREN)
		return -EINVAL;
	if (who != RUSAGE_CHILDREN) {
		usage.ru_utime.tv_sec = (time_t)(spent / 1000000000);
		usage.ru_utime.tv_usec = (suseconds_t)(spent % 1000000000 / 1000);
		usage.ru_minflt = (long)call->compartment->info.traps;
		usage.ru_nvcsw = (long)call->compartment->info.parks;
	}
	return call_put(call, call->argument[1], &usage, sizeof usage);
}

long serve_times(struct call *call)
{
	uint64_t tick = 1000000000 / TICKS_PER_SECOND;
	struct tms times = { .tms_utime = (clock_t)(call->compartment->info.run_nanoseconds / tick) };
	long bad = call->argument[0] ? call_put(call, call->argument[0], &times, sizeof times) : 0;
	return bad ? bad : (long)(slice_clock() / tick);
}

/* Memory is what the policy gives; qsort() asks. */
long serve_sysinfo(struct call *call)
{
	const uint64_t memory = call->compartment->policy->memory;
	struct sysinfo info = { .totalram = memory, .freeram = memory, .procs = 1, .mem_unit = 1 };
	return call_put(call, call->argument[0], &info, sizeof info);
}

/* ---- signals --------------------------------------------------------------------------------------- */

/* None ever comes: what a program prepares for them is accepted, and what was before is the default. */
long serve_rt_sigaction(struct call *call)
{
	static const uint8_t none[SIGNAL_ACTION_BYTES];
	int number = (int)call->argument[0];
	if (number < 1 || number >= NSIG || call->argument[3] != SIGNAL_SET_BYTES ||
	    (call->argument[1] && (number == SIGKILL || number == SIGSTOP)))
		return -EINVAL;
	return call->argument[2] ? call_put(call, call->argument[2], none, sizeof none) : 0;
}

long serve_rt_sigprocmask(struct call *call)
{
	static const uint8_t none[SIGNAL_SET_BYTES];
	if (call->argument[3] != SIGNAL_SET_BYTES)
		return -EINVAL;
	return call->argument[2] ? call_put(call, call->argument[2], none, sizeof none) : 0;
}

long serve_sigaltstack(struct call *call)
{
	static const stack_t none = { .ss_flags = SS_DISABLE };
	return call->argument[1] ? call_put(call, call->argument[1], &none, sizeof none) : 0;
}

/* ---- the end --------------------------------------------------------------------------------------- */

long serve_exit(struct call *call)
{
	call->end = true;
	call->compartment->info.end = STHREAD_EXITED;
	call->compartment->info.exit_status = (int)call->argument[0] & 0xff;
	return 0;
}
