/* barrier.c - see barrier.h */
#include "barrier.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <dune.h>

static struct heap *watched;
static bool in_dune;

unsigned long barrier_faults;

/* Calls protect(address, size) for each run of pages with old cells that are not dirty already. */
static void for_old_runs(const struct heap *heap, void (*protect)(uint8_t *address, size_t size))
{
	size_t begin = 0;
	for (size_t page = 0; page <= heap->pages; page++) {
		if (page < heap->pages && heap_page_is_old(heap, page))
			continue;
		if (page > begin)
			protect(heap->cells + begin * GC_PAGE, (page - begin) * GC_PAGE);
		begin = page + 1;
	}
}

/* Notes that a page was written to for the first time.  Returns it, or NULL if the address is not a cell's. */
static uint8_t *note(uintptr_t address)
{
	size_t offset = address - (uintptr_t)watched->cells;
	if (offset >= watched->pages * GC_PAGE)
		return NULL;
	barrier_faults++;
	watched->dirty[offset / GC_PAGE] = true;
	return watched->cells + offset / GC_PAGE * GC_PAGE;
}

static void run_here(struct heap *heap)
{
	mutator_run(heap->mutator);
}

static void forget(struct heap *heap)
{
	memset(heap->dirty, 0, heap->pages * sizeof *heap->dirty);
}

static void collect_nothing(struct heap *heap)
{
	(void)heap;
}

/* ---- none ------------------------------------------------------------------------------------------- */

static int begin_none(struct heap *heap)
{
	(void)heap;
	return 0;
}

/* ---- signal ----------------------------------------------------------------------------------------- */

static void handle_signal(int number, siginfo_t *info, void *context)
{
	uint8_t *page = note((uintptr_t)info->si_addr);
	(void)context;
	if (!page || mprotect(page, GC_PAGE, PROT_READ | PROT_WRITE) != 0)
		signal(number, SIG_DFL);
}

static int begin_signal(struct heap *heap)
{
	const struct sigaction action = { .sa_sigaction = handle_signal, .sa_flags = SA_SIGINFO };
	watched = heap;
	return sigaction(SIGSEGV, &action, NULL);
}

static void protect_by_signal(uint8_t *address, size_t size)
{
	if (mprotect(address, size, PROT_READ) != 0) {
		perror("gc: mprotect");
		exit(1);
	}
}

static void arm_signal(struct heap *heap)
{
	forget(heap);
	for_old_runs(heap, protect_by_signal);
}

/* ---- with Dune -------------------------------------------------------------------------------------- */

static _Noreturn void give_up(void)
{
	fprintf(stderr, "gc: %s\n", dune_error());
	_exit(1);
}

/* The rights of the heap: of ring 3, unless the mutator is in ring 0. */
static int rights(int wanted)
{
	return dune_in_guest() ? wanted : wanted | PERM_U;
}

static void map_heap(uint8_t *address, size_t size)
{
	if (dune_vm_map_phys(pgroot, address, size, (void *)dune_va_to_pa(address), rights(PERM_R | PERM_W)) != 0)
		give_up();
}

/* Memory has consecutive guest-physical addresses within a GiB. */
static void map_by_gigabyte(uint8_t *address, size_t size)
{
	while (size) {
		size_t piece = HUGE_PGSIZE - ((uintptr_t)address & HUGE_PGMASK);
		if (piece > size)
			piece = size;
		map_heap(address, piece);
		address += piece;
		size -= piece;
	}
}

static void handle_call(struct dune_tf *tf)
{
	(void)tf;
	dune_ret_from_user(0);
}

static void handle_fault(uintptr_t address, uint64_t error_code, struct dune_tf *tf)
{
	uint8_t *page = error_code & FEC_W ? note(address) : NULL;
	if (page && dune_vm_mprotect(pgroot, page, GC_PAGE, rights(PERM_R | PERM_W)) == 0)
		return;
	dune_printf("gc: page fault of the mutator at %p, rip %p, error code %lx\n", (void *)address, (void *)tf->rip,
		    (unsigned long)error_code);
	_exit(1);
}

