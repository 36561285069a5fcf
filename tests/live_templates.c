/* live_templates.c - lives that start from what an init function made once. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "live.h"
#include "supervisor.h"

enum {
	PAGE = 4096,
	BLOCK = 3 << 20, /* larger than malloc's threshold: from mmap() */
	LIVES = 300,
};

/* What init makes: in a global, on the heap, in memory from mmap(), and in thread-local storage. */
static struct {
	uint64_t number;
	char *heap;
	uint8_t *block;
} made;
static _Thread_local uint64_t own_number;

static void *make(void *number)
{
	made.number = (uint64_t)number;
	own_number = 3 * made.number;
	made.heap = strdup("made once");
	made.block = malloc(BLOCK);
	if (!made.heap || !made.block)
		return NULL;
	memset(made.block, (int)made.number, BLOCK / 2);
	return made.heap;
}

/* Looks at what init made, then destroys it all.  Returns 1 if it was as init left it. */
static void *look_and_destroy(void *number)
{
	uint64_t good = made.number == (uint64_t)number && own_number == 3 * made.number &&
			!strcmp(made.heap, "made once") && made.block[0] == (uint8_t)made.number &&
			made.block[BLOCK / 2 - 1] == (uint8_t)made.number && made.block[BLOCK / 2] == 0;

	memset(made.block, 0xee, BLOCK);
	memset(made.heap, 0xee, 9);
	free(made.heap);
	free(made.block);
	made.number = own_number = 0xee;
	char *more = calloc(1, BLOCK); /* where the block was, and zeros */
	for (unsigned i = 0; good && i < BLOCK; i++)
		good = more && !more[i];
	return (void *)good;
}

static void *look(void *number)
{
	return (void *)(uint64_t)(made.number == (uint64_t)number && own_number == 3 * made.number);
}

static void policy_from(sc_t *sc, sc_template_t template)
{
	sc_init(sc);
	ASSERT_EQUAL(sc_start_from(sc, template), 0);
}

static void lives_find_what_init_made(void)
{
	live_init();
	sc_t none, sc;
	void *result = NULL;

	sc_init(&none);
	sc_template_t template = sc_template(&none, make, (void *)7);
	live_check(template >= 0, __FILE__, __LINE__, "%s", sthread_error());
	policy_from(&sc, template);
	for (unsigned i = 0; i < 20; i++)
		ASSERT_RETURNED(live_run(&sc, look_and_destroy, (void *)7), 1);
	ASSERT_EQUAL(sc_template_result(template, &result), 0);
	CU_ASSERT_PTR_NOT_NULL(result);
	/* Controls: neither the process nor lives of other policies have it. */
	ASSERT_EQUAL(made.number, 0);
	ASSERT_RETURNED(live_run(&none, look, (void *)7), 0);
	ASSERT_RETURNED(live_run(&none, look, (void *)0), 1);
	ASSERT_EQUAL(sc_template_destroy(template), 0);
}

static void *count(void *unused)
{
	(void)unused;
	return (void *)++made.number;
}

static void lives_of_templates_are_recycled(void)
{
	live_init();
	sc_t none, sc;
	struct sthread_statistics before, after;
	unsigned more = 0;

	sc_init(&none);
	sc_template_t template = sc_template(&none, make, (void *)7);
	policy_from(&sc, template);
	for (unsigned i = 0; i < 3; i++)
		ASSERT_RETURNED(live_run(&sc, count, NULL), 8);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	for (unsigned i = 0; i < LIVES; i++) {
		struct life life = live_run(&sc, count, NULL);
		ASSERT_RETURNED(life, 8);
		more += life.info.exits > 1; /* a life may be stopped by its slice */
		ASSERT_EQUAL(life.info.pages_copied, 0);
	}
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	CU_ASSERT(more < LIVES / 4);
	ASSERT_EQUAL(after.address_spaces, before.address_spaces);
	ASSERT_EQUAL(after.frames_used, before.frames_used);
	ASSERT_EQUAL(after.monitor_edits, before.monitor_edits);
}

