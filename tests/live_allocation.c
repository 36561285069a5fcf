/* live_allocation.c - allocating in tags: resizing, alignment, limits, and pointers that are none, on both sides. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "live.h"
#include "sthread/supervisor.h"
#include "sthread/tag.h"
#include "sthread/tag_heap.h"

enum {
	PAGE = 4096,
	MIB = 1 << 20,
	BOTH = PROT_READ | PROT_WRITE
};

static void policy_with(sc_t *sc, tag_t tag, int prot)
{
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, prot), 0);
}

static bool all_are(const uint8_t *at, uint8_t value, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (at[i] != value)
			return false;
	return true;
}

static int check_heap(tag_t tag)
{
	supervisor_lock();
	int result = tag_heap_check(tag_get(tag)->heap);
	supervisor_unlock();
	return result;
}

static struct tag_statistics statistics_of(tag_t tag)
{
	struct tag_statistics statistics = { 0 };
	ASSERT_EQUAL(tag_statistics(tag, &statistics), 0);
	return statistics;
}

/* ---- resizing ------------------------------------------------------------------------------------------------------ */

/* Returns 0, or the number of the step that went wrong.  The same code on both sides. */
static uint64_t resize_in(tag_t tag)
{
	uint8_t *p = smalloc(tag, 10), *q, *wall;

	if (!p)
		return 1;
	memset(p, 0x11, 16); /* beyond its end, but its own */
	if (srealloc(p, 100) != p || !all_are(p, 0x11, 10) || !all_are(p + 10, 0, 90))
		return 2;
	memset(p, 0x22, 100);
	if (srealloc(p, 20) != p || srealloc(p, 100) != p || !all_are(p, 0x22, 20) || !all_are(p + 20, 0, 80))
		return 3;
	wall = smalloc(tag, 16);
	if (!wall)
		return 4;
	q = srealloc(p, 5000);
	if (!q || q == p || !all_are(q, 0x22, 20) || !all_are(q + 20, 0, 4980))
		return 5;
	errno = 0;
	if (srealloc(p, 10) || errno != EINVAL) /* p is free now */
		return 6;
	q = srealloc(q, 3 * MIB); /* the tag grows */
	if (!q || !all_are(q, 0x22, 20) || !all_are(q + 20, 0, 3 * MIB - 20))
		return 7;
	errno = 0;
	if (srealloc(q, (size_t)1 << 46) || errno != ENOMEM || !all_are(q, 0x22, 20))
		return 8;
	errno = 0;
	if (srealloc(q, 0) || errno != EINVAL || srealloc(NULL, 10) || errno != EINVAL)
		return 9;
	errno = 0;
	sfree(q);
	sfree(wall);
	return errno ? 10 : 0;
}

static void *resize_inside(void *tag)
{
	return (void *)resize_in((tag_t)(uintptr_t)tag);
}

static void resizing(void)
{
	live_init();

	tag_t tag = tag_new(), other = tag_new();
	sc_t sc;

	ASSERT_EQUAL(resize_in(tag), 0);
	policy_with(&sc, other, BOTH);
	ASSERT_RETURNED(live_run(&sc, resize_inside, (void *)(uintptr_t)other), 0);
	ASSERT_EQUAL(statistics_of(tag).allocations, 0);
	ASSERT_EQUAL(statistics_of(other).allocations, 0);
	ASSERT_EQUAL(check_heap(other), 0);
}

static uint64_t align_in(tag_t tag)
{
	void *got[22];
	const size_t bad[] = { 0, 3, 48, (size_t)SMEMALIGN_MAX * 2, SIZE_MAX, SIZE_MAX / 2 + 1 };

	for (unsigned i = 0; i < 22; i++) {
		got[i] = smemalign(tag, (size_t)1 << i, 100);
		if (!got[i] || (uintptr_t)got[i] % (1u << i) || (uintptr_t)got[i] % 16 || !all_are(got[i], 0, 100))
			return 1 + i;
		memset(got[i], 0x77, 100);
	}
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		errno = 0;
		if (smemalign(tag, bad[i], 100) || errno != EINVAL)
			return 100 + i;
	}
	errno = 0;
	if (smemalign(tag, 64, 0) || errno != EINVAL)
		return 200;
	errno = 0;
	for (unsigned i = 0; i < 22; i++)
		sfree(got[i]);
	return errno ? 201 : 0;
}

