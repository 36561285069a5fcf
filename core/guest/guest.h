/*
 * guest.h - guest placement: what its parts share.
 *
 *   entry.S    ring 0: vectors, system calls, ways to handlers and to ring 3
 *   trap.c     ring 0, on a trap stack: what a trap means
 *   handler.c  ring 0, on the process's stack: calls the process's handlers, sends signals
 *   switch.S   the way between host mode and guest
 *   loop.c     host side: runs a thread's virtual CPU and answers it
 *   forward.c  host side: system calls
 *   signals.c  host side: how a Linux signal reaches a thread in the guest
 *   deliver.c  ring 0: calls the process's handler for it
 *   compartment.[Sc]  ring 0: runs compartments of libsthread
 *   tables.c   which page tables ring 0 runs with, replaced entries, translations that are dropped
 *   processor.c  what ring 0 needs: entry code, a processor's area, a virtual CPU's state
 *   objects.c  the process's code and data, which are always mirrored
 *   guest.c    entering and leaving, ring 3, what dune.h promises
 *
 * The host side of a thread runs on a stack of its own while the guest may be anywhere, also in malloc() with a lock held.  So
 * it allocates nothing, takes no lock of libc, and keeps errno.
 */
#ifndef DUNE_GUEST_H
#define DUNE_GUEST_H

#include <linux/kvm.h>
#include <signal.h>
#include <stdatomic.h>

#include "guest/layout.h"
#include "kvm/mirror.h"
#include "kvm/vcpu.h"
#include "placement/placement.h"
#include "placement/system_call.h"
#include "vm/space.h"

/* Registers of the compartment that the thread's ring 0 runs (compartment.S). */
struct dune_local_state {
	struct kvm_regs regs;
	uint64_t fs, gs;
	uint64_t local; /* address of the struct dune_local in use */
};

/* A virtual CPU's area in the window.  Supervisor only; written by ring 0 and by the host side of its thread. */
struct dune_guest_processor {
	uint8_t tss[256]; /* 104 bytes of it */
	uint64_t kernel_rsp, user_rsp, kernel_fs, user_fs;
	uint64_t trap, dispatch; /* C functions, see entry.S */
	uint64_t vector_mask;    /* components that XSAVE keeps; 0: FXSAVE */
	uint64_t vector_size;    /* bytes */
	uint64_t run_handler;    /* in the window */
	struct dune_guest_thread *thread;
	uintptr_t window, window_end;
	struct dune_local_state compartment;
};

/* On the stack of a handler. */
struct dune_guest_frame {
	struct dune_tf tf;
	uint64_t vector;
	uint64_t address; /* CR2 */
	uint64_t reserved;
};

/* A signal on its way into the guest. */
struct dune_guest_signal {
	int number; /* 0: none.  First: switch.S looks at it */
	bool fault; /* raised by an instruction of the guest: */
	unsigned vector;
	uint64_t address; /* CR2 */
	siginfo_t info;
	uint64_t mask;   /* of the thread when it came, and after the handler */
	uint64_t during; /* the same, but that of a call that came with a mask of its own: the handler's adds to it */
};

/* What a new thread or process needs before it goes on at regs.rip, in host mode. */
struct dune_guest_child {
	struct kvm_regs regs;
	uint64_t scratch;                 /* top of a stack with room for handlers of signals */
	uint64_t mask;                    /* of signals */
	struct dune_guest_thread *thread; /* its parent's, if it is a process of its own with a copy of it */
	uint64_t fs_base, gs_base;        /* if it has its parent's, else 0 */
	const void *vector;               /* its vector state as XSAVE or, with no components, FXSAVE has it; NULL: */
	uint64_t components;
	uint32_t mxcsr, control; /* only these: MXCSR and the x87 control word, which threads inherit */
};

enum {
	DUNE_GUEST_STACK = 128 << 10 /* bytes of the host side's stack */
};

enum {
	MSR_KERNEL_GS_BASE = 0xc0000102 /* ring 3's GS base, while ring 0 runs */
};

/* A thread in the guest.  A page of the pool, so that ring 0 can look at those of others with the lock of address spaces held. */
struct dune_guest_thread {
	struct dune_vcpu *vcpu;
	struct dune_guest_processor *processor; /* here; in the guest at processor_address */
	uint64_t processor_address;
	_Atomic bool entered; /* in Dune mode */
	_Atomic bool on_host; /* its host side runs, not the guest */
	_Atomic bool running; /* between catching up and the end of KVM_RUN */
	uint8_t *host_stack;  /* its upper end */
	pid_t process, id;
	_Atomic int in_use;
	struct dune_guest_signal signal; /* pending */
	bool raised;                     /* an interrupt for it has been, and was not taken yet */
	bool interruptible;              /* the guest takes interrupts, so a signal keeps it from making a call */
	bool call_has_mask;              /* the call that is being made has a mask of signals, */
	uint64_t call_mask;              /* this one */
	_Atomic unsigned kicks;          /* about to be sent, see dune_guest_shoot_down() */
	_Atomic unsigned kicks_sent;     /* of these */
	unsigned kicks_taken;            /* none of these is on its way any more */
	_Atomic uint64_t flushed;        /* of dune_guest_flushes */
	uint64_t fault_address,
		fault_count,        /* KVM could not reach memory: where it was tried last, how often in a row, */
		fault_exits;        /* and how many exits there had been */
	stack_t alternate;          /* the process's alternate stack; the kernel has none meanwhile */
	void *vector;               /* room for KVM_GET_XSAVE */
	struct dune_vcpu *prepared; /* whose area holds this thread's GDT (compartment.c) */
	struct dune_vcpu *_Atomic compartment; /* the libsthread's virtual CPU whose compartment it runs, or NULL */
	struct dune_counters counters;
	uint8_t fxsave[512] __attribute__((aligned(16)));
	struct dune_guest_thread *next; /* of all */
};

