/*
 * deliver.c - ring 0, on a stack of the process: calls the process's handler for a signal as the kernel would.
 *
 * Ordinary code (see handler.c).  What the host side has noted, and what an instruction of the guest did, come here.
 * Sources: as for signals.c; Linux arch/x86/kernel/{signal,traps}.c, arch/x86/mm/fault.c for what is sent.
 */
#include "guest/signals.h"
#include "placement/exception.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

/* By these words the vector state tells that it is more than FXSAVE's. */
enum {
	XSTATE_MAGIC1 = 0x46505853,
	XSTATE_MAGIC2 = 0x46505845
};

static uint64_t get_mask(void)
{
	uint64_t mask = 0;
	dune_system_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&mask, MASK_SIZE, 0, 0);
	return mask;
}

/* ---- ring 0: calling the handler ------------------------------------------------------------------- */

/* What gdb and others look for in the part of FXSAVE's image that is software's (uapi/asm/sigcontext.h). */
static uint64_t describe_vector_state(const struct dune_guest_processor *processor, uint8_t *image)
{
	const uint32_t size = (uint32_t)processor->vector_size - 64; /* room for the second word is in it */
	uint32_t words[12] = { 0 };
	if (!processor->vector_mask) {
		memcpy(image + 464, words, sizeof words);
		return 0;
	}
	words[0] = XSTATE_MAGIC1;
	words[1] = size + 4;
	memcpy(&words[2], &processor->vector_mask, 8);
	words[4] = size;
	memcpy(image + 464, words, sizeof words);
	memcpy(image + size, &(uint32_t){ XSTATE_MAGIC2 }, 4);
	/* What the handler changes in x87 and SSE registers counts, also if they were in their initial state. */
	image[512] |= 3;
	return CONTEXT_XSTATE;
}

