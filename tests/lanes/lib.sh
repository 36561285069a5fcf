# shellcheck shell=bash
# Shared by the scripts of this folder; sourced, never run.
# shellcheck disable=SC2034  # some of these are for the script that sources this file
set -euo pipefail

lanes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sthread-lanes
tool=${0##*/}

# What every lane needs from the distribution.
lane_packages=(qemu-system-x86 busybox-static cpio kmod xz-utils bochs bochs-term isolinux syslinux-common xorriso)

# Exit statuses of the tools: the job's own, 124 for "out of time", 125 for "no verdict" (the tool or the machine failed).
fail() {
	echo "$tool: $*" >&2
	exit 125
}

usage() {
	sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
	exit "${1:-0}"
}

# shell_words WORD...: prints the words so that any POSIX shell reads back exactly these.
shell_words() {
	local word quote="'\\''"
	for word; do printf "'%s' " "${word//\'/$quote}"; done
}

# cpio_of DIR: prints the contents of DIR in the archive format of a kernel's first file system.
cpio_of() (
	cd "$1"
	find . -mindepth 1 -print0 | LC_ALL=C sort -z | cpio --null --create --format=newc --owner=0:0 --quiet
)

# parse_options EXTRA ARG...: reads the options of a lane into variables; EXTRA are getopts letters beyond the common.
parse_options() {
	local extra=$1 letter
	shift
	seconds=300 memory='' cpus=1 verbose=''
	writable=() packed=() environment=() parameters=()
	while getopts "t:m:e:k:vh$extra" letter; do
		case $letter in
		t) seconds=$OPTARG ;;
		m) memory=$OPTARG ;;
		s) cpus=$OPTARG ;;
		d) writable+=("$(cd "$OPTARG" && pwd -P)") ;;
		f) packed+=("$(realpath -s -- "$OPTARG")") ;;
		e)
			[[ $OPTARG =~ ^[A-Za-z_][A-Za-z_0-9]*= ]] || fail "option -e takes NAME=VALUE, not '$OPTARG'"
			environment+=("$OPTARG")
			;;
		k)
			[[ $OPTARG =~ ^[A-Za-z_0-9.]+=[^[:space:]]*$ ]] || fail "option -k takes NAME=VALUE, not '$OPTARG'"
			parameters+=("$OPTARG")
			;;
		v) verbose=1 ;;
		h) usage ;;
		*) usage 125 >&2 ;;
		esac
	done
	shift $((OPTIND - 1))
	[ $# -gt 0 ] || fail "no command given (-h explains)"
	command=("$@")
	[ -e "$cache/ready" ] || fail "$cache is not filled: run $lanes/setup first"
}

# make_workspace: $work is a folder for this run, $work/root what is added to the first file system. Both the folder
# and the emulator disappear with the script, however it ends.
make_workspace() {
	emulator=''
	work=$(mktemp -d)
	mkdir -p "$work/root/lane"
	trap cleanup EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
}
cleanup() {
	if [ -n "$emulator" ]; then
		kill "$emulator" 2>/dev/null || :
		wait "$emulator" 2>/dev/null || :
	fi
	rm -rf "$work"
}

# write_job VENDOR: the first process, the settings it reads (VENDOR is amd or intel) and the command it runs.
write_job() {
	local pair of_kvm=() of_vendor=()
	for pair in ${parameters[@]+"${parameters[@]}"}; do
		case $pair in
		kvm.*) of_kvm+=("${pair#kvm.}") ;;
		*) of_vendor+=("$pair") ;;
		esac
	done
	install -m 755 "$lanes/init" "$work/root/init"
	{
		echo "vendor=$1"
		echo "kvm_parameters=$(shell_words "${of_kvm[*]-}")"
		echo "vendor_parameters=$(shell_words "${of_vendor[*]-}")"
	} >"$work/root/lane/settings"
	{
		echo "cd $(shell_words "$PWD")|| exit 125"
		for pair in ${environment[@]+"${environment[@]}"}; do
			echo "export ${pair%%=*}=$(shell_words "${pair#*=}")"
		done
		echo "exec $(shell_words "${command[@]}")"
	} >"$work/root/lane/job"
}

# boot EMULATOR ARG...: runs the emulator, which has the job's output in $work/output and its console in $work/console,
# shows the output as it comes, and exits with the job's status.
boot() {
	local ended=0 status
	: >"$work/output"
	: >"$work/console"
	timeout --kill-after=5 "$seconds" "$@" </dev/null >"$work/emulator.log" 2>&1 &
	emulator=$!
	tail --sleep-interval=0.1 --pid="$emulator" --bytes=+1 --follow "$work/output" &
	if [ -n "$verbose" ]; then
		tail --sleep-interval=0.1 --pid="$emulator" --bytes=+1 --follow "$work/console" >&2 &
	fi
	wait "$emulator" || ended=$?
	emulator=''
	wait
	status=$(sed -n 's/^lane-status \([0-9]*\).*/\1/p' "$work/console" | tail -n 1)
	[ -z "$status" ] || exit "$status"
	if [ $ended = 124 ] || [ $ended = 137 ]; then
		echo "$tool: not finished after $seconds seconds" >&2
		exit 124
	fi
	[ -n "$verbose" ] || tail -n 20 "$work/console" >&2
	tail -n 5 "$work/emulator.log" >&2
	fail "the machine ended without a status (emulator: $ended)"
}
