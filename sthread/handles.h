/*
 * handles.h - small integers for objects: an index and a generation, so that a stale one is noticed.
 * Caller serialises (supervisor lock); of places that were taken, only who took them uses handle_begin() and _finish().
 */
#ifndef STHREAD_HANDLES_H
#define STHREAD_HANDLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct handle_slot {
	void *object; /* NULL: free */
	uint32_t generation;
	uint32_t next_free; /* index + 1; 0 ends the list */
	uint32_t holds;     /* how many remember a handle with this index: it is not given out again meanwhile */
	bool queued;        /* in the queue of free ones */
};

struct handles {
	struct handle_slot *slots;
	uint32_t count, room;
	uint32_t free_list, free_last, free_count; /* a queue: index + 1 of the first and the last */
	uint64_t ended; /* handles ended so far: while it does not change, what existed exists */
};

/* Returns a handle (>= 0) for object; -1 with ENFILE or ENOMEM. */
int handle_new(struct handles *handles, void *object);
/* For who gives out handles of his own: takes up to `most` places out of the table and tells which; returns how many.
 * handle_begin() gives one an object and returns its handle, handle_finish() ends that; handles_give() puts places without
 * an object back.  What is taken counts as in use. */
unsigned handles_take(struct handles *handles, uint32_t *places, unsigned most);
int handle_begin(struct handles *handles, uint32_t place, void *object);
void handle_finish(struct handles *handles, uint32_t place);
void handles_give(struct handles *handles, const uint32_t *places, unsigned count);
/* The place of a handle that is in use. */
uint32_t handle_place(int handle);
/* Returns the object, or NULL if the handle is stale or was never given. */
void *handle_get(const struct handles *handles, int handle);
/* Ends a handle.  Preconditions: handle_get() knows it. */
void handle_end(struct handles *handles, int handle);
/* Between these two no new object gets a handle with the index of this one, which may be stale already: whoever remembers a
 * handle for long would take that for the object it knew, once the generations begin anew.  handle_hold() returns false if
 * no handle ever had this index; then nothing is held. */
bool handle_hold(struct handles *handles, int handle);
void handle_drop(struct handles *handles, int handle);
/* Calls dispose() with every object and ends the handles of those it returns true for. */
void handles_end_all(struct handles *handles, bool (*dispose)(void *object));

#endif
