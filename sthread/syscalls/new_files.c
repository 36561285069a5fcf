/*
 * new_files.c - calls that make open files of which nobody else knows: pipes, socket pairs, counters, timers.
 *
 * They all want sc_sys_add(), because the descriptors are the process's.  Since nobody shares these files they never
 * block: whether they do for the caller is kept with its descriptor.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "syscalls/call.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

long call_new(struct call *call, int fd, enum open_file_kind kind, int rights, bool nonblocking)
{
	if (fd < 0)
		return -errno;
	struct open_file *file = call_own_file(fd);
	if (!file)
		return -EMFILE;
	file->kind = kind;
	return call_add(call, file, rights, nonblocking);
}

/* Gives the caller both ends; all or nothing. */
static long give_pair(struct call *call, const int ends[2], const int rights[2], bool nonblocking, uint64_t to)
{
	int numbers[2];
	long first = call_new(call, ends[0], FILE_PLAIN, rights[0], nonblocking);
	if (first < 0) {
		close(ends[1]);
		return first;
	}
	long second = call_new(call, ends[1], FILE_PLAIN, rights[1], nonblocking);
	if (second >= 0) {
		numbers[0] = (int)first;
		numbers[1] = (int)second;
		if (call_put(call, to, numbers, sizeof numbers) == 0)
			return 0;
		descriptor_close(call->compartment, second);
		second = -EFAULT;
	}
	descriptor_close(call->compartment, first);
	return second;
}

static long make_pipe(struct call *call, uint64_t flags)
{
	static const int rights[] = { PROT_READ, PROT_WRITE };
	int ends[2];
	if (flags & ~(uint64_t)(O_CLOEXEC | O_NONBLOCK))
		return -EINVAL;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
		return -errno;
	return give_pair(call, ends, rights, flags & O_NONBLOCK, call->argument[0]);
}

long serve_pipe(struct call *call)
{
	return make_pipe(call, 0);
}

long serve_pipe2(struct call *call)
{
	return make_pipe(call, call->argument[1]);
}

long serve_socketpair(struct call *call)
{
	static const int rights[] = { BOTH, BOTH };
	int ends[2], type = (int)call->argument[1] & ~(SOCK_CLOEXEC | SOCK_NONBLOCK);
	if ((int)call->argument[0] != AF_UNIX)
		return -EAFNOSUPPORT;
	if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET)
		return -EPROTONOSUPPORT;
	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, (int)call->argument[2], ends) != 0)
		return -errno;
	return give_pair(call, ends, rights, call->argument[1] & SOCK_NONBLOCK, call->argument[3]);
}

static long make_counter(struct call *call, uint64_t flags)
{
	if (flags & ~(uint64_t)(EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK))
		return -EINVAL;
	int fd = eventfd((unsigned)call->argument[0], (int)(flags & EFD_SEMAPHORE) | EFD_CLOEXEC | EFD_NONBLOCK);
	return call_new(call, fd, FILE_PLAIN, BOTH, flags & EFD_NONBLOCK);
}

long serve_eventfd(struct call *call)
{
	return make_counter(call, 0);
}

long serve_eventfd2(struct call *call)
{
	return make_counter(call, call->argument[1]);
}

long serve_timerfd_create(struct call *call)
{
	clockid_t clock = (clockid_t)call->argument[0];
	if (call->argument[1] & ~(uint64_t)(TFD_CLOEXEC | TFD_NONBLOCK) ||
	    (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME))
		return -EINVAL; /* other clocks wake a sleeping machine */
	return call_new(call, timerfd_create(clock, TFD_CLOEXEC | TFD_NONBLOCK), FILE_TIMER, PROT_READ,
			call->argument[1] & TFD_NONBLOCK);
}

long serve_timerfd_settime(struct call *call)
{
	struct itimerspec wanted, before;
	if (call->file->kind != FILE_TIMER)
		return -EINVAL;
	if (call_get(call, call->argument[2], &wanted, sizeof wanted) != 0)
		return -EFAULT;
	if (timerfd_settime(call->file->fd, (int)call->argument[1], &wanted, &before) != 0)
		return -errno;
	return call->argument[3] ? call_put(call, call->argument[3], &before, sizeof before) : 0;
}

long serve_timerfd_gettime(struct call *call)
{
	struct itimerspec left;
	if (call->file->kind != FILE_TIMER)
		return -EINVAL;
	if (timerfd_gettime(call->file->fd, &left) != 0)
		return -errno;
	return call_put(call, call->argument[1], &left, sizeof left);
}
