/* live_gate_pools.c - gates with several instances: separate memory, waiting in order of arrival, bounds, deletion. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gate.h"
#include "live.h"
#include "supervisor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
	CALLERS = 6,
	FOREVER = 3600 * 1000, /* milliseconds: a test that waits so long has failed */
};

/* In a tag that gates may write to. */
struct record {
	cgate_t gate;
	int read_end; /* entries that hold their instance read from it */
	_Atomic unsigned open, served;
	uintptr_t order[64];
	int error;
};

static struct record *record;
static int pipe_ends[2];

/* A policy with the record's tag and the reading end of a pipe: what a gate that blocks needs. */
static void prepare(sc_t *sc)
{
	live_init();

	tag_t tag = tag_new();

	record = smalloc(tag, sizeof(*record));
	CU_ASSERT_PTR_NOT_NULL_FATAL(record);
	ASSERT_EQUAL(pipe(pipe_ends), 0);
	record->read_end = pipe_ends[0];
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, BOTH), 0);
	ASSERT_EQUAL(sc_fd_add(sc, pipe_ends[0], PROT_READ), 0);
}

static int calls;

/* Holds its instance until a byte is in the pipe; argument 0: does not. */
static void *hold(void *argument, void *trusted)
{
	struct record *shared = trusted;
	char byte;

	calls++;
	shared->open++;
	if (argument)
		if (read(shared->read_end, &byte, 1) != 1)
			return NULL;
	shared->open--;
	shared->order[shared->served++ % 64] = (uintptr_t)argument;
	return (void *)(uintptr_t)calls;
}

static void let_go(unsigned count)
{
	while (count--)
		ASSERT_EQUAL(write(pipe_ends[1], "", 1), 1);
}

static unsigned waiting(cgate_t gate)
{
	struct cgate_info info;

	return cgate_get_info(gate, &info) == 0 ? info.waiting : 0;
}

/* Bounded by the test's own time limit. */
#define AWAIT(condition)      \
	do                    \
		usleep(1000); \
	while (!(condition))

struct caller {
	pthread_t thread;
	uintptr_t argument;
	void *result;
	int error;
};

static void *call_from_thread(void *argument)
{
	struct caller *caller = argument;

	caller->error = cgate_call(record->gate, (void *)caller->argument, &caller->result) == 0 ? 0 : errno;
	return NULL;
}

