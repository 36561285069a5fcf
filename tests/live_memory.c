/* live_memory.c - what an sthread may touch: each denial is told exactly, and its control shows the right granted. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum {
	PAGE = 4096,
	MIB = 1 << 20
};

static volatile uint8_t global_array[8 * PAGE] __attribute__((aligned(4096))) = { 0xc3, 1 };
static const uint8_t constant_array[2 * PAGE] __attribute__((aligned(4096))) = { 0xc3, 7 };

static void *fresh_mapping(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CU_ASSERT_PTR_NOT_EQUAL_FATAL(at, MAP_FAILED);
	memset(at, 0x77, size);
	return at;
}

/* ---- the process's own memory ------------------------------------------------------------------------------------ */

static void memory_after_init(void)
{
	uint8_t *early = fresh_mapping(MIB);

	live_init();

	uint8_t *late = fresh_mapping(4 * MIB);

	ASSERT_PAGE_FAULT(live_run_bare(body_read, late + 5), READ_ABSENT, late + 5);
	ASSERT_PAGE_FAULT(live_run_bare(body_write, late + MIB), WRITE_ABSENT, late + MIB);
	ASSERT_PAGE_FAULT(live_run_bare(body_jump, late), EXECUTE_ABSENT, late);
	ASSERT_RETURNED(live_run_bare(body_read, early + 5), 0x77);
	ASSERT_RETURNED(live_run_bare(body_write, early + 5), 1);
	ASSERT_EQUAL(early[5], 0x77);
	ASSERT_EQUAL(late[5], 0x77);
}

static void heap_after_init(void)
{
	live_init();

	/* The heap may have shrunk since: below its old end there is the picture of it. */
	uint8_t *inside = sbrk(4 * MIB) + 16, *grown = sbrk(0) - PAGE;

	CU_ASSERT_FATAL((uint64_t)inside < supervisor.snapshot.heap_end + MIB &&
			(uint64_t)grown > supervisor.snapshot.heap_end);
	*inside = *grown = 0x66;
	if ((uint64_t)inside < supervisor.snapshot.heap_end)
		ASSERT_RETURNED(live_run_bare(body_read, inside), 0);
	ASSERT_PAGE_FAULT(live_run_bare(body_read, grown), READ_ABSENT, grown);
	ASSERT_PAGE_FAULT(live_run_bare(body_write, grown), WRITE_ABSENT, grown);
	ASSERT_EQUAL(*grown, 0x66);
}

static void main_stack(void)
{
	uint8_t local[64 << 10];
	struct life life;

	memset(local, 0x44, sizeof(local));
	live_init();
	life = live_run_bare(body_read, local);
	ASSERT_PAGE_FAULT(life, READ_ABSENT, local);
	ASSERT_PAGE_FAULT(live_run_bare(body_write, local), WRITE_ABSENT, local);
	ASSERT_EQUAL(local[0], 0x44);
}

static void *use_own_stack(void *unused)
{
	volatile uint8_t local[512 << 10];

	(void)unused;
	for (size_t i = 0; i < sizeof(local); i += PAGE)
		local[i] = (uint8_t)(i / PAGE);
	return (void *)(uintptr_t)(local[5 * PAGE] + 1);
}

static void own_stack(void)
{
	uint64_t low;

	live_init();
	low = live_window() + SPACE_STACK_LOW;
	ASSERT_RETURNED(live_run_bare(use_own_stack, NULL), 6);
	/* Below the stack nothing is mapped, and its lowest page is still stack. */
	ASSERT_PAGE_FAULT(live_run_bare(body_write, (void *)(low - 1)), WRITE_ABSENT, low - 1);
	ASSERT_RETURNED(live_run_bare(body_write, (void *)low), 1);
	ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)(low + 0x800000)), READ_ABSENT, low + 0x800000);
}

