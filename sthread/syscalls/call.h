/*
 * call.h - one system call of a compartment while it is served: what the files of this folder share.
 *
 * Arguments are registers, copied out once; what they point to is read or written through the caller's own page table
 * with the caller's own rights, once.  A handler returns the answer, or a negative errno.
 */
#ifndef STHREAD_CALL_H
#define STHREAD_CALL_H

#include <sys/uio.h>

#include "compartment.h"

enum {
	TRANSFER_MAX = 1 << 20, /* bytes; more is a short transfer */
	PIECES = 64,            /* of our memory that one transfer is made of */
	PATH_ROOM = 4096
};

struct call {
	struct compartment *compartment;
	struct memory_bounds bounds;
	uint64_t argument[6];
	struct open_file *file; /* for rows that want one */
	struct wait *wait;
	bool park;    /* set by a handler: it would block */
	bool end;     /* set by a handler: the life is over */
	bool refused; /* set by call_granted() */
	long number;
};

/* table.c: for calls that want sc_sys_add() only when they are made in some way.  Returns 0, or -EPERM and the call is
 * counted as refused. */
long call_granted(struct call *call);

/* caller.c: memory of the caller.  Return 0 or -EFAULT. */
long call_get(struct call *call, uint64_t address, void *to, size_t size);
long call_put(struct call *call, uint64_t address, const void *from, size_t size);
/* A string of at most room - 1 bytes; -ENAMETOOLONG if it is longer. */
long call_string(struct call *call, uint64_t address, char *to, size_t room);
/* As address_space_pieces(). */
ssize_t call_pieces(struct call *call, uint64_t address, size_t length, bool write, struct iovec *list, int room,
		    int *count);

/* wait.c: waiting.  Gives the call a deadline this far from now, unless it had one when it was served before. */
void call_limit(struct call *call, uint64_t nanoseconds);
/* Whether the call has a deadline that has passed. */
bool call_time_is_up(const struct call *call);
/* Parks the call until fd (-1: none) has one of the events or its deadline has passed.  Returns -EAGAIN. */
long call_park(struct call *call, int fd, short events);
/* A time as nanoseconds; UINT64_MAX if they are more. */
struct timespec;
bool timespec_valid(const struct timespec *time);
uint64_t timespec_nanoseconds(const struct timespec *time);

/* wait.c */
long serve_nanosleep(struct call *call);
long serve_clock_nanosleep(struct call *call);

/* transfer.c */
long serve_read(struct call *call);
long serve_write(struct call *call);
long serve_readv(struct call *call);
long serve_writev(struct call *call);
long serve_pread64(struct call *call);

/* files.c */
long serve_open(struct call *call);
long serve_openat(struct call *call);
long serve_close(struct call *call);
long serve_fstat(struct call *call);
long serve_newfstatat(struct call *call);
long serve_lseek(struct call *call);
long serve_fcntl(struct call *call);
long serve_ioctl(struct call *call);

/* memory.c */
long serve_brk(struct call *call);
long serve_mmap(struct call *call);
long serve_munmap(struct call *call);
long serve_mprotect(struct call *call);

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
long serve_getcpu(struct call *call);
long serve_exit(struct call *call);

#endif
