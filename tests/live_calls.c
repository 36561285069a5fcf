/* live_calls.c - served system calls and the C library in normal use. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "live.h"

enum {
	PAGE = 4096,
	BOTH = PROT_READ | PROT_WRITE
};

/* What a body is told, in a tag, and what it answers there. */
struct shared {
	int fds[8];
	char text[1000];
	int64_t numbers[8];
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

static int temporary_file(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int fd = mkstemp(name);

	unlink(name);
	return fd;
}

/* A body returns 1, or the line that failed. */
#define REQUIRE(condition)                         \
	do {                                       \
		if (!(condition))                  \
			return (void *)(__LINE__); \
	} while (0)

/* ---- the C library ----------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void *use_library(void *argument)
{
	struct shared *shared = argument;
	char *blocks[500], text[100];
	FILE *stream = fdopen(shared->fds[0], "w");

	REQUIRE(stream != NULL);
	for (int i = 0; i < 500; i++) {
		REQUIRE((blocks[i] = malloc((size_t)(10 + i * 37 % 3000))) != NULL);
		snprintf(blocks[i], 10, "%03d", (i * 7) % 500);
	}
	for (int i = 0; i < 500; i++)
		REQUIRE((blocks[i] = realloc(blocks[i], (size_t)(10 + i * 91 % 70000))) != NULL);
	qsort(blocks, 500, sizeof(*blocks), compare);
	for (int i = 0; i < 500; i++) {
		REQUIRE(atoi(blocks[i]) == i);
		free(blocks[i]);
	}
	for (size_t size = 1; size <= (size_t)16 << 20; size *= 4) {
		char *large = malloc(size);

		REQUIRE(large != NULL);
		large[0] = large[size - 1] = 1;
		large = realloc(large, size + 100000);
		REQUIRE(large && large[0] == 1 && large[size - 1] == 1);
		free(large);
	}
	REQUIRE(snprintf(text, sizeof(text), "%.3f %s %lx", 3.14159, "text", 0xabcdeful) == 17);
	REQUIRE(fprintf(stream, "[%s]\n", text) == 20);
	REQUIRE(strtod("2.5", NULL) == 2.5);
	return (void *)1; /* what the stream holds goes out at the end of the life */
}

static void library(void)
{
	int fd = temporary_file();
	char text[100] = "";
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	sc_fd_add(&sc, fd, PROT_WRITE);
	shared->fds[0] = fd;
	for (int i = 0; i < 2; i++)
		ASSERT_RETURNED(live_run(&sc, use_library, shared), 1);
	CU_ASSERT(pread(fd, text, sizeof(text) - 1, 0) > 0);
	CU_ASSERT_STRING_EQUAL(text, "[3.142 text abcdef]\n[3.142 text abcdef]\n");
	sc_destroy(&sc);
}

static void *print_to_stdout(void *unused)
{
	(void)unused;
	REQUIRE(printf("from an sthread %d\n", 42) == 19);
	return (void *)1;
}

static void standard_output(void)
{
	int ends[2], saved = dup(1);
	char text[100] = "";
	sc_t sc;

	live_init();
	ASSERT_EQUAL(pipe(ends), 0);
	dup2(ends[1], 1);
	sc_init(&sc);
	sc_fd_add(&sc, 1, PROT_WRITE);

	struct life life = live_run(&sc, print_to_stdout, NULL);

	dup2(saved, 1);
	ASSERT_RETURNED(life, 1);
	CU_ASSERT(read(ends[0], text, sizeof(text) - 1) > 0);
	CU_ASSERT_STRING_EQUAL(text, "from an sthread 42\n");
	sc_destroy(&sc);
}

