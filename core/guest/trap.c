/*
 * trap.c - ring 0, on a trap stack: decides what a trap means.
 *
 * Compiled without vector registers, stack protector and red zone.  Interrupts are off.  The process's memory, this code
 * included, may not be mirrored yet: a fault here is nested, and the host side sees to it (entry.S).
 */
#include "guest/guest.h"
#include "placement/exception.h"

#define USER_END ((uint64_t)1 << 47)

static uint64_t current_root(void)
{
	uint64_t cr3;
	__asm__("movq %%cr3, %0" : "=r"(cr3));
	return PTE_ADDR(cr3);
}

/* Whether the address follows the process's mappings in the address space in use: no entry on the way is the program's. */
static bool follows(const struct dune_guest_processor *processor, uint64_t address)
{
	if (address >= USER_END || (address >= processor->window && address < processor->window_end))
		return false;
	const ptent_t *table = (const ptent_t *)current_root();
	for (int level = NPTLVLS; level >= 0; level--) {
		ptent_t entry = __atomic_load_n(&table[PDX(level, address)], __ATOMIC_RELAXED);
		if (entry == 0)
			return true;
		if (!(entry & PTE_P))
			return false;
		if (level == 0 || entry & PTE_PS)
			return entry & PTE_MIRROR;
		table = (const ptent_t *)PTE_ADDR(entry);
	}
	return false;
}

static bool interrupted_ring3(const struct dune_tf *tf)
{
	return tf->cs & 3;
}

/* Makes the handler's frame below `stack`.  Returns NULL if memory there cannot be written. */
static struct dune_tf *copy_frame(uint64_t stack, const struct dune_tf *tf, uint64_t vector, uint64_t address)
{
	struct dune_guest_frame *frame = (struct dune_guest_frame *)(stack & -(uint64_t)16) - 1;
	const uint64_t rest[] = { vector, address, 0 };
	if (dune_guest_copy_frame(&frame->tf, tf, sizeof *tf / 8) != 0 ||
	    dune_guest_copy_frame(&frame->vector, rest, sizeof rest / 8) != 0)
		return NULL;
	return &frame->tf;
}

/*
 * Whether this becomes a signal whose handler is to run on the alternate stack, so that nothing of the interrupted code's is
 * needed.  A small one is left to the handler: what comes before it runs on the stack of the interrupted code then.
 */
static bool is_for_alternate(const struct dune_guest_processor *processor, uint64_t vector)
{
	const struct dune_guest_thread *thread = processor->thread;
	const uint64_t own = sizeof(struct dune_guest_frame) + 4096; /* of ring 0's C code */
	unsigned number = 0;
	if (vector == GUEST_VECTOR_EVENT)
		number = (unsigned)thread->signal.number;
	else if (vector < 32 && !dune_handlers.interrupt[vector] && !(vector == T_PGFLT && dune_handlers.page_fault))
		number = dune_exception_signal[vector];
	return number && dune_guest_on_alternate_stack >> (number - 1) & 1 &&
	       thread->alternate.ss_size >= processor->vector_size + own;
}

struct dune_tf *dune_guest_trap(struct dune_tf *tf, uint64_t vector, uint64_t address,
				struct dune_guest_processor *processor)
{
	if (vector == T_PGFLT && !(tf->err & (FEC_U | FEC_RSV)) && follows(processor, address) &&
	    dune_guest_ask(GUEST_CALL_FILL, address, tf->err, (uint64_t)tf) == 1)
		return tf;
	const uint64_t red_zone = 128;
	const stack_t *alternate = &processor->thread->alternate;
	uint64_t stack = interrupted_ring3(tf) ? processor->kernel_rsp : tf->rsp - red_zone;
	uint64_t low = (uint64_t)alternate->ss_sp;
	bool is_free = !(alternate->ss_flags & SS_DISABLE) && stack - low > alternate->ss_size;
	struct dune_tf *copy = NULL;
	if (!is_free || !is_for_alternate(processor, vector))
		copy = copy_frame(stack, tf, vector, address);
	if (!copy && is_free) /* also if there is no other stack to run on */
		copy = copy_frame(low + alternate->ss_size, tf, vector, address);
	if (!copy)
		dune_guest_ask(GUEST_CALL_DIE, (uint64_t)tf, vector, address);
	return copy;
}
