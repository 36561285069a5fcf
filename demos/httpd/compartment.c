/*
 * compartment.c - runs the server's parts in sthreads, in forked processes, or by direct calls.
 */
#include "compartment.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Set before sthreads exist, so every sthread finds it in its copy of the snapshot. */
static enum isolation mode = ISOLATION_NONE;

static struct {
	cgate_fn entry;
	void *trusted;
} direct_gates[GATES_MAX];
static atomic_int direct_gate_count;

int compartments_init(enum isolation isolation)
{
	mode = isolation;
	if (isolation == ISOLATION_STHREAD && (sthread_require_isolation() != 0 || sthread_init() != 0)) {
		mode = ISOLATION_NONE;
		return -1;
	}
	return 0;
}

enum isolation compartments_isolation(void)
{
	return mode;
}

static void *new_private_memory(const struct compartment_kind *kind)
{
	void *private_memory = calloc(1, kind->private_size);

	if (private_memory != NULL && kind->prepare != NULL)
		kind->prepare(private_memory);
	return private_memory;
}

/* In a template of one kind, and so in each compartment that starts from it: its private memory.  Also in a server that forks,
 * and so in the processes of its connections. */
static void *prepared_memory;
static const struct compartment_kind *prepared_kind;

static void *take_private_memory(const struct compartment_kind *kind)
{
	void *memory = prepared_memory;

	if (prepared_kind != kind || memory == NULL)
		return new_private_memory(kind);
	prepared_memory = NULL;
	return memory;
}

void *compartment_prepare(const struct compartment_kind *kind, const void *given)
{
	if (kind->take != NULL)
		kind->take(given);
	prepared_memory = new_private_memory(kind);
	return prepared_memory;
}

int compartments_prepare(struct prepared *prepared, const struct compartment_kind *kind, const sc_t *preparing,
			 const void *given, sc_t *policy)
{
	void *made = NULL;

	*prepared = (struct prepared){ .kind = kind, .given = given, .template_handle = -1 };
	if (mode != ISOLATION_STHREAD) {
		/* What a template is to sthreads, the state at fork() is to processes. */
		if ((mode == ISOLATION_FORK || mode == ISOLATION_FORK_PER_REQUEST) && kind->prepare != NULL) {
			prepared_memory = new_private_memory(kind);
			prepared_kind = kind;
		}
		return compartments_prepare_again(prepared);
	}
	prepared->template_handle = sc_template(preparing, kind->prepare_body, (void *)(uintptr_t)given);
	if (prepared->template_handle == -1)
		return -1;
	if (sc_template_result(prepared->template_handle, &made) == 0 && made != NULL)
		return sc_start_from(policy, prepared->template_handle);
	errno = ENOMEM;
	return -1;
}

int compartments_prepare_again(struct prepared *prepared)
{
	if (mode == ISOLATION_STHREAD)
		return sc_template_refresh(prepared->template_handle);
	if (prepared->kind->take != NULL)
		prepared->kind->take(prepared->given);
	return 0;
}

int compartments_ready(const struct compartment_kind *kind, const sc_t *policy, unsigned count)
{
	return mode == ISOLATION_STHREAD ? sthread_prewarm(policy, kind->body, count) : 0;
}

void *compartment_body(const struct compartment_kind *kind, void *shared)
{
	void *private_memory = prepared_memory != NULL ? prepared_memory : new_private_memory(kind);

	if (private_memory == NULL)
		abort();
	while (kind->step(private_memory, shared) == STEP_PARK)
		if (sthread_park() != 0)
			abort();
	return NULL;
}

static void direct_step(struct compartment *c)
{
	bool done = c->kind->step(c->private_memory, c->shared) == STEP_DONE;

	c->state = done ? COMPARTMENT_ENDED : COMPARTMENT_PARKED;
}

static bool is_process(const struct compartment_kind *kind)
{
	return mode == ISOLATION_FORK_PER_REQUEST && kind->per_request;
}

/* One turn, in the process of the compartment. */
static bool process_step(void *arg)
{
	struct compartment *c = arg;

	if (c->private_memory == NULL)
		c->private_memory = new_private_memory(c->kind);
	if (c->private_memory == NULL)
		abort();
	return c->kind->step(c->private_memory, c->shared) == STEP_DONE;
}

static int process_look(struct compartment *c, int result)
{
	c->state = process_ended(&c->process) ? COMPARTMENT_ENDED : COMPARTMENT_PARKED;
	return result;
}

static int sthread_look(struct compartment *c)
{
	enum sthread_state state;

	if (sthread_state(c->sthread, &state) != 0)
		return -1;
	switch (state) {
	case STHREAD_ENDED:
		c->state = COMPARTMENT_ENDED;
		break;
	case STHREAD_RUNNABLE:
		c->state = COMPARTMENT_RUNNABLE;
		break;
	case STHREAD_PARKED:
		c->state = COMPARTMENT_PARKED;
		break;
	}
	return 0;
}

