/*
 * request.c - the body of the request compartment.
 *
 * It can read the decrypted bytes of its request (the plain region) and files beneath the document root, and
 * can write the reply region.  It holds no session key, no socket, and no request of another connection.
 */
#include "request.h"

#ifdef DEMO_VULNERABLE
#include "attack.h"
#endif
#include "documents.h"
#include "http.h"
#include "shared.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum phase {
	PHASE_READ, /* zero: how a request begins */
	PHASE_ANSWER,
	PHASE_DONE,
};

struct request_state {
	enum phase phase;
	struct http_reader reader;
	struct http_request request;
	size_t consumed;   /* bytes of plain taken */
	uint64_t produced; /* bytes of reply written */
	uint64_t taken;    /* of them taken by TLS, as far as seen */
	char head[1024];   /* the answer's head, and its body if it is an error */
	size_t head_length, head_sent;
	bool has_file;
	int file;
	const struct document *document; /* the file, if it is kept in memory */
	const char *type;
	uint64_t body_length; /* as announced */
	time_t modified;
	uint64_t file_left; /* bytes of the file to send */
};

static int docroot = -1;

void request_set_docroot(int dirfd)
{
	docroot = dirfd;
}

/* In an sthread the policy's path grant resolves the name, without isolation openat2 does it here. */
static int open_beneath(const char *path)
{
	int flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
	struct open_how how = {
		.flags = (unsigned)flags,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};

	if (compartments_isolation() == ISOLATION_STHREAD)
		return openat(AT_FDCWD, path, flags);
	return (int)syscall(SYS_openat2, docroot, path, &how, sizeof(how));
}

static int status_of_errno(int error)
{
	switch (error) {
	case ENOENT:
	case ENOTDIR:
	case ENAMETOOLONG:
	case ELOOP:
	case EXDEV:
	case EINVAL:
	case ENXIO:
	case EACCES: /* not readable, or beyond the grant: what cannot be had is not there */
		return 404;
	default:
		return 500;
	}
}

static const char *content_type(const char *path)
{
	static const struct {
		const char *suffix, *type;
	} types[] = {
		{ ".html", "text/html; charset=utf-8" },
		{ ".htm", "text/html; charset=utf-8" },
		{ ".css", "text/css; charset=utf-8" },
		{ ".js", "text/javascript; charset=utf-8" },
		{ ".txt", "text/plain; charset=utf-8" },
		{ ".json", "application/json" },
		{ ".png", "image/png" },
		{ ".jpg", "image/jpeg" },
		{ ".jpeg", "image/jpeg" },
		{ ".gif", "image/gif" },
		{ ".svg", "image/svg+xml" },
		{ ".ico", "image/x-icon" },
		{ ".webp", "image/webp" },
		{ ".pdf", "application/pdf" },
		{ ".wasm", "application/wasm" },
		{ ".woff2", "font/woff2" },
	};
	const char *slash = strrchr(path, '/');
	const char *suffix = strrchr(slash == NULL ? path : slash, '.');

	if (suffix == NULL)
		return "application/octet-stream";
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (strcmp(suffix, types[i].suffix) == 0)
			return types[i].type;
	return "application/octet-stream";
}

/* Finds a regular file, kept or opened; a directory stands for the index.html in it.  Returns 200 or the status to refuse
 * with. */
