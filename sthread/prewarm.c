/*
 * prewarm.c - address spaces made before they are needed.  See sthread_prewarm(3).
 *
 * A new address space costs its page tables, a copy of each page that lives of its kind write to, and where the host
 * shadows page tables a fault in the kernel for each page that is touched first.  All of that is done here: the space gets
 * the copies, and runs once with a function of the library that writes to each of these pages what is in it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>

#include "local.h"
#include "tag.h"

enum {
	VECTOR_PAGE_FAULT = 14,
	EXITS_MAX = 10000, /* of one run: page faults, and signals that come meanwhile */
	LIST = 256         /* addresses for one run: half of the page on which the stack begins */
};

/* Runs in ring 3, like a body. */
static void touch(const uint64_t *addresses, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		volatile uint8_t *page = (uint8_t *)addresses[i];
		*page = *page;
	}
}

struct kind {
	const struct policy *policy;
	struct pristine *pristine;
	uint64_t function;
};

/* Answers an exit of touch().  Returns 1 at its end, 0 if it goes on, -1 if it cannot. */
static int answer(struct address_space *space, const struct memory_bounds *bounds, const struct dune_exit *exit)
{
	switch (exit->kind) {
	case DUNE_EXIT_SERVICE:
		return space->context.regs.rax == SERVICE_RETURN ? 1 : -1;
	case DUNE_EXIT_EXCEPTION:
		return exit->vector == VECTOR_PAGE_FAULT && !exit->from_monitor ?
			       address_space_fault(space, bounds, exit->address, exit->error_code) :
			       -1;
	case DUNE_EXIT_KICKED:
		return 0;
	case DUNE_EXIT_SYSTEM_CALL:
	case DUNE_EXIT_BROKEN:
	default:
		return -1;
	}
}

/* Has a space touch pages.  The lock is released while it runs. */
static int run(struct address_space *space, const struct memory_bounds *bounds, const uint64_t *addresses,
	       unsigned count)
{
	const struct dune_machine *machine = supervisor.machine;
	struct dune_vcpu *vcpu = dune_vcpu_get(supervisor.machine);
	uint64_t list = machine->window + SPACE_STACK_TOP - DUNE_PAGE_SIZE;
	int end = 0;
	if (!vcpu)
		return -1;
	if (address_space_begin(space, supervisor_new_instance(), false) != 0 ||
	    address_space_write(space, bounds, list, addresses, count * sizeof *addresses) != 0)
		return -1;
	space->context.regs = (struct kvm_regs){
		.rip = machine->trampoline_enter,
		.rsp = machine->window + SPACE_STACK_TOP,
		.rbx = (uint64_t)touch,
		.rdi = list,
		.rsi = count,
		.r13 = machine->trampoline_service,
	};
	for (unsigned exits = 0; !end && exits < EXITS_MAX; exits++) {
		struct dune_exit exit;
		while (space->revoking)
			supervisor_wait(&supervisor.changed, NULL);
		if (space->poisoned)
			break;
		space->running_on = vcpu;
		supervisor_unlock();
		dune_vcpu_run(vcpu, &space->context, &exit);
		supervisor_lock();
		space->running_on = NULL;
		if (space->revoking)
			pthread_cond_broadcast(&supervisor.changed);
		end = answer(space, bounds, &exit);
	}
	if (end == 1)
		return 0;
	space->poisoned = true;
	return dune_fail(EIO, "an address space cannot be run");
}

/* Writes to all pages that lives of the kind are known to write to. */
static int warm(struct address_space *space, const struct kind *kind)
{
	uint64_t copied = 0;
	bool out_of_memory = false;
	const struct memory_bounds bounds = { .heap_end = kind->pristine->memory.heap_end,
					      .arena_end = kind->pristine->memory.arena_end,
					      .quota = UINT64_MAX,
					      .pages_copied = &copied,
					      .out_of_memory = &out_of_memory };
	uint64_t addresses[LIST];
	size_t done = 0;
	do {
		unsigned count = 0;
		for (; count < LIST && done < space->page_count; done++)
			if (tag_at(space->pages[done].address) < 0) /* a tag may be deleted meanwhile */
				addresses[count++] = space->pages[done].address;
		if (run(space, &bounds, addresses, count) != 0)
			return -1;
	} while (done < space->page_count);
	return 0;
}

/* All are held at the same time, so that there are as many. */
static int prewarm(const struct kind *kind, struct address_space **spaces, unsigned count)
{
	unsigned made = 0;
	int result = 0;
	while (made < count && result == 0) {
		spaces[made] = address_space_take_own(kind->policy, kind->pristine, kind->function);
		if (!spaces[made])
			result = -1;
		else
			address_space_renew(spaces[made++]);
	}
	/* The first one learns what the way in and out of a body writes to. */
	if (made && result == 0 && (result = warm(spaces[0], kind)) == 0)
		address_space_learn(spaces[0]);
	for (unsigned i = 0; i < made && result == 0; i++)
		if ((result = address_space_prepare(spaces[i])) == 0)
			result = warm(spaces[i], kind);
	int error = errno;
	for (unsigned i = made; i > 0; i--)
		address_space_release(spaces[i - 1]);
	errno = error;
	return result;
}

static int check(stcb_t body, unsigned count)
{
	if (supervisor_enter() != 0)
		return -1;
	if (!body || !supervisor_has_text((uint64_t)body))
		return dune_fail(EINVAL, "the body was not loaded when sthread_init() was called");
	if (!count || count > STHREAD_PREWARM_MAX)
		return dune_fail(EINVAL, "sthread_prewarm() makes 1 to %d address spaces", STHREAD_PREWARM_MAX);
	return 0;
}

/* Caller holds the lock. */
static int prewarm_policy(const struct policy *policy, stcb_t body, unsigned count)
{
	struct kind kind = { .policy = policy, .pristine = template_state(policy), .function = (uint64_t)body };
	if (!kind.pristine)
		return -1;
	if (!policy_gates_exist(policy))
		return dune_fail(EBADF, "the policy names a gate that is gone");
	if (supervisor.unisolated) /* lives are threads: there is nothing to make */
		return 0;
	if (!dune_vcpu_get(supervisor.machine))
		return dune_fail(EAGAIN, "no virtual CPU for this thread");
	struct address_space **spaces = calloc(count, sizeof *spaces);
	if (!spaces)
		return dune_fail(ENOMEM, "out of memory");
	pristine_get(kind.pristine); /* its template may be refreshed meanwhile */
	int result = prewarm(&kind, spaces, count);
	int error = errno;
	pristine_put(kind.pristine);
	free(spaces);
	errno = error;
	return result;
}

int sthread_prewarm(const sc_t *sc, stcb_t body, unsigned count)
{
	if (check(body, count) != 0)
		return -1;
	supervisor_lock();
	const struct policy *policy = policy_new(sc, POLICY_FOR_ONE_LIFE);
	int result = policy ? prewarm_policy(policy, body, count) : -1;
	int error = errno;
	if (policy)
		policy_put(policy);
	supervisor_unlock();
	errno = error;
	return result;
}

int sthread_prewarm_frozen(sc_frozen_t frozen, stcb_t body, unsigned count)
{
	if (check(body, count) != 0)
		return -1;
	supervisor_lock();
	const struct policy *policy = policy_frozen(frozen);
	int result = -1, error = errno;
	if (policy) {
		policy_get(policy); /* it may be destroyed meanwhile */
		result = prewarm_policy(policy, body, count);
		error = errno;
		policy_put(policy);
	}
	supervisor_unlock();
	errno = error;
	return result;
}
