/*
 * dune.h - the process's own ring 0 through KVM.
 *
 * Dune gives a program what an operating system has: page tables, exceptions, ring 3 and the TLB, while it stays an
 * ordinary Linux process with ordinary system calls.  Two placements:
 *
 *   guest   dune_enter() moves the calling thread into ring 0 of a virtual machine that mirrors the process.  Exceptions,
 *           page faults and system calls of ring 3 reach the program's handlers without an exit.  Needs a processor whose
 *           ring 0 is native in KVM's guests (VMX or SVM).
 *   host    the thread stays in host mode; only ring 3 (dune_jump_to_user()) runs in the virtual machine, and its
 *           exceptions, page faults and system calls reach the same handlers by exits.  Works wherever KVM does.
 *
 * A program that registers handlers, builds address spaces and runs code in ring 3 works in both unchanged.  What only the
 * guest placement has: exceptions of the program's own code, and that changes in `pgroot` change what it sees itself.
 *
 * Source-compatible with the published interface of the same names.  Unless stated otherwise a function returns 0, or -1
 * with errno (NULL where it returns a pointer), may be called from any thread, in host mode or in ring 0 of the guest, not
 * in ring 3, and is not async-signal-safe.  dune_error() has the sentence behind the last failure.
 */
#ifndef DUNE_H
#define DUNE_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "dune_x86.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DUNE_CHECK_RESULT __attribute__((warn_unused_result))

/* ---- the host ----------------------------------------------------------------------------------------------------- */

/* How a compartment reaches the supervisor. */
enum dune_exit_path {
	DUNE_EXIT_IO_BITMAP, /* OUT in ring 3, allowed by the TSS I/O bitmap */
	DUNE_EXIT_GATE,      /* a software interrupt, then OUT in ring 0 */
};

/* What a host's KVM offers, probed by running code in it. */
struct dune_host {
	char vendor[13];            /* of the processor, as CPUID says */
	bool ring0_native;          /* SYSCALL reaches ring 0; false: ring 0 is interpreted, SYSCALL stays in ring 3 */
	bool shadow_paging;         /* edits of present entries made from outside are not seen */
	bool dirty_bits;            /* the accessed and dirty bits follow what ring 3 does */
	bool pcid, invpcid;         /* tagged TLB */
	bool smep, smap, umip;      /* in use */
	bool xsave;                 /* else FXSAVE */
	uint64_t vector_components; /* XCR0 */
	enum dune_exit_path exit_path;
	unsigned physical_bits;  /* of guest-physical addresses */
	unsigned processors_max; /* virtual CPUs */
	double exit_nanoseconds; /* median of a bare exit from ring 3 and back */
	double trap_nanoseconds; /* median of a page fault in ring 3, reported by an exit, and back */
	double call_nanoseconds; /* median of a system call in ring 3, reported by an exit, and back */
	bool ring3_clocks;       /* compartments read clocks from the time-stamp counter, without a call */
	/* What is restored of a finished sthread.  NULL: the pages that the dirty bits tell, and a few in any case; else all that
	 * were copied, because of this. */
	const char *recycling_copies;
	bool dirty_bits_cached; /* a dirty bit that is cleared stays clear until the TLB is flushed */
};

/* Opens KVM, makes the process's virtual machine if there is none yet, and says what the host offers.
 * Returns 0, or -1 with errno: ENOENT, EACCES, ENOTSUP, ENOMEM; dune_error() has the sentence.
 * Called from: host mode, any thread. */
int dune_probe(struct dune_host *host) __attribute__((warn_unused_result));

/* The sentence behind the calling thread's last failure in libdune: cause and cure.  Never NULL. */
const char *dune_error(void);

/* ---- entering and leaving ---------------------------------------------------------------------------------------- */

/* Where handlers run, see above. */
enum dune_placement {
	DUNE_PLACEMENT_GUEST, /* or fail where ring 0 is interpreted: the default */
	DUNE_PLACEMENT_HOST,
	DUNE_PLACEMENT_ANY, /* guest where that works, else host */
};

