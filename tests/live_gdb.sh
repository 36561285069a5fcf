# live_gdb.sh: what docs/debugging.md says of gdb holds. Run in the build folder; srcdir is set by make.
set -u
srcdir=${srcdir:-.}
skip() {
	echo "1..0 # SKIP $1"
	exit 77
}
command -v gdb >/dev/null || skip 'gdb is not installed'
{ : <>/dev/kvm; } 2>/dev/null || skip '/dev/kvm cannot be opened'
gdb -q -batch -ex 'python print(1)' 2>/dev/null | grep -qx 1 || skip 'gdb has no Python'
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

echo 1..8
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
debug() { # COMMAND...
	local options=()
	for command; do options+=(-ex "$command"); done
	timeout $((60 * ${TEST_TIME_SCALE:-1})) gdb -nx -q -batch -ex 'set debuginfod enabled off' "${options[@]}" \
		tests/debuggee >"$log" 2>&1 </dev/null
}
says() { grep -q -- "$1" "$log"; }

quiet='handle SIG62 nostop noprint pass'
debug "$quiet" 'break ready' run "source $srcdir/scripts/sthread-gdb.py" 'info sthreads' 'sthread backtrace 262144' continue
says 'sthread 262144  parked .*body body_parks'
verdict $? 'info sthreads tells a parked one'
says '^#0 .*trampoline' && says '^#[0-9]*? .*innermost_park' && says '^#[0-9]*? .*middle_park' && says '^#[0-9]*? .*body_parks'
verdict $? 'sthread backtrace names the calls that it is in'
says '^13 20$' && says 'exited normally'
verdict $? 'the program goes on as without a debugger'

debug "$quiet" 'break sthread_step' run backtrace finish continue
says '^#1 .*main' && says 'Run till exit\|Value returned' && says '^13 20$'
verdict $? 'breakpoints, backtraces and finish work in host mode'

debug "$quiet" 'break body_computes' run
says '^13 20$' && says 'exited normally' && ! says 'Breakpoint 1,'
verdict $? 'a breakpoint in a body is not met in sthreads'

debug run backtrace
says 'received signal SIG62' && says 'dune_vcpu_run'
verdict $? 'without the handle command gdb stops at the kick'

# Attached to while an sthread runs, and detached.
tests/debuggee >"$log.out" 2>&1 &
program=$!
timeout $((60 * ${TEST_TIME_SCALE:-1})) gdb -nx -q -batch -ex 'set debuginfod enabled off' -p $program -ex backtrace -ex detach \
	>"$log" 2>&1 </dev/null
wait $program
status=$?
says 'detached' || says 'No such process\|ptrace: No such'
verdict $? 'a process can be attached to and detached from'
[ $status = 0 ] && grep -qx '13 20' "$log.out"
verdict $? 'and goes on'
rm -f "$log.out"
exit $bad
