/* live_limits.c - wild arguments, and an sthread that wants too much: the process is not hurt, and waits for nobody. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum { PAGE = 4096, MIB = 1 << 20, BOTH = PROT_READ | PROT_WRITE };

/* What bodies are told, in a tag. */
struct shared {
	uint64_t window, read_only, tag_end;
	int in, out;
	long wrong;        /* number of wrong answers */
	long first[4];     /* call, pointer, answer, expected */
	uint64_t count;
};

static struct shared *share(tag_t *tag, sc_t *sc)
{
	*tag = tag_new();

	struct shared *shared = smalloc(*tag, sizeof(*shared));

	CU_ASSERT_PTR_NOT_NULL_FATAL(shared);
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, *tag, BOTH), 0);
	shared->window = live_window();
	return shared;
}

/* ---- wild pointers ----------------------------------------------------------------------------------------------- */

static const char constants[2 * PAGE] = "read-only";

static void expect(struct shared *shared, long call, uint64_t pointer, long answer, long expected)
{
	if (answer == expected)
		return;
	if (!shared->wrong++) {
		shared->first[0] = call;
		shared->first[1] = (long)pointer;
		shared->first[2] = answer;
		shared->first[3] = expected;
	}
}

static long call(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	long answer = number;
	register uint64_t r10 __asm__("r10") = d;

	__asm__ volatile("syscall" : "+a"(answer) : "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return answer;
}

static void *wild_outputs(void *argument)
{
	struct shared *shared = argument;
	const uint64_t pointers[] = { 0, 8, 0xfff0, 0x12340000, shared->window + WINDOW_MONITOR, shared->window + WINDOW_DESCRIPTORS,
				      shared->window + WINDOW_PROCESSORS + PAGE, shared->window + WINDOW_LIFE,
				      shared->window + WINDOW_LIFE_MONITOR, shared->window + WINDOW_TRAMPOLINE, (uint64_t)constants,
				      (uint64_t)wild_outputs, shared->read_only, 0x7ffffffff000, 0x800000000000, 0xffff888000000000,
				      0xffffffffffffffff, 0xfffffffffffff000 };
	uint64_t fd = (uint64_t)shared->in;

	for (size_t i = 0; i < sizeof(pointers) / sizeof(*pointers); i++) {
		uint64_t at = pointers[i];
		struct iovec vector = { (void *)at, 100 };

		expect(shared, SYS_read, at, call(SYS_read, fd, at, 100, 0), -EFAULT);
		expect(shared, SYS_pread64, at, call(SYS_pread64, fd, at, 100, 0), -EFAULT);
		expect(shared, SYS_readv, at, call(SYS_readv, fd, (uint64_t)&vector, 1, 0), -EFAULT);
		expect(shared, SYS_fstat, at, call(SYS_fstat, fd, at, 0, 0), -EFAULT);
		expect(shared, SYS_newfstatat, at, call(SYS_newfstatat, fd, (uint64_t) "", at, 0x1000), -EFAULT);
		expect(shared, SYS_clock_gettime, at, call(SYS_clock_gettime, CLOCK_MONOTONIC, at, 0, 0), -EFAULT);
		expect(shared, SYS_getrandom, at, call(SYS_getrandom, at, 100, 0, 0), -EFAULT);
		if (at) {
			expect(shared, SYS_clock_getres, at, call(SYS_clock_getres, CLOCK_MONOTONIC, at, 0, 0), -EFAULT);
			expect(shared, SYS_gettimeofday, at, call(SYS_gettimeofday, at, 0, 0, 0), -EFAULT);
			expect(shared, SYS_time, at, call(SYS_time, at, 0, 0, 0), -EFAULT);
			expect(shared, SYS_getcpu, at, call(SYS_getcpu, at, 0, 0, 0), -EFAULT);
			expect(shared, SYS_getcpu, at, call(SYS_getcpu, 0, at, 0, 0), -EFAULT);
		}
	}
	return (void *)1;
}

static void *wild_inputs(void *argument)
{
	struct shared *shared = argument;
	const uint64_t pointers[] = { 0, 8, 0xfff0, 0x12340000, shared->window + WINDOW_MONITOR, shared->window + WINDOW_DESCRIPTORS,
				      shared->window + WINDOW_PROCESSORS + PAGE, shared->window + WINDOW_LIFE_MONITOR, 0x7ffffffff000,
				      0x800000000000, 0xffff888000000000, 0xffffffffffffffff, 0xfffffffffffff000 };
	uint64_t fd = (uint64_t)shared->out;

	for (size_t i = 0; i < sizeof(pointers) / sizeof(*pointers); i++) {
		uint64_t at = pointers[i];
		struct iovec vector = { (void *)at, 100 };

		expect(shared, SYS_write, at, call(SYS_write, fd, at, 100, 0), -EFAULT);
		expect(shared, SYS_writev, at, call(SYS_writev, fd, (uint64_t)&vector, 1, 0), -EFAULT);
		expect(shared, SYS_writev, at, call(SYS_writev, fd, at, 2, 0), -EFAULT);
		expect(shared, SYS_readv, at, call(SYS_readv, (uint64_t)shared->in, at, 2, 0), -EFAULT);
		expect(shared, SYS_open, at, call(SYS_open, at, O_RDONLY, 0, 0), -EFAULT);
		expect(shared, SYS_openat, at, call(SYS_openat, (uint64_t)AT_FDCWD, at, O_RDONLY, 0), -EFAULT);
	}
	/* A control, and one that begins well and ends in nothing. */
	expect(shared, SYS_write, 0, call(SYS_write, fd, (uint64_t)constants, 9, 0), 9);
	expect(shared, SYS_write, 1, call(SYS_write, fd, shared->tag_end - 5, 100, 0), 5);
	expect(shared, SYS_read, 1, call(SYS_read, (uint64_t)shared->in, shared->tag_end - 5, 100, 0), 5);
	expect(shared, SYS_fstat, 1, call(SYS_fstat, (uint64_t)shared->in, shared->tag_end - 5, 0, 0), -EFAULT);
	memset((void *)(shared->tag_end - 5), 'x', 5);
	expect(shared, SYS_open, 1, call(SYS_open, shared->tag_end - 5, O_RDONLY, 0, 0), -EFAULT);
	return (void *)1;
}

static void check_answers(const struct shared *shared)
{
	live_check(shared->wrong == 0, __FILE__, __LINE__, "%ld wrong answers; the first: call %ld at %#lx said %ld, not %ld",
		   shared->wrong, shared->first[0], shared->first[1], shared->first[2], shared->first[3]);
}

static void wild_pointers(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name), directory;
	tag_t tag, other;
	sc_t sc;

	live_init();
	other = tag_new(); /* first, so that nothing follows the tag that is shared */

	uint8_t *read_only = smalloc(other, 100);
	struct shared *shared = share(&tag, &sc);

	unlink(name);
	ASSERT_EQUAL(ftruncate(file, 10000), 0);
	memset(read_only, 0x17, 100);
	sc_mem_add(&sc, other, PROT_READ);
	directory = open("/tmp", O_RDONLY | O_DIRECTORY);
	sc_fd_add(&sc, file, BOTH);
	sc_path_add(&sc, directory, PROT_READ);
	sc_sys_add(&sc, SYS_open);
	shared->in = shared->out = file;
	shared->read_only = (uint64_t)read_only;
	for (uint64_t at = (uint64_t)shared & ~(uint64_t)(PAGE - 1);; at += PAGE) {
		struct life life = live_run(&sc, body_write, (void *)at);

		if (life.error) {
			shared->tag_end = at;
			break;
		}
	}
	memset((void *)(shared->tag_end - 5), 'x', 5);
	ASSERT_RETURNED(live_run(&sc, wild_outputs, shared), 1);
	check_answers(shared);
	ASSERT_RETURNED(live_run(&sc, wild_inputs, shared), 1);
	check_answers(shared);
	for (int i = 0; i < 100; i++)
		ASSERT_EQUAL(read_only[i], 0x17);
	ASSERT_EQUAL(constants[0], 'r');
	sc_destroy(&sc);
}

