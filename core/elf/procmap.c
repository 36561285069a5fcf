/* procmap.c - what is mapped in this process: dune_procmap_*() of dune.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "dune.h"
#include "elf/maps.h"
#include "kvm/machine.h"
#include "placement/system_call.h"

#define FIRST_BUFFER (256 * 1024)

/* The text of all lines, in a mapping of its own. */
struct text {
	char *at;
	size_t length, room;
};

/* Reads the whole file.  Returns 1, 0 if it does not fit, or a negative errno. */
static int read_all(struct text *text)
{
	struct dune_maps_reader reader;
	int result = dune_maps_open(&reader, text->at, text->room);
	if (result)
		return result;
	for (text->length = 0; text->length < text->room;) {
		long got = dune_system_call(SYS_read, reader.fd, (long)(text->at + text->length),
					    (long)(text->room - text->length), 0, 0, 0);
		if (got == -EINTR)
			continue;
		if (got <= 0) {
			result = got ? (int)got : 1;
			break;
		}
		text->length += (size_t)got;
	}
	dune_maps_close(&reader);
	return result;
}

/* Makes a buffer that is large enough, and reads into it.  Returns 0 or a negative errno. */
static int take_text(struct text *text)
{
	for (text->room = FIRST_BUFFER;; text->room *= 2) {
		text->at = mmap(NULL, text->room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (text->at == MAP_FAILED)
			return -errno;
		int result = read_all(text);
		if (result == 1)
			return 0;
		munmap(text->at, text->room);
		if (result < 0)
			return result;
	}
}

static void call(dune_procmap_cb callback, struct dune_procmap_entry entry, uintptr_t begin, uintptr_t end)
{
	if (begin >= end)
		return;
	entry.begin = begin;
	entry.end = end;
	callback(&entry);
}

/* Tells of one mapping.  The buffer is new: the kernel may have joined it with mappings beside it, which had no part of
 * it when the caller asked. */
static void tell(dune_procmap_cb callback, const struct text *text, const struct dune_maps_line *line)
{
	uintptr_t buffer = (uintptr_t)text->at, buffer_end = buffer + text->room;
	struct dune_procmap_entry entry = {
		.offset = line->offset,
		.r = line->read,
		.w = line->write,
		.x = line->execute,
		.p = !line->shared,
		.path = line->path,
		.type = dune_maps_type(line->path),
	};
	if (entry.type == PROCMAP_TYPE_FILE)
		dune_maps_restore_newlines(line->path);
	if (line->end <= buffer || line->start >= buffer_end) {
		call(callback, entry, line->start, line->end);
		return;
	}
	call(callback, entry, line->start, buffer);
	call(callback, entry, buffer_end, line->end);
}

void dune_procmap_iterate(dune_procmap_cb callback)
{
	struct text text = { 0 };
	int error = take_text(&text);
	if (error) {
		dune_fail(-error, "cannot read /proc/self/maps: %s", strerror(-error));
		return;
	}
	for (char *line = text.at, *end, *stop = text.at + text.length; line < stop; line = end + 1) {
		struct dune_maps_line parsed;
		end = memchr(line, '\n', (size_t)(stop - line));
		if (end)
			*end = 0;
		if (!end || !dune_maps_parse(line, &parsed)) {
			dune_fail(EPROTO, "a line of /proc/self/maps is not understood");
			break;
		}
		tell(callback, &text, &parsed);
	}
	munmap(text.at, text.room);
}

static void print(const struct dune_procmap_entry *entry)
{
	static const char *const types[] = {
		[PROCMAP_TYPE_UNKNOWN] = "unknown",     [PROCMAP_TYPE_FILE] = "file",
		[PROCMAP_TYPE_ANONYMOUS] = "anonymous", [PROCMAP_TYPE_HEAP] = "heap",
		[PROCMAP_TYPE_STACK] = "stack",         [PROCMAP_TYPE_VSYSCALL] = "vsyscall",
		[PROCMAP_TYPE_VDSO] = "vdso",           [PROCMAP_TYPE_VVAR] = "vvar",
	};
	printf("%012" PRIxPTR "-%012" PRIxPTR " %c%c%c%c %08" PRIx64 " %-9s", entry->begin, entry->end,
	       entry->r ? 'r' : '-', entry->w ? 'w' : '-', entry->x ? 'x' : '-', entry->p ? 'p' : 's', entry->offset,
	       types[entry->type]);
	if (*entry->path) {
		/* One line each, whatever a file is called. */
		putchar(' ');
		for (const char *c = entry->path; *c; c++)
			*c == '\n' ? fputs("\\012", stdout) : putchar(*c);
	}
	putchar('\n');
}

void dune_procmap_dump(void)
{
	dune_procmap_iterate(print);
}
