/* live_segments.c - what one life does to its segment registers does not reach the next one. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>

#include "live.h"

static void *try_gs_base(void *value)
{
	__asm__ volatile("wrgsbase %0" ::"r"(value));
	return (void *)1;
}

static __thread uint64_t in_tls = 0x715;

/* One body, so that all lives are in one address space; the argument says what to do. */
static void *use_segments(void *what)
{
	switch ((uintptr_t)what) {
	case 1: /* selectors */
		__asm__ volatile(
			"movl $0x2b, %%eax; movw %%ax, %%ds; movw %%ax, %%es; movw %%ax, %%fs; movw %%ax, %%gs; ud2" ::
				: "eax");
		__builtin_unreachable();
	case 2: /* null selectors */
		__asm__ volatile("xorl %%eax, %%eax; movw %%ax, %%fs; movw %%ax, %%gs; ud2" ::: "eax");
		__builtin_unreachable();
	case 3: /* bases, where ring 3 can */
		__asm__ volatile("movl $0x20000, %%eax; wrfsbase %%rax; wrgsbase %%rax; ud2" ::: "rax");
		__builtin_unreachable();
	case 4: /* the same, and the life goes on to its end */
		__asm__ volatile(
			"movl $0x20000, %%eax; wrgsbase %%rax; movl $0x2b, %%eax; movw %%ax, %%ds; movw %%ax, %%es" ::
				: "rax");
		return (void *)2;
	default: /* thread-local storage, and what is at GS: nothing */
		return (void *)in_tls;
	}
}

static void thread_pointer(void)
{
	live_init();

	unsigned eax, ebx, ecx, edx;
	bool has_bases = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && ebx & 1 &&
			 live_run_bare(try_gs_base, (void *)0x1000).value == (void *)1;

	for (uintptr_t what = 1; what <= 4; what++) {
		uint64_t space;
		struct life life = live_run_bare(use_segments, (void *)9);

		ASSERT_RETURNED(life, 0x715);
		space = life.info.address_space;
		if (what >= 3 && !has_bases)
			continue;
		life = live_run_bare(use_segments, (void *)what);
		ASSERT_END(life, what == 4 ? STHREAD_RETURNED : STHREAD_FAULTED);
		ASSERT_EQUAL(life.info.address_space, space);
		life = live_run_bare(use_segments, (void *)9);
		ASSERT_RETURNED(life, 0x715);
		ASSERT_EQUAL(life.info.address_space, space);
	}
}

static const struct harness_test tests[] = {
	{ "a life has its thread-local storage, whatever the last one did to FS", thread_pointer, HARNESS_FORK },
};

int main(int argc, char **argv)
{
	return HARNESS_MAIN(argc, argv, tests, HARNESS_NEEDS_KVM);
}
