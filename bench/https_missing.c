/* https_missing.c - https.h where the demo is not built. */
#include "https.h"

void https_measure(struct measurement *measurement, const struct https_run *runs, size_t count,
		   const struct https_load *load)
{
	(void)measurement;
	(void)runs;
	(void)count;
	(void)load;
	measure_fail("built without the demo");
}
