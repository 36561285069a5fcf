/* budget_table.c - the tables of budget.  See budget.h. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "budget.h"
#include "measure_print.h"

enum {
	PARTS = 12,
	NAME = 40
};

/* One line of a budget: so many times that. */
struct part {
	const char *name;
	double count, each; /* nanoseconds */
};

struct sum {
	const char *name;
	double measured; /* NAN: it was not */
	struct part parts[PARTS];
	unsigned count;
	double supervisor; /* its own part of it */
	double run_loop;   /* measured; NAN: not known */
};

static double median(const struct measurement *measurement, int rung)
{
	return measure_summary(measurement, &measurement->rungs[rung]).median;
}

static void add(struct sum *sum, const char *name, double count, double each)
{
	if (count != 0 && sum->count < PARTS)
		sum->parts[sum->count++] = (struct part){ name, count, each };
}

static double total(const struct sum *sum)
{
	double nanoseconds = 0;
	for (unsigned i = 0; i < sum->count; i++)
		nanoseconds += sum->parts[i].count * sum->parts[i].each;
	return nanoseconds;
}

/* ---- operations ------------------------------------------------------------------------------------ */

/* The time is read so often around each exit. */
static double clocks_for(const struct counted *counted, double exits)
{
	double here = 0;
	for (unsigned i = 0; i <= DUNE_EXIT_BROKEN; i++)
		here += counted->kinds[i];
	return here > 0 ? counted->host_calls[HOST_CLOCK] / here * exits : 0;
}

/* What the supervisor does besides copying pages and calling the host. */
static double supervisors_own(const struct measurement *measurement, int operation, const struct counted *counted)
{
	static const int host_units[HOST_CALLS] = { UNIT_CLOCK, UNIT_TIMER, UNIT_READ, UNIT_IOCTL };
	double own = median(measurement, PLAYED + operation) -
		     (counted->restored + counted->copied) * median(measurement, UNIT_PAGE);
	for (unsigned i = 0; i < HOST_CALLS; i++)
		own -= counted->host_calls[i] * median(measurement, host_units[i]);
	return own;
}

static struct sum operation_sum(const struct measurement *measurement, int operation, const struct counted *counted)
{
	struct sum sum = { .name = budget_names[operation],
			   .measured = median(measurement, OPERATION + operation),
			   .run_loop = median(measurement, IN_RUN_LOOP + operation) };
	add(&sum, "exits", counted->kinds[DUNE_EXIT_SERVICE], median(measurement, UNIT_EXIT));
	add(&sum, "exits by system calls", counted->kinds[DUNE_EXIT_SYSTEM_CALL], median(measurement, UNIT_CALL_EXIT));
	add(&sum, "exits by traps", counted->kinds[DUNE_EXIT_EXCEPTION], median(measurement, UNIT_TRAP));
	add(&sum, "changes of tenant, beyond the exit", counted->tenants,
	    median(measurement, UNIT_TENANTS) - median(measurement, UNIT_EXIT));
	if (operation == BUDGET_LIFE_8)
		add(&sum, "the body's stores", 1, median(measurement, UNIT_STORES));
	add(&sum, "pages restored", counted->restored, median(measurement, UNIT_PAGE));
	add(&sum, "pages copied", counted->copied, median(measurement, UNIT_PAGE));
	add(&sum, "clock_gettime", counted->host_calls[HOST_CLOCK], median(measurement, UNIT_CLOCK));
	add(&sum, "timer_settime", counted->host_calls[HOST_TIMER], median(measurement, UNIT_TIMER));
	add(&sum, "preadv", counted->host_calls[HOST_READ], median(measurement, UNIT_READ));
	add(&sum, "ioctl of the virtual CPU", counted->host_calls[HOST_IOCTL], median(measurement, UNIT_IOCTL));
	sum.supervisor = supervisors_own(measurement, operation, counted);
	add(&sum, "the supervisor's own instructions", 1, sum.supervisor);
	return sum;
}

/* ---- requests -------------------------------------------------------------------------------------- */

static double counter(const struct measurement *measurement, int rung, enum counter which)
{
	const struct result *result = measure_result(measurement, &measurement->rungs[rung]);
	return result->operations ? result->counters[which] / (double)result->operations : 0;
}

/* lives: that one request begins.  Its own instructions are those of so many lives, of its gate calls, and of steps for the
 * other exits. */
