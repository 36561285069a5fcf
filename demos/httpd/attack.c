/*
 * attack.c - see attack.h.  Nothing here is in the server that is installed.
 */
#include "attack.h"

#include "compartment.h"
#include "http_library.h"
#include "sign.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/pem.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	RANGES_MAX = 512,
	NEEDLES_MAX = 16,
	NEEDLE_MAX = 256,
	ARENA_MISSES_MAX = 4096,
};
#define MIB ((uintptr_t)1 << 20)
#define GIB ((uintptr_t)1 << 30)
/* Where the library keeps what is private, as anybody can read in its sources. */
#define WINDOW_STACK ((uintptr_t)0x50000000)
#define WINDOW_STACK_SIZE (8 * MIB)
#define WINDOW_ARENA ((uintptr_t)0x80000000)

struct attacker {
	int gate;         /* one that it may call */
	const void *near; /* some memory of its connection */
	char *out;
	size_t room, used;
};

static struct range {
	uintptr_t start, end;
} ranges[RANGES_MAX];
static size_t range_count;
static uintptr_t heap_end;

static struct needle {
	char name[16];
	uint8_t hidden[NEEDLE_MAX];
	size_t length;
	unsigned found;
} needles[NEEDLES_MAX];
static size_t needle_count;

static char early_text[SIGN_KEY_FILE_MAX];
static uint8_t early_der[NEEDLE_MAX];
static EVP_PKEY *early_key;

static void say(struct attacker *attacker, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct attacker *attacker, const char *format, ...)
{
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(attacker->out + attacker->used, attacker->room - attacker->used, format, arguments);
	va_end(arguments);
	if (length > 0 && (size_t)length < attacker->room - attacker->used)
		attacker->used += (size_t)length;
}

/* ---- before the snapshot ---- */

static void read_ranges(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	char line[512], rights[8];

	if (file == NULL)
		return;
	range_count = 0;
	while (fgets(line, sizeof(line), file) != NULL && range_count < RANGES_MAX) {
		struct range *range = &ranges[range_count];

		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s", &range->start, &range->end, rights) != 3)
			continue;
		if (strstr(line, "[heap]") != NULL)
			heap_end = range->end;
		range_count += rights[0] == 'r' && range->start < (uintptr_t)1 << 47;
	}
	(void)fclose(file);
}

static void read_needles(const char *path)
{
	FILE *file = fopen(path, "re");
	char hex[2 * NEEDLE_MAX + 1];

	if (file == NULL)
		abort();
	for (; needle_count < NEEDLES_MAX; needle_count++) {
		struct needle *needle = &needles[needle_count];

		if (fscanf(file, "%15s %512s", needle->name, hex) != 2)
			break;
		for (needle->length = 0; hex[2 * needle->length] != '\0'; needle->length++)
			if (sscanf(hex + 2 * needle->length, "%2hhx", &needle->hidden[needle->length]) != 1)
				abort();
	}
	(void)fclose(file);
}

static void read_early(const char *path)
{
	FILE *file = fopen(path, "re");
	uint8_t *der = early_der;

	if (file == NULL || fread(early_text, 1, sizeof(early_text), file) == 0)
		abort();
	rewind(file);
	early_key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
	(void)fclose(file);
	if (early_key == NULL || i2d_PrivateKey(early_key, NULL) > (int)sizeof(early_der) ||
	    i2d_PrivateKey(early_key, &der) <= 0)
		abort();
}

void attack_prepare(void)
{
	const char *file = getenv("ATTACK_NEEDLES"), *early = getenv("ATTACK_EARLY_KEY");

	if (file != NULL)
		read_needles(file);
	if (early != NULL)
		read_early(early);
	read_ranges();
}

static void run_in_host_mode(const char *what)
{
	static const char request[] = "GET / HTTP/1.0\r\n\r\n";
	struct http_head head;

	if (strcmp(what, "ssl") == 0)
		(void)SSL_alert_type_string_long(0);
	else if (strcmp(what, "crypto") == 0)
		(void)OpenSSL_version_num();
	else
		(void)http_library_parse((const uint8_t *)request, sizeof(request) - 1, &head);
}

void attack_announce(const void *key, int sign_gate)
{
	const char *what = getenv("ATTACK_HOST");

	if (what != NULL)
		run_in_host_mode(what);
	(void)printf("vulnerable on purpose: key at %" PRIxPTR ", sign gate %d\n", (uintptr_t)key, sign_gate);
}

/* ---- search ---- */

static bool is_readable(const struct attacker *attacker, uintptr_t page)
{
	static int ends[2] = { -1, -1 };
	char byte;

	if (compartments_isolation() == ISOLATION_STHREAD) {
		/* The supervisor looks at the answer's size first, then finds the message too long. */
		return cgate_call_buf(attacker->gate, NULL, CGATE_BUFFER_MAX + 1, NULL, (size_t *)page) == -1 &&
		       errno != EFAULT;
	}
	if (ends[0] == -1 && pipe2(ends, O_CLOEXEC) != 0)
		abort();
	return write(ends[1], (const void *)page, 1) == 1 && read(ends[0], &byte, 1) == 1;
}

