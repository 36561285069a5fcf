/* live_names.c - calls on names of files beneath a granted directory, and what they may do there. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "live.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

static char base[] = "/tmp/sthread-test-XXXXXX";

/* A body returns 1, or the line that failed. */
#define REQUIRE(condition)                         \
	do {                                       \
		if (!(condition))                  \
			return (void *)(__LINE__); \
	} while (0)
#define REFUSED(call, reason) REQUIRE((errno = 0, (call) == -1) && errno == (reason))

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

/* Makes the files and a policy for granted/ with these rights. */
static void begin(sc_t *sc, int rights)
{
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(base));
	mkdir(in_base("granted"), 0700);
	mkdir(in_base("granted/below"), 0700);
	mkdir(in_base("other"), 0700);
	put_file("granted/file", "inside");
	put_file("granted/below/file", "deeper");
	put_file("other/file", "outside");
	put_file("secret", "secret");
	ASSERT_EQUAL(symlink("../secret", in_base("granted/up")), 0);
	ASSERT_EQUAL(symlink("..", in_base("granted/parent")), 0);
	ASSERT_EQUAL(symlink("file", in_base("granted/within")), 0);
	live_init();

	int directory = open(in_base("granted"), O_RDONLY | O_DIRECTORY);

	sc_init(sc);
	ASSERT_EQUAL(sc_path_add(sc, directory, rights), 0);
	close(directory);
}

static void end(sc_t *sc)
{
	char command[PATH_MAX];

	sc_destroy(sc);
	snprintf(command, sizeof(command), "rm -rf '%s'", base);
	ASSERT_EQUAL(system(command), 0);
}

static void grant(sc_t *sc, const int *calls, int count)
{
	for (int i = 0; i < count; i++)
		ASSERT_EQUAL(sc_sys_add(sc, calls[i]), 0);
}
#define GRANT(sc, ...) grant(sc, (const int[]){ __VA_ARGS__ }, sizeof((const int[]){ __VA_ARGS__ }) / sizeof(int))

/* ---- asking ------------------------------------------------------------------------------------------------------ */

static const char *const ways_out[] = { "..",        "../secret",     "below/../../secret", "up",
					"parent",    "parent/secret", "/etc/passwd",        "/proc/self/mem",
					"/dev/null", "../other/file", "/sys/kernel/notes",  "//etc/passwd" };
enum {
	WAYS_OUT = sizeof(ways_out) / sizeof(*ways_out)
};

static void *ask(void *path)
{
	char name[PATH_MAX], text[100];
	struct stat status;
	struct statx extended;

	REQUIRE(stat("file", &status) == 0 && status.st_size == 6 && S_ISREG(status.st_mode));
	REQUIRE(stat("within", &status) == 0 && S_ISREG(status.st_mode));
	REQUIRE(lstat("within", &status) == 0 && S_ISLNK(status.st_mode));
	REQUIRE(lstat("up", &status) == 0 && S_ISLNK(status.st_mode)); /* the link itself lies within */
	REQUIRE(statx(AT_FDCWD, "below/file", 0, STATX_SIZE, &extended) == 0 && extended.stx_size == 6);
	REQUIRE(syscall(SYS_stat, ".", &status) == 0 && S_ISDIR(status.st_mode));
	REFUSED(stat("nothing", &status), ENOENT);
	REFUSED(stat("", &status), ENOENT);
	REFUSED(fstatat(5, "file", &status, 0), EBADF);
	REFUSED(statx(AT_FDCWD, "file", 0x10000, STATX_SIZE, &extended), EINVAL);
	for (int i = 0; i < WAYS_OUT; i++) {
		REFUSED(stat(ways_out[i], &status), EACCES);
		REFUSED(statx(AT_FDCWD, ways_out[i], 0, STATX_SIZE, &extended), EACCES);
		REFUSED(access(ways_out[i], F_OK), EACCES);
		if (strcmp(ways_out[i], "up") != 0 && strcmp(ways_out[i], "parent") != 0) {
			REFUSED(lstat(ways_out[i], &status), EACCES);
			REFUSED(readlink(ways_out[i], text, sizeof(text)), EACCES);
		}
	}
	REQUIRE(access("file", R_OK) == 0 && access("below/..", F_OK) == 0);
	REFUSED(access("file", W_OK), EACCES);
	REFUSED(access("nothing", F_OK), ENOENT);
	REFUSED(access("file", 64), EINVAL);
	REQUIRE(syscall(SYS_faccessat2, AT_FDCWD, "up", F_OK, AT_SYMLINK_NOFOLLOW) == 0);
	REQUIRE(readlink("within", text, sizeof(text)) == 4 && memcmp(text, "file", 4) == 0);
	REQUIRE(readlink("within", text, 2) == 2);
	REFUSED(readlink("file", text, sizeof(text)), EINVAL);
	REFUSED(readlink("within", text, 0), EINVAL);
	REFUSED(syscall(SYS_readlink, "within", 16, 10), EFAULT);
	/* The first granted directory is where relative names are looked up: it is the working directory. */
	REQUIRE(getcwd(name, sizeof(name)) != NULL && strcmp(name, path) == 0);
	REQUIRE(getcwd(name, 5) == NULL && errno == ERANGE);
	strcat(name, "/file");
	REQUIRE(stat(name, &status) == 0 && status.st_size == 6);
	/* Programs walk down from the root: that those are directories, and nothing else, is said of what lies above. */
	for (char *slash = strrchr(name, '/'); slash != name; slash = strrchr(name, '/')) {
		*slash = 0;
		REQUIRE(lstat(name, &status) == 0 && S_ISDIR(status.st_mode));
		REQUIRE(access(name, F_OK) == 0);
	}
	REQUIRE(lstat("/tmp", &status) == 0 && status.st_ino == 0 && status.st_mtime == 0);
	REFUSED(open("/tmp", O_RDONLY | O_DIRECTORY), EACCES);
	REFUSED(access("/tmp", W_OK), EACCES);
	REFUSED(lstat("/tm", &status), EACCES);
	REQUIRE(realpath("below/../within", name) != NULL && strstr(name, "/granted/file") != NULL);
	return (void *)1;
}

