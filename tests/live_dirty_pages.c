/*
 * live_dirty_pages.c - what is restored between lives, and what is not: by dirty bits where they work, and by what was
 * copied.  Each test runs with both where both work.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "address_space_parts.h"
#include "compartment.h"
#include "kvm/tags.h"
#include "live.h"

enum {
	PAGE = 4096,
	BOTH = PROT_READ | PROT_WRITE,
	GLOBALS = 40,
	EACH = 12,  /* pages of each other kind */
	SLACK = 12, /* pages that any life writes to: stack, thread, libc's data */
	FORGOTTEN_AFTER = ADDRESS_SPACE_LOOK * ADDRESS_SPACE_LOOKS_CLEAN + 2 * ADDRESS_SPACE_FORGET, /* lives */
};

static uint8_t globals[GLOBALS * PAGE] __attribute__((aligned(PAGE))) = { 1 };
static uint8_t zeros[EACH * PAGE] __attribute__((aligned(PAGE)));
static __thread uint8_t in_tls[3 * PAGE];
static uint8_t *heap; /* EACH pages */

/* ---- both methods ---------------------------------------------------------------------------------- */

static bool by_dirty_bits(void)
{
	return !supervisor.machine->host.recycling_copies && !supervisor.no_dirty_bits;
}

static void init(bool dirty_bits)
{
	heap = aligned_alloc(PAGE, EACH * PAGE);
	CU_ASSERT_PTR_NOT_NULL_FATAL(heap);
	memset(heap, 0x55, EACH * PAGE);
	live_init();
	supervisor.no_dirty_bits = !dirty_bits;
	if (dirty_bits && !by_dirty_bits())
		harness_skip("dirty bits are not used here: %s", supervisor.machine->host.recycling_copies);
}

#define BY_DIRTY_BITS(name)                    \
	static void name##_by_dirty_bits(void) \
	{                                      \
		init(true);                    \
		if (by_dirty_bits())           \
			name();                \
	}
#define BY_COPIES(name)                    \
	static void name##_by_copies(void) \
	{                                  \
		init(false);               \
		name();                    \
	}

static struct address_space *space_of(const struct life *life)
{
	struct address_space *space = address_spaces;
	while (space && space->id != life->info.address_space)
		space = space->next;
	CU_ASSERT_PTR_NOT_NULL_FATAL(space);
	return space;
}

static struct private_page *page_of(const struct address_space *space, const void *address)
{
	for (size_t i = 0; i < space->page_count; i++)
		if (space->pages[i].address == (uint64_t)address)
			return &space->pages[i];
	return NULL;
}

static struct sthread_statistics statistics(void)
{
	struct sthread_statistics now;
	ASSERT_EQUAL(sthread_statistics(&now), 0);
	return now;
}

/* ---- which pages are copied ------------------------------------------------------------------------ */

static void *write_globals(void *pages)
{
	for (uintptr_t i = 0; i < (uintptr_t)pages; i++)
		globals[i * PAGE + 7] ^= 0xff;
	return NULL;
}

static void as_many_as_were_written(void)
{
	ASSERT_RETURNED(live_run_bare(write_globals, (void *)GLOBALS), 0);
	uintptr_t before = GLOBALS;
	for (unsigned i = 0; i < 3 * ADDRESS_SPACE_LOOK; i++) {
		uintptr_t pages = i * 7 % GLOBALS;
		uint64_t clean = statistics().pages_clean;
		struct life life = live_run_bare(write_globals, (void *)pages);
		ASSERT_RETURNED(life, 0);
		/* Restored before it began: its space had one life less then. */
		bool exact = by_dirty_bits() || (space_of(&life)->lives - 1) % ADDRESS_SPACE_LOOK == 0;
		uintptr_t least = exact ? before : GLOBALS;
		live_check(life.info.pages_restored >= least && life.info.pages_restored <= least + SLACK, __FILE__,
			   __LINE__, "%lu pages were written, %lu are restored", (unsigned long)least,
			   (unsigned long)life.info.pages_restored);
		clean = statistics().pages_clean - clean;
		live_check(exact ? clean >= GLOBALS - before : clean == 0, __FILE__, __LINE__,
			   "%lu pages were written, %lu of %d are clean", (unsigned long)before, (unsigned long)clean,
			   GLOBALS);
		before = pages;
	}
}
BY_DIRTY_BITS(as_many_as_were_written)
BY_COPIES(as_many_as_were_written)

