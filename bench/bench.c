/*
 * bench.c - a ladder of costs, from a function call to an HTTPS request, measured in one run.
 *
 * bench [--quick] [--count] [--explain] [--rounds=N] [--json=FILE] [--httpd=PROGRAM]
 * Prints a table of times, with the ratios that are aimed at, and one of counters, and writes both as FILE (default:
 * bench.json).  --count leaves the times out, and with them what cannot be counted; TEST_LANE in the environment implies it,
 * because in the lanes the clock is not wall time.  --explain says with each row what one operation includes.  Nothing is
 * asserted.  What the rows mean: docs/benchmarks.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dune.h"
#include "ladder.h"
#include "measure_print.h"

static struct {
	bool explain;
	const char *json;
} options = { .json = "bench.json" };

/* ---- facts ----------------------------------------------------------------------------------------- */

enum {
	PROCESSOR,
	RING0,
	PAGING,
	SYSTEM,
	SNAPSHOT,
	ROUNDS,
	LOAD,
	FACTS
};

static const struct fact initial_facts[FACTS] = {
	[PROCESSOR] = { "processor", "no KVM" },
	[RING0] = { "ring 0", "-" },
	[PAGING] = { "paging", "-" },
	[SYSTEM] = { "exit from ring 3", "-" },
	[SNAPSHOT] = { "snapshot pages, 10 MiB", "-" },
	[ROUNDS] = { "rounds", "" },
	[LOAD] = { "load average before", "" },
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
	snprintf(facts[SYSTEM].text, sizeof facts->text, "%s",
		 host.exit_path == DUNE_EXIT_IO_BITMAP ? "OUT" : "software interrupt");
}

