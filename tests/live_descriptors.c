/* live_descriptors.c - descriptors that an sthread makes, shares with nobody, and waits for. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "live.h"

enum {
	PAGE = 4096,
	BOTH = PROT_READ | PROT_WRITE
};
#define MILLISECOND ((uint64_t)1000000)

/* A body returns 1, or the line that failed. */
#define REQUIRE(condition)                         \
	do {                                       \
		if (!(condition))                  \
			return (void *)(__LINE__); \
	} while (0)
#define REFUSED(call, reason) REQUIRE((errno = 0, (call) == -1) && errno == (reason))

static void grant(sc_t *sc, const int *calls, size_t count)
{
	for (size_t i = 0; i < count; i++)
		ASSERT_EQUAL(sc_sys_add(sc, calls[i]), 0);
}
#define GRANT(sc, ...) grant(sc, (const int[]){ __VA_ARGS__ }, sizeof((const int[]){ __VA_ARGS__ }) / sizeof(int))

static enum sthread_state state_of(sthread_t st)
{
	enum sthread_state state = STHREAD_ENDED;

	ASSERT_EQUAL(sthread_state(st, &state), 0);
	return state;
}

/* ---- made inside ------------------------------------------------------------------------------------------------- */

static void *make_without_grant(void *unused)
{
	int ends[2];

	(void)unused;
	REFUSED(pipe(ends), EPERM);
	REFUSED(pipe2(ends, O_CLOEXEC), EPERM);
	REFUSED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), EPERM);
	REFUSED(eventfd(0, 0), EPERM);
	REFUSED(timerfd_create(CLOCK_MONOTONIC, 0), EPERM);
	REFUSED(epoll_create1(0), EPERM);
	REFUSED(socket(AF_INET, SOCK_STREAM, 0), EPERM);
	return (void *)1;
}

static void *make(void *unused)
{
	char text[10];
	int ends[2], pair[2], value = 0;
	uint64_t count = 0;
	struct itimerspec soon = { .it_value = { .tv_nsec = 20000000 } }, left;

	(void)unused;
	REQUIRE(pipe(ends) == 0 && write(ends[1], "hello", 5) == 5);
	REQUIRE(ioctl(ends[0], FIONREAD, &value) == 0 && value == 5);
	REQUIRE(read(ends[0], text, 10) == 5 && memcmp(text, "hello", 5) == 0);
	REFUSED(write(ends[0], text, 1), EBADF);
	REFUSED(read(ends[1], text, 1), EBADF);
	REFUSED(ioctl(ends[0], 0x5401 /* TCGETS */, text), ENOTTY);
	/* They block, or not, as for any process; of one that blocks the other tests tell. */
	REQUIRE(!(fcntl(ends[0], F_GETFL) & O_NONBLOCK));
	REQUIRE(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0 && fcntl(ends[0], F_GETFL) & O_NONBLOCK);
	REFUSED(read(ends[0], text, 10), EAGAIN);
	REQUIRE(ioctl(ends[0], FIONBIO, &(int){ 0 }) == 0 && !(fcntl(ends[0], F_GETFL) & O_NONBLOCK));
	REQUIRE(close(ends[1]) == 0 && read(ends[0], text, 10) == 0);
	REQUIRE(pipe2(ends, O_NONBLOCK) == 0);
	REFUSED(read(ends[0], text, 10), EAGAIN);
	REQUIRE(close(ends[0]) == 0);
	REFUSED(write(ends[1], text, 1), EPIPE); /* an error, not a signal to the process */
	REFUSED(pipe2(ends, O_DIRECT), EINVAL);
	REFUSED(syscall(SYS_pipe2, 16, 0), EFAULT);

	REQUIRE(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0 && send(pair[0], "abc", 3, 0) == 3);
	REQUIRE(recv(pair[1], text, 10, MSG_PEEK) == 3 && recv(pair[1], text, 10, 0) == 3);
	REFUSED(recv(pair[1], text, 10, MSG_DONTWAIT), EAGAIN);
	REFUSED(socketpair(AF_INET, SOCK_STREAM, 0, pair), EAFNOSUPPORT);

	int counter = eventfd(3, 0);

	REQUIRE(counter >= 0 && write(counter, &(uint64_t){ 4 }, 8) == 8);
	REQUIRE(read(counter, &count, 8) == 8 && count == 7);
	REFUSED(eventfd(0, 1 << 20), EINVAL);

	int timer = timerfd_create(CLOCK_MONOTONIC, 0);

	REQUIRE(timer >= 0 && timerfd_settime(timer, 0, &soon, NULL) == 0);
	REQUIRE(timerfd_gettime(timer, &left) == 0 && left.it_value.tv_nsec > 0);
	REQUIRE(read(timer, &count, 8) == 8 && count == 1); /* parked meanwhile */
	REFUSED(timerfd_settime(counter, 0, &soon, NULL), EINVAL);
	REFUSED(timerfd_create(CLOCK_REALTIME_ALARM, 0), EINVAL);
	return (void *)1;
}

