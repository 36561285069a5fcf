/* live_policy.c - frozen policies, large ones, and filters of system calls, as sthreads meet them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "live.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
	TAGS = 300,
	PER_PART = 24,
	PARTS = (TAGS + PER_PART - 1) / PER_PART,
};

/* ---- frozen policies --------------------------------------------------------------------------------------------- */

/* What a body needs to know, in a tag of its own. */
struct table {
	uint64_t *word[TAGS];
	tag_t tag[TAGS];
	cgate_t gate[200];
};

static tag_t table_tag;
static struct table *table;

static void make_table(void)
{
	table_tag = tag_new();
	table = smalloc(table_tag, sizeof *table);
	CU_ASSERT_PTR_NOT_NULL_FATAL(table);
	for (int i = 0; i < TAGS; i++) {
		table->tag[i] = tag_new();
		table->word[i] = smalloc(table->tag[i], sizeof(uint64_t));
		CU_ASSERT_PTR_NOT_NULL_FATAL(table->word[i]);
		*table->word[i] = 1000 + (uint64_t)i;
	}
}

/* Grants table->tag[first, first + count), and the table. */
static sc_frozen_t freeze_tags(int first, int count, int prot)
{
	sc_t parts[PARTS + 1];
	int used = 1;

	sc_init(&parts[0]);
	sc_mem_add(&parts[0], table_tag, PROT_READ);
	for (int i = 0; i < count; i++) {
		if (i % PER_PART == 0)
			sc_init(&parts[used++]);
		CU_ASSERT_EQUAL(sc_mem_add(&parts[used - 1], table->tag[first + i], prot), 0);
	}
	return sc_freeze(parts, (size_t)used);
}

static struct life run_frozen(sc_frozen_t policy, stcb_t body, void *argument)
{
	sthread_t st;
	if (sthread_create_frozen(&st, policy, body, argument) != 0)
		return (struct life){ .error = errno };
	return live_join(st);
}

static void *sum_and_raise(void *argument)
{
	const struct table *all = argument;
	uint64_t sum = 0;
	for (int i = 0; i < TAGS; i++)
		sum += (*all->word[i])++;
	return (void *)sum;
}

static void *allocate_in_all(void *argument)
{
	const struct table *all = argument;
	uintptr_t done = 0;
	for (int i = 0; i < TAGS; i++) {
		void *memory = smalloc(all->tag[i], 100);
		done += memory != NULL;
		sfree(memory);
	}
	return (void *)done;
}

static void three_hundred_tags(void)
{
	live_init();
	make_table();
	sc_frozen_t policy = freeze_tags(0, TAGS, BOTH);
	CU_ASSERT_FATAL(policy >= 0);
	for (int round = 0; round < 3; round++)
		ASSERT_RETURNED(run_frozen(policy, sum_and_raise, table),
				TAGS * 1000 + TAGS * (TAGS - 1) / 2 + TAGS * round);
	for (int i = 0; i < TAGS; i++)
		ASSERT_EQUAL(*table->word[i], 1003 + i);
	ASSERT_RETURNED(run_frozen(policy, allocate_in_all, table), TAGS);
	ASSERT_EQUAL(sc_frozen_destroy(policy), 0);
}

static void only_those_three_hundred(void)
{
	live_init();
	make_table();
	sc_frozen_t all = freeze_tags(0, TAGS, BOTH), half = freeze_tags(0, TAGS / 2, PROT_READ);
	ASSERT_RETURNED(run_frozen(all, body_write, table->word[TAGS - 1]), 1); /* control */
	for (int i = 0; i < TAGS; i += 29) {
		if (i < TAGS / 2) {
			ASSERT_RETURNED(run_frozen(half, body_read, table->word[i]), *(uint8_t *)table->word[i]);
			ASSERT_PAGE_FAULT(run_frozen(half, body_write, table->word[i]), WRITE_DENIED, table->word[i]);
		} else {
			ASSERT_PAGE_FAULT(run_frozen(half, body_read, table->word[i]), READ_ABSENT, table->word[i]);
		}
	}
	ASSERT_RETURNED(run_frozen(half, allocate_in_all, table), 0);
}

static void *read_all(void *argument)
{
	const struct table *all = argument;
	uint64_t sum = 0;
	for (int i = 0; i < TAGS; i++)
		sum += *all->word[i];
	return (void *)(uintptr_t)(sum > 0);
}

