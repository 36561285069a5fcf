/* address_space_tags.c - tags mapped into address spaces, and taken away again. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "address_space_parts.h"
#include "kvm/direct.h"
#include "tag.h"

uint64_t space_tag_value(uint64_t physical, int prot)
{
	return physical | USER_DATA |
	       (prot & PROT_WRITE       ? DUNE_PTE_WRITE :
		prot & SC_COPY_ON_WRITE ? DUNE_PTE_COPY_ON_WRITE :
					  0);
}

static int map_tag(struct address_space *space, const struct policy_tag *grant)
{
	const struct tag *tag = tag_get(grant->tag);
	if (!tag)
		return dune_fail(EBADF, "the policy names a tag that is gone");
	space->tag[space->tags++] = *grant; /* first: a tag mapped in part is unmapped like any other */
	for (unsigned i = 0; i < tag->extent_count; i++)
		for (uint64_t at = 0; at < tag->extents[i].size; at += DUNE_PAGE_SIZE) {
			uint64_t physical = tag->extents[i].physical + at;
			uint64_t *entry = space_entry_own(space, tag->extents[i].address + at);
			if (!entry)
				return dune_fail(ENOMEM, "no page-table page left");
			if (!(*entry & DUNE_PTE_PRESENT))
				__atomic_store_n(entry, space_tag_value(physical, grant->prot), __ATOMIC_RELEASE);
		}
	return 0;
}

/* Adds the edits that unmap a tag. */
static int unmap_tag(const struct address_space *space, const struct tag *tag, struct edit_list *list)
{
	for (unsigned i = 0; i < tag->extent_count; i++)
		for (uint64_t at = 0; at < tag->extents[i].size; at += DUNE_PAGE_SIZE) {
			uint64_t *entry = space_entry(space, tag->extents[i].address + at);
			if (entry && *entry & DUNE_PTE_PRESENT && edit_list_add(list, entry, 0) != 0)
				return -1;
		}
	return 0;
}

/* After the edits of unmap_tag(): forgets private copies of the tag's pages. */
static void forget_copies(struct address_space *space, const struct tag *tag)
{
	for (unsigned i = 0; i < tag->extent_count; i++)
		space_forget_private(space, tag->extents[i].address, tag->extents[i].address + tag->extents[i].size);
}

int space_find_tag(const struct address_space *space, tag_t tag)
{
	for (unsigned i = 0; i < space->tags; i++)
		if (space->tag[i].tag == tag)
			return (int)i;
	return -1;
}

/* Whether the policy wants a mapped tag as it is mapped; *place is where the policy names it. */
static bool is_wanted(const struct policy_tag *mapped, const struct policy *policy, int *place)
{
	*place = policy_find_tag(policy, mapped->tag);
	return *place >= 0 && policy->tag[*place].prot == mapped->prot;
}

bool space_maps_only_tags(const struct address_space *space, const struct policy *policy)
{
	int place;
	for (unsigned i = 0; i < space->tags; i++)
		if (!is_wanted(&space->tag[i], policy, &place))
			return false;
	return true;
}

bool space_maps_tags(const struct address_space *space, const struct policy *policy)
{
	return space->tags == policy->tags && space_maps_only_tags(space, policy);
}

/* Makes room for the policy's tags beside those mapped now. */
static int make_room(struct address_space *space, unsigned tags)
{
	if (space->tag_room >= space->tags + tags)
		return 0;
	struct policy_tag *grown = realloc(space->tag, 2 * (space->tags + tags) * sizeof *grown);
	if (!grown)
		return dune_fail(ENOMEM, "out of memory");
	space->tag = grown;
	space->tag_room = 2 * (space->tags + tags);
	return 0;
}

int space_bind_tags(struct address_space *space, const struct policy *policy)
{
	struct edit_list list = { 0 };
	uint64_t present[POLICY_TAGS_MAX / 64] = { 0 }; /* of the policy's tags */
	unsigned kept = 0;
	int place;
	if (space_maps_tags(space, policy))
		return 0;
	if (make_room(space, policy->tags) != 0)
		return -1;
	for (unsigned i = 0; i < space->tags; i++) {
		const struct tag *tag = tag_mapped(space->tag[i].tag);
		if (!is_wanted(&space->tag[i], policy, &place) && tag && unmap_tag(space, tag, &list) != 0) {
			free(list.edits);
			return -1;
		}
	}
	if (edit_list_commit(space, &list) != 0)
		return -1;
	/* Only what has really been unmapped is forgotten. */
	for (unsigned i = 0; i < space->tags; i++) {
		const struct policy_tag mapped = space->tag[i];
		if (is_wanted(&mapped, policy, &place)) {
			present[place / 64] |= (uint64_t)1 << place % 64;
			space->tag[kept++] = mapped;
		} else if (tag_mapped(mapped.tag)) {
			forget_copies(space, tag_mapped(mapped.tag));
		}
	}
	space->tags = kept;
	for (unsigned i = 0; i < policy->tags; i++)
		if (!(present[i / 64] >> i % 64 & 1) && map_tag(space, &policy->tag[i]) != 0)
			return -1;
	return 0;
}

/* Whether no virtual CPU runs the space, and no call is served for it without the lock.  If so, none does before the
 * supervisor runs it. */
static bool stopped(const struct address_space *space)
{
	return !space->running_on && !space->served && (!space->direct || dune_direct_close(space->direct));
}

/* Waits for that.  Releases the lock meanwhile; kicks, again and again because a kick that comes just before KVM_RUN is
 * lost. */
static void wait_until_stopped(struct address_space *space)
{
	while (!stopped(space)) {
		struct timespec until;
		struct dune_vcpu *vcpu = space->running_on;
		if (!vcpu && space->direct)
			vcpu = dune_direct_user(space->direct);
		if (vcpu)
			dune_vcpu_kick(vcpu);
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += 1000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		supervisor_wait(&supervisor.changed, &until);
	}
}

static int revoke_from(struct address_space *space, const struct tag *tag)
{
	struct edit_list list = { 0 };
	int at = space_find_tag(space, tag->handle);
	if (at < 0)
		return 0;
	int result = unmap_tag(space, tag, &list);
	if (edit_list_commit(space, &list) != 0 || result != 0) {
		space->poisoned = true; /* it still has the tag: it must never run again */
		return -1;
	}
	forget_copies(space, tag);
	space->tag[at] = space->tag[--space->tags];
	return 0;
}

int address_spaces_revoke(const struct tag *tag)
{
	int result = 0;
	/* First all that can be done without letting go of the lock, so that no idle space starts with the tag. */
	for (struct address_space *space = address_spaces; space; space = space->next)
		if (space_find_tag(space, tag->handle) >= 0 && stopped(space) && revoke_from(space, tag) != 0)
			result = -1;
	for (struct address_space *space = address_spaces; space; space = space->next)
		if (space_find_tag(space, tag->handle) >= 0) {
			space->revoking++; /* it does not start again before this is done */
			wait_until_stopped(space);
			if (revoke_from(space, tag) != 0)
				result = -1;
			space->revoking--;
			pthread_cond_broadcast(&supervisor.changed);
		}
	return result;
}
