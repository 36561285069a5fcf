/*
 * malloc.c - libsthread-malloc: malloc() and its family, from a tag while smalloc_on() is in force.
 *
 * It stands before the C library and passes everything on to the allocator behind it, with two exceptions: what a
 * thread asks for while its switch is on, and pointers into tags, which are known by their address whatever the switch
 * says.  What the C library, the dynamic linker and libsthread allocate for themselves is never in a tag: an sthread
 * could change it under them.  Whose call it is says the return address.
 *
 * The first calls come from the dynamic linker, before any constructor has run; dlsym() may be one of the callers.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "switch.h"

#define CALLER ((uintptr_t)__builtin_return_address(0))

enum {
	ALIGNMENT = 16,
	PAGE = 4096,
	EARLY_BYTES = 16384,
	OBJECTS = 16
};

/* Initial-exec: reaching them must not allocate. */
static _Thread_local tag_t current __attribute__((tls_model("initial-exec"))) = -1;
static _Thread_local int paused __attribute__((tls_model("initial-exec")));

static const struct malloc_support nothing;
static const struct malloc_support *support = &nothing;

/* ---- the allocator behind ---------------------------------------------------------------------------- */

static struct {
	void *(*malloc)(size_t);
	void *(*calloc)(size_t, size_t);
	void *(*realloc)(void *, size_t);
	void (*free)(void *);
	void *(*memalign)(size_t, size_t);
	size_t (*malloc_usable_size)(void *);
} next;

/* What dlsym() allocates while it looks for malloc(); never freed. */
static _Alignas(ALIGNMENT) uint8_t early[EARLY_BYTES];
static size_t early_used;

static bool is_early(const void *pointer)
{
	return (uintptr_t)pointer - (uintptr_t)early < sizeof early;
}

static void *early_allocate(size_t size)
{
	if (size > sizeof early - early_used - ALIGNMENT) {
		errno = ENOMEM;
		return NULL;
	}
	uint8_t *block = early + early_used;
	memcpy(block, &size, sizeof size);
	early_used += ALIGNMENT + ((size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1));
	if (early_used > sizeof early - ALIGNMENT)
		early_used = sizeof early - ALIGNMENT;
	return block + ALIGNMENT;
}

static size_t early_size(const void *pointer)
{
	size_t size;
	memcpy(&size, (const uint8_t *)pointer - ALIGNMENT, sizeof size);
	return size;
}

static void find_next(void)
{
	static bool finding;
	if (finding)
		return;
	finding = true;
	*(void **)&next.free = dlsym(RTLD_NEXT, "free");
	*(void **)&next.calloc = dlsym(RTLD_NEXT, "calloc");
	*(void **)&next.realloc = dlsym(RTLD_NEXT, "realloc");
	*(void **)&next.memalign = dlsym(RTLD_NEXT, "memalign");
	*(void **)&next.malloc_usable_size = dlsym(RTLD_NEXT, "malloc_usable_size");
	__atomic_store_n((void **)&next.malloc, dlsym(RTLD_NEXT, "malloc"), __ATOMIC_RELEASE);
	finding = false;
}

static bool found(void)
{
	if (!__atomic_load_n((void **)&next.malloc, __ATOMIC_ACQUIRE))
		find_next();
	return next.malloc;
}

/* ---- who calls --------------------------------------------------------------------------------------- */

/* Objects whose own allocations stay in the heap. */
static struct {
	uintptr_t start, end;
} objects[OBJECTS];
static unsigned object_count;

static bool is_internal(uintptr_t caller)
{
	for (unsigned i = 0; i < object_count; i++)
		if (caller >= objects[i].start && caller < objects[i].end)
			return true;
	return false;
}

/* The tag for a call; -1 for the heap. */
static tag_t tag_for(uintptr_t caller)
{
	return current < 0 || paused || is_internal(caller) ? -1 : current;
}

static bool in_tag(const void *pointer)
{
	if ((uintptr_t)pointer - support->tags < support->tags_size)
		return true;
	return support->owns && pointer && !paused && support->owns(pointer); /* paused: the supervisor's own calls */
}

/* The interface of malloc() has one error. */
static void *given(void *pointer)
{
	if (!pointer)
		errno = ENOMEM;
	return pointer;
}

/* ---- malloc and its family --------------------------------------------------------------------------- */

static void *allocate(size_t size, uintptr_t caller)
{
	tag_t tag = tag_for(caller);
	if (tag >= 0)
		return given(smalloc(tag, size ? size : 1));
	return found() ? next.malloc(size) : early_allocate(size);
}

void *malloc(size_t size)
{
	return allocate(size, CALLER);
}

void *calloc(size_t count, size_t size)
{
	size_t bytes;
	tag_t tag = tag_for(CALLER);
	if (__builtin_mul_overflow(count, size, &bytes))
		return given(NULL);
	if (tag >= 0)
		return given(smalloc(tag, bytes ? bytes : 1));
	return found() ? next.calloc(count, size) : early_allocate(bytes);
}

void free(void *pointer)
{
	int error = errno;
	if (in_tag(pointer))
		sfree(pointer);
	else if (pointer && !is_early(pointer) && found())
		next.free(pointer);
	errno = error;
}

