/*
 * live_dune_faults.c - exceptions of ring 0 that become signals of the process, in guest placement: what handlers are told, what
 * happens without one, and what a core dump shows.
 */
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "dune_both.h"

static sigjmp_buf back;
static volatile int count;
static siginfo_t last;
static uint64_t last_rip, last_rsp, last_error;
static volatile uintptr_t handler_stack;

static void note(int number, siginfo_t *info, void *context)
{
	const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)number;
	count++;
	last = *info;
	last_rip = registers[REG_RIP];
	last_rsp = registers[REG_RSP];
	last_error = registers[REG_ERR];
	handler_stack = (uintptr_t)__builtin_frame_address(0);
	siglongjmp(back, 1);
}

static void set(int number, int flags)
{
	struct sigaction action = { .sa_sigaction = note, .sa_flags = SA_SIGINFO | flags };

	sigemptyset(&action.sa_mask);
	ASSERT_EQUAL(sigaction(number, &action, NULL), 0);
}

/* An address that the compiler knows nothing of. */
static volatile uint8_t *at(uintptr_t address)
{
	__asm__("" : "+r"(address));
	return (volatile uint8_t *)address;
}

#define EXPECT_SIGNAL(statement, number, code, address)                      \
	do {                                                                 \
		last = (siginfo_t){ 0 };                                     \
		if (sigsetjmp(back, 1) == 0) {                               \
			statement;                                           \
		}                                                            \
		ASSERT_EQUAL(last.si_signo, number);                         \
		ASSERT_EQUAL(last.si_code, code);                            \
		ASSERT_EQUAL((uintptr_t)last.si_addr, (uintptr_t)(address)); \
	} while (0)

/* ---- what handlers are told --------------------------------------------------------------------------- */

extern const char undefined_here[], divide_here[];

static void __attribute__((noinline)) undefined(void)
{
	__asm__ volatile(".globl undefined_here\nundefined_here: ud2");
}

static void __attribute__((noinline)) divide(void)
{
	__asm__ volatile(
		"xor %%edx, %%edx; mov $1, %%eax; xor %%ecx, %%ecx\n.globl divide_here\ndivide_here: div %%ecx" ::
			: "eax", "ecx", "edx", "cc");
}

static void cause_body(void)
{
	uint8_t *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *read_only = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *gone = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FILE *file = tmpfile();
	uint8_t *mapped;

	for (int i = 0; i < 5; i++)
		set((int[]){ SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP }[i], 0);
	*gone = 1;
	munmap(gone, 4096);
	EXPECT_SIGNAL(*(volatile uint8_t *)gone, SIGSEGV, SEGV_MAPERR, gone);
	ASSERT_EQUAL(last_error, 4);
	EXPECT_SIGNAL(*(volatile uint8_t *)(gone + 7) = 1, SIGSEGV, SEGV_MAPERR, gone + 7);
	ASSERT_EQUAL(last_error, 6);
	EXPECT_SIGNAL(*(volatile uint8_t *)(none + 5), SIGSEGV, SEGV_ACCERR, none + 5);
	ASSERT_EQUAL(*(volatile uint8_t *)read_only, 0);
	EXPECT_SIGNAL(*(volatile uint8_t *)(read_only + 9) = 1, SIGSEGV, SEGV_ACCERR, read_only + 9);
	EXPECT_SIGNAL(*at(8), SIGSEGV, SEGV_MAPERR, 8);
	EXPECT_SIGNAL(*at(0x8000000000000000), SIGSEGV, SI_KERNEL, 0);
	EXPECT_SIGNAL(((void (*)(void))read_only)(), SIGSEGV, SEGV_ACCERR, read_only);
	ASSERT_EQUAL(last_rip, (uintptr_t)read_only);
	EXPECT_SIGNAL(undefined(), SIGILL, ILL_ILLOPN, undefined_here);
	ASSERT_EQUAL(last_rip, (uintptr_t)undefined_here);
	EXPECT_SIGNAL(divide(), SIGFPE, FPE_INTDIV, divide_here);
	EXPECT_SIGNAL(__asm__ volatile("int3"), SIGTRAP, SI_KERNEL, 0);
	if (file && ftruncate(fileno(file), 100) == 0) {
		mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
		ASSERT_EQUAL(mapped[50], 0);
		EXPECT_SIGNAL(((volatile uint8_t *)mapped)[5000], SIGBUS, BUS_ADRERR, mapped + 5000);
		EXPECT_SIGNAL(((volatile uint8_t *)mapped)[6000] = 1, SIGBUS, BUS_ADRERR, mapped + 6000);
		fclose(file);
		munmap(mapped, 8192);
	}
	munmap(none, 4096);
	munmap(read_only, 4096);
}

static void causes_are_told(void)
{
	BOTH(cause_body);
}

