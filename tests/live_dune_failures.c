/*
 * live_dune_failures.c - guest placement of Dune: whatever goes wrong in ring 0 ends with a message and a returned error or
 * the end of the process, never with silence or a hang.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dune_guest.h"
#include "kvm/mirror.h"

enum {
	PAGE = 4096
};
#define GIB ((size_t)1 << 30)

/* Each case runs in a process that has not called dune_init(). */
static bool possible(void)
{
	struct dune_host host;
	CU_ASSERT_EQUAL_FATAL(dune_probe(&host), 0);
	if (!host.ring0_native)
		harness_skip("no guest placement: ring 0 is interpreted here");
	return host.ring0_native;
}

static void must(bool good, const char *what)
{
	if (good)
		return;
	dune_printf("not done: %s: %s\n", what, dune_error());
	_exit(99);
}

static void init(void)
{
	struct rlimit none = { 0, 0 };
	setrlimit(RLIMIT_CORE, &none);
	must(dune_set_placement(DUNE_PLACEMENT_GUEST) == 0, "placement");
	must(dune_init(true) == 0, "dune_init()");
}

static void begin(void)
{
	init();
	must(dune_enter() == 0, "dune_enter()");
}

/* Runs it; checks that the process died of the signal, and that its message has all these parts (NULL: no more). */
static void dies(void (*body)(void *unused), int number, const char *const parts[])
{
	char text[8192];
	int status = guest_child_text(body, NULL, text, sizeof text);
	bool good = guest_killed(status, number);
	for (unsigned i = 0; parts[i]; i++)
		if (!strstr(text, parts[i])) {
			harness_note("the message has no \"%s\"", parts[i]);
			good = false;
		}
	if (!good)
		harness_note("message: %.600s", text);
	CU_ASSERT(good);
}
#define DIES(body, number, ...) dies((body), (number), (const char *const[]){ __VA_ARGS__, NULL })

/* ---- exceptions ------------------------------------------------------------------------------------ */

__attribute__((noinline)) static void write_low(void *unused)
{
	begin();
	*(volatile uint8_t *)0x8123 = 1;
	must(unused != NULL, "fault");
}

static void undefined(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("ud2");
}

static void divide(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("xorl %%ecx, %%ecx; movl $1, %%eax; cltd; idivl %%ecx" ::: "rax", "rcx", "rdx");
}

static void exceptions_that_nobody_handles_are_reported(void)
{
	if (!possible())
		return;
	DIES(write_low, SIGSEGV, "vector 14", "page fault", "write", "write_low", "0x8123 (CR2)");
	DIES(undefined, SIGILL, "vector 6", "undefined+");
	DIES(divide, SIGFPE, "vector 0", "divide+");
}

static void fault_again(uintptr_t address, uint64_t error_code, struct dune_tf *tf)
{
	(void)address, (void)error_code, (void)tf;
	*(volatile uint8_t *)0x8000 = 1;
}

static void handler_faults(void *unused)
{
	(void)unused;
	begin();
	dune_register_pgflt_handler(fault_again);
	*(volatile uint8_t *)0x8000 = 1;
}

static void undefined_again(struct dune_tf *tf)
{
	(void)tf;
	__asm__ volatile("ud2");
}

static void other_handler_faults(void *unused)
{
	(void)unused;
	begin();
	must(dune_register_intr_handler(T_ILLOP, undefined_again) == 0, "handler");
	__asm__ volatile("ud2");
}

static volatile unsigned depth;

__attribute__((noinline)) static unsigned overflow(unsigned level)
{
	volatile uint8_t block[2000];
	block[level % sizeof block] = (uint8_t)level;
	depth = level;
	return depth == level ? overflow(level + 1) + block[level % sizeof block] : 0;
}

static void stack_overflows(void *unused)
{
	(void)unused;
	begin();
	overflow(0);
}

static void stack_is_no_address(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("movabsq $0x1234567812345678, %%rsp; pushq $1" ::: "memory");
}

