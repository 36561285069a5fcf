/*
 * process.c - see process.h.
 */
#include "process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	KEPT_MAX = 4,
	TURN_MILLISECONDS = 30000,
};

static int kept[KEPT_MAX];
static size_t kept_count;

bool process_supported(void)
{
	return syscall(SYS_close_range, UINT32_MAX, UINT32_MAX, 0) == 0;
}

void process_keep(int fd)
{
	if (kept_count == KEPT_MAX)
		abort();
	kept[kept_count++] = fd;
}

static int by_number(const void *one, const void *other)
{
	return *(const int *)one - *(const int *)other;
}

void process_separate(int fd, pid_t parent)
{
	int keep[KEPT_MAX + 1];
	unsigned from = STDERR_FILENO + 1;

	/* Without this a stopped or spinning child would outlive a parent that was killed. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
		_exit(1);
	memcpy(keep, kept, kept_count * sizeof(keep[0]));
	keep[kept_count] = fd;
	qsort(keep, kept_count + 1, sizeof(keep[0]), by_number);
	for (size_t i = 0; i <= kept_count; i++) {
		if ((unsigned)keep[i] > from && syscall(SYS_close_range, from, (unsigned)keep[i] - 1, 0) != 0)
			_exit(1);
		if ((unsigned)keep[i] >= from)
			from = (unsigned)keep[i] + 1;
	}
	if (syscall(SYS_close_range, from, UINT32_MAX, 0) != 0)
		_exit(1);
}

/* The child.  A byte is a turn; the end of the stream is the end of the parent's interest. */
static _Noreturn void take_turns(int turns, pid_t parent, bool (*run)(void *arg), void *arg)
{
	char byte = 0;

	process_separate(turns, parent);
	while (!run(arg))
		if (send(turns, &byte, 1, MSG_NOSIGNAL) != 1 || recv(turns, &byte, 1, 0) != 1)
			break;
	_exit(0);
}

/* Waits until the child parks or ends. */
static int wait_for_turn(struct process *process)
{
	struct pollfd readable = { .fd = process->turns, .events = POLLIN };
	ssize_t got = 0;
	char byte;
	int ready;

	do
		ready = poll(&readable, 1, TURN_MILLISECONDS);
	while (ready == -1 && errno == EINTR);
	if (ready == 1)
		got = recv(process->turns, &byte, 1, 0);
	if (got == 1)
		return 0;
	process->timed_out = ready == 0;
	process_end(process);
	return 0;
}

int process_start(struct process *process, bool (*run)(void *arg), void *arg)
{
	pid_t self = getpid();
	int pair[2], saved;

	*process = (struct process){ .turns = -1 };
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
		return -1;
	process->pid = fork();
	if (process->pid == 0)
		take_turns(pair[1], self, run, arg);
	saved = errno;
	(void)close(pair[1]);
	if (process->pid == -1) {
		(void)close(pair[0]);
		process->pid = 0;
		errno = saved;
		return -1;
	}
	process->turns = pair[0];
	return wait_for_turn(process);
}

int process_turn(struct process *process)
{
	char byte = 0;

	/* If it is gone, waiting for it says how. */
	(void)!send(process->turns, &byte, 1, MSG_NOSIGNAL);
	return wait_for_turn(process);
}

void process_end(struct process *process)
{
	if (process_ended(process))
		return;
	(void)close(process->turns);
	process->turns = -1;
	/* Changes nothing for one that is on its way out, and ends one that only closed its end of the pair. */
	(void)kill(process->pid, SIGKILL);
	while (waitpid(process->pid, &process->status, 0) == -1 && errno == EINTR)
		;
}

bool process_failed(int status, char *out, size_t room)
{
	if (WIFSIGNALED(status)) {
		(void)snprintf(out, room, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
		return true;
	}
	(void)snprintf(out, room, "exit status %d", WEXITSTATUS(status));
	return WEXITSTATUS(status) != 0;
}