static volatile double zero, one = 1, huge = 1e308;

static void float_body(void)
{
	volatile double result;
	volatile long double extended = 0;

	static bool no_simd;

	set(SIGFPE, 0);
	last = (siginfo_t){ 0 };
	if (sigsetjmp(back, 1) == 0) {
		feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
		result = one / zero;
	}
	if (last.si_signo == 0 && !dune_in_guest())
		no_simd = true; /* QEMU's emulated processor */
	if (no_simd)
		harness_note("the processor raises no SIMD floating-point exception");
	else
		ASSERT_EQUAL(last.si_code, FPE_FLTDIV);
	feclearexcept(FE_ALL_EXCEPT);
	if (sigsetjmp(back, 1) == 0) {
		feenableexcept(FE_OVERFLOW);
		result = huge * huge;
	}
	if (!no_simd)
		ASSERT_EQUAL(last.si_code, FPE_FLTOVF);
	feclearexcept(FE_ALL_EXCEPT);
	last = (siginfo_t){ 0 };
	if (sigsetjmp(back, 1) == 0) {
		feenableexcept(FE_DIVBYZERO);
		extended = 1 / extended;
		__asm__ volatile("fwait");
	}
	ASSERT_EQUAL(last.si_signo, SIGFPE);
	ASSERT_EQUAL(last.si_code, FPE_FLTDIV);
	(void)result;
	fedisableexcept(FE_ALL_EXCEPT);
	feclearexcept(FE_ALL_EXCEPT);
}

static void floating_point_causes_are_told(void)
{
	BOTH(float_body);
}

/* ---- the alternate stack ------------------------------------------------------------------------------- */

static uint8_t alternate[64 << 10];

static int __attribute__((noinline)) recurse(volatile int depth)
{
	volatile char room[512];

	room[0] = (char)depth;
	return depth < 0 ? 0 : recurse(depth + 1) + room[0];
}

static void *overflow(void *guest)
{
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate };

	if (guest && dune_enter() != 0)
		return NULL;
	sigaltstack(&stack, NULL);
	for (int i = 0; i < 3; i++) {
		if (sigsetjmp(back, 1) == 0)
			recurse(0);
		/* The address is near the stack pointer of the code that faulted. */
		if (last.si_signo == SIGSEGV && handler_stack - (uintptr_t)alternate < sizeof alternate &&
		    (uintptr_t)last.si_addr - last_rsp + 4096 < 8192)
			count += 100;
	}
	return NULL;
}

static void overflow_body(void)
{
	pthread_t thread;
	pthread_attr_t small;
	void *guest = dune_in_guest() ? &thread : NULL;

	count = 0;
	set(SIGSEGV, SA_ONSTACK);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 256 << 10);
	ASSERT_EQUAL(pthread_create(&thread, &small, overflow, guest), 0);
	ASSERT_EQUAL(pthread_join(thread, NULL), 0);
	ASSERT_EQUAL(count, 303);
}

static void a_full_stack_is_survived(void)
{
	BOTH(overflow_body);
}

static void on_tiny(int number, siginfo_t *info, void *context)
{
	(void)number, (void)info, (void)context;
	count++;
}

/* Nothing is written where the stack pointer points: code may run with one that leads nowhere. */
static void tiny_body(void)
{
	static uint64_t saved;
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate };
	struct sigaction action = { .sa_sigaction = on_tiny, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	count = 0;
	ASSERT_EQUAL(sigaltstack(&stack, NULL), 0);
	ASSERT_EQUAL(sigaction(SIGTRAP, &action, NULL), 0);
	__asm__ volatile("mov %%rsp, %0; mov $16, %%esp; int3; mov %0, %%rsp" : "+m"(saved) : : "memory");
	ASSERT_EQUAL(count, 1);
	ASSERT_EQUAL(sigaltstack(&(stack_t){ .ss_flags = SS_DISABLE }, NULL), 0);
}

static void the_alternate_stack_is_enough(void)
{
	BOTH(tiny_body);
}

/* ---- the end ---------------------------------------------------------------------------------------------- */

static void die_blocked(void)
{
	sigset_t all;

	set(SIGSEGV, 0);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	*at(8) = 1;
}

static void die_ignored(void)
{
	signal(SIGSEGV, SIG_IGN);
	*at(8) = 1;
}

static void die_fault(void)
{
	*at(8) = 1;
}

static void die_abort(void)
{
	abort();
}

static void die_trap(void)
{
	__asm__ volatile("int3");
}

static void die_term(void)
{
	raise(SIGTERM);
}

static void die_second(void)
{
	struct sigaction action = { .sa_sigaction = on_tiny, .sa_flags = SA_SIGINFO | SA_RESETHAND };

	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
	raise(SIGUSR1);
}

