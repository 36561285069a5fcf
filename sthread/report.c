/* report.c - see report.h */
#define _GNU_SOURCE
#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "account.h"
#include "gate.h"
#include "slice.h"

enum {
	STACK_KEPT = 64 << 10,        /* bytes of a compartment's own stack, */
	STACK_KEPT_FOREIGN = 4 << 10, /* and of another place it used as one */
	STACKS_KEPT = 16 << 20,       /* of all captures together: beyond it only registers are kept */
	STACK_SKIPPED = 1 << 20,      /* a stack pointer that is too low by less than this starts at the stack's end */
	REFUSALS_A_SECOND = 64,
};

static void (*told)(const struct sthread_report *, void *);
static void *told_argument;
static size_t stacks_kept;
static uint64_t suppressed;

/* Captured in this thread and not yet delivered. */
static _Thread_local struct {
	struct report_capture *first, **last;
	bool delivering;
} pending;

/* ---- what is kept ------------------------------------------------------------------------------------ */

size_t report_peek(const struct address_space *space, uint64_t address, void *to, size_t size)
{
	size_t done = 0;
	while (done < size && address + done < DUNE_USER_END) {
		uint64_t at = address + done;
		size_t some = DUNE_PAGE_SIZE - (at & DUNE_PAGE_MASK);
		const uint64_t *entry = dune_tables_entry(&supervisor.machine->tables, space->context.root, at, false);
		const uint64_t needed = DUNE_PTE_PRESENT | DUNE_PTE_USER;
		const uint8_t *memory = entry && (*entry & needed) == needed ?
						dune_physical_at(supervisor.machine, *entry & DUNE_PTE_FRAME) :
						NULL;
		if (!memory)
			break;
		if (some > size - done)
			some = size - done;
		memcpy((uint8_t *)to + done, memory + (at & DUNE_PAGE_MASK), some);
		done += some;
	}
	return done;
}

/* Where to copy the stack from, and at most how much. */
static size_t stack_extent(uint64_t pointer, uint64_t *start)
{
	uint64_t low = supervisor.machine->window + SPACE_STACK_LOW;
	uint64_t high = supervisor.machine->window + SPACE_STACK_TOP;
	if (pointer < low && low - pointer < STACK_SKIPPED)
		pointer = low; /* it overflowed */
	*start = pointer & ~(uint64_t)7;
	if (pointer < low || pointer >= high)
		return STACK_KEPT_FOREIGN;
	return high - *start < STACK_KEPT ? high - *start : STACK_KEPT;
}

static struct report_capture *capture_new(const struct compartment *compartment)
{
	const struct kvm_regs *regs = &compartment->space->context.regs;
	uint64_t start;
	size_t size = compartment->info.end == STHREAD_HOST_FAILURE ? 0 : stack_extent(regs->rsp, &start);
	if (size > STACKS_KEPT - stacks_kept)
		size = 0;
	struct report_capture *capture = malloc(sizeof *capture + size);
	if (!capture)
		return NULL;
	memset(capture, 0, sizeof *capture);
	capture->references = 1;
	capture->stack.words = capture->words;
	if (size) {
		capture->stack.start = start;
		capture->stack.size = report_peek(compartment->space, start, capture->words, size) & ~(size_t)7;
		stacks_kept += capture->stack.size;
	}
	return capture;
}

size_t report_memory(void)
{
	return stacks_kept;
}

void report_drop(struct report_capture *capture)
{
	if (!capture || --capture->references)
		return;
	stacks_kept -= capture->stack.size;
	/* It may hold what the compartment kept secret. */
	explicit_bzero(capture->words, capture->stack.size);
	free(capture);
}

/* ---- who, and what ----------------------------------------------------------------------------------- */

static void take_registers(struct sthread_report *report, const struct kvm_regs *regs)
{
	const uint64_t registers[STHREAD_REGISTERS] = { regs->rax, regs->rbx, regs->rcx,   regs->rdx, regs->rsi,
							regs->rdi, regs->rbp, regs->rsp,   regs->r8,  regs->r9,
							regs->r10, regs->r11, regs->r12,   regs->r13, regs->r14,
							regs->r15, regs->rip, regs->rflags };
	memcpy(report->registers, registers, sizeof registers);
}