static void *use_memory(void *argument)
{
	struct shared *shared = argument;
	uint8_t *a = mmap(NULL, 10 * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *b, *file;

	REQUIRE(a != MAP_FAILED && a[0] == 0 && a[10 * PAGE - 1] == 0);
	memset(a, 0x99, 10 * PAGE);
	REQUIRE(munmap(a, 10 * PAGE) == 0);
	b = mmap(NULL, 10 * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(b != MAP_FAILED);
	for (int i = 0; i < 10 * PAGE; i++)
		REQUIRE(b[i] == 0); /* as new */
	REQUIRE(mmap(NULL, PAGE, BOTH, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EPERM);
	REQUIRE(mmap((void *)0x10000, PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED &&
		errno == EPERM);
	a = mmap((void *)0x500000000000, PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(a != MAP_FAILED && a != (uint8_t *)0x500000000000); /* hints are ignored */
	file = mmap(NULL, 2 * PAGE, BOTH, MAP_PRIVATE, shared->fds[0], 0);
	REQUIRE(file != MAP_FAILED && memcmp(file, "content", 7) == 0 && file[7] == 0 && file[2 * PAGE - 1] == 0);
	file[0] = 'X';
	char *before = sbrk(0), *heap = sbrk(100 * PAGE);

	REQUIRE(heap == before && heap[0] == 0 && heap[100 * PAGE - 1] == 0);
	memset(heap, 0x77, 100 * PAGE);
	REQUIRE(sbrk(-100 * PAGE) != (void *)-1 && sbrk(0) == before);
	heap = sbrk(100 * PAGE);
	REQUIRE(heap == before && heap[50 * PAGE] == 0);
	return (void *)1;
}

static void memory(void)
{
	int fd = temporary_file();
	char text[10] = "";
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	ASSERT_EQUAL(write(fd, "content", 7), 7);
	sc_fd_add(&sc, fd, PROT_READ);
	shared->fds[0] = fd;
	for (int i = 0; i < 2; i++)
		ASSERT_RETURNED(live_run(&sc, use_memory, shared), 1);
	ASSERT_EQUAL(pread(fd, text, 7, 0), 7);
	CU_ASSERT_STRING_EQUAL(text, "content");
	sc_destroy(&sc);
}

static void *ask_the_time(void *argument)
{
	struct shared *shared = argument;
	struct timespec now, resolution;
	struct timeval day;
	unsigned cpu = 99, node = 99;

	REQUIRE(clock_gettime(CLOCK_REALTIME, &now) == 0);
	shared->numbers[0] = now.tv_sec;
	REQUIRE(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	shared->numbers[1] = now.tv_sec;
	shared->numbers[2] = time(NULL);
	REQUIRE(gettimeofday(&day, NULL) == 0);
	shared->numbers[3] = day.tv_sec;
	REQUIRE(clock_getres(CLOCK_MONOTONIC, &resolution) == 0);
	REQUIRE(clock_gettime(12345, &now) == -1 && errno == EINVAL);
	REQUIRE(getcpu(&cpu, &node) == 0);
	shared->numbers[4] = getpid();
	shared->numbers[5] = gettid();
	REQUIRE(getrandom(shared->text, 100, 0) == 100);
	return (void *)1;
}

static void time_and_identity(void)
{
	struct timespec now;
	int64_t last = 0;
	char random[100] = "";
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	for (int i = 0; i < 5; i++) {
		ASSERT_RETURNED(live_run(&sc, ask_the_time, shared), 1);
		clock_gettime(CLOCK_REALTIME, &now);
		for (int j = 0; j < 4; j++) {
			int64_t difference = now.tv_sec - shared->numbers[j];

			if (j == 1)
				continue;
			live_check(difference >= 0 && difference <= 5, __FILE__, __LINE__, "clock %d is right (%ld)", j,
				   (long)difference);
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
		CU_ASSERT(now.tv_sec - shared->numbers[1] <= 5 && now.tv_sec >= shared->numbers[1]);
		ASSERT_EQUAL(shared->numbers[4], shared->numbers[5]);
		CU_ASSERT(shared->numbers[4] > 0 && shared->numbers[4] != last && shared->numbers[4] != getpid());
		CU_ASSERT(memcmp(random, shared->text, 100) != 0);
		memcpy(random, shared->text, 100);
		last = shared->numbers[4];
	}
}

static void *leave(void *status)
{
	_exit((int)(intptr_t)status);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int times;

static void count_times(void)
{
	times++;
}

static void *use_locks(void *unused)
{
	(void)unused;
	for (int i = 0; i < 3; i++) {
		REQUIRE(pthread_once(&once, count_times) == 0);
		REQUIRE(pthread_mutex_lock(&mutex) == 0);
		REQUIRE(pthread_mutex_trylock(&mutex) == EBUSY);
		REQUIRE(pthread_mutex_unlock(&mutex) == 0);
	}
	REQUIRE(times == 1);
	return (void *)1;
}

static void locks(void)
{
	live_init();
	ASSERT_RETURNED(live_run_bare(use_locks, NULL), 1);
	ASSERT_RETURNED(live_run_bare(use_locks, NULL), 1);
	ASSERT_EQUAL(times, 0);
}

static void exit_status(void)
{
	static const int statuses[] = { 0, 1, 77, 255, 256, -1 };

	live_init();
	for (size_t i = 0; i < sizeof(statuses) / sizeof(*statuses); i++) {
		struct life life = live_run_bare(leave, (void *)(intptr_t)statuses[i]);

		ASSERT_END(life, STHREAD_EXITED);
		ASSERT_EQUAL(life.info.exit_status, statuses[i] & 0xff);
	}
}

static const struct harness_test tests[] = {
	{ "malloc, printf and friends work inside", library, HARNESS_FORK },
	{ "printf() to a granted standard output works", standard_output, HARNESS_FORK },
	{ "mmap() and brk() give private, zeroed memory", memory, HARNESS_FORK },
	{ "clocks, getpid() and getrandom() answer", time_and_identity, HARNESS_FORK },
	{ "locks and pthread_once() work in an sthread's one thread", locks, HARNESS_FORK },
	{ "_exit() tells its status", exit_status, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
