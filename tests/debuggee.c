/* debuggee.c - a program for tests/live_gdb.sh: one sthread parked three calls deep, one that runs to its end. */
#include <stdint.h>
#include <stdio.h>

#include <sthread.h>

#if __has_attribute(noclone)
#define NOT_INLINED __attribute__((noinline, noclone))
#else
#define NOT_INLINED __attribute__((noinline))
#endif

static NOT_INLINED int innermost_park(int value)
{
	return sthread_park() == 0 ? value + 1 : 0;
}

static NOT_INLINED int middle_park(int value)
{
	return innermost_park(value) + 1;
}

static NOT_INLINED void *body_parks(void *value)
{
	return (void *)(intptr_t)(middle_park((int)(intptr_t)value) + 1);
}

/* Longer than a slice: the thread is kicked. */
static NOT_INLINED void *body_computes(void *value)
{
	for (volatile long i = 0; i < 100 * 1000 * 1000; i = i + 1)
		;
	return value;
}

NOT_INLINED void ready(void); /* where the debugger stops */
NOT_INLINED void ready(void)
{
	fflush(stdout);
}

int main(void)
{
	sthread_t parked, computing;
	void *first = NULL, *second = NULL;
	sc_t sc;

	if (sthread_init() != 0) {
		fprintf(stderr, "%s\n", sthread_error());
		return 1;
	}
	sc_init(&sc);
	if (sthread_create(&parked, &sc, body_parks, (void *)(intptr_t)10) != 0 ||
	    sthread_create(&computing, &sc, body_computes, (void *)(intptr_t)20) != 0)
		return 2;
	ready();
	if (sthread_join(computing, &second) != 0 || sthread_step(parked) != 0 || sthread_join(parked, &first) != 0)
		return 3;
	printf("%d %d\n", (int)(intptr_t)first, (int)(intptr_t)second);
	return 0;
}
