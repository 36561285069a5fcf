/* live_registers.c - law 5: no register of one tenant is seen by the next, and each finds its own again. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum {
	HAS_AVX = 1,
	HAS_AVX512 = 2,
	HAS_GS_BASE = 4
};
enum {
	RAX,
	RBX,
	RCX,
	RDX,
	RSI,
	RDI,
	RBP,
	RSP,
	R8,
	R9,
	R10,
	R11,
	R12,
	R13,
	R14,
	R15
};
enum {
	FLAG_TF = 0x100,
	FLAG_DF = 0x400,
	FLAG_IOPL = 0x3000,
	FLAG_NT = 0x4000,
	FLAG_AC = 0x40000,
	FLAG_ID = 0x200000
};
#define FLAGS_CONTROL (FLAG_TF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID)

/* All that ring 3 can see of a register file.  The assembly below knows the offsets. */
struct registers {
	uint64_t general[16];
	uint64_t flags;
	uint64_t gs_base;
	uint16_t selectors[4]; /* DS, ES, FS, GS */
	uint64_t features;     /* what the processor has: given */
	uint64_t masks[8];
	uint64_t unused[4];
	uint8_t legacy[512];
	uint8_t vectors[32][64];
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct registers, flags) == 128, "assembly");
_Static_assert(offsetof(struct registers, gs_base) == 136, "assembly");
_Static_assert(offsetof(struct registers, selectors) == 144, "assembly");
_Static_assert(offsetof(struct registers, features) == 152, "assembly");
_Static_assert(offsetof(struct registers, masks) == 160, "assembly");

/* What a body does: loads registers, then acts, then stores them. */
struct plan {
	struct registers load, store;
	uint64_t function; /* for act_call */
	uint64_t act;
} __attribute__((aligned(64)));

void *load_and_act(void *plan);                     /* returns 1 if the act returns */
void *store_registers(void *registers);             /* as a body: what a life begins with; returns 1 */
void *store_in_gate(void *argument, void *trusted); /* the same, as a gate: registers = trusted */
extern const char act_trap[], act_spin[], act_return[], act_call[], act_system_call[];

#define STRING(...) #__VA_ARGS__
#define VALUE(x) STRING(x)
#define LEGACY 256
#define VECTORS 768
#define STORE 2816
#define FUNCTION 5632
#define ACT 5640
_Static_assert(offsetof(struct registers, legacy) == LEGACY && LEGACY % 64 == 0, "assembly");
_Static_assert(offsetof(struct registers, vectors) == VECTORS, "assembly");
_Static_assert(offsetof(struct plan, store) == STORE, "assembly");
_Static_assert(offsetof(struct plan, function) == FUNCTION && offsetof(struct plan, act) == ACT, "assembly");

