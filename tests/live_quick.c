/*
 * live_quick.c - lives of kinds that a thread has run before: no lock, no allocation, no system call but KVM_RUN, and
 * everything that such a life relies on may go at any time.
 * Allocations and locks of the library are counted here (the linker's --wrap), system calls by a tracing parent.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "live.h"
#include "local.h"

enum {
	LIVES = 10 * LOCAL_HANDLES,
	FEW = 50,
	THREADS = 4
};

/* ---- counters ------------------------------------------------------------------------------------------------------ */

static unsigned long allocations, locks;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);
int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);

static void count(unsigned long *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

void *__wrap_malloc(size_t size)
{
	count(&allocations);
	return __real_malloc(size);
}

void *__wrap_calloc(size_t number, size_t size)
{
	count(&allocations);
	return __real_calloc(number, size);
}

void *__wrap_realloc(void *block, size_t size)
{
	count(&allocations);
	return __real_realloc(block, size);
}

void __wrap_free(void *block)
{
	count(&allocations);
	__real_free(block);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
	count(&locks);
	return __real_pthread_mutex_lock(mutex);
}

/* ---- bodies -------------------------------------------------------------------------------------------------------- */

static void *nothing(void *argument)
{
	return argument;
}

static void *park(void *argument)
{
	sthread_park();
	return argument;
}

static void *serve(void *argument, void *trusted)
{
	(void)trusted;
	return argument;
}

static void *call(void *gate)
{
	void *result = NULL;
	return cgate_call((cgate_t)(intptr_t)gate, (void *)7, &result) == 0 ? result : NULL;
}

static void *number_in_tag(void *at)
{
	return (void *)*(uint64_t *)at;
}

/* Whether a life goes the quick way: its create and join take no lock. */
static bool is_quick(const sc_t *sc, stcb_t body, void *argument)
{
	for (unsigned i = 0; i < FEW; i++) { /* a slice may end in the middle of it, or the stock of numbers with it */
		unsigned long before = locks;
		struct life life = live_run(sc, body, argument);
		if (life.error == 0 && locks == before)
			return true;
	}
	return false;
}

/* ---- what a life costs --------------------------------------------------------------------------------------------- */

/* Allocations of so many lives, the first of which are not counted. */
static unsigned long allocations_of(const sc_t *sc, stcb_t body, void *argument, unsigned lives)
{
	unsigned long before = 0;
	for (unsigned i = 0; i < LOCAL_HANDLES + lives; i++) {
		if (i == LOCAL_HANDLES)
			before = allocations;
		sthread_t st;
		ASSERT_EQUAL(sthread_create(&st, sc, body, argument), 0);
		/* Parked, or its slice is over. */
		enum sthread_state state = STHREAD_ENDED;
		while (sthread_state(st, &state) == 0 && state != STHREAD_ENDED)
			ASSERT_EQUAL(sthread_step(st), 0);
		ASSERT_EQUAL(sthread_join(st, NULL), 0);
	}
	return allocations - before;
}

/* An address space gets room for vector state the first time that a slice ends in it: then once more. */
static void check_allocations(const sc_t *sc, stcb_t body, void *argument)
{
	unsigned long made = 1;
	for (unsigned tries = 0; tries < 5 && made; tries++)
		made = allocations_of(sc, body, argument, LIVES);
	ASSERT_EQUAL(made, 0);
}

static void a_recycled_life_allocates_nothing(void)
{
	live_init();
	sc_t sc;
	sc_init(&sc);
	/* The table of handles grows until as many are free as shall rest. */
	allocations_of(&sc, nothing, NULL, 9000);
	check_allocations(&sc, nothing, NULL);
	check_allocations(&sc, park, NULL);
	cgate_t gate = cgate_create(serve, &sc, NULL);
	ASSERT_EQUAL(sc_cgate_add(&sc, gate), 0);
	check_allocations(&sc, call, (void *)(intptr_t)gate);
	/* Control: what allocates is seen. */
	unsigned long before = allocations;
	CU_ASSERT(tag_new() >= 0);
	CU_ASSERT(allocations > before);
}

static void a_recycled_life_takes_no_lock(void)
{
	live_init();
	sc_t sc, reading;
	sc_init(&sc);
	for (unsigned i = 0; i < LOCAL_HANDLES; i++)
		ASSERT_RETURNED(live_run(&sc, nothing, NULL), 0);
	unsigned long before = locks;
	uint64_t kicked = 0;
	for (unsigned i = 0; i < LIVES; i++) {
		struct life life = live_run(&sc, nothing, NULL);
		ASSERT_RETURNED(life, 0);
		kicked += life.info.exits > 1;
	}
	/* One for each stock of handles, or of instance numbers; a life before which pages may be forgotten goes the usual way; and
	 * one that its slice has stopped takes it as well. */
	live_check(locks - before <= LIVES / LOCAL_HANDLES + 2 + 8 * (LIVES / ADDRESS_SPACE_FORGET + 1) + 8 * kicked,
		   __FILE__, __LINE__, "%lu locks, %llu kicks", locks - before, (unsigned long long)kicked);
	/* Control: a policy with a file is not kept. */
	sc_init(&reading);
	ASSERT_EQUAL(sc_fd_add(&reading, STDIN_FILENO, PROT_READ), 0);
	before = locks;
	for (unsigned i = 0; i < LIVES; i++)
		ASSERT_RETURNED(live_run(&reading, nothing, NULL), 0);
	CU_ASSERT(locks - before >= 3 * LIVES);
	sc_destroy(&reading);
}

/* ---- system calls -------------------------------------------------------------------------------------------------- */

enum {
	MARK_BEGIN = 0x7001,
	MARK_END = 0x7002, /* the series was stopped by no slice */
	MARK_AGAIN = 0x7003,
	SERIES = 40
};

static void mark(long what)
{
	syscall(SYS_close, what); /* a descriptor that is not open */
}

static _Noreturn void traced(bool strange)
{
	sc_t sc;
	sthread_t st;
	struct sthread_info info;
	bool kicked = true;
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0 || sthread_init() != 0)
		_exit(3);
	raise(SIGSTOP);
	sc_init(&sc);
	for (unsigned i = 0; i < SERIES; i++)
		if (sthread_create(&st, &sc, nothing, NULL) != 0 || sthread_join(st, NULL) != 0)
			_exit(4);
	for (unsigned tries = 0; tries < 100 && kicked; tries++) {
		kicked = false;
		mark(MARK_BEGIN);
		for (unsigned i = 0; i < SERIES; i++) {
			if (sthread_create(&st, &sc, nothing, NULL) != 0 || sthread_join_info(st, NULL, &info) != 0)
				_exit(4);
			kicked = kicked || info.exits != 1;
			if (strange)
				syscall(SYS_getppid);
		}
		mark(kicked ? MARK_AGAIN : MARK_END);
	}
	_exit(kicked ? 5 : 0);
}

