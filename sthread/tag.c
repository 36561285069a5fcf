/* tag.c - see tag.h and sthread.h */
#define _GNU_SOURCE
#include "tag.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "local.h"
#include "malloc_switch.h"
#include "tag_heap.h"
#include "unisolated.h"

enum {
	EXTENT_MIN = 64 << 10, /* bytes */
	GROW_PART = 8,         /* a tag grows by at least this part of its size, so that there are few extents */
	ALIGNMENT_MIN = 16
};

struct tag *tag_get(tag_t handle)
{
	struct tag *tag = handle_get(&supervisor.tags, handle);
	return tag && !tag->dying ? tag : NULL;
}

const struct tag *tag_mapped(tag_t handle)
{
	return handle_get(&supervisor.tags, handle);
}

bool supervisor_tag_exists(tag_t tag)
{
	return tag_get(tag) != NULL;
}

/* ---- growing --------------------------------------------------------------------------------------- */

/* Enters an extent in the tag's list; one that goes on where the last one ends becomes one with it. */
static int add_extent(struct tag *tag, const struct tag_extent *extent)
{
	struct tag_extent *last = tag->extent_count ? &tag->extents[tag->extent_count - 1] : NULL;
	if (last && last->address + last->size == extent->address && last->physical + last->size == extent->physical) {
		last->size += extent->size;
	} else {
		struct tag_extent *grown = realloc(tag->extents, (tag->extent_count + 1) * sizeof *grown);
		if (!grown)
			return -1;
		tag->extents = grown;
		tag->extents[tag->extent_count++] = *extent;
	}
	tag->size += extent->size;
	return 0;
}

/* How many bytes to grow by so that a block of this size is there; 0 if it may not grow so much. */
static uint64_t growth(const struct tag *tag, uint64_t size, uint64_t may_grow)
{
	uint64_t left = tag->size < tag->quota ? tag->quota - tag->size : 0;
	uint64_t most = (left < may_grow ? left : may_grow) & ~DUNE_PAGE_MASK;
	uint64_t wanted = tag->size / GROW_PART > size ? tag->size / GROW_PART : size;
	wanted = (wanted + EXTENT_MIN - 1) & ~(uint64_t)(EXTENT_MIN - 1);
	if (wanted <= most)
		return wanted;
	return size <= most ? most : 0;
}

static int tag_grow(struct tag *tag, uint64_t size, uint64_t may_grow)
{
	struct tag_extent extent;
	uint64_t wanted = growth(tag, size, may_grow);
	if (!wanted || tag_memory_take(tag->handle, wanted, &extent) != 0)
		return -1;
	/* The list first: what the heap has been given cannot be taken back. */
	if (add_extent(tag, &extent) != 0) {
		tag_memory_give_back(&extent);
		return -1;
	}
	return tag_heap_add_extent(tag->heap, (void *)extent.address, extent.size);
}

/* ---- allocating ------------------------------------------------------------------------------------ */

int tag_allocate(tag_t handle, size_t alignment, size_t size, uint64_t may_grow, void **pointer)
{
	struct tag *tag = tag_get(handle);
	if (!tag)
		return EBADF;
	if (!size || !alignment || alignment & (alignment - 1) || alignment > SMEMALIGN_MAX)
		return EINVAL;
	if (size > supervisor.machine->tags.size)
		return ENOMEM;
	*pointer = tag_heap_allocate_aligned(tag->heap, alignment, size);
	if (!*pointer && tag_grow(tag, size + (alignment > ALIGNMENT_MIN ? alignment : 0), may_grow) == 0)
		*pointer = tag_heap_allocate_aligned(tag->heap, alignment, size);
	if (!*pointer)
		return ENOMEM;
	memset(*pointer, 0, size);
	return 0;
}

