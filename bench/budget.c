/*
 * budget.c - what operations of the library are made of, on this host, and what they would take where ring 0 is native.
 *
 * budget [--quick] [--json=FILE] [--httpd=PROGRAM] [--native=FILE] [--exit-ns=N] [--visit-ns=N]
 * Measures in one run each operation and each of its parts alone: exits, changes of tenant, copied pages, calls of the host,
 * and the supervisor's own time (the same calls of the library with a run loop that answers at once).  Prints what they add
 * up to and what is not accounted for, and writes the same as FILE (default: bench-budget.json).  A second table is a
 * projection: counts taken where ring 0 is native (--native) times costs, of which --exit-ns and --visit-ns are not measured
 * here.  Nothing is asserted.  docs/benchmarks.md says more.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bare.h"
#include "budget.h"
#include "dirty.h"
#include "https.h"
#include "lives.h"
#include "record.h"

#define OF(name)                                                                    \
	[OPERATION + (name)] = { #name, "the operation as it is" },                 \
		     [PLAYED + (name)] = { #name ", played", "without its exits" }, \
		     [IN_RUN_LOOP + (name)] = { #name ", in the run loop", "its part" }

const char *const budget_names[BUDGET_OPERATIONS] = {
	[BUDGET_LIFE] = "life, recycled",      [BUDGET_LIFE_8] = "life, 8 pages dirtied",
	[BUDGET_STEP] = "step + park",         [BUDGET_GATE] = "gate call + return",
	[BUDGET_CALL] = "served call, getuid", [BUDGET_READ] = "served call, read of 4 KiB",
};
const char *const budget_rows[BUDGET_OPERATIONS] = {
	[BUDGET_LIFE] = "sthread life, recycled", [BUDGET_LIFE_8] = "sthread life, 8 pages dirtied",
	[BUDGET_STEP] = "sthread_step + park",    [BUDGET_GATE] = "gate call + return, pages touched: 1",
	[BUDGET_CALL] = "served call, getuid",    [BUDGET_READ] = "served call, read of 4 KiB",
};

static const struct rung rungs[BUDGET_RUNGS] = {
	[UNIT_EXIT] = { "bare exit", "one KVM_RUN that ends with OUT in ring 3" },
	[UNIT_CALL_EXIT] = { "bare system call", "one KVM_RUN that ends with SYSCALL in ring 3" },
	[UNIT_TRAP] = { "bare trap", "one KVM_RUN that ends with a page fault in ring 3" },
	[UNIT_TENANTS] = { "bare exit of another tenant", "two address spaces in turn, half of both" },
	[UNIT_PAGE] = { "page copied", "memcpy() of 4 KiB, one of 8 pages that are used again and again" },
	[UNIT_STORES] = { "stores to 8 pages", "the body of such a life, in the process" },
	[UNIT_CLOCK] = { "clock_gettime", "CLOCK_MONOTONIC" },
	[UNIT_TIMER] = { "timer_settime", "of a timer that is far away" },
	[UNIT_READ] = { "preadv", "4 KiB of a file in the page cache" },
	[UNIT_IOCTL] = { "ioctl of a virtual CPU", "KVM_GET_REGS" },
	[UNIT_EPOLL] = { "epoll_wait", "one descriptor that is ready" },
	[UNIT_RECV] = { "recv", "1 KiB that has come, loopback device" },
	[UNIT_SEND] = { "send", "1 KiB, loopback device" },
	[UNIT_INSTRUCTION] = { "instruction", "one of a chain in which each needs the one before" },
	OF(BUDGET_LIFE),
	OF(BUDGET_LIFE_8),
	OF(BUDGET_STEP),
	OF(BUDGET_GATE),
	OF(BUDGET_CALL),
	OF(BUDGET_READ),
	[REQUEST_KEPT_NONE] = { "HTTPS, keep-alive, none", "GET of 1 KiB in an open connection" },
	[REQUEST_KEPT] = { "HTTPS, keep-alive, sthread", "the same" },
	[REQUEST_NEW_NONE] = { "HTTPS, new connection, none", "connect, TLS 1.3 handshake, GET of 1 KiB, close" },
	[REQUEST_NEW] = { "HTTPS, new connection, sthread", "the same" },
	[RECORD] = { "a TLS record answered",
		     "a request of 40 bytes, an answer of 1 KiB, in the process, again and again" },
	[RECORD_AFTER_EXIT] = { "the same after a bare exit", "the exit included" },
};

static struct {
	bool quick;
	const char *json, *httpd;
	struct native native;
} options = { .json = "bench-budget.json", .httpd = HTTPS_PROGRAM, .native = { .exit_ns = 1200, .visit_ns = 200 } };

/* ---- operations ------------------------------------------------------------------------------------ */

static struct {
	struct measurement *measurement;
	struct tape tapes[BUDGET_OPERATIONS];
	struct counted *counted; /* shared with the parent */
} budget;

static unsigned each_of(int operation)
{
	return operation >= BUDGET_GATE ? CALLS_EACH : 1;
}

static void run_timed(void *tape)
{
	size_t operation = (size_t)((struct tape *)tape - budget.tapes);
	uint64_t before = tape_in_run_loop();
	tape_run(tape);
	measure_add(budget.measurement, &rungs[IN_RUN_LOOP + operation],
		    (double)(tape_in_run_loop() - before) / each_of((int)operation));
}

