/*
 * live_httpd_key.c - no memory that the server's TLS and request sthreads can see holds the private key.
 *
 * The server runs in the test's process.  A client completes its handshake, so that the key has been used, and sends
 * half a request, so that both sthreads are there and wait.  Then every frame that they have mapped or could bring in is
 * searched, from the supervisor's side.  (tests/live_httpd_attacks.sh searches from inside.)
 */
int httpd_main(int argc, char **argv);
#define main httpd_main
#define server_run run_observed
#define finish finish_test
#include "../demos/httpd/main.c"
#undef finish
#undef server_run
#undef main

#include "live.h"

#include <openssl/pem.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

/* The linker sends the server's calls of sthread_create() here. */
int __wrap_sthread_create(sthread_t *st, const sc_t *sc, stcb_t cb, void *arg);
int __real_sthread_create(sthread_t *st, const sc_t *sc, stcb_t cb, void *arg);
int server_run(struct server *server, evutil_socket_t socket, void (*ready)(void *), void *arg);

enum {
	SCALAR_AT = 7, /* 30 len 02 01 01 04 20 */
	SCALAR_SIZE = 32,
	DER_MAX = 256,
	LINE = 64,
	TICKS_MAX = 1500,
};

static char folder[] = "/tmp/live_httpd_key.XXXXXX";
static jmp_buf over;
static int exit_status;
static bool key_is_early;
/* The mistake: what the server must not have read before the snapshot.  live_find() does not find what begins in one
 * page and ends in the next. */
static char early_text[4096] __attribute__((aligned(4096)));
static uint8_t early_der[DER_MAX] __attribute__((aligned(DER_MAX)));
static EVP_PKEY *early_key;

static struct {
	evutil_socket_t socket;
	struct event_base *events;
	struct event *tick;
	pid_t client;
	unsigned ticks;
	bool searched;
	sthread_t sthreads[2]; /* TLS and request */
	unsigned count;
	char mark[40];
} watch;

noreturn void finish_test(int status)
{
	exit_status = status;
	longjmp(over, 1);
}

/* Decodes base64 without line ends.  Not OpenSSL's: the process has no such code any more. */
static size_t decode(const char *text, uint8_t *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t bits = 0;
	unsigned have = 0;
	size_t length = 0;

	for (const char *digit; *text != '\0' && (digit = strchr(digits, *text)) != NULL; text++) {
		bits = bits << 6 | (uint32_t)(digit - digits);
		have += 6;
		if (have < 8)
			continue;
		have -= 8;
		out[length++] = (uint8_t)(bits >> have);
	}
	return length;
}

static void search(sthread_t st, const char *body, const uint8_t *der, size_t der_length)
{
	uint8_t backwards[SCALAR_SIZE];
	unsigned scalar, reversed, whole, first, second, public_half, mark;

	for (size_t i = 0; i < SCALAR_SIZE; i++)
		backwards[i] = der[SCALAR_AT + SCALAR_SIZE - 1 - i];
	scalar = live_find(st, der + SCALAR_AT, SCALAR_SIZE);
	reversed = live_find(st, backwards, SCALAR_SIZE);
	whole = live_find(st, der, der_length);
	first = live_find(st, body, LINE);
	second = live_find(st, body + LINE, LINE);
	public_half = live_find(st, der + der_length - LINE, LINE);
	mark = live_find(st, watch.mark, strlen(watch.mark));
	harness_note("scalar %u, backwards %u, DER %u, PEM %u and %u; public half %u, request %u", scalar, reversed,
		     whole, first, second, public_half, mark);
	/* What is there must be found: else the search is blind. */
	CU_ASSERT(public_half > 0);
	CU_ASSERT(mark > 0);
	CU_ASSERT_EQUAL(scalar > 0, key_is_early);
	CU_ASSERT_EQUAL(reversed > 0, key_is_early);
	CU_ASSERT_EQUAL(whole > 0, key_is_early);
	CU_ASSERT_EQUAL(first > 0, key_is_early);
	CU_ASSERT_EQUAL(second > 0, key_is_early);
}

static void search_all(void)
{
	char text[4096] = "", body[4096];
	uint8_t der[DER_MAX];
	size_t length = 0, der_length;
	FILE *file = fopen("key.pem", "re");

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
	(void)fclose(file);
	for (const char *at = strchr(text, '\n'); at != NULL && *at != '-' && *at != '\0'; at++)
		if (*at != '\n')
			body[length++] = *at;
	body[length] = '\0';
	der_length = decode(body, der);
	CU_ASSERT_FATAL(der_length > SCALAR_AT + SCALAR_SIZE && der[SCALAR_AT - 1] == SCALAR_SIZE);
	for (unsigned i = 0; i < watch.count; i++)
		search(watch.sthreads[i], body, der, der_length);
}

