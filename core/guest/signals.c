/*
 * signals.c - how a Linux signal reaches a thread in the guest.
 *
 * The kernel delivers to the host side, on whatever that is doing.  There on_signal() notes it and blocks all signals; the run
 * loop raises an interrupt in the guest as soon as that takes interrupts; and ring 0 calls the process's handler on the process's
 * stack, with the mask that the kernel would have set.  The process's dispositions are kept here: the kernel's own are
 * on_signal() for each signal that has a handler, or whose default dumps core (so that the core shows the guest's registers).
 *
 * Sources: sigaction(2), sigreturn(2), signal(7); Linux arch/x86/include/uapi/asm/{sigcontext,ucontext}.h for the frame.
 */
#include "guest/guest.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "host/host.h"
#include "placement/report.h"

enum {
	SIGNALS = 65,
	MASK_SIZE = 8
};

/* As rt_sigaction(2) has it. */
struct disposition {
	union {
		void (*handler)(int);
		void (*action)(int, siginfo_t *, void *);
	};
	uint64_t flags;
	void (*restorer)(void);
	uint64_t mask;
};
#define RESTORER 0x04000000 /* SA_RESTORER */

static struct disposition dispositions[SIGNALS];

void dune_guest_signal_return(void); /* switch.S */
void dune_guest_return_to(void *context) __attribute__((noreturn));

static uint64_t bit(int number)
{
	return (uint64_t)1 << (number - 1);
}

static bool is_function(const struct disposition *disposition)
{
	return disposition->handler != SIG_DFL && disposition->handler != SIG_IGN;
}

static bool dumps_core(int number)
{
	const uint64_t set = bit(SIGQUIT) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGABRT) | bit(SIGBUS) | bit(SIGFPE) |
			     bit(SIGSEGV) | bit(SIGXCPU) | bit(SIGXFSZ) | bit(SIGSYS);
	return set & bit(number);
}

static bool ours(int number)
{
	return number >= 1 && number < SIGNALS && number != SIGKILL && number != SIGSTOP &&
	       number != dune_kick_signal() && number != dune_guest_kick_signal();
}

static long set_mask(uint64_t mask)
{
	return dune_system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, MASK_SIZE, 0, 0);
}

static uint64_t get_mask(void)
{
	uint64_t mask = 0;
	dune_system_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&mask, MASK_SIZE, 0, 0);
	return mask;
}

static void set_default(int number)
{
	struct disposition disposition = { .handler = SIG_DFL,
					   .flags = RESTORER,
					   .restorer = dune_guest_signal_return };
	dune_system_call(SYS_rt_sigaction, number, (long)&disposition, 0, MASK_SIZE, 0, 0);
}

/* ---- host side: the kernel's handler --------------------------------------------------------------- */

/* A thread that is not in the guest: what the kernel would have done. */
static void handle_here(int number, siginfo_t *info, void *context)
{
	struct disposition disposition = dispositions[number];
	if (is_function(&disposition)) {
		if (disposition.flags & SA_RESETHAND)
			dispositions[number].handler = SIG_DFL;
		disposition.action(number, info, context);
	} else if (disposition.handler == SIG_DFL) {
		/* A fault happens again; anything else is sent again, and comes when this handler returns. */
		set_default(number);
		if (info->si_code <= 0)
			dune_system_call(SYS_tgkill, getpid(), dune_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0), number,
					 0, 0, 0);
	}
}

static bool is_fault(int number, const siginfo_t *info)
{
	return info->si_code > 0 && (number == SIGSEGV || number == SIGBUS || number == SIGILL || number == SIGFPE);
}

