/* live_messages.c - gate calls with messages: copied once, both ways, and nothing taken on trust. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "live.h"
#include "supervisor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

/* What callers are told; lies in a tag that they are granted. */
struct shared {
	cgate_t gate, plain;
	uint8_t *secret;
	void *result;
	int error;
	uint64_t length;
};

static struct shared *share(sc_t *sc)
{
	tag_t tag = tag_new();
	struct shared *shared = smalloc(tag, sizeof(*shared));

	CU_ASSERT_PTR_NOT_NULL_FATAL(shared);
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, BOTH), 0);
	return shared;
}

static void *answer_plainly(void *argument, void *trusted)
{
	(void)trusted;
	return argument;
}

static void *add_one(void *argument, void *trusted)
{
	struct cgate_buffer *buffer = argument;
	const uint8_t *in = buffer->in;
	uint8_t *out = buffer->out;
	size_t size = buffer->inlen < buffer->outlen ? buffer->inlen : buffer->outlen;

	(void)trusted;
	for (size_t i = 0; i < size; i++)
		out[i] = (uint8_t)(in[i] + 1);
	buffer->outlen = size;
	return NULL;
}

static void *claim_more(void *argument, void *trusted)
{
	struct cgate_buffer *buffer = argument;

	buffer->outlen += (uintptr_t)trusted;
	return NULL;
}

static void *refuse(void *argument, void *trusted)
{
	(void)argument;
	return trusted;
}

static void *change_pointers(void *argument, void *trusted)
{
	struct cgate_buffer *buffer = argument;

	buffer->in = buffer->out = trusted;
	buffer->inlen = 1 << 20;
	buffer->outlen = 8;
	return NULL;
}

static uint8_t message[CGATE_BUFFER_MAX + 1], answer[CGATE_BUFFER_MAX + 1];

/* Every size that matters, from wherever it runs.  Returns 1, or the line that failed. */
static void *use_messages(void *argument)
{
	static const size_t sizes[] = { 0, 1, 4095, 4096, 4097, CGATE_BUFFER_MAX - 1, CGATE_BUFFER_MAX };
	struct shared *shared = argument;
	cgate_t gate = shared->gate;
	size_t length;

	for (size_t i = 0; i < sizeof(message); i++)
		message[i] = (uint8_t)(i * 7);
	for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
		memset(answer, 0, sizeof(answer));
		length = sizes[s];
		if (cgate_call_buf(gate, message, sizes[s], answer, &length) != 0 || length != sizes[s])
			return (void *)__LINE__;
		for (size_t i = 0; i < sizeof(answer); i++)
			if (answer[i] != (i < length ? (uint8_t)(i * 7 + 1) : 0))
				return (void *)__LINE__;
	}
	length = 10; /* less room than there would be output */
	memset(answer, 0, sizeof(answer));
	if (cgate_call_buf(gate, message, 100, answer, &length) != 0 || length != 10 || answer[10])
		return (void *)__LINE__;
	length = 10;
	if (cgate_call_buf(gate, message, CGATE_BUFFER_MAX + 1, answer, &length) != -1 || errno != EMSGSIZE ||
	    length != 10)
		return (void *)__LINE__;
	length = CGATE_BUFFER_MAX + 1;
	if (cgate_call_buf(gate, message, 10, answer, &length) != -1 || errno != EMSGSIZE)
		return (void *)__LINE__;
	if (cgate_call_buf(gate, message, SIZE_MAX, answer, &length) != -1 || errno != EMSGSIZE)
		return (void *)__LINE__;
	if (cgate_call_buf(gate, NULL, 0, NULL, NULL) != 0)
		return (void *)__LINE__;
	length = 10;
	if (cgate_call_buf(gate, NULL, 5, answer, &length) != -1 || errno != EFAULT)
		return (void *)__LINE__;
	if (cgate_call_buf(gate, message, 5, NULL, &length) != -1 || errno != EFAULT)
		return (void *)__LINE__;
	return (void *)1;
}

static void messages(void)
{
	sc_t sc, none;

	live_init();

	struct shared *shared = share(&sc);

	sc_init(&none);
	for (int fresh = 0; fresh < 2; fresh++) {
		shared->gate = (fresh ? cgate_create_fresh : cgate_create)(add_one, &none, NULL);
		sc_cgate_add(&sc, shared->gate);
		ASSERT_RETURNED(live_run(&sc, use_messages, shared), 1);
		ASSERT_EQUAL(use_messages(shared), 1);
	}
}