/*
 * Chooses the placement for the process.  The environment variable DUNE_PLACEMENT (guest, host, any) is the default for
 * programs that do not call it; it is ignored in set-user-ID programs.
 * Preconditions: before dune_init().  Errors: EBUSY after it; EINVAL.
 */
int dune_set_placement(enum dune_placement placement) DUNE_CHECK_RESULT;

/* The placement in effect: GUEST or HOST once dune_init() has succeeded, else the one chosen. */
enum dune_placement dune_get_placement(void);

/*
 * Makes the virtual machine, the page pool and `pgroot`.  map_full: kept for published programs; memory is mirrored when
 * it is first touched, whatever it says.  A second call does nothing.
 * Errors: those of dune_probe(); ENOTSUP: ring 0 is interpreted here and guest placement was asked for (the sentence says
 * how to choose host placement); ENOMEM: addresses that the library needs are taken; ENOSPC: KVM has no memory slot left.
 * Called from: host mode.
 */
int dune_init(bool map_full) DUNE_CHECK_RESULT;

/*
 * Guest placement: when it returns 0, the calling thread runs in ring 0 of the guest, with its stack, libc, files and
 * thread-local storage as before; its system calls are forwarded by one exit each.  Each thread enters for itself; new
 * threads and children of fork() begin in host mode.
 * Host placement: prepares the calling thread for dune_jump_to_user().
 * Errors: EINVAL before dune_init(); EALREADY: this thread has entered; EAGAIN: no virtual CPU left; ENOMEM; KVM's.
 */
int dune_enter(void) DUNE_CHECK_RESULT;

/* dune_init(true), then dune_enter(). */
static inline int dune_init_and_enter(void)
{
	int result = dune_init(true);
	return result ? result : dune_enter();
}

/* Takes the calling thread back to host mode; it can enter again.  Errors: EINVAL: it is not in Dune mode, or it serves
 * ring-3 code (inside dune_jump_to_user()). */
int dune_leave(void);

/* Whether the calling thread runs in ring 0 of the guest.  Async-signal-safe. */
bool dune_in_guest(void);

/* ---- traps -------------------------------------------------------------------------------------------------------- */

/* The registers of interrupted code, as the entry code stores them.  A handler may change all of them. */
struct dune_tf {
	uint64_t rdi, rsi, rdx, rcx, r8, r9, r10, r11;
	uint64_t rbx, rbp, r12, r13, r14, r15;
	uint64_t rax; /* number and result of a system call */
	uint32_t err; /* error code of the exception, or 0 */
	uint32_t reserved1;
	uint64_t rip;
	uint16_t cs;
	uint16_t reserved2[3];
	uint64_t rflags;
	uint64_t rsp;
	uint16_t ss;
	uint16_t reserved3[3];
} __attribute__((packed));

/* Arguments of a function call in a trap frame.  The fourth argument of a system call is in r10. */
#define ARG0(tf) ((tf)->rdi)
#define ARG1(tf) ((tf)->rsi)
#define ARG2(tf) ((tf)->rdx)
#define ARG3(tf) ((tf)->rcx)
#define ARG4(tf) ((tf)->r8)
#define ARG5(tf) ((tf)->r9)

/* Vector of the interrupt by which Linux signal number 0 would come, see dune_register_signal_handler(). */
#define DUNE_SIGNAL_INTR_BASE 200

/*
 * Handlers run on the stack of the interrupted code (below its red zone), or, for ring 3, on the stack of the thread that
 * called dune_jump_to_user(); interrupts are on, all vector registers are preserved.  They may be left by
 * dune_ret_from_user() or longjmp().
 */
typedef void (*dune_intr_cb)(struct dune_tf *tf);
typedef void (*dune_pgflt_cb)(uintptr_t address, uint64_t error_code, struct dune_tf *tf);
typedef void (*dune_syscall_cb)(struct dune_tf *tf);

