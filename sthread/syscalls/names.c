/* names.c - calls on names of files.  See lookup.h and call.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "syscalls/lookup.h"

/* ---- open ------------------------------------------------------------------------------------------ */

struct opening {
	uint64_t flags, mode;
	int rights;
};

static long act_open(const struct lookup *lookup, void *argument)
{
	const struct opening *opening = argument;
	uint64_t flags = (opening->flags & ~(uint64_t)O_LARGEFILE) | O_NOCTTY | O_NONBLOCK;
	long fd = open_beneath(lookup->call, lookup->directory, lookup->name, flags, opening->mode);
	if (fd < 0)
		return fd;
	struct open_file *file = call_own_file((int)fd);
	if (!file)
		return -EMFILE;
	file->beneath = S_ISDIR(file->mode) ? lookup->rights : 0;
	return call_add(lookup->call, file, opening->rights, opening->flags & O_NONBLOCK);
}

static long open_path(struct call *call, uint64_t at, uint64_t path, uint64_t flags, uint64_t mode)
{
	struct lookup lookup;
	const uint64_t known = O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_NONBLOCK | O_CLOEXEC |
			       O_DIRECTORY | O_NOFOLLOW | O_NOCTTY | O_NOATIME | O_SYNC | O_DSYNC | O_LARGEFILE |
			       0100000;
	if (flags & ~known || (flags & O_ACCMODE) == O_ACCMODE)
		return -EINVAL;
	long bad = lookup_begin(&lookup, call, at, path);
	if (bad)
		return bad;
	struct opening opening = { .flags = flags,
				   .mode = mode,
				   .rights = (flags & O_ACCMODE) == O_RDONLY ? PROT_READ :
					     (flags & O_ACCMODE) == O_WRONLY ? PROT_WRITE :
									       PROT_READ | PROT_WRITE };
	int needed = opening.rights | (flags & (O_CREAT | O_TRUNC) ? PROT_WRITE : 0);
	return lookup_each(&lookup, needed, act_open, &opening);
}

long serve_open(struct call *call)
{
	return open_path(call, (uint64_t)AT_FDCWD, call->argument[0], call->argument[1], call->argument[2]);
}

long serve_creat(struct call *call)
{
	return open_path(call, (uint64_t)AT_FDCWD, call->argument[0], O_CREAT | O_WRONLY | O_TRUNC, call->argument[1]);
}

long serve_openat(struct call *call)
{
	return open_path(call, call->argument[0], call->argument[1], call->argument[2], call->argument[3]);
}

/* ---- what a file is -------------------------------------------------------------------------------- */

struct asking {
	bool follow;
	struct stat *status;
	struct statx *extended;
	unsigned flags, mask;
};

static long ask(int fd, const struct asking *asking)
{
	int result = asking->status ?
			     fstat(fd, asking->status) :
			     statx(fd, "", (int)(asking->flags | AT_EMPTY_PATH), asking->mask, asking->extended);
	return result == 0 ? 0 : -errno;
}

static long act_ask(const struct lookup *lookup, void *argument)
{
	const struct asking *asking = argument;
	long fd = lookup_hold(lookup, asking->follow);
	if (fd < 0)
		return fd;
	long answer = ask((int)fd, asking);
	close((int)fd);
	return answer;
}

static void describe_above(const struct asking *asking)
{
	const unsigned mode = S_IFDIR | 0555;
	if (asking->status)
		*asking->status = (struct stat){ .st_mode = mode, .st_nlink = 2, .st_blksize = 4096 };
	else
		*asking->extended = (struct statx){ .stx_mask = STATX_TYPE | STATX_MODE | STATX_NLINK,
						    .stx_mode = (uint16_t)mode,
						    .stx_nlink = 2,
						    .stx_blksize = 4096 };
}

static long ask_path(struct call *call, uint64_t at, uint64_t path, const struct asking *asking)
{
	struct lookup lookup;
	long answer = call_granted(call);
	if (!answer)
		answer = lookup_begin(&lookup, call, at, path);
	if (answer)
		return answer;
	answer = lookup_each(&lookup, PROT_READ, act_ask, (void *)asking);
	if (answer == -EACCES && lookup_is_above(&lookup)) {
		describe_above(asking);
		answer = 0;
	}
	return answer;
}

