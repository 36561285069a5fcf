/*
 * guest.c - guest placement: takes a thread into ring 0 and back, and from there to ring 3 and back.
 */
#include "guest/guest.h"

#include <asm/prctl.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm/space.h"

_Static_assert(offsetof(struct dune_tf, rbx) == TF_RBX && offsetof(struct dune_tf, r11) == TF_R11 &&
		       offsetof(struct dune_tf, rax) == TF_RAX && offsetof(struct dune_tf, err) == TF_ERR &&
		       offsetof(struct dune_tf, rip) == TF_RIP && offsetof(struct dune_tf, cs) == TF_CS &&
		       offsetof(struct dune_tf, rflags) == TF_RFLAGS && offsetof(struct dune_tf, rsp) == TF_RSP &&
		       offsetof(struct dune_tf, ss) == TF_SS && sizeof(struct dune_tf) == TF_SIZE,
	       "entry.S");
_Static_assert(offsetof(struct dune_guest_frame, vector) == FRAME_VECTOR &&
		       offsetof(struct dune_guest_frame, address) == FRAME_ADDRESS &&
		       sizeof(struct dune_guest_frame) == FRAME_SIZE,
	       "entry.S");
_Static_assert(offsetof(struct dune_guest_child, scratch) == CHILD_SCRATCH &&
		       offsetof(struct dune_guest_child, vector) == CHILD_VECTOR &&
		       offsetof(struct dune_guest_child, components) == CHILD_COMPONENTS &&
		       offsetof(struct dune_guest_child, mxcsr) == CHILD_MXCSR &&
		       offsetof(struct dune_guest_child, control) == CHILD_CONTROL,
	       "switch.S");
_Static_assert(offsetof(struct kvm_regs, rbx) == REGS_RBX && offsetof(struct kvm_regs, rsp) == REGS_RSP &&
		       offsetof(struct kvm_regs, r8) == REGS_R8 && offsetof(struct kvm_regs, rip) == REGS_RIP &&
		       offsetof(struct kvm_regs, rflags) == REGS_RFLAGS,
	       "switch.S");
_Static_assert(GUEST_VECTOR_EVENT == DUNE_EVENT_VECTOR, "one number");

static pthread_mutex_t threads_lock = PTHREAD_MUTEX_INITIALIZER;
static struct dune_guest_thread *_Atomic threads; /* grows only */
static pid_t owner;                               /* the process whose threads these are */

void dune_guest_every(void (*function)(struct dune_guest_thread *thread, void *argument), void *argument)
{
	for (struct dune_guest_thread *thread = atomic_load(&threads); thread; thread = thread->next)
		function(thread, argument);
}

bool dune_guest_alone(const struct dune_guest_thread *self)
{
	for (const struct dune_guest_thread *thread = atomic_load(&threads); thread; thread = thread->next)
		if (thread != self && atomic_load(&thread->entered))
			return false;
	return true;
}

/* ---- entering and leaving -------------------------------------------------------------------------- */

_Static_assert(sizeof(struct dune_guest_thread) <= DUNE_PAGE_SIZE, "it is a page");

static int make_thread(struct dune_guest_thread *thread, struct dune_machine *on)
{
	const size_t size = DUNE_GUEST_STACK + DUNE_PAGE_SIZE;
	uint8_t *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (stack == MAP_FAILED)
		return dune_fail(ENOMEM, "no memory for the host side of a thread");
	mprotect(stack, DUNE_PAGE_SIZE, PROT_NONE);
	thread->host_stack = stack + size;
	thread->vcpu = dune_vcpu_new_mirror(on);
	if (!thread->vcpu || dune_guest_lay_out_processor(thread) != 0) {
		munmap(stack, size);
		return -1;
	}
	if (on->vector_size) {
		void *vector = mmap(NULL, on->vector_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		thread->vector = vector == MAP_FAILED ? NULL : vector;
	}
	return 0;
}

static struct dune_guest_thread *new_thread(struct dune_machine *on)
{
	struct page *page = dune_page_alloc();
	if (!page)
		return NULL;
	struct dune_guest_thread *thread = (struct dune_guest_thread *)dune_page2pa(page);
	memset(thread, 0, sizeof *thread);
	if (make_thread(thread, on) != 0) {
		dune_page_free(page);
		return NULL;
	}
	thread->next = atomic_load(&threads);
	atomic_store(&threads, thread);
	return thread;
}

static struct dune_guest_thread *take_thread(void)
{
	struct dune_machine *on = dune_mirror->machine;
	pthread_mutex_lock(&threads_lock);
	struct dune_guest_thread *thread = NULL;
	if (dune_guest_lay_out_code() == 0) {
		for (thread = atomic_load(&threads); thread && atomic_load(&thread->in_use);)
			thread = thread->next;
		if (!thread)
			thread = new_thread(on);
		if (thread)
			atomic_store(&thread->in_use, 1);
	}
	pthread_mutex_unlock(&threads_lock);
	return thread;
}

static pthread_mutex_t beginning = PTHREAD_MUTEX_INITIALIZER;

static void before_fork(void)
{
	pthread_mutex_lock(&beginning);
	pthread_mutex_lock(&threads_lock);
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&threads_lock);
	pthread_mutex_unlock(&beginning);
}

static void after_fork_in_child(void)
{
	dune_guest_after_fork();
	dune_guest_signals_forget();
	after_fork_in_parent();
}

/* The child has none of its parent's threads, and another mirror. */
void dune_guest_after_fork(void)
{
	atomic_store(&threads, NULL);
	dune_guest_self = NULL;
	dune_guest_processors_forget();
	owner = 0;
}

