/* live_sockets.c - calls on sockets, and what is in messages. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "live.h"

enum {
	PAGE = 4096,
	BOTH = PROT_READ | PROT_WRITE
};

/* A body returns 1, or the line that failed. */
#define REQUIRE(condition)                         \
	do {                                       \
		if (!(condition))                  \
			return (void *)(__LINE__); \
	} while (0)
#define REFUSED(call, reason) REQUIRE((errno = 0, (call) == -1) && errno == (reason))

struct shared {
	int fd[4];
	struct sockaddr_in address;
	char text[100];
	uint64_t foreign, window;
};

static struct shared *share(sc_t *sc)
{
	tag_t tag = tag_new();
	struct shared *shared = smalloc(tag, sizeof(*shared));

	CU_ASSERT_PTR_NOT_NULL_FATAL(shared);
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, BOTH), 0);
	return shared;
}

static void grant(sc_t *sc, const int *calls, size_t count)
{
	for (size_t i = 0; i < count; i++)
		ASSERT_EQUAL(sc_sys_add(sc, calls[i]), 0);
}
#define GRANT(sc, ...) grant(sc, (const int[]){ __VA_ARGS__ }, sizeof((const int[]){ __VA_ARGS__ }) / sizeof(int))

static int listening(struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	socklen_t length = sizeof(*address);

	*address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	ASSERT_EQUAL(bind(fd, (struct sockaddr *)address, sizeof(*address)), 0);
	ASSERT_EQUAL(listen(fd, 10), 0);
	ASSERT_EQUAL(getsockname(fd, (struct sockaddr *)address, &length), 0);
	return fd;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static void *exchange(void *argument)
{
	struct shared *shared = argument;
	int fd = shared->fd[0], value = 0;
	char a[4], b[10];
	struct iovec in[] = { { a, 2 }, { b, 10 } }, out[] = { { "he", 2 }, { "llo", 3 } };
	struct sockaddr_storage peer;
	struct msghdr message = { .msg_iov = in, .msg_iovlen = 2, .msg_name = &peer, .msg_namelen = sizeof(peer) },
		      sent = { .msg_iov = out, .msg_iovlen = 2 };
	socklen_t length = sizeof(peer);

	REQUIRE(recvmsg(fd, &message, 0) == 5 && memcmp(a, "12", 2) == 0 && memcmp(b, "345", 3) == 0);
	REQUIRE(message.msg_controllen == 0 && message.msg_namelen <= sizeof(peer));
	REQUIRE(sendmsg(fd, &sent, 0) == 5 && sendto(fd, "!", 1, 0, NULL, 0) == 1);
	REQUIRE(getsockname(fd, (struct sockaddr *)&peer, &length) == 0 && peer.ss_family == AF_UNIX);
	length = sizeof(value);
	REQUIRE(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length) == 0 && value == SOCK_STREAM);
	REFUSED(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, b, &length), ENOPROTOOPT);
	/* Of a shared socket nothing is changed, and nobody new is named. */
	REFUSED(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof(value)), EPERM);
	REFUSED(shutdown(fd, SHUT_RDWR), EPERM);
	REFUSED(listen(fd, 1), EPERM);
	REFUSED(sendto(fd, "x", 1, 0, (struct sockaddr *)&shared->address, sizeof(shared->address)), EPERM);
	sent.msg_name = &shared->address;
	sent.msg_namelen = sizeof(shared->address);
	REFUSED(sendmsg(fd, &sent, 0), EPERM);
	REFUSED(connect(fd, (struct sockaddr *)&shared->address, sizeof(shared->address)), EPERM);
	REFUSED(bind(fd, (struct sockaddr *)&shared->address, sizeof(shared->address)), EPERM);
	REFUSED(accept(fd, NULL, NULL), EPERM);
	REFUSED(recv(fd, b, 10, MSG_OOB), EINVAL);
	REFUSED(recv(fd, b, 10, MSG_ERRQUEUE), EINVAL);
	REFUSED(send(fd, b, 10, MSG_OOB), EINVAL);
	REFUSED(recv(shared->fd[1], b, 10, 0), ENOTSOCK);
	REFUSED(recv(fd, b, 10, MSG_DONTWAIT), EAGAIN);
	return (void *)1;
}

