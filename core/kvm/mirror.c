/* mirror.c - see mirror.h */
#define _GNU_SOURCE
#include "kvm/mirror.h"
#include "kvm/vcpu.h"
#include "elf/maps.h"
#include "placement/system_call.h"
#include "vm/space.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

enum {
	SAME_GIGABYTES = 4, /* of the process, at the same guest-physical addresses */
	DUMMY_GIGABYTE = 7,
	FIRST_GIGABYTE = 160,           /* behind the machine's arenas */
	PROCESS_GIGABYTES = 1 << 17,    /* of user space */
	GIGABYTES_MAX = UINT16_MAX - 1, /* gigabyte_of has 16 bits */
	POOL_GIGABYTES = DUNE_MIRROR_POOL_MIB / 1024,
	OWN_TABLES_MIB = 16
};
_Static_assert((uint64_t)PROCESS_GIGABYTES << 30 == DUNE_USER_END, "all of user space");
_Static_assert(DUNE_MIRROR_POOL_MIB % 1024 == 0, "the pool is whole GiBs");

/* KVM refuses memory beyond the end of user space, which is a page short of the last GiB. */
#define LAST_ADDRESS (DUNE_USER_END - DUNE_PAGE_SIZE)

struct dune_mirror *dune_mirror;
unsigned dune_mirror_slots_limit, dune_mirror_gigabytes_limit;

static struct dune_mirror the_mirror = { .vm = -1 };
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

/* ---- slots ----------------------------------------------------------------------------------------- */

/* Gives a slot its memory, or takes it away (size 0).  Returns 0 or a positive errno. */
static int set_region(unsigned slot, uint64_t physical, uintptr_t host, uint64_t size, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .flags = flags, .guest_phys_addr = physical, .memory_size = size, .userspace_addr = host
	};
	return (int)-dune_system_call(SYS_ioctl, the_mirror.vm, KVM_SET_USER_MEMORY_REGION, (long)&region, 0, 0, 0);
}

/* Takes a slot; returns its number plus 1, or 0. */
static unsigned take_slot(void)
{
	struct dune_mirror *mirror = &the_mirror;
	unsigned limit = dune_mirror_slots_limit ? dune_mirror_slots_limit : UINT32_MAX;
	unsigned most = mirror->slots_max < limit ? mirror->slots_max : limit;
	unsigned slot = __atomic_load_n(&mirror->next_slot, __ATOMIC_RELAXED);
	do {
		if (slot >= most)
			return 0;
	} while (!__atomic_compare_exchange_n(&mirror->next_slot, &slot, slot + 1, true, __ATOMIC_RELAXED,
					      __ATOMIC_RELAXED));
	return slot + 1;
}

/* Gives the virtual machine one more slot.  Returns 0 or a positive errno; EEXIST: something lies there. */
static int add_slot(uint64_t physical, uintptr_t host, uint64_t size, uint32_t flags)
{
	unsigned slot = take_slot();
	return slot ? set_region(slot - 1, physical, host, size, flags) : ENOSPC;
}

static int follow_machine(const struct kvm_userspace_memory_region *region)
{
	int error = add_slot(region->guest_phys_addr, region->userspace_addr, region->memory_size, region->flags);
	if (error == ENOSPC)
		return dune_fail(ENOSPC, "KVM has no memory slot left for the mirror of the process");
	return error ? dune_fail(ENOMEM, "KVM refused a memory slot: %s", strerror(error)) : 0;
}

static int add_gigabyte(unsigned number, uintptr_t begin)
{
	uintptr_t end = begin + GIB < LAST_ADDRESS ? begin + GIB : LAST_ADDRESS;
	return add_slot(number * GIB, begin, end - begin, 0);
}

/* Takes a free gigabyte of guest-physical addresses; returns false if it is not free. */
static bool claim(unsigned number)
{
	return !__atomic_load_n(&the_mirror.taken[number], __ATOMIC_RELAXED) &&
	       !__atomic_exchange_n(&the_mirror.taken[number], true, __ATOMIC_ACQ_REL);
}

