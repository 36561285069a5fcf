/* init.c - choosing a placement, registering handlers, and the entry points that each placement implements. */
#include "placement/placement.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>

#include "kvm/machine.h"
#include "kvm/mirror.h"

const struct dune_placement_operations *dune_placement;
struct dune_handlers dune_handlers;

static pthread_mutex_t choosing = PTHREAD_MUTEX_INITIALIZER;
static enum dune_placement wanted;
static bool chosen; /* by dune_set_placement() */

static void read_environment(void)
{
	static const char *const names[] = {
		[DUNE_PLACEMENT_GUEST] = "guest", [DUNE_PLACEMENT_HOST] = "host", [DUNE_PLACEMENT_ANY] = "any"
	};
	const char *value = secure_getenv("DUNE_PLACEMENT");
	for (unsigned i = 0; value && i < sizeof names / sizeof *names; i++)
		if (strcmp(value, names[i]) == 0)
			wanted = i;
}

int dune_set_placement(enum dune_placement placement)
{
	int result = 0;
	if ((unsigned)placement > DUNE_PLACEMENT_ANY)
		return dune_fail(EINVAL, "there is no placement %d", (int)placement);
	pthread_mutex_lock(&choosing);
	if (dune_placement) {
		result = dune_fail(EBUSY, "the placement was chosen by dune_init() already");
	} else {
		wanted = placement;
		chosen = true;
	}
	pthread_mutex_unlock(&choosing);
	return result;
}

enum dune_placement dune_get_placement(void)
{
	if (dune_placement)
		return dune_placement->placement;
	pthread_mutex_lock(&choosing);
	if (!chosen)
		read_environment();
	enum dune_placement placement = wanted;
	pthread_mutex_unlock(&choosing);
	return placement;
}

static const struct dune_placement_operations *choose(void)
{
	const struct dune_machine *machine = dune_machine_get();
	if (!machine)
		return NULL;
	if (!chosen)
		read_environment();
	if (wanted == DUNE_PLACEMENT_HOST || (wanted == DUNE_PLACEMENT_ANY && !machine->host.ring0_native))
		return &dune_host_operations;
	if (machine->host.ring0_native)
		return &dune_guest_operations;
	dune_fail(ENOTSUP,
		  "this KVM interprets ring 0, so the process cannot live there: choose host placement "
		  "(dune_set_placement(), or DUNE_PLACEMENT=any in the environment), in which handlers, address "
		  "spaces and ring 3 work");
	return NULL;
}

int dune_init(bool map_full)
{
	(void)map_full;
	pthread_mutex_lock(&choosing);
	int result = 0;
	if (!dune_placement) {
		const struct dune_placement_operations *operations = choose();
		result = operations ? dune_mirror_open() : -1;
		if (result == 0)
			__atomic_store_n(&dune_placement, operations, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&choosing);
	return result;
}

int dune_enter(void)
{
	if (!dune_placement)
		return dune_fail(EINVAL, "dune_init() comes first");
	if (dune_placement->entered())
		return dune_fail(EALREADY, "this thread is in Dune mode already");
	return dune_placement->enter();
}

int dune_leave(void)
{
	if (!dune_placement || !dune_placement->entered())
		return dune_fail(EINVAL, "this thread is not in Dune mode");
	return dune_placement->leave();
}

bool dune_in_guest(void)
{
	return dune_placement && dune_placement->placement == DUNE_PLACEMENT_GUEST && dune_placement->entered();
}

/* ---- handlers -------------------------------------------------------------------------------------- */

int dune_register_intr_handler(int vector, dune_intr_cb callback)
{
	if (vector < 0 || vector >= IDT_ENTRIES || vector == T_NMI || vector == T_DBLFLT || vector == T_MCHK ||
	    vector == DUNE_EVENT_VECTOR)
		return dune_fail(EINVAL, "vector %d cannot have a handler", vector);
	__atomic_store_n(&dune_handlers.interrupt[vector], callback, __ATOMIC_RELEASE);
	return 0;
}

void dune_register_pgflt_handler(dune_pgflt_cb callback)
{
	__atomic_store_n(&dune_handlers.page_fault, callback, __ATOMIC_RELEASE);
}

void dune_register_syscall_handler(dune_syscall_cb callback)
{
	__atomic_store_n(&dune_handlers.system_call, callback, __ATOMIC_RELEASE);
}

/* ---- passed on ------------------------------------------------------------------------------------- */

int dune_jump_to_user(struct dune_tf *tf)
{
	if (!dune_placement || !dune_placement->entered())
		return dune_fail(EPERM, "this thread is not in Dune mode: dune_enter() comes first");
	return dune_placement->jump_to_user(tf);
}

void dune_ret_from_user(int result)
{
	if (!dune_placement) {
		dune_printf("dune: dune_ret_from_user(): dune_init() comes first\n");
		dune_die();
	}
	dune_placement->ret_from_user(result);
}

unsigned long dune_get_user_fs(void)
{
	return dune_placement->get_user_fs();
}

void dune_set_user_fs(unsigned long fs_base)
{
	dune_placement->set_user_fs(fs_base);
}

void load_cr3(unsigned long cr3)
{
	dune_placement->load_cr3(cr3);
}

unsigned long read_cr3(void)
{
	return dune_placement->read_cr3();
}

void dune_flush_tlb_one(unsigned long address)
{
	dune_placement->flush_one(address);
}

void dune_flush_tlb(void)
{
	dune_placement->flush();
}

void dune_flush_tlb_all(void)
{
	dune_placement->flush_all();
}

void dune_invpcid(int mode, unsigned pcid, unsigned long address)
{
	dune_placement->invpcid(mode, pcid, address);
}

int dune_get_counters(struct dune_counters *counters)
{
	if (!dune_placement || !dune_placement->entered())
		return dune_fail(EINVAL, "this thread is not in Dune mode");
	return dune_placement->counters(counters);
}

uintptr_t dune_va_to_pa(void *address)
{
	return dune_mirror_physical(address);
}
