"""The OpenStack lab itself: its proxy, its services' deaths, its reset. Needs no program under test."""

import time

from medevac_cloud import EVACUATE, CloudLab, floor, plan
from medevac_cloud.client import Client
from medevac_lab import stays_true, wait_until
from medevac_lab.registry import case

# How long an outsider waits for an answer in these cases.
PATIENCE_S = 3.0


class Outsider:
    """A client that comes from the aggregator's side, through the fault proxy."""

    def __init__(self, lab: CloudLab):
        self.client = Client(lab.root, namespace="agg")
        self.token = self.client.login(plan.USER, project="service", front=True).headers["x-subject-token"]

    def ask(self, method: str, path: str, body=None, timeout: float = PATIENCE_S):
        """(status, body), or the name of what went wrong, and how long it took."""
        begun = time.monotonic()
        headers = {"X-Auth-Token": self.token, "OpenStack-API-Version": f"compute {plan.MICROVERSION}"}
        try:
            answer = self.client.raw(method, plan.url("nova-api", front=True) + f"/v2.1{path}", body, headers, timeout)
        except OSError as error:
            return type(error).__name__, None, time.monotonic() - begun
        return answer.status, answer.body, time.monotonic() - begun


@case(hosts=1, limit=300, needs_product=False, soak=True)
def the_proxy_delays_refuses_cuts_and_hangs(lab: CloudLab):
    proxy, outsider = lab.cloud.proxy, Outsider(lab)
    path = "/os-services?binary=nova-compute"
    whole = outsider.ask("GET", path)[1]
    assert whole["services"][0]["host"] == "hv1"
    proxy.delay(1.5, method="GET")
    status, body, took = outsider.ask("GET", path)
    assert status == 200 and body == whole and took > 1.5
    proxy.clear()
    proxy.error(503, method="GET", times=1)
    assert [outsider.ask("GET", path)[0] for _ in range(2)] == [503, 200], "the first, and no other"
    proxy.too_many(7, method="GET", times=1)
    assert outsider.ask("GET", path)[0] == 429
    proxy.html(200, method="GET", skip=1, times=1)
    assert outsider.ask("GET", path)[1] == whole
    assert "<html>" in outsider.ask("GET", path)[1]
    proxy.cut(method="GET", times=1)
    assert outsider.ask("GET", path)[0] in ("ConnectionResetError", "RemoteDisconnected")
    proxy.hang(method="GET", times=1)
    assert outsider.ask("GET", path)[0] == "TimeoutError"
    assert outsider.ask("GET", path)[:2] == (200, whole)
    met = [(entry["fault"], entry.get("reached")) for entry in proxy.requests("GET", "/os-services")]
    assert ("cut", False) in met and ("error", False) in met and ("delay", True) in met, met


@case(hosts=1, limit=300, needs_product=False, soak=True)
def the_proxy_shows_what_was_and_lists_that_are_too_short(lab: CloudLab):
    proxy, outsider = lab.cloud.proxy, Outsider(lab)
    servers, path = lab.cloud.boot(2), "/servers/detail?all_tenants=1"
    assert len(outsider.ask("GET", path)[1]["servers"]) == 2
    proxy.short_list(keep=1)
    assert len(outsider.ask("GET", path)[1]["servers"]) == 1
    proxy.clear()
    proxy.stale()
    lab.cloud.delete(servers[0])
    wait_until(lambda: len(lab.cloud.servers()) == 1, 30, "one is deleted")
    assert len(outsider.ask("GET", path)[1]["servers"]) == 2, "the reader sees what was"
    proxy.clear()
    assert len(outsider.ask("GET", path)[1]["servers"]) == 1


