/* machine.c - see machine.h.  Sources: Linux Documentation/virt/kvm/api.rst; AMD64 APM vol. 2; Intel SDM vol. 3. */
#define _GNU_SOURCE
#include "kvm/machine.h"
#include "guest/layout.h"
#include "kvm/vcpu.h"

#include <cpuid.h>
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

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

/* Guest-physical layout: small enough for 38 bits, equal to the host's addresses modulo 2 MiB. */
enum {
	TABLES_AT = 4,
	IMAGE_AT = 8,
	FRAMES_AT = 16,
	TAGS_AT = 80,
	RANGES_AT = 144,
	PHYSICAL_END = 160 /* GiB */
};

extern const uint8_t dune_local_begin[], dune_local_end[]; /* guest/compartment.S, as data */

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

/* ---- memory ---------------------------------------------------------------------------------------- */

static int reserve(struct dune_arena *arena, uint64_t physical, uint64_t size, uint64_t chunk, uint32_t flags)
{
	uint8_t *at = mmap(NULL, size + 2 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return dune_fail(ENOMEM, "cannot reserve %llu MiB of address space: raise the limit (ulimit -v)",
				 (unsigned long long)(size / MIB));
	uint64_t skip = -(uintptr_t)at & (2 * MIB - 1);
	if (skip)
		munmap(at, skip);
	munmap(at + skip + size, 2 * MIB - skip);
	*arena = (struct dune_arena){
		.host = at + skip, .physical = physical, .size = size, .chunk = chunk, .flags = flags
	};
	madvise(arena->host, size, MADV_DONTFORK);
	madvise(arena->host, size, MADV_DONTDUMP);
	return 0;
}

static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER; /* of the list of slots, and who follows it */

/* Room for one more entry in the list of slots. */
static int grow_regions(struct dune_machine *machine)
{
	if (machine->next_slot < machine->region_room)
		return 0;
	unsigned room = machine->region_room ? 2 * machine->region_room : 64;
	struct kvm_userspace_memory_region *grown = realloc(machine->regions, room * sizeof *grown);
	if (!grown)
		return dune_fail(ENOMEM, "out of memory");
	machine->regions = grown;
	machine->region_room = room;
	return 0;
}

static int set_slot_locked(struct dune_machine *machine, const uint8_t *host, uint64_t physical, size_t size,
			   uint32_t flags)
{
	if (machine->next_slot == machine->slots_max)
		return dune_fail(ENOSPC, "KVM has no memory slot left (%u)", machine->slots_max);
	if (grow_regions(machine) != 0)
		return -1;
	struct kvm_userspace_memory_region region = {
		.slot = machine->next_slot,
		.flags = flags,
		.guest_phys_addr = physical,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};
	if (ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region) != 0)
		return dune_fail(ENOMEM, "KVM refused a memory slot: %s", strerror(errno));
	if (machine->slot_added && machine->slot_added(&region) != 0) {
		int error = errno;
		region.memory_size = 0;
		ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region);
		errno = error;
		return -1;
	}
	machine->regions[machine->next_slot++] = region;
	return 0;
}

static int set_slot(struct dune_machine *machine, const uint8_t *host, uint64_t physical, size_t size, uint32_t flags)
{
	pthread_mutex_lock(&slots_lock);
	int result = set_slot_locked(machine, host, physical, size, flags);
	pthread_mutex_unlock(&slots_lock);
	return result;
}

int dune_machine_follow_slots(struct dune_machine *machine,
			      int (*added)(const struct kvm_userspace_memory_region *region))
{
	int result = 0;
	pthread_mutex_lock(&slots_lock);
	for (unsigned i = 0; i < machine->next_slot && result == 0; i++)
		result = added(&machine->regions[i]);
	if (result == 0)
		machine->slot_added = added;
	pthread_mutex_unlock(&slots_lock);
	return result;
}

