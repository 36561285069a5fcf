/*
 * live_restoring.c - an address space with many pages is restored without the supervisor's lock.  One of its pages is made
 * inaccessible, so the thread that restores it stops there, in a signal handler, until the test has looked.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "address_space_parts.h"
#include "compartment.h"
#include "live.h"

enum {
	PAGE = 4096,
	PAGES = 60,
	WAIT_MILLISECONDS = 300, /* for what must not happen */
};

static uint8_t globals[PAGES * PAGE] __attribute__((aligned(PAGE))) = { 1 };
static sc_t sc;
static tag_t tag;
static volatile uint8_t *in_tag;
static void *blocked_page;
static volatile bool blocked, go_on, deleted, created;

static void pause_briefly(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static bool comes(const volatile bool *what)
{
	for (unsigned i = 0; i < 5000 * harness_time_scale() && !*what; i++)
		pause_briefly();
	return *what;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	if ((uint64_t)info->si_addr / PAGE != (uint64_t)blocked_page / PAGE)
		abort();
	blocked = true;
	while (!go_on)
		pause_briefly();
	mprotect(blocked_page, PAGE, PROT_READ | PROT_WRITE);
}

static void *write_all(void *unused)
{
	uint64_t found = 0;
	for (unsigned i = 0; i < PAGES; i++) {
		found += globals[i * PAGE + 9] != 0;
		globals[i * PAGE + 9] = 1;
	}
	(void)unused;
	return (void *)found;
}

static void *write_all_and_read_tag(void *address)
{
	return (void *)((uint64_t)write_all(NULL) + *(volatile uint8_t *)address);
}

static void *enter(void *argument, void *trusted)
{
	(void)trusted;
	return write_all(argument);
}

static struct address_space *space_with_many_pages(void)
{
	struct address_space *space = address_spaces;
	while (space && space->page_count < PAGES)
		space = space->next;
	CU_ASSERT_PTR_NOT_NULL_FATAL(space);
	return space;
}

/* From now on whoever restores this space stops. */
static void block(const struct address_space *space)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	for (size_t i = 0; i < space->page_count; i++)
		if (space->pages[i].address == (uint64_t)&globals[PAGE])
			blocked_page = dune_physical_at(supervisor.machine, space->pages[i].frame);
	CU_ASSERT_PTR_NOT_NULL_FATAL(blocked_page);
	ASSERT_EQUAL(sigaction(SIGSEGV, &action, NULL), 0);
	ASSERT_EQUAL(mprotect(blocked_page, PAGE, PROT_NONE), 0);
}

/* With a file, of which the policy has a duplicate. */
static void make_policy(void)
{
	int file = open("/dev/null", O_RDWR);
	sc_init(&sc);
	ASSERT_EQUAL(sc_fd_add(&sc, file, PROT_READ), 0);
	close(file);
}

static void init(void)
{
	live_init();
	make_policy();
	tag = tag_new();
	in_tag = smalloc(tag, 1);
	CU_ASSERT_PTR_NOT_NULL_FATAL((void *)in_tag);
	*in_tag = 100;
	ASSERT_EQUAL(sc_mem_add(&sc, tag, PROT_READ), 0);
}

/* ---- the threads ------------------------------------------------------------------------------------ */

static struct life blocked_life;

static void *run_blocked(void *unused)
{
	blocked_life = live_run(&sc, write_all_and_read_tag, (void *)in_tag);
	created = true;
	return unused;
}

static void *delete_tag(void *unused)
{
	ASSERT_EQUAL(tag_delete(tag), 0);
	deleted = true;
	return unused;
}

static pthread_t start(void *(*body)(void *))
{
	pthread_t thread;
	ASSERT_EQUAL(pthread_create(&thread, NULL, body, NULL), 0);
	return thread;
}

static pthread_t start_blocked(void)
{
	ASSERT_RETURNED(live_run(&sc, write_all_and_read_tag, (void *)in_tag), 100);
	block(space_with_many_pages());
	pthread_t thread = start(run_blocked);
	CU_ASSERT_FATAL(comes(&blocked));
	return thread;
}

static void others_do_not_wait(void)
{
	init();
	pthread_t thread = start_blocked();
	/* All this takes the lock. */
	sc_t other;
	struct sthread_statistics statistics;
	sc_init(&other);
	for (unsigned i = 0; i < 5; i++)
		ASSERT_RETURNED(live_run(&other, body_nothing, (void *)3), 3);
	ASSERT_EQUAL(sthread_statistics(&statistics), 0);
	CU_ASSERT_FALSE(created);
	/* Nobody else gets the space meanwhile. */
	struct life life = live_run(&sc, write_all_and_read_tag, (void *)in_tag);
	ASSERT_RETURNED(life, 100);
	CU_ASSERT_FALSE(created);
	go_on = true;
	pthread_join(thread, NULL);
	ASSERT_RETURNED(blocked_life, 100);
	CU_ASSERT(blocked_life.info.address_space != life.info.address_space);
	CU_ASSERT(blocked_life.info.pages_restored >= PAGES);
}

