/* live_boundary.c - tagged globals: denied unless granted, initial values included, and one memory for those who are. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boundary_other.h"
#include "live.h"
#include "sthread/supervisor.h"

enum {
	PAGE = 4096,
	BOTH = PROT_READ | PROT_WRITE
};

struct pair {
	const char *name;
	int *at;
};

static int untagged = 11;
BOUNDARY_VAR(static int counter = 21, COUNTERS);
BOUNDARY_VAR(static char page_wide[PAGE] __attribute__((aligned(64))), COUNTERS) = { 1, 2, 3 };
BOUNDARY_VAR(struct pair pairs[2], 2) = { { "first", &untagged }, { "second", &counter } };
BOUNDARY_VAR(static char secret[], NAMED) = "Qx7-initial-value-that-is-tagged";
/* The same text with bit 7 of each byte flipped, so that it is in the program but once. */
static const char secret_hidden[] =
	"\xd1\xf8\xb7\xad\xe9\xee\xe9\xf4\xe9\xe1\xec\xad\xf6\xe1\xec\xf5\xe5\xad\xf4\xe8\xe1"
	"\xf4\xad\xe9\xf3\xad\xf4\xe1\xe7\xe7\xe5\xe4";

static void policy_with(sc_t *sc, tag_t tag, int prot)
{
	sc_init(sc);
	ASSERT_EQUAL(sc_mem_add(sc, tag, prot), 0);
}

static void denied_unless_granted(void)
{
	live_init();

	sc_t none, read_only, both, second;

	sc_init(&none);
	policy_with(&read_only, BOUNDARY_TAG(COUNTERS), PROT_READ);
	policy_with(&both, BOUNDARY_TAG(1), BOTH);
	policy_with(&second, BOUNDARY_TAG(2), BOTH);
	ASSERT_RETURNED(live_run(&none, body_read, &untagged), 11); /* the control */
	ASSERT_PAGE_FAULT(live_run(&none, body_read, &counter), READ_ABSENT, &counter);
	ASSERT_PAGE_FAULT(live_run(&none, body_write, &counter), WRITE_ABSENT, &counter);
	ASSERT_PAGE_FAULT(live_run(&second, body_read, &counter), READ_ABSENT, &counter);
	ASSERT_PAGE_FAULT(live_run(&both, body_read, pairs), READ_ABSENT, pairs);
	ASSERT_RETURNED(live_run(&read_only, body_read, &counter), 21);
	ASSERT_PAGE_FAULT(live_run(&read_only, body_write, &counter), WRITE_DENIED, &counter);
	ASSERT_EQUAL(counter, 21);
	ASSERT_RETURNED(live_run(&both, body_write, &counter), 1);
	ASSERT_EQUAL(counter, 0x5a); /* it is the process's own */
	counter = 77;
	ASSERT_RETURNED(live_run(&read_only, body_read, &counter), 77);
	/* Rights do not stay behind in the address space. */
	ASSERT_PAGE_FAULT(live_run(&none, body_read, &counter), READ_ABSENT, &counter);
	ASSERT_PAGE_FAULT(live_run(&read_only, body_write, &counter), WRITE_DENIED, &counter);
}

static struct {
	tag_t tag;
	uint8_t *block;
} before_fork;

/* What was allocated in the tag of globals is not the child's, and its place becomes another tag's. */
static int in_the_child(void)
{
	struct tag_statistics statistics;
	tag_t tag = BOUNDARY_TAG(COUNTERS), other = tag_new();
	uint8_t *block = smalloc(other, 1000), *again;
	sthread_t st;
	void *value;
	sc_t sc;

	if (tag != before_fork.tag || block != before_fork.block)
		return 1; /* else this shows nothing */
	block[0] = 0x66;
	if (tag_statistics(tag, &statistics) != 0 || statistics.allocations || statistics.bytes_held > 16 * PAGE)
		return 2;
	sc_init(&sc);
	sc_mem_add(&sc, tag, BOTH);
	if (sthread_create(&st, &sc, body_read, &counter) != 0 || sthread_join(st, &value) != 0 ||
	    (intptr_t)value != 21)
		return 3;
	if (sthread_create(&st, &sc, body_read, block) != 0 || sthread_join(st, &value) == 0)
		return 4;
	again = smalloc(tag, 1000);
	if (!again || again == block || again[0] || block[0] != 0x66)
		return 5;
	return 0;
}

static void allocations_are_not_inherited(void)
{
	live_init();

	int status = -1;

	before_fork.tag = BOUNDARY_TAG(COUNTERS);
	before_fork.block = smalloc(before_fork.tag, 1000);

	pid_t child = fork();

	if (child == 0)
		_exit(in_the_child());
	ASSERT_EQUAL(waitpid(child, &status, 0), child);
	ASSERT_EQUAL(status, 0);
	sfree(before_fork.block);
}

