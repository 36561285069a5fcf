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

static void *call_unknown(void *unused)
{
	(void)unused;
	return (void *)(intptr_t)(syscall(SYS_swapoff, NULL) == 0 ? 0 : errno);
}

static void one_kills_all(void)
{
	sc_t parts[2];

	live_init();
	sc_init(&parts[0]);
	sc_init(&parts[1]);
	ASSERT_END(run_frozen(sc_freeze(parts, 2), call_unknown, NULL), STHREAD_RETURNED); /* control */
	sc_flags_add(&parts[1], SC_KILL);
	ASSERT_END(run_frozen(sc_freeze(parts, 2), call_unknown, NULL), STHREAD_DENIED);
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

/* ---- conditions on arguments ------------------------------------------------------------------------------------- */

/* One system call, as registers. */
struct call {
	long number;
	uint64_t argument[4];
};

static void *make_call(void *argument)
{
	const struct call *call = argument;
	long result = syscall(call->number, call->argument[0], call->argument[1], call->argument[2], call->argument[3]);
	return (void *)(result >= 0 ? result : -errno);
}

/* The tests' calls lie in a tag, and strings in the snapshot. */
static struct call *shared_call;
static tag_t call_tag;
static const char path_in_directory[] = "hostname", buffer[64] = "some bytes";

static void prepare_calls(sc_t *sc)
{
	live_init();
	call_tag = tag_new();
	shared_call = smalloc(call_tag, sizeof *shared_call);
	CU_ASSERT_PTR_NOT_NULL_FATAL(shared_call);
	sc_init(sc);
	sc_mem_add(sc, call_tag, PROT_READ);
}

#define CALL(sc, ...) (*shared_call = (struct call){ __VA_ARGS__ }, live_run(sc, make_call, shared_call))

static void sizes_of_writes(void)
{
	struct life life;
	uint64_t file;
	sc_t sc;

	prepare_calls(&sc);
	file = (uint64_t)open("/dev/null", O_RDWR);
	sc_fd_add(&sc, (int)file, BOTH);
	ASSERT_RETURNED(CALL(&sc, SYS_write, { file, (uint64_t)buffer, 5 }), 5); /* control */
	sc_sys_filter(&sc, SYS_write, 2, SC_LESS_OR_EQUAL, 4);
	ASSERT_RETURNED(CALL(&sc, SYS_write, { file, (uint64_t)buffer, 4 }), 4);
	life = CALL(&sc, SYS_write, { file, (uint64_t)buffer, 5 });
	ASSERT_RETURNED(life, -EPERM);
	ASSERT_EQUAL(life.info.calls_denied, 1);
	ASSERT_EQUAL(life.info.system_call, SYS_write);
	ASSERT_RETURNED(CALL(&sc, SYS_read, { file, (uint64_t)buffer, 5 }), -EFAULT); /* another call: it passes */
	ASSERT_RETURNED(CALL(&sc, SYS_write, { 999, (uint64_t)buffer, 5 }), -EBADF);
}

static void all_conditions(void)
{
	uint64_t file;
	sc_t sc;

	prepare_calls(&sc);
	file = (uint64_t)open("/dev/null", O_RDWR);
	sc_fd_add(&sc, (int)file, BOTH);
	sc_sys_filter(&sc, SYS_write, 2, SC_GREATER, 2);
	sc_sys_filter(&sc, SYS_write, 2, SC_LESS, 10);
	sc_sys_filter(&sc, SYS_write, 2, SC_NOT_EQUAL, 7);
	sc_sys_filter_masked(&sc, SYS_write, 2, 1, 1);
	for (uint64_t size = 0; size < 12; size++) {
		bool passes = size > 2 && size < 10 && size != 7 && size % 2;
		ASSERT_RETURNED(CALL(&sc, SYS_write, { file, (uint64_t)buffer, size }), passes ? (long)size : -EPERM);
	}
}

static void requests_of_ioctl(void)
{
	int ends[2];
	uint64_t file;
	sc_t sc;

	prepare_calls(&sc);
	ASSERT_EQUAL(pipe(ends), 0);
	file = (uint64_t)ends[0];
	sc_fd_add(&sc, ends[0], PROT_READ);
	long without = (long)(intptr_t)CALL(&sc, SYS_ioctl, { file, TIOCGWINSZ, 0 }).value;
	CU_ASSERT(without < 0 && without != -EPERM); /* control: refused, but for another reason */
	sc_sys_filter(&sc, SYS_ioctl, 1, SC_EQUAL, FIONREAD);
	long refused = (long)(intptr_t)CALL(&sc, SYS_ioctl, { file, TIOCGWINSZ, 0 }).value;
	ASSERT_EQUAL(refused, -EPERM);
	long passes = (long)(intptr_t)CALL(&sc, SYS_ioctl, { file, FIONREAD, 0 }).value;
	CU_ASSERT(passes != -EPERM);
}

/* What the call does not take of a register makes no difference to the condition. */
static void upper_halves(void)
{
	uint64_t file;
	sc_t sc;

	prepare_calls(&sc);
	file = (uint64_t)open("/dev/null", O_RDWR);
	sc_fd_add(&sc, (int)file, BOTH);
	ASSERT_RETURNED(CALL(&sc, SYS_fcntl, { file, F_GETFL | (uint64_t)5 << 32 }), O_RDWR | 0100000); /* control */
	sc_sys_filter(&sc, SYS_fcntl, 1, SC_NOT_EQUAL, F_GETFL);
	ASSERT_RETURNED(CALL(&sc, SYS_fcntl, { file, F_GETFL }), -EPERM);
	ASSERT_RETURNED(CALL(&sc, SYS_fcntl, { file, F_GETFL | (uint64_t)5 << 32 }), -EPERM);
	sc_sys_filter(&sc, SYS_lseek, 0, SC_NOT_EQUAL, file);
	ASSERT_RETURNED(CALL(&sc, SYS_lseek, { file | (uint64_t)1 << 40, 0, SEEK_CUR }), -EPERM);
}

static void open_and_openat(void)
{
	static const struct call calls[] = {
		{ SYS_open, { (uint64_t)path_in_directory, O_RDONLY } },
		{ SYS_openat, { (uint64_t)AT_FDCWD, (uint64_t)path_in_directory, O_RDONLY } },
		{ SYS_open, { (uint64_t)path_in_directory, O_RDONLY | O_NONBLOCK } },
		{ SYS_openat, { (uint64_t)AT_FDCWD, (uint64_t)path_in_directory, O_RDONLY | O_NONBLOCK } },
		{ SYS_open, { (uint64_t)path_in_directory, O_RDWR } },
	};
	sc_t plain, by_open, by_openat;

	prepare_calls(&plain);
	sc_path_add(&plain, open("/etc", O_RDONLY | O_DIRECTORY), PROT_READ);
	sc_sys_add(&plain, SYS_openat);
	by_open = by_openat = plain;
	sc_sys_filter_masked(&by_open, SYS_open, 1, O_ACCMODE | O_NONBLOCK, O_RDONLY);
	sc_sys_filter_masked(&by_openat, SYS_openat, 2, O_ACCMODE | O_NONBLOCK, O_RDONLY);
	sc_sys_filter(&by_openat, SYS_openat, 0, SC_EQUAL, (uint64_t)AT_FDCWD);
	for (unsigned i = 0; i < 5; i++) {
		*shared_call = calls[i];
		long without = (long)(intptr_t)live_run(&plain, make_call, shared_call).value;
		long first = (long)(intptr_t)live_run(&by_open, make_call, shared_call).value;
		long second = (long)(intptr_t)live_run(&by_openat, make_call, shared_call).value;
		if (i < 4)
			CU_ASSERT(without >= 0);
		if (i < 2)
			CU_ASSERT(first >= 0 && second >= 0);
		if (i >= 2)
			CU_ASSERT(first == -EPERM && second == -EPERM);
	}
	sc_destroy(&plain);
}

static void a_filtered_call_kills(void)
{
	struct life life;
	uint64_t file;
	sc_t sc;

	prepare_calls(&sc);
	file = (uint64_t)open("/dev/null", O_RDWR);
	sc_fd_add(&sc, (int)file, BOTH);
	sc_flags_add(&sc, SC_KILL);
	sc_sys_filter(&sc, SYS_write, 2, SC_LESS, 5);
	ASSERT_RETURNED(CALL(&sc, SYS_write, { file, (uint64_t)buffer, 4 }), 4); /* control */
	life = CALL(&sc, SYS_write, { file, (uint64_t)buffer, 5 });
	ASSERT_END(life, STHREAD_DENIED);
	ASSERT_EQUAL(life.info.system_call, SYS_write);
}

/* A filter grants nothing. */
static void a_filter_is_no_grant(void)
{
	sc_t sc;

	prepare_calls(&sc);
	sc_path_add(&sc, open("/etc", O_RDONLY | O_DIRECTORY), PROT_READ);
	sc_sys_filter(&sc, SYS_open, 1, SC_EQUAL, O_RDONLY);
	ASSERT_RETURNED(CALL(&sc, SYS_open, { (uint64_t)path_in_directory, O_RDONLY }), -EPERM);
	sc_sys_add(&sc, SYS_open);
	CU_ASSERT((intptr_t)CALL(&sc, SYS_open, { (uint64_t)path_in_directory, O_RDONLY }).value >= 0); /* control */
	sc_destroy(&sc);
}

/* Through the index of a kept policy, with conditions from several parts. */
static void filters_of_frozen_policies(void)
{
	uint64_t file;
	sc_t parts[2];

	prepare_calls(&parts[0]);
	sc_init(&parts[1]);
	file = (uint64_t)open("/dev/null", O_RDWR);
	sc_fd_add(&parts[0], (int)file, BOTH);
	sc_sys_filter(&parts[0], SYS_write, 2, SC_GREATER, 3);
	sc_sys_filter(&parts[1], SYS_write, 2, SC_LESS, 6);
	sc_sys_filter(&parts[1], SYS_lseek, 2, SC_EQUAL, SEEK_CUR);
	sc_frozen_t policy = sc_freeze(parts, 2), first = sc_freeze(parts, 1);
	for (uint64_t size = 1; size < 10; size++) {
		*shared_call = (struct call){ SYS_write, { file, (uint64_t)buffer, size } };
		ASSERT_RETURNED(run_frozen(policy, make_call, shared_call), size > 3 && size < 6 ? (long)size : -EPERM);
	}
	*shared_call = (struct call){ SYS_lseek, { file, 0, SEEK_SET } };
	ASSERT_RETURNED(run_frozen(policy, make_call, shared_call), -EPERM);
	ASSERT_RETURNED(run_frozen(first, make_call, shared_call), 0); /* control */
	ASSERT_EQUAL(sc_frozen_is_subset(first, policy), -1);
	sc_destroy(&parts[0]);
}

static void too_many_conditions(void)
{
	sc_t parts[27];

	live_init();
	for (uint64_t i = 0; i < 270; i++) {
		if (i % 10 == 0)
			sc_init(&parts[i / 10]);
		ASSERT_EQUAL(sc_sys_filter(&parts[i / 10], SYS_write, 2, SC_NOT_EQUAL, i), 0);
	}
	CU_ASSERT(sc_freeze(parts, 25) >= 0); /* 250 */
	ASSERT_ERROR(sc_freeze(parts, 27) == -1, ENOSPC);
}

/* In a gate: an sthread makes the call.  Its policy names no condition. */
static void *create_and_call(void *argument, void *trusted)
{
	const struct call *call = argument;
	sthread_t st;
	void *result;
	sc_t sc;

	sc_init(&sc);
	sc_mem_add(&sc, (tag_t)(intptr_t)trusted, PROT_READ);
	sc_fd_add(&sc, (int)call->argument[0], BOTH);
	if (sthread_create(&st, &sc, make_call, argument) != 0 || sthread_join(st, &result) != 0)
		return (void *)(intptr_t)(-1000 - errno);
	return result;
}

/* More conditions than an sc_t holds. */
static void filters_of_gates_bind_their_sthreads(void)
{
	enum {
		MANY = 200
	};
	uint64_t file;
	void *result;
	sc_t parts[MANY / 10 + 1];

	prepare_calls(&parts[0]);
	file = (uint64_t)open("/dev/null", O_RDWR);
	sc_fd_add(&parts[0], (int)file, BOTH);
	sc_sys_add(&parts[0], SYS_openat);
	for (uint64_t i = 0; i < MANY; i++) {
		if (i % 10 == 0)
			sc_init(&parts[1 + i / 10]);
		ASSERT_EQUAL(sc_sys_filter(&parts[1 + i / 10], SYS_write, 2, SC_NOT_EQUAL, 5 + i), 0);
	}
	sc_frozen_t policy = sc_freeze(parts, MANY / 10 + 1);
	cgate_t gate = cgate_create_frozen(create_and_call, policy, (void *)(intptr_t)call_tag, 1, 0);
	ASSERT_EQUAL(cgate_wait_limit(gate, 1000), 0);
	for (int round = 0; round < 50; round++) {
		uint64_t size = round % 2 ? 4 : 5 + 4 * (uint64_t)round % MANY;
		*shared_call = (struct call){ SYS_write, { file, (uint64_t)buffer, size } };
		ASSERT_EQUAL(cgate_call(gate, shared_call, &result), 0);
		ASSERT_EQUAL(result, round % 2 ? 4 : -EPERM);
	}
	sc_destroy(&parts[0]);
}

/* A call that parks is filtered when it is made again, with the registers it had. */
static void a_filtered_call_that_parks(void)
{
	sthread_t st;
	int ends[2];
	sc_t sc;

	prepare_calls(&sc);
	ASSERT_EQUAL(pipe(ends), 0);
	sc_fd_add(&sc, ends[0], PROT_READ);
	sc_sys_filter(&sc, SYS_read, 2, SC_LESS, 5);
	ASSERT_EQUAL(live_create(&st, &sc, read_byte, (void *)(intptr_t)ends[0]), 0);
	ASSERT_EQUAL(write(ends[1], "z", 1), 1);
	ASSERT_RETURNED(live_join(st), 'z');
	sc_destroy(&sc);
}

static void a_frozen_policy_is_described(void)
{
	char text[20000], line[100];
	const char *at = text;

	live_init();
	make_table();
	sc_frozen_t policy = freeze_tags(0, TAGS, BOTH);
	int length = sc_frozen_describe(policy, text, sizeof text);
	CU_ASSERT(length > 0 && (size_t)length < sizeof text);
	ASSERT_EQUAL(sc_frozen_describe(policy, NULL, 0), length);
	for (int i = 0; i < TAGS; i++) {
		snprintf(line, sizeof line, "tag %d: read, write\n", table->tag[i]);
		at = strstr(at, line); /* in the order of their handles */
		CU_ASSERT_PTR_NOT_NULL_FATAL(at);
	}
	CU_ASSERT_PTR_NOT_NULL(strstr(at, "\nprocessor time: 10000 ms, the default\n"));
	ASSERT_ERROR(sc_frozen_describe(policy, NULL, 10) == -1, EINVAL);
	ASSERT_EQUAL(sc_frozen_destroy(policy), 0);
	ASSERT_ERROR(sc_frozen_describe(policy, text, sizeof text) == -1, EBADF);
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
	{ "a write on a granted descriptor passes a condition on its size, or is refused", sizes_of_writes,
	  HARNESS_FORK },
	{ "all conditions on a call must hold", all_conditions, HARNESS_FORK, .seconds = 60 },
	{ "ioctl can be limited to one request", requests_of_ioctl, HARNESS_FORK },
	{ "the upper half of a register makes no difference to a condition", upper_halves, HARNESS_FORK },
	{ "open and openat have the same conditions", open_and_openat, HARNESS_FORK },
	{ "SC_KILL ends an sthread whose call a condition refuses", a_filtered_call_kills, HARNESS_FORK },
	{ "a condition grants nothing", a_filter_is_no_grant, HARNESS_FORK },
	{ "conditions of all parts of a frozen policy must hold", filters_of_frozen_policies, HARNESS_FORK,
	  .seconds = 60 },
	{ "all conditions of a gate bind the sthreads it makes", filters_of_gates_bind_their_sthreads, HARNESS_FORK,
	  .seconds = 60 },
	{ "256 conditions are the most", too_many_conditions, HARNESS_FORK },
	{ "a call with conditions can park and be made again", a_filtered_call_that_parks, HARNESS_FORK },
	{ "a frozen policy is described in order", a_frozen_policy_is_described, HARNESS_FORK },
	{ "wrong parts and stale frozen policies are refused", wrong_freezes, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
