/*
 * unit_sign_handshake.c - only the messages of one TLS 1.3 handshake, whole and in order, are taken for one.
 *
 * The tests change true handshakes.  Here nothing is compared with what somebody wants signed, so that each check of
 * handshake.c has to hold by itself.
 */
#include "unit_sign.h"

static int content_of(const uint8_t *bytes, size_t length)
{
	uint8_t content[HANDSHAKE_CONTENT_MAX];
	size_t content_length;

	return handshake_content(bytes, length, identity.certificate.message, identity.certificate.message_length,
				 content, &content_length);
}

static void wrong_orders_are_refused(void)
{
	uint8_t joined[CGATE_BUFFER_MAX];
	size_t whole_length;
	const uint8_t *whole;
	unsigned found = 0;

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	whole = messages(&whole_length);
	/* Every sequence of up to five of the four messages: only one is a handshake. */
	for (unsigned code = 0; code < 5 * 5 * 5 * 5 * 5; code++) {
		unsigned rest = code;
		size_t used = 0;
		bool right;

		for (unsigned place = 0; place < 5; place++, rest /= 5) {
			size_t length;
			const uint8_t *at;

			if (rest % 5 == 0)
				continue; /* nothing in this place */
			at = message(rest % 5 - 1, &length);
			memcpy(joined + used, at, length);
			used += length;
		}
		right = used == whole_length && memcmp(joined, whole, used) == 0;
		found += right;
		CU_ASSERT_EQUAL(content_of(joined, used), right ? 0 : -1);
	}
	CU_ASSERT_EQUAL(found, 5); /* the empty place can be any of five */
}

/* Finds an extension's type in a message and changes it to another. */
static bool change_extension(size_t n, uint8_t type, uint8_t to)
{
	size_t length;
	uint8_t *at = message(n, &length);

	for (size_t i = 40; i + 1 < length; i++) {
		if (at[i] == 0 && at[i + 1] == type && (i + 3 < length && at[i + 2] == 0)) {
			at[i + 1] = to;
			return true;
		}
	}
	return false;
}

static void other_protocols_are_refused(void)
{
	uint8_t *at, *hello;
	size_t length, size;
	bool found = false;

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	at = messages(&length);
	CU_ASSERT_EQUAL(content_of(at, length), 0);
	/* A TLS 1.2 server hello names no version in an extension. */
	CU_ASSERT_TRUE(change_extension(1, 43, 99));
	CU_ASSERT_EQUAL(content_of(at, length), -1);
	CU_ASSERT_TRUE(change_extension(1, 99, 43));
	/* Nor does one without a key share belong to TLS 1.3. */
	CU_ASSERT_TRUE(change_extension(1, 51, 99));
	CU_ASSERT_EQUAL(content_of(at, length), -1);
	CU_ASSERT_TRUE(change_extension(1, 99, 51));
	CU_ASSERT_EQUAL(content_of(at, length), 0);
	/* The suite, behind the echoed session id: one that was not offered, one that is not TLS 1.3. */
	hello = message(1, &size);
	hello += 4 + 2 + 32;
	hello += 1 + hello[0];
	CU_ASSERT_EQUAL(hello[0], 0x13);
	hello[1] ^= 0x40;
	CU_ASSERT_EQUAL(content_of(at, length), -1);
	hello[1] ^= 0x40;
	hello[1] ^= 2;
	CU_ASSERT_EQUAL(content_of(at, length), -1);
	hello[1] ^= 2;
	/* A client hello without TLS 1.3: no list of versions, or none that has it. */
	CU_ASSERT_TRUE(change_extension(0, 43, 99));
	CU_ASSERT_EQUAL(content_of(at, length), -1);
	CU_ASSERT_TRUE(change_extension(0, 99, 43));
	CU_ASSERT_EQUAL(content_of(at, length), 0);
	for (size_t i = 4; i + 7 <= length; i++) {
		if (memcmp(at + i, "\x00\x2b\x00\x03\x02\x03\x04", 7) == 0) {
			at[i + 6] = 5;
			found = true;
			break;
		}
	}
	CU_ASSERT_TRUE(found);
	CU_ASSERT_EQUAL(content_of(at, length), -1);
}

/* Makes message n longer by an extension without content, with every length around it right. */
static size_t add_extension(uint8_t *out, size_t n, size_t list_at, uint8_t type)
{
	uint8_t extension[4] = { 0, type, 0, 0 };
	size_t length, whole_length, before, list;
	uint8_t *whole = messages(&whole_length), *at = message(n, &length);

	before = (size_t)(at - whole) + length;
	memcpy(out, whole, before);
	memcpy(out + before, extension, sizeof(extension));
	memcpy(out + before + sizeof(extension), whole + before, whole_length - before);
	at = out + (at - whole);
	at[2] = (uint8_t)(length >> 8);
	at[3] = (uint8_t)length; /* 4 bytes of header less, 4 of extension more */
	list = (size_t)(at[list_at] << 8 | at[list_at + 1]) + sizeof(extension);
	at[list_at] = (uint8_t)(list >> 8);
	at[list_at + 1] = (uint8_t)list;
	return whole_length + sizeof(extension);
}

