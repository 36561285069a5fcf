/*
 * symboliser.h - the interface between libsthread and libsthread-report, which knows debugging information.
 *
 * libsthread-report is loaded when a report is first asked for, or linked by those who want it at once: what it
 * needs (libdw and decompressors) would otherwise be in every snapshot and in every page table.
 */
#ifndef STHREAD_SYMBOLISER_H
#define STHREAD_SYMBOLISER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sthread.h"

#define REPORT_SYMBOLISER_LIBRARY "libsthread-report.so.0"
#define REPORT_SYMBOLISER_SYMBOL "sthread_report_symboliser_1"

/* Words of a compartment's stack, from its stack pointer up. */
struct report_stack {
	uint64_t start;
	size_t size; /* bytes, a multiple of 8 */
	const uint64_t *words;
};

/* Order of sthread_report.registers. */
enum {
	REPORT_RAX,
	REPORT_RBX,
	REPORT_RCX,
	REPORT_RDX,
	REPORT_RSI,
	REPORT_RDI,
	REPORT_RBP,
	REPORT_RSP,
	REPORT_R8,
	REPORT_RIP = REPORT_R8 + 8,
	REPORT_RFLAGS,
};
_Static_assert((int)REPORT_RFLAGS + 1 == (int)STHREAD_REGISTERS, "one place for each register");

/* What a symboliser can do.  Changes of this structure change the symbol's number. */
struct report_symboliser {
	/* Unwinds from registers through the stack; returns how many return addresses it stored.  is_text says which
	 * addresses are acceptable.  Any registers and stack are safe. */
	unsigned (*unwind)(const uint64_t *registers, const struct report_stack *stack, bool (*is_text)(uint64_t),
			   uint64_t *frames, unsigned room);
	/* Fills in a symbol that is all zeros; false if no file has the address. */
	bool (*symbol)(uint64_t address, struct sthread_symbol *symbol);
};

#endif
