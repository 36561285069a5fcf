/* live_fork.c - sthreads in the children of a fork: their own machine around the parent's snapshot. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dune.h"
#include "live.h"
#include "supervisor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE,
	KEY_SIZE = 32,
};

static volatile int global = 1;
BOUNDARY_VAR(static int tagged_global, fork_test) = 10;
static uint8_t global_key[KEY_SIZE]; /* zeros at sthread_init() */

/* ---- children ---------------------------------------------------------------------------------------------------- */

/* In a child: ends it and tells the line. */
#define EXPECT(condition)                                                                                     \
	do {                                                                                                  \
		if (!(condition)) {                                                                           \
			fprintf(stderr, "# child: line %d: %s (errno %d, %s)\n", __LINE__, #condition, errno, \
				sthread_error());                                                             \
			_exit(1);                                                                             \
		}                                                                                             \
	} while (0)

static pid_t start_child(void (*run)(void *), void *argument)
{
	pid_t child = fork();

	if (child == 0) {
		run(argument);
		_exit(0);
	}
	return child;
}

static void check_ended_well(pid_t child, unsigned line)
{
	int status = -1;

	live_check(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, __FILE__, line,
		   "the child ends well (status %#x)", status);
}

#define CHILD(run, argument) check_ended_well(start_child(run, argument), __LINE__)

/* ---- bodies ------------------------------------------------------------------------------------------------------ */

static void *increment(void *at)
{
	int *number = at;

	global++;
	return (void *)(intptr_t)(global * 1000 + ++*number);
}

static void *park_twice(void *at)
{
	int mine = global + 40;

	global = 77;
	sthread_park();
	sthread_park();
	return (void *)(intptr_t)(mine + global + *(int *)at);
}

static void *write_to(void *fd)
{
	return (void *)write((int)(intptr_t)fd, "inside", 6);
}

static void *read_global(void *unused)
{
	(void)unused;
	return (void *)(intptr_t)global;
}

static void *gate_add(void *argument, void *trusted)
{
	return (void *)((intptr_t)argument + (intptr_t)trusted);
}

static void *call_gate(void *gate)
{
	void *result;

	return cgate_call((cgate_t)(intptr_t)gate, (void *)40, &result) == 0 ? result : NULL;
}

/* A bit of everything; in a parent and in its children alike. */
static void use_everything(void)
{
	sthread_t st;
	sc_t sc;
	void *result;
	struct sthread_info info;
	tag_t tag = tag_new();
	int *number, ends[2];
	char text[10];

	EXPECT(tag >= 0);
	EXPECT((number = smalloc(tag, sizeof(*number))));
	*number = 20;
	sc_init(&sc);
	EXPECT(sc_mem_add(&sc, tag, BOTH) == 0);
	for (int i = 1; i <= 3; i++) {
		EXPECT(sthread_create(&st, &sc, increment, number) == 0);
		EXPECT(sthread_join(st, &result) == 0);
		EXPECT((intptr_t)result == 2020 + i && *number == 20 + i && global == 1);
	}

	cgate_t gate = cgate_create(gate_add, &sc, (void *)2);

	EXPECT(gate >= 0);
	EXPECT(cgate_call(gate, (void *)1, &result) == 0 && result == (void *)3);
	EXPECT(sc_cgate_add(&sc, gate) == 0);
	EXPECT(sthread_create(&st, &sc, call_gate, (void *)(intptr_t)gate) == 0);
	EXPECT(sthread_join(st, &result) == 0 && result == (void *)42);
	EXPECT(pipe(ends) == 0);
	EXPECT(sc_fd_add(&sc, ends[1], PROT_WRITE) == 0);
	EXPECT(sthread_create(&st, &sc, write_to, (void *)(intptr_t)ends[1]) == 0);
	EXPECT(sthread_join(st, &result) == 0 && result == (void *)6);
	EXPECT(read(ends[0], text, sizeof(text)) == 6 && memcmp(text, "inside", 6) == 0);
	/* Denied: the tag is not granted. */
	sc_destroy(&sc);
	EXPECT(sthread_create(&st, &sc, body_read, number) == 0);
	EXPECT(sthread_join_info(st, NULL, &info) == -1 && errno == ECANCELED);
	EXPECT(info.end == STHREAD_FAULTED && info.vector == PAGE_FAULT && info.address == (uint64_t)number);
	EXPECT(cgate_destroy(gate) == 0);
	EXPECT(tag_delete(tag) == 0);
	EXPECT(close(ends[0]) == 0 && close(ends[1]) == 0);
}

