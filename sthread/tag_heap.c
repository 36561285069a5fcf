/*
 * tag_heap.c - the allocator behind the memory of a tag: two-level size classes over a list of blocks.
 *
 * Every extent (or run of merged extents) is a circular list of blocks in address order, closed by a run
 * header.  A block is free or live.  No two neighbours in a run are both free.  Free blocks hang in the bin of
 * their size class, live ones in a hash table by address; a bitmap says which bins have something.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "tag_heap.h"

#define GRANULE_SHIFT 4
#define GRANULE ((size_t)1 << GRANULE_SHIFT)
#define EXTENT_ALIGNMENT 4096
#define ADDRESS_BITS 48
#define NODES_PER_SLAB 64
#define BUCKETS_MIN 64
#define ALIGNED_LOOKS 64

/* Sizes are counted in granules.  Below SUBCLASSES each size has a bin of its own; above, each power of two is
 * divided in SUBCLASSES bins of equal width. */
#define SUBCLASS_BITS 5
#define SUBCLASSES (1u << SUBCLASS_BITS)
#define CLASSES (ADDRESS_BITS - GRANULE_SHIFT - SUBCLASS_BITS + 1)

enum block_state {
	BLOCK_FREE,
	BLOCK_LIVE,
	BLOCK_RUN
};

struct block {
	struct block *next, *previous; /* neighbours by address; BLOCK_RUN: the first and the last of the run */
	struct block *chain;           /* next in the bin, the hash bucket, the list of runs or of spare nodes */
	struct block **chain_link;     /* BLOCK_FREE: what points here */
	uintptr_t start;
	size_t size;
	enum block_state state;
	uint32_t slack; /* BLOCK_LIVE: bytes at its end that were not asked for, less than a granule */
};

struct slab {
	struct slab *next;
	struct block nodes[NODES_PER_SLAB];
};

struct tag_heap {
	struct block *bins[CLASSES][SUBCLASSES];
	uint64_t class_map;
	uint32_t subclass_map[CLASSES];
	struct block **buckets;
	size_t bucket_count; /* a power of two */
	size_t live_count;
	struct block *runs;
	struct block *spare;
	struct slab *slabs;
	size_t bytes_allocated, bytes_total;
};

_Static_assert(CLASSES <= 64, "class_map has a bit for every class");
_Static_assert(SUBCLASSES <= 32, "subclass_map has a bit for every subclass");

struct bin {
	unsigned class, subclass;
};

/* ---- nodes ------------------------------------------------------------------------------------------ */

static struct block *node_new(struct tag_heap *heap)
{
	if (!heap->spare) {
		struct slab *slab = malloc(sizeof(*slab));

		if (!slab)
			return NULL;
		slab->next = heap->slabs;
		heap->slabs = slab;
		for (unsigned i = 0; i < NODES_PER_SLAB; i++) {
			slab->nodes[i].chain = heap->spare;
			heap->spare = &slab->nodes[i];
		}
	}

	struct block *node = heap->spare;

	heap->spare = node->chain;
	*node = (struct block){ .state = BLOCK_RUN };
	return node;
}

static void node_delete(struct tag_heap *heap, struct block *node)
{
	node->chain = heap->spare;
	heap->spare = node;
}

/* ---- bins ------------------------------------------------------------------------------------------- */

/* The bin that holds free blocks of this size. */
static struct bin bin_of(size_t size)
{
	size_t granules = size >> GRANULE_SHIFT;

	if (granules < SUBCLASSES)
		return (struct bin){ 0, (unsigned)granules };

	unsigned top = 63 - (unsigned)__builtin_clzl(granules);

	return (struct bin){ top - SUBCLASS_BITS + 1, (granules >> (top - SUBCLASS_BITS)) & (SUBCLASSES - 1) };
}

