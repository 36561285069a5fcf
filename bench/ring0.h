/*
 * ring0.h - counting what ring 0 of the machine of compartments does, where it is native.
 *
 * The program is linked with -Wl,--wrap=ioctl: KVM_RUN is done in single steps while something is counted.
 */
#ifndef BENCH_RING0_H
#define BENCH_RING0_H

#include <stdbool.h>

#include "measure.h"

/* A stepper for measure_set_stepper().  Returns false where ring 0 is interpreted, and before sthread_init().  One thread at a
 * time. */
bool ring0_count(void (*run)(void *argument), void *argument, struct ring0 *ring0);

#endif
