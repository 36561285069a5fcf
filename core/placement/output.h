/* output.h - what Dune mode says on standard error, besides the functions of dune.h. */
#ifndef DUNE_OUTPUT_H
#define DUNE_OUTPUT_H

#include "dune.h"

/* Prints the registers of a trap frame, in rows.  Async-signal-safe. */
void dune_print_registers(const struct dune_tf *tf);

/* Ends the process by SIGABRT, whatever its disposition is.  Async-signal-safe. */
void dune_abort(void) __attribute__((noreturn));

#endif
