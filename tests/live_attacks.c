/* live_attacks.c - instructions and jumps that an attacker tries: each ends its own life, exactly as told. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum {
	PAGE = 4096
};

/* ---- instructions ------------------------------------------------------------------------------------------------ */

#define ATTACK(name, ...)                      \
	static void *name(void *argument)      \
	{                                      \
		__asm__ volatile(__VA_ARGS__); \
		return argument;               \
	}
#define CLOBBERS "rax", "rbx", "rcx", "rdx", "memory", "cc"

static uint64_t scratch[64] __attribute__((aligned(64)));

ATTACK(try_hlt, "hlt" ::: CLOBBERS)
ATTACK(try_cli, "cli" ::: CLOBBERS)
ATTACK(try_sti, "sti" ::: CLOBBERS)
ATTACK(try_rdmsr, "movl $0xc0000082, %%ecx; rdmsr" ::: CLOBBERS)
ATTACK(try_wrmsr, "movl $0xc0000082, %%ecx; xorl %%eax, %%eax; xorl %%edx, %%edx; wrmsr" ::: CLOBBERS)
ATTACK(try_read_cr0, "movq %%cr0, %%rax" ::: CLOBBERS)
ATTACK(try_write_cr0, "movl $0x80050033, %%eax; movq %%rax, %%cr0" ::: CLOBBERS)
ATTACK(try_read_cr3, "movq %%cr3, %%rax" ::: CLOBBERS)
ATTACK(try_write_cr3, "xorl %%eax, %%eax; movq %%rax, %%cr3" ::: CLOBBERS)
ATTACK(try_write_cr4, "xorl %%eax, %%eax; movq %%rax, %%cr4" ::: CLOBBERS)
ATTACK(try_write_cr8, "xorl %%eax, %%eax; movq %%rax, %%cr8" ::: CLOBBERS)
ATTACK(try_read_dr7, "movq %%dr7, %%rax" ::: CLOBBERS)
ATTACK(try_write_dr7, "movl $0x401, %%eax; movq %%rax, %%dr7" ::: CLOBBERS)
ATTACK(try_lgdt, "lgdt %0" : "+m"(scratch)::CLOBBERS)
ATTACK(try_lidt, "lidt %0" : "+m"(scratch)::CLOBBERS)
ATTACK(try_lldt, "xorl %%eax, %%eax; lldt %%ax" ::: CLOBBERS)
ATTACK(try_ltr, "movl $0x40, %%eax; ltr %%ax" ::: CLOBBERS)
ATTACK(try_invlpg, "invlpg %0" : "+m"(scratch)::CLOBBERS)
ATTACK(try_invd, "invd" ::: CLOBBERS)
ATTACK(try_wbinvd, "wbinvd" ::: CLOBBERS)
ATTACK(try_clts, "clts" ::: CLOBBERS)
ATTACK(try_lmsw, "movl $1, %%eax; lmsw %%ax" ::: CLOBBERS)
ATTACK(try_swapgs, "swapgs" ::: CLOBBERS)
ATTACK(try_sysretq, "leaq 1f(%%rip), %%rcx; movl $0x3202, %%r11d; sysretq; 1:" ::: CLOBBERS, "r11")
ATTACK(try_xsetbv, "xorl %%ecx, %%ecx; movl $3, %%eax; xorl %%edx, %%edx; xsetbv" ::: CLOBBERS)
ATTACK(try_sidt, "sidt %0" : "+m"(scratch)::CLOBBERS)
ATTACK(try_sgdt, "sgdt %0" : "+m"(scratch)::CLOBBERS)
ATTACK(try_sldt, "sldt %%rax" ::: CLOBBERS)
ATTACK(try_str, "str %%rax" ::: CLOBBERS)
ATTACK(try_smsw, "smsw %%rax" ::: CLOBBERS)
ATTACK(try_int3, "int3" ::: CLOBBERS)
ATTACK(try_icebp, ".byte 0xf1" ::: CLOBBERS)
ATTACK(try_int80, "movl $1, %%eax; int $0x80" ::: CLOBBERS)
ATTACK(try_int14, "int $14" ::: CLOBBERS)
ATTACK(try_int2, "int $2" ::: CLOBBERS)
ATTACK(try_int33, "int $33" ::: CLOBBERS)
ATTACK(try_ud2, "ud2" ::: CLOBBERS)
ATTACK(try_divide, "xorl %%ecx, %%ecx; movl $1, %%eax; xorl %%edx, %%edx; divl %%ecx" ::: CLOBBERS)
ATTACK(try_single_step, "pushfq; orq $0x100, (%%rsp); popfq; nop; nop" ::: CLOBBERS)
ATTACK(try_alignment, "pushfq; orq $0x40000, (%%rsp); popfq; movl 1+%0, %%eax" : "+m"(scratch)::CLOBBERS)
ATTACK(try_no_stack, "xorl %%esp, %%esp; ud2" ::: CLOBBERS)
ATTACK(try_wild_stack, "movabsq $0x8000000000000000, %%rsp; int3" ::: CLOBBERS)