int dune_arena_back(struct dune_machine *machine, struct dune_arena *arena, size_t bytes)
{
	while (arena->backed < bytes) {
		if (arena->backed + arena->chunk > arena->size)
			return dune_fail(ENOMEM, "the pool of guest memory is used up (%zu MiB)", arena->size >> 20);
		if (!(arena->flags & KVM_MEM_READONLY) &&
		    mprotect(arena->host + arena->backed, arena->chunk, PROT_READ | PROT_WRITE) != 0)
			return dune_fail(ENOMEM, "cannot make memory usable: %s", strerror(errno));
		if (set_slot(machine, arena->host + arena->backed, arena->physical + arena->backed, arena->chunk,
			     arena->flags) != 0)
			return -1;
		arena->backed += arena->chunk;
	}
	return 0;
}

int dune_tables_reserve(struct dune_machine *machine, size_t pages)
{
	size_t wanted = machine->tables.used + pages * DUNE_PAGE_SIZE;
	if (wanted <= machine->tables.size)
		return 0;
	if (dune_arena_back(machine, &machine->table_arena, wanted) != 0)
		return -1;
	machine->tables.size = machine->table_arena.backed;
	return 0;
}

uint64_t dune_range_add(struct dune_machine *machine, void *host, size_t size)
{
	const struct dune_arena *last = machine->range_count ? &machine->ranges[machine->range_count - 1] : NULL;
	uint64_t from = last ? last->physical + last->size : RANGES_AT * GIB;
	uint64_t physical = from + (((uintptr_t)host - from) & (2 * MIB - 1)); /* equal to host modulo 2 MiB */
	if (physical + size > PHYSICAL_END * GIB) {
		dune_fail(ENOMEM, "no guest-physical addresses left");
		return 0;
	}
	struct dune_arena *grown = realloc(machine->ranges, (machine->range_count + 1) * sizeof *grown);
	if (!grown) {
		dune_fail(ENOMEM, "out of memory");
		return 0;
	}
	machine->ranges = grown;
	if (set_slot(machine, host, physical, size, 0) != 0)
		return 0;
	machine->ranges[machine->range_count++] =
		(struct dune_arena){ .host = host, .physical = physical, .size = size, .backed = size };
	return physical;
}

uint64_t dune_frames_fresh(struct dune_machine *machine, size_t count)
{
	size_t bytes = count * DUNE_PAGE_SIZE;
	if (dune_arena_back(machine, &machine->frames, machine->frames_used + bytes) != 0)
		return 0;
	uint64_t frame = machine->frames.physical + machine->frames_used;
	machine->frames_used += bytes;
	return frame;
}

uint64_t dune_frame_new(struct dune_machine *machine)
{
	if (!machine->free_count)
		return dune_frames_fresh(machine, 1);
	uint64_t frame = machine->free_frames[--machine->free_count];
	memset(dune_physical_at(machine, frame), 0, DUNE_PAGE_SIZE);
	return frame;
}

void dune_frame_free(struct dune_machine *machine, uint64_t frame)
{
	if (machine->free_count == machine->free_room) {
		size_t room = machine->free_room ? 2 * machine->free_room : 1024;
		uint64_t *grown = realloc(machine->free_frames, room * sizeof *grown);
		if (!grown)
			return; /* the frame is lost, which is safe */
		machine->free_frames = grown;
		machine->free_room = room;
	}
	machine->free_frames[machine->free_count++] = frame;
}

void *dune_physical_at(const struct dune_machine *machine, uint64_t physical)
{
	const struct dune_arena *arenas[] = { &machine->frames, &machine->tags, &machine->image,
					      &machine->table_arena };
	for (unsigned i = 0; i < sizeof arenas / sizeof *arenas; i++)
		if (physical - arenas[i]->physical < arenas[i]->backed)
			return arenas[i]->host + (physical - arenas[i]->physical);
	for (unsigned i = 0; i < machine->range_count; i++)
		if (physical - machine->ranges[i].physical < machine->ranges[i].size)
			return machine->ranges[i].host + (physical - machine->ranges[i].physical);
	return NULL;
}

/* ---- the monitor's pages --------------------------------------------------------------------------- */

