/* transfer.c - the read and write family, on descriptors that the caller holds.  See call.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "slice.h"
#include "syscalls/call.h"

enum {
	BOUNCE = 4096 /* bytes that go through a buffer to files which want them in one piece */
};

static ssize_t write_quietly(int fd, const struct iovec *list, int count, off_t at, int flags)
{
	struct quiet quiet;
	quiet_begin(&quiet);
	ssize_t done = pwritev2(fd, list, count, at, flags);
	quiet_end(&quiet, done < 0 ? errno : 0);
	return done;
}

static ssize_t move(const struct open_file *file, const struct iovec *list, int count, int flags, bool write)
{
	return write ? write_quietly(file->fd, list, count, -1, flags) : preadv2(file->fd, list, count, -1, flags);
}

/* The same where it may last, because a disk is slow. */
static ssize_t move_patiently(const struct call *call, const struct iovec *list, int count, bool write)
{
	compartment_unlock(call->compartment);
	ssize_t done = move(call->file, list, count, 0, write);
	compartment_relock(call->compartment);
	return done;
}

/* And where it may wait for ever: a terminal that has room has not room for everything, and whoever empties it may be the
 * process itself, after this call.  Kicked, it says how far it got.  Signals to background jobs would stop the process. */
static ssize_t move_kicked(const struct call *call, const struct iovec *list, int count, bool write)
{
	struct quiet quiet;
	quiet_begin(&quiet);
	slice_kick_often();
	ssize_t done = move_patiently(call, list, count, write);
	int error = done < 0 ? errno : 0;
	slice_kick_no_more();
	quiet_end(&quiet, error);
	return done;
}

/* Files that know no transfer without waiting, a terminal say, are asked first.  What is not shared never blocks. */
static ssize_t move_when_ready(const struct call *call, const struct iovec *list, int count, bool write)
{
	ssize_t done = move(call->file, list, count, RWF_NOWAIT, write);
	if (done >= 0 || (errno != EOPNOTSUPP && errno != EINVAL))
		return done;
	struct pollfd ready = { .fd = call->file->fd, .events = write ? POLLOUT : POLLIN };
	struct iovec first = list[0];
	if (write && first.iov_len > BOUNCE)
		first.iov_len = BOUNCE; /* a pipe takes PIPE_BUF without waiting */
	if (poll(&ready, 1, 0) != 1) {  /* not, or a signal has come before it could be told */
		errno = EAGAIN;
		return -1;
	}
	return move_kicked(call, &first, count ? 1 : 0, write);
}

/* Counters and timers, which want their 8 bytes in one piece. */
static ssize_t move_whole(const struct call *call, const struct piece_list *pieces, bool write)
{
	char bounce[BOUNCE];
	struct iovec whole = { .iov_base = bounce, .iov_len = pieces->size < BOUNCE ? pieces->size : BOUNCE };
	if (write)
		piece_list_gather(pieces, bounce, sizeof bounce);
	ssize_t done = move_when_ready(call, &whole, 1, write);
	if (!write &&
	    done > 0) /* the lock was given up only if the file made it wait: pieces are good for one such time */
		piece_list_scatter(pieces, bounce, (size_t)done);
	return done;
}

/* One transfer that never blocks; where it would, -EAGAIN.  The open file's own flags are left alone: others share it. */
static long transfer_now(const struct call *call, const struct piece_list *pieces, bool write)
{
	const struct open_file *file = call->file;
	ssize_t done;
	if (S_ISREG(file->mode) || S_ISBLK(file->mode)) {
		done = move_patiently(call, pieces->list, pieces->count, write);
	} else if (S_ISSOCK(file->mode)) {
		struct msghdr message = { .msg_iov = (struct iovec *)pieces->list,
					  .msg_iovlen = (size_t)pieces->count };
		int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
		done = write ? sendmsg(file->fd, &message, flags) : recvmsg(file->fd, &message, flags);
	} else if (!(file->mode & S_IFMT) && pieces->count > 1) {
		done = move_whole(call, pieces, write);
	} else {
		done = move_when_ready(call, pieces->list, pieces->count, write);
	}
	return done < 0 ? -errno : done;
}

long call_progress(struct call *call, long done, size_t wanted, bool all, bool wait, short events)
{
	struct pending_call *pending = &call->compartment->pending;
	if (done == -EAGAIN && wait)
		return call_park(call, call->file->fd, events);
	if (done < 0)
		return pending->done ? (long)pending->done : done;
	pending->done += (uint64_t)done;
	if (!done || !all || !wait || pending->done >= wanted)
		return (long)pending->done;
	return call_park(call, call->file->fd, events);
}

/* What waits for room has all of it written, as from the kernel; what reads gets what there is. */
static long transfer(struct call *call, struct piece_list *pieces, bool write)
{
	size_t wanted = pieces->size;
	if (!pieces->complete && write && S_ISSOCK(call->file->mode) && socket_keeps_boundaries(call))
		return -EMSGSIZE; /* a message is not cut */
	if (!pieces->count)
		return 0;
	piece_list_skip(pieces, call->compartment->pending.done);
	if (!pieces->count)
		return (long)call->compartment->pending.done;
	long done = transfer_now(call, pieces, write);
	bool wait = done != (long)wanted && call_blocks(call);
	return call_progress(call, done, wanted, write && !S_ISREG(call->file->mode), wait, write ? POLLOUT : POLLIN);
}

static long transfer_flat(struct call *call, bool write)
{
	struct piece_list pieces;
	long bad = call_flat(call, call->argument[1], call->argument[2], !write, &pieces);
	return bad ? bad : transfer(call, &pieces, write);
}

static long transfer_vector(struct call *call, bool write)
{
	struct piece_list pieces;
	long bad = call_vector(call, call->argument[1], call->argument[2], !write, &pieces);
	return bad ? bad : transfer(call, &pieces, write);
}

long serve_read(struct call *call)
{
	return transfer_flat(call, false);
}

long serve_write(struct call *call)
{
	return transfer_flat(call, true);
}

long serve_readv(struct call *call)
{
	return transfer_vector(call, false);
}

long serve_writev(struct call *call)
{
	return transfer_vector(call, true);
}

/* ---- at a position --------------------------------------------------------------------------------- */

static long transfer_at(struct call *call, const struct piece_list *pieces, bool write)
{
	off_t at = (off_t)call->argument[3];
	if (!S_ISREG(call->file->mode))
		return -ESPIPE;
	if (at < 0)
		return -EINVAL;
	if (!pieces->count)
		return 0;
	compartment_unlock(call->compartment);
	ssize_t done = write ? write_quietly(call->file->fd, pieces->list, pieces->count, at, 0) :
			       preadv(call->file->fd, pieces->list, pieces->count, at);
	compartment_relock(call->compartment);
	return done < 0 ? -errno : done;
}

static long transfer_flat_at(struct call *call, bool write)
{
	struct piece_list pieces;
	long bad = call_flat(call, call->argument[1], call->argument[2], !write, &pieces);
	return bad ? bad : transfer_at(call, &pieces, write);
}

static long transfer_vector_at(struct call *call, bool write)
{
	struct piece_list pieces;
	long bad = call_vector(call, call->argument[1], call->argument[2], !write, &pieces);
	return bad ? bad : transfer_at(call, &pieces, write);
}

long serve_pread64(struct call *call)
{
	return transfer_flat_at(call, false);
}

long serve_pwrite64(struct call *call)
{
	return transfer_flat_at(call, true);
}

long serve_preadv(struct call *call)
{
	return transfer_vector_at(call, false);
}

long serve_pwritev(struct call *call)
{
	return transfer_vector_at(call, true);
}
