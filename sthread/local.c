/* local.c - what host threads keep for themselves, and how the supervisor lock shuts them out.  See local.h. */
#define _GNU_SOURCE
#include "local.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "account.h"

static _Thread_local struct local *own __attribute__((tls_model("initial-exec")));
static struct local *every;
static _Atomic bool stopped; /* somebody holds the lock */

/* ---- stretches ------------------------------------------------------------------------------------- */

enum {
	OUTSIDE,
	INSIDE,
	WAITED_FOR /* inside, and who has the lock sleeps */
};

/* Either the one that sets `stopped` sees that the other is inside, or the other sees `stopped`: both orders are
 * sequentially consistent. */
struct local *local_enter(void)
{
	struct local *local = own;
	if (!local)
		return NULL;
	atomic_store(&local->inside, INSIDE);
	if (!atomic_load(&stopped))
		return local;
	local_leave(local);
	return NULL;
}

/* Keeps errno, which callers have set for their own callers. */
static void futex(struct local *local, int operation, uint32_t value)
{
	int error = errno;
	syscall(SYS_futex, &local->inside, operation, value, NULL, NULL, 0);
	errno = error;
}

void local_leave(struct local *local)
{
	if (atomic_exchange(&local->inside, OUTSIDE) == WAITED_FOR)
		futex(local, FUTEX_WAKE_PRIVATE, 1);
}

void locals_stop(void)
{
	atomic_store(&stopped, true);
	for (struct local *local = every; local; local = local->next)
		for (uint32_t inside; (inside = atomic_load(&local->inside)) != OUTSIDE;)
			if (inside == WAITED_FOR || atomic_compare_exchange_strong(&local->inside, &inside, WAITED_FOR))
				futex(local, FUTEX_WAIT_PRIVATE, WAITED_FOR);
}

void locals_go_on(void)
{
	atomic_store(&stopped, false);
}

/* ---- kinds ----------------------------------------------------------------------------------------- */

/* Empties a kind: whatever it holds goes where it would be without it. */
static void give_up(struct local_kind *kind)
{
	struct sthread *sthread = kind->sthread;
	account_merge(kind->policy, &kind->sums);
	if (sthread) { /* the reference is its own now, and it has the address space */
		sthread->kind = NULL;
	} else {
		address_space_release(kind->space);
		policy_put(kind->policy);
	}
	*kind = (struct local_kind){ 0 };
}

void local_give_up(struct local_kind *kind)
{
	if (kind->policy && !kind->sthread)
		give_up(kind);
}

void local_release_life(struct sthread *sthread)
{
	if (sthread->kind)
		give_up(sthread->kind);
}

unsigned locals_give_up(bool (*concerned)(const struct local_kind *kind, const void *argument), const void *argument,
			unsigned at_most)
{
	unsigned given = 0;
	for (struct local *local = every; local; local = local->next)
		for (unsigned i = 0; i < LOCAL_KINDS && (!at_most || given < at_most); i++)
			if (local->kinds[i].policy && concerned(&local->kinds[i], argument)) {
				give_up(&local->kinds[i]);
				given++;
			}
	return given;
}

/* Whether a life of this policy could begin now in the address space as it is.  What a policy names may have gone while the
 * life lasted, and so may what it started from.  A policy for one life that names files or directories is not kept: they
 * must be closed when its owner destroys it, and that is not told here.  Of a frozen one it is. */
static bool is_keepable(const struct policy *policy, const struct address_space *space)
{
	if (policy_is_kept(policy) ? policy_is_retired(policy) : policy->files || policy->paths)
		return false;
	return !space->revoking && template_state(policy) == space->pristine && policy_gates_exist(policy) &&
	       address_space_is_current(space, policy);
}

static bool is_same(const struct policy *one, const struct policy *other)
{
	return one == other || (!policy_is_kept(one) && !policy_is_kept(other) && policy_same_words(one, other));
}

/* A place for a kind: a free one, or that of the idle one whose last life is longest ago.  NULL: there is such a kind, or
 * all are in use. */
static struct local_kind *place_for(struct local *local, const struct policy *policy, uint64_t function)
{
	struct local_kind *best = NULL;
	for (unsigned i = 0; i < LOCAL_KINDS; i++) {
		struct local_kind *kind = &local->kinds[i];
		if (kind->policy && kind->function == function && is_same(kind->policy, policy))
			return NULL;
		if (!kind->sthread && (!best || !kind->policy || (best->policy && kind->used < best->used)))
			best = kind;
	}
	if (best && best->policy)
		give_up(best);
	return best;
}

bool local_keep(struct sthread *sthread)
{
	struct compartment *compartment = &sthread->own;
	const struct policy *policy = compartment->policy;
	if (sthread->owner || !is_keepable(policy, compartment->space))
		return false;
	struct local *local = local_get();
	struct local_kind *kind = local ? place_for(local, policy, compartment->function) : NULL;
	if (!kind || !address_space_settle(compartment->space))
		return false;
	account_end(compartment);
	pending_call_end(compartment);
	descriptor_close_all(compartment);
	*kind = (struct local_kind){
		.policy = policy, .function = compartment->function, .space = compartment->space, .used = ++local->lives
	};
	compartment->space = NULL;
	compartment->policy = NULL;
	return true;
}

