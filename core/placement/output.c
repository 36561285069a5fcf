/* output.c - dune_printf() and what prints with it, and the end of the process.  No libc: see format.h. */
#include "placement/output.h"

#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include "placement/format.h"
#include "placement/symbol.h"
#include "placement/system_call.h"

int dune_printf(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	int length = dune_format_write(STDERR_FILENO, format, arguments);
	va_end(arguments);
	return length;
}

/* ---- registers ---------------------------------------------------------------------------------------- */

void dune_print_registers(const struct dune_tf *tf)
{
	dune_printf("rax 0x%016lx  rbx 0x%016lx  rcx 0x%016lx  rdx 0x%016lx\n"
		    "rsi 0x%016lx  rdi 0x%016lx  rbp 0x%016lx  rsp 0x%016lx\n"
		    "r8  0x%016lx  r9  0x%016lx  r10 0x%016lx  r11 0x%016lx\n"
		    "r12 0x%016lx  r13 0x%016lx  r14 0x%016lx  r15 0x%016lx\n"
		    "rip 0x%016lx  rflags 0x%08lx  cs 0x%02x  ss 0x%02x  error code 0x%x\n",
		    tf->rax, tf->rbx, tf->rcx, tf->rdx, tf->rsi, tf->rdi, tf->rbp, tf->rsp, tf->r8, tf->r9, tf->r10,
		    tf->r11, tf->r12, tf->r13, tf->r14, tf->r15, tf->rip, tf->rflags, tf->cs, tf->ss, tf->err);
}

void dune_dump_trap_frame(struct dune_tf *tf)
{
	char symbol[DUNE_SYMBOL_ROOM];
	bool known = dune_symbol_at(tf->rip, symbol, sizeof symbol);
	dune_printf("at rip 0x%lx (%s)\n", tf->rip, known ? symbol : "in no mapping");
	dune_print_registers(tf);
}

/* ---- the end ------------------------------------------------------------------------------------------- */

enum {
	SIGNAL_SET_BYTES = 8 /* of the kernel's signal sets */
};

static void raise_abort(void)
{
	uint64_t set = (uint64_t)1 << (SIGABRT - 1);
	long process = dune_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
	long thread = dune_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
	dune_system_call(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&set, 0, SIGNAL_SET_BYTES, 0, 0);
	dune_system_call(SYS_tgkill, process, thread, SIGABRT, 0, 0, 0);
}

void dune_abort(void)
{
	/* As the kernel has it: handler, flags, restorer, mask.  All zero: the default. */
	static const uint64_t default_action[4];
	/* The program's handler first, as abort() does. */
	raise_abort();
	dune_system_call(SYS_rt_sigaction, SIGABRT, (long)default_action, 0, SIGNAL_SET_BYTES, 0, 0);
	raise_abort();
	for (;;)
		dune_system_call(SYS_exit_group, 128 + SIGABRT, 0, 0, 0, 0, 0);
}

void dune_die(void)
{
	uintptr_t caller = (uintptr_t)__builtin_return_address(0);
	char symbol[DUNE_SYMBOL_ROOM];
	/* One byte back: the call may be the last instruction of its function. */
	bool known = dune_symbol_at(caller - 1, symbol, sizeof symbol);
	dune_printf("dune: dune_die() was called at 0x%lx (%s)\n", caller, known ? symbol : "in no mapping");
	dune_abort();
}

/* ---- published names ------------------------------------------------------------------------------------ */

void *dune_mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
	return mmap(address, length, prot, flags, fd, offset);
}

sighandler_t dune_signal(int number, sighandler_t handler)
{
	return signal(number, handler);
}
