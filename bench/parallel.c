/* parallel.c - see parallel.h */
#define _GNU_SOURCE
#include "parallel.h"

#include <pthread.h>
#include <semaphore.h>

enum {
	STEPS = 10 * 1000 * 1000,
	LIVES = 1000
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

static void *nothing(void *argument)
{
	return argument;
}

static void run(stcb_t body)
{
	sthread_t st;
	if (sthread_create(&st, &policy, body, NULL) != 0 || sthread_join(st, NULL) != 0)
		measure_fail("%s", sthread_error());
}

static void run_one(void)
{
	run(compute);
}

static void live_many(void)
{
	for (unsigned i = 0; i < LIVES; i++)
		run(nothing);
}

static void (*work)(void); /* of the second thread */

static void *second_thread(void *unused)
{
	for (;;) {
		while (sem_wait(&begin) != 0)
			;
		work();
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

static void serially(void (*what)(void))
{
	what();
	what();
}

static void in_parallel(void (*what)(void))
{
	work = what;
	sem_post(&begin);
	what();
	while (sem_wait(&end) != 0)
		;
}

void run_serially(void *unused)
{
	(void)unused;
	serially(run_one);
}

void run_in_parallel(void *unused)
{
	(void)unused;
	in_parallel(run_one);
}

void live_serially(void *unused)
{
	(void)unused;
	serially(live_many);
}

void live_in_parallel(void *unused)
{
	(void)unused;
	in_parallel(live_many);
}
