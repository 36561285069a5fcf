/* descriptors.c - the private descriptor table of a compartment; see compartment.h */
#include <errno.h>

#include "compartment.h"

int descriptor_add(struct compartment *compartment, struct open_file *file, int prot)
{
	for (int number = 0; number < COMPARTMENT_FILES; number++)
		if (!compartment->files[number].file) {
			compartment->files[number] = (struct descriptor){ .file = file, .prot = prot };
			return number;
		}
	errno = EMFILE;
	return -1;
}

struct open_file *descriptor_get(const struct compartment *compartment, long number, int prot)
{
	if (number >= 0 && number < COMPARTMENT_FILES) {
		const struct descriptor *descriptor = &compartment->files[number];
		if (descriptor->file && (descriptor->prot & prot) == prot)
			return descriptor->file;
	}
	errno = EBADF;
	return NULL;
}

int descriptor_close(struct compartment *compartment, long number)
{
	struct open_file *file = descriptor_get(compartment, number, 0);
	if (!file)
		return -1;
	compartment->files[number].file = NULL;
	open_file_put(file);
	return 0;
}
