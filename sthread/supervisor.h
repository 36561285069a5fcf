/*
 * supervisor.h - the trusted part of libsthread: what its files share.
 *
 * One lock guards everything here; it is released while a virtual CPU runs and while a descriptor is waited for.  Lives
 * of a kind that the thread has run before need it only for reading, which local.h makes cheap.
 * Its objects live in the process's memory, which no compartment can see (compartments have copies from the time of
 * sthread_init(), which held nothing yet).
 */
#ifndef STHREAD_SUPERVISOR_H
#define STHREAD_SUPERVISOR_H

#include <pthread.h>
#include <stdbool.h>

#include "handles.h"
#include "kvm/vcpu.h"
#include "policy.h"
#include "snapshot.h"
#include "sthread.h"

/* Layout of the private part of the window; offsets from the window's start.  Stack, life page and messages are
 * served by one page table. */
#define SPACE_STACK_TOP ((uint64_t)0x41f00000)
#define SPACE_STACK_LOW (SPACE_STACK_TOP - 0x800000)  /* 8 MiB of stack, below it nothing */
#define SPACE_MESSAGE_IN ((uint64_t)WINDOW_LIFE_END)  /* copied gate messages: 16 KiB in, */
#define SPACE_MESSAGE_OUT (SPACE_MESSAGE_IN + 0x4000) /* 16 KiB out, */
#define SPACE_MESSAGE (SPACE_MESSAGE_IN + 0x8000)     /* and the struct cgate_buffer */
#define SPACE_MESSAGE_END (SPACE_MESSAGE_IN + 0x9000)
#define SPACE_ARENA ((uint64_t)0x80000000) /* what mmap() gives */
#define SPACE_ARENA_END ((uint64_t)0xf80000000)

/* Library calls from inside a compartment: the number in RAX. */
enum service {
	SERVICE_RETURN, /* RDI = result */
	SERVICE_PARK,
	SERVICE_GATE,        /* RDI = gate, RSI = argument, RDX = where the result goes */
	SERVICE_GATE_BUFFER, /* RDI = gate, RSI, RDX = message, R10 = answer, R8 = where its length is */
	SERVICE_ALLOCATE,    /* RDI = tag, RSI = size, RDX = alignment */
	SERVICE_FREE,        /* RDI = pointer */
	SERVICE_REALLOCATE,  /* RDI = pointer, RSI = size */
	SERVICE_SIZE,        /* RDI = pointer */
	/* Of gates only: */
	SERVICE_STHREAD_CREATE, /* RDI = policy, RSI = body, RDX = its argument; answers with a handle */
	SERVICE_STHREAD_JOIN,   /* RDI = sthread, RSI = where a struct nested_end goes */
	SERVICE_STHREAD_STEP,   /* RDI = sthread */
	SERVICE_STHREAD_STATE,  /* RDI = sthread; answers with its state */
	SERVICE_STHREAD_KILL,   /* RDI = sthread */
	SERVICE_STHREAD_INFO,   /* RDI = sthread, RSI = where its struct sthread_info goes */
};

_Static_assert((int)SERVICE_RETURN == SERVICE_NUMBER_RETURN, "the monitor asks for it");
_Static_assert((int)SERVICE_GATE == SERVICE_NUMBER_CALL, "the monitor asks for it");

struct supervisor {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* what somebody waits for has stopped, or may go on */
	bool ready;
	bool forked;            /* a child of a process that was ready: the first use rebuilds (fork.c) */
	volatile uint8_t *here; /* not 0 in the process that is ready; wiped in its children, however they are made */
	bool unisolated; /* STHREAD_ISOLATION=off: then there is no machine, and ready stays false (unisolated.h) */
	struct dune_machine *machine;
	struct snapshot snapshot;
	uint64_t files_open, files_max; /* opened by compartments, and how many may be */
	struct handles sthreads, tags, gates, templates;
	pid_t process;             /* the process this belongs to */
	bool no_direct_calls;      /* every gate call exits, even where ring 0 could make it; for tests */
	bool no_habits;            /* the dirty bit of each page is taken away after each life; for tests */
	bool no_dirty_bits;        /* all private pages are restored, even where dirty bits tell which; for tests */
	uint64_t instances;        /* lives so far; also the tenants of virtual CPUs */
	struct dune_totals before; /* what was counted when all this began: the probe's */
	struct sthread_statistics statistics;
};
extern struct supervisor supervisor;

void supervisor_lock(void);
void supervisor_unlock(void);
/* Waits for a condition with the lock held, which is given back meanwhile.  until: by CLOCK_MONOTONIC; NULL: for ever.
 * Returns 0 or ETIMEDOUT. */
int supervisor_wait(pthread_cond_t *condition, const struct timespec *until);

/* True inside a compartment, where the snapshot's copy of one variable says so.  Async-signal-safe. */
bool supervisor_inside(void);
/* True inside a gate, as its life page says. */
bool supervisor_inside_gate(void);
/* Entry check of public functions: 0 in host mode after sthread_init(), else -1 with EPERM.  In the child of a fork the
 * first call makes the child's own machine; then also the errors of that.  Preconditions: the lock is not held. */
int supervisor_enter(void);
/* Whether compartments can run code at this address. */
bool supervisor_has_text(uint64_t address);
/* Inside a compartment: asks the supervisor.  Returns its answer; negative values are errors. */
long supervisor_service(enum service number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e);
/* The same for calls during which others use the virtual CPU: vector registers are lost, control words kept. */
long supervisor_service_yielding(enum service number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e);
/* Makes an answer the result of a public function: 0, or -1 with errno. */
int supervisor_answer(long answer);

bool supervisor_tag_exists(tag_t tag);
bool supervisor_gate_exists(cgate_t gate);
struct open_file *policy_open_file(int handle);

/* A new instance number, and what getpid() answers in that life: never the process's own number, never that of
 * another life still remembered. */
uint64_t supervisor_new_instance(void);
uint32_t supervisor_process_id(uint64_t instance);

/* Handlers of fork(2): what children of this process find.  Errors: ENOMEM. */
int supervisor_watch_forks(void);
/* In the child of a fork: makes its own machine around the snapshot it inherited.  Errors: as sthread_init(). */
int supervisor_rebuild(void);
/* What fork.c has every file do in the child: drop whatever belongs to the parent's compartments.  Nothing in the arenas
 * may be touched, it is not there.  Whoever keeps state about compartments of his own has to be called there too. */
void sthreads_forget(void);
void gates_forget(void);
void tags_forget(void);
void templates_forget(void);
void accounts_forget(void);
void address_spaces_forget(void);

/* Random bytes of the kernel that nobody has got yet. */
struct random_stock {
	uint8_t bytes[4096];
	size_t left;
};
/* Fills buffer with fresh random bytes from the kernel.  stock: for small requests, so that they seldom cost a system call;
 * what is handed out is wiped.  Errors: those of getrandom(2). */
int supervisor_random_from(struct random_stock *stock, void *buffer, size_t size);
int supervisor_random(void *buffer, size_t size);
/* Drops what is kept for small requests. */
void supervisor_random_forget(void);

#endif