static void *align_inside(void *tag)
{
	return (void *)align_in((tag_t)(uintptr_t)tag);
}

static void alignment(void)
{
	live_init();

	tag_t tag = tag_new();
	sc_t sc;

	ASSERT_EQUAL(align_in(tag), 0);
	policy_with(&sc, tag, BOTH);
	ASSERT_RETURNED(live_run(&sc, align_inside, (void *)(uintptr_t)tag), 0);
	ASSERT_EQUAL(statistics_of(tag).allocations, 0);
	ASSERT_EQUAL(check_heap(tag), 0);
}

/* ---- pointers that are none ---------------------------------------------------------------------------------------- */

struct wrong {
	void *pointers[16];
	unsigned count, refused;
	tag_t tag;
	uint8_t *good;
};

static unsigned refuse_all(const struct wrong *wrong, void *on_stack)
{
	unsigned refused = 0;

	for (unsigned i = 0; i <= wrong->count; i++) {
		void *pointer = i < wrong->count ? wrong->pointers[i] : on_stack;

		errno = 0;
		if (srealloc(pointer, 64) || errno != EINVAL)
			continue;
		errno = 0;
		sfree(pointer);
		refused += errno == (pointer ? EINVAL : 0);
	}
	return refused;
}

static void *refuse_inside(void *argument)
{
	struct wrong *wrong = argument;
	char here[64] = { 0 };

	return (void *)(uintptr_t)refuse_all(wrong, here);
}

static void foreign_pointers(void)
{
	live_init();

	static char global[64];
	char here[64] = { 0 };
	tag_t tag = tag_new(), other = tag_new(), gone = tag_new(), read_only = tag_new();
	struct wrong *wrong = smalloc(tag, sizeof(*wrong));
	uint8_t *good = smalloc(tag, 4 * PAGE), *freed = smalloc(tag, 64), *elsewhere = smalloc(other, 64);
	uint8_t *deleted = smalloc(gone, 64), *seen = smalloc(read_only, 64);
	const struct dune_arena *arena = &supervisor.machine->tags;
	sc_t sc;

	sfree(freed);
	ASSERT_EQUAL(tag_delete(gone), 0);
	memset(elsewhere, 0x33, 64);
	memset(seen, 0x34, 64);
	*wrong = (struct wrong){ .tag = tag, .good = good };
	void *const pointers[] = { NULL,
				   good + 16,
				   good + 1,
				   good + PAGE,
				   freed,
				   deleted,
				   global,
				   &supervisor,
				   supervisor.machine->tags.host + arena->size,
				   supervisor.machine->tags.host + arena->size - 16,
				   (void *)(uintptr_t)16,
				   (void *)UINTPTR_MAX,
				   (void *)((uintptr_t)good | (uintptr_t)1 << 63) };

	for (unsigned i = 0; i < sizeof(pointers) / sizeof(pointers[0]); i++)
		wrong->pointers[wrong->count++] = pointers[i];
	ASSERT_EQUAL(refuse_all(wrong, here), wrong->count + 1);

	/* An sthread may not free what it may not write either. */
	wrong->pointers[wrong->count++] = elsewhere;
	wrong->pointers[wrong->count++] = seen;
	policy_with(&sc, tag, BOTH);
	ASSERT_EQUAL(sc_mem_add(&sc, read_only, PROT_READ), 0);
	ASSERT_RETURNED(live_run(&sc, refuse_inside, wrong), wrong->count + 1);
	ASSERT_EQUAL(statistics_of(tag).allocations, 2);
	ASSERT_EQUAL(statistics_of(other).allocations, 1);
	CU_ASSERT(all_are(elsewhere, 0x33, 64) && all_are(seen, 0x34, 64));
	ASSERT_EQUAL(check_heap(tag), 0);

	/* The control: with the right it may, and is refused one less. */
	ASSERT_EQUAL(sc_mem_add(&sc, other, BOTH), 0);
	ASSERT_RETURNED(live_run(&sc, refuse_inside, wrong), wrong->count);
}

