#!/bin/bash
# live_httpd_attacks.sh
# Attacks on sthread-httpd from inside its parts, in TAP: the server is tests/httpd_vulnerable, which is the same server
# but does what its peer asks for (demos/httpd/attack.h). Every attack is repeated where it succeeds.
# Environment: HTTPD, the vulnerable program; TEST_TIME_SCALE multiplies every time limit.
set -u
httpd=${HTTPD:-tests/httpd_vulnerable}
scale=${TEST_TIME_SCALE:-1}

if [ ! -x "$httpd" ]; then echo "1..0 # SKIP $httpd is not built"; exit 77; fi
if ! { : <>/dev/kvm; } 2>/dev/null; then echo '1..0 # SKIP /dev/kvm cannot be opened'; exit 77; fi
httpd=$(cd "$(dirname "$httpd")" && pwd)/$(basename "$httpd")
for tool in curl openssl; do
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
matches() { # PATTERN GOT NAME
	[[ $2 =~ $1 ]]
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
openssl req -x509 -new -key key.pem -subj /CN=localhost -days 2 -out cert.pem \
	-addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null || { echo 'Bail out! no certificate'; exit 1; }
mkdir www
printf 'hello, world\n' >www/index.html
printf 'outside\n' >secret.txt
ln -s ../secret.txt www/link.txt

hex() {
	od -An -v -tx1 | tr -d ' \n'
}
# What to search for, each byte with its highest bit turned over.
hide() { # NAME HEX
	local hex=$2 out='' i
	for ((i = 0; i < ${#hex}; i += 2)); do
		printf -v out '%s%02x' "$out" $((0x${hex:i:2} ^ 0x80))
	done
	echo "$1 $out"
}
der=$(openssl ec -in key.pem -outform DER 2>/dev/null | hex)
scalar=${der:14:64} # behind 30 len 02 01 01 04 20
backwards=$(fold -w 2 <<<"$scalar" | tac | tr -d '\n')
public=${der: -128}
pem=$(sed -n 2p key.pem | tr -d '\n' | hex)
pem_second=$(sed -n 3p key.pem | tr -d '\n' | hex)
mark=$(openssl rand -hex 16)
{
	hide scalar "$scalar"
	hide backwards "$backwards"
	hide der "$der"
	hide pem "$pem"
	hide pem2 "$pem_second"
	hide public "$public"
	hide mark "$(printf %s "$mark" | hex)"
} >needles
export ATTACK_NEEDLES=needles

start() { # OPTION...
	: >out # the last server's words are not this one's
	"$httpd" --listen 127.0.0.1:0 --cert cert.pem --key key.pem --docroot www --log log --isolation "$mode" "$@" >out 2>err &
	pid=$!
	port=
	for _ in $(seq $((100 * scale))); do
		port=$(sed -n 's|^listening on https://127.0.0.1:\([0-9]*\)/ (isolation: .*)$|\1|p' out)
		[ -z "$port" ] || break
		kill -0 $pid 2>/dev/null || break
		sleep 0.1
	done
	url=https://localhost:$port
	key=$(sed -n 's/^vulnerable on purpose: key at \([0-9a-f]*\), .*/\1/p' out)
	sign_gate=$(sed -n 's/^vulnerable on purpose: .*, sign gate \([0-9]*\)$/\1/p' out)
}
stop() {
	kill -TERM $pid 2>/dev/null
	wait $pid 2>/dev/null
	stopped=$?
	pid=
}
get() { # CURL-ARGUMENT...
	limit 30 curl -sS --cacert cert.pem "$@" 2>&1
}
request() { # NAME: an attack by the request part; prints what came of it
	get -H "X-Mark: $mark" "$url/attack/$1"
}
tls() { # SERVER-NAME: an attack by the TLS part
	# The end of the handshake is looked at when a request has come with it.
	printf 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n' | limit 30 openssl s_client -connect "localhost:$port" -CAfile cert.pem \
		-quiet -servername "$1" 2>/dev/null
}
serves() { # NAME
	same 'hello, world' "$(get $url/)" "$1"
}
new_error() { # prints what the server has said since the last call
	tail -n +$(($(cat said) + 1)) err
	wc -l <err >said
}
count() { # NEEDLE TEXT: how often it was found
	sed -n "s/.* $1 \([0-9]*\).*/\1/p" <<<"$2"
}
not_found() { # TEXT WHO
	matches '^pages [0-9]+ private [1-9][0-9]* tagged [1-9][0-9]* scalar 0 backwards 0 der 0 pem 0 pem2 0 public [1-9]' "$1" \
		"$2 sees the public key, and the private one in no form"
	echo "# $1"
}

found() { # TEXT NAME
	matches ' scalar [1-9][0-9]* backwards [1-9][0-9]* der [1-9][0-9]* pem [1-9][0-9]* pem2 [1-9][0-9]* ' "$1" "$2"
	echo "# $1"
}

# The TLS part ends as exit(errno) of the sign gate's refusal: the library's report says so.
question() { # NAME EXIT-STATUS WHAT
	tls "sign-$1" >/dev/null
	matches "^connection [0-9]+: TLS sthread ended: it called exit\($2\)$" "$(new_error)" "$3"
}

try_isolated() {
	echo 0 >said
	serves 'a page'

	request crash >/dev/null
	matches '^connection [0-9]+: request sthread ended: page fault at 0x10 \(error code 0x6, ' "$(new_error)" \
		'a request sthread that crashes is reported'
	serves 'and the server goes on'
	tls attack-crash >/dev/null
	matches '^connection [0-9]+: TLS sthread ended: page fault at 0x10 \(error code 0x6, ' "$(new_error)" \
		'a TLS sthread that crashes is reported'
	serves 'and the server goes on'
	request exit >/dev/null
	matches '^connection [0-9]+: request sthread ended: it called exit\(7\)$' "$(new_error)" 'exit() ends the sthread only'

	request "read-$key" >/dev/null
	matches "^connection [0-9]+: request sthread ended: page fault at 0x$key \(error code 0x[45], " "$(new_error)" \
		'a request sthread that reads the key ends at that'
	tls "attack-read-$key" >/dev/null
	matches "^connection [0-9]+: TLS sthread ended: page fault at 0x$key \(error code 0x[45], " "$(new_error)" \
		'a TLS sthread, too'
	serves 'and the server goes on'

	request spin >/dev/null &
	local first=$!
	tls attack-spin >/dev/null &
	local second=$! begin=$SECONDS
	sleep 0.5
	same 'hello, world' "$(limit 2 curl -sS --cacert cert.pem $url/ 2>&1)" 'two that spin do not hold up a third'
	wait $first $second
	same 2 "$(new_error | grep -cE '^connection [0-9]+: (TLS|request) sthread ended: its processor time is spent$')" \
		'they end when their processor time is spent'
	echo "# after $((SECONDS - begin)) seconds"

	request memory >memory
	matches 'connection [0-9]+: request sthread ended: its memory is spent|^[0-9]+ MiB$' "$(cat memory)$(new_error)" 'one that takes all memory gets its share'
	echo "# $(cat memory)"
	[ "$(awk '/^VmRSS/ { print $2 }' /proc/$pid/status)" -lt 1000000 ]
	verdict $? 'and no more'
	serves 'and the server goes on'

	# EPERM 1, EBADF 9, EACCES 13, ENOSYS 38
	same 'file 13 parent 13 link 13 memory 13 socket 1 descriptor 9 ' "$(request leave)" \
		'a request sthread opens nothing outside, no socket, no descriptor'
	same 'file 1 parent 1 link 1 memory 1 socket 1 descriptor 9 ' "$(tls attack-leave)" 'a TLS sthread nothing at all'
	same 'gate 1' "$(request "gate-$sign_gate")" 'a request sthread cannot call the sign gate'
	same 'gate 0' "$(tls "attack-gate-$sign_gate")" 'a TLS sthread can'
	new_error >/dev/null

	# EBADMSG 74, EACCES 13
	question true 0 'the sign gate answers a true question'
	question second 13 'but not a second time'
	question ticket 13 'nor with another ticket'
	question bytes 74 'arbitrary bytes are not signed'
	question bare 74 'nor the right content without the messages'
	question hash 74 'nor a bare hash'
	question client 74 "nor a client's content"
	question other 74 "nor another handshake's"

	local text
	text=$(request scan)
	not_found "$text" 'a request sthread'
	[ "$(count mark "$text")" -ge 1 ]
	verdict $? 'and its own request'
	text=$(tls attack-scan)
	not_found "$text" 'a TLS sthread'
	same 0 "$(count mark "$text")" 'and nothing of earlier requests'
	same '' "$(new_error)" 'the search hits nothing that faults'
	serves 'and the server goes on'
	stop
	same 0 $stopped 'it ends with status 0'

	# What the main loop may not run: it ends the server at once.
	local what
	for what in ssl crypto parser; do
		ATTACK_HOST=$what start
		wait $pid 2>/dev/null
		same 139 $? "the main loop cannot run its $what code"
		pid=
	done

	# The mistake: the key is there when the snapshot is taken.
	ATTACK_EARLY_KEY=key.pem start
	text=$(request scan)
	found "$text" 'control: a key read before the snapshot is found by a request sthread, in every form'
	text=$(tls attack-scan)
	found "$text" 'control: and by a TLS sthread'
	stop
}

try_open() {
	serves 'a page'
	matches '^-----BEGIN EC PRIVATE KEY-----' "$(request "read-$key")" 'control: a request reads the key'
	matches '^-----BEGIN EC PRIVATE KEY-----' "$(tls "attack-read-$key")" 'control: so does the TLS part'
	local text
	text=$(request scan)
	[ "$(count backwards "$text")" -ge 1 ] && [ "$(count pem "$text")" -ge 1 ]
	verdict $? 'control: the search finds the key'
	echo "# $text"
	matches '^file 0 .*socket 0 ' "$(request leave)" 'control: files outside are opened'
	same 'gate 0' "$(request "gate-$sign_gate")" 'control: a request calls the sign gate'
	request crash >/dev/null
	for _ in $(seq $((50 * scale))); do kill -0 $pid 2>/dev/null || break; sleep 0.1; done
	wait $pid 2>/dev/null
	same 139 $? 'control: a request that crashes ends the server'
	pid=
	start
	request spin >/dev/null &
	sleep 0.5
	limit 2 curl -sS --cacert cert.pem $url/ >/dev/null 2>&1
	same 124 $? 'control: one that spins ends the service'
	kill -KILL $pid
	wait $pid 2>/dev/null
	wait
	pid=
}

try_host() { # control of the above
	local what
	for what in ssl crypto parser; do
		ATTACK_HOST=$what start
		same 'hello, world' "$(get $url/)" "control: the main loop runs its $what code"
		stop
	done
}

for mode in sthread none; do
	start
	if [ -z "$port" ]; then
		verdict 1 'the server starts'
		sed 's/^/# /' err
		wait $pid
		pid=
		continue
	fi
	if [ $mode = sthread ]; then try_isolated; else try_open; try_host; fi
done
echo "1..$number"
exit $bad
