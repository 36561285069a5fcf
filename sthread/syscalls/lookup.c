/* lookup.c - where the names of files are looked up.  See lookup.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "syscalls/lookup.h"

/* Of file systems that linux/magic.h does not have. */
#define CONFIGFS_SUPER_MAGIC 0x62656570
#define FUSECTL_SUPER_MAGIC 0x65735543
#define NFSD_SUPER_MAGIC 0x6e667364
#define RPC_PIPEFS_SUPER_MAGIC 0x67596969

/* Devices, and file systems whose files are not data: they are mounted below /proc and /sys, or could be anywhere. */
static bool is_refused(int fd)
{
	struct stat status;
	struct statfs system;
	static const unsigned long refused[] = { PROC_SUPER_MAGIC,    SYSFS_MAGIC,         DEBUGFS_MAGIC,
						 TRACEFS_MAGIC,       SECURITYFS_MAGIC,    BPF_FS_MAGIC,
						 CGROUP_SUPER_MAGIC,  CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC,
						 SELINUX_MAGIC,       SMACK_MAGIC,         EFIVARFS_MAGIC,
						 BINFMTFS_MAGIC,      PSTOREFS_MAGIC,      RDTGROUP_SUPER_MAGIC,
						 XENFS_SUPER_MAGIC,   NSFS_MAGIC,          CONFIGFS_SUPER_MAGIC,
						 FUSECTL_SUPER_MAGIC, NFSD_SUPER_MAGIC,    RPC_PIPEFS_SUPER_MAGIC };
	if (fstat(fd, &status) != 0 || S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode) || fstatfs(fd, &system) != 0)
		return true;
	for (unsigned i = 0; i < sizeof refused / sizeof *refused; i++)
		if ((unsigned long)system.f_type == refused[i])
			return true;
	return false;
}

long open_beneath(const struct call *call, const struct open_file *directory, const char *name, uint64_t flags,
		  uint64_t mode)
{
	struct open_how how = { .flags = flags | O_CLOEXEC,
				.mode = flags & O_CREAT ? mode & 0777 : 0,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
	compartment_unlock(call->compartment); /* which holds the directory */
	long fd = syscall(SYS_openat2, directory->fd, name, &how, sizeof how);
	bool refused = fd >= 0 && is_refused((int)fd);
	compartment_relock(call->compartment);
	if (fd < 0)
		return errno == EXDEV ? -EACCES : -errno;
	if (refused) {
		close((int)fd);
		return -EACCES;
	}
	return fd;
}

/* The rest of an absolute path below a granted directory; NULL if it does not start with the directory's path. */
static const char *below(const struct open_file *directory, const char *path)
{
	size_t length = directory->path ? strlen(directory->path) : 0;
	if (length == 1)
		return path[1] ? path + 1 : "."; /* the root was granted */
	if (!length || strncmp(path, directory->path, length) != 0 || (path[length] != '/' && path[length]))
		return NULL;
	return path[length] && path[length + 1] ? path + length + 1 : ".";
}

long lookup_begin(struct lookup *lookup, struct call *call, uint64_t at, uint64_t path)
{
	lookup->call = call;
	lookup->from = NULL;
	lookup->next = 0;
	long bad = call_string(call, path, lookup->path, sizeof lookup->path);
	if (bad)
		return bad;
	if (!lookup->path[0])
		return -ENOENT;
	if (lookup->path[0] == '/' || (int)at == AT_FDCWD)
		return 0;
	lookup->from = descriptor_get(call->compartment, (int)at, 0);
	if (!lookup->from)
		return -EBADF;
	if (!S_ISDIR(lookup->from->mode))
		return -ENOTDIR;
	return lookup->from->beneath ? 0 : -EACCES; /* of directories granted as descriptors no name is looked up */
}

bool lookup_next(struct lookup *lookup, int rights)
{
	const struct policy *policy = lookup->call->compartment->policy;
	if (lookup->from) {
		lookup->directory = lookup->from;
		lookup->name = lookup->path;
		lookup->rights = lookup->from->beneath;
		return !lookup->next++ && (lookup->rights & rights) == rights;
	}
	while (lookup->next < policy->paths) {
		const struct policy_file *grant = &policy->path[lookup->next++];
		lookup->directory = policy_open_file(grant->file);
		lookup->name = !lookup->directory     ? NULL :
			       lookup->path[0] == '/' ? below(lookup->directory, lookup->path) :
							lookup->path;
		lookup->rights = grant->prot;
		if (lookup->name && (grant->prot & rights) == rights)
			return true;
	}
	return false;
}

long lookup_each(struct lookup *lookup, int rights, long (*act)(const struct lookup *, void *), void *argument)
{
	long answer = -EACCES;
	while (lookup_next(lookup, rights)) {
		answer = act(lookup, argument);
		if (answer != -ENOENT)
			break;
	}
	return answer;
}

bool lookup_is_above(const struct lookup *lookup)
{
	const struct policy *policy = lookup->call->compartment->policy;
	size_t length = strlen(lookup->path);
	while (length && lookup->path[length - 1] == '/')
		length--;
	for (unsigned i = 0; lookup->path[0] == '/' && i < policy->paths; i++) {
		const struct open_file *directory = policy_open_file(policy->path[i].file);
		if (directory && directory->path && strlen(directory->path) > length &&
		    !strncmp(directory->path, lookup->path, length) && directory->path[length] == '/')
			return true;
	}
	return false;
}

long lookup_hold(const struct lookup *lookup, bool follow)
{
	return open_beneath(lookup->call, lookup->directory, lookup->name, O_PATH | (follow ? 0 : O_NOFOLLOW), 0);
}
