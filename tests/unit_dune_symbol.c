/* unit_dune_symbol.c - addresses of the process have names, in any state of it and whatever its files are like. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dune.h"
#include "elf/maps.h"
#include "harness.h"
#include "own_thread_area.h"
#include "placement/symbol.h"

enum {
	PAGE = 4096
};

static int some_variable[100] = { 1 };

/* Long enough to have an inside. */
__attribute__((noinline)) static int some_static_function(int a, int b)
{
	for (int i = 0; i < a; i++) {
		some_variable[i % 100] += b * i;
		__asm__ volatile("nop; nop; nop; nop; nop; nop; nop; nop");
	}
	return some_variable[7];
}

static uintptr_t static_function(void)
{
	return (uintptr_t)some_static_function;
}

static char text[1024];

static const char *at(uintptr_t address)
{
	errno = 77;
	memset(text, '#', sizeof text);
	bool known = dune_symbol_at(address, text, sizeof text);
	CU_ASSERT_EQUAL(errno, 77);
	CU_ASSERT_EQUAL(known, text[0] != 0);
	return text;
}

static bool begins(const char *got, const char *with)
{
	if (strncmp(got, with, strlen(with)) == 0)
		return true;
	harness_note("'%s' does not begin with '%s'", got, with);
	return false;
}

static const char *program(void)
{
	static char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
	path[length > 0 ? length : 0] = 0;
	return path;
}

/* ---- names --------------------------------------------------------------------------------------------- */

static void functions_and_variables_have_names(void)
{
	char expected[4352];
	CU_ASSERT_EQUAL(some_static_function(0, 0), 0);
	snprintf(expected, sizeof expected, "some_static_function+0x0 in %s", program());
	CU_ASSERT_STRING_EQUAL(at(static_function()), expected);
	snprintf(expected, sizeof expected, "some_static_function+0x12 in %s", program());
	CU_ASSERT_STRING_EQUAL(at(static_function() + 0x12), expected);
	snprintf(expected, sizeof expected, "some_variable+0x18c in %s", program());
	CU_ASSERT_STRING_EQUAL(at((uintptr_t)&some_variable[99]), expected);
	CU_ASSERT(begins(at((uintptr_t)static_function), "static_function+0x0 in "));
}

static void exported_functions_have_names(void)
{
	/* Distributions strip the C library of .symtab. */
	/* Sanitizers put functions of their own before some. */
	CU_ASSERT(begins(at((uintptr_t)lfind + 4), "lfind+0x4 in /"));
}

static void what_is_no_file_is_told_as_the_kernel_names_it(void)
{
	char *heap = sbrk(PAGE);
	char local;
	char *anonymous = mmap(NULL, 5 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT(begins(at((uintptr_t)heap), "[heap]+0x"));
	CU_ASSERT(begins(at((uintptr_t)&local), "[stack]+0x"));
	CU_ASSERT(begins(at((uintptr_t)anonymous), "[anonymous]+0x"));
	if (getauxval(AT_SYSINFO_EHDR))
		CU_ASSERT(begins(at(getauxval(AT_SYSINFO_EHDR) + 0x123), "[vdso]+0x123"));
	CU_ASSERT_EQUAL(munmap(anonymous + PAGE, PAGE), 0);
	CU_ASSERT_STRING_EQUAL(at((uintptr_t)anonymous + PAGE), "");
	CU_ASSERT_STRING_EQUAL(at(0), "");
	CU_ASSERT_STRING_EQUAL(at(UINTPTR_MAX), "");
	CU_ASSERT_STRING_EQUAL(at((uintptr_t)1 << 63), "");
}

static void text_is_cut_to_its_room(void)
{
	char whole[1024];
	strcpy(whole, at(static_function() + 3));
	for (size_t size = 0; size <= strlen(whole) + 1; size++) {
		char *exact = malloc(size + 1);
		exact[size] = '#';
		CU_ASSERT_TRUE(dune_symbol_at(static_function() + 3, exact, size));
		CU_ASSERT_EQUAL(exact[size], '#');
		if (size)
			CU_ASSERT(strlen(exact) == size - 1 && strncmp(exact, whole, size - 1) == 0);
		free(exact);
	}
}

/* ---- other files ----------------------------------------------------------------------------------------- */

static char directory[] = "/tmp/unit_dune_symbol.XXXXXX";

/* A copy of the program, in memory. */
static unsigned char *load_program(size_t *size)
{
	struct stat status;
	int fd = open("/proc/self/exe", O_RDONLY);
	CU_ASSERT_FATAL(fd >= 0 && fstat(fd, &status) == 0);
	*size = (size_t)status.st_size;
	unsigned char *bytes = malloc(*size);
	size_t done = 0;
	ssize_t got;
	while (done < *size && (got = read(fd, bytes + done, *size - done)) > 0)
		done += (size_t)got;
	CU_ASSERT_EQUAL_FATAL(done, *size);
	close(fd);
	return bytes;
}

static void store(const char *path, const unsigned char *bytes, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(write(fd, bytes, size), (ssize_t)size);
	close(fd);
}

/* Where the function is in the program's file. */
static uint64_t file_offset(void)
{
	char buffer[8192];
	struct dune_maps_line line;
	CU_ASSERT_EQUAL_FATAL(dune_maps_find(static_function(), buffer, sizeof buffer, &line), 1);
	return static_function() - line.start + line.offset;
}

/* Maps the page of a copy in which the function is, and returns the function's address there. */
static uintptr_t map_copy(const char *path)
{
	uint64_t offset = file_offset();
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *at = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, (off_t)(offset & ~0xfffull));
	CU_ASSERT_PTR_NOT_EQUAL_FATAL(at, MAP_FAILED);
	close(fd);
	return (uintptr_t)at + (offset & 0xfff);
}

