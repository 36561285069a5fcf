/* descriptors.c - the private descriptor table of a compartment; see compartment.h */
#include <errno.h>

#include "compartment.h"

static struct descriptor *find(struct compartment *compartment, long number)
{
	for (unsigned i = 0; i < COMPARTMENT_FILES; i++)
		if (compartment->files[i].file && compartment->files[i].number == number)
			return &compartment->files[i];
	return NULL;
}

int descriptor_add(struct compartment *compartment, struct open_file *file, int number, int prot)
{
	for (unsigned i = 0; i < COMPARTMENT_FILES; i++) {
		struct descriptor *free = &compartment->files[i];
		if (free->file)
			continue;
		if (number < 0)
			for (number = 0; find(compartment, number);)
				number++;
		*free = (struct descriptor){ .file = file, .number = number, .prot = prot };
		return number;
	}
	errno = EMFILE;
	return -1;
}

struct open_file *descriptor_get(struct compartment *compartment, long number, int prot)
{
	const struct descriptor *descriptor = find(compartment, number);
	if (descriptor && (descriptor->prot & prot) == prot)
		return descriptor->file;
	errno = EBADF;
	return NULL;
}

int descriptor_close(struct compartment *compartment, long number)
{
	struct descriptor *descriptor = find(compartment, number);
	if (!descriptor) {
		errno = EBADF;
		return -1;
	}
	open_file_put(descriptor->file);
	descriptor->file = NULL;
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
