/*
 * compartment.c - ring 0 of guest placement runs a compartment of libsthread on its own virtual CPU, without an exit.
 *
 * What dune_vcpu_run() does by KVM_RUN, for a thread in the guest: the compartment's root is loaded, ring 3 runs until its
 * first trap, and the trap is reported as the exit that it would have been.  Possible where the mirror's page tables are walked by
 * hardware: where they are shadowed, edits that the machine's monitor makes would not be seen here.
 *
 * Law 5 (clean virtual CPU) is kept thus: general registers, flags, bases and selectors are all set at each entry; the vector state
 * is loaded from the tenant's own image, a clean one for a new life.  The image and the registers are where no compartment has them
 * mapped; of what was entered only RIP, RSP and flags stay in struct dune_local, until the run ends.
 */
#include "guest/guest.h"
#include "kvm/tags.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct descriptor_operand {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

/* See layout.h. */
struct dune_local {
	uint64_t state, root;
	uint64_t outer_rsp, outer_cr3, outer_fs, outer_gs;
	uint64_t vector, error, address, cs;
	struct descriptor_operand idt __attribute__((aligned(8)));
	struct descriptor_operand outer_idt __attribute__((aligned(8)));
	struct descriptor_operand gdt_operand __attribute__((aligned(8)));
	uint64_t keep;
	uint64_t gdt[12];
};
_Static_assert(offsetof(struct dune_local_state, fs) == LOCAL_STATE_FS &&
		       offsetof(struct dune_local_state, gs) == LOCAL_STATE_GS &&
		       offsetof(struct dune_local_state, local) == LOCAL_STATE_LOCAL,
	       "compartment.S");
_Static_assert(offsetof(struct dune_local, state) == LOCAL_STATE && offsetof(struct dune_local, root) == LOCAL_ROOT &&
		       offsetof(struct dune_local, outer_rsp) == LOCAL_OUTER_RSP &&
		       offsetof(struct dune_local, outer_cr3) == LOCAL_OUTER_CR3 &&
		       offsetof(struct dune_local, outer_fs) == LOCAL_OUTER_FS &&
		       offsetof(struct dune_local, outer_gs) == LOCAL_OUTER_GS &&
		       offsetof(struct dune_local, vector) == LOCAL_VECTOR &&
		       offsetof(struct dune_local, error) == LOCAL_ERROR &&
		       offsetof(struct dune_local, address) == LOCAL_ADDRESS &&
		       offsetof(struct dune_local, cs) == LOCAL_CS && offsetof(struct dune_local, idt) == LOCAL_IDT &&
		       offsetof(struct dune_local, outer_idt) == LOCAL_OUTER_IDT &&
		       offsetof(struct dune_local, keep) == LOCAL_KEEP && offsetof(struct dune_local, gdt) == LOCAL_GDT,
	       "compartment.S");
_Static_assert(sizeof(struct dune_local) < 1024, "the rest of the page is stack");

void dune_local_call(uint64_t local, void *vector_state, uint64_t mask, uint64_t enter); /* switch.S */

/* What ring 3 of a compartment may have in RFLAGS: status flags, DF, AC, ID. */
#define FLAGS_COMPARTMENT ((uint64_t)0x240cd5)

static const uint64_t user_end = (uint64_t)1 << 47;

static uint64_t local_address(const struct dune_vcpu *vcpu)
{
	return vcpu->area_address + offsetof(struct dune_processor_area, emergency_stack);
}

static struct dune_guest_processor *area(const struct dune_guest_thread *self)
{
	return (struct dune_guest_processor *)self->processor_address;
}

/* A 64-bit TSS descriptor (AMD64 APM vol. 2, 4.8.3) without room for an I/O bitmap. */
static void describe_task(uint64_t *gdt, unsigned selector, uint64_t base)
{
	const uint64_t limit = offsetof(struct dune_tss, bitmap) - 1;
	gdt[selector / 8] =
		limit | (base & 0xffffff) << 16 | (uint64_t)TYPE_TSS_AVAILABLE << 40 | (base >> 24 & 0xff) << 56;
	gdt[selector / 8 + 1] = base >> 32;
}

