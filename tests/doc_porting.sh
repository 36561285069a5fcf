# doc_porting.sh: the programs of docs/porting.md compile without a warning and print what is said there, and what the
# guide shows of them is in them: a block after "<!-- file: NAME -->" is part of docs/porting/NAME, one after
# "<!-- output: NAME -->" is what docs/porting/NAME.c prints. Run in the build folder; srcdir and CC are set by make.
set -u
srcdir=${srcdir:-.}
build=$PWD
guide=$srcdir/docs/porting.md
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

# Writes each block to $dir/quote.N (with the name of its file in quote.N.of), or to $dir/NAME.output.
awk -v dir="$dir" '
	/^<!-- file: / { target = dir "/quote." ++count; print $3 > (target ".of"); close(target ".of"); next }
	/^<!-- output: / { target = dir "/" $3 ".output"; next }
	target && !inside && /^```/ { inside = 1; printf "" > target; next }
	inside && /^```$/ { inside = 0; close(target); target = ""; next }
	inside { print > target }
' "$guide"

set -- "$srcdir"/docs/porting/step*.c
quotes=$(find "$dir" -name 'quote.*' ! -name '*.of' | wc -l)
echo "1..$((2 * $# + 1))"
number=0 bad=0
verdict() { # STATUS NAME
	number=$((number + 1))
	if [ "$1" = 0 ]; then
		echo "ok $number - $2"
	else
		echo "not ok $number - $2"
		bad=1
	fi
}

status=0
[ "$quotes" -ge 5 ] || status=1
for of in "$dir"/quote.*.of; do
	quote=${of%.of}
	file=$srcdir/docs/porting/$(cat "$of")
	# Every line in a row: the text of the file without what is before and behind.
	if ! awk 'NR == FNR { quote = quote $0 "\n"; next } { text = text $0 "\n" } END { exit !index(text, quote) }' \
		"$quote" "$file"; then
		status=1
		echo "# not in $file:"
		sed 's/^/# /' "$quote"
	fi
done
verdict $status "what the guide shows is in the programs ($quotes parts)"

for program; do
	name=$(basename "$program" .c)
	${CC:-cc} -std=gnu11 -Wall -Wextra -Werror -I"$srcdir/docs/porting" -I"$srcdir/sthread/include" -I"$srcdir/callgate" \
		-o "$dir/$name" "$program" -L"$build/.libs" -lsthread -ldune -lelf -lpthread -Wl,-z,now -Wl,-rpath,"$build/.libs" \
		>"$dir/log" 2>&1
	status=$?
	verdict $status "$name compiles"
	if [ $status != 0 ]; then
		sed 's/^/# /' "$dir/log"
		verdict 1 "$name prints what the guide says"
	elif ! { : <>/dev/kvm; } 2>/dev/null; then
		number=$((number + 1))
		echo "ok $number - $name prints what the guide says # SKIP /dev/kvm cannot be opened"
	else
		timeout $((30 * ${TEST_TIME_SCALE:-1})) "$dir/$name" >"$dir/got" 2>"$dir/log" && cmp -s "$dir/got" "$dir/$name.output"
		status=$?
		verdict $status "$name prints what the guide says"
		[ $status = 0 ] || sed 's/^/# /' "$dir/got" "$dir/log"
	fi
done
exit $bad
