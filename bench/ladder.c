/* ladder.c - the rungs of bench.  See ladder.h; what rows mean in detail: docs/benchmarks.md. */
#include "ladder.h"

#include "https.h"

const unsigned dirty_sizes[DIRTY_SIZES] = { 0, 8, 32, 128, 256, 512 };
const unsigned switch_sizes[SWITCH_SIZES] = { 1, 30, 100, 300 };
const unsigned live_sizes[LIVE_SIZES] = { 1, 10, 100, 1000, 10000 };

struct ladder_options ladder = { .rounds = 3, .httpd = HTTPS_PROGRAM };

unsigned ladder_blocks(void)
{
	return ladder.quick ? 2 : 20;
}

/* Names are known to bench/plots.sh. */
#define DIRTIES(pages, at, heading)                                                                                     \
	[LIFE_DIRTIES +                                                                                                 \
		(at)] = { "sthread life, " #pages " heap pages dirtied",                                                \
			  "recycled, 10 MiB resident; the body writes to them",                                         \
			  { { &rungs[FORK_DIRTIES + (at)] } },                                                          \
			  .section = (heading) },                                                                       \
		[FORK_DIRTIES +                                                                                         \
			(at)] = { "fork, " #pages " heap pages dirtied",                                                \
				  "fork() with 10 MiB resident; the child writes to them and ends; waitpid()" },        \
		[MEMCPY +                                                                                               \
			(at)] = { "memcpy, " #pages " pages",                                                           \
				  "so many pages of 4 KiB, one by one, from as many sources to as many destinations" }, \
		[STORES + (at)] = { "stores, " #pages " heap pages",                                                    \
				    "the body of the lives above, in the process itself" }

#define TOUCHES(pages, at, heading)                                                                             \
	[GATE_TOUCHES + (at)] = { "gate call + return, pages touched: " #pages,                                 \
				  "cgate_call(); before it the caller, in it the gate writes to its own pages", \
				  { { &rungs[FUTEX_TOUCHES + (at)] }, { &rungs[GATE] } },                       \
				  .section = (heading) },                                                       \
			[FUTEX_TOUCHES + (at)] = {                                                              \
				"futex round trip, pages touched: " #pages,                                     \
				"two processes on one processor; each writes to its own pages, wakes, waits"    \
			}

#define LIVES(count, at, heading)                                                           \
	[LIVE + (at)] = { "step, sthreads alive: " #count,                                  \
			  "sthread_step() of one of so many parked ones, each in its turn", \
			  { { &rungs[BARE_EXIT] }, { &rungs[LIVE] } },                      \
			  .section = (heading) }

