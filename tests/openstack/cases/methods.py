"""Recovery methods and segments on a real Nova: which servers go where, and who has to say so first."""

import dataclasses
import json

from medevac_cloud import CloudLab
from medevac_cloud.rescue import host_row, outcomes, recovered, wait_covered, watched
from medevac_lab import stays_true, wait_until
from medevac_lab.aggregator import toml
from medevac_lab.registry import case

RESERVE = "reserve"
# Of a host's 16 GiB, which Nova lends one and a half times: one of these fits on a host, two do not.
LARGE_MIB = 14000
# Less than the smallest server, however often Nova lends it.
TOO_SMALL_MIB = 60


def method(name: str, *reserved: str) -> str:
    """For all hosts that are in no zone of their own."""
    return f'[segments.nova]\nrecovery_method = "{name}"\nreserved_hosts = {toml(reserved)}\n'


def shown_as(lab: CloudLab, host: str, text: str) -> None:
    """What `medevacctl hosts` says of a reserve."""
    wait_until(lambda: host_row(lab, host).get("why") == text, 30, f"{host} is shown as {text!r}")


def logged(lab: CloudLab, text: str) -> None:
    wait_until(lambda: text in lab.aggregator.log(), 15, f"the log says {text!r}")


def is_reserve(lab: CloudLab, host: str) -> bool:
    service = lab.cloud.service(host)
    return (service["status"], service["disabled_reason"]) == ("disabled", RESERVE)


def reported(lab: CloudLab) -> None:
    """The services were read three times from now on: that a nova-compute reports is seen by two that differ."""
    reads = lambda: len(lab.cloud.proxy.requests("GET", "/os-services"))  # noqa: E731
    before = reads()
    wait_until(lambda: reads() >= before + 3, 30, "medevac reads the services")


def targets(lab: CloudLab, server) -> list[str | None]:
    """Where Nova was asked to evacuate it to, one time after the other."""
    return [json.loads(post["body"])["evacuate"].get("host") for post in lab.cloud.proxy.evacuations(server)]


def shrink(lab: CloudLab, host: str) -> None:
    """No server fits there any more."""
    compute = lab.cloud.compute(host)
    compute.install(dataclasses.replace(lab.cloud.knobs, memory_mib=TOO_SMALL_MIB, report_interval=1))
    compute.stop()
    compute.start(wait=False)


@case(hosts=4, limit=500, soak=True)
def servers_go_to_a_reserved_host_and_one_that_took_nobody_is_reserved_again(lab: CloudLab):
    cloud = lab.cloud
    cloud.aggregate("rack1", "hv1", "hv2")
    for host in ("hv3", "hv4"):
        cloud.disable(host, RESERVE)
    shrink(lab, "hv4")
    servers = cloud.boot(2, host="hv1")
    watched(lab, servers, more=method("reserved_host", "hv3"))
    shown_as(lab, "hv3", "reserved")
    lab.host("hv1").crash()
    recovered(lab, "hv1", servers)
    assert {server.host for server in servers} == {"hv3"}, "hv2 had room, and was not to be used"
    assert cloud.service("hv3")["status"] == "enabled" and is_reserve(lab, "hv4"), cloud.services()
    assert cloud.aggregates() == {"rack1": ["hv1", "hv2", "hv3"]}, cloud.aggregates()
    shown_as(lab, "hv3", "named as reserved, and used like any other")
    logged(lab, f"hv3 was used by {lab.incident('hv1')['id']}: it is no longer reserved")

    # Its next reserve has no room, and Nova itself has to say so: they go where there is some.
    lab.aggregator.stop()
    watched(lab, servers, more=method("rh_priority", "hv4"))
    cloud.compute("hv4").wait_ready()
    reported(lab)
    shown_as(lab, "hv4", "reserved")
    lab.host("hv3").crash()
    recovered(lab, "hv3", servers, asked=3)
    failed = [entry["text"] for entry in lab.incident("hv3")["timeline"] if entry["code"] == "planned"]
    assert all("No valid host was found" in text for text in failed), failed
    assert {server.host for server in servers} == {"hv2"}, "there was room nowhere else"
    for server in servers:
        assert targets(lab, server) == ["hv3", "hv4", None], targets(lab, server)
    wait_until(lambda: is_reserve(lab, "hv4"), 30, "the reserved host that took nobody is given back")
    wait_until(lambda: "hv4" not in cloud.aggregates()["rack1"], 30, "it leaves the aggregate again")
    shown_as(lab, "hv4", "reserved")
    logged(lab, f"hv4 was not used by {lab.incident('hv3')['id']} and is reserved again")
    lab.assert_only_fenced("hv1", "hv3")


