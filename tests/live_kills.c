/* live_kills.c - sthread_kill() ends an sthread whatever it is doing, and nothing of it is left behind. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
	ROUNDS = 1000
};

/* What everybody sees, in a tag. */
struct shared {
	cgate_t spinning, reading, held;
	int fd;
	unsigned at; /* grows when a body, or a gate, has come to where it is to be killed */
};

static void arrive(struct shared *shared)
{
	__atomic_fetch_add(&shared->at, 1, __ATOMIC_SEQ_CST);
}

static void *gate_spin(void *argument, void *trusted)
{
	arrive(trusted);
	return body_spin(argument);
}

static void *gate_read(void *argument, void *trusted)
{
	struct shared *shared = trusted;
	char byte;

	(void)argument;
	arrive(shared);
	return (void *)(intptr_t)read(shared->fd, &byte, 1);
}

static void *spin(void *argument)
{
	arrive(argument);
	return body_spin(argument);
}

static void *park(void *argument)
{
	arrive(argument);
	sthread_park();
	return argument;
}

static void *read_for_ever(void *argument)
{
	struct shared *shared = argument;
	char byte;

	arrive(shared);
	return (void *)(intptr_t)read(shared->fd, &byte, 1);
}

static void *call_spinning(void *argument)
{
	return (void *)(intptr_t)cgate_call(((struct shared *)argument)->spinning, NULL, NULL);
}

static void *call_reading(void *argument)
{
	return (void *)(intptr_t)cgate_call(((struct shared *)argument)->reading, NULL, NULL);
}

static void *call_held(void *argument)
{
	struct shared *shared = argument;

	arrive(shared);
	return (void *)(intptr_t)cgate_call(shared->held, NULL, NULL);
}

static const struct state {
	const char *name;
	stcb_t body;
	bool elsewhere; /* another thread drives it */
} states[] = {
	{ "runnable", spin, false },
	{ "parked by sthread_park()", park, false },
	{ "parked in a read", read_for_ever, false },
	{ "running on another thread", spin, true },
	{ "joined by another thread, waiting for input", read_for_ever, true },
	{ "in a gate that computes", call_spinning, true },
	{ "in a gate that waits", call_reading, true },
	{ "waiting for a gate that another thread is in", call_held, true },
};

/* Another host thread: creates and joins what it is told to. */
static struct {
	pthread_t thread;
	sem_t begin, end;
	stcb_t body; /* NULL: stop */
	const sc_t *sc;
	struct shared *shared;
	_Atomic sthread_t st;
	struct life life;
} worker;

static void *work(void *unused)
{
	(void)unused;
	for (;;) {
		sthread_t st;

		sem_wait(&worker.begin);
		if (!worker.body)
			return NULL;
		worker.life = (struct life){ .error = -1 };
		/* The handle must be known while the body runs: create in a state that returns at once. */
		if (sthread_create(&st, worker.sc, worker.body, worker.shared) == 0) {
			worker.st = st;
			worker.life = live_join(st);
		}
		sem_post(&worker.end);
	}
}

static void *hold(void *argument)
{
	return (void *)(intptr_t)cgate_call(((struct shared *)argument)->held, NULL, NULL);
}

static void wait_for(const unsigned *at, unsigned value)
{
	for (double until = live_seconds() + 10.0 * harness_time_scale(); live_seconds() < until; usleep(50))
		if (__atomic_load_n(at, __ATOMIC_SEQ_CST) >= value)
			return;
	live_check(false, __FILE__, __LINE__, "it comes to where it is to be killed");
}

