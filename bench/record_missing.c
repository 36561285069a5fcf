/* record_missing.c - record.h where the demo is not built. */
#include "record.h"

void record_measure(struct measurement *measurement, const struct rung *again, const struct rung *after_exit,
		    unsigned blocks)
{
	(void)measurement;
	(void)again;
	(void)after_exit;
	(void)blocks;
	measure_fail("built without the demo");
}