static void a_deleted_tag_is_taken_from_large_policies(void)
{
	sthread_t st;

	live_init();
	make_table();
	sc_frozen_t policy = freeze_tags(0, TAGS, PROT_READ);
	ASSERT_RETURNED(run_frozen(policy, read_all, table), 1); /* control; and it is mapped now */
	ASSERT_EQUAL(sthread_create_frozen(&st, policy, body_park_then_read, table->word[250]), 0);
	ASSERT_EQUAL(tag_delete(table->tag[250]), 0);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_PAGE_FAULT(live_join(st), READ_ABSENT, table->word[250]);
	ASSERT_ERROR(sthread_create_frozen(&st, policy, read_all, table) == -1, EBADF);
}

static void a_frozen_life_costs_one_exit(void)
{
	struct sthread_statistics before, after;
	struct life life;

	live_init();
	make_table();
	sc_frozen_t policy = freeze_tags(0, TAGS, BOTH);
	for (int i = 0; i < 3; i++)
		ASSERT_RETURNED(life = run_frozen(policy, body_nothing, (void *)1), 1);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	ASSERT_RETURNED(life = run_frozen(policy, body_nothing, (void *)1), 1);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(life.info.recycled, 1);
	ASSERT_EQUAL(life.info.exits, 1);
	ASSERT_EQUAL(after.exits - before.exits, 1);
	ASSERT_EQUAL(after.monitor_edits, before.monitor_edits); /* the tags were still mapped */
}

static void *read_byte(void *fd)
{
	char byte = 0;
	long got = read((int)(intptr_t)fd, &byte, 1);
	return (void *)(intptr_t)(got == 1 ? byte : got == 0 ? 0 : -errno);
}

static void *park_then_read_byte(void *fd)
{
	sthread_park();
	return read_byte(fd);
}

static void a_frozen_policy_lives_as_long_as_it_is_used(void)
{
	int ends[2], fds;
	sthread_t st;
	sc_t sc;

	live_init();
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)1), 1); /* opens what it opens once */
	ASSERT_EQUAL(pipe(ends), 0);
	ASSERT_EQUAL(write(ends[1], "abc", 3), 3);
	close(ends[1]);
	fds = live_open_fds();
	sc_init(&sc);
	sc_fd_add(&sc, ends[0], PROT_READ);
	sc_frozen_t policy = sc_freeze(&sc, 1);
	sc_destroy(&sc);
	close(ends[0]);
	ASSERT_RETURNED(run_frozen(policy, read_byte, (void *)(intptr_t)ends[0]), 'a');
	ASSERT_EQUAL(sthread_create_frozen(&st, policy, park_then_read_byte, (void *)(intptr_t)ends[0]), 0);
	ASSERT_EQUAL(sc_frozen_destroy(policy), 0);
	ASSERT_ERROR(sc_frozen_destroy(policy) == -1, EBADF);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_RETURNED(live_join(st), 'b');
	ASSERT_EQUAL(live_open_fds(), fds - 1); /* all closed */
}

static void parts_add_up(void)
{
	int ends[2];
	sc_t parts[3];
	sc_frozen_t whole, part, other;

	live_init();
	ASSERT_EQUAL(pipe(ends), 0);
	ASSERT_EQUAL(write(ends[1], "x", 1), 1);
	make_table();
	for (int i = 0; i < 3; i++)
		sc_init(&parts[i]);
	sc_mem_add(&parts[0], table->tag[0], PROT_READ);
	sc_mem_add(&parts[1], table->tag[0], BOTH);
	sc_fd_add(&parts[0], ends[0], PROT_READ);
	sc_fd_add(&parts[2], ends[0], PROT_READ);
	part = sc_freeze(&parts[0], 1);
	other = sc_freeze(&parts[1], 1);
	whole = sc_freeze(parts, 3);
	ASSERT_RETURNED(run_frozen(whole, body_write, table->word[0]), 1);
	ASSERT_PAGE_FAULT(run_frozen(part, body_write, table->word[0]), WRITE_DENIED, table->word[0]); /* control */
	ASSERT_RETURNED(run_frozen(whole, read_byte, (void *)(intptr_t)ends[0]), 'x');
	ASSERT_EQUAL(sc_frozen_is_subset(part, whole), 0);
	ASSERT_EQUAL(sc_frozen_is_subset(other, whole), 0);
	ASSERT_ERROR(sc_frozen_is_subset(whole, part) == -1, EPERM);
}