static void *look_park_look(void *number)
{
	if (look(number) != (void *)1)
		return NULL;
	sthread_park();
	return look_and_destroy(number);
}

static uint64_t *next_number;
static void *make_next(void *at)
{
	return make((void *)*(volatile uint64_t *)at);
}

static void refreshing_changes_later_lives_only(void)
{
	live_init();
	sc_t granting, sc;
	sthread_t st;
	tag_t tag = tag_new();
	struct sthread_statistics before, after;

	next_number = smalloc(tag, sizeof(*next_number));
	*next_number = 1;
	sc_init(&granting);
	ASSERT_EQUAL(sc_mem_add(&granting, tag, PROT_READ), 0);
	sc_template_t template = sc_template(&granting, make_next, next_number);
	policy_from(&sc, template);
	ASSERT_RETURNED(live_run(&sc, look, (void *)1), 1);
	for (uint64_t number = 2; number < 40; number++) {
		ASSERT_EQUAL(live_create(&st, &sc, look_park_look, (void *)(number - 1)), 0);
		*next_number = number;
		ASSERT_EQUAL(sc_template_refresh(template), 0);
		ASSERT_RETURNED(live_run(&sc, look_and_destroy, (void *)number), 1);
		ASSERT_EQUAL(live_step(st), 0);
		ASSERT_RETURNED(live_join(st), 1);
		if (number == 10)
			ASSERT_EQUAL(sthread_statistics(&before), 0);
	}
	/* Old states are given back, and their address spaces used again. */
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.address_spaces, before.address_spaces);
	live_check(after.frames_used <= before.frames_used + 64, __FILE__, __LINE__, "frames grew from %llu to %llu",
		   (unsigned long long)before.frames_used, (unsigned long long)after.frames_used);
}

static void *crash(void *unused)
{
	(void)unused;
	return body_write((void *)8);
}

static void *park(void *unused)
{
	(void)unused;
	sthread_park();
	return NULL;
}

static void *crash_if_second(void *at)
{
	return ++*(volatile uint64_t *)at > 1 ? crash(NULL) : make((void *)5);
}

static void a_failed_refresh_leaves_the_template(void)
{
	live_init();
	tag_t tag = tag_new();
	uint64_t *runs = smalloc(tag, sizeof(*runs));
	sc_t granting, sc;

	sc_init(&granting);
	ASSERT_EQUAL(sc_mem_add(&granting, tag, PROT_READ | PROT_WRITE), 0);
	sc_template_t template = sc_template(&granting, crash_if_second, runs);
	policy_from(&sc, template);
	ASSERT_ERROR(sc_template_refresh(template) == -1, ECANCELED);
	ASSERT_EQUAL(*runs, 2);
	ASSERT_RETURNED(live_run(&sc, look_and_destroy, (void *)5), 1);
}

static void init_has_the_rights_of_its_policy(void)
{
	live_init();
	tag_t tag = tag_new();
	uint64_t *at = smalloc(tag, sizeof(*at));
	sc_t none;

	sc_init(&none);
	ASSERT_ERROR(sc_template(&none, body_read, at) == -1, ECANCELED);
	ASSERT_ERROR(sc_template(&none, crash, NULL) == -1, ECANCELED);
	ASSERT_ERROR(sc_template(&none, park, NULL) == -1, EDEADLK);
}

/* The template's tags are not those of its lives, and what init wrote there is no part of it. */
static void a_template_gives_no_right(void)
{
	live_init();
	tag_t tag = tag_new();
	uint8_t *at = smalloc(tag, PAGE);
	sc_t granting, sc;

	sc_init(&granting);
	ASSERT_EQUAL(sc_mem_add(&granting, tag, PROT_READ | SC_COPY_ON_WRITE), 0);
	sc_template_t template = sc_template(&granting, body_write, at + 3);
	policy_from(&sc, template);
	ASSERT_PAGE_FAULT(live_run(&sc, body_read, at + 3), READ_ABSENT, at + 3);
	ASSERT_EQUAL(sc_mem_add(&sc, tag, PROT_READ), 0);
	ASSERT_RETURNED(live_run(&sc, body_read, at + 3), 0);
}