int tag_reallocate(tag_t handle, void **pointer, size_t size, uint64_t may_grow)
{
	struct tag *tag = tag_get(handle);
	size_t before = tag ? tag_heap_asked(tag->heap, *pointer) : 0;
	void *moved;
	if (!before || !size)
		return EINVAL;
	if (tag_heap_resize(tag->heap, *pointer, size) == 0) {
		if (size > before)
			memset((uint8_t *)*pointer + before, 0, size - before);
		return 0;
	}
	int error = tag_allocate(handle, ALIGNMENT_MIN, size, may_grow, &moved);
	if (error)
		return error;
	memcpy(moved, *pointer, size < before ? size : before);
	tag_heap_release(tag->heap, *pointer);
	*pointer = moved;
	return 0;
}

int tag_release(tag_t handle, void *pointer)
{
	struct tag *tag = tag_get(handle);
	return tag && tag_heap_release(tag->heap, pointer) == 0 ? 0 : EINVAL;
}

size_t tag_size_of(tag_t handle, const void *pointer)
{
	const struct tag *tag = tag_get(handle);
	return tag ? tag_heap_asked(tag->heap, pointer) : 0;
}

/* ---- the public interface -------------------------------------------------------------------------- */

static void tag_free(struct tag *tag)
{
	tag_heap_delete(tag->heap);
	free(tag->extents);
	free(tag);
}

/* Enters a tag, which is freed on failure. */
static tag_t enter_tag(struct tag *tag)
{
	tag_t handle = tag->handle = handle_new(&supervisor.tags, tag);
	if (handle < 0) {
		dune_fail(errno, errno == ENFILE ? "too many tags" : "out of memory");
		tag_free(tag);
	}
	return handle;
}

static struct tag *make_tag(void)
{
	struct tag *tag = calloc(1, sizeof *tag);
	if (!tag || !(tag->heap = tag_heap_new())) {
		free(tag);
		dune_fail(ENOMEM, "out of memory");
		return NULL;
	}
	tag->quota = UINT64_MAX;
	return tag;
}

tag_t tag_new_of(const struct tag_extent *extent)
{
	struct tag *tag = make_tag();
	if (!tag)
		return -1;
	if (add_extent(tag, extent) != 0) {
		tag_free(tag);
		return dune_fail(ENOMEM, "out of memory");
	}
	tag->permanent = true;
	return enter_tag(tag);
}

tag_t tag_new(void)
{
	if (supervisor_enter() != 0)
		return -1;
	struct tag *tag = make_tag();
	if (!tag)
		return -1;
	supervisor_lock();
	tag_t handle = enter_tag(tag);
	supervisor_unlock();
	return handle;
}

static bool names_tag(const struct local_kind *kind, const void *tag)
{
	return policy_find_tag(kind->policy, *(const tag_t *)tag) >= 0;
}

int tag_delete(tag_t handle)
{
	if (supervisor_enter() != 0)
		return -1;
	supervisor_lock();
	struct tag *tag = tag_get(handle);
	int result = -1;
	if (!tag) {
		dune_fail(EBADF, "no such tag");
	} else if (tag->permanent) {
		dune_fail(EBUSY, "the tag of globals lasts as long as they do");
	} else {
		locals_give_up(names_tag, &handle, 0);
		tag->dying = true;
		unisolated_tag_free(handle);
		result = address_spaces_revoke(tag);
		for (unsigned i = 0; result == 0 && i < tag->extent_count; i++)
			tag_memory_give_back(&tag->extents[i]); /* after a failure the memory is never used again */
		handle_end(&supervisor.tags, handle);
		tag_free(tag);
	}
	supervisor_unlock();
	return result;
}

int tag_quota(tag_t handle, size_t bytes)
{
	if (supervisor_enter() != 0)
		return -1;
	supervisor_lock();
	struct tag *tag = tag_get(handle);
	if (tag)
		tag->quota = bytes ? bytes : UINT64_MAX;
	supervisor_unlock();
	return tag ? 0 : dune_fail(EBADF, "no such tag");
}