static void *try_kernel_stack(void *window)
{
	__asm__ volatile("movq %0, %%rsp; int3" ::"r"((char *)window + WINDOW_PROCESSORS + 2 * PAGE) : "memory");
	return NULL;
}

static const struct {
	const char *name;
	stcb_t body;
	int vector, error_code;
} instructions[] = {
	{ "hlt", try_hlt, GENERAL_PROTECTION, 0 },
	{ "cli", try_cli, GENERAL_PROTECTION, 0 },
	{ "sti", try_sti, GENERAL_PROTECTION, 0 },
	{ "rdmsr", try_rdmsr, GENERAL_PROTECTION, 0 },
	{ "wrmsr", try_wrmsr, GENERAL_PROTECTION, 0 },
	{ "mov cr0, rax", try_read_cr0, GENERAL_PROTECTION, 0 },
	{ "mov rax, cr0", try_write_cr0, GENERAL_PROTECTION, 0 },
	{ "mov cr3, rax", try_read_cr3, GENERAL_PROTECTION, 0 },
	{ "mov rax, cr3", try_write_cr3, GENERAL_PROTECTION, 0 },
	{ "mov rax, cr4", try_write_cr4, GENERAL_PROTECTION, 0 },
	{ "mov rax, cr8", try_write_cr8, GENERAL_PROTECTION, 0 },
	{ "mov dr7, rax", try_read_dr7, GENERAL_PROTECTION, 0 },
	{ "mov rax, dr7", try_write_dr7, GENERAL_PROTECTION, 0 },
	{ "lgdt", try_lgdt, GENERAL_PROTECTION, 0 },
	{ "lidt", try_lidt, GENERAL_PROTECTION, 0 },
	{ "lldt", try_lldt, GENERAL_PROTECTION, 0 },
	{ "ltr", try_ltr, GENERAL_PROTECTION, 0 },
	{ "invlpg", try_invlpg, GENERAL_PROTECTION, 0 },
	{ "invd", try_invd, GENERAL_PROTECTION, 0 },
	{ "wbinvd", try_wbinvd, GENERAL_PROTECTION, 0 },
	{ "clts", try_clts, GENERAL_PROTECTION, 0 },
	{ "lmsw", try_lmsw, GENERAL_PROTECTION, 0 },
	{ "swapgs", try_swapgs, GENERAL_PROTECTION, 0 },
	{ "sysretq", try_sysretq, GENERAL_PROTECTION, 0 },
	{ "xsetbv", try_xsetbv, GENERAL_PROTECTION, 0 },
	{ "int3", try_int3, BREAKPOINT, 0 },
	{ "icebp", try_icebp, DEBUG_TRAP, 0 },
	{ "int 0x80", try_int80, GENERAL_PROTECTION, 0x80 * 8 + 2 },
	{ "int 14", try_int14, GENERAL_PROTECTION, 14 * 8 + 2 },
	{ "int 2", try_int2, GENERAL_PROTECTION, 2 * 8 + 2 },
	{ "int 33", try_int33, GENERAL_PROTECTION, 33 * 8 + 2 },
	{ "ud2", try_ud2, INVALID_OPCODE, 0 },
	{ "div by 0", try_divide, DIVIDE_ERROR, 0 },
	{ "single step", try_single_step, DEBUG_TRAP, 0 },
	{ "misaligned access with AC", try_alignment, ALIGNMENT_CHECK, 0 },
	{ "ud2 without a stack", try_no_stack, INVALID_OPCODE, 0 },
	{ "int3 on a wild stack", try_wild_stack, BREAKPOINT, 0 },
	{ "int3 on the monitor's stack", try_kernel_stack, BREAKPOINT, 0 },
};

