/*
 * dispatch.c - see dispatch.h.
 */
#include "dispatch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	BACKLOG = 128
};

static const int numbers[] = { SIGINT, SIGTERM, SIGCHLD };
enum {
	NUMBERS = sizeof(numbers) / sizeof(numbers[0])
};
static sigset_t unblocked;
static volatile sig_atomic_t ended;

static void on_signal(int number)
{
	if (number != SIGCHLD)
		ended = 1;
}

void dispatch_block_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t blocked;

	(void)sigemptyset(&blocked);
	for (size_t i = 0; i < NUMBERS; i++)
		(void)sigaddset(&blocked, numbers[i]);
	(void)sigprocmask(SIG_BLOCK, &blocked, &unblocked);
	for (size_t i = 0; i < NUMBERS; i++)
		(void)sigaction(numbers[i], &action, NULL);
}

void dispatch_forget_signals(void)
{
	const struct sigaction action = { .sa_handler = SIG_DFL };

	for (size_t i = 0; i < NUMBERS; i++)
		(void)sigaction(numbers[i], &action, NULL);
	(void)sigprocmask(SIG_SETMASK, &unblocked, NULL);
}

/* Accepts what is there.  False if there is no descriptor or memory for it. */
static bool accept_all(struct dispatch *dispatch)
{
	while (!dispatch->full(dispatch)) {
		struct sockaddr_storage peer;
		socklen_t length = sizeof(peer);
		int socket = accept4(dispatch->socket, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (socket == -1 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
			return false;
		if (socket == -1 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return true;
		if (socket != -1)
			dispatch->serve(dispatch, socket, (struct sockaddr *)&peer, length);
	}
	return true;
}

int dispatch_run(struct dispatch *dispatch, void (*ready)(void *), void *arg)
{
	/* After accept() failed for want of a resource: at once it would fail again. */
	static const struct timespec pause = { .tv_sec = 1 };
	bool pausing = false;
	uint64_t count;

	if (listen(dispatch->socket, BACKLOG) != 0)
		return -1;
	ready(arg);
	while (!ended && !dispatch->server->tally->finished) {
		bool accepting = !pausing && !server_is_stopping(dispatch->server) && !dispatch->full(dispatch);
		struct pollfd polled[] = { { .fd = dispatch->wake, .events = POLLIN },
					   { .fd = accepting ? dispatch->socket : -1, .events = POLLIN } };
		int got = ppoll(polled, 2, pausing ? &pause : NULL, &unblocked);

		pausing = false;
		if (got > 0 && polled[0].revents != 0)
			(void)!read(dispatch->wake, &count, sizeof(count));
		if (dispatch->reap != NULL)
			dispatch->reap(dispatch);
		if (got > 0 && polled[1].revents != 0)
			pausing = !accept_all(dispatch);
	}
	(void)close(dispatch->socket);
	return 0;
}