/* ---- limits -------------------------------------------------------------------------------------------------------- */

struct taking {
	tag_t tag;
	size_t size, got;
	int error;
};

static void *take_all(void *argument)
{
	struct taking *taking = argument;
	size_t got = 0;

	while (got < 10000 && smalloc(taking->tag, taking->size))
		got++;
	taking->error = errno;
	taking->got = got;
	return NULL;
}

static void quota(void)
{
	live_init();

	/* One for each side; what an sthread reports lies in a third. */
	tag_t mine = tag_new(), its = tag_new(), report = tag_new();
	struct taking *taking = smalloc(report, sizeof(*taking)), ours = { .tag = mine, .size = 1024 };
	sc_t sc;

	ASSERT_EQUAL(tag_quota(mine, 200000), 0); /* 48 pages */
	take_all(&ours);
	ASSERT_EQUAL(ours.got, 48 * 4);
	ASSERT_EQUAL(ours.error, ENOMEM);
	ASSERT_EQUAL(statistics_of(mine).bytes_held, 48 * PAGE);
	ASSERT_EQUAL(statistics_of(mine).bytes_allocated, 48 * PAGE);
	ASSERT_EQUAL(statistics_of(mine).quota, 200000);

	ASSERT_EQUAL(tag_quota(its, 200000), 0);
	*taking = (struct taking){ .tag = its, .size = 1024 };
	policy_with(&sc, its, BOTH);
	ASSERT_EQUAL(sc_mem_add(&sc, report, BOTH), 0);
	ASSERT_END(live_run(&sc, take_all, taking), STHREAD_RETURNED);
	ASSERT_EQUAL(taking->got, 48 * 4);
	ASSERT_EQUAL(taking->error, ENOMEM);

	/* Both at once: the host's growth leaves the sthread nothing, and the other way round. */
	ASSERT_EQUAL(tag_quota(its, 300 * PAGE), 0);
	void *large = smalloc(its, 252 * PAGE);
	CU_ASSERT_PTR_NOT_NULL(large);
	ASSERT_END(live_run(&sc, take_all, taking), STHREAD_RETURNED);
	ASSERT_EQUAL(taking->got, 0);
	ASSERT_ERROR(!smemalign(its, PAGE, PAGE), ENOMEM);
	ASSERT_ERROR(!srealloc(large, 253 * PAGE), ENOMEM);
	/* Freed memory can be used again; a quota below what is held takes nothing away. */
	sfree(large);
	ASSERT_EQUAL(tag_quota(its, 1), 0);
	ASSERT_EQUAL(statistics_of(its).bytes_held, 300 * PAGE);
	CU_ASSERT_PTR_NOT_NULL(smalloc(its, 252 * PAGE));
	ASSERT_ERROR(!smalloc(its, 1), ENOMEM);
	ASSERT_EQUAL(tag_quota(its, 0), 0);
	CU_ASSERT_PTR_NOT_NULL(smalloc(its, 1));
	ASSERT_EQUAL(statistics_of(its).quota, 0);
	ASSERT_EQUAL(check_heap(its), 0);
}

/* The sthread's own quota bounds what alignment can make a tag grow by. */
static void *align_greedily(void *argument)
{
	struct taking *taking = argument;

	while (taking->got < 64 && smemalign(taking->tag, SMEMALIGN_MAX, 16))
		taking->got++;
	taking->error = errno;
	return NULL;
}

