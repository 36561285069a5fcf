/*
 * own_thread_area.h - runs a function while the thread has no thread-local storage of libc: what it finds there is zero.
 * Whoever takes a lock, allocates, or touches errno leaves a trace, or crashes.
 */
#ifndef OWN_THREAD_AREA_H
#define OWN_THREAD_AREA_H

#include <asm/prctl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "placement/system_call.h"

#if defined(__has_attribute) && __has_attribute(no_stack_protector)
#define WITHOUT_CANARY __attribute__((noinline, no_stack_protector))
#else
#define WITHOUT_CANARY __attribute__((noinline, optimize("no-stack-protector")))
#endif

static _Alignas(64) uint8_t own_thread_area[16384];

/* Returns whether the function left the area as it was. */
WITHOUT_CANARY static bool with_own_thread_area(void (*function)(void))
{
	uint64_t libc, canary = 0, middle = (uint64_t)own_thread_area + sizeof own_thread_area / 2;
	for (unsigned i = 0; i < sizeof own_thread_area; i++)
		own_thread_area[i] = 0;
	/* As the ABI wants it: the area begins with its own address. */
	memcpy((void *)middle, &middle, sizeof middle);
	dune_system_call(SYS_arch_prctl, ARCH_GET_FS, (long)&libc, 0, 0, 0, 0);
	dune_system_call(SYS_arch_prctl, ARCH_SET_FS, (long)middle, 0, 0, 0, 0);
	function();
	dune_system_call(SYS_arch_prctl, ARCH_SET_FS, (long)libc, 0, 0, 0, 0);
	memcpy((void *)middle, &canary, sizeof canary);
	for (unsigned i = 0; i < sizeof own_thread_area; i++)
		if (own_thread_area[i])
			return false;
	return true;
}

#endif