__asm__(".text\n"
	".set LEGACY, " VALUE(LEGACY) "\n.set VECTORS, " VALUE(VECTORS) "\n.set STORE, " VALUE(STORE) "\n.set FUNCTION, " VALUE(FUNCTION) "\n.set ACT, " VALUE(
		ACT) "\n"
		     /* Stores all but RDI and RSP at RDI; clobbers RAX and flags. */
		     ".macro store_all\n"
		     "	movq %rax, 0(%rdi); movq %rbx, 8(%rdi); movq %rcx, 16(%rdi); movq %rdx, 24(%rdi); movq %rsi, 32(%rdi)\n"
		     "	movq %rbp, 48(%rdi); movq %r8, 64(%rdi); movq %r9, 72(%rdi); movq %r10, 80(%rdi); movq %r11, 88(%rdi)\n"
		     "	movq %r12, 96(%rdi); movq %r13, 104(%rdi); movq %r14, 112(%rdi); movq %r15, 120(%rdi)\n"
		     "	pushfq; popq 128(%rdi)\n"
		     "	movl %ds, %eax; movw %ax, 144(%rdi); movl %es, %eax; movw %ax, 146(%rdi)\n"
		     "	movl %fs, %eax; movw %ax, 148(%rdi); movl %gs, %eax; movw %ax, 150(%rdi)\n"
		     "	testb $4, 152(%rdi); jz 1f; rdgsbase %rax; movq %rax, 136(%rdi)\n"
		     "1:	fxsave64 LEGACY(%rdi)\n"
		     "	testb $2, 152(%rdi); jz 2f\n"
		     "	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
		     "	vmovdqu64 %zmm\\n, VECTORS+64*\\n(%rdi)\n"
		     "	.endr\n"
		     "	.irp n, 0,1,2,3,4,5,6,7\n"
		     "	kmovq %k\\n, 160+8*\\n(%rdi)\n"
		     "	.endr\n"
		     "	jmp 3f\n"
		     "2:	testb $1, 152(%rdi); jz 3f\n"
		     "	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
		     "	vmovdqu %ymm\\n, VECTORS+64*\\n(%rdi)\n"
		     "	.endr\n"
		     "3:\n"
		     ".endm\n"
		     ".globl store_registers, store_in_gate, load_and_act, act_trap, act_spin, act_return, act_call, act_system_call\n"
		     "store_in_gate:\n"
		     "	movq %rdi, 40(%rsi); movq %rsp, 56(%rsi)\n"
		     "	xchgq %rsi, %rdi\n"
		     "	store_all\n"
		     "	movl $1, %eax; ret\n"
		     "store_registers:\n"
		     "	movq %rdi, 40(%rdi); movq %rsp, 56(%rdi)\n"
		     "	store_all\n"
		     "	movl $1, %eax; ret\n"
		     /* Stack from here: act, plan (twice, for alignment), what the caller wants preserved. */
		     "load_and_act:\n"
		     "	pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
		     "	pushq %rdi; pushq %rdi; pushq %rdi\n"
		     "	pushq ACT(%rdi)\n"
		     "	testb $4, 152(%rdi); jz 1f; movq 136(%rdi), %rax; wrgsbase %rax\n"
		     "1:	fxrstor64 LEGACY(%rdi)\n"
		     "	testb $2, 152(%rdi); jz 2f\n"
		     "	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
		     "	vmovdqu64 VECTORS+64*\\n(%rdi), %zmm\\n\n"
		     "	.endr\n"
		     "	.irp n, 0,1,2,3,4,5,6,7\n"
		     "	kmovq 160+8*\\n(%rdi), %k\\n\n"
		     "	.endr\n"
		     "	jmp 3f\n"
		     "2:	testb $1, 152(%rdi); jz 3f\n"
		     "	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
		     "	vmovdqu VECTORS+64*\\n(%rdi), %ymm\\n\n"
		     "	.endr\n"
		     "3:	cmpw $0, 144(%rdi); je 4f\n"
		     "	movw 144(%rdi), %ax; movw %ax, %ds; movw %ax, %es; movw %ax, %fs; movw %ax, %gs\n"
		     "4:	movq 0(%rdi), %rax; movq 8(%rdi), %rbx; movq 16(%rdi), %rcx; movq 24(%rdi), %rdx; movq 32(%rdi), %rsi\n"
		     "	movq 48(%rdi), %rbp; movq 64(%rdi), %r8; movq 72(%rdi), %r9; movq 80(%rdi), %r10; movq 88(%rdi), %r11\n"
		     "	movq 96(%rdi), %r12; movq 104(%rdi), %r13; movq 112(%rdi), %r14; movq 120(%rdi), %r15\n"
		     "	pushq 128(%rdi); movq 40(%rdi), %rdi; popfq\n"
		     "	ret\n"
		     "act_trap:\n"
		     "	ud2\n"
		     "act_spin:\n"
		     "	jmp act_spin\n"
		     "act_return:\n" /* all as it is but what the way out needs */
		     "	addq $24, %rsp; popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx; ret\n"
		     "act_call:\n"
		     "	movq (%rsp), %rax; callq *FUNCTION(%rax); jmp 5f\n"
		     "act_system_call:\n"
		     "	syscall\n"
		     "5:	pushq %rdi; movq 8(%rsp), %rdi\n"
		     "	addq $STORE, %rdi\n"
		     "	popq 40(%rdi); movq %rsp, 56(%rdi)\n"
		     "	store_all\n"
		     "	pushq $0x202; popfq; fninit; pushq $0x1f80; ldmxcsr (%rsp); addq $8, %rsp\n"
		     "	testb $1, 152(%rdi); jz 6f; vzeroupper\n"
		     "6:	movl $1, %eax; addq $24, %rsp; popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx; ret\n"
		     ".type store_registers, @function\n.type load_and_act, @function\n.type store_in_gate, @function\n");

