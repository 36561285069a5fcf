/*
 * live_gate_registers.c - hostile registers at the exits of gate calls: a caller that does not use the library to call, a
 * gate that does not use it to return.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "live.h"
#include "monitor/layout.h"
#include "supervisor.h"

enum {
	FLAG_TF = 0x100,
	FLAG_DF = 0x400,
	FLAG_NT = 0x4000,
	FLAG_AC = 0x40000,
	FLAG_ID = 0x200000,
	FLAGS_CONTROL = FLAG_TF | FLAG_DF | 0x3000 | FLAG_NT | FLAG_AC | FLAG_ID,
	HAS_AVX512 = 1,
	MXCSR_CLEAN = 0x1f80,
};

/* In a tag.  The assembly knows the offsets. */
struct record {
	uint64_t gate, argument, flags, stack; /* given: flags 0 and stack 0: as they are */
	uint32_t mxcsr;
	uint16_t control, unused;
	uint64_t features;
	uint64_t result;
	/* What the gate began with, */
	uint64_t gate_flags, gate_stack;
	uint32_t gate_mxcsr;
	uint16_t gate_control, gate_tag;
	/* and what its caller had afterwards. */
	int64_t answer;
	uint8_t vectors[32][64];
	uint64_t masks[8];
	uint64_t target; /* what call_library() calls */
};
_Static_assert(offsetof(struct record, result) == 48 && offsetof(struct record, answer) == 80, "assembly");
_Static_assert(offsetof(struct record, vectors) == 88 && offsetof(struct record, masks) == 2136, "assembly");
_Static_assert(offsetof(struct record, target) == 2200, "assembly");

static struct record *record;
static tag_t record_tag;

void *call_raw(void *record); /* a body: calls the gate by OUT or INT, with flags and stack as given */
void *call_raw_by_int(void *record);
void *observe(void *argument, void *trusted); /* a gate: notes what it begins with, returns its argument */
void *leave(void *argument,
	    void *trusted); /* a gate: fills registers, and leaves by OUT or INT, with a result of its own */
void *leave_by_int(void *argument, void *trusted);

#define STRING(x) #x
#define VALUE(x) STRING(x)
#define RESULT 0x1122334455667788

