/* live_reports.c - what went wrong in a compartment is said: what was touched, which right was missing, and where. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dune.h"
#include "live.h"
#include "report.h"
#include "supervisor.h"

#define BOTH (PROT_READ | PROT_WRITE)
#ifdef HAVE_LIBDW
#define WITHOUT_LIBDW 0
#else
#define WITHOUT_LIBDW 1
#endif
/* Functions that shall be found in backtraces under their own names. */
#if __has_attribute(noclone)
#define NOT_INLINED __attribute__((noinline, noclone))
#else
#define NOT_INLINED __attribute__((noinline))
#endif

/* ---- running ----------------------------------------------------------------------------------------------------- */

/* Runs a body that ends badly and takes its report. */
static struct sthread_report report_of(const sc_t *sc, stcb_t body, void *argument)
{
	struct sthread_report report = { 0 };
	sthread_t st;
	int created = live_create(&st, sc, body, argument);

	ASSERT_EQUAL(created, 0);
	if (created == 0) {
		ASSERT_EQUAL(sthread_get_report(st, &report), 0);
		live_join(st);
	}
	return report;
}

static struct sthread_report report_of_bare(stcb_t body, void *argument)
{
	sc_t sc;

	sc_init(&sc);
	return report_of(&sc, body, argument);
}

static char text[16384];

static const char *text_of(const struct sthread_report *report)
{
	sthread_report_format(report, text, sizeof(text));
	return text;
}

static void check_touched(const struct sthread_report *report, enum sthread_touched touched, unsigned needed,
			  unsigned held, unsigned line)
{
	if (getenv("SHOW"))
		fprintf(stderr, "%s\n", text_of(report));
	live_check(report->violation == STHREAD_VIOLATION_FAULT && report->ended && report->touched == touched &&
			   report->right_needed == needed && report->right_held == held,
		   __FILE__, line, "touched %d, needed %u, held %u; should be %d, %u, %u: %.*s", (int)report->touched,
		   report->right_needed, report->right_held, (int)touched, needed, held,
		   (int)strcspn(text_of(report), "\n"), text);
}
#define ASSERT_TOUCHED(report, touched, needed, held) check_touched(&(report), touched, needed, held, __LINE__)

enum {
	R = STHREAD_RIGHT_READ,
	W = STHREAD_RIGHT_WRITE,
	X = STHREAD_RIGHT_EXECUTE
};

/* ---- what was touched -------------------------------------------------------------------------------------------- */

static void tags(void)
{
	live_init();

	sc_t granted, bare;
	tag_t tag = tag_new(), other = tag_new();
	uint8_t *first = smalloc(tag, 64), *second = smalloc(tag, 128), *foreign = smalloc(other, 16);

	CU_ASSERT_FATAL(first && second && foreign);
	sc_init(&bare);
	sc_init(&granted);
	sc_mem_add(&granted, tag, PROT_READ);

	struct sthread_report report = report_of(&granted, body_write, second + 5);

	ASSERT_TOUCHED(report, STHREAD_TOUCHED_TAG, W, R);
	ASSERT_EQUAL(report.tag, tag);
	ASSERT_EQUAL(report.tag_granted, 1);
	ASSERT_EQUAL(report.allocation, (uintptr_t)second);
	ASSERT_EQUAL(report.allocation_size, 128);
	ASSERT_EQUAL(report.address, (uintptr_t)second + 5);
	CU_ASSERT(strstr(text_of(&report), "byte 5 of an allocation of 128") != NULL);

	report = report_of(&granted, body_read, foreign);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_TAG, R, 0);
	ASSERT_EQUAL(report.tag, other);
	ASSERT_EQUAL(report.tag_granted, 0);

	report = report_of(&granted, body_jump, first);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_TAG, X, R);

	/* Beyond what is allocated. */
	report = report_of(&bare, body_read, second + 2048);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_TAG, R, 0);
	ASSERT_EQUAL(report.allocation, 0);
	CU_ASSERT(report.tag_offset >= 2048);
	CU_ASSERT(strstr(text_of(&report), "in no allocation") != NULL);

	ASSERT_EQUAL(tag_delete(other), 0);
	report = report_of(&granted, body_read, foreign);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_NO_TAG, R, 0);
	ASSERT_EQUAL(report.tag, -1);
}

static const int constant[1024] = { 1, 2, 3 };
static int variable[4096] = { 7 };

static NOT_INLINED void *body_exhaust_stack(void *depth)
{
	volatile char room[512];

	room[0] = (char)(uintptr_t)depth;
	return depth == body_exhaust_stack ? NULL : (char *)body_exhaust_stack((char *)depth + 1) + room[0];
}

static void *body_jump_to_stack(void *unused)
{
	uint8_t code[16] = { 0xc3 };

	(void)unused;
	return body_jump(code);
}

