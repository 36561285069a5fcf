/*
 * signals.c - how a Linux signal reaches a thread in the guest.
 *
 * The kernel delivers to the host side, on whatever that is doing.  There on_signal() notes it and blocks all signals; the run
 * loop raises an interrupt in the guest as soon as that takes interrupts; and ring 0 calls the process's handler on the process's
 * stack, with the mask that the kernel would have set.  So at most one signal is noted at a time; the others stay with the kernel.
 *
 * The process's dispositions are kept here while a thread is in the guest: the kernel's own are on_signal() for each signal
 * that has a handler, or whose default dumps core (so that the core shows the guest's registers).
 *
 * Sources: sigaction(2), sigreturn(2), sigaltstack(2), signal(7); Linux arch/x86/include/uapi/asm/{sigcontext,ucontext}.h for
 * the frame.
 */
#include "guest/signals.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "host/host.h"
#include "placement/report.h"

enum {
	SIGNALS = 65
};

enum {
	WORDS = sizeof(struct disposition) / sizeof(uint64_t)
};
#define RESTORER 0x04000000 /* SA_RESTORER */

/* What the process has set.  `version` is odd while one of these is written; `inside` counts the threads in the guest. */
static struct disposition dispositions[SIGNALS];
static _Atomic uint32_t version;
static unsigned inside;
static bool taken[SIGNALS]; /* the kernel has on_signal() */
_Atomic uint64_t dune_guest_on_alternate_stack;

void dune_guest_signal_return(void); /* switch.S */
void dune_guest_return_to(void *context) __attribute__((noreturn));

static bool dumps_core(int number)
{
	return in_set(number, bit(SIGQUIT) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGABRT) | bit(SIGBUS) | bit(SIGFPE) |
				      bit(SIGSEGV) | bit(SIGXCPU) | bit(SIGXFSZ) | bit(SIGSYS));
}

static bool is_ignored_by_default(int number)
{
	return in_set(number, bit(SIGCHLD) | bit(SIGCONT) | bit(SIGURG) | bit(SIGWINCH));
}

static bool stops_by_default(int number)
{
	return in_set(number, bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU));
}

static bool can_be_caught(int number)
{
	return number >= 1 && number < SIGNALS && number != SIGKILL && number != SIGSTOP;
}

uint64_t dune_guest_reserved_signals(void)
{
	return bit(dune_kick_signal()) | bit(dune_guest_kick_signal());
}

static bool ours(int number)
{
	return can_be_caught(number) && !in_set(number, dune_guest_reserved_signals());
}

static uint64_t all_signals(void)
{
	return ~dune_guest_reserved_signals();
}

uint64_t dune_guest_block_signals(void)
{
	uint64_t all = all_signals(), before = 0;
	dune_system_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&before, MASK_SIZE, 0, 0);
	return before;
}

void dune_guest_unblock_signals(uint64_t mask)
{
	set_mask(mask & all_signals());
}

/* Whether memory of the process can be read and written, found out without touching it: the kernel copies a set in before it
 * looks at what is to be done with it, and what was blocked out. */
static bool readable(uint64_t address)
{
	return dune_system_call(SYS_rt_sigprocmask, 99, address, 0, MASK_SIZE, 0, 0) != -EFAULT;
}

static bool writable(uint64_t address)
{
	return dune_system_call(SYS_rt_sigprocmask, SIG_BLOCK, 0, address, MASK_SIZE, 0, 0) != -EFAULT;
}

static void set_default(int number)
{
	struct disposition disposition = { .handler = SIG_DFL,
					   .flags = RESTORER,
					   .restorer = dune_guest_signal_return };
	dune_system_call(SYS_rt_sigaction, number, (long)&disposition, 0, MASK_SIZE, 0, 0);
}