static void bin_insert(struct tag_heap *heap, struct block *block)
{
	struct bin bin = bin_of(block->size);
	struct block **head = &heap->bins[bin.class][bin.subclass];

	block->state = BLOCK_FREE;
	block->chain = *head;
	block->chain_link = head;
	if (*head)
		(*head)->chain_link = &block->chain;
	*head = block;
	heap->subclass_map[bin.class] |= 1u << bin.subclass;
	heap->class_map |= 1ull << bin.class;
}

static void bin_remove(struct tag_heap *heap, struct block *block)
{
	struct bin bin = bin_of(block->size);

	*block->chain_link = block->chain;
	if (block->chain)
		block->chain->chain_link = block->chain_link;
	if (heap->bins[bin.class][bin.subclass])
		return;
	heap->subclass_map[bin.class] &= ~(1u << bin.subclass);
	if (!heap->subclass_map[bin.class])
		heap->class_map &= ~(1ull << bin.class);
}

/* A free block of at least size bytes, still in its bin, or NULL. */
static struct block *bin_find(const struct tag_heap *heap, size_t size)
{
	struct bin bin = bin_of(size);
	/* Every block of a higher bin is large enough; in the bin of small sizes all are equal. */
	unsigned from = bin.class == 0 ? bin.subclass : bin.subclass + 1;
	uint32_t subclasses = from < SUBCLASSES ? heap->subclass_map[bin.class] & (UINT32_MAX << from) : 0;
	unsigned class = bin.class;

	if (!subclasses) {
		uint64_t classes = heap->class_map & (UINT64_MAX << 1 << bin.class);

		if (classes) {
			class = (unsigned)__builtin_ctzll(classes);
			subclasses = heap->subclass_map[class];
		}
	}
	if (subclasses)
		return heap->bins[class][__builtin_ctz(subclasses)];

	for (struct block *block = heap->bins[bin.class][bin.subclass]; block; block = block->chain)
		if (block->size >= size)
			return block;
	return NULL;
}

/* Where an aligned block would begin in this one. */
static uintptr_t align_up(const struct block *block, size_t alignment)
{
	return (block->start + alignment - 1) & ~(uintptr_t)(alignment - 1);
}

static bool has_aligned(const struct block *block, size_t alignment, size_t size)
{
	size_t front = align_up(block, alignment) - block->start;

	return block->size >= front && block->size - front >= size;
}

/* The same for an aligned block.  One that is large enough wherever it begins is found if there is one; of those that
 * happen to begin well, only some are looked at. */
static struct block *bin_find_aligned(const struct tag_heap *heap, size_t alignment, size_t size)
{
	size_t enough = size + alignment - GRANULE;
	struct block *block = enough <= heap->bytes_total - heap->bytes_allocated ? bin_find(heap, enough) : NULL;
	struct bin bin = bin_of(size);
	unsigned looks = ALIGNED_LOOKS;

	if (block || alignment == GRANULE)
		return block;
	for (unsigned class = bin.class; class < CLASSES; class ++) {
		uint32_t subclasses = heap->subclass_map[class];

		if (class == bin.class)
			subclasses &= UINT32_MAX << bin.subclass;
		for (; subclasses; subclasses &= subclasses - 1)
			for (block = heap->bins[class][__builtin_ctz(subclasses)]; block; block = block->chain) {
				if (has_aligned(block, alignment, size))
					return block;
				if (!--looks)
					return NULL;
			}
	}
	return NULL;
}

/* ---- live allocations by address -------------------------------------------------------------------- */

static struct block **bucket_of(struct block **buckets, size_t count, uintptr_t address)
{
	return &buckets[(address >> GRANULE_SHIFT) * 0x9e3779b97f4a7c15ull >> 32 & (count - 1)];
}

/* What points to the live block that starts at address, or NULL. */
static struct block **live_find(const struct tag_heap *heap, uintptr_t address)
{
	if (!heap->bucket_count)
		return NULL;
	for (struct block **link = bucket_of(heap->buckets, heap->bucket_count, address); *link; link = &(*link)->chain)
		if ((*link)->start == address)
			return link;
	return NULL;
}

