/*
 * unit_environment.c - compartments see argv[0], LANG, LC_* and TZ, and nothing else of the arguments and the
 * environment.
 *
 * Each test starts this program again with arguments and an environment of its own; a constructor then does the
 * test's work there and exits with 0, or with the line of the check that failed.
 */
#include <errno.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "sthread/environment.h"
#include "sthread/process_map.h"

#define PAGE 4096
#define MARKER "MaRkEr"
#define NAME "an odd) name of a program" /* argv[0], and not the name of the file */

extern char **environ;

/* ---- in the program that is started again ----------------------------------------------------------- */

#define CHECK(condition)                 \
	do {                             \
		if (!(condition))        \
			_exit(__LINE__ % 255 + 1); \
	} while (0)

static uintptr_t start, end;
static char *picture;

static void make_picture(void)
{
	struct process_map map;
	const struct process_mapping *stack;

	CHECK(!environment_extent(&start));
	CHECK(!process_map_read(&map));
	stack = process_map_find(&map, start);
	CHECK(stack && stack->kind == PROCESS_MAPPING_STACK);
	end = stack->end;
	process_map_free(&map);
	picture = calloc(1, end - start);
	CHECK(picture && !environment_make_picture(start, end, picture));
}

/* Where the picture has what is at p. */
static char *drawn(const void *p)
{
	CHECK((uintptr_t)p >= start && (uintptr_t)p < end);
	return picture + ((uintptr_t)p - start);
}

static bool contains(const char *bytes, size_t length)
{
	return memmem(picture, end - start, bytes, length) != NULL;
}

/* getenv() as a compartment would do it: over the picture where it lies in the range, else over memory. */
static const char *picture_getenv(const char *name)
{
	char **array = (uintptr_t)environ >= start && (uintptr_t)environ < end ? (char **)drawn(environ) : environ;
	size_t length = strlen(name);

	for (; *array; array++) {
		const char *string = (uintptr_t)*array >= start && (uintptr_t)*array < end ? drawn(*array) : *array;

		if (!strncmp(string, name, length) && string[length] == '=')
			return string + length + 1;
	}
	return NULL;
}

static bool is(const char *a, const char *b)
{
	return a && b && !strcmp(a, b);
}

/* Takes away what is expected at p. */
static void expect(const void *p, const void *bytes, size_t length)
{
	CHECK(!memcmp(drawn(p), bytes, length));
	memset(drawn(p), 0, length);
}

static void common(void)
{
	CHECK(!contains(MARKER, strlen(MARKER)));
	CHECK(!contains("SECRET", 6));
	CHECK(!contains((char *)getauxval(AT_RANDOM), 16));
	CHECK(!contains((char *)getauxval(AT_RANDOM), 8));
	CHECK(is(picture_getenv("LC_TIME"), "time_value"));
	CHECK(!picture_getenv("SECRET"));
	CHECK(!picture_getenv("LANGUAGE"));
	CHECK(!picture_getenv("TZDIR"));
	CHECK(!picture_getenv("PATH"));
}

/* Every byte of the picture is accounted for. */
static void child_as_started(int argc, char **argv)
{
	unsigned allowed = 0;

	make_picture();
	common();
	CHECK(is(picture_getenv("LANG"), "lang_value"));
	CHECK(is(picture_getenv("TZ"), ""));
	CHECK(argc == 3 && is(drawn(argv[0]), NAME));
	expect(argv[0], NAME, sizeof(NAME));
	expect(&argv[0], &argv[0], sizeof(char *));
	expect(&argv[-1], &(uintptr_t){ 1 }, sizeof(uintptr_t));
	for (char **variable = environ; *variable; variable++) {
		if (environment_is_allowed(*variable)) {
			expect(*variable, *variable, strlen(*variable) + 1);
			expect(&environ[allowed++], variable, sizeof(char *));
		}
	}
	CHECK(allowed == 3);
	for (uintptr_t i = 0; i < end - start; i++)
		CHECK(!picture[i]);
}