static int begin_dune(struct heap *heap)
{
	watched = heap;
	if (dune_set_placement(DUNE_PLACEMENT_ANY) != 0 || dune_init_and_enter() != 0) {
		fprintf(stderr, "gc: %s\n", dune_error());
		return -1;
	}
	in_dune = true;
	dune_register_pgflt_handler(handle_fault);
	map_by_gigabyte(heap->memory, heap->size);
	if (!dune_in_guest()) {
		uint8_t *code = (uint8_t *)PGADDR(mutator_begin);
		dune_register_syscall_handler(handle_call);
		if (dune_vm_map_phys(pgroot, code, (size_t)(mutator_end - code), (void *)dune_va_to_pa(code),
				     PERM_UCODE) != 0)
			give_up();
	}
	return 0;
}

static void run_in_dune(struct heap *heap)
{
	if (dune_in_guest()) {
		mutator_run(heap->mutator);
		return;
	}
	struct dune_tf tf = { .rip = (uintptr_t)mutator_run_in_ring3,
			      .rsp = (uintptr_t)heap->stack_top - 8, /* as after a call */
			      .rflags = 2 | FL_IF,
			      .rdi = (uintptr_t)heap->mutator };
	if (dune_jump_to_user(&tf) != 0)
		give_up();
}

static void protect_in_dune(uint8_t *address, size_t size)
{
	if (dune_vm_mprotect(pgroot, address, size, rights(PERM_R)) != 0)
		give_up();
}

static void arm_trap(struct heap *heap)
{
	forget(heap);
	for_old_runs(heap, protect_in_dune);
}

/* A dirty page.  In ring 0 its bit is cleared here, and the flush comes once for all. */
static int visit(const void *argument, ptent_t *entry, void *va)
{
	const struct heap *heap = argument;
	if (!(__atomic_load_n(entry, __ATOMIC_RELAXED) & PTE_D))
		return 0;
	heap->dirty[((uint8_t *)va - heap->cells) / GC_PAGE] = true;
	if (dune_in_guest())
		__atomic_fetch_and(entry, ~PTE_D, __ATOMIC_SEQ_CST);
	return 0;
}

static void collect_dirty(struct heap *heap)
{
	dune_vm_page_walk(pgroot, heap->cells, heap->cells + heap->pages * GC_PAGE - 1, visit, heap);
	if (dune_in_guest())
		dune_flush_tlb();
}

/* In host placement entries in use are replaced by the library: mapped anew, clean. */
static void arm_dirty(struct heap *heap)
{
	size_t begin = 0;
	for (size_t page = 0; page <= heap->pages && !dune_in_guest(); page++) {
		if (page < heap->pages && heap->dirty[page])
			continue;
		if (page > begin)
			map_by_gigabyte(heap->cells + begin * GC_PAGE, (page - begin) * GC_PAGE);
		begin = page + 1;
	}
	forget(heap);
}

unsigned long barrier_exits(void)
{
	struct dune_counters counters;
	return in_dune && dune_get_counters(&counters) == 0 ? counters.exits : 0;
}

const char *barrier_place(void)
{
	if (!in_dune)
		return "the process";
	return dune_in_guest() ? "ring 0" : "ring 3";
}

/* ---- all of them ------------------------------------------------------------------------------------ */

const struct barrier *barrier_named(const char *name)
{
	static const struct barrier barriers[] = {
		{ "none", begin_none, run_here, collect_nothing, forget },
		{ "signal", begin_signal, run_here, collect_nothing, arm_signal },
		{ "trap", begin_dune, run_in_dune, collect_nothing, arm_trap },
		{ "dirty", begin_dune, run_in_dune, collect_dirty, arm_dirty },
	};
	if (strcmp(name, "dune") == 0)
		name = "dirty";
	for (size_t i = 0; i < sizeof barriers / sizeof *barriers; i++)
		if (strcmp(name, barriers[i].name) == 0)
			return &barriers[i];
	return NULL;
}
