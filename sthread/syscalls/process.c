/* process.c - identity, randomness, the end of a life; what one thread needs of futexes.  See call.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <string.h>

#include "syscalls/call.h"

enum {
	RANDOM_MAX = 4096 /* bytes; more is a short answer */
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
	size_t size = call->argument[1] < sizeof random ? call->argument[1] : sizeof random;
	if (supervisor_random(random, size) != 0)
		return -EAGAIN;
	long bad = call_put(call, call->argument[0], random, size);
	explicit_bzero(random, size);
	return bad ? bad : (long)size;
}

long serve_getpid(struct call *call)
{
	return supervisor_process_id(call->compartment->instance);
}

long serve_getcpu(struct call *call)
{
	unsigned zero = 0;
	long bad = call->argument[0] ? call_put(call, call->argument[0], &zero, sizeof zero) : 0;
	return !bad && call->argument[1] ? call_put(call, call->argument[1], &zero, sizeof zero) : bad;
}

long serve_exit(struct call *call)
{
	call->end = true;
	call->compartment->info.end = STHREAD_EXITED;
	call->compartment->info.exit_status = (int)call->argument[0] & 0xff;
	return 0;
}
