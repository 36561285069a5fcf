/*
 * machine.c - opening KVM, the one machine of the process, and what becomes of it in the children of a fork.  See machine.h.
 * Source: Linux Documentation/virt/kvm/api.rst.
 */
#define _GNU_SOURCE
#include "kvm/machine_parts.h"
#include "kvm/vcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static _Thread_local char failure[512];

int dune_fail(int error, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(failure, sizeof failure, format, arguments);
	va_end(arguments);
	errno = error;
	return -1;
}

const char *dune_error(void)
{
	return failure[0] ? failure : "no failure";
}

/* ---- opening --------------------------------------------------------------------------------------- */

static int explain_open_failure(void)
{
	int error = errno;
	struct stat status;
	if (error == EACCES && stat("/dev/kvm", &status) == 0)
		return dune_fail(error, "no permission for /dev/kvm (owner %u, group %u, mode %03o): %s",
				 (unsigned)status.st_uid, (unsigned)status.st_gid, (unsigned)status.st_mode & 0777,
				 (status.st_mode & 060) == 060 ? "join that group (usermod -aG) and log in again" :
								 "have its owner allow you to read and write it");
	if (error == ENOENT)
		return dune_fail(error,
				 "there is no /dev/kvm: load kvm_amd or kvm_intel, switch virtualisation on in the "
				 "firmware, or give this machine nested virtualisation");
	return dune_fail(error, "cannot open /dev/kvm: %s", strerror(error));
}

static int require(const struct dune_machine *machine, int capability, const char *name)
{
	int has = ioctl(machine->vm, KVM_CHECK_EXTENSION, capability);
	if (has <= 0)
		return dune_fail(ENOTSUP, "this KVM lacks %s: a newer Linux kernel is needed", name);
	return has;
}

static void read_cpuid(struct dune_machine *machine)
{
	struct dune_host *host = &machine->host;
	const struct kvm_cpuid2 *cpuid = machine->cpuid;
	host->physical_bits = 36;
	for (unsigned i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
		if (entry->function == 0) {
			memcpy(host->vendor, &entry->ebx, 4);
			memcpy(host->vendor + 4, &entry->edx, 4);
			memcpy(host->vendor + 8, &entry->ecx, 4);
		} else if (entry->function == 1) {
			host->pcid = entry->ecx >> 17 & 1;
			machine->os_xsave = entry->ecx >> 26 & 1;
		} else if (entry->function == 7 && entry->index == 0) {
			host->smep = entry->ebx >> 7 & 1;
			host->invpcid = entry->ebx >> 10 & 1;
			host->smap = entry->ebx >> 20 & 1;
			host->umip = entry->ecx >> 2 & 1;
		} else if (entry->function == 0xd && entry->index == 0) {
			host->vector_components = (uint64_t)entry->edx << 32 | entry->eax;
		} else if (entry->function == 0x80000008) {
			host->physical_bits = entry->eax & 0xff;
		}
	}
}

int dune_machine_new_vm(const struct dune_machine *machine)
{
	int vm;
	do /* a second one is made while sthreads live, whose timers kick this thread */
		vm = ioctl(machine->kvm, KVM_CREATE_VM, 0);
	while (vm < 0 && errno == EINTR);
	if (vm < 0)
		return dune_fail(errno, "KVM cannot make a virtual machine: %s", strerror(errno));
	struct kvm_enable_cap quirk = { .cap = KVM_CAP_DISABLE_QUIRKS2, .args = { KVM_X86_QUIRK_FIX_HYPERCALL_INSN } };
	int quirks = ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2);
	if (quirks > 0 && quirks & KVM_X86_QUIRK_FIX_HYPERCALL_INSN && ioctl(vm, KVM_ENABLE_CAP, &quirk) != 0) {
		dune_fail(errno, "KVM refused to stop patching hypercalls: %s", strerror(errno));
		close(vm);
		return -1;
	}
	ioctl(vm, KVM_SET_NR_MMU_PAGES, 1ul << 18); /* a wish; two-dimensional paging does not care */
	return vm;
}

