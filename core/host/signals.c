/* signals.c - signals that reach a thread, and exceptions of ring 3 that become signals. */
#define _GNU_SOURCE
#include "host/host.h"
#include "placement/system_call.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
	MASK_SIZE = 8 /* bytes, as the kernel has it */
};

static uint64_t bit(int number)
{
	return (uint64_t)1 << (number - 1);
}

/* ---- handlers of dune_register_signal_handler() ---------------------------------------------------- */

static dune_intr_cb handler_of(int number)
{
	if (DUNE_SIGNAL_INTR_BASE + number >= IDT_ENTRIES)
		return NULL;
	return __atomic_load_n(&dune_handlers.interrupt[DUNE_SIGNAL_INTR_BASE + number], __ATOMIC_ACQUIRE);
}

void dune_host_deliver(struct dune_host_thread *self, struct dune_tf *tf)
{
	uint64_t pending = atomic_exchange(&self->pending, 0);
	while (pending) {
		int number = __builtin_ctzll(pending) + 1;
		dune_intr_cb handler = handler_of(number);
		pending &= pending - 1;
		/* A handler need not return: the others wait for the next run. */
		atomic_fetch_or(&self->pending, pending);
		tf->err = 0;
		if (handler)
			handler(tf);
		pending = atomic_exchange(&self->pending, 0);
	}
}

static void to_frame(struct dune_tf *tf, const greg_t *from)
{
	*tf = (struct dune_tf){
		.rdi = from[REG_RDI],
		.rsi = from[REG_RSI],
		.rdx = from[REG_RDX],
		.rcx = from[REG_RCX],
		.r8 = from[REG_R8],
		.r9 = from[REG_R9],
		.r10 = from[REG_R10],
		.r11 = from[REG_R11],
		.rbx = from[REG_RBX],
		.rbp = from[REG_RBP],
		.r12 = from[REG_R12],
		.r13 = from[REG_R13],
		.r14 = from[REG_R14],
		.r15 = from[REG_R15],
		.rax = from[REG_RAX],
		.rip = from[REG_RIP],
		.rsp = from[REG_RSP],
		.cs = GD_KT,
		.ss = GD_KD,
		.rflags = from[REG_EFL],
	};
}

static void from_frame(greg_t *to, const struct dune_tf *tf)
{
	to[REG_RDI] = tf->rdi, to[REG_RSI] = tf->rsi, to[REG_RDX] = tf->rdx, to[REG_RCX] = tf->rcx;
	to[REG_R8] = tf->r8, to[REG_R9] = tf->r9, to[REG_R10] = tf->r10, to[REG_R11] = tf->r11;
	to[REG_RBX] = tf->rbx, to[REG_RBP] = tf->rbp, to[REG_R12] = tf->r12, to[REG_R13] = tf->r13;
	to[REG_R14] = tf->r14, to[REG_R15] = tf->r15, to[REG_RAX] = tf->rax, to[REG_RIP] = tf->rip;
	to[REG_RSP] = tf->rsp, to[REG_EFL] = tf->rflags;
}

bool dune_host_on_signal(int number, ucontext_t *interrupted)
{
	struct dune_host_thread *self = dune_host_self;
	dune_intr_cb handler = handler_of(number);
	if (!self || !handler)
		return false;
	if (atomic_load(&self->serving)) {
		atomic_fetch_or(&self->pending, bit(number));
		dune_vcpu_interrupt_own(self->vcpu);
		return true;
	}
	/* The thread's own code, which is what ring 0 is in guest placement. */
	struct dune_tf tf;
	to_frame(&tf, interrupted->uc_mcontext.gregs);
	handler(&tf);
	from_frame(interrupted->uc_mcontext.gregs, &tf);
	return true;
}

/* ---- exceptions that nobody handles ---------------------------------------------------------------- */

