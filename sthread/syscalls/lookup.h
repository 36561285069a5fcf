/*
 * lookup.h - where the names of files are looked up: beneath directories that the policy grants, and nowhere else.
 *
 * A name is looked up by the kernel, with RESOLVE_BENEATH from the granted directory, and never in two steps: what it
 * leads to is held by an O_PATH descriptor, or its parent directory is, before anything is done to it.
 */
#ifndef STHREAD_LOOKUP_H
#define STHREAD_LOOKUP_H

#include "syscalls/call.h"

/* The places of one name: a directory that the caller holds, or each granted directory in turn. */
struct lookup {
	struct call *call;
	char path[PATH_ROOM];
	const struct open_file *from; /* the directory that the caller named, NULL: the grants */
	unsigned next;
	/* The place: */
	const struct open_file *directory;
	const char *name;
	int rights;
};

/* Reads the name from the caller.  at: the directory that the caller names, or AT_FDCWD.
 * Returns 0, -EFAULT, -ENAMETOOLONG, -ENOENT (no name), -EBADF, -ENOTDIR, or -EACCES: of a directory that was granted as
 * a descriptor no name is looked up. */
long lookup_begin(struct lookup *lookup, struct call *call, uint64_t at, uint64_t path);
/* Goes to the next place where these rights are granted; false: there is none. */
bool lookup_next(struct lookup *lookup, int rights);
/* Does something at each place until it comes out otherwise than by -ENOENT.  -EACCES if there is no place. */
long lookup_each(struct lookup *lookup, int rights, long (*act)(const struct lookup *, void *), void *argument);
/* Whether the name is the absolute path of a directory above a granted one.  That these are directories is all that can
 * be learned of them: so much the granted path says itself, and programs that walk down a path need it. */
bool lookup_is_above(const struct lookup *lookup);

/* Opens a name beneath a directory: returns a descriptor of ours, or an error.  Devices, and file systems whose files are
 * not data, are refused with -EACCES, and so are names that lead out of the directory. */
long open_beneath(const struct call *call, const struct open_file *directory, const char *name, uint64_t flags,
		  uint64_t mode);
/* Holds what the name leads to at this place, with O_PATH. */
long lookup_hold(const struct lookup *lookup, bool follow);

#endif
