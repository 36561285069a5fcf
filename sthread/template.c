/*
 * template.c - templates: memory that an init function made inside a compartment, frozen for later lives to start from.
 *
 * A template is a handle that leads to a pristine state.  Refreshing replaces the state; address spaces that show an old
 * one keep it until they are rebased (address_space_pages.c).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>

#include "local.h"

struct template
{
	sc_template_t handle;
	sc_t words; /* the policy of init; owns its descriptors */
	stcb_t init;
	void *argument;
	void *result;
	struct pristine *state;
	unsigned refreshing; /* threads that run init: it is not freed before they are done */
	bool destroyed;
};

struct pristine *template_state(const struct policy *policy)
{
	if (!policy->template)
		return pristine_snapshot();
	const struct template *template = handle_get(&supervisor.templates, policy->template - 1);
	if (!template)
		dune_fail(EBADF, "the policy starts from a template that is gone");
	return template ? template->state : NULL;
}

/* Runs init to its end.  Returns what it left, NULL with errno. */
static struct pristine *run_init(const struct template *template, void **result)
{
	struct pristine *state = NULL;
	sthread_t st;
	if (sthread_create_to_freeze(&st, &template->words, template->init, template->argument, &state) != 0)
		return NULL;
	if (sthread_join(st, result) == 0) {
		if (!state)
			dune_fail(ENOMEM, "out of memory for a template");
		return state;
	}
	int error = errno;
	if (error == EDEADLK) {
		if (sthread_kill(st) == 0)
			sthread_join(st, NULL);
		dune_fail(EDEADLK, "a template's init may not call sthread_park()");
	} else {
		dune_fail(error, "the template's init did not return");
	}
	return NULL;
}

static void release(struct template *template)
{
	sc_destroy(&template->words);
	free(template);
}

sc_template_t sc_template(const sc_t *sc, stcb_t init, void *arg)
{
	struct policy policy;
	if (supervisor_enter() != 0 || policy_read(sc, &policy) != 0)
		return -1;
	if (!init || policy.template)
		return dune_fail(EINVAL, init ? "a template's own policy cannot start from a template" :
						"sc_template() wants an init function");
	struct template *template = calloc(1, sizeof *template);
	if (!template || sc_copy(&template->words, sc) != 0) {
		free(template);
		return dune_fail(ENOMEM, "out of memory");
	}
	template->init = init;
	template->argument = arg;
	template->state = run_init(template, &template->result);
	int error = errno;
	if (template->state) {
		supervisor_lock();
		template->handle = handle_new(&supervisor.templates, template);
		error = errno;
		if (template->handle < 0)
			pristine_put(template->state);
		supervisor_unlock();
		if (template->handle >= 0)
			return template->handle;
		dune_fail(error, "too many templates");
	}
	release(template);
	errno = error;
	return -1;
}

/* Finds a template.  On success the lock is held. */
static struct template *enter(sc_template_t handle)
{
	if (supervisor_enter() != 0)
		return NULL;
	supervisor_lock();
	struct template *template = handle_get(&supervisor.templates, handle);
	if (template)
		return template;
	supervisor_unlock();
	dune_fail(EBADF, "no such template");
	return NULL;
}

static bool starts_from(const struct local_kind *kind, const void *state)
{
	return kind->space->pristine == state;
}

/* Nobody starts from this state any more. */
static void retire(struct pristine *state)
{
	locals_give_up(starts_from, state, 0);
	state->retired = true;
	pristine_put(state);
}

int sc_template_refresh(sc_template_t handle)
{
	struct template *template = enter(handle);
	void *result = NULL;
	if (!template)
		return -1;
	template->refreshing++;
	supervisor_unlock();
	struct pristine *state = run_init(template, &result);
	int error = errno;
	supervisor_lock();
	if (state && !template->destroyed) {
		retire(template->state);
		template->state = state;
		template->result = result;
	} else if (state) {
		retire(state);
		error = EBADF;
	}
	bool done = state && !template->destroyed, last = !--template->refreshing && template->destroyed;
	supervisor_unlock();
	if (last)
		release(template);
	if (!done)
		errno = error;
	return done ? 0 : -1;
}

int sc_template_result(sc_template_t handle, void **result)
{
	struct template *template = enter(handle);
	if (!template)
		return -1;
	if (result)
		*result = template->result;
	supervisor_unlock();
	return result ? 0 : dune_fail(EINVAL, "no place for the result");
}

int sc_template_destroy(sc_template_t handle)
{
	struct template *template = enter(handle);
	if (!template)
		return -1;
	handle_end(&supervisor.templates, handle);
	retire(template->state);
	template->destroyed = true;
	bool last = !template->refreshing;
	supervisor_unlock();
	if (last)
		release(template);
	return 0;
}

static bool forget(void *object)
{
	struct template *template = object;
	retire(template->state);
	release(template);
	return true;
}

void templates_forget(void)
{
	handles_end_all(&supervisor.templates, forget);
}
