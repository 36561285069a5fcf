/* live_clocks.c - the clocks that an sthread reads: how they relate to the host's, and that they never go back. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

/* A body returns 1, or the line that failed. */
#define REQUIRE(condition)                         \
	do {                                       \
		if (!(condition))                  \
			return (void *)(__LINE__); \
	} while (0)

#define MILLISECOND ((int64_t)1000000)

static int64_t nanoseconds(clockid_t clock)
{
	struct timespec time;

	return clock_gettime(clock, &time) == 0 ? time.tv_sec * 1000 * MILLISECOND + time.tv_nsec : -1;
}

static int64_t of_call(clockid_t clock)
{
	struct timespec time;

	return syscall(SYS_clock_gettime, clock, &time) == 0 ? time.tv_sec * 1000 * MILLISECOND + time.tv_nsec : -1;
}

static bool in_ring3(void)
{
	return supervisor.machine->clock_multiplier != 0;
}

/* Forward only, whether it asks the library or the kernel, over slices. */
static void *never_back(void *unused)
{
	int64_t last[2] = { 0 };

	(void)unused;
	for (int i = 0; i < 100000; i++)
		for (clockid_t clock = CLOCK_REALTIME; clock <= CLOCK_MONOTONIC; clock++) {
			int64_t now = i % 1000 == 0 ? of_call(clock) : nanoseconds(clock);

			REQUIRE(now >= last[clock]);
			last[clock] = now;
		}
	return (void *)1;
}

static void *never_back_over_parks(void *unused)
{
	int64_t last = 0;

	(void)unused;
	for (int i = 0; i < 200; i++) {
		for (int j = 0; j < 20; j++) {
			int64_t now = nanoseconds(CLOCK_MONOTONIC);

			REQUIRE(now >= last);
			last = now;
		}
		sthread_park();
	}
	return (void *)1;
}

static void forward(void)
{
	enum sthread_state state = STHREAD_PARKED;
	sthread_t st;
	sc_t sc;

	live_init();
	sc_init(&sc);
	ASSERT_RETURNED(live_run(&sc, never_back, NULL), 1);
	ASSERT_EQUAL(live_create(&st, &sc, never_back_over_parks, NULL), 0);
	while (state == STHREAD_PARKED) {
		ASSERT_EQUAL(live_step(st), 0);
		ASSERT_EQUAL(sthread_state(st, &state), 0);
	}
	ASSERT_RETURNED(live_join(st), 1);
}

struct readings {
	int64_t inside[4], day;
};

static void *read_clocks(void *argument)
{
	struct readings *readings = argument;
	static const clockid_t clocks[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_REALTIME_COARSE,
					    CLOCK_MONOTONIC_COARSE };
	struct timeval day;

	for (int i = 0; i < 4; i++)
		readings->inside[i] = nanoseconds(clocks[i]);
	REQUIRE(gettimeofday(&day, NULL) == 0 && day.tv_usec < 1000000);
	readings->day = day.tv_sec * 1000 * MILLISECOND + day.tv_usec * 1000;
	return (void *)1;
}

/* Between what the host read before and after. */
static void bounds(void)
{
	sc_t sc;
	tag_t tag;
	struct readings *readings;

	live_init();
	tag = tag_new();
	readings = smalloc(tag, sizeof(*readings));
	sc_init(&sc);
	sc_mem_add(&sc, tag, PROT_READ | PROT_WRITE);
	for (int i = 0; i < 200; i++) {
		int64_t before[2] = { nanoseconds(CLOCK_REALTIME), nanoseconds(CLOCK_MONOTONIC) }, after[2];

		ASSERT_RETURNED(live_run(&sc, read_clocks, readings), 1);
		after[0] = nanoseconds(CLOCK_REALTIME);
		after[1] = nanoseconds(CLOCK_MONOTONIC);
		for (int clock = 0; clock < 4; clock++) {
			int64_t got = readings->inside[clock];

			/* Served, a coarse clock is that of the last tick. */
			live_check(got >= before[clock % 2] - (clock < 2 ? 0 : 20 * MILLISECOND) &&
					   got <= after[clock % 2],
				   __FILE__, __LINE__, "clock %d: %lld is not between %lld and %lld", clock,
				   (long long)got, (long long)before[clock % 2], (long long)after[clock % 2]);
		}
		CU_ASSERT(readings->day >= before[0] - 1000 && readings->day <= after[0]);
	}
}

static void *read_often(void *unused)
{
	(void)unused;
	for (int i = 0; i < 1000; i++) {
		struct timeval day;

		REQUIRE(nanoseconds(CLOCK_MONOTONIC) > 0 && gettimeofday(&day, NULL) == 0);
	}
	return (void *)1;
}

static void *read_wrongly(void *unused)
{
	struct timespec time;

	(void)unused;
	REQUIRE(clock_gettime(100, &time) == -1 && errno == EINVAL);
	REQUIRE(clock_gettime(-1, &time) == -1 && errno == EINVAL);
	REQUIRE(clock_gettime(INT32_MIN, &time) == -1 && errno == EINVAL);
	REQUIRE(clock_gettime(CLOCK_BOOTTIME, &time) == 0 && time.tv_nsec < 1000000000);
	REQUIRE(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0);
	return (void *)1;
}

static void *write_clock_to(void *address)
{
	clock_gettime(CLOCK_MONOTONIC, address);
	return (void *)1;
}

static void exits(void)
{
	struct life life;
	sc_t sc;

	live_init();
	sc_init(&sc);
	ASSERT_RETURNED(live_run(&sc, read_wrongly, NULL), 1);
	life = live_run(&sc, write_clock_to, (void *)16);
	if (in_ring3()) /* as the kernel's own */
		ASSERT_PAGE_FAULT(life, WRITE_ABSENT, 16);
	if (!in_ring3())
		HARNESS_SKIP("clocks are served on this host");
	live_run(&sc, read_often, NULL);
	life = live_run(&sc, read_often, NULL);
	ASSERT_RETURNED(life, 1);
	ASSERT_EQUAL(life.info.calls_served, 0);
}

/* What was published for a life that is over says nothing to the next one, nor to a gate. */
static void *read_in_gate(void *unused, void *trusted)
{
	(void)unused, (void)trusted;
	return (void *)nanoseconds(CLOCK_MONOTONIC);
}

static void gates(void)
{
	sc_t sc;
	void *result;

	live_init();
	sc_init(&sc);

	cgate_t gate = cgate_create(read_in_gate, &sc, NULL);

	for (int i = 0; i < 20; i++) {
		int64_t before = nanoseconds(CLOCK_MONOTONIC);

		ASSERT_EQUAL(cgate_call(gate, NULL, &result), 0);
		CU_ASSERT((int64_t)result >= before && (int64_t)result <= nanoseconds(CLOCK_MONOTONIC));
	}
}

static const struct harness_test tests[] = {
	{ "no clock goes back, over slices, calls and parks", forward, HARNESS_FORK, .seconds = 60 },
	{ "what a clock shows inside lies between what it shows before and after", bounds, HARNESS_FORK },
	{ "clocks are read without a call; what is asked wrongly is refused", exits, HARNESS_FORK },
	{ "a gate's clock is the host's", gates, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
