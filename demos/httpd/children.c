/*
 * children.c - see children.h.
 */
#include "children.h"

#include "connection.h"
#include "dispatch.h"
#include "options.h"
#include "process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct children {
	pid_t pids[SIGN_CONNECTIONS_MAX]; /* the first `count` */
	size_t count;
};

static bool is_full(struct dispatch *dispatch)
{
	const struct children *children = dispatch->state;

	return children->count == SIGN_CONNECTIONS_MAX;
}

static void forget(struct children *children, pid_t pid)
{
	for (size_t i = 0; i < children->count; i++)
		if (children->pids[i] == pid) {
			children->pids[i] = children->pids[--children->count];
			return;
		}
}

static void reap(struct dispatch *dispatch)
{
	char how[80];
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		forget(dispatch->state, pid);
		if (process_failed(status, how, sizeof(how)))
			(void)fprintf(stderr, "the process %ld of a connection ended: %s\n", (long)pid, how);
	}
	/* The last request's process may have crashed. */
	if (server_is_stopping(dispatch->server) && ((struct children *)dispatch->state)->count == 0)
		dispatch->server->tally->finished = true;
}

/* The child. */
static noreturn void serve_one(struct server *server, pid_t parent, int socket, const struct sockaddr *peer,
			       socklen_t length)
{
	process_separate(socket, parent);
	dispatch_forget_signals();
	server->events = event_base_new();
	if (server->events != NULL)
		server->slots[0] = connection_new(server, 0, socket, peer, (int)length);
	if (server->events == NULL || server->slots[0] == NULL)
		finish(1);
	server->open_connections++;
	(void)event_base_dispatch(server->events); /* until the connection's events are gone */
	finish(0);
}

static void serve(struct dispatch *dispatch, int socket, const struct sockaddr *peer, socklen_t length)
{
	struct children *children = dispatch->state;
	pid_t self = getpid(), pid;

	/* Children that start from now on have the files as they are now. */
	server_check_documents(dispatch->server);
	pid = fork();
	if (pid == 0)
		serve_one(dispatch->server, self, socket, peer, length);
	if (pid == -1)
		(void)fprintf(stderr, "a connection was refused: no process for it: %s\n", strerror(errno));
	else
		children->pids[children->count++] = pid;
	dispatch->server->connections += pid != -1;
	(void)close(socket);
}

int children_run(struct server *server, int socket, void (*ready)(void *), void *arg)
{
	static struct children children;
	struct dispatch dispatch = { .server = server,
				     .socket = socket,
				     .wake = -1,
				     .serve = serve,
				     .full = is_full,
				     .reap = reap,
				     .state = &children };
	int result;

	dispatch_block_signals();
	/* Nothing may be in a buffer that a child would write, too. */
	(void)fflush(NULL);
	result = dispatch_run(&dispatch, ready, arg);
	for (size_t i = 0; i < children.count; i++)
		(void)kill(children.pids[i], SIGTERM);
	for (size_t i = 0; i < children.count; i++)
		while (waitpid(children.pids[i], NULL, 0) == -1 && errno == EINTR)
			;
	return result;
}