static void start(struct caller *caller, uintptr_t argument)
{
	*caller = (struct caller){ .argument = argument };
	ASSERT_EQUAL(pthread_create(&caller->thread, NULL, call_from_thread, caller), 0);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void separate_memory(void)
{
	struct caller callers[3];
	void *result;
	sc_t sc;

	prepare(&sc);
	for (int instances = 3; instances > 0; instances -= 2) {
		record->gate = cgate_create_pool(hold, &sc, record, (unsigned)instances, 0);
		CU_ASSERT_FATAL(record->gate >= 0);
		ASSERT_EQUAL(cgate_wait_limit(record->gate, FOREVER), 0);
		for (int i = 0; i < 3; i++)
			start(&callers[i], 1);
		AWAIT(record->open + waiting(record->gate) == 3);
		ASSERT_EQUAL(record->open, instances); /* side by side */
		let_go(3);

		uintptr_t sum = 0;

		for (int i = 0; i < 3; i++) {
			pthread_join(callers[i].thread, NULL);
			ASSERT_EQUAL(callers[i].error, 0);
			sum += (uintptr_t)callers[i].result;
		}
		ASSERT_EQUAL(sum, instances == 3 ? 1 + 1 + 1 : 1 + 2 + 3); /* one instance is the control */
		ASSERT_EQUAL(cgate_call(record->gate, NULL, &result), 0);
		ASSERT_EQUAL(result, instances == 3 ? 2 : 4); /* long-lived */
		ASSERT_EQUAL(cgate_destroy(record->gate), 0);
	}
	ASSERT_EQUAL(calls, 0);
	record->gate = cgate_create_pool(hold, &sc, record, 2, CGATE_FRESH);
	for (int i = 0; i < 5; i++) {
		ASSERT_EQUAL(cgate_call(record->gate, NULL, &result), 0);
		ASSERT_EQUAL(result, 1);
	}
	sc_destroy(&sc);
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

static void order_of_arrival(void)
{
	struct caller holder, callers[CALLERS];
	sc_t sc;

	prepare(&sc);
	record->gate = cgate_create_pool(hold, &sc, record, 1, 0);
	ASSERT_EQUAL(cgate_wait_limit(record->gate, FOREVER), 0);
	for (int round = 0; round < 3; round++) {
		record->served = 0;
		start(&holder, 100);
		AWAIT(record->open == 1);
		for (unsigned i = 0; i < CALLERS; i++) {
			start(&callers[i], 1 + i);
			AWAIT(waiting(record->gate) == i + 1);
		}
		let_go(1 + CALLERS);
		pthread_join(holder.thread, NULL);
		for (int i = 0; i < CALLERS; i++) {
			pthread_join(callers[i].thread, NULL);
			ASSERT_EQUAL(callers[i].error, 0);
		}
		ASSERT_EQUAL(record->order[0], 100);
		for (unsigned i = 0; i < CALLERS; i++)
			ASSERT_EQUAL(record->order[1 + i], 1 + i);
	}
	sc_destroy(&sc);
}

/* ---- bounds ------------------------------------------------------------------------------------------------------ */

static void *call_the_gate(void *argument)
{
	struct record *shared = argument;

	shared->error = cgate_call(shared->gate, NULL, NULL) == 0 ? 0 : errno;
	return (void *)7;
}

static void bounded(void)
{
	struct caller holder;
	sc_t sc, policy;

	prepare(&sc);
	record->gate = cgate_create_pool(hold, &sc, record, 1, 0);
	ASSERT_EQUAL(sc_copy(&policy, &sc), 0);
	ASSERT_EQUAL(sc_cgate_add(&policy, record->gate), 0);
	start(&holder, 1);
	AWAIT(record->open == 1);
	for (unsigned limit = 0; limit < 60; limit += 20) {
		double began = live_seconds();

		ASSERT_EQUAL(cgate_wait_limit(record->gate, limit), 0);
		ASSERT_ERROR(cgate_call(record->gate, NULL, NULL) == -1, EBUSY);
		ASSERT_RETURNED(live_run(&policy, call_the_gate, record), 7);
		ASSERT_EQUAL(record->error, EBUSY);
		CU_ASSERT(live_seconds() - began >= 2 * limit / 1000.0);
		ASSERT_EQUAL(waiting(record->gate), 0);
	}
	/* The caller's own budget bounds it as well. */
	ASSERT_EQUAL(cgate_wait_limit(record->gate, FOREVER), 0);
	sc_cpu_budget(&policy, 50);
	ASSERT_END(live_run(&policy, call_the_gate, record), STHREAD_OUT_OF_CPU);
	ASSERT_EQUAL(waiting(record->gate), 0);
	let_go(1);
	pthread_join(holder.thread, NULL);
	ASSERT_EQUAL(holder.error, 0);
	sc_cpu_budget(&policy, 0);
	ASSERT_RETURNED(live_run(&policy, call_the_gate, record), 7);
	ASSERT_EQUAL(record->error, 0);
	sc_destroy(&policy);
	sc_destroy(&sc);
}

static sthread_t victim;
static sc_t victim_policy;

static void *drive_victim(void *life)
{
	*(struct life *)life = live_join(victim);
	return NULL;
}

static void *park_and_call(void *argument)
{
	sthread_park();
	return call_the_gate(argument);
}

static void *step_and_join(void *life)
{
	ASSERT_EQUAL(live_step(victim), 0);
	return drive_victim(life);
}

static void killed_while_waiting(void)
{
	struct caller holder, behind;
	struct life life;
	pthread_t thread;
	sc_t sc;

	prepare(&sc);
	record->gate = cgate_create_pool(hold, &sc, record, 1, 0);
	ASSERT_EQUAL(cgate_wait_limit(record->gate, FOREVER), 0);
	ASSERT_EQUAL(sc_copy(&victim_policy, &sc), 0);
	sc_cgate_add(&victim_policy, record->gate);
	sc_cpu_budget(&victim_policy, FOREVER);
	ASSERT_EQUAL(live_create(&victim, &victim_policy, park_and_call, record), 0);
	start(&holder, 1);
	AWAIT(record->open == 1);
	pthread_create(&thread, NULL, step_and_join, &life);
	AWAIT(waiting(record->gate) == 1);
	start(&behind, 2);
	AWAIT(waiting(record->gate) == 2);
	ASSERT_EQUAL(sthread_kill(victim), 0);
	pthread_join(thread, NULL);
	ASSERT_END(life, STHREAD_KILLED);
	ASSERT_EQUAL(waiting(record->gate), 1); /* the other one keeps its place */
	let_go(2);
	pthread_join(holder.thread, NULL);
	pthread_join(behind.thread, NULL);
	ASSERT_EQUAL(holder.error, 0);
	ASSERT_EQUAL(behind.error, 0);
	ASSERT_EQUAL(record->order[1], 2);
	sc_destroy(&victim_policy);
	sc_destroy(&sc);
}

/* A gate that blocks keeps its caller no longer than until the caller is killed, or the gate's budget is spent. */
static void blocked_in_gate(void)
{
	struct life life;
	pthread_t thread;
	sc_t sc;

	prepare(&sc);
	sc_cpu_budget(&sc, FOREVER);
	record->gate = cgate_create(hold, &sc, record);
	ASSERT_EQUAL(sc_copy(&victim_policy, &sc), 0);
	sc_cgate_add(&victim_policy, record->gate);
	ASSERT_EQUAL(live_create(&victim, &victim_policy, park_and_call, record), 0);
	record->open = 0;
	pthread_create(&thread, NULL, step_and_join, &life);
	AWAIT(record->served == 1);
	pthread_join(thread, NULL);
	ASSERT_RETURNED(life, 7); /* the control: it can be called */
	sc_destroy(&victim_policy);
	sc_destroy(&sc);
}

static void *park_and_hold(void *argument)
{
	struct record *shared = argument;

	sthread_park();
	shared->error = cgate_call(shared->gate, (void *)1, NULL) == 0 ? 0 : errno;
	return (void *)7;
}

static void killed_in_blocked_gate(void)
{
	struct life life;
	pthread_t thread;
	void *result;
	sc_t sc;

	prepare(&sc);
	sc_cpu_budget(&sc, FOREVER);
	record->gate = cgate_create(hold, &sc, record);
	ASSERT_EQUAL(sc_copy(&victim_policy, &sc), 0);
	sc_cgate_add(&victim_policy, record->gate);
	ASSERT_EQUAL(live_create(&victim, &victim_policy, park_and_hold, record), 0);
	pthread_create(&thread, NULL, step_and_join, &life);
	AWAIT(record->open == 1);
	ASSERT_EQUAL(sthread_kill(victim), 0);
	pthread_join(thread, NULL);
	ASSERT_END(life, STHREAD_KILLED);
	ASSERT_EQUAL(cgate_call(record->gate, NULL, &result), 0); /* free again, and pristine */
	ASSERT_EQUAL(result, 1);
	ASSERT_EQUAL(cgate_destroy(record->gate), 0);
	sc_cpu_budget(&sc, 60);
	record->gate = cgate_create(hold, &sc, record);
	ASSERT_EQUAL(cgate_call(record->gate, (void *)1, &result), -1);
	ASSERT_EQUAL(cgate_call(record->gate, NULL, &result), 0);
	ASSERT_EQUAL(result, 1);
	sc_destroy(&victim_policy);
	sc_destroy(&sc);
}

/* ---- deletion ---------------------------------------------------------------------------------------------------- */

static void destroy_in_use(void)
{
	struct caller holder, queued;
	sc_t sc;

	prepare(&sc);
	record->gate = cgate_create_pool(hold, &sc, record, 1, 0);
	ASSERT_EQUAL(cgate_wait_limit(record->gate, FOREVER), 0);
	start(&holder, 1);
	AWAIT(record->open == 1);
	ASSERT_ERROR(cgate_destroy(record->gate) == -1, EBUSY);
	start(&queued, 2);
	AWAIT(waiting(record->gate) == 1);
	ASSERT_ERROR(cgate_destroy(record->gate) == -1, EBUSY);
	let_go(2);
	pthread_join(holder.thread, NULL);
	pthread_join(queued.thread, NULL);
	ASSERT_EQUAL(holder.error, 0);
	ASSERT_EQUAL(queued.error, 0);
	ASSERT_EQUAL(cgate_destroy(record->gate), 0);
	ASSERT_ERROR(cgate_call(record->gate, NULL, NULL) == -1, EBADF);
	sc_destroy(&sc);
}

enum {
	GATES = 3,
	ROUNDS = 150
};
static _Atomic cgate_t racing[GATES];
static sc_t racing_policy;
static _Atomic unsigned unexpected, called, deleted;

static void *race_calls(void *seed)
{
	unsigned random = (unsigned)(uintptr_t)seed;

	for (int i = 0; i < ROUNDS; i++) {
		cgate_t gate = racing[rand_r(&random) % GATES];
		void *result;

		if (cgate_call(gate, NULL, &result) == 0)
			called++;
		else if (errno != EBADF && errno != EBUSY)
			unexpected++;
	}
	return NULL;
}

static void *race_sthreads(void *seed)
{
	unsigned random = (unsigned)(uintptr_t)seed;

	for (int i = 0; i < ROUNDS / 3; i++) {
		sc_t policy;

		sc_init(&policy);
		if (sc_cgate_add(&policy, racing[rand_r(&random) % GATES]) != 0)
			continue;

		struct life life = live_run(&policy, body_nothing, (void *)3);

		if (life.error && life.error != EBADF)
			unexpected++;
	}
	return NULL;
}

static void *race_deletes(void *seed)
{
	unsigned random = (unsigned)(uintptr_t)seed;

	for (int i = 0; i < ROUNDS; i++) {
		int which = rand_r(&random) % GATES;

		if (cgate_destroy(racing[which]) == 0) {
			racing[which] = cgate_create_pool(hold, &racing_policy, record, 1 + (unsigned)i % 2,
							  i % 3 ? 0 : CGATE_FRESH);
			unexpected += racing[which] < 0;
			deleted++;
		} else if (errno != EBADF && errno != EBUSY) {
			unexpected++;
		}
		usleep(rand_r(&random) % 500);
	}
	return NULL;
}

static void races(void)
{
	void *(*const bodies[])(void *) = { race_calls, race_calls, race_sthreads, race_deletes };
	pthread_t threads[sizeof(bodies) / sizeof(*bodies)];

	prepare(&racing_policy);
	for (int i = 0; i < GATES; i++)
		racing[i] = cgate_create(hold, &racing_policy, record);

	int fds = live_open_fds();

	for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++)
		pthread_create(&threads[i], NULL, bodies[i], (void *)(i + 1));
	for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++)
		pthread_join(threads[i], NULL);
	harness_note("%u calls, %u gates deleted", called, deleted);
	ASSERT_EQUAL(unexpected, 0);
	CU_ASSERT(called > 0 && deleted > 0);
	for (int i = 0; i < GATES; i++)
		ASSERT_EQUAL(cgate_destroy(racing[i]), 0);
	/* Virtual CPUs stay; the gates' descriptors do not. */
	CU_ASSERT(live_open_fds() <= fds + (int)(sizeof(bodies) / sizeof(*bodies)));
	sc_destroy(&racing_policy);
}

