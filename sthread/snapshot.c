/* snapshot.c - see snapshot.h */
#define _GNU_SOURCE
#include "snapshot.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "environment.h"
#include "process_map.h"
#include "vdso.h"

enum {
	SPARSE_PAGES = 4096, /* regions above 16 MiB are filled in on demand */
	REGIONS = 65536,     /* as many mappings as Linux lets a process have by default, and the list never moves */
};
#define PAGES(bytes) ((bytes) / DUNE_PAGE_SIZE)

/* ---- what to leave out ----------------------------------------------------------------------------- */

static bool overlaps(const struct process_mapping *mapping, const void *start, size_t size)
{
	return mapping->start < (uintptr_t)start + size && (uintptr_t)start < mapping->end;
}

/* Memory that other processes write to.  A file that is only read is data like that of a private mapping: glibc maps its
 * tables of character sets so. */
static bool is_shared_memory(const struct process_mapping *mapping)
{
	static const char *const names[] = { "/dev/", "/memfd:", "/SYSV" };
	if (!mapping->shared)
		return false;
	if (mapping->write || mapping->kind != PROCESS_MAPPING_FILE)
		return true;
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		if (!strncmp(mapping->path, names[i], strlen(names[i])))
			return true;
	return false;
}

/* The library's own arenas, handles of KVM, and whatever a compartment has no use for. */
static bool is_left_out(const struct process_mapping *mapping, const struct process_map *map,
			const struct dune_machine *machine)
{
	const struct dune_arena *arenas[] = { &machine->frames, &machine->tags, &machine->image,
					      &machine->table_arena };
	for (unsigned i = 0; i < sizeof arenas / sizeof *arenas; i++)
		if (overlaps(mapping, arenas[i]->host, arenas[i]->size))
			return true;
	return !mapping->read || is_shared_memory(mapping) || mapping->withheld || mapping->start < 0x10000 ||
	       mapping->end > DUNE_USER_END - DUNE_PAGE_SIZE || overlaps(mapping, map->buffer, map->buffer_size) ||
	       mapping->kind == PROCESS_MAPPING_VVAR || mapping->kind == PROCESS_MAPPING_VSYSCALL ||
	       mapping->kind == PROCESS_MAPPING_OTHER_SPECIAL ||
	       overlaps(mapping, (void *)machine->window, machine->window_size);
}

/* ---- copying --------------------------------------------------------------------------------------- */

static bool is_zero(const void *page)
{
	const uint64_t *words = page;
	for (unsigned i = 0; i < DUNE_PAGE_SIZE / sizeof *words; i += 8)
		if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] | words[i + 6] |
		    words[i + 7])
			return false;
	return true;
}

