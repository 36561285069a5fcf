#!/bin/bash
# live_httpd_modes.sh
# Each way in which sthread-httpd keeps connections apart (--isolation), in TAP: the same bytes from all of them, what a
# crash takes along in each, and --workers.
# Environment: HTTPD, the program (default: ./sthread-httpd); HTTPD_VULNERABLE, the one that does what peers ask for
# (default: tests/httpd_vulnerable); TEST_TIME_SCALE multiplies every time limit.
set -u
httpd=${HTTPD:-./sthread-httpd}
vulnerable=${HTTPD_VULNERABLE:-tests/httpd_vulnerable}
scale=${TEST_TIME_SCALE:-1}

for program in "$httpd" "$vulnerable"; do
	if [ ! -x "$program" ]; then echo "1..0 # SKIP $program is not built"; exit 77; fi
done
httpd=$(cd "$(dirname "$httpd")" && pwd)/$(basename "$httpd")
vulnerable=$(cd "$(dirname "$vulnerable")" && pwd)/$(basename "$vulnerable")
for tool in curl openssl sha256sum; do
	command -v "$tool" >/dev/null || { echo "1..0 # SKIP $tool is not installed"; exit 77; }
done

dir=$(mktemp -d) || exit 1
pid=
trap : PIPE # a held connection may be gone when it is told something
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1

number=0 bad=0 mode=options
verdict() { # STATUS NAME
	number=$((number + 1))
	if [ "$1" = 0 ]; then
		echo "ok $number - $mode: $2"
	else
		echo "not ok $number - $mode: $2"
		bad=1
	fi
}
same() { # EXPECTED GOT NAME
	[ "$1" = "$2" ]
	local status=$?
	verdict $status "$3"
	[ $status = 0 ] || printf '# expected: %q\n# got: %q\n' "$1" "$2"
}
matches() { # PATTERN GOT NAME
	[[ $2 =~ $1 ]]
	local status=$?
	verdict $status "$3"
	[ $status = 0 ] || printf '# expected: %q\n# got: %q\n' "$1" "$2"
}
skip() { # NAME WHY
	number=$((number + 1))
	echo "ok $number - $mode: $1 # SKIP $2"
}
limit() { # SECONDS COMMAND...
	local seconds=$1
	shift
	timeout $((seconds * scale)) "$@"
}
until_true() { # COMMAND...: up to ten seconds
	for _ in $(seq $((100 * scale))); do
		! "$@" || return 0
		sleep 0.1
	done
	return 1
}

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout key.pem -subj /CN=localhost -days 2 -out cert.pem \
	-addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null || { echo 'Bail out! no certificate'; exit 1; }
mkdir www
printf 'hello, world\n' >www/index.html
head -c 20000 /dev/urandom >www/kept.bin          # in the document cache
head -c $((3 << 20)) /dev/urandom >www/opened.bin # not in it, and larger than every ring
expected=$(cat www/index.html www/kept.bin www/opened.bin www/index.html | sha256sum)

program=$httpd
start() { # OPTION...
	: >out # the last server's words are not this one's
	"$program" --listen 127.0.0.1:0 --cert cert.pem --key key.pem --docroot www --isolation "$mode" "$@" >out 2>err &
	pid=$!
	port=
	for _ in $(seq $((100 * scale))); do
		port=$(sed -n 's|^listening on https://127.0.0.1:\([0-9]*\)/ (isolation: .*)$|\1|p' out)
		[ -z "$port" ] || break
		kill -0 $pid 2>/dev/null || break
		sleep 0.1
	done
	url=https://localhost:$port
	[ -n "$port" ] && return
	verdict 1 "the server starts with $*"
	sed 's/^/# /' err
	wait $pid
	pid=
	return 1
}
stop() { # SIGNAL
	kill -"$1" $pid 2>/dev/null
	wait $pid 2>/dev/null
	stopped=$?
	pid=
}
get() { # CURL-ARGUMENT...
	limit 10 curl -sS --cacert cert.pem "$@" 2>&1
}

