/*
 * report_libdw.c - the symboliser: unwinds stacks and finds symbols and source lines with elfutils' libdw.
 *
 * It reads this process's own program files; of a compartment it gets registers and a copy of its stack, which may
 * hold anything.  Unwinding reads no other memory, stops at the first address that is no program text, and has a
 * bounded depth.  Debugging information is looked for in local files only, never fetched.
 */
#define _GNU_SOURCE
#include "symboliser.h"

#include <elfutils/libdwfl.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum {
	DWARF_REGISTERS = 17, /* numbers of the x86-64 ABI; the last is the return address */
};

extern const struct report_symboliser sthread_report_symboliser_1;

/* One stack being unwound. */
struct job {
	uint64_t registers[DWARF_REGISTERS];
	const struct report_stack *stack;
	bool (*is_text)(uint64_t);
	uint64_t *frames;
	unsigned count, room;
	bool inside; /* past the innermost frame */
};

/* The files of the process stay open from one report to the next; libdw is used by one thread at a time. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Dwfl *session;
static unsigned long long loaded, unloaded; /* objects, when the session began */
static struct job *job;

/* ---- the files of the process ------------------------------------------------------------------------ */

static int find_no_elf(Dwfl_Module *module, void **data, const char *name, Dwarf_Addr base, char **file, Elf **elf)
{
	(void)module, (void)data, (void)name, (void)base, (void)file, (void)elf;
	return -1; /* all are reported with their files */
}

static const Dwfl_Callbacks files = {
	.find_elf = find_no_elf,
	.find_debuginfo = dwfl_build_id_find_debuginfo,
	.section_address = dwfl_offline_section_address,
};

static int report_object(struct dl_phdr_info *object, size_t size, void *program)
{
	const char *name = object->dlpi_name && object->dlpi_name[0] ? object->dlpi_name : program;
	(void)size;
	/* The program by its open file: its name may lead to another one by now. */
	int fd = open(name == program ? "/proc/self/exe" : name, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && !dwfl_report_elf(session, name, name, fd, object->dlpi_addr, true))
		close(fd);
	return 0;
}

static int count_objects(struct dl_phdr_info *object, size_t size, void *unused)
{
	(void)size, (void)unused;
	loaded = object->dlpi_adds;
	unloaded = object->dlpi_subs;
	return 1;
}

/* Makes or renews the session.  Caller holds the lock. */
static bool begin(void)
{
	unsigned long long loaded_before = loaded, unloaded_before = unloaded;
	char program[4096];
	dl_iterate_phdr(count_objects, NULL);
	if (session && loaded == loaded_before && unloaded == unloaded_before)
		return true;
	if (session)
		dwfl_end(session);
	session = dwfl_begin(&files);
	if (!session)
		return false;
	ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
	program[length > 0 ? length : 0] = 0;
	dwfl_report_begin(session);
	dl_iterate_phdr(report_object, program);
	dwfl_report_end(session, NULL, NULL);
	return true;
}

/* ---- unwinding ---------------------------------------------------------------------------------------- */

static pid_t next_thread(Dwfl *dwfl, void *unused, void **argument)
{
	(void)unused;
	if (*argument)
		return 0;
	*argument = dwfl;
	return 1;
}

static bool read_stack(Dwfl *dwfl, Dwarf_Addr address, Dwarf_Word *result, void *unused)
{
	const struct report_stack *stack = job->stack;
	(void)dwfl, (void)unused;
	if (address - stack->start >= stack->size || stack->size - (address - stack->start) < sizeof(uint64_t))
		return false;
	uint64_t word;
	memcpy(&word, (const uint8_t *)stack->words + (address - stack->start), sizeof word);
	*result = word;
	return true;
}

static bool set_registers(Dwfl_Thread *thread, void *unused)
{
	Dwarf_Word registers[DWARF_REGISTERS];
	(void)unused;
	for (unsigned i = 0; i < DWARF_REGISTERS; i++)
		registers[i] = job->registers[i];
	return dwfl_thread_state_registers(thread, 0, DWARF_REGISTERS, registers);
}

static const Dwfl_Thread_Callbacks threads = {
	.next_thread = next_thread,
	.memory_read = read_stack,
	.set_initial_registers = set_registers,
};