/* ---- guest.c ---- */

/* Whether the calling thread is in Dune mode, and not on its host side. */
static inline bool dune_guest_entered(void)
{
	const struct dune_guest_thread *thread = dune_guest_self;
	return thread && atomic_load(&thread->entered) && !atomic_load(&thread->on_host);
}
/* Whether no other thread is in Dune mode. */
bool dune_guest_alone(const struct dune_guest_thread *self);
/* In the child of a fork, in host mode: forgets the threads of the parent. */
void dune_guest_after_fork(void);
/* Calls the function for every thread that there is or was. */
void dune_guest_every(void (*function)(struct dune_guest_thread *thread, void *argument), void *argument);

/* ---- objects.c ---- */

/* Mirrors the process's code and data ahead of its use: ring 0 needs some of it where it cannot ask for it.  Host mode. */
int dune_guest_mirror_objects(void);
/* Host side: lets everything else follow the process anew that may have changed without our knowledge. */
void dune_guest_forget_all(void);

/* ---- processor.c ---- */

/* Puts the entry code and the IDT into the window, once in each process.  One thread at a time. */
int dune_guest_lay_out_code(void);
/* Gives a new thread its processor's area in the window.  One thread at a time. */
int dune_guest_lay_out_processor(struct dune_guest_thread *thread);
/* The beginning of a thread's stay: what its processor's area and its virtual CPU begin with.  Host mode. */
int dune_guest_start_processor(struct dune_guest_thread *thread, uint64_t fs_base, uint64_t gs_base);
/* The child of a fork, whose window has neither. */
void dune_guest_processors_forget(void);
/* Where a symbol of entry.S is in the window. */
uint64_t dune_guest_in_window(const uint8_t *symbol);

/* ---- tables.c ---- */

/* Counts requests to drop translations; every thread has to catch up before its guest goes on. */
extern _Atomic uint64_t dune_guest_flushes;
/* The signal that takes a thread's guest out of KVM_RUN, for nothing else.  Threads in the guest never block it: whoever takes
 * rights away waits for them. */
int dune_guest_kick_signal(void);
/* Once in each process: installs the handler of that signal. */
void dune_guest_install_kicks(void);
/* Has every other thread in the guest drop its translations, and waits until none can use an old one. */
void dune_guest_shoot_down(struct dune_guest_thread *self);
/* Replaces entries from the host side: by the monitor, on this thread's virtual CPU. */
int dune_guest_replace_on_host(struct dune_guest_thread *thread, const struct dune_space_edit *edits, size_t count);
/* What struct dune_placement_operations says. */
void dune_guest_load_cr3(unsigned long cr3);
unsigned long dune_guest_read_cr3(void);
void dune_guest_flush_one(unsigned long address);
void dune_guest_flush(void);
void dune_guest_flush_all(void);
void dune_guest_invpcid(int mode, unsigned pcid, unsigned long address);
int dune_guest_replace(ptent_t *root, const struct dune_space_edit *edits, size_t count);

/* ---- switch.S ---- */

int dune_guest_enter(struct dune_guest_thread *thread, void *host_stack,
		     void (*loop)(struct dune_guest_thread *thread, uint64_t stack));
void dune_guest_started(void);
int dune_guest_leave(void);
void dune_guest_left(uint64_t stack) __attribute__((noreturn));
void dune_guest_continue(const struct kvm_regs *registers) __attribute__((noreturn));
uint64_t dune_guest_forward(const struct kvm_regs *call, const int *pending, bool *interrupted);
uint64_t dune_guest_clone(const struct kvm_regs *call, struct dune_guest_child *child);
void dune_guest_child_begin(struct dune_guest_child *child);
void dune_guest_exit_thread(uint64_t status, _Atomic int *in_use) __attribute__((noreturn));
int dune_guest_copy_frame(void *to, const void *from, size_t words);
void dune_guest_on_stack(void (*function)(void *), void *argument, void *stack);
void dune_guest_call_dispatch(struct dune_guest_frame *frame, void *vector_state);
extern const uint8_t dune_guest_forward_begin[], dune_guest_forward_call[], dune_guest_forward_end[],
	dune_guest_forward_interrupted[], dune_guest_copy_frame_end[], dune_guest_copy_failed[];

/* ---- entry.S, as data ---- */

