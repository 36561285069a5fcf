/*
 * monitor.h - the monitor's code and structures as seen from C.  Addresses: layout.h.
 */
#ifndef DUNE_MONITOR_H
#define DUNE_MONITOR_H

#include <stddef.h>
#include <stdint.h>

#include "monitor/layout.h"

/* The pieces of monitor.S, as data: they run from their copies in the window. */
extern const uint8_t dune_monitor_begin[], dune_monitor_syscall[], dune_monitor_forward[], dune_monitor_edit[],
	dune_monitor_exchange[], dune_monitor_refresh[], dune_monitor_load[], dune_monitor_enter[], dune_monitor_end[];
extern const uint8_t dune_trampoline_random_copy[], dune_trampoline_random_end[];
extern const uint8_t dune_trampoline_begin[], dune_trampoline_enter[], dune_trampoline_enter_fxsave[];
extern const uint8_t dune_trampoline_syscall[], dune_trampoline_forward[], dune_trampoline_service[],
	dune_trampoline_service_gate[];
extern const uint8_t dune_trampoline_resume_clean[], dune_trampoline_resume_clean_fxsave[];
extern const uint8_t dune_trampoline_enter_direct[], dune_trampoline_enter_direct_fxsave[];
extern const uint8_t dune_trampoline_direct_call[], dune_trampoline_direct_done[], dune_trampoline_direct_done_fxsave[];
extern const uint8_t dune_trampoline_direct_back[];
extern const uint8_t dune_trampoline_direct_store[], dune_trampoline_direct_store_fxsave[];
extern const uint8_t dune_trampoline_resume[], dune_trampoline_time[], dune_trampoline_clock[], dune_trampoline_day[],
	dune_trampoline_counter[], dune_trampoline_touch[], dune_trampoline_call[], dune_trampoline_end[];

/* A direct call that a compartment may make.  Ring 3 can read it and knows the handle anyway. */
struct dune_direct_grant {
	uint32_t handle;
	uint32_t offset; /* of the target from WINDOW_DIRECT; 0: the first target, which is never open */
};

/* What a compartment is told about its life, in the page at WINDOW_LIFE. */
struct dune_life {
	uint32_t process_id; /* what getpid() answers: differs from one life to the next */
	uint32_t is_gate;    /* for the library: policies can be made, because sthreads can be created */
	int64_t seconds;     /* what time() answers: set at each entry, so no older than a slice */
	uint64_t instance;
	/* Clocks that ring 3 reads itself (kvm/clock.h). */
	uint64_t clock_multiplier; /* nanoseconds for 2^32 ticks of the counter; 0: the calls are served */
	uint64_t clock_entries;    /* changes with the rest */
	uint64_t clock_counter;    /* when it was */
	uint64_t clock_base[2];    /* CLOCK_REALTIME, CLOCK_MONOTONIC: nanoseconds */
	struct dune_direct_grant direct[LIFE_DIRECT_COUNT] __attribute__((aligned(LIFE_DIRECT)));
};
_Static_assert(offsetof(struct dune_life, direct) == LIFE_DIRECT, "monitor.S reads direct");
_Static_assert(sizeof(struct dune_life) == 4096, "one page");
_Static_assert(offsetof(struct dune_life, process_id) == LIFE_PROCESS_ID, "monitor.S reads process_id");
_Static_assert(offsetof(struct dune_life, seconds) == LIFE_SECONDS, "monitor.S reads seconds");
_Static_assert(offsetof(struct dune_life, clock_multiplier) == LIFE_CLOCK_MULTIPLIER, "monitor.S reads it");
_Static_assert(offsetof(struct dune_life, clock_entries) == LIFE_CLOCK_ENTRIES, "monitor.S reads it");
_Static_assert(offsetof(struct dune_life, clock_counter) == LIFE_CLOCK_COUNTER, "monitor.S reads it");
_Static_assert(offsetof(struct dune_life, clock_base) == LIFE_CLOCK_BASE, "monitor.S reads it");

