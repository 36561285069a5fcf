/* unit_dune_elf.c - ELF files are read as they are; damaged ones are refused with ENOEXEC, whatever the damage. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dune.h"
#include "harness.h"

enum {
	PAGE = 4096
};

/* ---- a small file ---------------------------------------------------------------------------------------- */

#define NAMES "\0.shstrtab\0.text\0.bss"

/* Two segments, four sections. */
struct small {
	Elf64_Ehdr header;
	Elf64_Phdr segments[3];
	Elf64_Shdr sections[4];
	char text[32], data[16];
	char names[sizeof NAMES];
};

static struct small small_file(void)
{
	struct small file = {
		.header = {
			.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_entry = 0x401000,
			.e_phoff = offsetof(struct small, segments),
			.e_shoff = offsetof(struct small, sections),
			.e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 3,
			.e_shentsize = sizeof(Elf64_Shdr),
			.e_shnum = 4,
			.e_shstrndx = 1,
		},
		.segments = {
			{ .p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_offset = offsetof(struct small, text),
			  .p_vaddr = 0x401000, .p_filesz = 32, .p_memsz = 32, .p_align = 1 },
			{ .p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W },
			{ .p_type = PT_LOAD, .p_flags = PF_R | PF_W, .p_offset = offsetof(struct small, data),
			  .p_vaddr = 0x402000, .p_filesz = 16, .p_memsz = 100, .p_align = 1 },
		},
		.sections = {
			{ .sh_type = SHT_NULL },
			{ .sh_name = 1, .sh_type = SHT_STRTAB, .sh_offset = offsetof(struct small, names),
			  .sh_size = sizeof NAMES },
			{ .sh_name = 11, .sh_type = SHT_PROGBITS, .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
			  .sh_addr = 0x401000, .sh_offset = offsetof(struct small, text), .sh_size = 32 },
			{ .sh_name = 17, .sh_type = SHT_NOBITS, .sh_flags = SHF_ALLOC | SHF_WRITE, .sh_addr = 0x402010,
			  .sh_offset = 1ull << 40, .sh_size = 84 },
		},
		.text = "text",
		.data = "data",
		.names = NAMES,
	};
	return file;
}

/* Bytes that end where memory ends. */
static unsigned char *fence;

static unsigned char *at_end_of_memory(const void *bytes, size_t size)
{
	static size_t room;
	if (room < size) {
		room = (size + PAGE - 1) & ~(size_t)(PAGE - 1);
		fence = mmap(NULL, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CU_ASSERT_PTR_NOT_EQUAL_FATAL(fence, MAP_FAILED);
		CU_ASSERT_EQUAL_FATAL(mprotect(fence + room, PAGE, PROT_NONE), 0);
	}
	return memcpy(fence + room - size, bytes, size);
}

static char path[] = "/tmp/unit_dune_elf.XXXXXX";

/* The same bytes as a file. */
static void store(const void *bytes, size_t size)
{
	static int fd = -1;
	if (fd < 0)
		fd = mkostemp(path, O_CLOEXEC);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL_FATAL(pwrite(fd, bytes, size, 0), (ssize_t)size);
	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, (off_t)size), 0);
}

static bool is_empty(const struct dune_elf *elf)
{
	static const struct dune_elf empty = { .fd = -1 };
	return elf->fd == -1 && !elf->mem && !elf->len && !elf->phdr && !elf->shdr && !elf->shdrstr && !elf->priv &&
	       !memcmp(&elf->hdr, &empty.hdr, sizeof empty.hdr);
}

/* ---- what is read ---------------------------------------------------------------------------------------- */

static unsigned calls, stop_after;
static char seen_names[256];

static int count_segment(struct dune_elf *elf, Elf64_Phdr *segment)
{
	CU_ASSERT(segment >= elf->phdr);
	return ++calls == stop_after ? 77 : 0;
}

