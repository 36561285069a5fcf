/* live_tags.c - tagged memory: granted with its rights, to one life, until it is deleted. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "live.h"

enum {
	PAGE = 4096,
	BOTH = PROT_READ | PROT_WRITE
};

static void policy_with(sc_t *sc, tag_t tag, int prot)
{
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, prot), 0);
}

static void rights(void)
{
	live_init();

	tag_t tag = tag_new(), other = tag_new();
	uint8_t *at = smalloc(tag, 100), *beside = smalloc(other, 100);
	sc_t none, read_only, both;

	at[3] = 0x21;
	beside[3] = 0x22;
	sc_init(&none);
	policy_with(&read_only, tag, PROT_READ);
	policy_with(&both, tag, BOTH);
	ASSERT_PAGE_FAULT(live_run(&none, body_read, at + 3), READ_ABSENT, at + 3);
	ASSERT_PAGE_FAULT(live_run(&none, body_write, at + 3), WRITE_ABSENT, at + 3);
	ASSERT_RETURNED(live_run(&read_only, body_read, at + 3), 0x21);
	ASSERT_PAGE_FAULT(live_run(&read_only, body_write, at + 3), WRITE_DENIED, at + 3);
	ASSERT_EQUAL(at[3], 0x21);
	ASSERT_RETURNED(live_run(&both, body_write, at + 3), 1);
	ASSERT_EQUAL(at[3], 0x5a);
	ASSERT_PAGE_FAULT(live_run(&both, body_read, beside + 3), READ_ABSENT, beside + 3);
	ASSERT_EQUAL(sc_mem_add(&both, other, PROT_READ), 0);
	ASSERT_RETURNED(live_run(&both, body_read, beside + 3), 0x22);
	ASSERT_PAGE_FAULT(live_run(&both, body_write, beside + 3), WRITE_DENIED, beside + 3);
}

/* The process frees and makes tags all the time: the next owner of the memory starts with zeros. */
static void memory_of_a_deleted_tag(void)
{
	live_init();

	tag_t tag = tag_new();
	uint8_t *at = smalloc(tag, 3 * PAGE), *again;
	sc_t sc;

	memset(at, 0x99, 3 * PAGE);
	ASSERT_EQUAL(tag_delete(tag), 0);
	ASSERT_ERROR(tag_delete(tag) == -1, EBADF);
	tag = tag_new();
	again = smalloc(tag, 3 * PAGE);
	CU_ASSERT_PTR_EQUAL(again, at); /* else the test shows nothing */
	policy_with(&sc, tag, PROT_READ);
	ASSERT_RETURNED(live_run(&sc, body_read, again + PAGE), 0);
}

static void *read_park_read(void *at)
{
	if (body_read(at) != (void *)0x21)
		return NULL;
	return body_park_then_read(at);
}

static void deleted_under_a_parked_sthread(void)
{
	live_init();

	for (int delete = 0; delete < 2; delete ++) {
		tag_t tag = tag_new();
		uint8_t *at = smalloc(tag, PAGE);
		sthread_t st;
		sc_t sc;

		at[0] = 0x21;
		policy_with(&sc, tag, BOTH);
		ASSERT_EQUAL(live_create(&st, &sc, read_park_read, at), 0);
		if (delete)
			ASSERT_EQUAL(tag_delete(tag), 0);
		ASSERT_EQUAL(live_step(st), 0);
		if (delete)
			ASSERT_PAGE_FAULT(live_join(st), READ_ABSENT, at);
		else
			ASSERT_RETURNED(live_join(st), 0x21); /* the control */
		ASSERT_EQUAL(sc_mem_add(&sc, tag, PROT_READ), delete ? -1 : 0);
	}
}

static struct {
	sc_t sc;
	void *at;
	struct life life;
} running;

static void *read_for_ever(void *at)
{
	volatile uint8_t *byte = at;

	byte[1] = 1; /* tells the process that it runs */
	while (*byte == 0x21)
		;
	return NULL;
}

static void *run_reader(void *unused)
{
	(void)unused;
	running.life = live_run(&running.sc, read_for_ever, running.at);
	return NULL;
}

