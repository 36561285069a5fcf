/*
 * dune.c - what Dune gives a process beside what Linux offers for the same purpose, measured in one run.
 *
 * dune-bench [--quick] [--count] [--explain] [--rounds=N] [--dune-json=FILE]
 * Prints a table, and writes the same as FILE (default: dune-bench.json).  --count prints, instead of times, what does not
 * depend on the machine's speed: retired instructions of ring 0, exits, forwarded system calls and mirror faults for each
 * operation; TEST_LANE in the environment implies it, because in the lanes the clock is not wall time.  Nothing is
 * asserted.  What the rows mean: docs/benchmarks.md.
 */
#include "dune_bench.h"
#include "measure_print.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/steps.h"

#define MIB ((size_t)1 << 20)
#define PEER(rung)                   \
	{                            \
		&dune_rungs[rung], 0 \
	}

static const char near_fault[] = "a write to each of 32 pages of a new mapping, one beside the other";
static const char far_fault[] = "the same, one page in each 2 MiB: page tables are made as well";
static const char walk_small[] = "a load that depends on the last one, in a random page of an array of 4 KiB pages";
static const char walk_large[] = "the same in pages of 2 MiB";
static const char appel1[] = "appel1: write to a protected page; the handler protects another and opens this one";
static const char appel2[] = "appel2: 100 pages are protected at once; a write to each; the handler opens it";
static const char pipe_switch[] =
	"two processes on one processor, a byte through a pipe, pages written: half a round trip";
static const char futex_switch[] = "the same by a futex in shared memory";
static const char flush_switch[] = "load_cr3() without tags, then the pages are written";
static const char tags_switch[] =
	"load_cr3() with a tag for each of two roots and CR3_NOFLUSH, then the pages are written";
static const char ring3_switch[] =
	"ring 3 writes the pages and makes a call; its handler loads the other root, with tags";

