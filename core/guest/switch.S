/*
 * switch.S - guest placement, in the process's own text: changing between host mode and guest, and system calls made for the guest.
 */
#include "guest/layout.h"

	.text
	.macro code_symbol name
	.globl \name
	.hidden \name
	.type \name, @function
	.balign 16
\name:
	.endm

	.macro push_start	/* what a C function keeps; ends with struct dune_guest_start */
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	subq	$8, %rsp
	stmxcsr	START_MXCSR(%rsp)
	fnstcw	START_CONTROL(%rsp)
	.endm
	.macro pop_start
	fninit
	ldmxcsr	START_MXCSR(%rsp)
	fldcw	START_CONTROL(%rsp)
	addq	$8, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	.endm

/*
 * int dune_guest_enter(struct dune_guest_thread *thread, void *host_stack, void (*loop)(thread, uint64_t stack))
 * Host mode.  Keeps the caller's state on its stack and calls loop(thread, stack) on the host stack; the loop has the guest begin at
 * dune_guest_started with RSP = stack, which returns 0 to the caller, in ring 0.
 */
code_symbol dune_guest_enter
	push_start
	movq	%rsi, %rax
	movq	%rsp, %rsi
	movq	%rax, %rsp
	xorl	%ebp, %ebp
	callq	*%rdx
	ud2

/* Ring 0 of the guest, or host mode after dune_guest_leave: RSP as push_start left it.  Returns 0 from there. */
code_symbol dune_guest_started
	pop_start
	xorl	%eax, %eax
	retq

/* int dune_guest_leave(void): ring 0.  The host side goes on at dune_guest_started, in host mode, with RDI as RSP. */
code_symbol dune_guest_leave
	push_start
	movq	%rsp, %rdi
	movl	$GUEST_CALL_LEAVE, %eax
	outb	%al, $PORT_GUEST
	ud2

/* noreturn dune_guest_left(uint64_t stack): host side, see above. */
code_symbol dune_guest_left
	movq	%rdi, %rsp
	jmp	dune_guest_started

/*
 * uint64_t dune_guest_forward(const struct kvm_regs *call, const int *pending, bool *interrupted)
 * Host side: makes the system call of the guest's registers and returns the kernel's answer, with *interrupted false.
 * If *pending is set before the call is made, it is not made: *interrupted is true.  The signal handler sees to the rest: one
 * that comes from dune_guest_forward_begin on, before the SYSCALL is done, goes on at dune_guest_forward_interrupted.  (A call that the
 * kernel is going to restart is found at the SYSCALL again.)
 */
code_symbol dune_guest_forward
	pushq	%rbx
	pushq	%r12
	movq	%rdx, %rbx
	movb	$0, (%rbx)
	.globl	dune_guest_forward_begin
	.hidden dune_guest_forward_begin
dune_guest_forward_begin:
	cmpl	$0, (%rsi)
	jne	dune_guest_forward_interrupted
	movq	%rdi, %r12
	movq	REGS_RAX(%r12), %rax
	movq	REGS_RDI(%r12), %rdi
	movq	REGS_RSI(%r12), %rsi
	movq	REGS_RDX(%r12), %rdx
	movq	REGS_R10(%r12), %r10
	movq	REGS_R8(%r12), %r8
	movq	REGS_R9(%r12), %r9
	.globl	dune_guest_forward_call
	.hidden dune_guest_forward_call
dune_guest_forward_call:
	syscall
	.globl	dune_guest_forward_end
	.hidden dune_guest_forward_end
dune_guest_forward_end:
	popq	%r12
	popq	%rbx
	retq
	.globl	dune_guest_forward_interrupted
	.hidden dune_guest_forward_interrupted
dune_guest_forward_interrupted:
	movb	$1, (%rbx)
	popq	%r12
	popq	%rbx
	retq

/*
 * uint64_t dune_guest_clone(const struct kvm_regs *call, struct dune_guest_child *child)
 * Host side: makes the guest's clone, clone3, fork or vfork and returns the parent's answer.  The child, which begins in host
 * mode, calls dune_guest_child_begin(child) on child's scratch stack and goes on at child->regs.rip with child->regs; *child
 * must not change before it has.  Signals are blocked.
 */
code_symbol dune_guest_clone
	pushq	%rbx
	pushq	%r12
	movq	%rdi, %r12
	movq	%rsi, %rbx
	movq	REGS_RAX(%r12), %rax
	movq	REGS_RDI(%r12), %rdi
	movq	REGS_RSI(%r12), %rsi
	movq	REGS_RDX(%r12), %rdx
	movq	REGS_R10(%r12), %r10
	movq	REGS_R8(%r12), %r8
	movq	REGS_R9(%r12), %r9
	syscall
	testq	%rax, %rax
	jz	1f
	popq	%r12
	popq	%rbx
	retq
1:	movq	CHILD_SCRATCH(%rbx), %rsp
	andq	$-16, %rsp
	movq	%rbx, %rdi
	callq	dune_guest_child_begin
	movq	CHILD_VECTOR(%rbx), %rcx
	movl	CHILD_COMPONENTS(%rbx), %eax
	movl	CHILD_COMPONENTS + 4(%rbx), %edx
	testq	%rcx, %rcx
	jz	3f
	testl	%eax, %eax
	jz	2f
	xrstor64 (%rcx)
	jmp	4f
2:	fxrstor64 (%rcx)
	jmp	4f
3:	fninit
	ldmxcsr	CHILD_MXCSR(%rbx)
	fldcw	CHILD_CONTROL(%rbx)
4:	movq	%rbx, %rdi

