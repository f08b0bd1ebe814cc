"""nova-compute on the lab's hosts: a service of each host, which dies with it and comes back with its boot.

    LAB/hosts/hvN/etc/nova/nova.conf     written here
    LAB/hosts/hvN/var-lib/nova           its state, the disks of servers with a local root, labvirt.json (faults)
    LAB/hosts/hvN/services.json          how the host's process 1 starts it
"""

import contextlib
import json
import shlex
import shutil
from pathlib import Path

from medevac_lab import plan as lab_plan
from medevac_lab.host import Host
from medevac_lab.storage import instances
from medevac_lab.wait import wait_until

from . import config, plan
from .prepare import Tree

SERVICE = "nova-compute"
# It needs 4 s of one core; three of them on two cores that guests use too need longer.
READY_TIMEOUT_S = 180.0


class Compute:
    """nova-compute of one host."""

    def __init__(self, lab: Path, host: Host):
        self.lab, self.host, self.tree = lab, host, Tree(lab)
        self.forget()

    def forget(self) -> None:
        """As every host begins: named as the host, not held, its faults gone."""
        self.name = self.hypervisor = self.host.name
        self.hold: list[str] = []

    def __repr__(self) -> str:
        return f"nova-compute of {self.host}"

    # -- its files ----------------------------------------------------------
    def install(self, knobs: config.Knobs) -> None:
        """From the host's next boot on."""
        etc = self.host.folder / "etc" / "nova"
        etc.mkdir(parents=True, exist_ok=True)
        writer = config.Writer(self.lab, self.tree.root, knobs)
        for path in (self.state / "lock", self.state / "instances", instances(self.lab)):
            path.mkdir(parents=True, exist_ok=True)
        (etc / "nova.conf").write_text(writer.compute(self.name, self.hypervisor, self.host.address()))
        self.host.set_services({SERVICE: self.service()})

    def service(self) -> dict:
        argv = [lab_plan.PYTHON, str(plan.VIRT / "nova_compute.py"), "--config-file", "/etc/nova/nova.conf"]
        if self.hold:
            # As a unit's ExecStartPre, tried again and again.
            script = f'until {shlex.join(self.hold)}; do sleep 0.2; done; exec "$@"'
            argv = ["/bin/sh", "-c", script, "sh", *argv]
        env = self.tree.env(HOME="/root", **self.tree.newer.compute_env())
        return {"argv": argv, "env": env, "autostart": True, "before_guests": True}

    @property
    def state(self) -> Path:
        """The host's /var/lib/nova, seen from outside."""
        return self.host.folder / "var-lib" / "nova"

    def wipe(self) -> None:
        """As if newly installed; only for a host that is down."""
        shutil.rmtree(self.state, ignore_errors=True)
        self.forget()

    def local_disk(self, server) -> Path:
        """The root of a server with root=local on this host, whether it is there or not."""
        return self.state / "instances" / server.uuid / "disk"

    def faults(self, **orders) -> None:
        """spawn_delay: seconds; spawn_error: text, or a text by the uuid of a server. Without any: none."""
        self.state.mkdir(parents=True, exist_ok=True)
        draft = self.state / "labvirt.tmp"
        draft.write_text(json.dumps(orders))
        draft.rename(self.state / "labvirt.json")

    # -- its process --------------------------------------------------------
    def ready(self) -> bool:
        """It has started and takes orders."""
        proc = self.host.proc
        return proc is not None and Path(f"/proc/{proc.pid}/root/run/nova-compute.ready").exists()

    def wait_ready(self, timeout: float = READY_TIMEOUT_S) -> None:
        def found() -> bool:
            if SERVICE not in self.host.services():
                raise RuntimeError(f"{self} ended at its start:\n{self.tail()}")
            return self.ready()

        wait_until(found, timeout, f"{self} is ready, see {self.log_path}", every=0.2)

    def kill(self) -> None:
        """SIGKILL: its guests run on."""
        self.host.kill_service(SERVICE)
        self._not_ready()

    def stop(self) -> None:
        self.host.stop_service(SERVICE)
        self._not_ready()

    def _not_ready(self) -> None:
        self.host.exec(["rm", "-f", "/run/nova-compute.ready"])

    def start(self, wait: bool = True) -> None:
        self.host.start_service(SERVICE)
        if wait:
            self.wait_ready()

    @property
    def log_path(self) -> Path:
        return self.host.folder / "var-log" / f"{SERVICE}.log"

    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(errors="replace")
        return ""

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log().splitlines()[-lines:])
