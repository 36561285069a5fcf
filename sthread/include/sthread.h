/*
 * sthread.h - compartments inside one process, kept apart by the hardware.
 *
 * An sthread runs a function of this program in an address space of its own (own page table, in a
 * virtual machine that shares nothing else with the process), with default-deny memory, file
 * descriptors and system calls.  What it may touch is named by a policy (sc_t).
 *
 * Conventions.  Every function returns 0 or -1 (pointers: NULL) and sets errno; libraries never print
 * (but one line, if the environment says STHREAD_ISOLATION=off) and never exit.  sthread_error() gives the sentence behind the last failure of the calling thread.
 * All calls are thread-safe; one sc_t and one handle are driven by one thread at a time (EBUSY).
 * Inside an sthread only sthread_park(), cgate_call(), cgate_call_buf(), smalloc(), smemalign(), srealloc() and
 * sfree(), smalloc_on(), smalloc_off() and BOUNDARY_TAG() work; every other call of this header fails there with EPERM.
 * Callgates can create sthreads as well: see <callgate.h>.
 */
#ifndef STHREAD_H
#define STHREAD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define STHREAD_CHECKED __attribute__((warn_unused_result))
#else
#define STHREAD_CHECKED
#endif

typedef int sthread_t;   /* a running or ended compartment: index and generation, never reused while held */
typedef int tag_t;       /* a region of tagged memory: index and generation */
typedef int cgate_t;     /* a callgate, see <callgate.h> */
typedef int sc_frozen_t; /* a policy kept by the library: index and generation */

typedef void *(*stcb_t)(void *); /* the body of an sthread */

/* A policy ("security context").  Opaque, 1 KiB, allocated by the caller, holds no pointer of the caller. */
typedef struct sc {
	uint64_t opaque[128];
} sc_t;

/*
 * Takes the snapshot of the process that every sthread starts from and opens KVM.
 * Call it early in main(), after what sthreads shall find initialised (an SSL_CTX, say) and before any
 * secret is read.  stdio is flushed and freed heap memory is scrubbed.  Of the environment only LANG, LC_*
 * and TZ are visible to sthreads, of the arguments only argv[0]; memory marked MADV_DONTDUMP or MADV_WIPEONFORK,
 * where libraries keep keys and random generators, is not visible at all.
 *
 * Preconditions: the process has one thread.
 * Called from: host mode.  A second call returns 0 and does nothing.
 * In the child of a fork the first call of this header that needs it makes a virtual machine of the child's own; its
 * sthreads start from the parent's snapshot.  The parent's handles are stale there (EBADF); policies, frozen ones
 * too, stay valid.
 * Errors: EBUSY other threads are running; ENOENT, EACCES no /dev/kvm or no right to it; ENOTSUP this KVM
 * lacks what is needed; ENOMEM.  sthread_error() names cause and cure.
 */
int sthread_init(void) STHREAD_CHECKED;

enum sthread_isolation {
	STHREAD_ISOLATION_NOT_STARTED, /* sthread_init() has not been called, or has failed */
	STHREAD_ISOLATION_KVM,         /* sthreads are isolated */
	STHREAD_ISOLATION_OFF,         /* the environment said STHREAD_ISOLATION=off: nothing is isolated */
};
/* What keeps sthreads apart.  Called from: anywhere. */
enum sthread_isolation sthread_isolation(void);
/* Makes sthread_init() fail with EPERM, instead of obeying, if the environment says STHREAD_ISOLATION=off: for programs
 * that hold real secrets.  Call it before sthread_init(); a set-user-ID program needs no such call.
 * Errors: EPERM isolation is off already, or inside an sthread. */
int sthread_require_isolation(void) STHREAD_CHECKED;

/* The one-sentence reason of the calling thread's last failure in this library; never NULL, owned by the
 * library, valid until the thread's next failing call.  Called from: host mode. */
const char *sthread_error(void);

/* ---- policies -------------------------------------------------------------------------------------- */

/* Makes *sc the policy that grants nothing.  Pairs with sc_destroy() if descriptors or paths are added. */
void sc_init(sc_t *sc);
/* Releases the duplicates of descriptors that *sc keeps, and makes it a policy that grants nothing.
 * Running sthreads hold their own.  Preconditions: sc_init() or sc_copy() was called on *sc. */
void sc_destroy(sc_t *sc);
/* Makes *to an independent copy of *from, which must be released on its own.  (A plain assignment copies the
 * words but not the ownership: use that for a policy that only one of the two will destroy.) */
int sc_copy(sc_t *to, const sc_t *from) STHREAD_CHECKED;

/* The sc_*_add functions may be called as statements: the first failure is remembered in the policy, and
 * sthread_create() and cgate_create() then fail with it. */

