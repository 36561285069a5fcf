/* symbol.c - see symbol.h. */
#include "placement/symbol.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "dune.h"
#include "elf/maps.h"
#include "placement/format.h"
#include "placement/system_call.h"

enum {
	SYMBOLS_AT_ONCE = 64,
	SECTIONS_MAX = 1 << 20, /* more are not looked at: the file is damaged */
	SYMBOLS_MAX = 1 << 26,
	NAME_ROOM = 160,
	LINE_ROOM = 4096 + DUNE_MAPS_ROOM_MIN,
};

/* The file, and what is looked for in it. */
struct search {
	int fd;
	uint64_t address; /* as the file numbers addresses */
	Elf64_Ehdr header;
	uint64_t sections;
};

/* The best symbol of a table. */
struct found {
	Elf64_Sym symbol; /* st_name 0: none */
	bool covers;      /* else it has no size, and lies before the address in the same section */
};

/* ---- reading ------------------------------------------------------------------------------------------- */

/* Returns how many bytes are there, at most `size`. */
static size_t read_some(int fd, uint64_t offset, void *to, size_t size)
{
	long got = dune_system_call(SYS_pread64, fd, (long)to, (long)size, (long)offset, 0, 0);
	return got > 0 ? (size_t)got : 0;
}

static bool read_exactly(int fd, uint64_t offset, void *to, size_t size)
{
	return read_some(fd, offset, to, size) == size;
}

/* Reads entry `index` of a table of the file. */
static bool read_entry(int fd, uint64_t table, uint64_t index, void *to, size_t size)
{
	uint64_t offset;
	return !__builtin_mul_overflow(index, (uint64_t)size, &offset) &&
	       !__builtin_add_overflow(offset, table, &offset) && read_exactly(fd, offset, to, size);
}

static bool read_section(const struct search *search, uint64_t index, Elf64_Shdr *section)
{
	return index < search->sections &&
	       read_entry(search->fd, search->header.e_shoff, index, section, sizeof *section);
}

static bool read_header(struct search *search)
{
	Elf64_Ehdr *header = &search->header;
	Elf64_Shdr first;
	if (!read_exactly(search->fd, 0, header, sizeof *header) || memcmp(header->e_ident, ELFMAG, SELFMAG) ||
	    header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
	    header->e_machine != EM_X86_64 || header->e_phentsize != sizeof(Elf64_Phdr))
		return false;
	search->sections = header->e_shentsize == sizeof first && header->e_shoff ? header->e_shnum : 0;
	if (header->e_shoff && !header->e_shnum) {
		/* More than fit into e_shnum: the first section has their number. */
		search->sections = 1;
		search->sections = read_section(search, 0, &first) ? first.sh_size : 0;
	}
	if (search->sections > SECTIONS_MAX)
		search->sections = SECTIONS_MAX;
	return true;
}

/* ---- the search ---------------------------------------------------------------------------------------- */

/* Turns an offset of the file, mapped with these rights, into an address as the file numbers them: two segments may show
 * the same page. */
static bool find_address(struct search *search, uint64_t offset, const struct dune_maps_line *mapping)
{
	unsigned best = 0;
	for (unsigned i = 0; i < search->header.e_phnum; i++) {
		Elf64_Phdr segment;
		uint64_t end;
		if (!read_entry(search->fd, search->header.e_phoff, i, &segment, sizeof segment))
			return best;
		if (segment.p_type != PT_LOAD || __builtin_add_overflow(segment.p_offset, segment.p_filesz, &end) ||
		    offset < PGADDR(segment.p_offset) || PGADDR(offset) >= end)
			continue;
		unsigned score = 1 + (!(segment.p_flags & PF_W) == !mapping->write) +
				 2 * (offset >= segment.p_offset && offset < end) +
				 4 * (!(segment.p_flags & PF_X) == !mapping->execute);
		if (score > best) {
			best = score;
			search->address = segment.p_vaddr + (offset - segment.p_offset);
		}
	}
	return best;
}

static unsigned strength(const Elf64_Sym *symbol)
{
	unsigned binding = ELF64_ST_BIND(symbol->st_info);
	return binding == STB_GLOBAL ? 2 : binding == STB_WEAK ? 1 : 0;
}

static void consider(const struct search *search, const Elf64_Sym *symbol, struct found *found)
{
	unsigned type = ELF64_ST_TYPE(symbol->st_info);
	if ((type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_OBJECT && type != STT_NOTYPE) ||
	    !symbol->st_name || symbol->st_shndx == SHN_UNDEF || symbol->st_shndx == SHN_ABS ||
	    symbol->st_shndx == SHN_COMMON || symbol->st_value > search->address)
		return;
	bool covers = search->address - symbol->st_value < symbol->st_size;
	if (!covers && symbol->st_size)
		return;
	const Elf64_Sym *best = &found->symbol;
	if (best->st_name && covers == found->covers &&
	    (symbol->st_value < best->st_value ||
	     (symbol->st_value == best->st_value && strength(symbol) <= strength(best))))
		return;
	if (best->st_name && found->covers && !covers)
		return;
	found->symbol = *symbol;
	found->covers = covers;
}

