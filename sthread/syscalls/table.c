/*
 * table.c - the system calls that compartments are served: one const table, default deny.
 *
 * A row says what the caller must hold and who serves it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "syscalls/call.h"

enum need {
	UNKNOWN,    /* no row: ENOSYS */
	FORBIDDEN,  /* would make a second thread of control: EPERM, whatever was granted */
	NOTHING,    /* gives no authority: always served */
	FILE_READ,  /* argument 0 is a descriptor held for reading, */
	FILE_WRITE, /* for writing, */
	FILE_ANY,   /* or at all */
	GRANT,      /* sc_sys_add() */
};

static const struct row {
	enum need need;
	long (*serve)(struct call *call);
} rows[POLICY_SYSTEM_CALLS] = {
	[SYS_read] = { FILE_READ, serve_read },
	[SYS_write] = { FILE_WRITE, serve_write },
	[SYS_readv] = { FILE_READ, serve_readv },
	[SYS_writev] = { FILE_WRITE, serve_writev },
	[SYS_pread64] = { FILE_READ, serve_pread64 },
	[SYS_open] = { GRANT, serve_open },
	[SYS_openat] = { GRANT, serve_openat },
	[SYS_close] = { FILE_ANY, serve_close },
	[SYS_fstat] = { FILE_ANY, serve_fstat },
	[SYS_newfstatat] = { FILE_ANY, serve_newfstatat },
	[SYS_lseek] = { FILE_ANY, serve_lseek },
	[SYS_fcntl] = { FILE_ANY, serve_fcntl },
	[SYS_ioctl] = { FILE_ANY, serve_ioctl },
	[SYS_brk] = { NOTHING, serve_brk },
	[SYS_mmap] = { NOTHING, serve_mmap },
	[SYS_munmap] = { NOTHING, serve_munmap },
	[SYS_mprotect] = { NOTHING, serve_mprotect },
	[SYS_madvise] = { NOTHING, serve_nothing },
	[SYS_futex] = { NOTHING, serve_futex },
	[SYS_sched_yield] = { NOTHING, serve_nothing },
	[SYS_clock_gettime] = { NOTHING, serve_clock_gettime },
	[SYS_clock_getres] = { NOTHING, serve_clock_getres },
	[SYS_gettimeofday] = { NOTHING, serve_gettimeofday },
	[SYS_time] = { NOTHING, serve_time },
	[SYS_nanosleep] = { NOTHING, serve_nanosleep },
	[SYS_clock_nanosleep] = { NOTHING, serve_clock_nanosleep },
	[SYS_getrandom] = { NOTHING, serve_getrandom },
	[SYS_getpid] = { NOTHING, serve_getpid },
	[SYS_gettid] = { NOTHING, serve_getpid },
	[SYS_getcpu] = { NOTHING, serve_getcpu },
	[SYS_clone] = { FORBIDDEN, NULL },
	[SYS_clone3] = { FORBIDDEN, NULL },
	[SYS_fork] = { FORBIDDEN, NULL },
	[SYS_vfork] = { FORBIDDEN, NULL },
	[SYS_execve] = { FORBIDDEN, NULL },
	[SYS_exit] = { NOTHING, serve_exit },
	[SYS_exit_group] = { NOTHING, serve_exit },
};

/* Says whether the caller may make the call: 0, or the error it gets. */
static long admit(struct call *call, long number, const struct row *row)
{
	static const int rights[] = { [FILE_READ] = PROT_READ, [FILE_WRITE] = PROT_WRITE, [FILE_ANY] = 0 };
	switch (row->need) {
	case NOTHING:
		return 0;
	case GRANT:
		return policy_allows_call(&call->compartment->policy, number) ? 0 : -EPERM;
	case FILE_READ:
	case FILE_WRITE:
	case FILE_ANY:
		call->file = descriptor_get(call->compartment, (int)call->argument[0], rights[row->need]);
		return call->file ? 0 : -EBADF;
	case FORBIDDEN:
		return -EPERM;
	case UNKNOWN:
	default:
		return -ENOSYS;
	}
}

enum served system_call_serve(struct compartment *compartment, struct wait *wait)
{
	static const struct row none = { UNKNOWN, NULL };
	struct kvm_regs *regs = &compartment->space->context.regs;
	long number = (long)regs->rax;
	const struct row *row = number >= 0 && number < POLICY_SYSTEM_CALLS ? &rows[number] : &none;
	struct call call = { .compartment = compartment,
			     .bounds = compartment_bounds(compartment),
			     .argument = { regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9 },
			     .wait = wait };
	long answer = admit(&call, number, row);
	if (answer) {
		compartment->info.system_call = (int)number;
		compartment->info.calls_denied++;
		supervisor.statistics.calls_denied++;
		if (compartment->policy.flags & SC_KILL && answer != -EBADF) {
			compartment->info.end = STHREAD_DENIED;
			return SERVED_END;
		}
		regs->rax = (uint64_t)answer;
		return SERVED;
	}
	answer = row->serve(&call);
	if (call.park)
		return SERVED_PARK; /* RAX still holds the number: the call is made again */
	compartment->pending = (struct pending_call){ 0 };
	compartment->info.calls_served++;
	supervisor.statistics.calls_served++;
	regs->rax = (uint64_t)answer;
	return call.end ? SERVED_END : SERVED;
}