static void check_instruction(const char *name, stcb_t body, int vector, int error_code)
{
	if (vector == ALIGNMENT_CHECK && live_emulated_amd())
		return;
	struct life life = live_run_bare(body, (void *)live_window());
	const struct sthread_info *info = &life.info;

	bool as_told = (int)info->vector == vector && (int)info->error_code == error_code;

	/* An interpreted ring 0 does not know software interrupts. */
	if (vector == GENERAL_PROTECTION && error_code && !live_ring0_native())
		as_told = as_told || info->vector == INVALID_OPCODE;
	/* A processor without XSAVE does not know XSETBV. */
	if (body == try_xsetbv)
		as_told = as_told || info->vector == INVALID_OPCODE;
	if (live_emulated_amd())
		as_told = as_told ||
			  (vector == GENERAL_PROTECTION && error_code && info->vector == GENERAL_PROTECTION) ||
			  (vector == DEBUG_TRAP && info->vector == INVALID_OPCODE);
	live_check(life.error == ECANCELED && info->end == STHREAD_FAULTED && as_told, __FILE__, __LINE__,
		   "%s ends with vector %d, error code %#x (end %d, vector %u, error code %#llx, errno %d)", name,
		   vector, error_code, (int)info->end, info->vector, (unsigned long long)info->error_code, life.error);
	life = live_run_bare(body_nothing, (void *)0x42);
	live_check(life.error == 0 && life.value == (void *)0x42, __FILE__, __LINE__, "life goes on after %s", name);
}

static void privileged_instructions(void)
{
	live_init();
	for (size_t i = 0; i < sizeof(instructions) / sizeof(*instructions); i++)
		check_instruction(instructions[i].name, instructions[i].body, instructions[i].vector,
				  instructions[i].error_code);
}

static void descriptor_tables(void)
{
	static const stcb_t bodies[] = { try_sidt, try_sgdt, try_sldt, try_str };
	struct life life;

	live_init();
	if (!live_umip())
		HARNESS_SKIP("this processor has no UMIP");
	for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++)
		check_instruction("sidt, sgdt, sldt, str", bodies[i], GENERAL_PROTECTION, 0);
	/* Where KVM stands in for the processor, SMSW still tells the low half of CR0, which is the same for all. */
	life = live_run_bare(try_smsw, NULL);
	if (life.error)
		ASSERT_EXCEPTION(life, GENERAL_PROTECTION, 0);
}

ATTACK(try_sysenter, "movl $39, %%eax; sysenter" ::: CLOBBERS)
ATTACK(try_sysexit, "sysexitl" ::: CLOBBERS)
ATTACK(try_vmrun, "vmrun" ::: CLOBBERS)
ATTACK(try_vmxoff, "vmxoff" ::: CLOBBERS)
ATTACK(try_rsm, "rsm" ::: CLOBBERS)
ATTACK(try_clgi, "clgi" ::: CLOBBERS)
ATTACK(try_mwait, "xorl %%eax, %%eax; xorl %%ecx, %%ecx; mwait" ::: CLOBBERS)

/* Where vendors differ about the exception. */
static void other_entries(void)
{
	static const stcb_t bodies[] = {
		try_sysenter, try_sysexit, try_vmrun, try_vmxoff, try_rsm, try_clgi, try_mwait
	};

	live_init();
	for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++) {
		struct life life = live_run_bare(bodies[i], NULL);

		ASSERT_END(life, STHREAD_FAULTED);
		live_check(life.info.vector == GENERAL_PROTECTION || life.info.vector == INVALID_OPCODE, __FILE__,
			   __LINE__, "attack %zu: vector %u", i, life.info.vector);
	}
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)7), 7);
}

static void *try_vmcall(void *number)
{
	uint64_t answer = (uint64_t)number;

	__asm__ volatile("vmcall" : "+a"(answer) : "b"(0), "c"(0), "d"(0) : "memory");
	return (void *)answer;
}

static void *try_vmmcall(void *number)
{
	uint64_t answer = (uint64_t)number;

	__asm__ volatile("vmmcall" : "+a"(answer) : "b"(0), "c"(0), "d"(0) : "memory");
	return (void *)answer;
}

/* KVM refuses them from ring 3, or they are not known, or KVM wants to replace the other vendor's instruction by its own:
 * that is a store with the compartment's rights, and text cannot be written. */
