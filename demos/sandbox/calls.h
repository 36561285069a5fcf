/* calls.h - the system calls that the program in the sandbox can make: those of a table, and no other. */
#ifndef SANDBOX_CALLS_H
#define SANDBOX_CALLS_H

#include <dune.h>
#include <stdbool.h>
#include <stdio.h>

#include "program.h"

/* Allows a call that the table has on request only.  Returns false if it has none of that name. */
bool calls_allow(const char *name);
/* Prints the names of the calls that can be allowed. */
void calls_list(FILE *stream);

/* Begins to serve a program. */
void calls_begin(const struct program *program);
/* The handler for dune_register_syscall_handler(). */
void calls_serve(struct dune_tf *tf);

/* How many calls were served, and refused. */
extern unsigned long calls_served, calls_refused;

#endif
