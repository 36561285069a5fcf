/*
 * vdso.c - makes a vDSO of plain system calls out of the kernel's.
 */
#include <elf.h>
#include <errno.h>
#include <gelf.h>
#include <libelf.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "vdso.h"

#define PAGE 4096
#define BREAKPOINT 0xcc

/* mov $imm, %rax (sign extended) or mov $imm, %eax; syscall; ret.  Both are 8 bytes. */
#define STUB_BYTES 8

static const struct {
	const char *name;
	uint32_t number;
} served[] = {
	{ "time", SYS_time },
	{ "gettimeofday", SYS_gettimeofday },
	{ "clock_gettime", SYS_clock_gettime },
	{ "clock_getres", SYS_clock_getres },
	{ "getcpu", SYS_getcpu },
	{ "getrandom", SYS_getrandom }, /* the two arguments more that the vDSO's takes are ignored */
};

/* movabs $address, %rax; jmp *%rax */
#define JUMP_BYTES 12

static uint64_t routine_of(const char *name, const struct vdso_routines *routines)
{
	if (!strcmp(name, "time"))
		return routines->time;
	if (!strcmp(name, "clock_gettime"))
		return routines->clock_gettime;
	return strcmp(name, "gettimeofday") ? 0 : routines->gettimeofday;
}

/* Writes the replacement of the function of this name, which is `room` bytes long. */
static void write_stub(uint8_t *to, size_t room, const char *name, const struct vdso_routines *routines)
{
	uint8_t jump[JUMP_BYTES] = { 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0 };
	static const char prefix[] = "__vdso_";
	uint8_t call[STUB_BYTES] = { 0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3 };
	uint8_t fail[STUB_BYTES] = { 0x48, 0xc7, 0xc0, 0, 0, 0, 0, 0xc3 };
	const int32_t error = -ENOSYS;

	if (!strncmp(name, prefix, sizeof(prefix) - 1))
		name += sizeof(prefix) - 1;
	uint64_t at = routine_of(name, routines);

	if (at && room >= JUMP_BYTES) {
		memcpy(jump + 2, &at, 8);
		memcpy(to, jump, sizeof(jump));
		return;
	}
	for (size_t i = 0; i < sizeof(served) / sizeof(served[0]); i++) {
		if (!strcmp(name, served[i].name)) {
			memcpy(call + 1, &served[i].number, 4);
			memcpy(to, call, sizeof(call));
			return;
		}
	}
	memcpy(fail + 3, &error, 4);
	memcpy(to, fail, sizeof(fail));
}

int vdso_find(const void **base, size_t *size)
{
	const Elf64_Ehdr *header = (const Elf64_Ehdr *)getauxval(AT_SYSINFO_EHDR);

	if (!header) {
		errno = ENOENT;
		return -1;
	}
	if (memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_ident[EI_CLASS] != ELFCLASS64 ||
	    header->e_phentsize != sizeof(Elf64_Phdr)) {
		errno = ENOTSUP;
		return -1;
	}

	const Elf64_Phdr *segments = (const Elf64_Phdr *)((const char *)header + header->e_phoff);
	uint64_t end = 0;

	for (unsigned i = 0; i < header->e_phnum; i++) {
		const Elf64_Phdr *segment = &segments[i];

		if (segment->p_type == PT_LOAD && segment->p_vaddr + segment->p_memsz > end)
			end = segment->p_vaddr + segment->p_memsz;
	}
	end = (end + PAGE - 1) & ~(uint64_t)(PAGE - 1);

	/* The kernel maps the whole file; its section headers may lie on pages behind the last segment. */
	uint64_t sections_end = header->e_shoff + (uint64_t)header->e_shnum * header->e_shentsize;
	unsigned char resident;

	while (end < sections_end && !mincore((char *)header + end, PAGE, &resident))
		end += PAGE;
	if (!end || (uintptr_t)header % PAGE) {
		errno = ENOTSUP;
		return -1;
	}
	*base = header;
	*size = end;
	return 0;
}

/* Whether [start, start + length) lies in [0, size). */
static bool lies_in(uint64_t start, uint64_t length, size_t size)
{
	return start <= size && length <= size - start;
}