static void pre_shared_keys_are_refused(void)
{
	uint8_t changed[CGATE_BUFFER_MAX];
	size_t length, size, list_at;
	const uint8_t *hello;

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	hello = message(1, &size);
	list_at = 4 + 2 + 32 + 1 + hello[4 + 2 + 32] + 2 + 1;
	/* The control: an extension that means nothing. */
	length = add_extension(changed, 1, list_at, 99);
	CU_ASSERT_EQUAL(content_of(changed, length), 0);
	length = add_extension(changed, 1, list_at, 41);
	CU_ASSERT_EQUAL(content_of(changed, length), -1);
	length = add_extension(changed, 2, 4, 99);
	CU_ASSERT_EQUAL(content_of(changed, length), 0);
	length = add_extension(changed, 2, 4, 41);
	CU_ASSERT_EQUAL(content_of(changed, length), -1);
}

static void second_hello_is_the_first_one_again(void)
{
	uint8_t *at, *retry, *second, *hello, random[32];
	size_t length, size;

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384", "P-521:P-384"));
	at = messages(&length);
	second = message(2, &size);
	CU_ASSERT_EQUAL(second[0], 1);
	CU_ASSERT_EQUAL(content_of(at, length), 0);
	second[4 + 2] ^= 1; /* random */
	CU_ASSERT_EQUAL(content_of(at, length), -1);
	second[4 + 2] ^= 1;
	second[4 + 2 + 32 + 1] ^= 1; /* session id */
	CU_ASSERT_EQUAL(content_of(at, length), -1);
	second[4 + 2 + 32 + 1] ^= 1;
	/* The last suite offered, which was not chosen: TLS_EMPTY_RENEGOTIATION_INFO_SCSV. */
	CU_ASSERT_EQUAL(second[4 + 2 + 32 + 1 + 32 + 1], 6);
	CU_ASSERT_EQUAL(second[4 + 2 + 32 + 1 + 32 + 2 + 5], 0xff);
	second[4 + 2 + 32 + 1 + 32 + 2 + 5] ^= 2;
	CU_ASSERT_EQUAL(content_of(at, length), -1);
	second[4 + 2 + 32 + 1 + 32 + 2 + 5] ^= 2;
	CU_ASSERT_EQUAL(content_of(at, length), 0);
	/* A second request to retry, or none at all: the random makes it one. */
	retry = message(1, &size);
	hello = message(3, &size);
	memcpy(random, hello + 4 + 2, 32);
	memcpy(hello + 4 + 2, retry + 4 + 2, 32);
	CU_ASSERT_EQUAL(content_of(at, length), -1);
	memcpy(hello + 4 + 2, random, 32);
	CU_ASSERT_EQUAL(content_of(at, length), 0);
	retry[4 + 2] ^= 1;
	CU_ASSERT_EQUAL(content_of(at, length), -1);
}

static void hellos_cut_inside_are_refused(void)
{
	uint8_t changed[CGATE_BUFFER_MAX];
	size_t length, size;
	uint8_t *whole;

	set_up();
	CU_ASSERT_TRUE(shake_hands("TLS_AES_128_GCM_SHA256", "X25519"));
	whole = messages(&length);
	/* A message of each length from none to its own, its header telling the truth. */
	for (size_t n = 0; n < 4; n++) {
		uint8_t *at = message(n, &size);
		size_t start = (size_t)(at - whole);

		for (size_t body = 0; body + 4 <= size; body++) {
			memcpy(changed, whole, start + 4 + body);
			changed[start + 2] = (uint8_t)(body >> 8);
			changed[start + 3] = (uint8_t)body;
			memcpy(changed + start + 4 + body, at + size, length - start - size);
			CU_ASSERT_EQUAL(content_of(changed, length - (size - 4 - body)), body + 4 == size ? 0 : -1);
		}
	}
}

static const struct harness_test tests[] = {
	{ "messages in any other order are refused", wrong_orders_are_refused, 0, 0 },
	{ "TLS 1.2 and unknown suites are refused", other_protocols_are_refused, 0, 0 },
	{ "a handshake with a pre-shared key is refused", pre_shared_keys_are_refused, 0, 0 },
	{ "after a HelloRetryRequest the hello is the same", second_hello_is_the_first_one_again, 0, 0 },
	{ "messages cut inside are refused", hellos_cut_inside_are_refused, 0, 0 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
