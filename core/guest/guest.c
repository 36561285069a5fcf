/*
 * guest.c - guest placement: takes a thread into ring 0 and back, and from there to ring 3 and back.
 */
#include "guest/guest.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm/space.h"

_Static_assert(offsetof(struct dune_guest_processor, kernel_rsp) == PROCESSOR_KERNEL_RSP, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, user_rsp) == PROCESSOR_USER_RSP, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, kernel_fs) == PROCESSOR_KERNEL_FS, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, user_fs) == PROCESSOR_USER_FS, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, trap) == PROCESSOR_TRAP, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, dispatch) == PROCESSOR_DISPATCH, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, vector_mask) == PROCESSOR_VECTOR_MASK, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, vector_size) == PROCESSOR_VECTOR_SIZE, "entry.S");
_Static_assert(offsetof(struct dune_guest_processor, run_handler) == PROCESSOR_RUN_HANDLER, "entry.S");
_Static_assert(sizeof(struct dune_guest_processor) <= PROCESSOR_TRAP_STACKS - PROCESSOR_TRAP_STACK_SIZE, "guard page");
_Static_assert(offsetof(struct dune_tss, ist) == PROCESSOR_IST1, "entry.S");
_Static_assert(offsetof(struct dune_tf, rbx) == TF_RBX && offsetof(struct dune_tf, r11) == TF_R11 &&
		       offsetof(struct dune_tf, rax) == TF_RAX && offsetof(struct dune_tf, err) == TF_ERR &&
		       offsetof(struct dune_tf, rip) == TF_RIP && offsetof(struct dune_tf, cs) == TF_CS &&
		       offsetof(struct dune_tf, rflags) == TF_RFLAGS && offsetof(struct dune_tf, rsp) == TF_RSP &&
		       offsetof(struct dune_tf, ss) == TF_SS && sizeof(struct dune_tf) == TF_SIZE,
	       "entry.S");
_Static_assert(offsetof(struct dune_guest_frame, vector) == FRAME_VECTOR &&
		       offsetof(struct dune_guest_frame, address) == FRAME_ADDRESS &&
		       sizeof(struct dune_guest_frame) == FRAME_SIZE,
	       "entry.S");
_Static_assert(offsetof(struct dune_guest_child, scratch) == CHILD_SCRATCH &&
		       offsetof(struct dune_guest_child, vector) == CHILD_VECTOR &&
		       offsetof(struct dune_guest_child, components) == CHILD_COMPONENTS &&
		       offsetof(struct dune_guest_child, mxcsr) == CHILD_MXCSR &&
		       offsetof(struct dune_guest_child, control) == CHILD_CONTROL,
	       "switch.S");
_Static_assert(offsetof(struct kvm_regs, rbx) == REGS_RBX && offsetof(struct kvm_regs, rsp) == REGS_RSP &&
		       offsetof(struct kvm_regs, r8) == REGS_R8 && offsetof(struct kvm_regs, rip) == REGS_RIP &&
		       offsetof(struct kvm_regs, rflags) == REGS_RFLAGS,
	       "switch.S");
_Static_assert(GUEST_VECTOR_EVENT == DUNE_EVENT_VECTOR, "one number");

static pthread_mutex_t threads_lock = PTHREAD_MUTEX_INITIALIZER;
static struct dune_guest_thread *_Atomic threads; /* grows only */
static pid_t owner;                               /* the process whose threads these are */

/* What is never forgotten: the process's own code and data, which also work while the lock of address spaces is held. */
static struct piece {
	uintptr_t begin, end;
} pieces[1024];
static unsigned piece_count;

enum {
	CR4_FSGSBASE = 1 << 16,
	CR4_PCIDE = 1 << 17,
	CR4_SMEP = 1 << 20,
	CR4_SMAP = 1 << 21,
	MSR_LSTAR = 0xc0000082,
	MSR_SFMASK = 0xc0000084,
	MSR_KERNEL_GS_BASE = 0xc0000102,
	MSR_TSC = 0x10
};

static const struct dune_machine *machine(void)
{
	return dune_mirror->machine;
}

uint64_t dune_guest_in_window(const uint8_t *symbol)
{
	return machine()->window + WINDOW_GUEST_CODE + (symbol - dune_guest_begin);
}

