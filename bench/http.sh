#!/bin/bash
# http.sh [--quick] [--seconds=N] [--rounds=N] [--connections=N] [--httpd=PROGRAM] [--results=PREFIX] [--install] [--write-docs]
# Requests a second and latency of sthread-httpd with each --isolation, and of nginx and h2o beside it, asked by wrk: a new
# connection for each request, and connections that are kept; then with one and with two workers on two processors. Prints
# tables and which of the ratios that are aimed at are reached; writes them as PREFIX.md and the figures as PREFIX.csv
# (default: bench-http). Nothing is asserted.
#   --quick        one round of one second for each row: for a look, not for figures
#   --install      installs wrk, nginx and h2o if they are missing (as root, or with sudo); without it their rows are skipped
#   --write-docs   puts the table into docs/benchmarks.md
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"

seconds=4 rounds=3 connections=16 httpd=./sthread-httpd results=bench-http install='' write_docs=''
for option; do
	case $option in
	--quick) seconds=1 rounds=1 ;;
	--seconds=*) seconds=${option#*=} ;;
	--rounds=*) rounds=${option#*=} ;;
	--connections=*) connections=${option#*=} ;;
	--httpd=*) httpd=${option#*=} ;;
	--results=*) results=${option#*=} ;;
	--install) install=1 ;;
	--write-docs) write_docs=1 ;;
	-h | --help)
		sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
		exit
		;;
	*) die "unknown option $option (--help explains)" ;;
	esac
done
for value in "$seconds" "$rounds" "$connections"; do
	[[ $value =~ ^[1-9][0-9]{0,3}$ ]] || die "'$value' is not a number from 1 to 9999"
