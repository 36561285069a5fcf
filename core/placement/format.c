/* format.c - see format.h. */
#include "placement/format.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "placement/system_call.h"

/* Where the text goes: into a buffer that is written out when it is full, or cut. */
struct sink {
	char *buffer;
	size_t room, used;
	size_t total; /* bytes of the text, the ones that were cut included */
	int fd;       /* -1: cut */
	bool failed;
};

/* One conversion: %[flags][width][.precision][length]conversion. */
struct conversion {
	bool left, plus, space, alternative, zero;
	bool has_precision;
	size_t width, precision;
	unsigned bytes; /* of an integer argument */
	char letter;
};

static void flush(struct sink *sink)
{
	for (size_t done = 0; done < sink->used && !sink->failed;) {
		long got = dune_system_call(SYS_write, sink->fd, (long)(sink->buffer + done), (long)(sink->used - done),
					    0, 0, 0);
		if (got > 0)
			done += (size_t)got;
		else if (got != -EINTR)
			sink->failed = true;
	}
	sink->used = 0;
}

/* Makes room for some of `length` bytes; returns for how many, 0: they are cut. */
static size_t make_room(struct sink *sink, size_t length)
{
	if (sink->used == sink->room && sink->fd >= 0)
		flush(sink);
	size_t free = sink->room - sink->used;
	return length < free ? length : free;
}

static void put(struct sink *sink, const char *text, size_t length)
{
	sink->total += length;
	for (size_t part; length && (part = make_room(sink, length)); text += part, length -= part) {
		memcpy(sink->buffer + sink->used, text, part);
		sink->used += part;
	}
}

static void pad(struct sink *sink, char with, size_t length)
{
	sink->total += length;
	for (size_t part; length && (part = make_room(sink, length)); length -= part) {
		memset(sink->buffer + sink->used, with, part);
		sink->used += part;
	}
}

/* Puts text into its width. */
static void put_padded(struct sink *sink, const struct conversion *conversion, const char *text, size_t length)
{
	size_t padding = conversion->width > length ? conversion->width - length : 0;
	if (!conversion->left)
		pad(sink, ' ', padding);
	put(sink, text, length);
	if (conversion->left)
		pad(sink, ' ', padding);
}

static void put_number(struct sink *sink, const struct conversion *conversion, uint64_t number, bool negative)
{
	char text[24], prefix[3];
	size_t at = sizeof text, prefix_length = 0;
	char letter = conversion->letter;
	bool is_signed = letter == 'd' || letter == 'i';
	unsigned base = letter == 'o' ? 8 : letter == 'x' || letter == 'X' || letter == 'p' ? 16 : 10;
	const char *digits = letter == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
	for (uint64_t rest = number; rest; rest /= base)
		text[--at] = digits[rest % base];
	size_t length = sizeof text - at;
	size_t wanted = conversion->has_precision ? conversion->precision : 1;

	if (is_signed && (negative || conversion->plus || conversion->space))
		prefix[prefix_length++] = negative ? '-' : conversion->plus ? '+' : ' ';
	if (base == 16 && number && (conversion->alternative || letter == 'p')) {
		prefix[prefix_length++] = '0';
		prefix[prefix_length++] = letter == 'X' ? 'X' : 'x';
	}
	if (base == 8 && conversion->alternative && wanted <= length)
		wanted = length + 1;
	size_t zeros = wanted > length ? wanted - length : 0;
	size_t all = prefix_length + zeros + length;
	size_t padding = conversion->width > all ? conversion->width - all : 0;
	if (conversion->zero && !conversion->left && !conversion->has_precision) {
		zeros += padding;
		padding = 0;
	}
	if (!conversion->left)
		pad(sink, ' ', padding);
	put(sink, prefix, prefix_length);
	pad(sink, '0', zeros);
	put(sink, text + at, length);
	if (conversion->left)
		pad(sink, ' ', padding);
}

/* ---- understanding the format -------------------------------------------------------------------------- */

struct arguments {
	va_list list; /* in a structure, so that it can be passed by address */
};

/* Takes a number or the * that stands for an argument; false if it is larger than an int. */
static bool take_size(const char **at, struct arguments *arguments, int *size)
{
	*size = 0;
	if (**at == '*') {
		++*at;
		*size = va_arg(arguments->list, int);
		return *size != INT_MIN;
	}
	for (; **at >= '0' && **at <= '9'; ++*at) {
		int digit = **at - '0';
		if (*size > (INT_MAX - digit) / 10)
			return false;
		*size = *size * 10 + digit;
	}
	return true;
}

static void take_flags(const char **at, struct conversion *conversion)
{
	for (;; ++*at) {
		switch (**at) {
		case '-':
			conversion->left = true;
			break;
		case '+':
			conversion->plus = true;
			break;
		case ' ':
			conversion->space = true;
			break;
		case '#':
			conversion->alternative = true;
			break;
		case '0':
			conversion->zero = true;
			break;
		default:
			return;
		}
	}
}

