/* unit_dune_printf.c - the formatter without libc agrees with snprintf(); dune_printf() is one write; dune_die() ends. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dune.h"
#include "harness.h"
#include "own_thread_area.h"
#include "placement/format.h"
#include "placement/output.h"

/* Formats are tried that no compiler would let pass. */
#pragma GCC diagnostic ignored "-Wformat"
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wformat-truncation"
#pragma GCC diagnostic ignored "-Wformat-overflow"
#endif

/* ---- against snprintf() --------------------------------------------------------------------------------- */

static unsigned compared;

static void compare(size_t size, const char *format, ...)
{
	char ours[512], theirs[512];
	va_list arguments, again;
	memset(ours, '#', sizeof ours);
	memset(theirs, '#', sizeof theirs);
	va_start(arguments, format);
	va_copy(again, arguments);
	errno = 77;
	int length = dune_format_list(ours, size, format, arguments);
	int kept = errno;
	int wanted = vsnprintf(theirs, size, format, again);
	va_end(again);
	va_end(arguments);
	compared++;
	if (length == wanted && kept == 77 && memcmp(ours, theirs, sizeof ours) == 0)
		return;
	CU_FAIL("a text or its length differs");
	harness_note("%s, %zu bytes: '%s' (%d), not '%s' (%d), errno %d", format, size, size ? ours : "", length,
		     size ? theirs : "", wanted, kept);
}

static const char *const flag_sets[] = { "", "-", "0", "+", " ", "#", "-0", "+0", "- ", "-#", "#0", "+ ", "-+ #0" };
static const char *const widths[] = { "", "1", "7", "40", "*" };
static const char *const precisions[] = { "", ".", ".0", ".1", ".9", ".30", ".*" };
static const char *const lengths[] = { "hh", "h", "", "l", "ll", "j", "z", "t" };

/* Builds formats out of all of the above, for one conversion. */
static void compare_all(char letter, const char *length, unsigned long long value, const char *text)
{
	static const int stars[] = { 0, 5, 33, -12 };
	for (size_t f = 0; f < sizeof flag_sets / sizeof *flag_sets; f++)
		for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
			for (size_t p = 0; p < sizeof precisions / sizeof *precisions; p++) {
				char format[64];
				int star = stars[(f + w + p) % 4];
				snprintf(format, sizeof format, "<%%%s%s%s%s%c>%%d", flag_sets[f], widths[w],
					 precisions[p], length, letter);
				int stars_used = (widths[w][0] == '*') + (precisions[p][0] && precisions[p][1] == '*');
				if (letter == 's') {
					if (stars_used == 0)
						compare(512, format, text, 42);
					else if (stars_used == 1)
						compare(512, format, star, text, 42);
					else
						compare(512, format, star, -star, text, 42);
				} else {
					if (stars_used == 0)
						compare(512, format, value, 42);
					else if (stars_used == 1)
						compare(512, format, star, value, 42);
					else
						compare(512, format, star, 17 - star, value, 42);
				}
			}
}

static void numbers_agree(void)
{
	static const unsigned long long values[] = {
		0,
		1,
		7,
		8,
		9,
		10,
		42,
		127,
		128,
		255,
		256,
		32767,
		32768,
		65535,
		65536,
		INT_MAX,
		1ull + INT_MAX,
		UINT_MAX,
		1ull + UINT_MAX,
		LLONG_MAX,
		1ull + LLONG_MAX,
		ULLONG_MAX,
		-42ull,
		0x123456789abcdef0,
	};
	compared = 0;
	for (const char *letter = "diouxX"; *letter; letter++)
		for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
			for (size_t i = 0; i < sizeof values / sizeof *values; i++)
				compare_all(*letter, lengths[l], values[i], NULL);
	harness_note("%u comparisons", compared);
	CU_ASSERT(compared > 100000);
}