static void stack_is_nowhere(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("movl $0x9000, %%esp; pushq $1" ::: "memory");
}

static void stacks_that_are_used_up_are_reported(void)
{
	if (!possible())
		return;
	/* Where the stack ends is often in the entry code. */
	DIES(handler_faults, SIGSEGV, "no stack", "vector 14", "CR2");
	DIES(other_handler_faults, SIGSEGV, "no stack", "vector ");
	DIES(stack_overflows, SIGSEGV, "no stack", "vector 14", "overflow");
	DIES(stack_is_no_address, SIGSEGV, "no stack", "stack_is_no_address");
	DIES(stack_is_nowhere, SIGSEGV, "no stack", "stack_is_nowhere");
}

/* ---- the processor --------------------------------------------------------------------------------- */

static void no_descriptors(void *unused)
{
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) nothing = { 0, 0 };
	(void)unused;
	begin();
	__asm__ volatile("lidt %0; ud2" ::"m"(nothing));
}

static void no_segments(void *unused)
{
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) nothing = { 0, 0 };
	(void)unused;
	begin();
	__asm__ volatile("lgdt %0; ud2" ::"m"(nothing));
}

static void jump_to_no_address(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("movabsq $0x1234567812345678, %%rax; jmpq *%%rax" ::: "rax");
}

static void jump_to_nothing(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("movl $0xa000, %%eax; callq *%%rax" ::: "rax");
}

static void halt_for_ever(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("cli; hlt");
}

static void halt(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("hlt");
}

static void read_port(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("inb $0x80, %%al" ::: "rax");
}

static void write_port(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("outl %%eax, $0x40" ::: "rax");
}

static void ask_for_something_unknown(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("movl $77, %%eax; outb %%al, $0x14" ::: "rax");
}

static void no_long_mode(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("movq %%cr0, %%rax; andl $0x7fffffff, %%eax; movq %%rax, %%cr0" ::: "rax");
}

static void interrupts_off_and_fault(void *unused)
{
	(void)unused;
	begin();
	__asm__ volatile("cli");
	*(volatile uint8_t *)0x8000 = 1;
}

static void root_of_zeros(void *unused)
{
	(void)unused;
	begin();
	struct page *page = dune_page_alloc();
	memset((void *)dune_page2pa(page), 0, PAGE);
	__asm__ volatile("movq %0, %%cr3" ::"r"(dune_page2pa(page)) : "memory");
}

static void root_that_is_none(void *unused)
{
	(void)unused;
	begin();
	load_cr3((unsigned long)pgroot + 8 * GIB);
}

static void root_nowhere(void *unused)
{
	(void)unused;
	begin();
	load_cr3(100 * GIB);
}

static void wild_instructions_are_reported(void)
{
	if (!possible())
		return;
	DIES(no_descriptors, SIGSEGV, "triple fault", "rip 0x"); /* some processors have lost their registers then */
	DIES(no_segments, SIGSEGV, "dune: ", "rip 0x");
	DIES(jump_to_no_address, SIGSEGV, "vector 13", "general protection");
	DIES(jump_to_nothing, SIGSEGV, "vector 14", "instruction fetch", "0xa000");
	DIES(halt_for_ever, SIGSEGV, "HLT", "halt_for_ever");
	DIES(halt, SIGSEGV, "HLT", "halt");
	DIES(read_port, SIGSEGV, "I/O port", "read_port");
	DIES(write_port, SIGSEGV, "I/O port", "write_port");
	DIES(ask_for_something_unknown, SIGSEGV, "unknown", "ask_for_something_unknown");
	DIES(no_long_mode, SIGSEGV, "dune: ", "no_long_mode");
	DIES(interrupts_off_and_fault, SIGSEGV, "vector 14", "interrupts_off_and_fault");
}

static void wild_roots_are_reported(void)
{
	if (!possible())
		return;
	DIES(root_of_zeros, SIGSEGV, "dune: ", "rip 0x");
	DIES(root_nowhere, SIGABRT, "load_cr3()");
	DIES(root_that_is_none, SIGABRT, "load_cr3()");
}

