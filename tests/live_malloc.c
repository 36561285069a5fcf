/* live_malloc.c - libsthread-malloc: malloc() from tags, in a program linked with it as programs outside this tree are. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <callgate.h>
#include <sthread.h>

#include "harness.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

static tag_t tag;
static volatile size_t hide = 1; /* keeps the compiler from knowing sizes, and so from leaving calls out */
static void *volatile sink;

static void init(void)
{
	CU_ASSERT_EQUAL_FATAL(sthread_init(), 0);
	tag = tag_new();
	CU_ASSERT_FATAL(tag >= 0);
}

static size_t live(void)
{
	struct tag_statistics statistics = { 0 };

	CU_ASSERT_EQUAL(tag_statistics(tag, &statistics), 0);
	return statistics.allocations;
}

/* A compiler may believe that malloc() does not change errno: it is told that memory has changed. */
static void *kept(void *pointer)
{
	sink = pointer;
	__asm__ volatile("" : : : "memory");
	return pointer;
}

static bool all_are(const void *at, uint8_t value, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (((const uint8_t *)at)[i] != value)
			return false;
	return true;
}

/* ---- on the host ----------------------------------------------------------------------------------------------------- */

static void the_whole_family(void)
{
	init();

	void *got[12], *heap = kept(malloc(100 * hide));
	unsigned count = 0;

	memset(heap, 0x31, 100);
	CU_ASSERT_EQUAL(live(), 0);
	CU_ASSERT_EQUAL(smalloc_on(tag), 0);
	got[count++] = kept(malloc(100 * hide));
	got[count++] = kept(malloc(0 * hide));
	got[count++] = kept(calloc(10 * hide, 10));
	got[count++] = kept(realloc(NULL, 100 * hide));
	got[count++] = kept(reallocarray(NULL, 10, 10 * hide));
	got[count++] = kept(memalign(256, 100 * hide));
	got[count++] = kept(aligned_alloc(4096, 4096 * hide));
	CU_ASSERT_EQUAL(posix_memalign(&got[count++], 64, 100 * hide), 0);
	got[count++] = kept(valloc(100 * hide));
	got[count++] = kept(pvalloc(100 * hide));
	got[count++] = kept(strdup(hide ? "tagged" : ""));
	got[count++] = kept(strndup(hide ? "tagged" : "", 3));
	/* A block of the heap stays in the heap. */
	heap = kept(realloc(heap, 200 * hide));
	CU_ASSERT_EQUAL(smalloc_off(), 0);
	CU_ASSERT(all_are(heap, 0x31, 100));
	CU_ASSERT_EQUAL(live(), count);
	CU_ASSERT_EQUAL((uintptr_t)got[5] % 256, 0);
	CU_ASSERT_EQUAL((uintptr_t)got[6] % 4096, 0);
	CU_ASSERT_EQUAL((uintptr_t)got[7] % 64, 0);
	CU_ASSERT_EQUAL((uintptr_t)got[8] % 4096, 0);
	CU_ASSERT(all_are(got[2], 0, 100));
	CU_ASSERT_STRING_EQUAL(got[10], "tagged");
	CU_ASSERT_STRING_EQUAL(got[11], "tag");
	CU_ASSERT_EQUAL(malloc_usable_size(got[0]), 100);
	CU_ASSERT(malloc_usable_size(heap) >= 200);

	/* And a block of a tag in its tag, although the switch is off. */
	memset(got[0], 0x32, 100);
	got[0] = kept(realloc(got[0], 5000 * hide));
	CU_ASSERT(all_are(got[0], 0x32, 100));
	CU_ASSERT_EQUAL(live(), count);
	CU_ASSERT_PTR_NULL(kept(realloc(got[1], 0 * hide)));
	got[1] = NULL;
	CU_ASSERT_EQUAL(live(), count - 1);
	sink = kept(malloc(100 * hide));
	CU_ASSERT_EQUAL(live(), count - 1);
	free(sink);
	errno = 17;
	for (unsigned i = 0; i < count; i++)
		free(got[i]);
	free(heap);
	CU_ASSERT_EQUAL(errno, 17);
	CU_ASSERT_EQUAL(live(), 0);
}

