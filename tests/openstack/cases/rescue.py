"""medevac on a real Nova: a compute host dies, and its servers are ACTIVE elsewhere, each once."""

import time

from medevac_cloud import CloudLab, plan
from medevac_cloud.rescue import RESCUE_S, hold, outcomes, recovered, watched
from medevac_lab import stays_true, wait_until
from medevac_lab.canary import assert_nowhere
from medevac_lab.registry import case


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
    assert_nowhere(lab, [plan.PASSWORD])


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


@case(limit=400, soak=True)
def a_nova_that_is_away_when_a_host_dies_is_waited_for(lab: CloudLab):
    servers = lab.cloud.boot(2, host="hv1")
    watched(lab, servers)
    lab.cloud.stop("nova-api")
    lab.host("hv1").crash()
    lab.wait_code("hv1", "proof")
    wait_until(lambda: lab.outcome("hv1", servers[0]).get("outcome") == "waiting", 60, "its servers wait, visibly")
    lab.cloud.start("nova-api")
    recovered(lab, "hv1", servers)


# Each start dies a step further in the same recovery than the one before.
CHAIN = (
    "after-commit:step",
    "before-dispatch:cloud-force-down",
    "after-dispatch:cloud-force-down",
    "before-dispatch:cloud-evacuate",
    "after-dispatch:cloud-evacuate",
    "before-commit:outcome",
    "after-dispatch:cloud-follow",
    "after-commit:outcome",
)


@case(limit=600, soak=True)
def an_aggregator_killed_at_each_step_asks_for_no_evacuation_twice(lab: CloudLab):
    servers = lab.cloud.boot(3, host="hv1")
    watched(lab, servers)
    lab.host("hv1").crash()
    lab.wait_code("hv1", "off-ordered")
    lab.aggregator.kill9()
    for point in CHAIN:
        lab.aggregator.start(["--crash-at", point], wait=False)
        # An evacuation that may have been sent is only repeated when Nova has shown no trace of it for a minute.
        wait_until(lambda: not lab.aggregator.running(), 120, f"it dies at {point}")
    lab.aggregator.start()
    recovered(lab, "hv1", servers)
    assert set(lab.cloud.proxy.evacuate_posts().values()) == {1}, lab.cloud.proxy.evacuate_posts()


@case(limit=400, soak=True)
def an_aggregator_killed_once_it_has_asked_to_disable_the_host_goes_on(lab: CloudLab):
    """By itself: after a restart it may come before the evacuations as well as after them."""
    servers = lab.cloud.boot(2, host="hv1")
    watched(lab, servers)
    lab.aggregator.kill9()
    lab.aggregator.start(["--crash-at", "after-dispatch:cloud-disable"])
    lab.host("hv1").crash()
    wait_until(lambda: not lab.aggregator.running(), 120, "it dies when it has asked for the disable")
    lab.aggregator.start()
    recovered(lab, "hv1", servers)


@case(limit=500)
def a_decider_stopped_between_its_commit_and_its_request_sends_none_late(lab: CloudLab):
    """It wakes when the request's time is over: it reads everything again before it asks."""
    servers = lab.cloud.boot(2, host="hv1")
    watched(lab, servers, timing={"cloud_deadline": "5s"})
    proxy = lab.cloud.proxy
    # Between its reads and its request.
    late = [proxy.delay(3, method="GET", path=f"/servers/{server.uuid}$") for server in servers]
    lab.host("hv1").crash()
    wait_until(lambda: read_again(lab, servers), 60, "the servers are read again, after the commit", every=0.05)
    lab.aggregator.freeze()
    assert not proxy.evacuations(), "nothing was asked yet"
    time.sleep(8)
    for rule in late:
        proxy.clear(rule)
    woken = time.clock_gettime(time.CLOCK_BOOTTIME)
    reads = len(proxy.requests("GET", "/servers/"))
    lab.aggregator.thaw()
    recovered(lab, "hv1", servers)
    assert set(proxy.evacuate_posts().values()) == {1}, proxy.evacuate_posts()
    first = min(proxy.evacuations(), key=lambda post: post["t"])
    again = [read for read in proxy.requests("GET", "/servers/")[reads:] if woken <= read["t"] < first["t"]]
    assert [read for read in again if first["server"] in read["path"]], "it was read again before it was asked for"


def read_again(lab: CloudLab, servers) -> bool:
    paths = [entry["path"] for entry in lab.cloud.proxy.requests("GET", "/servers/")]
    return any(path.endswith(f"/servers/{server.uuid}") for path in paths for server in servers)


