/* boundary_other.c - a second source file of tests/live_boundary.c, with globals of the same ids. */
#include <sthread.h>

#include "boundary_other.h"

BOUNDARY_VAR(int other_counter = 40, COUNTERS);
BOUNDARY_VAR(static char other_text[5000], 2) = "other";

int *boundary_other_counter(void)
{
	return &other_counter;
}

char *boundary_other_text(void)
{
	return other_text;
}

tag_t boundary_other_tag(void)
{
	return BOUNDARY_TAG(2);
}
