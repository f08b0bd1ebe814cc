#!/usr/bin/python3
"""Figures of medevac on a real Nova, beside a bare client on the same Nova, with the machine's load.

    bench.py [--counts 1,10] [--runs N] [--only lab|fake]

    fake Nova, no lab      10,000 servers known  -> the aggregator's memory
                           500 servers, no limit -> evacuations a second
    real Nova, N servers   host killed -> proof --a--> first evacuation asked for --> all ACTIVE elsewhere
                                             \\-- told Nova: forced down --b--> all ACTIVE elsewhere
    the floor              host killed, forced down by hand ---------------c--> all ACTIVE elsewhere

a is the price of knowing before acting; b against c what medevac costs beyond a
client that only asks for evacuations, ten at a time (medevac_cloud/floor.py).
Evacuations are what the fault proxy has seen arriving; proofs are from the
incident's own timeline, in milliseconds of the same machine's clock. medevac's
requests go through that proxy, which costs it some milliseconds each; the
floor's do not. Masakari is no part of this: its engine is not run here.

A figure above its limit is shown as such and is no failure: the machine may be
a slow one. Exit code 0 unless something was lost or evacuated twice.
"""

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The tables are the other bench's, which has the same name: its folder goes first.
sys.path.insert(0, str(HERE.parent / "lab"))
from bench import TIMING, Meter, Table, conclude, percentile, resident_mb, say  # noqa: E402

sys.path.insert(0, str(HERE))
from medevac_cloud import CloudLab, floor, is_active  # noqa: E402
from medevac_cloud.rescue import watched  # noqa: E402
from medevac_lab import plan, wait_until  # noqa: E402

SOURCE = "hv1"
# One server takes two seconds: looking twice a second would be most of the difference.
POLL_FEW_S, POLL_MANY_S, FEW = 0.2, 0.5, 5
LIMIT_S = 600.0
FIRST_POST_MS = 50.0
# Of the floor.
RATIO_PERCENT = 115.0
# Fifty a second.
EACH_MS = 20.0
KNOWN_SERVERS, KNOWN_HOSTS, KNOWN_MB = 10_000, 200, 100.0
# All servers are read once a minute: the second reading is what stays.
KNOWN_FOR_S = 75.0
PACE_LIMIT_S = 400


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def from_wall_ms(wall_ms: float) -> float:
    """The same moment by the clock that the proxy writes down."""
    return wall_ms / 1000 - time.time() + now()


def poll_for(count: int) -> float:
    return POLL_FEW_S if count < FEW else POLL_MANY_S


# -- one run -------------------------------------------------------------------
@dataclass
class Rescue:
    """The moments of one host's death, by one clock."""

    proof: float
    force_down_sent: float
    forced_down: float
    first_post: float
    active: float


def wait_elsewhere(lab: CloudLab, servers: list, poll: float) -> float:
    """When the last of them was seen ACTIVE elsewhere; looked for as the floor looks."""
    wanted, deadline = {server.uuid for server in servers}, now() + LIMIT_S
    while now() < deadline:
        rows = [row for row in lab.cloud.servers() if row["id"] in wanted and is_active(row)]
        if sum(row["OS-EXT-SRV-ATTR:host"] != SOURCE for row in rows) == len(wanted):
            return now()
        time.sleep(poll)
    raise AssertionError(f"not all of {len(wanted)} servers are ACTIVE elsewhere after {LIMIT_S:.0f} s")


def requests_since(lab: CloudLab, begun: float) -> list[dict]:
    return [entry for entry in lab.cloud.proxy.requests() if entry["t"] >= begun]


def forced_down_by(entry: dict) -> bool:
    return entry["method"] == "PUT" and '"forced_down":true' in entry["body"].replace(" ", "")


