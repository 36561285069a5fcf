/*
 * ring0.c - see ring0.h
 *
 * Single steps do not survive SYSCALL, exceptions and the returns from them.  So while instructions are counted every entry
 * of ring 0 (the vectors of the IDT, and LSTAR) begins with a HLT.  It exits, the first byte is put back, and ring 0 is
 * stepped until it has left; ring 3 runs freely.
 */
#define _GNU_SOURCE
#include "ring0.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "kvm/vcpu.h"

enum {
	ENTRIES = VECTOR_COUNT + 1,
	HLT = 0xf4
};

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);

static struct {
	bool counting;
	struct dune_machine *machine;
	struct dune_vcpu *vcpu;
	struct entry {
		uint64_t address; /* in the guest */
		uint8_t *code;    /* here; NULL: not there */
		uint8_t first;
	} entries[ENTRIES];
	struct entry *passing; /* it has its first byte until it is left */
	struct ring0 counted;
} steps;

/* The monitor's code, as the supervisor has it. */
static uint8_t *code_at(uint64_t address)
{
	const uint64_t *entry =
		dune_tables_entry(&steps.machine->tables, steps.machine->edit_root, address & ~(uint64_t)4095, false);
	if (!entry || !(*entry & DUNE_PTE_PRESENT))
		return NULL;
	return (uint8_t *)dune_physical_at(steps.machine, *entry & DUNE_PTE_FRAME) + (address & 4095);
}

static void find_entries(void)
{
	for (unsigned i = 0; i < ENTRIES; i++) {
		struct entry *entry = &steps.entries[i];
		const uint64_t *gate = &steps.machine->idt[2 * (size_t)i];
		entry->code = NULL;
		if (i == VECTOR_COUNT)
			entry->address = steps.machine->window + WINDOW_MONITOR +
					 (uint64_t)(dune_monitor_syscall - dune_monitor_begin);
		else if (gate[0] >> 47 & 1)
			entry->address = (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000) | gate[1] << 32;
		else
			continue;
		entry->code = code_at(entry->address);
		if (entry->code)
			entry->first = *entry->code;
	}
}

static void put_all(bool halt)
{
	for (unsigned i = 0; i < ENTRIES; i++)
		if (steps.entries[i].code)
			*(volatile uint8_t *)steps.entries[i].code = halt ? HLT : steps.entries[i].first;
	steps.passing = NULL;
}

static struct entry *entry_at(uint64_t address)
{
	for (unsigned i = 0; i < ENTRIES; i++)
		if (steps.entries[i].code && steps.entries[i].address == address)
			return &steps.entries[i];
	return NULL;
}

static void debug(int fd, bool step)
{
	struct kvm_guest_debug wanted = { .control = step ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0 };
	__real_ioctl(fd, KVM_SET_GUEST_DEBUG, &wanted);
}

/* Registers that the caller wants are set now: a step is of the instruction that is next then. */
static void bring_in(int fd, struct kvm_run *run)
{
	if (run->kvm_dirty_regs & KVM_SYNC_X86_SREGS)
		__real_ioctl(fd, KVM_SET_SREGS, &run->s.regs.sregs);
	if (run->kvm_dirty_regs & KVM_SYNC_X86_REGS)
		__real_ioctl(fd, KVM_SET_REGS, &run->s.regs.regs);
	run->kvm_dirty_regs &= ~(uint64_t)(KVM_SYNC_X86_SREGS | KVM_SYNC_X86_REGS);
	__real_ioctl(fd, KVM_GET_REGS, &run->s.regs.regs);
	__real_ioctl(fd, KVM_GET_SREGS, &run->s.regs.sregs);
}

/* An OUT leaves the guest anyway.  Stepped on Intel, it leaves a debug exception behind, which ring 3 would get. */
static bool exits_by_itself(uint64_t address)
{
	const uint8_t *code = code_at(address);
	return code && (*code == 0xe6 || *code == 0xe7 || *code == 0xee || *code == 0xef);
}

static int run_in_steps(int fd, struct kvm_run *run)
{
	const struct kvm_regs *regs = &run->s.regs.regs;
	bool inside = false;
	bring_in(fd, run);
	for (;;) {
		bool in_ring0 = run->s.regs.sregs.ss.dpl == 0;
		steps.counted.visits += in_ring0 && !inside;
		steps.counted.instructions += in_ring0; /* the one that is next */
		inside = in_ring0;
		debug(fd, in_ring0 && !exits_by_itself(regs->rip));
		int result = __real_ioctl(fd, KVM_RUN, NULL);
		run->kvm_dirty_regs = 0;
		if (steps.passing && regs->rip != steps.passing->address) {
			*(volatile uint8_t *)steps.passing->code = HLT;
			steps.passing = NULL;
		}
		if (result == 0 && run->exit_reason == KVM_EXIT_HLT && entry_at(regs->rip - 1)) {
			struct kvm_regs back = *regs;
			steps.passing = entry_at(--back.rip);
			*(volatile uint8_t *)steps.passing->code = steps.passing->first;
			__real_ioctl(fd, KVM_SET_REGS, &back);
			run->s.regs.regs = back;
			inside = false; /* it may have left by a SYSRET, which nobody sees */
			continue;
		}
		if (result == 0 && run->exit_reason == KVM_EXIT_DEBUG)
			continue;
		if (result != 0 && errno == EINTR && run->s.regs.sregs.ss.dpl == 0) {
			run->immediate_exit = 0; /* a kick between two steps */
			continue;
		}
		int error = errno;
		debug(fd, false);
		errno = error;
		return result;
	}
}

int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
	if (steps.counting && request == KVM_RUN && fd == steps.vcpu->fd)
		return run_in_steps(fd, steps.vcpu->run);
	return __real_ioctl(fd, request, argument);
}

bool ring0_count(void (*run)(void *argument), void *argument, struct ring0 *ring0)
{
	struct sthread_statistics statistics;
	if (sthread_statistics(&statistics) != 0)
		return false;
	steps.machine = dune_machine_get();
	steps.vcpu = steps.machine ? dune_vcpu_get(steps.machine) : NULL;
	if (!steps.vcpu || !steps.machine->host.ring0_native)
		return false;
	steps.counted = (struct ring0){ 0 };
	find_entries();
	put_all(true);
	steps.counting = true;
	run(argument);
	steps.counting = false;
	put_all(false);
	ring0->instructions += steps.counted.instructions;
	ring0->visits += steps.counted.visits;
	return true;
}
