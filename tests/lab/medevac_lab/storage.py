"""The guests' disks: one NBD server on the storage plane, one export per disk.

    hv1 --\\
    hv2 ---+-- storage plane -- store 10.77.2.2:10809 nbdkit -- LAB/disks/<uuid>
    hv3 --/

A disk behind a network has no lock that the one kernel of this machine would
enforce, so a second start is a second writer, as between real machines; and
cutting the storage plane cuts the disks.
"""

import shutil
from pathlib import Path
from typing import BinaryIO

from . import plan, procs
from .cgroups import Group
from .net import Network
from .wait import wait_until

# A disk holds one stamp of one sector; a mebibyte keeps every tool content.
DISK_BYTES = 1 << 20
# How an image in the format qcow2 begins, and where in an entry of its tables an offset stands.
QCOW2 = b"QFI\xfb"
QCOW2_OFFSET = (1 << 56) - (1 << 9)


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
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def instances(lab: Path) -> Path:
    """Where Nova's own driver keeps everything of its servers: a folder that all hosts see."""
    return lab / "shared" / "instances"


def disks_of(lab: Path, identity: str) -> list[Path]:
    """Every place that all hosts see in which the disk of a guest may lie."""
    return [lab / "disks" / identity, lab / "shared" / identity, instances(lab) / identity / "disk"]


def first_byte(disk: BinaryIO) -> int | None:
    """Where in its image a disk's first byte lies; None while a qcow2 image has none of its own."""
    header = disk.read(48)
    if not header.startswith(QCOW2):
        return 0
    at = int.from_bytes(header[40:48], "big")
    for _ in range(2):
        # The tables of both levels: the first entry of each.
        disk.seek(at)
        at = int.from_bytes(disk.read(8), "big") & QCOW2_OFFSET
        if not at:
            return None
    return at


def read_disk(path: Path, begin: int, size: int) -> bytes:
    """Bytes of a disk's first 64 KiB; none where it is missing or nothing was written yet."""
    try:
        with open(path, "rb") as disk:
            base = first_byte(disk)
            if base is None:
                return b""
            disk.seek(base + begin)
            return disk.read(size)
    except (FileNotFoundError, NotADirectoryError):
        return b""


def read_stamp(path: Path) -> tuple[str, str, int] | None:
    """(instance uuid, incarnation, counter) of the first sector; None when nothing was stamped yet."""
    fields = read_disk(path, 0, 512).split()
    if len(fields) < 4 or fields[0] != b"MDV1":
        return None
    try:
        return fields[1].decode(), fields[2].decode(), int(fields[3])
    except ValueError:
        return None
