/* unit_policy.c - policies as an algebra: "is a subset of" is an order, and agrees with a model that is told by hand. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "sthread/supervisor.h"

enum {
	TAGS = 4,
	FILES = 3,
	DIRECTORIES = 2,
	GATES = 3,
	CALLS = 4,
	ROUNDS = 3000
};

static const int calls[CALLS] = { SYS_openat, SYS_ioctl, SYS_socket, SYS_sysinfo };
static tag_t tags[TAGS];
static cgate_t gates[GATES];
static int files[FILES], directories[DIRECTORIES];
static uint64_t random_state;

static uint64_t random_next(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return random_state >> 33;
}

/* Objects that exist for policies, without a machine. */
static void make_objects(void)
{
	static uint64_t object[512]; /* zeros: alive */
	for (int i = 0; i < TAGS; i++)
		tags[i] = handle_new(&supervisor.tags, object);
	for (int i = 0; i < GATES; i++)
		gates[i] = handle_new(&supervisor.gates, object);
	for (int i = 0; i < FILES; i++)
		files[i] = open("/dev/null", O_RDWR);
	directories[0] = open("/", O_RDONLY | O_DIRECTORY);
	directories[1] = open("/usr", O_RDONLY | O_DIRECTORY);
	random_state = 1;
}

/* What a policy is made from: the model. */
struct model {
	uint8_t tag[TAGS], file[FILES], directory[DIRECTORIES]; /* 0, or rights */
	uint8_t gates, calls;                                   /* bits */
	unsigned flags, milliseconds;
	size_t memory;
};

static struct model random_model(void)
{
	struct model model = { .flags = random_next() % 4 == 0 ? SC_KILL : 0 };
	static const unsigned times[] = { 0, 0, 0, 5, POLICY_CPU_MILLISECONDS, 20000 };
	static const size_t quotas[] = { 0, 0, 0, 1 << 20, POLICY_MEMORY, (size_t)1 << 33 };
	for (int i = 0; i < TAGS; i++)
		model.tag[i] = (uint8_t)(random_next() % 3 * 2 | 1); /* 1, 3, 5 */
	for (int i = 0; i < TAGS; i++)
		model.tag[i] = model.tag[i] == 5 ? 0 : model.tag[i];
	for (int i = 0; i < FILES; i++)
		model.file[i] = random_next() % 4;
	for (int i = 0; i < DIRECTORIES; i++)
		model.directory[i] = random_next() % 4;
	model.gates = random_next() % (1 << GATES);
	model.calls = random_next() % (1 << CALLS);
	model.milliseconds = times[random_next() % 6];
	model.memory = quotas[random_next() % 6];
	return model;
}

static uint8_t random_bits(void)
{
	return (uint8_t)(random_next() | random_next());
}

/* A model that grants no more. */
static struct model random_part(const struct model *of)
{
	struct model model = *of;
	for (int i = 0; i < TAGS; i++)
		if (random_next() % 4 == 0)
			model.tag[i] = model.tag[i] & (uint8_t)(random_next() % 2 ? PROT_READ : 0);
	for (int i = 0; i < FILES; i++)
		model.file[i] &= random_bits();
	for (int i = 0; i < DIRECTORIES; i++)
		model.directory[i] &= random_bits();
	model.gates &= random_bits();
	model.calls &= random_bits();
	if (random_next() % 4 == 0)
		model.flags |= SC_KILL;
	if (random_next() % 4 == 0)
		model.milliseconds = 1;
	if (random_next() % 4 == 0)
		model.memory = 4096;
	return model;
}

static bool bits_within(const uint8_t *narrow, const uint8_t *wide, int count)
{
	for (int i = 0; i < count; i++)
		if (narrow[i] & ~wide[i])
			return false;
	return true;
}

static bool within(const struct model *narrow, const struct model *wide)
{
	unsigned time = narrow->milliseconds ? narrow->milliseconds : POLICY_CPU_MILLISECONDS;
	size_t memory = narrow->memory ? narrow->memory : POLICY_MEMORY;
	return bits_within(narrow->tag, wide->tag, TAGS) && bits_within(narrow->file, wide->file, FILES) &&
	       bits_within(narrow->directory, wide->directory, DIRECTORIES) &&
	       bits_within(&narrow->gates, &wide->gates, 1) && bits_within(&narrow->calls, &wide->calls, 1) &&
	       !(wide->flags & ~narrow->flags) &&
	       time <= (wide->milliseconds ? wide->milliseconds : POLICY_CPU_MILLISECONDS) &&
	       memory <= (wide->memory ? wide->memory : POLICY_MEMORY);
}