static void use(void *unused)
{
	(void)unused;
	use_everything();
}

/* ---- the tests --------------------------------------------------------------------------------------------------- */

struct parked {
	sthread_t st;
	tag_t tag;
	int *number;
};

static struct parked park_one(void)
{
	struct parked parked = { .tag = tag_new() };
	sc_t sc;

	parked.number = smalloc(parked.tag, sizeof(int));
	*parked.number = 100;
	sc_init(&sc);
	sc_mem_add(&sc, parked.tag, BOTH);
	ASSERT_EQUAL(live_create(&parked.st, &sc, park_twice, parked.number), 0);
	return parked;
}

static void both_work(void)
{
	live_init();
	use_everything();

	struct parked parked = park_one();

	CHILD(use, NULL);
	use_everything();
	ASSERT_EQUAL(live_step(parked.st), 0);
	CHILD(use, NULL);
	CHILD(use, NULL);
	ASSERT_EQUAL(live_step(parked.st), 0);
	ASSERT_RETURNED(live_join(parked.st), 41 + 77 + 100);
	use_everything();
}

static bool has_fd_named(const char *part)
{
	for (int fd = 0; fd < 1000; fd++) {
		char name[64], target[200];
		ssize_t length;

		snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		length = readlink(name, target, sizeof(target) - 1);
		target[length > 0 ? length : 0] = 0;
		if (length > 0 && strstr(target, part))
			return true;
	}
	return false;
}

struct handles_of_parent {
	struct parked parked;
	cgate_t gate;
	sc_t grants;
	int ends[2];
};

static void stale(void *argument)
{
	struct handles_of_parent *parent = argument;
	enum sthread_state state;
	struct sthread_statistics statistics;
	sthread_t st;
	sc_t sc;

	EXPECT(!has_fd_named("/dev/kvm") && !has_fd_named("anon_inode:kvm")); /* until the first use */
	EXPECT(write(parent->ends[1], parent->parked.number, 1) == -1 && errno == EFAULT);
	sc_init(&sc);
	EXPECT(sc_mem_add(&sc, parent->parked.tag, PROT_READ) == -1 && errno == EBADF);
	sc_init(&sc);
	EXPECT(sc_cgate_add(&sc, parent->gate) == -1 && errno == EBADF);
	EXPECT(!has_fd_named("/dev/kvm") && !has_fd_named("anon_inode:kvm"));
	EXPECT(sthread_step(parent->parked.st) == -1 && errno == EBADF);
	EXPECT(has_fd_named("anon_inode:kvm-vm") && has_fd_named("anon_inode:kvm-vcpu"));
	EXPECT(write(parent->ends[1], parent->parked.number, 1) == -1 && errno == EFAULT);
	EXPECT(sthread_state(parent->parked.st, &state) == -1 && errno == EBADF);
	EXPECT(sthread_kill(parent->parked.st) == -1 && errno == EBADF);
	EXPECT(sthread_join(parent->parked.st, NULL) == -1 && errno == EBADF);
	EXPECT(tag_delete(parent->parked.tag) == -1 && errno == EBADF);
	EXPECT(smalloc(parent->parked.tag, 1) == NULL && errno == EBADF);
	errno = 0;
	sfree(parent->parked.number);
	EXPECT(errno == EINVAL);
	EXPECT(cgate_call(parent->gate, NULL, NULL) == -1 && errno == EBADF);
	EXPECT(cgate_destroy(parent->gate) == -1 && errno == EBADF);
	EXPECT(sthread_create(&st, &parent->grants, body_nothing, NULL) == -1 && errno == EBADF);
	EXPECT(sthread_statistics(&statistics) == 0 && statistics.lives == 0 && statistics.gate_calls == 0 &&
	       statistics.exits == 0);
	EXPECT(sthread_init() == 0);
	use_everything();
	/* The child's own first handles are other ones, and the parent's stay stale. */
	for (int i = 0; i < 100; i++)
		EXPECT(tag_new() != parent->parked.tag);
	EXPECT(tag_delete(parent->parked.tag) == -1 && errno == EBADF);
}