/* Async-signal-safe. */
static void on_signal(int number, siginfo_t *info, void *context)
{
	struct dune_guest_thread *thread = dune_guest_self;
	ucontext_t *interrupted = context;
	if (!thread || !atomic_load(&thread->entered) ||
	    dune_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0) != thread->id) { /* else: the child of a vfork() */
		if (!dune_host_on_signal(number, interrupted))
			handle_here(number, info, context);
		return;
	}
	if (is_fault(number, info)) { /* of the host side itself */
		set_default(number);
		return;
	}
	thread->signal.info = *info;
	memcpy(&thread->signal.mask, &interrupted->uc_sigmask, MASK_SIZE);
	thread->signal.fault = false;
	thread->signal.number = number;
	const uint64_t all_but_kick = ~bit(dune_guest_kick_signal());
	memcpy(&interrupted->uc_sigmask, &all_but_kick, MASK_SIZE);
	thread->vcpu->run->immediate_exit = 1;
	uint8_t *at = (uint8_t *)interrupted->uc_mcontext.gregs[REG_RIP];
	if (at >= dune_guest_forward_begin && at <= dune_guest_forward_call && thread->interruptible)
		interrupted->uc_mcontext.gregs[REG_RIP] = (greg_t)dune_guest_forward_interrupted;
}

static long install(int number)
{
	struct disposition mine = dispositions[number];
	if (is_function(&mine) || (mine.handler == SIG_DFL && dumps_core(number)) ||
	    dune_handlers.interrupt[DUNE_SIGNAL_INTR_BASE + number]) {
		mine.action = on_signal;
		mine.flags = (mine.flags & ~(uint64_t)SA_RESETHAND) | SA_SIGINFO;
	}
	mine.flags |= RESTORER;
	mine.restorer = dune_guest_signal_return;
	return dune_system_call(SYS_rt_sigaction, number, (long)&mine, 0, MASK_SIZE, 0, 0);
}

/* Keeps what the process has set while the kernel did not have on_signal(); returns false if that is there already. */
static bool keep_disposition(int number)
{
	struct disposition now;
	if (!ours(number) || dune_system_call(SYS_rt_sigaction, number, 0, (long)&now, MASK_SIZE, 0, 0) != 0 ||
	    now.action == on_signal)
		return false;
	dispositions[number] = now;
	return true;
}

int dune_guest_signals_begin(void)
{
	for (int number = 1; number < SIGNALS; number++) {
		if (!keep_disposition(number))
			continue;
		struct disposition now = dispositions[number];
		if ((is_function(&now) || (now.handler == SIG_DFL && dumps_core(number))) && install(number) != 0)
			return dune_fail(EINVAL, "signal %d cannot be taken over", number);
	}
	return 0;
}

int dune_register_signal_handler(int number, dune_intr_cb callback)
{
	if (!ours(number) || DUNE_SIGNAL_INTR_BASE + number >= IDT_ENTRIES)
		return dune_fail(EINVAL, "signal %d cannot have a handler", number);
	keep_disposition(number);
	__atomic_store_n(&dune_handlers.interrupt[DUNE_SIGNAL_INTR_BASE + number], callback, __ATOMIC_RELEASE);
	return install(number) == 0 ? 0 : dune_fail(EINVAL, "signal %d cannot be taken over", number);
}

/* Whether user memory can be read, without touching it: the kernel copies it in before it looks at signal number 0. */
static bool readable(uint64_t address)
{
	return dune_system_call(SYS_rt_sigaction, 0, address, 0, MASK_SIZE, 0, 0) != -EFAULT;
}

uint64_t dune_guest_sigaction(const struct kvm_regs *call)
{
	int number = (int)call->rdi;
	struct disposition *new = (struct disposition *)call->rsi, *old = (struct disposition *)call->rdx;
	if (!ours(number) || call->r10 != MASK_SIZE)
		return dune_system_call(SYS_rt_sigaction, call->rdi, call->rsi, call->rdx, call->r10, 0, 0);
	if (new && !readable((uint64_t) new))
		return -EFAULT;
	struct disposition before = dispositions[number];
	struct disposition wanted = new ? *new : before;
	if (old) { /* the kernel sees whether it can be written */
		long result = dune_system_call(SYS_rt_sigaction, number, 0, (long)old, MASK_SIZE, 0, 0);
		if (result != 0)
			return result;
		*old = before;
	}
	if (!new)
		return 0;
	dispositions[number] = wanted;
	return install(number);
}

