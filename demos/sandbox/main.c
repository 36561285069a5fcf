/*
 * main.c - dune-sandbox: runs a program in ring 3, with memory of its own and system calls out of a table.
 *
 * The program shares this process and sees nothing of it: its address space has its own pages for ring 3 and no others, and
 * every system call and exception of it comes here.  Uses the public interface of libdune only.
 */
#include <dune.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "calls.h"
#include "memory.h"
#include "program.h"

enum {
	EXIT_SANDBOX = 125, /* the sandbox could not begin */
	EXIT_SIGNAL = 128,  /* plus the signal that the kernel would have sent */
};

static struct program program;

/* ---- faults -------------------------------------------------------------------------------------------- */

/* A fault of this program's own: nobody can help it. */
static void die_if_own(struct dune_tf *tf, const char *what)
{
	if ((tf->cs & 3) == 3)
		return;
	dune_printf("dune-sandbox: %s in the sandbox itself\n", what);
	dune_dump_trap_frame(tf);
	dune_die();
}

static void end_program(int number)
{
	dune_ret_from_user(EXIT_SIGNAL + number);
}

static void on_page_fault(uintptr_t address, uint64_t error_code, struct dune_tf *tf)
{
	die_if_own(tf, "page fault");
	dune_printf("dune-sandbox: fault: the program at 0x%lx %s 0x%lx, which is not its own to %s\n", tf->rip,
		    error_code & FEC_I ? "jumped to" :
		    error_code & FEC_W ? "wrote to" :
					 "read from",
		    address,
		    error_code & FEC_I ? "execute" :
		    error_code & FEC_W ? "write" :
					 "read");
	end_program(SIGSEGV);
}

/* One handler for each exception: a handler is not told its vector. */
#define EXCEPTION(function, what, number)                                         \
	static void function(struct dune_tf *tf)                                  \
	{                                                                         \
		die_if_own(tf, what);                                             \
		dune_printf("dune-sandbox: fault: %s at 0x%lx\n", what, tf->rip); \
		end_program(number);                                              \
	}
EXCEPTION(on_divide, "division by zero or overflow", SIGFPE)
EXCEPTION(on_debug, "debug exception", SIGTRAP)
EXCEPTION(on_breakpoint, "breakpoint", SIGTRAP)
EXCEPTION(on_overflow, "overflow", SIGSEGV)
EXCEPTION(on_bound, "bound range exceeded", SIGSEGV)
EXCEPTION(on_opcode, "invalid instruction", SIGILL)
EXCEPTION(on_device, "no floating-point unit", SIGFPE)
EXCEPTION(on_segment, "segment not present", SIGBUS)
EXCEPTION(on_stack, "bad stack address", SIGBUS)
EXCEPTION(on_protection, "an instruction or address that ring 3 may not use", SIGSEGV)
EXCEPTION(on_float, "floating-point exception", SIGFPE)
EXCEPTION(on_alignment, "unaligned access", SIGBUS)

static int register_handlers(void)
{
	static const struct {
		int vector;
		dune_intr_cb handler;
	} handlers[] = {
		{ T_DIVIDE, on_divide },    { T_DEBUG, on_debug },   { T_BRKPT, on_breakpoint },
		{ T_OFLOW, on_overflow },   { T_BOUND, on_bound },   { T_ILLOP, on_opcode },
		{ T_DEVICE, on_device },    { T_SEGNP, on_segment }, { T_STACK, on_stack },
		{ T_GPFLT, on_protection }, { T_FPERR, on_float },   { T_ALIGN, on_alignment },
		{ T_SIMDERR, on_float },
	};
	dune_register_pgflt_handler(on_page_fault);
	dune_register_syscall_handler(calls_serve);
	for (size_t i = 0; i < sizeof handlers / sizeof *handlers; i++)
		if (dune_register_intr_handler(handlers[i].vector, handlers[i].handler))
			return -1;
	return 0;
}

/* ---- options ------------------------------------------------------------------------------------------- */

static void usage(FILE *stream)
{
	fputs("usage: dune-sandbox [--allow=NAME,...] [--placement=guest|host|any] [--verbose] PROGRAM [ARG...]\n"
	      "Runs a static executable with memory of its own. System calls that can be allowed:",
	      stream);
	calls_list(stream);
	fputc('\n', stream);
}

static bool allow(char *list)
{
	for (char *rest = list, *name; (name = strsep(&rest, ","));)
		if (!calls_allow(name)) {
			fprintf(stderr, "dune-sandbox: the system call '%s' cannot be allowed; these can:", name);
			calls_list(stderr);
			fputc('\n', stderr);
			return false;
		}
	return true;
}

static bool place(const char *name)
{
	static const char *const names[] = {
		[DUNE_PLACEMENT_GUEST] = "guest", [DUNE_PLACEMENT_HOST] = "host", [DUNE_PLACEMENT_ANY] = "any"
	};
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(names[i], name) == 0)
			return dune_set_placement(i) == 0;
	fprintf(stderr, "dune-sandbox: there is no placement '%s': guest, host and any are\n", name);
	return false;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "allow", required_argument, NULL, 'a' },
		{ "placement", required_argument, NULL, 'p' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	bool verbose = false;
	int option;
	if (dune_set_placement(DUNE_PLACEMENT_ANY))
		return EXIT_SANDBOX;
	while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		if (option == 'h') {
			usage(stdout);
			return 0;
		}
		verbose |= option == 'v';
		if (option == '?' || (option == 'a' && !allow(optarg)) || (option == 'p' && !place(optarg)))
			return EXIT_SANDBOX;
	}
	if (optind == argc) {
		usage(stderr);
		return EXIT_SANDBOX;
	}
	if (dune_init_and_enter() || register_handlers() || memory_begin()) {
		fprintf(stderr, "dune-sandbox: cannot begin: %s\n", dune_error());
		return EXIT_SANDBOX;
	}
	if (program_load(&program, argv[optind], argv + optind))
		return EXIT_SANDBOX;
	calls_begin(&program);
	if (verbose)
		dune_printf("dune-sandbox: %s placement; the program at 0x%lx-0x%lx, its other memory at 0x%lx-0x%lx; "
			    "page tables from 0x%lx on; the sandbox's own code at %p\n",
			    dune_get_placement() == DUNE_PLACEMENT_GUEST ? "guest" : "host", program.start,
			    program.heap_end, memory_arena.start, memory_arena.start + memory_arena.pages * PAGE,
			    dune_page_base(), (void *)main);
	memory_enter();
	struct dune_tf tf = { .rip = program.entry, .rsp = program.stack, .rflags = FL_IF };
	int status = dune_jump_to_user(&tf);
	if (verbose)
		dune_printf("dune-sandbox: status %d; %lu system calls served, %lu refused\n", status, calls_served,
			    calls_refused);
	if (status < 0) {
		fprintf(stderr, "dune-sandbox: the program could not run: %s\n", dune_error());
		return EXIT_SANDBOX;
	}
	return status;
}
