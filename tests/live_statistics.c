/* live_statistics.c - policies with a name: what their lives come to. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "live.h"

static struct sthread_policy_statistics statistics_of(const char *name)
{
	struct sthread_policy_statistics statistics;

	memset(&statistics, 0xff, sizeof(statistics));
	ASSERT_EQUAL(sthread_policy_statistics(name, &statistics), 0);
	return statistics;
}

static void *body_exit(void *status)
{
	_exit((int)(intptr_t)status);
}

static void *body_refused(void *unused)
{
	syscall(SYS_reboot);
	syscall(SYS_reboot);
	return unused;
}

static void *body_park(void *unused)
{
	sthread_park();
	return unused;
}

static void lives_are_counted(void)
{
	sc_t first, second;

	/* Before sthread_init() as well. */
	sc_init(&first);
	ASSERT_EQUAL(sc_name(&first, "first"), 0);
	live_init();
	sc_init(&second);
	ASSERT_EQUAL(sc_name(&second, "second"), 0);
	sc_cpu_budget(&second, 30);

	struct sthread_policy_statistics now = statistics_of("first");

	ASSERT_EQUAL(now.lives + now.exits + now.run_nanoseconds + now.lives_now, 0);
	for (int i = 0; i < 10; i++)
		ASSERT_RETURNED(live_run(&first, body_nothing, NULL), 0);
	ASSERT_END(live_run(&first, body_exit, NULL), STHREAD_EXITED);
	ASSERT_RETURNED(live_run(&first, body_refused, NULL), 0);
	ASSERT_END(live_run(&second, body_read, NULL), STHREAD_FAULTED);
	ASSERT_END(live_run(&second, body_spin, NULL), STHREAD_OUT_OF_CPU);

	now = statistics_of("first");
	ASSERT_EQUAL(now.lives, 12);
	CU_ASSERT(now.lives_recycled >= 9);
	ASSERT_EQUAL(now.returned, 11);
	ASSERT_EQUAL(now.exited, 1);
	ASSERT_EQUAL(now.faulted + now.out_of_cpu + now.killed + now.denied + now.failed, 0);
	ASSERT_EQUAL(now.calls_denied, 2);
	CU_ASSERT(now.exits >= 14);
	CU_ASSERT(now.run_nanoseconds > 0);

	now = statistics_of("second");
	ASSERT_EQUAL(now.lives, 2);
	ASSERT_EQUAL(now.returned, 0);
	ASSERT_EQUAL(now.faulted, 1);
	ASSERT_EQUAL(now.out_of_cpu, 1);
	CU_ASSERT(now.run_nanoseconds > 20000000);
	CU_ASSERT(now.traps >= 1);

	/* Copies and frozen policies have the name; lives without one are nobody's. */
	sc_t copy;

	ASSERT_EQUAL(sc_copy(&copy, &first), 0);
	ASSERT_RETURNED(live_run(&copy, body_nothing, NULL), 0);

	sc_frozen_t frozen = sc_freeze(&copy, 1);
	sthread_t st;

	ASSERT_EQUAL(sthread_create_frozen(&st, frozen, body_nothing, NULL), 0);
	ASSERT_RETURNED(live_join(st), 0);
	ASSERT_RETURNED(live_run_bare(body_nothing, NULL), 0);
	ASSERT_EQUAL(statistics_of("first").lives, 14);
	ASSERT_EQUAL(statistics_of("second").lives, 2);

	/* Another name from now on. */
	ASSERT_EQUAL(sc_name(&copy, "third"), 0);
	ASSERT_RETURNED(live_run(&copy, body_nothing, NULL), 0);
	ASSERT_EQUAL(statistics_of("first").lives, 14);
	ASSERT_EQUAL(statistics_of("third").lives, 1);
}

static void lives_under_way_are_counted(void)
{
	sthread_t st;
	sc_t sc;

	live_init();
	sc_init(&sc);
	ASSERT_EQUAL(sc_name(&sc, "parked"), 0);
	ASSERT_EQUAL(live_create(&st, &sc, body_park, NULL), 0);

	struct sthread_policy_statistics now = statistics_of("parked");

	ASSERT_EQUAL(now.lives, 1);
	ASSERT_EQUAL(now.lives_now, 1);
	ASSERT_EQUAL(now.parks, 1);
	ASSERT_EQUAL(now.returned, 0);

	uint64_t exits = now.exits;

	CU_ASSERT(exits >= 1);
	ASSERT_EQUAL(sthread_kill(st), 0);
	live_join(st);
	now = statistics_of("parked");
	ASSERT_EQUAL(now.lives_now, 0);
	ASSERT_EQUAL(now.killed, 1);
	ASSERT_EQUAL(now.parks, 1);
	ASSERT_EQUAL(now.exits, exits);
}

static void *gate_nothing(void *argument, void *trusted)
{
	(void)trusted;
	return argument;
}

