/* report_format.c - the text of a report.  See report.h and sthread.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "call_names.h"
#include "report.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Text under way: length goes on where there is no room. */
struct text {
	char *at;
	size_t room, length;
};

static void __attribute__((format(printf, 2, 3))) add(struct text *text, const char *format, ...)
{
	va_list arguments;
	size_t left = text->length < text->room ? text->room - text->length : 0;
	va_start(arguments, format);
	int more = vsnprintf(left ? text->at + text->length : NULL, left, format, arguments);
	va_end(arguments);
	if (more > 0)
		text->length += (size_t)more;
}

static void add_rights(struct text *text, unsigned rights)
{
	static const char *const names[] = { "read", "write", "execute", "call", "gate", "descriptor" };
	bool any = false;
	for (unsigned i = 0; i < COUNT(names); i++)
		if (rights & 1u << i) {
			add(text, "%s%s", any ? ", " : "", names[i]);
			any = true;
		}
	if (!any)
		add(text, "none");
}

static void add_symbol(struct text *text, uint64_t address, uint64_t look_at)
{
	struct sthread_symbol symbol;
	int error = errno;
	if (sthread_symbol(look_at, &symbol) != 0) {
		errno = error;
		return;
	}
	const char *slash = strrchr(symbol.object, '/');
	add(text, " %s%s+%#llx", symbol.name, symbol.name[0] ? "" : "?",
	    (unsigned long long)(symbol.offset + (address - look_at)));
	add(text, " (%s)", slash ? slash + 1 : symbol.object);
	if (symbol.line > 0)
		add(text, " %s:%d", symbol.file, symbol.line);
}

/* ---- the first line: who, and what -------------------------------------------------------------------- */

static void add_who(struct text *text, const struct sthread_report *report)
{
	if (report->gate >= 0 && report->sthread >= 0)
		add(text, "callgate %d, called by sthread %d", report->gate, report->sthread);
	else if (report->gate >= 0)
		add(text, "callgate %d, called from host mode", report->gate);
	else
		add(text, "sthread %d", report->sthread);
	if (report->policy[0])
		add(text, " (%.*s)", (int)sizeof report->policy, report->policy);
	add(text, ", life %llu: ", (unsigned long long)report->instance);
}

static const char *exception_name(unsigned vector)
{
	static const char *const names[] = {
		[0] = "divide error",
		[1] = "debug trap",
		[2] = "non-maskable interrupt",
		[3] = "breakpoint",
		[4] = "overflow",
		[5] = "bound exceeded",
		[6] = "invalid instruction",
		[7] = "no floating-point unit",
		[8] = "double fault",
		[10] = "invalid task state",
		[11] = "segment not present",
		[12] = "stack fault",
		[13] = "general protection fault: a privileged instruction, or a bad operand",
		[14] = "page fault",
		[16] = "floating-point error",
		[17] = "misaligned access",
		[18] = "machine check",
		[19] = "vector floating-point error",
		[21] = "control protection fault",
	};
	return vector < COUNT(names) && names[vector] ? names[vector] : "exception";
}

static const char *place_name(enum sthread_touched touched)
{
	static const char *const names[] = {
		[STHREAD_TOUCHED_NULL] = "an address below 64 KiB, as of a NULL pointer",
		[STHREAD_TOUCHED_NON_CANONICAL] = "an address that no memory can have",
		[STHREAD_TOUCHED_KERNEL] = "an address of the kernel's half",
		[STHREAD_TOUCHED_TAG] = "tagged memory",
		[STHREAD_TOUCHED_NO_TAG] = "memory that belongs to no tag: deleted, or never allocated",
		[STHREAD_TOUCHED_TEXT] = "program text",
		[STHREAD_TOUCHED_GLOBAL] = "data of the program",
		[STHREAD_TOUCHED_HEAP] = "the heap",
		[STHREAD_TOUCHED_SNAPSHOT] = "memory of the snapshot",
		[STHREAD_TOUCHED_WITHHELD] = "memory that the snapshot leaves out (shared, unreadable, or marked "
					     "MADV_DONTDUMP or MADV_WIPEONFORK)",
		[STHREAD_TOUCHED_HOST_STACK] = "the stack of the process, which sthreads do not have",
		[STHREAD_TOUCHED_LATER] = "memory that the process got after sthread_init(): use a tag",
		[STHREAD_TOUCHED_STACK] = "its stack",
		[STHREAD_TOUCHED_STACK_OVERFLOW] = "memory below its stack: the stack has overflowed",
		[STHREAD_TOUCHED_PRIVATE] = "its private memory",
		[STHREAD_TOUCHED_MONITOR] = "addresses of the monitor",
		[STHREAD_TOUCHED_SUPERVISOR] = "memory of the supervisor",
		[STHREAD_TOUCHED_UNMAPPED] = "an address where nothing is",
	};
	return (unsigned)touched < COUNT(names) && names[touched] ? names[touched] : "memory";
}

static void add_fault(struct text *text, const struct sthread_report *report)
{
	if (report->touched == STHREAD_TOUCHED_NOTHING) {
		add(text, "%s (vector %u, error code %#llx)", exception_name(report->vector), report->vector,
		    (unsigned long long)report->error_code);
		return;
	}
	add(text, "it %s %s",
	    report->right_needed & STHREAD_RIGHT_EXECUTE ? "jumped to" :
	    report->right_needed & STHREAD_RIGHT_WRITE   ? "wrote to" :
	    report->right_needed & STHREAD_RIGHT_READ    ? "read" :
							   "used",
	    place_name(report->touched));
}

