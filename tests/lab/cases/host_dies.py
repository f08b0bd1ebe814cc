"""A host dies, hangs, reboots or leaves: who is fenced, and where its guests run afterwards."""

import time

from medevac_lab import Lab, stays_true, wait_until
from medevac_lab.aggregator import IMPATIENT, PACKAGED
from medevac_lab.registry import case


def wait_banner_known(lab: Lab, name: str) -> None:
    """A host is told hung only where its second service answered in this boot; `status` names those where none did."""

    def known() -> bool:
        alerts = lab.ctl("status")["alerts"]
        return not any(alert["code"] == "MDV-NO-BANNER" and alert["text"].startswith(f"{name}:") for alert in alerts)

    # It is looked for once a minute while nobody is suspected.
    wait_until(known, 75, f"the second service of {name} has answered")


@case()
def a_host_that_dies_is_fenced_and_its_guests_run_elsewhere(lab: Lab):
    guests = lab.protected_site(5)
    lab.host("hv1").crash()
    lab.wait_code("hv1", "proof")
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")
    incident = lab.incident("hv1")
    codes = [entry["code"] for entry in incident["timeline"]]
    order = [codes.index(code) for code in ("condemned", "off-ordered", "proof", "start-ordered", "recovered")]
    assert order == sorted(order), codes
    ours = [guest.uuid for guest in guests if guest.home.name == "hv1"]
    assert sorted(row["uuid"] for row in incident["instances"]) == sorted(ours)
    wait_until(lambda: lab.incident("hv1")["state"] == "closed", 30, "the incident closes")


@case(limit=300, soak=True)
def a_host_that_dies_is_recovered_with_the_packaged_times(lab: Lab):
    guests = lab.protected_site(5, timing=PACKAGED)
    lab.host("hv1").crash()
    # Counted from its last sign of life, which was up to a heartbeat before the crash.
    silent_ms = lab.wait_code("hv1", "off-ordered")["since_ms"]
    assert silent_ms >= 5000, f"shot after {silent_ms} ms: before its grace was over"
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(soak=True)
def a_host_whose_power_is_pulled_is_recovered_too(lab: Lab):
    guests = lab.protected_site(5)
    lab.host("hv1").unplug()
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    assert "hv2" not in lab.fenced() and "hv3" not in lab.fenced()


@case(soak=True)
def a_dead_host_in_observe_mode_is_only_reported(lab: Lab):
    guests = lab.protected_site(3, mode="observe")
    lab.host("hv1").crash()
    lab.wait_code("hv1", "observed")
    lab.assert_nobody_fenced()
    assert lab.oracle.running(guests[0].uuid) == []


@case(soak=True)
def a_dead_host_in_approve_mode_waits_for_one_word(lab: Lab):
    guests = lab.protected_site(4, mode="approve")
    lab.host("hv1").crash()
    row = lab.wait_incident_state("hv1", "waiting-for-approval")
    stays_true(lambda: not lab.fenced(), 5, "nobody is fenced before the word")
    lab.ctl("approve", row["id"], "--reason", "the host is dead, I looked")
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(limit=300)
def a_frozen_host_waits_for_approve(lab: Lab):
    guests = lab.protected_site(2)
    wait_banner_known(lab, "hv1")
    lab.host("hv1").freeze()
    row = lab.wait_incident_state("hv1", "waiting-for-approval")
    stays_true(lambda: not lab.fenced(), 6, "a hung host is not fenced without a word")
    lab.ctl("approve", row["id"], "--reason", "it hangs, I tried to log in")
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(limit=300)
def a_frozen_host_is_fenced_where_the_policy_says_so(lab: Lab):
    guests = lab.protected_site(2, on_hung="fence")
    wait_banner_known(lab, "hv1")
    lab.host("hv1").freeze()
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(limit=300, soak=True)
def a_frozen_host_that_thaws_is_left_alone(lab: Lab):
    guests = lab.protected_site(4)
    wait_banner_known(lab, "hv1")
    lab.host("hv1").freeze()
    lab.wait_incident_state("hv1", "waiting-for-approval")
    lab.host("hv1").thaw()
    lab.wait_host_state("hv1", "heard")
    wait_until(lambda: lab.incident("hv1")["state"] == "closed", 30, "the incident closes")
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()
    assert lab.oracle.running(guests[0].uuid) == ["hv1"]


@case()
def an_agent_that_is_killed_is_never_fenced(lab: Lab):
    guests = lab.protected_site(2)
    lab.host("hv1").kill_service("agent")
    lab.wait_host_state("hv1", "agent-failed")
    stays_true(lambda: lab.host_state("hv1") == "agent-failed" and not lab.fenced(), 10, "an agent failure stays one")
    lab.host("hv1").start_service("agent")
    lab.wait_host_state("hv1", "heard")
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()


@case(limit=300)
def an_agent_that_is_frozen_is_never_fenced(lab: Lab):
    guests = lab.protected_site(2)
    wait_banner_known(lab, "hv1")
    lab.host("hv1").pause_service("agent")
    lab.wait_host_state("hv1", "agent-failed")
    stays_true(lambda: not lab.fenced(), 10, "nobody is fenced for a frozen agent")
    lab.host("hv1").resume_service("agent")
    lab.wait_host_state("hv1", "heard")
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()


