/*
 * loop.c - host side of a thread in the guest: runs its virtual CPU, and answers it.
 *
 * Runs on a stack of its own; see guest.h for what it must not do.
 */
#include "guest/guest.h"

#include <asm/prctl.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "guest/steps.h"
#include "placement/report.h"
#include "vm/space.h"

enum {
	OUT_LENGTH = 2 /* bytes of the instruction by which the guest asks */
};

static struct dune_tf frame_of(const struct kvm_run *run)
{
	const struct kvm_regs *r = &run->s.regs.regs;
	return (struct dune_tf){ .rdi = r->rdi,
				 .rsi = r->rsi,
				 .rdx = r->rdx,
				 .rcx = r->rcx,
				 .r8 = r->r8,
				 .r9 = r->r9,
				 .r10 = r->r10,
				 .r11 = r->r11,
				 .rbx = r->rbx,
				 .rbp = r->rbp,
				 .r12 = r->r12,
				 .r13 = r->r13,
				 .r14 = r->r14,
				 .r15 = r->r15,
				 .rax = r->rax,
				 .rip = r->rip,
				 .cs = run->s.regs.sregs.cs.selector,
				 .rflags = r->rflags,
				 .rsp = r->rsp,
				 .ss = run->s.regs.sregs.ss.selector };
}

static struct kvm_regs registers_of(const struct dune_tf *tf)
{
	return (struct kvm_regs){ .rdi = tf->rdi,
				  .rsi = tf->rsi,
				  .rdx = tf->rdx,
				  .rcx = tf->rcx,
				  .r8 = tf->r8,
				  .r9 = tf->r9,
				  .r10 = tf->r10,
				  .r11 = tf->r11,
				  .rbx = tf->rbx,
				  .rbp = tf->rbp,
				  .r12 = tf->r12,
				  .r13 = tf->r13,
				  .r14 = tf->r14,
				  .r15 = tf->r15,
				  .rax = tf->rax,
				  .rip = tf->rip,
				  .rflags = tf->rflags,
				  .rsp = tf->rsp };
}

/* The process ends: what happened, on standard error, and a core dump that shows the frame. */
static void __attribute__((noreturn)) die(struct dune_guest_thread *thread, const char *what, unsigned vector,
					  const struct dune_tf *tf, uint64_t address, int number)
{
	const struct kvm_regs registers = registers_of(tf);
	const siginfo_t info = { .si_signo = number, .si_code = SI_KERNEL, .si_addr = (void *)address };
	dune_report_fatal(what, vector, tf, address);
	dune_guest_die(thread, &registers, number, &info);
}

static void __attribute__((noreturn)) die_here(struct dune_guest_thread *thread, const char *what)
{
	const struct dune_tf tf = frame_of(thread->vcpu->run);
	die(thread, what, DUNE_REPORT_NO_VECTOR, &tf, thread->vcpu->run->s.regs.sregs.cr2, SIGSEGV);
}

/* A trap frame on one of the processor's own stacks, here. */
static struct dune_tf *frame_in_area(const struct dune_guest_thread *thread, uint64_t address)
{
	uint64_t offset = address - thread->processor_address;
	if (offset > WINDOW_GUEST_PROCESSOR_SIZE - sizeof(struct dune_tf))
		return NULL;
	return (struct dune_tf *)((uint8_t *)thread->processor + offset);
}

/* ---- what ring 0 asks ------------------------------------------------------------------------------ */

static const char *why_not_filled(int error)
{
	switch (error) {
	case ENOSPC:
		return "memory cannot be mirrored: no guest-physical addresses or memory slots are left (use fewer far-apart "
		       "mappings)";
	case ENOMEM:
		return "memory cannot be mirrored: the page pool is empty";
	default:
		return "memory cannot be mirrored: /proc/self/maps cannot be read";
	}
}