static void *body_jump_to_heap(void *unused)
{
	(void)unused;
	return body_jump(malloc(100000));
}

static void *body_jump_to_private(void *unused)
{
	(void)unused;
	return body_jump(mmap(NULL, 4096, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static void *body_fill_private(void *size)
{
	uint8_t *memory = mmap(NULL, (size_t)size, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t i = 0; memory != MAP_FAILED && i < (size_t)size; i += 4096)
		memory[i] = 1;
	return memory;
}

static void own_memory(void)
{
	live_init();

	struct sthread_report report = report_of_bare(body_write, (void *)(uintptr_t)body_write);

	ASSERT_TOUCHED(report, STHREAD_TOUCHED_TEXT, W, R | X);
	report = report_of_bare(body_write, (void *)(uintptr_t)&constant[3]);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_GLOBAL, W, R);
	CU_ASSERT(strstr(text_of(&report), "constant+0xc") != NULL || WITHOUT_LIBDW);
	report = report_of_bare(body_jump, &variable[1024]);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_GLOBAL, X, R | W);
	CU_ASSERT(strstr(text_of(&report), "variable+0x1000") != NULL || WITHOUT_LIBDW);
	report = report_of_bare(body_exhaust_stack, NULL);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_STACK_OVERFLOW, W, 0);
	ASSERT_EQUAL(report.frame_count, WITHOUT_LIBDW ? 1 : STHREAD_REPORT_FRAMES);
	report = report_of_bare(body_jump_to_stack, NULL);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_STACK, X, R | W);
	report = report_of_bare(body_jump_to_heap, NULL);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_HEAP, X, R | W);
	report = report_of_bare(body_jump_to_private, NULL);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_PRIVATE, X, R | W);

	sc_t sc;

	sc_init(&sc);
	sc_memory_quota(&sc, 1 << 20);
	report = report_of(&sc, body_fill_private, (void *)(1 << 20));
	ASSERT_EQUAL(report.violation, STHREAD_VIOLATION_BUDGET);
	ASSERT_EQUAL(report.end, STHREAD_OUT_OF_MEMORY);
	ASSERT_EQUAL(report.touched, STHREAD_TOUCHED_PRIVATE);
	CU_ASSERT(strstr(text_of(&report), "memory quota") != NULL);
	CU_ASSERT(strstr(text, "body_fill_private") != NULL || WITHOUT_LIBDW);
}

static void *body_non_canonical(void *address)
{
	register void *base __asm__("rbx") = address;

	__asm__ volatile("movq 16(%0,%1,8), %%rax" : : "r"(base), "r"((uint64_t)2) : "rax", "memory");
	return NULL;
}

static void *body_privileged(void *unused)
{
	__asm__ volatile("hlt");
	return unused;
}

static void foreign_memory(void)
{
	uint8_t local[32768] = { 0 }; /* far from the arguments, of which sthreads have a picture */
	uint8_t *shared = mmap(NULL, 4096, BOTH, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint8_t *undumped = mmap(NULL, 4096, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CU_ASSERT_FATAL(shared != MAP_FAILED && undumped != MAP_FAILED);
	ASSERT_EQUAL(madvise(undumped, 4096, MADV_DONTDUMP), 0);
	live_init();

	uint8_t *later = mmap(NULL, 4096, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sthread_report report = report_of_bare(body_read, NULL);

	ASSERT_TOUCHED(report, STHREAD_TOUCHED_NULL, R, 0);
	report = report_of_bare(body_write, (void *)0xffff);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_NULL, W, 0);
	report = report_of_bare(body_read, (void *)0xffffffff80000000);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_KERNEL, R, 0);
	report = report_of_bare(body_read, shared);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_WITHHELD, R, 0);
	report = report_of_bare(body_read, undumped);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_WITHHELD, R, 0);
	report = report_of_bare(body_write, local);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_HOST_STACK, W, 0);
	report = report_of_bare(body_write, environ);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_HOST_STACK, W, R);
	report = report_of_bare(body_read, later);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_LATER, R, 0);
	munmap(later, 4096);
	report = report_of_bare(body_read, later);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_UNMAPPED, R, 0);
	report = report_of_bare(body_read, (void *)live_window());
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_MONITOR, R, 0);
	report = report_of_bare(body_read, supervisor.machine->frames.host);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_SUPERVISOR, R, 0);
	report = report_of_bare(body_non_canonical, (void *)0x5555aaaa55550000);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_NON_CANONICAL, 0, 0);
	ASSERT_EQUAL(report.address, 0x5555aaaa55550020);
	report = report_of_bare(body_jump, (void *)0x5555aaaa55550000);
	ASSERT_EQUAL(report.touched, STHREAD_TOUCHED_NON_CANONICAL);
	ASSERT_EQUAL(report.address, 0x5555aaaa55550000);
	report = report_of_bare(body_privileged, NULL);
	ASSERT_TOUCHED(report, STHREAD_TOUCHED_NOTHING, 0, 0);
	ASSERT_EQUAL(report.vector, GENERAL_PROTECTION);
}

