/*
 * compartment.h - one life: an address space, a policy, descriptors, registers.  An sthread is a stack of them: its
 * own, and the gates it is in.  Caller holds the supervisor lock.
 */
#ifndef STHREAD_COMPARTMENT_H
#define STHREAD_COMPARTMENT_H

#include "address_space.h"
#include "callgate.h"

enum {
	COMPARTMENT_FILES = 64,
	KILL_NOTICED_NANOSECONDS = 50 * 1000 * 1000, /* by a thread that waits for a descriptor */
	COMPARTMENT_REFUSALS = 16,                   /* refused calls reported of one life */
};

struct descriptor {
	struct open_file *file; /* NULL: free */
	int number;
	int prot;
	enum {
		AS_ITS_FILE, /* calls wait unless the open file has O_NONBLOCK */
		BLOCKS,      /* or as it was said with fcntl(): the open file may be shared, and is left alone */
		NEVER_BLOCKS
	} blocking;
};

/* A call that waits is served again when it may go on; this is kept from its first serving to its answer. */
struct pending_call {
	bool begun;
	uint64_t deadline;     /* as in struct wait */
	uint64_t done;         /* bytes moved so far */
	struct open_file *set; /* an epoll descriptor over all that it waits for; or NULL */
};

struct compartment {
	struct address_space *space;
	const struct policy *policy;                /* while the life lasts */
	struct descriptor files[COMPARTMENT_FILES]; /* numbers are the compartment's own */
	uint8_t file_places[COMPARTMENT_FILES];     /* for descriptor_find() */
	struct memory_shape memory;
	uint64_t tag_growth; /* bytes that tags grew by for it: within the same quota */
	struct pending_call pending;
	uint64_t instance;
	/* What this life, or this call of a gate, has used up: see budget.h. */
	uint64_t run_nanoseconds;
	uint64_t calls;
	uint64_t deadline; /* when its wall budget is spent, by slice_clock(); 0: it has none */
	bool out_of_memory;
	struct sthread_info info;
	uint64_t function; /* the body, or the gate's entry */
	int refusal_told[COMPARTMENT_REFUSALS];
	unsigned refusals_told;
};

/* The state that lives of a policy start from; NULL with EBADF if its template is gone (template.c). */
struct pristine *template_state(const struct policy *policy);

/* Begins a life: takes an address space for the policy and the function it will run, and opens its files.  Takes a
 * reference of its own to the policy, which policy_new() made.  On failure nothing is held.
 * May release the lock meanwhile: whoever could find the compartment must see that it is in use (busy, claimed), and
 * compartment_forget() must be called for it in the child of a fork.
 * Errors: as address_space_take(); EBADF a file of the policy is gone; EMFILE it has too many. */
int compartment_begin(struct compartment *compartment, const struct policy *policy, uint64_t function);
/* The same for the policy and the function of the last life in the address space, which the caller keeps, in a stretch
 * (local.h) too.  The compartment is all zeros, and takes no reference.  On failure nothing is held. */
int compartment_begin_again(struct compartment *compartment, const struct policy *policy, uint64_t function,
			    struct address_space *space);
/* Sets the registers for a call of function(first, second) from the trampoline. */
void compartment_call(struct compartment *compartment, uint64_t function, uint64_t first, uint64_t second, bool flush);
/* What such a call calls after it with `flush`: an address in the compartment; 0 if it can write to no file. */
uint64_t compartment_after(const struct compartment *compartment);
/* Ends a life: closes its files, gives the address space back. */
void compartment_end(struct compartment *compartment);
/* In the child of a fork: closes the files of one of the parent's. */
void compartment_forget(struct compartment *compartment);

/*
 * Host work that may take long, on files and file systems, and restoring of many pages, is done between these two, without the supervisor lock.
 * Both keep errno.  Meanwhile
 *   the compartment, its policy, its descriptors and the open files behind them stay: only the thread that drives the
 *   sthread changes or ends them, and that is the caller (sthread->busy, a gate's instance is claimed);
 *   the memory that address_space_pieces() described stays what it was: a tag that is being deleted is waited for;
 *   everything else may change: handles of others end, tags are created and dying, counters grow.
 * So nothing of the supervisor may be read or written in between, and what was looked up before is looked up again
 * afterwards: pieces, too, are good for one time without the lock.
 */
void compartment_unlock(struct compartment *compartment);
void compartment_relock(struct compartment *compartment);

struct memory_bounds compartment_bounds(struct compartment *compartment);
/* Nanoseconds that are left of its budgets of time. */
uint64_t compartment_time_left(const struct compartment *compartment);

/* Opens file under a number; number -1: the lowest free one.  Returns the number, or -1 with EMFILE.  Takes over the
 * reference.  Preconditions: the number is free. */
