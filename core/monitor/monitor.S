/*
 * monitor.S - the code that runs inside the virtual machine and does not belong to a compartment.
 *
 * Two position-independent pieces, copied at start into pages of the window (layout.h):
 *   monitor      ring 0: exception vectors, system-call entry, direct calls, page-table edits
 *   trampoline   ring 3, trusted but powerless: entry and exit of a life, system-call exit for hosts where SYSCALL
 *                does not leave ring 3
 * They hold no data and no secret.  Every OUT ends in the supervisor, which always resumes at an address of its
 * own choice, so what follows an OUT never runs.
 */
#include "monitor/layout.h"

	.section .rodata.monitor, "a", @progbits
	.hidden dune_monitor_exchange, dune_monitor_refresh, dune_monitor_load, dune_monitor_enter
	.globl dune_monitor_exchange, dune_monitor_refresh, dune_monitor_load, dune_monitor_enter
	.hidden dune_monitor_begin, dune_monitor_syscall, dune_monitor_forward, dune_monitor_edit, dune_monitor_end
	.globl dune_monitor_begin, dune_monitor_syscall, dune_monitor_forward, dune_monitor_edit, dune_monitor_end
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
	cmpl	$NUMBER_DIRECT_CALL, %eax
	jae	3f
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
3:	je	dune_monitor_direct_call
	cmpl	$NUMBER_DIRECT_RETURN, %eax
	je	dune_monitor_direct_return
	jmp	2b

/*
 * Direct calls: a compartment calls a function in another address space (a target) and no exit is made.
 *
 * A compartment can execute these two system calls itself, with any registers.  Why it gains nothing by that:
 *   - The target is found in the caller's own life page, which ring 3 cannot write, by comparing the handle; index and
 *     offset never leave their tables.  What the target is entered with comes from the target alone, but for RDI.
 *   - The return asks for nothing but whether a call is under way on this virtual CPU.  If so, who runs is the target:
 *     whatever ended otherwise came to the supervisor, which then took the call over and cleared STATE_TARGET.
 * Why no instruction here faults: there is no stack, and no access to an address that comes from ring 3, so the user's
 * RSP and pointers are never followed (SMAP would fault).  Memory that is read or written is
 *     the life page through WINDOW_LIFE_MONITOR: in every root, before it first runs;
 *     targets and the virtual CPU's area: in the GiB that all roots share, never unmapped, and this code likewise, so
 *     that it goes on across MOV CR3;
 *     selectors are loaded with 0, MSRs with bases that the supervisor has set, SYSRETQ gets an address in the
 *     trampoline.  Interrupts are off and TF is masked (SFMASK), so no trap comes either.
 * TLB: global pages are off.  Without tags MOV CR3 leaves no translation of the other side, and what a target's root said
 * before it was opened is never in use.  With tags (kvm/tags.h) the target's are kept if the record of its tag says that they
 * are of this root as it is; else the load flushes the tag, and the record is renewed.  The caller's are kept: its root is
 * not edited while it waits here, and if the target has its very tag, then both loads flush, and nobody's are on record.
 * A root is edited only while its target is closed, or after the virtual CPU that is in it has exited.
 * GS: SWAPGS makes this virtual CPU's dune_direct_state the GS base, in these two paths only.  Ring 3 cannot change the
 * other base: CR4.FSGSBASE is off.
 * Registers of the one side never reach the other: all sixteen are set, on both ways; the trampoline, on both sides,
 * loads the clean vector state first.  Speculation past the comparisons reads supervisor memory, which has no secrets.
 */

/*
 * The call.  Entry: as dune_monitor_syscall; EDI = handle, RSI = argument, RDX = where the caller wants the result.
 * Exit, done: ring 3, the target's root, at STATE_ENTER in the trampoline; RBX = function, RDI = argument, RSI = trusted
 *     argument, R12 = function to call after it, R13 = dune_trampoline_direct_return, RSP = its stack, RCX = RIP, R11 =
 *     flags, all others 0; selectors 0, FS base as given, GS base 0.
 * Exit, not done (not granted, busy, not allowed now): to the supervisor as SERVICE_NUMBER_CALL, with RDI, RSI, RDX,
 *     RCX, R11, RSP, GS as they came; RAX, RBX, RBP changed.
 */
	.balign 16
