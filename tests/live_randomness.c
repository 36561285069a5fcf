/* live_randomness.c - law 9: no two lives have the same random numbers, keys, canaries or names; OpenSSL works inside. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>

#include "live.h"
#include "monitor/monitor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
	RECYCLED = 1000,
	FRESH = 200,
	GATES = 100,
	TOTAL = RECYCLED + FRESH + 2 * GATES
};

/* What a life draws. */
struct draw {
	uint8_t public[32], private[32], share[32], from_kernel[32], hello[32];
	uint64_t canary, instance, process;
	uint64_t plain; /* of a generator that knows nothing of lives: the control */
	int error;
	uint64_t window; /* given */
};

static SSL_CTX *context;

static void draw(struct draw *to)
{
	const volatile struct dune_life *life = (const volatile struct dune_life *)(to->window + WINDOW_LIFE);
	EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
	size_t size = sizeof(to->share);
	SSL *ssl = SSL_new(context);
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());

	to->error = !key || EVP_PKEY_get_raw_public_key(key, to->share, &size) != 1;
	to->error |= RAND_bytes(to->public, 32) != 1 ? 2 : 0;
	to->error |= RAND_priv_bytes(to->private, 32) != 1 ? 4 : 0;
	to->error |= syscall(SYS_getrandom, to->from_kernel, 32, 0) != 32 ? 8 : 0;
	if (ssl && in && out) {
		SSL_set_bio(ssl, in, out);
		SSL_set_connect_state(ssl);
		SSL_do_handshake(ssl); /* a ClientHello */
		to->error |= SSL_get_client_random(ssl, to->hello, 32) != 32 ? 16 : 0;
	} else {
		to->error |= 32;
	}
	SSL_free(ssl);
	EVP_PKEY_free(key);
	to->instance = life->instance;
	to->process = (uint64_t)getpid();
	to->error |= (uint32_t)to->process != life->process_id ? 64 : 0;
	__asm__ volatile("movq %%fs:0x28, %0" : "=r"(to->canary));
	to->plain = (uint64_t)random();
}

static void *draw_once(void *to)
{
	draw(to);
	return (void *)1;
}

static void *draw_and_park(void *to)
{
	draw(to);
	sthread_park();
	return (void *)1;
}

static void *draw_in_gate(void *argument, void *trusted)
{
	draw((struct draw *)trusted + (uintptr_t)argument);
	return NULL;
}

static void *fault_in_gate(void *argument, void *trusted)
{
	draw((struct draw *)trusted + (uintptr_t)argument);
	body_write((void *)8);
	return NULL;
}

static size_t field_offset, field_size;
static int compare_field(const void *a, const void *b)
{
	return memcmp((const uint8_t *)a + field_offset, (const uint8_t *)b + field_offset, field_size);
}

static unsigned repeats(struct draw *draws, size_t count, size_t offset, size_t size)
{
	unsigned same = 0;

	field_offset = offset;
	field_size = size;
	qsort(draws, count, sizeof(*draws), compare_field);
	for (size_t i = 1; i < count; i++)
		same += compare_field(&draws[i - 1], &draws[i]) == 0;
	return same;
}

#define ASSERT_UNIQUE(field) ASSERT_EQUAL(repeats(draws, TOTAL, offsetof(struct draw, field), sizeof(draws->field)), 0)

