"""The cloud itself: what real Nova does when a host dies. Needs no program under test.

What medevac has to prevent is shown here first, so that no later case is
green because the lab could not show it.
"""

from medevac_cloud import ApiError, CloudLab, is_active
from medevac_lab import stays_true, wait_until
from medevac_lab.registry import case
from medevac_lab.storage import first_byte, read_disk

# Somebody's data, on a sector that the guest never touches.
DATA = b"the only copy of somebody's thesis"
DATA_AT = 4096
QUICK = {"report_interval": 1, "service_down_time": 5}


def refused(call, *words, status: int = 400) -> str:
    """Nova's words when it says no."""
    try:
        call(*words)
    except ApiError as error:
        assert error.status == status, error
        return error.message
    raise AssertionError(f"{call.__name__}{words} was not refused")


def write_data(path) -> None:
    with open(path, "r+b") as disk:
        disk.seek(first_byte(disk) + DATA_AT)
        disk.write(DATA)


def has_data(path) -> bool:
    return read_disk(path, DATA_AT, len(DATA)) == DATA


def lay_data(lab: CloudLab, servers) -> None:
    """On the disk of each, while it stands still."""
    for server in servers:
        lab.cloud.action(server, "os-stop")
        lab.cloud.wait_server(server, lambda row: row["status"] == "SHUTOFF", f"{server} is stopped")
        write_data(server.disk_path)
        lab.cloud.action(server, "os-start")
    lab.cloud.wait_active(servers)


@case(limit=300, needs_product=False, soak=True)
def a_server_is_a_real_domain_on_the_host_it_was_booted_on(lab: CloudLab):
    servers = [*lab.cloud.boot(1, host="hv1"), *lab.cloud.boot(1, host="hv2", root="local", name="local")]
    for server, host in zip(servers, ("hv1", "hv2"), strict=True):
        row = server.show()
        assert row["OS-EXT-SRV-ATTR:host"] == row["OS-EXT-SRV-ATTR:hypervisor_hostname"] == host
        assert lab.oracle.running(server.uuid) == [host]
        xml = lab.host(host).virsh("dumpxml", server.uuid)
        assert f"<nova:name>{server.name}</nova:name>" in xml and row["OS-EXT-SRV-ATTR:instance_name"] in xml
    lab.cloud.assert_agrees(servers)
    servers[0].cloud.action(servers[0], "os-stop")
    lab.cloud.wait_server(servers[0], lambda row: row["status"] == "SHUTOFF", "the server is stopped")
    assert "MDV-POWEROFF" in servers[0].console(), "its guest was asked, not killed"
    lab.cloud.action(servers[0], "os-start")
    lab.cloud.wait_active(servers)
    lab.cloud.delete(servers[1])
    wait_until(lambda: len(lab.cloud.servers()) == 1, 30, "the other one is deleted")
    assert lab.oracle.running(servers[1].uuid) == [] and not servers[1].disk_path.exists()


@case(limit=300, needs_product=False, soak=True)
def a_server_of_a_dead_host_is_evacuated_and_runs_once(lab: CloudLab):
    cloud = lab.cloud
    servers = cloud.boot(2, host="hv1")
    lab.host("hv1").crash()
    assert "still in use" in refused(cloud.evacuate, servers[0]), "Nova believes the host for a while"
    assert cloud.force_down("hv1")["state"] == "down"
    for server in servers:
        cloud.evacuate(server)
    cloud.wait_active(servers, not_on=["hv1"])
    cloud.assert_agrees(servers)
    assert [row["status"] for row in cloud.migrations(source_compute="hv1")] == ["done", "done"]
    assert all(len(cloud.evacuate_actions(server)) == 1 for server in servers)


@case(limit=300, needs_product=False, soak=True)
def a_returning_compute_destroys_its_stale_copy_while_forced_down(lab: CloudLab):
    """Its agent dies, the host lives on: what no fence stood before."""
    cloud, lab.violations_meant = lab.cloud, True
    server = cloud.boot(1, host="hv1")[0]
    cloud.compute("hv1").kill()
    cloud.force_down("hv1")
    cloud.evacuate(server, host="hv2")
    cloud.wait_active([server], not_on=["hv1"])
    assert lab.oracle.running(server.uuid) == ["hv1", "hv2"], "without a fence there are two"
    wait_until(lab.oracle.violations, 10, "the oracle sees both")
    assert "Unable to force up" in refused(cloud.force_down, "hv1", False)
    cloud.compute("hv1").start()
    wait_until(lambda: lab.oracle.running(server.uuid) == ["hv2"], 60, "the stale copy is destroyed")
    assert cloud.service("hv1")["forced_down"], "while the host is still forced down"
    assert lab.host("hv1").exec(["virsh", "-q", "domstate", server.uuid], check=False).returncode != 0
    cloud.force_up("hv1")
    assert [row["status"] for row in cloud.migrations()] == ["completed"]
    assert server.stamps_now(), "its disk is shared and was not deleted"


