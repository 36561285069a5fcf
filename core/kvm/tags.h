/*
 * tags.h - tagged translations (PCID) of compartments' roots.
 *
 * A root has a tag, which others have as well when there are more roots than tags.  Each virtual CPU keeps a record for
 * each tag: the generation of the one root whose translations it may hold under that tag; 0: it is not known whose.
 * Generations are numbers that no other root has, and that no root has twice: each edit gives the root a new one.  A root
 * is loaded with its translations kept only if the record of its tag is its generation; else the load flushes the tag, and
 * the record is renewed.  So an edit reaches virtual CPUs that are not running the root when they next load it, and a tag
 * that changes hands is flushed.
 *
 * There are tags where ring 0 is native, page tables are walked by hardware, and KVM gives PCID.  Elsewhere all roots have tag 0,
 * each load flushes, and nothing is on record.
 */
#ifndef DUNE_TAGS_H
#define DUNE_TAGS_H

#include "kvm/vcpu.h"

/* A generation that nothing has had.  Any thread. */
uint64_t dune_generation_new(void);

/* The root as CR3 takes it, with its tag. */
uint64_t dune_tagged_root(const struct dune_machine *machine, const struct dune_context *context);

/* Where in struct dune_direct_state the record of the root's tag is. */
uint32_t dune_tag_record(const struct dune_machine *machine, const struct dune_context *context);

/* Notes that the virtual CPU holds nothing under the root's tag but what the root says now. */
void dune_tag_loaded(struct dune_vcpu *vcpu, const struct dune_context *context);

/* Notes the same if what it held was right when the root was of generation `before`. */
void dune_tag_follow(struct dune_vcpu *vcpu, const struct dune_context *context, uint64_t before);

/* What is to be loaded into CR3 of the virtual CPU: with CR3_NOFLUSH if what it holds can be kept; notes that it was loaded,
 * and counts. */
uint64_t dune_tag_load(struct dune_vcpu *vcpu, const struct dune_context *context);

/* Nothing is known of what the virtual CPU holds. */
void dune_tags_forget(struct dune_vcpu *vcpu);

#endif