/* Keeps nothing of what it compares with in memory. */
static void search_piece(const uint8_t *start, const uint8_t *end)
{
	for (size_t i = 0; i < needle_count; i++) {
		struct needle *needle = &needles[i];
		const uint8_t *at = start;

		while (at + needle->length <= end &&
		       (at = memchr(at, needle->hidden[0] ^ 0x80, (size_t)(end - at) - needle->length + 1)) != NULL) {
			size_t same = 0;

			while (same < needle->length && (at[same] ^ 0x80) == needle->hidden[same])
				same++;
			needle->found += same == needle->length;
			at++;
		}
	}
}

/* Searches what can be read of a range; gives up after so many pages in a row that cannot.  Returns the readable ones. */
static size_t search_range(const struct attacker *attacker, uintptr_t start, uintptr_t end, size_t misses_max)
{
	uintptr_t from = 0;
	size_t pages = 0, misses = 0;

	for (uintptr_t page = start; page < end && misses < misses_max; page += PAGE) {
		if (is_readable(attacker, page)) {
			if (from == 0)
				from = page;
			pages++;
			misses = 0;
			continue;
		}
		misses++;
		if (from != 0)
			search_piece((const uint8_t *)from, (const uint8_t *)page);
		from = 0;
	}
	if (from != 0)
		search_piece((const uint8_t *)from, (const uint8_t *)end);
	return pages;
}

static void scan(struct attacker *attacker)
{
	uintptr_t window = ((uintptr_t)__builtin_frame_address(0) - WINDOW_STACK) & ~(GIB - 1);
	uintptr_t near = (uintptr_t)attacker->near & ~(MIB - 1);
	size_t pages = 0, private_pages = 0, tag_pages = 0;

	for (size_t i = 0; i < needle_count; i++)
		needles[i].found = 0;
	if (compartments_isolation() == ISOLATION_NONE)
		read_ranges();
	for (size_t i = 0; i < range_count; i++)
		pages += search_range(attacker, ranges[i].start, ranges[i].end, SIZE_MAX);
	if (compartments_isolation() == ISOLATION_STHREAD) {
		private_pages =
			search_range(attacker, window, window + 2 * MIB, SIZE_MAX) +
			search_range(attacker, window + GIB, window + GIB + 2 * MIB, SIZE_MAX) +
			search_range(attacker, window + WINDOW_STACK, window + WINDOW_STACK + WINDOW_STACK_SIZE,
				     SIZE_MAX) +
			search_range(attacker, window + WINDOW_ARENA, window + 2 * WINDOW_ARENA, ARENA_MISSES_MAX) +
			search_range(attacker, heap_end, heap_end + 64 * MIB, ARENA_MISSES_MAX);
		tag_pages = search_range(attacker, near - 8 * MIB, near + 8 * MIB, SIZE_MAX);
	}
	say(attacker, "pages %zu private %zu tagged %zu", pages, private_pages, tag_pages);
	for (size_t i = 0; i < needle_count; i++)
		say(attacker, " %s %u", needles[i].name, needles[i].found);
	say(attacker, "\n");
}

/* ---- other attacks ---- */

static void read_memory(struct attacker *attacker, const char *where)
{
	const volatile uint8_t *at = (const volatile uint8_t *)(uintptr_t)strtoull(where, NULL, 16);

	for (size_t i = 0; i < 31; i++)
		say(attacker, "%c", at[i] >= ' ' && at[i] < 0x7f ? at[i] : '.');
	say(attacker, "\n");
}

static void take_memory(struct attacker *attacker)
{
	size_t got = 0;
	void *block;

	while (got < 4096 && (block = malloc(MIB)) != NULL) {
		memset(block, 1, MIB);
		got++;
	}
	say(attacker, "%zu MiB\n", got);
}

static void try_call(struct attacker *attacker, const char *name, long result)
{
	say(attacker, "%s %d ", name, result == -1 ? errno : 0);
}

static void leave(struct attacker *attacker)
{
	try_call(attacker, "file", open("/etc/passwd", O_RDONLY | O_CLOEXEC));
	try_call(attacker, "parent", openat(AT_FDCWD, "../secret.txt", O_RDONLY | O_CLOEXEC));
	try_call(attacker, "link", openat(AT_FDCWD, "link.txt", O_RDONLY | O_CLOEXEC));
	try_call(attacker, "memory", openat(AT_FDCWD, "/proc/self/mem", O_RDONLY | O_CLOEXEC));
	try_call(attacker, "socket", syscall(SYS_socket, 2, 1, 0));
	try_call(attacker, "descriptor", syscall(SYS_write, 3, "", 0));
	say(attacker, "\n");
}

