/* unit_process_map.c - the map of the process is complete, exact and survives odd names. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "sthread/process_map.h"

#define PAGE 4096

static char program_data = 1;

/* A directory for odd files, where the test then is. */
int main(int argc, char **argv);

static void enter_directory(char *directory)
{
	strcpy(directory, "/tmp/unit_process_map.XXXXXX");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
	CU_ASSERT_EQUAL_FATAL(chdir(directory), 0);
}

/* Maps one page of a new file of this name. */
static void *map_file(const char *name, int protection, int flags)
{
	int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	void *p;

	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(ftruncate(fd, 2 * PAGE), 0);
	p = mmap(NULL, PAGE, protection, flags, fd, PAGE);
	CU_ASSERT_NOT_EQUAL_FATAL(p, MAP_FAILED);
	close(fd);
	return p;
}

static const struct process_mapping *find(const struct process_map *map, const void *p)
{
	const struct process_mapping *mapping = process_map_find(map, (uintptr_t)p);

	CU_ASSERT_PTR_NOT_NULL_FATAL(mapping);
	CU_ASSERT(mapping->start <= (uintptr_t)p && (uintptr_t)p < mapping->end);
	return mapping;
}

static void the_parts_of_the_process_are_recognised(void)
{
	struct process_map map;
	void *heap = sbrk(PAGE);
	int local;
	char program[4096] = "";

	CU_ASSERT_EQUAL_FATAL(process_map_read(&map), 0);
	CU_ASSERT(readlink("/proc/self/exe", program, sizeof(program) - 1) > 0);

	const struct process_mapping *text = find(&map, (void *)(uintptr_t)the_parts_of_the_process_are_recognised);
	const struct process_mapping *data = find(&map, &program_data);

	CU_ASSERT(text->kind == PROCESS_MAPPING_FILE && text->execute && text->read && !text->write && !text->shared);
	CU_ASSERT_STRING_EQUAL(text->path, program);
	CU_ASSERT(!text->deleted && text->inode);
	CU_ASSERT(data->kind == PROCESS_MAPPING_FILE && data->write && !data->execute && data->inode == text->inode);
	CU_ASSERT_EQUAL(find(&map, heap)->kind, PROCESS_MAPPING_HEAP);
	CU_ASSERT_EQUAL(find(&map, &local)->kind, PROCESS_MAPPING_STACK);
	if (getauxval(AT_SYSINFO_EHDR)) {
		unsigned vvars = 0;

		CU_ASSERT_EQUAL(find(&map, (void *)getauxval(AT_SYSINFO_EHDR))->kind, PROCESS_MAPPING_VDSO);
		for (size_t i = 0; i < map.count; i++)
			vvars += map.mappings[i].kind == PROCESS_MAPPING_VVAR;
		CU_ASSERT(vvars >= 1);
	}
	CU_ASSERT_PTR_NULL(process_map_find(&map, 0));
	CU_ASSERT_PTR_NULL(process_map_find(&map, UINTPTR_MAX));
	for (size_t i = 1; i < map.count; i++)
		CU_ASSERT(map.mappings[i - 1].end <= map.mappings[i].start);
	process_map_free(&map);
	CU_ASSERT(!map.count && !map.mappings && !map.buffer);
	process_map_free(&map);
}

static void odd_names_are_read_as_they_are(void)
{
	static const struct {
		const char *name, *path;
		bool deleted;
	} files[] = {
		{ "a b  c", "a b  c", false },
		{ " leading and trailing ", " leading and trailing ", false },
		{ "new\nline\n", "new\nline\n", false },
		{ "00400000-00401000 r-xp 0 0:0 0 \n00400000-00401000 rwxp 0 0:0 0", NULL, false },
		{ "not (deleted)", "not (deleted)", false },
		{ "gone", "gone", true },
		{ "gone (deleted)", "gone (deleted)", true },
		{ " (deleted)", " (deleted)", false },
		{ "[heap]", "[heap]", false },
		{ "\\n \t\x01\xff\xc3\xbc %s", "\\n \t\x01\xff\xc3\xbc %s", false },
	};
	enum { FILES = sizeof(files) / sizeof(files[0]) };
	void *pages[FILES];
	char directory[64], expected[512];
	struct process_map map;
	struct stat status[FILES];

	enter_directory(directory);
	for (size_t i = 0; i < FILES; i++) {
		pages[i] = map_file(files[i].name, PROT_READ, i % 2 ? MAP_SHARED : MAP_PRIVATE);
		CU_ASSERT_EQUAL(stat(files[i].name, &status[i]), 0);
		if (files[i].deleted)
			unlink(files[i].name);
	}
	CU_ASSERT_EQUAL_FATAL(process_map_read(&map), 0);
	for (size_t i = 0; i < FILES; i++) {
		const struct process_mapping *mapping = find(&map, pages[i]);

		snprintf(expected, sizeof(expected), "%s/%s", directory, files[i].path ? files[i].path : files[i].name);
		CU_ASSERT_STRING_EQUAL(mapping->path, expected);
		CU_ASSERT_EQUAL(mapping->kind, PROCESS_MAPPING_FILE);
		CU_ASSERT_EQUAL(mapping->deleted, files[i].deleted);
		CU_ASSERT_EQUAL(mapping->shared, i % 2 == 1);
		CU_ASSERT_EQUAL(mapping->offset, PAGE);
		CU_ASSERT_EQUAL(mapping->inode, status[i].st_ino);
		CU_ASSERT(mapping->read && !mapping->write && !mapping->execute);
		unlink(files[i].name);
	}
	process_map_free(&map);
	CU_ASSERT_EQUAL(rmdir(directory), 0);
}