/* Gives a GiB of the process a slot.  Returns its place plus 1, or 0 with *error. */
static unsigned show(uintptr_t begin, int *error)
{
	struct dune_mirror *mirror = &the_mirror;
	unsigned same = (unsigned)(begin / GIB), limit = dune_mirror_gigabytes_limit;
	unsigned end = limit && limit < mirror->gigabytes ? limit : mirror->gigabytes;
	unsigned number = same < SAME_GIGABYTES ? same : FIRST_GIGABYTE;
	while (number < end) {
		if (!claim(number)) {
			number = number < FIRST_GIGABYTE ? FIRST_GIGABYTE : number + 1;
			continue;
		}
		int failed = add_gigabyte(number, begin);
		if (failed == EEXIST) /* KVM has something of its own there: leave it claimed */
			continue;
		if (failed) {
			__atomic_store_n(&mirror->taken[number], false, __ATOMIC_RELEASE);
			*error = failed == ENOSPC ? ENOSPC : ENOMEM;
			return 0;
		}
		__atomic_store_n(&mirror->process[number], begin + 1, __ATOMIC_RELEASE);
		return number + 1;
	}
	*error = ENOSPC;
	return 0;
}

uint64_t dune_mirror_physical_raw(uintptr_t address, int *error)
{
	struct dune_mirror *mirror = __atomic_load_n(&dune_mirror, __ATOMIC_ACQUIRE);
	*error = 0;
	if (!mirror || address >= LAST_ADDRESS) {
		*error = EINVAL;
		return 0;
	}
	uint16_t *known = &mirror->gigabyte_of[address / GIB];
	uint16_t place = __atomic_load_n(known, __ATOMIC_ACQUIRE);
	if (!place) {
		unsigned found = show(address & ~(GIB - 1), error);
		if (!found)
			return 0;
		if (__atomic_compare_exchange_n(known, &place, (uint16_t)found, false, __ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE))
			place = (uint16_t)found;
	}
	return (place - 1) * GIB + address % GIB;
}

uint64_t dune_mirror_physical(const void *address)
{
	int error;
	uint64_t physical = dune_mirror_physical_raw((uintptr_t)address, &error);
	if (error == ENOSPC)
		dune_fail(error,
			  "the guest has no memory slot, or no guest-physical addresses, left for this part of the "
			  "process: use fewer far-apart mappings");
	else if (error == EINVAL)
		dune_fail(error, "%p is not an address of the process, or dune_init() was not called", address);
	else if (error)
		dune_fail(error, "KVM refused a memory slot");
	return physical;
}

void *dune_mirror_at(uint64_t physical)
{
	const struct dune_mirror *mirror = __atomic_load_n(&dune_mirror, __ATOMIC_ACQUIRE);
	if (!mirror || physical / GIB >= mirror->gigabytes)
		return NULL;
	uintptr_t begin = __atomic_load_n(&mirror->process[physical / GIB], __ATOMIC_ACQUIRE);
	if (begin)
		return (void *)(begin - 1 + physical % GIB);
	return dune_physical_at(mirror->machine, physical);
}

/* KVM drops all shadows of a machine when any slot of it goes (api.rst, KVM_X86_QUIRK_SLOT_ZAP_ALL), so it need not be
 * one that somebody uses. */
int dune_mirror_drop_shadows(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct dune_mirror *mirror = &the_mirror;
	uintptr_t page = (uintptr_t)mirror->areas - DUNE_PAGE_SIZE;
	int error = 0;
	pthread_mutex_lock(&lock);
	if (!mirror->dummy_slot) {
		mirror->dummy_slot = take_slot();
		error = mirror->dummy_slot ? 0 : ENOSPC;
	} else {
		error = set_region(mirror->dummy_slot - 1, DUMMY_GIGABYTE * GIB, page, 0, 0);
	}
	if (!error)
		error = set_region(mirror->dummy_slot - 1, DUMMY_GIGABYTE * GIB, page, DUNE_PAGE_SIZE, 0);
	pthread_mutex_unlock(&lock);
	return error ? dune_fail(error, "KVM cannot be told to drop its shadow page tables: %s", strerror(error)) : 0;
}

