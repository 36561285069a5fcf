/*
 * call.h - one system call of a compartment while it is served: what the files of this folder share.
 *
 * Arguments are registers, copied out once; what they point to is read or written through the caller's own page table
 * with the caller's own rights, once.  A handler returns the answer, or a negative errno.
 */
#ifndef STHREAD_CALL_H
#define STHREAD_CALL_H

#include <signal.h>
#include <sys/uio.h>

#include "compartment.h"

enum {
	TRANSFER_MAX = 1 << 20, /* bytes; more is a short transfer */
	PIECES = 64,            /* of our memory that one transfer is made of */
	PATH_ROOM = 4096,
	NUMBERS_MAX = 1024 /* of descriptors that a caller may choose */
};

struct call {
	struct compartment *compartment;
	struct memory_bounds bounds;
	uint64_t argument[6];
	struct descriptor *descriptor; /* for rows that want one, */
	struct open_file *file;        /* and its file */
	struct wait *wait;
	bool park;    /* set by a handler: it would block */
	bool end;     /* set by a handler: the life is over */
	bool refused; /* set by call_granted(), call_refused() */
	long number;
};

/* table.c: for calls that want sc_sys_add() only when they are made in some way.  Returns 0, or -EPERM and the call is
 * counted as refused. */
long call_granted(struct call *call);
/* For what no grant allows: -EPERM, counted likewise. */
long call_refused(struct call *call);

/* ---- memory of the caller (caller.c) ----------------------------------------------------------------- */

/* Return 0 or -EFAULT. */
long call_get(struct call *call, uint64_t address, void *to, size_t size);
long call_put(struct call *call, uint64_t address, const void *from, size_t size);
/* A string of at most room - 1 bytes; -ENAMETOOLONG if it is longer. */
long call_string(struct call *call, uint64_t address, char *to, size_t room);
/* As address_space_pieces(). */
ssize_t call_pieces(struct call *call, uint64_t address, size_t length, bool write, struct iovec *list, int room,
		    int *count);

/* What a transfer is made of: pieces of ours that are the caller's memory. */
struct piece_list {
	struct iovec list[PIECES];
	int count;
	size_t size;   /* of all pieces */
	bool complete; /* they are all that the caller named, not only what comes before a hole or a limit */
};
/* Describes memory that a call reads, or writes; return 0, or -EFAULT if not even the first byte can be.  Those of a
 * struct iovec list, which is read once; -EINVAL if it is too long. */
long call_flat(struct call *call, uint64_t address, size_t length, bool write, struct piece_list *pieces);
long call_vector(struct call *call, uint64_t address, size_t count, bool write, struct piece_list *pieces);
/* Leaves out the first bytes; size stays. */
void piece_list_skip(struct piece_list *pieces, size_t bytes);
/* Copy between the pieces and one buffer.  gather returns how many bytes were copied. */
void piece_list_scatter(const struct piece_list *pieces, const void *from, size_t size);
size_t piece_list_gather(const struct piece_list *pieces, void *to, size_t room);

/* ---- descriptors (files.c, new_files.c) -------------------------------------------------------------- */

/* Makes an open file of a descriptor that nobody else knows, and counts it.  NULL: fd was closed. */
struct open_file *call_own_file(int fd);
/* Gives the caller a descriptor for a file, whose reference it takes over.  Returns its number or -EMFILE. */
long call_add(struct call *call, struct open_file *file, int rights, bool nonblocking);
/* Both for the result of a system call that makes one; -errno if it failed. */
long call_new(struct call *call, int fd, enum open_file_kind kind, int rights, bool nonblocking);
/* Whether the call may change the file itself, not only use it: one opened inside, or the call is granted.
 * Returns 0 or -EPERM. */
long call_may_change(struct call *call);
/* Whether the caller waits in calls on its descriptor. */
bool call_blocks(const struct call *call);

/* Between these the calling thread gets no SIGPIPE and no SIGXFSZ, nor the signals that a terminal sends to jobs in the
 * background: for the process they would be signals, for the compartment they are errors.
 * error: that of the call in between, 0 if it had none; errno is set to it. */
struct quiet {
	sigset_t before, pending;
};
void quiet_begin(struct quiet *quiet);
void quiet_end(const struct quiet *quiet, int error);

/* ---- waiting (wait.c, transfer.c) --------------------------------------------------------------------- */

/* Gives the call a deadline this far from now, unless it had one when it was served before. */
void call_limit(struct call *call, uint64_t nanoseconds);
/* Whether the call has a deadline that has passed. */
bool call_time_is_up(const struct call *call);
/* Parks the call until fd (-1: none) has one of the events or its deadline has passed.  Returns -EAGAIN. */
long call_park(struct call *call, int fd, short events);
/* A transfer has moved `done` bytes, or failed.  Returns the answer, or parks: if nothing moved, or if all of the wanted
 * bytes are to be moved and some are left. */
