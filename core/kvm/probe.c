/*
 * probe.c - what a host's KVM does, found out by running code in it: how compartments reach the supervisor, whether
 * ring 0 is native, how page tables are walked, whether dirty bits can be trusted, what an exit costs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "kvm/clock.h"
#include "kvm/tags.h"

enum {
	ROUNDS = 101,
	PROBE_VALUE = 0x5a
};

struct probe {
	struct dune_machine *machine;
	struct dune_vcpu *vcpu;
	struct dune_context context;
	uint64_t stack;             /* a page that ring 3 may write */
	uint64_t data, *data_entry; /* another one, kept for the paging probe */
	uint64_t absent;            /* an address without a page */
	struct dune_exit exit;
};

static uint64_t map(struct probe *probe, uint64_t address, uint64_t bits, uint64_t **entry)
{
	uint64_t frame = dune_frame_new(probe->machine);
	*entry = dune_tables_entry(&probe->machine->tables, probe->context.root, address, true);
	if (!frame || !*entry) {
		dune_fail(ENOMEM, "out of guest memory while probing");
		return 0;
	}
	**entry = frame | bits | DUNE_PTE_PRESENT | DUNE_PTE_USER | DUNE_PTE_NO_EXECUTE;
	return frame;
}

static int prepare(struct probe *probe)
{
	struct dune_machine *machine = probe->machine;
	uint64_t root = dune_root_new(machine);
	if (!root || !(probe->vcpu = dune_vcpu_get(machine)))
		return -1;
	dune_context_start(&probe->context, UINT64_MAX, root);
	uint64_t *stack_entry;
	probe->stack = machine->window + WINDOW_USER;
	probe->data = probe->stack + DUNE_PAGE_SIZE;
	probe->absent = probe->data + (16 << 20);
	if (!map(probe, probe->stack, DUNE_PTE_WRITE, &stack_entry) ||
	    !map(probe, probe->data, DUNE_PTE_WRITE, &probe->data_entry))
		return -1;
	return 0;
}

/* Runs one of the trampoline's probing routines to its exit. */
static enum dune_exit_kind run(struct probe *probe, uint64_t routine, uint64_t address, uint64_t value)
{
	probe->context.regs = (struct kvm_regs){ .rip = routine,
						 .rdi = address,
						 .rsi = value,
						 .r13 = probe->machine->trampoline_service,
						 .rax = UINT64_MAX };
	dune_vcpu_run(probe->vcpu, &probe->context, &probe->exit);
	return probe->exit.kind;
}

static int unexpected(const struct probe *probe, const char *what)
{
	return dune_fail(ENOTSUP, "this KVM cannot run compartments: %s (exit %d, vector %u, address %#llx, %s)", what,
			 (int)probe->exit.kind, probe->exit.vector, (unsigned long long)probe->exit.address,
			 dune_exit_name(probe->exit.reason));
}

static int find_exit_path(struct probe *probe)
{
	enum {
		GENERAL_PROTECTION = 13
	};
	struct dune_machine *machine = probe->machine;
	run(probe, machine->trampoline_touch, probe->data, 0);
	if (probe->exit.kind == DUNE_EXIT_EXCEPTION && probe->exit.vector == GENERAL_PROTECTION) {
		dune_machine_use_gate(machine);
		run(probe, machine->trampoline_touch, probe->data, 0);
	}
	if (probe->exit.kind != DUNE_EXIT_SERVICE)
		return unexpected(probe, "no way out of ring 3");
	if (run(probe, machine->trampoline_touch, probe->absent, 0) != DUNE_EXIT_EXCEPTION ||
	    probe->exit.vector != 14 || probe->exit.address != probe->absent)
		return unexpected(probe, "a page fault is not reported");
	return 0;
}