dune_monitor_direct_call:
	testl	%edi, %edi			/* no gate has it; an empty entry of the table below does */
	jz	3f
	movzbl	%dil, %eax
	leaq	dune_monitor_begin - WINDOW_MONITOR + WINDOW_LIFE_MONITOR + LIFE_DIRECT(%rip), %rbx
	cmpl	%edi, (%rbx, %rax, 8)
	jne	3f
	movl	4(%rbx, %rax, 8), %eax
	leaq	dune_monitor_begin - WINDOW_MONITOR + WINDOW_DIRECT(%rip), %rbx
	addq	%rax, %rbx
	swapgs
	movl	%gs:STATE_SELF, %ebp
	testl	%ebp, %ebp
	jz	2f
	cmpq	$0, %gs:STATE_TARGET
	jne	2f				/* the target of a call calls: the supervisor keeps that stack */
	movl	$DIRECT_OPEN, %eax
	lock cmpxchgl %ebp, DIRECT_STATE(%rbx)
	jne	2f
	cmpl	%edi, DIRECT_HANDLE(%rbx)	/* now that nobody can change it */
	jne	1f
	incl	%gs:STATE_CALLS
	incq	DIRECT_CALLS(%rbx)
	movq	%rsp, %gs:STATE_STACK
	movq	%rdx, %gs:STATE_RESULT
	movq	%rbx, %gs:STATE_TARGET		/* from here on every exit finds the target */
	movq	dune_monitor_begin - WINDOW_MONITOR + WINDOW_LIFE_MONITOR + LIFE_SECONDS(%rip), %r8
	movq	DIRECT_ROOT(%rbx), %rax
	movl	DIRECT_RECORD(%rbx), %ecx
	movq	DIRECT_GENERATION(%rbx), %rdx
	cmpq	%rdx, %gs:(%rcx)
	jne	4f
5:	movq	%rax, %cr3
	movq	%r8, dune_monitor_begin - WINDOW_MONITOR + WINDOW_LIFE_MONITOR + LIFE_SECONDS(%rip)
	xorl	%eax, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %fs
	movl	$MSR_NUMBER_FS_BASE, %ecx
	movl	DIRECT_FS_BASE(%rbx), %eax
	movl	DIRECT_FS_BASE + 4(%rbx), %edx
	wrmsr
	movq	%gs:STATE_ENTER, %r8
	movq	%rsi, %rdi
	movq	DIRECT_TRUSTED(%rbx), %rsi
	movq	DIRECT_STACK(%rbx), %rsp
	movq	DIRECT_AFTER(%rbx), %r12
	movq	DIRECT_ENTRY(%rbx), %rbx
	leaq	dune_monitor_begin - WINDOW_MONITOR + WINDOW_TRAMPOLINE + (dune_trampoline_direct_return - dune_trampoline_begin)(%rip), %r13
	swapgs
	xorl	%eax, %eax
	xorl	%edx, %edx
	movl	%eax, %gs
	incl	%ecx				/* the GS base */
	wrmsr
	movq	%r8, %rcx
	movl	$FLAGS_CLEAN, %r11d
	xorl	%ebp, %ebp
	xorl	%r8d, %r8d
	xorl	%r9d, %r9d
	xorl	%r10d, %r10d
	xorl	%r14d, %r14d
	xorl	%r15d, %r15d
	sysretq
1:	movl	$DIRECT_CLOSED, DIRECT_STATE(%rbx)	/* always safe: the supervisor opens it again */
2:	swapgs
3:	movl	$SERVICE_NUMBER_CALL, %eax
	outb	%al, $PORT_SERVICE
	ud2
4:	incl	%gs:STATE_FLUSHES
	btrq	$CR3_KEEP_BIT, %rax
	movq	%rdx, %gs:(%rcx)
	cmpl	%ecx, %gs:STATE_RECORD
	jne	5b
	btrq	$CR3_KEEP_BIT, %gs:STATE_ROOT	/* the caller's tag: until the next exit */
	movq	$0, %gs:(%rcx)
	jmp	5b

/*
 * The return.  Entry: as dune_monitor_syscall; RDI = result.
 * Exit, done: ring 3, the caller's root, at STATE_RESUME in the trampoline; RDI = result, RSP = the caller's, RCX = RIP,
 *     R11 = flags, all others 0; selectors 0, FS and GS base the caller's.  The target is open again, or closed if the
 *     supervisor has asked for it (its state was changed).
 * Exit, not done (no call is under way: the supervisor has taken it over): to the supervisor as SERVICE_NUMBER_RETURN,
 *     with all registers but RAX and RBX as they came.
 */
	.balign 16
