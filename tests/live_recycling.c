/* live_recycling.c - an address space that has served before is as good as new, and costs no more each time. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum {
	PAGE = 4096,
	MIB = 1 << 20,
	BOTH = PROT_READ | PROT_WRITE
};

static uint8_t globals[40 * PAGE] = { 1 };
static uint8_t zeros[10 * PAGE];
static __thread uint8_t in_tls[2000];
static uint8_t *heap;

/* Lives are run again, seldom, when a slice ended in the middle: that is an exit more that is not theirs. */
static void one_exit(void)
{
	enum {
		LIVES = 100
	};
	struct life life;
	int kicked = 0;

	live_init();
	life = live_run_bare(body_nothing, (void *)1);
	ASSERT_RETURNED(life, 1);
	ASSERT_EQUAL(life.info.recycled, 0);

	uint64_t space = life.info.address_space, instance = life.info.instance;

	for (int i = 0; i < LIVES && kicked < LIVES / 2; i++) {
		life = live_run_bare(body_nothing, (void *)(uintptr_t)i);
		ASSERT_RETURNED(life, i);
		ASSERT_EQUAL(life.info.recycled, 1);
		ASSERT_EQUAL(life.info.address_space, space);
		CU_ASSERT(life.info.instance > instance);
		instance = life.info.instance;
		ASSERT_EQUAL(life.info.traps, 0);
		ASSERT_EQUAL(life.info.pages_copied, 0);
		if (life.info.exits > 1 && life.info.calls_served == 0) {
			kicked++;
			i--;
		} else {
			ASSERT_EQUAL(life.info.exits, live_from_ring0() ? 0 : 1);
		}
	}
	CU_ASSERT(kicked < LIVES / 2);
}

static void *dirty(void *pages)
{
	for (uintptr_t i = 0; i < (uintptr_t)pages; i++)
		globals[i * PAGE + 5] = (uint8_t)(i + 3);
	return NULL;
}

static void restored_pages(void)
{
	struct life life;

	live_init();
	life = live_run_bare(dirty, (void *)30);
	CU_ASSERT(life.info.pages_copied >= 30);
	ASSERT_EQUAL(life.info.pages_restored, 0);

	uint64_t copied = life.info.pages_copied;

	for (int i = 0; i < 5; i++) {
		life = live_run_bare(dirty, (void *)30);
		ASSERT_EQUAL(life.info.pages_copied, 0); /* the copies are there, and pristine */
		live_check(life.info.pages_restored >= copied && life.info.pages_restored <= copied + 8, __FILE__,
			   __LINE__, "%lu pages were copied, %lu are restored", copied, life.info.pages_restored);
	}
	for (int i = 0; i < 30; i++)
		ASSERT_EQUAL(globals[i * PAGE + 5], 0);
}

