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
	movl	%eax, \to
	movl	%edx, 4 + \to
	.endm
	.macro write_base msr from
	movl	$\msr, %ecx
	movl	\from, %eax
	movl	4 + \from, %edx
	wrmsr
	.endm
	/* Loads the task register; its descriptor must say that it is not in use.  Clobbers RAX. */
	.macro load_task selector
	movb	$TYPE_TSS_AVAILABLE, LOCAL_GDT + \selector + DESCRIPTOR_TYPE(%rdi)
	movl	$\selector, %eax
	ltr	%ax
	.endm

/*
 * Registers of a compartment are kept in the thread's struct dune_local_state, which no compartment has mapped, and not in struct
 * dune_local, which all of them have: others run on other threads meanwhile.  What the processor itself pushes is in the latter,
 * and RAX for the moment in which a trap loads CR3.
 */

/*
 * void (struct dune_local *local): the state's regs, fs, gs and local->root are the compartment's; returns when something has
 * ended its run: vector, error, address, cs say what, regs, fs, gs are up to date.  Vector registers are the caller's affair.
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
	orq	LOCAL_KEEP(%rdi), %rax
	movq	%rax, LOCAL_OUTER_CR3(%rdi)
	read_base MSR_NUMBER_FS_BASE LOCAL_OUTER_FS(%rdi)
	read_base MSR_NUMBER_FS_BASE + 1 LOCAL_OUTER_GS(%rdi)
	lidt	LOCAL_IDT(%rdi)
	load_task LOCAL_SELECTOR_TSS
	movq	LOCAL_STATE(%rdi), %rsi
	write_base MSR_NUMBER_FS_BASE LOCAL_STATE_FS(%rsi)
	write_base MSR_NUMBER_FS_BASE + 1 LOCAL_STATE_GS(%rsi)
	leaq	4096(%rdi), %rsp
	pushq	$SELECTOR_USER_DATA
	pushq	REGS_RSP(%rsi)
	pushq	REGS_RFLAGS(%rsi)
	pushq	$SELECTOR_USER_CODE
	pushq	REGS_RIP(%rsi)
	movq	REGS_RAX(%rsi), %rax
	movq	%rax, %cr2		/* where the compartment cannot look, for a moment */
	movq	LOCAL_ROOT(%rdi), %rax
	movq	REGS_RBX(%rsi), %rbx
	movq	REGS_RCX(%rsi), %rcx
	movq	REGS_RDX(%rsi), %rdx
	movq	REGS_RBP(%rsi), %rbp
	movq	REGS_R8(%rsi), %r8
	movq	REGS_R9(%rsi), %r9
	movq	REGS_R10(%rsi), %r10
	movq	REGS_R11(%rsi), %r11
	movq	REGS_R12(%rsi), %r12
	movq	REGS_R13(%rsi), %r13
	movq	REGS_R14(%rsi), %r14
	movq	REGS_R15(%rsi), %r15
	movq	REGS_RDI(%rsi), %rdi
	movq	REGS_RSI(%rsi), %rsi
	movq	%rax, %cr3
	movq	%cr2, %rax
	iretq

/* A trap of the compartment.  RSP -> vector, error code, RIP, CS, RFLAGS, RSP, SS, end of the page of struct dune_local. */
	.set	frame, 4096 - 7 * 8
	.balign 16
trapped:
	xchgq	%rax, LOCAL_OUTER_CR3 - frame(%rsp)
	movq	%rax, %cr3
	xchgq	%rax, LOCAL_OUTER_CR3 - frame(%rsp)
	movq	LOCAL_STATE - frame(%rsp), %rsp
	movq	%rax, REGS_RAX(%rsp)
	movq	%rbx, REGS_RBX(%rsp)
	movq	%rcx, REGS_RCX(%rsp)
	movq	%rdx, REGS_RDX(%rsp)
	movq	%rsi, REGS_RSI(%rsp)
	movq	%rdi, REGS_RDI(%rsp)
	movq	%rbp, REGS_RBP(%rsp)
	movq	%r8, REGS_R8(%rsp)
	movq	%r9, REGS_R9(%rsp)
	movq	%r10, REGS_R10(%rsp)
	movq	%r11, REGS_R11(%rsp)
	movq	%r12, REGS_R12(%rsp)
	movq	%r13, REGS_R13(%rsp)
	movq	%r14, REGS_R14(%rsp)
	movq	%r15, REGS_R15(%rsp)
	movq	%rsp, %rsi
	movq	LOCAL_STATE_LOCAL(%rsi), %rdi
	leaq	frame(%rdi), %rsp
	popq	LOCAL_VECTOR(%rdi)
	popq	LOCAL_ERROR(%rdi)
	popq	REGS_RIP(%rsi)
	popq	LOCAL_CS(%rdi)
	popq	REGS_RFLAGS(%rsi)
	popq	REGS_RSP(%rsi)
	movq	%cr2, %rax
	movq	%rax, LOCAL_ADDRESS(%rdi)
	cld
	read_base MSR_NUMBER_FS_BASE LOCAL_STATE_FS(%rsi)
	read_base MSR_NUMBER_FS_BASE + 1 LOCAL_STATE_GS(%rsi)
	lidt	LOCAL_OUTER_IDT(%rdi)
	load_task SELECTOR_TSS
	xorl	%eax, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %fs
	movl	%eax, %gs
	write_base MSR_NUMBER_FS_BASE LOCAL_OUTER_FS(%rdi)
	write_base MSR_NUMBER_FS_BASE + 1 LOCAL_OUTER_GS(%rdi)
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