enum {
	SC_COPY_ON_WRITE = 0x100, /* a right on a tag: what is written goes into a private copy of the page */
};
/* Grants the memory of a tag.  prot: PROT_READ, PROT_READ|PROT_WRITE, or PROT_READ|SC_COPY_ON_WRITE: the sthread may
 * write, but into copies of its own, which nobody else sees and which are gone with it.  As with a private mapping, what
 * others write to a page meanwhile may or may not be seen until it has been copied.
 * Errors: EINVAL bad prot; EBADF no such tag; ENOSPC policy full. */
int sc_mem_add(sc_t *sc, tag_t tag, int prot);
/* Grants the open file behind fd under the same number.  prot: PROT_READ to read from it, PROT_WRITE to write
 * to it.  The policy keeps a close-on-exec duplicate: closing or reusing fd in the process changes nothing.
 * Using it needs no sc_sys_add(): read and write, send and recv, lseek, fstat, poll, dup, close and the like.  Calls that
 * change it for everybody who shares it do (ftruncate, shutdown, setsockopt); O_NONBLOCK is the sthread's own affair.
 * Errors: EBADF; EINVAL bad prot; ENOSPC; EMFILE. */
int sc_fd_add(sc_t *sc, int fd, int prot);
/* Grants files beneath the directory dirfd for calls on names of files: open, stat, access, readlink; with PROT_WRITE
 * also mkdir, unlink, rename.  (sc_sys_add() must allow them as well.)
 * A relative path is looked up beneath the granted directories in the order of the grants, an absolute one
 * beneath the grant whose own path it starts with.  A path can never lead out of the directory (openat2 with
 * RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS); devices and files of proc and sysfs are refused.
 * prot: PROT_READ, PROT_WRITE or both.  Errors: EBADF; ENOTDIR; EINVAL; ENOSPC; EMFILE. */
int sc_path_add(sc_t *sc, int dirfd, int prot);
/* Grants a system call, and with it older and newer forms of the same call (SYS_open and SYS_openat; SYS_stat, SYS_lstat,
 * SYS_newfstatat and SYS_statx; and so on).  docs/system-calls.md says which calls there are and which want this.
 * Errors: EINVAL not a system call number. */
int sc_sys_add(sc_t *sc, int sysno);
/*
 * Conditions on the arguments of system calls, 10 in a policy.  They restrict and grant nothing: a call that is made
 * with other arguments than these is refused like one that was not granted (EPERM, counted, SC_KILL).  Several on one
 * call must all hold.  They concern all calls that are served, those that need no sc_sys_add() as well (a write() on a
 * granted descriptor).  One on SYS_open is one on the corresponding argument of SYS_openat, and the other way round.
 *
 * argument counts from 0 and must be a number, not an address.  It is compared as an unsigned number of 64 bits, after
 * it was cut to what the call takes: what it takes as int is sign-extended, so that value can be AT_FDCWD.
 * Errors: EINVAL no such call, argument or comparison, or one that nothing or everything would pass; ENOSPC.
 */
enum sc_compare {
	SC_EQUAL = 1,
	SC_NOT_EQUAL,
	SC_LESS,
	SC_LESS_OR_EQUAL,
	SC_GREATER,
	SC_GREATER_OR_EQUAL,
};
int sc_sys_filter(sc_t *sc, int sysno, unsigned argument, enum sc_compare compare, uint64_t value);
/* The condition that argument & mask is value. */
int sc_sys_filter_masked(sc_t *sc, int sysno, unsigned argument, uint64_t mask, uint64_t value);
/* Grants calling a gate.  Errors: EBADF no such gate; ENOSPC. */
int sc_cgate_add(sc_t *sc, cgate_t gate);

enum {
	SC_KILL = 1, /* a call that is not granted or not known ends the sthread instead of failing */
};
/* Sets flags of the policy.  Errors: EINVAL unknown flag. */
int sc_flags_add(sc_t *sc, unsigned flags);

/* Budgets: what an sthread may use from its start to its end, or a gate in one call.  One that has used more ends
 * (STHREAD_OUT_OF_...), sthreads that compute within 10 ms.  While an sthread is in a gate the gate's budgets hold,
 * not its own.  The functions fail with EINVAL if *sc was not initialised, EPERM inside an sthread. */

/* Sets how long the sthread may run on a processor in all; 0 restores the default of 10,000 milliseconds.  Counted is
 * the time in it and in what is served for it, by the clock: a busy machine makes it no longer. */
int sc_cpu_budget(sc_t *sc, unsigned milliseconds);
/* Sets after how many milliseconds it ends, the time during which it is parked included; 0, the default: never.
 * A parked one ends when sthread_step(), sthread_join() or an adaptor looks at it next; sthread_join() does so in time. */
int sc_wall_budget(sc_t *sc, unsigned milliseconds);
/* Sets how many calls it may make in all: system calls, granted or not, and calls of this library; 0, the default: no
 * limit.  The call after these ends it. */
int sc_call_budget(sc_t *sc, uint64_t calls);
/* Sets how many descriptors it may hold at a time, granted ones included; 0 restores the default: 64.  What would open
 * one more fails with EMFILE.  Granted ones are there even if they are more. */
