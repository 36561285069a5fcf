/* https.c - see https.h */
#define _GNU_SOURCE
#include "https.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PAGE_SIZE = 1024,
	START_SECONDS = 20,
	ANSWER_SECONDS = 10,
	PATH = 64
};

static char folder[] = "/tmp/sthread-bench-XXXXXX";
static char certificate[PATH], key[PATH], docroot[PATH], page[PATH], output[PATH];

/* ---- what is served -------------------------------------------------------------------------------- */

static void in_folder(char path[PATH], const char *name)
{
	snprintf(path, PATH, "%s/%s", folder, name);
}

/* A self-signed certificate for localhost, ECDSA on P-256. */
static bool write_identity(void)
{
	EVP_PKEY *pair = EVP_EC_gen("P-256");
	X509 *x509 = X509_new();
	X509_NAME *name = x509 ? X509_get_subject_name(x509) : NULL;
	FILE *certificate_file = fopen(certificate, "we"), *key_file = fopen(key, "we");
	bool good = pair && name && certificate_file && key_file && X509_set_version(x509, 2) == 1 &&
		    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1) == 1 &&
		    X509_gmtime_adj(X509_getm_notBefore(x509), 0) && X509_gmtime_adj(X509_getm_notAfter(x509), 86400) &&
		    X509_set_pubkey(x509, pair) == 1 &&
		    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1,
					       0) == 1 &&
		    X509_set_issuer_name(x509, name) == 1 && X509_sign(x509, pair, EVP_sha256()) > 0 &&
		    PEM_write_X509(certificate_file, x509) == 1 &&
		    PEM_write_PrivateKey(key_file, pair, NULL, NULL, 0, NULL, NULL) == 1;
	if (certificate_file)
		good = fclose(certificate_file) == 0 && good;
	if (key_file)
		good = fclose(key_file) == 0 && good;
	X509_free(x509);
	EVP_PKEY_free(pair);
	return good;
}

static bool write_page(void)
{
	FILE *file = fopen(page, "we");
	if (!file)
		return false;
	for (int i = 0; i < PAGE_SIZE; i++)
		fputc(i % 64 == 63 ? '\n' : 'x', file);
	return fclose(file) == 0;
}

static void clean_up(void)
{
	const char *const files[] = { certificate, key, page, output };
	for (unsigned i = 0; i < sizeof files / sizeof *files; i++)
		unlink(files[i]);
	rmdir(docroot);
	rmdir(folder);
}

/* Makes a certificate and a page in a temporary folder. */
static void prepare(void)
{
	if (!mkdtemp(folder))
		measure_fail("cannot make a temporary folder: %s", strerror(errno));
	in_folder(certificate, "cert.pem");
	in_folder(key, "key.pem");
	in_folder(docroot, "www");
	in_folder(page, "www/index.html");
	in_folder(output, "output");
	if (mkdir(docroot, 0700) != 0 || !write_identity() || !write_page()) {
		clean_up();
		measure_fail("cannot make a certificate and a page");
	}
}

/* ---- the server ------------------------------------------------------------------------------------ */

static pid_t server;

static _Noreturn void give_up(const char *what)
{
	char line[120] = "";
	FILE *file = fopen(output, "re");
	while (file && fgets(line, sizeof line, file))
		line[strcspn(line, "\n")] = '\0';
	if (server > 0) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
	}
	clean_up();
	measure_fail("%s; the server's last line: %s", what, line);
}

/* Finds the last line of the server's output that sscanf() understands.  Returns the number of fields. */
static int find_in_output(const char *format, unsigned long values[5])
{
	char line[512];
	int best = 0;
	FILE *file = fopen(output, "re");
	while (file && fgets(line, sizeof line, file)) {
		int fields = sscanf(line, format, &values[0], &values[1], &values[2], &values[3], &values[4]);
		if (fields > best)
			best = fields;
	}
	if (file)
		fclose(file);
	return best;
}

