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
	(void)argument;
#ifdef BENCH_HTTPS
	https_prepare();
	for (unsigned i = 0; i < sizeof runs / sizeof *runs; i++) {
		struct https_run run = runs[i];
		run.program = ladder.httpd;
		run.warm = ladder.quick ? 5 : 50;
		run.samples = ladder.quick ? 10 : 500;
		https_measure(measurement, &run);
	}
	https_clean_up();
#else
	(void)measurement;
	(void)runs;
	measure_fail("built without the demo");
#endif
}
