/* live_limits.c - an sthread that wants too much: the process is not hurt, and waits for nobody. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum {
	PAGE = 4096,
	MIB = 1 << 20,
	BOTH = PROT_READ | PROT_WRITE
};

/* What bodies are told, in a tag. */
struct shared {
	int in;
	uint64_t count;
};

static struct shared *share(tag_t *tag, sc_t *sc)
{
	*tag = tag_new();

	struct shared *shared = smalloc(*tag, sizeof(*shared));

	CU_ASSERT_PTR_NOT_NULL_FATAL(shared);
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, *tag, BOTH), 0);
	return shared;
}

static long call(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	long answer = number;
	register uint64_t r10 __asm__("r10") = d;

	__asm__ volatile("syscall" : "+a"(answer) : "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return answer;
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
		live_check(began < 1.0 * harness_time_scale(), __FILE__, __LINE__,
			   "a budget of 60 ms is spent within a second (%f)", began);
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
		live_check(began < 0.5 * harness_time_scale(), __FILE__, __LINE__,
			   "body %d: sthread_create() ends with the slice (%f s)", i, began);
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
	live_check(began < 1.0 * harness_time_scale(), __FILE__, __LINE__,
		   "sthread_create() ends with the slice (%f s)", began);
	began = live_seconds();
	ASSERT_END(live_join(st), STHREAD_OUT_OF_CPU);
	began = live_seconds() - began;
	live_check(began < 3.0 * harness_time_scale(), __FILE__, __LINE__,
		   "a budget of 300 ms ends it (%f s, %lu rounds)", began, shared->count);
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
		live_check((!life.error && life.value == (void *)1) || life.info.end == STHREAD_OUT_OF_MEMORY, __FILE__,
			   __LINE__, "body %d is stopped (end %d)", i, (int)life.info.end);
		live_check(shared->count <= 16 * MIB / PAGE, __FILE__, __LINE__, "body %d touched %lu pages", i,
			   shared->count);
		tables = supervisor.machine->tables.used - tables;
		live_check(shared->count + tables / PAGE <= 16 * MIB / PAGE + 1000, __FILE__, __LINE__,
			   "body %d: %lu pages and %zu page tables are within 16 MiB and the tables of an empty space",
			   i, shared->count, tables / PAGE);
		ASSERT_EQUAL(sthread_statistics(&after), 0);
		live_check(after.frames_used <= before.frames_used + 1100, __FILE__, __LINE__,
			   "body %d: growth is given back (%ld pages)", i,
			   (long)(after.frames_used - before.frames_used));
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
	static const long calls[] = { SYS_socket,
				      SYS_connect,
				      SYS_ptrace,
				      SYS_kill,
				      SYS_tgkill,
				      SYS_unlink,
				      SYS_rename,
				      SYS_chmod,
				      SYS_mount,
				      SYS_setuid,
				      SYS_prctl,
				      SYS_arch_prctl,
				      SYS_chroot,
				      SYS_pipe2,
				      SYS_symlink,
				      SYS_bpf,
				      SYS_process_vm_readv,
				      SYS_io_uring_setup,
				      SYS_memfd_create,
				      SYS_sendfile,
				      SYS_seccomp };

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
		live_check((long)life.value == -EPERM || (long)life.value == -ENOSYS, __FILE__, __LINE__,
			   "call %ld answers %ld", denied[i], (long)life.value);
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
	{ "a spent budget ends an sthread, whether it computes or calls", budget, HARNESS_FORK },
	{ "sthread_create() gives up after a slice, whether the body computes or calls", slice, HARNESS_FORK },
	{ "the time that serving calls takes counts", slow_calls, HARNESS_FORK },
	{ "hundreds of faulting sthreads leave nothing behind", many_faults, HARNESS_FORK },
	{ "the memory quota holds for mappings, heap and page tables", quota, HARNESS_FORK },
	{ "a quota does not depend on earlier lives", quota_after_a_large_life, HARNESS_FORK },
	{ "exit() and abort() end the sthread only", exits, HARNESS_FORK },
	{ "an sthread makes no thread and no process, nor anything it was not given", threads_and_processes,
	  HARNESS_FORK },
	{ "SC_KILL ends the sthread at the first denied call", kill_on_denial, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