void dune_guest_every(void (*function)(struct dune_guest_thread *thread, void *argument), void *argument)
{
	for (struct dune_guest_thread *thread = atomic_load(&threads); thread; thread = thread->next)
		function(thread, argument);
}

bool dune_guest_alone(const struct dune_guest_thread *self)
{
	for (const struct dune_guest_thread *thread = atomic_load(&threads); thread; thread = thread->next)
		if (thread != self && atomic_load(&thread->entered))
			return false;
	return true;
}

/* ---- the window ------------------------------------------------------------------------------------ */

/* Memory that the window shows: whole pages, zeroed, within one GiB, so that its guest-physical addresses are consecutive. */
static void *new_pages(size_t size)
{
	for (unsigned tries = 0; tries < 8; tries++) {
		uint8_t *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (at == MAP_FAILED)
			break;
		if ((uintptr_t)at >> HUGE_PGSHIFT == ((uintptr_t)at + size - 1) >> HUGE_PGSHIFT)
			return at; /* others stay where they are, so that the next one lies elsewhere */
	}
	dune_fail(ENOMEM, "no memory for ring 0");
	return NULL;
}

static int map_in_window(uint64_t offset, const void *page, uint64_t bits)
{
	struct dune_mirror *mirror = dune_mirror;
	uint64_t physical = dune_mirror_physical(page);
	if (!physical)
		return -1;
	dune_vcpus_lock(); /* as for the areas of virtual CPUs, whose tables these are */
	uint64_t *entry = dune_tables_entry(&mirror->tables, mirror->edit_root, mirror->machine->window + offset, true);
	if (entry)
		*entry = physical | bits | DUNE_PTE_PRESENT;
	dune_vcpus_unlock();
	return entry ? 0 : dune_fail(ENOMEM, "no page-table page left");
}

static void fill_gate(uint64_t *idt, unsigned vector, uint64_t handler)
{
	bool fatal = vector == T_NMI || vector == T_DBLFLT || vector == T_MCHK;
	bool by_ring3 = vector == T_BRKPT || vector == T_OFLOW || (vector >= 32 && vector < DUNE_SIGNAL_INTR_BASE);
	dune_gate_fill(idt, vector, handler, by_ring3 ? 3 : 0, fatal ? 2 : 1);
}

static bool code_laid_out; /* in this process */
static unsigned processors;

/* Puts the entry code and the IDT into the window. */
static int lay_out_code(void)
{
	static uint8_t *code; /* children of a fork have the same */
	const size_t size = WINDOW_GUEST_CODE_PAGES * DUNE_PAGE_SIZE;
	if (code_laid_out)
		return 0;
	if (!code && !(code = new_pages(size + DUNE_PAGE_SIZE)))
		return -1;
	memcpy(code, dune_guest_begin, dune_guest_end - dune_guest_begin);
	for (unsigned vector = 0; vector < GUEST_VECTORS; vector++)
		fill_gate((uint64_t *)(code + size), vector,
			  machine()->window + WINDOW_GUEST_CODE + (uint64_t)vector * GUEST_STUB_SIZE);
	for (uint64_t at = 0; at < size; at += DUNE_PAGE_SIZE)
		if (map_in_window(WINDOW_GUEST_CODE + at, code + at, 0) != 0)
			return -1;
	if (map_in_window(WINDOW_GUEST_IDT, code + size, DUNE_PTE_NO_EXECUTE) != 0)
		return -1;
	code_laid_out = true;
	return 0;
}

