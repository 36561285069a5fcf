/* live_gate_sthreads.c - sthreads that gates create: memory, handles, lifetimes, budgets and kills. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "live.h"
#include "nested.h"
#include "supervisor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
	FOREVER = 3600 * 1000, /* milliseconds: a test that waits so long has failed */
};

/* In a tag that gates and what they create may be granted. */
struct record {
	tag_t tag, private_tag;
	cgate_t gate, other;
	uint8_t *private;
	int read_end;
	_Atomic int reached;
	sthread_t st, more[CGATE_STHREADS_MAX + 1];
	struct sthread_info info;
	int error;
	uint64_t value;
	int depth;
	cgate_t gates[8];
};

static struct record *record;
static int pipe_ends[2];
static int global = 3; /* not in a page of zeros */

/* The entry of all gates here: does what the caller names. */
static void *act(void *function, void *trusted)
{
	return ((stcb_t)function)(trusted);
}

/* A policy with the record's tag, a tag for the gate alone, and the reading end of a pipe. */
static void prepare(sc_t *sc)
{
	live_init();

	tag_t tag = tag_new(), private_tag = tag_new();

	record = smalloc(tag, sizeof(*record));
	CU_ASSERT_PTR_NOT_NULL_FATAL(record);
	record->tag = tag;
	record->private_tag = private_tag;
	record->private = smalloc(private_tag, 16);
	ASSERT_EQUAL(pipe(pipe_ends), 0);
	record->read_end = pipe_ends[0];
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, BOTH), 0);
	ASSERT_EQUAL(sc_mem_add(sc, private_tag, BOTH), 0);
	ASSERT_EQUAL(sc_fd_add(sc, pipe_ends[0], PROT_READ), 0);
}

/* Calls the gate from host mode and returns what it returned, or minus the error. */
static long call(cgate_t gate, stcb_t function)
{
	void *result = NULL;

	return cgate_call(gate, (void *)function, &result) == 0 ? (long)result : -errno;
}

