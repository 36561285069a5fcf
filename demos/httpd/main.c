/*
 * main.c - sthread-httpd: a small HTTPS server, partitioned.  See docs/privsep.md.
 *
 * main() does things in an order that matters: what every compartment needs is made first, then the snapshot is
 * taken (compartments_init), and only then is the private key read, so that no compartment's copy of the
 * process has ever seen it.
 */
#ifdef DEMO_VULNERABLE
#include "attack.h"
#endif
#include "children.h"
#include "fence.h"
#include "log.h"
#include "options.h"
#include "pool.h"
#include "report.h"
#include "request.h"
#include "server.h"
#include "tls.h"
#include "warmup.h"
#include "workers.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Public; compartments find it in their copies of the snapshot. */
static struct tls_identity identity;

static int open_docroot(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd == -1)
		fail("cannot open the directory %s: %s; name an existing one with --docroot", path, strerror(errno));
	return fd;
}

static int open_log(const char *path)
{
	int fd;

	if (path == NULL)
		return -1;
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
	if (fd == -1)
		fail("cannot append to the log %s: %s; name another file with --log", path, strerror(errno));
	return fd;
}

static void load_certificate(const char *path)
{
	const char *problem;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd == -1)
		fail("cannot open the certificate %s: %s; name a PEM file with --cert", path, strerror(errno));
	(void)close(fd);
	if (tls_library_init() != 0)
		fail("OpenSSL cannot be initialised; check that version 3 and its default provider are installed");
	problem = tls_identity_load(&identity, path, NULL);
	if (problem != NULL)
		fail("cannot use the certificate %s: %s", path, problem);
}

static noreturn void fail_bind(const struct options *options)
{
	fail("cannot bind to %s port %s: %s; choose another address with --listen", options->host, options->port,
	     strerror(errno));
}

static int bind_socket(const struct options *options, const struct sockaddr *address, socklen_t length, bool shared)
{
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;

	if (fd == -1 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
	    (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) != 0) ||
	    bind(fd, address, length) != 0)
		fail_bind(options);
	return fd;
}

static void bind_sockets(const struct options *options, int sockets[], unsigned count)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	struct addrinfo *found;
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	int error = getaddrinfo(options->host, options->port, &hints, &found);

	if (error != 0)
		fail("cannot find the address %s: %s; name another with --listen", options->host, gai_strerror(error));
	/* By itself first: a shared one would not notice another server that shares its port.  It also chooses the port. */
	sockets[0] = bind_socket(options, found->ai_addr, found->ai_addrlen, false);
	freeaddrinfo(found);
	if (count == 1)
		return;
	if (getsockname(sockets[0], (struct sockaddr *)&address, &length) != 0)
		fail_bind(options);
	(void)close(sockets[0]);
	for (unsigned i = 0; i < count; i++)
		sockets[i] = bind_socket(options, (struct sockaddr *)&address, length, true);
}

/* Pages of the usual size, as the heap of a long-lived server has them. */
static void hold_ballast(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *at;

	if (size == 0)
		return;
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		fail("no memory for the ballast: %s; ask for less with --ballast", strerror(errno));
	(void)madvise(at, size, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < size; i += page)
		at[i] = 1;
}

/* From here on the main loop has the code of TLS and of parsers no more. */
static void start_compartments(enum isolation isolation)
{
	const char *open;

	if (fflush(stdout) != 0 || compartments_init(isolation) != 0)
		fail("%s", sthread_error());
	if (isolation != ISOLATION_STHREAD)
		return;
	open = fence_libraries();
	if (open != NULL)
		(void)fprintf(stderr, "sthread-httpd: the main loop keeps %s's code (%s); link it dynamically\n", open,
			      strerror(errno));
}

static noreturn void fail_compartments(const char *what)
{
	fail("cannot make %s: %s", what,
	     compartments_isolation() == ISOLATION_STHREAD ? sthread_error() : strerror(errno));
}

static void new_memory(struct memory *memory, size_t size, const char *what)
{
	if (memory_new(memory, size) != 0)
		fail_compartments(what);
}

/* The file's bytes go from the kernel into the gate's memory; no other copy is made. */
static void read_key(const char *path, struct sign_trusted *trusted)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	ssize_t got;

	if (fd == -1)
		fail("cannot open the private key %s: %s; name a PEM file with --key", path, strerror(errno));
	do {
		got = read(fd, trusted->key + trusted->key_length, sizeof(trusted->key) - trusted->key_length);
		if (got > 0)
			trusted->key_length += (size_t)got;
	} while (got > 0);
	if (got == -1)
		fail("cannot read the private key %s: %s", path, strerror(errno));
	(void)close(fd);
}

