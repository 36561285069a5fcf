/*
 * fork.c - sthreads in the children of a fork.
 *
 * The child inherits the snapshot, and nothing else of the machine: the pages that sthread_init() copied (copied on
 * write) and the second mappings of program and library files.  Its compartments therefore start from what the parent
 * had in memory at sthread_init(), whatever either of them has read since.  Virtual CPUs, page tables, tags, private
 * pages stay with the parent; the parent's handles are stale in the child.  The child's machine is made at its first use.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "local.h"
#include "unisolated.h"

/* Addresses that the snapshot has in it: a child's machine must have the same ones. */
static uint64_t service, enter;

static int make_mark(void)
{
	if (!supervisor.here) {
		uint8_t *mark = mmap(NULL, DUNE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mark == MAP_FAILED)
			return dune_fail(ENOMEM, "out of memory");
		if (madvise(mark, DUNE_PAGE_SIZE, MADV_WIPEONFORK) != 0) {
			int error = errno;
			munmap(mark, DUNE_PAGE_SIZE);
			return dune_fail(error, "this kernel cannot wipe memory in children (MADV_WIPEONFORK)");
		}
		supervisor.here = mark;
	}
	*supervisor.here = 1;
	return 0;
}

/* What the supervisor knows is consistent when its lock is free.  (A compartment that calls fork() gets here too.) */
static void before_fork(void)
{
	if (!supervisor_inside())
		supervisor_lock();
}

static void in_parent(void)
{
	if (!supervisor_inside())
		supervisor_unlock();
}

static void in_child(void)
{
	supervisor_unlock(); /* this thread holds it */
	pthread_cond_init(&supervisor.changed, NULL);
	supervisor.process = getpid();
	supervisor_random_forget();
	if (!supervisor.ready && !supervisor.unisolated)
		return;
	if (supervisor.ready) {
		service = supervisor.machine->trampoline_service;
		enter = supervisor.machine->trampoline_enter;
		supervisor.forked = true;
	}
	supervisor.ready = false;
	locals_forget();
	sthreads_forget();
	gates_forget();
	templates_forget();
	address_spaces_forget();
	tags_forget();
	unisolated_tags_forget();
	accounts_forget();
	memset(&supervisor.statistics, 0, sizeof supervisor.statistics);
}

int supervisor_watch_forks(void)
{
	static bool watching;
	if (make_mark() != 0)
		return -1;
	if (!watching && pthread_atfork(before_fork, in_parent, in_child) != 0)
		return dune_fail(ENOMEM, "out of memory");
	watching = true;
	return 0;
}

/* Numbers of lives that neither the parent nor another child of it uses: they go on from a random place. */
static int begin_instances(void)
{
	uint64_t first;
	if (supervisor_random(&first, sizeof first) != 0)
		return -1;
	supervisor.instances = first >> 2;
	return 0;
}

static int rebuild(void)
{
	if (!dune_machine_get() || !dune_vcpu_get(supervisor.machine))
		return -1;
	if (service != supervisor.machine->trampoline_service || enter != supervisor.machine->trampoline_enter)
		return dune_fail(ENOTSUP, "this host's KVM is not the one of sthread_init()");
	if (dune_arena_back(supervisor.machine, &supervisor.machine->image, supervisor.snapshot.image_used) != 0 ||
	    begin_instances() != 0 || make_mark() != 0)
		return -1;
	supervisor.before = dune_totals();
	supervisor.forked = false;
	supervisor.ready = true;
	return 0;
}

int supervisor_rebuild(void)
{
	supervisor_lock();
	int result = supervisor.ready ? 0 : rebuild();
	supervisor_unlock();
	return result;
}