/* Whether ring 3 has XRSTOR is not what CPUID says to guests: interpreted hosts run ring 3 as the host does. */
static int find_vector_state(struct probe *probe)
{
	enum {
		INVALID_OPCODE = 6
	};
	struct dune_machine *machine = probe->machine;
	machine->host.xsave = true;
	for (;;) {
		probe->context.regs = (struct kvm_regs){ .rip = machine->trampoline_enter,
							 .rsp = probe->stack + DUNE_PAGE_SIZE,
							 .rbx = machine->trampoline_resume,
							 .r13 = machine->trampoline_service };
		dune_vcpu_run(probe->vcpu, &probe->context, &probe->exit);
		if (probe->exit.kind == DUNE_EXIT_SERVICE)
			return 0;
		if (!machine->host.xsave || probe->exit.vector != INVALID_OPCODE)
			return unexpected(probe, "the vector state cannot be cleaned");
		dune_machine_use_fxsave(machine);
		machine->host.vector_components = 3; /* x87, SSE */
	}
}

static int find_ring0(struct probe *probe)
{
	struct dune_machine *machine = probe->machine;
	if (run(probe, machine->trampoline_call, 0, 0) == DUNE_EXIT_SYSTEM_CALL)
		return 0;
	machine->host.ring0_native = false;
	if (dune_vcpu_reset(probe->vcpu) != 0)
		return dune_fail(errno, "KVM refused the state of a virtual CPU: %s", strerror(errno));
	if (run(probe, machine->trampoline_call, 0, 0) != DUNE_EXIT_SYSTEM_CALL)
		return unexpected(probe, "a system call is not reported");
	return 0;
}

static int find_paging(struct probe *probe)
{
	struct dune_machine *machine = probe->machine;
	uint64_t other = dune_frame_new(machine);
	if (!other)
		return -1;
	*(uint8_t *)dune_physical_at(machine, other) = PROBE_VALUE;
	if (run(probe, machine->trampoline_touch, probe->data, 0) != DUNE_EXIT_SERVICE)
		return unexpected(probe, "memory cannot be read");
	bool read_clean = !(*probe->data_entry & DUNE_PTE_DIRTY) && *probe->data_entry & DUNE_PTE_ACCESSED;
	if (run(probe, machine->trampoline_touch, probe->data, 1) != DUNE_EXIT_SERVICE || probe->context.regs.rdi != 1)
		return unexpected(probe, "memory written is not memory read");
	machine->host.dirty_bits = read_clean && *probe->data_entry & DUNE_PTE_DIRTY;
	/* The forbidden edit, on tables that are used for nothing else afterwards. */
	*probe->data_entry = (*probe->data_entry & ~DUNE_PTE_FRAME) | other;
	probe->context.generation = dune_generation_new();
	if (run(probe, machine->trampoline_touch, probe->data, 0) != DUNE_EXIT_SERVICE)
		return unexpected(probe, "memory cannot be read");
	machine->host.shadow_paging = probe->context.regs.rdi != PROBE_VALUE;
	return 0;
}

/* Clears the dirty bit from here.  flush: and has the translation dropped before the next run. */
static void clear_dirty(struct probe *probe, bool flush)
{
	__atomic_fetch_and(probe->data_entry, ~DUNE_PTE_DIRTY, __ATOMIC_SEQ_CST);
	if (flush)
		probe->context.generation = dune_generation_new();
}

/* Reads or writes the page.  Returns whether its entry is dirty then; -1: it could not be done. */
static int dirty_after(struct probe *probe, bool write)
{
	if (run(probe, probe->machine->trampoline_touch, probe->data, write) != DUNE_EXIT_SERVICE)
		return unexpected(probe, "memory cannot be touched");
	return (*probe->data_entry & DUNE_PTE_DIRTY) != 0;
}

/*
 * Whether finished sthreads can be put back by the dirty bits: a read leaves them clear, a write sets them, and one that is
 * cleared from here is set by the next write once the translation was flushed.  Where page tables are shadowed, what is
 * cleared from here is not seen; where ring 0 is interpreted, nothing is known of who walks the tables.
 */
