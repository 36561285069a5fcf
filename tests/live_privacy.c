/* live_privacy.c - what an sthread sees of the process's data: the picture of sthread_init(), private, and nothing newer. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum {
	PAGE = 4096,
	MIB = 1 << 20,
	BOTH = PROT_READ | PROT_WRITE,
	KEY_SIZE = 32
};

/* ---- private copies ---------------------------------------------------------------------------------------------- */

static int global = 10, untouched_global;
static uint8_t big[20 * MIB] = { 1 }; /* larger than what is mapped at once */
static __thread int in_tls = 20;
static int *on_heap;

struct view {
	int global, bss, tls, heap, fresh;
	bool stack_is_zero;
};

static struct view view_of(int *heap)
{
	return (struct view){
		.global = global, .bss = untouched_global, .tls = in_tls, .heap = *heap, .fresh = big[MIB]
	};
}

/* Changes everything; returns what it found, as one number. */
static void *look_and_change(void *unused)
{
	struct view view = view_of(on_heap);
	uint8_t stack[16384];
	char *block = malloc(5000);
	uintptr_t dirty = 0;

	(void)unused;
	for (size_t i = 0; i < sizeof(stack); i++)
		dirty |= ((volatile uint8_t *)stack)[i];
	memset((void *)stack, 0xdd, sizeof(stack));
	__asm__ volatile("" ::"r"(stack) : "memory");
	global++, untouched_global++, in_tls++, ++*on_heap, big[MIB]++;
	memset(block, 0xdd, 5000);
	free(block);
	on_heap = NULL;
	return (void *)(uintptr_t)(view.global + view.bss * 100 + view.tls * 1000 + view.heap * 100000 +
				   view.fresh * 10000000 + (dirty != 0) * 1000000000l);
}

static void private_data(void)
{
	const uint64_t pristine = 10 + 0 + 20 * 1000 + 30 * 100000 + 4 * 10000000l;

	on_heap = malloc(sizeof(int));
	*on_heap = 30;
	big[MIB] = 4;
	live_init();
	for (int i = 0; i < 3; i++) {
		struct life life = live_run_bare(look_and_change, NULL);

		ASSERT_RETURNED(life, pristine);
		ASSERT_EQUAL(life.info.recycled, i > 0);
	}
	ASSERT_EQUAL(global, 10);
	ASSERT_EQUAL(untouched_global, 0);
	ASSERT_EQUAL(in_tls, 20);
	ASSERT_EQUAL(*on_heap, 30);
	ASSERT_EQUAL(big[MIB], 4);
	/* What the process changes later is not seen: lives start from the picture. */
	global = 99;
	*on_heap = 99;
	big[MIB] = 99;
	ASSERT_RETURNED(live_run_bare(look_and_change, NULL), pristine);
}

static void *look_change_and_park(void *unused)
{
	uint64_t first = (uint64_t)look_and_change(unused);

	sthread_park();
	return (void *)first;
}

/* A new address space gets copies of what such lives write to at once: they are those of the picture too. */
static void prepared_pages(void)
{
	enum {
		COUNT = 6
	};
	const uint64_t pristine = 10 + 0 + 20 * 1000 + 30 * 100000 + 4 * 10000000l;
	sthread_t st[COUNT];
	sc_t sc;

	on_heap = malloc(sizeof(int));
	*on_heap = 30;
	big[MIB] = 4;
	live_init();
	sc_init(&sc);
	ASSERT_EQUAL(live_create(&st[0], &sc, look_change_and_park, NULL), 0);
	ASSERT_EQUAL(live_step(st[0]), 0);
	ASSERT_RETURNED(live_join(st[0]), pristine);
	for (int i = 0; i < COUNT; i++)
		ASSERT_EQUAL(live_create(&st[i], &sc, look_change_and_park, NULL), 0);
	for (int i = 0; i < COUNT; i++) {
		struct life life;

		ASSERT_EQUAL(live_step(st[i]), 0);
		life = live_join(st[i]);
		ASSERT_RETURNED(life, pristine);
		ASSERT_EQUAL(life.info.recycled, i == 0);
	}
}

