/* report.h - what Dune mode prints on standard error before the process dies. */
#ifndef DUNE_REPORT_H
#define DUNE_REPORT_H

#include "dune.h"

/*
 * Prints one line, and the registers:
 *
 *   dune: WHAT: vector 14 (page fault: write, ring 0, no page is there) at rip 0x401136 (function+0x12 in file),
 *   address 0x8 (CR2)
 *
 * what: who could not go on, and why, without a full stop.  cr2: the address of a page fault; ignored for other vectors.
 * Async-signal-safe; 12 KiB of stack.
 */
#define DUNE_REPORT_NO_VECTOR (~0u) /* for `vector`: no exception was the cause */
void dune_report_fatal(const char *what, unsigned vector, const struct dune_tf *tf, uint64_t cr2);

#endif