static void nothing_repeats(void)
{
	static sthread_t parked[FRESH];
	uint8_t warm[32];
	sc_t sc;

	/* A generator that is seeded before the snapshot is what makes copies repeat. */
	context = SSL_CTX_new(TLS_method());
	CU_ASSERT_PTR_NOT_NULL_FATAL(context);
	ASSERT_EQUAL(RAND_bytes(warm, 32) + RAND_priv_bytes(warm, 32), 2);
	live_init();

	tag_t tag = tag_new();
	struct draw *draws = smalloc(tag, sizeof(*draws) * TOTAL), *next = draws;

	CU_ASSERT_PTR_NOT_NULL_FATAL(draws);
	for (int i = 0; i < TOTAL; i++)
		draws[i].window = live_window();
	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	for (int i = 0; i < RECYCLED; i++) {
		struct life life = live_run(&sc, draw_once, next++);

		ASSERT_RETURNED(life, 1);
		ASSERT_EQUAL(life.info.instance, next[-1].instance);
		ASSERT_EQUAL(life.info.recycled, i > 0);
	}
	for (int i = 0; i < FRESH; i++)
		ASSERT_EQUAL(live_create(&parked[i], &sc, draw_and_park, next++), 0);
	int fresh_ones = 0;

	for (int i = 0; i < FRESH; i++) {
		ASSERT_EQUAL(live_step(parked[i]), 0);
		fresh_ones += !live_join(parked[i]).info.recycled;
	}
	CU_ASSERT(fresh_ones >= FRESH - 5);

	cgate_t fresh = cgate_create_fresh(draw_in_gate, &sc, draws), faults = cgate_create(fault_in_gate, &sc, draws);

	for (int i = 0; i < GATES; i++) {
		ASSERT_EQUAL(cgate_call(fresh, (void *)(next++ - draws), NULL), 0);
		ASSERT_ERROR(cgate_call(faults, (void *)(next++ - draws), NULL) == -1, ECANCELED);
	}
	ASSERT_EQUAL(next - draws, TOTAL);
	for (int i = 0; i < TOTAL; i++) {
		ASSERT_EQUAL(draws[i].error, 0);
		CU_ASSERT(draws[i].canary != 0 && (draws[i].canary & 0xff) == 0);
		CU_ASSERT((pid_t)draws[i].process != getpid());
	}
	ASSERT_UNIQUE(public);
	ASSERT_UNIQUE(private);
	ASSERT_UNIQUE(share);
	ASSERT_UNIQUE(from_kernel);
	ASSERT_UNIQUE(hello);
	ASSERT_UNIQUE(canary);
	ASSERT_UNIQUE(instance);
	ASSERT_UNIQUE(process);
	/* The control: lives are copies, and a generator that does not ask for the process repeats in all of them. */
	ASSERT_EQUAL(repeats(draws, TOTAL, offsetof(struct draw, plain), sizeof(draws->plain)), TOTAL - 1);
}

/* A long-lived gate is one life: its stream goes on. */
static void *next_number(void *argument, void *trusted)
{
	uint64_t number = 0;

	(void)argument, (void)trusted;
	RAND_bytes((uint8_t *)&number, sizeof(number));
	return (void *)number;
}

static int compare_numbers(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(uint64_t));
}

static void gates_go_on(void)
{
	enum {
		CALLS = 200
	};
	static uint64_t numbers[2 * CALLS];
	sc_t none;
	uint8_t warm[8];

	ASSERT_EQUAL(RAND_bytes(warm, 8), 1);
	live_init();
	sc_init(&none);

	cgate_t gates[2] = { cgate_create(next_number, &none, NULL), cgate_create(next_number, &none, NULL) };

	for (int i = 0; i < 2 * CALLS; i++) {
		void *result;

		ASSERT_EQUAL(cgate_call(gates[i % 2], NULL, &result), 0);
		numbers[i] = (uint64_t)result;
	}
	qsort(numbers, 2 * CALLS, sizeof(*numbers), compare_numbers);
	for (int i = 1; i < 2 * CALLS; i++)
		CU_ASSERT(numbers[i] != numbers[i - 1]);
}

static void *hash(void *to)
{
	uint8_t *out = to;
	uint8_t block[8192];
	EVP_MD_CTX *state = EVP_MD_CTX_new();
	unsigned size = 0;

	memset(block, 'a', sizeof(block));
	SHA256((const uint8_t *)"abc", 3, out);
	if (!state || EVP_DigestInit_ex(state, EVP_sha256(), NULL) != 1)
		return NULL;
	for (int i = 0; i < 1000000; i += 1000) /* the standard's million letters */
		EVP_DigestUpdate(state, block, 1000);
	EVP_DigestFinal_ex(state, out + 32, &size);
	EVP_MD_CTX_free(state);
	return (void *)(uintptr_t)size;
}

