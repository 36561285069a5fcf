/* live_scale.c - thousands of sthreads parked in one process at the same time: what each costs, and that none is lost. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "live.h"

enum {
	MANY = 10000,
	MANY_IN_LANES = 300,
	PAGE = 4096,
	ROOM_EACH = 160 << 10, /* bytes of memory that must be available for each, else there are fewer */
	LIMIT_EACH = 64 << 10
};

static unsigned global;

/* Its state across the park: on the stack, in a register or on the stack, in a global. */
static void *keep_and_park(void *number)
{
	volatile uint64_t on_stack[4] = { (uintptr_t)number * 3, 0, 0, (uintptr_t)number };
	uint64_t in_register = (uintptr_t)number * 7;

	if (global)
		return NULL; /* somebody else's */
	global = (unsigned)(uintptr_t)number;
	__asm__ volatile("" : "+r"(in_register));
	if (sthread_park() != 0)
		return NULL;
	__asm__ volatile("" : "+r"(in_register));
	if (global != (uintptr_t)number || on_stack[0] != (uintptr_t)number * 3 || on_stack[3] != (uintptr_t)number)
		return NULL;
	return (void *)(uintptr_t)in_register;
}

static unsigned how_many(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	unsigned long kilobytes = 0;
	char line[200];

	if (getenv("TEST_LANE")) /* slow, and small */
		return MANY_IN_LANES;
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "MemAvailable: %lu kB", &kilobytes) == 1)
			break;
	if (file)
		fclose(file);

	unsigned long room = kilobytes * 1024 / ROOM_EACH;

	return room < MANY ? (unsigned)room : MANY;
}

static long resident(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	long size, pages = 0;

	if (file && fscanf(file, "%ld %ld", &size, &pages) != 2)
		pages = 0;
	if (file)
		fclose(file);
	return pages * PAGE;
}

static void thousands(void)
{
	static sthread_t st[MANY];
	struct sthread_statistics before, after;
	const struct rlimit few = { 64, 64 };
	unsigned count = how_many();
	uint64_t dirtied = 0, extra = 0;
	long memory;
	double began;
	sc_t sc;

	ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &few), 0);
	if (count < MANY)
		harness_note("%u sthreads, not %u", count, (unsigned)MANY);
	live_init();
	sc_init(&sc);
	ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)3), 3);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	memory = resident();
	began = live_seconds();
	for (unsigned i = 0; i < count; i++)
		if (live_create(&st[i], &sc, keep_and_park, (void *)(uintptr_t)(i + 1)) != 0) {
			live_check(false, __FILE__, __LINE__, "sthread %u is created: %s", i, sthread_error());
			return;
		}
	memory = resident() - memory;
	harness_note("%u created in %.1f s", count, live_seconds() - began);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	for (unsigned i = 0; i < count; i++) {
		struct sthread_info info;
		enum sthread_state state;

		ASSERT_EQUAL(sthread_state(st[i], &state), 0);
		ASSERT_EQUAL(state, STHREAD_PARKED);
		ASSERT_EQUAL(sthread_get_info(st[i], &info), 0);
		dirtied += info.pages_copied;
	}
	CU_ASSERT(dirtied <= after.pages_copied - before.pages_copied);
	/* Copies made beforehand, of pages that others had written to, are dirtied as well. */
	dirtied = after.pages_copied - before.pages_copied;

	uint64_t frames = after.frames_used - before.frames_used, tables = after.table_pages - before.table_pages;
	uint64_t each = (frames - dirtied + tables) * PAGE / count;

	live_check(frames >= dirtied && each <= LIMIT_EACH, __FILE__, __LINE__,
		   "each costs %llu bytes beside the pages that it dirtied", (unsigned long long)each);
	harness_note("%u parked: each has %.1f page tables, %.1f private pages and 1 more (%ld bytes resident in all)",
		     count, (double)tables / count, (double)dirtied / count, memory / count);

	/* Each goes on, in another order than it came, and is as it was. */
	began = live_seconds();
	for (unsigned i = 0; i < count; i++) {
		unsigned which = (unsigned)((uint64_t)i * 7919 % count);
		struct sthread_info info;
		struct life life;

		CU_ASSERT(st[which] >= 0); /* a prime stride: each comes once */
		ASSERT_EQUAL(sthread_get_info(st[which], &info), 0);
		ASSERT_EQUAL(live_step(st[which]), 0);
		life = live_join(st[which]);
		ASSERT_RETURNED(life, (uint64_t)(which + 1) * 7);
		live_check(life.info.exits > info.exits, __FILE__, __LINE__, "it went on");
		extra += life.info.exits - info.exits - 1;
		st[which] = -1;
	}
	/* One exit for each, but for the ticks of the slice timer. */
	live_check(extra <= (uint64_t)((live_seconds() - began) / 0.004) + 2, __FILE__, __LINE__,
		   "%u sthreads went on with %llu more exits than one for each", count, (unsigned long long)extra);
	harness_note("one exit for each, and %llu in all for the timer", (unsigned long long)extra);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	ASSERT_EQUAL(before.address_spaces - after.address_spaces, 0);
	ASSERT_EQUAL(before.frames_used - after.frames_used, 0);
}

static const struct harness_test tests[] = {
	{ "thousands are parked at a time, each with its state and at most 64 KiB, and go on with one exit", thousands,
	  HARNESS_FORK, .seconds = 120 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
