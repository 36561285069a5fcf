/* clock.c - see clock.h */
#define _GNU_SOURCE
#include "kvm/clock.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define NANOSECONDS ((uint64_t)1000000000)

enum {
	SLOWER = 10,  /* by 2^-10: more than a clock is ever slewed */
	CREDIBLE = 9, /* two rates are the same up to 2^-9 */
	SHIFT = 32,
	KILO = 1000
};

static uint64_t nanoseconds(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

struct dune_clock_sample dune_clock_now(void)
{
	struct dune_clock_sample now = { .monotonic = nanoseconds(CLOCK_MONOTONIC),
					 .realtime = nanoseconds(CLOCK_REALTIME) };
	_mm_lfence();
	now.counter = __rdtsc();
	return now;
}

/* The kernel takes the counter for its own clock only while all processors have the same, at a constant rate. */
static bool host_clock_is_counter(void)
{
	char name[16] = "";
	int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t length = read(fd, name, sizeof name - 1);
	close(fd);
	return length > 0 && !strcmp(name, "tsc\n");
}

uint64_t dune_clock_multiplier(const struct dune_vcpu *vcpu, const struct dune_clock_sample *from)
{
	struct dune_clock_sample to = dune_clock_now();
	long kilohertz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	if (kilohertz <= 0 || to.counter <= from->counter || to.monotonic <= from->monotonic ||
	    !host_clock_is_counter())
		return 0;
	uint64_t told = (NANOSECONDS / KILO << SHIFT) / (uint64_t)kilohertz;
	__extension__ typedef unsigned __int128 wide;
	uint64_t seen = (uint64_t)(((wide)(to.monotonic - from->monotonic) << SHIFT) / (to.counter - from->counter));
	uint64_t difference = told > seen ? told - seen : seen - told;
	return difference > told >> CREDIBLE ? 0 : told - (told >> SLOWER);
}

bool dune_clock_offset(const struct dune_vcpu *vcpu, uint64_t *offset)
{
	struct kvm_device_attr attribute = { .group = 0 /* KVM_VCPU_TSC_CTRL */,
					     .attr = 0 /* KVM_VCPU_TSC_OFFSET */,
					     .addr = (uintptr_t)offset };
	return ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attribute) == 0;
}

void dune_clock_publish(const struct dune_vcpu *vcpu, struct dune_life *life, bool in_ring3)
{
	if (!in_ring3 || !vcpu->clock_multiplier) {
		struct timespec time;
		clock_gettime(CLOCK_REALTIME_COARSE, &time);
		life->seconds = time.tv_sec;
		life->clock_multiplier = 0;
		return;
	}
	struct dune_clock_sample now = dune_clock_now();
	life->seconds = (int64_t)(now.realtime / NANOSECONDS);
	life->clock_entries++; /* a reading that was interrupted begins anew */
	/* Without KVM_RUN it is the caller's own counter that is read. */
	bool here = dune_vcpu_local && dune_vcpu_local->here(vcpu);
	life->clock_counter = now.counter + (here ? 0 : vcpu->clock_offset);
	life->clock_base[0] = now.realtime;
	life->clock_base[1] = now.monotonic;
	life->clock_multiplier = vcpu->clock_multiplier;
}
