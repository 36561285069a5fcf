#!/bin/bash
# live_httpd.sh [--isolation=MODE]
# sthread-httpd against curl and openssl s_client, over the network, in TAP.  Without an argument: none and sthread.  What
# all modes have in common, and where they differ, is in live_httpd_modes.sh.
# Environment: HTTPD, the program (default: ./sthread-httpd); TEST_TIME_SCALE multiplies every time limit.
set -u
httpd=${HTTPD:-./sthread-httpd}
scale=${TEST_TIME_SCALE:-1}
case ${1-} in
'')
	# In an emulated machine, which is slow: only what needs it, and a smaller large file.
	if [ -z "${TEST_LANE-}" ]; then modes='none sthread'; else modes=sthread; fi
	;;
--isolation=*) modes=${1#*=} ;;
*) echo "usage: live_httpd.sh [--isolation=MODE]" >&2; exit 2 ;;
esac

if [ ! -x "$httpd" ]; then echo "1..0 # SKIP $httpd is not built"; exit 77; fi
httpd=$(cd "$(dirname "$httpd")" && pwd)/$(basename "$httpd")
for tool in curl openssl sha256sum; do
	command -v "$tool" >/dev/null || { echo "1..0 # SKIP $tool is not installed"; exit 77; }
done

dir=$(mktemp -d) || exit 1
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1

number=0 bad=0
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
limit() { # SECONDS COMMAND...
	local seconds=$1
	shift
	timeout $((seconds * scale)) "$@"
}

openssl ecparam -genkey -name prime256v1 -noout -out key.pem 2>/dev/null
openssl ecparam -genkey -name prime256v1 -noout -out other.pem 2>/dev/null
openssl req -x509 -new -key key.pem -subj /CN=localhost -days 2 -out cert.pem \
	-addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null || { echo 'Bail out! no certificate'; exit 1; }
mkdir -p www/sub www/.hidden
printf 'hello, world\n' >www/index.html
printf 'below\n' >www/sub/index.html
printf 'body {}\n' >www/style.css
: >www/empty.txt
printf 'outside\n' >secret.txt
ln -s ../secret.txt www/link.txt
ln -s index.html www/inside.html
mkfifo www/fifo
if [ -z "${TEST_LANE-}" ]; then mebibytes=100; else mebibytes=4; fi
head -c $((mebibytes << 20)) /dev/urandom >www/big.bin

start() { # OPTION...
	: >out # the last server's words are not this one's
	"$httpd" --listen 127.0.0.1:0 --cert cert.pem --key key.pem --docroot www --isolation "$mode" "$@" >out 2>err &
	pid=$!
	port=
	for _ in $(seq $((100 * scale))); do
		port=$(sed -n 's|^listening on https://127.0.0.1:\([0-9]*\)/ (isolation: .*)$|\1|p' out)
		[ -z "$port" ] || break
		kill -0 $pid 2>/dev/null || break
		sleep 0.1
	done
	url=https://localhost:$port
}
stop() { # SIGNAL
	kill -"$1" $pid
	wait $pid
	stopped=$?
	pid=
}
get() { # CURL-ARGUMENT...
	limit 10 curl -sS --cacert cert.pem "$@" 2>&1
}
code() { # CURL-ARGUMENT...
	get -o /dev/null -w '%{http_code}' "$@"
}
raw() { # REQUEST: over TLS, as printf expands it; prints what comes back until the server closes
	printf "$1" | limit 10 openssl s_client -connect "localhost:$port" -CAfile cert.pem -quiet -ign_eof -verify_return_error \
		2>/dev/null | tr -d '\r'
}
first_line() { # REQUEST
	raw "$1" | head -n 1
}

refused() { # NAME PATTERN OPTION...: a start that must fail with one line
	local name=$1 pattern=$2 line status
	shift 2
	line=$(limit 20 "$httpd" --listen 127.0.0.1:0 --isolation "$mode" "$@" 2>&1 >bad_out)
	status=$?
	[ $status = 1 ] && [ ! -s bad_out ] && [ "$(printf '%s\n' "$line" | wc -l)" = 1 ] &&
		[[ $line == sthread-httpd:*$pattern* ]]
	verdict $? "refuses to start: $name" || true
	[ $status = 1 ] || echo "# status $status: $line"
}

