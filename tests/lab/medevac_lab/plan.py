"""The lab's plan: who has which address, and where everything lies on disk.

                       switch  (a namespace that holds nothing but bridges)
        mgmt 10.77.1.0/24   storage 10.77.2.0/24   tenant 10.77.3.0/24   bmc 10.77.9.0/24
     ------+-------------------+----------------------+--------------------+------
           |                   |                      |                    |
   hvN     .10+N               .10+N                  .10+N                -
   agg     .1                  .1                     .1                   .1    the aggregator
   store   -                   .2                     -                    -     nbdkit, the guests' disks
   gw      .254                .254                   .254                 -     reference address
   bmc     -                   -                      -                    .10+N one power controller per host
   cloud   .3                  -                      -                    -     an OpenStack's control plane, if any

Nothing here touches the machine's own network: every link lives between
namespaces that the lab made.
"""

import hashlib
import os
from pathlib import Path

# The most hosts that one machine is asked to carry: the address plan has room
# for 200, the memory of a small machine for about this many.
MAX_HOSTS = 8

# Labs side by side, each in a folder of its own and shut off from the others
# by its namespaces: more of them only wait for the same processors and memory.
MAX_LANES = 4

# The planes that carry the hosts' own traffic, and the third octet of each.
PLANES = {"mgmt": 1, "storage": 2, "tenant": 3}
# The controllers' network: only the aggregator reaches it.
BMC_PLANE = "bmc"
OCTETS = {**PLANES, BMC_PLANE: 9}

AGGREGATOR_PORT = 15869
NBD_PORT = 10809
BANNER_PORT = 22
BMC_USER = "admin"
# Long enough to be found wherever it must not be.
BMC_PASSWORD = "canary-5b1f9e27"

# Endpoints that are no hosts: plane -> last octet.
ENDPOINTS = {
    "agg": {"mgmt": 1, "storage": 1, "tenant": 1, "bmc": 1},
    "store": {"storage": 2},
    "gw": {"mgmt": 254, "storage": 254, "tenant": 254},
    "cloud": {"mgmt": 3},
}

TESTS = Path(__file__).resolve().parent.parent
PROJECT = TESTS.parent.parent
PYTHON = "/usr/bin/python3"

# The lab hides these folders of a host behind the host's own; a lab that lay
# below one of them would hide itself.
HIDDEN_IN_HOSTS = ("/etc", "/run", "/var/run", "/var/lib", "/var/log", "/var/cache", "/proc", "/sys", "/dev")


def root() -> Path:
    """The one folder that holds everything the lab makes."""
    path = Path(os.environ.get("MEDEVAC_LAB", "/var/tmp/medevac-lab")).resolve()
    for hidden in HIDDEN_IN_HOSTS:
        if path == Path(hidden) or Path(hidden) in path.parents:
            raise SystemExit(
                f"MEDEVAC_LAB={path}: choose a folder outside {hidden}, which each lab host replaces by its own"
            )
    if path == Path("/") or len(path.parts) < 3:
        raise SystemExit(f"MEDEVAC_LAB={path}: choose a folder of its own, at least two levels deep; `down` removes it")
    return path


def lanes(root: Path) -> list[Path]:
    """The folders of all labs that may run side by side with the one in `root`, the first one first."""
    first = root.with_name(root.name.split(".lane")[0])
    return [first] + [root.with_name(f"{first.name}.lane{number}") for number in range(2, MAX_LANES + 1)]


def beside(root: Path) -> list[Path]:
    """The labs that the one in `root` may stand beside: its lanes, and those that MEDEVAC_LAB_BESIDE names.

    Both sides must be told of each other: the one that is not refuses to begin.
    """
    named = os.environ.get("MEDEVAC_LAB_BESIDE", "").split(":")
    others = [lane for path in named if path for lane in lanes(Path(path).resolve())]
    return [*lanes(root), *others]


def binaries() -> Path:
    """Where the three programs under test are."""
    return Path(os.environ.get("MEDEVAC_BIN", PROJECT / "target" / "debug")).resolve()


def tag(lab: Path) -> str:
    """A short name of this lab, for the cgroup that holds its processes."""
    return "mdv-" + hashlib.sha256(str(lab).encode()).hexdigest()[:8]


def host_name(number: int) -> str:
    return f"hv{number}"


def host_number(name: str) -> int:
    return int(name.removeprefix("hv"))


def host_address(name: str, plane: str) -> str:
    return f"10.77.{OCTETS[plane]}.{10 + host_number(name)}"


def endpoint_addresses(name: str) -> dict[str, str]:
    """plane -> address of an endpoint or of a host."""
    if name in ENDPOINTS:
        return {plane: f"10.77.{OCTETS[plane]}.{last}" for plane, last in ENDPOINTS[name].items()}
    return {plane: host_address(name, plane) for plane in PLANES}


def mac(name: str, plane: str) -> str:
    """Fixed, because a changed one leaves a stale neighbour entry and a host that is back but not reachable."""
    kinds = list(ENDPOINTS) + ["bmc"]
    last = 0xE0 + kinds.index(name) if name in kinds else host_number(name)
    return f"52:54:00:77:{OCTETS[plane]:02x}:{last:02x}"
