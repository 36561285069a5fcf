/*
 * poll.c - waiting for several descriptors: poll, select, epoll.
 *
 * What would wait parks, on one descriptor that the host can poll: the only one that is waited for, an epoll descriptor
 * made for the purpose, or the caller's own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

#include "slice.h"
#include "syscalls/call.h"

enum {
	POLL_MAX = 256,   /* descriptors of one poll() */
	EVENTS_MAX = 64,  /* of one epoll_wait() */
	SELECT_MAX = 1024 /* numbers that a set can hold */
};

/* ---- timeouts -------------------------------------------------------------------------------------- */

struct timeout {
	bool limited;
	uint64_t nanoseconds;
};

static struct timeout from_milliseconds(uint64_t milliseconds)
{
	return (struct timeout){ .limited = (int)milliseconds >= 0,
				 .nanoseconds =
					 (int)milliseconds >= 0 ? milliseconds * NANOSECONDS_PER_MILLISECOND : 0 };
}

static long get_timeout(struct call *call, uint64_t at, struct timeout *timeout)
{
	struct timespec time;
	*timeout = (struct timeout){ .limited = at != 0 };
	if (!at)
		return 0;
	if (call_get(call, at, &time, sizeof time) != 0)
		return -EFAULT;
	if (!timespec_valid(&time))
		return -EINVAL;
	timeout->nanoseconds = timespec_nanoseconds(&time);
	return 0;
}

/* Whether the call is to answer although nothing has happened; else it parks. */
static bool is_over(struct call *call, const struct timeout *timeout)
{
	if (timeout->limited && !timeout->nanoseconds)
		return true;
	call_limit(call, timeout->limited ? timeout->nanoseconds : UINT64_MAX);
	return call_time_is_up(call);
}

/* ---- poll ------------------------------------------------------------------------------------------ */

/* Makes an epoll descriptor that is readable when one of the events has come. */
static long make_set(struct call *call, const struct pollfd *wanted, unsigned count)
{
	struct pending_call *pending = &call->compartment->pending;
	int set = epoll_create1(EPOLL_CLOEXEC);
	if (pending->set)
		open_file_put(pending->set); /* the wanted may have changed in the caller's memory */
	pending->set = set >= 0 ? call_own_file(set) : NULL;
	if (!pending->set)
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++) {
		struct epoll_event event = { 0 };
		if (wanted[i].fd < 0)
			continue;
		for (unsigned j = 0; j < count; j++)
			if (wanted[j].fd == wanted[i].fd)
				event.events |= (unsigned short)wanted[j].events;
		if (epoll_ctl(pending->set->fd, EPOLL_CTL_ADD, wanted[i].fd, &event) != 0 && errno != EEXIST &&
		    errno != EPERM) /* a file that is always ready, of which nothing is wanted */
			return -ENOMEM;
	}
	return 0;
}

/* ready: our descriptors, -1 for those that do not count. */
static long poll_or_park(struct call *call, struct pollfd *ready, unsigned count, const struct timeout *timeout)
{
	unsigned waits = 0, last = 0;
	int found = poll(ready, count, 0);
	if (found != 0)
		return found < 0 ? -errno : found;
	if (is_over(call, timeout))
		return 0;
	for (unsigned i = 0; i < count; i++)
		if (ready[i].fd >= 0) {
			last = i;
			waits++;
		}
	if (!waits)
		return call_park(call, -1, 0);
	if (waits == 1)
		return call_park(call, ready[last].fd, ready[last].events);
	long bad = make_set(call, ready, count);
	return bad ? bad : call_park(call, call->compartment->pending.set->fd, POLLIN);
}

