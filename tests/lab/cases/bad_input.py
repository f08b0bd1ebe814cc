"""Bad input: what nobody should do and somebody will. Each is told clearly, loses nothing and stops nothing else."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

from medevac_lab import Guest, Host, Lab, plan, stays_true, wait_until
from medevac_lab.aggregator import Aggregator, Refused
from medevac_lab.disk import SmallDisk
from medevac_lab.guest import MEMORY_MIB
from medevac_lab.host import ENV
from medevac_lab.registry import case

GARBAGE = Path(__file__).resolve().parent.parent / "medevac_lab" / "garbage.py"
# A second aggregator's port, beside the first one's.
TWIN_PORT = plan.AGGREGATOR_PORT + 100


# -- who is who -----------------------------------------------------------
def give_certificate(lab: Lab, host: Host, name: str, pki: Path | None = None, ca: bool = False) -> None:
    """Puts the certificate of `name` on a host, and the authority's too if wanted."""
    pki, folder = pki or lab.aggregator.pki, host.folder / "etc" / "medevac"
    shutil.copy2(pki / "hosts" / f"{name}.pem", folder / "host.pem")
    shutil.copy2(pki / "hosts" / f"{name}.key", folder / "host.key")
    if ca:
        shutil.copy2(pki / "ca.pem", folder / "ca.pem")


def restart_agent(host: Host) -> None:
    """Without a goodbye, which would excuse the host for a while."""
    host.kill_service("agent")
    wait_until(lambda: "agent" not in host.services(), 10, f"the agent of {host} ends")
    host.start_service("agent")


def wait_logged(host: Host, *words: str, timeout: float = 30) -> str:
    """A line of the agent's log that holds all of these."""

    def line() -> str:
        lines = host.agent_log().splitlines()
        return next((line for line in reversed(lines) if all(word in line for word in words)), "")

    return wait_until(line, timeout, f"the agent of {host} logs a line with {', '.join(words)}")


def host_row(lab: Lab, name: str) -> dict:
    return next((row for row in lab.ctl("hosts") if row["name"] == name), {})


def at_home(lab: Lab, guests: list[Guest]) -> bool:
    return all(lab.oracle.running(guest.uuid) == [guest.home.name] for guest in guests)


def explained(lab: Lab, subject: str) -> str:
    """Everything that `medevacctl` says about a subject's incidents, as an operator reads it."""
    rows = lab.incidents(subject=subject)
    return "\n".join(lab.aggregator.ctl_text(verb, row["id"]) for row in rows for verb in ("incident", "explain"))


@contextlib.contextmanager
def a_second_hv1(lab: Lab):
    """A site of three hosts, and hv4, another machine, with hv1's certificate: both under the name hv1."""
    double = lab.host("hv4")
    double.unplug()
    guests = lab.protected_site(3, on=["hv1", "hv2", "hv3"])
    give_certificate(lab, double, "hv1")
    double.boot()
    wait_until(lambda: lab.incidents(kind="host-cloned", subject="hv1"), 30, "an incident tells of the double")
    yield guests, double


@case(hosts=4)
def a_second_machine_under_a_hosts_name_is_turned_away_and_the_host_is_left_alone(lab: Lab):
    with a_second_hv1(lab) as (guests, double):
        # Its own log says what to do; the operator reads of both machines.
        wait_logged(double, "MDV-REFUSED", "certificate of its own")
        why = host_row(lab, "hv1")["why"]
        assert double.machine_id in why and lab.host("hv1").machine_id in why, why
        stays_true(lambda: lab.host_state("hv1") == "heard" and not lab.fenced(), 3, "hv1 is heard as before")
        assert at_home(lab, guests)


