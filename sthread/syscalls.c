/*
 * syscalls.c - the system calls that compartments are served: one const table, default deny.
 *
 * A row says what the caller must hold.  Arguments are registers, copied out once; what they point to is read or
 * written through the caller's own page table with the caller's own rights, once.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "compartment.h"

enum {
	TRANSFER_MAX = 1 << 20 /* bytes; more is a short transfer */,
	FILE_COPY_MAX = 16 << 20 /* bytes */,
	PIECES = 64,
	VECTORS_MAX = 64,
	RANDOM_MAX = 4096,
	PATH_ROOM = 4096,
	ARENA_PER_QUOTA = 16
};

struct call {
	struct compartment *compartment;
	struct memory_bounds bounds;
	uint64_t argument[6];
	struct open_file *file; /* for rows that want one */
	struct wait *wait;
	bool park; /* set by a handler: it would block */
	bool end;  /* set by a handler: the life is over */
};

/* ---- memory of the caller -------------------------------------------------------------------------- */

static long put(struct call *call, uint64_t address, const void *from, size_t size)
{
	return address_space_write(call->compartment->space, &call->bounds, address, from, size) == 0 ? 0 : -EFAULT;
}

static ssize_t pieces(struct call *call, uint64_t address, size_t length, bool write, struct iovec *list, int room,
		      int *count)
{
	return address_space_pieces(call->compartment->space, &call->bounds, address, length, write, list, room, count);
}

/* ---- transfers ------------------------------------------------------------------------------------- */

