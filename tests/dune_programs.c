/* dune_programs.c - see dune_programs.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "dune_programs.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	SKIPPED = 77,
	STACK = 64 << 10
};

static bool failed;
static char *shared; /* one page that the parent of a test sees: why it was skipped */

void check_line(bool good, int line, const char *what)
{
	if (good)
		return;
	failed = true;
	printf("# line %d: %s (errno %d: %s)\n", line, what, errno, dune_error());
	fflush(stdout);
}
void skip(const char *why)
{
	snprintf(shared, 256, "%s", why);
	exit(SKIPPED);
}

static enum dune_placement placement;

void enter(void)
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

/* ---- Dune ---- */

/* Maps memory where it is.  Guest-physical addresses are consecutive within a GiB. */
int map_here(const void *memory, size_t length, int perm)
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
/* Where functions of ring 3 return to. */
extern char user_returned[];
__asm__(".text\n"
	".globl user_returned\n"
	"user_returned:\n"
	"	movq %rax, %rdi\n"
	"	movl $60, %eax\n"
	"	syscall\n"
	"	ud2\n");

void frame_of(struct dune_tf *tf, long stack, const void *function, long first, long second)
{
	uint64_t *top = (uint64_t *)(stacks[stack] + STACK) - 2;

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

int run_user(long (*function)(long, long), long first, long second)
{
	struct dune_tf tf;

	frame_of(&tf, 0, (const void *)function, first, second);
	return dune_jump_to_user(&tf);
}
volatile unsigned calls, passed, refused, faults;
volatile uint64_t fault_code;

void syscall_handler(struct dune_tf *tf)
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
void begin(void)
{
	enter();
	dune_register_syscall_handler(syscall_handler);
	map_program();
}
long add(long first, long second)
{
	return first + second;
}
long store_to_pages(long address, long count)
{
	for (long i = 0; i < count; i++)
		*(volatile long *)(address + i * 4096) += i + 1;
	return 0;
}

long sum_of_pages(long address, long count)
{
	long sum = 0;

	for (long i = 0; i < count; i++)
		sum += *(volatile long *)(address + i * 4096);
	return sum;
}
/* ---- running ---- */

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

int run_tests(const struct test *tests, size_t count)
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
	for (size_t i = 0; i < count; i++) {
		run(tests[i].name, tests[i].run, DUNE_PLACEMENT_GUEST);
		if (!tests[i].ring0)
			run(tests[i].name, tests[i].run, DUNE_PLACEMENT_HOST);
	}
	printf("1..%d\n", number);
	return failures != 0;
}
