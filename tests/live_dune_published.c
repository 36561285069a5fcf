/*
 * live_dune_published.c - programs written for the published interface of Dune, libdune/dune.h.
 *
 * They do what such programs do, in their way: page tables edited by stores, fixed addresses, roots loaded with tags,
 * functions of their own in ring 3, a system-call handler that passes on.  Each runs in a process of its own; those that
 * need ring 3, handlers and address spaces only run in both placements, unchanged.
 *
 * Like tests/live_published.c it knows nothing but the installed header, is compiled against it by make installcheck, and is
 * valid C++.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dune.h>

#include <asm/prctl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	SKIPPED = 77,
	STACK = 64 << 10,
	THREADS = 4,
	PAGES = 16
};
#define FAR ((char *)0x400000000000)

/* ---- a harness of a few lines -------------------------------------------------------------------------------------- */

static bool failed;
static char *shared; /* one page that the parent of a test sees: why it was skipped */

static void check_line(bool good, int line, const char *what)
{
	if (good)
		return;
	failed = true;
	printf("# line %d: %s (errno %d: %s)\n", line, what, errno, dune_error());
	fflush(stdout);
}
#define CHECK(what) check_line((what), __LINE__, #what)
#define REQUIRE(what)                            \
	do {                                     \
		bool is = (what);                \
		check_line(is, __LINE__, #what); \
		if (!is)                         \
			exit(1);                 \
	} while (0)

static void skip(const char *why)
{
	snprintf(shared, 256, "%s", why);
	exit(SKIPPED);
}

static enum dune_placement placement;

static void enter(void)
{
	REQUIRE(dune_set_placement(placement) == 0);
	if (dune_init_and_enter()) {
		if (errno == ENOTSUP)
			skip("ring 0 is interpreted here");
		printf("# dune_init_and_enter: %s\n", dune_error());
		exit(1);
	}
	CHECK(dune_get_placement() == placement);
}

/* ---- what such programs begin with ------------------------------------------------------------------------------------ */

/* Maps memory where it is.  Guest-physical addresses are consecutive within a GiB. */
static int map_here(const void *memory, size_t length, int perm)
{
	uintptr_t at = PGADDR(memory), end = ((uintptr_t)memory + length + PGMASK) & ~(uintptr_t)PGMASK;

	while (at < end) {
		uintptr_t border = (at | HUGE_PGMASK) + 1;
		size_t piece = (border < end ? border : end) - at;
		uintptr_t pa = dune_va_to_pa((void *)at);

		if (!pa || dune_vm_map_phys(pgroot, (void *)at, piece, (void *)pa, perm))
			return -1;
		at += piece;
	}
	return 0;
}

extern char __executable_start[], etext[], end[];

static char stacks[THREADS + 1][STACK] __attribute__((aligned(4096)));

static void map_program(void)
{
	REQUIRE(map_here(__executable_start, (size_t)(PGADDR(etext + PGMASK) - (uintptr_t)__executable_start),
			 PERM_UCODE) == 0);
	REQUIRE(map_here((void *)PGADDR(etext + PGMASK), (size_t)((uintptr_t)end - PGADDR(etext + PGMASK)),
			 PERM_UTEXT) == 0);
}

static inline long user_call(long number, long first, long second, long third)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(first), "S"(second), "d"(third)
			 : "rcx", "r11", "memory");
	return result;
}

/* Where functions of ring 3 return to. */
extern char user_returned[];
__asm__(".text\n"
	".globl user_returned\n"
	"user_returned:\n"
	"	movq %rax, %rdi\n"
	"	movl $60, %eax\n"
	"	syscall\n"
	"	ud2\n");

static void frame_of(struct dune_tf *tf, char *stack, const void *function, long first, long second)
{
	uint64_t *top = (uint64_t *)(stack + STACK) - 2;

	*--top = (uint64_t)user_returned;
	memset(tf, 0, sizeof *tf);
	tf->rip = (uint64_t)function;
	tf->rsp = (uint64_t)top;
	tf->rdi = (uint64_t)first;
	tf->rsi = (uint64_t)second;
	tf->rflags = 0x202;
	tf->cs = GD_UT | 3;
	tf->ss = GD_UD | 3;
}

static int run_user(long (*function)(long, long), long first, long second)
{
	struct dune_tf tf;

	frame_of(&tf, stacks[0], (const void *)function, first, second);
	return dune_jump_to_user(&tf);
}

/* ---- handlers --------------------------------------------------------------------------------------------------------- */

static volatile unsigned calls, passed, refused, faults;
static volatile uint64_t fault_code;

static void syscall_handler(struct dune_tf *tf)
{
	__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
	switch (tf->rax) {
	case SYS_exit:
	case SYS_exit_group:
		dune_ret_from_user((int)ARG0(tf));
	case SYS_open:
	case SYS_openat:
	case SYS_socket:
		refused++;
		tf->rax = (uint64_t)-EACCES;
		return;
	default:
		passed++;
		dune_passthrough_syscall(tf);
	}
}