@case(limit=300, needs_product=False, soak=True)
def a_local_root_is_rebuilt_empty_and_the_original_is_deleted_on_return(lab: CloudLab):
    """The loss that medevac has to prevent: nobody asks, nobody is told."""
    cloud = lab.cloud
    local, remote = cloud.boot(1, host="hv1", root="local", name="local")[0], cloud.boot(1, host="hv1")[0]
    lay_data(lab, [local, remote])
    host = lab.host("hv1")
    host.crash()
    cloud.force_down(host)
    for server in (local, remote):
        cloud.evacuate(server)
    moved = {row["id"]: row["OS-EXT-SRV-ATTR:host"] for row in cloud.wait_active([local, remote], not_on=[host])}
    elsewhere = cloud.compute(moved[local.uuid]).local_disk(local)
    assert elsewhere.exists() and not has_data(elsewhere), "Nova says ACTIVE, over an empty disk"
    assert has_data(remote.disk_path) and has_data(local.disk_path), "the original is still at home"
    host.boot()
    cloud.compute(host).wait_ready()
    wait_until(lambda: not local.disk_path.exists(), 30, "the returning host deletes the only copy")
    assert has_data(remote.disk_path), "a disk on the network is left alone"
    cloud.assert_agrees([local, remote])


@case(limit=300, needs_product=False, soak=True)
def a_host_that_resumes_its_guests_starts_what_was_not_evacuated(lab: CloudLab):
    cloud = lab.cloud
    cloud.configure(resume_guests_state_on_host_boot=True)
    moved, left = cloud.boot(2, host="hv1")
    lab.host("hv1").crash()
    cloud.force_down("hv1")
    cloud.evacuate(moved, host="hv2")
    cloud.wait_active([moved], not_on=["hv1"])
    lab.host("hv1").boot()
    wait_until(lambda: lab.oracle.running(left.uuid) == ["hv1"], 90, "nova-compute starts what ran there")
    assert cloud.service("hv1")["forced_down"], "nobody asked whether it may"
    stays_true(lambda: lab.oracle.running(moved.uuid) == ["hv2"], 5, "what was evacuated is not resumed")
    cloud.force_up("hv1")
    cloud.assert_agrees([moved, left])


@case(limit=300, needs_product=False, soak=True)
def nova_hears_late_of_a_guest_that_died(lab: CloudLab):
    server = lab.cloud.boot(1, host="hv1")[0]
    lab.host("hv1").virsh("destroy", server.uuid)
    stays_true(lambda: is_active(server.show()), 11, "Nova says ACTIVE of a guest that is dead")
    lab.cloud.wait_server(server, lambda row: row["status"] == "SHUTOFF", "Nova hears of it", timeout=30)
    lab.cloud.action(server, "os-start")
    lab.cloud.wait_active([server])


@case(limit=300, needs_product=False, soak=True)
def a_guest_started_again_within_fifteen_seconds_stays_active(lab: CloudLab):
    server = lab.cloud.boot(1, host="hv1")[0]
    lab.host("hv1").virsh("destroy", server.uuid)
    stays_true(lambda: is_active(server.show()), 3, "Nova has not heard of it")
    lab.host("hv1").virsh("start", server.uuid)
    stays_true(lambda: is_active(server.show()), 17, "the stop that was undone is never told", every=1)
    lab.cloud.assert_agrees([server])


@case(limit=300, needs_product=False, soak=True)
def nova_has_no_guard_against_a_second_evacuation(lab: CloudLab):
    """Why an unanswered POST is never repeated: the server is broken, and runs twice."""
    cloud, lab.violations_meant = lab.cloud, True
    server = cloud.boot(1, host="hv1")[0]
    for host in ("hv2", "hv3"):
        cloud.compute(host).faults(spawn_delay=5)
    lab.host("hv1").crash()
    cloud.force_down("hv1")
    cloud.evacuate(server, host="hv2")
    cloud.wait_server(server, lambda row: row["OS-EXT-STS:task_state"] == "rebuild_spawning", "the first is under way")
    cloud.evacuate(server, host="hv3")
    cloud.wait_server(server, lambda row: row["OS-EXT-STS:vm_state"] == "error", "the server is broken", timeout=60)
    assert len(cloud.evacuate_actions(server)) == 2
    wait_until(lambda: lab.oracle.running(server.uuid) == ["hv2", "hv3"], 30, "both targets have started it")


@case(limit=300, needs_product=False, soak=True)
def an_evacuation_whose_target_cannot_start_it_fails_alone(lab: CloudLab):
    cloud = lab.cloud
    servers = cloud.boot(2, host="hv1")
    cloud.compute("hv2").faults(spawn_error="no room under this roof")
    lab.host("hv1").crash()
    cloud.force_down("hv1")
    cloud.evacuate(servers[0], host="hv2")
    cloud.evacuate(servers[1], host="hv3")
    cloud.wait_active(servers[1:], not_on=["hv1"])
    cloud.wait_server(servers[0], lambda row: row["status"] == "ERROR", "Nova gives up on the first")
    assert [row["status"] for row in cloud.migrations(instance_uuid=servers[0].uuid)] == ["failed"]


@case(limit=300, needs_product=False, soak=True)
def a_host_cut_from_the_management_plane_is_down_to_nova_and_its_servers_run(lab: CloudLab):
    cloud = lab.cloud
    cloud.configure(**QUICK)
    cloud.restart_computes()
    server = cloud.boot(1, host="hv1")[0]
    lab.cut("hv1", "mgmt")
    cloud.wait_service("hv1", state="down", timeout=30)
    assert lab.oracle.running(server.uuid) == ["hv1"] and server.stamps_now()
    lab.heal("hv1")
    cloud.wait_service("hv1", state="up", timeout=60)
