/* live_events.c - sthreads on a libevent loop: they wait, compute, sleep and end there, and none is in another's way. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <event2/event.h>

#include "live.h"
#include "sthread_event.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

/* ---- bodies ------------------------------------------------------------------------------------------------------ */

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

static void *count_parks(void *times)
{
	for (uintptr_t i = 0; i < (uintptr_t)times; i++)
		if (sthread_park() != 0)
			return NULL;
	return times;
}

static void *sleep_for(void *milliseconds)
{
	struct timespec time = { .tv_nsec = (long)(intptr_t)milliseconds * 1000 * 1000 };

	return (void *)(intptr_t)(nanosleep(&time, NULL) == 0 ? 1 : -1);
}

/* ---- what came --------------------------------------------------------------------------------------------------- */

static struct event_base *loop;

struct one {
	struct sthread_event *event;
	unsigned calls;
	void *result;
	struct sthread_info info;
	bool keep; /* do not free it in the callback */
};

static unsigned ended;

static void note(struct sthread_event *event, void *result, const struct sthread_info *info, void *argument)
{
	struct one *one = argument;

	one->calls++;
	one->result = result;
	one->info = *info;
	ended++;
	if (!one->keep)
		sthread_event_free(event);
}

static bool begin(struct one *one, const sc_t *sc, stcb_t body, void *argument)
{
	one->event = sthread_event_new(loop, sc, body, argument, note, one);
	live_check(one->event != NULL, __FILE__, __LINE__, "sthread_event_new(): %s", sthread_error());
	return one->event != NULL;
}

static void give_up(evutil_socket_t unused, short what, void *argument)
{
	(void)unused, (void)what, (void)argument;
	live_check(false, __FILE__, __LINE__, "the loop comes to an end in time");
	event_base_loopbreak(loop);
}

/* Runs the loop until so many have ended. */
static void run_until(unsigned count)
{
	struct timeval limit = { .tv_sec = 20 * harness_time_scale() };
	struct event *timer = evtimer_new(loop, give_up, NULL);

	evtimer_add(timer, &limit);
	while (ended < count && !event_base_got_break(loop))
		if (event_base_loop(loop, EVLOOP_ONCE) != 0)
			break;
	event_free(timer);
	ASSERT_EQUAL(ended, count);
}

/* Some rounds of the loop, whatever comes. */
static void run_rounds(unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++)
		event_base_loop(loop, EVLOOP_ONCE | EVLOOP_NONBLOCK);
}

static void start(void)
{
	ended = 0;
	live_init();
	loop = event_base_new();
	CU_ASSERT_PTR_NOT_NULL_FATAL(loop);
}

/* ---- clients ----------------------------------------------------------------------------------------------------- */

/* The other end of a socket pair: sends, waits for what comes back, sends again, shuts down. */
struct client {
	int fd, theirs;
	unsigned rounds, done;
	struct event *readable;
	struct one one;
};

static void converse(evutil_socket_t fd, short what, void *argument)
{
	struct client *client = argument;
	char text[5];

	(void)what;
	if (recv(fd, text, sizeof(text), MSG_DONTWAIT) != sizeof(text) || memcmp(text, "hello", 5) != 0) {
		live_check(false, __FILE__, __LINE__, "what was sent comes back");
		event_base_loopbreak(loop);
		return;
	}
	if (++client->done < client->rounds)
		ASSERT_EQUAL(send(fd, "hello", 5, 0), 5);
	else
		shutdown(fd, SHUT_WR);
}

static void open_client(struct client *client, unsigned rounds)
{
	int pair[2];
	sc_t sc;

	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	*client = (struct client){ .fd = pair[0], .theirs = pair[1], .rounds = rounds };
	client->readable = event_new(loop, pair[0], EV_READ | EV_PERSIST, converse, client);
	event_add(client->readable, NULL);
	ASSERT_EQUAL(send(pair[0], "hello", 5, 0), 5);
	sc_init(&sc);
	sc_fd_add(&sc, pair[1], BOTH);
	begin(&client->one, &sc, echo, (void *)(intptr_t)pair[1]);
	sc_destroy(&sc);
}

