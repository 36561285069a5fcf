/* policy.c - see policy.h and sthread.h */
#define _GNU_SOURCE
#include "policy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervisor.h"

static struct policy *words(sc_t *sc)
{
	return (struct policy *)(void *)sc->opaque;
}

/* Remembers the first failure of a policy. */
static int refuse(struct policy *policy, int error, const char *sentence)
{
	if (!policy->error)
		policy->error = error;
	return dune_fail(error, "%s", sentence);
}

/* Entry check of every sc_*_add. */
static struct policy *editable(sc_t *sc)
{
	if (supervisor_inside()) {
		errno = EPERM;
		return NULL;
	}
	if (!sc || words(sc)->magic != POLICY_MAGIC) {
		dune_fail(EINVAL, "not a policy: call sc_init() first");
		return NULL;
	}
	return words(sc);
}

void sc_init(sc_t *sc)
{
	if (!sc)
		return;
	memset(sc, 0, sizeof *sc);
	words(sc)->magic = POLICY_MAGIC;
}

/* ---- open files ------------------------------------------------------------------------------------ */

static struct handles files;

struct open_file *open_file_new(int fd)
{
	struct stat status;
	struct open_file *file = calloc(1, sizeof *file);
	if (!file || fstat(fd, &status) != 0 || (file->handle = handle_new(&files, file)) < 0) {
		free(file);
		return NULL;
	}
	file->fd = fd;
	file->mode = status.st_mode;
	file->references = 1;
	return file;
}

void open_file_get(struct open_file *file)
{
	file->references++;
}

void open_file_put(struct open_file *file)
{
	if (--file->references)
		return;
	handle_end(&files, file->handle);
	supervisor.files_open -= file->opened_inside;
	close(file->fd);
	free(file->path);
	free(file);
}

/* Duplicates fd into a new open file. */
static struct open_file *duplicate(int fd)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (own < 0)
		return NULL;
	struct open_file *file = open_file_new(own);
	if (!file)
		close(own);
	return file;
}

struct open_file *policy_open_file(int handle)
{
	return handle_get(&files, handle);
}

static void visit_files(struct policy *policy, void (*visit)(struct open_file *))
{
	for (unsigned i = 0; i < policy->files + policy->paths; i++) {
		const struct policy_file *named =
			i < policy->files ? &policy->file[i] : &policy->path[i - policy->files];
		struct open_file *file = policy_open_file(named->file);
		if (file)
			visit(file);
	}
}

void sc_destroy(sc_t *sc)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return;
	supervisor_lock();
	visit_files(policy, open_file_put);
	supervisor_unlock();
	sc_init(sc);
}

int sc_copy(sc_t *to, const sc_t *from)
{
	if (!editable((sc_t *)from))
		return -1;
	if (!to || to == from)
		return dune_fail(EINVAL, "sc_copy() wants two policies");
	memcpy(to, from, sizeof *to);
	supervisor_lock();
	visit_files(words(to), open_file_get);
	supervisor_unlock();
	return 0;
}

/* ---- grants ---------------------------------------------------------------------------------------- */

static bool rights_valid(int prot)
{
	return prot && !(prot & ~(PROT_READ | PROT_WRITE));
}

int sc_mem_add(sc_t *sc, tag_t tag, int prot)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	if (!rights_valid(prot) || !(prot & PROT_READ))
		return refuse(policy, EINVAL, "a tag is granted with PROT_READ or PROT_READ|PROT_WRITE");
	supervisor_lock();
	bool exists = supervisor_tag_exists(tag);
	supervisor_unlock();
	if (!exists)
		return refuse(policy, EBADF, "no such tag");
	for (unsigned i = 0; i < policy->tags; i++)
		if (policy->tag[i].tag == tag) {
			policy->tag[i].prot |= prot;
			return 0;
		}
	if (policy->tags == POLICY_TAGS)
		return refuse(policy, ENOSPC, "the policy holds no more tags");
	policy->tag[policy->tags++] = (struct policy_tag){ .tag = tag, .prot = prot };
	return 0;
}

static int add_file(struct policy *policy, struct policy_file *list, unsigned *count, unsigned room, int fd, int prot,
		    bool path)
{
	struct stat status;
	if (!rights_valid(prot))
		return refuse(policy, EINVAL, "a file is granted with PROT_READ, PROT_WRITE or both");
	if (fd < 0 || fstat(fd, &status) != 0)
		return refuse(policy, EBADF, "no such descriptor");
	if (path && !S_ISDIR(status.st_mode))
		return refuse(policy, ENOTDIR, "sc_path_add() wants a directory");
	if (*count == room)
		return refuse(policy, ENOSPC, "the policy holds no more files");
	supervisor_lock();
	struct open_file *file = duplicate(fd);
	if (file && path) {
		char name[64], target[4096];
		snprintf(name, sizeof name, "/proc/self/fd/%d", file->fd);
		ssize_t length = readlink(name, target, sizeof target - 1);
		if (length > 0 && target[0] == '/') {
			target[length] = 0;
			file->path = strdup(target);
		}
	}
	supervisor_unlock();
	if (!file)
		return refuse(policy, errno, "cannot duplicate the descriptor");
	list[(*count)++] = (struct policy_file){ .number = fd, .file = file->handle, .prot = prot };
	return 0;
}

int sc_fd_add(sc_t *sc, int fd, int prot)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	for (unsigned i = 0; i < policy->files; i++)
		if (policy->file[i].number == fd)
			return refuse(policy, EINVAL, "the policy grants this descriptor already");
	return add_file(policy, policy->file, &policy->files, POLICY_FILES, fd, prot, false);
}

