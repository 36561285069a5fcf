/*
 * sign.h - the sign gate: the only place that holds the server's private key.
 *
 * It answers two questions, in messages of the form
 *
 *	'C'						is the key usable, and that of the certificate?
 *	'S' ticket[16] length[2] content messages...	sign this handshake
 *
 * and signs only what it has built itself from the handshake messages (see handshake.h); content is what the
 * caller wants signed, and must equal it.  Each ticket pays for one attempt.  Tickets are issued by the main loop,
 * one per connection; only main and the gate can reach the table.
 */
#ifndef HTTPD_SIGN_H
#define HTTPD_SIGN_H

#include "handshake.h"
#include "shared.h"

enum {
	SIGN_CONNECTIONS_MAX = 512,
	SIGN_KEY_FILE_MAX = 16384,
	SIGN_PUBLIC_KEY_SIZE = 65, /* P-256, uncompressed */
	SIGN_SIGNATURE_MAX = 80,
	SIGN_HEADER_SIZE = 1 + TICKET_SIZE + 2,
	/* So that hellos of a generous size still fit into a message together with the certificate. */
	SIGN_CERTIFICATE_MAX = 8192,
};

struct sign_ticket {
	shared_word live;
	uint8_t value[TICKET_SIZE];
};

struct sign_tickets {
	struct sign_ticket slots[SIGN_CONNECTIONS_MAX];
};

/* What the gate knows of the certificate: public, made before the snapshot. */
struct sign_certificate {
	uint8_t public_key[SIGN_PUBLIC_KEY_SIZE];
	uint8_t message[SIGN_CERTIFICATE_MAX]; /* the whole Certificate message */
	size_t message_length;
};

/* The gate's trusted argument, in the key's own memory, which main fills and only the gate may read. */
struct sign_trusted {
	const struct sign_certificate *certificate;
	struct sign_tickets *tickets;
	size_t key_length;
	uint8_t key[SIGN_KEY_FILE_MAX]; /* the file as it is: PEM */
};

/*
 * The gate: a cgate_fn.  Its refusals: EBADMSG the message or handshake is not what it must be; EACCES no such
 * ticket, or a used one; EINVAL the key is not an unencrypted private key in PEM; ENOTSUP it is not on P-256;
 * EKEYREJECTED it is not the certificate's; EIO signing failed.
 */
void *sign_gate(void *arg, void *trusted);
/* Forgets the key that the gate has read.  For the warm-up, whose key is thrown away, and for tests. */
void sign_gate_reset(void);

/* Issues value as the ticket of one connection's slot, whatever was there before. */
void sign_ticket_issue(struct sign_tickets *tickets, size_t slot, const uint8_t value[TICKET_SIZE]);
/* Withdraws it. */
void sign_ticket_withdraw(struct sign_tickets *tickets, size_t slot);

#endif
