/* unit_procmap.c - lines of /proc/self/maps are understood or refused; dune_procmap_iterate() tells of every mapping. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
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

enum {
	PAGE = 4096
};

/* ---- the parser ---------------------------------------------------------------------------------------- */

static void good_lines_are_understood(void)
{
	static const struct {
		const char *line;
		struct dune_maps_line parsed;
		int type;
	} lines[] = {
		{ "1000-2000 r-xp 00003000 08:01 42                         /bin/true",
		  { .start = 0x1000,
		    .end = 0x2000,
		    .offset = 0x3000,
		    .device_major = 8,
		    .device_minor = 1,
		    .inode = 42,
		    .read = true,
		    .execute = true,
		    .path = "/bin/true" },
		  PROCMAP_TYPE_FILE },
		{ "7f00000000-7f00001000 -w-s 00000000 fd:1f 18446744073709551615 ",
		  { .start = 0x7f00000000,
		    .end = 0x7f00001000,
		    .device_major = 0xfd,
		    .device_minor = 0x1f,
		    .inode = UINT64_MAX,
		    .write = true,
		    .shared = true,
		    .path = "" },
		  PROCMAP_TYPE_ANONYMOUS },
		{ "0-1 ---p 0 0:0 0", { .start = 0, .end = 1, .path = "" }, PROCMAP_TYPE_ANONYMOUS },
		{ "0-1 ---p 0 0:0 0  [heap]", { .end = 1, .path = "[heap]" }, PROCMAP_TYPE_HEAP },
		{ "0-1 ---p 0 0:0 0  [stack]", { .end = 1, .path = "[stack]" }, PROCMAP_TYPE_STACK },
		{ "0-1 ---p 0 0:0 0  [vdso]", { .end = 1, .path = "[vdso]" }, PROCMAP_TYPE_VDSO },
		{ "0-1 ---p 0 0:0 0  [vvar]", { .end = 1, .path = "[vvar]" }, PROCMAP_TYPE_VVAR },
		{ "0-1 ---p 0 0:0 0  [vvar_vclock]", { .end = 1, .path = "[vvar_vclock]" }, PROCMAP_TYPE_VVAR },
		{ "0-1 ---p 0 0:0 0  [anon: a  b]", { .end = 1, .path = "[anon: a  b]" }, PROCMAP_TYPE_ANONYMOUS },
		{ "0-1 ---p 0 0:0 0  [heap] ", { .end = 1, .path = "[heap] " }, PROCMAP_TYPE_UNKNOWN },
		{ "0-1 ---p 0 0:0 0  anon_inode:kvm-vcpu:0",
		  { .end = 1, .path = "anon_inode:kvm-vcpu:0" },
		  PROCMAP_TYPE_UNKNOWN },
		{ "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]",
		  { .start = 0xffffffffff600000, .end = 0xffffffffff601000, .execute = true, .path = "[vsyscall]" },
		  PROCMAP_TYPE_VSYSCALL },
	};
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		char text[256];
		struct dune_maps_line got;
		const struct dune_maps_line *want = &lines[i].parsed;
		strcpy(text, lines[i].line);
		CU_ASSERT_TRUE_FATAL(dune_maps_parse(text, &got));
		CU_ASSERT(got.start == want->start && got.end == want->end && got.offset == want->offset);
		CU_ASSERT(got.device_major == want->device_major && got.device_minor == want->device_minor);
		CU_ASSERT(got.inode == want->inode && got.shared == want->shared && !got.cut);
		CU_ASSERT(got.read == want->read && got.write == want->write && got.execute == want->execute);
		CU_ASSERT_STRING_EQUAL(got.path, want->path);
		CU_ASSERT_EQUAL(dune_maps_type(got.path), lines[i].type);
	}
}