# Descendants of the server, one process ID in a line: depth 1 its children, 2 theirs.
children() { # PID
	local task
	for task in /proc/"$1"/task/*/children; do
		tr ' ' '\n' <"$task" 2>/dev/null
	done | grep .
}
processes() { # DEPTH
	local depth=$1 found=$pid next parent
	while [ "$depth" -gt 0 ]; do
		next=
		for parent in $found; do next+=" $(children "$parent")"; done
		found=$next
		depth=$((depth - 1))
	done
	printf '%s\n' $found
}
count_processes() { processes "$1" | grep -c .; }
threads() { find /proc/"$pid"/task -mindepth 1 -maxdepth 1 | grep -c .; }

# Connections that stay open and say a request when they are told to.
holders=()
hold() { # connection number ${#holders[@]}: opens and does its handshake
	local i=${#holders[@]} file=held.${#holders[@]}
	rm -f "$file.in"
	: >"$file" # the last one's answers are not this one's
	mkfifo "$file.in"
	timeout $((60 * scale)) openssl s_client -connect "localhost:$port" -CAfile cert.pem -quiet -ign_eof -verify_return_error \
		<"$file.in" >"$file" 2>/dev/null &
	holders[i]=$!
	eval "exec $((20 + i))>$file.in"
	ask "$i" /
}
ask() { # HOLDER PATH: and waits for the answer
	local before
	before=$(grep -c '^HTTP/1.1 ' "held.$1")
	printf 'GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n' "$2" >&$((20 + $1)) 2>/dev/null || return 1
	until_true more_answers "$1" "$before"
}
more_answers() { [ "$(grep -c '^HTTP/1.1 ' "held.$1")" -gt "$2" ]; }
answered() { # HOLDER
	local before
	before=$(grep -ac '^hello, world' "held.$1")
	printf 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n' >&$((20 + $1)) 2>/dev/null || return 1
	until_true greeted_again "$1" "$before"
}
greeted_again() { [ "$(grep -ac '^hello, world' "held.$1")" -gt "$2" ]; }
let_go() {
	local i
	for i in "${!holders[@]}"; do
		eval "exec $((20 + i))>&-"
		kill "${holders[i]}" 2>/dev/null
		wait "${holders[i]}" 2>/dev/null
	done
	holders=()
}

refused() { # NAME PATTERN OPTION...: a start that must fail with one line
	local name=$1 pattern=$2 line status
	shift 2
	line=$(limit 20 "$httpd" --listen 127.0.0.1:0 --cert cert.pem --key key.pem --docroot www "$@" 2>&1 >bad_out)
	status=$?
	[ $status = 1 ] && [ ! -s bad_out ] && [ "$(printf '%s\n' "$line" | wc -l)" = 1 ] && [[ $line == "sthread-httpd: "$pattern ]]
	verdict $? "refuses to start: $name"
	[ $status = 1 ] || echo "# status $status"
	[[ $line == "sthread-httpd: "$pattern ]] || echo "# $line"
}

try_options() {
	refused 'an unknown isolation' '--isolation: "pledge" is unknown; use none, thread, fork, fork-per-request or sthread' \
		--isolation pledge
	refused 'an isolation that is part of another' '--isolation: "fork-per" is unknown*' --isolation fork-per
	refused 'no workers' '--workers: "0" is not a number from 1 to 64' --isolation none --workers 0
	refused 'too many workers' '--workers: "65" is not a number from 1 to 64' --isolation fork --workers 65
	refused 'workers that are no number' '--workers: "two" is not a number from 1 to 64' --workers two
	refused 'negative workers' '--workers: "-1" is not a number from 1 to 64' --isolation none --workers -1
	refused 'too many threads, whichever option is first' '--workers with threads: "513" is not a number from 1 to 512' \
		--workers 513 --isolation thread
	refused 'ballast that is no number' '--ballast: "1G" is not a number from 0 to 1048576' --isolation none --ballast 1G
	refused 'more ballast than any machine has' '--ballast: "99999999999" is not a number from 0 to 1048576' --isolation none --ballast 99999999999
	refused 'a key of no use, said once for all workers' 'the private key cert.pem is not an unencrypted private key*' \
		--isolation none --workers 3 --key cert.pem
}

try_bytes() {
	local i ok=0
	same "$expected" "$({ get $url/; get $url/kept.bin; get $url/opened.bin; get $url/; } | sha256sum)" \
		'the same bytes, a connection for each request'
	same "$expected" "$(get $url/ $url/kept.bin $url/opened.bin $url/ | sha256sum)" 'the same bytes in one connection'
	same '200 404 405 200 ' "$(get -o /dev/null -o /dev/null -w '%{http_code} ' $url/ $url/none
		get -o /dev/null -w '%{http_code} ' -X PUT $url/; get -o /dev/null -w '%{http_code} ' -I $url/)" 'the same statuses'
	same '160 hello, world' "$(for _ in 1 2 3 4 5 6 7 8; do
		limit 60 curl -sS --cacert cert.pem $(for _ in $(seq 20); do echo $url/; done) 2>&1 &
	done | sort | uniq -c | tr -s ' ' | sed 's/^ //')" 'eight clients at once'
	for i in $(seq 10); do # cut at ten places of a ClientHello
		head -c $((i * 20)) hello | limit 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port && cat >&3" 2>/dev/null || ok=1
	done
	same 0 $ok 'ten clients disconnect in their handshakes'
	for i in 1 2 3; do # after the server's flight: a client that does not trust the certificate says so and goes
		curl -sS "$url/" >/dev/null 2>&1 && ok=1
	done
	limit 2 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port && cat hello >&3 && head -c 100 <&3 >/dev/null" # and one goes without a word
	same '0 hello, world' "$ok $(get $url/)" 'others are served after them'
	sleep 1.2
	printf 'changed\n' >www/changing.txt
	sleep 1.2
	same changed "$(get $url/changing.txt)" 'a new file is served'
	hold
	printf 'changed again\n' >www/changing.txt
	sleep 1.2
	ask 0 /changing.txt
	grep -aq '^changed again$' held.0
	verdict $? 'a changed file, to a connection that was open before'
	let_go
	rm www/changing.txt
}

# The first bytes that a client sends: of a handshake that will not go on.
catch_hello() {
	openssl s_client -connect "localhost:$port" -msg -quiet -no_ign_eof </dev/null 2>/dev/null |
		sed -n '/^>>> .*ClientHello/,/^[<>]\{3\} TLS.*ServerHello/p' | grep '^    ' | tr -d ' \n' >hello.hex
	{
		printf '\x16\x03\x01'
		printf "\\x$(printf %02x $(($(wc -c <hello.hex) / 512)))\\x$(printf %02x $(($(wc -c <hello.hex) / 2 % 256)))"
		printf "$(sed 's/../\\x&/g' hello.hex)"
	} >hello
	[ "$(wc -c <hello)" -gt 200 ]
}

# Who serves three open connections.
try_shape() {
	hold && hold && hold
	verdict $? 'three connections are open at the same time'
	case $mode in
	none | sthread) same '0 0' "$(count_processes 1) $(count_processes 2)" 'without another process' ;;
	thread)
		same 0 "$(count_processes 1)" 'without another process'
		[ "$(threads)" -ge 4 ]
		verdict $? 'each in a thread'
		;;
	fork | fork-per-request)
		same '3 0' "$(count_processes 1) $(count_processes 2)" 'each in a process of its own'
		same 3 "$(for child in $(processes 1); do ls -l /proc/"$child"/fd | grep -c socket:; done | grep -cx 1)" \
			'each with no socket but its own'
		;;
	esac
	let_go
}

# A request that waits for its end: has it a process of its own?
try_request_process() {
	local half expected=0
	[ "$mode" != fork-per-request ] || expected=1
	(printf 'GET / HTTP/1.1\r\nHost: loc'; sleep 3) | limit 10 openssl s_client -connect "localhost:$port" -quiet >/dev/null 2>&1 &
	half=$!
	sleep 1
	same $expected "$(count_processes 2)" "a request that has begun has $expected processes of its own"
	if [ $expected = 1 ]; then
		same 1 "$(for child in $(processes 2); do ls -l /proc/"$child"/fd | grep -c socket:; done)" \
			'with no socket but the one that its turns are given over'
	fi
	kill $half 2>/dev/null
	wait $half 2>/dev/null
}

try_crash() {
	local victim
	program=$vulnerable
	start || { program=$httpd; return; }
	program=$httpd
	hold && hold
	# The request part jumps to nowhere.
	matches 'curl: \(' "$(get $url/attack/crash)" 'a request that crashes gets no answer'
	case $mode in
	none | thread)
		until_true gone
		verdict $? 'and takes the whole server along'
		! answered 0
		verdict $? 'and the other connections'
		let_go
		wait $pid 2>/dev/null
		pid=
		return
		;;
	esac
	answered 0 && answered 1
	verdict $? 'and leaves the other connections alive'
	same 'hello, world' "$(get $url/)" 'and new ones are served'
	case $mode in
	fork) matches 'the process [0-9]+ of a connection ended: signal (11|4) ' "$(cat err)" 'the server says what happened' ;;
	fork-per-request) matches 'connection 3: request process ended: signal (11|4) ' "$(cat err)" 'the server says what happened' ;;
	sthread) matches 'connection 3: request sthread ended: ' "$(cat err)" 'the server says what happened' ;;
	esac
	if [ "$mode" != sthread ]; then
		victim=$(processes 1 | head -n 1)
		kill -SEGV "$victim"
		until_true connection_lost
		verdict $? 'a connection whose process crashes is gone'
		answered 0 || answered 1
		verdict $? 'and leaves the other one alive'
		same 'hello, world' "$(get $url/)" 'and new ones are served'
		grep -q "the process $victim of a connection ended: signal 11 " err
		verdict $? 'the server says what happened'
	fi
	let_go
	stop TERM
	same 0 $stopped 'it ends with status 0'
}
gone() { ! kill -0 $pid 2>/dev/null || [ "$(awk '{ print $3 }' /proc/$pid/stat 2>/dev/null)" = Z ]; }
connection_lost() { [ "$(count_processes 1)" = 1 ]; }

# A spinning request is stopped by no mode but sthread before the end of its deadline: only that others are served meanwhile.
try_spin() {
	local spinning
	case $mode in none | sthread) return ;; esac # none cannot; sthread: live_httpd_attacks.sh
	program=$vulnerable
	start || { program=$httpd; return; }
	program=$httpd
	curl -sS --max-time 5 --cacert cert.pem $url/attack/spin >/dev/null 2>&1 &
	spinning=$!
	sleep 0.5
	same 'hello, world' "$(get $url/)" 'a request that spins does not hold up others'
	kill $spinning 2>/dev/null
	wait $spinning 2>/dev/null
	stop KILL
	until_true none_left
	verdict $? 'no process outlives a server that is killed'
}
none_left() { [ -z "$(leftover)" ]; }
leftover() {
	local process
	for process in /proc/[0-9]*; do
		[ "$(readlink "$process/cwd" 2>/dev/null)" = "$dir" ] && [ "$(readlink "$process/exe" 2>/dev/null | grep -c httpd)" = 1 ] &&
			echo "${process#/proc/}"
	done
}

try_end() {
	stop TERM
	same 0 $stopped 'SIGTERM ends it with status 0'
	grep -q "^served [1-9][0-9]* connections, [1-9][0-9]* requests (isolation: $mode)$" out
	verdict $? 'the whole is reported'
	same '' "$(grep -v '^connection [0-9]*: ' err)" 'nothing went wrong on the way'
	same '' "$(leftover)" 'no process is left'
	start --requests 3 || return
	same 'hello, world hello, world hello, world ' "$(get $url/ $url/ | tr '\n' ' ')$(get $url/ | tr '\n' ' ')" '--requests 3 serves three'
	until_true gone
	verdict $? 'and ends'
	kill -KILL $pid 2>/dev/null
	wait $pid
	same 0 $? 'with status 0'
	pid=
	grep -q "^served 2 connections, 3 requests (isolation: $mode)$" out
	verdict $? 'having counted three'
}

try_workers() {
	local i
	if [ "$mode" = thread ]; then
		start --workers 2 || return
		hold && hold
		verdict $? '--workers 2 serves two connections'
		same 3 "$(threads)" 'in two threads'
		limit 2 curl -sS --max-time 1 --cacert cert.pem $url/ >/dev/null 2>&1
		same 28 $? 'a third one waits'
		same 3 "$(threads)" 'and starts no other thread'
		let_go
		same 'hello, world' "$(get $url/)" 'until one of them ends'
		stop TERM
		same 0 $stopped 'it ends with status 0'
		return
	fi
	start --workers 3 || return
	same 3 "$(count_processes 1)" '--workers 3 starts three processes'
	for i in $(seq 60); do get $url/; done | grep -cx 'hello, world' >got
	same 60 "$(cat got)" 'sixty connections are served'
	matches 'cannot bind to 127.0.0.1 port' "$("$httpd" --listen "127.0.0.1:$port" --cert cert.pem --key key.pem --docroot www \
		--isolation none --workers 2 2>&1)" 'another server cannot share their port'
	kill -KILL "$(processes 1 | head -n 1)"
	until_true grep -q '^worker [123] ended: signal 9 (Killed); another one is started$' err
	verdict $? 'one that is killed is missed'
	until_true three_workers
	verdict $? 'and replaced'
	for i in $(seq 30); do get $url/; done | grep -cx 'hello, world' >got
	same 30 "$(cat got)" 'and connections are served as before'
	stop TERM
	same 0 $stopped 'it ends with status 0'
	same 3 "$(grep -c '^worker [123]: [1-9][0-9]* connections\?$' out)" 'each worker had connections'
	same '' "$(leftover)" 'no process is left'
	start --workers 2 --requests 10 || return
	for i in $(seq 10); do get $url/; done | grep -cx 'hello, world' >got
	same 10 "$(cat got)" '--requests 10 of two workers serves ten'
	until_true gone
	verdict $? 'and ends'
	kill -KILL $pid 2>/dev/null
	wait $pid
	same 0 $? 'with status 0'
	pid=
	grep -q "^served 10 connections, 10 requests (isolation: $mode)$" out
	verdict $? 'having counted ten'
}
three_workers() { [ "$(count_processes 1)" = 3 ]; }

try_ballast() {
	local before after
	start || return
	before=$(awk '/^VmRSS/ { print $2 }' /proc/$pid/status)
	stop TERM
	start --ballast 64 || return
	after=$(awk '/^VmRSS/ { print $2 }' /proc/$pid/status)
	[ $((after - before)) -ge 65000 ] # with sthreads the snapshot holds a copy of it
	verdict $? '--ballast 64 makes it 64 MiB larger'
	echo "# from $before to $after KiB"
	same 'hello, world' "$(get $url/)" 'and it serves'
	stop TERM
}

try_options
for mode in none thread fork fork-per-request sthread; do
	if [ "$mode" = sthread ] && ! { : <>/dev/kvm; } 2>/dev/null; then
		skip 'all of it' '/dev/kvm cannot be opened'
		continue
	fi
	start || continue
	if [ ! -s hello ] && ! catch_hello; then
		verdict 1 'a ClientHello can be had'
	fi
	try_bytes
	try_shape
	try_request_process
	try_end
	try_crash
	try_spin
	try_workers
	try_ballast
done
echo "1..$number"
exit $bad
