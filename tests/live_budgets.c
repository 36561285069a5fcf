/* live_budgets.c - what a policy allows an sthread or a gate to use up, and that it gets no more. */
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

#include "live.h"

enum {
	PAGE = 4096,
	MIB = 1 << 20,
	BOTH = PROT_READ | PROT_WRITE,
	BUDGET = 25 /* milliseconds, where a budget of time is tried */
};

#define MILLISECOND ((int64_t)1000 * 1000)

/* ---- time -------------------------------------------------------------------------------------------------------- */

static int64_t clock_of(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000 * MILLISECOND + time.tv_nsec;
}

/* Goes on after the timer's signal. */
static void sleep_milliseconds(int64_t milliseconds)
{
	for (int64_t until = clock_of(CLOCK_MONOTONIC) + milliseconds * MILLISECOND; clock_of(CLOCK_MONOTONIC) < until;)
		usleep(1000);
}

struct watch {
	int64_t wall, processor;
};

static struct watch watch_start(void)
{
	return (struct watch){ clock_of(CLOCK_MONOTONIC), clock_of(CLOCK_THREAD_CPUTIME_ID) };
}

/* How long this thread had to wait for a processor, at most: it is held against the machine, not the library. */
static int64_t watch_waited(const struct watch *watch)
{
	int64_t wall = clock_of(CLOCK_MONOTONIC) - watch->wall;

	return wall - (clock_of(CLOCK_THREAD_CPUTIME_ID) - watch->processor);
}

static void check_overrun(int64_t used, int64_t budget, const struct watch *watch, unsigned line)
{
	int64_t waited = watch_waited(watch), late = 10 * MILLISECOND * harness_time_scale();

	live_check(used >= budget && used <= budget + late + waited, __FILE__, line,
		   "of %lld ns %lld were used (%lld of them waiting for a processor, at most)", (long long)budget,
		   (long long)used, (long long)waited);
}

static void *call_for_ever(void *argument)
{
	while (syscall(SYS_sched_yield) == 0)
		;
	return argument;
}

static void processor_time(void)
{
	static const stcb_t bodies[] = { body_spin, call_for_ever };

	live_init();
	for (int i = 0; i < 10; i++) {
		struct watch watch = watch_start();
		struct life life;
		sc_t sc;

		sc_init(&sc);
		ASSERT_EQUAL(sc_cpu_budget(&sc, BUDGET), 0);
		life = live_run(&sc, bodies[i % 2], NULL);
		ASSERT_END(life, STHREAD_OUT_OF_CPU);
		check_overrun((int64_t)life.info.run_nanoseconds, BUDGET * MILLISECOND, &watch, __LINE__);
	}
}

/* A budget smaller than a slice. */
static void small_budget(void)
{
	live_init();
	for (int i = 0; i < 10; i++) {
		struct watch watch = watch_start();
		enum sthread_state state;
		struct life life;
		sthread_t st;
		sc_t sc;

		sc_init(&sc);
		ASSERT_EQUAL(sc_cpu_budget(&sc, 2), 0);
		ASSERT_EQUAL(sthread_create(&st, &sc, body_spin, NULL), 0);
		ASSERT_EQUAL(sthread_state(st, &state), 0);
		life = live_join(st);
		ASSERT_END(life, STHREAD_OUT_OF_CPU);
		check_overrun((int64_t)life.info.run_nanoseconds, 2 * MILLISECOND, &watch, __LINE__);
		live_check(life.info.exits < 50, __FILE__, __LINE__, "it is stopped by one kick, or few (%llu exits)",
			   (unsigned long long)life.info.exits);
	}
}

static void *read_byte(void *fd)
{
	char byte;

	return (void *)(intptr_t)read((int)(intptr_t)fd, &byte, 1);
}

static void *park_once(void *argument)
{
	sthread_park();
	return argument;
}