/* Runs it in a child that enters first if we are in the guest; returns the wait status. */
static int status_of(void (*die)(void), bool core)
{
	bool guest = dune_in_guest();
	int status = -1;

	fflush(NULL);
	pid_t child = fork();
	if (child == 0) {
		setrlimit(RLIMIT_CORE, &(struct rlimit){ core ? RLIM_INFINITY : 0, core ? RLIM_INFINITY : 0 });
		int quiet = open("/dev/null", O_WRONLY);
		if (!core)
			dup2(quiet, 2);
		if (guest && dune_enter() != 0)
			_exit(70);
		die();
		_exit(71);
	}
	ASSERT_EQUAL(waitpid(child, &status, 0), child);
	return status;
}

static void end_body(void)
{
	static const struct {
		void (*die)(void);
		int number;
	} ends[] = { { die_blocked, SIGSEGV }, { die_ignored, SIGSEGV }, { die_fault, SIGSEGV }, { die_abort, SIGABRT },
		     { die_trap, SIGTRAP },    { die_term, SIGTERM },    { die_second, SIGUSR1 } };

	for (unsigned i = 0; i < sizeof ends / sizeof *ends; i++) {
		int status = status_of(ends[i].die, false);

		live_check(WIFSIGNALED(status) && WTERMSIG(status) == ends[i].number, __FILE__, __LINE__,
			   "end %u: status %#x, not signal %d", i, status, ends[i].number);
	}
}

static void processes_end_by_the_signal(void)
{
	BOTH(end_body);
}

static void __attribute__((noinline)) inner_of_the_dump(void)
{
	__asm__ volatile("mov $0x1234567890abcdef, %%r12; movl $1, 8" ::: "r12", "memory");
}

static void __attribute__((noinline)) outer_of_the_dump(void)
{
	inner_of_the_dump();
	__asm__ volatile("");
}

static void die_dumped(void)
{
	outer_of_the_dump();
	__asm__ volatile("");
}

static void cores_show_the_guest(void)
{
	char folder[] = "/tmp/dune-core-XXXXXX", command[PATH_MAX + 256], text[16384], pattern[128] = "",
	     self[PATH_MAX];
	FILE *file = fopen("/proc/sys/kernel/core_pattern", "r");

	if (!both_native())
		HARNESS_SKIP("ring 0 is interpreted here: there is no guest to be shown");
	if (!file || !fgets(pattern, sizeof pattern, file) || pattern[0] == '|' || strchr(pattern, '/'))
		HARNESS_SKIP("core dumps are not written to the current folder here: %s", pattern);
	fclose(file);
	if (system("gdb --version >/dev/null 2>&1") != 0)
		HARNESS_SKIP("there is no gdb here");
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	ASSERT_EQUAL(length > 0, 1);
	self[length > 0 ? length : 0] = 0;
	ASSERT_EQUAL(mkdtemp(folder) != NULL, 1);
	ASSERT_EQUAL(chdir(folder), 0);
	ASSERT_EQUAL(dune_enter(), 0);

	int status = status_of(die_dumped, true);

	ASSERT_EQUAL(dune_leave(), 0);
	ASSERT_EQUAL(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, 1);
	if (!WCOREDUMP(status))
		HARNESS_SKIP("no core was dumped");
	snprintf(command, sizeof command,
		 "gdb -nx -batch -ex 'p/x $r12' -ex bt -ex 'p $_siginfo._sifields._sigfault.si_addr' %s %s/core* 2>&1",
		 self, folder);
	file = popen(command, "r");
	length = (ssize_t)fread(text, 1, sizeof text - 1, file);
	text[length] = 0;
	pclose(file);
	live_check(strstr(text, "0x1234567890abcdef") && strstr(text, "inner_of_the_dump") &&
			   strstr(text, "outer_of_the_dump") && strstr(text, "die_dumped") && strstr(text, "main"),
		   __FILE__, __LINE__, "gdb shows registers and callers: %s", text);
	snprintf(command, sizeof command, "rm -rf %s", folder);
	ASSERT_EQUAL(system(command), 0);
}

int main(int argc, char **argv)
{
	static const struct harness_test tests[] = {
		{ "SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP: handlers are told cause and address", causes_are_told,
		  HARNESS_FORK },
		{ "floating point: handlers are told the cause", floating_point_causes_are_told, HARNESS_FORK },
		{ "a full stack is survived with an alternate one", a_full_stack_is_survived, HARNESS_FORK },
		{ "with SA_ONSTACK nothing is written to the interrupted stack", the_alternate_stack_is_enough,
		  HARNESS_FORK },
		{ "what nobody handles, and what is blocked or ignored, ends the process by its signal",
		  processes_end_by_the_signal, HARNESS_FORK },
		{ "a core dump shows the guest's registers and callers", cores_show_the_guest, HARNESS_FORK,
		  .seconds = 60 },
	};
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
