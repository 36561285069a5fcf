#!/bin/bash
# live_dune_sandbox.sh: dune-sandbox runs static programs, serves what its table allows, refuses the rest, and keeps its own memory to
# itself, in TAP.  Environment: TEST_TIME_SCALE multiplies every time limit; SANDBOX_PLACEMENTS (default: any).
set -u
sandbox=${SANDBOX:-./dune-sandbox}
scale=${TEST_TIME_SCALE:-1}
programs=$PWD/tests
if [ ! -x "$sandbox" ] || [ ! -x "$programs/sandbox_program" ]; then
	echo "1..0 # SKIP dune-sandbox or tests/sandbox_program is not built (the latter needs a static C library)"
	exit 77
fi
if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
	echo '1..0 # SKIP /dev/kvm cannot be opened'
	exit 77
fi
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

number=0 bad=0
verdict() { # STATUS NAME
	number=$((number + 1))
	if [ "$1" = 0 ]; then
		echo "ok $number - $placement, $program: $2"
	else
		echo "not ok $number - $placement, $program: $2"
		sed 's/^/# out: /' "$dir/out"
		sed 's/^/# err: /' "$dir/err"
		echo "# status $status"
		bad=1
	fi
}
skip() { # NAME REASON
	number=$((number + 1))
	echo "ok $number - $placement, $program: $1 # SKIP $2"
}
# Runs the program in the sandbox; wrapper is put before it.
wrapper=
run() { # [OPTION...] -- ARGUMENT...
	local options=()
	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	# shellcheck disable=SC2086
	timeout $((20 * scale)) $wrapper "$sandbox" --placement="$placement" "${options[@]}" "$programs/$program" "$@" \
		>"$dir/out" 2>"$dir/err" <"${input:-/dev/null}"
	status=$?
}
said() { # STATUS OUT ERR: the status, and a line that each stream has ('' for an empty stream)
	[ "$status" = "$1" ] || return 1
	if [ -n "$2" ]; then grep -qF -e "$2" "$dir/out" || return 1; else [ ! -s "$dir/out" ] || return 1; fi
	if [ -n "$3" ]; then grep -qF -e "$3" "$dir/err" || return 1; else [ ! -s "$dir/err" ] || return 1; fi
}

begins() {
	run -- hello one 'two words' ''
	said 7 'hello from ring 3, process 1: one two words ' 'and on standard error' && grep -qx '42 7.500' "$dir/out"
	verdict $? 'a program runs, with arguments, stdio, thread-local storage, floating point and a status'
	[ "$(cat "$dir/err")" = 'and on standard error' ]
	verdict $? 'nothing that a C library needs to start is refused'

	run -- memory
	said 0 'memory is as it should be' ''
	verdict $? 'brk, mmap, munmap, mprotect and realloc work'
}

