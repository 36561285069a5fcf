/*
 * tls.c - the body of the TLS compartment.
 *
 * It moves bytes between four places, none of which may grow without bound: ciphertext in the wire region, two
 * memory BIOs, plaintext in the plain region, and the answer in the reply region.  It holds the session keys of
 * one connection and makes no socket call.
 */
#include "tls.h"

#ifdef DEMO_VULNERABLE
#include "attack.h"
#endif
#include "provider.h"
#include "shared.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <string.h>

enum {
	PIECE_MAX = 16384
}; /* plaintext of one TLS record */

struct tls_state {
	SSL *ssl;
	BIO *in, *out; /* owned by ssl: ciphertext on its way to and from the wire region */
	bool finished; /* our part of the handshake is complete */
	bool open;     /* the handshake is complete */
	bool ended;    /* the peer's stream has ended */
	bool failed;   /* nothing is read or written any more, only what is in out still leaves */
	uint64_t in_consumed, out_produced, reply_consumed;
	uint32_t request; /* number of the request at the beginning of plain */
	uint32_t length;  /* bytes in plain */
	struct wire_region *wire;

	/* The handshake messages so far, behind room for the head of the sign gate's message. */
	uint8_t question[CGATE_BUFFER_MAX];
	size_t messages; /* bytes of messages; over the maximum: too many */
};

enum {
	MESSAGES_AT = SIGN_HEADER_SIZE + HANDSHAKE_CONTENT_MAX,
	MESSAGES_MAX = CGATE_BUFFER_MAX - MESSAGES_AT,
};

static SSL_CTX *server_context;
/* Whose step is running on this thread: the provider's signature function is not told. */
static _Thread_local struct tls_state *current;

void tls_use(SSL_CTX *context)
{
	server_context = context;
}

/* The provider_signer: asks the sign gate, showing it the handshake. */
static int ask_gate(const uint8_t *content, size_t length, uint8_t *signature, size_t room, size_t *signature_length)
{
	struct tls_state *state = current;
	uint8_t *head;
	int asked;

	if (state == NULL || length > HANDSHAKE_CONTENT_MAX || state->messages > MESSAGES_MAX ||
	    room < SIGN_SIGNATURE_MAX)
		return -1;
	/* The head is as long as the content wants it: put it right before the messages. */
	head = state->question + (MESSAGES_AT - SIGN_HEADER_SIZE - length);
	head[0] = 'S';
	memcpy(head + 1, state->wire->ticket, TICKET_SIZE);
	head[1 + TICKET_SIZE] = (uint8_t)(length >> 8);
	head[2 + TICKET_SIZE] = (uint8_t)length;
	memcpy(head + SIGN_HEADER_SIZE, content, length);
#ifdef DEMO_VULNERABLE
	attack_sign(state->ssl, state->wire, head, SIGN_HEADER_SIZE + length + state->messages);
#endif
	*signature_length = SIGN_SIGNATURE_MAX;
	asked = gate_call(state->wire->sign_gate, head, SIGN_HEADER_SIZE + length + state->messages, signature,
			  signature_length);
	state->messages = MESSAGES_MAX + 1; /* nothing is collected any more */
	return asked;
}

int tls_library_init(void)
{
	/* No exit handler: after compartments_init() the main loop runs nothing of OpenSSL. */
	if (OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT | OPENSSL_INIT_LOAD_SSL_STRINGS, NULL) != 1)
		return -1;
	return provider_load(ask_gate);
}

static void on_message(int sent, int version, int content_type, const void *bytes, size_t length, SSL *ssl, void *arg)
{
	struct tls_state *state = arg;

	(void)version;
	(void)ssl;
	if (sent != 0 && content_type == SSL3_RT_HANDSHAKE && length > 0 && *(const uint8_t *)bytes == SSL3_MT_FINISHED)
		state->finished = true;
	if (content_type != SSL3_RT_HANDSHAKE || state->messages > MESSAGES_MAX)
		return;
	if (length > MESSAGES_MAX - state->messages) {
		state->messages = MESSAGES_MAX + 1;
		return;
	}
	memcpy(state->question + MESSAGES_AT + state->messages, bytes, length);
	state->messages += length;
}

