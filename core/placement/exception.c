/* exception.c - see exception.h; and what happens to page faults that the program leaves to the library. */
#include "placement/exception.h"

#include <string.h>

#include "dune.h"
#include "kvm/mirror.h"
#include "placement/system_call.h"
#include "vm/space.h"

enum {
	MASK_SIZE = 8 /* bytes, as the kernel has it */
};

/* What Linux sends (arch/x86/kernel/traps.c and arch/x86/mm/fault.c). */
const uint8_t dune_exception_signal[32] = {
	[T_DIVIDE] = SIGFPE, [T_DEBUG] = SIGTRAP,  [T_BRKPT] = SIGTRAP, [T_OFLOW] = SIGSEGV, [T_BOUND] = SIGSEGV,
	[T_ILLOP] = SIGILL,  [T_DEVICE] = SIGSEGV, [T_TSS] = SIGSEGV,   [T_SEGNP] = SIGBUS,  [T_STACK] = SIGBUS,
	[T_GPFLT] = SIGSEGV, [T_PGFLT] = SIGSEGV,  [T_FPERR] = SIGFPE,  [T_ALIGN] = SIGBUS,  [T_SIMDERR] = SIGFPE,
};
/* si_code, where it is not SI_KERNEL or depends on more; with those of `at_instruction`, si_addr is where it was. */
static const uint8_t code_of[32] = {
	[T_DIVIDE] = FPE_INTDIV, [T_DEBUG] = TRAP_TRACE, [T_ILLOP] = ILL_ILLOPN, [T_ALIGN] = BUS_ADRALN
};
static const uint32_t at_instruction = 1u << T_DIVIDE | 1u << T_DEBUG | 1u << T_ILLOP | 1u << T_FPERR | 1u << T_SIMDERR;

/* si_code of a floating-point exception, from what is raised and not masked (Intel SDM vol. 1, 8.1.3 and 10.2.3). */
static int floating_point_code(unsigned raised)
{
	enum {
		RAISED_INVALID = 1,
		RAISED_DENORMAL = 2,
		RAISED_DIVIDE = 4,
		RAISED_OVERFLOW = 8,
		RAISED_UNDERFLOW = 16,
		RAISED_PRECISION = 32
	};
	if (raised & RAISED_INVALID)
		return FPE_FLTINV;
	if (raised & RAISED_DIVIDE)
		return FPE_FLTDIV;
	if (raised & RAISED_OVERFLOW)
		return FPE_FLTOVF;
	if (raised & (RAISED_UNDERFLOW | RAISED_DENORMAL))
		return FPE_FLTUND;
	return raised & RAISED_PRECISION ? FPE_FLTRES : FPE_FLTINV;
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
	uint64_t blocked = 0, this = (uint64_t)1 << (number - 1);
	dune_system_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&blocked, MASK_SIZE, 0, 0);
	dune_system_call(SYS_rt_sigaction, number, 0, (long)&now, MASK_SIZE, 0, 0);
	if (!(blocked & this) && now.handler != SIG_IGN)
		return;
	dune_system_call(SYS_rt_sigaction, number, (long)&standard, 0, MASK_SIZE, 0, 0);
	dune_system_call(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&this, 0, MASK_SIZE, 0, 0);
}

void dune_exception_cause(siginfo_t *info, unsigned vector, uint64_t error_code, uintptr_t address, uintptr_t rip,
			  unsigned raised)
{
	memset(info, 0, sizeof *info);
	info->si_signo = SIGSEGV;
	info->si_code = SI_KERNEL;
	if (vector < 32 && dune_exception_signal[vector]) {
		info->si_signo = dune_exception_signal[vector];
		if (code_of[vector])
			info->si_code = code_of[vector];
		if (at_instruction >> vector & 1)
			info->si_addr = (void *)rip;
	}
	if (vector == T_PGFLT) {
		info->si_addr = (void *)address;
		info->si_code = error_code & FEC_P ? SEGV_ACCERR : SEGV_MAPERR;
	} else if (vector == T_FPERR || vector == T_SIMDERR) {
		info->si_code = floating_point_code(raised);
	}
}

void dune_exception_send(const siginfo_t *info)
{
	insist(info->si_signo);
	long process = dune_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
	long thread = dune_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
	if (dune_system_call(SYS_rt_tgsigqueueinfo, process, thread, info->si_signo, (long)info, 0, 0) != 0)
		dune_system_call(SYS_tgkill, process, thread, info->si_signo, 0, 0, 0);
}

void dune_vm_default_pgflt_handler(uintptr_t address, uint64_t error_code)
{
	const uint64_t denied_write = FEC_P | FEC_W;
	siginfo_t info;
	if ((error_code & denied_write) == denied_write &&
	    dune_space_copy_on_write((ptent_t *)PTE_ADDR(read_cr3()), address, dune_mirror_at))
		return;
	dune_exception_cause(&info, T_PGFLT, error_code, address, 0, 0);
	dune_exception_send(&info);
}
