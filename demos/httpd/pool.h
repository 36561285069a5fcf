/*
 * pool.h - --isolation=thread: each connection is served by a thread of a pool, from its handshake to its end.
 *
 * The threads share the process: its memory, its key, its descriptors.  Nothing is kept apart.
 */
#ifndef HTTPD_POOL_H
#define HTTPD_POOL_H

#include "server.h"

/* As server_run(), with at most so many threads; they are started when they are needed and kept.  certificate is what
 * their sign gates insist on.  Precondition: the process has one thread; the key has been loaded by a gate. */
int pool_run(struct server *server, unsigned threads_max, const struct sign_certificate *certificate, int socket,
	     void (*ready)(void *), void *arg);

#endif