static void paths_of_any_length_are_read(void)
{
	enum { LEVELS = 14 };
	char directory[64], name[251];
	struct process_map map;

	memset(name, 'd', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	enter_directory(directory);
	for (unsigned i = 0; i < LEVELS; i++) {
		CU_ASSERT_EQUAL_FATAL(mkdir(name, 0700), 0);
		CU_ASSERT_EQUAL_FATAL(chdir(name), 0);
	}

	void *page = map_file("file", PROT_READ | PROT_WRITE, MAP_SHARED);

	CU_ASSERT_EQUAL_FATAL(process_map_read(&map), 0);

	const struct process_mapping *mapping = find(&map, page);

	CU_ASSERT_EQUAL(strlen(mapping->path), strlen(directory) + LEVELS * sizeof(name) + strlen("/file"));
	CU_ASSERT_STRING_EQUAL(mapping->path + strlen(mapping->path) - 5, "/file");
	CU_ASSERT(!mapping->deleted);
	process_map_free(&map);
	unlink("file");
	for (unsigned i = 0; i < LEVELS; i++) {
		CU_ASSERT_EQUAL(chdir(".."), 0);
		rmdir(name);
	}
	CU_ASSERT_EQUAL(rmdir(directory), 0);
}

static void kinds_of_memory_are_told_apart(void)
{
	struct process_map map;
	void *anonymous = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *nothing = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int memfd = memfd_create("odd \n name", MFD_CLOEXEC);
	void *memory;
	bool named = false;

#ifdef PR_SET_VMA
	named = !prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, anonymous, PAGE, "a name");
#endif
	CU_ASSERT_EQUAL(ftruncate(memfd, PAGE), 0);
	memory = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, memfd, 0);
	CU_ASSERT_EQUAL_FATAL(process_map_read(&map), 0);

	CU_ASSERT_EQUAL(find(&map, anonymous)->kind, PROCESS_MAPPING_ANONYMOUS);
	CU_ASSERT_STRING_EQUAL(find(&map, anonymous)->path, named ? "[anon:a name]" : "");
	CU_ASSERT_EQUAL(find(&map, anonymous)->inode, 0);
	CU_ASSERT_EQUAL(find(&map, nothing)->kind, PROCESS_MAPPING_ANONYMOUS);
	CU_ASSERT(!find(&map, nothing)->read && !find(&map, nothing)->write && !find(&map, nothing)->execute);
	CU_ASSERT(find(&map, shared)->shared && find(&map, shared)->kind == PROCESS_MAPPING_FILE);
	CU_ASSERT(find(&map, memory)->deleted && find(&map, memory)->execute);
	CU_ASSERT_STRING_EQUAL(find(&map, memory)->path, "/memfd:odd \n name");
	process_map_free(&map);
}

