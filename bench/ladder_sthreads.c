/* ladder_sthreads.c - exits, lives, steps, served calls, gates, two host threads.  See ladder.h. */
#define _GNU_SOURCE
#include "bare.h"
#include "dirty.h"
#include "ladder.h"
#include "lives.h"
#include "measure_print.h"
#include "parallel.h"
#include "ring0.h"

static void start_library(void)
{
	if (sthread_init() != 0)
		measure_fail("%s", sthread_error());
	bare_prepare();
	measure_set_stepper(ring0_count);
}

/* Parks if it is told to: keeps an address space in use. */
static void *keeping_body(void *argument)
{
	if (argument)
		sthread_park();
	return NULL;
}

/* The same, and makes sure that it was the first life of its address space. */
static void run_first_life(void *argument)
{
	const struct life *life = argument;
	struct sthread_info info;
	sthread_t sthread;
	if (sthread_create(&sthread, &life->policy, life->body, life->argument) != 0)
		measure_fail("%s", sthread_error());
	if (sthread_join_info(sthread, NULL, &info) != 0 || info.recycled)
		measure_fail("the library did not make a new address space");
}

/* Takes the address space that the life before has left, so that the next one needs another. */
static void keep_idle_space(void *argument)
{
	const struct life *life = argument;
	sthread_t kept;
	if (sthread_create(&kept, &life->policy, life->body, (void *)1) != 0)
		measure_fail("%s", sthread_error());
}

void group_sthreads(struct measurement *measurement, void *snapshot_fact)
{
	struct fact *snapshot = snapshot_fact;
	struct sthread_statistics statistics;
	dirty_prepare();
	measure_make_resident(10 * MIB);
	start_library();
	struct life empty = life_empty(), dirty = life_dirty(), keeping = life_empty();
	struct life calling = life_calling(), sending = life_sending();
	sthread_t idle = parked_idle(), asking = parked_asking(), reading = parked_reading();
	keeping.body = keeping_body;
	const struct operation operations[] = {
		{ &rungs[BARE_EXIT], bare_run_exit, .warm = 5 },
		{ &rungs[LIFE], life_run, &empty, .warm = 5 },
		{ &rungs[LIFE_DIRTY], life_run, &dirty, .warm = 5 },
		{ &rungs[STEP], step_run, &idle, .warm = 5 },
		{ &rungs[SERVED_CALL], step_run, &asking, .inner = CALLS_EACH, .samples = 5, .warm = 1 },
		{ &rungs[SERVED_READ], step_run, &reading, .inner = CALLS_EACH, .samples = 5, .warm = 1 },
		{ &rungs[GATE], life_run, &calling, .inner = CALLS_EACH, .samples = 5, .warm = 1 },
		{ &rungs[GATE_BUFFER], life_run, &sending, .inner = CALLS_EACH, .samples = 5, .warm = 1 },
		/* Few: with many address spaces the library lets lives of one kind take over those of another. */
		{ &rungs[LIFE_FRESH], run_first_life, &keeping, .samples = 2, .between = keep_idle_space },
	};
	measure_operations(measurement, operations, sizeof operations / sizeof *operations, ladder_blocks());
	if (sthread_statistics(&statistics) == 0)
		snprintf(snapshot->text, sizeof snapshot->text, "%llu", (unsigned long long)statistics.snapshot_pages);
}

void group_parallel(struct measurement *measurement, void *argument)
{
	const struct operation operations[] = {
		{ &rungs[SERIAL], run_serially, .samples = 2, .warm = 1 },
		{ &rungs[PARALLEL], run_in_parallel, .samples = 2, .warm = 1 },
		{ &rungs[LIVES_SERIAL], live_serially, .samples = 2, .warm = 1 },
		{ &rungs[LIVES_PARALLEL], live_in_parallel, .samples = 2, .warm = 1 },
	};
	(void)argument;
	start_library();
	measure_set_stepper(NULL); /* another thread runs as well, and ring 0 has nothing to do */
	parallel_prepare();
	measure_operations(measurement, operations, sizeof operations / sizeof *operations, ladder.quick ? 2 : 5);
}

/* 10 MiB, or 1 GiB before or after sthread_init(). */
void group_resident(struct measurement *measurement, void *rung)
{
	measure_make_resident(10 * MIB);
	if (rung == &rungs[LIFE_1G_BEFORE])
		measure_make_resident(GIB);
	start_library();
	if (rung == &rungs[LIFE_1G_AFTER])
		measure_make_resident(GIB);
	struct life empty = life_empty();
	const struct operation operation = { rung, life_run, &empty, .warm = 5 };
	measure_operations(measurement, &operation, 1, ladder_blocks());
}
