/*
 * main.c - a generational collector whose write barrier is the memory management unit, with and without Dune.
 *
 * gc [--barrier=signal|dune|dirty|trap|none] [--megabytes=N] [--rounds=N] [--mutations=N] [--check]
 * Builds a tree, then in each round replaces small parts of it and collects what became garbage.  Prints what that took.
 * --check compares each collection with a full one; the exit status is 3 if one has lost a cell.  dune is dirty.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "barrier.h"

static struct {
	const struct barrier *barrier;
	size_t megabytes;
	unsigned rounds, mutations;
	bool check;
} options = { .megabytes = 16, .rounds = 50, .mutations = 200 };

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static _Noreturn void explain(void)
{
	fprintf(stderr, "Usage: gc [--barrier=signal|dune|dirty|trap|none] [--megabytes=1..1024] [--rounds=N] "
			"[--mutations=N] [--check]\n");
	exit(2);
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "barrier", required_argument, NULL, 'b' }, { "megabytes", required_argument, NULL, 'm' },
		{ "rounds", required_argument, NULL, 'r' },  { "mutations", required_argument, NULL, 'u' },
		{ "check", no_argument, NULL, 'c' },         { 0 },
	};
	const char *name = "dune";
	for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		switch (option) {
		case 'b':
			name = optarg;
			break;
		case 'm':
			options.megabytes = strtoul(optarg, NULL, 10);
			break;
		case 'r':
			options.rounds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'u':
			options.mutations = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'c':
			options.check = true;
			break;
		default:
			explain();
		}
	}
	options.barrier = barrier_named(name);
	if (optind != argc || !options.barrier || options.megabytes < 1 || options.megabytes > 1024)
		explain();
}

static struct {
	double mutator, collector;
	unsigned long dirty, full, exits;
} sums;

/* One round of changes.  A full collection comes where cells run out. */
static void mutate(struct heap *heap)
{
	double from = seconds();
	heap->mutator->mutations = options.mutations;
	for (unsigned full = 0; heap->mutator->mutations; full++) {
		options.barrier->run(heap);
		if (!heap->mutator->mutations)
			break;
		if (full) {
			fprintf(stderr, "gc: the heap is full\n");
			exit(1);
		}
		options.barrier->collect(heap);
		heap_full(heap);
		options.barrier->arm(heap);
		sums.full++;
	}
	sums.mutator += seconds() - from;
}

static void collect(struct heap *heap)
{
	double from = seconds();
	options.barrier->collect(heap);
	for (size_t page = 0; page < heap->pages; page++)
		sums.dirty += heap->dirty[page];
	heap_minor(heap);
	options.barrier->arm(heap);
	sums.collector += seconds() - from;
}

int main(int argc, char **argv)
{
	struct heap heap;
	uint64_t sum;
	parse(argc, argv);
	if (heap_new(&heap, options.megabytes) != 0) {
		fprintf(stderr, "gc: no memory\n");
		return 1;
	}
	/* A tree that takes half of the heap. */
	for (heap.mutator->depth = 1; (size_t)4 << heap.mutator->depth <= heap.mutator->count;)
		heap.mutator->depth++;
	heap.mutator->root = mutator_tree(heap.mutator, heap.mutator->depth);
	heap_full(&heap);
	if (options.barrier->begin(&heap) != 0)
		return 1;
	options.barrier->arm(&heap);
	unsigned long exits = barrier_exits();
	for (unsigned round = 0; round < options.rounds; round++) {
		mutate(&heap);
		collect(&heap);
		if (options.check && !heap_check(&heap, &sum)) {
			printf("barrier %s: a reachable cell was lost in round %u\n", options.barrier->name, round + 1);
			return 3;
		}
	}
	exits = barrier_exits() - exits;
	heap_check(&heap, &sum);
	printf("barrier %-7s  mutator in %s, heap %zu MiB, %u rounds of %u changes, %lu full collections\n",
	       options.barrier->name, barrier_place(), options.megabytes, options.rounds, options.mutations, sums.full);
	printf("mutator   %8.1f us a round\ncollector %8.1f us a round\n", sums.mutator * 1e6 / options.rounds,
	       sums.collector * 1e6 / options.rounds);
	printf("a round: %.1f dirty pages, %.1f faults, %.1f exits\n", (double)sums.dirty / options.rounds,
	       (double)barrier_faults / options.rounds, (double)exits / options.rounds);
	printf("sum %016lx\n", (unsigned long)sum);
	return 0;
}
