/* live_misuse.c - every public function called wrongly: the documented error, and nothing changed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "live.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

static void *gate_entry(void *argument, void *trusted)
{
	(void)trusted;
	return argument;
}

/* What must be refused before sthread_init() and inside an sthread.  Returns 0, or the line of
 * the first call that was not refused with EPERM. */
#define DENIED(call)                                   \
	do {                                           \
		errno = 0;                             \
		if (!(call) || errno != EPERM)         \
			return (void *)(long)__LINE__; \
	} while (0)

static void *all_denied(void *sthread)
{
	sthread_t st = (sthread_t)(intptr_t)sthread;
	struct sthread_info info;
	struct sthread_statistics statistics;
	enum sthread_state state;
	uint64_t deadline;
	short events;
	int fd;
	sc_t sc;

	sc_init(&sc);
	DENIED(sthread_create(&st, &sc, body_nothing, NULL) == -1);
	DENIED(sthread_join(st, NULL) == -1);
	DENIED(sthread_join_info(st, NULL, &info) == -1);
	DENIED(sthread_step(st) == -1);
	DENIED(sthread_state(st, &state) == -1);
	DENIED(sthread_wait_fd(st, &fd, &events) == -1);
	DENIED(sthread_wait_deadline(st, &deadline) == -1);
	DENIED(sthread_kill(st) == -1);
	DENIED(sthread_get_info(st, &info) == -1);
	DENIED(sthread_statistics(&statistics) == -1);
	DENIED(tag_new() == -1);
	DENIED(tag_delete(0) == -1);
	DENIED(cgate_create(gate_entry, &sc, NULL) == -1);
	DENIED(cgate_create_fresh(gate_entry, &sc, NULL) == -1);
	DENIED(cgate_create_frozen(gate_entry, 0, NULL, 1, 0) == -1);
	DENIED(cgate_destroy(0) == -1);
	DENIED(sc_freeze(&sc, 1) == -1);
	DENIED(sc_frozen_destroy(0) == -1);
	DENIED(sc_frozen_describe(0, NULL, 0) == -1);
	DENIED(sc_frozen_is_subset(0, 0) == -1);
	DENIED(sthread_create_frozen(&st, 0, body_nothing, NULL) == -1);
	DENIED(cgate_call(0, NULL, NULL) == -1);
	DENIED(cgate_call_buf(0, "", 0, NULL, NULL) == -1);
	DENIED(smalloc(0, 10) == NULL);
	return NULL;
}

/* Only inside. */
static void *all_denied_inside(void *sthread)
{
	sc_t sc, other;
	void *bad = all_denied(sthread);

	if (bad)
		return bad;
	sc_init(&sc);
	DENIED(sthread_init() == -1);
	DENIED(sc_mem_add(&sc, 0, PROT_READ) == -1);
	DENIED(sc_fd_add(&sc, 0, PROT_READ) == -1);
	DENIED(sc_path_add(&sc, 0, PROT_READ) == -1);
	DENIED(sc_sys_add(&sc, SYS_open) == -1);
	DENIED(sc_sys_filter(&sc, SYS_openat, 2, SC_EQUAL, 0) == -1);
	DENIED(sc_sys_filter_masked(&sc, SYS_openat, 2, 1, 0) == -1);
	DENIED(sc_cgate_add(&sc, 0) == -1);
	DENIED(sc_flags_add(&sc, SC_KILL) == -1);
	DENIED(sc_cpu_budget(&sc, 1) == -1);
	DENIED(sc_memory_quota(&sc, 1) == -1);
	DENIED(sc_wall_budget(&sc, 1) == -1);
	DENIED(sc_call_budget(&sc, 1) == -1);
	DENIED(sc_descriptor_limit(&sc, 1) == -1);
	DENIED(sc_copy(&other, &sc) == -1);
	DENIED(sc_is_subset(&sc, &sc) == -1);
	DENIED(sc_describe(&sc, NULL, 0) == -1);
	DENIED(sc_equal(&sc, &sc) == -1);
	sfree(NULL);
	return NULL;
}