/* Of one series. */
struct seen {
	unsigned runs, random, timer, others;
	long last_other;
};

static void see(struct seen *seen, const struct __ptrace_syscall_info *call)
{
	switch (call->entry.nr) {
	case SYS_ioctl:
		if (call->entry.args[1] == KVM_RUN)
			seen->runs++;
		else
			seen->others++;
		break;
	case SYS_getrandom:
		seen->random++;
		break;
	case SYS_timer_settime: /* when a slice is set anew: */
	case SYS_rt_sigprocmask:
	case SYS_rt_sigreturn: /* and when the last one's end came between two lives */
		seen->timer++;
		break;
	default:
		seen->others++;
		seen->last_other = (long)call->entry.nr;
	}
}

/* Returns the status of the child; *seen is of the series that no slice has stopped. */
static int trace(bool strange, struct seen *seen)
{
	int status = 0, pass_on = 0;
	pid_t child = fork();
	if (child == 0)
		traced(strange);
	bool options = false, ended = false;
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
		struct __ptrace_syscall_info call = { 0 };
		pass_on = 0;
		if (!options) {
			options =
				ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0;
			pass_on = WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status);
		} else if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
			pass_on = WSTOPSIG(status);
		} else if (ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof(call), &call) > 0 &&
			   call.op == PTRACE_SYSCALL_INFO_ENTRY) {
			bool is_mark = call.entry.nr == SYS_close && call.entry.args[0] >= MARK_BEGIN &&
				       call.entry.args[0] <= MARK_AGAIN;
			if (is_mark && call.entry.args[0] == MARK_BEGIN)
				*seen = (struct seen){ 0 };
			else if (is_mark)
				ended = call.entry.args[0] == MARK_END;
			else if (!ended)
				see(seen, &call);
		}
		ptrace(PTRACE_SYSCALL, child, NULL, pass_on);
	}
	return status;
}

static void a_recycled_life_makes_no_system_call(void)
{
	struct seen seen = { 0 };
	ASSERT_EQUAL(trace(false, &seen), 0);
	ASSERT_EQUAL(seen.runs, SERIES);
	live_check(seen.others == 0, __FILE__, __LINE__, "%u other calls, the last is number %ld", seen.others,
		   seen.last_other);
	CU_ASSERT(seen.random <= 1);
	/* Control: a call is noticed. */
	ASSERT_EQUAL(trace(true, &seen), 0);
	ASSERT_EQUAL(seen.others, SERIES);
}