static void kill_round(const struct state *state, const sc_t *sc, struct shared *shared, unsigned round)
{
	unsigned before = __atomic_load_n(&shared->at, __ATOMIC_SEQ_CST);
	struct life life;
	sthread_t st;

	if (!state->elsewhere) {
		ASSERT_EQUAL(sthread_create(&st, sc, state->body, shared), 0);
		ASSERT_EQUAL(sthread_kill(st), 0);
		life = live_join(st);
	} else {
		worker.st = -1;
		worker.body = state->body;
		worker.sc = sc;
		worker.shared = shared;
		sem_post(&worker.begin);
		wait_for(&shared->at, before + 1);
		if (round % 2)
			usleep(round % 7 * 100);
		/* A gate is never sliced: the handle is known to us only from the table of them. */
		for (double until = live_seconds() + 10.0 * harness_time_scale(); live_seconds() < until;) {
			supervisor_lock();
			for (uint32_t i = 0; i < supervisor.sthreads.count && worker.st < 0; i++)
				if (supervisor.sthreads.slots[i].object)
					worker.st = (int)(supervisor.sthreads.slots[i].generation << 18 | i);
			supervisor_unlock();
			if (worker.st >= 0)
				break;
		}
		ASSERT_EQUAL(sthread_kill(worker.st), 0);
		sem_wait(&worker.end);
		life = worker.life;
	}
	live_check_end(&life, STHREAD_KILLED, __FILE__, __LINE__);
	if (life.info.end != STHREAD_KILLED)
		harness_note("%s, round %u", state->name, round);
}

static void every_state(void)
{
	enum {
		STATES = sizeof(states) / sizeof(*states)
	};
	struct sthread_statistics before, after;
	struct shared *shared;
	int pair[2], held[2], fds;
	uint32_t handles;
	pthread_t holder;
	sc_t sc, gate;
	void *result;
	tag_t tag;

	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	ASSERT_EQUAL(pipe(held), 0);
	live_init();
	tag = tag_new();
	shared = smalloc(tag, sizeof(*shared));
	struct shared *holding = smalloc(tag, sizeof(*shared));
	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	sc_fd_add(&sc, pair[1], BOTH);
	sc_copy(&gate, &sc) == 0 ? (void)0 : abort();
	sc_fd_add(&gate, held[0], PROT_READ);
	sc_cpu_budget(&gate, 600000);
	shared->fd = pair[1];
	holding->fd = held[0];
	shared->spinning = cgate_create(gate_spin, &gate, shared);
	shared->reading = cgate_create(gate_read, &gate, shared);
	holding->held = shared->held = cgate_create(gate_read, &gate, holding);
	sc_cgate_add(&sc, shared->spinning);
	sc_cgate_add(&sc, shared->reading);
	sc_cgate_add(&sc, shared->held);
	sem_init(&worker.begin, 0, 0);
	sem_init(&worker.end, 0, 0);
	pthread_create(&worker.thread, NULL, work, NULL);
	pthread_create(&holder, NULL, hold, holding);
	wait_for(&holding->at, 1);
	for (unsigned round = 0; round < 2 * STATES; round++)
		kill_round(&states[round % STATES], &sc, shared, round);
	fds = live_open_fds();
	handles = supervisor.sthreads.count - supervisor.sthreads.free_count;
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	for (unsigned round = 0; round < ROUNDS / harness_time_scale(); round++)
		kill_round(&states[round % STATES], &sc, shared, round);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.frames_used, before.frames_used);
	ASSERT_EQUAL(after.address_spaces, before.address_spaces);
	ASSERT_EQUAL(supervisor.sthreads.count - supervisor.sthreads.free_count, handles);
	ASSERT_EQUAL(live_open_fds(), fds);
	worker.body = NULL;
	sem_post(&worker.begin);
	pthread_join(worker.thread, NULL);
	ASSERT_EQUAL(write(held[1], "x", 1), 1);
	pthread_join(holder, &result);
	ASSERT_EQUAL(result, 0);
	ASSERT_EQUAL(cgate_destroy(shared->spinning), 0); /* nobody is in them */
	ASSERT_EQUAL(cgate_destroy(shared->reading), 0);
	ASSERT_EQUAL(cgate_destroy(shared->held), 0);
	sc_destroy(&sc);
	sc_destroy(&gate);
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

static const struct harness_test tests[] = {
	{ "an sthread can be killed in every state, a thousand times, and leaves nothing behind", every_state,
	  HARNESS_FORK, .seconds = 120 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
