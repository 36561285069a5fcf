# live_gc.sh: the collector of demos/gc loses nothing with a write barrier, whichever it is, and all of them find the same; without one
# it does lose cells, and says so. Run in the build folder.
set -u
skip() {
	echo "1..0 # SKIP $1"
	exit 77
}
{ : <>/dev/kvm; } 2>/dev/null || skip '/dev/kvm cannot be opened'
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

echo 1..5
number=0 bad=0
verdict() { # STATUS NAME
	number=$((number + 1))
	if [ "$1" = 0 ]; then
		echo "ok $number - $2"
	else
		echo "not ok $number - $2"
		sed 's/^/# /' "$log"
		bad=1
	fi
}
collect() { # BARRIER
	timeout $((30 * ${TEST_TIME_SCALE:-1})) demos/gc/gc --check --megabytes=2 --rounds=20 --mutations=100 --barrier="$1" \
		>"$log" 2>&1
}
note() { sed -n 's/^\(barrier.*\|a round.*\)/# \1/p' "$log"; }

collect none
[ $? = 3 ] && grep -q 'was lost' "$log"
verdict $? 'without a barrier cells are lost, and that is noticed'
collect signal
verdict $? 'with mprotect() and SIGSEGV none is'
note
sum=$(sed -n 's/^sum //p' "$log")
for barrier in trap dirty; do
	collect $barrier
	verdict $? "with barrier $barrier none is"
	note
	[ "$sum" = "$(sed -n 's/^sum //p' "$log")" ] || sum="not $barrier's"
done
[ -n "$sum" ] && [ "${sum#not}" = "$sum" ]
verdict $? 'the program computes the same with all of them'
exit $bad