/* Gives this thread's virtual CPU a GDT that names both task states, in memory that compartments have as well. */
static void prepare(struct dune_guest_thread *self, struct dune_vcpu *vcpu)
{
	struct dune_local *local = (struct dune_local *)local_address(vcpu);
	const struct dune_machine *machine = vcpu->machine;
	memset(local, 0, sizeof *local);
	local->gdt[SELECTOR_KERNEL_CODE / 8] = 0x00af9b000000ffff; /* as the machine's own */
	local->gdt[SELECTOR_KERNEL_DATA / 8] = 0x00cf93000000ffff;
	local->gdt[SELECTOR_USER_DATA / 8] = 0x00cff3000000ffff;
	local->gdt[SELECTOR_USER_CODE / 8] = 0x00affb000000ffff;
	describe_task(local->gdt, SELECTOR_TSS, self->processor_address);
	describe_task(local->gdt, LOCAL_SELECTOR_TSS, vcpu->area_address);
	local->state = self->processor_address + offsetof(struct dune_guest_processor, compartment);
	local->idt = (struct descriptor_operand){ 4095, machine->window + WINDOW_LOCAL_IDT };
	local->outer_idt = (struct descriptor_operand){ 4095, machine->window + WINDOW_GUEST_IDT };
	local->gdt_operand = (struct descriptor_operand){ sizeof local->gdt - 1, (uint64_t)local->gdt };
	__asm__ volatile("lgdt %0" ::"m"(local->gdt_operand) : "memory");
	self->prepared = vcpu;
}

/* ---- the vector state ------------------------------------------------------------------------------ */

static size_t image_size(const struct dune_machine *machine)
{
	return machine->vector_size ? machine->vector_size : 512;
}

/* FXSAVE's image and KVM's form of it, where there is no XSAVE. */
static void from_fxsave(struct kvm_fpu *to, const uint8_t *image)
{
	memset(to, 0, sizeof *to);
	memcpy(&to->fcw, image, 2);
	memcpy(&to->fsw, image + 2, 2);
	to->ftwx = image[4];
	memcpy(&to->last_opcode, image + 6, 2);
	memcpy(&to->last_ip, image + 8, 8);
	memcpy(&to->last_dp, image + 16, 8);
	memcpy(&to->mxcsr, image + 24, 4);
	memcpy(to->fpr, image + 32, sizeof to->fpr);
	memcpy(to->xmm, image + 160, sizeof to->xmm);
}

void dune_to_fxsave(uint8_t *image, const struct kvm_fpu *from)
{
	memset(image, 0, 512);
	memcpy(image, &from->fcw, 2);
	memcpy(image + 2, &from->fsw, 2);
	image[4] = from->ftwx;
	memcpy(image + 6, &from->last_opcode, 2);
	memcpy(image + 8, &from->last_ip, 8);
	memcpy(image + 16, &from->last_dp, 8);
	/* KVM_GET_FPU does not tell MXCSR and leaves it 0, which would unmask every exception. */
	memcpy(image + 24, &(uint32_t){ from->mxcsr ? from->mxcsr : 0x1f80 }, 4);
	memcpy(image + 32, from->fpr, sizeof from->fpr);
	memcpy(image + 160, from->xmm, sizeof from->xmm);
}

/* Intel SDM vol. 1, 10.5.1: FCW at 0, MXCSR at 24; XSTATE_BV 0 makes the rest clean. */
static void clean_image(uint8_t *image, size_t size)
{
	memset(image, 0, size);
	memcpy(image, &(uint16_t){ 0x037f }, 2);
	memcpy(image + 24, &(uint32_t){ 0x1f80 }, 4);
}

static int load_image(struct dune_vcpu *vcpu, struct dune_context *context)
{
	const size_t size = image_size(vcpu->machine);
	if (!vcpu->local_image) {
		void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (at == MAP_FAILED)
			return -1;
		vcpu->local_image = at;
	}
	if (vcpu->tenant == context->tenant && dune_vcpu_save(vcpu, context) != 0) /* KVM has it */
		return -1;
	if (context->saved && !vcpu->machine->vector_size)
		dune_to_fxsave(vcpu->local_image, context->vector);
	else if (context->saved)
		memcpy(vcpu->local_image, context->vector, size);
	else if (vcpu->local_tenant != context->tenant)
		clean_image(vcpu->local_image, size);
	context->saved = false;
	vcpu->local_tenant = context->tenant;
	return 0;
}

static void save_image(const struct dune_vcpu *vcpu, struct dune_context *context)
{
	if (vcpu->machine->vector_size)
		memcpy(context->vector, vcpu->local_image, vcpu->machine->vector_size);
	else
		from_fxsave(context->vector, vcpu->local_image);
}

