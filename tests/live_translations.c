/*
 * live_translations.c - what a virtual CPU has cached of an address space is used as long as that is what its tables say, and
 * not once longer: with tags (PCID) for many spaces, with one tag for all, and on hosts without.  By hand-made address spaces.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "kvm/tags.h"

enum {
	PAGE_FAULT = 14,
	READ_ABSENT = 4,
	WRITE_ABSENT = 6,
	WRITE_DENIED = 7,
	FAULT = 0x100, /* and an error code: what an access came to, instead of a byte */
	SPACES = 6,
	FRAMES = 16,
	ROUNDS = 20,
};

/* An address space with one data page. */
struct space {
	struct dune_context context;
	uint64_t *entry;
	unsigned frame; /* what the entry says */
	bool present, writable;
};

static struct dune_machine *machine;
static struct space spaces[SPACES];
static uint64_t frames[FRAMES], data;
static uint8_t bytes[FRAMES]; /* what is in them */
static uint64_t tenants = 1000;

static uint8_t *memory(unsigned frame)
{
	return dune_physical_at(machine, frames[frame]);
}

static uint64_t value(const struct space *space)
{
	if (!space->present)
		return 0;
	return frames[space->frame] | DUNE_PTE_PRESENT | DUNE_PTE_USER | DUNE_PTE_NO_EXECUTE |
	       (space->writable ? DUNE_PTE_WRITE : 0);
}

static void prepare(unsigned tags)
{
	machine = dune_machine_get();
	CU_ASSERT_PTR_NOT_NULL_FATAL(machine);
	if (machine->tags_used)
		machine->tags_used = tags;
	data = machine->window + WINDOW_USER;
	for (unsigned i = 0; i < FRAMES; i++) {
		frames[i] = dune_frame_new(machine);
		CU_ASSERT_FATAL(frames[i] != 0);
		*memory(i) = bytes[i] = (uint8_t)(i + 1);
	}
	for (unsigned i = 0; i < SPACES; i++) {
		struct space *space = &spaces[i];
		uint64_t root = dune_root_new(machine);
		CU_ASSERT_FATAL(root != 0);
		dune_context_start(&space->context, ++tenants, root);
		space->entry = dune_tables_entry(&machine->tables, root, data, true);
		CU_ASSERT_PTR_NOT_NULL_FATAL(space->entry);
		space->frame = i;
		space->present = space->writable = true;
		*space->entry = value(space);
	}
}

/* ---- what is done, by this thread or by another one, which has a virtual CPU of its own ---------------------------------- */

enum operation {
	TOUCH,  /* reads the byte, or writes `byte` if that is not 0 */
	EDIT,   /* has the monitor write what the space is to say */
	ANSWER, /* gives a page of its own in answer to a write fault that has just been */
};

struct work {
	enum operation operation;
	struct space *space;
	uint8_t byte;
	unsigned result;
};

static unsigned touch(struct space *space, uint8_t byte)
{
	struct dune_exit exit;
	space->context.regs = (struct kvm_regs){ .rip = machine->trampoline_touch,
						 .rdi = data,
						 .rsi = byte,
						 .r13 = machine->trampoline_service,
						 .rax = UINT64_MAX };
	dune_vcpu_run(dune_vcpu_get(machine), &space->context, &exit);
	if (exit.kind == DUNE_EXIT_SERVICE)
		return (unsigned)space->context.regs.rdi;
	CU_ASSERT(exit.kind == DUNE_EXIT_EXCEPTION && exit.vector == PAGE_FAULT && exit.address == data);
	return FAULT | (unsigned)exit.error_code;
}