/* ---- where ------------------------------------------------------------------------------------------------------- */

/* The line of a call is that of the macro's use: both functions note it. */
static int line_of_fault, line_of_call;

static NOT_INLINED int innermost(volatile int *where)
{
	line_of_fault = __LINE__ + 1;
	*where = 1;
	return *where + 1;
}

static NOT_INLINED int middle(volatile int *where)
{
	line_of_call = __LINE__ + 1;
	return innermost(where) + 1;
}

static NOT_INLINED void *outermost(void *where)
{
	return (void *)(intptr_t)(middle(where) + 1);
}

static const char *name_of(uint64_t address)
{
	static struct sthread_symbol symbol;

	return sthread_symbol(address, &symbol) == 0 ? symbol.name : "nothing";
}

static void backtraces(void)
{
#ifndef HAVE_LIBDW
	HARNESS_SKIP("built without libdw");
#endif
	live_init();

	struct sthread_symbol symbol;
	int here = 0;

	outermost(&here); /* notes the lines */

	struct sthread_report report = report_of_bare(outermost, NULL);

	ASSERT_EQUAL(report.frame_count, 3);
	CU_ASSERT_STRING_EQUAL(name_of(report.frames[0]), "innermost");
	CU_ASSERT_STRING_EQUAL(name_of(report.frames[1] - 1), "middle");
	CU_ASSERT_STRING_EQUAL(name_of(report.frames[2] - 1), "outermost");
	ASSERT_EQUAL(report.body, (uintptr_t)outermost);
	ASSERT_EQUAL(report.registers[REPORT_RIP], report.frames[0]);

	ASSERT_EQUAL(sthread_symbol(report.frames[0], &symbol), 0);
	ASSERT_EQUAL(symbol.line, line_of_fault);
	CU_ASSERT(strstr(symbol.file, "live_reports.c") != NULL);
	CU_ASSERT(strstr(symbol.object, "live_reports") != NULL);
	ASSERT_EQUAL(sthread_symbol(report.frames[1] - 1, &symbol), 0);
	ASSERT_EQUAL(symbol.line, line_of_call);

	/* From libc, through the call of a function pointer that is NULL, and through the vDSO's page. */
	report = report_of_bare(body_jump, NULL);
	ASSERT_EQUAL(report.frames[0], 0);
	CU_ASSERT_STRING_EQUAL(name_of(report.frames[1] - 1), "body_jump");
}

static void *body_abort(void *unused)
{
	(void)unused;
	abort();
}

static void in_libraries(void)
{
	live_init();

	struct sthread_report report = report_of_bare(body_abort, NULL);
	bool found = false;

	for (unsigned i = 0; i < report.frame_count; i++)
		found = found || strcmp(name_of(report.frames[i] - (i > 0)), "abort") == 0;
	live_check(found, __FILE__, __LINE__, "abort() is in %s", text_of(&report));
#ifdef HAVE_LIBDW
	CU_ASSERT(strstr(text_of(&report), "body_abort") != NULL);
#endif
}

/* ---- being told -------------------------------------------------------------------------------------------------- */

static struct {
	struct sthread_report reports[64];
	unsigned count;
	void *argument;
} told;

static void tell(const struct sthread_report *report, void *argument)
{
	if (told.count < sizeof(told.reports) / sizeof(*told.reports))
		told.reports[told.count] = *report;
	told.count++;
	told.argument = argument;
}

static void *body_refused(void *times)
{
	for (intptr_t i = 0; i < (intptr_t)times; i++) {
		syscall(SYS_reboot);
		syscall(SYS_openat, -100, "/", 0);
		if (write(77, "", 1) == 0)
			return NULL;
	}
	return times;
}

