/*
 * live_translations_sthreads.c - what is cached of address spaces when sthreads are recycled, rights are taken away and
 * gates are called: nothing of before is seen, with tags (PCID) for many spaces and with one for all.  The counts of loads
 * that flush and that keep show that tags are used, and that they are not relied on where they must not be.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <dune.h>

#include "address_space.h"
#include "live.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
	TAGS = 4,
	WARM = 4,
	LIVES = 20,
	CALLS = 50,
	LOOKS = 3,
};

static void few_tags(unsigned tags)
{
	live_init();
	if (supervisor.machine->tags_used)
		supervisor.machine->tags_used = tags;
}

#define NEEDS_TAGS()                                                     \
	do {                                                             \
		if (!supervisor.machine->tags_used)                      \
			HARNESS_SKIP("no tags here: each load flushes"); \
	} while (0)

static struct sthread_statistics statistics(void)
{
	struct sthread_statistics now;
	ASSERT_EQUAL(sthread_statistics(&now), 0);
	return now;
}

/* ---- lives -------------------------------------------------------------------------------------------------------------- */

/* Lives of two policies by turns, in recycled spaces that nobody edits. */
static void alternate(unsigned lives)
{
	sc_t sc[2];
	for (unsigned i = 0; i < 2; i++) {
		sc_init(&sc[i]);
		sc_sys_add(&sc[i], i); /* another shape: another space */
	}
	for (uint64_t i = 0; i < lives; i++)
		ASSERT_RETURNED(live_run(&sc[i % 2], body_nothing, (void *)i), i);
}

static void recycled_lives_keep(void)
{
	few_tags(TAG_COUNT);
	supervisor.no_dirty_bits = true; /* they are cleared between lives, which takes a flush */
	alternate(WARM);
	struct sthread_statistics before = statistics();
	alternate(LIVES);
	struct sthread_statistics after = statistics();
	ASSERT_EQUAL(after.monitor_edits, before.monitor_edits);
	if (!supervisor.machine->tags_used) { /* the two counts change places */
		live_check(after.tlb_flushes - before.tlb_flushes >= LIVES, __FILE__, __LINE__, "each life flushes");
		ASSERT_EQUAL(after.tlb_kept, 0);
		return;
	}
	ASSERT_EQUAL(after.tlb_flushes, before.tlb_flushes);
	live_check(after.tlb_kept - before.tlb_kept >= LIVES, __FILE__, __LINE__, "each life keeps");
}

/* Their dirty bits are taken away for a look only, once it is known which pages each life writes to. */
static void recycled_lives_with_dirty_bits_keep(void)
{
	few_tags(TAG_COUNT);
	NEEDS_TAGS();
	if (supervisor.machine->host.recycling_copies)
		HARNESS_SKIP("dirty bits are not used here: %s", supervisor.machine->host.recycling_copies);
	alternate(2 * 4 * ADDRESS_SPACE_LOOK);
	struct sthread_statistics before = statistics();
	alternate(2 * LOOKS * ADDRESS_SPACE_LOOK);
	struct sthread_statistics after = statistics();
	ASSERT_EQUAL(after.tlb_flushes - before.tlb_flushes, 2 * LOOKS);
	live_check(after.tlb_kept - before.tlb_kept >= 2 * LOOKS * (ADDRESS_SPACE_LOOK - 1), __FILE__, __LINE__,
		   "other lives keep");
}

static void lives_with_one_tag_flush(void)
{
	few_tags(1);
	NEEDS_TAGS();
	alternate(WARM);
	struct sthread_statistics before = statistics();
	alternate(LIVES);
	live_check(statistics().tlb_flushes - before.tlb_flushes >= LIVES, __FILE__, __LINE__, "each life flushes");
}

/* ---- rights and memory at random ------------------------------------------------------------------------------------------ */

static void *body_access(void *packed)
{
	const uint64_t value = (uint64_t)packed;
	volatile uint8_t *at = (uint8_t *)(value & (((uint64_t)1 << 48) - 1));
	if (value >> 48)
		*at = (uint8_t)(value >> 48);
	return (void *)(uint64_t)*at;
}

static unsigned random_below(unsigned limit)
{
	static uint32_t state = 2463534242;
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % limit;
}

static struct {
	tag_t tag;
	uint8_t *at, byte;
} memory[TAGS];

static void renew(unsigned i)
{
	memory[i].tag = tag_new();
	memory[i].at = smalloc(memory[i].tag, 64);
	CU_ASSERT_PTR_NOT_NULL_FATAL(memory[i].at);
	memory[i].byte = *memory[i].at = (uint8_t)(1 + random_below(255));
}

