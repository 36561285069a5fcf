/*
 * live_dirty_bits.c - what recycling by dirty bits rests on: the processor sets a bit that was cleared from outside once
 * the translation is flushed, and a root whose generation has grown is flushed.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "kvm/tags.h"
#include "kvm/vcpu.h"

enum {
	ROUNDS = 50,
	RING0_CODE = 0xc0000, /* in the window: an offset that nothing else has */
	RING0_DATA = 0xc1000,
};

/* In place of libc's: counts the calls to KVM that are not KVM_RUN. */
static unsigned other_calls;

int ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	va_start(list, request);
	void *argument = va_arg(list, void *);
	va_end(list);
	other_calls += request != KVM_RUN;
	return (int)syscall(SYS_ioctl, fd, request, argument);
}

static struct dune_machine *machine;
static struct dune_vcpu *vcpu;
static struct dune_context context;
static uint64_t page, *entry;

/* False where dirty bits are not relied on. */
static bool prepare(void)
{
	machine = dune_machine_get();
	CU_ASSERT_PTR_NOT_NULL_FATAL(machine);
	vcpu = dune_vcpu_get(machine);
	CU_ASSERT_PTR_NOT_NULL_FATAL(vcpu);
	if (machine->host.recycling_copies) {
		harness_skip("dirty bits are not used here: %s", machine->host.recycling_copies);
		return false;
	}
	uint64_t root = dune_root_new(machine), frame = dune_frame_new(machine);
	CU_ASSERT_FATAL(root && frame);
	dune_context_start(&context, 1000, root);
	page = machine->window + WINDOW_USER;
	entry = dune_tables_entry(&machine->tables, root, page, true);
	CU_ASSERT_PTR_NOT_NULL_FATAL(entry);
	*entry = frame | DUNE_PTE_PRESENT | DUNE_PTE_USER | DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE;
	return true;
}

/* Ring 3 writes to the page, or reads it.  Returns whether the entry is dirty then. */
static bool dirty_after(bool write)
{
	struct dune_exit exit;
	context.regs = (struct kvm_regs){
		.rip = machine->trampoline_touch, .rdi = page, .rsi = write, .r13 = machine->trampoline_service
	};
	dune_vcpu_run(vcpu, &context, &exit);
	CU_ASSERT_EQUAL(exit.kind, DUNE_EXIT_SERVICE);
	return *entry & DUNE_PTE_DIRTY;
}

static void clear_dirty(void)
{
	__atomic_fetch_and(entry, ~DUNE_PTE_DIRTY, __ATOMIC_SEQ_CST);
}

static void a_new_generation_flushes_without_a_call(void)
{
	if (!prepare())
		return;
	dirty_after(true);
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t reloads = vcpu->reloads;
		other_calls = 0;
		clear_dirty();
		context.generation = dune_generation_new();
		CU_ASSERT_FALSE(dirty_after(false));
		CU_ASSERT_EQUAL(vcpu->reloads, reloads + 1);
		CU_ASSERT(dirty_after(true));
		CU_ASSERT_EQUAL(vcpu->reloads, reloads + 1); /* once */
		clear_dirty();
		context.generation = dune_generation_new();
		CU_ASSERT(dirty_after(true));
		CU_ASSERT_EQUAL(other_calls, 0);
	}
}

static void control_the_same_generation_does_not_flush(void)
{
	if (!prepare())
		return;
	dirty_after(true);
	unsigned unseen = 0;
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t cr3 = vcpu->run->s.regs.sregs.cr3, reloads = vcpu->reloads;
		clear_dirty();
		unseen += !dirty_after(true);
		CU_ASSERT_EQUAL(vcpu->run->s.regs.sregs.cr3, cr3);
		CU_ASSERT_EQUAL(vcpu->reloads, reloads);
		context.generation = dune_generation_new();
		dirty_after(true);
	}
	harness_note("without a flush %u of %d writes were not seen", unseen, ROUNDS);
	if (machine->host.dirty_bits_cached)
		CU_ASSERT(unseen > 0);
}

/* Entry: ring 0; RSI -> the address of the entry, the page's, and (after 8 bytes) whether to flush in between.  Writes, clears
 * the dirty bit, writes again, and stores the entry in place of the page's address. */
extern const uint8_t ring0_begin[], ring0_end[];
__asm__(".pushsection .rodata\n"
	"ring0_begin:\n"
	"	movq (%rsi), %rdi\n"
	"	movq 8(%rsi), %r8\n"
	"	movb $1, (%r8)\n"
	"	lock andq $-65, (%rdi)\n"
	"	cmpq $0, 24(%rsi)\n"
	"	je 1f\n"
	"	movq %cr3, %rax\n"
	"	movq %rax, %cr3\n"
	"1:	movb $2, (%r8)\n"
	"	movq (%rdi), %rax\n"
	"	movq %rax, 8(%rsi)\n"
	"	outb %al, $0x13\n" /* PORT_MONITOR */
	"	ud2\n"
	"ring0_end:\n"
	".popsection");

static uint64_t *map_for_ring0(uint64_t offset, uint64_t bits)
{
	uint64_t *made = dune_tables_entry(&machine->tables, machine->edit_root, machine->window + offset, true);
	uint64_t frame = dune_frame_new(machine);
	CU_ASSERT_FATAL(made && frame && !*made);
	*made = frame | bits | DUNE_PTE_PRESENT;
	return made;
}

/* Returns whether the entry is dirty at the end. */
static bool write_clear_write(const uint64_t *data, bool flush)
{
	vcpu->area->edits[0] = (struct dune_edit){
		.entry = machine->edit_tables + ((const uint8_t *)data - machine->tables.host),
		.value = machine->window + RING0_DATA,
	};
	vcpu->area->edits[1].value = flush;
	CU_ASSERT_EQUAL(dune_vcpu_monitor(vcpu, dune_monitor_begin + (RING0_CODE - WINDOW_MONITOR), 1, context.root),
			0);
	return vcpu->area->edits[0].value & DUNE_PTE_DIRTY;
}

static void the_processor_needs_the_flush(void)
{
	if (!prepare())
		return;
	const uint64_t *code = map_for_ring0(RING0_CODE, 0);
	const uint64_t *data = map_for_ring0(RING0_DATA, DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE);
	memcpy(dune_physical_at(machine, *code & DUNE_PTE_FRAME), ring0_begin, ring0_end - ring0_begin);
	unsigned unseen = 0;
	for (unsigned i = 0; i < ROUNDS; i++) {
		CU_ASSERT(write_clear_write(data, true));
		unseen += !write_clear_write(data, false);
	}
	CU_ASSERT(unseen > 0); /* not all: an interrupt of the host may have flushed in between */
}

static const struct harness_test tests[] = {
	{ "a dirty bit that was cleared is set again once the root's generation has grown, with no call but KVM_RUN",
	  a_new_generation_flushes_without_a_call, HARNESS_FORK },
	{ "control: a root of the same generation is not flushed", control_the_same_generation_does_not_flush,
	  HARNESS_FORK },
	{ "control: the processor does not set a dirty bit again without a flush", the_processor_needs_the_flush,
	  HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