/* Registers the process's handler for an exception, for ring 0 and ring 3; NULL: none.  What nobody handles becomes the
 * signal that Linux would send; if a handler of that signal returns, the instruction is tried again.  Errors: EINVAL: vector
 * is not 0..255, or belongs to libdune (2, 8, 18 and 240). */
int dune_register_intr_handler(int vector, dune_intr_cb callback);

/* The handler that a Linux signal reaches while the receiving thread is in Dune mode, as an interrupt on vector
 * DUNE_SIGNAL_INTR_BASE + number; NULL: the process's own disposition holds again.  Errors: EINVAL, also SIGKILL, SIGSTOP.
 * Where the signal interrupts ring 3, nothing more is blocked while the handler runs; else the signal itself is, until it returns.
 * System calls that it interrupts go on, unless the process has a handler of its own without SA_RESTART.
 * Host placement: when the signal interrupts the thread's own code, the handler may call only what is async-signal-safe. */
int dune_register_signal_handler(int number, dune_intr_cb callback);

/* The process's handler for page faults; NULL: none.  It does not see those by which memory is mirrored. */
void dune_register_pgflt_handler(dune_pgflt_cb callback);

/* The process's handler for system calls that ring 3 makes; NULL: they fail with ENOSYS.  The result goes into tf->rax. */
void dune_register_syscall_handler(dune_syscall_cb callback);

/*
 * Runs ring-3 code: tf's rip, rsp, rflags and general registers; cs and ss are chosen by the library, the vector state is
 * the caller's.  Returns what dune_ret_from_user() is given, or -1 with errno: EPERM: the thread is not in Dune mode.
 * Host placement also: ENOMEM; EFAULT: ring 3 has used memory that its tables map and that the process does not have (any
 * more), or not with that right; EIO: the virtual CPU cannot go on, for instance because no memory is at a guest-physical
 * address that its tables map.  The thread is still in Dune mode then.
 * May be nested (called by a handler).
 */
int dune_jump_to_user(struct dune_tf *tf);

/* Ends the innermost dune_jump_to_user() of the calling thread, which then returns `result`.
 * Preconditions: called by a handler that ring 3 has trapped into. */
void dune_ret_from_user(int result) __attribute__((noreturn));

/* Continues at a trap frame, in the ring that its cs names.  Guest placement only, ring 0. */
void dune_pop_trap_frame(struct dune_tf *tf) __attribute__((noreturn));

/* Makes the system call that a trap frame describes (number in rax; rdi, rsi, rdx, r10, r8, r9) for the process, and puts
 * the kernel's answer into rax. */
void dune_passthrough_syscall(struct dune_tf *tf);

/* Prints a trap frame with the symbol at rip, on standard error.  Async-signal-safe. */
void dune_dump_trap_frame(struct dune_tf *tf);

/* The FS base of ring-3 code run by the calling thread: a user address.  It is the thread's: a handler that jumps to other
 * ring-3 code sets it anew before it returns.  (The GS base is each jump's own.) */
unsigned long dune_get_user_fs(void);
void dune_set_user_fs(unsigned long fs_base);

/* ---- pages -------------------------------------------------------------------------------------------------------- */

/*
 * The pool: memory that the library owns and that programs may use for pages and tables.  Its guest-physical addresses
 * are its virtual addresses, in host mode and in every address space.
 */
typedef uint64_t ptent_t;
typedef uint64_t physaddr_t;

SLIST_HEAD(page_head, page);
typedef SLIST_ENTRY(page) page_entry_t;

struct page {
	page_entry_t link; /* the program's, while it holds a reference */
	uint64_t ref;
};

extern struct page *pages;
extern int num_pages;

/* Start of the pool; 0 before dune_init(). */
uintptr_t dune_page_base(void);
#define PAGEBASE dune_page_base()

