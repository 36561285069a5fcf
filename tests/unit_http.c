/*
 * unit_http.c - the request reader takes what it should, refuses what could be read in two ways, and does not care
 * in which pieces the bytes arrive.
 */
#include "../demos/httpd/http.h"

#include "harness.h"

#include <stdlib.h>
#include <string.h>

#define HOST "Host: a\r\n"
#define GET(target) "GET " target " HTTP/1.1\r\n" HOST "\r\n"
#define FIELD(text) "GET / HTTP/1.1\r\n" HOST text "\r\n\r\n"

struct row {
	const char *bytes;
	size_t length;
	int status;
	const char *path; /* status 200 */
	bool keep_alive;
};

#define BYTES(text) (text), sizeof(text) - 1

static const struct row good[] = {
	{ BYTES(GET("/")), 200, "", true },
	{ BYTES(GET("/index.html")), 200, "index.html", true },
	{ BYTES(GET("/a/b/")), 200, "a/b/", true },
	{ BYTES(GET("/a%20b")), 200, "a b", true },
	{ BYTES(GET("/%41%5a%c3%A4")), 200, "AZ\xc3\xa4", true },
	{ BYTES(GET("/a?b=../../c%00&d=%zz")), 200, "a", true },
	{ BYTES(GET("/...")), 200, "...", true },
	{ BYTES(GET("/.a/..b/c..")), 200, ".a/..b/c..", true },
	{ BYTES(GET("https://example.org:8443/x/y")), 200, "x/y", true },
	{ BYTES(GET("HTTP://[::1]/x")), 200, "x", true },
	{ BYTES("HEAD /a HTTP/1.1\r\n" HOST "\r\n"), 200, "a", true },
	{ BYTES("GET / HTTP/1.0\r\n\r\n"), 200, "", false },
	{ BYTES("GET / HTTP/1.0\r\n" HOST "Connection: keep-alive\r\n\r\n"), 200, "", true },
	{ BYTES(FIELD("Connection: close")), 200, "", false },
	{ BYTES(FIELD("connection: CLOSE")), 200, "", false },
	{ BYTES(FIELD("Connection: keep-alive, close")), 200, "", false },
	{ BYTES(FIELD("Connection: Upgrade\r\nUpgrade: h2c")), 200, "", true },
	{ BYTES(FIELD("Content-Length: 0")), 200, "", true },
	{ BYTES(FIELD("X-Empty:")), 200, "", true },
	{ BYTES(FIELD("X-Tab:\ta\tb\t")), 200, "", true },
	{ BYTES(FIELD("X-Text: \xc3\xa4")), 200, "", true },
	{ BYTES(FIELD("!#$%&'*+-.^_`|~09Az: token")), 200, "", true },
	{ BYTES("GET / HTTP/1.1\r\nHost:\t[::1]:8443  \r\n\r\n"), 200, "", true },
};