int sc_descriptor_limit(sc_t *sc, unsigned count);
/* Sets how much private memory (copied pages, stack, heap growth, page tables) it may use; 0 restores the
 * default of 256 MiB.  mmap() and brk() fail beyond it; touching a page that is too much, itself or by a call that
 * would store there, ends it. */
int sc_memory_quota(sc_t *sc, size_t bytes);

/* Says whether the policy *narrow grants nothing that *wide does not: 0 yes; -1 with EPERM no, and sthread_error()
 * names the right that *wide lacks.  SC_KILL of *wide and its limits bind *narrow; limits that are not set count as
 * their defaults.  Each condition of *wide on an argument must follow from one condition of *narrow, if *narrow can make
 * the call.  Descriptors are compared by open file (their numbers matter only if *wide has conditions on descriptors),
 * directories by directory and mount.  Errors also: EINVAL not a policy; a policy's remembered failure.  Called from: host mode, any thread. */
int sc_is_subset(const sc_t *narrow, const sc_t *wide) STHREAD_CHECKED;
/* Says whether two policies grant the same, whatever the order of the grants: 0 yes; -1 with EPERM no.  Errors as
 * sc_is_subset(). */
int sc_equal(const sc_t *one, const sc_t *other) STHREAD_CHECKED;

/*
 * Makes a policy that the library keeps and that never changes, from count policies in an array: for many sthreads,
 * which then cost no copying and checking of the policy, and for more grants than an sc_t holds (4,096 tags, 4,096 gates,
 * 256 directories, 64 descriptors).  It grants what any of the parts grants; restrictions add up as well: SC_KILL if a
 * part has it, each limit the lowest that a part sets, the conditions of all parts.  It keeps its files open.
 * On success returns a handle that sc_frozen_destroy() must release; the parts can be destroyed.
 * Called from: host mode, any thread.  Errors (-1): EPERM before sthread_init() or inside an sthread; EINVAL no parts, not
 * a policy, or two parts grant different files under one number; ENOSPC; EBADF a descriptor has been released; ENFILE;
 * ENOMEM; else a part's remembered failure.
 */
sc_frozen_t sc_freeze(const sc_t *parts, size_t count) STHREAD_CHECKED;
/* Releases a frozen policy: the handle is gone, the policy when the last sthread or gate that has it is.
 * Errors: EBADF; EPERM. */
int sc_frozen_destroy(sc_frozen_t frozen);
/* sc_is_subset() for frozen policies.  Errors: EPERM it is not, or as above; EBADF. */
int sc_frozen_is_subset(sc_frozen_t narrow, sc_frozen_t wide) STHREAD_CHECKED;

/* ---- templates ------------------------------------------------------------------------------------- */

typedef int sc_template_t; /* memory that lives start from: index and generation */

/*
 * Makes what is costly to make once: runs init(arg) in a compartment with the policy *sc, and when it returns freezes the
 * memory it leaves behind.  Sthreads and gates whose policy names the template (sc_start_from) find their globals, heap and
 * thread-local storage as init left them, shared until they write; each is still a life of its own, with its own instance
 * number, randomness and stack canary, so that libraries which reseed after a fork do.  What init drew itself, keys or
 * random numbers, is the same in all of them.  Descriptors that init opened are closed.
 * Called from: host mode, any thread; it runs init on it, and waits where init waits.
 * Errors (-1): as sthread_create(); EINVAL the policy names a template itself; ECANCELED init did not return; EDEADLK it
 * called sthread_park(); ENOMEM.
 */
sc_template_t sc_template(const sc_t *sc, stcb_t init, void *arg) STHREAD_CHECKED;
/* Runs the template's init again.  Lives that begin after it start from the new memory, running ones are not touched.
 * Errors: EBADF; else as sc_template(), and the template is as before. */
int sc_template_refresh(sc_template_t handle);
/* What init returned the last time.  Errors: EBADF; EINVAL. */
int sc_template_result(sc_template_t handle, void **result);
/* Deletes a template; running lives are not touched, policies that name it grant no life any more (EBADF).
 * Errors: EBADF; EPERM. */
int sc_template_destroy(sc_template_t handle);
/* Lets sthreads and gates with this policy start from a template.  Errors: EBADF; EINVAL it names another already. */
int sc_start_from(sc_t *sc, sc_template_t handle);

/* Write a policy as text to buffer, one grant a line, in an order that does not depend on how it was made: at most size
 * bytes, a zero byte at the end included (buffer may be NULL if size is 0).  Return the length of the whole text, as
 * snprintf(); sc_describe() includes the remembered failure.  Errors (-1): EINVAL not a policy, or no buffer; EBADF no
 * such frozen policy; EOVERFLOW; EPERM inside an sthread, sc_frozen_describe() also before sthread_init().
 * Called from: host mode, any thread. */
int sc_describe(const sc_t *sc, char *buffer, size_t size);
int sc_frozen_describe(sc_frozen_t frozen, char *buffer, size_t size);

