/* tags.c - see tags.h. */
#include "kvm/tags.h"

#include <string.h>

#include "dune_x86.h"

uint64_t dune_generation_new(void)
{
	static _Atomic uint64_t last;
	return atomic_fetch_add(&last, 1) + 1;
}

static unsigned tag_of(const struct dune_machine *machine, const struct dune_context *context)
{
	return TAG_FIRST + (context->space & (machine->tags_used - 1));
}

uint64_t dune_tagged_root(const struct dune_machine *machine, const struct dune_context *context)
{
	return machine->tags_used ? context->root | tag_of(machine, context) : context->root;
}

static uint64_t *record_of(const struct dune_vcpu *vcpu, const struct dune_context *context)
{
	return &vcpu->area->direct.tags[tag_of(vcpu->machine, context) % TAG_COUNT];
}

uint32_t dune_tag_record(const struct dune_machine *machine, const struct dune_context *context)
{
	unsigned index = machine->tags_used ? tag_of(machine, context) % TAG_COUNT : 0;
	return STATE_TAGS + index * sizeof(uint64_t);
}

void dune_tag_loaded(struct dune_vcpu *vcpu, const struct dune_context *context)
{
	if (vcpu->machine->tags_used)
		*record_of(vcpu, context) = context->generation;
}

void dune_tag_follow(struct dune_vcpu *vcpu, const struct dune_context *context, uint64_t before)
{
	if (vcpu->machine->tags_used && *record_of(vcpu, context) == before)
		*record_of(vcpu, context) = context->generation;
}

uint64_t dune_tag_load(struct dune_vcpu *vcpu, const struct dune_context *context)
{
	uint64_t root = dune_tagged_root(vcpu->machine, context);
	if (vcpu->machine->tags_used && *record_of(vcpu, context) == context->generation) {
		vcpu->tag_kept++;
		return root | CR3_NOFLUSH;
	}
	dune_tag_loaded(vcpu, context);
	vcpu->tag_flushes++;
	return root;
}

void dune_tags_forget(struct dune_vcpu *vcpu)
{
	memset(vcpu->area->direct.tags, 0, sizeof vcpu->area->direct.tags);
}
_Static_assert(TAG_FIRST % TAG_COUNT == 0 && TAG_FIRST + TAG_COUNT <= CR3_PCID_MASK + 1, "tags and their records");