static void *call_sysinfo(void *unused)
{
	(void)unused;
	return (void *)(intptr_t)(syscall(SYS_sysinfo, NULL) == 0 ? 0 : errno);
}

static void one_kills_all(void)
{
	sc_t parts[2];

	live_init();
	sc_init(&parts[0]);
	sc_init(&parts[1]);
	ASSERT_END(run_frozen(sc_freeze(parts, 2), call_sysinfo, NULL), STHREAD_RETURNED); /* control */
	sc_flags_add(&parts[1], SC_KILL);
	ASSERT_END(run_frozen(sc_freeze(parts, 2), call_sysinfo, NULL), STHREAD_DENIED);
}

static void limits_are_the_lowest(void)
{
	sc_t parts[3];
	struct life life;

	live_init();
	for (int i = 0; i < 3; i++)
		sc_init(&parts[i]);
	sc_cpu_budget(&parts[1], 200);
	sc_cpu_budget(&parts[2], 100000);
	ASSERT_END(life = run_frozen(sc_freeze(parts, 3), body_spin, NULL), STHREAD_OUT_OF_CPU);
	CU_ASSERT(life.info.run_nanoseconds < (uint64_t)5 * 1000 * 1000 * 1000);
}

static void *count_open(void *last)
{
	intptr_t good = 0;
	for (int fd = 0; fd <= (int)(intptr_t)last; fd++)
		good += fcntl(fd, F_GETFL) >= 0;
	return (void *)good;
}

static void many_descriptors(void)
{
	sc_t parts[5];
	int last = 0, granted = 0;

	live_init();
	for (int i = 0; i < 5; i++)
		sc_init(&parts[i]);
	for (int i = 0; i < 64; i++) {
		last = open("/dev/null", O_RDWR);
		ASSERT_EQUAL(sc_fd_add(&parts[i / 16], last, PROT_READ), 0);
		granted++;
	}
	ASSERT_RETURNED(run_frozen(sc_freeze(parts, 4), count_open, (void *)(intptr_t)last), granted);
	sc_fd_add(&parts[4], open("/dev/null", O_RDWR), PROT_READ);
	ASSERT_ERROR(sc_freeze(parts, 5) == -1, ENOSPC);
	CU_ASSERT_PTR_NOT_NULL(strstr(sthread_error(), "64"));
}

static void *double_it(void *argument, void *trusted)
{
	(void)trusted;
	return (void *)(2 * (intptr_t)argument);
}

static void *call_all(void *argument)
{
	const struct table *all = argument;
	intptr_t sum = 0;
	for (int i = 0; i < 200; i++) {
		void *result;
		if (cgate_call(all->gate[i], (void *)(intptr_t)i, &result) != 0)
			return (void *)(intptr_t)-errno;
		sum += (intptr_t)result;
	}
	return (void *)sum;
}

static void *call_last(void *argument)
{
	const struct table *all = argument;
	return (void *)(intptr_t)(cgate_call(all->gate[199], NULL, NULL) == 0 ? 0 : errno);
}

static void many_gates(void)
{
	sc_t parts[13], none;
	sthread_t st;

	live_init();
	make_table();
	for (int i = 0; i < 13; i++)
		sc_init(&parts[i]);
	sc_init(&none);
	sc_frozen_t nothing = sc_freeze(&none, 1);
	for (int i = 0; i < 200; i++) {
		table->gate[i] = cgate_create_frozen(double_it, nothing, NULL, 1, CGATE_FRESH);
		ASSERT_EQUAL(sc_cgate_add(&parts[i / 16], table->gate[i]), 0);
	}
	ASSERT_EQUAL(sc_frozen_destroy(nothing), 0); /* the gates keep it */
	sc_mem_add(&parts[0], table_tag, PROT_READ);
	sc_frozen_t all = sc_freeze(parts, 13), but_last = sc_freeze(parts, 12);
	ASSERT_RETURNED(run_frozen(all, call_all, table), 199 * 200);
	ASSERT_RETURNED(run_frozen(all, call_last, table), 0); /* control */
	ASSERT_RETURNED(run_frozen(but_last, call_last, table), EPERM);
	ASSERT_EQUAL(cgate_destroy(table->gate[77]), 0);
	ASSERT_ERROR(sthread_create_frozen(&st, all, call_all, table) == -1, EBADF);
}