int compartment_start(struct compartment *c, const struct compartment_kind *kind, const sc_t *policy, void *shared)
{
	struct sthread_info info;
	int saved;

	*c = (struct compartment){ .shared = shared };
	if (is_process(kind)) {
		c->kind = kind;
		if (process_start(&c->process, process_step, c) == 0)
			return process_look(c, 0);
		c->kind = NULL;
		return -1;
	}
	if (mode != ISOLATION_STHREAD) {
		c->private_memory = take_private_memory(kind);
		if (c->private_memory == NULL)
			return -1;
		c->kind = kind;
		direct_step(c);
		return 0;
	}
	if (sthread_create(&c->sthread, policy, kind->body, shared) != 0)
		return -1;
	c->kind = kind;
	if (sthread_look(c) != 0) {
		saved = errno;
		(void)compartment_finish(c, &info);
		errno = saved;
		return -1;
	}
	return 0;
}

int compartment_step(struct compartment *c)
{
	if (c->state == COMPARTMENT_ENDED)
		return 0;
	if (is_process(c->kind))
		return process_look(c, process_turn(&c->process));
	if (mode != ISOLATION_STHREAD) {
		direct_step(c);
		return 0;
	}
	if (sthread_step(c->sthread) != 0)
		return -1;
	return sthread_look(c);
}

bool compartment_finish(struct compartment *c, struct sthread_info *info)
{
	bool counted = mode == ISOLATION_STHREAD;

	memset(info, 0, sizeof(*info));
	if (counted) {
		if (c->state != COMPARTMENT_ENDED && sthread_kill(c->sthread) != 0)
			counted = false;
		/* ECANCELED: it did not return; *info says why. */
		if (sthread_join_info(c->sthread, NULL, info) != 0 && errno != ECANCELED)
			counted = false;
	} else if (is_process(c->kind)) {
		process_end(&c->process);
	} else {
		c->kind->finish(c->private_memory);
		free(c->private_memory);
	}
	*c = (struct compartment){ .kind = NULL };
	return counted;
}

bool compartment_process_failed(const struct compartment *c, char *out, size_t room)
{
	if (c->process.pid == 0 || !process_ended(&c->process) || !process_failed(c->process.status, out, room))
		return false;
	if (c->process.timed_out)
		(void)snprintf(out, room, "its turn took too long");
	return true;
}

int memory_new(struct memory *m, size_t size)
{
	int saved;

	*m = (struct memory){ .size = size, .tag = -1 };
	if (mode != ISOLATION_STHREAD) {
		m->at = calloc(1, size);
		return m->at == NULL ? -1 : 0;
	}
	m->tag = tag_new();
	if (m->tag == -1)
		return -1;
	m->at = smalloc(m->tag, size);
	if (m->at == NULL) {
		saved = errno;
		(void)tag_delete(m->tag);
		errno = saved;
		return -1;
	}
	return 0;
}

int memory_new_between(struct memory *m, size_t size)
{
	if (mode != ISOLATION_FORK_PER_REQUEST)
		return memory_new(m, size);
	*m = (struct memory){ .size = size, .tag = -1, .mapped = true };
	m->at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (m->at != MAP_FAILED)
		return 0;
	m->at = NULL;
	return -1;
}

void memory_delete(struct memory *m)
{
	if (m->mapped)
		(void)munmap(m->at, m->size);
	else if (mode != ISOLATION_STHREAD)
		free(m->at);
	else
		(void)tag_delete(m->tag);
	m->at = NULL;
}

void memory_grant(sc_t *policy, const struct memory *m, int prot)
{
	if (mode == ISOLATION_STHREAD)
		(void)sc_mem_add(policy, m->tag, prot); /* the policy remembers a failure */
}

int gate_new(cgate_fn entry, const sc_t *policy, void *trusted)
{
	int gate;

	if (mode == ISOLATION_STHREAD)
		return cgate_create(entry, policy, trusted);
	gate = atomic_fetch_add(&direct_gate_count, 1);
	if (gate >= GATES_MAX) {
		errno = ENFILE;
		return -1;
	}
	direct_gates[gate].entry = entry;
	direct_gates[gate].trusted = trusted;
	return gate;
}

void gates_reset(void)
{
	memset(direct_gates, 0, sizeof(direct_gates));
	direct_gate_count = 0;
}

int gate_call(int gate, const void *in, size_t inlen, void *out, size_t *outlen)
{
	struct cgate_buffer buffer = { .in = in, .inlen = inlen, .out = out, .outlen = *outlen };
	intptr_t refusal;

	if (mode == ISOLATION_STHREAD)
		return cgate_call_buf(gate, in, inlen, out, outlen);
	if (gate < 0 || gate >= GATES_MAX || direct_gates[gate].entry == NULL) {
		errno = EBADF;
		return -1;
	}
	if (inlen > CGATE_BUFFER_MAX || *outlen > CGATE_BUFFER_MAX) {
		errno = EMSGSIZE;
		return -1;
	}
	refusal = (intptr_t)direct_gates[gate].entry(&buffer, direct_gates[gate].trusted);
	if (refusal == 0 && buffer.outlen > *outlen)
		refusal = EPROTO;
	if (refusal != 0) {
		errno = (int)refusal;
		return -1;
	}
	*outlen = buffer.outlen;
	return 0;
}