/* Leaves a mark everywhere; with argument 0 looks for marks instead. */
static void *mark(void *argument)
{
	uint64_t value = (uint64_t)argument, found = 0;
	volatile uint64_t stack[3000];
	uint64_t *arena = mmap(NULL, 20 * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		 *brk_memory = sbrk(20 * PAGE);
	uint64_t *block = malloc(100000), *small[20];

	for (int i = 0; i < 20; i++)
		small[i] = calloc(1, 200);
	for (int i = 0; i < 3000; i++)
		found += stack[i] != 0;
	for (size_t i = 0; i < 20 * PAGE / 8; i++)
		found += (arena[i] != 0) + (brk_memory[i] != 0) * 10000;
	for (size_t i = 0; i < 100000 / 8; i++)
		found += (block[i] == 0x9999999999999999) * 1000000000;
	for (size_t i = 8; i < sizeof(globals); i++)
		found += globals[i] != 0;
	for (size_t i = 0; i < sizeof(zeros); i++)
		found += zeros[i] != 0;
	for (size_t i = 0; i < sizeof(in_tls); i++)
		found += in_tls[i] != 0;
	for (size_t i = 0; i < 5000; i++)
		found += heap[i] != 0x55;
	if (value) {
		for (int i = 0; i < 3000; i++)
			stack[i] = value;
		for (size_t i = 0; i < 20 * PAGE / 8; i++)
			arena[i] = brk_memory[i] = value;
		memset(block, 0x99, 100000);
		for (int i = 0; i < 20; i++)
			memset(small[i], 0x99, 200);
		memset(globals, 0x99, sizeof(globals));
		memset(zeros, 0x99, sizeof(zeros));
		memset(in_tls, 0x99, sizeof(in_tls));
		memset(heap, 0x99, 5000);
	}
	return (void *)found;
}

static void *mark_and_park(void *argument)
{
	mark(argument);
	sthread_park();
	return NULL;
}

static void nothing_left(void)
{
	uint64_t value = 0x123456781234 * (uint64_t)getpid() + 0x77,
		 space = 0; /* a constant would be found in the text */
	sthread_t st;
	sc_t sc;

	heap = malloc(5000);
	memset(heap, 0x55, 5000);
	live_init();
	sc_init(&sc);
	for (int round = 0; round < 4; round++) {
		struct life life = live_run(&sc, mark, (void *)value);

		ASSERT_RETURNED(life, 0);
		if (round)
			ASSERT_EQUAL(life.info.address_space, space);
		space = life.info.address_space;
		life = live_run(&sc, mark, NULL);
		ASSERT_RETURNED(life, 0);
		ASSERT_EQUAL(life.info.address_space, space);
	}
	/* The same from outside, for one that parks: it is found while it lives, and not in the next life there. */
	ASSERT_EQUAL(live_create(&st, &sc, mark_and_park, (void *)value), 0);
	CU_ASSERT(live_find(st, &value, sizeof(value)) > 1000);
	ASSERT_EQUAL(live_step(st), 0);
	space = live_join(st).info.address_space;
	ASSERT_EQUAL(live_create(&st, &sc, mark_and_park, NULL), 0);

	struct sthread_info info;

	ASSERT_EQUAL(sthread_get_info(st, &info), 0);
	ASSERT_EQUAL(info.address_space, space);
	ASSERT_EQUAL(live_find(st, &value, sizeof(value)), 0);
	ASSERT_EQUAL(sthread_kill(st), 0);
	live_join(st);
}

static void *grow(void *mebibytes)
{
	size_t size = (uintptr_t)mebibytes * MIB;
	uint8_t *at = mmap(NULL, size, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t i = 0; i < size; i += PAGE)
		at[i] = 1;
	return (void *)1;
}

static void growth_is_given_back(void)
{
	struct sthread_statistics before, after;

	live_init();
	ASSERT_RETURNED(live_run_bare(grow, (void *)20), 1);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	for (int i = 0; i < 5; i++)
		ASSERT_RETURNED(live_run_bare(grow, (void *)20), 1);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.frames_used, before.frames_used);
	CU_ASSERT(after.frames_used < before.snapshot_pages + 20 * MIB / PAGE);
	ASSERT_EQUAL(after.address_spaces, before.address_spaces);
}

static void *work(void *directory)
{
	char *block = malloc(3000);
	int fd = open("file", O_RDONLY);
	char text[10];

	(void)directory;
	memset(block, 1, 3000);
	globals[0]++, zeros[0]++, in_tls[0]++;
	if (fd < 0 || read(fd, text, sizeof(text)) != 4)
		return NULL;
	return (void *)1; /* neither freed nor closed */
}

static void many_lives(void)
{
	enum {
		LIVES = 2000,
		WARM = 50
	};
	struct sthread_statistics before, after;
	char base[] = "/tmp/sthread-test-XXXXXX", name[100];
	int directory, file, fds = 0;
	size_t tables = 0, frames = 0;
	sc_t sc;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(base));
	snprintf(name, sizeof(name), "%s/file", base);
	file = open(name, O_WRONLY | O_CREAT, 0600);
	ASSERT_EQUAL(write(file, "text", 4), 4);
	directory = open(base, O_RDONLY | O_DIRECTORY);
	live_init();

	tag_t tags[2] = { tag_new(), tag_new() };
	void *blocks[2] = { smalloc(tags[0], 100), smalloc(tags[1], 100) };

	CU_ASSERT(blocks[0] && blocks[1]);
	for (int i = 0; i < WARM + LIVES; i++) {
		if (i == WARM) {
			ASSERT_EQUAL(sthread_statistics(&before), 0);
			fds = live_open_fds();
			tables = supervisor.machine->tables.used;
			frames = supervisor.machine->frames_used;
		}
		sc_init(&sc);
		sc_mem_add(&sc, tags[i % 2], BOTH);
		sc_fd_add(&sc, file, PROT_WRITE);
		sc_path_add(&sc, directory, PROT_READ);
		sc_sys_add(&sc, 2 /* open */);
		ASSERT_RETURNED(live_run(&sc, work, NULL), 1);
		sc_destroy(&sc);
	}
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.lives - before.lives, LIVES);
	ASSERT_EQUAL(after.lives_recycled - before.lives_recycled, LIVES);
	ASSERT_EQUAL(after.address_spaces, before.address_spaces);
	ASSERT_EQUAL(after.frames_used, before.frames_used);
	ASSERT_EQUAL(live_open_fds(), fds);
	ASSERT_EQUAL(supervisor.machine->tables.used, tables);
	ASSERT_EQUAL(supervisor.machine->frames_used, frames);
	unlink(name);
	rmdir(base);
}

