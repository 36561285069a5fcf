/*
 * live_dune_memory.c - guest placement of Dune: ring 0 sees the process's memory as the kernel has it, however and by
 * whomever it is changed; what is not there faults, and never shows anything else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dune_guest.h"

enum {
	PAGE = 4096
};
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

static uint8_t *map_anonymous(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CU_ASSERT_FATAL(at != MAP_FAILED);
	return at;
}

static uint8_t got;

static void read_byte(void *at)
{
	got = *(volatile uint8_t *)at;
}

static void write_byte(void *at)
{
	*(volatile uint8_t *)at = 99;
}

static void call_code(void *at)
{
	got = (uint8_t)((int (*)(void))at)();
}

static bool faults(void (*access)(void *at), void *at, int number)
{
	guest_signal_address = NULL;
	int signal = guest_signal_of(access, at);
	if (signal != number || guest_signal_address != at)
		harness_note("signal %d at %p, not %d at %p", signal, guest_signal_address, number, at);
	return signal == number && guest_signal_address == at;
}

static bool reads(void *at, uint8_t value)
{
	int signal = guest_signal_of(read_byte, at);
	if (signal || got != value)
		harness_note("signal %d, %u at %p, not %u", signal, got, at, value);
	return signal == 0 && got == value;
}

/* ---- mappings -------------------------------------------------------------------------------------- */