static void growth_is_charged(void)
{
	live_init();

	tag_t tag = tag_new(), report = tag_new();
	struct taking *taking = smalloc(report, sizeof(*taking));
	sc_t sc;

	*taking = (struct taking){ .tag = tag };
	policy_with(&sc, tag, BOTH);
	ASSERT_EQUAL(sc_mem_add(&sc, report, BOTH), 0);
	sc_memory_quota(&sc, 8 * MIB);
	ASSERT_END(live_run(&sc, align_greedily, taking), STHREAD_RETURNED);
	ASSERT_EQUAL(taking->error, ENOMEM);
	live_check(statistics_of(tag).bytes_held <= 8 * MIB, __FILE__, __LINE__, "8 MiB of quota, %zu KiB of growth",
		   statistics_of(tag).bytes_held >> 10);
}

static void large_blocks(void)
{
	live_init();

	tag_t tag = tag_new();
	uint8_t *large = smalloc(tag, 600 * MIB);
	sc_t sc;

	CU_ASSERT_PTR_NOT_NULL_FATAL(large);
	large[0] = 1;
	large[600 * MIB - 1] = 0x61;
	policy_with(&sc, tag, PROT_READ);
	ASSERT_RETURNED(live_run(&sc, body_read, large + 600 * MIB - 1), 0x61);
	sfree(large);
	CU_ASSERT_PTR_EQUAL(smalloc(tag, 600 * MIB), large);
	ASSERT_EQUAL(large[600 * MIB - 1], 0);
	ASSERT_ERROR(!smalloc(tag, (size_t)65 << 30), ENOMEM);
	ASSERT_ERROR(!smalloc(tag, SIZE_MAX), ENOMEM);
	ASSERT_EQUAL(check_heap(tag), 0);
}

static void memory_comes_back(void)
{
	live_init();

	/* Deleted in an order that leaves holes; afterwards one tag can have all of it in one piece. */
	enum {
		TAGS = 30
	};
	tag_t tags[TAGS];
	uint8_t *first = NULL;

	for (int i = 0; i < TAGS; i++) {
		tags[i] = tag_new();
		uint8_t *at = smalloc(tags[i], MIB);

		first = i ? first : at;
	}
	for (int i = 0; i < TAGS; i++)
		ASSERT_EQUAL(tag_delete(tags[i * 7 % TAGS]), 0);

	tag_t tag = tag_new();

	CU_ASSERT_PTR_EQUAL(smalloc(tag, TAGS * MIB), first);
	ASSERT_EQUAL(check_heap(tag), 0);
}

static void *misuse_inside(void *argument)
{
	struct tag_statistics statistics;
	tag_t tag = *(tag_t *)argument;

	errno = 0;
	if (tag_quota(tag, 1) != -1 || errno != EPERM)
		return (void *)1;
	errno = 0;
	return (void *)(uintptr_t)(tag_statistics(tag, &statistics) != -1 || errno != EPERM ? 2 : 0);
}

static void misuse(void)
{
	struct tag_statistics statistics;
	char here;

	ASSERT_ERROR(tag_quota(0, 1) == -1, EPERM);
	ASSERT_ERROR(tag_statistics(0, &statistics) == -1, EPERM);
	ASSERT_ERROR(!smemalign(0, 16, 16), EPERM);
	ASSERT_ERROR(!srealloc(&here, 16), EPERM);
	live_init();

	tag_t tag = tag_new(), gone = tag_new();
	tag_t *argument = smalloc(tag, sizeof(*argument));
	sc_t sc;

	*argument = tag;
	ASSERT_EQUAL(tag_delete(gone), 0);
	ASSERT_ERROR(tag_quota(gone, 1) == -1, EBADF);
	ASSERT_ERROR(tag_quota(-1, 1) == -1, EBADF);
	ASSERT_ERROR(tag_statistics(gone, &statistics) == -1, EBADF);
	ASSERT_ERROR(tag_statistics(tag, NULL) == -1, EINVAL);
	ASSERT_ERROR(!smemalign(gone, 16, 16), EBADF);
	policy_with(&sc, tag, BOTH);
	ASSERT_RETURNED(live_run(&sc, misuse_inside, argument), 0);
	ASSERT_EQUAL(statistics_of(tag).quota, 0);
}

