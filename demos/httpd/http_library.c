/*
 * http_library.c - calls the HTTP parser library and hides which one it is.
 *
 * HAVE_LLHTTP chooses libllhttp; otherwise its ancestor libhttp-parser is used.
 */
#include "http_library.h"

#include <string.h>

#ifdef HAVE_LLHTTP
#include <llhttp.h>
typedef llhttp_t library_parser;
typedef llhttp_settings_t library_settings;
#else
#include <http_parser.h>
typedef http_parser library_parser;
typedef http_parser_settings library_settings;
#endif

struct parse {
	struct http_head *head;
	bool in_value; /* the last callback was for a value: the next name begins a new field */
	bool many_fields;
	bool complete;
};

/* The library may report one span in several adjacent pieces. */
static int span_add(struct http_span *span, const char *at, size_t length)
{
	const uint8_t *piece = (const uint8_t *)at;

	if (span->at == NULL) {
		span->at = piece;
		span->length = length;
		return 0;
	}
	if (span->at + span->length != piece)
		return -1;
	span->length += length;
	return 0;
}

static int on_target(library_parser *parser, const char *at, size_t length)
{
	struct parse *parse = parser->data;

	return span_add(&parse->head->target, at, length);
}

static int on_name(library_parser *parser, const char *at, size_t length)
{
	struct parse *parse = parser->data;
	struct http_head *head = parse->head;

	if (head->field_count == 0 || parse->in_value) {
		if (head->field_count == HTTP_FIELDS_MAX) {
			parse->many_fields = true;
			return -1;
		}
		head->field_count++;
		parse->in_value = false;
	}
	return span_add(&head->fields[head->field_count - 1].name, at, length);
}

static int on_value(library_parser *parser, const char *at, size_t length)
{
	struct parse *parse = parser->data;
	struct http_head *head = parse->head;

	if (head->field_count == 0)
		return -1;
	parse->in_value = true;
	return span_add(&head->fields[head->field_count - 1].value, at, length);
}

static int on_head_complete(library_parser *parser)
{
	struct parse *parse = parser->data;
	struct http_head *head = parse->head;

	head->is_get = parser->method == HTTP_GET;
	head->is_head = parser->method == HTTP_HEAD;
	head->major = parser->http_major;
	head->minor = parser->http_minor;
#ifdef HAVE_LLHTTP
	head->keep_alive = llhttp_should_keep_alive(parser) != 0;
#else
	head->keep_alive = http_should_keep_alive(parser) != 0;
#endif
	return 1; /* expect no body: a request that announces one is refused */
}

static int on_complete(library_parser *parser)
{
	struct parse *parse = parser->data;

	parse->complete = true;
	return 0;
}

static bool execute(struct parse *parse, const uint8_t *head, size_t length)
{
	library_parser parser;
	library_settings settings;

	memset(&settings, 0, sizeof(settings));
	settings.on_url = on_target;
	settings.on_header_field = on_name;
	settings.on_header_value = on_value;
	settings.on_headers_complete = on_head_complete;
	settings.on_message_complete = on_complete;
#ifdef HAVE_LLHTTP
	llhttp_errno_t result;

	llhttp_init(&parser, HTTP_REQUEST, &settings);
	parser.data = parse;
	result = llhttp_execute(&parser, (const char *)head, length);
	if (result == HPE_PAUSED_UPGRADE) /* "Upgrade:" is ignored, as RFC 9110 7.8 allows */
		return llhttp_get_error_pos(&parser) == (const char *)head + length;
	return result == HPE_OK;
#else
	http_parser_init(&parser, HTTP_REQUEST);
	parser.data = parse;
	return http_parser_execute(&parser, &settings, (const char *)head, length) == length &&
	       HTTP_PARSER_ERRNO(&parser) == HPE_OK;
#endif
}

enum http_library_result http_library_parse(const uint8_t *head, size_t length, struct http_head *out)
{
	struct parse parse = { .head = out };
	bool accepted;

	memset(out, 0, sizeof(*out));
	accepted = execute(&parse, head, length);
	if (parse.many_fields)
		return HTTP_LIBRARY_MANY_FIELDS;
	return accepted && parse.complete ? HTTP_LIBRARY_OK : HTTP_LIBRARY_BAD;
}
