/* live_gate_sthreads_policy.c - what a gate can grant the sthreads that it creates: no more than it has, whatever the words
 * in its memory say. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "live.h"
#include "nested.h"
#include "supervisor.h"

enum {
	BOTH = PROT_READ | PROT_WRITE
};

struct record {
	tag_t tag, read_only, foreign;
	cgate_t gate, granted, not_granted, gone;
	int read_end, write_end, directory, other_directory, file; /* numbers */
	int which;
	unsigned seed;
	unsigned created;
	sthread_t st[CGATE_STHREADS_MAX];
};

static struct record *record;
static char folder[64];

static void *act(void *function, void *trusted)
{
	return ((stcb_t)function)(trusted);
}

static long call(cgate_t gate, stcb_t function)
{
	void *result = NULL;

	return cgate_call(gate, (void *)function, &result) == 0 ? (long)result : -errno;
}

static void remove_folder(void)
{
	char name[sizeof(folder) + 16];

	snprintf(name, sizeof(name), "%s/file", folder);
	unlink(name);
	rmdir(folder);
}

/* A gate with some of each right there is. */
static void prepare(sc_t *sc)
{
	char name[sizeof(folder) + 16];
	int ends[2];
	sc_t none;

	live_init();

	tag_t tag = tag_new();

	record = smalloc(tag, sizeof(*record));
	CU_ASSERT_PTR_NOT_NULL_FATAL(record);
	record->tag = tag;
	record->read_only = tag_new();
	record->foreign = tag_new();
	ASSERT_EQUAL(pipe(ends), 0);
	record->read_end = ends[0];
	record->write_end = ends[1];
	strcpy(folder, "/tmp/live_gate_XXXXXX");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
	snprintf(name, sizeof(name), "%s/file", folder);
	close(open(name, O_CREAT | O_WRONLY, 0600));
	record->directory = open(folder, O_RDONLY | O_DIRECTORY);
	record->other_directory = open("/tmp", O_RDONLY | O_DIRECTORY);
	sc_init(&none);
	record->granted = cgate_create(act, &none, NULL);
	record->not_granted = cgate_create(act, &none, NULL);
	record->gone = cgate_create(act, &none, NULL);
	sc_init(sc);
	sc_mem_add(sc, tag, BOTH);
	sc_mem_add(sc, record->read_only, PROT_READ);
	sc_fd_add(sc, record->read_end, PROT_READ);
	sc_path_add(sc, record->directory, PROT_READ);
	sc_sys_add(sc, SYS_open);
	sc_sys_add(sc, SYS_stat);
	sc_sys_filter(sc, SYS_lseek, 1, SC_LESS_OR_EQUAL, 4999);
	sc_cgate_add(sc, record->granted);
	sc_cgate_add(sc, record->gone);
	sc_cpu_budget(sc, 5000);
	ASSERT_EQUAL(sc_memory_quota(sc, 32 << 20), 0);
	sc_call_budget(sc, 100000);
	sc_wall_budget(sc, 20000);
	sc_descriptor_limit(sc, 10);
	record->gate = cgate_create(act, sc, record);
	CU_ASSERT_FATAL(record->gate >= 0);
	ASSERT_EQUAL(cgate_destroy(record->gone), 0);
}

static void finish(sc_t *sc)
{
	sc_destroy(sc);
	remove_folder();
}

/* ---- right by right ---------------------------------------------------------------------------------------------- */

typedef void (*grant)(sc_t *sc, const struct record *shared);