@case(hosts=4, limit=500, soak=True)
def a_server_for_which_nova_finds_no_room_waits_for_a_dead_reserve_and_goes_there_when_it_is_back(lab: CloudLab):
    cloud = lab.cloud
    cloud.disable("hv3", RESERVE)
    large = cloud.flavor("large", LARGE_MIB)
    small = cloud.boot(1, host="hv1", wait=False)[0]
    biggest, *others = (
        cloud.boot(1, host=host, flavor=large, name=f"large-{host}-", wait=False)[0] for host in ("hv1", "hv2", "hv4")
    )
    cloud.wait_running([small, biggest, *others])
    watched(lab, [small, biggest, *others], more=method("auto_priority", "hv3"))
    # Nobody is on it, so medevac does not shoot it by itself.
    lab.host("hv3").crash()
    lab.ctl("fence", "hv3", "--reason", "it does not answer")
    lab.wait_host_state("hv3", "dead", "fenced")
    wait_until(lambda: lab.incident("hv3")["state"] == "closed", 60, "nobody was on it")
    lab.host("hv1").crash()

    def waits() -> bool:
        told = outcomes(lab, "hv1").get(biggest.uuid, {})
        return told.get("outcome") == "waiting" and "no reserved host is left" in told["text"]

    wait_until(waits, 60, "the large one waits")
    assert "hv3: it is dead" in outcomes(lab, "hv1")[biggest.uuid]["text"], outcomes(lab, "hv1")
    failed = [entry["text"] for entry in lab.incident("hv1")["timeline"] if entry["code"] == "planned"]
    assert failed and "No valid host was found" in failed[-1], failed
    assert small.host in ("hv2", "hv4") and is_reserve(lab, "hv3")
    lab.ctl("release", "hv3", "--reason", "repaired")
    lab.host("hv3").boot()
    recovered(lab, "hv1", [small])
    recovered(lab, "hv1", [biggest], asked=2)
    assert biggest.host == "hv3"
    cloud.assert_agrees(others)


@case(limit=400, soak=True)
def each_zone_has_a_mode_of_its_own(lab: CloudLab):
    cloud = lab.cloud
    cloud.aggregate("az1", "hv1", "hv2", zone="az1")
    cloud.aggregate("az2", "hv3", zone="az2")
    servers = cloud.boot(2, host="hv1", availability_zone="az1")
    watched(lab, servers, more='[segments.az1]\nmode = "observe"\n')
    zones = {"hv1": "az1", "hv2": "az1", "hv3": "az2"}
    wait_until(lambda: {row["name"]: row["segment"] for row in lab.ctl("hosts")} == zones, 30, "zones are segments")
    modes = {row["name"]: row["mode"] for row in lab.ctl("status")["segments"]}
    assert modes == {"az1": "observe", "az2": "act"}, modes
    lab.host("hv1").crash()
    lab.wait_incident_state("hv1", "observed")
    stays_true(lambda: not lab.fenced() and not cloud.proxy.evacuations(), 5, "nothing is done in that zone")
    assert "mode observe" in lab.incident("hv1")["doing"] and not cloud.service("hv1")["forced_down"]
    lab.ctl("mode", "az1", "act", "--yes", "--reason", "now it is to be done")
    recovered(lab, "hv1", servers)
    assert {server.host for server in servers} == {"hv2"}, "Nova keeps them in their zone"
    wait_covered(lab, servers)
