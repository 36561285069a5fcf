/* malloc_switch.c - see malloc_switch.h, and smalloc_on() in sthread.h */
#define _GNU_SOURCE
#include "malloc_switch.h"

#include <errno.h>

#include "malloc/switch.h"
#include "supervisor.h"
#include "tag.h"
#include "unisolated.h"

static const struct malloc_switch *offered; /* NULL: libsthread-malloc is not loaded */

static size_t size_of(const void *pointer)
{
	if (supervisor_inside()) {
		long answer = supervisor_service(SERVICE_SIZE, (uint64_t)pointer, 0, 0, 0, 0);
		return answer > 0 ? (size_t)answer : 0;
	}
	supervisor_lock();
	size_t size =
		supervisor.unisolated ? unisolated_size_of(pointer) : tag_size_of(tag_at((uint64_t)pointer), pointer);
	supervisor_unlock();
	return size;
}

static struct malloc_support support = { .size = size_of };

const struct malloc_support *sthread_malloc_attach(const struct malloc_switch *from)
{
	offered = from;
	return &support;
}

static bool owns(const void *pointer)
{
	return size_of(pointer) != 0;
}

void malloc_switch_open(void)
{
	if (supervisor.unisolated) {
		support.owns = owns;
		return;
	}
	support.tags = (uintptr_t)supervisor.machine->tags.host;
	support.tags_size = supervisor.machine->tags.size;
}

void malloc_switch_pause(void)
{
	if (offered)
		offered->pause(1);
}

void malloc_switch_resume(void)
{
	if (offered)
		offered->pause(-1);
}

void malloc_switch_off(void)
{
	if (offered)
		offered->set(-1);
}

static int not_loaded(void)
{
	if (supervisor_inside())
		errno = ENOSYS;
	else
		dune_fail(ENOSYS, "libsthread-malloc.so is not loaded: link the program with it (pkg-config "
				  "sthread-malloc) or preload it");
	return -1;
}

int smalloc_on(tag_t tag)
{
	if (!offered)
		return not_loaded();
	if (!supervisor_inside()) {
		if (supervisor_enter() != 0)
			return -1;
		supervisor_lock();
		bool exists = supervisor_tag_exists(tag);
		supervisor_unlock();
		if (!exists)
			return dune_fail(EBADF, "no such tag");
	} else if (tag < 0) {
		errno = EBADF;
		return -1;
	}
	offered->set(tag);
	return 0;
}

int smalloc_off(void)
{
	if (!offered)
		return not_loaded();
	offered->set(-1);
	return 0;
}