/* Doubles the table if it is full.  That it could not is a failure only for the first table: chains may grow. */
static int live_reserve(struct tag_heap *heap)
{
	if (heap->live_count < heap->bucket_count)
		return 0;

	size_t count = heap->bucket_count ? heap->bucket_count * 2 : BUCKETS_MIN;
	struct block **buckets = calloc(count, sizeof(*buckets));

	if (!buckets)
		return heap->bucket_count ? 0 : -1;
	for (size_t i = 0; i < heap->bucket_count; i++) {
		for (struct block *block = heap->buckets[i], *chain; block; block = chain) {
			struct block **bucket = bucket_of(buckets, count, block->start);

			chain = block->chain;
			block->chain = *bucket;
			*bucket = block;
		}
	}
	free(heap->buckets);
	heap->buckets = buckets;
	heap->bucket_count = count;
	return 0;
}

static void live_insert(struct tag_heap *heap, struct block *block)
{
	struct block **bucket = bucket_of(heap->buckets, heap->bucket_count, block->start);

	block->state = BLOCK_LIVE;
	block->chain = *bucket;
	*bucket = block;
	heap->live_count++;
}

/* ---- blocks ----------------------------------------------------------------------------------------- */

static void link_after(struct block *position, struct block *block)
{
	block->previous = position;
	block->next = position->next;
	position->next->previous = block;
	position->next = block;
}

static void unlink_and_delete(struct tag_heap *heap, struct block *block)
{
	block->previous->next = block->next;
	block->next->previous = block->previous;
	node_delete(heap, block);
}

/* Makes a block that is in no bin free, one with its free neighbours. */
static void make_free(struct tag_heap *heap, struct block *block)
{
	struct block *next = block->next, *previous = block->previous;

	if (next->state == BLOCK_FREE) {
		bin_remove(heap, next);
		block->size += next->size;
		unlink_and_delete(heap, next);
	}
	if (previous->state == BLOCK_FREE) {
		bin_remove(heap, previous);
		previous->size += block->size;
		unlink_and_delete(heap, block);
		block = previous;
	}
	bin_insert(heap, block);
}

/* ---- the interface ---------------------------------------------------------------------------------- */

struct tag_heap *tag_heap_new(void)
{
	return calloc(1, sizeof(struct tag_heap));
}

void tag_heap_clear(struct tag_heap *heap)
{
	for (struct slab *slab = heap->slabs, *next; slab; slab = next) {
		next = slab->next;
		free(slab);
	}
	free(heap->buckets);
	*heap = (struct tag_heap){ 0 };
}

void tag_heap_delete(struct tag_heap *heap)
{
	if (!heap)
		return;
	tag_heap_clear(heap);
	free(heap);
}

int tag_heap_add_extent(struct tag_heap *heap, void *start, size_t bytes)
{
	uintptr_t from = (uintptr_t)start;
	struct block **lower = NULL, **upper = NULL; /* what points to the runs that end and begin at the new extent */

	if (!from || !bytes || from % EXTENT_ALIGNMENT || bytes % EXTENT_ALIGNMENT || from >> ADDRESS_BITS ||
	    bytes > ((uintptr_t)1 << ADDRESS_BITS) - from) {
		errno = EINVAL;
		return -1;
	}
	for (struct block **link = &heap->runs; *link; link = &(*link)->chain) {
		struct block *run = *link;

		if (from < run->start + run->size && run->start < from + bytes) {
			errno = EINVAL;
			return -1;
		}
		if (run->start + run->size == from)
			lower = link;
		if (from + bytes == run->start)
			upper = link;
	}

	struct block *block = node_new(heap);

	if (!block)
		return -1;
	block->start = from;
	block->size = bytes;

	struct block *run;

	if (lower) {
		run = *lower;
		link_after(run->previous, block);
		run->size += bytes;
		if (upper) {
			struct block *other = *upper;

			run->previous->next = other->next;
			other->next->previous = run->previous;
			other->previous->next = run;
			run->previous = other->previous;
			run->size += other->size;
			*upper = other->chain;
			node_delete(heap, other);
		}
	} else if (upper) {
		run = *upper;
		link_after(run, block);
		run->start = from;
		run->size += bytes;
	} else {
		run = node_new(heap);
		if (!run) {
			node_delete(heap, block);
			return -1;
		}
		*run = (struct block){ .start = from, .size = bytes, .state = BLOCK_RUN, .chain = heap->runs };
		run->next = run->previous = run;
		link_after(run, block);
		heap->runs = run;
	}
	heap->bytes_total += bytes;
	make_free(heap, block);
	return 0;
}