dune_monitor_direct_return:
	swapgs
	movq	%gs:STATE_TARGET, %rbx
	testq	%rbx, %rbx
	jz	2f
	movq	%gs:STATE_ROOT, %rax
	movq	%rax, %cr3
	xorl	%eax, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %fs
	movq	%rax, %gs:STATE_TARGET
	movl	%gs:STATE_SELF, %eax
	movl	$DIRECT_OPEN, %ecx
	lock cmpxchgl %ecx, DIRECT_STATE(%rbx)	/* nothing of the target is in use here any more */
	je	1f
	movl	$DIRECT_CLOSED, DIRECT_STATE(%rbx)
1:	movq	%gs:STATE_STACK, %rsp
	movq	%gs:STATE_RESUME, %r9
	movq	%gs:STATE_GS_BASE, %r8
	movl	$MSR_NUMBER_FS_BASE, %ecx
	movl	%gs:STATE_FS_BASE, %eax
	movl	%gs:STATE_FS_BASE + 4, %edx
	wrmsr
	swapgs
	xorl	%eax, %eax
	movl	%eax, %gs
	incl	%ecx				/* the GS base */
	movl	%r8d, %eax
	movq	%r8, %rdx
	shrq	$32, %rdx
	wrmsr
	movq	%r9, %rcx
	movl	$FLAGS_CLEAN, %r11d
	xorl	%eax, %eax
	xorl	%edx, %edx
	xorl	%ebx, %ebx
	xorl	%esi, %esi
	xorl	%ebp, %ebp
	xorl	%r8d, %r8d
	xorl	%r9d, %r9d
	xorl	%r10d, %r10d
	xorl	%r12d, %r12d
	xorl	%r13d, %r13d
	xorl	%r14d, %r14d
	xorl	%r15d, %r15d
	sysretq
2:	swapgs
	movl	$SERVICE_NUMBER_RETURN, %eax
	outb	%al, $PORT_SERVICE
	ud2

/*
 * System-call entry where the program's own handler answers all calls, and ring 0 is native.
 * Entry: as dune_monitor_syscall.  One exit, no register changed.
 */
	.balign 16
dune_monitor_forward:
	outb	%al, $PORT_SYSTEM_CALL
	ud2

/*
 * Page-table edits.
 * Entry: ring 0 by the supervisor, page tables: the edit root.  RSI -> list of {address of entry, value} pairs in
 * this virtual CPU's area, RCX = how many (> 0), RDX = the root they belong to.
 * Stores each value, loads the root (which flushes what it had cached, under its tag) and exits.  Clobbers RAX, RDI, RSI, RCX.
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

/*
 * The same by exchange: the value of each pair becomes what the entry held.
 */
	.balign 16
dune_monitor_exchange:
	movq	(%rsi), %rdi
	movq	8(%rsi), %rax
	xchgq	%rax, (%rdi)
	movq	%rax, 8(%rsi)
	addq	$16, %rsi
	decl	%ecx
	jnz	dune_monitor_exchange
	movq	%rdx, %cr3
	outb	%al, $PORT_MONITOR
	ud2

/*
 * Writes to each entry what it holds, so that a host that shadows page tables looks at it.  The values are not used.
 * Clobbers RDI, RSI, RCX.
 */
	.balign 16
dune_monitor_refresh:
	movq	(%rsi), %rdi
	lock orq $0, (%rdi)
	addq	$16, %rsi
	decl	%ecx
	jnz	dune_monitor_refresh
	movq	%rdx, %cr3
	outb	%al, $PORT_MONITOR
	ud2

/*
 * For the three above where ring 0 is native, which loads roots cheaper than KVM does.
 * Entry: as theirs, but under any root; RAX = the edit root, RDI = which of them.  Loads it and goes on there.
 */
	.balign 16
dune_monitor_load:
	movq	%rax, %cr3
	jmpq	*%rdi

/*
 * Ring 3 under another root than the last, where ring 0 is native.
 * Entry: ring 0 by the supervisor, interrupts off, under any root; RAX = what CR3 becomes, CR2 = RAX of ring 3, all other
 *     general registers those of ring 3, selectors 0, FS and GS base those of ring 3;
 *     RSP -> RIP CS RFLAGS RSP SS of ring 3, end of the trap stack.
 * Exit: ring 3.  No register of it was in memory.
 */
	.balign 16
dune_monitor_enter:
	movq	%rax, %cr3
	movq	%cr2, %rax
	iretq
