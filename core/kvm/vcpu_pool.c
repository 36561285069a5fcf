/* vcpu_pool.c - making virtual CPUs, whose they are, taking them out of KVM_RUN, and their totals.  See vcpu.h. */
#define _GNU_SOURCE
#include "kvm/vcpu.h"
#include "kvm/clock.h"
#include "kvm/mirror.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	MIRROR_NUMBERS = 1 << 20 /* numbers of the mirror's virtual CPUs begin here */
};

static _Thread_local struct dune_vcpu *own __attribute__((tls_model("initial-exec")));
static _Thread_local struct dune_vcpu *own_mirror __attribute__((tls_model("initial-exec")));

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static struct dune_vcpu *pool; /* virtual CPUs whose threads have ended */
static struct dune_vcpu *every;
static pthread_key_t thread_end, thread_end_mirror;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- kicks ----------------------------------------------------------------------------------------- */

int dune_kick_signal(void)
{
	return SIGRTMAX - 2;
}

/* Async-signal-safe.  KVM_RUN returns EINTR by itself if it was under way; the flag closes the race before it.  Whose kick
 * it is if nothing runs is not known: then it is both's. */
static void on_kick(int number)
{
	(void)number;
	struct dune_vcpu *const mine[] = { own, own_mirror };
	bool running = false;
	for (unsigned i = 0; i < 2; i++)
		if (mine[i] && atomic_load_explicit(&mine[i]->running, memory_order_relaxed)) {
			struct dune_vcpu *carrier = atomic_load(&mine[i]->carrier);
			mine[i]->run->immediate_exit = 1;
			if (carrier)
				carrier->run->immediate_exit = 1;
			atomic_fetch_add_explicit(&mine[i]->kicks, 1, memory_order_seq_cst);
			running = true;
		}
	for (unsigned i = 0; i < 2 && !running; i++)
		if (mine[i])
			atomic_store_explicit(&mine[i]->kicked, true, memory_order_relaxed);
}

void dune_vcpu_kick(struct dune_vcpu *vcpu)
{
	if (atomic_load(&vcpu->running))
		pthread_kill(vcpu->thread, dune_kick_signal());
}

void dune_vcpu_interrupt_own(struct dune_vcpu *vcpu)
{
	atomic_store_explicit(&vcpu->kicked, true, memory_order_relaxed);
	if (atomic_load_explicit(&vcpu->running, memory_order_relaxed))
		vcpu->run->immediate_exit = 1;
}

void dune_vcpu_forget_kick(struct dune_vcpu *vcpu)
{
	atomic_store_explicit(&vcpu->kicked, false, memory_order_relaxed);
}

/* ---- making ---------------------------------------------------------------------------------------- */

enum {
	AREA_PAGES = WINDOW_PROCESSOR_SIZE / DUNE_PAGE_SIZE
};

/* Maps the area's pages, which are new and zero, below the edit root and with it wherever the GiB is shared. */
static int map_area(struct dune_vcpu *vcpu, struct dune_tables *tables, uint64_t frames)
{
	for (unsigned i = 0; i < AREA_PAGES; i++) {
		uint64_t *entry =
			dune_tables_entry(tables, vcpu->edit_root, vcpu->area_address + i * DUNE_PAGE_SIZE, true);
		if (!entry)
			return dune_fail(ENOMEM, "no page-table page left");
		*entry = (frames + i * DUNE_PAGE_SIZE) | DUNE_PTE_PRESENT | DUNE_PTE_NO_EXECUTE |
			 (i ? DUNE_PTE_WRITE : 0);
	}
	return 0;
}

static int lay_out_area(struct dune_vcpu *vcpu)
{
	struct dune_machine *machine = vcpu->machine;
	vcpu->edit_root = machine->edit_root;
	vcpu->area_address = machine->window + WINDOW_PROCESSORS + machine->processor_count * WINDOW_PROCESSOR_SIZE;
	uint64_t frames = dune_frames_fresh(machine, AREA_PAGES);
	if (!frames)
		return -1;
	vcpu->area = dune_physical_at(machine, frames);
	return map_area(vcpu, &machine->tables, frames);
}

