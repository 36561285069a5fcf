/*
 * regions.h - the shared memory of connections: made when first needed, wiped and reused.
 */
#ifndef HTTPD_REGIONS_H
#define HTTPD_REGIONS_H

#include "compartment.h"

struct regions {
	struct memory wire, plain, reply; /* each a tag of its own; see shared.h */
	struct regions *next;
};

/* All zeroes.  NULL with errno on failure. */
struct regions *regions_take(void) STHREAD_CHECKED;
/* Precondition: no compartment that could see them is left. */
void regions_give(struct regions *r);
/* Releases those that no connection has. */
void regions_end(void);

#endif
