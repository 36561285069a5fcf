/*
 * system_call.h - system calls without libc: errno is left alone, no lock is taken, nothing is cancelled.
 *
 * For code that runs while the thread may hold any lock of libc: handlers, what a dying process does, the host side of
 * guest placement.
 */
#ifndef DUNE_SYSTEM_CALL_H
#define DUNE_SYSTEM_CALL_H

#include <sys/syscall.h>

/* Makes a system call with up to six arguments.  Returns the kernel's answer: a negative errno on failure.
 * Async-signal-safe; also in ring 0 of the guest. */
static inline long dune_system_call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#endif
