/*
 * call_names.h - the names of system calls, for people.
 */
#ifndef STHREAD_CALL_NAMES_H
#define STHREAD_CALL_NAMES_H

#include <stddef.h>

/* The name of a system call without "SYS_", static; NULL if this number had none when the library was built.  Any thread. */
const char *call_name(long number);

#endif
