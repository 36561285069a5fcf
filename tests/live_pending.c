/*
 * live_pending.c - law 5 at the bottom: an operation that one tenant leaves behind in a virtual CPU is not finished in
 * the next.  Libdune by itself; no compartment of libsthread has a page without memory behind it.
 */
#define _GNU_SOURCE
#include <string.h>

#include "harness.h"
#include "kvm/vcpu.h"
#include "live.h"

enum {
	HOLE = 0x40000000 /* guest-physical: below all arenas */
};

/* Code, stack, data, and a page without memory. */
struct space {
	struct dune_context context;
	uint64_t code, data, hole;
	uint8_t *code_here, *data_here;
};

static struct dune_machine *machine;
static struct dune_vcpu *vcpu;
static uint64_t tenants = 5000;

static uint8_t *map(struct space *space, uint64_t address, uint64_t frame, uint64_t bits)
{
	uint64_t *entry = dune_tables_entry(&machine->tables, space->context.root, address, true);

	CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
	*entry = frame | bits | DUNE_PTE_PRESENT | DUNE_PTE_USER;
	return dune_physical_at(machine, frame);
}

static void make(struct space *space, const uint8_t *code, size_t size)
{
	uint64_t root = dune_root_new(machine);

	memset(space, 0, sizeof(*space));
	dune_context_start(&space->context, ++tenants, root);
	space->code = machine->window + WINDOW_USER;
	space->data = space->code + DUNE_PAGE_SIZE;
	space->hole = space->data + DUNE_PAGE_SIZE;
	space->code_here = map(space, space->code, dune_frame_new(machine), 0);
	space->data_here = map(space, space->data, dune_frame_new(machine), DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE);
	map(space, space->hole, HOLE, DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE);
	memcpy(space->code_here, code, size);
	memset(space->data_here, 0x11, DUNE_PAGE_SIZE);
}

static struct dune_exit run(struct space *space, const struct kvm_regs *regs)
{
	struct dune_exit exit;

	space->context.regs = *regs;
	dune_vcpu_run(vcpu, &space->context, &exit);
	return exit;
}

/* What an attacker does last.  RDI: the page without memory; RSI: data; RCX: 5. */
static const struct {
	const char *name;
	uint8_t code[8];
	size_t size;
	unsigned reason; /* of the broken virtual CPU; 0: none, the exit looks like any other */
} attacks[] = {
	{ "a read of a page without memory", { 0x48, 0x8b, 0x1f }, 3, KVM_EXIT_MMIO },        /* mov (%rdi), %rbx */
	{ "a write to a page without memory", { 0x48, 0x89, 0x1f }, 3, KVM_EXIT_MMIO },       /* mov %rbx, (%rdi) */
	{ "an exchange with a page without memory", { 0x48, 0x87, 0x1f }, 3, KVM_EXIT_MMIO }, /* xchg %rbx, (%rdi) */
	{ "a copy from a page without memory",
	  { 0x48, 0x87, 0xf7, 0xf3, 0xa4 },
	  5,
	  KVM_EXIT_MMIO },                                      /* xchg; rep movsb */
	{ "an input", { 0xe4, PORT_SERVICE }, 2, KVM_EXIT_IO }, /* in */
	{ "an input of strings",
	  { 0x48, 0x87, 0xf7, 0xba, PORT_SERVICE, 0, 0, 0 },
	  8,
	  KVM_EXIT_IO },                                                               /* xchg; mov; rep insb */
	{ "an output of strings", { 0xba, PORT_SERVICE, 0, 0, 0, 0xf3, 0x6e }, 7, 0 }, /* mov; rep outsb */
	{ "an output of words", { 0x66, 0xe7, PORT_SYSTEM_CALL }, 3, KVM_EXIT_IO },    /* out */
};

static struct dune_exit attack(size_t number)
{
	struct space space;
	uint8_t code[16] = { 0 };
	size_t size = attacks[number].size;

	memcpy(code, attacks[number].code, size);
	if (size == 8) { /* rep insb did not fit */
		code[8] = 0xf3;
		code[9] = 0x6c;
		size = 10;
	}
	code[size] = 0x0f;
	code[size + 1] = 0x0b;
	make(&space, code, size + 2);

	struct kvm_regs regs = { .rip = space.code,
				 .rdi = space.hole,
				 .rsi = space.data,
				 .rcx = 5,
				 .rbx = 0xbad,
				 .rax = 99,
				 .rsp = space.data + DUNE_PAGE_SIZE,
				 .rdx = PORT_SERVICE };

	return run(&space, &regs);
}

