/*
 * monitor.h - the monitor's code and structures as seen from C.  Addresses: layout.h.
 */
#ifndef DUNE_MONITOR_H
#define DUNE_MONITOR_H

#include <stddef.h>
#include <stdint.h>

#include "monitor/layout.h"

/* The pieces of monitor.S, as data: they run from their copies in the window. */
extern const uint8_t dune_monitor_begin[], dune_monitor_syscall[], dune_monitor_edit[], dune_monitor_end[];
extern const uint8_t dune_trampoline_begin[], dune_trampoline_enter[], dune_trampoline_enter_fxsave[];
extern const uint8_t dune_trampoline_syscall[], dune_trampoline_service[], dune_trampoline_service_gate[];
extern const uint8_t dune_trampoline_resume_clean[], dune_trampoline_resume_clean_fxsave[];
extern const uint8_t dune_trampoline_resume[], dune_trampoline_time[], dune_trampoline_touch[], dune_trampoline_call[],
	dune_trampoline_end[];

/* What a compartment is told about its life, in the page at WINDOW_LIFE. */
struct dune_life {
	uint32_t process_id; /* what getpid() answers: differs from one life to the next */
	uint32_t is_gate;    /* for the library: policies can be made, because sthreads can be created */
	int64_t seconds; /* what time() answers: set at each entry, so no older than a slice */
	uint64_t instance;
};
_Static_assert(offsetof(struct dune_life, process_id) == LIFE_PROCESS_ID, "monitor.S reads process_id");
_Static_assert(offsetof(struct dune_life, seconds) == LIFE_SECONDS, "monitor.S reads seconds");

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

enum {
	DUNE_EDITS_MAX = 4096 / sizeof(struct dune_edit)
};

/* What each virtual CPU has in the shared GiB of the window; supervisor only. */
struct dune_processor_area {
	struct dune_tss tss __attribute__((aligned(4096)));           /* read-only for the guest */
	uint8_t trap_stack[4096] __attribute__((aligned(4096)));      /* RSP0 */
	uint8_t emergency_stack[4096] __attribute__((aligned(4096))); /* IST1: NMI, double fault, machine check */
	struct dune_edit edits[DUNE_EDITS_MAX] __attribute__((aligned(4096)));
};
_Static_assert(sizeof(struct dune_processor_area) == WINDOW_PROCESSOR_SIZE, "size of a virtual CPU's area");

/* The frame an exception pushes, above the error code if the vector has one. */
struct dune_exception_frame {
	uint64_t rip, cs, rflags, rsp, ss;
};

#endif