/* Maps the page with all rights, by a store; a page of the pool if there is none. */
static void fill(uintptr_t addr)
{
	ptent_t *pte = NULL;

	if (dune_vm_lookup(pgroot, (void *)addr, CREATE_NORMAL, &pte))
		dune_die();
	if (!PTE_ADDR(*pte)) {
		struct page *page = dune_page_alloc();

		if (!page)
			dune_die();
		memset((void *)dune_page2pa(page), 0, PGSIZE);
		*pte = dune_page2pa(page);
	}
	*pte |= PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
	dune_flush_tlb_one(addr);
}

static void fill_handler(uintptr_t addr, uint64_t fec, struct dune_tf *tf)
{
	(void)tf;
	faults++;
	fault_code = fec;
	fill(addr);
}

/* Takes all rights away, by a store: the address stays. */
static void protect(char *addr)
{
	ptent_t *pte = NULL;

	REQUIRE(dune_vm_lookup(pgroot, addr, 0, &pte) == 0);
	*pte = PTE_ADDR(*pte);
	dune_flush_tlb_one((unsigned long)addr);
}

static void begin(void)
{
	enter();
	dune_register_syscall_handler(syscall_handler);
	map_program();
}

/* ---- ring 3 ----------------------------------------------------------------------------------------------------------- */

static long add(long first, long second)
{
	return first + second;
}

static long ask_for_things(long first, long second)
{
	long pid = user_call(SYS_getpid, 0, 0, 0);

	(void)second;
	if (pid != first || user_call(SYS_open, (long)"/etc/passwd", 0, 0) != -EACCES)
		return 1;
	return user_call(SYS_write, -1, 0, 0) == -EBADF ? 42 : 2;
}

static void a_function_runs_in_ring_3(void)
{
	begin();
	CHECK(run_user(add, 40, 2) == 42);
	CHECK(calls == 1);
	CHECK(run_user(ask_for_things, getpid(), 0) == 42);
	CHECK(calls == 5 && passed == 2 && refused == 1);
}

static long arguments_seen[7];

static void see_arguments(struct dune_tf *tf)
{
	if (tf->rax == SYS_exit)
		dune_ret_from_user((int)ARG0(tf));
	arguments_seen[0] = (long)tf->rax;
	arguments_seen[1] = (long)ARG0(tf);
	arguments_seen[2] = (long)ARG1(tf);
	arguments_seen[3] = (long)ARG2(tf);
	arguments_seen[4] = (long)tf->r10;
	arguments_seen[5] = (long)ARG4(tf);
	arguments_seen[6] = (long)ARG5(tf);
	tf->rax = 99;
}

static long call_with_six(long first, long second)
{
	register long fourth __asm__("r10") = 4;
	register long fifth __asm__("r8") = 5;
	register long sixth __asm__("r9") = 6;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(1000l), "D"(first), "S"(second), "d"(3l), "r"(fourth), "r"(fifth), "r"(sixth)
			 : "rcx", "r11", "memory");
	return result;
}

static void a_handler_sees_arguments(void)
{
	begin();
	dune_register_syscall_handler(see_arguments);
	CHECK(run_user(call_with_six, 1, 2) == 99);
	CHECK(arguments_seen[0] == 1000);
	for (int i = 1; i < 7; i++)
		CHECK(arguments_seen[i] == i);
}

static void skip_ud2(struct dune_tf *tf)
{
	faults++;
	CHECK((tf->cs & 3) == 3);
	tf->rip += 2;
	tf->rax = 17;
}

static long undefined(long first, long second)
{
	long result = 0;

	(void)first;
	(void)second;
	__asm__ volatile("ud2" : "+a"(result));
	return result;
}

static void an_exception_of_ring_3_is_mended(void)
{
	begin();
	CHECK(dune_register_intr_handler(T_ILLOP, skip_ud2) == 0);
	CHECK(run_user(undefined, 0, 0) == 17);
	CHECK(faults == 1);
}

/* ---- page tables edited by stores ---------------------------------------------------------------------------------------- */

static long store_to_pages(long address, long count)
{
	for (long i = 0; i < count; i++)
		*(volatile long *)(address + i * 4096) += i + 1;
	return 0;
}

static long sum_of_pages(long address, long count)
{
	long sum = 0;

	for (long i = 0; i < count; i++)
		sum += *(volatile long *)(address + i * 4096);
	return sum;
}

static void a_handler_fills_entries(void)
{
	begin();
	dune_register_pgflt_handler(fill_handler);
	CHECK(run_user(store_to_pages, (long)FAR, PAGES) == 0);
	CHECK(faults == PAGES);
	CHECK((fault_code & (FEC_P | FEC_U)) == FEC_U);
	CHECK(run_user(sum_of_pages, (long)FAR, PAGES) == PAGES * (PAGES + 1) / 2);
	CHECK(faults == PAGES);
}

