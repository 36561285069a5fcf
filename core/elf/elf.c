/*
 * elf.c - ELF files: dune_elf_*() of dune.h, on libelf.
 *
 * libelf finds the tables (files with very many headers number them in odd places) and reads them; whether what they say
 * can be true is checked here, once, when the file is opened: afterwards every name lies in its table, and every segment
 * and section in the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libelf.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dune.h"
#include "kvm/machine.h"

/* Behind struct dune_elf.priv. */
struct tables {
	size_t segments, sections; /* how many headers: e_phnum and e_shnum hold 16 bits only */
	size_t names;              /* bytes of section names */
};

#define DAMAGED(...) dune_fail(ENOEXEC, "the ELF file is damaged: " __VA_ARGS__)

/* ---- what can be true ---------------------------------------------------------------------------------- */

static bool is_inside(uint64_t start, uint64_t size, uint64_t length)
{
	return start <= length && size <= length - start;
}

static int check_header(const struct dune_elf *elf)
{
	const Elf64_Ehdr *header = &elf->hdr;
	if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
	    header->e_machine != EM_X86_64)
		return dune_fail(ENOEXEC, "not an ELF file for x86-64 (class %u, machine %u)",
				 header->e_ident[EI_CLASS], header->e_machine);
	if (header->e_ident[EI_VERSION] != EV_CURRENT || header->e_version != EV_CURRENT ||
	    header->e_ehsize < sizeof *header)
		return DAMAGED("its header has version %u and %u bytes", header->e_version, header->e_ehsize);
	return 0;
}

/* Segments to be loaded are in order, apart from each other, and at addresses that a process can have. */
static int check_segments(const struct dune_elf *elf, const struct tables *tables)
{
	uint64_t loaded = 0;
	for (size_t i = 0; i < tables->segments; i++) {
		const Elf64_Phdr *segment = &elf->phdr[i];
		uint64_t end;
		if (segment->p_type == PT_NULL)
			continue;
		if (!is_inside(segment->p_offset, segment->p_filesz, (uint64_t)elf->len))
			return DAMAGED("segment %zu is not all in it", i);
		if (segment->p_type != PT_LOAD)
			continue;
		if (segment->p_filesz > segment->p_memsz)
			return DAMAGED("segment %zu has more bytes in the file than in memory", i);
		if (__builtin_add_overflow(segment->p_vaddr, segment->p_memsz, &end))
			return DAMAGED("segment %zu ends beyond the last address", i);
		if (segment->p_align > 1 && (segment->p_align & (segment->p_align - 1) ||
					     (segment->p_vaddr - segment->p_offset) & (segment->p_align - 1)))
			return DAMAGED("segment %zu is not aligned as it says", i);
		if (segment->p_vaddr < loaded)
			return DAMAGED("segment %zu overlaps one before it, or is out of order", i);
		loaded = end;
	}
	return 0;
}

