/* families.c - see families.h */
#define _GNU_SOURCE
#include "syscalls/families.h"

#include <stddef.h>
#include <sys/syscall.h>

enum {
	FAMILY_MAX = 6
};

static const int families[][FAMILY_MAX] = {
	{ SYS_open, SYS_openat, -1 },
	{ SYS_stat, SYS_lstat, SYS_newfstatat, SYS_statx, -1 },
	{ SYS_access, SYS_faccessat, SYS_faccessat2, -1 },
	{ SYS_readlink, SYS_readlinkat, -1 },
	{ SYS_mkdir, SYS_mkdirat, -1 },
	{ SYS_unlink, SYS_rmdir, SYS_unlinkat, -1 },
	{ SYS_rename, SYS_renameat, SYS_renameat2, -1 },
	{ SYS_pipe, SYS_pipe2, -1 },
	{ SYS_eventfd, SYS_eventfd2, -1 },
	{ SYS_epoll_create, SYS_epoll_create1, -1 },
	{ SYS_accept, SYS_accept4, -1 },
	{ SYS_fsync, SYS_fdatasync, -1 },
	{ SYS_sendto, SYS_sendmsg, -1 },
};

const int *system_call_family(int number)
{
	for (unsigned i = 0; i < sizeof families / sizeof *families; i++)
		for (const int *member = families[i]; *member >= 0; member++)
			if (*member == number)
				return families[i];
	return NULL;
}
