/*
 * live_mirror.c - the virtual machine of Dune by itself: where the process's memory is in it, and what limits do.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "kvm/mirror.h"
#include "kvm/vcpu.h"
#include "vm/space.h"

#define GIB ((uint64_t)1 << 30)

enum {
	PAGE = 4096
};

static void open_mirror(void)
{
	CU_ASSERT_EQUAL_FATAL(dune_mirror_open(), 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(dune_mirror);
}

static ptent_t entry_at(ptent_t *root, uintptr_t address)
{
	for (int level = NPTLVLS;; level--) {
		ptent_t entry = root[PDX(level, address)];
		if (!(entry & PTE_P) || level == 0 || entry & PTE_PS)
			return entry;
		root = (ptent_t *)PTE_ADDR(entry);
	}
}

static int fill(const void *address, unsigned error_code)
{
	int error = -1;
	int result = dune_mirror_fill(pgroot, (uintptr_t)address, error_code, &error);
	CU_ASSERT_EQUAL(error != 0, result < 0);
	return result;
}

static void places_go_both_ways(void)
{
	static int variable;
	int local;
	open_mirror();
	const void *const places[] = { &variable, &local, (void *)places_go_both_ways, dune_mirror->pool,
				       dune_mirror->pool + dune_mirror->pool_size - 1 };
	for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
		uint64_t physical = dune_mirror_physical(places[i]);
		CU_ASSERT(physical != 0);
		CU_ASSERT_PTR_EQUAL(dune_mirror_at(physical), places[i]);
		CU_ASSERT_EQUAL(dune_mirror_physical(places[i]), physical);
		CU_ASSERT_EQUAL(physical % GIB, (uintptr_t)places[i] % GIB);
	}
	CU_ASSERT_EQUAL(dune_mirror_physical(dune_mirror->pool), (uintptr_t)dune_mirror->pool);
	CU_ASSERT_EQUAL(dune_mirror_physical((void *)0x12345678), 0x12345678);
	CU_ASSERT_EQUAL(dune_mirror_physical((void *)(3 * GIB + 5)), 3 * GIB + 5);
	errno = 0;
	CU_ASSERT_EQUAL(dune_mirror_physical((void *)(UINT64_MAX - PAGE)), 0);
	CU_ASSERT_EQUAL(errno, EINVAL);
	/* the arenas of the machine */
	struct dune_machine *machine = dune_mirror->machine;
	CU_ASSERT_PTR_EQUAL(dune_mirror_at(machine->edit_root), dune_physical_at(machine, machine->edit_root));
	CU_ASSERT_PTR_NULL(dune_mirror_at((uint64_t)(dune_mirror->gigabytes - 1) * GIB));
}

static void opening_again_changes_nothing(void)
{
	open_mirror();
	struct dune_mirror before = *dune_mirror;
	CU_ASSERT_EQUAL(dune_mirror_open(), 0);
	CU_ASSERT_EQUAL(memcmp(&before, dune_mirror, sizeof before), 0);
}