uint64_t dune_guest_sigaltstack(struct dune_guest_thread *thread, const struct kvm_regs *call)
{
	stack_t none = { .ss_flags = SS_DISABLE };
	dune_system_call(SYS_sigaltstack, (long)&thread->alternate, 0, 0, 0, 0, 0);
	long result = dune_system_call(SYS_sigaltstack, call->rdi, call->rsi, 0, 0, 0, 0);
	dune_system_call(SYS_sigaltstack, (long)&none, (long)&thread->alternate, 0, 0, 0, 0);
	return result;
}

void dune_guest_die(struct dune_guest_thread *thread, const struct kvm_regs *registers, int number,
		    const siginfo_t *info)
{
	siginfo_t cause = *info;
	ucontext_t context = { .uc_flags = 6 /* UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS */,
			       .uc_stack = { .ss_flags = SS_DISABLE } };
	greg_t *to = context.uc_mcontext.gregs;
	to[REG_R8] = registers->r8, to[REG_R9] = registers->r9, to[REG_R10] = registers->r10;
	to[REG_R11] = registers->r11, to[REG_R12] = registers->r12, to[REG_R13] = registers->r13;
	to[REG_R14] = registers->r14, to[REG_R15] = registers->r15, to[REG_RDI] = registers->rdi;
	to[REG_RSI] = registers->rsi, to[REG_RBP] = registers->rbp, to[REG_RBX] = registers->rbx;
	to[REG_RDX] = registers->rdx, to[REG_RAX] = registers->rax, to[REG_RCX] = registers->rcx;
	to[REG_RSP] = registers->rsp, to[REG_RIP] = registers->rip;
	to[REG_EFL] = (registers->rflags & 0xcd5) | 0x202;
	to[REG_CSGSFS] = (greg_t)((uint64_t)SELECTOR_USER_DATA << 48 | SELECTOR_USER_CODE);
	/* The signal is pending and blocked; the registers come with a mask that lets it in before any instruction. */
	uint64_t all = ~(uint64_t)0, but_this = ~bit(number);
	memcpy(&context.uc_sigmask, &but_this, MASK_SIZE);
	dune_system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, MASK_SIZE, 0, 0);
	set_default(number);
	if (dune_system_call(SYS_rt_tgsigqueueinfo, thread->process, thread->id, number, (long)&cause, 0, 0) != 0)
		dune_system_call(SYS_tgkill, thread->process, thread->id, number, 0, 0, 0);
	dune_guest_return_to(&context);
}

/* ---- ring 0: calling the handler ------------------------------------------------------------------- */

static void to_context(ucontext_t *context, const struct dune_tf *tf, void *vector_state)
{
	greg_t *to = context->uc_mcontext.gregs;
	to[REG_R8] = tf->r8, to[REG_R9] = tf->r9, to[REG_R10] = tf->r10, to[REG_R11] = tf->r11;
	to[REG_R12] = tf->r12, to[REG_R13] = tf->r13, to[REG_R14] = tf->r14, to[REG_R15] = tf->r15;
	to[REG_RDI] = tf->rdi, to[REG_RSI] = tf->rsi, to[REG_RBP] = tf->rbp, to[REG_RBX] = tf->rbx;
	to[REG_RDX] = tf->rdx, to[REG_RAX] = tf->rax, to[REG_RCX] = tf->rcx, to[REG_RSP] = tf->rsp;
	to[REG_RIP] = tf->rip, to[REG_EFL] = tf->rflags;
	to[REG_CSGSFS] = (greg_t)((uint64_t)tf->ss << 48 | tf->cs);
	to[REG_ERR] = tf->err;
	context->uc_mcontext.fpregs = vector_state;
}

