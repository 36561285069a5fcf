/*
 * live_refusals.c - one table of the public functions that take a handle or must not be called from everywhere, and the
 * wrong places to call them from: before sthread_init(), inside an sthread and a gate, with handles that are stale or were
 * never given, while another thread drives the sthread, without a place for the answer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "live.h"

enum takes {
	NO_HANDLE,
	STHREAD,        /* that must not be driven by another thread */
	STHREAD_DRIVEN, /* that may be */
	OTHER           /* of a tag, a gate, a policy, a template */
};

static sc_t policy; /* made by sc_init() before sthread_init() */

static void *entry(void *argument, void *trusted)
{
	(void)trusted;
	return argument;
}

static int outcome(bool failed)
{
	return failed ? errno : 0;
}

#define CALL(name, expression)              \
	static int name(int handle)         \
	{                                   \
		(void)handle;               \
		errno = 0;                  \
		return outcome(expression); \
	}

static struct sthread_info info;
static struct sthread_statistics statistics;
static struct sthread_policy_statistics sums;
static struct tag_statistics tag_numbers;
static struct cgate_info gate_numbers;
static enum sthread_state state;
static uint64_t nanoseconds;
static sthread_t made;
static void *result;
static int fd;
static short events;

/* clang-format off */
CALL(call_init, sthread_init() == -1)
CALL(call_create, sthread_create(&made, &policy, body_nothing, NULL) == -1)
CALL(call_create_frozen, sthread_create_frozen(&made, (sc_frozen_t)handle, body_nothing, NULL) == -1)
CALL(call_join, sthread_join(handle, NULL) == -1)
CALL(call_join_info, sthread_join_info(handle, NULL, &info) == -1)
CALL(call_step, sthread_step(handle) == -1)
CALL(call_state, sthread_state(handle, &state) == -1)
CALL(call_wait_fd, sthread_wait_fd(handle, &fd, &events) == -1)
CALL(call_wait_deadline, sthread_wait_deadline(handle, &nanoseconds) == -1)
CALL(call_wall_deadline, sthread_wall_deadline(handle, &nanoseconds) == -1)
CALL(call_kill, sthread_kill(handle) == -1)
CALL(call_get_info, sthread_get_info(handle, &info) == -1)
CALL(call_statistics, sthread_statistics(&statistics) == -1)
CALL(call_policy_statistics, sthread_policy_statistics("nobody", &sums) == -1)
CALL(call_tag_new, tag_new() == -1)
CALL(call_tag_delete, tag_delete(handle) == -1)
CALL(call_tag_quota, tag_quota(handle, 1) == -1)
CALL(call_tag_statistics, tag_statistics(handle, &tag_numbers) == -1)
CALL(call_smalloc, smalloc(handle, 16) == NULL)
CALL(call_smemalign, smemalign(handle, 64, 16) == NULL)
CALL(call_gate_create, cgate_create(entry, &policy, NULL) == -1)
CALL(call_gate_create_fresh, cgate_create_fresh(entry, &policy, NULL) == -1)
CALL(call_gate_create_pool, cgate_create_pool(entry, &policy, NULL, 2, 0) == -1)
CALL(call_gate_create_frozen, cgate_create_frozen(entry, (sc_frozen_t)handle, NULL, 1, 0) == -1)
CALL(call_gate_wait_limit, cgate_wait_limit(handle, 1) == -1)
CALL(call_gate_get_info, cgate_get_info(handle, &gate_numbers) == -1)
CALL(call_gate_destroy, cgate_destroy(handle) == -1)
CALL(call_gate, cgate_call(handle, NULL, NULL) == -1)
CALL(call_gate_buffer, cgate_call_buf(handle, "", 0, NULL, NULL) == -1)
CALL(call_template, sc_template(&policy, body_nothing, NULL) == -1)
CALL(call_template_refresh, sc_template_refresh(handle) == -1)
CALL(call_template_result, sc_template_result(handle, &result) == -1)
CALL(call_template_destroy, sc_template_destroy(handle) == -1)
CALL(call_frozen_destroy, sc_frozen_destroy((sc_frozen_t)handle) == -1)
/* clang-format on */

enum {
	IN_A_GATE = 1,   /* gates may do it, with sthreads of their own */
	AT_ANY_TIME = 2, /* before sthread_init() as well */
};

