"""A file system of its own over one folder, so small that it can be full.

    with SmallDisk(folder) as disk:      of this machine: where the aggregator keeps its store
    with SmallDisk(folder, host):        inside a lab host: gone with that host's next crash
        disk.fill()   disk.free()

Whatever keeps files open there must be started after the disk is in place.
"""

import subprocess

from .host import Host

MIB = 16
# A copy of what lies there goes along, as if it had always been this disk.
MAKE = """set -e
small=$(mktemp -d)
mount -t tmpfs -o "size=$2m,mode=700" small "$small"
cp -a "$1/." "$small/"
mount --bind "$small" "$1"
umount "$small"
rmdir "$small"
"""
# Every block: `cat` ends at the first write that finds no room.
FILL = 'cat /dev/zero > "$1/filler" 2>/dev/null || true'


class SmallDisk:
    """A tmpfs over `folder`."""

    def __init__(self, folder, host: Host | None = None, mib: int = MIB):
        self.folder, self.host, self.mib = str(folder), host, mib

    def _run(self, script: str, *arguments: str) -> None:
        argv = ["sh", "-c", script, "sh", self.folder, *arguments]
        if self.host is not None:
            self.host.exec(argv)
        else:
            subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30)

    def __enter__(self) -> "SmallDisk":
        self._run(MAKE, str(self.mib))
        return self

    def __exit__(self, *_) -> None:
        # A host that died meanwhile took its mounts along.
        if self.host is None or self.host.up():
            self._run('umount -l "$1" || true')

    def fill(self) -> None:
        self._run(FILL)

    def free(self) -> None:
        self._run('rm -f "$1/filler"')