/* One life with random rights, which uses one of them, or one that it does not have.  Returns whether it came as it should. */
static bool one_life(void)
{
	unsigned i = random_below(TAGS), rights[TAGS];
	uint8_t byte = random_below(2) ? (uint8_t)(1 + random_below(255)) : 0;
	sc_t sc;
	sc_init(&sc);
	for (unsigned other = 0; other < TAGS; other++) {
		rights[other] = random_below(3); /* none, read, both */
		if (rights[other])
			sc_mem_add(&sc, memory[other].tag, rights[other] == 1 ? PROT_READ : BOTH);
	}
	struct life life = live_run(&sc, body_access, (void *)((uint64_t)memory[i].at | (uint64_t)byte << 48));
	if (rights[i] > (byte ? 1 : 0)) {
		if (byte)
			memory[i].byte = byte;
		return life.error == 0 && (uint64_t)life.value == memory[i].byte && *memory[i].at == memory[i].byte;
	}
	return life.error == ECANCELED && life.info.end == STHREAD_FAULTED && *memory[i].at == memory[i].byte;
}

static void lives_at_random(unsigned tags)
{
	enum {
		ROUNDS = 300
	};
	few_tags(tags);
	unsigned wrong = 0;
	for (unsigned i = 0; i < TAGS; i++)
		renew(i);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned i = random_below(TAGS);
		if (random_below(8) == 0) { /* revoked everywhere; another tag comes to lie there, or not */
			ASSERT_EQUAL(tag_delete(memory[i].tag), 0);
			renew(i);
		}
		wrong += !one_life();
	}
	ASSERT_EQUAL(wrong, 0);
	struct sthread_statistics now = statistics();
	harness_note("%u tags: %llu loads flush, %llu keep, %llu entries edited", supervisor.machine->tags_used,
		     (unsigned long long)now.tlb_flushes, (unsigned long long)now.tlb_kept,
		     (unsigned long long)now.monitor_edits);
	CU_ASSERT(now.monitor_edits > 0);
}

static void many_tags_at_random(void)
{
	lives_at_random(TAG_COUNT);
}

static void two_tags_at_random(void)
{
	few_tags(2);
	NEEDS_TAGS();
	lives_at_random(2);
}

/* ---- calls of gates by ring 0 ----------------------------------------------------------------------------------------------- */

struct shared {
	cgate_t gate;
	uint64_t sum;
};

static void *gate_read(void *argument, void *trusted)
{
	return (void *)((uint64_t) * (volatile uint8_t *)trusted + (uint64_t)argument);
}

/* Calls, parks, and calls again. */
static void *body_calls(void *argument)
{
	struct shared *shared = argument;
	void *result;
	for (;;) {
		shared->sum = 0;
		for (unsigned i = 0; i < CALLS; i++) {
			if (cgate_call(shared->gate, (void *)(uint64_t)i, &result) != 0)
				return (void *)(uint64_t)errno;
			shared->sum += (uint64_t)result;
		}
		sthread_park();
	}
}

/* Starts a caller of a gate that reads a tag's byte, 3; it has made CALLS calls. */
static struct shared *start_calls(sthread_t *st, tag_t *tag)
{
	sc_t sc, of_gate;
	tag_t own = tag_new();
	struct shared *shared = smalloc(own, sizeof *shared);
	*tag = tag_new();
	uint8_t *byte = smalloc(*tag, 1);
	CU_ASSERT_FATAL(shared && byte);
	*byte = 3;
	sc_init(&of_gate);
	sc_mem_add(&of_gate, *tag, PROT_READ);
	shared->gate = cgate_create(gate_read, &of_gate, byte);
	CU_ASSERT_FATAL(shared->gate >= 0);
	sc_init(&sc);
	sc_mem_add(&sc, own, BOTH);
	sc_cgate_add(&sc, shared->gate);
	ASSERT_EQUAL(live_create(st, &sc, body_calls, shared), 0);
	ASSERT_EQUAL(shared->sum, 3 * CALLS + CALLS * (CALLS - 1) / 2);
	return shared;
}

#define NEEDS_CALLS_BY_RING0()                                                             \
	do {                                                                               \
		if (!live_ring0_native())                                                  \
			HARNESS_SKIP("ring 0 is interpreted here: every gate call exits"); \
		NEEDS_TAGS();                                                              \
	} while (0)

/* Loads that calls make: there and back, and of exits by the end of a slice some more. */
static void calls_keep_or_flush(unsigned tags)
{
	sthread_t st;
	tag_t tag;
	few_tags(tags);
	NEEDS_CALLS_BY_RING0();
	struct shared *shared = start_calls(&st, &tag);
	alternate(2);
	struct sthread_statistics before = statistics();
	ASSERT_EQUAL(live_step(st), 0);
	struct sthread_statistics after = statistics();
	uint64_t flushes = after.tlb_flushes - before.tlb_flushes, kept = after.tlb_kept - before.tlb_kept;
	ASSERT_EQUAL(shared->sum, 3 * CALLS + CALLS * (CALLS - 1) / 2);
	harness_note("%u calls, %u tags: %llu loads flush, %llu keep, %llu exits", CALLS, tags,
		     (unsigned long long)flushes, (unsigned long long)kept,
		     (unsigned long long)(after.exits - before.exits));
	uint64_t loads = 2 * CALLS - 2 * (after.exits - before.exits);
	if (tags > 1) {
		ASSERT_EQUAL(flushes, 0);
		live_check(kept >= loads, __FILE__, __LINE__, "calls keep");
	} else {
		live_check(flushes >= loads, __FILE__, __LINE__, "calls flush");
		live_check(kept <= 4 * (after.exits - before.exits), __FILE__, __LINE__, "and keep nothing");
	}
}

