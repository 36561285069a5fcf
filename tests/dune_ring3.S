/*
 * dune_ring3.S - what the live tests of Dune run in ring 3.
 *
 * One piece between ring3_begin and ring3_end, whole pages, mapped at its own address.  Entry of each routine: RSP = top of
 * a stack, arguments in RDI and RSI.  Each ends with system call RING3_END, RDI = result.
 */
#define RING3_END 999

	.macro routine name
	.balign 16
	.globl \name
\name:
	.endm
	.macro end
	movl	$RING3_END, %eax
	syscall
	ud2
	.endm

	.section .text.ring3, "ax", @progbits
	.balign 4096
	.globl ring3_begin
ring3_begin:

/* Ends at once with its argument. */
routine ring3_nothing
	end

/* One system call: number 0x1234, arguments 1 to 6.  Result: its answer. */
routine ring3_call
	movl	$0x1234, %eax
	movl	$1, %edi
	movl	$2, %esi
	movl	$3, %edx
	movl	$4, %r10d
	movl	$5, %r8d
	movl	$6, %r9d
	movq	$-7, %rbx
	syscall
	.globl ring3_after_call
ring3_after_call:
	movq	%rax, %rdi
	end

/* Fills all registers, lets a trap happen, and compares.  RDI: 0 system call, 1 page fault at RSI, 2 INT3.
 * Result: 0, or the number of the first comparison that fails. */
routine ring3_registers
	movq	$0x101, %rbx
	movq	$0x102, %rbp
	movq	$0x103, %r12
	movq	$0x104, %r13
	movq	$0x105, %r14
	movq	$0x106, %r15
	movq	$0x107, %rdx
	movq	$0x108, %r8
	movq	$0x109, %r9
	movq	$0x10a, %r10
	movq	%rbx, %xmm0
	movq	%rbp, %xmm15
	std
	cmpl	$1, %edi
	je	1f
	ja	2f
	movl	$0x1234, %eax
	syscall
	jmp	3f
1:	movb	(%rsi), %al
	jmp	3f
2:	int3
3:	pushfq
	popq	%rcx
	cld
	movl	$1, %edi
	testl	$0x400, %ecx
	jz	9f
	.macro same register, value
	incl	%edi
	cmpq	$\value, \register
	jne	9f
	.endm
	same	%rbx, 0x101
	same	%rbp, 0x102
	same	%r12, 0x103
	same	%r13, 0x104
	same	%r14, 0x105
	same	%r15, 0x106
	same	%rdx, 0x107
	same	%r8, 0x108
	same	%r9, 0x109
	same	%r10, 0x10a
	movq	%xmm0, %rax
	same	%rax, 0x101
	movq	%xmm15, %rax
	same	%rax, 0x102
	xorl	%edi, %edi
9:	end

/* Result: the byte at RDI. */
routine ring3_read
	movzbl	(%rdi), %edi
	.globl ring3_after_read
ring3_after_read:
	end

/* Stores SIL at RDI.  Result: 1. */
routine ring3_write
	movb	%sil, (%rdi)
	movl	$1, %edi
	end

/* Calls RDI, then the result is 1. */
routine ring3_execute
	callq	*%rdi
	movl	$1, %edi
	end

/* Waits until the 32 bits at RDI are not 0.  Result: what they are. */
routine ring3_wait
1:	movl	(%rdi), %eax
	pause
	testl	%eax, %eax
	jz	1b
	movl	%eax, %edi
	end

/* Counts at RDI for ever. */
routine ring3_count
1:	incq	(%rdi)
	jmp	1b

/* Reads the byte at RDI for ever. */
routine ring3_read_on
1:	movb	(%rdi), %al
	jmp	1b

/* Result: what FS points to. */
routine ring3_fs
	movq	%fs:0, %rdi
	end

/* Result: MXCSR. */
routine ring3_mxcsr
	stmxcsr	-8(%rsp)
	movl	-8(%rsp), %edi
	end

/* Exceptions. */
routine ring3_breakpoint
	int3
	.globl ring3_after_breakpoint
ring3_after_breakpoint:
	movl	$5, %edi
	end
routine ring3_undefined
	ud2
	movl	$5, %edi
	end
routine ring3_divide
	xorl	%ecx, %ecx
	xorl	%edx, %edx
	movl	$1, %eax
	.globl ring3_divide_here
ring3_divide_here:
	divl	%ecx				/* 2 bytes */
	movl	$5, %edi
	end
routine ring3_halt
	hlt
	movl	$5, %edi
	end
routine ring3_interrupts_off
	cli
	movl	$5, %edi
	end
routine ring3_read_cr3
	movq	%cr3, %rax
	movl	$5, %edi
	end
routine ring3_int80
	int	$0x80
	movl	$5, %edi
	end
routine ring3_int32
	int	$0x20
	movl	$5, %edi
	end
routine ring3_out_service
	outb	%al, $0x11
	movl	$5, %edi
	end
routine ring3_out_other
	outb	%al, $0x80
	movl	$5, %edi
	end
routine ring3_simd
	stmxcsr	-8(%rsp)
	andl	$~0x1e80, -8(%rsp)		/* all exceptions unmasked */
	ldmxcsr	-8(%rsp)
	xorps	%xmm0, %xmm0
	movl	$1, %eax
	cvtsi2ss %eax, %xmm1
	.globl ring3_simd_here
ring3_simd_here:
	divss	%xmm0, %xmm1
	movl	$5, %edi
	end

/* A system call that the process makes: number RDI, argument RSI.  Result: its answer. */
routine ring3_pass
	movl	%edi, %eax
	movq	%rsi, %rdi
	syscall
	movl	%eax, %edi
	end

	.balign 4096
	.globl ring3_end
ring3_end:

	.section .note.GNU-stack, "", @progbits
