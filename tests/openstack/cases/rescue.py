"""medevac on a real Nova: a compute host dies, and its servers are ACTIVE elsewhere, each once."""

import time

from medevac_cloud import CloudLab
from medevac_lab import stays_true, wait_until
from medevac_lab.registry import case

# nova-compute reports, and is believed, as packaged: medevac must not wait for it.
RESCUE_S = 120


def watched(lab: CloudLab, servers, **config) -> None:
    """An aggregator that has seen every server, and every nova-compute of the site."""
    extra = f'[openstack]\nclouds_file = "{lab.cloud.clouds_yaml}"\ncloud = "lab"\n'
    top = {"cloud": "openstack", **config.pop("top", {})}
    lab.aggregator.configure(top=top, extra=extra, **config)
    lab.aggregator.start()

    def covered() -> bool:
        rows = {row["uuid"]: row for row in lab.ctl("instances")}
        seen = all(server.uuid in rows and rows[server.uuid]["protected"] for server in servers)
        return seen and lab.ctl("status")["role"] == "deciding"

    wait_until(covered, 60, f"medevac protects {servers}")


def recovered(lab: CloudLab, host: str, servers) -> None:
    """Nova, medevac and the processes agree: each runs once, and not on that host."""
    lab.cloud.wait_active(servers, not_on=[host], timeout=RESCUE_S)
    wait_until(lambda: lab.incident(host)["state"] == "closed", 60, f"the incident of {host} closes")
    lab.cloud.assert_agrees(servers)
    told = {row["uuid"]: row for row in lab.incident(host)["instances"]}
    for server in servers:
        assert told[server.uuid]["outcome"] == "recovered", told[server.uuid]
        assert told[server.uuid]["host"] == server.host, (told[server.uuid], server.host)
        assert len(lab.cloud.evacuate_actions(server)) == 1, lab.cloud.evacuate_actions(server)
    lab.assert_no_violation()


@case(limit=400)
def a_compute_host_that_dies_has_its_servers_active_elsewhere(lab: CloudLab):
    servers = lab.cloud.boot(3, host="hv1")
    watched(lab, servers)
    lab.host("hv1").crash()
    recovered(lab, "hv1", servers)
    lab.assert_only_fenced("hv1")
    service = lab.cloud.service("hv1")
    assert service["forced_down"] and service["status"] == "disabled", service
    assert "medevac inc-" in service["disabled_reason"], service
    codes = [entry["code"] for entry in lab.incident("hv1")["timeline"]]
    order = [codes.index(code) for code in ("off-ordered", "proof", "cloud-done", "start-ordered", "recovered")]
    assert order == sorted(order), codes


@case(limit=400)
def a_server_with_a_local_root_waits_for_its_host_and_keeps_its_disk(lab: CloudLab):
    shared, local = [*lab.cloud.boot(1, host="hv1"), *lab.cloud.boot(1, host="hv1", root="local", name="local")]
    watched(lab, [shared, local])
    lab.host("hv1").crash()
    lab.cloud.wait_active([shared], not_on=["hv1"], timeout=RESCUE_S)
    wait_until(lambda: lab.outcome("hv1", local).get("outcome") == "waiting", 30, "the other one waits")
    assert "storage" in lab.outcome("hv1", local)["text"], lab.outcome("hv1", local)
    stays_true(lambda: not lab.cloud.evacuate_actions(local), 10, "it is not evacuated")
    assert lab.cloud.compute("hv1").local_disk(local).exists(), "its disk is still there"


@case(limit=400)
def a_nova_that_is_away_when_a_host_dies_is_waited_for(lab: CloudLab):
    servers = lab.cloud.boot(2, host="hv1")
    watched(lab, servers)
    lab.cloud.stop("nova-api")
    lab.host("hv1").crash()
    lab.wait_code("hv1", "proof")
    wait_until(lambda: lab.outcome("hv1", servers[0]).get("outcome") == "waiting", 60, "its servers wait, visibly")
    lab.cloud.start("nova-api")
    recovered(lab, "hv1", servers)


@case(limit=500, soak=True)
def an_aggregator_killed_during_the_evacuations_asks_for_none_twice(lab: CloudLab):
    servers = lab.cloud.boot(3, host="hv1")
    watched(lab, servers)
    lab.aggregator.kill9()
    lab.aggregator.start(["--crash-at", "after-dispatch:cloud-evacuate"])
    wait_until(lambda: lab.ctl("status")["role"] == "deciding", 60, "it decides")
    lab.host("hv1").crash()
    wait_until(lambda: not lab.aggregator.running(), 90, "it dies at its first evacuation")
    time.sleep(2)
    lab.aggregator.start()
    lab.cloud.wait_active(servers, not_on=["hv1"], timeout=2 * RESCUE_S)
    recovered(lab, "hv1", servers)


@case(limit=500)
def a_host_that_comes_back_is_taken_up_again(lab: CloudLab):
    servers = lab.cloud.boot(2, host="hv1")
    watched(lab, servers)
    lab.host("hv1").crash()
    recovered(lab, "hv1", servers)
    lab.ctl("release", "hv1", "--reason", "repaired")
    lab.host("hv1").boot()

    def whole() -> bool:
        service = lab.cloud.service("hv1")
        return not service["forced_down"] and service["status"] == "enabled" and service["state"] == "up"

    wait_until(whole, 150, "its nova-compute is up and enabled", every=1)
    lab.cloud.assert_agrees(servers)
    lab.assert_no_violation()