static int collect_section(struct dune_elf *elf, const char *name, int number, Elf64_Shdr *section)
{
	CU_ASSERT_PTR_EQUAL(section, &elf->shdr[number]);
	CU_ASSERT_PTR_EQUAL(name, elf->shdrstr + section->sh_name);
	snprintf(seen_names + strlen(seen_names), sizeof seen_names - strlen(seen_names), "%d%s ", number, name);
	return ++calls == stop_after ? -5 : 0;
}

static void check_small(struct dune_elf *elf, const struct small *file)
{
	CU_ASSERT_EQUAL(elf->len, (int)sizeof *file);
	CU_ASSERT_EQUAL(memcmp(&elf->hdr, &file->header, sizeof elf->hdr), 0);
	CU_ASSERT_EQUAL(memcmp(elf->phdr, file->segments, sizeof file->segments), 0);
	CU_ASSERT_EQUAL(memcmp(elf->shdr, file->sections, sizeof file->sections), 0);
	CU_ASSERT_EQUAL(memcmp(elf->shdrstr, NAMES, sizeof NAMES), 0);
	calls = stop_after = 0;
	CU_ASSERT_EQUAL(dune_elf_iter_ph(elf, count_segment), 0);
	CU_ASSERT_EQUAL(calls, 3);
	seen_names[0] = 0;
	CU_ASSERT_EQUAL(dune_elf_iter_sh(elf, collect_section), 0);
	CU_ASSERT_STRING_EQUAL(seen_names, "0 1.shstrtab 2.text 3.bss ");
	calls = 0;
	stop_after = 2;
	CU_ASSERT_EQUAL(dune_elf_iter_ph(elf, count_segment), 77);
	CU_ASSERT_EQUAL(calls, 2);
	calls = 0;
	CU_ASSERT_EQUAL(dune_elf_iter_sh(elf, collect_section), -5);
	CU_ASSERT_EQUAL(calls, 2);
}

static void the_members_are_what_the_file_says(void)
{
	struct small file = small_file();
	struct dune_elf elf;
	unsigned char *bytes = at_end_of_memory(&file, sizeof file);
	CU_ASSERT_EQUAL_FATAL(dune_elf_open_mem(&elf, bytes, sizeof file), 0);
	CU_ASSERT(elf.fd == -1 && elf.mem == bytes);
	check_small(&elf, &file);
	CU_ASSERT_EQUAL(dune_elf_close(&elf), 0);
	CU_ASSERT_TRUE(is_empty(&elf));
	CU_ASSERT_EQUAL(dune_elf_close(&elf), 0);
	CU_ASSERT_EQUAL(dune_elf_iter_ph(&elf, count_segment), 0);
	CU_ASSERT_EQUAL(dune_elf_iter_sh(&elf, collect_section), 0);

	store(&file, sizeof file);
	CU_ASSERT_EQUAL_FATAL(dune_elf_open(&elf, path), 0);
	CU_ASSERT(elf.fd >= 0 && !elf.mem);
	check_small(&elf, &file);
	CU_ASSERT_EQUAL(dune_elf_close(&elf), 0);

	/* From an odd address. */
	bytes = malloc(sizeof file + 1);
	memcpy(bytes + 1, &file, sizeof file);
	CU_ASSERT_EQUAL_FATAL(dune_elf_open_mem(&elf, bytes + 1, sizeof file), 0);
	check_small(&elf, &file);
	dune_elf_close(&elf);
	free(bytes);
	unlink(path);
}

static void a_file_without_sections_is_read(void)
{
	struct small file = small_file();
	struct dune_elf elf;
	file.header.e_shoff = file.header.e_shnum = file.header.e_shstrndx = 0;
	CU_ASSERT_EQUAL_FATAL(dune_elf_open_mem(&elf, &file, sizeof file), 0);
	CU_ASSERT(!elf.shdr && elf.phdr);
	calls = 0;
	CU_ASSERT_EQUAL(dune_elf_iter_sh(&elf, collect_section), 0);
	CU_ASSERT_EQUAL(calls, 0);
	dune_elf_close(&elf);
	file = small_file();
	file.header.e_phoff = file.header.e_phnum = file.header.e_shstrndx = 0;
	for (unsigned i = 0; i < 4; i++)
		file.sections[i].sh_name = 0;
	CU_ASSERT_EQUAL_FATAL(dune_elf_open_mem(&elf, &file, sizeof file), 0);
	CU_ASSERT(elf.shdr && !elf.phdr);
	seen_names[0] = 0;
	stop_after = 0;
	CU_ASSERT_EQUAL(dune_elf_iter_sh(&elf, collect_section), 0);
	CU_ASSERT_STRING_EQUAL(seen_names, "0 1 2 3 ");
	dune_elf_close(&elf);
}

