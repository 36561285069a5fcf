/* live_isolation_off.c - STHREAD_ISOLATION=off: the same programs as plain calls, loudly, and never by accident.
 * It needs no /dev/kvm, and runs under sanitizers: what is for both modes runs isolated too, where there is one. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <callgate.h>
#include <sthread.h>

#include "harness.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
};

#define CHECK(condition) CU_ASSERT(condition)
#define CHECK_ERROR(failed, wanted)               \
	do {                                      \
		errno = 0;                        \
		CU_ASSERT(failed);                \
		CU_ASSERT_EQUAL(errno, (wanted)); \
	} while (0)

static int global = 1;

static void off(void)
{
	setenv("STHREAD_ISOLATION", "off", 1);
	CU_ASSERT_EQUAL_FATAL(sthread_init(), 0);
	CU_ASSERT_EQUAL_FATAL(sthread_isolation(), STHREAD_ISOLATION_OFF);
}

/* ---- what both modes do ------------------------------------------------------------------------------------------ */

static void *add_one(void *at)
{
	return (void *)(intptr_t)++ * (int *)at;
}

static void *write_inside(void *fd)
{
	return (void *)write((int)(intptr_t)fd, "inside", 6);
}

static void *park_between(void *at)
{
	int *number = at;

	++*number;
	if (sthread_park() != 0)
		return NULL;
	++*number;
	return at;
}

static void *gate_add(void *argument, void *trusted)
{
	return (void *)((intptr_t)argument + (intptr_t)trusted);
}

static void *gate_reverse(void *argument, void *trusted)
{
	struct cgate_buffer *buffer = argument;
	const char *in = buffer->in;
	char *out = buffer->out;

	(void)trusted;
	if (!buffer->inlen)
		return (void *)(intptr_t)ENODATA;
	if (buffer->outlen < buffer->inlen)
		return (void *)(intptr_t)ENOSPC;
	for (size_t i = 0; i < buffer->inlen; i++)
		out[i] = in[buffer->inlen - 1 - i];
	buffer->outlen = buffer->inlen;
	return NULL;
}

static void *gate_nest(void *argument, void *trusted)
{
	void *result;

	(void)argument;
	if (cgate_call((cgate_t)(intptr_t)trusted, (void *)5, &result) != 0)
		return (void *)(intptr_t)-errno;
	return result;
}

static void *call_gate(void *gate)
{
	void *result;

	return cgate_call((cgate_t)(intptr_t)gate, (void *)40, &result) == 0 ? result : (void *)(intptr_t)-errno;
}

static void *allocate_inside(void *tag)
{
	char *text = smalloc((tag_t)(intptr_t)tag, 10);

	if (!text)
		return (void *)(intptr_t)-errno;
	strcpy(text, "inside");
	return text;
}

/* What may not be called inside.  Returns 0, or the line. */
static void *denied_inside(void *unused)
{
	struct sthread_statistics statistics;
	sthread_t st;
	sc_t sc;

	(void)unused;
	sc_init(&sc);
#define DENIED(call)                                         \
	do {                                                 \
		errno = 0;                                   \
		if (!(call) || errno != EPERM)               \
			return (void *)(intptr_t)(__LINE__); \
	} while (0)
	DENIED(sthread_create(&st, &sc, add_one, &global) == -1);
	DENIED(sthread_join(0, NULL) == -1);
	DENIED(sthread_statistics(&statistics) == -1);
	DENIED(tag_new() == -1);
	DENIED(tag_delete(0) == -1);
	DENIED(cgate_create(gate_add, &sc, NULL) == -1);
	DENIED(cgate_destroy(0) == -1);
	DENIED(sthread_require_isolation() == -1);
	return NULL;
}

static void *run(const sc_t *sc, stcb_t body, void *argument)
{
	sthread_t st;
	void *result = (void *)(intptr_t)-12345;

	CU_ASSERT_EQUAL_FATAL(sthread_create(&st, sc, body, argument), 0);
	CU_ASSERT_EQUAL(sthread_join(st, &result), 0);
	return result;
}