static void refusals(void)
{
	sc_t sc;
	int ends[2];

	ASSERT_EQUAL(pipe(ends), 0);
	live_init();
	ASSERT_EQUAL(sthread_on_violation(tell, &told), 0);
	ASSERT_RETURNED(live_run_bare(body_refused, (void *)5), 5);
	ASSERT_EQUAL(told.count, 3); /* each once */
	CU_ASSERT_PTR_EQUAL(told.argument, &told);
	for (unsigned i = 0; i < 3; i++) {
		ASSERT_EQUAL(told.reports[i].violation, STHREAD_VIOLATION_CALL);
		ASSERT_EQUAL(told.reports[i].ended, 0);
	}
	ASSERT_EQUAL(told.reports[0].system_call, SYS_reboot);
	ASSERT_EQUAL(told.reports[1].system_call, SYS_openat);
	ASSERT_EQUAL(told.reports[1].call_error, EPERM);
	ASSERT_EQUAL(told.reports[1].right_needed, STHREAD_RIGHT_CALL);
	CU_ASSERT(strstr(text_of(&told.reports[1]), "system call openat") != NULL);
	CU_ASSERT(strstr(text_of(&told.reports[1]), "body_refused") != NULL || WITHOUT_LIBDW);
	ASSERT_EQUAL(told.reports[2].call_error, EBADF);
	ASSERT_EQUAL(told.reports[2].descriptor, 77);
	ASSERT_EQUAL(told.reports[2].right_needed, STHREAD_RIGHT_DESCRIPTOR | W);
	ASSERT_EQUAL(told.reports[2].right_held, 0);

	/* A descriptor that is held, but not for this. */
	dup2(ends[0], 77);
	sc_init(&sc);
	sc_fd_add(&sc, 77, PROT_READ);
	told.count = 0;
	ASSERT_RETURNED(live_run(&sc, body_refused, (void *)1), 1);
	ASSERT_EQUAL(told.count, 3);
	ASSERT_EQUAL(told.reports[2].right_held, STHREAD_RIGHT_DESCRIPTOR | R);
	CU_ASSERT(told.reports[0].suppressed >= 12);
	sc_destroy(&sc);

	/* SC_KILL: the first one ends it. */
	sc_init(&sc);
	sc_flags_add(&sc, SC_KILL);
	told.count = 0;
	struct sthread_report report = report_of(&sc, body_refused, (void *)1);

	ASSERT_EQUAL(told.count, 1);
	ASSERT_EQUAL(told.reports[0].ended, 1);
	ASSERT_EQUAL(told.reports[0].end, STHREAD_DENIED);
	ASSERT_EQUAL(told.reports[0].violation, STHREAD_VIOLATION_CALL);
	CU_ASSERT(memcmp(&told.reports[0], &report, sizeof(report)) == 0);

	/* Nobody is told any more. */
	ASSERT_EQUAL(sthread_on_violation(NULL, NULL), 0);
	told.count = 0;
	ASSERT_RETURNED(live_run_bare(body_refused, (void *)1), 1);
	live_run_bare(body_read, NULL);
	ASSERT_EQUAL(told.count, 0);
}

static void *body_every_call(void *unused)
{
	(void)unused;
	for (long call = 400; call < 470; call++)
		syscall(call);
	return NULL;
}

static void refusals_are_bounded(void)
{
	live_init();
	ASSERT_EQUAL(sthread_on_violation(tell, NULL), 0);
	ASSERT_RETURNED(live_run_bare(body_every_call, NULL), 0);
	ASSERT_EQUAL(told.count, 16);
	double began = live_seconds();

	for (int i = 0; i < 200; i++)
		ASSERT_RETURNED(live_run_bare(body_every_call, NULL), 0);
	live_check(told.count <= 16 + 64 * (unsigned)(live_seconds() - began + 2), __FILE__, __LINE__,
		   "no more than 64 a second (%u)", told.count);
	CU_ASSERT(told.count < 200 * 16);
}

static void *gate_faults(void *argument, void *trusted)
{
	(void)trusted;
	return (void *)(intptr_t)innermost(argument);
}

static void *body_call(void *gate)
{
	void *result;

	return (void *)(intptr_t)(cgate_call((int)(intptr_t)gate, NULL, &result) == 0 ? 0 : errno);
}

static void *gate_calls(void *argument, void *trusted)
{
	(void)argument;
	return body_call(trusted);
}

