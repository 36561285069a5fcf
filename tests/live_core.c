/*
 * live_core.c - libdune by itself, without libsthread: hand-made address spaces with a few bytes of machine code.
 */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"
#include "kvm/tags.h"

enum { PAGE_FAULT = 14, ROUNDS = 100, PLACES = 4 };

/* An address space with a page of code at the start of the private window, then a stack page and data pages. */
struct space {
	struct dune_context context;
	uint64_t code, stack, data, absent;
	uint64_t *entry[PLACES];
	void *memory[PLACES];
};

static struct dune_machine *machine;
static struct dune_vcpu *vcpu;
static uint64_t tenants = 1000;

static void open_machine(void)
{
	machine = dune_machine_get();
	CU_ASSERT_PTR_NOT_NULL_FATAL(machine);
	vcpu = dune_vcpu_get(machine);
	CU_ASSERT_PTR_NOT_NULL_FATAL(vcpu);
}

/* place 0: code, 1: stack, 2 and 3: data */
static void map(struct space *space, unsigned place, uint64_t bits)
{
	uint64_t frame = dune_frame_new(machine);
	space->entry[place] =
		dune_tables_entry(&machine->tables, space->context.root, space->code + place * DUNE_PAGE_SIZE, true);
	CU_ASSERT_FATAL(frame && space->entry[place]);
	*space->entry[place] = frame | bits | DUNE_PTE_PRESENT | DUNE_PTE_USER;
	space->memory[place] = dune_physical_at(machine, frame);
}

static void make(struct space *space, const void *code, size_t size)
{
	uint64_t root = dune_root_new(machine);
	CU_ASSERT_FATAL(root != 0);
	memset(space, 0, sizeof *space);
	dune_context_start(&space->context, ++tenants, root);
	space->code = machine->window + WINDOW_USER;
	space->stack = space->code + DUNE_PAGE_SIZE;
	space->data = space->stack + DUNE_PAGE_SIZE;
	space->absent = space->data + 100 * DUNE_PAGE_SIZE;
	map(space, 0, 0);
	for (unsigned place = 1; place < PLACES; place++)
		map(space, place, DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE);
	memcpy(space->memory[0], code, size);
}

static struct dune_exit call(struct space *space, uint64_t routine, uint64_t first, uint64_t second)
{
	struct dune_exit exit;
	space->context.regs = (struct kvm_regs){ .rip = routine, .rdi = first, .rsi = second, .rsp = space->data,
						 .r13 = machine->trampoline_service, .rax = UINT64_MAX };
	dune_vcpu_run(vcpu, &space->context, &exit);
	return exit;
}

static uint64_t read_byte(struct space *space, uint64_t address)
{
	struct dune_exit exit = call(space, machine->trampoline_touch, address, 0);
	return exit.kind == DUNE_EXIT_SERVICE ? space->context.regs.rdi : UINT64_MAX;
}

static const uint8_t add_code[] = { 0x48, 0x8d, 0x3c, 0x37, 0x41, 0xff, 0xe5 }; /* lea (%rdi,%rsi),%rdi; jmp *%r13 */
static const uint8_t spin_code[] = { 0xeb, 0xfe };                               /* jmp . */

static void host_facts_hold_together(void)
{
	struct dune_host first, second;
	CU_ASSERT_EQUAL_FATAL(dune_probe(&first), 0);
	CU_ASSERT_EQUAL(dune_probe(&second), 0);
	CU_ASSERT_EQUAL(memcmp(&first, &second, sizeof first), 0);
	CU_ASSERT_EQUAL(strlen(first.vendor), 12);
	CU_ASSERT(first.processors_max > 0);
	CU_ASSERT(first.exit_nanoseconds > 0 && first.trap_nanoseconds > 0 && first.call_nanoseconds > 0);
	CU_ASSERT(first.vector_components & 3);
	CU_ASSERT_FALSE(first.invpcid && !first.pcid);
}