/* ---- faults ---------------------------------------------------------------------------------------- */

struct mapping {
	uintptr_t begin, end;
	bool read, write, execute;
	bool stack; /* of the first thread */
};

/* /proc/self/maps of this process, opened ahead for when it cannot be opened: no file descriptor is left, or /proc is out of
 * reach.  The program may have closed it and used its number for something else, so the file is looked at. */
static struct {
	int fd; /* plus 1; 0: none */
	uint64_t device, inode;
} spare_maps;

static void open_spare_maps(void)
{
	struct stat status;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	spare_maps.fd = 0;
	if (fd < 0 || fstat(fd, &status) != 0)
		return;
	spare_maps.fd = fd + 1;
	spare_maps.device = status.st_dev;
	spare_maps.inode = status.st_ino;
}

static bool use_spare_maps(struct dune_maps_reader *reader)
{
	struct stat status;
	int fd = spare_maps.fd - 1;
	if (dune_system_call(SYS_fstat, fd, (long)&status, 0, 0, 0, 0) != 0 || status.st_dev != spare_maps.device ||
	    status.st_ino != spare_maps.inode || dune_system_call(SYS_lseek, fd, 0, SEEK_SET, 0, 0, 0) != 0)
		return false;
	reader->fd = fd;
	return true;
}

/* Finds the first mapping that ends above the address; it may begin above it as well.  Returns 1, 0, or a negative errno. */
static int find_mapping(uintptr_t address, struct mapping *mapping)
{
	struct dune_maps_reader reader;
	struct dune_maps_line line;
	char text[4096];
	int result = dune_maps_open(&reader, text, sizeof text);
	bool spare = result != 0;
	if (spare && !use_spare_maps(&reader))
		return result;
	do
		result = dune_maps_next(&reader, &line);
	while (result == 1 && line.end <= address);
	if (!spare)
		dune_maps_close(&reader);
	if (result == 1)
		*mapping = (struct mapping){ .begin = line.start,
					     .end = line.end,
					     .read = line.read,
					     .write = line.write,
					     .execute = line.execute,
					     .stack = dune_maps_type(line.path) == PROCMAP_TYPE_STACK };
	return result;
}

/* Has the kernel read the process's memory at address, which makes it grow a stack that ends above.  Signal 0 does not
 * exist, so nothing else happens. */
static bool kernel_can_read(uintptr_t address)
{
	return dune_system_call(SYS_rt_sigaction, 0, (long)address, 0, 8, 0, 0) != -EFAULT;
}

/* The mapping at address, after a stack above has grown down to it if it may.  Returns as find_mapping(). */
static int find_or_grow(uintptr_t address, struct mapping *mapping)
{
	int result = find_mapping(address, mapping);
	if (result == 1 && address < mapping->begin && mapping->stack && kernel_can_read(address))
		result = find_mapping(address, mapping);
	return result == 1 && address < mapping->begin ? 0 : result;
}

static bool allows(const struct mapping *mapping, unsigned error_code)
{
	if (error_code & FEC_W)
		return mapping->write;
	if (error_code & FEC_I)
		return mapping->execute;
	return mapping->read || mapping->write || mapping->execute; /* as Linux has it on this processor */
}

