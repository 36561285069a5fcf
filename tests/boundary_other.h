/* boundary_other.h - what tests/boundary_other.c and tests/boundary_library.c offer. */
#ifndef BOUNDARY_OTHER_H
#define BOUNDARY_OTHER_H

#include <sthread.h>

#define COUNTERS 1

int *boundary_other_counter(void);
char *boundary_other_text(void);
tag_t boundary_other_tag(void);

#endif
