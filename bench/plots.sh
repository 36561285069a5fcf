#!/bin/bash
# plots.sh [--http=CSV] [--bench=JSON] [--docs=DIR] [--install]
# Draws DIR/bench-http.svg (requests a second by isolation) and DIR/bench-dirty.svg (a life, and a fork, against the pages
# that it writes to) from what make bench-http and make bench have written (default: bench-http.csv and bench.json here;
# DIR: docs of the source tree). A picture whose figures are not there is left out. --install installs gnuplot-nox.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"

http=bench-http.csv bench=bench.json docs=$top/docs
for option; do
	case $option in
	--http=*) http=${option#*=} ;;
	--bench=*) bench=${option#*=} ;;
	--docs=*) docs=${option#*=} ;;
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

# "pages microseconds", sorted.
by_pages() { # BEGINNING OF THE ROW'S NAME
	awk -v name="$1" '
		/"name": / && !/ratio/ {
			pages = -1
			if (match($0, "\"" name "[0-9]+ heap pages dirtied\"")) { pages = substr($0, RSTART + 1 + length(name)) + 0 }
		}
		pages >= 0 && match($0, /"median_ns": [0-9.]+/) { print pages, substr($0, RSTART + 13, RLENGTH - 13) / 1000; pages = -1 }' "$bench" | sort -n
}
draw_dirty() {
	gnuplot <<-EOF
		set terminal svg size 640,420 font "sans-serif,12" background "white"
		set output "$data/picture.svg"
		set logscale y
		set grid lc rgb "#dddddd"
		set xlabel "heap pages that are written to"
		set ylabel "microseconds, median"
		set xrange [0:*]
		set key top left reverse Left
		set title "create, write, join"
		plot "$data/fork" using 1:2 with linespoints pt 7 lw 2 lc rgb "#bb5566" title "fork, 10 MiB resident", \
			"$data/life" using 1:2 with linespoints pt 7 lw 2 lc rgb "#4477aa" title "sthread, recycled"
	EOF
}
keep() { # PICTURE
	cat "$data/picture.svg" >"$docs/$1"
	echo "drawn: $docs/$1"
	drawn=$((drawn + 1))
}

if [ ! -s "$http" ]; then
	leave_out bench-http.svg "there is no $http: make bench-http writes it"
else
	draw_http
	keep bench-http.svg
fi
if [ ! -s "$bench" ]; then
	leave_out bench-dirty.svg "there is no $bench: make bench writes it"
else
	by_pages 'fork, ' >"$data/fork"
	by_pages 'sthread life, ' >"$data/life"
	if [ "$(wc -l <"$data/life")" -lt 3 ] || [ "$(wc -l <"$data/fork")" -lt 3 ]; then
		leave_out bench-dirty.svg "$bench has no rows \"N heap pages dirtied\""
	else
		draw_dirty
		keep bench-dirty.svg
	fi
fi
echo "$drawn drawn, $left_out left out"
[ $drawn -gt 0 ]