static void *ask_without_grant(void *unused)
{
	struct stat status;
	char text[100];

	(void)unused;
	REFUSED(stat("file", &status), EPERM);
	REFUSED(fstatat(AT_FDCWD, "file", &status, 0), EPERM);
	REFUSED(statx(AT_FDCWD, "file", 0, STATX_SIZE, (struct statx *)text), EPERM);
	REFUSED(access("file", R_OK), EPERM);
	REFUSED(readlink("within", text, sizeof(text)), EPERM);
	REFUSED(mkdir("new", 0700), EPERM);
	REFUSED(unlink("file"), EPERM);
	REFUSED(rmdir("below"), EPERM);
	REFUSED(rename("file", "new"), EPERM);
	REQUIRE(getcwd(text, sizeof(text)) == NULL && errno == EPERM);
	return (void *)1;
}

static void asking(void)
{
	sc_t sc;

	begin(&sc, PROT_READ);
	ASSERT_RETURNED(live_run(&sc, ask_without_grant, NULL), 1);
	GRANT(&sc, SYS_stat, SYS_access, SYS_readlink, SYS_getcwd, SYS_open);

	/* Bodies see argv and the snapshot only: the path goes in a tag. */
	tag_t tag = tag_new();
	char *path = smalloc(tag, PATH_MAX);

	ASSERT_EQUAL(sc_mem_add(&sc, tag, PROT_READ), 0);
	snprintf(path, PATH_MAX, "%s", in_base("granted"));
	ASSERT_RETURNED(live_run(&sc, ask, path), 1);
	end(&sc);
}

/* ---- changing ---------------------------------------------------------------------------------------------------- */

