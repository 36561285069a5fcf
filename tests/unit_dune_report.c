/* unit_dune_report.c - what a process says before it dies in Dune mode: one line that says what happened, and registers. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"
#include "placement/report.h"

static char said[8192];

/* What is printed about a trap. */
static void report(const char *what, unsigned vector, struct dune_tf tf, uint64_t cr2)
{
	int output[2], kept = dup(STDERR_FILENO);
	size_t length = 0;
	ssize_t got;
	CU_ASSERT_EQUAL_FATAL(pipe(output), 0);
	dup2(output[1], STDERR_FILENO);
	close(output[1]);
	errno = 77;
	dune_report_fatal(what, vector, &tf, cr2);
	CU_ASSERT_EQUAL(errno, 77);
	dup2(kept, STDERR_FILENO);
	close(kept);
	while ((got = read(output[0], said + length, sizeof said - 1 - length)) > 0)
		length += (size_t)got;
	said[length] = 0;
	close(output[0]);
}

static void check_line(const char *expected)
{
	size_t length = strcspn(said, "\n");
	bool good = length == strlen(expected) && memcmp(said, expected, length) == 0;
	CU_ASSERT_TRUE(good);
	if (!good)
		harness_note("'%.*s', not '%s'", (int)length, said, expected);
}

static void page_faults_say_who_did_what_and_where(void)
{
	static const struct {
		uint32_t error_code;
		uint16_t cs;
		const char *detail;
	} faults[] = {
		{ 0, GD_KT, "read, ring 0, no page is there" },
		{ FEC_W, GD_KT, "write, ring 0, no page is there" },
		{ FEC_W | FEC_P, GD_KT, "write, ring 0, a right is missing" },
		{ FEC_U, 0x33, "read, ring 3, no page is there" },
		{ FEC_U | FEC_I | FEC_P, 0x33, "instruction fetch, ring 3, a right is missing" },
		{ FEC_RSV | FEC_P, GD_KT, "read, ring 0, a right is missing, reserved bits are set" },
	};
	for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
		char expected[512];
		report("nobody handles a fault of ring 0", T_PGFLT,
		       (struct dune_tf){ .rip = 0x10, .cs = faults[i].cs, .err = faults[i].error_code }, 0x1234);
		snprintf(
			expected, sizeof expected,
			"dune: nobody handles a fault of ring 0: vector 14 (page fault: %s) at rip 0x10 (in no mapping), "
			"address 0x1234 (CR2)",
			faults[i].detail);
		check_line(expected);
	}
}

static void every_vector_has_a_name(void)
{
	static const struct {
		unsigned vector;
		const char *text;
	} names[] = {
		{ 0, "divide error: ring 0" },
		{ 1, "debug exception: ring 0" },
		{ 3, "breakpoint: ring 0" },
		{ 6, "invalid opcode: ring 0" },
		{ 8, "double fault: error code 0x18, ring 0" },
		{ 13, "general protection: error code 0x18, ring 0" },
		{ 16, "x87 floating-point error: ring 0" },
		{ 19, "SIMD floating-point error: ring 0" },
		{ 15, "reserved exception: ring 0" },
		{ 31, "reserved exception: ring 0" },
		{ 32, "interrupt: ring 0" },
		{ 255, "interrupt: ring 0" },
		{ 4000000000, "interrupt: ring 0" },
	};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char expected[512];
		report("x", names[i].vector, (struct dune_tf){ .rip = 0x10, .cs = GD_KT, .err = 0x18 }, 0x1234);
		snprintf(expected, sizeof expected, "dune: x: vector %u (%s) at rip 0x10 (in no mapping)",
			 names[i].vector, names[i].text);
		check_line(expected);
	}
	for (unsigned vector = 0; vector < 300; vector++) {
		report("x", vector, (struct dune_tf){ 0 }, 0);
		CU_ASSERT_PTR_NULL(strstr(said, "(null)"));
	}
}

static void the_function_and_the_registers_are_shown(void)
{
	report("x", T_GPFLT,
	       (struct dune_tf){ .rip = (uintptr_t)every_vector_has_a_name + 2, .cs = 0x33, .r15 = 0x123456789abcdef0 },
	       0);
	CU_ASSERT_PTR_NOT_NULL(strstr(said, "(every_vector_has_a_name+0x2 in /"));
	CU_ASSERT_PTR_NOT_NULL(strstr(said, "r15 0x123456789abcdef0\n"));
	CU_ASSERT_PTR_NOT_NULL(strstr(said, "rip 0x0000"));
}

static const struct harness_test tests[] = {
	{ "page faults say who did what, and where", page_faults_say_who_did_what_and_where, HARNESS_FORK },
	{ "every vector has a name", every_vector_has_a_name, HARNESS_FORK },
	{ "the function and the registers are shown", the_function_and_the_registers_are_shown, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
