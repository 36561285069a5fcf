/* ladder_live.c - a step of one sthread among many that are parked, and the memory of each.  See ladder.h. */
#define _GNU_SOURCE
#include "ladder.h"
#include "lives.h"
#include "ring0.h"

enum {
	STRIDE = 7919 /* a prime: each has its turn */
};

static sthread_t parked[10000];

struct turn {
	unsigned count, next;
};

static void run_next(void *argument)
{
	struct turn *turn = argument;
	step_run(&parked[(size_t)turn->next * STRIDE % turn->count]);
	turn->next++;
}

void group_live(struct measurement *measurement, void *size)
{
	struct turn turn = { .count = live_sizes[(uintptr_t)size] };
	const struct rung *rung = &rungs[LIVE + (uintptr_t)size];
	const struct operation operation = { rung, run_next, &turn, .samples = 100, .warm = 2 };
	if (sthread_init() != 0)
		measure_fail("%s", sthread_error());
	measure_set_stepper(ring0_count);
	/* What the library has once is there before the first that counts. */
	struct life empty = life_empty();
	life_run(&empty);
	step_run(&(sthread_t){ parked_idle() });
	long before = measure_resident();
	for (unsigned i = 0; i < turn.count; i++)
		parked[i] = parked_idle();
	measure_result(measurement, rung)->bytes = (double)(measure_resident() - before) / turn.count;
	measure_operations(measurement, &operation, 1, ladder_blocks());
}
