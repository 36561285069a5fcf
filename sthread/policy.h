/*
 * policy.h - policies: the words inside an sc_t, the form compartments hold them in, and the open files they name.
 */
#ifndef STHREAD_POLICY_H
#define STHREAD_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "sthread.h"

enum {
	POLICY_TAGS = 24, /* in an sc_t; a frozen policy has more */
	POLICY_FILES = 16,
	POLICY_PATHS = 8,
	POLICY_GATES = 16,
	POLICY_CONDITIONS = 10,
	POLICY_TAGS_MAX = 4096, /* in any policy */
	POLICY_GATES_MAX = 4096,
	POLICY_PATHS_MAX = 256,
	POLICY_CONDITIONS_MAX = 256,
	POLICY_PARTS_MAX = 1024, /* of a frozen policy */
	POLICY_SYSTEM_CALLS = 512,
	POLICY_MAGIC = 0x5c01,
	POLICY_CPU_MILLISECONDS = 10000,
	POLICY_MEMORY = 256 << 20,
	POLICY_DESCRIPTORS = 64,
};
#define POLICY_NO_LIMIT UINT32_MAX
#define POLICY_NO_LIMIT_WIDE UINT64_MAX

struct policy_tag {
	tag_t tag;
	int prot;
};
/* Two grants of one tag: the right to write is larger than that to write to copies. */
static inline int policy_join_rights(int one, int other)
{
	int both = one | other;
	return both & PROT_WRITE ? both & ~SC_COPY_ON_WRITE : both;
}
struct policy_file {
	int number; /* in the compartment */
	int file;   /* handle of a struct open_file */
	int prot;
};

/* A condition on a scalar argument of a system call; there is at least one argument for which it holds. */
struct policy_condition {
	uint64_t value, mask; /* mask: POLICY_MASKED_EQUAL only, else 0 */
	uint16_t call;        /* openat stands for open as well */
	uint8_t argument;
	uint8_t compare; /* enum sc_compare, or */
};
enum {
	POLICY_MASKED_EQUAL = SC_GREATER_OR_EQUAL + 1
};

/*
 * A policy.  In an sc_t, whose words may be copied like any others, the pointers are NULL and the lists follow
 * (struct policy_words).  policy_read() makes a view of that.  Compartments hold policies made by policy_new(), which
 * are counted and never change.
 */
struct policy {
	uint32_t magic;
	int32_t error; /* the first failure of an sc_*_add, as errno */
	uint32_t flags;
	uint32_t cpu_milliseconds;
	uint64_t memory;
	uint64_t calls;
	uint32_t wall_milliseconds;
	uint32_t descriptors;                           /* at a time */
	uint32_t tags, files, paths, gates, conditions; /* how many */
	int32_t template; /* handle + 1 of the template its lives start from; 0: the snapshot */
	uint32_t account; /* its name: number + 1 (account.c); 0: none */
	uint64_t system_calls[POLICY_SYSTEM_CALLS / 64];
	struct policy_tag *tag;
	struct policy_file *file, *path;
	cgate_t *gate;
	struct policy_condition *condition;
	const struct policy_index *index; /* NULL: the lists are searched */
};

/* What an sc_t holds. */
struct policy_words {
	struct policy head;
	struct policy_tag tag[POLICY_TAGS];
	struct policy_file file[POLICY_FILES];
	struct policy_file path[POLICY_PATHS];
	cgate_t gate[POLICY_GATES];
	struct policy_condition condition[POLICY_CONDITIONS];
};
_Static_assert(sizeof(struct policy_words) <= sizeof(sc_t), "a policy fits in an sc_t");

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

/* Files on which some calls work that do not on others. */
enum open_file_kind {
	FILE_PLAIN,
	FILE_EPOLL, /* made by a compartment, not granted */
	FILE_TIMER
};

/* An open file that a policy or a compartment holds: the process's own duplicate, counted. */
struct open_file {
	int fd;
	unsigned references;
	unsigned mode;      /* st_mode */
	bool opened_inside; /* by a compartment: counted in supervisor.files_open */
	bool passed_on;     /* by the gate that opened it, to an sthread of its own: shared from then on */
	enum open_file_kind kind;
	int beneath; /* a directory opened inside: the rights that its path grant gives beneath it */
	int handle;  /* its own */
	char *path;  /* granted directories: where it was, for absolute paths; else NULL */
};

/* Whether the compartment that has it shares it with nobody: then it may do more with it. */
static inline bool open_file_is_own(const struct open_file *file)
{
	return file->opened_inside && !file->passed_on;
}

/* Makes an open file from fd, which it then owns.  NULL with errno: fd is still the caller's. */
struct open_file *open_file_new(int fd);
/* Any thread that knows of a reference that stays meanwhile, without the lock too. */
void open_file_get(struct open_file *file);
/* Drops a reference; the last one closes. */
void open_file_put(struct open_file *file);

/* Makes *policy a view of *sc, with limits that were not set replaced by their defaults.  Its lists are those in *sc:
 * it is good for as long as *sc is left alone.  Returns 0; -1 with EINVAL, or the policy's remembered failure. */
int policy_read(const sc_t *sc, struct policy *policy);

