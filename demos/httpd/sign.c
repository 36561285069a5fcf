/*
 * sign.c - the sign gate: parse all, check the ticket, check the meaning, build, compare, sign.
 */
#include "sign.h"

#include <callgate.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdbool.h>
#include <string.h>

/* Private to the gate's compartment: read from the key's memory on its first call. */
static EVP_PKEY *gate_key;

static int no_password(char *buffer, int size, int writing, void *arg)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)arg;
	return -1;
}

/* Returns 0 or why this key cannot serve that certificate. */
static int check_key(EVP_PKEY *key, const struct sign_certificate *certificate)
{
	uint8_t public_key[2 * SIGN_PUBLIC_KEY_SIZE];
	char group[32];
	size_t length;
	EVP_PKEY_CTX *context;
	bool matches;

	if (EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof(group), &length) != 1 ||
	    strcmp(group, "prime256v1") != 0)
		return ENOTSUP;
	if (EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, public_key, sizeof(public_key), &length) !=
		    1 ||
	    length != SIGN_PUBLIC_KEY_SIZE || memcmp(public_key, certificate->public_key, length) != 0)
		return EKEYREJECTED;
	context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
	matches = context != NULL && EVP_PKEY_pairwise_check(context) == 1;
	EVP_PKEY_CTX_free(context);
	return matches ? 0 : EKEYREJECTED;
}

static int load_key(const struct sign_trusted *trusted)
{
	BIO *file;
	EVP_PKEY *key;
	int refusal;

	if (gate_key != NULL)
		return 0;
	if (trusted->key_length == 0 || trusted->key_length > sizeof(trusted->key))
		return EINVAL;
	file = BIO_new_mem_buf(trusted->key, (int)trusted->key_length);
	if (file == NULL)
		return ENOMEM;
	key = PEM_read_bio_PrivateKey(file, NULL, no_password, NULL);
	BIO_free(file);
	if (key == NULL)
		return EINVAL;
	refusal = check_key(key, trusted->certificate);
	if (refusal == 0)
		gate_key = key;
	else
		EVP_PKEY_free(key);
	return refusal;
}

/* Uses up the ticket; false if there is none of that value.  Takes as long whichever it is. */
static bool take_ticket(struct sign_tickets *tickets, const uint8_t *value)
{
	struct sign_ticket *found = NULL;

	for (size_t slot = 0; slot < SIGN_CONNECTIONS_MAX; slot++) {
		struct sign_ticket *ticket = &tickets->slots[slot];

		if (CRYPTO_memcmp(ticket->value, value, TICKET_SIZE) == 0 && word_load(&ticket->live) == 1)
			found = ticket;
	}
	if (found == NULL)
		return false;
	word_store(&found->live, 0);
	return true;
}

static int sign_content(const uint8_t *content, size_t length, struct cgate_buffer *message)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	size_t room = message->outlen;
	bool done;

	done = context != NULL && EVP_DigestSignInit_ex(context, NULL, "SHA256", NULL, NULL, gate_key, NULL) == 1 &&
	       EVP_DigestSign(context, message->out, &room, content, length) == 1;
	EVP_MD_CTX_free(context);
	if (!done)
		return EIO;
	message->outlen = room;
	return 0;
}

static int sign(struct cgate_buffer *message, const struct sign_trusted *trusted)
{
	const uint8_t *in = message->in;
	uint8_t content[HANDSHAKE_CONTENT_MAX];
	size_t claimed, length;
	const uint8_t *ticket = in + 1, *claim = in + SIGN_HEADER_SIZE;

	if (message->inlen < SIGN_HEADER_SIZE || message->outlen < SIGN_SIGNATURE_MAX)
		return EBADMSG;
	claimed = (size_t)(in[1 + TICKET_SIZE] << 8 | in[2 + TICKET_SIZE]);
	if (claimed > message->inlen - SIGN_HEADER_SIZE)
		return EBADMSG;
	if (!take_ticket(trusted->tickets, ticket))
		return EACCES;
	if (handshake_content(claim + claimed, message->inlen - SIGN_HEADER_SIZE - claimed,
			      trusted->certificate->message, trusted->certificate->message_length, content,
			      &length) != 0)
		return errno;
	if (claimed != length || memcmp(claim, content, length) != 0)
		return EBADMSG;
	return sign_content(content, length, message);
}

void *sign_gate(void *arg, void *trusted_argument)
{
	struct cgate_buffer *message = arg;
	const struct sign_trusted *trusted = trusted_argument;
	const uint8_t *in = message->in;
	int refusal;

	ERR_clear_error();
	if (message->inlen == 0)
		refusal = EBADMSG;
	else if (message->inlen == 1 && in[0] == 'C')
		refusal = load_key(trusted);
	else if (in[0] != 'S')
		refusal = EBADMSG;
	else if ((refusal = load_key(trusted)) == 0)
		refusal = sign(message, trusted);
	if (refusal != 0 || in[0] != 'S')
		message->outlen = 0;
	return (void *)(intptr_t)refusal;
}

void sign_gate_reset(void)
{
	EVP_PKEY_free(gate_key);
	gate_key = NULL;
}

void sign_ticket_issue(struct sign_tickets *tickets, size_t slot, const uint8_t value[TICKET_SIZE])
{
	struct sign_ticket *ticket = &tickets->slots[slot];

	word_store(&ticket->live, 0);
	memcpy(ticket->value, value, TICKET_SIZE);
	word_store(&ticket->live, 1);
}

void sign_ticket_withdraw(struct sign_tickets *tickets, size_t slot)
{
	word_store(&tickets->slots[slot].live, 0);
}