/* noreturn dune_guest_continue(const struct kvm_regs *registers): host mode; goes on at registers->rip.  RCX is lost, as after SYSCALL. */
code_symbol dune_guest_continue
	movq	REGS_RFLAGS(%rdi), %r11
	andl	$0xcd5, %r11d			/* CF PF AF ZF SF DF OF */
	movq	REGS_RSP(%rdi), %rsp
	movq	REGS_RIP(%rdi), %rcx
	movq	REGS_RAX(%rdi), %rax
	movq	REGS_RBX(%rdi), %rbx
	movq	REGS_RDX(%rdi), %rdx
	movq	REGS_RSI(%rdi), %rsi
	movq	REGS_RBP(%rdi), %rbp
	movq	REGS_R8(%rdi), %r8
	movq	REGS_R9(%rdi), %r9
	movq	REGS_R10(%rdi), %r10
	movq	REGS_R12(%rdi), %r12
	movq	REGS_R13(%rdi), %r13
	movq	REGS_R14(%rdi), %r14
	movq	REGS_R15(%rdi), %r15
	movq	REGS_RDI(%rdi), %rdi
	jmpq	*%rcx

/*
 * noreturn dune_guest_exit_thread(uint64_t status, _Atomic int *in_use): host side.  The thread ends; its host stack is free
 * for others from the store on, so nothing of it is touched afterwards.  Signals are blocked.
 */
code_symbol dune_guest_exit_thread
	movl	$0, (%rsi)
	movl	$60, %eax
	syscall
	ud2

/*
 * int dune_guest_copy_frame(void *to, const void *from, size_t words): ring 0, on a trap stack.  Returns 0, or -1 if memory at `to`
 * cannot be written: the host side goes on at dune_guest_copy_failed then.
 */
code_symbol dune_guest_copy_frame
	movq	%rdx, %rcx
	rep movsq
	.globl	dune_guest_copy_frame_end
	.hidden dune_guest_copy_frame_end
dune_guest_copy_frame_end:
	xorl	%eax, %eax
	retq
	.globl	dune_guest_copy_failed
	.hidden dune_guest_copy_failed
dune_guest_copy_failed:
	movl	$-1, %eax
	retq

/*
 * void dune_guest_on_stack(void (*function)(void *), void *argument, void *stack): ring 0.  Calls function(argument) on another stack.
 */
code_symbol dune_guest_on_stack
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	movq	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	movq	%rdx, %rsp
	andq	$-16, %rsp
	movq	%rdi, %rax
	movq	%rsi, %rdi
	callq	*%rax
	movq	%rbp, %rsp
	popq	%rbp
	.cfi_def_cfa %rsp, 8
	retq
	.cfi_endproc

/*
 * void dune_guest_call_dispatch(struct dune_guest_frame *frame, void *vector_state): ring 0, called by run_handler, which has no
 * unwind information of its own: it is not where the dynamic linker loads code.  RBP = frame, which this keeps.  To debuggers, and to
 * what unwinds the stack for exceptions and cancellation, this function is a signal frame: its caller is the interrupted code.
 */
	.macro saved_at column, offset	/* the register of this column is in memory at RBP + offset */
	.cfi_escape 0x10, \column, 3, 0x76, (\offset & 0x7f) | 0x80, \offset >> 7
	.endm
code_symbol dune_guest_call_dispatch
	.cfi_startproc
	.cfi_signal_frame
	.cfi_escape 0x0f, 4, 0x76, (TF_RSP & 0x7f) | 0x80, TF_RSP >> 7, 6
	saved_at 0, TF_RAX
	saved_at 1, TF_RDX
	saved_at 2, TF_RCX
	saved_at 3, TF_RBX
	saved_at 4, TF_RSI
	saved_at 5, TF_RDI
	saved_at 6, TF_RBP
	saved_at 7, TF_RSP
	saved_at 8, TF_R8
	saved_at 9, TF_R9
	saved_at 10, TF_R10
	saved_at 11, TF_R11
	saved_at 12, TF_R12
	saved_at 13, TF_R13
	saved_at 14, TF_R14
	saved_at 15, TF_R15
	saved_at 16, TF_RIP
	subq	$8, %rsp
	callq	dune_guest_dispatch
	addq	$8, %rsp
	retq
	.cfi_endproc

/*
 * void dune_local_call(uint64_t local, void *vector_state, uint64_t mask, uint64_t enter): ring 0.  Runs enter(local) with the
 * vector registers of vector_state (mask: components for XSAVE, 0: FXSAVE), and stores them there again.
 */
code_symbol dune_local_call
	pushq	%rbx
	pushq	%r12
	subq	$8, %rsp
	stmxcsr	START_MXCSR(%rsp)
	fnstcw	START_CONTROL(%rsp)
	movq	%rsi, %rbx
	movq	%rdx, %r12
	movl	%edx, %eax
	shrq	$32, %rdx
	testl	%eax, %eax
	jz	1f
	xrstor64 (%rbx)
	callq	*%rcx
	movl	%r12d, %eax
	movq	%r12, %rdx
	shrq	$32, %rdx
	xsave64	(%rbx)
	jmp	2f
1:	fxrstor64 (%rbx)
	callq	*%rcx
	fxsave64 (%rbx)
2:	fninit
	ldmxcsr	START_MXCSR(%rsp)
	fldcw	START_CONTROL(%rsp)
	addq	$8, %rsp
	popq	%r12
	popq	%rbx
	retq

/* What the kernel has signal handlers return to. */
code_symbol dune_guest_signal_return
	movl	$15, %eax
	syscall
	ud2

/* noreturn (ucontext_t *): host mode takes the registers and the signal mask of the context. */
code_symbol dune_guest_return_to
	movq	%rdi, %rsp
	movl	$15, %eax
	syscall
	ud2
	.section .note.GNU-stack, "", @progbits