/* The mirror's areas lie in memory of its own, so that the machine's allocators are not needed here. */
static int lay_out_mirror_area(struct dune_vcpu *vcpu)
{
	struct dune_mirror *mirror = vcpu->machine->mirror;
	vcpu->edit_root = mirror->edit_root;
	vcpu->area_address =
		vcpu->machine->window + WINDOW_MIRROR_PROCESSORS + mirror->processor_count * WINDOW_PROCESSOR_SIZE;
	vcpu->area = (struct dune_processor_area *)mirror->areas + mirror->processor_count;
	return map_area(vcpu, &mirror->tables, (uintptr_t)vcpu->area);
}

static void fill_task_state(struct dune_vcpu *vcpu)
{
	struct dune_tss *tss = &vcpu->area->tss;
	tss->rsp[0] = vcpu->area_address + offsetof(struct dune_processor_area, emergency_stack);
	tss->ist[0] = vcpu->area_address + offsetof(struct dune_processor_area, edits);
	tss->bitmap_offset = offsetof(struct dune_tss, bitmap);
	memset(tss->bitmap, 0xff, sizeof tss->bitmap + 1);
	unsigned last = PORT_SERVICE;
	if (vcpu->mirror) /* one port, where SYSCALL stays in ring 3 */
		last = vcpu->machine->host.ring0_native ? 0 : PORT_SYSTEM_CALL;
	for (unsigned port = PORT_SYSTEM_CALL; port <= last; port++)
		tss->bitmap[port / 8] &= ~(1u << port % 8);
}

static struct dune_vcpu *make(struct dune_machine *machine, bool mirror)
{
	uint64_t *count = mirror ? &machine->mirror->processor_count : &machine->processor_count;
	uint64_t most = machine->host.processors_max;
	if (mirror && machine->mirror->processors_max < most)
		most = machine->mirror->processors_max;
	struct dune_vcpu *vcpu = calloc(1, sizeof *vcpu);
	if (!vcpu)
		return NULL;
	vcpu->machine = machine;
	vcpu->mirror = mirror;
	vcpu->fd = -1;
	if (*count >= most) {
		dune_fail(EAGAIN, "no virtual CPU left: there may be %llu", (unsigned long long)most);
		goto fail;
	}
	vcpu->fd = ioctl(mirror ? machine->mirror->vm : machine->vm, KVM_CREATE_VCPU, *count);
	if (vcpu->fd < 0) {
		dune_fail(errno, "KVM cannot make a virtual CPU: %s", strerror(errno));
		goto fail;
	}
	int laid_out = mirror ? lay_out_mirror_area(vcpu) : lay_out_area(vcpu);
	vcpu->number = (uint32_t)*count + (mirror ? MIRROR_NUMBERS : 0);
	++*count; /* KVM does not take a virtual CPU back: its number is used up */
	if (laid_out != 0)
		goto fail;
	fill_task_state(vcpu);
	vcpu->run = mmap(NULL, machine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		vcpu->run = NULL;
		goto fail;
	}
	madvise(vcpu->run, machine->run_size, MADV_DONTFORK);
	vcpu->run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, machine->cpuid) != 0 || dune_vcpu_reset(vcpu) != 0) {
		dune_fail(ENOTSUP, "KVM refused the state of a virtual CPU: %s", strerror(errno));
		goto fail;
	}
	if (!machine->clock_has_offset || dune_clock_offset(vcpu, &vcpu->clock_offset))
		vcpu->clock_multiplier = machine->clock_multiplier;
	return vcpu;
fail:
	if (vcpu->run)
		munmap(vcpu->run, machine->run_size);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	free(vcpu);
	return NULL;
}

/* ---- threads --------------------------------------------------------------------------------------- */

static void give_back(void *argument)
{
	struct dune_vcpu *vcpu = argument;
	*(vcpu->mirror ? &own_mirror : &own) = NULL;
	pthread_mutex_lock(&pool_lock);
	vcpu->next_free = pool;
	pool = vcpu;
	pthread_mutex_unlock(&pool_lock);
}

