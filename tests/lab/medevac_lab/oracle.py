"""What really runs, seen from outside the product: every QEMU on the machine, by UUID.
(Those of labs that the same run made beside this one are left to the oracles of those.)

    sampler (a process of its own, 20 looks a second)  --> LAB/oracle.jsonl
       alive  gone  ran  violation                          one line per change

A violation is one of
  - two QEMU processes of one UUID alive at the same moment, unless one of them
    is an incoming migration that has not yet run; a frozen one is alive;
  - an incarnation that stamps a disk again after another one had stamped it;
  - a guest's own word (console) that it found somebody else's stamp.

The two processes of a candidate are looked at again one after the other, the
first one last: only what lived when the second was seen counts, so a hand-over
between two looks is no false alarm.
"""

import contextlib
import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from medevac_lab import plan, procs  # noqa: E402
from medevac_lab.storage import disks_of, instances, read_stamp  # noqa: E402

# Between two looks. A double start that lasts shorter than this may be missed
# by the process table, and is then caught by the disks' stamps.
EVERY_S = 0.05
# A process may turn into QEMU by exec within this time after it was first seen.
YOUNG_S = 3.0
# The ioctl that opens the namespace around one (linux/nsfs.h).
NS_GET_PARENT = 0xB702
# Samples in a row: libvirt writes its status files of source and target one after the other.
MIGRATION_SAMPLES = 3


@dataclass
class Qemu:
    uuid: str
    name: str
    pid: int
    start: int
    host: str
    incoming: bool
    ran: bool = False


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def argument(argv: list[str], name: str) -> str | None:
    with contextlib.suppress(ValueError, IndexError):
        return argv[argv.index(name) + 1]
    return None


def pid_namespaces(pid: int) -> Iterator[int]:
    """The pid namespace of a process, and each one around it: a container's lies in its host's."""
    descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            yield os.fstat(descriptor).st_ino
            outer = fcntl.ioctl(descriptor, NS_GET_PARENT)
            os.close(descriptor)
            descriptor = outer
    except PermissionError:
        return  # Ours, or one around ours: no host's.
    finally:
        os.close(descriptor)


class Hosts:
    """Which host a process belongs to, by its pid namespace."""

    def __init__(self, lab: Path):
        self.lab, self.known = lab, {}

    def _read(self) -> None:
        boots = []
        for path in self.lab.glob("hosts/*/boots.jsonl"):
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    boot = json.loads(line)
                    boots.append((boot["t"], boot["pidns"], path.parent.name))
        # Inodes of namespaces are used again: the newest boot wins.
        self.known = {inode: host for _, inode, host in sorted(boots)}

    def of(self, pid: int) -> str:
        try:
            inodes = list(pid_namespaces(pid))
        except (FileNotFoundError, ProcessLookupError):
            return "gone"
        # Read anew for every new process: its host may have booted a moment ago.
        self._read()
        # From outside in: a container may have the inode of a host's boot that is long over.
        return next((self.known[inode] for inode in reversed(inodes) if inode in self.known), "outside")


def libvirt_state(qemu: Qemu) -> str:
    """libvirt's own note of whether the guest's processors run; "unknown" when it can't be read."""
    try:
        text = Path(f"/proc/{qemu.pid}/root/run/libvirt/qemu/{qemu.name}.xml").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"<domstatus state='(\w+)'", text)
    return found.group(1) if found else "unknown"