@case(limit=600, soak=True)
def a_nova_that_is_killed_in_the_middle_goes_on_where_it_was(lab: CloudLab):
    rescued_without(lab, "nova-api")


@case(limit=700, soak=True)
def a_message_queue_that_restarts_in_the_middle_loses_nobody(lab: CloudLab):
    """Nova gives up after a minute what waits for an answer; what lay in the queue it calls under way for ever."""
    servers = lab.cloud.boot(3, host="hv1")
    watched(lab, servers, timing={"evacuation_deadline": "90s"})
    lab.host("hv1").crash()
    wait_until(lambda: len(lab.cloud.proxy.evacuations()) == len(servers), 60, "all are asked for", every=0.02)
    lab.cloud.kill("rabbitmq")
    lab.cloud.start("rabbitmq")

    def lost() -> list:
        told = outcomes(lab, "hv1")
        return [server for server in servers if "openstack server set --state error" in told[server.uuid]["text"]]

    def settled() -> bool:
        told = [row["outcome"] for row in outcomes(lab, "hv1").values()]
        return told.count("recovered") + len(lost()) == len(servers)

    wait_until(settled, 300, "each is recovered, or given to a person", every=1)
    for server in lost():
        lab.cloud.action(server, "os-resetState", state="error")
    wait_until(lambda: lab.incident("hv1")["state"] == "closed", RESCUE_S, "the incident of hv1 closes")
    # The second time once Nova, or a person, had said that the first was over.
    asked = [len(lab.cloud.evacuate_actions(server)) for server in servers]
    assert set(asked) <= {1, 2}, asked
    for server, times in zip(servers, asked, strict=True):
        recovered(lab, "hv1", [server], asked=times)


@case(limit=600, soak=True)
def a_conductor_that_dies_in_the_middle_is_told_to_a_person_if_it_took_something_with_it(lab: CloudLab):
    rescued_without(lab, "conductor")


def rescued_without(lab: CloudLab, service: str) -> None:
    """A part of Nova dies as soon as the first evacuation has come, and is back three seconds later."""
    servers = lab.cloud.boot(4, host="hv1")
    watched(lab, servers)
    lab.host("hv1").crash()
    wait_until(lab.cloud.proxy.evacuations, 60, "the first evacuation is asked for", every=0.02)
    lab.cloud.kill(service)
    time.sleep(3)
    lab.cloud.start(service)
    recovered(lab, "hv1", servers)


@case(limit=600)
def a_cell_whose_database_is_down_when_a_host_dies_loses_nobody(lab: CloudLab):
    servers = lab.cloud.boot(3, host="hv1")
    watched(lab, servers)
    lab.cloud.kill("cell-db")
    lab.host("hv1").crash()
    lab.wait_code("hv1", "proof")
    stays_true(lambda: lab.incident("hv1")["state"] != "closed", 15, "a list that is too short closes nothing")
    told = outcomes(lab, "hv1")
    assert {told[server.uuid]["outcome"] for server in servers} == {"waiting"}, told
    lab.cloud.start("cell-db")
    recovered(lab, "hv1", servers)


@case(limit=600, soak=True)
def a_host_that_reboots_in_the_middle_and_resumes_its_guests_makes_no_second_copy(lab: CloudLab):
    lab.cloud.configure(resume_guests_state_on_host_boot=True)
    for host in lab.hosts:
        hold(lab, host)
    servers = lab.cloud.boot(3, host="hv1")
    watched(lab, servers)
    lab.cloud.proxy.fault("delay", seconds=6, skip=1, method="POST", path="/action$")
    lab.host("hv1").crash()
    wait_until(lab.cloud.proxy.evacuations, 60, "the first evacuation is asked for", every=0.05)
    lab.host("hv1").boot()
    lab.cloud.proxy.clear()
    lab.cloud.wait_active(servers, timeout=RESCUE_S)
    wait_until(lambda: lab.incident("hv1")["state"] == "closed", 120, "the incident of hv1 closes")
    lab.cloud.wait_service("hv1", state="up", forced_down=False, status="enabled")
    lab.cloud.assert_agrees(servers)
    assert max(lab.cloud.proxy.evacuate_posts().values()) == 1, lab.cloud.proxy.evacuate_posts()


@case(limit=500, soak=True)
def a_host_that_comes_back_is_taken_up_again(lab: CloudLab):
    servers = lab.cloud.boot(2, host="hv1")
    hold(lab, "hv1")
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
