/* unit_handles.c - numbers of objects: one that is stale, and that somebody remembers, never means something new. */
#include <errno.h>

#include "harness.h"
#include "supervisor.h"

enum {
	GENERATIONS = 1 << 13,
	ENOUGH = 5000 * GENERATIONS /* handles, until each free slot has been through all its generations */
};

static int object;

/* Ends objects and makes others until one has this number.  Returns whether one has. */
static bool comes_back(struct handles *handles, int wanted)
{
	for (unsigned i = 0; i < ENOUGH; i++) {
		int made = handle_new(handles, &object);
		if (made < 0 || made == wanted)
			return made == wanted;
		handle_end(handles, made);
	}
	return false;
}

static void a_number_that_nobody_holds_comes_back(void)
{
	struct handles handles = { 0 };
	int handle = handle_new(&handles, &object);
	handle_end(&handles, handle);
	CU_ASSERT(comes_back(&handles, handle));
	CU_ASSERT(handles.count < 5000);
}

static void a_number_that_is_held_does_not(void)
{
	struct handles handles = { 0 };
	int handle = handle_new(&handles, &object);
	CU_ASSERT(handle_hold(&handles, handle));
	CU_ASSERT_PTR_EQUAL(handle_get(&handles, handle), &object);
	handle_end(&handles, handle);
	CU_ASSERT(handle_hold(&handles, handle)); /* a stale one */
	handle_drop(&handles, handle);
	CU_ASSERT_FALSE(comes_back(&handles, handle));
	handle_drop(&handles, handle);
	CU_ASSERT(comes_back(&handles, handle));
	CU_ASSERT_FALSE(handle_hold(&handles, -1));
	CU_ASSERT_FALSE(handle_hold(&handles, (int)handles.count));
}

static void a_slot_held_while_it_is_free_does_not(void)
{
	struct handles handles = { 0 };
	int handle = handle_new(&handles, &object);
	handle_end(&handles, handle);
	CU_ASSERT(handle_hold(&handles, handle));
	CU_ASSERT_FALSE(comes_back(&handles, handle));
	handle_drop(&handles, handle);
	CU_ASSERT(comes_back(&handles, handle));
}

/* What a life or a gate may use is what was there when its policy was made. */
static void a_policy_holds_the_tags_gates_and_templates_that_it_names(void)
{
	struct handles *const kinds[] = { &supervisor.tags, &supervisor.gates, &supervisor.templates };
	static uint64_t alive[512]; /* zeros: a tag that is not dying */
	for (unsigned use = POLICY_FOR_ONE_LIFE; use <= POLICY_KEPT; use++)
		for (unsigned i = 0; i < 3; i++) {
			int handle = handle_new(kinds[i], alive);
			struct policy_tag tag = { .tag = handle, .prot = PROT_READ };
			struct policy named = { .magic = POLICY_MAGIC, .tag = &tag, .gate = &handle };
			named.tags = i == 0;
			named.gates = i == 1;
			named.template = i == 2 ? handle + 1 : 0;
			const struct policy *policy = policy_new_from(&named, use);
			CU_ASSERT_PTR_NOT_NULL_FATAL(policy);
			handle_end(kinds[i], handle);
			CU_ASSERT_EQUAL(kinds[i]->slots[handle & 0x3ffff].holds, 1);
			CU_ASSERT_EQUAL(policy_get(policy), policy);
			policy_put(policy);
			CU_ASSERT_EQUAL(kinds[i]->slots[handle & 0x3ffff].holds, 1);
			policy_put(policy);
			CU_ASSERT_EQUAL(kinds[i]->slots[handle & 0x3ffff].holds, 0);
		}
}

static void a_policy_that_names_what_never_was_is_refused_and_holds_nothing(void)
{
	static uint64_t alive[512];
	int gate = handle_new(&supervisor.gates, alive);
	struct policy_tag tags[2] = { { .tag = handle_new(&supervisor.tags, alive), .prot = PROT_READ } };
	struct policy named = { .magic = POLICY_MAGIC, .tags = 2, .tag = tags, .gates = 1, .gate = &gate };
	tags[1].tag = (int)supervisor.tags.count;
	errno = 0;
	CU_ASSERT_PTR_NULL(policy_new_from(&named, POLICY_KEPT));
	CU_ASSERT_EQUAL(errno, EBADF);
	CU_ASSERT_EQUAL(supervisor.tags.slots[tags[0].tag & 0x3ffff].holds, 0);
	CU_ASSERT_EQUAL(supervisor.gates.slots[gate & 0x3ffff].holds, 0);
}

static const struct harness_test tests[] = {
	{ "a number that nobody holds comes back", a_number_that_nobody_holds_comes_back, HARNESS_FORK },
	{ "a number that is held does not", a_number_that_is_held_does_not, HARNESS_FORK },
	{ "a slot that is held while it is free does not", a_slot_held_while_it_is_free_does_not, HARNESS_FORK },
	{ "a policy holds the tags, gates and templates that it names",
	  a_policy_holds_the_tags_gates_and_templates_that_it_names, HARNESS_FORK },
	{ "a policy that names what never was is refused, and holds nothing",
	  a_policy_that_names_what_never_was_is_refused_and_holds_nothing, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
