/*
 * vcpu.h - virtual CPUs and the run loop.
 *
 * A virtual CPU belongs to one host thread from its first use to the thread's end (moving one is expensive on
 * stock kernels), then to the next thread that needs one.  Compartments move between virtual CPUs freely: what
 * they are made of besides memory is a struct dune_context.
 */
#ifndef DUNE_VCPU_H
#define DUNE_VCPU_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "kvm/machine.h"

/* The processor state of a compartment that is not running. */
struct dune_context {
	uint64_t tenant;      /* unique per life: who this is */
	uint64_t root;        /* page-table root, guest-physical; no other context has it */
	uint64_t generation;  /* of the root: a new one with each edit made by the monitor (tags.h) */
	uint32_t space;       /* numbers roots */
	struct kvm_regs regs; /* general registers, RIP, RFLAGS */
	uint64_t fs_base, gs_base;
	bool direct_calls; /* it may make direct calls (direct.h) */
	bool saved;        /* vector and events below are to be restored */
	bool events_saved;
	void *vector; /* vector state, machine->vector_size bytes, owned; NULL until first saved */
	struct kvm_vcpu_events events;
	uint64_t event_address; /* CR2, which belongs to them */
};

enum dune_exit_kind {
	DUNE_EXIT_SYSTEM_CALL, /* RAX and arguments in regs; regs.rip is where it goes on */
	DUNE_EXIT_SERVICE,     /* a library call: number in RAX; 0 ends the life */
	DUNE_EXIT_EXCEPTION,   /* vector, error_code, address */
	DUNE_EXIT_KICKED,      /* by a signal, in ring 3: the compartment can go on */
	DUNE_EXIT_BROKEN,      /* the virtual CPU cannot go on: reason; it has been made anew */
};

struct dune_exit {
	enum dune_exit_kind kind;
	unsigned vector;
	uint64_t error_code;
	uint64_t address;  /* CR2, for page faults */
	bool from_monitor; /* EXCEPTION: raised by ring 0, a bug of the monitor */
	unsigned reason;   /* BROKEN: KVM's exit reason, or UINT_MAX if KVM_RUN failed: error */
	int error;
	unsigned direct_calls;      /* direct calls begun since the last exit */
	struct dune_direct *direct; /* not NULL: the exit came from inside this one, and so do all of the above */
	uint64_t direct_result;     /* where its caller wants the result */
};

struct dune_vcpu {
	struct dune_machine *machine;
	bool mirror; /* it is the mirror's (mirror.h): no trampoline, no services, its own edit root */
	uint32_t number;
	int fd;
	uint64_t edit_root; /* maps the tables for the monitor */
	struct kvm_run *run;
	struct dune_processor_area *area; /* here; in the guest at `area_address` */
	uint64_t area_address;
	uint64_t tenant;       /* whose registers the virtual CPU holds; 0: nobody's */
	uint64_t generation;   /* of the root it has loaded */
	bool pending;          /* the last exit may have left an operation or event behind (law 5) */
	uint64_t exit_address; /* of the last OUT that exited */
	bool stuck;            /* it cannot be completed: never used again */
	bool leaves_pending;   /* what is pending after an exit that ends a life is completed later; for tests */
	pthread_t thread;
	_Atomic bool running;   /* between entering and leaving KVM_RUN */
	_Atomic unsigned kicks; /* that came while it was running: it was out of the guest then, and goes in no more */
	_Atomic bool kicked;    /* a kick that came when it was not running: the next run returns at once */
	uint64_t exits;         /* that reached user space, monitor calls included */
	uint64_t interrupted;   /* of them by signals: nothing in the guest asked for them */
	uint64_t reloads;       /* of a root that was loaded already, because its generation had changed */
	uint64_t tag_flushes;   /* loads of compartments' roots that dropped what was cached of them, */
	uint64_t tag_kept;      /* and that kept it */
	uint64_t clock_multiplier, clock_offset; /* of the clocks in ring 3 (clock.h); 0: none on this one */
	/* Contexts that ran without KVM_RUN (struct dune_vcpu_local): whose vector state is in local_image, if anybody's. */
	uint64_t local_tenant;
	uint8_t *local_image;
	struct dune_vcpu *_Atomic carrier; /* meanwhile: whose KVM_RUN it is that has to end by a kick */
	struct dune_vcpu *next, *next_free;
};

/*
 * Another way to run contexts, which the layer above provides where threads live in ring 0: run() returns false if it
 * cannot, and nothing has happened then; save() stores the vector state of the context that ran last in context->vector, which has room for it.
 */
struct dune_vcpu_local {
	bool (*here)(const struct dune_vcpu *vcpu); /* whether the calling thread would run contexts so */
	bool (*run)(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit);
	void (*save)(const struct dune_vcpu *vcpu, struct dune_context *context);
	/* The processor that ran it has dropped what has changed since the context was of that generation. */
	void (*accept)(const struct dune_context *context, uint64_t before);
};
extern const struct dune_vcpu_local *dune_vcpu_local;

