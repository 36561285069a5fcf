/*
 * vcpu.c - loading a context into a virtual CPU, running it, leaving.  See vcpu.h.
 * Law 5 of the design (a clean virtual CPU) is kept here.
 */
#define _GNU_SOURCE
#include "kvm/vcpu_parts.h"
#include "kvm/direct.h"
#include "kvm/tags.h"

#include <asm/prctl.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* RFLAGS: what a compartment may set, beside FLAGS_ALWAYS. */
#define FLAGS_USER ((uint64_t)0x240cd5)

enum {
	VECTOR_PAGE_FAULT = 14
};

const struct dune_vcpu_local *dune_vcpu_local;

static const char *const exit_names[] = {
	[KVM_EXIT_UNKNOWN] = "UNKNOWN",
	[KVM_EXIT_EXCEPTION] = "EXCEPTION",
	[KVM_EXIT_IO] = "IO",
	[KVM_EXIT_HYPERCALL] = "HYPERCALL",
	[KVM_EXIT_DEBUG] = "DEBUG",
	[KVM_EXIT_HLT] = "HLT",
	[KVM_EXIT_MMIO] = "MMIO",
	[KVM_EXIT_IRQ_WINDOW_OPEN] = "IRQ_WINDOW_OPEN",
	[KVM_EXIT_SHUTDOWN] = "SHUTDOWN",
	[KVM_EXIT_FAIL_ENTRY] = "FAIL_ENTRY",
	[KVM_EXIT_INTR] = "INTR",
	[KVM_EXIT_SET_TPR] = "SET_TPR",
	[KVM_EXIT_TPR_ACCESS] = "TPR_ACCESS",
	[KVM_EXIT_NMI] = "NMI",
	[KVM_EXIT_INTERNAL_ERROR] = "INTERNAL_ERROR",
	[KVM_EXIT_SYSTEM_EVENT] = "SYSTEM_EVENT",
};

const char *dune_exit_name(unsigned reason)
{
	if (reason == UINT_MAX)
		return "KVM_RUN failed";
	return reason < sizeof exit_names / sizeof *exit_names && exit_names[reason] ? exit_names[reason] : "unnamed";
}

/* ---- loading --------------------------------------------------------------------------------------- */

void dune_context_start(struct dune_context *context, uint64_t tenant, uint64_t root)
{
	static _Atomic uint32_t spaces;
	void *vector = context->vector;
	bool known = context->root == root && context->generation;
	*context = (struct dune_context){ .tenant = tenant,
					  .root = root,
					  .generation = known ? context->generation : dune_generation_new(),
					  .space = known ? context->space : atomic_fetch_add(&spaces, 1),
					  .vector = vector };
	context->regs.rflags = FLAGS_ALWAYS;
}

void dune_context_free(struct dune_context *context)
{
	free(context->vector);
	context->vector = NULL;
}

/* One KVM_RUN.  Returns 0, or the error. */
static int enter(struct dune_vcpu *vcpu)
{
	atomic_store_explicit(&vcpu->running, true, memory_order_seq_cst);
	if (atomic_exchange(&vcpu->kicked, false))
		vcpu->run->immediate_exit = 1;
	int result = ioctl(vcpu->fd, KVM_RUN, 0);
	int error = result < 0 ? errno : 0;
	atomic_store_explicit(&vcpu->running, false, memory_order_release);
	vcpu->exits++;
	/* One that comes in ring 0 exits once more, when ring 3 is reached. */
	vcpu->interrupted += error ? error == EINTR : vcpu->run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN;
	return error;
}

/* Finishes what the last exit left behind: a pending MMIO or port read would otherwise write a register of the next
 * tenant, a pending exception would be raised in it.  Errors: EIO it does not come to an end; nobody may run here. */
static int complete_pending(struct dune_vcpu *vcpu)
{
	struct kvm_vcpu_events none = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW };
	struct kvm_run *run = vcpu->run;
	enum {
		TRIES = 64
	};
	int result = 0;
	run->kvm_dirty_regs = 0;
	for (unsigned i = 0; i < TRIES && result == 0 && !vcpu->stuck; i++) {
		run->immediate_exit = 1;
		result = ioctl(vcpu->fd, KVM_RUN, 0);
		/* Done is EINTR.  A string instruction exits again for its next element: let that be the last one. */
		run->s.regs.regs.rcx = 1;
		run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	}
	run->immediate_exit = 0;
	run->kvm_dirty_regs = 0;
	if (result == 0 || (errno != EINTR && errno != EAGAIN) || ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &none) != 0) {
		vcpu->stuck = true;
		errno = EIO;
		return -1;
	}
	vcpu->pending = false;
	return 0;
}

