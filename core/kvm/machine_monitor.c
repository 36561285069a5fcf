/*
 * machine_monitor.c - the monitor's pages: what every root has in the first GiB of the window, and where the monitor edits.
 * Sources: AMD64 APM vol. 2; Intel SDM vol. 1 and 3.
 */
#include "kvm/machine_parts.h"
#include "guest/layout.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

extern const uint8_t dune_local_begin[], dune_local_end[]; /* guest/compartment.S, as data */

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

int dune_machine_lay_out_monitor(struct dune_machine *machine)
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
