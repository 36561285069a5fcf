/* dirty_sizes.c - see dirty_sizes.h */
#define _GNU_SOURCE
#include "dirty_sizes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PAGE = 4096
};

static volatile uint8_t *heap;
static unsigned count;
static sc_t policy;

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

static void run_life(void *argument)
{
	sthread_t sthread;
	(void)argument;
	if (sthread_create(&sthread, &policy, body, NULL) != 0)
		measure_fail("%s", sthread_error());
	if (sthread_join(sthread, NULL) != 0)
		measure_fail("an sthread did not end as it should");
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

void dirty_sizes_measure(struct measurement *measurement, unsigned pages, const struct rung *fork_rung,
			 const struct rung *life_rung, unsigned blocks)
{
	const struct operation forks = { .rung = fork_rung, .run = run_fork, .warm = 2 };
	const struct operation lives = { .rung = life_rung, .run = run_life, .warm = 5 };
	count = pages;
	heap = aligned_alloc(PAGE, ((size_t)count + 1) * PAGE);
	if (!heap)
		measure_fail("no memory");
	for (unsigned i = 0; i < count; i++)
		heap[(size_t)i * PAGE] = 0x5a;
	measure_make_resident((size_t)10 << 20);
	/* Before there is a virtual machine in the process. */
	measure_operations(measurement, &forks, 1, blocks);
	if (sthread_init() != 0)
		measure_fail("%s", sthread_error());
	sc_init(&policy);
	measure_operations(measurement, &lives, 1, blocks);
}
