/*
 * live_native_attacks.c - the system calls by which ring 0 makes gate calls, used by compartments that do not go through
 * the library: with any registers, on both sides, they are a gate call or a return and nothing more.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gate.h"
#include "kvm/direct.h"
#include "live.h"
#include "supervisor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
	WARM = 8,
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
#define FLAGS_CONTROL ((uint64_t)0x277d00 & ~(uint64_t)0x2a00) /* TF, DF, IOPL, NT, AC, ID */

/* What one side does.  The assembly knows the offsets. */
struct side {
	uint64_t load[16];  /* general registers, as they are to be at SYSCALL; RSP 0: its own stack */
	uint64_t flags;     /* and RFLAGS */
	uint64_t selectors; /* not 0: what to load into DS, ES, FS, GS */
	uint64_t seen[16];  /* general registers as the gate begins, or as the caller goes on */
	uint64_t seen_flags;
	uint16_t seen_selectors[4]; /* DS, ES, FS, GS */
	uint64_t seen_canary;       /* the word at FS:0x28 */
	uint64_t result;
	uint8_t vectors[512] __attribute__((aligned(64))); /* FXSAVE */
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct side, flags) == 128 && offsetof(struct side, selectors) == 136, "assembly");
_Static_assert(offsetof(struct side, seen) == 144 && offsetof(struct side, seen_flags) == 272, "assembly");
_Static_assert(offsetof(struct side, seen_selectors) == 280 && offsetof(struct side, seen_canary) == 288, "assembly");
_Static_assert(offsetof(struct side, vectors) == 320, "assembly");

void *raw_call(void *side);                      /* a body: makes the system call; returns 1 if that comes back */
void *raw_return(void *argument, void *trusted); /* a gate: notes how it begins, and makes the system call */
void *note_begin(void *argument, void *trusted); /* a gate: notes how it begins, and returns its argument */

__asm__(".text\n"
	".globl raw_call, raw_return, note_begin\n"
	/* Stores what is seen at \at; clobbers RAX. */
	".macro see at\n"
	"	movq %rax, 144(\\at); movq %rbx, 152(\\at); movq %rdx, 168(\\at); movq %rsi, 176(\\at); movq %rdi, 184(\\at)\n"
	"	movq %rbp, 192(\\at); movq %r8, 208(\\at); movq %r9, 216(\\at); movq %r10, 224(\\at); movq %r11, 232(\\at)\n"
	"	movq %r12, 240(\\at); movq %r13, 248(\\at); movq %r14, 256(\\at); movq %r15, 264(\\at)\n"
	"	movq %rsp, 200(\\at)\n"
	"	pushfq; popq 272(\\at); pushq $0x202; popfq\n"
	"	movl %ds, %eax; movw %ax, 280(\\at); movl %es, %eax; movw %ax, 282(\\at)\n"
	"	movl %fs, %eax; movw %ax, 284(\\at); movl %gs, %eax; movw %ax, 286(\\at)\n"
	"	movq %fs:0x28, %rax; movq %rax, 288(\\at)\n"
	"	fxsave64 320(\\at)\n"
	".endm\n"
	/* Loads all registers from \at, which is RDI. */
	".macro act\n"
	"	movq 136(%rdi), %rax; testq %rax, %rax; jz 1f\n"
	"	movl %eax, %ds; movl %eax, %es; movl %eax, %fs; movl %eax, %gs\n"
	"1:	movl $0x5e5e5e5e, %eax; movd %eax, %xmm0; pshufd $0, %xmm0, %xmm0\n"
	"	.irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	movdqa %xmm0, %xmm\\n\n"
	"	.endr\n"
	"	fldpi; fldpi\n"
	"	movq 8(%rdi), %rbx; movq 16(%rdi), %rcx; movq 24(%rdi), %rdx; movq 32(%rdi), %rsi; movq 48(%rdi), %rbp\n"
	"	movq 64(%rdi), %r8; movq 72(%rdi), %r9; movq 80(%rdi), %r10; movq 88(%rdi), %r11; movq 96(%rdi), %r12\n"
	"	movq 104(%rdi), %r13; movq 112(%rdi), %r14; movq 120(%rdi), %r15\n"
	"	cmpq $0, 56(%rdi); jne 2f\n"
	"	pushq 128(%rdi); movq 0(%rdi), %rax; movq 40(%rdi), %rdi; popfq\n"
	"	syscall\n"
	"	ud2\n"
	"2:	movq 0(%rdi), %rax; movq 56(%rdi), %rsp; movq 40(%rdi), %rdi\n"
	"	syscall\n"
	"	ud2\n"
	".endm\n"
	/* Stack at SYSCALL: where it goes on, where the result goes, the side. */
	"raw_call:\n"
	"	pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
	"	pushq %rdi; pushq 24(%rdi); leaq 3f(%rip), %rax; pushq %rax\n"
	"	act\n"
	"3:	movq 8(%rsp), %rcx\n"
	"	see %rcx\n"
	"	fninit; movl $0x1f80, 4(%rsp); ldmxcsr 4(%rsp)\n"
	"	addq $16, %rsp; popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx\n"
	"	movl $1, %eax; ret\n"
	"note_begin:\n"
	"	movq %rcx, 160(%rsi); see %rsi; movq %rdi, %rax; ret\n"
	"raw_return:\n"
	"	movq %rcx, 160(%rsi); see %rsi; movq %rsi, %rdi\n"
	"	act\n"
	".type raw_call, @function\n.type raw_return, @function\n.type note_begin, @function\n");