static void to_context(ucontext_t *context, const struct dune_tf *tf, void *vector_state,
		       const struct dune_guest_processor *processor)
{
	greg_t *to = context->uc_mcontext.gregs;
	to[REG_R8] = tf->r8, to[REG_R9] = tf->r9, to[REG_R10] = tf->r10, to[REG_R11] = tf->r11;
	to[REG_R12] = tf->r12, to[REG_R13] = tf->r13, to[REG_R14] = tf->r14, to[REG_R15] = tf->r15;
	to[REG_RDI] = tf->rdi, to[REG_RSI] = tf->rsi, to[REG_RBP] = tf->rbp, to[REG_RBX] = tf->rbx;
	to[REG_RDX] = tf->rdx, to[REG_RAX] = tf->rax, to[REG_RCX] = tf->rcx, to[REG_RSP] = tf->rsp;
	to[REG_RIP] = tf->rip, to[REG_EFL] = tf->rflags & ~(uint64_t)FL_IOPL_MASK;
	to[REG_CSGSFS] = (greg_t)((uint64_t)tf->ss << 48 | tf->cs);
	context->uc_flags = CONTEXT_SS | describe_vector_state(processor, vector_state);
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

/*
 * The mask that holds when the interrupted code goes on.  Interrupts stay off until it does (entry.S), so that a signal which
 * this lets in finds the stack as it was, however many come one after the other.
 */
static void leave_with_mask(uint64_t mask)
{
	__asm__ volatile("cli" ::: "memory");
	set_mask(mask);
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
	return disposition->flags & SA_ONSTACK && !(alternate->ss_flags & SS_DISABLE) &&
	       (uint64_t)__builtin_frame_address(0) - (uint64_t)alternate->ss_sp >= alternate->ss_size &&
	       ((tf->cs & 3) || !on_alternate_stack(alternate, tf->rsp));
}

/* What the process has made of the alternate stack in the context, as sigreturn(2) takes it. */
static void restore_alternate(struct dune_guest_thread *self, const stack_t *wanted, const struct dune_tf *tf)
{
	int mode = wanted->ss_flags & ~(int)SS_AUTODISARM;
	if ((mode == 0 || mode == SS_DISABLE || mode == SS_ONSTACK) &&
	    ((tf->cs & 3) || !on_alternate_stack(&self->alternate, tf->rsp))) {
		self->alternate = *wanted;
		self->alternate.ss_flags &= ~SS_ONSTACK;
	}
}

static void invoke(struct dune_tf *tf, void *vector_state, struct dune_guest_signal *signal,
		   const struct disposition *disposition)
{
	struct dune_guest_thread *self = dune_guest_self;
	const stack_t alternate = self->alternate;
	ucontext_t context = { .uc_stack = alternate };
	struct invocation invocation = { disposition, signal, &context };
	greg_t *registers = context.uc_mcontext.gregs;
	to_context(&context, tf, vector_state, (const struct dune_guest_processor *)self->processor_address);
	memcpy(&context.uc_sigmask, &signal->mask, MASK_SIZE);
	registers[REG_OLDMASK] = (greg_t)(signal->mask & 0xffffffff);
	if (signal->fault) {
		registers[REG_TRAPNO] = signal->vector;
		registers[REG_ERR] = tf->err | (signal->vector == T_PGFLT ? FEC_U : 0);
		registers[REG_CR2] = (greg_t)signal->address;
	}
	bool change = wants_alternate(disposition, &alternate, tf);
	if (alternate.ss_flags & (int)SS_AUTODISARM)
		self->alternate = (stack_t){ .ss_flags = SS_DISABLE };
	set_mask(signal->during | disposition->mask | (disposition->flags & SA_NODEFER ? 0 : bit(signal->number)));
	if (change)
		dune_guest_on_stack(call, &invocation, (char *)alternate.ss_sp + alternate.ss_size);
	else
		call(&invocation);
	from_context(tf, &context);
	uint64_t mask;
	memcpy(&mask, &context.uc_sigmask, MASK_SIZE);
	restore_alternate(self, &context.uc_stack, tf);
	leave_with_mask(mask);
}

/* A handler of Dune's.  One that interrupts ring 3 may end that, so it is as an interrupt is: nothing stays blocked. */
static void call_back(dune_intr_cb callback, struct dune_tf *tf, const struct dune_guest_signal *signal)
{
	if (!signal->fault)
		set_mask(tf->cs & 3 ? signal->mask : signal->during | bit(signal->number));
	callback(tf);
	if (!signal->fault)
		leave_with_mask(signal->mask);
}

static void deliver(struct dune_tf *tf, void *vector_state, struct dune_guest_signal *signal)
{
	dune_intr_cb callback = callback_of(signal->number);
	struct disposition disposition;
	if (callback) {
		call_back(callback, tf, signal);
		return;
	}
	for (;;) {
		disposition = dune_guest_disposition(signal->number);
		if (!is_function(&disposition) || !(disposition.flags & SA_RESETHAND))
			break;
		if (signal->fault && in_set(signal->number, signal->mask))
			break;
		if (dune_guest_use_up(signal->number, &disposition)) {
			dune_guest_ask(GUEST_CALL_INSTALL, signal->number, 0, 0);
			break;
		}
	}
	if (is_function(&disposition) && !(signal->fault && in_set(signal->number, signal->mask))) {
		invoke(tf, vector_state, signal, &disposition);
		return;
	}
	if (disposition.handler != SIG_IGN || signal->fault)
		dune_guest_ask(GUEST_CALL_SIGNAL, (uint64_t)tf, (uint64_t)signal, 0);
	leave_with_mask(signal->mask);
}

void dune_guest_deliver(struct dune_tf *tf, void *vector_state)
{
	struct dune_guest_thread *self = dune_guest_self;
	self->raised = false; /* this was it: the host side raises another one for what it notes from here on */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	struct dune_guest_signal signal = self->signal;
	if (signal.number == 0)
		return;
	self->signal.number = 0; /* the next one comes when the mask allows it */
	deliver(tf, vector_state, &signal);
}

/* ---- ring 0: faults -------------------------------------------------------------------------------- */

static bool process_has(uint64_t address)
{
	unsigned char resident;
	return dune_system_call(SYS_mincore, PGADDR(address), PGSIZE, (long)&resident, 0, 0, 0) == 0;
}

void dune_guest_deliver_fault(struct dune_tf *tf, void *vector_state, unsigned vector, uint64_t address)
{
	struct dune_guest_signal signal = { .fault = true, .vector = vector, .address = address };
	const uint16_t *x87 = vector_state; /* control word, status word */
	const uint32_t *mxcsr = (const uint32_t *)((const char *)vector_state + 24);
	unsigned raised = vector == T_FPERR ? x87[1] & ~x87[0] : *mxcsr & ~(*mxcsr >> 7);
	signal.mask = signal.during = get_mask();
	dune_exception_cause(&signal.info, vector, tf->err, address, tf->rip, raised);
	if (vector == T_PGFLT) /* what is mirrored does not tell: the process's own mappings do */
		signal.info.si_code = process_has(address) ? SEGV_ACCERR : SEGV_MAPERR;
	signal.number = signal.info.si_signo;
	deliver(tf, vector_state, &signal);
}
