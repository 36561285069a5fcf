/*
 * sthread_event.c - see sthread_event.h
 *
 * What is to be done from the loop and not at once (the next slice of an sthread that computes, the callback of one that
 * has ended) stands in a queue, one for each event_base.  A timer that is due at once takes one entry in each round of
 * the loop: between two slices the loop looks at all other events.
 */
#include "sthread_event.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include <event2/event.h>

#define NANOSECONDS_PER_SECOND ((uint64_t)1000000000)

enum {
	/* A descriptor that the loop cannot watch is looked at again after so many nanoseconds. */
	LOOK_AGAIN = 10 * 1000 * 1000
};

/* The queue of a loop. */
struct turns {
	struct event_base *base;
	struct event *timer;
	struct sthread_event *first, *last;
	unsigned users; /* adaptors, and the turn that is being taken */
	struct turns *next;
};

struct sthread_event {
	struct turns *turns;
	struct sthread_event *before, *after; /* in the queue */
	bool queued;
	sthread_t st;
	struct event *wake; /* for its descriptor, its deadline; NULL: none yet */
	uint64_t due;       /* until when it waits, by clock_now(); 0: for ever */
	bool parked;        /* by sthread_park() */
	bool resume;        /* it may pass one sthread_park() */
	bool ended;         /* what is left is the callback */
	bool over;          /* it has been called: st is no handle any more */
	sthread_event_cb done;
	void *argument;
};

static uint64_t clock_now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * NANOSECONDS_PER_SECOND + (uint64_t)time.tv_nsec;
}

/* ---- turns ----------------------------------------------------------------------------------------- */

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER; /* loops may run in several threads */
static struct turns *list;

static void take_turn(evutil_socket_t unused, short what, void *argument);

static struct turns *turns_get(struct event_base *base)
{
	pthread_mutex_lock(&list_lock);
	struct turns *turns = list;
	while (turns && turns->base != base)
		turns = turns->next;
	if (!turns && (turns = calloc(1, sizeof *turns))) {
		turns->base = base;
		turns->timer = evtimer_new(base, take_turn, turns);
		if (turns->timer) {
			turns->next = list;
			list = turns;
		} else {
			free(turns);
			turns = NULL;
		}
	}
	if (turns)
		turns->users++;
	pthread_mutex_unlock(&list_lock);
	return turns;
}

static void turns_put(struct turns *turns)
{
	pthread_mutex_lock(&list_lock);
	if (--turns->users == 0) {
		struct turns **link = &list;
		while (*link != turns)
			link = &(*link)->next;
		*link = turns->next;
		event_free(turns->timer);
		free(turns);
	}
	pthread_mutex_unlock(&list_lock);
}

static void wake_turns(const struct turns *turns)
{
	const struct timeval at_once = { 0 };
	event_add(turns->timer, &at_once);
}

static void enqueue(struct sthread_event *event)
{
	struct turns *turns = event->turns;
	if (event->queued)
		return;
	event->queued = true;
	event->before = turns->last;
	event->after = NULL;
	if (turns->last)
		turns->last->after = event;
	else
		turns->first = event;
	turns->last = event;
	wake_turns(turns);
}

static void dequeue(struct sthread_event *event)
{
	struct turns *turns = event->turns;
	if (!event->queued)
		return;
	event->queued = false;
	if (event->before)
		event->before->after = event->after;
	else
		turns->first = event->after;
	if (event->after)
		event->after->before = event->before;
	else
		turns->last = event->before;
}

/* ---- waiting --------------------------------------------------------------------------------------- */

static void wake_up(evutil_socket_t unused, short what, void *argument);

static struct timeval time_until(uint64_t due)
{
	uint64_t time = clock_now(), left = due > time ? due - time : 0;
	left += 999; /* not too early */
	return (struct timeval){ .tv_sec = (time_t)(left / NANOSECONDS_PER_SECOND),
				 .tv_usec = (suseconds_t)(left % NANOSECONDS_PER_SECOND / 1000) };
}

/* Waits for the descriptor (-1: none) and until event->due. */
static int watch(struct sthread_event *event, int fd, short events)
{
	short what = (short)((events & POLLOUT ? EV_WRITE : 0) | (events & ~POLLOUT ? EV_READ : 0));
	struct timeval timeout = time_until(event->due);
	if (!event->wake && !(event->wake = event_new(event->turns->base, -1, 0, wake_up, event)))
		return -1;
	event_del(event->wake);
	if (event_assign(event->wake, event->turns->base, fd, fd < 0 ? 0 : what, wake_up, event) != 0)
		return -1;
	return event_add(event->wake, event->due ? &timeout : NULL);
}

static void earlier(uint64_t *due, uint64_t other)
{
	if (other && (!*due || other < *due))
		*due = other;
}