const struct rung dune_rungs[DUNE_RUNGS] = {
	[GETPID] = { "getpid, Linux", "a system call that does next to nothing" },
	[GETPID_RING0] = { "getpid, ring 0", "the same code in ring 0: forwarded to the host", { PEER(GETPID) } },
	[GETPID_RING3] = { "getpid, ring 3 and handler",
			   "ring 3 makes the call, the handler passes it on (dune_passthrough_syscall)",
			   { PEER(GETPID) } },
	[FAULT] = { "page fault, Linux", near_fault },
	[FAULT_MIRRORED] = { "page fault, mirrored",
			     "the same code in ring 0: a mirror fault for 2 MiB, then the host's page faults",
			     { PEER(FAULT) } },
	[FAULT_FAR] = { "page fault, 2 MiB apart, Linux", far_fault },
	[FAULT_FAR_MIRRORED] = { "page fault, 2 MiB apart, mirrored",
				 "the same code in ring 0: a mirror fault for each",
				 { PEER(FAULT_FAR) } },
	[FAULT_RING0] = { "page fault, ring 0 and handler",
			  "the program's handler maps a zeroed page (dune_vm_map_pages)",
			  { PEER(FAULT) } },
	[FAULT_RING3] = { "page fault, ring 3 and handler", "the same for a write of ring 3", { PEER(FAULT) } },
	[WALK_SMALL] = { "load, 4 KiB pages, Linux", walk_small },
	[WALK_SMALL_RING0] = { "load, 4 KiB pages, ring 0", walk_small, { PEER(WALK_SMALL) } },
	[WALK_SMALL_RING3] = { "load, 4 KiB pages, ring 3", walk_small, { PEER(WALK_SMALL) } },
	[WALK_LARGE] = { "load, 2 MiB pages, Linux", walk_large },
	[WALK_LARGE_RING0] = { "load, 2 MiB pages, ring 0", walk_large, { PEER(WALK_LARGE) } },
	[WALK_LARGE_RING3] = { "load, 2 MiB pages, ring 3", walk_large, { PEER(WALK_LARGE) } },
	[CALL_PTRACE] = { "intercepted call, ptrace",
			  "PTRACE_SYSCALL: two stops of a child, registers read and written once" },
	[CALL_SYSEMU] = { "intercepted call, sysemu",
			  "PTRACE_SYSEMU: one stop, registers read and written",
			  { PEER(CALL_PTRACE) } },
	[CALL_NOTIFY] = { "intercepted call, seccomp",
			  "SECCOMP_RET_USER_NOTIF in a child: received and answered",
			  { PEER(CALL_PTRACE) } },
	[CALL_DISPATCH] = { "intercepted call, dispatch",
			    "PR_SET_SYSCALL_USER_DISPATCH: SIGSYS in the same process, sets the result",
			    { PEER(CALL_PTRACE) } },
	[CALL_RING3] = { "intercepted call, ring 3",
			 "dune_register_syscall_handler(): sets the result",
			 { PEER(CALL_SYSEMU), PEER(CALL_DISPATCH) } },
	[TRAP_SIGNAL] = { "trap, signal", "INT3, a SIGTRAP handler that does nothing, and back" },
	[TRAP_RING0] = { "trap, ring 0",
			 "the same with dune_register_intr_handler(), in ring 0",
			 { PEER(TRAP_SIGNAL) } },
	[TRAP_RING3] = { "trap, ring 3", "the same, INT3 in ring 3", { PEER(TRAP_SIGNAL) } },
	[APPEL1_SIGNAL] = { "prot1 + trap + unprot, signal", appel1 },
	[APPEL1_RING0] = { "prot1 + trap + unprot, ring 0", appel1, { PEER(APPEL1_SIGNAL) } },
	[APPEL1_RING3] = { "prot1 + trap + unprot, ring 3", appel1, { PEER(APPEL1_SIGNAL) } },
	[APPEL2_SIGNAL] = { "protN + trap + unprot, signal", appel2 },
	[APPEL2_RING0] = { "protN + trap + unprot, ring 0", appel2, { PEER(APPEL2_SIGNAL) } },
	[APPEL2_RING3] = { "protN + trap + unprot, ring 3", appel2, { PEER(APPEL2_SIGNAL) } },
	[SWITCH_PIPE_1] = { "switch, 1 page, pipe", pipe_switch },
	[SWITCH_PIPE_30] = { "switch, 30 pages, pipe", pipe_switch },
	[SWITCH_PIPE_300] = { "switch, 300 pages, pipe", pipe_switch },
	[SWITCH_FUTEX_1] = { "switch, 1 page, futex", futex_switch },
	[SWITCH_FUTEX_30] = { "switch, 30 pages, futex", futex_switch },
	[SWITCH_FUTEX_300] = { "switch, 300 pages, futex", futex_switch },
	[SWITCH_FLUSH_1] = { "switch, 1 page, ring 0, no tags", flush_switch, { PEER(SWITCH_FUTEX_1) } },
	[SWITCH_FLUSH_30] = { "switch, 30 pages, ring 0, no tags", flush_switch, { PEER(SWITCH_FUTEX_30) } },
	[SWITCH_FLUSH_300] = { "switch, 300 pages, ring 0, no tags", flush_switch, { PEER(SWITCH_FUTEX_300) } },
	[SWITCH_TAGS_1] = { "switch, 1 page, ring 0, tags", tags_switch, { PEER(SWITCH_FUTEX_1) } },
	[SWITCH_TAGS_30] = { "switch, 30 pages, ring 0, tags", tags_switch, { PEER(SWITCH_FUTEX_30) } },
	[SWITCH_TAGS_300] = { "switch, 300 pages, ring 0, tags", tags_switch, { PEER(SWITCH_FUTEX_300) } },
	[SWITCH_RING3_1] = { "switch, 1 page, ring 3", ring3_switch, { PEER(SWITCH_FUTEX_1) } },
	[SWITCH_RING3_30] = { "switch, 30 pages, ring 3", ring3_switch, { PEER(SWITCH_FUTEX_30) } },
	[SWITCH_RING3_300] = { "switch, 300 pages, ring 3", ring3_switch, { PEER(SWITCH_FUTEX_300) } },
};

struct dune_bench_options dune_bench = { .rounds = 3, .calls = 100, .switches = 50, .walked = 64 * MIB };

static const char *json = "dune-bench.json";
static bool explained;

/* ---- the source of counters and of time ------------------------------------------------------------ */

