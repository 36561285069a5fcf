/* live_gate_reports.c - what the owner of a gate is told about it, and what its callers are not. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "live.h"
#include "monitor/monitor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

enum way {
	RETURNS,
	FAULTS,
	EXITS,
	SPINS,
	BLOCKS,
	DENIED,
	WAYS
};

struct record {
	cgate_t gate;
	int read_end;
	_Atomic int open;
	int error;
	enum way way;
	uint64_t window;
	struct identity {
		uint64_t instance, canary;
		pid_t process;
		uint8_t random[16];
	} identities[2 * WAYS];
	int count;
};

static struct record *record;
static int pipe_ends[2];
static int kept;

static void *act(void *argument, void *trusted)
{
	struct record *shared = trusted;
	char byte;

	if (kept++ == 0) {
		struct identity *identity = &shared->identities[shared->count++ % (2 * WAYS)];

		identity->instance = ((const volatile struct dune_life *)(shared->window + WINDOW_LIFE))->instance;
		identity->process = getpid();
		__asm__ volatile("movq %%fs:0x28, %0" : "=r"(identity->canary));
		syscall(SYS_getrandom, identity->random, sizeof(identity->random), 0);
	}
	switch ((enum way)(uintptr_t)argument) {
	case FAULTS:
		*(volatile uint8_t *)0x1234 = 1;
		break;
	case EXITS:
		_exit(9);
	case SPINS:
		body_spin(NULL);
		break;
	case BLOCKS:
		shared->open++;
		byte = (char)read(shared->read_end, &byte, 1);
		shared->open--;
		break;
	case DENIED:
		syscall(SYS_socket, 1, 1, 0);
		break;
	case RETURNS:
	default:
		break;
	}
	return (void *)(uintptr_t)kept;
}

static void prepare(sc_t *sc)
{
	live_init();

	tag_t tag = tag_new();

	record = smalloc(tag, sizeof(*record));
	CU_ASSERT_PTR_NOT_NULL_FATAL(record);
	ASSERT_EQUAL(pipe(pipe_ends), 0);
	record->read_end = pipe_ends[0];
	record->window = live_window();
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, BOTH), 0);
	ASSERT_EQUAL(sc_fd_add(sc, pipe_ends[0], PROT_READ), 0);
	sc_cpu_budget(sc, 60);
	sc_flags_add(sc, SC_KILL);
}

static const struct {
	int error; /* of the caller */
	enum sthread_end end;
} expected[WAYS] = {
	[FAULTS] = { ECANCELED, STHREAD_FAULTED },   [EXITS] = { ECANCELED, STHREAD_EXITED },
	[SPINS] = { ETIMEDOUT, STHREAD_OUT_OF_CPU }, [BLOCKS] = { ETIMEDOUT, STHREAD_OUT_OF_CPU },
	[DENIED] = { ECANCELED, STHREAD_DENIED },
};

static void *call_the_gate(void *argument)
{
	struct record *shared = argument;

	shared->error = cgate_call(shared->gate, (void *)(uintptr_t)shared->way, NULL) == 0 ? 0 : errno;
	return (void *)1;
}