static void every_page_of_every_section(void)
{
	live_init();

	sc_t none, both;
	uint8_t *const bytes[] = { (uint8_t *)page_wide, (uint8_t *)page_wide + PAGE - 1,
				   (uint8_t *)boundary_other_counter() };
	char *text = boundary_other_text();

	sc_init(&none);
	policy_with(&both, BOUNDARY_TAG(COUNTERS), BOTH);
	for (unsigned i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
		ASSERT_PAGE_FAULT(live_run(&none, body_read, bytes[i]), READ_ABSENT, bytes[i]);
		ASSERT_RETURNED(live_run(&both, body_write, bytes[i]), 1);
		ASSERT_EQUAL(*bytes[i], 0x5a);
	}
	/* Both source files' globals of id 2 are one tag. */
	ASSERT_EQUAL(boundary_other_tag(), BOUNDARY_TAG(2));
	ASSERT_PAGE_FAULT(live_run(&none, body_read, text + 4999), READ_ABSENT, text + 4999);
	ASSERT_EQUAL(sc_mem_add(&none, BOUNDARY_TAG(2), PROT_READ), 0);
	ASSERT_RETURNED(live_run(&none, body_read, text), 'o');
	ASSERT_RETURNED(live_run(&none, body_read, text + 4999), 0);
}

/* The initial value is nowhere in what an sthread can reach: not in the snapshot, not in a page of the program's file. */
static void initial_values_are_not_shown(void)
{
	live_init();

	char text[sizeof(secret_hidden)];
	sthread_t st;
	sc_t none, granted;

	live_reveal(text, secret_hidden);
	CU_ASSERT_STRING_EQUAL(text, secret);
	sc_init(&none);
	ASSERT_EQUAL(live_create(&st, &none, body_park_then_read, &untagged), 0);
	/* The stack of the process, where `text` is, is not in the snapshot. */
	ASSERT_EQUAL(live_find(st, text, strlen(text)), 0);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_RETURNED(live_join(st), 11);
	/* The control: the search finds it where it is granted. */
	policy_with(&granted, BOUNDARY_TAG(NAMED), PROT_READ);
	ASSERT_EQUAL(live_create(&st, &granted, body_park_then_read, &untagged), 0);
	ASSERT_EQUAL(live_find(st, text, strlen(text)), 1);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_RETURNED(live_join(st), 11);
}

static void values_survive(void)
{
	ASSERT_EQUAL(counter, 21);
	counter = 22;
	secret[0] = 'R';
	live_init();
	ASSERT_EQUAL(counter, 22);
	CU_ASSERT_STRING_EQUAL(secret, "Rx7-initial-value-that-is-tagged");
	CU_ASSERT_STRING_EQUAL(pairs[0].name, "first");
	CU_ASSERT_PTR_EQUAL(pairs[1].at, &counter);
	ASSERT_EQUAL(page_wide[2], 3);
	ASSERT_EQUAL((uintptr_t)page_wide % 64, 0);
	ASSERT_EQUAL(*boundary_other_counter(), 40);
	CU_ASSERT_STRING_EQUAL(boundary_other_text(), "other");
	ASSERT_EQUAL(sthread_init(), 0);
	ASSERT_EQUAL(counter, 22);

	sc_t sc;

	policy_with(&sc, BOUNDARY_TAG(1), PROT_READ);
	ASSERT_RETURNED(live_run(&sc, body_read, &counter), 22);
}

static void *tags_inside(void *unused)
{
	uint8_t *block;

	(void)unused;
	counter++;
	block = smalloc(BOUNDARY_TAG(COUNTERS), 100000);
	if (!block || block[99999])
		return NULL;
	block[99999] = 0x42;
	errno = 0;
	sfree(&counter);
	return errno == EINVAL ? block : NULL;
}

static void tag_functions(void)
{
	ASSERT_ERROR(BOUNDARY_TAG(COUNTERS) == -1, EPERM);
	live_init();

	tag_t tag = BOUNDARY_TAG(COUNTERS);
	struct tag_statistics statistics;
	sc_t sc;
	uint8_t *block;

	CU_ASSERT(tag >= 0 && tag != BOUNDARY_TAG(2) && tag != BOUNDARY_TAG(NAMED));
	ASSERT_ERROR(sthread_boundary_tag(&untagged) == -1, EBADF);
	ASSERT_ERROR(tag_delete(tag) == -1, EBUSY);
	ASSERT_ERROR((sfree(&counter), true), EINVAL);
	ASSERT_ERROR((sfree(page_wide), true), EINVAL);
	ASSERT_ERROR(!srealloc(page_wide, 10), EINVAL);
	ASSERT_EQUAL(tag_statistics(tag, &statistics), 0);
	ASSERT_EQUAL(statistics.allocations, 0);
	ASSERT_EQUAL(statistics.bytes_held % PAGE, 0);
	/* It can be allocated from like any other, on both sides. */
	policy_with(&sc, tag, BOTH);
	struct life life = live_run(&sc, tags_inside, NULL);
	block = life.value;
	ASSERT_END(life, STHREAD_RETURNED);
	CU_ASSERT_PTR_NOT_NULL_FATAL(block);
	ASSERT_EQUAL(block[99999], 0x42);
	ASSERT_EQUAL(counter, 22);
	errno = 0;
	sfree(block);
	ASSERT_EQUAL(errno, 0);
	ASSERT_EQUAL(tag_quota(tag, 1), 0);
	ASSERT_ERROR(!smalloc(tag, 1 << 20), ENOMEM);
}