static void wrong_freezes(void)
{
	sc_t parts[2];
	sthread_t st;
	int file = open("/dev/null", O_RDWR), number = 100;

	live_init();
	sc_init(&parts[0]);
	sc_init(&parts[1]);
	ASSERT_ERROR(sc_freeze(NULL, 1) == -1, EINVAL);
	ASSERT_ERROR(sc_freeze(parts, 0) == -1, EINVAL);
	ASSERT_ERROR(sc_freeze(parts, SIZE_MAX) == -1, EINVAL);
	dup2(file, number);
	sc_fd_add(&parts[0], number, PROT_READ);
	dup2(open("/dev/zero", O_RDWR), number);
	sc_fd_add(&parts[1], number, PROT_READ);
	ASSERT_ERROR(sc_freeze(parts, 2) == -1, EINVAL);
	sc_frozen_t good = sc_freeze(parts, 1);
	CU_ASSERT(good >= 0);
	sc_t copy = parts[1];
	sc_destroy(&parts[1]);
	ASSERT_ERROR(sc_freeze(&copy, 1) == -1, EBADF);
	ASSERT_ERROR(sc_frozen_is_subset(good, good + 1) == -1, EBADF);
	ASSERT_ERROR(sc_frozen_is_subset(-1, good) == -1, EBADF);
	ASSERT_ERROR(sc_frozen_destroy(-1) == -1, EBADF);
	ASSERT_ERROR(sthread_create_frozen(&st, -1, body_nothing, NULL) == -1, EBADF);
	ASSERT_ERROR(sthread_create_frozen(NULL, good, body_nothing, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_create_frozen(&st, good, NULL, NULL) == -1, EINVAL);
	ASSERT_ERROR(cgate_create_frozen(double_it, -1, NULL, 1, 0) == -1, EBADF);
	ASSERT_ERROR(cgate_create_frozen(double_it, good, NULL, 0, 0) == -1, EINVAL);
	ASSERT_EQUAL(sc_frozen_destroy(good), 0);
	ASSERT_ERROR(sthread_create_frozen(&st, good, body_nothing, NULL) == -1, EBADF);
	ASSERT_ERROR(cgate_create_frozen(double_it, good, NULL, 1, 0) == -1, EBADF);
	memset(&copy, 0, sizeof copy);
	ASSERT_ERROR(sc_freeze(&copy, 1) == -1, EINVAL);
	sc_mem_add(&parts[1], -1, PROT_READ);
	ASSERT_ERROR(sc_freeze(parts, 2) == -1, EBADF); /* remembered */
}

static const struct harness_test tests[] = {
	{ "300 tags of one frozen policy can all be used", three_hundred_tags, HARNESS_FORK, .seconds = 120 },
	{ "tags that a large policy does not name cannot, nor with more rights", only_those_three_hundred, HARNESS_FORK,
	  .seconds = 120 },
	{ "a deleted tag is taken from sthreads with a large policy", a_deleted_tag_is_taken_from_large_policies,
	  HARNESS_FORK, .seconds = 120 },
	{ "a recycled life with a frozen policy of 300 tags costs one exit and no edit", a_frozen_life_costs_one_exit,
	  HARNESS_FORK, .seconds = 120 },
	{ "a frozen policy and its files live as long as they are used", a_frozen_policy_lives_as_long_as_it_is_used,
	  HARNESS_FORK },
	{ "the grants of all parts add up", parts_add_up, HARNESS_FORK, .seconds = 120 },
	{ "SC_KILL in one part is SC_KILL in the whole", one_kills_all, HARNESS_FORK },
	{ "of each limit the lowest counts", limits_are_the_lowest, HARNESS_FORK },
	{ "64 descriptors can be granted, 65 cannot", many_descriptors, HARNESS_FORK },
	{ "200 gates of one frozen policy can all be called, others cannot", many_gates, HARNESS_FORK, .seconds = 120 },
	{ "wrong parts and stale frozen policies are refused", wrong_freezes, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