static void a_handler_restores_entries(void)
{
	begin();
	dune_register_pgflt_handler(fill_handler);
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PAGES * PGSIZE, PERM_UTEXT) == 0);
	for (unsigned round = 1; round <= 3; round++) {
		CHECK(run_user(store_to_pages, (long)FAR, PAGES) == 0);
		CHECK(faults == (round - 1) * PAGES);
		for (int i = 0; i < PAGES; i++)
			protect(FAR + i * PGSIZE);
		CHECK(run_user(sum_of_pages, (long)FAR, PAGES) == (long)round * PAGES * (PAGES + 1) / 2);
		CHECK(faults == round * PAGES);
	}
}

static void unprotect_handler(uintptr_t addr, uint64_t fec, struct dune_tf *tf)
{
	(void)tf;
	faults++;
	fault_code = fec;
	CHECK(dune_vm_mprotect(pgroot, (void *)PGADDR(addr), PGSIZE, PERM_UTEXT) == 0);
}

static void protect_trap_unprotect(void)
{
	begin();
	dune_register_pgflt_handler(unprotect_handler);
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PAGES * PGSIZE, PERM_UTEXT) == 0);
	for (unsigned round = 1; round <= 3; round++) {
		CHECK(dune_vm_mprotect(pgroot, FAR, PAGES * PGSIZE, PERM_R | PERM_U) == 0);
		CHECK(run_user(store_to_pages, (long)FAR, PAGES) == 0);
		CHECK(faults == round * PAGES);
		CHECK(fault_code == (FEC_P | FEC_W | FEC_U));
	}
	CHECK(run_user(sum_of_pages, (long)FAR, PAGES) == 3 * PAGES * (PAGES + 1) / 2);
	dune_vm_unmap(pgroot, FAR, PAGES * PGSIZE);
	dune_register_pgflt_handler(fill_handler);
	faults = 0;
	CHECK(run_user(sum_of_pages, (long)FAR, PAGES) == 0);
	CHECK(faults == PAGES);
}

static void memory_at_a_fixed_address(void)
{
	char *at = (char *)0x300000000000;

	begin();
	REQUIRE(mmap(at, PAGES * PGSIZE, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == at);
	REQUIRE(dune_vm_map_phys(pgroot, at, PAGES * PGSIZE, (void *)dune_va_to_pa(at), PERM_UTEXT) == 0);
	*(long *)at = 100;
	CHECK(run_user(store_to_pages, (long)at, PAGES) == 0);
	CHECK(*(long *)at == 101);
	CHECK(*(long *)(at + (PAGES - 1) * PGSIZE) == PAGES);
	/* The same memory elsewhere. */
	REQUIRE(dune_vm_map_phys(pgroot, FAR, PAGES * PGSIZE, (void *)dune_va_to_pa(at), PERM_UTEXT) == 0);
	CHECK(run_user(sum_of_pages, (long)FAR, PAGES) == 100 + PAGES * (PAGES + 1) / 2);
}

static void huge_pages(void)
{
	char *at = (char *)0x300000000000;
	size_t size = 2 * BIG_PGSIZE;
	ptent_t *pte = NULL;

	if (getenv("TEST_LANE")) { /* the machine is the test's own */
		FILE *reserved = fopen("/proc/sys/vm/nr_hugepages", "w");

		if (reserved) {
			fprintf(reserved, "4\n");
			fclose(reserved);
		}
	}
	begin();
	if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE,
		 -1, 0) != at)
		skip("no huge pages are reserved (vm.nr_hugepages)");
	REQUIRE(dune_vm_map_phys(pgroot, at, size, (void *)dune_va_to_pa(at), PERM_UTEXT | PERM_BIG) == 0);
	CHECK(run_user(store_to_pages, (long)at, (long)(size / PGSIZE)) == 0);
	CHECK(*(long *)(at + size - PGSIZE) == (long)(size / PGSIZE));
	CHECK(dune_vm_lookup(pgroot, at, CREATE_BIG, &pte) == 0);
	CHECK((*pte & (PTE_P | PTE_PS)) == (PTE_P | PTE_PS));
}

/* ---- roots ------------------------------------------------------------------------------------------------------------- */

