/*
 * environment.c - the picture of the arguments and the environment that compartments see.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "environment.h"

#define PAGE 4096

extern char **environ;

/* Where the kernel has put things when the program was started. */
struct layout {
	uintptr_t arguments;          /* argc, then the pointers; 0 if they are not where they should be */
	uintptr_t first_argument;     /* the string of argv[0] */
	uintptr_t first_argument_end; /* its NUL lies before this */
	uintptr_t arguments_end;      /* of the strings */
	uintptr_t strings_end;        /* of the environment's strings */
};

/* The fields of /proc/self/stat, counted as in proc(5). */
enum {
	STAT_START_STACK = 28,
	STAT_ARG_START = 48,
	STAT_ARG_END = 49,
	STAT_ENV_END = 51,
	STAT_LAST,
};

static int read_stat(uint64_t fields[STAT_LAST])
{
	char text[2048];
	size_t length = 0;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	for (;;) {
		ssize_t got = read(fd, text + length, sizeof(text) - 1 - length);

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
	text[length] = '\0';

	/* The name of the program is in parentheses and may hold any character: field 3 is behind the last one. */
	char *at = strrchr(text, ')');
	int field = 3;

	for (at = at ? at + 1 : text + length; *at && field < STAT_LAST; field++) {
		at += strspn(at, " ");
		fields[field] = strtoull(at, NULL, 10);
		at += strcspn(at, " ");
	}
	if (field < STAT_LAST) {
		errno = ENOTSUP;
		return -1;
	}
	return 0;
}

/* Whether the words at `arguments` are argc, that many pointers of which the first is as it should be, and NULL. */
static bool are_arguments(uintptr_t arguments, const struct layout *layout)
{
	if (!arguments || arguments % sizeof(uintptr_t) || arguments >= layout->first_argument)
		return false;

	const uintptr_t *words = (const uintptr_t *)arguments;
	uintptr_t most = (layout->first_argument - arguments) / sizeof(uintptr_t);

	return most > 2 && words[0] >= 1 && words[0] <= most - 2 && words[1 + words[0]] == 0;
}

static int read_layout(struct layout *layout)
{
	uint64_t fields[STAT_LAST] = { 0 };

	if (read_stat(fields))
		return -1;
	layout->first_argument = fields[STAT_ARG_START];
	layout->arguments_end = fields[STAT_ARG_END];
	layout->strings_end = fields[STAT_ENV_END];
	if (!layout->first_argument || layout->arguments_end < layout->first_argument ||
	    layout->strings_end < layout->arguments_end) {
		errno = ENOTSUP;
		return -1;
	}
	layout->arguments = are_arguments(fields[STAT_START_STACK], layout) ? fields[STAT_START_STACK] : 0;

	/* A program may have written a title over its arguments, beyond the end of argv[0]: none of that.  Where the
	 * second argument has been moved away nothing tells any more where the first one ended. */
	layout->first_argument_end = layout->first_argument;
	if (layout->arguments) {
		const uintptr_t *words = (const uintptr_t *)layout->arguments;
		uintptr_t behind = words[0] > 1 ? words[2] : layout->arguments_end;

		if (behind > layout->first_argument && behind <= layout->arguments_end)
			layout->first_argument_end = behind;
	}
	return 0;
}

static uintptr_t layout_start(const struct layout *layout)
{
	uintptr_t start = layout->arguments ? layout->arguments : layout->first_argument;

	return start & ~(uintptr_t)(PAGE - 1);
}

bool environment_is_allowed(const char *string)
{
	return !strncmp(string, "LANG=", 5) || !strncmp(string, "TZ=", 3) ||
	       (!strncmp(string, "LC_", 3) && strchr(string, '='));
}

int environment_extent(uintptr_t *start)
{
	struct layout layout;

	if (read_layout(&layout))
		return -1;
	*start = layout_start(&layout);
	return 0;
}

/* Copies the string at address into the picture, if all of it lies before end. */
static void draw_string(uintptr_t start, uintptr_t end, void *picture, uintptr_t address)
{
	size_t length = strnlen((const char *)address, end - address);

	if (length < end - address)
		memcpy((char *)picture + (address - start), (const char *)address, length);
}

int environment_make_picture(uintptr_t start, uintptr_t end, void *picture)
{
	struct layout layout;

	if (read_layout(&layout))
		return -1;
	if (start % PAGE || end % PAGE || start > layout_start(&layout) || end < layout.strings_end) {
		errno = EINVAL;
		return -1;
	}

	uintptr_t array = (uintptr_t)environ;
	size_t count = 0, kept = 0;

	draw_string(start, layout.first_argument_end, picture, layout.first_argument);
	if (layout.arguments) {
		uintptr_t *words = (uintptr_t *)((char *)picture + (layout.arguments - start));

		words[0] = 1;
		words[1] = layout.first_argument;
	}
	while (environ && environ[count])
		count++;

	/* The terminating NULL must lie in the range as well. */
	bool draw_array = array >= start && array < end && count < (end - array) / sizeof(char *);
	uintptr_t data_end = (uintptr_t)sbrk(0);

	for (size_t i = 0; i < count; i++) {
		uintptr_t string = (uintptr_t)environ[i];
		bool in_range = string >= start && string < end;

		if (!environment_is_allowed(environ[i]))
			continue;
		if (in_range)
			draw_string(start, end, picture, string);
		if (draw_array && (in_range || string < data_end))
			((uintptr_t *)((char *)picture + (array - start)))[kept++] = string;
	}
	return 0;
}

int environment_forbidden_strings(environment_string_fn *report, void *argument)
{
	struct layout layout;

	if (read_layout(&layout))
		return -1;

	uintptr_t start = layout_start(&layout);

	for (char **variable = environ; variable && *variable; variable++) {
		uintptr_t string = (uintptr_t)*variable;

		if ((string < start || string >= layout.strings_end) && !environment_is_allowed(*variable))
			report(string, strlen(*variable) + 1, argument);
	}
	if (!layout.arguments)
		return 0;

	const uintptr_t *words = (const uintptr_t *)layout.arguments;

	for (uintptr_t i = 1; i < words[0]; i++)
		if (words[1 + i] && (words[1 + i] < start || words[1 + i] >= layout.strings_end))
			report(words[1 + i], strlen((const char *)words[1 + i]) + 1, argument);
	return 0;
}
