/* unit_costs.c - see unit_costs.h */
#define _GNU_SOURCE
#include "unit_costs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "bare.h"
#include "dirty.h"
#include "kvm/vcpu.h"

enum {
	PAGE = 4096,
	PAGES = 8,
	CALLS = 100,
	MESSAGE = 1024,
	INSTRUCTIONS = 8 * 1000 /* of one sample */
};

static uint8_t *copy_from, *copy_to;
static int file, epoll, sender, receiver, vcpu;
static timer_t timer;

static void copy_pages(void *unused)
{
	(void)unused;
	for (unsigned i = 0; i < PAGES; i++)
		memcpy(copy_to + (size_t)i * PAGE, copy_from + (size_t)i * PAGE, PAGE);
}

static void store(void *unused)
{
	(void)unused;
	dirty_pages();
}

static void read_clock(void *unused)
{
	struct timespec time;
	(void)unused;
	for (int i = 0; i < CALLS; i++)
		clock_gettime(CLOCK_MONOTONIC, &time);
}

static void set_timer(void *unused)
{
	const struct itimerspec late = { .it_value.tv_sec = 1000 };
	(void)unused;
	for (int i = 0; i < CALLS; i++)
		timer_settime(timer, 0, &late, NULL);
}

static void read_file(void *unused)
{
	const struct iovec part = { copy_to, PAGE };
	(void)unused;
	for (int i = 0; i < CALLS; i++)
		if (preadv(file, &part, 1, 0) != PAGE)
			measure_fail("a file cannot be read: %s", strerror(errno));
}

static void get_registers(void *unused)
{
	struct kvm_regs regs;
	(void)unused;
	if (ioctl(vcpu, KVM_GET_REGS, &regs) != 0)
		measure_fail("KVM: %s", strerror(errno));
}

static void wait_epoll(void *unused)
{
	struct epoll_event event;
	(void)unused;
	for (int i = 0; i < CALLS; i++)
		epoll_wait(epoll, &event, 1, 0);
}

/* A message goes out and comes in; the time of each is taken by its own operation. */
static void send_one(void *unused)
{
	static const uint8_t message[MESSAGE];
	(void)unused;
	if (send(sender, message, sizeof message, 0) != MESSAGE)
		measure_fail("a message cannot be sent: %s", strerror(errno));
}

static void receive_one(void *unused)
{
	uint8_t message[MESSAGE];
	(void)unused;
	if (recv(receiver, message, sizeof message, MSG_WAITALL) != MESSAGE)
		measure_fail("a message does not come: %s", strerror(errno));
}

/* A chain in which each needs the one before. */
static void run_instructions(void *unused)
{
	uint64_t count = INSTRUCTIONS / 8, value = 1;
	(void)unused;
	__asm__ volatile("1:\n\t"
			 "addq $3, %[value]\n\t"
			 "xorq $5, %[value]\n\t"
			 "rolq $7, %[value]\n\t"
			 "subq $9, %[value]\n\t"
			 "notq %[value]\n\t"
			 "andq $-2, %[value]\n\t"
			 "decq %[count]\n\t"
			 "jnz 1b"
			 : [count] "+r"(count), [value] "+r"(value)
			 :
			 : "cc");
}

/* Two ends of a connection over the loopback device. */
static void connect_ends(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof address;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	sender = socket(AF_INET, SOCK_STREAM, 0);
	if (listener < 0 || sender < 0 || bind(listener, (struct sockaddr *)&address, length) != 0 ||
	    listen(listener, 1) != 0 || getsockname(listener, (struct sockaddr *)&address, &length) != 0 ||
	    connect(sender, (struct sockaddr *)&address, length) != 0 || (receiver = accept(listener, NULL, NULL)) < 0)
		measure_fail("no connection: %s", strerror(errno));
	struct epoll_event event = { .events = EPOLLOUT };
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, sender, &event) != 0)
		measure_fail("no epoll: %s", strerror(errno));
	close(listener);
}

static uint8_t *pages_new(void)
{
	uint8_t *pages = aligned_alloc(PAGE, PAGES * PAGE);
	if (!pages)
		measure_fail("no memory");
	memset(pages, 1, PAGES * PAGE);
	return pages;
}

void unit_costs_prepare(const struct rung *rungs, struct operation operations[UNITS])
{
	const struct operation all[UNITS] = {
		[UNIT_EXIT] = { .run = bare_run_exit, .warm = 5 },
		[UNIT_CALL_EXIT] = { .run = bare_run_call, .warm = 5 },
		[UNIT_TRAP] = { .run = bare_run_trap, .warm = 5 },
		[UNIT_TENANTS] = { .run = bare_run_two_tenants, .inner = 2, .warm = 5 },
		[UNIT_PAGE] = { .run = copy_pages, .inner = PAGES, .warm = 2 },
		[UNIT_STORES] = { .run = store, .warm = 2 },
		[UNIT_CLOCK] = { .run = read_clock, .inner = CALLS, .warm = 1 },
		[UNIT_TIMER] = { .run = set_timer, .inner = CALLS, .warm = 1 },
		[UNIT_READ] = { .run = read_file, .inner = CALLS, .warm = 1 },
		[UNIT_IOCTL] = { .run = get_registers, .warm = 2 },
		[UNIT_EPOLL] = { .run = wait_epoll, .inner = CALLS, .warm = 1 },
		[UNIT_SEND] = { .run = send_one, .between = receive_one },
		[UNIT_RECV] = { .run = receive_one, .between = send_one },
		[UNIT_INSTRUCTION] = { .run = run_instructions, .inner = INSTRUCTIONS, .warm = 1 },
	};
	static const uint8_t page[PAGE] = { 1 };
	struct sigevent nobody = { .sigev_notify = SIGEV_NONE };
	FILE *temporary = tmpfile();
	if (!temporary || fwrite(page, sizeof page, 1, temporary) != 1 || fflush(temporary) != 0)
		measure_fail("no temporary file");
	file = fileno(temporary);
	if (timer_create(CLOCK_MONOTONIC, &nobody, &timer) != 0)
		measure_fail("no timer: %s", strerror(errno));
	vcpu = dune_vcpu_get(dune_machine_get())->fd;
	copy_from = pages_new();
	copy_to = pages_new();
	connect_ends();
	send_one(NULL); /* so there is always one to receive */
	memcpy(operations, all, sizeof all);
	for (unsigned i = 0; i < UNITS; i++)
		operations[i].rung = &rungs[i];
}