/* ---- what ended the run ---------------------------------------------------------------------------- */

static struct dune_life *life_of(struct dune_vcpu *vcpu, const struct dune_context *context)
{
	struct dune_machine *machine = vcpu->machine;
	const uint64_t *entry =
		dune_tables_entry(&machine->tables, context->root, machine->window + WINDOW_LIFE_MONITOR, false);
	return entry ? dune_physical_at(machine, *entry & DUNE_PTE_FRAME) : NULL;
}

/* SYSCALL.  Returns false if it has been answered, and the compartment goes on. */
static bool decode_call(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit)
{
	struct kvm_regs *regs = &context->regs;
	const struct dune_life *life;
	regs->rip = regs->rcx;
	regs->rflags = regs->r11;
	exit->kind = DUNE_EXIT_SYSTEM_CALL;
	switch ((uint32_t)regs->rax) {
	case NUMBER_GETPID: /* as the monitor does */
	case NUMBER_GETTID:
		life = life_of(vcpu, context);
		if (!life || regs->rcx >= user_end)
			return true;
		regs->rax = life->process_id;
		return false;
	case NUMBER_DIRECT_CALL: /* a gate: by the supervisor */
		exit->kind = DUNE_EXIT_SERVICE;
		regs->rax = SERVICE_NUMBER_CALL;
		regs->rip = vcpu->machine->trampoline_resume;
		return true;
	case NUMBER_DIRECT_RETURN:
		exit->kind = DUNE_EXIT_SERVICE;
		regs->rax = SERVICE_NUMBER_RETURN;
		regs->rip = vcpu->machine->trampoline_resume;
		return true;
	default:
		return true;
	}
}

/* Whether a general-protection fault was the trampoline's OUT, which is an exit elsewhere. */
static bool is_service(const struct dune_machine *machine, const struct dune_local *local, uint64_t rip)
{
	const uint8_t out[] = { 0xe6, PORT_SERVICE };
	uint64_t offset = rip - machine->window - WINDOW_TRAMPOLINE;
	return local->vector == T_GPFLT && offset < (uint64_t)(dune_trampoline_end - dune_trampoline_begin) - 1 &&
	       memcmp(dune_trampoline_begin + offset, out, sizeof out) == 0;
}

/* Returns false if the compartment goes on. */
static bool decode(struct dune_guest_thread *self, struct dune_vcpu *vcpu, const struct dune_local *local,
		   struct dune_context *context, struct dune_exit *exit)
{
	const struct dune_local_state *state = &area(self)->compartment;
	context->regs = state->regs;
	context->fs_base = state->fs;
	context->gs_base = state->gs;
	if ((local->cs & 3) != 3) {
		/* Of ring 0 there is only this: the system-call entry.  It is not mapped, or the compartment has memory there
		 * that it cannot execute. */
		if (local->vector == T_PGFLT && (local->error & FEC_I) &&
		    state->regs.rip == self->processor_address + PROCESSOR_SYSTEM_CALL)
			return decode_call(vcpu, context, exit);
		exit->from_monitor = true;
	}
	if (local->vector == GUEST_VECTOR_EVENT) {
		self->raised = false;
		exit->kind = DUNE_EXIT_KICKED;
		return true;
	}
	if (local->vector == VECTOR_SERVICE || is_service(vcpu->machine, local, state->regs.rip)) {
		exit->kind = DUNE_EXIT_SERVICE;
		context->regs.rip = vcpu->machine->trampoline_resume;
		return true;
	}
	exit->kind = DUNE_EXIT_EXCEPTION;
	exit->vector = (unsigned)local->vector;
	exit->error_code = local->error;
	if (local->vector == T_PGFLT)
		exit->address = local->address;
	return true;
}

/* ---- running --------------------------------------------------------------------------------------- */

static bool here(const struct dune_vcpu *vcpu)
{
	return !vcpu->mirror && dune_in_guest() && !vcpu->machine->host.shadow_paging;
}

static bool possible(const struct dune_vcpu *vcpu, const struct dune_context *context)
{
	return here(vcpu) && !dune_context_has_event(context);
}

bool dune_guest_take_tag(struct dune_guest_thread *self, unsigned tag)
{
	uint64_t *record = &self->vcpu->area->direct.tags[tag % TAG_COUNT];
	if (tag < TAG_FIRST || tag >= TAG_FIRST + TAG_COUNT || !*record)
		return false;
	*record = 0;
	return true;
}

