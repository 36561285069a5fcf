/* malloc_unlinked.c - a program that is not linked with libsthread-malloc; tests/live_malloc.c starts it with and without
 * preloading that.  Exits with 0 if malloc() allocates in a tag, else with the errno of smalloc_on(). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sthread.h>

int main(void)
{
	struct tag_statistics statistics;
	volatile size_t size = 100;

	if (sthread_init() != 0)
		return 101;

	tag_t tag = tag_new();

	if (smalloc_on(tag) != 0)
		return smalloc_off() == -1 && errno == ENOSYS && strstr(sthread_error(), "not loaded") ? ENOSYS : 102;

	void *volatile block = malloc(size);

	if (smalloc_off() != 0 || tag_statistics(tag, &statistics) != 0 || statistics.allocations != 1)
		return 103;
	free(block);
	return tag_statistics(tag, &statistics) == 0 && statistics.allocations == 0 ? 0 : 104;
}
