/*
 * dune_preempt.S - notices if a register is not what it was, in any ring.  Whole pages, mapped at their own address for ring 3.
 */
#include "dune_preempt.h"


	.section .text.preempt, "ax", @progbits
	.balign 4096
	.globl preempt_begin
preempt_begin:

/* void (struct preempt *).  In ring 3: RDI = argument; ends with system call PREEMPT_END.  R15 -> struct preempt throughout. */
	.globl preempt_run
preempt_run:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rdi, %r15
	movq	%rsp, PREEMPT_RETURN(%r15)
again:
	cmpq	$0, PREEMPT_STOP(%r15)
	jne	end
	leaq	PREEMPT_FIRST(%r15), %r14
	leaq	PREEMPT_SECOND(%r15), %rdx
	cmpq	%r14, PREEMPT_CURRENT(%r15)
	cmoveq	%rdx, %r14
	movq	%r14, PREEMPT_CURRENT(%r15)
	movq	PREEMPT_STACK(%r15), %rsp
	leaq	SET_RED_ZONE(%r14), %rsi
	leaq	-128(%rsp), %rdi
	movl	$16, %ecx
	rep movsq
	fninit
	.irp i, 7, 6, 5, 4, 3, 2, 1, 0
	fldt	SET_X87 + 16 * \i(%r14)
	.endr
	fldcw	SET_CONTROL(%r14)
	ldmxcsr	SET_MXCSR(%r14)
	cmpq	$0, PREEMPT_AVX(%r15)
	je	1f
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	SET_VECTORS + 32 * \i(%r14), %ymm\i
	.endr
	jmp	2f
1:	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	movdqu	SET_VECTORS + 32 * \i(%r14), %xmm\i
	.endr
2:	movq	PREEMPT_SCRATCH(%r15), %rsp
	pushq	SET_FLAGS(%r14)
	popfq				/* from here on only what leaves them alone */
	movq	PREEMPT_STACK(%r15), %rsp
	movq	(%r14), %rbx
	movq	8(%r14), %rbp
	movq	16(%r14), %rdi
	movq	24(%r14), %rsi
	movq	32(%r14), %rdx
	movq	40(%r14), %rax
	movq	56(%r14), %r8
	movq	64(%r14), %r9
	movq	72(%r14), %r10
	movq	80(%r14), %r11
	movq	88(%r14), %r12
	movq	96(%r14), %r13
	movq	104(%r14), %r14
	movq	PREEMPT_SPIN(%r15), %rcx
	.globl	preempt_wait
preempt_wait:
	leaq	-1(%rcx), %rcx
	jrcxz	4f
	jmp	preempt_wait
	.globl	preempt_wait_end
preempt_wait_end:
4:	movq	PREEMPT_WHAT(%r15), %rcx
	jrcxz	6f
	leaq	-1(%rcx), %rcx
	jrcxz	5f
	int3
	jmp	6f
5:	movl	$110, %eax		/* getppid() */
	syscall
6:	movq	%rbx, PREEMPT_SEEN(%r15)
	movq	%rbp, PREEMPT_SEEN + 8(%r15)
	movq	%rdi, PREEMPT_SEEN + 16(%r15)
	movq	%rsi, PREEMPT_SEEN + 24(%r15)
	movq	%rdx, PREEMPT_SEEN + 32(%r15)
	movq	%rax, PREEMPT_SEEN + 40(%r15)
	movq	%r8, PREEMPT_SEEN + 56(%r15)
	movq	%r9, PREEMPT_SEEN + 64(%r15)
	movq	%r10, PREEMPT_SEEN + 72(%r15)
	movq	%r11, PREEMPT_SEEN + 80(%r15)
	movq	%r12, PREEMPT_SEEN + 88(%r15)
	movq	%r13, PREEMPT_SEEN + 96(%r15)
	movq	%r14, PREEMPT_SEEN + 104(%r15)
	movq	%rsp, PREEMPT_SEEN + SET_RSP(%r15)
	movq	PREEMPT_SCRATCH(%r15), %rsp
	pushfq
	popq	PREEMPT_SEEN + SET_FLAGS(%r15)
	cld
	stmxcsr	PREEMPT_SEEN + SET_MXCSR(%r15)
	fnstcw	PREEMPT_SEEN + SET_CONTROL(%r15)
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7
	fstpt	PREEMPT_SEEN + SET_X87 + 16 * \i(%r15)
	.endr
	cmpq	$0, PREEMPT_AVX(%r15)
	je	7f
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	%ymm\i, PREEMPT_SEEN + SET_VECTORS + 32 * \i(%r15)
	.endr
	jmp	8f
7:	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	movdqu	%xmm\i, PREEMPT_SEEN + SET_VECTORS + 32 * \i(%r15)
	.endr
8:	movq	PREEMPT_STACK(%r15), %rsi
	leaq	-128(%rsi), %rsi
	leaq	PREEMPT_SEEN + SET_RED_ZONE(%r15), %rdi
	movl	$16, %ecx
	rep movsq
	movq	%fs:0, %rax
	movq	%rax, PREEMPT_SEEN + SET_FS(%r15)
	movq	PREEMPT_CURRENT(%r15), %r14
	movq	48(%r14), %rax		/* RCX has been counting */
	movq	%rax, PREEMPT_SEEN + 48(%r15)
	cmpq	$1, PREEMPT_WHAT(%r15)
	jne	9f
	movq	40(%r14), %rax		/* the call has changed RAX and R11 */
	movq	%rax, PREEMPT_SEEN + 40(%r15)
	movq	80(%r14), %rax
	movq	%rax, PREEMPT_SEEN + 80(%r15)
9:	leaq	PREEMPT_SEEN(%r15), %rsi
	movq	%r14, %rdi
	movl	$SET_WORDS, %ecx
	repe cmpsq
	je	10f
	incq	PREEMPT_ERRORS(%r15)
	movl	$SET_WORDS - 1, %eax
	subl	%ecx, %eax
	movq	%rax, PREEMPT_BAD(%r15)
10:	incq	PREEMPT_PASSES(%r15)
	jmp	again
end:
	cmpq	$0, PREEMPT_RING3(%r15)
	je	1f
	movl	$PREEMPT_END, %eax
	syscall
	ud2
1:	movq	PREEMPT_RETURN(%r15), %rsp
	cmpq	$0, PREEMPT_AVX(%r15)
	je	2f
	vzeroupper
2:	fninit
	pushq	$0x1f80
	ldmxcsr	(%rsp)
	addq	$8, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	retq
	.balign 4096
	.globl preempt_end
preempt_end:

	.text
	.globl preempt_overwrite
preempt_overwrite:
	testq	%rdi, %rdi
	je	1f
	vzeroall
1:	.irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	pcmpeqd	%xmm\i, %xmm\i
	.endr
	fninit
	.irp i, 0, 1, 2, 3, 4, 5, 6, 7
	fldpi
	.endr
	fninit
	pushq	$0x7f80
	ldmxcsr	(%rsp)
	movq	$0x1f80, (%rsp)
	ldmxcsr	(%rsp)
	addq	$8, %rsp
	retq
	.section .note.GNU-stack, "", @progbits
