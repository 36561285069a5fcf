/* space_lock.c - the lock of address spaces, in host mode and in ring 0; see space.h. */
#include "vm/space_parts.h"

#include <sys/syscall.h>

enum {
	SPINS = 1000, /* before the processor is given away */
	/* Of stack that is touched before the lock is taken, so that no page of it is missing later: more than the
	 * deepest path under the lock uses. */
	STACK_PAGES = 8,
};

static struct {
	uint32_t taken;
	bool ring0;     /* by a thread there, */
	uint64_t flags; /* whose RFLAGS were these */
} lock;

/* Asked of the processor: the host side of a thread that lives in ring 0 takes the lock as well. */
static bool in_ring0(void)
{
	uint64_t selector;
	__asm__("mov %%cs, %0" : "=r"(selector));
	return (selector & 3) == 0;
}

/* Below the red zone, which PUSHF would overwrite. */
static uint64_t interrupts_off(void)
{
	uint64_t flags;
	__asm__ volatile("lea -128(%%rsp), %%rsp; pushf; pop %0; cli; lea 128(%%rsp), %%rsp"
			 : "=r"(flags)
			 :
			 : "memory");
	return flags;
}

static void interrupts_restore(uint64_t flags)
{
	__asm__ volatile("lea -128(%%rsp), %%rsp; push %0; popf; lea 128(%%rsp), %%rsp"
			 :
			 : "r"(flags)
			 : "memory", "cc");
}

/* The system call itself: no errno, no cancellation. */
static void yield(void)
{
	long number = SYS_sched_yield;
	__asm__ volatile("syscall" : "+a"(number) : : "rcx", "r11", "memory");
}

/* Reads below the stack pointer: the address is not that of an object. */
__attribute__((noinline, no_sanitize("address", "undefined"))) static void touch_stack(void)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	for (unsigned i = 1; i <= STACK_PAGES; i++) {
		char byte;
		__asm__ volatile("movb (%1), %0" : "=q"(byte) : "r"(here - i * PGSIZE) : "memory");
	}
}

static bool try_lock(void)
{
	return !__atomic_load_n(&lock.taken, __ATOMIC_RELAXED) &&
	       !__atomic_exchange_n(&lock.taken, 1, __ATOMIC_ACQUIRE);
}

/* Interrupts are on between two tries: whoever holds the lock may wait for this virtual CPU to drop translations. */
void dune_space_lock(void)
{
	bool ring0 = in_ring0();
	uint64_t flags = 0;
	if (ring0)
		touch_stack();
	for (unsigned tries = 0;; tries++) {
		if (ring0)
			flags = interrupts_off();
		if (try_lock())
			break;
		if (ring0)
			interrupts_restore(flags);
		if (tries < SPINS) {
			__builtin_ia32_pause();
		} else {
			yield();
			tries = 0;
		}
	}
	lock.ring0 = ring0;
	lock.flags = flags;
}

void dune_space_unlock(void)
{
	bool ring0 = lock.ring0;
	uint64_t flags = lock.flags;
	__atomic_store_n(&lock.taken, 0, __ATOMIC_RELEASE);
	if (ring0)
		interrupts_restore(flags);
}

void dune_space_after_fork(void)
{
	__atomic_store_n(&lock.taken, 0, __ATOMIC_RELEASE);
}