/* Draws no random number: what is made here is in every connection's memory. */
static void tls_prepare(void *private_memory)
{
	struct tls_state *state = private_memory;
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());

	if (in != NULL && out != NULL)
		state->ssl = SSL_new(server_context);
	if (state->ssl == NULL) {
		BIO_free(in);
		BIO_free(out);
		return;
	}
	state->in = in;
	state->out = out;
	SSL_set_bio(state->ssl, in, out);
	SSL_set_accept_state(state->ssl);
	SSL_set_msg_callback(state->ssl, on_message);
	SSL_set_msg_callback_arg(state->ssl, state);
}

static bool tls_start(struct tls_state *state, struct wire_region *wire)
{
	if (state->ssl == NULL)
		return false;
	state->wire = wire;
	state->request = 1;
	word_store(&wire->plain->request, state->request);
	return true;
}

/* Decides what the result of an SSL call means; true if it only wants more input. */
static bool wants_input(struct tls_state *state, int result)
{
	switch (SSL_get_error(state->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		return true;
	case SSL_ERROR_ZERO_RETURN:
		state->ended = true;
		return true;
	default:
		state->failed = true;
		return false;
	}
}

/* wire.in to the input BIO, which is filled only when it is empty. */
static bool take_wire(struct tls_state *state)
{
	struct wire_region *wire = state->wire;
	size_t fill, piece;
	int written;

	if (!ring_fill(position_load(&wire->in_produced), state->in_consumed, WIRE_IN_SIZE, &fill) || fill == 0 ||
	    BIO_ctrl_pending(state->in) > 0)
		return false;
	piece = ring_piece(state->in_consumed, fill, WIRE_IN_SIZE);
	written = BIO_write(state->in, wire->in + ring_offset(state->in_consumed, WIRE_IN_SIZE), (int)piece);
	if (written <= 0) {
		state->failed = true;
		return false;
	}
	state->in_consumed += (uint64_t)written;
	position_store(&wire->in_consumed, state->in_consumed);
	return true;
}

/* The output BIO to wire.out. */
static bool give_wire(struct tls_state *state)
{
	struct wire_region *wire = state->wire;
	bool moved = false;
	size_t fill, piece;
	int got;

	while (ring_fill(state->out_produced, position_load(&wire->out_consumed), WIRE_OUT_SIZE, &fill)) {
		piece = ring_piece(state->out_produced, WIRE_OUT_SIZE - fill, WIRE_OUT_SIZE);
		if (piece == 0 || BIO_ctrl_pending(state->out) == 0)
			break;
		got = BIO_read(state->out, wire->out + ring_offset(state->out_produced, WIRE_OUT_SIZE), (int)piece);
		if (got <= 0)
			break;
		state->out_produced += (uint64_t)got;
		position_store(&wire->out_produced, state->out_produced);
		moved = true;
	}
	return moved;
}

/* How much the client will send at least, if a request is to come with the last message of its handshake (RFC 8446, 4.4.4, 5.1
 * and D.4): a record that says change_cipher_spec, one with Finished, and some of the next one. */
static uint32_t last_flight(const SSL *ssl)
{
	enum {
		RECORD_HEADER = 5,
		CHANGE_CIPHER_SPEC = RECORD_HEADER + 1,
		MESSAGE_HEADER = 4,
		CONTENT_TYPE = 1,
		AEAD_TAG = 16 /* all suites of TLS 1.3 that are offered */
	};
	const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
	const EVP_MD *hash = cipher == NULL ? NULL : SSL_CIPHER_get_handshake_digest(cipher);

	if (hash == NULL || SSL_version(ssl) != TLS1_3_VERSION)
		return 0;
	return CHANGE_CIPHER_SPEC + RECORD_HEADER + MESSAGE_HEADER + (uint32_t)EVP_MD_get_size(hash) + CONTENT_TYPE +
	       AEAD_TAG + 1;
}

static bool shake_hands(struct tls_state *state)
{
	int result = SSL_do_handshake(state->ssl);

	if (result != 1) {
		if (wants_input(state, result) && state->finished)
			word_store(&state->wire->wanted, last_flight(state->ssl));
		return false;
	}
	state->open = true;
	OPENSSL_cleanse(state->question, sizeof(state->question));
	word_store(&state->wire->status, STATUS_OPEN);
#ifdef DEMO_VULNERABLE
	state->failed = attack_tls(state->ssl, state->wire);
#endif
	return true;
}

/* Decrypts into plain, behind what is there. */
static bool read_plain(struct tls_state *state)
{
	struct plain_region *plain = state->wire->plain;
	uint32_t room = PLAIN_SIZE - state->length;
	int got;

	if (room == 0 || state->ended)
		return false;
	got = SSL_read(state->ssl, plain->data + state->length, (int)room);
	if (got <= 0) {
		(void)wants_input(state, got);
		return false;
	}
	state->length += (uint32_t)got;
	word_store(&plain->length, state->length);
	return true;
}

/* Encrypts one piece of the reply. */
static bool write_reply(struct tls_state *state)
{
	const struct reply_region *reply = state->wire->reply;
	size_t fill, piece;
	int sent;

	if (!ring_fill(position_load(&reply->produced), state->reply_consumed, REPLY_SIZE, &fill) || fill == 0)
		return false;
	piece = ring_piece(state->reply_consumed, fill, REPLY_SIZE);
	if (piece > PIECE_MAX)
		piece = PIECE_MAX;
	sent = SSL_write(state->ssl, reply->data + ring_offset(state->reply_consumed, REPLY_SIZE), (int)piece);
	if (sent <= 0) {
		state->failed = true;
		return false;
	}
	state->reply_consumed += (uint64_t)sent;
	position_store(&state->wire->plain->reply_consumed, state->reply_consumed);
	return true;
}

/* Main has seen a request end: what it took leaves plain, what lies behind it belongs to the next one. */
static void next_request(struct tls_state *state)
{
	struct wire_region *wire = state->wire;
	struct plain_region *plain = wire->plain;
	uint32_t number = word_load(&wire->request), taken;

	if (number == state->request)
		return;
	taken = word_load(&wire->request_length);
	if (taken > state->length) {
		state->failed = true;
		return;
	}
	memmove(plain->data, plain->data + taken, state->length - taken);
	memset(plain->data + state->length - taken, 0, taken);
	state->length -= taken;
	state->request = number;
	state->reply_consumed = 0;
	word_store(&plain->length, state->length);
	position_store(&plain->reply_consumed, 0);
	word_store(&plain->request, number);
}

static void move_bytes(struct tls_state *state)
{
	bool moved = true;

	/* Ends: every turn moves bytes from or to a ring, and nobody refills or empties rings meanwhile. */
	while (moved && !state->failed) {
		moved = give_wire(state);
		if (BIO_ctrl_pending(state->out) > 0)
			break; /* the peer reads slowly: nothing new for it before it has caught up */
		moved |= take_wire(state);
		if (!state->open) {
			moved |= shake_hands(state);
		} else {
			moved |= read_plain(state);
			if (!state->failed)
				moved |= write_reply(state);
		}
	}
}

static enum step tls_step(void *private_memory, void *shared)
{
	struct tls_state *state = private_memory;
	uint32_t orders;

	current = state;
	ERR_clear_error();
	if (state->wire == NULL && !tls_start(state, shared))
		return STEP_DONE;
	word_store(&state->wire->wanted, 0);
	orders = word_load(&state->wire->orders);
	if (!state->failed)
		next_request(state);
	move_bytes(state);
	if (!state->failed && BIO_ctrl_pending(state->out) == 0) {
		/* move_bytes() stopped because there was nothing more to move. */
		if ((orders & ORDER_INPUT_ENDED) != 0 && BIO_ctrl_pending(state->in) == 0)
			state->ended = true;
		if (state->ended && !state->open)
			state->failed = true;
		if ((orders & ORDER_CLOSE) != 0) {
			(void)SSL_shutdown(state->ssl);
			state->failed = true;
		}
	}
	if (state->ended)
		word_store(&state->wire->status, STATUS_OPEN | STATUS_INPUT_ENDED);
	(void)give_wire(state);
	current = NULL;
	return state->failed && BIO_ctrl_pending(state->out) == 0 ? STEP_DONE : STEP_PARK;
}

static void tls_finish(void *private_memory)
{
	struct tls_state *state = private_memory;

	SSL_free(state->ssl);
	OPENSSL_cleanse(state, sizeof(*state));
}

static void *tls_body(void *shared)
{
	return compartment_body(&tls_kind, shared);
}

static void *tls_prepare_body(void *given)
{
	return compartment_prepare(&tls_kind, given);
}

const struct compartment_kind tls_kind = {
	.name = "TLS sthread",
	.body = tls_body,
	.prepare_body = tls_prepare_body,
	.private_size = sizeof(struct tls_state),
	.prepare = tls_prepare,
	.step = tls_step,
	.finish = tls_finish,
};
