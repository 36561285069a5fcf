/*
 * provider.h - an OpenSSL provider whose private keys are elsewhere.
 *
 * libssl insists on a private EVP_PKEY.  This built-in provider makes one that holds the public half only and
 * passes what is to be signed, whole, to a function.
 */
#ifndef HTTPD_PROVIDER_H
#define HTTPD_PROVIDER_H

#include <openssl/evp.h>
#include <stddef.h>
#include <stdint.h>

/* Signs content (ECDSA P-256, SHA-256): at most room bytes to signature.  0 or -1. */
typedef int (*provider_signer)(const uint8_t *content, size_t length, uint8_t *signature, size_t room,
			       size_t *signature_length);

/* Registers and loads the provider, and the default one beside it.  0 or -1. */
int provider_load(provider_signer signer);
/* A P-256 key with this public half (uncompressed, 65 bytes).  NULL on failure. */
EVP_PKEY *provider_key(const uint8_t *public_key, size_t length);

#endif