static int lay_out_processor(struct dune_guest_thread *thread)
{
	enum {
		GUARD = PROCESSOR_TRAP_STACKS - PROCESSOR_TRAP_STACK_SIZE
	};
	if (processors == WINDOW_GUEST_PROCESSORS_MAX)
		return dune_fail(EAGAIN, "no more than %d threads can be in the guest", WINDOW_GUEST_PROCESSORS_MAX);
	uint64_t offset = WINDOW_GUEST_PROCESSORS + (uint64_t)processors * WINDOW_GUEST_PROCESSOR_SIZE;
	uint8_t *area = new_pages(WINDOW_GUEST_PROCESSOR_SIZE);
	if (!area)
		return -1;
	for (unsigned at = 0; at < WINDOW_GUEST_PROCESSOR_SIZE; at += DUNE_PAGE_SIZE)
		if (at != GUARD &&
		    map_in_window(offset + at, area + at,
				  at == PROCESSOR_SYSTEM_CALL ? 0 : DUNE_PTE_WRITE | DUNE_PTE_NO_EXECUTE) != 0)
			return -1;
	memcpy(area + PROCESSOR_SYSTEM_CALL, dune_guest_system_call,
	       dune_guest_system_call_end - dune_guest_system_call);
	processors++;
	thread->processor = (struct dune_guest_processor *)area;
	thread->processor_address = machine()->window + offset;
	return 0;
}

/* Bytes of XSAVE's image of these components (Intel SDM vol. 1, 13.4), and 64 for what deliver.c adds. */
static uint64_t vector_size(uint64_t components)
{
	uint64_t end = 512 + 64;
	for (unsigned i = 2; i < 63; i++) {
		unsigned size, offset, ecx, edx;
		if (!(components >> i & 1))
			continue;
		__cpuid_count(0xd, i, size, offset, ecx, edx);
		if (offset + size > end)
			end = offset + size;
	}
	return ((end + 63) & ~(uint64_t)63) + 64;
}

/* Its contents at the beginning of a thread's stay. */
static void start_processor(struct dune_guest_thread *thread, uint64_t fs_base)
{
	struct dune_guest_processor *processor = thread->processor;
	struct dune_tss *tss = (struct dune_tss *)processor->tss;
	const struct dune_host *host = &machine()->host;
	*tss = (struct dune_tss){ .bitmap_offset = sizeof *tss };
	tss->ist[0] = thread->processor_address + PROCESSOR_TRAP_TOP;
	tss->ist[1] = thread->processor_address + PROCESSOR_FATAL_TOP;
	processor->kernel_rsp = 0;
	processor->kernel_fs = fs_base;
	processor->user_fs = 0;
	processor->trap = (uint64_t)dune_guest_trap;
	processor->dispatch = (uint64_t)dune_guest_call_dispatch;
	processor->run_handler = dune_guest_in_window(dune_guest_run_handler);
	processor->vector_mask = 0;
	processor->vector_size = 512; /* FXSAVE */
	if (host->xsave) {
		const uint64_t tiles = (uint64_t)3 << 17; /* AMX: handlers do not use it by themselves */
		processor->vector_mask = host->vector_components & ~tiles;
		processor->vector_size = vector_size(processor->vector_mask);
	}
	processor->thread = thread;
	processor->window = machine()->window;
	processor->window_end = machine()->window + machine()->window_size;
}

/* ---- the virtual CPU ------------------------------------------------------------------------------- */

static struct kvm_segment segment(unsigned selector, unsigned type, bool code)
{
	return (struct kvm_segment){
		.limit = ~0u, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1, .l = code, .db = !code
	};
}

/* The guest's time-stamp counter has to be the host's: the vDSO reads clocks from it. */
static void take_counter(const struct dune_vcpu *vcpu)
{
	uint64_t offset = 0;
	struct kvm_device_attr attribute = { .group = 0 /* KVM_VCPU_TSC_CTRL */,
					     .attr = 0 /* KVM_VCPU_TSC_OFFSET */,
					     .addr = (uint64_t)&offset };
	if (ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attribute) == 0)
		return;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = { { .nmsrs = 1 }, { .index = MSR_TSC, .data = dune_get_ticks() } };
	ioctl(vcpu->fd, KVM_SET_MSRS, &msr);
}