static void take_identity(struct sthread_report *report, const struct sthread *sthread,
			  const struct compartment *compartment)
{
	report->sthread = sthread->handle;
	report->gate = compartment == &sthread->own ? -1 : sthread->gates[sthread->depth - 1]->gate->handle;
	report->depth = sthread->depth;
	report->instance = compartment->instance;
	report->address_space = compartment->info.address_space;
	report->body = compartment->function;
	strncpy(report->policy, account_name(compartment->policy), sizeof report->policy - 1);
	report->tag = -1;
	report->system_call = -1;
	report->descriptor = -1;
	report->gate_called = -1;
}

/* Rights for a descriptor that the compartment holds, as bits of a report. */
static unsigned descriptor_rights(const struct compartment *compartment, int number)
{
	for (unsigned i = 0; i < COMPARTMENT_FILES; i++)
		if (compartment->files[i].file && compartment->files[i].number == number)
			return STHREAD_RIGHT_DESCRIPTOR |
			       (compartment->files[i].prot & PROT_READ ? STHREAD_RIGHT_READ : 0) |
			       (compartment->files[i].prot & PROT_WRITE ? STHREAD_RIGHT_WRITE : 0);
	return 0;
}

static unsigned descriptor_need(int call)
{
	switch (call) {
	case SYS_read:
	case SYS_readv:
	case SYS_pread64:
	case SYS_preadv:
	case SYS_recvfrom:
	case SYS_recvmsg:
		return STHREAD_RIGHT_DESCRIPTOR | STHREAD_RIGHT_READ;
	case SYS_write:
	case SYS_writev:
	case SYS_pwrite64:
	case SYS_pwritev:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_ftruncate:
		return STHREAD_RIGHT_DESCRIPTOR | STHREAD_RIGHT_WRITE;
	default:
		return STHREAD_RIGHT_DESCRIPTOR;
	}
}

/* The refused system call is still in the registers, its answer in RAX. */
static void take_call(struct sthread_report *report, const struct compartment *compartment)
{
	const struct kvm_regs *regs = &compartment->space->context.regs;
	report->violation = STHREAD_VIOLATION_CALL;
	report->system_call = compartment->info.system_call;
	report->call_error = -(int)regs->rax;
	if (report->call_error == EBADF) {
		report->descriptor = (int)regs->rdi;
		report->right_needed = descriptor_need(report->system_call);
		report->right_held = descriptor_rights(compartment, report->descriptor);
	} else {
		report->right_needed = STHREAD_RIGHT_CALL;
	}
}

static void take_fault(struct sthread_report *report, struct compartment *compartment)
{
	report->vector = compartment->info.vector;
	report->error_code = compartment->info.error_code;
	report->address = compartment->info.address;
	report_touched(report, compartment);
}

static struct report_capture *capture(const struct sthread *sthread, struct compartment *compartment)
{
	struct report_capture *capture = compartment->space ? capture_new(compartment) : NULL;
	if (!capture)
		return NULL;
	take_identity(&capture->report, sthread, compartment);
	take_registers(&capture->report, &compartment->space->context.regs);
	return capture;
}

static void enqueue(struct report_capture *capture)
{
	if (!pending.first)
		pending.last = &pending.first;
	*pending.last = capture;
	pending.last = &capture->next;
}

void report_life_end(struct sthread *sthread, struct compartment *compartment)
{
	bool own = compartment == &sthread->own && !sthread->owner, tell = told && !pending.delivering;
	enum sthread_end end = compartment->info.end;
	if (end == STHREAD_RETURNED || end == STHREAD_EXITED || !(own || tell))
		return;
	if (sthread->owner && end == STHREAD_KILLED)
		return; /* as all are whose gate ends */
	struct report_capture *captured = capture(sthread, compartment);
	if (!captured)
		return;
	struct sthread_report *report = &captured->report;
	static const enum sthread_violation violations[] = {
		[STHREAD_FAULTED] = STHREAD_VIOLATION_FAULT,        [STHREAD_DENIED] = STHREAD_VIOLATION_CALL,
		[STHREAD_OUT_OF_CPU] = STHREAD_VIOLATION_BUDGET,    [STHREAD_KILLED] = STHREAD_VIOLATION_KILLED,
		[STHREAD_OUT_OF_MEMORY] = STHREAD_VIOLATION_BUDGET, [STHREAD_OUT_OF_TIME] = STHREAD_VIOLATION_BUDGET,
		[STHREAD_OUT_OF_CALLS] = STHREAD_VIOLATION_BUDGET,  [STHREAD_HOST_FAILURE] = STHREAD_VIOLATION_HOST,
	};
	report->violation = (unsigned)end < sizeof violations / sizeof *violations ? violations[end] : 0;
	report->ended = 1;
	report->end = end;
	if (end == STHREAD_DENIED)
		take_call(report, compartment);
	else if (end == STHREAD_FAULTED || end == STHREAD_OUT_OF_MEMORY)
		take_fault(report, compartment);
	if (own && !sthread->report) {
		sthread->report = captured;
		captured->references++;
	}
	if (tell)
		enqueue(captured);
	else
		report_drop(captured);
}