/* Returns a page with one reference and unspecified contents; NULL and ENOMEM. */
struct page *dune_page_alloc(void);
/* Gives back a page whatever its references; nothing may map it any more. */
void dune_page_free(struct page *page);
/* One reference more; returns page.  NULL and EINVAL: it is free, or not the pool's. */
struct page *dune_page_get(struct page *page);
/* One reference less; the last one frees it. */
void dune_page_put(struct page *page);
/* Preconditions: the page belongs to the pool. */
struct page *dune_pa2page(physaddr_t address);
physaddr_t dune_page2pa(struct page *page);
bool dune_page_isfrompool(physaddr_t address);
/* Prints how many pages are in use, on standard error. */
void dune_page_stats(void);

/* ---- address spaces ------------------------------------------------------------------------------------------------ */

/* The root of the process's own address space.  Entries that are 0 follow the process's mappings (guest placement). */
extern ptent_t *pgroot;

/* The guest-physical address of the process's memory; 0 with ENOSPC when guest-physical addresses or memory slots are
 * used up, ENOMEM. Any address of the process, mapped or not. */
uintptr_t dune_va_to_pa(void *address);
#define dune_mmap_addr_to_pa(address) dune_va_to_pa(address)
#define dune_stack_addr_to_pa(address) dune_va_to_pa(address)

#define PERM_NONE 0
#define PERM_R 0x0001
#define PERM_W 0x0002
#define PERM_X 0x0004
#define PERM_U 0x0008       /* ring 3 may use it */
#define PERM_UC 0x0010      /* not cached */
#define PERM_COW 0x0020     /* read-only and PTE_COW */
#define PERM_BIG 0x0100     /* pages of 2 MiB */
#define PERM_BIG_1GB 0x0200 /* pages of 1 GiB */
#define PERM_USR1 0x1000    /* PTE_USR1 to PTE_USR3 */
#define PERM_USR2 0x2000
#define PERM_USR3 0x4000
#define PERM_SCODE (PERM_R | PERM_X)
#define PERM_STEXT (PERM_R | PERM_W)
#define PERM_SSTACK PERM_STEXT
#define PERM_UCODE (PERM_R | PERM_U | PERM_X)
#define PERM_UTEXT (PERM_R | PERM_U | PERM_W)
#define PERM_USTACK PERM_UTEXT

#define VA_START ((void *)0)
#define VA_END ((void *)-1)

/* How dune_vm_lookup() makes what is missing. */
enum {
	CREATE_NONE = 0,
	CREATE_NORMAL = 1,
	CREATE_BIG = 2,
	CREATE_BIG_1GB = 3
};

/*
 * Changes of an address space.  Addresses and lengths are bytes; a range covers every page that it touches.  All are
 * thread-safe.  When one returns, no virtual CPU uses what it has replaced.  Large pages that a range covers in part are
 * split.  The page pool's own addresses, and those that all address spaces share, cannot be changed.  Each entry of level 0
 * that maps a page of the pool holds a reference to it.  Errors: EINVAL: not a user address, not aligned to PERM_BIG's
 * pages, rights without PERM_R but PERM_NONE; ENOMEM: the pool is empty; ENOSPC: see dune_va_to_pa(); EIO: entries in use
 * could not be replaced, what they lead to is kept.  What was done before a failure stays.
 */

/* Maps [va, va + len) to guest-physical memory from pa on, instead of what was there. */
int dune_vm_map_phys(ptent_t *root, void *va, size_t len, void *pa, int perm) DUNE_CHECK_RESULT;
/* Maps new, zeroed pages of the pool there. */
int dune_vm_map_pages(ptent_t *root, void *va, size_t len, int perm) DUNE_CHECK_RESULT;
/* Maps one page of the pool, which gains a reference. */
int dune_vm_insert_page(ptent_t *root, void *va, struct page *page, int perm) DUNE_CHECK_RESULT;
/* The page of the pool at va, without a new reference; NULL and ENOENT. */
struct page *dune_vm_lookup_page(ptent_t *root, void *va);
/* Changes rights.  What follows the process's mappings gets its own entry first, so that the rights hold.  PERM_NONE: what
 * is mapped stays, and rights given later bring it back. */
int dune_vm_mprotect(ptent_t *root, void *va, size_t len, int perm);
/* Removes what is mapped: an access faults from now on, also where the process has memory.  Pages of the pool lose a
 * reference. */
