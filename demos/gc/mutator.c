/* mutator.c - what the program does with its memory: see heap.h.  Compiled without stack protector. */
#include "heap.h"

enum {
	NEW_DEPTH = 4 /* of the trees that replace old ones */
};

static MUTATOR uint64_t next_random(struct mutator *mutator)
{
	mutator->random ^= mutator->random << 13;
	mutator->random ^= mutator->random >> 7;
	mutator->random ^= mutator->random << 17;
	return mutator->random;
}

static MUTATOR struct cell *new_cell(struct mutator *mutator)
{
	size_t at = mutator->next;
	while (at < mutator->count && mutator->marks[at / 64] >> at % 64 & 1)
		at++;
	mutator->next = at + 1;
	return at < mutator->count ? &mutator->cells[at] : NULL;
}

struct cell *mutator_tree(struct mutator *mutator, unsigned depth)
{
	struct cell *cell = new_cell(mutator);
	if (!cell)
		return NULL;
	cell->left = cell->right = NULL;
	cell->value = next_random(mutator);
	if (depth > 1 &&
	    (!(cell->left = mutator_tree(mutator, depth - 1)) || !(cell->right = mutator_tree(mutator, depth - 1))))
		return NULL;
	return cell;
}

/* Puts a new tree in the place of an old one, somewhere. */
void mutator_run(struct mutator *mutator)
{
	for (; mutator->mutations; mutator->mutations--) {
		struct cell *cell = mutator->root;
		uint64_t way = next_random(mutator);
		for (unsigned i = NEW_DEPTH + 1; i < mutator->depth; i++, way >>= 1)
			cell = way & 1 ? cell->left : cell->right;
		struct cell *tree = mutator_tree(mutator, NEW_DEPTH);
		if (!tree)
			return;
		if (way & 1)
			cell->left = tree;
		else
			cell->right = tree;
	}
}

void mutator_run_in_ring3(struct mutator *mutator)
{
	mutator_run(mutator);
	__asm__ volatile("syscall" : : "a"(GC_END) : "rcx", "r11", "memory");
	__builtin_unreachable();
}