/* The next tenant: does nothing and leaves by the honest way.  Returns how many of its registers and bytes changed. */
static unsigned victim(void)
{
	static const uint8_t code[] = { 0x90, 0x90, 0x41, 0xff, 0xe5 }; /* nop; nop; jmp *%r13 */
	struct space space;
	unsigned changed = 0;

	make(&space, code, sizeof(code));

	struct kvm_regs regs = { .rip = space.code,
				 .rax = 0x101,
				 .rbx = 0x102,
				 .rcx = 0x103,
				 .rdx = 0x104,
				 .rsi = space.data,
				 .rdi = space.data + 64,
				 .rbp = 0x107,
				 .rsp = space.data + DUNE_PAGE_SIZE,
				 .r8 = 0x108,
				 .r9 = 0x109,
				 .r10 = 0x10a,
				 .r11 = 0x10b,
				 .r12 = 0x10c,
				 .r13 = machine->trampoline_service,
				 .r14 = 0x10e,
				 .r15 = 0x10f };
	struct dune_exit exit = run(&space, &regs);
	const struct kvm_regs *now = &space.context.regs;

	changed += exit.kind != DUNE_EXIT_SERVICE;
	changed += (now->rax != regs.rax) + (now->rbx != regs.rbx) + (now->rcx != regs.rcx) + (now->rdx != regs.rdx) +
		   (now->rsi != regs.rsi) + (now->rdi != regs.rdi) + (now->rbp != regs.rbp) + (now->rsp != regs.rsp) +
		   (now->r8 != regs.r8) + (now->r9 != regs.r9) + (now->r10 != regs.r10) + (now->r11 != regs.r11) +
		   (now->r12 != regs.r12) + (now->r13 != regs.r13) + (now->r14 != regs.r14) + (now->r15 != regs.r15);
	for (size_t i = 0; i < DUNE_PAGE_SIZE; i++)
		changed += space.data_here[i] != 0x11;
	return changed;
}

static void open_machine(void)
{
	machine = dune_machine_get();
	CU_ASSERT_PTR_NOT_NULL_FATAL(machine);
	vcpu = dune_vcpu_get(machine);
	CU_ASSERT_PTR_NOT_NULL_FATAL(vcpu);
}

static bool applies(size_t number)
{
	return machine->host.exit_path == DUNE_EXIT_IO_BITMAP || attacks[number].reason == KVM_EXIT_MMIO;
}

static void nothing_is_finished_elsewhere(void)
{
	open_machine();
	ASSERT_EQUAL(victim(), 0);
	for (size_t i = 0; i < sizeof(attacks) / sizeof(*attacks); i++) {
		if (!applies(i))
			continue;
		for (int round = 0; round < 3; round++) {
			struct dune_exit exit = attack(i);

			if (attacks[i].reason)
				live_check(exit.kind == DUNE_EXIT_BROKEN && exit.reason == attacks[i].reason, __FILE__,
					   __LINE__, "%s: exit %d, vector %u, reason %s", attacks[i].name,
					   (int)exit.kind, exit.vector, dune_exit_name(exit.reason));
			else
				ASSERT_EQUAL(exit.kind, DUNE_EXIT_SERVICE);
			/* What nobody else's memory is touched by may be finished later. */
			live_check(!attacks[i].reason || !vcpu->pending, __FILE__, __LINE__, "%s: is finished at once",
				   attacks[i].name);
			unsigned changed = victim();

			live_check(changed == 0, __FILE__, __LINE__,
				   "%s: %u registers or bytes of the next tenant changed", attacks[i].name, changed);
		}
	}
}

/* The same without the completion: at least a read of a page without memory ends in the next tenant's register. */
static void it_would_be(void)
{
	open_machine();

	unsigned changed[sizeof(attacks) / sizeof(*attacks)] = { 0 }, total = 0;

	vcpu->leaves_pending = true;

	for (size_t i = 0; i < sizeof(attacks) / sizeof(*attacks); i++) {
		if (!applies(i))
			continue;
		attack(i);
		vcpu->pending = false;
		changed[i] = victim();
		total += changed[i];
		harness_note("%s: %u registers or bytes of the next tenant change if it is not completed",
			     attacks[i].name, changed[i]);
		ASSERT_EQUAL(dune_vcpu_reset(vcpu), 0);
		vcpu->pending = true;
		victim();
	}
	/* Known of kvm_amd and kvm_intel; a KVM that interprets ring 0 may forget what was pending. */
	CU_ASSERT(total > 0 || !machine->host.ring0_native);
}

static void pending_and_edits(void)
{
	open_machine();
	for (size_t i = 0; i < sizeof(attacks) / sizeof(*attacks); i++) {
		struct space space;

		if (!applies(i))
			continue;
		make(&space, (const uint8_t *)"\x90", 1);

		uint64_t *entry = dune_tables_entry(&machine->tables, space.context.root, space.data, false);
		struct dune_edit edit = { .entry = machine->edit_tables + ((uint8_t *)entry - machine->tables.host) };

		attack(i);
		live_check(dune_vcpu_edit(vcpu, &space.context, &edit, 1) == 0 && *entry == 0, __FILE__, __LINE__,
			   "%s: the monitor edits all the same: %s", attacks[i].name, dune_error());
		ASSERT_EQUAL(victim(), 0);
	}
}

static const struct harness_test tests[] = {
	{ "what one tenant leaves pending is not finished in the next", nothing_is_finished_elsewhere, HARNESS_FORK },
	{ "it would be, without the completion (control)", it_would_be, HARNESS_FORK },
	{ "nor does it disturb the monitor", pending_and_edits, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
