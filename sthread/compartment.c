/* compartment.c - see compartment.h */
#define _GNU_SOURCE
#include "compartment.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "account.h"
#include "budget.h"
#include "local.h"
#include "slice.h"

/* Runs in ring 3 at the end of a body that could write to a file: what stdio still holds goes out. */
static void flush_stdio(void)
{
	fflush(NULL);
}

struct memory_bounds compartment_bounds(struct compartment *compartment)
{
	return (struct memory_bounds){ .heap_end = compartment->memory.heap_end,
				       .arena_end = compartment->memory.arena_end,
				       .quota = compartment->policy->memory,
				       .pages_copied = &compartment->info.pages_copied,
				       .out_of_memory = &compartment->out_of_memory };
}

void compartment_unlock(struct compartment *compartment)
{
	int error = errno;
	compartment->space->served = true;
	supervisor_unlock();
	errno = error;
}

void compartment_relock(struct compartment *compartment)
{
	int error = errno;
	supervisor_lock();
	compartment->space->served = false;
	if (compartment->space->revoking)
		pthread_cond_broadcast(&supervisor.changed);
	errno = error;
}

uint64_t compartment_time_left(const struct compartment *compartment)
{
	return budget_left(compartment, slice_clock(), UINT64_MAX);
}

static int open_files(struct compartment *compartment)
{
	const struct policy *policy = compartment->policy;
	for (unsigned i = 0; i < policy->files; i++) {
		const struct policy_file *grant = &policy->file[i];
		struct open_file *file = policy_open_file(grant->file);
		if (!file)
			return dune_fail(EBADF, "the policy names a file that sc_destroy() has released");
		if (descriptor_add(compartment, file, grant->number, grant->prot) < 0)
			return dune_fail(EMFILE, "the policy has more than %d descriptors", COMPARTMENT_FILES);
		open_file_get(file);
	}
	return 0;
}

/* Whether a call of it may be answered in ring 3: it need be neither counted nor looked at. */
static bool is_quiet(const struct policy *policy, long number)
{
	return policy->calls == POLICY_NO_LIMIT_WIDE && !policy_filters_call(policy, number);
}

/* Restores the address space: it is nobody else's, so others need not wait if that takes longer than handing the lock
 * over. */
static int restore(struct compartment *compartment)
{
	enum {
		WORTH_UNLOCKING = 32 /* pages */
	};
	struct address_space *space = compartment->space;
	bool unlock = space->page_count >= WORTH_UNLOCKING;
	if (unlock)
		compartment_unlock(compartment);
	size_t copied = address_space_restore(space);
	if (unlock)
		compartment_relock(compartment);
	compartment->info.pages_restored = copied;
	return address_space_restored(space, copied);
}

/* Begins the life in the address space that it has. */
static int begin(struct compartment *compartment)
{
	struct address_space *space = compartment->space;
	struct sthread_statistics *statistics = local_statistics();
	compartment->memory = space->pristine->memory;
	compartment->instance = supervisor_new_instance();
	if (address_space_begin(space, compartment->instance, is_quiet(compartment->policy, SYS_getrandom)) != 0)
		return -1;
	gate_direct_grant(compartment);
	compartment->info.address_space = space->id;
	compartment->info.instance = compartment->instance;
	compartment->info.recycled = space->lives > 1;
	statistics->lives++;
	statistics->lives_recycled += compartment->info.recycled;
	return 0;
}

int compartment_begin(struct compartment *compartment, const struct policy *policy, uint64_t function)
{
	memset(compartment, 0, sizeof *compartment);
	compartment->policy = policy_get(policy);
	compartment->function = function;
	compartment->info.system_call = -1;
	struct pristine *pristine = template_state(policy);
	if (!pristine || open_files(compartment) != 0 ||
	    !(compartment->space = address_space_take(policy, pristine, function)) || restore(compartment) != 0) {
		int error = errno;
		compartment_end(compartment);
		errno = error;
		return -1;
	}
	if (begin(compartment) != 0) {
		compartment_end(compartment);
		return -1;
	}
	account_begin(compartment);
	return 0;
}

int compartment_begin_again(struct compartment *compartment, const struct policy *policy, uint64_t function,
			    struct address_space *space)
{
	compartment->policy = policy;
	compartment->function = function;
	compartment->info.system_call = -1;
	compartment->space = space;
	if (open_files(compartment) == 0) {
		compartment->info.pages_restored = address_space_renew(space);
		if (begin(compartment) == 0)
			return 0;
	}
	descriptor_close_all(compartment);
	compartment->policy = NULL;
	compartment->space = NULL;
	return -1;
}

void compartment_call(struct compartment *compartment, uint64_t function, uint64_t first, uint64_t second, bool flush)
{
	const struct dune_machine *machine = supervisor.machine;
	struct dune_context *context = &compartment->space->context;
	context->regs = (struct kvm_regs){
		.rip = machine->trampoline_enter,
		.rsp = machine->window + SPACE_STACK_TOP,
		.rbx = function,
		.rdi = first,
		.rsi = second,
		.r12 = flush ? (uint64_t)flush_stdio : 0,
		.r13 = machine->trampoline_service,
	};
	context->fs_base = supervisor.snapshot.thread_pointer;
	context->gs_base = 0;
	budget_begin(compartment);
}

uint64_t compartment_after(const struct compartment *compartment)
{
	return policy_writes_files(compartment->policy) ? (uint64_t)flush_stdio : 0;
}

void compartment_end(struct compartment *compartment)
{
	account_end(compartment);
	pending_call_end(compartment);
	descriptor_close_all(compartment);
	if (compartment->space)
		address_space_release(compartment->space);
	compartment->space = NULL;
	if (compartment->policy)
		policy_put(compartment->policy);
	compartment->policy = NULL;
}

void compartment_forget(struct compartment *compartment)
{
	compartment->space = NULL;
	compartment_end(compartment);
}
