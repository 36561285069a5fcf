/* live_terminals.c - terminals that are granted: shared, blocking, and without transfers that do not wait. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "live.h"

enum {
	READS = 20000,
	OUTPUT = 32 << 10,
	CHUNK = 1000
};

static int master, terminal;

static bool open_terminal(void)
{
	master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0)
		return false;
	terminal = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	return terminal >= 0;
}

static void *read_nothing(void *fd)
{
	char byte;

	if (fcntl((int)(intptr_t)fd, F_SETFL, O_NONBLOCK) != 0)
		return NULL;
	for (int i = 0; i < READS / (int)harness_time_scale(); i++)
		if (read((int)(intptr_t)fd, &byte, 1) != -1 || errno != EAGAIN)
			return NULL;
	return (void *)1;
}

static void on_signal(int number)
{
	(void)number;
}

/* poll() that does not wait fails with EINTR when a signal comes: that does not mean that there is something to read. */
static void interrupted(void)
{
	sc_t sc;
	timer_t timer;
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	const struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	/* Slow machines have to get on in between. */
	const struct timespec each = { .tv_nsec = 50000 * (long)harness_time_scale() };

	live_init();
	CU_ASSERT_FATAL(open_terminal());
	sc_init(&sc);
	ASSERT_EQUAL(sc_fd_add(&sc, terminal, PROT_READ), 0);
	sigaction(SIGUSR1, &action, NULL);
	ASSERT_EQUAL(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	ASSERT_EQUAL(timer_settime(timer, 0, &(struct itimerspec){ each, each }, NULL), 0);
	ASSERT_RETURNED(live_run(&sc, read_nothing, (void *)(intptr_t)terminal), 1);
	timer_delete(timer);
	sc_destroy(&sc);
}

static void *write_much(void *fd)
{
	char text[OUTPUT];

	memset(text, 'x', sizeof(text));
	return (void *)(intptr_t)(write((int)(intptr_t)fd, text, sizeof(text)) == sizeof(text));
}

/* The thread that steps the sthread is the one that empties the terminal: little room must not make it wait. */
static void little_room(void)
{
	char text[CHUNK];
	size_t got = 0;
	sc_t sc;
	sthread_t st;
	enum sthread_state state = STHREAD_RUNNABLE;

	live_init();
	CU_ASSERT_FATAL(open_terminal());
	sc_init(&sc);
	ASSERT_EQUAL(sc_fd_add(&sc, terminal, PROT_WRITE), 0);
	ASSERT_EQUAL(live_create(&st, &sc, write_much, (void *)(intptr_t)terminal), 0);
	while (sthread_state(st, &state) == 0 && state != STHREAD_ENDED) {
		struct pollfd room = { .fd = terminal, .events = POLLOUT };
		ssize_t some = read(master, text, sizeof(text));

		got += some > 0 ? (size_t)some : 0;
		if (poll(&room, 1, 0) == 1)
			ASSERT_EQUAL(sthread_step(st), 0);
	}
	ASSERT_RETURNED(live_join(st), 1);
	for (ssize_t some; (some = read(master, text, sizeof(text))) > 0;)
		got += (size_t)some;
	ASSERT_EQUAL(got, OUTPUT);
	sc_destroy(&sc);
}

static void *read_and_write(void *fd)
{
	char byte;

	if (read((int)(intptr_t)fd, &byte, 1) != -1 || errno != EIO)
		return NULL;
	return (void *)(intptr_t)(write((int)(intptr_t)fd, "x", 1) == 1);
}

/* In a job in the background. */
static int run_job(void)
{
	sc_t sc;

	live_init();
	sc_init(&sc);
	if (sc_fd_add(&sc, terminal, PROT_READ | PROT_WRITE) != 0)
		return 2;

	struct life life = live_run(&sc, read_and_write, (void *)(intptr_t)terminal);

	return life.error || (intptr_t)life.value != 1;
}

/* The leader of a session whose foreground it is.  Returns 0 if its job ended well, 1 if not, 2 if it was stopped. */
static int run_session(void)
{
	struct termios modes;
	int status = -1;

	if (setsid() < 0 || !open_terminal() || ioctl(terminal, TIOCSCTTY, 0) != 0 || tcgetattr(terminal, &modes) != 0)
		return 3;
	modes.c_lflag |= TOSTOP;
	if (tcsetattr(terminal, TCSANOW, &modes) != 0 || write(master, "line\n", 5) != 5)
		return 3;

	pid_t job = fork();

	if (!job) {
		setpgid(0, 0);
		_exit(run_job());
	}
	if (job < 0 || waitpid(job, &status, WUNTRACED) != job)
		return 3;
	if (WIFSTOPPED(status)) {
		kill(job, SIGKILL);
		return 2;
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

static void background(void)
{
	int status = -1;
	pid_t session = fork();

	if (!session)
		_exit(run_session());
	ASSERT_EQUAL(waitpid(session, &status, 0), session);
	ASSERT_EQUAL(status, 0);
}

static const struct harness_test tests[] = {
	{ "reading from an empty terminal never waits, whatever signals come", interrupted, HARNESS_FORK },
	{ "writing to a terminal that is nearly full does not hold up the thread that empties it", little_room,
	  HARNESS_FORK },
	{ "a terminal does not stop a process in the background for what its sthreads do", background, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
