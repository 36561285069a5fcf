/* signals.h - what signals.c (host side) and deliver.c (ring 0) share. */
#ifndef DUNE_GUEST_SIGNALS_H
#define DUNE_GUEST_SIGNALS_H

#include "guest/guest.h"

#include <ucontext.h>

enum {
	MASK_SIZE = 8 /* bytes of a set of signals, as the kernel has it */
};

/* As rt_sigaction(2) has it. */
struct disposition {
	union {
		void (*handler)(int);
		void (*action)(int, siginfo_t *, void *);
		uint64_t word;
	};
	uint64_t flags;
	void (*restorer)(void);
	uint64_t mask;
};

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

/* struct ucontext's uc_flags. */
enum {
	CONTEXT_XSTATE = 1,
	CONTEXT_SS = 2 | 4
};

static inline uint64_t bit(int number)
{
	return (uint64_t)1 << (number - 1);
}

static inline bool in_set(int number, uint64_t set)
{
	return set & bit(number);
}

static inline bool is_function(const struct disposition *disposition)
{
	return disposition->handler != SIG_DFL && disposition->handler != SIG_IGN;
}

static inline long set_mask(uint64_t mask)
{
	return dune_system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, MASK_SIZE, 0, 0);
}

static inline dune_intr_cb callback_of(int number)
{
	if (DUNE_SIGNAL_INTR_BASE + number >= IDT_ENTRIES)
		return NULL;
	return __atomic_load_n(&dune_handlers.interrupt[DUNE_SIGNAL_INTR_BASE + number], __ATOMIC_ACQUIRE);
}

/* Whether code with this stack pointer is on the alternate stack, so that the next handler goes on there. */
static inline bool on_alternate_stack(const stack_t *alternate, uint64_t stack_pointer)
{
	return !(alternate->ss_flags & (int)(SS_DISABLE | SS_AUTODISARM)) &&
	       stack_pointer - (uint64_t)alternate->ss_sp <= alternate->ss_size;
}

/* What the process has set for a signal.  Async-signal-safe, on both sides. */
struct disposition dune_guest_disposition(int number);
/* A handler that was to be called once.  Returns false if another thread was faster. */
bool dune_guest_use_up(int number, const struct disposition *disposition);

#endif
