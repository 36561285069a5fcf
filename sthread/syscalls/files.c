/* files.c - names of files, and what is asked of open ones.  See call.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "syscalls/call.h"

static bool is_refused(int fd)
{
	struct stat status;
	struct statfs system;
	static const unsigned long refused[] = { PROC_SUPER_MAGIC,   SYSFS_MAGIC,         DEBUGFS_MAGIC,
						 TRACEFS_MAGIC,      SECURITYFS_MAGIC,    BPF_FS_MAGIC,
						 CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC,
						 SELINUX_MAGIC,      SMACK_MAGIC,         EFIVARFS_MAGIC };
	if (fstat(fd, &status) != 0 || S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode) || fstatfs(fd, &system) != 0)
		return true;
	for (unsigned i = 0; i < sizeof refused / sizeof *refused; i++)
		if ((unsigned long)system.f_type == refused[i])
			return true;
	return false;
}

/* Opens beneath one granted directory. */
static int open_beneath(const struct open_file *directory, const char *path, uint64_t flags, uint64_t mode)
{
	struct open_how how = { .flags = flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
				.mode = flags & O_CREAT ? mode & 07777 : 0,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
	int fd = (int)syscall(SYS_openat2, directory->fd, path, &how, sizeof how);
	if (fd >= 0 && is_refused(fd)) {
		close(fd);
		errno = EACCES;
		return -1;
	}
	if (fd >= 0 && !(flags & O_NONBLOCK))
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); /* nobody else shares it yet */
	return fd;
}

/* The rest of an absolute path below a granted directory; NULL if it does not start with the directory's path. */
static const char *below(const struct open_file *directory, const char *path)
{
	size_t length = directory->path ? strlen(directory->path) : 0;
	if (length == 1)
		return path + 1; /* the root was granted */
	if (!length || strncmp(path, directory->path, length) != 0 || (path[length] != '/' && path[length]))
		return NULL;
	return path[length] ? path + length + 1 : ".";
}

static long open_path(struct call *call, uint64_t at, uint64_t flags, uint64_t mode)
{
	struct compartment *compartment = call->compartment;
	const struct policy *policy = compartment->policy;
	char path[PATH_ROOM];
	long error = -EACCES;
	const uint64_t known = O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_NONBLOCK | O_CLOEXEC |
			       O_DIRECTORY | O_NOFOLLOW | O_NOCTTY | O_LARGEFILE | 0100000;
	if (flags & ~known)
		return -EINVAL;
	long bad = call_string(call, at, path, sizeof path);
	if (bad)
		return bad;
	if (!path[0])
		return -ENOENT;
	int prot = (flags & O_ACCMODE) == O_RDONLY ? PROT_READ :
		   (flags & O_ACCMODE) == O_WRONLY ? PROT_WRITE :
						     PROT_READ | PROT_WRITE;
	int needed = prot | (flags & (O_CREAT | O_TRUNC) ? PROT_WRITE : 0);
	for (unsigned i = 0; i < policy->paths; i++) {
		const struct open_file *directory = policy_open_file(policy->path[i].file);
		const char *name = !directory ? NULL : path[0] == '/' ? below(directory, path) : path;
		if (!name || (policy->path[i].prot & needed) != needed)
			continue;
		compartment_unlock(compartment); /* the policy keeps the directory */
		int fd = open_beneath(directory, *name ? name : ".", flags & ~(uint64_t)O_LARGEFILE, mode);
		compartment_relock(compartment);
		if (fd < 0) {
			error = errno == EXDEV ? -EACCES : -errno;
			if (errno == ENOENT)
				continue;
			return error;
		}
		struct open_file *file = supervisor.files_open < supervisor.files_max ? open_file_new(fd) : NULL;
		if (!file) {
			close(fd);
			return -EMFILE;
		}
		file->opened_inside = true;
		supervisor.files_open++;
		int number = descriptor_add(compartment, file, -1, prot);
		if (number < 0) {
			open_file_put(file);
			return -EMFILE;
		}
		return number;
	}
	return error;
}

long serve_open(struct call *call)
{
	return open_path(call, call->argument[0], call->argument[1], call->argument[2]);
}

long serve_openat(struct call *call)
{
	if ((int)call->argument[0] != AT_FDCWD)
		return -EBADF; /* granted directories are searched, not numbered */
	return open_path(call, call->argument[1], call->argument[2], call->argument[3]);
}

long serve_close(struct call *call)
{
	return descriptor_close(call->compartment, (int)call->argument[0]) == 0 ? 0 : -EBADF;
}

static long stat_file(struct call *call, uint64_t to)
{
	struct stat status;
	return fstat(call->file->fd, &status) == 0 ? call_put(call, to, &status, sizeof status) : -errno;
}

long serve_fstat(struct call *call)
{
	return stat_file(call, call->argument[1]);
}

long serve_newfstatat(struct call *call)
{
	char name;
	if (!(call->argument[3] & AT_EMPTY_PATH) || call_get(call, call->argument[1], &name, 1) != 0 || name)
		return -ENOSYS;
	return stat_file(call, call->argument[2]);
}

long serve_lseek(struct call *call)
{
	off_t at = lseek(call->file->fd, (off_t)call->argument[1], (int)call->argument[2]);
	return at < 0 ? -errno : at;
}

long serve_fcntl(struct call *call)
{
	switch ((int)call->argument[1]) {
	case F_GETFL: {
		int flags = fcntl(call->file->fd, F_GETFL);
		return flags < 0 ? -errno : flags;
	}
	case F_GETFD:
		return FD_CLOEXEC;
	case F_SETFD:
		return 0;
	default:
		return -EINVAL;
	}
}

long serve_ioctl(struct call *call)
{
	(void)call;
	return -ENOTTY; /* stdio asks whether it talks to a terminal */
}
