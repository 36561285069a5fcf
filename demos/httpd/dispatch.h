/*
 * dispatch.h - accepts connections for others, which serve them: threads of a pool (pool.c) or processes (children.c).
 */
#ifndef HTTPD_DISPATCH_H
#define HTTPD_DISPATCH_H

#include "server.h"

#include <stdbool.h>
#include <sys/socket.h>

struct dispatch {
	struct server *server;
	int socket; /* bound, not blocking */
	int wake; /* an eventfd: readable when full() or the tally's `finished` may have changed; or -1: a signal comes */
	/* Serves it, or has it served; takes the socket over. */
	void (*serve)(struct dispatch *dispatch, int socket, const struct sockaddr *peer, socklen_t length);
	bool (*full)(struct dispatch *dispatch); /* no more connections now */
	void (*reap)(struct dispatch *dispatch); /* children may have ended; or NULL */
	void *state;                             /* of those functions */
};

/* Blocks the signals that dispatch_run() waits for.  Before threads are started. */
void dispatch_block_signals(void);
/* In a forked child: signals are what they were before. */
void dispatch_forget_signals(void);

/* Listens, calls ready(arg), and serves until SIGINT, SIGTERM or the last wanted request; closes the socket.
 * 0, or -1 with errno if nothing was served. */
int dispatch_run(struct dispatch *dispatch, void (*ready)(void *), void *arg);

#endif
