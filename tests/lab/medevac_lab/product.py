"""The product in the lab: its programs installed on the hosts, and what it says about the site.

A part of `Lab` (see lab.py), which brings the hosts, the wires and the oracle.
"""

import shutil

from . import plan
from .aggregator import Aggregator
from .guest import Guest
from .host import Host
from .wait import TimeoutFailure, wait_until

PROGRAMS = ("medevac-agent", "medevac-aggregator", "medevacctl")


class Product:
    """What `Lab` does with the three programs under test."""

    # -- the programs under test -------------------------------------------
    @property
    def has_product(self) -> bool:
        return all((self.root / "bin" / name).exists() for name in PROGRAMS)

    def install_programs(self) -> None:
        """Copies the three programs, so that a build in the middle of a run changes nothing."""
        target = self.root / "bin"
        target.mkdir(exist_ok=True)
        for name in PROGRAMS:
            source = plan.binaries() / name
            if not source.exists():
                continue
            draft = target / f"{name}.tmp"
            shutil.copy2(source, draft)
            draft.rename(target / name)

    def install_agents(self) -> None:
        """Certificates and configuration for each agent."""
        if not self.has_product:
            return
        self.aggregator.init_pki(self.all_names)
        for host in self.all_hosts:
            self.install_agent(host)

    def install_agent(self, host: Host, aggregators: list[str] | None = None, extra: str = "") -> None:
        folder = host.folder / "etc" / "medevac"
        folder.mkdir(parents=True, exist_ok=True)
        pki = self.aggregator.pki
        for source, name in (
            (pki / "ca.pem", "ca.pem"),
            (pki / "hosts" / f"{host.name}.pem", "host.pem"),
            (pki / "hosts" / f"{host.name}.key", "host.key"),
        ):
            shutil.copy2(source, folder / name)
        addresses = aggregators or [f"https://{plan.endpoint_addresses('agg')['mgmt']}:{plan.AGGREGATOR_PORT}"]
        planes = "".join(f'{plane} = "{host.address(plane)}"\n' for plane in plan.PLANES)
        (folder / "agent.toml").write_text(
            f"aggregators = [{', '.join(chr(34) + address + chr(34) for address in addresses)}]\n"
            'state_dir = "/var/lib/medevac-agent"\nmachine_identity = "/etc/machine-id"\n'
            '[tls]\nca = "/etc/medevac/ca.pem"\ncert = "/etc/medevac/host.pem"\nkey = "/etc/medevac/host.key"\n'
            f'[libvirt]\nuri = "qemu:///system"\n[planes]\n{planes}'
            f"[probe]\nbanner_ports = [{plan.BANNER_PORT}]\n{extra}"
        )

    # -- the product --------------------------------------------------------
    def start_aggregator(self, **overrides) -> Aggregator:
        if not self.has_product:
            raise RuntimeError(f"the programs are missing in {plan.binaries()}; build them first, or set MEDEVAC_BIN")
        self.aggregator.configure(**overrides)
        self.aggregator.start()
        return self.aggregator

    def protected_site(
        self,
        count: int,
        on: list[str | Host] | None = None,
        autostart: bool = False,
        disk: str = "network",
        arguments: list[str] | None = None,
        **config,
    ) -> list[Guest]:
        """An aggregator, `count` running guests, all hosts heard, everything protected: where most cases begin."""
        if not self.has_product:
            raise RuntimeError(f"the programs are missing in {plan.binaries()}; build them first, or set MEDEVAC_BIN")
        self.aggregator.configure(**config)
        self.aggregator.start(arguments)
        guests = self.guests(count, on, autostart, disk=disk)
        self.wait_protected(guests)
        return guests

    def ctl(self, *argv: str):
        return self.aggregator.ctl(*argv)

    def host_state(self, name: str | Host) -> str:
        rows = {row["name"]: row for row in self.ctl("hosts")}
        return rows.get(str(name), {}).get("state", "absent")

    def wait_host_state(self, name: str | Host, *states: str, timeout: float = 60) -> str:
        def found():
            state = self.host_state(name)
            return state if state in states else None

        return wait_until(found, timeout, f"{name} becomes {' or '.join(states)}")

    def outcome(self, subject: str | Host, guest: Guest) -> dict:
        """What a subject's newest incident says about one guest: outcome, host, text; empty when nothing."""
        rows = self.incidents(subject=str(subject))
        if not rows:
            return {}
        incident = self.ctl("incident", max(rows, key=lambda row: row["opened_wall_ms"])["id"])
        return next((row for row in incident["instances"] if row["uuid"] == guest.uuid), {})

    def wait_incident_state(self, subject: str | Host, *states: str, timeout: float = 60) -> dict:
        """Waits until an incident about a subject is in one of the states, and returns its row."""

        def found():
            return next((row for row in self.incidents(subject=str(subject)) if row["state"] in states), None)

        return wait_until(found, timeout, f"an incident about {subject} in state {' or '.join(states)}", every=0.1)

    def instance(self, guest: Guest) -> dict:
        for row in self.ctl("instances"):
            if row["uuid"] == guest.uuid:
                return row
        return {}

    def wait_protected(self, guests: list[Guest], timeout: float = 60) -> None:
        """All hosts heard and settled, every guest protected and recoverable elsewhere."""
        alone = len(self.hosts) == 1

        def missing() -> str:
            status = self.ctl("status")
            if status["role"] != "deciding":
                return f"the aggregator is {status['role']}"
            if status["hosts_heard"] != len([host for host in self.hosts if host.up()]):
                return f"{status['hosts_heard']} hosts heard"
            rows = {row["uuid"]: row for row in self.ctl("instances")}
            for guest in guests:
                row = rows.get(guest.uuid)
                if row is None or not row["protected"] or row["state"] != "running":
                    return f"{guest}: {row}"
                if not row["recoverable_elsewhere"] and not alone:
                    return f"{guest} is not recoverable elsewhere: {row['reason']}"
            return ""

        seen = ["never asked"]

        def ready() -> bool:
            seen[0] = missing()
            return not seen[0]

        try:
            wait_until(ready, timeout, f"all hosts heard, {len(guests)} guests protected and recoverable")
        except TimeoutFailure as failure:
            raise TimeoutFailure(f"{failure}; {seen[0]}") from None

    def incidents(self, kind: str | None = None, subject: str | None = None) -> list[dict]:
        rows = self.ctl("incidents", "--all")
        return [
            row
            for row in rows
            if (kind is None or row["kind"] == kind) and (subject is None or row["subject"] == subject)
        ]

    def incident(self, subject: str | Host, timeout: float = 30) -> dict:
        """The newest incident about a subject, whole."""
        rows = wait_until(lambda: self.incidents(subject=str(subject)), timeout, f"an incident about {subject}")
        return self.ctl("incident", max(rows, key=lambda row: row["opened_wall_ms"])["id"])

    def wait_code(self, subject: str | Host, code: str, timeout: float = 60) -> dict:
        """Waits for a line with that stable code in the timeline of a subject's newest incident."""

        def found():
            for row in sorted(self.incidents(subject=str(subject)), key=lambda row: -row["opened_wall_ms"]):
                for entry in self.ctl("incident", row["id"])["timeline"]:
                    if entry["code"] == code:
                        return entry
            return None

        return wait_until(found, timeout, f"`{code}` in the incident of {subject}", every=0.25)