static void wall_time(void)
{
	enum {
		SPINS,
		READS,
		RETURNS
	};
	static const stcb_t bodies[] = { body_spin, read_byte, body_nothing };
	int pair[2];

	live_init();
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	for (int i = SPINS; i <= RETURNS; i++) {
		struct watch watch = watch_start();
		struct life life;
		sc_t sc;

		sc_init(&sc);
		sc_fd_add(&sc, pair[1], BOTH);
		ASSERT_EQUAL(sc_wall_budget(&sc, i == RETURNS ? 60000 : BUDGET), 0);
		life = live_run(&sc, bodies[i], (void *)(intptr_t)pair[1]);
		if (i == RETURNS) {
			ASSERT_RETURNED(life, pair[1]);
		} else {
			int64_t passed = clock_of(CLOCK_MONOTONIC) - watch.wall;

			ASSERT_END(life, STHREAD_OUT_OF_TIME);
			if (i == SPINS)
				check_overrun(passed, BUDGET * MILLISECOND, &watch, __LINE__);
			live_check(passed >= BUDGET * MILLISECOND, __FILE__, __LINE__, "not before its time (%lld)",
				   (long long)passed);
		}
		sc_destroy(&sc);
	}
}

/* One that is not looked at in time ends when it is. */
static void wall_time_of_parked(void)
{
	enum sthread_state state;
	struct watch watch;
	sthread_t st[3];
	sc_t sc;

	live_init();
	sc_init(&sc);
	sc_wall_budget(&sc, 60000);
	ASSERT_EQUAL(live_create(&st[2], &sc, park_once, (void *)5), 0);
	sc_wall_budget(&sc, 50 * harness_time_scale());
	watch = watch_start();
	ASSERT_EQUAL(live_create(&st[0], &sc, park_once, NULL), 0);
	ASSERT_EQUAL(live_create(&st[1], &sc, park_once, NULL), 0);
	ASSERT_EQUAL(sthread_state(st[0], &state), 0);
	if (clock_of(CLOCK_MONOTONIC) - watch.wall < 50 * MILLISECOND * harness_time_scale()) {
		ASSERT_EQUAL(state, STHREAD_PARKED);
	}
	sleep_milliseconds(60 * harness_time_scale());
	ASSERT_EQUAL(sthread_step(st[0]), 0);
	ASSERT_EQUAL(sthread_state(st[0], &state), 0);
	ASSERT_EQUAL(state, STHREAD_ENDED);
	ASSERT_END(live_join(st[0]), STHREAD_OUT_OF_TIME);
	ASSERT_END(live_join(st[1]), STHREAD_OUT_OF_TIME); /* no EDEADLK: nobody has to step it */
	ASSERT_ERROR(sthread_join(st[2], NULL) == -1, EDEADLK);
	ASSERT_EQUAL(live_step(st[2]), 0);
	ASSERT_RETURNED(live_join(st[2]), 5);
}

/* ---- gates ------------------------------------------------------------------------------------------------------- */

/* What gates and callers know, in a tag. */
struct shared {
	cgate_t gate;
	int fd;
	unsigned calls, entered, left;
};

static void *spin_in_gate(void *argument, void *trusted)
{
	(void)trusted;
	if (argument)
		body_spin(NULL);
	return NULL;
}

static void *read_in_gate(void *argument, void *trusted)
{
	struct shared *shared = trusted;

	(void)argument;
	__atomic_fetch_add(&shared->entered, 1, __ATOMIC_SEQ_CST);
	read_byte((void *)(intptr_t)shared->fd);
	__atomic_fetch_add(&shared->left, 1, __ATOMIC_SEQ_CST);
	return (void *)(uintptr_t)shared->left;
}

static void *call_gate(void *argument)
{
	struct shared *shared = argument;

	return (void *)(intptr_t)(cgate_call(shared->gate, (void *)1, NULL) == 0 ? 0 : errno);
}

