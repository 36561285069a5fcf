/*
 * layout.h - guest placement: addresses, offsets and numbers shared by its assembly and the C around it.
 *
 * Lies in the window (monitor/layout.h), in the GiB of the mirror that every address space of programs shares.
 */
#ifndef DUNE_GUEST_LAYOUT_H
#define DUNE_GUEST_LAYOUT_H

#include "monitor/layout.h"

#define WINDOW_GUEST_CODE (WINDOW_MIRROR_PROCESSORS + 0x20000000) /* entry.S: supervisor, read, execute */
#define WINDOW_GUEST_CODE_PAGES 3
#define WINDOW_GUEST_IDT (WINDOW_MIRROR_PROCESSORS + 0x20010000) /* supervisor, read-only */
#define WINDOW_GUEST_PROCESSORS (WINDOW_MIRROR_PROCESSORS + 0x20100000)
#define WINDOW_GUEST_PROCESSORS_MAX 8192
#define WINDOW_GUEST_PROCESSOR_SIZE 0x8000

#define GUEST_VECTORS 256
#define GUEST_STUB_SIZE 16
#define GUEST_VECTOR_EVENT 240 /* the host side has something for this thread */
#define VECTOR_GENERAL_PROTECTION 13
#define GUEST_VECTOR_SYSTEM_CALL 256 /* not the processor's: how the dispatcher knows */

/* struct dune_guest_processor */
#define PROCESSOR_IST1 36 /* in its TSS */
#define PROCESSOR_KERNEL_RSP 0x100
#define PROCESSOR_USER_RSP 0x108
#define PROCESSOR_KERNEL_FS 0x110
#define PROCESSOR_USER_FS 0x118
#define PROCESSOR_TRAP 0x120
#define PROCESSOR_DISPATCH 0x128
#define PROCESSOR_VECTOR_MASK 0x130
#define PROCESSOR_VECTOR_SIZE 0x138
#define PROCESSOR_RUN_HANDLER 0x140
#define PROCESSOR_TRAP_STACKS 0x2000 /* four, used from the top; the page below is not mapped */
#define PROCESSOR_TRAP_STACK_SIZE 0x1000
#define PROCESSOR_TRAP_TOP 0x6000
#define PROCESSOR_FATAL_TOP 0x7000 /* IST2: one page */
#define PROCESSOR_SYSTEM_CALL \
	0x7000 /* a copy of the system-call entry, which finds this processor by its own address */

/* struct dune_tf (dune.h) */
#define TF_RDI 0
#define TF_RSI 8
#define TF_RDX 16
#define TF_RCX 24
#define TF_R8 32
#define TF_R9 40
#define TF_R10 48
#define TF_R11 56
#define TF_RBX 64
#define TF_RBP 72
#define TF_R12 80
#define TF_R13 88
#define TF_R14 96
#define TF_R15 104
#define TF_RAX 112
#define TF_ERR 120
#define TF_RIP 128
#define TF_CS 136
#define TF_RFLAGS 144
#define TF_RSP 152
#define TF_SS 160
#define TF_SIZE 168

/* struct dune_guest_frame: a trap frame on the stack of the handler */
#define FRAME_VECTOR 168
#define FRAME_ADDRESS 176
#define FRAME_SIZE 192

/* struct kvm_regs (linux/kvm.h) */
#define REGS_RAX 0
#define REGS_RBX 8
#define REGS_RCX 16
#define REGS_RDX 24
#define REGS_RSI 32
#define REGS_RDI 40
#define REGS_RSP 48
#define REGS_RBP 56
#define REGS_R8 64
#define REGS_R9 72
#define REGS_R10 80
#define REGS_R11 88
#define REGS_R12 96
#define REGS_R13 104
#define REGS_R14 112
#define REGS_R15 120
#define REGS_RIP 128
#define REGS_RFLAGS 136

/* struct dune_local_state: struct kvm_regs, then */
#define LOCAL_STATE_FS 144
#define LOCAL_STATE_GS 152
#define LOCAL_STATE_LOCAL 160

/* struct dune_guest_child: registers, then */
#define CHILD_SCRATCH 144
#define CHILD_VECTOR 184
#define CHILD_COMPONENTS 192
#define CHILD_MXCSR 200
#define CHILD_CONTROL 204

/* struct dune_guest_start: what lies on the stack when a thread changes between host mode and guest */
#define START_MXCSR 0
#define START_CONTROL 4

/* Calls of ring 0 to the host side: OUT to this port, number in RAX, arguments in RDI, RSI, RDX; answer in RAX. */
#define PORT_GUEST 0x14
#define GUEST_CALL_FILL \
	1 /* RDI = address, RSI = error code, RDX = trap frame: mirror it; 1 done, 0 not the process's */
#define GUEST_CALL_NESTED 2  /* RDI = trap frame of a fault inside the entry code; comes back when it can go on there */
#define GUEST_CALL_DIE 3     /* RDI = trap frame, RSI = vector, RDX = address: report, and end the process */
#define GUEST_CALL_LEAVE 4   /* RDI = stack pointer */
#define GUEST_CALL_SIGNAL 5  /* RDI = trap frame, RSI = struct dune_guest_signal: its default action */
#define GUEST_CALL_INSTALL 6 /* RDI = number of a signal whose handler has changed */

/*
 * Compartments run from ring 0 (compartment.S).  Their code and IDT lie in the GiB of the window that compartments have too;
 * struct dune_local lies at the low end of a page of the thread's struct dune_processor_area, its emergency stack, from whose
 * high end traps of the compartment push.
 */
#define WINDOW_LOCAL_CODE 0x00040000 /* supervisor, read, execute: one page */
#define WINDOW_LOCAL_IDT 0x00050000  /* supervisor, read-only */
#define LOCAL_STUB_SIZE 16
#define LOCAL_STUBS 34     /* vectors 0 to 32, then GUEST_VECTOR_EVENT */
#define LOCAL_STATE 0      /* struct dune_local_state of the thread */
#define LOCAL_ROOT 8       /* the compartment's */
#define LOCAL_OUTER_RSP 16 /* of whoever runs it */
#define LOCAL_OUTER_CR3 24
#define LOCAL_OUTER_FS 32
#define LOCAL_OUTER_GS 40
#define LOCAL_VECTOR 48 /* what ended the run */
#define LOCAL_ERROR 56
#define LOCAL_ADDRESS 64
#define LOCAL_CS 72
#define LOCAL_IDT 80 /* operands of LIDT and LGDT, ten bytes each */
#define LOCAL_OUTER_IDT 96
#define LOCAL_GDT_OPERAND 112
#define LOCAL_KEEP 128 /* bits that CR3 gets on the way back */
#define LOCAL_GDT 136
#define LOCAL_SELECTOR_TSS 0x50
#define DESCRIPTOR_TYPE 5 /* its byte with the type and the present bit */
#define TYPE_TSS_AVAILABLE 0x89

/* RFLAGS of ring 0.  IOPL 3 tells it from ring 3, which has IOPL 0 and cannot change that: the system-call entry looks. */
#define FLAGS_RING0 0x3202
#define FLAGS_IOPL 0x3000
#define FLAGS_INTERRUPTS 0x200

#endif