static void *change(void *unused)
{
	struct stat status;
	int fd;

	(void)unused;
	REQUIRE(mkdir("new", 0755) == 0 && stat("new", &status) == 0 && S_ISDIR(status.st_mode));
	REFUSED(mkdir("new", 0755), EEXIST);
	REQUIRE(mkdir("new/deeper/", 04777) == 0 && stat("new/deeper", &status) == 0 && !(status.st_mode & S_ISUID));
	REFUSED(rmdir("new"), ENOTEMPTY);
	REQUIRE(rmdir("new/deeper") == 0);
	REQUIRE((fd = open("new/one", O_RDWR | O_CREAT | O_EXCL, 06600)) >= 0);
	REQUIRE(fstat(fd, &status) == 0 && (status.st_mode & 07777) == 0600); /* never set-user-id */
	REQUIRE(rename("new/one", "new/two") == 0 && access("new/one", F_OK) == -1 && access("new/two", F_OK) == 0);
	REQUIRE(syscall(SYS_renameat2, AT_FDCWD, "new/two", AT_FDCWD, "file", 1) == -1 && errno == EEXIST);
	REQUIRE(syscall(SYS_renameat2, AT_FDCWD, "new/two", AT_FDCWD, "file", 2) == -1 && errno == EINVAL);
	/* The file it opened itself it may change in every way. */
	REQUIRE(pwrite(fd, "abcdef", 6, 0) == 6 && ftruncate(fd, 3) == 0 && fsync(fd) == 0 && fdatasync(fd) == 0);
	REQUIRE(posix_fallocate(fd, 0, 8192) == 0 && fstat(fd, &status) == 0 && status.st_size == 8192);
	REQUIRE(syscall(SYS_fallocate, fd, 3, 0, 10) == -1 && errno == EOPNOTSUPP);
	REQUIRE(close(fd) == 0);
	REQUIRE(unlink("new/two") == 0 && rmdir("new") == 0);
	REFUSED(unlink("below"), EISDIR);
	REFUSED(unlink("nothing"), ENOENT);
	REFUSED(rmdir("below/."), EINVAL);
	REFUSED(rmdir("below/.."), EINVAL);
	REFUSED(rmdir("."), EINVAL);
	for (int i = 0; i < WAYS_OUT; i++) {
		if (strcmp(ways_out[i], "up") == 0 || strcmp(ways_out[i], "parent") == 0 || i == 0)
			continue;
		REFUSED(unlink(ways_out[i]), EACCES);
		REFUSED(rename(ways_out[i], "stolen"), EACCES);
		REFUSED(rename("file", ways_out[i]), EACCES);
		REFUSED(mkdir(ways_out[i], 0700), EACCES);
	}
	/* A link that leads out is removed and renamed as such. */
	REQUIRE(rename("up", "renamed") == 0 && unlink("renamed") == 0);
	REFUSED(mkdir("parent/new", 0700), EACCES);
	REFUSED(unlink("parent/other/file"), EACCES);
	return (void *)1;
}

static void *change_read_only(void *unused)
{
	(void)unused;
	REFUSED(mkdir("new", 0700), EACCES);
	REFUSED(unlink("file"), EACCES);
	REFUSED(rmdir("below"), EACCES);
	REFUSED(rename("file", "new"), EACCES);
	return (void *)1;
}

static void changing(void)
{
	sc_t sc, read_only;
	char text[10] = "";
	int fd;

	begin(&sc, BOTH);
	GRANT(&sc, SYS_open, SYS_stat, SYS_access, SYS_mkdir, SYS_unlink, SYS_rename);
	ASSERT_RETURNED(live_run(&sc, change, NULL), 1);
	ASSERT_EQUAL(access(in_base("secret"), F_OK), 0);
	ASSERT_EQUAL(access(in_base("other/file"), F_OK), 0);
	fd = open(in_base("granted/file"), O_RDONLY);
	ASSERT_EQUAL(read(fd, text, 10), 6);
	CU_ASSERT_STRING_EQUAL(text, "inside");
	close(fd);

	sc_init(&read_only);
	fd = open(in_base("granted"), O_RDONLY | O_DIRECTORY);
	sc_path_add(&read_only, fd, PROT_READ);
	GRANT(&read_only, SYS_open, SYS_mkdir, SYS_unlink, SYS_rename);
	ASSERT_RETURNED(live_run(&read_only, change_read_only, NULL), 1);
	sc_destroy(&read_only);
	end(&sc);
}

/* In a tag: the absolute paths that a body uses. */
struct paths {
	char hidden[PATH_MAX], stolen[PATH_MAX], own[PATH_MAX], given[PATH_MAX];
};

static void *move_between(void *argument)
{
	const struct paths *paths = argument;

	REFUSED(open(paths->hidden, O_RDONLY), EACCES);
	REFUSED(rename(paths->hidden, paths->stolen), EACCES);
	REFUSED(open(paths->stolen, O_RDONLY), ENOENT);
	REQUIRE(rename(paths->own, paths->given) == 0);
	return (void *)1;
}