const struct rung rungs[RUNGS] = {
	[FUNCTION] = { "function call", "a call, through a pointer, of a function that does nothing",
		       .section = "the process as it is" },
	[GETPPID] = { "getppid", "a system call that does next to nothing", { { &rungs[FUNCTION] } } },
	[THREAD] = { "pthread create + join", "a thread that does nothing", { { &rungs[FORK_10M] } } },
	[PING_PONG] = { "futex ping-pong, two processes",
			"one wakes the other and waits for its answer; both on one processor: what a pool of processes "
			"costs" },
	[FORK_10M] = { "fork + wait, 10 MiB resident",
		       "fork() in a process with 10 MiB touched, in 4 KiB pages; the child ends at once; waitpid()" },
	[FORK_128M] = { "fork + wait, 128 MiB resident", "the same with 128 MiB", { { &rungs[FORK_10M] } } },
	[FORK_1G] = { "fork + wait, 1 GiB resident", "the same with 1 GiB", { { &rungs[FORK_10M] } } },
	[SPAWN_10M] = { "posix_spawn, 10 MiB resident",
			"posix_spawn() of a small static program that ends at once; waitpid()",
			{ { &rungs[FORK_10M] } } },
	[SPAWN_128M] = { "posix_spawn, 128 MiB resident", "the same with 128 MiB", { { &rungs[FORK_128M] } } },
	[SPAWN_1G] = { "posix_spawn, 1 GiB resident", "the same with 1 GiB", { { &rungs[FORK_1G] } } },

	[BARE_EXIT] = { "bare exit",
			"ring 3 reads a byte and asks the supervisor; one KVM_RUN, registers in and out",
			{ { &rungs[GETPPID] } },
			.section = "sthreads and gates" },
	[LIFE] = { "sthread life, recycled",
		   "sthread_create() and sthread_join() of an empty body, 10 MiB resident",
		   { { &rungs[BARE_EXIT], 1.25 }, { &rungs[FORK_10M], 1.0 / 4 }, { &rungs[SPAWN_10M] } } },
	[LIFE_FRESH] = { "sthread life, new address space",
			 "the same, in an address space that is made for it",
			 { { &rungs[LIFE] }, { &rungs[FORK_10M] } } },
	[LIFE_BESIDE] = { "sthread life, 10 MiB", "as above, in turns with the next two", { { &rungs[LIFE] } } },
	[LIFE_1G_BEFORE] = { "sthread life, 1 GiB before",
			     "recycled; 1 GiB touched before sthread_init(), all of it in the snapshot",
			     { { &rungs[LIFE_BESIDE], 1.1 }, { &rungs[FORK_1G], 1.0 / 100 } } },
	[LIFE_1G_AFTER] = { "sthread life, 1 GiB after",
			    "recycled; 1 GiB touched after sthread_init()",
			    { { &rungs[LIFE_BESIDE], 1.1 }, { &rungs[FORK_1G], 1.0 / 100 } } },
	[LIFE_DIRTY] = { "sthread life, 8 pages dirtied",
			 "recycled; the body writes to 2 global, 2 heap, 1 thread-local, 3 stack pages",
			 { { &rungs[LIFE] } } },
	[STEP] = { "sthread_step + park", "a parked sthread goes on and parks again", { { &rungs[BARE_EXIT] } } },
	[SERVED_CALL] = { "served call, getuid",
			  "one of 64 in a step, and 1/64 of that step",
			  { { &rungs[BARE_EXIT] }, { &rungs[GETPPID] } } },
	[SERVED_READ] = { "served call, read of 4 KiB",
			  "pread() of a granted file, one of 64 in a step, and 1/64 of that step",
			  { { &rungs[BARE_EXIT] } } },
	[GATE] = { "callgate call + return",
		   "cgate_call() of a long-lived gate from inside, one of 64 in a life, and 1/64 of that life",
		   { { &rungs[BARE_EXIT], 2.5 }, { &rungs[PING_PONG] } } },
	[GATE_BUFFER] = { "callgate call with a message",
			  "cgate_call_buf() with 256 bytes each way, otherwise the same",
			  { { &rungs[GATE] } } },

	DIRTIES(0, 0, "pages that a life writes to"),
	DIRTIES(8, 1, NULL),
	DIRTIES(32, 2, NULL),
	DIRTIES(128, 3, NULL),
	DIRTIES(256, 4, NULL),
	DIRTIES(512, 5, NULL),
	[PAGE_RESTORED] = { "each dirty page restored",
			    "computed: (life with 512 dirtied pages - life with 0) / 512; the body's stores are in it",
			    { { &rungs[PAGE_COPIED], 2.0 } } },
	[PAGE_COPIED] = { "each page by memcpy", "computed: memcpy of 512 pages / 512" },
	[PAGE_STORED] = { "each page stored to",
			  "computed: stores to 512 pages / 512, in the process: the part of a life that is not restoring" },

	TOUCHES(1, 0, "switches between working sets"),
	TOUCHES(30, 1, NULL),
	TOUCHES(100, 2, NULL),
	TOUCHES(300, 3, NULL),

	LIVES(1, 0, "many parked at a time"),
	LIVES(10, 1, NULL),
	LIVES(100, 2, NULL),
	LIVES(1000, 3, NULL),
	LIVES(10000, 4, NULL),

	[SERIAL] = { "two computing sthreads, in turn",
		     "two lives of 10 million steps each, one after the other on one host thread",
		     .section = "two processors" },
	[PARALLEL] = { "two computing sthreads, at once",
		       "the same on two host threads; meaningless with one processor",
		       { { &rungs[SERIAL], 1 / 1.7 } } },
	[LIVES_SERIAL] = { "2,000 empty sthreads, in turn", "one after the other on one host thread" },
	[LIVES_PARALLEL] = { "2,000 empty sthreads, at once",
			     "1,000 on each of two host threads, until both are done",
			     { { &rungs[LIVES_SERIAL], 1 / 1.7 } } },

	[HTTPS_NEW_NONE] = { "HTTPS, new connection, none",
			     "connect, TLS 1.3 handshake, GET of 1 KiB, close; --isolation=none",
			     .section = "a server: latency of one client" },
	[HTTPS_NEW] = { "HTTPS, new connection, sthread",
			"the same; --isolation=sthread",
			{ { &rungs[HTTPS_NEW_NONE] } } },
	[HTTPS_KEEP_NONE] = { "HTTPS, keep-alive, none", "GET of 1 KiB in an open connection; --isolation=none" },
	[HTTPS_KEEP] = { "HTTPS, keep-alive, sthread",
			 "the same; --isolation=sthread; a life for each request",
			 { { &rungs[HTTPS_KEEP_NONE] } } },
};
