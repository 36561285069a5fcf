/*
 * documents.c - see documents.h.
 */
#include "documents.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- main: the list ---- */

struct walk {
	struct document_list *list;
	uint64_t fingerprint;
	size_t bytes;
	char path[1024];
};

/* FNV-1a. */
static void mix(struct walk *walk, const void *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		walk->fingerprint = (walk->fingerprint ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3;
}

static void visit_file(struct walk *walk, const struct stat *status)
{
	struct document_list *list = walk->list;
	size_t length = strlen(walk->path) + 1;

	if (status->st_size > DOCUMENT_MAX || list->count == DOCUMENTS_MAX ||
	    walk->bytes + (size_t)status->st_size > DOCUMENTS_BYTES_MAX || list->length + length > DOCUMENT_NAMES_MAX)
		return;
	memcpy(list->names + list->length, walk->path, length);
	list->length += (uint32_t)length;
	list->count++;
	walk->bytes += (size_t)status->st_size;
	mix(walk, walk->path, length);
	mix(walk, &status->st_ino, sizeof(status->st_ino));
	mix(walk, &status->st_size, sizeof(status->st_size));
	mix(walk, &status->st_mode, sizeof(status->st_mode));
	mix(walk, &status->st_mtim, sizeof(status->st_mtim));
	mix(walk, &status->st_ctim, sizeof(status->st_ctim));
}

/* Takes over the descriptor. */
static void visit_directory(struct walk *walk, int fd, unsigned depth)
{
	size_t length = strlen(walk->path);
	DIR *directory = fd == -1 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	struct stat status;

	if (directory == NULL) {
		if (fd != -1)
			(void)close(fd);
		return;
	}
	while ((entry = readdir(directory)) != NULL && walk->list->count < DOCUMENTS_MAX) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		    fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
		    length + strlen(entry->d_name) + 2 > sizeof(walk->path))
			continue;
		(void)strcpy(walk->path + length, entry->d_name);
		if (S_ISREG(status.st_mode)) {
			visit_file(walk, &status);
		} else if (S_ISDIR(status.st_mode) && depth < DOCUMENT_DEPTH_MAX) {
			(void)strcat(walk->path, "/");
			visit_directory(walk,
					openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC),
					depth + 1);
		}
		walk->path[length] = 0;
	}
	(void)closedir(directory);
}

uint64_t documents_list(int docroot, struct document_list *list)
{
	struct walk walk = { .list = list, .fingerprint = 0xcbf29ce484222325 };

	list->count = list->length = 0;
	visit_directory(&walk, openat(docroot, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0);
	return walk.fingerprint;
}

/* ---- request compartments: the files ---- */

/* What was read at one time. */
struct document_set {
	unsigned users; /* requests, and being the current one; counted only for threads */
	size_t count;
	struct document documents[];
};

static struct document_set *current;
static bool threads;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of current and of users, for threads */

void documents_use_threads(void)
{
	threads = true;
}

static bool load(struct document *document, const char *path, int fd)
{
	struct stat status;
	uint8_t *bytes;
	ssize_t got;

	if (fd == -1 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size > DOCUMENT_MAX)
		return false;
	bytes = malloc((size_t)status.st_size + 1);
	if (bytes == NULL)
		return false;
	*document = (struct document){ .path = strdup(path), .bytes = bytes, .modified = status.st_mtime };
	do {
		got = read(fd, bytes + document->size, (size_t)status.st_size + 1 - document->size);
		document->size += got > 0 ? (size_t)got : 0;
	} while (got > 0);
	/* One that is being written is opened when it is asked for. */
	if (got == 0 && document->size == (size_t)status.st_size && document->path != NULL)
		return true;
	free((void *)(uintptr_t)document->path);
	free(bytes);
	return false;
}

static int by_path(const void *one, const void *other)
{
	return strcmp(((const struct document *)one)->path, ((const struct document *)other)->path);
}

static void set_free(struct document_set *set)
{
	for (size_t i = 0; i < set->count; i++) {
		free((void *)(uintptr_t)set->documents[i].path);
		free((void *)(uintptr_t)set->documents[i].bytes);
	}
	free(set);
}

/* Makes a set, or none, the current one. */
static void set_use(struct document_set *set)
{
	struct document_set *before;
	bool last;

	if (threads)
		(void)pthread_mutex_lock(&lock);
	before = current;
	current = set;
	last = before != NULL && --before->users == 0;
	if (threads)
		(void)pthread_mutex_unlock(&lock);
	if (last)
		set_free(before);
}

void documents_load(const struct document_list *list, int (*open_file)(const char *path))
{
	struct document_set *set = malloc(sizeof(*set) + list->count * sizeof(set->documents[0]));
	const char *name = list->names;

	if (set == NULL) {
		set_use(NULL); /* all are opened when they are asked for */
		return;
	}
	set->users = 1;
	set->count = 0;
	for (uint32_t i = 0; i < list->count; i++, name += strlen(name) + 1) {
		int fd = open_file(name);

		set->count += load(&set->documents[set->count], name, fd);
		if (fd != -1)
			(void)close(fd);
	}
	qsort(set->documents, set->count, sizeof(set->documents[0]), by_path);
	for (size_t i = 0; i < set->count; i++)
		set->documents[i].set = set;
	set_use(set);
}

const struct document *documents_find(const char *path)
{
	const struct document wanted = { .path = path };
	const struct document *found = NULL;

	if (threads)
		(void)pthread_mutex_lock(&lock);
	if (current != NULL)
		found = bsearch(&wanted, current->documents, current->count, sizeof(wanted), by_path);
	if (threads) {
		if (found != NULL)
			current->users++;
		(void)pthread_mutex_unlock(&lock);
	}
	return found;
}

void documents_release(const struct document *document)
{
	bool last;

	if (!threads)
		return;
	(void)pthread_mutex_lock(&lock);
	last = --document->set->users == 0;
	(void)pthread_mutex_unlock(&lock);
	if (last)
		set_free(document->set);
}