static void gates_are_counted(void)
{
	sc_t sc;

	live_init();
	sc_init(&sc);
	ASSERT_EQUAL(sc_name(&sc, "long-lived"), 0);

	cgate_t gate = cgate_create(gate_nothing, &sc, NULL);

	ASSERT_EQUAL(sc_name(&sc, "fresh"), 0);

	cgate_t fresh = cgate_create_fresh(gate_nothing, &sc, NULL);

	for (int i = 0; i < 5; i++) {
		ASSERT_EQUAL(cgate_call(gate, NULL, NULL), 0);
		ASSERT_EQUAL(cgate_call(fresh, NULL, NULL), 0);
	}
	ASSERT_EQUAL(statistics_of("long-lived").lives, 1);
	ASSERT_EQUAL(statistics_of("long-lived").lives_now, 1);
	CU_ASSERT(statistics_of("long-lived").exits >= 5);
	ASSERT_EQUAL(statistics_of("fresh").lives, 5);
	ASSERT_EQUAL(statistics_of("fresh").lives_now, 0);
	ASSERT_EQUAL(cgate_destroy(gate), 0);
	ASSERT_EQUAL(statistics_of("long-lived").lives_now, 0);
	ASSERT_EQUAL(statistics_of("long-lived").lives, 1);
}

static char told_policy[STHREAD_POLICY_NAME];

static void tell(const struct sthread_report *report, void *unused)
{
	(void)unused;
	memcpy(told_policy, report->policy, sizeof(told_policy));
}

static void names_are_in_reports(void)
{
	struct sthread_report report;
	sthread_t st;
	sc_t sc;
	char text[4096];

	live_init();
	ASSERT_EQUAL(sthread_on_violation(tell, NULL), 0);
	sc_init(&sc);
	ASSERT_EQUAL(sc_name(&sc, "parser of 31 characters, no more"), -1);
	ASSERT_EQUAL(sc_name(&sc, "parser of 31 characters, enough"), 0);
	ASSERT_EQUAL(live_create(&st, &sc, body_read, NULL), 0);
	ASSERT_EQUAL(sthread_get_report(st, &report), 0);
	CU_ASSERT_STRING_EQUAL(report.policy, "parser of 31 characters, enough");
	CU_ASSERT_STRING_EQUAL(told_policy, "parser of 31 characters, enough");
	CU_ASSERT(sthread_report_format(&report, text, sizeof(text)) > 0);
	CU_ASSERT(strstr(text, "(parser of 31 characters, enough)") != NULL);
	live_join(st);
	live_run_bare(body_read, NULL);
	CU_ASSERT_STRING_EQUAL(told_policy, "");
}

static void *all_denied(void *policy)
{
	struct sthread_policy_statistics statistics;

	if (sc_name(policy, "inside") != -1 || errno != EPERM)
		return (void *)1;
	if (sthread_policy_statistics("first", &statistics) != -1 || errno != EPERM)
		return (void *)2;
	if (sthread_policy_name(0) || errno != EPERM)
		return (void *)3;
	return NULL;
}

static void misuse(void)
{
	static sc_t sc;
	struct sthread_policy_statistics statistics;

	sc_init(&sc);
	ASSERT_EQUAL(sc_name(&sc, "first"), 0);
	ASSERT_ERROR(sthread_policy_statistics("first", &statistics) == -1, EPERM);
	live_init();
	ASSERT_ERROR(sc_name(&sc, NULL) == -1, EINVAL);
	ASSERT_ERROR(sc_name(&sc, "") == -1, EINVAL);
	ASSERT_ERROR(sc_name(&sc, "a\nb") == -1, EINVAL);
	ASSERT_ERROR(sc_name(&sc, "\xc3\xa9") == -1, EINVAL);
	ASSERT_ERROR(sc_name(NULL, "x") == -1, EINVAL);
	ASSERT_ERROR(sthread_policy_statistics("x", &statistics) == -1, ENOENT);
	ASSERT_ERROR(sthread_policy_statistics(NULL, &statistics) == -1, EINVAL);
	ASSERT_ERROR(sthread_policy_statistics("first", NULL) == -1, EINVAL);
	CU_ASSERT_STRING_EQUAL(sthread_policy_name(0), "first");
	ASSERT_ERROR(sthread_policy_name(1) == NULL, ENOENT);
	ASSERT_RETURNED(live_run_bare(all_denied, &sc), 0);

	/* A failed call has changed nothing. */
	ASSERT_RETURNED(live_run(&sc, body_nothing, NULL), 0);
	ASSERT_EQUAL(sthread_policy_statistics("first", &statistics), 0);
	ASSERT_EQUAL(statistics.lives, 1);

	sc_t garbage;

	memset(&garbage, 0x5a, sizeof(garbage));
	ASSERT_ERROR(sc_name(&garbage, "x") == -1, EINVAL);

	char name[STHREAD_POLICY_NAME];
	int given = 1;

	for (; given < 1000; given++) {
		snprintf(name, sizeof(name), "name %d", given);
		if (sc_name(&sc, name) != 0)
			break;
	}
	ASSERT_EQUAL(errno, ENOSPC);
	ASSERT_EQUAL(given, 256);
	ASSERT_EQUAL(sc_name(&sc, "first"), 0); /* those given can go on being used */
	CU_ASSERT_STRING_EQUAL(sthread_policy_name(255), "name 255");
}

static const struct harness_test tests[] = {
	{ "lives, ends and counters are summed by name", lives_are_counted, HARNESS_FORK },
	{ "lives that have not ended are counted, once", lives_under_way_are_counted, HARNESS_FORK },
	{ "gates have names too", gates_are_counted, HARNESS_FORK },
	{ "reports name the policy", names_are_in_reports, HARNESS_FORK },
	{ "misuse has the documented errors, and names are bounded", misuse, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