static void hypercalls(void)
{
	live_init();
	for (uintptr_t number = 0; number < 16; number++) {
		static const stcb_t bodies[] = { try_vmcall, try_vmmcall };

		for (int i = 0; i < 2; i++) {
			struct life life = live_run_bare(bodies[i], (void *)number);
			bool refused = !life.error && (long)life.value < 0;

			bool faulted = life.info.end == STHREAD_FAULTED &&
				       (life.info.vector == INVALID_OPCODE || life.info.vector == GENERAL_PROTECTION);
			bool not_patched = life.info.end == STHREAD_FAULTED && life.info.vector == PAGE_FAULT &&
					   life.info.error_code == WRITE_DENIED &&
					   life.info.address == life.info.instruction;

			live_check(refused || faulted || not_patched, __FILE__, __LINE__,
				   "hypercall %d is refused (end %d, vector %u, value %p)", (int)number,
				   (int)life.info.end, life.info.vector, life.value);
		}
	}
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)7), 7);
}

/* ---- selectors --------------------------------------------------------------------------------------------------- */

/* Far return to a selector; there, where 32-bit code would have SYSCALL as well, a system call.  Above the frame lies
 * what a return to another level would take as RSP and SS. */
static void *far_return(void *selector)
{
	uint64_t number = 39, saved = 0;

	__asm__ volatile(
		"movq %%rsp, %2; leaq 1f(%%rip), %%rdx; pushq $0x18; pushq %2; pushq %1; pushq %%rdx; lretq; 1: syscall;"
		"movq %2, %%rsp"
		: "+a"(number)
		: "b"((uint64_t)selector), "S"(saved)
		: "rdx", "rcx", "r11", "memory");
	return (void *)1;
}

static void *far_jump(void *selector)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) target = { 0x10000, (uint16_t)(uintptr_t)selector };

	__asm__ volatile("ljmpl *%0" ::"m"(target));
	return (void *)1;
}

static void *interrupt_return(void *selector)
{
	__asm__ volatile(
		"movq %%rsp, %%rcx; leaq 1f(%%rip), %%rdx; pushq $0x2b; pushq %%rcx; pushq $0x3202; pushq %0; pushq %%rdx;"
		"iretq; 1:" ::"r"((uint64_t)selector)
		: "rcx", "rdx", "memory", "cc");
	uint64_t flags;

	__asm__ volatile("pushfq; popq %0" : "=r"(flags));
	return (void *)(flags & 0x3000); /* IOPL */
}

static void *load_segment(void *selector)
{
	__asm__ volatile("movw %%ax, %%ds; movw %%ax, %%es" ::"a"(selector) : "memory");
	return (void *)1;
}

/* #GP or #NP (or #UD, where ring 0 is interpreted) naming the selector, or nothing of it. */
static void check_selector(struct life life, const char *what, uintptr_t selector)
{
	enum {
		SEGMENT_NOT_PRESENT = 11
	};
	const struct sthread_info *info = &life.info;
	bool exact = info->vector == GENERAL_PROTECTION && info->error_code == (selector & 0xfffc);
	bool interpreted = info->vector == GENERAL_PROTECTION || info->vector == SEGMENT_NOT_PRESENT ||
			   info->vector == INVALID_OPCODE;

	live_check(life.error == ECANCELED && info->end == STHREAD_FAULTED &&
			   (exact || (!live_ring0_native() && interpreted)),
		   __FILE__, __LINE__, "%s to %#lx is refused (end %d, vector %u, error code %#llx, address %#llx)",
		   what, selector, (int)info->end, info->vector, (unsigned long long)info->error_code,
		   (unsigned long long)info->address);
	live_check(info->instruction < DUNE_USER_END, __FILE__, __LINE__, "%s to %#lx: stays among its own addresses",
		   what, selector);
}