long call_progress(struct call *call, long done, size_t wanted, bool all, bool wait, short events);
bool socket_keeps_boundaries(const struct call *call);
/* A time as nanoseconds; UINT64_MAX if they are more. */
struct timespec;
bool timespec_valid(const struct timespec *time);
uint64_t timespec_nanoseconds(const struct timespec *time);

/* ---- handlers -------------------------------------------------------------------------------------- */

/* transfer.c */
long serve_read(struct call *call);
long serve_write(struct call *call);
long serve_readv(struct call *call);
long serve_writev(struct call *call);
long serve_pread64(struct call *call);
long serve_pwrite64(struct call *call);
long serve_preadv(struct call *call);
long serve_pwritev(struct call *call);

/* names.c */
long serve_open(struct call *call);
long serve_creat(struct call *call);
long serve_openat(struct call *call);
long serve_fstat(struct call *call);
long serve_stat(struct call *call);
long serve_lstat(struct call *call);
long serve_newfstatat(struct call *call);
long serve_statx(struct call *call);
long serve_access(struct call *call);
long serve_faccessat(struct call *call);
long serve_faccessat2(struct call *call);
long serve_readlink(struct call *call);
long serve_readlinkat(struct call *call);
long serve_getcwd(struct call *call);
long serve_mkdir(struct call *call);
long serve_mkdirat(struct call *call);
long serve_unlink(struct call *call);
long serve_rmdir(struct call *call);
long serve_unlinkat(struct call *call);
long serve_rename(struct call *call);
long serve_renameat(struct call *call);
long serve_renameat2(struct call *call);

/* files.c */
long serve_close(struct call *call);
long serve_dup(struct call *call);
long serve_dup2(struct call *call);
long serve_dup3(struct call *call);
long serve_flock(struct call *call);
long serve_fcntl(struct call *call);
long serve_ioctl(struct call *call);
long serve_lseek(struct call *call);
long serve_fsync(struct call *call);
long serve_fdatasync(struct call *call);
long serve_ftruncate(struct call *call);
long serve_fallocate(struct call *call);
long serve_getdents64(struct call *call);

/* new_files.c */
long serve_pipe(struct call *call);
long serve_pipe2(struct call *call);
long serve_socketpair(struct call *call);
long serve_eventfd(struct call *call);
long serve_eventfd2(struct call *call);
long serve_timerfd_create(struct call *call);
long serve_timerfd_settime(struct call *call);
long serve_timerfd_gettime(struct call *call);

/* sockets.c */
long serve_sendto(struct call *call);
long serve_recvfrom(struct call *call);
long serve_sendmsg(struct call *call);
long serve_recvmsg(struct call *call);
long serve_socket(struct call *call);
long serve_connect(struct call *call);
long serve_bind(struct call *call);
long serve_listen(struct call *call);
long serve_accept(struct call *call);
long serve_accept4(struct call *call);
long serve_shutdown(struct call *call);
long serve_getsockname(struct call *call);
long serve_getpeername(struct call *call);
long serve_getsockopt(struct call *call);
long serve_setsockopt(struct call *call);

/* poll.c */
long serve_poll(struct call *call);
long serve_ppoll(struct call *call);
long serve_select(struct call *call);
long serve_pselect6(struct call *call);
long serve_epoll_create(struct call *call);
long serve_epoll_create1(struct call *call);
long serve_epoll_ctl(struct call *call);
long serve_epoll_wait(struct call *call);
long serve_epoll_pwait2(struct call *call);

/* memory.c */
long serve_brk(struct call *call);
long serve_mmap(struct call *call);
long serve_munmap(struct call *call);
long serve_mremap(struct call *call);
long serve_mprotect(struct call *call);
long serve_madvise(struct call *call);

/* wait.c */
long serve_nanosleep(struct call *call);
long serve_clock_nanosleep(struct call *call);

/* time.c */
long serve_clock_gettime(struct call *call);
long serve_clock_getres(struct call *call);
long serve_gettimeofday(struct call *call);
long serve_time(struct call *call);

/* process.c */
long serve_futex(struct call *call);
long serve_nothing(struct call *call);
long serve_getrandom(struct call *call);
long serve_getpid(struct call *call);
long serve_getuid(struct call *call);
long serve_geteuid(struct call *call);
long serve_getgid(struct call *call);
long serve_getegid(struct call *call);
long serve_uname(struct call *call);
long serve_getcpu(struct call *call);
long serve_sched_getaffinity(struct call *call);
long serve_getrlimit(struct call *call);
long serve_prlimit64(struct call *call);
long serve_getrusage(struct call *call);
long serve_times(struct call *call);
long serve_sysinfo(struct call *call);
long serve_rt_sigaction(struct call *call);
long serve_rt_sigprocmask(struct call *call);
long serve_sigaltstack(struct call *call);
long serve_exit(struct call *call);

#endif