static void nothing(sc_t *sc, const struct record *shared)
{
	(void)sc, (void)shared;
}
static void tag_both(sc_t *sc, const struct record *shared)
{
	sc_mem_add(sc, shared->tag, BOTH);
}
static void tag_less(sc_t *sc, const struct record *shared)
{
	sc_mem_add(sc, shared->tag, PROT_READ);
}
static void tag_read(sc_t *sc, const struct record *shared)
{
	sc_mem_add(sc, shared->read_only, PROT_READ);
}
static void tag_copied(sc_t *sc, const struct record *shared)
{
	sc_mem_add(sc, shared->read_only, PROT_READ | SC_COPY_ON_WRITE);
}
static void tag_more(sc_t *sc, const struct record *shared)
{
	sc_mem_add(sc, shared->read_only, BOTH);
}
static void tag_foreign(sc_t *sc, const struct record *shared)
{
	sc_mem_add(sc, shared->foreign, PROT_READ);
}
static void tag_write_only(sc_t *sc, const struct record *shared)
{
	sc_mem_add(sc, shared->tag, PROT_WRITE);
}
static void fd(sc_t *sc, const struct record *shared)
{
	sc_fd_add(sc, shared->read_end, PROT_READ);
}
static void fd_more(sc_t *sc, const struct record *shared)
{
	sc_fd_add(sc, shared->read_end, BOTH);
}
static void fd_foreign(sc_t *sc, const struct record *shared)
{
	sc_fd_add(sc, shared->write_end, PROT_WRITE);
}
static void fd_negative(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_fd_add(sc, -1, PROT_READ);
}
static void fd_twice(sc_t *sc, const struct record *shared)
{
	fd(sc, shared);
	fd(sc, shared);
}
static void path(sc_t *sc, const struct record *shared)
{
	sc_path_add(sc, shared->directory, PROT_READ);
}
static void path_more(sc_t *sc, const struct record *shared)
{
	sc_path_add(sc, shared->directory, BOTH);
}
static void path_foreign(sc_t *sc, const struct record *shared)
{
	sc_path_add(sc, shared->other_directory, PROT_READ);
}
static void calls(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_sys_add(sc, SYS_openat);
}
static void calls_more(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_sys_add(sc, SYS_socket);
}
static void gate(sc_t *sc, const struct record *shared)
{
	sc_cgate_add(sc, shared->granted);
}
static void gate_more(sc_t *sc, const struct record *shared)
{
	sc_cgate_add(sc, shared->not_granted);
}
static void gate_gone(sc_t *sc, const struct record *shared)
{
	sc_cgate_add(sc, shared->gone);
}
static void limits(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_cpu_budget(sc, 5000);
	sc_memory_quota(sc, 32 << 20);
	sc_call_budget(sc, 100000);
	sc_wall_budget(sc, 20000);
	sc_descriptor_limit(sc, 10);
}
static void time_more(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_cpu_budget(sc, 5001);
}
static void memory_more(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_memory_quota(sc, (32 << 20) + 1);
}
static void calls_budget_more(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_call_budget(sc, 100001);
}
static void wall_more(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_wall_budget(sc, 20001);
}
static void descriptors_more(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_descriptor_limit(sc, 11);
}
static void condition(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_sys_filter(sc, SYS_lseek, 1, SC_LESS, 4096);
}
static void kill_too(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_flags_add(sc, SC_KILL);
}
static void unknown_flag(sc_t *sc, const struct record *shared)
{
	(void)shared;
	sc_flags_add(sc, 1U << 31);
}

static const struct {
	const char *name;
	grant grant;
	int error;
} grants[] = {
	{ "nothing", nothing, 0 },
	{ "a tag", tag_both, 0 },
	{ "a tag, with less", tag_less, 0 },
	{ "a tag it may read", tag_read, 0 },
	{ "copies of a tag it may read", tag_copied, 0 },
	{ "a tag, with more", tag_more, EPERM },
	{ "a foreign tag", tag_foreign, EPERM },
	{ "a tag for writing alone", tag_write_only, EINVAL },
	{ "a descriptor", fd, 0 },
	{ "a descriptor, with more", fd_more, EPERM },
	{ "a foreign descriptor", fd_foreign, EBADF },
	{ "a descriptor that cannot be", fd_negative, EBADF },
	{ "a descriptor twice", fd_twice, EINVAL },
	{ "a directory", path, 0 },
	{ "a directory, with more", path_more, EPERM },
	{ "a foreign directory", path_foreign, EBADF },
	{ "a call", calls, 0 },
	{ "a call, with more", calls_more, EPERM },
	{ "a gate", gate, 0 },
	{ "a foreign gate", gate_more, EPERM },
	{ "a gate that is gone", gate_gone, EBADF },
	{ "limits", limits, 0 },
	{ "more time", time_more, EPERM },
	{ "more memory", memory_more, EPERM },
	{ "more calls", calls_budget_more, EPERM },
	{ "more wall time", wall_more, EPERM },
	{ "more descriptors", descriptors_more, EPERM },
	{ "a condition", condition, 0 },
	{ "an end for calls not granted", kill_too, 0 },
	{ "a flag that there is not", unknown_flag, EINVAL },
};

