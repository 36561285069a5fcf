/*
 * budget.h - what the parts of bench-budget share.
 *
 * budget.c        what is measured: unit costs, operations as they are and played (tape.h), requests
 * budget_table.c  what they add up to, and what they would where ring 0 is native
 * unit_costs.c    the unit costs
 * record.c        one more: code that runs after an exit
 * tape.c          operations without their exits
 */
#ifndef BENCH_BUDGET_H
#define BENCH_BUDGET_H

#include <stdio.h>

#include "tape.h"
#include "unit_costs.h"

enum operation_number {
	BUDGET_LIFE,
	BUDGET_LIFE_8,
	BUDGET_STEP,
	BUDGET_GATE,
	BUDGET_CALL,
	BUDGET_READ,
	BUDGET_OPERATIONS
};

/* Rungs: the units, then the operations, each of these played, the time in its run loop, and requests. */
enum {
	OPERATION = UNITS,
	PLAYED = OPERATION + BUDGET_OPERATIONS,
	IN_RUN_LOOP = PLAYED + BUDGET_OPERATIONS,
	REQUEST_KEPT_NONE = IN_RUN_LOOP + BUDGET_OPERATIONS,
	REQUEST_KEPT,
	REQUEST_NEW_NONE,
	REQUEST_NEW,
	RECORD, /* not isolated (record.h), */
	RECORD_AFTER_EXIT,
	BUDGET_RUNGS
};

/* What one operation consists of, counted when it was recorded. */
struct counted {
	double kinds[DUNE_EXIT_BROKEN + 1], tenants, host_calls[HOST_CALLS];
	double restored, copied; /* pages */
	bool known;
};

/* How an operation is called in the tables, and in those of bench. */
extern const char *const budget_names[BUDGET_OPERATIONS], *const budget_rows[BUDGET_OPERATIONS];

/* What of the projection is not measured. */
struct native {
	const char *path; /* of the counts: what bench --count --json wrote where ring 0 is native */
	double exit_ns;   /* an exit, KVM_RUN included */
	double visit_ns;  /* ring 0 entered and left, with two changes of CR3 */
};

/* Print; and write the same, with all medians, as JSON (0, or -1 with errno). */
void budget_print(const struct measurement *measurement, const struct counted counted[BUDGET_OPERATIONS]);
void budget_print_native(const struct measurement *measurement, const struct counted counted[BUDGET_OPERATIONS],
			 const struct native *native);
int budget_write_json(const struct measurement *measurement, const struct counted counted[BUDGET_OPERATIONS],
		      const struct native *native, const char *path);

#endif