/* Everything a policy can say, changed from one life to the next in the same address space. */
static void *probe_rights(void *argument)
{
	struct {
		int fd, call;
	} *what = argument;
	char byte;
	long answer = 0;

	answer += pread(what->fd, &byte, 1, 0) == 1;
	answer += (write(what->fd, "", 0) == 0) * 10;
	answer += (open("/etc/hostname", O_RDONLY) == -1 && errno == EACCES) * 100; /* not EPERM: the call is granted */
	return (void *)answer;
}

static void changing_policies(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name);
	struct {
		int fd, call;
	} * what;

	unlink(name);
	ASSERT_EQUAL(write(file, "x", 1), 1);
	live_init();

	tag_t tag = tag_new();

	what = smalloc(tag, sizeof(*what));
	what->fd = file;
	for (int i = 0; i < 64; i++) {
		int reads = i & 1, writes = i >> 1 & 1, opens = i >> 2 & 1;
		sc_t sc;

		sc_init(&sc);
		sc_mem_add(&sc, tag, PROT_READ);
		if (reads || writes)
			sc_fd_add(&sc, file, (reads ? PROT_READ : 0) | (writes ? PROT_WRITE : 0));
		if (opens)
			sc_sys_add(&sc, 2);
		ASSERT_RETURNED(live_run(&sc, probe_rights, what), reads + 10 * writes + 100 * opens);
		sc_destroy(&sc);
	}
}

/* Reads the byte in its own tag, and if there is an address after it, the byte there, which is another's. */
static void *read_tags(void *own)
{
	uint8_t *const *other = own;

	if (*other)
		return (void *)(uintptr_t) * *other;
	return (void *)(uintptr_t)((uint8_t *)own)[sizeof(uint8_t *)];
}

static void tags_in_turn(void)
{
	enum {
		TAGS = 6,
		ROUNDS_TO_LEARN = 8,
		ROUNDS = 5
	};
	struct {
		sc_t policy;
		uint8_t **memory;
	} peer[TAGS];
	struct sthread_statistics before, after;

	live_init();
	for (int i = 0; i < TAGS; i++) {
		tag_t tag = tag_new();

		peer[i].memory = smalloc(tag, 8 * PAGE);
		memset(peer[i].memory, 0, 8 * PAGE);
		((uint8_t *)peer[i].memory)[sizeof(uint8_t *)] = (uint8_t)(i + 1);
		sc_init(&peer[i].policy);
		sc_mem_add(&peer[i].policy, tag, PROT_READ);
	}
	for (int round = 0; round < ROUNDS_TO_LEARN; round++)
		for (int i = 0; i < TAGS; i++)
			ASSERT_RETURNED(live_run(&peer[i].policy, read_tags, peer[i].memory), i + 1);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	CU_ASSERT(before.monitor_edits > 0); /* it had to learn */
	for (int round = 0; round < ROUNDS; round++)
		for (int i = 0; i < TAGS; i++)
			ASSERT_RETURNED(live_run(&peer[i].policy, read_tags, peer[i].memory), i + 1);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.monitor_edits, before.monitor_edits);
	ASSERT_EQUAL(after.address_spaces, before.address_spaces);
	for (int i = 0; i < TAGS; i++) {
		uint8_t *others = (uint8_t *)peer[(i + 1) % TAGS].memory;

		*peer[i].memory = others;
		ASSERT_PAGE_FAULT(live_run(&peer[i].policy, read_tags, peer[i].memory), READ_ABSENT, others);
	}
}

static const struct harness_test tests[] = {
	{ "an empty recycled life takes one exit and no fault", one_exit, HARNESS_FORK },
	{ "the pages that were copied are restored, and no others", restored_pages, HARNESS_FORK },
	{ "nothing of the last life is left in memory, heap, thread-local storage or stack", nothing_left,
	  HARNESS_FORK },
	{ "growth is given back", growth_is_given_back, HARNESS_FORK },
	{ "thousands of lives take no more memory, tables or descriptors", many_lives, HARNESS_FORK },
	{ "rights follow the policy of each life", changing_policies, HARNESS_FORK },
	{ "lives that come again and again with tags of their own have them mapped: none is taken away", tags_in_turn,
	  HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