/* ---- while others write, allocate and look --------------------------------------------------------------------------- */

/* Overwrites every byte of the tag again and again until it is told to stop in another one. */
struct garbage {
	volatile uint64_t rounds;
	volatile uint8_t *from;
	volatile size_t size;
	volatile int stop;
};

static void *fill_with_garbage(void *argument)
{
	struct garbage *garbage = argument;
	uint8_t value = 1;

	while (!garbage->stop) {
		memset((void *)garbage->from, value++, garbage->size);
		garbage->rounds++;
	}
	return NULL;
}

struct filler {
	sc_t sc;
	struct garbage *garbage;
	struct life life;
};

static void *run_filler(void *argument)
{
	struct filler *filler = argument;

	filler->life = live_run(&filler->sc, fill_with_garbage, filler->garbage);
	return NULL;
}

enum {
	OPERATIONS = 10000,
	LIVE = 400
};
static struct {
	uint8_t *at;
	size_t size;
} live[LIVE];

static void books_survive_garbage(void)
{
	live_init();

	static struct filler filler;
	tag_t tag = tag_new(), control = tag_new();
	uint8_t *start = smalloc(tag, 4 * MIB);
	unsigned seed = 7, overlaps = 0, outside = 0;
	pthread_t thread;

	sfree(start);
	filler.garbage = smalloc(control, sizeof(*filler.garbage));
	*filler.garbage = (struct garbage){ .from = start, .size = 4 * MIB };
	policy_with(&filler.sc, tag, BOTH);
	ASSERT_EQUAL(sc_mem_add(&filler.sc, control, BOTH), 0);
	sc_cpu_budget(&filler.sc, 600000);
	ASSERT_EQUAL(tag_quota(tag, 4 * MIB), 0);
	pthread_create(&thread, NULL, run_filler, &filler);
	for (double until = live_seconds() + 10 * harness_time_scale();
	     !filler.garbage->rounds && live_seconds() < until;)
		usleep(1000);
	for (unsigned step = 0; step < OPERATIONS || (filler.garbage->rounds < 2 && step < 1000 * OPERATIONS); step++) {
		unsigned i = (unsigned)rand_r(&seed) % LIVE;

		if (live[i].at) {
			errno = 0;
			sfree(live[i].at);
			ASSERT_EQUAL(errno, 0);
			live[i].at = NULL;
			continue;
		}
		live[i].size = 1 + (unsigned)rand_r(&seed) % (1u << (unsigned)rand_r(&seed) % 16);
		live[i].at = smalloc(tag, live[i].size);
		if (!live[i].at)
			continue;
		outside += live[i].at < start || live[i].at + live[i].size > start + 4 * MIB;
		for (unsigned j = 0; j < LIVE; j++)
			overlaps += j != i && live[j].at && live[j].at < live[i].at + live[i].size &&
				    live[i].at < live[j].at + live[j].size;
		if (step % 500 == 0)
			ASSERT_EQUAL(check_heap(tag), 0);
	}
	CU_ASSERT(filler.garbage->rounds > 1);
	filler.garbage->stop = 1;
	pthread_join(thread, NULL);
	ASSERT_END(filler.life, STHREAD_RETURNED);
	ASSERT_EQUAL(overlaps, 0);
	ASSERT_EQUAL(outside, 0);
	for (unsigned i = 0; i < LIVE; i++)
		sfree(live[i].at);
	ASSERT_EQUAL(statistics_of(tag).allocations, 0);
	ASSERT_EQUAL(check_heap(tag), 0);
	CU_ASSERT_PTR_EQUAL(smalloc(tag, 4 * MIB), start);
}

