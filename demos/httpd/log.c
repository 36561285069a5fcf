/*
 * log.c - the log gate.  What it is told is its caller's claim: it bounds it, makes it one line and dates it.
 */
#include "log.h"

#include <callgate.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

void *log_gate(void *arg, void *trusted)
{
	struct cgate_buffer *message = arg;
	const uint8_t *in = message->in;
	char line[LOG_LINE_MAX + 40];
	time_t now = time(NULL);
	struct tm tm;
	size_t used;

	message->outlen = 0;
	if (message->inlen > LOG_LINE_MAX)
		return (void *)(intptr_t)EMSGSIZE;
	if (gmtime_r(&now, &tm) == NULL)
		return (void *)(intptr_t)EIO;
	used = (size_t)snprintf(line, 40, "%04d-%02d-%02dT%02d:%02d:%02dZ ", tm.tm_year + 1900, tm.tm_mon + 1,
				tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
	if (used > 39)
		used = 39;
	for (size_t i = 0; i < message->inlen; i++)
		line[used++] = in[i] >= ' ' && in[i] < 0x7f ? (char)in[i] : '?';
	line[used++] = '\n';
	/* One write: the file is open for appending, lines of one process do not mix. */
	if (write((int)(intptr_t)trusted, line, used) != (ssize_t)used)
		return (void *)(intptr_t)EIO;
	return NULL;
}