static long poll_list(struct call *call, const struct timeout *timeout)
{
	struct pollfd theirs[POLL_MAX], ours[POLL_MAX];
	unsigned count = (unsigned)call->argument[1], invalid = 0;
	if (count > POLL_MAX)
		return -EINVAL;
	if (call_get(call, call->argument[0], theirs, count * sizeof *theirs) != 0)
		return -EFAULT;
	for (unsigned i = 0; i < count; i++) {
		const struct open_file *file = descriptor_get(call->compartment, theirs[i].fd, 0);
		ours[i] = (struct pollfd){ .fd = file ? file->fd : -1, .events = theirs[i].events };
		theirs[i].revents = theirs[i].fd >= 0 && !file ? POLLNVAL : 0;
		invalid += theirs[i].revents != 0;
	}
	static const struct timeout at_once = { .limited = true };
	long found = poll_or_park(call, ours, count, invalid ? &at_once : timeout);
	if (found < 0)
		return found;
	for (unsigned i = 0; i < count; i++)
		if (ours[i].fd >= 0)
			theirs[i].revents = ours[i].revents;
	/* Only the answers: the rest belongs to the caller, and may be shared with others. */
	for (unsigned i = 0; i < count; i++)
		if (call_put(call, call->argument[0] + i * sizeof *theirs + offsetof(struct pollfd, revents),
			     &theirs[i].revents, sizeof theirs[i].revents) != 0)
			return -EFAULT;
	return found + invalid;
}

long serve_poll(struct call *call)
{
	struct timeout timeout = from_milliseconds(call->argument[2]);
	return poll_list(call, &timeout);
}

/* There are no signals inside: the mask means nothing. */
long serve_ppoll(struct call *call)
{
	struct timeout timeout;
	long bad = get_timeout(call, call->argument[2], &timeout);
	return bad ? bad : poll_list(call, &timeout);
}

/* ---- select ---------------------------------------------------------------------------------------- */

enum {
	SETS = 3,
	WORD_BITS = 64
};

static const struct {
	short wanted, answers;
} set_events[SETS] = { { POLLIN | POLLRDNORM | POLLRDBAND, POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR },
		       { POLLOUT | POLLWRNORM | POLLWRBAND, POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR },
		       { POLLPRI, POLLPRI } };

typedef uint64_t bits[SELECT_MAX / WORD_BITS];

static bool is_set(const bits set, unsigned number)
{
	return set[number / WORD_BITS] >> number % WORD_BITS & 1;
}

static long select_sets(struct call *call, const struct timeout *timeout)
{
	bits sets[SETS] = { 0 }, answers[SETS] = { 0 };
	struct pollfd ours[COMPARTMENT_FILES];
	unsigned numbers[COMPARTMENT_FILES], count = 0, marks = 0;
	uint64_t limit = call->argument[0];
	if (limit > SELECT_MAX)
		return -EINVAL;
	size_t size = (limit + WORD_BITS - 1) / WORD_BITS * sizeof(uint64_t);
	for (unsigned i = 0; i < SETS; i++)
		if (call->argument[1 + i] && call_get(call, call->argument[1 + i], sets[i], size) != 0)
			return -EFAULT;
	for (unsigned number = 0; number < limit; number++) {
		short events = 0;
		for (unsigned i = 0; i < SETS; i++)
			events |= is_set(sets[i], number) ? set_events[i].wanted : 0;
		if (!events)
			continue;
		const struct open_file *file = descriptor_get(call->compartment, number, 0);
		if (!file)
			return -EBADF;
		numbers[count] = number; /* no more than there are descriptors */
		ours[count++] = (struct pollfd){ .fd = file->fd, .events = events };
	}
	long found = poll_or_park(call, ours, count, timeout);
	if (found < 0)
		return found;
	for (unsigned at = 0; at < count; at++)
		for (unsigned i = 0; i < SETS; i++)
			if (is_set(sets[i], numbers[at]) && ours[at].revents & set_events[i].answers) {
				answers[i][numbers[at] / WORD_BITS] |= (uint64_t)1 << numbers[at] % WORD_BITS;
				marks++;
			}
	for (unsigned i = 0; i < SETS; i++)
		if (call->argument[1 + i] && call_put(call, call->argument[1 + i], answers[i], size) != 0)
			return -EFAULT;
	return marks;
}

/* What is left of the timeout, as Linux tells it. */
static struct timespec time_left(const struct call *call, const struct timeout *timeout)
{
	uint64_t deadline = call->compartment->pending.deadline, now = slice_clock();
	uint64_t left = !deadline ? timeout->nanoseconds : deadline > now ? deadline - now : 0;
	return (struct timespec){ .tv_sec = (time_t)(left / 1000000000), .tv_nsec = (long)(left % 1000000000) };
}