static const struct {
	const char *name;
	int (*call)(int handle);
	enum takes takes;
	unsigned allowed;
} functions[] = {
	{ "sthread_init", call_init, NO_HANDLE, AT_ANY_TIME },
	{ "sthread_create", call_create, NO_HANDLE, IN_A_GATE },
	{ "sthread_create_frozen", call_create_frozen, OTHER, IN_A_GATE },
	{ "sthread_join", call_join, STHREAD, IN_A_GATE },
	{ "sthread_join_info", call_join_info, STHREAD, IN_A_GATE },
	{ "sthread_step", call_step, STHREAD, IN_A_GATE },
	{ "sthread_state", call_state, STHREAD, IN_A_GATE },
	{ "sthread_wait_fd", call_wait_fd, STHREAD, 0 },
	{ "sthread_wait_deadline", call_wait_deadline, STHREAD, 0 },
	{ "sthread_wall_deadline", call_wall_deadline, STHREAD, 0 },
	{ "sthread_kill", call_kill, STHREAD_DRIVEN, IN_A_GATE },
	{ "sthread_get_info", call_get_info, STHREAD, IN_A_GATE },
	{ "sthread_statistics", call_statistics, NO_HANDLE, 0 },
	{ "sthread_policy_statistics", call_policy_statistics, NO_HANDLE, 0 },
	{ "tag_new", call_tag_new, NO_HANDLE, 0 },
	{ "tag_delete", call_tag_delete, OTHER, 0 },
	{ "tag_quota", call_tag_quota, OTHER, 0 },
	{ "tag_statistics", call_tag_statistics, OTHER, 0 },
	{ "smalloc", call_smalloc, OTHER, 0 },
	{ "smemalign", call_smemalign, OTHER, 0 },
	{ "cgate_create", call_gate_create, NO_HANDLE, 0 },
	{ "cgate_create_fresh", call_gate_create_fresh, NO_HANDLE, 0 },
	{ "cgate_create_pool", call_gate_create_pool, NO_HANDLE, 0 },
	{ "cgate_create_frozen", call_gate_create_frozen, OTHER, 0 },
	{ "cgate_wait_limit", call_gate_wait_limit, OTHER, 0 },
	{ "cgate_get_info", call_gate_get_info, OTHER, 0 },
	{ "cgate_destroy", call_gate_destroy, OTHER, 0 },
	{ "cgate_call", call_gate, OTHER, 0 },
	{ "cgate_call_buf", call_gate_buffer, OTHER, 0 },
	{ "sc_template", call_template, NO_HANDLE, 0 },
	{ "sc_template_refresh", call_template_refresh, OTHER, 0 },
	{ "sc_template_result", call_template_result, OTHER, 0 },
	{ "sc_template_destroy", call_template_destroy, OTHER, 0 },
	{ "sc_frozen_destroy", call_frozen_destroy, OTHER, AT_ANY_TIME },
};

enum {
	FUNCTIONS = sizeof(functions) / sizeof(*functions)
};

static void before_init(void)
{
	sc_init(&policy);
	for (int i = 0; i < FUNCTIONS; i++)
		if (!(functions[i].allowed & AT_ANY_TIME)) {
			int error = functions[i].call(0);

			live_check(error == EPERM, __FILE__, __LINE__, "%s() is EPERM, not %d", functions[i].name,
				   error);
		}
}

/* Inside.  Returns the place of the first that is not refused with EPERM, and its errno; or 0. */
static void *all_refused(void *handle)
{
	for (uintptr_t i = 0; i < FUNCTIONS; i++) {
		int error = functions[i].call((int)(intptr_t)handle);

		if (error != EPERM)
			return (void *)((i + 1) << 16 | (unsigned)error);
	}
	return NULL;
}

static void *all_refused_in_gate(void *handle, void *trusted)
{
	(void)trusted;
	for (uintptr_t i = 0; i < FUNCTIONS; i++) {
		bool allowed = functions[i].allowed & IN_A_GATE;
		bool of_sthread = functions[i].takes == STHREAD || functions[i].takes == STHREAD_DRIVEN;

		if (allowed && !of_sthread)
			continue;
		int error = functions[i].call((int)(intptr_t)handle);

		/* It may make sthreads of its own; those of others it does not know. */
		if (error != (allowed ? EBADF : EPERM))
			return (void *)((i + 1) << 16 | (unsigned)error);
	}
	return NULL;
}

static void check_refused(const void *where, unsigned line)
{
	uintptr_t at = (uintptr_t)where >> 16, error = (uintptr_t)where & 0xffff;

	live_check(where == NULL, __FILE__, line, "%s() is refused, not %lu",
		   at && at <= FUNCTIONS ? functions[at - 1].name : "?", error);
}

static void inside(void)
{
	struct life life;
	sthread_t parked;
	void *answer;
	cgate_t gate;

	sc_init(&policy);
	live_init();
	ASSERT_EQUAL(live_create(&parked, &policy, body_park_then_read, &policy), 0);
	life = live_run(&policy, all_refused, NULL);
	ASSERT_END(life, STHREAD_RETURNED);
	check_refused(life.value, __LINE__);
	life = live_run(&policy, all_refused, (void *)(intptr_t)parked); /* a handle that is good in the process */
	ASSERT_END(life, STHREAD_RETURNED);
	check_refused(life.value, __LINE__);
	gate = cgate_create(all_refused_in_gate, &policy, NULL);
	ASSERT_EQUAL(cgate_call(gate, (void *)(intptr_t)parked, &answer), 0);
	check_refused(answer, __LINE__);
	ASSERT_EQUAL(live_step(parked), 0);
	ASSERT_END(live_join(parked), STHREAD_RETURNED);
}

