/*
 * heap.h - the heap of a generational mark-and-sweep collector.
 *
 * Cells do not move.  A cell that has survived a collection stays marked ("old") until a full collection, so a minor one
 * looks only at new cells, and at those old ones that may point to them: the old cells of pages that were written to since
 * the last collection.  Which pages those are is what a write barrier is for (barrier.h).
 *
 * Everything that the mutator touches is in one mapping, so that it can run where nothing else is mapped.
 */
#ifndef GC_HEAP_H
#define GC_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	GC_PAGE = 4096,
	GC_STACK = 64 << 10, /* the mutator's, where it needs one of its own */
	GC_END = 1000        /* the number of the system call by which it says so there */
};

struct cell {
	struct cell *left, *right;
	uint64_t value, unused;
};

enum {
	CELLS_OF_PAGE = GC_PAGE / sizeof(struct cell)
};

/* What the mutator sees besides cells. */
struct mutator {
	struct cell *cells, *root;
	uint64_t *marks;    /* a bit for each cell */
	size_t count, next; /* cells; the next one that may be free */
	uint64_t random;
	unsigned depth;     /* of the tree */
	unsigned mutations; /* still to be made */
};

struct heap {
	uint8_t *memory; /* the mapping */
	size_t size;
	uint8_t *stack_top;
	struct mutator *mutator;
	uint8_t *cells; /* pages of cells */
	size_t pages;
	bool *dirty; /* for each page: written to since the last collection */
	struct cell **stack;
	size_t depth, room;
};

/* Returns 0, or -1 if there is no memory. */
int heap_new(struct heap *heap, size_t megabytes);
/* Whether the page has cells that survived a collection. */
bool heap_page_is_old(const struct heap *heap, size_t page);
/* Marks what new cells are reachable from the root and from old cells of dirty pages. */
void heap_minor(struct heap *heap);
/* Marks everything that is reachable, nothing else; cells may be used from the first on again. */
void heap_full(struct heap *heap);
/* Whether all reachable cells are marked; what they hold is summed up into *sum. */
bool heap_check(struct heap *heap, uint64_t *sum);

/*
 * mutator.c: makes changes until mutator->mutations is 0 or cells run out.  Calls nothing outside the section gc_mutator, so it can run in
 * ring 3 with that section, the heap and a stack.
 */
#define MUTATOR __attribute__((section("gc_mutator"), noinline))
MUTATOR void mutator_run(struct mutator *mutator);
/* The same, then system call GC_END. */
MUTATOR void mutator_run_in_ring3(struct mutator *mutator) __attribute__((noreturn));
/* A tree of new cells; NULL if cells run out. */
MUTATOR struct cell *mutator_tree(struct mutator *mutator, unsigned depth);
extern uint8_t mutator_begin[] __asm__("__start_gc_mutator"), mutator_end[] __asm__("__stop_gc_mutator");

#endif
