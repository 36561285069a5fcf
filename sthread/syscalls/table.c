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
	FILE_ANY = 1,   /* argument 0 is a descriptor that the caller holds, */
	FILE_READ = 2,  /* for reading, */
	FILE_WRITE = 4, /* for writing */
	GRANT = 8,      /* sc_sys_add() */
	NOTHING = 16,   /* gives no authority: always served */
	FORBIDDEN = 32, /* would make a second thread of control: EPERM, whatever was granted */
};

/*
 * Kinds of arguments, one letter each: what the kernel would make of the register.
 *   d  descriptor      i  32 bits, signed      s  address of a string            >  address of what is written
 *   l  64 bits         u  32 bits, unsigned    <  address of what is read        =  of what is read and written
 * Arguments are cut to their kind before anything looks at them, those that a call does not have are 0.
 */
static const struct row {
	unsigned need; /* 0: no row */
	const char *kinds;
	long (*serve)(struct call *call);
} rows[POLICY_SYSTEM_CALLS] = {
	[SYS_read] = { FILE_READ, "d>l", serve_read },
	[SYS_write] = { FILE_WRITE, "d<l", serve_write },
	[SYS_readv] = { FILE_READ, "d<l", serve_readv },
	[SYS_writev] = { FILE_WRITE, "d<l", serve_writev },
	[SYS_pread64] = { FILE_READ, "d>ll", serve_pread64 },
	[SYS_pwrite64] = { FILE_WRITE, "d<ll", serve_pwrite64 },
	[SYS_preadv] = { FILE_READ, "d<ll", serve_preadv },
	[SYS_pwritev] = { FILE_WRITE, "d<ll", serve_pwritev },

	[SYS_open] = { GRANT, "siu", serve_open },
	[SYS_openat] = { GRANT, "dsiu", serve_openat },
	[SYS_creat] = { GRANT, "su", serve_creat },
	[SYS_stat] = { GRANT, "s>", serve_stat },
	[SYS_lstat] = { GRANT, "s>", serve_lstat },
	[SYS_newfstatat] = { NOTHING, "ds>u", serve_newfstatat }, /* on a name: GRANT */
	[SYS_statx] = { NOTHING, "dsuu>", serve_statx },          /* likewise */
	[SYS_access] = { GRANT, "su", serve_access },
	[SYS_faccessat] = { GRANT, "dsu", serve_faccessat },
	[SYS_faccessat2] = { GRANT, "dsuu", serve_faccessat2 },
	[SYS_readlink] = { GRANT, "s>i", serve_readlink },
	[SYS_readlinkat] = { GRANT, "ds>i", serve_readlinkat },
	[SYS_getcwd] = { GRANT, ">l", serve_getcwd },
	[SYS_mkdir] = { GRANT, "su", serve_mkdir },
	[SYS_mkdirat] = { GRANT, "dsu", serve_mkdirat },
	[SYS_unlink] = { GRANT, "s", serve_unlink },
	[SYS_rmdir] = { GRANT, "s", serve_rmdir },
	[SYS_unlinkat] = { GRANT, "dsu", serve_unlinkat },
	[SYS_rename] = { GRANT, "ss", serve_rename },
	[SYS_renameat] = { GRANT, "dsds", serve_renameat },
	[SYS_renameat2] = { GRANT, "dsdsu", serve_renameat2 },

	[SYS_close] = { FILE_ANY, "d", serve_close },
	[SYS_dup] = { FILE_ANY, "d", serve_dup },
	[SYS_dup2] = { FILE_ANY, "dd", serve_dup2 },
	[SYS_dup3] = { FILE_ANY, "ddu", serve_dup3 },
	[SYS_fstat] = { FILE_ANY, "d>", serve_fstat },
	[SYS_lseek] = { FILE_ANY, "dli", serve_lseek },
	[SYS_fcntl] = { FILE_ANY, "dil", serve_fcntl },
	[SYS_flock] = { FILE_ANY, "di", serve_flock },
	[SYS_ioctl] = { FILE_ANY, "dul", serve_ioctl },
	[SYS_getdents64] = { FILE_READ, "d>u", serve_getdents64 },
	[SYS_fsync] = { FILE_ANY, "d", serve_fsync },              /* of a granted file: GRANT */
	[SYS_fdatasync] = { FILE_ANY, "d", serve_fdatasync },      /* likewise */
	[SYS_ftruncate] = { FILE_WRITE, "dl", serve_ftruncate },   /* likewise */
	[SYS_fallocate] = { FILE_WRITE, "dull", serve_fallocate }, /* likewise */
	[SYS_fadvise64] = { FILE_ANY, "d", serve_nothing },

	[SYS_pipe] = { GRANT, ">", serve_pipe },
	[SYS_pipe2] = { GRANT, ">u", serve_pipe2 },
	[SYS_socketpair] = { GRANT, "iii>", serve_socketpair },
	[SYS_eventfd] = { GRANT, "u", serve_eventfd },
	[SYS_eventfd2] = { GRANT, "uu", serve_eventfd2 },
	[SYS_timerfd_create] = { GRANT, "iu", serve_timerfd_create },
	[SYS_timerfd_settime] = { FILE_READ, "du<>", serve_timerfd_settime },
	[SYS_timerfd_gettime] = { FILE_READ, "d>", serve_timerfd_gettime },
	[SYS_epoll_create] = { GRANT, "i", serve_epoll_create },
	[SYS_epoll_create1] = { GRANT, "u", serve_epoll_create1 },

	[SYS_poll] = { NOTHING, "=ui", serve_poll },
	[SYS_ppoll] = { NOTHING, "=u<", serve_ppoll },
	[SYS_select] = { NOTHING, "u====", serve_select },
	[SYS_pselect6] = { NOTHING, "u====", serve_pselect6 },
	[SYS_epoll_ctl] = { FILE_ANY, "did<", serve_epoll_ctl },
	[SYS_epoll_wait] = { FILE_ANY, "d>ii", serve_epoll_wait },
	[SYS_epoll_pwait] = { FILE_ANY, "d>ii", serve_epoll_wait },
	[SYS_epoll_pwait2] = { FILE_ANY, "d>i<", serve_epoll_pwait2 },

	[SYS_sendto] = { FILE_WRITE, "d<lu<u", serve_sendto }, /* with an address: GRANT */
	[SYS_recvfrom] = { FILE_READ, "d>lu>=", serve_recvfrom },
	[SYS_sendmsg] = { FILE_WRITE, "d<u", serve_sendmsg }, /* with an address: GRANT; with control messages: never */
	[SYS_recvmsg] = { FILE_READ, "d=u", serve_recvmsg },
	[SYS_socket] = { GRANT, "iii", serve_socket },
	[SYS_connect] = { GRANT | FILE_ANY, "d<u", serve_connect },
	[SYS_bind] = { GRANT | FILE_ANY, "d<u", serve_bind },
	[SYS_listen] = { FILE_ANY, "di", serve_listen }, /* of a granted socket: GRANT */
	[SYS_accept] = { GRANT | FILE_READ, "d>=", serve_accept },
	[SYS_accept4] = { GRANT | FILE_READ, "d>=u", serve_accept4 },
	[SYS_shutdown] = { FILE_ANY, "du", serve_shutdown }, /* of a granted socket: GRANT */
	[SYS_getsockname] = { FILE_ANY, "d>=", serve_getsockname },
	[SYS_getpeername] = { FILE_ANY, "d>=", serve_getpeername },
	[SYS_getsockopt] = { FILE_ANY, "dii>=", serve_getsockopt },
	[SYS_setsockopt] = { FILE_ANY, "dii<u", serve_setsockopt }, /* of a granted socket: GRANT */

	[SYS_brk] = { NOTHING, "l", serve_brk },
	[SYS_mmap] = { NOTHING, "lluudl", serve_mmap },
	[SYS_munmap] = { NOTHING, "ll", serve_munmap },
	[SYS_mremap] = { NOTHING, "lllul", serve_mremap },
	[SYS_mprotect] = { NOTHING, "llu", serve_mprotect },
	[SYS_madvise] = { NOTHING, "lli", serve_madvise },

	[SYS_nanosleep] = { NOTHING, "<>", serve_nanosleep },
	[SYS_clock_nanosleep] = { NOTHING, "iu<>", serve_clock_nanosleep },
	[SYS_clock_gettime] = { NOTHING, "i>", serve_clock_gettime },
	[SYS_clock_getres] = { NOTHING, "i>", serve_clock_getres },
	[SYS_gettimeofday] = { NOTHING, ">>", serve_gettimeofday },
	[SYS_time] = { NOTHING, ">", serve_time },

	[SYS_getpid] = { NOTHING, "", serve_getpid },
	[SYS_gettid] = { NOTHING, "", serve_getpid },
	[SYS_set_tid_address] = { NOTHING, "l", serve_getpid },
	[SYS_getuid] = { NOTHING, "", serve_getuid },
	[SYS_geteuid] = { NOTHING, "", serve_geteuid },
	[SYS_getgid] = { NOTHING, "", serve_getgid },
	[SYS_getegid] = { NOTHING, "", serve_getegid },
	[SYS_uname] = { NOTHING, ">", serve_uname },
	[SYS_sysinfo] = { NOTHING, ">", serve_sysinfo },
	[SYS_getcpu] = { NOTHING, ">>", serve_getcpu },
	[SYS_sched_getaffinity] = { NOTHING, "iu>", serve_sched_getaffinity },
	[SYS_sched_yield] = { NOTHING, "", serve_nothing },
	[SYS_getrlimit] = { NOTHING, "u>", serve_getrlimit },
	[SYS_prlimit64] = { NOTHING, "iu<>", serve_prlimit64 },
	[SYS_getrusage] = { NOTHING, "i>", serve_getrusage },
	[SYS_times] = { NOTHING, ">", serve_times },
	[SYS_getrandom] = { NOTHING, ">lu", serve_getrandom },
	[SYS_futex] = { NOTHING, "<iu<<u", serve_futex },
	[SYS_set_robust_list] = { NOTHING, "ll", serve_nothing },
	[SYS_rt_sigaction] = { NOTHING, "i<>l", serve_rt_sigaction },
	[SYS_rt_sigprocmask] = { NOTHING, "i<>l", serve_rt_sigprocmask },
	[SYS_sigaltstack] = { NOTHING, "<>", serve_sigaltstack },

	[SYS_clone] = { FORBIDDEN, "", NULL },
	[SYS_clone3] = { FORBIDDEN, "", NULL },
	[SYS_fork] = { FORBIDDEN, "", NULL },
	[SYS_vfork] = { FORBIDDEN, "", NULL },
	[SYS_execve] = { FORBIDDEN, "", NULL },
	[SYS_execveat] = { FORBIDDEN, "", NULL },
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
	return row && row->need & GRANT;
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

long call_refused(struct call *call)
{
	call->refused = true;
	return -EPERM;
}

/* Says whether the caller may make the call: 0, or the error it gets. */
static long admit(struct call *call, const struct row *row)
{
	if (!row->need)
		return -ENOSYS;
	if (row->need & FORBIDDEN)
		return -EPERM;
	if (row->need & GRANT && call_granted(call) != 0)
		return -EPERM;
	if (!(row->need & (FILE_ANY | FILE_READ | FILE_WRITE)))
		return 0;
	int rights = (row->need & FILE_READ ? PROT_READ : 0) | (row->need & FILE_WRITE ? PROT_WRITE : 0);
	call->descriptor = descriptor_find(call->compartment, (int)call->argument[0]);
	if (!call->descriptor || (call->descriptor->prot & rights) != rights)
		return -EBADF;
	call->file = call->descriptor->file;
	return 0;
}

enum served system_call_serve(struct compartment *compartment, struct wait *wait)
{
	static const struct row none = { 0, "", NULL };
	struct kvm_regs *regs = &compartment->space->context.regs;
	long number = (long)regs->rax;
	const struct row *row = row_of(number) ? row_of(number) : &none;
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
	pending_call_end(compartment);
	regs->rax = (uint64_t)answer;
	if (!admitted || call.refused)
		return refuse(compartment, number, answer) ? SERVED_END : SERVED;
	compartment->info.calls_served++;
	supervisor.statistics.calls_served++;
	return call.end ? SERVED_END : SERVED;
}