/* Takes what lies behind the first size bytes off a block that is in no bin, and frees it.  rest: a node for that. */
static void cut(struct tag_heap *heap, struct block *block, size_t size, struct block *rest)
{
	rest->start = block->start + size;
	rest->size = block->size - size;
	block->size = size;
	link_after(block, rest);
	make_free(heap, rest);
}

void *tag_heap_allocate_aligned(struct tag_heap *heap, size_t alignment, size_t size)
{
	const size_t asked = size;

	if (!size || !alignment || alignment & (alignment - 1) || alignment > TAG_HEAP_ALIGNMENT_MAX) {
		errno = EINVAL;
		return NULL;
	}
	if (size > heap->bytes_total - heap->bytes_allocated) {
		errno = ENOMEM;
		return NULL;
	}
	if (alignment < GRANULE)
		alignment = GRANULE;
	size = (size + GRANULE - 1) & ~(GRANULE - 1);

	struct block *block = bin_find_aligned(heap, alignment, size), *front = NULL, *rest = NULL;
	size_t skip = block ? align_up(block, alignment) - block->start : 0;

	if (!block || live_reserve(heap) || (skip && !(front = node_new(heap))) ||
	    (block->size - skip > size && !(rest = node_new(heap)))) {
		if (front)
			node_delete(heap, front);
		errno = ENOMEM;
		return NULL;
	}
	bin_remove(heap, block);
	if (skip) {
		/* What lies before it stays free; its other neighbour is live. */
		*front = (struct block){ .start = block->start, .size = skip };
		block->start += skip;
		block->size -= skip;
		link_after(block->previous, front);
		bin_insert(heap, front);
	}
	block->state = BLOCK_LIVE;
	if (rest)
		cut(heap, block, size, rest);
	block->slack = (uint32_t)(size - asked);
	live_insert(heap, block);
	heap->bytes_allocated += size;
	return (void *)block->start;
}

void *tag_heap_allocate(struct tag_heap *heap, size_t size)
{
	return tag_heap_allocate_aligned(heap, GRANULE, size);
}

int tag_heap_resize(struct tag_heap *heap, void *pointer, size_t size)
{
	struct block **link = live_find(heap, (uintptr_t)pointer);
	const size_t asked = size;

	if (!link || !size) {
		errno = EINVAL;
		return -1;
	}

	struct block *block = *link, *next = block->next, *rest = NULL;
	size_t room = block->size + (next->state == BLOCK_FREE ? next->size : 0);

	if (size > room) {
		errno = ENOMEM;
		return -1;
	}
	size = (size + GRANULE - 1) & ~(GRANULE - 1);
	if (size != block->size) {
		if (size < room && !(rest = node_new(heap))) {
			errno = ENOMEM;
			return -1;
		}
		heap->bytes_allocated += size - block->size;
		if (next->state == BLOCK_FREE) {
			bin_remove(heap, next);
			unlink_and_delete(heap, next);
			block->size = room;
		}
		if (rest)
			cut(heap, block, size, rest);
	}
	block->slack = (uint32_t)(size - asked);
	return 0;
}

