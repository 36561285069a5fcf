/*
 * monitor.S - the code that runs inside the virtual machine and does not belong to a compartment.
 *
 * Two position-independent pieces, copied at start into pages of the window (layout.h):
 *   monitor      ring 0: exception vectors, system-call entry, page-table edits
 *   trampoline   ring 3, trusted but powerless: entry and exit of a life, system-call exit for hosts where SYSCALL
 *                does not leave ring 3
 * They hold no data and no secret.  Every OUT ends in the supervisor, which always resumes at an address of its
 * own choice, so what follows an OUT never runs.
 */
#include "monitor/layout.h"

	.section .rodata.monitor, "a", @progbits
	.hidden dune_monitor_begin, dune_monitor_syscall, dune_monitor_edit, dune_monitor_end
	.globl dune_monitor_begin, dune_monitor_syscall, dune_monitor_edit, dune_monitor_end
	.balign 16
/*
 * Vectors 0..31, VECTOR_SERVICE, VECTOR_FORBIDDEN; VECTOR_STUB_SIZE bytes each, so RIP tells the vector.
 * Entry: ring 0, interrupts off, stack RSP0 or IST1 of this virtual CPU:
 *          RSP -> [error code] RIP CS RFLAGS RSP SS           (vector 33: the caller's stack, untouched)
 *        general registers as the compartment left them.
 * Clobbers nothing.  The supervisor reads the frame from the virtual CPU's area.
 */
dune_monitor_begin:
	.rept VECTOR_COUNT
	.balign VECTOR_STUB_SIZE
	outb	%al, $PORT_TRAP
	ud2
	.endr

/*
 * System-call entry (LSTAR) where ring 0 is native.
 * Entry: ring 0 by SYSCALL: RCX = return address, R11 = flags, RAX = number, RSP = the caller's stack, never used.
 * getpid and gettid are answered from the life page with no exit: clobbers RAX; leaves by SYSRETQ, which is only
 * reached with a return address below the end of user space (SYSRETQ to a non-canonical address faults in ring 0).
 * R11 is what SYSCALL saved: SYSRETQ cannot raise IOPL above what it holds, and this page cannot be jumped to.
 * Everything else: one exit, no register changed.
 */
	.balign 16
dune_monitor_syscall:
	cmpl	$NUMBER_GETPID, %eax
	je	1f
	cmpl	$NUMBER_GETTID, %eax
	je	1f
2:	outb	%al, $PORT_SYSTEM_CALL
	ud2
1:	movq	%rcx, %rax
	shrq	$47, %rax
	movl	$NUMBER_GETPID, %eax
	jnz	2b
	movl	dune_monitor_begin - WINDOW_MONITOR + WINDOW_LIFE_MONITOR + LIFE_PROCESS_ID(%rip), %eax
	sysretq

/*
 * Page-table edits.
 * Entry: ring 0 by the supervisor, page tables: the edit root.  RSI -> list of {address of entry, value} pairs in
 * this virtual CPU's area, RCX = how many (> 0), RDX = the root they belong to.
 * Stores each value, loads the root (which flushes what it had cached) and exits.  Clobbers RAX, RDI, RSI, RCX.
 */
	.balign 16
dune_monitor_edit:
	movq	(%rsi), %rdi
	movq	8(%rsi), %rax
	movq	%rax, (%rdi)
	addq	$16, %rsi
	decl	%ecx
	jnz	dune_monitor_edit
	movq	%rdx, %cr3
	outb	%al, $PORT_MONITOR
	ud2
dune_monitor_end:

	.section .rodata.trampoline, "a", @progbits
	.hidden dune_trampoline_begin, dune_trampoline_enter, dune_trampoline_enter_fxsave, dune_trampoline_syscall
	.hidden dune_trampoline_service, dune_trampoline_service_gate, dune_trampoline_resume, dune_trampoline_resume_clean, dune_trampoline_end
	.hidden dune_trampoline_resume_clean_fxsave, dune_trampoline_time, dune_trampoline_touch, dune_trampoline_call
	.globl dune_trampoline_begin, dune_trampoline_enter, dune_trampoline_enter_fxsave, dune_trampoline_syscall
	.globl dune_trampoline_service, dune_trampoline_service_gate, dune_trampoline_resume, dune_trampoline_resume_clean, dune_trampoline_end
	.globl dune_trampoline_resume_clean_fxsave, dune_trampoline_time, dune_trampoline_touch, dune_trampoline_call
	.balign 16