@case(hosts=4, limit=300, soak=True)
def a_host_that_dies_while_another_bears_its_name_is_left_to_a_person(lab: Lab):
    with a_second_hv1(lab) as (guests, double):
        # It is watched all the while, by its peers' eyes too.
        lab.host("hv1").kill_service("agent")
        lab.wait_host_state("hv1", "agent-failed")
        # Both have been heard: an alarm and no act, though the right one dies.
        lab.host("hv1").crash()
        row = wait_until(lambda: lab.incidents(kind="host-silent", subject="hv1"), 30, "its silence is told")[0]
        assert "cloned" in explained(lab, "hv1"), row
        stays_true(lambda: not lab.fenced() and at_home(lab, guests[1:]), 10, "nobody is fenced, nobody moves")
        assert lab.oracle.running(guests[0].uuid) == [], "and nothing starts elsewhere"
        double.unplug()
        time.sleep(50)

        def accepted() -> bool:
            with contextlib.suppress(Refused):
                lab.ctl("confirm-fenced", "hv1", "--reason", "I stand before it, it is dead")
                return True
            return False

        wait_until(accepted, 40, "the operator's word is taken", every=2)
        lab.wait_each_runs_once(guests, not_on=["hv1"])
        lab.assert_nobody_fenced()


@case(limit=240, soak=True)
def a_certificate_of_another_host_is_refused_until_it_is_put_right(lab: Lab):
    guests = lab.protected_site(3)
    wrong = lab.host("hv3")
    give_certificate(lab, wrong, "hv2")
    restart_agent(wrong)
    wait_logged(wrong, "MDV-REFUSED", "hv2", "certificate of its own")
    lab.wait_host_state("hv3", "agent-failed")
    stays_true(
        lambda: lab.host_state("hv2") == "heard" and not lab.fenced() and at_home(lab, guests),
        8,
        "hv2 is heard, and the guests of both run on",
    )
    give_certificate(lab, wrong, "hv3")
    restart_agent(wrong)
    lab.wait_host_state("hv3", "heard")
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()


@case(limit=240, soak=True)
def a_host_whose_double_is_gone_is_judged_like_any_other_again(lab: Lab):
    guests = lab.protected_site(3)
    wrong = lab.host("hv3")
    give_certificate(lab, wrong, "hv1")
    restart_agent(wrong)
    wait_until(lambda: lab.incidents(kind="host-cloned", subject="hv1"), 30, "an incident tells of the double")
    give_certificate(lab, wrong, "hv3")
    restart_agent(wrong)
    lab.wait_host_state("hv3", "heard")
    wait_until(lambda: not host_row(lab, "hv1")["why"], 90, "only one speaks as hv1, and no doubt is left", every=1)
    lab.host("hv1").crash()
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")


@case(limit=240, soak=True)
def certificates_of_another_authority_are_refused_with_what_to_do(lab: Lab):
    guests = lab.protected_site(3)
    foreign = lab.root / "agg" / "foreign-pki"
    argv = [str(lab.aggregator.binary), "init", "--dir", str(foreign), "--host", "hv3"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60, env=ENV)
    wrong = lab.host("hv3")
    for ca, words in ((False, ("tls.cert and tls.key", "same `medevac-aggregator init`")), (True, ("copy ca.pem",))):
        give_certificate(lab, wrong, "hv3", foreign, ca)
        restart_agent(wrong)
        wait_logged(wrong, "no session", *words)
    lab.wait_host_state("hv3", "agent-failed")
    told = [line for line in lab.aggregator.log().splitlines() if "MDV-PEER-REFUSED" in line]
    assert told and wrong.address() in told[0] and len(told) <= 3, told
    stays_true(lambda: not lab.fenced() and at_home(lab, guests), 8, "nobody else notices")
    lab.install_agent(wrong)
    restart_agent(wrong)
    lab.wait_host_state("hv3", "heard")
    lab.wait_each_runs_once(guests)
    lab.assert_nobody_fenced()


# -- what a target does not take ------------------------------------------
def define_unusual(lab: Lab, name: str, old: str, new: str) -> Guest:
    """A guest on hv1 whose XML names something that only hv1 has."""
    guest = Guest(lab.root, lab.storage, name, lab.host("hv1"), MEMORY_MIB)
    assert old in guest.xml
    guest.xml = guest.xml.replace(old, new)
    guest.define()
    return guest


