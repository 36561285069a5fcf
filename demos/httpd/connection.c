/*
 * connection.c - moves encrypted bytes between a socket and the TLS compartment, and gives turns.
 *
 * The main loop looks at no byte of a stream.  What compartments publish is copied once and checked; a value
 * that no honest one can have published ends the connection.  A compartment gets a turn when something that it
 * can see has changed since its last one, never because it asks.
 */
#include "connection.h"

#include "regions.h"
#include "report.h"
#include "request.h"
#include "shared.h"
#include "tls.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	HANDSHAKE_SECONDS = 10,
	IDLE_SECONDS = 30,
	LINGER_SECONDS = 2, /* for the peer to read the last answer */
	TURNS_MAX = 8,      /* of one connection before the others get theirs */
	INPUTS = 5,
	WANTED_MAX = 256, /* bytes that TLS can ask to wait for: more than the end of any handshake */
};

struct connection {
	struct server *server;
	size_t slot;
	evutil_socket_t socket;
	struct event *readable, *writable, *again, *deadline;
	bool read_wanted, write_wanted; /* the events are added */
	bool can_read, can_write;
	bool again_wanted;
	bool doomed;    /* to be freed as soon as its turn is over */
	bool lingering; /* all is sent: what still comes is thrown away */
	bool open;      /* the handshake is complete, as TLS says */

	struct regions *regions;
	struct wire_region *wire;
	struct plain_region *plain;
	struct reply_region *reply;
	sc_t tls_policy, request_policy;
	struct compartment tls, request;
	bool tls_ended;
	bool tls_held;    /* it had more to send than there was room for */
	uint32_t pressed; /* the request number, as of when TLS had to learn it at once */
	uint64_t tls_inputs[INPUTS], request_inputs[INPUTS]; /* what each could see when its last turn began */

	/* Main's own positions; the regions hold copies. */
	uint64_t in_produced, out_consumed;
	uint32_t orders, request_number;
	uint32_t request_visible; /* bytes of plain that the running request has been shown */
	bool answered;            /* the request has ended, its answer is on its way to TLS */
	bool keep_alive;
	uint32_t request_length;
	uint64_t answer_length;
	struct connection_report report;
};

/* Makes the reply region that of a request not yet answered. */
static void reply_clear(struct connection *c)
{
	memset(c->reply, 0, sizeof(*c->reply));
	c->reply->plain = c->plain;
	c->reply->connection = c->report.number;
	c->reply->log_gate = c->server->log_gate;
}

/* ---- ends ---- */

static void doom(struct connection *c, const char *why)
{
	if (why != NULL && !c->doomed)
		(void)fprintf(stderr, "connection %" PRIu64 ": %s\n", c->report.number, why);
	c->doomed = true;
}

/* Releases an ended compartment, or ends it.  False if it ended otherwise than by returning: says so. */
static bool finish(struct connection *c, struct compartment *compartment, struct sthread_info *info, bool *counted)
{
	const char *name = compartment->kind->name;
	bool by_itself = compartment->state == COMPARTMENT_ENDED;
	char how[160], line[256];

	if (compartment_process_failed(compartment, how, sizeof(how))) {
		(void)snprintf(line, sizeof(line), "request process ended: %s", how);
		*counted = compartment_finish(compartment, info);
		doom(c, line);
		return false;
	}
	*counted = compartment_finish(compartment, info);
	if (!by_itself || !*counted || info->end == STHREAD_RETURNED)
		return true;
	report_end(info, how, sizeof(how));
	(void)snprintf(line, sizeof(line), "%s ended: %s", name, how);
	doom(c, line);
	return false;
}

static bool finish_tls(struct connection *c)
{
	c->tls_ended = true;
	return finish(c, &c->tls, &c->report.tls, &c->report.tls_counted);
}

static bool finish_request(struct connection *c)
{
	struct sthread_info info;
	bool counted;
	bool returned = finish(c, &c->request, &info, &counted);

	if (counted)
		report_request(&c->report, &info);
	return returned;
}

enum {
	TLS_READY = 8,
	REQUEST_READY = 4
};