/* Fills the entry of the shared GiB at window + offset. */
static int map_shared(struct dune_machine *machine, uint64_t offset, uint64_t frame, uint64_t bits)
{
	uint64_t *entry = dune_tables_entry(&machine->tables, machine->edit_root, machine->window + offset, true);
	if (!entry)
		return dune_fail(ENOMEM, "no page-table page left");
	*entry = frame | bits | DUNE_PTE_PRESENT;
	return 0;
}

static uint64_t in_window(const struct dune_machine *machine, uint64_t offset, const uint8_t *begin,
			  const uint8_t *symbol)
{
	return machine->window + offset + (symbol - begin);
}

/* The gate to the vector's stub; stack: 0 for RSP0, 1 for IST1. */
static void fill_gate(const struct dune_machine *machine, uint64_t *idt, unsigned vector, uint64_t privilege,
		      uint64_t stack)
{
	dune_gate_fill(idt, vector, machine->window + WINDOW_MONITOR + vector * VECTOR_STUB_SIZE, privilege, stack);
}

/* The IDT of compartments that ring 0 of the guest placement runs (guest/compartment.S). */
static void fill_local_gates(const struct dune_machine *machine, uint64_t *idt)
{
	uint64_t stub = machine->window + WINDOW_LOCAL_CODE;
	for (unsigned i = 0; i < LOCAL_STUBS; i++, stub += LOCAL_STUB_SIZE) {
		unsigned vector = i == LOCAL_STUBS - 1 ? GUEST_VECTOR_EVENT : i;
		dune_gate_fill(idt, vector, stub, vector == 3 || vector == VECTOR_SERVICE ? 3 : 0, 1);
	}
}

void dune_machine_use_fxsave(struct dune_machine *machine)
{
	machine->host.xsave = false;
	machine->trampoline_enter =
		in_window(machine, WINDOW_TRAMPOLINE, dune_trampoline_begin, dune_trampoline_enter_fxsave);
	machine->trampoline_resume_clean =
		in_window(machine, WINDOW_TRAMPOLINE, dune_trampoline_begin, dune_trampoline_resume_clean_fxsave);
	machine->trampoline_enter_direct =
		in_window(machine, WINDOW_TRAMPOLINE, dune_trampoline_begin, dune_trampoline_enter_direct_fxsave);
	machine->trampoline_direct_done =
		in_window(machine, WINDOW_TRAMPOLINE, dune_trampoline_begin, dune_trampoline_direct_done_fxsave);
	machine->trampoline_direct_store =
		in_window(machine, WINDOW_TRAMPOLINE, dune_trampoline_begin, dune_trampoline_direct_store_fxsave);
}

void dune_machine_use_gate(struct dune_machine *machine)
{
	machine->host.exit_path = DUNE_EXIT_GATE;
	machine->trampoline_service =
		in_window(machine, WINDOW_TRAMPOLINE, dune_trampoline_begin, dune_trampoline_service_gate);
	fill_gate(machine, machine->idt, VECTOR_SERVICE, 3, 0);
}

static void fill_descriptors(const struct dune_machine *machine, uint64_t *idt, uint64_t *gdt)
{
	gdt[SELECTOR_KERNEL_CODE / 8] = 0x00af9b000000ffff; /* present, DPL 0, code, 64-bit, accessed */
	gdt[SELECTOR_KERNEL_DATA / 8] = 0x00cf93000000ffff;
	gdt[SELECTOR_USER_DATA / 8] = 0x00cff3000000ffff; /* DPL 3 */
	gdt[SELECTOR_USER_CODE / 8] = 0x00affb000000ffff;
	for (unsigned vector = 0; vector < VECTOR_EXCEPTIONS; vector++) {
		enum {
			DEBUG = 1, /* in ring 0 RSP is the compartment's: nothing may be pushed there */
			BREAKPOINT = 3,
			NMI = 2,
			DOUBLE_FAULT = 8,
			MACHINE_CHECK = 18
		};
		fill_gate(machine, idt, vector, vector == BREAKPOINT ? 3 : 0,
			  vector == DEBUG || vector == NMI || vector == DOUBLE_FAULT || vector == MACHINE_CHECK);
	}
}

