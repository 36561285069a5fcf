/* tape.c - see tape.h */
#define _GNU_SOURCE
#include "tape.h"

#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>

#include "measure.h"

enum {
	ATTEMPTS = 100
};

static struct {
	struct tape *recorded, *played;
	unsigned next; /* exit of the tape that is played */
	uint64_t in_run_loop;
} state;

/* ---- calls of the host ----------------------------------------------------------------------------- */

int __real_clock_gettime(clockid_t clock, struct timespec *time);
int __real_timer_settime(timer_t timer, int flags, const struct itimerspec *value, struct itimerspec *old);
ssize_t __real_preadv(int fd, const struct iovec *parts, int count, off_t offset);
int __real_ioctl(int fd, unsigned long request, void *argument);
void __real_dune_vcpu_run(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit);
int __wrap_clock_gettime(clockid_t clock, struct timespec *time);
int __wrap_timer_settime(timer_t timer, int flags, const struct itimerspec *value, struct itimerspec *old);
ssize_t __wrap_preadv(int fd, const struct iovec *parts, int count, off_t offset);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
void __wrap_dune_vcpu_run(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit);

static void count(enum host_call call)
{
	if (state.recorded)
		state.recorded->host_calls[call]++;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *time)
{
	count(HOST_CLOCK);
	return __real_clock_gettime(clock, time);
}

int __wrap_timer_settime(timer_t timer, int flags, const struct itimerspec *value, struct itimerspec *old)
{
	count(HOST_TIMER);
	return __real_timer_settime(timer, flags, value, old);
}

ssize_t __wrap_preadv(int fd, const struct iovec *parts, int parts_count, off_t offset)
{
	count(HOST_READ);
	return __real_preadv(fd, parts, parts_count, offset);
}

int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
	if (request != KVM_RUN)
		count(HOST_IOCTL);
	return __real_ioctl(fd, request, argument);
}

/* ---- the run loop ---------------------------------------------------------------------------------- */

static uint64_t now(void)
{
	struct timespec time;
	__real_clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void play_exit(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit)
{
	if (state.next >= state.played->count)
		measure_fail("an operation that is played does more than when it was recorded");
	const struct tape_exit *one = &state.played->exits[state.next++];
	*exit = one->exit;
	context->regs = one->regs;
	context->fs_base = one->fs_base;
	context->gs_base = one->gs_base;
	vcpu->tenant = context->tenant;
	vcpu->exits++;
}

static void record_exit(const struct dune_context *context, const struct dune_exit *exit)
{
	struct tape *tape = state.recorded;
	if (tape->count == TAPE_EXITS)
		measure_fail("an operation has too many exits");
	tape->exits[tape->count++] = (struct tape_exit){ *exit, context->regs, context->fs_base, context->gs_base };
	tape->kinds[exit->kind]++;
}

void __wrap_dune_vcpu_run(struct dune_vcpu *vcpu, struct dune_context *context, struct dune_exit *exit)
{
	if (state.played) {
		play_exit(vcpu, context, exit);
		return;
	}
	struct tape *recorded = state.recorded;
	if (recorded && vcpu->tenant != context->tenant)
		recorded->tenants++;
	state.recorded = NULL; /* the run loop's own calls are a part of an exit */
	uint64_t began = now();
	__real_dune_vcpu_run(vcpu, context, exit);
	state.in_run_loop += now() - began;
	state.recorded = recorded;
	if (recorded)
		record_exit(context, exit);
}

uint64_t tape_in_run_loop(void)
{
	return state.in_run_loop;
}

/* ---- operations ------------------------------------------------------------------------------------ */

void tape_run(void *argument)
{
	const struct tape *tape = argument;
	tape->run(tape->argument);
}

void tape_record(struct tape *tape)
{
	tape_run(tape); /* what it does only once */
	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		struct tape empty = { .run = tape->run, .argument = tape->argument };
		*tape = empty;
		state.recorded = tape;
		tape->run(tape->argument);
		state.recorded = NULL;
		if (tape->count && !tape->kinds[DUNE_EXIT_KICKED] && !tape->host_calls[HOST_TIMER])
			return;
	}
	measure_fail("an operation is never left alone by the timer");
}

void tape_play(void *argument)
{
	struct tape *tape = argument;
	state.played = tape;
	state.next = 0;
	tape->run(tape->argument);
	state.played = NULL;
	if (state.next != tape->count)
		measure_fail("an operation that is played does less than when it was recorded");
}
