/*
 * workers.c - see workers.h.
 */
#include "workers.h"

#include "options.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct {
	const int *sockets;
	unsigned count;
	worker_body body;
	void *arg;
	pid_t pids[WORKERS_MAX]; /* 0: not running */
	sigset_t before;
} workers;

static int ready_pipe = -1; /* in a worker: where it says that it listens */

void workers_ready(void)
{
	(void)!write(ready_pipe, "", 1);
	(void)close(ready_pipe);
	ready_pipe = -1;
}

static noreturn void be_worker(unsigned i, pid_t parent, const int ends[2])
{
	/* Its children, if it forks any, are told in the same way. */
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent)
		_exit(1);
	for (unsigned other = 0; other < workers.count; other++)
		if (other != i)
			(void)close(workers.sockets[other]);
	(void)close(ends[0]);
	ready_pipe = ends[1];
	(void)sigprocmask(SIG_SETMASK, &workers.before, NULL);
	workers.body(i + 1, workers.sockets[i], workers.arg);
	finish(1);
}

/* True once it listens. */
static bool start(unsigned i)
{
	pid_t self = getpid();
	int ends[2];
	char byte;
	bool listens;

	(void)fflush(NULL);
	if (pipe2(ends, O_CLOEXEC) != 0)
		return false;
	workers.pids[i] = fork();
	if (workers.pids[i] == 0)
		be_worker(i, self, ends);
	(void)close(ends[1]);
	listens = workers.pids[i] != -1 && read(ends[0], &byte, 1) == 1;
	(void)close(ends[0]);
	if (!listens && workers.pids[i] > 0)
		(void)waitpid(workers.pids[i], NULL, 0);
	if (!listens)
		workers.pids[i] = 0;
	return listens;
}

static void end_all(void)
{
	for (unsigned i = 0; i < workers.count; i++)
		if (workers.pids[i] > 0)
			(void)kill(workers.pids[i], SIGTERM);
	for (unsigned i = 0; i < workers.count; i++)
		while (workers.pids[i] > 0 && waitpid(workers.pids[i], NULL, 0) == -1 && errno == EINTR)
			;
}

static void reap(bool stopping)
{
	char how[80];
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (unsigned i = 0; i < workers.count; i++)
			if (workers.pids[i] == pid) {
				workers.pids[i] = 0;
				(void)process_failed(status, how, sizeof(how));
				if (!stopping)
					(void)fprintf(stderr, "worker %u ended: %s; another one is started\n", i + 1,
						      how);
			}
}

static bool one_is_missing(void)
{
	for (unsigned i = 0; i < workers.count; i++)
		if (workers.pids[i] == 0)
			return true;
	return false;
}

static void start_missing(void)
{
	for (unsigned i = 0; i < workers.count; i++)
		if (workers.pids[i] == 0)
			(void)start(i);
}

bool workers_run(const int sockets[], unsigned count, const struct tally *tally, worker_body body, void *body_arg,
		 void (*ready)(void *), void *arg)
{
	/* Before one that has ended is replaced: it may have ended at once, and may do so again. */
	static const struct timespec pause = { .tv_sec = 1 };
	sigset_t waited;
	bool stopping = false;

	workers.sockets = sockets;
	workers.count = count;
	workers.body = body;
	workers.arg = body_arg;
	(void)sigemptyset(&waited);
	(void)sigaddset(&waited, SIGINT);
	(void)sigaddset(&waited, SIGTERM);
	(void)sigaddset(&waited, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &waited, &workers.before);
	for (unsigned i = 0; i < count; i++)
		if (!start(i)) {
			end_all();
			return false;
		}
	ready(arg);
	while (!stopping) {
		int number = sigtimedwait(&waited, NULL, one_is_missing() ? &pause : NULL);

		if (number == SIGINT || number == SIGTERM)
			break;
		stopping = tally->finished;
		reap(stopping);
		if (number == -1 && errno == EAGAIN)
			start_missing();
	}
	end_all();
	return true;
}