done
[ -x "$httpd" ] || die "$httpd is not built"
httpd=$(cd "$(dirname "$httpd")" && pwd)/$(basename "$httpd")
case $results in /*) ;; *) results=$PWD/$results ;; esac

# ---- what is there ---------------------------------------------------------------------------------------------------
programs=(wrk nginx h2o) # each a Debian package of the same name
[ -z "$install" ] || require_packages "${programs[@]}"
PATH=$PATH:/usr/sbin
have() { command -v "$1" >/dev/null; }
missing=()
for program in "${programs[@]}"; do have "$program" || missing+=("$program"); done
if [ ${#missing[@]} -gt 0 ]; then
	echo "missing: ${missing[*]}. To have their rows, as root:"
	echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
	echo "or make bench-http BENCH_HTTP_OPTIONS=--install"
fi
have openssl || die "openssl is missing: apt-get install -y --no-install-recommends openssl"
kvm=$(kvm_problem)
read -r load_before _ </proc/loadavg

# The load on the first processor that this process may use, the server on the second; two workers on the second and third,
# or, where there are only two, with the load on both.
mapfile -t processors < <(taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' | while IFS=- read -r from to; do seq "$from" "${to:-$from}"; done)
load_cpu=${processors[0]} server_cpu=${processors[1]-}
if [ -z "$server_cpu" ]; then
	server_cpu=$load_cpu
	echo "one processor only: server and load share it, the figures are of little use"
fi
worker_cpus='' worker_load_cpu=$load_cpu sharing="; the load on a third"
case ${#processors[@]} in
1) ;;
2)
	worker_cpus=${processors[0]},${processors[1]} worker_load_cpu=$worker_cpus
	sharing="; the load shares them, so neither mode can be twice as fast with two workers"
	;;
*) worker_cpus=${processors[1]},${processors[2]} ;;
esac

dir=$(mktemp -d)
server=''
stop_server() { # TERM, and wait
	[ -n "$server" ] || return 0
	kill -TERM "$server" 2>/dev/null || :
	wait "$server" 2>/dev/null || :
	server=''
}
trap 'stop_server; rm -rf "$dir"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj /CN=localhost \
	-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null
mkdir "$dir/www" "$dir/temporary"
for ((i = 0; i < 16; i++)); do printf '%063d\n' $i; done >"$dir/www/index.html" # 1 KiB

# ---- the servers: each sets `server` and `port` -----------------------------------------------------------------------
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() {
	port=$((20000 + RANDOM % 10000))
	while listening $port; do port=$((port + 1)); done
}
wait_for_port() {
	local i
	for ((i = 0; i < 200; i++)); do
		! listening "$port" || return 0
		kill -0 "$server" 2>/dev/null || break
		sleep 0.05
	done
	tail -n 5 "$dir/output" >&2
	die "$1 does not start"
}
start_httpd() { # MODE BALLAST [WORKERS]: with workers on worker_cpus
	local i cpus=$server_cpu
	[ -z "${3-}" ] || cpus=$worker_cpus
	: >"$dir/output"
	taskset -c "$cpus" "$httpd" --listen 127.0.0.1:0 --cert "$dir/cert.pem" --key "$dir/key.pem" --docroot "$dir/www" \
		--isolation "$1" --ballast "$2" ${3:+--workers "$3"} >"$dir/output" 2>&1 &
	server=$!
	for ((i = 0; i < 600; i++)); do
		port=$(sed -n 's|^listening on https://127.0.0.1:\([0-9]*\)/.*|\1|p' "$dir/output")
		[ -z "$port" ] || return 0
		kill -0 $server 2>/dev/null || break
		sleep 0.1
	done
	tail -n 5 "$dir/output" >&2
	die "sthread-httpd does not start"
}
start_nginx() {
	local user=''
	free_port
	[ "$(id -u)" != 0 ] || user="user root;"
	cat >"$dir/nginx.conf" <<-EOF
		daemon off; worker_processes 1; pid $dir/nginx.pid; error_log $dir/output; $user
		events { worker_connections 1024; }
		http {
			access_log off; server_tokens off; default_type text/html; keepalive_requests 1000000000;
			open_file_cache max=512 inactive=60s; open_file_cache_valid 1s;
			client_body_temp_path $dir/temporary; proxy_temp_path $dir/temporary; fastcgi_temp_path $dir/temporary;
			uwsgi_temp_path $dir/temporary; scgi_temp_path $dir/temporary;
			server {
				listen 127.0.0.1:$port ssl; root $dir/www;
				ssl_certificate $dir/cert.pem; ssl_certificate_key $dir/key.pem;
				ssl_protocols TLSv1.3; ssl_ecdh_curve X25519:P-256:P-384;
				ssl_session_tickets off; ssl_session_cache off; ssl_conf_command NumTickets 0;
			}
		}
	EOF
	taskset -c "$server_cpu" nginx -e "$dir/output" -p "$dir" -c "$dir/nginx.conf" >"$dir/output" 2>&1 &
	server=$!
	wait_for_port nginx
}
start_h2o() {
	local user=''
	free_port
	[ "$(id -u)" != 0 ] || user="user: root"
	# It has no options for these: session tickets off, no older version.
	cat >"$dir/openssl.conf" <<-EOF
		openssl_conf = start
		[start]
		ssl_conf = ssl
		[ssl]
		system_default = all
		[all]
		NumTickets = 0
		MinProtocol = TLSv1.3
		Groups = X25519:P-256:P-384
	EOF
	cat >"$dir/h2o.conf" <<-EOF
		listen:
		  host: 127.0.0.1
		  port: $port
		  ssl:
		    certificate-file: $dir/cert.pem
		    key-file: $dir/key.pem
		    minimum-version: TLSv1.2
		    neverbleed: OFF
		ssl-session-resumption:
		  mode: off
		num-threads: 1
		$user
		hosts:
		  default:
		    paths:
		      /:
		        file.dir: $dir/www
	EOF
	OPENSSL_CONF=$dir/openssl.conf taskset -c "$server_cpu" h2o -c "$dir/h2o.conf" >"$dir/output" 2>&1 &
	server=$!
	wait_for_port h2o
}
start() { # SERVER BALLAST [WORKERS]
	case $1 in
	nginx | h2o) "start_$1" ;;
	*) start_httpd "$@" ;;
	esac
}

# What a client and the server agree on: version, suite, key exchange, tickets that the server sends.
agreed() {
	printf 'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' |
		timeout 20 openssl s_client -connect "127.0.0.1:$port" -CAfile "$dir/cert.pem" -verify_return_error -ign_eof 2>&1 |
		tr -d '\0' | awk -v page="$(sed -n 16p "$dir/www/index.html")" '
			/^New, TLS/ { version = $2; suite = $5; sub(",", "", version) }
			/^Server Temp Key/ { group = $4; sub(",", "", group) }
			/^Post-Handshake New Session Ticket/ { tickets++ }
			$0 == page { page_came = 1 }
			END { if (!page_came) print "NO PAGE"; else print version, suite, group, tickets + 0 " tickets" }'
}

# ---- one run ----------------------------------------------------------------------------------------------------------
busy_ticks() { awk -v cpu="cpu$server_cpu" '$1 == cpu { print $2 + $3 + $4 + $7 + $8, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat; }
exits_so_far() { sed -n 's/^  machine: exits \([0-9]*\),.*/\1/p' "$dir/output"; }
requests_so_far() { sed -n 's/^served .* \([0-9]*\) requests\{0,1\} (.*/\1/p' "$dir/output"; }