/* ---- nothing of an earlier life -------------------------------------------------------------------- */

/* What a life is told, in a tag that it may read. */
struct order {
	uint64_t seed;
	int fd;
	bool check_only;
	uint8_t in_tag; /* what the copied tag is full of */
	uint8_t *copied;
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t differing(const uint8_t *from, size_t size, uint8_t value)
{
	uint64_t found = 0;
	for (size_t i = 0; i < size; i++)
		found += from[i] != value;
	return found;
}

/* One kind of memory: writes to some of its pages, by itself or by having the supervisor do it. */
static void scribble(uint64_t *random, const struct order *order, uint8_t *memory, size_t pages)
{
	for (size_t i = 0; i < pages; i++) {
		uint64_t dice = next_random(random);
		uint8_t *at = memory + i * PAGE + (dice >> 32) % (PAGE - 16);
		switch (dice % 8) {
		case 0:
			*at ^= 0x77;
			break;
		case 1:
			if (pread(order->fd, at, 16, 0) != 16)
				abort();
			break;
		case 2:
			if (getrandom(at, 16, 0) != 16)
				abort();
			break;
		default:
			break;
		}
	}
}

static void *check_and_scribble(void *argument)
{
	const struct order *order = argument;
	uint64_t random = order->seed, found = 0;
	uint8_t stack[EACH * PAGE];
	__asm__ volatile("" : "+m"(stack));
	uint8_t *arena = mmap(NULL, EACH * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		*brk_memory = sbrk(EACH * PAGE);

	globals[0] = 0;
	found += differing(globals, sizeof globals, 0);
	globals[0] = 1;
	found += differing(zeros, sizeof zeros, 0) + differing(in_tls, sizeof in_tls, 0);
	found += differing(heap, EACH * PAGE, 0x55) + differing(stack, sizeof stack, 0);
	found += differing(arena, EACH * PAGE, 0) + differing(brk_memory, EACH * PAGE, 0);
	found += differing(order->copied, EACH * PAGE, order->in_tag);
	if (order->check_only)
		return (void *)found;
	scribble(&random, order, globals, GLOBALS);
	scribble(&random, order, zeros, EACH);
	scribble(&random, order, in_tls, 3);
	scribble(&random, order, heap, EACH);
	scribble(&random, order, stack, EACH);
	scribble(&random, order, arena, EACH);
	scribble(&random, order, brk_memory, EACH);
	scribble(&random, order, order->copied, EACH);
	return (void *)found;
}

static struct order *order_in_tag(sc_t *sc, tag_t *copied)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int fd = mkstemp(name);
	tag_t tag = tag_new();
	struct order *order = smalloc(tag, sizeof *order);

	unlink(name);
	ASSERT_EQUAL(write(fd, "from a file, yes", 16), 16);
	*copied = tag_new();
	CU_ASSERT_FATAL(order && fd >= 0);
	*order = (struct order){ .fd = fd, .copied = smemalign(*copied, PAGE, EACH * PAGE) };
	CU_ASSERT_PTR_NOT_NULL_FATAL(order->copied);
	sc_init(sc);
	sc_mem_add(sc, tag, PROT_READ);
	sc_mem_add(sc, *copied, PROT_READ | SC_COPY_ON_WRITE);
	ASSERT_EQUAL(sc_fd_add(sc, fd, PROT_READ), 0);
	return order;
}

static void nothing_of_an_earlier_life(void)
{
	unsigned lives = harness_time_scale() > 1 ? 400 : 4000;
	tag_t copied;
	sc_t sc;
	struct order *order = order_in_tag(&sc, &copied);
	uint64_t space = 0, seed = 0x9e3779b97f4a7c15 * (uint64_t)getpid();

	harness_note("seed %#llx", (unsigned long long)seed);
	for (unsigned i = 0; i < lives; i++) {
		if (i % 5 == 0) /* a tag's page is pristine as it is now */
			memset(order->copied, order->in_tag = (uint8_t)i, EACH * PAGE);
		order->seed = next_random(&seed);
		struct life life = live_run(&sc, check_and_scribble, order);
		ASSERT_RETURNED(life, 0);
		if (i)
			ASSERT_EQUAL(life.info.address_space, space);
		space = life.info.address_space;
		if (life.error || life.value)
			break;
	}
}
BY_DIRTY_BITS(nothing_of_an_earlier_life)
BY_COPIES(nothing_of_an_earlier_life)

/* Tampering with the books, so that a page is left out, shows in the next life. */
static void one_page_left_out_is_seen(void)
{
	tag_t copied;
	sc_t sc;
	struct order *order = order_in_tag(&sc, &copied);
	const void *const kinds[] = { &globals[5 * PAGE], &zeros[3 * PAGE], heap + PAGE };
	unsigned seen[sizeof kinds / sizeof *kinds] = { 0 };

	order->seed = 0x123456789abcdef;
	for (unsigned i = 0; i < 40; i++) {
		for (unsigned kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
			order->check_only = false;
			next_random(&order->seed);
			struct life life = live_run(&sc, check_and_scribble, order);
			ASSERT_RETURNED(life, 0);
			struct private_page *page = page_of(space_of(&life), kinds[kind]);
			if (!page || !private_page_differs(page))
				continue;
			uint64_t origin = page->origin;
			bool dirty = *page->entry & DUNE_PTE_DIRTY;
			if (by_dirty_bits())
				CU_ASSERT(dirty);
			if (by_dirty_bits())
				*page->entry &= ~DUNE_PTE_DIRTY;
			else
				page->origin = page->frame;
			order->check_only = true;
			life = live_run(&sc, check_and_scribble, order);
			ASSERT_EQUAL(life.error, 0);
			seen[kind] += life.value != NULL;
			CU_ASSERT_PTR_NOT_NULL(life.value);
			/* Put right again. */
			page = page_of(space_of(&life), kinds[kind]);
			CU_ASSERT_PTR_NOT_NULL_FATAL(page);
			page->origin = origin;
			space_mark_written(page->entry);
		}
	}
	for (unsigned kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
		CU_ASSERT(seen[kind] > 0);
}
BY_DIRTY_BITS(one_page_left_out_is_seen)
BY_COPIES(one_page_left_out_is_seen)

/* ---- what the supervisor writes -------------------------------------------------------------------- */

enum {
	READ_FILE = 1,
	RANDOM = 2,
	STAT = 3,
	RELEASE = 4,
	RESULT = 5
};

struct host_order {
	int kind, fd;
	cgate_t gate;
};

static void *answer(void *argument, void *trusted)
{
	(void)trusted;
	return argument;
}

/* Has the supervisor write to a page that is private already and clean. */
static void *have_written(void *argument)
{
	const struct host_order *order = argument;
	uint64_t found = differing(zeros, PAGE, 0);
	switch (order->kind) {
	case READ_FILE:
		return (void *)(pread(order->fd, zeros, 16, 0) == 16 ? found : 1);
	case RANDOM:
		return (void *)(getrandom(zeros, 64, 0) == 64 ? found : 1);
	case STAT:
		return (void *)(lseek(order->fd, 0, SEEK_SET) == 0 && read(order->fd, zeros, 16) == 16 ? found : 1);
	case RESULT:
		return (void *)(cgate_call(order->gate, (void *)0x7777, (void **)zeros) == 0 ? found : 1);
	default:
		zeros[0] = 1; /* a page of its own from now on */
		return (void *)found;
	}
}

static void what_the_supervisor_writes(void)
{
	tag_t copied;
	sc_t sc;
	int fd = order_in_tag(&sc, &copied)->fd;
	tag_t tag = tag_new();
	struct host_order *order = smalloc(tag, sizeof *order);
	sc_t nothing;
	sc_init(&nothing);
	sc_mem_add(&sc, tag, PROT_READ);
	*order = (struct host_order){ .fd = fd, .gate = cgate_create_fresh(answer, &nothing, NULL) };
	sc_cgate_add(&sc, order->gate);
	ASSERT_RETURNED(live_run(&sc, have_written, order), 0);
	ASSERT_RETURNED(live_run(&sc, have_written, order), 0);
	for (int kind = READ_FILE; kind <= RESULT; kind++) {
		/* Clean before, and the page is not given back in between. */
		order->kind = kind;
		struct life life = live_run(&sc, have_written, order);
		ASSERT_RETURNED(life, 0);
		struct private_page *page = page_of(space_of(&life), zeros);
		CU_ASSERT_PTR_NOT_NULL_FATAL(page);
		CU_ASSERT(private_page_differs(page));
		ASSERT_RETURNED(live_run(&sc, have_written, order), 0);
		ASSERT_RETURNED(live_run(&sc, have_written, order), 0);
		if (!by_dirty_bits())
			continue;
		/* Control: without the mark it would be there. */
		CU_ASSERT(*page->entry & DUNE_PTE_DIRTY);
		*page->entry &= ~DUNE_PTE_DIRTY;
		life = live_run(&sc, have_written, order);
		CU_ASSERT(life.error == 0 && life.value);
	}
}
BY_DIRTY_BITS(what_the_supervisor_writes)
BY_COPIES(what_the_supervisor_writes)

/* The answers to messages, and the messages themselves, in a gate that is fresh for each call. */
static void *echo(void *argument, void *trusted)
{
	const struct cgate_buffer *buffer = argument;
	const uint8_t *in = buffer->in;
	uint8_t *out = buffer->out;
	(void)trusted;
	/* How much of an earlier message is behind this one, and of an earlier answer. */
	uint64_t found = differing(in + buffer->inlen, PAGE - buffer->inlen, 0) + differing(out, PAGE, 0) +
			 differing(globals + PAGE, PAGE, 0);
	memcpy(out, in, buffer->inlen);
	globals[PAGE + in[0] * 8] = 1;
	return (void *)found;
}

static void messages_of_fresh_gates(void)
{
	uint8_t in[2000], out[2000];
	sc_t nothing;
	sc_init(&nothing);
	cgate_t gate = cgate_create_fresh(echo, &nothing, NULL);
	for (unsigned i = 0; i < 100; i++) {
		size_t size = sizeof in - i * 19, have = sizeof out;
		memset(in, (int)i + 1, sizeof in);
		ASSERT_EQUAL(cgate_call_buf(gate, in, size, out, &have), 0);
		CU_ASSERT(have <= sizeof out && memcmp(in, out, size) == 0);
	}
	struct cgate_info info;
	ASSERT_EQUAL(cgate_get_info(gate, &info), 0);
	ASSERT_EQUAL(info.lives, 100);
}

/* ---- templates ------------------------------------------------------------------------------------- */

static uint8_t *template_block; /* EACH pages, in the template */

static void *fill_template(void *value_in_tag)
{
	uint8_t value = *(const volatile uint8_t *)value_in_tag;
	template_block = mmap(NULL, EACH * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (template_block == MAP_FAILED)
		return NULL;
	memset(template_block, value, EACH * PAGE);
	memset(zeros, value, sizeof zeros);
	return (void *)1;
}

enum {
	WRITE_PAGES = 0x100,
	UNMAP_BLOCK = 0x200
};

static void *look_at_template(void *argument)
{
	uintptr_t what = (uintptr_t)argument;
	uint64_t found =
		differing(zeros, sizeof zeros, (uint8_t)what) + differing(template_block, EACH * PAGE, (uint8_t)what);
	for (unsigned i = 0; what & WRITE_PAGES && i < EACH; i++)
		zeros[i * PAGE + 3] = template_block[i * PAGE + 3] = 0;
	if (what & UNMAP_BLOCK)
		found += munmap(template_block, EACH * PAGE) != 0;
	return (void *)found;
}

static void lives_of_templates(void)
{
	tag_t tag = tag_new();
	volatile uint8_t *value = smalloc(tag, 1);
	uint64_t space = 0;
	sc_t granting, sc;

	CU_ASSERT_PTR_NOT_NULL_FATAL((void *)value);
	sc_init(&granting);
	sc_mem_add(&granting, tag, PROT_READ);
	*value = 0x30;
	sc_template_t template = sc_template(&granting, fill_template, (void *)value);
	CU_ASSERT_FATAL(template >= 0);
	sc_init(&sc);
	ASSERT_EQUAL(sc_start_from(&sc, template), 0);
	for (uintptr_t i = 0x30; i < 0x36; i++) {
		/* Pages that were given back are covered with others, which are not what the template has there. */
		struct life life = live_run(&sc, look_at_template, (void *)(i | UNMAP_BLOCK));
		ASSERT_RETURNED(life, 0);
		ASSERT_RETURNED(live_run(&sc, look_at_template, (void *)i), 0);
		/* Written, then clean; then they become copies of something else. */
		ASSERT_RETURNED(live_run(&sc, look_at_template, (void *)(i | WRITE_PAGES)), 0);
		ASSERT_RETURNED(live_run(&sc, look_at_template, (void *)i), 0);
		*value = (uint8_t)(i + 1);
		ASSERT_EQUAL(sc_template_refresh(template), 0);
		if (space)
			ASSERT_EQUAL(life.info.address_space, space);
		space = life.info.address_space;
	}
}
BY_DIRTY_BITS(lives_of_templates)
BY_COPIES(lives_of_templates)

/* Memory like the template's, in a life that does not begin from it. */
static void *find_block(void *unused)
{
	uint8_t *block = mmap(NULL, EACH * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t found = differing(block, EACH * PAGE, 0) + differing(zeros, sizeof zeros, 0);
	(void)unused;
	sthread_park();
	return (void *)found;
}

/* Spaces that were taken for lives of the policy, all at the same time, and not run. */
static void take_and_release(const sc_t *sc, stcb_t body, unsigned count)
{
	struct address_space *spaces[3];
	unsigned ready = 0;
	CU_ASSERT_FATAL(count <= 3);
	supervisor_lock();
	const struct policy *policy = policy_new(sc, POLICY_FOR_ONE_LIFE);
	CU_ASSERT_PTR_NOT_NULL_FATAL(policy);
	for (unsigned i = 0; i < count; i++) {
		spaces[i] = address_space_take_own(policy, template_state(policy), (uint64_t)body);
		CU_ASSERT_PTR_NOT_NULL_FATAL(spaces[i]);
		ready += !spaces[i]->lives && spaces[i]->page_count >= EACH;
	}
	for (unsigned i = 0; i < count; i++)
		address_space_release(spaces[i]);
	policy_put(policy);
	supervisor_unlock();
	CU_ASSERT(ready > 0);
}

static void unused_spaces_show_no_old_template(void)
{
	tag_t tag = tag_new();
	uint8_t *value = smalloc(tag, 1);
	sthread_t lives[3];
	sc_t granting, sc, bare;
	CU_ASSERT_PTR_NOT_NULL_FATAL(value);
	*value = 0x30;
	sc_init(&granting);
	sc_mem_add(&granting, tag, PROT_READ);
	sc_init(&sc);
	sc_init(&bare);
	sc_template_t template = sc_template(&granting, fill_template, value);
	CU_ASSERT_FATAL(template >= 0 && sc_start_from(&sc, template) == 0);
	ASSERT_RETURNED(live_run(&sc, look_at_template, (void *)(uintptr_t)(0x30 | WRITE_PAGES)), 0);
	take_and_release(&sc, look_at_template, 3);
	ASSERT_EQUAL(sc_template_destroy(template), 0);
	uint64_t spaces = statistics().address_spaces;
	for (unsigned i = 0; i < 3; i++)
		ASSERT_EQUAL(live_create(&lives[i], &bare, find_block, NULL), 0);
	ASSERT_EQUAL(statistics().address_spaces, spaces); /* control: they are those */
	for (unsigned i = 0; i < 3; i++) {
		ASSERT_EQUAL(live_step(lives[i]), 0);
		ASSERT_RETURNED(live_join(lives[i]), 0);
	}
}
BY_DIRTY_BITS(unused_spaces_show_no_old_template)
BY_COPIES(unused_spaces_show_no_old_template)

/* ---- what lives have stopped writing to ------------------------------------------------------------ */

static void *write_or_park(void *pages)
{
	if (!pages)
		sthread_park();
	for (uintptr_t i = 0; i < (uintptr_t)pages % 1000; i++)
		globals[i * PAGE + 7] = 1;
	for (uintptr_t i = 0; i < (uintptr_t)pages / 1000; i++)
		zeros[i * PAGE] = 1;
	return (void *)(uintptr_t)in_tls[0];
}

/* How many private pages a new space of this kind gets, while all others are in use. */
static size_t pages_of_new_space(const sc_t *sc)
{
	sthread_t first, second;
	struct sthread_info info;
	uint64_t spaces = statistics().address_spaces;
	ASSERT_EQUAL(live_create(&first, sc, write_or_park, NULL), 0);
	ASSERT_EQUAL(live_create(&second, sc, write_or_park, NULL), 0);
	CU_ASSERT(statistics().address_spaces > spaces);
	ASSERT_EQUAL(sthread_get_info(second, &info), 0);
	size_t pages = space_of(&(struct life){ .info = info })->page_count;
	ASSERT_EQUAL(live_step(second), 0);
	live_join(second);
	ASSERT_EQUAL(live_step(first), 0); /* last: it is taken first */
	live_join(first);
	return pages;
}

static void unwritten_pages_are_given_back(void)
{
	sc_t sc;
	sc_init(&sc);
	struct life life = live_run(&sc, write_or_park, (void *)(1000 + GLOBALS));
	ASSERT_RETURNED(life, 0);
	/* Control: one such life is remembered. */
	CU_ASSERT(pages_of_new_space(&sc) >= GLOBALS);
	ASSERT_RETURNED(life = live_run(&sc, write_or_park, (void *)1001), 0);

	const struct address_space *space = space_of(&life);
	struct sthread_statistics before = statistics();
	size_t pages = space->page_count;
	uint64_t thread_page = space->pages[0].frame;

	CU_ASSERT(pages >= GLOBALS);
	for (unsigned i = 0; i < FORGOTTEN_AFTER; i++) {
		life = live_run(&sc, write_or_park, (void *)1001);
		ASSERT_RETURNED(life, 0);
		CU_ASSERT_FATAL(space_of(&life) == space);
		ASSERT_EQUAL(life.info.pages_copied, 0); /* what is written is never given back */
	}

	struct sthread_statistics after = statistics();
	live_check(space->page_count <= SLACK + 2, __FILE__, __LINE__, "%zu pages are left of %zu", space->page_count,
		   pages);
	CU_ASSERT(after.pages_released - before.pages_released >= GLOBALS - 1);
	ASSERT_EQUAL(after.pages_released - before.pages_released, pages - space->page_count);
	ASSERT_EQUAL(before.frames_used - after.frames_used, pages - space->page_count);
	CU_ASSERT(life.info.pages_restored <= SLACK + 2);
	CU_ASSERT(page_of(space, globals) != NULL && page_of(space, zeros) != NULL);
	ASSERT_EQUAL(space->pages[0].frame, thread_page);

	/* They are pristine, and can be written to, and are learned again. */
	life = live_run(&sc, write_or_park, (void *)(1000 + GLOBALS));
	ASSERT_RETURNED(life, 0);
	CU_ASSERT(life.info.pages_copied >= GLOBALS - 1);
	ASSERT_EQUAL(live_run(&sc, write_or_park, (void *)(1000 + GLOBALS)).info.pages_copied, 0);
}
BY_DIRTY_BITS(unwritten_pages_are_given_back)
BY_COPIES(unwritten_pages_are_given_back)

static void new_spaces_forget_too(void)
{
	sc_t sc;
	sc_init(&sc);
	ASSERT_RETURNED(live_run(&sc, write_or_park, (void *)(1000 + GLOBALS)), 0);
	for (unsigned i = 0; i < FORGOTTEN_AFTER; i++)
		ASSERT_RETURNED(live_run(&sc, write_or_park, (void *)1001), 0);
	CU_ASSERT(pages_of_new_space(&sc) <= SLACK + 2);
}
BY_DIRTY_BITS(new_spaces_forget_too)
BY_COPIES(new_spaces_forget_too)

/* Writes to a page, and leaves it as it was. */
static void *write_in_vain(void *argument)
{
	((volatile uint8_t *)zeros)[PAGE] = 1;
	((volatile uint8_t *)zeros)[PAGE] = 0;
	return argument;
}

static void what_comes_back_stays_longer(void)
{
	enum {
		ENOUGH = 6 * FORGOTTEN_AFTER
	};
	uint64_t returns = 0;
	ASSERT_RETURNED(live_run_bare(write_in_vain, NULL), 0);
	for (unsigned i = 0; i < ENOUGH; i++) {
		struct life life = live_run_bare(write_in_vain, NULL);
		ASSERT_RETURNED(life, 0);
		returns += life.info.pages_copied > 0;
	}
	/* After 192 lives, and after 768 more: four times as long. */
	ASSERT_EQUAL(returns, by_dirty_bits() ? 0 : 2);
}
BY_DIRTY_BITS(what_comes_back_stays_longer)
BY_COPIES(what_comes_back_stays_longer)

/* Growth of a hostile life is bounded at once, and what is left of it goes like the rest. */
static void *grow(void *pages)
{
	uint8_t *at = mmap(NULL, (uintptr_t)pages * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (uintptr_t i = 0; i < (uintptr_t)pages; i++)
		at[i * PAGE] = 1;
	return NULL;
}

static void growth_does_not_stay(void)
{
	sc_t sc;
	sc_init(&sc);
	uint64_t frames = statistics().frames_used;
	struct life life = live_run(&sc, grow, (void *)5000);
	ASSERT_RETURNED(life, 0);
	const struct address_space *space = space_of(&life);
	CU_ASSERT(space->page_count <= 1024);
	CU_ASSERT(statistics().frames_used - frames <= 1024 + SLACK);
	for (unsigned i = 0; i < FORGOTTEN_AFTER; i++)
		ASSERT_RETURNED(life = live_run(&sc, grow, NULL), 0);
	CU_ASSERT(space_of(&life) == space);
	CU_ASSERT(space->page_count <= SLACK);
	CU_ASSERT(life.info.pages_restored <= SLACK);
	/* And comes back pristine. */
	ASSERT_RETURNED(live_run(&sc, grow, (void *)100), 0);
}
BY_DIRTY_BITS(growth_does_not_stay)
BY_COPIES(growth_does_not_stay)

/* ---- the flush ------------------------------------------------------------------------------------- */

/* How many of so many lives, each of which writes to these pages, flush what is cached of their space. */
static unsigned flushing_lives(unsigned lives, uintptr_t pages)
{
	static uint64_t generation;
	unsigned flushing = 0;
	for (unsigned i = 0; i < lives; i++) {
		struct life life = live_run_bare(write_globals, (void *)pages);
		ASSERT_RETURNED(life, 0);
		flushing += space_of(&life)->context.generation != generation;
		generation = space_of(&life)->context.generation;
	}
	return flushing;
}

static void habits_keep_what_is_cached(void)
{
	enum {
		WARM = 4 * ADDRESS_SPACE_LOOK,
		LIVES = 10 * ADDRESS_SPACE_LOOK
	};
	init(true);
	if (!by_dirty_bits())
		return;
	flushing_lives(WARM, 2);
	ASSERT_EQUAL(flushing_lives(LIVES, 2), LIVES / ADDRESS_SPACE_LOOK); /* each look */
	ASSERT_EQUAL(flushing_lives(LIVES, GLOBALS), LIVES);                /* too many for a habit */
	supervisor.no_habits = true;
	flushing_lives(WARM, 2);
	ASSERT_EQUAL(flushing_lives(LIVES, 2), LIVES); /* control */
}

/* Reads a page, and in most lives leaves something there. */
static void *write_mostly(void *seed)
{
	uint64_t random = (uint64_t)seed, found = zeros[2 * PAGE];
	if (next_random(&random) % 16)
		zeros[2 * PAGE] = 1;
	return (void *)found;
}

static void nothing_of_a_habit_is_left(void)
{
	for (uintptr_t i = 1; i <= 600; i++)
		ASSERT_RETURNED(live_run_bare(write_mostly, (void *)(i * 0x9e3779b97f4a7c15)), 0);
}
BY_DIRTY_BITS(nothing_of_a_habit_is_left)
BY_COPIES(nothing_of_a_habit_is_left)

static void *write_one(void *argument)
{
	uint64_t found = zeros[0];
	zeros[0] = 1;
	return (void *)(found + (uint64_t)argument);
}

static void a_recycled_root_is_loaded_anew(void)
{
	struct dune_vcpu *vcpu;
	struct life life;

	init(true);
	if (!by_dirty_bits())
		return;
	if (live_from_ring0())
		HARNESS_SKIP("ring 0 loads roots itself: each load flushes");
	supervisor.no_habits = true;
	vcpu = dune_vcpu_get(supervisor.machine);
	life = live_run_bare(write_one, NULL);
	ASSERT_RETURNED(life, 0);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t reloads = vcpu->reloads;
		life = live_run_bare(write_one, NULL);
		ASSERT_RETURNED(life, 0);
		CU_ASSERT(vcpu->reloads > reloads);
	}
	/* Control: a virtual CPU that takes what it has cached for up to date does not load the root, and where the processor
	 * keeps translations from one run to the next, it does not see what is written. */
	unsigned survived = 0;
	for (unsigned i = 0; i < 20; i++) {
		uint64_t reloads = vcpu->reloads;
		vcpu->generation = dune_generation_new() + 1; /* what the root gets when it is restored */
		life = live_run_bare(write_one, NULL);
		CU_ASSERT(life.error == 0);
		ASSERT_EQUAL(vcpu->reloads, reloads);
		survived += life.value != NULL;
	}
	if (supervisor.machine->host.dirty_bits_cached)
		CU_ASSERT(survived > 0);
}

/* Two threads, each with a virtual CPU of its own, take turns with one address space. */
static pthread_barrier_t turn;
static uint64_t spaces_used[2];

static void *take_turns(void *number)
{
	uintptr_t own = (uintptr_t)number;
	const struct dune_vcpu *vcpu = dune_vcpu_get(supervisor.machine);
	CU_ASSERT_PTR_NOT_NULL_FATAL(vcpu);
	for (unsigned i = 0; i < 20; i++) {
		pthread_barrier_wait(&turn);
		if (i % 2 != own)
			continue;
		uint64_t reloads = vcpu->reloads;
		struct life life = live_run_bare(write_one, NULL);
		ASSERT_RETURNED(life, 0);
		spaces_used[own] = life.info.address_space;
		if (i > 1)
			CU_ASSERT(vcpu->reloads > reloads);
	}
	pthread_barrier_wait(&turn);
	return NULL;
}

static void on_every_virtual_cpu(void)
{
	pthread_t thread;
	init(true);
	if (!by_dirty_bits())
		return;
	if (live_from_ring0())
		HARNESS_SKIP("ring 0 loads roots itself: each load flushes");
	supervisor.no_habits = true;
	ASSERT_EQUAL(pthread_barrier_init(&turn, NULL, 2), 0);
	ASSERT_EQUAL(pthread_create(&thread, NULL, take_turns, (void *)1), 0);
	take_turns(NULL);
	pthread_join(thread, NULL);
	ASSERT_EQUAL(spaces_used[0], spaces_used[1]);
}

static void gates_by_dirty_bits(void)
{
	init(true);
	if (by_dirty_bits())
		messages_of_fresh_gates();
}

static void gates_by_copies(void)
{
	init(false);
	messages_of_fresh_gates();
}

#define TWICE(name, function)                                                                  \
	{ name ", by dirty bits", function##_by_dirty_bits, HARNESS_FORK, .seconds = 60 },     \
	{                                                                                      \
		name ", by what was copied", function##_by_copies, HARNESS_FORK, .seconds = 60 \
	}

static const struct harness_test tests[] = {
	TWICE("as many pages are restored as have to be", as_many_as_were_written),
	TWICE("no byte of an earlier life is left, whatever lives write", nothing_of_an_earlier_life),
	TWICE("control: a page that is not restored is seen by the next life", one_page_left_out_is_seen),
	TWICE("what the supervisor writes for a life is not left for the next", what_the_supervisor_writes),
	{ "a fresh gate finds no earlier message, by dirty bits", gates_by_dirty_bits, HARNESS_FORK },
	{ "a fresh gate finds no earlier message, by what was copied", gates_by_copies, HARNESS_FORK },
	TWICE("lives of a template begin with what it has now", lives_of_templates),
	TWICE("a space that was made ready and not used shows nothing of a template that is gone",
	      unused_spaces_show_no_old_template),
	TWICE("pages that lives have stopped writing to are given back, others stay", unwritten_pages_are_given_back),
	TWICE("what was given back is not prepared in new address spaces either", new_spaces_forget_too),
	TWICE("growth is bounded at once and gone after a while", growth_does_not_stay),
	TWICE("a page that was given back and is needed again stays for longer", what_comes_back_stays_longer),
	{ "pages that each life writes to do not cost what is cached of the space; control: they would",
	  habits_keep_what_is_cached, HARNESS_FORK, .seconds = 60 },
	TWICE("no byte is left in a page that most lives write to", nothing_of_a_habit_is_left),
	{ "a recycled root is loaded anew before it runs; control: it would not see writes",
	  a_recycled_root_is_loaded_anew, HARNESS_FORK },
	{ "it is loaded anew on each virtual CPU that has it", on_every_virtual_cpu, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
