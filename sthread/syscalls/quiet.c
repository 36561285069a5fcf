/* quiet.c - keeps the signals of a compartment's writes away from the process.  See call.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "syscalls/call.h"

void quiet_begin(struct quiet *quiet)
{
	sigset_t mine;
	sigemptyset(&mine);
	sigaddset(&mine, SIGPIPE);
	sigaddset(&mine, SIGXFSZ);
	sigaddset(&mine, SIGTTIN); /* blocked, they are not sent: reading fails, writing is allowed */
	sigaddset(&mine, SIGTTOU);
	sigpending(&quiet->pending);
	pthread_sigmask(SIG_BLOCK, &mine, &quiet->before);
}

void quiet_end(const struct quiet *quiet, int error)
{
	static const struct timespec at_once;
	int raised = error == EPIPE ? SIGPIPE : error == EFBIG ? SIGXFSZ : 0;
	if (raised && !sigismember(&quiet->pending, raised)) {
		sigset_t one;
		sigemptyset(&one);
		sigaddset(&one, raised);
		while (sigtimedwait(&one, NULL, &at_once) < 0 && errno == EINTR)
			;
	}
	pthread_sigmask(SIG_SETMASK, &quiet->before, NULL);
	errno = error;
}
