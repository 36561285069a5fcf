/*
 * live_dune_attacks.c - what compartments that ring 0 runs, and ring 3 of a process in guest placement, try against the rest.
 * See live_dune_sthreads.c and live_dune_guest.c for what they do in peace.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <dune.h>

#include "dune_ring3.h"
#include "guest/guest.h"
#include "live.h"
#include "supervisor.h"

#define NEEDS_GUEST()                                                                            \
	do {                                                                                     \
		live_init();                                                                     \
		if (!live_ring0_native())                                                        \
			HARNESS_SKIP("ring 0 is interpreted here: there is no guest placement"); \
	} while (0)

#define NEEDS_NO_EXIT()                                                                           \
	do {                                                                                      \
		NEEDS_GUEST();                                                                    \
		if (supervisor.machine->host.shadow_paging)                                       \
			HARNESS_SKIP("page tables are shadowed here: compartments run by exits"); \
	} while (0)

static void enter(void)
{
	int entered = dune_in_guest() ? 0 : dune_init_and_enter();
	live_check(entered == 0, __FILE__, __LINE__, "dune_init_and_enter(): %s", dune_error());
	CU_ASSERT_FATAL(dune_in_guest());
}

/* ---- what compartments find of others ---------------------------------------------------------------- */

#define PATTERN 0x5ec2e75ec2e75ec2

/* Holds the pattern in registers and makes calls that ring 0 answers, for ever. */
static void *body_hold(void *pattern)
{
	__asm__ volatile(
		"movq %0, %%rbx; movq %0, %%r9; movq %0, %%r10; movq %0, %%r12; movq %0, %%r13; movq %0, %%r14\n"
		"1: movl %1, %%eax; syscall; jmp 1b" ::"D"(pattern),
		"i"(NUMBER_GETPID)
		: "rax", "rbx", "rcx", "r9", "r10", "r11", "r12", "r13", "r14", "memory");
	return NULL;
}

static unsigned count_words(const void *memory, size_t size)
{
	const volatile uint64_t *word = memory;
	unsigned count = 0;
	for (size_t i = 0; i < size / sizeof *word; i++)
		count += word[i] == PATTERN;
	return count;
}

static struct {
	const void *shared, *own; /* what all compartments have mapped for ring 0, and what none has */
	atomic_bool over;
	unsigned in_shared, in_own;
} watch;

static void *watcher(void *unused)
{
	while (!atomic_load(&watch.over)) {
		watch.in_shared += count_words(watch.shared, sizeof(struct dune_processor_area));
		watch.in_own += count_words(watch.own, DUNE_PAGE_SIZE);
		sched_yield();
	}
	return unused;
}

static void test_registers_of_others(void)
{
	NEEDS_NO_EXIT();
	enter();
	ASSERT_RETURNED(live_run_bare(body_nothing, NULL), 0);
	CU_ASSERT_FATAL(dune_guest_self->prepared != NULL);
	watch.shared = dune_guest_self->prepared->area;
	watch.own = dune_guest_self->processor;
	pthread_t thread;
	ASSERT_EQUAL(pthread_create(&thread, NULL, watcher, NULL), 0);
	sc_t sc;
	sc_init(&sc);
	sc_cpu_budget(&sc, 200);
	ASSERT_END(live_run(&sc, body_hold, (void *)PATTERN), STHREAD_OUT_OF_CPU);
	atomic_store(&watch.over, true);
	pthread_join(thread, NULL);
	printf("# the registers were seen %u times where they are kept, %u times where others have memory\n",
	       watch.in_own, watch.in_shared);
	ASSERT_EQUAL(watch.in_shared, 0);
	CU_ASSERT(watch.in_own > 0); /* the control: the watcher sees them */
}

/* FS and GS base, which ring 3 may change where CR4.FSGSBASE is on. */
static void *body_set_bases(void *base)
{
	__asm__ volatile("wrgsbase %0" ::"r"(base));
	syscall(SYS_getppid); /* to the supervisor and back */
	__asm__ volatile("rdgsbase %0" : "=r"(base));
	return base;
}

static void *body_get_base(void *unused)
{
	(void)unused;
	uint64_t base;
	__asm__ volatile("rdgsbase %0" : "=r"(base));
	return (void *)base;
}

static void test_bases(void)
{
	NEEDS_NO_EXIT();
	enter();
	if (live_run_bare(body_get_base, NULL).error)
		HARNESS_SKIP("this processor has no RDGSBASE");
	uint64_t before, after;
	__asm__ volatile("rdgsbase %0" : "=r"(before));
	ASSERT_RETURNED(live_run_bare(body_set_bases, (void *)0x123456789000), 0x123456789000);
	ASSERT_RETURNED(live_run_bare(body_get_base, NULL), 0);
	__asm__ volatile("rdgsbase %0" : "=r"(after));
	ASSERT_EQUAL(after, before);
}

