/* live_wild.c - wild arguments of served system calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum {
	PAGE = 4096,
	MIB = 1 << 20,
	BOTH = PROT_READ | PROT_WRITE
};

/* What bodies are told, in a tag. */
struct shared {
	uint64_t window, read_only, tag_end;
	int in, out;
	long wrong;    /* number of wrong answers */
	long first[4]; /* call, pointer, answer, expected */
};

static struct shared *share(tag_t *tag, sc_t *sc)
{
	*tag = tag_new();

	struct shared *shared = smalloc(*tag, sizeof(*shared));

	CU_ASSERT_PTR_NOT_NULL_FATAL(shared);
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, *tag, BOTH), 0);
	shared->window = live_window();
	return shared;
}

static const char constants[2 * PAGE] = "read-only";

static void expect(struct shared *shared, long call, uint64_t pointer, long answer, long expected)
{
	if (answer == expected)
		return;
	if (!shared->wrong++) {
		shared->first[0] = call;
		shared->first[1] = (long)pointer;
		shared->first[2] = answer;
		shared->first[3] = expected;
	}
}

static long call(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	long answer = number;
	register uint64_t r10 __asm__("r10") = d;

	__asm__ volatile("syscall" : "+a"(answer) : "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return answer;
}

static void *wild_outputs(void *argument)
{
	struct shared *shared = argument;
	const uint64_t pointers[] = { 0,
				      8,
				      0xfff0,
				      0x12340000,
				      shared->window + WINDOW_MONITOR,
				      shared->window + WINDOW_DESCRIPTORS,
				      shared->window + WINDOW_PROCESSORS + PAGE,
				      shared->window + WINDOW_LIFE,
				      shared->window + WINDOW_LIFE_MONITOR,
				      shared->window + WINDOW_TRAMPOLINE,
				      (uint64_t)constants,
				      (uint64_t)wild_outputs,
				      shared->read_only,
				      0x7ffffffff000,
				      0x800000000000,
				      0xffff888000000000,
				      0xffffffffffffffff,
				      0xfffffffffffff000 };
	uint64_t fd = (uint64_t)shared->in;

	for (size_t i = 0; i < sizeof(pointers) / sizeof(*pointers); i++) {
		uint64_t at = pointers[i];
		struct iovec vector = { (void *)at, 100 };

		expect(shared, SYS_read, at, call(SYS_read, fd, at, 100, 0), -EFAULT);
		expect(shared, SYS_pread64, at, call(SYS_pread64, fd, at, 100, 0), -EFAULT);
		expect(shared, SYS_readv, at, call(SYS_readv, fd, (uint64_t)&vector, 1, 0), -EFAULT);
		expect(shared, SYS_fstat, at, call(SYS_fstat, fd, at, 0, 0), -EFAULT);
		expect(shared, SYS_newfstatat, at, call(SYS_newfstatat, fd, (uint64_t) "", at, 0x1000), -EFAULT);
		expect(shared, SYS_clock_gettime, at, call(SYS_clock_gettime, CLOCK_MONOTONIC, at, 0, 0), -EFAULT);
		expect(shared, SYS_getrandom, at, call(SYS_getrandom, at, 100, 0, 0), -EFAULT);
		if (at) {
			expect(shared, SYS_clock_getres, at, call(SYS_clock_getres, CLOCK_MONOTONIC, at, 0, 0),
			       -EFAULT);
			expect(shared, SYS_gettimeofday, at, call(SYS_gettimeofday, at, 0, 0, 0), -EFAULT);
			expect(shared, SYS_time, at, call(SYS_time, at, 0, 0, 0), -EFAULT);
			expect(shared, SYS_getcpu, at, call(SYS_getcpu, at, 0, 0, 0), -EFAULT);
			expect(shared, SYS_getcpu, at, call(SYS_getcpu, 0, at, 0, 0), -EFAULT);
		}
	}
	return (void *)1;
}

static void *wild_inputs(void *argument)
{
	struct shared *shared = argument;
	const uint64_t pointers[] = { 0,
				      8,
				      0xfff0,
				      0x12340000,
				      shared->window + WINDOW_MONITOR,
				      shared->window + WINDOW_DESCRIPTORS,
				      shared->window + WINDOW_PROCESSORS + PAGE,
				      shared->window + WINDOW_LIFE_MONITOR,
				      0x7ffffffff000,
				      0x800000000000,
				      0xffff888000000000,
				      0xffffffffffffffff,
				      0xfffffffffffff000 };
	uint64_t fd = (uint64_t)shared->out;

	for (size_t i = 0; i < sizeof(pointers) / sizeof(*pointers); i++) {
		uint64_t at = pointers[i];
		struct iovec vector = { (void *)at, 100 };

		expect(shared, SYS_write, at, call(SYS_write, fd, at, 100, 0), -EFAULT);
		expect(shared, SYS_writev, at, call(SYS_writev, fd, (uint64_t)&vector, 1, 0), -EFAULT);
		expect(shared, SYS_writev, at, call(SYS_writev, fd, at, 2, 0), -EFAULT);
		expect(shared, SYS_readv, at, call(SYS_readv, (uint64_t)shared->in, at, 2, 0), -EFAULT);
		expect(shared, SYS_open, at, call(SYS_open, at, O_RDONLY, 0, 0), -EFAULT);
		expect(shared, SYS_openat, at, call(SYS_openat, (uint64_t)AT_FDCWD, at, O_RDONLY, 0), -EFAULT);
	}
	/* A control, and one that begins well and ends in nothing. */
	expect(shared, SYS_write, 0, call(SYS_write, fd, (uint64_t)constants, 9, 0), 9);
	expect(shared, SYS_write, 1, call(SYS_write, fd, shared->tag_end - 5, 100, 0), 5);
	expect(shared, SYS_read, 1, call(SYS_read, (uint64_t)shared->in, shared->tag_end - 5, 100, 0), 5);
	expect(shared, SYS_fstat, 1, call(SYS_fstat, (uint64_t)shared->in, shared->tag_end - 5, 0, 0), -EFAULT);
	memset((void *)(shared->tag_end - 5), 'x', 5);
	expect(shared, SYS_open, 1, call(SYS_open, shared->tag_end - 5, O_RDONLY, 0, 0), -EFAULT);
	return (void *)1;
}

static void check_answers(const struct shared *shared)
{
	live_check(shared->wrong == 0, __FILE__, __LINE__,
		   "%ld wrong answers; the first: call %ld at %#lx said %ld, not %ld", shared->wrong, shared->first[0],
		   shared->first[1], shared->first[2], shared->first[3]);
}

static void wild_pointers(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name), directory;
	tag_t tag, other;
	sc_t sc;

	live_init();
	other = tag_new(); /* first, so that nothing follows the tag that is shared */

	uint8_t *read_only = smalloc(other, 100);
	struct shared *shared = share(&tag, &sc);

	unlink(name);
	ASSERT_EQUAL(ftruncate(file, 10000), 0);
	memset(read_only, 0x17, 100);
	sc_mem_add(&sc, other, PROT_READ);
	directory = open("/tmp", O_RDONLY | O_DIRECTORY);
	sc_fd_add(&sc, file, BOTH);
	sc_path_add(&sc, directory, PROT_READ);
	sc_sys_add(&sc, SYS_open);
	shared->in = shared->out = file;
	shared->read_only = (uint64_t)read_only;
	for (uint64_t at = (uint64_t)shared & ~(uint64_t)(PAGE - 1);; at += PAGE) {
		struct life life = live_run(&sc, body_write, (void *)at);

		if (life.error) {
			shared->tag_end = at;
			break;
		}
	}
	memset((void *)(shared->tag_end - 5), 'x', 5);
	ASSERT_RETURNED(live_run(&sc, wild_outputs, shared), 1);
	check_answers(shared);
	ASSERT_RETURNED(live_run(&sc, wild_inputs, shared), 1);
	check_answers(shared);
	for (int i = 0; i < 100; i++)
		ASSERT_EQUAL(read_only[i], 0x17);
	ASSERT_EQUAL(constants[0], 'r');
	sc_destroy(&sc);
}