/* Random bytes of this life, at WINDOW_RANDOM.  The trampoline hands them out from the end and wipes them.  Ring 3 can change
 * all of it, to its own harm: the supervisor believes nothing that it reads here. */
struct dune_random {
	uint32_t left; /* bytes not handed out yet; 0: getrandom() is a served call */
	uint32_t unused;
	uint64_t resume; /* of the call under way: where it returns to */
	uint8_t bytes[RANDOM_SIZE];
};
_Static_assert(offsetof(struct dune_random, left) == RANDOM_LEFT, "monitor.S uses left");
_Static_assert(offsetof(struct dune_random, resume) == RANDOM_RESUME, "monitor.S uses resume");
_Static_assert(offsetof(struct dune_random, bytes) == RANDOM_BYTES, "monitor.S uses bytes");

/* 64-bit TSS with an I/O bitmap for ports 0..PORT_LAST (AMD64 APM vol. 2, 12.2.5 and 12.2.4). */
struct dune_tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t ist[7];
	uint64_t reserved2;
	uint16_t reserved3;
	uint16_t bitmap_offset;
	uint8_t bitmap[(PORT_LAST + 1) / 8];
	uint8_t bitmap_end; /* all ones: required by the processor */
} __attribute__((packed));
_Static_assert(offsetof(struct dune_tss, bitmap) == 0x68, "TSS layout");

struct dune_edit {
	uint64_t entry; /* address of the page-table entry in the edit root */
	uint64_t value;
};

/*
 * The target of direct calls: a function in another address space, which ring 0 enters without an exit.  Supervisor
 * memory in the shared GiB of the window; written by the supervisor while it is closed.  See kvm/direct.h.
 */
struct dune_direct {
	uint32_t state; /* DIRECT_CLOSED, DIRECT_OPEN, or which virtual CPU is in it: its dune_direct_state.self */
	uint32_t handle;
	uint64_t root;           /* with its tag, and CR3_NOFLUSH where there are tags */
	uint64_t entry, trusted; /* the function, and its second argument */
	uint64_t stack;          /* top of an empty stack */
	uint64_t after;          /* function to call after it, or 0 */
	uint64_t fs_base;
	uint64_t calls;      /* begun, counted by ring 0 */
	uint64_t generation; /* of the root; 0 where there are no tags */
	uint32_t record;     /* of the tag: its offset in struct dune_direct_state */
	uint32_t reserved[13];
};
_Static_assert(sizeof(struct dune_direct) == DIRECT_SIZE, "monitor.S knows it");
_Static_assert(offsetof(struct dune_direct, state) == DIRECT_STATE, "monitor.S reads state");
_Static_assert(offsetof(struct dune_direct, handle) == DIRECT_HANDLE, "monitor.S reads handle");
_Static_assert(offsetof(struct dune_direct, root) == DIRECT_ROOT, "monitor.S reads root");
_Static_assert(offsetof(struct dune_direct, entry) == DIRECT_ENTRY, "monitor.S reads entry");
_Static_assert(offsetof(struct dune_direct, trusted) == DIRECT_TRUSTED, "monitor.S reads trusted");
_Static_assert(offsetof(struct dune_direct, stack) == DIRECT_STACK, "monitor.S reads stack");
_Static_assert(offsetof(struct dune_direct, after) == DIRECT_AFTER, "monitor.S reads after");
_Static_assert(offsetof(struct dune_direct, calls) == DIRECT_CALLS, "monitor.S counts in calls");
_Static_assert(offsetof(struct dune_direct, fs_base) == DIRECT_FS_BASE, "monitor.S reads fs_base");
_Static_assert(offsetof(struct dune_direct, generation) == DIRECT_GENERATION, "monitor.S reads generation");
_Static_assert(offsetof(struct dune_direct, record) == DIRECT_RECORD, "monitor.S reads record");

/* The direct calls of one virtual CPU.  The first three are written by ring 0 when a call begins, the rest by the
 * supervisor before it lets ring 3 run. */
