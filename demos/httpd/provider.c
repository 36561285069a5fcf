/*
 * provider.c - the built-in provider: key management for public halves, and a signature that asks someone else.
 */
#include "provider.h"

#include "sign.h"

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <stdbool.h>
#include <string.h>

#define PROVIDER_NAME "sthread-httpd-key"
#define PROVIDER_PROPERTY "provider=" PROVIDER_NAME
#define SIGNATURE_NAME "STHREAD-HTTPD-ECDSA"

struct key {
	bool filled;
	uint8_t public_key[SIGN_PUBLIC_KEY_SIZE];
};

struct signature {
	bool ready;
};

static provider_signer sign_elsewhere;
static char group_name[] = "prime256v1";

/* ---- key management ---- */

static void *key_new(void *provider)
{
	(void)provider;
	return OPENSSL_zalloc(sizeof(struct key));
}

static void key_free(void *key)
{
	OPENSSL_free(key);
}

/* Says yes to a private half as well: somebody has it. */
static int key_has(const void *data, int selection)
{
	const struct key *key = data;

	(void)selection;
	return key != NULL && key->filled;
}

static int key_match(const void *data_a, const void *data_b, int selection)
{
	const struct key *a = data_a, *b = data_b;

	(void)selection;
	return a->filled && b->filled && memcmp(a->public_key, b->public_key, sizeof(a->public_key)) == 0;
}

static const OSSL_PARAM *key_types(int selection)
{
	static const OSSL_PARAM types[] = {
		OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
		OSSL_PARAM_END,
	};

	(void)selection;
	return types;
}

static int key_import(void *data, int selection, const OSSL_PARAM params[])
{
	struct key *key = data;
	const OSSL_PARAM *group = OSSL_PARAM_locate_const(params, OSSL_PKEY_PARAM_GROUP_NAME);
	const OSSL_PARAM *public_key = OSSL_PARAM_locate_const(params, OSSL_PKEY_PARAM_PUB_KEY);
	const char *name;

	(void)selection;
	if (group == NULL || OSSL_PARAM_get_utf8_string_ptr(group, &name) != 1 || strcmp(name, group_name) != 0 ||
	    public_key == NULL || public_key->data_type != OSSL_PARAM_OCTET_STRING ||
	    public_key->data_size != sizeof(key->public_key))
		return 0;
	memcpy(key->public_key, public_key->data, sizeof(key->public_key));
	key->filled = true;
	return 1;
}

static int key_export(void *data, int selection, OSSL_CALLBACK *callback, void *arg)
{
	struct key *key = data;
	OSSL_PARAM params[] = {
		OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group_name, sizeof(group_name) - 1),
		OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, key->public_key, sizeof(key->public_key)),
		OSSL_PARAM_END,
	};

	if (!key->filled || (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0)
		return 0;
	return callback(params, arg);
}

static const OSSL_PARAM *key_gettable(void *provider)
{
	static const OSSL_PARAM gettable[] = {
		OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, NULL),
		OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, NULL),
		OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, NULL),
		OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
		OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, NULL, 0),
		OSSL_PARAM_END,
	};

	(void)provider;
	return gettable;
}

static int set_number(OSSL_PARAM params[], const char *name, int value)
{
	OSSL_PARAM *param = OSSL_PARAM_locate(params, name);

	return param == NULL || OSSL_PARAM_set_int(param, value);
}

static int set_text(OSSL_PARAM params[], const char *name, const char *value)
{
	OSSL_PARAM *param = OSSL_PARAM_locate(params, name);

	return param == NULL || OSSL_PARAM_set_utf8_string(param, value);
}

static int key_get(void *data, OSSL_PARAM params[])
{
	(void)data;
	return set_number(params, OSSL_PKEY_PARAM_BITS, 256) &&
	       set_number(params, OSSL_PKEY_PARAM_SECURITY_BITS, 128) &&
	       set_number(params, OSSL_PKEY_PARAM_MAX_SIZE, SIGN_SIGNATURE_MAX) &&
	       set_text(params, OSSL_PKEY_PARAM_GROUP_NAME, group_name) &&
	       set_text(params, OSSL_PKEY_PARAM_DEFAULT_DIGEST, "SHA256");
}

static const char *key_operation(int operation)
{
	return operation == OSSL_OP_SIGNATURE ? SIGNATURE_NAME : NULL;
}

