/*
 * children.h - --isolation=fork and fork-per-request: each connection is served by a forked process of its own.
 *
 * The child has a copy of everything that the server has in memory, the private key included, and of what no other
 * connection has: the parent never speaks TLS.
 */
#ifndef HTTPD_CHILDREN_H
#define HTTPD_CHILDREN_H

#include "server.h"

/* As server_run(), with at most SIGN_CONNECTIONS_MAX children.  Precondition: the process has one thread. */
int children_run(struct server *server, int socket, void (*ready)(void *), void *arg);

#endif