/* More sections than e_shnum can hold: section 0 has their number. */
static void a_file_of_very_many_sections_is_read(void)
{
	enum {
		SECTIONS = 70000
	};
	size_t size = sizeof(Elf64_Ehdr) + SECTIONS * sizeof(Elf64_Shdr) + sizeof NAMES;
	unsigned char *bytes = calloc(1, size);
	struct small small = small_file();
	Elf64_Ehdr *header = (Elf64_Ehdr *)bytes;
	Elf64_Shdr *sections = (Elf64_Shdr *)(header + 1);
	struct dune_elf elf;
	*header = small.header;
	header->e_phoff = header->e_phnum = 0;
	header->e_shoff = sizeof *header;
	header->e_shnum = 0;
	header->e_shstrndx = SHN_XINDEX;
	sections[0].sh_size = SECTIONS;
	sections[0].sh_link = SECTIONS - 1;
	sections[SECTIONS - 1] = small.sections[1];
	sections[SECTIONS - 1].sh_offset = size - sizeof NAMES;
	memcpy(bytes + size - sizeof NAMES, NAMES, sizeof NAMES);
	CU_ASSERT_EQUAL_FATAL(dune_elf_open_mem(&elf, bytes, (int)size), 0);
	CU_ASSERT_STRING_EQUAL(elf.shdrstr + elf.shdr[SECTIONS - 1].sh_name, ".shstrtab");
	dune_elf_close(&elf);
	CU_ASSERT_EQUAL(dune_elf_open_mem(&elf, bytes, (int)size - 1), -1);
	CU_ASSERT_EQUAL(errno, ENOEXEC);
	free(bytes);
}

static int find_text(struct dune_elf *elf, const char *name, int number, Elf64_Shdr *section)
{
	(void)elf, (void)number;
	return !strcmp(name, ".text") && section->sh_flags & SHF_EXECINSTR;
}

static void real_programs_are_read(void)
{
	static const char *const programs[] = { "/proc/self/exe", "/bin/sh", "/lib64/ld-linux-x86-64.so.2" };
	struct dune_elf elf;
	for (unsigned i = 0; i < sizeof programs / sizeof *programs; i++) {
		CU_ASSERT_EQUAL_FATAL(dune_elf_open(&elf, programs[i]), 0);
		CU_ASSERT_EQUAL(elf.hdr.e_machine, EM_X86_64);
		CU_ASSERT_EQUAL(dune_elf_iter_sh(&elf, find_text), 1);
		dune_elf_close(&elf);
	}
}

/* ---- what is refused --------------------------------------------------------------------------------------- */

/* Whether bytes are refused, from memory and from a file. */
static bool are_refused(const void *bytes, size_t size)
{
	struct dune_elf elf;
	memset(&elf, '#', sizeof elf);
	errno = 0;
	if (dune_elf_open_mem(&elf, at_end_of_memory(bytes, size), (int)size) != -1 || errno != ENOEXEC ||
	    !is_empty(&elf))
		return false;
	store(bytes, size);
	memset(&elf, '#', sizeof elf);
	errno = 0;
	return dune_elf_open(&elf, path) == -1 && errno == ENOEXEC && is_empty(&elf);
}

#define HEADER(member) offsetof(struct small, header.member), sizeof(((Elf64_Ehdr *)0)->member)
#define SEGMENT(number, member) offsetof(struct small, segments[number].member), sizeof(((Elf64_Phdr *)0)->member)
#define SECTION(number, member) offsetof(struct small, sections[number].member), sizeof(((Elf64_Shdr *)0)->member)