static void texts_characters_and_pointers_agree(void)
{
	static const char *const texts[] = { "", "a", "some text", "\xff\x01 %d %s", NULL };
	volatile unsigned size;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		compare_all('s', "", 0, texts[i]);
	for (unsigned c = 0; c < 256; c++)
		for (size_t w = 0; w < 4; w++) {
			static const char *const formats[] = { "%c", "<%5c>", "<%-5c>", "%%%c%%" };
			compare(512, formats[w], c, 0);
		}
	for (unsigned i = 0; i < 64; i++)
		compare(512, "<%p> <%20p> <%-20p>", (void *)(1ul << i), (void *)(uintptr_t)i, (void *)&i);
	compare(512, "%p %30p %-9p|", NULL, NULL, NULL);
	compare(512, "");
	compare(512, "100 %%, no argument");
	/* Cut at every length. */
	for (size = 0; size < 60; size++)
		compare(size, "begin %-10d|%8s|%#012lx end", -1234567, "text", 0xabcdeful);
	/* All kinds of arguments, more than there are registers for. */
	compare(512, "%d %s %c %lu %p %hhd %x %lld %s %zu %jx %d", -1, "two", '3', 4ul, (void *)5, 6, 7, 8ll, "nine",
		(size_t)10, (uintmax_t)11, 12);
	/* Text of exactly the precision, at the end of memory. */
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT_EQUAL(mprotect(page + 4096, 4096, PROT_NONE), 0);
	memcpy(page + 4092, "wxyz", 4);
	compare(512, "%.4s %.*s", page + 4092, 2, page + 4094);
	munmap(page, 8192);
}

static void what_is_not_known_ends_the_conversions(void)
{
	static const char *const formats[] = {
		"%f",  "%n",   "%5", "%5.2", "%l", "%ls", "%lc", "%99999999999d", "%.99999999999d",
		"%$d", "%1$d", "%m", "%Lf",  "%a", "%y"
	};
	int victim = 77;
	for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
		char format[64], text[128], expected[128];
		snprintf(format, sizeof format, "%%d %s %%s", formats[i]);
		snprintf(expected, sizeof expected, "5 %s", format + 3);
		int length = dune_format(text, sizeof text, format, 5, &victim, &victim);
		CU_ASSERT_STRING_EQUAL(text, expected);
		if (strcmp(text, expected))
			harness_note("'%s', not '%s'", text, expected);
		CU_ASSERT_EQUAL(length, (int)strlen(expected));
		CU_ASSERT_EQUAL(victim, 77);
	}
	char text[32];
	CU_ASSERT_EQUAL(dune_format(text, sizeof text, "%d %", 5), 3);
	CU_ASSERT_STRING_EQUAL(text, "5 %");
}

static void random_formats_do_no_harm(void)
{
	static const char alphabet[] = "%%%%dxuXpcoi*.0123-+ #hlzjtab";
	unsigned seed = 12345;
	for (unsigned round = 0; round < 300000; round++) {
		char format[12], text[200];
		for (unsigned i = 0; i < sizeof format - 1; i++) {
			seed = seed * 1103515245 + 12345;
			format[i] = alphabet[(seed >> 16) % (sizeof alphabet - 1)];
		}
		format[sizeof format - 1] = 0;
		size_t size = round % sizeof text;
		memset(text, '#', sizeof text);
		int length = dune_format(text, size, format, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31);
		CU_ASSERT_FATAL(length >= 0 && text[size] == '#' && (!size || memchr(text, 0, size)));
	}
}

/* ---- dune_printf() --------------------------------------------------------------------------------------- */

/* Standard error is a socket that keeps messages apart. */
static int messages[2], kept;

static void begin_messages(void)
{
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, messages), 0);
	fflush(stderr);
	kept = dup(STDERR_FILENO);
	CU_ASSERT_FATAL(dup2(messages[1], STDERR_FILENO) == STDERR_FILENO);
	close(messages[1]);
}

static void end_messages(void)
{
	dup2(kept, STDERR_FILENO);
	close(kept);
}