static void failures(void)
{
	struct cgate_info info;
	void *result;
	sc_t sc, policy;

	prepare(&sc);
	record->gate = cgate_create(act, &sc, record);
	ASSERT_EQUAL(sc_copy(&policy, &sc), 0);
	sc_cpu_budget(&policy, 0);
	sc_cgate_add(&policy, record->gate);
	ASSERT_EQUAL(cgate_get_info(record->gate, &info), 0);
	ASSERT_EQUAL(info.instances, 1);
	ASSERT_EQUAL(info.calls + info.lives + info.failures + info.restarts + info.run_nanoseconds, 0);

	uint64_t failed = 0;

	for (enum way way = FAULTS; way < WAYS; way++) {
		for (int inside = 0; inside < 2; inside++) {
			ASSERT_EQUAL(cgate_call(record->gate, NULL, &result), 0);
			ASSERT_EQUAL(result, 1); /* pristine */
			record->way = way;
			if (inside)
				ASSERT_RETURNED(live_run(&policy, call_the_gate, record), 1);
			else
				call_the_gate(record);
			ASSERT_EQUAL(record->error, expected[way].error);
			failed++;
			ASSERT_EQUAL(cgate_get_info(record->gate, &info), 0);
			ASSERT_EQUAL(info.calls, 2 * failed);
			ASSERT_EQUAL(info.failures, failed);
			ASSERT_EQUAL(info.lives, failed);
			ASSERT_EQUAL(info.restarts, failed - 1);
			ASSERT_EQUAL(info.last_failure.end, expected[way].end);
			ASSERT_EQUAL(info.last_failure.instance, record->identities[failed - 1].instance);
			if (way == FAULTS) {
				ASSERT_EQUAL(info.last_failure.vector, PAGE_FAULT);
				ASSERT_EQUAL(info.last_failure.error_code, WRITE_ABSENT);
				ASSERT_EQUAL(info.last_failure.address, 0x1234);
			}
			if (way == EXITS)
				ASSERT_EQUAL(info.last_failure.exit_status, 9);
			if (way == DENIED)
				ASSERT_EQUAL(info.last_failure.system_call, SYS_socket);
		}
	}
	/* The budget of a call that spun and of one that waited for a descriptor are in the time of the gate. */
	CU_ASSERT(info.run_nanoseconds >= (uint64_t)4 * 60 * 1000 * 1000);
	ASSERT_EQUAL(info.busy + info.waiting, 0);
	/* No life of the gate is like another one. */
	for (int i = 0; i < record->count; i++)
		for (int j = 0; j < i; j++) {
			const struct identity *one = &record->identities[i], *other = &record->identities[j];

			CU_ASSERT(one->instance != other->instance && one->canary != other->canary &&
				  one->process != other->process &&
				  memcmp(one->random, other->random, sizeof(one->random)) != 0);
		}
	sc_destroy(&policy);
	sc_destroy(&sc);
}

static void *block(void *unused)
{
	(void)unused;
	CU_ASSERT(cgate_call(record->gate, (void *)BLOCKS, NULL) == 0);
	return NULL;
}

static void load_is_told(void)
{
	struct cgate_info info;
	pthread_t threads[3];
	sc_t sc;

	prepare(&sc);
	sc_cpu_budget(&sc, 0);
	record->gate = cgate_create_pool(act, &sc, record, 2, CGATE_FRESH);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, block, NULL);
	do {
		usleep(1000);
		ASSERT_EQUAL(cgate_get_info(record->gate, &info), 0);
	} while (info.waiting + (unsigned)record->open < 3);
	ASSERT_EQUAL(info.instances, 2);
	ASSERT_EQUAL(info.busy, 2);
	ASSERT_EQUAL(info.waiting, 1);
	ASSERT_EQUAL(cgate_wait_limit(record->gate, 1), 0);
	ASSERT_ERROR(cgate_call(record->gate, NULL, NULL) == -1, EBUSY);
	ASSERT_EQUAL(write(pipe_ends[1], "abc", 3), 3);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	ASSERT_EQUAL(cgate_get_info(record->gate, &info), 0);
	ASSERT_EQUAL(info.busy + info.waiting, 0);
	ASSERT_EQUAL(info.calls, 3);
	ASSERT_EQUAL(info.lives, 3);
	ASSERT_EQUAL(info.refused, 1);
	ASSERT_EQUAL(info.failures + info.restarts + (uint64_t)info.last_failure.instance, 0);
	sc_destroy(&sc);
}

static void *ask_inside(void *gate)
{
	struct cgate_info info;

	return (void *)(intptr_t)(cgate_get_info((cgate_t)(intptr_t)gate, &info) == 0 ? 0 : errno);
}

static void misuse(void)
{
	struct cgate_info info;
	sc_t sc;

	ASSERT_ERROR(cgate_get_info(0, &info) == -1, EPERM);
	prepare(&sc);

	cgate_t gate = cgate_create(act, &sc, record);

	ASSERT_ERROR(cgate_get_info(gate, NULL) == -1, EINVAL);
	ASSERT_ERROR(cgate_get_info(-1, &info) == -1, EBADF);
	ASSERT_RETURNED(live_run_bare(ask_inside, (void *)(intptr_t)gate), EPERM);
	ASSERT_EQUAL(cgate_destroy(gate), 0);
	ASSERT_ERROR(cgate_get_info(gate, &info) == -1, EBADF);
	sc_destroy(&sc);
}

static const struct harness_test tests[] = {
	{ "the owner is told how and where a gate failed; each restart is a new life", failures, HARNESS_FORK },
	{ "the owner is told how busy a gate is", load_is_told, HARNESS_FORK },
	{ "asked wrongly", misuse, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
