"""Servers that die alone, nova-compute that is down, a cloud that cannot be asked: nothing is lost or done twice."""

import contextlib

from medevac_cloud import EVACUATE, CloudLab, plan
from medevac_cloud.rescue import configured, host_row, outcomes, recovered, wait_alert, wait_covered, watched
from medevac_lab import wait_until
from medevac_lab.registry import case

QUICK = {"report_interval": 1, "service_down_time": 5}
# medevac waits half a minute before it says that a service is down, and a minute before it is well again.
DOWN_S, WELL_S = 30, 60
# Short enough to run out while Keystone is away.
TOKEN_S = 12
# Oftener than anybody else's refusal is put up with.
LIMITED_TIMES = 4
# An evacuation of which Nova shows no trace is repeated after a minute.
UNSEEN_S = 60


def subject(lab: CloudLab, server) -> str:
    """As medevac calls it."""
    return lab.instance(server)["name"]


def newest(lab: CloudLab, about: str) -> dict:
    """The newest incident about a server or a host; empty when there is none."""
    rows = lab.incidents(subject=about)
    return lab.ctl("incident", max(rows, key=lambda row: row["opened_wall_ms"])["id"]) if rows else {}


def of_server(lab: CloudLab, server) -> dict:
    return newest(lab, subject(lab, server))


def restarted(lab: CloudLab, server) -> None:
    """By Nova, on its own host, and one process."""
    wait_until(lambda: of_server(lab, server).get("state") == "closed", 60, f"the incident of {server} closes")
    lab.cloud.wait_active([server])
    assert server.host == server.first_host and of_server(lab, server)["doing"] == "closed: recovered"
    lab.cloud.assert_agrees([server])


def left_alone(lab: CloudLab, server, why: str) -> None:
    wait_until(lambda: of_server(lab, server).get("state") == "waiting", 60, f"{server} waits")
    text = lab.outcome(subject(lab, server), server)["text"]
    assert why in text, text


@case(limit=400, soak=True)
def a_server_whose_qemu_dies_is_started_again_by_nova_and_one_that_its_user_stopped_is_not(lab: CloudLab):
    dying, stopped = servers = lab.cloud.boot(2, host="hv1")
    watched(lab, servers, timing={"restart_backoff": "1s"}, more="[recovery]\nrestarts_max = 1\n")
    lab.cloud.action(stopped, "os-stop")
    lab.kill_qemu(dying)
    restarted(lab, dying)
    lab.kill_qemu(dying)
    left_alone(lab, dying, "it is not started at home again")
    assert stopped.status == "SHUTOFF" and lab.oracle.running(stopped.uuid) == [], "its user stopped it"
    assert of_server(lab, stopped).get("doing", "closed: stays-down") == "closed: stays-down"
    assert not lab.cloud.proxy.evacuations()
    lab.assert_nobody_fenced()


@case(limit=500, soak=True)
def a_nova_compute_that_is_down_takes_its_host_out_of_scheduling_and_moves_nobody(lab: CloudLab):
    cloud = lab.cloud
    cloud.configure(**QUICK)
    cloud.restart_computes()
    steady, orphan = servers = cloud.boot(2, host="hv1")
    watched(lab, servers)
    cloud.disable("hv2", "a bad disk")
    cloud.disable("hv3", "Maintenance until Monday")
    for host in ("hv1", "hv2"):
        cloud.compute(host).kill()
    excused = "its nova-compute was disabled: Maintenance until Monday"
    wait_until(lambda: host_row(lab, "hv3").get("why") == excused, 30, "the word of an administrator is obeyed")
    assert not host_row(lab, "hv2")["why"], "that of another one is about something else"
    for host in ("hv1", "hv2"):
        lab.wait_code(host, "service-down", timeout=DOWN_S + 30)
    cloud.wait_service("hv1", status="disabled", timeout=30)
    assert "medevac inc-" in cloud.service("hv1")["disabled_reason"], cloud.service("hv1")
    lab.kill_qemu(orphan)
    left_alone(lab, orphan, "nova-compute on hv1 is not up yet")

    for host in ("hv1", "hv2"):
        cloud.compute(host).start()
    restarted(lab, orphan)
    cloud.wait_service("hv1", status="enabled", timeout=WELL_S + 30)
    wait_until(lambda: newest(lab, "hv2").get("state") == "closed", 30, "that of hv2 is well, too")
    assert cloud.service("hv2")["disabled_reason"] == "a bad disk", "it is not ours"
    cloud.assert_agrees([steady])
    assert not cloud.proxy.evacuations() and not cloud.service("hv1")["forced_down"]
    lab.assert_nobody_fenced()


@contextlib.contextmanager
def without_compute(lab: CloudLab):
    """A catalog in which Nova is not."""
    client = lab.cloud.client
    service = next(
        row["id"] for row in client.call("keystone", "GET", "/v3/services").body["services"] if row["type"] == "compute"
    )

    def switch(on: bool) -> None:
        client.call("keystone", "PATCH", f"/v3/services/{service}", {"service": {"enabled": on}})

    switch(False)
    try:
        yield
    finally:
        switch(True)
        # Each of its processes keeps the old catalog for minutes.
        lab.cloud.restart("keystone")