static int start_vcpu(struct dune_guest_thread *thread, uint64_t fs_base, uint64_t gs_base)
{
	struct dune_vcpu *vcpu = thread->vcpu;
	const struct dune_host *host = &machine()->host;
	struct kvm_sregs sregs;
	if (dune_vcpu_reset(vcpu) != 0 || ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) != 0)
		return dune_fail(errno, "KVM refuses the state of a virtual CPU: %s", strerror(errno));
	unsigned eax, ebx = 0, ecx, edx;
	__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
	/* Ring 0 runs what ring 3 may use as well. */
	sregs.cr4 &= ~(uint64_t)(CR4_SMEP | CR4_SMAP);
	sregs.cr4 |= (ebx & 1 ? CR4_FSGSBASE : 0) | (host->pcid ? CR4_PCIDE : 0);
	sregs.cr3 = (uint64_t)pgroot;
	sregs.cs = segment(SELECTOR_KERNEL_CODE, 11, true);
	sregs.ss = segment(SELECTOR_KERNEL_DATA, 3, false);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = (struct kvm_segment){ .unusable = 1 };
	sregs.fs.base = fs_base;
	sregs.gs.base = gs_base;
	sregs.idt = (struct kvm_dtable){ .base = machine()->window + WINDOW_GUEST_IDT, .limit = 4095 };
	sregs.tr.base = thread->processor_address;
	sregs.tr.limit = offsetof(struct dune_tss, bitmap) - 1;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[3];
	} msrs = { { .nmsrs = 3 },
		   { { .index = MSR_LSTAR, .data = thread->processor_address + PROCESSOR_SYSTEM_CALL },
		     { .index = MSR_SFMASK, .data = 0x47700 /* AC NT IF DF TF */ },
		     { .index = MSR_KERNEL_GS_BASE, .data = 0 } } };
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) != 0 || ioctl(vcpu->fd, KVM_SET_MSRS, &msrs) != (int)msrs.head.nmsrs)
		return dune_fail(errno, "KVM refuses ring 0 for a thread: %s", strerror(errno));
	take_counter(vcpu);
	vcpu->run->s.regs.sregs = sregs;
	thread->flushed = atomic_load(&dune_guest_flushes);
	return 0;
}

/* ---- entering and leaving --------------------------------------------------------------------------- */

_Static_assert(sizeof(struct dune_guest_thread) <= DUNE_PAGE_SIZE, "it is a page");

