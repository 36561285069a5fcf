/*
 * live_parallel.c - many host threads at once: sthreads on each, moving between them, and none waits for the others'
 * slow files.  Reads of regular files by the library go through preadv2() here (the linker's --wrap).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "compartment.h"
#include "live.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
	PAGE = 4096
};

static bool soon(bool (*condition)(void *), void *argument)
{
	for (double until = live_seconds() + 10.0 * harness_time_scale(); live_seconds() < until; usleep(200))
		if (condition(argument))
			return true;
	return false;
}

static bool is_set(void *flag)
{
	return __atomic_load_n((const int *)flag, __ATOMIC_SEQ_CST);
}

static void set(int *flag)
{
	__atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
}

/* ---- at once ----------------------------------------------------------------------------------------------------- */

/* In a tag. */
struct meeting {
	int here[2];
	int leave;
};

static void *meet(struct meeting *meeting, int me)
{
	set(&meeting->here[me]);
	while (!is_set(&meeting->here[!me]) || !is_set(&meeting->leave))
		;
	return meeting;
}

static void *meet_first(void *meeting)
{
	return meet(meeting, 0);
}

static void *meet_second(void *meeting)
{
	return meet(meeting, 1);
}

struct job {
	pthread_t thread;
	const sc_t *sc;
	stcb_t body;
	void *argument;
	struct life life;
	int done;
};

static void *run_job(void *argument)
{
	struct job *job = argument;

	job->life = live_run(job->sc, job->body, job->argument);
	set(&job->done);
	return NULL;
}

static void start(struct job *job, const sc_t *sc, stcb_t body, void *argument)
{
	*job = (struct job){ .sc = sc, .body = body, .argument = argument };
	pthread_create(&job->thread, NULL, run_job, job);
}

/* How many virtual CPUs are inside KVM_RUN with an sthread of their own. */
static bool two_are_running(void *unused)
{
	unsigned running = 0;

	(void)unused;
	supervisor_lock();
	for (uint32_t i = 0; i < supervisor.sthreads.count; i++) {
		const struct sthread *sthread = supervisor.sthreads.slots[i].object;

		running += sthread && sthread->own.space && sthread->own.space->running_on;
	}
	supervisor_unlock();
	return running == 2;
}

static void at_once(void)
{
	struct meeting *meeting;
	struct job jobs[2];
	tag_t tag;
	sc_t sc;

	live_init();
	tag = tag_new();
	meeting = smalloc(tag, sizeof(*meeting));
	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	start(&jobs[0], &sc, meet_first, meeting);
	start(&jobs[1], &sc, meet_second, meeting);
	live_check(soon(two_are_running, NULL), __FILE__, __LINE__, "two are inside the machine at the same time");
	set(&meeting->leave);
	for (int i = 0; i < 2; i++) {
		pthread_join(jobs[i].thread, NULL);
		ASSERT_RETURNED(jobs[i].life, meeting);
	}
}

/* ---- moving ------------------------------------------------------------------------------------------------------ */

static __thread int local = 5;
static int global = 7;

static void *count_parks(void *times)
{
	double sum = 0;

	for (uintptr_t i = 0; i < (uintptr_t)times; i++) {
		local++;
		global++;
		sum += 0.5;
		sthread_park();
	}
	return (void *)(uintptr_t)(local * 10000 + global * 100 + (int)(2 * sum));
}

struct move {
	sthread_t st;
	sc_t sc;
	int result;
	struct life life;
};

static void *create_here(void *argument)
{
	struct move *move = argument;

	move->result = live_create(&move->st, &move->sc, count_parks, (void *)3);
	return NULL;
}

static void *step_here(void *argument)
{
	struct move *move = argument;

	move->result = live_step(move->st);
	return NULL;
}

static void *join_here(void *argument)
{
	struct move *move = argument;

	move->life = live_join(move->st);
	return NULL;
}

static void on_a_thread(void *(*work)(void *), void *argument)
{
	pthread_t thread;

	ASSERT_EQUAL(pthread_create(&thread, NULL, work, argument), 0);
	pthread_join(thread, NULL);
}

