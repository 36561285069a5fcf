/*
 * https.h - sthread-httpd, started as a child, and a client that asks it for a page again and again.
 */
#ifndef BENCH_HTTPS_H
#define BENCH_HTTPS_H

#include <stdbool.h>

#include "measure.h"

/* Where the build puts the server. */
#define HTTPS_PROGRAM "./sthread-httpd"

/* What one run of the server is for. */
struct https_run {
	const char *isolation; /* its mode */
	bool keep_alive;       /* all requests in one connection, else one in each */
	const struct rung *rung;
};

/* What all runs have in common. */
struct https_load {
	const char *program; /* sthread-httpd */
	unsigned warm;       /* requests before the samples */
	unsigned samples;
};

/*
 * Measures requests, the server's counters included, one run after the other.  The server gets a certificate and a page in a
 * temporary folder.  Called from a child (measure_in_child), which ends if that cannot be done, or if the demo was not built.
 */
void https_measure(struct measurement *measurement, const struct https_run *runs, size_t count,
		   const struct https_load *load);

#endif
