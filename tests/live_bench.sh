# live_bench.sh: bench and budget, --quick, measure every row that they have and count what they say. Nothing is asserted on time.
# Run in the build folder.
set -u
skip() {
	echo "1..0 # SKIP $1"
	exit 77
}
{ : <>/dev/kvm; } 2>/dev/null || skip '/dev/kvm cannot be opened'
[ -z "${TEST_LANE-}" ] || skip 'times are not measured in a lane'
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

echo 1..6
number=0 bad=0
verdict() { # STATUS NAME
	number=$((number + 1))
	if [ "$1" = 0 ]; then
		echo "ok $number - $2"
	else
		echo "not ok $number - $2"
		sed 's/^/# /' "$dir/output"
		bad=1
	fi
}
bench() { timeout $((240 * ${TEST_TIME_SCALE:-1})) bench/bench --quick --json="$dir/json" "$@" >"$dir/output" 2>&1; }
not_measured() { sed -n 's/^[0-9]* rows, \([0-9]*\) not measured.*/\1/p' "$dir/output"; }
# A counter of a row in the second table: exits traps calls gates copied restored.
counter() { # ROW FIELD
	sed -n '/^counted for one operation/,$p' "$dir/output" | sed -n "s/^$1 \{2,\}//p" | awk -v field="$2" '{ print $field }'
}
about() { awk -v is="$1" -v wanted="$2" 'BEGIN { exit !(is != "" && is >= wanted && is < wanted + 0.5) }'; }

# What a machine or a configuration lacks is no fault of the program.
bench
status=$?
lacking=$(grep -cE 'not measured: (left out: 3 GiB of free memory needed|built without the demo)$' "$dir/output")
[ "$lacking" = 0 ] || echo "# rows left out here: $lacking"
[ $status = 0 ] && [ "$(not_measured)" = "$lacking" ]
verdict $? 'every row is measured'

rows=$(sed -n 's/^\([0-9]*\) rows, .*/\1/p' "$dir/output")
hidden=2 # memcpy and stores of no pages
[ -n "$rows" ] && [ "$rows" -ge 60 ] && [ "$(grep -c '"includes": ' "$dir/json")" = $((rows + hidden)) ]
verdict $? 'the JSON file has every row'

about "$(counter 'bare exit' 1)" 1 && about "$(counter 'served call, getuid' 3)" 1 &&
	about "$(counter 'callgate call + return' 4)" 1 && about "$(counter 'sthread life, 8 pages dirtied' 6)" 9 &&
	about "$(counter 'sthread life, 512 heap pages dirtied' 6)" 514
verdict $? 'exits, served calls, gate calls and restored pages of one operation are counted'

bench --httpd=/nonexistent
[ "$(not_measured)" = $((lacking > 0 && $(grep -c 'built without the demo' "$dir/output") ? lacking : lacking + 4)) ] &&
	[ "$(grep -c '^HTTPS.*not measured: ' "$dir/output")" = 4 ]
verdict $? 'a row that cannot be measured says so and is counted'

budget() { timeout $((120 * ${TEST_TIME_SCALE:-1})) bench/budget --quick --json="$dir/json" "$@" >"$dir/output" 2>&1; }
# How often a part is in an operation of the budget.
part() { # OPERATION PART
	sed -n "/^$1  /,/not accounted for/p" "$dir/output" | sed -n "s/^  $2  *\([0-9.]*\) x .*/\1/p"
}
requests=2
[ "$(grep -c '^HTTPS.*not measured' "$dir/output")" = 4 ] && grep -q 'built without the demo' "$dir/output" && requests=0
budget
[ $? = 0 ] && [ "$(grep -c 'not accounted for' "$dir/output")" = $((6 + requests)) ] &&
	about "$(part 'life, recycled' exits)" 1 && about "$(part 'life, 8 pages dirtied' 'pages restored')" 9 &&
	about "$(part 'served call, read of 4 KiB' preadv)" 1 &&
	about "$(part 'served call, getuid' 'exits by system calls')" 1
verdict $? 'every operation of the budget is taken apart, and its parts are counted'
budget --httpd=/nonexistent
[ "$(grep -c 'not accounted for' "$dir/output")" = 6 ] && [ "$(grep -c '^HTTPS.*sthread  *not measured$' "$dir/output")" = 2 ]
verdict $? 'an operation that cannot be measured says so'
exit $bad