dune_monitor_end:

	.section .rodata.trampoline, "a", @progbits
	.hidden dune_trampoline_begin, dune_trampoline_enter, dune_trampoline_enter_fxsave, dune_trampoline_syscall, dune_trampoline_forward
	.hidden dune_trampoline_service, dune_trampoline_service_gate, dune_trampoline_resume, dune_trampoline_resume_clean, dune_trampoline_end
	.hidden dune_trampoline_resume_clean_fxsave, dune_trampoline_time, dune_trampoline_clock, dune_trampoline_day, dune_trampoline_counter, dune_trampoline_touch, dune_trampoline_call
	.globl dune_trampoline_begin, dune_trampoline_enter, dune_trampoline_enter_fxsave, dune_trampoline_syscall, dune_trampoline_forward
	.globl dune_trampoline_service, dune_trampoline_service_gate, dune_trampoline_resume, dune_trampoline_resume_clean, dune_trampoline_end
	.globl dune_trampoline_resume_clean_fxsave, dune_trampoline_time, dune_trampoline_clock, dune_trampoline_day, dune_trampoline_counter, dune_trampoline_touch, dune_trampoline_call
	.hidden dune_trampoline_enter_direct, dune_trampoline_enter_direct_fxsave, dune_trampoline_direct_call
	.hidden dune_trampoline_direct_done, dune_trampoline_direct_done_fxsave, dune_trampoline_direct_back
	.hidden dune_trampoline_direct_store, dune_trampoline_direct_store_fxsave
	.globl dune_trampoline_enter_direct, dune_trampoline_enter_direct_fxsave, dune_trampoline_direct_call
	.globl dune_trampoline_direct_done, dune_trampoline_direct_done_fxsave, dune_trampoline_direct_back
	.globl dune_trampoline_direct_store, dune_trampoline_direct_store_fxsave
	.hidden dune_trampoline_random_copy, dune_trampoline_random_end
	.globl dune_trampoline_random_copy, dune_trampoline_random_end
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
	.macro direct	/* the target of a direct call begins as a life does, but for what SYSRET has left */
	xorl	%ecx, %ecx
	xorl	%r11d, %r11d
	.endm
dune_trampoline_enter_direct:
	direct
dune_trampoline_enter:
	life	xrstor64
	.balign 16
dune_trampoline_enter_direct_fxsave:
	direct
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
	cmpl	$NUMBER_GETRANDOM, %eax
	je	3f
2:	outb	%al, $PORT_SYSTEM_CALL
	ud2
1:	movl	dune_trampoline_begin - WINDOW_TRAMPOLINE + WINDOW_LIFE + LIFE_PROCESS_ID(%rip), %eax
	jmpq	*%rcx
/*
 * getrandom(): RDI = buffer, RSI = size.  Hands out bytes of struct dune_random while there are enough, and wipes them.
 * The copy loop counts RCX down, so RCX waits in `resume`.  Clobbers RCX and R11, as SYSCALL does; RAX = size.  No stack is
 * used: what lies below RSP is the caller's.  A fault at the buffer ends in the supervisor, which answers EFAULT.
 */
3:	movl	dune_trampoline_begin - WINDOW_TRAMPOLINE + WINDOW_RANDOM + RANDOM_LEFT(%rip), %r11d
	cmpq	%r11, %rsi
	ja	2b
	subl	%esi, %r11d
	movl	%r11d, dune_trampoline_begin - WINDOW_TRAMPOLINE + WINDOW_RANDOM + RANDOM_LEFT(%rip)
	movq	%rcx, dune_trampoline_begin - WINDOW_TRAMPOLINE + WINDOW_RANDOM + RANDOM_RESUME(%rip)
	leaq	dune_trampoline_begin - WINDOW_TRAMPOLINE + WINDOW_RANDOM + RANDOM_BYTES(%rip), %rax
	addq	%rax, %r11
	movl	%esi, %ecx
dune_trampoline_random_copy:
	jrcxz	4f
	movb	-1(%r11, %rcx), %al
	movb	%al, -1(%rdi, %rcx)
	movb	$0, -1(%r11, %rcx)
	decl	%ecx
	jmp	dune_trampoline_random_copy
dune_trampoline_random_end:
4:	movl	%esi, %eax
	movq	dune_trampoline_begin - WINDOW_TRAMPOLINE + WINDOW_RANDOM + RANDOM_RESUME(%rip), %rcx
	jmpq	*%rcx

/* The same where the program's own handler answers all calls. */
	.balign 16
dune_trampoline_forward:
	outb	%al, $PORT_SYSTEM_CALL
	ud2

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
 * Calls of gates where ring 0 is native: RDI = gate, RSI = argument, RDX = where the result goes, or 0; the answer comes
 * in RAX.  Called by CALL.  Ring 0 either makes the call, and the caller goes on at dune_trampoline_direct_done; or
 * it asks the supervisor, which answers as it answers every service, by a RET.  Callee-saved registers and flags are on
 * the caller's own stack meanwhile, everything else is lost.
 * Stack at SYSCALL: RSP -> [dune_trampoline_direct_back] [where the result goes] [flags] R15 R14 R13 R12 RBP RBX
 *     [return address]
 */
	.balign 16