static void ring3_runs_and_answers(void)
{
	struct space space;
	open_machine();
	make(&space, add_code, sizeof add_code);
	struct dune_exit exit = call(&space, space.code, 40, 2);
	CU_ASSERT_EQUAL(exit.kind, DUNE_EXIT_SERVICE);
	CU_ASSERT_EQUAL(space.context.regs.rdi, 42);
}

static void one_stopped_just_before_its_exit_makes_it_after_anothers_exit_from_there(void)
{
	struct space one, other;
	open_machine();
	make(&one, add_code, sizeof add_code);
	make(&other, add_code, sizeof add_code);
	for (unsigned i = 0; i < PLACES; i++) {
		struct dune_exit exit = call(&one, machine->trampoline_service, i, 0);
		CU_ASSERT_EQUAL(exit.kind, DUNE_EXIT_SERVICE);
		exit = call(&other, machine->trampoline_service, 7, 0);
		CU_ASSERT_EQUAL(exit.kind, DUNE_EXIT_SERVICE);
		CU_ASSERT_EQUAL(other.context.regs.rdi, 7);
	}
}

static void a_fault_says_what_where_and_how(void)
{
	struct space space;
	open_machine();
	make(&space, add_code, sizeof add_code);
	struct dune_exit exit = call(&space, machine->trampoline_touch, space.absent, 0);
	CU_ASSERT(exit.kind == DUNE_EXIT_EXCEPTION && exit.vector == PAGE_FAULT && exit.address == space.absent);
	CU_ASSERT_EQUAL(exit.error_code, 4);
	exit = call(&space, machine->trampoline_touch, space.absent, 1);
	CU_ASSERT_EQUAL(exit.error_code, 6);
	exit = call(&space, machine->trampoline_touch, space.code, 1);
	CU_ASSERT(exit.kind == DUNE_EXIT_EXCEPTION && exit.address == space.code);
	CU_ASSERT_EQUAL(exit.error_code, 7);
	exit = call(&space, space.data, 0, 0);
	CU_ASSERT(exit.kind == DUNE_EXIT_EXCEPTION && exit.address == space.data && !exit.from_monitor);
	CU_ASSERT_EQUAL(exit.error_code, 0x15);
	CU_ASSERT_EQUAL(space.context.regs.rip, space.data);
	CU_ASSERT_EQUAL(space.context.regs.rsp, space.data);
}

static void a_system_call_exits_with_its_registers(void)
{
	struct space space;
	open_machine();
	make(&space, add_code, sizeof add_code);
	struct dune_exit exit = call(&space, machine->trampoline_call, 11, 22);
	CU_ASSERT_EQUAL(exit.kind, DUNE_EXIT_SYSTEM_CALL);
	CU_ASSERT_EQUAL(space.context.regs.rax, UINT64_MAX);
	CU_ASSERT_EQUAL(space.context.regs.rdi, 11);
	CU_ASSERT_EQUAL(space.context.regs.rsi, 22);
	CU_ASSERT_EQUAL(space.context.regs.rip, machine->trampoline_call + 2);
	CU_ASSERT_EQUAL(space.context.regs.rsp, space.data);
}

static void edit(struct space *space, unsigned place, uint64_t value)
{
	struct dune_edit change = {
		.entry = machine->edit_tables + ((uint8_t *)space->entry[place] - machine->tables.host), .value = value
	};
	CU_ASSERT_EQUAL_FATAL(dune_vcpu_edit(vcpu, &space->context, &change, 1), 0);
	CU_ASSERT_EQUAL(*space->entry[place], value);
}