/* What CR3 becomes on the way there, and what it gets on the way back.  The process's translations are kept as well: who
 * edits its tables meanwhile has this virtual CPU drop everything (catch_up() in loop.c).  They may be under the compartment's
 * tag: then both loads flush, and afterwards nothing of a compartment is there. */
static void choose_loads(struct dune_guest_thread *self, struct dune_local *local, const struct dune_context *context)
{
	struct dune_vcpu *vcpu = self->vcpu;
	uint64_t outer;
	__asm__ volatile("movq %%cr3, %0" : "=r"(outer));
	unsigned tag = outer & CR3_PCID_MASK;
	bool tags = vcpu->machine->tags_used;
	bool clash = tags && (dune_tagged_root(vcpu->machine, context) & CR3_PCID_MASK) == tag;
	if (clash)
		dune_guest_take_tag(self, tag);
	local->root = dune_tag_load(vcpu, context);
	if (clash)
		dune_guest_take_tag(self, tag);
	local->keep = tags && !clash ? CR3_NOFLUSH : 0;
	*(local->keep ? &vcpu->tag_kept : &vcpu->tag_flushes) += 1;
}

static void run_once(struct dune_guest_thread *self, struct dune_vcpu *vcpu, struct dune_context *context)
{
	struct dune_local *local = (struct dune_local *)local_address(vcpu);
	const struct dune_host *host = &vcpu->machine->host;
	area(self)->compartment = (struct dune_local_state){
		.regs = context->regs,
		.fs = context->fs_base,
		.gs = context->gs_base,
		.local = (uint64_t)local,
	};
	area(self)->compartment.regs.rflags = (context->regs.rflags & FLAGS_COMPARTMENT) | FLAGS_CLEAN;
	choose_loads(self, local, context);
	/* All components: none that the next tenant could look at is left out. */
	dune_local_call((uint64_t)local, vcpu->local_image, host->xsave ? host->vector_components : 0,
			vcpu->machine->window + WINDOW_LOCAL_CODE + (dune_local_enter - dune_local_begin));
}

/* What traps have pushed, and why the run ended: of no use to others. */
static void wipe(struct dune_local *local)
{
	enum {
		PUSHED = 128
	};
	memset((uint8_t *)local + DUNE_PAGE_SIZE - PUSHED, 0, PUSHED);
	local->vector = local->error = local->address = local->cs = local->root = 0;
}

bool dune_local_run(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit)
{
	struct dune_guest_thread *self = dune_guest_self;
	if (!possible(vcpu, context) || load_image(vcpu, context) != 0)
		return false;
	struct dune_local *local = (struct dune_local *)local_address(vcpu);
	if (self->prepared != vcpu)
		prepare(self, vcpu);
	context->events_saved = false;
	vcpu->run->immediate_exit = 0;
	atomic_store(&self->compartment, vcpu);
	atomic_store(&vcpu->carrier, self->vcpu);
	atomic_store(&vcpu->running, true); /* a kick from here on takes the carrier out, and the host side sees why */
	bool ended = false;
	while (!ended) {
		/* Interrupts stay off until ring 3: an event taken before would not stop it. */
		__asm__ volatile("cli" ::: "memory");
		if (atomic_exchange(&vcpu->kicked, false) || vcpu->run->immediate_exit) {
			exit->kind = DUNE_EXIT_KICKED;
			ended = true;
		} else {
			run_once(self, vcpu, context);
			ended = decode(self, vcpu, local, context, exit);
			wipe(local);
		}
		__asm__ volatile("sti" ::: "memory");
	}
	atomic_store(&vcpu->running, false);
	atomic_store(&vcpu->carrier, NULL);
	atomic_store(&self->compartment, NULL);
	vcpu->run->immediate_exit = 0;
	if (exit->kind == DUNE_EXIT_KICKED && self->signal.number) /* taken by the compartment's IDT: once more, here */
		__asm__ volatile("int %0" ::"i"(GUEST_VECTOR_EVENT) : "memory");
	return true;
}

/* The page fault itself has dropped the translation that it found wrong. */
static void accept(const struct dune_context *context, uint64_t before)
{
	const struct dune_guest_thread *self = dune_guest_self;
	if (self)
		dune_tag_follow(self->vcpu, context, before);
}

const struct dune_vcpu_local dune_guest_local = {
	.here = here, .run = dune_local_run, .save = save_image, .accept = accept
};