/* The supervisor copies pages for a served call, too. */
static void *read_into_globals(void *fd)
{
	int before = global; /* so that a translation for reading is cached */

	if (read((int)(intptr_t)fd, &global, sizeof(global)) != sizeof(global))
		return NULL;
	return (void *)(uintptr_t)(before * 1000 + global);
}

static void served_writes(void)
{
	int ends[2], value = 77;
	sc_t sc;

	ASSERT_EQUAL(pipe(ends), 0);
	live_init();
	sc_init(&sc);
	sc_fd_add(&sc, ends[0], PROT_READ);
	for (int i = 0; i < 3; i++) {
		ASSERT_EQUAL(write(ends[1], &value, sizeof(value)), sizeof(value));
		ASSERT_RETURNED(live_run(&sc, read_into_globals, (void *)(intptr_t)ends[0]), 10077);
	}
	ASSERT_EQUAL(global, 10);
}

/* ---- secrets ----------------------------------------------------------------------------------------------------- */

/* Looks for a key in everything that it was told is mapped.  The needle is given flipped, so it is not found there. */
struct hunt {
	uint64_t flipped[KEY_SIZE / 8];
	uint64_t found, count;
	struct {
		uint64_t start, end;
	} ranges[1000];
};

static void *hunt(void *argument)
{
	struct hunt *hunt = argument;
	uint64_t flipped = hunt->flipped[0];

	hunt->found = 0;
	for (uint64_t i = 0; i < hunt->count; i++)
		for (uint64_t at = hunt->ranges[i].start; at + 8 <= hunt->ranges[i].end; at++) {
			if (*(volatile uint64_t *)at != ~flipped)
				continue;
			hunt->found++;
		}
	return (void *)(uintptr_t)hunt->found;
}

static void *everything_and_park(void *unused)
{
	char *block = malloc(3000);

	(void)unused;
	memset(block, 1, 3000);
	global++;
	snprintf(block, 3000, "%d %s", in_tls, getenv("LANG") ? getenv("LANG") : "");
	sthread_park();
	free(block);
	return NULL;
}

static void make_key(uint8_t *key)
{
	int fd = open("/dev/urandom", O_RDONLY);

	ASSERT_EQUAL(read(fd, key, KEY_SIZE), KEY_SIZE);
	close(fd);
}

/* Uses of a key that leave copies: heap, stack, globals, stdio, a mapping, a tag, descriptors. */
static uint8_t key_global[KEY_SIZE];

