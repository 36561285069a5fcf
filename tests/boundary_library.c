/* boundary_library.c - a library with a tagged global, built twice for tests/live_boundary_library.c. */
#include "boundary_other.h"

BOUNDARY_VAR(static int library_counter = 60, COUNTERS);
BOUNDARY_VAR(static char library_text[6000], 2) = "library";

int *boundary_other_counter(void)
{
	return &library_counter;
}

char *boundary_other_text(void)
{
	return library_text;
}

tag_t boundary_other_tag(void)
{
	return BOUNDARY_TAG(1);
}
