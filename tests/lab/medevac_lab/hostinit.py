"""Process 1 of a lab host: makes the host's own view of the machine, starts its services, reaps.

    mounts: own /proc, /run, /etc, /var/lib, /var/log, boot id      (once, before anything runs)
    services: virtlogd, libvirtd, banner, agent                     (started in this order)
    init.sock: one JSON line in, one out: start, stop, list, shutdown

Run only by host.py, inside fresh namespaces, as
`python3 -S -E hostinit.py LAB/hosts/hvN/boot.json`. It must reap at once:
libvirt waits for a dead QEMU to leave the process table.
"""

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
# A request is one short line; more is a mistake.
REQUEST_BYTES = 4096
# A service that is asked to stop does so within this time, or is killed.
SERVICE_STOP_S = 5.0
LIBVIRT_STOP_S = 5.0
# libvirtd can start a domain only when virtlogd listens.
VIRTLOGD_READY_S = 3.0

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    if _libc.mount(*encoded, ctypes.c_ulong(flags), data.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


def own_view(boot: dict) -> None:
    """Replaces what a machine of its own would have for itself."""
    folder = boot["folder"]
    socket.sethostname(boot["name"])
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc")
    # Its own network devices, and no cgroups that libvirt could move a guest into.
    mount("sysfs", "/sys", "sysfs")
    mount("run", "/run", "tmpfs", 0, "mode=755")
    mount("shm", "/dev/shm", "tmpfs", 0, "mode=1777")
    for name, target in (("etc", "/etc"), ("var-lib", "/var/lib"), ("var-log", "/var/log")):
        mount(f"{folder}/{name}", target, None, MS_BIND)
    mount(boot["libvirt_cache"], "/var/cache/libvirt", None, MS_BIND)
    mount(f"{folder}/boot_id", "/proc/sys/kernel/random/boot_id", None, MS_BIND)
    for name in ("/run/lock", "/run/libvirt", "/run/sealed-libvirt", "/run/medevac"):
        os.makedirs(name, mode=0o755, exist_ok=True)


class Init:
    """The main loop."""

    def __init__(self, boot: dict):
        self.boot = boot
        self.pids: dict[str, int] = {}
        self.selector = selectors.DefaultSelector()
        self.ended: set[int] = set()

    # -- services -----------------------------------------------------------
    def start(self, name: str) -> str:
        if name in self.pids:
            return f"{name} runs already"
        service = self.boot["services"].get(name)
        if service is None:
            return f"no service {name} on this host"
        log = open(f"/var/log/{name}.log", "ab")
        log.write(f"--- start {name}, boot {self.boot['boot_id']}\n".encode())
        log.flush()
        child = subprocess.Popen(
            service["argv"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={**self.boot["env"], **service.get("env", {})},
        )
        log.close()
        child.returncode = 0  # reaped here, never by Popen
        self.pids[name] = child.pid
        return "ok"

    def start_all(self) -> None:
        for name, service in self.boot["services"].items():
            if not service["autostart"]:
                continue
            if name == "libvirtd" and "virtlogd" in self.pids:
                self.wait_for(lambda: os.path.exists("/run/libvirt/virtlogd-sock"), VIRTLOGD_READY_S)
            self.start(name)

    def stop(self, name: str, number: int) -> str:
        if name not in self.pids:
            return f"{name} does not run"
        os.kill(self.pids[name], number)
        return "ok"

    def reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name in [name for name, known in self.pids.items() if known == pid]:
                del self.pids[name]

    def wait_for(self, condition, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.reap()
            time.sleep(0.01)
        return True

    # -- an orderly end -----------------------------------------------------
    def virsh(self, *argv: str) -> list[str]:
        """libvirt as an init system's scripts would ask it; our loop reaps, so no subprocess.run here."""
        path = "/run/virsh.out"
        with open(path, "wb") as out:
            child = subprocess.Popen(
                ["virsh", "-q", *argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.boot["env"]
            )
        child.returncode = 0
        self.wait_for(lambda: not os.path.exists(f"/proc/{child.pid}"), 10.0)
        return Path(path).read_text().split()

    def end(self, name: str) -> None:
        """As any init system: asks, waits, kills."""
        if name in self.pids:
            self.stop(name, signal.SIGTERM)
            if not self.wait_for(lambda: name not in self.pids, SERVICE_STOP_S):
                self.stop(name, signal.SIGKILL)

    def shutdown(self, guest_timeout: float) -> None:
        """The order of a real one: say so, stop the agent, the guests, libvirtd; then the power goes."""
        Path("/run/medevac/shutting-down").touch()
        for name in [name for name, service in self.boot["services"].items() if service.get("before_guests")]:
            self.end(name)
        self.end("agent")
        running = self.virsh("list", "--name")
        for guest in running:
            self.virsh("shutdown", guest, "--mode", "acpi")
        self.wait_for(lambda: not self.virsh("list", "--name"), guest_timeout)
        for guest in self.virsh("list", "--name"):
            self.virsh("destroy", guest)
        if "libvirtd" in self.pids:
            self.stop("libvirtd", signal.SIGTERM)
            self.wait_for(lambda: "libvirtd" not in self.pids, LIBVIRT_STOP_S)
        os._exit(0)

    # -- the control socket -------------------------------------------------
    def answer(self, request: dict) -> dict:
        verb = request.get("verb")
        if verb == "start":
            return {"text": self.start(request["name"])}
        if verb == "stop":
            return {"text": self.stop(request["name"], request["signal"])}
        if verb == "list":
            return {"text": "ok", "services": self.pids}
        return {"text": f"unknown verb {verb}"}

    def serve(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(2.0)
            try:
                request = json.loads(connection.recv(REQUEST_BYTES))
                self.reap()
                if request.get("verb") == "shutdown":
                    connection.sendall(b'{"text": "ok"}\n')
                    connection.close()
                    self.shutdown(request["guest_timeout"])
                connection.sendall(json.dumps(self.answer(request)).encode() + b"\n")
            except (OSError, ValueError, KeyError) as error:
                print(f"bad request: {error}", flush=True)

    def run(self) -> None:
        path = f"{self.boot['folder']}/init.sock"
        if os.path.exists(path):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(8)
        wake_read, wake_write = os.pipe()
        for descriptor in (wake_read, wake_write):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(listener, selectors.EVENT_READ)
        self.selector.register(wake_read, selectors.EVENT_READ)
        self.start_all()
        while True:
            self.reap()
            for key, _ in self.selector.select(timeout=5.0):
                if key.fileobj is listener:
                    self.serve(listener)
                else:
                    os.read(wake_read, 4096)


def main() -> None:
    boot = json.loads(Path(sys.argv[1]).read_text())
    own_view(boot)
    Init(boot).run()


if __name__ == "__main__":
    main()
