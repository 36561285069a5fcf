/* host.c - host placement: entering and leaving, running ring 3, calling handlers. */
#define _GNU_SOURCE
#include "host/host.h"
#include "placement/system_call.h"
#include "vm/space.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
	VECTOR_ALIGNMENT = 64 /* of XSAVE's image */
};

_Thread_local struct dune_host_thread *dune_host_self __attribute__((tls_model("initial-exec")));

/* In the child of a fork that a handler has made: the record with its unfinished jumps, which can still be ended. */
static _Thread_local struct dune_host_thread *inherited __attribute__((tls_model("initial-exec")));
static _Thread_local int jump_result;

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct dune_host_thread *threads;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_end;
static int once_error;
static _Atomic uint64_t tenants; /* names for contexts, never used twice */

/* ---- entering and leaving -------------------------------------------------------------------------- */

void dune_host_threads(void (*function)(struct dune_host_thread *thread, void *argument), void *argument)
{
	pthread_mutex_lock(&list_lock);
	for (struct dune_host_thread *thread = threads; thread; thread = thread->next_thread)
		function(thread, argument);
	pthread_mutex_unlock(&list_lock);
}

static struct dune_host_jump *new_jump(const struct dune_machine *machine)
{
	struct dune_host_jump *jump = calloc(1, sizeof *jump);
	size_t size = (dune_host_vector_size(machine) + VECTOR_ALIGNMENT - 1) & ~(size_t)(VECTOR_ALIGNMENT - 1);
	if (jump && !(jump->context.vector = aligned_alloc(VECTOR_ALIGNMENT, size))) {
		free(jump);
		jump = NULL;
	}
	if (!jump) {
		dune_fail(ENOMEM, "out of memory");
		return NULL;
	}
	memset(jump->context.vector, 0, size);
	return jump;
}

static void free_thread(struct dune_host_thread *thread)
{
	for (struct dune_host_jump *jump = thread->first, *inner; jump; jump = inner) {
		inner = jump->inner;
		dune_context_free(&jump->context);
		free(jump);
	}
	free(thread);
}

/* Also at the thread's end, when the virtual CPU may be another thread's already. */
static void forget_thread(void *argument)
{
	struct dune_host_thread *thread = argument;
	pthread_mutex_lock(&list_lock);
	struct dune_host_thread **link = &threads;
	while (*link != thread)
		link = &(*link)->next_thread;
	*link = thread->next_thread;
	pthread_mutex_unlock(&list_lock);
	dune_host_self = NULL;
	free_thread(thread);
}

/* In the order of dune_host_replace(). */
static void before_fork(void)
{
	dune_space_lock();
	pthread_mutex_lock(&list_lock);
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&list_lock);
	dune_space_unlock();
}

/* The mirror's handler has run.  No thread is in Dune mode, and the virtual CPUs are gone.  The calling thread's own record may be in use further up its
 * stack. */
static void after_fork_in_child(void)
{
	for (struct dune_host_thread *thread = threads, *next; thread; thread = next) {
		next = thread->next_thread;
		if (thread != dune_host_self)
			free_thread(thread);
	}
	threads = NULL;
	if (dune_host_self) {
		pthread_setspecific(thread_end, NULL);
		inherited = dune_host_self;
	}
	dune_host_self = NULL;
	pthread_mutex_unlock(&list_lock);
}

