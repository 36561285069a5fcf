/* live_waiting.c - calls that wait: for a time, for one descriptor, for several. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "live.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};
#define MILLISECOND ((uint64_t)1000000)

/* A body returns 1, or the line that failed. */
#define REQUIRE(condition)                         \
	do {                                       \
		if (!(condition))                  \
			return (void *)(__LINE__); \
	} while (0)

static uint64_t monotonic(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000 * MILLISECOND + (uint64_t)time.tv_nsec;
}

static enum sthread_state state_of(sthread_t st)
{
	enum sthread_state state = STHREAD_ENDED;

	ASSERT_EQUAL(sthread_state(st, &state), 0);
	return state;
}

/* ---- for a time -------------------------------------------------------------------------------------------------- */

static void *sleep_some(void *milliseconds)
{
	uint64_t wanted = (uintptr_t)milliseconds * MILLISECOND, before = monotonic();
	struct timespec time = { .tv_sec = (time_t)(wanted / (1000 * MILLISECOND)),
				 .tv_nsec = (long)(wanted % (1000 * MILLISECOND)) };

	REQUIRE(nanosleep(&time, &time) == 0);
	REQUIRE(monotonic() - before >= wanted);
	return (void *)1;
}

static void *sleep_until(void *milliseconds)
{
	uint64_t wanted = (uintptr_t)milliseconds * MILLISECOND;
	static const clockid_t clocks[] = { CLOCK_MONOTONIC, CLOCK_REALTIME };

	for (int i = 0; i < 2; i++) {
		struct timespec until, after;

		clock_gettime(clocks[i], &until);
		until.tv_nsec += (long)wanted;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		REQUIRE(clock_nanosleep(clocks[i], TIMER_ABSTIME, &until, NULL) == 0);
		clock_gettime(clocks[i], &after);
		REQUIRE(after.tv_sec > until.tv_sec ||
			(after.tv_sec == until.tv_sec && after.tv_nsec >= until.tv_nsec));
		REQUIRE(clock_nanosleep(clocks[i], TIMER_ABSTIME, &until, NULL) == 0); /* over already */
	}
	return (void *)1;
}

static void *sleep_wrongly(void *unused)
{
	struct timespec bad = { .tv_nsec = 1000000000 }, negative = { .tv_sec = -1 }, zero = { 0 };

	(void)unused;
	REQUIRE(nanosleep(&bad, NULL) == -1 && errno == EINVAL);
	REQUIRE(nanosleep(&negative, NULL) == -1 && errno == EINVAL);
	REQUIRE(nanosleep((void *)16, NULL) == -1 && errno == EFAULT);
	REQUIRE(nanosleep(&zero, NULL) == 0);
	REQUIRE(clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, 0, &zero, NULL) == EINVAL);
	REQUIRE(clock_nanosleep(-5, 0, &zero, NULL) == EINVAL);
	return (void *)1;
}

static void sleeping(void)
{
	sc_t sc;
	sthread_t st;
	uint64_t before, deadline = 0, again = 0;
	short events = 7;
	int fd = 7;

	live_init();
	sc_init(&sc);
	ASSERT_RETURNED(live_run(&sc, sleep_wrongly, NULL), 1);
	before = monotonic();
	ASSERT_EQUAL(live_create(&st, &sc, sleep_some, (void *)60000), 0);
	ASSERT_EQUAL(state_of(st), STHREAD_PARKED); /* this thread was not put to sleep */
	ASSERT_EQUAL(sthread_wait_fd(st, &fd, &events), 0);
	ASSERT_EQUAL(fd, -1);
	ASSERT_EQUAL(sthread_wait_deadline(st, &deadline), 0);
	CU_ASSERT(deadline >= before + 60000 * MILLISECOND && deadline <= monotonic() + 60000 * MILLISECOND);
	ASSERT_ERROR(sthread_wait_deadline(st, NULL) == -1, EINVAL);
	/* A step too early parks it again, until the same time. */
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_EQUAL(state_of(st), STHREAD_PARKED);
	ASSERT_EQUAL(sthread_wait_deadline(st, &again), 0);
	ASSERT_EQUAL(again, deadline);
	ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)3), 3); /* others run meanwhile */
	ASSERT_EQUAL(sthread_kill(st), 0);
	ASSERT_ERROR(sthread_wait_deadline(st, &again) == -1, EAGAIN);
	ASSERT_END(live_join(st), STHREAD_KILLED);
	ASSERT_ERROR(sthread_wait_deadline(st, &again) == -1, EBADF);

	/* A join waits as long as it takes. */
	before = monotonic();
	ASSERT_RETURNED(live_run(&sc, sleep_some, (void *)120), 1);
	CU_ASSERT(monotonic() - before >= 120 * MILLISECOND);
	ASSERT_RETURNED(live_run(&sc, sleep_until, (void *)30), 1);
	/* sthread_park() has no deadline. */
	ASSERT_EQUAL(live_create(&st, &sc, body_park_then_read, &sc), 0);
	ASSERT_EQUAL(sthread_wait_deadline(st, &deadline), 0);
	ASSERT_EQUAL(deadline, 0);
	ASSERT_EQUAL(sthread_kill(st), 0);
	ASSERT_END(live_join(st), STHREAD_KILLED);
}

static void *sleep_in_gate(void *milliseconds, void *unused)
{
	(void)unused;
	return sleep_some(milliseconds);
}

static void gates_sleep(void)
{
	sc_t sc;
	void *result = NULL;

	live_init();
	sc_init(&sc);

	cgate_t gate = cgate_create(sleep_in_gate, &sc, NULL);
	uint64_t before = monotonic();

	ASSERT_EQUAL(cgate_call(gate, (void *)50, &result), 0);
	ASSERT_EQUAL((uintptr_t)result, 1);
	CU_ASSERT(monotonic() - before >= 50 * MILLISECOND);
}

static const struct harness_test tests[] = {
	{ "a sleeping sthread is parked until its deadline", sleeping, HARNESS_FORK },
	{ "a sleeping gate lasts as long as it sleeps", gates_sleep, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
