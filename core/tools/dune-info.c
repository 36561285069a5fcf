/* dune-info - prints what this host's KVM offers to compartments. */
#include <stdio.h>

#include "dune.h"

static const char *yes(bool is)
{
	return is ? "yes" : "no";
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
	return 0;
}
