/* heap.c - see heap.h */
#include "heap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The mapping: struct mutator, its stack, marks, cells. */
int heap_new(struct heap *heap, size_t megabytes)
{
	size_t cells = (megabytes << 20) / sizeof(struct cell), marks = (cells / 8 + GC_PAGE - 1) / GC_PAGE * GC_PAGE;
	*heap = (struct heap){ .pages = (megabytes << 20) / GC_PAGE };
	heap->size = GC_PAGE + GC_STACK + marks + (megabytes << 20);
	heap->memory = mmap(NULL, heap->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	heap->dirty = calloc(heap->pages, sizeof *heap->dirty);
	heap->room = 1 << 16;
	heap->stack = malloc(heap->room * sizeof *heap->stack);
	if (heap->memory == MAP_FAILED || !heap->dirty || !heap->stack)
		return -1;
	madvise(heap->memory, heap->size, MADV_NOHUGEPAGE); /* dirty bits are those of 4 KiB */
	heap->mutator = (struct mutator *)heap->memory;
	heap->stack_top = heap->memory + GC_PAGE + GC_STACK;
	heap->cells = heap->stack_top + marks;
	*heap->mutator = (struct mutator){ .cells = (struct cell *)heap->cells,
					   .marks = (uint64_t *)heap->stack_top,
					   .count = cells,
					   .random = 88172645463325252 };
	return 0;
}

static size_t index_of(const struct heap *heap, const struct cell *cell)
{
	return (size_t)(cell - heap->mutator->cells);
}

static bool marked(const uint64_t *marks, size_t at)
{
	return marks[at / 64] >> at % 64 & 1;
}

bool heap_page_is_old(const struct heap *heap, size_t page)
{
	const uint64_t *marks = heap->mutator->marks + page * CELLS_OF_PAGE / 64;
	return marks[0] | marks[1];
}

static void push(struct heap *heap, struct cell *cell)
{
	if (heap->depth == heap->room) {
		heap->room *= 2;
		heap->stack = realloc(heap->stack, heap->room * sizeof *heap->stack);
		if (!heap->stack)
			abort();
	}
	heap->stack[heap->depth++] = cell;
}

/* Marks what is reachable from the cell and is not marked yet. */
static void trace(struct heap *heap, uint64_t *marks, struct cell *cell)
{
	if (cell)
		push(heap, cell);
	while (heap->depth) {
		cell = heap->stack[--heap->depth];
		size_t at = index_of(heap, cell);
		if (marked(marks, at))
			continue;
		marks[at / 64] |= (uint64_t)1 << at % 64;
		if (cell->left)
			push(heap, cell->left);
		if (cell->right)
			push(heap, cell->right);
	}
}

void heap_minor(struct heap *heap)
{
	uint64_t *marks = heap->mutator->marks;
	for (size_t page = 0; page < heap->pages; page++) {
		if (!heap->dirty[page])
			continue;
		/* As they are now: a cell that this collection marks is traced anyway. */
		uint64_t old[2] = { marks[2 * page], marks[2 * page + 1] };
		for (size_t i = 0; i < CELLS_OF_PAGE; i++) {
			const struct cell *cell = &heap->mutator->cells[page * CELLS_OF_PAGE + i];
			if (!marked(old, i))
				continue;
			trace(heap, marks, cell->left);
			trace(heap, marks, cell->right);
		}
	}
	trace(heap, marks, heap->mutator->root);
}

void heap_full(struct heap *heap)
{
	struct mutator *mutator = heap->mutator;
	memset(mutator->marks, 0, mutator->count / 8);
	trace(heap, mutator->marks, mutator->root);
	mutator->next = 0;
}

bool heap_check(struct heap *heap, uint64_t *sum)
{
	const struct mutator *mutator = heap->mutator;
	uint64_t *reachable = calloc(mutator->count / 64, sizeof *reachable);
	bool good = reachable != NULL;
	if (!reachable)
		return false;
	trace(heap, reachable, mutator->root);
	*sum = 0;
	for (size_t i = 0; i < mutator->count; i++) {
		if (!marked(reachable, i))
			continue;
		*sum = *sum * 31 + mutator->cells[i].value;
		good = good && marked(mutator->marks, i);
	}
	free(reachable);
	return good;
}