static const char *counter_names[COUNTERS] = {
	[COUNT_EXITS] = "exits",
	[COUNT_FORWARDED] = "forwarded_calls",
	[COUNT_MIRRORED] = "mirror_faults",
	[COUNT_INSTRUCTIONS] = NULL, /* "ring0_instructions" where they are counted */
};

static bool no_counters(double counters[COUNTERS])
{
	(void)counters;
	return false;
}

static bool dune_counters(double counters[COUNTERS])
{
	struct dune_counters now;
	if (dune_get_counters(&now) != 0)
		return false;
	counters[COUNT_EXITS] = (double)now.exits;
	counters[COUNT_FORWARDED] = (double)now.system_calls;
	counters[COUNT_MIRRORED] = (double)now.mirror_faults;
	counters[COUNT_INSTRUCTIONS] = 0;
	return true;
}

static double nanoseconds_per_tick;

/* The time-stamp counter: in ring 0, where another clock might be an exit, or another machine's. */
static uint64_t ticks_as_nanoseconds(void)
{
	return (uint64_t)((double)dune_get_ticks() * nanoseconds_per_tick);
}

static void calibrate(void)
{
	uint64_t from = measure_now(), ticks = dune_get_ticks();
	while (measure_now() - from < 20000000)
		;
	nanoseconds_per_tick = (double)(measure_now() - from) / (double)(dune_get_ticks() - ticks);
}

enum dune_placement dune_bench_placement(void)
{
	return getenv("DUNE_PLACEMENT") ? dune_get_placement() : DUNE_PLACEMENT_ANY;
}

void dune_bench_enter(enum dune_placement placement)
{
	calibrate();
	if (dune_set_placement(placement) != 0 || dune_init_and_enter() != 0)
		measure_fail("%s", dune_error());
	measure_set_source(&(struct measure_source){ dune_counters, counter_names,
						     dune_in_guest() ? ticks_as_nanoseconds : NULL });
	double unused[COUNTERS];
	dune_counters(unused); /* what it touches is mirrored from now on */
}

/* ---- running operations ---------------------------------------------------------------------------- */

/* Counters of one run, between those of the program's own; instructions are counted in a second one, by single steps. */
static void count(struct measurement *measurement, const struct operation *operation)
{
	unsigned inner = operation->inner ? operation->inner : 1;
	double before[COUNTERS] = { 0 }, after[COUNTERS] = { 0 };
	for (unsigned i = 0; i < 3; i++) {
		operation->run(operation->argument);
		if (operation->between)
			operation->between(operation->argument);
	}
	bool counted = dune_counters(before);
	operation->run(operation->argument);
	counted = counted && dune_counters(after);
	for (unsigned i = 0; i < COUNTERS; i++)
		after[i] -= before[i];
	if (operation->between)
		operation->between(operation->argument);
	uint64_t instructions;
	if (counted && dune_steps_count(operation->run, operation->argument, &instructions) == 0)
		after[COUNT_INSTRUCTIONS] = (double)instructions;
	else
		after[COUNT_INSTRUCTIONS] = -1;
	if (counted)
		measure_add_counters(measurement, operation->rung, inner, after);
}

void dune_bench_run(struct measurement *measurement, const struct operation *operations, size_t number)
{
	if (!dune_bench.count) {
		struct operation timed[8];
		for (size_t i = 0; i < number; i++) {
			timed[i] = operations[i];
			timed[i].samples = dune_bench.quick ? 3 : 10;
		}
		measure_operations(measurement, timed, number, dune_bench.quick ? 2 : 5);
		return;
	}
	for (size_t i = 0; i < number; i++)
		count(measurement, &operations[i]);
}

/* ---- operations of more than one group ------------------------------------------------------------- */

void dune_bench_getpid(void *argument)
{
	(void)argument;
	for (unsigned i = 0; i < dune_bench.calls; i++)
		syscall(SYS_getpid);
}

static size_t untouched_size(const struct untouched *untouched)
{
	return FAULT_PAGES * untouched->stride;
}