def site_with_unusual_guests(lab: Lab) -> tuple[Guest, dict[str, Guest]]:
    """On hv1 a usual guest, and two that no other host can run, by what the others lack."""
    home = lab.host("hv1").folder / "var-lib" / "libvirt"
    shutil.copy2(lab.root / "cache" / "vmlinux", home / "boot" / "vmlinux")
    (home / "own").mkdir()
    (home / "own" / "qemu-system-x86_64").symlink_to("/usr/bin/qemu-system-x86_64")
    lab.start_aggregator()
    unusual = {
        # libvirt takes this XML and QEMU doesn't; the other one libvirt refuses at once.
        "boot/vmlinux": define_unusual(lab, "kernel", f"{lab.root}/cache/vmlinux", "/var/lib/libvirt/boot/vmlinux"),
        "own/qemu-system": define_unusual(lab, "emulator", "/usr/bin/qemu-system", "/var/lib/libvirt/own/qemu-system"),
    }
    usual = lab.define_guest("usual", "hv1")
    lab.start_guests([usual, *unusual.values()])
    lab.wait_protected([usual, *unusual.values()])
    return usual, unusual


@case()
def guests_that_no_target_takes_wait_with_the_reason_and_the_others_are_recovered(lab: Lab):
    usual, unusual = site_with_unusual_guests(lab)
    lab.host("hv1").crash()
    lab.wait_each_runs_once([usual], not_on=["hv1"])
    lab.wait_incident_state("hv1", "waiting")
    text = explained(lab, "hv1")
    for lacking, guest in unusual.items():
        outcome = lab.outcome("hv1", guest)
        assert outcome["outcome"] == "waiting" and outcome["text"], outcome
        assert lacking in text, f"that it needs {lacking} is not told:\n{text}"
        assert lab.oracle.running(guest.uuid) == []


@case(limit=240, soak=True)
def guests_that_no_target_took_start_once_when_their_home_is_back(lab: Lab):
    usual, unusual = site_with_unusual_guests(lab)
    lab.host("hv1").crash()
    lab.wait_incident_state("hv1", "waiting")
    lab.ctl("release", "hv1", "--reason", "a new power supply")
    lab.ctl("power-on", "hv1", "--reason", "a new power supply")
    lab.wait_each_runs_once([usual, *unusual.values()], timeout=120)
    for guest in unusual.values():
        assert lab.oracle.running(guest.uuid) == ["hv1"]


# -- full disks -----------------------------------------------------------
def disk_warning(lab: Lab, name: str) -> str:
    alerts = [alert for alert in lab.ctl("status")["alerts"] if alert["code"] == "MDV-HOST-WARNING"]
    return next((a["text"] for a in alerts if a["text"].startswith(f"{name}:") and "disk" in a["text"]), "")


@contextlib.contextmanager
def small_state_disk(lab: Lab, host: Host):
    """The agent's state directory on a disk of its own; the agent runs on it."""
    host.kill_service("agent")
    with SmallDisk("/var/lib/medevac-agent", host) as disk:
        host.start_service("agent")
        lab.wait_host_state(host, "heard")
        yield disk


@case(limit=240, soak=True)
def a_full_disk_under_an_agent_is_told_and_stops_nothing(lab: Lab):
    guests = lab.protected_site(3)
    host = lab.host("hv3")
    with small_state_disk(lab, host) as disk:
        lab.wait_protected(guests)
        agent = host.services()["agent"]
        disk.fill()
        wait_until(lambda: disk_warning(lab, "hv3"), 30, "the full disk is told")
        assert any("disk" in warning for warning in host_row(lab, "hv3")["warnings"])
        # Its guests' deaths are told as ever; what cannot be noted is not begun there.
        killed = time.monotonic()
        lab.kill_qemu(guests[2])
        wait_until(lambda: lab.incidents(subject=guests[2].name), 10, "the guest's death is told", every=0.02)
        assert time.monotonic() - killed < 3, "and at once"
        lab.wait_each_runs_once(guests, not_on=["hv3"])
        assert "No space left" in explained(lab, guests[2].name)
        # An aggregator that starts anew is told everything too, though its epoch can't be noted.
        lab.aggregator.restart()
        lab.wait_host_state("hv3", "heard")
        stays_true(lambda: lab.host_state("hv3") == "heard", 5, "and stays so")
        # It would be the first choice of every start: it is passed over by name.
        lab.host("hv1").crash()
        lab.wait_each_runs_once(guests, timeout=120, not_on=["hv1", "hv3"])
        assert host.services()["agent"] == agent, "the agent never ended"
        lines = [line for line in host.agent_log().splitlines() if "MDV-STATE-DISK" in line]
        assert len(lines) < 30, f"{len(lines)} lines about one disk"
        disk.free()
        wait_until(lambda: not disk_warning(lab, "hv3"), 40, "the warning ends with its cause")
    lab.assert_only_fenced("hv1")