/* What a life draws. */
struct draw {
	uint8_t public[16], private[16], kernel[16];
	uint64_t canary, process, of_init;
	int error;
};
static uint64_t drawn_by_init;

static void *draw_first(void *unused)
{
	(void)unused;
	return (void *)(uint64_t)RAND_bytes((uint8_t *)&drawn_by_init, sizeof(drawn_by_init));
}

static void *draw(void *at)
{
	struct draw *to = at;

	to->error = RAND_bytes(to->public, 16) != 1 || RAND_priv_bytes(to->private, 16) != 1 ||
		    syscall(SYS_getrandom, to->kernel, 16, 0) != 16;
	to->of_init = drawn_by_init;
	to->process = (uint64_t)getpid();
	__asm__ volatile("movq %%fs:0x28, %0" : "=r"(to->canary));
	return (void *)1;
}

static void *draw_in_gate(void *at, void *unused)
{
	(void)unused;
	return draw(at);
}

static int by_bytes(const void *a, const void *b)
{
	return memcmp(a, b, 16);
}

static bool all_differ(const struct draw *draws, size_t count, size_t offset, size_t size)
{
	uint8_t(*sorted)[16] = calloc(count, 16);
	bool differ = true;

	for (size_t i = 0; i < count; i++)
		memcpy(sorted[i], (const uint8_t *)&draws[i] + offset, size);
	qsort(sorted, count, 16, by_bytes);
	for (size_t i = 1; i < count; i++)
		differ = differ && memcmp(sorted[i - 1], sorted[i], 16) != 0;
	free(sorted);
	return differ;
}

static void randomness_is_not_a_part_of_a_template(void)
{
	live_init();
	tag_t tag = tag_new();
	struct draw *draws = smalloc(tag, (LIVES + 20) * sizeof(*draws));
	sc_t none, sc;
	size_t count = 0;

	sc_init(&none);
	sc_template_t template = sc_template(&none, draw_first, NULL);
	live_check(template >= 0, __FILE__, __LINE__, "%s", sthread_error());
	policy_from(&sc, template);
	ASSERT_EQUAL(sc_mem_add(&sc, tag, PROT_READ | PROT_WRITE), 0);
	while (count < LIVES)
		ASSERT_RETURNED(live_run(&sc, draw, &draws[count++]), 1);
	cgate_t gate = cgate_create_fresh(draw_in_gate, &sc, NULL);
	while (count < LIVES + 20)
		ASSERT_EQUAL(cgate_call(gate, &draws[count++], NULL), 0);
	for (size_t i = 0; i < count; i++) {
		ASSERT_EQUAL(draws[i].error, 0);
		ASSERT_EQUAL(draws[i].of_init, draws[0].of_init); /* the control: what init drew is the same in all */
	}
	CU_ASSERT(draws[0].of_init != 0);
	CU_ASSERT(all_differ(draws, count, offsetof(struct draw, public), 16));
	CU_ASSERT(all_differ(draws, count, offsetof(struct draw, private), 16));
	CU_ASSERT(all_differ(draws, count, offsetof(struct draw, kernel), 16));
	CU_ASSERT(all_differ(draws, count, offsetof(struct draw, canary), 8));
	CU_ASSERT(all_differ(draws, count, offsetof(struct draw, process), 8));
}

static void *template_inside(void *unused)
{
	sc_t sc;

	(void)unused;
	memset(&sc, 0, sizeof(sc));
	bool refused = sc_template(&sc, count, NULL) == -1 && errno == EPERM;
	refused = refused && sc_template_refresh(0) == -1 && errno == EPERM;
	refused = refused && sc_template_destroy(0) == -1 && errno == EPERM;
	return (void *)(uint64_t)(refused && sc_template_result(0, NULL) == -1 && errno == EPERM);
}

