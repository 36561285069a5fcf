/*
 * callgate.h - privileged work, reached only through a fixed entry.
 *
 * A callgate is a compartment of its own: a function, a policy and a trusted argument which its callers can
 * neither read nor change.  An sthread whose policy names the gate (sc_cgate_add) can call it, and in no other
 * way reach what the gate may reach.  Caller and gate share no memory that was not granted to both.
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
	CGATE_DEPTH_MAX = 4,      /* gates that may be open below one sthread at a time */
};

/*
 * Makes a long-lived gate: its memory stays from one call to the next; one call at a time.  A gate that faults,
 * exits or spends its budget starts pristine at the next call.  The policy is copied.
 * Returns a handle, or -1.  Errors: EPERM before sthread_init() or inside an sthread; EINVAL; ENFILE; ENOMEM; else
 * the policy's remembered failure.  Called from: host mode, any thread.
 */
cgate_t cgate_create(cgate_fn entry, const sc_t *sc, void *trusted) STHREAD_CHECKED;
/* The same, but every call starts from pristine memory. */
cgate_t cgate_create_fresh(cgate_fn entry, const sc_t *sc, void *trusted) STHREAD_CHECKED;
/* Deletes a gate.  Later calls fail with EBADF.  Errors: EBADF; EBUSY a call is under way; EPERM. */
int cgate_destroy(cgate_t gate);

/*
 * Calls a gate.  arg is passed as a value; what it points to is reachable for the gate only if it was granted.
 * *ret, if ret is not NULL, is what the entry returned.
 * Called from: an sthread whose policy grants the gate, a gate, or host mode.
 * Errors: EPERM not granted; EBADF no such gate; ECANCELED the gate ended otherwise than by returning; ELOOP nested
 * deeper than CGATE_DEPTH_MAX or into itself; EBUSY; ENOMEM.
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