__asm__(".text\n"
	".globl call_raw, call_raw_by_int, observe, leave, leave_by_int\n"
	/* The supervisor goes on at the trampoline's RET, so the stack has an address to return to. */
	".macro raw exit\n"
	"	pushq %rbx; pushq %rbp\n"
	"	movq %rdi, %rbx; movq %rsp, %rbp\n"
	"	ldmxcsr 32(%rbx); fldcw 36(%rbx)\n"
	"	movq 24(%rbx), %rax; testq %rax, %rax; jz 1f; movq %rax, %rsp; jmp 2f\n"
	"1:	leaq 3f(%rip), %rax; pushq %rax\n"
	"	pushq 16(%rbx)\n"
	"2:	movq 0(%rbx), %rdi; movq 8(%rbx), %rsi; leaq 48(%rbx), %rdx; movl $" VALUE(
		2) ", %eax\n"
		   "	cmpq $0, 24(%rbx); jne 4f; popfq\n"
		   "4:	\\exit\n"
		   "	ud2\n"
		   "3:	pushq $0x202; popfq\n"
		   "	movq %rax, 80(%rbx)\n"
		   "	testb $1, 40(%rbx); jz 5f\n"
		   "	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
		   "	vmovdqu64 %zmm\\n, 88+64*\\n(%rbx)\n"
		   "	.endr\n"
		   "	.irp n, 0,1,2,3,4,5,6,7\n"
		   "	kmovq %k\\n, 2136+8*\\n(%rbx)\n"
		   "	.endr\n"
		   "	jmp 6f\n"
		   "5:	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
		   "	movdqu %xmm\\n, 88+64*\\n(%rbx)\n"
		   "	.endr\n"
		   "6:	fninit; pushq $0x1f80; ldmxcsr (%rsp); popq %rax\n"
		   "	movq %rbp, %rsp; popq %rbp; popq %rbx; movl $1, %eax; ret\n"
		   ".endm\n"
		   "call_raw:	raw \"outb %al, $" VALUE(
			   0x11) "\"\n"
				 "call_raw_by_int:	raw \"int $32\"\n"
				 "observe:\n"
				 "	pushfq; popq 56(%rsi); movq %rsp, 64(%rsi); stmxcsr 72(%rsi); fnstcw 76(%rsi)\n"
				 "	subq $32, %rsp; fnstenv (%rsp); movw 8(%rsp), %ax; movw %ax, 78(%rsi); addq $32, %rsp\n"
				 "	movq %rdi, %rax; ret\n"
				 ".macro hostile exit\n"
				 "	movl $0x5e5e5e5e, %eax; movd %eax, %xmm0; pshufd $0, %xmm0, %xmm0\n"
				 "	testb $1, 40(%rsi); jz 1f\n"
				 "	.irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
				 "	vpbroadcastd %eax, %zmm\\n\n"
				 "	.endr\n"
				 "	.irp n, 0,1,2,3,4,5,6,7\n"
				 "	kmovq %rax, %k\\n\n"
				 "	.endr\n"
				 "	jmp 2f\n"
				 "1:	.irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
				 "	movdqa %xmm0, %xmm\\n\n"
				 "	.endr\n"
				 "2:	fldpi; fldpi; fldpi\n"
				 "	pushq $0; ldmxcsr (%rsp); movw $0, (%rsp); fldcw (%rsp)\n"
				 "	movq $" VALUE(
					 RESULT) ", %rdi; movl %eax, %ebx; movl %eax, %ecx; movl %eax, %edx; movl %eax, %esi\n"
						 "	movq $-1, %rbp; movq %rbp, %r8; movq %rbp, %r9; movq %rbp, %r10; movq %rbp, %r11; movq %rbp, %r12\n"
						 "	movq %rbp, %r13; movq %rbp, %r14; movq %rbp, %r15\n"
						 "	pushq $0x244cd7; popfq\n" /* status flags, DF, NT, AC, ID */
						 "	movl $0, %eax; movq $8, %rsp\n"
						 "	\\exit\n"
						 "	ud2\n"
						 ".endm\n"
						 "leave:	hostile \"outb %al, $0x11\"\n"
						 "leave_by_int:	hostile \"int $32\"\n"
						 ".type call_raw, @function\n.type observe, @function\n.type leave, @function\n");
_Static_assert(SERVICE_RETURN == 0 && SERVICE_GATE == 2 && PORT_SERVICE == 0x11 && VECTOR_SERVICE == 32, "assembly");

void *call_library(void *record); /* the same by what the library calls, which need not be an exit */
__asm__(".globl call_library\n"
	"call_library:\n"
	"	pushq %rbx\n"
	"	movq %rdi, %rbx\n"
	"	ldmxcsr 32(%rbx); fldcw 36(%rbx)\n"
	"	movq 0(%rbx), %rdi; movq 8(%rbx), %rsi; leaq 48(%rbx), %rdx; movl $2, %eax\n"
	"	pushq 16(%rbx); popfq\n"
	"	callq *2200(%rbx)\n"
	"	pushq $0x202; popfq\n"
	"	movq %rax, 80(%rbx)\n"
	"	fninit; pushq $0x1f80; ldmxcsr (%rsp); popq %rax\n"
	"	popq %rbx; movl $1, %eax; ret\n"
	".type call_library, @function\n");

static stcb_t raw_call;
static cgate_fn raw_leave;

