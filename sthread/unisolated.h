/*
 * unisolated.h - STHREAD_ISOLATION=off: the same interface as plain calls in the process, for debuggers, valgrind and
 * sanitizers.  Nothing is kept apart from anything.
 *
 * An sthread is a thread of the process, a gate call is a call of its entry by the caller's thread, an allocation in a tag
 * is one of malloc().  Handles, policies and the pools of gates are those of the isolated mode, and what a policy says
 * of gates and allocations is enforced.  Functions that take a struct sthread want the supervisor lock held.
 */
#ifndef STHREAD_UNISOLATED_H
#define STHREAD_UNISOLATED_H

#include "compartment.h"

/* Whether the environment wants it: 0 or 1; -1 with EPERM the program forbids it, EINVAL the value is not understood. */
int unisolated_wanted(void);
/* Says so on standard error. */
void unisolated_start(void);
/* Entry check of public functions: 0 in host mode and in gates, -1 with EPERM in an sthread. */
int unisolated_enter(void);
/* Whether the calling thread is in an sthread or gate. */
bool unisolated_inside(void);

/* Starts an sthread.  Errors: EBADF the policy's template is gone; EAGAIN no thread. */
int unisolated_begin(struct sthread *sthread, const struct policy *policy, stcb_t body, void *argument);
/* Lets it go on, and waits until it parks, ends, or a slice is over. */
void unisolated_drive(struct sthread *sthread);
/* Ends it at its next cancellation point (pthreads(7)). */
void unisolated_kill(const struct sthread *sthread);
/* Waits for the thread of an ended sthread.  Caller does not hold the lock. */
void unisolated_join(const struct sthread *sthread);

/* The public functions of these names.  Callers do not hold the lock. */
int unisolated_park(void);
int unisolated_cgate_call(cgate_t gate, void *arg, void **ret);
int unisolated_cgate_call_buf(cgate_t gate, const void *in, size_t inlen, void *out, size_t *outlen);
void *unisolated_smemalign(tag_t tag, size_t alignment, size_t size);
void *unisolated_srealloc(void *pointer, size_t size);
void unisolated_sfree(void *pointer);
/* The bytes of a live allocation; 0 if it is none.  Caller holds the lock. */
size_t unisolated_size_of(const void *pointer);

/* Whether what the calling thread is in may allocate in a tag.  Caller holds the lock. */
bool unisolated_may_write(tag_t tag);
/* What is allocated in a tag; frees all of it.  Caller holds the lock. */
void unisolated_tag_count(tag_t tag, size_t *bytes, size_t *allocations);
void unisolated_tag_free(tag_t tag);
/* In the child of a fork: the tags that were deleted there lose their memory.  Caller holds the lock. */
void unisolated_tags_forget(void);

#endif