static void enter_directory(void)
{
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
	CU_ASSERT_EQUAL_FATAL(chdir(directory), 0);
}

static void leave_directory(void)
{
	CU_ASSERT_EQUAL(chdir("/"), 0);
	CU_ASSERT_EQUAL(rmdir(directory), 0);
}

static void files_that_were_stripped_deleted_or_replaced_are_told_by_offset(void)
{
	size_t size;
	unsigned char *bytes = load_program(&size);
	char expected[128];
	enter_directory();

	store("copy", bytes, size);
	uintptr_t address = map_copy("copy");
	snprintf(expected, sizeof expected, "some_static_function+0x1 in %s/copy", directory);
	CU_ASSERT_STRING_EQUAL(at(address + 1), expected); /* the control */

	unlink("copy");
	snprintf(expected, sizeof expected, "%s/copy (deleted)+0x%lx", directory, file_offset() + 1);
	CU_ASSERT_STRING_EQUAL(at(address + 1), expected);
	store("copy", bytes, size);
	CU_ASSERT_STRING_EQUAL(at(address + 1), expected);
	/* A file of the name that the kernel tells of is another one. */
	store("copy (deleted)", bytes, size);
	CU_ASSERT_STRING_EQUAL(at(address + 1), expected);
	unlink("copy (deleted)");
	unlink("copy");

	Elf64_Ehdr header;
	memcpy(&header, bytes, sizeof header);
	header.e_shoff = header.e_shnum = header.e_shstrndx = 0;
	memcpy(bytes, &header, sizeof header);
	store("stripped", bytes, size);
	address = map_copy("stripped");
	snprintf(expected, sizeof expected, "%s/stripped+0x%lx", directory, file_offset() + 2);
	CU_ASSERT_STRING_EQUAL(at(address + 2), expected);
	unlink("stripped");
	free(bytes);
	leave_directory();
}

static void odd_names_and_files_are_told(void)
{
	size_t size;
	unsigned char *bytes = load_program(&size);
	char expected[128];
	enter_directory();
	store("new\nline \033[2J", bytes, size);
	uintptr_t address = map_copy("new\nline \033[2J");
	snprintf(expected, sizeof expected, "some_static_function+0x0 in %s/new?line ?[2J", directory);
	CU_ASSERT_STRING_EQUAL(at(address), expected);
	unlink("new\nline \033[2J");

	memset(bytes, 'x', size);
	store("no ELF", bytes, size);
	address = map_copy("no ELF");
	snprintf(expected, sizeof expected, "%s/no ELF+0x%lx", directory, file_offset());
	CU_ASSERT_STRING_EQUAL(at(address), expected);
	/* It is shorter now than what is mapped. */
	CU_ASSERT_EQUAL(truncate("no ELF", 10), 0);
	CU_ASSERT_STRING_EQUAL(at(address), expected);
	/* Nobody waits for a writer. */
	unlink("no ELF");
	CU_ASSERT_EQUAL(mkfifo("no ELF", 0600), 0);
	CU_ASSERT(begins(at(address), directory));
	unlink("no ELF");
	free(bytes);
	leave_directory();
}

/* ---- damaged files --------------------------------------------------------------------------------------- */

static uint32_t seed = 1;

static uint32_t pseudo_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	return seed ^= seed << 5;
}

