/*
 * live_dune_published_processes.c - programs written for the published interface of Dune: the whole process in ring 3, ELF files,
 * threads, processes, signals, user-level threads, what is printed.  See dune_programs.h.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "dune_programs.h"

#include <asm/prctl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- the whole process ---- */

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

/* ---- ELF files ---- */

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
	frame_of(&tf, 0, (const void *)elf.hdr.e_entry, 0, 0);
	CHECK(dune_jump_to_user(&tf) == 44);
	CHECK(dune_elf_close(&elf) == 0);

	REQUIRE(dune_elf_open(&elf, "/proc/self/exe") == 0);
	CHECK(dune_elf_iter_sh(&elf, find_text) > 0);
	dune_elf_close(&elf);
}

/* ---- threads and processes ---- */

static void *thread_main(void *number)
{
	long me = (long)number;
	struct dune_tf tf;

	if (dune_enter())
		return (void *)1;
	for (long i = 0; i < 50; i++) {
		frame_of(&tf, me, (const void *)add, i, me);
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

/* ---- signals ---- */

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

/* ---- what is printed ---- */

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

/* ---- user-level threads ---- */

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
		frame_of(&users[i], i, (const void *)take_turns, i, ROUNDS);
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
		frame_of(&users[i], i, (const void *)take_turns, i, ROUNDS);
	users_left = USERS;
	first = users[0];
	CHECK(dune_jump_to_user(&first) == 0);
	for (int i = 0; i < USERS * ROUNDS; i++)
		CHECK(turns[i] == i % USERS);
}

static const struct test tests[] = {
	{ "the whole process is mapped for ring 3: libc works there", the_whole_process_in_ring_3, false },
	{ "an ELF file is loaded and runs in ring 3", an_elf_file_is_loaded, false },
	{ "each thread enters for itself", each_thread_enters, false },
	{ "a child of fork() enters", a_child_enters, false },
	{ "a signal is an interrupt", a_signal_is_an_interrupt, false },
	{ "trap frames are printed", frames_are_printed, false },
	{ "user-level threads, by exchanging frames", frames_are_exchanged, false },
	{ "user-level threads, by dune_pop_trap_frame()", threads_are_switched, true },
};

int main(void)
{
	return run_tests(tests, sizeof tests / sizeof *tests);
}
