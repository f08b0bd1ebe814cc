"""The lab's wires: planes, cuts, one-way cuts and a switch split in two.

          side 0             side 1
        [ mgmt ]           [ mgmt2 ]        two bridges per plane; together they are one switch,
         |  |  |            |               apart they are that switch split in the middle
      agg hv1 hv2          hv3

The state of every wire is kept on disk, so that a cut cable stays cut when
its host reboots, and so that a power controller that boots a host (another
process than the driver) plugs it in as it was.
"""

import contextlib
import fcntl
import json
import os
import subprocess
from pathlib import Path

from . import plan

# `ip` answers within milliseconds; a hang means a broken machine.
IP_TIMEOUT_S = 20.0
FREE = {"up": True, "side": 0, "to": True, "from": True}
FIXED_NAMESPACES = ("switch", "agg", "store", "gw", "bmc", "cloud")


class Network:
    """All links of one lab."""

    def __init__(self, lab: Path):
        self.lab = lab
        self.folder = lab / "netns"
        self.state_path = lab / "net.json"

    # -- namespaces ---------------------------------------------------------
    def namespace(self, name: str) -> Path:
        return self.folder / name

    def exists(self) -> bool:
        mounts = Path("/proc/self/mountinfo").read_text()
        return all(f" {self.namespace(name)} " in mounts for name in FIXED_NAMESPACES)

    def _ip(self, namespace: list[str], lines: list[str], force: bool = False) -> None:
        command = ["nsenter", *namespace, "ip", *(["-force"] if force else []), "-batch", "-"]
        done = subprocess.run(
            command, input="\n".join(lines) + "\n", text=True, capture_output=True, timeout=IP_TIMEOUT_S
        )
        if done.returncode != 0 and not force:
            raise RuntimeError(f"ip in {namespace}: {done.stderr.strip()}\n" + "\n".join(lines))

    def switch(self, lines: list[str], force: bool = False) -> None:
        self._ip([f"--net={self.namespace('switch')}"], lines, force)

    def run_in(self, name: str, argv: list[str], **options) -> subprocess.CompletedProcess:
        """Runs a command in one of the fixed namespaces."""
        return subprocess.run(["nsenter", f"--net={self.namespace(name)}", *argv], **options)

    def make(self, hosts: list[str]) -> None:
        """Namespaces, bridges, and the endpoints that are no hosts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in FIXED_NAMESPACES:
            target = self.namespace(name)
            target.touch()
            subprocess.run(["unshare", f"--net={target}", "true"], check=True, timeout=IP_TIMEOUT_S)
            self._quiet([f"--net={target}"])
        lines = []
        for plane in plan.OCTETS:
            for bridge in (plane, plane + "2"):
                lines += [f"link add {bridge} type bridge stp_state 0 mcast_snooping 0", f"link set {bridge} up"]
        self.switch(lines)
        with self._state() as state:
            state.clear()
        for name in plan.ENDPOINTS:
            self._plug(
                name, [f"--net={self.namespace(name)}"], str(self.namespace(name)), plan.endpoint_addresses(name)
            )
        self._make_bmc(hosts)

    def _quiet(self, namespace: list[str]) -> None:
        """No IPv6 in the lab: its address detection only delays and clutters."""
        conf = "/proc/sys/net/ipv6/conf"
        script = f"echo 1 > {conf}/all/disable_ipv6; echo 1 > {conf}/default/disable_ipv6; ip link set lo up"
        subprocess.run(["nsenter", *namespace, "sh", "-c", script], check=True, timeout=IP_TIMEOUT_S)

    def _make_bmc(self, hosts: list[str]) -> None:
        """One wire for all controllers, an address for each."""
        target = self.namespace("bmc")
        self._plug("bmc", [f"--net={target}"], str(target), {})
        self._link("bmc", "bmc", str(target))
        addresses = [f"addr add {plan.host_address(host, 'bmc')}/24 dev bmc" for host in hosts]
        self._ip([f"--net={target}"], ["link set bmc up", *addresses])
        self.apply("bmc", "bmc")

    # -- plugging in --------------------------------------------------------
    def _link(self, name: str, plane: str, peer: str) -> None:
        # A host that died a moment ago may still hold its old link.
        self.switch([f"link del {name}-{plane}"], force=True)
        self.switch(
            [f"link add {name}-{plane} type veth peer name {plane} address {plan.mac(name, plane)} netns {peer}"]
        )

    def _plug(self, name: str, namespace: list[str], peer: str, addresses: dict[str, str]) -> None:
        inside = []
        for plane, address in addresses.items():
            self._link(name, plane, peer)
            inside += [f"addr add {address}/24 dev {plane}", f"link set {plane} up"]
        if inside:
            self._ip(namespace, inside)
        for plane in addresses:
            self.apply(name, plane, namespace)

    def plug_host(self, name: str, pid: int) -> None:
        """Gives the namespace of a booting host its wires, in the state they are in."""
        inside = ["-t", str(pid), "-n"]
        self._quiet(inside)
        self._plug(name, inside, str(pid), plan.endpoint_addresses(name))

    def power_gone(self, name: str) -> None:
        """All wires of a host go dark at once; whether a cable was cut is another matter and stays as it is."""
        self.switch([f"link set {name}-{plane} down" for plane in plan.PLANES], force=True)

    # -- the state of wires -------------------------------------------------
    @contextlib.contextmanager
    def _state(self):
        with open(self.lab / "net.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read()
            yield state
            draft = self.state_path.with_suffix(".tmp")
            draft.write_text(json.dumps(state, indent=1))
            draft.rename(self.state_path)

    def _read(self) -> dict:
        try:
            return json.loads(self.state_path.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def wire(self, name: str, plane: str) -> dict:
        return {**FREE, **self._read().get(name, {}).get(plane, {})}

    def apply(self, name: str, plane: str, inside: list[str] | None = None) -> None:
        """Makes one wire what the state says. `inside`: how to enter the endpoint's own namespace."""
        wire = self.wire(name, plane)
        device = f"{name}-{plane}"
        bridge = plane + ("2" if wire["side"] else "")
        self.switch([f"link set {device} master {bridge}", f"link set {device} {'up' if wire['up'] else 'down'}"])
        if wire["up"]:
            # A port that joins a bridge waits for the kernel's link watcher, up to a second; a real switch doesn't.
            self.run_in(
                "switch",
                ["bridge", "link", "set", "dev", device, "state", "3"],
                capture_output=True,
                timeout=IP_TIMEOUT_S,
            )
        self._drop([f"--net={self.namespace('switch')}"], device, not wire["to"])
        if inside is not None:
            self._drop(inside, plane, not wire["from"])

    def _drop(self, namespace: list[str], device: str, wanted: bool) -> None:
        """A queue of length zero: everything that leaves through this device is lost."""
        show = ["nsenter", *namespace, "tc", "qdisc", "show", "dev", device]
        now = "pfifo" in subprocess.run(show, capture_output=True, text=True, timeout=IP_TIMEOUT_S).stdout
        if wanted == now:
            return
        verb = ["replace", "dev", device, "root", "pfifo", "limit", "0"] if wanted else ["del", "dev", device, "root"]
        subprocess.run(
            ["nsenter", *namespace, "tc", "qdisc", *verb], check=True, capture_output=True, timeout=IP_TIMEOUT_S
        )

    def change(self, name: str, plane: str, inside: list[str] | None, powered: bool, **new) -> None:
        """Changes one wire; a host without power only has its state changed."""
        with self._state() as state:
            state.setdefault(name, {})[plane] = {**self.wire(name, plane), **new}
        if powered:
            self.apply(name, plane, inside)

    def forget(self) -> None:
        """Every wire as it was made; the next plug or apply makes it so."""
        with self._state() as state:
            state.clear()

    def bmc_address(self, host: str, present: bool) -> None:
        """The address of one controller goes, so that nothing answers, or comes back."""
        verb = "add" if present else "del"
        namespace = [f"--net={self.namespace('bmc')}"]
        self._ip(namespace, [f"addr {verb} {plan.host_address(host, 'bmc')}/24 dev bmc"], force=True)

    def unmake(self) -> None:
        """Unpins the namespaces; the kernel then removes every link in them."""
        for name in FIXED_NAMESPACES:
            target = self.namespace(name)
            while f" {target} " in Path("/proc/self/mountinfo").read_text():
                subprocess.run(["umount", str(target)], check=True, timeout=IP_TIMEOUT_S)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
