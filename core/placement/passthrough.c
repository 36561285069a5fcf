/* passthrough.c - the system call of a trap frame, made for the process. */
#include <errno.h>

#include "dune.h"
#include "placement/system_call.h"

void dune_passthrough_syscall(struct dune_tf *tf)
{
	tf->rax = (uint64_t)dune_system_call((long)tf->rax, (long)tf->rdi, (long)tf->rsi, (long)tf->rdx, (long)tf->r10,
					     (long)tf->r8, (long)tf->r9);
}