static void low_addresses(void)
{
	static const uint64_t addresses[] = { 0, 8, 0xfff, 0x1000, 0x8000, 0xffff };
	uint8_t *lowest = (uint8_t *)0x10000;
	bool mapped =
		mmap(lowest, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == lowest;
	/* Where the system lets this process have pages down there, they are not shown either. */
	bool below = mmap((void *)PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void *)PAGE;

	if (mapped)
		*lowest = 0x31;
	if (below)
		*(volatile uint8_t *)PAGE = 0xc3;
	live_init();
	for (size_t i = 0; i < sizeof(addresses) / sizeof(*addresses); i++) {
		void *at = (void *)addresses[i];

		ASSERT_PAGE_FAULT(live_run_bare(body_read, at), READ_ABSENT, at);
		ASSERT_PAGE_FAULT(live_run_bare(body_write, at), WRITE_ABSENT, at);
		ASSERT_PAGE_FAULT(live_run_bare(body_jump, at), EXECUTE_ABSENT, at);
	}
	if (mapped)
		ASSERT_RETURNED(live_run_bare(body_read, lowest), 0x31);
}

static void *read_noncanonical(void *address)
{
	return body_read(address);
}

static void high_addresses(void)
{
	live_init();
	ASSERT_EXCEPTION(live_run_bare(read_noncanonical, (void *)0x800000000000), GENERAL_PROTECTION, 0);
	ASSERT_EXCEPTION(live_run_bare(read_noncanonical, (void *)0xffff000000000000), GENERAL_PROTECTION, 0);
	ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)0xffff888000000000), READ_ABSENT, 0xffff888000000000);
	ASSERT_PAGE_FAULT(live_run_bare(body_write, (void *)0xffffffff81000000), WRITE_ABSENT, 0xffffffff81000000);
}

/* ---- kinds of pages ---------------------------------------------------------------------------------------------- */

static void text_and_constants(void)
{
	live_init();
	ASSERT_PAGE_FAULT(live_run_bare(body_write, (void *)(uintptr_t)body_nothing), WRITE_DENIED,
			  (uintptr_t)body_nothing);
	ASSERT_PAGE_FAULT(live_run_bare(body_write, (void *)(uintptr_t)memcpy), WRITE_DENIED, (uintptr_t)memcpy);
	ASSERT_RETURNED(live_run_bare(body_read, (void *)(uintptr_t)body_nothing),
			*(const uint8_t *)(uintptr_t)body_nothing);
	ASSERT_PAGE_FAULT(live_run_bare(body_write, (void *)&constant_array[PAGE]), WRITE_DENIED,
			  &constant_array[PAGE]);
	ASSERT_RETURNED(live_run_bare(body_read, (void *)&constant_array[1]), 7);
	ASSERT_RETURNED(live_run_bare(body_write, (void *)&global_array[1]), 1);
	ASSERT_EQUAL(global_array[1], 1);
}

static void *jump_to_stack(void *at)
{
	volatile uint8_t local[16] = { 0xc3 };

	*(volatile void *volatile *)at = local;
	return body_jump((void *)local);
}

static void *jump_to_arena(void *at)
{
	uint8_t *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	code[0] = 0xc3;
	*(volatile void *volatile *)at = code;
	return body_jump(code);
}

static void *ask_for_executable_memory(void *unused)
{
	(void)unused;
	void *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool refused = code == MAP_FAILED && errno == EPERM;

	code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	refused = refused && code != MAP_FAILED && mprotect(code, PAGE, PROT_READ | PROT_EXEC) == -1 && errno == EPERM;
	refused = refused && mprotect((void *)global_array, PAGE, PROT_READ | PROT_EXEC) == -1 && errno == EPERM;
	return (void *)refused;
}

static void *just_return(void *argument)
{
	return argument;
}

static void data_is_not_code(void)
{
	uint8_t *heap = malloc(100);

	heap[0] = 0xc3;
	live_init();

	tag_t tag = tag_new();
	void **at = smalloc(tag, PAGE);
	sc_t sc;
	struct life life;

	sc_init(&sc);
	sc_mem_add(&sc, tag, PROT_READ | PROT_WRITE);
	*(uint8_t *)(at + 1) = 0xc3;
	ASSERT_PAGE_FAULT(live_run_bare(body_jump, (void *)global_array), EXECUTE_DENIED, global_array);
	ASSERT_PAGE_FAULT(live_run_bare(body_jump, heap), EXECUTE_DENIED, heap);
	ASSERT_PAGE_FAULT(live_run_bare(body_jump, (void *)constant_array), EXECUTE_DENIED, constant_array);
	ASSERT_PAGE_FAULT(live_run(&sc, body_jump, at + 1), EXECUTE_DENIED, at + 1);
	life = live_run(&sc, jump_to_stack, at);
	ASSERT_PAGE_FAULT(life, EXECUTE_DENIED, *at);
	ASSERT_EQUAL(life.info.instruction, *at);
	life = live_run(&sc, jump_to_arena, at);
	ASSERT_PAGE_FAULT(life, EXECUTE_DENIED, *at);
	ASSERT_RETURNED(live_run_bare(ask_for_executable_memory, NULL), 1);
	ASSERT_RETURNED(live_run_bare(body_jump, (void *)(uintptr_t)just_return), 1);
}