static void *in_gate_grant(void *argument)
{
	const struct record *shared = argument;
	void *result = NULL;
	sthread_t st;
	sc_t sc, copy;

	sc_init(&sc);
	grants[shared->which].grant(&sc, shared);
	if (sc_copy(&copy, &sc) != 0)
		return (void *)-1;
	sc_destroy(&sc);
	if (sthread_create(&st, &copy, body_nothing, (void *)6) != 0)
		return (void *)(intptr_t)errno;
	if (sthread_join(st, &result) != 0 || result != (void *)6)
		return (void *)-2;
	return NULL;
}

static void right_by_right(void)
{
	sc_t sc;

	prepare(&sc);

	int fds = live_open_fds();

	for (int i = 0; i < (int)(sizeof(grants) / sizeof(*grants)); i++) {
		record->which = i;

		long error = call(record->gate, in_gate_grant);

		live_check(error == grants[i].error, __FILE__, __LINE__, "granting %s gives %d (%ld)", grants[i].name,
			   grants[i].error, error);
	}
	ASSERT_EQUAL(live_open_fds(), fds);

	/* A gate that is ended for calls not granted cannot make sthreads that are not. */
	sc_t strict;

	ASSERT_EQUAL(sc_copy(&strict, &sc), 0);
	sc_flags_add(&strict, SC_KILL);
	ASSERT_EQUAL(cgate_destroy(record->gate), 0);
	sc_init(&sc);
	sc_mem_add(&sc, record->tag, BOTH);
	sc_flags_add(&sc, SC_KILL);
	record->gate = cgate_create(act, &sc, record);
	record->which = 0;
	ASSERT_EQUAL(call(record->gate, in_gate_grant), EPERM);
	sc_destroy(&strict);
	finish(&sc);
}

/* ---- the rights work --------------------------------------------------------------------------------------------- */

static void *body_use(void *argument)
{
	struct record *shared = argument;
	char byte = 0;
	int opened = open("file", O_RDONLY);

	if (read(shared->file, &byte, 1) != 0)
		return (void *)1; /* an empty file, opened by the gate */
	if (read(shared->read_end, &byte, 1) != 1 || byte != 'x')
		return (void *)2;
	if (opened < 0 || open("file", O_WRONLY) != -1)
		return (void *)3;
	if (write(shared->read_end, "", 1) != -1 || write(shared->write_end, "", 1) != -1)
		return (void *)4;
	if (cgate_call(shared->not_granted, (void *)body_nothing, NULL) != -1 || errno != EPERM)
		return (void *)5;
	if (lseek(shared->file, 100, SEEK_SET) != 100 || lseek(shared->file, 5000, SEEK_SET) != -1 || errno != EPERM)
		return (void *)8; /* a condition of the gate's policy */
	if (cgate_call(shared->granted, (void *)body_nothing, NULL) != 0)
		return (void *)6;
	return (void *)7;
}

static void *in_gate_use(void *argument)
{
	struct record *shared = argument;
	void *result = NULL;
	sthread_t st;
	sc_t sc;

	shared->file = open("file", O_RDONLY);
	if (shared->file < 0)
		return (void *)-1;
	sc_init(&sc);
	tag_both(&sc, shared);
	fd(&sc, shared);
	path(&sc, shared);
	calls(&sc, shared);
	gate(&sc, shared);
	sc_fd_add(&sc, shared->file, PROT_READ); /* opened by the gate: it holds it */
	if (sthread_create(&st, &sc, body_use, shared) != 0)
		return (void *)(intptr_t)-errno;
	close(shared->file);
	return sthread_join(st, &result) == 0 ? result : (void *)-3;
}

static void rights_work(void)
{
	sc_t sc;

	prepare(&sc);

	int fds = live_open_fds();

	for (int i = 0; i < 3; i++) {
		ASSERT_EQUAL(write(record->write_end, "x", 1), 1);
		ASSERT_EQUAL(call(record->gate, in_gate_use), 7);
		ASSERT_EQUAL(live_open_fds(), fds);
	}
	finish(&sc);
}

/* ---- directories ------------------------------------------------------------------------------------------------- */

/* Returns what opening the file for reading (1) and for writing (2) came to. */
static void *body_open_beneath(void *argument)
{
	int directory = (int)(intptr_t)argument;
	int reading = openat(directory, "file", O_RDONLY), writing = openat(directory, "file", O_WRONLY);

	return (void *)(intptr_t)((reading >= 0 ? 1 : 0) | (writing >= 0 ? 2 : 0));
}

