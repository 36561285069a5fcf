/* files.c - calls on files that are open: by a grant, or by the caller itself.  See call.h. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "slice.h"
#include "syscalls/call.h"

enum {
	DIRECTORY_MAX = 16 << 10, /* bytes of one getdents64() */
	LOCK_RETRY_MILLISECONDS = 10
};

/* ---- descriptors of the caller's own table --------------------------------------------------------- */

struct open_file *call_own_file(int fd)
{
	if (fd <= STDERR_FILENO) { /* the process has closed it, and will want it back */
		int higher = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
		close(fd);
		fd = higher;
	}
	struct open_file *file = fd >= 0 && supervisor.files_open < supervisor.files_max ? open_file_new(fd) : NULL;
	if (!file) {
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	file->opened_inside = true;
	supervisor.files_open++;
	return file;
}

long call_add(struct call *call, struct open_file *file, int rights, bool nonblocking)
{
	int number = descriptor_add(call->compartment, file, -1, rights);
	if (number < 0) {
		open_file_put(file);
		return -EMFILE;
	}
	descriptor_find(call->compartment, number)->blocking = nonblocking ? NEVER_BLOCKS : BLOCKS;
	return number;
}

long call_may_change(struct call *call)
{
	return open_file_is_own(call->file) ? 0 : call_granted(call);
}

bool call_blocks(const struct call *call)
{
	if (call->descriptor->blocking == AS_ITS_FILE)
		return !(fcntl(call->file->fd, F_GETFL) & O_NONBLOCK);
	return call->descriptor->blocking == BLOCKS;
}

long serve_close(struct call *call)
{
	return descriptor_close(call->compartment, (int)call->argument[0]) == 0 ? 0 : -EBADF;
}

/* A second number for the same file; at least low (which is then the lowest that is free), or exactly it. */
static long duplicate(struct call *call, long low, bool exactly)
{
	struct compartment *compartment = call->compartment;
	const struct descriptor old = *call->descriptor;
	if (low < 0 || low >= NUMBERS_MAX)
		return exactly ? -EBADF : -EINVAL;
	long number = low;
	while (!exactly && descriptor_find(compartment, number))
		number++;
	open_file_get(old.file);
	if (exactly)
		descriptor_close(compartment, number);
	if (descriptor_add(compartment, old.file, (int)number, old.prot) < 0) {
		open_file_put(old.file);
		return -EMFILE;
	}
	descriptor_find(compartment, number)->blocking = old.blocking;
	return number;
}

long serve_dup(struct call *call)
{
	return duplicate(call, STDERR_FILENO + 1, false);
}

long serve_dup2(struct call *call)
{
	return call->argument[0] == call->argument[1] ? (long)call->argument[0] :
							duplicate(call, (int)call->argument[1], true);
}

long serve_dup3(struct call *call)
{
	if (call->argument[0] == call->argument[1] || call->argument[2] & ~(uint64_t)O_CLOEXEC)
		return -EINVAL;
	return duplicate(call, (int)call->argument[1], true);
}

/* ---- fcntl, flock ---------------------------------------------------------------------------------- */

/* Waits for a lock by trying again: there is nothing to poll for. */
static long try_again(struct call *call)
{
	call_park(call, -1, 0);
	call->wait->deadline = slice_clock() + LOCK_RETRY_MILLISECONDS * NANOSECONDS_PER_MILLISECOND;
	return -EAGAIN;
}

/*
 * POSIX locks belong to the process: one compartment's close() would drop those of all others.  Locks taken inside
 * are therefore locks of the open file, which the kernel drops with it, and only files opened inside have them: an
 * open file that was granted is shared with its owner, and so would be the lock.
 */
static long lock_range(struct call *call, int command, bool wait)
{
	struct flock lock;
	if (!open_file_is_own(call->file))
		return call_refused(call);
	if (call_get(call, call->argument[2], &lock, sizeof lock) != 0)
		return -EFAULT;
	lock.l_pid = 0;
	if (fcntl(call->file->fd, command, &lock) != 0)
		return wait && errno == EAGAIN ? try_again(call) : -errno;
	if (command != F_OFD_GETLK)
		return 0;
	if (lock.l_type != F_UNLCK)
		lock.l_pid = -1; /* whose it is, is nobody's business */
	return call_put(call, call->argument[2], &lock, sizeof lock);
}

long serve_flock(struct call *call)
{
	int operation = (int)call->argument[1];
	if (!open_file_is_own(call->file))
		return call_refused(call);
	if (flock(call->file->fd, operation | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK && !(operation & LOCK_NB) ? try_again(call) : -errno;
}

/* What the caller may do with the file, not what whoever opened it could. */
static long get_flags(const struct call *call)
{
	int flags = fcntl(call->file->fd, F_GETFL);
	if (flags < 0)
		return -errno;
	flags &= ~(O_ACCMODE | O_NONBLOCK);
	flags |= call->descriptor->prot == PROT_READ  ? O_RDONLY :
		 call->descriptor->prot == PROT_WRITE ? O_WRONLY :
							O_RDWR;
	return flags | (call_blocks(call) ? 0 : O_NONBLOCK);
}

/* O_NONBLOCK is kept beside the file, which others may share; O_APPEND is changed on files opened inside. */
static long set_flags(const struct call *call)
{
	int wanted = (int)call->argument[2], flags = fcntl(call->file->fd, F_GETFL);
	if (flags < 0)
		return -errno;
	if ((wanted ^ flags) & O_APPEND) {
		if (!open_file_is_own(call->file))
			return -EPERM;
		if (fcntl(call->file->fd, F_SETFL, flags ^ O_APPEND) != 0)
			return -errno;
	}
	call->descriptor->blocking = wanted & O_NONBLOCK ? NEVER_BLOCKS : BLOCKS;
	return 0;
}

long serve_fcntl(struct call *call)
{
	switch ((int)call->argument[1]) {
	case F_GETFL:
		return get_flags(call);
	case F_SETFL:
		return set_flags(call);
	case F_GETFD:
		return FD_CLOEXEC; /* there is no exec() */
	case F_SETFD:
		return 0;
	case F_DUPFD:
	case F_DUPFD_CLOEXEC:
		return duplicate(call, (int)call->argument[2], false);
	case F_GETLK:
	case F_OFD_GETLK:
		return lock_range(call, F_OFD_GETLK, false);
	case F_SETLK:
	case F_OFD_SETLK:
		return lock_range(call, F_OFD_SETLK, false);
	case F_SETLKW:
	case F_OFD_SETLKW:
		return lock_range(call, F_OFD_SETLK, true);
	default:
		return -EINVAL;
	}
}

long serve_ioctl(struct call *call)
{
	int value;
	switch (call->argument[1]) {
	case FIONREAD:
		if (!(call->descriptor->prot & PROT_READ))
			return -EBADF;
		if (S_ISREG(call->file->mode)) {
			off_t at = lseek(call->file->fd, 0, SEEK_CUR);
			struct stat status;
			if (at < 0 || fstat(call->file->fd, &status) != 0)
				return -errno;
			value = status.st_size > at ? (int)(status.st_size - at) : 0;
		} else if (!S_ISSOCK(call->file->mode) && !S_ISFIFO(call->file->mode)) {
			return -ENOTTY;
		} else if (ioctl(call->file->fd, FIONREAD, &value) != 0) {
			return -errno;
		}
		return call_put(call, call->argument[2], &value, sizeof value);
	case FIONBIO:
		if (call_get(call, call->argument[2], &value, sizeof value) != 0)
			return -EFAULT;
		call->descriptor->blocking = value ? NEVER_BLOCKS : BLOCKS;
		return 0;
	case FIOCLEX:
	case FIONCLEX:
		return 0;
	default:
		return -ENOTTY; /* stdio asks whether it talks to a terminal */
	}
}

/* ---- position, size, storage ----------------------------------------------------------------------- */

long serve_lseek(struct call *call)
{
	off_t at = lseek(call->file->fd, (off_t)call->argument[1], (int)call->argument[2]);
	return at < 0 ? -errno : at;
}

/* Storage may be slow: the lock is given up meanwhile. */
static long without_lock(struct call *call, int (*work)(const struct call *))
{
	struct quiet quiet;
	compartment_unlock(call->compartment);
	quiet_begin(&quiet);
	int result = work(call), error = errno;
	quiet_end(&quiet, result == 0 ? 0 : error);
	compartment_relock(call->compartment);
	return result == 0 ? 0 : -error;
}

static int work_fsync(const struct call *call)
{
	return fsync(call->file->fd);
}

static int work_fdatasync(const struct call *call)
{
	return fdatasync(call->file->fd);
}

static int work_ftruncate(const struct call *call)
{
	return ftruncate(call->file->fd, (off_t)call->argument[1]);
}

static int work_fallocate(const struct call *call)
{
	return fallocate(call->file->fd, (int)call->argument[1], (off_t)call->argument[2], (off_t)call->argument[3]);
}

static long change_storage(struct call *call, int (*work)(const struct call *))
{
	long bad = call_may_change(call);
	if (!bad && !S_ISREG(call->file->mode) && !S_ISDIR(call->file->mode))
		bad = -EINVAL;
	return bad ? bad : without_lock(call, work);
}

long serve_fsync(struct call *call)
{
	return change_storage(call, work_fsync);
}

long serve_fdatasync(struct call *call)
{
	return change_storage(call, work_fdatasync);
}

long serve_ftruncate(struct call *call)
{
	return change_storage(call, work_ftruncate);
}

long serve_fallocate(struct call *call)
{
	return call->argument[1] & ~(uint64_t)FALLOC_FL_KEEP_SIZE ? -EOPNOTSUPP : change_storage(call, work_fallocate);
}

/* ---- directories ----------------------------------------------------------------------------------- */

long serve_getdents64(struct call *call)
{
	char entries[DIRECTORY_MAX];
	struct piece_list pieces;
	size_t size = call->argument[2] < sizeof entries ? call->argument[2] : sizeof entries;
	/* Entries that are read are gone: first it is seen that they can be delivered. */
	long bad = call_flat(call, call->argument[1], size, true, &pieces);
	if (bad)
		return bad;
	long got = syscall(SYS_getdents64, call->file->fd, entries, pieces.size);
	if (got < 0)
		return -errno;
	piece_list_scatter(&pieces, entries, (size_t)got);
	return got;
}
