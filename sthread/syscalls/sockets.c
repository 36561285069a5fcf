/*
 * sockets.c - calls on sockets.
 *
 * Sending and receiving on a connected socket is what read() and write() are: the descriptor is enough.  Naming a peer
 * (connect, bind, an address to send to) and making sockets wants sc_sys_add().  Control messages never pass, in neither
 * direction: descriptors cannot be smuggled in them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "syscalls/call.h"

enum {
	SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE | MSG_EOR,
	RECEIVE_FLAGS = MSG_DONTWAIT | MSG_PEEK | MSG_TRUNC | MSG_WAITALL | MSG_CMSG_CLOEXEC
};

struct address {
	struct sockaddr_storage words;
	socklen_t length;
};

/* ---- addresses ------------------------------------------------------------------------------------- */

static long get_address(struct call *call, uint64_t at, uint64_t length, struct address *address)
{
	if ((int)length < 0 || length > sizeof address->words)
		return -EINVAL;
	memset(address, 0, sizeof *address);
	address->length = (socklen_t)length;
	return call_get(call, at, &address->words, length);
}

/* How much room there is for an address: read before the call is made, once. */
static long get_room(struct call *call, uint64_t length_at, int *room)
{
	long bad = call_get(call, length_at, room, sizeof *room);
	return bad ? bad : *room < 0 ? -EINVAL : 0;
}

static long put_address(struct call *call, uint64_t at, uint64_t length_at, int room, const struct address *address)
{
	int length = (int)address->length;
	long bad = call_put(call, at, &address->words, (size_t)(length < room ? length : room));
	return bad ? bad : call_put(call, length_at, &length, sizeof length);
}

/* Addresses that may be named: of the Internet.  Those of AF_UNIX are files, which path grants are for. */
static bool may_be_named(const struct address *address)
{
	return address->length >= sizeof(sa_family_t) &&
	       (address->words.ss_family == AF_INET || address->words.ss_family == AF_INET6);
}

static bool is_socket(const struct call *call)
{
	return S_ISSOCK(call->file->mode);
}

/* ---- messages -------------------------------------------------------------------------------------- */

/* Sends and receives what a list of the caller's memory holds. */
struct exchange {
	struct msghdr message;
	struct address peer;
	struct piece_list pieces;
	int flags;
};

bool socket_keeps_boundaries(const struct call *call)
{
	int type = SOCK_DGRAM;
	socklen_t size = sizeof type;
	getsockopt(call->file->fd, SOL_SOCKET, SO_TYPE, &type, &size);
	return type != SOCK_STREAM;
}

static long exchange(struct call *call, struct exchange *exchange, bool send)
{
	struct piece_list *pieces = &exchange->pieces;
	bool wait = !(exchange->flags & MSG_DONTWAIT) && call_blocks(call);
	bool all = send || (exchange->flags & (MSG_WAITALL | MSG_PEEK | MSG_TRUNC)) == MSG_WAITALL;
	int flags = (exchange->flags & ~MSG_WAITALL) | MSG_DONTWAIT | (send ? MSG_NOSIGNAL : 0);
	if (!pieces->complete && (send || exchange->flags & MSG_TRUNC) && socket_keeps_boundaries(call))
		return -EMSGSIZE;
	if (all && wait && !send && socket_keeps_boundaries(call))
		all = false;
	size_t wanted = pieces->size;
	piece_list_skip(pieces, call->compartment->pending.done);
	exchange->message.msg_iov = pieces->list;
	exchange->message.msg_iovlen = (size_t)pieces->count;
	ssize_t done = send ? sendmsg(call->file->fd, &exchange->message, flags) :
			      recvmsg(call->file->fd, &exchange->message, flags);
	exchange->peer.length = exchange->message.msg_namelen;
	return call_progress(call, done < 0 ? -errno : done, wanted, all, wait, send ? POLLOUT : POLLIN);
}