static double requests_supervisor(const struct measurement *measurement, int rung, double lives,
				  const struct counted counted[BUDGET_OPERATIONS])
{
	double gates = counter(measurement, rung, COUNT_GATE_CALLS), calls = counter(measurement, rung, COUNT_CALLS);
	double steps = counter(measurement, rung, COUNT_EXITS) - lives - 2 * gates - calls;
	return lives * supervisors_own(measurement, BUDGET_LIFE, &counted[BUDGET_LIFE]) +
	       gates * supervisors_own(measurement, BUDGET_GATE, &counted[BUDGET_GATE]) +
	       calls * supervisors_own(measurement, BUDGET_CALL, &counted[BUDGET_CALL]) +
	       (steps > 0 ? steps : 0) * supervisors_own(measurement, BUDGET_STEP, &counted[BUDGET_STEP]);
}

static struct sum request_sum(const struct measurement *measurement, bool kept,
			      const struct counted counted[BUDGET_OPERATIONS])
{
	int rung = kept ? REQUEST_KEPT : REQUEST_NEW, none = kept ? REQUEST_KEPT_NONE : REQUEST_NEW_NONE;
	struct sum sum = { .name = measurement->rungs[rung].name,
			   .measured = median(measurement, rung),
			   .run_loop = NAN };
	double exits = counter(measurement, rung, COUNT_EXITS), traps = counter(measurement, rung, COUNT_TRAPS);
	double calls =
		median(measurement, UNIT_EPOLL) + median(measurement, UNIT_RECV) + median(measurement, UNIT_SEND);
	add(&sum, "without isolation: epoll_wait, recv, send", 1, calls);
	add(&sum, "without isolation: everything else", 1, median(measurement, none) - calls);
	add(&sum, "exits", exits - traps, median(measurement, UNIT_EXIT));
	add(&sum, "exits by traps", traps, median(measurement, UNIT_TRAP));
	add(&sum, "changes of tenant, beyond the exit", exits,
	    median(measurement, UNIT_TENANTS) - median(measurement, UNIT_EXIT));
	add(&sum, "pages restored", counter(measurement, rung, COUNT_RESTORED), median(measurement, UNIT_PAGE));
	add(&sum, "pages copied", counter(measurement, rung, COUNT_COPIED), median(measurement, UNIT_PAGE));
	add(&sum, "clock_gettime", clocks_for(&counted[BUDGET_GATE], exits), median(measurement, UNIT_CLOCK));
	sum.supervisor = requests_supervisor(measurement, rung, kept ? 1 : 2, counted);
	add(&sum, "the supervisor's own instructions", 1, sum.supervisor);
	/* An estimate: what runs after an exit, inside and outside, is about as much code as a record's. */
	double cold =
		median(measurement, RECORD_AFTER_EXIT) - median(measurement, RECORD) - median(measurement, UNIT_EXIT);
	if (!isnan(cold))
		add(&sum, "code that an exit has made slow", exits, cold);
	return sum;
}

/* ---- the budget ------------------------------------------------------------------------------------ */

static void print_sum(const struct sum *sum)
{
	char text[16], each[16];
	if (isnan(sum->measured) || !sum->count) {
		printf("%-*s not measured\n", NAME + 2, sum->name);
		return;
	}
	double rest = sum->measured - total(sum);
	printf("%-*s %31s\n", NAME + 2, sum->name, print_duration(sum->measured, text));
	for (unsigned i = 0; i < sum->count; i++) {
		const struct part *part = &sum->parts[i];
		double nanoseconds = part->count * part->each;
		printf("  %-*s %7.2f x %10s %10s %5.1f%%\n", NAME, part->name, part->count,
		       print_duration(part->each, each), print_duration(nanoseconds, text),
		       100 * nanoseconds / sum->measured);
	}
	printf("  %-*s %31s %5.1f%%\n", NAME, "not accounted for", print_duration(rest, text),
	       100 * rest / sum->measured);
}

static struct sum sum_of(const struct measurement *measurement, int which,
			 const struct counted counted[BUDGET_OPERATIONS])
{
	if (which < BUDGET_OPERATIONS)
		return operation_sum(measurement, which, &counted[which]);
	return request_sum(measurement, which == BUDGET_OPERATIONS, counted);
}

/* How much of an operation's rest is inside the run loop, where ring 3 and cold caches are. */
static void print_run_loop(const struct sum *sum, const struct counted *counted)
{
	char text[16];
	double exits = 0;
	if (isnan(sum->measured) || isnan(sum->run_loop) || !counted->known)
		return;
	for (unsigned i = 0; i < sum->count; i++)
		if (strncmp(sum->parts[i].name, "exits", 5) == 0 || strncmp(sum->parts[i].name, "changes", 7) == 0 ||
		    strncmp(sum->parts[i].name, "the body", 8) == 0)
			exits += sum->parts[i].count * sum->parts[i].each;
	printf("  %-*s %31s %5.1f%%\n", NAME, "  of it inside KVM_RUN and around it",
	       print_duration(sum->run_loop - exits, text), 100 * (sum->run_loop - exits) / sum->measured);
}