static void monitor_pages(void)
{
	static const uint64_t supervisor_only[] = { WINDOW_MONITOR,
						    WINDOW_DESCRIPTORS,
						    WINDOW_DESCRIPTORS + 0x1000,
						    WINDOW_PROCESSORS,
						    WINDOW_PROCESSORS + 0x1000,
						    WINDOW_PROCESSORS + 0x2000,
						    WINDOW_PROCESSORS + 0x3000,
						    WINDOW_LIFE_MONITOR };
	static const uint64_t read_only[] = { WINDOW_TRAMPOLINE, WINDOW_CLEAN_STATE, WINDOW_LIFE };

	live_init();
	for (size_t i = 0; i < sizeof(supervisor_only) / sizeof(*supervisor_only); i++) {
		uint64_t at = live_window() + supervisor_only[i] + 8;

		ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)at), READ_DENIED, at);
		ASSERT_PAGE_FAULT(live_run_bare(body_write, (void *)at), WRITE_DENIED, at);
		ASSERT_PAGE_FAULT(live_run_bare(body_jump, (void *)at), EXECUTE_DENIED, at);
	}
	for (size_t i = 0; i < sizeof(read_only) / sizeof(*read_only); i++) {
		uint64_t at = live_window() + read_only[i] + 1;

		ASSERT_END(live_run_bare(body_read, (void *)at), STHREAD_RETURNED);
		ASSERT_PAGE_FAULT(live_run_bare(body_write, (void *)at), WRITE_DENIED, at);
	}
	ASSERT_PAGE_FAULT(live_run_bare(body_jump, (void *)(live_window() + WINDOW_LIFE)), EXECUTE_DENIED,
			  live_window() + WINDOW_LIFE);
	ASSERT_PAGE_FAULT(live_run_bare(body_jump, (void *)(live_window() + WINDOW_CLEAN_STATE)), EXECUTE_DENIED,
			  live_window() + WINDOW_CLEAN_STATE);
	/* Where the monitor has the page tables mapped while it edits them, compartments have nothing. */
	ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)(live_window() + ((uint64_t)2 << 30))), READ_ABSENT,
			  live_window() + ((uint64_t)2 << 30));
}

struct frames {
	unsigned tables, users, writable_and_executable, supervisors;
	bool *seen; /* frames of the pool that one sthread can write */
	unsigned shared;
};

static void count_frame(uint64_t address, uint64_t entry, void *argument)
{
	struct frames *frames = argument;
	const struct dune_machine *machine = supervisor.machine;
	uint64_t frame = entry & DUNE_PTE_FRAME;

	(void)address;
	frames->tables += frame - machine->table_arena.physical < machine->table_arena.size;
	frames->users += (entry & DUNE_PTE_USER) != 0;
	frames->supervisors += !(entry & DUNE_PTE_USER);
	frames->writable_and_executable +=
		entry & DUNE_PTE_WRITE && entry & DUNE_PTE_USER && !(entry & DUNE_PTE_NO_EXECUTE);
	if (entry & DUNE_PTE_USER && entry & DUNE_PTE_WRITE &&
	    frame - machine->frames.physical < machine->frames.size) {
		bool *seen = &frames->seen[(frame - machine->frames.physical) / PAGE];

		frames->shared += *seen;
		*seen = true;
	}
}

static void *write_everywhere_and_park(void *unused)
{
	char *block = malloc(3 * PAGE);

	(void)unused;
	memset(block, 1, 3 * PAGE);
	memset((void *)global_array, 2, sizeof(global_array));
	sthread_park();
	return NULL;
}

