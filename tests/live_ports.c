/* live_ports.c - port instructions of ring 3: two ports are open, for one instruction. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "live.h"
#include "supervisor.h"

static uint64_t scratch[64];

enum port_access {
	OUT8,
	OUT16,
	OUT32,
	IN8,
	IN16,
	IN32,
	OUTS,
	INS
};

static void *use_port(void *argument)
{
	uint16_t port = (uint16_t)(uintptr_t)argument;
	uint64_t count = 4;

	switch ((enum port_access)((uintptr_t)argument >> 16)) {
	case OUT8:
		__asm__ volatile("outb %%al, %%dx" ::"a"(0xff), "d"(port), "c"(0));
		break;
	case OUT16:
		__asm__ volatile("outw %%ax, %%dx" ::"a"(0xff), "d"(port), "c"(0));
		break;
	case OUT32:
		__asm__ volatile("outl %%eax, %%dx" ::"a"(0xff), "d"(port), "c"(0));
		break;
	case IN8:
		__asm__ volatile("inb %%dx, %%al" : : "d"(port) : "eax");
		break;
	case IN16:
		__asm__ volatile("inw %%dx, %%ax" : : "d"(port) : "eax");
		break;
	case IN32:
		__asm__ volatile("inl %%dx, %%eax" : : "d"(port) : "eax");
		break;
	case OUTS:
		__asm__ volatile("rep outsb" : "+c"(count) : "d"(port), "S"(scratch) : "memory");
		break;
	case INS:
		__asm__ volatile("rep insb" : "+c"(count) : "d"(port), "D"(scratch) : "memory");
		break;
	}
	return (void *)1;
}

static struct life at_port(enum port_access access, unsigned port)
{
	return live_run_bare(use_port, (void *)((uintptr_t)access << 16 | port));
}

static void ports(void)
{
	static const unsigned more[] = { 0x100, 0x170, 0x1f0, 0x278,  0x2f8,  0x3c0,  0x3f8,  0x402,  0x510,
					 0xb2,  0xcf8, 0xcfc, 0x5658, 0x5659, 0x7fff, 0x8000, 0xfffe, 0xffff };

	live_init();
	for (unsigned port = 0; port < 0x100 + sizeof(more) / sizeof(*more); port++) {
		unsigned number = port < 0x100 ? port : more[port - 0x100];
		bool allowed = live_io_exit() && (number == PORT_SYSTEM_CALL || number == PORT_SERVICE);

		if (!allowed) {
			ASSERT_EXCEPTION(at_port(OUT8, number), GENERAL_PROTECTION, 0);
			ASSERT_EXCEPTION(at_port(IN8, number), GENERAL_PROTECTION, 0);
		}
		if (number != PORT_SYSTEM_CALL || !live_io_exit())
			ASSERT_EXCEPTION(at_port(OUT16, number), GENERAL_PROTECTION, 0);
		ASSERT_EXCEPTION(at_port(OUT32, number), GENERAL_PROTECTION, 0);
		ASSERT_EXCEPTION(at_port(IN32, number), GENERAL_PROTECTION, 0);
	}
	ASSERT_RETURNED(live_run_bare(body_nothing, (void *)7), 7);
}

/* Blocks in read() with every register set; afterwards only RAX, RCX and R11 may have changed.  Returns what read()
 * answered, or 1000 + the number of the first register that differs. */
static void *read_with_registers(void *fd)
{
	static uint8_t buffer[64];
	uint64_t bad = 0, answer = SYS_read;

	__asm__ volatile(
		"pushq %%rbx; pushq %%rbp;"
		"movq $0xb0b, %%rbx; movq $0xbbb, %%rbp; movq $0x808, %%r8; movq $0x909, %%r9; movq $0xa0a, %%r10;"
		"movq $0xc0c, %%r12; movq $0xd0d, %%r13; movq $0xe0e, %%r14; movq $0xf0f, %%r15;"
		"syscall;"
		"cmpq $0xb0b, %%rbx; movl $1, %%ecx; jne 1f; cmpq $0xbbb, %%rbp; movl $2, %%ecx; jne 1f;"
		"cmpq $0x808, %%r8; movl $3, %%ecx; jne 1f; cmpq $0x909, %%r9; movl $4, %%ecx; jne 1f;"
		"cmpq $0xa0a, %%r10; movl $5, %%ecx; jne 1f; cmpq $0xc0c, %%r12; movl $6, %%ecx; jne 1f;"
		"cmpq $0xd0d, %%r13; movl $7, %%ecx; jne 1f; cmpq $0xe0e, %%r14; movl $8, %%ecx; jne 1f;"
		"cmpq $0xf0f, %%r15; movl $9, %%ecx; jne 1f; cmpq $64, %%rdx; movl $10, %%ecx; jne 1f;"
		"xorl %%ecx, %%ecx; 1: popq %%rbp; popq %%rbx"
		: "+a"(answer), "=&c"(bad), "+D"(fd)
		: "S"(buffer), "d"(64)
		: "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
	return (void *)(bad ? 1000 + bad : answer);
}

/* Uses of the two open ports that the trampoline does not make. */
static void open_ports(void)
{
	static const struct {
		enum port_access access;
		unsigned port;
	} uses[] = { { IN8, PORT_SYSTEM_CALL },  { IN8, PORT_SERVICE },      { OUT16, PORT_SYSTEM_CALL },
		     { IN16, PORT_SYSTEM_CALL }, { OUTS, PORT_SYSTEM_CALL }, { OUTS, PORT_SERVICE },
		     { INS, PORT_SYSTEM_CALL },  { INS, PORT_SERVICE } };

	live_init();
	if (!live_io_exit())
		HARNESS_SKIP("no port is open to ring 3 on this host");
	for (size_t i = 0; i < sizeof(uses) / sizeof(*uses); i++) {
		int ends[2];
		sthread_t st;
		sc_t sc;

		ASSERT_EQUAL(pipe(ends), 0);
		sc_init(&sc);
		sc_fd_add(&sc, ends[0], PROT_READ);
		ASSERT_EQUAL(live_create(&st, &sc, read_with_registers, (void *)(intptr_t)ends[0]), 0);

		struct life life = at_port(uses[i].access, uses[i].port);

		/* An OUT of strings is an OUT with forged registers; the rest cannot go on. */
		if (uses[i].access != OUTS) {
			ASSERT_END(life, STHREAD_HOST_FAILURE);
			ASSERT_EQUAL(life.info.system_call, KVM_EXIT_IO);
		}
		/* What the attacker left behind is not finished in one that was parked, nor in a new one. */
		ASSERT_EQUAL(write(ends[1], "0123456789", 10), 10);
		ASSERT_EQUAL(live_step(st), 0);
		ASSERT_RETURNED(live_join(st), 10);
		at_port(uses[i].access, uses[i].port);
		ASSERT_RETURNED(live_run_bare(body_nothing, (void *)0x1234567), 0x1234567);
		ASSERT_RETURNED(live_run_bare(body_read, (void *)scratch), 0);
		close(ends[0]);
		close(ends[1]);
		sc_destroy(&sc);
	}
}

static const struct harness_test tests[] = {
	{ "no port can be used but the two exits", ports, HARNESS_FORK },
	{ "input and strings at the exit ports end the sthread and reach nobody else", open_ports, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