/* Builds the policy, its grants from a random starting point on, so that their order differs. */
static void build(const struct model *model, sc_t *sc)
{
	sc_init(sc);
	unsigned turn = (unsigned)random_next() % 12;
	for (unsigned i = 0; i < TAGS; i++) {
		unsigned at = (i + turn) % TAGS;
		if (model->tag[at])
			sc_mem_add(sc, tags[at], model->tag[at]);
	}
	for (unsigned i = 0; i < FILES; i++) {
		unsigned at = (i + turn) % FILES;
		if (model->file[at])
			sc_fd_add(sc, files[at], model->file[at]);
	}
	for (unsigned i = 0; i < DIRECTORIES; i++) {
		unsigned at = (i + turn) % DIRECTORIES;
		if (model->directory[at])
			sc_path_add(sc, directories[at], model->directory[at]);
	}
	for (unsigned i = 0; i < GATES; i++) {
		unsigned at = (i + turn) % GATES;
		if (model->gates >> at & 1)
			sc_cgate_add(sc, gates[at]);
	}
	for (int i = 0; i < CALLS; i++)
		if (model->calls >> i & 1)
			sc_sys_add(sc, calls[i]);
	sc_flags_add(sc, model->flags);
	sc_cpu_budget(sc, model->milliseconds);
	sc_memory_quota(sc, model->memory);
}

static bool subset(const sc_t *narrow, const sc_t *wide)
{
	errno = 0;
	if (sc_is_subset(narrow, wide) == 0)
		return true;
	CU_ASSERT_EQUAL(errno, EPERM);
	return false;
}

static void every_policy_is_a_subset_of_itself(void)
{
	make_objects();
	for (int i = 0; i < ROUNDS; i++) {
		struct model model = random_model();
		sc_t one, again, copy;
		build(&model, &one);
		build(&model, &again);
		CU_ASSERT_EQUAL(sc_copy(&copy, &one), 0);
		CU_ASSERT(subset(&one, &one));
		CU_ASSERT(subset(&one, &copy));
		CU_ASSERT_EQUAL(sc_equal(&one, &again), 0); /* other duplicates, another order */
		sc_destroy(&one);
		sc_destroy(&again);
		sc_destroy(&copy);
	}
}

static void it_agrees_with_the_model(void)
{
	unsigned yes = 0, no = 0;
	make_objects();
	for (int i = 0; i < ROUNDS; i++) {
		struct model wide_model = random_model();
		struct model narrow_model = i % 2 ? random_model() : random_part(&wide_model);
		sc_t wide, narrow;
		build(&wide_model, &wide);
		build(&narrow_model, &narrow);
		bool expected = within(&narrow_model, &wide_model);
		CU_ASSERT_EQUAL(subset(&narrow, &wide), expected);
		bool both = expected && within(&wide_model, &narrow_model);
		CU_ASSERT_EQUAL(sc_equal(&narrow, &wide) == 0, both); /* antisymmetric up to equality */
		*(expected ? &yes : &no) += 1;
		sc_destroy(&wide);
		sc_destroy(&narrow);
	}
	CU_ASSERT(yes > ROUNDS / 4); /* both cases were really tried */
	CU_ASSERT(no > ROUNDS / 4);
}

static void it_is_transitive(void)
{
	unsigned chains = 0;
	make_objects();
	for (int i = 0; i < ROUNDS; i++) {
		struct model c_model = random_model(), b_model = random_part(&c_model), a_model = random_part(&b_model);
		sc_t a, b, c;
		if (i % 4 == 0)
			b_model = random_model();
		build(&a_model, &a);
		build(&b_model, &b);
		build(&c_model, &c);
		if (subset(&a, &b) && subset(&b, &c)) {
			CU_ASSERT(subset(&a, &c));
			chains++;
		}
		sc_destroy(&a);
		sc_destroy(&b);
		sc_destroy(&c);
	}
	CU_ASSERT(chains > ROUNDS / 4);
}