/* What Linux sends (arch/x86/kernel/traps.c and arch/x86/mm/fault.c). */
static const struct {
	uint8_t number;
	uint8_t code;
	bool at_instruction; /* si_addr is where it was */
} causes[] = {
	[T_DIVIDE] = { SIGFPE, FPE_INTDIV, true },  [T_DEBUG] = { SIGTRAP, TRAP_TRACE, true },
	[T_BRKPT] = { SIGTRAP, SI_KERNEL, false },  [T_OFLOW] = { SIGSEGV, SI_KERNEL, false },
	[T_BOUND] = { SIGSEGV, SI_KERNEL, false },  [T_ILLOP] = { SIGILL, ILL_ILLOPN, true },
	[T_DEVICE] = { SIGSEGV, SI_KERNEL, false }, [T_TSS] = { SIGSEGV, SI_KERNEL, false },
	[T_SEGNP] = { SIGBUS, SI_KERNEL, false },   [T_STACK] = { SIGBUS, SI_KERNEL, false },
	[T_GPFLT] = { SIGSEGV, SI_KERNEL, false },  [T_PGFLT] = { SIGSEGV, SEGV_MAPERR, false },
	[T_FPERR] = { SIGFPE, FPE_FLTINV, true },   [T_ALIGN] = { SIGBUS, BUS_ADRALN, false },
	[T_SIMDERR] = { SIGFPE, FPE_FLTINV, true },
};

/* si_code of a floating-point exception, from what is raised and not masked (Intel SDM vol. 1, 8.1.3 and 10.2.3). */
static int floating_point_code(unsigned raised)
{
	enum {
		INVALID = 1,
		DENORMAL = 2,
		DIVIDE = 4,
		OVERFLOW_ = 8,
		UNDERFLOW_ = 16,
		PRECISION = 32
	};
	if (raised & INVALID)
		return FPE_FLTINV;
	if (raised & DIVIDE)
		return FPE_FLTDIV;
	if (raised & OVERFLOW_)
		return FPE_FLTOVF;
	if (raised & (UNDERFLOW_ | DENORMAL))
		return FPE_FLTUND;
	return raised & PRECISION ? FPE_FLTRES : FPE_FLTINV;
}

/* Linux does not let a thread ignore or block what its own instruction has caused: then the process ends. */
static void insist(int number)
{
	struct {
		void *handler;
		uint64_t flags;
		void *restorer;
		uint64_t mask;
	} now, standard = { .handler = SIG_DFL };
	uint64_t blocked = 0, this = bit(number);
	dune_system_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&blocked, MASK_SIZE, 0, 0);
	dune_system_call(SYS_rt_sigaction, number, 0, (long)&now, MASK_SIZE, 0, 0);
	if (!(blocked & this) && now.handler != SIG_IGN)
		return;
	dune_system_call(SYS_rt_sigaction, number, (long)&standard, 0, MASK_SIZE, 0, 0);
	dune_system_call(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&this, 0, MASK_SIZE, 0, 0);
}

void dune_host_raise(struct dune_host_thread *self, const struct dune_exit *exit, const struct dune_tf *tf)
{
	siginfo_t info;
	memset(&info, 0, sizeof info);
	info.si_signo = SIGSEGV;
	info.si_code = SI_KERNEL;
	if (exit->vector < sizeof causes / sizeof *causes && causes[exit->vector].number) {
		info.si_signo = causes[exit->vector].number;
		info.si_code = causes[exit->vector].code;
		if (causes[exit->vector].at_instruction)
			info.si_addr = (void *)tf->rip;
	}
	if (exit->vector == T_PGFLT) {
		info.si_addr = (void *)exit->address;
		info.si_code = exit->error_code & FEC_P ? SEGV_ACCERR : SEGV_MAPERR;
	} else if (exit->vector == T_FPERR || exit->vector == T_SIMDERR) {
		struct kvm_fpu fpu;
		if (ioctl(self->vcpu->fd, KVM_GET_FPU, &fpu) == 0)
			info.si_code = floating_point_code(exit->vector == T_FPERR ? fpu.fsw & ~fpu.fcw :
										     fpu.mxcsr & ~(fpu.mxcsr >> 7));
	}
	insist(info.si_signo);
	long process = dune_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0),
	     thread = dune_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
	if (dune_system_call(SYS_rt_tgsigqueueinfo, process, thread, info.si_signo, (long)&info, 0, 0) != 0)
		dune_system_call(SYS_tgkill, process, thread, info.si_signo, 0, 0, 0);
}
