/*
 * policy_filter.c - conditions on the arguments of system calls.  See policy.h and sthread.h.
 *
 * open() and openat() are one call with two numbers: conditions are kept, and evaluated, as openat()'s.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "compartment.h"

/* ---- one condition --------------------------------------------------------------------------------- */

bool policy_condition_holds(const struct policy_condition *condition, uint64_t argument)
{
	const uint64_t value = condition->value;
	switch (condition->compare) {
	case SC_EQUAL:
		return argument == value;
	case SC_NOT_EQUAL:
		return argument != value;
	case SC_LESS:
		return argument < value;
	case SC_LESS_OR_EQUAL:
		return argument <= value;
	case SC_GREATER:
		return argument > value;
	case SC_GREATER_OR_EQUAL:
		return argument >= value;
	case POLICY_MASKED_EQUAL:
		return (argument & condition->mask) == value;
	default:
		return false;
	}
}

/* The lowest and the highest argument for which a condition holds; there is at least one. */
static uint64_t lowest(const struct policy_condition *condition)
{
	switch (condition->compare) {
	case SC_EQUAL:
	case SC_GREATER_OR_EQUAL:
	case POLICY_MASKED_EQUAL:
		return condition->value;
	case SC_GREATER:
		return condition->value + 1;
	case SC_NOT_EQUAL:
		return condition->value == 0;
	default:
		return 0;
	}
}

static uint64_t highest(const struct policy_condition *condition)
{
	switch (condition->compare) {
	case SC_EQUAL:
	case SC_LESS_OR_EQUAL:
		return condition->value;
	case POLICY_MASKED_EQUAL:
		return condition->value | ~condition->mask;
	case SC_LESS:
		return condition->value - 1;
	case SC_NOT_EQUAL:
		return UINT64_MAX - (condition->value == UINT64_MAX);
	default:
		return UINT64_MAX;
	}
}

/* The bits that are the same in all arguments for which a condition holds. */
static uint64_t fixed_bits(const struct policy_condition *condition)
{
	if (condition->compare == POLICY_MASKED_EQUAL)
		return condition->mask;
	if (condition->compare == SC_NOT_EQUAL)
		return 0;
	/* A range takes every value of the bits below the highest one in which its ends differ. */
	uint64_t varying = lowest(condition) ^ highest(condition);
	for (unsigned shift = 1; shift < 64; shift *= 2)
		varying |= varying >> shift;
	return ~varying;
}

bool policy_condition_implies(const struct policy_condition *narrow, const struct policy_condition *wide)
{
	const uint64_t low = lowest(narrow), high = highest(narrow);
	if (low == high)
		return policy_condition_holds(wide, low);
	switch (wide->compare) {
	case SC_EQUAL:
		return false;
	case SC_NOT_EQUAL:
		return !policy_condition_holds(narrow, wide->value);
	case POLICY_MASKED_EQUAL:
		return !(wide->mask & ~fixed_bits(narrow)) && (low & wide->mask) == wide->value;
	default:
		return policy_condition_holds(wide, low) && policy_condition_holds(wide, high);
	}
}

static bool same_condition(const struct policy_condition *one, const struct policy_condition *other)
{
	return one->call == other->call && one->argument == other->argument && one->compare == other->compare &&
	       one->value == other->value && one->mask == other->mask;
}

/* ---- the filter of a policy ------------------------------------------------------------------------ */

bool policy_filter_add(struct policy_condition *list, uint32_t *count, uint32_t room,
		       const struct policy_condition *condition)
{
	for (uint32_t i = 0; i < *count; i++)
		if (same_condition(&list[i], condition))
			return true;
	if (*count == room)
		return false;
	list[(*count)++] = *condition;
	return true;
}

bool policy_filter_passes(const struct policy *policy, long number, const uint64_t argument[6])
{
	const uint64_t opened[6] = { (uint64_t)AT_FDCWD, argument[0], argument[1], argument[2] };
	if (number == SYS_open) {
		number = SYS_openat;
		argument = opened;
	}
	for (uint32_t i = 0; i < policy->conditions; i++) {
		const struct policy_condition *condition = &policy->condition[i];
		if (condition->call == number && !policy_condition_holds(condition, argument[condition->argument]))
			return false;
	}
	return true;
}

/* Whether a condition of the wider policy concerns the narrower one: it can make the call. */
static bool concerns(const struct policy_condition *condition, const struct policy *narrow)
{
	return !system_call_wants_grant(condition->call) || policy_allows_call(narrow, condition->call);
}

const struct policy_condition *policy_filter_lacks(const struct policy *narrow, const struct policy *wide)
{
	for (uint32_t i = 0; i < wide->conditions; i++) {
		const struct policy_condition *wanted = &wide->condition[i];
		bool found = !concerns(wanted, narrow);
		for (uint32_t j = 0; j < narrow->conditions && !found; j++) {
			const struct policy_condition *own = &narrow->condition[j];
			found = own->call == wanted->call && own->argument == wanted->argument &&
				policy_condition_implies(own, wanted);
		}
		if (!found)
			return wanted;
	}
	return NULL;
}

bool policy_filter_names_descriptors(const struct policy *narrow, const struct policy *wide)
{
	for (uint32_t i = 0; i < wide->conditions; i++) {
		const struct policy_condition *condition = &wide->condition[i];
		if (system_call_kinds(condition->call)[condition->argument] == 'd' && concerns(condition, narrow))
			return true;
	}
	return false;
}

/* ---- making one ------------------------------------------------------------------------------------ */

int policy_condition_make(struct policy_condition *condition, int call, unsigned argument, int compare, uint64_t value,
			  uint64_t mask)
{
	if (call == SYS_open && argument < 6) {
		call = SYS_openat;
		argument++;
	}
	const char *kinds = system_call_kinds(call);
	if (!kinds || !*kinds)
		return dune_fail(EINVAL, "no call with arguments that is served has the number %d", call);
	if (argument >= strlen(kinds))
		return dune_fail(EINVAL, "the call has only %zu arguments", strlen(kinds));
	if (!strchr("dilu", kinds[argument]))
		return dune_fail(EINVAL, "this argument is an address: what lies there is not compared");
	if (compare < SC_EQUAL || compare > POLICY_MASKED_EQUAL)
		return dune_fail(EINVAL, "unknown comparison");
	if ((compare == SC_LESS && !value) || (compare == SC_GREATER && value == UINT64_MAX) ||
	    (compare == POLICY_MASKED_EQUAL && (!mask || value & ~mask)))
		return dune_fail(EINVAL, "no argument, or every argument, would pass this comparison");
	*condition = (struct policy_condition){ .value = value,
						.mask = mask,
						.call = (uint16_t)call,
						.argument = (uint8_t)argument,
						.compare = (uint8_t)compare };
	return 0;
}
