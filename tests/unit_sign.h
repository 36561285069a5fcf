/*
 * unit_sign.h - what the tests of the sign gate share: identities, and true handshakes whose question to the gate is
 * remembered.  libssl is the client, the server's TLS part the server, in memory.
 */
#ifndef UNIT_SIGN_H
#define UNIT_SIGN_H

#include "../demos/httpd/provider.h"
#include "../demos/httpd/tls.h"

#include "harness.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

static struct sign_trusted trusted;
static struct sign_tickets tickets;
static struct tls_identity identity, other_identity;
static EVP_PKEY *key, *other_key;

static const uint8_t ticket[TICKET_SIZE] = "0123456789abcde";

/* The question that the TLS part asked in the last handshake. */
static bool listening;
static uint8_t question[CGATE_BUFFER_MAX];
static size_t question_length;
static unsigned questions;

static void *listening_gate(void *arg, void *trusted_argument)
{
	struct cgate_buffer *message = arg;

	if (listening) {
		questions++;
		question_length = message->inlen;
		memcpy(question, message->in, message->inlen);
	}
	return sign_gate(arg, trusted_argument);
}

static X509 *make_certificate(EVP_PKEY *of, const char *name)
{
	X509 *certificate = X509_new();
	X509_NAME *subject = X509_get_subject_name(certificate);

	if (X509_set_version(certificate, X509_VERSION_3) != 1 ||
	    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 7) != 1 ||
	    X509_gmtime_adj(X509_getm_notBefore(certificate), 0) == NULL ||
	    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600) == NULL ||
	    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0) != 1 ||
	    X509_set_issuer_name(certificate, subject) != 1 || X509_set_pubkey(certificate, of) != 1 ||
	    X509_sign(certificate, of, EVP_sha256()) <= 0)
		abort();
	return certificate;
}

static void store_key(EVP_PKEY *of, const EVP_CIPHER *cipher)
{
	BIO *file = BIO_new(BIO_s_mem());
	int length;

	if (PEM_write_bio_PrivateKey(file, of, cipher, NULL, 0, NULL, cipher == NULL ? NULL : (void *)"secret") != 1)
		abort();
	length = BIO_read(file, trusted.key, (int)sizeof(trusted.key));
	trusted.key_length = (size_t)length;
	BIO_free(file);
}

static EVP_PKEY *make_identity(struct tls_identity *out, const char *name)
{
	EVP_PKEY *pair = EVP_EC_gen("P-256");
	X509 *certificate = make_certificate(pair, name);

	if (tls_identity_load(out, NULL, certificate) != NULL)
		abort();
	X509_free(certificate);
	return pair;
}

static void set_up(void)
{
	static bool done;

	if (!done) {
		if (tls_library_init() != 0)
			abort();
		key = make_identity(&identity, "the server");
		other_key = make_identity(&other_identity, "not server");
		if (gate_new(listening_gate, NULL, &trusted) != 0)
			abort();
		done = true;
	}
	sign_gate_reset();
	memset(&tickets, 0, sizeof(tickets));
	trusted.certificate = &identity.certificate;
	trusted.tickets = &tickets;
	store_key(key, NULL);
	tls_use(identity.context);
	questions = 0;
}

struct wire {
	struct wire_region wire;
	struct plain_region plain;
	struct reply_region reply;
};

/* A handshake in memory.  Returns true if the client is satisfied, the server's signature included. */
static bool shake_hands(const char *suite, const char *groups)
{
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	struct wire *w = calloc(1, sizeof(*w));
	void *server = calloc(1, tls_kind.private_size);
	SSL *client;
	bool done = false, ended = false;
	uint64_t sent = 0, received = 0;

	if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_ciphersuites(context, suite) != 1 || SSL_CTX_set1_groups_list(context, groups) != 1)
		abort();
	client = SSL_new(context);
	SSL_set_bio(client, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	SSL_set_connect_state(client);
	tls_kind.prepare(server);
	w->wire.plain = &w->plain;
	w->wire.reply = &w->reply;
	memcpy(w->wire.ticket, ticket, TICKET_SIZE);
	word_store(&w->wire.request, 1);
	sign_ticket_issue(&tickets, 3, ticket);
	listening = true;
	for (int round = 0; round < 20 && !done; round++) {
		int got;
		size_t fill;

		done = SSL_do_handshake(client) == 1;
		got = BIO_read(SSL_get_wbio(client), w->wire.in + sent, (int)(WIRE_IN_SIZE - sent));
		sent += got > 0 ? (uint64_t)got : 0;
		position_store(&w->wire.in_produced, sent);
		if (!ended)
			ended = tls_kind.step(server, &w->wire) == STEP_DONE;
		if (!ring_fill(position_load(&w->wire.out_produced), received, WIRE_OUT_SIZE, &fill))
			abort();
		if (fill > 0)
			(void)BIO_write(SSL_get_rbio(client), w->wire.out + received, (int)fill);
		received += fill;
		position_store(&w->wire.out_consumed, received);
	}
	listening = false;
	tls_kind.finish(server);
	free(server);
	free(w);
	SSL_free(client);
	SSL_CTX_free(context);
	ERR_clear_error();
	return done;
}

/* The parts of the remembered question. */
static size_t claim_length(void)
{
	return (size_t)(question[1 + TICKET_SIZE] << 8 | question[2 + TICKET_SIZE]);
}

static uint8_t *messages(size_t *length)
{
	*length = question_length - SIGN_HEADER_SIZE - claim_length();
	return question + SIGN_HEADER_SIZE + claim_length();
}

/* The n-th message, header included. */
static uint8_t *message(size_t n, size_t *length)
{
	size_t left;
	uint8_t *at = messages(&left);

	for (;;) {
		*length = 4 + ((size_t)at[1] << 16 | (size_t)at[2] << 8 | at[3]);
		if (n-- == 0)
			return at;
		at += *length;
	}
}

#endif
