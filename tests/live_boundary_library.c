/* live_boundary_library.c - tagged globals of libraries, as programs outside this tree see them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sthread.h>

#include "harness.h"

BOUNDARY_VAR(static volatile int own_counter = 80, 1);

struct library {
	void *handle;
	int *(*counter)(void);
	char *(*text)(void);
	tag_t (*tag)(void);
};

static struct library load(const char *name)
{
	char path[PATH_MAX + 64];
	ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);

	CU_ASSERT_FATAL(length > 0);
	path[length] = 0;
	snprintf(strrchr(path, '/'), 64, "/.libs/%s.so", name);

	struct library library = { .handle = dlopen(path, RTLD_NOW | RTLD_LOCAL) };

	if (!library.handle)
		harness_note("%s", dlerror());
	CU_ASSERT_PTR_NOT_NULL_FATAL(library.handle);
	*(void **)&library.counter = dlsym(library.handle, "boundary_other_counter");
	*(void **)&library.text = dlsym(library.handle, "boundary_other_text");
	*(void **)&library.tag = dlsym(library.handle, "boundary_other_tag");
	return library;
}

static void *read_int(void *at)
{
	return (void *)(intptr_t) * (volatile int *)at;
}

/* What an sthread with this policy reads there; -1 if it faults. */
static intptr_t read_with(const sc_t *sc, const volatile int *at)
{
	sthread_t st;
	void *value;

	if (sthread_create(&st, sc, read_int, (void *)at) != 0)
		return -2;
	return sthread_join(st, &value) == 0 ? (intptr_t)value : -1;
}

static void each_has_its_own(void)
{
	struct library first = load("boundary_library"), second = load("boundary_library_again");

	CU_ASSERT_FATAL(first.counter() != second.counter());
	CU_ASSERT_EQUAL_FATAL(sthread_init(), 0);

	const tag_t tags[] = { BOUNDARY_TAG(1), first.tag(), second.tag() };
	const volatile int *const counters[] = { &own_counter, first.counter(), second.counter() };
	const int values[] = { 80, 60, 60 };

	for (int granted = -1; granted < 3; granted++) {
		sc_t sc;

		sc_init(&sc);
		if (granted >= 0)
			CU_ASSERT_EQUAL(sc_mem_add(&sc, tags[granted], PROT_READ), 0);
		for (int i = 0; i < 3; i++)
			CU_ASSERT_EQUAL(read_with(&sc, counters[i]), i == granted ? values[i] : -1);
	}
	CU_ASSERT_STRING_EQUAL(second.text(), "library");
}

static void stays_loaded(void)
{
	struct library library = load("boundary_library");
	int *counter = library.counter();
	sc_t sc;

	CU_ASSERT_EQUAL(dlclose(library.handle), 0);
	CU_ASSERT_EQUAL_FATAL(sthread_init(), 0);
	/* Its memory is still there, and still its own. */
	CU_ASSERT_EQUAL(*counter, 60);
	sc_init(&sc);
	CU_ASSERT_EQUAL(sc_mem_add(&sc, library.tag(), PROT_READ), 0);
	CU_ASSERT_EQUAL(read_with(&sc, counter), 60);
}

static void loaded_late(void)
{
	CU_ASSERT_EQUAL_FATAL(sthread_init(), 0);

	struct library library = load("boundary_library");
	sc_t sc;

	errno = 0;
	CU_ASSERT_EQUAL(library.tag(), -1);
	CU_ASSERT_EQUAL(errno, EBADF);
	CU_ASSERT_PTR_NOT_NULL(strstr(sthread_error(), "loaded after"));
	sc_init(&sc);
	CU_ASSERT_EQUAL(read_with(&sc, library.counter()), -1); /* what is mapped later is nobody's */
	CU_ASSERT_EQUAL(read_with(&sc, &own_counter), -1);
	CU_ASSERT_EQUAL(sc_mem_add(&sc, BOUNDARY_TAG(1), PROT_READ), 0);
	CU_ASSERT_EQUAL(read_with(&sc, &own_counter), 80);
}

/* Parts of pages would have to be shared with what is not tagged. */
static void parts_of_pages(void)
{
	static _Alignas(4096) char memory[8192];

	sthread_boundary_add(memory, memory + 5000, "part");
	errno = 0;
	CU_ASSERT_EQUAL(sthread_init(), -1);
	CU_ASSERT_EQUAL(errno, ENOTSUP);
	CU_ASSERT_PTR_NOT_NULL(strstr(sthread_error(), "whole pages"));
}

static void unaligned(void)
{
	static _Alignas(4096) char memory[8192];

	sthread_boundary_add(memory + 64, memory + 64 + 4096, "unaligned");
	CU_ASSERT_EQUAL(sthread_init(), -1);
	CU_ASSERT_EQUAL(errno, ENOTSUP);
}

static void too_many(void)
{
	static _Alignas(4096) char memory[100][4096];

	for (int i = 0; i < 100; i++)
		sthread_boundary_add(memory[i], memory[i] + 4096, "many");
	CU_ASSERT_EQUAL(sthread_init(), -1);
	CU_ASSERT_EQUAL(errno, ENOSPC);
	CU_ASSERT_EQUAL(own_counter, 80);
}

static const struct harness_test tests[] = {
	{ "the same id in a program and in two libraries is three tags", each_has_its_own, HARNESS_FORK },
	{ "a library with tagged globals stays loaded", stays_loaded, HARNESS_FORK },
	{ "globals of a library loaded after sthread_init() have no tag, and are absent", loaded_late, HARNESS_FORK },
	{ "a section that is not whole pages is refused at sthread_init()", parts_of_pages, HARNESS_FORK },
	{ "a section that begins within a page is refused", unaligned, HARNESS_FORK },
	{ "more sections than there is room for are refused", too_many, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
