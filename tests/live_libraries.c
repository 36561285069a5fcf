/* live_libraries.c - libraries that run inside sthreads, each with the smallest policy that lets it work. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#ifdef HAVE_SQLITE
#include <sqlite3.h>
#endif
#ifdef HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef HAVE_LIBEVENT
#include <event2/event.h>
#endif

#include "live.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

/* A body returns 1, or the line that failed. */
#define REQUIRE(condition)                         \
	do {                                       \
		if (!(condition))                  \
			return (void *)(__LINE__); \
	} while (0)

static char base[] = "/tmp/sthread-test-XXXXXX";

static void grant(sc_t *sc, const int *calls, size_t count)
{
	for (size_t i = 0; i < count; i++)
		ASSERT_EQUAL(sc_sys_add(sc, calls[i]), 0);
}
#define GRANT(sc, ...) grant(sc, (const int[]){ __VA_ARGS__ }, sizeof((const int[]){ __VA_ARGS__ }) / sizeof(int))

static void grant_directory(sc_t *sc, const char *path, int rights)
{
	int directory = open(path, O_RDONLY | O_DIRECTORY);

	ASSERT_EQUAL(sc_path_add(sc, directory, rights), 0);
	close(directory);
}

/* A policy for an empty directory of the test's own. */
static void begin(sc_t *sc)
{
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(base));
	live_init();
	sc_init(sc);
	grant_directory(sc, base, BOTH);
}

static void end(sc_t *sc)
{
	char command[PATH_MAX];

	sc_destroy(sc);
	snprintf(command, sizeof(command), "rm -rf '%s'", base);
	ASSERT_EQUAL(system(command), 0);
}

/* ---- stdio ------------------------------------------------------------------------------------------------------- */

static void *use_stdio(void *unused)
{
	char line[100];
	FILE *file = fopen("text", "w+"), *again;
	int number = 0;

	(void)unused;
	REQUIRE(file != NULL);
	for (int i = 0; i < 1000; i++)
		REQUIRE(fprintf(file, "line %d\n", i) > 0);
	REQUIRE(fseek(file, 0, SEEK_SET) == 0 && fgets(line, sizeof(line), file) && strcmp(line, "line 0\n") == 0);
	REQUIRE(fseek(file, -9, SEEK_END) == 0 && fscanf(file, "line %d", &number) == 1 && number == 999);
	REQUIRE(ftell(file) > 8000 && fclose(file) == 0);
	REQUIRE((again = fopen("text", "a")) != NULL && fputs("end\n", again) >= 0 && fflush(again) == 0);
	REQUIRE(fclose(again) == 0 && remove("text") == 0 && !fopen("text", "r") && errno == ENOENT);
	REQUIRE((file = open_memstream(&(char *){ NULL }, &(size_t){ 0 })) != NULL && fputs("x", file) >= 0);
	REQUIRE(fclose(file) == 0);
	REQUIRE(!fopen("/etc/passwd", "r") && errno == EACCES);
	return (void *)1;
}

static void stdio(void)
{
	sc_t sc;

	begin(&sc);
	GRANT(&sc, SYS_open, SYS_unlink);
	for (int i = 0; i < 2; i++)
		ASSERT_RETURNED(live_run(&sc, use_stdio, NULL), 1);
	end(&sc);
}

/* ---- locale and time --------------------------------------------------------------------------------------------- */

static void *use_loaded_locale(void *unused)
{
	char text[100];

	(void)unused;
	REQUIRE(snprintf(text, sizeof(text), "%'d", 1234567) == 9 && strcmp(text, "1,234,567") == 0);
	REQUIRE(strcmp(setlocale(LC_NUMERIC, NULL), "en_US.UTF-8") == 0);
	REQUIRE(setlocale(LC_ALL, "C") && snprintf(text, sizeof(text), "%'d", 1234567) == 7);
	return (void *)1;
}

static void *load_locale(void *unused)
{
	char text[100];
	wchar_t wide[10];
	time_t winter = 1700000000;
	struct tm *parts;

	(void)unused;
	REQUIRE(setlocale(LC_ALL, "C.UTF-8") != NULL);
	REQUIRE(mbstowcs(wide, "\xc3\xa9t\xc3\xa9", 10) == 3 && wide[0] == 0xe9);
	setenv("TZ", "Asia/Tokyo", 1);
	tzset();
	REQUIRE((parts = localtime(&winter)) && parts->tm_hour == 7 && parts->tm_mday == 15);
	REQUIRE(strftime(text, sizeof(text), "%A %d %B %Y %Z", parts) > 0);
	REQUIRE(strcmp(text, "Wednesday 15 November 2023 JST") == 0);
	return (void *)1;
}