static void calls_keep(void)
{
	calls_keep_or_flush(TAG_COUNT);
}

static void calls_with_one_tag_flush(void)
{
	calls_keep_or_flush(1);
}

static void no_call_reads_what_was_revoked(void)
{
	for (unsigned tags = 1; tags <= TAG_COUNT; tags *= TAG_COUNT) {
		sthread_t st;
		tag_t tag;
		few_tags(tags);
		const struct shared *shared = start_calls(&st, &tag);
		uint64_t flushes = statistics().tlb_flushes;
		ASSERT_EQUAL(tag_delete(tag), 0);
		ASSERT_EQUAL(live_step(st), 0);
		struct life life = live_join(st);
		live_check(life.error == 0 && life.value && shared->sum == 0, __FILE__, __LINE__,
			   "the first call fails: error %d, result %p, sum %llu", life.error, life.value,
			   (unsigned long long)shared->sum);
		CU_ASSERT(statistics().tlb_flushes > flushes);
	}
}

/* ---- guest placement ---------------------------------------------------------------------------------------------------------- */

static uint64_t variable;

static void *body_write_variable(void *value)
{
	variable = (uint64_t)value;
	return (void *)variable;
}

#define NEEDS_GUEST()                                                               \
	do {                                                                        \
		if (!live_ring0_native() || supervisor.machine->host.shadow_paging) \
			HARNESS_SKIP("compartments run by exits here");             \
		if (!dune_in_guest())                                               \
			ASSERT_EQUAL(dune_init_and_enter(), 0);                     \
	} while (0)

static void recycled_lives_in_guest_keep(void)
{
	few_tags(TAG_COUNT);
	NEEDS_GUEST();
	recycled_lives_keep();
}

/* Programs may use the compartments' tags, under which there is something of theirs then. */
static void the_program_shares_tags(void)
{
	static const unsigned tags[] = { 0, 1, TAG_FIRST, TAG_FIRST + 1, CR3_PCID_MASK };
	few_tags(1);
	NEEDS_GUEST();
	ptent_t *other = dune_vm_clone(pgroot);
	CU_ASSERT_FATAL(other != NULL);
	variable = 7;
	for (unsigned i = 0; i < 2 * sizeof tags / sizeof *tags; i++) {
		const unsigned tag = tags[i / 2];
		load_cr3((unsigned long)pgroot | tag | (i % 2 ? CR3_NOFLUSH : 0));
		ASSERT_EQUAL(*(volatile uint64_t *)&variable, 7);
		ASSERT_RETURNED(live_run_bare(body_write_variable, (void *)99), 99);
		ASSERT_EQUAL(*(volatile uint64_t *)&variable, 7);
		load_cr3((unsigned long)other | 1);
		ASSERT_RETURNED(live_run_bare(body_write_variable, (void *)98), 98);
		load_cr3((unsigned long)pgroot | tag | CR3_NOFLUSH);
		ASSERT_EQUAL(*(volatile uint64_t *)&variable, 7);
		ASSERT_RETURNED(live_run_bare(body_write_variable, (void *)97), 97);
		ASSERT_EQUAL(*(volatile uint64_t *)&variable, 7);
	}
	load_cr3((unsigned long)pgroot);
	dune_vm_free(other);
}

static void guest_at_random(void)
{
	few_tags(TAG_COUNT);
	NEEDS_GUEST();
	lives_at_random(TAG_COUNT);
}

static void guest_with_one_tag_at_random(void)
{
	few_tags(1);
	NEEDS_TAGS();
	NEEDS_GUEST();
	lives_at_random(1);
}

static const struct harness_test tests[] = {
	{ "lives in recycled address spaces keep what is cached where there are tags, else flush", recycled_lives_keep,
	  HARNESS_FORK },
	{ "with dirty bits they keep it but for the looks", recycled_lives_with_dirty_bits_keep, HARNESS_FORK },
	{ "lives in address spaces with one tag flush each other", lives_with_one_tag_flush, HARNESS_FORK },
	{ "lives with random rights see what they have, with many tags", many_tags_at_random, HARNESS_FORK },
	{ "lives with random rights see what they have, with two tags", two_tags_at_random, HARNESS_FORK },
	{ "calls of ring 0 keep what is cached of both sides", calls_keep, HARNESS_FORK },
	{ "calls of ring 0 between spaces with one tag flush there and back", calls_with_one_tag_flush, HARNESS_FORK },
	{ "a gate that ring 0 has called does not read what was revoked", no_call_reads_what_was_revoked,
	  HARNESS_FORK },
	{ "lives that ring 0 creates keep what is cached as well", recycled_lives_in_guest_keep, HARNESS_FORK },
	{ "a program that loads its roots with compartments' tags sees nothing of theirs", the_program_shares_tags,
	  HARNESS_FORK },
	{ "lives with random rights, created by ring 0", guest_at_random, HARNESS_FORK },
	{ "lives with random rights, created by ring 0, with one tag", guest_with_one_tag_at_random, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
