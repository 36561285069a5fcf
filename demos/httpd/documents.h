/*
 * documents.h - small files of the document root, kept in memory so that answering with one opens nothing.
 *
 * Main lists them, because it can see when they change; request compartments hold them, read once in the template that they
 * start from, or, without isolation, in the process.  What is not here (large files, links, too many of them) is opened.
 */
#ifndef HTTPD_DOCUMENTS_H
#define HTTPD_DOCUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum {
	DOCUMENT_MAX = 32768,           /* bytes of one */
	DOCUMENTS_MAX = 512,            /* files */
	DOCUMENTS_BYTES_MAX = 1 << 20,  /* bytes of all */
	DOCUMENT_NAMES_MAX = 48 * 1024, /* bytes of all names */
	DOCUMENT_DEPTH_MAX = 8,         /* directories */
};

/* The names, each ended by a zero byte. */
struct document_list {
	uint32_t count;
	uint32_t length;
	char names[DOCUMENT_NAMES_MAX];
};

struct document {
	const char *path; /* as a request names it, without a leading slash */
	const uint8_t *bytes;
	size_t size;
	time_t modified;
	struct document_set *set;
};

/* Lists the files beneath a directory.  Returns a value that is another one when any of them has changed.  Main only. */
uint64_t documents_list(int docroot, struct document_list *list);

/* Reads the listed files, each opened by `open_file`; those that cannot be read are left out.  Replaces what was read
 * before. */
void documents_load(const struct document_list *list, int (*open_file)(const char *path));
/* NULL if it is not kept.  What is found stays until it is released, even when the files are read again. */
const struct document *documents_find(const char *path);
void documents_release(const struct document *document);
/* From now on several threads find and load.  Before that finding writes nothing, and what is found stays only until the
 * next load: good for one thread, if a request that found something does not wait. */
void documents_use_threads(void);

#endif