static noreturn void fail_key(const char *path, int error)
{
	switch (error) {
	case EINVAL:
		fail("the private key %s is not an unencrypted private key in PEM form; decrypt or convert it", path);
	case ENOTSUP:
		fail("the private key %s is not on the curve P-256; make one with openssl genpkey", path);
	case EKEYREJECTED:
		fail("the private key %s does not belong to the certificate; give --cert and --key that match", path);
	default:
		fail("the sign gate cannot use the private key %s: %s", path, strerror(error));
	}
}

/* A gate answers in no time, or something is wrong; the main loop waits for it. */
enum {
	GATE_MILLISECONDS = 1000
};

static void make_sign_gate(struct server *server, const char *key_path)
{
	struct memory key, tickets;
	struct sign_trusted *trusted;
	size_t none = 0;
	sc_t policy;

	new_memory(&key, sizeof(*trusted), "the key's memory");
	new_memory(&tickets, sizeof(*server->tickets), "the tickets' memory");
	server->tickets = tickets.at;
	trusted = key.at;
	trusted->certificate = &identity.certificate;
	trusted->tickets = tickets.at;
	read_key(key_path, trusted);
	sc_init(&policy);
	(void)sc_cpu_budget(&policy, GATE_MILLISECONDS);
	memory_grant(&policy, &key, PROT_READ);
	memory_grant(&policy, &tickets, PROT_READ | PROT_WRITE);
	server->sign_gate = gate_new(sign_gate, &policy, trusted);
	if (server->sign_gate == -1)
		fail_compartments("the sign gate");
	if (gate_call(server->sign_gate, "C", 1, NULL, &none) != 0)
		fail_key(key_path, errno);
#ifdef DEMO_VULNERABLE
	attack_announce(trusted->key, server->sign_gate);
#endif
}

static void make_log_gate(struct server *server, int log)
{
	sc_t policy;

	server->log_gate = -1;
	if (log == -1)
		return;
	sc_init(&policy);
	(void)sc_cpu_budget(&policy, GATE_MILLISECONDS);
	if (compartments_isolation() == ISOLATION_STHREAD)
		(void)sc_fd_add(&policy, log, PROT_WRITE);
	server->log_gate = gate_new(log_gate, &policy, (void *)(intptr_t)log);
	if (server->log_gate == -1)
		fail_compartments("the log gate");
}

/* Private memory of one TLS or request sthread: a few hundred kilobytes are used. */
enum {
	SHARE_BYTES = 64 << 20
};

static void make_policies(struct server *server, int docroot)
{
	if (compartments_isolation() != ISOLATION_STHREAD)
		return;
	sc_init(&server->tls_policy);
	(void)sc_memory_quota(&server->tls_policy, SHARE_BYTES);
	(void)sc_cgate_add(&server->tls_policy, server->sign_gate);
	sc_init(&server->request_policy);
	(void)sc_memory_quota(&server->request_policy, SHARE_BYTES);
	(void)sc_sys_add(&server->request_policy, SYS_openat);
	(void)sc_path_add(&server->request_policy, docroot, PROT_READ);
	if (server->log_gate != -1)
		(void)sc_cgate_add(&server->request_policy, server->log_gate);
}

/* What costs the same in each compartment is done once. */
static void prepare_compartments(struct server *server, int docroot)
{
	struct memory list;
	sc_t nothing, may_read;

	new_memory(&list, sizeof(*server->documents), "the list of documents");
	server->docroot = docroot;
	server->documents = list.at;
	server->documents_state = documents_list(docroot, server->documents);
	sc_init(&nothing);
	sc_init(&may_read);
	memory_grant(&may_read, &list, PROT_READ);
	if (compartments_isolation() == ISOLATION_STHREAD) {
		(void)sc_sys_add(&may_read, SYS_openat);
		(void)sc_path_add(&may_read, docroot, PROT_READ);
	}
	if (compartments_prepare(&server->tls_prepared, &tls_kind, &nothing, NULL, &server->tls_policy) != 0 ||
	    compartments_prepare(&server->request_prepared, &request_kind, &may_read, list.at,
				 &server->request_policy) != 0)
		fail_compartments("what compartments start from");
	if (compartments_isolation() == ISOLATION_STHREAD)
		sc_destroy(&may_read);
}

struct listening {
	const struct options *options;
	int socket;
};