/* Wide grants everything but one thing, which narrow asks for. */
static void each_missing_right_is_named(void)
{
	static const char *const words[] = { "tag",  "writing to tag", "descriptor",     "directory", "system call",
					     "gate", "SC_KILL",        "processor time", "memory" };
	make_objects();
	for (unsigned i = 0; i < sizeof words / sizeof *words; i++) {
		sc_t narrow, wide;
		sc_init(&narrow);
		sc_init(&wide);
		sc_mem_add(&narrow, tags[0], PROT_READ | (i == 1 ? PROT_WRITE : 0));
		sc_fd_add(&narrow, files[0], PROT_READ);
		sc_path_add(&narrow, directories[0], PROT_READ);
		sc_sys_add(&narrow, SYS_socket);
		sc_cgate_add(&narrow, gates[0]);
		if (i != 0)
			sc_mem_add(&wide, tags[0], PROT_READ);
		if (i != 2)
			sc_fd_add(&wide, files[0], PROT_READ);
		if (i != 3)
			sc_path_add(&wide, directories[0], PROT_READ);
		if (i != 4)
			sc_sys_add(&wide, SYS_socket);
		if (i != 5)
			sc_cgate_add(&wide, gates[0]);
		if (i == 6)
			sc_flags_add(&wide, SC_KILL);
		if (i == 7)
			sc_cpu_budget(&wide, POLICY_CPU_MILLISECONDS - 1);
		if (i == 8)
			sc_memory_quota(&wide, POLICY_MEMORY - 1);
		CU_ASSERT(!subset(&narrow, &wide));
		if (!strstr(sthread_error(), words[i])) {
			harness_note("\"%s\" does not name %s", sthread_error(), words[i]);
			CU_ASSERT(false);
		}
		sc_destroy(&narrow);
		sc_destroy(&wide);
	}
}

static void another_open_of_the_same_file_is_another_grant(void)
{
	sc_t narrow, wide;
	int first = open("/dev/null", O_RDWR), second = open("/dev/null", O_RDWR), copy = dup(first);

	sc_init(&wide);
	sc_fd_add(&wide, first, PROT_READ);
	sc_init(&narrow);
	sc_fd_add(&narrow, copy, PROT_READ);
	CU_ASSERT(subset(&narrow, &wide)); /* control: a duplicate, under another number */
	sc_destroy(&narrow);
	sc_init(&narrow);
	sc_fd_add(&narrow, second, PROT_READ);
	CU_ASSERT(!subset(&narrow, &wide));
	sc_destroy(&narrow);
	sc_destroy(&wide);
}

static void rights_of_two_grants_of_one_file_add_up(void)
{
	sc_t narrow, wide;
	int file = open("/dev/null", O_RDWR), copy = dup(file);

	sc_init(&wide);
	sc_fd_add(&wide, file, PROT_READ);
	sc_init(&narrow);
	sc_fd_add(&narrow, file, PROT_READ | PROT_WRITE);
	CU_ASSERT(!subset(&narrow, &wide)); /* control */
	sc_fd_add(&wide, copy, PROT_WRITE);
	CU_ASSERT(subset(&narrow, &wide));
	sc_destroy(&narrow);
	sc_destroy(&wide);
}

static void a_directory_opened_again_is_the_same_grant(void)
{
	sc_t narrow, wide;
	int first = open("/usr", O_RDONLY | O_DIRECTORY), second = open("/usr", O_PATH | O_DIRECTORY);
	int beneath = open("/usr/lib", O_RDONLY | O_DIRECTORY);

	sc_init(&wide);
	sc_path_add(&wide, first, PROT_READ);
	sc_init(&narrow);
	sc_path_add(&narrow, second, PROT_READ);
	CU_ASSERT(subset(&narrow, &wide));
	sc_path_add(&narrow, beneath, PROT_READ);
	CU_ASSERT(!subset(&narrow, &wide));
	sc_destroy(&narrow);
	sc_destroy(&wide);
}

/* ---- conditions on arguments ------------------------------------------------------------------------------------- */

static uint64_t random_value(void)
{
	static const uint64_t special[] = { 0,          1,          2,          7,          8,
					    0x7fffffff, 0xffffffff, 1ull << 32, 1ull << 63, UINT64_MAX - 1,
					    UINT64_MAX };
	uint64_t value = special[random_next() % (sizeof special / sizeof *special)];
	switch (random_next() % 4) {
	case 0:
		return value;
	case 1:
		return value + random_next() % 3 - 1;
	case 2:
		return random_next() % 16;
	default:
		return (1ull << random_next() % 64) - random_next() % 2;
	}
}

