/* live_gates.c - callgates: their own memory and rights, one entry, and callers that are not trusted. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "gate.h"
#include "live.h"
#include "supervisor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

/* What callers and gates are told; lies in a tag that they are granted. */
struct shared {
	cgate_t gate, gates[8];
	void *result;
	int error, depth;
};

static int counter;
static uint8_t global[4096 * 2] __attribute__((aligned(4096)));

static void *count(void *argument, void *trusted)
{
	counter++;
	return (void *)((uintptr_t)argument * 1000 + (uintptr_t)trusted * 100 + (uintptr_t)counter);
}

/* Calls the gate once; returns its result, or minus the error. */
static void *call_once(void *argument)
{
	struct shared *shared = argument;
	void *result = NULL;

	if (cgate_call(shared->gate, (void *)3, &result) != 0)
		return (void *)(intptr_t)-errno;
	return result;
}

static void *park_and_call(void *argument)
{
	sthread_park();
	return call_once(argument);
}

static void *call_three_times(void *argument)
{
	struct shared *shared = argument;
	void *results[3] = { 0 };

	for (int i = 0; i < 3; i++)
		if (cgate_call(shared->gate, (void *)(uintptr_t)i, &results[i]) != 0)
			return NULL;
	return (void *)((uintptr_t)results[0] + (uintptr_t)results[1] * 10000 + (uintptr_t)results[2] * 100000000);
}

static struct shared *share(sc_t *sc)
{
	tag_t tag = tag_new();
	struct shared *shared = smalloc(tag, sizeof(*shared));

	CU_ASSERT_PTR_NOT_NULL_FATAL(shared);
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, BOTH), 0);
	return shared;
}

static void state_of_gates(void)
{
	sc_t sc, none;
	void *result;

	live_init();

	struct shared *shared = share(&sc);

	sc_init(&none);

	cgate_t kept = cgate_create(count, &none, (void *)7), fresh = cgate_create_fresh(count, &none, (void *)8);

	CU_ASSERT_FATAL(kept >= 0 && fresh >= 0 && kept != fresh);
	sc_cgate_add(&sc, kept);
	sc_cgate_add(&sc, fresh);
	shared->gate = kept;
	ASSERT_RETURNED(live_run(&sc, call_three_times, shared), 701 + 17020000 + 270300000000);
	ASSERT_RETURNED(live_run(&sc, call_once, shared), 3704);
	ASSERT_EQUAL(cgate_call(kept, (void *)2, &result), 0);
	ASSERT_EQUAL(result, 2705);
	shared->gate = fresh;
	ASSERT_RETURNED(live_run(&sc, call_three_times, shared), 801 + 18010000 + 280100000000);
	ASSERT_EQUAL(cgate_call(fresh, (void *)2, &result), 0);
	ASSERT_EQUAL(result, 2801);
	ASSERT_EQUAL(cgate_call(fresh, (void *)2, NULL), 0);
	ASSERT_EQUAL(counter, 0);
	ASSERT_EQUAL(cgate_destroy(kept), 0);
	ASSERT_EQUAL(cgate_destroy(fresh), 0);
}

static void rights_to_call(void)
{
	sc_t sc, none;

	live_init();

	struct shared *shared = share(&sc);

	sc_init(&none);

	cgate_t granted = cgate_create(count, &none, NULL), other = cgate_create(count, &none, NULL);
	struct life life;
	sthread_t st[2];

	sc_cgate_add(&sc, granted);
	shared->gate = other;
	life = live_run(&sc, call_once, shared);
	ASSERT_RETURNED(life, -EPERM);
	ASSERT_EQUAL(life.info.calls_denied, 1);
	for (int i = -5; i < 300; i++) {
		if ((shared->gate = i) != granted)
			ASSERT_RETURNED(live_run(&sc, call_once, shared), -EPERM);
	}
	shared->gate = granted;
	ASSERT_RETURNED(live_run(&sc, call_once, shared), 3001); /* the control */
	/* Under an sthread that may call it, it goes away; its successor in the same place is another one. */
	for (int i = 0; i < 2; i++)
		ASSERT_EQUAL(live_create(&st[i], &sc, park_and_call, shared), 0);
	ASSERT_EQUAL(cgate_destroy(granted), 0);
	ASSERT_EQUAL(live_step(st[0]), 0);
	ASSERT_RETURNED(live_join(st[0]), -EBADF);
	CU_ASSERT(cgate_create(count, &none, NULL) != granted);
	ASSERT_EQUAL(live_step(st[1]), 0);
	ASSERT_RETURNED(live_join(st[1]), -EBADF);
	ASSERT_EQUAL(live_run(&sc, call_once, shared).error, EBADF); /* the policy names what is gone */
	ASSERT_ERROR(cgate_call(granted, NULL, NULL) == -1, EBADF);
	ASSERT_ERROR(cgate_destroy(granted) == -1, EBADF);
	ASSERT_ERROR(sc_cgate_add(&sc, granted) == -1, EBADF);
}