try_options() {
	local all=(--cert cert.pem --key key.pem --docroot www)
	refused 'an unknown option' 'unknown option --nonsense' --nonsense
	refused 'no certificate' --cert --key key.pem --docroot www
	refused 'a certificate that is missing' 'No such file' --cert none.pem --key key.pem --docroot www
	refused 'a certificate that is none' 'no usable certificate' --cert key.pem --key key.pem --docroot www
	refused 'a key that is missing' 'No such file' --cert cert.pem --key none.pem --docroot www
	refused 'a key that is none' 'not an unencrypted private key' --cert cert.pem --key cert.pem --docroot www
	refused 'a key of another certificate' 'does not belong' --cert cert.pem --key other.pem --docroot www
	refused 'a docroot that is missing' 'No such file' --cert cert.pem --key key.pem --docroot none
	refused 'a docroot that is no directory' 'Not a directory' --cert cert.pem --key key.pem --docroot cert.pem
	refused 'a strange address' HOST:PORT "${all[@]}" --listen 8443
	refused 'a port in use' 'in use' "${all[@]}" --listen "127.0.0.1:$port"
	limit 10 "$httpd" --help | grep -q '^Usage: sthread-httpd'
	verdict $? 'prints its usage on request'
}

try_requests() {
	local sum i
	same 'hello, world' "$(get $url/)" 'a page is served over TLS'
	get -i $url/style.css | tr -d '\r' >head
	grep -q '^HTTP/1.1 200 OK$' head && grep -q '^Content-Type: text/css' head && grep -q '^Content-Length: 8$' head
	verdict $? 'with its status, type and length'
	get -I $url/ | tr -d '\r' >head
	grep -q '^Content-Length: 13$' head && [ "$(tail -n 1 head)" = '' ]
	verdict $? 'HEAD gives the head only'
	same below "$(get $url/sub)" 'a directory gives its index.html'
	same below "$(get $url/sub/)" 'with a slash, too'
	same 200 "$(code $url/empty.txt)" 'an empty file is served'
	same 'hello, world' "$(get $url/inside.html)" 'a link inside the document root is followed'
	same 404 "$(code $url/nothing)" '404 for what is not there'
	same 404 "$(code $url/link.txt)" '404 for a link that leads outside'
	same 404 "$(code $url/fifo)" '404 for a pipe, without waiting for it'
	same 405 "$(code -X DELETE $url/)" '405 for another method'
	same 405 "$(code -d x=y $url/)" '405 for a form'
	same 400 "$(code --path-as-is $url/../secret.txt)" '400 for a path that leads outside'
	same 400 "$(code --path-as-is $url/%2e%2e/secret.txt)" 'encoded, too'
	same 413 "$(code -X GET -d x $url/)" '413 for a body'
	same 431 "$(code -H "X: $(head -c 15000 /dev/zero | tr '\0' a)" -H "Y: $(head -c 5000 /dev/zero | tr '\0' a)" $url/)" \
		'431 for a long head'
	same 200 "$(code -H "X: $(head -c 15000 /dev/zero | tr '\0' a)" $url/)" 'a head just below the limit is served'
	same '200 404 200 1' "$(get -o /dev/null -o /dev/null -o /dev/null -w '%{http_code} ' $url/ $url/no $url/sub/)$(
		get -v $url/ $url/sub/ 2>&1 | grep -c 'Re-using existing connection')" 'a connection serves several requests'
	same 200 "$(code --http1.0 $url/)" 'HTTP/1.0 is served'

	same 'HTTP/1.1 400 Bad Request' "$(first_line 'GET / HTTP/1.1\nHost: a\n\n')" '400 for bare line feeds'
	same 'HTTP/1.1 400 Bad Request' "$(first_line 'GET / HTTP/1.1\r\nHost : a\r\n\r\n')" '400 for a space before the colon'
	same 'HTTP/1.1 400 Bad Request' "$(first_line 'GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n')" '400 for a folded line'
	same 'HTTP/1.1 400 Bad Request' "$(first_line 'GET / HTTP/1.1\r\n\r\n')" '400 without Host'
	same 'HTTP/1.1 400 Bad Request' "$(first_line 'GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n')" '400 for two'
	same 'HTTP/1.1 400 Bad Request' "$(first_line 'GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n')" \
		'400 for a transfer encoding'
	same 2 "$(raw 'GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /sub/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n' |
		grep -c -e '^hello, world$' -e '^below$')" 'two requests in one piece are answered in turn'
	same 40 "$({ for i in $(seq 39); do printf 'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'; done
		printf 'GET / HTTP/1.0\\r\\n\\r\\n'; } | { raw "$(cat)"; } | grep -c '^hello, world$')" 'forty, too'

	request=$'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'
	same 'hello, world' "$({ for ((i = 0; i < ${#request}; i++)); do
		printf '%s' "${request:i:1}"
		sleep 0.01
	done; sleep 1; } | limit 20 openssl s_client -connect "localhost:$port" -quiet -ign_eof 2>/dev/null | tail -n 1)" \
		'a request sent byte by byte is answered'
	sum=$(sha256sum <www/big.bin)
	same "$sum" "$(limit 60 curl -sS --cacert cert.pem $url/big.bin | sha256sum)" "a file of $mebibytes MiB arrives whole"
	same "$sum" "$(limit 60 curl -sS --cacert cert.pem --limit-rate 40M $url/big.bin | sha256sum)" \
		'to a slow reader, too'
}

