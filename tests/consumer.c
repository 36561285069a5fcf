/*
 * consumer.c - a program as a user of the installed libraries writes it; compiled as C and as C++.
 */
#include <callgate.h>
#include <dune.h>
#include <sthread.h>

int main(void)
{
	sc_t policy;

	sc_init(&policy);
	sc_destroy(&policy);
	return tag_new() == -1 && cgate_create(NULL, &policy, NULL) == -1 && sthread_error() ? 0 : 1;
}