static struct fact *find_facts(struct measurement *measurement)
{
	static const struct rung *const nothing_wanted[] = { NULL };
	struct fact *facts =
		mmap(NULL, sizeof initial_facts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double load = 0;
	if (facts == MAP_FAILED) {
		perror("bench");
		exit(1);
	}
	memcpy(facts, initial_facts, sizeof initial_facts);
	snprintf(facts[ROUNDS].text, sizeof facts->text, "%u", ladder.rounds);
	if (getloadavg(&load, 1) == 1)
		snprintf(facts[LOAD].text, sizeof facts->text, "%.2f%s", load,
			 load > 0.5 ? ": not idle, take none of these times" : "");
	measure_in_child(measurement, group_facts, facts, nothing_wanted);
	return facts;
}

/* ---- the run --------------------------------------------------------------------------------------- */

/* Runs a group whose rows are `count` rungs from `first` on. */
static void in_child(struct measurement *measurement, void (*group)(struct measurement *, void *), void *argument,
		     int first, size_t count)
{
	const struct rung *wanted[RUNGS + 1] = { NULL };
	for (size_t i = 0; i < count; i++)
		wanted[i] = &rungs[(size_t)first + i];
	measure_in_child(measurement, group, argument, wanted);
}

/* What the library has nothing to do with. */
static void run_peers(struct measurement *measurement, bool large)
{
	in_child(measurement, group_process, NULL, FUNCTION, PING_PONG + 1 - FUNCTION);
	for (int i = 0; i < (large ? 3 : 2); i++) {
		const struct rung *const wanted[] = { &rungs[FORK_10M + i], &rungs[SPAWN_10M + i], NULL };
		measure_in_child(measurement, group_fork, (void *)wanted[0], wanted);
	}
	for (int i = 0; i < DIRTY_SIZES; i++) {
		const struct rung *const wanted[] = { &rungs[FORK_DIRTIES + i], &rungs[MEMCPY + i], &rungs[STORES + i],
						      NULL };
		measure_in_child(measurement, group_dirty_peers, (void *)(uintptr_t)i, wanted);
	}
	in_child(measurement, group_futex_touches, NULL, FUTEX_TOUCHES, SWITCH_SIZES);
}

static void run_resident(struct measurement *measurement)
{
	static const struct rung *const wanted[][2] = { { &rungs[LIFE_BESIDE] },
							{ &rungs[LIFE_1G_BEFORE] },
							{ &rungs[LIFE_1G_AFTER] } };
	struct measure_group groups[3];
	for (size_t i = 0; i < 3; i++)
		groups[i] = (struct measure_group){ group_resident, (void *)wanted[i][0], wanted[i] };
	measure_in_turns(measurement, groups, 3);
}

static void run_sthreads(struct measurement *measurement, struct fact *facts, bool large)
{
	const struct rung *const sthreads[] = {
		&rungs[BARE_EXIT],   &rungs[LIFE],        &rungs[LIFE_FRESH], &rungs[LIFE_DIRTY],  &rungs[STEP],
		&rungs[SERVED_CALL], &rungs[SERVED_READ], &rungs[GATE],       &rungs[GATE_BUFFER], NULL
	};
	measure_in_child(measurement, group_sthreads, &facts[SNAPSHOT], sthreads);
	if (large)
		run_resident(measurement);
	for (int i = 0; i < DIRTY_SIZES; i++)
		in_child(measurement, group_dirty_lives, (void *)(uintptr_t)i, LIFE_DIRTIES + i, 1);
	in_child(measurement, group_gate_touches, NULL, GATE_TOUCHES, SWITCH_SIZES);
	for (int i = 0; i < LIVE_SIZES; i++)
		if (large || live_sizes[i] <= 100)
			in_child(measurement, group_live, (void *)(uintptr_t)i, LIVE + i, 1);
}

/* ---- rows that are computed from others -------------------------------------------------------------- */

/* (the row with 512 pages - the one with 0, if wanted) / 512 */
static void each_of_512(struct measurement *measurement, int rung, int sizes, bool less_nothing)
{
	double most = measure_summary(measurement, &rungs[sizes + DIRTY_SIZES - 1]).median;
	double none = less_nothing ? measure_summary(measurement, &rungs[sizes]).median : 0;
	double each = (most - none) / dirty_sizes[DIRTY_SIZES - 1];
	if (each == each) /* a number */
		measure_add(measurement, &rungs[rung], each);
	else
		snprintf(measure_result(measurement, &rungs[rung])->problem, 100,
			 "what it is computed from is missing");
}

static void compute_rows(struct measurement *measurement)
{
	each_of_512(measurement, PAGE_RESTORED, LIFE_DIRTIES, true);
	each_of_512(measurement, PAGE_COPIED, MEMCPY, false);
	each_of_512(measurement, PAGE_STORED, STORES, false);
	/* Nothing is done: no rows of their own. */
	measure_result(measurement, &rungs[MEMCPY])->hidden = true;
	measure_result(measurement, &rungs[STORES])->hidden = true;
}

static bool enough_memory(struct measurement *measurement)
{
	static const int large[] = {
		FORK_1G, SPAWN_1G, LIFE_BESIDE, LIFE_1G_BEFORE, LIFE_1G_AFTER, LIVE + 3, LIVE + 4
	};
	unsigned long available = 0;
	char line[128];
	FILE *file = fopen("/proc/meminfo", "re");
	while (file && fgets(line, sizeof line, file) && sscanf(line, "MemAvailable: %lu kB", &available) != 1)
		;
	if (file)
		fclose(file);
	if (ladder.count || available / 1024 / 1024 >= 3)
		return !ladder.count;
	for (size_t i = 0; i < sizeof large / sizeof *large; i++)
		snprintf(measure_result(measurement, &rungs[large[i]])->problem, 100,
			 "left out: 3 GiB of free memory needed");
	return false;
}

static _Noreturn void explain(void)
{
	fprintf(stderr,
		"Usage: bench [--quick] [--count] [--explain] [--rounds=1..10] [--json=FILE] [--httpd=PROGRAM]\n");
	exit(2);
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "quick", no_argument, NULL, 'q' },
		{ "count", no_argument, NULL, 'c' },
		{ "explain", no_argument, NULL, 'e' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "json", required_argument, NULL, 'j' },
		{ "httpd", required_argument, NULL, 'h' },
		{ 0 },
	};
	ladder.count = getenv("TEST_LANE") != NULL;
	for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		switch (option) {
		case 'q':
			ladder.quick = true;
			break;
		case 'c':
			ladder.count = true;
			break;
		case 'e':
			options.explain = true;
			break;
		case 'r':
			ladder.rounds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'j':
			options.json = optarg;
			break;
		case 'h':
			ladder.httpd = optarg;
			break;
		default:
			explain();
		}
	}
	if (optind != argc || !ladder.rounds || ladder.rounds > 10)
		explain();
	if (ladder.quick || ladder.count)
		ladder.rounds = 1;
	if (ladder.count)
		measure_count_only();
}

static void print_problems(const struct measurement *measurement)
{
	for (size_t i = 0; i < measurement->count; i++)
		if (measurement->results[i].problem[0])
			printf("%-38s not counted: %s\n", measurement->rungs[i].name, measurement->results[i].problem);
}

int main(int argc, char **argv)
{
	struct measurement measurement;
	parse(argc, argv);
	measure_start(&measurement, rungs, RUNGS);
	struct fact *facts = find_facts(&measurement);
	bool large = enough_memory(&measurement);
	for (unsigned round = 1; round <= ladder.rounds; round++) {
		fprintf(stderr, "round %u of %u\n", round, ladder.rounds);
		if (!ladder.count)
			run_peers(&measurement, large);
		run_sthreads(&measurement, facts, large);
		if (ladder.count)
			continue;
		in_child(&measurement, group_parallel, NULL, SERIAL, 4);
		in_child(&measurement, group_https, NULL, HTTPS_NEW_NONE, 4);
	}
	if (ladder.count) {
		print_problems(&measurement);
	} else {
		compute_rows(&measurement);
		measure_print(&measurement, facts, FACTS, options.explain);
	}
	measure_print_counters(&measurement);
	if (!ladder.count)
		measure_print_verdict(&measurement);
	if (measure_write_json(&measurement, facts, FACTS, options.json) != 0) {
		fprintf(stderr, "bench: cannot write %s: %s\n", options.json, strerror(errno));
		return 1;
	}
	return 0;
}
