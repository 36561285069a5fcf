# sthread-gdb.py: gdb commands for programs that use libsthread.
#
#   (gdb) source sthread-gdb.py
#   (gdb) info sthreads              the sthreads that are not joined yet
#   (gdb) sthread backtrace HANDLE   where a stopped one is
#
# They read the supervisor's structures, so libsthread and libdune need their debugging information; they call no
# function of the process and change nothing.  Core dumps leave the memory of sthreads out: there only the list works.
import struct

import gdb

PAGE = 4096
PRESENT = 1
USER = 4
FRAME = 0x000FFFFFFFFFF000
STACK_READ = 64 << 10
FRAMES_MAX = 48

TRAMPOLINE = 0x20000  # from the start of the window, core/monitor/layout.h

STATES = {0: "ended", 1: "runnable", 2: "parked"}


def value(expression):
    return gdb.parse_and_eval(expression)


def read(address, size):
    return bytes(gdb.selected_inferior().read_memory(address, size))


def word(address):
    return struct.unpack("<Q", read(address, 8))[0]


def symbol(address):
    """What gdb calls an address, with the source line if there is one."""
    if address // PAGE == (int(value("supervisor.machine")["window"]) + TRAMPOLINE) // PAGE:
        return "in the trampoline: a call of the library"
    text = gdb.execute("info symbol %#x" % address, to_string=True).split("\n")[0]
    if text.startswith("No symbol"):
        text = "?"
    line = gdb.find_pc_line(address)
    if line.symtab:
        text += " at %s:%d" % (line.symtab.filename, line.line)
    return text


def pointer(node):
    return int(node.cast(gdb.lookup_type("unsigned long")))


class Memory:
    """The memory of a compartment, through its page table."""

    def __init__(self, space):
        machine = value("supervisor.machine").dereference()
        tables = machine["tables"]
        self.tables = pointer(tables["host"]), int(tables["physical"])
        self.arenas = [
            (pointer(arena["host"]), int(arena["physical"]), int(arena["size"]))
            for arena in (machine["frames"], machine["tags"], machine["image"])
        ]
        self.root = int(space["context"]["root"])
        self.window = int(machine["window"])

    def page(self, address):
        """Where the page is in the process, or None."""
        host, physical = self.tables
        entry = self.root | PRESENT
        for shift in (39, 30, 21, 12):
            if not entry & PRESENT:
                return None
            entry = word(host + (entry & FRAME) - physical + (address >> shift & 511) * 8)
        if entry & (PRESENT | USER) != PRESENT | USER:
            return None
        for host, physical, size in self.arenas:
            if 0 <= (entry & FRAME) - physical < size:
                return host + (entry & FRAME) - physical
        return None

    def read(self, address, size):
        """As much as is mapped."""
        data = b""
        while len(data) < size:
            at = address + len(data)
            page = self.page(at)
            if page is None:
                break
            some = min(PAGE - at % PAGE, size - len(data))
            data += read(page + at % PAGE, some)
        return data


def regions():
    """Program text of the snapshot."""
    snapshot = value("supervisor.snapshot")
    for i in range(int(snapshot["count"])):
        region = snapshot["regions"][i]
        if region["execute"]:
            yield int(region["start"]), int(region["end"])


def follows_call(address):
    """Whether the instruction before could be a CALL: E8 with 4 bytes, or FF /2 of 2 to 7 bytes."""
    try:
        code = read(address - 7, 7)
    except gdb.MemoryError:
        return False
    if code[2] == 0xE8:
        return True
    return any(code[7 - n] == 0xFF and code[8 - n] >> 3 & 7 == 2 for n in range(2, 8))


def sthreads():
    handles = value("supervisor.sthreads")
    kind = gdb.lookup_type("struct sthread").pointer()
    for i in range(int(handles["count"])):
        at = pointer(handles["slots"][i]["object"])
        if at:
            yield gdb.Value(at).cast(kind).dereference()


def innermost(sthread):
    depth = int(sthread["depth"])
    return sthread["gates"][depth - 1].dereference()["compartment"] if depth else sthread["own"]


class InfoSthreads(gdb.Command):
    """Lists the sthreads that have not been joined: handle, state, life, where they are."""

    def __init__(self):
        super().__init__("info sthreads", gdb.COMMAND_STATUS)

    def invoke(self, argument, from_tty):
        found = False
        for sthread in sthreads():
            found = True
            compartment = innermost(sthread)
            state = STATES.get(int(sthread["state"]), "?")
            place = ""
            if pointer(compartment["space"]):
                if pointer(compartment["space"]["running_on"]):
                    state = "running"
                else:
                    place = symbol(int(compartment["space"]["context"]["regs"]["rip"]))
            gates = int(sthread["depth"])
            print(
                "sthread %d  %-8s  life %d  body %s%s  %s"
                % (
                    int(sthread["handle"]),
                    state,
                    int(compartment["instance"]),
                    symbol(int(sthread["own"]["function"])).split(" in section")[0],
                    "  in %d gates" % gates if gates else "",
                    place,
                )
            )
        if not found:
            print("no sthreads")


class Sthread(gdb.Command):
    """Commands on one sthread."""

    def __init__(self):
        super().__init__("sthread", gdb.COMMAND_STACK, prefix=True)


class SthreadBacktrace(gdb.Command):
    """sthread backtrace HANDLE: where an sthread that does not run is.

    The innermost frame is exact.  The others are found by looking for return addresses on the stack: they are
    marked "?", and some of them may be left from calls that are over."""

    def __init__(self):
        super().__init__("sthread backtrace", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        handle = int(gdb.parse_and_eval(argument)) if argument else -1
        sthread = next((s for s in sthreads() if int(s["handle"]) == handle), None)
        if sthread is None:
            raise gdb.GdbError("no sthread %s: see info sthreads" % argument)
        space = innermost(sthread)["space"]
        if not pointer(space):
            raise gdb.GdbError("the sthread has ended")
        if pointer(space["running_on"]):
            raise gdb.GdbError("the sthread runs: its registers are in the virtual processor")
        space = space.dereference()
        registers = space["context"]["regs"]
        memory = Memory(space)
        print("#0  %#x  %s" % (int(registers["rip"]), symbol(int(registers["rip"]))))
        text = list(regions())
        try:
            stack = memory.read(int(registers["rsp"]) & ~7, STACK_READ)
        except gdb.MemoryError:
            raise gdb.GdbError("the memory of sthreads is not here: core dumps leave it out")
        shown = 1
        for (address,) in struct.iter_unpack("<Q", stack[: len(stack) & ~7]):
            if shown == FRAMES_MAX:
                break
            if any(start <= address < end for start, end in text) and follows_call(address):
                print("#%d? %#x  %s" % (shown, address, symbol(address - 1)))
                shown += 1


InfoSthreads()
Sthread()
SthreadBacktrace()
