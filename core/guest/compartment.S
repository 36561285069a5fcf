/*
 * compartment.S - ring 0 of guest placement runs a compartment, and takes the processor back at its first trap.  No exit is made.
 *
 * Position-independent; copied into the window, into the GiB that compartments have too, since it goes on across MOV CR3.
 * The compartment's address space maps this page, the IDT, the thread's processor area, and nothing else of the process.
 * While it runs, IDT and task state are those of here; what it does with SYSCALL ends in a page fault, because the system-call
 * entry of the guest is not mapped there.
 */
#include "guest/layout.h"

	.section .rodata.local, "a", @progbits
	.macro code_symbol name
	.globl \name
	.hidden \name
	.balign 16
\name:
	.endm

/*
 * Vectors 0 to 32 and the event vector, LOCAL_STUB_SIZE bytes each.  Entry: ring 0, interrupts off, IST1: the high end of
 * the page of struct dune_local.  RSP -> [error code] RIP CS RFLAGS RSP SS
 */
code_symbol dune_local_begin
	.set index, 0
	.rept LOCAL_STUBS
	.balign LOCAL_STUB_SIZE
	.if !(index == 8 || (index >= 10 && index <= 14) || index == 17 || index == 21 || index == 29 || index == 30)
	pushq	$0
	.endif
	.byte	0x68			/* pushq imm32, so that every stub has one size */
	.if index == LOCAL_STUBS - 1
	.long	GUEST_VECTOR_EVENT
	.else
	.long	index
	.endif
	jmp	trapped
	.set index, index + 1
	.endr

	.macro read_base msr to
	movl	$\msr, %ecx
	rdmsr
	movl	%eax, \to(%rdi)
	movl	%edx, \to + 4(%rdi)
	.endm
	.macro write_base msr from
	movl	$\msr, %ecx
	movl	\from(%rdi), %eax
	movl	\from + 4(%rdi), %edx
	wrmsr
	.endm
	/* Loads the task register; its descriptor must say that it is not in use.  Clobbers RAX. */
	.macro load_task selector
	movb	$TYPE_TSS_AVAILABLE, LOCAL_GDT + \selector + DESCRIPTOR_TYPE(%rdi)
	movl	$\selector, %eax
	ltr	%ax
	.endm

/*
 * void (struct dune_local *local): local->regs, fs, gs, root are the compartment's; returns when something has ended its
 * run: vector, error, address, cs say what, regs, fs, gs are up to date.  Vector registers are the caller's affair.
 * Entry: ring 0; local is the address in the window.  Keeps what a C function keeps, RFLAGS included.
 */
code_symbol dune_local_enter
	pushfq
	cli
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, LOCAL_OUTER_RSP(%rdi)
	movq	%cr3, %rax
	movq	%rax, LOCAL_OUTER_CR3(%rdi)
	read_base MSR_NUMBER_FS_BASE LOCAL_OUTER_FS
	read_base MSR_NUMBER_FS_BASE + 1 LOCAL_OUTER_GS
	lidt	LOCAL_IDT(%rdi)
	load_task LOCAL_SELECTOR_TSS
	movq	LOCAL_ROOT(%rdi), %rax
	movq	%rax, %cr3
	write_base MSR_NUMBER_FS_BASE LOCAL_FS
	write_base MSR_NUMBER_FS_BASE + 1 LOCAL_GS
	leaq	4096(%rdi), %rsp
	pushq	$SELECTOR_USER_DATA
	pushq	LOCAL_REGS + REGS_RSP(%rdi)
	pushq	LOCAL_REGS + REGS_RFLAGS(%rdi)
	pushq	$SELECTOR_USER_CODE
	pushq	LOCAL_REGS + REGS_RIP(%rdi)
	movq	LOCAL_REGS + REGS_RAX(%rdi), %rax
	movq	LOCAL_REGS + REGS_RBX(%rdi), %rbx
	movq	LOCAL_REGS + REGS_RCX(%rdi), %rcx
	movq	LOCAL_REGS + REGS_RDX(%rdi), %rdx
	movq	LOCAL_REGS + REGS_RSI(%rdi), %rsi
	movq	LOCAL_REGS + REGS_RBP(%rdi), %rbp
	movq	LOCAL_REGS + REGS_R8(%rdi), %r8
	movq	LOCAL_REGS + REGS_R9(%rdi), %r9
	movq	LOCAL_REGS + REGS_R10(%rdi), %r10
	movq	LOCAL_REGS + REGS_R11(%rdi), %r11
	movq	LOCAL_REGS + REGS_R12(%rdi), %r12
	movq	LOCAL_REGS + REGS_R13(%rdi), %r13
	movq	LOCAL_REGS + REGS_R14(%rdi), %r14
	movq	LOCAL_REGS + REGS_R15(%rdi), %r15
	movq	LOCAL_REGS + REGS_RDI(%rdi), %rdi
	iretq

/* A trap of the compartment.  RSP -> vector, error code, RIP, CS, RFLAGS, RSP, SS. */
	.balign 16
trapped:
	pushq	%rdi
	movq	%rsp, %rdi
	andq	$-4096, %rdi
	movq	%rax, LOCAL_REGS + REGS_RAX(%rdi)
	popq	%rax
	movq	%rax, LOCAL_REGS + REGS_RDI(%rdi)
	movq	%rbx, LOCAL_REGS + REGS_RBX(%rdi)
	movq	%rcx, LOCAL_REGS + REGS_RCX(%rdi)
	movq	%rdx, LOCAL_REGS + REGS_RDX(%rdi)
	movq	%rsi, LOCAL_REGS + REGS_RSI(%rdi)
	movq	%rbp, LOCAL_REGS + REGS_RBP(%rdi)
	movq	%r8, LOCAL_REGS + REGS_R8(%rdi)
	movq	%r9, LOCAL_REGS + REGS_R9(%rdi)
	movq	%r10, LOCAL_REGS + REGS_R10(%rdi)
	movq	%r11, LOCAL_REGS + REGS_R11(%rdi)
	movq	%r12, LOCAL_REGS + REGS_R12(%rdi)
	movq	%r13, LOCAL_REGS + REGS_R13(%rdi)
	movq	%r14, LOCAL_REGS + REGS_R14(%rdi)
	movq	%r15, LOCAL_REGS + REGS_R15(%rdi)
	popq	LOCAL_VECTOR(%rdi)
	popq	LOCAL_ERROR(%rdi)
	popq	LOCAL_REGS + REGS_RIP(%rdi)
	popq	LOCAL_CS(%rdi)
	popq	LOCAL_REGS + REGS_RFLAGS(%rdi)
	popq	LOCAL_REGS + REGS_RSP(%rdi)
	movq	%cr2, %rax
	movq	%rax, LOCAL_ADDRESS(%rdi)
	cld
	read_base MSR_NUMBER_FS_BASE LOCAL_FS
	read_base MSR_NUMBER_FS_BASE + 1 LOCAL_GS
	movq	LOCAL_OUTER_CR3(%rdi), %rax
	movq	%rax, %cr3
	lidt	LOCAL_OUTER_IDT(%rdi)
	load_task SELECTOR_TSS
	xorl	%eax, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %fs
	movl	%eax, %gs
	write_base MSR_NUMBER_FS_BASE LOCAL_OUTER_FS
	write_base MSR_NUMBER_FS_BASE + 1 LOCAL_OUTER_GS
	movq	LOCAL_OUTER_RSP(%rdi), %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	popfq
	retq
code_symbol dune_local_end
	.section .note.GNU-stack, "", @progbits
