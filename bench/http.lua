-- http.lua - for wrk: prints one line for http.sh to read.
-- RESULT requests microseconds p50 p90 p99 (of latency, microseconds) errors
function done(summary, latency, requests)
	local errors = summary.errors
	io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
		latency:percentile(90), latency:percentile(99),
		errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