/* ---- what goes meanwhile ------------------------------------------------------------------------------------------- */

static void what_a_policy_names_is_missed(void)
{
	live_init();
	sc_t with_tag, with_gate, none;
	sthread_t st;
	tag_t tag = tag_new();
	uint64_t *number = smalloc(tag, sizeof *number);
	*number = 5;
	sc_init(&with_tag);
	sc_init(&with_gate);
	sc_init(&none);
	ASSERT_EQUAL(sc_mem_add(&with_tag, tag, PROT_READ), 0);
	CU_ASSERT(is_quick(&with_tag, number_in_tag, number));
	ASSERT_EQUAL(tag_delete(tag), 0);
	ASSERT_ERROR(sthread_create(&st, &with_tag, number_in_tag, number) == -1, EBADF);

	cgate_t gate = cgate_create(serve, &none, NULL);
	ASSERT_EQUAL(sc_cgate_add(&with_gate, gate), 0);
	CU_ASSERT(is_quick(&with_gate, nothing, NULL));
	ASSERT_EQUAL(cgate_destroy(gate), 0);
	ASSERT_ERROR(sthread_create(&st, &with_gate, nothing, NULL) == -1, EBADF);

	/* Gone while a life lasts: the kind is not kept after it. */
	tag = tag_new();
	sc_init(&with_tag);
	ASSERT_EQUAL(sc_mem_add(&with_tag, tag, PROT_READ), 0);
	ASSERT_EQUAL(live_create(&st, &with_tag, park, NULL), 0);
	ASSERT_EQUAL(tag_delete(tag), 0);
	ASSERT_EQUAL(live_step(st), 0);
	ASSERT_RETURNED(live_join(st), 0);
	ASSERT_ERROR(sthread_create(&st, &with_tag, park, NULL) == -1, EBADF);
}

static void a_frozen_policy_lets_go_of_its_files(void)
{
	live_init();
	sc_t sc;
	sthread_t st;
	int ends[2];
	char byte;
	ASSERT_EQUAL(pipe(ends), 0);
	sc_init(&sc);
	ASSERT_EQUAL(sc_fd_add(&sc, ends[1], PROT_WRITE), 0);
	sc_frozen_t frozen = sc_freeze(&sc, 1);
	sc_destroy(&sc);
	close(ends[1]);
	unsigned long before = 0;
	for (unsigned i = 0; i < 2 * FEW; i++) {
		if (i == FEW)
			before = locks;
		ASSERT_EQUAL(sthread_create_frozen(&st, frozen, nothing, NULL), 0);
		ASSERT_EQUAL(sthread_join(st, NULL), 0);
	}
	CU_ASSERT(locks - before < 2 * FEW); /* control: they went the quick way */
	ASSERT_EQUAL(sc_frozen_destroy(frozen), 0);
	ASSERT_EQUAL(read(ends[0], &byte, 1), 0); /* nobody holds the other end */
	ASSERT_ERROR(sthread_create_frozen(&st, frozen, nothing, NULL) == -1, EBADF);
	close(ends[0]);
}

static void handles_stay_what_they_are(void)
{
	live_init();
	sc_t sc;
	sthread_t st[LOCAL_ENDED + 4], old;
	void *result;
	sc_init(&sc);
	CU_ASSERT(is_quick(&sc, nothing, NULL));
	ASSERT_EQUAL(sthread_create(&old, &sc, nothing, NULL), 0);
	ASSERT_EQUAL(sthread_join(old, NULL), 0);
	for (uintptr_t i = 0; i < LOCAL_ENDED + 4; i++) /* more than a thread remembers */
		ASSERT_EQUAL(sthread_create(&st[i], &sc, nothing, (void *)i), 0);
	ASSERT_ERROR(sthread_join(old, NULL) == -1, EBADF);
	for (uintptr_t i = LOCAL_ENDED + 4; i > 0; i--) {
		enum sthread_state state;
		ASSERT_EQUAL(sthread_state(st[i - 1], &state), 0);
		ASSERT_EQUAL(state, STHREAD_ENDED);
		ASSERT_EQUAL(sthread_join(st[i - 1], &result), 0);
		ASSERT_EQUAL((uintptr_t)result, i - 1);
		ASSERT_ERROR(sthread_join(st[i - 1], NULL) == -1, EBADF);
	}
}

/* ---- threads ------------------------------------------------------------------------------------------------------- */

