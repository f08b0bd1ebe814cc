"""Guests end, move or are stopped: which of them come back, and where."""

import time

from medevac_lab import Guest, Lab, stays_true, wait_until
from medevac_lab.registry import case


@case()
def a_guest_whose_qemu_dies_is_started_again_at_home(lab: Lab):
    guests = lab.protected_site(2)
    lab.kill_qemu(guests[0])
    wait_until(lambda: lab.incidents(subject=guests[0].name), 10, "an incident about the guest", every=0.02)
    lab.wait_each_runs_once(guests)
    assert lab.oracle.running(guests[0].uuid) == ["hv1"]
    lab.assert_nobody_fenced()


@case()
def a_guest_killed_while_libvirtd_is_down_waits_for_its_cause_and_is_started_once(lab: Lab):
    guests = lab.protected_site(2)
    host = lab.host("hv1")
    host.kill_service("libvirtd")
    lab.kill_qemu(guests[0])
    lab.wait_incident_state(guests[0].name, "cause-pending", timeout=15)
    stays_true(lambda: lab.oracle.running(guests[0].uuid) == [], 6, "nothing is started before the cause is known")
    host.start_service("libvirtd")
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()


@case()
def a_libvirtd_that_is_killed_costs_nothing(lab: Lab):
    guests = lab.protected_site(2)
    host = lab.host("hv1")
    host.kill_service("libvirtd")
    stays_true(
        lambda: not lab.fenced() and lab.oracle.running(guests[0].uuid) == ["hv1"], 10, "guests run on without libvirtd"
    )
    host.start_service("libvirtd")
    lab.wait_protected(guests)
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()


@case()
def a_guest_shut_down_from_inside_stays_down(lab: Lab):
    guests = lab.protected_site(2, on=["hv1", "hv1"])
    guests[0].shutdown()
    wait_until(lambda: guests[0].state() == "shut off", 30, "the guest powers itself off")
    stays_true(lambda: lab.oracle.running(guests[0].uuid) == [], 8, "what its user stopped stays stopped")
    lab.host("hv1").crash()
    lab.wait_each_runs_once(guests[1:], not_on=["hv1"])
    stays_true(lambda: lab.oracle.running(guests[0].uuid) == [], 8, "also when its host dies later")


@case()
def a_guest_destroyed_by_its_user_while_its_host_is_suspected_stays_down(lab: Lab):
    guests = lab.protected_site(2, on=["hv1", "hv2"])
    host = lab.host("hv1")
    lab.cut(host, "mgmt")
    lab.wait_host_state(host, "suspect", "agent-failed")
    guests[0].destroy()
    time.sleep(2)
    lab.heal(host)
    lab.wait_host_state(host, "heard")
    stays_true(lambda: lab.oracle.running(guests[0].uuid) == [], 10, "what its user destroyed stays down")
    lab.wait_each_runs_once(guests[1:])
    lab.assert_nobody_fenced()


@case(soak=True)
def a_guest_destroyed_as_its_host_dies_runs_at_most_once(lab: Lab):
    guests = lab.protected_site(4)
    guests[0].destroy()
    lab.host("hv1").crash()
    lab.wait_each_runs_once([guest for guest in guests if guest is not guests[0]], not_on=["hv1"])
    assert len(lab.oracle.running(guests[0].uuid)) <= 1


@case(limit=240)
def a_migration_whose_source_dies_ends_in_one_copy(lab: Lab):
    guests = lab.protected_site(2)
    source, target = lab.host("hv1"), lab.host("hv2")
    begin_migration(lab, guests[0], source, target)
    source.crash()
    lab.wait_each_runs_once(guests, timeout=120, not_on=[source])
    lab.assert_only_fenced("hv1")


@case(limit=240)
def a_migration_whose_target_dies_leaves_the_source_running(lab: Lab):
    guests = lab.protected_site(2)
    source, target = lab.host("hv1"), lab.host("hv2")
    begin_migration(lab, guests[0], source, target)
    target.crash()
    lab.wait_each_runs_once(guests, timeout=120, not_on=[target])
    assert lab.oracle.running(guests[0].uuid) == ["hv1"]
    lab.assert_only_fenced("hv2")


def begin_migration(lab: Lab, guest: Guest, source, target) -> None:
    """A migration in flight, slowed down, seen by the aggregator at both ends."""
    guest.migrate(source, target, mib_per_s=1)
    wait_until(
        lambda: [event for event in lab.oracle.timeline(guest.uuid) if event.get("incoming")], 30, "an incoming copy"
    )
    wait_until(lambda: len(lab.instance(guest).get("homes", [])) == 2, 15, "both ends are homes")


@case(soak=True)
def a_migration_that_completes_is_followed(lab: Lab):
    guests = lab.protected_site(3)
    move = guests[0].migrate(lab.host("hv1"), lab.host("hv2"))
    assert move.wait(60) == 0, move.stdout.read()
    wait_until(lambda: lab.instance(guests[0])["homes"] == ["hv2"], 20, "its only home is hv2")
    lab.host("hv1").crash()
    stays_true(lambda: lab.oracle.running(guests[0].uuid) == ["hv2"], 20, "the guest that moved away is not touched")
    lab.assert_no_violation()


@case(soak=True)
def a_guest_with_a_local_disk_restarts_only_at_home(lab: Lab):
    lab.aggregator.configure()
    lab.aggregator.start()
    guest = lab.guests(1, on=["hv1"], disk="local", autostart=True)[0]
    wait_until(lambda: lab.instance(guest).get("protected"), 60, "the guest is protected")
    assert not lab.instance(guest)["recoverable_elsewhere"] and lab.instance(guest)["reason"]
    lab.host("hv1").crash()
    lab.wait_code("hv1", "proof")
    stays_true(lambda: lab.oracle.running(guest.uuid) == [], 10, "its disk is nowhere else")
    assert lab.outcome("hv1", guest).get("text"), "it waits with its reason"


@case(soak=True)
def an_unprotected_guest_is_left_alone(lab: Lab):
    guests = lab.protected_site(3)
    lab.ctl("unprotect", guests[0].uuid, "--reason", "a test machine")
    wait_until(lambda: not lab.instance(guests[0])["protected"], 10, "the guest is unprotected")
    lab.kill_qemu(guests[0])
    stays_true(lambda: lab.oracle.running(guests[0].uuid) == [], 10, "nobody starts it")
