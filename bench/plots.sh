#!/bin/bash
# plots.sh [--http=CSV] [--bench=JSON] [--to=DIR] [--write-docs] [--install]
# Draws from what make bench-http and make bench have written (default: bench-http.csv and bench.json here), into DIR (default:
# here): bench-http.svg, requests a second by isolation; bench-dirty.svg, a life against the pages that it writes to, a fork
# and memcpy() beside it; bench-switch.svg, a gate call against the pages that its sides touch, and two processes beside it;
# bench-live.svg, a step among many parked sthreads. A picture whose figures are not there is left out.
#   --write-docs   draws into docs of the source tree
#   --install      installs gnuplot-nox
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"

http=bench-http.csv bench=bench.json to=.
for option; do
	case $option in
	--http=*) http=${option#*=} ;;
	--bench=*) bench=${option#*=} ;;
	--to=*) to=${option#*=} ;;
	--write-docs) to=$top/docs ;;
	--install) require_packages gnuplot-nox ;;
	-h | --help)
		sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
		exit
		;;
	*) die "unknown option $option (--help explains)" ;;
	esac
done
if ! command -v gnuplot >/dev/null; then
	echo "missing: gnuplot. As root:"
	echo "  apt-get update && apt-get install -y --no-install-recommends gnuplot-nox"
	echo "or make bench-plots BENCH_PLOTS_OPTIONS=--install"
	exit 1
fi
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
drawn=0 left_out=0
leave_out() { # PICTURE WHY
	echo "left out: $1: $2"
	left_out=$((left_out + 1))
}

# One line for each server, one column for each size; ? is nothing.
by_server() { # WORKLOAD
	awk -F, -v workload="$1" '
		$3 == workload {
			if (!($1 in seen)) { seen[$1] = 1; order[++count] = $1 }
			rate[$1, $2 == 0 ? 10 : $2] = $4
		}
		function value(server, size) { return (server, size) in rate ? rate[server, size] : "?" }
		END { for (i = 1; i <= count; i++) print order[i], value(order[i], 10), value(order[i], 128), value(order[i], 1024) }' "$http"
}
draw_http() {
	by_server new >"$data/new"
	by_server kept >"$data/kept"
	gnuplot <<-EOF
		set terminal svg size 960,420 font "sans-serif,12" background "white"
		set output "$data/picture.svg"
		set datafile missing "?"
		set multiplot layout 1,2 title "$(sed -n 's/^# //p' "$http")" font ",9"
		set style data histogram
		set style histogram clustered gap 1
		set style fill solid 0.8 noborder
		set boxwidth 1
		set logscale y
		set yrange [1:*]
		set grid ytics lc rgb "#dddddd"
		set xtics rotate by -35 scale 0
		set ylabel "requests per second"
		set key above horizontal samplen 1
		set xlabel "a new connection for each request"
		plot "$data/new" using 2:xtic(1) title "ballast: 10 MiB" lc rgb "#4477aa", \
			"" using 3 title "128 MiB" lc rgb "#ddaa33", "" using 4 title "1024 MiB" lc rgb "#bb5566"
		set xlabel "kept connections"
		plot "$data/kept" using 2:xtic(1) title "ballast: 10 MiB" lc rgb "#4477aa", \
			"" using 3 title "128 MiB" lc rgb "#ddaa33", "" using 4 title "1024 MiB" lc rgb "#bb5566"
		unset multiplot
	EOF
}

