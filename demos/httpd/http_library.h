/*
 * http_library.h - the one door to the HTTP parser library (libllhttp or libhttp-parser).
 */
#ifndef HTTPD_HTTP_LIBRARY_H
#define HTTPD_HTTP_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	HTTP_FIELDS_MAX = 100
};

struct http_span {
	const uint8_t *at; /* into the head that was parsed */
	size_t length;
};

struct http_head {
	bool is_get, is_head; /* the method; neither: another one */
	unsigned major, minor;
	bool keep_alive;
	struct http_span target;
	size_t field_count;
	struct {
		struct http_span name, value;
	} fields[HTTP_FIELDS_MAX];
};

enum http_library_result {
	HTTP_LIBRARY_OK,
	HTTP_LIBRARY_BAD,         /* the library refuses it, or sees its end elsewhere than at length */
	HTTP_LIBRARY_MANY_FIELDS, /* more than HTTP_FIELDS_MAX */
};

/* Parses one complete request head, from the method to the empty line, and nothing behind it. */
enum http_library_result http_library_parse(const uint8_t *head, size_t length, struct http_head *out);

#endif