static void errors(void)
{
	errno = 0;
	CU_ASSERT_EQUAL(smalloc_on(0), -1);
	CU_ASSERT_EQUAL(errno, EPERM);
	init();

	tag_t gone = tag_new();
	void *pointer = &gone;

	CU_ASSERT_EQUAL(tag_delete(gone), 0);
	errno = 0;
	CU_ASSERT_EQUAL(smalloc_on(gone), -1);
	CU_ASSERT_EQUAL(errno, EBADF);
	CU_ASSERT_EQUAL(smalloc_on(-1), -1);
	CU_ASSERT_EQUAL(tag_quota(tag, 65536), 0);
	CU_ASSERT_EQUAL(smalloc_on(tag), 0);
	errno = 0;
	CU_ASSERT_PTR_NULL(kept(malloc(70000 * hide)));
	CU_ASSERT_EQUAL(errno, ENOMEM);
	errno = 0;
	CU_ASSERT_PTR_NULL(kept(calloc(SIZE_MAX / 2 * hide, 3)));
	CU_ASSERT_EQUAL(errno, ENOMEM);
	CU_ASSERT_PTR_NULL(kept(reallocarray(NULL, SIZE_MAX / 2 * hide, 3)));
	CU_ASSERT_PTR_NULL(kept(memalign((size_t)64 << 20, 16 * hide)));
	CU_ASSERT_PTR_NULL(kept(pvalloc(SIZE_MAX * hide)));
	CU_ASSERT_EQUAL(posix_memalign(&pointer, 24, 16), EINVAL);
	CU_ASSERT_EQUAL(posix_memalign(&pointer, 4, 16), EINVAL);
	CU_ASSERT_EQUAL(posix_memalign(&pointer, 64, 70000), ENOMEM);
	CU_ASSERT_PTR_EQUAL(pointer, &gone);
	CU_ASSERT_EQUAL(tag_delete(tag), 0);
	errno = 0;
	CU_ASSERT_PTR_NULL(kept(malloc(10 * hide))); /* never from the heap instead */
	CU_ASSERT_EQUAL(errno, ENOMEM);
	CU_ASSERT_EQUAL(smalloc_off(), 0);
	pointer = kept(malloc(10 * hide));
	CU_ASSERT_PTR_NOT_NULL(pointer);
	free(pointer);
}

static void wrong_pointers(void)
{
	init();

	uint8_t *volatile block = smalloc(tag, 1000), *volatile middle = block + 16; /* the compiler would warn */

	memset(block, 0x44, 1000);
	free(middle);
	CU_ASSERT_PTR_NULL(kept(realloc(middle, 10 * hide)));
	CU_ASSERT_EQUAL(malloc_usable_size(middle), 0);
	CU_ASSERT(all_are(block, 0x44, 1000));
	free(block);
	free(block);
	CU_ASSERT_EQUAL(live(), 0);
}

static void *one_block(void *unused)
{
	(void)unused;
	return malloc(100 * hide);
}

static void other_threads(void)
{
	init();

	pthread_t thread;
	void *block = NULL;

	CU_ASSERT_EQUAL(smalloc_on(tag), 0);
	/* What the C library keeps about a thread is not in the tag either. */
	CU_ASSERT_EQUAL(pthread_create(&thread, NULL, one_block, NULL), 0);
	CU_ASSERT_EQUAL(pthread_join(thread, &block), 0);
	CU_ASSERT_PTR_NOT_NULL(block);
	CU_ASSERT_EQUAL(live(), 0);
	free(block);
	CU_ASSERT_EQUAL(smalloc_off(), 0);
}

static int compare(const void *one, const void *other)
{
	return memcmp(one, other, 64);
}

static void libraries_keep_theirs(void)
{
	init();

	static char many[1000][64];
	char *line = NULL;
	size_t room = 0;

	CU_ASSERT_EQUAL(smalloc_on(tag), 0);

	FILE *file = fopen("/proc/self/maps", "r");

	CU_ASSERT_PTR_NOT_NULL_FATAL(file);
	CU_ASSERT(getline(&line, &room, file) > 0);
	qsort(many, 1000, 64, compare);
	setenv("A_NAME_THAT_IS_NEW", "value", 1);
	CU_ASSERT_EQUAL(live(), 0);
	fclose(file);
	free(line);
	/* The control: the switch is on. */
	sink = malloc(10 * hide);
	CU_ASSERT_EQUAL(live(), 1);
	free(sink);
	CU_ASSERT_EQUAL(smalloc_off(), 0);
}