/* Pages that XRSTOR may touch, whatever it has to load: it looks at the last byte of the image for all components that the
 * processor has enabled (Intel SDM vol. 1, 13.4.2; CPUID 0xd gives the size), more than a page with AVX-512 and AMX. */
static unsigned clean_state_pages(void)
{
	enum {
		XSAVE_LEAF = 0xd
	};
	unsigned a, size = 0, c, d;
	__get_cpuid_count(XSAVE_LEAF, 0, &a, &size, &c, &d);
	return size ? (size + DUNE_PAGE_SIZE - 1) / DUNE_PAGE_SIZE : 1;
}

static int lay_out_monitor(struct dune_machine *machine)
{
	enum {
		PAGES = 6, /* beside the clean vector state */
		STATE_PAGES_MAX = (WINDOW_LOCAL_CODE - WINDOW_CLEAN_STATE) / DUNE_PAGE_SIZE
	};
	unsigned state_pages = clean_state_pages();
	if (state_pages > STATE_PAGES_MAX)
		return dune_fail(ENOTSUP,
				 "this processor's vector state has %u pages, more than the %d there is room for",
				 state_pages, (int)STATE_PAGES_MAX);
	struct dune_tables *tables = &machine->tables;
	if (!(machine->edit_root = dune_tables_new(tables)) ||
	    !(machine->shared_directory = dune_tables_directory(tables, machine->edit_root, machine->window)))
		return dune_fail(ENOMEM, "no page-table page left");
	uint64_t code = dune_frames_fresh(machine, PAGES + state_pages);
	if (!code)
		return -1;
	uint64_t idt = code + DUNE_PAGE_SIZE, gdt = idt + DUNE_PAGE_SIZE;
	uint64_t trampoline = gdt + DUNE_PAGE_SIZE, local_code = trampoline + DUNE_PAGE_SIZE;
	uint64_t local_idt = local_code + DUNE_PAGE_SIZE, clean = local_idt + DUNE_PAGE_SIZE;
	memcpy(dune_physical_at(machine, code), dune_monitor_begin, dune_monitor_end - dune_monitor_begin);
	memcpy(dune_physical_at(machine, trampoline), dune_trampoline_begin,
	       dune_trampoline_end - dune_trampoline_begin);
	/* A clean vector state (Intel SDM vol. 1, 10.5.1 and 13.4): FCW at 0, MXCSR at 24, XSTATE_BV at 512. */
	uint8_t *state = dune_physical_at(machine, clean);
	memcpy(state, &(uint16_t){ 0x037f }, 2);
	memcpy(state + 24, &(uint32_t){ 0x1f80 }, 4);
	memcpy(dune_physical_at(machine, local_code), dune_local_begin, dune_local_end - dune_local_begin);
	fill_local_gates(machine, dune_physical_at(machine, local_idt));
	machine->idt = dune_physical_at(machine, idt);
	fill_descriptors(machine, machine->idt, dune_physical_at(machine, gdt));

	const uint8_t *begin = dune_trampoline_begin;
	machine->trampoline_enter = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_enter);
	machine->trampoline_syscall = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_syscall);
	machine->trampoline_resume = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_resume);
	machine->trampoline_resume_clean = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_resume_clean);
	machine->trampoline_enter_direct = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_enter_direct);
	machine->trampoline_direct_call = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_direct_call);
	machine->trampoline_direct_done = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_direct_done);
	machine->trampoline_direct_back = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_direct_back);
	machine->trampoline_direct_store = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_direct_store);
	machine->trampoline_time = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_time);
	machine->trampoline_clock = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_clock);
	machine->trampoline_day = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_day);
	machine->trampoline_counter = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_counter);
	machine->trampoline_touch = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_touch);
	machine->trampoline_call = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_call);
	machine->trampoline_service = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_service);
	machine->trampoline_random_copy = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_random_copy);
	machine->trampoline_random_end = in_window(machine, WINDOW_TRAMPOLINE, begin, dune_trampoline_random_end);
	if (map_shared(machine, WINDOW_MONITOR, code, 0) != 0 ||
	    map_shared(machine, WINDOW_DESCRIPTORS, idt, DUNE_PTE_NO_EXECUTE) != 0 ||
	    map_shared(machine, WINDOW_DESCRIPTORS + DUNE_PAGE_SIZE, gdt, DUNE_PTE_NO_EXECUTE) != 0 ||
	    map_shared(machine, WINDOW_TRAMPOLINE, trampoline, DUNE_PTE_USER) != 0 ||
	    map_shared(machine, WINDOW_LOCAL_CODE, local_code, 0) != 0 ||
	    map_shared(machine, WINDOW_LOCAL_IDT, local_idt, DUNE_PTE_NO_EXECUTE) != 0)
		return -1;
	for (uint64_t at = 0; at < state_pages * DUNE_PAGE_SIZE; at += DUNE_PAGE_SIZE)
		if (map_shared(machine, WINDOW_CLEAN_STATE + at, clean + at, DUNE_PTE_USER | DUNE_PTE_NO_EXECUTE) != 0)
			return -1;

	/* The edit root maps every table page, there and nowhere else, for the monitor to write. */
	machine->edit_tables = machine->window + 2 * GIB;
	for (uint64_t at = 0; at < machine->table_arena.size; at += DUNE_LARGE_PAGE_SIZE)
		if (dune_tables_map_large(tables, machine->edit_root, machine->edit_tables + at, tables->physical + at,
					  DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE) != 0)
			return dune_fail(ENOMEM, "no page-table page left");
	return 0;
}

