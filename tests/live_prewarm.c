/* live_prewarm.c - address spaces made in advance: how many, how warm, and how pristine. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

enum {
	PAGE = 4096,
	PAGES = 40,
	COUNT = 8,
	MANY = 80 /* more than are made before one kind takes over those of another */
};

static uint8_t data[PAGES * PAGE] = { 1 };
static int told[PAGES];

/* Returns the argument if everything is as it was at sthread_init(), and writes to all of it. */
static void *check_write_park(void *argument)
{
	bool same = true;
	for (unsigned i = 0; i < PAGES; i++) {
		same = same && data[i * PAGE] == (i == 0) && data[i * PAGE + 7] == 0 && told[i] == 0;
		data[i * PAGE] = (uint8_t)(i + 3);
		data[i * PAGE + 7] = 1;
		told[i] = 1;
	}
	sthread_park();
	return same ? argument : NULL;
}

static void *only_park(void *argument)
{
	sthread_park();
	return argument;
}

struct outcome {
	uint64_t spaces, copied, edits;
};

/* So many lives at the same time. */
static struct outcome at_once(const sc_t *sc, sc_frozen_t frozen, stcb_t body, unsigned lives)
{
	struct sthread_statistics before, after;
	sthread_t st[MANY];
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	for (unsigned i = 0; i < lives; i++)
		if (sc)
			ASSERT_EQUAL(live_create(&st[i], sc, body, (void *)5), 0);
		else
			ASSERT_EQUAL(sthread_create_frozen(&st[i], frozen, body, (void *)5), 0);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	for (unsigned i = 0; i < lives; i++) {
		enum sthread_state state = STHREAD_RUNNABLE;
		while (sthread_state(st[i], &state) == 0 && state != STHREAD_ENDED)
			ASSERT_EQUAL(sthread_step(st[i]), 0);
		ASSERT_RETURNED(live_join(st[i]), 5);
	}
	return (struct outcome){ .spaces = after.address_spaces - before.address_spaces,
				 .copied = after.pages_copied - before.pages_copied,
				 .edits = after.monitor_edits - before.monitor_edits };
}

static uint64_t lives_so_far(void)
{
	struct sthread_statistics now = { 0 };
	ASSERT_EQUAL(sthread_statistics(&now), 0);
	return now.lives;
}

static void first_lives_make_nothing(void)
{
	live_init();
	sc_t sc;
	sc_init(&sc);
	at_once(&sc, -1, check_write_park, 1); /* what such lives write to is known now */
	uint64_t lives = lives_so_far();
	ASSERT_EQUAL(sthread_prewarm(&sc, check_write_park, COUNT), 0);
	ASSERT_EQUAL(lives_so_far(), lives);
	struct outcome outcome = at_once(&sc, -1, check_write_park, COUNT);
	ASSERT_EQUAL(outcome.spaces, 0);
	ASSERT_EQUAL(outcome.copied, 0);
	ASSERT_EQUAL(outcome.edits, 0);
	/* Control: more than that. */
	outcome = at_once(&sc, -1, check_write_park, COUNT + 2);
	ASSERT_EQUAL(outcome.spaces, 2);
	CU_ASSERT(outcome.copied >= 2 * PAGES);
	/* What is there counts. */
	struct sthread_statistics before, after;
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	ASSERT_EQUAL(sthread_prewarm(&sc, check_write_park, COUNT), 0);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	ASSERT_EQUAL(after.address_spaces, before.address_spaces);
}

static void without_a_life_before(void)
{
	live_init();
	sc_t sc;
	sc_init(&sc);
	ASSERT_EQUAL(sthread_prewarm(&sc, only_park, COUNT), 0);
	ASSERT_EQUAL(at_once(&sc, -1, only_park, COUNT).spaces, 0);
	/* Those with pages of their own copy these, and no others. */
	ASSERT_EQUAL(sthread_prewarm(&sc, check_write_park, COUNT), 0);
	struct outcome outcome = at_once(&sc, -1, check_write_park, COUNT);
	ASSERT_EQUAL(outcome.spaces, 0);
	CU_ASSERT(outcome.copied >= COUNT * PAGES);
}

static void *make(void *value)
{
	data[PAGE + 7] = 0;
	told[PAGES - 1] = 0;
	memset(data + 2 * PAGE + 100, (int)(intptr_t)value, 100);
	return NULL;
}

static void *check_template(void *argument)
{
	uint8_t found = data[2 * PAGE + 150];
	if (check_write_park(argument) != argument)
		return NULL;
	return found == 9 || found == 10 ? argument : NULL;
}