static double delete_under_a_running_sthread(void)
{
	live_init();

	tag_t tag = tag_new();
	volatile uint8_t *at = smalloc(tag, PAGE);
	pthread_t thread;

	at[0] = 0x21;
	policy_with(&running.sc, tag, BOTH);
	running.at = (void *)at;
	pthread_create(&thread, NULL, run_reader, NULL);
	for (double until = live_seconds() + 10; !at[1] && live_seconds() < until;)
		usleep(1000);
	CU_ASSERT_EQUAL(at[1], 1);

	double began = live_seconds();

	ASSERT_EQUAL(tag_delete(tag), 0);
	began = live_seconds() - began;
	pthread_join(thread, NULL);
	return began;
}

static void deleted_under_a_running_sthread(void)
{
	delete_under_a_running_sthread();
	ASSERT_PAGE_FAULT(running.life, READ_ABSENT, running.at);
}

static void deletion_is_prompt(void)
{
	double took = delete_under_a_running_sthread();

	live_check(took < 1 * harness_time_scale(), __FILE__, __LINE__,
		   "tag_delete() returns within a second (it took %f)", took);
}

/* One shape, another tag each time: the address space is recycled, but for every fourth time or so, and the tag of the
 * last life is gone from it. */
static void one_life_only(void)
{
	enum {
		TAGS = 20
	};
	uint8_t *at[TAGS];
	uint64_t space = 0;
	int recycled = 0;

	live_init();
	for (int i = 0; i < TAGS; i++) {
		tag_t tag = tag_new();
		sc_t sc;

		at[i] = smalloc(tag, PAGE);
		at[i][0] = (uint8_t)(0x31 + i);
		policy_with(&sc, tag, BOTH);

		struct life life = live_run(&sc, body_read, at[i]);

		ASSERT_RETURNED(life, 0x31 + i);
		recycled += life.info.address_space == space;
		space = life.info.address_space;
		if (!i)
			continue;
		life = live_run(&sc, body_read, at[i - 1]);
		ASSERT_PAGE_FAULT(life, READ_ABSENT, at[i - 1]);
		ASSERT_EQUAL(life.info.address_space, space);
		life = live_run(&sc, body_write, at[i - 1]);
		ASSERT_PAGE_FAULT(life, WRITE_ABSENT, at[i - 1]);
		ASSERT_EQUAL(at[i - 1][0], 0x31 + i - 1);
	}
	live_check(recycled >= TAGS / 2, __FILE__, __LINE__, "%d of %d lives had the space of the one before", recycled,
		   TAGS);
}

/* So many address spaces that shapes have to share them: rights of one shape are not left for another. */
static void other_shapes(void)
{
	enum {
		SPACES = 80
	};
	static sthread_t parked[SPACES];

	live_init();

	tag_t tag = tag_new();
	uint8_t *at = smalloc(tag, PAGE);
	sc_t both, read_only, none;
	bool recycled = false;

	at[0] = 0x41;
	policy_with(&both, tag, BOTH);
	policy_with(&read_only, tag, PROT_READ);
	sc_init(&none);
	for (int i = 0; i < SPACES; i++)
		ASSERT_EQUAL(live_create(&parked[i], &both, body_park_then_read, at), 0);
	for (int i = 0; i < SPACES; i++) {
		ASSERT_EQUAL(live_step(parked[i]), 0);
		ASSERT_RETURNED(live_join(parked[i]), 0x41);
	}
	for (int i = 0; i < 20; i++) {
		struct life life = live_run(&read_only, body_write, at);

		ASSERT_PAGE_FAULT(life, WRITE_DENIED, at);
		recycled = recycled || life.info.recycled;
		ASSERT_PAGE_FAULT(live_run(&none, body_read, at), READ_ABSENT, at);
		ASSERT_RETURNED(live_run(&both, body_write, at + 8), 1);
	}
	CU_ASSERT(recycled);
	ASSERT_EQUAL(at[0], 0x41);
}

/* The extents of a deleted tag become another's: a translation of the old one would show. */
static void stale_translations(void)
{
	live_init();

	for (int round = 0; round < 10; round++) {
		tag_t first = tag_new();
		uint8_t *at = smalloc(first, PAGE);
		sc_t sc, none;

		at[0] = 0x51;
		policy_with(&sc, first, BOTH);
		sc_init(&none);
		ASSERT_RETURNED(live_run(&sc, body_read, at), 0x51);
		ASSERT_EQUAL(tag_delete(first), 0);

		tag_t second = tag_new();
		uint8_t *secret = smalloc(second, PAGE);

		CU_ASSERT_PTR_EQUAL(secret, at);
		secret[0] = 0x52;
		ASSERT_EQUAL(live_run(&sc, body_read, at).error, EBADF);
		ASSERT_PAGE_FAULT(live_run(&none, body_read, at), READ_ABSENT, at);
		ASSERT_EQUAL(tag_delete(second), 0);
	}
}

