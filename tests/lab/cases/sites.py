"""The whole site loses power; the aggregator dies between any two steps."""

import time

from medevac_lab import Lab, stays_true, wait_until
from medevac_lab.registry import case, register


@case(limit=240)
def a_site_that_loses_all_power_with_the_aggregator_back_first_comes_back_by_itself(lab: Lab):
    guests = lab.protected_site(3, autostart=True)
    lab.aggregator.kill9()
    lab.power_cycle(wait=False)
    lab.aggregator.start()
    time.sleep(4)
    lab.boot_all()
    at_home(lab, guests)


@case(limit=240)
def a_site_that_loses_all_power_with_the_aggregator_back_last_comes_back_by_itself(lab: Lab):
    guests = lab.protected_site(3, autostart=True)
    lab.aggregator.kill9()
    lab.power_cycle()
    time.sleep(4)
    lab.aggregator.start()
    at_home(lab, guests)


@case(limit=240, soak=True)
def a_site_whose_hosts_post_one_after_the_other_is_not_shot_meanwhile(lab: Lab):
    guests = lab.protected_site(6, autostart=True, timing={"boot_grace": "60s"})
    lab.aggregator.kill9()
    lab.power_cycle(wait=False)
    lab.aggregator.start()
    for host in lab.hosts:
        time.sleep(8)
        host.boot()
    at_home(lab, guests)


def at_home(lab: Lab, guests) -> None:
    """Each guest once, on the host that it was on."""
    lab.wait_each_runs_once(guests, timeout=150)
    wrong = [
        f"{guest} on {lab.oracle.running(guest.uuid)}"
        for guest in guests
        if lab.oracle.running(guest.uuid) != [guest.home.name]
    ]
    assert not wrong, wrong
    lab.assert_nobody_fenced()


@case(soak=True)
def an_aggregator_that_is_killed_and_started_again_disturbs_nobody(lab: Lab):
    guests = lab.protected_site(3)
    for _ in range(3):
        lab.aggregator.restart()
        time.sleep(2)
    wait_until(lambda: lab.ctl("status")["hosts_heard"] == 3, 30, "all hosts are heard")
    stays_true(lambda: not lab.fenced(), 8, "nobody is fenced")
    lab.wait_each_runs_once(guests)


# Where an aggregator is killed in the middle of a recovery: PLACE:SUBJECT[:COUNT] of --crash-at.
# A commit is named by the first key in it: segment (an incident opens and its host is ordered
# off), step (one is answered), host (it is proven dead), instance (a start is ordered, or seen).
COMMITS = ("segment", "step", "host", "instance", "instance/:2")
COMMANDS = ("read-power:4", "fence-off", "ask-inventory", "order-start", "order-start:2")
CRASH_POINTS = tuple(f"{when}-commit:{key}" for key in COMMITS for when in ("before", "after")) + tuple(
    f"{when}-dispatch:{command}" for command in COMMANDS for when in ("before", "after")
)


def killed_at(point: str):
    """A case: the aggregator dies at that point, is started again, and each guest runs once."""

    def run(lab: Lab) -> None:
        guests = lab.protected_site(4)
        # Armed only now: joining commits and asks too.
        lab.aggregator.kill9()
        lab.aggregator.start(["--crash-at", point])
        lab.wait_protected(guests)
        lab.host("hv1").crash()
        wait_until(lambda: not lab.aggregator.running(), 60, f"the aggregator dies at {point}")
        lab.aggregator.start()
        lab.wait_each_runs_once(guests, timeout=120, not_on=["hv1"])
        lab.assert_only_fenced("hv1")

    run.__module__ = __name__
    return run


for _point in CRASH_POINTS:
    _name = "an_aggregator_killed_" + _point.replace("/", "").replace("-", "_").replace(":", "_")
    register(killed_at(_point), _name, hosts=3, limit=240, soak=True)


# The same in one recovery: each start dies a step further than the one before.
CHAIN = (
    "before-commit:segment",
    "after-commit:segment",
    "before-dispatch:fence-off",
    "after-dispatch:fence-off",
    "before-commit:host",
    "after-commit:host",
    "before-commit:instance",
    "after-commit:instance",
    "before-dispatch:order-start",
    "after-dispatch:order-start",
    # The same key a second time: the started guest is seen to run.
    "before-commit:instance",
    "after-commit:instance",
)


@case(limit=360)
def an_aggregator_killed_between_each_pair_of_steps_recovers_each_guest_once(lab: Lab):
    guests = lab.protected_site(3, on=["hv1", "hv2", "hv1"])
    lab.aggregator.kill9()
    lab.aggregator.start(["--crash-at", CHAIN[0]])
    lab.wait_protected(guests)
    lab.host("hv1").crash()
    for point, following in zip(CHAIN, [*CHAIN[1:], None], strict=True):
        wait_until(lambda: not lab.aggregator.running(), 60, f"the aggregator dies at {point}")
        lab.aggregator.start(["--crash-at", following] if following else None, wait=False)
    lab.wait_each_runs_once(guests, timeout=120, not_on=["hv1"])
    lab.assert_only_fenced("hv1")