static void stale_handles(void)
{
	struct handles_of_parent parent;

	live_init();
	ASSERT_EQUAL(pipe(parent.ends), 0);
	parent.parked = park_one();
	sc_init(&parent.grants);
	parent.gate = cgate_create(gate_add, &parent.grants, (void *)2);
	sc_mem_add(&parent.grants, parent.parked.tag, PROT_READ);
	sc_cgate_add(&parent.grants, parent.gate);
	CU_ASSERT(has_fd_named("anon_inode:kvm-vm") &&
		  has_fd_named("anon_inode:kvm-vcpu")); /* else the names show nothing */
	CHILD(stale, &parent);
	ASSERT_EQUAL(live_step(parent.parked.st), 0);
	ASSERT_EQUAL(cgate_destroy(parent.gate), 0);
	ASSERT_EQUAL(live_step(parent.parked.st), 0);
	ASSERT_RETURNED(live_join(parent.parked.st), 41 + 77 + 100);
	ASSERT_EQUAL(tag_delete(parent.parked.tag), 0);
}

/* ---- what they see ----------------------------------------------------------------------------------------------- */

struct keys {
	uint8_t early[KEY_SIZE], on_heap[KEY_SIZE], in_tag[KEY_SIZE], of_child[KEY_SIZE];
};

/* The keys themselves are in no memory that could be in the snapshot: complements of what was mapped afterwards. */
static void make_key(uint8_t *inverted)
{
	CU_ASSERT_EQUAL(getrandom(inverted, KEY_SIZE, 0), KEY_SIZE);
}

static void reveal_key(uint8_t *key, const uint8_t *inverted)
{
	for (int i = 0; i < KEY_SIZE; i++)
		key[i] = inverted[i] ^ 0xff;
	__asm__ volatile("" : : "r"(key) : "memory"); /* what nobody reads would not be stored */
}

static unsigned find_key(sthread_t st, const uint8_t *inverted)
{
	uint8_t key[KEY_SIZE];

	reveal_key(key, inverted);
	return live_find(st, key, sizeof(key));
}

static void search(void *argument)
{
	const struct keys *inverted = argument;
	uint8_t *own = malloc(KEY_SIZE);
	struct sthread_info info;
	sthread_t st;
	sc_t sc;

	EXPECT(own);
	reveal_key(own, inverted->of_child); /* the child reads a secret before its first use of sthreads */
	global = 5;
	sc_init(&sc);
	EXPECT(live_create(&st, &sc, body_park_then_read, own) == 0);
	EXPECT(find_key(st, inverted->early) >= 1); /* the search finds what is there */
	EXPECT(find_key(st, inverted->on_heap) == 0);
	EXPECT(find_key(st, inverted->in_tag) == 0);
	EXPECT(find_key(st, inverted->of_child) == 0);
	EXPECT(sthread_step(st) == 0);
	sthread_join_info(st, NULL, &info);
	EXPECT(info.end == STHREAD_FAULTED || info.end == STHREAD_RETURNED); /* heap of the snapshot, or beyond it */

	struct life life = live_run_bare(read_global, NULL);

	EXPECT(life.error == 0 && life.value == (void *)1);
	life = live_run_bare(body_read, global_key);
	EXPECT(life.error == 0 && life.value == NULL);
	EXPECT(global_key[0] && global == 5);
}