int sc_path_add(sc_t *sc, int dirfd, int prot)
{
	struct policy *policy = editable(sc);
	return policy ? add_file(policy, policy->path, &policy->paths, POLICY_PATHS, dirfd, prot, true) : -1;
}

static void allow(struct policy *policy, int number)
{
	policy->system_calls[number / 64] |= (uint64_t)1 << number % 64;
}

int sc_sys_add(sc_t *sc, int sysno)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	if (sysno < 0 || sysno >= POLICY_SYSTEM_CALLS)
		return refuse(policy, EINVAL, "not a system call number");
	allow(policy, sysno);
	if (sysno == SYS_open || sysno == SYS_openat) {
		allow(policy, SYS_open);
		allow(policy, SYS_openat);
	}
	return 0;
}

int sc_cgate_add(sc_t *sc, cgate_t gate)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	supervisor_lock();
	bool exists = supervisor_gate_exists(gate);
	supervisor_unlock();
	if (!exists)
		return refuse(policy, EBADF, "no such gate");
	if (policy_allows_gate(policy, gate))
		return 0;
	if (policy->gates == POLICY_GATES)
		return refuse(policy, ENOSPC, "the policy holds no more gates");
	policy->gate[policy->gates++] = gate;
	return 0;
}

int sc_flags_add(sc_t *sc, unsigned flags)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	if (flags & ~(unsigned)SC_KILL)
		return refuse(policy, EINVAL, "unknown flag of a policy");
	policy->flags |= flags;
	return 0;
}

int sc_cpu_budget(sc_t *sc, unsigned milliseconds)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	policy->cpu_milliseconds = milliseconds;
	return 0;
}

int sc_memory_quota(sc_t *sc, size_t bytes)
{
	struct policy *policy = editable(sc);
	if (!policy)
		return -1;
	policy->memory = bytes;
	return 0;
}

/* ---- limits ---------------------------------------------------------------------------------------- */

#define LIMIT(field) offsetof(struct policy, field), sizeof((struct policy *)0)->field
const struct policy_limit policy_limits[] = {
	{ "processor time", "ms", LIMIT(cpu_milliseconds), POLICY_CPU_MILLISECONDS },
	{ "memory quota", "bytes", LIMIT(memory), POLICY_MEMORY },
};
const unsigned policy_limit_count = sizeof policy_limits / sizeof *policy_limits;

uint64_t policy_limit_value(const struct policy *policy, const struct policy_limit *limit)
{
	uint32_t narrow = 0;
	uint64_t wide = 0;
	const char *field = (const char *)policy + limit->offset;
	if (limit->size == sizeof narrow)
		memcpy(&narrow, field, sizeof narrow);
	else
		memcpy(&wide, field, sizeof wide);
	return narrow ? narrow : wide ? wide : limit->fallback;
}

static void set_limit(struct policy *policy, const struct policy_limit *limit, uint64_t value)
{
	uint32_t narrow = (uint32_t)value;
	char *field = (char *)policy + limit->offset;
	if (limit->size == sizeof narrow)
		memcpy(field, &narrow, sizeof narrow);
	else
		memcpy(field, &value, sizeof value);
}

/* ---- reading --------------------------------------------------------------------------------------- */

int policy_read(const sc_t *sc, struct policy *policy)
{
	if (!sc)
		return dune_fail(EINVAL, "no policy given");
	memcpy(policy, sc, sizeof *policy);
	if (policy->magic != POLICY_MAGIC || policy->tags > POLICY_TAGS || policy->files > POLICY_FILES ||
	    policy->paths > POLICY_PATHS || policy->gates > POLICY_GATES)
		return dune_fail(EINVAL, "not a policy: call sc_init() first");
	if (policy->error)
		return dune_fail(policy->error, "a grant of this policy failed: %s", strerror(policy->error));
	for (unsigned i = 0; i < policy_limit_count; i++)
		set_limit(policy, &policy_limits[i], policy_limit_value(policy, &policy_limits[i]));
	return 0;
}

bool policy_allows_call(const struct policy *policy, long number)
{
	return number >= 0 && number < POLICY_SYSTEM_CALLS && policy->system_calls[number / 64] >> number % 64 & 1;
}

bool policy_gates_exist(const struct policy *policy)
{
	for (unsigned i = 0; i < policy->gates; i++)
		if (!supervisor_gate_exists(policy->gate[i]))
			return false;
	return true;
}

bool policy_allows_gate(const struct policy *policy, cgate_t gate)
{
	for (unsigned i = 0; i < policy->gates; i++)
		if (policy->gate[i] == gate)
			return true;
	return false;
}

/* FNV-1a over the words that a shape consists of. */
uint64_t policy_shape(const struct policy *policy)
{
	uint64_t hash = 0xcbf29ce484222325;
	uint64_t prots = 0;
	for (unsigned i = 0; i < policy->tags; i++)
		prots = prots << 2 | (unsigned)policy->tag[i].prot;
	for (unsigned i = 0; i < policy->files; i++)
		prots = (prots << 2 ^ prots >> 31) | (unsigned)policy->file[i].prot;
	const uint64_t parts[] = { policy->tags, policy->files, policy->paths, policy->gates, policy->flags, prots };
	for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++)
		hash = (hash ^ parts[i]) * 0x100000001b3;
	for (unsigned i = 0; i < POLICY_SYSTEM_CALLS / 64; i++)
		hash = (hash ^ policy->system_calls[i]) * 0x100000001b3;
	return hash;
}