static cgate_t prepare(sc_t *sc, bool hostile_gate)
{
	uint64_t features = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") ? HAS_AVX512 : 0;
	sc_t gate_policy;

	live_init();
	raw_call = live_io_exit() ? call_raw : call_raw_by_int;
	raw_leave = live_io_exit() ? leave : leave_by_int;

	tag_t tag = record_tag = tag_new();

	record = smalloc(tag, sizeof(*record));
	CU_ASSERT_PTR_NOT_NULL_FATAL(record);
	sc_init(&gate_policy);
	sc_mem_add(&gate_policy, tag, PROT_READ | PROT_WRITE);

	cgate_t gate = cgate_create(hostile_gate ? raw_leave : observe, &gate_policy, record);

	sc_init(sc);
	sc_mem_add(sc, tag, PROT_READ | PROT_WRITE);
	sc_cgate_add(sc, gate);
	*record = (struct record){ .gate = (uint64_t)gate,
				   .argument = 0x99,
				   .flags = 0x202,
				   .mxcsr = MXCSR_CLEAN,
				   .control = 0x37f,
				   .features = features };
	return gate;
}

static void check_gate_clean(const char *what)
{
	live_check((record->gate_flags & FLAGS_CONTROL) == 0, __FILE__, __LINE__,
		   "%s: the gate's flags are clean (%#lx)", what, record->gate_flags);
	live_check(record->gate_mxcsr == MXCSR_CLEAN && record->gate_control == 0x37f && record->gate_tag == 0xffff,
		   __FILE__, __LINE__, "%s: the gate's control words are clean (%#x, %#x, %#x)", what,
		   record->gate_mxcsr, record->gate_control, record->gate_tag);
	live_check(record->gate_stack == live_window() + SPACE_STACK_TOP - 8, __FILE__, __LINE__,
		   "%s: the gate has its own stack, empty (%#lx)", what, record->gate_stack);
}

static void flags_of_callers(void)
{
	static const uint64_t flags[] = {
		0x202, FLAG_DF, FLAG_NT, FLAG_AC, FLAG_ID, 0xcd7 | FLAG_NT | FLAG_AC | FLAG_ID
	};
	sc_t sc;

	prepare(&sc, false);
	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		record->flags = flags[i];
		record->mxcsr = i % 2 ? 0 : 0x7fc0; /* all exceptions raised; other rounding */
		record->control = i % 2 ? 0 : 0xf7f;
		record->result = 0;
		record->gate_flags = UINT64_MAX;
		ASSERT_RETURNED(live_run(&sc, raw_call, record), 1);
		ASSERT_EQUAL(record->answer, 0);
		ASSERT_EQUAL(record->result, 0x99);
		check_gate_clean("with flags");
	}
}

/* The same where ring 0 makes the call, on hosts where it does. */
static void flags_of_callers_direct(void)
{
	static const uint64_t flags[] = {
		0x202, FLAG_DF, FLAG_NT, FLAG_AC, FLAG_ID, 0xcd7 | FLAG_NT | FLAG_AC | FLAG_ID
	};
	sc_t sc;

	prepare(&sc, false);
	record->target = live_ring0_native() ? supervisor.machine->trampoline_direct_call :
					       supervisor.machine->trampoline_service;
	for (int round = 0; round < 3; round++) /* the first call warms the gate */
		for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
			record->flags = flags[i];
			record->mxcsr = i % 2 ? 0 : 0x7fc0;
			record->control = i % 2 ? 0 : 0xf7f;
			record->result = 0;
			record->gate_flags = UINT64_MAX;
			ASSERT_RETURNED(live_run(&sc, call_library, record), 1);
			ASSERT_EQUAL(record->answer, 0);
			ASSERT_EQUAL(record->result, 0x99);
			check_gate_clean("called by ring 0");
		}
}

struct forged {
	uint64_t number, handle;
};

