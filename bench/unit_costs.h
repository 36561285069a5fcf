/*
 * unit_costs.h - what the parts of operations cost, each measured alone.
 */
#ifndef BENCH_UNIT_COSTS_H
#define BENCH_UNIT_COSTS_H

#include "measure.h"

enum unit {
	UNIT_EXIT,
	UNIT_CALL_EXIT,
	UNIT_TRAP,
	UNIT_TENANTS, /* an exit with a change of tenant */
	UNIT_PAGE,
	UNIT_STORES, /* the body of a life that writes to 8 pages */
	UNIT_CLOCK,
	UNIT_TIMER,
	UNIT_READ,
	UNIT_IOCTL,
	UNIT_EPOLL,
	UNIT_RECV,
	UNIT_SEND,
	UNIT_INSTRUCTION,
	UNITS
};

/* Preconditions: bare_prepare().  Postconditions: operations[] measures rungs[0 .. UNITS), in a child. */
void unit_costs_prepare(const struct rung *rungs, struct operation operations[UNITS]);

#endif