static int wait_for_it(struct sthread_event *event)
{
	uint64_t sleep, wall;
	short events;
	int fd;
	if (sthread_wait_fd(event->st, &fd, &events) != 0 || sthread_wait_deadline(event->st, &sleep) != 0 ||
	    sthread_wall_deadline(event->st, &wall) != 0)
		return -1;
	event->parked = fd < 0 && !sleep;
	if (event->parked && event->resume) {
		enqueue(event);
		return 0;
	}
	event->due = 0;
	earlier(&event->due, sleep);
	earlier(&event->due, wall);
	if (fd < 0 && !event->due)
		return 0;
	if (watch(event, fd, events) == 0)
		return 0;
	earlier(&event->due, clock_now() + LOOK_AGAIN);
	return watch(event, -1, 0);
}

/* ---- the life of an sthread ------------------------------------------------------------------------ */

static void stop_watching(struct sthread_event *event)
{
	if (event->wake)
		event_del(event->wake);
}

static void end(struct sthread_event *event)
{
	event->ended = true;
	enqueue(event);
}

/* The loop lets go of its descriptor first: it is closed then. */
static void stop(struct sthread_event *event)
{
	stop_watching(event);
	(void)!sthread_kill(event->st);
}

/* Looks where it stands and sees to it that it goes on. */
static void arrange(struct sthread_event *event)
{
	enum sthread_state state;
	if (sthread_state(event->st, &state) != 0)
		state = STHREAD_ENDED; /* somebody else has joined it, against the rules */
	if (state == STHREAD_PARKED && wait_for_it(event) != 0) {
		/* Nothing would ever wake it. */
		stop(event);
		state = STHREAD_ENDED;
	}
	if (state == STHREAD_RUNNABLE)
		enqueue(event);
	else if (state == STHREAD_ENDED)
		end(event);
}

static void go_on(struct sthread_event *event)
{
	if (event->parked)
		event->resume = event->parked = false;
	(void)!sthread_step(event->st);
	arrange(event);
}

/* Its descriptor is ready, or its time has come. */
static void wake_up(evutil_socket_t unused, short what, void *argument)
{
	struct sthread_event *event = argument;
	(void)unused;
	if (what & (EV_READ | EV_WRITE) || clock_now() >= event->due)
		go_on(event);
	else
		arrange(event); /* the loop's clock is coarse */
}

static void finish(struct sthread_event *event)
{
	struct sthread_info info = { .end = STHREAD_HOST_FAILURE, .system_call = -1 };
	void *result = NULL;
	(void)!sthread_join_info(event->st, &result, &info);
	event->over = true;
	event->done(event, result, &info, event->argument); /* it may free the adaptor */
}

static void take_turn(evutil_socket_t unused, short what, void *argument)
{
	struct turns *turns = argument;
	struct sthread_event *event = turns->first;
	(void)unused, (void)what;
	if (!event)
		return;
	pthread_mutex_lock(&list_lock);
	turns->users++; /* the callback may free the last adaptor */
	pthread_mutex_unlock(&list_lock);
	dequeue(event);
	if (event->ended)
		finish(event);
	else
		go_on(event);
	if (turns->first)
		wake_turns(turns);
	turns_put(turns);
}

/* ---- the public interface -------------------------------------------------------------------------- */

static void *refuse(int error)
{
	errno = error;
	return NULL;
}

struct sthread_event *sthread_event_new(struct event_base *base, const sc_t *sc, stcb_t body, void *body_argument,
					sthread_event_cb done, void *argument)
{
	if (!base || !body || !done)
		return refuse(EINVAL);
	struct sthread_event *event = calloc(1, sizeof *event);
	if (!event)
		return refuse(ENOMEM);
	event->done = done;
	event->argument = argument;
	if (sthread_create(&event->st, sc, body, body_argument) != 0) {
		int error = errno;
		free(event);
		return refuse(error);
	}
	event->turns = turns_get(base);
	if (!event->turns) {
		(void)!sthread_kill(event->st);
		sthread_join(event->st, NULL);
		free(event);
		return refuse(ENOMEM);
	}
	arrange(event);
	return event;
}

static int check(const struct sthread_event *event)
{
	if (event && !event->ended)
		return 0;
	errno = event ? EALREADY : EINVAL;
	return -1;
}

int sthread_event_resume(struct sthread_event *event)
{
	if (check(event) != 0)
		return -1;
	event->resume = true;
	if (event->parked) {
		stop_watching(event);
		enqueue(event);
	}
	return 0;
}

int sthread_event_cancel(struct sthread_event *event)
{
	if (check(event) != 0)
		return -1;
	stop(event);
	end(event);
	return 0;
}

sthread_t sthread_event_sthread(const struct sthread_event *event)
{
	return check(event) == 0 ? event->st : -1;
}

void sthread_event_free(struct sthread_event *event)
{
	if (!event)
		return;
	if (!event->over) {
		stop(event);
		sthread_join(event->st, NULL);
	}
	if (event->wake)
		event_free(event->wake);
	dequeue(event);
	turns_put(event->turns);
	free(event);
}
