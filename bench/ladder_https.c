/* ladder_https.c - one client's requests to sthread-httpd, one at a time.  See ladder.h, https.h. */
#include "https.h"
#include "ladder.h"

void group_https(struct measurement *measurement, void *argument)
{
	const struct https_run runs[] = {
		{ .isolation = "none", .rung = &rungs[HTTPS_NEW_NONE] },
		{ .isolation = "sthread", .rung = &rungs[HTTPS_NEW] },
		{ .isolation = "none", .rung = &rungs[HTTPS_KEEP_NONE], .keep_alive = true },
		{ .isolation = "sthread", .rung = &rungs[HTTPS_KEEP], .keep_alive = true },
	};
	const struct https_load load = { .program = ladder.httpd,
					 .warm = ladder.quick ? 5 : 50,
					 .samples = ladder.quick ? 10 : 500 };
	(void)argument;
	https_measure(measurement, runs, sizeof runs / sizeof *runs, &load);
}