enum {
	STHREAD_POLICY_NAME = 32 /* bytes of a policy's name, the final 0 included */
};
/* Gives the policy a name for reports and statistics: 1 to 31 printable characters.  It restricts nothing, and many
 * policies may share one; a copy has the name of its original, a frozen policy the first name among its parts, an
 * sthread of a gate that of the gate.  A process can use 256 names.
 * Called from: host mode, before sthread_init() as well.  Errors: EINVAL; ENOSPC; EPERM inside an sthread or a gate; a
 * policy's remembered failure. */
int sc_name(sc_t *sc, const char *name);

/* ---- sthreads -------------------------------------------------------------------------------------- */

/*
 * Starts cb(arg) in a compartment with the policy *sc and runs it on the calling thread until it ends, parks
 * (it would block) or has spent its slice of 10 ms.  The policy is copied.
 * cb and everything it calls must have been loaded before sthread_init().
 * On success *st is a handle that sthread_join() must release.
 * Called from: host mode, any thread; a gate.
 * Errors: EPERM before sthread_init() or inside an sthread; EINVAL; EBADF the policy names a tag or gate that
 * is gone; EAGAIN too many sthreads; ENOMEM; else the policy's remembered failure.
 */
int sthread_create(sthread_t *st, const sc_t *sc, stcb_t cb, void *arg) STHREAD_CHECKED;

/* The same with a frozen policy, which the sthread keeps alive.  Errors: as sthread_create(); EBADF also no such
 * policy. */
int sthread_create_frozen(sthread_t *st, sc_frozen_t frozen, stcb_t cb, void *arg) STHREAD_CHECKED;

/*
 * Makes sure that there are `count` idle address spaces for lives of this policy and body, made and warm: with page tables,
 * and private copies of the pages that such lives are known to write to, from the lives there were.  The first `count`
 * of them that live at the same time then cost what recycled ones cost.  Nothing of the body is run.
 * Called from: host mode, any thread.
 * Errors: as sthread_create(); EINVAL also count is 0 or more than STHREAD_PREWARM_MAX; EPERM also inside a gate; ENOMEM and
 * EAGAIN not all could be made, those that were stay; EIO KVM has failed.
 */
enum {
	STHREAD_PREWARM_MAX = 4096
};
int sthread_prewarm(const sc_t *sc, stcb_t cb, unsigned count);
/* The same with a frozen policy. */
int sthread_prewarm_frozen(sc_frozen_t frozen, stcb_t cb, unsigned count);

enum sthread_end {
	STHREAD_RETURNED,     /* the body returned */
	STHREAD_EXITED,       /* it called exit() or _exit() */
	STHREAD_FAULTED,      /* it touched what it may not, or raised another exception: vector, error_code, address */
	STHREAD_DENIED,       /* SC_KILL and a call that was not granted: system_call */
	STHREAD_OUT_OF_CPU,   /* its budget of processor time is spent */
	STHREAD_KILLED,       /* sthread_kill() */
	STHREAD_HOST_FAILURE, /* the virtual processor could not go on: system_call holds the exit reason */
	STHREAD_OUT_OF_MEMORY, /* its memory quota, or the memory for all sthreads, is spent */
	STHREAD_OUT_OF_TIME,   /* its wall budget is spent */
	STHREAD_OUT_OF_CALLS,  /* it has made the calls it may make */
};

struct sthread_info {
	enum sthread_end end;
	int exit_status;          /* STHREAD_EXITED: the argument of exit() */
	int system_call;          /* the last call that was refused, -1 if none was */
	unsigned vector;          /* STHREAD_FAULTED: the exception, 14 for a page fault */
	uint64_t error_code;      /* STHREAD_FAULTED: as the processor pushed it */
	uint64_t address;         /* STHREAD_FAULTED, page fault: the address touched */
	uint64_t instruction;     /* STHREAD_FAULTED: the instruction that raised it */
	uint64_t address_space;   /* which address space it ran in (recycled ones keep theirs) */
	uint64_t instance;        /* which life this was; never repeated in the process */
	uint64_t exits;           /* virtual machine exits that reached user space */
	uint64_t traps;           /* exceptions, page faults included */
	uint64_t calls_served;    /* system calls and library calls served */
	uint64_t calls_denied;    /* system calls refused: not granted or not known */
	uint64_t gate_calls;      /* callgates called */
	uint64_t pages_copied;    /* snapshot pages copied on first write, and zeroed pages given */
	uint64_t pages_restored;  /* pages put back to pristine when the address space was recycled for this life */
	uint64_t parks;           /* times it was parked */
	uint64_t run_nanoseconds; /* time spent running and being served: what sc_cpu_budget() limits */
	int recycled;             /* 1: started in an address space that had served before */
};

