/*
 * pool.c - see pool.h.
 *
 * A thread has what a whole server has without threads: an event loop, a sign gate, a ticket table, a free list of
 * regions.  Shared are the key, the document cache, the log and OpenSSL's contexts.
 */
#include "pool.h"

#include "connection.h"
#include "dispatch.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct job {
	int socket;
	struct sockaddr_storage peer;
	socklen_t length;
};

struct pool {
	struct server *server;
	struct server pattern; /* *server before there were threads */
	const struct sign_certificate *certificate;
	unsigned threads, threads_max;
	int wake;

	pthread_mutex_t lock;
	pthread_cond_t offered;
	unsigned idle;                         /* threads that wait, less the jobs that wait */
	struct job jobs[SIGN_CONNECTIONS_MAX]; /* a ring */
	size_t first, count;
};

static void take_job(struct pool *pool, struct job *job)
{
	(void)pthread_mutex_lock(&pool->lock);
	while (pool->count == 0)
		(void)pthread_cond_wait(&pool->offered, &pool->lock);
	*job = pool->jobs[pool->first];
	pool->first = (pool->first + 1) % SIGN_CONNECTIONS_MAX;
	pool->count--;
	(void)pthread_mutex_unlock(&pool->lock);
}

/* A connection is over. */
static void become_idle(struct pool *pool)
{
	static const uint64_t one = 1;
	bool was_full;

	(void)pthread_mutex_lock(&pool->lock);
	was_full = pool->idle == 0 && pool->threads == pool->threads_max;
	pool->idle++;
	(void)pthread_mutex_unlock(&pool->lock);
	if (was_full || server_is_stopping(pool->server))
		(void)!write(pool->wake, &one, sizeof(one));
}

/* The server of one thread. */
static struct server *new_server(const struct pool *pool)
{
	struct server *server = malloc(sizeof(*server));
	struct sign_trusted *trusted = calloc(1, sizeof(*trusted)); /* without the key, which the process has loaded */
	struct sign_tickets *tickets = calloc(1, sizeof(*tickets));

	if (server == NULL || trusted == NULL || tickets == NULL)
		goto failed;
	*server = pool->pattern;
	server->events = event_base_new();
	if (server->events == NULL)
		goto failed;
	trusted->certificate = pool->certificate;
	trusted->tickets = server->tickets = tickets;
	server->sign_gate = gate_new(sign_gate, NULL, trusted);
	if (server->sign_gate != -1)
		return server;
	event_base_free(server->events);
failed:
	free(tickets);
	free(trusted);
	free(server);
	return NULL;
}

static void *serve_connections(void *arg)
{
	struct pool *pool = arg;
	struct server *server = new_server(pool);
	struct job job;

	if (server == NULL)
		(void)fprintf(stderr, "a thread has no memory: its connections are refused\n");
	for (;;) {
		take_job(pool, &job);
		if (server != NULL)
			server->slots[0] =
				connection_new(server, 0, job.socket, (struct sockaddr *)&job.peer, (int)job.length);
		if (server == NULL || server->slots[0] == NULL) {
			(void)close(job.socket);
		} else {
			server->open_connections++;
			(void)event_base_dispatch(server->events); /* until the connection's events are gone */
		}
		become_idle(pool);
	}
	return NULL;
}

static bool is_full(struct dispatch *dispatch)
{
	struct pool *pool = dispatch->state;
	bool full;

	(void)pthread_mutex_lock(&pool->lock);
	full = pool->idle == 0 && pool->threads == pool->threads_max;
	(void)pthread_mutex_unlock(&pool->lock);
	return full;
}

static bool start_thread(struct pool *pool)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, serve_connections, pool);

	if (error == 0)
		(void)pthread_detach(thread);
	else
		(void)fprintf(stderr, "a thread cannot be started: %s\n", strerror(error));
	return error == 0;
}

static void offer(struct dispatch *dispatch, int socket, const struct sockaddr *peer, socklen_t length)
{
	struct pool *pool = dispatch->state;
	struct job *job;
	bool more;

	(void)pthread_mutex_lock(&pool->lock);
	more = pool->idle == 0;
	(void)pthread_mutex_unlock(&pool->lock);
	if (more && !start_thread(pool)) {
		(void)close(socket);
		return;
	}
	(void)pthread_mutex_lock(&pool->lock);
	if (more) {
		pool->threads++;
		pool->idle++;
	}
	pool->idle--;
	job = &pool->jobs[(pool->first + pool->count) % SIGN_CONNECTIONS_MAX];
	job->socket = socket;
	job->length = length;
	memcpy(&job->peer, peer, length);
	pool->count++;
	(void)pthread_cond_signal(&pool->offered);
	(void)pthread_mutex_unlock(&pool->lock);
}

int pool_run(struct server *server, unsigned threads_max, const struct sign_certificate *certificate, int socket,
	     void (*ready)(void *), void *arg)
{
	static struct pool pool;
	struct dispatch dispatch = { .server = server, .socket = socket, .serve = offer, .full = is_full };

	pool = (struct pool){
		.server = server, .pattern = *server, .certificate = certificate, .threads_max = threads_max
	};
	if (pthread_mutex_init(&pool.lock, NULL) != 0 || pthread_cond_init(&pool.offered, NULL) != 0)
		return -1;
	pool.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (pool.wake == -1)
		return -1;
	dispatch.wake = pool.wake;
	dispatch.state = &pool;
	documents_use_threads();
	dispatch_block_signals();
	/* Threads that still serve end with the process. */
	return dispatch_run(&dispatch, ready, arg);
}
