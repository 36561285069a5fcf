/*
 * policy.h - the words inside an sc_t, and the open files it names.
 */
#ifndef STHREAD_POLICY_H
#define STHREAD_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sthread.h"

enum {
	POLICY_TAGS = 24,
	POLICY_FILES = 16,
	POLICY_PATHS = 8,
	POLICY_GATES = 16,
	POLICY_SYSTEM_CALLS = 512,
	POLICY_MAGIC = 0x5c01,
	POLICY_CPU_MILLISECONDS = 10000,
	POLICY_MEMORY = 256 << 20,
};

struct policy_tag {
	tag_t tag;
	int prot;
};
struct policy_file {
	int number; /* in the compartment */
	int file;   /* handle of a struct open_file */
	int prot;
};

struct policy {
	uint32_t magic;
	int32_t error; /* the first failure of an sc_*_add, as errno */
	uint32_t flags;
	uint32_t cpu_milliseconds;
	uint64_t memory;
	uint32_t tags, files, paths, gates;
	struct policy_tag tag[POLICY_TAGS];
	struct policy_file file[POLICY_FILES];
	struct policy_file path[POLICY_PATHS];
	cgate_t gate[POLICY_GATES];
	uint64_t system_calls[POLICY_SYSTEM_CALLS / 64];
};
_Static_assert(sizeof(struct policy) <= sizeof(sc_t), "a policy fits in an sc_t");

/* The numeric limits of a policy.  A field of struct policy with a row in this table (policy.c) has its default, is
 * compared by the subset rule, and is described.  In an sc_t, 0 stands for the default. */
struct policy_limit {
	const char *name, *unit;
	size_t offset, size; /* of a field of 4 or 8 bytes */
	uint64_t fallback;   /* the default */
};
extern const struct policy_limit policy_limits[];
extern const unsigned policy_limit_count;
/* The value that counts: the field's, or the default. */
uint64_t policy_limit_value(const struct policy *policy, const struct policy_limit *limit);

/* An open file that a policy or a compartment holds: the process's own duplicate, counted. */
struct open_file {
	int fd;
	unsigned references;
	unsigned mode;      /* st_mode */
	bool opened_inside; /* by a compartment: counted in supervisor.files_open */
	int handle;         /* its own */
	char *path;         /* granted directories: where it was, for absolute paths; else NULL */
};

/* Makes an open file from fd, which it then owns.  NULL with errno: fd is still the caller's. */
struct open_file *open_file_new(int fd);
void open_file_get(struct open_file *file);
/* Drops a reference; the last one closes. */
void open_file_put(struct open_file *file);

/* Reads a policy out of an sc_t.  Returns 0; -1 with EINVAL, or the policy's remembered failure. */
int policy_read(const sc_t *sc, struct policy *policy);
bool policy_allows_call(const struct policy *policy, long number);
/* Whether the gates of the policy are still there.  Caller holds the supervisor lock. */
bool policy_gates_exist(const struct policy *policy);
bool policy_allows_gate(const struct policy *policy, cgate_t gate);

/*
 * Rights only shrink: whether child grants nothing that parent does not.  Returns 0; or -1 with EPERM, and
 * dune_error() names the right that the parent lacks.
 *   tags       the same handle, the same rights or fewer (a copy on write needs only PROT_READ in the parent)
 *   files      the same open file, whichever duplicate of it and under whichever number; rights likewise
 *   paths      the same directory through the same mount; one beneath a directory of the parent does not count
 *   calls, gates
 *   flags      SC_KILL binds the child as well
 *   limits     at most the parent's; one that is not set counts as its default
 * A file that the child names and that is gone is refused; one of the parent is no right.
 * Caller holds the supervisor lock.
 */
int policy_check_subset(const struct policy *child, const struct policy *parent);

/* What policies with the same structure have in common, whichever tags and files they name: the pool's key. */
uint64_t policy_shape(const struct policy *policy);

#endif