static void two_roots(void)
{
	begin();
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PGSIZE, PERM_UTEXT) == 0);
	ptent_t *root = dune_vm_clone(pgroot);
	REQUIRE(root != NULL);
	struct page *page = dune_page_alloc();
	REQUIRE(page != NULL);
	memset((void *)dune_page2pa(page), 0, PGSIZE);
	REQUIRE(dune_vm_insert_page(root, FAR, page, PERM_UTEXT) == 0);
	dune_page_put(page);
	CHECK(page->ref == 1);
	CHECK(dune_vm_lookup_page(root, FAR) == page);
	CHECK(dune_vm_lookup_page(pgroot, FAR) != page);

	for (long i = 1; i <= 20; i++) {
		load_cr3((unsigned long)root | CR3_NOFLUSH | 1);
		for (int j = 0; j < 2; j++)
			CHECK(run_user(store_to_pages, (long)FAR, 1) == 0);
		CHECK(run_user(sum_of_pages, (long)FAR, 1) == 2 * i);
		if (dune_in_guest())
			CHECK(*(volatile long *)FAR == 2 * i);
		load_cr3((unsigned long)pgroot | CR3_NOFLUSH);
		CHECK(run_user(store_to_pages, (long)FAR, 1) == 0);
		CHECK(run_user(sum_of_pages, (long)FAR, 1) == i);
	}
	dune_vm_free(root);
	CHECK(run_user(sum_of_pages, (long)FAR, 1) == 20);
}

static void pages_are_counted(void)
{
	struct page_head list;
	struct page *page;
	int count = 0;

	begin();
	SLIST_INIT(&list);
	for (int i = 0; i < 8; i++) {
		REQUIRE((page = dune_page_alloc()) != NULL);
		CHECK(page->ref == 1);
		CHECK(page >= pages && page < pages + num_pages);
		CHECK(dune_pa2page(dune_page2pa(page)) == page);
		CHECK(dune_page_isfrompool(dune_page2pa(page)));
		CHECK(dune_page2pa(page) == PAGEBASE + ((physaddr_t)(page - pages) << PGSHIFT));
		SLIST_INSERT_HEAD(&list, page, link);
	}
	SLIST_FOREACH(page, &list, link)
	{
		memset((void *)dune_page2pa(page), ++count, PGSIZE);
		REQUIRE(dune_vm_insert_page(pgroot, FAR + count * PGSIZE, page, PERM_UTEXT) == 0);
		CHECK(page->ref == 2);
		CHECK(dune_page_get(page) == page && page->ref == 3);
		dune_page_put(page);
	}
	CHECK(count == 8);
	dune_vm_unmap(pgroot, FAR, 9 * PGSIZE);
	SLIST_FOREACH(page, &list, link)
	CHECK(page->ref == 1);
	while (!SLIST_EMPTY(&list)) {
		page = SLIST_FIRST(&list);
		SLIST_REMOVE_HEAD(&list, link);
		dune_page_put(page);
	}
	CHECK(!dune_page_isfrompool(dune_va_to_pa(stacks)));
}

/* A checkpoint: which pages were written to since the last one, and a copy of each. */
struct checkpoint {
	unsigned pages;
	uint64_t which;
	char copy[PAGES][64];
};

static int copy_dirty(const void *arg, ptent_t *ptep, void *va)
{
	struct checkpoint *checkpoint = *(struct checkpoint *const *)arg;
	long number = ((char *)va - FAR) / PGSIZE;

	if (*ptep & PTE_D) {
		memcpy(checkpoint->copy[number], (void *)PTE_ADDR(*ptep), sizeof checkpoint->copy[number]);
		checkpoint->which |= 1ul << number;
		checkpoint->pages++;
	}
	*ptep &= ~(PTE_A | PTE_D);
	return 0;
}

static struct checkpoint take_checkpoint(void)
{
	struct checkpoint checkpoint, *at = &checkpoint;

	memset(&checkpoint, 0, sizeof checkpoint);
	CHECK(dune_vm_page_walk(pgroot, FAR, FAR + PAGES * PGSIZE - 1, copy_dirty, &at) == 0);
	dune_flush_tlb();
	return checkpoint;
}

static void dirty_pages_are_found(void)
{
	struct dune_host host;

	begin();
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PAGES * PGSIZE, PERM_UTEXT) == 0);
	if (!dune_in_guest() && (dune_probe(&host) || !host.dirty_bits))
		skip("no accessed and dirty bits here");
	take_checkpoint();
	CHECK(take_checkpoint().pages == 0);
	for (int i = 0; i < PAGES; i += 3) {
		CHECK(run_user(store_to_pages, (long)FAR + i * PGSIZE, i + 1 < PAGES ? 2 : 1) == 0);
		struct checkpoint checkpoint = take_checkpoint();
		CHECK(checkpoint.pages == (i + 1 < PAGES ? 2 : 1));
		CHECK(checkpoint.which == (3ul << i & ((1ul << PAGES) - 1)));
		CHECK(*(long *)checkpoint.copy[i] == 1);
		CHECK(run_user(sum_of_pages, (long)FAR, PAGES) > 0);
		CHECK(take_checkpoint().pages == 0);
	}
}

/* ---- the whole process ----------------------------------------------------------------------------------------------------- */

static unsigned mapped, not_mapped;