/* ---- address spaces -------------------------------------------------------------------------------- */

static void *page_of(const void *at)
{
	return (void *)((uintptr_t)at & -(uintptr_t)PAGE);
}

static void own_code_is_unmapped(void *unused)
{
	(void)unused;
	begin();
	dune_vm_unmap(pgroot, page_of(own_code_is_unmapped), PAGE);
	__asm__ volatile("ud2");
}

/* The code that unmaps needs what it unmaps, with the lock of address spaces held. */
static void code_under_the_lock_is_unmapped(void *unused)
{
	(void)unused;
	begin();
	uint8_t *text = page_of(dune_vm_unmap);
	dune_vm_unmap(pgroot, text - 64 * PAGE, 128 * PAGE);
	dune_vm_unmap(pgroot, text, PAGE);
}

static void stack_is_unmapped(void *unused)
{
	volatile uint8_t here = 1;
	(void)unused;
	begin();
	dune_vm_unmap(pgroot, (uint8_t *)page_of((const void *)&here) - 16 * PAGE, 32 * PAGE);
	dune_page_alloc();
}

static void everything_is_unmapped(void *unused)
{
	(void)unused;
	begin();
	/* Around libdune's own addresses, which are refused. */
	for (uintptr_t at = 0; at < (uintptr_t)1 << 47; at += GIB)
		if (dune_vm_unmap(pgroot, (void *)at, GIB) != 0 && errno != EINVAL)
			break;
	__asm__ volatile("ud2");
}

static void damaged_address_spaces_are_reported(void)
{
	if (!possible())
		return;
	DIES(own_code_is_unmapped, SIGSEGV, "dune: ", "vector 14", "instruction fetch");
	DIES(code_under_the_lock_is_unmapped, SIGSEGV, "dune: ", "vector 14");
	DIES(stack_is_unmapped, SIGSEGV, "dune: ", "rip 0x");
	DIES(everything_is_unmapped, SIGSEGV, "dune: ", "rip 0x");
}

/* ---- calls at the wrong time ----------------------------------------------------------------------- */

static void return_without_ring3(void *unused)
{
	(void)unused;
	begin();
	dune_ret_from_user(1);
}

static void return_in_host_mode(void *unused)
{
	(void)unused;
	init();
	dune_ret_from_user(1);
}

static void return_before_init(void *unused)
{
	struct rlimit none = { 0, 0 };
	setrlimit(RLIMIT_CORE, &none);
	(void)unused;
	dune_ret_from_user(1);
}

static void root_in_host_mode(void *unused)
{
	(void)unused;
	init();
	must(read_cr3() == (unsigned long)pgroot, "read_cr3()");
	dune_flush_tlb();
	dune_flush_tlb_one(0x1000);
	dune_flush_tlb_all();
	dune_invpcid(2, 0, 0);
	load_cr3((unsigned long)pgroot);
}

static void calls_at_the_wrong_time_say_so(void)
{
	if (!possible())
		return;
	DIES(return_without_ring3, SIGABRT, "dune_ret_from_user()");
	DIES(return_in_host_mode, SIGABRT, "dune_ret_from_user()");
	DIES(return_before_init, SIGABRT, "dune_init() comes first");
	DIES(root_in_host_mode, SIGABRT, "load_cr3()");
}

/* ---- what runs out --------------------------------------------------------------------------------- */

