/*
 * entry.S - ring 0 of guest placement: vectors, system calls, the way to handlers and back, ring 3.
 *
 * Position-independent; copied into the window (layout.h), so it is mapped in every address space.  The processor's area
 * (struct dune_guest_processor) is found from the stack pointer while on a trap stack.
 *
 * Traps always change to a trap stack by the IST, so the red zone of the interrupted code stays whole.  While that stack
 * is in use IST1 points to the next one: the C code called there, and the copy of the frame to the handler's stack, may touch memory that is
 * not mirrored yet.  Such a nested fault goes to the host side directly.
 */
#include "guest/layout.h"

	.section .rodata.guest, "a", @progbits
	.macro code_symbol name
	.globl \name
	.hidden \name
	.balign 16
\name:
	.endm

/*
 * Vectors 0..255, GUEST_STUB_SIZE bytes each.
 * Entry: ring 0, interrupts off, a trap stack (IST1) or the fatal stack (IST2: vectors 2, 8, 18):
 *          RSP -> [error code] RIP CS RFLAGS RSP SS
 * Leaves to trap_common with RSP -> vector, error code (0 if the processor pushes none), RIP ...
 */
code_symbol dune_guest_begin
	.set vector, 0
	.rept GUEST_VECTORS
	.balign GUEST_STUB_SIZE
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
	pushq	$0
	.endif
	.byte	0x68			/* pushq imm32, so that every stub has one size */
	.long	vector
	.if vector == 2 || vector == 8 || vector == 18
	jmp	trap_fatal
	.else
	jmp	trap_common
	.endif
	.set vector, vector + 1
	.endr

	.macro push_registers	/* below RAX, in the order of struct dune_tf */
	pushq	%r15
	pushq	%r14
	pushq	%r13
	pushq	%r12
	pushq	%rbp
	pushq	%rbx
	pushq	%r11
	pushq	%r10
	pushq	%r9
	pushq	%r8
	pushq	%rcx
	pushq	%rdx
	pushq	%rsi
	pushq	%rdi
	.endm
	.macro pop_registers	/* up to and with RAX */
	popq	%rdi
	popq	%rsi
	popq	%rdx
	popq	%rcx
	popq	%r8
	popq	%r9
	popq	%r10
	popq	%r11
	popq	%rbx
	popq	%rbp
	popq	%r12
	popq	%r13
	popq	%r14
	popq	%r15
	popq	%rax
	.endm
	/* RBX = processor: the process's FS and GS bases instead of ring 3's, or the other way round.  Clobber RAX, RCX, RDX. */
	.macro bases_of_ring0
	swapgs
	lfence
	movl	$MSR_NUMBER_FS_BASE, %ecx
	rdmsr
	movl	%eax, PROCESSOR_USER_FS(%rbx)
	movl	%edx, PROCESSOR_USER_FS + 4(%rbx)
	movl	PROCESSOR_KERNEL_FS(%rbx), %eax
	movl	PROCESSOR_KERNEL_FS + 4(%rbx), %edx
	wrmsr
	.endm
	.macro bases_of_ring3
	movl	$MSR_NUMBER_FS_BASE, %ecx
	movl	PROCESSOR_USER_FS(%rbx), %eax
	movl	PROCESSOR_USER_FS + 4(%rbx), %edx
	wrmsr
	swapgs
	.endm

/*
 * Any trap.  Entry: RSP -> vector, error code, RIP, CS, RFLAGS, RSP, SS on a trap stack; interrupts off.
 * Builds a struct dune_tf there and asks the C code (PROCESSOR_TRAP: frame, vector, CR2, processor) what to do: it returns
 * the same frame (go on where it happened) or a struct dune_guest_frame on the stack where the handler is to run.
 */
	.balign 16
trap_common:
	xchgq	%rax, (%rsp)
	push_registers
	cld
	movl	%eax, %esi
	movq	%rsp, %rbx
	andq	$-WINDOW_GUEST_PROCESSOR_SIZE, %rbx
	leaq	PROCESSOR_TRAP_TOP(%rbx), %rcx
	movq	PROCESSOR_IST1(%rbx), %rax
	subq	$PROCESSOR_TRAP_STACK_SIZE, PROCESSOR_IST1(%rbx)
	cmpq	%rcx, %rax
	jne	trap_nested
	testb	$3, TF_CS(%rsp)
	jz	1f
	bases_of_ring0
1:	movq	%rsp, %rdi
	movq	%cr2, %rdx
	movq	%rbx, %rcx
	subq	$8, %rsp		/* seven words and fourteen were pushed: align */
	callq	*PROCESSOR_TRAP(%rbx)
	addq	$8, %rsp
	cmpq	%rax, %rsp
	jne	2f
	addq	$PROCESSOR_TRAP_STACK_SIZE, PROCESSOR_IST1(%rbx)
	jmp	restore