static unsigned sthreads_of(cgate_t handle)
{
	supervisor_lock();

	const struct gate *gate = handle_get(&supervisor.gates, handle);
	unsigned count = 0;

	for (unsigned i = 0; gate && i < gate->instances; i++)
		count += gate->instance[i].sthread_count;
	supervisor_unlock();
	return count;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void *body_memory(void *argument)
{
	struct record *shared = argument;
	int before = global;

	global = 77;
	shared->value = 0xabc;
	return (void *)(uintptr_t)(unsigned)before;
}

static void *in_gate_memory(void *argument)
{
	struct record *shared = argument;
	sthread_t st;
	void *result;
	sc_t sc;

	global = 55;
	sc_init(&sc);
	sc_mem_add(&sc, shared->tag, BOTH);
	if (sthread_create(&st, &sc, body_memory, shared) != 0)
		return (void *)(intptr_t)-errno;
	if (sthread_join_info(st, &result, &shared->info) != 0)
		return (void *)(intptr_t)-errno;
	if (global != 55 || shared->value != 0xabc || (intptr_t)result != 3)
		return (void *)2;
	/* What the gate has for itself. */
	if (sthread_create(&st, &sc, body_read, shared->private) != 0)
		return (void *)3;
	if (sthread_join_info(st, &result, &shared->info) != -1 || errno != ECANCELED)
		return (void *)4;
	sc_mem_add(&sc, shared->private_tag, PROT_READ);
	if (sthread_create(&st, &sc, body_read, shared->private) != 0 || sthread_join(st, &result) != 0)
		return (void *)5;
	shared->value = (uint64_t)result;
	sc_destroy(&sc);
	return (void *)1;
}

static void *call_from_sthread(void *argument)
{
	const struct record *shared = argument;
	void *result = NULL;

	if (cgate_call(shared->gate, (void *)in_gate_memory, &result) != 0)
		return (void *)(intptr_t)-errno;
	return result;
}

static void memory(void)
{
	sc_t sc, policy;

	prepare(&sc);
	record->private[0] = 0x44;
	record->gate = cgate_create(act, &sc, record);
	for (int i = 0; i < 3; i++) {
		ASSERT_EQUAL(call(record->gate, in_gate_memory), 1);
		ASSERT_EQUAL(record->value, 0x44);
		ASSERT_EQUAL(record->info.end, STHREAD_FAULTED);
		ASSERT_EQUAL(record->info.vector, PAGE_FAULT);
		ASSERT_EQUAL(record->info.error_code, READ_ABSENT);
		ASSERT_EQUAL(record->info.address, (uint64_t)record->private);
	}
	sc_init(&policy);
	sc_mem_add(&policy, record->tag, BOTH);
	sc_cgate_add(&policy, record->gate);
	ASSERT_RETURNED(live_run(&policy, call_from_sthread, record), 1);
	ASSERT_EQUAL(sthreads_of(record->gate), 0);
	ASSERT_EQUAL(global, 3);
	sc_destroy(&sc);
}

/* ---- handles ----------------------------------------------------------------------------------------------------- */

static void *body_park(void *argument)
{
	sthread_park();
	return argument;
}

/* On a slow machine a slice may be over before. */
static int settle(sthread_t st)
{
	enum sthread_state state;

	do
		if (sthread_state(st, &state) != 0 || (state == STHREAD_RUNNABLE && sthread_step(st) != 0))
			return -1;
	while (state == STHREAD_RUNNABLE);
	return 0;
}

static void *in_gate_park(void *argument)
{
	struct record *shared = argument;
	sc_t sc;

	sc_init(&sc);
	if (sthread_create(&shared->st, &sc, body_park, (void *)0x99) != 0)
		return (void *)-1;
	return (void *)(intptr_t)settle(shared->st);
}

/* All calls on the handle in the record.  Returns 0 if each fails with the error in the record. */
static void *try_handle(void *argument)
{
	struct record *shared = argument;
	struct sthread_info info;
	enum sthread_state state;

	if (sthread_state(shared->st, &state) != -1 || errno != shared->error)
		return (void *)1;
	if (sthread_step(shared->st) != -1 || errno != shared->error)
		return (void *)2;
	if (sthread_get_info(shared->st, &info) != -1 || errno != shared->error)
		return (void *)3;
	if (sthread_kill(shared->st) != -1 || errno != shared->error)
		return (void *)4;
	if (sthread_join(shared->st, NULL) != -1 || errno != shared->error)
		return (void *)5;
	return NULL;
}

static void *in_gate_finish(void *argument)
{
	struct record *shared = argument;
	enum sthread_state state;
	void *result;

	if (sthread_state(shared->st, &state) != 0 || state != STHREAD_PARKED)
		return (void *)1;
	if (sthread_join(shared->st, &result) != -1 || errno != EDEADLK)
		return (void *)2;
	if (sthread_step(shared->st) != 0 || settle(shared->st) != 0)
		return (void *)3;
	if (sthread_state(shared->st, &state) != 0 || state != STHREAD_ENDED)
		return (void *)4;
	if (sthread_get_info(shared->st, &shared->info) != 0 || shared->info.parks != 1)
		return (void *)5;
	if (sthread_join(shared->st, &result) != 0)
		return (void *)6;
	if (sthread_state(shared->st, &state) != -1 || errno != EBADF)
		return (void *)7;
	return result;
}

static void handles(void)
{
	sthread_t own;
	sc_t sc, none;

	prepare(&sc);
	record->gate = cgate_create(act, &sc, record);

	cgate_t other = cgate_create(act, &sc, record);

	ASSERT_EQUAL(call(record->gate, in_gate_park), 0);
	record->error = EBADF;
	ASSERT_EQUAL(try_handle(record), 0);      /* the process */
	ASSERT_EQUAL(call(other, try_handle), 0); /* another gate */
	record->error = EPERM;
	sc_init(&none);
	sc_mem_add(&none, record->tag, BOTH);
	ASSERT_RETURNED(live_run(&none, try_handle, record), 0); /* an sthread */
	ASSERT_EQUAL(call(record->gate, in_gate_finish), 0x99);  /* its own */
	/* A gate cannot reach an sthread of the process either. */
	ASSERT_EQUAL(live_create(&own, &none, body_park, (void *)5), 0);
	record->st = own;
	record->error = EBADF;
	ASSERT_EQUAL(call(record->gate, try_handle), 0);
	ASSERT_EQUAL(live_step(own), 0);
	ASSERT_RETURNED(live_join(own), 5);
	sc_destroy(&sc);
}

static void *in_gate_hold(void *argument)
{
	struct record *shared = argument;
	char byte;

	shared->reached++;
	return (void *)(intptr_t)read(shared->read_end, &byte, 1);
}

static void *call_hold(void *unused)
{
	(void)unused;
	return (void *)call(record->gate, in_gate_hold);
}

/* Instances of one pool are strangers to each other. */
static void siblings(void)
{
	pthread_t thread;
	void *result;
	sc_t sc;

	prepare(&sc);
	record->gate = cgate_create_pool(act, &sc, record, 2, 0);
	ASSERT_EQUAL(call(record->gate, in_gate_park), 0);
	pthread_create(&thread, NULL, call_hold, NULL); /* takes the instance used last */
	while (!record->reached)
		usleep(1000);
	record->error = EBADF;
	ASSERT_EQUAL(call(record->gate, try_handle), 0);
	ASSERT_EQUAL(write(pipe_ends[1], "", 1), 1);
	pthread_join(thread, &result);
	ASSERT_EQUAL((long)result, 1);
	ASSERT_EQUAL(call(record->gate, in_gate_finish), 0x99); /* the control: taken again by the creator */
	sc_destroy(&sc);
}

/* ---- lifetimes --------------------------------------------------------------------------------------------------- */

static void *in_gate_fill(void *argument)
{
	struct record *shared = argument;
	sc_t sc;

	sc_init(&sc);
	sc_mem_add(&sc, shared->tag, BOTH);
	sc_fd_add(&sc, shared->read_end, PROT_READ);
	for (int i = 0; i <= CGATE_STHREADS_MAX; i++)
		if (sthread_create(&shared->more[i], &sc, body_park, NULL) != 0)
			return (void *)(intptr_t)(errno == EAGAIN ? i : -errno);
	return (void *)-1;
}

static void *in_gate_fill_and_fault(void *argument)
{
	in_gate_fill(argument);
	return body_write((void *)8);
}

static void *in_gate_fill_and_kill(void *argument)
{
	struct record *shared = argument;
	struct sthread_info info;

	in_gate_fill(argument);
	for (int i = 0; i < CGATE_STHREADS_MAX; i++) {
		if (sthread_kill(shared->more[i]) != 0 || sthread_kill(shared->more[i]) != 0)
			return (void *)1;
		if (sthread_join_info(shared->more[i], NULL, &info) != -1 || errno != ECANCELED ||
		    info.end != STHREAD_KILLED)
			return (void *)2;
	}
	return NULL;
}

static unsigned sthread_handles(void)
{
	unsigned count = 0;

	supervisor_lock();
	for (uint32_t i = 0; i < supervisor.sthreads.count; i++)
		count += supervisor.sthreads.slots[i].object != NULL;
	supervisor_unlock();
	return count;
}

static void lifetimes(void)
{
	sc_t sc;

	prepare(&sc);
	record->gate = cgate_create(act, &sc, record);

	cgate_t fresh = cgate_create_fresh(act, &sc, record);
	int fds = live_open_fds();

	for (int i = 0; i < 3; i++) {
		struct sthread_statistics before, after;

		ASSERT_EQUAL(call(record->gate, in_gate_fill), CGATE_STHREADS_MAX);
		ASSERT_EQUAL(sthreads_of(record->gate), CGATE_STHREADS_MAX); /* a long-lived gate keeps them */
		ASSERT_EQUAL(sthread_handles(), CGATE_STHREADS_MAX);
		ASSERT_EQUAL(call(record->gate, in_gate_fill_and_fault), -ECANCELED);
		ASSERT_EQUAL(sthread_handles(), 0);
		ASSERT_EQUAL(call(fresh, in_gate_fill), CGATE_STHREADS_MAX);
		ASSERT_EQUAL(sthread_handles(), 0);
		ASSERT_EQUAL(call(record->gate, in_gate_fill_and_kill), 0);
		ASSERT_EQUAL(sthread_handles(), 0);
		/* Their memory is used again. */
		ASSERT_EQUAL(sthread_statistics(&before), 0);
		ASSERT_EQUAL(call(fresh, in_gate_fill), CGATE_STHREADS_MAX);
		ASSERT_EQUAL(sthread_statistics(&after), 0);
		if (i == 2)
			ASSERT_EQUAL(after.address_spaces, before.address_spaces);
	}
	ASSERT_EQUAL(call(record->gate, in_gate_fill), CGATE_STHREADS_MAX);
	ASSERT_EQUAL(cgate_destroy(record->gate), 0);
	ASSERT_EQUAL(sthread_handles(), 0);
	ASSERT_EQUAL(live_open_fds(), fds);
	ASSERT_EQUAL(cgate_destroy(fresh), 0);
	sc_destroy(&sc);
}

/* A child of the process has no gates, and what they had created is no trouble to it. */
static void forks(void)
{
	sc_t sc, none;
	int status = -1;

	prepare(&sc);
	record->gate = cgate_create(act, &sc, record);
	ASSERT_EQUAL(call(record->gate, in_gate_fill), CGATE_STHREADS_MAX);

	cgate_t of_parent = record->gate; /* the child has no tags */
	pid_t child = fork();

	if (child == 0) {
		cgate_t gate;
		void *result = NULL;
		bool good;

		sc_init(&none);
		good = cgate_call(of_parent, (void *)body_nothing, NULL) == -1 && errno == EBADF;
		gate = cgate_create(act, &none, NULL);
		good = good && gate >= 0 && cgate_call(gate, (void *)body_nothing, &result) == 0 && !result;
		_exit(good && cgate_destroy(gate) == 0 ? 0 : 1);
	}
	ASSERT_EQUAL(waitpid(child, &status, 0), child);
	ASSERT_EQUAL(status, 0);
	ASSERT_EQUAL(sthreads_of(record->gate), CGATE_STHREADS_MAX);
	ASSERT_EQUAL(call(record->gate, in_gate_fill_and_fault), -ECANCELED);
	ASSERT_EQUAL(sthread_handles(), 0);
	sc_destroy(&sc);
}

/* ---- bounds ------------------------------------------------------------------------------------------------------ */

static void *in_gate_spin(void *argument)
{
	struct record *shared = argument;
	sthread_t st;
	sc_t sc;

	sc_init(&sc);
	sc_mem_add(&sc, shared->tag, BOTH);
	sc_cpu_budget(&sc, 40);
	shared->reached++;
	if (sthread_create(&st, &sc, body_spin, NULL) != 0)
		return (void *)(intptr_t)-errno;
	return sthread_join_info(st, NULL, &shared->info) == 0 ? NULL : (void *)(intptr_t)errno;
}

static void *in_gate_spin_on(void *argument)
{
	struct record *shared = argument;
	sthread_t st;
	sc_t sc;

	sc_init(&sc);
	shared->reached++;
	if (sthread_create(&st, &sc, body_spin, NULL) != 0)
		return (void *)(intptr_t)-errno;
	sthread_join(st, NULL);
	return NULL;
}

static void *body_read_pipe(void *argument)
{
	struct record *shared = argument;
	char byte;

	shared->reached++;
	return (void *)(intptr_t)read(shared->read_end, &byte, 1);
}

/* Joins one that waits for a descriptor. */
static void *in_gate_wait(void *argument)
{
	struct record *shared = argument;
	void *result = NULL;
	sthread_t st;
	sc_t sc;

	sc_init(&sc);
	sc_mem_add(&sc, shared->tag, BOTH);
	sc_fd_add(&sc, shared->read_end, PROT_READ);
	if (sthread_create(&st, &sc, body_read_pipe, shared) != 0)
		return (void *)(intptr_t)-errno;
	return sthread_join(st, &result) == 0 ? result : (void *)(intptr_t)-errno;
}

static void *body_call_other(void *argument)
{
	struct record *shared = argument;

	return (void *)(intptr_t)(cgate_call(shared->other, (void *)in_gate_hold, NULL) == 0 ? 0 : errno);
}

/* Joins one that is in another gate, which blocks or which it waits for. */
static void *in_gate_call_below(void *argument)
{
	struct record *shared = argument;
	void *result = NULL;
	sthread_t st;
	sc_t sc;

	sc_init(&sc);
	sc_mem_add(&sc, shared->tag, BOTH);
	sc_cgate_add(&sc, shared->other);
	shared->reached++;
	if (sthread_create(&st, &sc, body_call_other, shared) != 0)
		return (void *)(intptr_t)-errno;
	return sthread_join(st, &result) == 0 ? result : (void *)(intptr_t)-errno;
}

static stcb_t const long_works[] = { in_gate_spin_on, in_gate_wait, in_gate_call_below };

static void budgets(void)
{
	struct cgate_info info;
	sc_t sc, policy;

	prepare(&sc);
	record->gate = cgate_create(act, &sc, record);
	ASSERT_EQUAL(call(record->gate, in_gate_spin), ECANCELED);
	ASSERT_EQUAL(record->info.end, STHREAD_OUT_OF_CPU);
	ASSERT_EQUAL(cgate_get_info(record->gate, &info), 0);
	CU_ASSERT(record->info.run_nanoseconds >= (uint64_t)40 * 1000 * 1000);
	CU_ASSERT(info.run_nanoseconds >= record->info.run_nanoseconds); /* it counts for the gate */
	/* The gate's own budget ends whatever runs below it, and the gate. */
	ASSERT_EQUAL(sc_copy(&policy, &sc), 0);
	sc_cpu_budget(&sc, FOREVER);
	record->other = cgate_create(act, &sc, record);
	sc_cgate_add(&policy, record->other);
	sc_cpu_budget(&policy, 80);
	record->gate = cgate_create(act, &policy, record);
	for (size_t i = 0; i < sizeof(long_works) / sizeof(*long_works); i++) {
		ASSERT_EQUAL(call(record->gate, long_works[i]), -ETIMEDOUT);
		ASSERT_EQUAL(sthread_handles(), 0);
		ASSERT_EQUAL(cgate_get_info(record->gate, &info), 0);
		ASSERT_EQUAL(info.last_failure.end, STHREAD_OUT_OF_CPU);
	}
	/* The gate below was stopped with its caller. */
	ASSERT_EQUAL(cgate_get_info(record->other, &info), 0);
	ASSERT_EQUAL(info.failures, 1);
	ASSERT_EQUAL(info.last_failure.end, STHREAD_KILLED);
	/* The control: they end by themselves if they can. */
	ASSERT_EQUAL(write(pipe_ends[1], "ab", 2), 2);
	ASSERT_EQUAL(call(record->gate, in_gate_wait), 1);
	ASSERT_EQUAL(call(record->gate, in_gate_call_below), 0);
	sc_destroy(&policy);
	sc_destroy(&sc);
}

static sthread_t victim;

static void *park_and_call(void *argument)
{
	struct record *shared = argument;

	sthread_park();
	return (void *)(intptr_t)(cgate_call(shared->gate, (void *)long_works[shared->depth], NULL) == 0 ? 0 : errno);
}

static void *step_and_join(void *life)
{
	ASSERT_EQUAL(live_step(victim), 0);
	*(struct life *)life = live_join(victim);
	return NULL;
}

static void kills(void)
{
	pthread_t thread, holder;
	struct life life;
	void *result;
	sc_t sc, policy, victim_policy;

	prepare(&sc);
	sc_cpu_budget(&sc, FOREVER);
	ASSERT_EQUAL(sc_copy(&policy, &sc), 0);
	record->other = cgate_create(act, &sc, record);
	ASSERT_EQUAL(cgate_wait_limit(record->other, FOREVER), 0);
	sc_cgate_add(&policy, record->other);
	record->gate = cgate_create(act, &policy, record);
	sc_init(&victim_policy);
	sc_mem_add(&victim_policy, record->tag, BOTH);
	sc_cgate_add(&victim_policy, record->gate);
	for (int busy = 0; busy < 2; busy++) {
		if (busy) { /* now the gate below is held by somebody else */
			record->reached = 0;
			record->gates[0] = record->gate;
			record->gate = record->other;
			pthread_create(&holder, NULL, call_hold, NULL);
			while (!record->reached)
				usleep(1000);
			record->gate = record->gates[0];
		}
		for (record->depth = 0; record->depth < 3; record->depth++) {
			record->reached = 0;
			ASSERT_EQUAL(live_create(&victim, &victim_policy, park_and_call, record), 0);
			pthread_create(&thread, NULL, step_and_join, &life);
			while (!record->reached)
				usleep(1000);
			usleep(5000);
			ASSERT_EQUAL(sthread_kill(victim), 0);
			pthread_join(thread, NULL);
			ASSERT_END(life, STHREAD_KILLED);
			ASSERT_EQUAL(sthread_handles(), 0);
		}
	}
	ASSERT_EQUAL(write(pipe_ends[1], "a", 1), 1);
	pthread_join(holder, &result);
	ASSERT_EQUAL((long)result, 1);
	ASSERT_EQUAL(cgate_destroy(record->gate), 0);
	ASSERT_EQUAL(cgate_destroy(record->other), 0);
	sc_destroy(&policy);
	sc_destroy(&sc);
}

/* ---- depth ------------------------------------------------------------------------------------------------------- */

static void *go_deeper(void *level, void *trusted);

struct step {
	struct record *shared;
	uintptr_t level;
};

/* In an sthread that gate `level` created: calls gate level + 1. */
static void *body_deeper(void *level)
{
	struct record *shared = record; /* set before sthread_init() in this test */
	void *below = NULL;

	if (cgate_call(shared->gates[(uintptr_t)level + 1], (void *)((uintptr_t)level + 1), &below) != 0)
		return (void *)(uintptr_t)(1000 * ((uintptr_t)level + 1) + (uintptr_t)errno);
	return below;
}

static void *go_deeper(void *level, void *trusted)
{
	const struct record *shared = trusted;
	void *result = NULL;
	sthread_t st;
	sc_t sc;

	(void)shared;
	sc_init(&sc);
	sc_cgate_add(&sc, record->gates[(uintptr_t)level + 1]);
	if ((uintptr_t)level == 7 || sthread_create(&st, &sc, body_deeper, level) != 0)
		return (void *)(intptr_t)-errno;
	if (sthread_join(st, &result) != 0)
		return (void *)-2;
	return result;
}

/* Handles are predicted: gates 0 to 7 are made in order in a new process, and lie where the snapshot shows them. */
static void depth(void)
{
	static struct record early;
	sc_t sc;
	void *result;

	record = &early;
	for (int i = 0; i < 8; i++)
		early.gates[i] = 1 << 18 | (7 - i);
	live_init();
	for (int i = 7; i >= 0; i--) {
		sc_init(&sc);
		if (i < 7)
			sc_cgate_add(&sc, early.gates[i + 1]);
		ASSERT_EQUAL(cgate_create(go_deeper, &sc, NULL), early.gates[i]);
	}
	ASSERT_EQUAL(cgate_call(early.gates[0], (void *)0, &result), 0);
	ASSERT_EQUAL(result, 1000 * CGATE_DEPTH_MAX + ELOOP);
	ASSERT_EQUAL(sthread_handles(), 0);
}

static void *body_call_gate(void *argument)
{
	struct record *shared = argument;

	return (void *)(intptr_t)(cgate_call(shared->gate, (void *)body_nothing, NULL) == 0 ? 0 : errno);
}

static void *in_gate_call_itself(void *argument)
{
	struct record *shared = argument;
	void *result = NULL;
	sthread_t st;
	sc_t sc;

	sc_init(&sc);
	sc_mem_add(&sc, shared->tag, BOTH);
	sc_cgate_add(&sc, shared->gate);
	if (sthread_create(&st, &sc, body_call_gate, shared) != 0)
		return (void *)(intptr_t)-errno;
	return sthread_join(st, &result) == 0 ? result : (void *)-2;
}

/* Through an sthread as directly; a policy is made before its gate, so the test writes into the library's copy. */
static void into_itself(void)
{
	sc_t sc;

	prepare(&sc);
	record->gate = cgate_create_pool(act, &sc, record, 2, 0);
	ASSERT_EQUAL(call(record->gate, in_gate_call_itself), -EPERM);

	struct gate *gate = handle_get(&supervisor.gates, record->gate);

	sc_cgate_add(&sc, record->gate);
	gate->policy = policy_new(&sc, POLICY_KEPT); /* as no interface would let it */
	for (unsigned i = 0; i < 2; i++)
		if (gate->instance[i].alive)
			gate->instance[i].compartment.policy = policy_get(gate->policy);
	ASSERT_EQUAL(call(record->gate, in_gate_call_itself), ELOOP);
	sc_destroy(&sc);
}

/* ---- cost -------------------------------------------------------------------------------------------------------- */

static void *in_gate_create_some(void *argument)
{
	struct record *shared = argument;
	sthread_t st;
	sc_t sc;

	sc_init(&sc);
	for (int i = 0; i < shared->depth; i++)
		if (sthread_create(&st, &sc, body_nothing, NULL) != 0 || sthread_join(st, NULL) != 0)
			return (void *)1;
	return NULL;
}

/* The fewest exits that `count` more of them took: a slice may end anywhere. */
static uint64_t exits_for(stcb_t function, int count)
{
	uint64_t fewest = UINT64_MAX, exits[2];

	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 2; i++) {
			struct sthread_statistics before, after;

			record->depth = 1 + i * count;
			ASSERT_EQUAL(sthread_statistics(&before), 0);
			for (int j = 0; function == body_nothing && j < record->depth; j++)
				ASSERT_EQUAL(call(record->gate, function), (long)record);
			if (function != body_nothing)
				ASSERT_EQUAL(call(record->gate, function), 0);
			ASSERT_EQUAL(sthread_statistics(&after), 0);
			exits[i] = after.exits - before.exits;
		}
		if (exits[1] - exits[0] < fewest)
			fewest = exits[1] - exits[0];
	}
	return fewest;
}