static int check_sections(const struct dune_elf *elf, const struct tables *tables)
{
	for (size_t i = 0; i < tables->sections; i++) {
		const Elf64_Shdr *section = &elf->shdr[i];
		if (section->sh_type != SHT_NULL && section->sh_type != SHT_NOBITS &&
		    !is_inside(section->sh_offset, section->sh_size, (uint64_t)elf->len))
			return DAMAGED("section %zu is not all in it", i);
		if (section->sh_name && section->sh_name >= tables->names)
			return DAMAGED("the name of section %zu is not in the table of names", i);
	}
	return 0;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

/* Copies bytes of the file.  Returns 0, or -1 and errno. */
static int copy(const struct dune_elf *elf, void *to, uint64_t offset, size_t size)
{
	if (!is_inside(offset, size, (uint64_t)elf->len))
		return DAMAGED("it ends too early");
	if (elf->fd < 0) {
		memcpy(to, elf->mem + offset, size);
		return 0;
	}
	for (size_t done = 0; done < size;) {
		ssize_t got = pread(elf->fd, (char *)to + done, size - done, (off_t)(offset + done));
		if (got > 0)
			done += (size_t)got;
		else if (got == 0)
			return DAMAGED("it has become shorter");
		else if (errno != EINTR)
			return dune_fail(errno, "cannot read the ELF file: %s", strerror(errno));
	}
	return 0;
}

/* Copies a table of headers.  Returns 0, or -1 and errno; *table is NULL if there are none. */
static int copy_table(const struct dune_elf *elf, uint64_t offset, size_t count, size_t size, void **table)
{
	*table = NULL;
	if (!count)
		return 0;
	if (offset < sizeof elf->hdr || count > (size_t)elf->len / size)
		return DAMAGED("it has no room for %zu headers at offset %" PRIu64, count, offset);
	*table = malloc(count * size);
	if (!*table)
		return dune_fail(ENOMEM, "no memory for %zu headers of an ELF file", count);
	return copy(elf, *table, offset, count * size);
}

static int copy_names(struct dune_elf *elf, struct tables *tables, size_t number)
{
	if (number == SHN_UNDEF || !tables->sections) {
		elf->shdrstr = calloc(1, 1);
		tables->names = 1;
		return elf->shdrstr ? 0 : dune_fail(ENOMEM, "no memory for the names of an ELF file");
	}
	if (number >= tables->sections || elf->shdr[number].sh_type != SHT_STRTAB || !elf->shdr[number].sh_size)
		return DAMAGED("section %zu has no names", number);
	const Elf64_Shdr *names = &elf->shdr[number];
	tables->names = names->sh_size;
	if (copy_table(elf, names->sh_offset, names->sh_size, 1, (void **)&elf->shdrstr))
		return -1;
	return elf->shdrstr[tables->names - 1] ? DAMAGED("the table of names does not end") : 0;
}

/* Fills in the members out of what libelf has understood. */
static int take(struct dune_elf *elf, Elf *found)
{
	struct tables *tables = calloc(1, sizeof *tables);
	size_t names;
	elf->priv = tables;
	if (!tables)
		return dune_fail(ENOMEM, "no memory for an ELF file");
	if (!found || elf_kind(found) != ELF_K_ELF)
		return dune_fail(ENOEXEC, "not an ELF file");
	if (copy(elf, &elf->hdr, 0, sizeof elf->hdr) || check_header(elf))
		return -1;
	const Elf64_Ehdr *header = &elf->hdr;
	if (elf_getphdrnum(found, &tables->segments) || elf_getshdrnum(found, &tables->sections) ||
	    elf_getshdrstrndx(found, &names))
		return DAMAGED("%s", elf_errmsg(-1));
	/* libelf makes little of tables that cannot be there. */
	if ((header->e_phnum != PN_XNUM && tables->segments != header->e_phnum) ||
	    (header->e_shnum && tables->sections != header->e_shnum) || (!header->e_shoff != !tables->sections))
		return DAMAGED("its tables of headers are not in it");
	if ((tables->segments && header->e_phentsize != sizeof *elf->phdr) ||
	    (tables->sections && header->e_shentsize != sizeof *elf->shdr))
		return DAMAGED("its headers have %u and %u bytes", header->e_phentsize, header->e_shentsize);
	if (copy_table(elf, header->e_phoff, tables->segments, sizeof *elf->phdr, (void **)&elf->phdr) ||
	    copy_table(elf, header->e_shoff, tables->sections, sizeof *elf->shdr, (void **)&elf->shdr) ||
	    check_segments(elf, tables) || copy_names(elf, tables, names) || check_sections(elf, tables))
		return -1;
	return 0;
}

static void choose_version(void)
{
	elf_version(EV_CURRENT);
}

/* Opens what elf->fd or elf->mem holds; on failure nothing is left. */
static int begin(struct dune_elf *elf)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, choose_version);
	Elf *found =
		elf->fd >= 0 ? elf_begin(elf->fd, ELF_C_READ, NULL) : elf_memory((char *)elf->mem, (size_t)elf->len);
	int result = take(elf, found);
	int error = errno;
	elf_end(found);
	if (result)
		dune_elf_close(elf);
	errno = error;
	return result;
}

/* ---- the interface ------------------------------------------------------------------------------------- */

int dune_elf_open(struct dune_elf *elf, const char *path)
{
	struct stat status;
	*elf = (struct dune_elf){ .fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK) };
	if (elf->fd < 0)
		return dune_fail(errno, "cannot open %s: %s", path, strerror(errno));
	int error = fstat(elf->fd, &status)  ? errno :
		    S_ISDIR(status.st_mode)  ? EISDIR :
		    !S_ISREG(status.st_mode) ? ENOEXEC :
		    status.st_size > INT_MAX ? EFBIG :
					       0;
	if (error) {
		dune_elf_close(elf);
		return dune_fail(error, "%s is not an ELF file that can be opened: %s", path, strerror(error));
	}
	elf->len = (int)status.st_size;
	return begin(elf);
}

