/* report_symbols.c - symbols and backtraces, by the symboliser if it is there.  See report.h. */
#define _GNU_SOURCE
#include "report.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

#include "malloc_switch.h"
#include "symboliser.h"

/* Only in programs that link it; else it is loaded. */
extern const struct report_symboliser sthread_report_symboliser_1 __attribute__((weak));

/* ---- the symboliser --------------------------------------------------------------------------------- */

static const struct report_symboliser *symboliser;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *open_library(void)
{
	Dl_info own;
	char path[4096];
	const char *slash = dladdr(&symboliser, &own) && own.dli_fname ? strrchr(own.dli_fname, '/') : NULL;
	if (slash) {
		int length = snprintf(path, sizeof path, "%.*s/%s", (int)(slash - own.dli_fname), own.dli_fname,
				      REPORT_SYMBOLISER_LIBRARY);
		void *library = length < (int)sizeof path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
		if (library)
			return library;
	}
	return dlopen(REPORT_SYMBOLISER_LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

static void find_symboliser(void)
{
	if (&sthread_report_symboliser_1) {
		symboliser = &sthread_report_symboliser_1;
		return;
	}
	void *library = open_library();
	if (library)
		symboliser = dlsym(library, REPORT_SYMBOLISER_SYMBOL);
}

static const struct report_symboliser *get_symboliser(void)
{
	pthread_once(&once, find_symboliser);
	return symboliser;
}

/* ---- frames ----------------------------------------------------------------------------------------- */

/* The snapshot does not change: no lock is needed. */
bool report_is_text(uint64_t address)
{
	const struct snapshot_region *region = snapshot_find(&supervisor.snapshot, address);
	return region && region->execute;
}

static bool in_trampoline(uint64_t address)
{
	return address - supervisor.machine->window - WINDOW_TRAMPOLINE < DUNE_PAGE_SIZE;
}

/* The replaced vDSO has no tables for unwinding; each of its functions is a call and a return. */
static bool in_vdso(uint64_t address)
{
	const struct snapshot_region *region = snapshot_find(&supervisor.snapshot, getauxval(AT_SYSINFO_EHDR));
	return region && address >= region->start && address < region->end;
}

static bool stack_word(const struct report_stack *stack, uint64_t address, uint64_t *word)
{
	if (address - stack->start >= stack->size || stack->size - (address - stack->start) < sizeof *word)
		return false;
	memcpy(word, (const uint8_t *)stack->words + (address - stack->start), sizeof *word);
	return true;
}

/* Without a symboliser: the chain of frame pointers, where programs are compiled with them. */
static unsigned follow_frame_pointers(const uint64_t *registers, const struct report_stack *stack, uint64_t *frames,
				      unsigned room)
{
	uint64_t frame = registers[REPORT_RBP], above, from;
	unsigned count = 0;
	while (count < room && stack_word(stack, frame, &above) && stack_word(stack, frame + 8, &from) &&
	       report_is_text(from)) {
		frames[count++] = from;
		if (above <= frame)
			break;
		frame = above;
	}
	return count;
}

static unsigned unwind(const uint64_t *registers, const struct report_stack *stack, uint64_t *frames, unsigned room)
{
	const struct report_symboliser *using = get_symboliser();
	return using ? using->unwind(registers, stack, report_is_text, frames, room) :
		       follow_frame_pointers(registers, stack, frames, room);
}

/* In a gate call that ring 0 can make the caller's registers are on its stack: dune_trampoline_direct_call. */
static void leave_direct_call(const struct report_stack *stack, uint64_t *registers)
{
	static const int saved[] = {
		REPORT_R8 + 7, REPORT_R8 + 6, REPORT_R8 + 5, REPORT_R8 + 4, REPORT_RBP, REPORT_RBX
	};
	uint64_t at = registers[REPORT_RSP], back;
	if (!in_trampoline(registers[REPORT_RIP]) || !stack_word(stack, at, &back) ||
	    back != supervisor.machine->trampoline_direct_back)
		return;
	at += 3 * sizeof at; /* also where the result goes, and flags */
	for (unsigned i = 0; i < sizeof saved / sizeof *saved; i++, at += sizeof at)
		if (!stack_word(stack, at, &registers[saved[i]]))
			return;
	registers[REPORT_RSP] = at;
}

static void find_frames(struct sthread_report *report, const struct report_stack *stack)
{
	uint64_t registers[STHREAD_REGISTERS], rip, *frames = report->frames;
	unsigned count = 0;
	memcpy(registers, report->registers, sizeof registers);
	rip = registers[REPORT_RIP];
	if (!in_trampoline(rip))
		frames[count++] = rip; /* also when it is nowhere */
	leave_direct_call(stack, registers);
	if (!report_is_text(rip) || in_vdso(rip)) {
		/* As if it had just been called, which is how one gets there. */
		if (!stack_word(stack, registers[REPORT_RSP], &rip) || !report_is_text(rip)) {
			report->frame_count = count;
			return;
		}
		registers[REPORT_RSP] += sizeof rip;
		registers[REPORT_RIP] = rip;
		frames[count++] = rip;
	}
	report->frame_count = count + unwind(registers, stack, frames + count, STHREAD_REPORT_FRAMES - count);
}

static int is_in_object(struct dl_phdr_info *object, size_t size, void *argument)
{
	uint64_t address = *(const uint64_t *)argument;
	(void)size;
	for (unsigned i = 0; i < object->dlpi_phnum; i++)
		if (object->dlpi_phdr[i].p_type == PT_LOAD &&
		    address - object->dlpi_addr - object->dlpi_phdr[i].p_vaddr < object->dlpi_phdr[i].p_memsz)
			return 1;
	return 0;
}

void report_complete(struct report_capture *capture)
{
	struct sthread_report *report = &capture->report;
	if (capture->completed)
		return;
	capture->completed = true;
	malloc_switch_pause();
	if (report->end != STHREAD_HOST_FAILURE)
		find_frames(report, &capture->stack);
	malloc_switch_resume();
	if (report->touched == STHREAD_TOUCHED_SNAPSHOT && dl_iterate_phdr(is_in_object, &report->address))
		report->touched = STHREAD_TOUCHED_GLOBAL;
}

/* ---- symbols ---------------------------------------------------------------------------------------- */

static void copy_text(char *to, size_t room, const char *from)
{
	size_t length = strnlen(from, room - 1);
	memcpy(to, from, length);
	to[length] = 0;
}

/* What the dynamic linker knows: exported symbols. */
static bool find_exported(uint64_t address, struct sthread_symbol *symbol)
{
	Dl_info found;
	if (!dladdr((const void *)(uintptr_t)address, &found) || !found.dli_fname)
		return false;
	copy_text(symbol->object, sizeof symbol->object, found.dli_fname);
	if (found.dli_sname)
		copy_text(symbol->name, sizeof symbol->name, found.dli_sname);
	symbol->offset = address - (uintptr_t)(found.dli_sname ? found.dli_saddr : found.dli_fbase);
	return true;
}

int sthread_symbol(uint64_t address, struct sthread_symbol *symbol)
{
	if (supervisor_inside()) {
		errno = EPERM;
		return -1;
	}
	if (!symbol)
		return dune_fail(EINVAL, "no place for the symbol");
	malloc_switch_pause();
	const struct report_symboliser *using = get_symboliser();
	memset(symbol, 0, sizeof *symbol);
	bool found = using && using->symbol(address, symbol);
	malloc_switch_resume();
	if (found)
		return 0;
	memset(symbol, 0, sizeof *symbol);
	return find_exported(address, symbol) ? 0 : dune_fail(ENOENT, "no loaded file has this address");
}
