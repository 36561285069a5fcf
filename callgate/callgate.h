/*
 * callgate.h - privileged work, reached only through a fixed entry.
 *
 * A callgate is a compartment of its own: a function, a policy and a trusted argument which its callers can
 * neither read nor change.  An sthread whose policy names the gate (sc_cgate_add) can call it, and in no other
 * way reach what the gate may reach.  Caller and gate share no memory that was not granted to both.
 *
 * A gate can create sthreads: sc_init(), sc_copy(), sc_destroy(), the sc_*_add functions and limits, sthread_create(),
 * _join(), _join_info(), _step(), _state(), _kill() and _get_info() work in it as they do in host mode, except that
 *   - what it grants must be its own: a tag, gate, call or limit of its policy, a directory under the number it was
 *     granted under, a descriptor that it holds, with the same rights or fewer (a directory that it opened beneath one
 *     of a path grant: only if that grant has no more rights than these).  The sc_*_add functions only note
 *     what is asked for; sthread_create() fails: EPERM more than the gate has; EBADF a descriptor, directory or gate
 *     that it does not have.  A limit that is not set is the default, or the gate's if that is less; the gate's
 *     conditions on arguments hold for the sthread too;
 *   - the sthread runs while the gate is in one of these calls, and its time counts for the gate's budget too;
 *   - it has CGATE_STHREADS_MAX at a time (EAGAIN), which nobody else can name (EBADF): not the process, no other gate,
 *     no other instance of this one;
 *   - what is left of them ends with the life of the instance.  Those of a long-lived gate may stay parked from one
 *     call to the next.
 * An sthread that a gate created may call gates that the gate may call.
 */
#ifndef CALLGATE_H
#define CALLGATE_H

#include <sthread.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The entry of a gate.  arg: what the caller passed (an untrusted value), or, for cgate_call_buf(), a pointer to
 * a struct cgate_buffer in the gate's own memory.  trusted: what cgate_create() was given. */
typedef void *(*cgate_fn)(void *arg, void *trusted);

/* What the entry sees of a cgate_call_buf().  The bytes at in are the gate's own copy. */
struct cgate_buffer {
	const void *in;
	size_t inlen;
	void *out;     /* room for outlen bytes */
	size_t outlen; /* set by the entry to what it wrote */
};

enum {
	CGATE_BUFFER_MAX = 16384, /* bytes, each way */
	CGATE_DEPTH_MAX = 4, /* gates that may be open at a time, one below the other, through sthreads of gates too */
	CGATE_INSTANCES_MAX = 64,
	CGATE_STHREADS_MAX = 16,        /* that an instance may have at a time */
	CGATE_WAIT_MILLISECONDS = 2000, /* how long a call waits for an instance, unless cgate_wait_limit() says else */
};

/*
 * Makes a long-lived gate with one instance: its memory stays from one call to the next; one call at a time.  A gate
 * that faults, exits or spends its budget starts pristine at the next call.  The policy is copied.
 * Returns a handle, or -1.  Errors: EPERM before sthread_init() or inside an sthread; EINVAL; ENFILE; ENOMEM; else
 * the policy's remembered failure.  Called from: host mode, any thread.
 */
cgate_t cgate_create(cgate_fn entry, const sc_t *sc, void *trusted) STHREAD_CHECKED;
/* The same, but every call starts from pristine memory. */
cgate_t cgate_create_fresh(cgate_fn entry, const sc_t *sc, void *trusted) STHREAD_CHECKED;
enum {
	CGATE_FRESH = 1, /* every call starts from pristine memory */
};
/*
 * Makes a gate with 1 to CGATE_INSTANCES_MAX instances, each with memory of its own, which serve calls side by side.
 * A call takes any idle instance.  When all are busy calls wait, and are served in the order in which they came.
 * flags: 0 or CGATE_FRESH.  Errors: as cgate_create(); EINVAL instances or flags.
 */
cgate_t cgate_create_pool(cgate_fn entry, const sc_t *sc, void *trusted, unsigned instances,
			  unsigned flags) STHREAD_CHECKED;
/* The same with a policy of sc_freeze(), which the gate keeps alive.  Errors: as cgate_create_pool(); EBADF no such
 * policy. */
cgate_t cgate_create_frozen(cgate_fn entry, sc_frozen_t frozen, void *trusted, unsigned instances,
			    unsigned flags) STHREAD_CHECKED;
/* Sets how long a call waits for an instance before it fails with EBUSY; 0: not at all.  Concerns calls that begin to
 * wait afterwards.  Errors: EBADF; EPERM.  Called from: host mode, any thread. */
int cgate_wait_limit(cgate_t gate, unsigned milliseconds) STHREAD_CHECKED;

/* What the owner of a gate can know about it; counters since it was made. */
struct cgate_info {
	unsigned instances;               /* in all */
	unsigned busy;                    /* of them, serving a call now */
	unsigned waiting;                 /* calls that wait for one now */
	uint64_t calls;                   /* calls that reached the entry */
	uint64_t failures;                /* of them, ended otherwise than by returning */
	uint64_t refused;                 /* calls that waited for an instance in vain: EBUSY */
	uint64_t lives;                   /* times that an instance started from pristine memory */
	uint64_t restarts;                /* of them, because its last call had failed */
	uint64_t run_nanoseconds;         /* spent in calls that are over and made an exit, waiting included */
	struct sthread_info last_failure; /* of the last call that failed: how, and where.  Zeros if none has */
};
/* Errors: EBADF; EINVAL; EPERM.  Called from: host mode, any thread. */
int cgate_get_info(cgate_t gate, struct cgate_info *info) STHREAD_CHECKED;

/* Deletes a gate.  Later calls fail with EBADF.
 * Errors: EBADF; EBUSY a call is under way or waits: nothing is changed, and the gate serves it; EPERM. */
int cgate_destroy(cgate_t gate);

/*
 * Calls a gate.  arg is passed as a value; what it points to is reachable for the gate only if it was granted.
 * *ret, if ret is not NULL, is what the entry returned.
 * Called from: an sthread whose policy grants the gate, a gate, or host mode.
 * Errors: EPERM not granted; EBADF no such gate; ETIMEDOUT the gate spent a budget of time; ECANCELED it ended in another
 * way than by returning (cgate_get_info() tells its owner how); ELOOP nested deeper than CGATE_DEPTH_MAX or into
 * itself; EBUSY no instance became idle in time; ENOMEM.
 */
int cgate_call(cgate_t gate, void *arg, void **ret) STHREAD_CHECKED;

/*
 * Calls a gate with a message: inlen bytes at in are copied once into the gate's memory, and at most *outlen
 * bytes of its answer are copied once to out; *outlen becomes the answer's length.
 * An entry that returns NULL accepted the message; any other return value is taken as an errno value, with which
 * the call fails.  Errors: as cgate_call(), the entry's own, and EMSGSIZE inlen or *outlen over CGATE_BUFFER_MAX;
 * EFAULT the caller may not read in or write out; EPROTO the entry claims more output than there is room.
 */
int cgate_call_buf(cgate_t gate, const void *in, size_t inlen, void *out, size_t *outlen) STHREAD_CHECKED;

#ifdef __cplusplus
}
#endif
#endif
