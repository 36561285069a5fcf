/* boundary.c - see boundary.h, and BOUNDARY_VAR() in sthread.h */
#define _GNU_SOURCE
#include "boundary.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "tag.h"

enum {
	SECTIONS = 64,
	NAME = 32
};

static struct section {
	uint8_t *start;
	size_t size;
	char name[NAME];
	bool may_vanish; /* its library could not be kept from being unloaded */
	bool replaced;
	bool opened;
	tag_t tag;
	uint64_t physical;
} sections[SECTIONS];
static unsigned count;
static bool too_many;

/* ---- what constructors report ---------------------------------------------------------------------- */

/* A memory slot must not outlast the memory: a library with such a section stays loaded. */
static bool keep_loaded(const void *address)
{
	Dl_info info;
	struct link_map *map = NULL;
	if (!dladdr1(address, &info, (void **)&map, RTLD_DL_LINKMAP) || !map)
		return false;
	return !map->l_name[0] /* the program itself */ ||
	       dlopen(map->l_name, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE) != NULL;
}

static struct section *find(const void *start)
{
	for (unsigned i = 0; i < count; i++)
		if (sections[i].start == start)
			return &sections[i];
	return NULL;
}

void sthread_boundary_add(void *start, void *stop, const char *name)
{
	if (supervisor.ready || supervisor.forked || find(start))
		return; /* once sthreads are there it is too late: sthread_boundary_tag() says so */
	if (count == SECTIONS) {
		too_many = true;
		return;
	}
	struct section *section = &sections[count++];
	*section = (struct section){ .start = start,
				     .size = (size_t)((uint8_t *)stop - (uint8_t *)start),
				     .may_vanish = !keep_loaded(start),
				     .tag = -1 };
	snprintf(section->name, sizeof section->name, "%s", name);
}

/* ---- making tags of them --------------------------------------------------------------------------- */

/* One step, mremap(), puts the copy in its place.  No signal handler may write in between. */
static int replace(const struct section *section)
{
	sigset_t all, before;
	void *copy =
		mmap(NULL, section->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (copy == MAP_FAILED)
		return dune_fail(ENOMEM, "out of memory for tagged globals");
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	memcpy(copy, section->start, section->size);
	int result = madvise(copy, section->size, MADV_DONTDUMP);
	if (result == 0 &&
	    mremap(copy, section->size, section->size, MREMAP_MAYMOVE | MREMAP_FIXED, section->start) != section->start)
		result = -1;
	int error = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (result == 0)
		return 0;
	munmap(copy, section->size);
	return dune_fail(error, "tagged globals (%s) cannot be moved: %s", section->name, strerror(error));
}

static int open_section(struct section *section)
{
	if (section->may_vanish)
		return dune_fail(ENOTSUP, "the library with tagged globals (%s) could be unloaded", section->name);
	if ((uintptr_t)section->start & DUNE_PAGE_MASK || section->size & DUNE_PAGE_MASK || !section->size)
		return dune_fail(
			ENOTSUP,
			"tagged globals (%s) are not whole pages: put nothing into section sthread_boundary_%s but "
			"by BOUNDARY_VAR()",
			section->name, section->name);
	if (!supervisor.unisolated) {
		if (!section->replaced && replace(section) != 0)
			return -1;
		section->replaced = true;
		if (!(section->physical = dune_range_add(supervisor.machine, section->start, section->size)))
			return -1;
	}
	section->tag = tag_new_of(&(struct tag_extent){
		.address = (uintptr_t)section->start, .physical = section->physical, .size = section->size });
	section->opened = section->tag >= 0;
	return section->opened ? 0 : -1;
}

int boundaries_open(void)
{
	if (too_many)
		return dune_fail(ENOSPC, "more than %d boundaries of tagged globals", SECTIONS);
	for (unsigned i = 0; i < count; i++)
		if (!sections[i].opened && open_section(&sections[i]) != 0)
			return -1;
	return 0;
}

int boundaries_check(void)
{
	for (unsigned i = 0; i < count; i++)
		for (size_t at = 0; at < sections[i].size; at += DUNE_PAGE_SIZE)
			if (snapshot_find(&supervisor.snapshot, (uintptr_t)sections[i].start + at))
				return dune_fail(ENOTSUP, "tagged globals (%s) are in the snapshot", sections[i].name);
	return 0;
}

/* ---- looking up ------------------------------------------------------------------------------------ */

tag_t boundary_at(uint64_t address, uint64_t *physical)
{
	for (unsigned i = 0; i < count; i++) {
		uint64_t offset = address - (uintptr_t)sections[i].start;
		if (offset < sections[i].size) {
			*physical = sections[i].physical + offset;
			return sections[i].tag;
		}
	}
	return -1;
}

tag_t sthread_boundary_tag(void *start)
{
	/* Inside, the snapshot's copy of the table says it. */
	if (!supervisor_inside() && !supervisor.unisolated && supervisor_enter() != 0)
		return -1;
	const struct section *section = find(start);
	if (section && section->opened)
		return section->tag;
	if (supervisor_inside())
		errno = EBADF;
	else
		dune_fail(EBADF, "these tagged globals were loaded after sthread_init()");
	return -1;
}
