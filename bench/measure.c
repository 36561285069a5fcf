/* measure.c - see measure.h */
#define _GNU_SOURCE
#include "measure.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	SAMPLES_DEFAULT = 50
};

static const char *const counter_names[COUNTERS] = {
	[COUNT_EXITS] = "exits",
	[COUNT_TRAPS] = "traps",
	[COUNT_CALLS] = "calls_served",
	[COUNT_GATE_CALLS] = "gate_calls",
	[COUNT_COPIED] = "pages_copied",
	[COUNT_RESTORED] = "pages_restored",
	[COUNT_EDITS] = "page_table_edits",
	[COUNT_FLUSHES] = "tlb_flushes",
	[COUNT_KEPT] = "tlb_kept",
};

static bool library_counters(double counters[COUNTERS]);

static struct measure_source source = { library_counters, counter_names, NULL };
static measure_stepper *stepper;
static bool count_only;

enum {
	LAST_WORDS = 200
};

/* Shared with a child. */
static struct child {
	char last_words[LAST_WORDS]; /* what it says when it fails */
	sem_t turn;                  /* its turn to measure */
} * children;
static size_t own, child_count; /* of those that take turns */

/* ---- children -------------------------------------------------------------------------------------- */

static void *shared_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		perror("bench: no memory for the results");
		exit(1);
	}
	return memory;
}

void measure_start(struct measurement *measurement, const struct rung *rungs, size_t count)
{
	*measurement = (struct measurement){ .rungs = rungs,
					     .count = count,
					     .results = shared_memory(count * sizeof *measurement->results) };
	children = shared_memory(MEASURE_CHILDREN * sizeof *children);
}

void measure_fail(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(children[own].last_words, LAST_WORDS, format, arguments);
	va_end(arguments);
	_exit(1);
}

static void take_turn(void)
{
	while (sem_wait(&children[own].turn) != 0)
		;
}

static void pass_turn(void)
{
	sem_post(&children[(own + 1) % child_count].turn);
}

static void note_end(struct measurement *measurement, const struct measure_group *group, struct child *child,
		     int status)
{
	if (WIFSIGNALED(status))
		snprintf(child->last_words, LAST_WORDS, "ended by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	for (const struct rung *const *wanted = group->wanted; *wanted; wanted++) {
		struct result *result = measure_result(measurement, *wanted);
		if (child->last_words[0] && !result->problem[0])
			memcpy(result->problem, child->last_words, LAST_WORDS);
	}
}

static pid_t start(struct measurement *measurement, const struct measure_group *group, size_t number)
{
	children[number].last_words[0] = '\0';
	sem_init(&children[number].turn, 1, number == 0);
	pid_t pid = fork();
	if (pid == 0) {
		own = number;
		group->run(measurement, group->argument);
		_exit(0);
	}
	if (pid < 0) {
		snprintf(children[number].last_words, LAST_WORDS, "no child: %s", strerror(errno));
		note_end(measurement, group, &children[number], 0);
	}
	return pid;
}

void measure_in_turns(struct measurement *measurement, const struct measure_group *groups, size_t count)
{
	pid_t pids[MEASURE_CHILDREN];
	size_t running = 0;
	fflush(NULL);
	child_count = count;
	for (size_t i = 0; i < count; i++)
		running += (pids[i] = start(measurement, &groups[i], i)) > 0;
	bool complete = running == count;
	while (running) {
		int status;
		for (size_t i = 0; i < count && !complete; i++)
			if (pids[i] > 0)
				kill(pids[i], SIGKILL); /* it would wait for its turn for ever */
		pid_t pid = wait(&status);
		for (size_t i = 0; i < count; i++)
			if (pids[i] == pid) {
				note_end(measurement, &groups[i], &children[i], status);
				complete = complete && status == 0;
				pids[i] = 0;
				running--;
			}
	}
}

void measure_in_child(struct measurement *measurement, void (*group)(struct measurement *, void *), void *argument,
		      const struct rung *const wanted[])
{
	const struct measure_group alone = { group, argument, wanted };
	measure_in_turns(measurement, &alone, 1);
}

struct result *measure_result(const struct measurement *measurement, const struct rung *rung)
{
	return &measurement->results[rung - measurement->rungs];
}

/* ---- measuring ------------------------------------------------------------------------------------- */

void measure_set_source(const struct measure_source *wanted)
{
	source = *wanted;
}

void measure_set_stepper(measure_stepper *wanted)
{
	stepper = wanted;
}

void measure_count_only(void)
{
	count_only = true;
}

const char *measure_counter_name(unsigned counter)
{
	return source.names[counter];
}