static void from_context(struct dune_tf *tf, const ucontext_t *context)
{
	const uint64_t changeable = FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_TF | FL_DF | FL_OF | FL_RF | FL_AC;
	const greg_t *from = context->uc_mcontext.gregs;
	tf->r8 = from[REG_R8], tf->r9 = from[REG_R9], tf->r10 = from[REG_R10], tf->r11 = from[REG_R11];
	tf->r12 = from[REG_R12], tf->r13 = from[REG_R13], tf->r14 = from[REG_R14], tf->r15 = from[REG_R15];
	tf->rdi = from[REG_RDI], tf->rsi = from[REG_RSI], tf->rbp = from[REG_RBP], tf->rbx = from[REG_RBX];
	tf->rdx = from[REG_RDX], tf->rax = from[REG_RAX], tf->rcx = from[REG_RCX], tf->rsp = from[REG_RSP];
	tf->rip = from[REG_RIP];
	tf->rflags = (tf->rflags & ~changeable) | ((uint64_t)from[REG_EFL] & changeable);
}

struct invocation {
	const struct disposition *disposition;
	struct dune_guest_signal *signal;
	ucontext_t *context;
};

static void call(void *argument)
{
	struct invocation *invocation = argument;
	invocation->disposition->action(invocation->signal->number, &invocation->signal->info, invocation->context);
}

/* Whether the handler belongs on the alternate stack, and that is not in use. */
static bool wants_alternate(const struct disposition *disposition, const stack_t *alternate, const struct dune_tf *tf)
{
	uint64_t here = (uint64_t)__builtin_frame_address(0), low = (uint64_t)alternate->ss_sp;
	return disposition->flags & SA_ONSTACK && !(alternate->ss_flags & SS_DISABLE) &&
	       here - low >= alternate->ss_size && tf->rsp - low >= alternate->ss_size;
}

static void invoke(struct dune_tf *tf, void *vector_state, struct dune_guest_signal *signal,
		   const struct disposition *disposition, uint64_t address)
{
	struct dune_guest_thread *self = dune_guest_self;
	ucontext_t context = { .uc_stack = self->alternate };
	struct invocation invocation = { disposition, signal, &context };
	to_context(&context, tf, vector_state);
	context.uc_mcontext.gregs[REG_CR2] = (greg_t)address;
	memcpy(&context.uc_sigmask, &signal->mask, MASK_SIZE);
	set_mask(signal->mask | disposition->mask | (disposition->flags & SA_NODEFER ? 0 : bit(signal->number)));
	if (wants_alternate(disposition, &self->alternate, tf))
		dune_guest_on_stack(call, &invocation, (char *)self->alternate.ss_sp + self->alternate.ss_size);
	else
		call(&invocation);
	from_context(tf, &context);
	uint64_t mask;
	memcpy(&mask, &context.uc_sigmask, MASK_SIZE);
	set_mask(mask);
}

static void deliver(struct dune_tf *tf, void *vector_state, struct dune_guest_signal *signal, uint64_t address)
{
	struct disposition disposition = dispositions[signal->number];
	dune_intr_cb callback = DUNE_SIGNAL_INTR_BASE + signal->number < IDT_ENTRIES ?
					dune_handlers.interrupt[DUNE_SIGNAL_INTR_BASE + signal->number] :
					NULL;
	if (callback) {
		set_mask(signal->mask | bit(signal->number));
		callback(tf);
		set_mask(signal->mask);
		return;
	}
	if (disposition.handler == SIG_IGN && !signal->fault) {
		set_mask(signal->mask);
		return;
	}
	if (!is_function(&disposition) || (signal->fault && signal->mask & bit(signal->number)))
		dune_guest_ask(GUEST_CALL_SIGNAL, (uint64_t)tf, (uint64_t)signal, 0);
	if (disposition.flags & SA_RESETHAND)
		dispositions[signal->number].handler = SIG_DFL;
	invoke(tf, vector_state, signal, &disposition, address);
}

