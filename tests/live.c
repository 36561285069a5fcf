/* live.c - see live.h */
#define _GNU_SOURCE
#include "live.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compartment.h"
#include "dune.h"
#include "supervisor.h"

void live_check(bool good, const char *file, unsigned line, const char *format, ...)
{
	char what[400];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	CU_assertImplementation(good, line, what, file, "", CU_FALSE);
}

void live_init(void)
{
	int result = sthread_init();

	live_check(result == 0, __FILE__, __LINE__, "sthread_init() succeeds: %s", sthread_error());
	CU_ASSERT_EQUAL_FATAL(result, 0);
	/* The same tests from ring 0: the lane svm-guest. */
	const char *placement = getenv("TEST_PLACEMENT");
	if (placement && strcmp(placement, "guest") == 0) {
		result = dune_init_and_enter();
		live_check(result == 0, __FILE__, __LINE__, "dune_init_and_enter() succeeds: %s", dune_error());
	}
}

struct life live_join(sthread_t st)
{
	struct life life = { 0 };

	if (sthread_join_info(st, &life.value, &life.info) != 0)
		life.error = errno;
	return life;
}

static int settle(sthread_t st)
{
	enum sthread_state state;

	do
		if (sthread_state(st, &state) != 0 || (state == STHREAD_RUNNABLE && sthread_step(st) != 0))
			return -1;
	while (state == STHREAD_RUNNABLE);
	return 0;
}

int live_create(sthread_t *st, const sc_t *sc, stcb_t body, void *argument)
{
	return sthread_create(st, sc, body, argument) == 0 ? settle(*st) : -1;
}

int live_step(sthread_t st)
{
	return sthread_step(st) == 0 ? settle(st) : -1;
}

struct life live_run(const sc_t *sc, stcb_t body, void *argument)
{
	struct life life = { 0 };
	sthread_t st;

	if (sthread_create(&st, sc, body, argument) != 0) {
		life.error = errno;
		return life;
	}
	return live_join(st);
}

struct life live_run_bare(stcb_t body, void *argument)
{
	sc_t sc;

	sc_init(&sc);
	return live_run(&sc, body, argument);
}

static const char *how(const struct life *life, char *text, size_t room)
{
	static const char *const ends[] = { "returned",   "exited", "faulted",     "denied",
					    "out of CPU", "killed", "host failure", "out of memory", "out of time", "out of calls" };
	const struct sthread_info *info = &life->info;

	if (life->error && life->error != ECANCELED)
		snprintf(text, room, "create or join failed: %s", strerror(life->error));
	else if (info->end == STHREAD_FAULTED)
		snprintf(text, room, "faulted: vector %u, error code %#llx, address %#llx, instruction %#llx",
			 info->vector, (unsigned long long)info->error_code, (unsigned long long)info->address,
			 (unsigned long long)info->instruction);
	else
		snprintf(text, room, "%s: value %#llx, exit status %d, system call %d", ends[info->end],
			 (unsigned long long)life->value, info->exit_status, info->system_call);
	return text;
}

void live_check_returned(const struct life *life, uint64_t value, const char *file, unsigned line)
{
	char text[200];
	bool good = !life->error && life->info.end == STHREAD_RETURNED && (uint64_t)life->value == value;

	live_check(good, file, line, "the body returns %#llx (it %s)", (unsigned long long)value,
		   how(life, text, sizeof(text)));
}

void live_check_fault(const struct life *life, unsigned vector, uint64_t error_code, uint64_t address, const char *file,
		      unsigned line)
{
	char text[200];
	const struct sthread_info *info = &life->info;
	bool good = life->error == ECANCELED && info->end == STHREAD_FAULTED && info->vector == vector &&
		    info->error_code == error_code && (vector != PAGE_FAULT || info->address == address);

	live_check(good, file, line, "it faults with vector %u, error code %#llx, address %#llx (it %s)", vector,
		   (unsigned long long)error_code, (unsigned long long)address, how(life, text, sizeof(text)));
}

void live_check_end(const struct life *life, enum sthread_end end, const char *file, unsigned line)
{
	char text[200];
	bool good = life->error == (end == STHREAD_RETURNED ? 0 : ECANCELED) && life->info.end == end;

	live_check(good, file, line, "it ends as %d (it %s)", (int)end, how(life, text, sizeof(text)));
}

/* ---- bodies ------------------------------------------------------------------------------------------------------ */

void *body_nothing(void *argument)
{
	return argument;
}