static void what_is_unmapped_faults(void)
{
	GUEST_BEGIN();
	for (unsigned i = 0; i < 20; i++) {
		uint8_t *at = map_anonymous(4 * PAGE);
		for (unsigned page = 0; page < 4; page++)
			at[page * PAGE] = (uint8_t)(i + page);
		CU_ASSERT_EQUAL(munmap(at + PAGE, PAGE), 0);
		CU_ASSERT(faults(read_byte, at + PAGE, SIGSEGV));
		CU_ASSERT(faults(write_byte, at + PAGE + 5, SIGSEGV));
		CU_ASSERT(reads(at, (uint8_t)i) && reads(at + 2 * PAGE, (uint8_t)(i + 2)));
		CU_ASSERT_PTR_EQUAL(mmap(at + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
				    at + PAGE);
		CU_ASSERT(reads(at + PAGE, 0));
		CU_ASSERT(faults(write_byte, at + PAGE, SIGSEGV));
		CU_ASSERT_EQUAL(munmap(at, 4 * PAGE), 0);
		CU_ASSERT(faults(read_byte, at, SIGSEGV));
	}
}

static void rights_hold(void)
{
	GUEST_BEGIN();
	uint8_t *at = map_anonymous(2 * PAGE);
	at[0] = at[PAGE] = 5;
	for (unsigned i = 0; i < 5; i++) {
		CU_ASSERT_EQUAL(mprotect(at, PAGE, PROT_READ), 0);
		CU_ASSERT(reads(at, 5));
		CU_ASSERT(faults(write_byte, at, SIGSEGV));
		CU_ASSERT(faults(call_code, at, SIGSEGV));
		CU_ASSERT_EQUAL(mprotect(at, PAGE, PROT_NONE), 0);
		CU_ASSERT(faults(read_byte, at, SIGSEGV));
		CU_ASSERT_EQUAL(mprotect(at, PAGE, PROT_READ | PROT_WRITE), 0);
		CU_ASSERT(reads(at, 5));
		at[1] = at[PAGE + 1] = (uint8_t)i;
		CU_ASSERT(at[1] == i && at[PAGE + 1] == i);
	}
}

static void moved_memory_is_where_it_went(void)
{
	GUEST_BEGIN();
	uint8_t *at = map_anonymous(8 * PAGE), *to = map_anonymous(8 * PAGE);
	at[0] = 1;
	at[3 * PAGE] = 2;
	to[0] = 3;
	CU_ASSERT_PTR_EQUAL_FATAL(mremap(at, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	CU_ASSERT(reads(to, 1) && reads(to + 3 * PAGE, 2));
	CU_ASSERT(faults(read_byte, at, SIGSEGV));
	CU_ASSERT(reads(at + 4 * PAGE, 0));
	uint8_t *more = mremap(to, 4 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
	CU_ASSERT_FATAL(more != MAP_FAILED);
	CU_ASSERT(reads(more, 1) && reads(more + 3 * PAGE, 2) && reads(more + 63 * PAGE, 0));
	CU_ASSERT_PTR_EQUAL(mremap(more, 64 * PAGE, PAGE, 0), more);
	CU_ASSERT(faults(read_byte, more + PAGE, SIGSEGV));
}

static void the_break_grows_and_shrinks(void)
{
	GUEST_BEGIN();
	for (unsigned i = 0; i < 3; i++) {
		uint8_t *end = sbrk(0), *page = (uint8_t *)(((uintptr_t)end + 2 * PAGE - 1) & -(uintptr_t)PAGE);
		CU_ASSERT_PTR_EQUAL_FATAL(sbrk(64 * PAGE), end);
		page[10 * PAGE] = 7;
		CU_ASSERT(reads(page + 10 * PAGE, 7) && reads(page + 11 * PAGE, 0));
		CU_ASSERT_EQUAL(brk(end), 0);
		CU_ASSERT(faults(read_byte, page + 10 * PAGE, SIGSEGV));
	}
}

static void dropped_pages_read_as_zeros(void)
{
	GUEST_BEGIN();
	uint8_t *at = map_anonymous(PAGE);
	for (unsigned i = 1; i < 10; i++) {
		at[0] = (uint8_t)i;
		CU_ASSERT_EQUAL(madvise(at, PAGE, MADV_DONTNEED), 0);
		CU_ASSERT_EQUAL(*(volatile uint8_t *)at, 0);
	}
}

/* ---- files ----------------------------------------------------------------------------------------- */

static int temporary(size_t pages)
{
	int fd = memfd_create("dune", MFD_CLOEXEC);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(ftruncate(fd, (off_t)(pages * PAGE)), 0);
	return fd;
}

static void files_are_mapped(void)
{
	GUEST_BEGIN();
	int fd = temporary(4);
	uint8_t byte = 21, *mine, *all;
	CU_ASSERT_EQUAL(pwrite(fd, &byte, 1, 0), 1);
	mine = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	all = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CU_ASSERT_FATAL(mine != MAP_FAILED && all != MAP_FAILED);
	CU_ASSERT(mine[0] == 21 && all[0] == 21);
	mine[0] = 22; /* a copy from here on */
	CU_ASSERT(mine[0] == 22 && all[0] == 21);
	all[0] = 23;
	CU_ASSERT(pread(fd, &byte, 1, 0) == 1 && byte == 23);
	CU_ASSERT_EQUAL(mine[0], 22);
	all[PAGE] = 24; /* not copied yet */
	CU_ASSERT_EQUAL(mine[PAGE], 24);
	byte = 25;
	CU_ASSERT_EQUAL(pwrite(fd, &byte, 1, 2 * PAGE), 1);
	CU_ASSERT(all[2 * PAGE] == 25 && mine[2 * PAGE] == 25);
	CU_ASSERT_EQUAL(close(fd), 0);
	CU_ASSERT_EQUAL(all[0], 23);
}

static void beyond_the_end_of_a_file_is_a_bus_error(void)
{
	GUEST_BEGIN();
	int fd = temporary(4);
	uint8_t *at = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CU_ASSERT_FATAL(at != MAP_FAILED);
	for (unsigned page = 0; page < 4; page++)
		at[page * PAGE] = (uint8_t)(page + 1);
	/* The same instruction again and again. */
	for (unsigned i = 0; i < 12; i++) {
		CU_ASSERT(faults(read_byte, at + 5 * PAGE, SIGBUS));
		CU_ASSERT(faults(write_byte, at + (4 + i % 4) * PAGE, SIGBUS));
		CU_ASSERT(reads(at, 1));
	}
	CU_ASSERT_EQUAL(ftruncate(fd, 2 * PAGE), 0);
	CU_ASSERT(faults(read_byte, at + 2 * PAGE, SIGBUS));
	CU_ASSERT(reads(at + PAGE, 2));
	CU_ASSERT_EQUAL(ftruncate(fd, 8 * PAGE), 0);
	CU_ASSERT(reads(at + 2 * PAGE, 0) && reads(at + 7 * PAGE, 0));
	at[7 * PAGE] = 8;
	CU_ASSERT(reads(at + 7 * PAGE, 8));
}

static int growing;

static void grow_file(int number)
{
	(void)number;
	if (ftruncate(growing, 4 * PAGE) != 0)
		_exit(90);
}

static void a_bus_error_is_repaired_by_its_handler(void)
{
	GUEST_BEGIN();
	struct sigaction action = { .sa_handler = grow_file };
	CU_ASSERT_EQUAL(sigaction(SIGBUS, &action, NULL), 0);
	for (unsigned i = 0; i < 5; i++) {
		growing = temporary(0);
		volatile uint8_t *at = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, growing, 0);
		at[3 * PAGE] = (uint8_t)i;
		CU_ASSERT_EQUAL(at[3 * PAGE], i);
		close(growing);
	}
}

/* ---- much memory ----------------------------------------------------------------------------------- */

static unsigned recurse(unsigned depth)
{
	volatile uint8_t block[1000];
	block[depth % sizeof block] = (uint8_t)depth;
	return depth ? recurse(depth - 1) + block[depth % sizeof block] % 2 : 0;
}

static sigjmp_buf back;

static void leave_stack(int number)
{
	siglongjmp(back, number);
}

static void the_stack_grows_to_its_limit(void)
{
	GUEST_INIT();
	struct rlimit limit;
	getrlimit(RLIMIT_STACK, &limit);
	limit.rlim_cur = 4 * MIB;
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_STACK, &limit), 0);
	CU_ASSERT_EQUAL_FATAL(dune_enter(), 0);
	CU_ASSERT_EQUAL(recurse(2000), 1000);
	stack_t stack = { .ss_sp = map_anonymous(64 * PAGE), .ss_size = 64 * PAGE };
	struct sigaction action = { .sa_handler = leave_stack, .sa_flags = SA_ONSTACK };
	CU_ASSERT_EQUAL(sigaltstack(&stack, NULL), 0);
	CU_ASSERT_EQUAL(sigaction(SIGSEGV, &action, NULL), 0);
	int number = sigsetjmp(back, 1);
	if (number == 0)
		recurse(1000000);
	CU_ASSERT_EQUAL(number, SIGSEGV);
	CU_ASSERT_EQUAL(recurse(2000), 1000);
}

static void a_gigabyte_is_touched(void)
{
	GUEST_BEGIN();
	uint8_t *at = map_anonymous(GIB + 2 * MIB);
	madvise(at, GIB + 2 * MIB, MADV_NOHUGEPAGE); /* machines of the lanes are small */
	for (size_t offset = 0; offset < GIB; offset += MIB)
		at[offset] = (uint8_t)(offset / MIB);
	unsigned wrong = 0;
	for (size_t offset = 0; offset < GIB; offset += MIB)
		wrong += at[offset] != (uint8_t)(offset / MIB);
	CU_ASSERT_EQUAL(wrong, 0);
	harness_note("%llu faults mirrored it", (unsigned long long)guest_counters().mirror_faults);
	CU_ASSERT_EQUAL(munmap(at, GIB + 2 * MIB), 0);
	CU_ASSERT(faults(read_byte, at + GIB / 2, SIGSEGV));
}

static void large_pages_are_mirrored(void)
{
	GUEST_BEGIN();
	uint8_t *at = map_anonymous(8 * MIB),
		*begin = (uint8_t *)(((uintptr_t)at + 2 * MIB - 1) & -(uintptr_t)(2 * MIB));
	madvise(begin, 4 * MIB, MADV_HUGEPAGE);
	begin[0] = 1;
	begin[2 * MIB - 1] = 2;
	begin[2 * MIB] = 3;
	CU_ASSERT_EQUAL(munmap(begin + PAGE, PAGE), 0); /* splits it */
	CU_ASSERT(faults(read_byte, begin + PAGE, SIGSEGV));
	CU_ASSERT(reads(begin, 1) && reads(begin + 2 * MIB - 1, 2) && reads(begin + 2 * MIB, 3));
	uint8_t *huge = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (huge == MAP_FAILED) {
		harness_note("no hugetlb page is free here");
		return;
	}
	huge[0] = 4;
	CU_ASSERT(reads(huge, 4) && reads(huge + 2 * MIB - 1, 0));
}

static void thousands_of_mappings_work(void)
{
	enum {
		COUNT = 2000,
		FAR = 40
	};
	GUEST_BEGIN();
	uint8_t *at = map_anonymous(2 * COUNT * PAGE);
	for (unsigned i = 0; i < COUNT; i++) /* every other page: as many mappings */
		CU_ASSERT_EQUAL(mprotect(at + 2 * i * PAGE, PAGE, PROT_READ), 0);
	for (unsigned i = 0; i < COUNT; i += 7)
		at[(2 * i + 1) * PAGE] = (uint8_t)i;
	CU_ASSERT(faults(write_byte, at + 2 * (COUNT - 10) * PAGE, SIGSEGV));
	for (unsigned i = 0; i < COUNT; i += 7)
		CU_ASSERT_EQUAL(at[(2 * i + 1) * PAGE], (uint8_t)i);
	munmap(at, 2 * COUNT * PAGE);
	uint8_t *far[FAR];
	for (unsigned i = 0; i < FAR; i++) {
		far[i] = mmap((void *)(0x100000000000 + i * 5 * GIB), PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		far[i][0] = (uint8_t)(i + 1);
	}
	for (unsigned i = 0; i < FAR; i++)
		CU_ASSERT(reads(far[i], (uint8_t)(i + 1)));
}

/* ---- code ------------------------------------------------------------------------------------------ */

static void made_code_runs(void)
{
	GUEST_BEGIN();
	const uint8_t code[] = { 0xb8, 0, 0, 0, 0, 0xc3 }; /* mov $n, %eax; ret */
	uint8_t *at = map_anonymous(PAGE);
	for (unsigned i = 1; i < 10; i++) {
		memcpy(at, code, sizeof code);
		at[1] = (uint8_t)i;
		CU_ASSERT(faults(call_code, at, SIGSEGV));
		CU_ASSERT_EQUAL(mprotect(at, PAGE, PROT_READ | PROT_EXEC), 0);
		CU_ASSERT_EQUAL(guest_signal_of(call_code, at), 0);
		CU_ASSERT_EQUAL(got, i);
		CU_ASSERT(faults(write_byte, at, SIGSEGV));
		CU_ASSERT_EQUAL(mprotect(at, PAGE, PROT_READ | PROT_WRITE), 0);
	}
	CU_ASSERT_EQUAL(mprotect(at, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
	for (unsigned i = 100; i < 110; i++) {
		at[1] = (uint8_t)i;
		CU_ASSERT_EQUAL(guest_signal_of(call_code, at), 0);
		CU_ASSERT_EQUAL(got, i);
	}
}

/* ---- other threads --------------------------------------------------------------------------------- */

static uint8_t *watched;
static bool other_enters;
static enum {
	UNMAP,
	HIDE,
	MAKE_READ_ONLY
} deed;
static _Atomic int reading;

static void *take_away(void *unused)
{
	(void)unused;
	if (other_enters && dune_enter() != 0)
		return (void *)1;
	while (!atomic_load(&reading))
		sched_yield();
	if (deed == UNMAP)
		return (void *)(uintptr_t)munmap(watched, PAGE);
	return (void *)(uintptr_t)mprotect(watched, PAGE, deed == HIDE ? PROT_NONE : PROT_READ);
}

static void read_for_ever(void *at)
{
	for (;;) {
		got = *(volatile uint8_t *)at;
		atomic_store(&reading, 1);
	}
}

static void write_for_ever(void *at)
{
	for (;;) {
		*(volatile uint8_t *)at = 7;
		atomic_store(&reading, 1);
	}
}

static void take_away_by(bool guest)
{
	other_enters = guest;
	for (deed = UNMAP; deed <= MAKE_READ_ONLY; deed++) {
		pthread_t thread;
		void *result = (void *)-1;
		atomic_store(&reading, 0);
		watched = map_anonymous(PAGE);
		watched[0] = 7;
		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, take_away, NULL), 0);
		CU_ASSERT(faults(deed == MAKE_READ_ONLY ? write_for_ever : read_for_ever, watched, SIGSEGV));
		CU_ASSERT_EQUAL(pthread_join(thread, &result), 0);
		CU_ASSERT_PTR_NULL(result);
		if (deed == UNMAP) {
			CU_ASSERT(faults(read_byte, watched, SIGSEGV));
			continue;
		}
		CU_ASSERT_EQUAL(mprotect(watched, PAGE, PROT_READ | PROT_WRITE), 0);
		CU_ASSERT(reads(watched, 7));
	}
}

static void a_thread_of_the_guest_takes_memory_away(void)
{
	GUEST_BEGIN();
	take_away_by(true);
}

static void a_thread_in_host_mode_takes_memory_away(void)
{
	GUEST_BEGIN();
	take_away_by(false);
}

/* What is mapped there next is what is seen, never what was there. */
static void *exchange(void *unused)
{
	(void)unused;
	CU_ASSERT_EQUAL(munmap(watched, PAGE), 0);
	if (mmap(watched, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, growing, 0) != watched)
		return (void *)1;
	return NULL;
}

static void exchanged_memory_is_seen_as_it_is(void)
{
	GUEST_BEGIN();
	uint8_t byte = 55;
	growing = temporary(1);
	CU_ASSERT_EQUAL(pwrite(growing, &byte, 1, 0), 1);
	for (unsigned i = 0; i < 20; i++) {
		pthread_t thread;
		void *result = (void *)-1;
		watched = map_anonymous(PAGE);
		watched[0] = (uint8_t)i;
		CU_ASSERT(reads(watched, (uint8_t)i));
		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, exchange, NULL), 0);
		CU_ASSERT_EQUAL(pthread_join(thread, &result), 0);
		CU_ASSERT_PTR_NULL(result);
		CU_ASSERT(reads(watched, 55));
		CU_ASSERT(faults(write_byte, watched, SIGSEGV));
		CU_ASSERT_EQUAL(munmap(watched, PAGE), 0);
	}
}