static int handlers_error;

static void install_handlers(void)
{
	handlers_error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* Once in each process. */
static int begin_process(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	if (owner == getpid())
		return 0;
	if (dune_mirror_open() != 0) /* in a child; its handlers of fork come first */
		return -1;
	pthread_once(&once, install_handlers);
	if (handlers_error)
		return dune_fail(handlers_error, "out of memory");
	dune_guest_install_kicks();
	if (dune_guest_mirror_objects() != 0)
		return -1;
	owner = getpid();
	return 0;
}

static int enter(void)
{
	uint64_t fs_base = 0, gs_base = 0;
	pthread_mutex_lock(&beginning);
	int begun = begin_process();
	pthread_mutex_unlock(&beginning);
	struct dune_guest_thread *thread = begun == 0 ? take_thread() : NULL;
	if (!thread)
		return -1;
	syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_base);
	syscall(SYS_arch_prctl, ARCH_GET_GS, &gs_base);
	thread->process = getpid();
	thread->id = (pid_t)syscall(SYS_gettid);
	thread->signal.number = 0;
	thread->raised = false;
	thread->prepared = NULL;
	dune_vcpu_local = &dune_guest_local;
	thread->fault_address = thread->fault_count = thread->fault_exits = 0;
	thread->counters = (struct dune_counters){ 0 };
	thread->vcpu->exits = 0;
	if (dune_guest_start_processor(thread, fs_base, gs_base) != 0 || dune_guest_signals_begin() != 0) {
		atomic_store(&thread->in_use, 0);
		return -1;
	}
	uint64_t mask = dune_guest_block_signals();
	dune_guest_self = thread;
	atomic_store(&thread->on_host, true);
	dune_guest_take_alternate(thread);
	atomic_store(&thread->entered, true);
	dune_guest_unblock_signals(mask); /* what comes from here on waits for the guest */
	return dune_guest_enter(thread, thread->host_stack, dune_guest_loop);
}

static int leave(void)
{
	struct dune_guest_thread *thread = dune_guest_self;
	struct dune_guest_processor *processor = (struct dune_guest_processor *)thread->processor_address;
	if (processor->kernel_rsp)
		return dune_fail(EINVAL, "this thread serves ring-3 code: dune_ret_from_user() comes first");
	dune_guest_leave();
	/* Host mode from here. */
	dune_guest_self = NULL;
	atomic_store(&thread->in_use, 0);
	return 0;
}

/* ---- ring 3 ---------------------------------------------------------------------------------------- */

static void *processor_here(void)
{
	return (void *)dune_guest_self->processor_address;
}

static uint64_t read_user_gs(void)
{
	uint32_t low, high;
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(MSR_KERNEL_GS_BASE));
	return (uint64_t)high << 32 | low;
}

static void write_user_gs(uint64_t base)
{
	__asm__ volatile("wrmsr" ::"c"(MSR_KERNEL_GS_BASE), "a"((uint32_t)base), "d"((uint32_t)(base >> 32)));
}

static int jump_to_user(struct dune_tf *tf)
{
	int (*enter_user)(struct dune_tf *, void *) = (void *)dune_guest_in_window(dune_guest_enter_user);
	const struct dune_guest_processor *processor = processor_here();
	if (!processor->kernel_rsp)
		return enter_user(tf, processor_here());
	/* Ring 3 that waits for this one has its GS base where ring 3 has it while ring 0 runs. */
	const uint64_t gs_base = read_user_gs();
	write_user_gs(0);
	int result = enter_user(tf, processor_here());
	write_user_gs(gs_base);
	return result;
}

static void __attribute__((noreturn)) ret_from_user(int result)
{
	void (*leave_user)(int, void *) = (void *)dune_guest_in_window(dune_guest_leave_user);
	struct dune_guest_processor *processor = dune_guest_entered() ? processor_here() : NULL;
	if (!processor || !processor->kernel_rsp) {
		dune_printf("dune: dune_ret_from_user(): this thread runs no ring-3 code\n");
		dune_die();
	}
	leave_user(result, processor);
	__builtin_unreachable();
}

void dune_pop_trap_frame(struct dune_tf *tf)
{
	void (*restore)(struct dune_tf *, void *) = (void *)dune_guest_in_window(dune_guest_restore);
	restore(tf, processor_here());
	__builtin_unreachable();
}

static unsigned long get_user_fs(void)
{
	if (!dune_guest_entered())
		return 0;
	return ((struct dune_guest_processor *)processor_here())->user_fs;
}

static void set_user_fs(unsigned long fs_base)
{
	if (dune_guest_entered())
		((struct dune_guest_processor *)processor_here())->user_fs = fs_base;
}

static int get_counters(struct dune_counters *counters)
{
	*counters = dune_guest_self->counters;
	counters->exits = dune_guest_self->vcpu->exits;
	return 0;
}

const struct dune_placement_operations dune_guest_operations = {
	.placement = DUNE_PLACEMENT_GUEST,
	.enter = enter,
	.leave = leave,
	.entered = dune_guest_entered,
	.jump_to_user = jump_to_user,
	.ret_from_user = ret_from_user,
	.get_user_fs = get_user_fs,
	.set_user_fs = set_user_fs,
	.load_cr3 = dune_guest_load_cr3,
	.read_cr3 = dune_guest_read_cr3,
	.flush_one = dune_guest_flush_one,
	.flush = dune_guest_flush,
	.flush_all = dune_guest_flush_all,
	.invpcid = dune_guest_invpcid,
	.replace = dune_guest_replace,
	.counters = get_counters,
};