static void moving(void)
{
	static struct move moves[8];

	live_init();
	for (int i = 0; i < 8; i++) {
		sc_init(&moves[i].sc);
		on_a_thread(create_here, &moves[i]);
		ASSERT_EQUAL(moves[i].result, 0);
	}
	for (int step = 0; step < 3; step++)
		for (int i = 0; i < 8; i++) {
			on_a_thread(step_here, &moves[(i * 3 + step) % 8]);
			ASSERT_EQUAL(moves[(i * 3 + step) % 8].result, 0);
		}
	for (int i = 0; i < 8; i++) {
		on_a_thread(join_here, &moves[i]);
		ASSERT_RETURNED(moves[i].life, 8 * 10000 + 10 * 100 + 3);
		ASSERT_EQUAL(moves[i].life.info.parks, 3);
	}
	ASSERT_EQUAL(local, 5);
	ASSERT_EQUAL(global, 7);
}

/* ---- slow files -------------------------------------------------------------------------------------------------- */

/* A read of a regular file that takes until it is let go. */
static struct {
	int slow, reached, go;
} disk;

ssize_t __real_preadv2(int fd, const struct iovec *list, int count, off_t offset, int flags);
ssize_t __wrap_preadv2(int fd, const struct iovec *list, int count, off_t offset, int flags);
ssize_t __wrap_preadv2(int fd, const struct iovec *list, int count, off_t offset, int flags)
{
	if (is_set(&disk.slow)) {
		set(&disk.reached);
		soon(is_set, &disk.go);
	}
	return __real_preadv2(fd, list, count, offset, flags);
}

struct reading {
	int fd;
	uint8_t *to;
};

static void *read_page(void *argument)
{
	const struct reading *reading = argument;

	return (void *)read(reading->fd, reading->to, PAGE);
}

static void *delete_tag(void *argument)
{
	struct job *job = argument;

	job->life.error = tag_delete((tag_t)(intptr_t)job->argument);
	set(&job->done);
	return NULL;
}

static void slow_file(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name);
	struct job reader, other, deleter;
	struct reading *reading;
	tag_t tag, data;
	sc_t sc, bare;

	unlink(name);
	ASSERT_EQUAL(ftruncate(file, 16 * PAGE), 0);
	live_init();
	tag = tag_new();
	data = tag_new();
	reading = smalloc(tag, sizeof(*reading));
	reading->fd = file;
	reading->to = smalloc(data, PAGE);
	sc_init(&bare);
	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	sc_mem_add(&sc, data, BOTH);
	sc_fd_add(&sc, file, PROT_READ);
	set(&disk.slow);
	start(&reader, &sc, read_page, reading);
	live_check(soon(is_set, &disk.reached), __FILE__, __LINE__, "the file is read");
	start(&other, &bare, body_nothing, (void *)3);
	live_check(soon(is_set, &other.done), __FILE__, __LINE__, "others run while a disk is slow");
	pthread_join(other.thread, NULL);
	ASSERT_RETURNED(other.life, 3);
	CU_ASSERT(!is_set(&reader.done));

	/* What is being read into is not taken away under the disk's hands. */
	deleter = (struct job){ .argument = (void *)(intptr_t)data };
	pthread_create(&deleter.thread, NULL, delete_tag, &deleter);
	usleep(50000);
	start(&other, &bare, body_nothing, (void *)4);
	live_check(soon(is_set, &other.done), __FILE__, __LINE__, "nor do they wait while a tag waits to be deleted");
	pthread_join(other.thread, NULL);
	CU_ASSERT(!is_set(&deleter.done));
	set(&disk.go);
	live_check(soon(is_set, &deleter.done), __FILE__, __LINE__, "it is deleted then");
	pthread_join(deleter.thread, NULL);
	ASSERT_EQUAL(deleter.life.error, 0);
	pthread_join(reader.thread, NULL);
	ASSERT_RETURNED(reader.life, PAGE);
	sc_destroy(&sc);
}

static const struct harness_test tests[] = {
	{ "sthreads of two host threads run at the same time", at_once, HARNESS_FORK },
	{ "an sthread is made on one thread, stepped on others, joined on another", moving, HARNESS_FORK },
	{ "a slow file holds up its reader only, and the deletion of the memory that it is read into", slow_file,
	  HARNESS_FORK, .seconds = 60 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