static void *forge(void *argument)
{
	const struct forged *forged = argument;
	long answer = (long)forged->number;

	/* Stack and registers as nobody's who calls by the library. */
	__asm__ volatile("movq %%rsp, %%r15\n\t"
			 "leaq 1f(%%rip), %%rcx\n\t"
			 "pushq $0\n\tpushq %%rcx\n\t"
			 "xorl %%r12d, %%r12d\n\t"
			 "syscall\n"
			 "1:\tmovq %%r15, %%rsp"
			 : "+a"(answer)
			 : "D"(forged->handle), "S"(0x77UL), "d"(0UL)
			 : "rcx", "r11", "r12", "r15", "memory", "cc");
	return (void *)1;
}

/* The numbers by which the trampoline asks ring 0 to call a gate and to return from one, used by everybody. */
static void forged_numbers(void)
{
	static const uint64_t numbers[] = { NUMBER_DIRECT_CALL, NUMBER_DIRECT_RETURN };
	struct cgate_info info;
	void *result;
	sc_t sc, none;
	cgate_t granted = prepare(&sc, false), other;

	sc_init(&none);
	sc_mem_add(&none, record_tag, PROT_READ | PROT_WRITE);
	other = cgate_create(observe, &none, record);
	ASSERT_EQUAL(cgate_call(other, NULL, &result), 0); /* warm */

	struct forged *forged = smalloc(record_tag, sizeof(*forged));

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		for (int handle = -2; handle < 2; handle++) {
			*forged = (struct forged){ .number = numbers[i], .handle = (uint64_t)(other + handle) };
			live_run(&none, forge, forged); /* may end in any way */
			live_run(&sc, forge, forged);
			forged->handle = (uint64_t)handle << 32 | (uint32_t)other;
			live_run(&sc, forge, forged);
		}
	ASSERT_EQUAL(cgate_get_info(other, &info), 0);
	ASSERT_EQUAL(info.calls, 1); /* granted to nobody here */
	ASSERT_EQUAL(info.busy + info.waiting, 0);
	ASSERT_RETURNED(live_run(&sc, raw_call, record), 1);
	ASSERT_EQUAL(record->result, 0x99);
	ASSERT_EQUAL(cgate_destroy(granted), 0);
	ASSERT_EQUAL(cgate_destroy(other), 0);
}

/* The trap after the OUT is the caller's, if anybody's: the gate runs meanwhile. */
static void single_step_into_call(void)
{
	struct cgate_info info;
	sc_t sc;
	cgate_t gate = prepare(&sc, false);

	for (int i = 0; i < 5; i++) {
		record->flags = 0x202 | FLAG_TF;
		record->result = 0;
		record->gate_flags = UINT64_MAX;

		struct life life = live_run(&sc, raw_call, record);

		if (life.error == 0)
			ASSERT_EQUAL(record->result, 0x99);
		else
			ASSERT_EXCEPTION(life, DEBUG_TRAP, 0);
		if (record->gate_flags != UINT64_MAX)
			check_gate_clean("stepping");
		ASSERT_EQUAL(cgate_get_info(gate, &info), 0);
		ASSERT_EQUAL(info.failures, 0);
		/* Nobody after it is stepped. */
		record->flags = 0x202;
		ASSERT_RETURNED(live_run(&sc, raw_call, record), 1);
	}
}

static void stacks_of_callers(void)
{
	struct cgate_info info;
	sc_t sc;
	cgate_t gate = prepare(&sc, false);
	const uint64_t stacks[] = { 8,
				    0x1000,
				    0x7ffffffffff0,
				    0x800000000000,
				    0xffff800000000000,
				    UINT64_MAX - 7,
				    live_window() + WINDOW_PROCESSORS + 0x1000,
				    (uint64_t)body_nothing };

	for (size_t i = 0; i < sizeof(stacks) / sizeof(*stacks); i++) {
		uint64_t before = i;

		record->stack = stacks[i];
		record->result = 0;
		/* The call is served: stacks are no argument. Then the caller has nowhere to return to. */
		ASSERT_END(live_run(&sc, raw_call, record), STHREAD_FAULTED);
		ASSERT_EQUAL(record->result, 0x99);
		check_gate_clean("with a wild stack");
		ASSERT_EQUAL(cgate_get_info(gate, &info), 0);
		ASSERT_EQUAL(info.calls, before + 1);
		ASSERT_EQUAL(info.failures, 0);
	}
	record->stack = 0;
	ASSERT_RETURNED(live_run(&sc, raw_call, record), 1); /* the control */
}