static void a_message_is_one_write(void)
{
	char got[2 * DUNE_FORMAT_WRITE], text[DUNE_FORMAT_WRITE];
	memset(text, 'x', sizeof text);
	text[sizeof text - 7] = 0;
	begin_messages();
	errno = 77;
	CU_ASSERT_EQUAL(dune_printf("one %d\n", 1), 6);
	CU_ASSERT_EQUAL(dune_printf("%s %s\n", "two", "pieces"), 11);
	CU_ASSERT_EQUAL(dune_printf("%s 1234\n", text), DUNE_FORMAT_WRITE - 1);
	CU_ASSERT_EQUAL(dune_printf("%s%s\n", text, text), 2 * (DUNE_FORMAT_WRITE - 7) + 1);
	CU_ASSERT_EQUAL(errno, 77);
	end_messages();
	CU_ASSERT_EQUAL(recv(messages[0], got, sizeof got, 0), 6);
	CU_ASSERT_EQUAL(memcmp(got, "one 1\n", 6), 0);
	CU_ASSERT_EQUAL(recv(messages[0], got, sizeof got, 0), 11);
	CU_ASSERT_EQUAL(memcmp(got, "two pieces\n", 11), 0);
	CU_ASSERT_EQUAL(recv(messages[0], got, sizeof got, 0), DUNE_FORMAT_WRITE - 1);
	/* What does not fit comes in pieces, and nothing is lost. */
	CU_ASSERT_EQUAL(recv(messages[0], got, sizeof got, 0), DUNE_FORMAT_WRITE);
	CU_ASSERT_EQUAL(recv(messages[0], got, sizeof got, 0), DUNE_FORMAT_WRITE - 13);
	CU_ASSERT_EQUAL(recv(messages[0], got, sizeof got, 0), 0);
}

static void a_failing_write_is_told_and_errno_is_kept(void)
{
	int old = dup(STDERR_FILENO), full = open("/dev/full", O_WRONLY);
	CU_ASSERT_FATAL(full >= 0);
	dup2(full, STDERR_FILENO);
	errno = 77;
	CU_ASSERT_EQUAL(dune_printf("text\n"), -1);
	CU_ASSERT_EQUAL(errno, 77);
	close(STDERR_FILENO);
	CU_ASSERT_EQUAL(dune_printf("text\n"), -1);
	CU_ASSERT_EQUAL(errno, 77);
	dup2(old, STDERR_FILENO);
	CU_ASSERT_EQUAL(dune_printf("%s", ""), 0);
}

static struct dune_tf frame = {
	.rax = 0xa0,
	.rbx = 0xb0,
	.rcx = 0xc0,
	.rdx = 0xd0,
	.rsi = 0x51,
	.rdi = 0xd1,
	.rbp = 0xb9,
	.rsp = 0x59,
	.r8 = 0x8,
	.r9 = 0x9,
	.r10 = 0x10,
	.r11 = 0x11,
	.r12 = 0x12,
	.r13 = 0x13,
	.r14 = 0x14,
	.r15 = 0xf5,
	.rflags = 0x246,
	.cs = 0x33,
	.ss = 0x2b,
	.err = 0x15,
	.rip = 0x10,
};

static void print_everything(void)
{
	dune_printf("%d %s\n", 1, "text");
	dune_dump_trap_frame(&frame);
}

static void nothing_of_libc_is_needed(void)
{
#ifdef __SANITIZE_ADDRESS__
	HARNESS_SKIP("the sanitizer needs thread-local storage itself");
#endif
	char got[4096];
	begin_messages();
	bool untouched = with_own_thread_area(print_everything);
	end_messages();
	CU_ASSERT_TRUE(untouched);
	CU_ASSERT_EQUAL(recv(messages[0], got, sizeof got, 0), 7);
	CU_ASSERT_EQUAL(memcmp(got, "1 text\n", 7), 0);
}

static void touch_errno(void)
{
	errno = 5;
}

static void use_of_libc_is_noticed(void)
{
#ifdef __SANITIZE_ADDRESS__
	HARNESS_SKIP("the sanitizer needs thread-local storage itself");
#endif
	CU_ASSERT_FALSE(with_own_thread_area(touch_errno));
}