static void add_call(struct text *text, const struct sthread_report *report)
{
	const char *name = call_name(report->system_call);
	if (name)
		add(text, "system call %s", name);
	else
		add(text, "system call %d", report->system_call);
	add(text, " refused: %s",
	    report->call_error == ENOSYS ? "sthreads are not served this call" :
	    report->call_error == EBADF  ? "a descriptor that it does not hold with the right" :
					   "its policy does not grant it");
}

static void add_budget(struct text *text, const struct sthread_report *report)
{
	add(text, "%s is spent",
	    report->end == STHREAD_OUT_OF_MEMORY ? "its memory quota, or the memory for all sthreads," :
	    report->end == STHREAD_OUT_OF_TIME   ? "its time" :
	    report->end == STHREAD_OUT_OF_CALLS  ? "the number of calls it may make" :
						   "its processor time");
	if (report->touched != STHREAD_TOUCHED_NOTHING) {
		add(text, "; ");
		add_fault(text, report);
	}
}

static void add_what(struct text *text, const struct sthread_report *report)
{
	switch (report->violation) {
	case STHREAD_VIOLATION_FAULT:
		add_fault(text, report);
		break;
	case STHREAD_VIOLATION_CALL:
		add_call(text, report);
		break;
	case STHREAD_VIOLATION_GATE:
		add(text, "call of gate %d refused: its policy does not grant it", report->gate_called);
		break;
	case STHREAD_VIOLATION_BUDGET:
		add_budget(text, report);
		break;
	case STHREAD_VIOLATION_KILLED:
		add(text, "killed");
		break;
	case STHREAD_VIOLATION_HOST:
		add(text, "the virtual processor could not go on");
		break;
	default:
		add(text, "ended");
		break;
	}
	add(text, "\n");
}

/* ---- the rest ----------------------------------------------------------------------------------------- */

static void add_place(struct text *text, const struct sthread_report *report)
{
	if (report->touched == STHREAD_TOUCHED_NOTHING)
		return;
	add(text, "\taddress   %#llx", (unsigned long long)report->address);
	if (report->touched == STHREAD_TOUCHED_TAG) {
		add(text, ", byte %llu of tag %d", (unsigned long long)report->tag_offset, report->tag);
		if (report->allocation)
			add(text, ", byte %llu of an allocation of %llu at %#llx",
			    (unsigned long long)(report->address - report->allocation),
			    (unsigned long long)report->allocation_size, (unsigned long long)report->allocation);
		else
			add(text, ", in no allocation");
		if (!report->tag_granted)
			add(text, "; the policy does not grant the tag");
	}
	if (report->touched == STHREAD_TOUCHED_GLOBAL || report->touched == STHREAD_TOUCHED_TEXT)
		add_symbol(text, report->address, report->address);
	add(text, "\n");
}

static void add_needs(struct text *text, const struct sthread_report *report)
{
	if (!report->right_needed || report->violation == STHREAD_VIOLATION_BUDGET)
		return;
	add(text, "\tneeds     ");
	add_rights(text, report->right_needed);
	if (report->violation == STHREAD_VIOLATION_CALL && report->descriptor >= 0)
		add(text, " %d", report->descriptor);
	if (report->violation == STHREAD_VIOLATION_FAULT || report->descriptor >= 0) {
		add(text, "; has ");
		add_rights(text, report->right_held);
	}
	add(text, "\n");
}

static void add_frames(struct text *text, const struct sthread_report *report)
{
	unsigned count = report->frame_count < STHREAD_REPORT_FRAMES ? report->frame_count : STHREAD_REPORT_FRAMES;
	for (unsigned i = 0, same; i < count; i += same) {
		add(text, "\t%-10s%#llx", i ? "from" : "at", (unsigned long long)report->frames[i]);
		add_symbol(text, report->frames[i], report->frames[i] - (i > 0));
		for (same = 1; i && i + same < count && report->frames[i + same] == report->frames[i];)
			same++;
		if (same > 1)
			add(text, ", %u times", same);
		add(text, "\n");
	}
}

static void add_registers(struct text *text, const struct sthread_report *report)
{
	static const char *const names[STHREAD_REGISTERS] = { "RAX", "RBX", "RCX", "RDX", "RSI", "RDI",
							      "RBP", "RSP", "R8",  "R9",  "R10", "R11",
							      "R12", "R13", "R14", "R15", "RIP", "RFLAGS" };
	for (unsigned i = 0; i < STHREAD_REGISTERS; i++)
		add(text, "%s%s %#llx", i % 6 ? "  " : "\t", names[i], (unsigned long long)report->registers[i]),
			add(text, "%s", i % 6 == 5 ? "\n" : "");
}

int sthread_report_format(const struct sthread_report *report, char *text, size_t size)
{
	struct text made = { .at = text, .room = size };
	if (supervisor_inside()) {
		errno = EPERM;
		return -1;
	}
	if (!report || (!text && size))
		return dune_fail(EINVAL, "sthread_report_format() wants a report, and a place for the text");
	if (size)
		text[0] = 0;
	add_who(&made, report);
	add_what(&made, report);
	add_place(&made, report);
	add_needs(&made, report);
	add_frames(&made, report);
	add_registers(&made, report);
	if (report->suppressed)
		add(&made, "\t(%llu refused calls before it were not reported)\n",
		    (unsigned long long)report->suppressed);
	return (int)made.length;
}