void dune_bench_untouched_new(void *argument)
{
	struct untouched *untouched = argument;
	if (untouched->memory)
		munmap(untouched->memory, untouched_size(untouched));
	untouched->memory =
		mmap(NULL, untouched_size(untouched), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (untouched->memory == MAP_FAILED)
		measure_fail("no memory");
	madvise(untouched->memory, untouched_size(untouched), MADV_NOHUGEPAGE);
}

void dune_bench_untouched_run(void *argument)
{
	const struct untouched *untouched = argument;
	for (size_t i = 0; i < FAULT_PAGES; i++)
		*(volatile uint8_t *)(untouched->memory + i * untouched->stride) = 1;
}

/* A number below `limit`; the same sequence in every run. */
static size_t random_below(size_t limit)
{
	static uint64_t state = 88172645463325252;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % limit;
}

static uint64_t *word_of_page(const struct walk *walk, size_t page)
{
	return (uint64_t *)(walk->memory + page * PAGE_BYTES + page % 64 * 64);
}

static bool has_huge_pages(const uint8_t *memory)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	char line[256];
	bool here = false, has = false;
	unsigned long begin, end, kilobytes;
	while (file && fgets(line, sizeof line, file)) {
		if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
			here = (uintptr_t)memory >= begin && (uintptr_t)memory < end;
		else if (here && sscanf(line, "AnonHugePages: %lu", &kilobytes) == 1)
			has = kilobytes > 0;
	}
	if (file)
		fclose(file);
	return has;
}