/* Starts the server for so many requests.  Returns its port. */
static uint16_t start(const char *program, const char *isolation, unsigned requests)
{
	char number[16];
	unsigned long port[5];
	snprintf(number, sizeof number, "%u", requests);
	unlink(output);
	server = fork();
	if (server == 0) {
		int fd = open(output, O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
		close(fd);
		execl(program, program, "--listen", "127.0.0.1:0", "--cert", certificate, "--key", key, "--docroot",
		      docroot, "--isolation", isolation, "--requests", number, (char *)NULL);
		fprintf(stderr, "%s: %s\n", program, strerror(errno));
		_exit(127);
	}
	for (int i = 0; i < START_SECONDS * 100; i++) {
		if (find_in_output("listening on https://127.0.0.1:%lu", port) == 1)
			return (uint16_t)port[0];
		if (waitpid(server, NULL, WNOHANG) == server) {
			server = -1;
			give_up("the server ended instead of starting");
		}
		usleep(10000);
	}
	give_up("the server does not start");
}

/* Waits for the server's end and reads what it counted. */
static void finish(double counters[COUNTERS])
{
	static const char lives[] =
		" sthreads: %*u lives, %*u of them recycled, in %*u address spaces; calls served %lu, denied "
		"%*u, gate calls %lu";
	static const char machine[] =
		" machine: exits %lu, %*lu of them by signals, traps %lu, page-table edits in ring 0 %lu; pages copied %lu, restored %lu";
	static const char changes[] = " changes of address space: %lu that flush, %lu";
	unsigned long values[5];
	int status = -1;
	for (int i = 0; i < ANSWER_SECONDS * 100 && waitpid(server, &status, WNOHANG) == 0; i++)
		usleep(10000);
	if (status != 0)
		give_up("the server did not end with status 0");
	server = -1;
	memset(counters, 0, COUNTERS * sizeof *counters);
	if (find_in_output(lives, values) == 2) {
		counters[COUNT_CALLS] = (double)values[0];
		counters[COUNT_GATE_CALLS] = (double)values[1];
	}
	if (find_in_output(machine, values) == 5) {
		static const enum counter order[] = { COUNT_EXITS, COUNT_TRAPS, COUNT_EDITS, COUNT_COPIED,
						      COUNT_RESTORED };
		for (unsigned i = 0; i < 5; i++)
			counters[order[i]] = (double)values[i];
	}
	if (find_in_output(changes, values) == 2) {
		counters[COUNT_FLUSHES] = (double)values[0];
		counters[COUNT_KEPT] = (double)values[1];
	}
}

/* ---- the client ------------------------------------------------------------------------------------ */

static SSL *connect_to(SSL_CTX *context, uint16_t port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons(port),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct timeval limit = { .tv_sec = ANSWER_SECONDS };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	SSL *tls = SSL_new(context);
	if (fd < 0 || !tls || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0 ||
	    setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof on) != 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof address) != 0 || SSL_set_fd(tls, fd) != 1 ||
	    SSL_connect(tls) != 1)
		give_up("a connection failed");
	return tls;
}

static void close_connection(SSL *tls)
{
	int fd = SSL_get_fd(tls);
	SSL_shutdown(tls);
	SSL_free(tls);
	close(fd);
}

/* Asks for the page and reads all of the answer. */
static void request(SSL *tls, bool last)
{
	char answer[PAGE_SIZE + 4096];
	const char *text = last ? "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" :
				  "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	size_t have = 0, wanted = sizeof answer - 1;
	if (SSL_write(tls, text, (int)strlen(text)) <= 0)
		give_up("a request could not be sent");
	while (have < wanted) {
		int got = SSL_read(tls, answer + have, (int)(wanted - have));
		if (got <= 0)
			give_up("an answer did not come");
		have += (size_t)got;
		answer[have] = '\0';
		const char *body = strstr(answer, "\r\n\r\n");
		if (body)
			wanted = (size_t)(body + 4 - answer) + PAGE_SIZE;
	}
	if (strncmp(answer, "HTTP/1.1 200 ", 13) != 0)
		give_up("an answer was not the page");
}

/* So many requests; the samples of those from `from` on are kept. */
static void ask(struct measurement *measurement, const struct https_run *run, SSL_CTX *context, uint16_t port,
		unsigned from, unsigned requests)
{
	SSL *tls = run->keep_alive ? connect_to(context, port) : NULL;
	for (unsigned i = 0; i < requests; i++) {
		uint64_t began = measure_now();
		if (!run->keep_alive)
			tls = connect_to(context, port);
		request(tls, !run->keep_alive || i + 1 == requests);
		if (!run->keep_alive)
			close_connection(tls);
		if (i >= from)
			measure_add(measurement, run->rung, (double)(measure_now() - began));
	}
	if (run->keep_alive)
		close_connection(tls);
}

static void measure(struct measurement *measurement, const struct https_run *run, const struct https_load *load)
{
	double without[COUNTERS], with[COUNTERS];
	const unsigned warm = load->warm, all = load->warm + load->samples;
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	if (!context || SSL_CTX_load_verify_file(context, certificate) != 1)
		give_up("the client's OpenSSL cannot be set up");
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
	/* The counters of what is measured are those of two servers, one with and one without it. */
	ask(measurement, run, context, start(load->program, run->isolation, warm), warm, warm);
	finish(without);
	ask(measurement, run, context, start(load->program, run->isolation, all), warm, all);
	finish(with);
	for (unsigned i = 0; i < COUNTERS; i++)
		with[i] -= without[i];
	if (strcmp(run->isolation, "none") != 0)
		measure_add_counters(measurement, run->rung, load->samples, with);
	SSL_CTX_free(context);
}

void https_measure(struct measurement *measurement, const struct https_run *runs, size_t count,
		   const struct https_load *load)
{
	prepare();
	for (size_t i = 0; i < count; i++)
		measure(measurement, &runs[i], load);
	clean_up();
}