int dune_vm_unmap(ptent_t *root, void *va, size_t len);
/* Lets [va, va + len) follow the process's mappings again. */
int dune_vm_follow(ptent_t *root, void *va, size_t len);

/* Finds the entry for va: of level 0, or of a large page.  create: makes missing tables down to that level.
 * Errors: ENOENT: a table is missing (CREATE_NONE); EEXIST: a table of smaller pages is there; ENOMEM; EINVAL. */
int dune_vm_lookup(ptent_t *root, void *va, int create, ptent_t **entry);

/* Calls the callback for each present entry between two addresses (end_va included), until it returns something else than
 * 0, and returns that.  va is where the entry's page begins.  The address space must not be changed meanwhile, but for the
 * entry itself. */
typedef int (*page_walk_cb)(const void *argument, ptent_t *entry, void *va);
int dune_vm_page_walk(ptent_t *root, void *start_va, void *end_va, page_walk_cb callback, const void *argument);

/* A new address space that maps what root maps, with tables of its own; pages of the pool gain references.  To be freed
 * with dune_vm_free(). */
ptent_t *dune_vm_clone(ptent_t *root) DUNE_CHECK_RESULT;
/* Gives its tables and references back.  Preconditions: no virtual CPU has it loaded; it is not pgroot. */
void dune_vm_free(ptent_t *root);

/* What happens where no page-fault handler is registered, for handlers that leave a fault to it: copies a PTE_COW page on a write, else sends
 * the calling thread SIGSEGV. */
void dune_vm_default_pgflt_handler(uintptr_t address, uint64_t error_code);

/* Loads a root, as a pointer or an address, with a tag in bits 0 to 11 and CR3_NOFLUSH if wanted; tags and CR3_NOFLUSH
 * are ignored where the host has no tags.  Host placement: the root that ring 3 runs with; loading the one that is loaded
 * already, without CR3_NOFLUSH, is dune_flush_tlb(), loading another one does not replace it.
 * Preconditions: it was made by dune_vm_clone(), or is pgroot. */
void load_cr3(unsigned long cr3);
unsigned long read_cr3(void);

/* Drop translations on the calling thread's virtual CPU: of one page, of all pages under the tag in use.  To be called after
 * the program itself has stored into entries that were present (dune_vm_*() see to it themselves). */
void dune_flush_tlb_one(unsigned long address);
void dune_flush_tlb(void);
/* Drops every translation on every virtual CPU; on return it is done. */
void dune_flush_tlb_all(void);

/* INVPCID (Intel SDM volume 2A): mode 0 one address of one tag, 1 one tag, 2 and 3 all tags.  Where the host has no INVPCID
 * everything is dropped, on this virtual CPU. */
void dune_invpcid(int mode, unsigned pcid, unsigned long address);
/* The published form: the tag is 1. */
#define __invpcid(mode, address) dune_invpcid(mode, 1, address)

/* ---- the process's memory map ---------------------------------------------------------------------------------------- */

#define PROCMAP_TYPE_UNKNOWN 0x00
#define PROCMAP_TYPE_FILE 0x01
#define PROCMAP_TYPE_ANONYMOUS 0x02
#define PROCMAP_TYPE_HEAP 0x03
#define PROCMAP_TYPE_STACK 0x04
#define PROCMAP_TYPE_VSYSCALL 0x05
#define PROCMAP_TYPE_VDSO 0x06
#define PROCMAP_TYPE_VVAR 0x07

struct dune_procmap_entry {
	uintptr_t begin, end;
	uint64_t offset;
	bool r, w, x, p; /* readable, writable, executable, private */
	char *path; /* never NULL; valid during the callback; of a file without a name left it ends in " (deleted)" */
	int type;   /* PROCMAP_TYPE_... */
};

typedef void (*dune_procmap_cb)(const struct dune_procmap_entry *entry);

/* Calls the callback for each mapping of the process, in order of addresses, as they were when it was called.  Where
 * /proc/self/maps cannot be read it is not called: errno and dune_error() say why. */