/* Returns the calling thread's virtual CPU, NULL with errno (EAGAIN none left).  Takes its own lock. */
struct dune_vcpu *dune_vcpu_get(struct dune_machine *machine);
/* The same for the mirror of the machine, which must have one.  A thread may have both.  Its registers are those of
 * dune_vcpu_reset(). */
struct dune_vcpu *dune_vcpu_get_mirror(struct dune_machine *machine);
/* A new one of the mirror that is nobody's: the caller keeps it and sees to who uses it. */
struct dune_vcpu *dune_vcpu_new_mirror(struct dune_machine *machine);

/* Closes and forgets all virtual CPUs: in the child of a fork, where their threads are not, and when the machine could
 * not be made. */
void dune_vcpus_forget(void);
/* Around a fork: keeps the list of virtual CPUs as it is. */
void dune_vcpus_lock(void);
void dune_vcpus_unlock(void);

/* The virtual CPU with this number; NULL if there is none.  Takes its own lock. */
struct dune_vcpu *dune_vcpu_numbered(uint32_t number);

/* Sums over all virtual CPUs of what struct dune_vcpu counts, the probe's included. */
struct dune_totals {
	uint64_t exits, interrupted;    /* of the machine, not of its mirror */
	uint64_t tag_flushes, tag_kept; /* of both */
};
struct dune_totals dune_totals(void);

/* The signal that takes a thread out of KVM_RUN; its handler is installed by the first dune_vcpu_get(). */
int dune_kick_signal(void);

/* Makes the vector registers of a context clean for its first run.  Preconditions: the trampoline runs first. */
void dune_context_start(struct dune_context *context, uint64_t tenant, uint64_t root);
void dune_context_free(struct dune_context *context);

/* Whether it was stopped with an event under way, or in the shadow of an instruction: only KVM can bring that back. */
static inline bool dune_context_has_event(const struct dune_context *context)
{
	const struct kvm_vcpu_events *events = &context->events;
	return context->events_saved &&
	       (events->exception.injected | events->exception.pending | events->interrupt.injected |
		events->nmi.injected | events->nmi.pending | events->interrupt.shadow);
}

/*
 * Runs a compartment until it exits.  Brings the state in, makes sure that nothing of the last tenant is left in
 * the virtual CPU, runs, and decodes the exit; regs, fs_base and gs_base are up to date afterwards.
 * Preconditions: called by the owner of the virtual CPU; nobody else runs this context.
 * Postconditions: exit->kind says what happened; after BROKEN the context is lost.  If exit->direct is set, what is said
 * of "the context" is said of that target's; the one given is the caller's, and waits for an answer to its call.
 */
void dune_vcpu_run(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit);

/* Saves the vector state and pending events of the context that ran last, so that another one can run here or this
 * one elsewhere.  Does nothing if `context` is not the tenant.  Errors: ENOMEM, or KVM's. */
int dune_vcpu_save(struct dune_vcpu *vcpu, struct dune_context *context);

/* Forgets the tenant: its life is over.  Whoever runs next starts clean. */
void dune_vcpu_release(struct dune_vcpu *vcpu);

/*
 * Has the monitor write `count` page-table entries of the context's address space, and flush.  On return no virtual
 * CPU that runs afterwards sees the old entries (the generation says so); the context must not be running elsewhere.
 * Errors: EIO the virtual CPU failed.
 */
int dune_vcpu_edit(struct dune_vcpu *vcpu, struct dune_context *context, const struct dune_edit *edits, size_t count);

/*
 * Runs a routine of the monitor that works on `count` edits, which are in the virtual CPU's area, under the edit root, and
 * then loads `root`.  Errors: EIO.
 */
int dune_vcpu_monitor(struct dune_vcpu *vcpu, const uint8_t *routine, size_t count, uint64_t root);

/* Brings every register that a compartment cannot change into its one state, as the machine's host facts say: done
 * at birth and after a failure.  Errors: KVM's. */
int dune_vcpu_reset(struct dune_vcpu *vcpu);

/* Says that a present entry of the context's address space was replaced in answer to a write fault on this virtual CPU:
 * it has dropped its old translation already, others drop theirs before they run the context again. */
void dune_vcpu_accept(struct dune_vcpu *vcpu, struct dune_context *context);

/* Takes the virtual CPU out of KVM_RUN if it is in it. */
void dune_vcpu_kick(struct dune_vcpu *vcpu);

/* For a handler of a signal, on the virtual CPU of the thread that it interrupts: the run under way, or else the next
 * one, returns at once.  Async-signal-safe. */
void dune_vcpu_interrupt_own(struct dune_vcpu *vcpu);

/* Forgets a kick of the calling thread that came when nothing ran.  Preconditions: whoever else kicks tries again, or has
 * said why in a way that the caller looks at before it runs. */
void dune_vcpu_forget_kick(struct dune_vcpu *vcpu);

/* A name for KVM's exit reasons. */
const char *dune_exit_name(unsigned reason);

#endif