@case(limit=240)
def a_full_disk_under_the_store_ends_the_aggregator_and_nothing_is_lost_or_done_twice(lab: Lab):
    aggregator = lab.aggregator
    aggregator.configure()
    with SmallDisk(aggregator.folder / "state") as disk:
        aggregator.start(keep_exit_code=True)
        guests = lab.guests(3)
        lab.wait_protected(guests)
        disk.fill()
        died = time.clock_gettime(time.CLOCK_BOOTTIME)
        lab.host("hv1").crash()
        assert aggregator.wait_exit_code() == 70, "the store failed: a supervisor starts it again"
        assert "MDV-STORE" in aggregator.log() and "full" in aggregator.log()
        lab.assert_nobody_fenced()
        # Started while there is no room, it says so and ends again.
        aggregator.start(wait=False, keep_exit_code=True)
        assert aggregator.wait_exit_code() in (1, 70)
        assert "free space" in aggregator.log()
        disk.free()
        aggregator.start()
        lab.wait_each_runs_once(guests, not_on=["hv1"])
        lab.assert_only_fenced("hv1")
        starts = lab.oracle.starts(guests[0].uuid, died)
        assert len(starts) == 1, starts


# -- copies of the store --------------------------------------------------
def hear_both(lab: Lab) -> None:
    """Agents that know of a second aggregator."""
    address = plan.endpoint_addresses("agg")["mgmt"]
    both = [f"https://{address}:{port}" for port in (plan.AGGREGATOR_PORT, TWIN_PORT)]
    for host in lab.hosts:
        lab.install_agent(host, both)
        restart_agent(host)


def configure_twin(twin: Aggregator, **top) -> None:
    twin.configure(top={"listen": f"0.0.0.0:{TWIN_PORT}", **top})


def wait_role(aggregator: Aggregator, words: str, timeout: float = 30) -> str:
    def role() -> str:
        text = aggregator.ctl("status")["role"]
        return text if words in text else ""

    return wait_until(role, timeout, f"the role of {aggregator.record} tells of {words!r}")


def wait_deposed(aggregator: Aggregator) -> None:
    """It shows, orders nothing, takes no word, and says which command would make it the decider."""
    assert "take-over --reason" in wait_role(aggregator, "another aggregator decides")
    with contextlib.suppress(Refused):
        aggregator.ctl("pause", "--reason", "is anybody there?")
        raise AssertionError("a deposed aggregator took an operator's word")


@case(limit=240, soak=True)
def a_copy_of_the_store_on_another_machine_is_refused_until_it_takes_over(lab: Lab):
    guests = lab.protected_site(3)
    hear_both(lab)
    other_machine = lab.root / "other-machine-id"
    other_machine.write_text("0123456789abcdef0123456789abcdef\n")
    with lab.aggregator.twin("twin") as twin:
        lab.aggregator.copy_store(twin)
        configure_twin(twin, machine_identity=str(other_machine))
        twin.start(wait=False, keep_exit_code=True)
        assert twin.wait_exit_code() == 1
        assert "this is a copy" in twin.log() and "take-over --reason" in twin.log(), twin.log()
        lab.wait_protected(guests)
        # The first machine is gone for good: the copy takes over, by name.
        lab.aggregator.kill9()
        argv = [str(twin.binary), "take-over", "--config", str(twin.folder / "aggregator.toml"), "--reason", "it burnt"]
        subprocess.run(argv, check=True, capture_output=True, timeout=30, env=ENV)
        twin.start()
        wait_until(lambda: twin.ctl("status")["hosts_heard"] == 3, 30, "the agents obey the one that took over")
        wait_role(twin, "deciding")
        lab.host("hv1").crash()
        lab.wait_each_runs_once(guests, not_on=["hv1"])
        # And the first, back from the dead, is told and does nothing.
        lab.aggregator.start()
        wait_deposed(lab.aggregator)
    lab.assert_only_fenced("hv1")


