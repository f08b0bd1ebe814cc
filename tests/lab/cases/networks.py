"""Networks fail: who still hears whom decides, and nobody is shot for a broken cable alone."""

import time

from medevac_lab import Lab, plan, stays_true, wait_until
from medevac_lab.aggregator import IMPATIENT
from medevac_lab.registry import case


def wait_all_heard(lab: Lab, timeout: float = 60) -> None:
    wait_until(lambda: lab.ctl("status")["hosts_heard"] == len(lab.hosts), timeout, "all hosts are heard")


def all_at_home(lab: Lab, guests) -> bool:
    return all(lab.oracle.running(guest.uuid) == [guest.home.name] for guest in guests)


@case()
def the_management_plane_alone_cut_fences_nobody(lab: Lab):
    guests = lab.protected_site(2)
    lab.cut("hv1", "mgmt")
    lab.wait_host_state("hv1", "agent-failed")
    stays_true(lambda: not lab.fenced() and all_at_home(lab, guests), 10, "nothing is fenced or moved")
    lab.heal("hv1")
    lab.wait_host_state("hv1", "heard")
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()


@case()
def a_host_cut_from_all_planes_is_fenced_and_its_old_copies_never_run_again(lab: Lab):
    guests = lab.protected_site(2)
    lab.cut_all("hv1")
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")
    lab.heal("hv1")
    stays_true(lambda: not lab.host("hv1").up() and not lab.oracle.violations(), 6, "the fenced host stays off")
    lab.ctl("release", "hv1", "--reason", "the cable is back")
    lab.ctl("power-on", "hv1", "--reason", "the cable is back")
    lab.wait_host_state("hv1", "heard", timeout=90)
    stays_true(lambda: not lab.oracle.violations(), 10, "old copies do not run again")
    lab.wait_each_runs_once(guests, not_on=["hv1"])


@case()
def without_a_proof_nothing_is_started_elsewhere(lab: Lab):
    """The host lives, cut off, with its guests; its device can't be reached. A start would be a second copy."""
    guests = lab.protected_site(2, fences={"hv1": IMPATIENT})
    lab.controllers["hv1"].unreachable()
    lab.cut_all("hv1")
    lab.wait_code("hv1", "off-ordered")
    stays_true(lambda: not lab.oracle.violations() and all_at_home(lab, guests), 30, "no start without proof", every=1)
    lab.heal("hv1")
    lab.wait_each_runs_once(guests)


@case(hosts=4)
def a_switch_split_with_the_aggregator_on_the_smaller_side_fences_nobody(lab: Lab):
    guests = lab.protected_site(2, on=["hv1", "hv3"])
    lab.split(["agg", "hv1"], planes=list(plan.PLANES))
    stays_true(lambda: not lab.fenced() and all_at_home(lab, guests), 15, "a minority shoots nobody", every=1)
    lab.heal_all()
    wait_all_heard(lab)
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()


@case(hosts=4)
def two_hosts_down_at_once_fence_nobody_until_a_person_says_so(lab: Lab):
    guests = lab.protected_site(2)
    lab.host("hv1").crash()
    lab.host("hv2").crash()
    stays_true(lambda: not lab.fenced(), 20, "two of four at once are a cause that shooting does not cure", every=1)
    assert len(lab.incidents(subject="hv1")) == 1 and len(lab.incidents(subject="hv2")) == 1
    for guest in guests[:2]:
        assert lab.oracle.running(guest.uuid) == []


@case(hosts=5, limit=240, soak=True)
def two_of_five_down_at_once_are_recovered_on_approve(lab: Lab):
    guests = lab.protected_site(5)
    lab.host("hv1").crash()
    lab.host("hv2").crash()
    rows = [lab.wait_incident_state(name, "waiting-for-rail", "waiting-for-approval") for name in ("hv1", "hv2")]
    stays_true(lambda: not lab.fenced(), 8, "nobody is fenced before the word", every=0.5)
    for row in rows:
        lab.ctl("approve", row["id"], "--reason", "both burnt")
    lab.wait_each_runs_once(guests, timeout=120, not_on=["hv1", "hv2"])
    lab.assert_only_fenced("hv1", "hv2")


@case(limit=240, soak=True)
def an_aggregator_frozen_for_a_minute_fences_nobody(lab: Lab):
    guests = lab.protected_site(2)
    lab.aggregator.freeze()
    time.sleep(60)
    lab.aggregator.thaw()
    stays_true(lambda: not lab.fenced(), 10, "its own sleep is nobody's silence")
    wait_all_heard(lab)
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()


@case(soak=True)
def an_aggregator_that_is_cut_off_fences_nobody(lab: Lab):
    guests = lab.protected_site(3)
    for plane in plan.PLANES:
        lab.cut("agg", plane)
    stays_true(lambda: not lab.fenced() and all_at_home(lab, guests), 20, "who hears nobody shoots nobody", every=1)
    lab.heal("agg")
    wait_all_heard(lab)
    lab.assert_nobody_fenced()


@case(hosts=2)
def two_hosts_without_a_reference_only_alert(lab: Lab):
    guests = lab.protected_site(2)
    lab.host("hv1").crash()
    lab.wait_code("hv1", "refused")
    stays_true(lambda: not lab.fenced(), 10, "one witness is no agreement", every=0.5)
    assert lab.oracle.running(guests[0].uuid) == []
    assert "hv1" in lab.ctl("status")["hosts_without_proof"] or lab.ctl("status")["alerts"], "status says so"


@case(hosts=2)
def two_hosts_with_a_reference_recover(lab: Lab):
    guests = lab.protected_site(2, reference=[plan.endpoint_addresses("gw")["mgmt"]])
    lab.host("hv1").crash()
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(hosts=2, soak=True)
def two_hosts_that_lose_the_reference_too_only_alert(lab: Lab):
    lab.protected_site(2, reference=[plan.endpoint_addresses("gw")["mgmt"]])
    lab.cut_all("gw")
    lab.host("hv1").crash()
    stays_true(lambda: not lab.fenced(), 20, "without the reference there is no second word", every=0.5)


@case(hosts=1)
def one_host_alone_is_an_alert_and_no_more(lab: Lab):
    guests = lab.protected_site(1)
    lab.host("hv1").crash()
    wait_until(lambda: lab.incidents(subject="hv1"), 30, "an incident tells of it")
    stays_true(lambda: not lab.fenced(), 10, "a lone host is never fenced", every=0.5)
    assert lab.oracle.running(guests[0].uuid) == []


@case(soak=True)
def a_one_way_cut_of_one_plane_fences_nobody(lab: Lab):
    guests = lab.protected_site(3)
    lab.one_way("hv1", "mgmt", "from")
    stays_true(lambda: not lab.fenced() and all_at_home(lab, guests), 15, "half a plane is no death")
    lab.heal("hv1")
    lab.wait_host_state("hv1", "heard")
    lab.assert_nobody_fenced()


@case(soak=True)
def the_storage_plane_alone_cut_fences_nobody(lab: Lab):
    guests = lab.protected_site(3)
    lab.cut("hv1", "storage")
    stays_true(lambda: not lab.fenced(), 15, "a host that is heard is not shot")
    lab.heal("hv1")
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()