long serve_select(struct call *call)
{
	struct timeout timeout = { .limited = call->argument[4] != 0 };
	struct timeval time;
	if (timeout.limited) {
		if (call_get(call, call->argument[4], &time, sizeof time) != 0)
			return -EFAULT;
		if (time.tv_sec < 0 || time.tv_usec < 0 || time.tv_usec >= 1000000)
			return -EINVAL;
		const struct timespec exact = { .tv_sec = time.tv_sec, .tv_nsec = time.tv_usec * 1000 };
		timeout.nanoseconds = timespec_nanoseconds(&exact);
	}
	long found = select_sets(call, &timeout);
	if (timeout.limited && found >= 0) {
		const struct timespec left = time_left(call, &timeout);
		time = (struct timeval){ .tv_sec = left.tv_sec, .tv_usec = left.tv_nsec / 1000 };
		call_put(call, call->argument[4], &time, sizeof time);
	}
	return found;
}

long serve_pselect6(struct call *call)
{
	struct timeout timeout;
	long bad = get_timeout(call, call->argument[4], &timeout);
	if (bad)
		return bad;
	long found = select_sets(call, &timeout);
	if (timeout.limited && found >= 0) {
		const struct timespec left = time_left(call, &timeout);
		call_put(call, call->argument[4], &left, sizeof left);
	}
	return found;
}

/* ---- epoll ----------------------------------------------------------------------------------------- */

long serve_epoll_create(struct call *call)
{
	if ((int)call->argument[0] <= 0)
		return -EINVAL;
	return call_new(call, epoll_create1(EPOLL_CLOEXEC), FILE_EPOLL, PROT_READ, false);
}

long serve_epoll_create1(struct call *call)
{
	if (call->argument[0] & ~(uint64_t)EPOLL_CLOEXEC)
		return -EINVAL;
	return call_new(call, epoll_create1(EPOLL_CLOEXEC), FILE_EPOLL, PROT_READ, false);
}

long serve_epoll_ctl(struct call *call)
{
	const uint32_t known = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLERR | EPOLLHUP | EPOLLRDNORM |
			       EPOLLRDBAND | EPOLLWRNORM | EPOLLWRBAND | EPOLLMSG | EPOLLET | EPOLLONESHOT;
	struct epoll_event event = { 0 };
	int operation = (int)call->argument[1];
	const struct open_file *file = descriptor_get(call->compartment, (int)call->argument[2], 0);
	if (call->file->kind != FILE_EPOLL) /* one that was granted is its owner's */
		return -EINVAL;
	if (!file)
		return -EBADF;
	if (file == call->file)
		return -EINVAL;
	if (operation != EPOLL_CTL_DEL && call_get(call, call->argument[3], &event, sizeof event) != 0)
		return -EFAULT;
	if (event.events & ~known)
		return -EINVAL;
	return epoll_ctl(call->file->fd, operation, file->fd, &event) == 0 ? 0 : -errno;
}

static long wait_events(struct call *call, const struct timeout *timeout)
{
	struct epoll_event events[EVENTS_MAX];
	struct piece_list pieces;
	int most = (int)call->argument[2];
	if (call->file->kind != FILE_EPOLL || most <= 0)
		return -EINVAL;
	if (most > EVENTS_MAX)
		most = EVENTS_MAX;
	/* Events that are told once are gone then: first it is seen that they can be delivered. */
	long bad = call_flat(call, call->argument[1], (size_t)most * sizeof *events, true, &pieces);
	if (bad || pieces.size < sizeof *events)
		return -EFAULT;
	int found = epoll_wait(call->file->fd, events, (int)(pieces.size / sizeof *events), 0);
	if (found < 0)
		return -errno;
	if (!found)
		return is_over(call, timeout) ? 0 : call_park(call, call->file->fd, POLLIN);
	piece_list_scatter(&pieces, events, (size_t)found * sizeof *events);
	return found;
}

long serve_epoll_wait(struct call *call)
{
	struct timeout timeout = from_milliseconds(call->argument[3]);
	return wait_events(call, &timeout);
}

long serve_epoll_pwait2(struct call *call)
{
	struct timeout timeout;
	long bad = get_timeout(call, call->argument[3], &timeout);
	return bad ? bad : wait_events(call, &timeout);
}
