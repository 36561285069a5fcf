/*
 * layout.h - addresses, selectors, ports and vectors shared by the monitor's assembly and the C around it.
 *
 * The monitor lives in the "window": a range of the process's own addresses that is reserved, never mapped in host
 * mode, so nothing of the process can lie there.  Offsets below are from its start, which is aligned to 1 GiB.
 * The first GiB is the same in every address space (one shared page directory); the rest is private to each.
 */
#ifndef DUNE_MONITOR_LAYOUT_H
#define DUNE_MONITOR_LAYOUT_H

/* First GiB, shared. */
#define WINDOW_MONITOR 0x00000000     /* ring-0 code: supervisor, read, execute */
#define WINDOW_DESCRIPTORS 0x00010000 /* IDT (one page), then GDT: supervisor, read-only */
#define WINDOW_TRAMPOLINE 0x00020000  /* ring-3 entry and exit code: user, read, execute */
#define WINDOW_CLEAN_STATE 0x00021000 /* image of a clean vector state: user, read-only */
#define WINDOW_PROCESSORS 0x00100000  /* one area per virtual CPU, see struct dune_processor_area */
#define WINDOW_PROCESSOR_SIZE 0x4000

/* Second GiB, private to each address space. */
#define WINDOW_USER 0x40010000         /* from here on the layer above decides, but for these 64 KiB: */
#define WINDOW_LIFE 0x41f80000         /* struct dune_life: user, read-only */
#define WINDOW_LIFE_MONITOR 0x41f81000 /* the same page for the monitor: supervisor, read-only */
#define WINDOW_LIFE_END 0x41f90000

/* struct dune_life */
#define LIFE_PROCESS_ID 0
#define LIFE_SECONDS 8

/* Selectors, in the order that SYSCALL and SYSRET want.  There is no 32-bit code descriptor and no LDT. */
#define SELECTOR_KERNEL_CODE 0x10
#define SELECTOR_KERNEL_DATA 0x18
#define SELECTOR_SYSRET_BASE 0x23 /* index 4, RPL 3: a null descriptor, the place of 32-bit user code */
#define SELECTOR_USER_DATA 0x2b
#define SELECTOR_USER_CODE 0x33
#define SELECTOR_TSS 0x40
#define DESCRIPTOR_COUNT 10

/* Ports.  OUT to the first two is allowed in ring 3 by the I/O bitmap, where the host honours it. */
#define PORT_SYSTEM_CALL 0x10
#define PORT_SERVICE 0x11
#define PORT_TRAP 0x12
#define PORT_MONITOR 0x13
#define PORT_LAST 0xff

/* Vectors. */
#define VECTOR_EXCEPTIONS 32 /* 0..31, one stub each */
#define VECTOR_SERVICE 32    /* reachable from ring 3 where the I/O bitmap is not honoured */
#define VECTOR_FORBIDDEN 33  /* not in the IDT: the stub behind CSTAR */
#define VECTOR_COUNT 34
#define VECTOR_STUB_SIZE 16

/* System call numbers answered without an exit (Linux, x86-64). */
#define NUMBER_GETPID 39
#define NUMBER_GETTID 186

#endif
