/*
 * sthread_event.h - sthreads on a libevent loop.
 *
 * An adaptor starts an sthread and drives it from the loop of an event_base: it goes on when its descriptor is ready,
 * when its sleep is over, and, if it computes, slice by slice, in turns with all others of the same loop and with the
 * loop's own events.  It ends when its budgets say so.  A callback tells how it ended.
 *
 * Everything here is called on the thread that runs the loop, in host mode, after sthread_init().  An sthread that an
 * adaptor drives must not be stepped or joined by anybody else.
 */
#ifndef STHREAD_EVENT_H
#define STHREAD_EVENT_H

#include <sthread.h>

#ifdef __cplusplus
extern "C" {
#endif

struct event_base;
struct sthread_event; /* an sthread on a loop */

/* Called once, from the loop, when the sthread has ended and has been joined.  result: what its body returned, if
 * info->end is STHREAD_RETURNED; else NULL.  info belongs to the library and is valid during the call.  The callback may
 * free the adaptor, and others. */
typedef void (*sthread_event_cb)(struct sthread_event *event, void *result, const struct sthread_info *info,
				 void *argument);

/*
 * Starts body(body_argument) in an sthread with the policy *sc, and drives it on the loop of base.  It runs for its first
 * slice at once; done(..., argument) is not called before the loop runs, even if the sthread has ended already.
 * The adaptor must be freed with sthread_event_free(), before base is.
 * Errors (NULL): EINVAL base, body or done is NULL; ENOMEM; else those of sthread_create(), and nothing is held.
 */
struct sthread_event *sthread_event_new(struct event_base *base, const sc_t *sc, stcb_t body, void *body_argument,
					sthread_event_cb done, void *argument) STHREAD_CHECKED;

/* Lets it pass one sthread_park(): the one that it is parked by, or the next.  One resume is remembered, not several.
 * Errors: EINVAL event is NULL; EALREADY it has ended. */
int sthread_event_resume(struct sthread_event *event);

/* Ends it, whatever it does; the callback will be called from the loop, with STHREAD_KILLED.  Errors: EINVAL event is
 * NULL; EALREADY it has ended. */
int sthread_event_cancel(struct sthread_event *event);

/* Its handle, for sthread_get_info() and the like.  Errors (-1): EINVAL event is NULL; EALREADY it has ended. */
sthread_t sthread_event_sthread(const struct sthread_event *event) STHREAD_CHECKED;

/* Frees the adaptor.  An sthread that has not ended is ended first, and the callback is not called.  NULL is ignored. */
void sthread_event_free(struct sthread_event *event);

#ifdef __cplusplus
}
#endif
#endif