/* What a connection's parts write to is known when the first one has served a request: those after it find it copied. */
static void warm_server(struct connection *c)
{
	if (c->server->warm || c->report.requests == 0)
		return;
	c->server->warm = true;
	if (compartments_ready(&tls_kind, &c->tls_policy, TLS_READY) != 0 ||
	    compartments_ready(&request_kind, &c->request_policy, REQUEST_READY) != 0)
		(void)fprintf(stderr, "no address spaces can be made in advance: %s\n", sthread_error());
}

/* Ends what is left of the compartments, reports them, and gives their memory back. */
static void retire(struct connection *c)
{
	if (c->regions == NULL)
		return;
	sign_ticket_withdraw(c->server->tickets, c->slot);
	if (c->request.kind != NULL)
		(void)finish_request(c);
	if (c->tls.kind != NULL)
		(void)finish_tls(c);
	warm_server(c);
	regions_give(c->regions);
	c->regions = NULL;
	report_connection(&c->report);
}

void connection_free(struct connection *c)
{
	struct event *events[] = { c->readable, c->writable, c->again, c->deadline };

	retire(c);
	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
		if (events[i] != NULL)
			event_free(events[i]);
	(void)evutil_closesocket(c->socket);
	server_connection_gone(c->server, c->slot);
	free(c);
}

static void set_deadline(struct connection *c, int seconds)
{
	struct timeval when = { .tv_sec = seconds };

	(void)event_add(c->deadline, &when);
}

/* ---- the socket ---- */

/* Socket to wire.in. */
static bool receive(struct connection *c)
{
	size_t fill, piece;
	ssize_t got;

	if (!c->can_read || c->tls_ended || (c->orders & ORDER_INPUT_ENDED) != 0)
		return false;
	if (!ring_fill(c->in_produced, position_load(&c->wire->in_consumed), WIRE_IN_SIZE, &fill)) {
		doom(c, "TLS sthread published an impossible position");
		return false;
	}
	piece = ring_piece(c->in_produced, WIRE_IN_SIZE - fill, WIRE_IN_SIZE);
	if (piece == 0)
		return false;
	got = recv(c->socket, c->wire->in + ring_offset(c->in_produced, WIRE_IN_SIZE), piece, 0);
	if (got > 0) {
		c->in_produced += (uint64_t)got;
		position_store(&c->wire->in_produced, c->in_produced);
		return true;
	}
	c->can_read = false;
	if (got == 0) {
		c->orders |= ORDER_INPUT_ENDED;
		word_store(&c->wire->orders, c->orders);
		return true;
	}
	if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
		doom(c, NULL);
	return false;
}

/* How much of wire.out is still to be sent. */
static size_t to_send(struct connection *c)
{
	size_t fill;

	if (!ring_fill(position_load(&c->wire->out_produced), c->out_consumed, WIRE_OUT_SIZE, &fill)) {
		doom(c, "TLS sthread published an impossible position");
		return 0;
	}
	return fill;
}

/* wire.out to the socket. */
static bool transmit(struct connection *c)
{
	size_t fill = to_send(c), piece;
	ssize_t sent;

	if (!c->can_write || fill == 0)
		return false;
	piece = ring_piece(c->out_consumed, fill, WIRE_OUT_SIZE);
	sent = send(c->socket, c->wire->out + ring_offset(c->out_consumed, WIRE_OUT_SIZE), piece, MSG_NOSIGNAL);
	if (sent >= 0) {
		c->out_consumed += (uint64_t)sent;
		position_store(&c->wire->out_consumed, c->out_consumed);
		if (c->open)
			set_deadline(c, IDLE_SECONDS);
		return true;
	}
	c->can_write = false;
	if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
		doom(c, NULL);
	return false;
}

/* Everything is sent: end our direction, and let the peer read before the socket is closed under it. */
static void linger(struct connection *c)
{
	retire(c);
	c->lingering = true;
	if (shutdown(c->socket, SHUT_WR) != 0)
		doom(c, NULL);
	set_deadline(c, LINGER_SECONDS);
}

static void throw_away(struct connection *c)
{
	char buffer[4096];
	ssize_t got = recv(c->socket, buffer, sizeof(buffer), 0);

	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
		doom(c, NULL);
}

/* ---- compartments ---- */

