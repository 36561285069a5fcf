/* bare.c - see bare.h */
#define _GNU_SOURCE
#include "bare.h"

#include "kvm/vcpu.h"
#include "measure.h"

static struct {
	struct dune_machine *machine;
	struct dune_vcpu *vcpu;
	struct dune_context contexts[2];
	uint64_t data;
} bare;

static void prepare_context(struct dune_context *context, uint64_t tenant)
{
	uint64_t root = dune_root_new(bare.machine), frame = root ? dune_frame_new(bare.machine) : 0;
	if (!frame)
		measure_fail("%s", dune_error());
	uint64_t *entry = dune_tables_entry(&bare.machine->tables, root, bare.data, true);
	if (!entry)
		measure_fail("no page table");
	*entry = frame | DUNE_PTE_PRESENT | DUNE_PTE_USER | DUNE_PTE_NO_EXECUTE;
	dune_context_start(context, tenant, root);
}

void bare_prepare(void)
{
	bare.machine = dune_machine_get();
	bare.vcpu = bare.machine ? dune_vcpu_get(bare.machine) : NULL;
	if (!bare.vcpu)
		measure_fail("%s", dune_error());
	bare.data = bare.machine->window + WINDOW_USER;
	prepare_context(&bare.contexts[0], UINT64_MAX - 1);
	prepare_context(&bare.contexts[1], UINT64_MAX - 2);
}

static void run(struct dune_context *context, uint64_t rip, uint64_t address, enum dune_exit_kind wanted)
{
	struct dune_exit exit;
	context->regs = (struct kvm_regs){ .rip = rip, .rdi = address, .r13 = bare.machine->trampoline_service };
	do
		dune_vcpu_run(bare.vcpu, context, &exit);
	while (exit.kind == DUNE_EXIT_KICKED);
	if (exit.kind != wanted)
		measure_fail("a bare exit was something else: %d", (int)exit.kind);
}

void bare_run_exit(void *unused)
{
	(void)unused;
	run(&bare.contexts[0], bare.machine->trampoline_touch, bare.data, DUNE_EXIT_SERVICE);
}

void bare_run_trap(void *unused)
{
	(void)unused;
	run(&bare.contexts[0], bare.machine->trampoline_touch, bare.data + 4096, DUNE_EXIT_EXCEPTION);
}

void bare_run_call(void *unused)
{
	(void)unused;
	run(&bare.contexts[0], bare.machine->trampoline_call, 0, DUNE_EXIT_SYSTEM_CALL);
}

void bare_run_two_tenants(void *unused)
{
	(void)unused;
	run(&bare.contexts[0], bare.machine->trampoline_touch, bare.data, DUNE_EXIT_SERVICE);
	run(&bare.contexts[1], bare.machine->trampoline_touch, bare.data, DUNE_EXIT_SERVICE);
}