/* Where ring 0 is interpreted, ring 3 of the guest loads the segment selectors of this very thread, and KVM does not
 * tell: what the last tenant loaded would be there for the next one. */
static void drop_selectors(void)
{
	uint32_t ds, es, fs, gs;
	unsigned long base;
	__asm__ volatile("movl %%ds, %0; movl %%es, %1; movl %%fs, %2; movl %%gs, %3"
			 : "=r"(ds), "=r"(es), "=r"(fs), "=r"(gs));
	if (ds | es)
		__asm__ volatile("movl %0, %%ds; movl %0, %%es" ::"r"(0));
	/* Setting a base sets the selector to 0. */
	if (fs && syscall(SYS_arch_prctl, ARCH_GET_FS, &base) == 0)
		syscall(SYS_arch_prctl, ARCH_SET_FS, base);
	if (gs && syscall(SYS_arch_prctl, ARCH_GET_GS, &base) == 0)
		syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

static int set_vector(struct dune_vcpu *vcpu, const struct dune_context *context)
{
	if (vcpu->machine->vector_size)
		return ioctl(vcpu->fd, KVM_SET_XSAVE, context->vector);
	return ioctl(vcpu->fd, KVM_SET_FPU, context->vector);
}

static uint64_t root_of(const struct dune_vcpu *vcpu, const struct dune_context *context)
{
	return vcpu->mirror ? context->root : dune_tagged_root(vcpu->machine, context);
}

/* Notes that nothing is cached of the context's root, which the virtual CPU has loaded, but what it says now. */
static void loaded(struct dune_vcpu *vcpu, const struct dune_context *context)
{
	vcpu->generation = context->generation;
	if (!vcpu->mirror)
		dune_tag_loaded(vcpu, context);
}

/* KVM takes its own tables down when it is given another CR3, and drops all that is cached.  Ring 0, where it is native,
 * loads roots in three instructions.  (An event would be raised there, and not in ring 3.) */
static bool ring0_can_load(const struct dune_vcpu *vcpu, const struct dune_context *context)
{
	return vcpu->machine->roots_by_ring0 && !vcpu->mirror && !dune_context_has_event(context);
}

/* Has the virtual CPU begin in ring 0, which loads the root and goes to where the context is. */
static void enter_by_ring0(struct dune_vcpu *vcpu, struct dune_context *context)
{
	struct kvm_regs *regs = &vcpu->run->s.regs.regs;
	struct kvm_sregs *sregs = &vcpu->run->s.regs.sregs;
	const struct dune_exception_frame frame = { .rip = regs->rip,
						    .cs = SELECTOR_USER_CODE,
						    .rflags = regs->rflags,
						    .rsp = regs->rsp,
						    .ss = SELECTOR_USER_DATA };
	const size_t at = sizeof vcpu->area->trap_stack - sizeof frame;
	memcpy(vcpu->area->trap_stack + at, &frame, sizeof frame);
	dune_set_monitor_segments(sregs);
	sregs->fs.base = context->fs_base;
	sregs->gs.base = context->gs_base;
	sregs->cr2 = regs->rax;
	memset(sregs->interrupt_bitmap, 0, sizeof sregs->interrupt_bitmap);
	regs->rax = dune_tag_load(vcpu, context);
	regs->rip = dune_in_monitor(vcpu, dune_monitor_enter);
	regs->rsp = vcpu->area_address + offsetof(struct dune_processor_area, trap_stack) + at;
	regs->rflags = 2;
}

/* Fills kvm_run with the context and marks what must be loaded. */
static int load(struct dune_vcpu *vcpu, struct dune_context *context)
{
	struct kvm_run *run = vcpu->run;
	struct kvm_sregs *sregs = &run->s.regs.sregs;
	uint64_t dirty = KVM_SYNC_X86_REGS;
	/* KVM steps over the OUT of the last exit when it finds a virtual CPU still there; this one has yet to make it. */
	bool stays = context->regs.rip == vcpu->exit_address;
	if (vcpu->tenant != context->tenant) {
		if ((stays || vcpu->pending || vcpu->stuck) && complete_pending(vcpu) != 0)
			return -1;
		drop_selectors();
		if (context->saved && set_vector(vcpu, context) != 0)
			return -1;
		vcpu->tenant = context->tenant;
	}
	vcpu->pending = false;
	if (dune_context_has_event(context)) { /* a page fault that is to be raised has its address there */
		sregs->cr2 = context->event_address;
		dirty |= KVM_SYNC_X86_SREGS;
	}
	if (context->events_saved) {
		run->s.regs.events = context->events;
		run->s.regs.events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
		dirty |= KVM_SYNC_X86_EVENTS;
	}
	const uint64_t root = root_of(vcpu, context);
	const bool same = sregs->cr3 == root && vcpu->generation == context->generation;
	const bool by_ring0 = !same && ring0_can_load(vcpu, context);
	vcpu->reloads += sregs->cr3 == root && !same;
	context->saved = context->events_saved = false;
	context->regs.rflags = (context->regs.rflags & FLAGS_USER) | FLAGS_ALWAYS;
	run->s.regs.regs = context->regs;
	if (by_ring0) {
		enter_by_ring0(vcpu, context);
		dirty |= KVM_SYNC_X86_SREGS;
	} else if (sregs->cr3 == root && !same) {
		/* The root was edited since this virtual CPU loaded it: leaving it and coming back flushes. */
		sregs->cr3 = vcpu->edit_root;
		if (ioctl(vcpu->fd, KVM_SET_SREGS, sregs) != 0)
			return -1;
	}
	if (!by_ring0 && (sregs->cr3 != root || sregs->cs.selector != SELECTOR_USER_CODE ||
			  sregs->ss.selector != SELECTOR_USER_DATA || sregs->cs.dpl != 3 || sregs->ds.selector ||
			  sregs->es.selector || sregs->fs.selector || sregs->gs.selector ||
			  sregs->fs.base != context->fs_base || sregs->gs.base != context->gs_base)) {
		vcpu->tag_flushes += sregs->cr3 != root;
		sregs->cr3 = root;
		dune_set_user_segments(sregs, context->fs_base, context->gs_base);
		memset(sregs->interrupt_bitmap, 0, sizeof sregs->interrupt_bitmap);
		dirty |= KVM_SYNC_X86_SREGS;
	}
	loaded(vcpu, context);
	run->kvm_dirty_regs = dirty;
	run->immediate_exit = 0;
	dune_direct_prepare(vcpu, context);
	return 0;
}

/* ---- leaving --------------------------------------------------------------------------------------- */

static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 ||
	       vector == 30;
}