static void selectors(void)
{
	static const uintptr_t not_code[] = { 0x23, 0x20, 0x1b, 0x2b, 0x10, 0x13,  0x18,
					      0x40, 0x43, 0x07, 0x4b, 0x53, 0xfffb };

	live_init();
	for (size_t i = 0; i < sizeof(not_code) / sizeof(*not_code); i++) {
		uintptr_t selector = not_code[i];

		check_selector(live_run_bare(far_jump, (void *)selector), "far jump", selector);
		if (live_emulated_amd())
			continue;
		check_selector(live_run_bare(far_return, (void *)selector), "far return", selector);
		check_selector(live_run_bare(interrupt_return, (void *)selector), "iretq", selector);
	}
	ASSERT_EXCEPTION(live_run_bare(load_segment, (void *)0x10), GENERAL_PROTECTION, 0x10);
	ASSERT_EXCEPTION(live_run_bare(load_segment, (void *)0x18), GENERAL_PROTECTION, 0x18);
	ASSERT_EXCEPTION(live_run_bare(load_segment, (void *)0x07), GENERAL_PROTECTION, 0x04);
	/* With the right selector they work, but do not raise IOPL. */
	ASSERT_RETURNED(live_run_bare(load_segment, (void *)0x2b), 1);
	if (live_emulated_amd()) {
		harness_note(
			"far and interrupt returns were not tried: the emulated processor cannot do them under SMAP");
		return;
	}
	ASSERT_RETURNED(live_run_bare(far_return, (void *)0x33), 1);
	ASSERT_RETURNED(live_run_bare(interrupt_return, (void *)0x33), 0);
}

/* ---- the system call entry --------------------------------------------------------------------------------------- */

struct forged {
	uint64_t target, rax, rcx, r11;
	uint64_t flags; /* afterwards, at the program's own address */
};

/* Jumps to target with these registers; RCX 0 stands for the instruction after the jump. */
static void *jump_forged(void *argument)
{
	struct forged *forged = argument;
	uint64_t flags;

	__asm__ volatile("leaq 1f(%%rip), %%rdx\n\t"
			 "movq 16(%1), %%rcx\n\t"
			 "testq %%rcx, %%rcx\n\t"
			 "cmovzq %%rdx, %%rcx\n\t"
			 "movq 24(%1), %%r11\n\t"
			 "movq 8(%1), %%rax\n\t"
			 "jmpq *(%1)\n"
			 "1:\tpushfq\n\tpopq %0"
			 : "=r"(flags)
			 : "b"(argument)
			 : "rax", "rcx", "rdx", "r11", "rdi", "rsi", "memory", "cc");
	forged->flags = flags;
	return (void *)1;
}

static void forged_entry(void)
{
	enum {
		IOPL_AND_MORE = 0x3302 | 1 << 14 | 1 << 17
	};

	live_init();

	const struct dune_machine *machine = supervisor.machine;
	uint64_t entry = live_ring0_native() ?
				 machine->window + WINDOW_MONITOR + (dune_monitor_syscall - dune_monitor_begin) :
				 machine->trampoline_syscall;
	tag_t tag = tag_new();
	struct forged *forged = smalloc(tag, sizeof(*forged));
	sc_t sc;

	sc_init(&sc);
	sc_mem_add(&sc, tag, PROT_READ | PROT_WRITE);
	*forged = (struct forged){ .target = entry, .rax = SYS_sched_yield };
	if (live_ring0_native()) {
		ASSERT_PAGE_FAULT(live_run(&sc, jump_forged, forged), EXECUTE_DENIED, entry);
		return;
	}
	ASSERT_RETURNED(live_run(&sc, jump_forged, forged), 1); /* the control: an honest return address */
	for (uint64_t number = 0; number < 2; number++) {
		uint64_t call = number ? SYS_getpid : SYS_sched_yield;

		*forged = (struct forged){ .target = entry, .rax = call, .r11 = IOPL_AND_MORE };
		ASSERT_RETURNED(live_run(&sc, jump_forged, forged), 1);
		ASSERT_EQUAL(forged->flags & 0x3100 & ~0x200, 0);
		*forged = (struct forged){ .target = entry, .rax = call, .rcx = 0x800000000000, .r11 = IOPL_AND_MORE };
		ASSERT_EXCEPTION(live_run(&sc, jump_forged, forged), GENERAL_PROTECTION, 0);
		forged->rcx = 0xffff7fffffffffff;
		ASSERT_EXCEPTION(live_run(&sc, jump_forged, forged), GENERAL_PROTECTION, 0);
		forged->rcx = live_window() + WINDOW_MONITOR;
		ASSERT_PAGE_FAULT(live_run(&sc, jump_forged, forged), EXECUTE_DENIED, forged->rcx);
		forged->rcx = (uint64_t)forged;
		ASSERT_PAGE_FAULT(live_run(&sc, jump_forged, forged), EXECUTE_DENIED, forged);
		forged->rcx = 0x1000;
		ASSERT_PAGE_FAULT(live_run(&sc, jump_forged, forged), EXECUTE_ABSENT, 0x1000);
		forged->rcx = 0xffffffff81000000;
		struct life life = live_run(&sc, jump_forged, forged);

		if (number)
			ASSERT_PAGE_FAULT(life, EXECUTE_ABSENT, forged->rcx);
		else
			ASSERT_EXCEPTION(life, GENERAL_PROTECTION, 0);
		ASSERT_EQUAL(life.info.instruction, forged->rcx);
	}
}