static struct snapshot_region *add_region(struct snapshot *snapshot, uint64_t start, uint64_t end, bool write,
					  bool execute)
{
	if (snapshot->count == REGIONS) {
		errno = ENOMEM;
		return NULL;
	}
	struct snapshot_region *region = &snapshot->regions[snapshot->count];
	*region = (struct snapshot_region){ .start = start, .end = end, .write = write, .execute = execute };
	region->sparse = PAGES(end - start) > SPARSE_PAGES;
	/* Mapped, not from the heap: the heap is being copied. */
	region->frames = mmap(NULL, PAGES(end - start) * sizeof *region->frames, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (region->frames == MAP_FAILED)
		return NULL;
	snapshot->count++;
	return region;
}

static int copy_page(struct snapshot *snapshot, struct dune_machine *machine, uint64_t *frame, const void *page)
{
	if (is_zero(page)) {
		*frame = snapshot->zero_frame;
		return 0;
	}
	if (!(*frame = dune_frame_new(machine)))
		return -1;
	memcpy(dune_physical_at(machine, *frame), page, DUNE_PAGE_SIZE);
	snapshot->pages++;
	return 0;
}

/* Entries of /proc/self/pagemap (Linux admin-guide/mm/pagemap): in memory or swapped out; still the file's page. */
#define PAGEMAP_TOUCHED ((uint64_t)3 << 62)
#define PAGEMAP_FILE ((uint64_t)1 << 61)

enum {
	PAGEMAP_SOME = 512
};
struct pagemap {
	int fd;
	uint64_t entries[PAGEMAP_SOME];
};

/* The entry of the region's page number i; asked for in ascending order.  All ones if the kernel does not tell. */
static uint64_t pagemap_entry(struct pagemap *pagemap, const struct snapshot_region *region, uint64_t i)
{
	if (i % PAGEMAP_SOME == 0) {
		memset(pagemap->entries, 0xff, sizeof pagemap->entries);
		uint64_t at = (PAGES(region->start) + i) * sizeof(uint64_t);
		if (pagemap->fd >= 0 && pread(pagemap->fd, pagemap->entries, sizeof pagemap->entries, (off_t)at) < 0)
			memset(pagemap->entries, 0xff, sizeof pagemap->entries);
	}
	return pagemap->entries[i % PAGEMAP_SOME];
}

/* Copies a region, skipping pages that were never touched (reading those would fill page tables for nothing). */
static int copy_region(struct snapshot *snapshot, struct dune_machine *machine, struct pagemap *pagemap,
		       struct snapshot_region *region, bool anonymous)
{
	for (uint64_t i = 0; i < PAGES(region->end - region->start); i++) {
		if (anonymous && !(pagemap_entry(pagemap, region, i) & PAGEMAP_TOUCHED))
			region->frames[i] = snapshot->zero_frame;
		else if (copy_page(snapshot, machine, &region->frames[i],
				   (void *)(region->start + i * DUNE_PAGE_SIZE)) != 0)
			return -1;
	}
	return 0;
}

/* Maps a read-only part of a file a second time, into the image arena.  Returns its guest-physical address; 0 if the
 * file that is mapped can no longer be opened by its name (the caller then copies). */
static uint64_t map_image(struct snapshot *snapshot, struct dune_machine *machine,
			  const struct process_mapping *mapping)
{
	size_t size = mapping->end - mapping->start;
	struct stat status;
	if (mapping->deleted || snapshot->image_used + size > machine->image.size)
		return 0;
	int fd = open(mapping->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	uint8_t *at = machine->image.host + snapshot->image_used;
	bool good = fstat(fd, &status) == 0 && status.st_ino == mapping->inode &&
		    (uint64_t)status.st_size + DUNE_PAGE_MASK >= mapping->offset + size &&
		    mmap(at, size, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, mapping->offset) == at;
	close(fd);
	if (!good)
		return 0;
	madvise(at, size, MADV_DONTDUMP);
	uint64_t physical = machine->image.physical + snapshot->image_used;
	snapshot->image_used += size;
	return physical;
}

/* Program and library files: pages as in the file are shown from there, changed ones (relocated constants) copied.
 * Text is always shown from the file: a debugger's breakpoints are not for compartments. */
static int take_file(struct snapshot *snapshot, struct dune_machine *machine, struct pagemap *pagemap,
		     const struct process_mapping *mapping, struct snapshot_region *region)
{
	uint64_t image_before = snapshot->image_used;
	uint64_t physical = mapping->write ? 0 : map_image(snapshot, machine, mapping);
	if (!physical)
		return copy_region(snapshot, machine, pagemap, region, false);
	const uint8_t *file = machine->image.host + image_before;
	for (uint64_t i = 0; i < PAGES(region->end - region->start); i++) {
		uint64_t offset = i * DUNE_PAGE_SIZE, entry = pagemap_entry(pagemap, region, i);
		const uint8_t *page = (const uint8_t *)region->start + offset;
		bool same = !(entry & PAGEMAP_TOUCHED) || (entry & PAGEMAP_FILE && entry != UINT64_MAX);
		if (region->execute || same || memcmp(page, file + offset, DUNE_PAGE_SIZE) == 0)
			region->frames[i] = physical + offset;
		else if (copy_page(snapshot, machine, &region->frames[i], page) != 0)
			return -1;
	}
	return 0;
}

/* Copies a prepared picture of a special mapping. */
static int take_picture(struct snapshot *snapshot, struct dune_machine *machine, struct snapshot_region *region,
			const uint8_t *picture)
{
	for (uint64_t i = 0; i < PAGES(region->end - region->start); i++)
		if (copy_page(snapshot, machine, &region->frames[i], picture + i * DUNE_PAGE_SIZE) != 0)
			return -1;
	return 0;
}

static int take_special(struct snapshot *snapshot, struct dune_machine *machine, const struct process_mapping *mapping)
{
	uint64_t start = mapping->start, size;
	bool stack = mapping->kind == PROCESS_MAPPING_STACK;
	if (stack && (environment_extent(&start) != 0 || start < mapping->start || start >= mapping->end))
		return dune_fail(ENOTSUP, "the kernel does not tell where arguments and environment are");
	size = mapping->end - start;
	uint8_t *picture = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (picture == MAP_FAILED)
		return -1;
	struct snapshot_region *region = NULL;
	const struct vdso_routines routines = { .time = machine->trampoline_time,
						.clock_gettime = machine->trampoline_clock,
						.gettimeofday = machine->trampoline_day };
	int result = stack ? environment_make_picture(start, mapping->end, picture) :
			     vdso_make_replacement((void *)start, size, picture, &routines);
	if (result != 0)
		dune_fail(ENOTSUP, stack ? "the environment cannot be depicted" :
					   "the kernel's vDSO has a shape that is not understood");
	else if (!(region = add_region(snapshot, start, mapping->end, false, !stack)))
		result = -1;
	else
		result = take_picture(snapshot, machine, region, picture);
	munmap(picture, size);
	return result;
}

/* ---- corrections in the copy ----------------------------------------------------------------------- */

struct blanking {
	struct snapshot *snapshot;
	struct dune_machine *machine;
};

static void blank(uintptr_t start, size_t length, void *argument)
{
	const struct blanking *blanking = argument;
	for (size_t i = 0; i < length; i++) {
		uint8_t *byte = snapshot_copy_at(blanking->snapshot, blanking->machine, start + i);
		if (byte)
			*byte = 0;
	}
}

/* A restartable-sequences area that the kernel does not know must say so, or sched_getcpu() lies. */
static void forget_rseq(struct snapshot *snapshot, struct dune_machine *machine)
{
	if (!__rseq_size)
		return;
	uint64_t area = snapshot->thread_pointer + __rseq_offset;
	uint32_t *cpu_id_start = snapshot_copy_at(snapshot, machine, area + offsetof(struct rseq, cpu_id_start));
	int32_t *cpu_id = snapshot_copy_at(snapshot, machine, area + offsetof(struct rseq, cpu_id));
	if (cpu_id_start && cpu_id) {
		*cpu_id_start = 0;
		*cpu_id = RSEQ_CPU_ID_REGISTRATION_FAILED;
	}
}

/* ---- entry ----------------------------------------------------------------------------------------- */

/* Remembers for reports what is left out; of very many mappings, the first. */
static void note_gap(struct snapshot *snapshot, const struct process_mapping *mapping, const void *map_buffer)
{
	if (snapshot->gap_count == sizeof snapshot->gaps / sizeof *snapshot->gaps ||
	    mapping->start == (uintptr_t)map_buffer)
		return;
	snapshot->gaps[snapshot->gap_count++] = (struct snapshot_gap){
		.start = mapping->start,
		.end = mapping->end,
		.why = mapping->kind == PROCESS_MAPPING_STACK ? SNAPSHOT_STACK : SNAPSHOT_WITHHELD,
	};
}

static int take_all(struct snapshot *snapshot, struct dune_machine *machine, struct pagemap *pagemap,
		    const struct process_map *map)
{
	for (size_t i = 0; i < map->count; i++) {
		const struct process_mapping *mapping = &map->mappings[i];
		if (is_left_out(mapping, map, machine)) {
			note_gap(snapshot, mapping, map->buffer);
			continue;
		}
		if (mapping->kind == PROCESS_MAPPING_STACK)
			note_gap(snapshot, mapping, map->buffer);
		if (mapping->kind == PROCESS_MAPPING_STACK || mapping->kind == PROCESS_MAPPING_VDSO) {
			if (take_special(snapshot, machine, mapping) != 0)
				return -1;
			continue;
		}
		struct snapshot_region *region =
			add_region(snapshot, mapping->start, mapping->end, mapping->write, mapping->execute);
		if (!region)
			return -1;
		bool file = mapping->kind == PROCESS_MAPPING_FILE;
		if ((file ? take_file(snapshot, machine, pagemap, mapping, region) :
			    copy_region(snapshot, machine, pagemap, region, true)) != 0)
			return -1;
	}
	return dune_arena_back(machine, &machine->image, snapshot->image_used);
}

int snapshot_take(struct snapshot *snapshot, struct dune_machine *machine)
{
	struct process_map map;
	unsigned long thread_pointer;
	*snapshot = (struct snapshot){ 0 };
	if (!(snapshot->zero_frame = dune_frame_new(machine)))
		return -1;
	/* Not from the heap: the heap is being copied. */
	snapshot->regions = mmap(NULL, REGIONS * sizeof *snapshot->regions, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (snapshot->regions == MAP_FAILED)
		return dune_fail(ENOMEM, "out of memory");
	syscall(SYS_arch_prctl, ARCH_GET_FS, &thread_pointer);
	snapshot->thread_pointer = thread_pointer;
	snapshot->heap_end = ((uintptr_t)sbrk(0) + DUNE_PAGE_MASK) & ~DUNE_PAGE_MASK;
	if (process_map_read(&map) != 0)
		return dune_fail(errno, "cannot read the process's memory map: %s", strerror(errno));
	if (process_map_mark_withheld(&map) != 0) {
		int error = errno;
		process_map_free(&map);
		return dune_fail(error, "cannot read the flags of the process's mappings: %s", strerror(error));
	}
	snapshot->heap_limit = DUNE_USER_END / 2;
	for (size_t i = map.count; i > 0; i--)
		if (map.mappings[i - 1].start >= snapshot->heap_end)
			snapshot->heap_limit = map.mappings[i - 1].start;
	struct pagemap pagemap = { .fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) };
	int result = take_all(snapshot, machine, &pagemap, &map);
	if (pagemap.fd >= 0)
		close(pagemap.fd);
	process_map_free(&map);
	if (result == 0) {
		struct blanking blanking = { snapshot, machine };
		result = environment_forbidden_strings(blank, &blanking);
		forget_rseq(snapshot, machine);
	}
	if (result != 0) {
		int error = errno;
		snapshot_discard(snapshot);
		errno = error;
	}
	return result;
}

void snapshot_discard(struct snapshot *snapshot)
{
	for (size_t i = 0; i < snapshot->count; i++)
		munmap(snapshot->regions[i].frames, PAGES(snapshot->regions[i].end - snapshot->regions[i].start) *
							    sizeof *snapshot->regions[i].frames);
	munmap(snapshot->regions, REGIONS * sizeof *snapshot->regions);
	*snapshot = (struct snapshot){ 0 };
}

enum snapshot_left_out snapshot_left_out(const struct snapshot *snapshot, uint64_t address)
{
	for (unsigned i = 0; i < snapshot->gap_count; i++)
		if (address >= snapshot->gaps[i].start && address < snapshot->gaps[i].end)
			return snapshot->gaps[i].why;
	return SNAPSHOT_UNKNOWN;
}

const struct snapshot_region *snapshot_find(const struct snapshot *snapshot, uint64_t address)
{
	size_t low = 0, high = snapshot->count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct snapshot_region *region = &snapshot->regions[middle];
		if (address < region->start)
			high = middle;
		else if (address >= region->end)
			low = middle + 1;
		else
			return region;
	}
	return NULL;
}

void *snapshot_copy_at(const struct snapshot *snapshot, const struct dune_machine *machine, uint64_t address)
{
	const struct snapshot_region *region = snapshot_find(snapshot, address);
	if (!region)
		return NULL;
	uint64_t frame = region->frames[PAGES(address - region->start)];
	if (frame == snapshot->zero_frame || frame - machine->frames.physical >= machine->frames.backed)
		return NULL;
	return (uint8_t *)dune_physical_at(machine, frame) + (address & DUNE_PAGE_MASK);
}
