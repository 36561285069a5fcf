/* unit_vdso.c - the vDSO for compartments answers as the kernel does, and holds no code but its own. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"
#include "sthread/vdso.h"

static const struct vdso_routines none;

static const uint8_t *vdso;
static size_t size;

/* Finds the vDSO, or skips the test. */
#define NEED_VDSO()                                                              \
	do {                                                                     \
		const void *base;                                                \
		if (vdso_find(&base, &size)) {                                   \
			CU_ASSERT_EQUAL(errno, ENOENT);                          \
			HARNESS_SKIP("the kernel gives this process no vDSO");   \
		}                                                                \
		vdso = base;                                                     \
	} while (0)

static const Elf64_Shdr *section_of_type(const uint8_t *image, unsigned type)
{
	const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
	const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);

	for (unsigned i = 0; i < header->e_shnum; i++)
		if (sections[i].sh_type == type)
			return &sections[i];
	return NULL;
}

/* The i-th dynamic symbol of an image, or NULL, and its name. */
static Elf64_Sym *symbol_at(const uint8_t *image, size_t i, char **name)
{
	const Elf64_Shdr *table = section_of_type(image, SHT_DYNSYM);
	const Elf64_Shdr *strings = (const Elf64_Shdr *)(image + ((const Elf64_Ehdr *)image)->e_shoff) + table->sh_link;

	if (i >= table->sh_size / sizeof(Elf64_Sym))
		return NULL;

	Elf64_Sym *symbol = (Elf64_Sym *)(uintptr_t)(image + table->sh_offset) + i;

	*name = (char *)(uintptr_t)(image + strings->sh_offset + symbol->st_name);
	return symbol;
}

static Elf64_Sym *symbol_named(const uint8_t *image, const char *wanted, char **name)
{
	Elf64_Sym *symbol;

	for (size_t i = 0; (symbol = symbol_at(image, i, name)); i++)
		if (!strcmp(*name, wanted))
			return symbol;
	return NULL;
}

/* A replacement that can be executed, somewhere else than the vDSO. */
static uint8_t *make_executable(void)
{
	uint8_t *replacement = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CU_ASSERT_NOT_EQUAL_FATAL(replacement, MAP_FAILED);
	CU_ASSERT_EQUAL_FATAL(vdso_make_replacement(vdso, size, replacement, &none), 0);
	CU_ASSERT_EQUAL_FATAL(mprotect(replacement, size, PROT_READ | PROT_EXEC), 0);
	return replacement;
}

static void the_image_is_found(void)
{
	NEED_VDSO();
	CU_ASSERT_EQUAL((uintptr_t)vdso, getauxval(AT_SYSINFO_EHDR));
	CU_ASSERT(size >= 4096 && size % 4096 == 0);
	CU_ASSERT_EQUAL(memcmp(vdso, ELFMAG, SELFMAG), 0);
}

static int64_t nanoseconds(const struct timespec *t)
{
	return t->tv_sec * (int64_t)1000000000 + t->tv_nsec;
}

