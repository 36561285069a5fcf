#!/bin/bash
# docs.sh [OPTION...]
# Runs bench with the options, and budget (with --quick, if that is one of them), puts what they print between the marks in docs/benchmarks.md, and draws the
# pictures there. The ladder's table says if the machine was not idle.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
page=$top/docs/benchmarks.md

# Puts a file, as it is, between the marks of this name.
insert() { # NAME FILE
	[ "$(grep -cE "^<!-- $1: (begin|end) -->$" "$page")" = 2 ] || die "$page has no marks for $1"
	awk -v name="$1" -v file="$2" '
		$0 == "<!-- " name ": end -->" { inside = 0 }
		!inside { print }
		$0 == "<!-- " name ": begin -->" {
			inside = 1
			print ""
			while ((getline line <file) > 0) print line
			print ""
		}' "$page" >"$dir/page"
	cat "$dir/page" >"$page"
}

fenced() { # FILE
	echo '```'
	cat "$1"
	echo '```'
}
picture() { echo "![$1](bench-$2.svg)"; }

quick=()
for option; do [ "$option" != --quick ] || quick=(--quick); done
bench/bench "$@" >"$dir/bench"
bench/budget --native="$top/bench/native-counts.json" ${quick[@]+"${quick[@]}"} >"$dir/budget"
{
	echo "$(date -u +%Y-%m-%d), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r):"
	echo
	fenced "$dir/bench"
	echo
	picture 'A life, a fork and memcpy() against the pages that they write to' dirty
	echo
	picture 'A gate call and two processes that wake each other against the pages that each side touches' switch
	echo
	picture 'A step, and the memory of each, against the sthreads that are alive' live
} >"$dir/ladder.md"
fenced "$dir/budget" >"$dir/budget.md"
bash "$top/bench/plots.sh" --write-docs
insert ladder "$dir/ladder.md"
insert budget "$dir/budget.md"
echo "docs/benchmarks.md has the new figures"
