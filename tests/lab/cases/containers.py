"""Hosts whose libvirt and QEMUs live in containers: the agent beside them does what it does anywhere."""

from pathlib import Path

from medevac_lab import Guest, Lab, container, stays_true, wait_until
from medevac_lab.host import Host
from medevac_lab.registry import case

MARKER = ".medevac-storage-id"


def contained(lab: Lab, kinds: dict[str, str]) -> None:
    """Makes container hosts of some that have just been installed."""
    for name, kind in kinds.items():
        host = lab.host(name)
        host.unplug()
        host.contain(kind)
    for name in kinds:
        lab.host(name).boot(wait=False)
    for name in kinds:
        lab.host(name).wait_up()


def decoy(host: Host, path: Path, marker: str) -> Path:
    """What the host itself has at the path of a disk in its container: another file, beside a marker."""
    path = host.folder / "var-lib" / path.relative_to("/var/lib")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a decoy")
    (path.parent / MARKER).write_text(marker)
    return path


def runs_in_a_container(lab: Lab, guest: Guest) -> bool:
    """Its QEMU sees other files than its host's process 1 does."""
    host = lab.host(lab.oracle.running(guest.uuid)[0])
    pid = host.exec(["pgrep", "-f", f"qemu.*{guest.uuid}"]).stdout.split()[0]
    mounts = host.exec(["readlink", "/proc/1/ns/mnt", f"/proc/{pid}/ns/mnt"]).stdout.split()
    return mounts[0] != mounts[1]


def wait_found(host: Host, since: int = 0) -> None:
    """The agent has found libvirt in its container, and tells where."""
    wait_until(lambda: "in a container: process" in host.agent_log()[since:], 30, "the agent finds the container")


@case(limit=240)
def a_guest_in_a_container_whose_qemu_dies_is_started_there_again(lab: Lab):
    contained(lab, {"hv1": "kolla", "hv2": "sealed"})
    guests = lab.protected_site(2, on=["hv1", "hv2"], autostart=True)
    for guest in guests:
        wait_found(guest.home)
        assert runs_in_a_container(lab, guest)
        wait_autostart(guest, "disable")
        lab.kill_qemu(guest)
    lab.wait_each_runs_once(guests)
    assert [lab.oracle.running(guest.uuid) for guest in guests] == [["hv1"], ["hv2"]]
    assert all(runs_in_a_container(lab, guest) for guest in guests)
    lab.assert_nobody_fenced()
    lab.ctl("mode", "default", "observe", "--reason", "the flags shall go back")
    for guest in guests:
        wait_autostart(guest, "enable")


def wait_autostart(guest: Guest, flag: str) -> None:
    """The agent takes flags of guests that it cares for and gives them back, through the libvirt in the container."""

    def told() -> bool:
        lines = guest.home.virsh("dominfo", guest.name).splitlines()
        return any(line.startswith("Autostart") and flag in line for line in lines)

    wait_until(told, 20, f"the autostart flag of {guest} becomes {flag}")


@case(limit=240)
def a_host_whose_libvirt_lives_in_a_container_dies_and_its_guests_run_in_other_containers(lab: Lab):
    contained(lab, {"hv1": "kolla", "hv2": "sealed", "hv3": "kolla"})
    guests = lab.protected_site(4, on=["hv1", "hv1", "hv2", "hv3"], disk="mounted")
    lab.host("hv1").crash()
    lab.wait_code("hv1", "proof")
    lab.wait_each_runs_once(guests, not_on=["hv1"])
    lab.assert_only_fenced("hv1")
    assert all(runs_in_a_container(lab, guest) for guest in guests)


@case(limit=240)
def a_container_that_is_started_anew_while_its_qemus_live_is_no_incident(lab: Lab):
    contained(lab, {"hv1": "kolla"})
    guests = lab.protected_site(2, on=["hv1", "hv2"])
    host = lab.host("hv1")
    said = len(host.agent_log())
    host.kill_service("libvirtd")
    stays_true(
        lambda: lab.oracle.running(guests[0].uuid) == ["hv1"] and not lab.incidents(), 6, "its QEMU lives, unharmed"
    )
    host.start_service("libvirtd")
    wait_found(host, said)
    lab.wait_protected(guests)
    assert not lab.incidents()
    # The new container is the one that acts.
    lab.kill_qemu(guests[0])
    lab.wait_each_runs_once(guests)
    assert lab.oracle.running(guests[0].uuid) == ["hv1"]
    lab.assert_nobody_fenced()


@case(limit=240)
def guests_that_die_with_their_container_are_judged_once_libvirt_answers(lab: Lab):
    contained(lab, {"hv1": "sealed"})
    guests = lab.protected_site(2, on=["hv1", "hv2"])
    host = lab.host("hv1")
    host.kill_service("libvirtd")
    lab.wait_incident_state(guests[0].name, "cause-pending", timeout=15)
    stays_true(lambda: lab.oracle.running(guests[0].uuid) == [], 5, "nothing is started before the cause is known")
    host.start_service("libvirtd")
    lab.wait_each_runs_once(guests)
    assert lab.oracle.running(guests[0].uuid) == ["hv1"]
    lab.assert_nobody_fenced()


@case(limit=240, soak=True)
def disks_are_judged_by_the_mounts_of_the_container_and_not_of_the_host(lab: Lab):
    contained(lab, {"hv1": "kolla", "hv2": "sealed"})
    lab.aggregator.configure()
    lab.aggregator.start()
    shared = lab.guests(1, on=["hv1"], disk="mounted")[0]
    local = lab.define_guest("local", "hv1", disk="inner")
    lab.start_guests([local])
    # The same path on the host: a local folder for the one, what all hosts share for the other.
    fake = "00000000-0000-4000-8000-00000000dec0"
    decoys = [decoy(lab.host(name), container.MOUNTED / shared.uuid, fake) for name in ("hv1", "hv2")]
    on_host = container.inner(lab.root)
    (on_host / local.uuid).write_text("a decoy")
    (on_host / MARKER).write_text(fake)
    lab.wait_protected([shared])
    wait_until(lambda: lab.instance(local).get("protected"), 60, "the other one is protected")
    stays_true(lambda: not lab.instance(local)["recoverable_elsewhere"], 25, "its disk is in its container alone")
    assert lab.instance(local)["reason"]
    assert [path.read_text() for path in decoys] == ["a decoy"] * 2
    assert all((path.parent / MARKER).read_text() == fake for path in decoys), "no marker is made on the host"
    marker = (lab.root / "shared" / MARKER).read_text().strip()
    assert marker not in ("", fake), "it lies where the container has the disk"
    lab.host("hv1").crash()
    lab.wait_each_runs_once([shared], not_on=["hv1", "hv3"])
    assert runs_in_a_container(lab, shared), "hv3 does not have the folder"
    stays_true(lambda: lab.oracle.running(local.uuid) == [], 8, "the other one waits for its host")