static void *wild_numbers(void *argument)
{
	struct shared *shared = argument;
	uint64_t in = (uint64_t)shared->in, out = (uint64_t)shared->out;
	char buffer[100];
	const long not_calls[] = { -1, -39, 512, 513, 1000, 0x40000001, 0x100000000, LONG_MIN, LONG_MAX, 435 + 512 };

	for (size_t i = 0; i < sizeof(not_calls) / sizeof(*not_calls); i++)
		expect(shared, not_calls[i], 0, call(not_calls[i], 0, 0, 0, 0), -ENOSYS);
	for (long fd = -3; fd < 1000; fd++)
		if (fd != (long)in && fd != (long)out)
			expect(shared, SYS_read, (uint64_t)fd, call(SYS_read, (uint64_t)fd, (uint64_t)buffer, 1, 0),
			       -EBADF);
	const uint64_t not_files[] = { (uint64_t)INT_MIN, INT_MAX, UINT64_MAX, (uint64_t)LONG_MIN };

	for (size_t i = 0; i < sizeof(not_files) / sizeof(*not_files); i++) {
		expect(shared, SYS_write, i, call(SYS_write, not_files[i], (uint64_t)buffer, 1, 0), -EBADF);
		expect(shared, SYS_close, i, call(SYS_close, not_files[i], 0, 0, 0), -EBADF);
		expect(shared, SYS_fstat, i, call(SYS_fstat, not_files[i], (uint64_t)buffer, 0, 0), -EBADF);
		expect(shared, SYS_lseek, i, call(SYS_lseek, not_files[i], 0, 0, 0), -EBADF);
		expect(shared, SYS_fcntl, i, call(SYS_fcntl, not_files[i], F_GETFL, 0, 0), -EBADF);
	}
	expect(shared, SYS_readv, 0, call(SYS_readv, in, (uint64_t)buffer, UINT64_MAX, 0), -EINVAL);
	expect(shared, SYS_writev, 0, call(SYS_writev, out, (uint64_t)buffer, 1025, 0), -EINVAL);
	expect(shared, SYS_mmap, 0, call(SYS_mmap, 0, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS), -EINVAL);
	expect(shared, SYS_mmap, 1, call(SYS_mmap, 0, UINT64_MAX, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS), -EINVAL);
	expect(shared, SYS_mmap, 2, call(SYS_mmap, 0, (uint64_t)1 << 46, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS),
	       -ENOMEM);
	expect(shared, SYS_munmap, 0, call(SYS_munmap, (uint64_t)wild_numbers & ~(uint64_t)(PAGE - 1), PAGE, 0, 0),
	       -EPERM);
	expect(shared, SYS_munmap, 1, call(SYS_munmap, shared->window + WINDOW_TRAMPOLINE, PAGE, 0, 0), -EPERM);
	expect(shared, SYS_munmap, 2, call(SYS_munmap, shared->window + SPACE_ARENA, (uint64_t)1 << 63, 0, 0), -EPERM);
	expect(shared, SYS_munmap, 3, call(SYS_munmap, shared->window + SPACE_ARENA + 1, PAGE, 0, 0), -EINVAL);

	uint64_t end = (uint64_t)call(SYS_brk, 0, 0, 0, 0);

	expect(shared, SYS_brk, 0, call(SYS_brk, UINT64_MAX, 0, 0, 0), (long)end);
	expect(shared, SYS_brk, 1, call(SYS_brk, shared->window, 0, 0, 0), (long)end);
	expect(shared, SYS_brk, 2, call(SYS_brk, 0x10000, 0, 0, 0), (long)end);
	/* Too much is a short transfer, up to what is there. */
	expect(shared, SYS_read, 0, call(SYS_pread64, in, (uint64_t)buffer & ~(uint64_t)0, 100, 0), 100);
	expect(shared, SYS_getrandom, 0, call(SYS_getrandom, (uint64_t)buffer, 0, 0, 0), 0);
	return (void *)1;
}