static void kinds_of_policies(void)
{
	live_init();
	sc_t none, sc;
	sc_init(&none);
	sc_template_t template = sc_template(&none, make, (void *)9);
	sc_init(&sc);
	ASSERT_EQUAL(sc_start_from(&sc, template), 0);
	at_once(&sc, -1, check_template, 1);
	ASSERT_EQUAL(sthread_prewarm(&sc, check_template, COUNT), 0);
	struct outcome outcome = at_once(&sc, -1, check_template, COUNT);
	ASSERT_EQUAL(outcome.spaces, 0);
	ASSERT_EQUAL(outcome.copied, 0);
	/* A template that is gone frees nothing that a prewarmed space shows. */
	ASSERT_EQUAL(sc_template_refresh(template), 0);
	ASSERT_EQUAL(at_once(&sc, -1, check_template, COUNT).spaces, 0);
	ASSERT_EQUAL(sc_template_destroy(template), 0);
	ASSERT_ERROR(sthread_prewarm(&sc, check_template, 1) == -1, EBADF);

	tag_t tag = tag_new();
	sc_init(&sc);
	ASSERT_EQUAL(sc_mem_add(&sc, tag, PROT_READ | PROT_WRITE), 0);
	sc_frozen_t frozen = sc_freeze(&sc, 1);
	ASSERT_EQUAL(sthread_prewarm_frozen(frozen, only_park, COUNT), 0);
	outcome = at_once(NULL, frozen, only_park, COUNT);
	ASSERT_EQUAL(outcome.spaces, 0);
	ASSERT_EQUAL(outcome.copied, 0);
	/* The tag goes from those that wait, too. */
	ASSERT_EQUAL(tag_delete(tag), 0);
	ASSERT_ERROR(sthread_prewarm_frozen(frozen, only_park, 1) == -1, EBADF);
	ASSERT_EQUAL(sc_frozen_destroy(frozen), 0);
	ASSERT_ERROR(sthread_prewarm_frozen(frozen, only_park, 1) == -1, EBADF);
}

static void one_kind_does_not_take_from_another(void)
{
	live_init();
	sc_t sc, other;
	sc_init(&sc);
	sc_init(&other);
	ASSERT_EQUAL(sc_sys_add(&other, 39), 0); /* another shape */
	ASSERT_EQUAL(sthread_prewarm(&sc, only_park, MANY), 0);
	ASSERT_EQUAL(sthread_prewarm(&other, only_park, COUNT), 0);
	ASSERT_EQUAL(at_once(&sc, -1, only_park, MANY).spaces, 0);
	ASSERT_EQUAL(at_once(&other, -1, only_park, COUNT).spaces, 0);
}

static void *try_inside(void *sc)
{
	errno = 0;
	return sthread_prewarm(sc, try_inside, 1) == -1 && errno == EPERM &&
			       sthread_prewarm_frozen(0, try_inside, 1) == -1 && errno == EPERM ?
		       (void *)1 :
		       NULL;
}

static void *gate_tries(void *sc, void *unused)
{
	(void)unused;
	return try_inside(sc);
}

static void bad_input(void)
{
	sc_t sc;
	sc_init(&sc);
	ASSERT_ERROR(sthread_prewarm(&sc, only_park, 1) == -1, EPERM);
	live_init();
	ASSERT_ERROR(sthread_prewarm(&sc, only_park, 0) == -1, EINVAL);
	ASSERT_ERROR(sthread_prewarm(&sc, only_park, STHREAD_PREWARM_MAX + 1) == -1, EINVAL);
	ASSERT_ERROR(sthread_prewarm(&sc, NULL, 1) == -1, EINVAL);
	ASSERT_ERROR(sthread_prewarm(&sc, (stcb_t)(uintptr_t)data, 1) == -1, EINVAL);
	ASSERT_ERROR(sthread_prewarm(NULL, only_park, 1) == -1, EINVAL);
	ASSERT_ERROR(sthread_prewarm_frozen(-1, only_park, 1) == -1, EBADF);
	ASSERT_RETURNED(live_run(&sc, try_inside, NULL), 1);
	void *result = NULL;
	cgate_t gate = cgate_create(gate_tries, &sc, NULL);
	ASSERT_EQUAL(cgate_call(gate, NULL, &result), 0);
	ASSERT_EQUAL((uintptr_t)result, 1);
	sc_t failed;
	sc_init(&failed);
	CU_ASSERT(sc_mem_add(&failed, -1, PROT_READ) == -1);
	ASSERT_ERROR(sthread_prewarm(&failed, only_park, 1) == -1, EBADF);
	ASSERT_EQUAL(sthread_prewarm(&sc, only_park, 1), 0); /* control */
}

static const struct harness_test tests[] = {
	{ "the first lives after prewarming make no address space and copy no page", first_lives_make_nothing,
	  HARNESS_FORK },
	{ "prewarming runs nothing of a body, and does without earlier lives", without_a_life_before, HARNESS_FORK },
	{ "prewarming works with templates, tags and frozen policies", kinds_of_policies, HARNESS_FORK },
	{ "what is prewarmed for one kind is not taken for another", one_kind_does_not_take_from_another, HARNESS_FORK,
	  .seconds = 60 },
	{ "bad input is refused, and so are sthreads and gates", bad_input, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
