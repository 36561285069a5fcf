/*
 * live_stress.c - eight host threads do everything at once, at random: they create sthreads, step, kill and join each
 * other's, delete tags that are in use, and call gates.  Each life must end in a way that it can end in, and nothing may
 * be left in the end.  STRESS_ROUNDS and STRESS_SEED in the environment make it longer, or another one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum {
	THREADS = 8,
	ROUNDS = 300,
	SLOTS = 48,
	TAGS = 12,
	BOTH = PROT_READ | PROT_WRITE,
	WORDS = 64
};

/* ---- bodies ------------------------------------------------------------------------------------------------------ */

static void *park_some(void *times)
{
	for (uintptr_t i = 0; i < (uintptr_t)times; i++)
		if (sthread_park() != 0)
			return NULL;
	return times;
}

/* A block in a tag that others may delete.  Whoever is in it sees his own signature, which no other life has, or nothing
 * at all: also when the memory has been given to another tag meanwhile. */
static void *use_tag(void *block)
{
	volatile uint64_t *words = block;
	uint64_t signature = (uint64_t)getpid() << 32;

	for (int round = 0; round < 2000; round++) {
		for (int i = 0; i < WORDS; i++)
			words[i] = signature + (unsigned)i;
		if (round % 1000 == 500)
			sthread_park();
		for (int i = 0; i < WORDS; i++)
			if (words[i] != signature + (unsigned)i)
				return (void *)0xbad;
	}
	return block;
}

static void *call_gate(void *gate)
{
	void *answer = NULL;

	if (cgate_call((cgate_t)(intptr_t)gate, (void *)20, &answer) != 0)
		return (void *)(intptr_t)-errno;
	return answer;
}

static void *add_one(void *argument, void *trusted)
{
	return (void *)((uintptr_t)argument + (uintptr_t)trusted);
}

static void *read_socket(void *fd)
{
	char byte;

	return (void *)read((int)(intptr_t)fd, &byte, 1);
}

/* ---- what there is ----------------------------------------------------------------------------------------------- */

enum kind {
	RETURNS,
	PARKS,
	SPINS,
	FAULTS,
	USES_TAG,
	CALLS,
	READS,
	KINDS
};

/* An sthread that any thread may take.  Its handle may be used meanwhile, too, to step or kill it. */
struct slot {
	bool used, taken;
	bool killed; /* somebody tried */
	enum kind kind;
	sthread_t st;
	void *expected;
};

static struct {
	pthread_mutex_t lock;
	struct slot slots[SLOTS];
	tag_t tags[TAGS];
	cgate_t gate;
	int socket;
	unsigned rounds, seed;
	unsigned lives, killed, deleted; /* counters */
	unsigned wrong;                  /* lives that ended as they cannot */
} world = { .lock = PTHREAD_MUTEX_INITIALIZER };

static unsigned choose(unsigned *state, unsigned count)
{
	*state = *state * 1664525 + 1013904223;
	return (*state >> 8) % count;
}

static void wrong(const char *what, const struct slot *slot, const struct life *life)
{
	harness_note("%s: kind %d, error %d, end %d, value %p, address %#llx, vector %u", what,
		     slot ? (int)slot->kind : -1, life->error, (int)life->info.end, life->value,
		     (unsigned long long)life->info.address, life->info.vector);
	__atomic_fetch_add(&world.wrong, 1, __ATOMIC_SEQ_CST);
}

/* ---- what is done ------------------------------------------------------------------------------------------------ */

