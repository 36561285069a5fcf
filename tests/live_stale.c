/* live_stale.c - what is gone: policies that name deleted tags, and handles of deleted objects. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "live.h"

enum {
	ATTEMPTS = 200,
	CHURN = 20000, /* more than a handle has generations */
};

static void *enter_nothing(void *argument, void *trusted)
{
	(void)trusted;
	return argument;
}

static void *call_often(void *gate)
{
	uint64_t refused = 0;
	for (unsigned i = 0; i < ATTEMPTS; i++)
		refused += cgate_call((cgate_t)(uint64_t)gate, NULL, NULL) == -1 && errno == EBADF;
	return (void *)refused;
}

static uint64_t address_spaces(void)
{
	struct sthread_statistics statistics;
	ASSERT_EQUAL(sthread_statistics(&statistics), 0);
	return statistics.address_spaces;
}

static void policies_with_deleted_tags_cost_nothing(void)
{
	live_init();
	sc_t sc, calls;
	tag_t tag = tag_new();
	sc_init(&sc);
	sc_init(&calls);
	ASSERT_EQUAL(sc_mem_add(&sc, tag, PROT_READ), 0);
	sc_frozen_t frozen = sc_freeze(&sc, 1);
	cgate_t gate = cgate_create(enter_nothing, &sc, NULL), fresh = cgate_create_fresh(enter_nothing, &sc, NULL);
	ASSERT_EQUAL(sc_cgate_add(&calls, gate), 0);
	ASSERT_EQUAL(sc_cgate_add(&calls, fresh), 0);
	/* Controls: with the tag they all work. */
	ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)1), 1);
	ASSERT_RETURNED(live_run(&calls, call_often, (void *)(uint64_t)fresh), 0);
	ASSERT_EQUAL(cgate_call(fresh, NULL, NULL), 0);
	uint64_t before = address_spaces();
	ASSERT_EQUAL(tag_delete(tag), 0);

	for (unsigned i = 0; i < ATTEMPTS; i++) {
		sthread_t st;
		ASSERT_ERROR(sthread_create(&st, &sc, body_nothing, NULL) == -1, EBADF);
		ASSERT_ERROR(sthread_create_frozen(&st, frozen, body_nothing, NULL) == -1, EBADF);
		ASSERT_ERROR(cgate_call(gate, NULL, NULL) == -1, EBADF);
	}
	ASSERT_RETURNED(live_run(&calls, call_often, (void *)(uint64_t)gate), ATTEMPTS);
	ASSERT_RETURNED(live_run(&calls, call_often, (void *)(uint64_t)fresh), ATTEMPTS);
	live_check(address_spaces() <= before + 2, __FILE__, __LINE__, "%llu address spaces, before %llu",
		   (unsigned long long)address_spaces(), (unsigned long long)before);
}

static void handles_do_not_come_back(void)
{
	live_init();
	sc_t granting, sc;
	tag_t gone = tag_new();
	unsigned same = 0, places = 0;
	sc_init(&granting);
	ASSERT_EQUAL(sc_mem_add(&granting, gone, PROT_READ), 0);
	ASSERT_EQUAL(tag_delete(gone), 0);
	for (unsigned i = 0; i < CHURN; i++) {
		tag_t tag = tag_new();
		same += tag == gone;
		places += tag >= 0;
		sc_init(&sc);
		if (sc_mem_add(&sc, gone, PROT_READ) == 0)
			same++;
		ASSERT_EQUAL(tag_delete(tag), 0);
	}
	ASSERT_EQUAL(places, CHURN);
	ASSERT_EQUAL(same, 0);
}

static const struct harness_test tests[] = {
	{ "a policy that names a deleted tag is refused and costs no address space",
	  policies_with_deleted_tags_cost_nothing, HARNESS_FORK },
	{ "the handle of a deleted tag does not soon become another tag's", handles_do_not_come_back, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