/* Waits for the end of an sthread (running it on the calling thread while it can run) and releases the handle.
 * Returns 0 and, if ret is not NULL, the body's result in *ret when the body returned; -1 with ECANCELED, the
 * handle released all the same, when it ended otherwise.  Errors: EBADF no such sthread; EBUSY another thread
 * drives it; EPERM inside an sthread; EDEADLK it is parked by sthread_park() and only a step can resume it. */
int sthread_join(sthread_t st, void **ret);
/* The same, and says how it ended. */
int sthread_join_info(sthread_t st, void **ret, struct sthread_info *info);

enum sthread_state {
	STHREAD_ENDED,    /* sthread_join() will not wait */
	STHREAD_RUNNABLE, /* its slice was spent: step it again */
	STHREAD_PARKED,   /* it waits: sthread_wait_fd() says for what */
};

/* Resumes an sthread and runs it on the calling thread until it ends, parks again or has spent its slice.
 * Stepping an ended sthread does nothing.  Errors: EBADF; EBUSY; EPERM. */
int sthread_step(sthread_t st) STHREAD_CHECKED;
/* Says in *state where an sthread stands.  Errors: EBADF; EINVAL; EPERM. */
int sthread_state(sthread_t st, enum sthread_state *state) STHREAD_CHECKED;
/* Says which descriptor of the process, and which events of poll(2), a parked sthread waits for: *fd is -1 when
 * it called sthread_park(), or sleeps.  The descriptor belongs to the library.  Errors: EBADF; EAGAIN it is not parked. */
int sthread_wait_fd(sthread_t st, int *fd, short *events) STHREAD_CHECKED;
/* Says in *nanoseconds until when a parked sthread waits (a sleep, or a poll() with a timeout): a time of
 * CLOCK_MONOTONIC in nanoseconds after which it is to be stepped although no event has come; 0: it waits for ever.
 * Errors: EBADF; EAGAIN it is not parked; EINVAL; EPERM. */
int sthread_wait_deadline(sthread_t st, uint64_t *nanoseconds) STHREAD_CHECKED;
/* Says in *nanoseconds when the wall budget of an sthread is spent (sc_wall_budget), likewise; 0: it has none.  A parked
 * one that is stepped then ends.  Errors: EBADF; EBUSY; EINVAL; EPERM. */
int sthread_wall_deadline(sthread_t st, uint64_t *nanoseconds) STHREAD_CHECKED;
/* Ends an sthread; sthread_join() is still due.  One that another thread drives has ended when that thread's call
 * returns, at once if it runs, within 50 ms if it is being waited for.  Errors: EBADF; EPERM. */
int sthread_kill(sthread_t st) STHREAD_CHECKED;
/* The counters of an sthread so far.  Errors: EBADF; EINVAL; EPERM. */
int sthread_get_info(sthread_t st, struct sthread_info *info) STHREAD_CHECKED;

/* Inside an sthread: gives the processor back and sleeps until the next sthread_step().
 * Errors: EPERM outside an sthread. */
int sthread_park(void);

/* Counters of the process since sthread_init(). */
struct sthread_statistics {
	uint64_t lives;             /* sthreads started */
	uint64_t lives_recycled;    /* of them in a recycled address space */
	uint64_t exits;             /* virtual machine exits that reached user space */
	uint64_t traps;             /* exceptions raised by compartments */
	uint64_t calls_served;      /* system calls and library calls served */
	uint64_t calls_denied;      /* system calls refused */
	uint64_t gate_calls;        /* callgate calls */
	uint64_t monitor_edits;     /* page-table entries changed by the monitor in ring 0 */
	uint64_t pages_copied;      /* private pages made */
	uint64_t pages_restored;    /* private pages put back to pristine, by copying */
	uint64_t address_spaces;    /* address spaces made so far */
	uint64_t frames_used;       /* pages of the pool in use, snapshot included */
	uint64_t snapshot_pages;    /* pages of the snapshot */
	uint64_t table_pages;       /* page tables in use, the snapshot's included; like address spaces they are kept */
	uint64_t pages_clean;       /* private pages that were found pristine, and not copied */
	uint64_t pages_released;    /* private pages given back because lives had stopped writing to them */
	uint64_t tlb_flushes;       /* changes to another address space that dropped what was cached of it, */
	uint64_t tlb_kept;          /* and that kept it: where the host has tags (PCID) */
	uint64_t exits_interrupted; /* of the exits: by signals to the thread, the ends of slices among them */
};
/* Errors: EINVAL; EPERM before sthread_init(). */
int sthread_statistics(struct sthread_statistics *statistics) STHREAD_CHECKED;