2:	movq	%rax, %rsp
	addq	$PROCESSOR_TRAP_STACK_SIZE, PROCESSOR_IST1(%rbx)
	jmp	run_handler

/* A fault while a trap stack is in use.  RSP -> struct dune_tf, RBX = processor, ESI = vector. */
	.balign 16
trap_nested:
	movq	%rsp, %rdi
	movq	%cr2, %rdx
	movl	$GUEST_CALL_NESTED, %eax
	outb	%al, $PORT_GUEST
	addq	$PROCESSOR_TRAP_STACK_SIZE, PROCESSOR_IST1(%rbx)
	pop_registers
	addq	$8, %rsp
	iretq

/* NMI, double fault, machine check: nothing can go on.  RSP -> vector, error code, RIP ... on the fatal stack. */
	.balign 16
trap_fatal:
	xchgq	%rax, (%rsp)
	push_registers
	movl	%eax, %esi
	movq	%rsp, %rdi
	movq	%cr2, %rdx
	movl	$GUEST_CALL_DIE, %eax
	outb	%al, $PORT_GUEST
	ud2

/*
 * Runs a handler.  Entry: RSP -> struct dune_guest_frame on the handler's stack, aligned to 16; RBX = processor; interrupts off.
 * Stack picture: RSP -> [vector state, PROCESSOR_VECTOR_SIZE, aligned to 64] [gap] struct dune_guest_frame
 * RBX, RBP are kept by the C code; RBP -> the frame.
 */
	.balign 16
run_handler:
	movq	%rsp, %rbp
	subq	PROCESSOR_VECTOR_SIZE(%rbx), %rsp
	andq	$-64, %rsp
	movl	PROCESSOR_VECTOR_MASK(%rbx), %eax
	movl	PROCESSOR_VECTOR_MASK + 4(%rbx), %edx
	testl	%eax, %eax
	jz	1f
	xorl	%ecx, %ecx		/* XSAVE writes 16 bytes of the header's 64; XRSTOR wants the rest to be 0 */
	movq	%rcx, 512(%rsp)
	movq	%rcx, 520(%rsp)
	movq	%rcx, 528(%rsp)
	movq	%rcx, 536(%rsp)
	movq	%rcx, 544(%rsp)
	movq	%rcx, 552(%rsp)
	movq	%rcx, 560(%rsp)
	movq	%rcx, 568(%rsp)
	xsave64	(%rsp)
	jmp	2f
1:	fxsave64 (%rsp)
2:	fninit				/* handlers begin with the state that the ABI wants */
	pushq	$0x1f80
	ldmxcsr	(%rsp)
	movq	$FLAGS_RING0, (%rsp)
	popfq
	movq	%rbp, %rdi
	movq	%rsp, %rsi
	callq	*PROCESSOR_DISPATCH(%rbx)
	cli
	movl	PROCESSOR_VECTOR_MASK(%rbx), %eax
	movl	PROCESSOR_VECTOR_MASK + 4(%rbx), %edx
	testl	%eax, %eax
	jz	3f
	xrstor64 (%rsp)
	jmp	4f
3:	fxrstor64 (%rsp)
4:	movq	%rbp, %rsp

/*
 * Goes on at a trap frame.  Entry: RSP -> struct dune_tf; RBX = processor; interrupts off.
 * Frames may come from handlers and from the process: of CS only the ring counts, of RFLAGS what that ring may choose.
 */
restore:
	testb	$3, TF_CS(%rsp)
	jz	1f
	movq	TF_RIP(%rsp), %rax
	shrq	$47, %rax
	jnz	not_an_address
	bases_of_ring3
	movq	$SELECTOR_USER_CODE, TF_CS(%rsp)
	movq	$SELECTOR_USER_DATA, TF_SS(%rsp)
	andl	$~FLAGS_IOPL, TF_RFLAGS(%rsp)
	orl	$FLAGS_INTERRUPTS, TF_RFLAGS(%rsp)
	jmp	2f
1:	movq	$SELECTOR_KERNEL_CODE, TF_CS(%rsp)
	movq	$SELECTOR_KERNEL_DATA, TF_SS(%rsp)
	orl	$FLAGS_IOPL, TF_RFLAGS(%rsp)
2:	pop_registers
	addq	$8, %rsp
	iretq

/*
 * Ring 3 would go on where no address is, after SYSCALL at the end of its memory, say: IRETQ would fault in ring 0, with the
 * bases of ring 3.  The fault is ring 3's, so its handler gets it.  Entry: as restore; bases of ring 0.
 */