/* ---- into itself, and wrong calls -------------------------------------------------------------------------------- */

static void *call_own_pool(void *argument, void *trusted)
{
	const struct record *shared = trusted;

	(void)argument;
	return (void *)(intptr_t)(cgate_call(shared->gate, NULL, NULL) == 0 ? 0 : errno);
}

/* A policy is made before its gate, so no gate is granted to itself: the test gives it another policy. */
static void recursion(void)
{
	void *result;
	sc_t sc;

	prepare(&sc);
	record->gate = cgate_create_pool(call_own_pool, &sc, record, 3, 0);

	struct gate *gate = handle_get(&supervisor.gates, record->gate);

	sc_cgate_add(&sc, record->gate);
	gate->policy = policy_new(&sc, POLICY_KEPT);
	for (int i = 0; i < 3; i++) {
		ASSERT_EQUAL(cgate_call(record->gate, NULL, &result), 0);
		ASSERT_EQUAL(result, ELOOP);
	}
	sc_destroy(&sc);
}

static void *misuse_inside(void *gate)
{
	sc_t sc;

	sc_init(&sc);
	if (cgate_create_pool(hold, &sc, NULL, 1, 0) != -1 || errno != EPERM)
		return (void *)1;
	if (cgate_wait_limit((cgate_t)(intptr_t)gate, 1) != -1 || errno != EPERM)
		return (void *)2;
	return NULL;
}