def clouds_with_faults(lab: CloudLab):
    """clouds.yaml with clouds that cannot be used, and the file that should hold a password."""
    folder = lab.cloud.folder
    good, secret, file = lab.cloud.clouds_yaml.read_text(), folder / "password", folder / "faulty.yaml"
    head, *clouds = good.split("\n  lab")
    direct, tls = (next(cloud for cloud in clouds if cloud.startswith(name)) for name in ("-direct:", "-tls:"))
    trustless = "\n".join(line for line in tls.splitlines() if "cacert" not in line)
    filed = tls.replace(f"password: {plan.PASSWORD}", f"password_file: {secret}")
    for name, text in (
        ("nowhere", direct.replace(plan.REGION, "RegionTwo")),
        ("trustless", trustless),
        ("filed", filed),
    ):
        good += f"\n  {name}:" + text.split(":", 1)[1]
    file.write_text(good)
    file.chmod(0o600)
    secret.write_text("not the password\n")
    secret.chmod(0o600)
    return file, secret


def can_be_asked(lab: CloudLab) -> None:
    alerts = lambda: {row["code"] for row in lab.ctl("status")["alerts"]}  # noqa: E731
    wait_until(lambda: "MDV-CLOUD" not in alerts(), 60, "Nova can be asked")


@case(limit=500, soak=True)
def a_cloud_that_cannot_be_asked_says_why_and_nothing_is_done_until_it_can(lab: CloudLab):
    cloud, aggregator = lab.cloud, lab.aggregator
    cloud.call_host("hv1", name="node-one")
    servers = cloud.boot(2, host="node-one")
    file, secret = clouds_with_faults(lab)

    configured(lab, cloud="lost", clouds_file=file)
    aggregator.start(wait=False, keep_exit_code=True)
    assert aggregator.wait_exit_code() != 0 and "has no cloud lost; it has" in aggregator.log(), aggregator.log()
    for name, words in (
        ("nowhere", ("no compute in region RegionTwo", plan.REGION, "region_name")),
        ("trustless", ("certificate",)),
    ):
        configured(lab, cloud=name, clouds_file=file)
        aggregator.start()
        wait_alert(lab, "MDV-CLOUD", *words)
        aggregator.stop()
    with without_compute(lab):
        configured(lab, cloud="lab-direct")
        aggregator.start()
        wait_alert(lab, "MDV-CLOUD", "no service of type compute")
    # One that is put right is noticed, although the token is good for a day.
    can_be_asked(lab)
    aggregator.stop()

    configured(lab, cloud="filed", clouds_file=file)
    aggregator.start()
    wait_alert(lab, "MDV-CLOUD", "refused the credentials", "check user, password, project")
    wait_covered(lab, servers)
    lab.host("hv1").crash()
    lab.wait_code("hv1", "proof")
    wait_until(lambda: lab.outcome("hv1", servers[0]).get("outcome") == "waiting", 30, "its servers wait, visibly")
    secret.write_text(f"{plan.PASSWORD}\n")
    can_be_asked(lab)

    # Now Nova answers, and does not know the host.
    wait_alert(lab, "MDV-CLOUD-NAME", "hv1")
    told = wait_until(lambda: outcomes(lab, "hv1")[servers[0].uuid]["text"], 30, "why they wait")
    wait_until(lambda: "no nova-compute on hv1" in outcomes(lab, "hv1")[servers[0].uuid]["text"], 30, f"why: {told}")
    assert not cloud.service("node-one")["forced_down"] and not cloud.proxy.evacuations(), "nothing was guessed"
    aggregator.stop()
    watched(lab, servers, cloud="filed", clouds_file=file, more='[openstack.hosts]\nhv1 = "node-one"\n')
    recovered(lab, "hv1", servers)


def evacuation_of(server) -> dict:
    """What a fault is to befall."""
    return {**EVACUATE, "path": f"/servers/{server.uuid}/action$"}


def statuses(lab: CloudLab, server) -> list[int]:
    """What medevac was answered, each time that it asked for an evacuation of this server."""
    return [post.get("status") for post in lab.cloud.proxy.evacuations(server)]


@case(limit=500, soak=True)
def a_recovery_goes_on_through_limits_pages_of_proxies_and_a_keystone_that_is_away(lab: CloudLab):
    cloud, proxy = lab.cloud, lab.cloud.proxy
    cloud.configure(token_seconds=TOKEN_S)
    limited, paged, plain = servers = cloud.boot(3, host="hv1")
    watched(lab, servers)
    proxy.too_many(5, match=evacuation_of(limited), times=LIMITED_TIMES)
    proxy.html(200, forward=True, match=evacuation_of(paged), times=1)
    proxy.too_many(5, method="PUT", path="/os-services/", times=1)
    proxy.html(200, method="GET", path="/os-migrations", times=3)
    lab.host("hv1").crash()
    wait_until(lambda: all(any(statuses(lab, server)) for server in servers), 60, "each is asked for", every=0.05)
    away = proxy.cut(front="keystone")
    wait_alert(lab, "MDV-CLOUD", "Keystone", timeout=TOKEN_S + 30)
    proxy.clear(away)
    recovered(lab, "hv1", servers)
    assert statuses(lab, limited) == [*[429] * LIMITED_TIMES, 200], "a limit is no try"
    assert statuses(lab, paged) == [200] and statuses(lab, plain) == [200], "what Nova took is not asked for again"


@case(limit=500, soak=True)
def an_evacuation_that_may_have_been_sent_is_repeated_when_nova_has_shown_no_trace_for_a_minute(lab: CloudLab):
    servers = lab.cloud.boot(1, host="hv1")
    watched(lab, servers)
    lab.cloud.proxy.too_many(5, status=503, match=evacuation_of(servers[0]), times=1)
    lab.host("hv1").crash()
    recovered(lab, "hv1", servers)
    assert statuses(lab, servers[0]) == [503, 200]
    first, again = (post["t"] for post in lab.cloud.proxy.evacuations(servers[0]))
    assert again - first >= UNSEEN_S, again - first
