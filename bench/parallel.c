/* parallel.c - see parallel.h */
#define _GNU_SOURCE
#include "parallel.h"

#include <pthread.h>
#include <semaphore.h>

enum {
	STEPS = 10 * 1000 * 1000
};

static sc_t policy;
static sem_t begin, end;

static void *compute(void *unused)
{
	uint64_t value = 88172645463325252;
	(void)unused;
	for (unsigned i = 0; i < STEPS; i++) {
		value ^= value << 13;
		value ^= value >> 7;
		value ^= value << 17;
	}
	return (void *)(uintptr_t)value;
}

static void run_one(void)
{
	sthread_t st;
	if (sthread_create(&st, &policy, compute, NULL) != 0 || sthread_join(st, NULL) != 0)
		measure_fail("%s", sthread_error());
}

static void *second_thread(void *unused)
{
	for (;;) {
		while (sem_wait(&begin) != 0)
			;
		run_one();
		sem_post(&end);
	}
	return unused;
}

void parallel_prepare(void)
{
	pthread_t thread;
	sc_init(&policy);
	sem_init(&begin, 0, 0);
	sem_init(&end, 0, 0);
	if (pthread_create(&thread, NULL, second_thread, NULL) != 0)
		measure_fail("no second thread");
}

void run_serially(void *unused)
{
	(void)unused;
	run_one();
	run_one();
}

void run_in_parallel(void *unused)
{
	(void)unused;
	sem_post(&begin);
	run_one();
	while (sem_wait(&end) != 0)
		;
}
