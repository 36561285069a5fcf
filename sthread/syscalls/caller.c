/* caller.c - the memory of a system call's caller.  See call.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "syscalls/call.h"

enum {
	VECTORS_MAX = 1024 /* as in the kernel */
};

long call_get(struct call *call, uint64_t address, void *to, size_t size)
{
	return address_space_read(call->compartment->space, &call->bounds, address, to, size) == 0 ? 0 : -EFAULT;
}

long call_put(struct call *call, uint64_t address, const void *from, size_t size)
{
	return address_space_write(call->compartment->space, &call->bounds, address, from, size) == 0 ? 0 : -EFAULT;
}

long call_string(struct call *call, uint64_t address, char *to, size_t room)
{
	return address_space_string(call->compartment->space, &call->bounds, address, to, room) == 0 ? 0 : -errno;
}

ssize_t call_pieces(struct call *call, uint64_t address, size_t length, bool write, struct iovec *list, int room,
		    int *count)
{
	return address_space_pieces(call->compartment->space, &call->bounds, address, length, write, list, room, count);
}

long call_flat(struct call *call, uint64_t address, size_t length, bool write, struct piece_list *pieces)
{
	size_t wanted = length < TRANSFER_MAX ? length : TRANSFER_MAX;
	*pieces = (struct piece_list){ .complete = !length };
	if (!wanted)
		return 0;
	ssize_t size = call_pieces(call, address, wanted, write, pieces->list, PIECES, &pieces->count);
	if (size < 0)
		return -EFAULT;
	pieces->size = (size_t)size;
	pieces->complete = pieces->size == length;
	return 0;
}

long call_vector(struct call *call, uint64_t address, size_t wanted, bool write, struct piece_list *pieces)
{
	pieces->count = 0;
	pieces->size = 0;
	pieces->complete = true;
	if (wanted > VECTORS_MAX)
		return -EINVAL;
	for (size_t i = 0; i < wanted && pieces->complete; i++) {
		struct iovec theirs;
		int count;
		if (call_get(call, address + i * sizeof theirs, &theirs, sizeof theirs) != 0)
			return -EFAULT;
		if (!theirs.iov_len)
			continue;
		size_t length = theirs.iov_len;
		if (length > TRANSFER_MAX - pieces->size)
			length = TRANSFER_MAX - pieces->size;
		ssize_t some = length ? call_pieces(call, (uint64_t)theirs.iov_base, length, write,
						    pieces->list + pieces->count, PIECES - pieces->count, &count) :
					0;
		if (some < 0 && !pieces->size)
			return -EFAULT;
		if (some > 0) {
			pieces->count += count;
			pieces->size += (size_t)some;
		}
		pieces->complete = some > 0 && (size_t)some == theirs.iov_len;
	}
	return 0;
}

void piece_list_skip(struct piece_list *pieces, size_t bytes)
{
	int gone = 0;
	while (gone < pieces->count && bytes >= pieces->list[gone].iov_len)
		bytes -= pieces->list[gone++].iov_len;
	pieces->count -= gone;
	memmove(pieces->list, pieces->list + gone, (size_t)pieces->count * sizeof *pieces->list);
	if (pieces->count && bytes) {
		pieces->list[0].iov_base = (char *)pieces->list[0].iov_base + bytes;
		pieces->list[0].iov_len -= bytes;
	}
}

void piece_list_scatter(const struct piece_list *pieces, const void *from, size_t size)
{
	const char *at = from;
	for (int i = 0; i < pieces->count && size; i++) {
		size_t some = size < pieces->list[i].iov_len ? size : pieces->list[i].iov_len;
		memcpy(pieces->list[i].iov_base, at, some);
		at += some;
		size -= some;
	}
}

size_t piece_list_gather(const struct piece_list *pieces, void *to, size_t room)
{
	char *at = to;
	for (int i = 0; i < pieces->count && room; i++) {
		size_t some = room < pieces->list[i].iov_len ? room : pieces->list[i].iov_len;
		memcpy(at, pieces->list[i].iov_base, some);
		at += some;
		room -= some;
	}
	return (size_t)(at - (char *)to);
}