/* Opens the directory, and grants it to an sthread for reading. */
static void *in_gate_hand_on(void *argument)
{
	int directory = open(".", O_RDONLY | O_DIRECTORY);
	void *result = NULL;
	sthread_t st;
	sc_t sc;

	(void)argument;
	if (directory < 0)
		return (void *)-1000;
	sc_init(&sc);
	sc_fd_add(&sc, directory, PROT_READ);
	sc_sys_add(&sc, SYS_openat);
	if (sthread_create(&st, &sc, body_open_beneath, (void *)(intptr_t)directory) != 0)
		result = (void *)(intptr_t)-errno;
	else if (sthread_join(st, &result) != 0)
		result = (void *)-1001;
	close(directory);
	return result;
}

static void a_directory_is_handed_on_with_its_rights(void)
{
	sc_t sc, reads, writes;

	prepare(&sc);
	sc_init(&reads);
	sc_sys_add(&reads, SYS_openat);
	ASSERT_EQUAL(sc_copy(&writes, &reads), 0);
	sc_path_add(&reads, record->directory, PROT_READ);
	sc_path_add(&writes, record->directory, BOTH);
	ASSERT_EQUAL(call(cgate_create(act, &reads, NULL), in_gate_hand_on), 1);
	ASSERT_EQUAL(call(cgate_create(act, &writes, NULL), in_gate_hand_on), -EPERM);
	sc_destroy(&reads);
	sc_destroy(&writes);
	finish(&sc);
}

/* Returns 0 if the file was cut, or an errno. */
static void *body_cut(void *file)
{
	return (void *)(intptr_t)(ftruncate((int)(intptr_t)file, 0) == 0 ? 0 : errno);
}

/* Opens the file, cuts it itself, and hands it on.  Returns what the sthread's attempt came to. */
static void *in_gate_hand_file_on(void *argument)
{
	int file = open("file", O_RDWR);
	void *result = NULL;
	sthread_t st;
	sc_t sc;

	(void)argument;
	if (file < 0 || ftruncate(file, 1) != 0)
		return (void *)-1000;
	sc_init(&sc);
	sc_fd_add(&sc, file, BOTH);
	if (sthread_create(&st, &sc, body_cut, (void *)(intptr_t)file) != 0 || sthread_join(st, &result) != 0)
		result = (void *)-1001;
	close(file);
	return result;
}

static void a_file_that_is_handed_on_is_shared(void)
{
	sc_t sc, writes;

	prepare(&sc);
	sc_init(&writes);
	sc_sys_add(&writes, SYS_openat);
	sc_path_add(&writes, record->directory, BOTH);
	ASSERT_EQUAL(call(cgate_create(act, &writes, NULL), in_gate_hand_file_on), EPERM);
	sc_destroy(&writes);
	finish(&sc);
}

/* ---- hostile gates ----------------------------------------------------------------------------------------------- */

static long raw(enum service service, uint64_t a, uint64_t b, uint64_t c)
{
	return supervisor_service_yielding(service, a, b, c, 0, 0);
}

static void fill(sc_t *sc, const struct record *shared)
{
	sc_init(sc);
	tag_less(sc, shared);
	tag_read(sc, shared);
	fd(sc, shared);
	path(sc, shared);
	calls(sc, shared);
	gate(sc, shared);
	limits(sc, shared);
	condition(sc, shared);
}

static void *body_park(void *argument)
{
	sthread_park();
	return argument;
}

/* Changes some bytes of a good policy and tries. */
static void *in_gate_mutate(void *argument)
{
	struct record *shared = argument;

	shared->created = 0;
	for (int i = 0; i < 400 && shared->created < CGATE_STHREADS_MAX; i++) {
		sc_t sc;
		uint8_t *bytes = (uint8_t *)&sc;
		unsigned changes = 1 + (unsigned)rand_r(&shared->seed) % 3;

		fill(&sc, shared);
		while (changes--) {
			size_t at = (unsigned)rand_r(&shared->seed) % sizeof(struct policy_words);

			if (rand_r(&shared->seed) % 2)
				bytes[at] = (uint8_t)rand_r(&shared->seed);
			else
				bytes[at] ^= (uint8_t)(1U << rand_r(&shared->seed) % 8);
		}

		long answer = raw(SERVICE_STHREAD_CREATE, (uint64_t)&sc, (uint64_t)body_park, 0);

		if (answer >= 0)
			shared->st[shared->created++] = (sthread_t)answer;
	}
	return (void *)(uintptr_t)shared->created;
}

