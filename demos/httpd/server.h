/*
 * server.h - what the main loop knows: the listening socket, the policies, the gates, the connections.
 */
#ifndef HTTPD_SERVER_H
#define HTTPD_SERVER_H

#include "compartment.h"
#include "documents.h"
#include "sign.h"

#include <event2/event.h>
#include <event2/listener.h>
#include <stdbool.h>

struct connection;

/* What all processes and threads of the server have done so far: in memory that they share. */
struct tally {
	_Atomic uint64_t connections, requests;
	_Atomic bool finished; /* the connection of the last wanted request is gone */
};

struct server {
	struct event_base *events;
	struct evconnlistener *listener; /* NULL: others accept for it */
	struct tally *tally;
	bool warm;                       /* address spaces are ready for the connections after the first */
	struct server *documents_owner;  /* who looks for changed documents: itself, or the main thread's */
	sc_t tls_policy, request_policy; /* without the memory of a connection */
	struct prepared tls_prepared, request_prepared;
	int docroot;
	struct document_list *documents; /* given to request_prepared */
	uint64_t documents_state;
	struct timespec documents_checked;
	int sign_gate, log_gate; /* log_gate: -1 if there is no log */
	struct sign_tickets *tickets;
	struct connection *slots[SIGN_CONNECTIONS_MAX]; /* by number of its ticket; NULL: free */
	size_t open_connections;
	uint64_t connections, requests; /* of this one so far */
	uint64_t requests_wanted;       /* of all: stop after so many; 0: never */
	size_t last_slot;               /* whose request was the last wanted one; SIGN_CONNECTIONS_MAX: none yet */
};

/* Accepts connections on a bound socket until a signal or the last wanted request; takes the socket over.
 * Calls ready(arg) once peers can connect.  0, or -1 with errno if nothing was served. */
int server_run(struct server *server, evutil_socket_t socket, void (*ready)(void *), void *arg);

/* NULL with errno. */
struct tally *tally_new(void);

/* Before a request: has files that have changed read again, at most once a second. */
void server_check_documents(struct server *server);

/* For connections: they tell their server that they are there and get their number, that a request is finished, and that they
 * are gone. */
uint64_t server_connection_began(struct server *server);
void server_request_finished(struct server *server, size_t slot);
bool server_is_stopping(const struct server *server);
void server_connection_gone(struct server *server, size_t slot);

#endif
