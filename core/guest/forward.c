/*
 * forward.c - host side: makes the guest's system calls.
 *
 * Most are made as they are: pointers mean the same on both sides.  The exceptions are those that begin or end a thread or a
 * process, that change what memory there is, and that concern signals.
 */
#include "guest/guest.h"

#include <asm/prctl.h>
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "vm/space.h"

enum {
	SYSCALL_LENGTH = 2, /* bytes of the instruction */
	MASK_SIZE = 8
};

static const uint64_t user_end = (uint64_t)1 << 47;

static bool succeeded(uint64_t answer)
{
	return answer < (uint64_t)-4095;
}

uint64_t dune_guest_make_plain_call(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted)
{
	static const int never = 0;
	const int *pending = thread->interruptible ? &thread->signal.number : &never;
	uint64_t answer = dune_guest_forward(call, pending, interrupted);
	return answer;
}

/* ---- memory ---------------------------------------------------------------------------------------- */

/* gone: entries of the program's for this memory go as well. */
static void forget(uint64_t begin, uint64_t length, bool gone)
{
	uint64_t end = PGADDR(begin + length + PGMASK);
	begin = PGADDR(begin);
	if (begin >= user_end || end <= begin)
		return;
	dune_space_lock();
	dune_space_forget(begin, end < user_end ? end : user_end, gone);
	dune_space_unlock();
}

/* brk(2): a smaller break takes memory away. */
static uint64_t make_brk(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted)
{
	uint64_t before = dune_system_call(SYS_brk, 0, 0, 0, 0, 0, 0);
	uint64_t answer = dune_guest_make_plain_call(thread, call, interrupted);
	if (!*interrupted && answer < before)
		forget(answer, before - answer, true);
	return answer;
}

/* A call that changes mappings, made. */
static void forget_changed(const struct kvm_regs *call, uint64_t answer)
{
	switch (call->rax) {
	case SYS_mmap: /* whatever was there before, a thread in host mode may have unmapped it */
		forget(answer, call->rsi, true);
		break;
	case SYS_munmap:
		forget(call->rdi, call->rsi, true);
		break;
	case SYS_mprotect:
	case SYS_pkey_mprotect:
		forget(call->rdi, call->rsi, false);
		break;
	case SYS_mremap:
		forget(call->rdi, call->rsi, true);
		forget(answer, call->rdx, true);
		break;
	case SYS_shmat:
		if (call->rdx & 040000 /* SHM_REMAP */)
			dune_guest_forget_all();
		break;
	default: /* shmdt(), remap_file_pages(): the length is not told */
		dune_guest_forget_all();
	}
}

/* ---- threads and processes ------------------------------------------------------------------------- */

static bool readable(uint64_t address)
{
	return dune_system_call(SYS_rt_sigaction, 0, address, 0, MASK_SIZE, 0, 0) != -EFAULT;
}

/* Overwrites 8 bytes if it is. */
static bool writable(uint64_t address)
{
	return dune_system_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, address, MASK_SIZE, 0, 0) == 0;
}

/* What a call of the clone family asks for.  Returns false if its arguments cannot be read. */
static bool read_clone(const struct kvm_regs *call, uint64_t *flags, uint64_t *stack)
{
	*flags = *stack = 0;
	if (call->rax == SYS_vfork) {
		*flags = CLONE_VM | CLONE_VFORK;
	} else if (call->rax == SYS_clone) {
		*flags = call->rdi;
		*stack = call->rsi;
	} else if (call->rax == SYS_clone3) {
		const struct clone_args *arguments = (const struct clone_args *)call->rdi;
		if (call->rsi < CLONE_ARGS_SIZE_VER0 || !readable(call->rdi) ||
		    !readable(call->rdi + CLONE_ARGS_SIZE_VER0 - 32))
			return false;
		*flags = arguments->flags;
		*stack = arguments->stack ? arguments->stack + arguments->stack_size : 0;
	}
	return true;
}

