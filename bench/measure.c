/* measure.c - see measure.h */
#define _GNU_SOURCE
#include "measure.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
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
};

static bool library_counters(double counters[COUNTERS]);

static struct measure_source source = { library_counters, counter_names, NULL };

/* What a failing child says; shared with it. */
static char *last_words;
enum {
	LAST_WORDS = 200
};

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
	last_words = shared_memory(LAST_WORDS);
}

void measure_fail(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(last_words, LAST_WORDS, format, arguments);
	va_end(arguments);
	_exit(1);
}

void measure_in_child(struct measurement *measurement, void (*group)(struct measurement *, void *), void *argument,
		      const struct rung *const wanted[])
{
	int status = 0;
	last_words[0] = '\0';
	fflush(NULL);
	pid_t child = fork();
	if (child == 0) {
		group(measurement, argument);
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		snprintf(last_words, LAST_WORDS, "no child: %s", strerror(errno));
	else if (WIFSIGNALED(status))
		snprintf(last_words, LAST_WORDS, "ended by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	for (; *wanted; wanted++) {
		struct result *result = measure_result(measurement, *wanted);
		if (last_words[0] && !result->problem[0])
			memcpy(result->problem, last_words, LAST_WORDS);
	}
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
	return true;
}

static void add_difference(struct measurement *measurement, const struct rung *rung, uint64_t operations,
			   const double before[COUNTERS])
{
	double now[COUNTERS];
	if (!source.counters(now))
		return;
	for (unsigned i = 0; i < COUNTERS; i++)
		now[i] -= before[i];
	measure_add_counters(measurement, rung, operations, now);
}

static void measure_block(struct measurement *measurement, const struct operation *operation)
{
	unsigned inner = operation->inner ? operation->inner : 1;
	unsigned samples = operation->samples ? operation->samples : SAMPLES_DEFAULT;
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
	for (unsigned block = 0; block < blocks; block++)
		for (size_t i = 0; i < count; i++)
			measure_block(measurement, &operations[i]);
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

/* ---- results --------------------------------------------------------------------------------------- */

static int compare(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;
	return (a > b) - (a < b);
}

struct summary {
	double median, p95;
};

/* Sorts the samples. */
static struct summary summarise(struct result *result)
{
	struct summary summary = { NAN, NAN };
	if (!result->count)
		return summary;
	qsort(result->samples, result->count, sizeof result->samples[0], compare);
	summary.median = result->samples[result->count / 2];
	summary.p95 = result->samples[result->count * 95 / 100];
	return summary;
}

static double median_of(const struct measurement *measurement, const struct rung *rung)
{
	return summarise(measure_result(measurement, rung)).median;
}

static const char *duration(double nanoseconds, char text[16])
{
	static const struct {
		double limit, unit;
		const char *name;
	} units[] = { { 1e3, 1, "ns" }, { 1e6, 1e3, "us" }, { 1e9, 1e6, "ms" }, { INFINITY, 1e9, "s" } };
	unsigned i = 0;
	while (nanoseconds >= units[i].limit)
		i++;
	snprintf(text, 16, "%.*f %s", nanoseconds / units[i].unit < 100 ? 2 : 1, nanoseconds / units[i].unit,
		 units[i].name);
	return text;
}

static void print_peers(const struct measurement *measurement, const struct rung *rung, double median)
{
	for (unsigned i = 0; i < MEASURE_PEERS && rung->peers[i].rung; i++) {
		double ratio = median / median_of(measurement, rung->peers[i].rung);
		if (isnan(ratio))
			continue;
		printf("%s%.*f x %s", i ? "; " : "  ", ratio < 0.1 ? 4 : 2, ratio, rung->peers[i].rung->name);
		if (rung->peers[i].reach > 0)
			printf(" (reach: %.2f)", rung->peers[i].reach);
	}
}

void measure_print(const struct measurement *measurement, const struct fact *facts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		printf("%-28s %s\n", facts[i].name, facts[i].text);
	printf("\n%-40s %10s %10s %7s  %s\n", "one operation", "median", "p95", "exits", "against");
	for (size_t i = 0; i < measurement->count; i++) {
		const struct rung *rung = &measurement->rungs[i];
		struct result *result = &measurement->results[i];
		struct summary summary = summarise(result);
		char median[16], p95[16], exits[16] = "-";
		if (result->hidden)
			continue;
		if (!result->count) {
			printf("%-40s not measured: %s\n", rung->name,
			       result->problem[0] ? result->problem : "left out");
			continue;
		}
		if (result->operations)
			snprintf(exits, sizeof exits, "%.2f",
				 result->counters[COUNT_EXITS] / (double)result->operations);
		printf("%-40s %10s %10s %7s", rung->name, duration(summary.median, median), duration(summary.p95, p95),
		       exits);
		print_peers(measurement, rung, summary.median);
		printf("\n    %s\n", rung->includes);
	}
}

/* ---- JSON ------------------------------------------------------------------------------------------ */

static void write_string(FILE *file, const char *text)
{
	fputc('"', file);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', file);
		if ((unsigned char)*text >= ' ')
			fputc(*text, file);
	}
	fputc('"', file);
}

static void write_field(FILE *file, const char *before, const char *name, const char *text)
{
	fputs(before, file);
	write_string(file, name);
	fputs(": ", file);
	write_string(file, text);
}

static void write_rung(FILE *file, const struct measurement *measurement, const struct rung *rung)
{
	struct result *result = measure_result(measurement, rung);
	struct summary summary = summarise(result);
	write_field(file, "    { ", "name", rung->name);
	write_field(file, ",\n      ", "includes", rung->includes);
	if (!result->count) {
		write_field(file, ",\n      ", "problem", result->problem[0] ? result->problem : "left out");
		fputs(" }", file);
		return;
	}
	fprintf(file, ",\n      \"samples\": %zu, \"median_ns\": %.1f, \"p95_ns\": %.1f", result->count, summary.median,
		summary.p95);
	fputs(",\n      \"peers\": [", file);
	for (unsigned i = 0; i < MEASURE_PEERS && rung->peers[i].rung; i++) {
		double ratio = summary.median / median_of(measurement, rung->peers[i].rung);
		if (isnan(ratio))
			continue;
		write_field(file, i ? ", { " : " { ", "name", rung->peers[i].rung->name);
		fprintf(file, ", \"ratio\": %.4f", ratio);
		if (rung->peers[i].reach > 0)
			fprintf(file, ", \"reach\": %.4f", rung->peers[i].reach);
		fputs(" }", file);
	}
	fputs(" ]", file);
	if (result->operations) {
		fputs(",\n      \"per_operation\": {", file);
		for (unsigned i = 0; i < COUNTERS && source.names[i]; i++)
			fprintf(file, "%s \"%s\": %.4f", i ? "," : "", source.names[i],
				result->counters[i] / (double)result->operations);
		fputs(" }", file);
	}
	fputs(" }", file);
}

int measure_write_json(const struct measurement *measurement, const struct fact *facts, size_t count, const char *path)
{
	FILE *file = fopen(path, "we");
	if (!file)
		return -1;
	fputs("{\n  \"run\": {", file);
	for (size_t i = 0; i < count; i++)
		write_field(file, i ? ",\n    " : "\n    ", facts[i].name, facts[i].text);
	fputs("\n  },\n  \"rungs\": [\n", file);
	for (size_t i = 0; i < measurement->count; i++) {
		write_rung(file, measurement, &measurement->rungs[i]);
		fputs(i + 1 < measurement->count ? ",\n" : "\n", file);
	}
	fputs("  ]\n}\n", file);
	bool good = !ferror(file);
	return fclose(file) == 0 && good ? 0 : -1;
}