run() { # SERVER BALLAST WORKLOAD: appends a line to $dir/runs. A workload is new or kept, or that with WORKERS behind it
	local header=() result before after exits=- requests workers=${3//[a-z]/} cpu=$load_cpu
	[[ $3 = kept* ]] || header=(-H 'Connection: close')
	[ -z "$workers" ] || cpu=$worker_load_cpu
	start "$1" "$2" ${workers:+"$workers"}
	if [ ! -e "$dir/agreed.$1" ]; then
		agreed >"$dir/agreed.$1"
		! grep -q 'NO PAGE' "$dir/agreed.$1" || die "$1 does not serve the page"
	fi
	taskset -c "$cpu" wrk -t1 -c"$connections" -d0.3s "${header[@]}" "https://127.0.0.1:$port/" >/dev/null 2>&1 || :
	before=$(busy_ticks)
	result=$(taskset -c "$cpu" wrk -t1 -c"$connections" -d"${seconds}s" --timeout 10s -s "$top/bench/http.lua" "${header[@]}" \
		"https://127.0.0.1:$port/" | sed -n 's/^RESULT //p')
	after=$(busy_ticks)
	[ -n "$result" ] || die "wrk gave no result for $1"
	stop_server
	if [ "$1" = sthread ] && [ -z "$workers" ]; then
		requests=$(requests_so_far)
		exits=$(awk -v e="$(exits_so_far)" -v s="$exits_at_start" -v r="${requests:-0}" 'BEGIN { if (r > 0) printf "%.2f", (e - s) / r; else print "-" }')
	fi
	echo "$1 $2 $3 $result $exits $before $after" >>"$dir/runs"
}

# SERVER BALLAST WORKLOAD
rows=() skipped=()
memory=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
add_row() {
	local why=''
	case $1 in
	nginx | h2o) have "$1" || why="$1 is not installed" ;;
	sthread) why=$kvm ;;
	esac
	have wrk || why="wrk is not installed"
	[[ ! $3 =~ [0-9] ]] || [ -n "$worker_cpus" ] || why="there is one processor"
	[ "$2" -lt 1024 ] || [ "$memory" -ge 4096 ] || why="4 GiB of free memory are needed"
	if [ -z "$why" ]; then rows+=("$1 $2 $3"); else skipped+=("$1, $2 MiB, $3: $why"); fi
}
for workload in new kept; do
	for ballast in 10 128; do
		for mode in none thread fork fork-per-request sthread; do add_row $mode $ballast $workload; done
	done
	for mode in fork sthread; do add_row $mode 1024 $workload; done
	add_row nginx 0 $workload
	add_row h2o 0 $workload
	for workers in 1 2; do
		for mode in none sthread; do add_row $mode 10 $workload$workers; done
	done
done

