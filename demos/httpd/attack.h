/*
 * attack.h - what a part of the server would do for somebody who has taken it over.
 *
 * Compiled with DEMO_VULNERABLE only, into tests/httpd_vulnerable, which is never installed: that server does what its
 * peer asks for, with the rights of the part that is asked, so that what each isolation gives away can be seen.
 *
 *	GET /attack/NAME		the request part attacks
 *	server name attack-NAME		the TLS part attacks, once its handshake is done
 *	server name sign-NAME		the TLS part asks the sign gate a wrong question, and ends with exit(errno)
 *
 * Environment: ATTACK_NEEDLES, a file of lines "NAME HEX", is what "scan" searches for; each byte has its highest bit
 * turned over, so that the list is not what is found.  ATTACK_EARLY_KEY, a key file that is read before the snapshot:
 * the mistake that "scan" must notice.  ATTACK_HOST, one of ssl, crypto, parser: what the main loop runs when it should
 * not.
 */
#ifndef HTTPD_ATTACK_H
#define HTTPD_ATTACK_H

#include "http.h"
#include "shared.h"

#include <openssl/ssl.h>

/* Before compartments_init(). */
void attack_prepare(void);
/* After compartments_init().  Tells the peer what it could only guess. */
void attack_announce(const void *key, int sign_gate);

/* Composes the whole answer if the request asks for an attack; else returns 0. */
size_t attack_request(struct http_request *request, const struct reply_region *reply, char *out, size_t room);
/* Attacks if the server name says so, and writes what came of it to the peer.  True if it did. */
bool attack_tls(SSL *ssl, const struct wire_region *wire);
/* Before the sign gate is asked: returns if the server name asks for nothing else. */
void attack_sign(SSL *ssl, const struct wire_region *wire, const uint8_t *question, size_t length);

#endif