static const struct row bad[] = {
	/* line ends and control bytes */
	{ BYTES("GET / HTTP/1.1\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1\r\nHost: a\n\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1\r\nHost: a\r\n\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1\r\nHost: a\r\rX: b\r\n\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1\rHost: a\r\n\r\n"), 400, NULL, false },
	{ BYTES("\r\n" GET("/")), 400, NULL, false },
	{ BYTES("\n" GET("/")), 400, NULL, false },
	{ BYTES(FIELD("X: a\0b")), 400, NULL, false },
	{ BYTES(FIELD("X: a\x01"
		      "b")),
	  400, NULL, false },
	{ BYTES(FIELD("X: a\x7f")), 400, NULL, false },
	{ BYTES("GET /\0 HTTP/1.1\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("\x16\x03\x01\x02\x00\x01"), 400, NULL, false },
	/* the request line */
	{ BYTES(" GET / HTTP/1.1\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET  / HTTP/1.1\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET /  HTTP/1.1\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET\t/ HTTP/1.1\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1 \r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET /a b HTTP/1.1\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET / http/1.1\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1x\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET /\r\n\r\n"), 400, NULL, false },
	{ BYTES("GET\r\n\r\n"), 400, NULL, false },
	{ BYTES("G(T / HTTP/1.1\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.2\r\n" HOST "\r\n"), 505, NULL, false },
	{ BYTES("GET / HTTP/0.9\r\n" HOST "\r\n"), 505, NULL, false },
	{ BYTES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505, NULL, false },
	/* methods */
	{ BYTES("POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\nx"), 405, NULL, false },
	{ BYTES("OPTIONS * HTTP/1.1\r\n" HOST "\r\n"), 405, NULL, false },
	{ BYTES("CONNECT a:1 HTTP/1.1\r\n" HOST "\r\n"), 405, NULL, false },
	{ BYTES("get / HTTP/1.1\r\n" HOST "\r\n"), 405, NULL, false },
	{ BYTES("GETT / HTTP/1.1\r\n" HOST "\r\n"), 405, NULL, false },
	/* fields */
	{ BYTES(FIELD("X : a")), 400, NULL, false },
	{ BYTES(FIELD("X\t: a")), 400, NULL, false },
	{ BYTES(FIELD(" X: a")), 400, NULL, false },
	{ BYTES(FIELD("X: a\r\n b")), 400, NULL, false },
	{ BYTES(FIELD("X: a\r\n\tb")), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1\r\n Host: a\r\n" HOST "\r\n"), 400, NULL, false },
	{ BYTES(FIELD(": a")), 400, NULL, false },
	{ BYTES(FIELD("X")), 400, NULL, false },
	{ BYTES(FIELD("X\xc3\xa4: a")), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1\r\n\r\n"), 400, NULL, false },
	{ BYTES(FIELD("Host: a")), 400, NULL, false },
	{ BYTES(FIELD("hOST: b")), 400, NULL, false },
	{ BYTES("GET / HTTP/1.0\r\n" HOST HOST "\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1\r\nHost:\r\n\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n"), 400, NULL, false },
	{ BYTES("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"), 400, NULL, false },
	/* bodies */
	{ BYTES(FIELD("Content-Length: 1")), 413, NULL, false },
	{ BYTES(FIELD("Content-Length: 9223372036854775807")), 413, NULL, false },
	{ BYTES(FIELD("Content-Length: 99999999999999999999")), 400, NULL, false },
	{ BYTES(FIELD("Content-Length: -1")), 400, NULL, false },
	{ BYTES(FIELD("Content-Length: +1")), 400, NULL, false },
	{ BYTES(FIELD("Content-Length: 0x0")), 400, NULL, false },
	{ BYTES(FIELD("Content-Length: 0, 0")), 400, NULL, false },
	{ BYTES(FIELD("Content-Length:")), 400, NULL, false },
	{ BYTES(FIELD("Content-Length: 0\r\nContent-Length: 0")), 400, NULL, false },
	{ BYTES(FIELD("Transfer-Encoding: chunked")), 400, NULL, false },
	{ BYTES(FIELD("transfer-encoding: identity")), 400, NULL, false },
	{ BYTES(FIELD("Transfer-Encoding: chunked\r\nContent-Length: 0")), 400, NULL, false },
	/* paths */
	{ BYTES(GET("a")), 400, NULL, false },
	{ BYTES(GET("*")), 400, NULL, false },
	{ BYTES(GET("//a")), 400, NULL, false },
	{ BYTES(GET("/a//b")), 400, NULL, false },
	{ BYTES(GET("/..")), 400, NULL, false },
	{ BYTES(GET("/../etc/passwd")), 400, NULL, false },
	{ BYTES(GET("/a/../b")), 400, NULL, false },
	{ BYTES(GET("/a/./b")), 400, NULL, false },
	{ BYTES(GET("/%2e%2e/etc/passwd")), 400, NULL, false },
	{ BYTES(GET("/.%2E")), 400, NULL, false },
	{ BYTES(GET("/..%2fetc")), 400, NULL, false },
	{ BYTES(GET("/a%00.html")), 400, NULL, false },
	{ BYTES(GET("/a%0d%0aX:b")), 400, NULL, false },
	{ BYTES(GET("/a%5c..%5cb")), 400, NULL, false },
	{ BYTES(GET("/a\\b")), 400, NULL, false },
	{ BYTES(GET("/a%2")), 400, NULL, false },
	{ BYTES(GET("/a%")), 400, NULL, false },
	{ BYTES(GET("/a%g0")), 400, NULL, false },
	{ BYTES(GET("/a#b")), 400, NULL, false },
	{ BYTES(GET("/a<b>")), 400, NULL, false },
	{ BYTES(GET("/\xc3\xa4")), 400, NULL, false },
	{ BYTES(GET("https:///a")), 400, NULL, false },
	{ BYTES(GET("https://a")), 400, NULL, false },
	{ BYTES(GET("https://u@a/")), 400, NULL, false },
	{ BYTES(GET("ftp://a/")), 400, NULL, false },
};

/* Feeds the bytes in pieces; returns the result of the last piece that was needed, *used the sum. */
static enum http_result feed(const uint8_t *bytes, size_t length, size_t piece, size_t *used,
			     struct http_request *request)
{
	struct http_reader *reader = calloc(1, sizeof(*reader));
	enum http_result result = HTTP_MORE;

	if (reader == NULL)
		abort();
	*used = 0;
	while (result == HTTP_MORE && *used < length) {
		size_t left = length - *used, taken = 0;
		/* A copy of exactly this size: a read behind it is seen by a sanitizer. */
		size_t size = piece < left ? piece : left;
		uint8_t *copy = malloc(size);

		if (copy == NULL)
			abort();
		memcpy(copy, bytes + *used, size);
		result = http_read(reader, copy, size, &taken, request);
		free(copy);
		*used += taken;
		if (taken > size || (result == HTTP_MORE && taken != size))
			break;
	}
	free(reader);
	return result;
}

static void check(const struct row *row, size_t piece)
{
	struct http_request request;
	size_t used;

	CU_ASSERT_EQUAL(feed((const uint8_t *)row->bytes, row->length, piece, &used, &request), HTTP_COMPLETE);
	if (request.status != row->status)
		harness_note("status %d, not %d: %s", request.status, row->status, row->bytes);
	CU_ASSERT_EQUAL(request.status, row->status);
	CU_ASSERT_EQUAL(request.keep_alive, row->keep_alive);
	if (row->status != 200 || request.status != 200)
		return;
	CU_ASSERT_EQUAL(used, row->length);
	CU_ASSERT_EQUAL(request.path_length, strlen(row->path));
	CU_ASSERT_STRING_EQUAL(request.path, row->path);
	CU_ASSERT_EQUAL(request.head, row->bytes[0] == 'H');
}

static void good_requests(void)
{
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		for (size_t piece = 1; piece <= good[i].length; piece++)
			check(&good[i], piece);
}

static void bad_requests(void)
{
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		for (size_t piece = 1; piece <= bad[i].length; piece++)
			check(&bad[i], piece);
}

static void beginnings_wait(void)
{
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		for (size_t length = 1; length < good[i].length; length++) {
			struct http_request request;
			size_t used;

			CU_ASSERT_EQUAL(feed((const uint8_t *)good[i].bytes, length, length, &used, &request),
					HTTP_MORE);
			CU_ASSERT_EQUAL(used, length);
		}
	}
}

static void second_request_is_left(void)
{
	static const char two[] = GET("/first") GET("/second");
	struct http_request request;
	size_t used, again;

	CU_ASSERT_EQUAL(feed((const uint8_t *)two, sizeof(two) - 1, sizeof(two), &used, &request), HTTP_COMPLETE);
	CU_ASSERT_STRING_EQUAL(request.path, "first");
	CU_ASSERT_EQUAL(used, sizeof(GET("/first")) - 1);
	CU_ASSERT_EQUAL(feed((const uint8_t *)two + used, sizeof(two) - 1 - used, 7, &again, &request), HTTP_COMPLETE);
	CU_ASSERT_STRING_EQUAL(request.path, "second");
	CU_ASSERT_EQUAL(used + again, sizeof(two) - 1);
}

/* A request whose head is exactly length bytes: before, then the filling byte, then after. */
static uint8_t *fill(const char *before, uint8_t filling, const char *after, size_t length)
{
	uint8_t *bytes = malloc(length);

	if (bytes == NULL)
		abort();
	memset(bytes, filling, length);
	memcpy(bytes, before, strlen(before));
	memcpy(bytes + length - strlen(after), after, strlen(after));
	return bytes;
}

static void check_size(const char *before, const char *after, size_t length, int status)
{
	uint8_t *bytes = fill(before, 'a', after, length);
	struct http_request request;
	size_t used;

	for (size_t piece = 1; piece <= length; piece = piece * 5 + 1) {
		CU_ASSERT_EQUAL(feed(bytes, length, piece, &used, &request), HTTP_COMPLETE);
		CU_ASSERT_EQUAL(request.status, status);
	}
	free(bytes);
}

static void sizes_are_bounded(void)
{
	check_size("GET / HTTP/1.1\r\n" HOST "X: ", "\r\n\r\n", HTTP_HEAD_MAX, 200);
	check_size("GET / HTTP/1.1\r\n" HOST "X: ", "\r\n\r\n", HTTP_HEAD_MAX + 1, 431);
	check_size("GET / HTTP/1.1\r\n" HOST "X: ", "\r\n\r\n", 3 * HTTP_HEAD_MAX, 431);
	check_size("GET /", " HTTP/1.1\r\n" HOST "\r\n", 2 * HTTP_HEAD_MAX, 414);
	check_size("GET /", " HTTP/1.1\r\n" HOST "\r\n", sizeof(GET("/")) - 1 + HTTP_PATH_MAX, 200);
	check_size("GET /", " HTTP/1.1\r\n" HOST "\r\n", sizeof(GET("/")) - 1 + HTTP_PATH_MAX + 1, 414);
}

static void many_fields(unsigned count, int status)
{
	char bytes[8192] = "GET / HTTP/1.1\r\n" HOST;
	struct http_request request;
	size_t used;

	for (unsigned i = 1; i < count; i++)
		strcat(bytes, "X: a\r\n");
	strcat(bytes, "\r\n");
	CU_ASSERT_EQUAL(feed((const uint8_t *)bytes, strlen(bytes), 1000, &used, &request), HTTP_COMPLETE);
	CU_ASSERT_EQUAL(request.status, status);
}

static void fields_are_bounded(void)
{
	many_fields(100, 200);
	many_fields(101, 431);
}

/* A change of one byte may give another request, but never a path that leaves the directory. */
static void changed_bytes_stay_inside(void)
{
	static const char base[] = GET("/a/b/../%2e%2e/c%41?x");

	for (size_t at = 0; at < sizeof(base) - 1; at++) {
		for (unsigned byte = 0; byte < 256; byte++) {
			struct http_request request;
			char bytes[sizeof(base)];
			size_t used;

			memcpy(bytes, base, sizeof(base));
			bytes[at] = (char)byte;
			if (feed((const uint8_t *)bytes, sizeof(base) - 1, sizeof(base), &used, &request) !=
				    HTTP_COMPLETE ||
			    request.status != 200)
				continue;
			CU_ASSERT_NOT_EQUAL(request.path[0], '/');
			CU_ASSERT_EQUAL(strlen(request.path), request.path_length);
			CU_ASSERT_PTR_NULL(strstr(request.path, "/../"));
			CU_ASSERT_PTR_NULL(strstr(request.path, "//"));
		}
	}
}

static void first_line_is_cut(void)
{
	static const char bytes[] = GET("/abc");
	struct http_reader *reader = calloc(1, sizeof(*reader));
	struct http_request request;
	uint8_t line[64];
	size_t used;

	CU_ASSERT_PTR_NOT_NULL_FATAL(reader);
	(void)http_read(reader, (const uint8_t *)bytes, sizeof(bytes) - 1, &used, &request);
	CU_ASSERT_EQUAL(http_first_line(reader, line, sizeof(line)), strlen("GET /abc HTTP/1.1"));
	CU_ASSERT_EQUAL(http_first_line(reader, line, 5), 5);
	free(reader);
}

static const struct harness_test tests[] = {
	{ "requests of every accepted form are understood, whole or in pieces of any size", good_requests, 0, 0 },
	{ "what is no strict request is refused with its status, whole or in pieces of any size", bad_requests, 0, 0 },
	{ "the beginning of a request waits for the rest", beginnings_wait, 0, 0 },
	{ "bytes behind a request are not taken", second_request_is_left, 0, 0 },
	{ "a head of 16 KiB is accepted, a longer one is not", sizes_are_bounded, 0, 0 },
	{ "100 fields are accepted, more are not", fields_are_bounded, 0, 0 },
	{ "no change of one byte gives a path that leads outside", changed_bytes_stay_inside, 0, 0 },
	{ "the line for the log ends where the request line or the room ends", first_line_is_cut, 0, 0 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
