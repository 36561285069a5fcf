/*
 * processor.c - what ring 0 of a thread needs: the entry code and the processor's area in the window, a virtual CPU's state.
 */
#include "guest/guest.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

_Static_assert(offsetof(struct dune_guest_processor, kernel_rsp) == PROCESSOR_KERNEL_RSP, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, user_rsp) == PROCESSOR_USER_RSP, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, kernel_fs) == PROCESSOR_KERNEL_FS, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, user_fs) == PROCESSOR_USER_FS, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, trap) == PROCESSOR_TRAP, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, dispatch) == PROCESSOR_DISPATCH, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, vector_mask) == PROCESSOR_VECTOR_MASK, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, vector_size) == PROCESSOR_VECTOR_SIZE, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, run_handler) == PROCESSOR_RUN_HANDLER, "entry.S");
_Static_assert(sizeof(struct dune_guest_processor) <= PROCESSOR_TRAP_STACKS - PROCESSOR_TRAP_STACK_SIZE, "guard page");
_Static_assert(offsetof(struct dune_tss, ist) == PROCESSOR_IST1, "entry.S");

enum {
	CR4_FSGSBASE = 1 << 16,
	CR4_PCIDE = 1 << 17,
	CR4_SMEP = 1 << 20,
	CR4_SMAP = 1 << 21,
	MSR_LSTAR = 0xc0000082,
	MSR_SFMASK = 0xc0000084,
	MSR_TSC = 0x10
};

static const struct dune_machine *machine(void)
{
	return dune_mirror->machine;
}

/* ---- the window ------------------------------------------------------------------------------------ */

/* Memory that the window shows: whole pages, zeroed, within one GiB, so that its guest-physical addresses are consecutive. */
static void *new_pages(size_t size)
{
	for (unsigned tries = 0; tries < 8; tries++) {
		uint8_t *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (at == MAP_FAILED)
			break;
		if ((uintptr_t)at >> HUGE_PGSHIFT == ((uintptr_t)at + size - 1) >> HUGE_PGSHIFT)
			return at; /* others stay where they are, so that the next one lies elsewhere */
	}
	dune_fail(ENOMEM, "no memory for ring 0");
	return NULL;
}

static int map_in_window(uint64_t offset, const void *page, uint64_t bits)
{
	struct dune_mirror *mirror = dune_mirror;
	uint64_t physical = dune_mirror_physical(page);
	if (!physical)
		return -1;
	dune_vcpus_lock(); /* as for the areas of virtual CPUs, whose tables these are */
	uint64_t *entry = dune_tables_entry(&mirror->tables, mirror->edit_root, mirror->machine->window + offset, true);
	if (entry)
		*entry = physical | bits | DUNE_PTE_PRESENT;
	dune_vcpus_unlock();
	return entry ? 0 : dune_fail(ENOMEM, "no page-table page left");
}

static void fill_gate(uint64_t *idt, unsigned vector, uint64_t handler)
{
	bool fatal = vector == T_NMI || vector == T_DBLFLT || vector == T_MCHK;
	bool by_ring3 = vector == T_BRKPT || vector == T_OFLOW || (vector >= 32 && vector < DUNE_SIGNAL_INTR_BASE);
	dune_gate_fill(idt, vector, handler, by_ring3 ? 3 : 0, fatal ? 2 : 1);
}

static bool code_laid_out; /* in this process */
static unsigned processors;

int dune_guest_lay_out_code(void)
{
	static uint8_t *code; /* children of a fork have the same */
	const size_t size = WINDOW_GUEST_CODE_PAGES * DUNE_PAGE_SIZE;
	if (code_laid_out)
		return 0;
	if (!code && !(code = new_pages(size + DUNE_PAGE_SIZE)))
		return -1;
	memcpy(code, dune_guest_begin, dune_guest_end - dune_guest_begin);
	for (unsigned vector = 0; vector < GUEST_VECTORS; vector++)
		fill_gate((uint64_t *)(code + size), vector,
			  machine()->window + WINDOW_GUEST_CODE + (uint64_t)vector * GUEST_STUB_SIZE);
	for (uint64_t at = 0; at < size; at += DUNE_PAGE_SIZE)
		if (map_in_window(WINDOW_GUEST_CODE + at, code + at, 0) != 0)
			return -1;
	if (map_in_window(WINDOW_GUEST_IDT, code + size, DUNE_PTE_NO_EXECUTE) != 0)
		return -1;
	code_laid_out = true;
	return 0;
}

int dune_guest_lay_out_processor(struct dune_guest_thread *thread)
{
	enum {
		GUARD = PROCESSOR_TRAP_STACKS - PROCESSOR_TRAP_STACK_SIZE
	};
	if (processors == WINDOW_GUEST_PROCESSORS_MAX)
		return dune_fail(EAGAIN, "no more than %d threads can be in the guest", WINDOW_GUEST_PROCESSORS_MAX);
	uint64_t offset = WINDOW_GUEST_PROCESSORS + (uint64_t)processors * WINDOW_GUEST_PROCESSOR_SIZE;
	uint8_t *area = new_pages(WINDOW_GUEST_PROCESSOR_SIZE);
	if (!area)
		return -1;
	for (unsigned at = 0; at < WINDOW_GUEST_PROCESSOR_SIZE; at += DUNE_PAGE_SIZE)
		if (at != GUARD &&
		    map_in_window(offset + at, area + at,
				  at == PROCESSOR_SYSTEM_CALL ? 0 : DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE) != 0)
			return -1;
	memcpy(area + PROCESSOR_SYSTEM_CALL, dune_guest_system_call,
	       dune_guest_system_call_end - dune_guest_system_call);
	processors++;
	thread->processor = (struct dune_guest_processor *)area;
	thread->processor_address = machine()->window + offset;
	return 0;
}

