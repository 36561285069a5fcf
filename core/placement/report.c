/* report.c - see report.h. */
#include "placement/report.h"

#include <stddef.h>

#include "placement/format.h"
#include "placement/output.h"
#include "placement/symbol.h"

struct vector {
	const char *name;
	bool has_error_code;
};

/* AMD64 Architecture Programmer's Manual, volume 2, section 8.2; Intel SDM volume 3A, table 6-1. */
static const struct vector vectors[] = {
	[T_DIVIDE] = { "divide error" },
	[T_DEBUG] = { "debug exception" },
	[T_NMI] = { "non-maskable interrupt" },
	[T_BRKPT] = { "breakpoint" },
	[T_OFLOW] = { "overflow" },
	[T_BOUND] = { "bound range exceeded" },
	[T_ILLOP] = { "invalid opcode" },
	[T_DEVICE] = { "device not available" },
	[T_DBLFLT] = { "double fault", true },
	[9] = { "coprocessor segment overrun" },
	[T_TSS] = { "invalid TSS", true },
	[T_SEGNP] = { "segment not present", true },
	[T_STACK] = { "stack-segment fault", true },
	[T_GPFLT] = { "general protection", true },
	[T_PGFLT] = { "page fault", true },
	[T_FPERR] = { "x87 floating-point error" },
	[T_ALIGN] = { "alignment check", true },
	[T_MCHK] = { "machine check" },
	[T_SIMDERR] = { "SIMD floating-point error" },
	[20] = { "virtualization exception" },
	[21] = { "control protection", true },
	[28] = { "hypervisor injection" },
	[29] = { "VMM communication", true },
	[30] = { "security exception", true },
};

static const struct vector *find(unsigned vector)
{
	static const struct vector interrupt = { "interrupt" }, reserved = { "reserved exception" };
	if (vector < sizeof vectors / sizeof *vectors && vectors[vector].name)
		return &vectors[vector];
	return vector < 32 ? &reserved : &interrupt;
}

/* What the exception was, beyond its name. */
static void describe(const struct vector *vector, bool page_fault, const struct dune_tf *tf, char *text, size_t size)
{
	unsigned ring = tf->cs & 3;
	if (page_fault)
		dune_format(text, size, "%s, ring %u, %s%s",
			    tf->err & FEC_I ? "instruction fetch" :
			    tf->err & FEC_W ? "write" :
					      "read",
			    ring, tf->err & FEC_P ? "a right is missing" : "no page is there",
			    tf->err & FEC_RSV ? ", reserved bits are set" : "");
	else if (vector->has_error_code)
		dune_format(text, size, "error code 0x%x, ring %u", tf->err, ring);
	else
		dune_format(text, size, "ring %u", ring);
}

void dune_report_fatal(const char *what, unsigned number, const struct dune_tf *tf, uint64_t cr2)
{
	const struct vector *vector = find(number);
	bool page_fault = number == T_PGFLT;
	char detail[96], symbol[DUNE_SYMBOL_ROOM], address[48] = "";
	bool known = dune_symbol_at(tf->rip, symbol, sizeof symbol);
	if (number == DUNE_REPORT_NO_VECTOR) {
		dune_printf("dune: %s, at rip 0x%lx (%s), ring %u\n", what, tf->rip, known ? symbol : "in no mapping",
			    tf->cs & 3u);
		dune_print_registers(tf);
		return;
	}
	describe(vector, page_fault, tf, detail, sizeof detail);
	if (page_fault)
		dune_format(address, sizeof address, ", address 0x%lx (CR2)", cr2);
	dune_printf("dune: %s: vector %u (%s: %s) at rip 0x%lx (%s)%s\n", what, number, vector->name, detail, tf->rip,
		    known ? symbol : "in no mapping", address);
	dune_print_registers(tf);
}