static uint64_t flags_now(void)
{
	uint64_t flags;
	__asm__ volatile("pushfq; popq %0" : "=r"(flags));
	return flags;
}

static const uint64_t dirty_flags = FL_TF | FL_DF | FL_NT | FL_AC | FL_RF | FL_IOPL_MASK;

/* Sets what POPF lets it set, makes a call, and tells what is left. */
static void *body_flags(void *flags)
{
	uint64_t after;
	__asm__ volatile("pushfq; orq %1, (%%rsp); popfq; movl %2, %%eax; syscall; pushfq; popq %0; pushq $2; popfq"
			 : "=&r"(after)
			 : "r"(flags), "i"(NUMBER_GETPID)
			 : "rax", "rcx", "r11", "memory", "cc");
	return (void *)(after & FL_IOPL_MASK);
}

static void *body_flags_at_start(void *unused)
{
	(void)unused;
	return (void *)(flags_now() & dirty_flags);
}

static void test_flags(void)
{
	NEEDS_GUEST();
	enter();
	const uint64_t set[] = { FL_NT, FL_AC, FL_DF, FL_IOPL_MASK, FL_RF, FL_NT | FL_AC | FL_DF | FL_IOPL_MASK };
	for (unsigned i = 0; i < sizeof set / sizeof *set; i++) {
		ASSERT_RETURNED(live_run_bare(body_flags, (void *)set[i]), 0);
		ASSERT_EQUAL(flags_now() & dirty_flags, FL_IOPL_MASK);
		ASSERT_RETURNED(live_run_bare(body_flags_at_start, NULL), 0);
	}
	live_run_bare(body_flags, (void *)FL_TF); /* ends by the first step, or by none */
	ASSERT_RETURNED(live_run_bare(body_flags_at_start, NULL), 0);
	CU_ASSERT(dune_in_guest());
}

/* ---- odd entries ------------------------------------------------------------------------------------ */

/* Makes calls with stack pointers that nothing could be pushed to. */
static void *body_odd_stack(void *stack)
{
	uint64_t number = NUMBER_GETPID, number_again = NUMBER_GETPID;
	__asm__ volatile("movq %%rsp, %%rbx; movq %2, %%rsp; syscall; movq %%rbx, %%rsp"
			 : "+a"(number), "+m"(number_again)
			 : "r"(stack)
			 : "rbx", "rcx", "r11", "memory");
	return (void *)(uint64_t)(number == (uint64_t)getpid());
}

static void test_odd_stacks(void)
{
	NEEDS_GUEST();
	enter();
	const uint64_t stacks[] = { 0,
				    1,
				    0x8000000000000000,
				    0xdeadbeefdeadbeef,
				    0x800000000000,
				    UINT64_MAX,
				    live_window() + WINDOW_LOCAL_IDT,
				    dune_guest_self->processor_address + PROCESSOR_TRAP_TOP };
	for (unsigned i = 0; i < sizeof stacks / sizeof *stacks; i++)
		ASSERT_RETURNED(live_run_bare(body_odd_stack, (void *)stacks[i]), 1);
}

/* INT with each vector, four bytes each. */
__asm__(".pushsection .text\n"
	".balign 16\n"
	"interrupts:\n"
	".set number, 0\n"
	".rept 256\n"
	".byte 0xcd, number, 0xc3, 0x90\n"
	".set number, number + 1\n"
	".endr\n"
	".popsection\n");
extern const uint8_t interrupts[];

static void *body_interrupt(void *vector)
{
	void (*routine)(void) = (void (*)(void))(interrupts + 4 * (uint64_t)vector);
	routine();
	return vector;
}

static void test_interrupts(void)
{
	NEEDS_GUEST();
	enter();
	for (uint64_t vector = 0; vector < 256; vector++) {
		struct life life = live_run_bare(body_interrupt, (void *)vector);
		if (vector == VECTOR_SERVICE) /* a library call with whatever is in RAX */
			continue;
		ASSERT_END(life, STHREAD_FAULTED);
		ASSERT_EQUAL(life.info.vector, vector == BREAKPOINT ? BREAKPOINT : GENERAL_PROTECTION);
	}
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

/* Ring 0's entry for system calls is not mapped while a compartment runs, and none can have memory of its own there. */
static void test_own_entry(void)
{
	NEEDS_GUEST();
	enter();
	uint64_t entry = dune_guest_self->processor_address + PROCESSOR_SYSTEM_CALL;
	CU_ASSERT(entry - live_window() >= SPACE_ARENA_END);
	ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)entry), READ_ABSENT, entry);
	ASSERT_PAGE_FAULT(live_run_bare(body_jump, (void *)entry), EXECUTE_ABSENT, entry);
}