static void *carry_out(void *argument)
{
	struct work *work = argument;
	struct space *space = work->space;
	struct dune_edit edit = { .entry =
					  machine->edit_tables + ((const uint8_t *)space->entry - machine->tables.host),
				  .value = value(space) };
	switch (work->operation) {
	case TOUCH:
		work->result = touch(space, work->byte);
		break;
	case EDIT:
		CU_ASSERT_EQUAL(dune_vcpu_edit(dune_vcpu_get(machine), &space->context, &edit, 1), 0);
		break;
	case ANSWER:
		work->result = touch(space, work->byte);
		__atomic_store_n(space->entry, value(space), __ATOMIC_RELEASE);
		dune_vcpu_accept(dune_vcpu_get(machine), &space->context);
		break;
	}
	/* What is kept in the virtual CPU stays behind. */
	CU_ASSERT_EQUAL(dune_vcpu_save(dune_vcpu_get(machine), &space->context), 0);
	return NULL;
}

static unsigned perform(bool elsewhere, enum operation operation, struct space *space, uint8_t byte)
{
	struct work work = { .operation = operation, .space = space, .byte = byte };
	pthread_t thread;
	if (!elsewhere) {
		carry_out(&work);
	} else {
		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, carry_out, &work), 0);
		pthread_join(thread, NULL);
	}
	return work.result;
}

static void edit(bool elsewhere, struct space *space, unsigned frame, bool present, bool writable)
{
	space->frame = frame;
	space->present = present;
	space->writable = writable;
	perform(elsewhere, EDIT, space, 0);
}

static unsigned look(struct space *space)
{
	return perform(false, TOUCH, space, 0);
}

/* ---- which loads flush -------------------------------------------------------------------------------------------------- */

static struct dune_totals counted;

/* Since the last time. */
static void expect_loads(unsigned line, uint64_t flushed, uint64_t keeping)
{
	const struct dune_totals before = counted;
	counted = dune_totals();
	uint64_t flushes = counted.tag_flushes - before.tag_flushes, kept = counted.tag_kept - before.tag_kept;
	if (flushes == flushed && kept == keeping)
		return;
	harness_note("line %u: %llu loads flush and %llu keep, not %llu and %llu", line, (unsigned long long)flushes,
		     (unsigned long long)kept, (unsigned long long)flushed, (unsigned long long)keeping);
	CU_FAIL("loads");
}
#define EXPECT_LOADS(flushed, keeping) expect_loads(__LINE__, flushed, keeping)

#define NEEDS_TAGS()                                                     \
	do {                                                             \
		if (!machine->tags_used)                                 \
			HARNESS_SKIP("no tags here: each load flushes"); \
	} while (0)

static void each_space_is_flushed_once_then_kept(void)
{
	prepare(TAG_COUNT);
	NEEDS_TAGS();
	counted = dune_totals();
	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned i = 0; i < SPACES; i++)
			CU_ASSERT_EQUAL(look(&spaces[i]), bytes[i]);
	EXPECT_LOADS(SPACES, SPACES * (ROUNDS - 1));
	look(&spaces[SPACES - 1]); /* it is loaded */
	EXPECT_LOADS(0, 0);
	dune_context_start(&spaces[0].context, ++tenants, spaces[0].context.root); /* another life in it */
	look(&spaces[0]);
	EXPECT_LOADS(0, 1);
}

static void without_tags_each_load_flushes(void)
{
	prepare(TAG_COUNT);
	if (machine->tags_used)
		HARNESS_SKIP("there are tags here");
	counted = dune_totals();
	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned i = 0; i < SPACES; i++)
			CU_ASSERT_EQUAL(look(&spaces[i]), bytes[i]);
	EXPECT_LOADS(SPACES * ROUNDS, 0);
}

