/*
 * steps.c - see steps.h
 *
 * The trap flag does not survive SYSCALL and exceptions, which clear it for the code that they enter.  So every entry of
 * ring 0 (the vectors of the IDT, and LSTAR) begins with a HLT while instructions are counted: it exits, the first byte is
 * put back, and the single steps go on from there.
 */
#include "guest/steps.h"

#include <errno.h>
#include <stddef.h>
#include <sys/ioctl.h>

#include "kvm/mirror.h"
#include "placement/placement.h"
#include "placement/system_call.h"

enum {
	ENTRIES = 257,
	HLT = 0xf4
};

bool dune_steps_wanted, dune_steps_installed;

static struct {
	uint64_t instructions;
	struct entry {
		uint64_t address; /* in the guest */
		uint8_t *code;    /* here; NULL: not there */
		uint8_t first;
	} entries[ENTRIES];
	struct entry *passing; /* it has its first byte until it is left */
	uint64_t counted;      /* where the last instruction was begun */
} steps;

static long control(int vcpu, unsigned long request, void *argument)
{
	return dune_system_call(SYS_ioctl, vcpu, (long)request, (long)argument, 0, 0, 0);
}

static void debug(int vcpu, uint32_t flags)
{
	struct kvm_guest_debug wanted = { .control = flags };
	control(vcpu, KVM_SET_GUEST_DEBUG, &wanted);
}

/* Where the guest's memory at an address is here; NULL: nowhere. */
static void *at(int vcpu, uint64_t address)
{
	struct kvm_translation translation = { .linear_address = address };
	if (control(vcpu, KVM_TRANSLATE, &translation) != 0 || !translation.valid)
		return NULL;
	return dune_mirror_at(translation.physical_address);
}

static void put_halt(struct entry *entry)
{
	if (entry->code)
		*(volatile uint8_t *)entry->code = HLT;
}

static void put_back(struct entry *entry)
{
	if (entry->code)
		*(volatile uint8_t *)entry->code = entry->first;
}

static void install(int vcpu)
{
	struct {
		struct kvm_msrs list;
		struct kvm_msr_entry entry;
	} system_call = { .list.nmsrs = 1, .entry.index = 0xc0000082 };
	struct kvm_sregs sregs;
	control(vcpu, KVM_GET_MSRS, &system_call);
	control(vcpu, KVM_GET_SREGS, &sregs);
	for (unsigned i = 0; i < ENTRIES; i++) {
		struct entry *entry = &steps.entries[i];
		const uint64_t *gate = i < 256 ? at(vcpu, sregs.idt.base + 16 * i) : NULL;
		entry->address = system_call.entry.data;
		if (gate)
			entry->address = (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000) | gate[1] << 32;
		entry->code = i < 256 && !gate ? NULL : at(vcpu, entry->address);
	}
	for (unsigned i = 0; i < ENTRIES; i++)
		if (steps.entries[i].code)
			steps.entries[i].first = *steps.entries[i].code;
	for (unsigned i = 0; i < ENTRIES; i++)
		put_halt(&steps.entries[i]);
	steps.passing = NULL;
	steps.counted = 0;
	dune_steps_installed = true;
}

static void remove_halts(void)
{
	for (unsigned i = 0; i < ENTRIES; i++)
		put_back(&steps.entries[i]);
	dune_steps_installed = false;
}

static struct entry *entry_at(uint64_t address)
{
	for (unsigned i = 0; i < ENTRIES; i++)
		if (steps.entries[i].code && steps.entries[i].address == address)
			return &steps.entries[i];
	return NULL;
}

/* Registers that the caller wants are set now: a step is of the instruction that is next then. */
static void bring_in(int vcpu, struct kvm_run *run)
{
	if (run->kvm_dirty_regs & KVM_SYNC_X86_SREGS)
		control(vcpu, KVM_SET_SREGS, &run->s.regs.sregs);
	if (run->kvm_dirty_regs & KVM_SYNC_X86_REGS)
		control(vcpu, KVM_SET_REGS, &run->s.regs.regs);
	run->kvm_dirty_regs = 0;
	control(vcpu, KVM_GET_REGS, &run->s.regs.regs);
	control(vcpu, KVM_GET_SREGS, &run->s.regs.sregs);
}

long dune_steps_run(int vcpu, struct kvm_run *run)
{
	struct kvm_regs *regs = &run->s.regs.regs;
	if (!dune_steps_wanted && !dune_steps_installed)
		return control(vcpu, KVM_RUN, NULL);
	if (!dune_steps_installed)
		install(vcpu);
	bring_in(vcpu, run);
	for (;;) {
		if (!dune_steps_wanted) {
			debug(vcpu, 0);
			remove_halts();
			return control(vcpu, KVM_RUN, NULL);
		}
		/* At the same address again: a repeated string instruction, or a step that was reported before it was made. */
		if (run->s.regs.sregs.ss.dpl == 0 && regs->rip != steps.counted)
			steps.instructions++;
		steps.counted = regs->rip;
		debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
		long result = control(vcpu, KVM_RUN, NULL);
		if (steps.passing && regs->rip != steps.passing->address) {
			put_halt(steps.passing);
			steps.passing = NULL;
		}
		if (result == 0 && run->exit_reason == KVM_EXIT_HLT) {
			struct entry *entry = entry_at(regs->rip - 1);
			if (entry) {
				steps.passing = entry;
				put_back(entry);
				regs->rip--;
				control(vcpu, KVM_SET_REGS, regs);
				continue;
			}
		}
		if (result == 0 && run->exit_reason == KVM_EXIT_DEBUG)
			continue;
		debug(vcpu, 0);
		return result;
	}
}

/* ---- ring 0 ---------------------------------------------------------------------------------------- */

static void do_nothing(void *argument)
{
	__asm__ volatile("" : : "r"(argument));
}

static uint64_t count(void (*volatile function)(void *argument), void *argument)
{
	steps.instructions = 0;
	__atomic_store_n(&dune_steps_wanted, true, __ATOMIC_SEQ_CST);
	dune_system_call(SYS_getppid, 0, 0, 0, 0, 0, 0); /* an exit, after which the steps begin */
	function(argument);
	__atomic_store_n(&dune_steps_wanted, false, __ATOMIC_SEQ_CST);
	dune_system_call(SYS_getppid, 0, 0, 0, 0, 0, 0);
	return steps.instructions;
}

int dune_steps_count(void (*function)(void *argument), void *argument, uint64_t *instructions)
{
	if (!dune_in_guest())
		return dune_fail(EINVAL, "instructions of ring 0 are counted for a thread that is in guest placement");
	uint64_t nothing = count(do_nothing, NULL), all = count(function, argument);
	*instructions = all - nothing;
	return 0;
}