static void *wild_numbers(void *argument)
{
	struct shared *shared = argument;
	uint64_t in = (uint64_t)shared->in, out = (uint64_t)shared->out;
	char buffer[100];
	const long not_calls[] = { -1, -39, 512, 513, 1000, 0x40000001, 0x100000000, LONG_MIN, LONG_MAX, 435 + 512 };

	for (size_t i = 0; i < sizeof(not_calls) / sizeof(*not_calls); i++)
		expect(shared, not_calls[i], 0, call(not_calls[i], 0, 0, 0, 0), -ENOSYS);
	for (long fd = -3; fd < 1000; fd++)
		if (fd != (long)in && fd != (long)out)
			expect(shared, SYS_read, (uint64_t)fd, call(SYS_read, (uint64_t)fd, (uint64_t)buffer, 1, 0), -EBADF);
	const uint64_t not_files[] = { (uint64_t)INT_MIN, INT_MAX, UINT64_MAX, (uint64_t)LONG_MIN };

	for (size_t i = 0; i < sizeof(not_files) / sizeof(*not_files); i++) {
		expect(shared, SYS_write, i, call(SYS_write, not_files[i], (uint64_t)buffer, 1, 0), -EBADF);
		expect(shared, SYS_close, i, call(SYS_close, not_files[i], 0, 0, 0), -EBADF);
		expect(shared, SYS_fstat, i, call(SYS_fstat, not_files[i], (uint64_t)buffer, 0, 0), -EBADF);
		expect(shared, SYS_lseek, i, call(SYS_lseek, not_files[i], 0, 0, 0), -EBADF);
		expect(shared, SYS_fcntl, i, call(SYS_fcntl, not_files[i], F_GETFL, 0, 0), -EBADF);
	}
	expect(shared, SYS_readv, 0, call(SYS_readv, in, (uint64_t)buffer, UINT64_MAX, 0), -EINVAL);
	expect(shared, SYS_writev, 0, call(SYS_writev, out, (uint64_t)buffer, 1025, 0), -EINVAL);
	expect(shared, SYS_mmap, 0, call(SYS_mmap, 0, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS), -EINVAL);
	expect(shared, SYS_mmap, 1, call(SYS_mmap, 0, UINT64_MAX, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS), -EINVAL);
	expect(shared, SYS_mmap, 2, call(SYS_mmap, 0, (uint64_t)1 << 46, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS), -ENOMEM);
	expect(shared, SYS_munmap, 0, call(SYS_munmap, (uint64_t)wild_numbers & ~(uint64_t)(PAGE - 1), PAGE, 0, 0), -EPERM);
	expect(shared, SYS_munmap, 1, call(SYS_munmap, shared->window + WINDOW_TRAMPOLINE, PAGE, 0, 0), -EPERM);
	expect(shared, SYS_munmap, 2, call(SYS_munmap, shared->window + SPACE_ARENA, (uint64_t)1 << 63, 0, 0), -EPERM);
	expect(shared, SYS_munmap, 3, call(SYS_munmap, shared->window + SPACE_ARENA + 1, PAGE, 0, 0), -EINVAL);

	uint64_t end = (uint64_t)call(SYS_brk, 0, 0, 0, 0);

	expect(shared, SYS_brk, 0, call(SYS_brk, UINT64_MAX, 0, 0, 0), (long)end);
	expect(shared, SYS_brk, 1, call(SYS_brk, shared->window, 0, 0, 0), (long)end);
	expect(shared, SYS_brk, 2, call(SYS_brk, 0x10000, 0, 0, 0), (long)end);
	/* Too much is a short transfer, up to what is there. */
	expect(shared, SYS_read, 0, call(SYS_pread64, in, (uint64_t)buffer & ~(uint64_t)0, 100, 0), 100);
	expect(shared, SYS_getrandom, 0, call(SYS_getrandom, (uint64_t)buffer, 0, 0, 0), 0);
	return (void *)1;
}

