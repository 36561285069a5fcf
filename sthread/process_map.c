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

#include "process_map.h"

#define FIRST_BUFFER (256 * 1024)
/* No line is shorter than this: "0-1 r--p 0 0:0 0\n" with the paddings that the kernel has always used. */
#define SHORTEST_LINE 17
#define THREAD_COUNT_TRIES 20

struct text {
	const char *at, *end;
};

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

/* Takes one number and the character after it. */
static bool take_number(struct text *text, unsigned base, char after, uint64_t *number)
{
	const char *start = text->at;

	*number = 0;
	for (; text->at < text->end; text->at++) {
		char c = *text->at;
		unsigned digit = c >= '0' && c <= '9' ? (unsigned)(c - '0') :
				 c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10 :
							16;

		if (digit >= base)
			break;
		if (*number > (UINT64_MAX - digit) / base)
			return false;
		*number = *number * base + digit;
	}
	if (text->at == start || text->at == text->end || *text->at != after)
		return false;
	text->at++;
	return true;
}

/* Takes one character that is either yes or no. */
static bool take_flag(struct text *text, char yes, char no, bool *flag)
{
	if (text->at == text->end || (*text->at != yes && *text->at != no))
		return false;
	*flag = *text->at++ == yes;
	return true;
}

/* Restores newlines in the path, in place: it can only get shorter. */
static void restore_newlines(char *path)
{
	char *to = path;

	for (const char *from = path; *from; to++) {
		if (!strncmp(from, "\\012", 4)) {
			*to = '\n';
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
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

static enum process_mapping_kind kind_of(const char *path)
{
	static const struct {
		const char *path;
		bool is_prefix;
		enum process_mapping_kind kind;
	} specials[] = {
		{ "[heap]", false, PROCESS_MAPPING_HEAP },     { "[stack]", false, PROCESS_MAPPING_STACK },
		{ "[vdso]", false, PROCESS_MAPPING_VDSO },     { "[vvar]", false, PROCESS_MAPPING_VVAR },
		{ "[vvar_", true, PROCESS_MAPPING_VVAR },      { "[vsyscall]", false, PROCESS_MAPPING_VSYSCALL },
		{ "[anon:", true, PROCESS_MAPPING_ANONYMOUS },
	};

	if (!*path)
		return PROCESS_MAPPING_ANONYMOUS;
	if (*path == '/')
		return PROCESS_MAPPING_FILE;
	for (size_t i = 0; i < sizeof(specials) / sizeof(specials[0]); i++)
		if (specials[i].is_prefix ? !strncmp(path, specials[i].path, strlen(specials[i].path)) :
					    !strcmp(path, specials[i].path))
			return specials[i].kind;
	return PROCESS_MAPPING_OTHER_SPECIAL;
}

/* Understands one line, whose end is already a NUL. */
static bool parse_line(char *line, struct process_mapping *mapping)
{
	struct text text = { line, line + strlen(line) + 1 };
	uint64_t start, end, offset, major, minor, inode;

	if (!take_number(&text, 16, '-', &start) || !take_number(&text, 16, ' ', &end) || start >= end ||
	    !take_flag(&text, 'r', '-', &mapping->read) || !take_flag(&text, 'w', '-', &mapping->write) ||
	    !take_flag(&text, 'x', '-', &mapping->execute) || !take_flag(&text, 's', 'p', &mapping->shared) ||
	    *text.at != ' ')
		return false;
	text.at++;
	if (!take_number(&text, 16, ' ', &offset) || !take_number(&text, 16, ':', &major) ||
	    !take_number(&text, 16, ' ', &minor))
		return false;

	/* The inode ends the line, or a blank follows and pads to the path. */
	struct text rest = text;

	if (!take_number(&text, 10, '\0', &inode)) {
		text = rest;
		if (!take_number(&text, 10, ' ', &inode))
			return false;
	} else {
		text.at--;
	}
	while (*text.at == ' ')
		text.at++;

	char *path = line + (text.at - line);

	mapping->start = start;
	mapping->end = end;
	mapping->offset = offset;
	mapping->device = makedev((unsigned)major, (unsigned)minor);
	mapping->inode = inode;
	mapping->kind = kind_of(path);
	mapping->deleted = false;
	if (mapping->kind == PROCESS_MAPPING_FILE) {
		restore_newlines(path);
		mapping->deleted = take_deleted(path, mapping->inode);
	}
	mapping->path = path;
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