int descriptor_add(struct compartment *compartment, struct open_file *file, int number, int prot);
/* What a number stands for; NULL if nothing. */
struct descriptor *descriptor_find(struct compartment *compartment, long number);
/* The file behind a number if it is held with these rights (0: any); NULL with EBADF. */
struct open_file *descriptor_get(struct compartment *compartment, long number, int prot);
int descriptor_close(struct compartment *compartment, long number);
void descriptor_close_all(struct compartment *compartment);

/* What serving a call came to. */
enum served {
	SERVED,      /* the answer is in RAX: go on */
	SERVED_PARK, /* it would block: call again when `wait` says so */
	SERVED_END,  /* the life is over: info.end says how */
};
struct wait {
	int fd; /* -1: none, only the deadline */
	short events;
	uint64_t deadline; /* nanoseconds of CLOCK_MONOTONIC; 0: none */
};

/* Forgets a call that waits, or did. */
void pending_call_end(struct compartment *compartment);

/* Polls for what a call waits for, its deadline included, but no longer than this.  Returns whether it came.
 * Caller does not hold the lock. */
bool wait_poll(const struct wait *wait, uint64_t nanoseconds);

/* The kinds of a call's arguments, one letter each (syscalls/table.c); NULL: it is not served. */
const char *system_call_kinds(long number);
/* Whether a call is served only to those whose policy names it. */
bool system_call_wants_grant(long number);
/* Serves the system call in the compartment's registers. */
enum served system_call_serve(struct compartment *compartment, struct wait *wait);

/* ---- gates and sthreads ---------------------------------------------------------------------------- */

struct gate_instance; /* a gate that serves a call: callgate/gate.h */
struct gate_waiter;
struct local;
struct local_kind;

/* An sthread, or a call of a gate from host mode (then own.space is NULL). */
struct sthread {
	sthread_t handle;
	struct compartment own;
	struct gate_instance *gates[CGATE_DEPTH_MAX]; /* the gates it is in, innermost last */
	unsigned depth;
	enum sthread_state state;
	bool busy; /* a thread is driving it: */
	pthread_t driver;
	bool killed;
	bool retry;          /* the call in its registers is to be served again */
	bool waits_for_step; /* parked by sthread_park() */
	struct wait wait;
	struct gate_waiter *waiter; /* set while it waits for a gate */
	struct pristine **freeze;   /* not NULL: where its memory goes when it returns (template.c) */
	uint64_t result;
	/* An sthread that a gate created (callgate/nested.h). */
	struct gate_instance *owner; /* NULL: the process's own */
	struct sthread *next_owned;
	struct sthread *above;         /* while a gate waits for it: the sthread that is in that gate, */
	struct sthread *below;         /* and the other way round */
	uint64_t above_since;          /* when it began to wait, by slice_clock() */
	struct report_capture *report; /* of its end; NULL: none */
	/* Of lives that take no lock (local.h). */
	struct local_kind
		*kind; /* while it uses what its thread keeps: the policy, without a reference, and address space */
	struct local *keeper; /* the thread that has it among those that have ended */
	/* STHREAD_ISOLATION=off (unisolated.h) */
	pthread_t thread;
	stcb_t body;
	void *argument;
};

/* The compartment that runs when the sthread does: its own, or the innermost gate's. */
struct compartment *innermost_compartment(struct sthread *sthread);
/* As sthread_create(), and if the body returns, *freeze becomes what it has made of its memory; NULL if there was no room. */
int sthread_create_to_freeze(sthread_t *st, const sc_t *sc, stcb_t cb, void *arg, struct pristine **freeze);
/* Runs an sthread until it ends, parks or has spent its slice; sets its state.  Releases the lock while it runs. */
void sthread_drive(struct sthread *sthread);
/* Goes on like that with one that the caller has run to an exit: what is between dune_vcpu_run() and the end of a slice that
 * began at `began`. */
struct run {
	struct dune_vcpu *vcpu;
	struct dune_exit exit;
	uint64_t began, entered, ended; /* by slice_clock() */
	uint64_t exits;                 /* of the virtual CPU before */
};
void sthread_drive_on(struct sthread *sthread, struct run *run);
/* What comes before dune_vcpu_run(); with the lock, or in a stretch (local.h). */
void drive_enter(const struct sthread *sthread, const struct compartment *compartment, struct run *run);

/* Serves SERVICE_GATE and SERVICE_GATE_BUFFER of the compartment at the top of the stack: pushes the gate and returns
 * 0, or returns the errno that the caller gets. */
int gate_service(struct sthread *sthread, struct compartment *caller, bool message);
/* Tells ring 0 which gates a life may call without an exit.  Preconditions: its address space has begun the life. */
void gate_direct_grant(struct compartment *compartment);
/* The gate at the top of the stack is done: pops it and returns what its caller gets, 0 or an errno; its result and
 * its answer have been delivered.  caller is NULL for a call from host mode. */
int gate_finish(struct sthread *sthread, struct compartment *caller, bool returned);

#endif