static void a_trap_frame_shows_each_register(void)
{
	static const char *const expected[] = {
		"rax 0x00000000000000a0",
		"rbx 0x00000000000000b0",
		"rcx 0x00000000000000c0",
		"rdx 0x00000000000000d0",
		"rsi 0x0000000000000051",
		"rdi 0x00000000000000d1",
		"rbp 0x00000000000000b9",
		"rsp 0x0000000000000059",
		"r8  0x0000000000000008",
		"r9  0x0000000000000009",
		"r10 0x0000000000000010",
		"r11 0x0000000000000011",
		"r12 0x0000000000000012",
		"r13 0x0000000000000013",
		"r14 0x0000000000000014",
		"r15 0x00000000000000f5",
		"at rip 0x10 (in no mapping)",
		"rflags 0x00000246",
		"cs 0x33",
		"ss 0x2b",
		"error code 0x15",
	};
	char got[4096];
	size_t length = 0;
	ssize_t more;
	begin_messages();
	dune_dump_trap_frame(&frame);
	frame.rip = (uintptr_t)a_trap_frame_shows_each_register + 1;
	dune_dump_trap_frame(&frame);
	end_messages();
	while ((more = recv(messages[0], got + length, sizeof got - 1 - length, 0)) > 0)
		length += (size_t)more;
	got[length] = 0;
	for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
		CU_ASSERT_PTR_NOT_NULL(strstr(got, expected[i]));
		if (!strstr(got, expected[i]))
			harness_note("%s is not there", expected[i]);
	}
	CU_ASSERT_PTR_NOT_NULL(strstr(got, "(a_trap_frame_shows_each_register+0x1 in "));
}

/* ---- dune_die() -------------------------------------------------------------------------------------------- */

static void leave_quietly(int number)
{
	(void)number;
	dune_printf("handled\n");
}

/* How a child dies that prepares its signals like this. */
static inline __attribute__((always_inline)) int die(void (*prepare)(void), char *said, size_t room)
{
	int status, output[2];
	ssize_t got;
	size_t length = 0;
	CU_ASSERT_EQUAL_FATAL(pipe(output), 0);
	pid_t child = fork();
	if (child == 0) {
		dup2(output[1], STDERR_FILENO);
		if (prepare)
			prepare();
		dune_die();
	}
	close(output[1]);
	while ((got = read(output[0], said + length, room - 1 - length)) > 0)
		length += (size_t)got;
	said[length] = 0;
	close(output[0]);
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	return status;
}

static void block(void)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

static void ignore(void)
{
	signal(SIGABRT, SIG_IGN);
}

static void handle(void)
{
	signal(SIGABRT, leave_quietly);
}

static void dying_is_by_sigabrt(void)
{
	static void (*const preparations[])(void) = { NULL, block, ignore, handle };
	for (unsigned i = 0; i < 4; i++) {
		char said[1024];
		int status = die(preparations[i], said, sizeof said);
		CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
		CU_ASSERT_PTR_NOT_NULL(strstr(said, "dune: dune_die() was called at 0x"));
		CU_ASSERT_PTR_NOT_NULL(strstr(said, "(dying_is_by_sigabrt+0x"));
		CU_ASSERT_EQUAL(strstr(said, "handled") != NULL, i == 3);
	}
}

static const struct harness_test tests[] = {
	{ "numbers in every format agree with snprintf()", numbers_agree, 0, .seconds = 120 },
	{ "texts, characters and pointers agree with snprintf()", texts_characters_and_pointers_agree },
	{ "what is not known is copied, and takes no argument", what_is_not_known_ends_the_conversions },
	{ "random formats do no harm", random_formats_do_no_harm, 0, .seconds = 120 },
	{ "a message is one write; a long one is not cut", a_message_is_one_write, HARNESS_FORK },
	{ "a failing write is told, errno is kept", a_failing_write_is_told_and_errno_is_kept, HARNESS_FORK },
	{ "printing needs nothing of libc: no lock, no errno", nothing_of_libc_is_needed, HARNESS_FORK },
	{ "control: a use of errno is noticed", use_of_libc_is_noticed, HARNESS_FORK },
	{ "a trap frame shows each register and the symbol", a_trap_frame_shows_each_register, HARNESS_FORK },
	{ "dune_die() ends the process by SIGABRT, ignored or blocked", dying_is_by_sigabrt, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