/* A write that must not raise SIGPIPE or SIGXFSZ in the process: they are for the compartment, as an error. */
static ssize_t write_quietly(int fd, const struct iovec *list, int count, int flags)
{
	sigset_t quiet, before, pending;
	const struct timespec at_once = { 0 };
	sigemptyset(&quiet);
	sigaddset(&quiet, SIGPIPE);
	sigaddset(&quiet, SIGXFSZ);
	sigpending(&pending);
	pthread_sigmask(SIG_BLOCK, &quiet, &before);
	ssize_t done = pwritev2(fd, list, count, -1, flags);
	int error = errno;
	if (done < 0 && (error == EPIPE || error == EFBIG)) {
		int raised = error == EPIPE ? SIGPIPE : SIGXFSZ;
		sigset_t one;
		sigemptyset(&one);
		sigaddset(&one, raised);
		if (!sigismember(&pending, raised))
			while (sigtimedwait(&one, NULL, &at_once) < 0 && errno == EINTR)
				;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = error;
	return done;
}

/* One transfer that never blocks; where it would, -EAGAIN.  The open file's own flags are left alone: others share it. */
static long transfer_now(const struct open_file *file, const struct iovec *list, int count, bool write)
{
	ssize_t done;
	if (S_ISREG(file->mode) || S_ISBLK(file->mode)) {
		done = write ? write_quietly(file->fd, list, count, 0) : readv(file->fd, list, count);
	} else if (S_ISSOCK(file->mode)) {
		struct msghdr message = { .msg_iov = (struct iovec *)list, .msg_iovlen = count };
		int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
		done = write ? sendmsg(file->fd, &message, flags) : recvmsg(file->fd, &message, flags);
	} else {
		done = write ? write_quietly(file->fd, list, count, RWF_NOWAIT) :
			       preadv2(file->fd, list, count, -1, RWF_NOWAIT);
		if (done < 0 && (errno == EOPNOTSUPP || errno == EINVAL)) {
			/* A file without such a mode, a terminal say: ask first.  A pipe takes PIPE_BUF without waiting. */
			struct pollfd ready = { .fd = file->fd, .events = write ? POLLOUT : POLLIN };
			struct iovec first = list[0];
			if (write && first.iov_len > 4096)
				first.iov_len = 4096;
			if (poll(&ready, 1, 0) == 0)
				return -EAGAIN;
			done = write ? write_quietly(file->fd, &first, 1, 0) : readv(file->fd, &first, 1);
		}
	}
	return done < 0 ? -errno : done;
}

static long transfer(struct call *call, const struct iovec *list, int count, bool write)
{
	long done = transfer_now(call->file, list, count, write);
	if (done == -EAGAIN && !(fcntl(call->file->fd, F_GETFL) & O_NONBLOCK)) {
		*call->wait = (struct wait){ .fd = call->file->fd, .events = write ? POLLOUT : POLLIN };
		call->park = true;
	}
	return done;
}

static long transfer_flat(struct call *call, bool write)
{
	struct iovec list[PIECES];
	int count;
	size_t size = call->argument[2] < TRANSFER_MAX ? call->argument[2] : TRANSFER_MAX;
	if (!size)
		return 0;
	if (pieces(call, call->argument[1], size, !write, list, PIECES, &count) < 0)
		return -EFAULT;
	return transfer(call, list, count, write);
}

static long serve_read(struct call *call)
{
	return transfer_flat(call, false);
}

static long serve_write(struct call *call)
{
	return transfer_flat(call, true);
}

static long transfer_vector(struct call *call, bool write)
{
	struct iovec theirs[VECTORS_MAX], list[PIECES];
	int used = 0;
	size_t wanted = call->argument[2], total = 0;
	if (wanted > 1024)
		return -EINVAL;
	if (wanted > VECTORS_MAX)
		wanted = VECTORS_MAX; /* a short transfer is allowed */
	if (address_space_read(call->compartment->space, &call->bounds, call->argument[1], theirs,
			       wanted * sizeof *theirs) != 0)
		return -EFAULT;
	for (size_t i = 0; i < wanted && used < PIECES; i++) {
		int count;
		if (!theirs[i].iov_len)
			continue;
		if (theirs[i].iov_len > TRANSFER_MAX - total)
			theirs[i].iov_len = TRANSFER_MAX - total;
		ssize_t some = pieces(call, (uint64_t)theirs[i].iov_base, theirs[i].iov_len, !write, list + used,
				      PIECES - used, &count);
		if (some < 0) {
			if (!used)
				return -EFAULT;
			break;
		}
		used += count;
		total += (size_t)some;
		if ((size_t)some < theirs[i].iov_len || total == TRANSFER_MAX)
			break;
	}
	return used ? transfer(call, list, used, write) : 0;
}

static long serve_readv(struct call *call)
{
	return transfer_vector(call, false);
}

static long serve_writev(struct call *call)
{
	return transfer_vector(call, true);
}

static long serve_pread64(struct call *call)
{
	struct iovec list[PIECES];
	int count;
	size_t size = call->argument[2] < TRANSFER_MAX ? call->argument[2] : TRANSFER_MAX;
	if (!S_ISREG(call->file->mode))
		return -ESPIPE;
	if (!size)
		return 0;
	if (pieces(call, call->argument[1], size, true, list, PIECES, &count) < 0)
		return -EFAULT;
	ssize_t done = preadv(call->file->fd, list, count, (off_t)call->argument[3]);
	return done < 0 ? -errno : done;
}

/* ---- files ----------------------------------------------------------------------------------------- */

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
	const struct policy *policy = &compartment->policy;
	char path[PATH_ROOM];
	long error = -EACCES;
	const uint64_t known = O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_NONBLOCK | O_CLOEXEC |
			       O_DIRECTORY | O_NOFOLLOW | O_NOCTTY | O_LARGEFILE | 0100000;
	if (flags & ~known)
		return -EINVAL;
	if (address_space_string(compartment->space, &call->bounds, at, path, sizeof path) != 0)
		return -errno;
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
		int fd = open_beneath(directory, *name ? name : ".", flags & ~(uint64_t)O_LARGEFILE, mode);
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

static long serve_open(struct call *call)
{
	return open_path(call, call->argument[0], call->argument[1], call->argument[2]);
}

static long serve_openat(struct call *call)
{
	if ((int)call->argument[0] != AT_FDCWD)
		return -EBADF; /* granted directories are searched, not numbered */
	return open_path(call, call->argument[1], call->argument[2], call->argument[3]);
}

static long serve_close(struct call *call)
{
	return descriptor_close(call->compartment, (int)call->argument[0]) == 0 ? 0 : -EBADF;
}

static long stat_file(struct call *call, uint64_t to)
{
	struct stat status;
	return fstat(call->file->fd, &status) == 0 ? put(call, to, &status, sizeof status) : -errno;
}

static long serve_fstat(struct call *call)
{
	return stat_file(call, call->argument[1]);
}

static long serve_newfstatat(struct call *call)
{
	char name;
	if (!(call->argument[3] & AT_EMPTY_PATH) ||
	    address_space_read(call->compartment->space, &call->bounds, call->argument[1], &name, 1) != 0 || name)
		return -ENOSYS;
	return stat_file(call, call->argument[2]);
}

static long serve_lseek(struct call *call)
{
	off_t at = lseek(call->file->fd, (off_t)call->argument[1], (int)call->argument[2]);
	return at < 0 ? -errno : at;
}

static long serve_fcntl(struct call *call)
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

static long serve_ioctl(struct call *call)
{
	(void)call;
	return -ENOTTY; /* stdio asks whether it talks to a terminal */
}

/* ---- private memory -------------------------------------------------------------------------------- */

static uint64_t round_up(uint64_t bytes)
{
	return (bytes + DUNE_PAGE_MASK) & ~DUNE_PAGE_MASK;
}

static long serve_brk(struct call *call)
{
	struct compartment *compartment = call->compartment;
	uint64_t wanted = call->argument[0], base = supervisor.snapshot.heap_end;
	uint64_t end = round_up(wanted);
	/* What lies above the heap in the snapshot stays where it is. */
	if (wanted >= base && end - base <= compartment->policy.memory && end <= supervisor.snapshot.heap_limit) {
		if (end < compartment->heap_end)
			address_space_clear(compartment->space, end, compartment->heap_end);
		compartment->heap_end = end;
		return (long)wanted;
	}
	return (long)compartment->heap_end;
}

static bool take_free_range(struct compartment *compartment, uint64_t size, uint64_t *start)
{
	for (unsigned i = 0; i < compartment->free_range_count; i++) {
		struct free_range *range = &compartment->free_ranges[i];
		if (range->size < size)
			continue;
		*start = range->start;
		range->start += size;
		range->size -= size;
		if (!range->size)
			*range = compartment->free_ranges[--compartment->free_range_count];
		return true;
	}
	return false;
}

/* Gives private memory; a private mapping of a granted file is a copy of it.  Hints and protection are ignored: the
 * memory is the compartment's own, readable, writable, never executable. */
static long serve_mmap(struct call *call)
{
	struct compartment *compartment = call->compartment;
	uint64_t size = round_up(call->argument[1]), flags = call->argument[3], start;
	struct open_file *file = NULL;
	if (!call->argument[1] || size < call->argument[1])
		return -EINVAL;
	if (!(flags & MAP_PRIVATE) || flags & MAP_FIXED || call->argument[2] & PROT_EXEC)
		return -EPERM;
	if (!(flags & MAP_ANONYMOUS) && !(file = descriptor_get(compartment, (int)call->argument[4], PROT_READ)))
		return -EBADF;
	if (size > compartment->policy.memory || (file && size > FILE_COPY_MAX))
		return -ENOMEM;
	if (!take_free_range(compartment, size, &start)) {
		start = compartment->arena_end;
		/* Addresses are limited as well: page tables for them are never given back. */
		uint64_t used = start - supervisor.machine->window - SPACE_ARENA;
		if (start + size > supervisor.machine->window + SPACE_ARENA_END ||
		    (used + size) / ARENA_PER_QUOTA > compartment->policy.memory)
			return -ENOMEM;
		compartment->arena_end += size;
		call->bounds = compartment_bounds(compartment);
	}
	for (uint64_t done = 0; file && done < call->argument[1];) {
		struct iovec list[PIECES];
		int count;
		ssize_t some = pieces(call, start + done, call->argument[1] - done, true, list, PIECES, &count);
		ssize_t got = some < 0 ? -1 : preadv(file->fd, list, count, (off_t)(call->argument[5] + done));
		if (got <= 0)
			return got < 0 ? -ENOMEM : (long)start; /* beyond the end of the file: zeros */
		done += (uint64_t)got;
	}
	return (long)start;
}

static long serve_munmap(struct call *call)
{
	struct compartment *compartment = call->compartment;
	uint64_t start = call->argument[0], size = round_up(call->argument[1]),
		 base = supervisor.machine->window + SPACE_ARENA;
	if (start & DUNE_PAGE_MASK || !size)
		return -EINVAL;
	if (start < base || start + size > compartment->arena_end || start + size < start)
		return -EPERM;
	address_space_clear(compartment->space, start, start + size);
	if (start + size == compartment->arena_end)
		compartment->arena_end = start;
	else if (compartment->free_range_count < sizeof compartment->free_ranges / sizeof *compartment->free_ranges)
		compartment->free_ranges[compartment->free_range_count++] = (struct free_range){ start, size };
	return 0;
}

/* Private memory is readable and writable, nothing else: asking for that, or for less, changes nothing. */
static long serve_mprotect(struct call *call)
{
	return call->argument[2] & PROT_EXEC ? -EPERM : 0;
}

/* There is one thread: nobody waits to be woken (libc wakes after every pthread_once()), and nobody would wake. */
static long serve_futex(struct call *call)
{
	int operation = (int)call->argument[1] & FUTEX_CMD_MASK;
	return operation == FUTEX_WAKE || operation == FUTEX_WAKE_BITSET ? 0 : -ENOSYS;
}

static long serve_nothing(struct call *call)
{
	(void)call;
	return 0;
}

/* ---- time, randomness, identity -------------------------------------------------------------------- */

static long serve_clock_gettime(struct call *call)
{
	struct timespec now;
	clockid_t clock = (clockid_t)call->argument[0];
	if (clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID) { /* its own, not the process's */
		uint64_t spent = call->compartment->info.run_nanoseconds;
		now = (struct timespec){ .tv_sec = (time_t)(spent / 1000000000),
					 .tv_nsec = (long)(spent % 1000000000) };
		return put(call, call->argument[1], &now, sizeof now);
	}
	if (clock < 0 || clock > CLOCK_TAI) /* negative ones name other processes and open files */
		return -EINVAL;
	return clock_gettime(clock, &now) == 0 ? put(call, call->argument[1], &now, sizeof now) : -errno;
}

static long serve_clock_getres(struct call *call)
{
	struct timespec resolution;
	clockid_t clock = (clockid_t)call->argument[0];
	if (clock < 0 || clock > CLOCK_TAI)
		return -EINVAL;
	if (clock_getres(clock, &resolution) != 0)
		return -errno;
	return call->argument[1] ? put(call, call->argument[1], &resolution, sizeof resolution) : 0;
}

static long serve_gettimeofday(struct call *call)
{
	struct timeval now;
	gettimeofday(&now, NULL);
	return call->argument[0] ? put(call, call->argument[0], &now, sizeof now) : 0;
}

static long serve_time(struct call *call)
{
	time_t now = time(NULL);
	long bad = call->argument[0] ? put(call, call->argument[0], &now, sizeof now) : 0;
	return bad ? bad : now;
}

static long serve_getrandom(struct call *call)
{
	uint8_t random[RANDOM_MAX];
	size_t size = call->argument[1] < sizeof random ? call->argument[1] : sizeof random;
	if (supervisor_random(random, size) != 0)
		return -EAGAIN;
	long bad = put(call, call->argument[0], random, size);
	explicit_bzero(random, size);
	return bad ? bad : (long)size;
}

static long serve_getpid(struct call *call)
{
	return supervisor_process_id(call->compartment->instance);
}

static long serve_getcpu(struct call *call)
{
	unsigned zero = 0;
	long bad = call->argument[0] ? put(call, call->argument[0], &zero, sizeof zero) : 0;
	return !bad && call->argument[1] ? put(call, call->argument[1], &zero, sizeof zero) : bad;
}

static long serve_exit(struct call *call)
{
	call->end = true;
	call->compartment->info.end = STHREAD_EXITED;
	call->compartment->info.exit_status = (int)call->argument[0] & 0xff;
	return 0;
}

/* ---- the table ------------------------------------------------------------------------------------- */

enum need {
	UNKNOWN,    /* no row: ENOSYS */
	FORBIDDEN,  /* would make a second thread of control: EPERM, whatever was granted */
	NOTHING,    /* gives no authority: always served */
	FILE_READ,  /* argument 0 is a descriptor held for reading, */
	FILE_WRITE, /* for writing, */
	FILE_ANY,   /* or at all */
	GRANT,      /* sc_sys_add() */
};

static const struct row {
	enum need need;
	long (*serve)(struct call *call);
} rows[POLICY_SYSTEM_CALLS] = {
	[SYS_read] = { FILE_READ, serve_read },
	[SYS_write] = { FILE_WRITE, serve_write },
	[SYS_readv] = { FILE_READ, serve_readv },
	[SYS_writev] = { FILE_WRITE, serve_writev },
	[SYS_pread64] = { FILE_READ, serve_pread64 },
	[SYS_open] = { GRANT, serve_open },
	[SYS_openat] = { GRANT, serve_openat },
	[SYS_close] = { FILE_ANY, serve_close },
	[SYS_fstat] = { FILE_ANY, serve_fstat },
	[SYS_newfstatat] = { FILE_ANY, serve_newfstatat },
	[SYS_lseek] = { FILE_ANY, serve_lseek },
	[SYS_fcntl] = { FILE_ANY, serve_fcntl },
	[SYS_ioctl] = { FILE_ANY, serve_ioctl },
	[SYS_brk] = { NOTHING, serve_brk },
	[SYS_mmap] = { NOTHING, serve_mmap },
	[SYS_munmap] = { NOTHING, serve_munmap },
	[SYS_mprotect] = { NOTHING, serve_mprotect },
	[SYS_madvise] = { NOTHING, serve_nothing },
	[SYS_futex] = { NOTHING, serve_futex },
	[SYS_sched_yield] = { NOTHING, serve_nothing },
	[SYS_clock_gettime] = { NOTHING, serve_clock_gettime },
	[SYS_clock_getres] = { NOTHING, serve_clock_getres },
	[SYS_gettimeofday] = { NOTHING, serve_gettimeofday },
	[SYS_time] = { NOTHING, serve_time },
	[SYS_getrandom] = { NOTHING, serve_getrandom },
	[SYS_getpid] = { NOTHING, serve_getpid },
	[SYS_gettid] = { NOTHING, serve_getpid },
	[SYS_getcpu] = { NOTHING, serve_getcpu },
	[SYS_clone] = { FORBIDDEN, NULL },
	[SYS_clone3] = { FORBIDDEN, NULL },
	[SYS_fork] = { FORBIDDEN, NULL },
	[SYS_vfork] = { FORBIDDEN, NULL },
	[SYS_execve] = { FORBIDDEN, NULL },
	[SYS_exit] = { NOTHING, serve_exit },
	[SYS_exit_group] = { NOTHING, serve_exit },
};

/* Says whether the caller may make the call: 0, or the error it gets. */
static long admit(struct call *call, long number, const struct row *row)
{
	static const int rights[] = { [FILE_READ] = PROT_READ, [FILE_WRITE] = PROT_WRITE, [FILE_ANY] = 0 };
	switch (row->need) {
	case NOTHING:
		return 0;
	case GRANT:
		return policy_allows_call(&call->compartment->policy, number) ? 0 : -EPERM;
	case FILE_READ:
	case FILE_WRITE:
	case FILE_ANY:
		call->file = descriptor_get(call->compartment, (int)call->argument[0], rights[row->need]);
		return call->file ? 0 : -EBADF;
	case FORBIDDEN:
		return -EPERM;
	case UNKNOWN:
	default:
		return -ENOSYS;
	}
}

enum served system_call_serve(struct compartment *compartment, struct wait *wait)
{
	static const struct row none = { UNKNOWN, NULL };
	struct kvm_regs *regs = &compartment->space->context.regs;
	long number = (long)regs->rax;
	const struct row *row = number >= 0 && number < POLICY_SYSTEM_CALLS ? &rows[number] : &none;
	struct call call = { .compartment = compartment,
			     .bounds = compartment_bounds(compartment),
			     .argument = { regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9 },
			     .wait = wait };
	long answer = admit(&call, number, row);
	if (answer) {
		compartment->info.system_call = (int)number;
		compartment->info.calls_denied++;
		supervisor.statistics.calls_denied++;
		if (compartment->policy.flags & SC_KILL && answer != -EBADF) {
			compartment->info.end = STHREAD_DENIED;
			return SERVED_END;
		}
		regs->rax = (uint64_t)answer;
		return SERVED;
	}
	answer = row->serve(&call);
	if (call.park)
		return SERVED_PARK; /* RAX still holds the number: the call is made again */
	compartment->info.calls_served++;
	supervisor.statistics.calls_served++;
	regs->rax = (uint64_t)answer;
	return call.end ? SERVED_END : SERVED;
}