/* ---- kicks ------------------------------------------------------------------------------------------ */

static volatile sig_atomic_t alarms;

static void on_alarm(int number)
{
	(void)number;
	alarms++;
}

/* Touches new pages, and so faults, for ever. */
static void *body_fault_on(void *unused)
{
	for (;;) {
		const size_t size = 64 * DUNE_PAGE_SIZE;
		uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			return unused;
		for (size_t i = 0; i < size; i += DUNE_PAGE_SIZE)
			if (memory[i]++)
				return (void *)1;
		munmap(memory, size);
	}
}

static void test_storm(void)
{
	NEEDS_GUEST();
	enter();
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	sigaction(SIGALRM, &action, NULL);
	const struct timeval often = { .tv_usec = getenv("TEST_LANE") ? 1500 : 40 };
	sc_t sc;
	sc_init(&sc);
	sc_cpu_budget(&sc, 20);
	setitimer(ITIMER_REAL, &(struct itimerval){ .it_interval = often, .it_value = often }, NULL);
	for (unsigned i = 0; i < 40; i++)
		ASSERT_END(live_run(&sc, i & 1 ? body_spin : body_fault_on, NULL), STHREAD_OUT_OF_CPU);
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	printf("# %d signals came meanwhile\n", (int)alarms);
	CU_ASSERT(alarms > 0);
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
}

/* ---- translations ----------------------------------------------------------------------------------- */

static uint64_t variable __attribute__((aligned(4096))) = 1;
static uint8_t variable_page_end[4096 - sizeof variable] __attribute__((used));

/* Parks in a read that blocks. */
static bool wait_for_byte(void)
{
	char byte;
	return read(0, &byte, 1) == 1;
}

/* Reads, parks, writes what was read-only, parks, and tells what it sees. */
static void *body_read_write_read(void *unused)
{
	volatile uint64_t *word = &variable;
	(void)unused;
	uint64_t first = *word;
	if (!wait_for_byte())
		return NULL;
	*word = 2;
	if (!wait_for_byte())
		return NULL;
	return (void *)(first << 8 | *word);
}

static void test_stale_translation(void)
{
	NEEDS_GUEST();
	int ends[2];
	sthread_t st;
	sc_t sc;
	ASSERT_EQUAL(pipe(ends), 0);
	ASSERT_EQUAL(dup2(ends[0], 0), 0);
	sc_init(&sc);
	sc_fd_add(&sc, 0, PROT_READ);
	for (unsigned i = 0; i < 8; i++) {
		ASSERT_EQUAL(live_create(&st, &sc, body_read_write_read, NULL), 0); /* by KVM_RUN */
		enter();
		ASSERT_EQUAL(write(ends[1], "x", 1), 1);
		live_step(st); /* the page is copied; parks */
		ASSERT_EQUAL(dune_leave(), 0);
		ASSERT_EQUAL(write(ends[1], "x", 1), 1);
		ASSERT_RETURNED(live_join(st), 1 << 8 | 2); /* by KVM_RUN again */
	}
}

static void *body_write_variable(void *value)
{
	variable = (uint64_t)value;
	return (void *)variable;
}

/* Compartments leave translations under tag 0. */
static void test_tag_zero(void)
{
	NEEDS_NO_EXIT();
	enter();
	ptent_t *other = dune_vm_clone(pgroot);
	CU_ASSERT_FATAL(other != NULL);
	variable = 7;
	for (unsigned i = 0; i < 8; i++) {
		load_cr3((unsigned long)other | 1);
		ASSERT_RETURNED(live_run_bare(body_write_variable, (void *)99), 99);
		load_cr3((unsigned long)pgroot | CR3_NOFLUSH);
		uint64_t seen = *(volatile uint64_t *)&variable;
		load_cr3((unsigned long)pgroot);
		ASSERT_EQUAL(seen, 7);
	}
	dune_vm_free(other);
	if (!supervisor.machine->host.pcid)
		printf("# this processor has no tags\n");
}

/* ---- ring 3 of the process ---------------------------------------------------------------------------- */

static _Thread_local uint64_t of_thread = 0x1122334455667788;
static uint8_t stack[16384] __attribute__((aligned(4096)));
static unsigned calls, faults;
static uint64_t seen_rip, seen_of_thread, seen_selector;

static void on_call(struct dune_tf *tf)
{
	calls++;
	if (tf->rax == RING3_END)
		dune_ret_from_user((int)tf->rdi);
}

static void on_protection(struct dune_tf *tf)
{
	faults++;
	seen_rip = tf->rip;
	seen_selector = tf->cs & 3;
	seen_of_thread = of_thread;
	dune_ret_from_user(-13);
}

