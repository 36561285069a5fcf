/* ladder_pages.c - lives that write to so many pages of the heap, and what else does the same.  See ladder.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ladder.h"
#include "lives.h"
#include "ring0.h"

enum {
	PAGE = 4096,
	PASSES = 16 /* of one sample of memcpy and stores */
};

static volatile uint8_t *heap;
static unsigned count;
static uint8_t *copies;

static void write_pages(void)
{
	for (unsigned i = 0; i < count; i++)
		heap[(size_t)i * PAGE] = 0xa5;
}

static void *body(void *argument)
{
	write_pages();
	return argument;
}

static void run_fork(void *argument)
{
	(void)argument;
	pid_t child = fork();
	if (child == 0) {
		write_pages();
		_exit(0);
	}
	if (child < 0 || waitpid(child, NULL, 0) != child)
		measure_fail("fork: %s", strerror(errno));
}

/* Pages of 4 KiB, as those of a life are. */
static uint8_t *pages_new(void)
{
	size_t size = ((size_t)count + 1) * PAGE;
	uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		measure_fail("no memory");
	madvise(memory, size, MADV_NOHUGEPAGE);
	memset(memory, 0x5a, size);
	return memory;
}

static void run_copies(void *argument)
{
	(void)argument;
	for (unsigned pass = 0; pass < PASSES; pass++)
		for (unsigned i = 0; i < count; i++)
			memcpy(copies + (size_t)i * PAGE, (const uint8_t *)heap + (size_t)i * PAGE, PAGE);
}

static void run_stores(void *argument)
{
	(void)argument;
	for (unsigned pass = 0; pass < PASSES; pass++)
		write_pages();
}

static void prepare(void *size)
{
	count = dirty_sizes[(uintptr_t)size];
	heap = aligned_alloc(PAGE, ((size_t)count + 1) * PAGE);
	if (!heap)
		measure_fail("no memory");
	for (unsigned i = 0; i < count; i++)
		heap[(size_t)i * PAGE] = 0x5a;
	measure_make_resident(10 * MIB);
}

void group_dirty_peers(struct measurement *measurement, void *size)
{
	size_t at = (uintptr_t)size;
	prepare(size);
	copies = pages_new();
	const struct operation operations[] = {
		{ &rungs[FORK_DIRTIES + at], run_fork, .warm = 2 },
		{ &rungs[MEMCPY + at], run_copies, .inner = PASSES, .warm = 2 },
		{ &rungs[STORES + at], run_stores, .inner = PASSES, .warm = 2 },
	};
	measure_operations(measurement, operations, 3, (ladder_blocks() + 1) / 2);
}

void group_dirty_lives(struct measurement *measurement, void *size)
{
	prepare(size);
	if (sthread_init() != 0)
		measure_fail("%s", sthread_error());
	measure_set_stepper(ring0_count);
	struct life life = life_empty();
	const struct operation operation = { &rungs[LIFE_DIRTIES + (uintptr_t)size], life_run, &life, .warm = 5 };
	life.body = body;
	measure_operations(measurement, &operation, 1, (ladder_blocks() + 1) / 2);
}
