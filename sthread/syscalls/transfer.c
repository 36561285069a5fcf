/* transfer.c - the read and write family, on descriptors that the caller holds.  See call.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "syscalls/call.h"

enum {
	VECTORS_MAX = 64
};

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
static long transfer_now(struct call *call, const struct iovec *list, int count, bool write)
{
	const struct open_file *file = call->file;
	ssize_t done;
	if (S_ISREG(file->mode) || S_ISBLK(file->mode)) {
		compartment_unlock(call->compartment); /* the disk may be slow */
		done = write ? write_quietly(file->fd, list, count, 0) : readv(file->fd, list, count);
		compartment_relock(call->compartment);
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
			compartment_unlock(call->compartment); /* somebody else may have been faster */
			done = write ? write_quietly(file->fd, &first, 1, 0) : readv(file->fd, &first, 1);
			compartment_relock(call->compartment);
		}
	}
	return done < 0 ? -errno : done;
}

static long transfer(struct call *call, const struct iovec *list, int count, bool write)
{
	long done = transfer_now(call, list, count, write);
	if (done == -EAGAIN && !(fcntl(call->file->fd, F_GETFL) & O_NONBLOCK))
		return call_park(call, call->file->fd, write ? POLLOUT : POLLIN);
	return done;
}

static long transfer_flat(struct call *call, bool write)
{
	struct iovec list[PIECES];
	int count;
	size_t size = call->argument[2] < TRANSFER_MAX ? call->argument[2] : TRANSFER_MAX;
	if (!size)
		return 0;
	if (call_pieces(call, call->argument[1], size, !write, list, PIECES, &count) < 0)
		return -EFAULT;
	return transfer(call, list, count, write);
}

long serve_read(struct call *call)
{
	return transfer_flat(call, false);
}

long serve_write(struct call *call)
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
	if (call_get(call, call->argument[1], theirs, wanted * sizeof *theirs) != 0)
		return -EFAULT;
	for (size_t i = 0; i < wanted && used < PIECES; i++) {
		int count;
		if (!theirs[i].iov_len)
			continue;
		if (theirs[i].iov_len > TRANSFER_MAX - total)
			theirs[i].iov_len = TRANSFER_MAX - total;
		ssize_t some = call_pieces(call, (uint64_t)theirs[i].iov_base, theirs[i].iov_len, !write, list + used,
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

long serve_readv(struct call *call)
{
	return transfer_vector(call, false);
}

long serve_writev(struct call *call)
{
	return transfer_vector(call, true);
}

long serve_pread64(struct call *call)
{
	struct iovec list[PIECES];
	int count;
	size_t size = call->argument[2] < TRANSFER_MAX ? call->argument[2] : TRANSFER_MAX;
	if (!S_ISREG(call->file->mode))
		return -ESPIPE;
	if (!size)
		return 0;
	if (call_pieces(call, call->argument[1], size, true, list, PIECES, &count) < 0)
		return -EFAULT;
	compartment_unlock(call->compartment);
	ssize_t done = preadv(call->file->fd, list, count, (off_t)call->argument[3]);
	compartment_relock(call->compartment);
	return done < 0 ? -errno : done;
}
