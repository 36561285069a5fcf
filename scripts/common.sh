# shellcheck shell=bash
# What run-demo, run-tests, .ci/run and the lanes share: packages, the build, /dev/kvm. Sourced, never run.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { echo "== $*"; }
die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# Root is used for apt and for nothing else.
elevate() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo -n -- "$@"
	fi
}
may_elevate() { [ "$(id -u)" = 0 ] || { command -v sudo && sudo -n true; } >/dev/null 2>&1; }

package_lists_fresh=''
refresh_package_lists() {
	[ -z "$package_lists_fresh" ] || return 0
	may_elevate || return 0
	elevate apt-get update -qq || echo "${0##*/}: apt-get update failed; going on with the lists there are" >&2
	package_lists_fresh=1
}

package_installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

# require_packages PACKAGE...: installs those that are missing. A|B: one of the two, the first that apt knows.
require_packages() {
	local wanted alternative missing=() found
	command -v dpkg-query >/dev/null || {
		echo "${0##*/}: not a Debian system; what is needed, by Debian's names: $*" >&2
		return 0
	}
	for wanted; do
		found=''
		for alternative in ${wanted//|/ }; do
			if package_installed "$alternative"; then found=1; fi
		done
		[ -n "$found" ] || missing+=("$wanted")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	refresh_package_lists
	local i
	for i in "${!missing[@]}"; do
		for alternative in ${missing[i]//|/ }; do
			wanted=$alternative
			[ -z "$(apt-cache madison "$alternative" 2>/dev/null)" ] || break
		done
		missing[i]=$wanted
	done
	if ! may_elevate; then
		echo "${0##*/}: packages are missing. Run this as root, then start again:" >&2
		echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
		exit 1
	fi
	say "installing ${missing[*]}"
	elevate env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
		die "cannot install ${missing[*]}"
}

build_packages=(gcc make autoconf automake libtool pkg-config libc6-dev libelf-dev libdw-dev libssl-dev libevent-dev
	"libllhttp-dev|libhttp-parser-dev")
demo_packages=(openssl curl)
test_packages=(libcunit1-dev libsqlite3-dev zlib1g-dev locales tzdata)

# logged LOG COMMAND...: runs a command quietly; if it fails, the end of its log is shown.
logged() {
	local log=$1
	shift
	mkdir -p "${log%/*}"
	if ! "$@" >>"$log" 2>&1; then
		echo "${0##*/}: '$*' failed; the end of $log:" >&2
		tail -n 40 "$log" >&2
		return 1
	fi
}

# generate_configure: makes ./configure from configure.ac.
generate_configure() {
	[ ! -e "$top/Makefile" ] || die "this tree was configured in place: run 'make distclean' here first"
	if [ ! -x "$top/configure" ] || [ "$top/configure.ac" -nt "$top/configure" ]; then
		say "generating configure"
		(cd "$top" && logged "$1" autoreconf -fi)
	fi
}

# configure_build DIR OPTION...: configures out of tree, again when the options are others than last time.
configure_build() {
	local dir=$1
	shift
	mkdir -p "$dir"
	: >"$dir/build.log"
	generate_configure "$dir/build.log" || exit 1
	if [ ! -e "$dir/Makefile" ] || [ "$(cat "$dir/configured-with" 2>/dev/null)" != "$*" ]; then
		say "configuring in ${dir#"$top"/}"
		rm -f "$dir/configured-with"
		(cd "$dir" && logged "$dir/build.log" "$top/configure" "$@") || exit 1
		echo "$*" >"$dir/configured-with"
	fi
}

# build DIR TARGET...: make, quietly.
build() {
	local dir=$1
	shift
	say "building in ${dir#"$top"/} (log: ${dir#"$top"/}/build.log)"
	logged "$dir/build.log" make -C "$dir" --no-print-directory -j"$(nproc)" "$@" || exit 1
}

# kvm_problem: prints why this process cannot open /dev/kvm, with the cure; nothing when it can.
kvm_problem() {
	local owner group mode user
	if [ ! -e /dev/kvm ]; then
		if grep -qwE 'vmx|svm' /proc/cpuinfo; then
			echo "there is no /dev/kvm although the processor can virtualise: load the module (as root: modprobe kvm_intel, or modprobe kvm_amd)"
		else
			echo "there is no /dev/kvm: switch virtualisation on in the firmware, or, in a virtual machine, nested virtualisation in its host"
		fi
		return
	fi
	if (exec 3<>/dev/kvm) 2>/dev/null; then return; fi
	read -r owner group mode < <(stat -Lc '%U %G %a' /dev/kvm)
	user=$(id -un)
	if [ $((0$mode & 060)) = $((060)) ] && [ "$group" != root ]; then
		if id -nG "$user" | grep -qw -- "$group" && ! id -nG | grep -qw -- "$group"; then
			echo "no permission for /dev/kvm: $user is in group $group, but this session is older: log in again"
		elif ! id -nG | grep -qw -- "$group"; then
			echo "no permission for /dev/kvm (group $group, mode $mode): as root, usermod -aG $group $user, then log in again"
		else
			echo "/dev/kvm (owner $owner, group $group, mode $mode) cannot be opened although its mode allows it: $( (exec 3<>/dev/kvm) 2>&1 | sed 's/.*: //')"
		fi
	elif [ "$user" = "$owner" ] && [ $((0$mode & 0600)) = $((0600)) ]; then
		echo "/dev/kvm cannot be opened although its mode allows it: $( (exec 3<>/dev/kvm) 2>&1 | sed 's/.*: //')"
	else
		echo "no permission for /dev/kvm (owner $owner, group $group, mode $mode): run as $owner, or, as root, setfacl -m u:$user:rw /dev/kvm"
	fi
}
