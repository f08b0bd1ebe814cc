"""The packaged times at their full length: each number that another case shortens is waited for here once."""

import time

from medevac_lab import Lab, stays_true, wait_until
from medevac_lab.aggregator import PACKAGED
from medevac_lab.registry import case

from .host_dies import wait_banner_known

MINUTE = 60
# A number that was waited for may be passed by this much: a look, a probe round, a busy machine.
LATE_S = 15


def waits(begun: float, least: float, most: float, what: str) -> None:
    """`what` has just happened: not before `least` seconds after `begun`, and not long after `most`."""
    took = time.monotonic() - begun
    assert least <= took <= most + LATE_S, f"{what} after {took:.1f} s; {least} to {most} s were expected"


@case(limit=5 * MINUTE, soak=True)
def a_single_plane_is_worth_twenty_seconds_of_silence(lab: Lab):
    guests = lab.protected_site(2, timing=PACKAGED, planes=["mgmt"])
    begun = time.monotonic()
    lab.host("hv1").crash()
    lab.wait_code("hv1", "off-ordered")
    waits(begun, 19, 21, "the off order")
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(limit=6 * MINUTE, soak=True)
def a_frozen_host_is_called_hung_after_fifteen_seconds(lab: Lab):
    lab.protected_site(2, timing=PACKAGED)
    wait_banner_known(lab, "hv1")
    begun = time.monotonic()
    lab.host("hv1").freeze()
    lab.wait_incident_state("hv1", "waiting-for-approval")
    waits(begun, 14, 18, "the hung host was told")
    lab.assert_nobody_fenced()


@case(limit=5 * MINUTE, soak=True)
def nobody_is_judged_for_thirty_seconds_after_a_start(lab: Lab):
    guests = lab.protected_site(2, timing=PACKAGED)
    lab.aggregator.kill9()
    lab.host("hv1").crash()
    begun = time.monotonic()
    lab.aggregator.start()
    lab.wait_code("hv1", "off-ordered", timeout=90)
    waits(begun, 29, 42, "the off order after a start")
    lab.wait_each_runs_once(guests, not_on=["hv1"])


@case(limit=8 * MINUTE, soak=True)
def an_agent_that_says_goodbye_is_waited_for_two_minutes(lab: Lab):
    guests = lab.protected_site(2, timing=PACKAGED)
    lab.host("hv1").stop_service("agent")
    begun = time.monotonic()
    lab.wait_host_state("hv1", "goodbye")
    lab.host("hv1").crash()
    lab.wait_code("hv1", "off-ordered", timeout=3 * MINUTE)
    waits(begun, 2 * MINUTE - 1, 2 * MINUTE + 10, "the off order")
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(limit=16 * MINUTE, soak=True)
def a_host_that_shuts_down_is_waited_for_ten_minutes(lab: Lab):
    guests = lab.protected_site(2, timing=PACKAGED)
    lab.host("hv1").shutdown()
    lab.wait_host_state("hv1", "goodbye")
    begun = time.monotonic()
    stays_true(lambda: lab.host_state("hv1") == "goodbye" and not lab.fenced(), 9.5 * MINUTE, "the goodbye holds")
    assert lab.oracle.running(guests[0].uuid) == []
    lab.wait_each_runs_once(guests, timeout=3 * MINUTE, not_on=["hv1"])
    waits(begun, 9.5 * MINUTE, 11 * MINUTE, "its guests ran elsewhere")


@case(limit=20 * MINUTE, soak=True)
def a_host_missing_after_a_site_lost_power_is_called_booting_for_ten_minutes(lab: Lab):
    guests = lab.protected_site(3, autostart=True, timing=PACKAGED)
    lab.aggregator.kill9()
    lab.power_cycle(wait=False)
    lab.aggregator.start()
    begun = time.monotonic()
    for host in lab.hosts[:2]:
        host.boot()
    lab.wait_host_state("hv3", "booting", timeout=90)
    stays_true(lambda: lab.host_state("hv3") == "booting" and not lab.fenced(), 9 * MINUTE, "it may still be posting")
    lab.wait_code("hv3", "off-ordered", timeout=4 * MINUTE)
    waits(begun, 9 * MINUTE, 12 * MINUTE, "the off order")
    lab.wait_each_runs_once(guests, timeout=3 * MINUTE, not_on=["hv3"])
    lab.assert_only_fenced("hv3")


@case(limit=6 * MINUTE, soak=True)
def agents_that_are_down_are_one_alert_after_two_minutes(lab: Lab):
    lab.protected_site(2, timing=PACKAGED)

    def told() -> list[str]:
        return [alert["text"] for alert in lab.ctl("status")["alerts"] if alert["code"] == "MDV-AGENTS-DOWN"]

    begun = time.monotonic()
    for name in ("hv1", "hv2"):
        lab.host(name).kill_service("agent")
    stays_true(lambda: not told(), 1.8 * MINUTE, "an upgrade of agents alerts nobody")
    wait_until(told, MINUTE, "agents that stay away are told")
    waits(begun, 1.9 * MINUTE, 2.2 * MINUTE, "the alert")
    assert len(told()) == 1, told()
    lab.assert_nobody_fenced()


@case(hosts=7, limit=22 * MINUTE, soak=True)
def the_third_host_within_a_quarter_of_an_hour_waits(lab: Lab):
    guests = lab.protected_site(7, timing=PACKAGED)
    begun = time.monotonic()
    for name in ("hv1", "hv2"):
        lab.host(name).crash()
        lab.wait_code(name, "closed", timeout=2 * MINUTE)
    lab.host("hv3").crash()
    lab.wait_incident_state("hv3", "waiting-for-rail")
    stays_true(lambda: "hv3" not in lab.fenced(), 12 * MINUTE, "the third waits for a person, or for the window")
    lab.wait_code("hv3", "off-ordered", timeout=6 * MINUTE)
    waits(begun, 15 * MINUTE, 17 * MINUTE, "the third off order")
    lab.wait_each_runs_once(guests, timeout=3 * MINUTE, not_on=["hv1", "hv2", "hv3"])