# The code of TLS, cryptography and HTTP parsing: taken from the main loop if there are compartments to run it.
try_fence() {
	local rights=---p libraries
	[ "$mode" = sthread ] || rights=r-xp
	libraries=$(awk '$2 == "---p" || $2 ~ /x/ {
		if (match($6, /lib(ssl|crypto|llhttp|http_parser)\.so/)) print $2 }' /proc/$pid/maps)
	same "$rights $rights $rights" "$(echo $libraries)" 'the main loop has that code only without compartments'
}

try_tls() {
	local suite group answer
	for suite in TLS_AES_128_GCM_SHA256 TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256; do
		answer=$(printf 'GET / HTTP/1.0\r\n\r\n' | limit 10 openssl s_client -connect "localhost:$port" -CAfile cert.pem \
			-verify_return_error -quiet -ign_eof -ciphersuites $suite 2>/dev/null | tail -n 1)
		same 'hello, world' "$answer" "$suite"
	done
	for group in P-256 P-384 P-521:X25519; do
		answer=$(printf 'GET / HTTP/1.0\r\n\r\n' | limit 10 openssl s_client -connect "localhost:$port" -CAfile cert.pem \
			-verify_return_error -quiet -ign_eof -groups $group 2>/dev/null | tail -n 1)
		same 'hello, world' "$answer" "key exchange $group"
	done
	get --tls-max 1.2 $url/ | grep -q 'protocol version'
	verdict $? 'TLS 1.2 is refused with an alert'
	for bytes in 'GET / HTTP/1.0\r\n\r\n' '\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00' '\x16\x03\x01\xff\xff' \
		'\x80\x2e\x01\x00\x02' '\x15\x03\x03\x00\x02\x02\x28' '\x17\x03\x03\x00\x01\x00'; do
		limit 10 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port && printf '$bytes' >&3 && sleep 0.1" 2>/dev/null
	done
	head -c 100000 /dev/urandom | limit 10 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port && cat >&3" 2>/dev/null
	same 'hello, world' "$(get $url/)" 'malformed TLS ends its own connection only'

	same '160 hello, world' "$(for _ in 1 2 3 4 5 6 7 8; do
		limit 60 curl -sS --cacert cert.pem $(for _ in $(seq 20); do echo $url/; done) 2>&1 &
	done | sort | uniq -c | tr -s ' ' | sed 's/^ //')" 'eight clients at once are served'

	# Half a ClientHello, held open; a handshake and half a request, held open; a handshake and nothing.
	exec 5<>"/dev/tcp/127.0.0.1/$port"
	printf '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefgh' >&5
	(printf 'GET / HT'; sleep 3) | limit 10 openssl s_client -connect "localhost:$port" -quiet >/dev/null 2>&1 &
	local half=$!
	sleep 0.5
	same 'hello, world' "$(limit 1 curl -sS --cacert cert.pem $url/ 2>&1)" 'stalled clients do not hold up another one'
	exec 5>&-
	wait $half
}

# Small files are kept in memory: an answer is never more than a second old.
try_changes() {
	printf 'first\n' >www/changing.txt
	printf 'gone soon\n' >www/sub/vanishing.txt
	sleep 1.2
	same first "$(get $url/changing.txt)" 'a new file is served'
	same 'gone soon' "$(get $url/sub/vanishing.txt)" 'and one in a folder'
	for round in 1 2 3; do
		printf 'round %s\n' $round >www/changing.txt
		sleep 1.2
		same "round $round" "$(get $url/changing.txt)" "a changed file is served as it is now ($round)"
	done
	rm www/sub/vanishing.txt
	mv www/changing.txt www/moved.txt
	sleep 1.2
	same '404 404 200' "$(code $url/sub/vanishing.txt) $(code $url/changing.txt) $(code $url/moved.txt)" \
		'a file that is gone or has another name is not served by the old one'
	head -c 100000 /dev/zero >www/moved.txt
	sleep 1.2
	same 100000 "$(get $url/moved.txt | wc -c)" 'a file that has grown large is served whole'
	chmod 0 www/moved.txt
	sleep 1.2
	[ "$(id -u)" = 0 ] || same 404 "$(code $url/moved.txt)" 'a file that may not be read any more is not served'
	rm -f www/moved.txt
}