/* Page fault tf in ring 0; NULL: not known.  Returns as GUEST_CALL_FILL does. */
static int fill(struct dune_guest_thread *thread, uint64_t address, unsigned error_code, const struct dune_tf *tf)
{
	int error = 0;
	const struct dune_tf here = frame_of(thread->vcpu->run);
	ptent_t *root = (ptent_t *)PTE_ADDR(thread->vcpu->run->s.regs.sregs.cr3);
	if (!tf)
		tf = &here;
	/* The fill would wait for its own guest. */
	if (dune_space_lock_is_mine())
		die(thread, "what changes address spaces in ring 0 needs memory that is not mapped there", T_PGFLT, tf,
		    address, SIGSEGV);
	int filled = dune_mirror_fill(root, address, error_code, &error);
	if (filled < 0)
		die(thread, why_not_filled(error), T_PGFLT, tf, address, SIGSEGV);
	thread->counters.mirror_faults += filled;
	return filled;
}

/* A fault in the entry code or in trap.c. */
static void answer_nested(struct dune_guest_thread *thread, const struct kvm_regs *registers)
{
	struct dune_tf *tf = frame_in_area(thread, registers->rdi);
	unsigned vector = (unsigned)registers->rsi;
	uint64_t address = registers->rdx;
	if (!tf)
		die_here(thread, "the trap stacks are used up");
	if (vector == T_PGFLT && !(tf->err & (FEC_U | FEC_RSV)) && fill(thread, address, tf->err, tf) == 1)
		return;
	/* A stack pointer that is no address (vectors 12 and 13) is no stack to run on either. */
	if ((vector == T_PGFLT || vector == T_GPFLT || vector == T_STACK) &&
	    tf->rip >= (uint64_t)dune_guest_copy_frame && tf->rip < (uint64_t)dune_guest_copy_frame_end) {
		tf->rip = (uint64_t)dune_guest_copy_failed;
		return;
	}
	die(thread, "a fault in the entry code", vector, tf, address, SIGSEGV);
}

static void answer_die(struct dune_guest_thread *thread, const struct kvm_regs *registers)
{
	struct dune_tf *tf = frame_in_area(thread, registers->rdi);
	unsigned vector = (unsigned)registers->rsi;
	if (!tf)
		die_here(thread, "the trap stacks are used up");
	const char *what = vector == T_DBLFLT                  ? "double fault" :
			   vector == T_NMI || vector == T_MCHK ? "the processor reports a failure" :
								 "no stack left in ring 0";
	die(thread, what, vector, tf, registers->rdx, SIGSEGV);
}

static void answer_signal(struct dune_guest_thread *thread, const struct kvm_regs *registers)
{
	const struct dune_tf *tf = (const struct dune_tf *)registers->rdi;
	const struct dune_guest_signal *signal = (const struct dune_guest_signal *)registers->rsi;
	const struct kvm_regs interrupted = registers_of(tf);
	if (signal->fault)
		dune_report_fatal("nothing handles an exception", signal->vector, tf, signal->address);
	dune_guest_default_action(thread, &interrupted, signal);
}

static void __attribute__((noreturn)) answer_leave(struct dune_guest_thread *thread, uint64_t stack)
{
	uint64_t mask = dune_guest_block_signals();
	atomic_store(&thread->entered, false);
	atomic_store(&thread->running, false);
	const struct kvm_sregs *sregs = &thread->vcpu->run->s.regs.sregs;
	dune_system_call(SYS_arch_prctl, ARCH_SET_FS, (long)sregs->fs.base, 0, 0, 0, 0);
	dune_system_call(SYS_arch_prctl, ARCH_SET_GS, (long)sregs->gs.base, 0, 0, 0, 0);
	dune_system_call(SYS_sigaltstack, (long)&thread->alternate, 0, 0, 0, 0, 0);
	dune_guest_signals_end();
	dune_guest_send_again(thread, mask);
	dune_guest_left(stack);
}

