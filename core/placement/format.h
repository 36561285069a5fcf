/*
 * format.h - printf() without libc, for code that runs while the thread may hold any lock, or is about to die.
 *
 * Knows the conversions d i o u x X p c s %, the flags - + space # 0, width and precision (also *), and the lengths
 * hh h l ll j z t; each means what it means to printf().  At a conversion that it does not know (%n and those of
 * floating-point numbers among them) the rest of the format is copied as it is.  Async-signal-safe: no allocation, no lock, errno is left
 * alone.
 */
#ifndef DUNE_FORMAT_H
#define DUNE_FORMAT_H

#include <stdarg.h>
#include <stddef.h>

enum {
	DUNE_FORMAT_WRITE = 1024 /* bytes; longer messages are written in several pieces */
};

/* As snprintf(): stores at most size bytes, NUL included; returns how long the text is when it is not cut. */
int dune_format(char *text, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
int dune_format_list(char *text, size_t size, const char *format, va_list arguments)
	__attribute__((format(printf, 3, 0)));

/* Writes to a file.  Returns the number of bytes, or -1 if not all could be written. */
int dune_format_write(int fd, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));

#endif
