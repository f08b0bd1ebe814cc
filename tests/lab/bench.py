#!/usr/bin/python3
"""Figures of the product in the real lab, each with the machine's load beside it.

    bench.py [--quick] [--crashes N] [--burst N]

    idle site    20 guests on one host     memory, and what a quiet site writes
    QEMU killed  SIGKILL by pid            -> its incident is durable
    burst        50 QEMUs killed at once   -> 50 incidents, each guest once
    cold start   SIGKILL, started again    -> the API answers
    host killed  links down, then SIGKILL  -> suspect -> condemned and ordered off
                                           -> proof -> first start ordered -> guests write
                                           -> the first alert reaches a receiver

"Durable" is what another process reads in the committed store (StoreWatch
below), not what the product says of itself. Times are taken from the moment
before the kill. The guests' own boot in software emulation is part of the last
figure and has nothing to do with the product.

Exit code 0 unless something was lost or ran twice; a figure above its limit
is shown as such and is no failure: the machine may be a slow one.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from medevac_lab import Guest, Lab, plan, wait_until  # noqa: E402
from medevac_lab.aggregator import PACKAGED  # noqa: E402
from medevac_lab.alerting import PAGER_PORT, pager  # noqa: E402
from medevac_lab.oracle import Finder  # noqa: E402
from medevac_lab.wait import TimeoutFailure  # noqa: E402

# Packaged times but one: after its start an aggregator judges nobody for 30 s,
# which would only be waited for here.
TIMING = {**PACKAGED, "settle": "3s"}
GRACES = ("5s", "2s")
IDLE_GUESTS = 20
QUIET_S = 20.0
# Between two kills: the incident, its commit and its answer are long over.
KILL_EVERY_S = 1.0
# A QEMU of a lab guest takes about so much, pages of its program included once.
GUEST_MIB = 160
# An incident that is not durable by then is lost.
LOST_AFTER_S = 30.0
RESCUE_LIMIT_S = 120
# 50 boots in software emulation on two cores, four at a time per host.
BURST_LIMIT_S = 600
LOG_LINE = re.compile(r'^(\S+)Z +[A-Z]+ (.*) code="(MDV-[A-Z-]+)"')


def say(text: str = "") -> None:
    print(text, flush=True)


# -- the table ---------------------------------------------------------------
class Meter:
    """How busy the machine was while something was measured."""

    def __init__(self):
        self.begun = self.ticks()

    @staticmethod
    def ticks() -> tuple[int, int]:
        """(idle, all) of all processors together."""
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return fields[3] + fields[4], sum(fields)

    def text(self) -> str:
        idle, total = (after - before for after, before in zip(self.ticks(), self.begun, strict=True))
        busy = 100 * (1 - idle / total) if total else 0
        return f"{os.getloadavg()[0]:.1f}, cpu {busy:.0f} %"


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile: one of the values, never something between two."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]


@dataclass
class Row:
    figure: str
    unit: str
    values: list[float]
    load: str
    # ("p50" or "p99" or "max", limit)
    limit: tuple[str, float] | None = None

    def cells(self) -> list[str]:
        found = {"p50": percentile(self.values, 0.5), "p99": percentile(self.values, 0.99), "max": max(self.values)}
        shown = [self.number(found[name]) for name in ("p50", "p99", "max")]
        if len(self.values) == 1:
            shown = [shown[0], "", ""]
        if self.limit is None:
            verdict = ""
        else:
            name, most = self.limit
            name_shown = name if len(self.values) > 1 else ""
            verdict = f"{name_shown} <= {self.number(most)}".strip() + ("" if found[name] <= most else "  EXCEEDED")
        return [self.figure, str(len(self.values)), *shown, self.unit, self.load, verdict]

    def number(self, value: float) -> str:
        return f"{value:.0f}" if self.unit in ("bytes", "of all") or value >= 100 else f"{value:.1f}"


@dataclass
class Table:
    rows: list[Row] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, figure: str, unit: str, values: list[float], meter: Meter, limit=None) -> None:
        if not values:
            self.wrong.append(f"{figure}: nothing could be measured")
            return
        self.rows.append(Row(figure, unit, values, meter.text(), limit))
        say("  " + "  ".join(cell for cell in self.rows[-1].cells() if cell))

    def check(self, holds: bool, what: str) -> None:
        """Not a matter of speed: a loss or a second copy."""
        if not holds:
            self.wrong.append(what)
            say(f"  WRONG: {what}")

    def show(self) -> None:
        head = ["figure", "n", "p50", "p99", "max", "unit", "load", "limit"]
        lines = [head, *[row.cells() for row in self.rows]]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        right = {1, 2, 3, 4}
        for number, line in enumerate(lines):
            cells = [
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            say("  ".join(cells).rstrip())
            if number == 0:
                say("-" * (sum(widths) + 2 * (len(widths) - 1)))
        for text in self.wrong:
            say(f"WRONG: {text}")


# -- what is durable, and when -------------------------------------------------
class StoreWatch(threading.Thread):
    """Reads the committed store from outside and notes when each line of an incident's timeline got there.

    A reader of SQLite's write-ahead log sees a commit only after it was
    synced. One look costs some ten microseconds while nothing changes.
    """

    EVERY_S = 0.001

    def __init__(self, lab: Lab):
        super().__init__(daemon=True)
        self.path = lab.root / "agg" / "state" / "medevac.db"
        self.first: dict[tuple[str, str], float] = {}
        self.subjects: dict[str, str] = {}
        self.failed: str = ""
        self._stop_wanted = threading.Event()

    def __enter__(self) -> "StoreWatch":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop_wanted.set()
        self.join(10)

    def run(self) -> None:
        try:
            link = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=5, isolation_level=None)
            with contextlib.closing(link):
                self._follow(link)
        except sqlite3.Error as error:
            self.failed = f"{self.path}: {error}"

    def _follow(self, link: sqlite3.Connection) -> None:
        version, known = None, {}
        while not self._stop_wanted.is_set():
            now = link.execute("PRAGMA data_version").fetchone()[0]
            if now != version:
                version = now
                rows = link.execute("SELECT key, value FROM record WHERE key LIKE 'incident/%'").fetchall()
                at = time.time()
                for key, value in rows:
                    if known.get(key) != value:
                        known[key] = value
                        self._note(key, json.loads(value), at)
            time.sleep(self.EVERY_S)

    def _note(self, key: str, incident: dict, at: float) -> None:
        subject = incident.get("instance") or incident.get("host") or ""
        self.subjects[key] = subject
        for entry in incident["timeline"]:
            self.first.setdefault((subject, entry["code"]), at)

    def incidents_of(self, subjects: set[str]) -> list[str]:
        return [subject for subject in list(self.subjects.values()) if subject in subjects]

    def wait(self, subject: str, code: str, timeout: float = LOST_AFTER_S) -> float | None:
        """The wall time at which it was durable; None when it never was."""
        with contextlib.suppress(TimeoutFailure):
            return wait_until(lambda: self.first.get((subject, code)), timeout, code, every=0.005)
        if self.failed:
            raise RuntimeError(f"the store cannot be read: {self.failed}")
        return None


def log_times(lab: Lab, code: str, words: str) -> list[float]:
    """Wall times of the aggregator's log lines with a code and with these words."""
    found = []
    for line in lab.aggregator.log().splitlines():
        match = LOG_LINE.match(line)
        if match and match[3] == code and words in match[2]:
            found.append(datetime.fromisoformat(match[1] + "+00:00").timestamp())
    return found


