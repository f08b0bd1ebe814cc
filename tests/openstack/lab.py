#!/usr/bin/python3
"""The OpenStack lab by hand: bring it up, look at it, break it, remove it.

lab.py prepare                   install, download and unpack what is needed, build the guest
lab.py up [N]                    a cloud with N hypervisors (3), with agents where the programs are built
lab.py status                    hosts, services and their memory, servers, who runs where
lab.py boot N [HOST] [ROOT]      N servers, on one host or round-robin; ROOT: network, shared, local
lab.py list                      servers as Nova has them
lab.py delete NAME|all
lab.py force-down|force-up|disable|enable HOST
lab.py evacuate NAME|HOST [TO]   one server, or all of a host
lab.py stop|start|kill|freeze|thaw|restart SERVICE    of the control plane, or nova-compute HOST
lab.py fault KIND [KEY=VALUE...] | clear | requests   the proxy; kinds: delay seconds=, error status=, cut,
                                 cut-after, hang, html status=, stale, short-list; times=, method=, path=
lab.py openstack WORDS...        the openstack command
lab.py floor HOST [IN_FLIGHT]    the bare client's time to evacuate a host that is forced down
lab.py crash|unplug|boot-host|shutdown HOST; cut|heal NAME [PLANE]; exec HOST CMD...; aggregator; ctl WORDS...
lab.py down [--purge]            end and remove everything; --purge also the downloads
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lab")]

from medevac_cloud import CloudLab, brief, floor  # noqa: E402
from medevac_cloud.prepare import Tree  # noqa: E402
from medevac_cloud.services import ALL, memory_mib  # noqa: E402
from medevac_lab import plan, prepare  # noqa: E402

CONTROL = ("stop", "start", "kill", "freeze", "thaw", "restart")
ON_HOST = {"crash": "crash", "unplug": "unplug", "boot-host": "boot", "shutdown": "shutdown"}
OF_SERVICE = {"force-down": "force_down", "force-up": "force_up", "disable": "disable", "enable": "enable"}


def existing() -> CloudLab:
    """The lab that is up, with as many hosts as it was made with."""
    made = sorted(path.name for path in (plan.root() / "hosts").glob("hv*") if path.is_dir())
    lab = CloudLab(len(made) or 1)
    if not made or not lab.is_up():
        raise SystemExit("no lab is up; begin with: lab.py up")
    return lab


def status(lab: CloudLab) -> None:
    cloud = lab.cloud
    known = {row["host"]: row for row in cloud.services()} if cloud.running("nova-api") else {}
    print(f"{'host':6} {'power':6} {'runs':5} {'agent':6} {'nova-compute':13} nova")
    for host in lab.hosts:
        runs = host.services() if host.up() and not host.group.frozen() else {}
        row = known.get(cloud.compute(host).name)
        said = f"{row['state']} {row['status']}{' forced down' if row['forced_down'] else ''}" if row else "-"
        words = ["up" if name in runs else "-" for name in ("agent", "nova-compute")]
        print(f"{host.name:6} {host.power:6} {'up' if host.up() else 'dead':5} {words[0]:6} {words[1]:13} {said}")
    memory = memory_mib(cloud.control)
    print(" ".join(f"{name} {f'{memory[name]} MiB' if cloud.running(name) else 'DOWN'};" for name in ALL))
    servers(lab)
    for violation in lab.oracle.violations():
        print(f"VIOLATION: {violation}")


def servers(lab: CloudLab) -> None:
    for row in sorted(lab.cloud.servers(), key=lambda row: row["name"]):
        runs = " ".join(lab.oracle.running(row["id"])) or "nowhere"
        print(f"{brief(row)}; QEMU runs {runs}")


def named(lab: CloudLab, word: str) -> list[str]:
    """The ids of a server, of a host's servers, or of all."""
    rows = lab.cloud.servers()
    keys = ("id", "name", "OS-EXT-SRV-ATTR:host")
    found = [row["id"] for row in rows if word == "all" or word in [row[key] for key in keys]]
    if not found:
        raise ValueError(f"no server or host is called {word}")
    return found


def fault(lab: CloudLab, kind: str, *words: str) -> None:
    given: dict = {"seconds": 5.0, "status": 503, "forward": False, "headers": {}, "answer": {}, "keep": 0}
    for word in words:
        key, _, value = word.partition("=")
        given[key] = float(value) if key == "seconds" else int(value) if value.isdigit() else value
    lab.cloud.proxy.fault(kind, **given)


def use(lab: CloudLab, verb: str, words: list[str]) -> None:
    cloud = lab.cloud
    if verb == "boot":
        made = cloud.boot(int(words[0]), *words[1:2], root=(words[2:] or ["network"])[0], name=f"s{os.getpid()}-")
        print(*(f"{server} {server.uuid}" for server in made), sep="\n")
    elif verb in ("delete", "evacuate"):
        for identity in named(lab, words[0]):
            getattr(cloud, verb)(identity, *words[1:])
    elif verb in OF_SERVICE:
        getattr(cloud, OF_SERVICE[verb])(words[0])
    elif verb in CONTROL:
        part = cloud.compute(words[1]) if words[0] == "nova-compute" else cloud
        getattr(part, verb)(*([] if part is not cloud else words[:1]))
    elif verb == "fault":
        fault(lab, *words)
    elif verb == "clear":
        cloud.proxy.clear()
    elif verb == "requests":
        print(*(json.dumps(entry) for entry in cloud.proxy.requests()), sep="\n")
    elif verb == "floor":
        print(json.dumps(floor.evacuate_all(cloud, words[0], *map(int, words[1:2])).summary(), indent=1))
    elif verb == "openstack":
        script = f'. {cloud.folder}/openrc; exec "$@"'
        os.execvp("nsenter", [*inside(lab, "cloud"), "sh", "-c", script, "sh", "openstack", *words])
    else:
        use_lab(lab, verb, words)


def inside(lab: CloudLab, name: str) -> list[str]:
    return lab.host(name).enter() if name in lab.all_names else ["nsenter", f"--net={lab.net.namespace(name)}"]


def use_lab(lab: CloudLab, verb: str, words: list[str]) -> None:
    """What every lab can do."""
    if verb == "status":
        status(lab)
    elif verb == "list":
        servers(lab)
    elif verb in ON_HOST:
        getattr(lab.host(words[0]), ON_HOST[verb])()
    elif verb == "cut" and len(words) == 1:
        lab.cut_all(words[0])
    elif verb in ("cut", "heal"):
        getattr(lab, verb)(*words[:2])
    elif verb == "exec":
        command = [*inside(lab, words[0]), *(words[1:] or ["bash"])]
        os.execvp(command[0], command)
    elif verb == "aggregator":
        lab.start_aggregator()
    elif verb == "ctl":
        print(lab.aggregator.ctl_text(*words), end="")
    else:
        raise ValueError("there is no such verb")


def main() -> int:
    verb, words = (sys.argv[1:2] or ["help"])[0], sys.argv[2:]
    try:
        if verb == "help":
            print(__doc__)
        elif verb == "prepare":
            prepare.prepare(plan.root())
            Tree(plan.root()).prepare()
        elif verb == "up":
            CloudLab(int(words[0]) if words else 3).up()
            status(existing())
        elif verb == "down":
            lab = CloudLab(1)
            lab.lock()
            lab.down(purge="--purge" in words)
        else:
            use(existing(), verb, words)
    except (IndexError, ValueError, TypeError) as error:
        print(f"lab.py {verb}: {error}; see lab.py help", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