/* The same with limits as they were set, */
int policy_view(const sc_t *sc, struct policy *policy);
/* and even if it failed. */
int policy_peek(const sc_t *sc, struct policy *policy);
/* Sets limits that were not set to their defaults; lowers limits to those that another policy sets. */
void policy_limits_default(struct policy *policy);
void policy_limits_lower(struct policy *policy, const struct policy *by);

/* ---- policies that compartments hold (policy_shared.c); caller holds the supervisor lock ------------ */

enum policy_use {
	POLICY_FOR_ONE_LIFE, /* keeps directories open; its files are opened by the life that begins with it */
	POLICY_KEPT,         /* for many lives: keeps files open too, and finds tags and gates by an index */
};
/* Copies a policy, with one reference.  NULL with EINVAL, the remembered failure, EBADF a file has been released, or
 * ENOMEM.  POLICY_FOR_ONE_LIFE allocates only when more of them are in use than ever before. */
const struct policy *policy_new(const sc_t *sc, enum policy_use use);
/* The same from a view. */
const struct policy *policy_new_from(const struct policy *from, enum policy_use use);
/* The policy behind a handle of sc_freeze(); NULL with EBADF.  The handle keeps the reference. */
const struct policy *policy_frozen(sc_frozen_t handle);
const struct policy *policy_get(const struct policy *policy);
void policy_put(const struct policy *policy);
/* Whether two policies say the same, word by word. */
bool policy_same_words(const struct policy *one, const struct policy *other);
/* Whether the policy, made by policy_new(), was made as POLICY_KEPT. */
bool policy_is_kept(const struct policy *policy);
/* Says of a frozen policy that no life will begin with it any more. */
void policy_retire(const struct policy *policy);
bool policy_is_retired(const struct policy *policy);
/* What policies with the same structure have in common, whichever tags and files they name: the pool's key.
 * Preconditions: made by policy_new(). */
uint64_t policy_shape(const struct policy *policy);

/* ---- what a policy says ----------------------------------------------------------------------------- */

bool policy_allows_call(const struct policy *policy, long number);
/* Whether a call, which is one that is served, may have conditions: quick.  Then policy_filter_passes() decides. */
bool policy_filters_call(const struct policy *policy, long number);
/* Whether the gates of the policy, made by policy_new(), are still there.  They are looked up again only after some
 * gate has been destroyed.  Caller holds the supervisor lock. */
bool policy_gates_exist(const struct policy *policy);
bool policy_allows_gate(const struct policy *policy, cgate_t gate);
/* The place of a tag in the policy's list, or -1. */
int policy_find_tag(const struct policy *policy, tag_t tag);
/* The rights that the policy grants on a tag; 0 if it does not name it. */
int policy_tag_rights(const struct policy *policy, tag_t tag);
/* Whether a life with this policy, made by policy_new(), can write to any file. */
bool policy_writes_files(const struct policy *policy);

/* ---- conditions on arguments (policy_filter.c) ------------------------------------------------------ */

bool policy_condition_holds(const struct policy_condition *condition, uint64_t argument);
/* Whether every argument for which narrow holds is one for which wide does: exact. */
bool policy_condition_implies(const struct policy_condition *narrow, const struct policy_condition *wide);
/* Checks and makes one.  Errors: EINVAL. */
int policy_condition_make(struct policy_condition *condition, int call, unsigned argument, int compare, uint64_t value,
			  uint64_t mask);
/* Adds a condition to a list, unless it is there.  Returns false if there is no room. */
bool policy_filter_add(struct policy_condition *list, uint32_t *count, uint32_t room,
		       const struct policy_condition *condition);
/* Whether a call passes all conditions on it.  The arguments are those the call will use. */
bool policy_filter_passes(const struct policy *policy, long number, const uint64_t argument[6]);
/* A condition of the wider policy that does not follow from one of the narrower; NULL: none. */
const struct policy_condition *policy_filter_lacks(const struct policy *narrow, const struct policy *wide);
/* Whether a condition of the wider policy on a descriptor concerns the narrower one. */
bool policy_filter_names_descriptors(const struct policy *narrow, const struct policy *wide);

/*
 * Rights only shrink: whether child grants nothing that parent does not.  Returns 0; or -1 with EPERM, and
 * dune_error() names the right that the parent lacks.
 *   tags       the same handle, the same rights or fewer (a copy on write needs only PROT_READ in the parent)
 *   files      the same open file, whichever duplicate of it and under whichever number; rights likewise
 *   paths      the same directory through the same mount; one beneath a directory of the parent does not count
 *   calls, gates
 *   filters    each condition of the parent on a call that the child can make follows from one of the child's; and if
 *              one is on a descriptor, descriptors are the same under the same number only
 *   flags      SC_KILL binds the child as well
 *   template   the parent's, or none
 *   limits     at most the parent's; one that is not set counts as its default
 * A file that the child names and that is gone is refused; one of the parent is no right.
 * Caller holds the supervisor lock.
 */
int policy_check_subset(const struct policy *child, const struct policy *parent);
/* Whether two grants are of the same open file.  Caller holds the supervisor lock. */
bool policy_same_file(const struct policy_file *one, const struct policy_file *other);

#endif
