/*
 * dune_x86.h - names of the processor's bits: page-table entries, page-fault error codes, vectors, flags.
 * Sources: AMD64 Architecture Programmer's Manual, volume 2, chapters 5 and 8; Intel SDM volume 3A, chapters 4 and 6.
 */
#ifndef DUNE_X86_H
#define DUNE_X86_H

#include <stdint.h>

/* Pages, and the four levels of tables: 0 the page table, 3 the root. */
#define NPTBITS 9
#define NPTENTRIES (1 << NPTBITS)
#define NPTLVLS 3
#define PGSHIFT 12
#define PGSIZE (1 << PGSHIFT)
#define PGMASK (PGSIZE - 1)
#define BIG_PGSHIFT 21
#define BIG_PGSIZE (1 << BIG_PGSHIFT)
#define BIG_PGMASK (BIG_PGSIZE - 1)
#define HUGE_PGSHIFT 30
#define HUGE_PGSIZE (1 << HUGE_PGSHIFT)
#define HUGE_PGMASK (HUGE_PGSIZE - 1)
#define PGOFF(address) (((uintptr_t)(address)) & PGMASK)
#define PGADDR(address) (((uintptr_t)(address)) & ~(uint64_t)PGMASK)
#define BIG_PGOFF(address) (((uintptr_t)(address)) & BIG_PGMASK)
#define BIG_PGADDR(address) (((uintptr_t)(address)) & ~(uint64_t)BIG_PGMASK)
#define PPN(address) ((address) >> PGSHIFT)
#define PDSHIFT(level) (PGSHIFT + NPTBITS * (level))
#define PDXMASK ((1 << NPTBITS) - 1)
#define PDX(level, address) ((((uintptr_t)(address)) >> PDSHIFT(level)) & PDXMASK)

/* Entries of page tables. */
#define PTE_P ((uint64_t)0x001)   /* present */
#define PTE_W ((uint64_t)0x002)   /* writable */
#define PTE_U ((uint64_t)0x004)   /* ring 3 may use it */
#define PTE_PWT ((uint64_t)0x008) /* write-through */
#define PTE_PCD ((uint64_t)0x010) /* not cached */
#define PTE_A ((uint64_t)0x020)   /* accessed: set by the processor */
#define PTE_D ((uint64_t)0x040)   /* dirty: set by the processor */
#define PTE_PS ((uint64_t)0x080)  /* a large page, in levels 1 and 2 */
#define PTE_PAT ((uint64_t)0x080) /* in level 0 */
#define PTE_G ((uint64_t)0x100)   /* global */
#define PTE_AVAIL ((uint64_t)0xe00)
#define PTE_COW ((uint64_t)0x200)    /* for the program: copy on write */
#define PTE_MIRROR ((uint64_t)0x400) /* libdune's: follows the process's own mapping */
#define PTE_USR1 ((uint64_t)1 << 62) /* for the program; nothing in libdune looks at these three */
#define PTE_USR2 ((uint64_t)1 << 61)
#define PTE_USR3 ((uint64_t)1 << 60)
#define PTE_NX ((uint64_t)1 << 63) /* no instruction fetch */
#define PTE_ADDR(entry) ((uint64_t)(entry) & (uint64_t)0x000ffffffffff000)
#define PTE_FLAGS(entry) ((uint64_t)(entry) & (uint64_t)0xfff0000000000fff)

/* Error codes of page faults. */
#define FEC_P 0x01   /* a right was missing; else the page */
#define FEC_W 0x02   /* a write */
#define FEC_U 0x04   /* by ring 3 */
#define FEC_RSV 0x08 /* a reserved bit was set in an entry */
#define FEC_I 0x10   /* an instruction fetch */

/* Vectors of exceptions. */
#define T_DIVIDE 0
#define T_DEBUG 1
#define T_NMI 2
#define T_BRKPT 3
#define T_OFLOW 4
#define T_BOUND 5
#define T_ILLOP 6
#define T_DEVICE 7
#define T_DBLFLT 8
#define T_TSS 10
#define T_SEGNP 11
#define T_STACK 12
#define T_GPFLT 13
#define T_PGFLT 14
#define T_FPERR 16
#define T_ALIGN 17
#define T_MCHK 18
#define T_SIMDERR 19
#define IDT_ENTRIES 256

/* RFLAGS. */
#define FL_CF 0x00000001
#define FL_PF 0x00000004
#define FL_AF 0x00000010
#define FL_ZF 0x00000040
#define FL_SF 0x00000080
#define FL_TF 0x00000100
#define FL_IF 0x00000200
#define FL_DF 0x00000400
#define FL_OF 0x00000800
#define FL_IOPL_MASK 0x00003000
#define FL_IOPL_3 0x00003000
#define FL_NT 0x00004000
#define FL_RF 0x00010000
#define FL_AC 0x00040000
#define FL_ID 0x00200000

/* CR3: bits 0 to 11 are the tag (PCID) where the host has tags. */
#define CR3_NOFLUSH ((uint64_t)1 << 63) /* load the root and keep what the TLB holds under this tag */
#define CR3_PCID_MASK ((uint64_t)0xfff)

/* Selectors. */
#define GD_KT 0x10
#define GD_KD 0x18
#define GD_UD 0x28
#define GD_UT 0x30

#endif
