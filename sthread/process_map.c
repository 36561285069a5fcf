/*
 * process_map.c - reads /proc/self/maps and /proc/self/task.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "elf/maps.h"
#include "process_map.h"

#define FIRST_BUFFER (256 * 1024)
/* No line is shorter than this: "0-1 r--p 0 0:0 0\n" with the paddings that the kernel has always used. */
#define SHORTEST_LINE 17
#define THREAD_COUNT_TRIES 20

/* Reads the whole of /proc/self/maps.  Returns the number of bytes, room if it did not fit, or -1. */
static ssize_t read_maps(char *to, size_t room)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	size_t length = 0;

	if (fd < 0)
		return -1;
	while (length < room) {
		ssize_t got = read(fd, to + length, room - length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			int error = errno;

			close(fd);
			errno = error;
			return -1;
		}
		if (!got)
			break;
		length += (size_t)got;
	}
	close(fd);
	return (ssize_t)length;
}

/* Takes the mark of a file without a name off the path, unless it is part of the name. */
static bool take_deleted(char *path, ino_t inode)
{
	static const char mark[] = " (deleted)";
	size_t length = strlen(path);
	struct stat status;

	if (length < sizeof(mark) || strcmp(path + length - (sizeof(mark) - 1), mark))
		return false;
	if (!stat(path, &status) && status.st_ino == inode)
		return false;
	path[length - (sizeof(mark) - 1)] = '\0';
	return true;
}

/* Understands one line, whose end is already a NUL. */
static bool parse_line(char *line, struct process_mapping *mapping)
{
	struct dune_maps_line parsed;

	if (!dune_maps_parse(line, &parsed))
		return false;
	mapping->start = parsed.start;
	mapping->end = parsed.end;
	mapping->read = parsed.read;
	mapping->write = parsed.write;
	mapping->execute = parsed.execute;
	mapping->shared = parsed.shared;
	mapping->offset = parsed.offset;
	mapping->device = makedev(parsed.device_major, parsed.device_minor);
	mapping->inode = parsed.inode;
	mapping->kind = (enum process_mapping_kind)dune_maps_type(parsed.path);
	mapping->deleted = false;
	if (mapping->kind == PROCESS_MAPPING_FILE) {
		dune_maps_restore_newlines(parsed.path);
		mapping->deleted = take_deleted(parsed.path, mapping->inode);
	}
	mapping->path = parsed.path;
	return true;
}

/* Understands the text; there is room for every line in the array. */
static int parse_maps(char *text, size_t length, struct process_map *map)
{
	char *end = text + length;

	for (char *line = text, *line_end; line < end; line = line_end + 1) {
		line_end = memchr(line, '\n', (size_t)(end - line));
		if (!line_end)
			break;
		*line_end = '\0';
		if (line_end - line < SHORTEST_LINE - 1 || !parse_line(line, &map->mappings[map->count]))
			break;
		map->count++;
		if (line_end + 1 == end)
			return 0;
	}
	errno = EPROTO;
	return -1;
}

int process_map_read(struct process_map *map)
{
	*map = (struct process_map){ 0 };
	for (size_t room = FIRST_BUFFER;; room *= 2) {
		size_t lines = room / SHORTEST_LINE + 1;
		size_t array = lines * sizeof(struct process_mapping);

		map->buffer_size = (array + room + 4095) & ~(size_t)4095;
		map->buffer = mmap(NULL, map->buffer_size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (map->buffer == MAP_FAILED) {
			*map = (struct process_map){ 0 };
			return -1;
		}
		map->mappings = map->buffer;

		char *text = (char *)map->buffer + array;
		ssize_t length = read_maps(text, room);

		if (length >= 0 && (size_t)length < room) {
			if (!parse_maps(text, (size_t)length, map))
				return 0;
			length = -1;
		}

		int error = errno;

		process_map_free(map);
		if (length < 0) {
			errno = error;
			return -1;
		}
	}
}

/* One line of /proc/self/smaps: the first of a mapping, or one about it. */
static void mark_line(const struct process_map *map, const char *line, struct process_mapping **current)
{
	static const char flags[] = "VmFlags:";
	if (!strncmp(line, flags, sizeof(flags) - 1)) {
		if (*current && (strstr(line, " dd") || strstr(line, " wf")))
			(*current)->withheld = true;
	} else if (strchr("0123456789abcdef", line[0]) && line[0]) {
		*current = (struct process_mapping *)process_map_find(map, strtoul(line, NULL, 16));
	}
}

int process_map_mark_withheld(struct process_map *map)
{
	char text[3 * 4096 + 1]; /* more than the longest line: a path and some numbers */
	size_t have = 0;
	struct process_mapping *current = NULL;
	int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
	ssize_t got;
	if (fd < 0)
		return -1;
	while ((got = read(fd, text + have, sizeof text - 1 - have)) > 0 || (got < 0 && errno == EINTR)) {
		have += got > 0 ? (size_t)got : 0;
		char *line = text, *end;
		while ((end = memchr(line, '\n', have - (size_t)(line - text)))) {
			*end = 0;
			mark_line(map, line, &current);
			line = end + 1;
		}
		have -= (size_t)(line - text);
		memmove(text, line, have);
		if (have == sizeof text - 1)
			have = 0;
	}
	int error = errno;
	close(fd);
	errno = error;
	return got < 0 ? -1 : 0;
}

void process_map_free(struct process_map *map)
{
	if (map->buffer)
		munmap(map->buffer, map->buffer_size);
	*map = (struct process_map){ 0 };
}

const struct process_mapping *process_map_find(const struct process_map *map, uintptr_t address)
{
	size_t low = 0, high = map->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (address < map->mappings[middle].start)
			high = middle;
		else if (address >= map->mappings[middle].end)
			low = middle + 1;
		else
			return &map->mappings[middle];
	}
	return NULL;
}

/* Whether a thread is KVM's own: recent kernels (6.12 has it) make one in the process that opens a virtual machine.  It
 * runs no user code and has no memory of its own. */
static bool is_thread_of_kvm(const char *thread)
{
	static const char name[] = "/comm", kvm[] = "kvm-nx-lpage-re\n";
	char path[64] = "/proc/self/task/", text[32];
	size_t prefix = strlen(path), length = strlen(thread);

	if (prefix + length + sizeof(name) > sizeof(path))
		return false;
	memcpy(path + prefix, thread, length);
	memcpy(path + prefix + length, name, sizeof(name));
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text));

	if (fd >= 0)
		close(fd);
	return got == sizeof(kvm) - 1 && memcmp(text, kvm, sizeof(kvm) - 1) == 0;
}

/* One look at /proc/self/task. */
static int count_threads(void)
{
	struct entry {
		uint64_t inode;
		int64_t offset;
		uint16_t length;
		uint8_t type;
		char name[];
	};
	_Alignas(8) char buffer[4096];
	int fd = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int threads = 0;

	if (fd < 0)
		return -1;
	for (;;) {
		long got = syscall(SYS_getdents64, fd, buffer, sizeof(buffer));

		if (got < 0) {
			int error = errno;

			close(fd);
			errno = error;
			return -1;
		}
		if (!got)
			break;
		for (long at = 0; at < got;) {
			const struct entry *entry = (const struct entry *)(buffer + at);

			threads += entry->name[0] != '.' && !is_thread_of_kvm(entry->name);
			at += entry->length;
		}
	}
	close(fd);
	return threads;
}

int process_thread_count(void)
{
	int threads = count_threads();

	for (int i = 0; i < THREAD_COUNT_TRIES && threads > 1; i++) {
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		threads = count_threads();
	}
	return threads;
}
