/* live_dune_utilities.c - printing, symbols, the map of the process and ELF files work in Dune mode, in either placement. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dune.h"
#include "harness.h"
#include "placement/report.h"
#include "placement/symbol.h"

static char said[8192];

/* Runs a function in Dune mode, in a process of its own; returns how that ended, and keeps what it said. */
static int in_dune_mode(void (*function)(void))
{
	int output[2], status = -1;
	size_t length = 0;
	ssize_t got;
	CU_ASSERT_EQUAL_FATAL(pipe(output), 0);
	pid_t child = fork();
	if (child == 0) {
		dup2(output[1], STDERR_FILENO);
		close(output[0]);
		close(output[1]);
		if (dune_set_placement(DUNE_PLACEMENT_ANY) || dune_init_and_enter())
			_exit(99);
		function();
		_exit(0);
	}
	close(output[1]);
	while ((got = read(output[0], said + length, sizeof said - 1 - length)) > 0)
		length += (size_t)got;
	said[length] = 0;
	close(output[0]);
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	return status;
}

static bool contains(const char *text)
{
	if (strstr(said, text))
		return true;
	harness_note("'%s' is not in: %s", text, said);
	return false;
}

static void print(void)
{
	errno = 77;
	struct dune_tf frame = { .rip = (uintptr_t)print + 1, .cs = 8 };
	dune_printf("%s %d\n", "printed", 42);
	dune_dump_trap_frame(&frame);
	dune_report_fatal("a test", T_PGFLT, &frame, 0x1234);
	dune_printf("errno %d\n", errno);
}

static void printing_works(void)
{
	CU_ASSERT_EQUAL(in_dune_mode(print), 0);
	CU_ASSERT(contains("printed 42\n") && contains("at rip 0x") && contains("(print+0x1 in /"));
	CU_ASSERT(contains("dune: a test: vector 14 (page fault: read, ring 0, no page is there) at rip 0x"));
	CU_ASSERT(contains("errno 77\n"));
}

static void dying_works(void)
{
	int status = in_dune_mode(dune_die);
	CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	CU_ASSERT(contains("dune: dune_die() was called at 0x") && contains("(in_dune_mode+0x"));
}

static void *known;
static unsigned found;

static void look(const struct dune_procmap_entry *entry)
{
	found += entry->begin <= (uintptr_t)known && entry->end > (uintptr_t)known &&
		 entry->type == PROCMAP_TYPE_ANONYMOUS && entry->r && !entry->w;
	found += entry->type == PROCMAP_TYPE_STACK && entry->begin <= (uintptr_t)&entry &&
				 entry->end > (uintptr_t)&entry ?
			 100 :
			 0;
}

static void map_and_look(void)
{
	known = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	dune_procmap_iterate(look);
	dune_printf("found %u\n", found);
}

static void the_map_is_told(void)
{
	CU_ASSERT_EQUAL(in_dune_mode(map_and_look), 0);
	CU_ASSERT(contains("found 101\n"));
}

static char *copy;

static int load(struct dune_elf *elf, Elf64_Phdr *segment)
{
	/* The first one holds the header. */
	if (segment->p_type != PT_LOAD)
		return 0;
	copy = mmap(NULL, segment->p_memsz, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return dune_elf_load_ph(elf, segment, (off_t)((uintptr_t)copy - segment->p_vaddr)) ? -1 : 1;
}

static void load_program(void)
{
	struct dune_elf elf;
	if (dune_elf_open(&elf, "/proc/self/exe") == 0 && dune_elf_iter_ph(&elf, load) == 1 &&
	    memcmp(copy, &elf.hdr, sizeof elf.hdr) == 0 && dune_elf_close(&elf) == 0)
		dune_printf("loaded\n");
}

static void files_are_loaded(void)
{
	CU_ASSERT_EQUAL(in_dune_mode(load_program), 0);
	CU_ASSERT(contains("loaded\n"));
}

static const struct harness_test tests[] = {
	{ "printing, symbols and reports work in Dune mode, errno is kept", printing_works, HARNESS_FORK },
	{ "dune_die() ends the process", dying_works, HARNESS_FORK },
	{ "the map of the process is told", the_map_is_told, HARNESS_FORK },
	{ "segments of ELF files are loaded into memory that is new", files_are_loaded, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