static void wild_lengths(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name);
	tag_t tag;
	sc_t sc;

	unlink(name);
	ASSERT_EQUAL(ftruncate(file, 10000), 0);
	live_init();

	struct shared *shared = share(&tag, &sc);

	sc_fd_add(&sc, file, BOTH);
	shared->in = shared->out = file;
	ASSERT_RETURNED(live_run(&sc, wild_numbers, shared), 1);
	check_answers(shared);
	sc_destroy(&sc);
}

static void *whole_memory(void *argument)
{
	struct shared *shared = argument;
	long answer = call(SYS_write, (uint64_t)shared->out, (uint64_t)constants, UINT64_MAX / 2, 0);

	if (answer <= 0)
		return (void *)answer;
	return (void *)(uintptr_t)(call(SYS_write, (uint64_t)shared->out, (uint64_t)constants, 1, 0) == 1);
}

/* A huge length ends where the caller's own memory ends. */
static void huge_write(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name);
	tag_t tag;
	sc_t sc;

	unlink(name);
	live_init();

	struct shared *shared = share(&tag, &sc);

	sc_fd_add(&sc, file, BOTH);
	shared->out = file;
	ASSERT_RETURNED(live_run(&sc, whole_memory, shared), 1);
	CU_ASSERT(lseek(file, 0, SEEK_END) <= 2 * MIB);
	sc_destroy(&sc);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