# -- processes -----------------------------------------------------------------
def agent_pid(lab: Lab, host: str) -> int:
    for pid in lab.host(host).group.pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "medevac-agent":
                return pid
    raise RuntimeError(f"no agent runs on {host}")


def resident_mb(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024 / 1e6


def written_bytes(pid: int) -> int:
    return int(re.search(r"^write_bytes: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)[1])


def qemu_pids(lab: Lab) -> dict[str, int]:
    return {qemu.uuid: qemu.pid for qemu in Finder(lab.root).look() if qemu.host in lab.names}


# -- the benches -----------------------------------------------------------------
def idle_site(lab: Lab, table: Table, guests: list[Guest], quiet: float) -> None:
    """Memory, and what heartbeats that change nothing write."""
    agent, aggregator = agent_pid(lab, "hv1"), lab.aggregator.proc.pid
    # What joining and booting left to do is done before anything is counted.
    time.sleep(5)
    state = lab.root / "agg" / "state"

    def store() -> list[tuple]:
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(state.glob("medevac.db*"))]

    meter, before = Meter(), (written_bytes(aggregator), written_bytes(agent), store())
    time.sleep(quiet)
    after = (written_bytes(aggregator), written_bytes(agent), store())
    table.add(f"aggregator writes in {quiet:.0f} idle s", "bytes", [after[0] - before[0]], meter, ("max", 0))
    table.add(f"agent writes in {quiet:.0f} idle s", "bytes", [after[1] - before[1]], meter)
    changed = [name for (name, *was), (_, *now) in zip(before[2], after[2], strict=False) if was != now]
    table.add("files of the store changed meanwhile", "of all", [len(changed)], meter, ("max", 0))
    table.add(f"agent, {len(guests)} guests", "MB RSS", [resident_mb(agent)], meter, ("max", 28))
    table.add(
        f"aggregator, {len(lab.hosts)} hosts, {len(guests)} guests",
        "MB RSS",
        [resident_mb(aggregator)],
        meter,
        ("max", 60),
    )


def kills(lab: Lab, table: Table, guests: list[Guest]) -> None:
    """One QEMU after the other; the site is in observe, so that no restart disturbs the next one."""
    pids, took, meter = qemu_pids(lab), [], Meter()
    with StoreWatch(lab) as watch:
        for guest in guests:
            time.sleep(KILL_EVERY_S)
            killed = time.time()
            os.kill(pids[guest.uuid], signal.SIGKILL)
            durable = watch.wait(guest.uuid, "gone")
            table.check(durable is not None, f"no incident about {guest}, whose QEMU was killed")
            if durable is not None:
                took.append((durable - killed) * 1000)
    table.add("QEMU killed -> durable incident", "ms", took, meter, ("p99", 25))


def burst(lab: Lab, table: Table, count: int) -> None:
    """Many QEMUs die at one moment, on all hosts."""
    free = int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) // 1024
    fits = max(1, min(count, (free - 1024) // GUEST_MIB))
    if fits < count:
        say(f"  memory for {fits} guests only, {free} MiB are free; {count} were asked for")
    lab.reset(3)
    say(f"  {fits} guests boot, in software emulation: some minutes")
    guests = lab.protected_site(fits, timing=TIMING)
    wanted = {guest.uuid for guest in guests}
    pids, meter = qemu_pids(lab), Meter()
    with StoreWatch(lab) as watch:
        killed = time.time()
        for guest in guests:
            os.kill(pids[guest.uuid], signal.SIGKILL)
        took = [
            (durable - killed) * 1000 for uuid in wanted if (durable := watch.wait(uuid, "gone")) is not None
        ]
        table.add(f"{fits} QEMUs killed at once -> durable incident", "ms", took, meter)
        back, meter = time.monotonic(), Meter()
        lab.wait_each_runs_once(guests, timeout=BURST_LIMIT_S)
        table.add(f"{fits} QEMUs killed at once -> all run again", "s", [time.monotonic() - back], meter)
        opened = watch.incidents_of(wanted)
    table.add(f"{fits} QEMUs killed at once: incidents", "of all", [len(opened)], meter)
    table.check(len(took) == fits, f"{len(took)} incidents for {fits} guests that died at once")
    table.check(len(opened) == len(set(opened)), "an instance has more than one incident for one death")
    table.check(not lab.oracle.violations(), f"the oracle saw: {lab.oracle.violations()}")
    for guest in guests:
        begun = [event for event in lab.oracle.starts(guest.uuid, 0) if event["wall"] > killed]
        table.check(len(begun) == 1, f"{guest} was started {len(begun)} times after one death")


def serves(lab: Lab) -> bool:
    """One question to its socket, without a program of ours between."""
    with contextlib.suppress(OSError), contextlib.closing(socket.socket(socket.AF_UNIX)) as link:
        link.settimeout(2)
        link.connect(str(lab.aggregator.socket))
        link.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: medevac\r\nConnection: close\r\n\r\n")
        return link.recv(64).startswith(b"HTTP/1.1 200")
    return False


def cold_starts(lab: Lab, table: Table, count: int) -> None:
    """From before its start, namespaces and shell included, to an answer about its hosts and guests."""
    took, meter = [], Meter()
    for _ in range(count):
        lab.aggregator.kill9()
        begun = time.monotonic()
        lab.aggregator.start(wait=False)
        wait_until(lambda: serves(lab), 30, "the API answers", every=0.002)
        took.append((time.monotonic() - begun) * 1000)
    table.add("aggregator started -> the API answers", "ms", took, meter, ("max", 1000))


# Told of what is about a lost host, at once.
RECEIVER = f"""
[[alerts.receiver]]
name = "bench"
format = "json"
url = "http://127.0.0.1:{PAGER_PORT}/"
codes = ["MDV-HOST-LOST"]
"""


def one_crash(lab: Lab, grace: str) -> dict[str, float]:
    """Kills a host with two guests; returns the wall time of each step, "killed" included."""
    lab.reset(3)
    guests = lab.protected_site(2, on=["hv1"], timing={**TIMING, "fence_grace": grace}, extra=RECEIVER)
    before = {guest.uuid: guest.stamp()[0] for guest in guests}
    enter = ["nsenter", f"--net={lab.net.namespace('agg')}"]
    with pager(lab.root / "alerting", enter) as letters, StoreWatch(lab) as watch:
        at = {"killed": time.time()}
        lab.host("hv1").crash()
        writes: dict[str, float] = {}

        def all_write() -> bool:
            for guest in guests:
                stamp = guest.stamp()
                if guest.uuid not in writes and stamp and stamp[0] != before[guest.uuid]:
                    writes[guest.uuid] = time.time()
            return len(writes) == len(guests)

        wait_until(all_write, RESCUE_LIMIT_S, f"the guests of hv1 write again, grace {grace}", every=0.02)
        at["first-writes"], at["all-write"] = min(writes.values()), max(writes.values())
        for code in ("off-ordered", "start-ordered"):
            at[code] = watch.wait("hv1", code)
        wait_until(letters.exists, RESCUE_LIMIT_S, "a letter arrives")
        at["letter"] = json.loads(letters.read_text().splitlines()[0])["received_at"]
    at["suspect"] = next(t for t in log_times(lab, "MDV-SUSPECT", "hv1 is suspect") if t >= at["killed"])
    at["proof"] = log_times(lab, "MDV-PROOF", "hv1 is proven dead")[0]
    lab.assert_only_fenced("hv1")
    lab.assert_no_violation()
    return at


def crashes(lab: Lab, table: Table, grace: str, count: int) -> None:
    """The chain of one grace, step by step."""
    runs, meter = [], Meter()
    for number in range(count):
        runs.append(one_crash(lab, grace))
        total = runs[-1]["all-write"] - runs[-1]["killed"]
        say(f"  grace {grace}, crash {number + 1} of {count}: {total:.1f} s until both guests write")

    def between(first: str, second: str, scale: float = 1.0) -> list[float]:
        return [(run[second] - run[first]) * scale for run in runs if run.get(first) and run.get(second)]

    table.add(f"grace {grace}: host killed -> suspect", "s", between("killed", "suspect"), meter, ("p50", 1.5))
    table.add(f"grace {grace}: host killed -> condemned, off ordered", "s", between("killed", "off-ordered"), meter)
    letter = between("off-ordered", "letter", 1000)
    table.add(f"grace {grace}: off ordered -> a receiver is told", "ms", letter, meter, ("max", 1000))
    table.add(f"grace {grace}: off ordered -> proof (IPMI device)", "s", between("off-ordered", "proof"), meter)
    limit = ("p99", 250)
    table.add(
        f"grace {grace}: proof -> first start ordered", "ms", between("proof", "start-ordered", 1000), meter, limit
    )
    table.add(f"grace {grace}: start ordered -> guests write", "s", between("start-ordered", "all-write"), meter)
    table.add(f"grace {grace}: total", "s", between("killed", "all-write"), meter)


def fsync_ms(folder: Path) -> float:
    """What one durable write costs on this disk: every commit pays it."""
    took = []
    path = folder / "fsync.tmp"
    with open(path, "wb") as out:
        for _ in range(20):
            begun = time.monotonic()
            out.write(bytes(4096))
            out.flush()
            os.fsync(out.fileno())
            took.append((time.monotonic() - begun) * 1000)
    path.unlink()
    return percentile(took, 0.5)


def conclude(table: Table, begun: float) -> int:
    """Shows everything; the exit code of a bench."""
    say()
    table.show()
    say(f"took {(time.monotonic() - begun) / 60:.1f} minutes")
    return 1 if table.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="figures of the product in the real lab")
    parser.add_argument("--quick", action="store_true", help="two minutes: few samples, no burst")
    parser.add_argument("--crashes", type=int, metavar="N", help="host crashes for each of the two graces")
    parser.add_argument("--burst", type=int, metavar="N", help="guests killed at once; 0 leaves it out")
    arguments = parser.parse_args()
    count = arguments.crashes if arguments.crashes is not None else (1 if arguments.quick else 5)
    at_once = arguments.burst if arguments.burst is not None else (0 if arguments.quick else 50)
    idle = 5 if arguments.quick else IDLE_GUESTS
    table, begun = Table(), time.monotonic()
    with Lab.open(3) as lab:
        if not lab.has_product:
            raise SystemExit(f"the programs are missing in {plan.binaries()}; `make bench` builds them first")
        cores, memory = os.cpu_count(), int(re.search(r"\d+", Path("/proc/meminfo").read_text())[0]) >> 20
        say(f"{cores} cores, {memory} GiB, one fsync takes {fsync_ms(lab.root):.1f} ms; programs: {plan.binaries()}")
        say(f"an idle site with {idle} guests on one host")
        guests = lab.protected_site(idle, on=["hv1"], mode="observe", timing=TIMING)
        idle_site(lab, table, guests, 10.0 if arguments.quick else QUIET_S)
        kills(lab, table, guests)
        cold_starts(lab, table, 5 if arguments.quick else 20)
        for grace in GRACES:
            if count:
                crashes(lab, table, grace, count)
        if at_once:
            burst(lab, table, at_once)
    return conclude(table, begun)


if __name__ == "__main__":
    sys.exit(main())