class Finder:
    """Looks through /proc cheaply: a process that is old and no QEMU is not read again."""

    def __init__(self, lab: Path):
        self.hosts = Hosts(lab)
        self.first_seen: dict[int, float] = {}
        self.found: dict[int, Qemu] = {}
        # Labs beside this one are sites of their own: what they start twice on purpose is their affair.
        self.beside = [f"/{plan.tag(lane)}/" for lane in plan.beside(lab) if lane != lab]

    def look(self) -> list[Qemu]:
        now = time.monotonic()
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        for pid in [pid for pid in self.first_seen if pid not in pids]:
            del self.first_seen[pid]
            self.found.pop(pid, None)
        for pid in pids:
            seen = self.first_seen.setdefault(pid, now)
            if pid not in self.found and now - seen < YOUNG_S:
                self._examine(pid)
        alive = []
        for pid, qemu in list(self.found.items()):
            if procs.is_alive(pid, qemu.start):
                alive.append(qemu)
            else:
                del self.found[pid]
        return alive

    def _examine(self, pid: int) -> None:
        argv = command_line(pid)
        if not argv or "qemu-system" not in os.path.basename(argv[0]):
            return
        uuid, stat = argument(argv, "-uuid"), procs.stat_of(pid)
        if uuid is None or stat is None or self._is_beside(pid):
            return
        name = (argument(argv, "-name") or "").split(",")[0].removeprefix("guest=")
        self.found[pid] = Qemu(uuid, name, pid, stat[1], self.hosts.of(pid), "-incoming" in argv)

    def _is_beside(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            group = Path(f"/proc/{pid}/cgroup").read_text()
            return any(tag in group for tag in self.beside)
        return False


class Sampler:
    """The background process."""

    def __init__(self, lab: Path):
        self.lab = lab
        self.out = open(lab / "oracle.jsonl", "a", buffering=1)
        self.finder = Finder(lab)
        self.known: dict[tuple, Qemu] = {}
        self.told: set = set()
        self.both_running: dict[str, int] = {}
        self.stamps: dict[str, list[str]] = {}

    def tell(self, what: str, **more) -> None:
        self.out.write(
            json.dumps({"t": time.clock_gettime(time.CLOCK_BOOTTIME), "wall": time.time(), "what": what, **more}) + "\n"
        )

    def violation(self, uuid: str, detail: str, key) -> None:
        if key not in self.told:
            self.told.add(key)
            self.tell("violation", uuid=uuid, detail=detail)

    def sample(self) -> None:
        now = {(qemu.pid, qemu.start): qemu for qemu in self.finder.look()}
        for key, qemu in now.items():
            if key not in self.known:
                self.tell("alive", uuid=qemu.uuid, name=qemu.name, pid=qemu.pid, host=qemu.host, incoming=qemu.incoming)
            if qemu.incoming and not qemu.ran and libvirt_state(qemu) == "running":
                qemu.ran = True
                self.tell("ran", uuid=qemu.uuid, name=qemu.name, pid=qemu.pid, host=qemu.host)
        for key, qemu in self.known.items():
            if key not in now:
                self.tell("gone", uuid=qemu.uuid, name=qemu.name, pid=qemu.pid, host=qemu.host)
        self.known = now
        by_uuid: dict[str, list[Qemu]] = {}
        for qemu in now.values():
            by_uuid.setdefault(qemu.uuid, []).append(qemu)
        for uuid, several in by_uuid.items():
            if len(several) > 1:
                self.judge(uuid, several)
            self.look_at_disk(uuid)

    def judge(self, uuid: str, several: list[Qemu]) -> None:
        """All of them were seen; those that still live now lived together."""
        together = [qemu for qemu in several if procs.is_alive(qemu.pid, qemu.start)]
        if len(together) < 2:
            return
        if all(qemu.host == "outside" for qemu in together):
            return  # Another lab's, or somebody's tests: neither is on a host of ours.
        where = ", ".join(f"{qemu.host} (pid {qemu.pid}{', incoming' if qemu.incoming else ''})" for qemu in together)
        key = (uuid, tuple(sorted(qemu.pid for qemu in together)))
        if sum(not qemu.incoming for qemu in together) > 1:
            self.violation(uuid, f"{together[0].name} runs twice: {where}", key)
            return
        # A migration: at most one of the two may let the guest's processors run.
        running = [qemu for qemu in together if libvirt_state(qemu) == "running"]
        self.both_running[uuid] = self.both_running.get(uuid, 0) + 1 if len(running) > 1 else 0
        if self.both_running[uuid] >= MIGRATION_SAMPLES:
            self.violation(uuid, f"{together[0].name} runs at both ends of a migration: {where}", key)

    def look_at_disk(self, uuid: str) -> None:
        for disk in disks_of(self.lab, uuid):
            stamp = read_stamp(disk)
            if stamp is None:
                continue
            seen = self.stamps.setdefault(uuid, [])
            if not seen or seen[-1] != stamp[1]:
                if stamp[1] in seen:
                    self.violation(
                        uuid,
                        f"incarnation {stamp[1]} stamps the disk of {uuid} again after {seen[-1]}",
                        (uuid, stamp[1]),
                    )
                seen.append(stamp[1])

    def run(self) -> None:
        self.tell("begun")
        while True:
            begun = time.monotonic()
            self.sample()
            time.sleep(max(0.005, EVERY_S - (time.monotonic() - begun)))


class Oracle:
    """The driver's side: starts the sampler and reads what it wrote."""

    def __init__(self, lab: Path):
        self.lab = lab
        self.path = lab / "oracle.jsonl"
        self.records = procs.Records(lab)
        self.since = 0.0

    def start(self) -> None:
        from medevac_lab.cgroups import Group

        if self.running_now():
            return
        group = Group(self.lab, "oracle").make()
        argv = [plan.PYTHON, "-E", str(Path(__file__).resolve()), str(self.lab)]
        procs.spawn(self.records, procs.Launch("oracle", argv, self.lab / "log" / "oracle.log", group))

    def running_now(self) -> bool:
        proc = self.records.read("oracle")
        return proc is not None and proc.alive()

    def stop(self) -> None:
        proc = self.records.read("oracle")
        if proc is not None:
            proc.signal(signal.SIGTERM)
            proc.wait_gone(5.0)
            self.records.forget("oracle")

    def mark(self) -> None:
        """From here on counts."""
        self.since = time.clock_gettime(time.CLOCK_BOOTTIME)

    def events(self, since: float | None = None) -> list[dict]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in self.path.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if event["t"] >= (self.since if since is None else since):
                        found.append(event)
        return found

    def violations(self) -> list[str]:
        """Everything that must never happen and did. A dead sampler is one too: unseen is not well."""
        found = [event["detail"] for event in self.events() if event["what"] == "violation"]
        if not self.running_now():
            found.append("the oracle's sampler does not run, see log/oracle.log")
        for path in sorted([*self.lab.glob("consoles/*.log"), *instances(self.lab).glob("*/console.log")]):
            conflicts = [line for line in path.read_text(errors="replace").splitlines() if "MDV-CONFLICT" in line]
            if conflicts:
                found.append(f"{conflicts[0]} ({len(conflicts)} times)")
        return found

    def running(self, uuid: str) -> list[str]:
        """The hosts on which a QEMU of it lives now; an incoming one that has not run is left out."""
        found = [qemu for qemu in Finder(self.lab).look() if qemu.uuid == uuid]
        return sorted(qemu.host for qemu in found if not qemu.incoming or libvirt_state(qemu) == "running")

    def timeline(self, uuid: str) -> list[dict]:
        return [event for event in self.events() if event.get("uuid") == uuid]

    def starts(self, uuid: str, since: float) -> list[dict]:
        """Every QEMU of it that began to live after a moment."""
        return [event for event in self.events(since) if event.get("uuid") == uuid and event["what"] == "alive"]


if __name__ == "__main__":
    Sampler(Path(sys.argv[1])).run()
