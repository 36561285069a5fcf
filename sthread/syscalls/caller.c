/* caller.c - the memory of a system call's caller.  See call.h. */
#define _GNU_SOURCE
#include <errno.h>

#include "syscalls/call.h"

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
