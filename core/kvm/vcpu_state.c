/* vcpu_state.c - segments, and the one state of all registers that a compartment cannot change.  See vcpu.h. */
#include "kvm/vcpu_parts.h"
#include "kvm/tags.h"

#include <string.h>
#include <sys/ioctl.h>

enum {
	CR4_PAE = 1 << 5,
	CR4_OSFXSR = 1 << 9,
	CR4_OSXMMEXCPT = 1 << 10,
	CR4_UMIP = 1 << 11,
	CR4_PCIDE = 1 << 17,
	CR4_OSXSAVE = 1 << 18,
	CR4_SMEP = 1 << 20,
	CR4_SMAP = 1 << 21
};
enum {
	MSR_STAR = 0xc0000081,
	MSR_LSTAR = 0xc0000082,
	MSR_CSTAR = 0xc0000083,
	MSR_SFMASK = 0xc0000084,
	MSR_KERNEL_GS_BASE = 0xc0000102
};

static struct kvm_segment segment(unsigned selector, unsigned type, unsigned privilege, bool code)
{
	return (struct kvm_segment){ .limit = ~0u,
				     .selector = selector,
				     .type = type,
				     .present = 1,
				     .dpl = privilege,
				     .s = 1,
				     .g = 1,
				     .l = code,
				     .db = !code };
}

static struct kvm_segment unusable(uint64_t base)
{
	return (struct kvm_segment){ .base = base, .unusable = 1 };
}

enum {
	CODE = 11,
	DATA = 3
}; /* types: accessed, readable code; accessed, writable data */

void dune_set_user_segments(struct kvm_sregs *sregs, uint64_t fs_base, uint64_t gs_base)
{
	sregs->cs = segment(SELECTOR_USER_CODE, CODE, 3, true);
	sregs->ss = segment(SELECTOR_USER_DATA, DATA, 3, false);
	sregs->ds = sregs->es = unusable(0);
	sregs->fs = unusable(fs_base);
	sregs->gs = unusable(gs_base);
}

void dune_set_monitor_segments(struct kvm_sregs *sregs)
{
	sregs->cs = segment(SELECTOR_KERNEL_CODE, CODE, 0, true);
	sregs->ss = segment(SELECTOR_KERNEL_DATA, DATA, 0, false);
	sregs->ds = sregs->es = sregs->fs = sregs->gs = unusable(0);
}

/* Where SYSCALL goes: into the monitor, or where it stays in ring 3, into the trampoline. */
static uint64_t call_entry(const struct dune_vcpu *vcpu)
{
	const struct dune_machine *machine = vcpu->machine;
	if (machine->host.ring0_native)
		return dune_in_monitor(vcpu, vcpu->mirror ? dune_monitor_forward : dune_monitor_syscall);
	return vcpu->mirror ? machine->window + WINDOW_TRAMPOLINE + (dune_trampoline_forward - dune_trampoline_begin) :
			      machine->trampoline_syscall;
}

int dune_vcpu_reset(struct dune_vcpu *vcpu)
{
	const struct dune_machine *machine = vcpu->machine;
	const struct dune_host *host = &machine->host;
	struct kvm_sregs sregs;
	dune_tags_forget(vcpu); /* first: whatever comes of this, nothing is known of what it has cached */
	vcpu->generation = 0;
	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) != 0)
		return -1;
	sregs.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	sregs.cr2 = 0;
	sregs.cr3 = vcpu->edit_root;
	sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | (machine->os_xsave ? CR4_OSXSAVE : 0) |
		    (host->smep ? CR4_SMEP : 0) | (host->smap ? CR4_SMAP : 0) | (host->umip ? CR4_UMIP : 0) |
		    (machine->tags_used && !vcpu->mirror ? CR4_PCIDE : 0);
	sregs.efer = 0xd01; /* NXE LMA LME SCE */
	uint64_t descriptors = machine->window + WINDOW_DESCRIPTORS;
	sregs.idt = (struct kvm_dtable){ .base = descriptors, .limit = VECTOR_COUNT * 16 - 1 };
	sregs.gdt = (struct kvm_dtable){ .base = descriptors + DUNE_PAGE_SIZE, .limit = DESCRIPTOR_COUNT * 8 - 1 };
	sregs.tr = (struct kvm_segment){ .base = vcpu->area_address,
					 .limit = sizeof(struct dune_tss) - 1,
					 .selector = SELECTOR_TSS,
					 .present = 1,
					 .type = 11 };
	sregs.ldt = unusable(0);
	dune_set_monitor_segments(&sregs);
	memset(sregs.interrupt_bitmap, 0, sizeof sregs.interrupt_bitmap);
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[5];
	} msrs = { { .nmsrs = host->ring0_native ? 5 : 4 },
		   { { .index = MSR_STAR,
		       .data = (uint64_t)SELECTOR_SYSRET_BASE << 48 | (uint64_t)SELECTOR_KERNEL_CODE << 32 },
		     { .index = MSR_LSTAR, .data = call_entry(vcpu) },
		     { .index = MSR_CSTAR,
		       .data = machine->window + WINDOW_MONITOR + VECTOR_FORBIDDEN * VECTOR_STUB_SIZE },
		     { .index = MSR_SFMASK, .data = 0x257fd5 },
		     { .index = MSR_KERNEL_GS_BASE,
		       .data = vcpu->area_address + offsetof(struct dune_processor_area, direct) } } };
	struct kvm_vcpu_events events = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW };
	struct kvm_debugregs debug = { .dr6 = 0xffff0ff0, .dr7 = 0x400 };
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_regs regs = { .rflags = FLAGS_ALWAYS };
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = host->vector_components } } };
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) != 0 ||
	    ioctl(vcpu->fd, KVM_SET_MSRS, &msrs) != (int)msrs.head.nmsrs || ioctl(vcpu->fd, KVM_SET_REGS, &regs) != 0 ||
	    ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events) != 0 || ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug) != 0 ||
	    (machine->os_xsave && ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs) != 0))
		return -1;
	ioctl(vcpu->fd, KVM_SET_MP_STATE, &runnable); /* only after SHUTDOWN does it matter; refused without an APIC */
	vcpu->run->s.regs.sregs = sregs;
	vcpu->run->kvm_dirty_regs = 0;
	vcpu->run->immediate_exit = 0;
	vcpu->tenant = 0;
	vcpu->pending = false;
	return 0;
}
