/*
 * service.h - what all steps of docs/porting.md share: strangers who send requests, and stand-ins for a real MAC and for
 * the file with the key.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	LINE = 64,
	TEXT = 256,
	KEY = 16,
	CLIENTS = 4
};

/* Stands for reading a file: the key is nowhere in the program. */
static inline void load_key(uint8_t *key)
{
	static const char hidden[] = "J2X,vi`u,hr,r2bs";

	for (int i = 0; i < KEY; i++)
		key[i] = (uint8_t)hidden[i] ^ 1;
}

/* Stands for HMAC. */
static inline uint64_t mac(const uint8_t *key, const char *text, size_t length)
{
	uint64_t sum = 0xcbf29ce484222325;

	for (size_t i = 0; i < KEY + length; i++)
		sum = (sum ^ (i < KEY ? key[i] : (uint8_t)text[i - KEY])) * 0x100000001b3;
	return sum;
}

/* Reads a line without its newline.  Returns 0 at the end. */
static inline int read_line(int fd, char *line, size_t room)
{
	size_t length = 0;
	char byte;

	while (read(fd, &byte, 1) == 1 && byte != '\n')
		if (length + 1 < room)
			line[length++] = byte;
	line[length] = 0;
	return length > 0;
}

static inline void reply(int fd, const char *text, size_t length, uint64_t sum)
{
	char end[32];
	int size = snprintf(end, sizeof(end), " %016llx\n", (unsigned long long)sum);

	if (write(fd, text, length) < 0 || write(fd, end, (size_t)size) < 0)
		perror("write");
}

/* ---- the strangers ----------------------------------------------------------------------------------------------- */

static int clients[CLIENTS], client_count;

/* text NULL: no more will come. */
static inline void client_sends(int client, const char *text)
{
	if (!text)
		shutdown(clients[client], SHUT_WR);
	else if (write(clients[client], text, strlen(text)) < 0)
		perror("write");
}

/* Returns the service's end of a connection.  requests NULL: they come later. */
static inline int connect_client(const char *requests)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
		exit(1);
	clients[client_count++] = ends[1];
	if (requests) {
		client_sends(client_count - 1, requests);
		client_sends(client_count - 1, NULL);
	}
	return ends[0];
}

static inline void show_replies(void)
{
	for (int i = 0; i < client_count; i++) {
		char byte, before = '\n';
		int any = 0;

		for (; read(clients[i], &byte, 1) == 1; before = byte, any = 1) {
			if (before == '\n')
				printf("client %d: ", i + 1);
			putchar(byte == '\n' || (byte >= ' ' && byte <= '~') ? byte : '.');
		}
		if (!any)
			printf("client %d gets no reply\n", i + 1);
	}
}