static void close_client(struct client *client)
{
	event_free(client->readable);
	close(client->fd);
	close(client->theirs);
}

static void a_hundred(void)
{
	enum {
		COUNT = 100,
		ROUNDS = 10
	};
	static struct client clients[COUNT];
	struct sthread_statistics before, after;
	int fds;

	start();
	fds = live_open_fds();
	for (int pass = 0; pass < 2; pass++) {
		ended = 0;
		for (int i = 0; i < COUNT; i++)
			open_client(&clients[i], ROUNDS);
		ASSERT_EQUAL(ended, 0);
		run_until(COUNT);
		for (int i = 0; i < COUNT; i++) {
			ASSERT_EQUAL(clients[i].one.calls, 1);
			ASSERT_EQUAL(clients[i].one.info.end, STHREAD_RETURNED);
			ASSERT_EQUAL(clients[i].one.result, 5 * ROUNDS);
			close_client(&clients[i]);
		}
		ASSERT_EQUAL(sthread_statistics(pass ? &after : &before), 0);
	}
	ASSERT_EQUAL(live_open_fds(), fds);
	ASSERT_EQUAL(after.frames_used, before.frames_used);
	event_base_free(loop);
}

static void runaways(void)
{
	enum {
		CLIENTS = 20,
		RUNAWAYS = 3
	};
	static struct client clients[CLIENTS];
	struct one spinning[RUNAWAYS] = { 0 };
	sc_t sc;

	start();
	sc_init(&sc);
	sc_cpu_budget(&sc, 600000);
	for (int i = 0; i < RUNAWAYS; i++)
		begin(&spinning[i], &sc, body_spin, NULL);
	for (int i = 0; i < CLIENTS; i++)
		open_client(&clients[i], 5);
	run_until(CLIENTS);
	for (int i = 0; i < CLIENTS; i++) {
		ASSERT_EQUAL(clients[i].one.result, 25);
		close_client(&clients[i]);
	}
	/* All of them had turns. */
	for (int i = 0; i < RUNAWAYS; i++) {
		struct sthread_info info;

		ASSERT_EQUAL(spinning[i].calls, 0);
		ASSERT_EQUAL(sthread_get_info(sthread_event_sthread(spinning[i].event), &info), 0);
		CU_ASSERT(info.run_nanoseconds >= 15 * 1000 * 1000);
		ASSERT_EQUAL(sthread_event_cancel(spinning[i].event), 0);
	}
	run_until(CLIENTS + RUNAWAYS);
	for (int i = 0; i < RUNAWAYS; i++)
		ASSERT_EQUAL(spinning[i].info.end, STHREAD_KILLED);
	event_base_free(loop);
}

/* Looks in each round of the loop which of them have run since. */
struct look {
	struct one one[8];
	uint64_t exits[8];
	unsigned rounds, most;
};

static void look_at_them(evutil_socket_t unused, short what, void *argument)
{
	struct look *look = argument;
	unsigned ran = 0;

	(void)unused, (void)what;
	look->rounds++;
	for (int i = 0; i < 8; i++) {
		struct sthread_info info;

		if (look->one[i].calls || sthread_event_sthread(look->one[i].event) < 0)
			continue;
		ASSERT_EQUAL(sthread_get_info(sthread_event_sthread(look->one[i].event), &info), 0);
		ran += info.exits != look->exits[i];
		look->exits[i] = info.exits;
	}
	if (ran > look->most)
		look->most = ran;
}

