/* step1.c - the parser runs in an sthread; what it works on is in a tag. */
#include "service.h"

#include <sthread.h>

struct job {
	char text[TEXT];
	size_t length;
	char line[LINE];
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

	parse(job->line, job->text, &job->length);
	return NULL;
}

int main(void)
{
	int fd = connect_client("5 hello\n77 hi\n20000000 hi\n5 again\n");
	struct sthread_info info;
	sthread_t st;
	sc_t policy;

	if (sthread_init() != 0)
		return fprintf(stderr, "%s\n", sthread_error()), 1;
	load_key(key); /* after sthread_init(): it is in no sthread */

	tag_t tag = tag_new();
	struct job *job = smalloc(tag, sizeof(*job));

	sc_init(&policy);
	sc_mem_add(&policy, tag, PROT_READ | PROT_WRITE);
	while (job && read_line(fd, job->line, LINE)) {
		if (sthread_create(&st, &policy, run_parser, job) != 0)
			return fprintf(stderr, "%s\n", sthread_error()), 1;
		if (sthread_join_info(st, NULL, &info) == 0)
			reply(fd, job->text, job->length, mac(key, job->text, job->length));
		else
			dprintf(fd, "refused: the parser ended with exception %u\n", info.vector);
	}
	close(fd);
	show_replies();
	return 0;
}
