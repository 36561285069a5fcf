/*
 * http.c - the strict request reader: scans lines, asks the parser library, checks fields, decodes the path.
 *
 * Everything here works on the reader's own copy of the bytes.
 */
#include "http.h"

#include "http_library.h"

#include <string.h>

static bool is_digit(uint8_t byte)
{
	return byte >= '0' && byte <= '9';
}

static bool is_letter(uint8_t byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

static bool is_one_of(uint8_t byte, const char *set)
{
	return byte != 0 && strchr(set, byte) != NULL;
}

static bool is_token(uint8_t byte)
{
	return is_digit(byte) || is_letter(byte) || is_one_of(byte, "!#$%&'*+-.^_`|~");
}

static bool equals(const uint8_t *bytes, size_t length, const char *text)
{
	return length == strlen(text) && memcmp(bytes, text, length) == 0;
}

static uint8_t lower(uint8_t byte)
{
	return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte - 'A' + 'a') : byte;
}

/* text in lower case */
static bool begins_ignoring_case(const uint8_t *bytes, size_t length, const char *text)
{
	size_t text_length = strlen(text);

	if (length < text_length)
		return false;
	for (size_t i = 0; i < text_length; i++)
		if (lower(bytes[i]) != (uint8_t)text[i])
			return false;
	return true;
}

static bool equals_ignoring_case(struct http_span span, const char *text)
{
	return span.length == strlen(text) && begins_ignoring_case(span.at, span.length, text);
}

/* method SP target SP HTTP/d.d: returns 200 or the status to refuse it with. */
static int check_request_line(const uint8_t *line, size_t length)
{
	size_t method = 0, target, version;

	while (method < length && is_token(line[method]))
		method++;
	if (method == 0 || method == length || line[method] != ' ')
		return 400;
	target = method + 1;
	while (target < length && line[target] > ' ' && line[target] < 0x7f)
		target++;
	if (target == method + 1 || target == length || line[target] != ' ')
		return 400;
	version = target + 1;
	if (length - version != 8 || memcmp(line + version, "HTTP/", 5) != 0 || !is_digit(line[version + 5]) ||
	    line[version + 6] != '.' || !is_digit(line[version + 7]))
		return 400;
	if (line[version + 5] != '1' || line[version + 7] > '1')
		return 505;
	if (!equals(line, method, "GET") && !equals(line, method, "HEAD"))
		return 405;
	return 200;
}

/* name ":" anything: white space before the colon, or at the beginning (a folded line), is in no token. */
static int check_field_line(const uint8_t *line, size_t length)
{
	size_t name = 0;

	while (name < length && is_token(line[name]))
		name++;
	return name > 0 && name < length && line[name] == ':' ? 200 : 400;
}

/*
 * Looks at the bytes not yet looked at.  Returns 0: more bytes are needed; 200: the head is complete and
 * reader->scanned is its length; otherwise the status to refuse it with.
 */
static int scan(struct http_reader *reader)
{
	int status;

	for (; reader->scanned < reader->length; reader->scanned++) {
		uint8_t byte = reader->head[reader->scanned];
		bool after_cr = reader->scanned > reader->line && reader->head[reader->scanned - 1] == '\r';
		size_t length = reader->scanned - reader->line; /* of the line before this byte */

		if (after_cr != (byte == '\n'))
			return 400;
		if (byte == '\n') {
			const uint8_t *line = reader->head + reader->line;

			length--;
			if (length == 0) {
				if (reader->lines == 0)
					return 400;
				reader->scanned++;
				return 200;
			}
			status = reader->lines == 0 ? check_request_line(line, length) : check_field_line(line, length);
			if (status != 200)
				return status;
			reader->lines++;
			reader->line = reader->scanned + 1;
		} else if ((byte < ' ' && byte != '\t' && byte != '\r') || byte == 0x7f) {
			return 400;
		}
	}
	return 0;
}

static bool is_host(const uint8_t *bytes, size_t length)
{
	if (length == 0 || length > 255 + 6)
		return false;
	for (size_t i = 0; i < length; i++)
		if (!is_digit(bytes[i]) && !is_letter(bytes[i]) && !is_one_of(bytes[i], "-._~:[]"))
			return false;
	return true;
}

static int check_fields(const struct http_head *head)
{
	size_t hosts = 0, lengths = 0;
	bool body = false;

	for (size_t i = 0; i < head->field_count; i++) {
		struct http_span name = head->fields[i].name, value = head->fields[i].value;

		while (value.length > 0 && is_one_of(value.at[value.length - 1], " \t"))
			value.length--;
		if (equals_ignoring_case(name, "host")) {
			hosts++;
			if (!is_host(value.at, value.length))
				return 400;
		} else if (equals_ignoring_case(name, "transfer-encoding")) {
			return 400;
		} else if (equals_ignoring_case(name, "content-length")) {
			lengths++;
			if (value.length == 0 || value.length > 19)
				return 400;
			for (size_t digit = 0; digit < value.length; digit++) {
				if (!is_digit(value.at[digit]))
					return 400;
				body |= value.at[digit] != '0';
			}
		}
	}
	if (lengths > 1 || hosts > 1 || (hosts == 0 && head->minor > 0))
		return 400;
	return body ? 413 : 200;
}

