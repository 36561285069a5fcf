/* report_touched.c - what lies at the address of a fault.  See report.h. */
#define _GNU_SOURCE
#include "report.h"

#include <sys/mman.h>

#include "tag.h"
#include "tag_heap.h"

enum {
	FAULT_WRITE = 2,
	FAULT_EXECUTE = 16,
	VECTOR_STACK = 12,
	VECTOR_PROTECTION = 13,
	VECTOR_PAGE_FAULT = 14,
	NULL_END = 0x10000,
	OVERFLOW_ROOM = 16 << 20, /* below the stack: an access there is a stack that overflowed */
	INSTRUCTION_MAX = 15,
};

static unsigned rights_of(int prot)
{
	return (prot & PROT_READ ? STHREAD_RIGHT_READ : 0) |
	       (prot & (PROT_WRITE | SC_COPY_ON_WRITE) ? STHREAD_RIGHT_WRITE : 0);
}

static bool in_arena(const struct dune_arena *arena, uint64_t address)
{
	return address - (uintptr_t)arena->host < arena->size;
}

static enum sthread_touched touched_tag(struct sthread_report *report, const struct address_space *space)
{
	tag_t handle = tag_at(report->address);
	const struct tag *tag = handle >= 0 ? tag_get(handle) : NULL;
	if (!tag)
		return STHREAD_TOUCHED_NO_TAG;
	report->tag = handle;
	for (unsigned i = 0; i < tag->extent_count; i++)
		if (report->address - tag->extents[i].address < tag->extents[i].size)
			report->tag_offset = report->address - tag->extents[i].address;
	for (unsigned i = 0; i < space->tags; i++)
		if (space->tag[i].tag == handle) {
			report->tag_granted = 1;
			report->right_held = rights_of(space->tag[i].prot);
		}
	const void *start;
	size_t size;
	if (tag_heap_around(tag->heap, (const void *)(uintptr_t)report->address, &start, &size)) {
		report->allocation = (uintptr_t)start;
		report->allocation_size = size;
	}
	return STHREAD_TOUCHED_TAG;
}

static enum sthread_touched touched_window(struct sthread_report *report, const struct compartment *compartment)
{
	uint64_t offset = report->address - supervisor.machine->window;
	if (offset >= SPACE_STACK_LOW - OVERFLOW_ROOM && offset < SPACE_STACK_LOW)
		return STHREAD_TOUCHED_STACK_OVERFLOW;
	bool message = offset >= SPACE_MESSAGE_IN && offset < SPACE_MESSAGE_END;
	bool stack = offset >= SPACE_STACK_LOW && offset < SPACE_STACK_TOP;
	bool arena = offset >= SPACE_ARENA && report->address < compartment->memory.arena_end;
	if (!message && !stack && !arena)
		return STHREAD_TOUCHED_MONITOR;
	report->right_held = STHREAD_RIGHT_READ | STHREAD_RIGHT_WRITE;
	return stack ? STHREAD_TOUCHED_STACK : STHREAD_TOUCHED_PRIVATE;
}

static enum sthread_touched touched_snapshot(struct sthread_report *report, const struct snapshot_region *region)
{
	report->right_held = STHREAD_RIGHT_READ | (region->write ? STHREAD_RIGHT_WRITE : 0) |
			     (region->execute ? STHREAD_RIGHT_EXECUTE : 0);
	if (region->execute)
		return STHREAD_TOUCHED_TEXT;
	/* A picture of its top, with the arguments, is in the snapshot. */
	if (snapshot_left_out(&supervisor.snapshot, report->address) == SNAPSHOT_STACK)
		return STHREAD_TOUCHED_HOST_STACK;
	return region->end == supervisor.snapshot.heap_end ? STHREAD_TOUCHED_HEAP : STHREAD_TOUCHED_SNAPSHOT;
}

/* What the process has there, when compartments have nothing. */
static enum sthread_touched touched_outside(uint64_t address)
{
	unsigned char resident;
	switch (snapshot_left_out(&supervisor.snapshot, address)) {
	case SNAPSHOT_WITHHELD:
		return STHREAD_TOUCHED_WITHHELD;
	case SNAPSHOT_STACK:
		return STHREAD_TOUCHED_HOST_STACK;
	case SNAPSHOT_UNKNOWN:
	default:
		return mincore((void *)(uintptr_t)(address & ~DUNE_PAGE_MASK), DUNE_PAGE_SIZE, &resident) == 0 ?
			       STHREAD_TOUCHED_LATER :
			       STHREAD_TOUCHED_UNMAPPED;
	}
}

static enum sthread_touched touched_at(struct sthread_report *report, const struct compartment *compartment)
{
	const struct dune_machine *machine = supervisor.machine;
	const struct snapshot *snapshot = &supervisor.snapshot;
	uint64_t address = report->address;
	if (address < NULL_END)
		return STHREAD_TOUCHED_NULL;
	if (address >= DUNE_USER_END)
		return STHREAD_TOUCHED_KERNEL;
	if (in_arena(&machine->tags, address) || tag_at(address) >= 0)
		return touched_tag(report, compartment->space);
	if (in_arena(&machine->frames, address) || in_arena(&machine->image, address) ||
	    in_arena(&machine->table_arena, address))
		return STHREAD_TOUCHED_SUPERVISOR;
	if (address - machine->window < machine->window_size)
		return touched_window(report, compartment);
	const struct snapshot_region *region = snapshot_find(snapshot, address);
	if (region)
		return touched_snapshot(report, region);
	if (address >= snapshot->heap_end && address < compartment->memory.heap_end) {
		report->right_held = STHREAD_RIGHT_READ | STHREAD_RIGHT_WRITE;
		return STHREAD_TOUCHED_HEAP;
	}
	return touched_outside(address);
}

static bool is_canonical(uint64_t address)
{
	return address + DUNE_USER_END < 2 * DUNE_USER_END;
}

/* A general protection fault tells no address: it is computed from the instruction. */
static void find_non_canonical(struct sthread_report *report, const struct compartment *compartment)
{
	uint8_t code[INSTRUCTION_MAX];
	uint64_t top, address;
	bool execute;
	const struct dune_context *context = &compartment->space->context;
	if (!is_canonical(context->regs.rip)) { /* where AMD processors stop */
		address = context->regs.rip;
		execute = true;
	} else {
		size_t size = report_peek(compartment->space, context->regs.rip, code, sizeof code);
		if (!report_operand(code, size, report->registers, context->fs_base, context->gs_base, &address,
				    &execute))
			return;
	}
	/* A return: the operand is on the stack. */
	if (execute && address == context->regs.rsp) {
		if (report_peek(compartment->space, address, &top, sizeof top) != sizeof top)
			return;
		address = top;
	}
	if (is_canonical(address))
		return; /* the fault has another reason */
	report->address = address;
	report->touched = STHREAD_TOUCHED_NON_CANONICAL;
	report->right_needed = execute ? STHREAD_RIGHT_EXECUTE : 0;
}

void report_touched(struct sthread_report *report, struct compartment *compartment)
{
	if ((report->vector == VECTOR_PROTECTION || report->vector == VECTOR_STACK) && !report->error_code)
		find_non_canonical(report, compartment);
	if (report->vector != VECTOR_PAGE_FAULT)
		return;
	report->right_needed = report->error_code & FAULT_EXECUTE ? STHREAD_RIGHT_EXECUTE :
			       report->error_code & FAULT_WRITE   ? STHREAD_RIGHT_WRITE :
								    STHREAD_RIGHT_READ;
	report->touched = touched_at(report, compartment);
}