static void *load_locale_without_grant(void *unused)
{
	(void)unused;
	REQUIRE(setlocale(LC_ALL, "C.UTF-8") == NULL);
	return (void *)1;
}

static void locales(void)
{
	char command[PATH_MAX];
	sc_t sc;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(base));
	snprintf(command, sizeof(command), "localedef -i en_US -f UTF-8 %s/en_US.UTF-8 >/dev/null 2>&1", base);
	setenv("LOCPATH", base, 1);

	bool made = system(command) == 0 && setlocale(LC_ALL, "en_US.UTF-8");

	unsetenv("LOCPATH");
	live_init();
	sc_init(&sc);
	if (made)
		ASSERT_RETURNED(live_run(&sc, use_loaded_locale, NULL), 1);
	else
		harness_note("no locale en_US could be made (Debian: locales)");
	ASSERT_RETURNED(live_run(&sc, load_locale_without_grant, NULL), 1);
	if (access("/usr/lib/locale/C.utf8", F_OK) == 0 && access("/usr/share/zoneinfo/Asia/Tokyo", F_OK) == 0) {
		GRANT(&sc, SYS_open);
		grant_directory(&sc, "/usr/lib/locale", PROT_READ);
		grant_directory(&sc, "/usr/share/zoneinfo", PROT_READ);
		ASSERT_RETURNED(live_run(&sc, load_locale, NULL), 1);
	} else {
		harness_note("no locale C.utf8, or no time zones (Debian: tzdata)");
	}
	end(&sc);
}

