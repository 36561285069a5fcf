/*
 * direct.h - direct calls: ring 0, where it is native, takes a compartment into another address space and back without
 * an exit (monitor.S).
 *
 * A target is a function in an address space.  While it is open, any compartment whose life page names it can enter it,
 * one virtual CPU at a time; while it is closed nobody can, and it belongs to the supervisor.  An exit inside a target
 * makes the call an ordinary one: dune_vcpu_run() then reports whose registers it brings (dune_exit.direct), and the
 * target stays closed until the supervisor opens it again.
 * Callers serialise (libsthread's supervisor lock), but for dune_direct_prepare() and dune_direct_take_over(), which
 * belong to the run loop of one virtual CPU.
 */
#ifndef DUNE_DIRECT_H
#define DUNE_DIRECT_H

#include "kvm/vcpu.h"

/* Returns a new target, closed; NULL where ring 0 is interpreted, or when there are none left. */
struct dune_direct *dune_direct_new(struct dune_machine *machine);
/* Gives it back.  Preconditions: it is closed. */
void dune_direct_free(struct dune_machine *machine, struct dune_direct *target);
/* What a life page says of it. */
struct dune_direct_grant dune_direct_grant(const struct dune_machine *machine, const struct dune_direct *target,
					   int handle);

/* Opens it.  Preconditions: it is closed; what *as says is true of the context's address space (of state, root, tag and
 * counter it need not say anything), no edit of it is due, and it stays so until the target has been closed. */
void dune_direct_open(struct dune_machine *machine, struct dune_direct *target, const struct dune_direct *as,
		      struct dune_context *context);
/* Closes it.  Returns false if a virtual CPU is in it: it is closed, then, as soon as that one leaves it. */
bool dune_direct_close(struct dune_direct *target);
/* Whether a virtual CPU is in it, or was when it last left KVM_RUN.  Returns which, or NULL. */
struct dune_vcpu *dune_direct_user(struct dune_direct *target);
/* Takes it from the virtual CPU that has exited inside it: now it is closed. */
void dune_direct_seize(struct dune_direct *target);

/* Before a virtual CPU runs the context: whether it may call, and as whom. */
void dune_direct_prepare(struct dune_vcpu *vcpu, const struct dune_context *context);
/* After an exit: counts calls, and if it came from inside a target makes `context` the caller as if it had called the
 * supervisor, and returns the target's context, whose registers the virtual CPU holds; else returns `context`. */
struct dune_context *dune_direct_take_over(struct dune_vcpu *vcpu, struct dune_context *context,
					   struct dune_exit *exit);

#endif