/* Eight bytes across a page boundary reach a counter in one piece. */
static void *count_across_pages(void *unused)
{
	uint8_t *pages = mmap(NULL, 2 * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t *across = (uint64_t *)(void *)(pages + PAGE - 4);
	const uint64_t five = 5;
	int counter = eventfd(0, 0);

	(void)unused;
	memcpy(across, &five, 8);
	REQUIRE(write(counter, across, 8) == 8);
	memset(across, 0, 8);
	REQUIRE(read(counter, across, 8) == 8 && memcmp(across, &five, 8) == 0);
	return (void *)1;
}

static void *make_many(void *unused)
{
	int ends[2], count = 0, error;

	(void)unused;
	while (pipe(ends) == 0)
		count += 2;
	error = errno;
	REQUIRE(error == EMFILE && count > 40 && count <= 64);
	return (void *)1;
}

static void making(void)
{
	sc_t sc;
	int fds;

	live_init();
	sc_init(&sc);
	ASSERT_RETURNED(live_run(&sc, make_without_grant, NULL), 1);
	GRANT(&sc, SYS_pipe, SYS_socketpair, SYS_eventfd2, SYS_timerfd_create);
	ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)1), 1);
	fds = live_open_fds();
	ASSERT_RETURNED(live_run(&sc, make, NULL), 1);
	ASSERT_RETURNED(live_run(&sc, count_across_pages, NULL), 1);
	ASSERT_RETURNED(live_run(&sc, make_many, NULL), 1);
	ASSERT_EQUAL(live_open_fds(), fds);
}

static void *try_numbers(void *mine)
{
	char text[4];
	int granted = (int)(intptr_t)mine, ends[2];

	REQUIRE(pipe(ends) == 0);
	for (int fd = 0; fd < 200; fd++) /* whatever the process or another sthread has open under it */
		if (fd != granted && fd != ends[0] && fd != ends[1]) {
			struct pollfd one = { .fd = fd, .events = POLLIN };
			struct epoll_event event = { .events = EPOLLIN };

			REFUSED(read(fd, text, 1), EBADF);
			REFUSED(dup(fd), EBADF);
			REFUSED(fcntl(fd, F_DUPFD, 0), EBADF);
			REFUSED(syscall(SYS_getsockname, fd, text, text), EBADF);
			REFUSED(epoll_ctl(fd, EPOLL_CTL_ADD, granted, &event), EBADF);
			REQUIRE(poll(&one, 1, 1000) == 1 && one.revents == POLLNVAL);
		}
	REFUSED(dup2(granted, -1), EBADF);
	REFUSED(dup2(granted, 1 << 20), EBADF);
	REFUSED(fcntl(granted, F_DUPFD, 1 << 20), EINVAL);
	REFUSED(dup3(granted, granted, 0), EINVAL);
	REQUIRE(dup2(granted, granted) == granted);
	/* The upper half of the register is no part of a number. */
	REQUIRE(syscall(SYS_lseek, (uint64_t)granted | 0xffffffff00000000, 0, SEEK_CUR) >= 0);
	return (void *)1;
}