static void *nothing(void *argument)
{
	return argument;
}

static void *fault(void *argument)
{
	*(volatile char *)argument = 1;
	return NULL;
}

static void *answer(void *argument, void *trusted)
{
	return argument ? trusted : NULL;
}

static void forget_report(const struct sthread_report *report, void *argument)
{
	(void)report;
	(void)argument;
}

/* An sthread that may write to the tag must not find there what the supervisor keeps about it. */
static void the_supervisor_keeps_its_own(void)
{
	init();

	sc_t sc, copy;
	sthread_t st[8];
	struct sthread_info info;
	struct sthread_statistics statistics;
	struct sthread_symbol symbol;
	int null = open("/dev/null", O_RDWR), directory = open("/usr", O_RDONLY | O_DIRECTORY);
	void *value;

	CU_ASSERT_EQUAL(smalloc_on(tag), 0);

	tag_t other = tag_new();

	for (int i = 0; i < 200; i++)
		sink = smalloc(other, 100000);
	CU_ASSERT_EQUAL(tag_quota(other, 0), 0);
	sc_init(&sc);
	sc_mem_add(&sc, other, BOTH);
	CU_ASSERT_EQUAL(sc_fd_add(&sc, null, BOTH), 0);
	CU_ASSERT_EQUAL(sc_path_add(&sc, directory, PROT_READ), 0);
	sc_sys_add(&sc, SYS_openat);

	cgate_t gate = cgate_create(answer, &sc, &sc);

	CU_ASSERT(gate >= 0);
	CU_ASSERT_EQUAL(cgate_call(gate, &sc, &value), 0);
	sc_cgate_add(&sc, gate);
	CU_ASSERT_EQUAL(sc_copy(&copy, &sc), 0);
	CU_ASSERT_EQUAL(live(), 0);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 8; i++)
			CU_ASSERT_EQUAL(sthread_create(&st[i], &copy, nothing, &sc), 0);
		for (int i = 0; i < 8; i++)
			CU_ASSERT_EQUAL(sthread_join_info(st[i], &value, &info), 0);
	}
	CU_ASSERT_EQUAL(sthread_statistics(&statistics), 0);
	/* The symboliser, too, which reads the program's files. */
	CU_ASSERT_EQUAL(sthread_on_violation(forget_report, NULL), 0);
	CU_ASSERT_EQUAL(sthread_create(&st[0], &copy, fault, smalloc(tag, 10)), 0);
	CU_ASSERT_EQUAL(sthread_join(st[0], &value), -1);
	CU_ASSERT_EQUAL(sthread_symbol((uint64_t)(uintptr_t)fault, &symbol), 0);
	CU_ASSERT_EQUAL(live(), 1);
	CU_ASSERT_EQUAL(cgate_destroy(gate), 0);
	sc_destroy(&copy);
	sc_destroy(&sc);
	CU_ASSERT_EQUAL(tag_delete(other), 0);
	CU_ASSERT_EQUAL(live(), 1);
	sink = malloc(10 * hide);
	CU_ASSERT_EQUAL(live(), 2);
	CU_ASSERT_EQUAL(smalloc_off(), 0);
}

static void children(void)
{
	init();
	CU_ASSERT_EQUAL(smalloc_on(tag), 0);

	void *block = kept(malloc(1000 * hide));
	int status = -1;
	pid_t child = fork();

	if (child == 0) {
		free(block); /* the child has no tags, and its switch is off */
		errno = 0;
		if (malloc(10 * hide) == NULL || smalloc_on(tag) != -1 || errno != EBADF || malloc(10 * hide) == NULL)
			_exit(1);
		/* It can have its own. */
		tag = tag_new();
		if (smalloc_on(tag) != 0 || kept(malloc(100 * hide)) == NULL || live() != 1)
			_exit(2);
		free(sink);
		_exit(live() == 0 ? 0 : 3);
	}
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT_EQUAL(status, 0);
	CU_ASSERT_EQUAL(live(), 1);
	free(block);
	CU_ASSERT_EQUAL(live(), 0);
	smalloc_off();
}