static bool may_run(const struct compartment *compartment, const uint64_t now[INPUTS], const uint64_t last[INPUTS])
{
	return compartment->kind == NULL || compartment->state == COMPARTMENT_RUNNABLE ||
	       memcmp(now, last, INPUTS * sizeof(now[0])) != 0;
}

/* One whose slice was over in the middle of its turn goes by what it had looked at before, and then parks: only what was there
 * when its turn began has certainly been seen. */
static bool begins_turn(const struct compartment *compartment)
{
	return compartment->kind == NULL || compartment->state != COMPARTMENT_RUNNABLE;
}

static bool run(struct connection *c, struct compartment *compartment, const struct compartment_kind *kind,
		const sc_t *policy, void *shared)
{
	int result;

	if (compartment->kind == NULL)
		result = compartment_start(compartment, kind, policy, shared);
	else
		result = compartment_step(compartment);
	if (result == 0)
		return true;
	doom(c, compartments_isolation() == ISOLATION_STHREAD ? sthread_error() : strerror(errno));
	return false;
}

/* The input that TLS gets a turn for.  The client's last handshake message often comes alone, just before its first request,
 * and needs no answer: a turn for it would be one too many. */
static uint64_t input_to_show(const struct connection *c)
{
	uint32_t wanted = word_load(&c->wire->wanted);
	bool too_little = c->tls.kind != NULL && c->in_produced - c->tls_inputs[0] < wanted && wanted <= WANTED_MAX;

	return too_little && (c->orders & ORDER_INPUT_ENDED) == 0 ? c->tls_inputs[0] : c->in_produced;
}

static bool run_tls(struct connection *c)
{
	/* That there is room again, and that a request is over, it learns when it has something to do about it. */
	uint64_t now[INPUTS] = { input_to_show(c), c->tls_held ? c->out_consumed : 0,
				 position_load(&c->reply->produced), c->pressed, c->orders };

	if (c->tls_ended || !may_run(&c->tls, now, c->tls_inputs))
		return false;
	if (begins_turn(&c->tls)) {
		now[0] = c->in_produced;
		now[1] = c->out_consumed;
		memcpy(c->tls_inputs, now, sizeof(now));
	}
	if (!run(c, &c->tls, &tls_kind, &c->tls_policy, c->wire))
		return false;
	if (c->tls.state == COMPARTMENT_ENDED)
		return finish_tls(c);
	if (c->tls.state == COMPARTMENT_PARKED) {
		c->tls_held = position_load(&c->wire->out_produced) - c->tls_inputs[1] >= WIRE_OUT_SIZE;
		c->tls_inputs[1] = c->tls_held ? c->tls_inputs[1] : 0;
	}
	if (!c->open && (word_load(&c->wire->status) & STATUS_OPEN) != 0) {
		c->open = true;
		set_deadline(c, IDLE_SECONDS);
	}
	/* A spinning one gets its next turn after everybody else had theirs. */
	c->again_wanted |= c->tls.state == COMPARTMENT_RUNNABLE;
	return c->tls.state == COMPARTMENT_PARKED;
}

static void order_close(struct connection *c)
{
	c->orders |= ORDER_CLOSE;
	word_store(&c->wire->orders, c->orders);
}

/* The request compartment has ended: takes its result over. */
static bool take_result(struct connection *c)
{
	uint32_t done = word_load(&c->reply->done), length = word_load(&c->reply->consumed);
	uint64_t produced = position_load(&c->reply->produced);

	if (!finish_request(c))
		return false;
	if ((done != DONE_KEEP_ALIVE && done != DONE_CLOSE) || length == 0 || length > c->request_visible) {
		doom(c, "request sthread reported an impossible result");
		return false;
	}
	c->answered = true;
	c->keep_alive = done == DONE_KEEP_ALIVE;
	c->request_length = length;
	c->answer_length = produced;
	c->report.requests++;
	server_request_finished(c->server, c->slot);
	/* In one turn TLS sends what is left and closes. */
	if (!c->keep_alive || server_is_stopping(c->server))
		order_close(c);
	return true;
}

/* The answer is encrypted: makes place for the next request.  TLS need not know before more bytes come, unless it has
 * decrypted more already, or had no room to. */
