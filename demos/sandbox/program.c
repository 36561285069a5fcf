/* program.c - see program.h. */
#include "program.h"

#include <dune.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "memory.h"

#define HEAP_SIZE (256ul << 20)
#define ARENA_SIZE (512ul << 20)
#define STACK_SIZE (8ul << 20)
#define IMAGE_MAX (1ul << 30)

static int fail(const char *path, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int fail(const char *path, const char *format, ...)
{
	va_list arguments;
	fprintf(stderr, "dune-sandbox: %s: ", path);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	return -1;
}

/* ---- the image ----------------------------------------------------------------------------------------- */

/* Where the segments lie, in whole pages, before the image is moved to its base. */
static int find_extent(const struct dune_elf *elf, const char *path, uint64_t *start, uint64_t *end)
{
	*start = UINT64_MAX;
	*end = 0;
	for (unsigned i = 0; i < elf->hdr.e_phnum; i++) {
		const Elf64_Phdr *segment = &elf->phdr[i];
		if (segment->p_type == PT_INTERP)
			return fail(path, "it is dynamically linked; the sandbox runs static programs (cc -static)");
		if (segment->p_type != PT_LOAD || !segment->p_memsz)
			continue;
		if (segment->p_flags & PF_W && segment->p_flags & PF_X)
			return fail(path, "a segment of it is writable and executable");
		if (*start == UINT64_MAX)
			*start = segment->p_vaddr & ~(uint64_t)(PAGE - 1);
		*end = segment->p_vaddr + segment->p_memsz; /* they are in order */
	}
	if (*start == UINT64_MAX || *end - *start > IMAGE_MAX || (elf->hdr.e_type == ET_EXEC && *start < MEMORY_LOWEST))
		return fail(path, "it has no segments at addresses that it could have");
	*end = (*end + PAGE - 1) & ~(uint64_t)(PAGE - 1);
	return 0;
}

/* Copies the segments, and lets ring 3 use their pages as they say. */
static int load_segments(struct dune_elf *elf, const char *path, uintptr_t base)
{
	for (unsigned i = 0; i < elf->hdr.e_phnum; i++)
		if (elf->phdr[i].p_type == PT_LOAD && dune_elf_load_ph(elf, &elf->phdr[i], (off_t)base))
			return fail(path, "%s", dune_error());
	uintptr_t done = 0;
	for (unsigned i = 0; i < elf->hdr.e_phnum; i++) {
		const Elf64_Phdr *segment = &elf->phdr[i];
		if (segment->p_type != PT_LOAD || !segment->p_memsz)
			continue;
		uintptr_t start = (base + segment->p_vaddr) & ~(uintptr_t)(PAGE - 1);
		uintptr_t end = (base + segment->p_vaddr + segment->p_memsz + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
		int protection = (segment->p_flags & PF_R ? PROT_READ : 0) |
				 (segment->p_flags & PF_W ? PROT_WRITE : 0) | (segment->p_flags & PF_X ? PROT_EXEC : 0);
		if (start < done)
			return fail(path, "two of its segments share a page");
		done = end;
		int error = memory_allow(start, end - start, protection);
		if (error)
			return fail(path, "cannot map it: %s", strerror(-error));
	}
	return 0;
}

/* The address at which the program finds its own program headers; 0 if they are in no segment. */
static uintptr_t headers_at(const struct dune_elf *elf, uintptr_t base)
{
	uint64_t size = (uint64_t)elf->hdr.e_phnum * sizeof *elf->phdr;
	for (unsigned i = 0; i < elf->hdr.e_phnum; i++) {
		const Elf64_Phdr *segment = &elf->phdr[i];
		if (segment->p_type == PT_LOAD && elf->hdr.e_phoff >= segment->p_offset &&
		    elf->hdr.e_phoff - segment->p_offset <= segment->p_filesz &&
		    size <= segment->p_filesz - (elf->hdr.e_phoff - segment->p_offset))
			return base + segment->p_vaddr + (elf->hdr.e_phoff - segment->p_offset);
	}
	return 0;
}

/* ---- the stack ----------------------------------------------------------------------------------------- */

struct stack {
	uintptr_t lowest, pointer;
};

/* Puts bytes on top of the stack; returns where, or 0: there is no room. */
static uintptr_t push(struct stack *stack, const void *bytes, size_t size, size_t alignment)
{
	if (size > stack->pointer - stack->lowest)
		return 0;
	uintptr_t at = (stack->pointer - size) & ~(uintptr_t)(alignment - 1);
	if (at < stack->lowest || !memory_copy_out(at, bytes, size))
		return 0;
	stack->pointer = at;
	return at;
}

/* What the kernel puts there: argc, argv, the environment, the auxiliary vector (System V ABI for AMD64, section 3.4). */
static bool fill_stack(struct stack *stack, char **arguments, const struct dune_elf *elf, uintptr_t base)
{
	uint8_t seed[16];
	size_t count = 0;
	if (getrandom(seed, sizeof seed, 0) != sizeof seed)
		return false;
	while (arguments[count])
		count++;
	uint64_t random = push(stack, seed, sizeof seed, 16);
	const uint64_t auxiliary[] = {
		AT_PHDR,   headers_at(elf, base),
		AT_PHENT,  sizeof *elf->phdr,
		AT_PHNUM,  elf->hdr.e_phnum,
		AT_PAGESZ, PAGE,
		AT_ENTRY,  base + elf->hdr.e_entry,
		AT_RANDOM, random,
		AT_SECURE, 0,
		AT_CLKTCK, 100,
		AT_HWCAP,  getauxval(AT_HWCAP),
		AT_HWCAP2, getauxval(AT_HWCAP2),
		AT_NULL,   0,
	};
	size_t before = 1 + count + 1 + 1; /* argc, argv and its end, the end of the environment */
	size_t size = before * 8 + sizeof auxiliary;
	uint64_t *words = calloc(1, size);
	bool good = words && random;
	for (size_t i = 0; good && i < count; i++)
		good = (words[1 + i] = push(stack, arguments[i], strlen(arguments[i]) + 1, 1)) != 0;
	if (good) {
		words[0] = count;
		memcpy(words + before, auxiliary, sizeof auxiliary);
		good = push(stack, words, size, 16);
	}
	free(words);
	return good;
}

int program_load(struct program *program, const char *path, char **arguments)
{
	struct dune_elf elf;
	uint64_t start, end;
	int result = -1;
	if (dune_elf_open(&elf, path))
		return fail(path, "%s", dune_error());
	if (elf.hdr.e_type != ET_EXEC && elf.hdr.e_type != ET_DYN) {
		fail(path, "it is no program");
	} else if (find_extent(&elf, path, &start, &end) == 0) {
		bool fixed = elf.hdr.e_type == ET_EXEC;
		struct stack stack;
		if (memory_reserve(&memory_image, fixed ? start : 0, end - start + HEAP_SIZE) ||
		    memory_reserve(&memory_arena, 0, ARENA_SIZE)) {
			fail(path, "cannot reserve its addresses: %s", strerror(errno));
			goto out;
		}
		uintptr_t base = memory_image.start - start;
		program->start = memory_image.start;
		program->end = program->heap = base + end;
		program->heap_end = program->heap + HEAP_SIZE;
		program->entry = base + elf.hdr.e_entry;
		stack.pointer = memory_arena.start + ARENA_SIZE;
		stack.lowest = stack.pointer - STACK_SIZE;
		if (load_segments(&elf, path, base))
			goto out;
		/* Below it is a page that nobody gets. */
		if (memory_allow(stack.lowest, STACK_SIZE, PROT_READ | PROT_WRITE) ||
		    memory_allow(stack.lowest - PAGE, PAGE, PROT_NONE)) {
			fail(path, "no memory for its stack");
			goto out;
		}
		if (!fill_stack(&stack, arguments, &elf, base)) {
			fail(path, "its arguments do not fit into its stack");
			goto out;
		}
		program->stack = stack.pointer;
		result = 0;
	}
out:
	dune_elf_close(&elf);
	return result;
}