/*
 * The vector state that a child begins with.  It is taken now; a thread that runs beside its parent, which may make another
 * one, only takes the control words, as new threads of C do.
 */
static void take_vector_state(struct dune_guest_thread *thread, struct dune_guest_child *child, bool beside)
{
	const struct dune_machine *machine = thread->vcpu->machine;
	const uint64_t tiles = (uint64_t)3 << 17; /* AMX: KVM's image may not have them */
	uint16_t control = 0x37f;
	uint8_t *image = thread->vector;
	child->components = 0;
	if (image && machine->host.xsave) {
		int get = machine->has_xsave2_size ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
		if (dune_system_call(SYS_ioctl, thread->vcpu->fd, get, (long)image, 0, 0, 0) != 0)
			image = NULL;
		child->components = machine->host.vector_components & ~tiles;
	} else {
		struct kvm_fpu fpu;
		image = thread->fxsave;
		if (dune_system_call(SYS_ioctl, thread->vcpu->fd, KVM_GET_FPU, (long)&fpu, 0, 0, 0) != 0)
			image = NULL;
		else
			dune_to_fxsave(image, &fpu);
	}
	child->mxcsr = 0x1f80;
	if (image) { /* Intel SDM vol. 1, 10.5.1 */
		memcpy(&control, image, sizeof control);
		memcpy(&child->mxcsr, image + 24, sizeof child->mxcsr);
	}
	child->control = control;
	child->vector = beside ? NULL : image;
}

/*
 * clone(2) and its relatives.  The child begins in host mode with the registers of the call.  As in Linux a signal that came before is
 * handled first, else the child would have one of its parent's.
 */
static uint64_t clone_for(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted)
{
	const struct kvm_sregs *sregs = &thread->vcpu->run->s.regs.sregs;
	uint64_t flags, stack;
	if (!read_clone(call, &flags, &stack))
		return -EFAULT;
	struct dune_guest_child on_host_stack, *child = &on_host_stack;
	const uint64_t below_stack = (stack - 1024) & -(uint64_t)16;
	const bool process = !(flags & CLONE_VM), beside = flags & CLONE_VM && stack && !(flags & CLONE_VFORK);
	const uint64_t mask = dune_guest_block_signals();
	if (thread->signal.number && thread->interruptible) {
		dune_guest_unblock_signals(mask);
		*interrupted = true;
		return 0;
	}
	if (flags & CLONE_VM && stack) { /* the parent may not wait: what the child needs lies on its own stack */
		if (!writable(below_stack)) {
			dune_guest_unblock_signals(mask);
			return -EFAULT;
		}
		child = (struct dune_guest_child *)below_stack;
		child->scratch = below_stack;
	} else { /* its copy of this stack, or this one while the parent waits, below what is in use */
		child->scratch = (uint64_t)thread->host_stack - DUNE_GUEST_STACK / 2;
	}
	child->regs = *call;
	child->regs.rax = 0;
	child->regs.rip = call->rcx;
	child->regs.rflags = call->r11;
	if (stack)
		child->regs.rsp = stack;
	child->thread = process ? thread : NULL;
	child->mask = thread->signal.number ? thread->signal.mask : mask;
	child->fs_base = process ? sregs->fs.base : 0;
	child->gs_base = process ? sregs->gs.base : 0;
	take_vector_state(thread, child, beside);
	if (process) { /* its copies of address spaces and dispositions are whole */
		dune_guest_lock_signals();
		dune_space_lock();
	}
	uint64_t answer = dune_guest_clone(call, child);
	if (process) {
		dune_space_unlock();
		dune_guest_unlock_signals(mask);
	}
	dune_guest_unblock_signals(mask);
	return answer;
}