static void rights_are_those_of_the_map(void)
{
	static const struct {
		int prot;
		unsigned allowed; /* bit 0 read, 1 write, 2 execute */
	} cases[] = {
		{ PROT_NONE, 0 },
		{ PROT_READ, 1 },
		{ PROT_READ | PROT_WRITE, 3 },
		{ PROT_READ | PROT_EXEC, 5 },
		{ PROT_READ | PROT_WRITE | PROT_EXEC, 7 },
	};
	static const unsigned codes[] = { 0, FEC_W, FEC_I };
	open_mirror();
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
		for (unsigned access = 0; access < 3; access++) {
			/* in 2 MiB of its own, so that no other fault has filled it */
			uint8_t *at = mmap(NULL, 2 * BIG_PGSIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			CU_ASSERT_FATAL(at != MAP_FAILED);
			uint8_t *page = (uint8_t *)BIG_PGADDR(at + BIG_PGSIZE);
			CU_ASSERT_EQUAL_FATAL(mprotect(page, 3 * PAGE, cases[i].prot), 0);
			bool allowed = cases[i].allowed >> access & 1;
			CU_ASSERT_EQUAL(fill(page + PAGE, codes[access]), allowed);
			for (unsigned j = 0; j < 4; j++) {
				ptent_t entry = entry_at(pgroot, (uintptr_t)page + j * PAGE);
				if (!allowed || j == 3) {
					CU_ASSERT_EQUAL(entry, 0);
					continue;
				}
				CU_ASSERT_EQUAL(PTE_ADDR(entry), dune_mirror_physical(page + j * PAGE));
				CU_ASSERT_EQUAL(!(entry & PTE_W), !(cases[i].prot & PROT_WRITE));
				CU_ASSERT_EQUAL(!(entry & PTE_NX), !!(cases[i].prot & PROT_EXEC));
				CU_ASSERT_EQUAL(entry & (PTE_U | PTE_MIRROR), PTE_MIRROR);
			}
		}
}

static void what_is_not_mapped_is_not_filled(void)
{
	open_mirror();
	CU_ASSERT_EQUAL(fill(NULL, 0), 0);
	CU_ASSERT_EQUAL(fill((void *)PAGE, FEC_W), 0);
	CU_ASSERT_EQUAL(fill((void *)dune_mirror->machine->window, 0), 0);
	CU_ASSERT_EQUAL(fill((void *)(dune_mirror->machine->window + GIB), FEC_W), 0);
	CU_ASSERT_EQUAL(fill((void *)(DUNE_USER_END - 1), 0), 0);
	CU_ASSERT_EQUAL(fill((void *)UINT64_MAX, 0), 0);
	uint8_t *at = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(at, 4 * PAGE);
	CU_ASSERT_EQUAL(fill(at, 0), 0);
}

static void what_belongs_to_the_program_is_left_alone(void)
{
	open_mirror();
	uint8_t *at = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ptent_t *entry;
	CU_ASSERT_EQUAL_FATAL(dune_vm_lookup(pgroot, at + PAGE, CREATE_NORMAL, &entry), 0);
	*entry = DUNE_SPACE_REMOVED;
	CU_ASSERT_EQUAL(fill(at + PAGE, 0), 0);
	CU_ASSERT_EQUAL(fill(at, 0), 1);
	CU_ASSERT_EQUAL(*entry, DUNE_SPACE_REMOVED);
	CU_ASSERT(entry_at(pgroot, (uintptr_t)at + 2 * PAGE) & PTE_P);
}

static void the_stack_grows_as_the_kernel_grows_it(void)
{
	struct rlimit limit;
	open_mirror();
	uint8_t *here = __builtin_frame_address(0);
	CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_STACK, &limit), 0);
	CU_ASSERT_EQUAL(fill(here - (1 << 20), FEC_W), 1);
	CU_ASSERT(entry_at(pgroot, (uintptr_t)here - (1 << 20)) & PTE_W);
	if (limit.rlim_cur != RLIM_INFINITY)
		CU_ASSERT_EQUAL(fill(here - limit.rlim_cur - (1 << 20), FEC_W), 0);
}

