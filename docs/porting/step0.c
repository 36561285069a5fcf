/* step0.c - the service as it is: a request is "LENGTH TEXT", the reply the text and its MAC. */
#include "service.h"

static struct {
	char text[TEXT];
	size_t length;
	char line[LINE];
	uint8_t key[KEY];
} server;

static void parse(const char *line, char *text, size_t *length)
{
	char *start;

	*length = strtoul(line, &start, 10);
	memcpy(text, start + 1, *length); /* the bug: it believes what a stranger says */
}

int main(void)
{
	int fd = connect_client("5 hello\n77 hi\n");

	load_key(server.key);
	while (read_line(fd, server.line, LINE)) {
		parse(server.line, server.text, &server.length);
		reply(fd, server.text, server.length, mac(server.key, server.text, server.length));
	}
	close(fd);
	show_replies();
	return 0;
}
