/*
 * maps.h - the text of /proc/self/maps: a parser of its lines, and a reader for code that must not use libc.
 *
 * Async-signal-safe, all of it: raw system calls, no allocation, no lock, errno is left alone.
 */
#ifndef DUNE_MAPS_H
#define DUNE_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One mapping. */
struct dune_maps_line {
	uintptr_t start, end;
	uint64_t offset; /* in the file */
	unsigned device_major, device_minor;
	uint64_t inode; /* 0 if there is no file */
	bool read, write, execute, shared;
	bool cut;   /* the path is longer than the reader's buffer, and only begins like this */
	char *path; /* as the kernel writes it; "" if there is none; within the line */
};

/* Understands one line, whose newline has been replaced by a NUL.  Returns false if it cannot. */
bool dune_maps_parse(char *line, struct dune_maps_line *parsed) __attribute__((warn_unused_result));

/* What a path of a line stands for: PROCMAP_TYPE_... (dune.h).  A file is named by an absolute path. */
int dune_maps_type(const char *path);

/* Puts the newlines of a file's name back, which the kernel writes as \012; in place, it can only get shorter.  A name that has
 * these four characters is not told apart: a path is a description. */
void dune_maps_restore_newlines(char *path);

/*
 * Reads line by line through a buffer of the caller's.  Mappings that change meanwhile are seen as they were or as they
 * are; those that do not are all seen.
 */
enum {
	DUNE_MAPS_ROOM_MIN = 256 /* bytes that a buffer must have: all of a line but its path */
};

struct dune_maps_reader {
	int fd;
	char *buffer;
	size_t room, have, at;
	bool skip; /* up to the next newline: the rest of a line that was cut */
};

/* Begins.  Returns 0, or the negative errno of open(2). */
int dune_maps_open(struct dune_maps_reader *reader, char *buffer, size_t room) __attribute__((warn_unused_result));
/* Reads one more line, which stays valid until the next call.  Returns 1, 0 after the last one, or a negative errno
 * (-EPROTO: a line that cannot be understood). */
int dune_maps_next(struct dune_maps_reader *reader, struct dune_maps_line *line) __attribute__((warn_unused_result));
void dune_maps_close(struct dune_maps_reader *reader);

/* The mapping that contains an address.  buffer: for the line.  Returns 1, 0 there is none, or a negative errno. */
int dune_maps_find(uintptr_t address, char *buffer, size_t room, struct dune_maps_line *line)
	__attribute__((warn_unused_result));

#endif