static void tables_and_neighbours(void)
{
	live_init();

	struct frames frames = { 0 };
	sthread_t st[4];
	sc_t sc;

	frames.seen = calloc(supervisor.machine->frames.size / PAGE, sizeof(bool));
	sc_init(&sc);
	for (int i = 0; i < 4; i++)
		ASSERT_EQUAL(live_create(&st[i], &sc, write_everywhere_and_park, NULL), 0);
	for (int i = 0; i < 4; i++)
		live_walk(st[i], count_frame, &frames);
	ASSERT_EQUAL(frames.tables, 0);
	ASSERT_EQUAL(frames.writable_and_executable, 0);
	ASSERT_EQUAL(frames.shared, 0);
	CU_ASSERT(frames.users > 1000);         /* the walk finds something, */
	CU_ASSERT(frames.supervisors >= 4 * 8); /* the monitor too, */
	live_walk(st[0], count_frame, &frames);
	CU_ASSERT(frames.shared > 8); /* and would notice a writable frame that two have */
	for (int i = 0; i < 4; i++)
		ASSERT_EQUAL(sthread_kill(st[i]), 0);
	for (int i = 0; i < 4; i++)
		ASSERT_END(live_join(st[i]), STHREAD_KILLED);
}

/* ---- other compartments ------------------------------------------------------------------------------------------ */

static void *map_and_park(void *unused)
{
	uint8_t *arena = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)unused;
	memset(arena, 0x5c, 64 * PAGE);
	global_array[100] = 0x5c;
	sthread_park();
	return (void *)(uintptr_t)(arena[40 * PAGE] == 0x5c && global_array[100] == 0x5c);
}

static void anothers_private_pages(void)
{
	live_init();

	uint64_t arena = live_window() + SPACE_ARENA + 40 * PAGE;
	sthread_t st;
	sc_t sc;

	sc_init(&sc);
	ASSERT_EQUAL(live_create(&st, &sc, map_and_park, NULL), 0);
	ASSERT_PAGE_FAULT(live_run_bare(body_read, (void *)arena), READ_ABSENT, arena);
	ASSERT_PAGE_FAULT(live_run_bare(body_write, (void *)arena), WRITE_ABSENT, arena);
	ASSERT_RETURNED(live_run_bare(body_read, (void *)&global_array[100]), 0);
	ASSERT_RETURNED(live_run_bare(body_write, (void *)&global_array[100]), 1);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_RETURNED(live_join(st), 1);
}

static atomic_int keep_churning = 1;

static void *churn(void *unused)
{
	(void)unused;
	while (keep_churning) {
		struct life life = live_run_bare(body_write, (void *)&global_array[2 * PAGE]);

		if (life.error || life.value != (void *)1)
			return (void *)1;
	}
	return NULL;
}

static void *check_own_page(void *value)
{
	for (int i = 0; i < 200; i++) {
		global_array[2 * PAGE] = (uint8_t)(uintptr_t)value;
		for (volatile int j = 0; j < 5000; j = j + 1)
			;
		if (global_array[2 * PAGE] != (uint8_t)(uintptr_t)value)
			return NULL;
	}
	return (void *)1;
}

static void two_host_threads(void)
{
	pthread_t thread;
	void *bad;

	live_init();
	pthread_create(&thread, NULL, churn, NULL);
	for (uintptr_t i = 0; i < 100; i++)
		ASSERT_RETURNED(live_run_bare(check_own_page, (void *)(i + 1)), 1);
	keep_churning = 0;
	pthread_join(thread, &bad);
	CU_ASSERT_PTR_NULL(bad);
	ASSERT_EQUAL(global_array[2 * PAGE], 0);
}

static const struct harness_test tests[] = {
	{ "memory that the process maps after sthread_init() is absent", memory_after_init, HARNESS_FORK },
	{ "heap that grows after sthread_init() is absent", heap_after_init, HARNESS_FORK },
	{ "the stack of the process is absent", main_stack, HARNESS_FORK },
	{ "an sthread has a stack of its own, with nothing around it", own_stack, HARNESS_FORK },
	{ "addresses below 64 KiB are never mapped", low_addresses, HARNESS_FORK },
	{ "the kernel's half of the addresses is absent", high_addresses, HARNESS_FORK },
	{ "text and constants are read-only", text_and_constants, HARNESS_FORK },
	{ "data, heap, stack, tags and mapped memory are not executable", data_is_not_code, HARNESS_FORK },
	{ "the monitor's pages are out of reach, the trampoline's are read-only", monitor_pages, HARNESS_FORK },
	{ "no page table is mapped, no page is writable and executable, no writable page is shared",
	  tables_and_neighbours, HARNESS_FORK },
	{ "an sthread does not see the private pages of another", anothers_private_pages, HARNESS_FORK },
	{ "sthreads on two host threads do not see each other's writes", two_host_threads, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