static struct side *caller, *gate_side;

static struct side *new_side(sc_t *sc)
{
	tag_t tag = tag_new();
	uint8_t *at = smalloc(tag, sizeof(struct side) + 64);

	CU_ASSERT_PTR_NOT_NULL_FATAL(at);
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, BOTH), 0);
	return (struct side *)(((uintptr_t)at + 63) & ~(uintptr_t)63);
}

/* A gate that is warm, and a policy that grants it. */
static cgate_t prepare(cgate_fn entry, sc_t *sc)
{
	sc_t gate_sc;

	live_init();
	caller = new_side(sc);
	gate_side = new_side(&gate_sc);
	gate_side->load[RAX] = NUMBER_DIRECT_RETURN;
	gate_side->flags = 0x202;

	cgate_t gate = cgate_create(entry, &gate_sc, gate_side);

	CU_ASSERT_FATAL(gate >= 0);
	ASSERT_EQUAL(sc_cgate_add(sc, gate), 0);
	for (int i = 0; live_ring0_native() && i < 2; i++)
		ASSERT_EQUAL(cgate_call(gate, NULL, NULL), 0);
	return gate;
}

static uint64_t direct_calls(cgate_t handle)
{
	return gate_direct_calls(handle_get(&supervisor.gates, handle));
}

static void fill(struct side *side, uint64_t number, uint64_t seed)
{
	for (int i = 0; i < 16; i++)
		side->load[i] = (0x1111111111111111 * (uint64_t)(i + 1)) ^ seed;
	side->load[RAX] = number;
	side->load[RDX] = (uint64_t)&side->result;
	side->load[RSP] = 0;
}

/* ---- registers --------------------------------------------------------------------------------------------------- */