static uint64_t features;

static void *try_gs_base(void *value)
{
	__asm__ volatile("wrgsbase %0" ::"r"(value));
	return (void *)1;
}

/* Before sthread_init(): what the processor has.  After it: whether ring 3 has the GS base. */
static void find_features(void)
{
	features = (__builtin_cpu_supports("avx2") ? HAS_AVX : 0) |
		   (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") ? HAS_AVX512 : 0);
	live_init();

	unsigned eax, ebx, ecx, edx;
	bool has_base = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && ebx & 1;

	if (has_base && live_run_bare(try_gs_base, (void *)0x1000).value == (void *)1)
		features |= HAS_GS_BASE;
	harness_note("AVX %d, AVX-512 %d, GS base in ring 3 %d", !!(features & HAS_AVX), !!(features & HAS_AVX512),
		     !!(features & HAS_GS_BASE));
}

static struct plan *new_plan(sc_t *sc)
{
	tag_t tag = tag_new();
	uint8_t *at = smalloc(tag, sizeof(struct plan) + 64);

	CU_ASSERT_PTR_NOT_NULL_FATAL(at);
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, PROT_READ | PROT_WRITE), 0);
	return (struct plan *)(((uintptr_t)at + 63) & ~(uintptr_t)63);
}

/* Fills registers with values that depend on seed and are nowhere zero. */
static void fill(struct registers *registers, uint8_t seed)
{
	memset(registers, seed, sizeof(*registers));
	for (int i = 0; i < 16; i++)
		registers->general[i] = 0x1111111111111111 * (uint64_t)(i + 1) ^ seed;
	for (int i = 0; i < 32; i++)
		for (int j = 0; j < 64; j++)
			registers->vectors[i][j] = (uint8_t)(seed + i * 3 + j * 5 + 1) | 1;
	for (int i = 0; i < 8; i++)
		registers->masks[i] = 0x8000000000000001 * (uint64_t)(i + 1) + seed;
	registers->flags = 0x202 | 0xcd5 /* status flags and DF */;
	registers->gs_base = 0x700000000000 + seed * (uint64_t)4096;
	memset(registers->selectors, 0, sizeof(registers->selectors));
	registers->features = features;
	/* FXSAVE image: FCW, FSW, FTW, MXCSR, then ST0..7 and XMM0..15. */
	memset(registers->legacy, 0, 160);
	memcpy(registers->legacy, &(uint16_t){ 0x0a7f }, 2);
	memcpy(registers->legacy + 2, &(uint16_t){ 0x3800 }, 2);
	registers->legacy[4] = 0xff;
	memcpy(registers->legacy + 24, &(uint32_t){ 0xffc0 }, 4);
	memcpy(registers->legacy + 28, &(uint32_t){ 0xffff }, 4);
	for (int i = 0; i < 8; i++)
		for (int j = 0; j < 10; j++)
			registers->legacy[32 + 16 * i + j] = (uint8_t)(seed + i + j + 0x3f);
	for (int i = 0; i < 16; i++)
		memcpy(registers->legacy + 160 + 16 * i, registers->vectors[i], 16);
}