static void moving(void)
{
	sc_t sc;

	begin(&sc, BOTH);

	int other = open(in_base("other"), O_RDONLY | O_DIRECTORY);
	tag_t tag = tag_new();
	struct paths *paths = smalloc(tag, sizeof(*paths));

	ASSERT_EQUAL(sc_path_add(&sc, other, PROT_WRITE), 0);
	ASSERT_EQUAL(sc_mem_add(&sc, tag, PROT_READ), 0);
	GRANT(&sc, SYS_open, SYS_rename);
	snprintf(paths->hidden, PATH_MAX, "%s", in_base("other/file"));
	snprintf(paths->stolen, PATH_MAX, "%s", in_base("granted/stolen"));
	snprintf(paths->own, PATH_MAX, "%s", in_base("granted/file"));
	snprintf(paths->given, PATH_MAX, "%s", in_base("other/given"));
	ASSERT_RETURNED(live_run(&sc, move_between, paths), 1);
	ASSERT_EQUAL(access(in_base("other/file"), F_OK), 0);
	ASSERT_EQUAL(access(in_base("other/given"), F_OK), 0);
	close(other);
	end(&sc);
}

/* ---- file systems that are not data ------------------------------------------------------------------------------ */

static void *open_mounted(void *unused)
{
	(void)unused;
	REFUSED(open("below/register", O_WRONLY), EACCES);
	REFUSED(open("below/status", O_RDONLY), EACCES);
	REFUSED(open("below", O_RDONLY | O_DIRECTORY), EACCES);
	REQUIRE(open("file", O_RDWR) >= 0);
	return (void *)1;
}

static void mounted(void)
{
	sc_t sc;

	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		HARNESS_SKIP("mounting is not allowed here");
	begin(&sc, BOTH);
	if (mount("binfmt_misc", in_base("granted/below"), "binfmt_misc", 0, NULL) != 0) {
		end(&sc);
		HARNESS_SKIP("binfmt_misc cannot be mounted here");
	}
	GRANT(&sc, SYS_open);
	ASSERT_RETURNED(live_run(&sc, open_mounted, NULL), 1);
	ASSERT_EQUAL(umount(in_base("granted/below")), 0);
	end(&sc);
}

/* ---- directories ------------------------------------------------------------------------------------------------- */

static void *list(void *unused)
{
	static const char *const names[] = { ".", "..", "below", "file", "parent", "up", "within" };
	DIR *directory = opendir(".");
	unsigned found = 0;
	struct stat status;

	(void)unused;
	REQUIRE(directory != NULL);
	for (struct dirent *entry; (entry = readdir(directory));)
		for (unsigned i = 0; i < 7; i++)
			found |= strcmp(entry->d_name, names[i]) == 0 ? 1u << i : 0;
	REQUIRE(found == 0x7f);
	REFUSED(syscall(SYS_getdents64, dirfd(directory), 16, 1000), EFAULT);
	/* Names are looked up beneath a directory that it opened, and lead out of it no more. */
	int below = openat(dirfd(directory), "below", O_RDONLY | O_DIRECTORY);

	REQUIRE(below >= 0 && fstatat(below, "file", &status, 0) == 0 && status.st_size == 6);
	REFUSED(fstatat(below, "../file", &status, 0), EACCES);
	REFUSED(openat(below, "..", O_RDONLY | O_DIRECTORY), EACCES);
	REFUSED(openat(below, "new", O_WRONLY | O_CREAT, 0600), EACCES); /* the grant was for reading */
	REQUIRE(closedir(directory) == 0);
	return (void *)1;
}

static void *use_granted_directory(void *fd)
{
	char entries[1000];
	struct stat status;

	REQUIRE(syscall(SYS_getdents64, (int)(intptr_t)fd, entries, sizeof(entries)) > 0);
	REFUSED(openat((int)(intptr_t)fd, "file", O_RDONLY), EACCES);
	REFUSED(fstatat((int)(intptr_t)fd, "file", &status, 0), EACCES);
	return (void *)1;
}

static void directories(void)
{
	sc_t sc;

	begin(&sc, PROT_READ);
	GRANT(&sc, SYS_open, SYS_stat);
	ASSERT_RETURNED(live_run(&sc, list, NULL), 1);
	/* As a descriptor a directory can be listed, no more. */
	int directory = open(base, O_RDONLY | O_DIRECTORY);

	sc_fd_add(&sc, directory, PROT_READ);
	ASSERT_RETURNED(live_run(&sc, use_granted_directory, (void *)(intptr_t)directory), 1);
	end(&sc);
}

/* ---- locks ------------------------------------------------------------------------------------------------------- */

static struct flock lock_of(short type, off_t start, off_t length)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length };
}

static void *hold_lock(void *unused)
{
	int fd = open("file", O_RDWR);
	struct flock lock = lock_of(F_WRLCK, 0, 1);

	(void)unused;
	REQUIRE(fcntl(fd, F_SETLK, &lock) == 0);
	sthread_park();
	REQUIRE(close(fd) == 0);
	sthread_park();
	return (void *)1;
}