/* ---- refused calls ----------------------------------------------------------------------------------- */

bool report_refusals_wanted(void)
{
	return told && !pending.delivering;
}

/* One for each call of a life, and few enough in all that a compartment cannot keep the process busy with them. */
static bool is_told(struct compartment *compartment, int call)
{
	static uint64_t second;
	static unsigned told_this_second;
	for (unsigned i = 0; i < compartment->refusals_told; i++)
		if (compartment->refusal_told[i] == call)
			return false;
	if (compartment->refusals_told == COMPARTMENT_REFUSALS)
		return false;
	uint64_t now = slice_clock() / ((uint64_t)1000 * NANOSECONDS_PER_MILLISECOND);
	if (now != second) {
		second = now;
		told_this_second = 0;
	}
	if (told_this_second == REFUSALS_A_SECOND)
		return false;
	told_this_second++;
	compartment->refusal_told[compartment->refusals_told++] = call;
	return true;
}

void report_refusal(struct sthread *sthread, struct compartment *compartment, bool system_call)
{
	const struct kvm_regs *regs = &compartment->space->context.regs;
	if (!system_call && regs->rax != (uint64_t)-EPERM)
		return; /* a number that no library call has: only hostile code gets there */
	/* Gates have numbers of their own in the list, below those of system calls. */
	int gate = (int)regs->rdi, call = system_call ? compartment->info.system_call : -1 - (gate & INT32_MAX);
	struct report_capture *captured = is_told(compartment, call) ? capture(sthread, compartment) : NULL;
	if (!captured) {
		suppressed++;
		return;
	}
	struct sthread_report *report = &captured->report;
	if (system_call) {
		take_call(report, compartment);
	} else {
		report->violation = STHREAD_VIOLATION_GATE;
		report->call_error = -(int)regs->rax;
		report->gate_called = gate;
		report->right_needed = STHREAD_RIGHT_GATE;
	}
	report->suppressed = suppressed;
	suppressed = 0;
	enqueue(captured);
}

/* ---- delivering ---------------------------------------------------------------------------------------- */

void report_deliver(void)
{
	while (pending.first && !pending.delivering) {
		struct report_capture *captured = pending.first;
		void (*tell)(const struct sthread_report *, void *) = told;
		void *argument = told_argument;
		pending.first = captured->next;
		pending.delivering = true;
		if (tell) {
			supervisor_unlock();
			report_complete(captured);
			tell(&captured->report, argument);
			supervisor_lock();
		}
		pending.delivering = false;
		report_drop(captured);
	}
}

int sthread_on_violation(void (*function)(const struct sthread_report *report, void *argument), void *argument)
{
	if (supervisor_inside()) {
		errno = EPERM;
		return -1;
	}
	supervisor_lock();
	told = function;
	told_argument = argument;
	supervisor_unlock();
	return 0;
}

int sthread_get_report(sthread_t st, struct sthread_report *report)
{
	if (supervisor_enter() != 0)
		return -1;
	if (!report)
		return dune_fail(EINVAL, "no place for the report");
	supervisor_lock();
	struct sthread *sthread = handle_get(&supervisor.sthreads, st);
	if (sthread && sthread->owner)
		sthread = NULL; /* a gate's own */
	int error = !sthread                        ? EBADF :
		    sthread->busy                   ? EBUSY :
		    sthread->state != STHREAD_ENDED ? EAGAIN :
		    !sthread->report                ? ENODATA :
						      0;
	if (!error) {
		sthread->busy = true;
		supervisor_unlock();
		report_complete(sthread->report);
		*report = sthread->report->report;
		supervisor_lock();
		sthread->busy = false;
	}
	supervisor_unlock();
	switch (error) {
	case 0:
		return 0;
	case EBADF:
		return dune_fail(EBADF, "no such sthread");
	case EBUSY:
		return dune_fail(EBUSY, "another thread drives this sthread");
	case EAGAIN:
		return dune_fail(EAGAIN, "the sthread has not ended");
	default:
		return dune_fail(ENODATA, "there is nothing to report of this sthread");
	}
}