static void check_clean(const struct side *side, uint64_t zero, const char *who)
{
	uint16_t control, status;
	uint32_t mxcsr;

	memcpy(&control, side->vectors, 2);
	memcpy(&status, side->vectors + 2, 2);
	memcpy(&mxcsr, side->vectors + 24, 4);
	for (int i = 0; i < 16; i++)
		if (zero >> i & 1)
			live_check(side->seen[i] == 0, __FILE__, __LINE__, "%s: general register %d is 0 (%#lx)", who,
				   i, (unsigned long)side->seen[i]);
	live_check((side->seen_flags & FLAGS_CONTROL) == 0, __FILE__, __LINE__, "%s: control flags are 0 (%#lx)", who,
		   (unsigned long)side->seen_flags);
	for (int i = 0; i < 4; i++)
		live_check(side->seen_selectors[i] == 0, __FILE__, __LINE__, "%s: selector %d is 0 (%#x)", who, i,
			   side->seen_selectors[i]);
	live_check(control == 0x37f && status == 0 && side->vectors[4] == 0 && mxcsr == 0x1f80, __FILE__, __LINE__,
		   "%s: x87 and MXCSR are clean (%#x %#x %#x %#x)", who, control, status, side->vectors[4], mxcsr);
	for (int i = 160; i < 416; i++)
		live_check(side->vectors[i] == 0, __FILE__, __LINE__, "%s: vector registers are 0 (byte %d)", who, i);
}

#define BIT(n) ((uint64_t)1 << (n))

static void clean_registers(void)
{
	/* What ring 3 can set by itself: status flags, DF, NT, AC, ID; and TF, by the instruction before SYSCALL. */
	static const uint64_t flags[] = { 0x202, 0x244ed7, 0x302, 0x244fd7 };
	static const uint64_t selectors[] = { 0, SELECTOR_USER_DATA, SELECTOR_USER_CODE };
	const uint64_t begins = BIT(RAX) | BIT(RCX) | BIT(RDX) | BIT(RBP) | BIT(R8) | BIT(R9) | BIT(R10) | BIT(R11) |
				BIT(R12) | BIT(R14) | BIT(R15);
	const uint64_t resumes = BIT(RAX) | BIT(RDX) | BIT(RBX) | BIT(RSI) | BIT(RBP) | BIT(R8) | BIT(R9) | BIT(R10) |
				 BIT(R12) | BIT(R13) | BIT(R14) | BIT(R15);
	sc_t sc;
	cgate_t gate = prepare(raw_return, &sc);

	if (!live_ring0_native())
		HARNESS_SKIP("ring 0 is interpreted here: every gate call exits");
	/* Bochs traps after a SYSCALL with TF whatever the mask says: then the life ends, which is all there is to see. */
	const uint64_t usable =
		getenv("TEST_LANE") && !strncmp(getenv("TEST_LANE"), "vmx", 3) ? ~(uint64_t)0x100 : ~(uint64_t)0;

	for (unsigned i = 0; i < 12; i++) {
		uint64_t calls = direct_calls(gate);

		fill(caller, NUMBER_DIRECT_CALL, 0x21 + i);
		caller->load[RDI] = (uint64_t)gate | 0xffffffff00000000; /* a handle is an int */
		caller->flags = flags[i % 4] & usable;
		caller->selectors = selectors[i % 3];
		fill(gate_side, NUMBER_DIRECT_RETURN, 0x41 + i);
		gate_side->load[RSP] = i % 2 ? 0x1122334455667788 : 0;
		gate_side->flags = flags[(i + 1) % 4] & usable;
		gate_side->selectors = selectors[(i + 1) % 3];
		ASSERT_RETURNED(live_run(&sc, raw_call, caller), 1);
		ASSERT_EQUAL(direct_calls(gate), calls + 1);
		check_clean(gate_side, begins, "a gate");
		ASSERT_EQUAL(gate_side->seen[RDI], caller->load[RSI]);
		ASSERT_EQUAL(gate_side->seen[RSI], gate_side);
		ASSERT_EQUAL(gate_side->seen[RSP], live_window() + SPACE_STACK_TOP - 8);
		check_clean(caller, resumes, "a caller");
		ASSERT_EQUAL(caller->result, gate_side->load[RDI]);
		/* Each has its own thread-local storage. */
		CU_ASSERT(caller->seen_canary != gate_side->seen_canary);
		ASSERT_EQUAL(caller->seen_canary & 0xff, 0);
		ASSERT_EQUAL(gate_side->seen_canary & 0xff, 0);
	}
}

/* ---- calls that are nobody's due ---------------------------------------------------------------------------------- */

