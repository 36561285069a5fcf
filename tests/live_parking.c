/* live_parking.c - sthreads that wait, and the others that do not wait for them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "live.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

static enum sthread_state state_of(sthread_t st)
{
	enum sthread_state state = (enum sthread_state) - 1;

	ASSERT_EQUAL(sthread_state(st, &state), 0);
	return state;
}

static void *park_often(void *times)
{
	int local = 7;

	for (uintptr_t i = 0; i < (uintptr_t)times; i++) {
		if (sthread_park() != 0)
			return NULL;
		local++;
	}
	return (void *)(uintptr_t)(local - 6);
}

static void park_and_step(void)
{
	sthread_t st;
	sc_t sc;
	int fd = 5;
	short events = 5;
	struct sthread_info info;

	live_init();
	sc_init(&sc);
	ASSERT_EQUAL(live_create(&st, &sc, park_often, (void *)10), 0);
	for (int i = 0; i < 10; i++) {
		ASSERT_EQUAL(state_of(st), STHREAD_PARKED);
		ASSERT_EQUAL(sthread_wait_fd(st, &fd, &events), 0);
		ASSERT_EQUAL(fd, -1);
		ASSERT_ERROR(sthread_join(st, NULL) == -1, EDEADLK);
		ASSERT_EQUAL(sthread_get_info(st, &info), 0);
		ASSERT_EQUAL(info.parks, i + 1);
		ASSERT_EQUAL(live_step(st), 0);
	}
	ASSERT_EQUAL(state_of(st), STHREAD_ENDED);
	ASSERT_ERROR(sthread_wait_fd(st, &fd, &events) == -1, EAGAIN);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_RETURNED(live_join(st), 11);
	ASSERT_ERROR(sthread_park() == -1, EPERM);
}

static void *echo(void *fd)
{
	char text[100];
	ssize_t got, total = 0;

	while ((got = read((int)(intptr_t)fd, text, sizeof(text))) > 0) {
		if (write((int)(intptr_t)fd, text, (size_t)got) != got)
			return NULL;
		total += got;
	}
	return (void *)total;
}

static void event_loop(void)
{
	enum {
		COUNT = 20
	};
	sthread_t st[COUNT];
	int mine[COUNT], theirs[COUNT];
	sc_t sc;

	live_init();
	for (int i = 0; i < COUNT; i++) {
		int pair[2];

		ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
		mine[i] = pair[0];
		theirs[i] = pair[1];
		sc_init(&sc);
		sc_fd_add(&sc, theirs[i], BOTH);
		ASSERT_EQUAL(live_create(&st[i], &sc, echo, (void *)(intptr_t)theirs[i]), 0);
		sc_destroy(&sc);
		ASSERT_EQUAL(state_of(st[i]), STHREAD_PARKED);
	}
	for (int round = 0; round < 5; round++)
		for (int i = 0; i < COUNT; i++) {
			int fd, which = (i * 7 + round) % COUNT;
			short events;
			char text[100] = "";
			struct pollfd ready;

			ASSERT_EQUAL(sthread_wait_fd(st[which], &fd, &events), 0);
			ASSERT_EQUAL(events, POLLIN);
			ready = (struct pollfd){ .fd = fd, .events = events };
			ASSERT_EQUAL(poll(&ready, 1, 0), 0);
			ASSERT_EQUAL(write(mine[which], "hello", 5), 5);
			ASSERT_EQUAL(poll(&ready, 1, 1000), 1);
			ASSERT_EQUAL(live_step(st[which]), 0);
			ASSERT_EQUAL(recv(mine[which], text, sizeof(text), MSG_DONTWAIT), 5);
			CU_ASSERT_STRING_EQUAL(text, "hello");
			ASSERT_EQUAL(fcntl(theirs[which], F_GETFL) & O_NONBLOCK, 0); /* it never was */
		}
	for (int i = 0; i < COUNT; i++) {
		shutdown(mine[i], SHUT_WR);
		ASSERT_RETURNED(live_join(st[i]), 25);
	}
}

static void *write_much(void *fd)
{
	static char block[65536];
	size_t total = 0;

	while (total < 1000000) {
		ssize_t some = write((int)(intptr_t)fd, block, sizeof(block));

		if (some <= 0)
			return NULL;
		total += (size_t)some;
	}
	return (void *)1;
}

static void full_pipe(void)
{
	sthread_t st;
	sc_t sc;
	int ends[2], steps = 0;

	live_init();
	ASSERT_EQUAL(pipe(ends), 0);
	sc_init(&sc);
	sc_fd_add(&sc, ends[1], PROT_WRITE);
	ASSERT_EQUAL(live_create(&st, &sc, write_much, (void *)(intptr_t)ends[1]), 0);
	sc_destroy(&sc);
	while (state_of(st) == STHREAD_PARKED && steps++ < 10000) {
		char buffer[30000];
		short events;
		int fd;

		ASSERT_EQUAL(sthread_wait_fd(st, &fd, &events), 0);
		ASSERT_EQUAL(events, POLLOUT);
		CU_ASSERT(read(ends[0], buffer, sizeof(buffer)) > 0);
		ASSERT_EQUAL(live_step(st), 0);
	}
	CU_ASSERT(steps > 10);
	ASSERT_RETURNED(live_join(st), 1);
}