static void bad_input_is_refused(void)
{
	sc_t sc, none, again;

	sc_init(&none);
	ASSERT_ERROR(sc_template(&none, count, NULL) == -1, EPERM);
	ASSERT_ERROR(sc_template_refresh(0) == -1, EPERM);
	ASSERT_ERROR(sc_template_destroy(0) == -1, EPERM);
	live_init();
	sc_template_t template = sc_template(&none, count, NULL), gone = sc_template(&none, count, NULL);
	policy_from(&sc, gone);
	policy_from(&again, template);
	ASSERT_ERROR(sc_template(NULL, count, NULL) == -1, EINVAL);
	ASSERT_ERROR(sc_template(&none, NULL, NULL) == -1, EINVAL);
	ASSERT_ERROR(sc_template(&again, count, NULL) == -1, EINVAL);
	ASSERT_ERROR(sc_template(&none, (stcb_t)(uintptr_t)8, NULL) == -1, EINVAL);
	ASSERT_ERROR(sc_template_result(template, NULL) == -1, EINVAL);
	ASSERT_EQUAL(sc_template_destroy(gone), 0);
	ASSERT_ERROR(sc_template_destroy(gone) == -1, EBADF);
	ASSERT_ERROR(sc_template_refresh(gone) == -1, EBADF);
	ASSERT_ERROR(sc_template_refresh(-1) == -1, EBADF);
	ASSERT_ERROR(sc_start_from(&sc, 12345) == -1, EBADF);
	sthread_t st;
	ASSERT_ERROR(sthread_create(&st, &sc, count, NULL) == -1, EBADF);
	policy_from(&sc, template);
	gone = sc_template(&none, count, NULL);
	ASSERT_ERROR(sc_start_from(&sc, gone) == -1, EINVAL);
	ASSERT_RETURNED(live_run_bare(template_inside, NULL), 1);
}

static void many_templates_share_address_spaces(void)
{
	live_init();
	sc_t none;
	struct sthread_statistics statistics;

	sc_init(&none);
	for (uint64_t i = 1; i < 200; i++) {
		sc_t sc;
		sc_template_t template = sc_template(&none, make, (void *)i);
		policy_from(&sc, template);
		ASSERT_RETURNED(live_run(&sc, look_and_destroy, (void *)i), 1);
		ASSERT_RETURNED(live_run(&none, look, (void *)0), 1);
		ASSERT_EQUAL(sc_template_destroy(template), 0);
	}
	ASSERT_EQUAL(sthread_statistics(&statistics), 0);
	live_check(statistics.address_spaces < 10, __FILE__, __LINE__, "%llu address spaces",
		   (unsigned long long)statistics.address_spaces);
}

static const struct harness_test tests[] = {
	{ "lives find what init made, each a copy of its own", lives_find_what_init_made, HARNESS_FORK },
	{ "lives of a template are recycled with one exit and no copy", lives_of_templates_are_recycled, HARNESS_FORK },
	{ "refreshing a template changes later lives, not running ones", refreshing_changes_later_lives_only,
	  HARNESS_FORK },
	{ "a refresh that fails leaves the template as it was", a_failed_refresh_leaves_the_template, HARNESS_FORK },
	{ "init has the rights of its policy and no others", init_has_the_rights_of_its_policy, HARNESS_FORK },
	{ "a template gives no right to the tags that init had", a_template_gives_no_right, HARNESS_FORK },
	{ "randomness is not a part of a template", randomness_is_not_a_part_of_a_template, HARNESS_FORK },
	{ "bad input is refused", bad_input_is_refused, HARNESS_FORK },
	{ "address spaces of deleted templates are used again", many_templates_share_address_spaces, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