/* A peer that the caller names to send to. */
static long name_peer(struct call *call, struct exchange *exchange, uint64_t at, uint64_t length)
{
	if (!at || !length)
		return 0;
	long bad = call_granted(call);
	if (!bad)
		bad = get_address(call, at, length, &exchange->peer);
	if (bad)
		return bad;
	if (!may_be_named(&exchange->peer))
		return -EACCES;
	exchange->message.msg_name = &exchange->peer.words;
	exchange->message.msg_namelen = exchange->peer.length;
	return 0;
}

long serve_sendto(struct call *call)
{
	struct exchange to = { .flags = (int)call->argument[3] };
	if (!is_socket(call))
		return -ENOTSOCK;
	if (to.flags & ~SEND_FLAGS)
		return -EINVAL;
	long bad = name_peer(call, &to, call->argument[4], call->argument[5]);
	if (!bad)
		bad = call_flat(call, call->argument[1], call->argument[2], false, &to.pieces);
	return bad ? bad : exchange(call, &to, true);
}

long serve_recvfrom(struct call *call)
{
	struct exchange from = { .flags = (int)call->argument[3] };
	int room = 0;
	if (!is_socket(call))
		return -ENOTSOCK;
	if (from.flags & ~RECEIVE_FLAGS)
		return -EINVAL;
	long bad = call->argument[4] ? get_room(call, call->argument[5], &room) : 0;
	if (!bad)
		bad = call_flat(call, call->argument[1], call->argument[2], true, &from.pieces);
	if (bad)
		return bad;
	if (call->argument[4]) {
		from.message.msg_name = &from.peer.words;
		from.message.msg_namelen = sizeof from.peer.words;
	}
	long done = exchange(call, &from, false);
	if (done >= 0 && call->argument[4])
		bad = put_address(call, call->argument[4], call->argument[5], room, &from.peer);
	return bad ? bad : done;
}

static long get_message(struct call *call, struct msghdr *theirs, struct exchange *exchange, bool write)
{
	if (call_get(call, call->argument[1], theirs, sizeof *theirs) != 0)
		return -EFAULT;
	long bad = call_vector(call, (uint64_t)theirs->msg_iov, theirs->msg_iovlen, write, &exchange->pieces);
	return bad == -EINVAL ? -EMSGSIZE : bad;
}

long serve_sendmsg(struct call *call)
{
	struct exchange to = { .flags = (int)call->argument[2] };
	struct msghdr theirs;
	if (!is_socket(call))
		return -ENOTSOCK;
	if (to.flags & ~SEND_FLAGS)
		return -EINVAL;
	long bad = get_message(call, &theirs, &to, false);
	if (bad)
		return bad;
	if (theirs.msg_controllen)
		return call_refused(call);
	bad = name_peer(call, &to, (uint64_t)theirs.msg_name, theirs.msg_namelen);
	return bad ? bad : exchange(call, &to, true);
}

long serve_recvmsg(struct call *call)
{
	struct exchange from = { .flags = (int)call->argument[2] };
	struct msghdr theirs;
	if (!is_socket(call))
		return -ENOTSOCK;
	if (from.flags & ~RECEIVE_FLAGS)
		return -EINVAL;
	long bad = get_message(call, &theirs, &from, true);
	if (bad)
		return bad;
	if (theirs.msg_name) {
		if ((int)theirs.msg_namelen < 0)
			return -EINVAL;
		from.message.msg_name = &from.peer.words;
		from.message.msg_namelen = sizeof from.peer.words;
	}
	long done = exchange(call, &from, false); /* without room for control messages the kernel closes what comes */
	if (done < 0 || call->park)
		return done;
	if (theirs.msg_name) {
		socklen_t room = theirs.msg_namelen;
		theirs.msg_namelen = from.peer.length;
		bad = call_put(call, (uint64_t)theirs.msg_name, &from.peer.words,
			       room < from.peer.length ? room : from.peer.length);
	}
	theirs.msg_controllen = 0;
	theirs.msg_flags = from.message.msg_flags;
	if (!bad)
		bad = call_put(call, call->argument[1], &theirs, sizeof theirs);
	return bad ? bad : done;
}

/* ---- connections ----------------------------------------------------------------------------------- */