/* With the lock of address spaces. */
static int fill(ptent_t *root, uintptr_t address, unsigned error_code, int *error)
{
	struct mapping mapping;
	if (!dune_space_follows(root, address))
		return 0;
	int found = find_or_grow(address, &mapping);
	if (found < 0) {
		*error = -found;
		return -1;
	}
	if (!found || !allows(&mapping, error_code))
		return 0;
	uintptr_t begin = BIG_PGADDR(address), end = begin + BIG_PGSIZE;
	begin = begin < mapping.begin ? mapping.begin : begin;
	end = end > mapping.end ? mapping.end : end;
	uint64_t physical = dune_mirror_physical_raw(begin, error);
	if (*error)
		return -1;
	if (dune_space_fill(root, begin, end, physical, (mapping.write ? PTE_W : 0) | (mapping.execute ? 0 : PTE_NX)) !=
	    0) {
		*error = ENOMEM;
		return -1;
	}
	return 1;
}

int dune_mirror_fill(ptent_t *root, uintptr_t address, unsigned error_code, int *error)
{
	const struct dune_machine *machine = the_mirror.machine;
	*error = 0;
	if (address >= LAST_ADDRESS || address - machine->window < machine->window_size)
		return 0;
	dune_space_lock();
	int result = fill(root, address, error_code, error);
	dune_space_unlock();
	return result;
}

/* ---- opening --------------------------------------------------------------------------------------- */

static void *reserve_anywhere(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return at == MAP_FAILED ? NULL : at;
}

/* Lists of GiBs: of guest-physical addresses, and of the process. */
static int make_lists(struct dune_mirror *mirror)
{
	uint64_t gigabytes = (uint64_t)1 << (mirror->machine->host.physical_bits - 30);
	mirror->gigabytes = gigabytes < GIGABYTES_MAX ? (unsigned)gigabytes : GIGABYTES_MAX;
	size_t size = mirror->gigabytes * sizeof *mirror->process + PROCESS_GIGABYTES * sizeof *mirror->gigabyte_of +
		      mirror->gigabytes * sizeof *mirror->taken;
	uint8_t *at = reserve_anywhere(size);
	if (!at)
		return dune_fail(ENOMEM, "out of memory");
	mirror->process = (uintptr_t *)at;
	mirror->gigabyte_of = (uint16_t *)(mirror->process + mirror->gigabytes);
	mirror->taken = (bool *)(mirror->gigabyte_of + PROCESS_GIGABYTES);
	return 0;
}

