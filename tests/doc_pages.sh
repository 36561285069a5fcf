# doc_pages.sh: every function that the libraries export for programs has a manual page, no page names another that is
# not there, no link of the documentation leads nowhere, every system call that is served is described, and nothing undeclared
# is exported. Run in the build folder; srcdir is set by make.
set -u
srcdir=${srcdir:-.}
echo 1..5
number=0 bad=0
verdict() { # NAME PROBLEMS
	number=$((number + 1))
	if [ -z "$2" ]; then
		echo "ok $number - $1"
	else
		echo "not ok $number - $1"
		printf '%s\n' "$2" | sed 's/^/# /'
		bad=1
	fi
}

# Declarations in the public headers.
functions=$(sed -n 's/^[a-z].*[ *]\([a-z][a-z_0-9]*\)(.*/\1/p' "$srcdir/sthread/include/sthread.h" "$srcdir/callgate/callgate.h" \
	"$srcdir/event/sthread_event.h" "$srcdir/core/include/dune.h")
[ "$(printf '%s\n' "$functions" | wc -l)" -gt 30 ] || echo "# the headers were not understood"
problems=$(for function in $functions; do
	[ -e "$srcdir/man/$function.3" ] || echo "$function has no page"
done)
verdict 'every public function has a manual page' "$problems"

problems=$(cd "$srcdir/man" && for page in *.[13]; do
	target=$(sed -n 's|^\.so man3/||p' "$page")
	if [ -n "$target" ]; then
		grep -q "^\.Nm ${page%.3}\( ,\)*$" "$target" || echo "$page is not in $target"
		continue
	fi
	sed -n 's/^\.Xr \([^ ]*\) \([13]\).*/\1.\2/p' "$page" | grep -e '^s[ct]' -e '^tag' -e '^cgate' -e '^dune' -e '^smalloc' -e '^sfree' |
		while read -r other; do
			[ -e "$other" ] || echo "$page names $other"
		done
	# shellcheck disable=SC2013
	if command -v mandoc >/dev/null; then
		mandoc -T lint -W warning "$page"
	fi
done)
verdict 'manual pages name pages that exist' "$problems"

problems=$(cd "$srcdir" && for page in README.md docs/*.md tests/lanes/README.md; do
	grep -o '](\([^)#]*\)' "$page" | cut -c 3- | while read -r target; do
		case $target in
		http* | '') ;;
		*) [ -e "${page%"${page##*/}"}$target" ] || echo "$page: $target" ;;
		esac
	done
done)
verdict 'links lead somewhere' "$problems"

calls=$(sed -n 's/^\t\[SYS_\([a-z0-9_]*\)\].*/\1/p' "$srcdir/sthread/syscalls/table.c")
[ "$(printf '%s\n' "$calls" | wc -l)" -gt 30 ] || echo "# the table of system calls was not understood"
problems=$(for call in $calls; do
	grep -q "\`$call\`" "$srcdir/docs/system-calls.md" || echo "$call is not in docs/system-calls.md"
done)
verdict 'every system call that is served is described' "$problems"
compare() { # LIBRARY VERSION HEADER...: prints what is declared and not exported, and the other way round
	local library=$1 version=$2
	shift 2
	diff <(sed -n '/^static inline/d
		s/^[a-z].*[ *]\([a-z][a-z_0-9]*\)(.*/\1/p
		s/^extern .*[ *]\([a-z][a-z_0-9]*\);.*/\1/p' "$@" | sort -u) \
		<(nm -D --defined-only ".libs/$library" | sed -n "s/.* \([^ ]*\)@@${version}_[0-9].*/\1/p" | grep -v "^$version" | sort -u) |
		sed -n 's/^< \(.*\)/\1 is not exported/p;s/^> \(.*\)/\1 is exported and not declared/p'
}
problems=$(
	compare libsthread.so STHREAD "$srcdir/sthread/include/sthread.h" "$srcdir/callgate/callgate.h"
	compare libdune.so DUNE "$srcdir/core/include/dune.h"
)
verdict 'the libraries export what their headers declare, and nothing else' "$problems"
exit $bad