static void policies_and_tags(void)
{
	sc_t sc;
	tag_t tag = tag_new(), other = tag_new();
	int *number = smalloc(tag, sizeof(*number)), ends[2];
	char text[10];
	struct tag_statistics statistics;

	CHECK(tag >= 0 && other >= 0 && number && *number == 0);
	sc_init(&sc);
	CHECK(sc_mem_add(&sc, tag, BOTH) == 0 && sc_mem_add(&sc, other, PROT_READ) == 0);
	CHECK(run(&sc, add_one, number) == (void *)1 && run(&sc, add_one, number) == (void *)2 && *number == 2);
	CHECK(pipe(ends) == 0 && sc_fd_add(&sc, ends[1], PROT_WRITE) == 0);
	CHECK(run(&sc, write_inside, (void *)(intptr_t)ends[1]) == (void *)6);
	CHECK(read(ends[0], text, sizeof(text)) == 6);

	char *inside = run(&sc, allocate_inside, (void *)(intptr_t)tag);

	CHECK(inside && strcmp(inside, "inside") == 0);
	CHECK(run(&sc, allocate_inside, (void *)(intptr_t)other) == (void *)(intptr_t)-EPERM);
	CHECK(tag_statistics(tag, &statistics) == 0 && statistics.allocations == 2 && statistics.bytes_allocated == 32);

	char *more = srealloc(inside, 5000);

	CHECK(more && strcmp(more, "inside") == 0 && more[4999] == 0);
	CHECK_ERROR(srealloc(number + 1, 10) == NULL, EINVAL);
	CHECK_ERROR(smemalign(tag, 3, 10) == NULL, EINVAL);
	CHECK_ERROR(smalloc(tag, 0) == NULL, EINVAL);
	CHECK_ERROR(smalloc(12345678, 1) == NULL, EBADF);

	void *aligned = smemalign(tag, 4096, 10);

	CHECK(aligned && (uintptr_t)aligned % 4096 == 0);
	sfree(aligned);
	errno = 0;
	sfree(&global);
	CHECK(errno == EINVAL);
	sfree(NULL);
	sfree(more);
	CHECK(tag_quota(tag, 64 << 10) == 0);
	CHECK_ERROR(smalloc(tag, 1 << 20) == NULL, ENOMEM);
	CHECK(run(&sc, denied_inside, NULL) == NULL);
	CHECK(tag_delete(tag) == 0 && tag_delete(other) == 0);
	CHECK_ERROR(tag_delete(tag) == -1, EBADF);
	sc_destroy(&sc);
	sc_init(&sc);
	CHECK_ERROR(sc_mem_add(&sc, tag, BOTH) == -1, EBADF);

	sthread_t st;

	CHECK_ERROR(sthread_create(&st, &sc, add_one, number) == -1, EBADF);
	sc_init(&sc);
	CHECK_ERROR(sthread_create(NULL, &sc, add_one, number) == -1, EINVAL);
	CHECK_ERROR(sthread_create(&st, &sc, NULL, number) == -1, EINVAL);
	CHECK_ERROR(sthread_create(&st, NULL, add_one, number) == -1, EINVAL);
	close(ends[0]);
	close(ends[1]);
}

static void gates(void)
{
	sc_t nothing;
	void *result;
	char answer[6];
	size_t size = sizeof(answer);
	struct cgate_info info;

	sc_init(&nothing);

	cgate_t add = cgate_create(gate_add, &nothing, (void *)2);
	cgate_t reverse = cgate_create_fresh(gate_reverse, &nothing, NULL);
	sc_t may_add = nothing;

	CHECK(sc_cgate_add(&may_add, add) == 0);

	cgate_t nested = cgate_create(gate_nest, &may_add, (void *)(intptr_t)add);
	cgate_t denied = cgate_create(gate_nest, &nothing, (void *)(intptr_t)add);

	CHECK(add >= 0 && reverse >= 0 && nested >= 0 && denied >= 0);
	CHECK(cgate_call(add, (void *)1, &result) == 0 && result == (void *)3);
	CHECK(cgate_call(nested, NULL, &result) == 0 && result == (void *)7);
	CHECK(cgate_call(denied, NULL, &result) == 0 && result == (void *)(intptr_t)-EPERM);
	CHECK(run(&may_add, call_gate, (void *)(intptr_t)add) == (void *)42);
	CHECK(run(&nothing, call_gate, (void *)(intptr_t)add) == (void *)(intptr_t)-EPERM);
	CHECK(cgate_call_buf(reverse, "sthread", 6, answer, &size) == 0 && size == 6);
	CHECK(memcmp(answer, "aerhts", 6) == 0);
	CHECK_ERROR(cgate_call_buf(reverse, "sthread", 7, answer, &size) == -1, ENOSPC);
	CHECK_ERROR(cgate_call_buf(reverse, "", 0, answer, &size) == -1, ENODATA);
	size = CGATE_BUFFER_MAX + 1;
	CHECK_ERROR(cgate_call_buf(reverse, "x", 1, answer, &size) == -1, EMSGSIZE);
	CHECK(cgate_get_info(add, &info) == 0 && info.calls == 3 && info.busy == 0);
	CHECK(cgate_destroy(add) == 0 && cgate_destroy(reverse) == 0);
	CHECK_ERROR(cgate_call(add, NULL, NULL) == -1, EBADF);
	CHECK(cgate_destroy(nested) == 0 && cgate_destroy(denied) == 0);
}

