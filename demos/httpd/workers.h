/*
 * workers.h - --workers N: N processes that listen on one address, each a whole server.
 *
 * Each has a listening socket of its own (SO_REUSEPORT), made before it starts and kept by the parent, so that connections
 * wait there when a worker has ended and is being replaced.  The kernel spreads connections by a hash of their addresses.
 */
#ifndef HTTPD_WORKERS_H
#define HTTPD_WORKERS_H

#include "server.h"

enum {
	WORKERS_MAX = 64
};

/* In a worker: serves until SIGTERM, and ends the process; calls workers_ready() once peers can connect. */
typedef void (*worker_body)(unsigned number, int socket, void *arg);

/* Starts workers and replaces those that end, until SIGINT, SIGTERM or the last wanted request; calls ready(arg) once all are
 * listening.  False if a worker could not start: it has said why. */
bool workers_run(const int sockets[], unsigned count, const struct tally *tally, worker_body body, void *body_arg,
		 void (*ready)(void *), void *arg);
void workers_ready(void);

#endif