/* ---- what is kept from the caller -------------------------------------------------------------------------------- */

static void *read_secret(void *argument, void *trusted)
{
	(void)argument;
	return (void *)(uintptr_t) * (volatile uint8_t *)trusted;
}

static void *write_through(void *argument, void *trusted)
{
	(void)trusted;
	*(volatile uint8_t *)argument = 1;
	return NULL;
}

static void memory_of_gates(void)
{
	sc_t sc, with_secret;

	live_init();

	struct shared *shared = share(&sc);
	tag_t secret_tag = tag_new();
	uint8_t *secret = smalloc(secret_tag, 16);

	*secret = 0x5e;
	sc_init(&with_secret);
	sc_mem_add(&with_secret, secret_tag, PROT_READ);

	cgate_t gate = cgate_create(read_secret, &with_secret, secret),
		pokes = cgate_create(write_through, &with_secret, NULL);

	sc_cgate_add(&sc, gate);
	sc_cgate_add(&sc, pokes);
	shared->gate = gate;
	ASSERT_RETURNED(live_run(&sc, call_once, shared), 0x5e);
	ASSERT_PAGE_FAULT(live_run(&sc, body_read, secret), READ_ABSENT, secret);
	ASSERT_PAGE_FAULT(live_run(&sc, body_write, secret), WRITE_ABSENT, secret);
	/* And the other way round: the gate has nothing of its caller, nor more than it was granted. */
	ASSERT_ERROR(cgate_call(pokes, shared, NULL) == -1, ECANCELED);
	ASSERT_ERROR(cgate_call(pokes, secret, NULL) == -1, ECANCELED);
	ASSERT_EQUAL(*secret, 0x5e);
	ASSERT_EQUAL(cgate_call(pokes, global, NULL), 0);
	ASSERT_EQUAL(global[0], 0);
}

static void *keep_private(void *argument, void *trusted)
{
	static uint8_t kept;
	uint8_t before = kept;

	(void)trusted;
	kept = (uint8_t)(uintptr_t)argument;
	global[4096] = kept;
	return (void *)(uintptr_t)before;
}

static void *change_and_call(void *argument)
{
	struct shared *shared = argument;
	void *before;

	global[4096] = 9;
	if (cgate_call(shared->gate, (void *)5, &before) != 0)
		return (void *)-1;
	return (void *)(uintptr_t)(global[4096] * 100 + (uintptr_t)before);
}

static void private_globals(void)
{
	sc_t sc, none;

	live_init();

	struct shared *shared = share(&sc);

	sc_init(&none);
	shared->gate = cgate_create(keep_private, &none, NULL);
	sc_cgate_add(&sc, shared->gate);
	ASSERT_RETURNED(live_run(&sc, change_and_call, shared), 900);
	ASSERT_RETURNED(live_run(&sc, change_and_call, shared), 905);
	ASSERT_EQUAL(global[4096], 0);
}

/* ---- depth ------------------------------------------------------------------------------------------------------- */

static void *go_deeper(void *argument, void *trusted)
{
	const struct shared *shared = trusted;
	uintptr_t level = (uintptr_t)argument;
	void *below = NULL;

	if (level == (uintptr_t)shared->depth)
		return (void *)level;
	if (cgate_call(shared->gates[level], (void *)(level + 1), &below) != 0)
		return (void *)(uintptr_t)(1000 * level + (uintptr_t)errno);
	return below;
}

static void *call_first(void *argument)
{
	struct shared *shared = argument;
	void *result = NULL;

	if (cgate_call(shared->gates[0], (void *)1, &result) != 0)
		return (void *)(intptr_t)-errno;
	return result;
}

static void nesting(void)
{
	enum {
		LEVELS = CGATE_DEPTH_MAX + 2
	};
	sc_t sc, policies[LEVELS];
	void *result;

	live_init();

	struct shared *shared = share(&sc);

	for (int i = LEVELS - 1; i >= 0; i--) {
		policies[i] = sc;
		if (i < LEVELS - 1)
			sc_cgate_add(&policies[i], shared->gates[i + 1]);
		shared->gates[i] = cgate_create(go_deeper, &policies[i], shared);
	}
	sc_cgate_add(&sc, shared->gates[0]);
	for (shared->depth = 1; shared->depth <= LEVELS; shared->depth++) {
		bool fits = shared->depth <= CGATE_DEPTH_MAX;

		ASSERT_RETURNED(live_run(&sc, call_first, shared),
				fits ? shared->depth : 1000 * CGATE_DEPTH_MAX + ELOOP);
		ASSERT_EQUAL(cgate_call(shared->gates[0], (void *)1, &result), 0);
		ASSERT_EQUAL(result, fits ? shared->depth : 1000 * CGATE_DEPTH_MAX + ELOOP);
	}
}

static void *call_itself(void *argument, void *trusted)
{
	const struct shared *shared = trusted;

	(void)argument;
	return (void *)(intptr_t)(cgate_call(shared->gate, NULL, NULL) == 0 ? 0 : errno);
}