void dune_procmap_iterate(dune_procmap_cb callback);
/* Prints them, on standard output. */
void dune_procmap_dump(void);

/* ---- ELF files -------------------------------------------------------------------------------------------------------- */

/* An open ELF file (64-bit, x86-64), which was checked: what its headers name lies in it.  The members are for reading;
 * all are zero and fd is -1 after a failed open, and after the close. */
struct dune_elf {
	int fd;             /* -1: from memory */
	unsigned char *mem; /* NULL: from a file */
	int len;            /* bytes of the file, or there */
	Elf64_Ehdr hdr;
	Elf64_Phdr *phdr; /* NULL: there are none */
	Elf64_Shdr *shdr;
	char *shdrstr; /* the sections' names: sh_name is an offset in it */
	void *priv;    /* libdune's */
};

typedef int (*dune_elf_phcb)(struct dune_elf *elf, Elf64_Phdr *phdr);
typedef int (*dune_elf_shcb)(struct dune_elf *elf, const char *name, int number, Elf64_Shdr *shdr);

/* Errors: those of open(2) and read(2); ENOEXEC: not such a file, or damaged (also: segments to be loaded overlap, or are not in
 * the order of their addresses); EFBIG: more than 2 GiB; ENOMEM. */
int dune_elf_open(struct dune_elf *elf, const char *path) DUNE_CHECK_RESULT;
/* The same from memory, which must stay as it is until the close. */
int dune_elf_open_mem(struct dune_elf *elf, void *mem, int len) DUNE_CHECK_RESULT;
/* Gives everything back.  Returns 0.  One that failed to open or is closed already may be closed again. */
int dune_elf_close(struct dune_elf *elf);
/* Prints headers, on standard output. */
int dune_elf_dump(struct dune_elf *elf);
/* Call the callback for each header (also of section 0, which is none) until it returns something else than 0, and
 * return that. */
int dune_elf_iter_sh(struct dune_elf *elf, dune_elf_shcb callback);
int dune_elf_iter_ph(struct dune_elf *elf, dune_elf_phcb callback);
/* Copies a segment to its address plus `offset`, and zeroes the rest of it.  Preconditions: that memory is mapped and
 * writable.  Errors: ENOEXEC: the segment is not all in the file, or not in the range of addresses; those of read(2). */
int dune_elf_load_ph(struct dune_elf *elf, Elf64_Phdr *phdr, off_t offset) DUNE_CHECK_RESULT;

/* ---- utilities ------------------------------------------------------------------------------------------------------- */

typedef void (*sighandler_t)(int); /* as <signal.h> has it with _GNU_SOURCE */

/* printf() on standard error without buffering, locks or allocation: usable in handlers.  Async-signal-safe; errno is left
 * alone.  Knows d i o u x X p c s % with the flags, widths, precisions and lengths (hh h l ll j z t) of printf(); at
 * anything else the rest of the format is copied.  A message of up to 1,024 bytes is one write(2).  Returns the number
 * of bytes, or -1 if they could not all be written. */
int dune_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Ends the process by SIGABRT, whatever its disposition, with a message that names the caller.  Async-signal-safe. */
void dune_die(void) __attribute__((noreturn));
/* mmap(2) and signal(2), under the published names. */
void *dune_mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset);
sighandler_t dune_signal(int number, sighandler_t handler);
/* The time-stamp counter. */
static inline unsigned long dune_get_ticks(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

/* What the calling thread's virtual CPU has done, for measurements. */
struct dune_counters {
	uint64_t exits;         /* that reached user space */
	uint64_t system_calls;  /* forwarded */
	uint64_t mirror_faults; /* page faults by which memory was mirrored */
	uint64_t interrupted;   /* exits that the guest did not ask for: signals, and waiting to deliver them */
};
/* Errors: EINVAL: the thread is not in Dune mode. */
int dune_get_counters(struct dune_counters *counters);

#ifdef __cplusplus
}
#endif
#endif