@case(hosts=2, limit=300, needs_product=False, soak=True)
def an_evacuation_whose_answer_is_cut_off_is_carried_out_once(lab: CloudLab):
    cloud, outsider = lab.cloud, Outsider(lab)
    servers = cloud.boot(3, host="hv1")
    lab.host("hv1").crash()
    cloud.force_down("hv1")
    cloud.proxy.cut_after_accept(times=1)
    evacuate = {"evacuate": {"host": "hv2"}}
    assert isinstance(outsider.ask("POST", f"/servers/{servers[0].uuid}/action", evacuate)[0], str)
    cloud.proxy.clear()
    cloud.proxy.error(500, forward=True, times=1)
    assert outsider.ask("POST", f"/servers/{servers[1].uuid}/action", evacuate)[0] == 500
    cloud.proxy.cut(match=EVACUATE)
    assert isinstance(outsider.ask("POST", f"/servers/{servers[2].uuid}/action", evacuate)[0], str)
    cloud.wait_active(servers[:2], not_on=["hv1"])
    assert servers[2].host == "hv1", "Nova never heard of the third"
    assert cloud.proxy.evacuate_posts() == {server.uuid: 1 for server in servers}
    seen = [(entry["reached"], entry["upstream"], entry["status"]) for entry in cloud.proxy.evacuations()]
    assert seen == [(True, 200, None), (True, 200, 500), (False, None, None)], seen
    ids = [entry["id"] for entry in cloud.proxy.evacuations(servers[0])]
    assert ids == [action["request_id"] for action in cloud.evacuate_actions(servers[0])]
    cloud.assert_agrees(servers[:2])


@case(hosts=1, limit=300, needs_product=False, soak=True)
def keystone_misbehaves_too_and_no_secret_is_written_down(lab: CloudLab):
    proxy = lab.cloud.proxy
    Outsider(lab)
    proxy.error(503, front="keystone", times=1)
    client = Client(lab.root, namespace="agg")
    try:
        client.login(plan.USER, project="service", front=True)
        raise AssertionError("a login that the proxy refuses succeeded")
    except Exception as error:
        assert getattr(error, "status", None) == 503, error
    text = (proxy.folder / "requests.jsonl").read_text()
    assert proxy.requests("POST", "/v3/auth/tokens", front="keystone") and plan.PASSWORD not in text
    assert "gAAAA" not in text, "a token"


@case(hosts=1, limit=300, needs_product=False, soak=True)
def keystone_can_be_reached_over_tls_by_who_knows_its_authority(lab: CloudLab):
    where = f"{plan.ADDRESS}:{plan.TLS_FRONTS['keystone']}"
    ask = ["openssl", "s_client", "-connect", where, "-verify_return_error", "-verify_ip", plan.ADDRESS]
    for trust, code in (([], 1), (["-CAfile", str(lab.cloud.proxy.ca)], 0)):
        done = lab.net.run_in("agg", [*ask, *trust], input=b"", capture_output=True, timeout=30)
        assert done.returncode == code, (trust, done.stderr)
    assert "lab-tls" in lab.cloud.clouds_yaml.read_text()


@case(hosts=2, limit=300, needs_product=False, soak=True)
def a_nova_compute_that_is_held_waits_and_then_starts(lab: CloudLab):
    cloud, host = lab.cloud, lab.host("hv1")
    compute = cloud.compute(host)
    compute.hold = ["test", "-e", "/var/lib/nova/go"]
    compute.install(cloud.knobs)
    server = cloud.boot(1, host=host)[0]
    host.crash()
    cloud.force_down(host)
    cloud.evacuate(server)
    cloud.wait_active([server], not_on=[host])
    host.boot()
    stays_true(lambda: not compute.ready(), 8, "it waits for the word")
    assert host.exec(["virsh", "-q", "domstate", server.uuid]).stdout.strip() == "shut off", "its old copy is there"
    (compute.state / "go").touch()
    compute.wait_ready()
    wait_until(lambda: not host.virsh("list", "--all").strip(), 30, "and then removes its old copy")
    cloud.assert_agrees([server])


@case(hosts=3, limit=300, needs_product=False, soak=True)
def the_floor_evacuates_a_host(lab: CloudLab):
    servers = lab.cloud.boot(4, host="hv1")
    lab.host("hv1").crash()
    lab.cloud.force_down("hv1")
    found = floor.evacuate_all(lab.cloud, "hv1", in_flight=2).summary()
    print(f"    {found}", flush=True)
    assert found["servers"] == 4 and not found["failed"] and found["all_active"], found
    lab.cloud.assert_agrees(servers)