static void costs(void)
{
	sc_t sc;

	prepare(&sc);
	record->gate = cgate_create_pool(act, &sc, record, 4, 0);
	CU_ASSERT(exits_for(body_nothing, 10) <= 10);            /* from host mode: its return */
	CU_ASSERT(exits_for(in_gate_create_some, 10) <= 3 * 10); /* create, return of the body, join */
	harness_note("exits: %lu for 10 calls from host mode, %lu for 10 sthreads of a gate",
		     (unsigned long)exits_for(body_nothing, 10), (unsigned long)exits_for(in_gate_create_some, 10));
	sc_destroy(&sc);
}

/* ---- all at once ------------------------------------------------------------------------------------------------- */

enum {
	WORKERS = 3,
	ROUNDS = 60
};
static stcb_t const works[] = { in_gate_memory,        in_gate_fill, in_gate_fill_and_fault,
				in_gate_fill_and_kill, in_gate_park, try_handle,
				in_gate_spin };
static _Atomic sthread_t victims[WORKERS];
static _Atomic cgate_t storm_gate;
static _Atomic unsigned killed, ended, unexpected, replaced;
static _Atomic bool over;
static sc_t storm_policy;

static void *body_storm(void *work)
{
	/* The gate's handle, and which work: there is no record to trust while others write to it. */
	uint64_t what = (uint64_t)work;
	void *result;

	sthread_park();

	return (void *)(intptr_t)(cgate_call((cgate_t)(what >> 8), (void *)works[what & 0xff], &result) == 0 ? 0 :
													       errno);
}