int tag_statistics(tag_t handle, struct tag_statistics *statistics)
{
	if (supervisor_enter() != 0)
		return -1;
	if (!statistics)
		return dune_fail(EINVAL, "tag_statistics() wants a place for the numbers");
	supervisor_lock();
	const struct tag *tag = tag_get(handle);
	if (tag)
		*statistics = (struct tag_statistics){ .bytes_allocated = tag_heap_bytes_allocated(tag->heap),
						       .bytes_held = tag->size,
						       .allocations = tag_heap_allocations(tag->heap),
						       .quota = tag->quota == UINT64_MAX ? 0 : (size_t)tag->quota };
	if (tag && supervisor.unisolated)
		unisolated_tag_count(handle, &statistics->bytes_allocated, &statistics->allocations);
	supervisor_unlock();
	return tag ? 0 : dune_fail(EBADF, "no such tag");
}

/* Makes the error of a function above the failure of a public one in host mode.  invalid: what EINVAL means there. */
static int failed(int error, const char *invalid)
{
	if (!error)
		return 0;
	return dune_fail(error, "%s",
			 error == EBADF  ? "no such tag" :
			 error == EINVAL ? invalid :
					   "the tag's quota, or tagged memory, is used up");
}

/* The answer of a service that gives memory. */
static void *answered(long answer)
{
	if (answer > 0 || answer <= -4096)
		return (void *)answer;
	errno = (int)-answer;
	return NULL;
}

void *smemalign(tag_t tag, size_t alignment, size_t size)
{
	if (supervisor.unisolated)
		return unisolated_smemalign(tag, alignment, size);
	if (supervisor_inside())
		return answered(supervisor_service(SERVICE_ALLOCATE, (uint64_t)tag, size, alignment, 0, 0));
	if (supervisor_enter() != 0)
		return NULL;
	void *pointer = NULL;
	supervisor_lock();
	int error = tag_allocate(tag, alignment, size, UINT64_MAX, &pointer);
	supervisor_unlock();
	return failed(error, "the size is 0, or the alignment is not a power of two up to 2 MiB") == 0 ? pointer : NULL;
}

void *smalloc(tag_t tag, size_t size)
{
	return smemalign(tag, ALIGNMENT_MIN, size);
}

void *srealloc(void *pointer, size_t size)
{
	if (supervisor.unisolated)
		return unisolated_srealloc(pointer, size);
	if (supervisor_inside())
		return answered(supervisor_service(SERVICE_REALLOCATE, (uint64_t)pointer, size, 0, 0, 0));
	if (supervisor_enter() != 0)
		return NULL;
	supervisor_lock();
	int error = tag_reallocate(tag_at((uint64_t)pointer), &pointer, size, UINT64_MAX);
	supervisor_unlock();
	return failed(error, "the size is 0, or the pointer is not a live allocation of a tag") == 0 ? pointer : NULL;
}

void sfree(void *pointer)
{
	if (!pointer)
		return;
	if (supervisor.unisolated) {
		unisolated_sfree(pointer);
		return;
	}
	if (supervisor_inside()) {
		supervisor_answer(supervisor_service(SERVICE_FREE, (uint64_t)pointer, 0, 0, 0, 0));
		return;
	}
	if (supervisor.forked) { /* no tag's memory is here: not worth a machine */
		dune_fail(EINVAL, "the pointer is not a live allocation of a tag");
		return;
	}
	if (supervisor_enter() != 0)
		return;
	supervisor_lock();
	int error = tag_release(tag_at((uint64_t)pointer), pointer);
	supervisor_unlock();
	failed(error, "the pointer is not a live allocation of a tag");
}

/* Tagged globals are the child's own, copied on write like the rest of its memory.  What was allocated in their tag
 * beside them was in the arena, and is gone. */
static bool forget(void *object)
{
	struct tag *tag = object;
	if (!tag->permanent) {
		tag_free(tag);
		return true;
	}
	tag_heap_clear(tag->heap);
	tag->extent_count = 1;
	tag->size = tag->extents[0].size;
	return false;
}

void tags_forget(void)
{
	handles_end_all(&supervisor.tags, forget);
	tag_memory_forget();
	malloc_switch_off();
}