/* Whether a call with AT_EMPTY_PATH names nothing but its descriptor.  Returns 1, 0 or an error. */
static long is_nameless(struct call *call, uint64_t path, uint64_t flags)
{
	char first = 0;
	if (!(flags & AT_EMPTY_PATH))
		return 0;
	if (path && call_get(call, path, &first, 1) != 0)
		return -EFAULT;
	return !first;
}

/* On a descriptor that the caller holds, or, if the call is granted, on a name. */
static long ask_either(struct call *call, uint64_t path, const struct asking *asking)
{
	long nameless = is_nameless(call, path, asking->flags);
	if (nameless < 0)
		return nameless;
	if (!nameless)
		return ask_path(call, call->argument[0], path, asking);
	const struct open_file *file = descriptor_get(call->compartment, (int)call->argument[0], 0);
	return file ? ask(file->fd, asking) : -EBADF;
}

long serve_fstat(struct call *call)
{
	struct stat status;
	long answer = ask(call->file->fd, &(struct asking){ .status = &status });
	return answer ? answer : call_put(call, call->argument[1], &status, sizeof status);
}

static long stat_path(struct call *call, bool follow)
{
	struct stat status;
	const struct asking asking = { .follow = follow, .status = &status };
	long answer = ask_path(call, (uint64_t)AT_FDCWD, call->argument[0], &asking);
	return answer ? answer : call_put(call, call->argument[1], &status, sizeof status);
}

long serve_stat(struct call *call)
{
	return stat_path(call, true);
}

long serve_lstat(struct call *call)
{
	return stat_path(call, false);
}

long serve_newfstatat(struct call *call)
{
	struct stat status;
	unsigned flags = (unsigned)call->argument[3];
	const struct asking asking = { .follow = !(flags & AT_SYMLINK_NOFOLLOW), .status = &status, .flags = flags };
	if (flags & ~(unsigned)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT))
		return -EINVAL;
	long answer = ask_either(call, call->argument[1], &asking);
	return answer ? answer : call_put(call, call->argument[2], &status, sizeof status);
}

long serve_statx(struct call *call)
{
	struct statx extended;
	unsigned flags = (unsigned)call->argument[2];
	const struct asking asking = { .follow = !(flags & AT_SYMLINK_NOFOLLOW),
				       .extended = &extended,
				       .flags = flags,
				       .mask = (unsigned)call->argument[3] };
	if (flags & ~(unsigned)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE))
		return -EINVAL;
	long answer = ask_either(call, call->argument[1], &asking);
	return answer ? answer : call_put(call, call->argument[4], &extended, sizeof extended);
}

/* ---- access, readlink, getcwd ---------------------------------------------------------------------- */

struct checking {
	uint64_t mode, flags;
};

static long act_access(const struct lookup *lookup, void *argument)
{
	const struct checking *checking = argument;
	long fd = lookup_hold(lookup, !(checking->flags & AT_SYMLINK_NOFOLLOW));
	if (fd < 0)
		return fd;
	long answer = syscall(SYS_faccessat2, (int)fd, "", (int)checking->mode,
			      (int)(checking->flags & AT_EACCESS) | AT_EMPTY_PATH) == 0 ?
			      0 :
			      -errno;
	close((int)fd);
	return answer;
}

/* Whether the caller could open it so: its grant counts, and what the process itself may do. */
static long access_path(struct call *call, uint64_t at, uint64_t path, uint64_t mode, uint64_t flags)
{
	struct lookup lookup;
	struct checking checking = { .mode = mode, .flags = flags };
	if (mode & ~(uint64_t)(R_OK | W_OK | X_OK) || flags & ~(uint64_t)(AT_EACCESS | AT_SYMLINK_NOFOLLOW))
		return -EINVAL;
	long answer = lookup_begin(&lookup, call, at, path);
	if (answer)
		return answer;
	answer = lookup_each(&lookup, mode & W_OK ? PROT_READ | PROT_WRITE : PROT_READ, act_access, &checking);
	return answer == -EACCES && !(mode & W_OK) && lookup_is_above(&lookup) ? 0 : answer;
}