long serve_socket(struct call *call)
{
	int family = (int)call->argument[0], type = (int)call->argument[1] & ~(SOCK_CLOEXEC | SOCK_NONBLOCK),
	    protocol = (int)call->argument[2];
	if (family != AF_INET && family != AF_INET6)
		return -EAFNOSUPPORT;
	if ((type != SOCK_STREAM && type != SOCK_DGRAM) ||
	    (protocol && protocol != (type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP)))
		return -EPROTONOSUPPORT;
	return call_new(call, socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol), FILE_PLAIN,
			PROT_READ | PROT_WRITE, call->argument[1] & SOCK_NONBLOCK);
}

/* On sockets made inside only: of others it is not known whether they would block, and they are shared. */
static long name_own(struct call *call, struct address *address)
{
	if (!is_socket(call))
		return -ENOTSOCK;
	if (!open_file_is_own(call->file))
		return call_refused(call);
	long bad = get_address(call, call->argument[1], call->argument[2], address);
	return bad ? bad : may_be_named(address) ? 0 : -EACCES;
}

long serve_connect(struct call *call)
{
	struct address peer;
	long bad = name_own(call, &peer);
	if (bad)
		return bad;
	/* Asked again after it was parked, the kernel tells how the first attempt ended. */
	bool again = call->compartment->pending.begun;
	if (connect(call->file->fd, (struct sockaddr *)&peer.words, peer.length) == 0 || (again && errno == EISCONN))
		return 0;
	if ((errno != EINPROGRESS && errno != EALREADY) || !call_blocks(call))
		return -errno;
	call_limit(call, UINT64_MAX);
	return call_park(call, call->file->fd, POLLOUT);
}

long serve_bind(struct call *call)
{
	struct address own;
	long bad = name_own(call, &own);
	if (bad)
		return bad;
	return bind(call->file->fd, (struct sockaddr *)&own.words, own.length) == 0 ? 0 : -errno;
}

long serve_listen(struct call *call)
{
	if (!is_socket(call))
		return -ENOTSOCK;
	long bad = call_may_change(call);
	return bad ? bad : listen(call->file->fd, (int)call->argument[1]) == 0 ? 0 : -errno;
}

/* A listening socket that was granted must not block: another process could take the connection that was seen. */
static long accept_one(struct call *call, uint64_t flags)
{
	struct address peer = { .length = sizeof peer.words };
	int room = 0;
	if (!is_socket(call))
		return -ENOTSOCK;
	if (flags & ~(uint64_t)(SOCK_CLOEXEC | SOCK_NONBLOCK) || !(fcntl(call->file->fd, F_GETFL) & O_NONBLOCK))
		return -EINVAL;
	long bad = call->argument[1] ? get_room(call, call->argument[2], &room) : 0;
	if (bad)
		return bad;
	int fd = accept4(call->file->fd, (struct sockaddr *)&peer.words, &peer.length, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && errno == EAGAIN && call_blocks(call))
		return call_park(call, call->file->fd, POLLIN);
	long number = call_new(call, fd, FILE_PLAIN, PROT_READ | PROT_WRITE, flags & SOCK_NONBLOCK);
	if (number >= 0 && call->argument[1])
		bad = put_address(call, call->argument[1], call->argument[2], room, &peer);
	if (bad)
		descriptor_close(call->compartment, number);
	return bad ? bad : number;
}

long serve_accept(struct call *call)
{
	return accept_one(call, 0);
}

long serve_accept4(struct call *call)
{
	return accept_one(call, call->argument[3]);
}

/* Of a shared connection only what the descriptor's rights cover, and only when granted: others would lose it. */
long serve_shutdown(struct call *call)
{
	static const int rights[] = {
		[SHUT_RD] = PROT_READ, [SHUT_WR] = PROT_WRITE, [SHUT_RDWR] = PROT_READ | PROT_WRITE
	};
	uint64_t how = call->argument[1];
	if (!is_socket(call))
		return -ENOTSOCK;
	if (how > SHUT_RDWR)
		return -EINVAL;
	if ((call->descriptor->prot & rights[how]) != rights[how])
		return -EBADF;
	long bad = call_may_change(call);
	return bad ? bad : shutdown(call->file->fd, (int)how) == 0 ? 0 : -errno;
}

