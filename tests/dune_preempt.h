/* dune_preempt.h - the code of dune_preempt.S, and the memory that it works on. */
#ifndef DUNE_PREEMPT_H
#define DUNE_PREEMPT_H

#define PREEMPT_STOP 0
#define PREEMPT_PASSES 8
#define PREEMPT_ERRORS 16
#define PREEMPT_BAD 24
#define PREEMPT_WHAT 32
#define PREEMPT_SPIN 40
#define PREEMPT_AVX 48
#define PREEMPT_RING3 56
#define PREEMPT_STACK 64
#define PREEMPT_SCRATCH 72
#define PREEMPT_RETURN 80
#define PREEMPT_CURRENT 88
#define PREEMPT_FIRST 128
#define PREEMPT_SECOND 1152
#define PREEMPT_SEEN 2176

/* A set of registers. */
#define SET_FLAGS 112
#define SET_MXCSR 120
#define SET_CONTROL 124
#define SET_X87 128
#define SET_VECTORS 256
#define SET_RED_ZONE 768
#define SET_FS 896
#define SET_RSP 904
#define SET_WORDS 114

#define PREEMPT_END 999 /* system call by which ring 3 ends */

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

enum preempt_what {
	PREEMPT_NOTHING,
	PREEMPT_CALL, /* a system call in each pass */
	PREEMPT_TRAP  /* INT3 */
};

struct preempt_set {
	uint64_t general[14]; /* RBX RBP RDI RSI RDX RAX RCX R8 R9 R10 R11 R12 R13 R14 */
	uint64_t flags;
	uint32_t mxcsr;
	uint16_t control, unused;
	struct {
		long double value;
	} x87[8];
	uint64_t vectors[16][4], red_zone[16];
	uint64_t fs; /* the word there */
	uint64_t rsp;
};

struct preempt {
	volatile uint64_t stop;
	volatile uint64_t passes, errors;
	uint64_t bad; /* the word of a set that was wrong last */
	uint64_t what, spin, avx, ring3;
	uint64_t stack, scratch, to_return;
	struct preempt_set *current;
	uint64_t reserved[4];
	union {
		struct preempt_set set;
		uint64_t words[128];
	} first, second, seen;
};
_Static_assert(offsetof(struct preempt, current) == PREEMPT_CURRENT &&
		       offsetof(struct preempt, first) == PREEMPT_FIRST &&
		       offsetof(struct preempt, second) == PREEMPT_SECOND &&
		       offsetof(struct preempt, seen) == PREEMPT_SEEN &&
		       offsetof(struct preempt, to_return) == PREEMPT_RETURN &&
		       offsetof(struct preempt, ring3) == PREEMPT_RING3,
	       "dune_preempt.S");
_Static_assert(offsetof(struct preempt_set, flags) == SET_FLAGS && offsetof(struct preempt_set, mxcsr) == SET_MXCSR &&
		       offsetof(struct preempt_set, control) == SET_CONTROL &&
		       offsetof(struct preempt_set, x87) == SET_X87 &&
		       offsetof(struct preempt_set, vectors) == SET_VECTORS &&
		       offsetof(struct preempt_set, red_zone) == SET_RED_ZONE &&
		       offsetof(struct preempt_set, fs) == SET_FS && offsetof(struct preempt_set, rsp) == SET_RSP,
	       "dune_preempt.S");

extern uint8_t preempt_begin[], preempt_end[], preempt_wait[], preempt_wait_end[]; /* wait: all registers are loaded */
/* Loads both sets of registers in turn, waits, and compares, until `stop` is set. */
void preempt_run(struct preempt *preempt);
/* Overwrites all vector registers, control words included. */
void preempt_overwrite(uint64_t avx);
#endif
#endif
