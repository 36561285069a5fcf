/*
 * handshake.c - parses the messages of a TLS 1.3 handshake strictly and hashes them.
 *
 * The input may be anything: every length is checked against what is left before it is used.
 */
#include "handshake.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>

enum {
	CLIENT_HELLO = 1,
	SERVER_HELLO = 2,
	ENCRYPTED_EXTENSIONS = 8,
	MESSAGE_HASH = 254,

	EXTENSION_PRE_SHARED_KEY = 41,
	EXTENSION_SUPPORTED_VERSIONS = 43,
	EXTENSION_KEY_SHARE = 51,

	LEGACY_VERSION = 0x0303,
	TLS_1_3 = 0x0304,
};

struct bytes {
	const uint8_t *at;
	size_t left;
};

struct message {
	unsigned type;
	struct bytes body;
	struct bytes whole; /* with its four bytes of header */
};

struct client_hello {
	struct bytes random, session_id, suites;
};

struct server_hello {
	struct bytes random, session_id;
	uint32_t suite;
};

/* SHA-256 of "HelloRetryRequest": the random that makes a ServerHello one (RFC 8446 4.1.3). */
static const uint8_t retry_random[32] = {
	0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
	0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
};

static bool take(struct bytes *from, size_t length, struct bytes *out)
{
	if (from->left < length)
		return false;
	*out = (struct bytes){ from->at, length };
	from->at += length;
	from->left -= length;
	return true;
}

/* A big-endian number of up to three bytes. */
static bool take_number(struct bytes *from, size_t width, uint32_t *value)
{
	struct bytes digits;

	if (!take(from, width, &digits))
		return false;
	*value = 0;
	for (size_t i = 0; i < width; i++)
		*value = *value << 8 | digits.at[i];
	return true;
}

/* A vector: its length in width bytes, then its bytes. */
static bool take_vector(struct bytes *from, size_t width, struct bytes *out)
{
	uint32_t length;

	return take_number(from, width, &length) && take(from, length, out);
}

static bool same(struct bytes a, struct bytes b)
{
	return a.left == b.left && (a.left == 0 || memcmp(a.at, b.at, a.left) == 0);
}

static bool take_message(struct bytes *from, unsigned type, struct message *out)
{
	struct bytes start = *from;
	uint32_t got;

	if (!take_number(from, 1, &got) || got != type || !take_vector(from, 3, &out->body))
		return false;
	out->type = got;
	out->whole = (struct bytes){ start.at, start.left - from->left };
	return true;
}

/*
 * Walks a list of extensions to its end.  *found says whether the wanted type is there (at most once), *wanted
 * is then its content; *psk says whether there is a pre-shared key.
 */
static bool walk_extensions(struct bytes list, uint32_t type, struct bytes *wanted, bool *found, bool *psk)
{
	*found = *psk = false;
	while (list.left > 0) {
		struct bytes content;
		uint32_t got;

		if (!take_number(&list, 2, &got) || !take_vector(&list, 2, &content))
			return false;
		if (got == type) {
			if (*found)
				return false;
			*found = true;
			*wanted = content;
		}
		*psk |= got == EXTENSION_PRE_SHARED_KEY;
	}
	return true;
}

static bool list_has(struct bytes list, uint32_t wanted)
{
	bool found = false;
	uint32_t value;

	while (list.left > 0) {
		if (!take_number(&list, 2, &value))
			return false;
		found |= value == wanted;
	}
	return found;
}

static bool parse_client_hello(struct message *message, struct client_hello *hello)
{
	struct bytes body = message->body, compressions, extensions, content, versions;
	bool found, psk;
	uint32_t version;

	if (!take_number(&body, 2, &version) || version != LEGACY_VERSION || !take(&body, 32, &hello->random) ||
	    !take_vector(&body, 1, &hello->session_id) || hello->session_id.left > 32 ||
	    !take_vector(&body, 2, &hello->suites) || !take_vector(&body, 1, &compressions) ||
	    !take_vector(&body, 2, &extensions) || body.left != 0)
		return false;
	/* A client may offer a pre-shared key; this server never takes one. */
	if (!walk_extensions(extensions, EXTENSION_SUPPORTED_VERSIONS, &content, &found, &psk) || !found)
		return false;
	return take_vector(&content, 1, &versions) && content.left == 0 && list_has(versions, TLS_1_3);
}

static bool parse_server_hello(struct message *message, struct server_hello *hello)
{
	struct bytes body = message->body, extensions, content;
	bool found, psk;
	uint32_t version, compression;

	if (!take_number(&body, 2, &version) || version != LEGACY_VERSION || !take(&body, 32, &hello->random) ||
	    !take_vector(&body, 1, &hello->session_id) || !take_number(&body, 2, &hello->suite) ||
	    !take_number(&body, 1, &compression) || compression != 0 || !take_vector(&body, 2, &extensions) ||
	    body.left != 0)
		return false;
	if (!walk_extensions(extensions, EXTENSION_SUPPORTED_VERSIONS, &content, &found, &psk) || !found || psk)
		return false;
	if (!take_number(&content, 2, &version) || version != TLS_1_3 || content.left != 0)
		return false;
	return walk_extensions(extensions, EXTENSION_KEY_SHARE, &content, &found, &psk) && found;
}