/* An exception or a software interrupt stopped in the monitor: takes the compartment's registers from the frame. */
static void decode_trap(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit)
{
	uint64_t offset = context->regs.rsp - vcpu->area_address;
	unsigned vector = (context->regs.rip - vcpu->machine->window - WINDOW_MONITOR) / VECTOR_STUB_SIZE;
	exit->kind = DUNE_EXIT_EXCEPTION;
	exit->vector = vector;
	if (vector >= VECTOR_COUNT) {
		exit->from_monitor = true;
		return;
	}
	if (vector == VECTOR_FORBIDDEN) { /* entered by SYSCALL: no frame */
		context->regs.rip = context->regs.rcx;
		return;
	}
	const size_t size = sizeof(struct dune_exception_frame) + sizeof(uint64_t);
	if (offset < DUNE_PAGE_SIZE || offset + size - (has_error_code(vector) ? 0 : 8) > 3 * DUNE_PAGE_SIZE) {
		exit->from_monitor = true;
		return;
	}
	const uint8_t *stack = (const uint8_t *)vcpu->area + offset;
	struct dune_exception_frame frame;
	if (has_error_code(vector)) {
		memcpy(&exit->error_code, stack, sizeof exit->error_code);
		stack += sizeof exit->error_code;
	}
	memcpy(&frame, stack, sizeof frame);
	if ((frame.cs & 3) != 3)
		exit->from_monitor = true;
	context->regs.rip = frame.rip;
	context->regs.rsp = frame.rsp;
	context->regs.rflags = frame.rflags;
	if (vector == VECTOR_PAGE_FAULT)
		exit->address = vcpu->run->s.regs.sregs.cr2;
	if (vector == VECTOR_SERVICE && !vcpu->mirror) {
		exit->kind = DUNE_EXIT_SERVICE;
		context->regs.rip = vcpu->machine->trampoline_resume;
	}
}

static void broken(struct dune_vcpu *vcpu, struct dune_exit *exit, unsigned reason, int error)
{
	exit->kind = DUNE_EXIT_BROKEN;
	exit->reason = reason;
	exit->error = error;
	if (dune_vcpu_reset(vcpu) != 0)
		vcpu->stuck = true;
}