static void answer(struct dune_guest_thread *thread)
{
	struct kvm_run *run = thread->vcpu->run;
	struct kvm_regs *registers = &run->s.regs.regs;
	const struct kvm_regs asked = *registers;
	registers->rip += OUT_LENGTH;
	run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	switch (asked.rax) {
	case GUEST_CALL_FILL:
		registers->rax = fill(thread, asked.rdi, (unsigned)asked.rsi, frame_in_area(thread, asked.rdx));
		break;
	case GUEST_CALL_NESTED:
		answer_nested(thread, &asked);
		break;
	case GUEST_CALL_DIE:
		answer_die(thread, &asked);
		break;
	case GUEST_CALL_SIGNAL:
		answer_signal(thread, &asked);
		break;
	case GUEST_CALL_INSTALL:
		dune_guest_signal_changed((int)asked.rdi);
		break;
	case GUEST_CALL_LEAVE:
		answer_leave(thread, asked.rdi);
	default:
		die_here(thread, "ring 0 asks for something unknown");
	}
}

/* ---- running --------------------------------------------------------------------------------------- */

/* Whether the kernel can read the process's memory there: it copies 32 bytes in before it looks at signal number 0. */
static bool kernel_can_read(uint64_t address)
{
	return dune_system_call(SYS_rt_sigaction, 0, (long)(address & ~(uint64_t)31), 0, 8, 0, 0) != -EFAULT;
}

/*
 * KVM could not reach memory: the process no longer has what a table says, or not with these rights.
 *
 * First the tables are made anew: where the process has nothing, a page fault follows, as it should.  If the same instruction fails again
 * although the process has a mapping, that has no memory behind it (past the end of a file): SIGBUS.  CR2 is where it is then, since the new
 * entry came by a page fault.
 */
static void memory_gone(struct dune_guest_thread *thread)
{
	enum {
		SAME_EXITS = 16, /* so many exits later the instruction runs for another time */
		TRIES = 8
	};
	const struct kvm_run *run = thread->vcpu->run;
	uint64_t rip = run->s.regs.regs.rip, address = run->s.regs.sregs.cr2, exits = thread->vcpu->exits;
	if (dune_space_lock_is_mine())
		die_here(thread, "memory that is needed to change address spaces is gone");
	if (rip != thread->fault_address || exits - thread->fault_exits > SAME_EXITS)
		thread->fault_count = 0;
	thread->fault_address = rip;
	thread->fault_exits = exits;
	if (thread->fault_count++ == 0 || (thread->fault_count < TRIES && kernel_can_read(address))) {
		dune_guest_forget_all();
		return;
	}
	if (!(run->s.regs.regs.rflags & FLAGS_INTERRUPTS) || thread->fault_count > 2 * TRIES)
		die_here(thread, "memory that the page tables name is gone");
	if (thread->signal.number) /* that one comes first, then this instruction again */
		return;
	uint64_t mask = dune_guest_block_signals();
	if (!thread->signal.number) {
		thread->signal.mask = thread->signal.during = mask;
		thread->signal.info = (siginfo_t){ .si_signo = SIGBUS, .si_code = BUS_ADRERR };
		thread->signal.info.si_addr = (void *)address;
		thread->signal.fault = true;
		thread->signal.vector = T_PGFLT;
		thread->signal.address = address;
		thread->signal.number = SIGBUS;
		thread->fault_count = 0;
	}
}

/* Drops what the virtual CPU's TLB holds if others have asked for it: a root that is left and loaded again is flushed. */
static void catch_up(struct dune_guest_thread *thread)
{
	uint64_t flushes = atomic_load(&dune_guest_flushes);
	if (thread->flushed == flushes)
		return;
	struct kvm_run *run = thread->vcpu->run;
	struct kvm_sregs elsewhere = run->s.regs.sregs;
	elsewhere.cr3 = thread->vcpu->machine->edit_root;
	memset(elsewhere.interrupt_bitmap, 0, sizeof elsewhere.interrupt_bitmap);
	if (dune_system_call(SYS_ioctl, thread->vcpu->fd, KVM_SET_SREGS, (long)&elsewhere, 0, 0, 0) != 0)
		die_here(thread, "KVM refuses another address space");
	memset(run->s.regs.sregs.interrupt_bitmap, 0, sizeof run->s.regs.sregs.interrupt_bitmap);
	run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
	atomic_store(&thread->flushed, flushes);
}

/* Has the guest take an interrupt for the signal that is pending, or for a kick of the compartment that it runs; or tell when it
 * can. */