static void parking(void)
{
	sthread_t st;
	sc_t sc;
	enum sthread_state state;
	struct sthread_info info;
	void *result = NULL;
	short events;
	int fd = 5;
	tag_t tag = tag_new();
	int *number = smalloc(tag, sizeof(*number));

	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	CHECK(sthread_create(&st, &sc, park_between, number) == 0);
	for (int i = 0; i < 1000; i++) {
		CHECK(sthread_state(st, &state) == 0);
		if (state != STHREAD_RUNNABLE)
			break;
		CHECK(sthread_step(st) == 0);
	}
	CHECK(state == STHREAD_PARKED && *number == 1);
	CHECK(sthread_wait_fd(st, &fd, &events) == 0 && fd == -1);
	CHECK_ERROR(sthread_join(st, NULL) == -1, EDEADLK);
	CHECK(sthread_step(st) == 0 && sthread_join_info(st, &result, &info) == 0);
	CHECK(result == number && *number == 2 && info.end == STHREAD_RETURNED && info.parks == 1 && info.instance);
	CHECK_ERROR(sthread_join(st, NULL) == -1, EBADF);
	/* Killed while parked. */
	CHECK(sthread_create(&st, &sc, park_between, number) == 0);
	while (sthread_state(st, &state) == 0 && state == STHREAD_RUNNABLE)
		CHECK(sthread_step(st) == 0);
	CHECK(sthread_kill(st) == 0);
	CHECK_ERROR(sthread_join_info(st, NULL, &info) == -1, ECANCELED);
	CHECK(info.end == STHREAD_KILLED && *number == 3);
	CHECK_ERROR(sthread_park() == -1, EPERM);
	CHECK(tag_delete(tag) == 0);
}

static void *set_global(void *value)
{
	global = (int)(intptr_t)value;
	return value;
}

static void *get_global(void *unused)
{
	(void)unused;
	return (void *)(intptr_t)global;
}

BOUNDARY_VAR(static int tagged, isolation_off) = 7;

static void *add_tagged(void *unused)
{
	(void)unused;
	return (void *)(intptr_t)(BOUNDARY_TAG(isolation_off) >= 0 ? ++tagged : 0);
}

static void templates(void)
{
	sc_t sc;
	sc_template_t template;
	sthread_t st;
	void *result;

	sc_init(&sc);
	CHECK((template = sc_template(&sc, set_global, (void *)33)) >= 0);
	CHECK(sc_template_result(template, &result) == 0 && result == (void *)33);
	CHECK(sc_start_from(&sc, template) == 0);
	CHECK(run(&sc, get_global, NULL) == (void *)33);
	CHECK(sc_template_refresh(template) == 0);
	CHECK(sc_template_destroy(template) == 0);
	CHECK_ERROR(sthread_create(&st, &sc, get_global, NULL) == -1, EBADF);
	sc_init(&sc);
	CHECK(sc_mem_add(&sc, BOUNDARY_TAG(isolation_off), BOTH) == 0);
	CHECK(run(&sc, add_tagged, NULL) == (void *)8 && tagged == 8);

	sc_frozen_t frozen = sc_freeze(&sc, 1);

	CHECK(frozen >= 0 && sthread_create_frozen(&st, frozen, add_tagged, NULL) == 0);
	CHECK(sthread_join(st, &result) == 0 && result == (void *)9);
	CHECK(sc_frozen_destroy(frozen) == 0);
}

static void everything(void)
{
	struct sthread_statistics statistics;

	policies_and_tags();
	gates();
	parking();
	templates();
	CHECK(sthread_statistics(&statistics) == 0 && statistics.lives > 8 && statistics.gate_calls >= 7);
}

static void everything_off(void)
{
	off();
	everything();
}

static void everything_isolated(void)
{
	unsetenv("STHREAD_ISOLATION");
	if (access("/dev/kvm", R_OK | W_OK) != 0)
		HARNESS_SKIP("/dev/kvm cannot be opened");
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	HARNESS_SKIP("sanitizers do not run in compartments");
#endif
	CU_ASSERT_EQUAL_FATAL(sthread_init(), 0);
	CHECK(sthread_isolation() == STHREAD_ISOLATION_KVM);
	everything();
}