@case(limit=240, soak=True)
def a_twin_of_the_same_epoch_serves_status_only_and_the_first_decides(lab: Lab):
    guests = lab.protected_site(3)
    hear_both(lab)
    with lab.aggregator.twin("twin") as twin:
        lab.aggregator.copy_store(twin)
        # The first goes on by one epoch, and so will the copy: equal numbers, two starts.
        lab.aggregator.restart()
        lab.wait_protected(guests)
        configure_twin(twin)
        twin.start()
        wait_deposed(twin)
        stays_true(lambda: not lab.fenced() and at_home(lab, guests), 8, "nobody is harmed by it")
        assert lab.ctl("status")["role"] == "deciding" and lab.ctl("status")["hosts_heard"] == 3
        lab.host("hv1").crash()
        died = time.clock_gettime(time.CLOCK_BOOTTIME)
        lab.wait_each_runs_once(guests, not_on=["hv1"])
        assert len(lab.oracle.starts(guests[0].uuid, died)) == 1
    lab.assert_only_fenced("hv1")


@case(limit=240, soak=True)
def a_copy_that_is_ahead_replaces_the_first_which_stops_at_once(lab: Lab):
    guests = lab.protected_site(3)
    hear_both(lab)
    lab.wait_protected(guests)
    with lab.aggregator.twin("twin") as twin:
        lab.aggregator.copy_store(twin)
        configure_twin(twin)
        twin.start()
        wait_deposed(lab.aggregator)
        wait_until(lambda: twin.ctl("status")["hosts_heard"] == 3, 30, "the agents obey the higher epoch")
        wait_role(twin, "deciding")
        stays_true(lambda: not lab.fenced() and at_home(lab, guests), 5, "nobody is harmed by the change")
        lab.host("hv1").crash()
        died = time.clock_gettime(time.CLOCK_BOOTTIME)
        lab.wait_each_runs_once(guests, not_on=["hv1"])
        assert len(lab.oracle.starts(guests[0].uuid, died)) == 1
    lab.assert_only_fenced("hv1")


# -- rubbish --------------------------------------------------------------
def resident_kib(path: str) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(path).read_text()).group(1))


def memory_of_all(lab: Lab) -> dict[str, int]:
    """Resident KiB of the aggregator and of the agents of hosts that are up."""
    found = {"aggregator": resident_kib(f"/proc/{lab.aggregator.proc.pid}/status")}
    for host in [host for host in lab.hosts if host.up()]:
        found[host.name] = resident_kib(f"/proc/{host.proc.pid}/root/proc/{host.services()['agent']}/status")
    return found


@case(limit=240, soak=True)
def rubbish_at_every_port_delays_no_recovery_and_fills_neither_memory_nor_log(lab: Lab):
    guests = lab.protected_site(3)
    before = memory_of_all(lab)
    ports = [f"{plan.endpoint_addresses('agg')['mgmt']}:{plan.AGGREGATOR_PORT}"]
    ports += [f"{host.address()}:{plan.AGGREGATOR_PORT}" for host in lab.hosts]
    inside = ["nsenter", f"--net={lab.net.namespace('gw')}", plan.PYTHON, "-S", "-E", str(GARBAGE)]
    argv = [*inside, "30", str(lab.aggregator.pki), *ports]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as garbage:
        try:
            time.sleep(8)
            assert all(lab.host_state(name) == "heard" for name in lab.names), lab.ctl("hosts")
            lab.host("hv1").crash()
            lab.wait_each_runs_once(guests, not_on=["hv1"])
            said = json.loads(garbage.communicate(timeout=60)[0])
        finally:
            garbage.kill()
    lab.assert_only_fenced("hv1")
    for kind in ("random", "http1", "http2", "huge-record", "host-http1", "host-rubbish", "host-huge-message"):
        assert said.get(kind, 0) >= 10, said
    assert said["half-handshake"] >= 200 and said["datagram"] >= 2000, said
    log = lab.aggregator.log().splitlines()
    told = [line for line in log if "MDV-PEER-REFUSED" in line]
    assert 1 <= len(told) <= 5, f"{len(told)} lines for {said}"
    after = memory_of_all(lab)
    grown = {name: after[name] - before[name] for name in after if after[name] - before[name] > 16 * 1024}
    assert not grown, f"grown by KiB: {grown}; before: {before}"
