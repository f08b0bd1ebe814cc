"""Makes the container that libvirtd of a lab host lives in, and becomes libvirtd there.

    own mounts: a root in memory; /usr, /etc, /dev, /sys of the host; its own /etc/libvirt,
    /var/lib/libvirt, and what container.json names as volumes
        "kolla"    pids and /run are the host's, as kolla-ansible has it: QEMUs outlive the container
        "sealed"   pids of its own, and a /run of its own: QEMUs die with the container

Started by hostinit.py as the host's service libvirtd, as
`python3 -S -E containerinit.py LAB/hosts/hvN/container.json`. Every start is
a container made anew: another root, another mount namespace.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from hostinit import MS_BIND, MS_PRIVATE, MS_REC, mount
from procs import CLONE_NEWNS, CLONE_NEWPID, unshare

MNT_DETACH = 2
SYS_PIVOT_ROOT = 155
PR_SET_PDEATHSIG = 1
LIBVIRTD = ["/usr/sbin/libvirtd", "--listen", "-p", "/run/libvirtd.pid"]

_libc = ctypes.CDLL(None, use_errno=True)


def bind(source: str, root: str, target: str) -> None:
    """Shows a folder of the host at a path in the container."""
    os.makedirs(root + target, exist_ok=True)
    mount(source, root + target, None, MS_BIND | MS_REC)


def make_root(box: dict) -> str:
    """Everything that libvirt needs, and nothing of the host's /var."""
    root = box["root"]
    os.makedirs(root, exist_ok=True)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("container", root, "tmpfs", 0, "mode=755")
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            bind(f"/{name}", root, f"/{name}")
    for name in ("/usr", "/etc", "/dev", "/sys", "/var/log", "/var/cache/libvirt", box["lab"]):
        bind(name, root, name)
    for name in ("/tmp", "/root", "/proc", "/run", "/.host"):
        os.makedirs(root + name, exist_ok=True)
    if box["kind"] == "sealed":
        mount("proc", f"{root}/proc", "proc")
        mount("run", f"{root}/run", "tmpfs", 0, "mode=755")
        bind(box["run"], root, "/run/libvirt")
    else:
        bind("/proc", root, "/proc")
        bind("/run", root, "/run")
    for source, target in box["volumes"]:
        bind(source, root, target)
    return root


def enter(root: str) -> None:
    """The host's files are out of reach from here on."""
    os.chdir(root)
    if _libc.syscall(SYS_PIVOT_ROOT, b".", b".host") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    _libc.umount2(b"/.host", MNT_DETACH)


def reap(libvirtd: int) -> None:
    """Process 1 of a sealed container: reaps QEMUs; with libvirtd the container ends."""
    while True:
        pid, _ = os.waitpid(-1, 0)
        if pid == libvirtd:
            os._exit(0)


def seal(box: dict) -> None:
    """A pid namespace for everything that follows; whoever started us waits here for its end."""
    unshare(CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        unshare(CLONE_NEWNS)
        enter(make_root(box))
        # libvirt kills what it cannot reach by the number that its QEMU had in the last container:
        # here nobody has that number.
        with contextlib.suppress(OSError):
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(1000 + time.monotonic_ns() // 10**7 % 30000))
        libvirtd = os.fork()
        if libvirtd == 0:
            os.execv(LIBVIRTD[0], LIBVIRTD)
        reap(libvirtd)
    # As an engine stops a container; the kernel ends all that is in it.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    os.waitpid(child, 0)


def main() -> None:
    box = json.loads(Path(sys.argv[1]).read_text())
    if box["kind"] == "sealed":
        seal(box)
        return
    unshare(CLONE_NEWNS)
    enter(make_root(box))
    os.execv(LIBVIRTD[0], LIBVIRTD)


if __name__ == "__main__":
    main()
