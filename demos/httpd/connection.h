/*
 * connection.h - one connection of the main loop: a socket, the memory of its compartments, and their turns.
 */
#ifndef HTTPD_CONNECTION_H
#define HTTPD_CONNECTION_H

#include "server.h"

struct sockaddr;

/* Takes the socket over, unless it returns NULL. */
struct connection *connection_new(struct server *server, size_t slot, evutil_socket_t socket,
				  const struct sockaddr *peer, int peer_length);
/* Ends its compartments, prints its report, closes its socket and tells the server. */
void connection_free(struct connection *connection);

#endif
