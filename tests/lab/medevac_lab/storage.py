"""The guests' disks: one NBD server on the storage plane, one export per disk.

    hv1 --\\
    hv2 ---+-- storage plane -- store 10.77.2.2:10809 nbdkit -- LAB/disks/<uuid>
    hv3 --/

A disk behind a network has no lock that the one kernel of this machine would
enforce, so a second start is a second writer, as between real machines; and
cutting the storage plane cuts the disks.
"""

import contextlib
from pathlib import Path

from . import plan, procs
from .cgroups import Group
from .net import Network
from .wait import wait_until

# A disk holds one stamp of one sector; a mebibyte keeps every tool content.
DISK_BYTES = 1 << 20


class Storage:
    """The disk server."""

    def __init__(self, lab: Path):
        self.lab, self.disks, self.shared = lab, lab / "disks", lab / "shared"
        self.records, self.net = procs.Records(lab), Network(lab)
        self.group = Group(lab, "store")

    def start(self) -> None:
        self.disks.mkdir(parents=True, exist_ok=True)
        self.shared.mkdir(parents=True, exist_ok=True)
        self.group.make()
        address = plan.endpoint_addresses("store")["storage"]
        argv = [
            "/usr/bin/nbdkit",
            "-f",
            "-t",
            "16",
            "-i",
            address,
            "-p",
            str(plan.NBD_PORT),
            "file",
            f"dir={self.disks}",
        ]
        launch = procs.Launch(
            "nbdkit", argv, self.lab / "log" / "nbdkit.log", self.group.path, self.net.namespace("store")
        )
        procs.spawn(self.records, launch)
        wait_until(lambda: self._listens(address), 10, "nbdkit listens")

    def _listens(self, address: str) -> bool:
        # From its own namespace: the driver has no link to the storage plane.
        probe = f"import socket; socket.create_connection(('{address}', {plan.NBD_PORT}), 1)"
        return self.net.run_in("store", [plan.PYTHON, "-S", "-c", probe], capture_output=True).returncode == 0

    def running(self) -> bool:
        proc = self.records.read("nbdkit")
        return proc is not None and proc.alive()

    def stop(self) -> None:
        self.group.kill()
        self.records.forget("nbdkit")

    def freeze(self) -> None:
        """Storage that hangs: nothing fails, nothing answers."""
        self.group.freeze()

    def thaw(self) -> None:
        self.group.thaw()

    def make_disk(self, name: str, shared_file: bool = False) -> Path:
        path = (self.shared if shared_file else self.disks) / name
        with open(path, "wb") as out:
            out.truncate(DISK_BYTES)
        return path

    def remove_disks(self) -> None:
        for folder in (self.disks, self.shared):
            for path in folder.glob("*"):
                with contextlib.suppress(IsADirectoryError):
                    path.unlink()


def read_stamp(path: Path) -> tuple[str, str, int] | None:
    """(instance uuid, incarnation, counter) of the first sector; None when nothing was stamped yet."""
    try:
        with open(path, "rb") as disk:
            fields = disk.read(512).split()
    except FileNotFoundError:
        return None
    if len(fields) < 4 or fields[0] != b"MDV1":
        return None
    try:
        return fields[1].decode(), fields[2].decode(), int(fields[3])
    except ValueError:
        return None