uint64_t measure_now(void)
{
	struct timespec now;
	if (source.now)
		return source.now();
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void measure_add(struct measurement *measurement, const struct rung *rung, double nanoseconds)
{
	struct result *result = measure_result(measurement, rung);
	if (result->count < MEASURE_SAMPLES)
		result->samples[result->count++] = nanoseconds;
}

void measure_add_counters(struct measurement *measurement, const struct rung *rung, uint64_t operations,
			  const double counters[COUNTERS])
{
	struct result *result = measure_result(measurement, rung);
	result->operations += operations;
	for (unsigned i = 0; i < COUNTERS; i++)
		result->counters[i] += counters[i];
}

/* The counters so far; false before sthread_init(). */
static bool library_counters(double counters[COUNTERS])
{
	struct sthread_statistics statistics;
	if (sthread_statistics(&statistics) != 0)
		return false;
	counters[COUNT_EXITS] = (double)statistics.exits;
	counters[COUNT_TRAPS] = (double)statistics.traps;
	counters[COUNT_CALLS] = (double)statistics.calls_served;
	counters[COUNT_GATE_CALLS] = (double)statistics.gate_calls;
	counters[COUNT_COPIED] = (double)statistics.pages_copied;
	counters[COUNT_RESTORED] = (double)statistics.pages_restored;
	counters[COUNT_EDITS] = (double)statistics.monitor_edits;
	counters[COUNT_FLUSHES] = (double)statistics.tlb_flushes;
	counters[COUNT_KEPT] = (double)statistics.tlb_kept;
	return true;
}

static void add_difference(struct measurement *measurement, const struct rung *rung, uint64_t operations,
			   const double before[COUNTERS])
{
	double now[COUNTERS] = { 0 };
	if (!source.counters(now))
		return;
	for (unsigned i = 0; i < COUNTERS; i++)
		now[i] -= before[i];
	measure_add_counters(measurement, rung, operations, now);
}

static unsigned inner_of(const struct operation *operation)
{
	return operation->inner ? operation->inner : 1;
}

/* Once more, in single steps. */
static void step_through(struct measurement *measurement, const struct operation *operation)
{
	struct result *result = measure_result(measurement, operation->rung);
	if (!stepper || result->stepped || !stepper(operation->run, operation->argument, &result->ring0))
		return;
	result->stepped = inner_of(operation);
	if (operation->between)
		operation->between(operation->argument);
}

static void measure_block(struct measurement *measurement, const struct operation *operation)
{
	unsigned inner = inner_of(operation);
	unsigned samples = count_only ? 1 : operation->samples ? operation->samples : SAMPLES_DEFAULT;
	double before[COUNTERS] = { 0 };
	for (unsigned i = 0; i < operation->warm; i++) {
		operation->run(operation->argument);
		if (operation->between)
			operation->between(operation->argument);
	}
	bool counted = source.counters(before);
	for (unsigned i = 0; i < samples; i++) {
		uint64_t from = measure_now();
		operation->run(operation->argument);
		measure_add(measurement, operation->rung, (double)(measure_now() - from) / inner);
		if (!operation->between)
			continue;
		if (counted)
			add_difference(measurement, operation->rung, inner, before);
		operation->between(operation->argument);
		counted = source.counters(before);
	}
	if (counted && !operation->between)
		add_difference(measurement, operation->rung, (uint64_t)samples * inner, before);
}

void measure_operations(struct measurement *measurement, const struct operation *operations, size_t count,
			unsigned blocks)
{
	/* The first turn of each: all are ready. */
	take_turn();
	pass_turn();
	for (unsigned block = 0; block < (count_only ? 1 : blocks); block++) {
		take_turn();
		for (size_t i = 0; i < count; i++)
			measure_block(measurement, &operations[i]);
		pass_turn();
	}
	for (size_t i = 0; i < count; i++)
		step_through(measurement, &operations[i]);
}

/* ---- samples --------------------------------------------------------------------------------------- */

static int compare(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;
	return (a > b) - (a < b);
}

struct summary measure_summary(const struct measurement *measurement, const struct rung *rung)
{
	struct result *result = measure_result(measurement, rung);
	struct summary summary = { NAN, NAN };
	if (!result->count)
		return summary;
	qsort(result->samples, result->count, sizeof result->samples[0], compare);
	summary.median = result->samples[result->count / 2];
	summary.p95 = result->samples[result->count * 95 / 100];
	return summary;
}

/* ---- the process ----------------------------------------------------------------------------------- */

long measure_resident(void)
{
	long size, resident;
	FILE *file = fopen("/proc/self/statm", "re");
	if (!file)
		return -1;
	int fields = fscanf(file, "%ld %ld", &size, &resident);
	fclose(file);
	return fields == 2 ? resident * PAGE : -1;
}

long measure_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	long count = 0;
	if (!directory)
		return -1;
	for (const struct dirent *entry; (entry = readdir(directory));)
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count - 1; /* the directory itself */
}

void measure_make_resident(size_t bytes)
{
	long have = measure_resident();
	if (have < 0 || (size_t)have >= bytes)
		return;
	size_t wanted = (bytes - (size_t)have) / PAGE * PAGE;
	uint8_t *memory = mmap(NULL, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		measure_fail("no memory for %zu MiB", bytes >> 20);
	madvise(memory, wanted, MADV_NOHUGEPAGE);
	for (size_t at = 0; at < wanted; at += PAGE)
		memcpy(memory + at, &(size_t){ at + 1 }, sizeof at);
}
