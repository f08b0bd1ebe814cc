"""One hypervisor of the lab: its power switch, its boots, its services.

    boot() --> on, up --crash()----------------> on, dead   (the controller still says "on")
                 |  \\--unplug()/power_off()----> off, dead
                 |   \\-shutdown()--------------> off        (in order: goodbye, guests, libvirtd)
                 \\----freeze() <-> thaw()                   (no user space; the kernel still answers)

All state is on disk, so that the driver, the command line and a power
controller, three processes, drive the same host.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

from . import container, plan, procs
from .cgroups import Group
from .net import Network
from .wait import wait_until

HERE = Path(__file__).resolve().parent
# libvirtd needs 0.4 s on an idle machine; the rest is for loaded ones.
UP_TIMEOUT_S = 60.0
SHUTDOWN_TIMEOUT_S = 60.0
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "RUST_BACKTRACE": "1"}
# What a program needs to find its libraries, users and certificates.
ETC_COPIED = (
    "passwd",
    "group",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "ssl",
    "localtime",
    "services",
    "protocols",
    "sasl2",
    "os-release",
)


class Host:
    """hv1, hv2, ..."""

    def __init__(self, lab: Path, name: str, hosts: list[str]):
        self.lab, self.name, self.hosts = lab, name, hosts
        self.folder = lab / "hosts" / name
        self.group = Group(lab, name)
        self.records = procs.Records(lab)
        self.net = Network(lab)

    def __repr__(self) -> str:
        return self.name

    # -- what it is now -----------------------------------------------------
    @property
    def proc(self) -> procs.Proc | None:
        proc = self.records.read(self.name)
        return proc if proc is not None and proc.alive() else None

    def up(self) -> bool:
        """True while its process 1 lives, frozen or not."""
        return self.proc is not None

    @property
    def power(self) -> str:
        """What its power controller reads: "on" also for a host that crashed."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "power").read_text().strip()
        return "off"

    @property
    def boot_id(self) -> str:
        return (self.folder / "boot_id").read_text().strip()

    @property
    def machine_id(self) -> str:
        return (self.folder / "etc" / "machine-id").read_text().strip()

    @property
    def env(self) -> dict[str, str]:
        """What commands on the host run with: virsh finds a sealed container by this alone."""
        if container.kind_of(self.folder) != "sealed":
            return ENV
        return {**ENV, "LIBVIRT_DEFAULT_URI": f"qemu+unix:///system?socket={container.SEALED_RUN}/libvirt-sock"}

    def address(self, plane: str = "mgmt") -> str:
        return plan.host_address(self.name, plane)

    @contextlib.contextmanager
    def _switch(self):
        """One hand at the power switch at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _set_power(self, state: str) -> None:
        (self.folder / "power").write_text(state + "\n")

    # -- its own /etc and /var ---------------------------------------------
    def install(self) -> None:
        """Makes the host's disk: what survives its boots."""
        etc = self.folder / "etc"
        for name in (
            "etc/medevac",
            "var-lib/medevac-agent",
            "var-lib/libvirt/qemu",
            "var-lib/libvirt/images",
            "var-lib/libvirt/boot",
            "var-log/libvirt/qemu",
        ):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name in ETC_COPIED:
            source = Path("/etc") / name
            if not source.exists() or (etc / name).exists():
                continue
            if source.is_dir():
                shutil.copytree(source, etc / name, symlinks=True, ignore=shutil.ignore_patterns("private"))
            else:
                shutil.copy2(source, etc / name)
        (etc / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{plan.host_address(host, 'mgmt')} {host}\n" for host in self.hosts)
        )
        (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\nservices: files\n")
        (etc / "resolv.conf").write_text("")
        (etc / "hostname").write_text(self.name + "\n")
        if not (etc / "machine-id").exists():
            (etc / "machine-id").write_text(uuid.uuid4().hex + "\n")
        self._install_libvirt(etc / "libvirt")

    def _install_libvirt(self, folder: Path) -> None:
        """libvirt's own settings. No security driver and no cgroups: both belong to the machine."""
        (folder / "qemu").mkdir(parents=True, exist_ok=True)
        machine = str(uuid.UUID(self.machine_id))
        (folder / "libvirtd.conf").write_text(
            f'host_uuid = "{machine}"\nlisten_tls = 0\nlisten_tcp = 1\nauth_tcp = "none"\nlisten_addr = "0.0.0.0"\n'
            'unix_sock_rw_perms = "0700"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\nlog_outputs = "2:stderr"\n'
        )
        (folder / "qemu.conf").write_text(
            'user = "root"\ngroup = "root"\ndynamic_ownership = 0\nremember_owner = 0\nsecurity_driver = "none"\n'
            "cgroup_controllers = [ ]\nnamespaces = [ ]\nmigration_port_min = 49152\n"
        )

    def contain(self, kind: str) -> None:
        """From the next boot on, and until it is wiped, its libvirt lives in a container."""
        container.install(self.lab, self.folder, kind)

    def wipe(self) -> None:
        """As if newly installed; only for a host that is down."""
        container.remove(self.folder)
        for name in ("etc/libvirt/qemu", "etc/medevac", "var-lib/medevac-agent", "var-lib/libvirt", "var-log"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.install()

    # -- boots --------------------------------------------------------------
    def _services(self) -> dict:
        services = {
            "virtlogd": {"argv": ["/usr/sbin/virtlogd", "-p", "/run/virtlogd.pid"], "autostart": True},
            "libvirtd": {"argv": ["/usr/sbin/libvirtd", "--listen", "-p", "/run/libvirtd.pid"], "autostart": True},
            "banner": {
                "argv": [plan.PYTHON, "-S", "-E", str(HERE / "banner.py"), str(plan.BANNER_PORT)],
                "autostart": True,
            },
        }
        if container.kind_of(self.folder):
            del services["virtlogd"]
            init = [plan.PYTHON, "-S", "-E", str(HERE / "containerinit.py"), str(self.folder / "container.json")]
            services["libvirtd"]["argv"] = init
        agent = self.lab / "bin" / "medevac-agent"
        if agent.exists() and (self.folder / "etc" / "medevac" / "agent.toml").exists():
            off = (self.folder / "agent-disabled").exists()
            services["agent"] = {"argv": [str(agent), "--config", "/etc/medevac/agent.toml"], "autostart": not off}
        with contextlib.suppress(FileNotFoundError):
            services.update(json.loads((self.folder / "services.json").read_text()))
        return services

    def set_services(self, services: dict) -> None:
        """More services than every host has, from the next boot on: name -> argv, env, autostart.

        On disk, because a power controller, another process, boots the host too.
        An orderly shutdown ends those with `before_guests` first.
        """
        (self.folder / "services.json").write_text(json.dumps(services, indent=1))

    def boot(self, wait: bool = True) -> None:
        """Power on. A new boot id, an uptime that starts at zero, the same disk."""
        with self._switch():
            if self.up():
                self._set_power("on")
                return
            self.group.thaw()
            self.group.make()
            boot_id = str(uuid.uuid4())
            (self.folder / "boot_id").write_text(boot_id + "\n")
            cache = self.lab / "cache" / "libvirt"
            cache.mkdir(parents=True, exist_ok=True)
            boot = {
                "name": self.name,
                "folder": str(self.folder),
                "boot_id": boot_id,
                "libvirt_cache": str(cache),
                "env": self.env,
                "services": self._services(),
            }
            (self.folder / "boot.json").write_text(json.dumps(boot, indent=1))
            launch = procs.Launch(
                self.name,
                [plan.PYTHON, "-S", "-E", str(HERE / "hostinit.py"), str(self.folder / "boot.json")],
                self.folder / "init.log",
                cgroup=self.group.path,
                namespaces=procs.HOST_NAMESPACES,
                env=ENV,
            )
            self._set_power("on")
            proc = procs.spawn(self.records, launch, lambda proc: self.net.plug_host(self.name, proc.pid))
            self._note_boot(proc, boot_id)
        if wait:
            self.wait_up()

    def _note_boot(self, proc: procs.Proc, boot_id: str) -> None:
        line = {
            "t": time.clock_gettime(time.CLOCK_BOOTTIME),
            "boot_id": boot_id,
            "pid": proc.pid,
            "pidns": os.stat(f"/proc/{proc.pid}/ns/pid").st_ino,
        }
        with open(self.folder / "boots.jsonl", "a") as out:
            out.write(json.dumps(line) + "\n")

    def wait_up(self, timeout: float = UP_TIMEOUT_S) -> None:
        def answers() -> bool:
            proc = self.proc
            if proc is None:
                raise RuntimeError(f"{self.name} ended while booting, see {self.folder}/init.log and var-log/")
            run = container.SEALED_RUN if container.kind_of(self.folder) == "sealed" else "/run/libvirt"
            if not os.path.exists(f"/proc/{proc.pid}/root{run}/libvirt-sock"):
                return False
            return self.exec(["virsh", "-q", "list"], timeout=10, check=False).returncode == 0

        wait_until(answers, timeout, f"{self.name}: libvirtd answers", every=0.05)

    # -- ends ---------------------------------------------------------------
    def _end(self, power: str) -> None:
        with self._switch():
            self.net.power_gone(self.name)
            proc = self.proc
            if proc is not None:
                proc.signal(signal.SIGKILL)
            self.group.kill()
            if proc is not None and not proc.wait_gone(10.0):
                raise RuntimeError(f"{self.name}: process {proc.pid} survived SIGKILL for 10 s")
            self._set_power(power)

    def crash(self) -> None:
        """Dead without warning: no packet leaves, nothing runs; its controller still says on."""
        self._end("on")

    def unplug(self) -> None:
        """The power is gone, and its controller says so."""
        self._end("off")

    def power_off(self) -> None:
        """What a power controller does."""
        self._end("off")

    def reboot_by_itself(self, wait: bool = True) -> None:
        """Panics and comes back: the power was on all the time."""
        self.crash()
        self.boot(wait)

    def shutdown(self, reboot: bool = False, guest_timeout: float = 10.0, wait: bool = True) -> None:
        """In order: says so, stops the agent, the guests, libvirtd; then power off (or a new boot)."""
        proc = self.proc
        if proc is None:
            return
        self.request(verb="shutdown", guest_timeout=guest_timeout)
        if not wait:
            return
        if not proc.wait_gone(SHUTDOWN_TIMEOUT_S):
            raise RuntimeError(
                f"{self.name} did not shut down within {SHUTDOWN_TIMEOUT_S:.0f} s, see {self.folder}/init.log"
            )
        self._end("on" if reboot else "off")
        if reboot:
            self.boot()

    def freeze(self) -> None:
        """No user space runs, guests included; the kernel still answers ping and SYN."""
        self.group.freeze()

    def thaw(self) -> None:
        self.group.thaw()

    # -- inside -------------------------------------------------------------
    def enter(self) -> list[str]:
        proc = self.proc
        if proc is None:
            raise RuntimeError(f"{self.name} is down")
        return ["nsenter", "-t", str(proc.pid), "-m", "-u", "-i", "-n", "-p", "-T"]

    def exec(self, argv: list[str], timeout: float = 30.0, check: bool = True) -> subprocess.CompletedProcess:
        """Runs a command on the host and returns its output."""
        done = subprocess.run(
            [*self.enter(), *argv],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.env,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )
        if check and done.returncode != 0:
            raise RuntimeError(
                f"{self.name}: {' '.join(argv)} -> {done.returncode}: {(done.stderr or done.stdout).strip()}"
            )
        return done

    def start_exec(self, argv: list[str]) -> subprocess.Popen:
        """The same without waiting, for a migration in flight or several starts at once."""
        return subprocess.Popen(
            [*self.enter(), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
            cwd="/",
        )

    def virsh(self, *argv: str, timeout: float = 30.0, check: bool = True) -> str:
        return self.exec(["virsh", "-q", *argv], timeout, check).stdout

    def request(self, timeout: float = 5.0, **request) -> dict:
        """One word to the host's process 1."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(timeout)
            link.connect(str(self.folder / "init.sock"))
            link.sendall(json.dumps(request).encode())
            return json.loads(link.recv(65536))

    def services(self) -> dict[str, int]:
        """name -> pid inside the host."""
        return self.request(verb="list")["services"]

    def start_service(self, name: str) -> None:
        text = self.request(verb="start", name=name)["text"]
        if text not in ("ok", f"{name} runs already"):
            raise RuntimeError(f"{self.name}: {text}")

    def stop_service(self, name: str, number: int = signal.SIGTERM, wait: bool = True) -> None:
        self.request(verb="stop", name=name, signal=int(number))
        if wait and number != signal.SIGSTOP:
            wait_until(lambda: name not in self.services(), 15, f"{self.name}: {name} ends")

    def kill_service(self, name: str) -> None:
        self.stop_service(name, signal.SIGKILL)

    def pause_service(self, name: str) -> None:
        self.stop_service(name, signal.SIGSTOP)

    def resume_service(self, name: str) -> None:
        self.stop_service(name, signal.SIGCONT, wait=False)

    # -- wires --------------------------------------------------------------
    def wire(self, plane: str, **new) -> None:
        proc = self.proc
        inside = ["-t", str(proc.pid), "-n"] if proc is not None else None
        self.net.change(self.name, plane, inside, proc is not None, **new)

    def agent_log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "var-log" / "agent.log").read_text(errors="replace")
        return ""