static void no_slot_left_is_an_error(void)
{
	open_mirror();
	dune_mirror_slots_limit = dune_mirror->next_slot + 1;
	CU_ASSERT(dune_mirror_physical((void *)(1000 * GIB)) != 0);
	errno = 0;
	CU_ASSERT_EQUAL(dune_mirror_physical((void *)(1001 * GIB)), 0);
	CU_ASSERT_EQUAL(errno, ENOSPC);
	CU_ASSERT(dune_mirror_physical((void *)(1000 * GIB + PAGE)) != 0);
	void *at =
		mmap((void *)(1001 * GIB), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	int error = 0;
	CU_ASSERT_FATAL(at == (void *)(1001 * GIB));
	CU_ASSERT_EQUAL(dune_mirror_fill(pgroot, (uintptr_t)at, 0, &error), -1);
	CU_ASSERT_EQUAL(error, ENOSPC);
	dune_mirror_slots_limit = 0;
	CU_ASSERT_EQUAL(fill(at, 0), 1);
}

static void no_address_left_is_an_error(void)
{
	open_mirror();
	unsigned first = dune_mirror->gigabytes;
	for (unsigned i = 160; i < first; i++)
		if (!dune_mirror->taken[i])
			first = i;
	dune_mirror_gigabytes_limit = first + 1;
	CU_ASSERT_EQUAL(dune_mirror_physical((void *)(1000 * GIB)), first * GIB);
	errno = 0;
	CU_ASSERT_EQUAL(dune_mirror_physical((void *)(1001 * GIB)), 0);
	CU_ASSERT_EQUAL(errno, ENOSPC);
	dune_mirror_gigabytes_limit = 0;
	CU_ASSERT_EQUAL(dune_mirror_physical((void *)(1001 * GIB)), (first + 1) * GIB);
}

static void memory_that_the_machine_gets_later_is_there_too(void)
{
	open_mirror();
	struct dune_machine *machine = dune_mirror->machine;
	unsigned before = dune_mirror->next_slot, machines = machine->next_slot;
	CU_ASSERT_EQUAL_FATAL(dune_arena_back(machine, &machine->tags, 3 * machine->tags.chunk), 0);
	CU_ASSERT_EQUAL(machine->next_slot, machines + 3);
	CU_ASSERT_EQUAL(dune_mirror->next_slot, before + 3);
	dune_mirror_slots_limit = dune_mirror->next_slot;
	errno = 0;
	CU_ASSERT_EQUAL(dune_arena_back(machine, &machine->tags, 4 * machine->tags.chunk), -1);
	CU_ASSERT_EQUAL(errno, ENOSPC);
	dune_mirror_slots_limit = 0;
	CU_ASSERT_EQUAL(dune_arena_back(machine, &machine->tags, 4 * machine->tags.chunk), 0);
}

static void a_thread_has_a_processor_of_each(void)
{
	open_mirror();
	struct dune_machine *machine = dune_mirror->machine;
	struct dune_vcpu *one = dune_vcpu_get(machine), *other = dune_vcpu_get_mirror(machine);
	CU_ASSERT_FATAL(one && other && one != other);
	CU_ASSERT(other->mirror && !one->mirror);
	CU_ASSERT_PTR_EQUAL(dune_vcpu_get(machine), one);
	CU_ASSERT_PTR_EQUAL(dune_vcpu_get_mirror(machine), other);
	CU_ASSERT_PTR_EQUAL(dune_vcpu_numbered(other->number), other);
	CU_ASSERT_PTR_EQUAL(dune_vcpu_numbered(one->number), one);
}

static void *take_processor(void *unused)
{
	(void)unused;
	return dune_vcpu_get_mirror(dune_mirror->machine);
}

static void processors_of_ended_threads_are_used_again(void)
{
	open_mirror();
	struct dune_vcpu *mine = dune_vcpu_get_mirror(dune_mirror->machine);
	void *first, *second;
	pthread_t thread;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, take_processor, NULL), 0);
	pthread_join(thread, &first);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, take_processor, NULL), 0);
	pthread_join(thread, &second);
	CU_ASSERT(first && first != mine);
	CU_ASSERT_PTR_EQUAL(first, second);
}

/* An entry is replaced by ring 0 of the mirror: the edit root maps the pool, the roots have the monitor. */
static void ring_0_edits_tables_of_the_pool(void)
{
	open_mirror();
	struct dune_vcpu *vcpu = dune_vcpu_get_mirror(dune_mirror->machine);
	struct dune_context context;
	ptent_t *entry;
	CU_ASSERT_FATAL(vcpu != NULL);
	memset(&context, 0, sizeof context);
	dune_context_start(&context, 1, (uintptr_t)pgroot);
	CU_ASSERT_EQUAL_FATAL(dune_vm_lookup(pgroot, (void *)(2000 * GIB), CREATE_NORMAL, &entry), 0);
	*entry = DUNE_SPACE_REMOVED;
	struct dune_edit edit = { .entry = (uintptr_t)entry, .value = PTE_COW };
	CU_ASSERT_EQUAL(dune_vcpu_edit(vcpu, &context, &edit, 1), 0);
	CU_ASSERT_EQUAL(*entry, PTE_COW);
}