not_an_address:
	movq	PROCESSOR_KERNEL_RSP(%rbx), %rdi
	testq	%rdi, %rdi
	cmovzq	%rsp, %rdi
	andq	$-16, %rdi
	subq	$FRAME_SIZE, %rdi
	movq	%rdi, %rdx
	movq	%rsp, %rsi
	movl	$TF_SIZE / 8, %ecx
	rep movsq
	movq	%rdx, %rsp
	movq	$0, TF_ERR(%rsp)
	movq	$VECTOR_GENERAL_PROTECTION, FRAME_VECTOR(%rsp)
	movq	$0, FRAME_ADDRESS(%rsp)
	jmp	run_handler

/* void (struct dune_tf *, struct dune_guest_processor *): goes on there.  Ring 0. */
code_symbol dune_guest_restore
	cli
	movq	%rdi, %rsp
	movq	%rsi, %rbx
	jmp	restore

/*
 * int (struct dune_tf *, struct dune_guest_processor *): runs ring 3 from the frame; returns by dune_guest_leave_user.
 * Stack picture while ring 3 runs: PROCESSOR_KERNEL_RSP -> its last value, MXCSR and x87 control word, R15 R14 R13 R12 RBP RBX, return address.
 * Traps of ring 3 use the stack below.
 */
code_symbol dune_guest_enter_user
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	subq	$8, %rsp
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	movq	%rsi, %rbx
	pushq	$0
	subq	$TF_SIZE, %rsp		/* a copy, so that the caller's frame stays as it is */
	movq	%rdi, %rsi
	movq	%rsp, %rdi
	movl	$TF_SIZE / 8, %ecx
	rep movsq			/* a fault here is the caller's: nothing has changed yet */
	cli
	movq	PROCESSOR_KERNEL_RSP(%rbx), %rax
	movq	%rax, TF_SIZE(%rsp)
	leaq	TF_SIZE(%rsp), %rax
	movq	%rax, PROCESSOR_KERNEL_RSP(%rbx)
	movl	$MSR_NUMBER_FS_BASE, %ecx
	rdmsr
	movl	%eax, PROCESSOR_KERNEL_FS(%rbx)
	movl	%edx, PROCESSOR_KERNEL_FS + 4(%rbx)
	movq	$SELECTOR_USER_CODE, TF_CS(%rsp)
	jmp	restore

/* noreturn (int result, struct dune_guest_processor *): the innermost dune_guest_enter_user returns result. */
code_symbol dune_guest_leave_user
	cli
	movq	PROCESSOR_KERNEL_RSP(%rsi), %rsp
	popq	PROCESSOR_KERNEL_RSP(%rsi)
	fninit
	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
	addq	$8, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	movl	%edi, %eax
	pushq	$FLAGS_RING0
	popfq
	retq

/*
 * System-call entry (LSTAR), one copy in each processor's area, at PROCESSOR_SYSTEM_CALL.
 * Entry: ring 0 by SYSCALL from ring 0 or ring 3: RCX = return address, R11 = flags, RAX = number, RSP = the caller's.
 * R11 holds what RFLAGS was: the IOPL tells who calls, see FLAGS_RING0.
 * From ring 0: one exit; the host side makes the call and goes on at RCX.  Nothing is stored, so the red zone is safe.
 * From ring 3: builds a struct dune_guest_frame on the stack of PROCESSOR_KERNEL_RSP and runs the handler there.
 */
	.balign 16
	.globl	dune_guest_system_call
	.hidden dune_guest_system_call
	.set	area, dune_guest_system_call - PROCESSOR_SYSTEM_CALL
dune_guest_system_call:
	testl	$FLAGS_IOPL, %r11d
	jz	1f
	outb	%al, $PORT_SYSTEM_CALL
	ud2
1:	movq	%rsp, area + PROCESSOR_USER_RSP(%rip)
	movq	area + PROCESSOR_KERNEL_RSP(%rip), %rsp
	andq	$-16, %rsp
	subq	$FRAME_SIZE - TF_SIZE, %rsp
	pushq	$SELECTOR_USER_DATA
	pushq	area + PROCESSOR_USER_RSP(%rip)
	pushq	%r11
	pushq	$SELECTOR_USER_CODE
	pushq	%rcx
	pushq	$0
	pushq	%rax
	push_registers
	leaq	area(%rip), %rbx
	movq	$GUEST_VECTOR_SYSTEM_CALL, FRAME_VECTOR(%rsp)
	bases_of_ring0
	movq	PROCESSOR_RUN_HANDLER(%rbx), %rax
	jmpq	*%rax
code_symbol dune_guest_system_call_end
	.globl dune_guest_run_handler
	.hidden dune_guest_run_handler
	.set dune_guest_run_handler, run_handler
code_symbol dune_guest_end
	.section .note.GNU-stack, "", @progbits