static int open_kvm(struct dune_machine *machine)
{
	machine->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (machine->kvm < 0)
		return explain_open_failure();
	if (ioctl(machine->kvm, KVM_GET_API_VERSION, 0) != 12)
		return dune_fail(ENOTSUP, "/dev/kvm does not speak version 12 of KVM's interface");
	machine->vm = dune_machine_new_vm(machine);
	if (machine->vm < 0)
		return -1;
	int sync = require(machine, KVM_CAP_SYNC_REGS, "KVM_CAP_SYNC_REGS");
	int slots = require(machine, KVM_CAP_NR_MEMSLOTS, "KVM_CAP_NR_MEMSLOTS");
	int cpus = require(machine, KVM_CAP_MAX_VCPUS, "KVM_CAP_MAX_VCPUS");
	if (sync < 0 || slots < 0 || cpus < 0 ||
	    require(machine, KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT") < 0 ||
	    require(machine, KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM") < 0)
		return -1;
	int wanted = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
	if ((sync & wanted) != wanted)
		return dune_fail(ENOTSUP, "this KVM cannot share registers (KVM_CAP_SYNC_REGS is %d)", sync);
	machine->slots_max = slots;
	machine->host.processors_max = cpus;
	if (ioctl(machine->vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE) > 0) {
		int size = ioctl(machine->vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
		machine->has_xsave2_size = size > (int)sizeof(struct kvm_xsave);
		machine->vector_size = machine->has_xsave2_size ? (size_t)size : sizeof(struct kvm_xsave);
	}
	int size = ioctl(machine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	enum {
		CPUID_ENTRIES = 256
	};
	machine->cpuid = calloc(1, sizeof *machine->cpuid + CPUID_ENTRIES * sizeof machine->cpuid->entries[0]);
	if (size < 0 || !machine->cpuid)
		return dune_fail(ENOMEM, "out of memory");
	machine->run_size = size;
	machine->cpuid->nent = CPUID_ENTRIES;
	if (ioctl(machine->kvm, KVM_GET_SUPPORTED_CPUID, machine->cpuid) != 0)
		return dune_fail(errno, "KVM does not tell what it supports: %s", strerror(errno));
	read_cpuid(machine);
	if (machine->host.physical_bits < 38)
		return dune_fail(ENOTSUP, "guest-physical addresses of %u bits are too small: 38 are needed",
				 machine->host.physical_bits);
	return 0;
}

/* Starts the machine in memory that is reserved. */
static int start(struct dune_machine *machine)
{
	if (dune_arena_back(machine, &machine->table_arena, machine->table_arena.chunk) != 0)
		return -1;
	/* A wish: both are used densely, from the beginning. */
	madvise(machine->frames.host, machine->frames.size, MADV_HUGEPAGE);
	madvise(machine->table_arena.host, machine->table_arena.size, MADV_HUGEPAGE);
	machine->tables = (struct dune_tables){ .host = machine->table_arena.host,
						.physical = machine->table_arena.physical,
						.size = machine->table_arena.backed };
	return dune_machine_lay_out_monitor(machine) == 0 && dune_machine_probe(machine) == 0 ? 0 : -1;
}

static void close_machine(struct dune_machine *machine)
{
	const struct dune_arena *arenas[] = { &machine->frames, &machine->tags, &machine->image,
					      &machine->table_arena };
	if (machine->vm >= 0)
		close(machine->vm);
	if (machine->kvm >= 0)
		close(machine->kvm);
	for (unsigned i = 0; i < sizeof arenas / sizeof *arenas; i++)
		if (arenas[i]->host)
			munmap(arenas[i]->host, arenas[i]->size);
	if (machine->window)
		munmap((void *)machine->window, machine->window_size);
	free(machine->cpuid);
	free(machine->free_frames);
	free(machine->ranges);
	free(machine->regions);
	free(machine->direct_records);
	free(machine);
}

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static struct dune_machine *the_machine;
static struct dune_machine
	*inherited; /* in the child of a fork, until it makes its own: what is left of the parent's */

static struct dune_machine *open_new(void)
{
	struct dune_machine *machine = calloc(1, sizeof *machine);
	if (!machine) {
		dune_fail(ENOMEM, "out of memory");
		return NULL;
	}
	machine->kvm = machine->vm = -1;
	if (open_kvm(machine) == 0 && dune_machine_reserve(machine) == 0 && start(machine) == 0)
		return machine;
	int error = errno;
	dune_vcpus_forget();
	close_machine(machine);
	errno = error;
	return NULL;
}

/* ---- fork ------------------------------------------------------------------------------------------ */

static int handlers_error;

int dune_machine_keep(struct dune_machine *machine, size_t start, size_t end)
{
	if (madvise(machine->frames.host + start, end - start, MADV_DOFORK) != 0 ||
	    madvise(machine->image.host, machine->image.size, MADV_DOFORK) != 0)
		return dune_fail(errno, "cannot let children inherit the snapshot: %s", strerror(errno));
	machine->kept_start = start;
	machine->kept_end = end;
	return 0;
}

/* The parts of the arenas that a child does not have. */
struct hole {
	uint8_t *at;
	size_t size;
};
enum {
	HOLES = 4
};

static void find_holes(const struct dune_machine *machine, struct hole holes[HOLES])
{
	uint8_t *frames = machine->frames.host;
	holes[0] = (struct hole){ machine->table_arena.host, machine->table_arena.size };
	holes[1] = (struct hole){ frames, machine->kept_start };
	holes[2] = (struct hole){ frames + machine->kept_end, machine->frames.size - machine->kept_end };
	holes[3] = (struct hole){ machine->tags.host, machine->tags.size };
}

/* Closes what is open, and makes the holes empty reservations: nothing else may come to lie there, and a pointer into
 * the parent's tags must fault.  how: MAP_FIXED or MAP_FIXED_NOREPLACE. */
static void let_go(struct dune_machine *machine, int how)
{
	struct hole holes[HOLES];
	dune_vcpus_forget();
	close(machine->vm);
	close(machine->kvm);
	machine->vm = machine->kvm = -1;
	find_holes(machine, holes);
	for (unsigned i = 0; i < HOLES; i++) {
		void *at = holes[i].at;
		if (holes[i].size &&
		    mmap(at, holes[i].size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | how, -1, 0) != at)
			machine->unusable = true;
	}
}

/* Makes a machine of the child's own around what it has inherited, at the same addresses. */
static int open_again(struct dune_machine *machine)
{
	struct hole holes[HOLES];
	struct dune_arena *arenas[] = { &machine->frames, &machine->tags, &machine->image, &machine->table_arena };
	if (machine->unusable)
		return dune_fail(ENOMEM, "something else lies where this child of a fork needs its memory");
	find_holes(machine, holes);
	for (unsigned i = 0; i < HOLES; i++) {
		madvise(holes[i].at, holes[i].size, MADV_DONTFORK);
		madvise(holes[i].at, holes[i].size, MADV_DONTDUMP);
	}
	for (unsigned i = 0; i < sizeof arenas / sizeof *arenas; i++)
		arenas[i]->backed = 0;
	machine->next_slot = 0;
	machine->slot_added = NULL;
	machine->mirror = NULL;
	machine->processor_count = 0;
	free(machine->direct_records);
	machine->direct_records = NULL;
	machine->direct = NULL;
	machine->frames_used = machine->kept_end; /* what is before the kept part stays unused */
	machine->free_count = 0;
	machine->host = (struct dune_host){ 0 };
	free(machine->cpuid);
	machine->cpuid = NULL;
	if (open_kvm(machine) == 0 && start(machine) == 0 && dune_ranges_add_again(machine) == 0)
		return 0;
	int error = errno;
	let_go(machine, MAP_FIXED);
	errno = error;
	return -1;
}

static void before_fork(void)
{
	pthread_mutex_lock(&opening);
	dune_vcpus_lock();
	dune_slots_lock(); /* in this order: virtual CPUs are made of frames */
}

static void after_fork_in_parent(void)
{
	dune_slots_unlock();
	dune_vcpus_unlock();
	pthread_mutex_unlock(&opening);
}

static void after_fork_in_child(void)
{
	struct dune_machine *machine = the_machine;
	after_fork_in_parent(); /* this thread holds the locks */
	if (!machine)
		return;
	the_machine = NULL;
	if (machine->kept_end) {
		let_go(machine, MAP_FIXED_NOREPLACE);
		inherited = machine;
		return;
	}
	dune_vcpus_forget();
	close(machine->vm);
	close(machine->kvm);
	munmap((void *)machine->window, machine->window_size);
	free(machine->ranges);
	free(machine->regions);
	free(machine->cpuid);
	free(machine->free_frames);
	free(machine->direct_records);
	free(machine);
}

static void install_handlers(void)
{
	handlers_error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

struct dune_machine *dune_machine_get(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct dune_machine *machine = __atomic_load_n(&the_machine, __ATOMIC_ACQUIRE);
	if (machine)
		return machine;
	pthread_once(&once, install_handlers);
	if (handlers_error) {
		dune_fail(handlers_error, "out of memory");
		return NULL;
	}
	pthread_mutex_lock(&opening);
	if (!the_machine) {
		if (!inherited)
			machine = open_new();
		else if (open_again(inherited) == 0)
			machine = inherited;
		if (machine)
			inherited = NULL;
		__atomic_store_n(&the_machine, machine, __ATOMIC_RELEASE);
	}
	machine = the_machine;
	pthread_mutex_unlock(&opening);
	return machine;
}

int dune_probe(struct dune_host *host)
{
	const struct dune_machine *machine = dune_machine_get();
	if (!machine)
		return -1;
	*host = machine->host;
	return 0;
}
