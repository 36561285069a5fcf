/* live_files.c - the descriptors and paths that a policy grants. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "live.h"

enum {
	PAGE = 4096,
	BOTH = PROT_READ | PROT_WRITE
};

/* What a body is told, in a tag, and what it answers there. */
struct shared {
	int fds[8];
	char path[256], text[1000];
	int flags, error;
	int64_t numbers[2];
};

static struct shared *share(sc_t *sc)
{
	tag_t tag = tag_new();
	struct shared *shared = smalloc(tag, sizeof(*shared));

	CU_ASSERT_PTR_NOT_NULL_FATAL(shared);
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, BOTH), 0);
	return shared;
}

static int temporary_file(void)
{
	char name[] = "/tmp/sthread-test-XXXXXX";
	int fd = mkstemp(name);

	unlink(name);
	return fd;
}

/* A body returns 1, or the line that failed. */
#define REQUIRE(condition)                         \
	do {                                       \
		if (!(condition))                  \
			return (void *)(__LINE__); \
	} while (0)

/* ---- files ------------------------------------------------------------------------------------------------------- */

static void *use_file(void *argument)
{
	struct shared *shared = argument;
	int fd = shared->fds[0];
	char a[10], b[10];
	struct iovec out[] = { { "one,", 4 }, { NULL, 0 }, { "two,", 4 } }, in[] = { { a, 2 }, { b, 10 } };
	struct stat status;

	REQUIRE(write(fd, "zero,", 5) == 5);
	REQUIRE(writev(fd, out, 3) == 8);
	REQUIRE(lseek(fd, 0, SEEK_CUR) == 13);
	REQUIRE(lseek(fd, 5, SEEK_SET) == 5);
	REQUIRE(readv(fd, in, 2) == 8);
	REQUIRE(memcmp(a, "on", 2) == 0 && memcmp(b, "e,two,", 6) == 0);
	REQUIRE(read(fd, a, 10) == 0);
	REQUIRE(pread(fd, a, 4, 0) == 4 && memcmp(a, "zero", 4) == 0);
	REQUIRE(fstat(fd, &status) == 0 && status.st_size == 13 && S_ISREG(status.st_mode));
	REQUIRE((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
	REQUIRE(lseek(fd, -1, SEEK_SET) == -1 && errno == EINVAL);
	REQUIRE(write(fd, "", 0) == 0 && read(fd, a, 0) == 0);
	REQUIRE(!isatty(fd));
	REQUIRE(close(fd) == 0);
	REQUIRE(close(fd) == -1 && errno == EBADF);
	REQUIRE(read(fd, a, 1) == -1 && errno == EBADF);
	return (void *)1;
}

static void files(void)
{
	int fd = temporary_file();
	char text[20] = "";
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	sc_fd_add(&sc, fd, BOTH);
	shared->fds[0] = fd;
	for (int i = 0; i < 3; i++) { /* each life has its own table: closing is its own affair */
		ASSERT_EQUAL(ftruncate(fd, 0), 0);
		ASSERT_EQUAL(lseek(fd, 0, SEEK_SET), 0);
		ASSERT_RETURNED(live_run(&sc, use_file, shared), 1);
	}
	ASSERT_EQUAL(pread(fd, text, 13, 0), 13);
	CU_ASSERT_STRING_EQUAL(text, "zero,one,two,");
	ASSERT_EQUAL(fcntl(fd, F_GETFD), 0);
	sc_destroy(&sc);
}

static void *use_rights(void *argument)
{
	struct shared *shared = argument;
	char a[10];
	int reads = shared->fds[0], writes = shared->fds[1], none = shared->fds[2];

	REQUIRE(read(reads, a, 3) == 3);
	REQUIRE(write(reads, a, 3) == -1 && errno == EBADF);
	REQUIRE(write(writes, a, 3) == 3);
	REQUIRE(read(writes, a, 3) == -1 && errno == EBADF);
	REQUIRE(pread(writes, a, 3, 0) == -1 && errno == EBADF);
	REQUIRE(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, writes, 0) == MAP_FAILED && errno == EBADF);
	REQUIRE(read(none, a, 3) == -1 && errno == EBADF);
	REQUIRE(write(none, a, 3) == -1 && errno == EBADF);
	REQUIRE(lseek(none, 0, SEEK_CUR) == -1 && errno == EBADF);
	int again[] = { dup(reads), fcntl(reads, F_DUPFD_CLOEXEC, 50), dup2(reads, 60) };
	for (int i = 0; i < 3; i++) { /* a second number has the same rights */
		REQUIRE(again[i] >= 0 && read(again[i], a, 0) == 0);
		REQUIRE(write(again[i], a, 3) == -1 && errno == EBADF);
	}
	REQUIRE(again[1] == 50 && again[2] == 60);
	REQUIRE((fcntl(reads, F_GETFL) & O_ACCMODE) == O_RDONLY && (fcntl(writes, F_GETFL) & O_ACCMODE) == O_WRONLY);
	REQUIRE(fcntl(writes, F_SETFL, O_APPEND) == -1 && errno == EPERM); /* it would change the open file */
	REQUIRE(ftruncate(writes, 0) == -1 && errno == EPERM);
	REQUIRE(fsync(writes) == -1 && errno == EPERM);
	REQUIRE(flock(writes, LOCK_EX) == -1 && errno == EPERM);
	for (int fd = 0; fd < 3; fd++) /* standard descriptors are not granted by themselves */
		REQUIRE(write(fd, a, 1) == -1 && errno == EBADF);
	return (void *)1;
}

static void rights(void)
{
	int fd = temporary_file(), second;
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	ASSERT_EQUAL(write(fd, "abcdef", 6), 6);
	ASSERT_EQUAL(lseek(fd, 0, SEEK_SET), 0);
	second = dup(fd);
	shared->fds[0] = fd;
	shared->fds[1] = second;
	shared->fds[2] = dup(fd);
	sc_fd_add(&sc, fd, PROT_READ);
	sc_fd_add(&sc, second, PROT_WRITE);
	ASSERT_RETURNED(live_run(&sc, use_rights, shared), 1);
	ASSERT_EQUAL(lseek(fd, 0, SEEK_END), 6);
	sc_destroy(&sc);
}

/* Law 10. */
static void *read_twice(void *argument)
{
	struct shared *shared = argument;

	REQUIRE(read(shared->fds[0], shared->text, 1) == 1);
	REQUIRE(read(shared->fds[0], shared->text + 1, 1) == 1);
	return (void *)1;
}

static void numbers_are_not_objects(void)
{
	int granted[2], other[2], reused;
	enum sthread_state state;
	sthread_t st;
	sc_t sc;

	live_init();

	struct shared *shared = share(&sc);

	ASSERT_EQUAL(pipe(granted), 0);
	ASSERT_EQUAL(pipe(other), 0);
	ASSERT_EQUAL(write(other[1], "XYZ", 3), 3);
	shared->fds[0] = granted[0];
	sc_fd_add(&sc, granted[0], PROT_READ);
	ASSERT_EQUAL(live_create(&st, &sc, read_twice, shared), 0);
	/* Under the parked sthread the number is closed and names something else. */
	close(granted[0]);
	reused = dup2(other[0], granted[0]);
	ASSERT_EQUAL(reused, granted[0]);
	sc_destroy(&sc);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_EQUAL(sthread_state(st, &state), 0);
	ASSERT_EQUAL(state, STHREAD_PARKED);
	ASSERT_EQUAL(write(granted[1], "a", 1), 1);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_EQUAL(shared->text[0], 'a');
	ASSERT_EQUAL(write(granted[1], "b", 1), 1);
	ASSERT_RETURNED(live_join(st), 1);
	ASSERT_EQUAL(shared->text[1], 'b');
	ASSERT_EQUAL(read(other[0], shared->text, 3), 3);
	/* The sthread held the last end for reading: it is closed now. */
	signal(SIGPIPE, SIG_IGN);
	ASSERT_ERROR(write(granted[1], "c", 1) == -1, EPIPE);
}

/* ---- paths ------------------------------------------------------------------------------------------------------- */

static void *open_path(void *argument)
{
	struct shared *shared = argument;
	int fd = open(shared->path, shared->flags, 0600);

	memset(shared->text, 0, sizeof(shared->text));
	if (fd < 0)
		return (void *)(intptr_t)-errno;
	if ((shared->flags & O_ACCMODE) == O_RDONLY && !(shared->flags & O_DIRECTORY)) {
		ssize_t got = read(fd, shared->text, sizeof(shared->text) - 1);

		if (got < 0)
			return (void *)(intptr_t)(-1000 - errno);
	} else if (!(shared->flags & O_DIRECTORY) && write(fd, "written", 7) != 7) {
		return (void *)(intptr_t)(-2000 - errno);
	}
	close(fd);
	return (void *)1;
}

static char base[] = "/tmp/sthread-test-XXXXXX";

static char *in_base(const char *name)
{
	static char path[4][PATH_MAX];
	static int turn;

	turn = (turn + 1) % 4;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", base, name);
	return path[turn];
}

static void put_file(const char *name, const char *text)
{
	int fd = open(in_base(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	ASSERT_EQUAL(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static long try_open(struct shared *shared, const sc_t *sc, const char *path, int flags)
{
	struct life life;

	snprintf(shared->path, sizeof(shared->path), "%s", path);
	shared->flags = flags;
	life = live_run(sc, open_path, shared);
	ASSERT_END(life, STHREAD_RETURNED);
	return (long)life.value;
}

#define ASSERT_OPEN(name, how, content)                            \
	do {                                                       \
		ASSERT_EQUAL(try_open(shared, &sc, name, how), 1); \
		CU_ASSERT_STRING_EQUAL(shared->text, content);     \
	} while (0)
#define ASSERT_NO_OPEN(name, how, reason) ASSERT_EQUAL(try_open(shared, &sc, name, how), -(reason))

static void make_files(void)
{
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(base));
	mkdir(in_base("granted"), 0700);
	mkdir(in_base("granted/below"), 0700);
	mkdir(in_base("granted-not"), 0700);
	put_file("granted/file", "inside");
	put_file("granted/below/file", "deeper");
	put_file("granted-not/file", "outside");
	put_file("secret", "secret");
	ASSERT_EQUAL(symlink("../secret", in_base("granted/up")), 0);
	ASSERT_EQUAL(symlink(in_base("secret"), in_base("granted/absolute")), 0);
	ASSERT_EQUAL(symlink("..", in_base("granted/parent")), 0);
	ASSERT_EQUAL(symlink("file", in_base("granted/within")), 0);
	ASSERT_EQUAL(symlink("/proc/self/mem", in_base("granted/magic")), 0);
	ASSERT_EQUAL(mkfifo(in_base("granted/fifo"), 0600), 0);
}

static void remove_files(void)
{
	char command[PATH_MAX];

	snprintf(command, sizeof(command), "rm -rf '%s'", base);
	ASSERT_EQUAL(system(command), 0);
}

static void paths(void)
{
	sc_t sc;
	int directory;

	make_files();
	directory = open(in_base("granted"), O_RDONLY | O_DIRECTORY);
	live_init();

	struct shared *shared = share(&sc);

	ASSERT_NO_OPEN("file", O_RDONLY, EPERM); /* neither the call is granted */
	sc_sys_add(&sc, SYS_open);
	ASSERT_NO_OPEN("file", O_RDONLY, EACCES); /* nor any directory */
	sc_path_add(&sc, directory, PROT_READ);
	ASSERT_OPEN("file", O_RDONLY, "inside");
	ASSERT_OPEN("below/file", O_RDONLY, "deeper");
	ASSERT_OPEN("below/../file", O_RDONLY, "inside");
	ASSERT_OPEN("./file", O_RDONLY, "inside");
	ASSERT_OPEN("within", O_RDONLY, "inside");
	ASSERT_OPEN(in_base("granted/file"), O_RDONLY, "inside");
	ASSERT_OPEN(".", O_RDONLY | O_DIRECTORY, "");
	ASSERT_OPEN(in_base("granted"), O_RDONLY | O_DIRECTORY, "");
	ASSERT_NO_OPEN("within", O_RDONLY | O_NOFOLLOW, ELOOP);
	ASSERT_NO_OPEN("nothing", O_RDONLY, ENOENT);
	ASSERT_NO_OPEN("", O_RDONLY, ENOENT);
	ASSERT_NO_OPEN("file/", O_RDONLY, ENOTDIR);
	static const char *const ways_out[] = { "..",
						"../secret",
						"below/../../secret",
						"up",
						"absolute",
						"parent/secret",
						"parent",
						"magic",
						"/etc/passwd",
						"/",
						"//etc/passwd",
						"/proc/self/mem",
						"/proc/self/maps",
						"/dev/null",
						"/dev/kvm",
						"/tmp",
						"/sys/kernel",
						"../granted-not/file",
						"/proc/self/fd/0" };

	for (size_t i = 0; i < sizeof(ways_out) / sizeof(*ways_out); i++)
		ASSERT_NO_OPEN(ways_out[i], O_RDONLY, EACCES);
	ASSERT_NO_OPEN(in_base("granted/../secret"), O_RDONLY, EACCES);
	ASSERT_NO_OPEN(in_base("granted-not/file"), O_RDONLY, EACCES);
	ASSERT_NO_OPEN(in_base("granted//etc/passwd"), O_RDONLY, EACCES);
	/* Reading is not writing, and opening with O_CREAT or O_TRUNC is writing. */
	static const int writing[] = { O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_RDONLY | O_CREAT, O_WRONLY | O_APPEND };

	for (size_t i = 0; i < sizeof(writing) / sizeof(*writing); i++)
		ASSERT_NO_OPEN("file", writing[i], EACCES);
	ASSERT_NO_OPEN("new", O_WRONLY | O_CREAT, EACCES);
	ASSERT_NO_OPEN("file", O_RDONLY | O_PATH, EINVAL);
	ASSERT_NO_OPEN(".", O_RDWR | O_TMPFILE, EINVAL);
	CU_ASSERT(access(in_base("granted/new"), F_OK) == -1);
	ASSERT_OPEN("file", O_RDONLY, "inside");
	sc_destroy(&sc);

	/* With the right to write. */
	shared = share(&sc);
	sc_sys_add(&sc, SYS_openat);
	sc_path_add(&sc, directory, BOTH);
	ASSERT_EQUAL(try_open(shared, &sc, "new", O_WRONLY | O_CREAT | O_EXCL), 1);
	ASSERT_OPEN("new", O_RDONLY, "written");
	ASSERT_NO_OPEN("new", O_WRONLY | O_CREAT | O_EXCL, EEXIST);
	ASSERT_NO_OPEN("../new", O_WRONLY | O_CREAT, EACCES);
	ASSERT_NO_OPEN("up", O_WRONLY, EACCES);
	sc_destroy(&sc);

	/* To write only: what it opens cannot be read. */
	shared = share(&sc);
	sc_sys_add(&sc, SYS_openat);
	sc_path_add(&sc, directory, PROT_WRITE);
	ASSERT_NO_OPEN("file", O_RDONLY, EACCES);
	ASSERT_NO_OPEN("file", O_RDWR, EACCES);
	ASSERT_EQUAL(try_open(shared, &sc, "file", O_WRONLY), 1);
	sc_destroy(&sc);
	remove_files();
}

static void special_files(void)
{
	static const char *const directories[] = { "/proc", "/proc/self", "/sys", "/dev" };
	static const char *const names[] = { "self/mem", "maps", "kernel/notes", "null" };
	static const char *const absolute[] = { "/proc/self/mem", "/proc/self/maps", "/sys/kernel/notes", "/dev/null" };
	sc_t sc;

	live_init();
	for (size_t i = 0; i < sizeof(directories) / sizeof(*directories); i++) {
		struct shared *shared = share(&sc);
		int directory = open(directories[i], O_RDONLY | O_DIRECTORY);

		sc_sys_add(&sc, SYS_open);
		/* Refused at once, or at each file. */
		if (directory < 0 || sc_path_add(&sc, directory, BOTH) != 0)
			continue;
		for (int absolutely = 0; absolutely < 2; absolutely++) {
			long answer = try_open(shared, &sc, absolutely ? absolute[i] : names[i], O_RDONLY);

			live_check(answer == -EACCES || answer == -ENOENT, __FILE__, __LINE__, "%s: %ld", absolute[i],
				   answer);
		}
		sc_destroy(&sc);
		close(directory);
	}
}

static void *open_many(void *argument)
{
	struct shared *shared = argument;
	int fds[200], count = 0;

	while (count < 200 && (fds[count] = open("file", O_RDONLY)) >= 0)
		count++;
	shared->error = errno;
	for (int i = 0; i < count; i++)
		REQUIRE(close(fds[i]) == 0);
	shared->numbers[0] = count;
	REQUIRE(open("file", O_RDONLY) >= 0); /* left open */
	return (void *)1;
}

static void many_open_files(void)
{
	int directory, fds;
	sc_t sc;

	make_files();
	directory = open(in_base("granted"), O_RDONLY | O_DIRECTORY);
	live_init();

	struct shared *shared = share(&sc);

	sc_sys_add(&sc, SYS_open);
	sc_path_add(&sc, directory, PROT_READ);
	fds = live_open_fds();
	for (int i = 0; i < 3; i++) {
		ASSERT_RETURNED(live_run(&sc, open_many, shared), 1);
		ASSERT_EQUAL(shared->error, EMFILE);
		CU_ASSERT(shared->numbers[0] > 10 && shared->numbers[0] < 200);
		ASSERT_EQUAL(live_open_fds(), fds);
	}
	sc_destroy(&sc);
	remove_files();
}

static const struct harness_test tests[] = {
	{ "a granted file is read, written, sought and closed", files, HARNESS_FORK },
	{ "a descriptor has the rights it was granted with", rights, HARNESS_FORK },
	{ "closing and reusing a descriptor's number in the process changes nothing", numbers_are_not_objects,
	  HARNESS_FORK },
	{ "paths lead nowhere but beneath the granted directory", paths, HARNESS_FORK },
	{ "proc, sysfs and devices cannot be opened", special_files, HARNESS_FORK },
	{ "open files are limited, and closed at the end", many_open_files, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
