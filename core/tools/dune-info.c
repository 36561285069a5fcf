/* dune-info - prints what this host's KVM offers to compartments, and which placements of Dune work. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dune.h"

static const char *yes(bool is)
{
	return is ? "yes" : "no";
}

/* Tries a placement, in a process of its own: one process has one. */
static void print_placement(const char *label, enum dune_placement placement)
{
	char text[1024] = "no: it could not be tried";
	int ends[2];
	if (pipe(ends) == 0) {
		fflush(stdout);
		pid_t child = fork();
		if (child == 0) {
			close(ends[0]);
			bool works = dune_set_placement(placement) == 0 && dune_init_and_enter() == 0;
			dprintf(ends[1], works ? "yes" : "no: %s", dune_error());
			_exit(0);
		}
		close(ends[1]);
		size_t have = 0;
		for (ssize_t got = 1; got > 0 && have < sizeof text - 1;) {
			got = read(ends[0], text + have, sizeof text - 1 - have);
			have += got > 0 ? (size_t)got : 0;
		}
		close(ends[0]);
		if (have)
			text[have] = 0;
		if (child > 0)
			waitpid(child, NULL, 0);
	}
	printf("%s %s\n", label, text);
}

int main(void)
{
	struct dune_host host;
	if (dune_probe(&host) != 0) {
		fprintf(stderr, "dune-info: %s\n", dune_error());
		return 1;
	}
	printf("processor              %s\n", host.vendor);
	printf("ring 0                 %s\n",
	       host.ring0_native ? "native" : "interpreted: few ring-0 instructions, system calls exit from ring 3");
	printf("paging                 %s\n",
	       host.shadow_paging ? "shadow: rights are taken away by the monitor only" : "two-dimensional");
	printf("accessed/dirty bits    %s\n", yes(host.dirty_bits));
	printf("recycling              %s%s\n", host.recycling_copies ? "pages already copied: " : "dirty bits",
	       host.recycling_copies ? host.recycling_copies : "");
	printf("PCID, INVPCID          %s, %s\n", yes(host.pcid), yes(host.invpcid));
	printf("SMEP, SMAP, UMIP       %s, %s, %s\n", yes(host.smep), yes(host.smap), yes(host.umip));
	printf("vector state           %s, components %#llx\n", host.xsave ? "XSAVE" : "FXSAVE",
	       (unsigned long long)host.vector_components);
	printf("exit from ring 3       %s\n",
	       host.exit_path == DUNE_EXIT_IO_BITMAP ? "OUT through the I/O bitmap" : "software interrupt");
	printf("clocks                 %s\n", host.ring3_clocks ? "read in ring 3" : "served calls");
	printf("guest-physical bits    %u\n", host.physical_bits);
	printf("virtual CPUs, at most  %u\n", host.processors_max);
	printf("bare exit              %.2f us\n", host.exit_nanoseconds / 1000);
	printf("page fault             %.2f us\n", host.trap_nanoseconds / 1000);
	printf("system call            %.2f us\n", host.call_nanoseconds / 1000);
	print_placement("Dune: guest placement ", DUNE_PLACEMENT_GUEST);
	print_placement("Dune: host placement  ", DUNE_PLACEMENT_HOST);
	return 0;
}