static void the_functions_answer_as_the_kernel_does(void)
{
	char *name;
	const Elf64_Sym *symbol;

	NEED_VDSO();

	uint8_t *replacement = make_executable();

	if ((symbol = symbol_named(replacement, "__vdso_clock_gettime", &name))) {
		int (*function)(clockid_t, struct timespec *) = (void *)(replacement + symbol->st_value);
		static const clockid_t clocks[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI,
						    CLOCK_MONOTONIC_COARSE, CLOCK_PROCESS_CPUTIME_ID };

		for (size_t i = 0; i < sizeof(clocks) / sizeof(clocks[0]); i++) {
			struct timespec before, between, after;

			CU_ASSERT_EQUAL(syscall(SYS_clock_gettime, clocks[i], &before), 0);
			CU_ASSERT_EQUAL(function(clocks[i], &between), 0);
			CU_ASSERT_EQUAL(syscall(SYS_clock_gettime, clocks[i], &after), 0);
			CU_ASSERT(nanoseconds(&before) <= nanoseconds(&between));
			CU_ASSERT(nanoseconds(&between) <= nanoseconds(&after));
		}
		CU_ASSERT_EQUAL(function(12345, &(struct timespec){ 0 }), -EINVAL);
	}
	if ((symbol = symbol_named(replacement, "__vdso_clock_getres", &name))) {
		int (*function)(clockid_t, struct timespec *) = (void *)(replacement + symbol->st_value);
		struct timespec ours, kernels;

		CU_ASSERT_EQUAL(function(CLOCK_MONOTONIC, &ours), 0);
		CU_ASSERT_EQUAL(syscall(SYS_clock_getres, CLOCK_MONOTONIC, &kernels), 0);
		CU_ASSERT_EQUAL(nanoseconds(&ours), nanoseconds(&kernels));
	}
	if ((symbol = symbol_named(replacement, "__vdso_gettimeofday", &name))) {
		int (*function)(struct timeval *, void *) = (void *)(replacement + symbol->st_value);
		struct timeval ours, kernels;

		CU_ASSERT_EQUAL(function(&ours, NULL), 0);
		CU_ASSERT_EQUAL(syscall(SYS_gettimeofday, &kernels, NULL), 0);
		CU_ASSERT(ours.tv_sec == kernels.tv_sec || ours.tv_sec + 1 == kernels.tv_sec);
	}
	if ((symbol = symbol_named(replacement, "__vdso_time", &name))) {
		time_t (*function)(time_t *) = (void *)(replacement + symbol->st_value);
		time_t stored = 0, before = syscall(SYS_time, NULL), between = function(&stored);

		CU_ASSERT(before <= between && between <= syscall(SYS_time, NULL) && stored == between);
	}
	if ((symbol = symbol_named(replacement, "__vdso_getcpu", &name))) {
		long (*function)(unsigned *, unsigned *, void *) = (void *)(replacement + symbol->st_value);
		unsigned ours = -1u, kernels = -2u, node;

		/* The thread may be moved in between, but not every time. */
		for (int i = 0; i < 1000 && ours != kernels; i++) {
			CU_ASSERT_EQUAL(function(&ours, &node, NULL), 0);
			CU_ASSERT_EQUAL(syscall(SYS_getcpu, &kernels, &node, NULL), 0);
		}
		CU_ASSERT_EQUAL(ours, kernels);
	}
	if ((symbol = symbol_named(replacement, "__vdso_getrandom", &name))) {
		ssize_t (*function)(void *, size_t, unsigned, void *, size_t) =
			(void *)(replacement + symbol->st_value);
		char state[256] = "", bytes[2][32] = { "", "" };

		CU_ASSERT_EQUAL(function(bytes[0], 32, 0, state, sizeof(state)), 32);
		CU_ASSERT_EQUAL(function(bytes[1], 32, 0, state, sizeof(state)), 32);
		CU_ASSERT_NOT_EQUAL(memcmp(bytes[0], bytes[1], 32), 0);
		CU_ASSERT_EQUAL(function(bytes[0], 32, -1u, state, sizeof(state)), -EINVAL);
	}
	munmap(replacement, size);
}

