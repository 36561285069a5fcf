/* lives.c - see lives.h */
#define _GNU_SOURCE
#include "lives.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dirty.h"
#include "measure.h"
#include "two_processes.h"

enum {
	PAGE = 4096,
	MESSAGE = 256,
	BUDGET = 3600 * 1000 /* milliseconds */
};

void life_run(void *argument)
{
	const struct life *life = argument;
	sthread_t sthread;
	void *result;
	if (sthread_create(&sthread, &life->policy, life->body, life->argument) != 0)
		measure_fail("%s", sthread_error());
	if (sthread_join(sthread, &result) != 0 || result)
		measure_fail("an sthread did not end as it should");
}

/* Steps it until it has parked: its slice may be spent before. */
static void go_on_until_parked(sthread_t sthread)
{
	enum sthread_state state = STHREAD_ENDED;
	while (sthread_state(sthread, &state) == 0 && state == STHREAD_RUNNABLE)
		if (sthread_step(sthread) != 0)
			measure_fail("%s", sthread_error());
	if (state != STHREAD_PARKED)
		measure_fail("an sthread that should have parked has ended");
}

void step_run(void *sthread)
{
	if (sthread_step(*(sthread_t *)sthread) != 0)
		measure_fail("%s", sthread_error());
	go_on_until_parked(*(sthread_t *)sthread);
}

/* One that is measured for long, at its first park. */
static sthread_t start(sc_t *policy, stcb_t body, void *argument)
{
	sthread_t sthread;
	if (sc_cpu_budget(policy, BUDGET) != 0 || sthread_create(&sthread, policy, body, argument) != 0)
		measure_fail("%s", sthread_error());
	go_on_until_parked(sthread);
	return sthread;
}

/* ---- lives ----------------------------------------------------------------------------------------- */

static void *empty_body(void *argument)
{
	return argument;
}

static void *dirty_body(void *argument)
{
	(void)argument;
	return (void *)(uintptr_t)dirty_pages();
}

struct life life_empty(void)
{
	struct life life = { .body = empty_body };
	sc_init(&life.policy);
	return life;
}

struct life life_dirty(void)
{
	struct life life = { .body = dirty_body };
	sc_init(&life.policy);
	return life;
}

/* ---- gates ----------------------------------------------------------------------------------------- */

static void *gate_entry(void *argument, void *trusted)
{
	(void)trusted;
	return argument;
}

static void *gate_message_entry(void *argument, void *trusted)
{
	struct cgate_buffer *message = argument;
	(void)trusted;
	memcpy(message->out, message->in, message->inlen);
	message->outlen = message->inlen;
	return NULL;
}

static void *calling_body(void *argument)
{
	cgate_t gate = (cgate_t)(intptr_t)argument;
	uintptr_t bad = 0;
	for (int i = 0; i < CALLS_EACH; i++) {
		void *result;
		bad += cgate_call(gate, argument, &result) != 0 || result != argument;
	}
	return (void *)bad;
}

static void *message_body(void *argument)
{
	uint8_t in[MESSAGE] = { 1 }, out[MESSAGE];
	uintptr_t bad = 0;
	for (int i = 0; i < CALLS_EACH; i++) {
		size_t size = sizeof out;
		bad += cgate_call_buf((cgate_t)(intptr_t)argument, in, sizeof in, out, &size) != 0 || size != sizeof in;
	}
	return (void *)bad;
}

/* A gate that may do nothing, granted in *policy. */
static cgate_t new_gate(cgate_fn entry, sc_t *policy)
{
	sc_t nothing;
	sc_init(&nothing);
	sc_init(policy);
	cgate_t gate = cgate_create(entry, &nothing, NULL);
	if (gate < 0 || sc_cgate_add(policy, gate) != 0)
		measure_fail("%s", sthread_error());
	return gate;
}

struct life life_calling(void)
{
	struct life life = { .body = calling_body };
	life.argument = (void *)(intptr_t)new_gate(gate_entry, &life.policy);
	return life;
}

struct life life_sending(void)
{
	struct life life = { .body = message_body };
	life.argument = (void *)(intptr_t)new_gate(gate_message_entry, &life.policy);
	return life;
}

/* ---- parked ---------------------------------------------------------------------------------------- */

static void *idle_body(void *argument)
{
	while (sthread_park() == 0)
		;
	return argument;
}

sthread_t parked_idle(void)
{
	sc_t policy;
	sc_init(&policy);
	return start(&policy, idle_body, NULL);
}

static void *asking_body(void *argument)
{
	while (sthread_park() == 0)
		for (int i = 0; i < CALLS_EACH; i++)
			if (syscall(SYS_getuid) < 0)
				return (void *)1;
	return argument;
}

sthread_t parked_asking(void)
{
	sc_t policy;
	sc_init(&policy);
	return start(&policy, asking_body, NULL);
}

static void *reading_body(void *argument)
{
	static uint8_t buffer[PAGE];
	while (sthread_park() == 0)
		for (int i = 0; i < CALLS_EACH; i++)
			if (pread((int)(intptr_t)argument, buffer, sizeof buffer, 0) != sizeof buffer)
				return (void *)1;
	return NULL;
}

sthread_t parked_reading(void)
{
	static const uint8_t page[PAGE] = { 1 };
	sc_t policy;
	FILE *file = tmpfile();
	if (!file || fwrite(page, sizeof page, 1, file) != 1 || fflush(file) != 0)
		measure_fail("no temporary file");
	sc_init(&policy);
	if (sc_fd_add(&policy, fileno(file), PROT_READ) != 0)
		measure_fail("%s", sthread_error());
	sthread_t sthread = start(&policy, reading_body, (void *)(intptr_t)fileno(file));
	fclose(file);
	sc_destroy(&policy);
	return sthread;
}

/* Of the process, so that each side has copies of its own. */
static uint8_t *touched;
static unsigned touched_pages;

void lives_touch_prepare(unsigned most)
{
	touched = aligned_alloc(PAGE, (size_t)most * PAGE);
	if (!touched)
		measure_fail("no memory");
	memset(touched, 1, (size_t)most * PAGE);
	touched_pages = most;
}

static void *touching_entry(void *pages, void *trusted)
{
	(void)trusted;
	touch_pages(touched, (unsigned)(uintptr_t)pages);
	return pages;
}

static void *touching_body(void *argument)
{
	/* Both in the pointer: the body cannot see what the process has learnt since. */
	unsigned pages = (uintptr_t)argument >> 32;
	cgate_t gate = (cgate_t)((uintptr_t)argument & UINT32_MAX);
	void *result;
	while (sthread_park() == 0)
		for (int i = 0; i < CALLS_EACH; i++) {
			touch_pages(touched, pages);
			if (cgate_call(gate, (void *)(uintptr_t)pages, &result) != 0 ||
			    result != (void *)(uintptr_t)pages)
				return (void *)1;
		}
	return NULL;
}

sthread_t parked_touching(unsigned pages)
{
	sc_t policy;
	if (pages > touched_pages)
		measure_fail("too many pages");
	cgate_t gate = new_gate(touching_entry, &policy);
	return start(&policy, touching_body, (void *)((uintptr_t)pages << 32 | (uint32_t)gate));
}
