#!/usr/bin/python3
"""The demo: three hypervisors on this machine, six guests, one of the hosts dies.

    demo.py [--announce | --run]     only say what will happen | only do it; both without a flag

say what happens to this machine -> lab up -> aggregator in mode act -> all protected
  -> crash of the host with most guests, its rescue line by line
  -> an agent is killed, nothing is fenced
  -> one screen: what was promised, what was seen from outside
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from medevac_lab import Guest, Lab, plan, prepare  # noqa: E402
from medevac_lab.aggregator import PACKAGED  # noqa: E402
from medevac_lab.oracle import Finder  # noqa: E402

# Packaged times but one: after its start an aggregator judges nobody for 30 s,
# which would only be waited for here.
TIMING = {**PACKAGED, "settle": "5s"}
HOMES = ("hv1", "hv1", "hv1", "hv2", "hv2", "hv3")
RESCUE_LIMIT_S = 120
# How long the dead agent is watched: three times what silence is worth.
HARMLESS_WATCH_S = 15
LINE = "-" * 78

# What a code of the timeline means to somebody who sees it for the first time.
PLAIN = {
    "suspect": "suspect",
    "evidence": "evidence",
    "condemned": "condemned",
    "off-ordered": "off ordered",
    "off-read": "off read",
    "proof": "PROOF",
    "start-ordered": "start",
    "recovered": "RUNS",
    "closed": "closed",
    "waiting": "waits",
    "refused": "not yet",
}


def say(text: str = "") -> None:
    print(text, flush=True)


def announce(keep: bool) -> None:
    """What is about to happen to this machine, before anything does."""
    missing = prepare.missing_packages()
    fetched = (plan.root() / "cache" / "vmlinux").exists()
    if missing:
        packages = f"installs {len(missing)} Debian packages: {' '.join(missing)}\n"
        packages += " " * 13 + "(starts none of their services; the next reboot of this machine would start libvirtd)"
    else:
        packages = "installs nothing: all Debian packages are there"
    rows = (
        ("packages", packages),
        (
            "downloads",
            "nothing: the guests' kernel is there" if fetched else "a Debian kernel for the guests, about 30 MB",
        ),
        ("builds", "medevac-agent, medevac-aggregator, medevacctl: a few minutes the first time"),
        ("makes", "three hypervisors in namespaces: own libvirtd, own guests (QEMU, software"),
        ("", "emulation), own power controller (IPMI), three networks between them"),
        ("where", f"everything in {plan.root()}; this machine's own /etc and network are"),
        ("", "not touched"),
        (
            "takes",
            f"about two minutes once built{', some more for the installation' if missing else ''}; 2 GB of memory while it runs",
        ),
        ("afterwards", "it is left running (KEEP=1)" if keep else "all of it is ended"),
        ("", "make demo-down removes everything, the downloads too"),
        ("mode", "act: the aggregator may switch hosts off and start guests by itself."),
        ("", "A real installation begins in observe: it only tells what it would do."),
    )
    say(f"{LINE}\nmedevac demo: a hypervisor dies, its guests run again elsewhere\n{LINE}")
    for name, text in rows:
        say(f"  {name:10} {text}")
    say()


def stage(text: str, begun: float) -> None:
    say(f"[{time.monotonic() - begun:5.1f} s] {text}")


def prepare_site(lab: Lab, begun: float) -> list[Guest]:
    stage("three hosts are up: hv1 hv2 hv3, an agent on each", begun)
    lab.start_aggregator(mode="act", timing=TIMING)
    stage("the aggregator runs, with its store in SQLite", begun)
    guests = [lab.define_guest(f"guest{number}", home, autostart=True) for number, home in enumerate(HOMES, start=1)]
    lab.start_guests(guests)
    stage("six guests run and stamp their disks four times a second", begun)
    lab.wait_protected(guests, timeout=90)
    stage("all six are protected: medevacctl status says", begun)
    say()
    say(indented(lab.aggregator.ctl_text("status")))
    return guests


def indented(text: str, by: str = "    ") -> str:
    return "\n".join(by + line for line in text.rstrip().splitlines()) + "\n"


class Rescue:
    """Kills a host and follows its incident as it is written."""

    def __init__(self, lab: Lab, guests: list[Guest], victim: str):
        self.lab, self.guests, self.victim = lab, guests, lab.host(victim)
        self.ours = [guest for guest in guests if guest.home.name == victim]
        self.shown = 0
        self.killed_wall = self.killed = 0.0
        self.before: dict[str, tuple] = {}
        self.alive_again: dict[str, float] = {}

    def after(self, wall_ms: float) -> str:
        return f"{wall_ms / 1000 - self.killed_wall:+7.2f} s"

    def kill(self) -> None:
        say(LINE)
        say(f"{self.victim} dies now, without warning: no packet leaves it, its power stays on.")
        say(f"It runs {', '.join(guest.name for guest in self.ours)}. Times count from this moment.")
        say(LINE)
        self.before = {guest.uuid: guest.stamp() for guest in self.guests}
        self.killed_wall, self.killed = time.time(), time.monotonic()
        self.victim.crash()
        self.before = {guest.uuid: guest.stamp() for guest in self.guests}

    def show_new(self, incident: dict) -> None:
        timeline = incident["timeline"]
        if timeline and not self.shown:
            first = timeline[0]
            last_sign = self.after(first["wall_ms"] - first["since_ms"])
            say(f"{last_sign}  last sign    {self.victim} is heard for the last time")
        for entry in timeline[self.shown :]:
            say(f"{self.after(entry['wall_ms'])}  {PLAIN.get(entry['code'], entry['code']):12} {entry['text']}")
        self.shown = max(self.shown, len(timeline))

    def look_at_disks(self) -> None:
        """From outside: whose disk is stamped by a new incarnation."""
        for guest in self.ours:
            stamp, before = guest.stamp(), self.before[guest.uuid]
            if guest.uuid not in self.alive_again and stamp and before and stamp[0] != before[0]:
                self.alive_again[guest.uuid] = time.monotonic() - self.killed
                say(f"{self.alive_again[guest.uuid]:+7.2f} s  (outside)    {guest.name} writes to its disk again")

    def follow(self) -> dict:
        """Until the incident is closed and every guest of the dead host writes again."""
        while time.monotonic() - self.killed < RESCUE_LIMIT_S:
            rows = self.lab.incidents(subject=self.victim.name)
            if rows:
                incident = self.lab.ctl("incident", rows[-1]["id"])
                self.show_new(incident)
                if incident["state"] == "closed" and len(self.alive_again) == len(self.ours):
                    return incident
            self.look_at_disks()
            time.sleep(0.1)
        say(indented(self.lab.aggregator.ctl_text("status")))
        raise SystemExit(
            f"the demo failed: {self.victim} was not recovered within {RESCUE_LIMIT_S} s; "
            f"see {self.lab.aggregator.log_path}"
        )


def oracle_view(lab: Lab, rescue: Rescue) -> None:
    say()
    say("What an observer outside medevac saw, by looking at every QEMU of this machine:")
    for guest in rescue.guests:
        lives = []
        for event in lab.oracle.timeline(guest.uuid):
            at = event["wall"] - rescue.killed_wall
            if event["what"] == "alive":
                lives.append(f"on {event['host']}" + (f" from {at:+.2f} s" if at > 0 else ""))
            elif event["what"] == "gone" and lives:
                lives[-1] += f" until {at:+.2f} s"
        say(f"    {guest.name}  {', then '.join(lives)}")
    found = lab.oracle.violations()
    say(f"    two copies at once: {'; '.join(found) if found else 'never'}")
    say()
    if found:
        raise SystemExit("the demo failed: a guest ran twice")


def harmless_act(lab: Lab, guests: list[Guest]) -> int:
    """Only an agent dies: its host is not touched."""
    since = time.clock_gettime(time.CLOCK_BOOTTIME)
    name = lab.oracle.running(guests[-1].uuid)[0]
    say(LINE)
    say(f"Now only the agent on {name} is killed. Its host and its guests are well, and must stay so.")
    say(LINE)
    begun = time.monotonic()
    lab.host(name).kill_service("agent")
    state = lab.wait_host_state(name, "agent-failed", timeout=30)
    say(f"{time.monotonic() - begun:+7.2f} s  {name} is {state}: user space answers its neighbours")
    while time.monotonic() - begun < HARMLESS_WATCH_S:
        time.sleep(0.5)
    orders = [order for order in lab.power_orders() if order["t"] >= since]
    say(f"{time.monotonic() - begun:+7.2f} s  power orders since then: {len(orders)}")
    lab.host(name).start_service("agent")
    lab.wait_host_state(name, "heard")
    say(f"{time.monotonic() - begun:+7.2f} s  the agent is started again and {name} is heard")
    say()
    if orders:
        raise SystemExit(f"the demo failed: somebody was fenced for a dead agent: {orders}")
    return len(orders)


def summary(lab: Lab, rescue: Rescue, incident: dict, keep: bool) -> None:
    by_code: dict[str, float] = {}
    for entry in incident["timeline"]:
        by_code.setdefault(entry["code"], entry["wall_ms"])
    say(f"{LINE}\nSummary")
    steps = (
        ("suspect", "is suspected"),
        ("condemned", "is condemned: two witnesses hear nothing on any plane"),
        ("off-ordered", "is ordered off, by IPMI"),
        ("proof", "is proven dead"),
    )
    for code, text in steps:
        if code in by_code:
            say(f"  {rescue.after(by_code[code])}  {rescue.victim} {text}")
    last = max(rescue.alive_again.values())
    where = " and ".join(sorted({row["host"] for row in incident["instances"] if row["host"]}))
    say(f"  {last:+7.2f} s  all {len(rescue.ours)} guests write to their disks again, on {where}: the total")
    ours = {guest.uuid for guest in rescue.guests}
    alive = sum(qemu.uuid in ours for qemu in Finder(lab.root).look())
    say(f"  {len(ours)} guests, {alive} copies alive, none ever twice; 1 host fenced, none for a dead agent")
    say()
    say(what_next(rescue, incident["id"], keep))
    say(LINE)


def what_next(rescue: Rescue, incident: str, keep: bool) -> str:
    if not keep:
        return (
            "What to try next: KEEP=1 make demo leaves it running, for your own experiments;\n"
            "make test runs every way to fail that we know; make demo-down removes the downloads."
        )
    rows = (
        ("ctl status", "what is covered, what is going on"),
        (f"ctl explain {incident}", "what was seen, by whom, what was decided"),
        ("freeze hv2", "a host that hangs: it waits for your approve"),
        ("cut hv2 mgmt", "a broken cable: nobody is shot"),
        (f"ctl release {rescue.victim} --reason ok", "a fenced host stays off until you say so,"),
        (f"ctl power-on {rescue.victim} --reason ok", "and comes back without its old copies"),
    )
    lines = [f"  tests/lab/lab.py {command:32} {text}" for command, text in rows]
    return "\n".join(
        ["It is left running. What to try next:", *lines, f"  {'make demo-down':49} ends and removes everything"]
    )


def main() -> int:
    keep = os.environ.get("KEEP", "") not in ("", "0")
    if "--run" not in sys.argv:
        announce(keep)
    if "--announce" in sys.argv:
        return 0
    begun = time.monotonic()
    with Lab.open(3, keep=keep) as lab:
        if not lab.has_product:
            raise SystemExit(f"the programs are missing in {plan.binaries()}; `make demo` builds them first")
        guests = prepare_site(lab, begun)
        rescue = Rescue(lab, guests, "hv1")
        rescue.kill()
        incident = rescue.follow()
        lab.wait_each_runs_once(guests, not_on=["hv1"])
        oracle_view(lab, rescue)
        harmless_act(lab, guests)
        lab.assert_no_violation()
        summary(lab, rescue, incident, keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