size_t tag_heap_size(const struct tag_heap *heap, const void *pointer)
{
	struct block **link = live_find(heap, (uintptr_t)pointer);

	return link ? (*link)->size : 0;
}

size_t tag_heap_asked(const struct tag_heap *heap, const void *pointer)
{
	struct block **link = live_find(heap, (uintptr_t)pointer);

	return link ? (*link)->size - (*link)->slack : 0;
}

int tag_heap_release(struct tag_heap *heap, void *pointer)
{
	struct block **link = live_find(heap, (uintptr_t)pointer);

	if (!link) {
		errno = EINVAL;
		return -1;
	}

	struct block *block = *link;

	*link = block->chain;
	heap->live_count--;
	heap->bytes_allocated -= block->size;
	make_free(heap, block);
	return 0;
}

bool tag_heap_around(const struct tag_heap *heap, const void *pointer, const void **start, size_t *size)
{
	enum {
		STEPS = 4096
	};
	uintptr_t address = (uintptr_t)pointer;
	const struct block *run = heap->runs;

	while (run && address - run->start >= run->size)
		run = run->chain;
	if (!run)
		return false;

	/* From both ends at once: where it is, is not known. */
	const struct block *up = run->next, *down = run->previous;

	for (unsigned i = 0; i < STEPS && up != run && down != run; i++, up = up->next, down = down->previous) {
		const struct block *block = address - up->start < up->size     ? up :
					    address - down->start < down->size ? down :
										 NULL;

		if (!block)
			continue;
		*start = (const void *)block->start;
		*size = block->size;
		return block->state == BLOCK_LIVE;
	}
	return false;
}

size_t tag_heap_bytes_allocated(const struct tag_heap *heap)
{
	return heap->bytes_allocated;
}

size_t tag_heap_bytes_total(const struct tag_heap *heap)
{
	return heap->bytes_total;
}

size_t tag_heap_allocations(const struct tag_heap *heap)
{
	return heap->live_count;
}

static bool in_its_bin(const struct tag_heap *heap, const struct block *block)
{
	struct bin bin = bin_of(block->size);

	if (!(heap->class_map >> bin.class & 1) || !(heap->subclass_map[bin.class] >> bin.subclass & 1))
		return false;
	for (const struct block *other = heap->bins[bin.class][bin.subclass]; other; other = other->chain)
		if (other == block)
			return *block->chain_link == block;
	return false;
}

int tag_heap_check(const struct tag_heap *heap)
{
	size_t allocated = 0, total = 0, live = 0, free_blocks = 0, binned = 0;

	for (const struct block *run = heap->runs; run; run = run->chain) {
		uintptr_t at = run->start;

		for (const struct block *block = run->next; block != run; block = block->next) {
			if (block->start != at || !block->size || block->size % GRANULE ||
			    block->next->previous != block)
				return -1;
			if (block->state == BLOCK_LIVE) {
				struct block **link = live_find(heap, block->start);

				if (!link || *link != block || block->slack >= GRANULE)
					return -1;
				allocated += block->size;
				live++;
			} else if (block->state != BLOCK_FREE || block->next->state == BLOCK_FREE ||
				   !in_its_bin(heap, block)) {
				return -1;
			} else {
				free_blocks++;
			}
			at += block->size;
		}
		if (at != run->start + run->size)
			return -1;
		total += run->size;
	}
	for (unsigned class = 0; class < CLASSES; class ++) {
		for (unsigned subclass = 0; subclass < SUBCLASSES; subclass++) {
			const struct block *block = heap->bins[class][subclass];

			if ((heap->subclass_map[class] >> subclass & 1) != (block != NULL))
				return -1;
			for (; block; block = block->chain)
				binned++;
		}
		if ((heap->class_map >> class & 1) != (heap->subclass_map[class] != 0))
			return -1;
	}
	if (binned != free_blocks || live != heap->live_count || allocated != heap->bytes_allocated ||
	    total != heap->bytes_total)
		return -1;
	return 0;
}