static void call_gate(struct attacker *attacker, const char *number)
{
	size_t none = 0;
	int result = gate_call(atoi(number), "C", 1, NULL, &none);

	say(attacker, "gate %d\n", result == 0 ? 0 : errno);
}

static void attack(struct attacker *attacker, const char *name)
{
	volatile uintptr_t nowhere = 0x10;

	if (strcmp(name, "crash") == 0)
		*(volatile int *)nowhere = 1;
	else if (strcmp(name, "spin") == 0)
		for (volatile uint64_t i = 0;; i = i + 1)
			;
	else if (strcmp(name, "exit") == 0)
		_exit(7);
	else if (strcmp(name, "memory") == 0)
		take_memory(attacker);
	else if (strncmp(name, "read-", 5) == 0)
		read_memory(attacker, name + 5);
	else if (strcmp(name, "leave") == 0)
		leave(attacker);
	else if (strncmp(name, "gate-", 5) == 0)
		call_gate(attacker, name + 5);
	else if (strcmp(name, "scan") == 0)
		scan(attacker);
	else
		say(attacker, "unknown attack\n");
}

size_t attack_request(struct http_request *request, const struct reply_region *reply, char *out, size_t room)
{
	char result[512];
	struct attacker attacker = { .gate = reply->log_gate, .near = reply, .out = result, .room = sizeof(result) };
	int length;

	if (request->status != 200 || strncmp(request->path, "attack/", 7) != 0)
		return 0;
	attack(&attacker, request->path + 7);
	request->keep_alive = false;
	length = snprintf(out, room, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%.*s",
			  attacker.used, (int)attacker.used, result);
	return (size_t)length;
}

static const char *wish(SSL *ssl, const char *prefix)
{
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	size_t length = strlen(prefix);

	return name != NULL && strncmp(name, prefix, length) == 0 ? name + length : NULL;
}

bool attack_tls(SSL *ssl, const struct wire_region *wire)
{
	const char *name = wish(ssl, "attack-");
	char result[512];
	struct attacker attacker = { .gate = wire->sign_gate, .near = wire, .out = result, .room = sizeof(result) };

	if (name == NULL)
		return false;
	attack(&attacker, name);
	(void)SSL_write(ssl, result, (int)attacker.used);
	(void)SSL_shutdown(ssl);
	return true;
}

/* ---- wrong questions ---- */

/* Asks; returns 0 if there was a signature, else why not.  255: refused, and yet something was written. */
static int ask(const struct wire_region *wire, const uint8_t *question, size_t length)
{
	uint8_t signature[SIGN_SIGNATURE_MAX] = { 0 }, nothing[SIGN_SIGNATURE_MAX] = { 0 };
	size_t room = sizeof(signature);
	int error = gate_call(wire->sign_gate, question, length, signature, &room) == 0 ? 0 : errno;
	bool written = memcmp(signature, nothing, sizeof(signature)) != 0;

	if (error == 0)
		return written && signature[0] == 0x30 ? 0 : 254;
	return written ? 255 : error;
}

void attack_sign(SSL *ssl, const struct wire_region *wire, const uint8_t *question, size_t length)
{
	static uint8_t changed[CGATE_BUFFER_MAX];
	const char *name = wish(ssl, "sign-");
	uint8_t *content = changed + SIGN_HEADER_SIZE;
	size_t claimed, rest;

	if (name == NULL)
		return;
	memcpy(changed, question, length);
	claimed = (size_t)(changed[1 + TICKET_SIZE] << 8 | changed[2 + TICKET_SIZE]);
	rest = length - SIGN_HEADER_SIZE - claimed;
	if (strcmp(name, "bytes") == 0) { /* any bytes, with true messages and without */
		memset(content, 'x', claimed);
	} else if (strcmp(name, "bare") == 0) {
		length = SIGN_HEADER_SIZE + claimed;
	} else if (strcmp(name, "hash") == 0) { /* the hash alone, as ECDSA would take it */
		changed[2 + TICKET_SIZE] = 32;
		memmove(content, content + claimed - 32, 32 + rest);
		length = SIGN_HEADER_SIZE + 32 + rest;
	} else if (strcmp(name, "client") == 0) { /* the same length as "server" */
		if (memcmp(content + 64, "TLS 1.3, server", 15) != 0)
			_exit(253);
		memcpy(content + 64, "TLS 1.3, client", 15);
	} else if (strcmp(name, "other") == 0) { /* the transcript of a handshake that is not this one */
		content[claimed - 1] ^= 1;
	} else if (strcmp(name, "ticket") == 0) {
		changed[1] ^= 1;
	} else if (strcmp(name, "second") == 0) {
		if (ask(wire, changed, length) != 0)
			_exit(253);
	} else if (strcmp(name, "true") != 0) {
		_exit(252);
	}
	_exit(ask(wire, changed, length));
}