/* Whether [start, start + length) lies in one executable section of the image. */
static bool lies_in_code(Elf *elf, uint64_t start, uint64_t length)
{
	for (Elf_Scn *section = NULL; (section = elf_nextscn(elf, section));) {
		GElf_Shdr header;

		if (gelf_getshdr(section, &header) && header.sh_flags & SHF_EXECINSTR && start >= header.sh_addr &&
		    lies_in(start - header.sh_addr, length, header.sh_size))
			return true;
	}
	return false;
}

/* Overwrites all code.  Returns whether there was any. */
static bool erase_code(Elf *elf, uint8_t *image, size_t size)
{
	bool found = false;

	for (Elf_Scn *section = NULL; (section = elf_nextscn(elf, section));) {
		GElf_Shdr header;

		if (!gelf_getshdr(section, &header))
			return false;
		if (!(header.sh_flags & SHF_EXECINSTR))
			continue;
		if (header.sh_addr != header.sh_offset || !lies_in(header.sh_addr, header.sh_size, size))
			return false;
		memset(image + header.sh_addr, BREAKPOINT, header.sh_size);
		found = true;
	}
	return found;
}

/* Whether the replacements of two functions would overwrite each other; two names for one place do not. */
static bool functions_clash(const GElf_Sym *a, const GElf_Sym *b)
{
	return a->st_value != b->st_value && a->st_value < b->st_value + STUB_BYTES &&
	       b->st_value < a->st_value + STUB_BYTES;
}

static bool is_function(const GElf_Sym *symbol)
{
	unsigned type = GELF_ST_TYPE(symbol->st_info);

	return symbol->st_shndx != SHN_UNDEF && symbol->st_shndx != SHN_ABS && type != STT_OBJECT &&
	       type != STT_SECTION && type != STT_FILE && type != STT_TLS;
}

/* Writes a stub for every function of a symbol table.  Returns how many, or -1 if one cannot be replaced. */
static int replace_functions(Elf *elf, Elf_Scn *section, const GElf_Shdr *header, uint8_t *image, size_t size,
			     const struct vdso_routines *routines)
{
	Elf_Data *data = elf_getdata(section, NULL);
	int entries = data && header->sh_entsize ? (int)(header->sh_size / header->sh_entsize) : 0;
	int functions = 0;

	for (int i = 0; i < entries; i++) {
		GElf_Sym symbol, other;

		if (!gelf_getsym(data, i, &symbol))
			return -1;
		if (!is_function(&symbol))
			continue;

		const char *name = elf_strptr(elf, header->sh_link, symbol.st_name);

		if (!name || symbol.st_size < STUB_BYTES || !lies_in(symbol.st_value, symbol.st_size, size) ||
		    !lies_in_code(elf, symbol.st_value, symbol.st_size))
			return -1;
		for (int j = 0; j < i; j++)
			if (gelf_getsym(data, j, &other) && is_function(&other) && functions_clash(&symbol, &other))
				return -1;
		write_stub(image + symbol.st_value, symbol.st_size, name, routines);
		functions++;
	}
	return functions;
}

int vdso_make_replacement(const void *vdso, size_t size, void *replacement, const struct vdso_routines *routines)
{
	if (elf_version(EV_CURRENT) == EV_NONE) {
		errno = ENOTSUP;
		return -1;
	}

	/* libelf promises not to write without being asked to, but has no const. */
	Elf *elf = elf_memory((char *)(uintptr_t)vdso, size);
	int functions = 0;

	if (!elf) {
		errno = ENOMEM;
		return -1;
	}
	memcpy(replacement, vdso, size);
	if (elf_kind(elf) != ELF_K_ELF || gelf_getclass(elf) != ELFCLASS64 || !erase_code(elf, replacement, size))
		functions = -1;
	for (Elf_Scn *section = NULL; functions >= 0 && (section = elf_nextscn(elf, section));) {
		GElf_Shdr header;
		int replaced = 0;

		if (!gelf_getshdr(section, &header))
			replaced = -1;
		else if (header.sh_type == SHT_DYNSYM)
			replaced = replace_functions(elf, section, &header, replacement, size, routines);
		functions = replaced < 0 ? -1 : functions + replaced;
	}
	elf_end(elf);
	if (functions <= 0) {
		errno = ENOTSUP;
		return -1;
	}
	return 0;
}
