/*
 * tables.c - which page tables ring 0 runs with, how entries in use are replaced, and how threads drop translations.
 *
 * A thread drops its own by itself.  The others are asked by a count, which each compares before its guest goes on; one whose
 * guest is running is taken out by a signal, the kick.
 */
#include "guest/guest.h"

#include <errno.h>
#include <string.h>

_Atomic uint64_t dune_guest_flushes;

static bool tags_used; /* somebody has loaded a root with a tag */

static const struct dune_host *host(void)
{
	return &dune_mirror->machine->host;
}

/* ---- other threads --------------------------------------------------------------------------------- */

int dune_guest_kick_signal(void)
{
	return dune_kick_signal() - 1;
}

static void on_kick(int number)
{
	(void)number;
	struct dune_guest_thread *self = dune_guest_self;
	if (self && atomic_load_explicit(&self->running, memory_order_relaxed))
		self->vcpu->run->immediate_exit = 1;
}

void dune_guest_install_kicks(void)
{
	struct sigaction kick = { .sa_handler = on_kick, .sa_flags = SA_RESTART };
	sigaction(dune_guest_kick_signal(), &kick, NULL);
}

/* take_kicks() in loop.c says why the counts. */
static void kick(struct dune_guest_thread *thread)
{
	atomic_fetch_add(&thread->kicks, 1);
	if (atomic_load(&thread->running))
		dune_system_call(SYS_tgkill, thread->process, thread->id, dune_guest_kick_signal(), 0, 0, 0);
	atomic_fetch_add(&thread->kicks_sent, 1);
}

static void shoot_down_one(struct dune_guest_thread *thread, void *argument)
{
	uint64_t wanted = atomic_load(&dune_guest_flushes);
	if (thread == argument || !atomic_load(&thread->entered))
		return;
	for (unsigned tries = 0; atomic_load(&thread->running) && atomic_load(&thread->flushed) < wanted; tries++)
		if (tries % 4096 == 0)
			kick(thread);
		else if (tries % 64 == 0)
			dune_system_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
		else
			__builtin_ia32_pause();
}

void dune_guest_shoot_down(struct dune_guest_thread *self)
{
	uint64_t wanted = atomic_fetch_add(&dune_guest_flushes, 1) + 1;
	if (self)
		atomic_compare_exchange_strong(&self->flushed, &(uint64_t){ wanted - 1 }, wanted);
	dune_guest_every(shoot_down_one, self);
}

/* ---- this virtual CPU ------------------------------------------------------------------------------ */

static unsigned long read_root(void)
{
	unsigned long cr3;
	__asm__ volatile("movq %%cr3, %0" : "=r"(cr3)::"memory");
	return cr3;
}

static void write_root(unsigned long cr3)
{
	__asm__ volatile("movq %0, %%cr3" ::"r"(cr3) : "memory");
}

unsigned long dune_guest_read_cr3(void)
{
	return dune_guest_entered() ? read_root() : (unsigned long)pgroot;
}

void dune_guest_load_cr3(unsigned long cr3)
{
	if (!dune_guest_entered()) {
		dune_printf("dune: load_cr3(): this thread is not in Dune mode: dune_enter() comes first\n");
		dune_die();
	}
	if (!dune_page_isfrompool(PTE_ADDR(cr3))) { /* KVM would try for ever to find the page-fault handler in it */
		dune_printf("dune: load_cr3(): 0x%lx is no address space: pass pgroot, or what dune_vm_clone() "
			    "returned\n",
			    cr3);
		dune_die();
	}
	if (!host()->pcid) {
		cr3 = PTE_ADDR(cr3);
	} else if (cr3 & CR3_PCID_MASK) {
		tags_used = true;
		if (dune_guest_take_tag(dune_guest_self, cr3 & CR3_PCID_MASK))
			cr3 &= ~CR3_NOFLUSH; /* what is cached under it is a compartment's */
	}
	write_root(cr3);
}

static void flush_one(unsigned long address)
{
	__asm__ volatile("invlpg (%0)" ::"r"(address) : "memory");
}

static void flush(void)
{
	write_root(read_root());
}

/* Translations of this virtual CPU: a thread in host mode has none. */
void dune_guest_flush_one(unsigned long address)
{
	if (dune_guest_entered())
		flush_one(address);
}

void dune_guest_flush(void)
{
	if (dune_guest_entered())
		flush();
}

void dune_guest_invpcid(int mode, unsigned pcid, unsigned long address)
{
	if (!dune_guest_entered())
		return;
	const struct {
		uint64_t pcid, address;
	} operand = { pcid, address };
	if (host()->invpcid && host()->pcid)
		__asm__ volatile("invpcid %0, %1" ::"m"(operand), "r"((uint64_t)mode) : "memory");
	else if (host()->pcid)
		dune_flush_tlb_all();
	else
		flush();
}

static void flush_here(void)
{
	enum {
		ALL = 2
	};
	if (tags_used && host()->invpcid)
		dune_guest_invpcid(ALL, 0, 0);
	else
		flush();
}

void dune_guest_flush_all(void)
{
	struct dune_guest_thread *self = dune_guest_entered() ? dune_guest_self : NULL;
	if (self) {
		if (tags_used && !host()->invpcid) /* this one too: by the host side, when it next runs */
			self = NULL;
		else
			flush_here();
	}
	dune_guest_shoot_down(self);
}

/* ---- replacing entries ----------------------------------------------------------------------------- */

int dune_guest_replace_on_host(struct dune_guest_thread *thread, const struct dune_space_edit *edits, size_t count)
{
	struct kvm_run *run = thread->vcpu->run;
	const struct kvm_regs registers = run->s.regs.regs;
	const struct kvm_sregs sregs = run->s.regs.sregs;
	const uint64_t dirty = run->kvm_dirty_regs;
	int result = dune_mirror_exchange(thread->vcpu, edits, count);
	run->s.regs.regs = registers;
	run->s.regs.sregs = sregs;
	memset(run->s.regs.sregs.interrupt_bitmap, 0, sizeof sregs.interrupt_bitmap);
	run->kvm_dirty_regs = dirty | KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	dune_guest_shoot_down(NULL);
	return result;
}

int dune_guest_replace(ptent_t *root, const struct dune_space_edit *edits, size_t count)
{
	struct dune_guest_thread *self = dune_guest_self;
	if (!dune_guest_entered()) {
		if (self && atomic_load(&self->entered)) {
			int saved = errno;
			int result = dune_guest_replace_on_host(self, edits, count);
			errno = saved;
			return result;
		}
		/* A thread in host mode: its own virtual CPU writes. */
		int result = dune_host_operations.replace(root, edits, count);
		dune_guest_shoot_down(NULL);
		return result;
	}
	bool one_by_one = PTE_ADDR(read_root()) == (uint64_t)root && !tags_used && count <= 32;
	for (size_t i = 0; i < count; i++) {
		dune_space_store(&edits[i]);
		if (edits[i].length > PGSIZE)
			one_by_one = false;
		if (one_by_one)
			flush_one(edits[i].address);
	}
	if (!one_by_one)
		flush_here();
	if ((tags_used && !host()->invpcid) || !dune_guest_alone(self))
		dune_guest_flush_all();
	return 0;
}