static void hashes(void)
{
	static const uint8_t abc[] = { 0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
				       0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
				       0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad };
	static const uint8_t million[] = { 0xcd, 0xc7, 0x6e, 0x5c, 0x99, 0x14, 0xfb, 0x92, 0x81, 0xa1, 0xc7,
					   0xe2, 0x84, 0xd7, 0x3e, 0x67, 0xf1, 0x80, 0x9a, 0x48, 0xa4, 0x97,
					   0x20, 0x0e, 0x04, 0x6d, 0x39, 0xcc, 0xc7, 0x11, 0x2c, 0xd0 };
	sc_t sc;

	live_init();

	tag_t tag = tag_new();
	uint8_t *out = smalloc(tag, 64);

	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	for (int i = 0; i < 3; i++) {
		memset(out, 0, 64);
		ASSERT_RETURNED(live_run(&sc, hash, out), 32);
		CU_ASSERT(memcmp(out, abc, 32) == 0);
		CU_ASSERT(memcmp(out + 32, million, 32) == 0);
	}
}

enum {
	PROCESSES = 4,
	LIVES = 50
};

static void draw_lives(struct draw *draws)
{
	sc_t sc;
	tag_t tag = tag_new();
	struct draw *to = smalloc(tag, sizeof(*to));

	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	for (int i = 0; i < LIVES; i++) {
		memset(to, 0, sizeof(*to));
		to->window = live_window();
		live_run(&sc, draw_once, to);
		draws[i] = *to;
	}
}

