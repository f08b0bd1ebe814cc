"""Power controllers: one IPMI simulator per host, with the faults of real ones.

    fence_ipmilan --(IPMI, 10.77.9.10+N)--> ipmi_sim --> chassis.py --> the host's power switch
                                                            |
                                                            +-- LAB/power.jsonl: every order, when, and what it did

The log is the truth for "nobody was fenced". Faults are a small file per
controller, read at every order.
"""

import contextlib
import json
import shutil
import time
from pathlib import Path

from . import plan, procs
from .cgroups import Group
from .net import Network

CHASSIS = plan.TESTS / "chassis.py"

LAN_CONF = """name "{name}"
set_working_mc 0x20
  startlan 1
    addr {address} 623
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa1234567{number:08x}
  endlan
  chassis_control "{python} -S -E {chassis} {lab} {name}"
  user 1 true "" "test" user 10 none md2 md5 straight
  user 2 true "{user}" "{password}" admin 10 none md2 md5 straight
"""
EMULATION = """mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
"""


def log(lab: Path, **entry) -> None:
    line = {"t": time.clock_gettime(time.CLOCK_BOOTTIME), "wall": time.time(), **entry}
    with open(lab / "power.jsonl", "a") as out:
        out.write(json.dumps(line) + "\n")


def entries(lab: Path, since: float = 0.0) -> list[dict]:
    """The power log after a moment of CLOCK_BOOTTIME."""
    with contextlib.suppress(FileNotFoundError):
        lines = (json.loads(line) for line in (lab / "power.jsonl").read_text().splitlines())
        return [line for line in lines if line["t"] >= since]
    return []


def orders(lab: Path, since: float = 0.0) -> list[dict]:
    """Only what would change a host's power: off, on, reset."""
    return [entry for entry in entries(lab, since) if entry["order"] in ("off", "on", "reset")]


class Controller:
    """The controller that is labelled with one host's name."""

    def __init__(self, lab: Path, host: str):
        self.lab, self.host = lab, host
        self.folder = lab / "bmc" / host
        self.records, self.net = procs.Records(lab), Network(lab)
        self.group = Group(lab, f"bmc-{host}")
        self.address = plan.host_address(host, "bmc")

    def start(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "state").mkdir(parents=True)
        number = plan.host_number(self.host)
        conf = LAN_CONF.format(
            name=self.host,
            address=self.address,
            number=number,
            python=plan.PYTHON,
            chassis=CHASSIS,
            lab=self.lab,
            user=plan.BMC_USER,
            password=plan.BMC_PASSWORD,
        )
        (self.folder / "lan.conf").write_text(conf)
        (self.folder / "sim.emu").write_text(EMULATION)
        argv = [
            "/usr/bin/ipmi_sim",
            "-c",
            str(self.folder / "lan.conf"),
            "-f",
            str(self.folder / "sim.emu"),
            "-s",
            str(self.folder / "state"),
            "-n",
        ]
        self.group.make()
        launch = procs.Launch(
            f"bmc-{self.host}",
            argv,
            self.lab / "log" / f"bmc-{self.host}.log",
            self.group.path,
            self.net.namespace("bmc"),
        )
        procs.spawn(self.records, launch)

    def stop(self) -> None:
        self.group.kill()
        self.records.forget(f"bmc-{self.host}")

    # -- faults -------------------------------------------------------------
    def fault(self) -> dict:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads((self.folder / "fault.json").read_text())
        return {}

    def _set(self, fault: dict) -> None:
        draft = self.folder / "fault.tmp"
        draft.write_text(json.dumps(fault))
        draft.rename(self.folder / "fault.json")

    def unreachable(self) -> None:
        """Its address answers nothing."""
        self.net.bmc_address(self.host, present=False)

    def reachable(self) -> None:
        self.net.bmc_address(self.host, present=True)

    def lies(self) -> None:
        """Takes the order, reports success, does nothing."""
        self._set({"kind": "lies"})

    def shoots(self, other: str) -> None:
        """A wrong cable: orders and readings are those of another host."""
        self._set({"kind": "shoots", "other": other})

    def slow(self, seconds: float) -> None:
        self._set({"kind": "slow", "seconds": seconds})

    def rubbish(self) -> None:
        self._set({"kind": "rubbish"})

    def well(self) -> None:
        (self.folder / "fault.json").unlink(missing_ok=True)
        (self.folder / "claimed").unlink(missing_ok=True)
        self.reachable()


def fence_agents(lab: Path) -> dict[str, Path]:
    """Fence agents that misbehave, for tests of the caller: hangs, prints rubbish, claims success."""
    bodies = {
        "fence_hangs": "sleep 3600",
        "fence_rubbish": "head -c 100000 /dev/urandom; exit 7",
        "fence_claims": "echo 'Success: Powered OFF'; exit 0",
    }
    folder = lab / "fence"
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, body in bodies.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\ncat > /dev/null\n{body}\n")
        path.chmod(0o755)
        made[name] = path
    return made