/* ---- inside ---------------------------------------------------------------------------------------------------------- */

struct inside {
	tag_t tag, read_only;
	char *text;
	void *block;
};

static void *allocate_inside(void *argument)
{
	struct inside *inside = argument;
	uint8_t *heap = kept(malloc(100 * hide)), *block;

	if (!heap || smalloc_on(inside->tag) != 0)
		return (void *)1;
	memset(heap, 0x51, 100);
	block = kept(calloc(100 * hide, 10));
	if (!block || !all_are(block, 0, 1000))
		return (void *)2;
	memset(block, 0x52, 1000);
	block = kept(realloc(block, 9000 * hide));
	heap = kept(realloc(heap, 300 * hide));
	if (!block || !all_are(block, 0x52, 1000) || malloc_usable_size(block) != 9000 || !all_are(heap, 0x51, 100))
		return (void *)3;
	inside->text = strdup(hide ? "from inside" : "");
	if (smalloc_off() != 0)
		return (void *)4;
	sink = kept(malloc(100 * hide)); /* of its own heap again */
	free(sink);
	free(heap);
	inside->block = block;
	if (smalloc_on(inside->read_only) != 0) /* known when it is used */
		return (void *)5;
	errno = 0;
	if (kept(malloc(100 * hide)) || errno != ENOMEM)
		return (void *)6;
	errno = 0;
	if (smalloc_on(-1) != -1 || errno != EBADF)
		return (void *)7;
	return NULL;
}

static void in_an_sthread(void)
{
	init();

	tag_t read_only = tag_new();
	struct inside *inside = smalloc(tag, sizeof(*inside));
	sthread_t st;
	void *value = &st;
	sc_t sc;

	*inside = (struct inside){ .tag = tag, .read_only = read_only };
	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	sc_mem_add(&sc, read_only, PROT_READ);
	/* The switch of the thread that makes it does not reach into it. */
	CU_ASSERT_EQUAL(smalloc_on(tag), 0);
	CU_ASSERT_EQUAL_FATAL(sthread_create(&st, &sc, allocate_inside, inside), 0);
	CU_ASSERT_EQUAL(smalloc_off(), 0);
	CU_ASSERT_EQUAL(sthread_join(st, &value), 0);
	CU_ASSERT_EQUAL((uintptr_t)value, 0);
	CU_ASSERT_EQUAL(live(), 3);
	CU_ASSERT_PTR_NOT_NULL_FATAL(inside->text);
	CU_ASSERT_STRING_EQUAL(inside->text, "from inside");
	CU_ASSERT(all_are(inside->block, 0x52, 1000));
	free(inside->text);
	free(inside->block);
	CU_ASSERT_EQUAL(live(), 1);
}

static void *allocate_many(void *argument)
{
	void *blocks[50] = { NULL };
	unsigned seed = (unsigned)(uintptr_t)argument, bad = 0;

	if (smalloc_on((seed & 1) ? tag : (tag_t)(seed >> 8)) != 0)
		return (void *)1;
	for (unsigned step = 0; step < 5000; step++) {
		unsigned i = (unsigned)rand_r(&seed) % 50;
		size_t size = 1 + (unsigned)rand_r(&seed) % 2000;

		if (step % 100 == 50)
			smalloc_off();
		if (step % 100 == 99)
			bad += smalloc_on(tag) != 0;
		blocks[i] = realloc(blocks[i], size);
		bad += !blocks[i];
		memset(blocks[i], (int)i, size);
		if (step % 7 == 0) {
			free(blocks[i]);
			blocks[i] = NULL;
		}
	}
	for (unsigned i = 0; i < 50; i++)
		free(blocks[i]);
	return (void *)(uintptr_t)bad;
}

static void many_threads(void)
{
	init();

	pthread_t threads[4];
	void *bad;

	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, allocate_many, (void *)(2 * i + 1));
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &bad);
		CU_ASSERT_EQUAL((uintptr_t)bad, 0);
	}
	CU_ASSERT_EQUAL(live(), 0);
}

/* ---- the snapshot ---------------------------------------------------------------------------------------------------- */

struct scan {
	uint8_t *from, *to;
	uint8_t needle[16];
};