static void damages_are_refused(void)
{
	static const struct {
		const char *what;
		size_t offset, size;
		uint64_t value;
	} damages[] = {
		{ "magic", offsetof(struct small, header), 1, 0x7e },
		{ "class 32", EI_CLASS, 1, ELFCLASS32 },
		{ "no class", EI_CLASS, 1, 0 },
		{ "big-endian", EI_DATA, 1, ELFDATA2MSB },
		{ "another version", EI_VERSION, 1, 2 },
		{ "another version below", HEADER(e_version), 0 },
		{ "another machine", HEADER(e_machine), EM_AARCH64 },
		{ "a short header", HEADER(e_ehsize), 16 },
		{ "short segment headers", HEADER(e_phentsize), 32 },
		{ "long segment headers", HEADER(e_phentsize), 57 },
		{ "short section headers", HEADER(e_shentsize), 40 },
		{ "segment headers in the header", HEADER(e_phoff), 8 },
		{ "segment headers at 0", HEADER(e_phoff), 0 },
		{ "segment headers beyond the end", HEADER(e_phoff), sizeof(struct small) - 1 },
		{ "segment headers far beyond the end", HEADER(e_phoff), UINT64_MAX - 7 },
		{ "too many segments", HEADER(e_phnum), 60000 },
		{ "section headers in the header", HEADER(e_shoff), 8 },
		{ "section headers beyond the end", HEADER(e_shoff), sizeof(struct small) - 64 },
		{ "section headers far beyond the end", HEADER(e_shoff), UINT64_MAX - 255 },
		{ "too many sections", HEADER(e_shnum), 60000 },
		{ "names in no section", HEADER(e_shstrndx), 4 },
		{ "names in a section without names", HEADER(e_shstrndx), 2 },
		{ "names in a section without bytes", HEADER(e_shstrndx), 3 },
		{ "a segment beyond the end", SEGMENT(0, p_offset), sizeof(struct small) - 31 },
		{ "a segment far beyond the end", SEGMENT(0, p_offset), UINT64_MAX - 15 },
		{ "a segment longer than the file", SEGMENT(2, p_filesz), UINT64_MAX },
		{ "an auxiliary segment beyond the end", SEGMENT(1, p_offset), 1 << 20 },
		{ "more bytes in the file than in memory", SEGMENT(0, p_memsz), 31 },
		{ "a segment over the end of memory", SEGMENT(2, p_memsz), UINT64_MAX - 0x401fff },
		{ "a segment at the end of memory", SEGMENT(2, p_vaddr), UINT64_MAX - 98 },
		{ "segments that overlap", SEGMENT(2, p_vaddr), 0x40101f },
		{ "segments out of order", SEGMENT(2, p_vaddr), 0x400000 },
		{ "a long segment below another", SEGMENT(0, p_memsz), 0x1001 },
		{ "an alignment that is no power of two", SEGMENT(0, p_align), 3 },
		{ "a segment that is not aligned as it says", SEGMENT(0, p_align), 1ull << 63 },
		{ "a section beyond the end", SECTION(2, sh_offset), sizeof(struct small) - 31 },
		{ "a section far beyond the end", SECTION(2, sh_offset), UINT64_MAX - 15 },
		{ "a section longer than the file", SECTION(2, sh_size), UINT64_MAX },
		{ "a name behind the names", SECTION(2, sh_name), sizeof NAMES },
		{ "a name far behind the names", SECTION(3, sh_name), UINT32_MAX },
		{ "names beyond the end", SECTION(1, sh_offset), sizeof(struct small) },
		{ "names that do not end", SECTION(1, sh_size), 5 },
		{ "no names", SECTION(1, sh_size), 0 },
	};
	struct small good = small_file();
	struct dune_elf elf;
	CU_ASSERT_FALSE(are_refused(&good, sizeof good)); /* the control */
	CU_ASSERT_EQUAL(dune_elf_open_mem(&elf, &good, sizeof good), 0);
	dune_elf_close(&elf);
	for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
		struct small file = good;
		memcpy((char *)&file + damages[i].offset, &damages[i].value, damages[i].size);
		bool refused = are_refused(&file, sizeof file);
		CU_ASSERT_TRUE(refused);
		if (!refused)
			harness_note("%s: not refused with ENOEXEC (errno %d)", damages[i].what, errno);
	}
	unlink(path);
}