static void map_entry(const struct dune_procmap_entry *entry)
{
	int perm = PERM_U;

	if (entry->type == PROCMAP_TYPE_VSYSCALL || !entry->r)
		return;
	perm |= PERM_R;
	if (entry->w)
		perm |= PERM_W;
	if (entry->x)
		perm |= PERM_X;
	if (map_here((void *)entry->begin, entry->end - entry->begin, perm))
		not_mapped++;
	else
		mapped++;
}

/* What the process gets while ring 3 runs: the heap, say. */
static void map_on_demand(uintptr_t addr, uint64_t fec, struct dune_tf *tf)
{
	ptent_t *pte = NULL;

	(void)fec;
	if (++faults > 10000 || addr < 65536 || dune_vm_lookup(pgroot, (void *)addr, CREATE_NORMAL, &pte)) {
		dune_dump_trap_frame(tf);
		dune_die();
	}
	*pte = PTE_ADDR(dune_va_to_pa((void *)PGADDR(addr))) | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D | PTE_NX;
	dune_flush_tlb_one(addr);
}

static int by_number(const void *first, const void *second)
{
	return *(const int *)first - *(const int *)second;
}

static long use_libc(long to, long numbers)
{
	int *table = (int *)malloc((size_t)numbers * sizeof *table);

	if (!table)
		return 1;
	for (long i = 0; i < numbers; i++)
		table[i] = (int)(i * 7919 % numbers);
	qsort(table, (size_t)numbers, sizeof *table, by_number);
	for (long i = 0; i < numbers; i++)
		if (table[i] != i)
			return 2;
	free(table);
	if (dprintf((int)to, "%s %d %.2f\n", "hello from ring", 3, 1.5) != 23)
		return 3;
	errno = 0;
	if (socket(AF_UNIX, SOCK_STREAM, 0) != -1 || errno != EACCES)
		return 4;
	struct timespec now;
	return clock_gettime(CLOCK_MONOTONIC, &now) ? 5 : 0;
}

static void the_whole_process_in_ring_3(void)
{
	char text[64] = "";
	unsigned long fs = 0;
	int ends[2];

	REQUIRE(pipe(ends) == 0);
	REQUIRE(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0);
	enter();
	dune_register_syscall_handler(syscall_handler);
	dune_register_pgflt_handler(map_on_demand);
	CHECK(dune_get_user_fs() == 0);
	dune_set_user_fs(fs);
	CHECK(dune_get_user_fs() == fs);
	dune_procmap_iterate(map_entry);
	CHECK(mapped > 10);
	CHECK(run_user(use_libc, ends[1], 50000) == 0);
	CHECK(read(ends[0], text, sizeof text - 1) == 23);
	CHECK(strcmp(text, "hello from ring 3 1.50\n") == 0);
	CHECK(refused == 1);
	printf("# %u mappings for ring 3, %u the library's own, %u faults, %u system calls\n", mapped, not_mapped,
	       faults, calls);
}

/* ---- ELF files ---------------------------------------------------------------------------------------------------------------- */

#define PROGRAM_AT 0x500000000000ul

struct image {
	Elf64_Ehdr header;
	Elf64_Phdr segment;
	unsigned char code[16];
};

static int load_segment(struct dune_elf *elf, Elf64_Phdr *phdr)
{
	char *at = (char *)PGADDR(phdr->p_vaddr);
	size_t size = PGADDR(phdr->p_vaddr + phdr->p_memsz + PGMASK) - (uintptr_t)at;

	if (phdr->p_type != PT_LOAD)
		return 0;
	if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != at)
		return -1;
	if (dune_vm_map_phys(pgroot, at, size, (void *)dune_va_to_pa(at), PERM_U | PERM_R | PERM_W | PERM_X))
		return -1;
	return dune_elf_load_ph(elf, phdr, 0);
}

static int find_text(struct dune_elf *elf, const char *sname, int snum, Elf64_Shdr *shdr)
{
	(void)elf;
	(void)shdr;
	return strcmp(sname, ".text") == 0 ? snum : 0;
}

static void an_elf_file_is_loaded(void)
{
	/* movl $44, %edi; movl $60, %eax; syscall */
	static const unsigned char code[] = { 0xbf, 44, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05 };
	struct image image;
	struct dune_elf elf;
	struct dune_tf tf;

	begin();
	memset(&image, 0, sizeof image);
	memcpy(image.header.e_ident, ELFMAG, SELFMAG);
	image.header.e_ident[EI_CLASS] = ELFCLASS64;
	image.header.e_ident[EI_DATA] = ELFDATA2LSB;
	image.header.e_ident[EI_VERSION] = EV_CURRENT;
	image.header.e_type = ET_EXEC;
	image.header.e_machine = EM_X86_64;
	image.header.e_version = EV_CURRENT;
	image.header.e_entry = PROGRAM_AT + offsetof(struct image, code);
	image.header.e_phoff = offsetof(struct image, segment);
	image.header.e_ehsize = sizeof image.header;
	image.header.e_phentsize = sizeof image.segment;
	image.header.e_phnum = 1;
	image.segment.p_type = PT_LOAD;
	image.segment.p_flags = PF_R | PF_X;
	image.segment.p_vaddr = PROGRAM_AT;
	image.segment.p_filesz = image.segment.p_memsz = sizeof image;
	image.segment.p_align = 4096;
	memcpy(image.code, code, sizeof code);

	REQUIRE(dune_elf_open_mem(&elf, &image, sizeof image) == 0);
	REQUIRE(dune_elf_iter_ph(&elf, load_segment) == 0);
	frame_of(&tf, stacks[0], (const void *)elf.hdr.e_entry, 0, 0);
	CHECK(dune_jump_to_user(&tf) == 44);
	CHECK(dune_elf_close(&elf) == 0);

	REQUIRE(dune_elf_open(&elf, "/proc/self/exe") == 0);
	CHECK(dune_elf_iter_sh(&elf, find_text) > 0);
	dune_elf_close(&elf);
}