static void finish_answer(struct connection *c, uint32_t decrypted)
{
	c->answered = false;
	reply_clear(c);
	c->tls_inputs[2] = 0; /* that the reply is empty again is nothing new */
	c->request_number++;
	word_store(&c->wire->request_length, c->request_length);
	word_store(&c->wire->request, c->request_number);
	if (decrypted != c->request_length || decrypted == PLAIN_SIZE)
		c->pressed = c->request_number;
}

static bool run_request(struct connection *c)
{
	uint32_t number = word_load(&c->plain->request);
	uint64_t taken = position_load(&c->plain->reply_consumed);
	uint32_t length = word_load(&c->plain->length);
	bool input_ended = (word_load(&c->wire->status) & STATUS_INPUT_ENDED) != 0;
	uint64_t now[INPUTS] = { length, taken };

	/* TLS may have been stopped in the middle of making place for the next request. */
	if (c->tls_ended || !c->open || (c->orders & ORDER_CLOSE) != 0 || number != c->request_number)
		return false;
	if (length > PLAIN_SIZE) {
		doom(c, "TLS sthread published an impossible length");
		return false;
	}
	if (c->answered) {
		if (taken != c->answer_length)
			return false;
		finish_answer(c, length);
		return true;
	}
	if (c->request.kind == NULL && length == 0) {
		if (input_ended)
			order_close(c);
		return input_ended;
	}
	if (!may_run(&c->request, now, c->request_inputs)) {
		/* It has seen all that will ever come, and waits for more. */
		if (input_ended && taken == position_load(&c->reply->produced))
			doom(c, NULL);
		return false;
	}
	if (c->request.kind == NULL) {
		set_deadline(c, IDLE_SECONDS);
		server_check_documents(c->server);
	}
	if (begins_turn(&c->request))
		memcpy(c->request_inputs, now, sizeof(now));
	c->request_visible = length;
	if (!run(c, &c->request, &request_kind, &c->request_policy, c->reply))
		return false;
	c->again_wanted |= c->request.state == COMPARTMENT_RUNNABLE;
	if (c->request.state == COMPARTMENT_ENDED)
		return take_result(c);
	return c->request.state == COMPARTMENT_PARKED;
}

/* ---- events ---- */

static void want(struct event *event, bool wanted, bool *added)
{
	if (wanted == *added)
		return;
	if ((wanted ? event_add(event, NULL) : event_del(event)) == 0)
		*added = wanted;
}

static void update_events(struct connection *c)
{
	static const struct timeval at_once = { 0 };
	bool read = true, write = false;
	size_t fill;

	if (!c->lingering) {
		/* A full ring, or the peer's end, must not wake the loop again and again. */
		read = !c->can_read && (c->orders & ORDER_INPUT_ENDED) == 0 && !c->tls_ended;
		if (ring_fill(c->in_produced, position_load(&c->wire->in_consumed), WIRE_IN_SIZE, &fill))
			read = read && fill < WIRE_IN_SIZE;
		write = !c->can_write;
	}
	want(c->readable, read, &c->read_wanted);
	want(c->writable, write, &c->write_wanted);
	if (c->again_wanted)
		(void)event_add(c->again, &at_once);
	c->again_wanted = false;
}

/* Lets bytes flow until nothing moves any more, or the others must have their turns. */
static void turns(struct connection *c)
{
	bool moved = true;
	int turn;

	for (turn = 0; turn < TURNS_MAX && moved && !c->doomed; turn++) {
		moved = receive(c);
		/* Nothing is started for a peer that says nothing. */
		if (!c->doomed && (c->in_produced > 0 || c->tls.kind != NULL))
			moved |= run_tls(c);
		if (!c->doomed)
			moved |= run_request(c);
		if (!c->doomed)
			moved |= transmit(c);
		if (!c->doomed && c->in_produced == 0 && (c->orders & ORDER_INPUT_ENDED) != 0)
			doom(c, NULL);
		if (!c->doomed && c->tls_ended && to_send(c) == 0 && !c->doomed) {
			linger(c);
			break;
		}
	}
	if (c->doomed) {
		connection_free(c);
		return;
	}
	c->again_wanted |= turn == TURNS_MAX && moved;
	update_events(c);
}

