/*
 * process_map.h - what is mapped in this process, from /proc/self/maps.
 *
 * The map is exact for a process of one thread: the text and the array live in one mapping of their own that
 * was made before the reading that counts, so that nothing is mapped or unmapped between that reading and the
 * return.  That mapping is therefore in the list too, and buffer/buffer_size name it.  No malloc is used.
 * The map is stale as soon as the caller maps, unmaps or lets malloc() grow the heap.
 *
 * Called from: host mode, any thread.
 */
#ifndef STHREAD_PROCESS_MAP_H
#define STHREAD_PROCESS_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "dune.h"

/* As the parser of lines tells them (elf/maps.h). */
enum process_mapping_kind {
	/* a file, named by an absolute path; shared memory and memfds are files too */
	PROCESS_MAPPING_FILE = PROCMAP_TYPE_FILE,
	/* no file; the path is empty or a name given by PR_SET_VMA_ANON_NAME */
	PROCESS_MAPPING_ANONYMOUS = PROCMAP_TYPE_ANONYMOUS,
	PROCESS_MAPPING_HEAP = PROCMAP_TYPE_HEAP,   /* the brk heap */
	PROCESS_MAPPING_STACK = PROCMAP_TYPE_STACK, /* the stack of the first thread */
	PROCESS_MAPPING_VDSO = PROCMAP_TYPE_VDSO,
	PROCESS_MAPPING_VVAR = PROCMAP_TYPE_VVAR, /* the data pages of the vDSO; there may be several */
	PROCESS_MAPPING_VSYSCALL = PROCMAP_TYPE_VSYSCALL,
	/* any other: "anon_inode:kvm-vcpu:0", "[uprobes]", a kind not known here */
	PROCESS_MAPPING_OTHER_SPECIAL = PROCMAP_TYPE_UNKNOWN,
};

struct process_mapping {
	uintptr_t start, end;
	uint64_t offset; /* in the file */
	dev_t device;    /* as the file system reports it to the kernel; may differ from st_dev (overlayfs, btrfs) */
	ino_t inode;     /* 0 if there is no file */
	bool read, write, execute, shared;
	enum process_mapping_kind kind;
	bool withheld; /* see process_map_mark_withheld() */
	bool deleted;  /* the file has no name any more; path is the one it had */
	/* "" if there is none.  A newline is restored; the kernel does not tell it from the four characters \012 in
	 * a name, so a path is a description, and device and inode are the identity. */
	const char *path;
};

struct process_map {
	struct process_mapping *mappings; /* in ascending order of start */
	size_t count;
	void *buffer; /* the mapping that holds all this */
	size_t buffer_size;
};

/*
 * Reads the map of this process into *map.  Pairs with process_map_free(); paths belong to the map.
 * Errors: of open(2), read(2) and mmap(2) (ENOENT: no /proc); EPROTO a line of /proc/self/maps that cannot be
 * understood.  *map is then empty.
 */
int process_map_read(struct process_map *map) __attribute__((warn_unused_result));

/* Releases what process_map_read() made and leaves the map empty.  An empty map is accepted. */
void process_map_free(struct process_map *map);

/*
 * Sets `withheld` of every mapping that the program has asked not to be dumped or to be wiped in children
 * (MADV_DONTDUMP, MADV_WIPEONFORK): that is where libraries keep keys and the state of random generators.
 * No malloc is used.  Errors: of open(2) and read(2) on /proc/self/smaps.
 */
int process_map_mark_withheld(struct process_map *map) __attribute__((warn_unused_result));

/* The mapping that contains address, or NULL. */
const struct process_mapping *process_map_find(const struct process_map *map, uintptr_t address);

/*
 * The number of threads of this process, without one that KVM may have made, or -1.  A thread that pthread_join() has already returned for can be
 * on the kernel's list a moment longer: a number above 1 is asked for again for up to 20 ms.
 * Errors: of open(2) and getdents64(2).
 */
int process_thread_count(void) __attribute__((warn_unused_result));

#endif