static void raise_event(struct dune_guest_thread *thread, bool ready)
{
	struct kvm_run *run = thread->vcpu->run;
	run->request_interrupt_window = 0;
	const struct dune_vcpu *compartment = atomic_load(&thread->compartment);
	if (!thread->signal.number && !(compartment && compartment->run->immediate_exit)) {
		thread->raised = false;
		return;
	}
	if (thread->raised)
		return;
	if (!ready || !(run->s.regs.regs.rflags & FLAGS_INTERRUPTS)) {
		run->request_interrupt_window = 1;
		return;
	}
	struct kvm_interrupt interrupt = { .irq = GUEST_VECTOR_EVENT };
	if (dune_system_call(SYS_ioctl, thread->vcpu->fd, KVM_INTERRUPT, (long)&interrupt, 0, 0, 0) != 0)
		die_here(thread, "KVM takes no interrupt");
	thread->raised = true;
}

/*
 * A kick may have been on its way when the guest came out: it is taken here, and not by a system call of the guest, which
 * would fail with EINTR for no reason that the process knows of.
 */
static void take_kicks(struct dune_guest_thread *thread)
{
	unsigned kicks;
	while ((kicks = atomic_load(&thread->kicks)) != thread->kicks_taken) {
		while (atomic_load(&thread->kicks_sent) != kicks && atomic_load(&thread->kicks) == kicks)
			dune_system_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
		if (atomic_load(&thread->kicks) != kicks)
			continue;
		dune_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0); /* the kernel delivers on the way back from it */
		thread->kicks_taken = kicks;
	}
}

/* One KVM_RUN.  Returns 0 or a negative errno. */
static long run_guest(struct dune_guest_thread *thread, bool ready)
{
	struct dune_vcpu *vcpu = thread->vcpu;
	vcpu->run->immediate_exit = 0;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	raise_event(thread, ready); /* a signal from here on sets immediate_exit */
	atomic_store(&thread->running, true);
	catch_up(thread); /* a request from here on kicks */
	atomic_store(&thread->on_host, false);
	long result = dune_steps_run(vcpu->fd, vcpu->run);
	atomic_store(&thread->on_host, true);
	atomic_store(&thread->running, false);
	take_kicks(thread);
	vcpu->exits++;
	vcpu->run->kvm_dirty_regs = 0;
	return result;
}

static void begin(struct dune_guest_thread *thread, uint64_t stack)
{
	struct kvm_run *run = thread->vcpu->run;
	run->s.regs.regs =
		(struct kvm_regs){ .rip = (uint64_t)dune_guest_started, .rsp = stack, .rflags = FLAGS_RING0 };
	run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
}

void dune_guest_loop(struct dune_guest_thread *thread, uint64_t stack)
{
	struct kvm_run *run = thread->vcpu->run;
	bool ready = true;
	begin(thread, stack);
	for (;;) {
		long result = run_guest(thread, ready);
		ready = run->ready_for_interrupt_injection;
		if (result == -EINTR || result == -EAGAIN) {
			thread->counters.interrupted++;
			continue;
		}
		if (result == -EFAULT) {
			memory_gone(thread);
			continue;
		}
		if (result != 0)
			die_here(thread, "KVM_RUN fails");
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == PORT_SYSTEM_CALL) {
				dune_guest_make_call(thread, &run->s.regs.regs);
				run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
				ready = true;
			} else if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == PORT_GUEST) {
				answer(thread);
			} else {
				die_here(thread, "access to an I/O port");
			}
			break;
		case KVM_EXIT_IRQ_WINDOW_OPEN:
			thread->counters.interrupted++;
			break;
		case KVM_EXIT_MMIO:
			die_here(thread, "access to guest-physical memory that there is not");
		case KVM_EXIT_SHUTDOWN:
			die_here(thread, "triple fault: descriptor tables, trap stacks or page tables are damaged");
		case KVM_EXIT_HLT:
			die_here(thread, "HLT in ring 0");
		default:
			die_here(thread, dune_exit_name(run->exit_reason));
		}
	}
}