static struct policy_condition random_condition(void)
{
	struct policy_condition condition;
	do {
		int compare = 1 + (int)random_next() % POLICY_MASKED_EQUAL;
		uint64_t mask = compare == POLICY_MASKED_EQUAL ? random_value() : 0;
		uint64_t value = compare == POLICY_MASKED_EQUAL ? random_value() & mask : random_value();
		if (policy_condition_make(&condition, SYS_ioctl, 2, compare, value, mask) == 0)
			return condition;
	} while (true);
}

/* Looks for an argument that passes narrow and not wide, where one must be if there is any: at the ends of both, one
 * beside them, and with single bits changed. */
static bool counterexample(const struct policy_condition *narrow, const struct policy_condition *wide)
{
	const uint64_t seeds[] = { 0,
				   UINT64_MAX,
				   narrow->value,
				   wide->value,
				   narrow->value | ~narrow->mask,
				   wide->value | ~wide->mask,
				   narrow->value | wide->value };
	for (unsigned i = 0; i < sizeof seeds / sizeof *seeds; i++)
		for (int step = -2; step <= 2; step++)
			for (int bit = -1; bit < 64; bit++)
				for (int other = bit; other < 64; other += other < 0 || bit < 0 ? 64 : 7) {
					uint64_t value = seeds[i] + (uint64_t)(int64_t)step;
					value ^= bit >= 0 ? 1ull << bit : 0;
					value ^= other > bit ? 1ull << other : 0;
					if (policy_condition_holds(narrow, value) &&
					    !policy_condition_holds(wide, value))
						return true;
				}
	return false;
}

static void implication_is_exact(void)
{
	unsigned implied = 0;
	random_state = 3;
	for (int i = 0; i < ROUNDS; i++) {
		struct policy_condition narrow = random_condition(), wide = random_condition();
		bool implies = policy_condition_implies(&narrow, &wide);
		if (implies == counterexample(&narrow, &wide)) {
			harness_note("%d %#llx & %#llx, then %d %#llx & %#llx: %d", narrow.compare,
				     (unsigned long long)narrow.value, (unsigned long long)narrow.mask, wide.compare,
				     (unsigned long long)wide.value, (unsigned long long)wide.mask, implies);
			CU_ASSERT(false);
		}
		CU_ASSERT(policy_condition_implies(&narrow, &narrow));
		implied += implies;
	}
	CU_ASSERT(implied > ROUNDS / 20);
}

static void implication_is_transitive(void)
{
	unsigned chains = 0;
	random_state = 4;
	for (int i = 0; i < 100 * ROUNDS; i++) {
		struct policy_condition a = random_condition(), b = random_condition(), c = random_condition();
		if (!policy_condition_implies(&a, &b) || !policy_condition_implies(&b, &c))
			continue;
		CU_ASSERT(policy_condition_implies(&a, &c));
		chains++;
	}
	CU_ASSERT(chains > 100);
}

static void a_filter_narrows(void)
{
	sc_t plain, loose, strict, other;

	sc_init(&plain);
	sc_sys_add(&plain, SYS_openat);
	loose = strict = other = plain;
	sc_sys_filter(&loose, SYS_openat, 3, SC_LESS, 512);
	sc_sys_filter(&strict, SYS_open, 2, SC_LESS_OR_EQUAL, 448); /* the same argument by its other number */
	sc_sys_filter(&strict, SYS_write, 2, SC_LESS, 100);
	sc_sys_filter(&other, SYS_openat, 2, SC_LESS, 512);
	CU_ASSERT(subset(&loose, &plain));
	CU_ASSERT(!subset(&plain, &loose));
	CU_ASSERT_PTR_NOT_NULL(strstr(sthread_error(), "argument 3 of openat"));
	CU_ASSERT(subset(&strict, &loose));
	CU_ASSERT(!subset(&loose, &strict));
	CU_ASSERT(!subset(&other, &loose)); /* another argument */
	CU_ASSERT_EQUAL(sc_equal(&loose, &loose), 0);
}