void dune_bench_walk_new(struct walk *walk, bool huge)
{
	size_t bytes = dune_bench.walked, number = bytes / PAGE_BYTES;
	uint8_t *memory =
		mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint32_t *order = calloc(number, sizeof *order);
	if (memory == MAP_FAILED || !order)
		measure_fail("no memory for %zu MiB", bytes >> 20);
	*walk = (struct walk){ .bytes = bytes };
	walk->memory = (uint8_t *)(((uintptr_t)memory + bytes - 1) & ~(bytes - 1));
	madvise(walk->memory, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (size_t i = 0; i < number; i++) {
		size_t other = random_below(i + 1);
		order[i] = order[other];
		order[other] = (uint32_t)i;
	}
	for (size_t i = 0; i < number; i++)
		*word_of_page(walk, order[i]) =
			(uint64_t)((uint8_t *)word_of_page(walk, order[(i + 1) % number]) - walk->memory);
	walk->at = (uint64_t)((uint8_t *)word_of_page(walk, order[0]) - walk->memory);
	free(order);
	if (huge && !has_huge_pages(walk->memory))
		measure_fail("the kernel gives no pages of 2 MiB");
}

void dune_bench_walk_run(void *argument)
{
	struct walk *walk = argument;
	uint64_t at = walk->at;
	for (int i = 0; i < WALK_STEPS; i++)
		at = *(volatile uint64_t *)(walk->memory + at);
	walk->at = at;
}

unsigned dune_bench_appel_page(unsigned i)
{
	return (i * 37 + 11) % APPEL_PAGES; /* 37 and 100 have no common divisor: each page once */
}

/* ---- the run --------------------------------------------------------------------------------------- */

enum {
	PROCESSOR,
	RING0,
	PAGING,
	TAGS,
	RING3_PLACEMENT,
	WALKED,
	FACTS
};

static void group_facts(struct measurement *measurement, void *argument)
{
	struct fact *facts = argument;
	struct dune_host host;
	(void)measurement;
	if (dune_probe(&host) != 0)
		measure_fail("%s", dune_error());
	snprintf(facts[PROCESSOR].text, sizeof facts->text, "%s, %ld CPUs", host.vendor, sysconf(_SC_NPROCESSORS_ONLN));
	snprintf(facts[RING0].text, sizeof facts->text, "%s", host.ring0_native ? "native" : "interpreted");
	snprintf(facts[PAGING].text, sizeof facts->text, "%s", host.shadow_paging ? "shadow" : "two-dimensional");
	snprintf(facts[TAGS].text, sizeof facts->text, "%s", host.pcid ? "yes" : "no");
	bool guest = host.ring0_native && dune_bench_placement() != DUNE_PLACEMENT_HOST;
	snprintf(facts[RING3_PLACEMENT].text, sizeof facts->text, "%s placement", guest ? "guest" : "host");
}

static const int ring0_rungs[] = { GETPID_RING0,     FAULT_MIRRORED,   FAULT_FAR_MIRRORED, FAULT_RING0,
				   WALK_SMALL_RING0, WALK_LARGE_RING0, TRAP_RING0,         APPEL1_RING0,
				   APPEL2_RING0,     SWITCH_FLUSH_1,   SWITCH_FLUSH_30,    SWITCH_FLUSH_300,
				   SWITCH_TAGS_1,    SWITCH_TAGS_30,   SWITCH_TAGS_300 };

/* A child for the group; what fails in it is said in the rows from one rung to another (both included). */
static void in_child(struct measurement *measurement, void (*group)(struct measurement *, void *), const int *wanted,
		     size_t number)
{
	const struct rung *list[DUNE_RUNGS + 1] = { NULL };
	for (size_t i = 0; i < number; i++)
		list[i] = &dune_rungs[wanted[i]];
	measure_in_child(measurement, group, NULL, list);
}

#define IN_CHILD(measurement, group, ...) \
	in_child((measurement), (group), (const int[]){ __VA_ARGS__ }, sizeof(int[]){ __VA_ARGS__ } / sizeof(int))

static void run_round(struct measurement *measurement, bool native)
{
	if (!dune_bench.count) {
		IN_CHILD(measurement, group_linux_process, GETPID, FAULT, FAULT_FAR, TRAP_SIGNAL, APPEL1_SIGNAL,
			 APPEL2_SIGNAL);
		IN_CHILD(measurement, group_linux_walks, WALK_SMALL, WALK_LARGE);
		IN_CHILD(measurement, group_linux_calls, CALL_PTRACE, CALL_SYSEMU, CALL_NOTIFY, CALL_DISPATCH);
		IN_CHILD(measurement, group_linux_switches, SWITCH_PIPE_1, SWITCH_PIPE_30, SWITCH_PIPE_300,
			 SWITCH_FUTEX_1, SWITCH_FUTEX_30, SWITCH_FUTEX_300);
	}
	IN_CHILD(measurement, group_ring3, GETPID_RING3, FAULT_RING3, CALL_RING3, TRAP_RING3, APPEL1_RING3,
		 APPEL2_RING3, SWITCH_RING3_1, SWITCH_RING3_30, SWITCH_RING3_300);
	if (!dune_bench.count)
		IN_CHILD(measurement, group_ring3_walks, WALK_SMALL_RING3, WALK_LARGE_RING3);
	if (!native)
		return;
	in_child(measurement, group_ring0, ring0_rungs, sizeof ring0_rungs / sizeof *ring0_rungs);
	if (!dune_bench.count)
		IN_CHILD(measurement, group_ring0_walks, WALK_SMALL_RING0, WALK_LARGE_RING0);
}

static void print_counts(struct measurement *measurement, const struct fact *facts)
{
	for (size_t i = 0; i < FACTS; i++)
		printf("%-28s %s\n", facts[i].name, facts[i].text);
	printf("\n%-40s %12s %8s %10s %8s\n", "one operation", "ring 0 instr", "exits", "forwarded", "mirrored");
	for (size_t i = 0; i < DUNE_RUNGS; i++) {
		const struct result *result = measure_result(measurement, &dune_rungs[i]);
		double operations = (double)result->operations;
		char instructions[16] = "-";
		if (result->problem[0])
			printf("%-40s not counted: %s\n", dune_rungs[i].name, result->problem);
		if (!result->operations || result->hidden)
			continue;
		if (result->counters[COUNT_INSTRUCTIONS] >= 0)
			snprintf(instructions, sizeof instructions, "%.1f",
				 result->counters[COUNT_INSTRUCTIONS] / operations);
		printf("%-40s %12s %8.2f %10.2f %8.2f\n", dune_rungs[i].name, instructions,
		       result->counters[COUNT_EXITS] / operations, result->counters[COUNT_FORWARDED] / operations,
		       result->counters[COUNT_MIRRORED] / operations);
	}
}

/* The sizes that are aimed at, counted. */
static void print_sizes(const struct measurement *measurement, bool guest)
{
	static const struct {
		int rung;
		double exits;
	} sizes[] = { { GETPID_RING0, 1 }, { TRAP_RING0, 0 },      { APPEL1_RING0, 0 },  { APPEL2_RING0, 0 },
		      { CALL_RING3, 0 },   { SWITCH_FLUSH_30, 0 }, { SWITCH_TAGS_30, 0 } };
	printf("\n");
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		const struct result *result = measure_result(measurement, &dune_rungs[sizes[i].rung]);
		if (guest && result->operations)
			printf("%-40s %.2f exits (reach: %.0f)\n", dune_rungs[sizes[i].rung].name,
			       result->counters[COUNT_EXITS] / (double)result->operations, sizes[i].exits);
	}
}