static void install(void)
{
	struct sigaction action = { .sa_handler = on_kick, .sa_flags = SA_RESTART };
	sigaction(dune_kick_signal(), &action, NULL);
	pthread_key_create(&thread_end, give_back);
	pthread_key_create(&thread_end_mirror, give_back);
}

/* Takes a virtual CPU of an ended thread, or makes one. */
static struct dune_vcpu *take(struct dune_machine *machine, bool mirror)
{
	pthread_once(&once, install);
	pthread_mutex_lock(&pool_lock);
	struct dune_vcpu **link = &pool;
	/* those of a parent process are not ours */
	while (*link && ((*link)->machine != machine || (*link)->mirror != mirror))
		link = &(*link)->next_free;
	struct dune_vcpu *vcpu = *link;
	if (vcpu)
		*link = vcpu->next_free;
	else if ((vcpu = make(machine, mirror))) {
		vcpu->next = every;
		every = vcpu;
	}
	pthread_mutex_unlock(&pool_lock);
	if (vcpu)
		vcpu->thread = pthread_self();
	return vcpu;
}

struct dune_vcpu *dune_vcpu_get(struct dune_machine *machine)
{
	if (own && own->machine == machine)
		return own;
	struct dune_vcpu *vcpu = take(machine, false);
	if (vcpu) {
		own = vcpu;
		pthread_setspecific(thread_end, vcpu);
	}
	return vcpu;
}

struct dune_vcpu *dune_vcpu_get_mirror(struct dune_machine *machine)
{
	if (own_mirror && own_mirror->machine == machine)
		return own_mirror;
	struct dune_vcpu *vcpu = take(machine, true);
	if (!vcpu)
		return NULL;
	own_mirror = vcpu;
	pthread_setspecific(thread_end_mirror, vcpu);
	if (dune_vcpu_reset(vcpu) != 0) { /* whoever had it may have left anything behind */
		dune_fail(ENOTSUP, "KVM refused the state of a virtual CPU: %s", strerror(errno));
		return NULL;
	}
	return vcpu;
}

struct dune_vcpu *dune_vcpu_new_mirror(struct dune_machine *machine)
{
	pthread_once(&once, install);
	pthread_mutex_lock(&pool_lock);
	struct dune_vcpu *vcpu = make(machine, true);
	if (vcpu) {
		vcpu->next = every;
		every = vcpu;
	}
	pthread_mutex_unlock(&pool_lock);
	return vcpu;
}

/* ---- all of them ----------------------------------------------------------------------------------- */

void dune_vcpus_forget(void)
{
	own = own_mirror = NULL;
	if (every) {
		pthread_setspecific(thread_end, NULL);
		pthread_setspecific(thread_end_mirror, NULL);
	}
	for (struct dune_vcpu *vcpu = every, *next; vcpu; vcpu = next) {
		next = vcpu->next;
		close(vcpu->fd);
		free(vcpu);
	}
	pool = every = NULL;
}

void dune_vcpus_lock(void)
{
	pthread_mutex_lock(&pool_lock);
}

void dune_vcpus_unlock(void)
{
	pthread_mutex_unlock(&pool_lock);
}

struct dune_vcpu *dune_vcpu_numbered(uint32_t number)
{
	pthread_mutex_lock(&pool_lock);
	struct dune_vcpu *vcpu = every;
	while (vcpu && vcpu->number != number)
		vcpu = vcpu->next;
	pthread_mutex_unlock(&pool_lock);
	return vcpu;
}

struct dune_totals dune_totals(void)
{
	struct dune_totals totals = { 0 };
	pthread_mutex_lock(&pool_lock);
	for (const struct dune_vcpu *vcpu = every; vcpu; vcpu = vcpu->next) {
		totals.exits += vcpu->mirror ? 0 : vcpu->exits;
		totals.interrupted += vcpu->mirror ? 0 : vcpu->interrupted;
		totals.tag_flushes += vcpu->tag_flushes;
		totals.tag_kept += vcpu->tag_kept;
	}
	pthread_mutex_unlock(&pool_lock);
	return totals;
}