static bool is_retry(const struct server_hello *hello)
{
	return memcmp(hello->random.at, retry_random, sizeof(retry_random)) == 0;
}

static bool answers(const struct server_hello *server, const struct client_hello *client)
{
	return same(server->session_id, client->session_id) && list_has(client->suites, server->suite);
}

static bool parse_encrypted_extensions(struct message *message)
{
	struct bytes body = message->body, extensions, content;
	bool found, psk;

	return take_vector(&body, 2, &extensions) && body.left == 0 &&
	       walk_extensions(extensions, EXTENSION_SUPPORTED_VERSIONS, &content, &found, &psk) && !found && !psk;
}

static const EVP_MD *hash_of_suite(uint32_t suite)
{
	switch (suite) {
	case 0x1301: /* TLS_AES_128_GCM_SHA256 */
	case 0x1303: /* TLS_CHACHA20_POLY1305_SHA256 */
		return EVP_sha256();
	case 0x1302: /* TLS_AES_256_GCM_SHA384 */
		return EVP_sha384();
	default:
		return NULL;
	}
}

/* Hash(messages), the first ClientHello replaced by its hash if there was a retry (RFC 8446 4.4.1). */
static bool hash_transcript(const EVP_MD *hash, struct bytes first_hello, struct bytes rest, bool retried, uint8_t *out,
			    unsigned *out_length)
{
	uint8_t digest[EVP_MAX_MD_SIZE], header[4] = { MESSAGE_HASH, 0, 0, 0 };
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	unsigned length;
	bool done;

	done = context != NULL && EVP_DigestInit_ex(context, hash, NULL) == 1;
	if (done && retried) {
		done = EVP_Digest(first_hello.at, first_hello.left, digest, &length, hash, NULL) == 1;
		header[3] = (uint8_t)length;
		done = done && EVP_DigestUpdate(context, header, sizeof(header)) == 1 &&
		       EVP_DigestUpdate(context, digest, length) == 1;
	} else if (done) {
		done = EVP_DigestUpdate(context, first_hello.at, first_hello.left) == 1;
	}
	done = done && EVP_DigestUpdate(context, rest.at, rest.left) == 1 &&
	       EVP_DigestFinal_ex(context, out, out_length) == 1;
	EVP_MD_CTX_free(context);
	return done;
}

/* Parses everything; on success says what to hash and how. */
static bool parse_handshake(struct bytes all, struct bytes certificate, struct bytes *first_hello, struct bytes *rest,
			    bool *retried, const EVP_MD **hash)
{
	struct message message;
	struct client_hello client, client_again;
	struct server_hello server, retry;

	if (!take_message(&all, CLIENT_HELLO, &message) || !parse_client_hello(&message, &client))
		return false;
	*first_hello = message.whole;
	*rest = all;
	if (!take_message(&all, SERVER_HELLO, &message) || !parse_server_hello(&message, &server) ||
	    !answers(&server, &client))
		return false;
	*retried = is_retry(&server);
	if (*retried) {
		retry = server;
		if (!take_message(&all, CLIENT_HELLO, &message) || !parse_client_hello(&message, &client_again) ||
		    !same(client.random, client_again.random) || !same(client.session_id, client_again.session_id) ||
		    !same(client.suites, client_again.suites))
			return false;
		if (!take_message(&all, SERVER_HELLO, &message) || !parse_server_hello(&message, &server) ||
		    !answers(&server, &client_again) || is_retry(&server) || server.suite != retry.suite)
			return false;
	}
	*hash = hash_of_suite(server.suite);
	if (*hash == NULL)
		return false;
	if (!take_message(&all, ENCRYPTED_EXTENSIONS, &message) || !parse_encrypted_extensions(&message))
		return false;
	return same(all, certificate);
}

int handshake_content(const uint8_t *messages, size_t length, const uint8_t *certificate, size_t certificate_length,
		      uint8_t content[HANDSHAKE_CONTENT_MAX], size_t *content_length)
{
	static const char context_string[] = "TLS 1.3, server CertificateVerify"; /* its final NUL is the zero byte */
	struct bytes first_hello, rest;
	uint8_t digest[EVP_MAX_MD_SIZE];
	unsigned digest_length;
	const EVP_MD *hash;
	bool retried;

	if (!parse_handshake((struct bytes){ messages, length }, (struct bytes){ certificate, certificate_length },
			     &first_hello, &rest, &retried, &hash)) {
		errno = EBADMSG;
		return -1;
	}
	if (!hash_transcript(hash, first_hello, rest, retried, digest, &digest_length) || digest_length > 48) {
		errno = ENOMEM;
		return -1;
	}
	memset(content, ' ', 64);
	memcpy(content + 64, context_string, sizeof(context_string));
	memcpy(content + 64 + sizeof(context_string), digest, digest_length);
	*content_length = 64 + sizeof(context_string) + digest_length;
	return 0;
}