static void damaged_lines_are_refused(void)
{
	static const char good[] = "1000-2000 r-xp 00003000 08:01 42 /bin/true";
	static const char *const bad[] = {
		"",
		" ",
		"1000",
		"1000-",
		"-2000 r-xp 0 0:0 0",
		"2000-1000 r-xp 0 0:0 0",
		"1000-1000 r-xp 0 0:0 0",
		"1000-10000000000000000 r-xp 0 0:0 0",
		"1000-2000r-xp 0 0:0 0",
		"1000-2000 rxp 0 0:0 0",
		"1000-2000 r-xq 0 0:0 0",
		"1000-2000 r-xp0 0:0 0",
		"1000-2000 r-xp g 0:0 0",
		"1000-2000 r-xp 0 00 0",
		"1000-2000 r-xp 0 100000000:0 0",
		"1000-2000 r-xp 0 0:0 a",
		"1000-2000 r-xp 0 0:0 18446744073709551616",
		"1000-2000 r-xp 0 0:0 0x",
		"1000-2000 R-xp 0 0:0 0",
		"FFF-2000 r-xp 0 0:0 0",
	};
	struct dune_maps_line line;
	char text[128];
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		strcpy(text, bad[i]);
		bool taken = dune_maps_parse(text, &line);
		CU_ASSERT_FALSE(taken);
		if (taken)
			harness_note("taken: %s", bad[i]);
	}
	/* Whatever is cut off before the inode, it is not taken; nothing behind the NUL is read (sanitizers see it). */
	for (size_t length = 0; length < strlen(good); length++) {
		char *exact = malloc(length + 1);
		memcpy(exact, good, length);
		exact[length] = 0;
		CU_ASSERT_EQUAL(dune_maps_parse(exact, &line), length > strlen("1000-2000 r-xp 00003000 08:01 "));
		free(exact);
	}
}

static void newlines_in_names_are_restored(void)
{
	static const char *const names[][2] = {
		{ "/a b", "/a b" },         { "/a\\012b", "/a\nb" },
		{ "/\\012\\012", "/\n\n" }, { "/\\01", "/\\01" },
		{ "/\\\\0122", "/\\\n2" },  { "", "" },
		{ "\\012", "\n" },          { "/x\\0120\\01\\012", "/x\n0\\01\n" },
	};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char text[64];
		strcpy(text, names[i][0]);
		dune_maps_restore_newlines(text);
		CU_ASSERT_STRING_EQUAL(text, names[i][1]);
	}
}

/* ---- the reader ---------------------------------------------------------------------------------------- */

/* Which file a mapping was made of, with a name this long. */
static void *map_file(const char *path, size_t pages)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(ftruncate(fd, (off_t)(pages + 1) * PAGE), 0);
	void *at = mmap(NULL, pages * PAGE, PROT_READ, MAP_SHARED, fd, PAGE);
	CU_ASSERT_PTR_NOT_EQUAL_FATAL(at, MAP_FAILED);
	close(fd);
	return at;
}

