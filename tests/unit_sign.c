/*
 * unit_sign.c - the sign gate signs a true handshake of its own certificate, once for each ticket, and nothing else.
 */
#include "unit_sign.h"

#include <errno.h>
#include <openssl/rsa.h>

/* Asks the gate with a fresh ticket; returns 0 or the refusal. */
static int ask(const uint8_t *in, size_t length, uint8_t *signature, size_t *signature_length)
{
	size_t room = SIGN_SIGNATURE_MAX;

	sign_ticket_issue(&tickets, 3, ticket);
	*signature_length = 0;
	if (gate_call(0, in, length, signature, &room) != 0)
		return errno;
	*signature_length = room;
	return 0;
}

static int ask_only(const uint8_t *in, size_t length)
{
	uint8_t signature[SIGN_SIGNATURE_MAX];
	size_t signature_length;

	return ask(in, length, signature, &signature_length);
}

static size_t compose(uint8_t *out, const uint8_t *claim, size_t claimed, const uint8_t *rest, size_t length)
{
	out[0] = 'S';
	memcpy(out + 1, ticket, TICKET_SIZE);
	out[1 + TICKET_SIZE] = (uint8_t)(claimed >> 8);
	out[2 + TICKET_SIZE] = (uint8_t)claimed;
	if (claimed > 0)
		memcpy(out + SIGN_HEADER_SIZE, claim, claimed);
	if (length > 0)
		memcpy(out + SIGN_HEADER_SIZE + claimed, rest, length);
	return SIGN_HEADER_SIZE + claimed + length;
}

/* ---- what is signed ---- */

static void check_signature(const uint8_t *content, size_t length)
{
	uint8_t signature[SIGN_SIGNATURE_MAX];
	size_t signature_length;
	EVP_MD_CTX *context = EVP_MD_CTX_new();

	CU_ASSERT_EQUAL(ask(question, question_length, signature, &signature_length), 0);
	CU_ASSERT_EQUAL(EVP_DigestVerifyInit_ex(context, NULL, "SHA256", NULL, NULL, key, NULL), 1);
	CU_ASSERT_EQUAL(EVP_DigestVerify(context, signature, signature_length, content, length), 1);
	EVP_MD_CTX_free(context);
}

static void true_handshakes_are_signed(void)
{
	static const struct {
		const char *suite;
		const EVP_MD *(*hash)(void);
	} suites[] = {
		{ "TLS_AES_128_GCM_SHA256", EVP_sha256 },
		{ "TLS_AES_256_GCM_SHA384", EVP_sha384 },
		{ "TLS_CHACHA20_POLY1305_SHA256", EVP_sha256 },
	};

	for (size_t i = 0; i < 3; i++) {
		uint8_t content[200];
		unsigned length;
		size_t size;
		const uint8_t *at;

		set_up();
		CU_ASSERT_TRUE(shake_hands(suites[i].suite, "X25519"));
		CU_ASSERT_EQUAL(questions, 1);
		memset(content, 0x20, 64);
		memcpy(content + 64, "TLS 1.3, server CertificateVerify\0", 34);
		at = messages(&size);
		CU_ASSERT_EQUAL(EVP_Digest(at, size, content + 98, &length, suites[i].hash(), NULL), 1);
		check_signature(content, 98 + length);
	}
}

static void retried_handshakes_are_signed(void)
{
	uint8_t content[200], synthetic[CGATE_BUFFER_MAX] = { 254, 0, 0, 32 };
	size_t first, size;
	unsigned length;
	const uint8_t *at;

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "P-521:P-384"));
	at = messages(&size);
	(void)message(0, &first);
	CU_ASSERT_EQUAL(EVP_Digest(at, first, synthetic + 4, &length, EVP_sha256(), NULL), 1);
	memcpy(synthetic + 36, at + first, size - first);
	memset(content, 0x20, 64);
	memcpy(content + 64, "TLS 1.3, server CertificateVerify\0", 34);
	CU_ASSERT_EQUAL(EVP_Digest(synthetic, 36 + size - first, content + 98, &length, EVP_sha256(), NULL), 1);
	check_signature(content, 98 + length);
}

/* ---- what is not ---- */

static void tickets_are_used_up(void)
{
	uint8_t signature[SIGN_SIGNATURE_MAX];
	size_t length, room;

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	room = sizeof(signature);
	CU_ASSERT_EQUAL(gate_call(0, question, question_length, signature, &room), -1);
	CU_ASSERT_EQUAL(errno, EACCES);
	CU_ASSERT_EQUAL(ask(question, question_length, signature, &length), 0);
	room = sizeof(signature);
	CU_ASSERT_EQUAL(gate_call(0, question, question_length, signature, &room), -1);
	CU_ASSERT_EQUAL(errno, EACCES);

	/* A refused attempt uses the ticket up, too. */
	question[SIGN_HEADER_SIZE] ^= 1;
	CU_ASSERT_EQUAL(ask_only(question, question_length), EBADMSG);
	question[SIGN_HEADER_SIZE] ^= 1;
	room = sizeof(signature);
	CU_ASSERT_EQUAL(gate_call(0, question, question_length, signature, &room), -1);
	CU_ASSERT_EQUAL(errno, EACCES);

	sign_ticket_issue(&tickets, 3, ticket);
	sign_ticket_withdraw(&tickets, 3);
	CU_ASSERT_EQUAL(gate_call(0, question, question_length, signature, &room), -1);
	CU_ASSERT_EQUAL(errno, EACCES);
}