/* Sums over the lives of all policies with one name; gates' lives as well, and lives that have not ended. */
struct sthread_policy_statistics {
	uint64_t lives;          /* begun */
	uint64_t lives_recycled; /* of them in a recycled address space */
	uint64_t lives_now;      /* of them not ended */
	uint64_t returned;       /* ended like this: see enum sthread_end; a gate that was destroyed has returned */
	uint64_t exited;
	uint64_t faulted;
	uint64_t denied;
	uint64_t out_of_cpu;
	uint64_t out_of_memory;
	uint64_t out_of_time;
	uint64_t out_of_calls;
	uint64_t killed;
	uint64_t failed; /* STHREAD_HOST_FAILURE */
	uint64_t exits;  /* these as in struct sthread_info */
	uint64_t traps;
	uint64_t calls_served;
	uint64_t calls_denied;
	uint64_t gate_calls;
	uint64_t pages_copied;
	uint64_t pages_restored;
	uint64_t parks;
	uint64_t run_nanoseconds;
};
/* Errors: ENOENT no policy was given this name; EINVAL; EPERM before sthread_init() or inside an sthread. */
int sthread_policy_statistics(const char *name, struct sthread_policy_statistics *statistics) STHREAD_CHECKED;
/* The names given so far, one for each index from 0 on; valid for ever.  Errors (NULL): ENOENT there are fewer; EPERM
 * inside an sthread. */
const char *sthread_policy_name(unsigned index);

/* ---- reports: what went wrong, and where ------------------------------------------------------------- */

enum sthread_violation {
	STHREAD_VIOLATION_FAULT = 1, /* a page fault that its policy does not answer, or another exception */
	STHREAD_VIOLATION_CALL,      /* a system call was refused */
	STHREAD_VIOLATION_GATE,      /* a callgate that it may not call */
	STHREAD_VIOLATION_BUDGET,    /* a budget or its memory quota is spent: end says which */
	STHREAD_VIOLATION_KILLED,    /* sthread_kill() */
	STHREAD_VIOLATION_HOST,      /* the virtual processor could not go on */
};

/* Rights, as bits. */
enum {
	STHREAD_RIGHT_READ = 1,
	STHREAD_RIGHT_WRITE = 2,
	STHREAD_RIGHT_EXECUTE = 4,
	STHREAD_RIGHT_CALL = 8,        /* sc_sys_add(): system_call says which */
	STHREAD_RIGHT_GATE = 16,       /* sc_cgate_add(): gate_called */
	STHREAD_RIGHT_DESCRIPTOR = 32, /* sc_fd_add(): descriptor, for reading or writing if those bits are set */
};

/* What lies at the address of a fault. */
enum sthread_touched {
	STHREAD_TOUCHED_NOTHING,        /* the fault is not about memory */
	STHREAD_TOUCHED_NULL,           /* below 64 KiB: a NULL pointer, or a field of what one should point to */
	STHREAD_TOUCHED_NON_CANONICAL,  /* not an address at all; the one computed from the instruction */
	STHREAD_TOUCHED_KERNEL,         /* the upper half of the addresses */
	STHREAD_TOUCHED_TAG,            /* tagged memory: tag, tag_offset, allocation */
	STHREAD_TOUCHED_NO_TAG,         /* where tags are, but no tag has it: deleted, or never made */
	STHREAD_TOUCHED_TEXT,           /* program text */
	STHREAD_TOUCHED_GLOBAL,         /* data of the program or a library: sthread_symbol() names it */
	STHREAD_TOUCHED_HEAP,           /* the heap of the snapshot, or the sthread's own growth of it */
	STHREAD_TOUCHED_SNAPSHOT,       /* other memory that the process had at sthread_init() */
	STHREAD_TOUCHED_WITHHELD,       /* memory of that time which the snapshot leaves out */
	STHREAD_TOUCHED_HOST_STACK,     /* the stack of the process's first thread */
	STHREAD_TOUCHED_LATER,          /* memory that the process got after sthread_init() */
	STHREAD_TOUCHED_STACK,          /* the sthread's own stack */
	STHREAD_TOUCHED_STACK_OVERFLOW, /* just below it */
	STHREAD_TOUCHED_PRIVATE,        /* memory from mmap() inside, or a gate's message */
	STHREAD_TOUCHED_MONITOR,        /* the monitor, the trampoline, or addresses kept free around them */
	STHREAD_TOUCHED_SUPERVISOR,     /* memory of this library */
	STHREAD_TOUCHED_UNMAPPED,       /* nothing: the process has nothing there either */
};

enum {
	STHREAD_REPORT_FRAMES = 48,
	STHREAD_REGISTERS = 18, /* RAX RBX RCX RDX RSI RDI RBP RSP R8 ... R15 RIP RFLAGS */
};

/* A report.  Plain data: copy it, keep it, format it later, in any thread.  Fields that do not apply are 0, handles
 * and numbers -1.  It holds addresses and registers of the compartment, no memory of it. */