static bool is_zero(const void *at, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (((const uint8_t *)at)[i])
			return false;
	return true;
}

static unsigned vector_count(void)
{
	return features & HAS_AVX512 ? 32 : 16;
}

/* How a life begins: `who` says after what. */
static void check_clean(const struct registers *registers, const char *who)
{
	uint16_t control, status;
	uint32_t mxcsr;
	static const int zero[] = { RAX, RCX, RDX, RBP, R8, R9, R10, R11, R14, R15 };

	memcpy(&control, registers->legacy, 2);
	memcpy(&status, registers->legacy + 2, 2);
	memcpy(&mxcsr, registers->legacy + 24, 4);
	for (size_t i = 0; i < sizeof(zero) / sizeof(*zero); i++)
		live_check(registers->general[zero[i]] == 0, __FILE__, __LINE__, "%s: general register %d is 0 (%#lx)",
			   who, zero[i], registers->general[zero[i]]);
	live_check((registers->flags & FLAGS_CONTROL) == 0, __FILE__, __LINE__, "%s: control flags are 0 (%#lx)", who,
		   registers->flags);
	live_check(is_zero(registers->selectors, 8), __FILE__, __LINE__, "%s: selectors are 0 (%#x %#x %#x %#x)", who,
		   registers->selectors[0], registers->selectors[1], registers->selectors[2], registers->selectors[3]);
	if (features & HAS_GS_BASE)
		live_check(registers->gs_base == 0, __FILE__, __LINE__, "%s: the GS base is 0 (%#lx)", who,
			   registers->gs_base);
	live_check(control == 0x37f && status == 0 && registers->legacy[4] == 0, __FILE__, __LINE__,
		   "%s: x87 is clean (%#x %#x %#x)", who, control, status, registers->legacy[4]);
	for (unsigned i = 0; i < 8; i++) /* ten bytes each: the six behind them need not be stored */
		live_check(is_zero(registers->legacy + 32 + 16 * i, 10), __FILE__, __LINE__, "%s: ST%u is 0", who, i);
	live_check(mxcsr == 0x1f80, __FILE__, __LINE__, "%s: MXCSR is clean (%#x)", who, mxcsr);
	live_check(is_zero(registers->legacy + 160, 256), __FILE__, __LINE__, "%s: XMM0 to XMM15 are 0", who);
	if (features & HAS_AVX)
		for (unsigned i = 0; i < vector_count(); i++)
			live_check(is_zero(registers->vectors[i], features & HAS_AVX512 ? 64 : 32), __FILE__, __LINE__,
				   "%s: vector register %u is 0", who, i);
	if (features & HAS_AVX512)
		live_check(is_zero(registers->masks, 64), __FILE__, __LINE__, "%s: mask registers are 0", who);
}

static void check_vectors_equal(const struct registers *now, const struct registers *before, const char *who)
{
	live_check(memcmp(now->legacy, before->legacy, 5) == 0 && memcmp(now->legacy + 24, before->legacy + 24, 4) == 0,
		   __FILE__, __LINE__, "%s: control words are kept", who);
	for (int i = 0; i < 8; i++)
		live_check(memcmp(now->legacy + 32 + 16 * i, before->legacy + 32 + 16 * i, 10) == 0, __FILE__, __LINE__,
			   "%s: ST%d is kept", who, i);
	live_check(memcmp(now->legacy + 160, before->legacy + 160, 256) == 0, __FILE__, __LINE__,
		   "%s: XMM registers are kept", who);
	if (features & HAS_AVX)
		for (unsigned i = 0; i < vector_count(); i++)
			live_check(memcmp(now->vectors[i], before->vectors[i], features & HAS_AVX512 ? 64 : 32) == 0,
				   __FILE__, __LINE__, "%s: vector register %u is kept", who, i);
	if (features & HAS_AVX512)
		live_check(memcmp(now->masks, before->masks, 64) == 0, __FILE__, __LINE__,
			   "%s: mask registers are kept", who);
}