static void *storm(void *number)
{
	unsigned random = (unsigned)(uintptr_t)number + 1;

	for (int i = 0; i < ROUNDS; i++) {
		cgate_t gate = storm_gate;
		uint64_t work = (unsigned)rand_r(&random) % (sizeof(works) / sizeof(*works));
		struct life life = { 0 };
		sthread_t st;
		sc_t sc;

		sc_init(&sc);
		if (sc_cgate_add(&sc, gate) != 0)
			continue;
		if (sthread_create(&st, &sc, body_storm, (void *)((uint64_t)gate << 8 | work)) != 0) {
			unexpected += errno != EBADF;
			continue;
		}
		victims[(uintptr_t)number] = st;
		do { /* the thread that kills it drives it for a moment */
			unexpected += sthread_step(st) != 0 && errno != EBUSY;
			life = live_join(st);
		} while (life.error == EBUSY || life.error == EDEADLK);
		ended++;
		if (life.error)
			unexpected += life.info.end != STHREAD_KILLED;
	}
	return NULL;
}

static void *kill_some(void *unused)
{
	unsigned random = 99;

	(void)unused;
	while (!over) {
		int which = rand_r(&random) % WORKERS;

		if (sthread_kill(victims[which]) == 0)
			killed++;
		else
			unexpected += errno != EBADF;
		usleep(rand_r(&random) % 3000);
	}
	return NULL;
}