@case()
def an_agent_that_dies_before_its_host_hides_nothing(lab: Lab):
    guests = lab.protected_site(2)
    lab.host("hv1").kill_service("agent")
    lab.wait_host_state("hv1", "agent-failed")
    time.sleep(3)
    lab.assert_nobody_fenced()
    lab.host("hv1").crash()
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case()
def a_host_that_dies_while_the_aggregator_is_down_is_recovered_after_its_return(lab: Lab):
    guests = lab.protected_site(2)
    lab.aggregator.kill9()
    lab.host("hv1").crash()
    time.sleep(3)
    lab.aggregator.start()
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case()
def an_orderly_shutdown_is_no_death_while_its_goodbye_holds(lab: Lab):
    guests = lab.protected_site(2, timing={"goodbye_shutdown": "60s"})
    host = lab.host("hv1")
    host.shutdown()
    lab.wait_host_state("hv1", "goodbye")
    stays_true(lambda: lab.host_state("hv1") == "goodbye" and not lab.fenced(), 12, "a goodbye bars fencing")
    assert lab.oracle.running(guests[0].uuid) == [], "and every start elsewhere"
    host.boot()
    lab.wait_host_state("hv1", "heard")
    lab.assert_nobody_fenced()


@case()
def a_goodbye_that_expires_lets_its_guests_be_recovered(lab: Lab):
    guests = lab.protected_site(2, timing={"goodbye_shutdown": "12s"})
    lab.host("hv1").shutdown()
    lab.wait_host_state("hv1", "goodbye")
    assert lab.oracle.running(guests[0].uuid) == []
    lab.wait_each_runs_once(guests, timeout=120, not_on=["hv1"])
    assert set(lab.fenced()) <= {"hv1"}


@case(soak=True)
def a_host_under_maintenance_may_go_away(lab: Lab):
    lab.protected_site(3)
    lab.ctl("maintenance", "hv1", "on", "--reason", "new memory")
    lab.host("hv1").crash()
    lab.wait_host_state("hv1", "maintenance")
    stays_true(lambda: not lab.fenced(), 12, "maintenance bars fencing")


@case(limit=240)
def a_host_that_reboots_by_itself_mid_recovery_runs_its_guests_once(lab: Lab):
    guests = lab.protected_site(2, autostart=True, fences={"hv1": IMPATIENT})
    # Its device doesn't answer, so that recovery stands waiting for a proof when the host is back.
    lab.controllers["hv1"].unreachable()
    lab.host("hv1").crash()
    lab.wait_code("hv1", "off-ordered")
    lab.host("hv1").boot()
    lab.wait_host_state("hv1", "heard", "held")
    lab.wait_each_runs_once(guests, timeout=120)
    stays_true(lambda: not lab.oracle.violations(), 10, "and stays so")


@case(limit=240, soak=True)
def a_host_that_reboots_while_its_off_order_is_on_the_way_runs_its_guests_once(lab: Lab):
    guests = lab.protected_site(3, autostart=True)
    lab.controllers["hv1"].slow(4)
    lab.host("hv1").crash()
    lab.wait_code("hv1", "off-ordered")
    lab.host("hv1").boot()
    lab.wait_each_runs_once(guests, timeout=150)
    stays_true(lambda: not lab.oracle.violations(), 10, "and stays so")


@case(soak=True)
def a_host_that_reboots_quickly_runs_its_own_guests_again(lab: Lab):
    guests = lab.protected_site(4, autostart=True)
    lab.host("hv1").reboot_by_itself()
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()
    assert lab.oracle.running(guests[0].uuid) == ["hv1"]


@case(hosts=5, limit=300)
def a_target_that_dies_during_a_start_is_recovered_in_turn(lab: Lab):
    """The target has no guests of its own: only the start that was ordered makes it a home."""
    guests = lab.protected_site(2, on=["hv1"])
    lab.host("hv1").crash()
    target = target_of_first_start(lab, "hv1")
    lab.host(target).crash()
    lab.wait_each_runs_once(guests, timeout=180, not_on=["hv1", target])
    assert set(lab.fenced()) <= {"hv1", target}


@case(hosts=5, limit=300, soak=True)
def a_target_with_guests_of_its_own_that_dies_during_a_start_is_recovered_in_turn(lab: Lab):
    guests = lab.protected_site(5)
    lab.host("hv1").crash()
    target = target_of_first_start(lab, "hv1")
    lab.host(target).crash()
    lab.wait_each_runs_once(guests, timeout=180, not_on=["hv1", target])
    assert set(lab.fenced()) == {"hv1", target}


def target_of_first_start(lab: Lab, subject: str) -> str:
    """The host to which the first start of an incident was ordered, as soon as it is known."""

    def target() -> str:
        rows = lab.incidents(subject=subject)
        outcomes = lab.ctl("incident", rows[0]["id"])["instances"] if rows else []
        return next(
            (row["host"] for row in outcomes if row["outcome"] in ("starting", "recovered") and row["host"]), ""
        )

    return wait_until(target, 60, f"a start is ordered for {subject}", every=0.02)