static void *count_needles(void *argument)
{
	const struct scan *scan = argument;
	uintptr_t count = 0;

	for (uint8_t *at = scan->from; at + 16 <= scan->to; at += 16)
		count += memcmp(at, scan->needle, 16) == 0;
	return (void *)count;
}

/* Freed memory is scrubbed, and what is in use is there, with the library before the C library as without. */
static void scrubbed(void)
{
	uint8_t noise[16];
	int random = open("/dev/urandom", O_RDONLY);
	uint8_t *freed[20], *in_use;
	sthread_t st;
	void *count = NULL;
	sc_t sc;

	CU_ASSERT_EQUAL_FATAL(read(random, noise, 16), 16);

	uint8_t *low = sbrk(0);

	for (int i = 0; i < 20; i++) {
		freed[i] = kept(malloc(1000u << (i % 5)));
		low = freed[i] < low ? freed[i] : low;
		for (int at = 0; at < 960; at += 16)
			memcpy(freed[i] + at, noise, 16);
	}
	in_use = kept(malloc(1000 * hide));
	memset(in_use, 0, 1000);
	memcpy(in_use + 160, noise, 16);
	for (int i = 0; i < 20; i++)
		free(freed[i]);
	init();

	struct scan *scan = smalloc(tag, sizeof(*scan));

	*scan = (struct scan){ .from = (uint8_t *)((uintptr_t)low & ~(uintptr_t)15), .to = sbrk(0) };
	memcpy(scan->needle, noise, 16);
	sc_init(&sc);
	sc_mem_add(&sc, tag, PROT_READ);
	CU_ASSERT_EQUAL_FATAL(sthread_create(&st, &sc, count_needles, scan), 0);
	CU_ASSERT_EQUAL(sthread_join(st, &count), 0);
	CU_ASSERT_EQUAL((uintptr_t)count, 1);
	close(random);
}

/* ---- without being linked with it -------------------------------------------------------------------------------------- */

static int run_unlinked(const char *preload, bool isolated)
{
	char path[PATH_MAX + 64], library[2 * PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
	int status = -1;

	CU_ASSERT_FATAL(length > 0);
	path[length] = 0;
	*strrchr(path, '/') = 0;
	snprintf(library, sizeof(library), "%s/../.libs/%s", path, preload ? preload : "");
	strcat(path, "/malloc_unlinked");

	pid_t child = fork();

	if (child == 0) {
		if (preload)
			setenv("LD_PRELOAD", library, 1);
		if (!isolated)
			setenv("STHREAD_ISOLATION", "off", 1);
		execl(path, path, (char *)NULL);
		_exit(99);
	}
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void preloaded(void)
{
	CU_ASSERT_EQUAL(run_unlinked("libsthread-malloc.so.0", true), 0);
}

static void without_isolation(void)
{
	CU_ASSERT_EQUAL(run_unlinked("libsthread-malloc.so.0", false), 0);
}

static void not_loaded(void)
{
	CU_ASSERT_EQUAL(run_unlinked(NULL, true), 38); /* ENOSYS */
}

static const struct harness_test tests[] = {
	{ "the whole family allocates in the tag, and blocks stay where they came from", the_whole_family,
	  HARNESS_FORK },
	{ "what cannot be given is refused, and never comes from the heap instead", errors, HARNESS_FORK },
	{ "free() of what is no allocation of a tag changes nothing", wrong_pointers, HARNESS_FORK },
	{ "the switch is the thread's own", other_threads, HARNESS_FORK },
	{ "the C library's own allocations stay in the heap", libraries_keep_theirs, HARNESS_FORK },
	{ "the supervisor's own allocations stay in the heap", the_supervisor_keeps_its_own, HARNESS_FORK },
	{ "a child of fork() can free what it has inherited", children, HARNESS_FORK },
	{ "it works inside an sthread, in tags granted for writing", in_an_sthread, HARNESS_FORK },
	{ "threads that switch on and off lose nothing", many_threads, HARNESS_FORK, .seconds = 60 },
	{ "freed heap memory is scrubbed with the library too", scrubbed, HARNESS_FORK },
	{ "preloading it is enough", preloaded, HARNESS_FORK },
	{ "blocks are known where tags are not isolated", without_isolation, HARNESS_FORK },
	{ "without it smalloc_on() fails with ENOSYS", not_loaded, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