/* Removes "https://host" from a target, if it is there; false if what remains is no path. */
static bool skip_authority(struct http_span *target)
{
	size_t scheme = 0, host = 0;

	if (begins_ignoring_case(target->at, target->length, "https://"))
		scheme = 8;
	else if (begins_ignoring_case(target->at, target->length, "http://"))
		scheme = 7;
	if (scheme > 0) {
		while (scheme + host < target->length && target->at[scheme + host] != '/')
			host++;
		if (!is_host(target->at + scheme, host))
			return false;
		target->at += scheme + host;
		target->length -= scheme + host;
	}
	return target->length > 0 && target->at[0] == '/';
}

static int hex_value(uint8_t byte)
{
	if (is_digit(byte))
		return byte - '0';
	byte = lower(byte);
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

static bool check_segment(const char *segment, size_t length, bool last)
{
	if (length == 0)
		return last; /* a final slash names a directory */
	return !(length == 1 && segment[0] == '.') && !(length == 2 && segment[0] == '.' && segment[1] == '.');
}

/* Decodes the path of an origin-form target, the query left out.  Returns 200 or the status to refuse it with. */
static int decode_path(struct http_span target, struct http_request *request)
{
	size_t used = 0, segment = 0;

	for (size_t i = 1; i < target.length && target.at[i] != '?'; i++) {
		uint8_t byte = target.at[i];
		bool slash = byte == '/';

		if (byte == '%') {
			int high = -1, low = -1;

			if (target.length - i > 2) {
				high = hex_value(target.at[i + 1]);
				low = hex_value(target.at[i + 2]);
			}
			if (high < 0 || low < 0)
				return 400;
			byte = (uint8_t)(high * 16 + low);
			i += 2;
			/* An encoded slash would be one to the file system and none to a cache on the way. */
			if (byte < ' ' || byte == 0x7f || byte == '/' || byte == '\\')
				return 400;
		} else if (!slash && !is_digit(byte) && !is_letter(byte) && !is_one_of(byte, "-._~!$&'()*+,;=:@")) {
			return 400;
		}
		if (used == HTTP_PATH_MAX)
			return 414;
		if (slash) {
			if (!check_segment(request->path + segment, used - segment, false))
				return 400;
			segment = used + 1;
		}
		request->path[used++] = (char)byte;
	}
	if (!check_segment(request->path + segment, used - segment, true))
		return 400;
	request->path[used] = '\0';
	request->path_length = used;
	return 200;
}

static int understand(const struct http_reader *reader, struct http_request *request)
{
	struct http_head head;
	int status;

	switch (http_library_parse(reader->head, reader->scanned, &head)) {
	case HTTP_LIBRARY_OK:
		break;
	case HTTP_LIBRARY_MANY_FIELDS:
		return 431;
	case HTTP_LIBRARY_BAD:
		return 400;
	}
	/* The scan let only these through: if the library sees something else, the two disagree. */
	if (head.is_get == head.is_head || head.major != 1 || head.minor > 1)
		return 400;
	request->head = head.is_head;
	status = check_fields(&head);
	if (status != 200)
		return status;
	if (!skip_authority(&head.target))
		return 400;
	status = decode_path(head.target, request);
	if (status == 200)
		request->keep_alive = head.keep_alive;
	return status;
}

enum http_result http_read(struct http_reader *reader, const uint8_t *bytes, size_t length, size_t *used,
			   struct http_request *request)
{
	size_t room = HTTP_HEAD_MAX - reader->length;
	size_t before = reader->length;
	int status;

	if (length > room)
		length = room;
	if (length > 0)
		memcpy(reader->head + reader->length, bytes, length);
	reader->length += length;
	*used = length;
	status = scan(reader);
	if (status == 0) {
		if (reader->length < HTTP_HEAD_MAX)
			return HTTP_MORE;
		status = reader->lines == 0 ? 414 : 431;
	}
	memset(request, 0, sizeof(*request));
	if (status == 200) {
		*used = reader->scanned - before;
		status = understand(reader, request);
	}
	request->status = status;
	return HTTP_COMPLETE;
}

size_t http_first_line(const struct http_reader *reader, uint8_t *out, size_t room)
{
	size_t length = 0;

	while (length < reader->length && length < room && reader->head[length] != '\r' &&
	       reader->head[length] != '\n') {
		out[length] = reader->head[length];
		length++;
	}
	return length;
}