static void check_general_equal(const struct registers *now, const struct registers *before, const char *who,
				unsigned but)
{
	for (int i = 0; i < 16; i++)
		if (i != RSP && !(but >> i & 1))
			live_check(now->general[i] == before->general[i], __FILE__, __LINE__,
				   "%s: general register %d is kept (%#lx, %#lx)", who, i, now->general[i],
				   before->general[i]);
}

/* ---- from one life to the next ----------------------------------------------------------------------------------- */

static const struct {
	const char *name, *act;
	enum sthread_end end;
} endings[] = {
	{ "after one that returned", act_return, STHREAD_RETURNED },
	{ "after one that faulted", act_trap, STHREAD_FAULTED },
	{ "after one that was stopped", act_spin, STHREAD_OUT_OF_CPU },
	{ "after one that exited", act_system_call, STHREAD_EXITED },
};

static void begin_clean(void)
{
	sc_t sc, observer;

	find_features();

	struct plan *plan = new_plan(&sc), *seen = new_plan(&observer);

	sc_cpu_budget(&sc, 30);
	for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++)
		for (int segments = 0; segments < 2; segments++) {
			fill(&plan->load, (uint8_t)(0x11 + i));
			plan->act = (uint64_t)endings[i].act;
			plan->load.flags |= FLAG_AC | FLAG_ID;
			if (segments)
				for (int j = 0; j < 4; j++)
					plan->load.selectors[j] = SELECTOR_USER_DATA;
			if (endings[i].act == act_system_call)
				plan->load.general[RAX] = SYS_exit_group;
			ASSERT_END(live_run(&sc, load_and_act, plan), endings[i].end);
			memset(&seen->store, 0xee, sizeof(seen->store));
			seen->store.features = features;
			ASSERT_RETURNED(live_run(&observer, store_registers, &seen->store), 1);
			check_clean(&seen->store, endings[i].name);
			ASSERT_EQUAL(seen->store.general[RBX], (uint64_t)store_registers);
		}
}

/* The check above would notice: here the same registers are stored after they were loaded. */
static void noticed(void)
{
	sc_t sc;

	find_features();

	struct plan *plan = new_plan(&sc);

	fill(&plan->load, 0x21);
	plan->act = (uint64_t)act_call;
	plan->function = (uint64_t)body_nothing;
	plan->load.flags = 0x202;
	plan->store.features = features;
	ASSERT_RETURNED(live_run(&sc, load_and_act, plan), 1);
	check_vectors_equal(&plan->store, &plan->load, "at once");
	check_general_equal(&plan->store, &plan->load, "at once", 1u << RAX);
	CU_ASSERT_FALSE(is_zero(plan->store.legacy + 160, 256));
}

/* ---- across a pause ---------------------------------------------------------------------------------------------- */

/* Others run meanwhile, and leave their registers in every way there is. */
static void disturb(sc_t *sc, struct plan *plan)
{
	for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++) {
		fill(&plan->load, (uint8_t)(0x71 + i));
		plan->act = (uint64_t)endings[i].act;
		for (int j = 0; j < 4; j++)
			plan->load.selectors[j] = SELECTOR_USER_DATA;
		if (endings[i].act == act_system_call)
			plan->load.general[RAX] = SYS_exit;
		live_run(sc, load_and_act, plan);
	}
}