is_confined() {
	printf 'some input' >"$dir/input"
	input=$dir/input
	run -- echo
	input=
	said 0 'some input' ''
	verdict $? 'standard input is read'

	# ---- calls
	echo 'a secret' >"$dir/secret"
	run -- cat "$dir/secret"
	said 0 'failed: Operation not permitted' 'dune-sandbox: refused: openat'
	verdict $? 'a call that was not allowed is refused, by name'
	run --allow=uname,openat -- cat "$dir/secret"
	said 0 'a secret' ''
	verdict $? 'control: the same call is served when it is allowed'
	for file in /proc/self/mem /proc/self/maps /dev/null /sys/devices/system/cpu/online "$dir"; do
		[ -e "$file" ] || continue
		run --allow=openat -- cat "$file"
		said 0 'failed: Operation not permitted' ''
		verdict $? "${file/$dir/a directory} cannot be opened even then"
	done
	for call in 39:fork 3b:execve 38:clone 65:ptrace 101:ptrace 3e:kill 1d:shmget 136:process_vm_readv 1b3:clone3 fff; do
		run -- call "${call%:*}"
		[ "$status" = 0 ] && grep -qF 'failed: Operation not permitted' "$dir/out" && grep -q 'dune-sandbox: refused: ' "$dir/err"
		verdict $? "system call 0x${call%:*} is refused"
	done
	run -- call ffffffffffffffff
	[ "$status" = 0 ] && grep -q 'refused: system call 18446744073709551615' "$dir/err"
	verdict $? 'a number that no call has is refused'
	run -- descriptor 9
	said 0 'failed: Bad file descriptor' ''
	verdict $? 'a descriptor that the program did not open is not there'
	run -- execute-pages
	said 0 'failed: Operation not permitted' ''
	verdict $? 'memory that can be executed is not given out'

	# ---- faults
	run -- read 8
	said 139 '' 'read from 0x8, which is not its own'
	verdict $? 'reading address 8 is reported'
	run -- jump 123456789000
	said 139 '' 'jumped to 0x123456789000, which is not its own'
	verdict $? 'a wild jump is reported'
	run -- jump-data
	said 139 '' 'which is not its own to execute'
	verdict $? 'its data cannot be executed'
	run -- write-text
	said 139 '' 'which is not its own to write'
	verdict $? 'its text cannot be written'
	run -- use-unmapped
	said 139 '' 'which is not its own to read'
	verdict $? 'memory that it gave back is gone'
	run -- halt
	said 139 '' 'an instruction or address that ring 3 may not use'
	verdict $? 'a privileged instruction is reported'
	run -- invalid
	said 132 '' 'invalid instruction'
	verdict $? 'an invalid instruction is reported'
	run -- divide
	said 136 '' 'division by zero'
	verdict $? 'a division by zero is reported'
	run -- recurse
	said 139 '' 'which is not its own to'
	verdict $? 'a stack that overflows is reported'
	run -- abort
	[ "$status" = 139 ] && grep -q 'refused: ' "$dir/err" && grep -q 'fault: ' "$dir/err"
	verdict $? 'abort() ends it'
	timeout 3 "$sandbox" --placement="$placement" "$programs/$program" spin >"$dir/out" 2>"$dir/err"
	status=$?
	said 124 '' ''
	verdict $? 'a program that spins is ended by a signal'
	run -- overrun
	said 0 'failed: Bad address' ''
	verdict $? 'a buffer that ends outside its memory is refused'

	# ---- the sandbox's own memory, at an address that is known
	if ! command -v setarch >/dev/null || ! setarch -R true 2>/dev/null; then
		skip "the sandbox's own memory" 'no setarch -R here'
		return
	fi
	wrapper='setarch -R'
	run --verbose -- memory
	local -A at
	layout() {
		sed -n 's/.* page tables from 0x\([0-9a-f]*\) on; .* own code at 0x\([0-9a-f]*\)$/\1 \2/p' "$dir/err"
	}
	read -r 'at[tables]' 'at[code]' <<<"$(layout)"
	run --verbose -- memory
	[ -n "${at[code]-}" ] && [ "${at[tables]} ${at[code]}" = "$(layout)" ]
	verdict $? "control: code and page tables of the sandbox lie at the same addresses in two runs"
	for what in code tables; do
		own=${at[$what]-}
		run --verbose -- read "$own"
		[ "$status" = 139 ] && grep -qF "read from 0x$own, which is not its own" "$dir/err" && [ "${at[tables]} ${at[code]}" = "$(layout)" ]
		verdict $? "reading the sandbox's own memory ($what) faults"
		run -- write "$own"
		said 139 '' "wrote to 0x$own, which is not its own"
		verdict $? "writing it ($what) faults"
		run -- jump "$own"
		said 139 '' "jumped to 0x$own, which is not its own"
		verdict $? "executing it ($what) faults"
		for way in give-away give-away-vector overwrite; do
			run -- $way "$own"
			said 0 'failed: Bad address' ''
			verdict $? "a system call does not touch it ($what) on the program's behalf ($way)"
		done
	done
	wrapper=
}

for placement in ${SANDBOX_PLACEMENTS:-any}; do
	for program in sandbox_program sandbox_program_pie; do
		begins
		# In an emulated machine, which is slow, once.
		if [ -z "${TEST_LANE-}" ] || [ "$program" = sandbox_program ]; then is_confined; fi
	done
	program='no program'
	"$sandbox" --placement="$placement" /bin/sh >"$dir/out" 2>"$dir/err"
	status=$?
	said 125 '' 'dynamically linked'
	verdict $? 'a dynamically linked program is refused'
	"$sandbox" --placement="$placement" "$0" >"$dir/out" 2>"$dir/err"
	status=$?
	said 125 '' 'not an ELF file'
	verdict $? 'a script is refused'
	"$sandbox" --allow=execve "$programs/sandbox_program" hello >"$dir/out" 2>"$dir/err"
	status=$?
	said 125 '' "the system call 'execve' cannot be allowed"
	verdict $? 'a call that is not in the table cannot be allowed'
done
echo "1..$number"
exit $bad