/* ---- names and options ----------------------------------------------------------------------------- */

static long name_of(struct call *call, int (*ask)(int, struct sockaddr *, socklen_t *))
{
	struct address address = { .length = sizeof address.words };
	int room;
	if (!is_socket(call))
		return -ENOTSOCK;
	long bad = get_room(call, call->argument[2], &room);
	if (bad)
		return bad;
	if (ask(call->file->fd, (struct sockaddr *)&address.words, &address.length) != 0)
		return -errno;
	return put_address(call, call->argument[1], call->argument[2], room, &address);
}

static int ask_own(int fd, struct sockaddr *address, socklen_t *length)
{
	return getsockname(fd, address, length);
}

static int ask_peer(int fd, struct sockaddr *address, socklen_t *length)
{
	return getpeername(fd, address, length);
}

long serve_getsockname(struct call *call)
{
	return name_of(call, ask_own);
}

long serve_getpeername(struct call *call)
{
	return name_of(call, ask_peer);
}

/* All of these are one int. */
static const struct option {
	int level, name;
	bool settable;
} options[] = {
	{ SOL_SOCKET, SO_ERROR, false },      { SOL_SOCKET, SO_TYPE, false },       { SOL_SOCKET, SO_DOMAIN, false },
	{ SOL_SOCKET, SO_PROTOCOL, false },   { SOL_SOCKET, SO_ACCEPTCONN, false }, { SOL_SOCKET, SO_KEEPALIVE, true },
	{ SOL_SOCKET, SO_REUSEADDR, true },   { SOL_SOCKET, SO_REUSEPORT, true },   { SOL_SOCKET, SO_SNDBUF, true },
	{ SOL_SOCKET, SO_RCVBUF, true },      { IPPROTO_TCP, TCP_NODELAY, true },   { IPPROTO_TCP, TCP_CORK, true },
	{ IPPROTO_TCP, TCP_QUICKACK, true },  { IPPROTO_TCP, TCP_MAXSEG, false },   { IPPROTO_TCP, TCP_KEEPIDLE, true },
	{ IPPROTO_TCP, TCP_KEEPINTVL, true }, { IPPROTO_TCP, TCP_KEEPCNT, true },   { IPPROTO_IPV6, IPV6_V6ONLY, true },
};

static const struct option *find_option(const struct call *call)
{
	for (unsigned i = 0; i < sizeof options / sizeof *options; i++)
		if (options[i].level == (int)call->argument[1] && options[i].name == (int)call->argument[2])
			return &options[i];
	return NULL;
}

long serve_getsockopt(struct call *call)
{
	const struct option *option = find_option(call);
	int value = 0, room;
	socklen_t size = sizeof value;
	if (!is_socket(call))
		return -ENOTSOCK;
	if (!option)
		return -ENOPROTOOPT;
	long bad = get_room(call, call->argument[4], &room);
	if (bad)
		return bad;
	if (getsockopt(call->file->fd, option->level, option->name, &value, &size) != 0)
		return -errno;
	if (room < (int)size)
		size = (socklen_t)room;
	bad = call_put(call, call->argument[3], &value, size);
	return bad ? bad : call_put(call, call->argument[4], &size, sizeof size);
}

long serve_setsockopt(struct call *call)
{
	const struct option *option = find_option(call);
	int value;
	if (!is_socket(call))
		return -ENOTSOCK;
	long bad = call_may_change(call);
	if (bad)
		return bad;
	if (!option || !option->settable)
		return -ENOPROTOOPT;
	if (call->argument[4] < sizeof value)
		return -EINVAL;
	if (call_get(call, call->argument[3], &value, sizeof value) != 0)
		return -EFAULT;
	return setsockopt(call->file->fd, option->level, option->name, &value, sizeof value) == 0 ? 0 : -errno;
}
