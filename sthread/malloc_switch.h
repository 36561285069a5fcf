/*
 * malloc_switch.h - smalloc_on() and smalloc_off(), which libsthread-malloc makes work.
 */
#ifndef STHREAD_MALLOC_SWITCH_SUPERVISOR_H
#define STHREAD_MALLOC_SWITCH_SUPERVISOR_H

/* Tells libsthread-malloc where tags are.  Before the snapshot is taken, so that it is known inside too. */
void malloc_switch_open(void);

/* Whatever the supervisor allocates is never in a tag: between these two calls of a thread nothing is. */
void malloc_switch_pause(void);
void malloc_switch_resume(void);

/* In the child of a fork, whose tags are gone. */
void malloc_switch_off(void);

#endif
