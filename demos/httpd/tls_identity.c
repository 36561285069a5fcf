/*
 * tls_identity.c - the server's TLS configuration and certificate, made once, before the snapshot.
 *
 * TLS 1.3 only.  In TLS 1.2 the server signs its key exchange parameters and two random values, so the sign
 * gate would need a second kind of question; the narrower gate is worth more than the older clients.
 */
#include "tls.h"

#include "provider.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <string.h>

static SSL_CTX *new_context(void)
{
	SSL_CTX *context = SSL_CTX_new(TLS_server_method());

	if (context == NULL)
		return NULL;
	/* No session outlives its connection: there is no ticket key and no cache to share. */
	SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	(void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
	/* The chain is what the file says, which is what the sign gate compares with. */
	(void)SSL_CTX_set_mode(context, SSL_MODE_NO_AUTO_CHAIN);
	if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 || SSL_CTX_set_num_tickets(context, 0) != 1 ||
	    SSL_CTX_set1_groups_list(context, "X25519:P-256:P-384") != 1) {
		SSL_CTX_free(context);
		return NULL;
	}
	return context;
}

static void put_length(uint8_t *at, size_t length)
{
	at[0] = (uint8_t)(length >> 16);
	at[1] = (uint8_t)(length >> 8);
	at[2] = (uint8_t)length;
}

/* Appends one entry of a Certificate message: the certificate and no extensions.  False if there is no room. */
static bool add_certificate(struct sign_certificate *out, X509 *certificate)
{
	int length = i2d_X509(certificate, NULL);
	uint8_t *at = out->message + out->message_length;

	if (length <= 0 || (size_t)length + 5 > sizeof(out->message) - out->message_length)
		return false;
	put_length(at, (size_t)length);
	at += 3;
	if (i2d_X509(certificate, &at) != length)
		return false;
	at[0] = at[1] = 0;
	out->message_length += (size_t)length + 5;
	return true;
}

/* The Certificate message that this server sends (RFC 8446 4.4.2), for the sign gate to insist on. */
static bool make_message(struct sign_certificate *out, SSL_CTX *context, X509 *leaf)
{
	STACK_OF(X509) *chain = NULL;

	out->message_length = 8; /* type, length, an empty context, length of the list */
	if (!add_certificate(out, leaf) || SSL_CTX_get0_chain_certs(context, &chain) != 1)
		return false;
	for (int i = 0; i < sk_X509_num(chain); i++)
		if (!add_certificate(out, sk_X509_value(chain, i)))
			return false;
	out->message[0] = 11;
	put_length(out->message + 1, out->message_length - 4);
	out->message[4] = 0;
	put_length(out->message + 5, out->message_length - 8);
	return true;
}

static bool take_public_key(struct sign_certificate *out, X509 *leaf)
{
	EVP_PKEY *key = X509_get0_pubkey(leaf);
	char group[32];
	size_t length;

	return key != NULL && EVP_PKEY_is_a(key, "EC") == 1 &&
	       EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof(group), &length) == 1 &&
	       strcmp(group, "prime256v1") == 0 &&
	       EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, out->public_key, sizeof(out->public_key),
					       &length) == 1 &&
	       length == sizeof(out->public_key);
}

static const char *fill(struct tls_identity *identity, const char *file, X509 *leaf)
{
	SSL_CTX *context = identity->context;
	EVP_PKEY *key;
	bool used;

	if (file != NULL && SSL_CTX_use_certificate_chain_file(context, file) != 1)
		return "it holds no usable certificate in PEM form";
	if (file == NULL && SSL_CTX_use_certificate(context, leaf) != 1)
		return "the certificate cannot be used";
	leaf = SSL_CTX_get0_certificate(context);
	if (!take_public_key(&identity->certificate, leaf))
		return "its key is not ECDSA on P-256, the only kind this server signs with";
	if (!make_message(&identity->certificate, context, leaf))
		return "the chain is too long for the sign gate: leave certificates out";
	key = provider_key(identity->certificate.public_key, sizeof(identity->certificate.public_key));
	used = key != NULL && SSL_CTX_use_PrivateKey(context, key) == 1;
	EVP_PKEY_free(key);
	return used ? NULL : "OpenSSL does not accept a key that is kept elsewhere";
}

const char *tls_identity_load(struct tls_identity *identity, const char *file, X509 *leaf)
{
	const char *problem;

	memset(identity, 0, sizeof(*identity));
	identity->context = new_context();
	if (identity->context == NULL)
		return "OpenSSL cannot make a TLS 1.3 context";
	problem = fill(identity, file, leaf);
	if (problem != NULL) {
		SSL_CTX_free(identity->context);
		identity->context = NULL;
	}
	ERR_clear_error();
	return problem;
}