static void *in_gate_empty(void *argument)
{
	struct record *shared = argument;

	for (unsigned i = 0; i < shared->created; i++)
		if (sthread_kill(shared->st[i]) != 0 || sthread_join(shared->st[i], NULL) != -1)
			return (void *)1;
	return NULL;
}

/* Looks at the policies that the supervisor has made of the words. */
static void check_no_more(const struct gate_instance *instance)
{
	for (const struct sthread *st = instance->sthreads; st; st = st->next_owned) {
		struct policy policy = *st->own.policy;
		const struct policy *gates = instance->compartment.policy;

		for (unsigned i = 0; i < policy.files; i++) {
			int rights = 0;

			for (unsigned j = 0; j < gates->files; j++)
				if (gates->file[j].file == policy.file[i].file)
					rights |= gates->file[j].prot;
			ASSERT_EQUAL(policy.file[i].prot & ~rights, 0);
			CU_ASSERT(policy.file[i].number >= 0);
		}
		policy.files = 0;
		ASSERT_EQUAL(policy_check_subset(&policy, gates), 0);
		ASSERT_EQUAL(policy.template, 0);
		CU_ASSERT(policy.magic == POLICY_MAGIC && policy.error == 0 && (policy.flags & ~1U) == 0);
		for (unsigned i = 0; i < policy.tags; i++)
			CU_ASSERT(policy.tag[i].prot == PROT_READ || policy.tag[i].prot == BOTH ||
				  policy.tag[i].prot == (PROT_READ | SC_COPY_ON_WRITE));
	}
}

static void mutated_words(void)
{
	unsigned created = 0;
	sc_t sc;

	prepare(&sc);
	record->seed = 20261122;
	for (int round = 0; round < 12; round++) {
		long count = call(record->gate, in_gate_mutate);

		CU_ASSERT(count >= 0);
		created += (unsigned)count;
		supervisor_lock();
		check_no_more(&((struct gate *)handle_get(&supervisor.gates, record->gate))->instance[0]);
		supervisor_unlock();
		ASSERT_EQUAL(call(record->gate, in_gate_empty), 0);
	}
	harness_note("%u of the mutated policies were good", created);
	CU_ASSERT(created > 20);
	finish(&sc);
}

static const uint64_t bad_addresses[] = { 0, 1, 0xfff, 0x7fffffffffff, 0x800000000000, UINT64_MAX, UINT64_MAX - 100 };