static void *call_for_ever(void *argument)
{
	while (call(SYS_sched_yield, 0, 0, 0, 0) == 0)
		;
	return argument;
}

static void *fault_on_purpose(void *argument)
{
	return body_read(argument);
}

static void *grow_and_shrink_for_ever(void *argument)
{
	struct shared *shared = argument;

	for (; shared->count < UINT64_MAX; shared->count++) {
		void *at = mmap(NULL, 64 * MIB, BOTH, MAP_PRIVATE, shared->in, 0);

		if (at != MAP_FAILED)
			munmap(at, 64 * MIB);
	}
	return NULL;
}

static void budget(void)
{
	static const stcb_t bodies[] = { body_spin, call_for_ever };
	sc_t sc;

	live_init();
	sc_init(&sc);
	sc_cpu_budget(&sc, 60);
	for (int i = 0; i < 2; i++) {
		double began = live_seconds();

		ASSERT_END(live_run(&sc, bodies[i], NULL), STHREAD_OUT_OF_CPU);
		began = live_seconds() - began;
		live_check(began < 1.0 * harness_time_scale(), __FILE__, __LINE__, "a budget of 60 ms is spent within a second (%f)",
			   began);
	}
	ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)3), 3);
}

static void slice(void)
{
	static const stcb_t bodies[] = { body_spin, call_for_ever };

	live_init();
	for (int i = 0; i < 2; i++) {
		enum sthread_state state;
		sthread_t st;
		sc_t sc;
		double began = live_seconds();

		sc_init(&sc);
		ASSERT_EQUAL(sthread_create(&st, &sc, bodies[i], NULL), 0);
		began = live_seconds() - began;
		live_check(began < 0.5 * harness_time_scale(), __FILE__, __LINE__, "body %d: sthread_create() ends with the slice (%f s)",
			   i, began);
		ASSERT_EQUAL(sthread_state(st, &state), 0);
		ASSERT_EQUAL(state, STHREAD_RUNNABLE);
		ASSERT_EQUAL(sthread_kill(st), 0);
		ASSERT_END(live_join(st), STHREAD_KILLED);
	}
}

/* Calls whose serving takes long count like the sthread's own work. */
static void slow_calls(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name);
	tag_t tag;
	sc_t sc;

	unlink(name);
	ASSERT_EQUAL(ftruncate(file, 64 * MIB), 0);
	live_init();

	struct shared *shared = share(&tag, &sc);
	sthread_t st;
	double began;

	sc_fd_add(&sc, file, PROT_READ);
	sc_cpu_budget(&sc, 300);
	shared->in = file;
	began = live_seconds();
	ASSERT_EQUAL(sthread_create(&st, &sc, grow_and_shrink_for_ever, shared), 0);
	began = live_seconds() - began;
	live_check(began < 1.0 * harness_time_scale(), __FILE__, __LINE__, "sthread_create() ends with the slice (%f s)", began);
	began = live_seconds();
	ASSERT_END(live_join(st), STHREAD_OUT_OF_CPU);
	began = live_seconds() - began;
	live_check(began < 3.0 * harness_time_scale(), __FILE__, __LINE__, "a budget of 300 ms ends it (%f s, %lu rounds)", began,
		   shared->count);
	sc_destroy(&sc);
}

