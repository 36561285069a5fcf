/*
 * regions.c - a free list of the memory that connections share with their compartments; one for each thread.
 */
#include "regions.h"

#include "shared.h"

#include <stdlib.h>
#include <string.h>

static _Thread_local struct regions *free_regions;

static void regions_delete(struct regions *r)
{
	struct memory *parts[] = { &r->wire, &r->plain, &r->reply };

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (parts[i]->at != NULL)
			memory_delete(parts[i]);
	free(r);
}

struct regions *regions_take(void)
{
	struct regions *r = free_regions;

	if (r != NULL) {
		free_regions = r->next;
		return r;
	}
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return NULL;
	if (memory_new(&r->wire, sizeof(struct wire_region)) != 0 ||
	    memory_new_between(&r->plain, sizeof(struct plain_region)) != 0 ||
	    memory_new_between(&r->reply, sizeof(struct reply_region)) != 0) {
		regions_delete(r);
		return NULL;
	}
	return r;
}

void regions_give(struct regions *r)
{
	memset(r->wire.at, 0, r->wire.size);
	memset(r->plain.at, 0, r->plain.size);
	memset(r->reply.at, 0, r->reply.size);
	r->next = free_regions;
	free_regions = r;
}

void regions_end(void)
{
	while (free_regions != NULL) {
		struct regions *r = free_regions;

		free_regions = r->next;
		regions_delete(r);
	}
}
