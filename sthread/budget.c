/* budget.c - see budget.h */
#include "budget.h"

#include "slice.h"

static uint64_t processor_budget(const struct compartment *compartment)
{
	return compartment->policy->cpu_milliseconds * NANOSECONDS_PER_MILLISECOND;
}

void budget_begin(struct compartment *compartment)
{
	uint32_t wall = compartment->policy->wall_milliseconds;
	compartment->run_nanoseconds = 0;
	compartment->calls = 0;
	compartment->deadline = wall == POLICY_NO_LIMIT ? 0 : slice_clock() + wall * NANOSECONDS_PER_MILLISECOND;
	compartment->out_of_memory = false;
}

void budget_charge(struct compartment *compartment, uint64_t nanoseconds)
{
	compartment->run_nanoseconds += nanoseconds;
	compartment->info.run_nanoseconds += nanoseconds;
}

bool budget_count_call(struct compartment *compartment)
{
	if (compartment->calls++ < compartment->policy->calls)
		return true;
	compartment->info.end = STHREAD_OUT_OF_CALLS;
	return false;
}

bool budget_spent(struct compartment *compartment, uint64_t time)
{
	if (compartment->out_of_memory)
		compartment->info.end = STHREAD_OUT_OF_MEMORY;
	else if (compartment->run_nanoseconds > processor_budget(compartment))
		compartment->info.end = STHREAD_OUT_OF_CPU;
	else if (compartment->deadline && time >= compartment->deadline)
		compartment->info.end = STHREAD_OUT_OF_TIME;
	else
		return false;
	return true;
}

uint64_t budget_left(const struct compartment *compartment, uint64_t time, uint64_t limit)
{
	uint64_t budget = processor_budget(compartment), used = compartment->run_nanoseconds, left = limit;
	/* One more: the budget is spent when more than that was used. */
	if (used > budget || budget - used < left)
		left = used > budget ? 1 : budget - used + 1;
	if (compartment->deadline && (time >= compartment->deadline || compartment->deadline - time < left))
		left = time >= compartment->deadline ? 1 : compartment->deadline - time;
	return left;
}
