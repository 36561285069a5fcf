/*
 * budget.h - what a life, or one call of a gate, may use up, and when it has.
 *
 * Time is looked at between two runs of the compartment, and the thread's timer is set so that a run ends when the
 * first of its budgets does.  A gate is held to its own budgets only: what its caller has left does not stop it half
 * way, so a caller whose time is up ends when the gate is done.
 * Caller holds the supervisor lock.
 */
#ifndef STHREAD_BUDGET_H
#define STHREAD_BUDGET_H

#include "compartment.h"

/* Begins a life, or a call of a gate: nothing is used up yet. */
void budget_begin(struct compartment *compartment);
/* Counts time spent on it, in the guest or here. */
void budget_charge(struct compartment *compartment, uint64_t nanoseconds);
/* Counts one call of the supervisor.  Returns false if it was one too many: info.end says so. */
bool budget_count_call(struct compartment *compartment);
/* Whether a budget is spent at `time`, which is now; info.end then says which. */
bool budget_spent(struct compartment *compartment, uint64_t time);
/* Nanoseconds until the first of its budgets of time is spent; at most `limit`, at least 1. */
uint64_t budget_left(const struct compartment *compartment, uint64_t time, uint64_t limit);

#endif