static void record(int operation)
{
	struct tape *tape = &budget.tapes[operation];
	struct counted *counted = &budget.counted[operation];
	struct sthread_statistics before, after;
	double each = each_of(operation);
	tape_record(tape);
	if (sthread_statistics(&before) != 0)
		measure_fail("%s", sthread_error());
	tape_run(tape);
	if (sthread_statistics(&after) != 0)
		measure_fail("%s", sthread_error());
	for (unsigned i = 0; i <= DUNE_EXIT_BROKEN; i++)
		counted->kinds[i] = tape->kinds[i] / each;
	for (unsigned i = 0; i < HOST_CALLS; i++)
		counted->host_calls[i] = tape->host_calls[i] / each;
	counted->tenants = tape->tenants / each;
	counted->restored = (double)(after.pages_restored - before.pages_restored) / each;
	counted->copied = (double)(after.pages_copied - before.pages_copied) / each;
	counted->known = true;
}

static void group_operations(struct measurement *measurement, void *unused)
{
	static struct life lives[2];
	static sthread_t parked[BUDGET_OPERATIONS];
	struct operation operations[UNITS + 2 * BUDGET_OPERATIONS];
	(void)unused;
	budget.measurement = measurement;
	dirty_prepare();
	lives_touch_prepare(1);
	measure_make_resident((size_t)10 << 20);
	if (sthread_init() != 0)
		measure_fail("%s", sthread_error());
	bare_prepare();
	unit_costs_prepare(rungs, operations);
	lives[BUDGET_LIFE] = life_empty();
	lives[BUDGET_LIFE_8] = life_dirty();
	parked[BUDGET_STEP] = parked_idle();
	parked[BUDGET_GATE] = parked_touching(1);
	parked[BUDGET_CALL] = parked_asking();
	parked[BUDGET_READ] = parked_reading();
	for (int i = 0; i < BUDGET_OPERATIONS; i++) {
		struct tape *tape = &budget.tapes[i];
		tape->run = i <= BUDGET_LIFE_8 ? life_run : step_run;
		tape->argument = i <= BUDGET_LIFE_8 ? (void *)&lives[i] : (void *)&parked[i];
		record(i);
		/* Play what was recorded, then run it: the state that it leaves is the same. */
		operations[PLAYED + i] = (struct operation){ &rungs[PLAYED + i],  tape_play,     tape,
							     .inner = each_of(i), .samples = 20, .warm = 1 };
		operations[OPERATION + i] = (struct operation){ &rungs[OPERATION + i],
								run_timed,
								tape,
								.inner = each_of(i),
								.samples = each_of(i) > 1 ? 5 : 20,
								.warm = 1 };
	}
	measure_operations(measurement, operations, sizeof operations / sizeof *operations, options.quick ? 3 : 40);
}

static void group_requests(struct measurement *measurement, void *unused)
{
	const struct https_run runs[] = {
		{ .isolation = "none", .rung = &rungs[REQUEST_KEPT_NONE], .keep_alive = true },
		{ .isolation = "sthread", .rung = &rungs[REQUEST_KEPT], .keep_alive = true },
		{ .isolation = "none", .rung = &rungs[REQUEST_NEW_NONE] },
		{ .isolation = "sthread", .rung = &rungs[REQUEST_NEW] },
	};
	const struct https_load load = { .program = options.httpd,
					 .warm = options.quick ? 5 : 50,
					 .samples = options.quick ? 20 : 500 };
	(void)unused;
	https_measure(measurement, runs, sizeof runs / sizeof *runs, &load);
}

static void group_records(struct measurement *measurement, void *unused)
{
	(void)unused;
	record_measure(measurement, &rungs[RECORD], &rungs[RECORD_AFTER_EXIT], options.quick ? 3 : 40);
}

/* ---- the run --------------------------------------------------------------------------------------- */

static _Noreturn void explain(void)
{
	fprintf(stderr, "Usage: budget [--quick] [--json=FILE] [--httpd=PROGRAM] [--native=FILE] [--exit-ns=N] "
			"[--visit-ns=N]\n");
	exit(2);
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "quick", no_argument, NULL, 'q' },
		{ "json", required_argument, NULL, 'j' },
		{ "httpd", required_argument, NULL, 'h' },
		{ "native", required_argument, NULL, 'n' },
		{ "exit-ns", required_argument, NULL, 'e' },
		{ "visit-ns", required_argument, NULL, 'v' },
		{ 0 },
	};
	for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		switch (option) {
		case 'q':
			options.quick = true;
			break;
		case 'j':
			options.json = optarg;
			break;
		case 'h':
			options.httpd = optarg;
			break;
		case 'n':
			options.native.path = optarg;
			break;
		case 'e':
			options.native.exit_ns = strtod(optarg, NULL);
			break;
		case 'v':
			options.native.visit_ns = strtod(optarg, NULL);
			break;
		default:
			explain();
		}
	}
	if (optind != argc || !(options.native.exit_ns > 0) || !(options.native.visit_ns > 0))
		explain();
}

int main(int argc, char **argv)
{
	struct measurement measurement;
	const struct rung *const first[] = { &rungs[OPERATION], NULL },
				 *const requests[] = { &rungs[REQUEST_KEPT], NULL },
				 *const records[] = { &rungs[RECORD], &rungs[RECORD_AFTER_EXIT], NULL };
	parse(argc, argv);
	measure_start(&measurement, rungs, BUDGET_RUNGS);
	size_t size = BUDGET_OPERATIONS * sizeof *budget.counted;
	budget.counted = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (budget.counted == MAP_FAILED) {
		perror("budget");
		return 1;
	}
	measure_in_child(&measurement, group_operations, NULL, first);
	measure_in_child(&measurement, group_requests, NULL, requests);
	measure_in_child(&measurement, group_records, NULL, records);
	budget_print(&measurement, budget.counted);
	budget_print_native(&measurement, budget.counted, &options.native);
	if (budget_write_json(&measurement, budget.counted, &options.native, options.json) != 0) {
		fprintf(stderr, "budget: cannot write %s: %s\n", options.json, strerror(errno));
		return 1;
	}
	return 0;
}