static void a_filter_binds_who_can_make_the_call(void)
{
	sc_t wide, narrow;

	sc_init(&wide);
	sc_sys_add(&wide, SYS_openat);
	sc_sys_filter(&wide, SYS_openat, 2, SC_EQUAL, 0);
	sc_init(&narrow);
	CU_ASSERT(subset(&narrow, &wide)); /* it cannot open anything */
	sc_sys_filter(&wide, SYS_ioctl, 1, SC_EQUAL, 0);
	CU_ASSERT(!subset(&narrow, &wide)); /* ioctl() needs no grant of its own */
	sc_sys_filter(&narrow, SYS_ioctl, 1, SC_EQUAL, 0);
	CU_ASSERT(subset(&narrow, &wide));
}

/* Who may use descriptor 3 for one thing only must not get its file under another number. */
static void a_filter_on_descriptors_makes_numbers_matter(void)
{
	sc_t wide, narrow;
	int file = open("/dev/null", O_RDWR), copy = dup(file);

	sc_init(&wide);
	sc_fd_add(&wide, file, PROT_READ);
	sc_init(&narrow);
	sc_fd_add(&narrow, copy, PROT_READ);
	CU_ASSERT(subset(&narrow, &wide)); /* control */
	sc_sys_filter(&wide, SYS_ioctl, 0, SC_NOT_EQUAL, (uint64_t)file);
	sc_sys_filter(&narrow, SYS_ioctl, 0, SC_NOT_EQUAL, (uint64_t)file);
	CU_ASSERT(!subset(&narrow, &wide));
	sc_destroy(&narrow);
	sc_destroy(&wide);
}

static void wrong_conditions_are_refused(void)
{
	static const struct {
		int call;
		unsigned argument;
		int compare;
		uint64_t value;
	} wrong[] = {
		{ -1, 0, SC_EQUAL, 0 },
		{ 100000, 0, SC_EQUAL, 0 },
		{ SYS_reboot, 0, SC_EQUAL, 0 }, /* not served */
		{ SYS_fork, 0, SC_EQUAL, 0 },   /* has none */
		{ SYS_ioctl, 3, SC_EQUAL, 0 },  /* has three */
		{ SYS_ioctl, 6, SC_EQUAL, 0 },
		{ SYS_ioctl, UINT32_MAX, SC_EQUAL, 0 },
		{ SYS_open, UINT32_MAX, SC_EQUAL, 0 },
		{ SYS_open, 3, SC_EQUAL, 0 },
		{ SYS_open, 0, SC_EQUAL, 0 }, /* an address */
		{ SYS_openat, 1, SC_EQUAL, 0 },
		{ SYS_write, 1, SC_NOT_EQUAL, 0 },
		{ SYS_ioctl, 1, 0, 0 },
		{ SYS_ioctl, 1, POLICY_MASKED_EQUAL, 0 },
		{ SYS_ioctl, 1, -1, 0 },
		{ SYS_ioctl, 1, SC_LESS, 0 },
		{ SYS_ioctl, 1, SC_GREATER, UINT64_MAX },
	};
	sc_t sc;

	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		sc_init(&sc);
		errno = 0;
		CU_ASSERT_EQUAL(sc_sys_filter(&sc, wrong[i].call, wrong[i].argument, (enum sc_compare)wrong[i].compare,
					      wrong[i].value),
				-1);
		CU_ASSERT_EQUAL(errno, EINVAL);
		CU_ASSERT(sc_is_subset(&sc, &sc) == -1 && errno == EINVAL); /* remembered */
	}
	sc_init(&sc);
	CU_ASSERT(sc_sys_filter_masked(&sc, SYS_ioctl, 1, 0, 0) == -1 && errno == EINVAL);
	sc_init(&sc);
	CU_ASSERT(sc_sys_filter_masked(&sc, SYS_ioctl, 1, 6, 1) == -1 && errno == EINVAL);
	sc_init(&sc);
	CU_ASSERT(sc_sys_filter(NULL, SYS_ioctl, 1, SC_EQUAL, 1) == -1 && errno == EINVAL);
	for (unsigned i = 0; i < POLICY_CONDITIONS; i++) {
		CU_ASSERT_EQUAL(sc_sys_filter(&sc, SYS_ioctl, 1, SC_NOT_EQUAL, i), 0);
		CU_ASSERT_EQUAL(sc_sys_filter(&sc, SYS_ioctl, 1, SC_NOT_EQUAL, i), 0); /* once more is no more */
	}
	CU_ASSERT(sc_sys_filter(&sc, SYS_ioctl, 1, SC_NOT_EQUAL, 99) == -1 && errno == ENOSPC);
}