static int open_file(struct request_state *state)
{
	char path[HTTP_PATH_MAX + sizeof("/index.html")];
	const struct http_request *request = &state->request;
	struct stat status;
	size_t length = request->path_length;
	int error;

	memcpy(path, request->path, length + 1);
	for (int attempt = 0; attempt < 2; attempt++) {
		if (length == 0 || path[length - 1] == '/') {
			memcpy(path + length, "index.html", sizeof("index.html"));
			attempt = 1;
		}
		state->type = content_type(path);
		state->document = documents_find(path);
		if (state->document != NULL) {
			state->body_length = state->document->size;
			state->modified = state->document->modified;
			return 200;
		}
		state->file = open_beneath(path);
		if (state->file == -1)
			return status_of_errno(errno);
		if (fstat(state->file, &status) != 0) {
			error = errno;
			(void)close(state->file);
			return status_of_errno(error);
		}
		if (S_ISREG(status.st_mode)) {
			state->has_file = true;
			state->body_length = (uint64_t)status.st_size;
			state->modified = status.st_mtime;
			return 200;
		}
		(void)close(state->file);
		if (!S_ISDIR(status.st_mode))
			break;
		path[length++] = '/';
	}
	return 404;
}

static const char *reason(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 413:
		return "Content Too Large";
	case 414:
		return "URI Too Long";
	case 431:
		return "Request Header Fields Too Large";
	case 500:
		return "Internal Server Error";
	case 505:
		return "HTTP Version Not Supported";
	default:
		return "Bad Request";
	}
}