static void gates(void)
{
	sc_t sc;

	live_init();
	ASSERT_EQUAL(sthread_on_violation(tell, NULL), 0);
	sc_init(&sc);

	cgate_t gate = cgate_create(gate_faults, &sc, NULL);

	sc_cgate_add(&sc, gate);

	cgate_t outer = cgate_create(gate_calls, &sc, (void *)(intptr_t)gate);

	ASSERT_RETURNED(live_run(&sc, body_call, (void *)(intptr_t)gate), ECANCELED);
	ASSERT_EQUAL(told.count, 1);
	ASSERT_EQUAL(told.reports[0].gate, gate);
	CU_ASSERT(told.reports[0].sthread >= 0);
	ASSERT_EQUAL(told.reports[0].depth, 1);
	ASSERT_EQUAL(told.reports[0].body, (uintptr_t)gate_faults);
	ASSERT_TOUCHED(told.reports[0], STHREAD_TOUCHED_NULL, W, 0);
#ifdef HAVE_LIBDW
	ASSERT_EQUAL(told.reports[0].frame_count, 2);
	CU_ASSERT_STRING_EQUAL(name_of(told.reports[0].frames[1] - 1), "gate_faults");
#endif

	/* From a gate, and from host mode. */
	void *result;

	ASSERT_EQUAL(cgate_call(outer, NULL, &result), 0);
	ASSERT_EQUAL((intptr_t)result, ECANCELED);
	ASSERT_EQUAL(told.count, 2);
	ASSERT_EQUAL(told.reports[1].gate, gate);
	ASSERT_EQUAL(told.reports[1].sthread, -1);
	ASSERT_EQUAL(told.reports[1].depth, 2);

	/* A gate that is not granted. */
	sc_init(&sc);
	ASSERT_RETURNED(live_run(&sc, body_call, (void *)(intptr_t)outer), EPERM);
	ASSERT_EQUAL(told.count, 3);
	ASSERT_EQUAL(told.reports[2].violation, STHREAD_VIOLATION_GATE);
	ASSERT_EQUAL(told.reports[2].gate_called, outer);
	ASSERT_EQUAL(told.reports[2].right_needed, STHREAD_RIGHT_GATE);
	ASSERT_EQUAL(told.reports[2].gate, -1);
	CU_ASSERT(strstr(text_of(&told.reports[2]), "body_call") != NULL || WITHOUT_LIBDW);

	/* Without a function to tell, the gate's fault costs nothing and is lost. */
	ASSERT_EQUAL(sthread_on_violation(NULL, NULL), 0);
	ASSERT_ERROR(cgate_call(gate, NULL, NULL) == -1, ECANCELED);
	ASSERT_EQUAL(told.count, 3);
}

static void *body_park_twice(void *unused)
{
	sthread_park();
	sthread_park();
	return unused;
}

static void budgets_and_kills(void)
{
	struct sthread_report report;
	sthread_t st;
	sc_t sc;

	live_init();
	ASSERT_EQUAL(sthread_on_violation(tell, NULL), 0);
	sc_init(&sc);
	sc_cpu_budget(&sc, 30);
	report = report_of(&sc, body_spin, NULL);
	ASSERT_EQUAL(report.violation, STHREAD_VIOLATION_BUDGET);
	ASSERT_EQUAL(report.end, STHREAD_OUT_OF_CPU);
	CU_ASSERT(WITHOUT_LIBDW || strcmp(name_of(report.frames[0]), "body_spin") == 0);
	ASSERT_EQUAL(told.count, 1);

	ASSERT_EQUAL(live_create(&st, &sc, body_park_twice, NULL), 0);
	ASSERT_ERROR(sthread_get_report(st, &report) == -1, EAGAIN);
	ASSERT_EQUAL(sthread_kill(st), 0);
	ASSERT_EQUAL(sthread_get_report(st, &report), 0);
	ASSERT_EQUAL(report.violation, STHREAD_VIOLATION_KILLED);
	CU_ASSERT(strstr(text_of(&report), "body_park_twice") != NULL || WITHOUT_LIBDW);
	ASSERT_EQUAL(told.count, 2);
	live_join(st);
}

static struct {
	sthread_t st;
	int busy, inner, started;
} nested;

static void tell_and_work(const struct sthread_report *report, void *unused)
{
	struct life life;
	struct sthread_report again;

	(void)unused;
	tell(report, NULL);
	nested.busy = sthread_get_report(report->sthread, &again) == -1 ? errno : 0;
	life = live_run_bare(body_nothing, (void *)41);
	nested.started = (int)(intptr_t)life.value;
	life = live_run_bare(body_read, NULL); /* a violation of its own is not told */
	nested.inner = life.info.end;
}

static void callbacks_may_work(void)
{
	sthread_t st;
	sc_t sc;

	live_init();
	ASSERT_EQUAL(sthread_on_violation(tell_and_work, NULL), 0);
	sc_init(&sc);
	ASSERT_EQUAL(live_create(&st, &sc, body_read, NULL), 0);
	ASSERT_EQUAL(told.count, 1);
	ASSERT_EQUAL(told.reports[0].sthread, st);
	ASSERT_EQUAL(nested.busy, EBUSY);
	ASSERT_EQUAL(nested.started, 41);
	ASSERT_EQUAL(nested.inner, STHREAD_FAULTED);
	ASSERT_END(live_join(st), STHREAD_FAULTED);

	/* In the middle of a life that goes on, with values in vector registers. */
	told.count = 0;
	ASSERT_RETURNED(live_run_bare(body_refused, (void *)3), 3);
	ASSERT_EQUAL(told.count, 3);
}

/* ---- misuse ------------------------------------------------------------------------------------------------------ */