static void *feed(void *fd)
{
	for (int i = 0; i < 10; i++) {
		usleep(20000);
		if (write((int)(intptr_t)fd, "x", 1) != 1)
			break;
	}
	shutdown((int)(intptr_t)fd, SHUT_WR);
	return NULL;
}

static void join_waits(void)
{
	pthread_t thread;
	sthread_t st;
	sc_t sc;
	int pair[2];

	live_init();
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	sc_init(&sc);
	sc_fd_add(&sc, pair[1], BOTH);
	ASSERT_EQUAL(live_create(&st, &sc, echo, (void *)(intptr_t)pair[1]), 0);
	pthread_create(&thread, NULL, feed, (void *)(intptr_t)pair[0]);
	ASSERT_RETURNED(live_join(st), 10);
	pthread_join(thread, NULL);
	sc_destroy(&sc);
}

/* One stalls in a read, one spins, a third one is served. */
static void nobody_waits(void)
{
	sthread_t stalled, spinning, third;
	int stall[2], serve[2];
	double began;
	char text[10];
	sc_t sc;

	live_init();
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, stall), 0);
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, serve), 0);
	ASSERT_EQUAL(write(stall[0], "\x16\x03\x01\x02", 4), 4);
	sc_init(&sc);
	sc_fd_add(&sc, stall[1], BOTH);
	began = live_seconds();
	ASSERT_EQUAL(live_create(&stalled, &sc, echo, (void *)(intptr_t)stall[1]), 0);
	sc_destroy(&sc);
	ASSERT_EQUAL(sthread_create(&spinning, &sc, body_spin, NULL), 0);
	ASSERT_EQUAL(state_of(spinning), STHREAD_RUNNABLE);
	sc_fd_add(&sc, serve[1], BOTH);
	ASSERT_EQUAL(live_create(&third, &sc, echo, (void *)(intptr_t)serve[1]), 0);
	for (int i = 0; i < 5; i++) {
		ASSERT_EQUAL(write(serve[0], "request", 7), 7);
		ASSERT_EQUAL(sthread_step(spinning), 0);
		ASSERT_EQUAL(live_step(third), 0);
		ASSERT_EQUAL(recv(serve[0], text, 7, MSG_DONTWAIT), 7);
	}
	began = live_seconds() - began;
	live_check(began < 1.0 * harness_time_scale(), __FILE__, __LINE__,
		   "the third one is served within a second (%f)", began);
	ASSERT_EQUAL(state_of(stalled), STHREAD_PARKED);
	ASSERT_EQUAL(sthread_kill(spinning), 0);
	ASSERT_END(live_join(spinning), STHREAD_KILLED);
	ASSERT_EQUAL(sthread_kill(stalled), 0);
	ASSERT_END(live_join(stalled), STHREAD_KILLED);
	shutdown(serve[0], SHUT_WR);
	ASSERT_RETURNED(live_join(third), 35);
}

static void kills(void)
{
	struct sthread_info info;
	sthread_t st;
	sc_t sc;

	live_init();
	sc_init(&sc);
	ASSERT_EQUAL(live_create(&st, &sc, park_often, (void *)10), 0);
	ASSERT_EQUAL(sthread_kill(st), 0);
	ASSERT_EQUAL(state_of(st), STHREAD_ENDED);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_EQUAL(sthread_kill(st), 0);
	ASSERT_EQUAL(sthread_get_info(st, &info), 0);
	ASSERT_EQUAL(info.end, STHREAD_KILLED);
	ASSERT_END(live_join(st), STHREAD_KILLED);
	ASSERT_ERROR(sthread_kill(st) == -1, EBADF);
	/* One that has ended keeps its end. */
	ASSERT_EQUAL(live_create(&st, &sc, body_nothing, (void *)5), 0);
	ASSERT_EQUAL(sthread_kill(st), 0);
	ASSERT_RETURNED(live_join(st), 5);
}

static sthread_t driven;

static void *join_driven(void *unused)
{
	(void)unused;
	return (void *)(intptr_t)(sthread_join(driven, NULL) == 0 ? 0 : errno);
}