static void search_table(const struct search *search, const Elf64_Shdr *table, struct found *found)
{
	Elf64_Sym symbols[SYMBOLS_AT_ONCE];
	uint64_t count = table->sh_size / sizeof *symbols;
	*found = (struct found){ 0 };
	if (table->sh_entsize != sizeof *symbols || table->sh_offset > INT64_MAX)
		return;
	if (count > SYMBOLS_MAX)
		count = SYMBOLS_MAX;
	for (uint64_t i = 0; i < count; i += SYMBOLS_AT_ONCE) {
		size_t some = count - i < SYMBOLS_AT_ONCE ? count - i : SYMBOLS_AT_ONCE;
		some = read_some(search->fd, table->sh_offset + i * sizeof *symbols, symbols, some * sizeof *symbols) /
		       sizeof *symbols;
		if (!some)
			return;
		for (size_t j = 0; j < some; j++)
			consider(search, &symbols[j], found);
	}
}

/* A symbol without size may be taken for an address behind it only within its section. */
static bool is_acceptable(const struct search *search, const struct found *found)
{
	Elf64_Shdr section;
	if (!found->symbol.st_name)
		return false;
	return found->covers ||
	       (read_section(search, found->symbol.st_shndx, &section) && found->symbol.st_value >= section.sh_addr &&
		search->address - section.sh_addr < section.sh_size);
}

static bool read_name(const struct search *search, const Elf64_Shdr *table, const Elf64_Sym *symbol, char *name)
{
	Elf64_Shdr strings;
	if (!read_section(search, table->sh_link, &strings) || strings.sh_type != SHT_STRTAB ||
	    symbol->st_name >= strings.sh_size || strings.sh_offset > INT64_MAX)
		return false;
	uint64_t left = strings.sh_size - symbol->st_name;
	size_t room = left < NAME_ROOM - 1 ? (size_t)left : NAME_ROOM - 1;
	name[read_some(search->fd, strings.sh_offset + symbol->st_name, name, room)] = 0;
	return name[0];
}

/* Looks through the tables of this type.  `covering`: only for symbols that cover the address. */
static bool search_tables(const struct search *search, unsigned type, bool covering, char *name, uint64_t *distance)
{
	for (uint64_t i = 1; i < search->sections; i++) {
		Elf64_Shdr table;
		struct found found;
		if (!read_section(search, i, &table))
			return false;
		if (table.sh_type != type)
			continue;
		search_table(search, &table, &found);
		if ((found.covers || !covering) && is_acceptable(search, &found) &&
		    read_name(search, &table, &found.symbol, name)) {
			*distance = search->address - found.symbol.st_value;
			return true;
		}
	}
	return false;
}

/* Finds the symbol in the file that a mapping shows. */
static bool search_file(struct dune_maps_line *mapping, uint64_t offset, char *name, uint64_t *distance)
{
	struct search search;
	struct stat status;
	dune_maps_restore_newlines(mapping->path);
	long fd = dune_system_call(SYS_openat, AT_FDCWD, (long)mapping->path,
				   O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0, 0, 0);
	if (fd < 0)
		return false;
	search.fd = (int)fd;
	/* Not its device, which some file systems report differently here. */
	bool good = dune_system_call(SYS_fstat, fd, (long)&status, 0, 0, 0, 0) == 0 && S_ISREG(status.st_mode) &&
		    status.st_ino == mapping->inode && read_header(&search) && find_address(&search, offset, mapping) &&
		    (search_tables(&search, SHT_SYMTAB, true, name, distance) ||
		     search_tables(&search, SHT_DYNSYM, true, name, distance) ||
		     search_tables(&search, SHT_SYMTAB, false, name, distance));
	dune_system_call(SYS_close, fd, 0, 0, 0, 0, 0);
	return good;
}

bool dune_symbol_at(uintptr_t address, char *text, size_t size)
{
	char buffer[LINE_ROOM], name[NAME_ROOM];
	struct dune_maps_line mapping;
	uint64_t distance;
	if (size)
		text[0] = 0;
	if (dune_maps_find(address, buffer, sizeof buffer, &mapping) != 1)
		return false;
	uint64_t offset = address - mapping.start + mapping.offset;
	if (dune_maps_type(mapping.path) == PROCMAP_TYPE_FILE && search_file(&mapping, offset, name, &distance))
		dune_format(text, size, "%s+0x%lx in %s", name, distance, mapping.path);
	else
		dune_format(text, size, "%s+0x%lx", *mapping.path ? mapping.path : "[anonymous]", offset);
	for (char *c = text; size && *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	return true;
}
