/*
 * tables.c - which page tables ring 3 runs with, and how entries in use are replaced.
 *
 * Entries that may be in use are replaced by the monitor, in ring 0 of the calling thread's virtual CPU, because a KVM
 * that shadows page tables does not see stores made from here.  Then every virtual CPU that runs with that root is taken
 * out, and none goes in again before it has dropped its translations: each remembers the count of changes (`changes`)
 * that it knows of.
 */
#define _GNU_SOURCE
#include "host/host.h"
#include "placement/system_call.h"
#include "vm/space.h"

#include <errno.h>
#include <string.h>

static _Atomic uint64_t changes = 1;

/* ---- the thread's own ------------------------------------------------------------------------------ */

static bool shadowed(void)
{
	return dune_mirror && dune_mirror->machine->host.shadow_paging;
}

/* The virtual CPU drops its translations before it runs ring 3 again. */
static void reload(struct dune_host_thread *self)
{
	self->vcpu->generation = UINT64_MAX;
}

void dune_host_use_root(struct dune_host_thread *self, struct dune_context *context)
{
	context->root = atomic_load(&self->root);
	context->generation = atomic_load(&changes);
	atomic_store(&self->loaded, context->generation);
}

void dune_host_load_cr3(unsigned long cr3)
{
	struct dune_host_thread *self = dune_host_self;
	if (!self)
		return;
	uintptr_t root = PTE_ADDR(cr3);
	bool again = root == atomic_load(&self->root);
	self->cr3 = cr3;
	atomic_store(&self->root, root);
	if (again && !(cr3 & CR3_NOFLUSH)) /* what is that for, if not to flush */
		dune_host_flush();
}

unsigned long dune_host_read_cr3(void)
{
	return dune_host_self ? dune_host_self->cr3 & ~CR3_NOFLUSH : (unsigned long)pgroot;
}

/* Entries on the way to address, whatever they are: edits[i].entry. */
static size_t find_path(uintptr_t root, uintptr_t address, struct dune_edit *edits)
{
	size_t count = 0;
	const ptent_t *table = (const ptent_t *)root;
	for (int level = NPTLVLS; level >= 0; level--) {
		const ptent_t *entry = table + PDX(level, address);
		ptent_t value = __atomic_load_n(entry, __ATOMIC_ACQUIRE);
		edits[count++].entry = (uintptr_t)entry;
		if (!(value & PTE_P) || value & PTE_PS || value & DUNE_PTE_SHARED)
			break;
		table = (const ptent_t *)PTE_ADDR(value);
	}
	return count;
}

void dune_host_flush_one(unsigned long address)
{
	struct dune_host_thread *self = dune_host_self;
	if (!self)
		return;
	if (shadowed() && address < DUNE_USER_END) {
		struct dune_vcpu *vcpu = self->vcpu;
		dune_space_lock(); /* no table on the way goes away */
		size_t count = find_path(atomic_load(&self->root), address, vcpu->area->edits);
		int failed = dune_vcpu_monitor(vcpu, dune_monitor_refresh, count, vcpu->edit_root);
		dune_space_unlock();
		if (failed)
			dune_mirror_drop_shadows();
	}
	reload(self);
}

void dune_host_flush(void)
{
	if (!dune_host_self)
		return;
	if (shadowed())
		dune_mirror_drop_shadows();
	reload(dune_host_self);
}

void dune_host_invpcid(int mode, unsigned pcid, unsigned long address)
{
	(void)pcid; /* no tags are in use */
	if (mode == 0)
		dune_host_flush_one(address);
	else
		dune_host_flush();
}

/* ---- all threads ----------------------------------------------------------------------------------- */

struct change {
	uint64_t number;
	uintptr_t root; /* 0: all */
};

/* Waits until the thread's virtual CPU has left the guest, or knows of the change. */
static void shake_off(struct dune_host_thread *thread, void *argument)
{
	const struct change *change = argument;
	struct dune_vcpu *vcpu = thread->vcpu;
	if (thread == dune_host_self || (change->root && atomic_load(&thread->root) != change->root))
		return;
	/* One that is about to go in comes out at once; one that is in has to be kicked. */
	unsigned kicks = atomic_load(&vcpu->kicks);
	atomic_store(&vcpu->kicked, true);
	dune_vcpu_kick(vcpu);
	while (atomic_load(&vcpu->running) && atomic_load(&thread->loaded) < change->number &&
	       atomic_load(&vcpu->kicks) == kicks)
		dune_system_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

static void announce(uintptr_t root)
{
	struct change change = { .number = atomic_fetch_add(&changes, 1) + 1, .root = root };
	dune_host_threads(shake_off, &change);
}

void dune_host_flush_all(void)
{
	if (shadowed())
		dune_mirror_drop_shadows();
	announce(0);
}

/* From here, for a thread that can have no virtual CPU: right because all shadows go afterwards. */
static int replace_from_outside(const struct dune_space_edit *edits, size_t count)
{
	for (size_t i = 0; i < count; i++)
		dune_space_store(&edits[i]);
	return shadowed() && dune_mirror_drop_shadows() != 0 ? -1 : 0;
}

int dune_host_replace(ptent_t *root, const struct dune_space_edit *edits, size_t count)
{
	int result;
	if (!dune_mirror) { /* a child of fork() that has not entered: nobody uses them */
		for (size_t i = 0; i < count; i++)
			dune_space_store(&edits[i]);
		return 0;
	}
	struct dune_vcpu *vcpu = NULL;
	if (shadowed())
		vcpu = dune_vcpu_get_mirror(dune_mirror->machine);
	result = vcpu ? dune_mirror_exchange(vcpu, edits, count) : replace_from_outside(edits, count);
	announce((uintptr_t)root);
	return result;
}