static void a_small_buffer_misses_no_mapping(void)
{
	static const size_t rooms[] = { DUNE_MAPS_ROOM_MIN, 257, 300, 511, 4096, 65536 };
	char path[300] = "/tmp/unit_procmap.";
	memset(path + strlen(path), 'x', 230);
	char *long_name = map_file(path, 2);
	char *many = mmap(NULL, 2000 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT_PTR_NOT_EQUAL_FATAL(many, MAP_FAILED);
	for (unsigned i = 0; i < 2000; i += 2)
		CU_ASSERT_EQUAL(mprotect(many + i * PAGE, PAGE, PROT_NONE), 0);
	for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
		/* On the heap, so that sanitizers see its end; allocated before the reading. */
		char *buffer = malloc(rooms[i]);
		struct dune_maps_reader reader;
		struct dune_maps_line line;
		unsigned pieces = 0, named = 0;
		uintptr_t last = 0;
		int more;
		errno = 77;
		CU_ASSERT_EQUAL_FATAL(dune_maps_open(&reader, buffer, rooms[i]), 0);
		while ((more = dune_maps_next(&reader, &line)) == 1) {
			CU_ASSERT(line.start >= last);
			last = line.end;
			pieces += line.start >= (uintptr_t)many && line.end <= (uintptr_t)many + 2000 * PAGE;
			if (line.start == (uintptr_t)long_name) {
				named++;
				CU_ASSERT_EQUAL(line.cut, rooms[i] < strlen(path) + 80);
				CU_ASSERT_EQUAL(strncmp(line.path, path, strlen(line.path)), 0);
				CU_ASSERT(line.cut || !strcmp(line.path, path));
				CU_ASSERT_EQUAL(line.end - line.start, 2 * PAGE);
			}
		}
		dune_maps_close(&reader);
		CU_ASSERT_EQUAL(more, 0);
		CU_ASSERT_EQUAL(errno, 77);
		CU_ASSERT_EQUAL(pieces, 2000);
		CU_ASSERT_EQUAL(named, 1);
		CU_ASSERT_EQUAL(dune_maps_find((uintptr_t)long_name + PAGE, buffer, rooms[i], &line), 1);
		CU_ASSERT_EQUAL(line.start, (uintptr_t)long_name);
		CU_ASSERT_EQUAL(dune_maps_find(0, buffer, rooms[i], &line), 0);
		CU_ASSERT_EQUAL(dune_maps_find(UINTPTR_MAX, buffer, rooms[i], &line), 0);
		free(buffer);
	}
	unlink(path);
}

/* ---- dune_procmap_iterate() ------------------------------------------------------------------------------ */

static struct {
	struct dune_procmap_entry entries[8192];
	char *paths[8192];
	unsigned count;
} seen;

static void remember(const struct dune_procmap_entry *entry)
{
	CU_ASSERT_FATAL(seen.count < sizeof seen.entries / sizeof *seen.entries);
	CU_ASSERT_PTR_NOT_NULL(entry->path);
	seen.paths[seen.count] = strdup(entry->path);
	seen.entries[seen.count++] = *entry;
}

static const struct dune_procmap_entry *find(const void *address)
{
	for (unsigned i = 0; i < seen.count; i++)
		if ((uintptr_t)address >= seen.entries[i].begin && (uintptr_t)address < seen.entries[i].end) {
			seen.entries[i].path = seen.paths[i];
			return &seen.entries[i];
		}
	static const struct dune_procmap_entry none = { .path = (char *)"no mapping", .type = -1 };
	return &none;
}

static void iterate(void)
{
	seen.count = 0;
	dune_procmap_iterate(remember);
	CU_ASSERT(seen.count > 5);
}

static char program_data = 1;

static void the_parts_of_the_process_have_types(void)
{
	void *heap = sbrk(PAGE);
	int local;
	char program[4096] = "";
	void *anonymous = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
	iterate();
	const struct dune_procmap_entry *text = find((void *)(uintptr_t)the_parts_of_the_process_have_types);
	CU_ASSERT(text->type == PROCMAP_TYPE_FILE && text->r && text->x && !text->w && text->p && text->offset);
	CU_ASSERT_STRING_EQUAL(text->path, program);
	const struct dune_procmap_entry *data = find(&program_data);
	CU_ASSERT(data->type == PROCMAP_TYPE_FILE && data->r && data->w && !data->x && data->p);
	CU_ASSERT_EQUAL(find(heap)->type, PROCMAP_TYPE_HEAP);
	CU_ASSERT_EQUAL(find(&local)->type, PROCMAP_TYPE_STACK);
	CU_ASSERT_EQUAL(find((void *)getauxval(AT_SYSINFO_EHDR))->type,
			getauxval(AT_SYSINFO_EHDR) ? PROCMAP_TYPE_VDSO : -1);
	CU_ASSERT(find(anonymous)->type == PROCMAP_TYPE_ANONYMOUS && !find(anonymous)->r);
	CU_ASSERT_STRING_EQUAL(find(NULL)->path, "no mapping");
	for (unsigned i = 1; i < seen.count; i++)
		CU_ASSERT(seen.entries[i - 1].end <= seen.entries[i].begin);
}