static void *all_denied(void *report)
{
	struct sthread_symbol symbol;
	char room[16];

	if (sthread_on_violation(NULL, NULL) != -1 || errno != EPERM)
		return (void *)1;
	if (sthread_get_report(0, report) != -1 || errno != EPERM)
		return (void *)2;
	if (sthread_report_format(report, room, sizeof(room)) != -1 || errno != EPERM)
		return (void *)3;
	if (sthread_symbol((uintptr_t)all_denied, &symbol) != -1 || errno != EPERM)
		return (void *)4;
	return NULL;
}

static void misuse(void)
{
	static struct sthread_report report;
	struct sthread_symbol symbol;
	sthread_t st;
	sc_t sc;
	char room[64];

	ASSERT_ERROR(sthread_get_report(0, &report) == -1, EPERM);
	live_init();
	ASSERT_ERROR(sthread_get_report(-1, &report) == -1, EBADF);
	ASSERT_ERROR(sthread_get_report(1 << 18, &report) == -1, EBADF);
	ASSERT_ERROR(sthread_get_report(0, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_report_format(NULL, room, sizeof(room)) == -1, EINVAL);
	ASSERT_ERROR(sthread_report_format(&report, NULL, 1) == -1, EINVAL);
	ASSERT_ERROR(sthread_symbol((uintptr_t)misuse, NULL) == -1, EINVAL);
	ASSERT_ERROR(sthread_symbol(16, &symbol) == -1, ENOENT);
	ASSERT_RETURNED(live_run_bare(all_denied, &report), 0);

	sc_init(&sc);
	ASSERT_EQUAL(live_create(&st, &sc, body_nothing, NULL), 0);
	ASSERT_ERROR(sthread_get_report(st, &report) == -1, ENODATA);
	live_join(st);
	ASSERT_ERROR(sthread_get_report(st, &report) == -1, EBADF);
}

static void formatting(void)
{
	live_init();

	struct sthread_report report = report_of_bare(outermost, NULL);
	static char whole[16384], part[16384];
	int length = sthread_report_format(&report, whole, sizeof(whole));

	CU_ASSERT(length > 100 && length < (int)sizeof(whole));
	ASSERT_EQUAL(strlen(whole), length);
	ASSERT_EQUAL(sthread_report_format(&report, NULL, 0), length);
	for (int size = 0; size < length + 3; size += size < 40 ? 1 : 13) {
		memset(part, 0x7e, sizeof(part));
		ASSERT_EQUAL(sthread_report_format(&report, part, (size_t)size), length);
		for (int i = size; i < size + 100; i++)
			if (part[i] != 0x7e)
				CU_FAIL("writes beyond the end");
		if (size) {
			ASSERT_EQUAL(strlen(part), size <= length ? size - 1 : length);
			CU_ASSERT(memcmp(part, whole, strlen(part)) == 0);
		}
	}

	/* A report that holds anything at all. */
	uint64_t state = 88172645463325252;

	for (int round = 0; round < 300; round++) {
		for (size_t i = 0; i < sizeof(report); i++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			((uint8_t *)&report)[i] = (uint8_t)(state >> 32);
		}
		CU_ASSERT(sthread_report_format(&report, part, sizeof(part)) > 0);
	}
}

/* ---- hostile compartments ---------------------------------------------------------------------------------------- */

struct hostile {
	uint64_t registers[16]; /* RAX RBX RCX RDX RSI RDI RBP RSP R8 ... R15 */
	uint64_t rip;
	uint64_t stack[512];
};

/* Becomes what it says, and faults. */
static void *body_hostile(void *argument)
{
	static uint64_t stack[512];
	const struct hostile *hostile = argument;

	memcpy(stack, hostile->stack, sizeof(stack));
	__asm__ volatile("movq (%0), %%rax\n\t"
			 "movq 8(%0), %%rbx\n\t"
			 "movq 16(%0), %%rcx\n\t"
			 "movq 24(%0), %%rdx\n\t"
			 "movq 32(%0), %%rsi\n\t"
			 "movq 40(%0), %%rdi\n\t"
			 "movq 48(%0), %%rbp\n\t"
			 "movq 56(%0), %%rsp\n\t"
			 "movq 64(%0), %%r8\n\t"
			 "movq 72(%0), %%r9\n\t"
			 "movq 80(%0), %%r10\n\t"
			 "movq 88(%0), %%r11\n\t"
			 "movq 96(%0), %%r12\n\t"
			 "movq 104(%0), %%r13\n\t"
			 "movq 112(%0), %%r14\n\t"
			 "jmpq *128(%0)"
			 :
			 : "r"(hostile)
			 : "memory");
	__builtin_unreachable();
}

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint64_t random_word(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* A word that unwinding may find interesting. */
static uint64_t interesting(const struct hostile *there)
{
	uint64_t text_start = (uintptr_t)body_hostile & ~(uint64_t)0xffff, stack = live_window() + SPACE_STACK_TOP;

	switch (random_word() % 8) {
	case 0:
		return text_start + random_word() % 0x20000;
	case 1:
		return (uintptr_t)memcpy + random_word() % 0x1000;
	case 2:
		return stack - random_word() % 0x3000;
	case 3:
		return (uintptr_t)there + random_word() % sizeof(*there);
	case 4:
		return live_window() + random_word() % 0x60000000;
	case 5:
		return random_word() % 0x1000;
	case 6:
		return -(random_word() % 0x1000);
	default:
		return random_word();
	}
}

static void hostile_stacks(void)
{
	sc_t sc;
	unsigned ends = 0;

	live_init();

	tag_t tag = tag_new();
	struct hostile *hostile = smalloc(tag, sizeof(*hostile));

	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	sc_cpu_budget(&sc, 20);
	for (int round = 0; round < (live_emulated_amd() ? 50 : 400); round++) {
		struct sthread_report report;
		sthread_t st;

		for (unsigned i = 0; i < 16; i++)
			hostile->registers[i] = interesting(hostile);
		for (unsigned i = 0; i < 512; i++)
			hostile->stack[i] = interesting(hostile);
		if (round % 2)
			hostile->registers[7] = (uintptr_t)hostile->stack + random_word() % sizeof(hostile->stack);
		hostile->rip = interesting(hostile);
		ASSERT_EQUAL(live_create(&st, &sc, body_hostile, hostile), 0);
		enum sthread_state state;
		ASSERT_EQUAL(sthread_state(st, &state), 0);
		if (state != STHREAD_ENDED)
			ASSERT_EQUAL(sthread_kill(st), 0);
		if (sthread_get_report(st, &report) == 0) {
			ends++;
			CU_ASSERT(report.frame_count <= STHREAD_REPORT_FRAMES);
			CU_ASSERT(sthread_report_format(&report, text, sizeof(text)) > 0);
		}
		live_join(st);
	}
	harness_note("%u reports", ends);
	CU_ASSERT(ends > 20);
}

static void operands(void)
{
	uint64_t registers[STHREAD_REGISTERS], address = 0;
	uint8_t code[15];
	bool execute;

	for (unsigned i = 0; i < STHREAD_REGISTERS; i++)
		registers[i] = 0x1000 * (i + 1);

	static const struct {
		uint8_t code[15];
		uint8_t size;
		uint64_t address;
	} known[] = {
		{ { 0x48, 0x8b, 0x44, 0xcb, 0x10 }, 5, 0x2000 + 8 * 0x3000 + 0x10 }, /* mov 0x10(%rbx,%rcx,8), %rax */
		{ { 0x41, 0x8a, 0x07 }, 3, 0x1000 * (REPORT_R8 + 8) },               /* mov (%r15), %al */
		{ { 0xc5, 0xfe, 0x6f, 0x06 }, 4, 0x5000 },                           /* vmovdqu (%rsi), %ymm0 */
		{ { 0xc4, 0xc1, 0x7e, 0x6f, 0x00 }, 5, 0x1000 * (REPORT_R8 + 1) },   /* vmovdqu (%r8), %ymm0 */
		{ { 0xf3, 0x0f, 0x6f, 0x07 }, 4, 0x6000 },                           /* movdqu (%rdi), %xmm0 */
		{ { 0x0f, 0xb6, 0x80, 0xf0, 0xff, 0xff, 0xff }, 7, 0x1000 - 0x10 },  /* movzbl -16(%rax), %eax */
		{ { 0x66, 0x0f, 0x38, 0x00, 0x02 }, 5, 0x4000 },                     /* pshufb (%rdx), %xmm0 */
		{ { 0xff, 0xd0 }, 2, 0x1000 },                                       /* call *%rax */
		{ { 0x41, 0xff, 0xe4 }, 3, 0x1000 * (REPORT_R8 + 5) },               /* jmp *%r12 */
		{ { 0xc3 }, 1, 0x8000 },
		{ { 0x55 }, 1, 0x8000 },
	};
	for (unsigned i = 0; i < sizeof(known) / sizeof(*known); i++) {
		address = 0;
		live_check(report_operand(known[i].code, known[i].size, registers, 0, 0, &address, &execute) &&
				   address == known[i].address,
			   __FILE__, __LINE__, "operand of row %u is %#llx", i, (unsigned long long)address);
		for (size_t size = 0; size < known[i].size; size++)
			CU_ASSERT(!report_operand(known[i].code, size, registers, 0, 0, &address, &execute));
	}
	for (int round = 0; round < 1000000; round++) {
		uint64_t words[2] = { random_word(), random_word() };

		memcpy(code, words, sizeof(code));
		report_operand(code, words[0] % 16, registers, 0, 0, &address, &execute);
	}
}

/* ---- cost, and what is left -------------------------------------------------------------------------------------- */

static void *body_keep_secret(void *hidden)
{
	volatile char secret[64];

	live_reveal((char *)secret, hidden);
	innermost(NULL);
	return (void *)(intptr_t)secret[0];
}

static const char hidden_secret[] = "\xf3\xe5\xe3\xf2\xe5\xf4\xad\xef\xe6\xad\xe1\xad\xf2\xe5\xf0\xef\xf2\xf4";

static void nothing_leaks(void)
{
	sthread_t first, second;
	char secret[64];
	sc_t sc;

	live_init();
	ASSERT_EQUAL(sthread_on_violation(tell, NULL), 0);
	sc_init(&sc);
	ASSERT_EQUAL(live_create(&second, &sc, body_park_twice, NULL), 0);
	ASSERT_EQUAL(live_create(&first, &sc, body_keep_secret, (void *)hidden_secret), 0);
	text_of(&told.reports[0]);
	live_reveal(secret, hidden_secret);
	ASSERT_EQUAL(live_find(second, secret, strlen(secret)), 0);
	/* Not in the report either: it has addresses and registers only. */
	CU_ASSERT(memmem(&told.reports[0], sizeof(told.reports[0]), secret, strlen(secret)) == NULL);
	CU_ASSERT(memmem(text, sizeof(text), secret, strlen(secret)) == NULL);
	live_join(first);
	ASSERT_EQUAL(sthread_kill(second), 0);
	live_join(second);
}

/* Faults with more than 64 KiB on its stack. */
static NOT_INLINED void *body_deep(void *depth)
{
	volatile char room[512];

	room[0] = 1;
	if (depth == NULL)
		return (void *)(intptr_t)innermost(NULL);
	char *below = body_deep((char *)depth - 1);
	__asm__ volatile("" : : "r"(room) : "memory"); /* each call has its room */
	return below + room[0];
}

static void memory_is_given_back(void)
{
	sthread_t sts[64];
	sc_t sc;

	live_init();
	sc_init(&sc);
	for (unsigned i = 0; i < 64; i++)
		ASSERT_EQUAL(live_create(&sts[i], &sc, body_deep, (void *)200), 0);
	CU_ASSERT(report_memory() >= 64 * (60 << 10));
	for (unsigned i = 0; i < 64; i++)
		live_join(sts[i]);
	ASSERT_EQUAL(report_memory(), 0);

	/* Never more than a bound. */
	static sthread_t many[300];

	for (unsigned i = 0; i < 300; i++)
		ASSERT_EQUAL(live_create(&many[i], &sc, body_deep, (void *)200), 0);
	CU_ASSERT(report_memory() <= 16 << 20);
	struct sthread_report report;

	ASSERT_EQUAL(sthread_get_report(many[299], &report), 0);
	ASSERT_EQUAL(report.touched, STHREAD_TOUCHED_NULL);
	CU_ASSERT(report.frame_count >= 1);
	for (unsigned i = 0; i < 300; i++)
		live_join(many[i]);
	ASSERT_EQUAL(report_memory(), 0);
}

static const struct harness_test tests[] = {
	{ "faults in tags name tag, allocation and right", tags, HARNESS_FORK },
	{ "faults in a compartment's own memory name it and the right", own_memory, HARNESS_FORK },
	{ "faults in memory that compartments do not have say what it is", foreign_memory, HARNESS_FORK },
	{ "a backtrace names the functions and lines of three nested calls", backtraces, HARNESS_FORK },
	{ "a backtrace goes through libraries", in_libraries, HARNESS_FORK },
	{ "each refused call is told once in a life, with the right that is missing", refusals, HARNESS_FORK },
	{ "a compartment cannot flood the program with reports", refusals_are_bounded, HARNESS_FORK },
	{ "a gate's fault names the gate, its caller and its frames", gates, HARNESS_FORK },
	{ "spent budgets and kills are reported with the place", budgets_and_kills, HARNESS_FORK },
	{ "the function that is told may start sthreads", callbacks_may_work, HARNESS_FORK },
	{ "misuse has the documented errors", misuse, HARNESS_FORK },
	{ "formatting never writes beyond the end, whatever the report", formatting, HARNESS_FORK },
	{ "hostile registers and stacks do no harm", hostile_stacks, HARNESS_FORK, .seconds = 60 },
	{ "operands of instructions are computed, and any bytes are safe", operands },
	{ "reports give nothing of a compartment to another", nothing_leaks, HARNESS_FORK },
	{ "what reports keep is bounded, and given back at the join", memory_is_given_back, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
