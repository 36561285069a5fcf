/* program.h - the program in the sandbox: from its file to the first instruction. */
#ifndef SANDBOX_PROGRAM_H
#define SANDBOX_PROGRAM_H

#include <stdint.h>

struct program {
	uintptr_t entry, stack;   /* where it begins, and its stack pointer there */
	uintptr_t heap, heap_end; /* what brk() may give: from heap to heap_end */
	uintptr_t start, end;     /* of its image */
};

/*
 * Loads a static executable, position-independent or not, into the sandbox's memory, with a stack that holds its arguments.
 * It gets no environment.  Returns 0, or -1 after a message on standard error.
 */
int program_load(struct program *program, const char *path, char **arguments);

#endif