void dune_guest_deliver(struct dune_tf *tf, void *vector_state)
{
	struct dune_guest_thread *self = dune_guest_self;
	struct dune_guest_signal signal = self->signal;
	self->raised = false;
	if (signal.number == 0)
		return;
	self->signal.number = 0; /* the next one comes when the mask allows it */
	deliver(tf, vector_state, &signal, 0);
}

/* ---- ring 0: faults -------------------------------------------------------------------------------- */

/* Which signal Linux sends for an exception (arch/x86/kernel/traps.c documents it by its calls). */
static const struct {
	uint8_t number;
	uint8_t code;
	bool at_instruction; /* si_addr is RIP */
} signals_of[32] = {
	[T_DIVIDE] = { SIGFPE, FPE_INTDIV, true },
	[T_DEBUG] = { SIGTRAP, TRAP_TRACE, true },
	[T_BRKPT] = { SIGTRAP, SI_KERNEL, false },
	[T_OFLOW] = { SIGSEGV, SI_KERNEL, false },
	[T_BOUND] = { SIGSEGV, SI_KERNEL, false },
	[T_ILLOP] = { SIGILL, ILL_ILLOPN, true },
	[T_DEVICE] = { SIGSEGV, SI_KERNEL, false },
	[T_TSS] = { SIGSEGV, SI_KERNEL, false },
	[T_SEGNP] = { SIGBUS, SI_KERNEL, false },
	[T_STACK] = { SIGBUS, SI_KERNEL, false },
	[T_GPFLT] = { SIGSEGV, SI_KERNEL, false },
	[T_PGFLT] = { SIGSEGV, SEGV_MAPERR, false },
	[T_FPERR] = { SIGFPE, 0, true },
	[T_ALIGN] = { SIGBUS, BUS_ADRALN, false },
	[T_SIMDERR] = { SIGFPE, 0, true },
};

/* si_code of a floating-point exception: what is raised and not masked (Intel SDM vol. 1, 8.1.3, 10.2.3). */
static int floating_point_code(unsigned raised)
{
	return raised & 1    ? FPE_FLTINV :
	       raised & 4    ? FPE_FLTDIV :
	       raised & 8    ? FPE_FLTOVF :
	       raised & 0x12 ? FPE_FLTUND :
	       raised & 0x20 ? FPE_FLTRES :
			       FPE_FLTINV;
}

static bool process_has(uint64_t address)
{
	unsigned char resident;
	return dune_system_call(SYS_mincore, PGADDR(address), PGSIZE, (long)&resident, 0, 0, 0) == 0;
}

void dune_guest_deliver_fault(struct dune_tf *tf, void *vector_state, unsigned vector, uint64_t address)
{
	struct dune_guest_signal signal = { .number = SIGSEGV, .fault = true, .mask = get_mask() };
	signal.info.si_code = SI_KERNEL;
	if (vector < 32 && signals_of[vector].number) {
		signal.number = signals_of[vector].number;
		signal.info.si_code = signals_of[vector].code;
		if (signals_of[vector].at_instruction)
			signal.info.si_addr = (void *)tf->rip;
	}
	const uint16_t *x87 = vector_state;
	const uint32_t *mxcsr = (const uint32_t *)((const char *)vector_state + 24);
	if (vector == T_PGFLT) {
		signal.info.si_addr = (void *)address;
		if (process_has(address))
			signal.info.si_code = SEGV_ACCERR;
	} else if (vector == T_FPERR) {
		signal.info.si_code = floating_point_code(x87[1] & ~x87[0]);
	} else if (vector == T_SIMDERR) {
		signal.info.si_code = floating_point_code(*mxcsr & ~(*mxcsr >> 7));
	}
	signal.info.si_signo = signal.number;
	signal.vector = vector;
	signal.address = address;
	deliver(tf, vector_state, &signal, address);
}