long serve_access(struct call *call)
{
	return access_path(call, (uint64_t)AT_FDCWD, call->argument[0], call->argument[1], 0);
}

long serve_faccessat(struct call *call)
{
	return access_path(call, call->argument[0], call->argument[1], call->argument[2], 0);
}

long serve_faccessat2(struct call *call)
{
	return access_path(call, call->argument[0], call->argument[1], call->argument[2], call->argument[3]);
}

struct link_text {
	char text[PATH_ROOM];
	size_t room;
};

static long act_readlink(const struct lookup *lookup, void *argument)
{
	struct link_text *link = argument;
	struct stat status;
	long fd = lookup_hold(lookup, false);
	if (fd < 0)
		return fd;
	long answer = -EINVAL;
	if (fstat((int)fd, &status) == 0 && S_ISLNK(status.st_mode)) {
		answer = readlinkat((int)fd, "", link->text, link->room);
		if (answer < 0)
			answer = -errno;
	}
	close((int)fd);
	return answer;
}

static long readlink_path(struct call *call, uint64_t at, uint64_t path, uint64_t to, uint64_t room)
{
	struct lookup lookup;
	struct link_text link;
	if ((int)room <= 0)
		return -EINVAL;
	link.room = room < sizeof link.text ? room : sizeof link.text;
	long answer = lookup_begin(&lookup, call, at, path);
	if (answer)
		return answer;
	answer = lookup_each(&lookup, PROT_READ, act_readlink, &link);
	if (answer == -EACCES && lookup_is_above(&lookup))
		return -EINVAL; /* no symbolic link */
	return answer > 0 && call_put(call, to, link.text, (size_t)answer) != 0 ? -EFAULT : answer;
}

long serve_readlink(struct call *call)
{
	return readlink_path(call, (uint64_t)AT_FDCWD, call->argument[0], call->argument[1], call->argument[2]);
}

long serve_readlinkat(struct call *call)
{
	return readlink_path(call, call->argument[0], call->argument[1], call->argument[2], call->argument[3]);
}

/* Names that are not absolute are looked up in the granted directories, first in the first one: so that is it. */
long serve_getcwd(struct call *call)
{
	const struct policy *policy = call->compartment->policy;
	const struct open_file *first = policy->paths ? policy_open_file(policy->path[0].file) : NULL;
	if (!first || !first->path)
		return -ENOENT;
	size_t size = strlen(first->path) + 1;
	if (size > call->argument[1])
		return -ERANGE;
	long bad = call_put(call, call->argument[0], first->path, size);
	return bad ? bad : (long)size;
}

/* ---- making, removing, renaming -------------------------------------------------------------------- */

/* The last part of a name, and its parent directory, which is held. */
struct last_part {
	long parent;
	char name[NAME_MAX + 1];
};

