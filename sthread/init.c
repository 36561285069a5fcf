/* init.c - sthread_init(), and the small things that every file of the supervisor needs. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "boundary.h"
#include "local.h"
#include "malloc_switch.h"
#include "process_map.h"
#include "scrub.h"
#include "supervisor.h"
#include "unisolated.h"

struct supervisor supervisor = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* What the library knows about where it runs.  The process's own says 0; the snapshot's copy is set to where the
 * service exit is, so inside a compartment it is not 0.  A compartment that changes its copy fools only itself. */
static volatile struct {
	uint64_t not_zero; /* pages of zeros have no copy of their own in the snapshot */
	uint64_t service;
	uint64_t gate; /* the same for plain gate calls, which ring 0 may make without an exit */
	uint64_t window;
} place __attribute__((aligned(32))) = { .not_zero = 1 };

bool supervisor_inside(void)
{
	return place.service != 0;
}

bool supervisor_inside_gate(void)
{
	return place.service && ((const volatile struct dune_life *)(place.window + WINDOW_LIFE))->is_gate;
}

void supervisor_lock(void)
{
	pthread_mutex_lock(&supervisor.lock);
	locals_stop();
	malloc_switch_pause();
}

void supervisor_unlock(void)
{
	malloc_switch_resume();
	locals_go_on();
	pthread_mutex_unlock(&supervisor.lock);
}

int supervisor_wait(pthread_cond_t *condition, const struct timespec *until)
{
	locals_go_on();
	int result = until ? pthread_cond_clockwait(condition, &supervisor.lock, CLOCK_MONOTONIC, until) :
			     pthread_cond_wait(condition, &supervisor.lock);
	locals_stop();
	return result;
}

const char *sthread_error(void)
{
	return dune_error();
}

int supervisor_enter(void)
{
	if (supervisor_inside()) {
		errno = EPERM;
		return -1;
	}
	if (supervisor.ready && *supervisor.here)
		return 0;
	if (supervisor.ready)
		return dune_fail(EPERM, "sthreads cannot be used in a child that was not made by fork()");
	if (supervisor.unisolated)
		return unisolated_enter();
	if (supervisor.forked)
		return supervisor_rebuild();
	return dune_fail(EPERM, "sthread_init() has not been called, or has failed");
}

bool supervisor_has_text(uint64_t address)
{
	const struct snapshot_region *text = snapshot_find(&supervisor.snapshot, address);
	return supervisor.unisolated || (text && text->execute);
}

/* ---- services -------------------------------------------------------------------------------------- */

/*
 * Moves the arguments to where services have them and goes to the exit, which is on the stack; it returns to the caller.
 * In assembly, and by a jump, so that the caller's unwind information is right while it is away.
 */
long supervisor_jump_to_service(enum service number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
				uint64_t exit) __attribute__((visibility("hidden")));
__asm__(".pushsection .text\n"
	".globl supervisor_jump_to_service\n"
	".hidden supervisor_jump_to_service\n"
	".type supervisor_jump_to_service, @function\n"
	"supervisor_jump_to_service:\n"
	".cfi_startproc\n"
	"movl %edi, %eax\n"
	"movq %rsi, %rdi\n"
	"movq %rdx, %rsi\n"
	"movq %rcx, %rdx\n"
	"movq %r8, %r10\n"
	"movq %r9, %r8\n"
	"jmpq *8(%rsp)\n"
	".cfi_endproc\n"
	".size supervisor_jump_to_service, . - supervisor_jump_to_service\n"
	".popsection");

long supervisor_service(enum service number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	return supervisor_jump_to_service(number, a, b, c, d, e, number == SERVICE_GATE ? place.gate : place.service);
}

long supervisor_service_yielding(enum service number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	uint32_t mxcsr;
	uint16_t control;
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(control));
	long answer = supervisor_service(number, a, b, c, d, e);
	/* All vector registers are the callee's to change (System V ABI, 3.2.1); the control words are not. */
	__asm__ volatile("ldmxcsr %0\n\tfldcw %1"
			 :
			 : "m"(mxcsr), "m"(control)
			 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
			   "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	return answer;
}

int supervisor_answer(long answer)
{
	if (answer >= 0)
		return 0;
	errno = (int)-answer;
	return -1;
}

/* ---- identity and randomness ----------------------------------------------------------------------- */

uint32_t supervisor_process_id(uint64_t instance)
{
	const uint64_t numbers = 0x7ffffffe; /* 1 .. 2^31 - 2 */
	return (uint32_t)(1 + ((uint64_t)supervisor.process + instance) % numbers);
}

uint64_t supervisor_new_instance(void)
{
	uint64_t *last = local_instances();
	do
		++*last;
	while (supervisor_process_id(*last) == (uint32_t)supervisor.process);
	return *last;
}

static struct random_stock stock;