def rescue(lab: CloudLab, table: Table, count: int) -> Rescue:
    """medevac's: from the death of a host with so many servers to the last of them elsewhere."""
    lab.reset(3)
    servers = lab.cloud.boot(count, host=SOURCE)
    watched(lab, servers, timing=TIMING)
    begun = now()
    lab.host(SOURCE).crash()
    active = wait_elsewhere(lab, servers, poll_for(count))
    entry = next(entry for entry in lab.incident(SOURCE)["timeline"] if entry["code"] == "proof")
    proof = from_wall_ms(entry["wall_ms"])
    told = next(entry for entry in requests_since(lab, begun) if forced_down_by(entry))
    posts = lab.cloud.proxy.evacuations()
    table.check(len(posts) == count, f"{len(posts)} evacuations were asked for, of {count} servers")
    table.check(len({post["server"] for post in posts}) == count, "a server was asked for twice")
    table.check(not lab.oracle.violations(), f"the oracle saw: {lab.oracle.violations()}")
    lab.assert_only_fenced(SOURCE)
    show_requests(lab, proof, posts[0]["t"])
    return Rescue(proof, told["t"], told["t"] + told["took"], posts[0]["t"], active)


def show_requests(lab: CloudLab, proof: float, until: float) -> None:
    """Where the time between the proof and the first evacuation went, request by request."""
    for entry in requests_since(lab, proof - 0.5):
        if entry["t"] <= until:
            line = f"{entry['method']} {entry['path'].split('/v2.1')[-1][:70]}"
            say(f"    {1000 * (entry['t'] - proof):7.0f} ms  {line}, took {1000 * entry.get('took', 0):.0f} ms")


def bare(lab: CloudLab, table: Table, count: int) -> float:
    """The floor's: seconds from the host being forced down to the last server elsewhere."""
    lab.reset(3)
    servers = lab.cloud.boot(count, host=SOURCE)
    lab.host(SOURCE).crash()
    lab.cloud.force_down(SOURCE)
    forced = time.monotonic()
    run = floor.evacuate_all(lab.cloud, SOURCE, poll=poll_for(count))
    table.check(not run.failed and len(run.active) == len(servers), f"the floor lost servers: {run.failed}")
    return run.begun + max(run.active.values(), default=LIMIT_S) - forced


def on_real_nova(lab: CloudLab, table: Table, count: int, runs: int) -> None:
    meter, rescues, floors = Meter(), [], []
    for number in range(runs):
        floors.append(bare(lab, table, count))
        rescues.append(rescue(lab, table, count))
        took = rescues[-1].active - rescues[-1].forced_down
        say(f"  {count} servers, run {number + 1} of {runs}: medevac {took:.2f} s, the floor {floors[-1]:.2f} s")
    what = f"{count} server{'s' if count > 1 else ''}"

    def between(first: str, second: str, scale: float = 1.0) -> list[float]:
        return [(getattr(run, second) - getattr(run, first)) * scale for run in rescues]

    first_post = between("proof", "first_post", 1000)
    table.add(f"{what}: proof -> first evacuation asked for", "ms", first_post, meter, ("p50", FIRST_POST_MS))
    table.add(f"{what}:   proof -> Nova is told it is down", "ms", between("proof", "force_down_sent", 1000), meter)
    table.add(f"{what}:   Nova takes that it is down", "ms", between("force_down_sent", "forced_down", 1000), meter)
    table.add(f"{what}:   that -> first evacuation", "ms", between("forced_down", "first_post", 1000), meter)
    table.add(f"{what}: proof -> all ACTIVE elsewhere", "s", between("proof", "active"), meter)
    table.add(f"{what}: forced down -> all ACTIVE, medevac", "s", between("forced_down", "active"), meter)
    table.add(f"{what}: forced down -> all ACTIVE, the floor", "s", floors, meter)
    ratio = 100 * percentile(between("forced_down", "active"), 0.5) / percentile(floors, 0.5)
    table.add(f"{what}: medevac against the floor", "% of floor", [ratio], meter, ("max", RATIO_PERCENT))


# -- a Nova that is no limit ------------------------------------------------------
def example(name: str) -> Path:
    path = plan.binaries() / "examples" / name
    if not path.exists():
        raise SystemExit(f"{path} is missing; `make bench-openstack` builds it first")
    return path


