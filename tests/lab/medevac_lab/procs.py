"""Processes the lab makes, found again and ended by what was written down.

    driver --fork--> helper --[cgroup, namespaces]--fork--> child  (waits)
       ^                |                                     |
       |<-- child's pid-+ exits                               |
       |-- writes LAB/run/NAME.json, then says "go" --------->| exec

A child never runs before its record is on disk, so a driver that dies in
between leaves nothing behind: the child sees the pipe close and leaves.
A record holds pid, start time and the machine's boot id; a process whose
start time differs is somebody else's and is never signalled.
"""

import ctypes
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
HOST_NAMESPACES = CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET

# A helper forks, joins and leaves within milliseconds; a machine that needs
# longer than this is not a place for a lab.
SPAWN_TIMEOUT_S = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(path: str | Path, flag: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, flag), f"setns({path})")
    finally:
        os.close(descriptor)


def stat_of(pid: int) -> tuple[str, int] | None:
    """State letter and start time in ticks of a process, None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rsplit(")", 1)[1].split()
    return fields[0], int(fields[19])


def is_alive(pid: int, start: int) -> bool:
    """True while exactly that process lives; a zombie is dead."""
    found = stat_of(pid)
    return found is not None and found[1] == start and found[0] not in "ZX"


def machine_boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Proc:
    """One recorded process."""

    name: str
    pid: int
    start: int
    boot: str

    def alive(self) -> bool:
        return self.boot == machine_boot() and is_alive(self.pid, self.start)

    def signal(self, number: int) -> bool:
        """Sends a signal to exactly this process; False when it is gone."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait_gone(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def kill(self, timeout: float = 10.0) -> bool:
        self.signal(signal.SIGKILL)
        return self.wait_gone(timeout)


class Records:
    """The folder LAB/run: one file per process that the lab started."""

    def __init__(self, lab: Path):
        self.folder = lab / "run"

    def write(self, name: str, pid: int) -> Proc:
        found = stat_of(pid)
        if found is None:
            raise RuntimeError(f"{name}: process {pid} ended before it was recorded")
        proc = Proc(name, pid, found[1], machine_boot())
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{name}.json"
        draft = target.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(asdict(proc)))
        draft.rename(target)
        return proc

    def read(self, name: str) -> Proc | None:
        try:
            return Proc(**json.loads((self.folder / f"{name}.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def all(self) -> list[Proc]:
        if not self.folder.is_dir():
            return []
        names = sorted(path.stem for path in self.folder.glob("*.json"))
        return [proc for proc in map(self.read, names) if proc is not None]

    def forget(self, name: str) -> None:
        (self.folder / f"{name}.json").unlink(missing_ok=True)


@dataclass
class Launch:
    """How to start one process."""

    name: str
    argv: list[str]
    log: Path
    cgroup: Path | None = None
    netns: Path | None = None
    namespaces: int = 0
    env: dict[str, str] | None = None
    cwd: str = "/"


def _zero_clocks() -> None:
    """In the time namespace to come, this moment is the moment of power-on."""
    lines = []
    for name, clock in (("monotonic", time.CLOCK_MONOTONIC), ("boottime", time.CLOCK_BOOTTIME)):
        lines.append(f"{name} -{int(time.clock_gettime(clock))} 0")
    Path("/proc/self/timens_offsets").write_text("\n".join(lines) + "\n")


def _become(launch: Launch, go: int) -> None:
    """In the child: wait for the word, then become the program."""
    if os.read(go, 1) != b"g":
        os._exit(0)
    null = os.open("/dev/null", os.O_RDONLY)
    log = os.open(launch.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Whoever started us (a power controller, say) waits for the end of its pipes.
    os.closerange(3, 4096)
    for number in (signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(launch.cwd)
    os.execve(launch.argv[0], launch.argv, launch.env if launch.env is not None else dict(os.environ))


def _help(launch: Launch, told: int, go: int, keep_open: int) -> None:
    """In the helper: join what is to be joined, fork the child, tell its pid."""
    os.setsid()
    os.close(keep_open)
    if launch.cgroup is not None:
        (launch.cgroup / "cgroup.procs").write_text("0")
    if launch.netns is not None:
        setns(launch.netns, CLONE_NEWNET)
    if launch.namespaces:
        unshare(launch.namespaces)
        if launch.namespaces & CLONE_NEWTIME:
            _zero_clocks()
    child = os.fork()
    if child == 0:
        os.close(told)
        _become(launch, go)
        os._exit(127)
    os.write(told, str(child).encode())
    os._exit(0)


def spawn(records: Records, launch: Launch, before_go=None) -> Proc:
    """Starts a daemon of the lab. `before_go(proc)` runs while it waits, e.g. to give its namespace links."""
    told_r, told_w = os.pipe()
    go_r, go_w = os.pipe()
    helper = os.fork()
    if helper == 0:
        code = 1
        try:
            os.close(told_r)
            _help(launch, told_w, go_r, go_w)
        except BaseException as error:  # a fork must never return into the driver's code
            os.write(2, f"lab: cannot start {launch.name}: {error}\n".encode())
        os._exit(code)
    os.close(told_w)
    os.close(go_r)
    try:
        text = os.read(told_r, 32)
        os.waitpid(helper, 0)
        if not text:
            raise RuntimeError(f"{launch.name}: could not be started, see the line above")
        proc = records.write(launch.name, int(text))
        if before_go is not None:
            before_go(proc)
        os.write(go_w, b"g")
        return proc
    finally:
        os.close(told_r)
        os.close(go_w)
