/*
 * memory.h - the memory of the program in the sandbox: the only memory that ring 3 can use.
 *
 * It lies at the same addresses in this process and in the sandbox's address space; in the process it is always readable
 * and writable.  What ring 3 may do is in the page table, and page by page in the books kept here, by which every pointer
 * that the program passes is checked.
 */
#ifndef SANDBOX_MEMORY_H
#define SANDBOX_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	PAGE = 4096
};
#define MEMORY_LOWEST 0x10000ul /* no page of the program is below */

struct memory_area {
	uintptr_t start;
	size_t pages;
	uint8_t *rights; /* of each page: PROT_... and MEMORY_MAPPED, or 0 */
};

/* The image with the heap behind it; what mmap() gives, and the stack. */
extern struct memory_area memory_image, memory_arena;

/* Makes the address space.  Returns 0, or -1 with dune_error(). */
int memory_begin(void);
/* Makes ring 3 run in it. */
void memory_enter(void);

/* Reserves addresses for an area, at `start` or, if that is 0, anywhere.  The program can use none of it yet.  Returns 0, or -1 with
 * errno: EEXIST: this process has something there. */
int memory_reserve(struct memory_area *area, uintptr_t start, size_t size);

/* Lets ring 3 use whole pages of an area in this way (PROT_..., PROT_NONE too); contents stay.  Returns 0, or a negative errno: -EINVAL:
 * not in one area; -EACCES: writable and executable. */
int memory_allow(uintptr_t start, size_t size, int protection);
/* Takes whole pages away from ring 3, and their contents. */
int memory_remove(uintptr_t start, size_t size);
/* Finds free pages of the arena and allows them.  Returns 0, or a negative errno. */
int memory_take(size_t size, int protection, uintptr_t *start);

/* Whether the program may use memory in this way (PROT_READ, PROT_WRITE): all of it, byte by byte. */
bool memory_may(uintptr_t start, size_t size, int protection);
/* Whether pages are the program's at all. */
bool memory_is_mapped(uintptr_t start, size_t size);

/* Copies between the program and this process.  Return false if the program itself could not. */
bool memory_copy_in(void *to, uintptr_t from, size_t size);
bool memory_copy_out(uintptr_t to, const void *from, size_t size);
/* A string that ends within `room` bytes. */
bool memory_copy_in_text(char *to, size_t room, uintptr_t from);

#endif
