/*
 * warmup.c - complete handshakes and requests in memory, one for each cipher suite and usual key exchange.
 */
#include "warmup.h"

#include "request.h"
#include "shared.h"
#include "tls.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

enum {
	ROUNDS_MAX = 200
};

struct warmup {
	struct tls_identity identity;
	struct sign_trusted trusted;
	struct sign_tickets tickets;
	int sign_gate;
	struct wire_region wire;
	struct plain_region plain;
	struct reply_region reply;
};

static X509 *make_certificate(EVP_PKEY *key)
{
	X509 *certificate = X509_new();
	X509_NAME *name;

	if (certificate == NULL)
		return NULL;
	name = X509_get_subject_name(certificate);
	if (X509_set_version(certificate, X509_VERSION_3) != 1 ||
	    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1) != 1 ||
	    X509_gmtime_adj(X509_getm_notBefore(certificate), 0) == NULL ||
	    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600) == NULL ||
	    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"warm-up", -1, -1, 0) != 1 ||
	    X509_set_issuer_name(certificate, name) != 1 || X509_set_pubkey(certificate, key) != 1 ||
	    X509_sign(certificate, key, EVP_sha256()) <= 0) {
		X509_free(certificate);
		return NULL;
	}
	return certificate;
}

/* The key as the file of a server would hold it. */
static bool store_key(struct sign_trusted *trusted, EVP_PKEY *key)
{
	BIO *file = BIO_new(BIO_s_mem());
	int length = 0;

	if (file != NULL && PEM_write_bio_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1)
		length = BIO_read(file, trusted->key, (int)sizeof(trusted->key));
	BIO_free(file);
	trusted->key_length = length > 0 ? (size_t)length : 0;
	return length > 0;
}

static bool prepare(struct warmup *w)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *certificate = key == NULL ? NULL : make_certificate(key);
	bool done;

	done = certificate != NULL && store_key(&w->trusted, key) &&
	       tls_identity_load(&w->identity, NULL, certificate) == NULL;
	X509_free(certificate);
	EVP_PKEY_free(key);
	if (!done)
		return false;
	w->trusted.certificate = &w->identity.certificate;
	w->trusted.tickets = &w->tickets;
	w->sign_gate = gate_new(sign_gate, NULL, &w->trusted);
	tls_use(w->identity.context);
	return w->sign_gate != -1;
}

static SSL *new_client(const char *suite, const char *group)
{
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	SSL *client = NULL;

	if (context != NULL && in != NULL && out != NULL && SSL_CTX_set_ciphersuites(context, suite) == 1 &&
	    SSL_CTX_set1_groups_list(context, group) == 1)
		client = SSL_new(context);
	SSL_CTX_free(context);
	if (client == NULL) {
		BIO_free(in);
		BIO_free(out);
		return NULL;
	}
	SSL_set_bio(client, in, out);
	SSL_set_connect_state(client);
	return client;
}

/* Moves what the client wrote to the wire region, and what the server wrote to the client. */
static void carry(struct warmup *w, SSL *client, uint64_t *sent, uint64_t *received)
{
	size_t piece = ring_piece(*sent, WIRE_IN_SIZE, WIRE_IN_SIZE);
	int got = BIO_read(SSL_get_wbio(client), w->wire.in + ring_offset(*sent, WIRE_IN_SIZE), (int)piece);
	size_t fill;

	if (got > 0)
		*sent += (uint64_t)got;
	position_store(&w->wire.in_produced, *sent);
	if (!ring_fill(position_load(&w->wire.out_produced), *received, WIRE_OUT_SIZE, &fill) || fill == 0)
		return;
	piece = ring_piece(*received, fill, WIRE_OUT_SIZE);
	got = BIO_write(SSL_get_rbio(client), w->wire.out + ring_offset(*received, WIRE_OUT_SIZE), (int)piece);
	if (got > 0)
		*received += (uint64_t)got;
	position_store(&w->wire.out_consumed, *received);
}

/* One connection with one request.  True if the client saw the beginning of an answer. */
static bool converse(struct warmup *w, SSL *client, void *tls_memory, void *request_memory)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
	uint64_t sent = 0, received = 0;
	bool asked = false, answered = false, tls_done = false, request_done = false;
	char answer[4096];

	for (int round = 0; round < ROUNDS_MAX && !answered; round++) {
		if (SSL_do_handshake(client) == 1 && !asked)
			asked = SSL_write(client, request, sizeof(request) - 1) > 0;
		if (asked && SSL_read(client, answer, sizeof(answer)) >= 12)
			answered |= memcmp(answer, "HTTP/1.1 ", 9) == 0;
		carry(w, client, &sent, &received);
		if (!tls_done)
			tls_done = tls_kind.step(tls_memory, &w->wire) == STEP_DONE;
		if (word_load(&w->plain.length) > 0 && !request_done)
			request_done = request_kind.step(request_memory, &w->reply) == STEP_DONE;
		if (request_done && position_load(&w->plain.reply_consumed) == position_load(&w->reply.produced))
			word_store(&w->wire.orders, ORDER_CLOSE);
	}
	return answered;
}

static bool serve_once(struct warmup *w, const char *suite, const char *group)
{
	static const uint8_t ticket[TICKET_SIZE] = "warm-up";
	SSL *client = new_client(suite, group);
	void *tls_memory = calloc(1, tls_kind.private_size), *request_memory = calloc(1, request_kind.private_size);
	bool served = false;

	memset(&w->wire, 0, sizeof(w->wire));
	memset(&w->plain, 0, sizeof(w->plain));
	memset(&w->reply, 0, sizeof(w->reply));
	w->wire.plain = &w->plain;
	w->wire.reply = &w->reply;
	w->wire.sign_gate = w->sign_gate;
	memcpy(w->wire.ticket, ticket, TICKET_SIZE);
	word_store(&w->wire.request, 1);
	w->reply.plain = &w->plain;
	w->reply.log_gate = -1;
	sign_ticket_issue(&w->tickets, 0, ticket);
	if (client != NULL && tls_memory != NULL && request_memory != NULL) {
		tls_kind.prepare(tls_memory);
		served = converse(w, client, tls_memory, request_memory);
		request_kind.finish(request_memory);
		tls_kind.finish(tls_memory);
	}
	free(request_memory);
	free(tls_memory);
	SSL_free(client);
	return served;
}

int warm_up(void)
{
	static const char *const suites[] = { "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
					      "TLS_AES_128_GCM_SHA256" };
	static const char *const groups[] = { "X25519", "P-256", "P-384" };
	struct warmup *w = calloc(1, sizeof(*w));
	bool done;

	if (w == NULL)
		return -1;
	done = prepare(w);
	for (size_t i = 0; done && i < 3; i++)
		done = serve_once(w, suites[i], groups[i]);
	tls_use(NULL);
	sign_gate_reset();
	gates_reset();
	SSL_CTX_free(w->identity.context);
	OPENSSL_cleanse(w, sizeof(*w));
	free(w);
	return done ? 0 : -1;
}