static void files_cut_anywhere_are_refused(void)
{
	struct small file = small_file();
	for (size_t length = 1; length < offsetof(struct small, names) + sizeof NAMES; length++) {
		bool refused = are_refused(&file, length);
		CU_ASSERT_TRUE(refused);
		if (!refused)
			harness_note("%zu bytes: not refused with ENOEXEC (errno %d)", length, errno);
	}
	struct dune_elf elf;
	static const int lengths[] = { 0, -1, INT_MIN };
	for (unsigned i = 0; i < 3; i++) {
		errno = 0;
		CU_ASSERT(dune_elf_open_mem(&elf, &file, lengths[i]) == -1 && errno == ENOEXEC && is_empty(&elf));
	}
	errno = 0;
	CU_ASSERT(dune_elf_open_mem(&elf, NULL, 100) == -1 && errno == ENOEXEC && is_empty(&elf));
	unlink(path);
}

static void what_is_no_file_is_refused(void)
{
	static const struct {
		const char *path;
		int error;
	} others[] = { { "/nonexistent/file", ENOENT }, { "/tmp", EISDIR }, { "/dev/null", ENOEXEC }, { "", ENOENT } };
	struct dune_elf elf;
	store("x", 1);
	int before = dup(0);
	close(before);
	for (unsigned i = 0; i < sizeof others / sizeof *others; i++) {
		errno = 0;
		CU_ASSERT_EQUAL(dune_elf_open(&elf, others[i].path), -1);
		CU_ASSERT_EQUAL(errno, others[i].error);
		CU_ASSERT_TRUE(is_empty(&elf));
		CU_ASSERT(strlen(dune_error()) > 10);
	}
	CU_ASSERT_EQUAL(truncate(path, 1ll << 32), 0);
	CU_ASSERT_EQUAL(dune_elf_open(&elf, path), -1);
	CU_ASSERT_EQUAL(errno, EFBIG);
	unlink(path);
	int after = dup(0);
	CU_ASSERT_EQUAL(after, before); /* nothing is left open */
	close(after);
}

/* ---- random damage ------------------------------------------------------------------------------------------ */

static uint32_t seed = 1;

static uint32_t pseudo_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	return seed ^= seed << 5;
}

static int use_segment(struct dune_elf *elf, Elf64_Phdr *segment)
{
	static unsigned char memory[PAGE];
	/* Where it may be loaded to without harm. */
	if (segment->p_type == PT_LOAD && segment->p_memsz <= sizeof memory)
		return dune_elf_load_ph(elf, segment, (off_t)((uintptr_t)memory - segment->p_vaddr));
	return 0;
}

static int use_section(struct dune_elf *elf, const char *name, int number, Elf64_Shdr *section)
{
	(void)number, (void)section;
	calls += (unsigned)strlen(name);
	return elf->priv == NULL;
}