dune_trampoline_begin:
/*
 * Start and end of a life, with XSAVE and with FXSAVE.
 * Entry: ring 3 by the supervisor, all general registers 0 but
 *   RBX = function, RDI, RSI = its arguments, R12 = function to call after it or 0, RBP = 0, R13 = address of the
 *   service exit; RSP = top of an empty stack, aligned to 16.
 * Loads the clean vector state (XRSTOR: all components, XSTATE_BV 0), calls the function, calls R12(), cleans the
 * vector state again so that nothing is left for the next tenant, and asks for service 0 with RDI = the result.
 * Stack: empty at both calls (the return address is pushed by CALL).
 */
	.macro clean_state instruction
	movl	$-1, %eax
	movl	$-1, %edx
	\instruction	dune_trampoline_begin - WINDOW_TRAMPOLINE + WINDOW_CLEAN_STATE(%rip)
	xorl	%eax, %eax
	xorl	%edx, %edx
	.endm
	.macro life instruction
	clean_state \instruction
	callq	*%rbx
	movq	%rax, %rbx
	testq	%r12, %r12
	jz	1f
	callq	*%r12
1:	clean_state \instruction
	movq	%rbx, %rdi
	xorl	%ebx, %ebx
	jmpq	*%r13
	.endm
dune_trampoline_enter:
	life	xrstor64
	.balign 16
dune_trampoline_enter_fxsave:
	life	fxrstor64

/*
 * System-call exit (LSTAR) where SYSCALL stays in ring 3.  Entry as for dune_monitor_syscall, but in ring 3.
 * A compartment can jump here with any RCX and R11: the first is where it goes on, the second is ignored.
 */
	.balign 16
dune_trampoline_syscall:
	cmpl	$NUMBER_GETPID, %eax
	je	1f
	cmpl	$NUMBER_GETTID, %eax
	je	1f
	outb	%al, $PORT_SYSTEM_CALL
	ud2
1:	movl	dune_trampoline_begin - WINDOW_TRAMPOLINE + WINDOW_LIFE + LIFE_PROCESS_ID(%rip), %eax
	jmpq	*%rcx

/*
 * Library services: RAX = number, RDI, RSI, RDX, R10, R8 = arguments; the answer comes in RAX.
 * Called by CALL; the supervisor resumes at dune_trampoline_resume wherever the OUT or INT came from.
 */
	.balign 16
dune_trampoline_service:
	outb	%al, $PORT_SERVICE
	ud2
	.balign 16
dune_trampoline_service_gate:
	int	$VECTOR_SERVICE
	ud2
	.balign 16
dune_trampoline_resume:
	retq
/* The same after others have run on this virtual CPU: no vector register of theirs is left.  Clobbers RDX, R11. */
	.balign 16
dune_trampoline_resume_clean:
	movq	%rax, %r11
	clean_state xrstor64
	movq	%r11, %rax
	retq
	.balign 16
dune_trampoline_resume_clean_fxsave:
	movq	%rax, %r11
	clean_state fxrstor64
	movq	%r11, %rax
	retq

/*
 * time(2) as the replaced vDSO has it: RDI = where to store the answer as well, or 0.  Clobbers RAX only.  The seconds
 * are those of the last entry from the supervisor, as the kernel's own are those of its last tick.
 */
	.balign 16
dune_trampoline_time:
	movq	dune_trampoline_begin - WINDOW_TRAMPOLINE + WINDOW_LIFE + LIFE_SECONDS(%rip), %rax
	testq	%rdi, %rdi
	jz	1f
	movq	%rax, (%rdi)
1:	retq

/* For probing only: reads the byte at RDI, or writes it if RSI is not 0, and asks for service 0 with RDI = it. */
	.balign 16
dune_trampoline_touch:
	testq	%rsi, %rsi
	jz	1f
	movb	%sil, (%rdi)
1:	movzbl	(%rdi), %edi
	jmpq	*%r13
	.balign 16
dune_trampoline_call:			/* for probing only: one system call */
	syscall
	ud2
dune_trampoline_end:

	.section .note.GNU-stack, "", @progbits
