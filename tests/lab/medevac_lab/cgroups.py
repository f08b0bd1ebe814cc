"""Groups of processes that freeze, thaw and die as one: cgroup v2.

<cgroup2>/mdv-1a2b3c4d/hv1     everything that runs on host hv1
                      /agg     the aggregator and its children
                      /lab     servers that only the lab needs
"""

import os
import time
from pathlib import Path

from . import plan

# Freezing is asynchronous; a machine under load needs some time for it.
FREEZE_TIMEOUT_S = 10.0
# A killed group empties within milliseconds; zombies wait for their parent.
EMPTY_TIMEOUT_S = 10.0


def hierarchy() -> Path:
    """Where cgroup v2 is mounted; systemd and container images differ."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        if fields[2] == "cgroup2":
            return Path(fields[1])
    raise SystemExit(
        "no cgroup v2 hierarchy is mounted; the lab needs one to freeze and end hosts (kernel 5.14 or newer)"
    )


def base(lab: Path) -> Path:
    return hierarchy() / plan.tag(lab)


class Group:
    """One cgroup of the lab."""

    def __init__(self, lab: Path, name: str):
        self.path = base(lab) / name

    def make(self) -> Path:
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path

    def pids(self) -> list[int]:
        try:
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        except (FileNotFoundError, OSError):
            return []

    def _set_frozen(self, wanted: bool) -> None:
        (self.path / "cgroup.freeze").write_text("1" if wanted else "0")
        deadline = time.monotonic() + FREEZE_TIMEOUT_S
        while self.frozen() != wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self.path.name} did not {'freeze' if wanted else 'thaw'} within {FREEZE_TIMEOUT_S:.0f} s"
                )
            time.sleep(0.002)

    def frozen(self) -> bool:
        try:
            return "frozen 1" in (self.path / "cgroup.events").read_text()
        except FileNotFoundError:
            return False

    def freeze(self) -> None:
        self._set_frozen(True)

    def thaw(self) -> None:
        if self.path.is_dir():
            self._set_frozen(False)

    def kill(self) -> None:
        """Ends everything in it, frozen or not, before any of it runs another instruction."""
        if not self.path.is_dir():
            return
        (self.path / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + EMPTY_TIMEOUT_S
        while "populated 1" in (self.path / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.path} still holds processes {self.pids()} after SIGKILL")
            time.sleep(0.002)
        (self.path / "cgroup.freeze").write_text("0")

    def remove(self) -> None:
        """Ends what is left in it and removes it."""
        if not self.path.is_dir():
            return
        self.kill()
        deadline = time.monotonic() + EMPTY_TIMEOUT_S
        while True:
            try:
                os.rmdir(self.path)
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def remove_all(lab: Path) -> None:
    """Ends every process that any group of this lab holds, and removes the groups."""
    top = base(lab)
    if not top.is_dir():
        return
    for child in sorted(path for path in top.iterdir() if path.is_dir()):
        Group(lab, child.name).remove()
    os.rmdir(top)