if [ ${#rows[@]} = 0 ]; then
	printf 'skipped: %s\n' "${skipped[@]}"
	echo "0 rows measured, ${#skipped[@]} skipped"
	exit 1
fi

exits_at_start=0
if [ -z "$kvm" ]; then
	start_httpd sthread 10
	stop_server
	exits_at_start=$(exits_so_far)
fi
: >"$dir/runs"
for ((round = 1; round <= rounds; round++)); do
	echo "round $round of $rounds: ${#rows[@]} rows" >&2
	for row in "${rows[@]}"; do
		# shellcheck disable=SC2086
		run $row
	done
done

# ---- the table --------------------------------------------------------------------------------------------------------
# Of each row the run with the median of requests a second; latencies are that run's.
sort -k1,1 -k2,2n -k3,3 "$dir/runs" | awk -v connections="$connections" '
	function finish(  i, j, t, n, f) {
		if (!count) return
		for (i = 2; i <= count; i++)
			for (j = i; j > 1 && rate[j] < rate[j - 1]; j--) {
				t = rate[j]; rate[j] = rate[j - 1]; rate[j - 1] = t
				t = line[j]; line[j] = line[j - 1]; line[j - 1] = t
			}
		n = split(line[int((count + 1) / 2)], f)
		errors = 0
		for (i = 1; i <= count; i++) { split(line[i], t2); errors += t2[9] }
		total = f[14] - f[12]
		printf "%s,%s,%s,%.1f,%.3f,%.3f,%.3f,%.3f,%d,%s,%.0f\n", f[1], f[2], f[3], f[4] * 1e6 / f[5],
			f[4] ? connections * f[5] / f[4] / 1000 : 0, f[6] / 1000, f[7] / 1000, f[8] / 1000, errors, f[10],
			(total > 0 ? 100 * (f[13] - f[11]) / total : 0)
	}
	{
		key = $1 " " $2 " " $3
		if (key != last) { finish(); count = 0; last = key }
		count++
		rate[count] = $4 / $5
		line[count] = $0
	}
	END { finish() }' >"$dir/medians"
machine="$(date -u +%Y-%m-%d), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors"
idle="load average of the machine before it: $load_before"
awk -v l="$load_before" 'BEGIN { exit l <= 0.5 }' && idle+=", NOT IDLE: take none of these figures"
{
	echo "# $machine; $idle"
	echo "server,ballast_mib,workload,requests_per_second,mean_ms,p50_ms,p90_ms,p99_ms,errors,exits_per_request,server_cpu_percent"
	for row in "${rows[@]}"; do grep "^${row// /,}," "$dir/medians"; done
} >"$results.csv"

table() { # WORKLOAD
	awk -F, -v workload="$1" '
		function ratio(to) { return to > 0 ? sprintf("%.3g", $4 / to) : "" }
		NR == FNR { if ($3 == workload) base[$1 "," $2] = $4; next }
		$3 != workload { next }
		!headed {
			print "| server | ballast | requests/s | against none | against fork | mean | p50 | p90 | p99 | exits/request | CPU | errors |"
			print "|---|---|---|---|---|---|---|---|---|---|---|---|"
			headed = 1
		}
		{
			peer = $1 == "nginx" || $1 == "h2o"
			printf "| %s | %s | %s | %s | %s | %.2f ms | %.2f | %.2f | %.2f | %s | %d%% | %s |\n", peer ? $1 : "`" $1 "`",
				peer ? "" : $2 " MiB", sprintf($4 < 100 ? "%.1f" : "%.0f", $4), ratio(base["none," (peer ? 10 : $2)] ? base["none," (peer ? 10 : $2)] : base["none,10"]), ratio(base["fork," (peer ? 10 : $2)]), $5, $6, $7, $8,
				$10 == "-" ? "" : $10, $11, $9 ? $9 : ""
		}' "$results.csv" "$results.csv"
}
# With one and with two workers.
scaling() {
	awk -F, '
		{ rate[$1 "," $3] = $4 }
		function all(workload) {
			return rate["none," workload 1] > 0 && rate["none," workload 2] > 0 && rate["sthread," workload 1] > 0
		}
		function row(workload, name,  one, two) {
			one = rate["none," workload 2] / rate["none," workload 1]
			two = rate["sthread," workload 2] / rate["sthread," workload 1]
			printf "| %s | %.0f | %.0f | %.2f | %.0f | %.0f | %.2f | %.2f |\n", name, rate["none," workload 1],
				rate["none," workload 2], one, rate["sthread," workload 1], rate["sthread," workload 2], two, two / one
		}
		END {
			print "| requests/s | none, 1 worker | 2 workers | ratio | sthread, 1 worker | 2 workers | ratio | as well as none |"
			print "|---|---|---|---|---|---|---|---|"
			if (all("new")) row("new", "a new connection for each")
			if (all("kept")) row("kept", "kept connections")
		}' "$results.csv"
}
# The ratios that are aimed at.
verdicts() {
	awk -F, '
		{ rate[$1 "," $2 "," $3] = $4 }
		function say(name, ratio, reach) {
			printf "- %s: %.3f (reach %s: %s)\n", name, ratio, reach, (ratio >= reach ? "yes" : "NO")
		}
		function compare(workload, ballast, mode, reach, name) {
			if (rate["sthread," ballast "," workload] > 0 && rate[mode "," ballast "," workload] > 0)
				say(name ", " ballast " MiB: sthread against " mode, rate["sthread," ballast "," workload] / rate[mode "," ballast "," workload], reach)
		}
		function scale(workload, name,  none, sthread) {
			none = rate["none,10," workload 1]; sthread = rate["sthread,10," workload 1]
			if (none > 0 && sthread > 0 && rate["none,10," workload 2] > 0)
				say("two workers on two processors, " name ": sthread scales as well as none",
					rate["sthread,10," workload 2] / sthread / (rate["none,10," workload 2] / none), 0.9)
		}
		END {
			compare("new", 10, "none", 0.6, "new connections")
			compare("new", 10, "fork", 1.3, "new connections")
			compare("new", 128, "fork", 2, "new connections")
			compare("kept", 10, "none", 0.25, "kept connections")
			compare("kept", 10, "fork-per-request", 2, "kept connections")
			compare("kept", 128, "fork-per-request", 2, "kept connections")
			scale("new", "new connections")
			scale("kept", "kept connections")
		}' "$results.csv"
}
{
	echo "$machine; the server on one, wrk with $connections connections on the other;" \
		"$rounds rounds of $seconds s, the median round; $idle."
	echo
	echo "A new connection for each request:"
	echo
	table new
	echo
	echo "Connections that are kept:"
	echo
	table kept
	echo
	echo "With one and with two workers, 10 MiB of ballast, on two processors$sharing:"
	echo
	scaling
	echo
	echo "What is aimed at:"
	echo
	verdicts
	echo
	echo "What was agreed on with a client, and versions:"
	echo
	for file in "$dir"/agreed.*; do echo "${file##*.} $(cat "$file")"; done | awk '
		{ name = $1; $1 = ""; if (name != "nginx" && name != "h2o") { key = $0; own[key] = own[key] ", `" name "`" } else print "- " name ":" $0 }
		END { for (key in own) print "- " substr(own[key], 3) ":" key }' | sort
	echo "- $(dpkg-query -W -f '${Package} ${Version}; ' wrk nginx h2o libssl3 2>/dev/null)Linux $(uname -r)"
	for row in ${skipped[@]+"${skipped[@]}"}; do echo "- skipped: $row"; done
} >"$results.md"
cat "$results.md"
echo
echo "${#rows[@]} rows measured, ${#skipped[@]} skipped; figures: $results.csv; it took $((SECONDS / 60)) min $((SECONDS % 60)) s"

if [ -n "$write_docs" ]; then
	awk -v table="$results.md" '
		/^<!-- bench-http: end -->/ { inside = 0 }
		!inside { print }
		/^<!-- bench-http: begin -->/ { inside = 1; print ""; while ((getline line <table) > 0) print line; print "" }
	' "$top/docs/benchmarks.md" >"$dir/benchmarks.md"
	cat "$dir/benchmarks.md" >"$top/docs/benchmarks.md"
	echo "docs/benchmarks.md has the new table"
fi