static void *join_there(void *st)
{
	void *result = NULL;
	return sthread_join(*(sthread_t *)st, &result) == 0 ? result : NULL;
}

static void another_thread_joins(void)
{
	live_init();
	sc_t sc;
	sthread_t st;
	pthread_t thread;
	void *result = NULL;
	sc_init(&sc);
	CU_ASSERT(is_quick(&sc, nothing, NULL));
	for (uintptr_t i = 1; i <= FEW; i++) {
		ASSERT_EQUAL(sthread_create(&st, &sc, nothing, (void *)i), 0);
		ASSERT_EQUAL(pthread_create(&thread, NULL, join_there, &st), 0);
		pthread_join(thread, &result);
		ASSERT_EQUAL((uintptr_t)result, i);
		ASSERT_ERROR(sthread_join(st, NULL) == -1, EBADF);
	}
}

static int ready, stay, stays, lived, locked;

static bool reached(const int *flag, double seconds)
{
	for (double until = live_seconds() + seconds * harness_time_scale(); live_seconds() < until; usleep(200))
		if (__atomic_load_n(flag, __ATOMIC_SEQ_CST))
			return true;
	return false;
}

static void set(int *flag, int value)
{
	__atomic_store_n(flag, value, __ATOMIC_SEQ_CST);
}

static void *stay_in_a_stretch(void *sc)
{
	if (!is_quick(sc, nothing, NULL))
		return NULL;
	struct local *local = local_enter();
	set(&stays, local != NULL);
	while (local && __atomic_load_n(&stay, __ATOMIC_SEQ_CST))
		usleep(200);
	if (local)
		local_leave(local);
	return local;
}

static void *live_meanwhile(void *sc)
{
	sthread_t st;
	if (!is_quick(sc, nothing, NULL))
		return NULL;
	set(&ready, 1);
	while (!__atomic_load_n(&stays, __ATOMIC_SEQ_CST))
		usleep(200);
	if (sthread_create(&st, sc, nothing, NULL) != 0 || sthread_join(st, NULL) != 0)
		return NULL;
	set(&lived, 1);
	return sc;
}

static void *lock_meanwhile(void *unused)
{
	supervisor_lock();
	set(&locked, 1);
	supervisor_unlock();
	return unused;
}

static void stretches_do_not_exclude_each_other(void)
{
	live_init();
	sc_t sc;
	bool seen = false;
	sc_init(&sc);
	ASSERT_EQUAL(sthread_prewarm(&sc, nothing, 2), 0); /* else the one takes the other's */
	/* A life that its slice stops needs the lock, and waits for the stretch: then once more. */
	for (unsigned tries = 0; tries < 10 && !seen; tries++) {
		pthread_t staying, living, locking;
		void *result[2];
		ready = stays = lived = locked = 0;
		set(&stay, 1);
		ASSERT_EQUAL(pthread_create(&living, NULL, live_meanwhile, &sc), 0);
		CU_ASSERT(reached(&ready, 10));
		ASSERT_EQUAL(pthread_create(&staying, NULL, stay_in_a_stretch, &sc), 0);
		CU_ASSERT(reached(&stays, 10));
		seen = reached(&lived, 1);
		/* Control: who wants the lock waits. */
		ASSERT_EQUAL(pthread_create(&locking, NULL, lock_meanwhile, NULL), 0);
		CU_ASSERT_FALSE(reached(&locked, 0.1));
		set(&stay, 0);
		pthread_join(locking, NULL);
		pthread_join(staying, &result[0]);
		pthread_join(living, &result[1]);
		CU_ASSERT(locked && result[0] && result[1]);
	}
	CU_ASSERT(seen);
}

struct worker {
	pthread_t thread;
	const sc_t *sc;
	uint64_t wrong, lives;
};

static int go_on;

static void *live_and_live(void *argument)
{
	struct worker *worker = argument;
	for (uintptr_t i = 1; __atomic_load_n(&go_on, __ATOMIC_RELAXED) || i <= FEW; i++) {
		sthread_t st;
		void *result = NULL;
		if (sthread_create(&st, worker->sc, nothing, (void *)i) != 0 || sthread_join(st, &result) != 0 ||
		    (uintptr_t)result != i)
			worker->wrong++;
		worker->lives++;
	}
	return NULL;
}