static const OSSL_DISPATCH key_functions[] = {
	{ OSSL_FUNC_KEYMGMT_NEW, (void (*)(void))key_new },
	{ OSSL_FUNC_KEYMGMT_FREE, (void (*)(void))key_free },
	{ OSSL_FUNC_KEYMGMT_HAS, (void (*)(void))key_has },
	{ OSSL_FUNC_KEYMGMT_MATCH, (void (*)(void))key_match },
	{ OSSL_FUNC_KEYMGMT_IMPORT, (void (*)(void))key_import },
	{ OSSL_FUNC_KEYMGMT_IMPORT_TYPES, (void (*)(void))key_types },
	{ OSSL_FUNC_KEYMGMT_EXPORT, (void (*)(void))key_export },
	{ OSSL_FUNC_KEYMGMT_EXPORT_TYPES, (void (*)(void))key_types },
	{ OSSL_FUNC_KEYMGMT_GET_PARAMS, (void (*)(void))key_get },
	{ OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, (void (*)(void))key_gettable },
	{ OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, (void (*)(void))key_operation },
	{ 0, NULL },
};

/* ---- signature ---- */

static void *signature_new(void *provider, const char *properties)
{
	(void)provider;
	(void)properties;
	return OPENSSL_zalloc(sizeof(struct signature));
}

static void signature_free(void *signature)
{
	OPENSSL_free(signature);
}

/* Called more than once for one signature. */
static int signature_init(void *data, const char *digest, void *key, const OSSL_PARAM params[])
{
	struct signature *signature = data;

	(void)params;
	if (key != NULL)
		signature->ready = key_has(key, 0);
	return signature->ready && (digest == NULL || strcmp(digest, "SHA256") == 0 || strcmp(digest, "SHA2-256") == 0);
}

/* room is 0 when out is NULL: the call then only asks for the size. */
static int signature_sign(void *data, unsigned char *out, size_t *length, size_t room, const unsigned char *content,
			  size_t content_length)
{
	struct signature *signature = data;

	if (!signature->ready)
		return 0;
	if (out == NULL) {
		*length = SIGN_SIGNATURE_MAX;
		return 1;
	}
	return sign_elsewhere(content, content_length, out, room, length) == 0;
}

static const OSSL_DISPATCH signature_functions[] = {
	{ OSSL_FUNC_SIGNATURE_NEWCTX, (void (*)(void))signature_new },
	{ OSSL_FUNC_SIGNATURE_FREECTX, (void (*)(void))signature_free },
	{ OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, (void (*)(void))signature_init },
	{ OSSL_FUNC_SIGNATURE_DIGEST_SIGN, (void (*)(void))signature_sign },
	{ 0, NULL },
};

/* ---- provider ---- */

static const OSSL_ALGORITHM *provider_query(void *provider, int operation, int *no_store)
{
	static const OSSL_ALGORITHM keys[] = {
		{ "EC", PROVIDER_PROPERTY, key_functions, "public halves of EC keys" },
		{ NULL, NULL, NULL, NULL },
	};
	static const OSSL_ALGORITHM signatures[] = {
		{ SIGNATURE_NAME, PROVIDER_PROPERTY, signature_functions, "ECDSA, computed elsewhere" },
		{ NULL, NULL, NULL, NULL },
	};

	(void)provider;
	*no_store = 0;
	switch (operation) {
	case OSSL_OP_KEYMGMT:
		return keys;
	case OSSL_OP_SIGNATURE:
		return signatures;
	default:
		return NULL;
	}
}

static const OSSL_DISPATCH provider_functions[] = {
	{ OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))provider_query },
	{ 0, NULL },
};

static int provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
			 void **context)
{
	(void)in;
	*out = provider_functions;
	*context = (void *)handle;
	return 1;
}

int provider_load(provider_signer signer)
{
	sign_elsewhere = signer;
	/* "EC" exists twice from here on: whoever does not ask for ours by name gets the default one. */
	if (OSSL_PROVIDER_load(NULL, "default") == NULL ||
	    OSSL_PROVIDER_add_builtin(NULL, PROVIDER_NAME, provider_init) != 1 ||
	    OSSL_PROVIDER_load(NULL, PROVIDER_NAME) == NULL ||
	    EVP_set_default_properties(NULL, "?provider=default") != 1)
		return -1;
	return 0;
}

EVP_PKEY *provider_key(const uint8_t *public_key, size_t length)
{
	EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "EC", PROVIDER_PROPERTY);
	EVP_PKEY *key = NULL;
	OSSL_PARAM params[] = {
		OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group_name, sizeof(group_name) - 1),
		OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)public_key, length),
		OSSL_PARAM_END,
	};

	if (context == NULL || EVP_PKEY_fromdata_init(context) != 1 ||
	    EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
		key = NULL;
	EVP_PKEY_CTX_free(context);
	return key;
}