/* Handles can be guessed. */
static sthread_t handle_of_blocked(void)
{
	for (uint32_t i = 0; i < supervisor.sthreads.count; i++) {
		const struct sthread *sthread = supervisor.sthreads.slots[i].object;
		if (sthread && sthread->own.space && sthread->own.space->served)
			return sthread->handle;
	}
	return -1;
}

static void its_handle_is_busy(void)
{
	init();
	pthread_t thread = start_blocked();
	sthread_t handle = handle_of_blocked();
	CU_ASSERT(handle >= 0);
	ASSERT_ERROR(sthread_step(handle) == -1, EBUSY);
	ASSERT_ERROR(sthread_join(handle, NULL) == -1, EBUSY);
	ASSERT_EQUAL(sthread_kill(handle), 0);
	CU_ASSERT_FALSE(created);
	go_on = true;
	pthread_join(thread, NULL);
	ASSERT_END(blocked_life, STHREAD_KILLED);
	ASSERT_RETURNED(live_run(&sc, write_all_and_read_tag, (void *)in_tag), 100);
}

static void deleting_a_tag_waits(void)
{
	init();
	pthread_t thread = start_blocked(), deleting = start(delete_tag);
	for (unsigned i = 0; i < WAIT_MILLISECONDS && !deleted; i++)
		pause_briefly();
	CU_ASSERT_FALSE(deleted);
	go_on = true;
	pthread_join(thread, NULL);
	pthread_join(deleting, NULL);
	/* The life may have begun before the tag was gone, and then it has read it. */
	if (blocked_life.error)
		ASSERT_PAGE_FAULT(blocked_life, READ_ABSENT, in_tag);
	else
		ASSERT_RETURNED(blocked_life, 100);
	for (const struct address_space *space = address_spaces; space; space = space->next)
		CU_ASSERT(space_find_tag(space, tag) < 0 && !space->poisoned);
	ASSERT_RETURNED(live_run_bare(write_all, NULL), 0);
}

/* The child has no space; and what the thread that is not there was about to begin does not hold the policy's file open.
 * Ends the child: 0 is good. */
static void check_in_child(void)
{
	if (live_run_bare(write_all, NULL).error)
		_exit(1);
	int fds = live_open_fds();
	sc_destroy(&sc);
	_exit(live_open_fds() == fds - 1 ? 0 : 2);
}

static void fork_and_check(void)
{
	int status;
	pid_t child = fork();
	if (child == 0)
		check_in_child();
	ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT(WIFEXITED(status));
	ASSERT_EQUAL(WEXITSTATUS(status), 0);
}

static void a_child_does_without(void)
{
	init();
	fork_and_check(); /* control: with nothing under way */
	pthread_t thread = start_blocked();
	fork_and_check();
	CU_ASSERT_FALSE(created);
	go_on = true;
	pthread_join(thread, NULL);
	ASSERT_RETURNED(blocked_life, 100);
}

/* ---- gates ------------------------------------------------------------------------------------------ */

static cgate_t gate;
static void *gate_found;

static void *call_blocked(void *unused)
{
	ASSERT_EQUAL(cgate_call(gate, NULL, &gate_found), 0);
	created = true;
	return unused;
}

static void a_gate_is_busy_meanwhile(void)
{
	live_init();
	make_policy();
	gate = cgate_create_fresh(enter, &sc, NULL);
	ASSERT_EQUAL(cgate_wait_limit(gate, 0), 0);
	ASSERT_EQUAL(cgate_call(gate, NULL, &gate_found), 0);
	block(space_with_many_pages());
	pthread_t thread = start(call_blocked);
	CU_ASSERT_FATAL(comes(&blocked));
	ASSERT_ERROR(cgate_call(gate, NULL, NULL) == -1, EBUSY);
	ASSERT_ERROR(cgate_destroy(gate) == -1, EBUSY);
	fork_and_check();
	CU_ASSERT_FALSE(created);
	go_on = true;
	pthread_join(thread, NULL);
	CU_ASSERT_PTR_NULL(gate_found);
	ASSERT_EQUAL(cgate_call(gate, NULL, &gate_found), 0);
	CU_ASSERT_PTR_NULL(gate_found);
	ASSERT_EQUAL(cgate_destroy(gate), 0);
}

static const struct harness_test tests[] = {
	{ "others run, and get other address spaces, while one is restored", others_do_not_wait, HARNESS_FORK },
	{ "an sthread whose address space is restored cannot be stepped or joined, and can be killed",
	  its_handle_is_busy, HARNESS_FORK },
	{ "deleting a tag waits for an address space that is restored", deleting_a_tag_waits, HARNESS_FORK },
	{ "a child that is forked meanwhile runs sthreads", a_child_does_without, HARNESS_FORK },
	{ "a gate is busy while its address space is restored", a_gate_is_busy_meanwhile, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