static struct shared *share(sc_t *caller, sc_t *gate)
{
	tag_t tag = tag_new();
	struct shared *shared = smalloc(tag, sizeof(*shared));

	CU_ASSERT_PTR_NOT_NULL_FATAL(shared);
	sc_init(caller);
	sc_init(gate);
	sc_mem_add(caller, tag, BOTH);
	sc_mem_add(gate, tag, BOTH);
	return shared;
}

static void gate_processor_time(void)
{
	sc_t caller, sc;

	live_init();

	struct shared *shared = share(&caller, &sc);

	sc_cpu_budget(&sc, BUDGET);
	shared->gate = cgate_create(spin_in_gate, &sc, NULL);
	sc_cgate_add(&caller, shared->gate);
	for (int i = 0; i < 6; i++) {
		struct watch watch = watch_start();

		if (i % 2) {
			ASSERT_RETURNED(live_run(&caller, call_gate, shared), ETIMEDOUT);
		} else {
			ASSERT_ERROR(cgate_call(shared->gate, (void *)1, NULL) == -1, ETIMEDOUT);
		}
		check_overrun(clock_of(CLOCK_MONOTONIC) - watch.wall, BUDGET * MILLISECOND, &watch, __LINE__);
		ASSERT_EQUAL(cgate_call(shared->gate, NULL, NULL), 0); /* the control, and the gate is there again */
	}
}

static void gate_wall_time(void)
{
	int ends[2];
	sc_t caller, sc;

	ASSERT_EQUAL(pipe(ends), 0);
	live_init();

	struct shared *shared = share(&caller, &sc);

	shared->fd = ends[0];
	sc_fd_add(&sc, ends[0], PROT_READ);
	sc_wall_budget(&sc, BUDGET);
	shared->gate = cgate_create(read_in_gate, &sc, shared);
	sc_cgate_add(&caller, shared->gate);
	for (int i = 0; i < 4; i++) {
		int64_t began = clock_of(CLOCK_MONOTONIC);

		if (i % 2) {
			ASSERT_RETURNED(live_run(&caller, call_gate, shared), ETIMEDOUT);
		} else {
			ASSERT_ERROR(cgate_call(shared->gate, NULL, NULL) == -1, ETIMEDOUT);
		}
		live_check(clock_of(CLOCK_MONOTONIC) - began >= BUDGET * MILLISECOND, __FILE__, __LINE__,
			   "not before its time");
		ASSERT_EQUAL(shared->entered, 2 * i + 1);
		ASSERT_EQUAL(write(ends[1], "x", 1), 1);
		ASSERT_EQUAL(cgate_call(shared->gate, NULL, NULL), 0);
		ASSERT_EQUAL(shared->left, i + 1);
	}
	sc_destroy(&sc);
}