struct request {
	tag_t own, other;
	void *block, *blocks[64];
	unsigned got;
	int error, error_other, error_zero;
};

static void *allocate_inside(void *argument)
{
	struct request *request = argument;

	errno = 0;
	request->block = smalloc(request->own, 40000);
	request->error = errno;
	for (size_t i = 0; request->block && i < 40000; i++)
		if (((uint8_t *)request->block)[i])
			return (void *)1;
	if (request->block)
		memset(request->block, 0x3c, 40000);
	errno = 0;
	request->error_other = smalloc(request->other, 10) ? 0 : errno;
	errno = 0;
	request->error_zero = smalloc(request->own, 0) ? 0 : errno;
	errno = 0;
	sfree((char *)request->block + 16);
	return (void *)(uintptr_t)(errno == EINVAL ? 2 : 3);
}

static void allocation_inside(void)
{
	live_init();

	tag_t tag = tag_new(), other = tag_new();
	struct request *request = smalloc(tag, sizeof(*request));
	sc_t sc;

	*request = (struct request){ .own = tag, .other = other };
	policy_with(&sc, tag, BOTH);
	ASSERT_EQUAL(sc_mem_add(&sc, other, PROT_READ), 0);
	ASSERT_RETURNED(live_run(&sc, allocate_inside, request), 2);
	CU_ASSERT_PTR_NOT_NULL_FATAL(request->block);
	ASSERT_EQUAL(((uint8_t *)request->block)[39999], 0x3c);
	ASSERT_EQUAL(request->error_other, EPERM);
	ASSERT_EQUAL(request->error_zero, EINVAL);
	errno = 0;
	sfree(request->block);
	ASSERT_EQUAL(errno, 0);
	ASSERT_ERROR((sfree(request->block), true), EINVAL);
}

static void *allocate_for_ever(void *argument)
{
	struct request *request = argument;

	while (request->got < 64 && (request->blocks[request->got] = smalloc(request->own, 1 << 20)))
		request->got++;
	request->error = errno;
	return NULL;
}

static void allocation_is_limited(void)
{
	live_init();

	tag_t tag = tag_new();
	struct request *request = smalloc(tag, sizeof(*request));
	sc_t sc;

	*request = (struct request){ .own = tag };
	policy_with(&sc, tag, BOTH);
	sc_memory_quota(&sc, 16 << 20);
	ASSERT_END(live_run(&sc, allocate_for_ever, request), STHREAD_RETURNED);
	live_check(request->got <= 16, __FILE__, __LINE__, "a quota of 16 MiB limits tagged memory too (it got %u MiB)",
		   request->got);
}

static void *scribble(void *at)
{
	memset(at, 0xff, 60000);
	return NULL;
}

static void books_are_elsewhere(void)
{
	live_init();

	tag_t tag = tag_new();
	uint8_t *at[3] = { smalloc(tag, 20000), smalloc(tag, 20000), smalloc(tag, 20000) };
	sc_t sc;

	sfree(at[1]);
	policy_with(&sc, tag, BOTH);
	ASSERT_END(live_run(&sc, scribble, at[0]), STHREAD_RETURNED);
	at[1] = smalloc(tag, 20000);
	CU_ASSERT_PTR_NOT_NULL(at[1]);
	CU_ASSERT(at[1] != at[0] && at[1] != at[2]);
	errno = 0;
	for (int i = 0; i < 3; i++)
		sfree(at[i]);
	ASSERT_EQUAL(errno, 0);
}

static void *write_park_read(void *at)
{
	*(volatile uint8_t *)at = 0x31;
	sthread_park();
	return body_read(at);
}