static struct life call_number(const sc_t *sc, uint64_t number, uint64_t handle)
{
	fill(caller, number, 0x61);
	caller->load[RDI] = handle;
	caller->load[RDX] = 0;
	caller->flags = 0x202;
	caller->selectors = 0;
	return live_run(sc, raw_call, caller);
}

static void refused_calls(void)
{
	sc_t sc, none;
	cgate_t gate = prepare(note_begin, &sc), other;
	struct life life;

	if (!live_ring0_native())
		HARNESS_SKIP("ring 0 is interpreted here: every gate call exits");
	sc_init(&none);
	other = cgate_create(note_begin, &none, NULL);
	/* A return, where no call is under way, ends the life as service 0 does. */
	ASSERT_RETURNED(call_number(&sc, NUMBER_DIRECT_RETURN, 0x1234), 0x1234);
	/* The control: the same with the gate that is granted. */
	ASSERT_RETURNED(call_number(&sc, NUMBER_DIRECT_CALL, (uint64_t)gate), 1);
	ASSERT_EQUAL(caller->seen[RAX], 0);

	const uint64_t handles[] = {
		(uint64_t)other,
		0,
		UINT32_MAX,
		0x7fffffff,
		(uint64_t)gate ^ 1 << 18,
		(uint64_t)gate + LIFE_DIRECT_COUNT,
		(uint64_t)gate + 1,
		(uint64_t)gate - 1,
	};
	uint64_t calls = direct_calls(gate);

	for (unsigned i = 0; i < sizeof(handles) / sizeof(*handles); i++) {
		life = call_number(&sc, NUMBER_DIRECT_CALL, handles[i]);
		ASSERT_RETURNED(life, 1);
		ASSERT_EQUAL((int64_t)caller->seen[RAX], -EPERM);
		ASSERT_EQUAL(life.info.calls_denied, 1);
	}
	ASSERT_EQUAL(direct_calls(gate), calls);
	/* Neighbouring numbers are system calls that nobody knows: those come back to where they were made. */
	for (uint64_t number = NUMBER_DIRECT_CALL - 1; number <= NUMBER_DIRECT_RETURN + 1; number += 3) {
		life = call_number(&sc, number, (uint64_t)gate);
		ASSERT_EXCEPTION(life, INVALID_OPCODE, 0);
		ASSERT_EQUAL(life.info.calls_denied, 1);
	}
}

static void *park_and_call(void *argument)
{
	sthread_park();
	return raw_call(argument);
}