static void other_tickets_are_refused(void)
{
	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	for (size_t i = 0; i < TICKET_SIZE; i++) {
		question[1 + i] ^= 0x10;
		CU_ASSERT_EQUAL(ask_only(question, question_length), EACCES);
		question[1 + i] ^= 0x10;
	}
	memset(question + 1, 0, TICKET_SIZE); /* as empty slots have it */
	CU_ASSERT_EQUAL(ask_only(question, question_length), EACCES);
}

static void every_cut_is_refused(void)
{
	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	for (size_t length = 0; length < question_length; length++) {
		uint8_t *copy = malloc(length + 1);

		memcpy(copy, question, length);
		CU_ASSERT_EQUAL(ask_only(copy, length), EBADMSG);
		free(copy);
	}
	CU_ASSERT_EQUAL(ask_only(question, question_length), 0);
}

static void additions_are_refused(void)
{
	uint8_t longer[CGATE_BUFFER_MAX + 1];
	size_t length, size;
	const uint8_t *at;

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	memset(longer, 0, sizeof(longer));
	memcpy(longer, question, question_length);
	CU_ASSERT_EQUAL(ask_only(longer, question_length), 0);
	CU_ASSERT_EQUAL(ask_only(longer, question_length + 1), EBADMSG);
	CU_ASSERT_EQUAL(ask_only(longer, CGATE_BUFFER_MAX), EBADMSG);
	CU_ASSERT_EQUAL(ask_only(longer, CGATE_BUFFER_MAX + 1), EMSGSIZE);
	at = message(3, &size);
	memcpy(longer + question_length, at, size);
	length = question_length + size;
	CU_ASSERT_EQUAL(ask_only(longer, length), EBADMSG);
}

static void every_changed_byte_is_refused(void)
{
	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_256_GCM_SHA384", "X25519"));
	for (size_t at = 0; at < question_length; at++) {
		int refusal;

		question[at] ^= 1;
		refusal = ask_only(question, question_length);
		CU_ASSERT_TRUE(refusal == EBADMSG || (refusal == EACCES && at >= 1 && at <= TICKET_SIZE));
		question[at] ^= 1;
	}
	CU_ASSERT_EQUAL(ask_only(question, question_length), 0);
}

static void arbitrary_bytes_are_refused(void)
{
	uint8_t bytes[600];

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_256_GCM_SHA384", "X25519"));
	srand(1);
	for (int i = 0; i < 20000; i++) {
		size_t length = (size_t)rand() % sizeof(bytes);

		for (size_t at = 0; at < length; at++)
			bytes[at] = (uint8_t)rand();
		if (i % 2 == 0 && length > SIGN_HEADER_SIZE) {
			bytes[0] = 'S';
			memcpy(bytes + 1, ticket, TICKET_SIZE);
			bytes[1 + TICKET_SIZE] = 0;
			if (i % 4 == 0 && length > SIGN_HEADER_SIZE + 200u) {
				bytes[2 + TICKET_SIZE] = 0;
				memcpy(bytes + SIGN_HEADER_SIZE, question + SIGN_HEADER_SIZE + claim_length(),
				       (size_t)rand() % 200);
			}
		}
		CU_ASSERT_NOT_EQUAL(ask_only(bytes, length), 0);
	}
}

static void bare_hashes_are_refused(void)
{
	uint8_t in[CGATE_BUFFER_MAX], content[HANDSHAKE_CONTENT_MAX];
	size_t claimed, length;
	const uint8_t *at;

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	claimed = claim_length();
	memcpy(content, question + SIGN_HEADER_SIZE, claimed);
	at = messages(&length);
	/* The content without the messages; the hash alone, as claim, as messages, as both. */
	CU_ASSERT_EQUAL(ask_only(in, compose(in, content, claimed, NULL, 0)), EBADMSG);
	CU_ASSERT_EQUAL(ask_only(in, compose(in, content + 98, 32, NULL, 0)), EBADMSG);
	CU_ASSERT_EQUAL(ask_only(in, compose(in, NULL, 0, content + 98, 32)), EBADMSG);
	CU_ASSERT_EQUAL(ask_only(in, compose(in, content + 98, 32, content + 98, 32)), EBADMSG);
	CU_ASSERT_EQUAL(ask_only(in, compose(in, content + 98, 32, at, length)), EBADMSG);
	CU_ASSERT_EQUAL(ask_only(in, compose(in, NULL, 0, at, length)), EBADMSG);
	/* The control: the same through the same function, complete. */
	CU_ASSERT_EQUAL(ask_only(in, compose(in, content, claimed, at, length)), 0);
}

