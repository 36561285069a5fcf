/*
 * https.h - sthread-httpd, started as a child, and a client that asks it for a page again and again.
 */
#ifndef BENCH_HTTPS_H
#define BENCH_HTTPS_H

#include <stdbool.h>

#include "measure.h"

/* What one run of the server is for. */
struct https_run {
	const char *program;   /* sthread-httpd */
	const char *isolation; /* its mode */
	bool keep_alive;       /* all requests in one connection, else one in each */
	unsigned warm;         /* requests before the samples */
	unsigned samples;
	const struct rung *rung;
};

/* Makes a certificate and a page in a temporary folder.  Ends the child that calls it if that cannot be done. */
void https_prepare(void);
/* Removes them. */
void https_clean_up(void);

/* Measures requests, the server's counters included.  Called from a child (measure_in_child). */
void https_measure(struct measurement *measurement, const struct https_run *run);

#endif
