/* tag_service.c - tagged memory for compartments.  Whatever they pass is a number to look up, and is never followed. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>

#include "compartment.h"
#include "tag.h"

static bool holds_for_writing(const struct compartment *compartment, tag_t tag)
{
	return policy_tag_rights(compartment->policy, tag) & PROT_WRITE;
}

/* What tags may still grow by for it: within the quota of its memory. */
static uint64_t may_grow(const struct compartment *compartment)
{
	uint64_t quota = compartment->policy->memory;
	return compartment->tag_growth < quota ? quota - compartment->tag_growth : 0;
}

static uint64_t size_of(tag_t handle)
{
	const struct tag *tag = tag_get(handle);
	return tag ? tag->size : 0;
}

static long allocate(struct compartment *compartment, tag_t tag, size_t size, size_t alignment)
{
	void *pointer = NULL;
	if (!holds_for_writing(compartment, tag))
		return -EPERM;
	uint64_t before = size_of(tag);
	int error = tag_allocate(tag, alignment, size, may_grow(compartment), &pointer);
	compartment->tag_growth += size_of(tag) - before;
	return error ? -error : (long)pointer;
}

static long reallocate(struct compartment *compartment, uint64_t address, size_t size)
{
	tag_t tag = tag_at(address);
	void *pointer = (void *)address;
	if (!holds_for_writing(compartment, tag))
		return -EINVAL;
	uint64_t before = size_of(tag);
	int error = tag_reallocate(tag, &pointer, size, may_grow(compartment));
	compartment->tag_growth += size_of(tag) - before;
	return error ? -error : (long)pointer;
}

static long release(const struct compartment *compartment, uint64_t address)
{
	tag_t tag = tag_at(address);
	return holds_for_writing(compartment, tag) ? -tag_release(tag, (void *)address) : -EINVAL;
}

static long size_at(const struct compartment *compartment, uint64_t address)
{
	tag_t tag = tag_at(address);
	return holds_for_writing(compartment, tag) ? (long)tag_size_of(tag, (void *)address) : -EINVAL;
}

long tag_service(struct compartment *compartment)
{
	const struct kvm_regs *regs = &compartment->space->context.regs;
	switch (regs->rax) {
	case SERVICE_ALLOCATE:
		return allocate(compartment, (tag_t)regs->rdi, regs->rsi, regs->rdx);
	case SERVICE_REALLOCATE:
		return reallocate(compartment, regs->rdi, regs->rsi);
	case SERVICE_FREE:
		return release(compartment, regs->rdi);
	case SERVICE_SIZE:
		return size_at(compartment, regs->rdi);
	default:
		return -ENOSYS;
	}
}