/* However many compute, the loop gets its turn after each slice. */
static void loop_between_slices(void)
{
	static struct look look;
	struct timeval often = { .tv_usec = 1 };
	struct event *looking;
	sc_t sc;

	start();
	sc_init(&sc);
	sc_cpu_budget(&sc, 50 * harness_time_scale());
	looking = event_new(loop, -1, EV_PERSIST, look_at_them, &look);
	for (int i = 0; i < 8; i++)
		begin(&look.one[i], &sc, body_spin, NULL);
	look_at_them(-1, 0, &look); /* all have had their first slice */
	look.most = look.rounds = 0;
	event_add(looking, &often);
	run_until(8);
	event_free(looking);
	for (int i = 0; i < 8; i++)
		ASSERT_EQUAL(look.one[i].info.end, STHREAD_OUT_OF_CPU);
	/* One before the look and one after the look before. */
	live_check(look.most >= 1 && look.most <= 2, __FILE__, __LINE__, "%u ran in one round of %u", look.most,
		   look.rounds);
	CU_ASSERT(look.rounds >= 8);
	event_base_free(loop);
}

static double after_milliseconds(double began)
{
	return (live_seconds() - began) * 1000;
}

static void times(void)
{
	struct one sleeping = { 0 }, reading = { 0 }, parked = { 0 }, spinning = { 0 };
	double began;
	int pair[2];
	sc_t sc;

	start();
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	sc_init(&sc);
	began = live_seconds();
	begin(&sleeping, &sc, sleep_for, (void *)100);
	run_until(1);
	ASSERT_EQUAL(sleeping.result, 1);
	CU_ASSERT(after_milliseconds(began) >= 100);

	sc_fd_add(&sc, pair[1], BOTH);
	sc_wall_budget(&sc, 60 * harness_time_scale());
	began = live_seconds();
	begin(&reading, &sc, echo, (void *)(intptr_t)pair[1]);
	begin(&parked, &sc, count_parks, (void *)3);
	begin(&spinning, &sc, body_spin, NULL);
	run_until(4);
	CU_ASSERT(after_milliseconds(began) >= 60 * harness_time_scale());
	ASSERT_EQUAL(reading.info.end, STHREAD_OUT_OF_TIME);
	ASSERT_EQUAL(parked.info.end, STHREAD_OUT_OF_TIME);
	ASSERT_EQUAL(parked.info.parks, 1);
	ASSERT_EQUAL(spinning.info.end, STHREAD_OUT_OF_TIME);
	sc_destroy(&sc);
	event_base_free(loop);
}

static void resumes(void)
{
	struct one parked = { .keep = true };
	struct sthread_info info;
	sc_t sc;

	start();
	sc_init(&sc);
	begin(&parked, &sc, count_parks, (void *)4);
	run_rounds(20);
	ASSERT_EQUAL(sthread_get_info(sthread_event_sthread(parked.event), &info), 0);
	ASSERT_EQUAL(info.parks, 1);
	for (int i = 0; i < 2; i++) {
		ASSERT_EQUAL(sthread_event_resume(parked.event), 0);
		ASSERT_EQUAL(sthread_event_resume(parked.event), 0); /* once */
		run_rounds(50 * harness_time_scale());
		ASSERT_EQUAL(sthread_get_info(sthread_event_sthread(parked.event), &info), 0);
		ASSERT_EQUAL(info.parks, i + 2);
	}
	ASSERT_EQUAL(parked.calls, 0);
	ASSERT_EQUAL(sthread_event_resume(parked.event), 0);
	run_rounds(50 * harness_time_scale());
	ASSERT_EQUAL(sthread_event_resume(parked.event), 0);
	run_until(1);
	ASSERT_EQUAL(parked.result, 4);
	ASSERT_ERROR(sthread_event_resume(parked.event) == -1, EALREADY);
	ASSERT_ERROR(sthread_event_cancel(parked.event) == -1, EALREADY);
	ASSERT_ERROR(sthread_event_sthread(parked.event) == -1, EALREADY);
	sthread_event_free(parked.event);
	ASSERT_EQUAL(parked.calls, 1);
	event_base_free(loop);
}

/* A body that is told by a tag when it may park. */
static void *spin_then_park(void *flag)
{
	while (!__atomic_load_n((int *)flag, __ATOMIC_SEQ_CST))
		;
	sthread_park();
	return (void *)1;
}