# Of the rows that are called BEFORE, a number, AFTER: "number microseconds KiB-each" (? is nothing), sorted.
by_number() { # BEFORE AFTER
	awk -v before="$1" -v after="$2" '
		/^    { "name": / {
			number = -1
			name = $0; sub(/^    { "name": "/, "", name); sub(/".*/, "", name)
			rest = substr(name, length(before) + 1)
			if (index(name, before) == 1 && rest ~ "^[0-9]+" after "$") number = rest + 0
		}
		number >= 0 && match($0, /"median_ns": [0-9.]+/) {
			median = substr($0, RSTART + 13, RLENGTH - 13) / 1000
			each = match($0, /"bytes_each": [0-9.]+/) ? substr($0, RSTART + 14, RLENGTH - 14) / 1024 : "?"
			print number, median, each
			number = -1
		}' "$bench" | sort -n
}
style='set terminal svg size 640,420 font "sans-serif,12" background "white"
	set datafile missing "?"
	set grid lc rgb "#dddddd"
	set ylabel "microseconds, median"
	set key above horizontal samplen 2
	set logscale y'
draw_dirty() {
	gnuplot <<-EOF
		$style
		set output "$data/picture.svg"
		set xlabel "pages that are written to, or copied"
		set xrange [0:*]
		set title "create, write to pages of the heap, join"
		plot "$data/fork" using 1:2 with linespoints pt 7 lw 2 lc rgb "#bb5566" title "fork, 10 MiB resident", \
			"$data/life" using 1:2 with linespoints pt 7 lw 2 lc rgb "#4477aa" title "sthread, recycled", \
			"$data/memcpy" using 1:2 with linespoints pt 7 lw 2 lc rgb "#ddaa33" title "memcpy of as many pages"
	EOF
}
draw_switch() {
	gnuplot <<-EOF
		$style
		set output "$data/picture.svg"
		set xlabel "pages that each side touches"
		set xrange [0:*]
		set yrange [1:100]
		set title "there and back"
		plot "$data/gate" using 1:2 with linespoints pt 7 lw 2 lc rgb "#4477aa" title "gate call and return", \
			"$data/futex" using 1:2 with linespoints pt 7 lw 2 lc rgb "#bb5566" title "two processes, futex"
	EOF
}
draw_live() {
	gnuplot <<-EOF
		$style
		set output "$data/picture.svg"
		set logscale x
		set xlabel "sthreads alive"
		set xrange [0.8:12500]
		set yrange [1:1000]
		set y2tics
		set y2range [0:*]
		set y2label "KiB of memory for each"
		set title "one of them goes on and parks again"
		plot "$data/live" using 1:2 with linespoints pt 7 lw 2 lc rgb "#4477aa" title "step, microseconds", \
			"" using 1:3 axes x1y2 with linespoints pt 7 lw 2 lc rgb "#ddaa33" title "memory, KiB"
	EOF
}
keep() { # PICTURE
	cat "$data/picture.svg" >"$to/$1"
	echo "drawn: $to/$1"
	drawn=$((drawn + 1))
}
# Draws a picture if each of its series has three points.
draw() { # NAME SERIES...
	local name=$1 series
	shift
	for series; do
		if [ "$(wc -l <"$data/$series")" -lt 3 ]; then
			leave_out "bench-$name.svg" "$bench has no rows for \"$series\""
			return
		fi
	done
	"draw_$name"
	keep "bench-$name.svg"
}

if [ ! -s "$http" ]; then
	leave_out bench-http.svg "there is no $http: make bench-http writes it"
else
	draw_http
	keep bench-http.svg
fi
if [ ! -s "$bench" ]; then
	leave_out "bench-dirty.svg, bench-switch.svg, bench-live.svg" "there is no $bench: make bench writes it"
else
	by_number 'fork, ' ' heap pages dirtied' >"$data/fork"
	by_number 'sthread life, ' ' heap pages dirtied' >"$data/life"
	by_number 'memcpy, ' ' pages' | awk '$1 > 0' >"$data/memcpy"
	by_number 'gate call + return, pages touched: ' '' >"$data/gate"
	by_number 'futex round trip, pages touched: ' '' >"$data/futex"
	by_number 'step, sthreads alive: ' '' >"$data/live"
	draw dirty fork life memcpy
	draw switch gate futex
	draw live live
fi
echo "$drawn drawn, $left_out left out"
[ $drawn -gt 0 ]