/* Damages a file in places that matter; returns how many of the damaged files were taken. */
static unsigned damage(unsigned char *bytes, size_t size, unsigned rounds, bool as_file)
{
	static const uint64_t odd[] = { 0, 1, UINT64_MAX, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT32_MAX, 0xffff, 64 };
	Elf64_Ehdr header;
	unsigned taken = 0;
	memcpy(&header, bytes, sizeof header);
	for (unsigned round = 0; round < rounds; round++) {
		size_t places[4], length = pseudo_random() % 8 ? size : pseudo_random() % size + 1;
		unsigned char saved[4][8];
		unsigned count = 1 + pseudo_random() % 4;
		for (unsigned i = 0; i < count; i++) {
			switch (pseudo_random() % 3) {
			case 0:
				places[i] = pseudo_random() % sizeof header;
				break;
			case 1:
				places[i] = header.e_phoff + pseudo_random() % (header.e_phnum * sizeof(Elf64_Phdr));
				break;
			default:
				places[i] = header.e_shoff + pseudo_random() % (header.e_shnum * sizeof(Elf64_Shdr));
			}
			if (places[i] + 8 > size)
				places[i] = size - 8;
			memcpy(saved[i], bytes + places[i], 8);
			uint64_t value = pseudo_random() % 2 ? odd[pseudo_random() % 8] : pseudo_random();
			memcpy(bytes + places[i], &value, 1u << pseudo_random() % 4);
		}
		struct dune_elf elf;
		int result;
		errno = 0;
		if (as_file) {
			store(bytes, length);
			result = dune_elf_open(&elf, path);
		} else {
			result = dune_elf_open_mem(&elf, at_end_of_memory(bytes, length), (int)length);
		}
		CU_ASSERT(result == 0 || (result == -1 && errno == ENOEXEC && is_empty(&elf)));
		if (result == 0) {
			taken++;
			dune_elf_iter_ph(&elf, use_segment);
			dune_elf_iter_sh(&elf, use_section);
			dune_elf_close(&elf);
		}
		while (count--)
			memcpy(bytes + places[count], saved[count], 8);
	}
	return taken;
}

static void random_damage_does_no_harm(void)
{
	struct small small = small_file();
	unsigned taken = damage((unsigned char *)&small, sizeof small, 60000, false);
	harness_note("%u of 60000 small ones were taken", taken);
	CU_ASSERT(taken > 0 && taken < 60000);
	taken = damage((unsigned char *)&small, sizeof small, 3000, true);
	harness_note("%u of 3000 small files were taken", taken);
	CU_ASSERT(taken > 0 && taken < 3000);
	unlink(path);

	struct stat status;
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	CU_ASSERT_FATAL(fd >= 0 && fstat(fd, &status) == 0);
	size_t size = (size_t)status.st_size, done = 0;
	unsigned char *bytes = malloc(size);
	ssize_t got;
	while (done < size && (got = read(fd, bytes + done, size - done)) > 0)
		done += (size_t)got;
	CU_ASSERT_EQUAL_FATAL(done, size);
	close(fd);
	taken = damage(bytes, size, 1000, false);
	harness_note("%u of 1000 damaged programs were taken", taken);
	CU_ASSERT(taken > 0 && taken < 1000);
	free(bytes);
}

/* ---- loading --------------------------------------------------------------------------------------------- */

static void check_loading(struct dune_elf *elf)
{
	static char memory[3 * PAGE];
	off_t offset = (off_t)((uintptr_t)memory + PAGE - 0x402000);
	memset(memory, '#', sizeof memory);
	CU_ASSERT_EQUAL(dune_elf_load_ph(elf, &elf->phdr[2], offset), 0);
	CU_ASSERT_EQUAL(memcmp(memory + PAGE, "data\0\0\0\0\0\0\0\0\0\0\0", 16), 0);
	for (unsigned i = 16; i < 100; i++)
		CU_ASSERT_EQUAL(memory[PAGE + i], 0);
	CU_ASSERT(memory[PAGE - 1] == '#' && memory[PAGE + 100] == '#');

	/* Headers that do not describe the file. */
	static const struct {
		uint64_t offset, file_size, memory_size, address;
	} wrong[] = {
		{ sizeof(struct small) - 15, 16, 16, 0x402000 },
		{ UINT64_MAX - 7, 16, 16, 0x402000 },
		{ 64, UINT64_MAX, UINT64_MAX, 0x402000 },
		{ 64, 17, 16, 0x402000 },
		{ 64, 16, UINT64_MAX, 0x402000 },
		{ 64, 16, 16, UINT64_MAX - 15 },
	};
	memset(memory, '#', sizeof memory);
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		Elf64_Phdr segment = { .p_type = PT_LOAD,
				       .p_offset = wrong[i].offset,
				       .p_filesz = wrong[i].file_size,
				       .p_memsz = wrong[i].memory_size,
				       .p_vaddr = wrong[i].address };
		errno = 0;
		CU_ASSERT_EQUAL(dune_elf_load_ph(elf, &segment, offset), -1);
		CU_ASSERT_EQUAL(errno, ENOEXEC);
	}
	for (size_t i = 0; i < sizeof memory; i++)
		CU_ASSERT_FATAL(memory[i] == '#');
}