extern const uint8_t dune_guest_begin[], dune_guest_end[], dune_guest_system_call[], dune_guest_system_call_end[];
extern const uint8_t dune_guest_run_handler[], dune_guest_restore[], dune_guest_enter_user[], dune_guest_leave_user[];

/* ---- trap.c: ring 0, trap stack, no vector registers ---- */

struct dune_tf *dune_guest_trap(struct dune_tf *tf, uint64_t vector, uint64_t address,
				struct dune_guest_processor *processor);

/* ---- handler.c: ring 0 ---- */

/* vector_state: what restore loads when it returns. */
void dune_guest_dispatch(struct dune_guest_frame *frame, void *vector_state);

/* ---- compartment.S, as data; compartment.c ---- */

extern const uint8_t dune_local_begin[], dune_local_enter[];
/* Ring 0, for dune_vcpu_run(): runs the context here if that is possible, else returns false. */
bool dune_local_run(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit);
extern const struct dune_vcpu_local dune_guest_local;
/* Gives the program a tag that compartments' roots have as well.  Returns whether something of theirs is cached under it. */
bool dune_guest_take_tag(struct dune_guest_thread *self, unsigned tag);
/* KVM's form of FXSAVE's image into that image. */
void dune_to_fxsave(uint8_t *image, const struct kvm_fpu *from);

/* ---- signals.c ---- */

/* Signals that libdune uses for itself: never blocked, and what the process sets for them has no effect. */
uint64_t dune_guest_reserved_signals(void);
/* Block all others; return what was blocked.  Unblock: the other way round.  Host mode and host side. */
uint64_t dune_guest_block_signals(void);
void dune_guest_unblock_signals(uint64_t mask);
/* Around a change of dispositions, and around a fork, which copies them.  Signals are blocked meanwhile. */
uint64_t dune_guest_lock_signals(void);
void dune_guest_unlock_signals(uint64_t mask);
/* A thread is about to be in the guest: the signals of the process reach it there.  Host mode. */
int dune_guest_signals_begin(void);
/* It is not any more.  After the last one the kernel has the process's own dispositions again.  Host mode and host side. */
void dune_guest_signals_end(void);
/* The child of a fork, which has no thread in the guest. */
void dune_guest_signals_forget(void);
/* Host mode and host side: the handler of Dune for a signal, or the process's, has changed. */
void dune_guest_signal_changed(int number);
/* Signals whose handler is to run on the alternate stack. */
extern _Atomic uint64_t dune_guest_on_alternate_stack;
/* Ring 0: runs the process's handler for the thread's pending signal, if any, as if it had interrupted tf. */
void dune_guest_deliver(struct dune_tf *tf, void *vector_state);
/* Ring 0: sends a signal for what an instruction did. */
void dune_guest_deliver_fault(struct dune_tf *tf, void *vector_state, unsigned vector, uint64_t address);
/* Host side of rt_sigaction(2), sigaltstack(2), rt_sigprocmask(2): the kernel's answer. */
uint64_t dune_guest_sigaction(const struct kvm_regs *call);
uint64_t dune_guest_sigaltstack(struct dune_guest_thread *thread, const struct kvm_regs *call);
uint64_t dune_guest_sigprocmask(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted);
/* Host side, before a call is made: notes the mask that it is made with, if it has one of its own. */
void dune_guest_note_mask(struct dune_guest_thread *thread, const struct kvm_regs *call);
/* Takes the alternate stack of signals from the kernel: there the host side's signals must not use it. */
void dune_guest_take_alternate(struct dune_guest_thread *thread);
/* Host side: the process dies of the signal with the guest's registers, which a core dump shows. */
void dune_guest_die(struct dune_guest_thread *thread, const struct kvm_regs *registers, int number,
		    const siginfo_t *info) __attribute__((noreturn));
/* Host side: what the kernel does with a signal that has no handler.  Returns if the guest goes on. */
void dune_guest_default_action(struct dune_guest_thread *thread, const struct kvm_regs *registers,
			       const struct dune_guest_signal *signal);
/* Host side: a signal that came too late for the guest comes once more, and the mask holds, or the one that it found. */
void dune_guest_send_again(struct dune_guest_thread *thread, uint64_t mask);

/* ---- loop.c ---- */

/* Runs the guest of the thread, which begins at dune_guest_started with this stack pointer, until it leaves. */
void dune_guest_loop(struct dune_guest_thread *thread, uint64_t stack) __attribute__((noreturn));

/* ---- forward.c ---- */

/* Makes the system call of registers, and sets them to where the guest goes on. */
void dune_guest_make_call(struct dune_guest_thread *thread, struct kvm_regs *registers);
/* Makes one as it is; *interrupted: it was not made, because a signal waits. */
uint64_t dune_guest_make_plain_call(struct dune_guest_thread *thread, const struct kvm_regs *call, bool *interrupted);

/* Ring 0: asks the host side (layout.h). */
static inline long dune_guest_ask(long number, uint64_t a, uint64_t b, uint64_t c)
{
	long result = number;
	__asm__ volatile("outb %%al, %1" : "+a"(result) : "i"(PORT_GUEST), "D"(a), "S"(b), "d"(c) : "memory");
	return result;
}

#endif
