/*
 * shared.h - the memory that the server's compartments share, and the only ways to read it.
 *
 * Three regions belong to a connection, each a tag of its own when compartments are on:
 *
 *	wire	encrypted bytes, both ways		main: read, write	TLS: read, write
 *	plain	the decrypted request			TLS: read, write	request: read
 *	reply	the answer in clear			request: read, write	TLS: read
 *
 * Whoever writes a region can change it at any time.  So a control word is loaded once into a variable,
 * checked there, and used from there; a party keeps its own positions in its private memory and only
 * publishes them.  Positions count bytes since the start of the stream and never wrap (2^64).
 */
#ifndef HTTPD_SHARED_H
#define HTTPD_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	WIRE_IN_SIZE = 32768, /* powers of two: a position's offset in the ring is taken by a mask */
	WIRE_OUT_SIZE = 65536,
	REPLY_SIZE = 65536,
	PLAIN_SIZE = 16384, /* also the longest request head that is accepted */
	TICKET_SIZE = 16,
};

typedef _Atomic uint32_t shared_word;
typedef _Atomic uint64_t shared_position;

enum {                         /* wire.orders: main to TLS */
	ORDER_INPUT_ENDED = 1, /* the peer sends no more bytes */
	ORDER_CLOSE = 2,       /* no further request will be served: send what is left, then close_notify */
};

enum {                          /* wire.status: TLS to main */
	STATUS_OPEN = 1,        /* the handshake is complete */
	STATUS_INPUT_ENDED = 2, /* the peer's TLS stream has ended */
};

enum { /* reply.done: request to main */
	DONE_KEEP_ALIVE = 1,
	DONE_CLOSE = 2,
};

struct plain_region;
struct reply_region;

struct wire_region {
	/* Written by main before the TLS compartment starts; main never reads them back. */
	struct plain_region *plain;
	const struct reply_region *reply;
	int sign_gate;
	uint8_t ticket[TICKET_SIZE]; /* one signature of the sign gate */

	/* Written by main. */
	shared_position in_produced;
	shared_position out_consumed;
	shared_word request;        /* number of the current request, from 1 */
	shared_word request_length; /* how many bytes of plain the request before it took */
	shared_word orders;

	/* Written by TLS. */
	shared_position in_consumed;
	shared_position out_produced;
	shared_word status;
	shared_word
		wanted; /* bytes of input, from its last turn on, with fewer than which it could do nothing worth a turn */

	uint8_t in[WIRE_IN_SIZE];
	uint8_t out[WIRE_OUT_SIZE];
};

struct plain_region {
	shared_word request; /* number of the request that the words below are about: stored last, loaded first */
	shared_position reply_consumed;
	shared_word length; /* bytes of data that are there; they begin with the current request */
	uint8_t data[PLAIN_SIZE];
};

struct reply_region {
	/* Written by main before the request compartment starts; main never reads them back. */
	const struct plain_region *plain;
	uint64_t connection;
	int log_gate; /* -1: no log */

	/* Written by the request compartment. */
	shared_position produced;
	shared_word consumed; /* valid once done is set: bytes of plain that were this request */
	shared_word done;
	uint8_t data[REPLY_SIZE];
};

static inline uint64_t position_load(const shared_position *word)
{
	return atomic_load_explicit(word, memory_order_acquire);
}

static inline void position_store(shared_position *word, uint64_t value)
{
	atomic_store_explicit(word, value, memory_order_release);
}

static inline uint32_t word_load(const shared_word *word)
{
	return atomic_load_explicit(word, memory_order_acquire);
}

static inline void word_store(shared_word *word, uint32_t value)
{
	atomic_store_explicit(word, value, memory_order_release);
}

/* Sets *fill to the bytes between two positions of a ring; false if no honest peer can have published them. */
static inline bool ring_fill(uint64_t produced, uint64_t consumed, size_t size, size_t *fill)
{
	if (consumed > produced || produced - consumed > size)
		return false;
	*fill = (size_t)(produced - consumed);
	return true;
}

/* The part of length bytes from a position on that lies in one piece in the ring. */
static inline size_t ring_piece(uint64_t position, size_t length, size_t size)
{
	size_t to_end = size - (size_t)(position & (size - 1));

	return length < to_end ? length : to_end;
}

static inline size_t ring_offset(uint64_t position, size_t size)
{
	return (size_t)(position & (size - 1));
}

#endif
