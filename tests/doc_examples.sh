# doc_examples.sh: the examples in README.md, docs/ and man/ compile without a warning and print what is said there.
# In Markdown an example is the fenced block after "<!-- example: NAME -->", in a manual page the .Bd block after
# .\" example: NAME; what it prints is likewise marked "output". Run in the build folder; srcdir and CC are set by make.
set -u
srcdir=${srcdir:-.}
build=$PWD
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

# Writes each marked block to $dir/NAME.c or $dir/NAME.output.
for file in "$srcdir"/README.md "$srcdir"/docs/*.md "$srcdir"/man/*.[13]; do
	awk -v dir="$dir" -v file="${file#"$srcdir"/}" '
		/^(<!--|\.\\") (example|output): / {
			name = $3
			suffix = $2 == "example:" ? ".c" : ".output"
			target = dir "/" name suffix
			if (suffix == ".c")
				print file > (dir "/" name ".from")
			printf "" > target
			next
		}
		target && !inside && /^(```|\.Bd )/ { inside = 1; next }
		inside && /^(```|\.Ed)$/ { inside = 0; close(target); target = ""; next }
		inside { if (file ~ /^man/) { gsub(/\\e/, "\\"); gsub(/\\-/, "-"); sub(/^\\&/, "") } print > target }
	' "$file"
done

set -- "$dir"/*.c
if [ ! -e "$1" ]; then
	echo '1..0 # SKIP there are no examples'
	exit 77
fi
echo "1..$((2 * $#))"
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
for example; do
	base=${example%.c}
	name="$(basename "$base") in $(cat "$base.from")"
	event=''
	if grep -q 'sthread_event\.h' "$example"; then
		if [ ! -e "$build/.libs/libsthread-event.so" ]; then
			number=$((number + 2))
			echo "ok $((number - 1)) - $name compiles # SKIP libsthread-event is not built"
			echo "ok $number - $name prints what it should # SKIP libsthread-event is not built"
			continue
		fi
		event="-I$srcdir/event -lsthread-event $(pkg-config --cflags --libs libevent_core)"
	fi
	# shellcheck disable=SC2086
	${CC:-cc} -std=gnu11 -Wall -Wextra -Werror -I"$srcdir/sthread/include" -I"$srcdir/callgate" -I"$srcdir/core/include" \
		-o "$base" "$example" -L"$build/.libs" $event -lsthread -ldune -lelf -lpthread -Wl,-z,now -Wl,-rpath,"$build/.libs" \
		>"$base.log" 2>&1
	status=$?
	verdict $status "$name compiles"
	if [ $status != 0 ]; then
		sed 's/^/# /' "$base.log"
		verdict 1 "$name prints what it should"
	elif ! { : <>/dev/kvm; } 2>/dev/null; then
		number=$((number + 1))
		echo "ok $number - $name prints what it should # SKIP /dev/kvm cannot be opened"
	else
		timeout $((30 * ${TEST_TIME_SCALE:-1})) "$base" >"$base.got" 2>"$base.log" && cmp -s "$base.got" "$base.output"
		status=$?
		verdict $status "$name prints what it should"
		[ $status = 0 ] || sed 's/^/# /' "$base.got" "$base.log"
	fi
done
exit $bad