/* Says what an OUT meant.  Returns false if it is none of the expected ones. */
static bool decode_io(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit)
{
	const struct kvm_run *run = vcpu->run;
	bool user = run->s.regs.sregs.ss.dpl == 3;
	vcpu->exit_address = run->s.regs.regs.rip;
	if (run->io.direction != KVM_EXIT_IO_OUT || run->io.size != 1 || run->io.count != 1)
		return false;
	/* A compartment's own OUT may be a string instruction, of which there is more to come. */
	if (user && run->s.regs.regs.rip - vcpu->machine->window - WINDOW_TRAMPOLINE >= DUNE_PAGE_SIZE)
		vcpu->pending = true;
	switch (run->io.port) {
	case PORT_SYSTEM_CALL:
		exit->kind = DUNE_EXIT_SYSTEM_CALL;
		context->regs.rip = context->regs.rcx;
		if (!user)
			context->regs.rflags = context->regs.r11;
		return true;
	case PORT_SERVICE: /* from ring 0: a direct call that it could not make */
		exit->kind = DUNE_EXIT_SERVICE;
		context->regs.rip = vcpu->machine->trampoline_resume;
		if (!user)
			context->regs.rflags = context->regs.r11;
		return user || vcpu->machine->host.ring0_native;
	case PORT_TRAP:
		decode_trap(vcpu, context, exit);
		return !user;
	default:
		return false;
	}
}

/* A signal, or the end of what ring 0 was doing when it came, has taken ring 3 out. */
static void kicked(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit)
{
	exit->kind = DUNE_EXIT_KICKED;
	vcpu->pending = true;
	context->event_address = vcpu->run->s.regs.sregs.cr2;
	if (ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &context->events) != 0)
		broken(vcpu, exit, UINT_MAX, errno);
	else
		context->events_saved = true;
}

/* An exit after which the tenant cannot go on, though the virtual CPU can.  What is under way is finished now, while its address
 * space is its own: an input of strings would store into it later, when it is another's.  (If that fails the virtual CPU is
 * stuck.) */
static void refuse(struct dune_vcpu *vcpu, struct dune_exit *exit)
{
	exit->kind = DUNE_EXIT_BROKEN;
	exit->reason = vcpu->run->exit_reason;
	vcpu->pending = true;
	if (!vcpu->leaves_pending)
		complete_pending(vcpu);
}

/* Runs until ring 3 is out of KVM_RUN by an exit or a kick.  Returns 0, or KVM_RUN's error: EINTR is a kick. */
static int run_to_exit(struct dune_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	int error;
	for (;;) {
		error = enter(vcpu);
		run->kvm_dirty_regs = 0;
		if (error == EAGAIN)
			error = EINTR;
		if (error != EINTR)
			break;
		run->immediate_exit = 0;
		if (run->s.regs.sregs.ss.dpl == 3)
			break;
		/* In the monitor.  It either exits or goes back to ring 3: there interrupts are on, and KVM tells. */
		run->request_interrupt_window = vcpu->machine->host.ring0_native;
	}
	run->request_interrupt_window = 0;
	return !error && run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN ? EINTR : error;
}

void dune_vcpu_run(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit)
{
	struct kvm_run *run = vcpu->run;
	*exit = (struct dune_exit){ 0 };
	if (dune_vcpu_local && dune_vcpu_local->run(vcpu, context, exit))
		return;
	if ((vcpu->local_tenant == context->tenant && dune_vcpu_save(vcpu, context) != 0) || load(vcpu, context) != 0) {
		broken(vcpu, exit, UINT_MAX, errno);
		return;
	}
	int error = run_to_exit(vcpu);
	context = dune_direct_take_over(vcpu, context, exit);
	if (error && error != EINTR) {
		broken(vcpu, exit, UINT_MAX, error);
		return;
	}
	context->regs = run->s.regs.regs;
	context->fs_base = run->s.regs.sregs.fs.base;
	context->gs_base = run->s.regs.sregs.gs.base;
	if (error) {
		kicked(vcpu, context, exit);
		return;
	}
	/* Every reason there is; only the trampoline's and the monitor's own exits leave a clean virtual CPU. */
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		if (decode_io(vcpu, context, exit)) {
			if (exit->from_monitor) /* nothing is known of its registers */
				dune_vcpu_reset(vcpu);
			return;
		}
		refuse(vcpu, exit);
		return;
	case KVM_EXIT_MMIO: /* an address without memory: cannot be reached through tables we made */
	case KVM_EXIT_HLT:
	case KVM_EXIT_DEBUG:
	case KVM_EXIT_HYPERCALL:
		refuse(vcpu, exit);
		return;
	case KVM_EXIT_SHUTDOWN:
	case KVM_EXIT_FAIL_ENTRY:
	case KVM_EXIT_INTERNAL_ERROR:
	default:
		broken(vcpu, exit, run->exit_reason, 0);
		return;
	}
}