/* A caller cannot choose the moment at which a gate is stopped. */
static void gate_outlives_its_caller(void)
{
	sc_t caller, sc;
	int ends[2];

	ASSERT_EQUAL(pipe(ends), 0);
	live_init();

	struct shared *shared = share(&caller, &sc);

	shared->fd = ends[0];
	sc_fd_add(&sc, ends[0], PROT_READ);
	sc_wall_budget(&sc, 200 * harness_time_scale()); /* it ends the read, and with it the call */
	sc_wall_budget(&caller, 20 * harness_time_scale());
	shared->gate = cgate_create(read_in_gate, &sc, shared);
	sc_cgate_add(&caller, shared->gate);

	int64_t began = clock_of(CLOCK_MONOTONIC);

	ASSERT_END(live_run(&caller, call_gate, shared), STHREAD_OUT_OF_TIME);
	live_check(clock_of(CLOCK_MONOTONIC) - began >= 200 * MILLISECOND * harness_time_scale(), __FILE__, __LINE__,
		   "the gate had its own time");
	ASSERT_EQUAL(write(ends[1], "x", 1), 1);
	ASSERT_EQUAL(cgate_call(shared->gate, NULL, NULL), 0);
	sc_destroy(&sc);
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static void *count_calls(void *argument)
{
	struct shared *shared = argument;

	for (;; shared->calls++)
		if (syscall(shared->calls % 2 ? SYS_sched_yield : SYS_socket, 0, 0, 0) == 12345)
			return NULL;
}

static void *count_library_calls(void *argument)
{
	struct shared *shared = argument;

	for (;; shared->calls++)
		if (shared->calls % 2)
			sfree(shared + 1);
		else if (cgate_call(shared->gate, NULL, NULL) != 0)
			return NULL;
}

static void *calls_of_gate(void *argument, void *trusted)
{
	(void)trusted;
	for (uintptr_t i = 0; i < (uintptr_t)argument; i++)
		syscall(SYS_sched_yield);
	return argument;
}

static void calls(void)
{
	static const stcb_t bodies[] = { count_calls, count_library_calls };
	sc_t caller, sc;

	live_init();

	struct shared *shared = share(&caller, &sc);

	shared->gate = cgate_create(spin_in_gate, &sc, NULL);
	sc_cgate_add(&caller, shared->gate);
	for (unsigned limit = 1; limit < 100; limit += 33)
		for (int i = 0; i < 2; i++) {
			shared->calls = 0;
			ASSERT_EQUAL(sc_call_budget(&caller, limit), 0);
			ASSERT_END(live_run(&caller, bodies[i], shared), STHREAD_OUT_OF_CALLS);
			ASSERT_EQUAL(shared->calls, limit);
			ASSERT_RETURNED(live_run(&caller, body_nothing, (void *)3), 3);
		}
	sc_call_budget(&caller, 0);
	sc_cpu_budget(&caller, 100 * harness_time_scale());
	ASSERT_END(live_run(&caller, bodies[0], shared), STHREAD_OUT_OF_CPU); /* the control */

	/* Each call of a gate has the whole budget. */
	sc_call_budget(&sc, 10);
	shared->gate = cgate_create(calls_of_gate, &sc, NULL);
	for (int i = 0; i < 5; i++)
		ASSERT_EQUAL(cgate_call(shared->gate, (void *)10, NULL), 0);
	ASSERT_ERROR(cgate_call(shared->gate, (void *)11, NULL) == -1, ECANCELED);
	ASSERT_EQUAL(cgate_call(shared->gate, (void *)10, NULL), 0);
}

/* A call that has to wait is one call, however often it is looked at. */
static void calls_that_wait(void)
{
	int pair[2];
	sthread_t st;
	sc_t sc;

	live_init();
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	sc_init(&sc);
	sc_fd_add(&sc, pair[1], BOTH);
	sc_call_budget(&sc, 1);
	ASSERT_EQUAL(live_create(&st, &sc, read_byte, (void *)(intptr_t)pair[1]), 0);
	for (int i = 0; i < 10; i++)
		ASSERT_EQUAL(live_step(st), 0);
	ASSERT_EQUAL(write(pair[0], "x", 1), 1);
	ASSERT_EQUAL(live_step(st), 0);

	struct life life = live_join(st);

	/* At its end stdio is flushed, for which nothing is called. */
	ASSERT_RETURNED(life, 1);
	ASSERT_EQUAL(life.info.parks, 11);
	sc_destroy(&sc);
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

static void *open_many(void *room)
{
	int first = open("here", O_RDONLY | O_CREAT, 0600), last = first;

	for (intptr_t i = 1; i < (intptr_t)room; i++)
		if ((last = open("here", O_RDONLY)) < 0)
			return (void *)(uintptr_t)(1000 * i + errno);
	if (first < 0 || open("here", O_RDONLY) != -1 || errno != EMFILE)
		return (void *)(uintptr_t)(1000000 + errno);
	if (close(last) != 0 || open("here", O_RDONLY) != last)
		return (void *)(uintptr_t)(2000000 + errno);
	return (void *)1;
}

static void descriptors(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int directory, fds;
	sc_t sc;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(name));
	directory = open(name, O_RDONLY | O_DIRECTORY);
	live_init();
	sc_init(&sc);
	sc_sys_add(&sc, SYS_openat);
	sc_path_add(&sc, directory, BOTH);
	fds = live_open_fds();
	ASSERT_RETURNED(live_run(&sc, open_many, (void *)64), 1);
	ASSERT_EQUAL(sc_descriptor_limit(&sc, 5), 0);
	ASSERT_RETURNED(live_run(&sc, open_many, (void *)5), 1);
	sc_fd_add(&sc, directory, PROT_READ); /* granted ones count */
	ASSERT_RETURNED(live_run(&sc, open_many, (void *)4), 1);
	sc_descriptor_limit(&sc, 0);
	ASSERT_RETURNED(live_run(&sc, open_many, (void *)63), 1);
	ASSERT_EQUAL(live_open_fds(), fds + 1);
	sc_destroy(&sc);
	unlinkat(directory, "here", 0);
	rmdir(name);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static uint8_t many_globals[2 * MIB];

static void *write_globals(void *unused)
{
	(void)unused;
	memset(many_globals, 1, sizeof(many_globals));
	__asm__ volatile("" : : "r"(many_globals) : "memory"); /* what nobody reads would not be stored */
	return (void *)1;
}

static void *map_and(void *fd)
{
	uint8_t *at = mmap(NULL, MIB, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *more = mmap(NULL, MIB / 2, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED || more == MAP_FAILED)
		return NULL;
	memset(more, 1, MIB / 2);
	if (fd)
		return (void *)(intptr_t)read((int)(intptr_t)fd, at, MIB);
	memset(at, 1, MIB);
	return (void *)1;
}

static void *map_and_read(void *fd)
{
	return map_and(fd);
}

static void *use_stack(void *unused)
{
	volatile uint8_t large[4 * MIB];

	(void)unused;
	for (size_t i = sizeof(large); i > 0; i -= PAGE)
		large[i - 1] = 1;
	return (void *)1;
}

static void memory(void)
{
	static const struct {
		stcb_t body;
		size_t little, enough;
		bool served; /* it is a served call that stores too much */
	} cases[] = {
		{ write_globals, MIB, 4 * MIB, false },
		{ map_and, MIB, 4 * MIB, false },
		{ map_and_read, MIB, 4 * MIB, true },
		{ use_stack, MIB, 8 * MIB, false },
	};
	int file = memfd_create("zeros", MFD_CLOEXEC);

	ASSERT_EQUAL(ftruncate(file, 2 * MIB), 0);
	live_init();
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct life life;
		sc_t sc;

		sc_init(&sc);
		sc_fd_add(&sc, file, PROT_READ);
		ASSERT_EQUAL(lseek(file, 0, SEEK_SET), 0);
		sc_memory_quota(&sc, cases[i].little);
		life = live_run(&sc, cases[i].body, cases[i].served ? (void *)(intptr_t)file : NULL);
		live_check_end(&life, STHREAD_OUT_OF_MEMORY, __FILE__, __LINE__);
		live_check(life.info.pages_copied <= cases[i].little / PAGE, __FILE__, __LINE__,
			   "case %zu: %llu pages are within the quota", i, (unsigned long long)life.info.pages_copied);
		if (!cases[i].served) {
			ASSERT_EQUAL(life.info.vector, PAGE_FAULT);
			CU_ASSERT(life.info.address != 0);
		}
		ASSERT_EQUAL(lseek(file, 0, SEEK_SET), 0);
		sc_memory_quota(&sc, cases[i].enough);
		life = live_run(&sc, cases[i].body, cases[i].served ? (void *)(intptr_t)file : NULL);
		live_check_returned(&life, cases[i].served ? MIB : 1, __FILE__, __LINE__);
		sc_destroy(&sc);
	}
}

/* Touches eight pages, `stride` bytes apart. */
static void *touch_eight(void *stride)
{
	/* The addresses that mmap() gives are limited by the quota, too: it has to be a large one. */
	memset(many_globals, 1, MIB);
	__asm__ volatile("" : : "r"(many_globals) : "memory");
	for (uintptr_t i = 0; i < 8; i++) {
		/* As much as a small quota allows at once; what is not touched costs nothing. */
		uint8_t *at = NULL;

		for (uintptr_t size = 0; size < (uintptr_t)stride; size += 8 * PAGE)
			if ((at = mmap(NULL, 8 * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) == MAP_FAILED)
				return (void *)2;
		at[0] = 1;
	}
	return (void *)1;
}

/* The smallest quota, in pages, with which eight pages can be touched by an sthread in an address space of its own:
 * no other life had the same shape. */
static size_t smallest_quota(size_t stride)
{
	static int shape;
	size_t low = MIB / PAGE, high = 2 * MIB / PAGE;

	while (low < high) {
		size_t middle = (low + high) / 2;
		sc_t sc;

		sc_init(&sc);
		sc_sys_add(&sc, 100 + shape++);
		sc_memory_quota(&sc, middle * PAGE);
		struct life life = live_run(&sc, touch_eight, (void *)stride);

		ASSERT_EQUAL(life.info.recycled, 0);
		if (!life.error && life.value == (void *)1)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static void page_tables(void)
{
	live_init();

	size_t dense = smallest_quota(PAGE), sparse = smallest_quota(2 * MIB);

	live_check(sparse >= dense + 5, __FILE__, __LINE__,
		   "eight pages with a page table each need a larger quota (%zu pages) than eight with one (%zu)",
		   sparse, dense);
}

static void *fault_when_full(void *argument)
{
	uint8_t *at = mmap(NULL, MIB / 2, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	memset(at, 1, MIB / 2);
	return body_read(argument);
}

/* What it may not touch anyway stays a fault. */
static void faults_stay_faults(void)
{
	sc_t sc;

	live_init();
	for (size_t quota = MIB / 2; quota <= MIB; quota += PAGE) {
		sc_init(&sc);
		sc_memory_quota(&sc, quota);

		struct life life = live_run(&sc, fault_when_full, (void *)0x2000);

		if (life.info.end == STHREAD_OUT_OF_MEMORY)
			continue; /* before it came to the fault */
		ASSERT_PAGE_FAULT(life, READ_ABSENT, 0x2000);
		quota += MIB / 8;
	}
}

static const struct harness_test tests[] = {
	{ "a processor budget ends an sthread within 10 ms, whether it computes or calls", processor_time,
	  HARNESS_FORK },
	{ "a processor budget may be shorter than a slice", small_budget, HARNESS_FORK },
	{ "a wall budget ends an sthread that computes or waits", wall_time, HARNESS_FORK },
	{ "a wall budget ends a parked sthread when it is looked at", wall_time_of_parked, HARNESS_FORK },
	{ "a gate's processor budget ends its call within 10 ms", gate_processor_time, HARNESS_FORK },
	{ "a gate's wall budget ends a call that waits", gate_wall_time, HARNESS_FORK },
	{ "a caller's wall budget does not stop a gate half way", gate_outlives_its_caller, HARNESS_FORK },
	{ "a call budget allows as many calls, and not one more", calls, HARNESS_FORK },
	{ "a call that waits is counted once", calls_that_wait, HARNESS_FORK },
	{ "a descriptor limit holds for all that are open at a time", descriptors, HARNESS_FORK },
	{ "memory beyond the quota ends an sthread with an end of its own", memory, HARNESS_FORK },
	{ "page tables count as memory", page_tables, HARNESS_FORK },
	{ "a fault is a fault, even when the quota is spent", faults_stay_faults, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