struct sthread_report {
	enum sthread_violation violation;
	int ended;                        /* 1: its life ended of it; 0: the call failed, and it went on */
	enum sthread_end end;             /* how, if it ended */
	sthread_t sthread;                /* -1: the gate was called from host mode */
	cgate_t gate;                     /* the gate that it happened in, -1 in the sthread itself */
	unsigned depth;                   /* gates that it was in */
	char policy[STHREAD_POLICY_NAME]; /* name of the policy, sc_name(); "" if it has none */
	uint64_t instance;                /* which life */
	uint64_t address_space;           /* which address space */
	uint64_t body;                    /* the body of the sthread, the entry of the gate */
	unsigned vector;                  /* FAULT: the exception, */
	uint64_t error_code;              /* as the processor pushed it, */
	uint64_t address;                 /* the address touched (also BUDGET, of memory), */
	enum sthread_touched touched;     /* and what is there */
	unsigned right_needed;            /* STHREAD_RIGHT_* of the access; 0: not known */
	unsigned right_held;              /* of those for the same memory or descriptor */
	tag_t tag;                        /* TOUCHED_TAG */
	int tag_granted;                  /* 1: the policy grants the tag, with right_held */
	uint64_t tag_offset;              /* from the start of the tag's piece of memory that holds the address */
	uint64_t allocation;              /* start of the allocation that holds the address; 0: none does */
	uint64_t allocation_size;
	int system_call;     /* CALL: its number */
	int call_error;      /* CALL, GATE: the errno that the call failed with */
	int descriptor;      /* CALL: the descriptor, if that was the reason */
	cgate_t gate_called; /* GATE */
	uint64_t suppressed; /* reports of refused calls left out since the last one of the process */
	uint64_t registers[STHREAD_REGISTERS];
	unsigned frame_count; /* frames[0] is the instruction, the others return addresses */
	uint64_t frames[STHREAD_REPORT_FRAMES];
};

/*
 * Installs the function that is told of violations in every sthread and gate; NULL: nobody is told.  It replaces the
 * one before, which may still be running in other threads.
 * It is called in host mode by the thread that drove the sthread, before the call that drove it (sthread_create(),
 * step, join, kill; cgate_call()) returns, without any lock of the library.  It may call everything in this header;
 * calls on the sthread it is told of fail with EBUSY.  Violations in what it starts itself are not told to it.
 * A refused call is told once for each call and life, at most 16 in a life and 64 a second in the process.
 * report is valid until it returns.  Errors: EPERM inside an sthread.
 */
int sthread_on_violation(void (*told)(const struct sthread_report *report, void *argument), void *argument);
/* The report of an sthread that has ended, before it is joined.  Errors: EBADF; EBUSY; EPERM; EINVAL; EAGAIN it has not
 * ended; ENODATA it returned or exited, or memory was short. */
int sthread_get_report(sthread_t st, struct sthread_report *report) STHREAD_CHECKED;
/* Writes a report as text of several lines, symbols looked up: at most size bytes, the final 0 included.  Returns the
 * length of the whole text without it, as snprintf() does.  Called from: host mode, any thread, not from signal
 * handlers.  Errors (-1): EINVAL; EPERM. */
int sthread_report_format(const struct sthread_report *report, char *text, size_t size);

struct sthread_symbol {
	char object[256]; /* the file; "" if the address is in none */
	char name[256];   /* the symbol; "" if there is none */
	uint64_t offset;  /* from the symbol, or else in the object */
	char file[256];   /* source file; "" without debugging information */
	int line;
};
/* Says what is at an address of the process.  For a return address ask for the byte before it.
 * Called from: as sthread_report_format().  Errors: ENOENT nothing known; EINVAL; EPERM. */
int sthread_symbol(uint64_t address, struct sthread_symbol *symbol);

/* ---- tagged memory --------------------------------------------------------------------------------- */

/* Makes a tag: a region of memory that can be granted to sthreads.  The process itself can always use it, at
 * the same addresses.  Errors (-1): EPERM before sthread_init() or inside an sthread; ENFILE; ENOMEM. */
tag_t tag_new(void) STHREAD_CHECKED;
/* Deletes a tag and its memory.  When it returns no sthread can reach the memory, running ones included.
 * Errors: EBADF; EPERM. */
int tag_delete(tag_t tag);
/* Allocates size bytes, aligned to 16, zeroed, in a tag.  Inside an sthread the tag must be granted for writing.
 * The allocator's lists are never in the tag.  Errors (NULL): EBADF; ENOMEM; EINVAL size 0; EPERM. */
void *smalloc(tag_t tag, size_t size) STHREAD_CHECKED;
enum {
	SMEMALIGN_MAX = 2 << 20, /* the largest alignment */
};
/* The same, aligned to a power of two up to SMEMALIGN_MAX.  Errors (NULL): as smalloc(), and EINVAL for any other
 * alignment. */
void *smemalign(tag_t tag, size_t alignment, size_t size) STHREAD_CHECKED;
/* Makes an allocation smaller or larger: in place if there is room behind it, else in another place of the same tag,
 * aligned to 16.  What was in it is kept as far as it fits; bytes beyond the old size are zeros.  After a failure the
 * allocation is as it was.  Errors (NULL): EINVAL size 0, or the pointer (NULL too) is not a live allocation, or, inside
 * an sthread, not one of a tag granted for writing; ENOMEM; EPERM. */