static void an_edit_by_the_monitor_is_seen_at_once(void)
{
	struct space space;
	open_machine();
	make(&space, add_code, sizeof add_code);
	*(uint8_t *)space.memory[2] = 7;
	*(uint8_t *)space.memory[3] = 8;
	uint64_t before = *space.entry[2];
	CU_ASSERT_EQUAL(read_byte(&space, space.data), 7);
	CU_ASSERT_EQUAL(call(&space, machine->trampoline_touch, space.data, 9).kind, DUNE_EXIT_SERVICE);
	edit(&space, 2, *space.entry[2] & ~DUNE_PTE_WRITE); /* a right taken away */
	struct dune_exit exit = call(&space, machine->trampoline_touch, space.data, 9);
	CU_ASSERT(exit.kind == DUNE_EXIT_EXCEPTION && exit.error_code == 7);
	CU_ASSERT_EQUAL(read_byte(&space, space.data), 9);
	edit(&space, 2, (before & ~DUNE_PTE_FRAME) | (*space.entry[3] & DUNE_PTE_FRAME)); /* another page */
	CU_ASSERT_EQUAL(read_byte(&space, space.data), 8);
	edit(&space, 2, 0); /* no page */
	exit = call(&space, machine->trampoline_touch, space.data, 0);
	CU_ASSERT(exit.kind == DUNE_EXIT_EXCEPTION && exit.error_code == 4);
	edit(&space, 2, before);
	CU_ASSERT_EQUAL(read_byte(&space, space.data), 9);
}

static void an_edit_from_outside_is_seen_as_probed(void)
{
	struct space space;
	open_machine();
	make(&space, add_code, sizeof add_code);
	*(uint8_t *)space.memory[2] = 7;
	*(uint8_t *)space.memory[3] = 8;
	CU_ASSERT_EQUAL(read_byte(&space, space.data), 7);
	*space.entry[2] = (*space.entry[2] & ~DUNE_PTE_FRAME) | (*space.entry[3] & DUNE_PTE_FRAME);
	space.context.generation = dune_generation_new();
	/* The control of the test above: without the monitor a shadowing host goes on showing the old page. */
	CU_ASSERT_EQUAL(read_byte(&space, space.data), machine->host.shadow_paging ? 7 : 8);
}

static void each_address_space_shows_its_own_page(void)
{
	struct space spaces[2];
	open_machine();
	for (unsigned i = 0; i < 2; i++) {
		make(&spaces[i], add_code, sizeof add_code);
		*(uint8_t *)spaces[i].memory[2] = (uint8_t)(10 + i);
	}
	unsigned wrong = 0;
	for (unsigned round = 0; round < ROUNDS; round++)
		wrong += read_byte(&spaces[round % 2], spaces[round % 2].data) != 10 + round % 2;
	CU_ASSERT_EQUAL(wrong, 0);
}

static void *edit_elsewhere(void *argument)
{
	struct space *space = argument;
	struct dune_vcpu *mine = dune_vcpu_get(machine);
	struct dune_edit change = {
		.entry = machine->edit_tables + ((uint8_t *)space->entry[2] - machine->tables.host),
		.value = (*space->entry[2] & ~DUNE_PTE_FRAME) | (*space->entry[3] & DUNE_PTE_FRAME)
	};
	return mine && mine != vcpu && dune_vcpu_edit(mine, &space->context, &change, 1) == 0 ? NULL : argument;
}

static void an_edit_on_another_virtual_cpu_is_seen_here(void)
{
	struct space space;
	pthread_t thread;
	void *failed;
	open_machine();
	make(&space, add_code, sizeof add_code);
	*(uint8_t *)space.memory[2] = 7;
	*(uint8_t *)space.memory[3] = 8;
	CU_ASSERT_EQUAL(read_byte(&space, space.data), 7);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, edit_elsewhere, &space), 0);
	pthread_join(thread, &failed);
	CU_ASSERT_PTR_NULL(failed);
	/* This virtual CPU still has the root loaded from before the edit. */
	CU_ASSERT_EQUAL(read_byte(&space, space.data), 8);
}

static void *kick(void *argument)
{
	for (unsigned i = 0; i < 20; i++) {
		usleep(20000);
		dune_vcpu_kick(argument);
	}
	return NULL;
}

