/* record.c - see record.h */
#include "record.h"

#include <openssl/ssl.h>
#include <string.h>

#include "bare.h"

enum {
	BODY = 1024,
	HEAD = 256
};

static SSL *client, *server;

/* ---- the two ends ---------------------------------------------------------------------------------- */

/* A certificate that only has to be there: the client does not ask whose it is. */
static bool give_certificate(SSL_CTX *context)
{
	EVP_PKEY *pair = EVP_EC_gen("P-256");
	X509 *x509 = X509_new();
	bool good = pair && x509 && X509_gmtime_adj(X509_getm_notBefore(x509), 0) &&
		    X509_gmtime_adj(X509_getm_notAfter(x509), 86400) && X509_set_pubkey(x509, pair) == 1 &&
		    X509_sign(x509, pair, EVP_sha256()) > 0 && SSL_CTX_use_certificate(context, x509) == 1 &&
		    SSL_CTX_use_PrivateKey(context, pair) == 1;
	X509_free(x509);
	EVP_PKEY_free(pair);
	return good;
}

static bool connect_ends(void)
{
	SSL_CTX *client_context = SSL_CTX_new(TLS_client_method()), *server_context = SSL_CTX_new(TLS_server_method());
	BIO *client_side = NULL, *server_side = NULL;
	if (!client_context || !server_context || !give_certificate(server_context) ||
	    SSL_CTX_set_num_tickets(server_context, 0) != 1 || !(client = SSL_new(client_context)) ||
	    !(server = SSL_new(server_context)) || BIO_new_bio_pair(&client_side, 0, &server_side, 0) != 1)
		return false;
	SSL_set_bio(client, client_side, client_side);
	SSL_set_bio(server, server_side, server_side);
	SSL_set_connect_state(client);
	SSL_set_accept_state(server);
	for (int turns = 0; turns < 4; turns++) {
		SSL_do_handshake(client);
		SSL_do_handshake(server);
	}
	return SSL_is_init_finished(client) && SSL_is_init_finished(server);
}

/* ---- operations ------------------------------------------------------------------------------------ */

static void answer(void *unused)
{
	static const char body[BODY];
	char text[HEAD + BODY], method[8], path[64];
	(void)unused;
	int got = SSL_read(server, text, HEAD - 1);
	text[got > 0 ? got : 0] = '\0';
	if (sscanf(text, "%7s %63s", method, path) != 2)
		measure_fail("a record did not come");
	int length = snprintf(text, HEAD, "HTTP/1.1 %d OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", 200,
			      strchr(path, '.') ? "text/plain" : "text/html", sizeof body);
	memcpy(text + length, body, sizeof body);
	if (SSL_write(server, text, length + (int)sizeof body) <= 0)
		measure_fail("a record could not be written");
}

static void answer_after_exit(void *unused)
{
	bare_run_exit(unused);
	answer(unused);
}

/* The client's turn. */
static void take_answer_and_ask(void *unused)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	char text[HEAD + BODY];
	(void)unused;
	if (SSL_read(client, text, sizeof text) <= 0 || SSL_write(client, request, sizeof request - 1) <= 0)
		measure_fail("the client's record failed");
}

void record_measure(struct measurement *measurement, const struct rung *again, const struct rung *after_exit,
		    unsigned blocks)
{
	const struct operation operations[] = {
		{ again, answer, .warm = 5, .between = take_answer_and_ask },
		{ after_exit, answer_after_exit, .warm = 5, .between = take_answer_and_ask },
	};
	if (!connect_ends() || SSL_write(client, "GET / ", 6) <= 0)
		measure_fail("two ends of a TLS connection cannot be set up");
	if (sthread_init() != 0)
		measure_fail("%s", sthread_error());
	bare_prepare();
	measure_operations(measurement, operations, 2, blocks);
}