@case(hosts=1, limit=300, needs_product=False, soak=True)
def a_cell_without_its_database_answers_with_a_list_that_is_too_short(lab: CloudLab):
    """200, and nothing is there: what must not be taken for `this host has no servers`."""
    cloud = lab.cloud
    cloud.boot(1)
    cloud.kill("cell-db")
    old = cloud.nova("GET", "/servers/detail?all_tenants=1", version="2.53", ok=False)
    assert (old.status, old.body["servers"]) == (200, []), (old.status, old.body)
    new = cloud.nova("GET", "/servers/detail?all_tenants=1", ok=False)
    assert new.status == 200 and [row["status"] for row in new.body["servers"]] in ([], ["UNKNOWN"]), new.body
    cloud.start("cell-db")
    wait_until(lambda: len(cloud.servers()) == 1, 60, "the cell is back")


@case(hosts=2, limit=600, needs_product=False, soak=True)
def each_service_dies_and_comes_back(lab: CloudLab):
    cloud = lab.cloud
    for number, name in enumerate(("nova-api", "conductor", "scheduler", "rabbitmq", "keystone", "placement", "db")):
        cloud.kill(name)
        assert not cloud.running(name)
        cloud.start(name)
        cloud.wait_connected()
        server = wait_until(lambda called=f"after{number}-": try_boot(cloud, called), 90, f"a boot after {name} died")
        cloud.wait_active(server, timeout=90)


def try_boot(cloud, name: str):
    """Right after a death some worker still holds a connection that is gone: 500, and again."""
    try:
        return cloud.boot(1, name=name, wait=False)
    except Exception:
        return None


@case(hosts=2, limit=300, needs_product=False, soak=True)
def servers_can_be_in_the_states_that_an_incident_meets(lab: CloudLab):
    cloud = lab.cloud
    paused, suspended, locked, rescued, resized, moving = servers = cloud.boot(6, host="hv1")
    cloud.put(
        (paused, "paused", "pause"),
        (suspended, "suspended", "suspend"),
        (locked, "active", "lock"),
        (rescued, "rescued", "rescue", {"rescue_image_ref": cloud.image()}),
        (resized, "resized", "resize", {"flavorRef": cloud.flavor("small", ram=100)}),
        (moving, "active", "os-migrateLive", {"host": "hv2", "block_migration": "auto"}),
    )
    assert locked.show()["locked"] and moving.host == "hv2"
    where = {server.name: lab.oracle.running(server.uuid) for server in servers}
    assert where[suspended.name] == [] and where[resized.name] == where[moving.name] == ["hv2"], where
    cloud.action(resized, "confirmResize")
    cloud.wait_active([resized])
    assert resized.stamps_now()


@case(hosts=2, limit=300, needs_product=False, soak=True)
def nova_may_call_a_host_by_another_name(lab: CloudLab):
    cloud = lab.cloud
    cloud.call_host("hv2", hypervisor="hv2.example.org")
    names = lambda: {row["service"]["host"]: row["hypervisor_hostname"] for row in cloud.hypervisors()}  # noqa: E731
    wait_until(lambda: names() == {"hv1": "hv1", "hv2": "hv2.example.org"}, 60, "the hypervisor has its long name")
    cloud.call_host("hv2", name="node-two")
    wait_until(lambda: names().get("node-two") == "hv2.example.org", 60, "and the service a name of its own")
    servers = cloud.boot(1, host="node-two", wait=False)
    cloud.wait_active(servers)
    assert lab.oracle.running(servers[0].uuid) == ["hv2"]


@case(hosts=2, limit=300, needs_product=False, soak=True)
def a_reset_leaves_nothing_of_the_case_before(lab: CloudLab):
    cloud = lab.cloud
    cloud.configure(report_interval=5)
    servers = cloud.boot(2, host="hv1")
    lab.host("hv1").crash()
    cloud.force_down("hv1")
    cloud.disable("hv2")
    cloud.aggregate("row", "hv2")
    cloud.evacuate(servers[0])
    cloud.kill("conductor")
    begun = time.monotonic()
    lab.reset(2)
    took = time.monotonic() - begun
    assert cloud.servers() == [] and cloud.migrations() == []
    found = {(row["host"], row["state"], row["status"], row["forced_down"]) for row in cloud.services()}
    assert found == {(host, "up", "enabled", False) for host in ("hv1", "hv2")}, found
    assert cloud.aggregates() == {}
    servers = cloud.boot(2)
    cloud.assert_agrees(servers)
    print(f"    the reset took {took:.1f} s", flush=True)