/* ---- only this mode ---------------------------------------------------------------------------------------------- */

static void *read_byte(void *fd)
{
	char byte = 0;

	return read((int)(intptr_t)fd, &byte, 1) == 1 ? (void *)(intptr_t)byte : NULL;
}

static void blocking(void)
{
	sthread_t st;
	sc_t sc;
	enum sthread_state state;
	struct sthread_info info;
	void *result;
	int ends[2];

	off();
	CHECK(pipe(ends) == 0);
	sc_init(&sc);
	sc_fd_add(&sc, ends[0], PROT_READ);
	CHECK(sthread_create(&st, &sc, read_byte, (void *)(intptr_t)ends[0]) == 0);
	CHECK(sthread_state(st, &state) == 0 && state == STHREAD_RUNNABLE);
	CHECK(sthread_step(st) == 0 && sthread_state(st, &state) == 0 && state == STHREAD_RUNNABLE);
	CHECK(write(ends[1], "r", 1) == 1);
	CHECK(sthread_join(st, &result) == 0 && result == (void *)'r');
	/* One that waits can be killed. */
	CHECK(sthread_create(&st, &sc, read_byte, (void *)(intptr_t)ends[0]) == 0);
	CHECK(sthread_kill(st) == 0);
	CHECK_ERROR(sthread_join_info(st, NULL, &info) == -1, ECANCELED);
	CHECK(info.end == STHREAD_KILLED);
	sc_destroy(&sc);
}

static void not_isolated(void)
{
	sc_t sc;
	int secret = 41;

	off();
	sc_init(&sc);
	CHECK(run(&sc, add_one, &secret) == (void *)42 && secret == 42); /* nothing was granted */
	CHECK(run(&sc, set_global, (void *)5) == (void *)5 && global == 5);
}

static void crash(void)
{
	int status;
	pid_t child;

	off();
	child = fork();
	if (child == 0) {
		sthread_t st;
		sc_t sc;

		signal(SIGSEGV, SIG_DFL);
		sc_init(&sc);
		if (sthread_create(&st, &sc, add_one, (void *)8) == 0)
			sthread_join(st, NULL);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void children(void)
{
	int status;
	pid_t child;
	sthread_t st;
	sc_t sc;
	tag_t tag;
	int *number;

	off();
	tag = tag_new();
	number = smalloc(tag, sizeof(*number));
	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	CHECK(sthread_create(&st, &sc, park_between, number) == 0);
	child = fork();
	if (child == 0) {
		bool good = sthread_isolation() == STHREAD_ISOLATION_OFF;

		good = good && sthread_join(st, NULL) == -1 && errno == EBADF;
		good = good && tag_delete(tag) == -1 && errno == EBADF;
		everything();
		_exit(good && CU_get_number_of_failures() == 0 ? 0 : 1);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	while (sthread_step(st) == 0 && *number < 2)
		;
	CHECK(sthread_join(st, NULL) == 0);
}

/* What a child of ours writes to standard error in sthread_init(), and how that ends. */
static int init_in_child(const char *value, bool require, char *text, size_t room)
{
	int ends[2], status;
	ssize_t length;

	CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);

	pid_t child = fork();

	if (child == 0) {
		dup2(ends[1], 2);
		setenv("STHREAD_ISOLATION", value, 1);
		if (require && sthread_require_isolation() != 0)
			_exit(200);
		errno = 0;
		_exit(sthread_init() == 0 ? 100 + (int)sthread_isolation() : errno);
	}
	close(ends[1]);
	length = read(ends[0], text, room - 1);
	text[length > 0 ? length : 0] = 0;
	close(ends[0]);
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void loudly(void)
{
	char text[200];

	CHECK(init_in_child("off", false, text, sizeof(text)) == 100 + STHREAD_ISOLATION_OFF);
	CHECK(strstr(text, "NOT ISOLATED") && strchr(text, '\n') == text + strlen(text) - 1);
	CHECK(init_in_child("of", false, text, sizeof(text)) == EINVAL && !*text);
	CHECK(init_in_child("0", false, text, sizeof(text)) == EINVAL && !*text);
	CHECK(init_in_child("off", true, text, sizeof(text)) == EPERM && !*text);
	off();
	CHECK_ERROR(sthread_require_isolation() == -1, EPERM);
}

/* A program that the kernel marks as privileged (AT_SECURE) does not obey the environment. */
static void privileged(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX", command[4200], self[4000];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int status;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	HARNESS_SKIP("sanitizers do not run in compartments");
#endif
	if (geteuid() != 0)
		HARNESS_SKIP("only root can make a set-user-ID program here");
	CU_ASSERT_FATAL(length > 0);
	self[length] = 0;
	CU_ASSERT_FATAL(mkdtemp(name) != NULL);
	snprintf(command, sizeof(command), "cp '%s' %s/p && chown 65534 %s/p && chmod 4755 %s/p && chmod 755 %s", self,
		 name, name, name, name);
	CU_ASSERT_EQUAL_FATAL(system(command), 0);
	snprintf(command, sizeof(command), "STHREAD_ISOLATION=off %s/p --isolation 2>/dev/null", name);
	status = system(command);
	/* Isolated, or refused because that user may not open /dev/kvm: not off. */
	CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 100 + STHREAD_ISOLATION_KVM || WEXITSTATUS(status) == 99));
	snprintf(command, sizeof(command), "chmod 755 %s/p; STHREAD_ISOLATION=off %s/p --isolation 2>/dev/null", name,
		 name);
	status = system(command); /* control */
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 100 + STHREAD_ISOLATION_OFF);
	snprintf(command, sizeof(command), "rm -r %s", name);
	CU_ASSERT_EQUAL(system(command), 0);
}

