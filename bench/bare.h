/*
 * bare.h - exits without libsthread: what the virtual machine itself costs.  Uses libdune's internals.
 */
#ifndef BENCH_BARE_H
#define BENCH_BARE_H

/* Makes an address space with one page that ring 3 may read, and a second one for changes of tenant.  Ends the calling child
 * (measure_fail()) if it cannot.  Preconditions: sthread_init() was successful. */
void bare_prepare(void);

/* Operations: ring 3 reads a byte and asks the supervisor; reads a byte that is not mapped; makes a system call; the first
 * one in one address space and then in the other. */
void bare_run_exit(void *unused);
void bare_run_trap(void *unused);
void bare_run_call(void *unused);
void bare_run_two_tenants(void *unused);

#endif
