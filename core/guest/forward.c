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

static uint64_t forward(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted)
{
	static const int never = 0;
	const int *pending = thread->interruptible ? &thread->signal.number : &never;
	uint64_t answer = dune_guest_forward(call, pending, interrupted);
	return answer;
}

/* ---- memory ---------------------------------------------------------------------------------------- */

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
	uint64_t answer = forward(thread, call, interrupted);
	if (!*interrupted && answer < before)
		forget(answer, before - answer, true);
	return answer;
}

/* A call that changes mappings, made. */
static void forget_changed(const struct kvm_regs *call, uint64_t answer)
{
	switch (call->rax) {
	case SYS_mmap:
		if (call->r10 & MAP_FIXED)
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
		if (call->r10 & MREMAP_FIXED)
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

/* The vector state that the child of a fork goes on with. */
static void take_vector_state(struct dune_guest_thread *thread)
{
	int size = thread->vcpu->machine->has_xsave2_size ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
	if (thread->vector)
		dune_system_call(SYS_ioctl, thread->vcpu->fd, size, (long)thread->vector, 0, 0, 0);
}

static uint64_t clone_for(struct dune_guest_thread *thread, const struct kvm_regs *call)
{
	uint64_t flags, stack, all = ~(uint64_t)0;
	if (!read_clone(call, &flags, &stack))
		return -EFAULT;
	struct dune_guest_child on_host_stack, *child = &on_host_stack;
	if (flags & CLONE_VM && stack) { /* the parent does not wait: what the child needs lies on its own stack */
		child = (struct dune_guest_child *)((stack - 1024) & -(uint64_t)16);
		child->scratch = (uint64_t)child;
	} else {
		child->scratch = (uint64_t)thread->scratch + sizeof thread->scratch;
	}
	child->regs = *call;
	child->regs.rax = 0;
	child->regs.rip = call->rcx;
	child->regs.rflags = call->r11;
	if (stack)
		child->regs.rsp = stack;
	child->thread = NULL;
	if (!(flags & CLONE_VM)) {
		child->thread = thread;
		take_vector_state(thread);
	}
	uint64_t mask;
	dune_system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&mask, MASK_SIZE, 0, 0);
	child->mask = mask;
	uint64_t answer = dune_guest_clone(call, child);
	dune_system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, MASK_SIZE, 0, 0);
	return answer;
}

void dune_guest_child_begin(struct dune_guest_child *child)
{
	struct dune_guest_thread *thread = child->thread;
	if (thread) {
		atomic_store(&thread->entered, false);
		dune_system_call(SYS_sigaltstack, (long)&thread->alternate, 0, 0, 0, 0, 0);
	}
	dune_system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&child->mask, 0, MASK_SIZE, 0, 0);
	if (thread && thread->vector && thread->vcpu->machine->host.xsave)
		__asm__ volatile("xrstor64 (%0)" ::"r"(thread->vector), "a"(7), "d"(0));
}

/* ---- the rest -------------------------------------------------------------------------------------- */

static uint64_t make_arch_prctl(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted)
{
	struct kvm_run *run = thread->vcpu->run;
	uint64_t answer;
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
	answer = forward(thread, call, interrupted);
	if (call->rdi == ARCH_SET_FS && !*interrupted && answer == 0) {
		run->s.regs.sregs.fs.base = call->rsi;
		run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
	}
	return answer;
}

static void end_thread(struct dune_guest_thread *thread, uint64_t status)
{
	uint64_t all = ~(uint64_t)0;
	dune_system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, MASK_SIZE, 0, 0);
	atomic_store(&thread->entered, false);
	dune_guest_exit_thread(status, &thread->in_use);
}

static uint64_t answer_call(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted)
{
	uint64_t answer;
	switch (call->rax) {
	case SYS_exit:
		end_thread(thread, call->rdi);
		return 0;
	case SYS_clone:
	case SYS_clone3:
	case SYS_fork:
	case SYS_vfork:
		return clone_for(thread, call);
	case SYS_rt_sigaction:
		return dune_guest_sigaction(call);
	case SYS_sigaltstack:
		return dune_guest_sigaltstack(thread, call);
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
		answer = forward(thread, call, interrupted);
		if (!*interrupted && succeeded(answer))
			forget_changed(call, answer);
		return answer;
	default:
		return forward(thread, call, interrupted);
	}
}

void dune_guest_make_call(struct dune_guest_thread *thread, struct kvm_regs *registers)
{
	bool interrupted = false;
	const struct kvm_regs call = *registers;
	thread->counters.system_calls++;
	thread->interruptible = call.r11 & FLAGS_INTERRUPTS;
	uint64_t answer = answer_call(thread, &call, &interrupted);
	registers->rip = call.rcx;
	registers->rflags = call.r11;
	if (interrupted)
		registers->rip -= SYSCALL_LENGTH; /* and RAX still holds the number */
	else
		registers->rax = answer;
}