/* Overflows of tagged memory and of messages are seen by AddressSanitizer: each has a block of its own. */
#ifdef __SANITIZE_ADDRESS__
static void *overflow(void *at)
{
	*(volatile char *)at = 1;
	return NULL;
}

static void ends_by_sanitizer(size_t offset)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		sc_t sc;
		tag_t tag = tag_new();
		char *block = smalloc(tag, 40);

		freopen("/dev/null", "w", stderr);
		sc_init(&sc);
		sc_mem_add(&sc, tag, BOTH);
		run(&sc, overflow, block + offset);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK((offset < 40) == (WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

static void sanitizer(void)
{
	off();
	ends_by_sanitizer(39);
	ends_by_sanitizer(40);
}
#else
static void sanitizer(void)
{
	HARNESS_SKIP("not built with --with-sanitizer=address");
}
#endif

static void valgrind(void)
{
	char command[4400], self[4000];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	HARNESS_SKIP("built with a sanitizer");
#endif
	if (system("valgrind --version >/dev/null 2>&1") != 0)
		HARNESS_SKIP("valgrind is not installed");
	CU_ASSERT_FATAL(length > 0);
	self[length] = 0;
	/* Without debugging information: old versions of valgrind give up on what clang writes. */
	snprintf(command, sizeof(command),
		 "copy=$(mktemp) && objcopy --strip-debug '%s' \"$copy\" && chmod 700 \"$copy\" && "
		 "STHREAD_ISOLATION=off valgrind -q --error-exitcode=98 \"$copy\" --isolation >/dev/null 2>&1; "
		 "status=$?; rm -f \"$copy\"; exit $status",
		 self);

	int status = system(command);

	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 100 + STHREAD_ISOLATION_OFF);
}

static const struct harness_test tests[] = {
	{ "policies, tags, gates, parking and templates work without isolation", everything_off, HARNESS_FORK },
	{ "and the same program isolated", everything_isolated, HARNESS_FORK },
	{ "a call that blocks blocks its own thread, and can be killed", blocking, HARNESS_FORK },
	{ "nothing is isolated (control of every other test)", not_isolated, HARNESS_FORK },
	{ "a crash takes the process down", crash, HARNESS_FORK },
	{ "a forked child goes on without isolation, its parent's handles stale", children, HARNESS_FORK },
	{ "it says so in one line, and a program can forbid it", loudly, HARNESS_FORK },
	{ "a set-user-ID program does not obey the environment", privileged, HARNESS_FORK },
	{ "AddressSanitizer sees overflows of tagged memory", sanitizer, HARNESS_FORK },
	{ "it runs under valgrind", valgrind, HARNESS_FORK, .seconds = 120 },
};

int main(int argc, char **argv)
{
	/* For the test of set-user-ID programs. */
	if (argc == 2 && strcmp(argv[1], "--isolation") == 0) {
		if (sthread_init() != 0)
			return 99;
		sc_t sc;
		sthread_t st;
		static int number;

		sc_init(&sc);
		if (sthread_create(&st, &sc, add_one, &number) != 0 || sthread_join(st, NULL) != 0)
			return 97;
		return 100 + (int)sthread_isolation();
	}
	return HARNESS_MAIN(argc, argv, tests, 0);
}