static int take_frame(Dwfl_Frame *frame, void *unused)
{
	Dwarf_Addr address;
	(void)unused;
	if (!job->inside) {
		job->inside = true; /* the innermost one is known */
		return DWARF_CB_OK;
	}
	if (job->count == job->room || !dwfl_frame_pc(frame, &address, NULL) || !job->is_text(address))
		return DWARF_CB_ABORT;
	job->frames[job->count++] = address;
	return DWARF_CB_OK;
}

static unsigned unwind(const uint64_t *registers, const struct report_stack *stack, bool (*is_text)(uint64_t),
		       uint64_t *frames, unsigned room)
{
	static const uint8_t order[DWARF_REGISTERS] = {
		REPORT_RAX,    REPORT_RDX,    REPORT_RCX,    REPORT_RBX,    REPORT_RSI,    REPORT_RDI,
		REPORT_RBP,    REPORT_RSP,    REPORT_R8,     REPORT_R8 + 1, REPORT_R8 + 2, REPORT_R8 + 3,
		REPORT_R8 + 4, REPORT_R8 + 5, REPORT_R8 + 6, REPORT_R8 + 7, REPORT_RIP,
	};
	struct job own = { .stack = stack, .is_text = is_text, .frames = frames, .room = room };
	for (unsigned i = 0; i < DWARF_REGISTERS; i++)
		own.registers[i] = registers[order[i]];
	pthread_mutex_lock(&lock);
	job = &own;
	/* Only the first attaching of a session does something; a failure is noticed by the next call. */
	if (begin()) {
		if (dwfl_pid(session) < 0)
			(void)dwfl_attach_state(session, NULL, getpid(), &threads, NULL);
		dwfl_getthread_frames(session, 1, take_frame, NULL);
	}
	job = NULL;
	pthread_mutex_unlock(&lock);
	return own.count;
}

/* ---- symbols ------------------------------------------------------------------------------------------ */

static void copy_text(char *to, size_t room, const char *from)
{
	size_t length = strnlen(from, room - 1);
	memcpy(to, from, length);
	to[length] = 0;
}

/* libdw looks compilation units up in .debug_aranges, which clang does not write: then all of them are asked. */
static const char *find_line_in_units(Dwfl_Module *module, Dwarf_Addr address, int *number)
{
	Dwarf_Addr bias;
	for (Dwarf_Die *unit = NULL; (unit = dwfl_module_nextcu(module, unit, &bias));) {
		Dwarf_Line *line =
			dwarf_haspc(unit, address - bias) > 0 ? dwarf_getsrc_die(unit, address - bias) : NULL;
		if (line)
			return dwarf_lineno(line, number) == 0 ? dwarf_linesrc(line, NULL, NULL) : NULL;
	}
	return NULL;
}

static void find_line(Dwfl_Module *module, Dwarf_Addr address, struct sthread_symbol *symbol)
{
	Dwfl_Line *line = dwfl_module_getsrc(module, address);
	const char *file = line ? dwfl_lineinfo(line, NULL, &symbol->line, NULL, NULL, NULL) :
				  find_line_in_units(module, address, &symbol->line);
	if (file)
		copy_text(symbol->file, sizeof symbol->file, file);
	else
		symbol->line = 0;
}

static bool find_symbol(Dwarf_Addr address, struct sthread_symbol *symbol)
{
	Dwfl_Module *module = dwfl_addrmodule(session, address);
	Dwarf_Addr start;
	GElf_Off offset;
	GElf_Sym found;
	const char *object = module ? dwfl_module_info(module, NULL, &start, NULL, NULL, NULL, NULL, NULL) : NULL;
	if (!object)
		return false;
	copy_text(symbol->object, sizeof symbol->object, object);
	symbol->offset = address - start;
	const char *name = dwfl_module_addrinfo(module, address, &offset, &found, NULL, NULL, NULL);
	if (name) {
		copy_text(symbol->name, sizeof symbol->name, name);
		symbol->offset = offset;
	}
	find_line(module, address, symbol);
	return true;
}

static bool symbol(uint64_t address, struct sthread_symbol *symbol)
{
	pthread_mutex_lock(&lock);
	bool found = begin() && find_symbol(address, symbol);
	pthread_mutex_unlock(&lock);
	return found;
}

const struct report_symboliser sthread_report_symboliser_1 = { .unwind = unwind, .symbol = symbol };
