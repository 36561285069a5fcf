/*
 * options.c - parses the command line; every mistake is one line that names cause and cure.
 */
#include "options.h"

#include "sign.h"
#include "workers.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
	"Usage: sthread-httpd --cert FILE --key FILE --docroot DIR [option]...\n"
	"Serves the files beneath DIR over HTTPS, each connection and each request in a compartment of its own.\n"
	"\n"
	"  --listen HOST:PORT      where to listen (default 127.0.0.1:8443; port 0: any free one, printed)\n"
	"  --cert FILE             certificate chain in PEM form; its key is ECDSA on P-256\n"
	"  --key FILE              the private key in PEM form, unencrypted\n"
	"  --docroot DIR           directory to serve\n"
	"  --isolation MODE        how the parts are kept apart (default sthread):\n"
	"       none               not at all: one process, one thread\n"
	"       thread             not at all: a thread of a pool for each connection\n"
	"       fork               a process for each connection\n"
	"       fork-per-request   a process for each connection, and one for each request\n"
	"       sthread            an sthread for each connection, and one for each request\n"
	"  --workers N             so many processes that listen (1 to 64; default 1);\n"
	"                          with thread: at most so many threads (1 to 512; default 512)\n"
	"  --ballast MIB           holds so much memory more, to measure what its size costs\n"
	"  --log FILE              append a line for each request\n"
	"  --requests N            end after N finished requests\n"
	"  --help                  print this\n";

static const char *const isolation_names[] = {
	[ISOLATION_NONE] = "none",       [ISOLATION_THREAD] = "thread",
	[ISOLATION_FORK] = "fork",       [ISOLATION_FORK_PER_REQUEST] = "fork-per-request",
	[ISOLATION_STHREAD] = "sthread",
};

noreturn void finish(int status)
{
	(void)fflush(NULL);
	_exit(status);
}

noreturn void fail(const char *format, ...)
{
	va_list arguments;

	(void)fflush(stdout);
	(void)fputs("sthread-httpd: ", stderr);
	va_start(arguments, format);
	(void)vfprintf(stderr, format, arguments);
	va_end(arguments);
	(void)fputc('\n', stderr);
	finish(1);
}

const char *isolation_name(enum isolation isolation)
{
	return isolation_names[isolation];
}

static unsigned long parse_number(const char *option, const char *text, unsigned long min, unsigned long max)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno != 0 || text[0] < '0' || text[0] > '9' || *end != '\0' || value < min || value > max)
		fail("%s: \"%s\" is not a number from %lu to %lu", option, text, min, max);
	return value;
}

/* HOST:PORT, HOST being [IPv6] if it has colons of its own. */
static void parse_listen(const char *text, struct options *options)
{
	const char *colon = strrchr(text, ':');
	const char *host = text;
	size_t length = colon == NULL ? 0 : (size_t)(colon - text);

	if (length >= 2 && host[0] == '[' && host[length - 1] == ']') {
		host++;
		length -= 2;
	} else if (length > 0 && memchr(host, ':', length) != NULL) {
		length = 0;
	}
	if (length == 0 || length >= sizeof(options->host))
		fail("--listen: \"%s\" is not HOST:PORT; write 127.0.0.1:8443 or [::1]:8443", text);
	memcpy(options->host, host, length);
	options->host[length] = '\0';
	(void)snprintf(options->port, sizeof(options->port), "%lu", parse_number("--listen", colon + 1, 0, 65535));
}

static enum isolation parse_isolation(const char *text)
{
	for (size_t i = 0; i < sizeof(isolation_names) / sizeof(isolation_names[0]); i++)
		if (strcmp(text, isolation_names[i]) == 0)
			return (enum isolation)i;
	fail("--isolation: \"%s\" is unknown; use none, thread, fork, fork-per-request or sthread", text);
}

/* What a number means depends on the isolation, which may come behind it. */
static unsigned parse_workers(const char *text, enum isolation isolation)
{
	bool threads = isolation == ISOLATION_THREAD;

	if (text == NULL)
		return threads ? SIGN_CONNECTIONS_MAX : 1;
	return (unsigned)parse_number(threads ? "--workers with threads" : "--workers", text, 1,
				      threads ? SIGN_CONNECTIONS_MAX : WORKERS_MAX);
}

void options_parse(int argc, char **argv, struct options *options)
{
	enum {
		LISTEN = 256,
		CERT,
		KEY,
		DOCROOT,
		ISOLATION,
		LOG,
		REQUESTS,
		WORKERS,
		BALLAST,
		HELP
	};
	static const struct option known[] = {
		{ "listen", required_argument, NULL, LISTEN },
		{ "cert", required_argument, NULL, CERT },
		{ "key", required_argument, NULL, KEY },
		{ "docroot", required_argument, NULL, DOCROOT },
		{ "isolation", required_argument, NULL, ISOLATION },
		{ "log", required_argument, NULL, LOG },
		{ "requests", required_argument, NULL, REQUESTS },
		{ "workers", required_argument, NULL, WORKERS },
		{ "ballast", required_argument, NULL, BALLAST },
		{ "help", no_argument, NULL, HELP },
		{ NULL, 0, NULL, 0 },
	};
	const char *workers = NULL;
	int option;

	memset(options, 0, sizeof(*options));
	options->isolation = ISOLATION_STHREAD;
	parse_listen("127.0.0.1:8443", options);
	opterr = 0;
	while ((option = getopt_long(argc, argv, ":", known, NULL)) != -1) {
		switch (option) {
		case LISTEN:
			parse_listen(optarg, options);
			break;
		case CERT:
			options->certificate = optarg;
			break;
		case KEY:
			options->key = optarg;
			break;
		case DOCROOT:
			options->docroot = optarg;
			break;
		case ISOLATION:
			options->isolation = parse_isolation(optarg);
			break;
		case LOG:
			options->log = optarg;
			break;
		case REQUESTS:
			options->requests = parse_number("--requests", optarg, 0, 1000000000);
			break;
		case WORKERS:
			workers = optarg;
			break;
		case BALLAST:
			options->ballast = parse_number("--ballast", optarg, 0, 1 << 20) << 20;
			break;
		case HELP:
			(void)fputs(usage, stdout);
			exit(fflush(stdout) == 0 ? 0 : 1);
		case ':':
			fail("%s needs a value; see --help", argv[optind - 1]);
		default:
			fail("unknown option %s; see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		fail("unexpected argument \"%s\"; see --help", argv[optind]);
	options->workers = parse_workers(workers, options->isolation);
	if (options->certificate == NULL)
		fail("no certificate: name one with --cert FILE");
	if (options->key == NULL)
		fail("no private key: name one with --key FILE");
	if (options->docroot == NULL)
		fail("nothing to serve: name a directory with --docroot DIR");
}
