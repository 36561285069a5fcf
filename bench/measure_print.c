/* measure_print.c - see measure_print.h */
#define _GNU_SOURCE
#include "measure_print.h"

#include <math.h>

enum {
	PAGE_KIB = 4,
	NAME = 38 /* columns */
};

const char *print_duration(double nanoseconds, char text[16])
{
	static const struct {
		double limit, unit;
		const char *name;
	} units[] = { { 1e3, 1, "ns" }, { 1e6, 1e3, "us" }, { 1e9, 1e6, "ms" }, { INFINITY, 1e9, "s" } };
	unsigned i = 0;
	while (fabs(nanoseconds) >= units[i].limit)
		i++;
	snprintf(text, 16, "%.*f %s", fabs(nanoseconds / units[i].unit) < 100 ? 2 : 1, nanoseconds / units[i].unit,
		 units[i].name);
	return text;
}

/* ---- times ----------------------------------------------------------------------------------------- */

/* NAN: one of the two has no samples, or they are the same. */
static double ratio_to_peer(const struct measurement *measurement, const struct rung *rung, unsigned peer)
{
	if (rung->peers[peer].rung == rung)
		return NAN;
	return measure_summary(measurement, rung).median / measure_summary(measurement, rung->peers[peer].rung).median;
}

static bool has_peer(const struct rung *rung, unsigned peer)
{
	return peer < MEASURE_PEERS && rung->peers[peer].rung;
}

static void print_peers(const struct measurement *measurement, const struct rung *rung)
{
	const char *before = "  ";
	for (unsigned i = 0; has_peer(rung, i); i++) {
		double ratio = ratio_to_peer(measurement, rung, i), reach = rung->peers[i].reach;
		if (isnan(ratio))
			continue;
		printf("%s%.*f x %s", before, ratio < 0.1 ? 4 : 2, ratio, rung->peers[i].rung->name);
		if (reach > 0)
			printf(" (reach %.3g: %s)", reach, ratio <= reach ? "yes" : "NO");
		before = "; ";
	}
}

static void print_section(const struct rung *rung)
{
	if (rung->section)
		printf("%s:\n", rung->section);
}

void measure_print(const struct measurement *measurement, const struct fact *facts, size_t count, bool explain)
{
	for (size_t i = 0; i < count; i++)
		printf("%-28s %s\n", facts[i].name, facts[i].text);
	printf("\n%-*s %10s %10s %7s  %s\n", NAME, "one operation", "median", "p95", "exits", "against");
	for (size_t i = 0; i < measurement->count; i++) {
		const struct rung *rung = &measurement->rungs[i];
		const struct result *result = measure_result(measurement, rung);
		struct summary summary = measure_summary(measurement, rung);
		char median[16], p95[16] = "-", exits[16] = "-";
		if (result->hidden)
			continue;
		print_section(rung);
		if (!result->count) {
			printf("%-*s not measured: %s\n", NAME, rung->name,
			       result->problem[0] ? result->problem : "left out");
			continue;
		}
		if (result->count > 1)
			print_duration(summary.p95, p95);
		if (result->operations)
			snprintf(exits, sizeof exits, "%.2f",
				 result->counters[COUNT_EXITS] / (double)result->operations);
		printf("%-*s %10s %10s %7s", NAME, rung->name, print_duration(summary.median, median), p95, exits);
		print_peers(measurement, rung);
		if (result->bytes > 0)
			printf("; %.1f KiB each", result->bytes / 1024);
		printf("\n");
		if (explain)
			printf("    %s\n", rung->includes);
	}
}

void measure_print_verdict(const struct measurement *measurement)
{
	unsigned rows = 0, missing = 0, aims = 0, reached = 0;
	for (size_t i = 0; i < measurement->count; i++) {
		const struct rung *rung = &measurement->rungs[i];
		const struct result *result = measure_result(measurement, rung);
		if (result->hidden)
			continue;
		rows++;
		missing += !result->count;
		for (unsigned peer = 0; has_peer(rung, peer); peer++) {
			double ratio = ratio_to_peer(measurement, rung, peer), reach = rung->peers[peer].reach;
			if (reach <= 0 || isnan(ratio))
				continue;
			aims++;
			reached += ratio <= reach;
			if (ratio > reach)
				printf("not reached: %s: %.3g x %s, aimed at %.3g\n", rung->name, ratio,
				       rung->peers[peer].rung->name, reach);
		}
	}
	printf("%u rows, %u not measured; %u of %u aims reached\n", rows, missing, reached, aims);
}