static void many_faults(void)
{
	struct sthread_statistics before, after;
	int fds;

	live_init();
	for (int i = 0; i < 3; i++)
		live_run_bare(fault_on_purpose, NULL);
	fds = live_open_fds();
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	for (int i = 0; i < 300; i++)
		ASSERT_PAGE_FAULT(live_run_bare(fault_on_purpose, (void *)0x2000), READ_ABSENT, 0x2000);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.frames_used, before.frames_used);
	ASSERT_EQUAL(after.address_spaces, before.address_spaces);
	ASSERT_EQUAL(live_open_fds(), fds);
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void *fill_mappings(void *argument)
{
	struct shared *shared = argument;

	for (;;) {
		uint8_t *at = mmap(NULL, MIB, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (at == MAP_FAILED)
			return (void *)1;
		for (size_t i = 0; i < MIB; i += PAGE) {
			at[i] = 1;
			shared->count++;
		}
	}
}

static void *fill_heap(void *argument)
{
	struct shared *shared = argument;
	void *at;

	while ((at = malloc(60000))) {
		memset(at, 1, 60000);
		shared->count += 60000 / PAGE;
	}
	return (void *)1;
}

static void *touch_sparsely(void *argument)
{
	struct shared *shared = argument;

	for (;;) {
		uint8_t *at = mmap(NULL, 8 * MIB, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (at == MAP_FAILED)
			return (void *)1;
		for (size_t i = 0; i < 8 * MIB; i += 2 * MIB) {
			at[i] = 1;
			shared->count++;
		}
	}
}

static void quota(void)
{
	static const stcb_t bodies[] = { fill_mappings, fill_heap, touch_sparsely };
	tag_t tag;
	sc_t sc;

	live_init();

	struct shared *shared = share(&tag, &sc);

	sc_memory_quota(&sc, 16 * MIB);
	for (int i = 0; i < 3; i++) {
		struct sthread_statistics before, after;
		size_t tables = supervisor.machine->tables.used;

		shared->count = 0;
		ASSERT_EQUAL(sthread_statistics(&before), 0);

		struct life life = live_run(&sc, bodies[i], shared);

		/* It is told by mmap() or malloc(), or it ends. */
		live_check((!life.error && life.value == (void *)1) || life.info.end == STHREAD_FAULTED, __FILE__, __LINE__,
			   "body %d is stopped (end %d)", i, (int)life.info.end);
		live_check(shared->count <= 16 * MIB / PAGE, __FILE__, __LINE__, "body %d touched %lu pages", i, shared->count);
		tables = supervisor.machine->tables.used - tables;
		live_check(shared->count + tables / PAGE <= 16 * MIB / PAGE + 1000, __FILE__, __LINE__,
			   "body %d: %lu pages and %zu page tables are within 16 MiB and the tables of an empty space", i,
			   shared->count, tables / PAGE);
		ASSERT_EQUAL(sthread_statistics(&after), 0);
		live_check(after.frames_used <= before.frames_used + 1100, __FILE__, __LINE__,
			   "body %d: growth is given back (%ld pages)", i, (long)(after.frames_used - before.frames_used));
		ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)3), 3);
	}
}

static uint8_t many_globals[200 * PAGE];

static void *use_some(void *pages)
{
	uintptr_t count = (uintptr_t)pages;
	uint8_t *at = count <= 200 ? many_globals : mmap(NULL, count * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	for (uintptr_t i = 0; i < count; i++)
		at[i * PAGE] = 1;
	return (void *)1;
}

/* What an address space has kept from others is not held against a later life with a smaller quota. */
static void quota_after_a_large_life(void)
{
	sc_t large, small;

	live_init();
	sc_init(&large);
	sc_init(&small);
	sc_memory_quota(&large, 64 * MIB);
	sc_memory_quota(&small, MIB);
	ASSERT_RETURNED(live_run(&small, use_some, (void *)100), 1); /* the control: enough in a fresh one */
	ASSERT_RETURNED(live_run(&large, use_some, (void *)2000), 1);

	struct life life = live_run(&small, use_some, (void *)100);

	ASSERT_RETURNED(life, 1);
	ASSERT_EQUAL(life.info.recycled, 1);
	ASSERT_END(live_run(&small, use_some, (void *)400), STHREAD_RETURNED); /* mmap() refuses that much at once */
}

/* ---- what a process can do and an sthread cannot ----------------------------------------------------------------- */

static void *call_exit(void *status)
{
	exit((int)(intptr_t)status);
}

static void *call_abort(void *unused)
{
	(void)unused;
	abort();
}

static void at_exit(void)
{
	_exit(9);
}

static void exits(void)
{
	atexit(at_exit);
	live_init();
	for (intptr_t status = 0; status < 3; status++) {
		struct life life = live_run_bare(call_exit, (void *)(status * 100));

		ASSERT_END(life, STHREAD_EXITED);
		ASSERT_EQUAL(life.info.exit_status, 9); /* handlers run as in a process */
	}
	ASSERT_END(live_run_bare(call_abort, NULL), STHREAD_FAULTED);
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

static void *make_threads(void *unused)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, body_nothing, NULL);
	pid_t child = fork();
	int fork_error = errno;

	(void)unused;
	if (error != EPERM)
		return (void *)(uintptr_t)(1000 + error);
	if (child != -1 || fork_error != EPERM)
		return (void *)(uintptr_t)(2000 + fork_error);
	if (execl("/bin/true", "true", (char *)NULL) != -1 || errno != EPERM)
		return (void *)(uintptr_t)(3000 + errno);
	if (syscall(SYS_vfork) != -1 || errno != EPERM)
		return (void *)(uintptr_t)(4000 + errno);
	return (void *)1;
}

