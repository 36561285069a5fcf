/*
 * report.h - says which compartments did what, in the library's own counts.
 */
#ifndef HTTPD_REPORT_H
#define HTTPD_REPORT_H

#include "compartment.h"

#include <stdbool.h>
#include <stdint.h>
#include <sthread.h>

enum {
	REPORT_REQUESTS_MAX = 8
};

struct connection_report {
	uint64_t number;
	char peer[64];
	uint64_t requests; /* finished ones */
	bool tls_counted;
	struct sthread_info tls;
	uint64_t requests_counted;                               /* request compartments that have ended */
	struct sthread_info first_requests[REPORT_REQUESTS_MAX]; /* the first of them */
	struct sthread_info more_requests;                       /* the sum of the others' counts */
};

void report_request(struct connection_report *report, const struct sthread_info *info);
/* Prints the report of one connection to stdout. */
void report_connection(const struct connection_report *report);
/* Prints the sum over the server's life to stdout, and what the library counted if this process runs sthreads. */
void report_server(enum isolation isolation, uint64_t connections, uint64_t requests);
/* The same for one of several workers. */
void report_worker(unsigned number, uint64_t connections);

/* Describes in words how a compartment ended other than by returning. */
void report_end(const struct sthread_info *info, char *out, size_t room);

#endif