static int in_child(int (*function)(void))
{
	pid_t child = fork();
	if (child == 0)
		_exit(function());
	int status = -1;
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int variable = 7;
static uint64_t physical_in_parent, physical_of_variable;

static int child_opens(void)
{
	struct dune_context context;
	struct dune_edit edit;
	ptent_t *entry;
	struct dune_vcpu *vcpu;
	if (dune_mirror)
		return 1;
	if (dune_mirror_open() != 0)
		return 2;
	if (dune_mirror_physical((void *)(1000 * GIB)) != physical_in_parent ||
	    dune_mirror_physical(&variable) != physical_of_variable)
		return 3;
	if (!(vcpu = dune_vcpu_get_mirror(dune_mirror->machine)))
		return 4;
	memset(&context, 0, sizeof context);
	dune_context_start(&context, 1, (uintptr_t)pgroot);
	if (dune_vm_lookup(pgroot, (void *)(3000 * GIB), CREATE_NORMAL, &entry) != 0 || *entry != PTE_COW)
		return 5;
	edit = (struct dune_edit){ .entry = (uintptr_t)entry, .value = DUNE_SPACE_REMOVED };
	if (dune_vcpu_edit(vcpu, &context, &edit, 1) != 0 || *entry != DUNE_SPACE_REMOVED)
		return 6;
	return 42;
}

static int grandchild_opens(void)
{
	int result = child_opens();
	if (result != 42)
		return result;
	ptent_t *entry;
	dune_vm_lookup(pgroot, (void *)(3000 * GIB), CREATE_NORMAL, &entry);
	*entry = PTE_COW;
	return in_child(child_opens);
}

static void prepare_for_fork(void)
{
	ptent_t *entry;
	open_mirror();
	physical_in_parent = dune_mirror_physical((void *)(1000 * GIB));
	physical_of_variable = dune_mirror_physical(&variable);
	CU_ASSERT_EQUAL_FATAL(dune_vm_lookup(pgroot, (void *)(3000 * GIB), CREATE_NORMAL, &entry), 0);
	*entry = PTE_COW;
}

static void a_child_makes_its_own(void)
{
	prepare_for_fork();
	CU_ASSERT_PTR_NOT_NULL(dune_vcpu_get_mirror(dune_mirror->machine));
	CU_ASSERT_EQUAL(in_child(child_opens), 42);
	CU_ASSERT_EQUAL(in_child(grandchild_opens), 42);
	/* the parent's still works */
	CU_ASSERT_EQUAL(child_opens(), 1);
	ring_0_edits_tables_of_the_pool();
}

static void a_child_of_a_machine_with_a_snapshot_makes_its_own(void)
{
	prepare_for_fork();
	struct dune_machine *machine = dune_mirror->machine;
	uint64_t frame = dune_frame_new(machine);
	CU_ASSERT_FATAL(frame != 0);
	size_t offset = frame - machine->frames.physical;
	CU_ASSERT_EQUAL_FATAL(dune_machine_keep(machine, offset, offset + PAGE), 0);
	CU_ASSERT_EQUAL(in_child(child_opens), 42);
	CU_ASSERT_EQUAL(in_child(grandchild_opens), 42);
}

static const struct harness_test tests[] = {
	{ "where memory is in the guest is known both ways", places_go_both_ways, HARNESS_FORK },
	{ "opening it again changes nothing", opening_again_changes_nothing, HARNESS_FORK },
	{ "what is filled in has the rights of the process's map", rights_are_those_of_the_map, HARNESS_FORK },
	{ "what the process does not have is not filled in", what_is_not_mapped_is_not_filled, HARNESS_FORK },
	{ "what belongs to the program is left alone", what_belongs_to_the_program_is_left_alone, HARNESS_FORK },
	{ "the stack grows as the kernel grows it", the_stack_grows_as_the_kernel_grows_it, HARNESS_FORK },
	{ "no memory slot left is an error", no_slot_left_is_an_error, HARNESS_FORK },
	{ "no guest-physical address left is an error", no_address_left_is_an_error, HARNESS_FORK },
	{ "memory that the machine gets later is there too", memory_that_the_machine_gets_later_is_there_too,
	  HARNESS_FORK },
	{ "a thread has a virtual CPU of each machine", a_thread_has_a_processor_of_each, HARNESS_FORK },
	{ "virtual CPUs of ended threads are used again", processors_of_ended_threads_are_used_again, HARNESS_FORK },
	{ "ring 0 edits tables of the pool", ring_0_edits_tables_of_the_pool, HARNESS_FORK },
	{ "a child of a fork makes its own", a_child_makes_its_own, HARNESS_FORK },
	{ "a child makes its own where the snapshot is inherited", a_child_of_a_machine_with_a_snapshot_makes_its_own,
	  HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
