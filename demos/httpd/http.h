/*
 * http.h - reads one HTTP/1.x request head, strictly.
 *
 * The parser library decides what a request means; this reader decides, before the library sees a byte, what
 * is a request at all: CRLF line ends only, no control bytes, no folded lines, no white space around a field
 * name, one Host, no body.  Whatever two HTTP implementations might understand differently is refused.
 */
#ifndef HTTPD_HTTP_H
#define HTTPD_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	HTTP_HEAD_MAX = 16384,
	HTTP_PATH_MAX = 1024,
};

struct http_request {
	int status; /* 200: serve path; otherwise the error to answer with */
	bool head;  /* HEAD: answer without a body */
	bool keep_alive;
	/* Decoded and safe to open beneath a directory: no leading slash, no empty, "." or ".." segment, no NUL
	 * but the final one.  Empty or ending in '/': a directory. */
	char path[HTTP_PATH_MAX + 1];
	size_t path_length;
};

struct http_reader {
	size_t length;  /* bytes in head */
	size_t scanned; /* of them looked at */
	size_t line;    /* where the current line begins */
	unsigned lines; /* complete lines before it */
	uint8_t head[HTTP_HEAD_MAX];
};

enum http_result {
	HTTP_MORE,     /* the head is not complete */
	HTTP_COMPLETE, /* *request is filled; the reader must not be used again */
};

/*
 * Copies bytes in and reads on.  *used is how many of them belong to this request: all of them unless it is
 * complete.  A zeroed reader is a fresh one.
 */
enum http_result http_read(struct http_reader *reader, const uint8_t *bytes, size_t length, size_t *used,
			   struct http_request *request);

/* The first line of what was read so far, cut to room bytes: for a log, every byte is the peer's. */
size_t http_first_line(const struct http_reader *reader, uint8_t *out, size_t room);

#endif