static void map(void *at, const void *memory, size_t size, int perm)
{
	CU_ASSERT_EQUAL_FATAL(dune_vm_map_phys(pgroot, at, size, (void *)dune_va_to_pa((void *)memory), perm), 0);
}

/* A system call in the last two bytes of user space: where it goes on there is no address, and IRET to it would fault in
 * ring 0. */
static void test_return_to_no_address(void)
{
	NEEDS_GUEST();
	enter();
	uint8_t *last = (uint8_t *)0x7ffffffff000;
	static uint8_t code[4096] __attribute__((aligned(4096)));
	static uint64_t not_tls[512] __attribute__((aligned(4096)));
	code[4094] = 0x0f, code[4095] = 0x05;
	map(last, code, sizeof code, PERM_UCODE);
	map(stack, stack, sizeof stack, PERM_USTACK);
	dune_register_syscall_handler(on_call);
	ASSERT_EQUAL(dune_register_intr_handler(T_GPFLT, on_protection), 0);
	struct dune_tf tf = {
		.rip = (uintptr_t)last + 4094, .rsp = (uintptr_t)stack + sizeof stack, .rax = 1234, .rflags = FL_IF
	};
	dune_set_user_fs((uintptr_t)&not_tls[256]);
	ASSERT_EQUAL(dune_jump_to_user(&tf), -13);
	ASSERT_EQUAL(calls, 1);
	ASSERT_EQUAL(faults, 1);
	ASSERT_EQUAL(seen_rip, 0x800000000000);
	ASSERT_EQUAL(seen_selector, 3); /* it is ring 3's */
	ASSERT_EQUAL(seen_of_thread, 0x1122334455667788);
}

/* The outer one sets its GS base, makes call 77, and tells what the base is then; the inner one tells what it is, and changes it. */
__asm__(".pushsection .text.gs_bases, \"ax\", @progbits\n"
	".balign 4096\n"
	"gs_bases:\n"
	"gs_outer: movl $0x1111, %eax; wrgsbase %rax; movl $77, %eax; syscall; rdgsbase %rdi; movl $999, %eax; syscall\n"
	"gs_inner: rdgsbase %rdi; movl $0x2222, %eax; wrgsbase %rax; movl $999, %eax; syscall\n"
	".balign 4096\n"
	".popsection\n");
extern const uint8_t gs_bases[], gs_outer[], gs_inner[];
static int of_inner = -1;

static void on_call_jump(struct dune_tf *tf)
{
	if (tf->rax == RING3_END)
		dune_ret_from_user((int)tf->rdi);
	struct dune_tf inner = { .rip = (uintptr_t)gs_inner, .rsp = (uintptr_t)stack + 4096, .rflags = FL_IF };
	of_inner = dune_jump_to_user(&inner);
}

static void test_nested_base(void)
{
	NEEDS_GUEST();
	enter();
	if (live_run_bare(body_get_base, NULL).error)
		HARNESS_SKIP("this processor has no RDGSBASE");
	map((void *)gs_bases, gs_bases, 4096, PERM_UCODE);
	map(stack, stack, sizeof stack, PERM_USTACK);
	dune_register_syscall_handler(on_call_jump);
	struct dune_tf outer = { .rip = (uintptr_t)gs_outer, .rsp = (uintptr_t)stack + sizeof stack, .rflags = FL_IF };
	ASSERT_EQUAL(dune_jump_to_user(&outer), 0x1111);
	ASSERT_EQUAL(of_inner, 0); /* and it has not seen the outer one's */
}

static const struct harness_test tests[] = {
	{ "registers of a running compartment lie nowhere that others have mapped", test_registers_of_others,
	  HARNESS_FORK },
	{ "segment bases are the compartment's own", test_bases, HARNESS_FORK },
	{ "flags end with the compartment", test_flags, HARNESS_FORK },
	{ "a system call is served whatever the stack pointer is", test_odd_stacks, HARNESS_FORK },
	{ "each software interrupt ends the compartment only", test_interrupts, HARNESS_FORK },
	{ "no compartment can have memory where ring 0's system-call entry lies", test_own_entry, HARNESS_FORK },
	{ "kicks and signals that come all the time do not keep a budget from ending", test_storm, HARNESS_FORK },
	{ "KVM_RUN sees the page that was copied while ring 0 ran the compartment", test_stale_translation,
	  HARNESS_FORK },
	{ "translations of compartments are not the process's under tag 0", test_tag_zero, HARNESS_FORK },
	{ "a return of ring 3 to no address is a fault of ring 3", test_return_to_no_address, HARNESS_FORK },
	{ "an inner jump to ring 3 neither sees nor changes the outer one's GS base", test_nested_base, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
