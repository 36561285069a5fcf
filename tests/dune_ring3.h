/* dune_ring3.h - the routines of dune_ring3.S. */
#ifndef DUNE_RING3_H
#define DUNE_RING3_H

#include <stdint.h>

enum {
	RING3_END = 999 /* the system call with which each ends: RDI is its result */
};

extern uint8_t ring3_begin[], ring3_end[];
extern uint8_t ring3_nothing[], ring3_call[], ring3_after_call[], ring3_registers[];
extern uint8_t ring3_read[], ring3_after_read[], ring3_write[], ring3_execute[];
extern uint8_t ring3_wait[], ring3_count[], ring3_read_on[], ring3_fs[], ring3_mxcsr[], ring3_pass[];
extern uint8_t ring3_breakpoint[], ring3_after_breakpoint[], ring3_undefined[], ring3_divide[], ring3_divide_here[];
extern uint8_t ring3_halt[], ring3_interrupts_off[], ring3_read_cr3[], ring3_int80[], ring3_int32[];
extern uint8_t ring3_out_service[], ring3_out_other[], ring3_simd[], ring3_simd_here[];

#endif
