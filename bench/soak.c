/*
 * soak.c - many lives, one after the other: does anything grow?
 *
 * soak [--lives=N]    (default: 1,000,000)
 * Each life writes to eight pages (dirty.h) and opens and closes a file under a path grant.  Prints at intervals the
 * resident memory and the open descriptors, and at the end whether they stayed flat.
 * Exit status: 0 flat; 1 memory grew by more than 5% after the first lives, or descriptors grew; 2 it could not be run
 * to its end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dirty.h"
#include "measure.h"

enum {
	LINES = 20,
	WARM_LIVES = 10000,
	GROWTH_PERCENT = 5,
	NO_FILE = 1000
};

static char folder[] = "/tmp/sthread-soak-XXXXXX";
static char file[sizeof folder + sizeof "/file"];

static void remove_files(void)
{
	unlink(file);
	rmdir(folder);
}

static _Noreturn void fail(const char *what, const char *why)
{
	fprintf(stderr, "soak: %s: %s\n", what, why);
	remove_files();
	exit(2);
}

/* Returns NULL if all is as it should be. */
static void *body(void *argument)
{
	(void)argument;
	unsigned strange = dirty_pages();
	int fd = open("file", O_RDONLY);
	if (fd < 0 || close(fd) != 0)
		strange += NO_FILE;
	return (void *)(uintptr_t)strange;
}

static void live(const sc_t *policy)
{
	struct sthread_info info;
	sthread_t sthread;
	void *result = NULL;
	if (sthread_create(&sthread, policy, body, NULL) != 0)
		fail("no sthread", sthread_error());
	if (sthread_join_info(sthread, &result, &info) != 0) {
		char how[120];
		snprintf(how, sizeof how, "end %d, vector %u, address 0x%" PRIx64 ", instruction 0x%" PRIx64,
			 (int)info.end, info.vector, info.address, info.instruction);
		fail("a life did not return", how);
	}
	if ((uintptr_t)result >= NO_FILE)
		fail("a life", "could not open the file");
	if (result)
		fail("a life", "found what a former one had left");
}

struct state {
	long resident, descriptors;
};

static struct state print_line(uint64_t lives, double seconds)
{
	struct state state = { measure_resident(), measure_descriptors() };
	struct sthread_statistics statistics = { 0 };
	if (sthread_statistics(&statistics) != 0)
		fail("no statistics", sthread_error());
	printf("%10" PRIu64 " %8.1f %9.0f %12ld %6ld %10" PRIu64 " %7" PRIu64 " %7.2f %7.2f\n", lives, seconds,
	       seconds > 0 ? (double)lives / seconds : 0, state.resident >> 10, state.descriptors,
	       statistics.frames_used, statistics.address_spaces, lives ? (double)statistics.exits / (double)lives : 0,
	       lives ? (double)statistics.pages_restored / (double)lives : 0);
	fflush(stdout);
	return state;
}

static uint64_t parse(int argc, char **argv)
{
	static const char option[] = "--lives=";
	char *end = NULL;
	if (argc == 1)
		return 1000000;
	unsigned long long lives = 0;
	if (argc == 2 && strncmp(argv[1], option, sizeof option - 1) == 0 && argv[1][sizeof option - 1] != '-')
		lives = strtoull(argv[1] + sizeof option - 1, &end, 10);
	if (!lives || !end || *end) {
		fprintf(stderr, "Usage: soak [--lives=N]\n");
		exit(2);
	}
	return lives;
}

static int prepare_files(void)
{
	if (!mkdtemp(folder))
		fail("no temporary folder", strerror(errno));
	snprintf(file, sizeof file, "%s/file", folder);
	int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || directory < 0)
		fail("no temporary file", strerror(errno));
	close(fd);
	return directory;
}

int main(int argc, char **argv)
{
	uint64_t lives = parse(argc, argv), warm = lives / 10 < WARM_LIVES ? lives / 10 : WARM_LIVES;
	uint64_t step = lives / LINES ? lives / LINES : 1;
	sc_t policy;
	int directory = prepare_files();
	dirty_prepare();
	if (sthread_init() != 0)
		fail("cannot start", sthread_error());
	sc_init(&policy);
	sc_path_add(&policy, directory, PROT_READ);
	sc_sys_add(&policy, SYS_openat);
	close(directory);

	printf("%10s %8s %9s %12s %6s %10s %7s %7s %7s\n", "lives", "seconds", "lives/s", "resident KiB", "fds",
	       "pool pages", "spaces", "exits/l", "rest./l");
	uint64_t began = measure_now();
	struct state first = { 0 }, last = { 0 };
	for (uint64_t i = 0; i <= lives; i++) {
		double seconds = (double)(measure_now() - began) / 1e9;
		if (i == warm)
			first = print_line(i, seconds);
		else if (i == lives || i % step == 0)
			last = print_line(i, seconds);
		if (i < lives)
			live(&policy);
	}
	sc_destroy(&policy);
	remove_files();
	bool grew = last.descriptors > first.descriptors ||
		    last.resident > first.resident + first.resident / 100 * GROWTH_PERCENT;
	printf("%s: after %" PRIu64 " lives %ld KiB resident and %ld descriptors, after %" PRIu64
	       " lives %ld KiB and %ld\n",
	       grew ? "not flat" : "flat", warm, first.resident >> 10, first.descriptors, lives, last.resident >> 10,
	       last.descriptors);
	return grew;
}