/* glibc maps its tables of character sets shared; memory that processes share is another matter. */
static void shared_mappings(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int file = mkstemp(name), memory = memfd_create("memory", 0);
	uint8_t *seen[4];

	ASSERT_EQUAL(write(file, "f", 1) + write(memory, "m", 1), 2);
	seen[0] = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
	seen[1] = mmap(NULL, 4096, PROT_READ, MAP_SHARED, memory, 0);
	seen[2] = mmap(NULL, 4096, BOTH, MAP_SHARED, file, 0);
	seen[3] = mmap(NULL, 4096, BOTH, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	live_init();
	unlink(name);
	ASSERT_RETURNED(live_run_bare(body_read, seen[0]), 'f');
	ASSERT_PAGE_FAULT(live_run_bare(body_write, seen[0]), WRITE_DENIED, seen[0]);
	for (int i = 1; i < 4; i++)
		ASSERT_PAGE_FAULT(live_run_bare(body_read, seen[i]), READ_ABSENT, seen[i]);
}

/* ---- zlib -------------------------------------------------------------------------------------------------------- */

#ifdef HAVE_ZLIB
static void *use_zlib(void *unused)
{
	static unsigned char plain[100000], packed[110000], back[100000];
	uLongf size = sizeof(packed), back_size = sizeof(back);
	char line[20];

	(void)unused;
	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (unsigned char)(i * i >> 5);
	REQUIRE(compress(packed, &size, plain, sizeof(plain)) == Z_OK && size < sizeof(plain));
	REQUIRE(uncompress(back, &back_size, packed, size) == Z_OK && back_size == sizeof(back));
	REQUIRE(memcmp(plain, back, sizeof(plain)) == 0);

	gzFile file = gzopen("packed.gz", "wb");

	REQUIRE(file && gzprintf(file, "a line\n") == 7 && gzclose(file) == Z_OK);
	REQUIRE((file = gzopen("packed.gz", "rb")) && gzgets(file, line, sizeof(line)) && gzclose(file) == Z_OK);
	REQUIRE(strcmp(line, "a line\n") == 0);
	return (void *)1;
}

static void zlib(void)
{
	sc_t sc;

	begin(&sc);
	GRANT(&sc, SYS_open);
	ASSERT_RETURNED(live_run(&sc, use_zlib, NULL), 1);
	end(&sc);
}
#else
static void zlib(void)
{
	HARNESS_SKIP("built without zlib (Debian: zlib1g-dev)");
}
#endif

/* ---- SQLite ------------------------------------------------------------------------------------------------------ */

#ifdef HAVE_SQLITE
static int count_row(void *count, int columns, char **values, char **names)
{
	(void)columns, (void)names;
	*(int *)count = atoi(values[0]);
	return 0;
}

static int run_sql(sqlite3 *database, const char *statement, int *answer)
{
	return sqlite3_exec(database, statement, answer ? count_row : NULL, answer, NULL);
}

static void *use_database(void *unused)
{
	sqlite3 *database;
	int count = 0, result;

	(void)unused;
	REQUIRE(sqlite3_open("data.db", &database) == SQLITE_OK);
	REQUIRE(run_sql(database, "create table if not exists t(a integer primary key, b text)", NULL) == SQLITE_OK);
	REQUIRE(run_sql(database, "begin", NULL) == SQLITE_OK);
	for (int i = 0; i < 300; i++)
		REQUIRE(run_sql(database, "insert into t(b) values (hex(randomblob(50)))", NULL) == SQLITE_OK);
	REQUIRE(run_sql(database, "commit", NULL) == SQLITE_OK);
	REQUIRE(run_sql(database, "begin; delete from t; rollback", NULL) == SQLITE_OK);
	REQUIRE(run_sql(database, "select count(*) from t", &count) == SQLITE_OK && count % 300 == 0);
	REQUIRE(run_sql(database, "vacuum", NULL) == SQLITE_OK);
	REQUIRE(run_sql(database, "create index i on t(b); drop index i", NULL) == SQLITE_OK);
	REQUIRE(run_sql(database, "attach '/etc/passwd' as stolen; select count(*) from stolen.x", NULL) != SQLITE_OK);
	REQUIRE((result = sqlite3_close(database)) == SQLITE_OK);
	return (void *)(intptr_t)(1000 + count);
}

/* Holds a write transaction while it is parked. */
static void *hold_database(void *unused)
{
	sqlite3 *database;

	(void)unused;
	REQUIRE(sqlite3_open("data.db", &database) == SQLITE_OK);
	REQUIRE(run_sql(database, "begin exclusive", NULL) == SQLITE_OK);
	sthread_park();
	REQUIRE(run_sql(database, "insert into t(b) values ('held'); commit", NULL) == SQLITE_OK);
	REQUIRE(sqlite3_close(database) == SQLITE_OK);
	return (void *)1;
}

static void *find_it_locked(void *unused)
{
	sqlite3 *database;
	int count;

	(void)unused;
	REQUIRE(sqlite3_open("data.db", &database) == SQLITE_OK);
	REQUIRE(run_sql(database, "select count(*) from t", &count) == SQLITE_BUSY);
	REQUIRE(sqlite3_close(database) == SQLITE_OK);
	return (void *)1;
}

static void *wait_for_database(void *unused)
{
	sqlite3 *database;
	int count = 0;

	(void)unused;
	REQUIRE(sqlite3_open("data.db", &database) == SQLITE_OK);
	sqlite3_busy_timeout(database, 60000); /* sleeps between attempts */
	REQUIRE(run_sql(database, "select count(*) from t", &count) == SQLITE_OK && count == 601);
	REQUIRE(sqlite3_close(database) == SQLITE_OK);
	return (void *)1;
}

static void sqlite(void)
{
	char name[PATH_MAX];
	sthread_t holder, waiter;
	enum sthread_state state;
	sqlite3 *database;
	int count = 0;
	sc_t sc;

	begin(&sc);
	GRANT(&sc, SYS_open, SYS_stat, SYS_access, SYS_readlink, SYS_getcwd, SYS_unlink);
	ASSERT_RETURNED(live_run(&sc, use_database, NULL), 1300);
	ASSERT_RETURNED(live_run(&sc, use_database, NULL), 1600);
	/* Locks keep sthreads apart, and the process too. */
	ASSERT_EQUAL(live_create(&holder, &sc, hold_database, NULL), 0);
	ASSERT_RETURNED(live_run(&sc, find_it_locked, NULL), 1);
	snprintf(name, sizeof(name), "%s/data.db", base);
	ASSERT_EQUAL(sqlite3_open(name, &database), SQLITE_OK);
	ASSERT_EQUAL(run_sql(database, "select count(*) from t", &count), SQLITE_BUSY);
	ASSERT_EQUAL(live_create(&waiter, &sc, wait_for_database, NULL), 0);
	ASSERT_EQUAL(sthread_state(waiter, &state), 0);
	ASSERT_EQUAL(state, STHREAD_PARKED);
	ASSERT_EQUAL(live_step(holder), 0);
	ASSERT_RETURNED(live_join(holder), 1);
	ASSERT_RETURNED(live_join(waiter), 1);
	ASSERT_EQUAL(run_sql(database, "select count(*) from t", &count), SQLITE_OK);
	ASSERT_EQUAL(count, 601);
	ASSERT_EQUAL(run_sql(database, "pragma quick_check", NULL), SQLITE_OK);
	sqlite3_close(database);
	end(&sc);
}
#else
static void sqlite(void)
{
	HARNESS_SKIP("built without SQLite (Debian: libsqlite3-dev)");
}
#endif

/* ---- libevent ---------------------------------------------------------------------------------------------------- */

#ifdef HAVE_LIBEVENT
struct loop {
	struct event_base *base;
	int turns, ticks;
};

static void echo(evutil_socket_t fd, short what, void *argument)
{
	struct loop *loop = argument;
	char text[10];
	ssize_t got = read(fd, text, sizeof(text));

	(void)what;
	if (got <= 0) {
		event_base_loopbreak(loop->base);
		return;
	}
	loop->turns++;
	(void)!write(fd, text, (size_t)got);
}

static void tick(evutil_socket_t fd, short what, void *argument)
{
	(void)fd, (void)what;
	((struct loop *)argument)->ticks++;
}

static void *run_loop(void *argument)
{
	const int *fds = argument;
	struct loop loop = { .base = event_base_new() };

	REQUIRE(loop.base != NULL);

	bool epoll = strcmp(event_base_get_method(loop.base), "epoll") == 0;
	struct event *input[2], *timer = event_new(loop.base, -1, EV_PERSIST, tick, &loop);

	for (int i = 0; i < 2; i++) {
		input[i] = event_new(loop.base, fds[i], EV_READ | EV_PERSIST, echo, &loop);
		REQUIRE(input[i] && event_add(input[i], NULL) == 0);
	}
	REQUIRE(event_add(timer, &(struct timeval){ .tv_usec = 5000 }) == 0);
	REQUIRE(event_base_dispatch(loop.base) == 0);
	REQUIRE(loop.turns == 4 && loop.ticks > 0);
	for (int i = 0; i < 2; i++)
		event_free(input[i]);
	event_free(timer);
	event_base_free(loop.base);
	return (void *)(epoll ? (intptr_t)2 : 1);
}

static void libevent(void)
{
	tag_t tag;

	live_init();
	tag = tag_new();

	int *fds = smalloc(tag, 2 * sizeof(int));

	for (int with_epoll = 0; with_epoll < 2; with_epoll++) {
		int pairs[2][2];
		sthread_t st;
		sc_t sc;
		struct life life;

		sc_init(&sc);
		sc_mem_add(&sc, tag, PROT_READ);
		GRANT(&sc, SYS_pipe); /* every event base makes one, for signals, or exits */
		if (with_epoll)
			GRANT(&sc, SYS_epoll_create1);
		for (int i = 0; i < 2; i++) {
			ASSERT_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]), 0);
			fds[i] = pairs[i][1];
			sc_fd_add(&sc, fds[i], BOTH);
		}
		ASSERT_EQUAL(live_create(&st, &sc, run_loop, fds), 0);
		for (int turn = 0; turn < 4; turn++) {
			char text[10];
			struct timespec some = { .tv_nsec = 10000000 };
			ssize_t got;

			ASSERT_EQUAL(write(pairs[turn % 2][0], "abc", 3), 3);
			nanosleep(&some, NULL);
			for (int tries = 0; tries < 100; tries++) {
				ASSERT_EQUAL(live_step(st), 0);
				got = recv(pairs[turn % 2][0], text, 10, MSG_DONTWAIT);
				if (got >= 0)
					break;
			}
			ASSERT_EQUAL(got, 3);
		}
		close(pairs[0][0]);
		life = live_join(st);
		ASSERT_RETURNED(life, with_epoll ? 2 : 1); /* without the grant libevent takes poll */
		sc_destroy(&sc);
		close(pairs[1][0]);
		for (int i = 0; i < 2; i++)
			close(pairs[i][1]);
	}
}
#else
static void libevent(void)
{
	HARNESS_SKIP("built without libevent (Debian: libevent-dev)");
}
#endif

static const struct harness_test tests[] = {
	{ "stdio works on files beneath a granted directory", stdio, HARNESS_FORK },
	{ "locales and time zones are those of the snapshot, or loaded from granted directories", locales, HARNESS_FORK,
	  .seconds = 60 },
	{ "a file mapped shared for reading is seen, shared memory is not", shared_mappings, HARNESS_FORK },
	{ "zlib compresses memory and files", zlib, HARNESS_FORK },
	{ "SQLite reads and writes a database, and its locks hold", sqlite, HARNESS_FORK, .seconds = 60 },
	{ "libevent runs a loop with epoll, or with poll", libevent, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