@contextlib.contextmanager
def running(argv: list[str], log: Path) -> Iterator[subprocess.Popen]:
    with open(log, "a") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def site_config(folder: Path) -> Path:
    """An aggregator of its own, on loopback, with no host and no device."""
    keys = {"ca": "ca.pem", "cert": "aggregator.pem", "key": "aggregator.key"}
    path = folder / "aggregator.toml"
    path.write_text(
        f'listen = "127.0.0.1:{free_port()}"\nsocket = "{folder}/sock"\nstate_dir = "{folder}/state"\n'
        'cloud = "openstack"\n[tls]\n'
        + "".join(f'{key} = "{folder}/pki/{name}"\n' for key, name in keys.items())
        + f'[openstack]\nclouds_file = "{folder}/clouds.yaml"\ncloud = "fake"\n'
    )
    return path


def known(table: Table) -> None:
    """Memory of the aggregator that knows many servers, none of which has an agent."""
    binary, ctl = plan.binaries() / "medevac-aggregator", plan.binaries() / "medevacctl"
    with tempfile.TemporaryDirectory(prefix="medevac-bench-") as name:
        folder = Path(name)
        (folder / "state").mkdir(mode=0o700)
        subprocess.run([binary, "init", "--dir", folder / "pki"], check=True, capture_output=True, timeout=60)
        cloud = [str(example("fake_cloud")), str(folder / "clouds.yaml"), str(KNOWN_HOSTS), str(KNOWN_SERVERS)]
        config, log = site_config(folder), folder / "log"

        def total() -> int:
            said = subprocess.run([ctl, "--socket", folder / "sock", "--json", "status"], capture_output=True)
            return json.loads(said.stdout)["instances_total"] if said.returncode == 0 else 0

        with running(cloud, log):
            wait_until(lambda: (folder / "clouds.yaml").exists(), 60, "the fake cloud is there")
            with running([str(binary), "--config", str(config)], log) as aggregator:
                wait_until(lambda: total() == KNOWN_SERVERS, 90, f"all servers are known, see: {log.read_text()}")
                meter = Meter()
                time.sleep(KNOWN_FOR_S)
                status = Path(f"/proc/{aggregator.pid}/status").read_text()
                peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6
                what = f"aggregator, {KNOWN_SERVERS} servers known"
                table.add(what, "MB RSS", [resident_mb(aggregator.pid)], meter, ("max", KNOWN_MB))
                table.add(f"{what}: its most ever", "MB RSS", [peak], meter)


def pace(table: Table) -> None:
    """Evacuations a second of the whole aggregator, where Nova answers at once."""
    meter = Meter()
    done = subprocess.run([example("pace")], capture_output=True, text=True, timeout=PACE_LIMIT_S)
    table.check(done.returncode == 0, f"the pace could not be measured: {done.stderr[-2000:]}")
    if done.returncode == 0:
        told = json.loads(done.stdout.splitlines()[-1])
        what = f"fake Nova, {told['servers']} servers"
        first = [told["proof_to_first_post_ms"]]
        table.add(f"{what}: proof -> first evacuation asked for", "ms", first, meter, ("p50", FIRST_POST_MS))
        table.add(f"{what}: asked for, each", "ms", [1000 / told["posts_per_second"]], meter, ("max", EACH_MS))
        table.add(f"{what}: confirmed elsewhere, each", "ms", [1000 / told["recovered_per_second"]], meter)


def main() -> int:
    parser = argparse.ArgumentParser(description="figures of the product on a real Nova")
    parser.add_argument("--counts", default="1,10", metavar="N,N", help="servers on the host that dies (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="deaths for each count (%(default)s)")
    parser.add_argument("--only", choices=("lab", "fake"), help="one half of it")
    arguments = parser.parse_args()
    table, begun = Table(), time.monotonic()
    say(f"{os.cpu_count()} cores; programs: {plan.binaries()}")
    if arguments.only != "lab":
        known(table)
        pace(table)
    if arguments.only != "fake":
        with CloudLab.open(3) as lab:
            if not lab.has_product:
                raise SystemExit(f"the programs are missing in {plan.binaries()}; `make bench-openstack` builds them")
            for count in map(int, arguments.counts.split(",")):
                on_real_nova(lab, table, count, arguments.runs)
    return conclude(table, begun)


if __name__ == "__main__":
    sys.exit(main())