static void create(unsigned *state)
{
	static const stcb_t bodies[] = {
		body_nothing, park_some, body_spin, body_read, use_tag, call_gate, read_socket
	};
	struct slot made = { .used = true, .kind = (enum kind)choose(state, KINDS), .expected = (void *)5 };
	tag_t tag = -1;
	sc_t sc;

	sc_init(&sc);
	switch (made.kind) {
	case PARKS:
		made.expected = (void *)(uintptr_t)(1 + choose(state, 3));
		break;
	case SPINS:
		sc_cpu_budget(&sc, 3);
		break;
	case FAULTS:
		made.expected = (void *)0x2000;
		break;
	case USES_TAG:
		pthread_mutex_lock(&world.lock);
		tag = world.tags[choose(state, TAGS)];
		pthread_mutex_unlock(&world.lock);
		made.expected = smalloc(tag, WORDS * sizeof(uint64_t));
		if (!made.expected || sc_mem_add(&sc, tag, BOTH) != 0)
			return; /* it has just been deleted */
		break;
	case CALLS:
		sc_cgate_add(&sc, world.gate);
		made.expected = (void *)(intptr_t)world.gate;
		break;
	case READS:
		sc_fd_add(&sc, world.socket, PROT_READ);
		if (choose(state, 2))
			sc_wall_budget(&sc, 20);
		made.expected = (void *)(intptr_t)world.socket;
		break;
	default:
		break;
	}
	int error = sthread_create(&made.st, &sc, bodies[made.kind], made.expected) == 0 ? 0 : errno;

	sc_destroy(&sc);
	if (error) {
		struct life life = { .error = error };

		if (!(made.kind == USES_TAG && error == EBADF))
			wrong("sthread_create() fails", &made, &life);
		return;
	}
	__atomic_fetch_add(&world.lives, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&world.lock);
	for (unsigned i = 0; i < SLOTS && made.used; i++)
		if (!world.slots[i].used) {
			world.slots[i] = made;
			made.used = false;
		}
	pthread_mutex_unlock(&world.lock);
	if (made.used) { /* no room: it goes at once */
		struct life life;

		(void)!sthread_kill(made.st);
		life = live_join(made.st);
		if (life.error && life.error != ECANCELED)
			wrong("sthread_join() fails", &made, &life);
	}
}

static bool could_end_so(const struct slot *slot, const struct life *life)
{
	if (slot->killed && life->info.end == STHREAD_KILLED)
		return true;
	switch (slot->kind) {
	case RETURNS:
	case PARKS:
		return !life->error && life->value == slot->expected;
	case SPINS:
		return life->info.end == STHREAD_OUT_OF_CPU;
	case FAULTS:
		return life->info.end == STHREAD_FAULTED && life->info.address == 0x2000;
	case USES_TAG:
		return (!life->error && life->value == slot->expected) ||
		       (life->info.end == STHREAD_FAULTED &&
			life->info.address - (uintptr_t)slot->expected < WORDS * sizeof(uint64_t));
	case CALLS:
		return !life->error && (life->value == (void *)21 || life->value == (void *)(intptr_t)-EBUSY);
	case READS:
	default:
		return life->info.end == STHREAD_OUT_OF_TIME;
	}
}

/* Takes an sthread and drives it to its end. */
static void finish(struct slot *slot, struct slot taken, bool kill)
{
	struct life life;
	int fd;

	if (taken.kind == READS) {
		uint64_t deadline = 0;

		/* Others may be in it for a moment. */
		while (sthread_wall_deadline(taken.st, &deadline) != 0 && errno == EBUSY)
			;
		kill = kill || !deadline; /* nobody writes to it */
	}
	if (kill) {
		pthread_mutex_lock(&world.lock);
		slot->killed = true;
		pthread_mutex_unlock(&world.lock);
		(void)!sthread_kill(taken.st);
		__atomic_fetch_add(&world.killed, 1, __ATOMIC_SEQ_CST);
	}
	for (;;) {
		life = live_join(taken.st);
		if (life.error == EDEADLK && sthread_wait_fd(taken.st, &fd, NULL) == 0 && fd < 0)
			(void)!sthread_step(taken.st);
		else if (life.error != EBUSY && life.error != EDEADLK)
			break;
	}
	pthread_mutex_lock(&world.lock);
	taken = *slot;
	slot->used = slot->taken = false;
	pthread_mutex_unlock(&world.lock);
	if ((life.error && life.error != ECANCELED) || !could_end_so(&taken, &life))
		wrong("an end that cannot be", &taken, &life);
}