try_reports() {
	stop TERM
	same 0 $stopped 'SIGTERM ends it with status 0'
	grep -q '^connection 1 from 127.0.0.1 port [0-9]*: 1 request' out
	verdict $? 'a connection is reported'
	grep -q "^served [0-9]* connections, [0-9]* requests (isolation: $mode)$" out
	verdict $? 'the whole is reported'
	same '' "$(cat err)" 'nothing went wrong on the way'
	if [ "$mode" = sthread ]; then
		grep -q '^  TLS sthread *address space [0-9]*, life [0-9]*' out && grep -q '^  request sthread *address space' out
		verdict $? 'compartments are reported'
	fi
	rm -f log
	start --requests 2 --log log
	same '200 200 ' "$(get -o /dev/null -o /dev/null -w '%{http_code} ' $url/ "$url/sub/?x=%1b")" '--requests 2 serves two'
	for _ in $(seq $((50 * scale))); do kill -0 $pid 2>/dev/null || break; sleep 0.1; done
	kill -KILL $pid 2>/dev/null # if it has not ended by itself
	wait $pid
	same 0 $? 'and ends with status 0'
	pid=
	same 2 "$(grep -c -e ' connection 1: 200, 13 bytes: GET / HTTP/1.1$' \
		-e ' connection 1: 200, 6 bytes: GET /sub/?x=%1b HTTP/1.1$' log)" 'each request is a line of the log'
	start
	stop INT
	same 0 $stopped 'SIGINT ends it with status 0'
}

lines_come() { # PATTERN COUNT: in what the server says
	local i
	for ((i = 0; i < 50 * scale; i++)); do
		[ "$(grep -c "$1" out)" -lt "$2" ] || return 0
		sleep 0.1
	done
	return 1
}
exits_so_far() { # but for those by signals, which end slices, and by faults; and faults
	local asked=$(($(grep -c '^served' out) + 1)) numbers
	kill -USR1 $pid
	lines_come '^  changes of address space' $asked || return 1
	numbers=($(sed -n 's/^  machine: exits \([0-9]*\), \([0-9]*\) of them by signals, traps \([0-9]*\),.*/\1 \2 \3/p' out | tail -n 1))
	echo $((numbers[0] - numbers[1] - numbers[2])) ${numbers[2]}
}
connections() { # COUNT, with a request each
	local i
	for ((i = 0; i < $1; i++)); do get -o /dev/null -H 'Connection: close' $url/; done
	ended=$((ended + $1))
}
kept_requests() { # COUNT, in one connection
	local i urls=()
	for ((i = 0; i < $1; i++)); do urls+=(-o /dev/null $url/); done
	get "${urls[@]}"
	ended=$((ended + 1))
}
# Exits of forty operations more in one server.  A page that is written to now and then only is learned by a fault, once.
at_most() { # EXITS COMMAND NAME
	local count counts=() exits faults ended=0
	start
	for count in 2 10 50; do
		"$2" $count >/dev/null
		lines_come '^connection ' $ended && counts+=($(exits_so_far))
	done
	stop TERM
	[ ${#counts[@]} = 6 ] && exits=$((counts[4] - 2 * counts[2] + counts[0])) faults=$((counts[5] - counts[3])) &&
		[ $exits -gt 0 ] && [ $exits -le $(($1 * 40)) ] && [ $faults -le 4 ]
	verdict $? "$3"
	echo "# 40 take ${exits-?} exits, 50 make ${faults-?} faults"
}

try_exits() {
	at_most 6 connections 'a new connection with its request takes at most six exits'
	at_most 3 kept_requests 'a request in an open connection takes at most three exits'
}

# Stopped and continued so often, the server ends slices of compartments in the middle of their turns; meanwhile the reader
# makes room for what they could not send.  One that is forgotten is cut off after 30 s.
try_slices() {
	local i stopper whole=0
	head -c 20M www/big.bin >www/middle.bin
	start
	(while kill -STOP $pid 2>/dev/null; do
		sleep 0.011
		kill -CONT $pid
		sleep 0.001
	done) &
	stopper=$!
	for i in $(seq 15); do
		limit 25 curl -sS --cacert cert.pem --limit-rate 40M $url/middle.bin 2>/dev/null | cmp -s - www/middle.bin || break
		whole=$((whole + 1))
	done
	kill $stopper
	wait $stopper 2>/dev/null
	kill -CONT $pid
	same 15 $whole 'a slow reader gets everything, wherever slices end'
	stop TERM
}

for mode in $modes; do
	if [ "$mode" = sthread ] && ! { : <>/dev/kvm; } 2>/dev/null; then
		number=$((number + 1))
		echo "ok $number - sthread # SKIP /dev/kvm cannot be opened"
		continue
	fi
	start
	if [ -z "$port" ]; then
		verdict 1 'the server starts'
		sed 's/^/# /' err
		wait $pid
		pid=
		continue
	fi
	try_options
	try_requests
	try_fence
	try_tls
	try_changes
	try_reports
	# Where ring 0 is native a getrandom() exits as well; and slices of an emulated machine end everywhere.
	if [ "$mode" = sthread ] && [ -z "${TEST_LANE-}" ]; then
		try_exits
		try_slices
	fi
done
echo "1..$number"
exit $bad
