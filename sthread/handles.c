/* handles.c - see handles.h */
#include "handles.h"

#include <errno.h>
#include <stdlib.h>

enum {
	INDEX_BITS = 18,
	INDEX_MASK = (1 << INDEX_BITS) - 1,
	GENERATION_MASK = (1 << (31 - INDEX_BITS)) - 1,
	REST = 4096, /* slots that stay free: so many handles are ended before one slot is used again */
};

/* Puts a slot at the end of the queue of free ones, if it is free and nobody holds its number.  Generations are few: the same
 * slot again and again would soon have been through all of them. */
static void set_free(struct handles *handles, struct handle_slot *slot)
{
	uint32_t place = (uint32_t)(slot - handles->slots) + 1;
	if (slot->object || slot->holds || slot->queued)
		return;
	slot->queued = true;
	slot->next_free = 0;
	if (handles->free_count++)
		handles->slots[handles->free_last - 1].next_free = place;
	else
		handles->free_list = place;
	handles->free_last = place;
}

/* Takes the slot that has been free longest.  One that is held by now leaves the queue until it is not.  Returns its place,
 * index + 1; 0: there is none, or those there are shall rest. */
static uint32_t take_free(struct handles *handles)
{
	while (handles->free_count > REST || (handles->free_count && handles->count > INDEX_MASK)) {
		uint32_t place = handles->free_list;
		struct handle_slot *slot = &handles->slots[place - 1];
		handles->free_list = slot->next_free;
		handles->free_count--;
		slot->queued = false;
		if (!slot->holds)
			return place;
	}
	return 0;
}

/* A place for an object.  Errors (-1): ENFILE, ENOMEM. */
static int new_place(struct handles *handles, uint32_t *index)
{
	uint32_t place = take_free(handles);
	if (place) {
		*index = place - 1;
		return 0;
	}
	if (handles->count > INDEX_MASK) {
		errno = ENFILE;
		return -1;
	}
	if (handles->count == handles->room) {
		uint32_t room = handles->room ? 2 * handles->room : 64;
		struct handle_slot *grown = realloc(handles->slots, room * sizeof *grown);
		if (!grown)
			return -1;
		handles->slots = grown;
		handles->room = room;
	}
	*index = handles->count++;
	handles->slots[*index] = (struct handle_slot){ .generation = 1 };
	return 0;
}

int handle_begin(struct handles *handles, uint32_t place, void *object)
{
	struct handle_slot *slot = &handles->slots[place];
	slot->object = object;
	return (int)(slot->generation << INDEX_BITS | place);
}

void handle_finish(struct handles *handles, uint32_t place)
{
	struct handle_slot *slot = &handles->slots[place];
	slot->object = NULL;
	slot->generation = (slot->generation + 1) & GENERATION_MASK;
	if (!slot->generation)
		slot->generation = 1;
}

unsigned handles_take(struct handles *handles, uint32_t *places, unsigned most)
{
	unsigned taken = 0;
	while (taken < most && new_place(handles, &places[taken]) == 0)
		taken++;
	return taken;
}

void handles_give(struct handles *handles, const uint32_t *places, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		set_free(handles, &handles->slots[places[i]]);
}

uint32_t handle_place(int handle)
{
	return (uint32_t)handle & INDEX_MASK;
}

int handle_new(struct handles *handles, void *object)
{
	uint32_t index;
	return new_place(handles, &index) == 0 ? handle_begin(handles, index, object) : -1;
}

static struct handle_slot *find(const struct handles *handles, int handle)
{
	uint32_t index = (uint32_t)handle & INDEX_MASK;
	if (handle < 0 || index >= handles->count)
		return NULL;
	struct handle_slot *slot = &handles->slots[index];
	return slot->object && slot->generation == (uint32_t)handle >> INDEX_BITS ? slot : NULL;
}

void *handle_get(const struct handles *handles, int handle)
{
	const struct handle_slot *slot = find(handles, handle);
	return slot ? slot->object : NULL;
}

void handle_end(struct handles *handles, int handle)
{
	struct handle_slot *slot = find(handles, handle);
	if (!slot)
		return;
	handle_finish(handles, handle_place(handle));
	handles->ended++;
	set_free(handles, slot);
}

bool handle_hold(struct handles *handles, int handle)
{
	uint32_t index = (uint32_t)handle & INDEX_MASK;
	if (handle < 0 || index >= handles->count)
		return false;
	handles->slots[index].holds++;
	return true;
}

void handle_drop(struct handles *handles, int handle)
{
	struct handle_slot *slot = &handles->slots[(uint32_t)handle & INDEX_MASK];
	slot->holds--;
	set_free(handles, slot);
}

void handles_end_all(struct handles *handles, bool (*dispose)(void *object))
{
	for (uint32_t index = 0; index < handles->count; index++)
		if (handles->slots[index].object && dispose(handles->slots[index].object))
			handle_end(handles, (int)(handles->slots[index].generation << INDEX_BITS | index));
}