static void visit(unsigned *state)
{
	struct slot *slot = &world.slots[choose(state, SLOTS)], seen;
	unsigned what = choose(state, 6);
	struct life life = { 0 };

	pthread_mutex_lock(&world.lock);
	bool take = what < 4 && slot->used && !slot->taken;

	seen = *slot;
	if (take)
		slot->taken = true;
	else if (what == 4 && slot->used)
		slot->killed = true;
	pthread_mutex_unlock(&world.lock);
	if (!seen.used)
		return;
	if (take) {
		finish(slot, seen, what == 0);
		return;
	}
	/* It may be somebody else's now, or gone. */
	if ((what == 4 ? sthread_kill(seen.st) : sthread_step(seen.st)) != 0 && errno != EBADF && errno != EBUSY) {
		life.error = errno;
		wrong("a stranger's call", &seen, &life);
	}
}

static void replace_tag(unsigned *state)
{
	tag_t made = tag_new(), old;

	pthread_mutex_lock(&world.lock);
	tag_t *place = &world.tags[choose(state, TAGS)];

	old = *place;
	*place = made;
	pthread_mutex_unlock(&world.lock);
	if (made < 0 || tag_delete(old) != 0) {
		struct life life = { .error = errno };

		wrong("a tag", NULL, &life);
	}
	__atomic_fetch_add(&world.deleted, 1, __ATOMIC_SEQ_CST);
}

static void call_from_host(void)
{
	void *answer = NULL;
	struct life life = { 0 };

	if (cgate_call(world.gate, (void *)1, &answer) != 0)
		life.error = errno;
	if (life.error ? life.error != EBUSY : answer != (void *)2)
		wrong("a gate call", NULL, &life);
}

static void *work(void *argument)
{
	unsigned state = world.seed * 31 + (unsigned)(uintptr_t)argument;

	for (unsigned round = 0; round < world.rounds; round++)
		switch (choose(&state, 10)) {
		case 0:
			replace_tag(&state);
			break;
		case 1:
			call_from_host();
			break;
		case 2:
		case 3:
		case 4:
			create(&state);
			break;
		default:
			visit(&state);
			break;
		}
	return NULL;
}

static unsigned from_environment(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);

	return text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

static void everything(void)
{
	pthread_t threads[THREADS];
	struct sthread_statistics statistics;
	int pair[2], fds;
	unsigned left = 0;
	sc_t sc;

	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	live_init();
	world.socket = pair[1];
	world.rounds = from_environment("STRESS_ROUNDS", ROUNDS / harness_time_scale());
	world.seed = from_environment("STRESS_SEED", 1);
	sc_init(&sc);
	world.gate = cgate_create(add_one, &sc, (void *)1);
	for (int i = 0; i < TAGS; i++)
		world.tags[i] = tag_new();
	ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)5), 5);
	fds = live_open_fds();
	for (uintptr_t i = 0; i < THREADS; i++)
		ASSERT_EQUAL(pthread_create(&threads[i], NULL, work, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < SLOTS; i++)
		if (world.slots[i].used)
			finish(&world.slots[i], world.slots[i], false);
	harness_note("%u lives, %u killed, %u tags deleted", world.lives, world.killed, world.deleted);
	ASSERT_EQUAL(world.wrong, 0);
	CU_ASSERT(world.lives > 0);

	/* Nothing is left: no handle, no descriptor but the virtual CPUs', no address space beyond those needed at once. */
	for (uint32_t i = 0; i < supervisor.sthreads.count; i++)
		left += supervisor.sthreads.slots[i].object != NULL;
	ASSERT_EQUAL(left, 0);
	live_check(live_open_fds() <= fds + THREADS, __FILE__, __LINE__, "%d descriptors are left of %d",
		   live_open_fds(), fds);
	ASSERT_EQUAL(supervisor.files_open, 0);
	ASSERT_EQUAL(cgate_destroy(world.gate), 0);
	for (int i = 0; i < TAGS; i++)
		ASSERT_EQUAL(tag_delete(world.tags[i]), 0);
	ASSERT_EQUAL(sthread_statistics(&statistics), 0);
	live_check(statistics.address_spaces <= 64 + SLOTS + 2 * THREADS, __FILE__, __LINE__,
		   "%llu address spaces were made", (unsigned long long)statistics.address_spaces);
	ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)6), 6);
}

static const struct harness_test tests[] = {
	{ "eight threads do everything at once, and each sthread ends as it can", everything, HARNESS_FORK,
	  .seconds = 120 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