/* Places where a change matters: headers, and the tables of sections and symbols. */
static size_t interesting(const unsigned char *bytes, size_t size)
{
	Elf64_Ehdr header;
	Elf64_Shdr section;
	memcpy(&header, bytes, sizeof header);
	switch (pseudo_random() % 4) {
	case 0:
		return pseudo_random() % sizeof header;
	case 1:
		return header.e_phoff + pseudo_random() % (header.e_phnum * sizeof(Elf64_Phdr));
	case 2:
		return header.e_shoff + pseudo_random() % (header.e_shnum * sizeof(Elf64_Shdr));
	default:
		memcpy(&section, bytes + header.e_shoff + pseudo_random() % header.e_shnum * sizeof section,
		       sizeof section);
		if (section.sh_offset >= size || !section.sh_size)
			return 0;
		return (section.sh_offset + pseudo_random() % section.sh_size) % size;
	}
}

static void damaged_files_do_no_harm(void)
{
	enum {
		ROUNDS = 1500
	};
	static const uint64_t odd[] = { 0, 1, UINT64_MAX, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT32_MAX, 0x8000, 63 };
	size_t size;
	unsigned char *bytes = load_program(&size);
	unsigned named = 0;
	enter_directory();
	store("damaged", bytes, size);
	uintptr_t address = map_copy("damaged");
	int fd = open("damaged", O_RDWR);
	for (unsigned round = 0; round < ROUNDS; round++) {
		size_t places[8];
		unsigned count = 1 + pseudo_random() % 8;
		for (unsigned i = 0; i < count; i++) {
			places[i] = interesting(bytes, size);
			if (places[i] + 8 > size)
				places[i] = 0;
			uint64_t value = pseudo_random() % 2 ? odd[pseudo_random() % 8] : pseudo_random();
			CU_ASSERT(pwrite(fd, &value, 1u << pseudo_random() % 4, (off_t)places[i]) > 0);
		}
		named += !strncmp(at(address), "some_static_function", 20);
		for (unsigned i = 0; i < count; i++)
			CU_ASSERT_EQUAL(pwrite(fd, bytes + places[i], 8, (off_t)places[i]), 8);
	}
	CU_ASSERT(begins(at(address), "some_static_function+0x0 in ")); /* all has been mended: the places were real */
	for (size_t length = size; length > 0; length = length * 9 / 10) {
		CU_ASSERT_EQUAL(ftruncate(fd, (off_t)length), 0);
		CU_ASSERT_NOT_EQUAL(strlen(at(address)), 0);
	}
	harness_note("%u of %u damaged files still named the function", named, (unsigned)ROUNDS);
	CU_ASSERT(named > 0 && named < ROUNDS);
	close(fd);
	unlink("damaged");
	free(bytes);
	leave_directory();
}

/* ---- states of the process --------------------------------------------------------------------------------- */

static void ask(void)
{
	dune_symbol_at(static_function() + 5, text, sizeof text);
}

static void nothing_of_libc_is_needed(void)
{
#ifdef __SANITIZE_ADDRESS__
	HARNESS_SKIP("the sanitizer needs thread-local storage itself");
#endif
	CU_ASSERT_TRUE(with_own_thread_area(ask));
	CU_ASSERT(begins(text, "some_static_function+0x5 in "));
}

static void a_process_without_descriptors_is_told_nothing(void)
{
	struct rlimit limit, none;
	CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = 0;
	CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_NOFILE, &none), 0);
	CU_ASSERT_STRING_EQUAL(at(static_function()), "");
	CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void no_descriptor_is_left_open(void)
{
	int before = dup(0);
	close(before);
	for (unsigned i = 0; i < 50; i++)
		at(static_function() + i);
	int after = dup(0);
	close(after);
	CU_ASSERT_EQUAL(before, after);
}

static const struct harness_test tests[] = {
	{ "static functions and variables have names and offsets", functions_and_variables_have_names },
	{ "functions of a stripped library have their exported names", exported_functions_have_names },
	{ "what is no file is told as the kernel names it, or not at all",
	  what_is_no_file_is_told_as_the_kernel_names_it, HARNESS_FORK },
	{ "text is cut to its room", text_is_cut_to_its_room },
	{ "files that were stripped, deleted or replaced are told by offset",
	  files_that_were_stripped_deleted_or_replaced_are_told_by_offset, HARNESS_FORK },
	{ "odd names and files are told", odd_names_and_files_are_told, HARNESS_FORK },
	{ "damaged files do no harm", damaged_files_do_no_harm, HARNESS_FORK, .seconds = 200 },
	{ "nothing of libc is needed: no lock, no errno", nothing_of_libc_is_needed, HARNESS_FORK },
	{ "a process without descriptors is told nothing", a_process_without_descriptors_is_told_nothing,
	  HARNESS_FORK },
	{ "no descriptor is left open", no_descriptor_is_left_open, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