static int find_recycling(struct probe *probe)
{
	enum {
		TRIES = 8
	};
	struct dune_host *host = &probe->machine->host;
	host->recycling_copies = !host->ring0_native ? "ring 0 is interpreted" :
				 host->shadow_paging ? "page tables are shadowed" :
				 !host->dirty_bits   ? "dirty bits do not follow what ring 3 does" :
						       NULL;
	for (unsigned i = 0; i < TRIES && !host->recycling_copies; i++) {
		clear_dirty(probe, true);
		int read = dirty_after(probe, false), written = dirty_after(probe, true);
		clear_dirty(probe, false);
		int unflushed = dirty_after(probe, true);
		clear_dirty(probe, true);
		int again = dirty_after(probe, true);
		if (read < 0 || written < 0 || unflushed < 0 || again < 0)
			return -1;
		host->dirty_bits_cached |= !unflushed;
		if (read)
			host->recycling_copies = "reading sets dirty bits";
		else if (!written || !again)
			host->recycling_copies = "writing does not set a dirty bit that was cleared";
	}
	return 0;
}

/* Whether ring 3 can be given clocks: its counter must be the host's, or differ by what KVM says. */
static void find_clock(struct probe *probe, const struct dune_clock_sample *from)
{
	enum {
		READINGS = 8
	};
	struct dune_machine *machine = probe->machine;
	struct dune_vcpu *vcpu = probe->vcpu;
	uint64_t told = 0;
	bool equal = true, shifted = dune_clock_offset(vcpu, &told);
	for (unsigned i = 0; i < READINGS; i++) {
		uint64_t before = __rdtsc();
		if (run(probe, machine->trampoline_counter, 0, 0) != DUNE_EXIT_SERVICE)
			return;
		uint64_t inside = probe->context.regs.rdi, after = __rdtsc();
		equal = equal && inside >= before && inside <= after;
		shifted = shifted && inside - told >= before && inside - told <= after;
	}
	if (!equal && !shifted)
		return;
	machine->clock_has_offset = !equal;
	machine->clock_multiplier = dune_clock_multiplier(vcpu, from);
	machine->host.ring3_clocks = machine->clock_multiplier != 0;
	vcpu->clock_multiplier = machine->clock_multiplier;
	vcpu->clock_offset = equal ? 0 : told;
}

/* How roots are loaded from now on.  A KVM that names PCID and refuses it has none. */
static int choose_loads(struct probe *probe)
{
	struct dune_machine *machine = probe->machine;
	struct dune_host *host = &machine->host;
	machine->roots_by_ring0 = host->ring0_native && !host->shadow_paging;
	machine->tags_used = machine->roots_by_ring0 && host->pcid ? TAG_COUNT : 0;
	if (!machine->tags_used || dune_vcpu_reset(probe->vcpu) == 0)
		return 0;
	machine->tags_used = 0;
	host->pcid = host->invpcid = false;
	if (dune_vcpu_reset(probe->vcpu) != 0)
		return dune_fail(errno, "KVM refused the state of a virtual CPU: %s", strerror(errno));
	return 0;
}

static int compare(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;
	return (a > b) - (a < b);
}

static double cost(struct probe *probe, uint64_t routine, uint64_t address)
{
	double samples[ROUNDS];
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct timespec from, to;
		clock_gettime(CLOCK_MONOTONIC, &from);
		run(probe, routine, address, 0);
		clock_gettime(CLOCK_MONOTONIC, &to);
		samples[i] = (to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec);
	}
	qsort(samples, ROUNDS, sizeof *samples, compare);
	return samples[ROUNDS / 2];
}

int dune_machine_probe(struct dune_machine *machine)
{
	struct probe probe = { .machine = machine };
	struct dune_clock_sample began = dune_clock_now();
	machine->host.ring0_native = true;
	machine->host.exit_path = DUNE_EXIT_IO_BITMAP;
	machine->roots_by_ring0 = false;
	machine->tags_used = 0;
	if (prepare(&probe) != 0 || find_exit_path(&probe) != 0 || find_vector_state(&probe) != 0 ||
	    find_ring0(&probe) != 0 || find_paging(&probe) != 0 || choose_loads(&probe) != 0 ||
	    find_recycling(&probe) != 0)
		return -1;
	machine->host.exit_nanoseconds = cost(&probe, machine->trampoline_touch, probe.data);
	machine->host.trap_nanoseconds = cost(&probe, machine->trampoline_touch, probe.absent);
	machine->host.call_nanoseconds = cost(&probe, machine->trampoline_call, 0);
	find_clock(&probe, &began);
	dune_vcpu_release(probe.vcpu);
	dune_context_free(&probe.context);
	return 0;
}
