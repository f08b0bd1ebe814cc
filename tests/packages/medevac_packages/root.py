"""The root of a Debian that boots: made once, then only read.

    debootstrap --> LAB/cache/packages/root    systemd, libvirt, QEMU; dpkg, dnf and rpm

What a case changes lies in an overlay above it (box.py).
"""

import shutil
import subprocess
from pathlib import Path

from medevac_lab.prepare import APT, APT_TIMEOUT_S, APT_TRIES, say

# Ends the folder's name: one of another shape is made anew.
SHAPE = 1
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "libvirt-daemon-system",
    "libvirt-clients",
    "libvirt-daemon-driver-qemu",
    "qemu-system-x86",
    "seabios",
    "iproute2",
    "procps",
    "man-db",
    "dnf",
    "rpm",
)
# As the lab's own hosts: one user, no confinement, no groups of processes.
QEMU_CONF = 'user = "root"\ngroup = "root"\ndynamic_ownership = 0\nsecurity_driver = "none"\ncgroup_controllers = []\n'
NO_SERVICE_STARTS = "#!/bin/sh\nexit 101\n"
# Would wait for networks that are not there, or start guests at boot.
UNWANTED_UNITS = ("systemd-networkd-wait-online.service", "libvirt-guests.service", "apt-daily.timer")


def _mirror() -> tuple[str, str]:
    """(address, suite) from which this machine has its own packages."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release["VERSION_CODENAME"].strip('"')
    for line in told.splitlines():
        address, _, name = line.partition(" ")
        if name == suite:
            return address, suite
    raise SystemExit(f"this machine has no source of packages for {suite}")


def _make(root: Path) -> None:
    address, suite = _mirror()
    say(f"making a Debian {suite} that boots (about three minutes, once)")
    arguments = ["debootstrap", "--variant=minbase", "--include=systemd,dbus", suite, str(root), address]
    subprocess.run(arguments, check=True, timeout=APT_TIMEOUT_S, stdout=subprocess.DEVNULL)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text(NO_SERVICE_STARTS)
    policy.chmod(0o755)
    command = ["chroot", str(root), *APT, "install", "--no-install-recommends", *PACKAGES]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    for attempt in range(1, APT_TRIES + 1):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=APT_TIMEOUT_S)
        if done.returncode == 0:
            break
        say(f"attempt {attempt} of {APT_TRIES} failed: {done.stderr.strip().splitlines()[-1:]}")
    else:
        raise SystemExit("the packages of the Debian that boots could not be installed")
    policy.unlink()
    (root / "etc/libvirt/qemu.conf").write_text(QEMU_CONF)
    (root / "etc/hostname").write_text("box\n")
    # Each machine makes its own at its first boot.
    (root / "etc/machine-id").write_text("")
    for unit in UNWANTED_UNITS:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()


def prepare(cache: Path) -> Path:
    """The root, whole; half of one, left by whoever was interrupted, is thrown away."""
    root = cache / "packages" / f"root.{SHAPE}"
    if root.is_dir():
        return root
    draft = root.with_suffix(".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    # Of mode 0755, whatever this process makes its folders with: it becomes /.
    draft.chmod(0o755)
    _make(draft)
    draft.rename(root)
    return root