static void resume_that_comes_first(void)
{
	struct one one = { 0 };
	tag_t tag;
	int *flag;
	sc_t sc;

	start();
	tag = tag_new();
	flag = smalloc(tag, sizeof(*flag));
	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	begin(&one, &sc, spin_then_park, flag);
	run_rounds(3);
	ASSERT_EQUAL(sthread_event_resume(one.event), 0);
	run_rounds(3);
	__atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
	run_until(1);
	ASSERT_EQUAL(one.info.end, STHREAD_RETURNED);
	ASSERT_EQUAL(one.info.address, 0);
	ASSERT_EQUAL(one.result, 1);
	event_base_free(loop);
}

/* ---- ends -------------------------------------------------------------------------------------------------------- */

static void every_state(void)
{
	static const struct {
		stcb_t body;
		void *argument; /* NULL: the socket */
		bool over;      /* it has ended by itself */
	} states[] = {
		{ body_spin, (void *)1, false },   { echo, NULL, false },
		{ count_parks, (void *)3, false }, { sleep_for, (void *)900, false },
		{ body_nothing, (void *)7, true },
	};
	struct sthread_statistics before, after;
	int pair[2], fds = 0;
	sc_t sc;

	start();
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	sc_init(&sc);
	sc_fd_add(&sc, pair[1], BOTH);
	for (int pass = 0; pass < 10; pass++) {
		for (size_t i = 0; i < sizeof(states) / sizeof(*states); i++)
			for (int way = 0; way < 3; way++) {
				struct one one = { 0 };
				void *argument = states[i].argument ? states[i].argument : (void *)(intptr_t)pair[1];

				ended = 0;
				if (!begin(&one, &sc, states[i].body, argument))
					continue;
				/* On a slow machine it has not in its first slice. */
				bool over = states[i].over && sthread_event_sthread(one.event) < 0;

				if (way == 2 && !states[i].over)
					run_rounds(2); /* it waits in the loop, or is queued */
				if (over) {
					ASSERT_ERROR(sthread_event_cancel(one.event) == -1, EALREADY);
				} else if (way) {
					ASSERT_EQUAL(sthread_event_cancel(one.event), 0);
					ASSERT_ERROR(sthread_event_cancel(one.event) == -1, EALREADY);
				}
				ASSERT_EQUAL(one.calls, 0);
				if (way == 0) {
					sthread_event_free(one.event);
					run_rounds(2);
					ASSERT_EQUAL(one.calls, 0);
					continue;
				}
				run_until(1);
				ASSERT_EQUAL(one.info.end, over ? STHREAD_RETURNED : STHREAD_KILLED);
				ASSERT_EQUAL(one.result, over ? 7 : 0);
			}
		if (pass == 2) {
			fds = live_open_fds();
			ASSERT_EQUAL(sthread_statistics(&before), 0);
		}
	}
	ASSERT_EQUAL(live_open_fds(), fds);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.frames_used, before.frames_used);
	ASSERT_EQUAL(after.address_spaces, before.address_spaces);
	/* Nothing waits in the loop any more. */
	ASSERT_EQUAL(event_base_dispatch(loop), 1);
	sc_destroy(&sc);
	event_base_free(loop);
}

struct chain {
	struct one one;
	const sc_t *sc;
	struct sthread_event *other;
	unsigned left;
};

static void next_in_chain(struct sthread_event *event, void *result, const struct sthread_info *info, void *argument)
{
	struct chain *chain = argument;

	ASSERT_EQUAL(info->end, STHREAD_RETURNED);
	ASSERT_EQUAL(result, chain->left);
	sthread_event_free(event);
	sthread_event_free(chain->other);
	chain->other = NULL;
	ended++;
	if (--chain->left == 0)
		return;
	chain->other = sthread_event_new(loop, chain->sc, count_parks, (void *)1, next_in_chain, chain);
	CU_ASSERT_PTR_NOT_NULL(
		sthread_event_new(loop, chain->sc, body_nothing, (void *)(uintptr_t)chain->left, next_in_chain, chain));
}

