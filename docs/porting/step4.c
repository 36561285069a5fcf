/* step4.c - one thread for all connections: an sthread that would wait is parked, and resumed when there is something. */
#include "service.h"

#include <callgate.h>
#include <poll.h>
#include <sthread.h>

static struct {
	char text[TEXT];
	size_t length;
	char line[LINE];
} server; /* each sthread has its own */

struct connection {
	int fd;
	cgate_t signer;
};

static void parse(const char *line, char *text, size_t *length)
{
	char *start;

	*length = strtoul(line, &start, 10);
	memcpy(text, start + 1, *length); /* the bug: it believes what a stranger says */
}

/* The gate: its callers give it a text, and never see the key. */
static void *sign(void *argument, void *key)
{
	struct cgate_buffer *message = argument;

	if (message->inlen > TEXT || message->outlen < sizeof(uint64_t))
		return (void *)EINVAL;
	*(uint64_t *)message->out = mac(key, message->in, message->inlen);
	message->outlen = sizeof(uint64_t);
	return NULL;
}

static void *serve(void *argument)
{
	struct connection *connection = argument;

	while (read_line(connection->fd, server.line, LINE)) {
		uint64_t sum;
		size_t size = sizeof(sum);

		parse(server.line, server.text, &server.length);
		if (cgate_call_buf(connection->signer, server.text, server.length, &sum, &size) == 0)
			reply(connection->fd, server.text, server.length, sum);
	}
	return NULL;
}

/* Starts the sthread of a connection: it may use this one, and ask the gate. */
static sthread_t start(int fd, cgate_t signer)
{
	sthread_t st;
	sc_t policy;
	tag_t tag = tag_new();
	struct connection *connection = smalloc(tag, sizeof(*connection));

	*connection = (struct connection){ fd, signer };
	sc_init(&policy);
	sc_mem_add(&policy, tag, PROT_READ);
	sc_fd_add(&policy, fd, PROT_READ | PROT_WRITE);
	sc_cgate_add(&policy, signer);
	if (sthread_create(&st, &policy, serve, connection) != 0)
		exit(1);
	sc_destroy(&policy);
	close(fd);
	return st;
}

static cgate_t make_signer(void)
{
	tag_t secrets = tag_new();
	uint8_t *key = smalloc(secrets, KEY);
	sc_t policy;

	load_key(key);
	sc_init(&policy);
	sc_mem_add(&policy, secrets, PROT_READ);
	return cgate_create(sign, &policy, key);
}

static void finish(int client, sthread_t st)
{
	struct sthread_info info;

	if (sthread_join_info(st, NULL, &info) != 0)
		printf("client %d: its sthread ended with exception %u\n", client, info.vector);
}

int main(void)
{
	enum {
		CONNECTIONS = 3
	};
	int fds[CONNECTIONS] = { connect_client(NULL), connect_client("20000000 hi\n"), connect_client("5 quick\n") };
	sthread_t st[CONNECTIONS];
	int ended[CONNECTIONS] = { 0 }, live = CONNECTIONS;

	if (sthread_init() != 0)
		return fprintf(stderr, "%s\n", sthread_error()), 1;

	cgate_t signer = make_signer();

	for (int i = 0; i < CONNECTIONS; i++)
		st[i] = start(fds[i], signer);
	client_sends(0, "4 slow\n"); /* its sthread waits already */
	client_sends(0, NULL);
	while (live) {
		struct pollfd ready[CONNECTIONS];
		int timeout = -1;

		for (int i = 0; i < CONNECTIONS; i++) {
			ready[i].fd = -1;
			if (!ended[i] && sthread_wait_fd(st[i], &ready[i].fd, &ready[i].events) != 0)
				timeout = 0; /* not parked: it can go on, or has ended */
		}
		if (poll(ready, CONNECTIONS, timeout) < 0)
			return 1;
		for (int i = 0; i < CONNECTIONS; i++) {
			enum sthread_state state;

			if (ended[i] || (ready[i].fd >= 0 && !ready[i].revents))
				continue;
			if (sthread_step(st[i]) != 0 || sthread_state(st[i], &state) != 0)
				return 1;
			if (state == STHREAD_ENDED) {
				finish(i + 1, st[i]);
				ended[i] = 1;
				live--;
			}
		}
	}
	show_replies();
	return 0;
}