/* Threads share tags: each block is its owner's alone from smalloc() to sfree(). */
enum {
	THREADS = 4,
	SHARED_TAGS = 3,
	BLOCKS = 64
};
static tag_t shared[SHARED_TAGS];

static uint64_t allocate_in_turn(unsigned seed, uint8_t mark, unsigned operations)
{
	struct {
		uint8_t *at;
		size_t size;
	} block[BLOCKS] = { 0 };
	uint64_t bad = 0;

	for (unsigned step = 0; step < operations; step++) {
		unsigned i = (unsigned)rand_r(&seed) % BLOCKS;
		size_t size = 1 + (unsigned)rand_r(&seed) % 3000;

		if (!block[i].at) {
			block[i].at = smalloc(shared[(unsigned)rand_r(&seed) % SHARED_TAGS], size);
			bad += !block[i].at || !all_are(block[i].at, 0, size);
		} else if (step % 3) {
			uint8_t *moved = srealloc(block[i].at, size);

			bad += !moved || !all_are(moved, mark, size < block[i].size ? size : block[i].size);
			block[i].at = moved;
		} else {
			bad += !all_are(block[i].at, mark, block[i].size);
			sfree(block[i].at);
			block[i].at = NULL;
			continue;
		}
		block[i].size = size;
		memset(block[i].at, mark, size);
	}
	for (unsigned i = 0; i < BLOCKS; i++)
		sfree(block[i].at);
	return bad;
}

static void *thread_body(void *argument)
{
	unsigned number = (unsigned)(uintptr_t)argument;

	return (void *)allocate_in_turn(number, (uint8_t)(number + 1), 4000);
}

struct turn {
	tag_t tags[SHARED_TAGS];
	unsigned number;
};

static void *sthread_body(void *argument)
{
	const struct turn *turn = argument;

	memcpy(shared, turn->tags, sizeof(shared)); /* its own copy of the variable */
	return (void *)allocate_in_turn(turn->number, (uint8_t)(turn->number + 1), 500);
}

static void *run_sthread(void *argument)
{
	struct turn *turn = argument;
	sc_t sc;

	sc_init(&sc);
	for (unsigned i = 0; i < SHARED_TAGS; i++)
		sc_mem_add(&sc, shared[i], BOTH);

	struct life life = live_run(&sc, sthread_body, turn);

	return life.error ? (void *)1 : life.value;
}

static void *make_and_delete(void *stop)
{
	unsigned bad = 0;

	while (!*(volatile int *)stop) {
		tag_t tag = tag_new();
		uint8_t *at = smalloc(tag, 100000);

		bad += !at || !all_are(at, 0, 100000);
		memset(at, 0xee, 100000);
		bad += tag_delete(tag) != 0;
	}
	return (void *)(uintptr_t)bad;
}

static void threads_and_tags(void)
{
	live_init();

	static volatile int stop;
	pthread_t threads[THREADS + 2];
	void *bad;

	for (unsigned i = 0; i < SHARED_TAGS; i++)
		shared[i] = tag_new();

	struct turn *turn = smalloc(shared[0], sizeof(*turn));

	memcpy(turn->tags, shared, sizeof(shared));
	turn->number = THREADS;
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, thread_body, (void *)i);
	pthread_create(&threads[THREADS], NULL, run_sthread, turn);
	pthread_create(&threads[THREADS + 1], NULL, make_and_delete, (void *)&stop);
	for (unsigned i = 0; i < THREADS + 2; i++) {
		stop = i == THREADS + 1;
		pthread_join(threads[i], &bad);
		ASSERT_EQUAL((uintptr_t)bad, 0);
	}
	sfree(turn);
	for (unsigned i = 0; i < SHARED_TAGS; i++) {
		ASSERT_EQUAL(statistics_of(shared[i]).allocations, 0);
		ASSERT_EQUAL(check_heap(shared[i]), 0);
	}
}

/* An sthread on another thread reads a tag and notes in a second one what it saw, while the first is deleted and its
 * memory handed to a third. */