int dune_elf_open_mem(struct dune_elf *elf, void *mem, int len)
{
	*elf = (struct dune_elf){ .fd = -1, .mem = mem, .len = len };
	if (!mem || len <= 0) {
		*elf = (struct dune_elf){ .fd = -1 };
		return dune_fail(ENOEXEC, "no bytes are not an ELF file");
	}
	return begin(elf);
}

int dune_elf_close(struct dune_elf *elf)
{
	free(elf->phdr);
	free(elf->shdr);
	free(elf->shdrstr);
	free(elf->priv);
	if (elf->fd >= 0)
		close(elf->fd);
	*elf = (struct dune_elf){ .fd = -1 };
	return 0;
}

int dune_elf_iter_sh(struct dune_elf *elf, dune_elf_shcb callback)
{
	const struct tables *tables = elf->priv;
	int result = 0;
	for (size_t i = 0; tables && i < tables->sections && !result; i++)
		result = callback(elf, elf->shdrstr + elf->shdr[i].sh_name, (int)i, &elf->shdr[i]);
	return result;
}

int dune_elf_iter_ph(struct dune_elf *elf, dune_elf_phcb callback)
{
	const struct tables *tables = elf->priv;
	int result = 0;
	for (size_t i = 0; tables && i < tables->segments && !result; i++)
		result = callback(elf, &elf->phdr[i]);
	return result;
}

int dune_elf_load_ph(struct dune_elf *elf, Elf64_Phdr *phdr, off_t offset)
{
	uint64_t start = phdr->p_vaddr + (uint64_t)offset, end;
	if (phdr->p_filesz > phdr->p_memsz)
		return DAMAGED("a segment has more bytes in the file than in memory");
	if (!is_inside(phdr->p_offset, phdr->p_filesz, (uint64_t)elf->len))
		return DAMAGED("a segment is not all in it");
	if ((offset >= 0) != (start >= phdr->p_vaddr) || __builtin_add_overflow(start, phdr->p_memsz, &end))
		return DAMAGED("a segment ends beyond the last address");
	if (copy(elf, (void *)(uintptr_t)start, phdr->p_offset, phdr->p_filesz))
		return -1;
	memset((char *)(uintptr_t)start + phdr->p_filesz, 0, phdr->p_memsz - phdr->p_filesz);
	return 0;
}

/* ---- printing ------------------------------------------------------------------------------------------- */

static int print_segment(struct dune_elf *elf, Elf64_Phdr *segment)
{
	(void)elf;
	printf("  segment type 0x%08x %c%c%c file 0x%08" PRIx64 " + 0x%08" PRIx64 ", address 0x%016" PRIx64
	       " + 0x%08" PRIx64 ", alignment 0x%" PRIx64 "\n",
	       segment->p_type, segment->p_flags & PF_R ? 'r' : '-', segment->p_flags & PF_W ? 'w' : '-',
	       segment->p_flags & PF_X ? 'x' : '-', segment->p_offset, segment->p_filesz, segment->p_vaddr,
	       segment->p_memsz, segment->p_align);
	return 0;
}

/* A name may hold anything. */
static void print_name(const char *name)
{
	for (const char *c = name; *c; c++)
		putchar((unsigned char)*c < ' ' || *c == 0x7f ? '?' : *c);
	putchar('\n');
}

static int print_section(struct dune_elf *elf, const char *name, int number, Elf64_Shdr *section)
{
	(void)elf;
	printf("  section %3d type 0x%08x %c%c%c file 0x%08" PRIx64 " + 0x%08" PRIx64 ", address 0x%016" PRIx64 " ",
	       number, section->sh_type, section->sh_flags & SHF_ALLOC ? 'a' : '-',
	       section->sh_flags & SHF_WRITE ? 'w' : '-', section->sh_flags & SHF_EXECINSTR ? 'x' : '-',
	       section->sh_offset, section->sh_size, section->sh_addr);
	print_name(name);
	return 0;
}

int dune_elf_dump(struct dune_elf *elf)
{
	const struct tables *tables = elf->priv;
	printf("ELF type %u, entry 0x%" PRIx64 ", %zu segments, %zu sections, %d bytes\n", elf->hdr.e_type,
	       elf->hdr.e_entry, tables ? tables->segments : 0, tables ? tables->sections : 0, elf->len);
	int result = dune_elf_iter_ph(elf, print_segment);
	return result ? result : dune_elf_iter_sh(elf, print_section);
}