void *body_read(void *address)
{
	return (void *)(uintptr_t) * (volatile uint8_t *)address;
}

void *body_write(void *address)
{
	*(volatile uint8_t *)address = 0x5a;
	return (void *)1;
}

void *body_jump(void *address)
{
	((void (*)(void))(uintptr_t)address)();
	return (void *)1;
}

void *body_park_then_read(void *address)
{
	sthread_park();
	return body_read(address);
}

void *body_spin(void *unused)
{
	(void)unused;
	for (volatile uint64_t i = 0;; i = i + 1)
		;
}

/* ---- the machine ------------------------------------------------------------------------------------------------- */

uint64_t live_window(void)
{
	return supervisor.machine->window;
}

bool live_from_ring0(void)
{
	return dune_in_guest();
}

bool live_emulated_amd(void)
{
	const char *lane = getenv("TEST_LANE");
	return lane && strncmp(lane, "svm", 3) == 0;
}

bool live_ring0_native(void)
{
	return supervisor.machine->host.ring0_native;
}

bool live_io_exit(void)
{
	return supervisor.machine->host.exit_path == DUNE_EXIT_IO_BITMAP;
}

bool live_umip(void)
{
	return supervisor.machine->host.umip;
}

void live_walk(sthread_t st, void (*visit)(uint64_t address, uint64_t entry, void *argument), void *argument)
{
	const struct dune_tables *tables = &supervisor.machine->tables;
	const struct sthread *sthread = handle_get(&supervisor.sthreads, st);

	if (!sthread || !sthread->own.space)
		return;
	const uint64_t *root = dune_tables_at(tables, sthread->own.space->context.root);

	for (uint64_t i = 0; i < 512; i++) {
		if (!(root[i] & DUNE_PTE_PRESENT))
			continue;
		const uint64_t *third = dune_tables_at(tables, root[i] & DUNE_PTE_FRAME);

		for (uint64_t j = 0; j < 512; j++) {
			if (!(third[j] & DUNE_PTE_PRESENT))
				continue;
			const uint64_t *second = dune_tables_at(tables, third[j] & DUNE_PTE_FRAME);

			for (uint64_t k = 0; k < 512; k++) {
				if (!(second[k] & DUNE_PTE_PRESENT))
					continue;
				const uint64_t *first = dune_tables_at(tables, second[k] & DUNE_PTE_FRAME);

				for (uint64_t l = 0; l < 512; l++)
					if (first[l] & DUNE_PTE_PRESENT)
						visit(i << 39 | j << 30 | k << 21 | l << 12, first[l], argument);
			}
		}
	}
}

struct search {
	const void *needle;
	size_t size;
	unsigned found;
	uint64_t last; /* the last frame searched: runs of equal ones (zeros) are searched once */
};

static void search_frame(struct search *search, uint64_t frame)
{
	const uint8_t *page = dune_physical_at(supervisor.machine, frame);

	if (frame == search->last || !page)
		return;
	search->last = frame;
	for (const uint8_t *at = page; (at = memmem(at, page + DUNE_PAGE_SIZE - at, search->needle, search->size));
	     at++)
		search->found++;
}

static void search_entry(uint64_t address, uint64_t entry, void *argument)
{
	const struct snapshot_region *region = snapshot_find(&supervisor.snapshot, address);
	uint64_t frame = entry & DUNE_PTE_FRAME;

	if (!region || region->frames[(address - region->start) / DUNE_PAGE_SIZE] != frame) /* else searched already */
		search_frame(argument, frame); /* supervisor pages too: law 3 */
}

unsigned live_find(sthread_t st, const void *needle, size_t size)
{
	struct search search = { needle, size, 0, 0 };
	const struct snapshot *snapshot = &supervisor.snapshot;

	for (size_t i = 0; i < snapshot->count; i++)
		for (uint64_t page = 0; page < (snapshot->regions[i].end - snapshot->regions[i].start) / DUNE_PAGE_SIZE;
		     page++)
			search_frame(&search, snapshot->regions[i].frames[page]);
	live_walk(st, search_entry, &search);
	return search.found;
}

void live_reveal(char *text, const char *hidden)
{
	size_t i;

	for (i = 0; hidden[i]; i++)
		text[i] = (char)(hidden[i] ^ 0x80);
	text[i] = 0;
}

int live_open_fds(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;

	while (directory && readdir(directory))
		count++;
	if (directory)
		closedir(directory);
	return count;
}

double live_seconds(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}