/* The same snapshot, with the same seeded generators, in several processes. */
static void children_repeat_nothing(void)
{
	const size_t size = PROCESSES * LIVES * sizeof(struct draw);
	struct draw *draws = mmap(NULL, size, BOTH, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint8_t byte;

	CU_ASSERT_EQUAL(RAND_bytes(&byte, 1), 1); /* seeds it */
	context = SSL_CTX_new(TLS_client_method());
	live_init();
	live_run_bare(body_nothing, NULL);
	for (int i = 0; i < PROCESSES - 1; i++) {
		int status = 0;
		pid_t child = fork();

		if (child == 0) {
			draw_lives(draws + (size_t)i * LIVES);
			_exit(0);
		}
		ASSERT_EQUAL(waitpid(child, &status, 0), child);
		ASSERT_EQUAL(status, 0);
	}
	draw_lives(draws + (PROCESSES - 1) * (size_t)LIVES);

	unsigned errors = 0;

	for (size_t i = 0; i < PROCESSES * LIVES; i++)
		errors += draws[i].error != 0 || !draws[i].instance;
	ASSERT_EQUAL(errors, 0);
#define ASSERT_NONE_REPEATS(field) \
	ASSERT_EQUAL(repeats(draws, PROCESSES *LIVES, offsetof(struct draw, field), sizeof(draws->field)), 0)
	ASSERT_NONE_REPEATS(public);
	ASSERT_NONE_REPEATS(private);
	ASSERT_NONE_REPEATS(share);
	ASSERT_NONE_REPEATS(from_kernel);
	ASSERT_NONE_REPEATS(hello);
	ASSERT_NONE_REPEATS(canary);
	ASSERT_NONE_REPEATS(instance);
	ASSERT_NONE_REPEATS(process);
	CU_ASSERT(repeats(draws, PROCESSES * LIVES, offsetof(struct draw, plain), sizeof(draws->plain)) > 0);
}

/* ---- random bytes that cost no exit (struct dune_random) --------------------------------------------------------- */

enum {
	PIECE = 40,
	PIECES = 4, /* more than there are bytes for: the last one is served */
	PAGE = 4096
};

struct pieces {
	uint64_t window;
	uint8_t bytes[PIECES][PIECE];
	unsigned left_over; /* of the life before: bytes of the page that are not 0, beside the new random ones */
	unsigned not_wiped; /* bytes that are still in the page after they were handed out */
	int error;
};

static void *draw_pieces(void *argument)
{
	struct pieces *to = argument;
	volatile uint8_t *page = (volatile uint8_t *)to->window + WINDOW_RANDOM;

	to->left_over = to->not_wiped = 0;
	for (unsigned i = RANDOM_BYTES + RANDOM_SIZE; i < PAGE; i++)
		to->left_over += page[i] != 0;
	to->error = 0;
	for (int i = 0; i < PIECES; i++)
		to->error += syscall(SYS_getrandom, to->bytes[i], PIECE, 0) != PIECE;
	for (int i = 0; i < PIECES; i++)
		for (unsigned at = 0; at + 8 <= PAGE; at++)
			to->not_wiped += memcmp((const uint8_t *)page + at, to->bytes[i], 8) == 0;
	memset((uint8_t *)page, 0xee, PAGE); /* for the next one, and to its own harm */
	return (void *)1;
}

static bool in_ring3(void)
{
	return !live_ring0_native() && !live_from_ring0();
}

static void quiet_random(void)
{
	enum {
		LIVES = 50
	};
	sc_t sc;

	live_init();

	tag_t tag = tag_new();
	struct pieces *to = smalloc(tag, sizeof(*to) * LIVES);

	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	for (int i = 0; i < LIVES; i++) {
		to[i].window = live_window();

		struct life life = live_run(&sc, draw_pieces, &to[i]);

		ASSERT_RETURNED(life, 1);
		ASSERT_EQUAL(to[i].error, 0);
		ASSERT_EQUAL(to[i].left_over, 0);
		ASSERT_EQUAL(to[i].not_wiped, 0);
		/* The first life is found to want them. */
		ASSERT_EQUAL(life.info.calls_served, i && in_ring3() ? PIECES - RANDOM_SIZE / PIECE : PIECES);
	}
	for (int i = 0; i < LIVES * PIECES; i++)
		for (int other = 0; other < i; other++)
			CU_ASSERT(memcmp(to[i / PIECES].bytes[i % PIECES], to[other / PIECES].bytes[other % PIECES],
					 PIECE) != 0);
}

static void *draw_into(void *argument)
{
	uint8_t good[8] = { 0 };
	long bad = syscall(SYS_getrandom, argument, 8, 0);

	if (syscall(SYS_getrandom, good, 8, 0) != 8 || !memcmp(good, (uint8_t[8]){ 0 }, 8))
		return (void *)2;
	return (void *)(uintptr_t)(bad == -1 && errno == EFAULT);
}

static void bad_buffers(void)
{
	static const uint8_t constant[8];

	live_init();
	ASSERT_RETURNED(live_run_bare(draw_into, (void *)8), 1);
	for (int i = 0; i < 3; i++) {
		ASSERT_RETURNED(live_run_bare(draw_into, (void *)8), 1);
		ASSERT_RETURNED(live_run_bare(draw_into, (void *)constant), 1);
		ASSERT_RETURNED(live_run_bare(draw_into, (void *)(live_window() + WINDOW_LIFE)), 1);
		ASSERT_RETURNED(live_run_bare(draw_into, (void *)((uint64_t)1 << 63)), 1);
	}
}

static void *draw_nine(void *unused)
{
	uint8_t to[9];

	(void)unused;
	return (void *)syscall(SYS_getrandom, to, 9, 0);
}

static void counted_random(void)
{
	sc_t limited, filtered;

	live_init();
	sc_init(&limited);
	sc_call_budget(&limited, 1000);
	sc_init(&filtered);
	sc_sys_filter(&filtered, SYS_getrandom, 1, SC_LESS_OR_EQUAL, 8);
	for (int i = 0; i < 3; i++) {
		struct life life = live_run(&limited, draw_nine, NULL);

		ASSERT_RETURNED(life, 9);
		ASSERT_EQUAL(life.info.calls_served, 1);
		life = live_run(&filtered, draw_nine, NULL);
		ASSERT_RETURNED(life, -1);
		ASSERT_EQUAL(life.info.calls_denied, 1);
	}
	ASSERT_RETURNED(live_run_bare(draw_nine, NULL), 9);
	ASSERT_EQUAL(live_run_bare(draw_nine, NULL).info.calls_served, in_ring3() ? 0 : 1); /* the control */
}

static const struct harness_test tests[] = {
	{ "random bytes handed out in ring 3 are new in each life, wiped, and nothing of the last life is beside them",
	  quiet_random, HARNESS_FORK },
	{ "getrandom() into memory that cannot be written fails with EFAULT and the life goes on", bad_buffers,
	  HARNESS_FORK },
	{ "getrandom() is told to the supervisor where a policy counts calls or has a condition on it", counted_random,
	  HARNESS_FORK },
	{ "no life repeats random bytes, a key share, a canary, an instance or a process id", nothing_repeats,
	  HARNESS_FORK, .seconds = 60 },
	{ "a long-lived gate goes on with its own random stream", gates_go_on, HARNESS_FORK },
	{ "lives of a forked child repeat nothing of its parent's", children_repeat_nothing, HARNESS_FORK,
	  .seconds = 60 },
	{ "OpenSSL computes SHA-256 inside", hashes, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