static void odd_names_are_told_whole(void)
{
	static const char *const names[] = { "a b  c", " lead and trail ", "new\nline\n", "[heap]",
					     "0-1 r-xp 0 0:0 0 x\n0-1 rwxp 0 0:0 0" };
	enum {
		NAMES = sizeof names / sizeof *names
	};
	char directory[] = "/tmp/unit_procmap.XXXXXX", path[256], *pages[NAMES];
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
	for (unsigned i = 0; i < NAMES; i++) {
		snprintf(path, sizeof path, "%s/%s", directory, names[i]);
		pages[i] = map_file(path, 1);
	}
	iterate();
	for (unsigned i = 0; i < NAMES; i++) {
		snprintf(path, sizeof path, "%s/%s", directory, names[i]);
		CU_ASSERT_STRING_EQUAL(find(pages[i])->path, path);
		CU_ASSERT(find(pages[i])->type == PROCMAP_TYPE_FILE && !find(pages[i])->p);
		CU_ASSERT_EQUAL(find(pages[i])->offset, PAGE);
		unlink(path);
	}
	iterate();
	snprintf(path, sizeof path, "%s/%s (deleted)", directory, names[2]);
	CU_ASSERT_STRING_EQUAL(find(pages[2])->path, path);
	rmdir(directory);
}

static void a_path_of_thousands_of_characters_is_told_whole(void)
{
	enum {
		LEVELS = 14
	};
	char directory[] = "/tmp/unit_procmap.XXXXXX", name[251];
	memset(name, 'd', sizeof name - 1);
	name[sizeof name - 1] = 0;
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
	CU_ASSERT_EQUAL_FATAL(chdir(directory), 0);
	for (unsigned i = 0; i < LEVELS; i++)
		CU_ASSERT_FATAL(mkdir(name, 0700) == 0 && chdir(name) == 0);
	void *page = map_file("file", 1);
	iterate();
	CU_ASSERT_EQUAL(strlen(find(page)->path), strlen(directory) + LEVELS * sizeof name + strlen("/file"));
	unlink("file");
	for (unsigned i = 0; i < LEVELS; i++) {
		CU_ASSERT_EQUAL(chdir(".."), 0);
		rmdir(name);
	}
	CU_ASSERT_EQUAL(rmdir(directory), 0);
}