struct watch {
	volatile uint8_t *at;
	volatile uint64_t reads;
	volatile uint8_t last;
};
enum {
	OLD = 0x21,
	SECRET = 0x77
};

static void *watch_byte(void *argument)
{
	struct watch *watch = argument;

	for (;;) {
		watch->last = *watch->at;
		watch->reads++;
	}
	return NULL;
}

struct watcher {
	sc_t sc;
	struct watch *watch;
	struct life life;
};

static void *run_watcher(void *argument)
{
	struct watcher *watcher = argument;

	watcher->life = live_run(&watcher->sc, watch_byte, watcher->watch);
	return NULL;
}

static void watched_while_deleted(void)
{
	live_init();

	enum {
		ROUNDS = 20
	};
	static struct watcher watcher;
	tag_t log = tag_new();

	for (int round = 0; round < ROUNDS; round++) {
		tag_t tag = tag_new();
		uint8_t *at = smalloc(tag, PAGE);
		pthread_t thread;

		at[0] = OLD;
		watcher.watch = smalloc(log, sizeof(*watcher.watch));
		*watcher.watch = (struct watch){ .at = at };
		policy_with(&watcher.sc, tag, BOTH);
		ASSERT_EQUAL(sc_mem_add(&watcher.sc, log, BOTH), 0);
		pthread_create(&thread, NULL, run_watcher, &watcher);
		for (double until = live_seconds() + 10 * harness_time_scale();
		     watcher.watch->reads < 100 && live_seconds() < until;)
			usleep(100);
		live_check(watcher.watch->reads >= 100, __FILE__, __LINE__, "the sthread does not run");
		ASSERT_EQUAL(watcher.watch->last, OLD); /* the control: it could see */
		ASSERT_EQUAL(tag_delete(tag), 0);

		tag_t next = tag_new();
		volatile uint8_t *secret = smalloc(next, PAGE);

		CU_ASSERT_PTR_EQUAL((void *)secret, at); /* else the test shows nothing */
		secret[0] = SECRET;

		uint64_t reads = watcher.watch->reads;

		usleep(2000);
		/* None was made after tag_delete() had returned; one made before may have been counted after. */
		CU_ASSERT(watcher.watch->reads <= reads + 1);
		ASSERT_EQUAL(watcher.watch->last, OLD);
		pthread_join(thread, NULL);
		ASSERT_PAGE_FAULT(watcher.life, READ_ABSENT, at);
		ASSERT_EQUAL(watcher.watch->last, OLD);
		ASSERT_EQUAL(tag_delete(next), 0);
	}
}

static const struct harness_test tests[] = {
	{ "srealloc() keeps what was there, zeroes what is new, and leaves the block when it fails", resizing,
	  HARNESS_FORK },
	{ "smemalign() keeps every alignment up to 2 MiB, on both sides", alignment, HARNESS_FORK },
	{ "pointers that are no live allocation of a writable tag change nothing", foreign_pointers, HARNESS_FORK },
	{ "a tag's quota holds for the process and for sthreads alike", quota, HARNESS_FORK },
	{ "what alignment makes a tag grow by is charged to the sthread", growth_is_charged, HARNESS_FORK },
	{ "blocks may be larger than a memory slot", large_blocks, HARNESS_FORK },
	{ "memory of deleted tags comes together again", memory_comes_back, HARNESS_FORK },
	{ "calls with bad arguments, too early or from inside are refused", misuse, HARNESS_FORK },
	{ "the books hold while an sthread fills the tag with garbage", books_survive_garbage, HARNESS_FORK,
	  .seconds = 120 },
	{ "threads and an sthread allocate in the same tags, and every block is one's own", threads_and_tags,
	  HARNESS_FORK, .seconds = 120 },
	{ "an sthread that reads on another thread never sees the next owner's memory", watched_while_deleted,
	  HARNESS_FORK, .seconds = 120 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
