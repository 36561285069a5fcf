/*
 * host.h - host placement: the thread stays in host mode, only ring 3 is in the virtual machine.
 *
 *   host.c    entering and leaving, running ring 3, calling handlers
 *   tables.c  which page tables ring 3 runs with, and how entries in use are replaced
 *   vector.c  the vector state that ring 3 begins with
 *   signals.c signals that reach a thread, and exceptions that become signals
 */
#ifndef DUNE_HOST_H
#define DUNE_HOST_H

#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <ucontext.h>

#include "kvm/mirror.h"
#include "kvm/vcpu.h"
#include "placement/placement.h"

/* One dune_jump_to_user() that has not returned. */
struct dune_host_jump {
	struct dune_context context;  /* of its ring 3; the vector memory is kept for the next one */
	uintptr_t frame;              /* where it lies on the stack */
	jmp_buf *end;                 /* where dune_ret_from_user() goes */
	struct dune_host_jump *inner; /* those that are made while it lasts; kept when they end */
};

/* A thread that has entered. */
struct dune_host_thread {
	struct dune_vcpu *vcpu;
	uintptr_t stack, stack_end;   /* the thread's own */
	struct dune_host_jump *first; /* the outermost; there is always one more than are in use */
	struct dune_host_jump *next;  /* the next one to be used */
	unsigned depth;               /* in use */
	unsigned long user_fs;
	unsigned long cr3; /* as it was loaded */
	_Atomic uintptr_t root;
	_Atomic uint64_t loaded;  /* of all edits before this one the virtual CPU knows: see tables.c */
	atomic_bool serving;      /* ring 3 runs, or is about to: signals wait in `pending` */
	_Atomic uint64_t pending; /* signals that ring 3 is to be interrupted for, bit number - 1 */
	uint64_t exits_before, system_calls;
	struct dune_host_thread *next_thread;
};

/* The calling thread's; NULL: it has not entered. */
extern _Thread_local struct dune_host_thread *dune_host_self __attribute__((tls_model("initial-exec")));

/* Calls the function for each thread that has entered, with the list locked. */
void dune_host_threads(void (*function)(struct dune_host_thread *thread, void *argument), void *argument);

/* tables.c: what struct dune_placement_operations says. */
void dune_host_load_cr3(unsigned long cr3);
unsigned long dune_host_read_cr3(void);
void dune_host_flush_one(unsigned long address);
void dune_host_flush(void);
void dune_host_flush_all(void);
void dune_host_invpcid(int mode, unsigned pcid, unsigned long address);
int dune_host_replace(ptent_t *root, const struct dune_space_edit *edits, size_t count);
/* Makes the context run with the thread's root, knowing of all edits so far. */
void dune_host_use_root(struct dune_host_thread *self, struct dune_context *context);

/* Stores the vector state of the caller, as KVM takes it.  at: as many bytes as dune_host_vector_size() says, aligned to
 * 64, zero at first. */
void dune_host_capture_vector(const struct dune_machine *machine, void *at);
size_t dune_host_vector_size(const struct dune_machine *machine);

/* Calls the process's handlers for the pending signals.  tf: of ring 3. */
void dune_host_deliver(struct dune_host_thread *self, struct dune_tf *tf);
/* Sends the calling thread the signal that Linux would have sent for this exception of ring 3. */
void dune_host_raise(struct dune_host_thread *self, const struct dune_exit *exit, const struct dune_tf *tf);
/*
 * A Linux signal has come whose number may have a handler of dune_register_signal_handler().  Returns whether it has been
 * dealt with: in ring 3 the handler is called when that is out of the virtual machine, in the thread's own code at once.
 * Async-signal-safe.
 */
bool dune_host_on_signal(int number, ucontext_t *interrupted);

#endif