static void a_kick_stops_a_spinning_compartment(void)
{
	struct space space;
	pthread_t thread;
	open_machine();
	make(&space, spin_code, sizeof spin_code);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, kick, vcpu), 0);
	struct dune_exit exit = call(&space, space.code, 0, 0);
	CU_ASSERT_EQUAL(exit.kind, DUNE_EXIT_KICKED);
	CU_ASSERT_EQUAL(space.context.regs.rip, space.code);
	pthread_join(thread, NULL);
}

/* Under a root that has yet to be loaded, which ring 0 may do, and under the one that is loaded. */
static void a_kick_that_came_before_stops_the_first_instruction(void)
{
	struct space spaces[2];
	open_machine();
	for (unsigned i = 0; i < 2; i++)
		make(&spaces[i], spin_code, sizeof spin_code);
	for (unsigned i = 0; i < 8; i++) {
		struct space *space = &spaces[i / 2 % 2];
		dune_vcpu_interrupt_own(vcpu);
		struct dune_exit exit = call(space, space->code, i, 0);
		CU_ASSERT_EQUAL(exit.kind, DUNE_EXIT_KICKED);
		CU_ASSERT_EQUAL(space->context.regs.rip, space->code);
		CU_ASSERT_EQUAL(space->context.regs.rax, UINT64_MAX);
		CU_ASSERT_EQUAL(space->context.regs.rdi, i);
		CU_ASSERT_EQUAL(space->context.regs.rsp, space->data);
	}
}

static void a_virtual_cpu_is_made_anew_after_a_triple_fault(void)
{
	struct space space, good;
	open_machine();
	make(&good, add_code, sizeof add_code);
	make(&space, add_code, sizeof add_code);
	/* A root without the window: the first instruction cannot be fetched, nor can the fault be delivered. */
	space.context.root = dune_tables_new(&machine->tables);
	struct dune_exit exit = call(&space, space.code, 0, 0);
	CU_ASSERT_EQUAL(exit.kind, DUNE_EXIT_BROKEN);
	exit = call(&good, good.code, 40, 2);
	CU_ASSERT(exit.kind == DUNE_EXIT_SERVICE && good.context.regs.rdi == 42);
	exit = call(&good, machine->trampoline_call, 0, 0);
	CU_ASSERT_EQUAL(exit.kind, DUNE_EXIT_SYSTEM_CALL);
}

static const struct harness_test tests[] = {
	{ "the facts about the host hold together", host_facts_hold_together, HARNESS_FORK },
	{ "code in ring 3 runs and answers", ring3_runs_and_answers, HARNESS_FORK },
	{ "one stopped just before its exit makes it, after another's exit from there",
	  one_stopped_just_before_its_exit_makes_it_after_anothers_exit_from_there, HARNESS_FORK },
	{ "a page fault says what was touched, where and how", a_fault_says_what_where_and_how, HARNESS_FORK },
	{ "a system call exits with its registers", a_system_call_exits_with_its_registers, HARNESS_FORK },
	{ "an edit by the monitor is seen at once", an_edit_by_the_monitor_is_seen_at_once, HARNESS_FORK },
	{ "an edit from outside is seen as the probe says", an_edit_from_outside_is_seen_as_probed, HARNESS_FORK },
	{ "each address space shows its own page", each_address_space_shows_its_own_page, HARNESS_FORK },
	{ "an edit on another virtual CPU is seen here", an_edit_on_another_virtual_cpu_is_seen_here, HARNESS_FORK },
	{ "a kick stops a spinning compartment", a_kick_stops_a_spinning_compartment, HARNESS_FORK },
	{ "a kick that came before stops a compartment at its first instruction",
	  a_kick_that_came_before_stops_the_first_instruction, HARNESS_FORK },
	{ "a virtual CPU is made anew after a triple fault", a_virtual_cpu_is_made_anew_after_a_triple_fault, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