static void *reallocate(void *pointer, size_t size, uintptr_t caller)
{
	if (!pointer)
		return allocate(size, caller);
	if (in_tag(pointer)) {
		if (size)
			return given(srealloc(pointer, size));
		free(pointer);
		return NULL;
	}
	if (!is_early(pointer))
		return found() ? next.realloc(pointer, size) : NULL;
	size_t before = early_size(pointer);
	void *moved = allocate(size, caller);
	if (moved)
		memcpy(moved, pointer, before < size ? before : size);
	return moved;
}

void *realloc(void *pointer, size_t size)
{
	return reallocate(pointer, size, CALLER);
}

void *reallocarray(void *pointer, size_t count, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(count, size, &bytes))
		return given(NULL);
	return reallocate(pointer, bytes, CALLER);
}

/* As in the C library, what is no power of two becomes the next one. */
static void *allocate_aligned(size_t alignment, size_t size, uintptr_t caller)
{
	tag_t tag = tag_for(caller);
	if (tag < 0)
		return found() ? next.memalign(alignment, size) : NULL;
	size_t power = ALIGNMENT;
	while (power < alignment && power <= SMEMALIGN_MAX)
		power *= 2;
	return given(smemalign(tag, power, size ? size : 1));
}

void *memalign(size_t alignment, size_t size)
{
	return allocate_aligned(alignment, size, CALLER);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return allocate_aligned(alignment, size, CALLER);
}

void *valloc(size_t size)
{
	return allocate_aligned(PAGE, size, CALLER);
}

void *pvalloc(size_t size)
{
	if (size > SIZE_MAX - PAGE)
		return given(NULL);
	return allocate_aligned(PAGE, (size + PAGE - 1) & ~(size_t)(PAGE - 1), CALLER);
}

int posix_memalign(void **pointer, size_t alignment, size_t size)
{
	int before = errno;
	if (!alignment || alignment % sizeof(void *) || alignment & (alignment - 1))
		return EINVAL;
	void *block = allocate_aligned(alignment, size, CALLER);
	errno = before;
	if (!block)
		return ENOMEM;
	*pointer = block;
	return 0;
}

size_t malloc_usable_size(void *pointer)
{
	if (!pointer)
		return 0;
	if (in_tag(pointer))
		return support->size(pointer);
	return is_early(pointer) ? early_size(pointer) : found() ? next.malloc_usable_size(pointer) : 0;
}

/* The C library's own would be its calls. */
char *strndup(const char *text, size_t most)
{
	size_t length = strnlen(text, most);
	char *copy = allocate(length + 1, CALLER);
	if (!copy)
		return NULL;
	copy[length] = 0;
	return memcpy(copy, text, length);
}

char *strdup(const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = allocate(size, CALLER);
	return copy ? memcpy(copy, text, size) : NULL;
}

/* C23. */
void free_sized(void *pointer, size_t size);
void free_aligned_sized(void *pointer, size_t alignment, size_t size);

void free_sized(void *pointer, size_t size)
{
	(void)size;
	free(pointer);
}

void free_aligned_sized(void *pointer, size_t alignment, size_t size)
{
	(void)alignment;
	(void)size;
	free(pointer);
}

/* ---- starting ---------------------------------------------------------------------------------------- */

/* Never called between a pause and its end, so this changes nothing but in a compartment: the snapshot is taken in a
 * pause, which its copy of the variable has not seen the end of. */
static void set(tag_t tag)
{
	current = tag;
	paused = 0;
}

static void pause_switch(int change)
{
	paused += change;
}

static bool has_name(const struct dl_phdr_info *info, const char *begin)
{
	const char *slash = strrchr(info->dlpi_name, '/');
	return strncmp(slash ? slash + 1 : info->dlpi_name, begin, strlen(begin)) == 0;
}

/* Notes where an object is, if it is one of those that never allocate in tags. */
static int note_object(struct dl_phdr_info *info, size_t size, void *unused)
{
	static const char *const names[] = { "libdune.", "libsthread", "libpthread", "libdw", "libelf" };
	const uintptr_t inside[] = { (uintptr_t)gnu_get_libc_version, (uintptr_t)sthread_malloc_attach };
	uintptr_t start = UINTPTR_MAX, end = 0;
	(void)size;
	(void)unused;
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		if (header->p_type != PT_LOAD)
			continue;
		uintptr_t at = info->dlpi_addr + header->p_vaddr;
		start = at < start ? at : start;
		end = at + header->p_memsz > end ? at + header->p_memsz : end;
	}
	bool wanted = info->dlpi_addr && info->dlpi_addr == getauxval(AT_BASE);
	for (unsigned i = 0; i < sizeof inside / sizeof *inside; i++)
		wanted = wanted || (inside[i] >= start && inside[i] < end);
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		wanted = wanted || has_name(info, names[i]);
	if (wanted && object_count < OBJECTS) {
		objects[object_count].start = start;
		objects[object_count++].end = end;
	}
	return 0;
}

/* Whether the program's malloc() is the one here. */
static bool comes_first(void)
{
	Dl_info theirs, own;
	return dladdr(dlsym(RTLD_DEFAULT, "malloc"), &theirs) && dladdr(&next, &own) &&
	       theirs.dli_fbase == own.dli_fbase;
}

/* Loaded too late, after the program's calls were bound to another malloc(), it must not say that it works. */
__attribute__((constructor)) static void attach(void)
{
	static const struct malloc_switch offered = { .set = set, .pause = pause_switch };
	if (!found() || !comes_first())
		return;
	dl_iterate_phdr(note_object, NULL);
	support = sthread_malloc_attach(&offered);
}
