/*
 * bench.c - a ladder of costs, from a function call to an HTTPS request, measured in one run.
 *
 * bench [--quick] [--rounds=N] [--json=FILE] [--httpd=PROGRAM]
 * Prints a table, and writes the same as FILE (default: bench.json).  Nothing is asserted: the sizes that are aimed at
 * are printed beside.  What the rows mean: docs/benchmarks.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "callgate.h"
#include "dirty.h"
#include "dirty_sizes.h"
#include "dune.h"
#include "https.h"
#include "kvm/vcpu.h"
#include "measure.h"
#include "parallel.h"

#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

enum {
	BLOCKS = 20,
	CALLS = 1000,
	GATE_CALLS = 64,
	MESSAGE = 256
};

enum {
	FUNCTION,
	GETPPID,
	FORK_10M,
	FORK_1G,
	THREAD,
	BARE_EXIT,
	LIFE,
	LIFE_FRESH,
	LIFE_1G_BEFORE,
	LIFE_1G_AFTER,
	LIFE_DIRTY,
	LIFE_DIRTIES_0, /* DIRTY_SIZES of each, in the same order */
	LIFE_DIRTIES_8,
	LIFE_DIRTIES_32,
	LIFE_DIRTIES_128,
	LIFE_DIRTIES_256,
	LIFE_DIRTIES_512,
	FORK_DIRTIES_0,
	FORK_DIRTIES_8,
	FORK_DIRTIES_32,
	FORK_DIRTIES_128,
	FORK_DIRTIES_256,
	FORK_DIRTIES_512,
	STEP,
	GATE,
	GATE_BUFFER,
	SERIAL,
	PARALLEL,
	HTTPS_NEW_NONE,
	HTTPS_NEW,
	HTTPS_KEEP_NONE,
	HTTPS_KEEP,
	RUNGS
};

static const unsigned dirty_sizes[] = { 0, 8, 32, 128, 256, 512 };
enum {
	DIRTY_SIZES = sizeof dirty_sizes / sizeof *dirty_sizes
};