/* The program's own rights go with the memory that they were for. */
static void own_rights_end_with_the_memory(void)
{
	GUEST_BEGIN();
	uint8_t *at = map_anonymous(2 * PAGE);
	at[0] = at[PAGE] = 1;
	CU_ASSERT_EQUAL(dune_vm_mprotect(pgroot, at, PAGE, PERM_R), 0);
	CU_ASSERT(faults(write_byte, at, SIGSEGV));
	CU_ASSERT_EQUAL(munmap(at, PAGE), 0);
	CU_ASSERT(faults(read_byte, at, SIGSEGV));
	CU_ASSERT_PTR_EQUAL(mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), at);
	at[0] = 3;
	CU_ASSERT(reads(at, 3));
}

static const struct harness_test tests[] = {
	{ "what is unmapped faults", what_is_unmapped_faults, HARNESS_FORK },
	{ "the rights of mprotect() hold in ring 0", rights_hold, HARNESS_FORK },
	{ "moved memory is where it went, and nowhere else", moved_memory_is_where_it_went, HARNESS_FORK },
	{ "the break grows and shrinks", the_break_grows_and_shrinks, HARNESS_FORK },
	{ "dropped pages read as zeros", dropped_pages_read_as_zeros, HARNESS_FORK },
	{ "files are mapped, shared and private", files_are_mapped, HARNESS_FORK },
	{ "beyond the end of a file is a bus error", beyond_the_end_of_a_file_is_a_bus_error, HARNESS_FORK },
	{ "a handler repairs a bus error", a_bus_error_is_repaired_by_its_handler, HARNESS_FORK },
	{ "the stack grows to its limit", the_stack_grows_to_its_limit, HARNESS_FORK },
	{ "a gigabyte is touched", a_gigabyte_is_touched, HARNESS_FORK },
	{ "large pages are mirrored", large_pages_are_mirrored, HARNESS_FORK },
	{ "thousands of mappings, and far-apart ones, work", thousands_of_mappings_work, HARNESS_FORK, .seconds = 60 },
	{ "code made at run time runs when it may", made_code_runs, HARNESS_FORK },
	{ "what a thread of the guest takes away is gone for others in the guest",
	  a_thread_of_the_guest_takes_memory_away, HARNESS_FORK },
	{ "what a thread in host mode takes away is gone for the guest", a_thread_in_host_mode_takes_memory_away,
	  HARNESS_FORK },
	{ "memory exchanged in host mode is seen as it is", exchanged_memory_is_seen_as_it_is, HARNESS_FORK },
	{ "the program's own rights end with the memory", own_rights_end_with_the_memory, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
