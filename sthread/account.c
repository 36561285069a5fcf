/* account.c - see account.h and sthread.h */
#include "account.h"

#include <errno.h>
#include <string.h>

#include "gate.h"
#include "local.h"

static struct account {
	char name[STHREAD_POLICY_NAME];
	struct sthread_policy_statistics sums;
} accounts[ACCOUNTS];
static unsigned account_count;

/* The number comes from an sc_t, whose words the program could have changed. */
static struct account *account_of(const struct policy *policy)
{
	return policy && policy->account && policy->account <= account_count ? &accounts[policy->account - 1] : NULL;
}

const char *account_name(const struct policy *policy)
{
	const struct account *account = account_of(policy);
	return account ? account->name : "";
}

static struct account *find(const char *name)
{
	for (unsigned i = 0; i < account_count; i++)
		if (strcmp(accounts[i].name, name) == 0)
			return &accounts[i];
	return NULL;
}

/* ---- counting ------------------------------------------------------------------------------------------ */

static void add(struct sthread_policy_statistics *sums, const struct sthread_info *info)
{
	sums->exits += info->exits;
	sums->traps += info->traps;
	sums->calls_served += info->calls_served;
	sums->calls_denied += info->calls_denied;
	sums->gate_calls += info->gate_calls;
	sums->pages_copied += info->pages_copied;
	sums->pages_restored += info->pages_restored;
	sums->parks += info->parks;
	sums->run_nanoseconds += info->run_nanoseconds;
}

void account_count_begin(struct sthread_policy_statistics *sums, const struct sthread_info *info)
{
	sums->lives++;
	sums->lives_recycled += (uint64_t)info->recycled;
}

void account_count_end(struct sthread_policy_statistics *sums, const struct sthread_info *info)
{
	uint64_t *const ends[] = {
		[STHREAD_RETURNED] = &sums->returned,       [STHREAD_EXITED] = &sums->exited,
		[STHREAD_FAULTED] = &sums->faulted,         [STHREAD_DENIED] = &sums->denied,
		[STHREAD_OUT_OF_CPU] = &sums->out_of_cpu,   [STHREAD_KILLED] = &sums->killed,
		[STHREAD_HOST_FAILURE] = &sums->failed,     [STHREAD_OUT_OF_MEMORY] = &sums->out_of_memory,
		[STHREAD_OUT_OF_TIME] = &sums->out_of_time, [STHREAD_OUT_OF_CALLS] = &sums->out_of_calls,
	};
	if ((unsigned)info->end < sizeof ends / sizeof *ends)
		++*ends[info->end];
	add(sums, info);
}

void account_begin(const struct compartment *compartment)
{
	struct account *account = account_of(compartment->policy);
	if (account)
		account_count_begin(&account->sums, &compartment->info);
}

void account_end(const struct compartment *compartment)
{
	struct account *account = account_of(compartment->policy);
	if (account && compartment->info.instance) /* else it never began */
		account_count_end(&account->sums, &compartment->info);
}

_Static_assert(sizeof(struct sthread_policy_statistics) % sizeof(uint64_t) == 0, "counters of 64 bits");

void account_merge(const struct policy *policy, const struct sthread_policy_statistics *sums)
{
	struct account *account = account_of(policy);
	if (!account)
		return;
	uint64_t *to = (uint64_t *)&account->sums;
	const uint64_t *from = (const uint64_t *)sums;
	for (size_t i = 0; i < sizeof *sums / sizeof *from; i++)
		to[i] += from[i];
}

/* ---- lives under way ----------------------------------------------------------------------------------- */

static void add_if(struct sthread_policy_statistics *sums, const struct account *account,
		   const struct compartment *compartment)
{
	if (!compartment->space || !compartment->info.instance || account_of(compartment->policy) != account)
		return;
	sums->lives_now++;
	add(sums, &compartment->info);
}

static void add_living(struct sthread_policy_statistics *sums, const struct account *account)
{
	for (uint32_t i = 0; i < supervisor.sthreads.count; i++) {
		const struct sthread *sthread = supervisor.sthreads.slots[i].object;
		if (sthread)
			add_if(sums, account, &sthread->own);
	}
	for (uint32_t i = 0; i < supervisor.gates.count; i++) {
		const struct gate *gate = supervisor.gates.slots[i].object;
		for (unsigned j = 0; gate && j < gate->instances; j++)
			if (gate->instance[j].alive)
				add_if(sums, account, &gate->instance[j].compartment);
	}
}

/* ---- the public interface ------------------------------------------------------------------------------ */

static bool is_name(const char *name)
{
	size_t length = name ? strnlen(name, STHREAD_POLICY_NAME) : 0;
	if (!length || length == STHREAD_POLICY_NAME)
		return false;
	for (size_t i = 0; i < length; i++)
		if (name[i] < ' ' || name[i] > '~')
			return false;
	return true;
}

int sc_name(sc_t *sc, const char *name)
{
	struct policy policy;
	if (supervisor_inside()) {
		errno = EPERM;
		return -1;
	}
	if (policy_view(sc, &policy) != 0)
		return -1;
	if (!is_name(name))
		return dune_fail(EINVAL, "the name of a policy has 1 to %d printable characters",
				 STHREAD_POLICY_NAME - 1);
	supervisor_lock();
	struct account *account = find(name);
	if (!account && account_count < ACCOUNTS) {
		account = &accounts[account_count++];
		strcpy(account->name, name);
	}
	supervisor_unlock();
	if (!account)
		return dune_fail(ENOSPC, "there are %d names of policies already", ACCOUNTS);
	((struct policy_words *)(void *)sc->opaque)->head.account = (uint32_t)(account - accounts) + 1;
	return 0;
}

const char *sthread_policy_name(unsigned index)
{
	if (supervisor_inside()) {
		errno = EPERM;
		return NULL;
	}
	supervisor_lock();
	const char *name = index < account_count ? accounts[index].name : NULL;
	supervisor_unlock();
	if (!name)
		dune_fail(ENOENT, "there are fewer names of policies");
	return name;
}

int sthread_policy_statistics(const char *name, struct sthread_policy_statistics *statistics)
{
	if (supervisor_enter() != 0)
		return -1;
	if (!name || !statistics)
		return dune_fail(EINVAL, "sthread_policy_statistics() wants a name, and a place for the statistics");
	supervisor_lock();
	locals_settle_accounts();
	const struct account *account = find(name);
	if (account) {
		*statistics = account->sums;
		add_living(statistics, account);
	}
	supervisor_unlock();
	return account ? 0 : dune_fail(ENOENT, "no policy has this name");
}

void accounts_forget(void)
{
	for (unsigned i = 0; i < account_count; i++)
		memset(&accounts[i].sums, 0, sizeof accounts[i].sums);
}