/* Named for bench/plots.sh. */
#define DIRTIES(pages)                                                                                            \
	[FORK_DIRTIES_##pages] = { "fork, " #pages " heap pages dirtied",                                         \
				   "fork() with 10 MiB resident; the child writes to them and ends; waitpid()" }, \
	[LIFE_DIRTIES_##pages] = { "sthread life, " #pages " heap pages dirtied",                                 \
				   "recycled, 10 MiB resident; the body writes to them",                          \
				   { { &rungs[FORK_DIRTIES_##pages] } } }

static const struct rung rungs[RUNGS] = {
	[FUNCTION] = { "function call", "a call, through a pointer, of a function that does nothing" },
	[GETPPID] = { "getppid", "a system call that does next to nothing", { { &rungs[FUNCTION] } } },
	[FORK_10M] = { "fork + wait, 10 MiB resident",
		       "fork() in a process with 10 MiB touched; the child ends at once; waitpid()" },
	[FORK_1G] = { "fork + wait, 1 GiB resident",
		      "the same with 1 GiB touched, in 4 KiB pages",
		      { { &rungs[FORK_10M] } } },
	[THREAD] = { "pthread create + join", "a thread that does nothing", { { &rungs[FORK_10M] } } },
	[BARE_EXIT] = { "bare exit",
			"ring 3 reads a byte and asks the supervisor; one KVM_RUN, registers in and out",
			{ { &rungs[GETPPID] } } },
	[LIFE] = { "sthread life, recycled",
		   "sthread_create() and sthread_join() of an empty body, 10 MiB resident",
		   { { &rungs[BARE_EXIT], 1.5 }, { &rungs[FORK_10M], 1.0 / 3 } } },
	[LIFE_FRESH] = { "sthread life, new address space",
			 "the same, in an address space that is made for it",
			 { { &rungs[LIFE] }, { &rungs[FORK_10M] } } },
	[LIFE_1G_BEFORE] = { "sthread life, 1 GiB before",
			     "recycled; 1 GiB touched before sthread_init(), all of it in the snapshot",
			     { { &rungs[BARE_EXIT], 1.5 }, { &rungs[FORK_1G], 1.0 / 3 } } },
	[LIFE_1G_AFTER] = { "sthread life, 1 GiB after",
			    "recycled; 1 GiB touched after sthread_init()",
			    { { &rungs[BARE_EXIT], 1.5 }, { &rungs[FORK_1G], 1.0 / 3 } } },
	[LIFE_DIRTY] = { "sthread life, 8 pages dirtied",
			 "recycled; the body writes to 2 global, 2 heap, 1 thread-local, 3 stack pages",
			 { { &rungs[LIFE] } } },
	DIRTIES(0),
	DIRTIES(8),
	DIRTIES(32),
	DIRTIES(128),
	DIRTIES(256),
	DIRTIES(512),
	[STEP] = { "sthread_step + park", "a parked sthread goes on and parks again", { { &rungs[BARE_EXIT] } } },
	[GATE] = { "callgate call",
		   "cgate_call() of a long-lived gate from inside, one of 64 in a life, and 1/64 of that life",
		   { { &rungs[BARE_EXIT] } } },
	[GATE_BUFFER] = { "callgate call with a message",
			  "cgate_call_buf() with 256 bytes each way, otherwise the same",
			  { { &rungs[GATE] } } },
	[SERIAL] = { "two computing sthreads, in turn",
		     "two lives of 10 million steps each, one after the other on one host thread" },
	[PARALLEL] = { "two computing sthreads, at once",
		       "the same on two host threads; meaningless with one processor",
		       { { &rungs[SERIAL], 0.6 } } },
	[HTTPS_NEW_NONE] = { "HTTPS, new connection, none",
			     "connect, TLS 1.3 handshake, GET of 1 KiB, close; --isolation=none" },
	[HTTPS_NEW] = { "HTTPS, new connection, sthread",
			"the same; --isolation=sthread",
			{ { &rungs[HTTPS_NEW_NONE] } } },
	[HTTPS_KEEP_NONE] = { "HTTPS, keep-alive, none", "GET of 1 KiB in an open connection; --isolation=none" },
	[HTTPS_KEEP] = { "HTTPS, keep-alive, sthread",
			 "the same; --isolation=sthread; a life for each request",
			 { { &rungs[HTTPS_KEEP_NONE] } } },
};

static struct {
	bool quick;
	unsigned rounds;
	const char *json, *httpd;
} options = { .rounds = 3, .json = "bench.json", .httpd = "./sthread-httpd" };

/* ---- the process as it is -------------------------------------------------------------------------- */

static __attribute__((noinline)) void do_nothing(void)
{
	__asm__ volatile("");
}

static void (*volatile nothing)(void) = do_nothing;

static void run_function(void *argument)
{
	(void)argument;
	for (int i = 0; i < CALLS; i++)
		nothing();
}

static void run_getppid(void *argument)
{
	(void)argument;
	for (int i = 0; i < CALLS; i++)
		syscall(SYS_getppid);
}

static void run_fork(void *argument)
{
	(void)argument;
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	if (child < 0 || waitpid(child, NULL, 0) != child)
		measure_fail("fork: %s", strerror(errno));
}

static void *thread_body(void *argument)
{
	return argument;
}

static void run_thread(void *argument)
{
	pthread_t thread;
	(void)argument;
	if (pthread_create(&thread, NULL, thread_body, NULL) != 0 || pthread_join(thread, NULL) != 0)
		measure_fail("no thread");
}

static unsigned blocks(void)
{
	return options.quick ? 2 : BLOCKS;
}

static void group_process(struct measurement *measurement, void *argument)
{
	const struct operation operations[] = {
		{ &rungs[FUNCTION], run_function, .inner = CALLS, .warm = 2 },
		{ &rungs[GETPPID], run_getppid, .inner = CALLS, .samples = 20, .warm = 1 },
		{ &rungs[FORK_10M], run_fork, .warm = 2 },
		{ &rungs[THREAD], run_thread, .warm = 2 },
	};
	(void)argument;
	measure_make_resident(10 * MIB);
	measure_operations(measurement, operations, sizeof operations / sizeof *operations, blocks());
}

static void group_fork_large(struct measurement *measurement, void *argument)
{
	const struct operation operation = { &rungs[FORK_1G], run_fork, .samples = options.quick ? 2 : 20, .warm = 1 };
	(void)argument;
	measure_make_resident(GIB);
	measure_operations(measurement, &operation, 1, 1);
}

/* ---- the bare exit --------------------------------------------------------------------------------- */

static struct {
	struct dune_machine *machine;
	struct dune_vcpu *vcpu;
	struct dune_context context;
	uint64_t data;
} bare;

/* An address space with one page, which ring 3 may read. */
static void prepare_bare_exit(void)
{
	bare.machine = dune_machine_get();
	bare.vcpu = bare.machine ? dune_vcpu_get(bare.machine) : NULL;
	uint64_t root = bare.vcpu ? dune_root_new(bare.machine) : 0, frame = root ? dune_frame_new(bare.machine) : 0;
	if (!frame)
		measure_fail("%s", dune_error());
	bare.data = bare.machine->window + WINDOW_USER;
	uint64_t *entry = dune_tables_entry(&bare.machine->tables, root, bare.data, true);
	if (!entry)
		measure_fail("no page table");
	*entry = frame | DUNE_PTE_PRESENT | DUNE_PTE_USER | DUNE_PTE_NO_EXECUTE;
	dune_context_start(&bare.context, UINT64_MAX - 1, root);
}

static void run_bare_exit(void *argument)
{
	struct dune_exit exit;
	(void)argument;
	bare.context.regs = (struct kvm_regs){ .rip = bare.machine->trampoline_touch,
					       .rdi = bare.data,
					       .r13 = bare.machine->trampoline_service };
	do
		dune_vcpu_run(bare.vcpu, &bare.context, &exit);
	while (exit.kind == DUNE_EXIT_KICKED);
	if (exit.kind != DUNE_EXIT_SERVICE)
		measure_fail("the bare exit was something else: %d", (int)exit.kind);
}

/* ---- sthreads -------------------------------------------------------------------------------------- */

struct life {
	sc_t policy;
	stcb_t body;
	void *argument;
};

static void run_life(void *argument)
{
	const struct life *life = argument;
	sthread_t sthread;
	void *result;
	if (sthread_create(&sthread, &life->policy, life->body, life->argument) != 0)
		measure_fail("%s", sthread_error());
	if (sthread_join(sthread, &result) != 0 || result)
		measure_fail("an sthread did not end as it should");
}

static void *empty_body(void *argument)
{
	return argument;
}

static void *dirty_body(void *argument)
{
	(void)argument;
	return (void *)(uintptr_t)dirty_pages();
}

static void *parking_body(void *argument)
{
	while (sthread_park() == 0)
		;
	return argument;
}

/* Parks if it is told to: keeps an address space in use. */
static void *keeping_body(void *argument)
{
	if (argument)
		sthread_park();
	return NULL;
}

/* The same, and makes sure that it was the first life of its address space. */
static void run_first_life(void *argument)
{
	const struct life *life = argument;
	struct sthread_info info;
	sthread_t sthread;
	if (sthread_create(&sthread, &life->policy, life->body, life->argument) != 0)
		measure_fail("%s", sthread_error());
	if (sthread_join_info(sthread, NULL, &info) != 0 || info.recycled)
		measure_fail("the library did not make a new address space");
}

/* Takes the address space that the life before has left, so that the next one needs another. */
static void keep_idle_space(void *argument)
{
	const struct life *life = argument;
	sthread_t kept;
	if (sthread_create(&kept, &life->policy, life->body, (void *)1) != 0)
		measure_fail("%s", sthread_error());
}

static void run_step(void *argument)
{
	if (sthread_step(*(sthread_t *)argument) != 0)
		measure_fail("%s", sthread_error());
}

static void *gate_entry(void *argument, void *trusted)
{
	(void)trusted;
	return argument;
}

static void *gate_message_entry(void *argument, void *trusted)
{
	struct cgate_buffer *message = argument;
	(void)trusted;
	memcpy(message->out, message->in, message->inlen);
	message->outlen = message->inlen;
	return NULL;
}

static void *calling_body(void *argument)
{
	cgate_t gate = (cgate_t)(intptr_t)argument;
	uintptr_t bad = 0;
	for (int i = 0; i < GATE_CALLS; i++) {
		void *result;
		bad += cgate_call(gate, argument, &result) != 0 || result != argument;
	}
	return (void *)bad;
}

static void *message_body(void *argument)
{
	uint8_t in[MESSAGE] = { 1 }, out[MESSAGE];
	uintptr_t bad = 0;
	for (int i = 0; i < GATE_CALLS; i++) {
		size_t size = sizeof out;
		bad += cgate_call_buf((cgate_t)(intptr_t)argument, in, sizeof in, out, &size) != 0 || size != sizeof in;
	}
	return (void *)bad;
}

static void start_library(void)
{
	if (sthread_init() != 0)
		measure_fail("%s", sthread_error());
	prepare_bare_exit();
}

/* A life that calls a gate of its own. */
static struct life gate_life(cgate_fn entry, stcb_t body)
{
	struct life life = { .body = body };
	sc_t nothing_granted;
	sc_init(&nothing_granted);
	sc_init(&life.policy);
	cgate_t gate = cgate_create(entry, &nothing_granted, NULL);
	if (gate < 0)
		measure_fail("%s", sthread_error());
	sc_cgate_add(&life.policy, gate);
	life.argument = (void *)(intptr_t)gate;
	return life;
}

static void group_sthreads(struct measurement *measurement, void *argument)
{
	struct fact *snapshot = argument;
	struct sthread_statistics statistics;
	struct life empty = { .body = empty_body }, dirty = { .body = dirty_body }, keeping = { .body = keeping_body };
	sthread_t parked;
	dirty_prepare();
	measure_make_resident(10 * MIB);
	start_library();
	sc_init(&empty.policy);
	dirty.policy = keeping.policy = empty.policy;
	struct life gate = gate_life(gate_entry, calling_body);
	struct life message = gate_life(gate_message_entry, message_body);
	if (sthread_create(&parked, &empty.policy, parking_body, NULL) != 0)
		measure_fail("%s", sthread_error());
	const struct operation operations[] = {
		{ &rungs[BARE_EXIT], run_bare_exit, .warm = 5 },
		{ &rungs[LIFE], run_life, &empty, .warm = 5 },
		{ &rungs[LIFE_DIRTY], run_life, &dirty, .warm = 5 },
		{ &rungs[STEP], run_step, &parked, .warm = 5 },
		{ &rungs[GATE], run_life, &gate, .inner = GATE_CALLS, .samples = 5, .warm = 1 },
		{ &rungs[GATE_BUFFER], run_life, &message, .inner = GATE_CALLS, .samples = 5, .warm = 1 },
		/* Few: with many address spaces the library lets lives of one kind take over those of another. */
		{ &rungs[LIFE_FRESH], run_first_life, &keeping, .samples = 2, .between = keep_idle_space },
	};
	measure_operations(measurement, operations, sizeof operations / sizeof *operations, blocks());
	if (sthread_statistics(&statistics) == 0)
		snprintf(snapshot->text, sizeof snapshot->text, "%llu", (unsigned long long)statistics.snapshot_pages);
}

static void group_parallel(struct measurement *measurement, void *argument)
{
	const struct operation operations[] = {
		{ &rungs[SERIAL], run_serially, .samples = 2, .warm = 1 },
		{ &rungs[PARALLEL], run_in_parallel, .samples = 2, .warm = 1 },
	};
	(void)argument;
	start_library();
	parallel_prepare();
	measure_operations(measurement, operations, sizeof operations / sizeof *operations, options.quick ? 2 : 5);
}

/* 1 GiB before or after sthread_init(). */
static void group_large(struct measurement *measurement, void *argument)
{
	const struct rung *rung = argument;
	struct life empty = { .body = empty_body };
	if (rung == &rungs[LIFE_1G_BEFORE])
		measure_make_resident(GIB);
	start_library();
	if (rung == &rungs[LIFE_1G_AFTER])
		measure_make_resident(GIB);
	sc_init(&empty.policy);
	const struct operation operations[] = {
		{ &rungs[BARE_EXIT], run_bare_exit, .warm = 5 },
		{ rung, run_life, &empty, .warm = 5 },
	};
	measure_operations(measurement, operations, sizeof operations / sizeof *operations, blocks());
}

static void group_dirty(struct measurement *measurement, void *argument)
{
	size_t size = (size_t)(uintptr_t)argument;
	dirty_sizes_measure(measurement, dirty_sizes[size], &rungs[FORK_DIRTIES_0 + size],
			    &rungs[LIFE_DIRTIES_0 + size], (blocks() + 1) / 2);
}

/* ---- HTTPS ----------------------------------------------------------------------------------------- */

static void group_https(struct measurement *measurement, void *argument)
{
	const struct https_run runs[] = {
		{ .isolation = "none", .rung = &rungs[HTTPS_NEW_NONE] },
		{ .isolation = "sthread", .rung = &rungs[HTTPS_NEW] },
		{ .isolation = "none", .rung = &rungs[HTTPS_KEEP_NONE], .keep_alive = true },
		{ .isolation = "sthread", .rung = &rungs[HTTPS_KEEP], .keep_alive = true },
	};
	(void)argument;
#ifdef BENCH_HTTPS
	https_prepare();
	for (unsigned i = 0; i < sizeof runs / sizeof *runs; i++) {
		struct https_run run = runs[i];
		run.program = options.httpd;
		run.warm = options.quick ? 5 : 50;
		run.samples = options.quick ? 10 : 500;
		https_measure(measurement, &run);
	}
	https_clean_up();
#else
	(void)measurement;
	(void)runs;
	measure_fail("built without the demo");
#endif
}

/* ---- the run --------------------------------------------------------------------------------------- */

enum {
	PROCESSOR,
	RING0,
	PAGING,
	SYSTEM,
	SNAPSHOT,
	ROUNDS,
	FACTS
};

static void group_facts(struct measurement *measurement, void *argument)
{
	struct fact *facts = argument;
	struct dune_host host;
	(void)measurement;
	if (dune_probe(&host) != 0)
		measure_fail("%s", dune_error());
	snprintf(facts[PROCESSOR].text, sizeof facts->text, "%s, %ld CPUs", host.vendor, sysconf(_SC_NPROCESSORS_ONLN));
	snprintf(facts[RING0].text, sizeof facts->text, "%s", host.ring0_native ? "native" : "interpreted");
	snprintf(facts[PAGING].text, sizeof facts->text, "%s", host.shadow_paging ? "shadow" : "two-dimensional");
	snprintf(facts[SYSTEM].text, sizeof facts->text, "%s",
		 host.exit_path == DUNE_EXIT_IO_BITMAP ? "OUT" : "software interrupt");
}

static bool enough_memory(void)
{
	return (size_t)sysconf(_SC_AVPHYS_PAGES) * 4096 > 3 * GIB;
}

static void run_round(struct measurement *measurement, struct fact *facts)
{
	static const struct rung *const process[] = { &rungs[FUNCTION], &rungs[GETPPID], &rungs[FORK_10M],
						      &rungs[THREAD], NULL };
	static const struct rung *const sthreads[] = { &rungs[BARE_EXIT],   &rungs[LIFE], &rungs[LIFE_FRESH],
						       &rungs[LIFE_DIRTY],  &rungs[STEP], &rungs[GATE],
						       &rungs[GATE_BUFFER], NULL };
	static const struct rung *const https[] = { &rungs[HTTPS_NEW_NONE], &rungs[HTTPS_NEW], &rungs[HTTPS_KEEP_NONE],
						    &rungs[HTTPS_KEEP], NULL };
	static const struct rung *const parallel[] = { &rungs[SERIAL], &rungs[PARALLEL], NULL };
	static const unsigned large[] = { LIFE_1G_BEFORE, LIFE_1G_AFTER };
	const struct rung *const fork_large[] = { &rungs[FORK_1G], NULL };
	measure_in_child(measurement, group_process, NULL, process);
	measure_in_child(measurement, group_sthreads, &facts[SNAPSHOT], sthreads);
	for (size_t i = 0; i < DIRTY_SIZES; i++) {
		const struct rung *const dirty[] = { &rungs[FORK_DIRTIES_0 + i], &rungs[LIFE_DIRTIES_0 + i], NULL };
		measure_in_child(measurement, group_dirty, (void *)(uintptr_t)i, dirty);
	}
	measure_in_child(measurement, group_parallel, NULL, parallel);
	if (enough_memory()) {
		measure_in_child(measurement, group_fork_large, NULL, fork_large);
		for (unsigned i = 0; i < 2; i++) {
			const struct rung *const one[] = { &rungs[large[i]], NULL };
			measure_in_child(measurement, group_large, (void *)one[0], one);
		}
	}
	measure_in_child(measurement, group_https, NULL, https);
}

static _Noreturn void explain(void)
{
	fprintf(stderr, "Usage: bench [--quick] [--rounds=1..10] [--json=FILE] [--httpd=PROGRAM]\n");
	exit(2);
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "quick", no_argument, NULL, 'q' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "json", required_argument, NULL, 'j' },
		{ "httpd", required_argument, NULL, 'h' },
		{ 0 },
	};
	for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		switch (option) {
		case 'q':
			options.quick = true;
			break;
		case 'r':
			options.rounds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'j':
			options.json = optarg;
			break;
		case 'h':
			options.httpd = optarg;
			break;
		default:
			explain();
		}
	}
	if (optind != argc || !options.rounds || options.rounds > 10)
		explain();
	if (options.quick)
		options.rounds = 1;
}

int main(int argc, char **argv)
{
	struct measurement measurement;
	static const struct rung *const nothing_wanted[] = { NULL };
	parse(argc, argv);
	measure_start(&measurement, rungs, RUNGS);
	struct fact *facts =
		mmap(NULL, FACTS * sizeof *facts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (facts == MAP_FAILED) {
		perror("bench");
		return 1;
	}
	const struct fact initial[FACTS] = {
		[PROCESSOR] = { "processor", "no KVM" },
		[RING0] = { "ring 0", "-" },
		[PAGING] = { "paging", "-" },
		[SYSTEM] = { "exit from ring 3", "-" },
		[SNAPSHOT] = { "snapshot pages, 10 MiB", "-" },
		[ROUNDS] = { "rounds", "" },
	};
	memcpy(facts, initial, sizeof initial);
	snprintf(facts[ROUNDS].text, sizeof facts->text, "%u", options.rounds);
	measure_in_child(&measurement, group_facts, facts, nothing_wanted);
	for (unsigned round = 1; round <= options.rounds; round++) {
		fprintf(stderr, "round %u of %u\n", round, options.rounds);
		run_round(&measurement, facts);
	}
	measure_print(&measurement, facts, FACTS);
	if (measure_write_json(&measurement, facts, FACTS, options.json) != 0) {
		fprintf(stderr, "bench: cannot write %s: %s\n", options.json, strerror(errno));
		return 1;
	}
	return 0;
}
