/* maps.c - see maps.h. */
#include "elf/maps.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "dune.h"
#include "placement/system_call.h"

/* ---- one line ---------------------------------------------------------------------------------------- */

/* Takes one number and the character after it. */
static bool take_number(char **at, unsigned base, char after, uint64_t *number)
{
	const char *start = *at;
	*number = 0;
	for (;; ++*at) {
		char c = **at;
		unsigned digit = c >= '0' && c <= '9' ? (unsigned)(c - '0') :
				 c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10 :
							16;
		if (digit >= base)
			break;
		if (*number > (UINT64_MAX - digit) / base)
			return false;
		*number = *number * base + digit;
	}
	if (*at == start || **at != after)
		return false;
	*at += after != 0;
	return true;
}

/* Takes one character that is either yes or no. */
static bool take_flag(char **at, char yes, char no, bool *flag)
{
	if (**at != yes && **at != no)
		return false;
	*flag = *(*at)++ == yes;
	return true;
}

/* The inode ends the line, or a blank follows and pads to the path. */
static bool take_inode(char **at, uint64_t *inode)
{
	char *begin = *at;
	if (take_number(at, 10, ' ', inode))
		return true;
	*at = begin;
	return take_number(at, 10, 0, inode);
}

bool dune_maps_parse(char *line, struct dune_maps_line *parsed)
{
	uint64_t start, end, major, minor;
	char *at = line;
	*parsed = (struct dune_maps_line){ 0 };
	if (!take_number(&at, 16, '-', &start) || !take_number(&at, 16, ' ', &end) || start >= end ||
	    !take_flag(&at, 'r', '-', &parsed->read) || !take_flag(&at, 'w', '-', &parsed->write) ||
	    !take_flag(&at, 'x', '-', &parsed->execute) || !take_flag(&at, 's', 'p', &parsed->shared) || *at++ != ' ')
		return false;
	if (!take_number(&at, 16, ' ', &parsed->offset) || !take_number(&at, 16, ':', &major) ||
	    !take_number(&at, 16, ' ', &minor) || major > UINT32_MAX || minor > UINT32_MAX ||
	    !take_inode(&at, &parsed->inode))
		return false;
	while (*at == ' ')
		at++;
	parsed->start = start;
	parsed->end = end;
	parsed->device_major = (unsigned)major;
	parsed->device_minor = (unsigned)minor;
	parsed->path = at;
	return true;
}

int dune_maps_type(const char *path)
{
	static const struct {
		const char *path;
		bool is_prefix;
		int type;
	} specials[] = {
		{ "[heap]", false, PROCMAP_TYPE_HEAP },     { "[stack]", false, PROCMAP_TYPE_STACK },
		{ "[vdso]", false, PROCMAP_TYPE_VDSO },     { "[vvar]", false, PROCMAP_TYPE_VVAR },
		{ "[vvar_", true, PROCMAP_TYPE_VVAR },      { "[vsyscall]", false, PROCMAP_TYPE_VSYSCALL },
		{ "[anon:", true, PROCMAP_TYPE_ANONYMOUS },
	};
	if (!*path)
		return PROCMAP_TYPE_ANONYMOUS;
	if (*path == '/')
		return PROCMAP_TYPE_FILE;
	for (size_t i = 0; i < sizeof specials / sizeof *specials; i++)
		if (specials[i].is_prefix ? !strncmp(path, specials[i].path, strlen(specials[i].path)) :
					    !strcmp(path, specials[i].path))
			return specials[i].type;
	return PROCMAP_TYPE_UNKNOWN;
}

void dune_maps_restore_newlines(char *path)
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
	*to = 0;
}

/* ---- the file ---------------------------------------------------------------------------------------- */

int dune_maps_open(struct dune_maps_reader *reader, char *buffer, size_t room)
{
	long fd = dune_system_call(SYS_openat, AT_FDCWD, (long)"/proc/self/maps", O_RDONLY | O_CLOEXEC, 0, 0, 0);
	*reader = (struct dune_maps_reader){ .fd = (int)fd, .buffer = buffer, .room = room };
	return fd < 0 ? (int)fd : 0;
}

void dune_maps_close(struct dune_maps_reader *reader)
{
	dune_system_call(SYS_close, reader->fd, 0, 0, 0, 0, 0);
}

/* Moves what is left to the front and reads more behind it, with room for a NUL.  Returns the number of bytes, 0 at the
 * end of the file or without room, or a negative errno. */
static long fill(struct dune_maps_reader *reader)
{
	long got;
	memmove(reader->buffer, reader->buffer + reader->at, reader->have - reader->at);
	reader->have -= reader->at;
	reader->at = 0;
	size_t free = reader->room - 1 - reader->have;
	if (!free)
		return 0;
	do
		got = dune_system_call(SYS_read, reader->fd, (long)(reader->buffer + reader->have), (long)free, 0, 0,
				       0);
	while (got == -EINTR);
	if (got > 0)
		reader->have += (size_t)got;
	return got;
}

int dune_maps_next(struct dune_maps_reader *reader, struct dune_maps_line *line)
{
	for (;;) {
		char *begin = reader->buffer + reader->at;
		char *end = memchr(begin, '\n', reader->have - reader->at);
		if (end) {
			reader->at = (size_t)(end + 1 - reader->buffer);
			if (reader->skip) {
				reader->skip = false;
				continue;
			}
			*end = 0;
			return dune_maps_parse(begin, line) ? 1 : -EPROTO;
		}
		if (reader->skip)
			reader->at = reader->have;
		long got = fill(reader);
		if (got < 0)
			return (int)got;
		if (got)
			continue;
		if (!reader->have)
			return 0;
		if (reader->have < reader->room - 1)
			return -EPROTO; /* the file ends within a line */
		reader->buffer[reader->have] = 0;
		reader->at = reader->have;
		reader->skip = true;
		if (!dune_maps_parse(reader->buffer, line))
			return -EPROTO;
		line->cut = true;
		return 1;
	}
}

int dune_maps_find(uintptr_t address, char *buffer, size_t room, struct dune_maps_line *line)
{
	struct dune_maps_reader reader;
	int result = dune_maps_open(&reader, buffer, room);
	if (result)
		return result;
	do
		result = dune_maps_next(&reader, line);
	while (result == 1 && line->end <= address);
	dune_maps_close(&reader);
	if (result == 1 && line->start > address)
		return 0;
	return result;
}
