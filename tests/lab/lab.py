#!/usr/bin/python3
"""The lab by hand: bring it up, look at it, break it, remove it.

lab.py prepare                   install and download what is needed, build the guest
lab.py up [N]                    N hosts (3), with agents where the programs are built
lab.py guests COUNT              define and start guests g1.. round-robin
lab.py aggregator [MODE]         start the aggregator (act)
lab.py status                    hosts, guests, who runs where, power orders
lab.py exec HOST CMD...          run a command on a host, or in agg, store, gw, bmc
lab.py ctl WORDS...              medevacctl against the lab's aggregator
lab.py crash|unplug|boot|shutdown|freeze|thaw HOST
lab.py cut|heal NAME [PLANE]     NAME: a host, agg, store or gw; PLANE: mgmt, storage, tenant
lab.py kill HOST SERVICE         SIGKILL: agent, libvirtd, virtlogd, banner
lab.py start HOST SERVICE
lab.py down [--purge]            end and remove everything; --purge also the downloads
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from medevac_lab import Lab, plan, power, prepare  # noqa: E402
from medevac_lab.lab import wait_until  # noqa: E402
from medevac_lab.oracle import Finder  # noqa: E402


def existing() -> Lab:
    """The lab that is up, with as many hosts as it was made with."""
    made = sorted(path.name for path in (plan.root() / "hosts").glob("hv*") if path.is_dir())
    lab = Lab(len(made) or 1)
    if not made or not lab.is_up():
        raise SystemExit("no lab is up; begin with: lab.py up")
    return lab


def status(lab: Lab) -> None:
    alive: dict[str, list[str]] = {}
    for qemu in Finder(lab.root).look():
        alive.setdefault(qemu.host, []).append(qemu.name)
    print(f"{'host':6} {'power':6} {'runs':7} {'agent':7} {'address':12} guests")
    for host in lab.hosts:
        runs = "frozen" if host.group.frozen() else "up" if host.up() else "dead"
        agent = "-"
        if runs == "up":
            agent = "up" if "agent" in host.services() else "down"
        names = " ".join(sorted(alive.get(host.name, [])))
        print(f"{host.name:6} {host.power:6} {runs:7} {agent:7} {host.address():12} {names}")
    for name, runs in (("aggregator", lab.aggregator.running()), ("oracle", lab.oracle.running_now())):
        print(f"{name} {'runs' if runs else 'does not run'}")
    for order in power.orders(lab.root)[-8:]:
        acts_on = order["acts_on"] or "nothing"
        print(f"power: the controller of {order['device']} was ordered {order['order']}, acts on {acts_on}")
    for violation in lab.oracle.violations():
        print(f"VIOLATION: {violation}")


def start_guests(lab: Lab, count: int) -> None:
    guests = [
        lab.define_guest(f"g{number + 1}", lab.hosts[number % len(lab.hosts)], autostart=True)
        for number in range(count)
    ]
    lab.start_guests(guests)
    for guest in guests:
        print(f"{guest.name} {guest.uuid} runs on {guest.home}")


def enter(lab: Lab, name: str, argv: list[str]) -> None:
    command = argv or ["bash"]
    prefix = lab.host(name).enter() if name in lab.all_names else ["nsenter", f"--net={lab.net.namespace(name)}"]
    os.execvp(prefix[0], [*prefix, *command])


def on_host(lab: Lab, verb: str, words: list[str]) -> None:
    host = lab.host(words[0])
    if verb == "kill":
        host.kill_service(words[1])
    elif verb == "start":
        host.start_service(words[1])
    else:
        getattr(host, verb)()


def on_wire(lab: Lab, verb: str, words: list[str]) -> None:
    if verb == "heal":
        lab.heal(words[0], words[1] if len(words) > 1 else None)
    elif len(words) > 1:
        lab.cut(words[0], words[1])
    else:
        lab.cut_all(words[0])


def make(verb: str, words: list[str]) -> None:
    if verb == "prepare":
        prepare.prepare(plan.root())
    elif verb == "up":
        Lab(int(words[0]) if words else 3).up()
        status(existing())
    elif verb == "down":
        down(purge="--purge" in words)


def down(purge: bool) -> None:
    """The lab of MEDEVAC_LAB, and what a run of cases left beside it."""
    first, *others = plan.lanes(plan.root())
    for root in [first, *(lane for lane in others if lane.exists())]:
        os.environ["MEDEVAC_LAB"] = str(root)
        lab = Lab(1)
        lab.lock()
        lab.down(purge=purge)


def use(lab: Lab, verb: str, words: list[str]) -> None:
    if verb == "status":
        status(lab)
    elif verb == "guests":
        start_guests(lab, int(words[0]))
    elif verb == "aggregator":
        lab.start_aggregator(mode=words[0] if words else "act")
        wait_until(lambda: lab.ctl("status")["hosts_heard"] == len(lab.hosts), 60, "all hosts heard")
    elif verb == "exec":
        enter(lab, words[0], words[1:])
    elif verb == "ctl":
        print(lab.aggregator.ctl_text(*words), end="")
    elif verb in ("cut", "heal"):
        on_wire(lab, verb, words)
    else:
        on_host(lab, verb, words)


def main() -> int:
    verb, words = (sys.argv[1:2] or ["help"])[0], sys.argv[2:]
    known = (
        "status",
        "guests",
        "aggregator",
        "exec",
        "ctl",
        "cut",
        "heal",
        "crash",
        "unplug",
        "boot",
        "shutdown",
        "freeze",
        "thaw",
        "kill",
        "start",
    )
    try:
        if verb in ("prepare", "up", "down"):
            make(verb, words)
        elif verb in known:
            use(existing(), verb, words)
        else:
            print(__doc__)
            return 0 if verb == "help" else 2
    except (IndexError, ValueError) as error:
        print(f"lab.py {verb}: {error}; see lab.py help", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