/* A gate that goes away takes its grants with it, though its place in all tables is taken over. */
static void stale_grants(void)
{
	sc_t sc, none;
	cgate_t gate = prepare(note_begin, &sc), next;
	sthread_t st[2];

	if (!live_ring0_native())
		HARNESS_SKIP("ring 0 is interpreted here: every gate call exits");
	sc_init(&none);

	const struct dune_direct *target = ((struct gate *)handle_get(&supervisor.gates, gate))->direct;

	for (int i = 0; i < 2; i++)
		ASSERT_EQUAL(live_create(&st[i], &sc, park_and_call, caller), 0);
	ASSERT_EQUAL(cgate_destroy(gate), 0);
	next = cgate_create(note_begin, &none, gate_side);
	CU_ASSERT(((struct gate *)handle_get(&supervisor.gates, next))->direct == target);
	ASSERT_ERROR(cgate_call(next, NULL, NULL) == -1, ECANCELED); /* it may not write there: the control */
	for (int i = 0; i < 2; i++) {
		fill(caller, NUMBER_DIRECT_CALL, 0x61);
		caller->load[RDI] = (uint64_t)(i ? next : gate);
		caller->load[RDX] = 0;
		caller->flags = 0x202;
		ASSERT_EQUAL(live_step(st[i]), 0);
		ASSERT_RETURNED(live_join(st[i]), 1);
		ASSERT_EQUAL((int64_t)caller->seen[RAX], i ? -EPERM : -EBADF);
	}
	ASSERT_EQUAL(direct_calls(next), 0);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void *call_then_read(void *argument)
{
	struct side *side = argument;

	for (int i = 0; i < WARM; i++)
		if (cgate_call((cgate_t)side->load[RDI], NULL, NULL) != 0)
			return (void *)(intptr_t)-errno;
	return body_read((void *)side->load[RSI]);
}

static void *call_then_write(void *argument)
{
	call_then_read(
		&(struct side){ .load[RDI] = ((struct side *)argument)->load[RDI], .load[RSI] = (uint64_t)argument });
	return body_write((void *)((struct side *)argument)->load[RSI]);
}

static void memory_of_ring0(void)
{
	sc_t sc;
	cgate_t gate = prepare(note_begin, &sc);
	uint64_t window = live_window();
	const uint64_t hidden[] = { WINDOW_DIRECT, WINDOW_DIRECT + DIRECT_SIZE,
				    WINDOW_PROCESSORS + offsetof(struct dune_processor_area, direct),
				    WINDOW_LIFE_MONITOR + LIFE_DIRECT };

	if (!live_ring0_native())
		HARNESS_SKIP("ring 0 is interpreted here: every gate call exits");
	caller->load[RDI] = (uint64_t)gate;
	for (unsigned i = 0; i < sizeof(hidden) / sizeof(*hidden); i++) {
		caller->load[RSI] = window + hidden[i];
		ASSERT_PAGE_FAULT(live_run(&sc, call_then_read, caller), READ_DENIED, window + hidden[i]);
		ASSERT_PAGE_FAULT(live_run(&sc, call_then_write, caller), WRITE_DENIED, window + hidden[i]);
	}
	/* Which gates it may call it may know, not decide. */
	caller->load[RSI] = window + WINDOW_LIFE + LIFE_DIRECT;
	ASSERT_EQUAL(live_run(&sc, call_then_read, caller).error, 0);
	ASSERT_PAGE_FAULT(live_run(&sc, call_then_write, caller), WRITE_DENIED, caller->load[RSI]);
	/* Nor has it the gate's memory, or the gate its, after all these calls. */
	caller->load[RSI] = (uint64_t)gate_side;
	ASSERT_PAGE_FAULT(live_run(&sc, call_then_read, caller), READ_ABSENT, gate_side);
	live_check(direct_calls(gate) > WARM, __FILE__, __LINE__, "ring 0 makes calls");
}

/* ---- anything ---------------------------------------------------------------------------------------------------- */

static uint64_t next_random(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* A value of the kinds that break things. */
static uint64_t random_value(cgate_t gate)
{
	uint64_t window = live_window(), any = next_random();
	const uint64_t values[] = { 0,
				    any,
				    any & 0xffff,
				    any >> 16,
				    (uint64_t)gate,
				    (uint64_t)gate | any << 32,
				    0x7ffffffff000,
				    0x7fffffffffff,
				    0x800000000000,
				    0xffff800000000000,
				    UINT64_MAX,
				    window + WINDOW_MONITOR + (any & 0x3ff),
				    window + WINDOW_TRAMPOLINE + (any & 0x3ff),
				    window + WINDOW_DIRECT + (any & 0xfff),
				    window + WINDOW_LIFE_MONITOR,
				    window + WINDOW_PROCESSORS + (any & 0x3fff),
				    (uint64_t)caller,
				    (uint64_t)raw_call,
				    window + SPACE_STACK_TOP - 64 };

	return values[next_random() % (sizeof(values) / sizeof(*values))];
}

static void randomise(struct side *side, cgate_t gate, unsigned round)
{
	static const uint64_t numbers[] = { NUMBER_DIRECT_CALL, NUMBER_DIRECT_RETURN, NUMBER_DIRECT_CALL, NUMBER_GETPID,
					    NUMBER_DIRECT_CALL | 1ull << 32 };

	for (int i = 0; i < 16; i++)
		side->load[i] = random_value(gate);
	side->load[RAX] = numbers[next_random() % 5];
	side->load[RSP] = round % 2 ? random_value(gate) : 0;
	if (round % 3)
		side->load[RDI] = (uint64_t)gate;
	side->flags = 0x202 | (next_random() & 0x244fd5);
	side->selectors = (uint64_t[]){ 0, SELECTOR_USER_DATA, SELECTOR_USER_CODE }[next_random() % 3];
}

/* The gate behaves: afterwards it is warm. */
static void warm(cgate_t gate)
{
	fill(gate_side, NUMBER_DIRECT_RETURN, 0);
	gate_side->flags = 0x202;
	gate_side->selectors = 0;
	ASSERT_EQUAL(cgate_call(gate, NULL, NULL), 0);
}

static void check_others(const sc_t *sc, cgate_t gate)
{
	fill(caller, NUMBER_DIRECT_CALL, 0);
	caller->load[RDI] = (uint64_t)gate;
	caller->flags = 0x202;
	caller->selectors = 0;
	ASSERT_RETURNED(live_run(sc, raw_call, caller), 1);
	ASSERT_EQUAL(caller->result, gate_side->load[RDI]);
}

static void check_round(const struct life *life, cgate_t gate, unsigned round)
{
	struct cgate_info info;

	ASSERT_EQUAL(cgate_get_info(gate, &info), 0);

	const struct sthread_info *infos[] = { &life->info, &info.last_failure };

	for (int i = 0; i < 2; i++) {
		live_check(infos[i]->end != STHREAD_HOST_FAILURE, __FILE__, __LINE__,
			   "round %u: the virtual CPU goes on", round);
		if (infos[i]->end != STHREAD_FAULTED)
			continue;

		/* Ring 3 may have jumped there: then the fault is that of a fetch, and says so. */
		bool in_monitor = infos[i]->instruction - live_window() - WINDOW_MONITOR < DUNE_PAGE_SIZE;

		live_check(infos[i]->vector == PAGE_FAULT ? infos[i]->error_code & 4 :
							    infos[i]->vector != 8 && !in_monitor,
			   __FILE__, __LINE__, "round %u: ring 0 has no fault (vector %u, error code %#lx, at %#lx)",
			   round, infos[i]->vector, (unsigned long)infos[i]->error_code,
			   (unsigned long)infos[i]->instruction);
	}
	live_check(info.busy == 0, __FILE__, __LINE__, "round %u: the gate is idle", round);
}

static void any_registers(void)
{
	enum {
		ROUNDS = 3000
	};
	unsigned returned = 0;
	struct cgate_info info;
	sc_t sc;
	cgate_t gate = prepare(raw_return, &sc);

	if (!live_ring0_native())
		HARNESS_SKIP("ring 0 is interpreted here: every gate call exits");
	sc_cpu_budget(&sc, 100);
	for (unsigned round = 0; round < ROUNDS; round++) {
		warm(gate);
		if (round % 100 == 0)
			check_others(&sc, gate);
		randomise(caller, gate, round);
		randomise(gate_side, gate, next_random() & 0xff);

		struct life life = live_run(&sc, raw_call, caller);

		returned += life.info.end == STHREAD_RETURNED;
		check_round(&life, gate, round);
	}
	ASSERT_EQUAL(cgate_get_info(gate, &info), 0);
	harness_note("%u of %d returned; %lu calls by ring 0, %lu failed", returned, ROUNDS,
		     (unsigned long)direct_calls(gate), (unsigned long)info.failures);
	ASSERT_EQUAL(cgate_destroy(gate), 0);
}

static const struct harness_test tests[] = {
	{ "both sides find clean registers, whatever the other one left", clean_registers, HARNESS_FORK },
	{ "calls that are not granted are refused, returns from nowhere end the life", refused_calls, HARNESS_FORK },
	{ "a grant ends with its gate", stale_grants, HARNESS_FORK },
	{ "what ring 0 works with is out of reach", memory_of_ring0, HARNESS_FORK },
	{ "with any registers only the one who called is harmed", any_registers, HARNESS_FORK, .seconds = 60 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