dune_trampoline_direct_call:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	pushfq
	pushq	%rdx
	leaq	dune_trampoline_direct_back(%rip), %rcx
	pushq	%rcx
	movl	$NUMBER_DIRECT_CALL, %eax
	syscall
	ud2
dune_trampoline_direct_back:
	addq	$8, %rsp
	popfq
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	retq
/* RDI = result, stack as above.  The store is the caller's own: if it faults the supervisor answers EFAULT. */
	.macro done instruction label
	clean_state \instruction
	movq	8(%rsp), %rcx
	testq	%rcx, %rcx
	jz	1f
\label:	movq	%rdi, (%rcx)
1:	retq
	.endm
	.balign 16
dune_trampoline_direct_done:
	done	xrstor64 dune_trampoline_direct_store
	.balign 16
dune_trampoline_direct_done_fxsave:
	done	fxrstor64 dune_trampoline_direct_store_fxsave
/* The end of a target: RDI = result. */
	.balign 16
dune_trampoline_direct_return:
	movl	$NUMBER_DIRECT_RETURN, %eax
	syscall
	ud2

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

/*
 * clock_gettime(2) and gettimeofday(2) as the replaced vDSO has them, for CLOCK_REALTIME and CLOCK_MONOTONIC and their
 * coarse forms: EDI = clock, RSI = where; RDI = where, RSI = 0.  Clobber what a C function may.
 * The time is that of the entry and what the counter says has passed since (kvm/clock.h).  A reading that an exit has
 * interrupted begins anew: what the page says has changed then.  Where the page has no clock, the counter is not where it
 * could be, or something else is asked for, the call is made.
 */
	/* RAX = time in nanoseconds; R8 = index of the clock; goes to label 8 if that is not known. */
	.macro read_clock
	leaq	dune_trampoline_begin - WINDOW_TRAMPOLINE + WINDOW_LIFE(%rip), %r9
1:	movq	LIFE_CLOCK_ENTRIES(%r9), %r10
	movq	LIFE_CLOCK_MULTIPLIER(%r9), %rcx
	testq	%rcx, %rcx
	jz	8f
	movq	LIFE_CLOCK_BASE(%r9, %r8, 8), %r11
	lfence
	rdtsc
	shlq	$32, %rdx
	orq	%rdx, %rax
	subq	LIFE_CLOCK_COUNTER(%r9), %rax
	movq	%rax, %rdx
	shrq	$32, %rdx			/* not before the entry, nor seconds after it */
	jnz	8f
	mulq	%rcx
	shrdq	$32, %rdx, %rax
	addq	%r11, %rax
	cmpq	%r10, LIFE_CLOCK_ENTRIES(%r9)
	jne	1b
	.endm
	.balign 16
dune_trampoline_clock:
	movl	%edi, %r8d
	cmpl	$1, %edi
	jbe	2f
	subl	$5, %r8d			/* the coarse clocks follow each other as these do */
	cmpl	$1, %r8d
	ja	8f
2:	read_clock
	xorl	%edx, %edx
	movl	$1000000000, %ecx
	divq	%rcx
	movq	%rax, (%rsi)
	movq	%rdx, 8(%rsi)
	xorl	%eax, %eax
	retq
8:	movl	$NUMBER_CLOCK_GETTIME, %eax
	syscall
	retq
	.balign 16
dune_trampoline_day:
	testq	%rsi, %rsi
	jnz	8f
	testq	%rdi, %rdi
	jz	8f
	xorl	%r8d, %r8d
	read_clock
	xorl	%edx, %edx
	movl	$1000000000, %ecx
	divq	%rcx
	movq	%rax, (%rdi)
	movq	%rdx, %rax
	xorl	%edx, %edx
	movl	$1000, %ecx
	divq	%rcx
	movq	%rax, 8(%rdi)
	xorl	%eax, %eax
	retq
8:	movl	$NUMBER_GETTIMEOFDAY, %eax
	syscall
	retq

/* For probing only: asks for service 0 with RDI = the counter. */
	.balign 16
dune_trampoline_counter:
	rdtsc
	shlq	$32, %rdx
	leaq	(%rdx, %rax), %rdi
	movq	$-1, %rax
	jmpq	*%r13

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
