/* inside.c - the functions of sthread.h as a gate calls them: each asks the supervisor.  See nested.h. */
#define _GNU_SOURCE
#include <errno.h>

#include "nested.h"

int inside_sthread_create(sthread_t *st, const sc_t *sc, stcb_t cb, void *arg)
{
	if (supervisor_inside_gate() && !st)
		return supervisor_answer(-EINVAL);
	long answer =
		supervisor_service_yielding(SERVICE_STHREAD_CREATE, (uint64_t)sc, (uint64_t)cb, (uint64_t)arg, 0, 0);
	if (answer >= 0)
		*st = (sthread_t)answer;
	return supervisor_answer(answer);
}

int inside_sthread_join(sthread_t st, void **ret, struct sthread_info *info)
{
	struct nested_end end;
	long answer = supervisor_service_yielding(SERVICE_STHREAD_JOIN, (uint64_t)st, (uint64_t)&end, 0, 0, 0);
	if (info && (answer == 0 || answer == -ECANCELED))
		*info = end.info;
	if (ret && answer == 0)
		*ret = (void *)end.result;
	return supervisor_answer(answer);
}

int inside_sthread_step(sthread_t st)
{
	return supervisor_answer(supervisor_service_yielding(SERVICE_STHREAD_STEP, (uint64_t)st, 0, 0, 0, 0));
}

int inside_sthread_state(sthread_t st, enum sthread_state *state)
{
	long answer = supervisor_service_yielding(SERVICE_STHREAD_STATE, (uint64_t)st, 0, 0, 0, 0);
	if (answer >= 0 && !state)
		answer = -EINVAL;
	else if (answer >= 0)
		*state = (enum sthread_state)answer;
	return supervisor_answer(answer);
}

int inside_sthread_kill(sthread_t st)
{
	return supervisor_answer(supervisor_service_yielding(SERVICE_STHREAD_KILL, (uint64_t)st, 0, 0, 0, 0));
}

int inside_sthread_get_info(sthread_t st, struct sthread_info *info)
{
	struct sthread_info answered;
	long answer = supervisor_service_yielding(SERVICE_STHREAD_INFO, (uint64_t)st, (uint64_t)&answered, 0, 0, 0);
	if (answer >= 0 && !info)
		answer = -EINVAL;
	else if (answer >= 0)
		*info = answered;
	return supervisor_answer(answer);
}
