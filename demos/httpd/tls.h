/*
 * tls.h - the TLS compartment: speaks TLS 1.3 to one peer.  One per connection.
 */
#ifndef HTTPD_TLS_H
#define HTTPD_TLS_H

#include "compartment.h"
#include "sign.h"

#include <openssl/ssl.h>

/* The shared memory of this kind is a struct wire_region. */
extern const struct compartment_kind tls_kind;

/* What a server context is made for. */
struct tls_identity {
	SSL_CTX *context;
	struct sign_certificate certificate;
};

/* Prepares OpenSSL for the whole process.  0 or -1 (the reason is in OpenSSL's error queue). */
int tls_library_init(void);
/* Makes the context that every connection starts from.  file is a PEM chain, or NULL: then leaf is used.
 * Returns NULL, or one sentence that says what is wrong. */
const char *tls_identity_load(struct tls_identity *identity, const char *file, X509 *leaf);
/* Chooses what new TLS compartments use.  With sthreads: before compartments_init(). */
void tls_use(SSL_CTX *context);

#endif