static void wild_lengths(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name);
	tag_t tag;
	sc_t sc;

	unlink(name);
	ASSERT_EQUAL(ftruncate(file, 10000), 0);
	live_init();

	struct shared *shared = share(&tag, &sc);

	sc_fd_add(&sc, file, BOTH);
	shared->in = shared->out = file;
	ASSERT_RETURNED(live_run(&sc, wild_numbers, shared), 1);
	check_answers(shared);
	sc_destroy(&sc);
}

static void *whole_memory(void *argument)
{
	struct shared *shared = argument;
	long answer = call(SYS_write, (uint64_t)shared->out, (uint64_t)constants, UINT64_MAX / 2, 0);

	if (answer <= 0)
		return (void *)answer;
	return (void *)(uintptr_t)(call(SYS_write, (uint64_t)shared->out, (uint64_t)constants, 1, 0) == 1);
}

/* A huge length ends where the caller's own memory ends. */
static void huge_write(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name);
	tag_t tag;
	sc_t sc;

	unlink(name);
	live_init();

	struct shared *shared = share(&tag, &sc);

	sc_fd_add(&sc, file, BOTH);
	shared->out = file;
	ASSERT_RETURNED(live_run(&sc, whole_memory, shared), 1);
	CU_ASSERT(lseek(file, 0, SEEK_END) <= 2 * MIB);
	sc_destroy(&sc);
}

static const struct harness_test tests[] = {
	{ "wild pointers in every served call are EFAULT", wild_pointers, HARNESS_FORK },
	{ "wild numbers, descriptors and lengths are refused one by one", wild_lengths, HARNESS_FORK },
	{ "a huge write is a short one", huge_write, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