static void parked_read(void)
{
	sc_t sc, other;
	int ends[2];

	find_features();
	ASSERT_EQUAL(pipe(ends), 0);

	struct plan *plan = new_plan(&sc), *noise = new_plan(&other);

	sc_cpu_budget(&other, 30);
	sc_fd_add(&sc, ends[0], PROT_READ);
	for (int round = 0; round < 3; round++) {
		sthread_t st;
		enum sthread_state state;

		fill(&plan->load, (uint8_t)(0x31 + round));
		plan->store.features = features;
		plan->act = (uint64_t)act_system_call;
		plan->load.general[RAX] = SYS_read;
		plan->load.general[RDI] = (uint64_t)ends[0];
		plan->load.general[RSI] = (uint64_t)&plan->store.unused;
		plan->load.general[RDX] = 8;
		ASSERT_EQUAL(live_create(&st, &sc, load_and_act, plan), 0);
		ASSERT_EQUAL(sthread_state(st, &state), 0);
		ASSERT_EQUAL(state, STHREAD_PARKED);
		disturb(&other, noise);
		ASSERT_EQUAL(write(ends[1], "abcdefgh", 8), 8);
		ASSERT_EQUAL(live_step(st), 0);
		ASSERT_RETURNED(live_join(st), 1);
		ASSERT_EQUAL(plan->store.general[RAX], 8);
		check_vectors_equal(&plan->store, &plan->load, "across a parked read");
		live_check(is_zero(plan->store.selectors, 8), __FILE__, __LINE__,
			   "selectors are kept across a parked read");
		check_general_equal(&plan->store, &plan->load, "across a parked read",
				    1u << RAX | 1u << RCX | 1u << R11);
	}
	sc_destroy(&sc);
}

/* Stopped at the end of a slice, anywhere. */
static void *spin_and_compare(void *argument)
{
	uint64_t a = (uint64_t)argument, b = a * 3, wrong = 0;
	double x = (double)a, y = 1.0 / x;

	for (int i = 0; i < 8000000; i++) {
		__asm__ volatile("" : "+x"(x), "+x"(y), "+r"(b));
		wrong += b != a * 3;
	}
	return (void *)(uintptr_t)(wrong == 0 && x == (double)a && y == 1.0 / (double)a);
}

static void stopped_by_the_clock(void)
{
	sc_t sc, other;
	sthread_t st[3];
	int ended = 0;

	find_features();

	struct plan *noise = new_plan(&other);

	sc_init(&sc);
	sc_cpu_budget(&other, 30);
	for (intptr_t i = 0; i < 3; i++)
		ASSERT_EQUAL(sthread_create(&st[i], &sc, spin_and_compare, (void *)(i + 41)), 0);
	for (int i = 0; i < 1000 && ended < 3; i++) {
		ended = 0;
		for (int j = 0; j < 3; j++) {
			enum sthread_state state;

			ASSERT_EQUAL(sthread_step(st[j]), 0);
			ASSERT_EQUAL(sthread_state(st[j], &state), 0);
			ended += state == STHREAD_ENDED;
			if (i < 2)
				disturb(&other, noise);
		}
	}
	for (int j = 0; j < 3; j++)
		ASSERT_RETURNED(live_join(st[j]), 1);
}

static void parked_by_itself(void)
{
	sc_t sc, other;
	sthread_t st;

	find_features();

	struct plan *plan = new_plan(&sc), *noise = new_plan(&other);
	unsigned callee_saved = 1u << RBX | 1u << RBP | 1u << R12 | 1u << R13 | 1u << R14 | 1u << R15;

	sc_cpu_budget(&other, 30);
	fill(&plan->load, 0x41);
	plan->load.flags = 0x202;
	plan->load.legacy[4] = 0; /* empty x87 stack, as the ABI has it at calls */
	plan->store.features = features;
	plan->act = (uint64_t)act_call;
	plan->function = (uint64_t)sthread_park;
	ASSERT_EQUAL(live_create(&st, &sc, load_and_act, plan), 0);
	disturb(&other, noise);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_RETURNED(live_join(st), 1);
	check_general_equal(&plan->store, &plan->load, "across sthread_park()", ~callee_saved);
	ASSERT_EQUAL(plan->store.flags & FLAGS_CONTROL, 0);
	live_check(memcmp(plan->store.legacy, plan->load.legacy, 2) == 0, __FILE__, __LINE__,
		   "the x87 control word is kept");
	ASSERT_EQUAL(*(uint32_t *)(plan->store.legacy + 24) & 0xffc0, 0xffc0);
	/* The other vector registers are the callee's, but nothing of a stranger may be in them. */
	for (unsigned i = 0; (features & HAS_AVX) && i < vector_count(); i++)
		live_check(is_zero(plan->store.vectors[i], features & HAS_AVX512 ? 64 : 32) ||
				   memcmp(plan->store.vectors[i], plan->load.vectors[i], 32) == 0,
			   __FILE__, __LINE__, "vector register %u is its own or empty", i);
}

