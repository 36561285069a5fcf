/* direct.c - see direct.h, and monitor.S for the part that runs in ring 0. */
#include "kvm/direct.h"
#include "kvm/tags.h"
#include "dune_x86.h"

#include <errno.h>
#include <stdlib.h>

/* What the supervisor knows of a target. */
struct dune_direct_record {
	struct dune_context *context; /* of its address space */
	unsigned next_free;
};

/* The targets' pages, made when the first one is asked for.  Number 0 is never given out and never open. */
static int lay_out(struct dune_machine *machine)
{
	enum {
		PAGES = DIRECT_COUNT * DIRECT_SIZE / DUNE_PAGE_SIZE
	};
	struct dune_direct_record *records = calloc(DIRECT_COUNT, sizeof *records);
	uint64_t frames = records ? dune_frames_fresh(machine, PAGES) : 0;
	if (!frames) {
		free(records);
		return dune_fail(ENOMEM, "out of memory");
	}
	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t *entry = dune_tables_entry(&machine->tables, machine->edit_root,
						    machine->window + WINDOW_DIRECT + i * DUNE_PAGE_SIZE, true);
		if (!entry) {
			free(records);
			return dune_fail(ENOMEM, "no page-table page left");
		}
		/* The GiB is shared by roots that run: a not-present entry may be filled in. */
		__atomic_store_n(
			entry, (frames + i * DUNE_PAGE_SIZE) | DUNE_PTE_PRESENT | DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE,
			__ATOMIC_RELEASE);
	}
	for (unsigned i = 1; i < DIRECT_COUNT; i++)
		records[i].next_free = (i + 1) % DIRECT_COUNT;
	machine->direct = dune_physical_at(machine, frames);
	machine->direct_free = 1;
	machine->direct_records = records;
	return 0;
}
_Static_assert(WINDOW_DIRECT + DIRECT_COUNT * DIRECT_SIZE <= WINDOW_PROCESSORS, "they fit");

static struct dune_direct_record *record_of(const struct dune_machine *machine, const struct dune_direct *target)
{
	return &machine->direct_records[target - machine->direct];
}

struct dune_direct *dune_direct_new(struct dune_machine *machine)
{
	if (!machine->host.ring0_native || (!machine->direct && lay_out(machine) != 0) || !machine->direct_free)
		return NULL;
	struct dune_direct *target = &machine->direct[machine->direct_free];
	machine->direct_free = record_of(machine, target)->next_free;
	target->calls = 0;
	return target;
}

void dune_direct_free(struct dune_machine *machine, struct dune_direct *target)
{
	struct dune_direct_record *record = record_of(machine, target);
	target->handle = 0;
	record->context = NULL;
	record->next_free = machine->direct_free;
	machine->direct_free = (unsigned)(target - machine->direct);
}

struct dune_direct_grant dune_direct_grant(const struct dune_machine *machine, const struct dune_direct *target,
					   int handle)
{
	return (struct dune_direct_grant){ .handle = (uint32_t)handle,
					   .offset = (uint32_t)((target - machine->direct) * DIRECT_SIZE) };
}

/* ---- open and closed ------------------------------------------------------------------------------- */

/* States beyond DIRECT_OPEN: the virtual CPU that is in it, and whether it is to be closed when that one leaves. */
enum {
	CLOSE_WHEN_LEFT = 1u << 31,
	FIRST_PROCESSOR = 2
};

/* A root as ring 0 loads it there and back, if it finds nothing against that. */
static uint64_t for_call(const struct dune_machine *machine, const struct dune_context *context)
{
	return dune_tagged_root(machine, context) | (machine->tags_used ? CR3_NOFLUSH : 0);
}

void dune_direct_open(struct dune_machine *machine, struct dune_direct *target, const struct dune_direct *as,
		      struct dune_context *context)
{
	struct dune_direct fields = *as;
	fields.state = DIRECT_CLOSED;
	fields.calls = target->calls;
	fields.root = for_call(machine, context);
	fields.generation = machine->tags_used ? context->generation : 0;
	fields.record = dune_tag_record(machine, context);
	*target = fields;
	record_of(machine, target)->context = context;
	__atomic_store_n(&target->state, DIRECT_OPEN, __ATOMIC_RELEASE);
}

bool dune_direct_close(struct dune_direct *target)
{
	uint32_t state = __atomic_load_n(&target->state, __ATOMIC_ACQUIRE);
	for (;;) {
		uint32_t wanted = state <= DIRECT_OPEN ? DIRECT_CLOSED : state | CLOSE_WHEN_LEFT;
		if (state == wanted || __atomic_compare_exchange_n(&target->state, &state, wanted, false,
								   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return wanted == DIRECT_CLOSED;
	}
}

struct dune_vcpu *dune_direct_user(struct dune_direct *target)
{
	uint32_t state = __atomic_load_n(&target->state, __ATOMIC_ACQUIRE);
	return state <= DIRECT_OPEN ? NULL : dune_vcpu_numbered((state & ~CLOSE_WHEN_LEFT) - FIRST_PROCESSOR);
}

void dune_direct_seize(struct dune_direct *target)
{
	__atomic_store_n(&target->state, DIRECT_CLOSED, __ATOMIC_RELEASE);
}

/* ---- around KVM_RUN -------------------------------------------------------------------------------- */

void dune_direct_prepare(struct dune_vcpu *vcpu, const struct dune_context *context)
{
	struct dune_direct_state *state = &vcpu->area->direct;
	state->root = for_call(vcpu->machine, context);
	state->record = dune_tag_record(vcpu->machine, context);
	state->fs_base = context->fs_base;
	state->gs_base = context->gs_base;
	state->enter = vcpu->machine->trampoline_enter_direct;
	state->resume = vcpu->machine->trampoline_direct_done;
	state->self = context->direct_calls ? vcpu->number + FIRST_PROCESSOR : 0;
}

/* Each call has loaded the target's root, and each return the caller's. */
static void count_loads(struct dune_vcpu *vcpu, const struct dune_direct_state *state)
{
	uint64_t returns = state->calls - (state->target != 0), flushes = state->calls + returns;
	if (vcpu->machine->tags_used) /* returns flush since a target had the caller's tag */
		flushes = state->flushes + (state->root & CR3_NOFLUSH ? 0 : returns);
	vcpu->tag_flushes += flushes;
	vcpu->tag_kept += state->calls + returns - flushes;
}

struct dune_context *dune_direct_take_over(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit)
{
	struct dune_machine *machine = vcpu->machine;
	struct dune_direct_state *state = &vcpu->area->direct;
	exit->direct_calls = state->calls;
	count_loads(vcpu, state);
	state->calls = state->flushes = 0;
	if (!state->target)
		return context;
	exit->direct = machine->direct + (state->target - machine->window - WINDOW_DIRECT) / DIRECT_SIZE;
	exit->direct_result = state->result;
	context->regs = (struct kvm_regs){ .rip = machine->trampoline_resume_clean,
					   .rsp = state->stack,
					   .rflags = context->regs.rflags };
	state->target = 0;
	struct dune_context *inside = record_of(machine, exit->direct)->context;
	inside->saved = inside->events_saved = false;
	vcpu->tenant = inside->tenant;
	/* It loaded the root when the call began, and the root is not edited while a virtual CPU is in it. */
	vcpu->generation = inside->generation;
	dune_tag_loaded(vcpu, inside);
	return inside;
}