static void install(void)
{
	once_error = pthread_key_create(&thread_end, forget_thread);
	if (!once_error)
		once_error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static void find_stack(struct dune_host_thread *self)
{
	pthread_attr_t attributes;
	void *at;
	size_t size;
	if (pthread_getattr_np(pthread_self(), &attributes) != 0)
		return;
	if (pthread_attr_getstack(&attributes, &at, &size) == 0) {
		self->stack = (uintptr_t)at;
		self->stack_end = (uintptr_t)at + size;
	}
	pthread_attr_destroy(&attributes);
}

static int enter(void)
{
	pthread_once(&once, install);
	if (once_error)
		return dune_fail(once_error, "out of memory");
	if (dune_mirror_open() != 0) /* in the child of a fork, or it does nothing */
		return -1;
	struct dune_host_thread *self = calloc(1, sizeof *self);
	if (!self)
		return dune_fail(ENOMEM, "out of memory");
	if (!(self->first = new_jump(dune_mirror->machine)) ||
	    !(self->vcpu = dune_vcpu_get_mirror(dune_mirror->machine))) {
		int error = errno;
		free_thread(self);
		errno = error;
		return -1;
	}
	find_stack(self);
	self->next = self->first;
	self->cr3 = (unsigned long)pgroot;
	atomic_init(&self->root, (uintptr_t)pgroot);
	self->exits_before = self->vcpu->exits;
	pthread_mutex_lock(&list_lock);
	self->next_thread = threads;
	threads = self;
	pthread_mutex_unlock(&list_lock);
	pthread_setspecific(thread_end, self);
	dune_host_self = self;
	return 0;
}

static bool entered(void)
{
	return dune_host_self != NULL;
}

static bool on_own_stack(const struct dune_host_thread *self, uintptr_t address)
{
	return address - self->stack < self->stack_end - self->stack;
}

/* Ends the jumps whose handlers have left them by longjmp(): their frames are below `frame`, that of a function
 * which the thread's program has called. */
static void drop_left_jumps(struct dune_host_thread *self, const void *frame)
{
	uintptr_t here = (uintptr_t)frame;
	if (!on_own_stack(self, here))
		return;
	struct dune_host_jump *jump = self->first;
	for (unsigned i = 0; i < self->depth; i++, jump = jump->inner)
		if (on_own_stack(self, jump->frame) && jump->frame < here) {
			self->depth = i;
			self->next = jump;
			self->vcpu->pending = true;
			atomic_store(&self->vcpu->running, false);
			atomic_store(&self->serving, false);
			return;
		}
}

static int leave(void)
{
	drop_left_jumps(dune_host_self, __builtin_frame_address(0));
	if (dune_host_self->depth)
		return dune_fail(EINVAL, "this thread serves ring-3 code: dune_ret_from_user() comes first");
	dune_vcpu_release(dune_host_self->vcpu);
	pthread_setspecific(thread_end, NULL);
	forget_thread(dune_host_self);
	return 0;
}

/* ---- ring 3 ---------------------------------------------------------------------------------------- */

static void to_registers(struct kvm_regs *regs, const struct dune_tf *tf)
{
	*regs = (struct kvm_regs){
		.rax = tf->rax,
		.rbx = tf->rbx,
		.rcx = tf->rcx,
		.rdx = tf->rdx,
		.rsi = tf->rsi,
		.rdi = tf->rdi,
		.rsp = tf->rsp,
		.rbp = tf->rbp,
		.r8 = tf->r8,
		.r9 = tf->r9,
		.r10 = tf->r10,
		.r11 = tf->r11,
		.r12 = tf->r12,
		.r13 = tf->r13,
		.r14 = tf->r14,
		.r15 = tf->r15,
		.rip = tf->rip,
		.rflags = tf->rflags,
	};
}

static void from_registers(struct dune_tf *tf, const struct kvm_regs *regs)
{
	*tf = (struct dune_tf){
		.rax = regs->rax,
		.rbx = regs->rbx,
		.rcx = regs->rcx,
		.rdx = regs->rdx,
		.rsi = regs->rsi,
		.rdi = regs->rdi,
		.rsp = regs->rsp,
		.rbp = regs->rbp,
		.r8 = regs->r8,
		.r9 = regs->r9,
		.r10 = regs->r10,
		.r11 = regs->r11,
		.r12 = regs->r12,
		.r13 = regs->r13,
		.r14 = regs->r14,
		.r15 = regs->r15,
		.rip = regs->rip,
		.rflags = regs->rflags,
		.cs = SELECTOR_USER_CODE,
		.ss = SELECTOR_USER_DATA,
	};
}

static void serve_call(struct dune_host_thread *self, struct dune_tf *tf)
{
	dune_syscall_cb handler = __atomic_load_n(&dune_handlers.system_call, __ATOMIC_ACQUIRE);
	self->system_calls++;
	if (handler)
		handler(tf);
	else
		tf->rax = (uint64_t)-ENOSYS;
}

static void serve_exception(struct dune_host_thread *self, const struct dune_exit *exit, struct dune_tf *tf)
{
	dune_pgflt_cb page_fault = __atomic_load_n(&dune_handlers.page_fault, __ATOMIC_ACQUIRE);
	dune_intr_cb handler = __atomic_load_n(&dune_handlers.interrupt[exit->vector], __ATOMIC_ACQUIRE);
	tf->err = (uint32_t)exit->error_code;
	if (exit->vector == T_PGFLT && page_fault)
		page_fault(exit->address, exit->error_code, tf);
	else if (handler)
		handler(tf);
	else if (exit->vector == T_PGFLT)
		dune_vm_default_pgflt_handler(exit->address, exit->error_code);
	else
		dune_host_raise(self, exit, tf);
}

/* A kick must reach a thread that blocks all signals as well: others wait for it.  The signal is the library's. */
static void let_kicks_in(void)
{
	uint64_t kick = (uint64_t)1 << (dune_kick_signal() - 1);
	dune_system_call(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&kick, 0, sizeof kick, 0, 0);
}

/* Lets ring 3 run until it needs something. */
static void run(struct dune_host_thread *self, struct dune_host_jump *jump, struct dune_tf *tf, struct dune_exit *exit)
{
	struct dune_context *context = &jump->context;
	if (tf->rip >= DUNE_USER_END) { /* where an instruction would have faulted on the way there */
		*exit = (struct dune_exit){ .kind = DUNE_EXIT_EXCEPTION, .vector = T_GPFLT };
		return;
	}
	to_registers(&context->regs, tf);
	context->fs_base = self->user_fs;
	let_kicks_in();
	dune_host_use_root(self, context);
	dune_vcpu_run(self->vcpu, context, exit);
	self->user_fs = context->fs_base;
	if (exit->kind == DUNE_EXIT_SYSTEM_CALL)
		context->regs.rflags = (context->regs.r11 & ~(uint64_t)FL_IOPL_MASK) | FL_IF | 2;
	from_registers(tf, &context->regs);
}

/* Runs ring 3 and what it traps into, until it cannot go on: then -1 with errno. */
static int serve(struct dune_host_thread *self, struct dune_host_jump *jump, const struct dune_tf *start)
{
	struct dune_tf tf = *start;
	struct dune_exit exit;
	tf.err = 0;
	for (;;) {
		atomic_store(&self->serving, true);
		while (atomic_load(&self->pending)) {
			atomic_store(&self->serving, false);
			dune_host_deliver(self, &tf);
			if (dune_host_self != self)
				return dune_fail(
					EPERM,
					"this process is a child that a handler has forked: it is not in Dune mode");
			atomic_store(&self->serving, true);
		}
		run(self, jump, &tf, &exit);
		atomic_store(&self->serving, false);
		switch (exit.kind) {
		case DUNE_EXIT_SYSTEM_CALL:
			serve_call(self, &tf);
			break;
		case DUNE_EXIT_EXCEPTION:
			if (exit.from_monitor)
				return dune_fail(EIO, "ring 0 of the virtual machine has raised exception %u",
						 exit.vector);
			serve_exception(self, &exit, &tf);
			break;
		case DUNE_EXIT_KICKED:
			break;
		default:
			if (exit.error == EFAULT)
				return dune_fail(EFAULT,
						 "ring 3 has used memory that the process does not have, or not with "
						 "that right: its page tables map it");
			return dune_fail(EIO, "the virtual CPU cannot go on: %s", dune_exit_name(exit.reason));
		}
		if (dune_host_self != self)
			return dune_fail(EPERM,
					 "this process is a child that a handler has forked: it is not in Dune mode");
	}
}

/* Begins a jump, after the vector state was captured in self->next.  Returns NULL with errno. */
static struct dune_host_jump *begin_jump(struct dune_host_thread *self, jmp_buf *end)
{
	struct dune_host_jump *jump = self->next, *outer = NULL;
	if (!jump->inner && !(jump->inner = new_jump(dune_mirror->machine)))
		return NULL;
	for (struct dune_host_jump *at = self->first; at != jump; at = at->inner)
		outer = at;
	if (outer && dune_vcpu_save(self->vcpu, &outer->context) != 0)
		return NULL;
	dune_context_start(&jump->context, atomic_fetch_add(&tenants, 1) + 1, atomic_load(&self->root));
	jump->context.saved = true; /* the vector state is there to be loaded */
	jump->frame = (uintptr_t)end;
	jump->end = end;
	self->next = jump->inner;
	self->depth++;
	return jump;
}

static void end_jump(struct dune_host_thread *self, struct dune_host_jump *jump)
{
	self->next = jump;
	self->depth--;
}

static int jump_to_user(struct dune_tf *tf)
{
	struct dune_host_thread *const self = dune_host_self;
	jmp_buf end;
	drop_left_jumps(self, __builtin_frame_address(0));
	dune_host_capture_vector(self->vcpu->machine, self->next->context.vector);
	struct dune_host_jump *const jump = begin_jump(self, &end);
	if (!jump)
		return -1;
	if (_setjmp(end) != 0)
		return jump_result;
	int result = serve(self, jump, tf);
	if (dune_host_self == self) {
		dune_vcpu_release(self->vcpu);
		end_jump(self, jump);
	}
	return result;
}

static void __attribute__((noreturn)) ret_from_user(int result)
{
	struct dune_host_thread *self = dune_host_self;
	if (!self || !self->depth)
		self = inherited;
	else
		drop_left_jumps(self, __builtin_frame_address(0));
	if (!self || !self->depth)
		abort(); /* nobody to return to: the caller has broken the precondition */
	struct dune_host_jump *jump = self->first;
	while (jump->inner != self->next)
		jump = jump->inner;
	jump_result = result;
	jmp_buf *end = jump->end;
	if (self == dune_host_self)
		dune_vcpu_release(self->vcpu);
	end_jump(self, jump);
	longjmp(*end, 1);
}

static unsigned long get_user_fs(void)
{
	return dune_host_self ? dune_host_self->user_fs : 0;
}

static void set_user_fs(unsigned long fs_base)
{
	if (dune_host_self)
		dune_host_self->user_fs = fs_base;
}

static int get_counters(struct dune_counters *counters)
{
	*counters = (struct dune_counters){ .exits = dune_host_self->vcpu->exits - dune_host_self->exits_before,
					    .system_calls = dune_host_self->system_calls };
	return 0;
}

const struct dune_placement_operations dune_host_operations = {
	.placement = DUNE_PLACEMENT_HOST,
	.enter = enter,
	.leave = leave,
	.entered = entered,
	.jump_to_user = jump_to_user,
	.ret_from_user = ret_from_user,
	.get_user_fs = get_user_fs,
	.set_user_fs = set_user_fs,
	.load_cr3 = dune_host_load_cr3,
	.read_cr3 = dune_host_read_cr3,
	.flush_one = dune_host_flush_one,
	.flush = dune_host_flush,
	.flush_all = dune_host_flush_all,
	.invpcid = dune_host_invpcid,
	.replace = dune_host_replace,
	.counters = get_counters,
};