static unsigned take_length(const char **at)
{
	unsigned bytes;
	switch (**at) {
	case 'h':
		++*at;
		bytes = **at == 'h' ? 1 : 2;
		*at += **at == 'h';
		return bytes;
	case 'l':
		++*at;
		*at += **at == 'l';
		return 8;
	case 'j':
	case 'z':
	case 't':
		++*at;
		return 8;
	default:
		return 4;
	}
}

/* Understands what follows a %.  Returns false if that is not a conversion known here. */
static bool take_conversion(const char **at, struct arguments *arguments, struct conversion *conversion)
{
	int size;
	*conversion = (struct conversion){ 0 };
	take_flags(at, conversion);
	if (!take_size(at, arguments, &size))
		return false;
	conversion->left |= size < 0;
	conversion->width = size < 0 ? (size_t)-size : (size_t)size;
	if (**at == '.') {
		++*at;
		if (!take_size(at, arguments, &size))
			return false;
		conversion->has_precision = size >= 0;
		conversion->precision = size >= 0 ? (size_t)size : 0;
	}
	conversion->bytes = take_length(at);
	conversion->letter = **at;
	if (!conversion->letter || !strchr("diouxXpcs%", conversion->letter))
		return false;
	/* Characters of other sizes than one byte are not known. */
	if ((conversion->letter == 'c' || conversion->letter == 's') && conversion->bytes != 4)
		return false;
	++*at;
	return true;
}

static int64_t take_signed(struct arguments *arguments, unsigned bytes)
{
	if (bytes == 8)
		return va_arg(arguments->list, int64_t);
	int number = va_arg(arguments->list, int);
	return bytes == 1 ? (signed char)number : bytes == 2 ? (short)number : number;
}

static uint64_t take_unsigned(struct arguments *arguments, unsigned bytes)
{
	if (bytes == 8)
		return va_arg(arguments->list, uint64_t);
	unsigned number = va_arg(arguments->list, unsigned);
	return bytes == 1 ? (unsigned char)number : bytes == 2 ? (unsigned short)number : number;
}

static void put_string(struct sink *sink, const struct conversion *conversion, const char *text)
{
	static const char null[] = "(null)";
	size_t most = conversion->has_precision ? conversion->precision : SIZE_MAX;
	if (!text)
		text = most < sizeof null - 1 ? "" : null;
	put_padded(sink, conversion, text, most == SIZE_MAX ? strlen(text) : strnlen(text, most));
}

static void put_argument(struct sink *sink, const struct conversion *conversion, struct arguments *arguments)
{
	int64_t number;
	uintptr_t pointer;
	char character;
	switch (conversion->letter) {
	case 'd':
	case 'i':
		number = take_signed(arguments, conversion->bytes);
		put_number(sink, conversion, number < 0 ? -(uint64_t)number : (uint64_t)number, number < 0);
		break;
	case 'p':
		pointer = (uintptr_t)va_arg(arguments->list, void *);
		if (pointer)
			put_number(sink, conversion, pointer, false);
		else
			put_padded(sink, conversion, "(nil)", 5);
		break;
	case 'c':
		character = (char)va_arg(arguments->list, int);
		put_padded(sink, conversion, &character, 1);
		break;
	case 's':
		put_string(sink, conversion, va_arg(arguments->list, const char *));
		break;
	case '%':
		put(sink, "%", 1);
		break;
	default:
		put_number(sink, conversion, take_unsigned(arguments, conversion->bytes), false);
	}
}

static int put_all(struct sink *sink, const char *format, struct arguments *arguments)
{
	for (const char *at = format; *at;) {
		struct conversion conversion;
		size_t plain = strcspn(at, "%");
		put(sink, at, plain);
		at += plain;
		if (!*at)
			break;
		const char *begin = at++;
		if (!take_conversion(&at, arguments, &conversion)) {
			put(sink, begin, strlen(begin));
			break;
		}
		put_argument(sink, &conversion, arguments);
	}
	return sink->total > INT_MAX ? INT_MAX : (int)sink->total;
}

/* ---- for others --------------------------------------------------------------------------------------- */

int dune_format_list(char *text, size_t size, const char *format, va_list list)
{
	struct sink sink = { .buffer = text, .room = size ? size - 1 : 0, .fd = -1 };
	struct arguments arguments;
	va_copy(arguments.list, list);
	int length = put_all(&sink, format, &arguments);
	va_end(arguments.list);
	if (size)
		text[sink.used] = 0;
	return length;
}

int dune_format(char *text, size_t size, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	int length = dune_format_list(text, size, format, arguments);
	va_end(arguments);
	return length;
}

int dune_format_write(int fd, const char *format, va_list list)
{
	char buffer[DUNE_FORMAT_WRITE];
	struct sink sink = { .buffer = buffer, .room = sizeof buffer, .fd = fd };
	struct arguments arguments;
	va_copy(arguments.list, list);
	int length = put_all(&sink, format, &arguments);
	va_end(arguments.list);
	flush(&sink);
	return sink.failed ? -1 : length;
}