static void an_unknown_function_returns_enosys(void)
{
	char *name;
	Elf64_Sym *symbol;

	NEED_VDSO();

	uint8_t *image = malloc(size), *replacement = mmap(NULL, size, PROT_READ | PROT_WRITE,
							   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memcpy(image, vdso, size);
	/* Every name for the place, so that none is known. */
	symbol = symbol_named(image, "__vdso_getcpu", &name);
	CU_ASSERT_PTR_NOT_NULL_FATAL(symbol);

	uint64_t place = symbol->st_value;

	for (size_t i = 0; (symbol = symbol_at(image, i, &name)); i++)
		if (symbol->st_value == place)
			name[strlen(name) - 1] = 'X';
	CU_ASSERT_EQUAL_FATAL(vdso_make_replacement(image, size, replacement, &none), 0);
	CU_ASSERT_EQUAL_FATAL(mprotect(replacement, size, PROT_READ | PROT_EXEC), 0);

	long (*function)(void *, void *, void *) = (void *)(replacement + place);

	CU_ASSERT_EQUAL(function(NULL, NULL, NULL), -ENOSYS);
	munmap(replacement, size);
	free(image);
}

static void all_code_is_a_stub_or_a_breakpoint(void)
{
	NEED_VDSO();

	uint8_t *replacement = malloc(size), *expected = malloc(size);
	const Elf64_Ehdr *header = (const Elf64_Ehdr *)vdso;
	const Elf64_Shdr *sections = (const Elf64_Shdr *)(vdso + header->e_shoff);
	size_t code = 0, functions = 0;
	const Elf64_Sym *symbol;
	char *name;

	CU_ASSERT_EQUAL_FATAL(vdso_make_replacement(vdso, size, replacement, &none), 0);
	memcpy(expected, vdso, size);
	for (unsigned i = 0; i < header->e_shnum; i++) {
		if (sections[i].sh_flags & SHF_EXECINSTR) {
			memset(expected + sections[i].sh_offset, 0xcc, sections[i].sh_size);
			code += sections[i].sh_size;
		}
	}
	for (size_t i = 0; (symbol = symbol_at(vdso, i, &name)); i++) {
		const uint8_t *stub = replacement + symbol->st_value;

		if (ELF64_ST_TYPE(symbol->st_info) != STT_FUNC)
			continue;
		CU_ASSERT((stub[0] == 0xb8 && !memcmp(stub + 3, "\0\0\x0f\x05\xc3", 5)) ||
			  !memcmp(stub, "\x48\xc7\xc0\xda\xff\xff\xff\xc3", 8));
		memcpy(expected + symbol->st_value, stub, 8);
		functions++;
	}
	CU_ASSERT(code > 0 && functions > 0);
	/* So headers, symbols and unwind tables are as they were, and nothing else is left of the code. */
	CU_ASSERT_EQUAL(memcmp(replacement, expected, size), 0);
	free(replacement);
	free(expected);
}

static void the_original_is_not_written_to(void)
{
	NEED_VDSO();

	uint8_t *image = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *replacement = malloc(size);

	memcpy(image, vdso, size);
	CU_ASSERT_EQUAL_FATAL(mprotect(image, size, PROT_READ), 0);
	CU_ASSERT_EQUAL(vdso_make_replacement(image, size, replacement, &none), 0);
	CU_ASSERT_EQUAL(memcmp(image, vdso, size), 0);
	munmap(image, size);
	free(replacement);
}

static void images_that_cannot_be_replaced_are_refused(void)
{
	NEED_VDSO();

	uint8_t *image = malloc(size), *replacement = malloc(size);
	Elf64_Sym *symbol;
	char *name;

#define REFUSED()                                                                         \
	do {                                                                              \
		errno = 0;                                                                \
		CU_ASSERT_EQUAL(vdso_make_replacement(image, size, replacement, &none), -1);     \
		CU_ASSERT_EQUAL(errno, ENOTSUP);                                          \
		memcpy(image, vdso, size);                                                \
	} while (0)
#define SYMBOL() (symbol = symbol_named(image, "__vdso_clock_gettime", &name))

	memcpy(image, vdso, size);
	CU_ASSERT_PTR_NOT_NULL_FATAL(SYMBOL());
	CU_ASSERT_EQUAL(vdso_make_replacement(image, size, replacement, &none), 0);
	SYMBOL()->st_size = 7; /* one byte too small */
	REFUSED();
	SYMBOL()->st_size = 0;
	REFUSED();
	SYMBOL()->st_size = UINT64_MAX;
	REFUSED();
	SYMBOL()->st_value = size - 4;
	REFUSED();
	SYMBOL()->st_value = UINT64_MAX - 3;
	REFUSED();
	SYMBOL()->st_value = 0; /* in the headers */
	REFUSED();
	SYMBOL()->st_value += 4; /* into its other name's replacement */
	SYMBOL()->st_size = 8;
	REFUSED();
	SYMBOL()->st_name = UINT32_MAX;
	REFUSED();
	((Elf64_Ehdr *)image)->e_shnum = 0;
	((Elf64_Ehdr *)image)->e_shoff = 0;
	REFUSED();
	image[EI_CLASS] = ELFCLASS32;
	REFUSED();
	memset(image, 0, size);
	REFUSED();
	memset(image, 0xff, size);
	REFUSED();
	free(image);
	free(replacement);
}

static const struct harness_test tests[] = {
	{ "the image of this process is found", the_image_is_found },
	{ "the functions answer as the kernel does", the_functions_answer_as_the_kernel_does, HARNESS_FORK },
	{ "a function that is not known returns -ENOSYS", an_unknown_function_returns_enosys, HARNESS_FORK },
	{ "all code is a stub or a breakpoint, all else is kept", all_code_is_a_stub_or_a_breakpoint },
	{ "the original is not written to", the_original_is_not_written_to, HARNESS_FORK },
	{ "images that cannot be replaced are refused", images_that_cannot_be_replaced_are_refused, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
