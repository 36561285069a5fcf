/* space_lock.c - the lock of address spaces, in host mode and in ring 0; see space.h. */
#include "vm/space_parts.h"

#include <sys/syscall.h>

enum {
	SPINS = 1000, /* before the processor is given away */
	/* Of stack that are there before the lock is taken, so that no page of it is missing later: more than the
	 * deepest path under the lock uses. */
	STACK_PAGES = 3,
};

static struct {
	uint32_t taken;
	bool ring0;         /* by a thread there, */
	uint64_t flags;     /* whose RFLAGS were these */
	const void *holder; /* the address of its dune_guest_self, which is its host side's as well */
} lock;

_Thread_local struct dune_guest_thread *dune_guest_self;

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

/* Whether ring 0 can write at the address without a fault, as the tables in use say.  They lie in the pool, which is in all
 * of them. */
static bool present(uintptr_t address)
{
	uint64_t cr3;
	__asm__ volatile("movq %%cr3, %0" : "=r"(cr3)::"memory");
	const ptent_t *table = (const ptent_t *)PTE_ADDR(cr3);
	for (unsigned level = ROOT_LEVEL;; level--) {
		ptent_t entry = space_load(&table[PDX(level, address)]);
		if ((entry & (PTE_P | PTE_W)) != (PTE_P | PTE_W))
			return false;
		if (!space_is_table(entry, level))
			return true;
		table = space_table_at(entry);
	}
}

/* What the code under the lock uses of the process's memory, besides the library's own: the stack and dune_guest_self.  Without
 * inlining and checks: addresses below the stack pointer are not those of objects. */
__attribute__((noinline, no_sanitize("address", "undefined"))) static bool all_present(uintptr_t stack)
{
	bool good = present((uintptr_t)&dune_guest_self);
	for (unsigned i = 0; i <= STACK_PAGES && good; i++)
		good = present(stack - i * PGSIZE);
	return good;
}

static void touch(uintptr_t address)
{
	__asm__ volatile("lock; orb $0, (%0)" ::"r"(address) : "memory", "cc");
}

__attribute__((noinline, no_sanitize("address", "undefined"))) static void touch_all(uintptr_t stack)
{
	touch((uintptr_t)&dune_guest_self);
	for (unsigned i = 0; i <= STACK_PAGES; i++)
		touch(stack - i * PGSIZE);
}

static bool try_lock(void)
{
	return !__atomic_load_n(&lock.taken, __ATOMIC_RELAXED) &&
	       !__atomic_exchange_n(&lock.taken, 1, __ATOMIC_ACQUIRE);
}

/*
 * Interrupts are on between two tries: whoever holds the lock may wait for this virtual CPU to drop translations.  What is
 * touched may be forgotten by others until the lock is taken, and not afterwards: so it is looked for again then.
 */
void dune_space_lock(void)
{
	bool ring0 = in_ring0();
	const void *me = &dune_guest_self;
	uintptr_t stack = (uintptr_t)__builtin_frame_address(0);
	uint64_t flags = 0;
	for (unsigned tries = 0;; tries++) {
		if (ring0) {
			touch_all(stack); /* cheaper than to look whether that is needed */
			flags = interrupts_off();
		}
		if (try_lock()) {
			if (!ring0 || all_present(stack))
				break;
			__atomic_store_n(&lock.taken, 0, __ATOMIC_RELEASE);
		}
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
	__atomic_store_n(&lock.holder, me, __ATOMIC_RELAXED);
}

void dune_space_unlock(void)
{
	bool ring0 = lock.ring0;
	uint64_t flags = lock.flags;
	__atomic_store_n(&lock.holder, NULL, __ATOMIC_RELAXED);
	__atomic_store_n(&lock.taken, 0, __ATOMIC_RELEASE);
	if (ring0)
		interrupts_restore(flags);
}

bool dune_space_lock_is_mine(void)
{
	return __atomic_load_n(&lock.holder, __ATOMIC_RELAXED) == &dune_guest_self;
}

void dune_space_after_fork(void)
{
	lock.holder = NULL;
	__atomic_store_n(&lock.taken, 0, __ATOMIC_RELEASE);
}