/* ---- gates ------------------------------------------------------------------------------------------------------- */

static void *fill_in_gate(void *argument, void *trusted)
{
	(void)argument;
	return load_and_act(trusted);
}

static void gates(void)
{
	sc_t sc, gate_sc, other;

	find_features();

	struct plan *plan = new_plan(&sc), *seen = new_plan(&gate_sc), *noise = new_plan(&other);
	unsigned callee_saved = 1u << RBX | 1u << RBP | 1u << R12 | 1u << R13 | 1u << R14 | 1u << R15;
	cgate_t observes = cgate_create(store_in_gate, &gate_sc, &seen->store);
	cgate_t fills = cgate_create(fill_in_gate, &other, noise);

	sc_cgate_add(&sc, observes);
	sc_cgate_add(&sc, fills);
	for (int round = 0; round < 4; round++) {
		cgate_t gate = round % 2 ? fills : observes;

		fill(&noise->load, 0x61);
		noise->act = (uint64_t)(round < 2 ? act_return : act_trap);
		memset(&seen->store, 0xee, sizeof(seen->store));
		seen->store.features = features;
		fill(&plan->load, (uint8_t)(0x51 + round));
		plan->load.flags = 0x202;
		plan->load.legacy[4] = 0;
		plan->store.features = features;
		plan->act = (uint64_t)act_call;
		plan->function = (uint64_t)cgate_call;
		plan->load.general[RDI] = (uint64_t)gate;
		plan->load.general[RSI] = 0x99;
		plan->load.general[RDX] = 0;
		ASSERT_RETURNED(live_run(&sc, load_and_act, plan), 1);
		if (gate == observes) {
			check_clean(&seen->store, "a gate");
			ASSERT_EQUAL(seen->store.general[RDI], 0x99);
		}
		check_general_equal(&plan->store, &plan->load, "across a gate call", ~callee_saved);
		ASSERT_EQUAL(plan->store.flags & FLAGS_CONTROL, 0);
		ASSERT_EQUAL(*(uint32_t *)(plan->store.legacy + 24) & 0xffc0, 0xffc0);
		for (unsigned i = 0; (features & HAS_AVX) && i < vector_count(); i++)
			live_check(is_zero(plan->store.vectors[i], features & HAS_AVX512 ? 64 : 32), __FILE__, __LINE__,
				   "vector register %u has nothing of the gate", i);
		live_check(is_zero(plan->store.legacy + 32, 128), __FILE__, __LINE__,
			   "x87 registers have nothing of the gate");
	}
}

static const struct harness_test tests[] = {
	{ "a life begins with clean registers, whatever the last one left and however it ended", begin_clean,
	  HARNESS_FORK },
	{ "what is stored is what was loaded (control)", noticed, HARNESS_FORK },
	{ "a read that parks keeps every register, vectors included", parked_read, HARNESS_FORK },
	{ "an sthread stopped by the clock finds its registers again", stopped_by_the_clock, HARNESS_FORK },
	{ "sthread_park() keeps what a call keeps, and shows nothing of others", parked_by_itself, HARNESS_FORK },
	{ "registers do not pass between a gate and its caller", gates, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