/* ---- as text ----------------------------------------------------------------------------------------------------- */

static void a_policy_is_described(void)
{
	char text[2000], expected[2000], small[20];
	char *at;
	sc_t sc;

	make_objects();
	sc_init(&sc);
	sc_mem_add(&sc, tags[1], PROT_READ);
	sc_mem_add(&sc, tags[0], PROT_READ | PROT_WRITE);
	sc_mem_add(&sc, tags[2], PROT_READ | SC_COPY_ON_WRITE);
	sc_fd_add(&sc, files[1], PROT_WRITE);
	sc_fd_add(&sc, files[0], PROT_READ);
	sc_path_add(&sc, directories[1], PROT_READ);
	sc_path_add(&sc, directories[0], PROT_READ | PROT_WRITE);
	sc_cgate_add(&sc, gates[1]);
	sc_cgate_add(&sc, gates[0]);
	sc_sys_add(&sc, SYS_socket);
	sc_sys_add(&sc, SYS_openat);
	sc_sys_add(&sc, 511);
	sc_sys_filter(&sc, SYS_write, 2, SC_LESS_OR_EQUAL, 200);
	sc_sys_filter_masked(&sc, SYS_open, 1, O_ACCMODE | O_CREAT, 0);
	sc_sys_filter(&sc, SYS_write, 0, SC_NOT_EQUAL, 1);
	sc_flags_add(&sc, SC_KILL);
	sc_cpu_budget(&sc, 500);
	snprintf(expected, sizeof expected,
		 "tag %d: read, write\n"
		 "tag %d: read\n"
		 "tag %d: read, copy on write\n"
		 "descriptor %d: read: /dev/null\n"
		 "descriptor %d: write: /dev/null\n"
		 "directory %d: read: /usr\n"
		 "directory %d: read, write: /\n"
		 "system call open\n"
		 "system call socket\n"
		 "system call openat\n"
		 "system call number 511\n"
		 "condition write: argument 0 != 1\n"
		 "condition write: argument 2 <= 200\n"
		 "condition openat: argument 2 & 0x43 == 0\n"
		 "gate %d\n"
		 "gate %d\n"
		 "SC_KILL\n"
		 "processor time: 500 ms\n"
		 "wall time: no limit\n",
		 tags[0], tags[1], tags[2], files[0], files[1], directories[1], directories[0], gates[0], gates[1]);
	int length = sc_describe(&sc, text, sizeof text);
	CU_ASSERT_EQUAL(length, (int)strlen(text));
	if (strncmp(text, expected, strlen(expected)) != 0) {
		harness_note("%s", text);
		CU_ASSERT(false);
	}
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "\nmemory quota: 268435456 bytes, the default\n"));
	/* As snprintf(). */
	CU_ASSERT_EQUAL(sc_describe(&sc, NULL, 0), length);
	memset(small, 'x', sizeof small);
	CU_ASSERT_EQUAL(sc_describe(&sc, small, 10), length);
	CU_ASSERT(memcmp(small, text, 9) == 0 && !small[9] && small[10] == 'x');
	CU_ASSERT_EQUAL(sc_describe(&sc, small, 1), length);
	CU_ASSERT_EQUAL(small[0], 0);
	for (size_t size = 1; size <= sizeof text; size++) {
		char cut[sizeof text + 1];
		cut[size] = 'x';
		CU_ASSERT_EQUAL_FATAL(sc_describe(&sc, cut, size), length);
		CU_ASSERT_FATAL(strncmp(cut, text, size - 1) == 0 && cut[size] == 'x' && strlen(cut) < size);
	}
	CU_ASSERT(sc_describe(&sc, NULL, 5) == -1 && errno == EINVAL);
	CU_ASSERT(sc_describe(NULL, text, 5) == -1 && errno == EINVAL);
	/* The failure that is remembered is the first. */
	sc_mem_add(&sc, -1, PROT_READ);
	sc_flags_add(&sc, 1000);
	CU_ASSERT(sc_describe(&sc, text, sizeof text) > length);
	at = strstr(text, "\nfailed: EBADF, ");
	CU_ASSERT_PTR_NOT_NULL(at);
	sc_destroy(&sc);
}