static void print_unit(const struct measurement *measurement, int unit)
{
	char text[16];
	const struct rung *rung = &measurement->rungs[unit];
	const char *problem =
		measure_result(measurement, unit < UNITS ? &measurement->rungs[OPERATION] : rung)->problem;
	if (isnan(median(measurement, unit)))
		printf("%-*s not measured: %s\n", NAME, rung->name, problem);
	else
		printf("%-*s %10s  %s\n", NAME, rung->name, print_duration(median(measurement, unit), text),
		       rung->includes);
}

void budget_print(const struct measurement *measurement, const struct counted counted[BUDGET_OPERATIONS])
{
	printf("%-*s %10s  %s\n", NAME, "one of them, alone", "median", "");
	for (int i = 0; i < UNITS; i++)
		print_unit(measurement, i);
	print_unit(measurement, RECORD);
	print_unit(measurement, RECORD_AFTER_EXIT);
	printf("\n%-*s %10s %10s %10s %6s\n", NAME, "budget on this host", "number", "each", "together", "");
	for (int i = 0; i < BUDGET_OPERATIONS + 2; i++) {
		struct sum sum = sum_of(measurement, i, counted);
		print_sum(&sum);
		if (i < BUDGET_OPERATIONS)
			print_run_loop(&sum, &counted[i]);
	}
}

/* ---- where ring 0 is native -------------------------------------------------------------------------- */

struct native_counts {
	double exits, pages, instructions, visits;
	bool known;
};

/* Finds a row in what measure_write_json() has written: one field of it to a line. */
static struct native_counts native_counts(const char *path, const char *row)
{
	static const struct {
		const char *name;
		size_t offset;
	} fields[] = {
		{ "\"exits\": ", offsetof(struct native_counts, exits) },
		{ "\"pages_restored\": ", offsetof(struct native_counts, pages) },
		{ "\"ring0_instructions\": ", offsetof(struct native_counts, instructions) },
		{ "\"ring0_visits\": ", offsetof(struct native_counts, visits) },
	};
	struct native_counts counts = { 0 };
	char line[1024], wanted[128];
	bool inside = false;
	FILE *file = path ? fopen(path, "re") : NULL;
	snprintf(wanted, sizeof wanted, "    { \"name\": \"%s\"", row);
	while (file && fgets(line, sizeof line, file)) {
		if (strncmp(line, "    { \"name\"", 12) == 0)
			inside = strncmp(line, wanted, strlen(wanted)) == 0;
		if (!inside || !strstr(line, "\"per_operation\""))
			continue;
		counts.known = true;
		for (unsigned i = 0; i < sizeof fields / sizeof *fields; i++) {
			const char *at = strstr(line, fields[i].name);
			counts.known = counts.known && at;
			if (at)
				*(double *)((char *)&counts + fields[i].offset) =
					strtod(at + strlen(fields[i].name), NULL);
		}
	}
	if (file)
		fclose(file);
	return counts;
}

/* The operation where ring 0 is native; unknown without counts. */
static double projected(const struct measurement *measurement, int operation,
			const struct counted counted[BUDGET_OPERATIONS], const struct native *native,
			struct native_counts *counts)
{
	const double page = median(measurement, UNIT_PAGE);
	double nanoseconds = 0, supervisor = 0;
	if (operation < BUDGET_OPERATIONS) {
		*counts = native_counts(native->path, budget_rows[operation]);
		supervisor = supervisors_own(measurement, operation, &counted[operation]);
		/* Gate calls without an exit do not come to the supervisor. */
		if (operation == BUDGET_GATE)
			supervisor *= counts->exits / 2;
		nanoseconds = clocks_for(&counted[operation], counts->exits) * median(measurement, UNIT_CLOCK);
		if (operation == BUDGET_LIFE_8)
			nanoseconds += median(measurement, UNIT_STORES);
		if (operation == BUDGET_READ)
			nanoseconds += median(measurement, UNIT_READ);
	} else {
		/* The gate's calls carry messages, which exit there as well: the exits are those of this host. */
		bool kept = operation == BUDGET_OPERATIONS;
		int rung = kept ? REQUEST_KEPT : REQUEST_NEW;
		counts->exits = counter(measurement, rung, COUNT_EXITS);
		counts->pages = counter(measurement, rung, COUNT_RESTORED) + counter(measurement, rung, COUNT_COPIED);
		counts->visits = counter(measurement, rung, COUNT_CALLS) + counter(measurement, rung, COUNT_TRAPS);
		counts->known = counts->exits > 0;
		supervisor = requests_supervisor(measurement, rung, kept ? 1 : 2, counted);
		nanoseconds = median(measurement, kept ? REQUEST_KEPT_NONE : REQUEST_NEW_NONE) +
			      clocks_for(&counted[BUDGET_GATE], counts->exits) * median(measurement, UNIT_CLOCK);
	}
	if (!counts->known)
		return NAN;
	return nanoseconds + supervisor + counts->exits * native->exit_ns + counts->visits * native->visit_ns +
	       counts->instructions * median(measurement, UNIT_INSTRUCTION) + counts->pages * page;
}