static _Noreturn void explain(void)
{
	fprintf(stderr, "Usage: dune-bench [--quick] [--count] [--explain] [--rounds=1..10] [--dune-json=FILE]\n");
	exit(2);
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "quick", no_argument, NULL, 'q' },
		{ "count", no_argument, NULL, 'c' },
		{ "explain", no_argument, NULL, 'e' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "dune-json", required_argument, NULL, 'd' },
		{ "json", required_argument, NULL, 'b' },  /* bench's, see make bench */
		{ "httpd", required_argument, NULL, 'b' }, /* the same */
		{ 0 },
	};
	dune_bench.count = getenv("TEST_LANE") != NULL;
	for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		switch (option) {
		case 'q':
			dune_bench.quick = true;
			break;
		case 'c':
			dune_bench.count = true;
			break;
		case 'e':
			explained = true;
			break;
		case 'r':
			dune_bench.rounds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'd':
			json = optarg;
			break;
		case 'b':
			break;
		default:
			explain();
		}
	}
	if (optind != argc || !dune_bench.rounds || dune_bench.rounds > 10)
		explain();
	if (dune_bench.quick || dune_bench.count)
		dune_bench.rounds = 1;
	if (dune_bench.count) {
		counter_names[COUNT_INSTRUCTIONS] = "ring0_instructions";
		dune_bench.calls = 5;
		dune_bench.switches = 2;
	}
}

int main(int argc, char **argv)
{
	struct measurement measurement;
	static const struct rung *const nothing_wanted[] = { NULL };
	parse(argc, argv);
	measure_start(&measurement, dune_rungs, DUNE_RUNGS);
	measure_set_source(&(struct measure_source){ no_counters, counter_names, NULL });
	struct fact *facts =
		mmap(NULL, FACTS * sizeof *facts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (facts == MAP_FAILED) {
		perror("dune-bench");
		return 1;
	}
	const struct fact initial[FACTS] = {
		[PROCESSOR] = { "processor", "no KVM" },
		[RING0] = { "ring 0", "-" },
		[PAGING] = { "paging", "-" },
		[TAGS] = { "tagged TLB", "-" },
		[RING3_PLACEMENT] = { "ring 3 is run in", "-" },
		[WALKED] = { "array of the loads", "" },
	};
	memcpy(facts, initial, sizeof initial);
	snprintf(facts[WALKED].text, sizeof facts->text, "%zu MiB", dune_bench.walked >> 20);
	measure_in_child(&measurement, group_facts, facts, nothing_wanted);
	bool native = strcmp(facts[RING0].text, "native") == 0;
	for (size_t i = 0; !native && i < sizeof ring0_rungs / sizeof *ring0_rungs; i++)
		measure_result(&measurement, &dune_rungs[ring0_rungs[i]])->hidden = true;
	for (unsigned round = 1; round <= dune_bench.rounds; round++) {
		if (!dune_bench.count)
			fprintf(stderr, "round %u of %u\n", round, dune_bench.rounds);
		run_round(&measurement, native);
	}
	if (dune_bench.count)
		print_counts(&measurement, facts);
	else
		measure_print(&measurement, facts, FACTS, explained);
	print_sizes(&measurement, strncmp(facts[RING3_PLACEMENT].text, "guest", 5) == 0);
	if (!native)
		printf("Not measured: the rows of ring 0 (forwarded getpid, mirrored faults, traps, protection and switches "
		       "without an exit) need a KVM whose ring 0 is native.\n");
	if (measure_write_json(&measurement, facts, FACTS, json) != 0) {
		fprintf(stderr, "dune-bench: cannot write %s: %s\n", json, strerror(errno));
		return 1;
	}
	return 0;
}