static void *replace_gate(void *unused)
{
	(void)unused;
	while (!over) {
		cgate_t old = storm_gate;

		if (cgate_destroy(old) == 0) {
			storm_gate = cgate_create_pool(act, &storm_policy, record, 2, replaced++ % 2 ? CGATE_FRESH : 0);
			unexpected += storm_gate < 0;
		} else {
			unexpected += errno != EBUSY;
		}
		usleep(2000);
	}
	return NULL;
}

static void storms(void)
{
	pthread_t threads[WORKERS], killer, replacer;

	prepare(&storm_policy);
	record->error = EBADF;
	storm_gate = cgate_create_pool(act, &storm_policy, record, 2, 0);
	for (int i = 0; i < WORKERS; i++)
		victims[i] = -1;
	for (uintptr_t i = 0; i < WORKERS; i++)
		pthread_create(&threads[i], NULL, storm, (void *)i);
	pthread_create(&killer, NULL, kill_some, NULL);
	pthread_create(&replacer, NULL, replace_gate, NULL);
	for (int i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	over = true;
	pthread_join(killer, NULL);
	pthread_join(replacer, NULL);
	harness_note("%u lives, %u kills, %u gates replaced", ended, killed, replaced);
	ASSERT_EQUAL(unexpected, 0);
	ASSERT_EQUAL(cgate_destroy(storm_gate), 0);
	ASSERT_EQUAL(sthread_handles(), 0);
	sc_destroy(&storm_policy);
}

static const struct harness_test tests[] = {
	{ "a gate's sthread has memory of its own, and what both were granted", memory, HARNESS_FORK },
	{ "handles are for the gate that created the sthread", handles, HARNESS_FORK },
	{ "instances of a pool cannot use each other's sthreads", siblings, HARNESS_FORK },
	{ "sthreads of a gate end with its life, and there is a limit to them", lifetimes, HARNESS_FORK },
	{ "a child of fork has nothing of a gate's sthreads", forks, HARNESS_FORK },
	{ "a gate's budget bounds what runs below it", budgets, HARNESS_FORK },
	{ "killing the caller stops what runs or waits below its gate", kills, HARNESS_FORK },
	{ "gates nest up to the limit through sthreads as well", depth, HARNESS_FORK },
	{ "a gate cannot be entered from an sthread that it waits for", into_itself, HARNESS_FORK },
	{ "a call costs one exit beside the caller's, an sthread of a gate three", costs, HARNESS_FORK },
	{ "gates that make sthreads, kills and deletions on many threads at once", storms, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