static void before_init(void)
{
	sc_t sc;

	ASSERT_EQUAL(all_denied(NULL), 0);
	CU_ASSERT(strlen(sthread_error()) > 10);
	ASSERT_ERROR(sthread_park() == -1, EPERM);
	sc_init(&sc);
	ASSERT_EQUAL(sc_sys_add(&sc, SYS_open), 0);
	ASSERT_ERROR(sc_mem_add(&sc, 0, PROT_READ) == -1, EBADF);
	live_init();
	ASSERT_ERROR(sthread_create(&(sthread_t){ 0 }, &sc, body_nothing, NULL) == -1, EBADF); /* it was remembered */
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

static void inside(void)
{
	live_init();
	ASSERT_RETURNED(live_run_bare(all_denied_inside, NULL), 0);
	ASSERT_RETURNED(live_run_bare(all_denied_inside, (void *)0x40000), 0);
}

static void init_twice(void)
{
	struct sthread_statistics before, after;

	live_init();
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	ASSERT_EQUAL(sthread_init(), 0);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	CU_ASSERT(memcmp(&before, &after, sizeof(before)) == 0);
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

static void *wait_for(void *fd)
{
	char byte;

	return (void *)(intptr_t)read((int)(intptr_t)fd, &byte, 1);
}

static void init_with_threads(void)
{
	pthread_t thread;
	int ends[2], fds;

	ASSERT_EQUAL(pipe(ends), 0);
	pthread_create(&thread, NULL, wait_for, (void *)(intptr_t)ends[0]);
	fds = live_open_fds();
	for (int i = 0; i < 2; i++) {
		ASSERT_ERROR(sthread_init() == -1, EBUSY);
		CU_ASSERT_PTR_NOT_NULL(strstr(sthread_error(), "thread"));
		ASSERT_EQUAL(live_open_fds(), fds); /* nothing half started */
		ASSERT_EQUAL(all_denied(NULL), 0);
	}
	ASSERT_EQUAL(write(ends[1], "", 1), 1);
	pthread_join(thread, NULL);
	live_init(); /* the cure works */
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

static void bad_handles(void)
{
	static const int bad[] = { -1, 0, 1, 5, INT_MAX, INT_MIN, 0x3ffff, 1 << 18, (1 << 18) + 100 };
	struct sthread_info info;
	enum sthread_state state;
	short events;
	int fd;
	sc_t sc;
	sthread_t st;

	live_init();
	sc_init(&sc);
	ASSERT_EQUAL(sthread_create(&st, &sc, body_nothing, NULL), 0);
	ASSERT_EQUAL(sthread_join(st, NULL), 0);
	for (size_t i = 0; i <= sizeof(bad) / sizeof(*bad); i++) {
		int handle = i < sizeof(bad) / sizeof(*bad) ? bad[i] : st; /* the last one is stale */

		ASSERT_ERROR(sthread_join(handle, NULL) == -1, EBADF);
		ASSERT_ERROR(sthread_join_info(handle, NULL, &info) == -1, EBADF);
		ASSERT_ERROR(sthread_step(handle) == -1, EBADF);
		ASSERT_ERROR(sthread_state(handle, &state) == -1, EBADF);
		ASSERT_ERROR(sthread_wait_fd(handle, &fd, &events) == -1, EBADF);
		ASSERT_ERROR(sthread_kill(handle) == -1, EBADF);
		ASSERT_ERROR(sthread_get_info(handle, &info) == -1, EBADF);
		ASSERT_ERROR(tag_delete(handle) == -1, EBADF);
		ASSERT_ERROR(smalloc(handle, 10) == NULL, EBADF);
		ASSERT_ERROR(cgate_destroy(handle) == -1, EBADF);
		ASSERT_ERROR(cgate_call(handle, NULL, NULL) == -1, EBADF);
		ASSERT_ERROR(cgate_call_buf(handle, "", 0, NULL, NULL) == -1, EBADF);
		sc_init(&sc);
		ASSERT_ERROR(sc_mem_add(&sc, handle, PROT_READ) == -1, EBADF);
		ASSERT_ERROR(sthread_create(&st, &sc, body_nothing, NULL) == -1, EBADF);
		sc_init(&sc);
		ASSERT_ERROR(sc_cgate_add(&sc, handle) == -1, EBADF);
		ASSERT_ERROR(sthread_create(&st, &sc, body_nothing, NULL) == -1, EBADF);
	}
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

static void bad_pointers(void)
{
	struct sthread_info info;
	sthread_t st;
	sc_t sc, other, garbage;
	cgate_t gate;
	size_t length = 5;
	tag_t tag;

	live_init();
	sc_init(&sc);
	sc_init(NULL);
	sc_destroy(NULL);
	memset(&garbage, 0xee, sizeof(garbage));
	sc_destroy(&garbage);
	ASSERT_ERROR(sthread_create(NULL, &sc, body_nothing, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_create(&st, NULL, body_nothing, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_create(&st, &garbage, body_nothing, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_create(&st, &sc, NULL, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_create(&st, &sc, (stcb_t)(uintptr_t)&sc, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_create(&st, &sc, (stcb_t)(uintptr_t)live_window(), NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_create(&st, &sc, (stcb_t)(uintptr_t)0xffffffff81000000, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_statistics(NULL) == -1, EINVAL);
	sc_t *const none[] = { NULL, &garbage };

	for (int i = 0; i < 2; i++) {
		ASSERT_ERROR(sc_mem_add(none[i], 0, PROT_READ) == -1, EINVAL);
		ASSERT_ERROR(sc_fd_add(none[i], 0, PROT_READ) == -1, EINVAL);
		ASSERT_ERROR(sc_path_add(none[i], 0, PROT_READ) == -1, EINVAL);
		ASSERT_ERROR(sc_sys_add(none[i], SYS_open) == -1, EINVAL);
		ASSERT_ERROR(sc_cgate_add(none[i], 0) == -1, EINVAL);
		ASSERT_ERROR(sc_flags_add(none[i], SC_KILL) == -1, EINVAL);
		ASSERT_ERROR(sc_cpu_budget(none[i], 1) == -1, EINVAL);
		ASSERT_ERROR(sc_memory_quota(none[i], 1) == -1, EINVAL);
		ASSERT_ERROR(sc_wall_budget(none[i], 1) == -1, EINVAL);
		ASSERT_ERROR(sc_call_budget(none[i], 1) == -1, EINVAL);
		ASSERT_ERROR(sc_descriptor_limit(none[i], 1) == -1, EINVAL);
		ASSERT_ERROR(sc_copy(&other, none[i]) == -1, EINVAL);
		ASSERT_ERROR(cgate_create(gate_entry, none[i], NULL) == -1, EINVAL);
	}
	ASSERT_ERROR(sc_copy(NULL, &sc) == -1, EINVAL);
	ASSERT_ERROR(cgate_create(NULL, &sc, NULL) == -1, EINVAL);
	ASSERT_ERROR(cgate_create((cgate_fn)(uintptr_t)&sc, &sc, NULL) == -1, EINVAL);
	gate = cgate_create(gate_entry, &sc, NULL);
	ASSERT_ERROR(cgate_call_buf(gate, NULL, 5, NULL, NULL) == -1, EFAULT);
	ASSERT_ERROR(cgate_call_buf(gate, "12345", 5, NULL, &length) == -1, EFAULT);
	ASSERT_EQUAL(sthread_create(&st, &sc, body_park_then_read, &sc), 0);
	ASSERT_ERROR(sthread_state(st, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_get_info(st, NULL) == -1, EINVAL);
	ASSERT_EQUAL(sthread_wait_fd(st, NULL, NULL), 0);
	ASSERT_EQUAL(sthread_kill(st), 0);
	ASSERT_ERROR(sthread_join_info(st, NULL, &info) == -1, ECANCELED);
	tag = tag_new();
	ASSERT_ERROR(smalloc(tag, 0) == NULL, EINVAL);
	ASSERT_ERROR(smalloc(tag, SIZE_MAX) == NULL, ENOMEM);
	ASSERT_ERROR(smalloc(tag, (size_t)1 << 40) == NULL, ENOMEM);
	ASSERT_ERROR((sfree(&sc), true), EINVAL);
	ASSERT_ERROR((sfree((void *)8), true), EINVAL);
	ASSERT_ERROR((sfree(NULL), true), 0);
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

static void bad_grants(void)
{
	int file = open("/dev/null", O_RDWR), closed = dup(file);
	sthread_t st;
	sc_t sc;

	live_init();
	close(closed);

	tag_t tag = tag_new();

	static const int bad_rights[] = { 0, PROT_EXEC, PROT_READ | PROT_EXEC, 8, -1 };

	for (size_t i = 0; i < sizeof(bad_rights) / sizeof(*bad_rights); i++) {
		sc_init(&sc);
		ASSERT_ERROR(sc_mem_add(&sc, tag, bad_rights[i]) == -1, EINVAL);
		ASSERT_ERROR(sthread_create(&st, &sc, body_nothing, NULL) == -1, EINVAL);
		sc_init(&sc);
		ASSERT_ERROR(sc_fd_add(&sc, file, bad_rights[i]) == -1, EINVAL);
		ASSERT_ERROR(sthread_create(&st, &sc, body_nothing, NULL) == -1, EINVAL);
	}
	sc_init(&sc);
	ASSERT_ERROR(sc_mem_add(&sc, tag, PROT_WRITE) == -1, EINVAL);
	sc_init(&sc);
	ASSERT_ERROR(sc_fd_add(&sc, closed, PROT_READ) == -1, EBADF);
	ASSERT_ERROR(sc_fd_add(&sc, -1, PROT_READ) == -1, EBADF);
	ASSERT_ERROR(sc_path_add(&sc, file, PROT_READ) == -1, ENOTDIR);
	ASSERT_ERROR(sthread_create(&st, &sc, body_nothing, NULL) == -1, EBADF); /* the first failure is remembered */
	sc_init(&sc);
	ASSERT_ERROR(sc_sys_add(&sc, -1) == -1, EINVAL);
	ASSERT_ERROR(sc_sys_add(&sc, 100000) == -1, EINVAL);
	sc_init(&sc);
	ASSERT_ERROR(sc_flags_add(&sc, 0x80) == -1, EINVAL);
	ASSERT_ERROR(sthread_create(&st, &sc, body_nothing, NULL) == -1, EINVAL);

	/* Full: the first that does not fit is refused, and so is the policy. */
	int added = 0;

	sc_init(&sc);
	while (added < 1000 && sc_mem_add(&sc, tag_new(), PROT_READ) == 0)
		added++;
	ASSERT_EQUAL(errno, ENOSPC);
	CU_ASSERT(added >= 16 && added < 100);
	ASSERT_ERROR(sthread_create(&st, &sc, body_nothing, NULL) == -1, ENOSPC);

	int fds = live_open_fds();

	sc_init(&sc);
	for (added = 0; added < 100; added++)
		if (sc_fd_add(&sc, dup(file), PROT_READ) != 0)
			break;
	ASSERT_EQUAL(errno, ENOSPC);
	sc_destroy(&sc);
	CU_ASSERT(added >= 8);
	live_check(live_open_fds() == fds + added + 1, __FILE__, __LINE__, "the policy's duplicates are closed");
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

static void copies(void)
{
	int fds, ends[2];
	char byte;
	sc_t sc, copy;

	live_init();
	ASSERT_EQUAL(pipe(ends), 0);
	fds = live_open_fds();
	sc_init(&sc);
	sc_fd_add(&sc, ends[0], PROT_READ);
	ASSERT_EQUAL(sc_copy(&copy, &sc), 0);
	sc_destroy(&sc);
	ASSERT_EQUAL(write(ends[1], "x", 1), 1);
	ASSERT_RETURNED(live_run(&copy, wait_for, (void *)(intptr_t)ends[0]), 1);
	ASSERT_RETURNED(live_run(&sc, wait_for, (void *)(intptr_t)ends[0]), -1); /* it grants nothing now */
	sc_destroy(&copy);
	sc_destroy(&copy);
	ASSERT_EQUAL(live_open_fds(), fds);
	ASSERT_EQUAL(write(ends[1], "x", 1), 1);
	ASSERT_EQUAL(read(ends[0], &byte, 1), 1);
}

static const struct harness_test tests[] = {
	{ "before sthread_init() everything is EPERM", before_init, HARNESS_FORK },
	{ "inside an sthread everything is EPERM", inside, HARNESS_FORK },
	{ "a second sthread_init() changes nothing", init_twice, HARNESS_FORK },
	{ "sthread_init() with threads running is EBUSY, and works when they have ended", init_with_threads,
	  HARNESS_FORK },
	{ "stale and invented handles are EBADF", bad_handles, HARNESS_FORK },
	{ "NULL and garbage are EINVAL", bad_pointers, HARNESS_FORK },
	{ "grants that cannot be made are refused, and the policy with them", bad_grants, HARNESS_FORK },
	{ "copies of a policy are independent", copies, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
