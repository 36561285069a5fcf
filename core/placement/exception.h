/* exception.h - exceptions that nobody handles become the signals that Linux would send. */
#ifndef DUNE_EXCEPTION_H
#define DUNE_EXCEPTION_H

#include <signal.h>
#include <stdint.h>

/* The signal for an exception of user code; 0: none of its own. */
extern const uint8_t dune_exception_signal[32];

/*
 * Says what Linux sends for an exception of user code.  address: CR2 of a page fault; rip: where it was; raised: of a
 * floating-point exception, the bits of the status word that are set and not masked.
 * Async-signal-safe.
 */
void dune_exception_cause(siginfo_t *info, unsigned vector, uint64_t error_code, uintptr_t address, uintptr_t rip,
			  unsigned raised);

/*
 * Sends it to the calling thread.  As with Linux, a thread cannot ignore or block it: then the process ends.  Returns when a
 * handler of the process has returned.  Async-signal-safe.
 */
void dune_exception_send(const siginfo_t *info);

#endif