static int make_thread(struct dune_guest_thread *thread, struct dune_machine *on)
{
	const size_t size = DUNE_GUEST_STACK + DUNE_PAGE_SIZE;
	uint8_t *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (stack == MAP_FAILED)
		return dune_fail(ENOMEM, "no memory for the host side of a thread");
	mprotect(stack, DUNE_PAGE_SIZE, PROT_NONE);
	thread->host_stack = stack + size;
	thread->vcpu = dune_vcpu_new_mirror(on);
	if (!thread->vcpu || lay_out_processor(thread) != 0) {
		munmap(stack, size);
		return -1;
	}
	if (on->vector_size) {
		void *vector = mmap(NULL, on->vector_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		thread->vector = vector == MAP_FAILED ? NULL : vector;
	}
	return 0;
}

static struct dune_guest_thread *new_thread(struct dune_machine *on)
{
	struct page *page = dune_page_alloc();
	if (!page)
		return NULL;
	struct dune_guest_thread *thread = (struct dune_guest_thread *)dune_page2pa(page);
	memset(thread, 0, sizeof *thread);
	if (make_thread(thread, on) != 0) {
		dune_page_free(page);
		return NULL;
	}
	thread->next = atomic_load(&threads);
	atomic_store(&threads, thread);
	return thread;
}

static struct dune_guest_thread *take_thread(void)
{
	struct dune_machine *on = dune_mirror->machine;
	pthread_mutex_lock(&threads_lock);
	struct dune_guest_thread *thread = NULL;
	if (lay_out_code() == 0) {
		for (thread = atomic_load(&threads); thread && atomic_load(&thread->in_use);)
			thread = thread->next;
		if (!thread)
			thread = new_thread(on);
		if (thread)
			atomic_store(&thread->in_use, 1);
	}
	pthread_mutex_unlock(&threads_lock);
	return thread;
}

static bool is_mine(const struct dl_phdr_info *object)
{
	uintptr_t here = (uintptr_t)dune_guest_trap;
	bool mine = false;
	for (unsigned i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &object->dlpi_phdr[i];
		if (header->p_type == PT_LOAD && here - (object->dlpi_addr + header->p_vaddr) < header->p_memsz)
			mine = true;
	}
	return mine;
}

/* *first: the object with this code is wanted, for which there is always room; else the others. */
static int note_object(struct dl_phdr_info *object, size_t size, void *first)
{
	(void)size;
	if (is_mine(object) != *(const bool *)first)
		return 0;
	for (unsigned i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &object->dlpi_phdr[i];
		if (header->p_type != PT_LOAD || piece_count == sizeof pieces / sizeof *pieces)
			continue;
		uintptr_t begin = PGADDR(object->dlpi_addr + header->p_vaddr);
		pieces[piece_count++] =
			(struct piece){ begin, PGADDR(object->dlpi_addr + header->p_vaddr + header->p_memsz + PGMASK) };
	}
	return 0;
}

/* Mirrors the process's code and data ahead of its use: ring 0 needs some of it where it cannot ask for it. */
static int mirror_objects(void)
{
	piece_count = 0;
	dl_iterate_phdr(note_object, &(bool){ true });
	dl_iterate_phdr(note_object, &(bool){ false });
	for (unsigned i = 0; i < piece_count; i++)
		for (uintptr_t at = pieces[i].begin; at < pieces[i].end; at += PGSIZE) {
			int error = 0;
			ptent_t *entry;
			if (dune_vm_lookup(pgroot, (void *)at, CREATE_NONE, &entry) == 0 && *entry)
				continue;
			if (dune_mirror_fill(pgroot, at, 0, &error) < 0)
				return dune_fail(error, "the process cannot be mirrored: no room for its code");
		}
	return 0;
}

void dune_guest_forget_all(void)
{
	uintptr_t from = PGSIZE;
	dune_space_lock();
	for (;;) {
		/* The next piece that is kept. */
		const struct piece *next = NULL;
		for (unsigned i = 0; i < piece_count; i++)
			if (pieces[i].end > from && (!next || pieces[i].begin < next->begin))
				next = &pieces[i];
		uintptr_t to = next ? next->begin : (uintptr_t)1 << 47;
		if (from < to)
			dune_space_forget(from, to, true);
		if (!next)
			break;
		from = next->end;
	}
	dune_space_unlock();
}

static pthread_mutex_t beginning = PTHREAD_MUTEX_INITIALIZER;

static void before_fork(void)
{
	pthread_mutex_lock(&beginning);
	pthread_mutex_lock(&threads_lock);
}

static void after_fork_in_parent(void)
{
	pthread_mutex_unlock(&threads_lock);
	pthread_mutex_unlock(&beginning);
}

static void after_fork_in_child(void)
{
	dune_guest_after_fork();
	dune_guest_signals_forget();
	after_fork_in_parent();
}

/* The child has none of its parent's threads, and another mirror. */
void dune_guest_after_fork(void)
{
	atomic_store(&threads, NULL);
	dune_guest_self = NULL;
	code_laid_out = false;
	processors = 0;
	owner = 0;
}

static int handlers_error;

static void install_handlers(void)
{
	handlers_error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* Once in each process. */
static int begin_process(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	if (owner == getpid())
		return 0;
	if (dune_mirror_open() != 0) /* in a child; its handlers of fork come first */
		return -1;
	pthread_once(&once, install_handlers);
	if (handlers_error)
		return dune_fail(handlers_error, "out of memory");
	dune_guest_install_kicks();
	if (mirror_objects() != 0)
		return -1;
	owner = getpid();
	return 0;
}

static int enter(void)
{
	uint64_t fs_base = 0, gs_base = 0;
	pthread_mutex_lock(&beginning);
	int begun = begin_process();
	pthread_mutex_unlock(&beginning);
	struct dune_guest_thread *thread = begun == 0 ? take_thread() : NULL;
	if (!thread)
		return -1;
	syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_base);
	syscall(SYS_arch_prctl, ARCH_GET_GS, &gs_base);
	thread->process = getpid();
	thread->id = (pid_t)syscall(SYS_gettid);
	thread->signal.number = 0;
	thread->raised = false;
	thread->prepared = NULL;
	dune_vcpu_local = &dune_guest_local;
	thread->fault_address = thread->fault_count = thread->fault_exits = 0;
	thread->counters = (struct dune_counters){ 0 };
	thread->vcpu->exits = 0;
	start_processor(thread, fs_base);
	if (start_vcpu(thread, fs_base, gs_base) != 0 || dune_guest_signals_begin() != 0) {
		atomic_store(&thread->in_use, 0);
		return -1;
	}
	uint64_t mask = dune_guest_block_signals();
	dune_guest_self = thread;
	atomic_store(&thread->on_host, true);
	dune_guest_take_alternate(thread);
	atomic_store(&thread->entered, true);
	dune_guest_unblock_signals(mask); /* what comes from here on waits for the guest */
	return dune_guest_enter(thread, thread->host_stack, dune_guest_loop);
}

static int leave(void)
{
	struct dune_guest_thread *thread = dune_guest_self;
	struct dune_guest_processor *processor = (struct dune_guest_processor *)thread->processor_address;
	if (processor->kernel_rsp)
		return dune_fail(EINVAL, "this thread serves ring-3 code: dune_ret_from_user() comes first");
	dune_guest_leave();
	/* Host mode from here. */
	dune_guest_self = NULL;
	atomic_store(&thread->in_use, 0);
	return 0;
}

/* ---- ring 0 ----------------------------------------------------------------------------------------- */

static void *processor_here(void)
{
	return (void *)dune_guest_self->processor_address;
}

static uint64_t read_user_gs(void)
{
	uint32_t low, high;
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(MSR_KERNEL_GS_BASE));
	return (uint64_t)high << 32 | low;
}

