/*
 * consumer.c - a program as a user of the installed libraries writes it; compiled as C and as C++.
 */
#include <callgate.h>
#include <dune.h>
#include <sthread.h>

BOUNDARY_VAR(static int tagged, 1);
BOUNDARY_VAR(static int pair[2], NAMED) = { 1, 2 };

int main(void)
{
	sc_t policy;

	sc_init(&policy);
	sc_destroy(&policy);
	return tag_new() == -1 && BOUNDARY_TAG(1) == -1 && BOUNDARY_TAG(NAMED) == -1 && !tagged && pair[1] == 2 &&
			       cgate_create(NULL, &policy, NULL) == -1 && sthread_error() ?
		       0 :
		       1;
}
