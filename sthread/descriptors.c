/* descriptors.c - the private descriptor table of a compartment; see compartment.h */
#include <errno.h>
#include <sys/epoll.h>

#include "compartment.h"

static bool is_number(const struct descriptor *descriptor, long number)
{
	return descriptor->file && descriptor->number == number;
}

/* Where a number was found the last time is looked at first: calls on a descriptor do not search the table. */
struct descriptor *descriptor_find(struct compartment *compartment, long number)
{
	uint8_t *place = &compartment->file_places[(unsigned long)number % COMPARTMENT_FILES];
	if (is_number(&compartment->files[*place], number))
		return &compartment->files[*place];
	for (unsigned i = 0; i < COMPARTMENT_FILES; i++)
		if (is_number(&compartment->files[i], number)) {
			*place = (uint8_t)i;
			return &compartment->files[i];
		}
	return NULL;
}

/* What was not granted as standard input, output or error never becomes it by chance: messages would go to files. */
enum {
	LOWEST_NEW = 3
};

/* Granted ones have their numbers, and are not refused. */
static bool has_room(const struct compartment *compartment)
{
	unsigned held = 0;
	for (unsigned i = 0; i < COMPARTMENT_FILES; i++)
		held += compartment->files[i].file != NULL;
	return held < compartment->policy->descriptors;
}
_Static_assert((int)POLICY_DESCRIPTORS == (int)COMPARTMENT_FILES, "by default the table is the limit");

int descriptor_add(struct compartment *compartment, struct open_file *file, int number, int prot)
{
	if (number < 0 && !has_room(compartment)) {
		errno = EMFILE;
		return -1;
	}
	for (unsigned i = 0; i < COMPARTMENT_FILES; i++) {
		struct descriptor *free = &compartment->files[i];
		if (free->file)
			continue;
		if (number < 0)
			for (number = LOWEST_NEW; descriptor_find(compartment, number);)
				number++;
		*free = (struct descriptor){ .file = file, .number = number, .prot = prot };
		return number;
	}
	errno = EMFILE;
	return -1;
}

struct open_file *descriptor_get(struct compartment *compartment, long number, int prot)
{
	const struct descriptor *descriptor = descriptor_find(compartment, number);
	if (descriptor && (descriptor->prot & prot) == prot)
		return descriptor->file;
	errno = EBADF;
	return NULL;
}

/* What is closed is not waited for any more, although others may hold the open file. */
static void leave_epolls(struct compartment *compartment, const struct open_file *file)
{
	for (unsigned i = 0; i < COMPARTMENT_FILES; i++)
		if (compartment->files[i].file == file)
			return; /* it has another number */
	for (unsigned i = 0; i < COMPARTMENT_FILES; i++) {
		const struct open_file *epoll = compartment->files[i].file;
		if (epoll && epoll->kind == FILE_EPOLL)
			epoll_ctl(epoll->fd, EPOLL_CTL_DEL, file->fd, NULL);
	}
}

int descriptor_close(struct compartment *compartment, long number)
{
	struct descriptor *descriptor = descriptor_find(compartment, number);
	if (!descriptor) {
		errno = EBADF;
		return -1;
	}
	struct open_file *file = descriptor->file;
	descriptor->file = NULL;
	leave_epolls(compartment, file);
	open_file_put(file);
	return 0;
}

void descriptor_close_all(struct compartment *compartment)
{
	for (unsigned i = 0; i < COMPARTMENT_FILES; i++)
		if (compartment->files[i].file) {
			open_file_put(compartment->files[i].file);
			compartment->files[i].file = NULL;
		}
}
