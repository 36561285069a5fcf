/*
 * options.h - the command line of sthread-httpd.
 */
#ifndef HTTPD_OPTIONS_H
#define HTTPD_OPTIONS_H

#include "compartment.h"

#include <stdnoreturn.h>

struct options {
	char host[256];
	char port[6];
	const char *certificate, *key, *docroot, *log;
	enum isolation isolation;
	unsigned long requests; /* 0: no limit */
	unsigned workers;       /* processes, or with ISOLATION_THREAD threads at most */
	size_t ballast;         /* bytes */
};

/* Fills *options; ends the program on --help and on a bad command line. */
void options_parse(int argc, char **argv, struct options *options);
const char *isolation_name(enum isolation isolation);

/* Ends the program.  Not by exit(): libraries that are fenced cannot run their exit handlers (fence.h). */
noreturn void finish(int status);
/* Prints one line, "sthread-httpd: ...", and ends the program with status 1. */
noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