/* The last adaptor of a loop is freed in a callback, and a new one made there. */
static void chains(void)
{
	struct chain chain = { .left = 20 };
	sc_t sc;

	start();
	sc_init(&sc);
	chain.sc = &sc;
	CU_ASSERT_PTR_NOT_NULL(sthread_event_new(loop, &sc, body_nothing, (void *)20, next_in_chain, &chain));
	run_until(20);
	ASSERT_EQUAL(event_base_dispatch(loop), 1);
	event_base_free(loop);
}

static void faults(void)
{
	struct one one = { 0 }, other = { 0 };
	sc_t sc;

	start();
	sc_init(&sc);
	begin(&one, &sc, body_read, (void *)0x2000);
	begin(&other, &sc, body_nothing, (void *)3);
	run_until(2);
	ASSERT_EQUAL(one.info.end, STHREAD_FAULTED);
	ASSERT_EQUAL(one.info.address, 0x2000);
	ASSERT_EQUAL(one.result, 0);
	ASSERT_EQUAL(other.result, 3);
	event_base_free(loop);
}

static void *new_inside(void *base)
{
	sc_t sc;

	sc_init(&sc);
	errno = 0;
	return (void *)(intptr_t)(sthread_event_new(base, &sc, body_nothing, NULL, note, NULL) ? -1 : errno);
}

static void misuse(void)
{
	struct one one = { 0 };
	sc_t sc, garbage;

	loop = event_base_new();
	sc_init(&sc);
	ASSERT_ERROR(sthread_event_new(loop, &sc, body_nothing, NULL, note, &one) == NULL, EPERM);
	event_base_free(loop);
	start();
	memset(&garbage, 0xee, sizeof(garbage));
	ASSERT_ERROR(sthread_event_new(NULL, &sc, body_nothing, NULL, note, &one) == NULL, EINVAL);
	ASSERT_ERROR(sthread_event_new(loop, NULL, body_nothing, NULL, note, &one) == NULL, EINVAL);
	ASSERT_ERROR(sthread_event_new(loop, &garbage, body_nothing, NULL, note, &one) == NULL, EINVAL);
	ASSERT_ERROR(sthread_event_new(loop, &sc, NULL, NULL, note, &one) == NULL, EINVAL);
	ASSERT_ERROR(sthread_event_new(loop, &sc, body_nothing, NULL, NULL, &one) == NULL, EINVAL);
	ASSERT_ERROR(sthread_event_new(loop, &sc, (stcb_t)(uintptr_t)&sc, NULL, note, &one) == NULL, EINVAL);
	sc_mem_add(&sc, 12345, PROT_READ);
	ASSERT_ERROR(sthread_event_new(loop, &sc, body_nothing, NULL, note, &one) == NULL, EBADF);
	ASSERT_ERROR(sthread_event_resume(NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_event_cancel(NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_event_sthread(NULL) == -1, EINVAL);
	sthread_event_free(NULL);
	ASSERT_EQUAL(event_base_dispatch(loop), 1);
	ASSERT_RETURNED(live_run_bare(new_inside, loop), EPERM);
	sc_init(&sc);
	begin(&one, &sc, body_nothing, (void *)3);
	run_until(1);
	ASSERT_EQUAL(one.result, 3);
	event_base_free(loop);
}

static const struct harness_test tests[] = {
	{ "a hundred sthreads echo in one loop", a_hundred, HARNESS_FORK, .seconds = 60 },
	{ "some that compute do not stop the others", runaways, HARNESS_FORK },
	{ "the loop has its turn after each slice", loop_between_slices, HARNESS_FORK },
	{ "sleeps and wall budgets end in the loop", times, HARNESS_FORK },
	{ "a parked sthread goes on when it is resumed, once", resumes, HARNESS_FORK },
	{ "a resume that comes before sthread_park() is not lost", resume_that_comes_first, HARNESS_FORK },
	{ "an sthread is cancelled or freed in every state, and leaves nothing behind", every_state, HARNESS_FORK,
	  .seconds = 60 },
	{ "a callback may free adaptors and make new ones", chains, HARNESS_FORK },
	{ "a fault is told to the callback, and to nobody else", faults, HARNESS_FORK },
	{ "wrong calls are refused", misuse, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
