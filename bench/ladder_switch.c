/* ladder_switch.c - gate calls whose sides write to pages, beside two processes that do so and wake each other.  See
 * ladder.h. */
#define _GNU_SOURCE
#include "ladder.h"
#include "lives.h"
#include "ring0.h"
#include "two_processes.h"

void group_futex_touches(struct measurement *measurement, void *argument)
{
	struct two_processes two[SWITCH_SIZES];
	struct operation operations[SWITCH_SIZES];
	(void)argument;
	stay_on_this_processor();
	for (unsigned i = 0; i < SWITCH_SIZES; i++) {
		two_processes_start(&two[i], switch_sizes[i]);
		operations[i] = (struct operation){ &rungs[FUTEX_TOUCHES + i], two_processes_run, &two[i],
						    .inner = ROUND_TRIPS,      .samples = 20,     .warm = 2 };
	}
	measure_operations(measurement, operations, SWITCH_SIZES, ladder_blocks());
}

void group_gate_touches(struct measurement *measurement, void *argument)
{
	sthread_t callers[SWITCH_SIZES];
	struct operation operations[SWITCH_SIZES];
	(void)argument;
	lives_touch_prepare(switch_sizes[SWITCH_SIZES - 1]);
	if (sthread_init() != 0)
		measure_fail("%s", sthread_error());
	measure_set_stepper(ring0_count);
	for (unsigned i = 0; i < SWITCH_SIZES; i++) {
		callers[i] = parked_touching(switch_sizes[i]);
		operations[i] = (struct operation){ &rungs[GATE_TOUCHES + i], step_run,     &callers[i],
						    .inner = CALLS_EACH,      .samples = 5, .warm = 1 };
	}
	measure_operations(measurement, operations, SWITCH_SIZES, ladder_blocks());
}
