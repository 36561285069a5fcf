/*
 * live_input.c - what a life leaves under way in a virtual CPU is not finished in the memory of a later one.
 *
 * An IN of strings that has exited still has to store what came.  The life is over, its address space is put back to pristine
 * and serves another one: if that were the moment, it would store there (law 5; live_pending.c has the registers).
 */
#include <pthread.h>
#include <string.h>

#include "live.h"
#include "kvm/vcpu.h"
#include "supervisor.h"

enum {
	PAGE = 4096,
	PORT = 0x10, /* one that ring 3 may use where the I/O bitmap is honoured */
	INPUT = 512, /* bytes */
	MARK = 0x77
};
static uint8_t marked[2 * PAGE] __attribute__((aligned(PAGE))) = { 1 };

enum input {
	LOOK_ONLY,
	LEAVE,
	PARK
};

/* Counts what has changed where a life leaves an input from a port under way, which is to be stored there.  One function, so
 * that all such lives have one address space. */
static void *leave_input(void *what)
{
	uint8_t *to = marked + PAGE / 2;
	uint64_t count = INPUT, changed = 0;

	*(volatile uint8_t *)marked = 2; /* so that the page is the space's own */
	if ((uintptr_t)what == PARK)
		sthread_park();
	for (int i = 0; i < INPUT; i++)
		changed += to[i] != MARK;
	if ((uintptr_t)what == LEAVE)
		__asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(PORT) : "memory");
	return (void *)changed;
}

static pthread_barrier_t input_turn;

/* A thread whose virtual CPU has an input under way. */
static void *leave_on_another(void *unused)
{
	struct life life = live_run_bare(leave_input, (void *)LEAVE);

	(void)unused;
	CU_ASSERT(life.error != 0);
	pthread_barrier_wait(&input_turn);
	pthread_barrier_wait(&input_turn); /* until a life has begun in the same space */
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)2), 2);
	pthread_barrier_wait(&input_turn);
	return NULL;
}

/* With the completion put off, it is: where KVM keeps what is under way, and ring 3 has the ports. */
static void it_would_be_stored(void)
{
	unsigned changed = 0;

	memset(marked, MARK, sizeof(marked));
	live_init();
	ASSERT_RETURNED(live_run_bare(leave_input, (void *)LOOK_ONLY), 0);
	dune_vcpu_get(supervisor.machine)->leaves_pending = true;
	for (int i = 0; i < 10; i++) {
		CU_ASSERT(live_run_bare(leave_input, (void *)LEAVE).error != 0);
		changed += (uintptr_t)live_run_bare(leave_input, (void *)LOOK_ONLY).value;
	}
	harness_note("%u bytes of later lives change if an input is finished later", changed);
	CU_ASSERT(changed > 0 || !live_io_exit() || live_from_ring0());
}

static void nothing_under_way(void)
{
	pthread_t thread;
	sthread_t st;
	sc_t sc;

	memset(marked, MARK, sizeof(marked));
	live_init();
	ASSERT_RETURNED(live_run_bare(leave_input, (void *)LOOK_ONLY), 0);
	for (int i = 0; i < 10; i++) {
		CU_ASSERT(live_run_bare(leave_input, (void *)LEAVE).error != 0);
		ASSERT_RETURNED(live_run_bare(leave_input, (void *)LOOK_ONLY), 0);
	}
	/* The other thread's virtual CPU is used again only while a life is under way in the space. */
	sc_init(&sc);
	ASSERT_EQUAL(pthread_barrier_init(&input_turn, NULL, 2), 0);
	ASSERT_EQUAL(pthread_create(&thread, NULL, leave_on_another, NULL), 0);
	pthread_barrier_wait(&input_turn);
	ASSERT_EQUAL(live_create(&st, &sc, leave_input, (void *)PARK), 0);
	pthread_barrier_wait(&input_turn);
	pthread_barrier_wait(&input_turn);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_RETURNED(live_join(st), 0);
	pthread_join(thread, NULL);
}

static const struct harness_test tests[] = {
	{ "an input that a life leaves under way is not stored into the next life of its address space",
	  nothing_under_way, HARNESS_FORK },
	{ "control: it would be, if it were finished later", it_would_be_stored, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