void budget_print_native(const struct measurement *measurement, const struct counted counted[BUDGET_OPERATIONS],
			 const struct native *native)
{
	char here[16], there[16], exit[16], visit[16], instruction[16];
	printf("\nWhat native ring 0 would give: A PROJECTION, nothing of it was measured with hardware virtualisation.\n"
	       "Counts: %s.\nAssumed: exit %s, ring 0 entered and left %s; measured here: instruction %s, pages, the\n"
	       "supervisor's own instructions, what is not isolated.\n\n",
	       native->path ? basename(native->path) : "none, see --native", print_duration(native->exit_ns, exit),
	       print_duration(native->visit_ns, visit),
	       print_duration(median(measurement, UNIT_INSTRUCTION), instruction));
	printf("%-*s %7s %8s %7s %7s %11s %11s\n", NAME, "one operation", "exits", "instr.", "visits", "pages",
	       "projected", "this host");
	for (int i = 0; i < BUDGET_OPERATIONS + 2; i++) {
		struct native_counts counts = { 0 };
		struct sum sum = sum_of(measurement, i, counted);
		double nanoseconds = projected(measurement, i, counted, native, &counts);
		if (isnan(nanoseconds) || isnan(sum.measured))
			printf("%-*s no counts, or not measured\n", NAME, sum.name);
		else
			printf("%-*s %7.2f %8.1f %7.2f %7.2f %11s %11s\n", NAME, sum.name, counts.exits,
			       counts.instructions, counts.visits, counts.pages, print_duration(nanoseconds, there),
			       print_duration(sum.measured, here));
	}
}

/* ---- JSON ------------------------------------------------------------------------------------------ */

static void write_number(FILE *file, const char *before, const char *name, double value)
{
	if (isnan(value))
		fprintf(file, "%s\"%s\": null", before, name);
	else
		fprintf(file, "%s\"%s\": %.4f", before, name, value);
}

int budget_write_json(const struct measurement *measurement, const struct counted counted[BUDGET_OPERATIONS],
		      const struct native *native, const char *path)
{
	FILE *file = fopen(path, "we");
	if (!file)
		return -1;
	fputs("{\n  \"units\": {", file);
	for (int i = 0; i < UNITS; i++)
		write_number(file, i ? ",\n    " : "\n    ", measurement->rungs[i].name, median(measurement, i));
	write_number(file, ",\n    ", measurement->rungs[RECORD].name, median(measurement, RECORD));
	write_number(file, ",\n    ", measurement->rungs[RECORD_AFTER_EXIT].name,
		     median(measurement, RECORD_AFTER_EXIT));
	write_number(file, "\n  },\n  \"assumed\": { ", "exit_ns", native->exit_ns);
	write_number(file, ", ", "visit_ns", native->visit_ns);
	fputs(" },\n  \"operations\": [", file);
	for (int i = 0; i < BUDGET_OPERATIONS + 2; i++) {
		struct native_counts counts = { 0 };
		struct sum sum = sum_of(measurement, i, counted);
		fprintf(file, "%s\n    { \"name\": \"%s\"", i ? "," : "", sum.name);
		write_number(file, ", ", "measured_ns", sum.measured);
		write_number(file, ", ", "not_accounted_ns", sum.measured - total(&sum));
		write_number(file, ", ", "in_run_loop_ns", sum.run_loop);
		write_number(file, ", ", "projected_native_ns", projected(measurement, i, counted, native, &counts));
		fputs(",\n      \"parts\": [", file);
		for (unsigned j = 0; j < sum.count; j++) {
			fprintf(file, "%s{ \"name\": \"%s\"", j ? ", " : " ", sum.parts[j].name);
			write_number(file, ", ", "count", sum.parts[j].count);
			write_number(file, ", ", "each_ns", sum.parts[j].each);
			fputs(" }", file);
		}
		fputs(" ] }", file);
	}
	fputs("\n  ]\n}\n", file);
	bool good = !ferror(file);
	return fclose(file) == 0 && good ? 0 : -1;
}