static void thousands_of_mappings_are_told(void)
{
	enum {
		MAPPINGS = 6000
	};
	char *area = mmap(NULL, MAPPINGS * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned found = 0;
	CU_ASSERT_PTR_NOT_EQUAL_FATAL(area, MAP_FAILED);
	for (unsigned i = 0; i < MAPPINGS; i += 2)
		CU_ASSERT_EQUAL(mprotect(area + i * PAGE, PAGE, PROT_NONE), 0);
	iterate();
	for (unsigned i = 0; i < seen.count; i++)
		found += seen.entries[i].begin >= (uintptr_t)area &&
			 seen.entries[i].end <= (uintptr_t)area + (size_t)MAPPINGS * PAGE;
	CU_ASSERT_EQUAL(found, MAPPINGS);
}

/* What the kernel says without the library. */
static unsigned read_raw(struct dune_procmap_entry *entries, unsigned room)
{
	static char text[1 << 20];
	size_t length = 0;
	ssize_t got;
	unsigned count = 0;
	int fd = open("/proc/self/maps", O_RDONLY);
	while ((got = read(fd, text + length, sizeof text - 1 - length)) > 0)
		length += (size_t)got;
	close(fd);
	for (char *at = text; at < text + length && count < room; at = strchr(at, '\n') + 1, count++) {
		entries[count].begin = strtoul(at, &at, 16);
		entries[count].end = strtoul(at + 1, &at, 16);
		entries[count].w = at[2] == 'w';
	}
	return count;
}

static struct dune_procmap_entry before[8192];
static unsigned told, different;

static void compare(const struct dune_procmap_entry *entry)
{
	different += told >= sizeof before / sizeof *before || entry->begin != before[told].begin ||
		     entry->end != before[told].end || entry->w != before[told].w;
	told++;
}

static void the_map_is_as_it_was_before_the_call(void)
{
	told = different = 0;
	unsigned count = read_raw(before, sizeof before / sizeof *before);
	dune_procmap_iterate(compare);
	CU_ASSERT_EQUAL(told, count);
	CU_ASSERT_EQUAL(different, 0);
	/* The control: what is mapped in between is noticed. */
	CU_ASSERT_PTR_NOT_EQUAL(mmap(NULL, PAGE, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), MAP_FAILED);
	told = different = 0;
	dune_procmap_iterate(compare);
	CU_ASSERT(told != count || different);
}

static void count_one(const struct dune_procmap_entry *entry)
{
	(void)entry;
	told++;
}

static void a_map_that_cannot_be_read_is_not_told(void)
{
	struct rlimit limit, none;
	CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = 0;
	CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_NOFILE, &none), 0);
	told = 0;
	errno = 0;
	dune_procmap_iterate(count_one);
	CU_ASSERT_EQUAL(errno, EMFILE);
	CU_ASSERT_EQUAL(told, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(dune_error(), "/proc/self/maps"));
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
	dune_procmap_iterate(count_one);
	CU_ASSERT(told > 5);
}

static void a_dump_has_one_line_for_each_mapping(void)
{
	char path[] = "/tmp/unit_procmap.XXXXXX", line[8192], name[64];
	unsigned lines = 0, odd = 0;
	int out = mkstemp(path);
	CU_ASSERT_FATAL(out >= 0);
	snprintf(name, sizeof name, "/tmp/unit_procmap\n%d", (int)getpid());
	map_file(name, 1);
	fflush(stdout);
	int kept = dup(STDOUT_FILENO);
	dup2(out, STDOUT_FILENO);
	dune_procmap_dump();
	fflush(stdout);
	dup2(kept, STDOUT_FILENO);
	told = 0;
	dune_procmap_iterate(count_one);
	FILE *stream = fdopen(out, "r");
	rewind(stream);
	while (fgets(line, sizeof line, stream)) {
		lines++;
		odd += strstr(line, "/tmp/unit_procmap\\012") != NULL;
	}
	CU_ASSERT(lines + 3 > told && told + 3 > lines); /* stdio's buffers come and go */
	CU_ASSERT_EQUAL(odd, 1);
	fclose(stream);
	unlink(path);
	unlink(name);
}

static const struct harness_test tests[] = {
	{ "lines as the kernel writes them are understood", good_lines_are_understood },
	{ "damaged and truncated lines are refused", damaged_lines_are_refused },
	{ "newlines in names are restored", newlines_in_names_are_restored },
	{ "a small buffer cuts paths, and misses no mapping", a_small_buffer_misses_no_mapping, HARNESS_FORK },
	{ "text, data, heap, stack and vDSO have their types", the_parts_of_the_process_have_types, HARNESS_FORK },
	{ "odd and deleted names are told whole", odd_names_are_told_whole, HARNESS_FORK },
	{ "a path of thousands of characters is told whole", a_path_of_thousands_of_characters_is_told_whole,
	  HARNESS_FORK },
	{ "thousands of mappings are told", thousands_of_mappings_are_told, HARNESS_FORK },
	{ "the map is as it was before the call", the_map_is_as_it_was_before_the_call, HARNESS_FORK },
	{ "a map that cannot be read is not told, and errno says why", a_map_that_cannot_be_read_is_not_told,
	  HARNESS_FORK },
	{ "a dump has one line for each mapping", a_dump_has_one_line_for_each_mapping, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
