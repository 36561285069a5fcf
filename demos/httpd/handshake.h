/*
 * handshake.h - what a TLS 1.3 server signs, computed from the handshake messages themselves.
 */
#ifndef HTTPD_HANDSHAKE_H
#define HTTPD_HANDSHAKE_H

#include <stddef.h>
#include <stdint.h>

enum {
	HANDSHAKE_CONTENT_MAX = 64 + 33 + 1 + 48
};

/*
 * Checks that messages are exactly the messages of one TLS 1.3 handshake, as a server sees it, up to the point
 * where it must prove that it has the key (RFC 8446 4.4.3), without pre-shared key:
 *
 *	ClientHello [HelloRetryRequest ClientHello] ServerHello EncryptedExtensions Certificate
 *
 * where Certificate is byte for byte the message in certificate.  Then writes the content of the server's
 * CertificateVerify: 64 spaces, the server's context string, a zero byte, the transcript hash.
 * Returns 0; -1 with errno EBADMSG: they are not; ENOMEM: the hash could not be computed.
 */
int handshake_content(const uint8_t *messages, size_t length, const uint8_t *certificate, size_t certificate_length,
		      uint8_t content[HANDSHAKE_CONTENT_MAX], size_t *content_length);

#endif