static uint8_t *use_key(void)
{
	uint8_t *key = malloc(KEY_SIZE), *mapped = mmap(NULL, MIB, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *copy = malloc(100000), text[4 * KEY_SIZE];
	FILE *file = tmpfile();

	make_key(key);
	memcpy(key_global, key, KEY_SIZE);
	memcpy(mapped + 1000, key, KEY_SIZE);
	memcpy(copy + 50000, key, KEY_SIZE);
	__asm__ volatile("" : : "r"(copy) : "memory");
	free(copy);
	fwrite(key, KEY_SIZE, 1, file);
	memcpy(text, key, KEY_SIZE);
	__asm__ volatile("" ::"r"(text), "r"(mapped) : "memory");
	return key;
}

static void secrets(bool early)
{
	uint8_t *key = early ? use_key() : NULL;
	sthread_t st;
	sc_t sc;

	live_init();

	tag_t secret_tag = tag_new(), tag = tag_new();
	uint8_t *secret = smalloc(secret_tag, KEY_SIZE);
	struct hunt *hunted = smalloc(tag, sizeof(*hunted));

	if (!early)
		key = use_key();
	memcpy(secret, key, KEY_SIZE);
	memset(hunted, 0, sizeof(*hunted));
	for (int i = 0; i < KEY_SIZE / 8; i++) {
		memcpy(&hunted->flipped[i], key + 8 * i, 8);
		hunted->flipped[i] = ~hunted->flipped[i];
	}
	for (size_t i = 0; i < supervisor.snapshot.count && i < 900; i++) {
		hunted->ranges[i].start = supervisor.snapshot.regions[i].start;
		hunted->ranges[i].end = supervisor.snapshot.regions[i].end;
		hunted->count++;
	}
	const uint64_t others[] = { live_window() + WINDOW_TRAMPOLINE, live_window() + WINDOW_CLEAN_STATE,
				    live_window() + WINDOW_LIFE };

	for (int i = 0; i < 3; i++) {
		hunted->ranges[hunted->count].start = others[i];
		hunted->ranges[hunted->count++].end = others[i] + PAGE;
	}
	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	/* From inside, and from outside through its page table, after it has touched what it can. */
	struct life life = live_run(&sc, hunt, hunted);

	ASSERT_END(life, STHREAD_RETURNED);
	CU_ASSERT(early ? hunted->found >= 2 : hunted->found == 0);
	ASSERT_EQUAL(live_create(&st, &sc, everything_and_park, NULL), 0);

	unsigned found = live_find(st, key, KEY_SIZE);

	CU_ASSERT(early ? found >= 2 : found == 0);
	harness_note("found %lu times from inside, %u times from outside", hunted->found, found);
	ASSERT_EQUAL(sthread_kill(st), 0);
	live_join(st);
	sc_mem_add(&sc, secret_tag, PROT_READ);
	ASSERT_EQUAL(live_create(&st, &sc, everything_and_park, NULL), 0);
	ASSERT_EQUAL(live_find(st, key, KEY_SIZE), found + 1); /* the search would find it in a tag that is granted */
	ASSERT_EQUAL(sthread_kill(st), 0);
	live_join(st);
}

static void late_secrets(void)
{
	secrets(false);
}

static void early_secrets(void)
{
	secrets(true);
}

/* ---- traces ------------------------------------------------------------------------------------------------------ */

static void freed_heap(void)
{
	static const size_t sizes[] = { 24, 40, 100, 500, 1000, 2000, 5000, 20000, 60000, 300000 };
	enum {
		COUNT = sizeof(sizes) / sizeof(*sizes)
	};
	uint8_t keys[COUNT][KEY_SIZE], held_keys[COUNT][KEY_SIZE], *blocks[COUNT], *held[COUNT];
	sthread_t st;
	sc_t sc;

	for (int i = 0; i < COUNT; i++) {
		blocks[i] = malloc(sizes[i]);
		held[i] = malloc(100); /* so that freed blocks are not joined */
		make_key(keys[i]);
		memset(blocks[i], 0, sizes[i]);
		memcpy(blocks[i] + (sizes[i] < 60 ? 0 : sizes[i] / 2), keys[i],
		       sizes[i] < KEY_SIZE ? sizes[i] : KEY_SIZE);
		make_key(held_keys[i]);
		memcpy(held[i], held_keys[i], KEY_SIZE);
	}
	__asm__ volatile("" : : "r"(blocks), "r"(held) : "memory"); /* what nobody reads would not be stored */
	for (int i = 0; i < COUNT; i++)
		free(blocks[i]);
	live_init();
	sc_init(&sc);
	ASSERT_EQUAL(live_create(&st, &sc, everything_and_park, NULL), 0);
	for (int i = 0; i < COUNT; i++) {
		/* malloc() uses the first 16 bytes of freed blocks itself. */
		unsigned freed = live_find(st, keys[i] + 16, 8), in_use = live_find(st, held_keys[i] + 16, 8);

		live_check(freed == 0, __FILE__, __LINE__, "a key in a freed block of %zu bytes is not found (%u)",
			   sizes[i], freed);
		live_check(in_use >= 1, __FILE__, __LINE__, "one in a block in use is found (%u)", in_use);
	}
	ASSERT_EQUAL(sthread_kill(st), 0);
	live_join(st);
}

/* "marker-in-argument", "MARKER=marker-in-environment", "marker-set-later", "TZ=marker-allowed", hidden. */
static const char argument_marker[] = "\xed\xe1\xf2\xeb\xe5\xf2\xad\xe9\xee\xad\xe1\xf2\xe7\xf5\xed\xe5\xee\xf4";
static const char environment_marker[] =
	"\xcd\xc1\xd2\xcb\xc5\xd2\xbd\xed\xe1\xf2\xeb\xe5\xf2\xad\xe9\xee\xad\xe5\xee\xf6";
static const char later_marker[] =
	"\xcc\xc1\xd4\xc5\xd2\xbd\xed\xe1\xf2\xeb\xe5\xf2\xad\xf3\xe5\xf4\xad\xec\xe1\xf4\xe5\xf2";
static const char allowed_marker[] = "\xd4\xda\xbd\xed\xe1\xf2\xeb\xe5\xf2\xad\xe1\xec\xec\xef\xf7\xe5\xe4";

static void *ask_environment(void *unused)
{
	(void)unused;
	return (void *)(uintptr_t)((getenv("TZ") != NULL) + 10 * (getenv("PATH") != NULL) +
				   100 * (getenv("HOME") != NULL) + 1000 * (getauxval(AT_EXECFN) != 0) +
				   10000 * (program_invocation_name[0] != 0));
}

static void arguments_and_environment(void)
{
	char marker[64], own_name[256];
	sthread_t st;
	sc_t sc;

	live_reveal(marker, later_marker);
	putenv(strdup(marker));
	memset(marker, 0, sizeof(marker));
	live_init();
	sc_init(&sc);
	ASSERT_EQUAL(live_create(&st, &sc, everything_and_park, NULL), 0);
	live_reveal(marker, argument_marker);
	ASSERT_EQUAL(live_find(st, marker, strlen(marker)), 0);
	live_reveal(marker, environment_marker);
	CU_ASSERT_PTR_NOT_NULL(getenv("MARKER")); /* it is there for the process */
	ASSERT_EQUAL(live_find(st, marker, strlen(marker)), 0);
	live_reveal(marker, later_marker);
	ASSERT_EQUAL(live_find(st, marker, strlen(marker)), 0);
	live_reveal(marker, allowed_marker);
	ASSERT_EQUAL(live_find(st, marker, strlen(marker)), 1);
	snprintf(own_name, sizeof(own_name), "%s", program_invocation_name);
	CU_ASSERT(live_find(st, own_name, strlen(own_name)) >= 1);
	ASSERT_EQUAL(sthread_kill(st), 0);
	live_join(st);

	struct life life = live_run_bare(ask_environment, NULL);

	ASSERT_END(life, STHREAD_RETURNED);
	ASSERT_EQUAL((uint64_t)life.value % 1000, 1);
	ASSERT_EQUAL((uint64_t)life.value / 10000, 1);
}

static FILE *buffered;

static void *print_more(void *unused)
{
	(void)unused;
	fprintf(buffered, "inside\n");
	fflush(buffered);
	return NULL;
}

static void buffers(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX", text[200] = "";
	int fd = mkstemp(name);
	sc_t sc;

	buffered = fdopen(fd, "w+");
	unlink(name);
	fprintf(buffered, "before\n"); /* not flushed by the program */
	live_init();
	sc_init(&sc);
	sc_fd_add(&sc, fd, BOTH);
	fprintf(buffered, "after\n"); /* in the process's buffer when the sthreads run */
	for (int i = 0; i < 2; i++)
		ASSERT_END(live_run(&sc, print_more, NULL), STHREAD_RETURNED);
	fflush(buffered);
	CU_ASSERT(pread(fd, text, sizeof(text) - 1, 0) > 0);
	CU_ASSERT_STRING_EQUAL(text, "before\ninside\ninside\nafter\n");
	sc_destroy(&sc);
}

static const struct harness_test tests[] = {
	{ "globals, heap, thread-local storage and stack are private, and pristine in the next life", private_data,
	  HARNESS_FORK },
	{ "an address space made for a known kind of life begins with the same picture", prepared_pages, HARNESS_FORK },
	{ "a served call writes to a private copy", served_writes, HARNESS_FORK },
	{ "a key read after sthread_init() is found nowhere in an sthread", late_secrets, HARNESS_FORK },
	{ "a key read before sthread_init() is found (control)", early_secrets, HARNESS_FORK },
	{ "freed heap blocks are scrubbed", freed_heap, HARNESS_FORK },
	{ "arguments and environment are not seen, but for what is allowed", arguments_and_environment, HARNESS_FORK },
	{ "what stdio had buffered is written once", buffers, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	if (!getenv("MARKER")) {
		char marker[64];

		live_reveal(marker, environment_marker);
		putenv(strdup(marker));
		live_reveal(marker, allowed_marker);
		putenv(strdup(marker));
		live_reveal(marker, argument_marker);
		execl("/proc/self/exe", argv[0], marker, (char *)NULL);
		perror("exec");
		return 1;
	}
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