static void handles(void)
{
	static const int bad[] = { -1, 0, 1, 5, INT_MAX, INT_MIN, 0x3ffff, 1 << 18, (1 << 18) + 100, -4096 };
	sthread_t st;

	sc_init(&policy);
	live_init();
	ASSERT_EQUAL(sthread_create(&st, &policy, body_nothing, NULL), 0);
	ASSERT_EQUAL(sthread_join(st, NULL), 0);
	for (int i = 0; i < FUNCTIONS; i++)
		for (size_t j = 0; functions[i].takes != NO_HANDLE && j <= sizeof(bad) / sizeof(*bad); j++) {
			int handle = j < sizeof(bad) / sizeof(*bad) ? bad[j] : st; /* the last one is stale */
			int error = functions[i].call(handle);

			live_check(error == EBADF, __FILE__, __LINE__, "%s(%d) is EBADF, not %d", functions[i].name,
				   handle, error);
		}
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

static void *wait_for_input(void *descriptor)
{
	char byte;

	return (void *)read((int)(intptr_t)descriptor, &byte, 1);
}

static void *join_it(void *st)
{
	return (void *)(intptr_t)(sthread_join((sthread_t)(intptr_t)st, NULL) == 0 ? 0 : errno);
}

static void driven_elsewhere(void)
{
	pthread_t thread;
	sthread_t st;
	int ends[2];
	void *error;
	sc_t sc;

	live_init();
	ASSERT_EQUAL(pipe(ends), 0);
	sc_init(&sc);
	sc_fd_add(&sc, ends[0], PROT_READ);
	ASSERT_EQUAL(live_create(&st, &sc, wait_for_input, (void *)(intptr_t)ends[0]), 0);
	pthread_create(&thread, NULL, join_it, (void *)(intptr_t)st);
	for (double until = live_seconds() + 10.0 * harness_time_scale(); live_seconds() < until; sched_yield())
		if (call_state(st) == EBUSY)
			break;
	for (int i = 0; i < FUNCTIONS; i++)
		if (functions[i].takes == STHREAD) {
			int got = functions[i].call(st);

			live_check(got == EBUSY, __FILE__, __LINE__, "%s() is EBUSY, not %d", functions[i].name, got);
		}
	ASSERT_EQUAL(call_kill(st), 0);
	pthread_join(thread, &error);
	ASSERT_EQUAL(error, ECANCELED);
	for (int i = 0; i < FUNCTIONS; i++)
		if (functions[i].takes == STHREAD || functions[i].takes == STHREAD_DRIVEN)
			live_check(functions[i].call(st) == EBADF, __FILE__, __LINE__, "%s() is EBADF then",
				   functions[i].name);
	sc_destroy(&sc);
}

/* No place for the answer: nothing changes. */
static void no_place(void)
{
	struct sthread_statistics before, after;
	sthread_t parked, ended;
	cgate_t gate;
	tag_t tag;
	sc_t sc;

	live_init();
	sc_init(&sc);
	ASSERT_EQUAL(live_create(&parked, &sc, body_park_then_read, &policy), 0);
	ASSERT_EQUAL(sthread_create(&ended, &sc, body_nothing, NULL), 0);
	gate = cgate_create(entry, &sc, NULL);
	tag = tag_new();
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	ASSERT_ERROR(sthread_state(parked, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_get_info(parked, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_wait_deadline(parked, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_wall_deadline(parked, NULL) == -1, EINVAL);
	ASSERT_EQUAL(sthread_wait_fd(parked, NULL, NULL), 0);
	ASSERT_EQUAL(sthread_wall_deadline(parked, &nanoseconds), 0);
	ASSERT_EQUAL(nanoseconds, 0); /* it has no wall budget */
	ASSERT_ERROR(sthread_wait_fd(ended, &fd, &events) == -1, EAGAIN);
	ASSERT_ERROR(sthread_wait_deadline(ended, &nanoseconds) == -1, EAGAIN);
	ASSERT_ERROR(sthread_statistics(NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_policy_statistics("nobody", NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_policy_statistics(NULL, &sums) == -1, EINVAL);
	ASSERT_ERROR(sthread_policy_statistics("nobody", &sums) == -1, ENOENT);
	ASSERT_ERROR(sthread_create(NULL, &sc, body_nothing, NULL) == -1, EINVAL);
	ASSERT_ERROR(cgate_get_info(gate, NULL) == -1, EINVAL);
	ASSERT_ERROR(tag_statistics(tag, NULL) == -1, EINVAL);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	CU_ASSERT(memcmp(&before, &after, sizeof(before)) == 0);
	ASSERT_EQUAL(live_step(parked), 0);
	ASSERT_END(live_join(parked), STHREAD_RETURNED);
	ASSERT_RETURNED(live_join(ended), 0);
}

static const struct harness_test tests[] = {
	{ "before sthread_init() each is EPERM", before_init, HARNESS_FORK },
	{ "inside an sthread each is EPERM, and a gate has no access to sthreads that are not its own", inside,
	  HARNESS_FORK },
	{ "a handle that is stale, or was never given, is EBADF", handles, HARNESS_FORK },
	{ "while another thread drives an sthread, each but sthread_kill() is EBUSY", driven_elsewhere, HARNESS_FORK },
	{ "without a place for the answer nothing changes", no_place, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