static void misuse(void)
{
	sc_t sc;

	sc_init(&sc);
	ASSERT_ERROR(cgate_create_pool(hold, &sc, NULL, 1, 0) == -1, EPERM);
	ASSERT_ERROR(cgate_wait_limit(0, 1) == -1, EPERM);
	prepare(&sc);
	ASSERT_ERROR(cgate_create_pool(hold, &sc, NULL, 0, 0) == -1, EINVAL);
	ASSERT_ERROR(cgate_create_pool(hold, &sc, NULL, CGATE_INSTANCES_MAX + 1, 0) == -1, EINVAL);
	ASSERT_ERROR(cgate_create_pool(hold, &sc, NULL, 1, 2) == -1, EINVAL);
	ASSERT_ERROR(cgate_create_pool(NULL, &sc, NULL, 1, 0) == -1, EINVAL);
	ASSERT_ERROR(cgate_create_pool(hold, NULL, NULL, 1, 0) == -1, EINVAL);

	cgate_t gate = cgate_create_pool(hold, &sc, record, CGATE_INSTANCES_MAX, 0);

	CU_ASSERT_FATAL(gate >= 0);
	ASSERT_EQUAL(cgate_call(gate, NULL, NULL), 0);
	ASSERT_RETURNED(live_run_bare(misuse_inside, (void *)(intptr_t)gate), 0);
	ASSERT_EQUAL(cgate_destroy(gate), 0);
	ASSERT_ERROR(cgate_wait_limit(gate, 1) == -1, EBADF);
	ASSERT_ERROR(cgate_wait_limit(-1, 1) == -1, EBADF);
	sc_destroy(&sc);
}

static const struct harness_test tests[] = {
	{ "instances have memory of their own and serve side by side", separate_memory, HARNESS_FORK },
	{ "calls that wait are served in order of arrival", order_of_arrival, HARNESS_FORK },
	{ "a wait ends with the gate's bound, or with the caller's budget", bounded, HARNESS_FORK },
	{ "a killed sthread stops waiting, and others keep their places", killed_while_waiting, HARNESS_FORK },
	{ "an sthread calls a gate from a thread that steps it (control)", blocked_in_gate, HARNESS_FORK },
	{ "a gate that blocks is stopped with its caller, or by its budget", killed_in_blocked_gate, HARNESS_FORK },
	{ "a gate with calls under way or waiting is not deleted", destroy_in_use, HARNESS_FORK },
	{ "threads that call, create and delete gates do not harm each other", races, HARNESS_FORK },
	{ "a pool cannot be entered from within itself", recursion, HARNESS_FORK },
	{ "pools called wrongly", misuse, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