/* ---- counters -------------------------------------------------------------------------------------- */

static void print_ring0(const struct result *result)
{
	if (result->stepped)
		printf(" %8.1f\n", result->ring0.instructions / (double)result->stepped);
	else
		printf(" %8s\n", "-");
}

void measure_print_counters(const struct measurement *measurement)
{
	printf("\n%-*s %7s %7s %7s %7s %7s %8s %8s %7s %7s %7s %8s\n", NAME, "counted for one operation", "exits",
	       "traps", "calls", "gates", "copied", "restored", "KiB", "edits", "flushes", "kept", "ring 0");
	for (size_t i = 0; i < measurement->count; i++) {
		const struct rung *rung = &measurement->rungs[i];
		const struct result *result = measure_result(measurement, rung);
		double each[COUNTERS];
		if (result->hidden || !result->operations)
			continue;
		for (unsigned counter = 0; counter < COUNTERS; counter++)
			each[counter] = result->counters[counter] / (double)result->operations;
		printf("%-*s %7.2f %7.2f %7.2f %7.2f %7.2f %8.2f %8.1f %7.2f %7.2f %7.2f", NAME, rung->name,
		       each[COUNT_EXITS], each[COUNT_TRAPS], each[COUNT_CALLS], each[COUNT_GATE_CALLS],
		       each[COUNT_COPIED], each[COUNT_RESTORED], PAGE_KIB * (each[COUNT_COPIED] + each[COUNT_RESTORED]),
		       each[COUNT_EDITS], each[COUNT_FLUSHES], each[COUNT_KEPT]);
		print_ring0(result);
	}
	printf("calls: served; copied, restored: pages, KiB: their bytes; edits: page-table entries; flushes, kept: changes of "
	       "address space that dropped what was cached, and that kept it; ring 0: instructions, where single steps count "
	       "them\n");
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

static void write_peers(FILE *file, const struct measurement *measurement, const struct rung *rung)
{
	const char *before = " { ";
	fputs(",\n      \"peers\": [", file);
	for (unsigned i = 0; has_peer(rung, i); i++) {
		double ratio = ratio_to_peer(measurement, rung, i), reach = rung->peers[i].reach;
		if (isnan(ratio))
			continue;
		write_field(file, before, "name", rung->peers[i].rung->name);
		fprintf(file, ", \"ratio\": %.4f", ratio);
		if (reach > 0)
			fprintf(file, ", \"reach\": %.4f, \"reached\": %s", reach, ratio <= reach ? "true" : "false");
		fputs(" }", file);
		before = ", { ";
	}
	fputs(" ]", file);
}

static void write_counters(FILE *file, const struct result *result)
{
	fputs(",\n      \"per_operation\": {", file);
	for (unsigned i = 0; i < COUNTERS && measure_counter_name(i); i++)
		fprintf(file, "%s \"%s\": %.4f", i ? "," : "", measure_counter_name(i),
			result->counters[i] / (double)result->operations);
	if (result->stepped)
		fprintf(file, ", \"ring0_instructions\": %.4f, \"ring0_visits\": %.4f",
			result->ring0.instructions / (double)result->stepped,
			result->ring0.visits / (double)result->stepped);
	fputs(" }", file);
}

static void write_rung(FILE *file, const struct measurement *measurement, const struct rung *rung)
{
	const struct result *result = measure_result(measurement, rung);
	struct summary summary = measure_summary(measurement, rung);
	write_field(file, "    { ", "name", rung->name);
	write_field(file, ",\n      ", "includes", rung->includes);
	if (!result->count) {
		write_field(file, ",\n      ", "problem", result->problem[0] ? result->problem : "left out");
	} else {
		fprintf(file, ",\n      \"samples\": %zu, \"median_ns\": %.1f, \"p95_ns\": %.1f", result->count,
			summary.median, summary.p95);
		if (result->bytes > 0)
			fprintf(file, ", \"bytes_each\": %.0f", result->bytes);
		write_peers(file, measurement, rung);
	}
	if (result->operations)
		write_counters(file, result);
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