/* Pointers that the caller may not use itself; only an sthread can lie about them. */
static void *bad_pointers(void *argument)
{
	struct shared *shared = argument;
	const uint64_t pointers[] = { 8,
				      0x20000,
				      0x7ffffffff000,
				      0x800000000000,
				      0xffff888000000000,
				      shared->length /* the monitor */,
				      (uint64_t)shared->secret };
	size_t length;

	for (size_t i = 0; i < sizeof(pointers) / sizeof(*pointers); i++) {
		void *at = (void *)pointers[i];

		length = 10;
		if (cgate_call_buf(shared->gate, at, 10, answer, &length) != -1 || errno != EFAULT)
			return (void *)(100 + i);
		if (cgate_call_buf(shared->gate, message, 10, at, &length) != -1 || errno != EFAULT)
			return (void *)(200 + i);
		if (cgate_call_buf(shared->gate, message, 10, answer, at) != -1 || errno != EFAULT)
			return (void *)(300 + i);
		if (cgate_call(shared->plain, NULL, at) != -1 || errno != EFAULT)
			return (void *)(400 + i);
	}
	length = 10;
	/* What it may read but not write is good for input only. */
	if (cgate_call_buf(shared->gate, (void *)(uintptr_t)bad_pointers, 10, answer, &length) != 0)
		return (void *)500;
	if (cgate_call_buf(shared->gate, message, 10, (void *)(uintptr_t)bad_pointers, &length) != -1 ||
	    errno != EFAULT)
		return (void *)501;
	if (cgate_call(shared->plain, NULL, (void **)(uintptr_t)bad_pointers) != -1 || errno != EFAULT)
		return (void *)502;
	return (void *)1;
}

static void pointers_of_messages(void)
{
	sc_t sc, none;

	live_init();

	struct shared *shared = share(&sc);
	tag_t other = tag_new();

	sc_init(&none);
	shared->secret = smalloc(other, 100);
	shared->gate = cgate_create(add_one, &none, NULL);
	shared->plain = cgate_create(answer_plainly, &none, NULL);
	shared->length = live_window() + WINDOW_MONITOR;
	sc_cgate_add(&sc, shared->gate);
	sc_cgate_add(&sc, shared->plain);
	ASSERT_RETURNED(live_run(&sc, bad_pointers, shared), 1);
	for (int i = 0; i < 100; i++)
		ASSERT_EQUAL(shared->secret[i], 0);
}

static void *send_once(void *argument)
{
	struct shared *shared = argument;
	size_t length = 100;

	shared->error = cgate_call_buf(shared->gate, message, 100, answer, &length) == 0 ? 0 : errno;
	shared->length = length;
	shared->result = (void *)(uintptr_t)answer[0];
	return NULL;
}

static void lies_of_gates(void)
{
	struct {
		cgate_fn entry;
		uintptr_t trusted;
		int error;
	} gates[] = { { claim_more, 0, 0 },          { claim_more, 1, EPROTO }, { claim_more, SIZE_MAX / 2, EPROTO },
		      { refuse, EACCES, EACCES },    { refuse, 4096, EPROTO },  { refuse, UINTPTR_MAX, EPROTO },
		      { change_pointers, 0x1234, 0 } };
	sc_t sc, none;

	live_init();

	struct shared *shared = share(&sc);

	sc_init(&none);
	for (size_t i = 0; i < sizeof(gates) / sizeof(*gates); i++) {
		shared->gate = cgate_create(gates[i].entry, &none, (void *)gates[i].trusted);
		sc_t with = sc;

		sc_cgate_add(&with, shared->gate);
		ASSERT_END(live_run(&with, send_once, shared), STHREAD_RETURNED);
		ASSERT_EQUAL(shared->error, gates[i].error);
		ASSERT_EQUAL(shared->result, 0);
		send_once(shared);
		ASSERT_EQUAL(shared->error, gates[i].error);
	}
}

static const struct harness_test tests[] = {
	{ "messages of every size are copied both ways", messages, HARNESS_FORK },
	{ "messages from and to memory that the caller does not have are EFAULT", pointers_of_messages, HARNESS_FORK },
	{ "what a gate says of its answer is checked", lies_of_gates, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
