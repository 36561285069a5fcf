/*
 * measure_print.h - what was measured, as tables and as JSON.
 */
#ifndef BENCH_MEASURE_PRINT_H
#define BENCH_MEASURE_PRINT_H

#include "measure.h"

/* Facts about the run, printed before the rungs. */
struct fact {
	const char *name;
	char text[64];
};

/* A duration, for people. */
const char *print_duration(double nanoseconds, char text[16]);

/* Times, and what they are against.  explain: with a line for each row that says what one operation includes. */
void measure_print(const struct measurement *measurement, const struct fact *facts, size_t count, bool explain);
/* Counters of each operation, of the rows that have any. */
void measure_print_counters(const struct measurement *measurement);
/* How many rows there are, how many were not measured, and which of the ratios that are aimed at are not there. */
void measure_print_verdict(const struct measurement *measurement);

/* Everything.  Returns 0, or -1 with errno. */
int measure_write_json(const struct measurement *measurement, const struct fact *facts, size_t count, const char *path);

#endif