static void *write_it_out(void *fd)
{
	return (void *)write((int)(intptr_t)fd, secret, sizeof(secret) - 1);
}

static void served_calls(void)
{
	live_init();

	int ends[2];
	char got[64] = { 0 };
	sc_t sc;

	ASSERT_EQUAL(pipe(ends), 0);
	sc_init(&sc);
	ASSERT_EQUAL(sc_fd_add(&sc, ends[1], PROT_WRITE), 0);
	ASSERT_RETURNED(live_run(&sc, write_it_out, (void *)(intptr_t)ends[1]), -1);
	ASSERT_EQUAL(sc_mem_add(&sc, BOUNDARY_TAG(NAMED), PROT_READ), 0);
	ASSERT_RETURNED(live_run(&sc, write_it_out, (void *)(intptr_t)ends[1]), sizeof(secret) - 1);
	ASSERT_EQUAL(read(ends[0], got, sizeof(got)), sizeof(secret) - 1);
	CU_ASSERT_STRING_EQUAL(got, secret);
}

static void *add_for_ever(void *unused)
{
	(void)unused;
	for (;;) {
		__atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED);
		if (sthread_park() != 0)
			return NULL;
	}
}

/* Copy on write, by the kernel: while an sthread goes on in the parent, the child has the values of the fork. */
static void children_have_copies(void)
{
	live_init();

	sthread_t st;
	sc_t sc;
	int to_child[2], status;
	char byte = 0;

	ASSERT_EQUAL(pipe(to_child), 0);
	policy_with(&sc, BOUNDARY_TAG(COUNTERS), BOTH);
	ASSERT_EQUAL(live_create(&st, &sc, add_for_ever, NULL), 0);
	ASSERT_EQUAL(counter, 22);

	pid_t child = fork();

	if (child == 0) {
		bool good = counter == 22;

		counter = 500;
		page_wide[7] = 9;
		good = good && read(to_child[0], &byte, 1) == 1;
		_exit(good && counter == 500 && page_wide[7] == 9 && secret[0] == 'Q' ? 0 : 1);
	}
	for (int i = 0; i < 5; i++)
		ASSERT_EQUAL(live_step(st), 0);
	ASSERT_EQUAL(counter, 27);
	ASSERT_EQUAL(write(to_child[1], &byte, 1), 1);
	ASSERT_EQUAL(waitpid(child, &status, 0), child);
	ASSERT_EQUAL(status, 0);
	ASSERT_EQUAL(counter, 27);
	ASSERT_EQUAL(page_wide[7], 0);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_EQUAL(counter, 28);
	ASSERT_EQUAL(sthread_kill(st), 0);
	ASSERT_END(live_join(st), STHREAD_KILLED);
}

/* What the kernel says of the mapping that holds an address: its line VmFlags. */
static void flags_of(const void *address, char *flags, size_t room)
{
	char line[256];
	bool here = false;
	FILE *smaps = fopen("/proc/self/smaps", "r");

	*flags = 0;
	while (smaps && fgets(line, sizeof(line), smaps)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (uintptr_t)address && (uintptr_t)address < end;
		if (here && !strncmp(line, "VmFlags:", 8))
			snprintf(flags, room, "%s", line);
	}
	if (smaps)
		fclose(smaps);
}

static void not_dumped(void)
{
	char flags[256];

	flags_of(&counter, flags, sizeof(flags));
	CU_ASSERT_PTR_NULL(strstr(flags, " dd"));
	live_init();
	flags_of(&counter, flags, sizeof(flags));
	CU_ASSERT_PTR_NOT_NULL(strstr(flags, " dd")); /* not dumped */
	CU_ASSERT_PTR_NULL(strstr(flags, " dc"));     /* but copied by fork() */
	flags_of(&untagged, flags, sizeof(flags));
	CU_ASSERT_PTR_NULL(strstr(flags, " dd"));
}

static const struct harness_test tests[] = {
	{ "a tagged global is absent unless its tag is granted, and then is the process's own", denied_unless_granted,
	  HARNESS_FORK },
	{ "every page of a section belongs to its tag, in every source file", every_page_of_every_section,
	  HARNESS_FORK },
	{ "the initial value of a tagged global is nowhere in an sthread's reach", initial_values_are_not_shown,
	  HARNESS_FORK },
	{ "values, pointers and alignment are the same after sthread_init()", values_survive, HARNESS_FORK },
	{ "the tag of globals is a tag that cannot be deleted", tag_functions, HARNESS_FORK },
	{ "served calls reach tagged globals by the same rights", served_calls, HARNESS_FORK },
	{ "a child has its own copy while an sthread goes on in the parent", children_have_copies, HARNESS_FORK },
	{ "what was allocated beside tagged globals is not a child's", allocations_are_not_inherited, HARNESS_FORK },
	{ "tagged globals are left out of core dumps, and inherited", not_dumped, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