int __wrap_sthread_create(sthread_t *st, const sc_t *sc, stcb_t cb, void *arg)
{
	int result = __real_sthread_create(st, sc, cb, arg);

	CU_ASSERT_FATAL(result == 0 && watch.count < 2);
	watch.sthreads[watch.count++] = *st;
	return result;
}

static bool both_are_parked(void)
{
	enum sthread_state state;

	for (unsigned i = 0; i < watch.count; i++)
		if (sthread_state(watch.sthreads[i], &state) != 0 || state != STHREAD_PARKED)
			return false;
	return watch.count == 2;
}

static void on_tick(evutil_socket_t none, short what, void *arg)
{
	(void)none;
	(void)what;
	(void)arg;
	if (both_are_parked()) {
		search_all();
		watch.searched = true;
	}
	if (watch.searched || ++watch.ticks == TICKS_MAX * harness_time_scale())
		(void)event_base_loopbreak(watch.events);
}

static void start_client(void *arg)
{
	static const struct timeval interval = { .tv_usec = 10000 };
	struct sockaddr_in address;
	socklen_t size = sizeof(address);
	char command[400];
	unsigned long number;

	(void)arg;
	CU_ASSERT_EQUAL_FATAL(getsockname(watch.socket, (struct sockaddr *)&address, &size), 0);
	CU_ASSERT_EQUAL_FATAL(getentropy(&number, sizeof(number)), 0);
	(void)snprintf(watch.mark, sizeof(watch.mark), "%016lx%016lx", number, ~number);
	(void)snprintf(
		command, sizeof(command),
		"printf 'GET / HTTP/1.1\\r\\nX: %s' | exec openssl s_client -quiet -connect 127.0.0.1:%d >client 2>&1",
		watch.mark, ntohs(address.sin_port));
	watch.client = fork();
	if (watch.client == 0) {
		(void)setpgid(0, 0);
		(void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	watch.tick = event_new(watch.events, -1, EV_PERSIST, on_tick, NULL);
	CU_ASSERT_EQUAL_FATAL(event_add(watch.tick, &interval), 0);
}

static struct server *observed;

static void ready_observed(void *arg)
{
	watch.events = observed->events;
	start_client(arg);
}

int run_observed(struct server *server, evutil_socket_t socket, void (*ready)(void *), void *arg)
{
	int result;

	(void)ready;
	observed = server;
	watch.socket = socket;
	result = server_run(server, socket, ready_observed, arg);
	if (watch.client > 0) {
		(void)kill(-watch.client, SIGKILL);
		(void)waitpid(watch.client, NULL, 0);
	}
	return result;
}

static void make_files(void)
{
	CU_ASSERT_FATAL(mkdtemp(folder) != NULL && chdir(folder) == 0 && mkdir("www", 0755) == 0);
	CU_ASSERT_EQUAL_FATAL(system("openssl ecparam -genkey -name prime256v1 -noout -out key.pem 2>/dev/null && "
				     "openssl req -x509 -new -key key.pem -subj /CN=localhost -days 2 -out cert.pem "
				     "2>/dev/null"),
			      0);
}

static void read_early(void)
{
	FILE *file = fopen("key.pem", "re");
	uint8_t *der = early_der;

	CU_ASSERT_FATAL(file != NULL && fread(early_text, 1, sizeof(early_text), file) > 0);
	rewind(file);
	early_key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
	(void)fclose(file);
	CU_ASSERT_FATAL(early_key != NULL && i2d_PrivateKey(early_key, &der) > 0);
}

static void serve(void)
{
	static char *arguments[] = { "sthread-httpd", "--listen", "127.0.0.1:0", "--cert", "cert.pem",
				     "--key",         "key.pem",  "--docroot",   "www",    NULL };
	char command[64];

	make_files();
	if (key_is_early)
		read_early();
	if (setjmp(over) == 0)
		(void)httpd_main(9, arguments);
	CU_ASSERT_EQUAL(exit_status, 0);
	CU_ASSERT(watch.searched);
	(void)snprintf(command, sizeof(command), "rm -rf %s", folder);
	CU_ASSERT_EQUAL(system(command), 0);
}

static void key_is_nowhere(void)
{
	serve();
}

static void early_key_is_found(void)
{
	key_is_early = true;
	serve();
}

static const struct harness_test tests[] = {
	{ "neither TLS nor request sthreads can see the private key", key_is_nowhere, HARNESS_FORK },
	{ "control: a key that is read before the snapshot is found in every form", early_key_is_found, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	if (system("openssl version >/dev/null 2>&1") != 0) {
		(void)printf("1..0 # SKIP openssl is not installed\n");
		return 77;
	}
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