static void *try_lock(void *unused)
{
	int fd = open("file", O_RDWR), again = open("file", O_RDWR);
	struct flock lock = lock_of(F_WRLCK, 0, 1), other = lock_of(F_WRLCK, 5, 1), question = lock;

	(void)unused;
	REFUSED(fcntl(fd, F_SETLK, &lock), EAGAIN);
	REQUIRE(fcntl(fd, F_GETLK, &question) == 0 && question.l_type == F_WRLCK && question.l_pid == -1);
	REQUIRE(fcntl(fd, F_SETLK, &other) == 0);
	/* A POSIX lock would be gone when any descriptor of the file is closed; this one is not. */
	REQUIRE(close(again) == 0 && (again = open("file", O_RDWR)) >= 0);
	REFUSED(fcntl(again, F_SETLK, &other), EAGAIN);
	REFUSED(fcntl(fd, F_SETLK, (void *)16), EFAULT);
	REQUIRE(flock(fd, LOCK_SH) == 0 && flock(again, LOCK_EX | LOCK_NB) == -1 && errno == EAGAIN);
	return (void *)1;
}

static void *wait_for_lock(void *unused)
{
	int fd = open("file", O_RDWR);
	struct flock lock = lock_of(F_WRLCK, 0, 1);

	(void)unused;
	REQUIRE(fcntl(fd, F_SETLKW, &lock) == 0);
	return (void *)1;
}

static void *lock_granted(void *fd)
{
	struct flock lock = lock_of(F_UNLCK, 0, 0);

	REFUSED(fcntl((int)(intptr_t)fd, F_SETLK, &lock), EPERM);
	REFUSED(fcntl((int)(intptr_t)fd, F_OFD_SETLK, &lock), EPERM);
	REFUSED(flock((int)(intptr_t)fd, LOCK_UN), EPERM);
	return (void *)1;
}

static void locks(void)
{
	sthread_t holder, waiter;
	sc_t sc;

	begin(&sc, BOTH);
	GRANT(&sc, SYS_open);
	ASSERT_EQUAL(live_create(&holder, &sc, hold_lock, NULL), 0);
	ASSERT_RETURNED(live_run(&sc, try_lock, NULL), 1);

	/* The process itself sees a lock of somebody else, and its own locks stay its own. */
	int fd = open(in_base("granted/file"), O_RDWR), other = open(in_base("granted/file"), O_RDWR);
	struct flock lock = lock_of(F_WRLCK, 0, 1), mine = lock_of(F_WRLCK, 10, 1), question = mine;

	ASSERT_ERROR(fcntl(fd, F_SETLK, &lock) == -1, EAGAIN);
	ASSERT_EQUAL(fcntl(fd, F_OFD_SETLK, &mine), 0);
	sc_fd_add(&sc, fd, BOTH);
	ASSERT_RETURNED(live_run(&sc, lock_granted, (void *)(intptr_t)fd), 1);
	ASSERT_EQUAL(fcntl(other, F_OFD_GETLK, &question), 0);
	ASSERT_EQUAL(question.l_type, F_WRLCK);

	/* A lock that is waited for is tried again. */
	uint64_t deadline = 0;

	ASSERT_EQUAL(live_create(&waiter, &sc, wait_for_lock, NULL), 0);
	ASSERT_EQUAL(sthread_wait_deadline(waiter, &deadline), 0);
	CU_ASSERT(deadline > 0);
	ASSERT_EQUAL(live_step(holder), 0);
	ASSERT_RETURNED(live_join(waiter), 1);
	ASSERT_EQUAL(live_step(holder), 0);
	ASSERT_RETURNED(live_join(holder), 1);
	ASSERT_EQUAL(fcntl(fd, F_SETLK, &lock), 0); /* gone with the lives that held it */
	end(&sc);
}

static const struct harness_test tests[] = {
	{ "what is asked of a name ends beneath the granted directory", asking, HARNESS_FORK },
	{ "files are made, removed and renamed beneath a directory granted for writing only", changing, HARNESS_FORK },
	{ "a file is not renamed to where more may be done to it", moving, HARNESS_FORK },
	{ "file systems that control the kernel are refused wherever they are mounted", mounted, HARNESS_FORK },
	{ "a directory is listed, and names in it lead no further", directories, HARNESS_FORK },
	{ "locks belong to files that the sthread opened itself", locks, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