static unsigned reported;
static bool all_forbidden;

static void note_string(uintptr_t string, size_t length, void *argument)
{
	const char *text = (const char *)string;

	reported++;
	all_forbidden &= strlen(text) + 1 == length && strstr(text, MARKER) && argument == &reported;
}

static unsigned count_reports(void)
{
	reported = 0;
	all_forbidden = true;
	CHECK(!environment_forbidden_strings(note_string, &reported));
	CHECK(all_forbidden);
	return reported;
}

/* setenv() moves the array to the heap and leaves the strings where they are. */
static void child_moved_array(int argc, char **argv)
{
	char **before = environ;

	(void)argc;
	(void)argv;
	CHECK(count_reports() == 0);
	CHECK(!setenv("NEW_SECRET", MARKER, 1));
	CHECK(!setenv("LC_NEW", "new_value", 1));
	CHECK(environ != before);
	make_picture();
	common();
	CHECK(is(picture_getenv("LANG"), "lang_value"));
	CHECK(is(picture_getenv("LC_NEW"), "new_value"));
	CHECK(!*(char **)drawn(before));
	CHECK(count_reports() == 1);
}

/* setenv() of a variable that exists replaces a pointer in the array on the stack. */
static void child_moved_strings(int argc, char **argv)
{
	char **before = environ;

	(void)argc;
	(void)argv;
	CHECK(!setenv("SECRET", MARKER MARKER MARKER, 1));
	CHECK(!setenv("LANG", "another lang_value", 1));
	CHECK(environ == before);
	make_picture();
	common();
	/* Sanitizers have a heap of their own, elsewhere. */
	if ((uintptr_t)getenv("LANG") < (uintptr_t)sbrk(0))
		CHECK(is(picture_getenv("LANG"), "another lang_value"));
	else
		CHECK(!picture_getenv("LANG"));
	CHECK(!contains("lang_value", 10));
	CHECK(count_reports() == 1);
}

/* A program that moves its arguments away and writes a title over them. */
static void child_with_title(int argc, char **argv)
{
	size_t room = strlen(argv[0]) + 1 + strlen(argv[1]) + 1;

	memset(argv[0], 't', room - 1);
	memcpy(argv[0] + strlen(NAME) + 2, MARKER, strlen(MARKER));
	make_picture();
	common();
	CHECK(count_reports() == 0);
	CHECK(!*drawn(argv[0]));

	for (int i = 1; i < argc; i++)
		argv[i] = strdup(MARKER);
	make_picture();
	common();
	CHECK(count_reports() == 2);
	CHECK(!*drawn(argv[0]));
}

static void child_without_environment(int argc, char **argv)
{
	(void)argc;
	environ = NULL;
	make_picture();
	CHECK(!contains(MARKER, strlen(MARKER)));
	CHECK(!contains("lang_value", 10));
	CHECK(is(drawn(argv[0]), NAME));
	CHECK(count_reports() == 0);

	static char *empty[] = { NULL };

	environ = empty;
	make_picture();
	CHECK(!contains("lang_value", 10));
	CHECK(count_reports() == 0);
}

static void child_with_wrong_ranges(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	make_picture();

	const struct {
		uintptr_t start, end;
	} wrong[] = { { start + 1, end }, { start, end - 1 }, { end, end }, { start, start }, { end, start } };

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		errno = 0;
		CHECK(environment_make_picture(wrong[i].start, wrong[i].end, picture) == -1 && errno == EINVAL);
	}
}

static const struct {
	const char *name;
	void (*run)(int argc, char **argv);
} children[] = {
	{ "as started", child_as_started },
	{ "moved array", child_moved_array },
	{ "moved strings", child_moved_strings },
	{ "title", child_with_title },
	{ "no environment", child_without_environment },
	{ "wrong ranges", child_with_wrong_ranges },
};

__attribute__((constructor)) static void run_child(int argc, char **argv)
{
	if (argc != 3 || strncmp(argv[1], "--child=", 8))
		return;
	for (size_t i = 0; i < sizeof(children) / sizeof(children[0]); i++) {
		if (!strcmp(argv[1] + 8 + strlen(MARKER), children[i].name)) {
			children[i].run(argc, argv);
			_exit(0);
		}
	}
	_exit(255);
}

