/*
 * log.h - the log gate: appends lines to the access log, for callers that hold no descriptor.
 */
#ifndef HTTPD_LOG_H
#define HTTPD_LOG_H

enum {
	LOG_LINE_MAX = 512
};

/* A cgate_fn.  The message is one line without its end; trusted is the descriptor, as (void *)(intptr_t)fd. */
void *log_gate(void *arg, void *trusted);

#endif