/* A policy is made before its gate, so no gate is granted to itself: the test writes into the library's copy. */
static void recursion(void)
{
	sc_t sc;
	void *result;

	live_init();

	struct shared *shared = share(&sc);
	cgate_t self = shared->gate = cgate_create(call_itself, &sc, shared);
	struct gate *gate = handle_get(&supervisor.gates, self);

	ASSERT_EQUAL(cgate_call(self, NULL, &result), 0);
	ASSERT_EQUAL(result, EPERM);
	sc_cgate_add(&sc, self);
	gate->instance[0].compartment.policy = policy_new(&sc, POLICY_KEPT); /* as no interface would let it */
	ASSERT_EQUAL(cgate_call(self, NULL, &result), 0);
	ASSERT_EQUAL(result, ELOOP);
}

/* ---- gates that end ---------------------------------------------------------------------------------------------- */

static void *misbehave(void *argument, void *trusted)
{
	counter++;
	switch ((uintptr_t)argument) {
	case 1:
		*(volatile uint8_t *)trusted = 1;
		break;
	case 2:
		_exit(3);
	case 3:
		body_spin(NULL);
		break;
	case 4:
		__asm__ volatile("hlt");
		break;
	}
	return (void *)(uintptr_t)counter;
}

static void *try_gate(void *argument)
{
	struct shared *shared = argument;

	errno = 0;
	shared->error = cgate_call(shared->gate, shared->result, &shared->result) == 0 ? 0 : errno;
	return (void *)1; /* the caller goes on in any case */
}

static void ends_of_gates(void)
{
	sc_t sc, short_lived;
	void *result;

	live_init();

	struct shared *shared = share(&sc);

	sc_init(&short_lived);
	sc_cpu_budget(&short_lived, 50);
	shared->gate = cgate_create(misbehave, &short_lived, (void *)8);
	sc_cgate_add(&sc, shared->gate);
	for (uintptr_t how = 1; how <= 4; how++) {
		ASSERT_EQUAL(cgate_call(shared->gate, NULL, &result), 0);
		ASSERT_EQUAL(result, 1); /* pristine */
		ASSERT_EQUAL(cgate_call(shared->gate, NULL, &result), 0);
		ASSERT_EQUAL(result, 2);

		double began = live_seconds();

		shared->result = (void *)how;
		ASSERT_RETURNED(live_run(&sc, try_gate, shared), 1);
		ASSERT_EQUAL(shared->error, how == 3 ? ETIMEDOUT : ECANCELED);
		ASSERT_ERROR(cgate_call(shared->gate, (void *)how, &result) == -1, how == 3 ? ETIMEDOUT : ECANCELED);
		began = live_seconds() - began;
		live_check(began < 1.0 * harness_time_scale(), __FILE__, __LINE__, "way %lu ends within a second (%f)",
			   how, began);
	}
}

/* ---- two host threads -------------------------------------------------------------------------------------------- */

static cgate_t contended;
static sc_t contender;

static void *slow_count(void *argument, void *trusted)
{
	(void)argument, (void)trusted;
	for (volatile int i = 0; i < 20000; i = i + 1)
		;
	return (void *)(uintptr_t)++counter;
}

static void *call_often(void *argument)
{
	struct shared *shared = argument;
	uintptr_t last = 0;

	for (int i = 0; i < 100; i++) {
		void *result;

		if (cgate_call(shared->gate, NULL, &result) != 0 || (uintptr_t)result <= last)
			return NULL;
		last = (uintptr_t)result;
	}
	return (void *)1;
}

static void *contend(void *shared)
{
	return live_run(&contender, call_often, shared).value;
}

static void contention(void)
{
	pthread_t threads[3];
	sc_t none;
	void *result;

	live_init();

	struct shared *shared = share(&contender);

	sc_init(&none);
	shared->gate = contended = cgate_create(slow_count, &none, NULL);
	sc_cgate_add(&contender, contended);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, contend, shared);
	ASSERT_EQUAL(call_often(shared), 1);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &result);
		ASSERT_EQUAL(result, 1);
	}
	ASSERT_EQUAL(cgate_call(contended, NULL, &result), 0);
	ASSERT_EQUAL(result, 401);
}

static const struct harness_test tests[] = {
	{ "a long-lived gate keeps its state, a fresh one has none", state_of_gates, HARNESS_FORK },
	{ "only a granted gate can be called, and only while it exists", rights_to_call, HARNESS_FORK },
	{ "caller and gate have no memory of each other", memory_of_gates, HARNESS_FORK },
	{ "caller and gate have globals of their own", private_globals, HARNESS_FORK },
	{ "gates nest up to the limit", nesting, HARNESS_FORK },
	{ "a gate cannot be entered from within itself", recursion, HARNESS_FORK },
	{ "a gate that ends fails its caller, with a budget told from the rest, and is pristine afterwards", ends_of_gates, HARNESS_FORK },
	{ "callers on several host threads take turns", contention, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