static void equal_policies_have_equal_text(void)
{
	char one[4000], other[4000];
	make_objects();
	for (int i = 0; i < ROUNDS / 10; i++) {
		struct model model = random_model();
		memset(model.directory, 0, sizeof model.directory); /* their order matters */
		sc_t first, second;
		build(&model, &first);
		build(&model, &second);
		CU_ASSERT(sc_describe(&first, one, sizeof one) > 0);
		CU_ASSERT(sc_describe(&second, other, sizeof other) > 0);
		CU_ASSERT_STRING_EQUAL(one, other);
		sc_destroy(&first);
		sc_destroy(&second);
	}
}

static void names_stay_on_their_line(void)
{
	char folder[] = "/tmp/unit_policy_XXXXXX", name[100], text[4000];
	sc_t sc;

	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
	snprintf(name, sizeof name, "%s/a\ngate 5\\", folder);
	int file = open(name, O_RDWR | O_CREAT, 0600);
	sc_init(&sc);
	sc_fd_add(&sc, file, PROT_READ);
	CU_ASSERT(sc_describe(&sc, text, sizeof text) > 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "/a\\012gate 5\\134\n"));
	CU_ASSERT_PTR_NULL(strstr(text, "\ngate"));
	unlink(name);
	rmdir(folder);
	sc_t copy = sc;
	sc_destroy(&sc);
	CU_ASSERT(sc_describe(&copy, text, sizeof text) > 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, ": read: released\n"));
}

static void what_is_no_policy_is_refused(void)
{
	sc_t good, bad;

	sc_init(&good);
	memset(&bad, 0xee, sizeof bad);
	CU_ASSERT(sc_is_subset(NULL, &good) == -1 && errno == EINVAL);
	CU_ASSERT(sc_is_subset(&good, NULL) == -1 && errno == EINVAL);
	CU_ASSERT(sc_is_subset(&bad, &good) == -1 && errno == EINVAL);
	CU_ASSERT(sc_equal(&good, &bad) == -1 && errno == EINVAL);
	CU_ASSERT_EQUAL(sc_is_subset(&good, &good), 0); /* control */
	sc_mem_add(&good, -1, PROT_READ);
	CU_ASSERT(sc_is_subset(&good, &good) == -1 && errno == EBADF); /* its remembered failure */
}

static const struct harness_test tests[] = {
	{ "every policy is a subset of itself and equal to its copy", every_policy_is_a_subset_of_itself,
	  HARNESS_FORK },
	{ "subset and equal agree with a model", it_agrees_with_the_model, HARNESS_FORK },
	{ "subset is transitive", it_is_transitive, HARNESS_FORK },
	{ "each missing right is refused and named", each_missing_right_is_named, HARNESS_FORK },
	{ "another open of the same file is another grant", another_open_of_the_same_file_is_another_grant,
	  HARNESS_FORK },
	{ "the rights of two grants of one open file add up", rights_of_two_grants_of_one_file_add_up, HARNESS_FORK },
	{ "a directory opened again is the same grant, one beneath it is not",
	  a_directory_opened_again_is_the_same_grant, HARNESS_FORK },
	{ "a condition implies another exactly if no argument says otherwise", implication_is_exact, HARNESS_FORK,
	  .seconds = 120 },
	{ "implication of conditions is transitive", implication_is_transitive, HARNESS_FORK },
	{ "a policy with a condition is narrower than one without", a_filter_narrows, HARNESS_FORK },
	{ "a condition binds who can make the call", a_filter_binds_who_can_make_the_call, HARNESS_FORK },
	{ "conditions on descriptors make their numbers matter", a_filter_on_descriptors_makes_numbers_matter,
	  HARNESS_FORK },
	{ "wrong conditions are refused and remembered", wrong_conditions_are_refused, HARNESS_FORK },
	{ "a policy is described grant by grant, cut as snprintf() cuts", a_policy_is_described, HARNESS_FORK },
	{ "equal policies have equal text", equal_policies_have_equal_text, HARNESS_FORK },
	{ "a file's name cannot look like another grant", names_stay_on_their_line, HARNESS_FORK },
	{ "what is no policy, or failed, is refused", what_is_no_policy_is_refused, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, 0);
}
