/*
 * compartment.h - one way to run the server's parts, with or without isolation between them.
 *
 * A part is a step function over private and shared memory.  With ISOLATION_STHREAD each part runs in an
 * sthread, shared memory is tagged memory and gates are callgates.  Otherwise a connection's loop calls the same functions
 * directly on ordinary memory: the process's only loop, that of a thread of a pool, or that of a forked process that has
 * no other connection.  With ISOLATION_FORK_PER_REQUEST such a process forks once more for each request.
 */
#ifndef HTTPD_COMPARTMENT_H
#define HTTPD_COMPARTMENT_H

#include "process.h"

#include <callgate.h>
#include <stdbool.h>
#include <sthread.h>

enum isolation {
	ISOLATION_NONE,
	ISOLATION_THREAD,           /* of a pool, for each connection */
	ISOLATION_FORK,             /* for each connection */
	ISOLATION_FORK_PER_REQUEST, /* for each connection, and from there for each request */
	ISOLATION_STHREAD,
};

enum step {
	STEP_PARK, /* nothing more to do now: call again when something it waits for has changed */
	STEP_DONE, /* finished: never called again */
};

struct compartment_kind {
	const char *name;
	bool per_request; /* runs in a process of its own with ISOLATION_FORK_PER_REQUEST */
	stcb_t body;      /* what the sthread runs: compartment_body() with this kind */
	size_t private_size;
	stcb_t prepare_body; /* what its template runs: compartment_prepare() with this kind */
	/* Makes, in zeroed memory, what is the same for every peer.  With sthreads it runs once, in a template, and each
	 * compartment starts with a copy; it may fail by leaving memory that step() finds wanting. */
	void (*prepare)(void *private_memory);
	/* Takes what the template is given; runs before prepare().  NULL: nothing. */
	void (*take)(const void *given);
	/* private_memory is reachable for no other compartment. */
	enum step (*step)(void *private_memory, void *shared);
	void (*finish)(void *private_memory); /* releases what private_memory holds */
};

enum compartment_state {
	COMPARTMENT_PARKED,
	COMPARTMENT_RUNNABLE, /* its time slice ended: step it again soon */
	COMPARTMENT_ENDED,
};

struct compartment {
	const struct compartment_kind *kind; /* NULL: not started */
	enum compartment_state state;
	sthread_t sthread;
	struct process process;
	void *private_memory;
	void *shared;
};

struct memory {
	void *at;
	size_t size;
	tag_t tag;
	bool mapped; /* between processes */
};

/* Chooses the isolation.  For ISOLATION_STHREAD this takes the snapshot; the others never call the library; -1 with errno, see sthread_error().
 * Before the call everything runs as with ISOLATION_NONE, which is how the server warms itself up. */
int compartments_init(enum isolation isolation) STHREAD_CHECKED;
enum isolation compartments_isolation(void);

/* The body of every sthread of the server: steps until done, parks in between. */
void *compartment_body(const struct compartment_kind *kind, void *shared);

/* What compartments of a kind start from. */
struct prepared {
	const struct compartment_kind *kind;
	const void *given;
	sc_template_t template_handle;
};
/* The body of every template of the server. */
void *compartment_prepare(const struct compartment_kind *kind, const void *given);
/* Lets compartments of this kind, with this policy, start prepared.  preparing: what prepare() may do; given: memory that it
 * may read.  0 or -1 with errno. */
int compartments_prepare(struct prepared *prepared, const struct compartment_kind *kind, const sc_t *preparing,
			 const void *given, sc_t *policy) STHREAD_CHECKED;
/* The same again, for compartments that start from now on: what is given has changed.  0 or -1 with errno, and they start as
 * before. */
int compartments_prepare_again(struct prepared *prepared) STHREAD_CHECKED;

/* Has address spaces ready for so many compartments of this kind at a time, with this policy or one that grants other memory in
 * the same way; does nothing without sthreads.  0 or -1 with errno. */
int compartments_ready(const struct compartment_kind *kind, const sc_t *policy, unsigned count) STHREAD_CHECKED;

/* Starts a compartment and runs its first step.  0 or -1 with errno. */
int compartment_start(struct compartment *c, const struct compartment_kind *kind, const sc_t *policy,
		      void *shared) STHREAD_CHECKED;
/* Runs one more step and updates c->state.  0 or -1 with errno. */
int compartment_step(struct compartment *c) STHREAD_CHECKED;
/* Ends the compartment if it has not ended by itself, and releases it.  *info says how it ended and what it
 * did; returns true if that is the library's count, false if there is none (no sthreads). */
bool compartment_finish(struct compartment *c, struct sthread_info *info);
/* Says in words how a compartment that is a process ended.  False if it is none, has not ended, or ended as it should. */
bool compartment_process_failed(const struct compartment *c, char *out, size_t room);

/* Zeroed memory that can be granted.  0 or -1 with errno. */
int memory_new(struct memory *m, size_t size) STHREAD_CHECKED;
/* The same, for memory between a connection's TLS part and its request parts, which may be other processes. */
int memory_new_between(struct memory *m, size_t size) STHREAD_CHECKED;
void memory_delete(struct memory *m);
/* Adds the memory to a policy; does nothing without sthreads. */
void memory_grant(sc_t *policy, const struct memory *m, int prot);

enum {
	GATES_MAX = 4 + 512 /* each thread of a pool has a sign gate of its own */
};
/* Makes a gate: a handle for gate_call(), or -1 with errno.  Threads of a pool may call it at the same time. */
int gate_new(cgate_fn entry, const sc_t *policy, void *trusted) STHREAD_CHECKED;
/* Forgets the gates that were made before compartments_init(). */
void gates_reset(void);
/* As cgate_call_buf(). */
int gate_call(int gate, const void *in, size_t inlen, void *out, size_t *outlen) STHREAD_CHECKED;

#endif
