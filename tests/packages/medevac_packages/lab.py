"""What the runner of the lab's cases wants of a lab, with one machine that installs packages.

lab.box        the machine, booted anew for each case
lab.packed     the packages
lab.install(...), lab.set_up()    as docs/operating.md says it
"""

import contextlib
import fcntl
import json
import shutil
from pathlib import Path

from medevac_lab import plan
from medevac_lab.wait import wait_until

from . import root
from .box import Box
from .guest import BoxGuest
from .packed import PROGRAMS, Packed

AGENT, AGGREGATOR = "medevac-agent.service", "medevac-aggregator.service"
HOST = "box"
AGGREGATOR_TOML = """
planes = ["mgmt"]
host_running_me = "box"
[timing]
settle = "2s"
"""
AGENT_TOML = """aggregators = ["https://127.0.0.1:15869"]
[tls]
ca = "/etc/medevac/tls/ca.pem"
cert = "/etc/medevac/tls/host.pem"
key = "/etc/medevac/tls/host.key"
[planes]
mgmt = "127.0.0.1"
"""
JOURNALS = (AGENT, AGGREGATOR, "libvirtd.service")


class PackagesLab:
    """One machine."""

    # What only the other labs watch for.
    violations_meant = True

    def __init__(self, hosts: int = 1):
        self.root = plan.root()
        self.cache = self.root / "cache"
        self.box = Box(self.root, Path("/"))
        self.packed = Packed()

    @classmethod
    @contextlib.contextmanager
    def open(cls, hosts: int = 1, keep: bool = False):
        lab = cls(hosts)
        lab.root.mkdir(parents=True, exist_ok=True)
        with open(lab.root / "driver.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lab.box.base = root.prepare(lab.cache)
            try:
                yield lab
            finally:
                if not keep:
                    lab.down()

    def reset(self, hosts: int | None = None) -> None:
        """A machine on which nothing of ours was ever installed."""
        self.box.start(binds=(self.cache, self.packed.build.OUT))

    def down(self, purge: bool = False) -> None:
        self.box.end()
        shutil.rmtree(self.root / "packages", ignore_errors=True)
        if purge:
            shutil.rmtree(self.cache / "packages", ignore_errors=True)

    def keep_evidence(self, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        if self.box.leader() is None:
            return
        for unit in JOURNALS:
            (target / f"{unit}.log").write_text(self.box.journal(unit))
        units = self.box.exec("systemctl", "status", AGENT, AGGREGATOR, check=False)
        status = self.box.exec("medevacctl", "status", check=False) if self.has("medevacctl") else units
        (target / "aggregator.log").write_text(units.stdout + self.box.journal(AGENT) + self.box.journal(AGGREGATOR))
        (target / "medevacctl.txt").write_text(status.stdout + status.stderr)

    # -- what a person does -------------------------------------------------
    def has(self, program: str) -> bool:
        return self.box.path(f"/usr/bin/{program}").exists()

    def dpkg(self, *words: str, check: bool = True):
        return self.box.exec("dpkg", *words, check=check)

    def install(self, *programs: str) -> None:
        self.dpkg("-i", *[str(self.packed.deb(program)) for program in programs or PROGRAMS])

    def upgrade(self, *programs: str) -> None:
        self.packed.make_next()
        self.dpkg("-i", *[str(self.packed.deb(program, self.packed.next)) for program in programs or PROGRAMS])

    def set_up(self, mode: str = "observe") -> None:
        """Certificates, the keys that must be written, and a start: what the packages leave to a person."""
        tls = "/etc/medevac/tls"
        self.box.exec("medevac-aggregator", "init", "--dir", tls, "--address", "127.0.0.1", "--host", HOST)
        for made, wanted in ((f"hosts/{HOST}.pem", "host.pem"), (f"hosts/{HOST}.key", "host.key")):
            self.box.exec("cp", "-p", f"{tls}/{made}", f"{tls}/{wanted}")
        self.box.path("/etc/medevac/agent.toml").write_text(AGENT_TOML)
        configuration = self.box.path("/etc/medevac/aggregator.toml")
        more = f'{AGGREGATOR_TOML}[segments.default]\nmode = "{mode}"\n'
        configuration.write_text(configuration.read_text() + more)
        self.box.exec("systemctl", "start", AGGREGATOR, AGENT)
        self.box.wait_active(AGGREGATOR, AGENT)

    # -- what is seen -------------------------------------------------------
    def ctl(self, *words: str):
        return json.loads(self.box.says("medevacctl", "--json", *words))

    def alerts(self) -> list:
        return self.ctl("status")["alerts"]

    def host_state(self) -> str:
        hosts = [host for host in self.ctl("hosts") if host["name"] == HOST]
        return hosts[0]["state"] if hosts else "unknown"

    def wait_heard(self) -> None:
        wait_until(lambda: self.host_state() == "heard", 30, "the host is heard")

    def guest(self, autostart: bool = False) -> BoxGuest:
        guest = BoxGuest(self.box)
        guest.start(autostart)
        return guest