static void *call_others(void *unused)
{
	static const long calls[] = { SYS_socket, SYS_connect,	SYS_ptrace,  SYS_kill,	 SYS_tgkill,	      SYS_unlink,
				      SYS_rename, SYS_chmod,	SYS_mount,   SYS_setuid, SYS_prctl,	      SYS_arch_prctl,
				      SYS_dup,	  SYS_pipe2,	SYS_sendmsg, SYS_bpf,	 SYS_process_vm_readv, SYS_io_uring_setup,
				      SYS_memfd_create, SYS_rt_sigaction, SYS_seccomp };

	(void)unused;
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		if (syscall(calls[i], 0, 0, 0, 0, 0, 0) != -1 || (errno != ENOSYS && errno != EPERM))
			return (void *)(uintptr_t)(1000 + calls[i]);
	return (void *)1;
}

static void threads_and_processes(void)
{
	sc_t sc;

	live_init();
	sc_init(&sc);
	ASSERT_RETURNED(live_run(&sc, make_threads, NULL), 1);
	/* Granting them does not make them possible. */
	sc_sys_add(&sc, SYS_clone);
	sc_sys_add(&sc, SYS_clone3);
	sc_sys_add(&sc, SYS_fork);
	sc_sys_add(&sc, SYS_vfork);
	sc_sys_add(&sc, SYS_execve);
	ASSERT_RETURNED(live_run(&sc, make_threads, NULL), 1);

	struct life life = live_run(&sc, call_others, NULL);

	ASSERT_RETURNED(life, 1);
	ASSERT_EQUAL(life.info.calls_denied, 21);
	ASSERT_EQUAL(waitpid(-1, NULL, WNOHANG), -1);
	ASSERT_EQUAL(errno, ECHILD);
}

static void *call_number(void *number)
{
	return (void *)call((long)(intptr_t)number, 0, 0, 0, 0);
}

static void kill_on_denial(void)
{
	static const long denied[] = { SYS_open, SYS_openat, SYS_socket, SYS_fork, 511, 100000, -1 };
	struct life life;
	sc_t sc;

	live_init();
	sc_init(&sc);
	for (size_t i = 0; i < sizeof(denied) / sizeof(*denied); i++) {
		life = live_run(&sc, call_number, (void *)denied[i]);
		ASSERT_END(life, STHREAD_RETURNED);
		live_check((long)life.value == -EPERM || (long)life.value == -ENOSYS, __FILE__, __LINE__, "call %ld answers %ld",
			   denied[i], (long)life.value);
		ASSERT_EQUAL(life.info.calls_denied, 1);
		ASSERT_EQUAL(life.info.system_call, (int)denied[i]);
	}
	ASSERT_EQUAL(sc_flags_add(&sc, SC_KILL), 0);
	for (size_t i = 0; i < sizeof(denied) / sizeof(*denied); i++) {
		life = live_run(&sc, call_number, (void *)denied[i]);
		ASSERT_END(life, STHREAD_DENIED);
		ASSERT_EQUAL(life.info.system_call, (int)denied[i]);
	}
	ASSERT_RETURNED(live_run(&sc, call_number, (void *)SYS_sched_yield), 0);
	ASSERT_RETURNED(live_run(&sc, call_number, (void *)SYS_close), -EBADF); /* not a matter of policy */
}

static const struct harness_test tests[] = {
	{ "wild pointers in every served call are EFAULT", wild_pointers, HARNESS_FORK },
	{ "wild numbers, descriptors and lengths are refused one by one", wild_lengths, HARNESS_FORK },
	{ "a huge write is a short one", huge_write, HARNESS_FORK },
	{ "a spent budget ends an sthread, whether it computes or calls", budget, HARNESS_FORK },
	{ "sthread_create() gives up after a slice, whether the body computes or calls", slice, HARNESS_FORK },
	{ "the time that serving calls takes counts", slow_calls, HARNESS_FORK },
	{ "hundreds of faulting sthreads leave nothing behind", many_faults, HARNESS_FORK },
	{ "the memory quota holds for mappings, heap and page tables", quota, HARNESS_FORK },
	{ "a quota does not depend on earlier lives", quota_after_a_large_life, HARNESS_FORK },
	{ "exit() and abort() end the sthread only", exits, HARNESS_FORK },
	{ "an sthread makes no thread and no process, nor anything it was not given", threads_and_processes, HARNESS_FORK },
	{ "SC_KILL ends the sthread at the first denied call", kill_on_denial, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