static void snapshot_of_parent(void)
{
	struct keys *inverted = mmap(NULL, sizeof(*inverted), BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *early = malloc(KEY_SIZE), *late = malloc(KEY_SIZE);

	for (unsigned i = 0; i < sizeof(*inverted) / KEY_SIZE; i++)
		make_key((uint8_t *)inverted + i * KEY_SIZE);
	reveal_key(early, inverted->early);
	live_init();

	tag_t tag = tag_new();
	uint8_t *tagged = smalloc(tag, KEY_SIZE);

	reveal_key(late, inverted->on_heap);
	reveal_key(global_key, inverted->on_heap);
	global_key[0] |= 1;
	reveal_key(tagged, inverted->in_tag);
	global = 3;
	CHILD(search, inverted);
	ASSERT_RETURNED(live_run_bare(read_global, NULL), 1);
	CHILD(search, inverted);
	ASSERT_EQUAL(global, 3);
}

/* An exploited child (host mode, all it can write) does not reach the parent's compartments. */
static void overwrite(void *argument)
{
	const struct snapshot *snapshot = &supervisor.snapshot;

	(void)argument;
	use_everything();
	for (size_t i = 0; i < snapshot->count; i++)
		for (uint64_t at = snapshot->regions[i].start; at < snapshot->regions[i].end; at += DUNE_PAGE_SIZE) {
			uint8_t *copy = snapshot_copy_at(snapshot, supervisor.machine, at);

			if (copy)
				memset(copy, 0x5a, DUNE_PAGE_SIZE);
		}
	/* Control: what was overwritten is what the child's own compartments see. */
	struct life life = live_run_bare(body_read, global_key);

	EXPECT(life.error != 0 || life.value == (void *)0x5a);
}

static void isolated_from_child(void)
{
	live_init();

	struct parked parked = park_one();
	struct sthread_statistics before, after;

	ASSERT_RETURNED(live_run_bare(read_global, NULL), 1);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	CHILD(overwrite, NULL);
	ASSERT_EQUAL(sthread_statistics(&after), 0);
	CU_ASSERT(memcmp(&before, &after, sizeof(before)) == 0);
	for (int i = 0; i < 3; i++) {
		ASSERT_RETURNED(live_run_bare(read_global, NULL), 1);
		ASSERT_RETURNED(live_run_bare(body_read, global_key), 0);
		use_everything();
	}
	ASSERT_EQUAL(live_step(parked.st), 0);
	ASSERT_EQUAL(live_step(parked.st), 0);
	ASSERT_RETURNED(live_join(parked.st), 41 + 77 + 100);
}

/* And the parent not the child's: what it does while the child lives. */
static void parent_goes_on(void)
{
	int go[2];
	char byte;

	live_init();
	ASSERT_EQUAL(pipe(go), 0);

	pid_t child = fork();

	if (child == 0) {
		struct parked parked = { .tag = tag_new() };
		sc_t sc;

		EXPECT((parked.number = smalloc(parked.tag, sizeof(int))));
		*parked.number = 100;
		sc_init(&sc);
		sc_mem_add(&sc, parked.tag, BOTH);
		EXPECT(live_create(&parked.st, &sc, park_twice, parked.number) == 0);
		EXPECT(read(go[0], &byte, 1) == 1);
		EXPECT(live_step(parked.st) == 0 && live_step(parked.st) == 0);

		struct life life = live_join(parked.st);

		EXPECT(life.error == 0 && life.value == (void *)(41 + 77 + 100));
		use_everything();
		_exit(0);
	}
	const struct snapshot *snapshot = &supervisor.snapshot;

	use_everything();
	for (size_t i = 0; i < snapshot->count; i++)
		for (uint64_t at = snapshot->regions[i].start; at < snapshot->regions[i].end; at += DUNE_PAGE_SIZE) {
			uint8_t *copy = snapshot_copy_at(snapshot, supervisor.machine, at);

			if (copy)
				memset(copy, 0x5a, DUNE_PAGE_SIZE);
		}
	ASSERT_EQUAL(write(go[1], "g", 1), 1);
	check_ended_well(child, __LINE__);
}

static void *increment_tagged(void *unused)
{
	(void)unused;
	return (void *)(intptr_t)(BOUNDARY_TAG(fork_test) >= 0 ? ++tagged_global : -1);
}

static void tagged_globals(void *go)
{
	char byte;
	sc_t sc;

	sc_init(&sc);
	EXPECT(sc_mem_add(&sc, BOUNDARY_TAG(fork_test), BOTH) == 0);

	struct life life = live_run(&sc, increment_tagged, NULL);

	EXPECT(life.error == 0 && life.value == (void *)12 && tagged_global == 12);
	tagged_global = 50;
	life = live_run(&sc, increment_tagged, NULL);
	EXPECT(life.error == 0 && life.value == (void *)51);
	life = live_run_bare(increment_tagged, NULL);
	EXPECT(life.info.end == STHREAD_FAULTED && life.info.address == (uint64_t)&tagged_global);
	EXPECT(read(((int *)go)[0], &byte, 1) == 1);
	life = live_run(&sc, increment_tagged, NULL);
	EXPECT(life.error == 0 && life.value == (void *)52 && tagged_global == 52);
}

static void tagged_globals_are_copied(void)
{
	int go[2];
	sc_t sc;

	live_init();
	ASSERT_EQUAL(pipe(go), 0);
	sc_init(&sc);
	sc_mem_add(&sc, BOUNDARY_TAG(fork_test), BOTH);
	ASSERT_RETURNED(live_run(&sc, increment_tagged, NULL), 11);

	pid_t child = start_child(tagged_globals, go);

	for (int i = 12; i < 20; i++)
		ASSERT_RETURNED(live_run(&sc, increment_tagged, NULL), i);
	ASSERT_EQUAL(write(go[1], "g", 1), 1);
	check_ended_well(child, __LINE__);
	ASSERT_EQUAL(tagged_global, 19);
	ASSERT_RETURNED(live_run(&sc, increment_tagged, NULL), 20);
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

static void use_policy(void *argument)
{
	struct handles_of_parent *parent = argument;
	void *result;
	sthread_t st;

	EXPECT(sthread_create(&st, &parent->grants, write_to, (void *)(intptr_t)parent->ends[1]) == 0);
	EXPECT(sthread_join(st, &result) == 0 && result == (void *)6);
}

static void policies_are_inherited(void)
{
	struct handles_of_parent parent;
	char text[20];

	ASSERT_EQUAL(pipe(parent.ends), 0);
	live_init();
	sc_init(&parent.grants);
	ASSERT_EQUAL(sc_fd_add(&parent.grants, parent.ends[1], PROT_WRITE), 0);
	ASSERT_EQUAL(close(parent.ends[1]), 0);
	CHILD(use_policy, &parent);
	ASSERT_EQUAL(read(parent.ends[0], text, sizeof(text)), 6);
	CHILD(use_policy, &parent);
	ASSERT_EQUAL(read(parent.ends[0], text, sizeof(text)), 6);
	sc_destroy(&parent.grants);
	ASSERT_EQUAL(read(parent.ends[0], text, sizeof(text)), 0); /* nobody has it any more */
}

static void wait_for_line(void *fd)
{
	char byte;

	EXPECT(read((int)(intptr_t)fd, &byte, 1) == 1);
	use_everything();
}

/* The parent's compartments' files do not stay open in the child: the other end would never see the end. */
static void compartments_files_are_closed(void)
{
	int ends[2], more[2], go[2];
	char byte;
	sthread_t st;
	sc_t sc;

	ASSERT_EQUAL(pipe(ends), 0);
	ASSERT_EQUAL(pipe(more), 0);
	ASSERT_EQUAL(pipe(go), 0);
	live_init();
	sc_init(&sc);
	sc_fd_add(&sc, ends[1], PROT_WRITE);
	ASSERT_EQUAL(live_create(&st, &sc, body_park_then_read, global_key), 0);
	sc_destroy(&sc);
	sc_fd_add(&sc, more[1], PROT_WRITE);

	cgate_t gate = cgate_create(gate_add, &sc, (void *)2);

	ASSERT_EQUAL(cgate_call(gate, NULL, NULL), 0);
	sc_destroy(&sc);
	close(ends[1]);
	close(more[1]);

	pid_t child = start_child(wait_for_line, (void *)(intptr_t)go[0]);

	CHILD(use, NULL);
	ASSERT_EQUAL(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
	ASSERT_ERROR(read(ends[0], &byte, 1) == -1, EAGAIN); /* the sthread holds it */
	ASSERT_EQUAL(sthread_step(st), 0);
	ASSERT_EQUAL(sthread_join(st, NULL), 0);
	ASSERT_EQUAL(read(ends[0], &byte, 1), 0);
	ASSERT_EQUAL(cgate_destroy(gate), 0);
	ASSERT_EQUAL(read(more[0], &byte, 1), 0);
	ASSERT_EQUAL(write(go[1], "g", 1), 1);
	check_ended_well(child, __LINE__);
}

/* ---- generations ------------------------------------------------------------------------------------------------- */

static void grandparent(void *used)
{
	int status;

	if (used)
		use_everything();

	pid_t child = fork();

	if (child == 0) {
		use_everything();
		child = fork();
		if (child == 0) {
			use_everything();
			_exit(0);
		}
	}
	EXPECT(waitpid(child, &status, 0) == child && status == 0);
	use_everything();
}

static void generations(void)
{
	live_init();
	CHILD(grandparent, NULL);
	CHILD(grandparent, global_key);
	use_everything();
	CHILD(grandparent, NULL);
}

/* Ended handles rest for long before their slots are used again, and the table grows meanwhile: this lets it grow before
 * pages are counted. */
static void grow(struct handles *handles)
{
	for (int i = 0; i < 5000; i++)
		handle_end(handles, handle_new(handles, handles));
}

static void nothing_leaks(void)
{
	struct sthread_statistics statistics[2];
	unsigned long pages[2] = { 0 };
	int fds[2];

	live_init();
	grow(&supervisor.sthreads);
	grow(&supervisor.gates);
	grow(&supervisor.tags);
	for (int i = 0; i < 110; i++) {
		pid_t child = start_child(i % 10 ? use : grandparent, NULL);

		use_everything();
		check_ended_well(child, __LINE__);
		if (i != 9 && i != 109)
			continue;
		/* Pages last: the others use memory, too. */
		fds[i == 109] = live_open_fds();
		ASSERT_EQUAL(sthread_statistics(&statistics[i == 109]), 0);
		FILE *file = fopen("/proc/self/statm", "r");

		CU_ASSERT(file && fscanf(file, "%lu", &pages[i == 109]) == 1);
		fclose(file);
	}
	ASSERT_EQUAL(fds[1], fds[0]);
	ASSERT_EQUAL(pages[1], pages[0]);
	ASSERT_EQUAL(statistics[1].frames_used, statistics[0].frames_used);
	ASSERT_EQUAL(statistics[1].address_spaces, statistics[0].address_spaces);
}

/* ---- ends -------------------------------------------------------------------------------------------------------- */

static void killed_child(void)
{
	int ready[2];
	char byte;

	live_init();

	struct parked parked = park_one();

	ASSERT_EQUAL(pipe(ready), 0);
	for (int i = 0; i < 5; i++) {
		pid_t child = fork();

		if (child == 0) {
			sthread_t st;
			sc_t sc;

			use_everything();
			sc_init(&sc);
			EXPECT(sthread_create(&st, &sc, body_spin, NULL) == 0);
			EXPECT(write(ready[1], "r", 1) == 1);
			sthread_join(st, NULL);
			_exit(1);
		}
		ASSERT_EQUAL(read(ready[0], &byte, 1), 1);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		use_everything();
	}
	ASSERT_EQUAL(live_step(parked.st), 0);
	ASSERT_EQUAL(live_step(parked.st), 0);
	ASSERT_RETURNED(live_join(parked.st), 41 + 77 + 100);
}

static void killed_parent(void)
{
	int ready[2], go[2], result[2];
	char byte = 0;

	ASSERT_EQUAL(pipe(ready), 0);
	ASSERT_EQUAL(pipe(go), 0);
	ASSERT_EQUAL(pipe(result), 0);

	pid_t parent = fork();

	if (parent == 0) {
		sthread_t st;
		sc_t sc;

		EXPECT(sthread_init() == 0);
		use_everything();
		if (fork() == 0) {
			use_everything();
			EXPECT(write(ready[1], "r", 1) == 1);
			EXPECT(read(go[0], &byte, 1) == 1);
			use_everything();
			EXPECT(write(result[1], "y", 1) == 1);
			_exit(0);
		}
		sc_init(&sc);
		EXPECT(sthread_create(&st, &sc, body_spin, NULL) == 0);
		sthread_join(st, NULL);
		_exit(1);
	}
	close(result[1]);
	ASSERT_EQUAL(read(ready[0], &byte, 1), 1);
	kill(parent, SIGKILL);
	ASSERT_EQUAL(waitpid(parent, NULL, 0), parent);
	ASSERT_EQUAL(write(go[1], "g", 1), 1);
	ASSERT_EQUAL(read(result[0], &byte, 1), 1);
	ASSERT_EQUAL(byte, 'y');
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static _Atomic bool stop;

static void *run_lives(void *unused)
{
	(void)unused;
	while (!atomic_load(&stop)) {
		struct life life = live_run_bare(read_global, NULL);

		if (life.error || life.value != (void *)1)
			return (void *)1;
	}
	return NULL;
}

static void fork_while_others_run(void)
{
	enum {
		THREADS = 3,
		CHILDREN = 25
	};
	pthread_t threads[THREADS];
	void *bad;

	live_init();
	for (int i = 0; i < THREADS; i++)
		ASSERT_EQUAL(pthread_create(&threads[i], NULL, run_lives, NULL), 0);
	for (int i = 0; i < CHILDREN; i++)
		CHILD(use, NULL);
	atomic_store(&stop, true);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &bad);
		CU_ASSERT_PTR_NULL(bad);
	}
	use_everything();
}

static void *use_in_thread(void *unused)
{
	(void)unused;
	use_everything();
	return NULL;
}

static void first_use_in_threads(void *unused)
{
	pthread_t threads[4];

	(void)unused;
	for (int i = 0; i < 4; i++)
		EXPECT(pthread_create(&threads[i], NULL, use_in_thread, NULL) == 0);
	for (int i = 0; i < 4; i++)
		EXPECT(pthread_join(threads[i], NULL) == 0);
	use_everything();
}

static void *fork_in_thread(void *unused)
{
	(void)unused;
	CHILD(use, NULL);
	CHILD(first_use_in_threads, NULL);
	return NULL;
}

static void threads_and_children(void)
{
	pthread_t thread;

	live_init();
	CHILD(first_use_in_threads, NULL);
	ASSERT_EQUAL(pthread_create(&thread, NULL, fork_in_thread, NULL), 0);
	ASSERT_EQUAL(pthread_join(thread, NULL), 0);
	use_everything();
}

/* ---- other ways, and what can go wrong --------------------------------------------------------------------------- */

static int cloned(void *unused)
{
	sthread_t st;
	sc_t sc;

	(void)unused;
	sc_init(&sc);
	EXPECT(sthread_create(&st, &sc, body_nothing, NULL) == -1 && errno == EPERM);
	EXPECT(tag_new() == -1 && errno == EPERM);
	EXPECT(sthread_init() == -1 && errno == EPERM);
	_exit(0);
}

static void raw_children(void)
{
	live_init();
	use_everything();

	pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

	if (child == 0)
		cloned(NULL);
	check_ended_well(child, __LINE__);
	use_everything();
}

static void spawning(void)
{
	extern char **environ;
	char *arguments[] = { (char *)"true", NULL };
	pid_t child;

	live_init();

	struct parked parked = park_one();

	ASSERT_EQUAL(posix_spawnp(&child, "true", NULL, NULL, arguments, environ), 0);
	check_ended_well(child, __LINE__);
	child = vfork();
	if (child == 0) {
		execlp("true", "true", (char *)NULL);
		_exit(1);
	}
	check_ended_well(child, __LINE__);
	ASSERT_EQUAL(system("exit 7"), 7 << 8);
	use_everything();
	ASSERT_EQUAL(live_step(parked.st), 0);
	ASSERT_EQUAL(live_step(parked.st), 0);
	ASSERT_RETURNED(live_join(parked.st), 41 + 77 + 100);
}

static void before_anything(void *unused)
{
	(void)unused;
	EXPECT(tag_new() == -1 && errno == EPERM);
	EXPECT(sthread_init() == 0);
	use_everything();
}

static void probed_only(void)
{
	struct dune_host host;

	CHILD(before_anything, NULL);
	ASSERT_EQUAL(dune_probe(&host), 0);
	CHILD(before_anything, NULL);
	live_init();
	use_everything();
}

static void no_descriptors(void *unused)
{
	struct rlimit before, none;
	sthread_t st;
	sc_t sc;

	(void)unused;
	sc_init(&sc);
	EXPECT(getrlimit(RLIMIT_NOFILE, &before) == 0);
	none = before;
	for (none.rlim_cur = 0; none.rlim_cur < 12; none.rlim_cur++) {
		EXPECT(setrlimit(RLIMIT_NOFILE, &none) == 0);
		if (sthread_create(&st, &sc, body_nothing, NULL) == 0)
			break;
		EXPECT(errno == EMFILE);
		EXPECT(strlen(sthread_error()) > 10);
	}
	EXPECT(setrlimit(RLIMIT_NOFILE, &before) == 0);
	if (none.rlim_cur < 12)
		EXPECT(sthread_join(st, NULL) == 0);
	use_everything();
}

static void rebuild_fails(void)
{
	live_init();
	CHILD(no_descriptors, NULL);
	use_everything();
}

static uint8_t *in_the_way;

static void put_in_the_way(void)
{
	if (in_the_way)
		EXPECT(mmap(in_the_way, DUNE_PAGE_SIZE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
			    0) == in_the_way);
}

static void not_free(void *unused)
{
	(void)unused;
	EXPECT(sthread_init() == -1 && errno == ENOMEM);
	EXPECT(tag_new() == -1 && errno == ENOMEM);
	EXPECT(*in_the_way == 0);
	*in_the_way = 1;
}

static void addresses_taken(void)
{
	ASSERT_EQUAL(pthread_atfork(NULL, NULL, put_in_the_way), 0); /* earlier than the library's */
	live_init();

	tag_t tag = tag_new();

	in_the_way = (uint8_t *)((uintptr_t)smalloc(tag, 1) & ~DUNE_PAGE_MASK);
	CHILD(not_free, NULL);
	in_the_way = NULL;
	CHILD(use, NULL);
}

/* ---- randomness -------------------------------------------------------------------------------------------------- */

enum {
	FAMILY = 6,
	LIVES = 40
};
struct life_numbers {
	uint64_t instance, canary, random;
};

static void *draw(void *at)
{
	struct life_numbers *numbers = at;

	__asm__("movq %%fs:0x28, %0" : "=r"(numbers->canary));
	return (void *)getrandom(&numbers->random, sizeof(numbers->random), 0);
}

static void collect(struct life_numbers *all)
{
	sc_t sc;
	tag_t tag = tag_new();
	struct life_numbers *numbers = smalloc(tag, sizeof(*numbers));

	sc_init(&sc);
	EXPECT(numbers && sc_mem_add(&sc, tag, BOTH) == 0);
	for (int i = 0; i < LIVES; i++) {
		struct life life = live_run(&sc, draw, numbers);

		EXPECT(life.error == 0 && life.value == (void *)8);
		all[i] = *numbers;
		all[i].instance = life.info.instance;
	}
}

static void never_repeats(void)
{
	struct life_numbers(*all)[LIVES] = mmap(NULL, FAMILY * sizeof(*all), BOTH, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	const size_t count = FAMILY * LIVES;

	live_init();
	live_run_bare(body_nothing, NULL); /* there is a stock of random bytes */
	for (int i = 0; i < FAMILY - 1; i++) {
		pid_t child = fork();

		if (child == 0) {
			/* The last one is a grandchild. */
			if (i == FAMILY - 2 && (child = fork()) != 0) {
				int status;

				EXPECT(waitpid(child, &status, 0) == child);
				_exit(status != 0);
			}
			collect(all[i]);
			_exit(0);
		}
		check_ended_well(child, __LINE__);
	}
	collect(all[FAMILY - 1]);

	const struct life_numbers *list = all[0];
	unsigned repeated = 0;

	for (size_t i = 0; i < count; i++)
		for (size_t j = 0; j < i; j++)
			repeated += list[i].instance == list[j].instance || list[i].canary == list[j].canary ||
				    list[i].random == list[j].random;
	ASSERT_EQUAL(repeated, 0);
	CU_ASSERT(list[0].instance && list[0].canary && list[0].random);
}

static const struct harness_test tests[] = {
	{ "the child of a fork runs sthreads and gates, and its parent goes on", both_work, HARNESS_FORK },
	{ "the parent's handles are stale in the child, and its tags are not there", stale_handles, HARNESS_FORK },
	{ "sthreads of a child start from its parent's snapshot, without what was read since", snapshot_of_parent,
	  HARNESS_FORK },
	{ "a child that overwrites all it has does not reach its parent's sthreads", isolated_from_child,
	  HARNESS_FORK },
	{ "a parent that overwrites its snapshot does not reach its child's sthreads", parent_goes_on, HARNESS_FORK },
	{ "tagged globals are copied, and stay tagged", tagged_globals_are_copied, HARNESS_FORK },
	{ "policies keep their descriptors in the child", policies_are_inherited, HARNESS_FORK },
	{ "descriptors of the parent's sthreads and gates are closed in the child", compartments_files_are_closed,
	  HARNESS_FORK },
	{ "grandchildren work, whether their parent used sthreads or not", generations, HARNESS_FORK },
	{ "a hundred forks leave nothing behind in the parent", nothing_leaks, HARNESS_FORK, .seconds = 120 },
	{ "a killed child does not hurt its parent", killed_child, HARNESS_FORK, .seconds = 60 },
	{ "a killed parent does not hurt its child", killed_parent, HARNESS_FORK },
	{ "forks while other threads run sthreads", fork_while_others_run, HARNESS_FORK, .seconds = 120 },
	{ "the first use in a child may come from any of its threads", threads_and_children, HARNESS_FORK },
	{ "a child made by clone() is refused", raw_children, HARNESS_FORK },
	{ "posix_spawn() and vfork() do not disturb sthreads", spawning, HARNESS_FORK },
	{ "a child of a process that has only probed starts anew", probed_only, HARNESS_FORK },
	{ "a child that cannot have a machine is told, and may try again", rebuild_fails, HARNESS_FORK },
	{ "a child whose addresses are taken is refused", addresses_taken, HARNESS_FORK },
	{ "lives of a child repeat nothing of its parent's or its siblings'", never_repeats, HARNESS_FORK,
	  .seconds = 60 },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
