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
#define WINDOW_CLEAN_STATE 0x00021000 /* image of a clean vector state, up to 31 pages: user, read-only */
#define WINDOW_DIRECT 0x00060000      /* targets of direct calls: array of struct dune_direct, supervisor */
#define WINDOW_PROCESSORS 0x00100000  /* one area per virtual CPU, see struct dune_processor_area */
#define WINDOW_PROCESSOR_SIZE 0x4000

/* Second GiB, private to each address space. */
#define WINDOW_USER 0x40010000         /* from here on the layer above decides, but for these 64 KiB: */
#define WINDOW_LIFE 0x41f80000         /* struct dune_life: user, read-only */
#define WINDOW_LIFE_MONITOR 0x41f81000 /* the same page for the monitor: supervisor, writable */
#define WINDOW_RANDOM 0x41f82000       /* struct dune_random: user, writable */
#define WINDOW_LIFE_END 0x41f90000

/* Fifth GiB: in the roots of Dune's mirror only. */
#define WINDOW_MIRROR_PROCESSORS \
	0xfc0000000 /* areas of its virtual CPUs: the last GiB, where no compartment has pages */

/* struct dune_life */
#define LIFE_PROCESS_ID 0
#define LIFE_SECONDS 8
#define LIFE_CLOCK_MULTIPLIER 24
#define LIFE_CLOCK_ENTRIES 32
#define LIFE_CLOCK_COUNTER 40
#define LIFE_CLOCK_BASE 48
#define LIFE_DIRECT 2048      /* which direct calls it may make: pairs {handle, offset from WINDOW_DIRECT}, */
#define LIFE_DIRECT_COUNT 256 /* found by the handle's lowest byte */

/* struct dune_random */
#define RANDOM_LEFT 0
#define RANDOM_RESUME 8
#define RANDOM_BYTES 16
#define RANDOM_SIZE 128

/* struct dune_direct: state, then what a call needs */
#define DIRECT_COUNT 1024
#define DIRECT_SIZE 128
#define DIRECT_STATE 0
#define DIRECT_HANDLE 4
#define DIRECT_ROOT 8
#define DIRECT_ENTRY 16
#define DIRECT_TRUSTED 24
#define DIRECT_STACK 32
#define DIRECT_AFTER 40
#define DIRECT_FS_BASE 48
#define DIRECT_CALLS 56
#define DIRECT_GENERATION 64
#define DIRECT_RECORD 72
#define DIRECT_CLOSED 0
#define DIRECT_OPEN 1

/* struct dune_direct_state, part of a virtual CPU's area: what its GS base points to in ring 0 */
#define STATE_TARGET 0
#define STATE_STACK 8
#define STATE_RESULT 16
#define STATE_ROOT 24
#define STATE_FS_BASE 32
#define STATE_GS_BASE 40
#define STATE_ENTER 48
#define STATE_RESUME 56
#define STATE_SELF 64
#define STATE_CALLS 68
#define STATE_FLUSHES 72
#define STATE_RECORD 76
#define STATE_TAGS 80

/* Tags (PCIDs) of compartments' roots: the last ones there are, since programs count their own from 0. */
#define TAG_FIRST 0xfc0
#define TAG_COUNT 64 /* a power of two; a root's record is STATE_TAGS[tag % TAG_COUNT] */
#define CR3_KEEP_BIT 63

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
/* Made by the trampoline itself; getrandom() only where SYSCALL stays in ring 3. */
#define NUMBER_GETRANDOM 318
#define NUMBER_GETTIMEOFDAY 96
#define NUMBER_CLOCK_GETTIME 228
/* And two that are not Linux's: a direct call, and the return from it. */
#define NUMBER_DIRECT_CALL 0x64000001
#define NUMBER_DIRECT_RETURN 0x64000002

/* What they ask from the supervisor where ring 0 cannot do it (the layer above says what the numbers mean). */
#define SERVICE_NUMBER_RETURN 0
#define SERVICE_NUMBER_CALL 2

/* RFLAGS with which ring 3 begins: bit 1, and interrupts on. */
#define FLAGS_CLEAN 0x202

#define MSR_NUMBER_FS_BASE 0xc0000100 /* the next one is GS */

#endif