static void write_user_gs(uint64_t base)
{
	__asm__ volatile("wrmsr" ::"c"(MSR_KERNEL_GS_BASE), "a"((uint32_t)base), "d"((uint32_t)(base >> 32)));
}

static int jump_to_user(struct dune_tf *tf)
{
	int (*enter_user)(struct dune_tf *, void *) = (void *)dune_guest_in_window(dune_guest_enter_user);
	const struct dune_guest_processor *processor = processor_here();
	if (!processor->kernel_rsp)
		return enter_user(tf, processor_here());
	/* Ring 3 that waits for this one has its GS base where ring 3 has it while ring 0 runs. */
	const uint64_t gs_base = read_user_gs();
	write_user_gs(0);
	int result = enter_user(tf, processor_here());
	write_user_gs(gs_base);
	return result;
}

static void __attribute__((noreturn)) ret_from_user(int result)
{
	void (*leave_user)(int, void *) = (void *)dune_guest_in_window(dune_guest_leave_user);
	struct dune_guest_processor *processor = dune_guest_entered() ? processor_here() : NULL;
	if (!processor || !processor->kernel_rsp) {
		dune_printf("dune: dune_ret_from_user(): this thread runs no ring-3 code\n");
		dune_die();
	}
	leave_user(result, processor);
	__builtin_unreachable();
}

void dune_pop_trap_frame(struct dune_tf *tf)
{
	void (*restore)(struct dune_tf *, void *) = (void *)dune_guest_in_window(dune_guest_restore);
	restore(tf, processor_here());
	__builtin_unreachable();
}

static unsigned long get_user_fs(void)
{
	if (!dune_guest_entered())
		return 0;
	return ((struct dune_guest_processor *)processor_here())->user_fs;
}

static void set_user_fs(unsigned long fs_base)
{
	if (dune_guest_entered())
		((struct dune_guest_processor *)processor_here())->user_fs = fs_base;
}

static int get_counters(struct dune_counters *counters)
{
	*counters = dune_guest_self->counters;
	counters->exits = dune_guest_self->vcpu->exits;
	return 0;
}

const struct dune_placement_operations dune_guest_operations = {
	.placement = DUNE_PLACEMENT_GUEST,
	.enter = enter,
	.leave = leave,
	.entered = dune_guest_entered,
	.jump_to_user = jump_to_user,
	.ret_from_user = ret_from_user,
	.get_user_fs = get_user_fs,
	.set_user_fs = set_user_fs,
	.load_cr3 = dune_guest_load_cr3,
	.read_cr3 = dune_guest_read_cr3,
	.flush_one = dune_guest_flush_one,
	.flush = dune_guest_flush,
	.flush_all = dune_guest_flush_all,
	.invpcid = dune_guest_invpcid,
	.replace = dune_guest_replace,
	.counters = get_counters,
};