int dune_vcpu_save(struct dune_vcpu *vcpu, struct dune_context *context)
{
	bool local = vcpu->local_tenant == context->tenant;
	if (vcpu->tenant != context->tenant && !local)
		return 0;
	size_t size = vcpu->machine->vector_size;
	if (!context->vector && !(context->vector = calloc(1, size ? size : sizeof(struct kvm_fpu))))
		return dune_fail(ENOMEM, "out of memory");
	if (local) {
		dune_vcpu_local->save(vcpu, context);
		context->saved = true;
		vcpu->local_tenant = 0;
		return 0;
	}
	unsigned long request = !size ? KVM_GET_FPU : vcpu->machine->has_xsave2_size ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
	if (ioctl(vcpu->fd, request, context->vector) != 0)
		return dune_fail(errno, "KVM does not give the vector state: %s", strerror(errno));
	context->saved = true;
	vcpu->tenant = 0;
	return 0;
}

void dune_vcpu_release(struct dune_vcpu *vcpu)
{
	vcpu->tenant = vcpu->local_tenant = 0;
}

/* ---- edits ----------------------------------------------------------------------------------------- */

void dune_vcpu_accept(struct dune_vcpu *vcpu, struct dune_context *context)
{
	/* If the fault did not come out of KVM_RUN, this virtual CPU is one of the others. */
	bool local = vcpu->local_tenant == context->tenant;
	bool current = !local && vcpu->run->s.regs.sregs.cr3 == root_of(vcpu, context) &&
		       vcpu->generation == context->generation;
	uint64_t before = context->generation;
	context->generation = dune_generation_new();
	if (current)
		loaded(vcpu, context);
	else if (local)
		dune_vcpu_local->accept(context, before);
}

int dune_vcpu_monitor(struct dune_vcpu *vcpu, const uint8_t *routine, size_t count, uint64_t root)
{
	struct kvm_run *run = vcpu->run;
	bool kicked = false; /* the kick was for whoever runs next */
	int error;
	if ((vcpu->pending || vcpu->stuck) && complete_pending(vcpu) != 0)
		return dune_fail(EIO, "a virtual CPU cannot be cleaned");
	bool by_ring0 = vcpu->machine->roots_by_ring0 && !vcpu->mirror;
	if (!by_ring0)
		run->s.regs.sregs.cr3 = vcpu->edit_root;
	dune_set_monitor_segments(&run->s.regs.sregs);
	run->s.regs.regs = (struct kvm_regs){
		.rip = dune_in_monitor(vcpu, by_ring0 ? dune_monitor_load : routine),
		.rax = vcpu->edit_root,
		.rdi = dune_in_monitor(vcpu, routine),
		.rsi = vcpu->area_address + offsetof(struct dune_processor_area, edits),
		.rcx = count,
		.rdx = root,
		.rsp = vcpu->area_address + offsetof(struct dune_processor_area, emergency_stack),
		.rflags = 2,
	};
	run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	run->immediate_exit = 0;
	do {
		error = enter(vcpu);
		run->immediate_exit = 0;
		run->kvm_dirty_regs = 0;
		kicked = kicked || error == EINTR;
	} while (error == EINTR || error == EAGAIN);
	if (kicked)
		atomic_store(&vcpu->kicked, true);
	if (!error && run->exit_reason == KVM_EXIT_IO && run->io.port == PORT_MONITOR)
		return 0;
	dune_vcpu_reset(vcpu);
	return dune_fail(EIO, "the monitor failed to edit page tables: %s",
			 dune_exit_name(error ? UINT_MAX : run->exit_reason));
}

int dune_vcpu_edit(struct dune_vcpu *vcpu, struct dune_context *context, const struct dune_edit *edits, size_t count)
{
	while (count) {
		size_t some = count < DUNE_EDITS_MAX ? count : DUNE_EDITS_MAX;
		memcpy(vcpu->area->edits, edits, some * sizeof *edits);
		if (dune_vcpu_monitor(vcpu, dune_monitor_edit, some, root_of(vcpu, context)) != 0)
			return -1;
		context->generation = dune_generation_new();
		loaded(vcpu, context);
		vcpu->tag_flushes++;
		edits += some;
		count -= some;
	}
	return 0;
}