/* ---- the tests -------------------------------------------------------------------------------------- */

static void run_with(const char *child, char *const *environment)
{
	char argument[64];
	char *const arguments[] = { NAME, argument, MARKER "=argument", NULL };
	pid_t pid;
	int status = -1;

	snprintf(argument, sizeof(argument), "--child=" MARKER "%s", child);
	CU_ASSERT_EQUAL_FATAL(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, arguments, environment), 0);
	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	CU_ASSERT(WIFEXITED(status));
	CU_ASSERT_EQUAL(WEXITSTATUS(status), 0);
	if (status)
		harness_note("child \"%s\": status %#x; its line modulo 255 is %d", child, status,
			     WEXITSTATUS(status) - 1);
}

static void run(const char *child)
{
	char *const environment[] = {
		"SECRET=" MARKER, "LANG=lang_value", "LANGUAGE=" MARKER, "LC_TIME=time_value", "XLANG=" MARKER,
		"TZDIR=" MARKER, "TZ=", "L=" MARKER, MARKER, "", "PATH=" MARKER, "ASAN_OPTIONS=detect_leaks=0",
		"LANG " MARKER, NULL,
	};

	run_with(child, environment);
}

static void the_picture_is_complete(void)
{
	run("as started");
}

static void a_moved_array_is_understood(void)
{
	run("moved array");
}

static void moved_strings_are_understood(void)
{
	run("moved strings");
}

static void a_title_is_not_shown(void)
{
	run("title");
}

static void no_environment_is_no_problem(void)
{
	run("no environment");
}

static void wrong_ranges_are_refused(void)
{
	run("wrong ranges");
}

static void a_large_environment_is_depicted(void)
{
	enum { VARIABLES = 3000 };
	static char *environment[VARIABLES + 4];

	/* Much more than a page, so that array and strings lie far apart. */
	for (unsigned i = 0; i < VARIABLES; i++)
		CU_ASSERT_FATAL(asprintf(&environment[i], "V%u=" MARKER "%0*d", i, (int)(i % 100), 0) > 0);
	environment[VARIABLES] = "LC_TIME=time_value";
	environment[VARIABLES + 1] = "TZ=";
	environment[VARIABLES + 2] = "LANG=lang_value";
	run_with("as started", environment);
	for (unsigned i = 0; i < VARIABLES; i++)
		free(environment[i]);
}

static void only_the_listed_names_are_allowed(void)
{
	static const char *const allowed[] = { "LANG=", "LANG=C", "LC_ALL=", "LC_TIME=x", "TZ=", "TZ=:/etc/localtime" };
	static const char *const forbidden[] = { "", "LANG", "LANGUAGE=C", "LC", "LC_", "LC_ALL", "TZ", "TZDIR=/",
						 "lang=C", " LANG=C", "XTZ=", "L=1", "LC=C", "=TZ=", "PATH=/" };

	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
		CU_ASSERT(environment_is_allowed(allowed[i]));
	for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++)
		CU_ASSERT(!environment_is_allowed(forbidden[i]));
}

static const struct harness_test tests[] = {
	{ "LANG, LC_* and TZ are allowed, and no other name", only_the_listed_names_are_allowed },
	{ "every byte of the picture is argv[0], an allowed variable or a pointer to one", the_picture_is_complete },
	{ "so it is with an environment of many pages", a_large_environment_is_depicted },
	{ "an array that setenv() has moved is understood, its new strings are reported", a_moved_array_is_understood },
	{ "strings that setenv() has replaced are understood and reported", moved_strings_are_understood },
	{ "a title written over the arguments is not shown, moved arguments are reported", a_title_is_not_shown },
	{ "a process without environment has a picture", no_environment_is_no_problem },
	{ "ranges that do not hold the arguments are refused", wrong_ranges_are_refused },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
