/*
 * nested_policy.c - the policy that a gate gives an sthread: read from untrusted words, resolved by the gate's own
 * rights.  See nested.h.
 *
 * Nothing is taken over that is not looked at here: a field of struct policy that this file does not know keeps the
 * value that grants nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "nested.h"

static int bad(const char *what)
{
	return dune_fail(EINVAL, "the policy of a gate's sthread has %s", what);
}

static int read_tags(const struct policy *words, struct policy *policy)
{
	for (unsigned i = 0; i < words->tags; i++) {
		struct policy_tag grant = words->tag[i];
		if (grant.prot != PROT_READ && grant.prot != (PROT_READ | PROT_WRITE) &&
		    grant.prot != (PROT_READ | SC_COPY_ON_WRITE))
			return bad("a tag with rights that there are not");
		for (unsigned j = 0; j < i; j++)
			if (policy->tag[j].tag == grant.tag)
				return bad("a tag twice");
		policy->tag[policy->tags++] = grant;
	}
	return 0;
}

static bool rights_exist(int prot)
{
	return prot && !(prot & ~(PROT_READ | PROT_WRITE));
}

/* Descriptors: those of the gate's table, which files it opened itself are in as well. */
static int read_files(const struct policy *words, struct compartment *gate, struct policy *policy)
{
	for (unsigned i = 0; i < words->files; i++) {
		int number = words->file[i].number, prot = words->file[i].prot;
		if (number < 0 || !rights_exist(prot))
			return bad("a descriptor with rights that there are not");
		for (unsigned j = 0; j < i; j++)
			if (policy->file[j].number == number)
				return bad("a descriptor twice");
		if (!descriptor_get(gate, number, 0))
			return dune_fail(EBADF, "the gate does not have descriptor %d", number);
		struct open_file *file = descriptor_get(gate, number, prot);
		if (!file)
			return dune_fail(EPERM, "the gate does not have these rights to descriptor %d", number);
		if (file->beneath & ~prot) /* it is the open file that says what may be done beneath it */
			return dune_fail(EPERM, "more may be done beneath directory %d than the grant says", number);
		file->passed_on = true;
		policy->file[policy->files++] =
			(struct policy_file){ .number = number, .file = file->handle, .prot = prot };
	}
	return 0;
}

/* Directories: those of the gate's policy, under the numbers that were granted. */
static int read_paths(const struct policy *words, const struct compartment *gate, struct policy *policy)
{
	for (unsigned i = 0; i < words->paths; i++) {
		struct policy_file grant = { .number = words->path[i].number, .prot = words->path[i].prot };
		const struct policy_file *found = NULL;
		if (!rights_exist(grant.prot))
			return bad("a directory with rights that there are not");
		for (unsigned j = 0; j < gate->policy->paths; j++)
			if (gate->policy->path[j].number == grant.number &&
			    (!found || (found->prot & grant.prot) != grant.prot))
				found = &gate->policy->path[j];
		if (!found)
			return dune_fail(EBADF, "the gate does not have directory %d", grant.number);
		grant.file = found->file; /* policy_check_subset() looks at the rights */
		policy->path[policy->paths++] = grant;
	}
	return 0;
}

/* What is not set is the default, or the gate's own if that is less. */
static void read_limits(const struct policy *words, const struct policy *gate, struct policy *policy)
{
	for (unsigned i = 0; i < policy_limit_count; i++) {
		const struct policy_limit *limit = &policy_limits[i];
		static const uint8_t unset[8];
		const uint8_t *from = (const uint8_t *)words + limit->offset;
		uint8_t *to = (uint8_t *)policy + limit->offset;
		uint64_t own = policy_limit_value(gate, limit);
		if (memcmp(from, unset, limit->size) != 0)
			memcpy(to, from, limit->size);
		else
			memcpy(to, own < limit->fallback ? &own : &limit->fallback, limit->size);
	}
}

/* Conditions on arguments: its own, checked anew, and all of the gate's. */
static int read_conditions(const struct policy *words, const struct policy *gate, struct policy *policy)
{
	const uint32_t room = POLICY_CONDITIONS + POLICY_CONDITIONS_MAX;
	for (unsigned i = 0; i < words->conditions; i++) {
		const struct policy_condition *asked = &words->condition[i];
		struct policy_condition condition;
		if (policy_condition_make(&condition, asked->call, asked->argument, asked->compare, asked->value,
					  asked->mask) != 0)
			return -1;
		policy_filter_add(policy->condition, &policy->conditions, room, &condition);
	}
	for (unsigned i = 0; i < gate->conditions; i++)
		policy_filter_add(policy->condition, &policy->conditions, room, &gate->condition[i]);
	return 0;
}

const struct policy *nested_policy_new(const sc_t *words, struct compartment *gate)
{
	struct policy asked;
	struct policy_words lists;
	struct policy_condition conditions[POLICY_CONDITIONS + POLICY_CONDITIONS_MAX];
	if (policy_view(words, &asked) != 0)
		return NULL;
	if (asked.flags & ~(uint32_t)SC_KILL) {
		bad("a flag that there is not");
		return NULL;
	}
	if (asked.template) {
		dune_fail(EPERM, "sthreads of gates start from the snapshot");
		return NULL;
	}
	struct policy policy = {
		.magic = POLICY_MAGIC,
		.flags = asked.flags,
		.gates = asked.gates,
		.account = gate->policy->account,
		.tag = lists.tag,
		.file = lists.file,
		.path = lists.path,
		.gate = lists.gate,
		.condition = conditions,
	};
	memcpy(lists.gate, asked.gate, asked.gates * sizeof *lists.gate);
	memcpy(policy.system_calls, asked.system_calls, sizeof policy.system_calls);
	read_limits(&asked, gate->policy, &policy);
	if (read_tags(&asked, &policy) != 0 || read_files(&asked, gate, &policy) != 0 ||
	    read_paths(&asked, gate, &policy) != 0 || read_conditions(&asked, gate->policy, &policy) != 0)
		return NULL;
	struct policy beside_files = policy; /* files: read_files() did it, by the table */
	beside_files.files = 0;
	if (policy_check_subset(&beside_files, gate->policy) != 0)
		return NULL;
	return policy_new_from(&policy, POLICY_FOR_ONE_LIFE);
}
