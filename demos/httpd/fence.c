/*
 * fence.c - finds libraries by one of their functions, and protects their executable segments.
 */
#include "fence.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

struct search {
	uintptr_t function;
	bool found;
};

static bool holds(const struct dl_phdr_info *object, const ElfW(Phdr) * segment, uintptr_t address)
{
	return segment->p_type == PT_LOAD && address - (object->dlpi_addr + segment->p_vaddr) < segment->p_memsz;
}

static int protect(const struct dl_phdr_info *object, const ElfW(Phdr) * segment)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t start = (object->dlpi_addr + segment->p_vaddr) & ~(page - 1);
	uintptr_t end = (object->dlpi_addr + segment->p_vaddr + segment->p_memsz + page - 1) & ~(page - 1);

	return mprotect((void *)start, end - start, PROT_NONE);
}

/* For dl_iterate_phdr(): protects the code of the object that holds the function. */
static int visit(struct dl_phdr_info *object, size_t size, void *argument)
{
	struct search *search = argument;
	bool mine = false;

	(void)size;
	for (int i = 0; i < object->dlpi_phnum; i++)
		mine = mine || holds(object, &object->dlpi_phdr[i], search->function);
	if (!mine)
		return 0;
	search->found = true;
	for (int i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &object->dlpi_phdr[i];

		if (segment->p_type != PT_LOAD || (segment->p_flags & PF_X) == 0)
			continue;
		/* An old linker put the tables in the same segment that the dynamic linker looks names up in. */
		if (segment->p_offset == 0) {
			errno = ENOTSUP;
			return -1;
		}
		if (protect(object, segment) != 0)
			return -1;
	}
	return 1;
}

/* RTLD_NEXT, because the program's own idea of the address may be its jump table. */
static int fence(const char *function)
{
	struct search search = { .function = (uintptr_t)dlsym(RTLD_NEXT, function) };

	if (search.function == 0) {
		errno = ENOTSUP; /* linked into the program */
		return -1;
	}
	if (dl_iterate_phdr(visit, &search) < 0)
		return -1;
	return search.found ? 0 : -1;
}

const char *fence_libraries(void)
{
	static const struct {
		const char *name, *function;
	} libraries[] = {
		{ "libssl", "SSL_new" },
		{ "libcrypto", "EVP_DigestSign" },
#ifdef HAVE_LLHTTP
		{ "libllhttp", "llhttp_execute" },
#else
		{ "libhttp_parser", "http_parser_execute" },
#endif
	};
	const char *open = NULL;
	int error = 0;

	for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++) {
		if (fence(libraries[i].function) != 0 && open == NULL) {
			open = libraries[i].name;
			error = errno;
		}
	}
	errno = error;
	return open;
}