/* All members are counters. */
_Static_assert(sizeof(struct sthread_statistics) % sizeof(uint64_t) == 0, "counters of 64 bits");

static void add_statistics(struct sthread_statistics *to, const struct sthread_statistics *from)
{
	uint64_t *sum = (uint64_t *)to;
	const uint64_t *more = (const uint64_t *)from;
	for (size_t i = 0; i < sizeof *to / sizeof *sum; i++)
		sum[i] += more[i];
}

/* ---- threads --------------------------------------------------------------------------------------- */

static pthread_key_t thread_end;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void drop(struct local *local)
{
	for (unsigned i = 0; i < LOCAL_ENDED; i++)
		if (local->ended[i])
			local->ended[i]->keeper = NULL;
	while (local->spare_count)
		free(local->spares[--local->spare_count]);
	explicit_bzero(&local->random, sizeof local->random);
	free(local);
}

static void end_thread(void *argument)
{
	struct local *local = argument;
	if (local != own) /* a fork has been: it is gone */
		return;
	supervisor_lock();
	for (unsigned i = 0; i < LOCAL_KINDS; i++)
		if (local->kinds[i].policy)
			give_up(&local->kinds[i]);
	handles_give(&supervisor.sthreads, local->free_places, local->free_count);
	handles_give(&supervisor.sthreads, local->ended_places, local->ended_count);
	add_statistics(&supervisor.statistics, &local->statistics);
	struct local **link = &every;
	while (*link != local)
		link = &(*link)->next;
	*link = local->next;
	own = NULL;
	drop(local);
	supervisor_unlock();
}

static void make_key(void)
{
	pthread_key_create(&thread_end, end_thread);
}

struct local *local_get(void)
{
	if (own || supervisor.unisolated)
		return own;
	struct local *local = calloc(1, sizeof *local);
	pthread_once(&once, make_key);
	if (!local || pthread_setspecific(thread_end, local) != 0) {
		free(local);
		return NULL;
	}
	local->next = every;
	every = local;
	return own = local;
}

void local_replenish(struct local *local)
{
	handles_give(&supervisor.sthreads, local->ended_places, local->ended_count);
	local->ended_count = 0;
	local->free_count += handles_take(&supervisor.sthreads, local->free_places + local->free_count,
					  LOCAL_HANDLES - local->free_count);
	if (!local_has_instances(local)) {
		local->instance = supervisor.instances;
		supervisor.instances += LOCAL_INSTANCES;
		local->instances_end = supervisor.instances;
	}
	if (!local->spare_count && (local->spares[0] = malloc(sizeof *local->spares[0])))
		local->spare_count = 1;
}

void locals_forget(void)
{
	/* Lives under way have their references themselves; sthreads_forget() sees to them. */
	for (struct local *local = every; local; local = local->next)
		for (unsigned i = 0; i < LOCAL_KINDS; i++) {
			struct local_kind *kind = &local->kinds[i];
			if (kind->sthread)
				kind->sthread->kind = NULL;
			else if (kind->policy)
				policy_put(kind->policy);
		}
	while (every) {
		struct local *local = every;
		every = local->next;
		drop(local);
	}
	if (own)
		pthread_setspecific(thread_end, NULL);
	own = NULL;
}

/* ---- objects, numbers, statistics ------------------------------------------------------------------ */

struct sthread *local_sthread_new(void)
{
	struct local *local = own;
	if (!local || !local->spare_count)
		return calloc(1, sizeof(struct sthread));
	struct sthread *sthread = local->spares[--local->spare_count];
	memset(sthread, 0, sizeof *sthread);
	return sthread;
}

void local_sthread_free(struct sthread *sthread)
{
	struct local *local = own;
	for (unsigned i = 0; sthread->keeper && i < LOCAL_ENDED; i++)
		if (sthread->keeper->ended[i] == sthread)
			sthread->keeper->ended[i] = NULL;
	if (local && local->spare_count < LOCAL_SPARES)
		local->spares[local->spare_count++] = sthread;
	else
		free(sthread);
}

uint64_t *local_instances(void)
{
	return own && local_has_instances(own) ? &own->instance : &supervisor.instances;
}

struct random_stock *local_random(void)
{
	return own ? &own->random : NULL;
}

struct sthread_statistics *local_statistics(void)
{
	return own ? &own->statistics : &supervisor.statistics;
}

void locals_add_statistics(struct sthread_statistics *sums)
{
	for (const struct local *local = every; local; local = local->next)
		add_statistics(sums, &local->statistics);
}

void locals_settle_accounts(void)
{
	for (struct local *local = every; local; local = local->next)
		for (unsigned i = 0; i < LOCAL_KINDS; i++) {
			struct local_kind *kind = &local->kinds[i];
			if (!kind->policy)
				continue;
			account_merge(kind->policy, &kind->sums);
			kind->sums = (struct sthread_policy_statistics){ 0 };
		}
}