static void on_event(evutil_socket_t socket, short what, void *arg)
{
	struct connection *c = arg;

	(void)socket;
	if (c->lingering) {
		throw_away(c);
		if (c->doomed)
			connection_free(c);
		return;
	}
	c->can_read |= (what & EV_READ) != 0;
	c->can_write |= (what & EV_WRITE) != 0;
	turns(c);
}

static void on_deadline(evutil_socket_t socket, short what, void *arg)
{
	(void)socket;
	(void)what;
	connection_free(arg);
}

/* ---- start ---- */

static bool make_events(struct connection *c)
{
	struct event_base *base = c->server->events;

	c->readable = event_new(base, c->socket, EV_READ | EV_PERSIST, on_event, c);
	c->writable = event_new(base, c->socket, EV_WRITE | EV_PERSIST, on_event, c);
	c->again = evtimer_new(base, on_event, c);
	c->deadline = evtimer_new(base, on_deadline, c);
	return c->readable != NULL && c->writable != NULL && c->again != NULL && c->deadline != NULL;
}

static void name_peer(struct connection *c, const struct sockaddr *peer, int length)
{
	char host[46], port[6];

	if (getnameinfo(peer, (socklen_t)length, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		(void)snprintf(c->report.peer, sizeof(c->report.peer), "an unknown address");
	else
		(void)snprintf(c->report.peer, sizeof(c->report.peer), "%s port %s", host, port);
}

static void fill_regions(struct connection *c, const uint8_t ticket[TICKET_SIZE])
{
	c->wire = c->regions->wire.at;
	c->plain = c->regions->plain.at;
	c->reply = c->regions->reply.at;
	c->request_number = 1;
	c->wire->plain = c->plain;
	c->wire->reply = c->reply;
	c->wire->sign_gate = c->server->sign_gate;
	memcpy(c->wire->ticket, ticket, TICKET_SIZE);
	word_store(&c->wire->request, c->request_number);
	reply_clear(c);
}

static void make_policies(struct connection *c)
{
	c->tls_policy = c->server->tls_policy;
	memory_grant(&c->tls_policy, &c->regions->wire, PROT_READ | PROT_WRITE);
	memory_grant(&c->tls_policy, &c->regions->plain, PROT_READ | PROT_WRITE);
	memory_grant(&c->tls_policy, &c->regions->reply, PROT_READ);
	c->request_policy = c->server->request_policy;
	memory_grant(&c->request_policy, &c->regions->plain, PROT_READ);
	memory_grant(&c->request_policy, &c->regions->reply, PROT_READ | PROT_WRITE);
}

/* An answer that passes the end of a ring is sent in two pieces: the second must not wait until the first is acknowledged. */
static void send_at_once(evutil_socket_t socket)
{
	const int on = 1;

	(void)setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

struct connection *connection_new(struct server *server, size_t slot, evutil_socket_t socket,
				  const struct sockaddr *peer, int peer_length)
{
	struct connection *c = calloc(1, sizeof(*c));
	uint8_t ticket[TICKET_SIZE];

	if (c == NULL)
		return NULL;
	c->server = server;
	c->slot = slot;
	c->socket = socket;
	send_at_once(socket);
	c->can_write = true;
	c->regions = regions_take();
	if (c->regions == NULL || getrandom(ticket, sizeof(ticket), 0) != sizeof(ticket) || !make_events(c)) {
		(void)fprintf(stderr, "a connection was refused: no memory\n");
		if (c->regions != NULL)
			regions_give(c->regions);
		if (c->readable != NULL)
			event_free(c->readable);
		if (c->writable != NULL)
			event_free(c->writable);
		if (c->again != NULL)
			event_free(c->again);
		if (c->deadline != NULL)
			event_free(c->deadline);
		free(c);
		return NULL;
	}
	c->report.number = server_connection_began(server);
	name_peer(c, peer, peer_length);
	fill_regions(c, ticket);
	make_policies(c);
	sign_ticket_issue(server->tickets, slot, ticket);
	set_deadline(c, HANDSHAKE_SECONDS);
	update_events(c);
	return c;
}