/* directory: the name may end in slashes. */
static long find_last_part(const struct lookup *lookup, bool directory, struct last_part *part)
{
	char parent[PATH_ROOM];
	size_t end = strlen(lookup->name);
	while (directory && end > 1 && lookup->name[end - 1] == '/')
		end--;
	size_t start = end;
	while (start && lookup->name[start - 1] != '/')
		start--;
	size_t length = end - start;
	if (!length)
		return -ENOTDIR;
	if (length > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(part->name, lookup->name + start, length);
	part->name[length] = 0;
	if (!strcmp(part->name, ".") || !strcmp(part->name, ".."))
		return -EINVAL;
	memcpy(parent, lookup->name, start);
	memcpy(parent + start, ".", 2);
	part->parent = open_beneath(lookup->call, lookup->directory, parent, O_PATH | O_DIRECTORY, 0);
	return part->parent < 0 ? part->parent : 0;
}

struct changing {
	bool make, directory;
	uint64_t mode;
};

static long act_change(const struct lookup *lookup, void *argument)
{
	const struct changing *changing = argument;
	struct last_part part;
	long answer = find_last_part(lookup, changing->directory, &part);
	if (answer)
		return answer;
	int result = changing->make ? mkdirat((int)part.parent, part.name, changing->mode & 0777) :
				      unlinkat((int)part.parent, part.name, changing->directory ? AT_REMOVEDIR : 0);
	answer = result == 0 ? 0 : -errno;
	close((int)part.parent);
	return answer;
}

static long change_path(struct call *call, uint64_t at, uint64_t path, struct changing changing)
{
	struct lookup lookup;
	long bad = lookup_begin(&lookup, call, at, path);
	return bad ? bad : lookup_each(&lookup, PROT_WRITE, act_change, &changing);
}

long serve_mkdir(struct call *call)
{
	return change_path(call, (uint64_t)AT_FDCWD, call->argument[0],
			   (struct changing){ .make = true, .directory = true, .mode = call->argument[1] });
}

long serve_mkdirat(struct call *call)
{
	return change_path(call, call->argument[0], call->argument[1],
			   (struct changing){ .make = true, .directory = true, .mode = call->argument[2] });
}

long serve_unlink(struct call *call)
{
	return change_path(call, (uint64_t)AT_FDCWD, call->argument[0], (struct changing){ 0 });
}

long serve_rmdir(struct call *call)
{
	return change_path(call, (uint64_t)AT_FDCWD, call->argument[0], (struct changing){ .directory = true });
}

long serve_unlinkat(struct call *call)
{
	if (call->argument[2] & ~(uint64_t)AT_REMOVEDIR)
		return -EINVAL;
	return change_path(call, call->argument[0], call->argument[1],
			   (struct changing){ .directory = call->argument[2] & AT_REMOVEDIR });
}

struct renaming {
	struct lookup *to;
	unsigned flags;
};

static long act_rename(const struct lookup *from, void *argument)
{
	const struct renaming *renaming = argument;
	struct lookup *to = renaming->to;
	struct last_part old, new;
	bool relative = from->path[0] != '/' && to->path[0] != '/' && !from->from && !to->from;
	to->next = 0;
	do /* two relative names are in the same grant */
		if (!lookup_next(to, PROT_WRITE))
			return -EACCES;
	while (relative && to->directory != from->directory);
	if (to->rights & ~from->rights)
		return -EACCES; /* it would be read where it is, having been granted for writing only where it was */
	long answer = find_last_part(from, true, &old);
	if (answer)
		return answer;
	answer = find_last_part(to, true, &new);
	if (!answer) {
		answer = syscall(SYS_renameat2, (int)old.parent, old.name, (int)new.parent, new.name,
				 renaming->flags) == 0 ?
				 0 :
				 -errno;
		close((int)new.parent);
	}
	close((int)old.parent);
	return answer;
}

static long rename_path(struct call *call, uint64_t from_at, uint64_t from_path, uint64_t to_at, uint64_t to_path,
			uint64_t flags)
{
	struct lookup from, to;
	struct renaming renaming = { .to = &to, .flags = (unsigned)flags };
	if (flags & ~(uint64_t)1 /* RENAME_NOREPLACE */)
		return -EINVAL;
	long bad = lookup_begin(&from, call, from_at, from_path);
	if (!bad)
		bad = lookup_begin(&to, call, to_at, to_path);
	return bad ? bad : lookup_each(&from, PROT_WRITE, act_rename, &renaming);
}

long serve_rename(struct call *call)
{
	return rename_path(call, (uint64_t)AT_FDCWD, call->argument[0], (uint64_t)AT_FDCWD, call->argument[1], 0);
}

long serve_renameat(struct call *call)
{
	return rename_path(call, call->argument[0], call->argument[1], call->argument[2], call->argument[3], 0);
}

long serve_renameat2(struct call *call)
{
	return rename_path(call, call->argument[0], call->argument[1], call->argument[2], call->argument[3],
			   call->argument[4]);
}