static void *hold_a_pipe(void *unused)
{
	int ends[2];

	(void)unused;
	REQUIRE(pipe(ends) == 0 && dup2(ends[0], 150) == 150);
	sthread_park();
	return (void *)1;
}

static void numbers(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name);
	sthread_t holder;
	sc_t sc;

	unlink(name);
	live_init();
	sc_init(&sc);
	GRANT(&sc, SYS_pipe);
	ASSERT_EQUAL(live_create(&holder, &sc, hold_a_pipe, NULL), 0);
	sc_fd_add(&sc, file, BOTH);
	ASSERT_RETURNED(live_run(&sc, try_numbers, (void *)(intptr_t)file), 1);
	ASSERT_EQUAL(live_step(holder), 0);
	ASSERT_RETURNED(live_join(holder), 1);
	sc_destroy(&sc);
}

/* ---- O_NONBLOCK -------------------------------------------------------------------------------------------------- */

static void *set_nonblocking(void *fd)
{
	char text[4];
	int mine = (int)(intptr_t)fd, again = dup(mine);

	REQUIRE(fcntl(mine, F_SETFL, O_NONBLOCK) == 0 && fcntl(mine, F_GETFL) & O_NONBLOCK);
	REFUSED(read(mine, text, 1), EAGAIN);
	sthread_park();
	REFUSED(read(mine, text, 1), EAGAIN);
	REQUIRE(!(fcntl(again, F_GETFL) & O_NONBLOCK));
	REQUIRE(read(again, text, 1) == 1 && text[0] == 'x'); /* parks */
	return (void *)1;
}

static void nonblocking(void)
{
	sthread_t one, other;
	int ends[2];
	sc_t sc;

	live_init();
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	sc_init(&sc);
	sc_fd_add(&sc, ends[0], BOTH);
	ASSERT_EQUAL(live_create(&one, &sc, set_nonblocking, (void *)(intptr_t)ends[0]), 0);
	ASSERT_EQUAL(state_of(one), STHREAD_PARKED);
	ASSERT_EQUAL(fcntl(ends[0], F_GETFL) & O_NONBLOCK, 0); /* not for the process, which shares the open file, */
	ASSERT_EQUAL(live_create(&other, &sc, set_nonblocking, (void *)(intptr_t)ends[0]), 0);
	ASSERT_EQUAL(state_of(other), STHREAD_PARKED); /* nor for another sthread */
	for (int i = 0; i < 2; i++) {
		ASSERT_EQUAL(live_step(i ? other : one), 0);
		ASSERT_EQUAL(write(ends[1], "x", 1), 1);
		ASSERT_RETURNED(live_join(i ? other : one), 1);
	}
	sc_destroy(&sc);
}

/* ---- partial transfers ------------------------------------------------------------------------------------------- */

enum {
	LARGE = 900000
};