/* ---- threads and processes ------------------------------------------------------------------------------------------------------ */

static void *thread_main(void *number)
{
	long me = (long)number;
	struct dune_tf tf;

	if (dune_enter())
		return (void *)1;
	for (long i = 0; i < 50; i++) {
		frame_of(&tf, stacks[me], (const void *)add, i, me);
		if (dune_jump_to_user(&tf) != i + me)
			return (void *)2;
	}
	return NULL;
}

static void each_thread_enters(void)
{
	pthread_t threads[THREADS];
	void *result;

	begin();
	for (long i = 0; i < THREADS; i++)
		REQUIRE(pthread_create(&threads[i], NULL, thread_main, (void *)(i + 1)) == 0);
	CHECK(run_user(add, 1, 2) == 3);
	for (int i = 0; i < THREADS; i++) {
		result = (void *)-1;
		CHECK(pthread_join(threads[i], &result) == 0);
		CHECK(result == NULL);
	}
}

static void a_child_enters(void)
{
	int status = -1;

	begin();
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PGSIZE, PERM_UTEXT) == 0);
	CHECK(run_user(store_to_pages, (long)FAR, 1) == 0);
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		if (dune_enter())
			_exit(1);
		run_user(store_to_pages, (long)FAR, 1);
		_exit(run_user(sum_of_pages, (long)FAR, 1) == 2 ? run_user(add, 3, 4) : 2);
	}
	CHECK(child > 0);
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	CHECK(run_user(sum_of_pages, (long)FAR, 1) == 1);
}

/* ---- signals --------------------------------------------------------------------------------------------------------------------- */

static volatile long signals;

static void signal_handler(struct dune_tf *tf)
{
	(void)tf;
	signals++;
}

static long wait_for_change(long address, long value)
{
	while (*(volatile long *)address == value)
		__asm__ volatile("pause");
	return *(volatile long *)address;
}

static void a_signal_is_an_interrupt(void)
{
	timer_t timer;
	struct sigevent event;
	struct itimerspec when;

	begin();
	CHECK(dune_register_signal_handler(SIGUSR1, signal_handler) == 0);
	memset(&event, 0, sizeof event);
	event.sigev_notify = SIGEV_SIGNAL;
	event.sigev_signo = SIGUSR1;
	memset(&when, 0, sizeof when);
	when.it_value.tv_nsec = 20000000;
	REQUIRE(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	REQUIRE(timer_settime(timer, 0, &when, NULL) == 0);
	CHECK(run_user(wait_for_change, (long)&signals, 0) == 1);
	CHECK(raise(SIGUSR1) == 0);
	CHECK(signals == 2);
}

/* ---- what is printed -------------------------------------------------------------------------------------------------------------- */

static void dump_and_leave(struct dune_tf *tf)
{
	dune_dump_trap_frame(tf);
	dune_printf("rdi %lx %s\n", tf->rdi, "seen");
	dune_ret_from_user(6);
}

static void frames_are_printed(void)
{
	static char text[8192];
	int ends[2], old = dup(2);
	unsigned long before = dune_get_ticks();

	begin();
	dune_register_syscall_handler(dump_and_leave);
	REQUIRE(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
	CHECK(run_user(add, 0x1000, 0x2a3) == 6);
	dune_page_stats();
	dup2(old, 2);
	close(ends[1]);
	for (size_t have = 0; have < sizeof text - 1;) {
		ssize_t got = read(ends[0], text + have, sizeof text - 1 - have);
		if (got <= 0)
			break;
		have += (size_t)got;
	}
	CHECK(strcasestr(text, "rip") != NULL);
	CHECK(strstr(text, "rdi 12a3 seen\n") != NULL);
	CHECK(dune_get_ticks() > before);
}

/* ---- ring 0: guest placement only ---------------------------------------------------------------------------------------------------- */

static void mend_division(struct dune_tf *tf)
{
	faults++;
	CHECK((tf->cs & 3) == 0);
	tf->rcx = 1;
}

static void a_division_by_zero_is_mended(void)
{
	unsigned quotient = 10, rest = 0;
	uint64_t divisor = 0;

	enter();
	CHECK(dune_register_intr_handler(T_DIVIDE, mend_division) == 0);
	__asm__ volatile("divl %%ecx" : "+a"(quotient), "+d"(rest), "+c"(divisor));
	CHECK(quotient == 10 && rest == 0 && faults == 1);
}

static void the_programs_own_stores_fault(void)
{
	enter();
	dune_register_pgflt_handler(fill_handler);
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PAGES * PGSIZE, PERM_R | PERM_W) == 0);
	for (unsigned round = 1; round <= 10; round++) {
		for (int i = 0; i < PAGES; i++)
			protect(FAR + i * PGSIZE);
		store_to_pages((long)FAR, PAGES);
		CHECK(faults == round * PAGES);
		CHECK(!(fault_code & (FEC_P | FEC_U)));
		CHECK(dune_vm_mprotect(pgroot, FAR, PAGES * PGSIZE, PERM_R) == 0);
		store_to_pages((long)FAR, PAGES);
		faults -= PAGES;
		CHECK(fault_code == (FEC_P | FEC_W));
	}
	CHECK(sum_of_pages((long)FAR, PAGES) == 20 * PAGES * (PAGES + 1) / 2);
}

