/*
 * server.c - the event loop: accepts connections, hands them to connection.c, ends on signals.
 */
#include "server.h"

#include "connection.h"
#include "regions.h"
#include "report.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
	BACKLOG = 128
};

/* After accept() failed for want of a resource. */
static const struct timeval accept_pause = { .tv_sec = 1 };

/* Of documents_owner, for threads. */
static pthread_mutex_t documents_lock = PTHREAD_MUTEX_INITIALIZER;

struct tally *tally_new(void)
{
	void *at = mmap(NULL, sizeof(struct tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

uint64_t server_connection_began(struct server *server)
{
	server->connections++;
	return atomic_fetch_add_explicit(&server->tally->connections, 1, memory_order_relaxed) + 1;
}

void server_request_finished(struct server *server, size_t slot)
{
	server->requests++;
	if (atomic_fetch_add_explicit(&server->tally->requests, 1, memory_order_relaxed) + 1 == server->requests_wanted)
		server->last_slot = slot;
}

bool server_is_stopping(const struct server *server)
{
	return server->requests_wanted != 0 &&
	       atomic_load_explicit(&server->tally->requests, memory_order_relaxed) >= server->requests_wanted;
}

void server_connection_gone(struct server *server, size_t slot)
{
	server->slots[slot] = NULL;
	server->open_connections--;
	if (slot == server->last_slot)
		server->tally->finished = true;
	if (server->listener == NULL)
		return;
	if (!server_is_stopping(server))
		(void)evconnlistener_enable(server->listener);
	else if (slot == server->last_slot)
		(void)event_base_loopbreak(server->events);
}

static void check_documents(struct server *server)
{
	struct timespec now;
	uint64_t state;

	(void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (now.tv_sec == server->documents_checked.tv_sec ||
	    (now.tv_sec == server->documents_checked.tv_sec + 1 && now.tv_nsec < server->documents_checked.tv_nsec))
		return;
	server->documents_checked = now;
	state = documents_list(server->docroot, server->documents);
	if (state == server->documents_state)
		return;
	if (compartments_prepare_again(&server->request_prepared) == 0)
		server->documents_state = state;
	else
		(void)fprintf(stderr, "changed documents cannot be read again: %s\n", strerror(errno));
}

void server_check_documents(struct server *server)
{
	/* A thread that finds another one looking need not look. */
	if (pthread_mutex_trylock(&documents_lock) != 0)
		return;
	check_documents(server->documents_owner);
	(void)pthread_mutex_unlock(&documents_lock);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t socket, struct sockaddr *peer, int length,
		      void *arg)
{
	struct server *server = arg;
	size_t slot = 0;

	while (slot < SIGN_CONNECTIONS_MAX && server->slots[slot] != NULL)
		slot++;
	if (slot == SIGN_CONNECTIONS_MAX || server_is_stopping(server)) {
		(void)evutil_closesocket(socket);
		return;
	}
	server->slots[slot] = connection_new(server, slot, socket, peer, length);
	if (server->slots[slot] == NULL) {
		(void)evutil_closesocket(socket);
		return;
	}
	server->open_connections++;
	if (server->open_connections == SIGN_CONNECTIONS_MAX)
		(void)evconnlistener_disable(listener);
}

static void on_pause_over(evutil_socket_t socket, short what, void *arg)
{
	struct server *server = arg;

	(void)socket;
	(void)what;
	(void)evconnlistener_enable(server->listener);
}

static void on_accept_error(struct evconnlistener *listener, void *arg)
{
	struct server *server = arg;

	/* Too many descriptors, most likely: without a pause this would be called again at once, and again. */
	(void)evconnlistener_disable(listener);
	(void)event_base_once(server->events, -1, EV_TIMEOUT, on_pause_over, server, &accept_pause);
}

static void on_signal(evutil_socket_t number, short what, void *arg)
{
	struct server *server = arg;

	(void)number;
	(void)what;
	(void)event_base_loopbreak(server->events);
}

static void on_question(evutil_socket_t number, short what, void *arg)
{
	struct server *server = arg;

	(void)number;
	(void)what;
	report_server(compartments_isolation(), server->connections, server->requests);
}

static void loop(struct server *server, void (*ready)(void *), void *arg)
{
	ready(arg);
	(void)event_base_dispatch(server->events);
	evconnlistener_free(server->listener);
	server->listener = NULL;
	for (size_t slot = 0; slot < SIGN_CONNECTIONS_MAX; slot++)
		if (server->slots[slot] != NULL)
			connection_free(server->slots[slot]);
	regions_end();
}

int server_run(struct server *server, evutil_socket_t socket, void (*ready)(void *), void *arg)
{
	struct event *interrupt, *terminate, *question;
	int result = -1, saved;

	server->events = event_base_new();
	if (server->events == NULL)
		return -1;
	interrupt = evsignal_new(server->events, SIGINT, on_signal, server);
	terminate = evsignal_new(server->events, SIGTERM, on_signal, server);
	question = evsignal_new(server->events, SIGUSR1, on_question, server);
	if (interrupt != NULL && terminate != NULL && question != NULL && evsignal_add(interrupt, NULL) == 0 &&
	    evsignal_add(terminate, NULL) == 0 && evsignal_add(question, NULL) == 0)
		server->listener =
			evconnlistener_new(server->events, on_accept, server, LEV_OPT_CLOSE_ON_FREE, BACKLOG, socket);
	if (server->listener != NULL) {
		evconnlistener_set_error_cb(server->listener, on_accept_error);
		loop(server, ready, arg);
		result = 0;
	}
	saved = errno;
	if (interrupt != NULL)
		event_free(interrupt);
	if (terminate != NULL)
		event_free(terminate);
	if (question != NULL)
		event_free(question);
	event_base_free(server->events);
	errno = saved;
	return result;
}