static void *write_all(void *fd)
{
	char *large = mmap(NULL, LARGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec vector[] = { { large, 1 }, { large + 1, LARGE - 1 } };

	for (int i = 0; i < LARGE; i++)
		large[i] = (char)(i % 251);
	REQUIRE(write((int)(intptr_t)fd, large, 1000) == 1000);
	REQUIRE(writev((int)(intptr_t)fd, vector, 2) == LARGE);
	REQUIRE(write((int)(intptr_t)fd, large, 10) == 10);
	return (void *)1;
}

static void *receive_all(void *fd)
{
	char *large = mmap(NULL, LARGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	REQUIRE(recv((int)(intptr_t)fd, large, 1000, MSG_WAITALL) == 1000);
	REQUIRE(recv((int)(intptr_t)fd, large, LARGE, MSG_WAITALL) == LARGE);
	for (int i = 0; i < LARGE; i++)
		REQUIRE(large[i] == (char)(i % 251));
	REQUIRE(recv((int)(intptr_t)fd, large, 1000, 0) == 10); /* without: what there is */
	return (void *)1;
}

static void whole_transfers(void)
{
	sthread_t writer, reader;
	int ends[2];

	live_init();
	for (int kind = 0; kind < 2; kind++) {
		sc_t sc[2];

		if (kind == 0)
			ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
		else
			ASSERT_EQUAL(pipe(ends), 0);
		for (int i = 0; i < 2; i++) {
			sc_init(&sc[i]);
			sc_fd_add(&sc[i], ends[i], i ? PROT_WRITE : PROT_READ);
		}
		ASSERT_EQUAL(live_create(&writer, &sc[1], write_all, (void *)(intptr_t)ends[1]), 0);
		ASSERT_EQUAL(state_of(writer), STHREAD_PARKED);
		if (kind == 1) { /* a pipe that the process reads */
			static char got[LARGE + 2000];
			size_t total = 0;

			while (total < LARGE + 1010) {
				ssize_t some = read(ends[0], got + total, sizeof(got) - total);

				ASSERT_EQUAL(some > 0, 1);
				total += (size_t)some;
				ASSERT_EQUAL(live_step(writer), 0);
			}
			ASSERT_EQUAL(memcmp(got + 1001, "\1\2\3", 3), 0);
		} else {
			ASSERT_EQUAL(live_create(&reader, &sc[0], receive_all, (void *)(intptr_t)ends[0]), 0);
			for (int turns = 0;
			     turns < 100000 && (state_of(writer) != STHREAD_ENDED || state_of(reader) != STHREAD_ENDED);
			     turns++) {
				ASSERT_EQUAL(live_step(writer), 0);
				ASSERT_EQUAL(live_step(reader), 0);
			}
			ASSERT_RETURNED(live_join(reader), 1);
		}
		ASSERT_RETURNED(live_join(writer), 1);
		for (int i = 0; i < 2; i++) {
			sc_destroy(&sc[i]);
			close(ends[i]);
		}
	}
}

/* ---- several descriptors ----------------------------------------------------------------------------------------- */

struct ends {
	int fd[3];
};

static uint64_t monotonic(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000 * MILLISECOND + (uint64_t)time.tv_nsec;
}

static void *poll_three(void *argument)
{
	const struct ends *ends = argument;
	struct pollfd list[5] = { { ends->fd[0], POLLIN, 0 },
				  { ends->fd[1], POLLIN, 0 },
				  { ends->fd[2], POLLIN, 0 },
				  { -1, POLLIN, 9 },
				  { ends->fd[1], POLLIN | POLLPRI, 0 } };
	uint64_t before = monotonic();

	REQUIRE(poll(list, 5, 0) == 0 && list[3].revents == 0);
	REQUIRE(poll(list, 5, 30) == 0 && monotonic() - before >= 30 * MILLISECOND);
	REQUIRE(poll(NULL, 0, 5) == 0);
	REQUIRE(poll(list, 5, -1) == 2);
	REQUIRE(list[0].revents == 0 && list[1].revents == POLLIN && list[4].revents == POLLIN);
	REQUIRE(poll(list, 1, 1000000) == 1 && list[0].revents & POLLIN); /* one alone */
	REFUSED(syscall(SYS_poll, list, 257, 0), EINVAL);
	REFUSED(syscall(SYS_poll, 16, 1, 0), EFAULT);
	REFUSED(ppoll(list, 1, &(struct timespec){ .tv_nsec = -1 }, NULL), EINVAL);
	return (void *)1;
}

static void *select_three(void *argument)
{
	const struct ends *ends = argument;
	struct timeval time = { .tv_usec = 20000 };
	fd_set in;
	int most = 0;

	for (int turn = 0; turn < 3; turn++) {
		FD_ZERO(&in);
		for (int i = 0; i < 3; i++) {
			FD_SET(ends->fd[i], &in);
			most = ends->fd[i] > most ? ends->fd[i] : most;
		}
		if (turn == 0) {
			REQUIRE(select(most + 1, &in, NULL, NULL, &time) == 0 && time.tv_usec == 0);
			REQUIRE(!FD_ISSET(ends->fd[0], &in));
		} else {
			REQUIRE(select(most + 1, &in, NULL, NULL, NULL) == 1);
			REQUIRE(FD_ISSET(ends->fd[turn == 1 ? 1 : 0], &in));
			char text[4];
			REQUIRE(read(ends->fd[turn == 1 ? 1 : 0], text, 4) == 1);
		}
	}
	FD_ZERO(&in);
	FD_SET(most + 1, &in);
	REFUSED(select(most + 2, &in, NULL, NULL, &time), EBADF);
	REFUSED(syscall(SYS_select, -1, NULL, NULL, NULL, &time), EINVAL);
	REFUSED(syscall(SYS_select, 1025, &in, NULL, NULL, &time), EINVAL);
	return (void *)1;
}

static void *epoll_three(void *argument)
{
	const struct ends *ends = argument;
	struct epoll_event events[10], event;
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	char text[4];

	REQUIRE(epoll >= 0);
	for (int i = 0; i < 3; i++) {
		event = (struct epoll_event){ .events = EPOLLIN, .data.u64 = 0x1234567800000000 + (unsigned)i };
		REQUIRE(epoll_ctl(epoll, EPOLL_CTL_ADD, ends->fd[i], &event) == 0);
	}
	REFUSED(epoll_ctl(epoll, EPOLL_CTL_ADD, ends->fd[0], &event), EEXIST);
	REFUSED(epoll_ctl(epoll, EPOLL_CTL_ADD, epoll, &event), EINVAL);
	REFUSED(epoll_ctl(epoll, EPOLL_CTL_ADD, 190, &event), EBADF);
	REFUSED(epoll_ctl(ends->fd[0], EPOLL_CTL_ADD, ends->fd[1], &event), EINVAL);
	event.events = 1u << 29; /* EPOLLWAKEUP */
	REFUSED(epoll_ctl(epoll, EPOLL_CTL_MOD, ends->fd[0], &event), EINVAL);
	REFUSED(epoll_wait(epoll, events, 0, 0), EINVAL);
	REFUSED(syscall(SYS_epoll_wait, epoll, 16, 1, 0), EFAULT);
	REFUSED(epoll_wait(ends->fd[0], events, 1, 0), EINVAL);
	REQUIRE(epoll_wait(epoll, events, 10, 10) == 0);
	REQUIRE(epoll_wait(epoll, events, 10, -1) == 1 && events[0].data.u64 == 0x1234567800000001);
	REQUIRE(read(ends->fd[1], text, 4) == 1);
	REQUIRE(epoll_wait(epoll, events, 10, 100000) == 1 && events[0].data.u64 == 0x1234567800000000);
	/* What is closed is waited for no more, although the process holds the open file. */
	REQUIRE(close(ends->fd[0]) == 0 && epoll_wait(epoll, events, 10, 0) == 0);
	return (void *)1;
}

static void several(void)
{
	static const stcb_t bodies[] = { poll_three, select_three, epoll_three };

	live_init();
	for (int which = 0; which < 3; which++) {
		int mine[3], fds = live_open_fds();
		tag_t tag = tag_new();
		struct ends *ends = smalloc(tag, sizeof(*ends));
		sthread_t st;
		sc_t sc;

		sc_init(&sc);
		sc_mem_add(&sc, tag, PROT_READ);
		if (which == 2)
			GRANT(&sc, SYS_epoll_create1);
		for (int i = 0; i < 3; i++) {
			int pair[2];

			ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
			mine[i] = pair[0];
			ends->fd[i] = pair[1];
			sc_fd_add(&sc, pair[1], BOTH);
		}
		ASSERT_EQUAL(live_create(&st, &sc, bodies[which], ends), 0);
		/* The host's loop learns of one descriptor and a deadline; both are enough. */
		for (int writes = 0; state_of(st) == STHREAD_PARKED;) {
			struct pollfd ready = { 0 };
			uint64_t deadline = 0;

			ASSERT_EQUAL(sthread_wait_fd(st, &ready.fd, &ready.events), 0);
			ASSERT_EQUAL(sthread_wait_deadline(st, &deadline), 0);
			if (!deadline || deadline > monotonic() + 1000 * MILLISECOND) {
				ASSERT_EQUAL(ready.fd >= 0, 1);
				ASSERT_EQUAL(poll(&ready, 1, 0), 0);
				ASSERT_EQUAL(write(mine[writes++ ? 0 : 1], "y", 1), 1);
				ASSERT_EQUAL(poll(&ready, 1, 1000), 1);
			} else {
				uint64_t now = monotonic();

				poll(&ready, 1, deadline > now ? (int)((deadline - now) / MILLISECOND + 1) : 0);
			}
			ASSERT_EQUAL(live_step(st), 0);
		}
		ASSERT_RETURNED(live_join(st), 1);
		sc_destroy(&sc);
		for (int i = 0; i < 3; i++) {
			close(mine[i]);
			close(ends->fd[i]);
		}
		tag_delete(tag);
		ASSERT_EQUAL(live_open_fds(), fds);
	}
}

static void *poll_for_ever(void *argument)
{
	const struct ends *ends = argument;
	struct pollfd list[2] = { { ends->fd[0], POLLIN, 0 }, { ends->fd[1], POLLIN, 0 } };

	return (void *)(intptr_t)poll(list, 2, -1);
}

/* An epoll descriptor that was granted is its owner's. */
static void *use_foreign_epoll(void *fd)
{
	struct epoll_event event = { .events = EPOLLIN };

	REFUSED(epoll_wait((int)(intptr_t)fd, &event, 1, 0), EINVAL);
	REFUSED(epoll_ctl((int)(intptr_t)fd, EPOLL_CTL_ADD, (int)(intptr_t)fd, &event), EINVAL);
	return (void *)1;
}

static void killed_in_poll(void)
{
	int pair[2], epoll = epoll_create1(0), fds;
	tag_t tag;
	sthread_t st;
	sc_t sc;

	live_init();
	tag = tag_new();

	struct ends *ends = smalloc(tag, sizeof(*ends));

	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	sc_init(&sc);
	sc_mem_add(&sc, tag, PROT_READ);
	for (int i = 0; i < 2; i++) {
		ends->fd[i] = pair[i];
		sc_fd_add(&sc, pair[i], PROT_READ);
	}
	fds = live_open_fds();
	ASSERT_EQUAL(live_create(&st, &sc, poll_for_ever, ends), 0);
	ASSERT_EQUAL(live_open_fds(), fds + 1);
	ASSERT_EQUAL(sthread_kill(st), 0);
	ASSERT_END(live_join(st), STHREAD_KILLED);
	ASSERT_EQUAL(live_open_fds(), fds);
	sc_fd_add(&sc, epoll, PROT_READ);
	ASSERT_RETURNED(live_run(&sc, use_foreign_epoll, (void *)(intptr_t)epoll), 1);
	sc_destroy(&sc);
}

static const struct harness_test tests[] = {
	{ "what makes new open files wants a grant, is counted and is closed", making, HARNESS_FORK },
	{ "numbers of the process and of others mean nothing", numbers, HARNESS_FORK },
	{ "O_NONBLOCK is the sthread's own, and its descriptor's", nonblocking, HARNESS_FORK },
	{ "a write that waits writes all, a receive that is to wait for all gets all", whole_transfers, HARNESS_FORK },
	{ "poll, select and epoll park on one descriptor and a deadline", several, HARNESS_FORK },
	{ "what a poll waits on ends with the sthread; an epoll descriptor cannot be granted", killed_in_poll,
	  HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