/* Memory of the process that a handler watches: what a write barrier does. */
static void the_process_watches_its_heap(void)
{
	char *at = (char *)0x300000000000;
	ptent_t *pte = NULL;

	enter();
	dune_register_pgflt_handler(unprotect_handler);
	REQUIRE(mmap(at, PAGES * PGSIZE, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == at);
	store_to_pages((long)at, PAGES);
	CHECK(faults == 0);
	/* Touched memory has an entry. */
	CHECK(dune_vm_lookup(pgroot, at, 0, &pte) == 0 && PTE_ADDR(*pte) == dune_va_to_pa(at));
	for (unsigned round = 1; round <= 3; round++) {
		CHECK(dune_vm_mprotect(pgroot, at, PAGES * PGSIZE, PERM_R) == 0);
		store_to_pages((long)at, PAGES);
		CHECK(faults == round * PAGES);
	}
	CHECK(sum_of_pages((long)at, PAGES) == 4 * PAGES * (PAGES + 1) / 2);
}

/* User-level threads: a system call gives up the processor, the handler goes on with another one's frame. */
enum {
	USERS = 3,
	ROUNDS = 10
};
static struct dune_tf users[USERS];
static int user_now, users_left;
static long turns[USERS * ROUNDS], turn_count;

static void next_user(void)
{
	do
		user_now = (user_now + 1) % USERS;
	while (!users[user_now].rip);
	dune_pop_trap_frame(&users[user_now]);
}

static void scheduler(struct dune_tf *tf)
{
	switch (tf->rax) {
	case SYS_sched_yield:
		tf->rax = 0;
		users[user_now] = *tf;
		next_user();
		break;
	case SYS_exit:
		users[user_now].rip = 0;
		if (--users_left == 0)
			dune_ret_from_user(0);
		next_user();
		break;
	default:
		dune_die();
	}
}

static long take_turns(long me, long count)
{
	for (long i = 0; i < count; i++) {
		turns[turn_count++] = me;
		if (user_call(SYS_sched_yield, 0, 0, 0) != 0)
			return 1;
	}
	return 0;
}

static void threads_are_switched(void)
{
	struct dune_tf first;

	begin();
	dune_register_syscall_handler(scheduler);
	for (int i = 0; i < USERS; i++)
		frame_of(&users[i], stacks[i], (const void *)take_turns, i, ROUNDS);
	users_left = USERS;
	first = users[0];
	CHECK(dune_jump_to_user(&first) == 0);
	CHECK(turn_count == USERS * ROUNDS);
	for (int i = 0; i < USERS * ROUNDS; i++)
		CHECK(turns[i] == i % USERS);
}

/* The same where dune_pop_trap_frame() is not there: the handler exchanges the frame. */
static void exchanging_scheduler(struct dune_tf *tf)
{
	if (tf->rax == SYS_sched_yield) {
		tf->rax = 0;
		users[user_now] = *tf;
	} else {
		users[user_now].rip = 0;
		if (--users_left == 0)
			dune_ret_from_user(0);
	}
	do
		user_now = (user_now + 1) % USERS;
	while (!users[user_now].rip);
	*tf = users[user_now];
}

static void frames_are_exchanged(void)
{
	struct dune_tf first;

	begin();
	dune_register_syscall_handler(exchanging_scheduler);
	for (int i = 0; i < USERS; i++)
		frame_of(&users[i], stacks[i], (const void *)take_turns, i, ROUNDS);
	users_left = USERS;
	first = users[0];
	CHECK(dune_jump_to_user(&first) == 0);
	for (int i = 0; i < USERS * ROUNDS; i++)
		CHECK(turns[i] == i % USERS);
}

static void a_handler_serves_the_default(uintptr_t addr, uint64_t fec, struct dune_tf *tf)
{
	(void)tf;
	faults++;
	dune_vm_default_pgflt_handler(addr, fec);
}

static void pages_are_copied_on_write(void)
{
	begin();
	dune_register_pgflt_handler(a_handler_serves_the_default);
	REQUIRE(dune_vm_map_pages(pgroot, FAR, PGSIZE, PERM_UTEXT) == 0);
	struct page *page = dune_vm_lookup_page(pgroot, FAR);
	REQUIRE(page != NULL);
	CHECK(run_user(store_to_pages, (long)FAR, 1) == 0);
	REQUIRE(dune_vm_map_phys(pgroot, FAR + PGSIZE, PGSIZE, (void *)dune_page2pa(page),
				 PERM_R | PERM_U | PERM_COW) == 0);
	CHECK(run_user(sum_of_pages, (long)FAR, 2) == 2);
	CHECK(run_user(store_to_pages, (long)FAR + PGSIZE, 1) == 0);
	CHECK(faults == 1);
	CHECK(run_user(sum_of_pages, (long)FAR, 2) == 3);
	CHECK(dune_vm_lookup_page(pgroot, FAR + PGSIZE) != page);
}

/* ---------------------------------------------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	void (*run)(void);
	bool ring0;
} tests[] = {
	{ "a function of the program runs in ring 3, its system calls are checked, counted, passed on",
	  a_function_runs_in_ring_3, false },
	{ "a handler sees the six arguments of a system call", a_handler_sees_arguments, false },
	{ "an exception of ring 3 is mended", an_exception_of_ring_3_is_mended, false },
	{ "a page-fault handler fills entries by stores", a_handler_fills_entries, false },
	{ "entries lose their rights by stores, and a handler gives them back", a_handler_restores_entries, false },
	{ "protect, trap, unprotect", protect_trap_unprotect, false },
	{ "memory of the process at a fixed address", memory_at_a_fixed_address, false },
	{ "memory in huge pages", huge_pages, false },
	{ "two roots, loaded with tags and without flushes", two_roots, false },
	{ "pages of the pool are counted, and linked in lists", pages_are_counted, false },
	{ "a walk copies dirty pages and clears accessed and dirty bits", dirty_pages_are_found, false },
	{ "pages are copied on write by the default handler", pages_are_copied_on_write, false },
	{ "the whole process is mapped for ring 3: libc works there", the_whole_process_in_ring_3, false },
	{ "an ELF file is loaded and runs in ring 3", an_elf_file_is_loaded, false },
	{ "each thread enters for itself", each_thread_enters, false },
	{ "a child of fork() enters", a_child_enters, false },
	{ "a signal is an interrupt", a_signal_is_an_interrupt, false },
	{ "trap frames are printed", frames_are_printed, false },
	{ "user-level threads, by exchanging frames", frames_are_exchanged, false },
	{ "user-level threads, by dune_pop_trap_frame()", threads_are_switched, true },
	{ "a division by zero of the program itself is mended", a_division_by_zero_is_mended, true },
	{ "the program's own stores fault", the_programs_own_stores_fault, true },
	{ "the program watches its own memory", the_process_watches_its_heap, true },
};

static int number, failures;

static void run(const char *name, void (*test)(void), enum dune_placement where)
{
	const char *scale = getenv("TEST_TIME_SCALE"), *filter = getenv("TEST_FILTER");
	int status = 0;

	if (filter && !strstr(name, filter))
		return;
	shared[0] = 0;
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		alarm(30 * (scale ? (unsigned)atoi(scale) : 1));
		placement = where;
		test();
		fflush(stdout);
		_exit(failed);
	}
	waitpid(child, &status, 0);
	const char *place = where == DUNE_PLACEMENT_GUEST ? "guest" : "host";
	bool skipped = WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED;
	if (status && !skipped) {
		failures++;
		printf("# wait status %#x\n", (unsigned)status);
	}
	printf("%sok %d - %s placement: %s%s%s\n", status && !skipped ? "not " : "", ++number, place, name,
	       skipped ? " # SKIP " : "", skipped ? shared : "");
}

int main(void)
{
	FILE *device = fopen("/dev/kvm", "r+");

	if (!device) {
		printf("1..0 # SKIP /dev/kvm cannot be opened\n");
		return SKIPPED;
	}
	fclose(device);
	shared = (char *)mmap(NULL, PGSIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
		run(tests[i].name, tests[i].run, DUNE_PLACEMENT_GUEST);
		if (!tests[i].ring0)
			run(tests[i].name, tests[i].run, DUNE_PLACEMENT_HOST);
	}
	printf("1..%d\n", number);
	return failures != 0;
}