/* Finds addresses for the pool that are free here and in the guest. */
static int reserve_pool(struct dune_mirror *mirror)
{
	const size_t size = DUNE_MIRROR_POOL_MIB * MIB;
	for (unsigned number = FIRST_GIGABYTE; number + POOL_GIGABYTES <= mirror->gigabytes; number++) {
		void *wanted = (void *)(number * GIB);
		void *at = mmap(wanted, size, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
		if (at == MAP_FAILED && errno != EEXIST)
			break;
		if (at != wanted) {
			if (at != MAP_FAILED)
				munmap(at, size);
			continue;
		}
		mirror->pool = at;
		mirror->pool_size = size - DUNE_MIRROR_OWN_MIB * MIB;
		for (unsigned i = number; i < number + POOL_GIGABYTES; i++) {
			mirror->taken[i] = true;
			mirror->process[i] = i * GIB + 1;
			mirror->gigabyte_of[i] = (uint16_t)(i + 1);
		}
		return 0;
	}
	return dune_fail(ENOMEM,
			 "there are no %d MiB of addresses for the page pool between %d GiB and %u GiB: raise the "
			 "limit (ulimit -v)",
			 DUNE_MIRROR_POOL_MIB, FIRST_GIGABYTE, mirror->gigabytes);
}

/* A slot for the pool, and one for each GiB of the process that had one in the parent. */
static int add_slots(struct dune_mirror *mirror)
{
	unsigned pool = (unsigned)((uintptr_t)mirror->pool / GIB);
	mirror->next_slot = 0;
	mirror->dummy_slot = 0;
	int error = add_slot((uintptr_t)mirror->pool, (uintptr_t)mirror->pool, DUNE_MIRROR_POOL_MIB * MIB, 0);
	for (unsigned i = 0; i < mirror->gigabytes && !error; i++)
		if (mirror->process[i] && i - pool >= POOL_GIGABYTES)
			error = add_gigabyte(i, mirror->process[i] - 1);
	if (error)
		return dune_fail(error == ENOSPC ? ENOSPC : ENOMEM, "KVM refused a memory slot: %s", strerror(error));
	return dune_machine_follow_slots(mirror->machine, follow_machine);
}

/* Makes the edit root, and room for virtual CPUs, in the mirror's own part of the pool. */
static int make_edit_root(struct dune_mirror *mirror)
{
	uint8_t *own = mirror->pool + mirror->pool_size;
	const size_t size = DUNE_MIRROR_OWN_MIB * MIB, tables_size = OWN_TABLES_MIB * MIB;
	uint64_t window = mirror->machine->window;
	if (madvise(own, size, MADV_DONTNEED) != 0) /* in a child: tables begin as zeros */
		return dune_fail(errno, "cannot empty memory: %s", strerror(errno));
	struct dune_tables *tables = &mirror->tables;
	*tables = (struct dune_tables){ .host = own, .physical = (uintptr_t)own, .size = tables_size };
	mirror->areas = own + tables_size;
	mirror->processors_max = (size - tables_size) / sizeof(struct dune_processor_area);
	mirror->processor_count = 0;
	mirror->edit_root = dune_tables_new(tables);
	if (dune_tables_share(tables, mirror->edit_root, window, mirror->machine->shared_directory) != 0)
		return dune_fail(ENOMEM, "no page-table page left");
	mirror->directory = dune_tables_directory(tables, mirror->edit_root, window + WINDOW_MIRROR_PROCESSORS);
	for (uintptr_t at = (uintptr_t)mirror->pool; at < (uintptr_t)own + size; at += DUNE_LARGE_PAGE_SIZE)
		if (dune_tables_map_large(tables, mirror->edit_root, at, at, DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE) != 0)
			return dune_fail(ENOMEM, "no page-table page left");
	return 0;
}

int dune_mirror_exchange(struct dune_vcpu *vcpu, const struct dune_space_edit *edits, size_t count)
{
	while (count) {
		size_t some = count < DUNE_EDITS_MAX ? count : DUNE_EDITS_MAX;
		for (size_t i = 0; i < some; i++)
			vcpu->area->edits[i] =
				(struct dune_edit){ .entry = (uintptr_t)edits[i].entry, .value = edits[i].value };
		/* Not the root itself: it may be about to lose the monitor's GiB. */
		if (dune_vcpu_monitor(vcpu, dune_monitor_exchange, some, vcpu->edit_root) != 0)
			return -1;
		for (size_t i = 0; i < some; i++)
			*edits[i].old = vcpu->area->edits[i].value;
		edits += some;
		count -= some;
	}
	return 0;
}

static int replace(ptent_t *root, const struct dune_space_edit *edits, size_t count)
{
	if (dune_placement)
		return dune_placement->replace(root, edits, count);
	for (size_t i = 0; i < count; i++)
		dune_space_store(&edits[i]);
	return 0;
}

struct root_list {
	ptent_t **roots;
	size_t count, room;
};

static void collect(ptent_t *root, void *argument)
{
	struct root_list *list = argument;
	if (list->count < list->room)
		list->roots[list->count] = root;
	list->count++;
}

/* Sets the entry for a whole GiB, which may be a link already; nobody uses the root yet. */
static int set_link(ptent_t *root, uintptr_t address, uint64_t value)
{
	ptent_t above = root[PDX(NPTLVLS, address)], *entry;
	if (above & PTE_P)
		entry = (ptent_t *)PTE_ADDR(above) + PDX(NPTLVLS - 1, address);
	else if (dune_vm_lookup(root, (void *)address, CREATE_BIG_1GB, &entry) != 0)
		return -1;
	*entry = value;
	return 0;
}

static struct dune_space_operations operations = { .replace = replace, .physical = dune_mirror_physical_raw };

/* Lets all roots have the machine's GiB of the window, and the mirror's. */
static int link_window(struct dune_mirror *mirror)
{
	const uint64_t bits = PTE_P | PTE_W | PTE_U | DUNE_PTE_SHARED; /* the leaves decide */
	operations.shadowed = mirror->machine->host.shadow_paging;
	if (!mirror->begun && dune_space_begin(mirror->pool, mirror->pool_size, &operations) != 0)
		return -1;
	mirror->begun = true;
	struct root_list list = { 0 };
	dune_space_lock();
	dune_space_roots(collect, &list);
	dune_space_unlock();
	list.room = list.count;
	list.count = 0;
	list.roots = calloc(list.room, sizeof *list.roots);
	if (!list.roots)
		return dune_fail(ENOMEM, "out of memory");
	dune_space_lock();
	dune_space_roots(collect, &list);
	dune_space_unlock();
	int result = 0;
	uintptr_t window = mirror->machine->window, old = mirror->linked;
	for (size_t i = 0; i < list.room && result == 0; i++) {
		if (old && old != window &&
		    (set_link(list.roots[i], old, 0) != 0 ||
		     set_link(list.roots[i], old + WINDOW_MIRROR_PROCESSORS, 0) != 0))
			result = -1;
		else if (set_link(list.roots[i], window, mirror->machine->shared_directory | bits) != 0 ||
			 set_link(list.roots[i], window + WINDOW_MIRROR_PROCESSORS, mirror->directory | bits) != 0)
			result = -1;
	}
	free(list.roots);
	if (result == 0)
		mirror->linked = window;
	return result;
}

static int open_mirror(struct dune_mirror *mirror)
{
	struct dune_machine *machine = dune_machine_get();
	if (!machine)
		return -1;
	mirror->machine = machine;
	mirror->slots_max = machine->slots_max;
	if (!mirror->process && make_lists(mirror) != 0)
		return -1;
	if (!mirror->pool && reserve_pool(mirror) != 0)
		return -1;
	mirror->vm = dune_machine_new_vm(machine);
	if (mirror->vm < 0)
		return -1;
	if (add_slots(mirror) == 0 && make_edit_root(mirror) == 0 && link_window(mirror) == 0 &&
	    (!machine->host.shadow_paging || dune_mirror_drop_shadows() == 0))
		return 0;
	int error = errno;
	machine->slot_added = NULL;
	close(mirror->vm);
	mirror->vm = -1;
	errno = error;
	return -1;
}

static void before_fork(void)
{
	pthread_mutex_lock(&opening);
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&opening);
}

/* The machine's own handler has run: the virtual CPUs of both are gone, and the machine may be. */
static void after_fork_in_child(void)
{
	if (dune_mirror) {
		close(the_mirror.vm);
		if (spare_maps.fd)
			close(spare_maps.fd - 1);
		spare_maps.fd = 0;
	}
	the_mirror.vm = -1;
	the_mirror.machine = NULL;
	dune_mirror = NULL;
	if (the_mirror.begun)
		dune_space_after_fork();
	pthread_mutex_unlock(&opening);
}

static int handlers_error;

static void install_handlers(void)
{
	handlers_error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

int dune_mirror_open(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	if (!dune_machine_get()) /* its handlers of fork come first */
		return -1;
	pthread_once(&once, install_handlers);
	if (handlers_error)
		return dune_fail(handlers_error, "out of memory");
	int result = 0;
	pthread_mutex_lock(&opening);
	if (!dune_mirror && (result = open_mirror(&the_mirror)) == 0) {
		open_spare_maps();
		the_mirror.machine->mirror = &the_mirror;
		__atomic_store_n(&dune_mirror, &the_mirror, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&opening);
	return result;
}
