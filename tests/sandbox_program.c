/*
 * sandbox_program.c - a static program for tests/live_dune_sandbox.sh: tries what its first argument says.
 *
 * Addresses are hexadecimal.  What should be impossible ends the program, or is answered by an error that is printed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static volatile uint8_t own_data[64];
static _Thread_local int own_thread_local = 42;

static int finish(long result)
{
	if (result < 0)
		printf("failed: %s\n", strerror(errno));
	else
		printf("succeeded: %ld\n", result);
	return 0;
}

static int say_hello(int count, char **arguments)
{
	printf("hello from ring 3, process %d:", (int)getpid());
	for (int i = 0; i < count; i++)
		printf(" %s", arguments[i]);
	printf("\n%d %.3f\n", own_thread_local, 2.5 * count);
	fprintf(stderr, "and on standard error\n");
	return 7;
}

/* Allocations of many sizes, with contents that are looked at again. */
static int use_memory(void)
{
	enum {
		BLOCKS = 300
	};
	static uint8_t *blocks[BLOCKS];
	static size_t sizes[BLOCKS];
	uint32_t seed = 1;
	for (unsigned round = 0; round < 3000; round++) {
		seed = seed * 1103515245 + 12345;
		unsigned i = (seed >> 16) % BLOCKS;
		if (blocks[i] && (blocks[i][0] != (uint8_t)i || blocks[i][sizes[i] - 1] != (uint8_t)i))
			return 1;
		sizes[i] = (seed >> 8) % (i % 10 ? 3000 : 400000) + 1;
		blocks[i] = realloc(blocks[i], sizes[i]);
		if (!blocks[i])
			return 2;
		memset(blocks[i], (int)i, sizes[i]);
	}
	for (unsigned i = 0; i < BLOCKS; i++)
		free(blocks[i]);

	uint8_t *pages = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED || pages[0] || pages[8 * 4096 - 1])
		return 3;
	memset(pages, 1, 8 * 4096);
	if (munmap(pages, 8 * 4096) ||
	    mmap(NULL, 8 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != (void *)pages || pages[0])
		return 4; /* the same pages, and zero again */
	if (mprotect(pages, 4096, PROT_READ | PROT_WRITE))
		return 5;
	pages[0] = 1;
	puts("memory is as it should be");
	return 0;
}

static int cat(const char *path)
{
	char text[256];
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return finish(-1);
	ssize_t got = read(fd, text, sizeof text);
	close(fd);
	return got < 0 ? finish(-1) : write(STDOUT_FILENO, text, (size_t)got) != got;
}

static int recurse(int depth)
{
	volatile char room[4096];
	room[depth % 4096] = (char)depth;
	return depth < 1000000 ? recurse(depth + 1) + room[depth % 4096] : 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	uintptr_t number = argc > 2 ? strtoul(argv[2], NULL, 16) : 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(what, "hello"))
		return say_hello(argc - 2, argv + 2);
	if (!strcmp(what, "memory"))
		return use_memory();
	if (!strcmp(what, "cat"))
		return cat(argv[2]);
	if (!strcmp(what, "echo")) {
		char text[64];
		ssize_t got = read(STDIN_FILENO, text, sizeof text);
		return write(STDOUT_FILENO, text, got > 0 ? (size_t)got : 0) < 0;
	}
	if (!strcmp(what, "read"))
		return finish(*(volatile uint8_t *)number);
	if (!strcmp(what, "write"))
		return finish(*(volatile uint8_t *)number = 1);
	if (!strcmp(what, "jump")) {
		((void (*)(void))number)();
		return finish(0);
	}
	if (!strcmp(what, "jump-data")) {
		own_data[0] = 0xc3;
		((void (*)(void))(uintptr_t)own_data)();
		return finish(0);
	}
	if (!strcmp(what, "write-text")) {
		*(volatile uint8_t *)(uintptr_t)main = 0xc3;
		return finish(0);
	}
	if (!strcmp(what, "use-unmapped")) {
		volatile uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		page[0] = 1;
		munmap((void *)page, 4096);
		return finish(page[0]);
	}
	/* Pointers to memory that is not the program's, for the sandbox to read and write. */
	if (!strcmp(what, "give-away"))
		return finish(syscall(SYS_write, STDOUT_FILENO, number, 64));
	if (!strcmp(what, "give-away-vector")) {
		struct iovec vectors[2] = { { (void *)what, 4 }, { (void *)number, 64 } };
		return finish(writev(STDOUT_FILENO, vectors, 2));
	}
	if (!strcmp(what, "overwrite"))
		return finish(syscall(SYS_getrandom, number, 16, 0));
	if (!strcmp(what, "overrun")) /* begins in the program's memory, ends elsewhere */
		return finish(syscall(SYS_write, STDOUT_FILENO, own_data, 1ul << 40));
	if (!strcmp(what, "call")) {
		long result = syscall((long)number, 0, 0, 0, 0, 0, 0);
		return finish(result);
	}
	if (!strcmp(what, "descriptor"))
		return finish(write((int)number, "x", 1));
	if (!strcmp(what, "execute-pages"))
		return finish(
			(long)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) < 0 ? -1 : 0);
	if (!strcmp(what, "halt"))
		__asm__ volatile("hlt");
	if (!strcmp(what, "invalid"))
		__asm__ volatile("ud2");
	if (!strcmp(what, "divide"))
		__asm__ volatile("div %0" ::"r"(0) : "rax", "rdx");
	if (!strcmp(what, "recurse"))
		return recurse(1);
	if (!strcmp(what, "spin"))
		for (;;)
			__asm__ volatile("pause");
	if (!strcmp(what, "abort"))
		abort();
	return 99;
}
