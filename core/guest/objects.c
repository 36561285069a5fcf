/*
 * objects.c - the process's own code and data: they are mirrored before a thread enters, and never forgotten.
 */
#include "guest/guest.h"

#include <link.h>

#include "vm/space.h"

/* What is never forgotten: the process's own code and data, which also work while the lock of address spaces is held. */
static struct piece {
	uintptr_t begin, end;
} pieces[1024];
static unsigned piece_count;

static bool is_mine(const struct dl_phdr_info *object)
{
	uintptr_t here = (uintptr_t)dune_guest_trap;
	bool mine = false;
	for (unsigned i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &object->dlpi_phdr[i];
		if (header->p_type == PT_LOAD && here - (object->dlpi_addr + header->p_vaddr) < header->p_memsz)
			mine = true;
	}
	return mine;
}

/* *first: the object with this code is wanted, for which there is always room; else the others. */
static int note_object(struct dl_phdr_info *object, size_t size, void *first)
{
	(void)size;
	if (is_mine(object) != *(const bool *)first)
		return 0;
	for (unsigned i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &object->dlpi_phdr[i];
		if (header->p_type != PT_LOAD || piece_count == sizeof pieces / sizeof *pieces)
			continue;
		uintptr_t begin = PGADDR(object->dlpi_addr + header->p_vaddr);
		pieces[piece_count++] =
			(struct piece){ begin, PGADDR(object->dlpi_addr + header->p_vaddr + header->p_memsz + PGMASK) };
	}
	return 0;
}

int dune_guest_mirror_objects(void)
{
	piece_count = 0;
	dl_iterate_phdr(note_object, &(bool){ true });
	dl_iterate_phdr(note_object, &(bool){ false });
	for (unsigned i = 0; i < piece_count; i++)
		for (uintptr_t at = pieces[i].begin; at < pieces[i].end; at += PGSIZE) {
			int error = 0;
			ptent_t *entry;
			if (dune_vm_lookup(pgroot, (void *)at, CREATE_NONE, &entry) == 0 && *entry)
				continue;
			if (dune_mirror_fill(pgroot, at, 0, &error) < 0)
				return dune_fail(error, "the process cannot be mirrored: no room for its code");
		}
	return 0;
}

void dune_guest_forget_all(void)
{
	uintptr_t from = PGSIZE;
	dune_space_lock();
	for (;;) {
		/* The next piece that is kept. */
		const struct piece *next = NULL;
		for (unsigned i = 0; i < piece_count; i++)
			if (pieces[i].end > from && (!next || pieces[i].begin < next->begin))
				next = &pieces[i];
		uintptr_t to = next ? next->begin : (uintptr_t)1 << 47;
		if (from < to)
			dune_space_forget(from, to, true);
		if (!next)
			break;
		from = next->end;
	}
	dune_space_unlock();
}
