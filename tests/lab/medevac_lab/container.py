"""A lab host whose libvirt lives in a container: what lies on its disk for that.

LAB/hosts/hvN/
    container.json    read at each start of the container (containerinit.py)
    container/        volumes: /etc/libvirt, /var/lib/libvirt, and a folder that no other host has
    etc/libvirt       empty, as on a host without libvirt
"""

import json
import shutil
from pathlib import Path

# Where the container has the folder that all hosts share, and the host has nothing or something else.
MOUNTED = Path("/var/lib/nova/mnt")
# Where a sealed container keeps /run/libvirt, as seen from its host: no place that anybody knows.
SEALED_RUN = "/run/sealed-libvirt"
KINDS = ("kolla", "sealed")


def inner(lab: Path) -> Path:
    """A folder that all hosts share, and over which each container has a volume of its own."""
    return lab / "shared" / "inner"


def install(lab: Path, folder: Path, kind: str) -> None:
    """Moves a host's libvirt into a container; only for a host that is down."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind}: one of {KINDS}")
    box = folder / "container"
    for name in ("etc-libvirt", "var-lib-libvirt/qemu", "inner"):
        (box / name).mkdir(parents=True, exist_ok=True)
    inner(lab).mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder / "etc" / "libvirt", box / "etc-libvirt", dirs_exist_ok=True)
    shutil.rmtree(folder / "etc" / "libvirt")
    # A mount point, as any container engine makes it.
    (folder / "etc" / "libvirt").mkdir()
    with open(box / "etc-libvirt" / "qemu.conf", "a") as conf:
        conf.write('stdio_handler = "file"\n')
    # A lab beside the first one has a link to the first one's downloads.
    cache = str((lab / "cache").resolve())
    volumes = [
        [cache, cache],
        [str(box / "etc-libvirt"), "/etc/libvirt"],
        [str(box / "var-lib-libvirt"), "/var/lib/libvirt"],
        [str(lab / "shared"), str(MOUNTED)],
        [str(box / "inner"), str(inner(lab))],
    ]
    text = {"kind": kind, "lab": str(lab), "root": "/run/container", "run": SEALED_RUN, "volumes": volumes}
    (folder / "container.json").write_text(json.dumps(text, indent=1))


def kind_of(folder: Path) -> str | None:
    """Which container a host's libvirt lives in; None: in none."""
    path = folder / "container.json"
    return json.loads(path.read_text())["kind"] if path.exists() else None


def remove(folder: Path) -> None:
    (folder / "container.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "container", ignore_errors=True)
