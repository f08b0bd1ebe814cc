"""Fence devices that fail or deceive: what is proof, and what is not."""

from medevac_lab import Lab, power, stays_true, wait_until
from medevac_lab.aggregator import IMPATIENT, Refused
from medevac_lab.registry import case


def wait_shot(lab: Lab, device: str, acts_on: str, timeout: float = 60) -> None:
    """The controller of `device` was ordered off and really switched `acts_on` off."""

    def shot() -> bool:
        found = power.entries(lab.root, lab.begun)
        return any(
            entry["device"] == device and entry["order"] == "off-done" and entry["acts_on"] == acts_on
            for entry in found
        )

    wait_until(shot, timeout, f"the controller of {device} switches {acts_on} off")


@case(limit=240)
def a_fence_device_that_comes_back_ends_the_waiting(lab: Lab):
    guests = lab.protected_site(2, fences={"hv1": IMPATIENT})
    lab.controllers["hv1"].unreachable()
    lab.host("hv1").crash()
    row = lab.wait_incident_state("hv1", "fence-unknown", timeout=120)
    assert row["todo"] and row["todo"] != "nothing to do", row
    assert lab.oracle.running(guests[0].uuid) == [], "no start without proof"
    lab.controllers["hv1"].reachable()
    lab.wait_each_runs_once(guests, timeout=120, not_on=["hv1"])


@case(limit=240, soak=True)
def the_operators_word_ends_the_waiting_too(lab: Lab):
    guests = lab.protected_site(3, fences={"hv1": IMPATIENT})
    lab.controllers["hv1"].unreachable()
    lab.host("hv1").crash()
    lab.wait_incident_state("hv1", "fence-unknown", timeout=120)

    def accepted() -> bool:
        try:
            lab.ctl("confirm-fenced", "hv1", "--reason", "I pulled its power cords")
            return True
        except Refused as refused:
            # Refused as long as anybody heard the host within the last minute.
            assert refused.body is not None and refused.body.get("refused"), refused
            return False

    wait_until(accepted, 90, "the operator's word is taken", every=2)
    lab.wait_each_runs_once(guests, not_on=["hv1"])


@case(hosts=4, limit=240)
def a_device_that_shoots_a_neighbour_proves_nothing(lab: Lab):
    """hv1 lives, cut off, with its guests. Its controller is wired to hv2 and says, truly, that something is off."""
    guests = lab.protected_site(2)
    lab.controllers["hv1"].shoots("hv2")
    lab.cut_all("hv1")
    wait_shot(lab, "hv1", "hv2")
    stays_true(
        lambda: not lab.oracle.violations() and lab.oracle.running(guests[0].uuid) == ["hv1"],
        20,
        "a neighbour's death is no proof",
        every=0.5,
    )


@case(hosts=4, limit=300)
def a_first_off_order_that_shot_a_neighbour_proves_nothing_when_retried(lab: Lab):
    guests = lab.protected_site(4)
    lab.controllers["hv1"].shoots("hv2")
    lab.cut_all("hv1")
    wait_shot(lab, "hv1", "hv2")
    lab.wait_incident_state("hv1", "fence-unknown", "confirming", timeout=120)
    # The retry reads "off" at once and nobody new falls silent: only the first order's list still tells.
    stays_true(
        lambda: lab.oracle.running(guests[0].uuid) == ["hv1"] and not lab.oracle.violations(),
        20,
        "the retry proves nothing either",
        every=0.5,
    )
    lab.controllers["hv1"].well()
    lab.host("hv2").boot()
    lab.wait_each_runs_once([guests[0], guests[2], guests[3]], timeout=150, not_on=["hv1"])


@case(limit=240, soak=True)
def a_slow_fence_device_is_waited_for(lab: Lab):
    # IPMI's own patience for one answer is 2 s by default; a slow device needs more of it.
    guests = lab.protected_site(3, fences={"hv1": {"options": {"ipmitool_timeout": "6"}}})
    lab.controllers["hv1"].slow(3)
    lab.host("hv1").crash()
    lab.wait_each_runs_once(guests, timeout=150, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(limit=240, soak=True)
def a_fence_agent_that_hangs_or_talks_rubbish_proves_nothing(lab: Lab):
    agents = power.fence_agents(lab.root)
    broken = {
        "hv1": {"agent": str(agents["fence_hangs"]), "deadline": "5s"},
        "hv2": {"agent": str(agents["fence_rubbish"]), "deadline": "5s"},
    }
    guests = lab.protected_site(3, fences=broken)
    for name in broken:
        lab.cut_all(name)
        lab.wait_incident_state(name, "fence-unknown", timeout=60)
        stays_true(lambda: not lab.oracle.violations(), 10, "neither silence nor rubbish is proof")
        lab.heal(name)
        lab.wait_host_state(name, "heard")
    lab.wait_each_runs_once(guests)


@case(limit=240, soak=True)
def a_fence_agent_that_only_claims_success_proves_nothing(lab: Lab):
    agents = power.fence_agents(lab.root)
    guests = lab.protected_site(3, fences={"hv1": {"agent": str(agents["fence_claims"]), "deadline": "5s"}})
    lab.cut_all("hv1")
    lab.wait_code("hv1", "off-ordered")
    stays_true(
        lambda: not lab.oracle.violations() and lab.oracle.running(guests[0].uuid) == ["hv1"],
        30,
        "an exit code is no proof",
        every=0.5,
    )
    lab.heal("hv1")
    lab.wait_each_runs_once(guests)


@case(soak=True)
def a_person_may_fence_a_host_that_is_well(lab: Lab):
    guests = lab.protected_site(4)
    lab.ctl("fence", "hv1", "--reason", "its fan is on fire")
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(soak=True)
def under_pause_nothing_is_ordered(lab: Lab):
    guests = lab.protected_site(4)
    lab.ctl("pause", "--reason", "the network is being rebuilt")
    lab.host("hv1").crash()
    stays_true(lambda: not lab.fenced(), 12, "pause holds")
    lab.aggregator.restart()
    stays_true(lambda: not lab.fenced(), 12, "also over a restart")
    lab.ctl("resume", "--reason", "done")
    lab.wait_each_runs_once(guests, not_on=["hv1"])