static uint8_t *far_page(unsigned i)
{
	uint8_t *at = mmap((void *)(0x200000000000 + i * 3 * GIB), PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(at != MAP_FAILED, "mmap()");
	return at;
}

__attribute__((noinline)) static void touch_far_pages(void)
{
	for (unsigned i = 0; i < 200; i++)
		far_page(i)[0] = 1;
}

static void no_slots(void *unused)
{
	(void)unused;
	begin();
	dune_mirror_slots_limit = dune_mirror->next_slot + 3;
	uint8_t *at = far_page(1000);
	must(dune_va_to_pa(at) != 0, "first slot");
	for (unsigned i = 0; i < 5; i++)
		if (dune_va_to_pa(far_page(300 + i)) == 0) {
			must(errno == ENOSPC && strstr(dune_error(), "slot"), "ENOSPC");
			touch_far_pages();
		}
}

static void no_addresses(void *unused)
{
	(void)unused;
	begin();
	unsigned used = 0;
	for (unsigned i = 0; i < dune_mirror->gigabytes; i++)
		if (dune_mirror->taken[i])
			used = i + 1;
	dune_mirror_gigabytes_limit = used + 2;
	touch_far_pages();
}

static void no_slots_at_first(void *unused)
{
	struct rlimit none = { 0, 0 };
	(void)unused;
	setrlimit(RLIMIT_CORE, &none);
	dune_mirror_slots_limit = 2;
	must(dune_set_placement(DUNE_PLACEMENT_GUEST) == 0, "placement");
	if (dune_init(true) == -1 && errno == ENOSPC && strlen(dune_error()) > 20)
		_exit(7);
	_exit(8);
}

static void no_descriptor(void *unused)
{
	struct rlimit few = { 3, 3 };
	(void)unused;
	must(setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit()");
	must(dune_set_placement(DUNE_PLACEMENT_GUEST) == 0, "placement");
	_exit(dune_init(true) == -1 && strlen(dune_error()) > 20 ? 7 : 8);
}

static void no_address_space(void *unused)
{
	struct rlimit little = { 2 * GIB, 2 * GIB };
	(void)unused;
	must(setrlimit(RLIMIT_AS, &little) == 0, "setrlimit()");
	must(dune_set_placement(DUNE_PLACEMENT_GUEST) == 0, "placement");
	_exit(dune_init(true) == -1 && errno == ENOMEM && strlen(dune_error()) > 20 ? 7 : 8);
}

/* Something lies wherever the pool could be. */
static void pool_is_taken(void *unused)
{
	(void)unused;
	for (uintptr_t at = 160 * GIB; at < (uintptr_t)1 << 46; at += 2 * GIB)
		mmap((void *)at, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	must(dune_set_placement(DUNE_PLACEMENT_GUEST) == 0, "placement");
	_exit(dune_init(true) == -1 && errno == ENOMEM && strlen(dune_error()) > 20 ? 7 : 8);
}

static void refuses(void (*body)(void *unused))
{
	char text[4096];
	bool good = guest_exited(guest_child_text(body, NULL, text, sizeof text), 7);
	if (!good)
		harness_note("message: %s", text);
	CU_ASSERT(good);
}

static void what_runs_out_is_said(void)
{
	if (!possible())
		return;
	DIES(no_slots, SIGSEGV, "slots", "far-apart", "touch_far_pages", "CR2");
	DIES(no_addresses, SIGSEGV, "addresses", "touch_far_pages", "CR2");
	refuses(no_slots_at_first);
	refuses(no_address_space);
	refuses(pool_is_taken);
}

static void without_a_descriptor_init_fails(void)
{
	refuses(no_descriptor); /* before anything of this process is open */
}

static const struct harness_test tests[] = {
	{ "exceptions that nobody handles are reported", exceptions_that_nobody_handles_are_reported, HARNESS_FORK },
	{ "stacks that are used up are reported", stacks_that_are_used_up_are_reported, HARNESS_FORK, .seconds = 60 },
	{ "wild instructions are reported", wild_instructions_are_reported, HARNESS_FORK, .seconds = 60 },
	{ "wild roots are reported", wild_roots_are_reported, HARNESS_FORK },
	{ "damaged address spaces are reported", damaged_address_spaces_are_reported, HARNESS_FORK, .seconds = 60 },
	{ "calls at the wrong time say so", calls_at_the_wrong_time_say_so, HARNESS_FORK },
	{ "what runs out is said", what_runs_out_is_said, HARNESS_FORK },
	{ "without a file descriptor dune_init() fails", without_a_descriptor_init_fails, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