static void an_edit_flushes_its_space_on_each_virtual_cpu_and_no_other(void)
{
	prepare(TAG_COUNT);
	NEEDS_TAGS();
	struct space *space = &spaces[0], *other = &spaces[1];
	look(space);
	look(other);
	perform(true, TOUCH, space, 0);
	perform(true, TOUCH, other, 0);
	counted = dune_totals();

	edit(false, space, 7, true, true);
	EXPECT_LOADS(1, 0);
	CU_ASSERT_EQUAL(look(space), bytes[7]); /* the edit has loaded it */
	EXPECT_LOADS(0, 0);
	CU_ASSERT_EQUAL(look(other), bytes[1]);
	EXPECT_LOADS(0, 1);
	CU_ASSERT_EQUAL(perform(true, TOUCH, space, 0), bytes[7]);
	EXPECT_LOADS(1, 0);
	CU_ASSERT_EQUAL(perform(true, TOUCH, other, 0), bytes[1]);
	EXPECT_LOADS(0, 1);

	edit(true, space, 8, true, true);
	EXPECT_LOADS(1, 0);
	CU_ASSERT_EQUAL(look(space), bytes[8]);
	EXPECT_LOADS(1, 0);
	CU_ASSERT_EQUAL(look(other), bytes[1]);
	CU_ASSERT_EQUAL(look(space), bytes[8]);
	EXPECT_LOADS(0, 2);

	edit(true, space, 9, true, true); /* while it is the one that is loaded here */
	CU_ASSERT_EQUAL(look(space), bytes[9]);
	EXPECT_LOADS(2, 0);
}

static void an_answer_to_a_fault_flushes_elsewhere_only(void)
{
	prepare(TAG_COUNT);
	NEEDS_TAGS();
	struct space *space = &spaces[0];
	edit(false, space, 0, true, false);
	look(space);
	look(&spaces[1]);
	perform(true, TOUCH, space, 0);
	perform(true, TOUCH, &spaces[1], 0);
	counted = dune_totals();
	space->frame = 7;
	space->writable = true;
	CU_ASSERT_EQUAL(perform(false, ANSWER, space, 99), FAULT | WRITE_DENIED);
	EXPECT_LOADS(0, 1);
	CU_ASSERT_EQUAL(perform(false, TOUCH, space, 99), 99);
	EXPECT_LOADS(0, 0);
	CU_ASSERT_EQUAL(perform(true, TOUCH, space, 0), 99);
	EXPECT_LOADS(1, 0);
}

static void spaces_with_one_tag_flush_each_other(void)
{
	prepare(1);
	NEEDS_TAGS();
	counted = dune_totals();
	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned i = 0; i < SPACES; i++)
			CU_ASSERT_EQUAL(look(&spaces[i]), bytes[i]);
	EXPECT_LOADS(SPACES * ROUNDS, 0);
	/* Its own translations are kept over an edit of another one, which flushes the tag and loads that one. */
	edit(false, &spaces[0], 7, true, true);
	EXPECT_LOADS(1, 0);
	CU_ASSERT_EQUAL(look(&spaces[SPACES - 1]), bytes[SPACES - 1]);
	EXPECT_LOADS(1, 0);
}

static void a_virtual_cpu_made_anew_has_nothing_on_record(void)
{
	prepare(TAG_COUNT);
	NEEDS_TAGS();
	look(&spaces[0]);
	look(&spaces[1]);
	counted = dune_totals();
	CU_ASSERT_EQUAL(dune_vcpu_reset(dune_vcpu_get(machine)), 0);
	CU_ASSERT_EQUAL(look(&spaces[0]), bytes[0]);
	CU_ASSERT_EQUAL(look(&spaces[1]), bytes[1]);
	EXPECT_LOADS(2, 0);
}

/* ---- a control: what is seen if an edit does not count -------------------------------------------------------------------- */

static void a_space_edited_elsewhere_would_show_its_old_page(void)
{
	prepare(TAG_COUNT);
	NEEDS_TAGS();
	struct space *space = &spaces[0], *other = &spaces[1];
	CU_ASSERT_EQUAL(look(space), bytes[0]);
	perform(true, TOUCH, space, 0);
	look(other);
	uint64_t before = space->context.generation;
	edit(true, space, 7, true, true);
	space->context.generation = before; /* as if nothing had been */
	counted = dune_totals();
	unsigned seen = look(space);
	EXPECT_LOADS(0, 1); /* so the counts of the tests above tell */
	CU_ASSERT(seen == bytes[0] || seen == bytes[7]);
	if (seen == bytes[7])
		HARNESS_SKIP("this processor drops translations at every load of CR3: no control");
}

/* ---- everything at random -------------------------------------------------------------------------------------------------- */

static unsigned random_below(unsigned limit)
{
	static uint32_t state = 2463534242;
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % limit;
}

