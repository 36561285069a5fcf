/* symbol.h - which function an address of this process belongs to, for messages of a process that may be dying. */
#ifndef DUNE_SYMBOL_H
#define DUNE_SYMBOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	DUNE_SYMBOL_ROOM = 256 /* bytes that most descriptions fit into */
};

/*
 * Describes an address, in at most size bytes, NUL included:
 *
 *   function+0x12 in /path/of/file    from .symtab or .dynsym of the file that is mapped there
 *   /path/of/file+0x1136              none of its symbols covers the address, or it cannot be read, or is another one by
 *                                     now: the offset in the file
 *   [heap]+0x12                       what is no file: the kernel's name for it, the offset in the mapping
 *
 * Characters that are not printable become '?'.  Returns false, and "", if the address is in no mapping or
 * /proc/self/maps cannot be read.
 * Async-signal-safe: no allocation, no lock, errno is left alone, 8 KiB of stack; files are read with pread(2), so that
 * one which is damaged or shrinks does no harm.
 */
bool dune_symbol_at(uintptr_t address, char *text, size_t size);

#endif