static void messages(void)
{
	int pair[2], file[2];
	char text[10] = "";
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	ASSERT_EQUAL(pipe(file), 0);
	shared->fd[0] = pair[0];
	shared->fd[1] = file[0];
	shared->address = (struct sockaddr_in){ .sin_family = AF_INET };
	sc_fd_add(&sc, pair[0], BOTH);
	sc_fd_add(&sc, file[0], PROT_READ);
	ASSERT_EQUAL(write(pair[1], "12345", 5), 5);
	ASSERT_RETURNED(live_run(&sc, exchange, shared), 1);
	ASSERT_EQUAL(recv(pair[1], text, 10, MSG_DONTWAIT), 6);
	CU_ASSERT_STRING_EQUAL(text, "hello!");
	sc_destroy(&sc);
}

/* Control messages that carry descriptors. */
union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(sizeof(int))];
};

static struct msghdr with_descriptor(int fd, union control *control, struct iovec *byte)
{
	struct msghdr message = {
		.msg_iov = byte, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(*control)
	};

	memset(control, 0, sizeof(*control));
	control->header.cmsg_level = SOL_SOCKET;
	control->header.cmsg_type = SCM_RIGHTS;
	control->header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control->header), &fd, sizeof(fd));
	return message;
}

static void *smuggle(void *argument)
{
	struct shared *shared = argument;
	int fd = shared->fd[0];
	char byte[100];
	union control control;
	struct iovec in = { byte, sizeof(byte) }, out = { "x", 1 };
	struct msghdr message;

	for (int number = 0; number < 20; number++) {
		message = with_descriptor(number, &control, &out);
		REFUSED(sendmsg(fd, &message, 0), EPERM);
	}
	message = with_descriptor(0, &control, &out);
	message.msg_control = (void *)16;
	REFUSED(sendmsg(fd, &message, 0), EPERM);
	message.msg_controllen = 1;
	REFUSED(sendmsg(fd, &message, 0), EPERM);
	/* What comes in is not delivered. */
	memset(&control, 0x55, sizeof(control));
	message = (struct msghdr){
		.msg_iov = &in, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	REQUIRE(recvmsg(fd, &message, 0) == 1 && message.msg_controllen == 0 && message.msg_flags & MSG_CTRUNC);
	for (size_t i = 0; i < sizeof(control); i++)
		REQUIRE(control.bytes[i] == 0x55);
	REQUIRE(read(fd, byte, 1) == 1); /* nor by a read */
	return (void *)1;
}

static void descriptors_in_messages(void)
{
	int pair[2], ends[2], fds;
	union control control;
	struct iovec byte = { "s", 1 };
	struct msghdr message;
	char text[10];
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	ASSERT_EQUAL(pipe(ends), 0);
	shared->fd[0] = pair[0];
	sc_fd_add(&sc, pair[0], BOTH);
	message = with_descriptor(ends[0], &control, &byte);
	ASSERT_RETURNED(live_run(&sc, body_nothing, (void *)1), 1);
	fds = live_open_fds();
	ASSERT_EQUAL(sendmsg(pair[1], &message, 0), 1);
	ASSERT_EQUAL(sendmsg(pair[1], &message, 0), 1);
	ASSERT_RETURNED(live_run(&sc, smuggle, shared), 1);
	ASSERT_EQUAL(live_open_fds(), fds);                                /* the kernel closed what came */
	ASSERT_ERROR(recv(pair[1], text, 10, MSG_DONTWAIT) == -1, EAGAIN); /* and nothing went out */
	close(ends[0]);
	signal(SIGPIPE, SIG_IGN);
	ASSERT_ERROR(write(ends[1], "x", 1) == -1, EPIPE); /* nobody has the other end */
	sc_destroy(&sc);
}

/* ---- hostile pointers -------------------------------------------------------------------------------------------- */

static void *point_wildly(void *argument)
{
	struct shared *shared = argument;
	int fd = shared->fd[0];
	uint8_t *page = mmap(NULL, 2 * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *end;
	char bytes[64];

	/* The last page of the arena: behind it there is nothing. */
	page = mmap(NULL, 2 * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	end = page + 2 * PAGE;
	memset(page, 'a', 2 * PAGE);
	const uint64_t wild[] = { 0,
				  16,
				  0xffff,
				  shared->foreign,             /* a tag that is not granted */
				  shared->window,              /* the monitor */
				  shared->window + 0x40000000, /* the life page: read-only */
				  (uint64_t)end,
				  0x7ffffffff000,
				  0x800000000000,
				  0x8000000000000000,
				  0xffff800000000000,
				  0xfffffffffffffff0,
				  UINT64_MAX };

	for (size_t i = 0; i < sizeof(wild) / sizeof(*wild); i++) {
		const uint64_t at = wild[i];
		const bool life = at == shared->window + 0x40000000; /* may be read */
		struct iovec vector = { (void *)at, 100 }, good = { bytes, sizeof(bytes) };
		struct msghdr to = { .msg_iov = &vector, .msg_iovlen = 1 },
			      no_list = { .msg_iov = (void *)at, .msg_iovlen = 1 },
			      many = { .msg_iov = &good, .msg_iovlen = 1025 };
		socklen_t length = 10;

		if (!life) {
			REFUSED(syscall(SYS_sendto, fd, at, 100, 0, 0, 0), EFAULT);
			REFUSED(syscall(SYS_sendmsg, fd, at, 0), EFAULT);
			REFUSED(syscall(SYS_sendmsg, fd, &to, 0), EFAULT);
			REFUSED(syscall(SYS_sendmsg, fd, &no_list, 0), EFAULT);
			REFUSED(syscall(SYS_pwrite64, shared->fd[1], at, 100, 0), EFAULT);
			REFUSED(syscall(SYS_pwritev, shared->fd[1], at, 1, 0), EFAULT);
			REFUSED(syscall(SYS_openat, AT_FDCWD, at, O_RDONLY), EFAULT);
			REFUSED(syscall(SYS_stat, at, bytes), EFAULT);
			REFUSED(syscall(SYS_nanosleep, at, 0), EFAULT);
			REFUSED(syscall(SYS_select, 5, at ? at : 16, 0, 0, 0), EFAULT);
			REFUSED(syscall(SYS_connect, fd, at, 16), EPERM); /* it is shared */
		}
		REFUSED(syscall(SYS_recvfrom, fd, at, 100, 0, 0, 0), EFAULT);
		REFUSED(syscall(SYS_recvmsg, fd, at, 0), EFAULT);
		REFUSED(syscall(SYS_recvmsg, fd, &to, 0), EFAULT);
		REFUSED(syscall(SYS_recvmsg, fd, &many, 0), EMSGSIZE);
		REFUSED(syscall(SYS_recvfrom, fd, bytes, 1, MSG_PEEK, bytes, at), EFAULT);
		REFUSED(syscall(SYS_getsockname, fd, at, &length), EFAULT);
		REFUSED(syscall(SYS_getsockname, fd, bytes, at), EFAULT);
		REFUSED(syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, at, &length), EFAULT);
		REFUSED(syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, bytes, at), EFAULT);
		REFUSED(syscall(SYS_preadv, shared->fd[1], at, 1, 0), EFAULT);
		REFUSED(syscall(SYS_statx, fd, "", AT_EMPTY_PATH, 0, at), EFAULT);
		REFUSED(syscall(SYS_poll, at, 1, 0), EFAULT);
		REFUSED(syscall(SYS_uname, at), EFAULT);
		REFUSED(syscall(SYS_getrusage, 0, at), EFAULT);
		REFUSED(syscall(SYS_sysinfo, at), EFAULT);
		REFUSED(syscall(SYS_sched_getaffinity, 0, 8, at), EFAULT);
		REFUSED(syscall(SYS_ioctl, fd, 0x541b /* FIONREAD */, at), EFAULT);
		REFUSED(syscall(SYS_fcntl, fd, F_SETLK, at), EPERM);
	}
	/* Lengths that wrap, or are negative. */
	REFUSED(syscall(SYS_getsockname, fd, bytes, &(int){ -1 }), EINVAL);
	REFUSED(syscall(SYS_recvmsg, fd, &(struct msghdr){ .msg_iov = (void *)bytes, .msg_iovlen = UINT64_MAX / 16 },
			0),
		EMSGSIZE);
	/* Up to the hole, and not a byte of what lies behind it. */
	struct iovec across[] = { { end - 10, 5 }, { end - 5, SIZE_MAX }, { bytes, 3 } };

	REQUIRE(syscall(SYS_pwrite64, shared->fd[1], end - 10, UINT64_MAX, 0) == 10);
	REQUIRE(syscall(SYS_pwritev, shared->fd[1], across, 3, 0) == 10);
	REQUIRE(syscall(SYS_sendto, fd, end - 3, 1000, 0, 0, 0) == 3);
	REQUIRE(syscall(SYS_recvfrom, fd, end - 4, 1000, 0, 0, 0) == 4);
	REQUIRE(memcmp(end - 4, "four", 4) == 0);
	return (void *)1;
}

static void pointers(void)
{
	int pair[2];
	char name[] = "/tmp/sthread-test-XXXXXX", text[10];
	int file = mkstemp(name);
	sc_t sc;

	unlink(name);
	live_init();

	struct shared *shared = share(&sc);
	tag_t other = tag_new();

	shared->foreign = (uint64_t)smalloc(other, 100);
	shared->window = live_window();
	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	shared->fd[0] = pair[0];
	shared->fd[1] = file;
	shared->fd[2] = pair[0];
	sc_fd_add(&sc, pair[0], BOTH);
	sc_fd_add(&sc, file, BOTH);
	GRANT(&sc, SYS_open, SYS_stat, SYS_connect);
	ASSERT_EQUAL(write(pair[1], "fourteen bytes", 14), 14);
	ASSERT_RETURNED(live_run(&sc, point_wildly, shared), 1);
	ASSERT_EQUAL(recv(pair[1], text, 10, MSG_DONTWAIT), 3);
	ASSERT_EQUAL(recv(pair[0], text, 10, MSG_DONTWAIT), 10);
	sc_destroy(&sc);
}

/* A message is not cut at a hole. */
static void *cut_message(void *argument)
{
	struct shared *shared = argument;
	uint8_t *page = mmap(NULL, PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *end = page + PAGE;

	end = (uint8_t *)mmap(NULL, PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + PAGE;
	REFUSED(send(shared->fd[0], end - 3, 10, 0), EMSGSIZE);
	REFUSED(write(shared->fd[0], end - 3, 10), EMSGSIZE);
	REQUIRE(send(shared->fd[0], end - 3, 3, 0) == 3);
	return (void *)1;
}

static void datagrams(void)
{
	int pair[2];
	char text[10];
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
	shared->fd[0] = pair[0];
	sc_fd_add(&sc, pair[0], BOTH);
	ASSERT_RETURNED(live_run(&sc, cut_message, shared), 1);
	ASSERT_EQUAL(recv(pair[1], text, 10, MSG_DONTWAIT), 3);
	ASSERT_ERROR(recv(pair[1], text, 10, MSG_DONTWAIT) == -1, EAGAIN);
	sc_destroy(&sc);
}

/* ---- connections ------------------------------------------------------------------------------------------------- */

static void *serve_one(void *argument)
{
	struct shared *shared = argument;
	struct sockaddr_in peer;
	socklen_t length = sizeof(peer);
	char text[10];
	int fd;

	REFUSED(accept(shared->fd[0], NULL, NULL), EAGAIN); /* as the open file has it */
	REQUIRE(fcntl(shared->fd[0], F_SETFL, 0) == 0);     /* wait, then */
	REQUIRE((fd = accept(shared->fd[0], (struct sockaddr *)&peer, &length)) >= 0);
	REQUIRE(length == sizeof(peer) && peer.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
	REQUIRE(recv(fd, text, 5, MSG_WAITALL) == 5 && memcmp(text, "hello", 5) == 0);
	REQUIRE(send(fd, "world", 5, 0) == 5);
	/* Its own: it may do with it what it likes. */
	REQUIRE(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)) == 0);
	REFUSED(setsockopt(fd, SOL_SOCKET, SO_ERROR, &(int){ 1 }, sizeof(int)), ENOPROTOOPT);
	REQUIRE(shutdown(fd, SHUT_WR) == 0 && recv(fd, text, 1, 0) == 0 && close(fd) == 0);
	REFUSED(accept(shared->fd[1], NULL, NULL), EINVAL); /* a listening socket that would block */
	return (void *)1;
}

static void *be_client(void *argument)
{
	struct shared *shared = argument;
	struct sockaddr_un file = { .sun_family = AF_UNIX, .sun_path = "/run/systemd/notify" };
	char text[10];
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	REQUIRE(fd >= 0);
	REFUSED(connect(fd, (struct sockaddr *)&file, sizeof(file)), EACCES);
	REFUSED(socket(AF_UNIX, SOCK_STREAM, 0), EAFNOSUPPORT);
	REFUSED(socket(AF_NETLINK, SOCK_RAW, 0), EAFNOSUPPORT);
	REFUSED(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), EPROTONOSUPPORT);
	REQUIRE(connect(fd, (struct sockaddr *)&shared->address, sizeof(shared->address)) == 0);
	REQUIRE(send(fd, "hello", 5, 0) == 5 && recv(fd, text, 5, MSG_WAITALL) == 5);
	REQUIRE(memcmp(text, "world", 5) == 0 && recv(fd, text, 1, 0) == 0 && close(fd) == 0);
	/* Where nobody listens. */
	shared->address.sin_port = htons(1);
	REQUIRE((fd = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
	REFUSED(connect(fd, (struct sockaddr *)&shared->address, sizeof(shared->address)), ECONNREFUSED);
	return (void *)1;
}

static void connections(void)
{
	int listener, blocking;
	sthread_t server, client;
	enum sthread_state state = STHREAD_PARKED;
	struct sockaddr_in other;
	sc_t sc[2];

	live_init();

	struct shared *shared = share(&sc[0]);
	struct shared *told = share(&sc[1]);

	listener = listening(&told->address);
	blocking = listening(&other);
	fcntl(blocking, F_SETFL, 0);
	shared->fd[0] = listener;
	shared->fd[1] = blocking;
	sc_fd_add(&sc[0], listener, PROT_READ);
	sc_fd_add(&sc[0], blocking, PROT_READ);
	GRANT(&sc[0], SYS_accept4);
	GRANT(&sc[1], SYS_socket, SYS_connect);
	ASSERT_EQUAL(live_create(&server, &sc[0], serve_one, shared), 0);
	ASSERT_EQUAL(live_create(&client, &sc[1], be_client, told), 0);
	for (int turns = 0; turns < 1000 && state != STHREAD_ENDED; turns++) {
		struct pollfd ready[2] = { { .fd = -1 }, { .fd = -1 } };

		(void)!sthread_wait_fd(server, &ready[0].fd, &ready[0].events);
		(void)!sthread_wait_fd(client, &ready[1].fd, &ready[1].events);
		poll(ready, 2, 10);
		ASSERT_EQUAL(live_step(client), 0);
		ASSERT_EQUAL(live_step(server), 0);
		ASSERT_EQUAL(sthread_state(server, &state), 0);
	}
	ASSERT_RETURNED(live_join(client), 1);
	ASSERT_RETURNED(live_join(server), 1);
	ASSERT_EQUAL(fcntl(listener, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	sc_destroy(&sc[0]);
	sc_destroy(&sc[1]);
}

static const struct harness_test tests[] = {
	{ "messages go through a granted socket, which stays as it is", messages, HARNESS_FORK },
	{ "no descriptor comes or goes in a message", descriptors_in_messages, HARNESS_FORK },
	{ "pointers to nothing, to others' memory and beyond all memory are refused", pointers, HARNESS_FORK },
	{ "a datagram is not cut at a hole", datagrams, HARNESS_FORK },
	{ "connections are made and accepted with a grant, and belong to the sthread", connections, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