static unsigned expected(const struct space *space, uint8_t byte)
{
	if (!space->present)
		return FAULT | (byte ? WRITE_ABSENT : READ_ABSENT);
	if (byte && !space->writable)
		return FAULT | WRITE_DENIED;
	return byte ? byte : bytes[space->frame];
}

/* The frames that no space shows: for pages of their own. */
static unsigned unused_frame(void)
{
	for (;;) {
		unsigned frame = random_below(FRAMES), i = 0;
		while (i < SPACES && spaces[i].frame != frame)
			i++;
		if (i == SPACES)
			return frame;
	}
}

static unsigned one_operation(void)
{
	struct space *space = &spaces[random_below(SPACES)];
	bool elsewhere = random_below(4) == 0;
	uint8_t byte = random_below(2) ? (uint8_t)(1 + random_below(255)) : 0;
	unsigned should = expected(space, byte), frame;
	switch (random_below(8)) {
	case 0:
		edit(elsewhere, space, random_below(FRAMES), random_below(4) != 0, random_below(2));
		return 0;
	case 1:
		dune_context_start(&space->context, ++tenants, space->context.root);
		return 0;
	case 2:
		if (!space->present || space->writable)
			return 0;
		frame = unused_frame();
		*memory(frame) = bytes[frame] = bytes[space->frame];
		space->frame = frame;
		space->writable = true;
		return perform(elsewhere, ANSWER, space, 1) != (FAULT | WRITE_DENIED);
	default:
		if (perform(elsewhere, TOUCH, space, byte) != should)
			return 1;
		if (byte && should == byte)
			bytes[space->frame] = byte;
		return *memory(space->frame) != bytes[space->frame];
	}
}

static void stress(unsigned tags)
{
	enum {
		OPERATIONS = 400
	};
	prepare(tags);
	unsigned wrong = 0;
	const struct dune_totals before = dune_totals();
	for (unsigned i = 0; i < OPERATIONS; i++)
		wrong += one_operation();
	CU_ASSERT_EQUAL(wrong, 0);
	counted = dune_totals();
	harness_note("%u tags: %llu loads flush, %llu keep", machine->tags_used,
		     (unsigned long long)(counted.tag_flushes - before.tag_flushes),
		     (unsigned long long)(counted.tag_kept - before.tag_kept));
	CU_ASSERT(counted.tag_flushes > before.tag_flushes);
	CU_ASSERT((counted.tag_kept > before.tag_kept) ==
		  (machine->tags_used > 1)); /* with one, who is loaded is who was last */
}

static void many_tags_at_random(void)
{
	stress(TAG_COUNT);
}

static void four_tags_at_random(void)
{
	stress(4);
}

static void one_tag_at_random(void)
{
	prepare(1);
	NEEDS_TAGS();
	stress(1);
}

static const struct harness_test tests[] = {
	{ "each address space is flushed when it is first loaded, and kept from then on",
	  each_space_is_flushed_once_then_kept, HARNESS_FORK },
	{ "without tags each load flushes", without_tags_each_load_flushes, HARNESS_FORK },
	{ "an edit flushes its address space on each virtual CPU, and no other",
	  an_edit_flushes_its_space_on_each_virtual_cpu_and_no_other, HARNESS_FORK },
	{ "an answer to a fault flushes on other virtual CPUs only", an_answer_to_a_fault_flushes_elsewhere_only,
	  HARNESS_FORK },
	{ "address spaces with one tag flush each other", spaces_with_one_tag_flush_each_other, HARNESS_FORK },
	{ "a virtual CPU that was made anew has nothing on record", a_virtual_cpu_made_anew_has_nothing_on_record,
	  HARNESS_FORK },
	{ "an address space edited elsewhere would show its old page", a_space_edited_elsewhere_would_show_its_old_page,
	  HARNESS_FORK },
	{ "what a space shows is what it says, with many tags", many_tags_at_random, HARNESS_FORK },
	{ "what a space shows is what it says, with four tags", four_tags_at_random, HARNESS_FORK },
	{ "what a space shows is what it says, with one tag", one_tag_at_random, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
