/* signals.c - signals that reach a thread, and exceptions of ring 3 that become signals. */
#define _GNU_SOURCE
#include "host/host.h"
#include "placement/exception.h"

#include <sys/ioctl.h>

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

void dune_host_raise(struct dune_host_thread *self, const struct dune_exit *exit, const struct dune_tf *tf)
{
	siginfo_t info;
	struct kvm_fpu fpu;
	struct kvm_xsave xsave;
	unsigned raised = 0;
	if (exit->vector == T_FPERR && ioctl(self->vcpu->fd, KVM_GET_FPU, &fpu) == 0)
		raised = fpu.fsw & ~fpu.fcw;
	/* KVM_GET_FPU does not tell MXCSR. */
	if (exit->vector == T_SIMDERR && ioctl(self->vcpu->fd, KVM_GET_XSAVE, &xsave) == 0)
		raised = xsave.region[6] & ~(xsave.region[6] >> 7);
	dune_exception_cause(&info, exit->vector, exit->error_code, exit->address, tf->rip, raised);
	dune_exception_send(&info);
}