static void copies_on_write(void)
{
	live_init();

	tag_t tag = tag_new();
	uint8_t *at = smalloc(tag, 3 * PAGE);
	sc_t copying, reading, writing;
	sthread_t first, second;
	struct sthread_statistics before, after;

	memset(at, 0x21, 3 * PAGE);
	policy_with(&copying, tag, PROT_READ | SC_COPY_ON_WRITE);
	policy_with(&reading, tag, PROT_READ);
	policy_with(&writing, tag, BOTH);
	ASSERT_EQUAL(live_create(&first, &copying, write_park_read, at), 0);
	ASSERT_EQUAL(live_create(&second, &copying, read_park_read, at), 0);
	/* Neither the process nor another compartment sees the write. */
	ASSERT_EQUAL(at[0], 0x21);
	ASSERT_RETURNED(live_run(&reading, body_read, at), 0x21);
	ASSERT_RETURNED(live_run(&copying, body_read, at), 0x21);
	ASSERT_EQUAL(live_step(first), 0);
	ASSERT_RETURNED(live_join(first), 0x31);
	ASSERT_EQUAL(live_step(second), 0);
	live_join(second);
	/* Nor does a later life in the same address space, with this right or a smaller one. */
	at[0] = 0x41;
	ASSERT_RETURNED(live_run(&copying, body_read, at), 0x41);
	ASSERT_RETURNED(live_run(&reading, body_read, at), 0x41);
	ASSERT_PAGE_FAULT(live_run(&reading, body_write, at), WRITE_DENIED, at);
	/* The control: with the right to write it would be seen. */
	ASSERT_RETURNED(live_run(&writing, body_write, at), 1);
	ASSERT_EQUAL(at[0], 0x5a);
	/* The larger right counts, in either order. */
	ASSERT_EQUAL(sc_mem_add(&copying, tag, BOTH), 0);
	ASSERT_EQUAL(sc_mem_add(&writing, tag, PROT_READ | SC_COPY_ON_WRITE), 0);
	at[0] = 1;
	ASSERT_RETURNED(live_run(&copying, body_write, at), 1);
	ASSERT_EQUAL(at[0], 0x5a);
	at[0] = 1;
	ASSERT_RETURNED(live_run(&writing, body_write, at), 1);
	ASSERT_EQUAL(at[0], 0x5a);
	ASSERT_ERROR(sc_mem_add(&reading, tag, SC_COPY_ON_WRITE) == -1, EINVAL);
	ASSERT_ERROR(sc_mem_add(&copying, tag, BOTH | SC_COPY_ON_WRITE) == -1, EINVAL);
	/* Copies are given back: for other tags, and when the tag is deleted. */
	for (unsigned i = 0; i < 200; i++) {
		tag_t other = tag_new();
		uint8_t *there = smalloc(other, PAGE);
		sc_t sc;
		there[5] = (uint8_t)i;
		policy_with(&sc, other, PROT_READ | SC_COPY_ON_WRITE);
		ASSERT_RETURNED(live_run(&sc, body_read, there + 5), (uint8_t)i);
		ASSERT_RETURNED(live_run(&sc, body_write, there + 5), 1);
		ASSERT_EQUAL(live_create(&first, &sc, write_park_read, there + 5), 0);
		if (i % 2)
			ASSERT_EQUAL(tag_delete(other), 0);
		ASSERT_EQUAL(live_step(first), 0);
		struct life life = live_join(first);
		if (i % 2)
			ASSERT_PAGE_FAULT(life, READ_ABSENT, there + 5);
		else
			ASSERT_RETURNED(life, 0x31);
		if (!(i % 2))
			ASSERT_EQUAL(tag_delete(other), 0);
		ASSERT_EQUAL(sthread_statistics(i == 9 ? &before : &after), 0);
	}
	ASSERT_EQUAL(after.frames_used, before.frames_used);
}

static const struct harness_test tests[] = {
	{ "a tag granted for copying on write shows writes to nobody else", copies_on_write, HARNESS_FORK },
	{ "a tag is absent unless granted, and then has the rights granted", rights, HARNESS_FORK },
	{ "memory of a deleted tag is zeros for its next owner", memory_of_a_deleted_tag, HARNESS_FORK },
	{ "a deleted tag is gone for a parked sthread", deleted_under_a_parked_sthread, HARNESS_FORK },
	{ "a deleted tag is gone for an sthread running on another thread", deleted_under_a_running_sthread,
	  HARNESS_FORK },
	{ "deleting a tag does not wait for the end of an sthread that spins", deletion_is_prompt, HARNESS_FORK },
	{ "a tag granted to one life is absent in the next one of the same address space", one_life_only,
	  HARNESS_FORK },
	{ "rights in an address space do not outlast a change of the policy's shape", other_shapes, HARNESS_FORK },
	{ "no stale translation shows the next owner of a deleted tag's memory", stale_translations, HARNESS_FORK },
	{ "smalloc() inside gives zeroed memory of tags granted for writing only", allocation_inside, HARNESS_FORK },
	{ "smalloc() inside is limited by the memory quota", allocation_is_limited, HARNESS_FORK },
	{ "the allocator's books are out of an sthread's reach", books_are_elsewhere, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