/* OUT from the program's own text, with registers that the library would never have. */
static void *out_forged(void *argument)
{
	__asm__ volatile(
		"pushq %%rbx; pushq %%rbp; movq 8(%%rdi), %%rax; movq 16(%%rdi), %%rcx; movq 24(%%rdi), %%r11; movq (%%rdi), %%rdx;"
		"movq $-1, %%rdi; movq $-1, %%rsi; movq $-1, %%r8; movq $-1, %%r10; leaq 1f(%%rip), %%rbx; pushq %%rbx;"
		"outb %%al, %%dx; 1: popq %%rbp; popq %%rbx"
		: "+D"(argument)
		:
		: "rax", "rcx", "rdx", "rsi", "r8", "r10", "r11", "memory", "cc");
	return (void *)2;
}

static void forged_services(void)
{
	live_init();
	if (!live_io_exit())
		HARNESS_SKIP("no port is open to ring 3 on this host");

	tag_t tag = tag_new();
	struct forged *forged = smalloc(tag, sizeof(*forged));
	sc_t sc;

	sc_init(&sc);
	sc_mem_add(&sc, tag, PROT_READ | PROT_WRITE);
	/* The system call port: goes on where RCX says, or nowhere. */
	*forged = (struct forged){ .target = PORT_SYSTEM_CALL, .rax = SYS_sched_yield, .rcx = 0x800000000000 };
	ASSERT_EXCEPTION(live_run(&sc, out_forged, forged), GENERAL_PROTECTION, 0);
	forged->rcx = live_window() + WINDOW_MONITOR + 0x200;
	ASSERT_PAGE_FAULT(live_run(&sc, out_forged, forged), EXECUTE_DENIED, forged->rcx);
	/* The service port: every number, all arguments wild; number 0 is the end of the life. */
	for (uint64_t service = 1; service < 300; service++) {
		*forged = (struct forged){ .target = PORT_SERVICE, .rax = service < 200 ? service : -service };
		if (service == SERVICE_PARK)
			continue;
		ASSERT_RETURNED(live_run(&sc, out_forged, forged), 2);
	}
	*forged = (struct forged){ .target = PORT_SERVICE, .rax = SERVICE_RETURN };
	ASSERT_RETURNED(live_run(&sc, out_forged, forged), UINT64_MAX);
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)7), 7);
}

/* A system call as the last instruction of the user's addresses. */
static void last_instruction(void)
{
	uint8_t *last = (uint8_t *)0x7fffffffe000;
	uint8_t *at =
		mmap(last, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (at != last)
		HARNESS_SKIP("the last page of the address space is taken");
	memset(last, 0x90, PAGE);
	memcpy(last + PAGE - 7, "\xb8\x18\x00\x00\x00\x0f\x05", 7); /* movl $SYS_sched_yield, %eax; syscall */
	mprotect(last, PAGE, PROT_READ | PROT_EXEC);
	live_init();
	ASSERT_PAGE_FAULT(live_run_bare(body_jump, last + PAGE - 7), EXECUTE_ABSENT, last + PAGE);
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)7), 7);
}

static const struct harness_test tests[] = {
	{ "privileged instructions and traps end the sthread that made them, told exactly", privileged_instructions,
	  HARNESS_FORK },
	{ "where there is UMIP, descriptor tables cannot be read", descriptor_tables, HARNESS_FORK },
	{ "no other entry into ring 0 works", other_entries, HARNESS_FORK },
	{ "hypercalls are refused", hypercalls, HARNESS_FORK },
	{ "only the 64-bit user code selector can be returned to, and not with IOPL", selectors, HARNESS_FORK },
	{ "a jump to the system call entry with forged registers gains nothing", forged_entry, HARNESS_FORK },
	{ "the exits used with forged registers gain nothing", forged_services, HARNESS_FORK },
	{ "a system call at the end of the user's addresses returns to nothing", last_instruction, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