/* How many listen. */
static unsigned processes(const struct options *options)
{
	return options->isolation == ISOLATION_THREAD ? 1 : options->workers;
}

static void say_ready(void *arg)
{
	const struct listening *listening = arg;
	const struct options *options = listening->options;
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	char port[6] = "?", workers[32] = "";
	bool colons = strchr(options->host, ':') != NULL;

	if (getsockname(listening->socket, (struct sockaddr *)&address, &length) == 0)
		(void)getnameinfo((struct sockaddr *)&address, length, NULL, 0, port, sizeof(port), NI_NUMERICSERV);
	if (processes(options) > 1)
		(void)snprintf(workers, sizeof(workers), ", workers: %u", options->workers);
	(void)printf("listening on https://%s%s%s:%s/ (isolation: %s%s)\n", colons ? "[" : "", options->host,
		     colons ? "]" : "", port, isolation_name(options->isolation), workers);
	(void)fflush(stdout);
}

/* What is the same for all workers, made before any of them. */
struct common {
	const struct options *options;
	struct tally *tally;
	int docroot, log;
};

static struct server server;

/* For the modes that fork for connections: what their children keep. */
static void prepare_processes(const struct common *common)
{
	enum isolation isolation = common->options->isolation;

	if (isolation != ISOLATION_FORK && isolation != ISOLATION_FORK_PER_REQUEST)
		return;
	if (!process_supported())
		fail("--isolation %s needs close_range(), which Linux has from 5.9 on; use another isolation",
		     isolation_name(isolation));
	process_keep(common->docroot);
	if (common->log != -1)
		process_keep(common->log);
}

static int run(const struct options *options, int socket, void (*ready)(void *), void *arg)
{
	switch (options->isolation) {
	case ISOLATION_THREAD:
		return pool_run(&server, options->workers, &identity.certificate, socket, ready, arg);
	case ISOLATION_FORK:
	case ISOLATION_FORK_PER_REQUEST:
		return children_run(&server, socket, ready, arg);
	case ISOLATION_NONE:
	case ISOLATION_STHREAD:
		break;
	}
	return server_run(&server, socket, ready, arg);
}

/* A whole server: the only one, or a worker. */
static void be_server(const struct common *common, int socket, void (*ready)(void *), void *arg)
{
	const struct options *options = common->options;

	hold_ballast(options->ballast);
	start_compartments(options->isolation);

	make_sign_gate(&server, options->key);
	make_log_gate(&server, common->log);
	make_policies(&server, common->docroot);
	prepare_compartments(&server, common->docroot);
	server.tally = common->tally;
	server.documents_owner = &server;
	server.requests_wanted = options->requests;
	server.last_slot = SIGN_CONNECTIONS_MAX;
	if (run(options, socket, ready, arg) != 0)
		fail("cannot listen on %s port %s: %s; choose another address with --listen", options->host,
		     options->port, strerror(errno));
	if (compartments_isolation() == ISOLATION_STHREAD)
		sc_destroy(&server.request_policy);
}

static void say_worker_ready(void *arg)
{
	(void)arg;
	workers_ready();
}

static void be_worker(unsigned number, int socket, void *arg)
{
	be_server(arg, socket, say_worker_ready, NULL);
	report_worker(number, server.connections);
	finish(0);
}

int main(int argc, char **argv)
{
	static int sockets[WORKERS_MAX];
	struct options options;
	struct listening listening = { .options = &options };
	struct common common = { .options = &options };

	/* Answered by server_run(). */
	(void)signal(SIGUSR1, SIG_IGN);
	options_parse(argc, argv, &options);
	common.docroot = open_docroot(options.docroot);
	request_set_docroot(common.docroot);
	common.log = open_log(options.log);
	load_certificate(options.certificate);
	bind_sockets(&options, sockets, processes(&options));
	listening.socket = sockets[0];
	if (warm_up() != 0)
		fail("the trial request at start failed; check that OpenSSL offers TLS 1.3 with X25519 and P-256");
	tls_use(identity.context);
#ifdef DEMO_VULNERABLE
	attack_prepare();
#endif
	common.tally = tally_new();
	if (common.tally == NULL)
		fail("no memory: %s", strerror(errno));
	prepare_processes(&common);

	if (processes(&options) == 1)
		be_server(&common, sockets[0], say_ready, &listening);
	else if (!workers_run(sockets, options.workers, common.tally, be_worker, &common, say_ready, &listening))
		finish(1);
	report_server(options.isolation, common.tally->connections, common.tally->requests);
	finish(0);
}