/* Tags of the same policy shape come and go, a child is forked, statistics are read, while all threads live. */
static void threads_and_changes(void)
{
	live_init();
	static struct worker workers[THREADS];
	struct sthread_statistics before, now, last = { 0 };
	struct sthread_policy_statistics named;
	uint64_t lives = 0, mine = 0;
	sc_t sc, tagged;
	sc_init(&sc);
	ASSERT_EQUAL(sc_name(&sc, "many"), 0);
	ASSERT_EQUAL(sthread_statistics(&before), 0);
	last = before;
	set(&go_on, 1);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i].sc = &sc;
		ASSERT_EQUAL(pthread_create(&workers[i].thread, NULL, live_and_live, &workers[i]), 0);
	}
	for (unsigned round = 0; round < 40; round++) {
		tag_t tag = tag_new();
		uint64_t *number = smalloc(tag, sizeof *number);
		*number = round;
		sc_init(&tagged);
		ASSERT_EQUAL(sc_mem_add(&tagged, tag, PROT_READ), 0);
		for (unsigned i = 0; i < 3; i++, mine++)
			ASSERT_RETURNED(live_run(&tagged, number_in_tag, number), round);
		ASSERT_EQUAL(tag_delete(tag), 0);
		ASSERT_EQUAL(sthread_statistics(&now), 0);
		CU_ASSERT(now.lives >= last.lives && now.pages_restored >= last.pages_restored);
		last = now;
		if (round % 20 == 10) {
			pid_t child = fork();
			if (child == 0)
				_exit(sthread_statistics(&now) == 0 && now.lives == 0 &&
						      live_run(&sc, nothing, (void *)3).value == (void *)3 &&
						      sthread_statistics(&now) == 0 && now.lives == 1 ?
					      0 :
					      1);
			int status = -1;
			waitpid(child, &status, 0);
			ASSERT_EQUAL(status, 0);
		}
	}
	set(&go_on, 0);
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		ASSERT_EQUAL(workers[i].wrong, 0);
		lives += workers[i].lives;
	}
	ASSERT_EQUAL(sthread_statistics(&now), 0);
	ASSERT_EQUAL(now.lives - before.lives, lives + mine);
	ASSERT_EQUAL(sthread_policy_statistics("many", &named), 0);
	ASSERT_EQUAL(named.lives, lives);
	ASSERT_EQUAL(named.returned, lives);
	ASSERT_EQUAL(named.lives_now, 0);
}

static void *spin(void *ends)
{
	volatile bool forever = !ends;
	while (forever)
		;
	return ends;
}

static void *kill_there(void *st)
{
	usleep(20000);
	return sthread_kill(*(sthread_t *)st) == 0 ? st : NULL;
}

/* The kind is one that has returned before, so the life began without the lock. */
static void a_quick_life_can_be_killed(void)
{
	live_init();
	sc_t sc;
	sthread_t st;
	pthread_t thread;
	void *result = NULL;
	sc_init(&sc);
	ASSERT_EQUAL(sc_cpu_budget(&sc, 60000), 0);
	CU_ASSERT(is_quick(&sc, spin, (void *)1));
	ASSERT_EQUAL(sthread_create(&st, &sc, spin, NULL), 0); /* its slice is over */
	ASSERT_EQUAL(pthread_create(&thread, NULL, kill_there, &st), 0);
	struct life life = live_join(st);
	pthread_join(thread, &result);
	CU_ASSERT_PTR_NOT_NULL(result);
	live_check_end(&life, STHREAD_KILLED, __FILE__, __LINE__);
	CU_ASSERT(is_quick(&sc, spin, (void *)1));
}

static const struct harness_test tests[] = {
	{ "a recycled life, a park and a gate call allocate nothing", a_recycled_life_allocates_nothing, HARNESS_FORK,
	  .seconds = 60 },
	{ "a recycled life takes no lock", a_recycled_life_takes_no_lock, HARNESS_FORK },
	{ "a recycled life makes no system call but KVM_RUN", a_recycled_life_makes_no_system_call, HARNESS_FORK,
	  .seconds = 60 },
	{ "a deleted tag or gate is missed by the next life of a kind", what_a_policy_names_is_missed, HARNESS_FORK },
	{ "a destroyed frozen policy lets go of its files", a_frozen_policy_lets_go_of_its_files, HARNESS_FORK },
	{ "handles of quick lives are good once", handles_stay_what_they_are, HARNESS_FORK },
	{ "a quick life is joined by another thread", another_thread_joins, HARNESS_FORK },
	{ "threads live without waiting for each other, and who has the lock waits for all",
	  stretches_do_not_exclude_each_other, HARNESS_FORK },
	{ "lives of many threads stay right while tags go, a child is forked and statistics are read",
	  threads_and_changes, HARNESS_FORK, .seconds = 60 },
	{ "a life that began quickly can be killed", a_quick_life_can_be_killed, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
