/* step2.c - the request can only be read, the result is copied, checked and then used. */
#include "service.h"

#include <sthread.h>

struct result {
	size_t length;
	char text[TEXT];
};
struct job {
	const char *line;      /* in a tag that the parser may read */
	struct result *result; /* in one that it may write */
};
static uint8_t key[KEY];

static void parse(const char *line, char *text, size_t *length)
{
	char *start;

	*length = strtoul(line, &start, 10);
	memcpy(text, start + 1, *length); /* the bug: it believes what a stranger says */
}

static void *run_parser(void *argument)
{
	struct job *job = argument;

	parse(job->line, job->result->text, &job->result->length);
	return NULL;
}

int main(void)
{
	int fd = connect_client("5 hello\n77 hi\n300 hi\n20000000 hi\n5 again\n");
	sthread_t st;
	sc_t policy;

	if (sthread_init() != 0)
		return fprintf(stderr, "%s\n", sthread_error()), 1;
	load_key(key);

	tag_t in = tag_new(), out = tag_new();
	struct job *job = smalloc(in, sizeof(*job));
	char *line = smalloc(in, LINE);
	struct result *result = smalloc(out, sizeof(*result));

	if (!job || !line || !result)
		return 1;
	*job = (struct job){ line, result };
	sc_init(&policy);
	sc_mem_add(&policy, in, PROT_READ);
	sc_mem_add(&policy, out, PROT_READ | PROT_WRITE);
	while (read_line(fd, line, LINE)) {
		if (sthread_create(&st, &policy, run_parser, job) != 0)
			return fprintf(stderr, "%s\n", sthread_error()), 1;

		int parsed = sthread_join(st, NULL) == 0;
		struct result copy = *result; /* once; what follows looks at the copy */

		if (parsed && copy.length <= TEXT)
			reply(fd, copy.text, copy.length, mac(key, copy.text, copy.length));
		else
			dprintf(fd, "refused\n");
		memset(result, 0, sizeof(*result)); /* the next request's parser sees nothing of this one */
	}
	close(fd);
	show_replies();
	return 0;
}
