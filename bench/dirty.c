/* dirty.c - see dirty.h */
#include "dirty.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	PAGE = 4096,
	MARK = 0x5a,
	WRITTEN = 0xa5
};

static volatile uint8_t global[3 * PAGE];
static _Thread_local volatile uint8_t thread_local_memory[3 * PAGE];
static volatile uint8_t *heap;

/* The first whole page of an area of three pages. */
static volatile uint8_t *page_in(volatile uint8_t *area)
{
	return area + (-(uintptr_t)area & (PAGE - 1));
}

void dirty_prepare(void)
{
	heap = aligned_alloc(PAGE, 2 * PAGE);
	if (!heap) {
		perror("no memory");
		exit(1);
	}
	for (unsigned i = 0; i < 2; i++)
		heap[i * PAGE] = page_in(global)[i * PAGE] = MARK;
	*page_in(thread_local_memory) = MARK;
}

/* Two pages below the one that the caller's frame is on. */
static __attribute__((noinline)) unsigned dirty_stack(void)
{
	volatile uint8_t area[2 * PAGE];
	unsigned strange = 0;
	__asm__ volatile("" : "=m"(area)); /* what is there is wanted */
	for (unsigned i = 0; i < 2; i++) {
		strange += area[i * PAGE] != 0;
		area[i * PAGE] = WRITTEN;
	}
	return strange;
}

unsigned dirty_pages(void)
{
	volatile uint8_t *globals = page_in(global), *thread = page_in(thread_local_memory);
	unsigned strange = dirty_stack();
	for (unsigned i = 0; i < 2; i++) {
		strange += (globals[i * PAGE] != MARK) + (heap[i * PAGE] != MARK);
		globals[i * PAGE] = heap[i * PAGE] = WRITTEN;
	}
	strange += *thread != MARK;
	*thread = WRITTEN;
	return strange;
}