static void client_context_is_refused(void)
{
	uint8_t in[CGATE_BUFFER_MAX], content[HANDSHAKE_CONTENT_MAX];
	size_t length;
	const uint8_t *at;

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	memcpy(content, question + SIGN_HEADER_SIZE, claim_length());
	memcpy(content + 64, "TLS 1.3, client CertificateVerify", 33);
	at = messages(&length);
	CU_ASSERT_EQUAL(ask_only(in, compose(in, content, claim_length(), at, length)), EBADMSG);
}

static void other_certificates_are_refused(void)
{
	uint8_t in[CGATE_BUFFER_MAX], content[HANDSHAKE_CONTENT_MAX];
	size_t length, content_length;
	const uint8_t *at;

	/* A true handshake of the other certificate, which this gate is asked to sign. */
	set_up();
	tls_use(other_identity.context);
	CU_ASSERT_FALSE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	CU_ASSERT_EQUAL(questions, 1);
	CU_ASSERT_EQUAL(ask_only(question, question_length), EBADMSG);
	/* The control: for that certificate's gate it would be right. */
	at = messages(&length);
	CU_ASSERT_EQUAL(handshake_content(at, length, other_identity.certificate.message,
					  other_identity.certificate.message_length, content, &content_length),
			0);
	CU_ASSERT_EQUAL(ask_only(in, compose(in, content, content_length, at, length)), EBADMSG);
}

/* ---- the key ---- */

static int check_key(void)
{
	size_t none = 0;

	sign_gate_reset();
	return gate_call(0, "C", 1, NULL, &none) == 0 ? 0 : errno;
}

static void unfit_keys_are_refused(void)
{
	EVP_PKEY *unfit;

	set_up();
	CU_ASSERT_EQUAL(check_key(), 0);
	store_key(other_key, NULL);
	CU_ASSERT_EQUAL(check_key(), EKEYREJECTED);
	unfit = EVP_EC_gen("P-384");
	store_key(unfit, NULL);
	EVP_PKEY_free(unfit);
	CU_ASSERT_EQUAL(check_key(), ENOTSUP);
	unfit = EVP_RSA_gen(2048);
	store_key(unfit, NULL);
	EVP_PKEY_free(unfit);
	CU_ASSERT_EQUAL(check_key(), ENOTSUP);
	store_key(key, EVP_aes_128_cbc());
	CU_ASSERT_EQUAL(check_key(), EINVAL);
	store_key(key, NULL);
	trusted.key_length--; /* the final line end may be missing, no more */
	CU_ASSERT_EQUAL(check_key(), 0);
	trusted.key_length -= 20;
	CU_ASSERT_EQUAL(check_key(), EINVAL);
	trusted.key_length = 0;
	CU_ASSERT_EQUAL(check_key(), EINVAL);
	trusted.key_length = sizeof(trusted.key) + 1;
	CU_ASSERT_EQUAL(check_key(), EINVAL);
}

static void stand_in_has_no_private_half(void)
{
	EVP_PKEY *stand_in;
	BIGNUM *scalar = NULL;
	unsigned char *der = NULL;

	set_up();
	stand_in = provider_key(identity.certificate.public_key, SIGN_PUBLIC_KEY_SIZE);
	CU_ASSERT_PTR_NOT_NULL_FATAL(stand_in);
	CU_ASSERT_NOT_EQUAL(EVP_PKEY_get_bn_param(stand_in, "priv", &scalar), 1);
	CU_ASSERT_PTR_NULL(scalar);
	CU_ASSERT_TRUE(i2d_PrivateKey(stand_in, &der) <= 0);
	EVP_PKEY_free(stand_in);
	ERR_clear_error();
}

static const struct harness_test tests[] = {
	{ "a true handshake is signed, with each suite, and the signature verifies", true_handshakes_are_signed, 0, 0 },
	{ "a handshake with HelloRetryRequest is signed", retried_handshakes_are_signed, 0, 0 },
	{ "a ticket pays for one attempt", tickets_are_used_up, 0, 0 },
	{ "a ticket that was not issued is refused", other_tickets_are_refused, 0, 0 },
	{ "a question cut anywhere is refused", every_cut_is_refused, 0, 0 },
	{ "a question with anything behind it, or too long, is refused", additions_are_refused, 0, 0 },
	{ "a question with any byte changed is refused", every_changed_byte_is_refused, 0, 60 },
	{ "arbitrary bytes are refused", arbitrary_bytes_are_refused, 0, 60 },
	{ "a bare hash, or content without its messages, is refused", bare_hashes_are_refused, 0, 0 },
	{ "the client's context string is refused", client_context_is_refused, 0, 0 },
	{ "a handshake with another certificate is refused", other_certificates_are_refused, 0, 0 },
	{ "a key that is not the certificate's, not P-256, encrypted or cut is refused", unfit_keys_are_refused, 0, 0 },
	{ "the key that libssl sees has no private half", stand_in_has_no_private_half, 0, 0 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