static long thread_id(void)
{
	return dune_system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

static void send_to_self(int number, const siginfo_t *info)
{
	siginfo_t copy = *info;
	long process = dune_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
	if (dune_system_call(SYS_rt_tgsigqueueinfo, process, thread_id(), number, (long)&copy, 0, 0) != 0)
		dune_system_call(SYS_tgkill, process, thread_id(), number, 0, 0, 0);
}

/* ---- dispositions ---------------------------------------------------------------------------------- */

static void give_way(unsigned tries)
{
	if (tries % 256 == 255)
		dune_system_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	else
		__builtin_ia32_pause();
}

/* Whoever changes them has signals blocked, so this can wait anywhere.  The bound is for the child of a fork that copied a change half made. */
struct disposition dune_guest_disposition(int number)
{
	struct disposition copy;
	uint64_t *to = (uint64_t *)&copy;
	const uint64_t *from = (const uint64_t *)&dispositions[number];
	for (unsigned tries = 0; tries < 1 << 20; tries++) {
		uint32_t before = atomic_load(&version);
		for (unsigned i = 0; i < WORDS; i++)
			to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
		atomic_thread_fence(memory_order_acquire);
		if (!(before & 1) && atomic_load(&version) == before)
			break;
		give_way(tries);
	}
	return copy;
}

/* Host side and host mode. */
uint64_t dune_guest_lock_signals(void)
{
	uint64_t mask = dune_guest_block_signals();
	for (unsigned tries = 0;; tries++) {
		uint32_t now = atomic_load(&version);
		if (!(now & 1) && atomic_compare_exchange_weak(&version, &now, now + 1))
			return mask;
		give_way(tries);
	}
}

void dune_guest_unlock_signals(uint64_t mask)
{
	atomic_fetch_add(&version, 1);
	set_mask(mask);
}

/* With the lock. */
static void store_disposition(int number, const struct disposition *disposition)
{
	uint64_t *to = (uint64_t *)&dispositions[number];
	const uint64_t *from = (const uint64_t *)disposition;
	for (unsigned i = 0; i < WORDS; i++)
		__atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
}

static void on_signal(int number, siginfo_t *info, void *context);

/* With the lock: keeps what the process has set in the kernel without our knowledge. */
static void adopt(int number)
{
	struct disposition now;
	if (dune_system_call(SYS_rt_sigaction, number, 0, (long)&now, MASK_SIZE, 0, 0) != 0)
		return;
	if (now.action != on_signal)
		store_disposition(number, &now);
	taken[number] = now.action == on_signal;
}

/* With the lock: lets the kernel have on_signal(), or what the process has set. */
static long install(int number)
{
	struct disposition mine = dispositions[number];
	bool function = is_function(&mine);
	bool wanted = callback_of(number) || (inside && (function || (mine.handler == SIG_DFL && dumps_core(number))));
	if (function && mine.flags & SA_ONSTACK)
		atomic_fetch_or(&dune_guest_on_alternate_stack, bit(number));
	else
		atomic_fetch_and(&dune_guest_on_alternate_stack, ~bit(number));
	if (wanted) {
		mine.flags &= SA_NOCLDSTOP | SA_NOCLDWAIT | SA_ONSTACK | SA_RESTART;
		if (!function) /* only a handler of Dune runs, and interrupts are not seen in system calls */
			mine.flags |= SA_RESTART;
		if (number == SIGCHLD && mine.handler == SIG_IGN)
			mine.flags |= SA_NOCLDWAIT;
		mine.flags |= SA_SIGINFO | RESTORER;
		mine.restorer = dune_guest_signal_return;
		mine.mask = ~(uint64_t)0;
		mine.action = on_signal;
	} else if (!taken[number]) {
		mine.flags |= RESTORER; /* the host side cannot do without, nor can the process */
		if (!mine.restorer)
			mine.restorer = dune_guest_signal_return;
	}
	taken[number] = wanted;
	return dune_system_call(SYS_rt_sigaction, number, (long)&mine, 0, MASK_SIZE, 0, 0);
}

void dune_guest_signal_changed(int number)
{
	uint64_t mask = dune_guest_lock_signals();
	adopt(number);
	install(number);
	dune_guest_unlock_signals(mask);
}

/* With the lock.  What the kernel has to do with signals that nobody handles here is left as it is. */
static long reinstall_all(void)
{
	long result = 0;
	for (int number = 1; number < SIGNALS; number++) {
		if (!ours(number) || (!inside && !taken[number]))
			continue;
		adopt(number);
		bool function = is_function(&dispositions[number]);
		if (taken[number] || function || dumps_core(number) || callback_of(number)) {
			long installed = install(number);
			result = result ? result : installed;
		}
	}
	return result;
}

int dune_guest_signals_begin(void)
{
	uint64_t mask = dune_guest_lock_signals();
	inside++;
	long result = reinstall_all();
	dune_guest_unlock_signals(mask);
	if (result == 0)
		return 0;
	dune_guest_signals_end();
	return dune_fail(EINVAL, "the kernel refuses to have the process's signals taken over");
}

void dune_guest_signals_end(void)
{
	uint64_t mask = dune_guest_lock_signals();
	if (inside && --inside == 0)
		reinstall_all();
	dune_guest_unlock_signals(mask);
}

void dune_guest_signals_forget(void)
{
	atomic_store(&version, 0);
	inside = 0;
	uint64_t mask = dune_guest_lock_signals();
	reinstall_all();
	dune_guest_unlock_signals(mask);
}

int dune_register_signal_handler(int number, dune_intr_cb callback)
{
	if (!ours(number) || DUNE_SIGNAL_INTR_BASE + number >= IDT_ENTRIES)
		return dune_fail(EINVAL, "signal %d cannot have a handler", number);
	__atomic_store_n(&dune_handlers.interrupt[DUNE_SIGNAL_INTR_BASE + number], callback, __ATOMIC_RELEASE);
	if (dune_in_guest())
		dune_guest_ask(GUEST_CALL_INSTALL, number, 0, 0);
	else
		dune_guest_signal_changed(number);
	return 0;
}

bool dune_guest_use_up(int number, const struct disposition *disposition)
{
	uint64_t handler = disposition->word;
	return __atomic_compare_exchange_n(&dispositions[number].word, &handler, (uint64_t)SIG_DFL, false,
					   __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* ---- host side: the kernel's handler --------------------------------------------------------------- */

/* The default action, with all signals blocked.  Returns if that is not the end of the process. */
static void stop_here(int number, const siginfo_t *info)
{
	uint64_t mask = dune_guest_lock_signals();
	set_default(number);
	send_to_self(number, info);
	set_mask(all_signals() & ~bit(number)); /* here */
	install(number);
	dune_guest_unlock_signals(mask);
}

static bool is_fault(int number, const siginfo_t *info)
{
	return info->si_code > 0 && (number == SIGSEGV || number == SIGBUS || number == SIGILL || number == SIGFPE);
}

/* A thread that is not in the guest: what the kernel would have done. */
static void handle_here(int number, siginfo_t *info, void *context)
{
	uint64_t mask;
	memcpy(&mask, &((ucontext_t *)context)->uc_sigmask, MASK_SIZE);
	for (;;) {
		struct disposition disposition = dune_guest_disposition(number);
		if (is_function(&disposition)) {
			if (disposition.flags & SA_RESETHAND) {
				if (!dune_guest_use_up(number, &disposition))
					continue;
				dune_guest_signal_changed(number);
			}
			set_mask(mask | disposition.mask | (disposition.flags & SA_NODEFER ? 0 : bit(number)));
			disposition.action(number, info, context);
			return;
		}
		if (disposition.handler == SIG_IGN && !is_fault(number, info))
			return;
		break;
	}
	if (is_ignored_by_default(number))
		return;
	if (stops_by_default(number)) {
		stop_here(number, info);
		return;
	}
	/* A fault happens again; anything else is sent again, and comes when this handler returns. */
	set_default(number);
	if (!is_fault(number, info))
		send_to_self(number, info);
}

/* A call that was made with a mask of its own, and that this signal has ended: handlers run with that mask. */
static uint64_t mask_of_call(const struct dune_guest_thread *thread, const ucontext_t *interrupted, uint64_t otherwise)
{
	const greg_t *registers = interrupted->uc_mcontext.gregs;
	if (thread->call_has_mask && registers[REG_RIP] == (greg_t)dune_guest_forward_end &&
	    registers[REG_RAX] == -EINTR)
		return thread->call_mask;
	return otherwise;
}

/* Keeps a system call that has not begun from being made before the handler has run. */
static void hold_call(const struct dune_guest_thread *thread, ucontext_t *interrupted)
{
	greg_t *registers = interrupted->uc_mcontext.gregs;
	const uint8_t *at = (const uint8_t *)registers[REG_RIP];
	if (!thread->interruptible || at < dune_guest_forward_begin || at > dune_guest_forward_call)
		return;
	if (at == dune_guest_forward_call && registers[REG_RAX] == SYS_restart_syscall) {
		/* The thread was stopped in a call, which then does not go on once a handler has run. */
		registers[REG_RAX] = -EINTR;
		registers[REG_RIP] = (greg_t)dune_guest_forward_end;
	} else {
		registers[REG_RIP] = (greg_t)dune_guest_forward_interrupted;
	}
}

/* Async-signal-safe.  All signals are blocked. */
static void on_signal(int number, siginfo_t *info, void *context)
{
	struct dune_guest_thread *thread = dune_guest_self;
	ucontext_t *interrupted = context;
	uint64_t mask;
	memcpy(&mask, &interrupted->uc_sigmask, MASK_SIZE);
	if (!thread || !atomic_load(&thread->entered) || thread_id() != thread->id) { /* last: the child of a vfork() */
		if (callback_of(number))
			set_mask(mask | bit(number));
		if (!dune_host_on_signal(number, interrupted))
			handle_here(number, info, context);
		return;
	}
	if (is_fault(number, info)) { /* of the host side itself */
		set_default(number);
		return;
	}
	thread->signal.info = *info;
	thread->signal.mask = mask;
	thread->signal.during = mask_of_call(thread, interrupted, mask);
	thread->signal.fault = false;
	thread->signal.number = number;
	const uint64_t all = all_signals();
	memcpy(&interrupted->uc_sigmask, &all, MASK_SIZE);
	thread->vcpu->run->immediate_exit = 1;
	hold_call(thread, interrupted);
}

/* ---- host side: system calls that concern signals ---------------------------------------------------- */

uint64_t dune_guest_sigaction(const struct kvm_regs *call)
{
	int number = (int)call->rdi;
	const struct disposition *new = (const struct disposition *)call->rsi;
	struct disposition *old = (struct disposition *)call->rdx;
	if (!can_be_caught(number) || call->r10 != MASK_SIZE)
		return dune_system_call(SYS_rt_sigaction, call->rdi, call->rsi, call->rdx, call->r10, 0, 0);
	/* The kernel copies a disposition in before it finds that there is no signal 0. */
	if (new &&dune_system_call(SYS_rt_sigaction, 0, (long)new, 0, MASK_SIZE, 0, 0) == -EFAULT)
		return -EFAULT;
	if (old && dune_system_call(SYS_rt_sigaction, number, 0, (long)old, MASK_SIZE, 0, 0) != 0)
		return -EFAULT;
	struct disposition wanted = new ? *new : (struct disposition){ .handler = SIG_DFL };
	wanted.mask &= ~(bit(SIGKILL) | bit(SIGSTOP));
	uint64_t mask = dune_guest_lock_signals();
	if (ours(number))
		adopt(number);
	struct disposition before = dispositions[number];
	long result = 0;
	if (new) {
		store_disposition(number, &wanted);
		if (ours(number))
			result = install(number);
	}
	dune_guest_unlock_signals(mask);
	if (old)
		*old = before;
	return result;
}

uint64_t dune_guest_sigaltstack(struct dune_guest_thread *thread, const struct kvm_regs *call)
{
	const stack_t none = { .ss_flags = SS_DISABLE };
	bool in_use = on_alternate_stack(&thread->alternate, call->rsp);
	if (call->rdi && in_use)
		return readable(call->rdi) && readable(call->rdi + sizeof none - MASK_SIZE) ? -EPERM : -EFAULT;
	dune_system_call(SYS_sigaltstack, (long)&thread->alternate, 0, 0, 0, 0, 0);
	long result = dune_system_call(SYS_sigaltstack, call->rdi, call->rsi, 0, 0, 0, 0);
	dune_system_call(SYS_sigaltstack, (long)&none, (long)&thread->alternate, 0, 0, 0, 0);
	if (result == 0 && call->rsi && in_use)
		((stack_t *)call->rsi)->ss_flags |= SS_ONSTACK;
	return result;
}

void dune_guest_take_alternate(struct dune_guest_thread *thread)
{
	const stack_t none = { .ss_flags = SS_DISABLE };
	thread->alternate = none; /* if this thread is on it now, it stays with the kernel */
	dune_system_call(SYS_sigaltstack, (long)&none, (long)&thread->alternate, 0, 0, 0, 0);
}

static void change_mask(uint64_t *mask, int how, uint64_t set)
{
	*mask = how == SIG_BLOCK ? *mask | set : how == SIG_UNBLOCK ? *mask & ~set : set;
	*mask &= ~(bit(SIGKILL) | bit(SIGSTOP)) & all_signals();
}

uint64_t dune_guest_sigprocmask(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted)
{
	struct kvm_regs changed = *call;
	int how = (int)call->rdi;
	uint64_t set = 0;
	if (call->r10 == MASK_SIZE && call->rsi) {
		if (!readable(call->rsi))
			return -EFAULT;
		set = *(const uint64_t *)call->rsi & (how == SIG_UNBLOCK ? ~(uint64_t)0 : all_signals());
		changed.rsi = (uint64_t)&set;
	}
	if (thread->interruptible || call->r10 != MASK_SIZE || (unsigned)how > SIG_SETMASK)
		return dune_guest_make_plain_call(thread, &changed, interrupted);
	/* Interrupts are off: what is noted stays noted, and the mask that counts is the one that it found. */
	uint64_t before = dune_guest_block_signals(), *mask = &before;
	uint64_t result = 0;
	if (thread->signal.number)
		mask = &thread->signal.mask;
	uint64_t old = *mask;
	if (call->rsi)
		change_mask(mask, how, set);
	thread->signal.during = thread->signal.mask;
	if (call->rdx && writable(call->rdx))
		*(uint64_t *)call->rdx = old;
	else if (call->rdx)
		result = -EFAULT;
	if (!thread->signal.number)
		set_mask(before);
	return result;
}

void dune_guest_note_mask(struct dune_guest_thread *thread, const struct kvm_regs *call)
{
	uint64_t at = 0;
	switch (call->rax) {
	case SYS_rt_sigsuspend:
		at = call->rdi;
		break;
	case SYS_ppoll:
		at = call->r10;
		break;
	case SYS_epoll_pwait:
#ifdef SYS_epoll_pwait2
	case SYS_epoll_pwait2:
#endif
		at = call->r8;
		break;
	case SYS_pselect6: /* R9 -> address and size of the mask */
#ifdef SYS_io_pgetevents
	case SYS_io_pgetevents:
#endif
		if (call->r9 && readable(call->r9))
			at = *(const uint64_t *)call->r9;
		break;
	default:
		break;
	}
	thread->call_has_mask = at && readable(at);
	if (thread->call_has_mask)
		thread->call_mask = *(const uint64_t *)at & all_signals() & ~(bit(SIGKILL) | bit(SIGSTOP));
}

/* ---- host side: the end ------------------------------------------------------------------------------- */

void dune_guest_die(struct dune_guest_thread *thread, const struct kvm_regs *registers, int number,
		    const siginfo_t *info)
{
	ucontext_t context = { .uc_flags = CONTEXT_SS, .uc_stack = { .ss_flags = SS_DISABLE } };
	greg_t *to = context.uc_mcontext.gregs;
	to[REG_R8] = registers->r8, to[REG_R9] = registers->r9, to[REG_R10] = registers->r10;
	to[REG_R11] = registers->r11, to[REG_R12] = registers->r12, to[REG_R13] = registers->r13;
	to[REG_R14] = registers->r14, to[REG_R15] = registers->r15, to[REG_RDI] = registers->rdi;
	to[REG_RSI] = registers->rsi, to[REG_RBP] = registers->rbp, to[REG_RBX] = registers->rbx;
	to[REG_RDX] = registers->rdx, to[REG_RAX] = registers->rax, to[REG_RCX] = registers->rcx;
	to[REG_RSP] = registers->rsp, to[REG_RIP] = registers->rip;
	to[REG_EFL] = (registers->rflags & 0xcd5) | 0x202;
	to[REG_CSGSFS] = (greg_t)((uint64_t)SELECTOR_USER_DATA << 48 | SELECTOR_USER_CODE);
	/* The signal is pending and blocked; the registers come with a mask that lets it in before any instruction. */
	uint64_t but_this = ~bit(number);
	memcpy(&context.uc_sigmask, &but_this, MASK_SIZE);
	dune_guest_block_signals();
	set_default(number);
	send_to_self(number, info);
	if (thread->process == 1) /* the kernel drops what the init process sends itself */
		dune_system_call(SYS_exit_group, 128 + number, 0, 0, 0, 0, 0);
	dune_guest_return_to(&context);
}

void dune_guest_default_action(struct dune_guest_thread *thread, const struct kvm_regs *registers,
			       const struct dune_guest_signal *signal)
{
	if (!signal->fault && is_ignored_by_default(signal->number))
		return;
	if (!signal->fault && stops_by_default(signal->number))
		stop_here(signal->number, &signal->info);
	else
		dune_guest_die(thread, registers, signal->number, &signal->info);
}

void dune_guest_send_again(struct dune_guest_thread *thread, uint64_t mask)
{
	if (thread->signal.number) {
		send_to_self(thread->signal.number, &thread->signal.info);
		mask = thread->signal.mask;
		thread->signal.number = 0;
	}
	set_mask(mask);
}
