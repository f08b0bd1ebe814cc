"""A machine of its own on this kernel: systemd as pid 1, libvirt as its unit, guests in software emulation.

    lower: LAB/cache/packages/root (read only)  --overlay-->  LAB/box/root  --systemd-nspawn-->  pid 1
    upper: LAB/box/upper                             ^
                                                     '-- files are put there, and read, from outside

Nothing of it is left after `end`: its processes are those of one PID namespace.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from medevac_lab import procs
from medevac_lab.wait import wait_until

BOOT_TIMEOUT_S = 60.0
# Guests are saved on the way down.
REBOOT_TIMEOUT_S = 90.0
EXEC_TIMEOUT_S = 120.0
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
NAME = "box"


class Box:
    """One machine, from power-on to its end."""

    def __init__(self, lab: Path, base: Path):
        self.lab, self.base = lab, base
        self.folder = lab / NAME
        self.root = self.folder / "root"
        self.log = self.folder / "console.log"
        self.records = procs.Records(lab)

    # -- power --------------------------------------------------------------
    def start(self, binds: tuple[Path, ...] = ()) -> None:
        """Boots it with an empty overlay; `binds` are seen in it at the same place, to be read."""
        self.end()
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            (self.folder / name).chmod(0o755)
        layers = f"lowerdir={self.base},upperdir={self.folder}/upper,workdir={self.folder}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)], check=True)
        self.binds = binds
        self._boot()
        states = ("running", "degraded")
        wait_until(lambda: self.state() in states, BOOT_TIMEOUT_S, "the machine has booted")

    def _boot(self) -> None:
        # No machined and no systemd out here: --register=no, --keep-unit.
        argv = ["/usr/bin/systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network"]
        argv += [f"--machine={NAME}", f"--directory={self.root}", "--console=pipe", "--link-journal=no"]
        argv += [f"--bind-ro={path}" for path in self.binds]
        launch = procs.Launch(NAME, argv, self.log, env={**os.environ, **ENV})
        self.proc = procs.spawn(self.records, launch)
        wait_until(self.leader, BOOT_TIMEOUT_S, "the machine has a pid 1")

    def reboot(self) -> None:
        """In order, as a person types it: the same disk, a new boot id; its units may still be starting."""
        before, proc = self.boot_id(), self.records.read(NAME)
        self.exec("systemctl", "reboot", check=False)
        # It ends with its machine, as it would for a unit that starts it again.
        if not proc.wait_gone(REBOOT_TIMEOUT_S):
            raise AssertionError(f"the machine did not go down within {REBOOT_TIMEOUT_S:.0f} s: see {self.log}")
        self._boot()
        known = ("starting", "running", "degraded")
        wait_until(lambda: self.state() in known, BOOT_TIMEOUT_S, "the machine boots")
        assert self.boot_id() != before, "not a new boot"

    def boot_id(self) -> str:
        return self.says("cat", "/proc/sys/kernel/random/boot_id")

    def end(self) -> None:
        """Takes the power, and removes what it wrote."""
        proc = self.records.read(NAME)
        leader = self.leader()
        if leader is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, 9)
        if proc is not None and not proc.wait_gone(10):
            proc.kill()
        self.records.forget(NAME)
        while os.path.ismount(self.root):
            subprocess.run(["umount", "-l", str(self.root)], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def leader(self) -> int | None:
        """The pid, out here, of its pid 1."""
        proc = self.records.read(NAME)
        if proc is None or not proc.alive():
            return None
        children = Path(f"/proc/{proc.pid}/task/{proc.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                namespaced = os.readlink(f"/proc/{child}/ns/pid") != os.readlink(f"/proc/{proc.pid}/ns/pid")
                if namespaced and Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        return None

    def state(self) -> str:
        done = self.exec("systemctl", "is-system-running", check=False)
        return done.stdout.strip()

    # -- what is done in it -------------------------------------------------
    def argv(self, *words: str) -> list[str]:
        return ["nsenter", "-t", str(self.leader()), "-a", "--", *words]

    def exec(self, *words: str, check: bool = True, timeout: float = EXEC_TIMEOUT_S) -> subprocess.CompletedProcess:
        done = subprocess.run(self.argv(*words), capture_output=True, text=True, timeout=timeout, env=ENV)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def says(self, *words: str) -> str:
        return self.exec(*words).stdout.strip()

    def path(self, inside: str) -> Path:
        """Where a file of the machine is seen from outside; not what lies on its own mounts, /run say."""
        return self.root / inside.lstrip("/")

    # -- its units ----------------------------------------------------------
    def unit(self, name: str, what: str) -> str:
        return self.says("systemctl", "show", "--value", "--property", what, name)

    def active(self, name: str) -> bool:
        return self.unit(name, "ActiveState") == "active"

    def main_pid(self, name: str) -> str:
        return self.unit(name, "MainPID")

    def wait_active(self, *names: str, timeout: float = 30.0) -> None:
        for name in names:
            wait_until(lambda name=name: self.active(name), timeout, f"{name} is active")

    def journal(self, unit: str) -> str:
        return self.exec("journalctl", "--no-pager", "-o", "cat", "-u", unit, check=False).stdout
