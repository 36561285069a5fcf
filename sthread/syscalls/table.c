/*
 * table.c - the system calls that compartments are served: one const table, default deny.
 *
 * A row says what the caller must hold, of which kind each argument is, and who serves the call.
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

/*
 * Kinds of arguments, one letter each: what the kernel would make of the register.
 *   d  descriptor      i  32 bits, signed      s  address of a string            >  address of what is written
 *   l  64 bits         u  32 bits, unsigned    <  address of what is read        =  of what is read and written
 * Arguments are cut to their kind before anything looks at them, those that a call does not have are 0.
 */
static const struct row {
	enum need need;
	const char *kinds;
	long (*serve)(struct call *call);
} rows[POLICY_SYSTEM_CALLS] = {
	[SYS_read] = { FILE_READ, "d>l", serve_read },
	[SYS_write] = { FILE_WRITE, "d<l", serve_write },
	[SYS_readv] = { FILE_READ, "d<l", serve_readv },
	[SYS_writev] = { FILE_WRITE, "d<l", serve_writev },
	[SYS_pread64] = { FILE_READ, "d>ll", serve_pread64 },
	[SYS_open] = { GRANT, "siu", serve_open },
	[SYS_openat] = { GRANT, "dsiu", serve_openat },
	[SYS_close] = { FILE_ANY, "d", serve_close },
	[SYS_fstat] = { FILE_ANY, "d>", serve_fstat },
	[SYS_newfstatat] = { FILE_ANY, "ds>i", serve_newfstatat },
	[SYS_lseek] = { FILE_ANY, "dli", serve_lseek },
	[SYS_fcntl] = { FILE_ANY, "dil", serve_fcntl },
	[SYS_ioctl] = { FILE_ANY, "dul", serve_ioctl },
	[SYS_brk] = { NOTHING, "l", serve_brk },
	[SYS_mmap] = { NOTHING, "lliidl", serve_mmap },
	[SYS_munmap] = { NOTHING, "ll", serve_munmap },
	[SYS_mprotect] = { NOTHING, "lli", serve_mprotect },
	[SYS_madvise] = { NOTHING, "lli", serve_nothing },
	[SYS_futex] = { NOTHING, "<iu<<u", serve_futex },
	[SYS_sched_yield] = { NOTHING, "", serve_nothing },
	[SYS_clock_gettime] = { NOTHING, "i>", serve_clock_gettime },
	[SYS_clock_getres] = { NOTHING, "i>", serve_clock_getres },
	[SYS_gettimeofday] = { NOTHING, ">>", serve_gettimeofday },
	[SYS_time] = { NOTHING, ">", serve_time },
	[SYS_nanosleep] = { NOTHING, "<>", serve_nanosleep },
	[SYS_clock_nanosleep] = { NOTHING, "ii<>", serve_clock_nanosleep },
	[SYS_getrandom] = { NOTHING, ">lu", serve_getrandom },
	[SYS_getpid] = { NOTHING, "", serve_getpid },
	[SYS_gettid] = { NOTHING, "", serve_getpid },
	[SYS_getcpu] = { NOTHING, ">>", serve_getcpu },
	[SYS_clone] = { FORBIDDEN, "", NULL },
	[SYS_clone3] = { FORBIDDEN, "", NULL },
	[SYS_fork] = { FORBIDDEN, "", NULL },
	[SYS_vfork] = { FORBIDDEN, "", NULL },
	[SYS_execve] = { FORBIDDEN, "", NULL },
	[SYS_exit] = { NOTHING, "i", serve_exit },
	[SYS_exit_group] = { NOTHING, "i", serve_exit },
};

static const struct row *row_of(long number)
{
	return number >= 0 && number < POLICY_SYSTEM_CALLS && rows[number].kinds ? &rows[number] : NULL;
}

const char *system_call_kinds(long number)
{
	const struct row *row = row_of(number);
	return row ? row->kinds : NULL;
}

bool system_call_wants_grant(long number)
{
	const struct row *row = row_of(number);
	return row && row->need == GRANT;
}

/* Copies the arguments out of the registers, each as what it is. */
static void take_arguments(struct call *call, const struct kvm_regs *regs, const char *kinds)
{
	const uint64_t registers[] = { regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9 };
	for (int i = 0; i < 6 && kinds[i]; i++)
		call->argument[i] = kinds[i] == 'd' || kinds[i] == 'i' ? (uint64_t)(int32_t)registers[i] :
				    kinds[i] == 'u'                    ? (uint32_t)registers[i] :
									 registers[i];
}

/* Counts and tells a call that is not served.  Returns whether the life is over. */
static bool refuse(struct compartment *compartment, long number, long error)
{
	compartment->info.system_call = (int)number;
	compartment->info.calls_denied++;
	supervisor.statistics.calls_denied++;
	if (!(compartment->policy->flags & SC_KILL) || error == -EBADF)
		return false;
	compartment->info.end = STHREAD_DENIED;
	return true;
}

long call_granted(struct call *call)
{
	if (policy_allows_call(call->compartment->policy, call->number))
		return 0;
	call->refused = true;
	return -EPERM;
}

/* Says whether the caller may make the call: 0, or the error it gets. */
static long admit(struct call *call, const struct row *row)
{
	static const int rights[] = { [FILE_READ] = PROT_READ, [FILE_WRITE] = PROT_WRITE, [FILE_ANY] = 0 };
	switch (row->need) {
	case NOTHING:
		return 0;
	case GRANT:
		return call_granted(call);
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
	static const struct row none = { UNKNOWN, "", NULL };
	struct kvm_regs *regs = &compartment->space->context.regs;
	long number = (long)regs->rax;
	const struct row *row =
		number >= 0 && number < POLICY_SYSTEM_CALLS && rows[number].kinds ? &rows[number] : &none;
	struct call call = {
		.compartment = compartment, .bounds = compartment_bounds(compartment), .number = number, .wait = wait
	};
	take_arguments(&call, regs, row->kinds);
	long answer = admit(&call, row);
	if (!answer && policy_filters_call(compartment->policy, number) &&
	    !policy_filter_passes(compartment->policy, number, call.argument))
		answer = -EPERM;
	bool admitted = !answer;
	if (admitted)
		answer = row->serve(&call);
	if (call.park)
		return SERVED_PARK; /* RAX still holds the number: the call is made again */
	compartment->pending = (struct pending_call){ 0 };
	regs->rax = (uint64_t)answer;
	if (!admitted || call.refused)
		return refuse(compartment, number, answer) ? SERVED_END : SERVED;
	compartment->info.calls_served++;
	supervisor.statistics.calls_served++;
	return call.end ? SERVED_END : SERVED;
}