struct dune_direct_state {
	uint64_t target;                 /* address of the struct dune_direct that it is in; 0: none */
	uint64_t stack;                  /* the caller's RSP */
	uint64_t result;                 /* where the caller wants the result */
	uint64_t root, fs_base, gs_base; /* the caller's */
	uint64_t enter, resume;          /* in the trampoline: where a target begins, where its caller goes on */
	uint32_t self;                   /* marks targets as taken by this virtual CPU; 0: calls have to exit */
	uint32_t calls;                  /* begun since the supervisor looked, */
	uint32_t flushes;                /* and those that had to flush the target's tag */
	uint32_t record;                 /* of the caller's tag: its offset in here */
	uint64_t tags[TAG_COUNT];        /* for each tag the generation whose translations are under it: kvm/tags.h */
};
_Static_assert(offsetof(struct dune_direct_state, target) == STATE_TARGET, "monitor.S uses target");
_Static_assert(offsetof(struct dune_direct_state, stack) == STATE_STACK, "monitor.S uses stack");
_Static_assert(offsetof(struct dune_direct_state, result) == STATE_RESULT, "monitor.S uses result");
_Static_assert(offsetof(struct dune_direct_state, root) == STATE_ROOT, "monitor.S uses root");
_Static_assert(offsetof(struct dune_direct_state, fs_base) == STATE_FS_BASE, "monitor.S uses fs_base");
_Static_assert(offsetof(struct dune_direct_state, gs_base) == STATE_GS_BASE, "monitor.S uses gs_base");
_Static_assert(offsetof(struct dune_direct_state, enter) == STATE_ENTER, "monitor.S uses enter");
_Static_assert(offsetof(struct dune_direct_state, resume) == STATE_RESUME, "monitor.S uses resume");
_Static_assert(offsetof(struct dune_direct_state, self) == STATE_SELF, "monitor.S uses self");
_Static_assert(offsetof(struct dune_direct_state, calls) == STATE_CALLS, "monitor.S uses calls");
_Static_assert(offsetof(struct dune_direct_state, flushes) == STATE_FLUSHES, "monitor.S uses flushes");
_Static_assert(offsetof(struct dune_direct_state, record) == STATE_RECORD, "monitor.S uses record");
_Static_assert(offsetof(struct dune_direct_state, tags) == STATE_TAGS, "monitor.S uses tags");

enum {
	DUNE_EDITS_MAX = (4096 - sizeof(struct dune_direct_state)) / sizeof(struct dune_edit)
};

/* What each virtual CPU has in the shared GiB of the window; supervisor only. */
struct dune_processor_area {
	struct dune_tss tss __attribute__((aligned(4096)));      /* read-only for the guest */
	uint8_t trap_stack[4096] __attribute__((aligned(4096))); /* RSP0 */
	uint8_t emergency_stack[4096]
		__attribute__((aligned(4096))); /* IST1: debug, NMI, double fault, machine check */
	struct dune_edit edits[DUNE_EDITS_MAX] __attribute__((aligned(4096)));
	struct dune_direct_state direct;
};
_Static_assert(sizeof(struct dune_processor_area) == WINDOW_PROCESSOR_SIZE, "size of a virtual CPU's area");

/* Fills an interrupt gate of the IDT (AMD64 APM vol. 2, 4.8.4).  privilege: the ring from which INT may use it; stack: 0 for
 * RSP0, 1 and more for the stacks of the IST. */
static inline void dune_gate_fill(uint64_t *idt, unsigned vector, uint64_t handler, uint64_t privilege, uint64_t stack)
{
	idt[2 * vector + 1] = handler >> 32;
	idt[2 * vector] = (handler & 0xffff) | (uint64_t)SELECTOR_KERNEL_CODE << 16 | stack << 32 | 0x8eull << 40 |
			  privilege << 45 | (handler >> 16 & 0xffff) << 48;
}

/* The frame an exception pushes, above the error code if the vector has one. */
struct dune_exception_frame {
	uint64_t rip, cs, rflags, rsp, ss;
};

#endif
