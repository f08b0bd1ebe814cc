"""The lab as a whole: up, down, reset, cut, split, power-cycle.

    with Lab.open(hosts=3) as lab:
        guests = lab.guests(4)
        lab.start_aggregator(mode="act")
        lab.wait_protected(guests)
        lab.host("hv1").crash()
        lab.wait_each_runs_once(guests, timeout=60)

Labs in different folders share nothing but the machine: each has namespaces,
process groups and an oracle of its own. Only those that one run of cases makes
for itself stand side by side, and those that were told of each other
(plan.beside); anybody else's guests are a reason to refuse. `down` needs
nothing but the folder and removes all that any earlier driver made, also one
that was killed.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from . import cgroups, plan, power, prepare, procs
from .aggregator import Aggregator
from .guest import MEMORY_MIB, Guest, Stamping
from .host import Host
from .net import Network
from .oracle import Finder, Oracle
from .product import Product
from .storage import Storage
from .wait import wait_until

MARKER = "this folder was made by the medevac lab; `lab.py down --purge` removes it\n"


def foreign_virtualization(lab: Path) -> list[str]:
    """libvirt daemons and guests on this machine that neither this lab nor one beside it made."""
    ours, found = [f"/{plan.tag(lane)}/" for lane in plan.beside(lab)], []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            comm = (entry / "comm").read_text().strip()
            if comm not in ("libvirtd", "virtqemud") and not comm.startswith("qemu-system"):
                continue
            group = (entry / "cgroup").read_text()
            if any(tag in group for tag in ours):
                continue
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if comm.startswith("qemu-system") and b"-uuid" not in argv:
            continue
        found.append(f"{comm} (pid {entry.name})")
    return sorted(found)


# In software emulation more at once only makes each of them late.
BOOTS_AT_ONCE = 8


class Lab(Product):
    """N hosts, their planes, controllers, disks, the aggregator and the oracle."""

    def __init__(self, hosts: int = 3):
        if not 1 <= hosts <= plan.MAX_HOSTS:
            raise SystemExit(f"hosts={hosts}: choose 1 to {plan.MAX_HOSTS}")
        self.root = plan.root()
        self.all_names = [plan.host_name(number) for number in range(1, hosts + 1)]
        self.net = Network(self.root)
        self.storage = Storage(self.root)
        self.oracle = Oracle(self.root)
        self.all_hosts = [Host(self.root, name, self.all_names) for name in self.all_names]
        self.controllers = {name: power.Controller(self.root, name) for name in self.all_names}
        self.aggregator = Aggregator(self.root, self.all_names)
        self.choose(hosts)
        self.begun = 0.0
        # Set by cases that provoke the oracle on purpose.
        self.violations_meant = False
        self._lock = None

    def choose(self, hosts: int) -> None:
        """The first so many hosts are the site; the others stay switched off and unknown."""
        self.names = self.all_names[:hosts]
        self.hosts = self.all_hosts[:hosts]
        self.aggregator.hosts = self.names

    # -- up and down --------------------------------------------------------
    @classmethod
    @contextlib.contextmanager
    def open(cls, hosts: int = 3, keep: bool = False):
        lab = cls(hosts)
        lab.up()
        try:
            yield lab
        finally:
            if not keep:
                lab.down()

    def lock(self) -> None:
        """One driver at a time."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.root / "driver.lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(
                f"another run drives the lab in {self.root}; wait for it or choose another folder with MEDEVAC_LAB"
            ) from None

    def preflight(self) -> None:
        found = foreign_virtualization(self.root)
        if found:
            raise SystemExit(
                "the lab refuses to run here: libvirt or guests of somebody else are in use on this machine: "
                + ", ".join(found)
                + ".\nStop them (an idle libvirtd: systemctl stop 'libvirtd*'), or use a machine that has none."
            )

    def up(self) -> None:
        """From nothing, or from the leftovers of a run that crashed, to N booted hosts."""
        if os.geteuid() != 0:
            raise SystemExit("the lab makes namespaces and needs root: run it with sudo")
        self.lock()
        self.preflight()
        self.down(release=False)
        (self.root / "MADE-BY-MEDEVAC-LAB").write_text(MARKER)
        prepare.prepare(self.root)
        for name in ("log", "hosts", "bmc", "guests", "consoles"):
            (self.root / name).mkdir(exist_ok=True)
        self.install_programs()
        self.net.make(self.all_names)
        self.storage.start()
        self.oracle.start()
        for controller in self.controllers.values():
            controller.start()
        for host in self.all_hosts:
            host.install()
        self.install_agents()
        self.before_boot()
        self.boot_all()
        self.mark()

    def before_boot(self) -> None:
        """What a larger lab does, at `up` and at `reset`, when every host is installed and none is up."""

    def down(self, purge: bool = False, release: bool = True) -> None:
        """Removes everything that runs or is mounted; with `purge` the downloads too."""
        cgroups.remove_all(self.root)
        for proc in procs.Records(self.root).all():
            proc.kill()
        Network(self.root).unmake()
        prepare.remove_policy()
        for mount in reversed([line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]):
            if mount.startswith(f"{self.root}/"):
                subprocess.run(["umount", "-l", mount], check=True)
        self._remove_files(purge)
        if release and self._lock is not None:
            self._lock.close()
            self._lock = None

    def _remove_files(self, purge: bool) -> None:
        # Only a folder that says it is ours, so that a wrong MEDEVAC_LAB costs nothing.
        if not (self.root / "MADE-BY-MEDEVAC-LAB").exists():
            return
        kept = set() if purge else {"cache", "failed", "driver.lock", "MADE-BY-MEDEVAC-LAB"}
        for path in self.root.iterdir():
            if path.name in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        if purge:
            self.root.rmdir()

    def is_up(self) -> bool:
        return self.net.exists() and self.storage.running()

    # -- between cases ------------------------------------------------------
    def mark(self) -> None:
        """From here on counts: power orders, violations."""
        self.begun = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.violations_meant = False
        self.oracle.mark()

    def reset(self, hosts: int | None = None) -> None:
        """N clean hosts: no guest, no state of agents or aggregator, wires whole, controllers well."""
        self.aggregator.thaw()
        self.aggregator.kill9()
        for host in self.all_hosts:
            host.unplug()
        self.choose(hosts or len(self.names))
        self.aggregator.wipe()
        self.storage.thaw()
        self.net.forget()
        for name in plan.ENDPOINTS:
            for plane in plan.ENDPOINTS[name]:
                self.net.apply(name, plane, [f"--net={self.net.namespace(name)}"])
        for controller in self.controllers.values():
            controller.well()
        self.storage.remove_disks()
        for name in ("consoles", "guests"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir()
        for host in self.all_hosts:
            (host.folder / "agent-disabled").unlink(missing_ok=True)
            host.wipe()
        if not self.storage.running():
            self.storage.start()
        self.oracle.start()
        self.install_agents()
        self.before_boot()
        self.boot_all()
        self.mark()

    def boot_all(self) -> None:
        for host in self.hosts:
            host.boot(wait=False)
        for host in self.hosts:
            host.wait_up()

    def power_cycle(self, wait: bool = True) -> None:
        """The whole site loses power and gets it back; guests with autostart come up by themselves."""
        for host in self.hosts:
            host.crash()
        if wait:
            self.boot_all()

    # -- hosts and wires ----------------------------------------------------
    def host(self, name: str | Host) -> Host:
        return name if isinstance(name, Host) else self.all_hosts[self.all_names.index(name)]

    def _wire(self, name: str | Host, plane: str, **new) -> None:
        if isinstance(name, Host) or name in self.all_names:
            self.host(name).wire(plane, **new)
        else:
            self.net.change(name, plane, [f"--net={self.net.namespace(name)}"], True, **new)

    def _planes(self, name: str | Host) -> list[str]:
        return list(plan.endpoint_addresses(str(name)))

    def cut(self, name: str | Host, plane: str) -> None:
        """Pulls one cable. `name` is a host, or agg, store, gw, bmc."""
        self._wire(name, plane, up=False)

    def cut_all(self, name: str | Host) -> None:
        for plane in self._planes(name):
            self.cut(name, plane)

    def heal(self, name: str | Host, plane: str | None = None) -> None:
        for one in [plane] if plane else self._planes(name):
            self._wire(name, one, up=True, side=0, **{"to": True, "from": True})

    def one_way(self, name: str | Host, plane: str, lost: str) -> None:
        """`lost` is "to" (nothing arrives there) or "from" (nothing that it sends arrives)."""
        if lost not in ("to", "from"):
            raise ValueError(f"lost={lost}: to or from")
        self._wire(name, plane, **{lost: False})

    def split(self, other_side: list[str | Host], planes: list[str] | None = None) -> None:
        """The switch falls apart: those named talk only among themselves."""
        for name in other_side:
            for plane in planes or self._planes(name):
                if plane in self._planes(name):
                    self._wire(name, plane, side=1)

    def heal_all(self) -> None:
        for name in [*self.all_names, *plan.ENDPOINTS]:
            self.heal(name)

    def power_orders(self) -> list[dict]:
        """off, on, reset: what controllers were ordered since the case began."""
        return power.orders(self.root, self.begun)

    def fenced(self) -> list[str]:
        """Devices that were ordered off since the case began, in order, repeats included."""
        return [order["device"] for order in self.power_orders() if order["order"] in ("off", "reset")]

    def assert_nobody_fenced(self) -> None:
        self.assert_only_fenced()

    def assert_only_fenced(self, *names: str) -> None:
        """Every host named was ordered off at least once, and no other."""
        if set(self.fenced()) != set(names):
            raise AssertionError(f"ordered off: {self.fenced() or 'nobody'}; expected: {list(names) or 'nobody'}")

    # -- guests -------------------------------------------------------------
    def define_guest(self, name: str, host: str | Host, autostart: bool = False, **options) -> Guest:
        guest = Guest(self.root, self.storage, name, self.host(host), **{"memory_mib": MEMORY_MIB, **options})
        guest.define(autostart=autostart)
        return guest

    def guests(self, count: int, on: list[str | Host] | None = None, autostart: bool = False, **options) -> list[Guest]:
        """Defines and starts `count` guests g1.. round-robin over hosts and waits until each stamps its disk."""
        hosts = [self.host(name) for name in on] if on else self.hosts
        made = [
            self.define_guest(f"g{number + 1}", hosts[number % len(hosts)], autostart, **options)
            for number in range(count)
        ]
        self.start_guests(made)
        return made

    def start_guests(self, guests: list[Guest]) -> None:
        for begin in range(0, len(guests), BOOTS_AT_ONCE):
            batch = guests[begin : begin + BOOTS_AT_ONCE]
            starts = [(guest, guest.home.start_exec(["virsh", "-q", "start", guest.name])) for guest in batch]
            for guest, start in starts:
                out = start.communicate(timeout=120)[0]
                if start.returncode != 0:
                    raise RuntimeError(f"{guest} does not start on {guest.home}: {out.strip()}")
            for guest in batch:
                guest.wait_stamping()

    def kill_qemu(self, guest: Stamping) -> None:
        """SIGKILL to the QEMU of one guest, found by its UUID, in this lab's hosts only."""
        for qemu in Finder(self.root).look():
            if qemu.uuid == guest.uuid and qemu.host in self.names:
                os.kill(qemu.pid, signal.SIGKILL)
                return
        raise AssertionError(f"{guest} does not run")

    # -- what must hold -----------------------------------------------------
    def assert_no_violation(self) -> None:
        found = self.oracle.violations()
        if found:
            raise AssertionError("the oracle saw: " + "; ".join(found))

    def wait_each_runs_once(
        self, guests: list[Guest], timeout: float = 90, not_on: list[str | Host] | None = None
    ) -> None:
        """Every guest lives on exactly one host (none of `not_on`) and moves its stamp."""
        barred = {str(name) for name in not_on or []}

        def where() -> bool:
            return all(
                len(hosts := self.oracle.running(guest.uuid)) == 1 and hosts[0] not in barred for guest in guests
            )

        wait_until(
            where, timeout, f"each of {guests} runs on exactly one host" + (f" but {sorted(barred)}" if barred else "")
        )
        for guest in guests:
            if not guest.stamps_now():
                raise AssertionError(
                    f"{guest} has a QEMU on {self.oracle.running(guest.uuid)} but does not stamp its disk"
                )
        self.assert_no_violation()

    def keep_evidence(self, target: Path) -> None:
        """Everything that tells what happened, for a failed case."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        sources = [
            self.root / "power.jsonl",
            self.root / "oracle.jsonl",
            self.root / "agg" / "aggregator.toml",
            self.aggregator.log_path,
        ]
        sources += [host.folder / "var-log" / name for host in self.all_hosts for name in ("agent.log", "libvirtd.log")]
        for path in sources:
            if path.exists():
                prefix = f"{path.parent.parent.name}-" if path.parent.name == "var-log" else ""
                shutil.copy2(path, target / f"{prefix}{path.name}")
        if self.has_product and self.aggregator.running():
            texts = [self.aggregator.ctl_text(verb) for verb in ("status", "hosts", "instances", "incidents")]
            with contextlib.suppress(Exception):
                for row in self.ctl("incidents", "--all"):
                    texts += [
                        self.aggregator.ctl_text("incident", row["id"]),
                        self.aggregator.ctl_text("explain", row["id"]),
                    ]
            (target / "medevacctl.txt").write_text("\n".join(texts))