/* The child, in host mode, on its scratch stack.  Vector registers are set afterwards. */
void dune_guest_child_begin(struct dune_guest_child *child)
{
	struct dune_guest_thread *thread = child->thread;
	if (thread) {
		atomic_store(&thread->entered, false);
		thread->signal.number = 0;
		dune_space_after_fork();
		dune_guest_after_fork();
		dune_guest_signals_forget();
		dune_system_call(SYS_arch_prctl, ARCH_SET_FS, (long)child->fs_base, 0, 0, 0, 0);
		dune_system_call(SYS_arch_prctl, ARCH_SET_GS, (long)child->gs_base, 0, 0, 0, 0);
		dune_system_call(SYS_sigaltstack, (long)&thread->alternate, 0, 0, 0, 0, 0);
	}
	dune_guest_unblock_signals(child->mask);
}

/* ---- the rest -------------------------------------------------------------------------------------- */

static uint64_t make_arch_prctl(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted)
{
	struct kvm_run *run = thread->vcpu->run;
	if (call->rdi == ARCH_GET_FS || call->rdi == ARCH_GET_GS) {
		if (!readable(call->rsi) || !readable(call->rsi - 24))
			return -EFAULT;
		*(uint64_t *)call->rsi =
			call->rdi == ARCH_GET_FS ? run->s.regs.sregs.fs.base : run->s.regs.sregs.gs.base;
		return 0;
	}
	if (call->rdi == ARCH_SET_GS) { /* the host side has no use for it */
		if (call->rsi >= user_end)
			return -EPERM;
		run->s.regs.sregs.gs.base = call->rsi;
		run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
		return 0;
	}
	if (call->rdi == ARCH_SET_FS) { /* the host side keeps its own, which it needs */
		if (call->rsi >= user_end)
			return -EPERM;
		run->s.regs.sregs.fs.base = call->rsi;
		run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
		return 0;
	}
	return dune_guest_make_plain_call(thread, call, interrupted);
}

/* What was noted for the process must not be lost with the thread: its handler runs first. */
static void end_thread(struct dune_guest_thread *thread, uint64_t status, bool *interrupted)
{
	dune_guest_block_signals();
	if (thread->signal.number && thread->interruptible) {
		*interrupted = true;
		return;
	}
	atomic_store(&thread->entered, false);
	dune_guest_signals_end();
	dune_guest_exit_thread(status, &thread->in_use);
}

static uint64_t answer_call(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted)
{
	uint64_t answer;
	switch (call->rax) {
	case SYS_exit:
		end_thread(thread, call->rdi, interrupted);
		return 0;
	case SYS_clone:
	case SYS_clone3:
	case SYS_fork:
	case SYS_vfork:
		return clone_for(thread, call, interrupted);
	case SYS_rt_sigaction:
		return dune_guest_sigaction(call);
	case SYS_sigaltstack:
		return dune_guest_sigaltstack(thread, call);
	case SYS_rt_sigprocmask:
		return dune_guest_sigprocmask(thread, call, interrupted);
	case SYS_rt_sigreturn: /* handlers return to ring 0, never by this */
		return -ENOSYS;
	case SYS_arch_prctl:
		return make_arch_prctl(thread, call, interrupted);
	case SYS_brk:
		return make_brk(thread, call, interrupted);
	case SYS_mmap:
	case SYS_munmap:
	case SYS_mprotect:
	case SYS_pkey_mprotect:
	case SYS_mremap:
	case SYS_shmat:
	case SYS_shmdt:
	case SYS_remap_file_pages:
		answer = dune_guest_make_plain_call(thread, call, interrupted);
		if (!*interrupted && succeeded(answer))
			forget_changed(call, answer);
		return answer;
	default:
		return dune_guest_make_plain_call(thread, call, interrupted);
	}
}

void dune_guest_make_call(struct dune_guest_thread *thread, struct kvm_regs *registers)
{
	bool interrupted = false;
	const struct kvm_regs call = *registers;
	thread->counters.system_calls++;
	thread->interruptible = call.r11 & FLAGS_INTERRUPTS;
	dune_guest_note_mask(thread, &call);
	uint64_t answer = answer_call(thread, &call, &interrupted);
	registers->rip = call.rcx;
	registers->rflags = call.r11;
	if (interrupted)
		registers->rip -= SYSCALL_LENGTH; /* and RAX still holds the number */
	else
		registers->rax = answer;
}