void dune_guest_processors_forget(void)
{
	code_laid_out = false;
	processors = 0;
}

uint64_t dune_guest_in_window(const uint8_t *symbol)
{
	return machine()->window + WINDOW_GUEST_CODE + (symbol - dune_guest_begin);
}

/* Bytes of XSAVE's image of these components (Intel SDM vol. 1, 13.4), and 64 for what deliver.c adds. */
static uint64_t vector_size(uint64_t components)
{
	uint64_t end = 512 + 64;
	for (unsigned i = 2; i < 63; i++) {
		unsigned size, offset, ecx, edx;
		if (!(components >> i & 1))
			continue;
		__cpuid_count(0xd, i, size, offset, ecx, edx);
		if (offset + size > end)
			end = offset + size;
	}
	return ((end + 63) & ~(uint64_t)63) + 64;
}

/* The area's contents at the beginning of a thread's stay. */
static void fill_processor(struct dune_guest_thread *thread, uint64_t fs_base)
{
	struct dune_guest_processor *processor = thread->processor;
	struct dune_tss *tss = (struct dune_tss *)processor->tss;
	const struct dune_host *host = &machine()->host;
	*tss = (struct dune_tss){ .bitmap_offset = sizeof *tss };
	tss->ist[0] = thread->processor_address + PROCESSOR_TRAP_TOP;
	tss->ist[1] = thread->processor_address + PROCESSOR_FATAL_TOP;
	processor->kernel_rsp = 0;
	processor->kernel_fs = fs_base;
	processor->user_fs = 0;
	processor->trap = (uint64_t)dune_guest_trap;
	processor->dispatch = (uint64_t)dune_guest_call_dispatch;
	processor->run_handler = dune_guest_in_window(dune_guest_run_handler);
	processor->vector_mask = 0;
	processor->vector_size = 512; /* FXSAVE */
	if (host->xsave) {
		const uint64_t tiles = (uint64_t)3 << 17; /* AMX: handlers do not use it by themselves */
		processor->vector_mask = host->vector_components & ~tiles;
		processor->vector_size = vector_size(processor->vector_mask);
	}
	processor->thread = thread;
	processor->window = machine()->window;
	processor->window_end = machine()->window + machine()->window_size;
}

/* ---- the virtual CPU ------------------------------------------------------------------------------- */

static struct kvm_segment segment(unsigned selector, unsigned type, bool code)
{
	return (struct kvm_segment){
		.limit = ~0u, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1, .l = code, .db = !code
	};
}

/* The guest's time-stamp counter has to be the host's: the vDSO reads clocks from it. */
static void take_counter(const struct dune_vcpu *vcpu)
{
	uint64_t offset = 0;
	struct kvm_device_attr attribute = { .group = 0 /* KVM_VCPU_TSC_CTRL */,
					     .attr = 0 /* KVM_VCPU_TSC_OFFSET */,
					     .addr = (uint64_t)&offset };
	if (ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attribute) == 0)
		return;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = { { .nmsrs = 1 }, { .index = MSR_TSC, .data = dune_get_ticks() } };
	ioctl(vcpu->fd, KVM_SET_MSRS, &msr);
}

static int start_vcpu(struct dune_guest_thread *thread, uint64_t fs_base, uint64_t gs_base)
{
	struct dune_vcpu *vcpu = thread->vcpu;
	const struct dune_host *host = &machine()->host;
	struct kvm_sregs sregs;
	if (dune_vcpu_reset(vcpu) != 0 || ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) != 0)
		return dune_fail(errno, "KVM refuses the state of a virtual CPU: %s", strerror(errno));
	unsigned eax, ebx = 0, ecx, edx;
	__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
	/* Ring 0 runs what ring 3 may use as well. */
	sregs.cr4 &= ~(uint64_t)(CR4_SMEP | CR4_SMAP);
	sregs.cr4 |= (ebx & 1 ? CR4_FSGSBASE : 0) | (host->pcid ? CR4_PCIDE : 0);
	sregs.cr3 = (uint64_t)pgroot;
	sregs.cs = segment(SELECTOR_KERNEL_CODE, 11, true);
	sregs.ss = segment(SELECTOR_KERNEL_DATA, 3, false);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = (struct kvm_segment){ .unusable = 1 };
	sregs.fs.base = fs_base;
	sregs.gs.base = gs_base;
	sregs.idt = (struct kvm_dtable){ .base = machine()->window + WINDOW_GUEST_IDT, .limit = 4095 };
	sregs.tr.base = thread->processor_address;
	sregs.tr.limit = offsetof(struct dune_tss, bitmap) - 1;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[3];
	} msrs = { { .nmsrs = 3 },
		   { { .index = MSR_LSTAR, .data = thread->processor_address + PROCESSOR_SYSTEM_CALL },
		     { .index = MSR_SFMASK, .data = 0x47700 /* AC NT IF DF TF */ },
		     { .index = MSR_KERNEL_GS_BASE, .data = 0 } } };
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) != 0 || ioctl(vcpu->fd, KVM_SET_MSRS, &msrs) != (int)msrs.head.nmsrs)
		return dune_fail(errno, "KVM refuses ring 0 for a thread: %s", strerror(errno));
	take_counter(vcpu);
	vcpu->run->s.regs.sregs = sregs;
	thread->flushed = atomic_load(&dune_guest_flushes);
	return 0;
}

int dune_guest_start_processor(struct dune_guest_thread *thread, uint64_t fs_base, uint64_t gs_base)
{
	fill_processor(thread, fs_base);
	return start_vcpu(thread, fs_base, gs_base);
}