void *srealloc(void *pointer, size_t size) STHREAD_CHECKED;
/* Frees what these functions returned; NULL is ignored.  Any other pointer, one that was freed already included,
 * changes nothing and sets errno to EINVAL. */
void sfree(void *pointer);

/* Limits the memory that a tag may hold, what nobody has allocated in it included, to `bytes`, for the process and for
 * sthreads alike: allocations that would make it grow beyond fail with ENOMEM.  A tag grows by whole pages.  A tag
 * that holds more keeps it and does not grow.  0: no limit, as for a new tag.  Errors: EBADF; EPERM. */
int tag_quota(tag_t tag, size_t bytes);

struct tag_statistics {
	size_t bytes_allocated; /* in live allocations, each rounded up to 16 */
	size_t bytes_held;      /* by the tag, allocated or not */
	size_t allocations;     /* that are live */
	size_t quota;           /* 0: none */
};
/* Errors: EBADF; EINVAL; EPERM. */
int tag_statistics(tag_t tag, struct tag_statistics *statistics) STHREAD_CHECKED;

/* Lets malloc() and its family allocate in this tag for the calling thread, until smalloc_off() or another call; free()
 * and realloc() know what is in a tag whatever this says.  Works, in host mode and inside sthreads, in programs that
 * libsthread-malloc.so is loaded into before the C library (smalloc_on(3)).  What the C library, the dynamic linker and
 * this library allocate for themselves stays in the heap.  There is no falling back: malloc() fails when the tag cannot
 * be used or is full.  Errors: ENOSYS that library is not loaded; EBADF no such tag; EPERM before sthread_init(). */
int smalloc_on(tag_t tag) STHREAD_CHECKED;
/* The end of that.  Errors: ENOSYS. */
int smalloc_off(void);

/* ---- tagged globals -------------------------------------------------------------------------------- */

/*
 * BOUNDARY_VAR(definition, id) defines a global variable, at file scope, that is tagged memory and not in the snapshot:
 *
 *	BOUNDARY_VAR(static int requests = 0, 1);
 *	BOUNDARY_VAR(struct key keys[2], KEYS) = { { 1, 2 }, { 3, 4 } };
 *
 * An sthread can reach it, at the same address and as the same memory, only if its policy grants the tag that
 * BOUNDARY_TAG(id) returns; its initial value is as out of reach as any later one.  The id is a number or a name (a
 * macro is expanded).  All globals of one id in the program, or in one library, are one tag, of whole pages; another
 * library that uses the same id has another tag.  A library must be loaded before sthread_init(), and then stays loaded.
 * A child of fork() has its own copy.  Core dumps have none.
 *
 * BOUNDARY_TAG(id) works in the program or library that has such a global (elsewhere it does not link), after
 * sthread_init(), also inside sthreads.  The tag cannot be deleted.  smalloc() from it works as with any tag.
 * Errors (-1): EPERM before sthread_init(); EBADF the library was loaded later.
 */
#define BOUNDARY_VAR(definition, id) STHREAD_BOUNDARY_VAR(id, __COUNTER__, definition)
#define BOUNDARY_TAG(id) STHREAD_BOUNDARY_TAG(id)

/* The rest is what these are made of.  Each source file's part of the section begins at a page, and is padded to whole
 * pages behind all its variables (subsection 1).  The linker defines where the section of one program or library begins
 * and ends. */
#define STHREAD_BOUNDARY_TAG(id) sthread_boundary_tag(STHREAD_BOUNDARY_ADDRESS("__start_sthread_boundary_" #id))
#define STHREAD_BOUNDARY_VAR(id, number, ...) STHREAD_BOUNDARY_DEFINE(id, number, __VA_ARGS__)
#define STHREAD_BOUNDARY_DEFINE(id, number, ...)                                                               \
	__asm__(".pushsection sthread_boundary_" #id ", 1, \"aw\", @progbits\n\t.balign 4096\n\t.popsection"); \
	__attribute__((constructor)) static void sthread_boundary_enter_##number(void)                         \
	{                                                                                                      \
		sthread_boundary_add(STHREAD_BOUNDARY_ADDRESS("__start_sthread_boundary_" #id),                \
				     STHREAD_BOUNDARY_ADDRESS("__stop_sthread_boundary_" #id), #id);           \
	}                                                                                                      \
	__attribute__((section("sthread_boundary_" #id), used)) __VA_ARGS__
#define STHREAD_BOUNDARY_ADDRESS(symbol)                                                             \
	(__extension__({                                                                             \
		void *sthread_address;                                                               \
		__asm__(".hidden " symbol "\n\tleaq " symbol "(%%rip), %0" : "=r"(sthread_address)); \
		sthread_address;                                                                     \
	}))
/* For BOUNDARY_VAR(), before main(): there are such globals. */
void sthread_boundary_add(void *start, void *stop, const char *id);
/* For BOUNDARY_TAG(). */
tag_t sthread_boundary_tag(void *start);

#ifdef __cplusplus
}
#endif
#endif
