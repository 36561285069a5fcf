# The monitor runs in ring 0 of the virtual machine, copied to another address: it can refer to nothing outside itself.
object=core/monitor/monitor.o
echo 1..2
undefined=$("${NM:-nm}" --undefined-only "$object") || exit 1
if [ -z "$undefined" ]; then
	echo "ok 1 - the monitor has no undefined symbol"
else
	echo "not ok 1 - the monitor has no undefined symbol"
	echo "$undefined" | sed 's/^/# /'
fi
if "${NM:-nm}" "$object" | grep -q ' [bBdDC] '; then
	echo "not ok 2 - the monitor has no data of its own"
	"${NM:-nm}" "$object" | grep ' [bBdDC] ' | sed 's/^/# /'
else
	echo "ok 2 - the monitor has no data of its own"
fi