uint64_t dune_root_new(struct dune_machine *machine)
{
	uint64_t root = dune_tables_new(&machine->tables);
	if (root && dune_tables_share(&machine->tables, root, machine->window, machine->shared_directory) != 0)
		root = 0;
	return root;
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

static int reserve_memory(struct dune_machine *machine)
{
	machine->window_size = 64 * GIB;
	uint8_t *at =
		mmap(NULL, machine->window_size + GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return dune_fail(ENOMEM, "cannot reserve 65 GiB of address space: raise the limit (ulimit -v)");
	uint64_t skip = -(uintptr_t)at & (GIB - 1);
	if (skip)
		munmap(at, skip);
	munmap(at + skip + machine->window_size, GIB - skip);
	machine->window = (uintptr_t)at + skip;
	madvise((void *)machine->window, machine->window_size, MADV_DONTDUMP);
	if (reserve(&machine->table_arena, TABLES_AT * GIB, 2 * GIB, 256 * MIB, 0) != 0 ||
	    reserve(&machine->image, IMAGE_AT * GIB, 4 * GIB, 64 * MIB, KVM_MEM_READONLY) != 0 ||
	    reserve(&machine->frames, FRAMES_AT * GIB, 64 * GIB, 256 * MIB, 0) != 0 ||
	    reserve(&machine->tags, TAGS_AT * GIB, 64 * GIB, 256 * MIB, 0) != 0)
		return -1;
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
	return lay_out_monitor(machine) == 0 && dune_machine_probe(machine) == 0 ? 0 : -1;
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
	if (open_kvm(machine) == 0 && reserve_memory(machine) == 0 && start(machine) == 0)
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

static int add_ranges_again(struct dune_machine *machine)
{
	for (unsigned i = 0; i < machine->range_count; i++)
		if (set_slot(machine, machine->ranges[i].host, machine->ranges[i].physical, machine->ranges[i].size,
			     0) != 0)
			return -1;
	return 0;
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
	if (open_kvm(machine) == 0 && start(machine) == 0 && add_ranges_again(machine) == 0)
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
	pthread_mutex_lock(&slots_lock); /* in this order: virtual CPUs are made of frames */
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&slots_lock);
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