/* As RFC 9110 5.6.7 wants it; strftime would ask the locale. */
static void format_date(time_t when, char *out, size_t room)
{
	static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	struct tm tm;

	if (gmtime_r(&when, &tm) == NULL)
		memset(&tm, 0, sizeof(tm));
	(void)snprintf(out, room, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", days + 3 * tm.tm_wday, tm.tm_mday,
		       months + 3 * tm.tm_mon, tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

static void compose_head(struct request_state *state)
{
	const struct http_request *request = &state->request;
	char date[40], modified[40], extra[80] = "", body[64] = "";
	const char *type = "text/plain; charset=utf-8";
	int length;

	format_date(time(NULL), date, sizeof(date));
	if (request->status == 200) {
		format_date(state->modified, modified, sizeof(modified));
		(void)snprintf(extra, sizeof(extra), "Last-Modified: %s\r\n", modified);
		type = state->type;
		state->file_left = request->head ? 0 : state->body_length;
	} else {
		length = snprintf(body, sizeof(body), "%d %s\n", request->status, reason(request->status));
		state->body_length = (uint64_t)length;
		if (request->status == 405)
			(void)snprintf(extra, sizeof(extra), "Allow: GET, HEAD\r\n");
	}
	length = snprintf(state->head, sizeof(state->head),
			  "HTTP/1.1 %d %s\r\nServer: sthread-httpd\r\nDate: %s\r\nContent-Type: %s\r\n"
			  "Content-Length: %llu\r\n%sX-Content-Type-Options: nosniff\r\nConnection: %s\r\n\r\n%s",
			  request->status, reason(request->status), date, type, (unsigned long long)state->body_length,
			  extra, request->keep_alive ? "keep-alive" : "close", request->head ? "" : body);
	state->head_length = (size_t)length; /* every part is bounded, the sum is below sizeof(state->head) */
}

static void answer(struct request_state *state, const struct reply_region *reply)
{
#ifdef DEMO_VULNERABLE
	state->head_length = attack_request(&state->request, reply, state->head, sizeof(state->head));
	if (state->head_length > 0)
		return;
#endif
	(void)reply;
	if (state->request.status == 200)
		state->request.status = open_file(state);
	compose_head(state);
}

/* Takes what the TLS compartment has appended; true when the request is complete. */
static bool read_request(struct request_state *state, const struct plain_region *plain)
{
	uint32_t length = word_load(&plain->length);
	enum http_result result;
	size_t used;

	/* Only a TLS compartment that has been taken over does this; the request is its own. */
	if (length > PLAIN_SIZE || length < state->consumed)
		return false;
	result = http_read(&state->reader, plain->data + state->consumed, length - state->consumed, &used,
			   &state->request);
	state->consumed += used;
	return result == HTTP_COMPLETE;
}

/* Where the next bytes of the reply go: returns the room there, in one piece. */
static size_t reply_room(struct request_state *state, struct reply_region *reply, uint8_t **at)
{
	uint64_t taken = position_load(&reply->plain->reply_consumed);
	size_t fill;

	if (taken < state->taken || !ring_fill(state->produced, taken, REPLY_SIZE, &fill))
		return 0;
	state->taken = taken;
	*at = reply->data + ring_offset(state->produced, REPLY_SIZE);
	return ring_piece(state->produced, REPLY_SIZE - fill, REPLY_SIZE);
}

/* Writes one piece of the answer; false when nothing could be done. */
static bool send_piece(struct request_state *state, struct reply_region *reply)
{
	size_t head_left = state->head_length - state->head_sent;
	uint8_t *at;
	size_t room = reply_room(state, reply, &at);
	ssize_t got;

	if (room == 0)
		return false;
	if (head_left > 0) {
		got = (ssize_t)(head_left < room ? head_left : room);
		memcpy(at, state->head + state->head_sent, (size_t)got);
		state->head_sent += (size_t)got;
	} else if (state->file_left > 0 && state->document != NULL) {
		got = (ssize_t)(state->file_left < room ? state->file_left : room);
		memcpy(at, state->document->bytes + (state->document->size - state->file_left), (size_t)got);
		state->file_left -= (uint64_t)got;
	} else if (state->file_left > 0) {
		got = read(state->file, at, state->file_left < room ? (size_t)state->file_left : room);
		if (got <= 0) { /* shorter than announced: the peer must see that the answer was cut */
			state->file_left = 0;
			state->request.keep_alive = false;
			return true;
		}
		state->file_left -= (uint64_t)got;
	} else {
		return false;
	}
	state->produced += (uint64_t)got;
	position_store(&reply->produced, state->produced);
	return true;
}

static void write_log(const struct request_state *state, const struct reply_region *reply)
{
	uint8_t line[512], target[256];
	size_t first = http_first_line(&state->reader, target, sizeof(target)), none = 0;
	int length;

	if (reply->log_gate < 0)
		return;
	length = snprintf((char *)line, sizeof(line),
			  "connection %llu: %d, %llu bytes: ", (unsigned long long)reply->connection,
			  state->request.status, (unsigned long long)state->body_length);
	memcpy(line + length, target, first);
	/* A log that fails must not fail the request: the gate's own end is reported by the main loop. */
	(void)!gate_call(reply->log_gate, line, (size_t)length + first, NULL, &none);
}

static enum step request_step(void *private_memory, void *shared)
{
	struct request_state *state = private_memory;
	struct reply_region *reply = shared;

	if (state->phase == PHASE_READ) {
		if (!read_request(state, reply->plain))
			return STEP_PARK;
		answer(state, reply);
		state->phase = PHASE_ANSWER;
	}
	while (send_piece(state, reply))
		;
	if (state->head_sent < state->head_length || state->file_left > 0)
		return STEP_PARK;
	write_log(state, reply);
	word_store(&reply->consumed, (uint32_t)state->consumed);
	word_store(&reply->done, state->request.keep_alive ? DONE_KEEP_ALIVE : DONE_CLOSE);
	state->phase = PHASE_DONE;
	return STEP_DONE;
}

static void request_finish(void *private_memory)
{
	struct request_state *state = private_memory;

	if (state->has_file)
		(void)close(state->file);
	if (state->document != NULL)
		documents_release(state->document);
}

static void *request_body(void *shared)
{
	return compartment_body(&request_kind, shared);
}

static void *request_prepare_body(void *given)
{
	return compartment_prepare(&request_kind, given);
}

static void request_take(const void *list)
{
	documents_load(list, open_beneath);
}

const struct compartment_kind request_kind = {
	.name = "request sthread",
	.per_request = true,
	.body = request_body,
	.prepare_body = request_prepare_body,
	.take = request_take,
	.private_size = sizeof(struct request_state),
	.step = request_step,
	.finish = request_finish,
};