static bool holds(const void *at, size_t size, uint8_t byte)
{
	unsigned run = 0;

	for (size_t i = 0; i < size; i++) {
		run = ((const uint8_t *)at)[i] == byte ? run + 1 : 0;
		if (run == 4)
			return true;
	}
	return false;
}

/* A gate that leaves with its registers full: its caller gets the result and nothing else. */
static void registers_of_gates(void)
{
	struct cgate_info info;
	void *result;
	sc_t sc;
	cgate_t gate = prepare(&sc, true);

	for (int i = 0; i < 4; i++) {
		memset(record->vectors, 0xee, sizeof(record->vectors));
		memset(record->masks, 0xee, sizeof(record->masks));
		record->result = 0;
		ASSERT_RETURNED(live_run(&sc, raw_call, record), 1);
		ASSERT_EQUAL(record->answer, 0);
		ASSERT_EQUAL(record->result, RESULT);
		CU_ASSERT_FALSE(holds(record->vectors, sizeof(record->vectors), 0x5e));
		CU_ASSERT_FALSE(holds(record->masks, sizeof(record->masks), 0x5e));
		ASSERT_EQUAL(cgate_call(gate, NULL, &result), 0);
		ASSERT_EQUAL(result, RESULT);
		/* The next tenant of the virtual CPU begins clean, and so does the next call. */
		ASSERT_RETURNED(live_run_bare(body_nothing, (void *)3), 3);
	}
	ASSERT_EQUAL(cgate_get_info(gate, &info), 0);
	ASSERT_EQUAL(info.failures, 0);
	ASSERT_EQUAL(info.lives, 1);
}

/* ---- what is left in a long-lived gate --------------------------------------------------------------------------- */

static void *answer_or_claim(void *argument, void *trusted)
{
	struct cgate_buffer *buffer = argument;

	(void)trusted;
	if (buffer->inlen)
		memset(buffer->out, 0x5e, buffer->outlen);
	return NULL; /* claims all the room, written or not */
}

static void answers_of_others(void)
{
	static uint8_t answer[CGATE_BUFFER_MAX];
	sc_t none;

	live_init();
	sc_init(&none);

	cgate_t gate = cgate_create(answer_or_claim, &none, NULL);

	for (int i = 0; i < 2; i++)
		for (size_t asked = 16; asked <= sizeof(answer); asked *= 4) {
			size_t length = asked;

			ASSERT_EQUAL(cgate_call_buf(gate, "x", 1, answer, &length), 0);
			ASSERT_EQUAL(length, asked);
			CU_ASSERT_TRUE(holds(answer, length, 0x5e)); /* the control */
			length = sizeof(answer);
			ASSERT_EQUAL(cgate_call_buf(gate, NULL, 0, answer, &length), 0);
			ASSERT_EQUAL(length, sizeof(answer));
			CU_ASSERT_FALSE(holds(answer, length, 0x5e));
		}
}

static const struct harness_test tests[] = {
	{ "a gate begins with clean flags and control words whatever its caller had", flags_of_callers, HARNESS_FORK },
	{ "the same for calls that ring 0 makes", flags_of_callers_direct, HARNESS_FORK },
	{ "ring 0 makes no call, and no return, for who forges them", forged_numbers, HARNESS_FORK },
	{ "a caller that single-steps into a call does not step the gate", single_step_into_call, HARNESS_FORK },
	{ "a caller's stack is no matter to the gate", stacks_of_callers, HARNESS_FORK },
	{ "a gate that leaves with full registers gives its caller the result alone", registers_of_gates,
	  HARNESS_FORK },
	{ "an entry that claims more than it wrote hands out no earlier answer", answers_of_others, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