static void *in_gate_raw(void *argument)
{
	struct record *shared = argument;
	sc_t sc;

	fill(&sc, shared);
	for (size_t i = 0; i < sizeof(bad_addresses) / sizeof(*bad_addresses); i++) {
		uint64_t bad = bad_addresses[i];

		if (raw(SERVICE_STHREAD_CREATE, bad, (uint64_t)body_nothing, 0) != -EFAULT)
			return (void *)1;
		if (raw(SERVICE_STHREAD_CREATE, (uint64_t)&sc, bad, 0) != -EINVAL)
			return (void *)2;
		if (raw(SERVICE_STHREAD_CREATE, (uint64_t)&sc, (uint64_t)&sc, 0) != -EINVAL)
			return (void *)3;

		long st = raw(SERVICE_STHREAD_CREATE, (uint64_t)&sc, (uint64_t)body_nothing, 5);

		if (st < 0)
			return (void *)4;
		if (raw(SERVICE_STHREAD_INFO, (uint64_t)st, bad, 0) != -EFAULT)
			return (void *)5;
		/* The supervisor's memory and the program's text are not for writing either. */
		if (raw(SERVICE_STHREAD_JOIN, (uint64_t)st, bad, 0) != -EFAULT ||
		    raw(SERVICE_STHREAD_JOIN, (uint64_t)st, (uint64_t)body_nothing, 0) != -EFAULT)
			return (void *)6;
		if (raw(SERVICE_STHREAD_STATE, (uint64_t)st, 0, 0) != STHREAD_ENDED) /* nothing was released */
			return (void *)7;
		if (sthread_join(st, NULL) != 0)
			return (void *)8;
	}
	for (unsigned service = SERVICE_STHREAD_JOIN; service <= SERVICE_STHREAD_INFO; service++)
		for (size_t i = 0; i < sizeof(bad_addresses) / sizeof(*bad_addresses); i++)
			if (raw((enum service)service, bad_addresses[i], (uint64_t)&sc, 0) != -EBADF)
				return (void *)9;
	/* Arguments that are errors. */
	sthread_t st;

	sc_init(&sc);
	if (sthread_create(NULL, &sc, body_nothing, NULL) != -1 || errno != EINVAL)
		return (void *)10;
	if (sthread_create(&st, &sc, NULL, NULL) != -1 || errno != EINVAL)
		return (void *)11;
	memset(&sc, 0, sizeof(sc));
	if (sthread_create(&st, &sc, body_nothing, NULL) != -1 || errno != EINVAL)
		return (void *)12;
	sc_init(&sc);
	if (sthread_create(&st, &sc, body_nothing, NULL) != 0)
		return (void *)13;
	if (sthread_state(st, NULL) != -1 || errno != EINVAL || sthread_get_info(st, NULL) != -1 || errno != EINVAL)
		return (void *)14;
	if (sthread_join(st, NULL) != 0)
		return (void *)15;
	/* What stays denied. */
	struct sthread_statistics statistics;
	short events;
	int number;

	if (tag_new() != -1 || errno != EPERM || cgate_create(act, &sc, NULL) != -1 || errno != EPERM)
		return (void *)16;
	if (sc_start_from(&sc, 1 << 18) != -1 || errno != EPERM)
		return (void *)19;
	if (sthread_wait_fd(st, &number, &events) != -1 || errno != EPERM)
		return (void *)17;
	if (sthread_statistics(&statistics) != -1 || errno != EPERM || sthread_init() != -1 || errno != EPERM)
		return (void *)18;
	return NULL;
}

static void *raw_denied(void *argument)
{
	sc_t sc;

	memset(&sc, 0, sizeof(sc));
	for (unsigned service = SERVICE_STHREAD_CREATE; service <= SERVICE_STHREAD_INFO; service++)
		if (raw((enum service)service, (uint64_t)argument, (uint64_t)&sc, 0) != -EPERM)
			return (void *)(uintptr_t)service;
	sc_init(&sc);
	if (sc_mem_add(&sc, 1 << 18, PROT_READ) != -1 || errno != EPERM)
		return (void *)100;
	return NULL;
}

static void *in_gate_child_is_denied(void *argument)
{
	void *result = (void *)-1;
	sthread_t st;
	sc_t sc;

	(void)argument;
	sc_init(&sc);
	if (sthread_create(&st, &sc, raw_denied, NULL) != 0 || sthread_join(st, &result) != 0)
		return (void *)-2;
	return result;
}

static void hostile_arguments(void)
{
	struct life life;
	sc_t sc;

	prepare(&sc);
	for (int i = 0; i < 2; i++)
		ASSERT_EQUAL(call(record->gate, in_gate_raw), 0);
	life = live_run_bare(raw_denied, NULL);
	ASSERT_RETURNED(life, 0);
	ASSERT_EQUAL(life.info.calls_denied, SERVICE_STHREAD_INFO - SERVICE_STHREAD_CREATE + 1);
	ASSERT_EQUAL(call(record->gate, in_gate_child_is_denied), 0);
	/* An address space that served a gate is no gate's any more. */
	ASSERT_EQUAL(cgate_destroy(record->gate), 0);
	for (int i = 0; i < 70; i++)
		ASSERT_RETURNED(live_run_bare(raw_denied, NULL), 0);
	finish(&sc);
}

static const struct harness_test tests[] = {
	{ "each right is granted to a gate's sthread if the gate has it, and else refused", right_by_right,
	  HARNESS_FORK },
	{ "what a gate grants can be used, and no more", rights_work, HARNESS_FORK },
	{ "a directory that a gate opened is handed on with its rights or not at all",
	  a_directory_is_handed_on_with_its_rights, HARNESS_FORK },
	{ "a file that a gate hands on is a shared one: what changes it wants a grant",
	  a_file_that_is_handed_on_is_shared, HARNESS_FORK },
	{ "no policy in a gate's memory makes an sthread with more rights than the gate", mutated_words, HARNESS_FORK },
	{ "the services for gates refuse bad addresses, bad handles, and everybody else", hostile_arguments,
	  HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
