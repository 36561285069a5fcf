/* two_processes.c - see two_processes.h */
#define _GNU_SOURCE
#include "two_processes.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "measure.h"

void stay_on_this_processor(void)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof one, &one);
}

static void wait_while(_Atomic uint32_t *turn, uint32_t whose)
{
	while (*turn == whose)
		syscall(SYS_futex, turn, FUTEX_WAIT, whose, NULL, NULL, 0);
}

static void give_turn_to(_Atomic uint32_t *turn, uint32_t whose)
{
	*turn = whose;
	syscall(SYS_futex, turn, FUTEX_WAKE, 1, NULL, NULL, 0);
	wait_while(turn, whose);
}

static void *memory_of(size_t size, int sharing)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		measure_fail("no memory");
	madvise(memory, size, MADV_NOHUGEPAGE);
	return memory;
}

void two_processes_start(struct two_processes *two, unsigned pages)
{
	two->pages = pages;
	two->turn = memory_of(4096, MAP_SHARED);
	two->memory = memory_of(((size_t)pages + 1) * 4096, MAP_PRIVATE);
	pid_t child = fork();
	if (child < 0)
		measure_fail("no child: %s", strerror(errno));
	if (child > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	wait_while(two->turn, 0);
	for (;;) {
		touch_pages(two->memory, two->pages);
		give_turn_to(two->turn, 0);
	}
}

void two_processes_run(void *argument)
{
	const struct two_processes *two = argument;
	for (unsigned i = 0; i < ROUND_TRIPS; i++) {
		touch_pages(two->memory, two->pages);
		give_turn_to(two->turn, 1);
	}
}