static void thousands_of_mappings_are_read(void)
{
	enum { MAPPINGS = 12000 };
	struct process_map map;
	char *area = mmap(NULL, (size_t)MAPPINGS * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t found = 0;

	CU_ASSERT_NOT_EQUAL_FATAL(area, MAP_FAILED);
	for (size_t i = 0; i < MAPPINGS; i += 2)
		CU_ASSERT_EQUAL(mprotect(area + i * PAGE, PAGE, PROT_NONE), 0);
	CU_ASSERT_EQUAL_FATAL(process_map_read(&map), 0);
	CU_ASSERT(map.count > MAPPINGS);
	for (size_t i = 0; i < map.count; i++)
		if (map.mappings[i].start >= (uintptr_t)area &&
		    map.mappings[i].end <= (uintptr_t)area + MAPPINGS * PAGE)
			found += map.mappings[i].end - map.mappings[i].start == PAGE;
	CU_ASSERT(found >= MAPPINGS - 2);
	process_map_free(&map);
}

/* The raw text as it is now, read without changing any mapping. */
static size_t read_raw(char *to, size_t room)
{
	int fd = open("/proc/self/maps", O_RDONLY);
	size_t length = 0;
	ssize_t got;

	while ((got = read(fd, to + length, room - length)) > 0)
		length += (size_t)got;
	close(fd);
	return length;
}

static void reading_the_map_does_not_disturb_it(void)
{
	static char raw[1 << 20];
	struct process_map map;
	size_t line = 0;

	CU_ASSERT_EQUAL_FATAL(process_map_read(&map), 0);

	size_t length = read_raw(raw, sizeof(raw) - 1);

	for (char *at = raw; at < raw + length; at = strchr(at, '\n') + 1, line++) {
		uintptr_t start = strtoul(at, &at, 16), end = strtoul(at + 1, &at, 16);

		CU_ASSERT_FATAL(line < map.count);
		CU_ASSERT_EQUAL(map.mappings[line].start, start);
		CU_ASSERT_EQUAL(map.mappings[line].end, end);
		CU_ASSERT_EQUAL(map.mappings[line].write, at[2] == 'w');
	}
	CU_ASSERT_EQUAL(line, map.count);

	const struct process_mapping *own = find(&map, map.buffer);

	CU_ASSERT(own->kind == PROCESS_MAPPING_ANONYMOUS && own->end >= (uintptr_t)map.buffer + map.buffer_size);
	process_map_free(&map);
}

static void a_map_that_cannot_be_read_is_empty(void)
{
	struct process_map map;

	struct rlimit limit, none;

	CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = 0;
	CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_NOFILE, &none), 0);
	errno = 0;
	CU_ASSERT_EQUAL(process_map_read(&map), -1);
	CU_ASSERT_EQUAL(errno, EMFILE);
	CU_ASSERT(!map.count && !map.mappings && !map.buffer);
	CU_ASSERT_EQUAL(process_thread_count(), -1);
	CU_ASSERT_EQUAL(errno, EMFILE);
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
	CU_ASSERT_EQUAL(process_map_read(&map), 0);
	process_map_free(&map);
}

static atomic_bool may_end;

static void withheld_memory_is_marked(void)
{
	static const int advice[] = { MADV_DONTDUMP, MADV_WIPEONFORK, MADV_NORMAL };
	struct process_map map;
	char *pages[3];

	for (unsigned i = 0; i < 3; i++) {
		pages[i] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CU_ASSERT_PTR_NOT_EQUAL_FATAL(pages[i], MAP_FAILED);
		CU_ASSERT_EQUAL(madvise(pages[i], 4096, advice[i]), 0);
	}
	CU_ASSERT_EQUAL_FATAL(process_map_read(&map), 0);
	CU_ASSERT_EQUAL(process_map_mark_withheld(&map), 0);
	for (unsigned i = 0; i < 3; i++) {
		const struct process_mapping *found = process_map_find(&map, (uintptr_t)pages[i]);

		CU_ASSERT_PTR_NOT_NULL_FATAL(found);
		CU_ASSERT_EQUAL(found->withheld, i < 2);
	}
	CU_ASSERT_FALSE(process_map_find(&map, (uintptr_t)main)->withheld);
	process_map_free(&map);
}

static void *wait_for_the_end(void *unused)
{
	while (!may_end)
		usleep(1000);
	return unused;
}

static void *end_at_once(void *unused)
{
	return unused;
}

static void threads_are_counted(void)
{
	pthread_t threads[5];

	CU_ASSERT_EQUAL(process_thread_count(), 1);
	may_end = false;
	for (unsigned i = 0; i < 5; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, wait_for_the_end, NULL), 0);
	CU_ASSERT_EQUAL(process_thread_count(), 6);
	may_end = true;
	for (unsigned i = 0; i < 5; i++)
		pthread_join(threads[i], NULL);
	CU_ASSERT_EQUAL(process_thread_count(), 1);
	for (unsigned i = 0; i < 200; i++) {
		CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[0], NULL, end_at_once, NULL), 0);
		pthread_join(threads[0], NULL);
		CU_ASSERT_EQUAL(process_thread_count(), 1);
	}
}

static const struct harness_test tests[] = {
	{ "text, data, heap, stack and vDSO are recognised", the_parts_of_the_process_are_recognised, HARNESS_FORK },
	{ "odd and deleted names are read as they are", odd_names_are_read_as_they_are, HARNESS_FORK },
	{ "a path of thousands of characters is read", paths_of_any_length_are_read, HARNESS_FORK },
	{ "anonymous, shared, named and memfd memory are told apart", kinds_of_memory_are_told_apart, HARNESS_FORK },
	{ "thousands of mappings are read", thousands_of_mappings_are_read, HARNESS_FORK },
	{ "the map is exact when it is returned", reading_the_map_does_not_disturb_it, HARNESS_FORK },
	{ "memory withheld from dumps and children is marked", withheld_memory_is_marked, HARNESS_FORK },
	{ "a map that cannot be read is empty", a_map_that_cannot_be_read_is_empty, HARNESS_FORK },
	{ "threads are counted, joined ones not", threads_are_counted, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