void supervisor_random_forget(void)
{
	explicit_bzero(&stock, sizeof stock);
}

/* The call itself, not libc's function: that may keep state in memory that is in the snapshot.  A signal, such as a kick, may cut
 * it short. */
static int fill(void *buffer, size_t size)
{
	for (size_t done = 0; done < size;) {
		long got = syscall(SYS_getrandom, (uint8_t *)buffer + done, size - done, 0);
		if (got > 0)
			done += (size_t)got;
		else if (got == 0 || errno != EINTR)
			return dune_fail(EIO, "the kernel gives no random bytes");
	}
	return 0;
}

int supervisor_random_from(struct random_stock *from, void *buffer, size_t size)
{
	bool small = size <= sizeof from->bytes / 16;
	if (small && from->left < size) {
		from->left = 0;
		if (fill(from->bytes, sizeof from->bytes) != 0)
			return -1;
		from->left = sizeof from->bytes;
	}
	if (small) {
		from->left -= size;
		memcpy(buffer, from->bytes + from->left, size);
		explicit_bzero(from->bytes + from->left, size);
		return 0;
	}
	return fill(buffer, size);
}

int supervisor_random(void *buffer, size_t size)
{
	struct random_stock *local = local_random();
	return supervisor_random_from(local ? local : &stock, buffer, size);
}

/* ---- starting -------------------------------------------------------------------------------------- */

/* Tells the snapshot's copy of `place` where it is. */
static int mark_inside(void)
{
	uint64_t *copy = snapshot_copy_at(&supervisor.snapshot, supervisor.machine, (uint64_t)&place.service);
	if (!copy)
		return dune_fail(ENOTSUP, "the library's own data is not in the snapshot");
	/* On one page: the structure is aligned to its size. */
	copy[0] = supervisor.machine->trampoline_service;
	copy[1] = supervisor.machine->host.ring0_native ? supervisor.machine->trampoline_direct_call :
							  supervisor.machine->trampoline_service;
	copy[2] = supervisor.machine->window;
	return 0;
}

/* Leaves free room at the top of the heap, so that a life's first allocations need no brk(): untouched pages, which cost
 * the snapshot nothing. */
static void leave_heap_room(void)
{
	enum {
		BLOCKS = 4,
		BLOCK = 100 << 10
	}; /* below malloc's threshold for mapping a block of its own */
	void *blocks[BLOCKS];
	for (unsigned i = 0; i < BLOCKS; i++)
		blocks[i] = malloc(BLOCK);
	for (unsigned i = BLOCKS; i > 0; i--)
		free(blocks[i - 1]);
}

static int start_unisolated(void)
{
	supervisor.process = getpid();
	supervisor.unisolated = true;
	if (supervisor_watch_forks() != 0 || boundaries_open() != 0) {
		supervisor.unisolated = false;
		return -1;
	}
	malloc_switch_open();
	unisolated_start();
	return 0;
}

static int start(void)
{
	int off = unisolated_wanted();
	if (off)
		return off < 0 ? -1 : start_unisolated();
	int threads = process_thread_count();
	if (threads < 0)
		return dune_fail(errno, "cannot count the threads of the process: %s", strerror(errno));
	if (threads != 1)
		return dune_fail(EBUSY,
				 "sthread_init() was called late: %d threads are running, call it before they start",
				 threads);
	if (!(supervisor.machine = dune_machine_get()) || !dune_vcpu_get(supervisor.machine))
		return -1;
	supervisor.process = getpid();
	malloc_switch_open();
	if (supervisor_watch_forks() != 0 || boundaries_open() != 0)
		return -1;
	fflush(NULL);
	if (heap_scrub() != 0)
		return dune_fail(ENOMEM, "not enough memory to scrub the heap");
	leave_heap_room();
	supervisor.before = dune_totals();
	/* The snapshot's frames lie side by side, and nothing else among them: children inherit them. */
	supervisor.machine->free_count = 0;
	size_t first = supervisor.machine->frames_used;
	if (snapshot_take(&supervisor.snapshot, supervisor.machine) != 0 || boundaries_check() != 0 ||
	    mark_inside() != 0 || dune_machine_keep(supervisor.machine, first, supervisor.machine->frames_used) != 0)
		return -1;
	/* Half of the descriptors stay the process's own. */
	struct rlimit files;
	supervisor.files_max = getrlimit(RLIMIT_NOFILE, &files) == 0 ? files.rlim_cur / 2 : 512;
	supervisor.ready = true;
	return 0;
}

int sthread_init(void)
{
	if (supervisor_inside()) {
		errno = EPERM;
		return -1;
	}
	supervisor_lock();
	int result = supervisor.ready || supervisor.forked || supervisor.unisolated ? 0 : start();
	supervisor_unlock();
	return result == 0 ? supervisor_enter() : result;
}