static void segments_are_loaded_and_the_rest_is_zeroed(void)
{
	struct small file = small_file();
	struct dune_elf elf;
	CU_ASSERT_EQUAL_FATAL(dune_elf_open_mem(&elf, at_end_of_memory(&file, sizeof file), sizeof file), 0);
	check_loading(&elf);
	dune_elf_close(&elf);
	store(&file, sizeof file);
	CU_ASSERT_EQUAL_FATAL(dune_elf_open(&elf, path), 0);
	check_loading(&elf);
	/* Memory that is not there, and a file that has become shorter. */
	errno = 0;
	CU_ASSERT_EQUAL(dune_elf_load_ph(&elf, &elf.phdr[0], -0x401000), -1);
	CU_ASSERT_EQUAL(errno, EFAULT);
	CU_ASSERT_EQUAL(truncate(path, (off_t)offsetof(struct small, text)), 0);
	static char memory[PAGE];
	CU_ASSERT_EQUAL(dune_elf_load_ph(&elf, &elf.phdr[0], (off_t)((uintptr_t)memory - 0x401000)), -1);
	CU_ASSERT_EQUAL(errno, ENOEXEC);
	dune_elf_close(&elf);
	unlink(path);
}

static void a_dump_shows_each_header(void)
{
	struct small file = small_file();
	struct dune_elf elf;
	char line[512], output[] = "/tmp/unit_dune_elf.XXXXXX";
	unsigned segments = 0, sections = 0, named = 0;
	file.names[12] = 27; /* of ".text": an escape character is no news for a terminal */
	int fd = mkstemp(output), kept = dup(STDOUT_FILENO);
	CU_ASSERT_FATAL(fd >= 0);
	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	CU_ASSERT_EQUAL_FATAL(dune_elf_open_mem(&elf, &file, sizeof file), 0);
	CU_ASSERT_EQUAL(dune_elf_dump(&elf), 0);
	dune_elf_close(&elf);
	fflush(stdout);
	dup2(kept, STDOUT_FILENO);
	FILE *stream = fdopen(fd, "r");
	rewind(stream);
	while (fgets(line, sizeof line, stream)) {
		segments += !strncmp(line, "  segment", 9);
		sections += !strncmp(line, "  section", 9);
		named += strstr(line, ".?ext") != NULL;
	}
	CU_ASSERT(segments == 3 && sections == 4 && named == 1);
	fclose(stream);
	unlink(output);
}

static const struct harness_test tests[] = {
	{ "the members are what the file says, from memory and from a file", the_members_are_what_the_file_says,
	  HARNESS_FORK },
	{ "a file without sections, or without segments, is read", a_file_without_sections_is_read },
	{ "a file of very many sections is read", a_file_of_very_many_sections_is_read },
	{ "real programs are read", real_programs_are_read },
	{ "each damage is refused with ENOEXEC, and nothing is left", damages_are_refused, HARNESS_FORK },
	{ "a file that is cut anywhere is refused", files_cut_anywhere_are_refused, HARNESS_FORK },
	{ "what is no regular file is refused", what_is_no_file_is_refused, HARNESS_FORK },
	{ "random damage does no harm", random_damage_does_no_harm, HARNESS_FORK, .seconds = 200 },
	{ "segments are loaded, and the rest of them is zeroed", segments_are_loaded_and_the_rest_is_zeroed,
	  HARNESS_FORK },
	{ "a dump shows each header", a_dump_shows_each_header, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