/* A handle is driven by one thread at a time. */
static void two_drivers(void)
{
	pthread_t thread;
	int pair[2];
	void *result;
	sc_t sc;
	double until;

	live_init();
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	sc_init(&sc);
	sc_fd_add(&sc, pair[1], BOTH);
	ASSERT_EQUAL(live_create(&driven, &sc, echo, (void *)(intptr_t)pair[1]), 0);
	pthread_create(&thread, NULL, join_driven, NULL);
	for (until = live_seconds() + 5; sthread_step(driven) == 0 && live_seconds() < until;)
		usleep(1000);
	ASSERT_ERROR(sthread_step(driven) == -1, EBUSY);
	ASSERT_ERROR(sthread_join(driven, NULL) == -1, EBUSY);
	shutdown(pair[0], SHUT_WR);
	pthread_join(thread, &result);
	ASSERT_EQUAL(result, 0);
	ASSERT_ERROR(sthread_step(driven) == -1, EBADF);
	sc_destroy(&sc);
}

/* But any thread can end it: while it runs, and while its input is waited for. */
static void kills_from_elsewhere(void)
{
	static const stcb_t bodies[] = { body_spin, echo };
	int pair[2];

	live_init();
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	for (int i = 0; i < 2; i++) {
		pthread_t thread;
		void *result;
		double began;
		sc_t sc;

		sc_init(&sc);
		sc_fd_add(&sc, pair[1], BOTH);
		ASSERT_EQUAL(sthread_create(&driven, &sc, bodies[i], (void *)(intptr_t)pair[1]), 0);
		pthread_create(&thread, NULL, join_driven, NULL);
		usleep(50000);
		began = live_seconds();
		ASSERT_EQUAL(sthread_kill(driven), 0);
		pthread_join(thread, &result);
		began = live_seconds() - began;
		ASSERT_EQUAL(result, ECANCELED);
		live_check(began < 1.0 * harness_time_scale(), __FILE__, __LINE__, "it ends within a second (%f)",
			   began);
		sc_destroy(&sc);
	}
}

static void *step_all(void *all)
{
	for (sthread_t *st = all; *st >= 0; st++)
		if (live_step(*st) != 0)
			return (void *)1;
	return NULL;
}

/* Sthreads move between host threads, each of which has a virtual CPU of its own. */
static void moving(void)
{
	enum {
		COUNT = 10
	};
	sthread_t st[COUNT + 1];
	sc_t sc;

	live_init();
	sc_init(&sc);
	for (int i = 0; i < COUNT; i++)
		ASSERT_EQUAL(live_create(&st[i], &sc, park_often, (void *)8), 0);
	st[COUNT] = -1;
	for (int round = 0; round < 8; round++) {
		pthread_t thread;
		void *bad;

		if (round % 2) {
			ASSERT_EQUAL(step_all(st), 0);
			continue;
		}
		pthread_create(&thread, NULL, step_all, st);
		pthread_join(thread, &bad);
		ASSERT_EQUAL(bad, 0);
	}
	for (int i = 0; i < COUNT; i++)
		ASSERT_RETURNED(live_join(st[i]), 9);
}

static void many(void)
{
	enum {
		COUNT = 500
	};
	static sthread_t st[COUNT];
	struct sthread_statistics before, after;
	sc_t sc;
	int fds;

	live_init();
	sc_init(&sc);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	fds = live_open_fds();
	for (int i = 0; i < COUNT; i++)
		ASSERT_EQUAL(live_create(&st[i], &sc, park_often, (void *)(uintptr_t)(i % 3 + 1)), 0);
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < COUNT; i++) {
			ASSERT_EQUAL(live_step(st[i]), 0);
		}
	for (int i = 0; i < COUNT; i++)
		ASSERT_RETURNED(live_join(st[i]), i % 3 + 2);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.address_spaces - before.address_spaces, COUNT);
	ASSERT_EQUAL(live_open_fds(), fds);
	for (int i = 0; i < COUNT; i++)
		ASSERT_EQUAL(live_run(&sc, park_often, NULL).info.recycled, 1);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	ASSERT_EQUAL(after.frames_used, before.frames_used);
}

static const struct harness_test tests[] = {
	{ "sthread_park() gives back, sthread_step() goes on, and a join would never end", park_and_step,
	  HARNESS_FORK },
	{ "an event loop drives sthreads by what they wait for", event_loop, HARNESS_FORK },
	{ "a write to a full pipe parks", full_pipe, HARNESS_FORK },
	{ "sthread_join() waits for input", join_waits, HARNESS_FORK },
	{ "one stalls, one spins, a third one is served within a second", nobody_waits, HARNESS_FORK },
	{ "a parked sthread can be killed", kills, HARNESS_FORK },
	{ "a handle is driven by one thread at a time", two_drivers, HARNESS_FORK },
	{ "any thread can kill one that another thread drives", kills_from_elsewhere, HARNESS_FORK },
	{ "parked sthreads go on on any host thread", moving, HARNESS_FORK },
	{ "hundreds are parked at a time", many, HARNESS_FORK, .seconds = 60 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
