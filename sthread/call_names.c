/*
 * call_names.c - the names of system calls, for people.
 */
#include "call_names.h"

/* [number] = "name", for each call of <asm/unistd_64.h>: written by a rule of the makefile. */
static const char *const names[] = {
#include "sthread/call_names.inc"
};

const char *call_name(long number)
{
	return number >= 0 && number < (long)(sizeof names / sizeof *names) ? names[number] : NULL;
}
