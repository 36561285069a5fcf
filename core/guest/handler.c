/*
 * handler.c - ring 0, on the stack of the process: calls the process's handler for a trap.
 *
 * Interrupts are on, the vector state of the interrupted code is saved, so this is ordinary code but for one thing: what it
 * interrupts may hold any lock.
 */
#include "guest/guest.h"

#include <errno.h>

void dune_guest_dispatch(struct dune_guest_frame *frame, void *vector_state)
{
	struct dune_tf *tf = &frame->tf;
	if (frame->vector == GUEST_VECTOR_EVENT) {
		dune_guest_deliver(tf, vector_state);
		return;
	}
	if (frame->vector == GUEST_VECTOR_SYSTEM_CALL) {
		dune_syscall_cb callback = __atomic_load_n(&dune_handlers.system_call, __ATOMIC_ACQUIRE);
		if (callback)
			callback(tf);
		else
			tf->rax = -ENOSYS;
		return;
	}
	if (frame->vector == T_PGFLT) {
		dune_pgflt_cb callback = __atomic_load_n(&dune_handlers.page_fault, __ATOMIC_ACQUIRE);
		if (callback) {
			callback(frame->address, tf->err, tf);
			return;
		}
	}
	dune_intr_cb callback = __atomic_load_n(&dune_handlers.interrupt[frame->vector], __ATOMIC_ACQUIRE);
	if (callback)
		callback(tf);
	else
		dune_guest_deliver_fault(tf, vector_state, frame->vector, frame->address);
}
