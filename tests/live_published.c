/*
 * live_published.c - a program written for the published interface of sthreads, Dune's apps/wedge/sthread.h:
 * sc_init, sc_mem_add, sc_fd_add, sc_sys_add, sthread_init, sthread_create, sthread_join, tag_new, smalloc.
 *
 * It is compiled against the installed headers and linked with the installed libraries, without any other of this
 * project (make installcheck), and against the built ones here.  One thing is added to what such a program says:
 * sc_path_add(), because SYS_open alone opens nothing here.
 */
#include <sthread.h>

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int counter = 7;
static int number;
static int failed;

static void check(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

/* As such programs have it: grants as statements, the policy on the stack, plain return codes. */
static void *run(sc_t *sc, stcb_t cb, void *arg)
{
	sthread_t st;
	void *ret = (void *)-1L;

	if (sthread_create(&st, sc, cb, arg))
		err(1, "sthread_create");
	if (sthread_join(st, &ret))
		return (void *)-2L;
	return ret;
}

static void *twice(void *arg)
{
	return (void *)(2 * (long)arg);
}

static void *count(void *arg)
{
	(void)arg;
	return (void *)(long)++counter;
}

static void *shout(void *arg)
{
	char *text = (char *)arg;

	for (; *text; text++)
		if (*text >= 'a' && *text <= 'z')
			*text -= 'a' - 'A';
	return arg;
}

static void *length(void *arg)
{
	return (void *)strlen((char *)arg);
}

static void *say(void *arg)
{
	return (void *)(long)write((int)(long)arg, "said", 4);
}

static void *hear(void *arg)
{
	char word[8] = "";
	ssize_t got, have = 0;

	while (have < 4 && (got = read((int)(long)arg, word + have, 4 - have)) > 0)
		have += got;
	return (void *)(long)(have == 4 && !memcmp(word, "said", 4));
}

static void *open_file(void *arg)
{
	char *text = (char *)arg;
	int fd = open("/etc/passwd", O_RDONLY);
	ssize_t got;

	if (fd == -1)
		return (void *)(long)-errno;
	got = read(fd, text, 511);
	text[got > 0 ? got : 0] = 0;
	close(fd);
	return (void *)(long)(got > 0);
}

static void memory(void)
{
	sc_t sc;
	tag_t tag = tag_new(), other = tag_new();
	char *text = (char *)smalloc(tag, 512), *hidden = (char *)smalloc(other, 16);

	strcpy(text, "quiet");
	strcpy(hidden, "hidden");
	sc_init(&sc);
	sc_mem_add(&sc, tag, PROT_READ | PROT_WRITE);
	check(run(&sc, shout, text) == text && !strcmp(text, "QUIET"), "a tag granted for writing is shared");
	check(run(&sc, length, hidden) == (void *)-2L, "a tag that is not granted is out of reach");
	sc_init(&sc);
	sc_mem_add(&sc, tag, PROT_READ);
	check(run(&sc, length, text) == (void *)5, "a tag granted for reading can be read");
	strcpy(text, "calm");
	check(run(&sc, shout, text) == (void *)-2L && !strcmp(text, "calm"), "and not be written");
}

static void descriptors(void)
{
	sc_t sc[2];
	sthread_t st[2];
	void *heard = NULL, *said = NULL;
	int ends[2];

	if (pipe(ends) == -1)
		err(1, "pipe");
	sc_init(&sc[0]);
	sc_init(&sc[1]);
	sc_fd_add(&sc[0], ends[0], PROT_READ);
	sc_fd_add(&sc[1], ends[1], PROT_WRITE);
	check(run(&sc[0], say, (void *)(long)ends[1]) == (void *)-1L, "a descriptor that is not granted is refused");
	/* The reader is there before anything was written. */
	if (sthread_create(&st[0], &sc[0], hear, (void *)(long)ends[0]) ||
	    sthread_create(&st[1], &sc[1], say, (void *)(long)ends[1]))
		err(1, "sthread_create");
	if (sthread_join(st[0], &heard) || sthread_join(st[1], &said))
		err(1, "sthread_join");
	check(heard == (void *)1 && said == (void *)4, "one sthread reads what another one writes");
	close(ends[0]);
	close(ends[1]);
}

static void system_calls(void)
{
	sc_t sc;
	tag_t tag = tag_new();
	char *text = (char *)smalloc(tag, 512);
	int etc = open("/etc", O_RDONLY | O_DIRECTORY);

	sc_init(&sc);
	sc_mem_add(&sc, tag, PROT_READ | PROT_WRITE);
	check(run(&sc, open_file, text) == (void *)(long)-EPERM, "open is refused without SYS_open");
	sc_sys_add(&sc, SYS_open);
	sc_sys_add(&sc, SYS_close);
	check((long)run(&sc, open_file, text) < 0 && !*text, "SYS_open alone opens nothing: the departure");
	sc_path_add(&sc, etc, PROT_READ);
	check(run(&sc, open_file, text) == (void *)1 && *text, "with a path grant the same code opens its file");
	close(etc);
}

int main(void)
{
	sc_t sc, copy;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (access("/dev/kvm", R_OK | W_OK) != 0) {
		printf("1..0 # SKIP /dev/kvm cannot be opened\n");
		return 77;
	}
	printf("1..14\n");
	if (sthread_init())
		err(1, "sthread_init");
	sc_init(&sc);
	check(run(&sc, twice, (void *)21) == (void *)42, "an sthread takes an argument and returns a value");
	check(run(&sc, twice, (void *)4) == (void *)8, "and another one");
	counter = 70;
	check(run(&sc, count, NULL) == (void *)8 && run(&sc, count, NULL) == (void *)8, "each has its own globals");
	check(counter == 70, "and the program its own");
	copy = sc; /* policies are values */
	check(run(&copy, twice, (void *)1) == (void *)2, "a policy can be assigned");
	memory();
	descriptors();
	system_calls();
	exit(failed);
}
