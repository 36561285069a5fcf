/*
 * calls.c - see calls.h.
 *
 * Each row of the table serves one call.  Whatever the program passes is copied in once, checked, and then used; a pointer
 * is handed on to the kernel only when all of what it points to is the program's own memory with the right that the call
 * needs.  The program has one thread, so nothing of it changes meanwhile.
 */
#include "calls.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "memory.h"

enum {
	DESCRIPTORS = 64,
	VECTORS_MAX = 64,
	PATH_ROOM = 4096,
	PROGRAM_ID = 1, /* what getpid() says */
};
#define ADDRESS_END 0x7ffffffff000ul

unsigned long calls_served, calls_refused;

static struct program program;
static uintptr_t heap_break;
static bool is_open[DESCRIPTORS] = { true, true, true }; /* by the program; the numbers are this process's */

static long result_of(long result)
{
	return result < 0 ? -errno : result;
}

static bool has(uint64_t descriptor)
{
	return descriptor < DESCRIPTORS && is_open[descriptor];
}

static uintptr_t page_up(uintptr_t address)
{
	return (address + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
}

/* ---- files --------------------------------------------------------------------------------------------- */

static long serve_read(const uint64_t *argument)
{
	if (!has(argument[0]))
		return -EBADF;
	if (!memory_may(argument[1], argument[2], PROT_WRITE))
		return -EFAULT;
	return result_of(read((int)argument[0], (void *)argument[1], argument[2]));
}

static long serve_write(const uint64_t *argument)
{
	if (!has(argument[0]))
		return -EBADF;
	if (!memory_may(argument[1], argument[2], PROT_READ))
		return -EFAULT;
	return result_of(write((int)argument[0], (const void *)argument[1], argument[2]));
}

/* readv() and writev(): the vectors are checked in the copy that the kernel gets. */
static long serve_vectors(const uint64_t *argument, int protection, ssize_t (*function)(int, const struct iovec *, int))
{
	struct iovec vectors[VECTORS_MAX];
	if (!has(argument[0]))
		return -EBADF;
	if (argument[2] > VECTORS_MAX)
		return -EINVAL;
	if (!memory_copy_in(vectors, argument[1], argument[2] * sizeof *vectors))
		return -EFAULT;
	for (unsigned i = 0; i < argument[2]; i++)
		if (!memory_may((uintptr_t)vectors[i].iov_base, vectors[i].iov_len, protection))
			return -EFAULT;
	return result_of(function((int)argument[0], vectors, (int)argument[2]));
}

static long serve_readv(const uint64_t *argument)
{
	return serve_vectors(argument, PROT_WRITE, readv);
}

static long serve_writev(const uint64_t *argument)
{
	return serve_vectors(argument, PROT_READ, writev);
}

static long serve_lseek(const uint64_t *argument)
{
	if (!has(argument[0]))
		return -EBADF;
	return result_of(lseek((int)argument[0], (off_t)argument[1], (int)argument[2]));
}

static long serve_close(const uint64_t *argument)
{
	if (!has(argument[0]))
		return -EBADF;
	is_open[argument[0]] = false;
	/* This process goes on using the standard ones. */
	return argument[0] <= STDERR_FILENO ? 0 : result_of(close((int)argument[0]));
}

static long status_out(int descriptor, uintptr_t to)
{
	struct stat status;
	memset(&status, 0, sizeof status);
	if (fstat(descriptor, &status))
		return -errno;
	return memory_copy_out(to, &status, sizeof status) ? 0 : -EFAULT;
}

static long serve_fstat(const uint64_t *argument)
{
	return has(argument[0]) ? status_out((int)argument[0], argument[1]) : -EBADF;
}

/* As fstat(), which is what the C library uses it for. */
static long serve_newfstatat(const uint64_t *argument)
{
	char path[1];
	if (!(argument[3] & AT_EMPTY_PATH) || !memory_copy_in_text(path, sizeof path, argument[1]))
		return -EPERM;
	return has(argument[0]) ? status_out((int)argument[0], argument[2]) : -EBADF;
}

static long serve_ioctl(const uint64_t *argument)
{
	return has(argument[0]) ? -ENOTTY : -EBADF;
}

/* Whether a file shows nothing but what is stored in it: /proc/self/mem would show this process. */
static bool is_plain(int descriptor)
{
	struct stat status;
	struct statfs system;
	return fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && fstatfs(descriptor, &system) == 0 &&
	       system.f_type != PROC_SUPER_MAGIC && system.f_type != SYSFS_MAGIC && system.f_type != DEBUGFS_MAGIC &&
	       system.f_type != TRACEFS_MAGIC;
}

static long open_plain(uintptr_t path_at, uint64_t flags)
{
	char path[PATH_ROOM];
	if ((flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC | __O_TMPFILE))
		return -EPERM;
	if (!memory_copy_in_text(path, sizeof path, path_at))
		return -EFAULT;
	struct open_how how = {
		.flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
		.resolve = RESOLVE_NO_MAGICLINKS,
	};
	long descriptor = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
	if (descriptor < 0)
		return -errno;
	int error = descriptor >= DESCRIPTORS ? EMFILE : is_plain((int)descriptor) ? 0 : EPERM;
	if (error) {
		close((int)descriptor);
		return -error;
	}
	is_open[descriptor] = true;
	return descriptor;
}

static long serve_openat(const uint64_t *argument)
{
	return (int)argument[0] == AT_FDCWD ? open_plain(argument[1], argument[2]) : -EPERM;
}

static long serve_open(const uint64_t *argument)
{
	return open_plain(argument[0], argument[1]);
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static long serve_brk(const uint64_t *argument)
{
	uintptr_t wanted = argument[0], now = page_up(heap_break);
	if (wanted < program.heap || wanted > program.heap_end)
		return (long)heap_break;
	uintptr_t end = page_up(wanted);
	if (end > now && memory_allow(now, end - now, PROT_READ | PROT_WRITE))
		return (long)heap_break;
	if (end < now && memory_remove(end, now - end))
		return (long)heap_break;
	return (long)(heap_break = wanted);
}

static long serve_mmap(const uint64_t *argument)
{
	uint64_t flags = argument[3];
	uintptr_t start;
	if (argument[2] & ~(uint64_t)(PROT_READ | PROT_WRITE) || flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) ||
	    (flags & (MAP_PRIVATE | MAP_ANONYMOUS)) != (MAP_PRIVATE | MAP_ANONYMOUS))
		return -EPERM;
	if (argument[1] > memory_arena.pages * PAGE)
		return -ENOMEM;
	int error = memory_take(argument[1], (int)argument[2], &start);
	return error ? error : (long)start;
}

static bool is_in_arena(uintptr_t start, size_t size)
{
	uintptr_t offset = start - memory_arena.start, end = memory_arena.pages * PAGE;
	return !(start % PAGE) && offset < end && size && size <= end - offset;
}

static long serve_munmap(const uint64_t *argument)
{
	return is_in_arena(argument[0], argument[1]) ? memory_remove(argument[0], argument[1]) : -EINVAL;
}

static long serve_mprotect(const uint64_t *argument)
{
	if (argument[2] & ~(uint64_t)(PROT_READ | PROT_WRITE))
		return -EPERM;
	if (argument[0] % PAGE || argument[1] > ADDRESS_END)
		return -EINVAL;
	if (!argument[1])
		return 0;
	if (!memory_is_mapped(argument[0], page_up(argument[1])))
		return -ENOMEM;
	return memory_allow(argument[0], page_up(argument[1]), (int)argument[2]);
}

static long serve_madvise(const uint64_t *argument)
{
	if (argument[2] != MADV_DONTNEED)
		return 0; /* advice */
	if (argument[0] % PAGE || argument[1] > ADDRESS_END ||
	    !memory_may(argument[0], page_up(argument[1]), PROT_WRITE))
		return -ENOMEM;
	return result_of(madvise((void *)argument[0], argument[1], MADV_DONTNEED));
}

/* The C library then copies. */
static long serve_mremap(const uint64_t *argument)
{
	(void)argument;
	return -ENOMEM;
}

/* ---- the process --------------------------------------------------------------------------------------- */

static long serve_exit(const uint64_t *argument)
{
	dune_ret_from_user((int)(argument[0] & 0xff));
}

static long serve_arch_prctl(const uint64_t *argument)
{
	uint64_t base;
	switch (argument[0]) {
	case ARCH_SET_FS:
		if (argument[1] >= ADDRESS_END)
			return -EPERM;
		dune_set_user_fs(argument[1]);
		return 0;
	case ARCH_GET_FS:
		base = dune_get_user_fs();
		return memory_copy_out(argument[1], &base, sizeof base) ? 0 : -EFAULT;
	default:
		return -EINVAL;
	}
}

static long serve_identity(const uint64_t *argument)
{
	(void)argument;
	return PROGRAM_ID;
}

/* What a C library asks for at its start and can do without. */
static long serve_missing(const uint64_t *argument)
{
	(void)argument;
	return -ENOSYS;
}

static long serve_readlink(const uint64_t *argument)
{
	(void)argument;
	return -ENOENT;
}

static long serve_prlimit(const uint64_t *argument)
{
	struct rlimit limit;
	if ((argument[0] && argument[0] != PROGRAM_ID) || argument[2])
		return -EPERM;
	if (argument[1] != RLIMIT_STACK)
		return -EINVAL;
	limit.rlim_cur = limit.rlim_max = 8ul << 20;
	return memory_copy_out(argument[3], &limit, sizeof limit) ? 0 : -EFAULT;
}

static long serve_getrandom(const uint64_t *argument)
{
	if (!memory_may(argument[0], argument[1], PROT_WRITE))
		return -EFAULT;
	return result_of(getrandom((void *)argument[0], argument[1], (unsigned)argument[2]));
}

static long serve_uname(const uint64_t *argument)
{
	struct utsname name;
	memset(&name, 0, sizeof name);
	if (uname(&name))
		return -errno;
	return memory_copy_out(argument[0], &name, sizeof name) ? 0 : -EFAULT;
}

/* The system's clocks: other numbers stand for processes and descriptors. */
static bool is_clock(uint64_t clock)
{
	return clock <= CLOCK_TAI;
}

static long serve_clock_gettime(const uint64_t *argument)
{
	struct timespec time;
	if (!is_clock(argument[0]))
		return -EINVAL;
	if (clock_gettime((clockid_t)argument[0], &time))
		return -errno;
	return memory_copy_out(argument[1], &time, sizeof time) ? 0 : -EFAULT;
}

static long serve_nanosleep(const uint64_t *argument)
{
	struct timespec time;
	if (!memory_copy_in(&time, argument[0], sizeof time))
		return -EFAULT;
	return result_of(nanosleep(&time, NULL));
}

static long serve_clock_nanosleep(const uint64_t *argument)
{
	struct timespec time;
	if (!is_clock(argument[0]))
		return -EINVAL;
	if (!memory_copy_in(&time, argument[2], sizeof time))
		return -EFAULT;
	return -clock_nanosleep((clockid_t)argument[0], (int)argument[1], &time, NULL);
}

/* ---- the table ------------------------------------------------------------------------------------------- */

struct call {
	long (*serve)(const uint64_t *argument);
	bool on_request; /* only if it was allowed by name */
};

static const struct call calls[] = {
	[SYS_read] = { serve_read },
	[SYS_write] = { serve_write },
	[SYS_readv] = { serve_readv },
	[SYS_writev] = { serve_writev },
	[SYS_close] = { serve_close },
	[SYS_fstat] = { serve_fstat },
	[SYS_newfstatat] = { serve_newfstatat },
	[SYS_ioctl] = { serve_ioctl },
	[SYS_lseek] = { serve_lseek },
	[SYS_open] = { serve_open, true },
	[SYS_openat] = { serve_openat, true },

	[SYS_brk] = { serve_brk },
	[SYS_mmap] = { serve_mmap },
	[SYS_munmap] = { serve_munmap },
	[SYS_mprotect] = { serve_mprotect },
	[SYS_madvise] = { serve_madvise },
	[SYS_mremap] = { serve_mremap },

	[SYS_exit] = { serve_exit },
	[SYS_exit_group] = { serve_exit },
	[SYS_arch_prctl] = { serve_arch_prctl },
	[SYS_set_tid_address] = { serve_identity },
	[SYS_set_robust_list] = { serve_missing },
	[SYS_rseq] = { serve_missing },
	[SYS_readlink] = { serve_readlink },
	[SYS_readlinkat] = { serve_readlink },
	[SYS_prlimit64] = { serve_prlimit },
	[SYS_getrandom] = { serve_getrandom },
	[SYS_getpid] = { serve_identity },
	[SYS_gettid] = { serve_identity },
	[SYS_uname] = { serve_uname, true },
	[SYS_clock_gettime] = { serve_clock_gettime, true },
	[SYS_nanosleep] = { serve_nanosleep, true },
	[SYS_clock_nanosleep] = { serve_clock_nanosleep, true },
};
enum {
	CALLS = sizeof calls / sizeof *calls
};

static const char *const names[] = {
#include "sthread/call_names.inc"
};

static bool is_allowed[CALLS];

static const char *name_of(uint64_t number)
{
	return number < sizeof names / sizeof *names ? names[number] : NULL;
}

bool calls_allow(const char *name)
{
	for (unsigned i = 0; i < CALLS; i++)
		if (calls[i].on_request && strcmp(names[i], name) == 0)
			return is_allowed[i] = true;
	return false;
}

void calls_list(FILE *stream)
{
	for (unsigned i = 0; i < CALLS; i++)
		if (calls[i].on_request)
			fprintf(stream, " %s", names[i]);
}

void calls_begin(const struct program *loaded)
{
	program = *loaded;
	heap_break = program.heap;
}

static void refuse(struct dune_tf *tf)
{
	const char *name = name_of(tf->rax);
	calls_refused++;
	if (name)
		dune_printf("dune-sandbox: refused: %s\n", name);
	else
		dune_printf("dune-sandbox: refused: system call %lu\n", tf->rax);
	tf->rax = (uint64_t)-EPERM;
}

void calls_serve(struct dune_tf *tf)
{
	const uint64_t arguments[6] = { tf->rdi, tf->rsi, tf->rdx, tf->r10, tf->r8, tf->r9 };
	const struct call *call = tf->rax < CALLS ? &calls[tf->rax] : NULL;
	if (!call || !call->serve || (call->on_request && !is_allowed[tf->rax])) {
		refuse(tf);
		return;
	}
	calls_served++;
	tf->rax = (uint64_t)call->serve(arguments);
}
