/*
 * report.c - prints counters of the library; computes none but sums.
 */
#include "report.h"

#include "compartment.h"
#include "options.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

static void add_counts(struct sthread_info *sum, const struct sthread_info *info)
{
	sum->exits += info->exits;
	sum->traps += info->traps;
	sum->calls_served += info->calls_served;
	sum->calls_denied += info->calls_denied;
	sum->gate_calls += info->gate_calls;
	sum->pages_copied += info->pages_copied;
	sum->pages_restored += info->pages_restored;
	sum->parks += info->parks;
}

void report_request(struct connection_report *report, const struct sthread_info *info)
{
	if (report->requests_counted < REPORT_REQUESTS_MAX)
		report->first_requests[report->requests_counted] = *info;
	else
		add_counts(&report->more_requests, info);
	report->requests_counted++;
}

static void print_counts(const struct sthread_info *info)
{
	(void)printf("exits %" PRIu64 ", traps %" PRIu64 ", calls served %" PRIu64 ", denied %" PRIu64
		     ", gate calls %" PRIu64 ", pages copied %" PRIu64 ", restored %" PRIu64 ", parks %" PRIu64 "\n",
		     info->exits, info->traps, info->calls_served, info->calls_denied, info->gate_calls,
		     info->pages_copied, info->pages_restored, info->parks);
}

static void print_life(const char *name, const struct sthread_info *info)
{
	(void)printf("  %-16s address space %" PRIu64 ", life %" PRIu64 "%s: ", name, info->address_space,
		     info->instance, info->recycled ? " (recycled)" : "");
	print_counts(info);
}

/* Who has served it, if no compartments did. */
static const char *where(char *out, size_t room)
{
	switch (compartments_isolation()) {
	case ISOLATION_STHREAD:
		return "";
	case ISOLATION_THREAD:
		(void)snprintf(out, room, ", in thread %ld", (long)gettid());
		return out;
	case ISOLATION_FORK:
	case ISOLATION_FORK_PER_REQUEST:
		(void)snprintf(out, room, ", in process %ld", (long)getpid());
		return out;
	case ISOLATION_NONE:
		break;
	}
	return ", no compartments";
}

void report_connection(const struct connection_report *report)
{
	char text[40];
	uint64_t shown =
		report->requests_counted < REPORT_REQUESTS_MAX ? report->requests_counted : REPORT_REQUESTS_MAX;

	(void)printf("connection %" PRIu64 " from %s: %" PRIu64 " request%s%s\n", report->number, report->peer,
		     report->requests, report->requests == 1 ? "" : "s", where(text, sizeof(text)));
	if (report->tls_counted)
		print_life("TLS sthread", &report->tls);
	for (uint64_t i = 0; i < shown; i++)
		print_life("request sthread", &report->first_requests[i]);
	if (report->requests_counted > shown) {
		(void)printf("  and %" PRIu64 " more request sthreads: ", report->requests_counted - shown);
		print_counts(&report->more_requests);
	}
	(void)fflush(stdout);
}

static void print_library(void)
{
	struct sthread_statistics s;

	if (compartments_isolation() != ISOLATION_STHREAD || sthread_statistics(&s) != 0)
		return;
	(void)printf("  sthreads: %" PRIu64 " lives, %" PRIu64 " of them recycled, in %" PRIu64
		     " address spaces; calls served %" PRIu64 ", denied %" PRIu64 ", gate calls %" PRIu64 "\n",
		     s.lives, s.lives_recycled, s.address_spaces, s.calls_served, s.calls_denied, s.gate_calls);
	(void)printf("  machine: exits %" PRIu64 ", %" PRIu64 " of them by signals, traps %" PRIu64
		     ", page-table edits in ring 0 %" PRIu64 "; pages copied %" PRIu64 ", restored %" PRIu64
		     ", snapshot %" PRIu64 "\n",
		     s.exits, s.exits_interrupted, s.traps, s.monitor_edits, s.pages_copied, s.pages_restored,
		     s.snapshot_pages);
	(void)printf("  changes of address space: %" PRIu64 " that flush, %" PRIu64 " that keep translations\n",
		     s.tlb_flushes, s.tlb_kept);
}

void report_server(enum isolation isolation, uint64_t connections, uint64_t requests)
{
	(void)printf("served %" PRIu64 " connection%s, %" PRIu64 " request%s (isolation: %s)\n", connections,
		     connections == 1 ? "" : "s", requests, requests == 1 ? "" : "s", isolation_name(isolation));
	print_library();
	(void)fflush(stdout);
}

void report_worker(unsigned number, uint64_t connections)
{
	(void)printf("worker %u: %" PRIu64 " connection%s\n", number, connections, connections == 1 ? "" : "s");
	print_library();
	(void)fflush(stdout);
}

void report_end(const struct sthread_info *info, char *out, size_t room)
{
	switch (info->end) {
	case STHREAD_RETURNED:
		(void)snprintf(out, room, "it returned");
		break;
	case STHREAD_EXITED:
		(void)snprintf(out, room, "it called exit(%d)", info->exit_status);
		break;
	case STHREAD_FAULTED:
		if (info->vector == 14)
			(void)snprintf(out, room,
				       "page fault at 0x%" PRIx64 " (error code 0x%" PRIx64 ", instruction 0x%" PRIx64
				       ")",
				       info->address, info->error_code, info->instruction);
		else
			(void)snprintf(out, room, "exception %u (error code 0x%" PRIx64 ", instruction 0x%" PRIx64 ")",
				       info->vector, info->error_code, info->instruction);
		break;
	case STHREAD_DENIED:
		(void)snprintf(out, room, "system call %d is not granted", info->system_call);
		break;
	case STHREAD_OUT_OF_CPU:
		(void)snprintf(out, room, "its processor time is spent");
		break;
	case STHREAD_OUT_OF_MEMORY:
		(void)snprintf(out, room, "its memory is spent");
		break;
	case STHREAD_OUT_OF_TIME:
		(void)snprintf(out, room, "its time is spent");
		break;
	case STHREAD_OUT_OF_CALLS:
		(void)snprintf(out, room, "it made too many calls");
		break;
	case STHREAD_KILLED:
		(void)snprintf(out, room, "it was ended from outside");
		break;
	case STHREAD_HOST_FAILURE:
		(void)snprintf(out, room, "the virtual processor failed, exit reason %d", info->system_call);
		break;
	default:
		(void)snprintf(out, room, "for an unknown reason");
		break;
	}
}
