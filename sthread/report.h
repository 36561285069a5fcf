/*
 * report.h - violation reports: what is kept of a compartment when something goes wrong in it.
 *
 *   report.c           keeping registers and stack, delivering to the program
 *   report_touched.c   what lies at an address
 *   report_operand.c   the address that an instruction would have used
 *   report_symbols.c   symbols and backtraces, by the symboliser if it is there
 *   report_libdw.c     the symboliser (symboliser.h): a library of its own, loaded when first needed
 *   report_format.c    the text
 *
 * While a compartment ends only plain values are kept, with the lock held.  Backtraces are found when a report is
 * handed out, symbols when it is formatted, both without the lock.
 */
#ifndef STHREAD_REPORT_H
#define STHREAD_REPORT_H

#include "compartment.h"
#include "symboliser.h"

struct report_capture {
	struct sthread_report report; /* but for the frames */
	struct report_capture *next;  /* to be delivered */
	unsigned references;
	bool completed;
	struct report_stack stack;
	uint64_t words[];
};

/* ---- capturing; caller holds the supervisor lock ------------------------------------------------------ */

/* The innermost compartment of an sthread is about to end otherwise than by returning; info.end says how. */
void report_life_end(struct sthread *sthread, struct compartment *compartment);
/* A call of it was refused, and it goes on. */
void report_refusal(struct sthread *sthread, struct compartment *compartment, bool system_call);
/* Whether refusals are to be reported. */
bool report_refusals_wanted(void);
/* Tells the program what was captured since the last time in this thread.  Releases the lock meanwhile. */
void report_deliver(void);
/* Bytes of stacks kept by all captures; for tests. */
size_t report_memory(void);
/* Lets go of a capture; NULL is ignored. */
void report_drop(struct report_capture *capture);

/* Copies memory of a compartment that does not run, as far as it is mapped; nothing is brought in.  Returns the bytes
 * copied. */
size_t report_peek(const struct address_space *space, uint64_t address, void *to, size_t size);
/* Fills in what is at the address of a fault. */
void report_touched(struct sthread_report *report, struct compartment *compartment);

/* Computes the address that the instruction in code[0..size) would use, from registers in the report's order: of its
 * memory operand, or where it would jump to (then *execute).  Returns false if it uses none, or is not understood.
 * Any input is safe. */
bool report_operand(const uint8_t *code, size_t size, const uint64_t *registers, uint64_t fs_base, uint64_t gs_base,
		    uint64_t *address, bool *execute);

/* ---- frames and symbols; without the lock ---------------------------------------------------------------- */

/* Whether a compartment can run at this address: program text of the snapshot. */
bool report_is_text(uint64_t address);
/* Fills in the frames of a captured report, and what only the dynamic linker knows. */
void report_complete(struct report_capture *capture);

#endif
